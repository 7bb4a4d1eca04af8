"""The walk back: gradients from outputs to leaves. Floor 2.

A node's inputs are always older than the node, so going from the youngest node to the oldest visits each only when
all its gradients have come in. No topological sort is needed: the next node is carried in a variable, and a heap keeps
those that wait where the graph forks.
"""

from __future__ import annotations

import heapq
from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.modes import mode, set_mode
from tensorlite.autograd.node import Leaf, Node, Pick, extra_of, last_write
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, channels_last, contiguous_format
from tensorlite.autograd.tensor import Tensor, alias, current_node, lies, wrap
from tensorlite.errors import DTypeError, GradError, ShapeError


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of ``tensors`` to ``.grad`` of the leaves they were made from, or of ``inputs`` alone.

    ``grad_tensors`` are what to start from, one for each tensor; they may be left out for tensors of one element.
    """
    roots = _sequence(tensors)
    starts = [None] * len(roots) if grad_tensors is None else _sequence(grad_tensors)
    targets = None
    if inputs is not None:
        targets = _sequence(inputs)
        if not targets:
            raise GradError("backward: inputs is empty; wanted at least one tensor")
    if len(roots) != len(starts):
        raise GradError(f"backward: {len(roots)} tensors and {len(starts)} gradients; wanted one for each")
    found = _walk(roots, starts, create_graph if retain_graph is None else retain_graph, create_graph, targets)
    if targets is not None:
        for t, g in zip(targets, found):
            node = current_node(t)
            if g is not None:
                if isinstance(node, Leaf):
                    _accumulate(node, g, False, create_graph)
                else:
                    extra = extra_of(node)
                    extra.retained = g.clone() if extra.retained is None else extra.retained + g


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple:
    """The gradients of the sum of ``outputs`` with respect to ``inputs``, returned; no ``.grad`` changes.

    >>> import tensorlite as tl
    >>> x = tl.tensor(3.0, requires_grad=True)
    >>> tl.autograd.grad(x * x, x)
    (tensor(6.),)
    """
    if is_grads_batched:
        raise NotImplementedError("grad: is_grads_batched=True is not supported; call grad once a vector")
    roots, targets = _sequence(outputs), _sequence(inputs)
    if not targets:
        raise ValueError("grad: inputs is empty; wanted at least one tensor")
    starts = [None] * len(roots) if grad_outputs is None else _sequence(grad_outputs)
    if len(roots) != len(starts):
        raise GradError(f"grad: {len(roots)} outputs and {len(starts)} grad_outputs; wanted one for each")
    for k, t in enumerate(targets):
        if current_node(t) is None:
            raise GradError(
                f"grad: input {k} does not require grad (one of the differentiated Tensors does not require grad)"
            )
    found = _walk(roots, starts, create_graph if retain_graph is None else retain_graph, create_graph, targets)
    if materialize_grads:
        found = [t.new_zeros(t.shape) if g is None else g for t, g in zip(targets, found)]
    elif not allow_unused and any(g is None for g in found):
        k = next(k for k, g in enumerate(found) if g is None)
        raise GradError(
            f"grad: one of the differentiated Tensors (input {k}) appears to not have been used in the graph. "
            "Set allow_unused=True if this is the desired behavior."
        )
    return tuple(found)


def _sequence(given: Any) -> list:
    return [given] if isinstance(given, Tensor) or given is None else list(given)


def _start(root: Tensor, g: Tensor | None, create_graph: bool) -> Tensor:
    """The gradient to begin with, checked."""
    spec = root._spec
    if g is None:
        if spec.size != 1:
            raise GradError(f"backward: grad can be implicitly created only for scalar outputs; got shape {spec.shape}")
        return root.new_ones(spec.shape)
    if not isinstance(g, Tensor):
        raise TypeError(f"backward: gradients can be either Tensors or None, but got {type(g).__name__}")
    if g._spec.shape != spec.shape:
        raise ShapeError(
            f"backward: mismatch in shape: grad_output has a shape of {g._spec.shape} and output has a "
            f"shape of {spec.shape}"
        )
    if g._spec.dtype is not spec.dtype:
        if not g._spec.dtype.is_floating_point:
            raise DTypeError(f"backward: gradient is {g._spec.dtype}; wanted {spec.dtype}")
        g = g.to(spec.dtype)
    return g if create_graph else alias(g)


def _walk(roots: list, starts: list, keep: bool, create_graph: bool, targets: list | None) -> list:
    """Go back from ``roots``. Without ``targets`` leaves accumulate; with them, their gradients are returned."""
    if not keep:
        recording.walked()
    before = mode()
    # a backward runs in the dtypes of its forward, wherever it is called
    set_mode(before._replace(grad=create_graph, inference=False, autocast=None))
    try:
        waiting: dict[Any, Any] = {}  # node -> its gradient so far (for nodes of several outputs: a list)
        owned: set = set()  # nodes whose waiting gradient is a sum made here, and may be added to in place
        heap: list = []
        leaves: dict[Leaf, Any] = {}
        for root, start in zip(roots, starts):
            node = current_node(root)
            if node is None:
                raise GradError("backward: element 0 of tensors does not require grad and does not have a grad_fn")
            _deliver(node, _start(root, start, create_graph), waiting, owned, heap, leaves, create_graph)
        if targets is None:
            _descend(waiting, owned, heap, leaves, keep, create_graph, None, None)
            for leaf, g in leaves.items():
                _accumulate(leaf, g, leaf in owned, create_graph)
            return []
        wanted: dict[Any, Any] = {current_node(t): None for t in targets}
        allowed = _leading_to(wanted, list(waiting) + list(leaves))
        _descend(waiting, owned, heap, leaves, keep, create_graph, wanted, allowed)
        for leaf in leaves:
            if leaf in wanted:
                wanted[leaf] = _hooked(leaf, leaves[leaf])
        return [_returned(wanted[current_node(t)], create_graph) for t in targets]
    finally:
        set_mode(before)


def between(tops: list, grads: list, ends: tuple) -> list:
    """The gradients that come to the nodes ``ends`` from ``tops``; nothing beyond is visited, nothing is freed.

    A top or gradient that is None brings nothing. ``create_graph`` is as the mode says.
    """
    waiting: dict[Any, Any] = {}
    heap: list = []
    leaves: dict[Leaf, Any] = {}
    owned: set = set()
    create_graph = mode().grad
    for node, g in zip(tops, grads):
        if node is not None and g is not None:
            _deliver(node, g, waiting, owned, heap, leaves, create_graph)
    wanted: dict[Any, Any] = dict.fromkeys(ends)
    _descend(waiting, owned, heap, leaves, True, create_graph, wanted, None, stop=True)
    return [leaves.get(e) if e.__class__ is Leaf else wanted[e] for e in ends]


def _returned(g: Any, create_graph: bool) -> Any:
    return g if g is None or create_graph else alias(g) if g._node is not None else g


def _deliver(node: Any, g: Tensor, waiting: dict, owned: set, heap: list, leaves: dict, create_graph: bool) -> None:
    """Add ``g`` to what waits for ``node``. The first gradient is borrowed, the second makes a sum that is ours."""
    into = leaves if node.__class__ is Leaf else waiting
    have = into.get(node)
    if have is None:
        into[node] = g
        if into is waiting:
            heapq.heappush(heap, (-node.seq, node))
    elif node in owned and not create_graph:
        have._accumulate(g)
    else:
        into[node] = have + g
        if not create_graph:
            owned.add(node)


def _descend(
    waiting: dict,
    owned: set,
    heap: list,
    leaves: dict,
    keep: bool,
    create_graph: bool,
    wanted: dict | None,
    allowed: set | None,
    stop: bool = False,
) -> None:
    """Visit the waiting nodes and all below them, youngest first; ``stop``: those wanted are the end of the way."""
    node = g = None
    while True:
        if node is None:
            if not heap:
                return
            node = heapq.heappop(heap)[1]
            g = waiting.pop(node)
            owned.discard(node)
        if stop and node in wanted:
            wanted[node], node = g, None
            continue
        if node.extra is not None:
            g = _hooked(node, g)
        if wanted is not None and node in wanted:
            wanted[node] = g
        if node.__class__ is Pick:  # one output of several: the node waits for the others
            whole = node.parents[0]
            if allowed is None or whole in allowed:
                slots = waiting.get(whole)
                if slots is None:
                    slots = waiting[whole] = [None] * len(whole.plan.outs)
                    heapq.heappush(heap, (-whole.seq, whole))
                slots[node.output] = g
            node = None
            continue
        saved = node.saved
        if saved is None:
            raise GradError(
                f"{node.name()}: trying to backward through the graph a second time (or directly access saved tensors "
                "after they have already been freed). Specify retain_graph=True if you need to backward twice."
            )
        if node.seq < last_write[0] and saved:
            check_fresh(node)
        plan = node.plan
        if node.extra is not None and node.extra.trace is not None:
            grads = node.extra.trace.back(plan.back if create_graph else plan.fast, g, node)
        elif create_graph:
            grads = plan.back(g, node)
        else:
            grads = plan.fast(g, node)
        if saved and not keep:
            node.saved = None
        if plan.sums is not None:
            grads = _sum_to(grads, plan)
        parents = node.parents
        if plan.single:
            if grads is None:
                node = None
                continue
            parent = parents[0]
            if allowed is not None and parent not in allowed:
                node = None
            elif parent.__class__ is Leaf:
                if grads is not g and plan.fresh and grads._arr.base is None and parent not in leaves:
                    owned.add(parent)  # made by the rule for this leaf alone: the leaf may keep it
                    leaves[parent] = grads
                else:
                    _deliver(parent, grads, waiting, owned, heap, leaves, create_graph)
                node = None
            elif parent in waiting or (heap and -heap[0][0] > parent.seq):
                _deliver(parent, grads, waiting, owned, heap, leaves, create_graph)
                node = None
            else:
                node, g = parent, grads
        else:
            follow = follow_g = None  # the first parent that is a node is carried on, unless a younger one waits
            for parent, grad_ in zip(parents, grads):
                if grad_ is None or (allowed is not None and parent not in allowed):
                    continue
                if parent.__class__ is Leaf:
                    have = leaves.get(parent)
                    if have is None:
                        if plan.fresh and grad_ is not g and grad_._arr.base is None:
                            if sum(grad_ is other for other in grads) == 1:
                                owned.add(parent)
                        leaves[parent] = grad_
                    elif parent in owned and not create_graph:
                        have._accumulate(grad_)
                    else:
                        _deliver(parent, grad_, waiting, owned, heap, leaves, create_graph)
                elif follow is None and parent not in waiting:
                    follow, follow_g = parent, grad_
                else:
                    if parent is follow:
                        _deliver(follow, follow_g, waiting, owned, heap, leaves, create_graph)
                        follow = None
                    _deliver(parent, grad_, waiting, owned, heap, leaves, create_graph)
            if follow is not None and heap and -heap[0][0] > follow.seq:
                _deliver(follow, follow_g, waiting, owned, heap, leaves, create_graph)
                follow = None
            node, g = follow, follow_g


def _sum_to(grads: Any, plan: Any) -> Any:
    """Gradients of broadcast inputs, summed to the inputs' shapes."""
    if plan.single:
        return grads.sum_to_size(plan.sums[0])
    return tuple(g if s is None or g is None else g.sum_to_size(s) for g, s in zip(grads, plan.sums))


