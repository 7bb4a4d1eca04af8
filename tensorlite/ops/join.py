"""Joining tensors, cutting them, and repeating them. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, method, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import common_dtype, primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.cast import laid_p
from tensorlite.ops.shape import expand, reshape, unsqueeze
from tensorlite.ops.slices import encode, narrow, slice_, slice_p, viewed, x_spec_zeros
from tensorlite.shapes import dim_of, dims_of, index, size_args


@primitive(name="cat", signals=False)
def cat_p(xp, *xs, out, dim):
    """Tensors laid one behind the other along dim."""
    xp.concatenate(xs, axis=dim, out=out)


@cat_p.spec
def _(*xs, dim):
    first = xs[0]
    for k, x in enumerate(xs):
        if x.ndim != first.ndim or any(a != b for d, (a, b) in enumerate(zip(x.shape, first.shape)) if d != dim):
            raise ShapeError(
                f"cat: tensor {k} is {x.shape} and tensor 0 is {first.shape}; wanted equal sizes except in "
                f"dimension {dim}"
            )
    y = first.like(*first.shape[:dim], sum(x.shape[dim] for x in xs), *first.shape[dim + 1 :])
    return y.laid(CHANNELS_LAST) if all(x.format is CHANNELS_LAST for x in xs) else y


def _cat_grads(g, xs_spec, dim):
    grads, at = [], 0
    for s in xs_spec:
        grads.append(narrow(g, dim, at, s.shape[dim]))
        at += s.shape[dim]
    return grads


cat_p.kernel("cpu", "cat", "")
cat_p.kernel("cuda", "join.cat", "", formats=ANY)
cat_p.grad(xs=_cat_grads)


@cat_p.cases
def _(make):
    yield dict(tensors=[make(2, 3), make(1, 3)])
    yield dict(tensors=[make(2, 3), make(2, 1), make(2, 0)], dim=-1)
    yield dict(tensors=[make(2), make.ints(2)])
    yield RuntimeError, dict(tensors=[make(2, 3), make(2, 2)])
    yield ValueError, dict(tensors=[])


cat_p.ref(lambda tensors, dim=0: np.concatenate(tensors, axis=dim))


@face(cat_p, out=True)
def cat(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors laid one behind the other along dim; dtypes promote.

    >>> import tensorlite as tl
    >>> tl.cat([tl.zeros(1, 2), tl.ones(1, 2)])
    tensor([[0., 0.],
            [1., 1.]])
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: expected a non-empty list of Tensors")
    for k, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            raise TypeError(f"cat: element {k} is {x.__class__.__name__}; expected Tensor")
    specs = [x._spec for x in tensors]
    common = common_dtype(specs)
    if any(s.dtype is not common or s.shape == (0,) for s in specs):
        tensors = [x.to(common) for x in tensors if x._spec.shape != (0,)] or tensors[:1]  # PyTorch skips such empties
    if not tensors[0]._spec.ndim:
        raise ShapeError("cat: zero-dimensional tensor (at position 0) cannot be concatenated")
    return cat_p(*tensors, dim=dim_of("cat", dim, tensors[0]._spec.ndim))


concat = concatenate = cat


@op(out=True)
def stack(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension."""
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError("stack: expects a non-empty TensorList")
    first = tensors[0]._spec.shape
    for k, x in enumerate(tensors):
        if x._spec.shape != first:
            raise ShapeError(
                f"stack: expects each tensor to be equal size, but got {list(first)} at entry 0 and "
                f"{list(x._spec.shape)} at entry {k}"
            )
    return cat([unsqueeze(x, dim) for x in tensors], dim)


@stack.cases
def _(make):
    yield dict(tensors=[make(2, 3), make(2, 3)])
    yield dict(tensors=[make(2, 3), make(2, 3)], dim=-1)
    yield dict(tensors=[make(), make()])
    yield RuntimeError, dict(tensors=[make(2), make(3)])


stack.ref(lambda tensors, dim=0: np.stack(tensors, dim))


def _steps(sizes):
    at = 0
    for n in sizes:
        yield at, at + n
        at += n


@primitive(view=True, name="split_with_sizes")
def split_p(xp, x, *, sizes, dim):
    """Pieces of these sizes along dim."""
    lead = (slice(None),) * dim
    return tuple(x[(*lead, slice(a, b))] for a, b in _steps(sizes))


split_p.op.multiple = True
split_p.spec(
    lambda x, *, sizes, dim: tuple(viewed(x, (*x.shape[:dim], n, *x.shape[dim + 1 :]), x.strides) for n in sizes)
)


@split_p.grad
def _(g, x_spec, sizes, dim, want):
    parts = [
        x_spec_zeros(x_spec, (*x_spec.shape[:dim], n, *x_spec.shape[dim + 1 :])) if p is None else p
        for p, n in zip(g, sizes)
    ]
    return (cat_p(*parts, dim=dim),)


@split_p.cases
def _(make):
    yield dict(x=make(5, 3), split_sizes=(2, 3), dim=0)
    yield dict(x=make(2, 4), split_sizes=(1, 0, 3), dim=1)
    yield RuntimeError, dict(x=make(5, 3), split_sizes=(2, 2), dim=0)


