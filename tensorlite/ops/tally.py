"""Products, counts, moments; repeated and rolled elements: prod, count_nonzero, var_mean, roll and so on. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd import recording
from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.errors import ShapeError
from tensorlite.ops.join import cat
from tensorlite.ops.reduce import mean, var
from tensorlite.ops.rows import index_select
from tensorlite.ops.shape import reshape
from tensorlite.shapes import dim_of, index


@op(method=True, out=True)
def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product of all elements, or along one dimension. Integers multiply in int64 unless a dtype is given.

    Halves are multiplied with each other until one element is left, so that the gradient is right at zeros too.

    >>> import tensorlite as tl
    >>> tl.prod(tl.tensor([2.0, 3.0, 4.0]))
    tensor(24.)
    """
    if dtype is not None or not input._spec.dtype.is_floating_point:
        input = input.to(dtypes.int64 if dtype is None else dtype)
    x = reshape(input, (input._spec.size,)) if dim is None else input
    at = 0 if dim is None else dim_of("prod", dim, x._spec.ndim)
    if not x._spec.ndim:
        return x.clone()
    n, odd = x._spec.shape[at], None
    if not n:
        x = x.sum(at, keepdim=True) + 1
    while n > 1:
        if n % 2:
            last = x.narrow(at, n - 1, 1)
            odd = last if odd is None else odd * last
        n //= 2
        x = x.narrow(at, 0, n) * x.narrow(at, n, n)
    x = x if odd is None else x * odd
    return x if keepdim and dim is not None else x.squeeze(at).clone() if x is input else x.squeeze(at)


@prod.cases
def _(make):
    yield dict(input=make(3, 5))
    yield dict(input=make(3, 5), dim=1)
    yield dict(input=make(2, 7, 3), dim=-2, keepdim=True)
    yield dict(input=make.tensor([[0.0, 2.0, 3.0], [0.0, 0.0, 4.0]]), dim=1)
    yield dict(input=make(1, 3), dim=0)
    yield dict(input=make())
    yield dict(input=make(0, 3), dim=0)
    yield dict(input=make(0))
    yield dict(input=make.ints(6, low=-3))
    yield dict(input=make.bools(4))
    yield dict(input=make.ints(4, low=1), dtype=dtypes.float64)
    yield IndexError, dict(input=make(3), dim=1)


prod.ref(
    lambda input, dim=None, keepdim=False, dtype=None: np.multiply.reduce(
        input if dtype is None else input.astype(float), axis=dim, keepdims=keepdim
    )
)


@op(method=True)
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are not zero, of all or along ``dim``."""
    return (input != 0).sum(dim)


count_nonzero.nograd()


@count_nonzero.cases
def _(make):
    yield dict(input=make.ints(3, 4, high=2))
    yield dict(input=make.tensor([[0.0, 1.0], [0.0, -2.0]]), dim=0)
    yield dict(input=make.bools(2, 3, 4), dim=(0, 2))


count_nonzero.ref(lambda input, dim=None: np.count_nonzero(input, axis=dim))


def _with_mean(name: str, of: Any) -> Any:
    def call(
        input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
    ) -> tuple[Tensor, Tensor]:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        spread = var(input, dim, unbiased, keepdim, correction=correction)
        return of(spread), mean(input, dim, keepdim)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"``{name[:3]}`` and ``mean`` of all elements, or over ``dim``, as a pair."
    return op(call)


var_mean, std_mean = _with_mean("var_mean", lambda v: v), _with_mean("std_mean", lambda v: v.sqrt())


@var_mean.cases
@std_mean.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(3, 4), dim=1, keepdim=True)
    yield dict(input=make(3, 4), dim=(0, 1), correction=0)
    yield RuntimeError, dict(input=make.ints(3))


def _moments(input, dim=None, keepdim=False, correction=1):
    n = input.size if dim is None or isinstance(dim, tuple) else input.shape[dim]
    centre = np.average(input, axis=dim, keepdims=True)
    spread = ((input - centre) ** 2).sum(axis=dim, keepdims=keepdim) / (n - correction)
    return spread, centre if keepdim else centre.reshape(spread.shape)


var_mean.ref(_moments)
std_mean.ref(lambda **given: (np.sqrt(_moments(**given)[0]), _moments(**given)[1]))


@op(method=True)
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved on by ``shifts`` places along ``dims``; what leaves at the end comes in at the start.

    Without ``dims`` the elements move as if they lay in one row.

    >>> import tensorlite as tl
    >>> tl.roll(tl.arange(4), 1)
    tensor([3, 0, 1, 2])
    """
    moves = tuple(shifts) if isinstance(shifts, (tuple, list)) else (shifts,)
    axes = () if dims is None else tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    if not axes and len(moves) == 1:
        return (
            reshape(roll(reshape(input, (-1,)), moves, (0,)), input._spec.shape) if input._spec.size else input.clone()
        )
    if len(moves) != len(axes):
        raise ShapeError(
            f"roll: {len(moves)} shifts and {len(axes)} dims; shifts and dimensions must align (shifts required)"
        )
    y = input
    for move, dim in zip(moves, axes):
        at = dim_of("roll", dim, y._spec.ndim)
        n = y._spec.shape[at] if y._spec.ndim else 0
        k = index("roll", move) % n if n else 0
        if k:
            y = cat([y.narrow(at, n - k, k), y.narrow(at, 0, n - k)], at)
    return y.clone() if y is input else y


