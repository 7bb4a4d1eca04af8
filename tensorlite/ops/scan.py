"""``scan``: a user's own recurrent cell over a sequence, as one node of the tape. Floor 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.autograd.inner import collapse
from tensorlite.autograd.node import tick
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.join import stack


def scan(cell: Callable, xs: Any, state: Any) -> tuple[Any, Any]:
    """Run ``cell`` over the first dimension of ``xs``: (outputs of all steps stacked, final state).

    ``cell(x, state) -> (y, new_state)`` is a function or a Module, with ``x`` one step of ``xs``. A cell that gives its
    new state alone, as ``nn.LSTMCell`` does, is wrapped: see the example.

    Args:
        xs: a tensor (T, ...), T at least 1, or a tuple, list or dict of such.
        state: what the first step begins with: a tensor, or tensors in tuples, lists and dicts. ``new_state`` has its
            structure, shapes and dtypes. ``y`` may be built the same way, or be None.

    Gradients go to xs, to state, and to all that the cell uses besides: its parameters, tensors of the code around it.
    They can be differentiated again. Memory is that of a loop: what each step saved is kept until backward, and
    nothing where no gradient is wanted. A tensor that the cell hands out by another way than its result is no input of
    the outputs' gradients.

    Errors: TypeError or ShapeError where steps or states do not fit together.

    >>> import tensorlite as tl
    >>> total, last = tl.scan(lambda x, s: (s + x, s + x), tl.tensor([1.0, 2.0, 3.0]), tl.tensor(0.0))
    >>> total, last
    (tensor([1., 3., 6.]), tensor(6.))
    >>> lstm = tl.nn.LSTMCell(4, 8)
    >>> def step(x, state):
    ...     h, c = lstm(x, state)
    ...     return h, (h, c)
    >>> ys, (h, c) = tl.scan(step, tl.randn(5, 2, 4), (tl.zeros(2, 8), tl.zeros(2, 8)))
    >>> ys.shape
    tensorlite.Size([5, 2, 8])
    """
    sequences = _leaves(xs, "xs")
    lengths = {s._spec.shape[0] if s._spec.ndim else None for s in sequences}
    if len(lengths) != 1 or not all(lengths):
        raise ShapeError(
            f"scan: xs {[s._spec.shape for s in sequences]}; wanted tensors of one length in their first dimension, at "
            "least 1"
        )
    given = _leaves(state, "state")
    since = tick()
    rows: list[list[Tensor]] = []
    form = None
    for step in zip(*(s.unbind(0) for s in sequences)):
        result = cell(_filled(xs, iter(step)), state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"scan: the cell returned {_form(result)}; wanted a tuple (output, new state)")
        y, new = result
        if _form(new) != _form(state):
            raise TypeError(
                f"scan: the cell returned a state of {_form(new)}; wanted {_form(state)}, as given. A cell that "
                "returns its state alone must be wrapped in one that returns (output, new state)"
            )
        for a, b in zip(_leaves(new, "state"), given):
            if a._spec.shape != b._spec.shape or a._spec.dtype is not b._spec.dtype:
                raise ShapeError(f"scan: the cell returned a state of {a._spec}; wanted {b._spec}, as given")
        if form is not None and _form(y) != form:
            raise TypeError(f"scan: the cell returned an output of {_form(y)}; wanted {form}, as at the first step")
        state, form = new, _form(y)
        rows.append(_leaves(y, "output"))
    outputs = [stack(column) for column in zip(*rows)]
    made = iter(collapse("scan", [*outputs, *_leaves(state, "state")], since))
    return _filled(y, made), _filled(state, made)


def _leaves(tree: Any, what: str) -> list[Tensor]:
    """The tensors in a nest of tuples, lists and dicts; None stands for no tensor."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return [t for part in tree for t in _leaves(part, what)]
    if tree is None and what == "output":
        return []
    raise TypeError(f"scan: {what} has a {type(tree).__name__}; wanted tensors, or tuples, lists or dicts of them")


def _filled(tree: Any, tensors: Any) -> Any:
    """The same nest with other tensors."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if isinstance(tree, dict):
        return type(tree)((k, _filled(v, tensors)) for k, v in tree.items())
    if isinstance(tree, (tuple, list)):
        parts = [_filled(part, tensors) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def _form(tree: Any) -> str:
    """How a nest is built, for comparison and messages."""
    if isinstance(tree, Tensor):
        return "Tensor"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{k!r}: {_form(v)}" for k, v in tree.items()) + "}"
    if isinstance(tree, (tuple, list)):
        return f"{type(tree).__name__}({', '.join(map(_form, tree))})"
    return type(tree).__name__
