"""Sums, means, extremes and where they are. Floor 3.

``dim`` is None (all), one dimension or several; ``keepdim`` keeps them with size 1. Integers sum in int64; half types
sum in float32 and are rounded once.
"""

from __future__ import annotations

from collections import namedtuple
from operator import methodcaller
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, method, op, store
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, STRIDED, Spec, spec_of
from tensorlite.autograd.tensor import Tensor, needs_grad
from tensorlite.backends import strided
from tensorlite.dtypes import as_dtype, get_default_dtype
from tensorlite.errors import DTypeError
from tensorlite.ops.choice import maximum, minimum
from tensorlite.shapes import dim_of, dims_of

boolean, sum_of = dtypes.bool, sum  # sum is an op in this file


def reduced(x: Spec, dim: tuple, keepdim: bool, dtype: Any = None) -> Spec:
    """The spec of x with these dimensions reduced."""
    if keepdim:
        shape = tuple(1 if k in dim else n for k, n in enumerate(x.shape))
    else:
        shape = tuple(n for k, n in enumerate(x.shape) if k not in dim)
    return spec_of(shape, dtype or x.dtype, x.device)


def four_turns(x: Spec, *, dim: tuple, keepdim: bool) -> bool:
    """Whether x is kept, reduced, kept, reduced sizes, or fewer: what the compiled reductions take."""
    turns = [k in dim for k in range(x.ndim) if x.shape[k] != 1]
    changes = sum_of([a is not b for a, b in zip([False, *turns], turns)])
    return x.size > 0 and len(dim) > 0 and changes <= 3


# ---- stretching back: the gradient of a sum
@primitive(view=True, torch=None)
def spread_p(xp, x, *, shape, dim, keepdim):
    """x, reduced over ``dim`` from ``shape``, stretched back to it without copying."""
    steps = iter(x.strides)
    strides = []
    for k in range(len(shape)):
        if k in dim:
            strides.append(0)
            if keepdim:
                next(steps)
        else:
            strides.append(next(steps))
    return strided(x, shape, tuple(strides))


@spread_p.spec
def _(x, *, shape, dim, keepdim):
    same = x.format is CONTIGUOUS and not [d for d in dim if shape[d] != 1]  # (all is an op in this file)
    return spec_of(shape, x.dtype, x.device, CONTIGUOUS if same else STRIDED)


@spread_p.bind
def _(xp, specs, outs, shape, dim, keepdim):
    if outs[0].format is CONTIGUOUS:
        return methodcaller("reshape", shape)
    if specs[0].format is not CONTIGUOUS or not specs[0].size:
        return None
    strides, step = [], specs[0].dtype.itemsize
    for k in reversed(range(len(shape))):
        strides.append(0 if k in dim else step)
        step *= 1 if k in dim else shape[k]
    strides = tuple(reversed(strides))
    return lambda x: strided(x, shape, strides)


spread_p.grad(x=lambda g, dim, keepdim: sum_p(g, dim=dim, keepdim=keepdim))


@spread_p.cases
def _(make):
    yield dict(x=make(3), shape=(3, 4), dim=(1,), keepdim=False)
    yield dict(x=make(1, 4), shape=(3, 4), dim=(0,), keepdim=True)
    yield dict(x=make(), shape=(2, 2), dim=(0, 1), keepdim=False)


@spread_p.ref
def _(x, shape, dim, keepdim):
    return np.zeros(shape) + (x if keepdim else np.expand_dims(x, dim))


# ---- sums
@primitive(name="sum")
def sum_p(xp, x, out, *, dim, keepdim):
    """The sum over ``dim``."""
    xp.add.reduce(x, axis=dim, out=out, keepdims=keepdim)


@sum_p.bind
def _(xp, specs, outs, dim, keepdim):
    reduce, axis = xp.add.reduce, None if len(dim) == specs[0].ndim else dim if len(dim) != 1 else dim[0]
    call = lambda x, out=None: reduce(x, axis, None, out, keepdim)
    return call, call


sum_p.spec(lambda x, *, dim, keepdim: reduced(x, dim, keepdim))
sum_p.kernel("cpu", "sum", when=four_turns)
sum_p.kernel("cuda", "reduce.sum", "", formats=ANY)
sum_p.grad(x=lambda g, x_spec, dim, keepdim: spread_p(g, shape=x_spec.shape, dim=dim, keepdim=keepdim))


