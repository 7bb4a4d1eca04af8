"""Batch and layer normalisation. Floor 3.

Both subtract the mean over some dimensions, divide by the standard deviation there, and scale and shift. One kernel
does that for any dimensions, and one its gradient; they differ in what the scale varies over. ``batch_norm_p`` also
moves the running statistics: an effect.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face
from tensorlite.autograd.modes import mode
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.cast import laid_as
from tensorlite.ops.constants import constant
from tensorlite.ops.functions import rsqrt
from tensorlite.ops.reduce import count, reduced, sum_p
from tensorlite.ops.shape import expand


def _inner(xp: Any, a: Any, b: Any, dim: tuple) -> Any:
    """The sum of a * b over ``dim``, kept with size 1, without an array of the products."""
    axes = list(range(a.ndim))
    y = xp.einsum(a, axes, b, axes, [k for k in axes if k not in dim])
    return y.reshape([1 if k in dim else n for k, n in enumerate(a.shape)])


def _number(x: Any, dim: tuple) -> int:
    """How many numbers are reduced to one; 1 where there are none, so that nothing is divided by 0."""
    return max(math.prod([x.shape[k] for k in dim]), 1)


def _fold(total: Any, shape: tuple) -> Any:
    """``total`` summed over the dimensions in which ``shape`` has 1 (or nothing)."""
    lead = total.ndim - len(shape)
    axes = tuple(k for k in range(total.ndim) if (k < lead or shape[k - lead] == 1) and total.shape[k] != 1)
    return (total.sum(axis=axes, keepdims=True) if axes else total).reshape(shape)


def _steady(shape: tuple, x: tuple, dim: tuple) -> tuple:
    """Those of ``dim`` along which a scale of this shape does not vary."""
    lead = len(x) - len(shape)
    return tuple(k for k in dim if k < lead or shape[k - lead] == 1)


def normalize(
    xp: Any, x: Any, w: Any, b: Any, out: Any, mean: Any, var: Any, dim: tuple, shape: tuple, eps: float
) -> None:
    n = constant(xp, _number(x, dim), mean.dtype)
    xp.add.reduce(x, axis=dim, out=mean, keepdims=True)
    xp.divide(mean, n, out=mean)
    xp.subtract(x, mean, out=out)
    xp.divide(_inner(xp, out, out, dim), n, out=var)
    scale = 1 / xp.sqrt(var + eps)
    if w is not None and _steady(shape, x.shape, dim):
        scale = scale * w.reshape(shape)
        w = None
    xp.multiply(out, scale, out=out)
    if w is not None:
        xp.multiply(out, w.reshape(shape), out=out)
    if b is not None:
        xp.add(out, b.reshape(shape), out=out)


# ---- the gradient
@primitive(name="normalize_dx", signals=True, torch=None)
def normalize_dx_p(xp, dy, x, mean, var, w=None, out=None, out_dw=None, out_db=None, *, dim, shape, affine, eps):
    """The gradients with respect to x, scale and shift of (x - mean) / sqrt(var + eps) * w + b."""
    n = constant(xp, _number(x, dim), mean.dtype)
    r = 1 / xp.sqrt(var + eps)
    xp.subtract(x, mean, out=out)
    if steady := _steady(shape, x.shape, dim):  # reduced first where the scale is one number: what is left is small
        total, inner = xp.add.reduce(dy, axis=steady, keepdims=True), _inner(xp, dy, out, steady)
        out_db[...] = _fold(total, shape).reshape(affine)
        out_dw[...] = _fold(inner * r, shape).reshape(affine)
        scale = r
        if w is not None:
            w = w.reshape(shape)
            total, inner, scale = total * w, inner * w, r * w
        if rest := tuple(k for k in dim if k not in steady):
            total, inner = (xp.add.reduce(t, axis=rest, keepdims=True) for t in (total, inner))
        xp.multiply(out, inner * (r * r * r) / -n, out=out)
        xp.subtract(out, total * r / n, out=out)
        xp.add(out, dy * scale, out=out)
        return
    out_db[...] = _fold(dy, shape).reshape(affine)
    out_dw[...] = _fold(dy * (out * r), shape).reshape(affine)
    v = dy if w is None else dy * w.reshape(shape)
    total, inner = xp.add.reduce(v, axis=dim, keepdims=True), _inner(xp, v, out, dim)
    xp.multiply(out, inner * (r * r) / -n, out=out)
    xp.add(out, v, out=out)
    xp.subtract(out, total / n, out=out)
    xp.multiply(out, r, out=out)


@normalize_dx_p.spec
def _(dy, x, mean, var, w, *, dim, shape, affine, eps):
    return x.packed(), mean.like(*affine), mean.like(*affine)


@normalize_dx_p.grad
def _(g, dy, x, mean, var, w, w_spec, dim, shape, eps, want):
    # <gx, dx> + <gw, dw> + <gb, db>, differentiated by each input. With xh = (x - mean) r, v = w dy and, over ``dim``,
    # a = sum(gx xh), b = sum(v xh), the first is the sum of r q where q = sum(gx v) - sum(gx) sum(v) / n - a b / n.
    n = max(count(x._spec, dim), 1)
    wide, narrow = mean._spec.dtype, x._spec.dtype
    gx, gw, gb = (None if t is None else t.to(wide) for t in g)
    dy, off = dy.to(wide), x.to(wide) - mean
    r = rsqrt(var + eps)
    xh = off * r
    scale = None if w is None else w.to(wide).reshape(shape)

    def total(t: Tensor) -> Tensor:
        return sum_p(t, dim=dim, keepdim=True)

    to_dy, to_xh, to_w, to_r = [], [], None, None
    if gx is not None:
        v = dy if scale is None else dy * scale
        a, b = total(gx * xh), total(v * xh)
        p = (gx - total(gx) / n - xh * (a / n)) * r  # what dy times the scale is multiplied with
        to_dy.append(p if scale is None else p * scale)
        if scale is not None:
            to_w = (dy * p).sum_to_size(_full(shape, x._spec.ndim)).reshape(w_spec.shape).to(w_spec.dtype)
        to_xh.append((gx * b + v * a) * (r / -n))
        to_r = total(gx * v) - total(gx) * total(v) / n - a * b / n
    if gw is not None:
        gw = gw.reshape(shape)
        to_dy.append(gw * xh)
        to_xh.append(gw * dy)
    if gb is not None:
        to_dy.append(expand(gb.reshape(shape), x._spec.shape))
    to_x = to_mean = to_var = None
    if to_xh:
        u = _sum(to_xh)
        to_x = (u * r).to(narrow)
        to_mean = -total(u) * r
        to_r = total(u * off) if to_r is None else to_r + total(u * off)
        to_var = to_r * (r * r * r * -0.5)
    return _sum(to_dy).to(narrow), to_x, to_mean, to_var, to_w


def _full(shape: tuple, ndim: int) -> tuple:
    return (1,) * (ndim - len(shape)) + shape


def _sum(terms: list) -> Tensor:
    y, *rest = terms
    for t in rest:
        y = y + t
    return y


def gradients(
    g: Any, mean: Tensor, var: Tensor, x: Tensor, w: Any, w_spec: Any, b_spec: Any, kernel: Any = None, **how: Any
) -> tuple:
    """The gradients of an op with outputs (y, mean, var), for x, w and b. y is not needed: ReLU may overwrite it.

    ``kernel`` takes the place of ``normalize_dx_p``, where a fused rule has one.
    """
    if mode().grad:  # for second order mean and variance must be functions of x; the saved ones are mere numbers
        wide, n, dim = x.to(mean._spec.dtype), max(count(x._spec, how["dim"]), 1), how["dim"]
        mean = sum_p(wide, dim=dim, keepdim=True) / n
        var = sum_p((wide - mean) * (wide - mean), dim=dim, keepdim=True) / n
    affine = next((s.shape for s in (w_spec, b_spec) if s is not None), how["shape"])
    dx, dw, db = (kernel or normalize_dx_p)(g[0], x, mean, var, w, affine=affine, **how)
    return (dx, None if w_spec is None else dw.to(w_spec.dtype), None if b_spec is None else db.to(b_spec.dtype))


def _statistics(x: Spec, dim: tuple) -> Spec:
    return reduced(x, dim, True, dtypes.float32 if x.dtype.is_half else x.dtype)


def _check_parameters(name: str, x: Spec, given: dict, shape: tuple, wanted: str) -> None:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {x.dtype}; wanted a floating-point dtype (not implemented for integers)")
    kinds = set()
    for what, s in given.items():
        if s is None:
            continue
        if s.shape != shape:
            raise ShapeError(f"{name}: {what} {s.shape} for input {x.shape}; {wanted}")
        if s.dtype is not x.dtype and not (x.dtype.is_half and s.dtype is dtypes.float32):
            raise DTypeError(
                f"{name}: {what} is {s.dtype.name} and input {x.dtype.name}; mixed dtype (CPU): wanted "
                "one dtype, or float32 beside a half type"
            )
        kinds.add(s.dtype)
    if len(kinds) > 1:
        raise DTypeError(
            f"{name}: got {' and '.join(sorted(k.name for k in kinds))}; wanted one dtype for {', '.join(given)}"
        )


# ---- layer norm
@primitive(name="layer_norm", signals=True, torch="nn.functional.layer_norm")
def layer_norm_p(xp, x, w=None, b=None, out=None, out_mean=None, out_var=None, *, dim, shape, eps):
    """(x - mean) / sqrt(var + eps) * w + b, with mean and variance over ``dim``; and these two."""
    normalize(xp, x, w, b, out, out_mean, out_var, dim, shape, eps)


@layer_norm_p.spec
def _(x, w, b, *, dim, shape, eps):
    _check_parameters(
        "layer_norm",
        x,
        dict(weight=w, bias=b),
        shape,
        f"expected weight and bias to be of same shape as normalized_shape {shape}",
    )
    return x.like(*x.shape), _statistics(x, dim), _statistics(x, dim)


layer_norm_p.op.silent_outputs = (1, 2)


@layer_norm_p.grad
def _(g, out_mean, out_var, x, w, w_spec, b_spec, dim, shape, eps, want):
    return gradients(g, out_mean, out_var, x, w, w_spec, b_spec, dim=dim, shape=shape, eps=eps)


@layer_norm_p.cases
def _(make):
    yield dict(input=make(4, 5), normalized_shape=(5,), weight=make(5), bias=make(5))
    yield dict(input=make(3, 2, 4), normalized_shape=(2, 4), weight=make(2, 4), bias=make(2, 4), eps=1e-3)
    yield dict(input=make(3, 2, 4), normalized_shape=[4])
    yield dict(input=make(3, 4), normalized_shape=(4,), weight=make(4))
    yield dict(input=make(3, 4), normalized_shape=(4,), bias=make(4))
    yield dict(input=make(3, 4), normalized_shape=(3, 4))
    yield dict(input=make(0, 4), normalized_shape=(4,), weight=make(4), bias=make(4))
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=(4,))
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=())
    yield RuntimeError, dict(input=make(4, 3), normalized_shape=(3,), weight=make(4))
    yield RuntimeError, dict(input=make.ints(4, 3), normalized_shape=(3,))


@layer_norm_p.ref
def _(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    rows = input.reshape(-1, int(np.prod(normalized_shape))) if input.size else input.reshape(0, 1)
    y = np.array([(row - row.mean()) / np.sqrt(row.var() + eps) for row in rows]).reshape(input.shape)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


@face(layer_norm_p)
def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(input - mean) / sqrt(var + eps) * weight + bias, with mean and variance over the last dimensions.

    input (..., *normalized_shape), weight and bias of ``normalized_shape`` or None -> as input.

    >>> import tensorlite as tl
    >>> tl.nn.functional.layer_norm(tl.tensor([[1.0, 3.0], [0.0, 8.0]]), (2,))
    tensor([[-1.0000,  1.0000],
            [-1.0000,  1.0000]])
    """
    if not isinstance(normalized_shape, (tuple, list)):
        raise TypeError(
            f"layer_norm: normalized_shape is {type(normalized_shape).__name__}; argument "
            "'normalized_shape' must be tuple of ints"
        )
    shape, own = tuple(normalized_shape), input._spec.shape
    if not shape:
        raise ShapeError("layer_norm: normalized_shape (); expected normalized_shape to be at least 1-dimensional")
    if own[-len(shape) :] != shape:
        raise ShapeError(
            f"layer_norm: given normalized_shape={list(shape)}, expected input with shape [*, "
            f"{', '.join(map(str, shape))}], but got input of size {list(own)}"
        )
    return layer_norm_p(
        input, weight, bias, dim=tuple(range(len(own) - len(shape), len(own))), shape=shape, eps=float(eps)
    )[0]


