"""Gradients of element-wise functions, each in one pass over the incoming gradient and what was saved. Floor 3.

They serve where no second order is wanted; where it is, the rules beside the functions are made of differentiable ops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite.autograd.primitive import primitive
from tensorlite.ops.activation import sigmoid_p, tanh_p
from tensorlite.ops.curved import mish_p
from tensorlite.ops.elementwise import compiled
from tensorlite.ops.functions import sqrt_p
from tensorlite.ops.smooth import CUBIC, GAUSS, elu_p, erf_array, gelu_p, leaky_relu_p, logsigmoid_p, silu_p, softplus_p


def _sigmoid(xp: Any, x: Any) -> Any:
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, e) / (1 + e)


# ---- from the output
@primitive(elementwise=True, torch=None)
def tanh_dx_p(xp, dy, s, out):
    """dy (1 - s s): the gradient of tanh from its output s."""
    xp.multiply(dy, 1 - s * s, out)


@primitive(elementwise=True, torch=None)
def sigmoid_dx_p(xp, dy, s, out):
    """dy s (1 - s): the gradient of the sigmoid from its output s."""
    xp.multiply(dy, s * (1 - s), out)


@primitive(elementwise=True, torch=None)
def sqrt_dx_p(xp, dy, s, out):
    """dy / (2 s): the gradient of the square root from its output s."""
    xp.true_divide(dy, s + s, out)


# ---- from the input
@primitive(elementwise=True, torch=None)
def gelu_dx_p(xp, dy, x, out, *, approximate):
    """dy times the slope of gelu at x."""
    if approximate:
        t = xp.tanh((x * x * x * CUBIC + x) * GAUSS)
        slope = (t + 1) * 0.5 + x * (1 - t * t) * (x * x * (3 * CUBIC) + 1) * (0.5 * GAUSS)
    else:
        slope = (erf_array(xp, x * math.sqrt(0.5)) + 1) * 0.5 + x * xp.exp(x * x * -0.5) * (0.5 * GAUSS)
    xp.multiply(dy, slope, out)


@primitive(elementwise=True, torch=None)
def silu_dx_p(xp, dy, x, out):
    """dy times the slope of x sigmoid(x)."""
    s = _sigmoid(xp, x)
    xp.multiply(dy, s * (x * (1 - s) + 1), out)


@primitive(elementwise=True, torch=None)
def logsigmoid_dx_p(xp, dy, x, out):
    """dy sigmoid(-x): the gradient of log(sigmoid(x))."""
    xp.multiply(dy, _sigmoid(xp, -x), out)


@primitive(elementwise=True, torch=None)
def softplus_dx_p(xp, dy, x, out, *, beta, threshold):
    """dy sigmoid(beta x), or dy where beta x is above the threshold."""
    z = x * beta
    xp.copyto(out, xp.where(z > threshold, dy, dy * _sigmoid(xp, z)))


@primitive(elementwise=True, torch=None)
def leaky_relu_dx_p(xp, dy, x, out, *, slope):
    """dy where x is above 0, slope dy below."""
    xp.copyto(out, xp.where(x > 0, dy, dy * slope))


@primitive(elementwise=True, torch=None)
def elu_dx_p(xp, dy, x, out, *, alpha):
    """dy where x is above 0, dy alpha exp(x) below."""
    xp.copyto(out, xp.where(x > 0, dy, dy * (xp.exp(xp.minimum(x, 0)) * alpha)))


@primitive(elementwise=True, torch=None)
def mish_dx_p(xp, dy, x, out):
    """dy times the slope of x tanh(log(1 + exp(x)))."""
    e = xp.exp(-xp.abs(x))
    t = xp.where(x > 0, (1 + 2 * e) / (1 + 2 * e + 2 * e * e), (e * e + 2 * e) / (e * e + 2 * e + 2))
    xp.multiply(dy, t + x * (1 - t * t) * (xp.where(x > 0, 1, e) / (e + 1)), out)


tanh_p.fused_grad(x=lambda g, y: tanh_dx_p(g, y))
sigmoid_p.fused_grad(x=lambda g, y: sigmoid_dx_p(g, y))
sqrt_p.fused_grad(x=lambda g, y: sqrt_dx_p(g, y))
gelu_p.fused_grad(x=lambda g, x, approximate: gelu_dx_p(g, x, approximate=approximate))
silu_p.fused_grad(x=lambda g, x: silu_dx_p(g, x))
logsigmoid_p.fused_grad(x=lambda g, x: logsigmoid_dx_p(g, x))
softplus_p.fused_grad(x=lambda g, x, beta, threshold: softplus_dx_p(g, x, beta=beta, threshold=threshold))
leaky_relu_p.fused_grad(x=lambda g, x, slope: leaky_relu_dx_p(g, x, slope=slope))
elu_p.fused_grad(x=lambda g, x, alpha: elu_dx_p(g, x, alpha=alpha))
mish_p.fused_grad(x=lambda g, x: mish_dx_p(g, x))

_FROM_OUTPUT = (tanh_dx_p, sigmoid_dx_p, sqrt_dx_p)
_FROM_INPUT = (
    gelu_dx_p,
    silu_dx_p,
    logsigmoid_dx_p,
    softplus_dx_p,
    leaky_relu_dx_p,
    elu_dx_p,
    mish_dx_p,
)
for _p in (*_FROM_OUTPUT, *_FROM_INPUT):
    _p.nograd()
    compiled(_p)


# ---- cases and references
def _cases(make, **constants):
    yield dict(dy=make(3, 4), x=make(3, 4, away=0.1), **constants)
    yield dict(dy=make(5), x=make.tensor([-30.0, -5.0, 0.25, 8.0, 30.0]), **constants)
    yield dict(dy=make(0, 2), x=make(0, 2), **constants)


for _p in _FROM_OUTPUT:
    _p.cases(lambda make: iter([dict(dy=make(3, 4), s=make(3, 4, low=0.1, high=0.9)), dict(dy=make(0), s=make(0))]))
for _p in (silu_dx_p, logsigmoid_dx_p, mish_dx_p):
    _p.cases(_cases)


@gelu_dx_p.cases
def _(make):
    yield from _cases(make, approximate=False)
    yield from _cases(make, approximate=True)


@softplus_dx_p.cases
def _(make):
    yield from _cases(make, beta=1.0, threshold=20.0)
    yield from _cases(make, beta=2.0, threshold=10.0)


@leaky_relu_dx_p.cases
def _(make):
    yield from _cases(make, slope=0.01)
    yield from _cases(make, slope=-2.0)


@elu_dx_p.cases
def _(make):
    yield from _cases(make, alpha=1.0)
    yield from _cases(make, alpha=1.5)


def _slope(function: Any) -> Any:
    """The reference: dy times the derivative of ``function``, by an imaginary step too small to be rounded."""
    step = 1e-30
    return lambda dy, x, **constants: dy * np.imag(function(x + 1j * step, **constants)) / step


def _logistic(z: Any) -> Any:
    """1 / (1 + exp(-z)) of complex numbers."""
    right = z.real >= 0
    e = np.exp(np.where(right, -z, z))
    return np.where(right, 1, e) / (1 + e)


def _softplus(z: Any) -> Any:
    return np.where(z.real > 0, z, 0) + np.log(1 + np.exp(np.where(z.real > 0, -z, z)))


tanh_dx_p.ref(lambda dy, s: dy * (1 - s) * (1 + s))
sigmoid_dx_p.ref(lambda dy, s: dy * (0.25 - (s - 0.5) ** 2))
sqrt_dx_p.ref(lambda dy, s: 0.5 * dy / s)
silu_dx_p.ref(_slope(lambda x: x * _logistic(x)))
logsigmoid_dx_p.ref(_slope(lambda x: -_softplus(-x)))
softplus_dx_p.ref(_slope(lambda x, beta, threshold: np.where(x.real * beta > threshold, x, _softplus(x * beta) / beta)))
leaky_relu_dx_p.ref(_slope(lambda x, slope: np.where(x.real > 0, x, slope * x)))
elu_dx_p.ref(_slope(lambda x, alpha: np.where(x.real > 0, x, alpha * (np.exp(np.where(x.real > 0, 0, x)) - 1))))
mish_dx_p.ref(_slope(lambda x: x * np.tanh(_softplus(x))))


@gelu_dx_p.ref
def _(dy, x, approximate):
    if approximate:
        return _slope(lambda x: x * _logistic(2 * GAUSS * (x + CUBIC * x**3)))(dy, x)
    bell = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)), otypes=[float])(x) + x * bell)
