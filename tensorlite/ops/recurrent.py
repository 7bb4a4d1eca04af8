"""What the recurrent layers share: which rows a step works on, checks, the way through a sequence. Floor 3.

A layer's op runs one direction over a whole sequence. Its data is padded, x (T, B, I) or, ``batch_first``, (B, T, I),
or packed: x (total, I) and ``sizes`` (T,), which says how many rows each step has; they never grow, and row b of a step
goes on as row b of the next. Either way rows of one step lie together, so both are one (rows, I) matrix and a list of
(first row, rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tape import between
from tensorlite.autograd.tensor import Tensor, current_node, from_array
from tensorlite.dtypes import int64
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.join import cat
from tensorlite.ops.linalg import linear
from tensorlite.ops.shape import expand, reshape, transpose

Walk = list[tuple[int, int]]


def walk_of(name: str, x: Any, batch: int, sizes: Any, reverse: bool) -> Walk:
    """(first row, rows) of each step, in the order in which the layer takes them. ``x`` and ``sizes``: arrays."""
    if sizes is None:
        walk = [(t * batch, batch) for t in range(x.shape[0])]
    else:
        counts = sizes.tolist()
        starts = np.cumsum([0, *counts]).tolist()
        falls = all(0 < b <= a for a, b in zip([batch, *counts], counts))
        if starts[-1] != x.shape[0] or counts[0] != batch or not falls:
            raise ShapeError(
                f"{name}: batch_sizes {counts} for x {x.shape} and {batch} rows of state; wanted sizes that begin with "
                "the rows of state, never grow, are not 0 and sum to the rows of x"
            )
        walk = list(zip(starts, counts))
    return walk[::-1] if reverse else walk


def earlier(xp: Any, states: Any, first: Any, walk: Walk) -> Any:
    """For each row of ``states`` (rows, H) the state that its step began with: the step's before it, or ``first``."""
    out = xp.empty_like(states)
    before, rows = first, first.shape[0]
    for start, n in walk:
        m = min(n, rows)  # backwards through packed rows, sequences join on the way
        out[start : start + m] = before[:m]
        out[start + m : start + n] = first[m:n]
        before, rows = states[start : start + n], n
    return out


def blocks(walk: Walk, width: int) -> Iterator[tuple[slice, Walk]]:
    """Runs of steps with all their rows, few enough that rows ``width`` wide stay in a cache while worked on."""
    run: Walk = []
    rows = 0
    for step in walk:
        if run and (rows + step[1]) * width > 1 << 16:
            yield slice(min(run)[0], min(run)[0] + rows), run
            run, rows = [], 0
        run.append(step)
        rows += step[1]
    yield slice(min(run)[0], min(run)[0] + rows), run


def batch_first_by_steps(
    plain: Callable, xp: Any, inputs: list, turned: tuple, outputs: list, back: tuple, **constants
):
    """``plain`` for data (B, T, ...): from and to copies (T, B, ...) of the arrays whose rows are those of x.

    ``turned`` and ``back`` say which of the inputs and outputs these are.
    """
    batch, steps = inputs[0].shape[:2]

    def turn(a: Any) -> Any:
        by_steps = xp.ascontiguousarray(a.reshape(batch, steps, a.shape[-1]).swapaxes(0, 1))
        return by_steps if a.ndim == 3 else by_steps.reshape(a.shape)

    inputs = [turn(a) if k in turned and a is not None else a for k, a in enumerate(inputs)]
    made = [turn(a) if k in back and a.ndim > 1 else a for k, a in enumerate(outputs)]
    plain(xp, *inputs, *made, batch_first=False, **constants)
    for k, (a, new) in enumerate(zip(outputs, made)):
        if k in back and a.ndim > 1:
            a[...] = new.reshape(steps, batch, a.shape[-1]).swapaxes(0, 1).reshape(a.shape)


# ---- around the compiled steps
def worth_packing(x: Spec, *more: Any, **constants: Any) -> bool:
    """Whether the rows that a layer has are enough to lay its weights out anew for them."""
    return math.prod(x.shape[:-1]) >= 4


