"""Ops that pick elements by index: ``x[key]``, gather and scatter, masks, triangles and diagonals. Floor 3.

Integers, slices, None and Ellipsis make views (``slice_p`` of shape.py). Tensors of integers pick copies; a mask is
turned into the integers where it is True, so only the mask's own sizes are known beforehand.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import attach_method, face, method, op
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import STRIDED, Spec, spec_of
from tensorlite.autograd.tensor import Tensor, address, from_array
from tensorlite.autograd.weak import lift
from tensorlite.backends import strided
from tensorlite.dtypes import FLOAT, INTEGER, finfo, iinfo, int32, int64, uint8
from tensorlite.errors import DTypeError, ShapeError, TensorliteError
from tensorlite.ops.create import fill_p, tensor
from tensorlite.ops.reduce import norm
from tensorlite.ops.shape import expand, reshape, slice_p, unslice_p, x_spec_zeros
from tensorlite.shapes import broadcast, dim_of

boolean = dtypes.bool


class BoundsError(TensorliteError, IndexError, RuntimeError):
    """An index beyond the end. PyTorch raises IndexError in some ops and RuntimeError in others."""


# ---- what the kernels share
def _check(index: Any, who: str, dim: int, size: int, wraps: bool) -> None:
    """Refuse indices outside 0 to size - 1, or -size to size - 1 where negative ones count from the end."""
    if index.size:
        low, high = index.min(), index.max()
        if high >= size or low < (-size if wraps else 0):
            bad = int(high if high >= size else low)
            raise BoundsError(f"{who}: index {bad} is out of bounds for dimension {dim} with size {size}; wanted "
                              f"{-size if wraps else 0} to {size - 1}")


def _check_all(indices: tuple, who: str, dims: tuple, shape: tuple) -> None:
    for d, index in zip(dims, indices):
        _check(index, who, d, shape[d], True)


def _index_dtype(who: str, index: Spec, error: type[Exception] = DTypeError) -> None:
    if index.dtype is not int64 and index.dtype is not int32:
        raise error(f"{who}: index is {index.dtype}; wanted int64 or int32 (Expected dtype int32/int64 for index)")


def _same_dtype(who: str, x: Spec, w: Spec, name: str) -> None:
    if x.dtype is not w.dtype:
        raise DTypeError(f"{who}: {name} is {w.dtype} and input is {x.dtype}; wanted one dtype")


def _key(dims: tuple, indices: tuple) -> tuple:
    """A NumPy key with each index at its dimension and whole slices before and between."""
    key: list = [slice(None)] * (dims[-1] + 1)
    for d, index in zip(dims, indices):
        key[d] = index
    return tuple(key)


def _at_front(dims: tuple) -> bool:
    """NumPy's rule: where a slice stands between two indices, their dimensions come first."""
    return dims[-1] - dims[0] != len(dims) - 1


def _picked(shape: tuple, dims: tuple, picked: tuple) -> tuple:
    """The shape of x[key] where the indices at ``dims`` have the common shape ``picked``."""
    rest = tuple(n for d, n in enumerate(shape) if d not in dims)
    at = 0 if _at_front(dims) else dims[0]
    return (*rest[:at], *picked, *rest[at:])


def _common(who: str, *indices: Spec) -> tuple:
    try:
        return broadcast(who, *(i.shape for i in indices))
    except ShapeError:
        shapes = ", ".join(str(list(i.shape)) for i in indices)
        raise IndexError(f"{who}: shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}"
                         ) from None


def _positions(xp: Any, shape: tuple, dims: tuple, indices: tuple) -> Any:
    """Where the elements of x[key] stand in x, counted in C order: an array of the shape of x[key]."""
    steps = [1] * len(shape)
    for d in reversed(range(len(shape) - 1)):
        steps[d] = steps[d + 1] * shape[d + 1]
    rows = 0
    for d, index in zip(dims, indices):
        rows = rows + xp.where(index < 0, index + shape[d], index).astype(np.int64) * steps[d]
    rest = [d for d in range(len(shape)) if d not in dims]
    at = 0 if _at_front(dims) else dims[0]
    total = len(rest) + rows.ndim
    others = xp.zeros((1,) * total, np.int64)
    for k, d in enumerate(rest):
        along = [1] * total
        along[k if k < at else k + rows.ndim] = shape[d]
        others = others + (xp.arange(shape[d]) * steps[d]).reshape(along)
    return others + rows.reshape((1,) * at + rows.shape + (1,) * (len(rest) - at))


def _add_at(xp: Any, out: Any, positions: Any, w: Any) -> None:
    """out.ravel()[positions] += w, equal positions adding up. One long index is NumPy's fast way (3 ns an element)."""
    room = xp.ascontiguousarray(out)
    xp.add.at(room.reshape(-1), positions.reshape(-1), w.reshape(-1))
    if room is not out:
        out[...] = room


def _onto(xp: Any, x: Any, out: Any, *others: Any) -> list:
    """Make ``out`` equal x; give back the other inputs, copied where they share memory with ``out``."""
    others_ = [o.copy() if xp.may_share_memory(o, out) else o for o in others]
    if out is not x:
        xp.copyto(out, x)
    return others_


def _into(p: Any, in_place: bool, x: Tensor, *rest: Tensor, **kw: Any) -> Tensor:
    return p.op.into(x, x, *rest, **kw) if in_place else p(x, *rest, **kw)


def _in_place(p: Any, name: str, fn: Callable) -> None:
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
    if d.category == FLOAT:
        bad = value not in (float("inf"), float("-inf")) and abs(value) > finfo(d).max
        value = value if bad else float(value)
    elif d.category == INTEGER:
        least = iinfo(d).min if d.is_signed else -iinfo(d).max  # PyTorch lets negative numbers wrap around
        bad = not least <= value <= iinfo(d).max
        value = value if bad else int(value)
    else:
        bad, value = False, bool(value)
    if bad:
        raise RuntimeError(f"{who}: value {value} cannot be converted to type {d.name} without overflow")
    return lift(value, x)


def _value(who: str, value: Any, x: Tensor) -> Tensor:
    """A number or a 0-d tensor as a 0-d tensor of x's dtype."""
    if not isinstance(value, Tensor):
        return number(who, value, x)
    if value._spec.ndim:
        raise ShapeError(f"{who}: value has {value._spec.ndim} dimensions; only supports a 0-dimensional value tensor")
    return _cast(value, x._spec.dtype)


def _cast(value: Tensor, d: Any) -> Tensor:
    return value.to(d) if d.category == FLOAT else value.detach().to(d)


# ---- one index tensor along one dimension
def _rows_cases(make: Any) -> Any:
    yield dict(input=make(4, 3), dim=0, index=make.ints(5, high=4))
    yield dict(input=make(2, 4, 3), dim=-2, index=make.ints(3, high=4))
    yield dict(input=make(4, 3), dim=1, index=make.ints(2, high=3, dtype=int32))
    yield dict(input=make(4, 3), dim=0, index=make.ints(0))


@primitive(name="index_select")
def index_select_p(xp, x, index, out, *, dim, who):
    """Rows ``index`` of dimension dim: x.shape[:dim] + index.shape + x.shape[dim+1:]."""
    wraps = who == "getitem"
    _check(index, who, dim, x.shape[dim], wraps)
    if index.size:
        x.take(index, dim, out, "wrap" if wraps else "clip")  # both are faster than "raise", which NumPy buffers


@index_select_p.spec
def _(x, index, *, dim, who):
    _index_dtype(who, index)
    return x.like(*x.shape[:dim], *index.shape, *x.shape[dim + 1:])


index_select_p.op.moves = True
index_select_p.grad(x=lambda g, x_spec, index, dim: unselect_p(g, index, shape=x_spec.shape, dim=dim), index=None)


@index_select_p.cases
def _(make):
    yield from _rows_cases(make)
    yield dict(input=make(), dim=0, index=make.ints(1, high=1))
    yield dict(input=make.bools(4), dim=0, index=make.ints(3, high=4))
    yield IndexError, dict(input=make(4, 3), dim=0, index=make.tensor([0, 4], int64))
    yield IndexError, dict(input=make(4, 3), dim=0, index=make.tensor([0, -1], int64))
    yield IndexError, dict(input=make(4, 3), dim=2, index=make.ints(2))
    yield IndexError, dict(input=make(4, 3), dim=0, index=make.ints(2, 2))
    yield DTypeError, dict(input=make(4, 3), dim=0, index=make(2))


