"""Order: sort, the k largest, distinct values. Floor 3.

NaN counts as the largest value, as in PyTorch. Every sort is stable: equal elements keep their order.
"""

from __future__ import annotations

import builtins
from collections import namedtuple
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float32, int64
from tensorlite.errors import DTypeError
from tensorlite.ops import index  # noqa: F401  (the gradients scatter)
from tensorlite.ops.shape import reshape
from tensorlite.ops.slices import x_spec_zeros
from tensorlite.shapes import dim_of

Sorted = namedtuple("sort", ("values", "indices"))
TopK = namedtuple("topk", ("values", "indices"))


def _order(xp: Any, x: Any, dim: int, descending: bool) -> Any:
    """The stable order of x along dim."""
    if not descending:
        return xp.argsort(x, axis=dim, kind="stable")
    back = (slice(None),) * dim + (slice(None, None, -1),)  # equal elements come out reversed twice: in their order
    return (x.shape[dim] - 1 - xp.argsort(x[back], axis=dim, kind="stable"))[back]


def _put_back(g: Any, indices: Tensor, x_spec: Any, dim: int) -> tuple:
    """The gradient of picking elements along dim: each goes back to its place."""
    if not x_spec.ndim:
        return (g,)
    return (x_spec_zeros(x_spec, x_spec.shape).scatter(dim, indices, g),)


# ---- sort
@primitive(name="sort", torch=lambda torch, *args, **kw: tuple(torch.sort(*args, **kw)))
def sort_p(xp, x, out, out_indices, *, dim, descending):
    """x in order along dim, and where each element was."""
    if not x.ndim:
        out[...], out_indices[...] = x, 0
        return
    out_indices[...] = _order(xp, x, dim, descending)
    xp.copyto(out, xp.take_along_axis(x, out_indices, dim))


sort_p.spec(lambda x, *, dim, descending: (x.like(*x.shape), x.like(*x.shape, dtype=int64)))


@sort_p.grad
def _(g, out_indices, x_spec, dim, descending, want):
    return _put_back(g[0], out_indices, x_spec, dim)


def _sort_cases(make: Any) -> Any:
    yield dict(input=make.distinct(3, 4))
    yield dict(input=make.distinct(3, 4), dim=0, descending=True)
    yield dict(input=make.ints(2, 9, high=3), dim=1)
    yield dict(input=make.ints(2, 9, high=3), dim=1, descending=True, stable=True)
    yield dict(input=make.tensor([2.0, float("nan"), -1.0, float("inf")]))
    yield dict(input=make.tensor([2.0, float("nan"), -1.0, float("inf")]), descending=True)
    yield dict(input=make.bools(7), stable=True)
    yield dict(input=make(3, 0))
    yield dict(input=make())
    yield IndexError, dict(input=make(3), dim=1)


def _sort_ref(input, dim=-1, descending=False, stable=False):
    if not input.ndim or not input.size:
        return input, np.zeros(input.shape, int)
    rows = np.moveaxis(input, dim, -1).reshape(-1, input.shape[dim])

    def key(row, k):
        nan = bool(np.isnan(row[k]))
        return (not nan, -float(row[k]) if not nan else 0) if descending else (nan, float(row[k]) if not nan else 0)

    order = np.array([builtins.sorted(range(len(row)), key=lambda k, row=row: (key(row, k), k)) for row in rows], int)
    values = np.array([row[o] for row, o in zip(rows, order)], input.dtype)
    shape = np.moveaxis(input, dim, -1).shape
    return tuple(np.moveaxis(a.reshape(shape), -1, dim) for a in (values, order))


sort_p.cases(_sort_cases)
sort_p.ref(_sort_ref)


@face(sort_p, method=True, out=True)
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The elements in order along ``dim``, as the named tuple (values, indices). Always stable; NaN is the largest.

    >>> import tensorlite as tl
    >>> sort(tl.tensor([3.0, 1.0, 2.0])).indices
    tensor([1, 2, 0])
    """
    d = dim_of("sort", dim, input._spec.ndim)
    return Sorted(*sort_p(input, dim=d, descending=bool(descending)))


@op(method=True)
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that put the elements in order along ``dim``. Always stable."""
    d = dim_of("argsort", dim, input._spec.ndim)
    return sort_p(input.detach(), dim=d, descending=bool(descending))[1]


argsort.nograd()
argsort.cases(_sort_cases)
argsort.ref(lambda **kw: _sort_ref(**kw)[1])


# ---- the k largest
@primitive(name="topk", torch=lambda torch, *args, **kw: tuple(torch.topk(*args, **kw)))
def topk_p(xp, x, out, out_indices, *, k, dim, largest):
    """The k largest (or smallest) elements along dim, in order, and where each was."""
    if not x.ndim:
        out[...], out_indices[...] = x, 0
        return
    lead = (slice(None),) * dim
    n = x.shape[dim]
    if n > 256 and 0 < k < n // 8:  # else sorting it all is no slower
        cut = n - k if largest else k - 1  # all behind (or before) this place are the ones wanted
        part = xp.argpartition(x, cut, axis=dim)[(*lead, slice(cut, None) if largest else slice(0, k))]
        part = xp.sort(part, axis=dim)  # so that equal elements come in their order
        order = _order(xp, xp.take_along_axis(x, part, dim), dim, largest)
        out_indices[...] = xp.take_along_axis(part, order, dim)
    else:
        out_indices[...] = _order(xp, x, dim, largest)[(*lead, slice(0, k))]
    xp.copyto(out, xp.take_along_axis(x, out_indices, dim))


