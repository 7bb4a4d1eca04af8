"""Activations and softmax. Floor 3."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, public
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import as_dtype, get_default_dtype
from tensorlite.ops.elementwise import compiled, some
from tensorlite.ops.reduce import sum_p
from tensorlite.shapes import dim_of


@primitive(elementwise=True)
def relu_p(xp, x, out):
    """max(x, 0); nan stays nan."""
    xp.maximum(x, 0, out=out)


@relu_p.bind
def _(xp, specs, outs):
    maximum, zero = xp.maximum, xp.zeros((), outs[0].dtype.np)  # a 0-d array costs half of what a number does
    return (lambda x, out: maximum(x, zero, out=out)), partial(maximum, zero)


@primitive(elementwise=True, torch=None)
def relu_dx_p(xp, dy, s, out):
    """0 where s <= 0, else dy: the gradient of relu from its output s."""
    xp.copyto(out, xp.where(s <= 0, xp.zeros((), out.dtype), dy))  # where s is nan, dy comes through


relu_p.grad(x=lambda g, y: relu_dx_p(g, y))
relu_dx_p.grad(dy=lambda g, s: relu_dx_p(g, s), s=None)


@relu_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.1))
    yield dict(x=make(0))
    yield dict(x=make.ints(3, low=-3))


@relu_dx_p.cases
def _(make):
    yield dict(dy=make(3, 4), s=make.tensor([0.0, 1.0, 0.0, 2.0]))


relu_p.ref(lambda x: x * (x > 0))
relu_dx_p.ref(lambda dy, s: dy * (s > 0))
relu = public(relu_p)


@primitive(elementwise=True, floats=True)
def sigmoid_p(xp, x, out):
    """1 / (1 + exp(-x)), without overflow on either side."""
    e = xp.exp(-xp.abs(x))
    xp.divide(xp.where(x >= 0, 1, e), 1 + e, out)


@primitive(elementwise=True, ufunc="tanh", floats=True)
def tanh_p(xp, x, out):
    """The hyperbolic tangent."""


sigmoid_p.grad(x=lambda g, y: g * (y * (1.0 - y)))
tanh_p.grad(x=lambda g, y: g * (1.0 - y * y))


@sigmoid_p.cases
@tanh_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make.tensor([-800.0, 0.0, 800.0]))
    yield dict(x=make.ints(3))


sigmoid_p.ref(lambda x: np.exp(-np.logaddexp(0, -x)))
tanh_p.ref(lambda x: 1 - 2 * np.exp(-np.logaddexp(0, 2 * x)))
sigmoid, tanh = public(sigmoid_p), public(tanh_p)


# ---- softmax
@primitive(name="softmax")
def softmax_p(xp, x, out, *, dim):
    """exp(x) / sum(exp(x)) along dim."""
    if not x.ndim:
        out[...] = 1
        return
    xp.subtract(x, x.max(dim, keepdims=True), out)
    xp.exp(out, out)
    xp.true_divide(out, xp.add.reduce(out, axis=dim, keepdims=True), out)


@primitive(name="softmax_dx", torch=None)
def softmax_dx_p(xp, dy, s, out, *, dim):
    """s * (dy - sum(dy * s)) along dim: the gradient of softmax from its output s."""
    if not dy.ndim:
        out[...] = 0
        return
    xp.multiply(dy, s, out)
    total = xp.add.reduce(out, axis=dim, keepdims=True)
    xp.subtract(dy, total, out)
    xp.multiply(out, s, out)


@primitive(name="log_softmax")
def log_softmax_p(xp, x, out, *, dim):
    """x - log(sum(exp(x))) along dim."""
    if not x.ndim:
        out[...] = 0
        return
    shifted = xp.subtract(x, x.max(dim, keepdims=True))
    xp.exp(shifted, out)
    xp.subtract(shifted, xp.log(xp.add.reduce(out, axis=dim, keepdims=True)), out)


@primitive(name="log_softmax_dx", torch=None)
def log_softmax_dx_p(xp, dy, s, out, *, dim):
    """dy - exp(s) * sum(dy) along dim: the gradient of log_softmax from its output s."""
    if not dy.ndim:
        out[...] = 0
        return
    xp.exp(s, out)
    xp.multiply(out, xp.add.reduce(dy, axis=dim, keepdims=True), out)
    xp.subtract(dy, out, out)


for _p in (softmax_p, log_softmax_p):
    _p.spec(lambda x, *, dim: x.like(*x.shape))
for _p in (softmax_dx_p, log_softmax_dx_p):
    _p.spec(lambda dy, s, *, dim: dy.like(*dy.shape))


def _total(x: Tensor, dim: int) -> Tensor:
    return sum_p(x, dim=(dim,) if x._spec.ndim else (), keepdim=True)


softmax_p.grad(x=lambda g, y, dim: softmax_dx_p(g, y, dim=dim))
softmax_dx_p.grad(
    dy=lambda g, s, dim: softmax_dx_p(g, s, dim=dim),
    s=lambda g, dy, s, dim: g * (dy - _total(dy * s, dim)) - dy * _total(g * s, dim),
)
log_softmax_p.grad(x=lambda g, y, dim: log_softmax_dx_p(g, y, dim=dim))
log_softmax_dx_p.grad(
    dy=lambda g, s, dim: g - _total(g * s.exp(), dim),
    s=lambda g, dy, s, dim: -(g * s.exp() * _total(dy, dim)),
)


@softmax_p.cases
@log_softmax_p.cases
def _(make):
    yield dict(input=make(3, 4), dim=1)
    yield dict(input=make(3, 4), dim=0)
    yield dict(input=make(2, 3, 4), dim=-2)
    yield dict(input=make(4), dim=0)
    yield dict(input=make(), dim=0)
    yield dict(input=make(0, 3), dim=1)
    yield dict(input=make.tensor([1000.0, 1001.0, -1000.0]), dim=0)
    yield IndexError, dict(input=make(3, 4), dim=2)


@softmax_dx_p.cases
@log_softmax_dx_p.cases
def _(make):
    yield dict(dy=make(3, 4), s=make(3, 4), dim=1)
    yield dict(dy=make(3, 4), s=make(3, 4), dim=0)


def _log_softmax_ref(input, dim):
    return input - np.logaddexp.reduce(input, axis=dim, keepdims=True) if input.ndim else input * 0


log_softmax_p.ref(_log_softmax_ref)
softmax_p.ref(lambda input, dim: np.exp(_log_softmax_ref(input, dim)))
softmax_dx_p.ref(lambda dy, s, dim: s * dy - s * (dy * s).sum(dim, keepdims=True))
log_softmax_dx_p.ref(lambda dy, s, dim: dy - np.exp(s) * dy.sum(dim, keepdims=True))


def _floating(input: Tensor, dtype: Any, name: str) -> Tensor:
    if dtype is not None:
        return input.to(as_dtype(dtype, name))
    return input if input._spec.dtype.is_floating_point else input.to(get_default_dtype())


@face(softmax_p, method=True)
def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """exp(input) / sum(exp(input)) along ``dim``, computed without overflow.

    >>> import tensorlite as tl
    >>> tl.softmax(tl.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    if dtype is not None or not input._spec.dtype.is_floating_point:
        input = _floating(input, dtype, "softmax")
    return softmax_p(input, dim=dim_of("softmax", dim, input._spec.ndim))


@face(log_softmax_p, method=True)
def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """input - log(sum(exp(input))) along ``dim``, computed without overflow."""
    if dtype is not None or not input._spec.dtype.is_floating_point:
        input = _floating(input, dtype, "log_softmax")
    return log_softmax_p(input, dim=dim_of("log_softmax", dim, input._spec.ndim))


def _some_rows(*specs: Spec, dim: int) -> bool:
    return specs[0].ndim > 0 and specs[0].size > 0


for _p in (softmax_p, log_softmax_p, softmax_dx_p, log_softmax_dx_p):
    _p.kernel("cpu", _p.op.name, when=_some_rows)
    _p.kernel("cuda", f"softmax.{_p.op.name}", "f2 bf2 f4 f8", when=_some_rows, formats=ANY)
for _p in (relu_p, tanh_p):
    _p.kernel("cpu", _p.op.name, when=some)
for _p in (relu_dx_p, sigmoid_p):
    compiled(_p)