index_select_p.ref(lambda input, dim, index: np.stack([np.take(input, i, dim) for i in index], dim) if index.size
                   and input.ndim else np.compress([False] * 4, input, dim) if input.ndim else input)


@face(index_select_p, method=True, out=True)
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Rows ``index`` (one dimension) of dimension ``dim``, as a copy.

    >>> import tensorlite as tl
    >>> tl.index_select(tl.tensor([[1, 2], [3, 4]]), 1, tl.tensor([1]))
    tensor([[2],
            [4]])
    """
    d = dim_of("index_select", dim, input._spec.ndim)
    if index._spec.ndim > 1:
        raise IndexError(f"index_select: index has shape {index._spec.shape}; wanted one dimension (Index is supposed to "
                         "be a vector)")
    if input._spec.ndim:
        return index_select_p(input, _vector(index), dim=d, who="index_select")
    if index._spec.size != 1:
        raise RuntimeError(f"index_select: {index._spec.size} indices into a 0-d tensor; wanted 1")
    return reshape(index_select_p(reshape(input, (1,)), _vector(index), dim=0, who="index_select"), ())


def _vector(index: Tensor) -> Tensor:
    return index if index._spec.ndim else reshape(index, (1,))


@primitive(name="unselect", torch=None)
def unselect_p(xp, x, index, out, *, shape, dim):
    """Zeros of this shape with the rows of x added at rows ``index`` of dim: the gradient of index_select."""
    out.fill(0)
    _check(index, "unselect", dim, shape[dim], True)
    _add_at(xp, out, _positions(xp, shape, (dim,), (index,)), x)


unselect_p.spec(lambda x, index, *, shape, dim: x.like(*shape))
unselect_p.grad(x=lambda g, index, dim: index_select_p(g, index, dim=dim, who="getitem"), index=None)


@unselect_p.cases
def _(make):
    yield dict(x=make(5, 3), index=make.ints(5, high=4), shape=(4, 3), dim=0)
    yield dict(x=make(2, 2, 3), index=make.ints(2, 3, low=-4, high=4), shape=(2, 4), dim=1)
    yield dict(x=make(0, 3), index=make.ints(0), shape=(4, 3), dim=0)


@unselect_p.ref
def _(x, index, shape, dim):
    hot = np.equal.outer(index % shape[dim], np.arange(shape[dim])).astype(float).reshape(-1, shape[dim])
    rows = x.reshape(*shape[:dim], index.size, *shape[dim + 1:])
    return np.moveaxis(np.tensordot(hot, rows, (0, dim)), 0, dim)


def _rows(who: str, input: Tensor, dim: int, index: Tensor, source: Tensor, error: type[Exception]) -> tuple:
    """Checked arguments of index_add and index_copy: the input (1-d at least), dim, index and source."""
    d = dim_of(who, dim, input._spec.ndim)
    if index._spec.ndim > 1:
        raise IndexError(f"{who}: index has shape {index._spec.shape}; wanted one dimension")
    index = _vector(index)
    if not input._spec.ndim:
        input, source = input.view(1), reshape(source, (1,)) if source._spec.size == 1 else source
    x, s = input._spec, source._spec
    wanted = (*x.shape[:d], index._spec.size, *x.shape[d + 1:])
    if s.shape != wanted:
        raise (error if s.ndim != x.ndim else ShapeError)(
            f"{who}: source has shape {s.shape} for input {x.shape} and {index._spec.size} indices; wanted {wanted}")
    return input, d, index, source


@primitive(name="index_add", alias="elementwise")
def index_add_p(xp, x, index, w, out, *, dim):
    """x with the rows of w added at rows ``index`` of dim; equal indices add up."""
    _check(index, "index_add", dim, x.shape[dim], False)
    index, w = _onto(xp, x, out, index, w)
    _add_at(xp, out, _positions(xp, x.shape, (dim,), (index,)), w)


@index_add_p.spec
def _(x, index, w, *, dim):
    _index_dtype("index_add", index)
    _same_dtype("index_add", x, w, "source")
    return x.like(*x.shape)


index_add_p.grad(x=lambda g: g, index=None, w=lambda g, index, dim: index_select_p(g, index, dim=dim, who="getitem"))


@index_add_p.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=make.ints(6, high=4), source=make(6, 3))
    yield dict(input=make(2, 4), dim=-1, index=make.ints(3, high=4), source=make(2, 3), alpha=2.5)
    yield dict(input=make.ints(4), dim=0, index=make.ints(3, high=4, dtype=int32), source=make.ints(3), alpha=2)
    yield dict(input=make(), dim=0, index=make.ints(1, high=1), source=make())
    yield IndexError, dict(input=make(4), dim=0, index=make.tensor([4], int64), source=make(1))
    yield IndexError, dict(input=make(4), dim=0, index=make.tensor([-1], int64), source=make(1))
    yield ShapeError, dict(input=make(4, 3), dim=0, index=make.ints(2), source=make(1, 3))
    yield DTypeError, dict(input=make(4), dim=0, index=make.ints(2, high=4), source=make.ints(2))


@index_add_p.ref
def _(input, dim, index, source, alpha=1):
    y = np.array(input)
    for k, i in enumerate(index):
        np.moveaxis(np.atleast_1d(y), dim, 0)[i] += alpha * np.moveaxis(np.atleast_1d(source), dim, 0)[k]
    return y


def _index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, alpha: Any, in_place: bool) -> Tensor:
    x, d, index, source = _rows("index_add", input, dim, index, source, RuntimeError)
    if alpha != 1:
        source = source * (alpha if input._spec.dtype.category == FLOAT else int(alpha))
    y = _into(index_add_p, in_place, x, index, source, dim=d)
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(index_add_p, method=True, out=True)
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """input with alpha * source added at rows ``index`` of ``dim``; equal indices add up.

    >>> import tensorlite as tl
    >>> tl.index_add(tl.zeros(3), 0, tl.tensor([0, 2, 0]), tl.tensor([1.0, 2.0, 3.0]))
    tensor([4., 0., 2.])
    """
    return _index_add(input, dim, index, source, alpha, False)


_in_place(index_add_p, "index_add_", lambda self, dim, index, source, *, alpha=1:
          _index_add(self, dim, index, source, alpha, True))


@primitive(name="index_copy", alias="elementwise")
def index_copy_p(xp, x, index, w, out, *, dim, who):
    """x with rows ``index`` of dim replaced by the rows of w; of equal indices the last wins."""
    _check(index, who, dim, x.shape[dim], who == "index_fill")
    index, w = _onto(xp, x, out, index, w)
    out[_key((dim,), (index,))] = w


@index_copy_p.spec
def _(x, index, w, *, dim, who):
    _index_dtype(who, index)
    _same_dtype(who, x, w, "source")
    return x.like(*x.shape)


index_copy_p.op.moves = True
index_copy_p.grad(
    x=lambda g, index, w_spec, dim: index_copy_p(g, index, _zeros(w_spec), dim=dim, who="index_fill"),
    index=None,
    w=lambda g, index, dim: index_select_p(g, index, dim=dim, who="getitem"),
)


def _zeros(spec: Spec) -> Tensor:
    """Zeros of this spec that take no room."""
    return expand(x_spec_zeros(spec, ()), spec.shape)


@index_copy_p.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=make.tensor([3, 1], int64), source=make(2, 3))
    yield dict(input=make(2, 4), dim=-1, index=make.tensor([0, 2, 1], int64), source=make(2, 3))
    yield dict(input=make(), dim=0, index=make.ints(1, high=1), source=make())
    yield IndexError, dict(input=make(4), dim=0, index=make.tensor([-1], int64), source=make(1))
    yield IndexError, dict(input=make(4, 3), dim=0, index=make.ints(2), source=make(3))
    yield RuntimeError, dict(input=make(4, 3), dim=0, index=make.ints(2), source=make(2, 2))
    yield DTypeError, dict(input=make(4), dim=0, index=make.ints(1), source=make.ints(1))


@index_copy_p.ref
def _(input, dim, index, source):
    where_ = {int(i): k for k, i in enumerate(index)}
    if not input.ndim:
        return source
    return np.stack([np.take(source, where_[i], dim) if i in where_ else np.take(input, i, dim)
                     for i in range(input.shape[dim])], dim)


def _index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor, in_place: bool) -> Tensor:
    x, d, index, source = _rows("index_copy", input, dim, index, source, IndexError)
    y = _into(index_copy_p, in_place, x, index, source, dim=d, who="index_copy")
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(index_copy_p, method=True, out=True)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with rows ``index`` of ``dim`` replaced by the rows of source."""
    return _index_copy(input, dim, index, source, False)