def check_sizes(name: str, x: Any, batch: int, sizes: Any) -> None:
    """Refuse sizes of steps that do not fit, before compiled steps go by them."""
    if sizes is not None:
        walk_of(name, x, batch, sizes, False)


def dense(*arrays: Any) -> list:
    """The arrays with their elements in one run, as compiled kernels want them; what is left out stays so."""
    return [a if a is None or a.flags.c_contiguous else a.copy() for a in arrays]


def product_gradients(
    xp: Any, want: tuple, d: Any, x: Any, w_ih: Any, before: Any, out: Any, out_w_ih: Any, out_w_hh: Any, out_b: Any
) -> None:
    """From the gradients d of w_ih x + w_hh h + b those of x, w_ih, w_hh and b; ``before()`` gives h of all rows."""
    rows = d.shape[0]
    if want[0]:
        xp.matmul(d, w_ih, out=out.reshape(rows, x.shape[-1]))
    if want[1]:
        xp.matmul(d.T, x.reshape(rows, x.shape[-1]), out=out_w_ih)
    if want[2]:
        xp.matmul(d.T, before(), out=out_w_hh)
    if want[3]:
        xp.add.reduce(d, axis=0, out=out_b)


def start_at(state: Any, g: Any) -> None:
    """Make a buffer of gradients begin with ``g``, or with zeros where nothing came in."""
    state[...] = 0 if g is None else g


# ---- checks
def check_layer(
    name: str,
    gates: int,
    x: Spec,
    states: dict,
    w_ih: Spec,
    w_hh: Spec,
    more: dict,
    sizes: Spec | None,
    batch_first: bool,
) -> tuple[int, int]:
    """Refuse what does not fit together. Gives the rows of x in all, and the hidden size.

    ``states`` and ``more`` are (spec or None, wanted shape of it as a function of (batch, hidden, output size)).
    """
    given = [x, w_ih, w_hh, *(s for s, _ in (*states.values(), *more.values()) if s is not None)]
    same_float_dtype(name, given)
    ndim = 3 if sizes is None else 2
    if x.ndim != ndim:
        kind = "(rows, I) beside batch_sizes" if ndim == 2 else "(B, T, I)" if batch_first else "(T, B, I)"
        raise ShapeError(f"{name}: x {x.shape}; wanted {kind}")
    if sizes is not None and (sizes.ndim != 1 or sizes.dtype is not int64):
        raise ShapeError(f"{name}: batch_sizes {sizes}; wanted (T,) of int64")
    if sizes is not None and batch_first:
        raise ShapeError(f"{name}: batch_first beside batch_sizes; wanted one of them")
    steps = x.shape[batch_first] if sizes is None else sizes.shape[0]
    if not steps:
        raise ShapeError(f"{name}: x {x.shape}; expected sequence length to be larger than 0")
    if w_hh.ndim != 2 or w_hh.shape[0] % gates or not w_hh.shape[0]:
        raise ShapeError(f"{name}: w_hh {w_hh.shape}; wanted ({gates} * hidden, outputs)")
    hidden, output = w_hh.shape[0] // gates, w_hh.shape[1]
    if w_ih.shape != (gates * hidden, x.shape[-1]):
        raise ShapeError(f"{name}: w_ih {w_ih.shape} for x {x.shape}; wanted {(gates * hidden, x.shape[-1])}")
    first = next(iter(states.values()))[0]
    batch = x.shape[not batch_first] if sizes is None else first.shape[0] if first.ndim == 2 else 0
    for what, (spec, wanted) in (*states.items(), *more.items()):
        if spec is not None and spec.shape != wanted(batch, hidden, output):
            raise ShapeError(f"{name}: {what} {spec.shape}; wanted {wanted(batch, hidden, output)}")
    rows = x.shape[0] if sizes is not None else x.shape[0] * x.shape[1]
    return rows, hidden


