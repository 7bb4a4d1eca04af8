"""Rows picked by one tensor of indices along one dimension, and tables of rows (embedding). Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, op
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import FLOAT, int32, int64
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops import places
from tensorlite.ops.mask import nonzero_p
from tensorlite.ops.reduce import norm
from tensorlite.ops.shape import expand, reshape
from tensorlite.shapes import dim_of


# ---- one index tensor along one dimension
def _rows_cases(make: Any) -> Any:
    yield dict(input=make(4, 3), dim=0, index=make.ints(5, high=4))
    yield dict(input=make(2, 4, 3), dim=-2, index=make.ints(3, high=4))
    yield dict(input=make(4, 3), dim=1, index=make.ints(2, high=3, dtype=int32))
    yield dict(input=make(4, 3), dim=0, index=make.ints(0))


@primitive(name="index_select", signals=False)
def index_select_p(xp, x, index, out, *, dim, who):
    """Rows ``index`` of dimension dim: x.shape[:dim] + index.shape + x.shape[dim+1:]."""
    wraps = who == "getitem"
    if wraps and xp is np and out.size < 4096:  # NumPy's own check copies the output, ours passes twice over the index
        try:
            x.take(index, dim, out)
        except IndexError:
            places.check(index, who, dim, x.shape[dim], wraps)
            raise
    else:
        places.check(index, who, dim, x.shape[dim], wraps)
        if index.size:
            places.take(xp, x, index, dim, out, "wrap" if wraps else "clip")


@index_select_p.spec
def _(x, index, *, dim, who):
    places.index_dtype(who, index)
    return x.like(*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])


index_select_p.op.moves = True
index_select_p.kernel("cpu", "index_select")
index_select_p.kernel("cuda", "index.index_select", "", formats=ANY)
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


index_select_p.ref(
    lambda input, dim, index: (
        np.stack([np.take(input, i, dim) for i in index], dim)
        if index.size and input.ndim
        else np.compress([False] * 4, input, dim)
        if input.ndim
        else input
    )
)


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
        raise IndexError(
            f"index_select: index has shape {index._spec.shape}; wanted one dimension (Index is supposed "
            "to be a vector)"
        )
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
    places.check(index, "unselect", dim, shape[dim], True)
    places.add_at(xp, out, places.positions(xp, shape, (dim,), (index,)), x)


def _whole(compiled: Any, xp: Any, x: Any, index: Any, out: Any, **constants: Any) -> None:
    if out.flags.c_contiguous:  # gradients often come expanded
        compiled(xp.ascontiguousarray(x), xp.ascontiguousarray(index), out)
    else:
        unselect_p.op.fn(xp, x, index, out, **constants)


unselect_p.spec(lambda x, index, *, shape, dim: x.like(*shape))
unselect_p.kernel("cpu", "unselect")
unselect_p.kernel("cpu", "unselect", around=_whole)
unselect_p.kernel("cuda", "scatter.unselect", "", formats=ANY)
unselect_p.grad(x=lambda g, index, dim: index_select_p(g, index, dim=dim, who="getitem"), index=None)


@unselect_p.cases
def _(make):
    yield dict(x=make(5, 3), index=make.ints(5, high=4), shape=(4, 3), dim=0)
    yield dict(x=make(2, 2, 3), index=make.ints(2, 3, low=-4, high=4), shape=(2, 4), dim=1)
    yield dict(x=make(0, 3), index=make.ints(0), shape=(4, 3), dim=0)


@unselect_p.ref
def _(x, index, shape, dim):
    hot = np.equal.outer(index % shape[dim], np.arange(shape[dim])).astype(float).reshape(-1, shape[dim])
    rows = x.reshape(*shape[:dim], index.size, *shape[dim + 1 :])
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
    wanted = (*x.shape[:d], index._spec.size, *x.shape[d + 1 :])
    if s.shape != wanted:
        raise (error if s.ndim != x.ndim else ShapeError)(
            f"{who}: source has shape {s.shape} for input {x.shape} and {index._spec.size} indices; wanted {wanted}"
        )
    return input, d, index, source


@primitive(name="index_add", alias="elementwise")
def index_add_p(xp, x, index, w, out, *, dim):
    """x with the rows of w added at rows ``index`` of dim; equal indices add up."""
    places.check(index, "index_add", dim, x.shape[dim], False)
    index, w = places.onto(xp, x, out, index, w)
    places.add_at(xp, out, places.positions(xp, x.shape, (dim,), (index,)), w)


@index_add_p.spec
def _(x, index, w, *, dim):
    places.index_dtype("index_add", index)
    places.same_dtype("index_add", x, w, "source")
    return x.like(*x.shape)


index_add_p.kernel("cpu", "index_add")
index_add_p.kernel("cuda", "scatter.index_add", "", formats=ANY)
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
    y = places.into(index_add_p, in_place, x, index, source, dim=d)
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(index_add_p, method=True, out=True)
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """input with alpha * source added at rows ``index`` of ``dim``; equal indices add up.

    >>> import tensorlite as tl
    >>> tl.index_add(tl.zeros(3), 0, tl.tensor([0, 2, 0]), tl.tensor([1.0, 2.0, 3.0]))
    tensor([4., 0., 2.])
    """
    return _index_add(input, dim, index, source, alpha, False)


places.in_place(
    index_add_p,
    "index_add_",
    lambda self, dim, index, source, *, alpha=1: _index_add(self, dim, index, source, alpha, True),
)


@primitive(name="index_copy", alias="elementwise", signals=False)
def index_copy_p(xp, x, index, w, out, *, dim, who):
    """x with rows ``index`` of dim replaced by the rows of w; of equal indices the last wins."""
    places.check(index, who, dim, x.shape[dim], who == "index_fill")
    index, w = places.onto(xp, x, out, index, w)
    out[places.key_at((dim,), (index,))] = w


@index_copy_p.spec
def _(x, index, w, *, dim, who):
    places.index_dtype(who, index)
    places.same_dtype(who, x, w, "source")
    return x.like(*x.shape)


index_copy_p.op.moves = True
index_copy_p.kernel("cuda", "index.index_copy", "", formats=ANY)
index_copy_p.grad(
    x=lambda g, index, w_spec, dim: index_copy_p(g, index, places.zeros(w_spec), dim=dim, who="index_fill"),
    index=None,
    w=lambda g, index, dim: index_select_p(g, index, dim=dim, who="getitem"),
)


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
    return np.stack(
        [np.take(source, where_[i], dim) if i in where_ else np.take(input, i, dim) for i in range(input.shape[dim])],
        dim,
    )


def _index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor, in_place: bool) -> Tensor:
    x, d, index, source = _rows("index_copy", input, dim, index, source, IndexError)
    y = places.into(index_copy_p, in_place, x, index, source, dim=d, who="index_copy")
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(index_copy_p, method=True, out=True)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """input with rows ``index`` of ``dim`` replaced by the rows of source."""
    return _index_copy(input, dim, index, source, False)


places.in_place(
    index_copy_p, "index_copy_", lambda self, dim, index, source: _index_copy(self, dim, index, source, True)
)


def _index_fill(input: Tensor, dim: int, index: Tensor, value: Any, in_place: bool) -> Tensor:
    d = dim_of("index_fill", dim, input._spec.ndim)
    if index._spec.dtype is not int64:
        raise IndexError(f"index_fill: index is {index._spec.dtype}; wanted int64")
    if index._spec.ndim > 1:
        raise IndexError(f"index_fill: index has shape {index._spec.shape}; wanted one dimension")
    w = places.value_of("index_fill", value, input)
    x, index = input if input._spec.ndim else input.view(1), _vector(index)
    shape = x._spec.shape
    w = expand(w, (*shape[:d], index._spec.size, *shape[d + 1 :]))
    y = places.into(index_copy_p, in_place, x, index, w, dim=d, who="index_fill")
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@op(method=True)
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """input with rows ``index`` of ``dim`` filled with a number or a 0-d tensor.

    Negative indices count from the end.
    """
    return _index_fill(input, dim, index, value, False)


places.in_place(index_fill, "index_fill_", lambda self, dim, index, value: _index_fill(self, dim, index, value, True))


@index_fill.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=make.tensor([0, -1], int64), value=1.5)
    yield dict(input=make(2, 4), dim=1, index=make.tensor([2, 0], int64), value=make())
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


# ---- rows of a table
@primitive(name="embedding", torch="nn.functional.embedding", signals=False)
def embedding_p(xp, x, w, out, *, padding, by_freq):
    """w[x]: for each integer of x its row of w. Row ``padding`` gets no gradient; ``by_freq`` divides each row's by how
    often the row occurs in x."""
    places.check(x, "embedding", 0, w.shape[0], False)
    if x.size:
        places.take(xp, w, x, 0, out, "clip")


@embedding_p.spec
def _(x, w, *, padding, by_freq):
    places.index_dtype("embedding", x)
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


def _embedding_dw_fused(g, x, w_spec, padding, by_freq):
    """The same with the row of ``padding`` added up and dropped at the end: no pass over g."""
    if by_freq or padding is None:
        return _embedding_dw(g, x, w_spec, padding, by_freq)
    dw = unselect_p(g, x, shape=w_spec.shape, dim=0)
    with no_grad():
        dw[padding] = 0
    return dw


embedding_p.op.moves = True
embedding_p.kernel("cpu", "embedding")
embedding_p.kernel("cuda", "index.embedding", "", formats=ANY)
embedding_p.grad(x=None, w=_embedding_dw)
embedding_p.fused_grad(w=_embedding_dw_fused)
embedding_p.op.not_derivative = lambda given: "padding_idx" in given  # its row is held, by agreement


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
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
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
            raise AssertionError(
                f"embedding: padding_idx {padding_idx} for {w.shape[0]} rows; Padding_idx must be within num_embeddings"
            )
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