_in_place(index_copy_p, "index_copy_", lambda self, dim, index, source: _index_copy(self, dim, index, source, True))


def _index_fill(input: Tensor, dim: int, index: Tensor, value: Any, in_place: bool) -> Tensor:
    d = dim_of("index_fill", dim, input._spec.ndim)
    if index._spec.dtype is not int64:
        raise IndexError(f"index_fill: index is {index._spec.dtype}; wanted int64")
    if index._spec.ndim > 1:
        raise IndexError(f"index_fill: index has shape {index._spec.shape}; wanted one dimension")
    x, index, w = input if input._spec.ndim else input.view(1), _vector(index), _value("index_fill", value, input)
    shape = x._spec.shape
    w = expand(w, (*shape[:d], index._spec.size, *shape[d + 1:]))
    y = _into(index_copy_p, in_place, x, index, w, dim=d, who="index_fill")
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@op(method=True)
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """input with rows ``index`` of ``dim`` filled with a number or a 0-d tensor. Negative indices count from the end."""
    return _index_fill(input, dim, index, value, False)


_in_place(index_fill, "index_fill_", lambda self, dim, index, value: _index_fill(self, dim, index, value, True))


@index_fill.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=make.tensor([0, -1], int64), value=1.5)
    yield dict(input=make(2, 4), dim=1, index=make.tensor([2, 2], int64), value=make())
    yield dict(input=make.ints(4), dim=0, index=make.ints(2, high=4), value=7)
    yield dict(input=make(), dim=0, index=make.ints(1, high=1), value=2.0)
    yield IndexError, dict(input=make(4), dim=0, index=make.tensor([4], int64), value=0)
    yield RuntimeError, dict(input=make(4), dim=0, index=make.ints(1), value=make(1))
    yield IndexError, dict(input=make(4), dim=0, index=make.ints(1, dtype=int32), value=0)


@index_fill.ref
def _(input, dim, index, value):
    if not input.ndim:
        return np.asarray(value)
    hit = np.isin(np.arange(input.shape[dim]), index % input.shape[dim])
    return np.where(np.expand_dims(hit, [k for k in range(input.ndim) if k != dim % input.ndim]), value, input)


# ---- several index tensors
@primitive(name="index", torch=lambda torch, input, indices, dims: input[
    tuple(indices[dims.index(d)] if d in dims else slice(None) for d in range(input.ndim))])
def index_p(xp, x, *indices, out, dims):
    """x[key] with ``indices`` at the dimensions ``dims`` of the key and whole slices elsewhere."""
    try:
        xp.copyto(out, x[_key(dims, indices)])
    except IndexError:
        _check_all(indices, "getitem", dims, x.shape)
        raise


@index_p.spec
def _(x, *indices, dims):
    for i in indices:
        _index_dtype("getitem", i, IndexError)
    return x.like(*_picked(x.shape, dims, _common("getitem", *indices)))


index_p.op.moves = True
index_p.grad(x=lambda g, x_spec, indices, dims: unindex_p(g, *indices, shape=x_spec.shape, dims=dims), indices=None)


@index_p.cases
def _(make):
    yield dict(input=make(4, 3), indices=[make.ints(5, high=4), make.ints(5, high=3)], dims=(0, 1))
    yield dict(input=make(2, 4, 3), indices=[make.ints(2, 1, high=4), make.ints(3, low=-3, high=3)], dims=(1, 2))
    yield dict(input=make(4, 2, 3), indices=[make.ints(2, 2, high=4), make.ints(2, high=3)], dims=(0, 2))
    yield dict(input=make(4, 3), indices=[make.ints(0), make.ints(1, high=3)], dims=(0, 1))
    yield IndexError, dict(input=make(4, 3), indices=[make.ints(2, high=4), make.tensor([3, 0], int64)], dims=(0, 1))
    yield IndexError, dict(input=make(4, 3), indices=[make.ints(2, high=3), make.ints(3, high=3)], dims=(0, 1))


@index_p.ref
def _(input, indices, dims):
    return input[tuple(indices[dims.index(d)] if d in dims else slice(None) for d in range(input.ndim))]


@face(index_p)
def _index(input: Tensor, indices: Any, dims: tuple) -> Tensor:
    """input[key] with ``indices`` at the dimensions ``dims`` and whole slices elsewhere."""
    return index_p(input, *indices, dims=dims)


@primitive(name="unindex", torch=None)
def unindex_p(xp, x, *indices, out, shape, dims):
    """Zeros of this shape with x added at ``indices``: the gradient of index."""
    out.fill(0)
    _check_all(indices, "unindex", dims, shape)
    _add_at(xp, out, _positions(xp, shape, dims, indices), x)


unindex_p.spec(lambda x, *indices, shape, dims: x.like(*shape))
unindex_p.grad(x=lambda g, indices, dims: index_p(g, *indices, dims=dims), indices=None)


@unindex_p.cases
def _(make):
    yield dict(x=make(5), indices=[make.ints(5, high=2), make.ints(5, high=3)], shape=(2, 3), dims=(0, 1))
    yield dict(x=make(2, 2, 3), indices=[make.ints(2, 1, low=-2, high=2), make.ints(2, high=2)], shape=(2, 3, 2),
               dims=(0, 2))


@unindex_p.ref
def _(x, indices, shape, dims):
    y = np.zeros(shape)
    np.add.at(y, tuple(indices[dims.index(d)] if d in dims else slice(None) for d in range(len(shape))), x)
    return y


@face(unindex_p)
def _unindex(x: Tensor, indices: Any, shape: tuple, dims: tuple) -> Tensor:
    return unindex_p(x, *indices, shape=shape, dims=dims)


@primitive(name="index_put", alias="elementwise")
def index_put_p(xp, x, w, *indices, out, dims, accumulate):
    """x with x[key] replaced by w, or w added to it (equal indices adding up). w stretches to the shape of x[key]."""
    _check_all(indices, "index_put", dims, x.shape)
    w, *indices = _onto(xp, x, out, w, *indices)
    if accumulate:
        positions = _positions(xp, x.shape, dims, indices)
        _add_at(xp, out, positions, xp.broadcast_to(w, positions.shape))
    else:
        out[_key(dims, indices)] = w


@index_put_p.spec
def _(x, w, *indices, dims, accumulate):
    for i in indices:
        _index_dtype("index_put", i, IndexError)
    _same_dtype("index_put", x, w, "values (Index put requires the source and destination dtypes match)")
    room = _picked(x.shape, dims, _common("index_put", *indices))
    if len(w.shape) > len(room) or any(a not in (1, b) for a, b in zip(w.shape[::-1], room[::-1])):
        raise ShapeError(f"index_put: shape mismatch: value tensor of shape {list(w.shape)} cannot be broadcast to "
                         f"indexing result of shape {list(room)}")
    return x.like(*x.shape)


def _put_dx(g, w_spec, indices, dims, accumulate):
    return g if accumulate else index_put_p(g, x_spec_zeros(w_spec, ()), *indices, dims=dims, accumulate=False)


index_put_p.grad(
    x=_put_dx,
    w=lambda g, w_spec, indices, dims: index_p(g, *indices, dims=dims).sum_to_size(w_spec.shape),
    indices=None,
)


@index_put_p.cases
def _(make):
    yield dict(input=make(4, 3), indices=[make.tensor([3, 1], int64)], values=make(2, 3))
    yield dict(input=make(4, 3), indices=[make.tensor([3, -3], int64), make.tensor([0, 1], int64)], values=make(2))
    yield dict(input=make(4, 3), indices=[make.ints(6, high=4), make.ints(6, high=3)], values=make(1), accumulate=True)
    yield dict(input=make(4, 3), indices=[make.ints(6, high=4)], values=make(3), accumulate=True)
    yield dict(input=make(4, 3), indices=[make.bools(4, 3)], values=make())
    yield RuntimeError, dict(input=make(4, 3), indices=[make.ints(2, high=4)], values=make(2))
    yield IndexError, dict(input=make(4), indices=[make.tensor([4], int64)], values=make(1))
    yield RuntimeError, dict(input=make(4), indices=[make.ints(2, high=4)], values=make.ints(2))
    yield IndexError, dict(input=make(4), indices=[make.ints(2, high=4), make.ints(2, high=4)], values=make(2))