def rows_together(x: Spec, dim: tuple) -> bool:
    """Whether the compiled kernel can do it: rows that lie together, and not none."""
    return x.size > 0 and dim == tuple(range(x.ndim - len(dim), x.ndim))


layer_norm_p.kernel("cpu", "layer_norm", when=lambda x, w, b, *, dim, shape, eps: rows_together(x, dim))
normalize_dx_p.kernel(
    "cpu", "layer_norm_dx", when=lambda dy, x, mean, var, w, *, dim, shape, affine, eps: rows_together(x, dim)
)
layer_norm_p.kernel(
    "cuda", "norm.layer_norm", "", when=lambda x, w, b, *, dim, shape, eps: rows_together(x, dim), formats=ANY
)
normalize_dx_p.kernel(
    "cuda",
    "norm.normalize_dx",
    "",
    when=lambda dy, x, mean, var, w, *, dim, shape, affine, eps: rows_together(x, dim),
    formats=ANY,
)


# ---- batch norm
@primitive(name="scale_shift", torch=None)
def scale_shift_p(xp, x, scale, shift=None, out=None):
    """x * scale + shift for each channel of (N, C, ...): batch norm with statistics that are given."""
    shape = (-1, *(1 for _ in x.shape[2:]))
    xp.multiply(x, scale.reshape(shape), out=out)
    if shift is not None:
        xp.add(out, shift.reshape(shape), out=out)


