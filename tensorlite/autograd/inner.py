"""Much that was recorded, made one node: what a loop over a user's function leaves on the tape. Floor 2.

The nodes themselves stay, behind the one that stands for them, until a backward frees it: this saves no memory, but
what is outside sees one op, and its gradients are those of the nodes inside. They stay tied to what they were made
from, so a gradient with ``create_graph`` can be differentiated again.
"""

from __future__ import annotations

from typing import Any

from tensorlite.autograd import run as running
from tensorlite.autograd.general import attach, node_name
from tensorlite.autograd.node import Leaf, Node, tick
from tensorlite.autograd.op import Plan
from tensorlite.autograd.tape import between
from tensorlite.autograd.tensor import Tensor, alias, current_node, new


class _InnerOp:
    """What the tape asks of an op."""

    def __init__(self, name: str, multiple: bool, silent: tuple):
        self.name, self.multiple, self.silent_outputs = name, multiple, silent


def collapse(name: str, outputs: list[Tensor], since: int) -> list[Tensor]:
    """``outputs`` with one node for all that was recorded after the tick ``since`` and led to them.

    Its inputs are whatever older tensors that want a gradient were used on the way, named as arguments or not.
    """
    tops = [current_node(t) for t in outputs]
    ends = ends_of([n for n in tops if n is not None], since)
    if not ends:
        return outputs
    made = [alias(t) for t in outputs]
    silent = tuple(k for k, n in enumerate(tops) if n is None)
    node, p = new(Node), Plan()
    p.op, p.name, p.kw, p.specs = _InnerOp(name, len(made) > 1, silent), node_name(name), {}, ()
    p.outs, p.sums, p.single, p.fresh = tuple(t._spec for t in made), None, len(ends) == 1, False
    p.out, p.back, p.fast = p.outs[0], _back, _back
    node.parents, node.plan, node.seq = ends, p, tick()
    node.saved = (tuple(tops),)  # not in the plan: it goes when a backward frees the node
    node.extra = None if running.trace is None else running.trace()
    attach(node, made)
    return made


def _back(g: Any, node: Node) -> Any:
    (tops,) = node.saved
    grads = between(list(tops), g if isinstance(g, list) else [g], node.parents)
    return grads[0] if node.plan.single else tuple(grads)


def ends_of(tops: list, since: int = 0) -> tuple:
    """The nodes older than ``since``, and leaves, where the ways down from ``tops`` leave what was recorded."""
    ends: dict[Any, None] = {}
    seen = set(tops)
    stack = list(tops)
    while stack:
        node = stack.pop()
        if node.__class__ is Leaf or node.seq <= since:
            ends[node] = None
            continue
        for p in node.parents:
            if p not in seen:
                seen.add(p)
                stack.append(p)
    return tuple(ends)