@index_put_p.ref
def _(input, indices, values, accumulate=False):
    y = input.copy()
    places = np.arange(input.size).reshape(input.shape)[tuple(indices)]
    for p, v in zip(places.ravel(), np.broadcast_to(values, places.shape).ravel()):
        y.flat[p] = y.flat[p] + v if accumulate else v
    return y


def _index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool, in_place: bool) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"index_put: argument 'values' must be Tensor, not {type(values).__name__}")
    for k, i in enumerate(indices):
        if not isinstance(i, Tensor):
            raise TypeError(f"index_put: expected Tensor as element {k} of indices, but got {type(i).__name__}")
    if not len(indices):
        raise RuntimeError("index_put: indices is empty; wanted at least one tensor")
    _, items = _parse("index_put", input, tuple(i if i._spec.ndim else reshape(i, (1,)) for i in indices))
    dims, tensors = _expanded(items)
    return _into(index_put_p, in_place, input, values, *tensors, dims=dims, accumulate=bool(accumulate))


@face(index_put_p, method=True)
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """input with input[indices] replaced by ``values``, or with them added to it (equal indices adding up).

    >>> import tensorlite as tl
    >>> tl.index_put(tl.zeros(3), (tl.tensor([0, 2]),), tl.tensor([1.0, 5.0]))
    tensor([1., 0., 5.])
    """
    return _index_put(input, indices, values, accumulate, False)


_in_place(index_put_p, "index_put_", lambda self, indices, values, accumulate=False:
          _index_put(self, indices, values, accumulate, True))


# ---- keys
def _plain(key: Any) -> tuple | None:
    """A key of ints, slices, None and Ellipsis as the constant that slice_p takes; None where there is more to it.

    Only exact types pass: True, 1.0 and 1 are equal, and would be one constant.
    """
    c = key.__class__
    if c is int:
        return (key,)
    parts = []
    for k in key if c is tuple else (key,):
        c = k.__class__
        if c is int or k is None or k is Ellipsis:
            parts.append(k)
        elif c is slice:
            a, b, step = k.start, k.stop, k.step
            if ((a is None or a.__class__ is int) and (b is None or b.__class__ is int)
                    and (step is None or (step.__class__ is int and step > 0))):
                parts.append((a, b, step))
            else:
                return None
        else:
            return None
    return tuple(parts)


def _bound(value: Any) -> int | None:
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise TypeError(f"getitem: slice bound {value!r} is {type(value).__name__}; slice indices must be integers or "
                        "None or have an __index__ method") from None


def _member(k: Any) -> Any:
    """One part of a key: an int, a bool, None, Ellipsis, a slice's (start, stop, step), or a tensor with dimensions."""
    if k is None or k is Ellipsis or k.__class__ is int:
        return k
    if isinstance(k, (bool, np.bool_)):
        return bool(k)
    if isinstance(k, slice):
        step = _bound(k.step)
        if step is not None and step <= 0:
            raise ValueError(f"getitem: slice step {step}; step must be greater than zero")
        return _bound(k.start), _bound(k.stop), step
    if not isinstance(k, Tensor):
        if isinstance(k, str):
            raise TypeError(f"getitem: got {k!r}; wanted integers, slices, ..., None, tensors or lists of integers")
        if hasattr(k, "__index__") and not isinstance(k, np.ndarray):
            return operator.index(k)
        if not isinstance(k, (np.ndarray, list, tuple, range)):
            raise IndexError(f"getitem: got {k!r}; only integers, slices (`:`), ellipsis (`...`), None and long or byte "
                             f"Variables are valid indices (got {type(k).__name__})")
        given, k = k, tensor(list(k) if isinstance(k, range) else k)
        if not k._spec.size and not isinstance(given, np.ndarray) or k._spec.dtype.category == INTEGER:
            k = k.to(int64)
    d = k._spec.dtype
    if d is uint8:
        warnings.warn("indexing with dtype uint8 is deprecated, please use a dtype bool instead.", stacklevel=4)
        k, d = k != 0, boolean
    if d is not int64 and d is not int32 and d is not boolean:
        raise IndexError(f"getitem: index is {d}; tensors used as indices must be long, int, byte or bool tensors")
    if k._spec.ndim:
        return k
    return bool(k) if d is boolean else int(k)


def _is_many(key: Any) -> bool:
    """Whether a list stands for a tuple of indices: PyTorch reads x[[[0, 1], [1, 0]]] as x[[0, 1], [1, 0]]."""
    return (isinstance(key, list) and len(key) < 32
            and any(k is None or k is Ellipsis or isinstance(k, (Tensor, slice, list, tuple, str, np.ndarray)) for k in key))


def _parse(who: str, x: Tensor, key: Any) -> tuple[tuple | None, list]:
    """A key as two steps: the constant of slice_p (None where nothing is to do), and what then stands at which
    dimension: tensors of integers or bool."""
    if _is_many(key):
        warnings.warn("Using a non-tuple sequence for multidimensional indexing is deprecated; use x[tuple(seq)] instead "
                      "of x[seq]", stacklevel=3)
        key = tuple(key)
    parts = [_member(k) for k in (key if isinstance(key, tuple) else (key,))]
    shape = x._spec.shape
    used = sum(k._spec.ndim if isinstance(k, Tensor) and k._spec.dtype is boolean
               else not (k is None or k is Ellipsis or k.__class__ is bool) for k in parts)
    if used > len(shape):
        raise IndexError(f"{who}: too many indices for tensor of dimension {len(shape)}: got {used}")
    basic: list = []
    items: list = []
    source = at = 0  # the dimension of x that the next part speaks of, and where it stands once the basic part is done
    for n, k in enumerate(parts):
        if k is Ellipsis:
            basic.append(k)
            source, at = source + len(shape) - used, at + len(shape) - used
        elif k is None:
            basic.append(k)
            at += 1
        elif k.__class__ is bool:
            basic.append(None)
            items.append((at, from_array(np.zeros(int(k), np.int64))))
            at += 1
        elif isinstance(k, Tensor):
            rank = k._spec.ndim if k._spec.dtype is boolean else 1
            if k._spec.dtype is boolean and k._spec.shape != shape[source:source + rank]:
                raise IndexError(f"{who}: The shape of the mask {list(k._spec.shape)} at index {n} does not match the shape "
                                 f"of the indexed tensor {list(shape)} at index {source}")
            items.append((at, k))
            basic += [(None, None, None)] * rank
            source, at = source + rank, at + rank
        else:
            basic.append(k)
            source, at = source + 1, at + (k.__class__ is tuple)
    whole = all(k is Ellipsis or k == (None, None, None) for k in basic) and basic.count(Ellipsis) < 2
    return None if whole and items else tuple(basic), items


def _expanded(items: list) -> tuple[tuple, list]:
    """Dimensions and integer tensors, each mask as one tensor a dimension."""
    dims: list = []
    tensors: list = []
    for d, t in items:
        found = nonzero_p(t, as_tuple=True) if t._spec.dtype is boolean else (t,)
        dims += range(d, d + len(found))
        tensors += found
    return tuple(dims), tensors


@method("__getitem__")
def getitem(self: Tensor, key: Any) -> Tensor:
    """x[key] by PyTorch's rules: a view for ints, slices, None and ..., a copy where tensors, lists or masks pick.

    >>> import tensorlite as tl
    >>> x = tl.arange(6).view(2, 3)
    >>> x[:, 1], x[[1, 0], [0, 2]], x[x > 3]
    (tensor([1, 4]), tensor([3, 2]), tensor([4, 5]))
    """
    if key.__class__ is int:
        return slice_p(self, key=(key,))
    basic = _plain(key)
    if basic is not None:
        return slice_p(self, key=basic)
    basic, items = _parse("getitem", self, key)
    x = self if basic is None else slice_p(self, key=basic)
    if not items:
        return x
    if len(items) > 1:
        dims, tensors = _expanded(items)
        return index_p(x, *tensors, dims=dims)
    d, index = items[0]
    if index._spec.dtype is boolean:
        shape, rank = x._spec.shape, index._spec.ndim
        if rank > 1:
            x = reshape(x, (*shape[:d], index._spec.size, *shape[d + rank:]))
        index = nonzero_p(reshape(index, (index._spec.size,)), as_tuple=True)[0]
    return index_select_p(x, index, dim=d, who="getitem")