def same_float_dtype(name: str, specs: Any) -> None:
    """Refuse specs of several dtypes, and integers."""
    kinds = {s.dtype for s in specs}
    if len(kinds) > 1 or not specs[0].dtype.is_floating_point:
        raise DTypeError(
            f"{name}: got {' and '.join(sorted(k.name for k in kinds))}; wanted one floating-point dtype (expected m1 "
            "and m2 to have the same dtype)"
        )


def in_wide(name: str, call: Callable, *tensors: Tensor | None) -> tuple:
    """``call(*tensors)``; half types go through float32, so that a sequence is rounded once and not at every step.

    On a GPU the kernels do so themselves.
    """
    kind = tensors[0].dtype  # type: ignore[union-attr]
    if not kind.is_half or tensors[0].device.type == "cuda":  # type: ignore[union-attr]
        return call(*tensors)
    same_float_dtype(name, [t._spec for t in tensors if t is not None])
    return tuple(y.to(kind) for y in call(*(None if t is None else t.float() for t in tensors)))


# ---- the same out of differentiable ops, for gradients of gradients
def compose(pre: Tensor, states: tuple, walk: Walk, step: Callable) -> tuple:
    """The outputs of all steps in order of rows, and the last states. ``step(pre, *states) -> (output, *states)``."""
    pieces = {}
    for start, n in walk:
        output, *new = step(pre[start : start + n], *(s[:n] for s in states))
        pieces[start] = output
        states = tuple(
            a if a._spec.shape[0] == s._spec.shape[0] else cat([a, s[n:]]) for a, s in zip(new, states, strict=True)
        )
    return (cat([pieces[k] for k in sorted(pieces)]), *states)


def gradients_of(forward: Callable, inputs: tuple, g: Any, want: tuple) -> tuple:
    """The gradients of ``forward(*inputs)``, a composite of ops, for the inputs wanted: differentiable themselves.

    Each input stands under a name of its own, so that one tensor given twice gets two gradients.
    """
    own = list(inputs)
    for k, t in enumerate(inputs):
        if want[k]:
            own[k] = expand(t, t._spec.shape)
            if not own[k].requires_grad:  # it did when the forward ran
                own[k].requires_grad_()
    ends = {k: current_node(own[k]) for k, w in enumerate(want) if w}
    found = between([current_node(y) for y in forward(*own)], g, tuple(ends.values()))
    grads = dict(zip(ends, found))
    return tuple(grads.get(k) for k in range(len(inputs)))


def composed(
    w_ih: Tensor, b_ih: Any, states: tuple, x: Tensor, sizes: Any, how: dict, name: str, step: Callable
) -> tuple:
    """The layer as a composite of ops: y and the last states. ``how``: whether reverse, whether batch_first."""
    if how["batch_first"]:
        x = transpose(x, 0, 1)
    shape = x._spec.shape
    rows = x if len(shape) == 2 else reshape(x, (shape[0] * shape[1], shape[2]))
    walk = walk_of(name, x._arr, states[0]._spec.shape[0], None if sizes is None else sizes._arr, how["reverse"])
    y, *last = compose(linear(rows, w_ih, b_ih), states, walk, step)
    y = reshape(y, (*shape[:-1], y._spec.shape[1]))
    return (transpose(y, 0, 1) if how["batch_first"] else y, *last)


