"""What the ops on indices share: checks, positions, accumulation, writing in place, numbers as tensors. Floor 3."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd.methods import attach_method
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.dtypes import FLOAT, INTEGER, dtype, finfo, iinfo, int32, int64
from tensorlite.errors import BoundsError, DTypeError, ShapeError
from tensorlite.ops.shape import expand
from tensorlite.ops.slices import x_spec_zeros
from tensorlite.shapes import broadcast


# ---- what the kernels share
def check(index: Any, who: str, dim: int, size: int, wraps: bool) -> None:
    """Refuse indices outside 0 to size - 1, or -size to size - 1 where negative ones count from the end."""
    if index.size:
        low, high = index.min(), index.max()
        if high >= size or low < (-size if wraps else 0):
            bad = int(high if high >= size else low)
            raise BoundsError(
                f"{who}: index {bad} is out of bounds for dimension {dim} with size {size}; wanted "
                f"{-size if wraps else 0} to {size - 1}"
            )


def take(xp: Any, x: Any, index: Any, dim: int, out: Any, mode: str) -> None:
    """Rows at indices that were checked: NumPy is quicker when told not to look again, CuPy never looks."""
    if xp is np:
        x.take(index, dim, out, mode)
    else:
        x.take(index, dim, out)


def check_all(indices: tuple, who: str, dims: tuple, shape: tuple) -> None:
    for d, index in zip(dims, indices):
        check(index, who, d, shape[d], True)


def index_dtype(who: str, index: Spec, error: type[Exception] = DTypeError) -> None:
    if index.dtype is not int64 and index.dtype is not int32:
        raise error(f"{who}: index is {index.dtype}; wanted int64 or int32 (Expected dtype int32/int64 for index)")


def same_dtype(who: str, x: Spec, w: Spec, name: str) -> None:
    if x.dtype is not w.dtype:
        raise DTypeError(f"{who}: {name} is {w.dtype} and input is {x.dtype}; wanted one dtype")


def key_at(dims: tuple, indices: tuple) -> tuple:
    """A NumPy key with each index at its dimension and whole slices before and between."""
    key: list = [slice(None)] * (dims[-1] + 1)
    for d, index in zip(dims, indices):
        key[d] = index
    return tuple(key)


def at_front(dims: tuple) -> bool:
    """NumPy's rule: where a slice stands between two indices, their dimensions come first."""
    return dims[-1] - dims[0] != len(dims) - 1


def picked_shape(shape: tuple, dims: tuple, picked: tuple) -> tuple:
    """The shape of x[key] where the indices at ``dims`` have the common shape ``picked``."""
    rest = tuple(n for d, n in enumerate(shape) if d not in dims)
    at = 0 if at_front(dims) else dims[0]
    return (*rest[:at], *picked, *rest[at:])


def common_shape(who: str, *indices: Spec) -> tuple:
    try:
        return broadcast(who, *(i.shape for i in indices))
    except ShapeError:
        shapes = ", ".join(str(list(i.shape)) for i in indices)
        raise IndexError(
            f"{who}: shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}"
        ) from None


def positions(xp: Any, shape: tuple, dims: tuple, indices: tuple) -> Any:
    """Where the elements of x[key] stand in x, counted in C order: an array of the shape of x[key]."""
    steps = [1] * len(shape)
    for d in reversed(range(len(shape) - 1)):
        steps[d] = steps[d + 1] * shape[d + 1]
    rows = 0
    for d, index in zip(dims, indices):
        rows = rows + xp.where(index < 0, index + shape[d], index).astype(np.int64) * steps[d]
    rest = [d for d in range(len(shape)) if d not in dims]
    at = 0 if at_front(dims) else dims[0]
    total = len(rest) + rows.ndim
    others = xp.zeros((1,) * total, np.int64)
    for k, d in enumerate(rest):
        along = [1] * total
        along[k if k < at else k + rows.ndim] = shape[d]
        others = others + (xp.arange(shape[d]) * steps[d]).reshape(along)
    return others + rows.reshape((1,) * at + rows.shape + (1,) * (len(rest) - at))


def add_at(xp: Any, out: Any, positions: Any, w: Any) -> None:
    """out.ravel()[positions] += w, equal positions adding up. One long index is NumPy's fast way (3 ns an element)."""
    room = xp.ascontiguousarray(out)
    xp.add.at(room.reshape(-1), positions.reshape(-1), w.reshape(-1))
    if room is not out:
        out[...] = room


def onto(xp: Any, x: Any, out: Any, *others: Any) -> list:
    """Make ``out`` equal x; give back the other inputs, copied where they share memory with ``out``."""
    others_ = [o.copy() if xp.may_share_memory(o, out) else o for o in others]
    if out is not x:
        xp.copyto(out, x)
    return others_


def into(p: Any, in_place: bool, x: Tensor, *rest: Tensor, **kw: Any) -> Tensor:
    return p.op.into(x, x, *rest, **kw) if in_place else p(x, *rest, **kw)


def in_place(p: Any, name: str, fn: Callable) -> None:
    """Attach ``x.name(...)``, which writes into x."""
    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"In place: ``x.{name}(...)`` writes ``{name[:-1]}(x, ...)`` into x and returns x."
    attach_method(name, fn)
    p.op.in_place = (*p.op.in_place, name)


def number(who: str, value: Any, x: Tensor) -> Tensor:
    """A Python or NumPy number as a 0-d tensor of x's dtype; an error where the dtype cannot hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    d = x._spec.dtype
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{who}: can't assign a {type(value).__name__} to a tensor of {d}; wanted a number or a Tensor")
    low, high, kind = _LIMITS[d]
    if not low <= value <= high and (d.category != FLOAT or (abs(value) != math.inf and value == value)):
        raise RuntimeError(f"{who}: value {value} cannot be converted to type {d.name} without overflow")
    return lift(value if value.__class__ is kind else kind(value), x)


def _limits(d: dtype) -> tuple:
    """The least and greatest number that fits, and Python's type for it."""
    if d.category == FLOAT:
        return -finfo(d).max, finfo(d).max, float
    if d.category == INTEGER:  # PyTorch lets negative numbers wrap around in unsigned types
        return iinfo(d).min if d.is_signed else -iinfo(d).max, iinfo(d).max, int
    return -math.inf, math.inf, bool


_LIMITS = {d: _limits(d) for d in dtype.known.values()}


def value_of(who: str, value: Any, x: Tensor) -> Tensor:
    """A number or a 0-d tensor as a 0-d tensor of x's dtype."""
    if not isinstance(value, Tensor):
        return number(who, value, x)
    if value._spec.ndim:
        raise ShapeError(f"{who}: value has {value._spec.ndim} dimensions; only supports a 0-dimensional value tensor")
    return cast(value, x._spec.dtype)


def cast(value: Tensor, d: Any) -> Tensor:
    return value.to(d) if d.category == FLOAT else value.detach().to(d)


def zeros(spec: Spec) -> Tensor:
    """Zeros of this spec that take no room."""
    return expand(x_spec_zeros(spec, ()), spec.shape)
