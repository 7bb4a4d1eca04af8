"""Triangles and diagonals of matrices. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, method, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, STRIDED, spec_of
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.backends import strided
from tensorlite.dtypes import int64
from tensorlite.errors import ShapeError
from tensorlite.ops import places
from tensorlite.ops.cast import laid_p
from tensorlite.shapes import dim_of


# ---- triangles and diagonals
def _triangle(name: str, keeps: str):
    @primitive(name=name, alias="elementwise", signals=False)
    def triangle_p(xp, x, out, *, diagonal):
        other = xp.tri(*x.shape[-2:], diagonal - 1 if name == "triu" else diagonal, dtype=bool)
        places.onto(xp, x, out)
        xp.copyto(out, xp.zeros((), out.dtype), where=other if name == "triu" else ~other)

    @triangle_p.spec
    def _(x, *, diagonal):
        if x.ndim < 2:
            raise ShapeError(f"{name}: got {x.ndim} dimensions; input tensor must have at least 2 dimensions")
        return x.like(*x.shape)

    triangle_p.op.moves = True
    triangle_p.kernel("cuda", f"join.{name}", "", formats=ANY)
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
        kept = column - row >= diagonal if name == "triu" else column - row <= diagonal
        return np.where(kept, input, 0).astype(input.dtype)

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
    return strided(
        part, (*(x.shape[d] for d in rest), n), (*(x.strides[d] for d in rest), x.strides[dim1] + x.strides[dim2])
    )


@primitive(view=True, name="diagonal")
def diagonal_p(xp, x, *, offset, dim1, dim2):
    """The elements x[i, i + offset] of two dimensions, as a new last dimension."""
    return _diagonal_view(x, offset, dim1, dim2)


@diagonal_p.spec
def _(x, *, offset, dim1, dim2):
    n = _diagonal_sizes(x.shape, offset, dim1, dim2)[0]
    return spec_of((*(s for d, s in enumerate(x.shape) if d not in (dim1, dim2)), n), x.dtype, x.device, STRIDED)


diagonal_p.grad(
    x=lambda g, x_spec, offset, dim1, dim2: undiagonal_p(g, shape=x_spec.shape, offset=offset, dim1=dim1, dim2=dim2)
)


@diagonal_p.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(3, 4), offset=-1)
    yield dict(input=make(2, 3, 4), offset=1, dim1=0, dim2=2)
    yield dict(input=make(3, 4), offset=5)
    yield IndexError, dict(input=make(3))
    yield RuntimeError, dict(input=make(3, 4), dim1=1, dim2=-1)


diagonal_p.ref(
    lambda input, offset=0, dim1=0, dim2=1: np.moveaxis(
        np.array(
            [
                np.moveaxis(input, (dim1, dim2), (0, 1))[i, i + offset]
                for i in range(input.shape[dim1])
                if 0 <= i + offset < input.shape[dim2]
            ]
        ).reshape(-1, *np.delete(input.shape, (dim1, dim2))),
        0,
        -1,
    )
)


@face(diagonal_p, method=True)
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dimensions (``offset`` above the main one) as a new last dimension. A view."""
    n = input._spec.ndim
    a, b = dim_of("diagonal", dim1, n), dim_of("diagonal", dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal: dim1 {dim1} and dim2 {dim2}; diagonal dimensions cannot be identical")
    return diagonal_p(input, offset=int(offset), dim1=a, dim2=b)


@primitive(name="undiagonal", torch=None, signals=False)
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
    return laid_p(diagonal_p(input, offset=int(diagonal), dim1=0, dim2=1), format=CONTIGUOUS)


@diag.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(3), diagonal=-1)
    yield dict(input=make(3, 4), diagonal=2)
    yield RuntimeError, dict(input=make())
    yield RuntimeError, dict(input=make(2, 2, 2))


diag.ref(lambda input, diagonal=0: np.diag(input, diagonal))


@op(method=True)
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input._spec.ndim != 2:
        raise ShapeError(f"trace: got {input._spec.ndim} dimensions; expected a matrix")
    return diagonal_p(input, offset=0, dim1=0, dim2=1).sum()


@trace.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(0, 4))
    yield dict(input=make.ints(2, 2))
    yield RuntimeError, dict(input=make(3))


trace.ref(lambda input: np.einsum("ii", input[: min(input.shape), : min(input.shape)]))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Rows and columns (2, n) of the elements of a (row, col) matrix on and below a diagonal.

    >>> import tensorlite as tl
    >>> tl.tril_indices(2, 2)
    tensor([[0, 1, 1],
            [0, 0, 1]])
    """
    return placed(np.stack(np.tril_indices(row, offset, col)), device).to(dtype=dtype)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Rows and columns (2, n) of the elements of a (row, col) matrix on and above a diagonal."""
    return placed(np.stack(np.triu_indices(row, offset, col)), device).to(dtype=dtype)


@method()
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """In place: the main diagonal of a matrix set to a number; of a tall one again and again where ``wrap``."""
    if self._spec.ndim != 2:
        raise ShapeError(f"fill_diagonal_: got {self._spec.ndim} dimensions; wanted a matrix")
    rows, columns = self._spec.shape
    for start in range(0, rows if wrap else 1, columns + 1):
        self[start:].diagonal().fill_(fill_value)
    return self
