"""Losses of pairs of numbers in one pass: squared, absolute, Huber's, binary cross-entropy of logits. Floor 3.

The public functions are in loss.py. Forward and gradient are a primitive each, so that a loss and its reduction read
their inputs once; what the gradient is differentiated by is a formula of plain ops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import sigmoid_p
from tensorlite.ops.choice import clamp_p
from tensorlite.ops.elementwise import sign_p


# ``bound`` and ``steep`` are of "huber" alone: a parabola in x - t up to bound, then a line of slope steep
@primitive(name="pointwise_loss", signals=True, promotes=("x", "t"), torch=None)
def pointwise_loss_p(xp, x, t, out, *, kind, bound, steep, reduction):
    """The loss of each pair of x and t, its sum or its mean."""
    if kind == "logits":  # (1 - t) x - log(sigmoid(x))
        size = xp.log1p(xp.exp(-xp.abs(x)))
        loss = (1 - t) * x - xp.minimum(x, 0) + size
    else:
        loss = xp.subtract(x, t)
        if kind == "squared":
            loss = loss * loss
        else:
            size = xp.abs(loss)
            loss = size if kind == "absolute" else _huber(xp, size, bound, steep)
    if reduction == "none":
        out[...] = loss
        return
    xp.add.reduce(loss, axis=None, out=out)
    if reduction == "mean":
        xp.true_divide(out, out.dtype.type(loss.size), out=out)


def _twice(size: int, reduction: str) -> float:
    """What x - t is multiplied by in the slope of a square, its share of a mean with it: inf where PyTorch's is inf."""
    return 2.0 / max(size, 1) if reduction == "mean" else 2.0


def _huber(xp: Any, size: Any, bound: float, steep: float) -> Any:
    return xp.where(size <= bound, size * size * (0.5 * steep / bound), (size - 0.5 * bound) * steep)


@primitive(name="pointwise_loss_dx", signals=True, torch=None)
def pointwise_loss_dx_p(xp, dy, x, t, out, *, kind, bound, steep, reduction):
    """The slope of each pair's loss along x, times its share of dy."""
    if kind == "logits":
        e = xp.exp(-xp.abs(x))
        slope = xp.where(x < 0, e, 1) / (e + 1) - t
    else:
        off = xp.subtract(x, t)
        if kind == "squared":
            slope = off * _twice(out.size, reduction)
        elif kind == "absolute":
            slope = xp.sign(off)
        else:
            slope = xp.clip(off, -bound, bound) * (steep / bound)
    share = dy / out.dtype.type(max(out.size, 1)) if reduction == "mean" and kind != "squared" else dy
    xp.multiply(slope, share, out=out)


@pointwise_loss_p.spec
def _(x, t, *, kind, bound, steep, reduction):
    if x.shape != t.shape:
        raise ShapeError(f"pointwise_loss: input {x.shape} and target {t.shape}; wanted equal shapes")
    if not x.dtype.is_floating_point:
        raise DTypeError(f"pointwise_loss: got {x.dtype.name}; wanted a floating-point dtype")
    return x.packed() if reduction == "none" else x.like()


pointwise_loss_dx_p.spec(lambda dy, x, t, *, kind, bound, steep, reduction: x.packed())


def _share(g: Tensor, x: Spec, kind: str, reduction: str) -> Tensor:
    return g / max(x.size, 1) if reduction == "mean" and kind != "squared" else g


def _slope(x: Tensor, t: Tensor, kind: str, bound: float, steep: float, reduction: str) -> Tensor:
    if kind == "logits":
        return sigmoid_p(x) - t
    off = x - t
    if kind == "squared":
        return off * _twice(x._spec.size, reduction)
    return sign_p(off) if kind == "absolute" else clamp_p(off, -bound, bound) * (steep / bound)


def _along_t(g, x, t, kind, bound, steep, reduction):
    if kind == "logits":  # shared out last, so that it is inf where PyTorch's is
        return _share(g * -x, x._spec, kind, reduction)
    return _share(g, x._spec, kind, reduction) * -_slope(x, t, kind, bound, steep, reduction)


pointwise_loss_p.grad(
    x=lambda g, x, t, kind, bound, steep, reduction: (
        _share(g, x._spec, kind, reduction) * _slope(x, t, kind, bound, steep, reduction)
    ),
    t=_along_t,
)
pointwise_loss_p.fused_grad(
    x=lambda g, x, t, kind, bound, steep, reduction: pointwise_loss_dx_p(
        g, x, t, kind=kind, bound=bound, steep=steep, reduction=reduction
    )
)
pointwise_loss_dx_p.nograd()


def _together(*specs: Spec, **how: Any) -> bool:
    """Whether the numbers of all lie in one order, and there are some."""
    x = specs[-1]
    return x.size > 0 and all(s.format is x.format for s in specs if s.ndim)


for _p in (pointwise_loss_p, pointwise_loss_dx_p):
    _p.kernel("cpu", _p.op.name, when=_together, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel(
        "cuda",
        f"pointwise_loss.{_p.op.name}",
        "f2 bf2 f4 f8",
        when=lambda *specs, **how: specs[-1].size > 0,
        formats=ANY,
    )


# ---- cases and references
def _forms(make):
    for kind, bound, steep in (
        ("squared", 0.0, 0.0),
        ("absolute", 0.0, 0.0),
        ("huber", 0.5, 2.0),
        ("logits", 0.0, 0.0),
    ):
        for reduction in ("none", "sum", "mean"):
            gap = make.distinct(3, 5)
            x, t = (make.tensor((gap * k).detach().numpy()) for k in (0.8, -0.1))
            yield dict(x=x, t=t, kind=kind, bound=bound, steep=steep, reduction=reduction)


_PLAIN = dict(kind="squared", bound=0.0, steep=0.0, reduction="sum")


@pointwise_loss_p.cases
def _(make):
    yield from _forms(make)
    yield dict(x=make(0), t=make(0), **_PLAIN)
    yield ValueError, dict(x=make(3), t=make(4), **_PLAIN)
    yield RuntimeError, dict(x=make.ints(3), t=make.ints(3), **_PLAIN)


@pointwise_loss_dx_p.cases
def _(make):
    for case in _forms(make):
        yield dict(dy=make(3, 5) if case["reduction"] == "none" else make(), **case)


@pointwise_loss_p.ref
def _(x, t, kind, bound, steep, reduction):
    d = np.sqrt((x - t) ** 2)
    if kind == "huber":  # the integral of a slope that grows to ``steep`` and stays
        near = np.minimum(d, bound)
        loss = near * near / 2 * steep / bound + steep * (d - near)
    elif kind == "logits":
        loss = t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)
    else:
        loss = d**2 if kind == "squared" else d
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else np.divide(loss.sum(), loss.size)


@pointwise_loss_dx_p.ref
def _(dy, x, t, kind, bound, steep, reduction):
    if kind == "logits":
        slope = np.exp(-np.logaddexp(0, -x)) - t
    elif kind == "huber":
        slope = steep * np.maximum(-1, np.minimum(1, (x - t) / bound))
    else:
        slope = 2 * (x - t) if kind == "squared" else np.where(x > t, 1.0, -1.0)
    return slope * dy / (x.size if reduction == "mean" else 1)