split_p.ref(lambda x, split_sizes, dim: tuple(np.split(x, np.cumsum(split_sizes)[:-1], dim)))


def _split_step(k, x, kw):
    a, b = list(_steps(kw["sizes"]))[k]
    key = encode((slice(None),) * kw["dim"] + (slice(a, b),))
    return slice_p.op.entry((x,), {"key": key})


split_p.op.step = _split_step


@face(split_p, method=True)
def split_with_sizes(input: Tensor, split_sizes: Any, dim: int = 0) -> tuple:
    """Pieces of these sizes along dim. Views."""
    d = dim_of("split", dim, input._spec.ndim)
    sizes = tuple(index("split", s) for s in split_sizes)
    if sum(sizes) != input._spec.shape[d] or any(s < 0 for s in sizes):
        raise ShapeError(
            f"split: split_with_sizes expects split_sizes to sum exactly to {input._spec.shape[d]} (input "
            f"tensor's size at dimension {d}), but got split_sizes={list(sizes)}"
        )
    return split_p(input, sizes=sizes, dim=d)


@op(method=True)
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple:
    """Pieces of one size along dim (the last may be smaller), or of the sizes listed. Views."""
    if not isinstance(split_size_or_sections, int):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    d = dim_of("split", dim, tensor._spec.ndim)
    n, size = tensor._spec.shape[d], split_size_or_sections
    if size < 0 or (size == 0 and n):
        raise RuntimeError(f"split: split_size {size}; wanted 1 or more for dimension {d} of size {n}")
    sizes = [min(size, n - a) for a in range(0, n, size)] if n else [0]
    return split_p(tensor, sizes=tuple(sizes), dim=d)


@split.cases
def _(make):
    yield dict(tensor=make(5, 3), split_size_or_sections=2)
    yield dict(tensor=make(5, 4), split_size_or_sections=[1, 3], dim=-1)
    yield RuntimeError, dict(tensor=make(5, 4), split_size_or_sections=[1, 1], dim=-1)


@split.ref
def _(tensor, split_size_or_sections, dim=0):
    n = tensor.shape[dim]
    s = split_size_or_sections
    cuts = list(range(s, n, s)) if isinstance(s, int) else np.cumsum(s)[:-1]
    return tuple(np.split(tensor, cuts, dim))


