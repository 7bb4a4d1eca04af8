"""Masks: filling by them, finding where they are True, and making them (one_hot, isclose). Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.dtypes import int32, int64
from tensorlite.errors import DTypeError
from tensorlite.ops import places
from tensorlite.ops.choice import whole_or_one
from tensorlite.shapes import broadcast

boolean = dtypes.bool


# ---- masks
@primitive(name="masked_fill", elementwise=True, promotes=(), alias="elementwise", signals=False)
def masked_fill_p(xp, x, mask, w, out):
    """w, one element, where mask is True, x elsewhere."""
    mask, w = places.onto(xp, x, out, mask, w)
    xp.copyto(out, w, where=mask)


@masked_fill_p.spec
def _(x, mask, w):
    if mask.dtype is not boolean:
        raise DTypeError(f"masked_fill: mask is {mask.dtype}; only supports boolean masks")
    return spec_of(broadcast("masked_fill", x.shape, mask.shape), x.dtype, x.device)


masked_fill_p.kernel("cpu", "masked_fill", when=lambda x, mask, w: whole_or_one(mask, x, w))
masked_fill_p.op.moves = True
masked_fill_p.grad(
    x=lambda g, mask: masked_fill_p(g, mask, lift(0.0, g)),
    mask=None,
    w=lambda g, mask: masked_fill_p(g, mask.logical_not(), lift(0.0, g)),
)


@masked_fill_p.cases
def _(make):
    yield dict(input=make(3, 4), mask=make.bools(3, 4), value=1.5)
    yield dict(input=make(3, 4), mask=make.bools(4), value=make())
    yield dict(input=make(4), mask=make.bools(3, 4), value=float("-inf"))
    yield dict(input=make.ints(4), mask=make.bools(4), value=3)
    yield RuntimeError, dict(input=make(4), mask=make.ints(4), value=0)
    yield RuntimeError, dict(input=make(4), mask=make.bools(4), value=make(1))
    yield RuntimeError, dict(input=make(4), mask=make.bools(3), value=0)


@masked_fill_p.ref
def _(input, mask, value):
    a, m = np.broadcast_arrays(input, mask)
    return np.array([value if b else v for v, b in zip(a.flat, m.flat)]).reshape(a.shape)


@face(masked_fill_p, method=True)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value, a number or a 0-d tensor, where mask is True, input elsewhere.

    >>> import tensorlite as tl
    >>> x = tl.tensor([1.0, -2.0])
    >>> tl.masked_fill(x, x < 0, 0)
    tensor([1., 0.])
    """
    return masked_fill_p(input, mask, places.value_of("masked_fill", value, input))


places.in_place(
    masked_fill_p,
    "masked_fill_",
    lambda self, mask, value: masked_fill_p.op.into(self, self, mask, places.value_of("masked_fill_", value, self)),
)


@primitive(name="nonzero", dynamic=True)
def nonzero_p(xp, x, *, as_tuple):
    """Where x is not zero: one row of indices an element, or one vector a dimension."""
    if as_tuple:
        return xp.nonzero(xp.atleast_1d(x))
    return xp.ascontiguousarray(xp.argwhere(x))


nonzero_p.spec(lambda x, *, as_tuple: None)
nonzero_p.nograd()


@nonzero_p.cases
def _(make):
    yield dict(input=make.bools(3, 4))
    yield dict(input=make.ints(5, high=2))
    yield dict(input=make.ints(2, 2, high=2), as_tuple=True)
    yield dict(input=make(0, 3))
    yield dict(input=make())


@nonzero_p.ref
def _(input, as_tuple=False):
    found = [at for at in np.ndindex(input.shape) if input[at]]
    table = np.array(found, np.int64).reshape(len(found), input.ndim)
    return tuple(table.T) if as_tuple else table


@face(nonzero_p, method=True)
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not zero: (n, ndim), or with ``as_tuple`` one vector a dimension, so that
    ``x[x.nonzero(as_tuple=True)]`` is those elements. The size depends on the values.

    >>> import tensorlite as tl
    >>> tl.nonzero(tl.tensor([0, 3, 5]))
    tensor([[1],
            [2]])
    """
    return nonzero_p(input if input._spec.dtype is boolean else input != 0, as_tuple=bool(as_tuple))


@op(method=True)
def argwhere(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, (n, ndim)."""
    return nonzero(input)


@argwhere.cases
def _(make):
    yield dict(input=make.bools(3, 4))


argwhere.ref(lambda input: np.stack(np.nonzero(input), 1))


@primitive(name="one_hot", torch="nn.functional.one_hot")
def one_hot_p(xp, x, out, *, classes):
    """1 at place x of a new last dimension, 0 elsewhere."""
    if x.size and x.min() < 0:
        raise RuntimeError(f"one_hot: value {x.min()}; Class values must be non-negative.")
    if x.size and x.max() >= classes:
        raise RuntimeError(
            f"one_hot: value {x.max()} for {classes} classes; Class values must be smaller than num_classes."
        )
    xp.copyto(out, x[..., None] == xp.arange(classes))


@one_hot_p.spec
def _(x, *, classes):
    return x.like(*x.shape, classes)