def check_fresh(node: Node) -> None:
    """Refuse to go on where a value that the node saved was written to since."""
    items = iter(node.saved)
    for item in items:
        cell = None
        if isinstance(item, Tensor):
            cell = item._ver
        elif item is not None and not isinstance(item, (tuple, int, float, bool, str)):
            cell = next(items)  # an output: array, version cell
        if cell is not None and cell[0] > node.seq:
            raise GradError(
                f"{node.name()}: one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: a saved tensor is at version {cell[1]}, written after the op ran. Hint: clone() it first, "
                "or use the out-of-place operation."
            )


def _hooked(node: Any, g: Any) -> Any:
    """Run a node's hooks on its complete gradient, and keep the gradient where that was asked for."""
    extra = node.extra
    if extra is None:
        return g
    for hook in list(extra.hooks.values()):
        changed = hook(g)
        if changed is not None:
            if not isinstance(changed, Tensor):
                raise TypeError(f"hook: returned {type(changed).__name__}; wanted a Tensor or None")
            g = changed
    if extra.retains and isinstance(g, Tensor):
        extra.retained = g.clone()
    return g


def _accumulate(leaf: Leaf, g: Tensor, own: bool, create_graph: bool) -> None:
    """``leaf.grad += g``. What ``.grad`` holds is never borrowed, a view, or expanded."""
    hooked = leaf.extra is not None and leaf.extra.hooks
    if hooked:
        g = _hooked(leaf, g)
    have = leaf.grad
    if have is None:
        own = own and not hooked and not create_graph
        if own and g._spec.format is CONTIGUOUS and g._spec.ndim != 4:
            leaf.grad = g
        else:
            leaf.grad = _settled(leaf, g, own)
        if not create_graph and leaf.grad._node is not None:
            leaf.grad = alias(leaf.grad)
    elif create_graph:
        leaf.grad = have + g
    else:
        have.add_(g)  # an effect that a user sees: it counts as a write
    if leaf.extra is not None and leaf.extra.after:
        tensor = leaf.tensor()
        if tensor is not None:
            for hook in list(leaf.extra.after.values()):
                hook(tensor)


def _settled(leaf: Leaf, g: Tensor, own: bool) -> Tensor:
    """``g`` for ``.grad``: laid out as the leaf is where that has a format, so that an optimizer walks both alike."""
    tensor = leaf.tensor()
    format = CONTIGUOUS if tensor is None else tensor._spec.format
    if format is STRIDED:
        return g if own else g.clone()
    if g._spec.format is format:
        return g if own else g.clone()
    if own and lies(g, format):
        return wrap(g._arr, g._spec.laid(format))
    return g.clone(memory_format=channels_last if format is CHANNELS_LAST else contiguous_format)


def _leading_to(wanted: dict, tops: list) -> set:
    """The nodes from which a wanted node can be reached, found without recursion."""
    reach: dict[Any, bool] = {}
    stack = [(n, False) for n in tops]
    while stack:
        node, done = stack.pop()
        parents = () if node.__class__ is Leaf else node.parents
        if done:
            reach[node] = node in wanted or any(reach.get(p, False) for p in parents)
        elif node not in reach:
            reach[node] = False
            stack.append((node, True))
            stack.extend((p, False) for p in parents if p not in reach)
    return {n for n, leads in reach.items() if leads}
