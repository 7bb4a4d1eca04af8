"""Choosing between elements: the larger, the smaller, within bounds, by a condition. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, method, op, public
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec, format_of, spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError
from tensorlite.ops.compare import logical_and
from tensorlite.shapes import broadcast

boolean = dtypes.bool


@primitive(elementwise=True)
def maximum_p(xp, x, w, out):
    """The larger of the two; nan wins. Where they are equal each gets half of the gradient."""
    xp.maximum(x, w, out=out)  # NumPy deprecates a positional out here


@primitive(elementwise=True)
def minimum_p(xp, x, w, out):
    """The smaller of the two; nan wins. Where they are equal each gets half of the gradient."""
    xp.minimum(x, w, out=out)  # NumPy deprecates a positional out here


maximum_p.bind(lambda xp, specs, outs: (lambda x, w, out: xp.maximum(x, w, out=out), xp.maximum))
minimum_p.bind(lambda xp, specs, outs: (lambda x, w, out: xp.minimum(x, w, out=out), xp.minimum))


def _share(g, wins, ties):
    """The gradient where this side won, half of it at ties."""
    return g * (wins.to(g.dtype) + ties.to(g.dtype) * 0.5)


maximum_p.grad(x=lambda g, x, w: _share(g, x > w, x == w), w=lambda g, x, w: _share(g, w > x, x == w))
minimum_p.grad(x=lambda g, x, w: _share(g, x < w, x == w), w=lambda g, x, w: _share(g, w < x, x == w))


@maximum_p.cases
@minimum_p.cases
def _(make):
    yield dict(x=make.distinct(3, 4), w=make(3, 4))
    yield dict(x=make.distinct(3, 4), w=make(4))


@maximum_p.ref
def _(x, w):
    return x * (x > w) + w * (w >= x)


@minimum_p.ref
def _(x, w):
    return x * (x < w) + w * (w <= x)


maximum, minimum = public(maximum_p, in_place=False), public(minimum_p, in_place=False)


@primitive(elementwise=True, numbers=True)
def clamp_p(xp, x, low=None, high=None, out=None):
    """min(max(x, low), high); a bound left out does not bind. The gradient passes within the bounds, which count."""
    if low is None:
        xp.minimum(x, high, out=out)
    elif high is None:
        xp.maximum(x, low, out=out)
    else:
        xp.minimum(xp.maximum(x, low), high, out=out)


clamp_p.kernel(
    "cpu", "clamp", when=lambda x, low, high: x.size > 0 and all(b is None or not b.ndim for b in (low, high))
)


def _within(x, low, high):
    inside = x == x if low is None else x >= low
    return inside if high is None else logical_and(inside, x <= high)


clamp_p.grad(
    x=lambda g, x, low, high: g * _within(x, low, high).to(g.dtype),
    low=lambda g, x, low, high: g * ((x < low) if high is None else logical_and(x < low, low < high)).to(g.dtype),
    high=lambda g, x, low, high: g * ((x > high) if low is None else (maximum_p(x, low) > high)).to(g.dtype),
)


@clamp_p.cases
def _(make):
    yield dict(x=make.distinct(3, 4), low=-0.7, high=0.8)
    yield dict(x=make.distinct(3, 4), low=0.1)
    yield dict(x=make.distinct(3, 4), high=0.1)
    yield dict(x=make.distinct(3, 4), low=make(4, low=-1, high=0), high=make(3, 1, low=0.1, high=1))
    yield RuntimeError, dict(x=make(3))


@clamp_p.ref
def _(x, low=None, high=None):
    import numpy as np

    return np.clip(x, low, high)


@face(clamp_p, method=("clamp", "clip"), in_place=True, out=True)
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input held between min and max, which are numbers, tensors or None.

    >>> import tensorlite as tl
    >>> tl.clamp(tl.tensor([-2.0, 0.5, 3.0]), min=-1, max=1)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min is None and max is None:
        raise RuntimeError("clamp: got neither min nor max; at least one of 'min' or 'max' must not be None")
    return clamp_p(input, min, max)


@op(method=True, in_place=True, out=True)
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """The elements, none below min."""
    return clamp_p(input, min, None)


@op(method=True, in_place=True, out=True)
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """The elements, none above max."""
    return clamp_p(input, None, max)


@clamp_min.cases
def _(make):
    yield dict(input=make.distinct(3, 4), min=0.1)
    yield dict(input=make.distinct(3, 4), min=make(4))


@clamp_max.cases
def _(make):
    yield dict(input=make.distinct(3, 4), max=0.1)
    yield dict(input=make.distinct(3, 4), max=make(4))


clamp_min.ref(lambda input, min: np.where(input < min, min, input))
clamp_max.ref(lambda input, max: np.where(input > max, max, input))


@primitive(elementwise=True, promotes=("x", "w"))
def where_p(xp, condition, x, w, out):
    """x where condition is True, w elsewhere."""
    xp.copyto(out, w)
    xp.copyto(out, x, where=condition)


@where_p.spec
def _(condition, x, w):
    if condition.dtype is not boolean:
        raise DTypeError(
            f"where: condition is {condition.dtype}; wanted bool (expected condition to be a boolean tensor)"
        )
    out = spec_of(broadcast("where", condition.shape, x.shape, w.shape), x.dtype, x.device)
    return out.laid(format_of(condition, x, w)).packed()


where_p.op.alias = None  # w is written before x is read
where_p.grad(
    condition=None,
    x=lambda g, condition: where_p(condition, g, lift(0.0, g)),
    w=lambda g, condition: where_p(condition, lift(0.0, g), g),
)


def whole_or_one(condition: Spec, x: Spec, w: Spec) -> bool:
    """Whether x and w have the output's shape or are 0-d: what the compiled choice takes."""
    shape = broadcast("where", condition.shape, x.shape, w.shape)
    return 0 not in shape and all(s.shape == shape or not s.ndim for s in (x, w))


where_p.kernel("cpu", "where", when=whole_or_one)


@where_p.cases
def _(make):
    yield dict(condition=make.bools(3, 4), x=make(3, 4), w=make(3, 4))
    yield dict(condition=make.bools(3, 4), x=make(4), w=make(3, 1))
    yield dict(condition=make.bools(3), x=1.5, w=make(3))
    yield dict(condition=make.bools(3), x=make(3), w=0)
    yield DTypeError, dict(condition=make(3), x=make(3), w=make(3))


@where_p.ref
def _(condition, x, w):
    import numpy as np

    c = condition.astype(float)
    return np.where(condition, 0, w) * (1 - c) + np.where(condition, x, 0) * c


@face(where_p, out=True)
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """input where condition is True, other elsewhere. With the condition alone: ``nonzero(as_tuple=True)``.

    >>> import tensorlite as tl
    >>> x = tl.tensor([-1.0, 2.0])
    >>> tl.where(x > 0, x, 0.0)
    tensor([0., 2.])
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if not isinstance(input, Tensor):
        input = lift(input, other)
    elif not isinstance(other, Tensor):
        other = lift(other, input)
    return where_p(condition, input, other)


@method("where")
def _where(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """self where condition is True, other elsewhere."""
    return where(condition, self, other)


for _p in (maximum_p, minimum_p):
    _p.kernel("cpu", _p.op.name, when=lambda x, w: bool(x.size and w.size))