scale_shift_p.spec(lambda x, scale, shift: x.packed())
scale_shift_p.kernel("cpu", "scale_shift", formats=(CONTIGUOUS, CHANNELS_LAST))
scale_shift_p.kernel("cuda", "batch_norm.scale_shift", "f4 f8", when=lambda x, scale, shift: x.size > 0, formats=ANY)
scale_shift_p.grad(
    x=lambda g, scale, x_spec: scale_shift_p(laid_as(g, x_spec), scale),
    scale=lambda g, x, x_spec: sum_p(g * x, dim=_batch_dims(x_spec), keepdim=False),
    shift=lambda g, x_spec: sum_p(g, dim=_batch_dims(x_spec), keepdim=False),
)


@scale_shift_p.cases
def _(make):
    yield dict(x=make(2, 3, 4, 2), scale=make(3), shift=make(3))
    yield dict(x=make(2, 3, 4), scale=make(3))
    yield dict(x=make(4, 3), scale=make(3), shift=make(3))
    yield dict(x=make(0, 3), scale=make(3), shift=make(3))


@scale_shift_p.ref
def _(x, scale, shift=None):
    y = np.moveaxis(x, 1, -1) * scale + (0 if shift is None else shift)
    return np.moveaxis(y, -1, 1)


@primitive(name="batch_norm", mutates=("running_mean", "running_var"), signals=True, torch="nn.functional.batch_norm")
def batch_norm_p(
    xp,
    x,
    w=None,
    b=None,
    running_mean=None,
    running_var=None,
    out=None,
    out_mean=None,
    out_var=None,
    *,
    dim,
    shape,
    momentum,
    eps,
):
    """(x - mean) / sqrt(var + eps) * w + b for each channel, with mean and variance over the batch; and these two.

    Effect: the running statistics move towards them by ``momentum``, the variance with n - 1 in place of n.
    """
    y = out
    if out.dtype.itemsize == 2:  # ops with effects do their own rounding
        x, w, b = (None if a is None else a.astype(np.float32) for a in (x, w, b))
        y = xp.empty(out.shape, np.float32)
    normalize(xp, x, w, b, y, out_mean, out_var, dim, shape, eps)
    if y is not out:
        out[...] = y
    n = _number(x, dim)
    for running, new in ((running_mean, out_mean), (running_var, out_var * out_var.dtype.type(n / max(n - 1, 1)))):
        if running is not None and x.size:
            running[...] = running.astype(new.dtype) * (1 - momentum) + new.reshape(running.shape) * momentum