@topk_p.spec
def _(x, *, k, dim, largest):
    if x.dtype is dtypes.bool:
        raise DTypeError("topk: got bool; wanted numbers (topk does not support bool dtypes on CPU)")
    shape = (*x.shape[:dim], k, *x.shape[dim + 1 :]) if x.ndim else ()
    return x.like(*shape), x.like(*shape, dtype=int64)


@topk_p.grad
def _(g, out_indices, x_spec, k, dim, largest, want):
    return _put_back(g[0], out_indices, x_spec, dim)


@topk_p.cases
def _(make):
    yield dict(input=make.distinct(3, 5), k=2)
    yield dict(input=make.distinct(5, 3), k=3, dim=0, largest=False)
    yield dict(input=make.distinct(2, 5), k=5, dim=-1)
    peaks = np.where(np.arange(300) % 100 == 7, np.arange(300), 0)[[*range(200, 300), *range(200)]]
    yield dict(input=make.tensor(peaks), k=3)
    yield dict(input=make.tensor(-np.stack([peaks, peaks[::-1]], 1)), k=2, dim=0, largest=False)
    yield dict(input=make.distinct(2, 5), k=0)
    yield dict(input=make.tensor([2.0, float("nan"), -1.0]), k=2)
    yield dict(input=make(), k=1)
    yield RuntimeError, dict(input=make(3), k=4)
    yield RuntimeError, dict(input=make(3), k=-1)
    yield DTypeError, dict(input=make.bools(3), k=1)


@topk_p.ref
def _(input, k, dim=-1, largest=True):
    values, indices = _sort_ref(input, dim, largest)
    return (values, indices) if not input.ndim else tuple(a.take(range(k), dim) for a in (values, indices))


@face(topk_p, method=True, out=True)
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The k largest (or smallest) elements along ``dim``, in order, as the named tuple (values, indices).

    Which of equal elements are among the k is not said.

    >>> import tensorlite as tl
    >>> topk(tl.tensor([1.0, 4.0, 3.0]), 2).values
    tensor([4., 3.])
    """
    x = input._spec
    d = dim_of("topk", dim, x.ndim)
    if not 0 <= k <= (x.shape[d] if x.ndim else 1):
        raise RuntimeError(f"topk: k is {k} for {x.shape[d] if x.ndim else 1} elements; selected index k out of range")
    if not x.ndim and not k:
        return TopK(input.new_empty(0), input.new_empty(0, dtype=int64))
    return TopK(*topk_p(input, k=int(k), dim=d, largest=bool(largest)))


# ---- distinct values
@primitive(name="unique", dynamic=True)
def unique_p(xp, x, *, dim):
    """The distinct values of x (or rows along dim), sorted; for each element which it is; how often each occurs."""
    values, inverse, counts = xp.unique(x, return_inverse=True, return_counts=True, axis=dim, equal_nan=False)
    return values, inverse.reshape(x.shape if dim is None else -1), counts


unique_p.spec(lambda x, *, dim: None)
unique_p.nograd()


@unique_p.cases
def _(make):
    yield dict(input=make.ints(3, 4))
    yield dict(input=make.ints(9, high=4), return_inverse=True, return_counts=True)
    yield dict(input=make.ints(9, high=4), return_counts=True)
    yield dict(input=make.ints(6, 2, high=2), return_inverse=True, dim=0)
    yield dict(input=make.distinct(5))
    yield dict(input=make())
    yield IndexError, dict(input=make.ints(3), dim=1)


@unique_p.ref
def _(input, sorted=True, return_inverse=False, return_counts=False, dim=None):
    rows = list(map(tuple, np.moveaxis(input, dim, 0).tolist())) if dim is not None else input.ravel().tolist()
    found = list(dict.fromkeys(builtins.sorted(rows)))
    values = np.array(found, input.dtype)
    parts = [values if dim is None else np.moveaxis(values, 0, dim)]
    if return_inverse:
        parts.append(np.array([found.index(r) for r in rows]).reshape(input.shape if dim is None else -1))
    if return_counts:
        parts.append(np.array([rows.count(v) for v in found]))
    return tuple(parts) if len(parts) > 1 else parts[0]


@face(unique_p, method=True)
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct values, sorted (or, with ``dim``, the distinct rows along it). The size depends on the values.

    ``return_inverse`` adds for each element which value it is, ``return_counts`` how often each value occurs.

    >>> import tensorlite as tl
    >>> unique(tl.tensor([2, 1, 2]), return_counts=True)
    (tensor([1, 2]), tensor([1, 2]))
    """
    d = None if dim is None else dim_of("unique", dim, input._spec.ndim)
    x = input if input._spec.ndim else reshape(input, (1,))
    half = x._spec.dtype.is_half
    values, inverse, counts = unique_p(x.to(float32) if half else x, dim=d)
    if not input._spec.ndim:
        inverse = reshape(inverse, ())
    result = (
        values.to(x._spec.dtype) if half else values,
        *((inverse,) if return_inverse else ()),
        *((counts,) if return_counts else ()),
    )
    return result if len(result) > 1 else result[0]
