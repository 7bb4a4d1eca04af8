"""Elements by their rank: median, kthvalue, quantile. Floor 3."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.errors import DTypeError
from tensorlite.ops.choice import where
from tensorlite.ops.compare import isnan
from tensorlite.ops.gather import take_along_dim
from tensorlite.ops.shape import reshape
from tensorlite.ops.sort import sort
from tensorlite.shapes import dim_of, index

Median = namedtuple("median", ("values", "indices"))
KthValue = namedtuple("kthvalue", ("values", "indices"))


def _taken(who: str, input: Tensor, rank: Any, dim: int, keepdim: bool, kind: Any) -> Any:
    """The elements at ``rank`` (a number, or a tensor with one for each row) of the order along dim."""
    if input._spec.ndim:
        ordered = sort(input, dim)
        if isinstance(rank, int):
            pair = [t.narrow(dim, rank, 1) for t in ordered]
        else:
            pair = [take_along_dim(t, rank, dim) for t in ordered]
        return kind(*(t.clone() if keepdim else t.squeeze(dim) for t in pair))
    return kind(input.clone(), placed(np.zeros((), np.int64), input.device))


def _some(who: str, input: Tensor, dim: int) -> int:
    n = input._spec.shape[dim] if input._spec.ndim else 1
    if not n:
        raise IndexError(f"{who}: shape {input._spec.shape}; expected reduction dim {dim} to have non-zero size")
    return n


@op(method=True, torch=lambda torch, *args, **kw: _pair(torch.median(*args, **kw)))
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element in order, the lower one of two: of all, or along ``dim`` as the pair (values, indices).

    NaN wherever there is one.

    >>> import tensorlite as tl
    >>> tl.median(tl.tensor([3.0, 1.0, 4.0, 2.0]))
    tensor(2.)
    """
    if dim is None:
        if not input._spec.size:
            return input.new_full((), float("nan"))
        return median(reshape(input, (-1,)), 0).values
    d = dim_of("median", dim, input._spec.ndim)
    middle = (_some("median", input, d) - 1) // 2
    if not input._spec.dtype.is_floating_point or not input._spec.ndim:
        return _taken("median", input, middle, d, keepdim, Median)
    wrong = isnan(input).sum(d, keepdim=True)  # NaN is last in order: the first of them is at this place
    n = input._spec.shape[d]
    rank = where(wrong > 0, n - wrong, wrong.new_full((), middle))
    return _taken("median", input, rank, d, keepdim, Median)


def _pair(y: Any) -> Any:
    return tuple(y) if isinstance(y, tuple) else y


@median.cases
def _(make):
    yield dict(input=make.distinct(3, 4))
    yield dict(input=make.distinct(3, 4), dim=1)
    yield dict(input=make.distinct(5, 2), dim=0, keepdim=True)
    yield dict(input=make.tensor([2.0, float("nan"), -1.0]))
    yield dict(input=make.tensor([[2.0, 1.0, -1.0], [float("nan"), 1.0, 3.0]]), dim=-1)
    yield dict(input=make.tensor([4, 9, 2, 7], None))
    yield dict(input=make(), dim=0)
    yield IndexError, dict(input=make(3, 0), dim=1)
    yield IndexError, dict(input=make(3), dim=1)


def _kth_ref(input, k, dim=-1, keepdim=False):
    if not input.ndim:
        return input, np.zeros((), int)
    at = np.argsort(np.where(np.isnan(input), np.inf, input), axis=dim, kind="stable").take([k - 1], dim)
    values = np.take_along_axis(input, at, dim)
    return (values, at) if keepdim else (values.squeeze(dim), at.squeeze(dim))