def reduction_cases(make, **more):
    """What every reduction is tried on."""
    yield dict(input=make.distinct(3, 4), **more)
    yield dict(input=make.distinct(3, 4), dim=1, **more)
    yield dict(input=make.distinct(2, 3, 4), dim=(0, -1), keepdim=True, **more)
    yield dict(input=make.distinct(2, 3), dim=0, keepdim=True, **more)
    yield dict(input=make(), **more)
    yield IndexError, dict(input=make(2, 3), dim=2, **more)


@sum_p.cases
def _(make):
    yield from reduction_cases(make)
    yield dict(input=make(3, 0), dim=1)
    yield dict(input=make(0))
    yield dict(input=make.ints(3, 4), dim=0)
    yield dict(input=make.bools(5))
    yield dict(input=make.ints(5), dtype=dtypes.float32)
    yield RuntimeError, dict(input=make(2, 3), dim=(0, 0))


@sum_p.ref
def _(input, dim=None, keepdim=False, dtype=None):
    ones = np.where(
        np.isin(np.arange(input.ndim), np.arange(input.ndim) if dim is None else np.mod(dim, input.ndim)), 1, 0
    )
    y = np.einsum(input.astype(float), list(range(input.ndim)), [k for k in range(input.ndim) if not ones[k]])
    return np.expand_dims(y, tuple(np.flatnonzero(ones))) if keepdim else y


@face(sum_p, method=True, out=True)
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum of all elements, or over ``dim``. Integers and bool sum in int64 unless a dtype is given.

    >>> import tensorlite as tl
    >>> tl.sum(tl.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0)
    tensor([4., 6.])
    """
    spec = input._spec
    if dtype is not None:
        input = input.to(as_dtype(dtype, "sum"))
    elif not spec.dtype.is_floating_point:
        input = input.to(dtypes.int64)
    return sum_p(input, dims_of("sum", dim, spec.ndim), keepdim)


def count(spec: Spec, dims: tuple) -> int:
    """How many elements each reduced one stands for."""
    n = 1
    for d in dims:
        n *= spec.shape[d]
    return n


@op(method=True, out=True)
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of all elements, or over ``dim``. Floating point only, unless a dtype is given."""
    if dtype is not None:
        input = input.to(as_dtype(dtype, "mean"))
    spec = input._spec
    if not spec.dtype.is_floating_point:
        raise DTypeError(f"mean: got {spec.dtype}; wanted a floating-point dtype (could not infer output dtype)")
    dims = dims_of("mean", dim, spec.ndim)
    n = count(spec, dims)
    if spec.dtype.is_half:  # the sum of halves may overflow where their mean does not
        return (sum_p(input.to(dtypes.float32), dim=dims, keepdim=keepdim) / n).to(spec.dtype)
    return sum_p(input, dim=dims, keepdim=keepdim) / n


@mean.cases
def _(make):
    yield from reduction_cases(make)
    yield dict(input=make.ints(3), dtype=dtypes.float64)
    yield RuntimeError, dict(input=make.ints(3))


mean.ref(lambda input, dim=None, keepdim=False, dtype=None: np.average(input, axis=dim, keepdims=keepdim))


def _squares(input: Tensor, dim: Any, correction: Any, keepdim: bool, name: str) -> Tensor:
    spec = input._spec
    if not spec.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {spec.dtype}; wanted a floating-point dtype")
    dims = dims_of(name, dim, spec.ndim)
    off = input - mean(input, dims, True) if dims or not spec.ndim else input
    n = count(spec, dims) - (1 if correction is None else correction)
    return sum_p(off * off, dim=dims, keepdim=keepdim) / (n if n > 0 else 0)


@op(method=True, out=True)
def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    """The variance: squared distances from the mean over (n - correction); correction 1 unless said."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return _squares(input, dim, correction if correction is not None else int(unbiased), keepdim, "var")


@op(method=True, out=True)
def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    """The standard deviation, the square root of ``var``."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return _squares(input, dim, correction if correction is not None else int(unbiased), keepdim, "std").sqrt()