@batch_norm_p.spec
def _(x, w, b, running_mean, running_var, *, dim, shape, momentum, eps):
    _check_batch(x, w, b, running_mean, running_var)
    return x.packed(), _statistics(x, dim), _statistics(x, dim)


def _check_batch(x: Spec, w: Spec | None, b: Spec | None, mean: Spec | None, var: Spec | None) -> None:
    channels = x.shape[1]
    wanted = f"should contain {channels} elements"
    _check_parameters("batch_norm", x, dict(running_mean=mean, running_var=var), (channels,), wanted)
    _check_parameters("batch_norm", x, dict(weight=w, bias=b), (channels,), wanted)


batch_norm_p.op.silent_outputs = (1, 2)
batch_norm_p.grad(running_mean=None, running_var=None)


@batch_norm_p.grad
def _(g, out_mean, out_var, x, w, w_spec, b_spec, dim, shape, eps, want):
    g = (laid_as(g[0], x._spec),)
    return (*gradients(g, out_mean, out_var, x, w, w_spec, b_spec, dim=dim, shape=shape, eps=eps), None, None)


def of_channels(dy, x, mean, var, w, *others, dim, shape, affine, eps):
    """Whether this gradient is that of a batch norm."""
    return dy.format is x.format and dim == _batch_dims(x) and len(shape) == x.ndim > 1 and shape[1] == x.shape[1]