@roll.cases
def _(make):
    yield dict(input=make(4), shifts=1)
    yield dict(input=make(3, 4), shifts=-5)
    yield dict(input=make(3, 4), shifts=1, dims=0)
    yield dict(input=make(2, 3, 4), shifts=(1, -2), dims=(2, 1))
    yield dict(input=make(0, 3), shifts=1, dims=0)
    yield dict(input=make(3), shifts=3, dims=-1)
    yield RuntimeError, dict(input=make(3, 4), shifts=(1, 2), dims=(0,))
    yield IndexError, dict(input=make(3), shifts=1, dims=1)


roll.ref(lambda input, shifts, dims=None: np.roll(input, shifts, dims))


@op(method=True)
def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element along ``dim`` repeated ``repeats`` times, a number or a tensor with one number for each.

    Without ``dim`` of all elements in a row. With ``input`` alone: its numbers say how often 0, 1, 2, ... appear.

    >>> import tensorlite as tl
    >>> tl.repeat_interleave(tl.tensor([1, 2, 3]), 2)
    tensor([1, 1, 2, 2, 3, 3])
    """
    if repeats is None:
        return repeat_interleave(placed(np.arange(input._spec.size), input.device), input, 0, output_size=output_size)
    x = reshape(input, (-1,)) if dim is None else input
    at = 0 if dim is None else dim_of("repeat_interleave", dim, x._spec.ndim)
    n = x._spec.shape[at]
    if isinstance(repeats, Tensor):
        recording.reading("repeat_interleave")
    times = repeats.cpu()._arr if isinstance(repeats, Tensor) else np.asarray(index("repeat_interleave", repeats))
    if times.dtype.kind not in "iu" or times.ndim > 1 or (times < 0).any():
        raise RuntimeError(
            f"repeat_interleave: repeats {repeats}; repeats must be integers that are not negative, 0-dim or 1-dim"
        )
    if times.size not in (1, n):
        raise ShapeError(
            f"repeat_interleave: {times.size} repeats for {n} elements; repeats must have the same size as input "
            "along dim"
        )
    places = np.repeat(np.arange(n), np.broadcast_to(times.reshape(-1), n))
    if output_size is not None and output_size != len(places):
        raise RuntimeError(f"repeat_interleave: output_size {output_size}; allocated size does not match {len(places)}")
    return index_select(x, at, placed(places, x.device))


@repeat_interleave.cases
def _(make):
    yield dict(input=make(3), repeats=2)
    yield dict(input=make(2, 3), repeats=2)
    yield dict(input=make(2, 3), repeats=3, dim=1)
    yield dict(input=make(2, 3), repeats=make.ints(2, high=3), dim=0)
    yield dict(input=make(2, 3), repeats=0, dim=0)
    yield dict(input=make.ints(4))
    yield RuntimeError, dict(input=make(2, 3), repeats=make.ints(2), dim=1)
    yield RuntimeError, dict(input=make(2, 3), repeats=-1, dim=1)


repeat_interleave.ref(
    lambda input, repeats=None, dim=None: (
        np.repeat(np.arange(len(input)), input) if repeats is None else np.repeat(input, repeats, dim)
    )
)


@op(method=True, in_place=True, out=True)
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along ``dim``. Integers multiply in int64 unless a dtype is given.

    Each pass multiplies what is 1, 2, 4, ... places back, so that the gradient is right at zeros too.

    >>> import tensorlite as tl
    >>> tl.cumprod(tl.tensor([2.0, 3.0, 4.0]), 0)
    tensor([ 2.,  6., 24.])
    """
    if dtype is not None or not input._spec.dtype.is_floating_point:
        input = input.to(dtypes.int64 if dtype is None else dtype)
    at = dim_of("cumprod", dim, input._spec.ndim)
    y, back = input, 1
    n = input._spec.shape[at] if input._spec.ndim else 1
    while back < n:
        y = cat([y.narrow(at, 0, back), y.narrow(at, back, n - back) * y.narrow(at, 0, n - back)], at)
        back *= 2
    return y.clone() if y is input else y


