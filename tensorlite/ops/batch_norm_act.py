"""Batch norm with what often stands behind it, in one pass: relu, or a residual added and then relu. Floor 3.

No public function: a program that was recorded may use them in place of the ops that they are made of. With compiled
kernels they give the same bits as those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import relu_dx_p
from tensorlite.ops.cast import laid_as
from tensorlite.ops.norm import (
    batch_norm_p,
    gradients,
    normalize_dx_p,
    of_channels,
    some_channels,
    some_of_channels,
)

RUNNING = ("running_mean", "running_var")


# ---- the gradients, from what came out
@primitive(name="batch_norm_relu_dx", torch=None)
def batch_norm_relu_dx_p(xp, dy, x, mean, var, w, y, out, out_dw, out_db, *, dim, shape, affine, eps):
    """The gradients with respect to x, scale and shift of y = relu((x - mean) / sqrt(var + eps) * w + b)."""
    how = dict(dim=dim, shape=shape, affine=affine, eps=eps)
    normalize_dx_p.op.fn(xp, _passed(xp, dy, y), x, mean, var, w, out, out_dw, out_db, **how)


@primitive(name="batch_norm_add_relu_dx", torch=None)
def batch_norm_add_relu_dx_p(xp, dy, x, mean, var, w, y, out, out_dw, out_db, out_residual, *, dim, shape, affine, eps):
    """As ``batch_norm_relu_dx`` where a residual was added before relu; and its gradient, what relu let pass."""
    how = dict(dim=dim, shape=shape, affine=affine, eps=eps)
    out_residual[...] = _passed(xp, dy, y)
    normalize_dx_p.op.fn(xp, out_residual, x, mean, var, w, out, out_dw, out_db, **how)


def _passed(xp: Any, dy: Any, y: Any) -> Any:
    return xp.where(y <= 0, xp.zeros((), dy.dtype), dy)


@batch_norm_relu_dx_p.spec
def _(dy, x, mean, var, w, y, **how):
    return normalize_dx_p.op.make_spec(dy, x, mean, var, w, **how)


@batch_norm_add_relu_dx_p.spec
def _(dy, x, mean, var, w, y, **how):
    return (*normalize_dx_p.op.make_spec(dy, x, mean, var, w, **how), dy.packed())


for _p in (batch_norm_relu_dx_p, batch_norm_add_relu_dx_p):
    _p.nograd()
    _p.kernel("cpu", _p.op.name, when=of_channels, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"batch_norm.{_p.op.name}", "", when=some_of_channels, formats=ANY)


# ---- forward
@primitive(name="batch_norm_relu", mutates=RUNNING, torch=None)
def batch_norm_relu_p(
    xp, x, w=None, b=None, running_mean=None, running_var=None, out=None, out_mean=None, out_var=None,
    *, dim, shape, momentum, eps,
):  # fmt: skip
    """relu(batch norm of x), and mean and variance of the batch. Effect: as ``batch_norm``."""
    how = dict(dim=dim, shape=shape, momentum=momentum, eps=eps)
    batch_norm_p.op.fn(xp, x, w, b, running_mean, running_var, out, out_mean, out_var, **how)
    xp.maximum(out, xp.zeros((), out.dtype), out=out)


@primitive(name="batch_norm_add_relu", mutates=RUNNING, torch=None)
def batch_norm_add_relu_p(
    xp, x, w=None, b=None, running_mean=None, running_var=None, residual=None, out=None, out_mean=None, out_var=None,
    *, dim, shape, momentum, eps,
):  # fmt: skip
    """relu(batch norm of x + residual), and mean and variance of the batch. Effect: as ``batch_norm``."""
    if out.dtype.itemsize == 2:  # ops with effects do their own rounding
        x, w, b, residual = (None if a is None else a.astype(np.float32) for a in (x, w, b, residual))
    y = xp.empty(out.shape, x.dtype)  # not in two steps: out may be the residual
    how = dict(dim=dim, shape=shape, momentum=momentum, eps=eps)
    batch_norm_p.op.fn(xp, x, w, b, running_mean, running_var, y, out_mean, out_var, **how)
    xp.add(y, residual, y)
    out[...] = xp.maximum(y, xp.zeros((), y.dtype), out=y)


batch_norm_relu_p.spec(batch_norm_p.op.make_spec)


@batch_norm_add_relu_p.spec
def _(x, w, b, running_mean, running_var, residual, **how):
    if residual is None or residual.shape != x.shape:
        given = None if residual is None else residual.shape
        raise ShapeError(f"batch_norm_add_relu: x {x.shape} and residual {given}; wanted one shape")
    if residual.dtype is not x.dtype:
        raise DTypeError(f"batch_norm_add_relu: x {x.dtype.name}, residual {residual.dtype.name}; wanted one dtype")
    return batch_norm_p.op.make_spec(x, w, b, running_mean, running_var, **how)


def _alike(x: Spec, w: Any, b: Any, mean: Any, var: Any, *residual: Spec, **_: Any) -> bool:
    return all(r.format is x.format for r in residual)


for _p in (batch_norm_relu_p, batch_norm_add_relu_p):
    _p.op.silent_outputs = (1, 2)
    _p.kernel("cpu", _p.op.name, when=_alike, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"batch_norm.{_p.op.name}", "", when=some_channels, formats=ANY)


def _back(g: Tensor, y: Tensor, mean: Tensor, var: Tensor, x: Tensor, w: Any, w_spec: Any, b_spec: Any, **how: Any):
    """The gradients of x, w and b, and what relu let pass."""
    d = relu_dx_p(laid_as(g, x._spec), y)
    return (*gradients((d,), mean, var, x, w, w_spec, b_spec, **how), d)


@batch_norm_relu_p.grad
def _(g, out, out_mean, out_var, x, w, w_spec, b_spec, dim, shape, eps, want):
    found = _back(g[0], out, out_mean, out_var, x, w, w_spec, b_spec, dim=dim, shape=shape, eps=eps)
    return (*found[:3], None, None)


@batch_norm_add_relu_p.grad
def _(g, out, out_mean, out_var, x, w, w_spec, b_spec, dim, shape, eps, want):
    *found, d = _back(g[0], out, out_mean, out_var, x, w, w_spec, b_spec, dim=dim, shape=shape, eps=eps)
    return (*found, None, None, d)


@face(batch_norm_relu_p)
def batch_norm_relu(
    x: Tensor, w: Any = None, b: Any = None, running_mean: Any = None, running_var: Any = None, **how: Any
) -> Tensor:
    """relu(batch norm of x). Effect: as ``batch_norm``."""
    return batch_norm_relu_p(x, w, b, running_mean, running_var, **how)[0]


@face(batch_norm_add_relu_p)
def batch_norm_add_relu(
    x: Tensor,
    w: Any = None,
    b: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    residual: Any = None,
    **how: Any,
) -> Tensor:
    """relu(batch norm of x + residual). Effect: as ``batch_norm``."""
    return batch_norm_add_relu_p(x, w, b, running_mean, running_var, residual, **how)[0]


# ---- cases and references
def _how(x: Any) -> dict:
    return dict(dim=(0, *range(2, x.ndim)), shape=(1, x.shape[1], *(1 for _ in x.shape[2:])), eps=1e-3)


def _images(make):
    for x in (make(4, 3), make(3, 2, 4), make(2, 3, 4, 2)):
        c = x.shape[1]
        running = dict(running_mean=make(c).detach(), running_var=make(c, low=0.5).detach())
        yield x, dict(w=make(c), b=make(c), **running, momentum=0.3, **_how(x))
    x = make(3, 2, 3)
    yield x, dict(w=None, b=None, running_mean=None, running_var=None, momentum=0.1, **_how(x))


@batch_norm_relu_p.cases
def _(make):
    for x, how in _images(make):
        yield dict(x=x, **how)


@batch_norm_add_relu_p.cases
def _(make):
    for x, how in _images(make):
        yield dict(x=x, residual=make(*x.shape), **how)
    yield RuntimeError, dict(x=x, residual=make(3, 2), **how)
    yield RuntimeError, dict(x=x, residual=make.ints(*x.shape), **how)


def _slopes(make):
    for x in (make(4, 3), make(2, 3, 4, 2)):
        how = _how(x)
        mean, var = make(*how["shape"]), make(*how["shape"], low=0.5)
        given = dict(dy=make(*x.shape), x=x, mean=mean, var=var, w=make(3), y=make(*x.shape))
        yield dict(given, affine=(3,), **how)


batch_norm_relu_dx_p.cases(_slopes)
batch_norm_add_relu_dx_p.cases(_slopes)


def _reference(x, w, b, running_mean, running_var, more, dim, shape, momentum, eps):
    y, *moved = batch_norm_p.op.reference(x, running_mean, running_var, w, b, True, momentum, eps)
    return np.maximum(y + more, 0), *moved


@batch_norm_relu_p.ref
def _(x, w=None, b=None, running_mean=None, running_var=None, **how):
    return _reference(x, w, b, running_mean, running_var, 0, **how)


@batch_norm_add_relu_p.ref
def _(x, w=None, b=None, running_mean=None, running_var=None, residual=0, **how):
    return _reference(x, w, b, running_mean, running_var, residual, **how)


@batch_norm_relu_dx_p.ref
def _(dy, x, mean, var, w, y, **how):
    return normalize_dx_p.op.reference(dy * (y > 0), x, mean, var, w, **how)


@batch_norm_add_relu_dx_p.ref
def _(dy, x, mean, var, w, y, **how):
    d = dy * (y > 0)
    return *normalize_dx_p.op.reference(d, x, mean, var, w, **how), d