def _batch_dims(x: Spec) -> tuple:
    return (0, *range(2, x.ndim))


batch_norm_p.kernel("cpu", "batch_norm", formats=(CONTIGUOUS, CHANNELS_LAST))
normalize_dx_p.kernel("cpu", "batch_norm_dx", when=of_channels, formats=(CONTIGUOUS, CHANNELS_LAST))


def some_channels(x, w, b, running_mean, running_var, *residual, **how):
    """Whether a GPU's kernel can do it: there are numbers, and statistics that it can write to where they are."""
    return x.size > 0 and all(s is None or s.format is CONTIGUOUS for s in (running_mean, running_var))


def some_of_channels(dy, x, *others, dim, shape, **how):
    """As ``of_channels``, for a kernel that lays its inputs as it needs them."""
    return dy.size > 0 and dim == _batch_dims(x) and len(shape) == x.ndim > 1 and shape[1] == x.shape[1]


batch_norm_p.kernel("cuda", "batch_norm.batch_norm", "", when=some_channels, formats=ANY)
normalize_dx_p.kernel("cuda", "batch_norm.normalize_dx", "", when=some_of_channels, formats=ANY)


@batch_norm_p.cases
def _(make):
    def stats(n):
        return dict(running_mean=make(n).detach(), running_var=make(n, low=0.5).detach())

    yield dict(input=make(4, 3), **stats(3), weight=make(3), bias=make(3), training=True)
    yield dict(input=make(3, 2, 4), **stats(2), weight=make(2), bias=make(2), training=True, momentum=0.3, eps=1e-2)
    yield dict(input=make(2, 3, 4, 2), **stats(3), weight=make(3), bias=make(3), training=True)
    yield dict(input=make(2, 3, 2, 2), running_mean=None, running_var=None, training=True)
    yield dict(input=make(4, 3), running_mean=None, running_var=None, weight=make(3), training=True)
    yield dict(input=make(4, 3), running_mean=None, running_var=None, bias=make(3), training=True)
    yield dict(input=make(4, 3), **stats(3), weight=make(3), bias=make(3))
    yield dict(input=make(2, 3, 2, 2), **stats(3), weight=make(3), bias=make(3), eps=1e-2)
    yield dict(input=make(2, 3, 2), **stats(3))
    yield dict(input=make(0, 3), running_mean=None, running_var=None, weight=make(3), bias=make(3), training=True)
    yield ValueError, dict(input=make(1, 3), running_mean=None, running_var=None, training=True)
    yield ValueError, dict(input=make(1, 3, 1, 1), running_mean=None, running_var=None, training=True)
    yield ValueError, dict(input=make(4, 3), running_mean=None, running_var=None, training=True, eps=0.0)
    yield ValueError, dict(input=make(4, 3), running_mean=make(3).detach(), running_var=None, training=True)
    yield IndexError, dict(input=make(3), running_mean=None, running_var=None, training=True)
    yield RuntimeError, dict(input=make(4, 3), running_mean=None, running_var=None)
    yield RuntimeError, dict(input=make(4, 3), **stats(2), training=True)
    yield RuntimeError, dict(input=make(4, 3), **stats(3), weight=make(2), training=True)
    yield RuntimeError, dict(input=make.ints(4, 3), **stats(3), training=True)