@var.cases
@std.cases
def _(make):
    yield dict(input=make.distinct(3, 4))
    yield dict(input=make.distinct(3, 4), dim=1, keepdim=True)
    yield dict(input=make.distinct(3, 4), dim=0, correction=0)
    yield dict(input=make.distinct(3, 4), dim=0, unbiased=False)
    yield RuntimeError, dict(input=make.ints(3))


def _var(input, dim=None, unbiased=True, keepdim=False, correction=None):
    return (
        np.cov(input.ravel(), ddof=1)
        if dim is None
        else np.var(input, axis=dim, ddof=int(unbiased) if correction is None else correction, keepdims=keepdim)
    )


var.ref(_var)
std.ref(lambda **kw: np.sqrt(_var(**kw)))


# ---- extremes
def _extreme(name: str, method: str):
    @primitive(name=name)
    def extreme_p(xp, x, out, *, dim, keepdim):
        """The largest (amax) or smallest (amin) element; ties share the gradient evenly."""
        getattr(x, method)(axis=dim, out=out, keepdims=keepdim)

    @extreme_p.spec
    def _(x, *, dim, keepdim):
        if 0 in [x.shape[d] for d in dim]:
            raise IndexError(f"{name}: got shape {x.shape}; expected reduction dim to have a non-zero size")
        return reduced(x, dim, keepdim)

    def dx(g, x, y, dim, keepdim):
        shape = x._spec.shape
        hit = (x == spread_p(y, shape=shape, dim=dim, keepdim=keepdim)).to(g.dtype)
        share = g / sum_p(hit, dim=dim, keepdim=keepdim)
        return hit * spread_p(share, shape=shape, dim=dim, keepdim=keepdim)

    extreme_p.grad(x=dx)
    extreme_p.kernel("cpu", name, when=four_turns)
    extreme_p.kernel("cuda", f"reduce.{name}", "", formats=ANY)

    @extreme_p.cases
    def _(make):
        yield from reduction_cases(make)
        yield dict(input=make.ints(3, 4), dim=1)
        yield IndexError, dict(input=make(2, 0), dim=1)

    @extreme_p.ref
    def _(input, dim=None, keepdim=False):
        dims = tuple(range(input.ndim)) if dim is None else tuple(np.mod(dim, input.ndim).reshape(-1))
        kept = [k for k in range(input.ndim) if k not in dims]
        rows = np.sort(input.transpose(*kept, *dims).reshape(*(input.shape[k] for k in kept), -1), axis=-1)
        y = rows[..., -1 if name == "amax" else 0]
        return np.expand_dims(y, dims) if keepdim else y

    @face(extreme_p, method=name, out=True)
    def extreme(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
        return extreme_p(input, dim=dims_of(name, dim, input._spec.ndim), keepdim=keepdim)

    extreme.__name__ = extreme.__qualname__ = name
    extreme.__doc__ = extreme_p.op.doc
    return extreme_p, extreme


amax_p, amax = _extreme("amax", "max")
amin_p, amin = _extreme("amin", "min")


def _a_line(x: Spec, *, dim: int | None, keepdim: bool) -> bool:
    """Whether there is something to look through, and places that fit the compiled kernels' 32 bits."""
    return x.ndim > 0 and 0 < x.size < 1 << 31


def _arg(name: str):
    @primitive(name=name)
    def arg_p(xp, x, out, *, dim, keepdim):
        """Where the largest (argmax) or smallest (argmin) element is; the first of several; nan counts as extreme."""
        if dim is None:
            out[...] = getattr(xp, name)(x)
        else:
            getattr(xp, name)(x, axis=dim, out=out, keepdims=keepdim)

    @arg_p.spec
    def _(x, *, dim, keepdim):
        if x.dtype is boolean:
            raise DTypeError(f"{name}: got bool; wanted numbers (not implemented for 'Bool')")
        if (x.size if dim is None else x.shape[dim] if x.ndim else 1) == 0:
            raise IndexError(f"{name}: got shape {x.shape}; expected reduction dim to have a non-zero size")
        if dim is None:
            return spec_of((1,) * x.ndim if keepdim else (), dtypes.int64, x.device)
        return reduced(x, (dim,) if x.ndim else (), keepdim, dtypes.int64)

    @arg_p.bind
    def _(xp, specs, outs, dim, keepdim):
        if specs[0].ndim:
            return None
        return lambda x, out: out.fill(0)

    arg_p.nograd()
    arg_p.kernel("cpu", name, when=_a_line)
    arg_p.kernel("cuda", f"reduce.{name}", "", formats=ANY)

    @arg_p.cases
    def _(make):
        yield dict(input=make.distinct(3, 4))
        yield dict(input=make.distinct(3, 4), dim=1)
        yield dict(input=make.distinct(3, 4), dim=-2, keepdim=True)
        yield dict(input=make())
        yield IndexError, dict(input=make(0, 3), dim=0)

    @arg_p.ref
    def _(input, dim=None, keepdim=False):
        order = np.argsort(input if dim is not None else input.ravel(), axis=-1 if dim is None else dim)
        y = order.take(-1 if name == "argmax" else 0, -1 if dim is None else dim)
        return np.expand_dims(y, dim) if keepdim else y

    @face(arg_p, method=name)
    def arg(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return arg_p(input, dim=None if dim is None else dim_of(name, dim, input._spec.ndim), keepdim=keepdim)

    arg.__name__ = arg.__qualname__ = name
    arg.__doc__ = arg_p.op.doc
    return arg_p, arg


argmax_p, argmax = _arg("argmax")
argmin_p, argmin = _arg("argmin")


def _along(name: str):
    Result = namedtuple(name, ("values", "indices"))

    @primitive(
        name=f"{name}_along",
        torch=lambda torch, input, dim, keepdim=False: tuple(getattr(torch, name)(input, dim, keepdim)),
    )
    def along_p(xp, x, out, out_indices, *, dim, keepdim):
        """The extreme over one dimension and where it is; the gradient goes to that place alone."""
        if not x.ndim:
            out[...], out_indices[...] = x, 0
            return
        at = getattr(xp, f"arg{name}")(x, axis=dim, keepdims=True)
        values = xp.take_along_axis(x, at, dim)
        xp.copyto(out, values if keepdim else values.squeeze(dim))
        xp.copyto(out_indices, at if keepdim else at.squeeze(dim))

    @along_p.spec
    def _(x, *, dim, keepdim):
        if x.ndim and x.shape[dim] == 0:
            raise IndexError(f"{name}: got shape {x.shape}; expected reduction dim {dim} to have a non-zero size")
        dims = (dim,) if x.ndim else ()
        return reduced(x, dims, keepdim), reduced(x, dims, keepdim, dtypes.int64)

    along_p.kernel("cpu", f"{name}_along", when=_a_line)
    along_p.kernel("cuda", f"reduce.{name}_along", "", formats=ANY)

    @along_p.grad
    def _(g, out_indices, x_spec, dim, keepdim, want):
        values, indices = g[0], out_indices
        if not x_spec.ndim:
            return (values,)
        if not keepdim:
            values, indices = values.unsqueeze(dim), indices.unsqueeze(dim)
        return (values.new_zeros(x_spec.shape).scatter(dim, indices, values),)

    @along_p.cases
    def _(make):
        yield dict(input=make.distinct(3, 4), dim=1)
        yield dict(input=make.distinct(3, 4), dim=-2, keepdim=True)
        yield dict(input=make(), dim=0)
        yield IndexError, dict(input=make(2, 0), dim=1)

    @along_p.ref
    def _(input, dim, keepdim=False):
        if not input.ndim:
            return input, 0
        order = np.argsort(input, axis=dim)
        at = order.take([-1 if name == "max" else 0], dim)
        values = np.take_along_axis(input, at, dim)
        return (values, at) if keepdim else (values.squeeze(dim), at.squeeze(dim))

    @face(along_p)
    def along(input: Tensor, dim: int, keepdim: bool = False) -> Any:
        return Result(*along_p(input, dim=dim_of(name, dim, input._spec.ndim), keepdim=keepdim))

    return along


_max_along, _min_along = _along("max"), _along("min")


def _max_or_min(name: str, along: Any, extreme: Any, pairwise: Any):
    def call(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None, out: Any = None) -> Any:
        if other is not None or isinstance(dim, Tensor):
            return pairwise(input, dim if other is None else other, out=out)
        result = extreme(input, dim=_every(input), keepdim=False) if dim is None else along(input, dim, keepdim)
        if out is not None:
            return store(result, out, (input,), name)
        return result

    call.__name__ = call.__qualname__ = name
    return call


def _every(input: Tensor) -> tuple:
    if not input._spec.size:
        raise RuntimeError(
            "max, min: expected reduction dim to be specified for input.numel() == 0. "
            "Specify the reduction dim with the 'dim' argument."
        )
    return tuple(range(input._spec.ndim))


max = _max_or_min("max", _max_along, amax_p, maximum)
min = _max_or_min("min", _min_along, amin_p, minimum)
max.__doc__ = """The largest element; with ``dim`` the named tuple (values, indices); with a tensor ``maximum``.

    >>> import tensorlite as tl
    >>> tl.max(tl.tensor([[1.0, 5.0], [7.0, 2.0]]), dim=1).indices
    tensor([1, 0])
    """
min.__doc__ = "The smallest element; with ``dim`` the named tuple (values, indices); with a tensor ``minimum``."
max, min = (op(f, method=True) for f in (max, min))


@max.cases
@min.cases
def _(make):
    yield dict(input=make.distinct(3, 4))
    yield dict(input=make.distinct(3, 4), dim=1)
    yield dict(input=make.distinct(3), other=make(3))
    yield RuntimeError, dict(input=make(0))


def _ref_extreme(name):
    def ref(input, dim=None, other=None):
        if other is not None:
            return np.fmax(input, other) if name == "max" else np.fmin(input, other)
        if dim is None:
            return np.sort(input.ravel())[-1 if name == "max" else 0]
        order = np.argsort(input, axis=dim).take(-1 if name == "max" else 0, dim)
        return np.take_along_axis(input, np.expand_dims(order, dim), dim).squeeze(dim), order

    return ref


max.ref(_ref_extreme("max"))
min.ref(_ref_extreme("min"))


# ---- truth
def _truth(name: str, ufunc: str):
    @primitive(name=name)
    def truth_p(xp, x, out, *, dim, keepdim):
        """Whether all, or any, elements are true."""
        getattr(x, name)(axis=dim, out=out, keepdims=keepdim)

    @truth_p.bind
    def _(xp, specs, outs, dim, keepdim):
        if xp is not np:
            return None
        reduce = getattr(np, ufunc).reduce
        return lambda x, out: reduce(x, dim, None, out, keepdim)

    truth_p.spec(lambda x, *, dim, keepdim: reduced(x, dim, keepdim, boolean))
    truth_p.nograd()
    truth_p.kernel("cuda", f"reduce.{name}", "", formats=ANY)

    @truth_p.cases
    def _(make):
        yield dict(input=make.bools(3, 4))
        yield dict(input=make.bools(3, 4), dim=1)
        yield dict(input=make.ints(3, 4, high=2), dim=0, keepdim=True)
        yield dict(input=make.bools(0))

    truth_p.ref(lambda input, dim=None, keepdim=False: getattr(np, name)(input != 0, axis=dim, keepdims=keepdim))

    @face(truth_p, method=name)
    def truth(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        x = input if input._spec.dtype is boolean else input != 0
        return truth_p(x, dim=dims_of(name, dim, input._spec.ndim), keepdim=keepdim)

    truth.__name__ = truth.__qualname__ = name
    truth.__doc__ = f"Whether {name} of the elements are true (not zero), over ``dim`` or over everything."
    return truth


all, any = _truth("all", "logical_and"), _truth("any", "logical_or")


@op(method=True, out=True)
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over ``dim``, without overflow."""
    if not input._spec.dtype.is_floating_point:
        input = input.to(get_default_dtype())
    dims = dims_of("logsumexp", dim, input._spec.ndim)
    top = amax_p(input.detach(), dim=dims, keepdim=True)
    top = top.masked_fill(top.isinf(), 0.0)
    y = sum_p((input - top).exp(), dim=dims, keepdim=True).log() + top
    return y if keepdim else y.squeeze(dims) if dims else y


@logsumexp.cases
def _(make):
    yield dict(input=make(3, 4), dim=1)
    yield dict(input=make(3, 4), dim=(0, 1), keepdim=True)
    yield dict(input=make.tensor([1000.0, 999.0]), dim=0)


@logsumexp.ref
def _(input, dim, keepdim=False):
    if isinstance(dim, tuple):
        return np.logaddexp.reduce(input.ravel()).reshape([1] * input.ndim)
    return np.logaddexp.reduce(input, axis=dim, keepdims=keepdim)


@op(method=False)
def norm(input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm of all elements taken as one vector, or over ``dim``: (sum |x|^p)^(1/p). The gradient at 0 is 0."""
    dims = dims_of("norm", dim, input._spec.ndim)
    x = input.abs()
    if p in ("fro", 2, None):
        return _root(sum_p(input * input, dim=dims, keepdim=keepdim), 2)
    if p == float("inf"):
        return amax_p(x, dim=dims, keepdim=keepdim)
    if p == float("-inf"):
        return amin_p(x, dim=dims, keepdim=keepdim)
    if p == 0:
        return sum_p((x != 0).to(input.dtype), dim=dims, keepdim=keepdim)
    if p == 1:
        return sum_p(x, dim=dims, keepdim=keepdim)
    if 0 < p < 1:  # the slope at a zero would be infinite
        zero = x == 0
        return _root(sum_p((x.masked_fill(zero, 1) ** p).masked_fill(zero, 0), dim=dims, keepdim=keepdim), p)
    return _root(sum_p(x**p, dim=dims, keepdim=keepdim), p)


def _root(y: Tensor, p: float) -> Tensor:
    """The p-th root with gradient 0 at 0, where the formula has none."""
    if not needs_grad(y):
        return y.sqrt() if p == 2 else y ** (1.0 / p)
    zero = y == 0
    filled = y.masked_fill(zero, 1)
    return (filled.sqrt() if p == 2 else filled ** (1.0 / p)).masked_fill(zero, 0)


@norm.cases
def _(make):
    yield dict(input=make(3, 4, away=0.1))
    yield dict(input=make(3, 4, away=0.1), p=1, dim=1)
    yield dict(input=make(3, 4, away=0.1), p=3, dim=1, keepdim=True)
    yield dict(input=make.distinct(3, 4), p=float("inf"))


norm.ref(
    lambda input, p=2, dim=None, keepdim=False: np.linalg.norm(
        input.ravel() if dim is None else input, ord=p, axis=0 if dim is None else dim, keepdims=keepdim
    )
)


@method("norm")
def _norm(self: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Tensor:
    """The p-norm of all elements taken as one vector, or over ``dim``."""
    return norm(self, p, dim, keepdim)


# ---- running sums
@primitive(name="cumsum")
def cumsum_p(xp, x, out, *, dim, reverse):
    """Running sums along ``dim``, from the end where ``reverse``."""
    if not x.ndim:
        out[...] = x
        return
    lead = (slice(None),) * dim + (slice(None, None, -1 if reverse else None),)
    xp.add.accumulate(x[lead], axis=dim, out=out[lead])


cumsum_p.spec(lambda x, *, dim, reverse: x.like(*x.shape))
cumsum_p.kernel("cpu", "cumsum", when=lambda x, *, dim, reverse: x.size > 0 and x.ndim > 0)
cumsum_p.kernel(
    "cuda",
    "cumsum.cumsum",
    "",
    when=lambda x, *, dim, reverse: x.ndim > 0 and x.dtype is not dtypes.bool,
    formats=ANY,
)
cumsum_p.grad(x=lambda g, dim, reverse: cumsum_p(g, dim=dim, reverse=not reverse))


@cumsum_p.cases
def _(make):
    yield dict(input=make(3, 4), dim=1)
    yield dict(input=make(3, 4), dim=0)
    yield dict(input=make.bools(4), dim=0)
    yield dict(input=make(), dim=0)


cumsum_p.ref(
    lambda input, dim: (
        np.stack([input.take(range(k + 1), dim).sum(dim) for k in range(input.shape[dim])], dim)
        if input.ndim
        else input
    )
)


@face(cumsum_p, method=True, in_place=True, out=True)
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along ``dim``. Integers sum in int64 unless a dtype is given."""
    if dtype is not None or input._spec.dtype.category != dtypes.FLOAT:
        input = input.to(dtypes.int64 if dtype is None else dtype)
    return cumsum_p(input, dim=dim_of("cumsum", dim, input._spec.ndim), reverse=False)
