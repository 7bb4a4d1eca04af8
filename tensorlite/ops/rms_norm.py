"""Normalisation by the root mean square. Floor 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.functions import rsqrt
from tensorlite.ops.reduce import reduced, sum_p


def _count(x: Any, dim: tuple) -> int:
    return max(math.prod([x.shape[k] for k in dim]), 1)


def _squares(xp: Any, x: Any, dim: tuple) -> Any:
    return xp.add.reduce(x * x, axis=dim, keepdims=True) / x.dtype.type(_count(x, dim))


# ---- the gradient
@primitive(name="rms_norm_dx", torch=None)
def rms_norm_dx_p(xp, dy, x, squares, w=None, out=None, out_dw=None, *, dim, eps):
    """The gradients with respect to x and w of x / sqrt(mean of squares + eps) * w."""
    r = 1 / xp.sqrt(squares + squares.dtype.type(eps))
    h = x * r
    out_dw[...] = xp.add.reduce(dy * h, axis=tuple(k for k in range(x.ndim) if k not in dim))
    v = dy if w is None else dy * w
    inner = xp.add.reduce(v * h, axis=dim, keepdims=True) / x.dtype.type(_count(x, dim))
    xp.multiply(v - h * inner, r, out=out)


@rms_norm_dx_p.spec
def _(dy, x, squares, w, *, dim, eps):
    return x.like(*x.shape), squares.like(*(x.shape[k] for k in dim))


rms_norm_dx_p.nograd()


# ---- the norm
@primitive(name="rms_norm", torch="nn.functional.rms_norm")
def rms_norm_p(xp, x, w=None, out=None, out_squares=None, *, dim, eps):
    """x / sqrt(mean of squares over ``dim`` + eps) * w, ``dim`` being the last ones; and that mean."""
    out_squares[...] = _squares(xp, x, dim)
    xp.multiply(x, 1 / xp.sqrt(out_squares + out_squares.dtype.type(eps)), out=out)
    if w is not None:
        xp.multiply(out, w, out=out)


@rms_norm_p.spec
def _(x, w, *, dim, eps):
    return x.like(*x.shape), reduced(x, dim, True, dtypes.float32 if x.dtype.is_half else x.dtype)


rms_norm_p.op.silent_outputs = (1,)


@rms_norm_p.grad
def _(g, x, w, x_spec, w_spec, dim, eps, want):
    wide = dtypes.float32 if x_spec.dtype.is_half else x_spec.dtype
    dy, x = g[0].to(wide), x.to(wide)
    n = _count(x_spec, dim)
    r = rsqrt(sum_p(x * x, dim=dim, keepdim=True) / n + eps)
    h = x * r
    v = dy if w is None else dy * w.to(wide)
    dx = (v - h * (sum_p(v * h, dim=dim, keepdim=True) / n)) * r
    dw = None if w is None else (dy * h).sum_to_size(w_spec.shape).to(w_spec.dtype)
    return dx.to(x_spec.dtype), dw


@rms_norm_p.fused_grad
def _(g, out_squares, x, w, w_spec, dim, eps, want):
    dx, dw = rms_norm_dx_p(g[0], x, out_squares, w, dim=dim, eps=eps)
    return dx, None if w is None else dw.to(w_spec.dtype)


def _some(x: Spec, *given: Spec | None, dim: tuple, eps: float) -> bool:
    return x.size > 0


rms_norm_p.kernel("cpu", "rms_norm", when=_some)
rms_norm_dx_p.kernel("cpu", "rms_norm_dx", when=_some)
rms_norm_p.kernel("cuda", "norm.rms_norm", "", when=_some, formats=ANY)
rms_norm_dx_p.kernel("cuda", "norm.rms_norm_dx", "", when=_some, formats=ANY)


@face(rms_norm_p)
def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """input / sqrt(mean(input²) + eps) * weight, with the mean over the last dimensions.

    input (..., *normalized_shape), weight of ``normalized_shape`` or None. Half types are computed in float32; ``eps``
    None is the machine epsilon of the dtype that computes.
    Source: Zhang and Sennrich, "Root mean square layer normalization" (NeurIPS 2019).

    >>> import tensorlite as tl
    >>> tl.nn.functional.rms_norm(tl.tensor([[3.0, 4.0]]), (2,))
    tensor([[0.8485, 1.1314]])
    """
    name, x = "rms_norm", input._spec
    if not isinstance(normalized_shape, (tuple, list)):
        raise TypeError(
            f"{name}: normalized_shape is {type(normalized_shape).__name__}; argument 'normalized_shape' must be "
            "tuple of ints"
        )
    shape = tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(
            f"{name}: given normalized_shape={list(shape)}, expected input with shape [*, "
            f"{', '.join(map(str, shape))}] and one dimension or more, but got input of size {list(x.shape)}"
        )
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {x.dtype}; wanted a floating-point dtype (not implemented for integers)")
    if weight is not None and weight._spec.shape != shape:
        raise ShapeError(f"{name}: weight {weight._spec.shape}; expected weight to be of same shape as {shape}")
    wide = dtypes.float32 if x.dtype.is_half else x.dtype
    if weight is not None and weight._spec.dtype not in (x.dtype, wide):
        weight = weight.to(wide)
    dim = tuple(range(x.ndim - len(shape), x.ndim))
    return rms_norm_p(input, weight, dim=dim, eps=dtypes.finfo(wide).eps if eps is None else float(eps))[0]


@rms_norm_p.cases
def _(make):
    yield dict(input=make(4, 5), normalized_shape=(5,), weight=make(5))
    yield dict(input=make(3, 2, 4), normalized_shape=(2, 4), weight=make(2, 4), eps=1e-3)
    yield dict(input=make(3, 4), normalized_shape=[4], eps=1e-5)
    yield dict(input=make(0, 4), normalized_shape=(4,), weight=make(4))
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=(4,))
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=(3,), weight=make(4))
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=())
    yield RuntimeError, dict(input=make.ints(4, 3), normalized_shape=(3,))


@rms_norm_p.ref
def _(input, normalized_shape, weight=1.0, eps=2.0**-52):
    n = len(normalized_shape)
    squares = np.einsum("...i,...i->...", *[input.reshape(*input.shape[:-n], np.prod(normalized_shape))] * 2)
    root = np.sqrt(squares / np.prod(normalized_shape) + eps)
    return input / root[(..., *(None,) * n)] * weight


@rms_norm_dx_p.cases
def _(make):
    for shape, dim, scale in (
        ((4, 5), (1,), True),
        ((3, 2, 4), (1, 2), True),
        ((3, 4), (1,), False),
        ((5,), (0,), True),
    ):
        x = make(*shape)
        squares = (x._arr.astype(np.float64) ** 2).mean(dim, keepdims=True)
        wide = dtypes.float32 if x.dtype.is_half else x.dtype
        w = dict(w=make(*(shape[k] for k in dim))) if scale else {}
        yield dict(dy=make(*shape), x=x, squares=make.tensor(squares, wide), **w, dim=dim, eps=1e-2)


@rms_norm_dx_p.ref
def _(dy, x, squares, w=1.0, *, dim, eps):
    # the Jacobian of one row after the other, written out
    n, lead = math.prod(x.shape[k] for k in dim), x.shape[: dim[0]]
    dx, v = np.zeros(x.shape), dy * w
    for at in np.ndindex(*lead):
        h, r = x[at].ravel(), 1 / np.sqrt(squares[at].ravel()[0] + eps)
        dx[at] = ((r * np.eye(n) - np.outer(h, h) * r**3 / n) @ v[at].ravel()).reshape(dx[at].shape)
    return dx, (dy * x / np.sqrt(squares + eps)).reshape(-1, n).sum(0).reshape(x.shape[dim[0] :])