@op(method=True)
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple:
    """At most ``chunks`` pieces of one size along dim (the last may be smaller). Views."""
    if chunks < 1:
        raise RuntimeError(f"chunk: chunks {chunks}; expects `chunks` to be greater than 0")
    n = input._spec.shape[dim_of("chunk", dim, input._spec.ndim)]
    return split(input, max(-(-n // chunks), 1), dim)


@chunk.cases
def _(make):
    yield dict(input=make(5, 3), chunks=2)
    yield dict(input=make(4, 3), chunks=3, dim=1)


@chunk.ref
def _(input, chunks, dim=0):
    size = -(-input.shape[dim] // chunks)
    return tuple(np.split(input, range(size, input.shape[dim], size), dim))


@primitive(view=True, name="unbind")
def unbind_p(xp, x, *, dim):
    """The rows of dimension dim."""
    return tuple(xp.moveaxis(x, dim, 0)[k, ...] for k in range(x.shape[dim]))


unbind_p.op.multiple = True


@unbind_p.spec
def _(x, *, dim):
    rest = [d for d in range(x.ndim) if d != dim]
    strides = x.strides and tuple(x.strides[d] for d in rest)
    return (viewed(x, tuple(x.shape[d] for d in rest), strides),) * x.shape[dim]


@unbind_p.grad
def _(g, x_spec, dim, want):
    shape = (*x_spec.shape[:dim], *x_spec.shape[dim + 1 :])
    return (stack([x_spec_zeros(x_spec, shape) if p is None else p for p in g], dim),)


@unbind_p.cases
def _(make):
    yield dict(x=make(3, 2))
    yield dict(x=make(3, 2), dim=-1)
    yield IndexError, dict(x=make())


unbind_p.ref(lambda x, dim=0: tuple(np.moveaxis(x, dim, 0)))
unbind_p.op.step = lambda k, x, kw: slice_p.op.entry((x,), {"key": encode((slice(None),) * kw["dim"] + (k,))})


@face(unbind_p, method=True)
def unbind(x: Tensor, dim: int = 0) -> tuple:
    """The rows of dimension dim, as a tuple of views."""
    if not x._spec.ndim:
        raise IndexError("unbind: dimension specified as 0 but tensor has no dimensions")
    return unbind_p(x, dim=dim_of("unbind", dim, x._spec.ndim))


@op(method=False)
def tile(input: Tensor, dims: Any) -> Tensor:
    """Repeated dims[k] times along dimension k, counted from the last."""
    dims = tuple(dims)
    return repeat(input, (1,) * (input._spec.ndim - len(dims)) + dims)


@tile.cases
def _(make):
    yield dict(input=make(2, 3), dims=(2,))
    yield dict(input=make(3), dims=(2, 2))


tile.ref(lambda input, dims: np.tile(input, dims))


def repeat(input: Tensor, sizes: tuple) -> Tensor:
    """Copies laid side by side, sizes[k] of them along dimension k."""
    shape = input._spec.shape
    lead = len(sizes) - len(shape)
    if lead < 0:
        raise ShapeError(
            f"repeat: {len(sizes)} sizes for {len(shape)} dimensions; number of dimensions of repeat dims "
            "can not be smaller than number of dimensions of tensor"
        )
    shape = (1,) * lead + shape
    inner = tuple(n for s in shape for n in (1, s))
    outer = tuple(n for r, s in zip(sizes, shape) for n in (r, s))
    y = laid_p(expand(reshape(input, inner), outer), format=CONTIGUOUS)
    return reshape(y, tuple(r * s for r, s in zip(sizes, shape)))


@method("repeat")
def _repeat(self: Tensor, *sizes: Any) -> Tensor:
    """Copies laid side by side, sizes[k] of them along dimension k."""
    return repeat(self, size_args("repeat", sizes))


@method("tile")
def _tile(self: Tensor, *dims: Any) -> Tensor:
    """Repeated dims[k] times along dimension k, counted from the last."""
    return tile(self, size_args("tile", dims))


@op(method=False)
def flip(input: Tensor, dims: Any) -> Tensor:
    """In reverse order along these dimensions; a copy."""
    d = dims_of("flip", dims if hasattr(dims, "__iter__") else (dims,), input._spec.ndim)
    view = slice_(input, tuple(slice(None, None, -1) if k in d else slice(None) for k in range(input._spec.ndim)))
    return laid_p(view, format=input._spec.packed().format)


@flip.cases
def _(make):
    yield dict(input=make(2, 3), dims=(1,))
    yield dict(input=make(2, 3), dims=(0, -1))


flip.ref(lambda input, dims: np.flip(input, dims))


@method("flip")
def _flip(self: Tensor, *dims: Any) -> Tensor:
    """In reverse order along these dimensions; a copy."""
    return flip(self, size_args("flip", dims))


@op(out=True)
def hstack(tensors: Any) -> Tensor:
    """Tensors laid side by side: along dimension 1, vectors and numbers along dimension 0."""
    if not tensors:
        raise RuntimeError("hstack: got no tensors; hstack expects a non-empty TensorList")
    tensors = [x if x._spec.ndim else reshape(x, (1,)) for x in tensors]
    return cat(tensors, 0 if tensors[0]._spec.ndim == 1 else 1)


@op(out=True)
def vstack(tensors: Any) -> Tensor:
    """Tensors laid one below the other, vectors and numbers as rows.

    >>> import tensorlite as tl
    >>> tl.vstack([tl.tensor([1, 2]), tl.tensor([[3, 4]])])
    tensor([[1, 2],
            [3, 4]])
    """
    if not tensors:
        raise RuntimeError("vstack: got no tensors; vstack expects a non-empty TensorList")
    return cat([x if x._spec.ndim > 1 else reshape(x, (1, -1)) for x in tensors])


@hstack.cases
@vstack.cases
def _(make):
    yield dict(tensors=[make(3), make(3)])
    yield dict(tensors=[make(2, 3), make(2, 3)])
    yield dict(tensors=[make(), make.ints()])
    yield dict(tensors=[make(2, 1, 2), make(2, 1, 2)])
    yield RuntimeError, dict(tensors=[make(2, 3), make(4, 5)])
    yield RuntimeError, dict(tensors=[])


hstack.ref(lambda tensors: np.hstack(tensors))
vstack.ref(lambda tensors: np.vstack(tensors))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple:
    """Grids of all combinations of the vectors' elements: grid k holds at each place the element of vector k.

    With ``indexing="xy"`` the first two dimensions change places.

    >>> import tensorlite as tl
    >>> rows, columns = tl.meshgrid(tl.arange(2), tl.arange(3))
    >>> columns
    tensor([[0, 1, 2],
            [0, 1, 2]])
    """
    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f"meshgrid: indexing {indexing!r}; indexing must be one of 'xy' or 'ij'")
    if not vectors:
        raise RuntimeError("meshgrid: got no tensors; meshgrid expects a non-empty TensorList")
    if any(x._spec.ndim > 1 for x in vectors):
        raise RuntimeError(f"meshgrid: got {[x._spec.shape for x in vectors]}; expected scalar or 1D tensors")
    if len({x._spec.dtype for x in vectors}) > 1:
        raise RuntimeError("meshgrid: got several dtypes; torch.meshgrid expects all tensors to have the same dtype")
    shape, n = tuple(x._spec.size for x in vectors), len(vectors)
    grids = [expand(reshape(x, tuple(-1 if j == k else 1 for j in range(n))), shape) for k, x in enumerate(vectors)]
    return tuple(g.transpose(0, 1) for g in grids) if indexing == "xy" and n > 1 else tuple(grids)