@method("__setitem__")
def setitem(self: Tensor, key: Any, value: Any) -> None:
    """x[key] = value. The value is stretched to the shape of x[key]; numbers fill it.

    Basic keys and masks cast a tensor to x's dtype; other tensor indices want it of that dtype, as in PyTorch.
    """
    items: list = []
    basic = _plain(key)
    if basic is None:
        basic, items = _parse("setitem", self, key)
    x = self if basic is None else slice_p(self, key=basic)
    if not isinstance(value, Tensor):
        value = number("setitem", value, self)
    if not items:
        if _is_same(x, value):
            return  # x[1:] += y has added in place already
        if value._spec.ndim:
            x.copy_(_fitted(_cast(value, x._spec.dtype), x._spec.shape))
        else:
            fill_p.op.into(x, x, _cast(value, x._spec.dtype))
        return
    d, mask = items[0]
    if len(items) == 1 and mask._spec.dtype is boolean and not value._spec.ndim:
        tail = x._spec.ndim - d - mask._spec.ndim
        mask = reshape(mask, (*mask._spec.shape, *(1,) * tail)) if tail else mask
        masked_fill_p.op.into(x, x, mask, _cast(value, x._spec.dtype))
        return
    dims, tensors = _expanded(items)
    room = _picked(x._spec.shape, dims, _common("setitem", *(t._spec for t in tensors)))
    index_put_p.op.into(x, x, _fitted(value, room), *tensors, dims=dims, accumulate=False)


def _fitted(value: Tensor, room: tuple) -> Tensor:
    """The value without leading dimensions of size 1 that x[key] has not; refused where it does not stretch to it."""
    shape = value._spec.shape
    extra = max(len(shape) - len(room), 0)
    kept = shape[extra:]
    if any(n != 1 for n in shape[:extra]) or any(a not in (1, b) for a, b in zip(kept[::-1], room[::-1])):
        raise ShapeError(f"setitem: shape mismatch: value tensor of shape {list(shape)} cannot be broadcast to indexing "
                         f"result of shape {list(room)}")
    return reshape(value, kept) if extra else value


def _is_same(x: Tensor, value: Tensor) -> bool:
    """Whether ``value`` is the very view x, history included: same base, memory and geometry."""
    return (value._ver is x._ver and value._view is not None and value._spec is x._spec
            and value._arr.strides == x._arr.strides and address(value._arr) == address(x._arr)
            and value._view.path()[0] is x._view.path()[0])


# ---- one index an element
def _along(who: str, input: Tensor, dim: int, index: Tensor, src: Tensor | None = None) -> tuple:
    """Checked arguments of gather and scatter, each with one dimension at least."""
    x, i = input._spec, index._spec
    d = dim_of(who, dim, x.ndim)
    _index_dtype(who, i)
    if max(x.ndim, 1) != max(i.ndim, 1):
        raise ShapeError(f"{who}: index has {i.ndim} dimensions and input {x.ndim}; Index tensor must have the same number "
                         "of dimensions as input tensor")
    if src is not None:
        _same_dtype(who, x, src._spec, "src")
        if max(src._spec.ndim, 1) != max(i.ndim, 1):
            raise ShapeError(f"{who}: index has {i.ndim} dimensions and src {src._spec.ndim}; Index tensor must have the "
                             "same number of dimensions as src tensor")
        if any(a > b for a, b in zip(i.shape, src._spec.shape)):
            raise ShapeError(f"{who}: index is {list(i.shape)} and src {list(src._spec.shape)}; wanted no size of index "
                             "larger than that of src")
    if any(a > b for k, (a, b) in enumerate(zip(i.shape, x.shape)) if k != d):
        raise ShapeError(f"{who}: index is {list(i.shape)} and input {list(x.shape)}; wanted no size of index larger than "
                         f"that of input apart from dimension {d}")
    return tuple(t if t is None or t._spec.ndim else t.view(1) for t in (input, index, src)), d


def _cropped(array: Any, index: Any, dim: int = -1) -> Any:
    """The part of an array that the index reaches: cut to its sizes, except along ``dim``."""
    return array[tuple(slice(None) if k == dim else slice(n) for k, n in enumerate(index.shape))]


def _places(xp: Any, shape: tuple, index: Any, dim: int) -> Any:
    """Where the elements that an index means along ``dim`` stand, counted in C order."""
    index, total, step = xp.where(index < 0, index + shape[dim], index).astype(np.int64), 0, 1
    for k in reversed(range(len(shape))):
        along = xp.arange(index.shape[k]).reshape((-1,) + (1,) * (len(shape) - 1 - k))
        total = total + (index if k == dim else along) * step
        step *= shape[k]
    return total


@primitive(name="gather")
def gather_p(xp, x, index, out, *, dim, wraps):
    """out[i][j] = x[index[i][j]][j] for dim 0, and so on: an element of x along dim for each element of index."""
    _check(index, "take_along_dim" if wraps else "gather", dim, x.shape[dim], wraps)
    if index.size:
        xp.copyto(out, xp.take_along_axis(_cropped(x, index, dim), index, dim))


gather_p.spec(lambda x, index, *, dim, wraps: x.like(*index.shape))
gather_p.op.moves = True
gather_p.grad(
    x=lambda g, x_spec, index, dim, wraps: scatter_add_p(x_spec_zeros(x_spec, x_spec.shape), index, g, dim=dim, wraps=wraps),
    index=None,
)


@gather_p.cases
def _(make):
    yield dict(input=make(3, 4), dim=1, index=make.ints(3, 5, high=4))
    yield dict(input=make(3, 4), dim=0, index=make.ints(2, 3, high=3))
    yield dict(input=make(2, 3, 4), dim=-2, index=make.ints(2, 1, 4, high=3, dtype=int32))
    yield dict(input=make(), dim=0, index=make.ints(2, high=1))
    yield dict(input=make(3), dim=0, index=make.ints(high=3))
    yield dict(input=make(3, 4), dim=0, index=make.ints(0))
    yield IndexError, dict(input=make(3, 4), dim=1, index=make.tensor([[4]], int64))
    yield RuntimeError, dict(input=make(3, 4), dim=1, index=make.tensor([[-1]], int64))
    yield ShapeError, dict(input=make(3, 4), dim=1, index=make.ints(2))
    yield ShapeError, dict(input=make(3, 4), dim=1, index=make.ints(4, 4))
    yield DTypeError, dict(input=make(3, 4), dim=1, index=make(3, 4))


@gather_p.ref
def _(input, dim, index):
    y = np.empty(index.shape)
    for at in np.ndindex(index.shape):
        place = list(at)
        place[dim:dim + 1 or None] = [index[at]]
        y[at] = input[tuple(place)] if input.ndim else input
    return y


@face(gather_p, method=True, out=True)
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """For each element of index, the element of input at that place along ``dim``: out[i][j] = input[i][index[i][j]] for
    dim 1. Indices are 0 to size - 1.

    >>> import tensorlite as tl
    >>> tl.gather(tl.tensor([[1, 2], [3, 4]]), 1, tl.tensor([[0, 0], [1, 0]]))
    tensor([[1, 1],
            [4, 3]])
    """
    if not index._spec.size and index._spec.ndim != input._spec.ndim:
        _index_dtype("gather", index._spec)
        return input.new_empty(index._spec.shape)
    (x, i, _), d = _along("gather", input, dim, index)
    y = gather_p(x, i, dim=d, wraps=False)
    return y if index._spec.ndim else reshape(y, ())


@op(method=True, out=True)
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """gather with the two stretched to each other in the other dimensions; without ``dim`` both are taken flat.

    Negative indices count from the end.
    """
    if indices._spec.dtype is not int64:
        raise DTypeError(f"take_along_dim: indices are {indices._spec.dtype}; wanted int64")
    if dim is None:
        return gather_p(reshape(input, (input._spec.size,)), reshape(indices, (indices._spec.size,)), dim=0, wraps=True)
    x, i = input._spec, indices._spec
    if x.ndim != i.ndim:
        raise ShapeError(f"take_along_dim: input and indices should have the same number of dimensions, but got {x.ndim} "
                         f"dimensions for input, and {i.ndim} dimensions for indices")
    d = dim_of("take_along_dim", dim, x.ndim)
    if not x.ndim:
        return reshape(take_along_dim(input, indices), ())
    common = broadcast("take_along_dim", (*x.shape[:d], 1, *x.shape[d + 1:]), (*i.shape[:d], 1, *i.shape[d + 1:]))
    return gather_p(expand(input, (*common[:d], x.shape[d], *common[d + 1:])),
                    expand(indices, (*common[:d], i.shape[d], *common[d + 1:])), dim=d, wraps=True)


