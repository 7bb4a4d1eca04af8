"""x[key] and x[key] = value, and the ops on several index tensors behind them. Floor 3.

Integers, slices, None and Ellipsis make views (``slice_p`` of shape.py). Tensors of integers pick copies; a mask is
turned into the integers where it is True, so only the mask's own sizes are known beforehand.
"""

from __future__ import annotations

import operator
import warnings
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, method, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor, address, placed
from tensorlite.dtypes import INTEGER, int32, int64, uint8
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops import places
from tensorlite.ops.create import fill_p, tensor
from tensorlite.ops.mask import masked_fill_p, nonzero_p
from tensorlite.ops.rows import index_select_p
from tensorlite.ops.shape import expand, reshape
from tensorlite.ops.slices import slice_p, x_spec_zeros
from tensorlite.shapes import broadcast

boolean = dtypes.bool


# ---- several index tensors
@primitive(
    name="index",
    signals=False,
    torch=lambda torch, input, indices, dims: input[
        tuple(indices[dims.index(d)] if d in dims else slice(None) for d in range(input.ndim))
    ],
)
def index_p(xp, x, *indices, out, dims):
    """x[key] with ``indices`` at the dimensions ``dims`` of the key and whole slices elsewhere."""
    try:
        xp.copyto(out, x[places.key_at(dims, indices)])
    except IndexError:
        places.check_all(indices, "getitem", dims, x.shape)
        raise


@index_p.spec
def _(x, *indices, dims):
    for i in indices:
        places.index_dtype("getitem", i, IndexError)
    return x.like(*places.picked_shape(x.shape, dims, places.common_shape("getitem", *indices)))


index_p.op.moves = True
index_p.kernel("cuda", "index.index", "", formats=ANY)
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
    places.check_all(indices, "unindex", dims, shape)
    places.add_at(xp, out, places.positions(xp, shape, dims, indices), x)


unindex_p.spec(lambda x, *indices, shape, dims: x.like(*shape))
unindex_p.kernel("cuda", "scatter.unindex", "", formats=ANY)
unindex_p.grad(x=lambda g, indices, dims: index_p(g, *indices, dims=dims), indices=None)


@unindex_p.cases
def _(make):
    yield dict(x=make(5), indices=[make.ints(5, high=2), make.ints(5, high=3)], shape=(2, 3), dims=(0, 1))
    yield dict(
        x=make(2, 2, 3), indices=[make.ints(2, 1, low=-2, high=2), make.ints(2, high=2)], shape=(2, 3, 2), dims=(0, 2)
    )


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
    w, *indices = places.onto(xp, x, out, w, *indices)
    if accumulate:
        places.check_all(indices, "index_put", dims, x.shape)
        positions = places.positions(xp, x.shape, dims, indices)
        places.add_at(xp, out, positions, xp.broadcast_to(w, positions.shape))
    else:
        try:
            out[places.key_at(dims, indices)] = w
        except IndexError:  # NumPy looks at all indices before it writes
            places.check_all(indices, "index_put", dims, x.shape)
            raise


@index_put_p.spec
def _(x, w, *indices, dims, accumulate):
    for i in indices:
        places.index_dtype("index_put", i, IndexError)
    places.same_dtype("index_put", x, w, "values (Index put requires the source and destination dtypes match)")
    room = places.picked_shape(x.shape, dims, places.common_shape("index_put", *indices))
    if len(w.shape) > len(room) or any(a not in (1, b) for a, b in zip(w.shape[::-1], room[::-1])):
        raise ShapeError(
            f"index_put: shape mismatch: value tensor of shape {list(w.shape)} cannot be broadcast to "
            f"indexing result of shape {list(room)}"
        )
    return x.like(*x.shape)


index_put_p.kernel("cuda", "scatter.index_put", "", formats=ANY)


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
    hit = np.arange(input.size).reshape(input.shape)[tuple(indices)]
    for p, v in zip(hit.ravel(), np.broadcast_to(values, hit.shape).ravel()):
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
    return places.into(index_put_p, in_place, input, values, *tensors, dims=dims, accumulate=bool(accumulate))


@face(index_put_p, method=True)
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """input with input[indices] replaced by ``values``, or with them added to it (equal indices adding up).

    >>> import tensorlite as tl
    >>> tl.index_put(tl.zeros(3), (tl.tensor([0, 2]),), tl.tensor([1.0, 5.0]))
    tensor([1., 0., 5.])
    """
    return _index_put(input, indices, values, accumulate, False)


