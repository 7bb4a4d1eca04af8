"""Views, and what a write in place does to history. Floor 2.

A view keeps its parent and the entry that made it. A write to shared storage stamps the version cell that base and
views share; whoever is asked for its node later and finds an older stamp makes its node anew from its parent's.
A write to a view gives the base a node that says "the base, with this part overwritten".
"""

from __future__ import annotations

from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.modes import Mode, mode
from tensorlite.autograd.node import Leaf, Node, last_write, tick
from tensorlite.autograd.spec import CONTIGUOUS, STRIDED
from tensorlite.autograd.tensor import Tensor, alias, current_node, new, wrap
from tensorlite.dtypes import can_cast
from tensorlite.errors import DTypeError, GradError, ShapeError

MULTIPLE = Mode(grad=True, inference=True)  # the ``made`` of an output of split or unbind


_REBASED = {
    "several": "a view that is the output of a function that returns multiple views (unbind, split) is used after its "
    "base or another view of its base has been modified inplace. Such functions do not allow the output views to be "
    "modified inplace. Use out-of-place operations instead.",
    "no_grad": "a view was created in no_grad mode and its base or another view of its base has been modified inplace "
    "with grad mode enabled. This is forbidden, as its gradient would be ambiguous.",
}


class View:
    """How a view came to be. ``stamp``: the version its node is good for. ``made``: the mode it was made in."""

    __slots__ = ("entry", "made", "parent", "stamp")

    parent: Tensor
    entry: Any  # of a view op with one input and one output
    stamp: int
    made: Mode

    @staticmethod
    def make(array: Any, spec: Any, parent: Tensor, entry: Any, made: Mode) -> Tensor:
        x = wrap(array, spec, None, parent._ver)
        x._view = v = new(View)
        v.parent, v.entry, v.stamp, v.made = parent, entry, parent._ver[0], made
        return x

    def fresh(self, x: Tensor) -> None:
        """Make the node of ``x`` anew, and first those of the views it derives from (a loop: chains may be long)."""
        stale = [x]
        while (up := stale[-1]._view.parent)._view is not None and up._view.stamp < up._ver[0]:
            stale.append(up)
        for t in reversed(stale):
            v = t._view
            node = v.parent._node
            if not isinstance(t._node, Leaf):
                if node is not None and (v.made is MULTIPLE or not v.made.grad):
                    if not mode().grad:
                        return  # nobody asks for history here; whoever does later is told
                    raise GradError(_REBASED["several" if v.made is MULTIPLE else "no_grad"])
                t._node = None if node is None else v.entry.op.record(v.entry, (v.parent,), [node], [t])
            v.stamp = t._ver[0]

    def path(self) -> tuple[Tensor, tuple]:
        """The base, and the entries that lead from it to the view, first to last."""
        entries, view = [self.entry], self
        while view.parent._view is not None:
            view = view.parent._view
            entries.append(view.entry)
        return view.parent, tuple(reversed(entries))


def touch(*written: Tensor) -> None:
    """Note that the storage of these tensors was written."""
    last_write[0] = now = tick()
    for x in written:
        ver = x._ver
        ver[0] = now
        ver[1] += 1


def overlaps_itself(x: Tensor) -> bool:
    if x._spec.format is not STRIDED:
        return False
    return any(n > 1 and s == 0 for n, s in zip(x._spec.shape, x._arr.strides)) and x._spec.size > 0


def check_inplace(x: Tensor, op: str, operands_want: bool = False) -> None:
    """Refuse what PyTorch refuses: writes to leaves, to expanded tensors, to views that no history can follow."""
    if overlaps_itself(x):
        raise GradError(
            f"{op}: unsupported operation: more than one element of the written-to tensor refers to a single memory "
            "location. Please clone() the tensor before performing the operation."
        )
    if not mode().grad:
        return
    node = current_node(x)
    if isinstance(node, Leaf):
        raise GradError(f"{op}: a leaf Variable that requires grad is being used in an in-place operation.")
    view = x._view
    if view is None:
        return
    base_node = current_node(view.path()[0])
    if node is None and base_node is None and not operands_want:
        return
    while view is not None:  # what holds for a view holds for views of it
        if view.made is MULTIPLE:
            raise GradError(
                f"{op}: this view is the output of a function that returns multiple views. Such functions do not allow "
                "the output views to be modified inplace. Use an out-of-place operation instead."
            )
        if not view.made.grad:
            raise GradError(
                f"{op}: a view was created in no_grad mode and is being modified inplace with grad mode enabled. "
                "This is forbidden, as its gradient would be ambiguous."
            )
        view = view.parent._view
    if isinstance(base_node, Leaf):
        raise GradError(f"{op}: a view of a leaf Variable that requires grad is being used in an in-place operation.")


def rebase(x: Tensor, node: Any) -> None:
    """After a write to ``x`` whose new value has the history ``node``: give it to ``x``, or to the base it views.

    The storage is stamped already. Under ``no_grad`` histories stay as they were.
    """
    if not mode().grad:
        return
    view = x._view
    if view is None:
        x._node = node
        return
    base, path = view.path()
    old = base._node
    if old is None and node is None:
        return
    overwrite = Tensor._overwrite.op  # type: ignore[attr-defined]
    before, after = alias(base, old), wrap(x._arr, x._spec, node)
    entry = overwrite.entry((base._spec, x._spec), {"path": path})
    base._node = overwrite.record(entry, (before, after), [old, node], [base])


def assign(x: Tensor, y: Tensor, op: str) -> Tensor:
    """Write ``y``, made out of place from the old ``x``, into the storage of ``x``."""
    node = current_node(y)
    if y._spec.shape != x._spec.shape:
        raise ShapeError(
            f"{op}: output with shape {list(x._spec.shape)} doesn't match the broadcast shape {list(y._spec.shape)}"
        )
    if y._spec.dtype is not x._spec.dtype:
        if not can_cast(y._spec.dtype, x._spec.dtype):
            raise DTypeError(
                f"{op}: result type {y._spec.dtype.name} can't be cast to the desired output type {x._spec.dtype.name}"
            )
        y = y.to(x._spec.dtype)
        node = current_node(y)
    check_inplace(x, op, node is not None)
    recording.write(x._arr, y._arr)
    touch(x)
    if node is not None and node.__class__ is Node and any(v is y._arr for v in node.saved or ()):
        # the op saved its output, which is x from now on: a later write to x makes that stale, as in PyTorch. Where x
        # is strided the array stays the op's own, since its plan speaks of a contiguous one.
        array = x._arr if x._spec is y._spec else y._arr
        node.saved = tuple([array if v is y._arr else x._ver if v is y._ver else v for v in node.saved])
        node.seq = tick()
    rebase(x, node)
    return x


def previous(x: Tensor) -> Tensor:
    """``x`` as it is before a write in place: its own copy where a gradient rule may ask for the old values."""
    node = current_node(x)
    if not mode().grad:
        return alias(x)
    if x._spec.format is STRIDED:
        return wrap(recording.copied(x._arr), x._spec.laid(CONTIGUOUS), node)
    return wrap(recording.copied(x._arr, "K"), x._spec, node)


def inplace(op: str, x: Tensor, compute: Any) -> Tensor:
    """``x.op_(...)``: ``compute(old x)`` gives the new value, out of place; its history becomes that of ``x``."""
    check_inplace(x, op)
    return assign(x, compute(previous(x)), op)