@take_along_dim.cases
def _(make):
    yield dict(input=make(3, 4), indices=make.ints(3, 2, high=4), dim=1)
    yield dict(input=make(3, 4), indices=make.ints(1, 2, low=-4, high=4), dim=1)
    yield dict(input=make(3, 4), indices=make.ints(5, high=12))
    yield RuntimeError, dict(input=make(3, 4), indices=make.ints(2), dim=1)
    yield RuntimeError, dict(input=make(3, 4), indices=make(3, 4), dim=1)
    yield RuntimeError, dict(input=make(3, 4), indices=make.tensor([[4]], int64), dim=1)


@take_along_dim.ref
def _(input, indices, dim=None):
    if dim is None:
        return np.array([input.flat[i] for i in indices.flat])
    return np.take_along_axis(input, np.tile(indices, (input.shape[0] // indices.shape[0], 1)), dim)


@primitive(name="scatter", alias="elementwise")
def scatter_p(xp, x, index, w, out, *, dim):
    """x with out[index[i][j]][j] = w[i][j] for dim 0, and so on; of equal places the last wins."""
    _check(index, "scatter", dim, x.shape[dim], False)
    index, w = _onto(xp, x, out, index, w)
    if index.size:
        xp.put_along_axis(_cropped(out, index, dim), index, _cropped(w, index), dim)


def _scatter_spec(x, index, w, *, dim, wraps=False):
    return x.like(*x.shape)


def _scatter_dw(g, index, w_spec, dim, wraps=False):
    taken = gather_p(g, index, dim=dim, wraps=wraps)
    if taken._spec.shape == w_spec.shape:
        return taken
    return unslice_p(taken, shape=w_spec.shape, key=tuple((None, n, None) for n in taken._spec.shape))


scatter_p.spec(_scatter_spec)
scatter_p.op.moves = True
scatter_p.grad(
    x=lambda g, index, w_spec, dim: scatter_p(g, index, _zeros(w_spec), dim=dim),
    index=None,
    w=lambda g, index, w_spec, dim: _scatter_dw(g, index, w_spec, dim),
)


@scatter_p.cases
def _(make):
    yield dict(input=make(3, 4), dim=1, index=make.tensor([[3, 0], [1, 2]], int64), src=make(2, 2))
    yield dict(input=make(3, 4), dim=0, index=make.tensor([[2, 0, 1]], int64), src=make(2, 4))
    yield dict(input=make(3, 4), dim=1, index=make.tensor([[1], [1], [0]], int64), value=1.5)
    yield dict(input=make.ints(3), dim=0, index=make.ints(2, high=3, dtype=int32), value=7)
    yield dict(input=make(), dim=0, index=make.ints(1, high=1), src=make(1))
    yield IndexError, dict(input=make(3), dim=0, index=make.tensor([3], int64), src=make(1))
    yield RuntimeError, dict(input=make(3), dim=0, index=make.tensor([-1], int64), src=make(1))
    yield RuntimeError, dict(input=make(3, 4), dim=1, index=make.ints(3, 4, high=4), src=make(3, 3))
    yield RuntimeError, dict(input=make(3), dim=0, index=make.ints(2), src=make.ints(2))
    yield RuntimeError, dict(input=make(3), dim=0, index=make(2), src=make(2))


def _scatter_ref(how):
    def ref(input, dim, index, src=None, value=None):
        y = np.array(input, dtype=float if src is not None else None)
        for at in np.ndindex(index.shape):
            place = list(at)
            place[dim] = index[at]
            place = tuple(place) if y.ndim else ()
            y[place] = how(y[place], value if src is None else src[at])
        return y

    return ref


scatter_p.ref(_scatter_ref(lambda old, new: new))


def _scatter(input: Tensor, dim: int, index: Tensor, src: Any, value: Any, reduce: Any, in_place: bool) -> Tensor:
    if reduce is not None:
        raise NotImplementedError(f"scatter: reduce={reduce!r} is not supported; wanted None (scatter_add adds)")
    if (src is None) == (value is None):
        raise TypeError("scatter: wanted either src or value")
    if not isinstance(src, Tensor):
        w = number("scatter", value if src is None else src, input)
        src = expand(w, index._spec.shape)
    return _scattered(scatter_p, "scatter", input, dim, index, src, in_place)


def _scattered(p: Any, who: str, input: Tensor, dim: int, index: Tensor, src: Tensor, in_place: bool, **kw: Any) -> Tensor:
    if not index._spec.size:
        _index_dtype(who, index._spec)
        return input if in_place else input.clone()
    (x, i, w), d = _along(who, input, dim, index, src)
    y = _into(p, in_place, x, i, w, dim=d, **kw)
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(scatter_p, method=True, out=True)
def scatter(input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: Any = None) -> Tensor:
    """input with elements of ``src`` (or one number) written at the places along ``dim`` that index says:
    out[i][index[i][j]] = src[i][j] for dim 1.

    >>> import tensorlite as tl
    >>> tl.scatter(tl.zeros(2, 3), 1, tl.tensor([[2], [0]]), 1.0)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return _scatter(input, dim, index, src, value, reduce, False)


_in_place(scatter_p, "scatter_", lambda self, dim, index, src=None, *, value=None, reduce=None:
          _scatter(self, dim, index, src, value, reduce, True))


@primitive(name="scatter_add", alias="elementwise")
def scatter_add_p(xp, x, index, w, out, *, dim, wraps):
    """x with w[i][j] added to out[index[i][j]][j] for dim 0, and so on; equal places add up."""
    _check(index, "scatter_add", dim, x.shape[dim], wraps)
    index, w = _onto(xp, x, out, index, w)
    if index.size:
        _add_at(xp, out, _places(xp, x.shape, index, dim), _cropped(w, index))


scatter_add_p.spec(_scatter_spec)
scatter_add_p.grad(
    x=lambda g: g,
    index=None,
    w=lambda g, index, w_spec, dim, wraps: _scatter_dw(g, index, w_spec, dim, wraps),
)


@scatter_add_p.cases
def _(make):
    yield dict(input=make(3, 4), dim=1, index=make.ints(3, 6, high=4), src=make(3, 6))
    yield dict(input=make(3, 4), dim=0, index=make.ints(2, 3, high=3), src=make(4, 4))
    yield dict(input=make.ints(3), dim=0, index=make.ints(5, high=3, dtype=int32), src=make.ints(5))
    yield dict(input=make(), dim=0, index=make.ints(2, high=1), src=make(2))
    yield IndexError, dict(input=make(3), dim=0, index=make.tensor([3], int64), src=make(1))
    yield RuntimeError, dict(input=make(3), dim=0, index=make.tensor([-1], int64), src=make(1))
    yield RuntimeError, dict(input=make(3), dim=0, index=make.ints(2), src=make.ints(2))
    yield RuntimeError, dict(input=make(3), dim=0, index=make.ints(2, 2), src=make(2, 2))


scatter_add_p.ref(_scatter_ref(lambda old, new: old + new))


@face(scatter_add_p, method=True, out=True)
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """input with elements of ``src`` added at the places along ``dim`` that index says; equal places add up.

    >>> import tensorlite as tl
    >>> tl.scatter_add(tl.zeros(3), 0, tl.tensor([0, 0, 2]), tl.tensor([1.0, 2.0, 3.0]))
    tensor([3., 0., 3.])
    """
    return _scatter_add(input, dim, index, src, False)


def _scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor, in_place: bool) -> Tensor:
    if not isinstance(src, Tensor):
        raise TypeError(f"scatter_add: argument 'src' must be Tensor, not {type(src).__name__}")
    return _scattered(scatter_add_p, "scatter_add", input, dim, index, src, in_place, wraps=False)


_in_place(scatter_add_p, "scatter_add_", lambda self, dim, index, src: _scatter_add(self, dim, index, src, True))


# ---- rows of a table
@primitive(name="embedding", torch="nn.functional.embedding")
def embedding_p(xp, x, w, out, *, padding, by_freq):
    """w[x]: for each integer of x its row of w. Row ``padding`` gets no gradient; ``by_freq`` divides each row's by how
    often the row occurs in x."""
    _check(x, "embedding", 0, w.shape[0], False)
    if x.size:
        w.take(x, 0, out, "clip")


@embedding_p.spec
def _(x, w, *, padding, by_freq):
    _index_dtype("embedding", x)
    if w.ndim != 2:
        raise ShapeError(f"embedding: weight has {w.ndim} dimensions; 'weight' must be 2-D")
    return w.like(*x.shape, w.shape[1])


def _embedding_dw(g, x, w_spec, padding, by_freq):
    if padding is not None:
        g = g.masked_fill((x == padding).unsqueeze(-1), 0)
    if by_freq:
        counts = unselect_p(g.new_ones(x._spec.shape), x, shape=(w_spec.shape[0],), dim=0)
        g = g / index_select_p(counts, x, dim=0, who="embedding").unsqueeze(-1)
    return unselect_p(g, x, shape=w_spec.shape, dim=0)


embedding_p.op.moves = True
embedding_p.grad(x=None, w=_embedding_dw)


@embedding_p.cases
def _(make):
    yield dict(input=make.ints(2, 3, high=4), weight=make(4, 5))
    yield dict(input=make.ints(6, high=4, dtype=int32), weight=make(4, 5), padding_idx=1)
    yield dict(input=make.ints(6, high=4), weight=make(4, 5), padding_idx=-1, scale_grad_by_freq=True)
    yield dict(input=make.ints(high=4), weight=make(4, 5))
    yield dict(input=make.ints(0, 2), weight=make(4, 5))
    yield IndexError, dict(input=make.tensor([4], int64), weight=make(4, 5))
    yield IndexError, dict(input=make.tensor([-1], int64), weight=make(4, 5))
    yield DTypeError, dict(input=make(2), weight=make(4, 5))
    yield RuntimeError, dict(input=make.ints(2), weight=make(4))
    yield AssertionError, dict(input=make.ints(2), weight=make(4, 5), padding_idx=4)


@embedding_p.ref
def _(input, weight, padding_idx=None, scale_grad_by_freq=False):
    return np.equal.outer(input, np.arange(len(weight))).astype(float) @ weight


@face(embedding_p)
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
              norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:
    """For each integer of input its row of weight (V, D): input.shape + (D,).

    Args:
        padding_idx: a row that gets no gradient.
        max_norm: rows longer than this (in the ``norm_type`` norm) are first shortened to it, in place.
        scale_grad_by_freq: divide each row's gradient by how often the row occurs in input.
        sparse: sparse gradients are not supported.

    >>> import tensorlite as tl
    >>> embedding(tl.tensor([1, 0]), tl.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[3., 4.],
            [1., 2.]])
    """
    if sparse:
        raise NotImplementedError("embedding: sparse=True is not supported; gradients are dense")
    w = weight._spec
    if padding_idx is not None:
        if w.ndim and not -w.shape[0] <= padding_idx < w.shape[0]:
            raise AssertionError(f"embedding: padding_idx {padding_idx} for {w.shape[0]} rows; Padding_idx must be within "
                                 "num_embeddings")
        padding_idx = padding_idx % w.shape[0] if w.ndim else 0
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type)
    return embedding_p(input, weight, padding=padding_idx, by_freq=bool(scale_grad_by_freq))


def _shorten(weight: Tensor, index: Tensor, most: float, p: float) -> None:
    """Shorten the rows of weight that index names to norm ``most``, in place."""
    with no_grad():
        counts = unselect_p(weight.new_ones(index._spec.shape), index, shape=weight._spec.shape[:1], dim=0)
        named = nonzero_p(counts != 0, as_tuple=True)[0]
        rows = index_select_p(weight, named, dim=0, who="embedding")
        length = norm(rows, p, 1, keepdim=True)
        scale = (length + 1e-7).reciprocal() * most
        weight.index_copy_(0, named, rows * scale.masked_fill(length <= most, 1.0))


# ---- masks
@primitive(name="masked_fill", elementwise=True, promotes=(), alias="elementwise")
def masked_fill_p(xp, x, mask, w, out):
    """w, one element, where mask is True, x elsewhere."""
    mask, w = _onto(xp, x, out, mask, w)
    xp.copyto(out, w, where=mask)


@masked_fill_p.spec
def _(x, mask, w):
    if mask.dtype is not boolean:
        raise DTypeError(f"masked_fill: mask is {mask.dtype}; only supports boolean masks")
    return spec_of(broadcast("masked_fill", x.shape, mask.shape), x.dtype, x.device)


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
    return masked_fill_p(input, mask, _value("masked_fill", value, input))


_in_place(masked_fill_p, "masked_fill_", lambda self, mask, value:
          masked_fill_p.op.into(self, self, mask, _value("masked_fill_", value, self)))


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


@op(method=True, out=True)
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where mask is True, in one dimension. Input and mask stretch to each other."""
    if mask._spec.dtype is not boolean:
        raise DTypeError(f"masked_select: mask is {mask._spec.dtype}; expected BoolTensor for mask")
    shape = broadcast("masked_select", input._spec.shape, mask._spec.shape) or (1,)
    return getitem(expand(input, shape), expand(mask, shape))


@masked_select.cases
def _(make):
    yield dict(input=make(3, 4), mask=make.bools(3, 4))
    yield dict(input=make(3, 1), mask=make.bools(4))
    yield dict(input=make(), mask=make.bools())
    yield RuntimeError, dict(input=make(3), mask=make.ints(3))
    yield RuntimeError, dict(input=make(3), mask=make.bools(4))


@masked_select.ref
def _(input, mask):
    a, m = np.broadcast_arrays(input, mask)
    return np.array([v for v, b in zip(a.flat, m.flat) if b], input.dtype)


@primitive(name="one_hot", torch="nn.functional.one_hot")
def one_hot_p(xp, x, out, *, classes):
    """1 at place x of a new last dimension, 0 elsewhere."""
    if x.size and x.max() >= classes:
        raise RuntimeError(f"one_hot: value {x.max()} for {classes} classes; Class values must be smaller than num_classes.")
    xp.equal(x[..., None], xp.arange(classes), out, casting="unsafe", dtype=None)


@one_hot_p.spec
def _(x, *, classes):
    return x.like(*x.shape, classes)


one_hot_p.nograd()


@one_hot_p.cases
def _(make):
    yield dict(tensor=make.ints(2, 3))
    yield dict(tensor=make.ints(3), num_classes=7)
    yield dict(tensor=make.ints(0), num_classes=3)
    yield RuntimeError, dict(tensor=make.tensor([3], int64), num_classes=3)
    yield RuntimeError, dict(tensor=make.tensor([-1], int64), num_classes=3)
    yield RuntimeError, dict(tensor=make.ints(0))
    yield RuntimeError, dict(tensor=make.ints(3, dtype=int32))


one_hot_p.ref(lambda tensor, num_classes=-1: np.eye(num_classes if num_classes > 0 else tensor.max() + 1, dtype=int)[tensor])


@face(one_hot_p)
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at place ``tensor`` of a new last dimension of ``num_classes`` (by default the largest value + 1), else 0. int64.

    >>> import tensorlite as tl
    >>> one_hot(tl.tensor([0, 2]))
    tensor([[1, 0, 0],
            [0, 0, 1]])
    """
    x = tensor._spec
    if x.dtype is not int64:
        raise DTypeError(f"one_hot: got {x.dtype}; wanted int64 (one_hot is only applicable to index tensor of type "
                         "LongTensor)")
    if x.size and tensor.min().item() < 0:
        raise RuntimeError(f"one_hot: value {tensor.min().item()}; Class values must be non-negative.")
    if num_classes == -1:
        if not x.size:
            raise RuntimeError("one_hot: Can not infer total number of classes from empty tensor.")
        num_classes = int(tensor.max().item()) + 1
    elif num_classes < 0 or (not num_classes and not x.size):
        raise RuntimeError(f"one_hot: num_classes {num_classes}; num_classes should be positive")
    return one_hot_p(tensor, classes=num_classes)


# ---- triangles and diagonals
def _triangle(name: str, keeps: str):
    @primitive(name=name, alias="elementwise")
    def triangle_p(xp, x, out, *, diagonal):
        other = xp.tri(*x.shape[-2:], diagonal - 1 if name == "triu" else diagonal, dtype=bool)
        _onto(xp, x, out)
        xp.copyto(out, xp.zeros((), out.dtype), where=other if name == "triu" else ~other)

    @triangle_p.spec
    def _(x, *, diagonal):
        if x.ndim < 2:
            raise ShapeError(f"{name}: got {x.ndim} dimensions; input tensor must have at least 2 dimensions")
        return x.like(*x.shape)

    triangle_p.op.moves = True
    triangle_p.grad(x=lambda g, diagonal: triangle_p(g, diagonal=diagonal))

    @triangle_p.cases
    def _(make):
        yield dict(input=make(3, 4))
        yield dict(input=make(2, 4, 3), diagonal=1)
        yield dict(input=make(4, 4), diagonal=-2)
        yield dict(input=make.bools(3, 3))
        yield RuntimeError, dict(input=make(3))

    @triangle_p.ref
    def _(input, diagonal=0):
        row, column = np.indices(input.shape[-2:])
        return np.where(column - row >= diagonal if name == "triu" else column - row <= diagonal, input, 0).astype(input.dtype)

    def triangle(input: Tensor, diagonal: int = 0) -> Tensor:
        return triangle_p(input, diagonal=int(diagonal))

    triangle.__name__ = triangle.__qualname__ = name
    triangle.__doc__ = f"The last two dimensions' elements on and {keeps} a diagonal (0 is the main one), 0 elsewhere."
    return face(triangle_p, method=name, in_place=True, out=True)(triangle)


tril, triu = _triangle("tril", "below"), _triangle("triu", "above")


def _diagonal_sizes(shape: tuple, offset: int, dim1: int, dim2: int) -> tuple[int, int, int]:
    """How long a diagonal is, and at which row and column it begins."""
    row, column = max(-offset, 0), max(offset, 0)
    return max(min(shape[dim1] - row, shape[dim2] - column), 0), row, column


def _diagonal_view(x: Any, offset: int, dim1: int, dim2: int) -> Any:
    n, row, column = _diagonal_sizes(x.shape, offset, dim1, dim2)
    start: list = [slice(None)] * x.ndim
    start[dim1], start[dim2] = slice(row if n else 0, None), slice(column if n else 0, None)
    part = x[tuple(start)]
    rest = [d for d in range(x.ndim) if d not in (dim1, dim2)]
    return strided(part, (*(x.shape[d] for d in rest), n),
                   (*(x.strides[d] for d in rest), x.strides[dim1] + x.strides[dim2]))


@primitive(view=True, name="diagonal")
def diagonal_p(xp, x, *, offset, dim1, dim2):
    """The elements x[i, i + offset] of two dimensions, as a new last dimension."""
    return _diagonal_view(x, offset, dim1, dim2)


@diagonal_p.spec
def _(x, *, offset, dim1, dim2):
    n = _diagonal_sizes(x.shape, offset, dim1, dim2)[0]
    return spec_of((*(s for d, s in enumerate(x.shape) if d not in (dim1, dim2)), n), x.dtype, x.device, STRIDED)


diagonal_p.grad(x=lambda g, x_spec, offset, dim1, dim2: undiagonal_p(
    g, shape=x_spec.shape, offset=offset, dim1=dim1, dim2=dim2))


@diagonal_p.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(3, 4), offset=-1)
    yield dict(input=make(2, 3, 4), offset=1, dim1=0, dim2=2)
    yield dict(input=make(3, 4), offset=5)
    yield IndexError, dict(input=make(3))
    yield RuntimeError, dict(input=make(3, 4), dim1=1, dim2=-1)


diagonal_p.ref(lambda input, offset=0, dim1=0, dim2=1: np.moveaxis(np.array(
    [np.moveaxis(input, (dim1, dim2), (0, 1))[i, i + offset] for i in range(input.shape[dim1])
     if 0 <= i + offset < input.shape[dim2]]).reshape(-1, *np.delete(input.shape, (dim1, dim2))), 0, -1))


@face(diagonal_p, method=True)
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions (``offset`` above the main one) as a new last dimension. A view."""
    n = input._spec.ndim
    a, b = dim_of("diagonal", dim1, n), dim_of("diagonal", dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal: dim1 {dim1} and dim2 {dim2}; diagonal dimensions cannot be identical")
    return diagonal_p(input, offset=int(offset), dim1=a, dim2=b)


@primitive(name="undiagonal", torch=None)
def undiagonal_p(xp, x, out, *, shape, offset, dim1, dim2):
    """Zeros of this shape with x on a diagonal: the gradient of diagonal."""
    out.fill(0)
    _diagonal_view(out, offset, dim1, dim2)[...] = x


undiagonal_p.spec(lambda x, *, shape, offset, dim1, dim2: x.like(*shape))
undiagonal_p.op.moves = True
undiagonal_p.grad(x=lambda g, offset, dim1, dim2: diagonal_p(g, offset=offset, dim1=dim1, dim2=dim2))


@undiagonal_p.cases
def _(make):
    yield dict(x=make(3), shape=(3, 3), offset=0, dim1=0, dim2=1)
    yield dict(x=make(2, 3), shape=(4, 2, 3), offset=-1, dim1=0, dim2=2)


@undiagonal_p.ref
def _(x, shape, offset, dim1, dim2):
    y = np.zeros(shape)
    moved = np.moveaxis(y, (dim1, dim2), (0, 1))
    for i in range(x.shape[-1]):
        moved[i - min(offset, 0), i + max(offset, 0)] = x[..., i]
    return y


@op(method=True)
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices (in dimensions dim1 and dim2 of the result) with the last dimension of input on a diagonal."""
    n = input._spec.ndim + 1
    a, b = dim_of("diag_embed", dim1, n), dim_of("diag_embed", dim2, n)
    if a == b:
        raise RuntimeError(f"diag_embed: dim1 {dim1} and dim2 {dim2}; diagonal dimensions cannot be identical")
    shape = list(input._spec.shape[:-1])
    size = input._spec.shape[-1] + abs(offset)
    for d in sorted((a, b)):
        shape.insert(d, size)
    return undiagonal_p(input, shape=tuple(shape), offset=int(offset), dim1=a, dim2=b)


@diag_embed.cases
def _(make):
    yield dict(input=make(2, 3))
    yield dict(input=make(2, 3), offset=1, dim1=0, dim2=2)
    yield dict(input=make(3), offset=-2)
    yield RuntimeError, dict(input=make(3), dim1=1, dim2=1)


@diag_embed.ref
def _(input, offset=0, dim1=-2, dim2=-1):
    full = np.stack([np.diag(row, offset) for row in input.reshape(-1, input.shape[-1])])
    return np.moveaxis(full.reshape(*input.shape[:-1], *full.shape[1:]), (-2, -1), (dim1, dim2))


@op(method=True, out=True)
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Of a vector the matrix with it on a diagonal; of a matrix its diagonal, as a copy."""
    if input._spec.ndim == 1:
        return diag_embed(input, diagonal)
    if input._spec.ndim != 2:
        raise ShapeError(f"diag: got {input._spec.ndim} dimensions; wanted 1 or 2 (Supports 1D or 2D tensors)")
    return diagonal_p(input, offset=int(diagonal), dim1=0, dim2=1).clone()


@diag.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(3), diagonal=-1)
    yield dict(input=make(3, 4), diagonal=2)
    yield RuntimeError, dict(input=make())
    yield RuntimeError, dict(input=make(2, 2, 2))


diag.ref(lambda input, diagonal=0: np.diag(input, diagonal))


# ---- equality of whole tensors
@primitive(name="isclose", elementwise=True, promotes=(), out_dtype=boolean)
def isclose_p(xp, x, w, out, *, rtol, atol, equal_nan):
    """|x - w| <= atol + rtol * |w|, or x == w."""
    xp.equal(x, w, out)
    if equal_nan and x.dtype.kind == "f":
        xp.logical_or(out, (x != x) & (w != w), out)  # noqa: PLR0124
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
    yield dict(input=make.tensor([1.0, float("inf"), float("nan")]), other=make.tensor([1.0, float("inf"), float("nan")]),
               equal_nan=True)
    yield dict(input=make(3, 1), other=make(4), atol=1.0)
    yield dict(input=make.ints(5), other=make.ints(5), atol=1.5)
    yield RuntimeError, dict(input=make(3), other=make.ints(3))
    yield RuntimeError, dict(input=make(3), other=make(3), rtol=-1.0)
    yield RuntimeError, dict(input=make(3), other=make(4))


isclose_p.ref(lambda input, other, rtol=1e-5, atol=1e-8, equal_nan=False: np.isclose(input, other, rtol, atol, equal_nan))


@face(isclose_p, method=True)
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Element by element, whether |input - other| <= atol + rtol * |other|. Both must be of one dtype."""
    if not isinstance(other, Tensor):
        raise TypeError(f"isclose: argument 'other' must be Tensor, not {type(other).__name__}")
    _same_dtype("isclose", input._spec, other._spec, "other")
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
