"""One index an element: gather, scatter, scatter_add, take_along_dim. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import int32, int64
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops import places
from tensorlite.ops.shape import expand, reshape
from tensorlite.ops.slices import unslice_p, x_spec_zeros
from tensorlite.shapes import broadcast, dim_of


# ---- one index an element
def _along(who: str, input: Tensor, dim: int, index: Tensor, src: Tensor | None = None) -> tuple:
    """Checked arguments of gather and scatter, each with one dimension at least."""
    x, i = input._spec, index._spec
    d = dim_of(who, dim, x.ndim)
    places.index_dtype(who, i)
    if max(x.ndim, 1) != max(i.ndim, 1):
        raise ShapeError(
            f"{who}: index has {i.ndim} dimensions and input {x.ndim}; Index tensor must have the same "
            "number of dimensions as input tensor"
        )
    if src is not None:
        places.same_dtype(who, x, src._spec, "src")
        if max(src._spec.ndim, 1) != max(i.ndim, 1):
            raise ShapeError(
                f"{who}: index has {i.ndim} dimensions and src {src._spec.ndim}; Index tensor must have "
                "the same number of dimensions as src tensor"
            )
        if any(a > b for a, b in zip(i.shape, src._spec.shape)):
            raise ShapeError(
                f"{who}: index is {list(i.shape)} and src {list(src._spec.shape)}; wanted no size of "
                "index larger than that of src"
            )
    if any(a > b for k, (a, b) in enumerate(zip(i.shape, x.shape)) if k != d):
        raise ShapeError(
            f"{who}: index is {list(i.shape)} and input {list(x.shape)}; wanted no size of index larger "
            f"than that of input apart from dimension {d}"
        )
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


@primitive(name="gather", signals=False)
def gather_p(xp, x, index, out, *, dim, wraps):
    """out[i][j] = x[index[i][j]][j] for dim 0, and so on: an element of x along dim for each element of index."""
    places.check(index, "take_along_dim" if wraps else "gather", dim, x.shape[dim], wraps)
    if index.size:
        xp.copyto(out, xp.take_along_axis(_cropped(x, index, dim), index, dim))


gather_p.spec(lambda x, index, *, dim, wraps: x.like(*index.shape))
gather_p.op.moves = True
gather_p.kernel("cuda", "index.gather", "", formats=ANY)
gather_p.grad(
    x=lambda g, x_spec, index, dim, wraps: scatter_add_p(
        x_spec_zeros(x_spec, x_spec.shape), index, g, dim=dim, wraps=wraps
    ),
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
        place[dim : dim + 1 or None] = [index[at]]
        y[at] = input[tuple(place)] if input.ndim else input
    return y


@face(gather_p, method=True, out=True)
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """For each element of index, the element of input at that place along ``dim``. Indices are 0 to size - 1.

    For dim 1, out[i][j] = input[i][index[i][j]].

    >>> import tensorlite as tl
    >>> tl.gather(tl.tensor([[1, 2], [3, 4]]), 1, tl.tensor([[0, 0], [1, 0]]))
    tensor([[1, 1],
            [4, 3]])
    """
    if not index._spec.size and index._spec.ndim != input._spec.ndim:
        flat = gather_p(reshape(input, (input._spec.size,)), reshape(index, (0,)), dim=0, wraps=False)
        return reshape(flat, index._spec.shape)
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
        raise ShapeError(
            f"take_along_dim: input and indices should have the same number of dimensions, but got "
            f"{x.ndim} dimensions for input, and {i.ndim} dimensions for indices"
        )
    d = dim_of("take_along_dim", dim, x.ndim)
    if not x.ndim:
        return reshape(take_along_dim(input, indices), ())
    common = broadcast("take_along_dim", (*x.shape[:d], 1, *x.shape[d + 1 :]), (*i.shape[:d], 1, *i.shape[d + 1 :]))
    return gather_p(
        expand(input, (*common[:d], x.shape[d], *common[d + 1 :])),
        expand(indices, (*common[:d], i.shape[d], *common[d + 1 :])),
        dim=d,
        wraps=True,
    )


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


def _few_cuts(x, index, w, *, dim, wraps=False):
    """Whether the GPU's walk through an index, of four dimensions at most, reaches all of it."""
    return x.ndim <= 4 or sum(a != b for d, (a, b) in enumerate(zip(x.shape, index.shape)) if d != dim) < 2


@primitive(name="scatter", alias="elementwise", signals=False)
def scatter_p(xp, x, index, w, out, *, dim):
    """x with out[index[i][j]][j] = w[i][j] for dim 0, and so on; of equal places the last wins."""
    places.check(index, "scatter", dim, x.shape[dim], False)
    index, w = places.onto(xp, x, out, index, w)
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
scatter_p.kernel("cuda", "index.scatter", "", when=_few_cuts, formats=ANY)
scatter_p.grad(
    x=lambda g, index, w_spec, dim: scatter_p(g, index, places.zeros(w_spec), dim=dim),
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
        w = places.number("scatter", value if src is None else src, input)
        src = expand(w, index._spec.shape)
    return _scattered(scatter_p, "scatter", input, dim, index, src, in_place)


def _scattered(
    p: Any, who: str, input: Tensor, dim: int, index: Tensor, src: Tensor, in_place: bool, **kw: Any
) -> Tensor:
    if not index._spec.size:
        places.index_dtype(who, index._spec)
        return input if in_place else input.clone()
    (x, i, w), d = _along(who, input, dim, index, src)
    y = places.into(p, in_place, x, i, w, dim=d, **kw)
    return input if in_place else y if input._spec.ndim else reshape(y, ())


@face(scatter_p, method=True, out=True)
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: Any = None
) -> Tensor:
    """input with elements of ``src`` (or one number) written at the places along ``dim`` that index says:
    out[i][index[i][j]] = src[i][j] for dim 1.

    >>> import tensorlite as tl
    >>> tl.scatter(tl.zeros(2, 3), 1, tl.tensor([[2], [0]]), 1.0)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return _scatter(input, dim, index, src, value, reduce, False)


places.in_place(
    scatter_p,
    "scatter_",
    lambda self, dim, index, src=None, *, value=None, reduce=None: _scatter(self, dim, index, src, value, reduce, True),
)


@primitive(name="scatter_add", alias="elementwise")
def scatter_add_p(xp, x, index, w, out, *, dim, wraps):
    """x with w[i][j] added to out[index[i][j]][j] for dim 0, and so on; equal places add up."""
    places.check(index, "scatter_add", dim, x.shape[dim], wraps)
    index, w = places.onto(xp, x, out, index, w)
    if index.size:
        places.add_at(xp, out, _places(xp, x.shape, index, dim), _cropped(w, index))


scatter_add_p.spec(_scatter_spec)
scatter_add_p.kernel("cuda", "scatter.scatter_add", "", when=_few_cuts, formats=ANY)
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


places.in_place(scatter_add_p, "scatter_add_", lambda self, dim, index, src: _scatter_add(self, dim, index, src, True))