# ---- cases
def samples(make: Any, gates: int, states: int, plain: bool = False) -> Any:
    """Cases of a layer with so many gates and states, and calls to refuse; ``plain``: no biases, no refusals."""

    def layer(lead: tuple, batch: int, i: int, h: int, bias: bool = True) -> dict:
        first = dict(zip(("h0", "c0"), (make(batch, h) for _ in range(states))))
        given = dict(x=make(*lead, i), **first, w_ih=make(gates * h, i), w_hh=make(gates * h, h))
        return given | (dict(b_ih=make(gates * h), b_hh=make(gates * h)) if bias and not plain else {})

    sizes = make.tensor([3, 2, 2, 1], int64)
    yield layer((3, 2), 2, 3, 2)
    yield layer((2, 2), 2, 3, 2) | dict(reverse=True)
    yield layer((2, 3), 2, 3, 2) | dict(batch_first=True)
    yield layer((3, 2), 3, 1, 2) | dict(batch_first=True, reverse=True)
    yield layer((1, 1), 1, 2, 1, bias=False)
    yield layer((8,), 3, 2, 2) | dict(batch_sizes=sizes)
    yield layer((8,), 3, 2, 2) | dict(batch_sizes=sizes, reverse=True)
    yield layer((2, 0), 0, 3, 2)
    yield layer((2, 2), 2, 0, 2)
    if not plain:
        yield RuntimeError, layer((0, 2), 2, 3, 2)
        yield RuntimeError, layer((2, 0), 2, 3, 2) | dict(batch_first=True)
        yield RuntimeError, layer((2, 3), 3, 3, 2) | dict(batch_first=True)
        yield RuntimeError, layer((8,), 3, 2, 2) | dict(batch_sizes=sizes, batch_first=True)
        yield RuntimeError, layer((8,), 3, 2, 2)
        yield RuntimeError, layer((7,), 3, 2, 2) | dict(batch_sizes=sizes)
        yield RuntimeError, layer((8,), 4, 2, 2) | dict(batch_sizes=sizes)
        yield RuntimeError, layer((8,), 1, 2, 2) | dict(batch_sizes=make.tensor([1, 3, 2, 2], int64))
        yield RuntimeError, layer((8,), 3, 2, 2) | dict(batch_sizes=make(4).detach())
        yield RuntimeError, layer((3, 2), 2, 3, 2) | dict(x=make(3, 2, 4))
        yield RuntimeError, layer((3, 2), 2, 3, 2) | dict(x=make.ints(3, 2, 3))
        yield RuntimeError, layer((3, 2), 2, 3, 2) | dict(h0=make(3, 2))
        yield RuntimeError, layer((3, 2), 2, 3, 2) | dict(b_ih=make(5))
        yield RuntimeError, layer((3, 2), 2, 3, 2) | dict(w_hh=make(7, 3))


def below(case: dict) -> dict:
    """A case as the op below the public function gets it: without history, half types as float32."""
    case = dict(case)
    sizes = case.pop("batch_sizes", None)
    how = {key: case.pop(key, False) for key in ("reverse", "batch_first")}
    tensors = {k: (t.float() if t.dtype.is_half else t).detach() for k, t in case.items()}
    return tensors | dict(sizes=sizes, **how)


def gradients_for(make: Any, outputs: tuple) -> list[Tensor]:
    """Gradients to come in for these outputs, in their dtype."""
    return [from_array(make.rng.uniform(-1, 1, y.shape).astype(y.dtype.np)) for y in outputs]


# ---- references: each sequence alone, a step at a time, in NumPy; complex numbers pass through
def sequences(x: Any, batch: int, sizes: Any, reverse: bool, batch_first: bool) -> Iterator[tuple[int, list]]:
    """(b, where the rows of sequence b are in x) in the order of steps."""
    for b in range(batch):
        if sizes is None:
            places: list = [(b, t) if batch_first else (t, b) for t in range(x.shape[batch_first])]
        else:
            places = [int(sum(sizes[:t])) + b for t in range(len(sizes)) if b < sizes[t]]
        yield b, places[::-1] if reverse else places


def complex_gradients(forward: Callable, inputs: dict, g: list) -> dict:
    """The gradients of sum(g * outputs) by each array in ``inputs``, by a complex step: exact to the last digits."""
    found = {}
    for name, a in inputs.items():
        found[name] = np.zeros_like(a)
        for at in np.ndindex(*a.shape):
            moved = a.astype(complex)
            moved[at] += 1e-30j
            outputs = forward(**{**inputs, name: moved})
            found[name][at] = sum((y.imag * gy).sum() for y, gy in zip(outputs, g) if gy is not None) / 1e-30
    return found


def sigmoid_of(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))