one_hot_p.nograd()
one_hot_p.kernel("cuda", "index.one_hot", "", formats=ANY)


@one_hot_p.cases
def _(make):
    yield dict(tensor=make.ints(2, 3))
    yield dict(tensor=make.ints(3), num_classes=7)
    yield dict(tensor=make.ints(0), num_classes=3)
    yield RuntimeError, dict(tensor=make.tensor([3], int64), num_classes=3)
    yield RuntimeError, dict(tensor=make.tensor([-1], int64), num_classes=3)
    yield RuntimeError, dict(tensor=make.ints(0))
    yield RuntimeError, dict(tensor=make.ints(3, dtype=int32))


one_hot_p.ref(
    lambda tensor, num_classes=-1: np.eye(num_classes if num_classes > 0 else tensor.max() + 1, dtype=int)[tensor]
)


@face(one_hot_p)
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at place ``tensor`` of a new last dimension, 0 elsewhere, as int64.

    The dimension has ``num_classes`` elements, by default the largest value + 1.

    >>> import tensorlite as tl
    >>> one_hot(tl.tensor([0, 2]))
    tensor([[1, 0, 0],
            [0, 0, 1]])
    """
    x = tensor._spec
    if x.dtype is not int64:
        raise DTypeError(
            f"one_hot: got {x.dtype}; wanted int64 (one_hot is only applicable to index tensor of type LongTensor)"
        )
    if num_classes == -1:
        if not x.size:
            raise RuntimeError("one_hot: Can not infer total number of classes from empty tensor.")
        num_classes = max(int(tensor.max().item()), 0) + 1
    elif num_classes < 0 or (not num_classes and not x.size):
        raise RuntimeError(f"one_hot: num_classes {num_classes}; num_classes should be positive")
    return one_hot_p(tensor, classes=num_classes)


# ---- equality of whole tensors
@primitive(name="isclose", elementwise=True, promotes=(), out_dtype=boolean)
def isclose_p(xp, x, w, out, *, rtol, atol, equal_nan):
    """|x - w| <= atol + rtol * |w|, or x == w."""
    xp.equal(x, w, out)
    if equal_nan and x.dtype.kind == "f":
        xp.logical_or(out, (x != x) & (w != w), out)
    if (rtol or atol) and x.dtype.kind != "b":
        if x.dtype.kind != "f":
            x, w = x.astype(np.float64), w.astype(np.float64)
        with np.errstate(all="ignore"):
            far = xp.abs(x - w)
            xp.logical_or(out, xp.isfinite(far) & (far <= atol + xp.abs(rtol * w)), out)


isclose_p.nograd()


@isclose_p.cases
def _(make):
    x = make(3, 4)
    yield dict(input=x, other=make.tensor(x._arr + 1e-3), rtol=1e-3)
    odd = [1.0, float("inf"), float("nan")]
    yield dict(input=make.tensor(odd), other=make.tensor(odd), equal_nan=True)
    yield dict(input=make.tensor(odd), other=make.tensor(odd[::-1]))
    yield dict(input=make(3, 1), other=make(4), atol=1.0)
    yield dict(input=make.ints(5), other=make.ints(5), atol=1.5)
    yield RuntimeError, dict(input=make(3), other=make.ints(3))
    yield RuntimeError, dict(input=make(3), other=make(3), rtol=-1.0)
    yield RuntimeError, dict(input=make(3), other=make(4))


isclose_p.ref(
    lambda input, other, rtol=1e-5, atol=1e-8, equal_nan=False: np.isclose(input, other, rtol, atol, equal_nan)
)


@face(isclose_p, method=True)
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Element by element, whether |input - other| <= atol + rtol * |other|. Both must be of one dtype."""
    if not isinstance(other, Tensor):
        raise TypeError(f"isclose: argument 'other' must be Tensor, not {type(other).__name__}")
    places.same_dtype("isclose", input._spec, other._spec, "other")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value < 0:
            raise RuntimeError(f"isclose: {name} must be greater than or equal to zero, but got {value}")
    return isclose_p(input, other, rtol=float(rtol), atol=float(atol), equal_nan=bool(equal_nan))


@op(method=True)
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether ``isclose`` holds for all elements."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


@allclose.cases
def _(make):
    yield dict(input=make(3, 4), other=make(3, 4))
    yield dict(input=make(3, 4), other=make(3, 4), atol=9.0)
    yield RuntimeError, dict(input=make(3), other=make.ints(3))


allclose.ref(lambda input, other, rtol=1e-5, atol=1e-8: np.allclose(input, other, rtol, atol))


@op(method=True)
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and elements."""
    if not isinstance(other, Tensor):
        raise TypeError(f"equal: argument 'other' must be Tensor, not {type(other).__name__}")
    return input._spec.shape == other._spec.shape and bool((input == other).all())


@equal.cases
def _(make):
    x = make(3, 4)
    yield dict(input=x, other=make.tensor(x._arr))
    yield dict(input=make(3), other=make(4))
    yield dict(input=make.ints(3), other=make.ints(3))


equal.ref(lambda input, other: np.array_equal(input, other))
