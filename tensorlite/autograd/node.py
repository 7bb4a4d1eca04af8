"""What the tape is made of: nodes that remember an op, leaves that collect gradients. Floor 2.

Whatever has a node wants a gradient: ``Tensor.requires_grad`` is ``node is not None``. One global counter numbers
nodes and stamps writes, so "was this saved value changed since?" is one comparison (``stamp > node.seq``).
"""

import itertools
import weakref
from typing import Any

from tensorlite.autograd import recording

tick = itertools.count(1).__next__
last_write = [0]  # the newest stamp of all writes in place: younger nodes need no check of what they saved


class Extra:
    """What few nodes carry: hooks, a gradient to retain, where the op was called."""

    __slots__ = ("after", "hooks", "retained", "retains", "trace")

    def __init__(self):
        self.hooks: dict = {}  # handle id -> hook of the gradient, run when it is complete
        self.after: dict = {}  # on leaves: hooks of the tensor, run once .grad is accumulated
        self.retains = False
        self.retained: Any = None
        self.trace: Any = None


class Leaf:
    """The end of the tape: a tensor that the user made and wants the gradient of."""

    __slots__ = ("__weakref__", "extra", "grad", "tensor")
    seq = 0  # older than every node
    output = 0

    def __init__(self, tensor: Any):
        self.grad: Any = None
        self.extra: Extra | None = None
        self.tensor = weakref.ref(tensor)

    def name(self) -> str:
        return "AccumulateGrad"

    next_functions: tuple = ()


class Node:
    """One op that ran: how to go back (``plan``), to whom (``parents``), with what (``saved``).

    ``parents`` holds only the nodes that want a gradient, in the order of the op's inputs. ``saved`` holds what their
    rules name: input Tensors as they are, outputs as (array, version cell), since the output Tensor itself would close
    a reference cycle. (An input Tensor can close one only by an in-place write that makes the saved value stale, and
    then backward refuses the graph anyway.)
    """

    __slots__ = ("__weakref__", "extra", "parents", "plan", "saved", "seq")

    plan: Any
    seq: int
    parents: tuple
    saved: Any
    extra: Extra | None
    output = 0

    def name(self) -> str:
        return self.plan.name

    @property
    def next_functions(self) -> tuple:
        return tuple((p, p.output) for p in self.parents)

    def register_hook(self, hook) -> "Handle":
        """``hook(grads)`` runs with the gradient of this node's output."""
        return Handle(extra_of(self).hooks, lambda g: hook((g,)) and hook((g,))[0])

    def __repr__(self) -> str:
        return f"<{self.name()} at {id(self):#x}>"


class Pick:
    """One output of a node that has several: ``parents`` is that one node."""

    __slots__ = ("__weakref__", "extra", "output", "parents", "seq")

    def __init__(self, node: Node, output: int):
        self.parents, self.output = (node,), output
        self.seq, self.extra = tick(), None

    def name(self) -> str:
        return self.parents[0].name()

    next_functions = Node.next_functions
    register_hook = Node.register_hook
    __repr__ = Node.__repr__


class Handle:
    """Takes a hook away again: ``handle.remove()``, or leave its ``with`` block."""

    _ids = itertools.count()

    def __init__(self, hooks: dict, hook):
        self.id = next(Handle._ids)
        self._hooks = hooks
        hooks[self.id] = hook
        recording.changed()

    def remove(self) -> None:
        self._hooks.pop(self.id, None)
        recording.changed()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *exc) -> None:
        self.remove()


def extra_of(node) -> Extra:
    if node.extra is None:
        node.extra = Extra()
    return node.extra