@batch_norm_p.ref
def _(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    y = np.zeros(input.shape)
    moved = [None if r is None else r.copy() for r in (running_mean, running_var)]
    for c in range(input.shape[1]):
        part = input[:, c]
        if training:
            mean, var = (part.mean(), part.var()) if part.size else (0, 1)
            for r, new in zip(moved, (mean, var * part.size / max(part.size - 1, 1))):
                if r is not None and part.size:
                    r[c] += momentum * (new - r[c])
        else:
            mean, var = running_mean[c], running_var[c]
        y[:, c] = (part - mean) / np.sqrt(var + eps)
        y[:, c] = y[:, c] * (1 if weight is None else weight[c]) + (0 if bias is None else bias[c])
    return (y, *(r for r in moved if r is not None and training))


@face(batch_norm_p)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(input - mean) / sqrt(var + eps) * weight + bias for each channel of (N, C), (N, C, L), (N, C, H, W), ...

    While ``training`` mean and variance are the batch's own, and the running statistics are moved towards them in
    place: ``running = (1 - momentum) * running + momentum * new``, the new variance with n - 1. Otherwise the running
    statistics take their place.

    >>> import tensorlite as tl
    >>> x = tl.tensor([[1.0, 0.0], [3.0, 8.0]])
    >>> tl.nn.functional.batch_norm(x, None, None, training=True)
    tensor([[-1.0000, -1.0000],
            [ 1.0000,  1.0000]])
    """
    name, x = "batch_norm", input._spec
    if x.ndim < 2:
        raise IndexError(f"{name}: input {x.shape}; wanted (N, C, ...) (dimension out of range)")
    dim, shape = _batch_dims(x), (1, x.shape[1], *(1 for _ in x.shape[2:]))
    if training:
        if (running_mean is None) != (running_var is None):
            raise ShapeError(f"{name}: running_mean and running_var must either both be None or neither be None")
        if count(x, dim) == 1:
            raise ShapeError(
                f"{name}: expected more than 1 value per channel when training, got input size "
                f"{list(x.shape)} (Expected more than 1 value per channel when training)"
            )
        if eps <= 0:
            raise ValueError(f"{name}: eps {eps}; batch_norm eps must be positive during training")
        return batch_norm_p(
            input,
            weight,
            bias,
            running_mean,
            running_var,
            dim=dim,
            shape=shape,
            momentum=float(momentum),
            eps=float(eps),
        )[0]
    if running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise ShapeError(f"{name}: {missing} is None; {missing} must be defined in evaluation mode")
    _check_batch(x, *(None if t is None else t._spec for t in (weight, bias)), running_mean._spec, running_var._spec)
    wide = dtypes.float32 if x.dtype.is_half else x.dtype
    scale = rsqrt(running_var.to(wide) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean.to(wide) * scale
    if bias is not None:
        shift = shift + bias
    return scale_shift_p(input.to(wide), scale, shift).to(x.dtype)


# ---- the gradient's own cases
_ROWS = dict(dim=(1,), shape=(4,), affine=(4,), eps=1e-2)
_GROUPS = dict(dim=(2, 3), shape=(1, 2, 2, 1), affine=(4,), eps=1e-2)
_CHANNELS = dict(dim=(0, 2), shape=(1, 4, 1), affine=(4,), eps=1e-2)


def moments(make, *shape, dim):
    """x and its mean and variance: the formula holds for no others."""
    x = make(*shape)
    values = x._arr.astype(np.float64)
    wide = dtypes.float32 if x.dtype.is_half else x.dtype
    return dict(
        x=x,
        mean=make.tensor(values.mean(dim, keepdims=True), wide),
        var=make.tensor(values.var(dim, keepdims=True), wide),
    )


def row_cases(make):
    """Of gradients of rows and of groups of channels."""
    yield dict(dy=make(3, 4), **moments(make, 3, 4, dim=(1,)), w=make(4), **_ROWS)
    yield dict(dy=make(3, 4), **moments(make, 3, 4, dim=(1,)), **_ROWS)
    yield dict(dy=make(3, 2, 2, 3), **moments(make, 3, 2, 2, 3, dim=(2, 3)), w=make(4), **_GROUPS)
    yield dict(dy=make(3, 2, 2, 3), **moments(make, 3, 2, 2, 3, dim=(2, 3)), **_GROUPS)


@normalize_dx_p.cases
def _(make):
    yield from row_cases(make)
    yield dict(dy=make(3, 4, 2), **moments(make, 3, 4, 2, dim=(0, 2)), w=make(4), **_CHANNELS)
    yield dict(dy=make(3, 4, 2), **moments(make, 3, 4, 2, dim=(0, 2)), **_CHANNELS)


@normalize_dx_p.ref
def _(dy, x, mean, var, w=None, *, dim, shape, affine, eps):
    # the Jacobian of one group after the other, written out
    w = np.broadcast_to(1.0 if w is None else w.reshape(shape), x.shape)
    xh = (x - mean) / np.sqrt(var + eps)
    rest = [k for k in range(x.ndim) if k not in dim]
    dx = np.zeros(x.shape)
    for at in np.ndindex(*(x.shape[k] for k in rest)):
        group = tuple(at[rest.index(k)] if k in rest else slice(None) for k in range(x.ndim))
        h, v = xh[group].ravel(), (dy * w)[group].ravel()
        r = 1 / np.sqrt(np.squeeze(var[tuple(slice(0, 1) if isinstance(i, slice) else i for i in group)]) + eps)
        jacobian = r * (np.eye(h.size) - 1 / h.size - np.outer(h, h) / h.size)
        dx[group] = (jacobian @ v).reshape(dx[group].shape)
    over = tuple(
        k
        for k in range(x.ndim)
        if (1,) * (x.ndim - len(shape)) + shape != x.shape and ((1,) * (x.ndim - len(shape)) + shape)[k] == 1
    )
    return dx, (dy * xh).sum(over).reshape(affine), dy.sum(over).reshape(affine)