@median.ref
def _(input, dim=None, keepdim=False):
    if dim is None:
        return np.nan if np.isnan(input).any() else np.quantile(input, 0.5, method="lower")
    n = input.shape[dim] if input.ndim else 1
    values, at = _kth_ref(input, (n + 1) // 2, dim, keepdim)
    if np.isnan(input).any():
        first = np.argmax(np.isnan(input), dim)
        has = np.isnan(input).any(dim)
        return np.where(has, np.nan, values), np.where(has, first, at)
    return values, at


@op(method=True, torch=lambda torch, *args, **kw: tuple(torch.kthvalue(*args, **kw)))
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest element along ``dim`` (k = 1 the smallest) and its place, as the pair (values, indices).

    >>> import tensorlite as tl
    >>> tl.kthvalue(tl.tensor([3.0, 1.0, 2.0]), 2).values
    tensor(2.)
    """
    d = dim_of("kthvalue", dim, input._spec.ndim)
    n = _some("kthvalue", input, d)
    if not 1 <= index("kthvalue", k) <= n:
        raise RuntimeError(f"kthvalue: k is {k} for {n} elements; selected number k out of range for dimension {dim}")
    return _taken("kthvalue", input, int(k) - 1, d, keepdim, KthValue)


@kthvalue.cases
def _(make):
    yield dict(input=make.distinct(3, 4), k=2)
    yield dict(input=make.distinct(4, 3), k=4, dim=0, keepdim=True)
    yield dict(input=make(), k=1)
    yield RuntimeError, dict(input=make(3), k=4)
    yield RuntimeError, dict(input=make(3), k=0)


kthvalue.ref(_kth_ref)


@op(method=True)
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The value below which a share ``q`` of the elements lies, of all or along ``dim``; NaN wherever there is one.

    q is a number, or a vector of numbers between 0 and 1: its results lie along a new first dimension.

    Args:
        interpolation: between two elements: "linear", "lower", "higher", "midpoint" or "nearest".

    >>> import tensorlite as tl
    >>> tl.quantile(tl.arange(5.0), tl.tensor([0.25, 0.9]))
    tensor([1.0000, 3.6000])
    """
    if not input._spec.dtype.is_floating_point:
        raise DTypeError(f"quantile: input is {input._spec.dtype.name}; wanted a floating-point dtype")
    if input._spec.dtype.is_half:
        y = quantile(input.float(), q, dim, keepdim, interpolation=interpolation)
        return y.to(input._spec.dtype)
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise RuntimeError(f"quantile: {interpolation!r}; wanted linear, lower, higher, midpoint or nearest")
    shares = np.asarray(q.tolist() if isinstance(q, Tensor) else q, np.float64)
    if shares.ndim > 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise RuntimeError(f"quantile: q {q}; q must be a scalar or 1D, with values in the range [0, 1]")
    if not input._spec.size:
        raise RuntimeError("quantile: quantile() input tensor must be non-empty")
    x = reshape(input, (-1,)) if dim is None else input if input._spec.ndim else reshape(input, (1,))
    d = 0 if dim is None else dim_of("quantile", dim, input._spec.ndim)
    shape = x._spec.shape
    ordered, n = sort(x.movedim(d, -1)).values, shape[d]
    place = shares.reshape(-1) * (n - 1)
    below, above = np.floor(place), np.ceil(place)
    if interpolation == "nearest":
        below = above = np.rint(place)
    elif interpolation in ("lower", "higher"):
        below = above = below if interpolation == "lower" else above
    share = np.full_like(place, 0.5) * (above > below) if interpolation == "midpoint" else place - below
    share = np.where(above > below, share, 0.0)
    low, high = (ordered.index_select(-1, placed(p.astype(np.int64), ordered.device)) for p in (below, above))
    y = low + (high - low) * placed(share.astype(input._spec.dtype.np), input.device)
    y = y.masked_fill(isnan(ordered.narrow(-1, n - 1, 1)), float("nan")).movedim(-1, 0)
    if keepdim:
        kept = [1] * input._spec.ndim if dim is None else [1 if k == d else s for k, s in enumerate(shape)]
        y = reshape(y, (len(place), *kept))
    return y if shares.ndim else y.squeeze(0)


@quantile.cases
def _(make):
    yield dict(input=make.distinct(3, 4), q=0.3)
    yield dict(input=make.distinct(3, 4), q=0.75, dim=1, keepdim=True)
    yield dict(input=make.distinct(3, 4), q=0.75, keepdim=True)
    for how in ("lower", "higher", "midpoint", "nearest"):
        yield dict(input=make.distinct(2, 5), q=0.4, dim=0, interpolation=how)
        yield dict(input=make.distinct(2, 6), q=0.33, dim=1, interpolation=how)
    yield RuntimeError, dict(input=make(3), q=1.5)
    yield RuntimeError, dict(input=make.ints(3), q=0.5)
    yield RuntimeError, dict(input=make(0), q=0.5)
    yield RuntimeError, dict(input=make(3), q=0.5, interpolation="cubic")


quantile.ref(
    lambda input, q, dim=None, keepdim=False, interpolation="linear": np.quantile(
        input, q, dim, method=interpolation, keepdims=keepdim
    )
)