@cumprod.cases
def _(make):
    yield dict(input=make(3, 5), dim=1)
    yield dict(input=make(7, 2), dim=0)
    yield dict(input=make.tensor([2.0, 0.0, 3.0, 0.0, 4.0]), dim=-1)
    yield dict(input=make(), dim=0)
    yield dict(input=make(0, 3), dim=0)
    yield dict(input=make.ints(4, low=1), dim=0)
    yield dict(input=make.ints(4, low=1), dim=0, dtype=dtypes.float64)
    yield IndexError, dict(input=make(3), dim=1)


@cumprod.ref
def _(input, dim, dtype=None):
    x = input if dtype is None else input.astype(float)
    if not x.ndim or not x.size:
        return x
    return np.stack([x.take(range(k + 1), dim).prod(dim) for k in range(x.shape[dim])], dim)


@op(method=True)
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often 0, 1, 2, ... occur in a vector of integers, or the sum of the weights that stand beside each.

    >>> import tensorlite as tl
    >>> tl.bincount(tl.tensor([1, 3, 1]))
    tensor([0, 2, 0, 1])
    """
    recording.reading("bincount")
    values = input.cpu()._arr
    if values.ndim != 1 or values.dtype.kind not in "iu" or (values.size and values.min() < 0):
        raise RuntimeError(
            f"bincount: input {input._spec.dtype.name} {input._spec.shape}; bincount only supports 1-d non-negative "
            "integral inputs"
        )
    if minlength < 0:
        raise RuntimeError(f"bincount: minlength {minlength}; minlength should be >= 0")
    if weights is None:
        return placed(np.bincount(values, minlength=minlength), input.device)
    if weights._spec.shape != input._spec.shape:
        raise RuntimeError(
            f"bincount: weights {weights._spec.shape} for input {input._spec.shape}; weights should be 1-d and "
            "have the same length as input"
        )
    d = weights._spec.dtype if weights._spec.dtype in (dtypes.float32, dtypes.float64) else dtypes.float64
    return placed(np.bincount(values, weights.cpu()._arr, minlength).astype(d.np), input.device)


bincount.nograd()


@bincount.cases
def _(make):
    yield dict(input=make.ints(9))
    yield dict(input=make.ints(9), minlength=8)
    yield dict(input=make.ints(9, dtype=dtypes.uint8))
    yield dict(input=make.ints(0))
    yield RuntimeError, dict(input=make(3))
    yield RuntimeError, dict(input=make.ints(3, low=-4, high=0))
    yield RuntimeError, dict(input=make.ints(2, 2))
    yield RuntimeError, dict(input=make.ints(3), weights=make.ints(2))


@bincount.ref
def _(input, minlength=0):
    numbers = range(max(*(int(v) + 1 for v in input), 0, minlength))
    return np.array([sum(input == k) for k in numbers])


@op
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """For each element whether it is among ``test_elements`` (with ``invert``: is not). One of both may be a number.

    >>> import tensorlite as tl
    >>> tl.isin(tl.tensor([1, 2, 3]), tl.tensor([3, 1]))
    tensor([ True, False,  True])
    """
    if not isinstance(test_elements, Tensor):
        found = elements == test_elements
    else:
        there = reshape(test_elements, (-1,))
        found = (there == elements if not isinstance(elements, Tensor) else elements.unsqueeze(-1) == there).any(-1)
    return ~found if invert else found


isin.nograd()


@isin.cases
def _(make):
    yield dict(elements=make.ints(3, 4), test_elements=make.ints(2))
    yield dict(elements=make.ints(3, 4), test_elements=make.ints(2), invert=True)
    yield dict(elements=make.ints(3), test_elements=make.ints(0))


@isin.ref
def _(elements, test_elements, invert=False):
    wanted = np.ravel(test_elements).tolist()
    return np.array([(v in wanted) != invert for v in elements.ravel().tolist()]).reshape(elements.shape)