places.in_place(
    index_put_p,
    "index_put_",
    lambda self, indices, values, accumulate=False: _index_put(self, indices, values, accumulate, True),
)


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
            if (
                (a is None or a.__class__ is int)
                and (b is None or b.__class__ is int)
                and (step is None or (step.__class__ is int and step > 0))
            ):
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
        raise TypeError(
            f"getitem: slice bound {value!r} is {type(value).__name__}; slice indices must be integers or "
            "None or have an __index__ method"
        ) from None


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
            raise IndexError(
                f"getitem: got {k!r}; only integers, slices (`:`), ellipsis (`...`), None and long or "
                f"byte Variables are valid indices (got {type(k).__name__})"
            )
        given, k = k, tensor(list(k) if isinstance(k, range) else k)
        if (not k._spec.size and not isinstance(given, np.ndarray)) or k._spec.dtype.category == INTEGER:
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
    many = (Tensor, slice, list, tuple, str, np.ndarray)
    return (
        isinstance(key, list) and len(key) < 32 and any(k is None or k is Ellipsis or isinstance(k, many) for k in key)
    )


def _parse(who: str, x: Tensor, key: Any) -> tuple[tuple | None, list]:
    """A key as two steps: the constant of slice_p (None where nothing is to do), and what then stands at which
    dimension: tensors of integers or bool."""
    if _is_many(key):
        warnings.warn(
            "Using a non-tuple sequence for multidimensional indexing is deprecated; use x[tuple(seq)] "
            "instead of x[seq]",
            stacklevel=3,
        )
        key = tuple(key)
    parts = [_member(k) for k in (key if isinstance(key, tuple) else (key,))]
    shape = x._spec.shape
    used = sum(
        k._spec.ndim
        if isinstance(k, Tensor) and k._spec.dtype is boolean
        else not (k is None or k is Ellipsis or k.__class__ is bool)
        for k in parts
    )
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
            items.append((at, placed(np.zeros(int(k), np.int64), x.device)))
            at += 1
        elif isinstance(k, Tensor):
            rank = k._spec.ndim if k._spec.dtype is boolean else 1
            if k._spec.dtype is boolean and k._spec.shape != shape[source : source + rank]:
                raise IndexError(
                    f"{who}: The shape of the mask {list(k._spec.shape)} at index {n} does not match the "
                    f"shape of the indexed tensor {list(shape)} at index {source}"
                )
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
            x = reshape(x, (*shape[:d], index._spec.size, *shape[d + rank :]))
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
        value = places.number("setitem", value, self)
    if not items:
        if _is_same(x, value):
            return  # x[1:] += y has added in place already
        if value._spec.ndim:
            x.copy_(_fitted(places.cast(value, x._spec.dtype), x._spec.shape))
        else:
            fill_p.op.into(x, x, places.cast(value, x._spec.dtype))
        return
    d, mask = items[0]
    if len(items) == 1 and mask._spec.dtype is boolean and not value._spec.ndim:
        tail = x._spec.ndim - d - mask._spec.ndim
        mask = reshape(mask, (*mask._spec.shape, *(1,) * tail)) if tail else mask
        masked_fill_p.op.into(x, x, mask, places.cast(value, x._spec.dtype))
        return
    dims, tensors = _expanded(items)
    room = places.picked_shape(x._spec.shape, dims, places.common_shape("setitem", *(t._spec for t in tensors)))
    index_put_p.op.into(x, x, _fitted(value, room), *tensors, dims=dims, accumulate=False)


def _fitted(value: Tensor, room: tuple) -> Tensor:
    """The value without leading dimensions of size 1 that x[key] has not; refused where it does not stretch to it."""
    shape = value._spec.shape
    extra = max(len(shape) - len(room), 0)
    kept = shape[extra:]
    if any(n != 1 for n in shape[:extra]) or any(a not in (1, b) for a, b in zip(kept[::-1], room[::-1])):
        raise ShapeError(
            f"setitem: shape mismatch: value tensor of shape {list(shape)} cannot be broadcast to "
            f"indexing result of shape {list(room)}"
        )
    return reshape(value, kept) if extra else value


def _is_same(x: Tensor, value: Tensor) -> bool:
    """Whether ``value`` is the very view x, history included: same base, memory and geometry."""
    return (
        value._ver is x._ver
        and value._view is not None
        and value._spec is x._spec
        and value._arr.strides == x._arr.strides
        and address(value._arr) == address(x._arr)
        and value._view.path()[0] is x._view.path()[0]
    )


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
