"""Functions of one variable, element by element. Floor 3."""

from __future__ import annotations

import math

import numpy as np

from tensorlite.autograd.methods import op, public
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.elementwise import mul_p, no_slope, some


@primitive(elementwise=True, ufunc="exp", floats=True)
def exp_p(xp, x, out):
    """e to the power of x."""


exp_p.grad(x=lambda g, y: g * y)


@exp_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make.ints(3))


@exp_p.ref
def _(x):
    return np.power(np.e, x)


exp = public(exp_p)


@primitive(elementwise=True, ufunc="log", floats=True)
def log_p(xp, x, out):
    """The natural logarithm: -inf at 0, nan below."""


log_p.grad(x=lambda g, x: g / x)


@log_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.2, high=4))
    yield dict(x=make.ints(3, low=1))


@log_p.ref
def _(x):
    return np.log2(x) / np.log2(np.e)


log = public(log_p)


@primitive(elementwise=True, ufunc="log1p", floats=True)
def log1p_p(xp, x, out):
    """log(1 + x), exact also where x is tiny."""


@primitive(elementwise=True, ufunc="expm1", floats=True)
def expm1_p(xp, x, out):
    """exp(x) - 1, exact also where x is tiny."""


@primitive(elementwise=True, ufunc="log2", floats=True)
def log2_p(xp, x, out):
    """The logarithm to the base 2."""


@primitive(elementwise=True, ufunc="log10", floats=True)
def log10_p(xp, x, out):
    """The logarithm to the base 10."""


log1p_p.grad(x=lambda g, x: g / (x + 1.0))
expm1_p.grad(x=lambda g, x: g * exp_p(x))
log2_p.grad(x=lambda g, x: g / (x * math.log(2)))
log10_p.grad(x=lambda g, x: g / (x * math.log(10)))


@log1p_p.cases
@log2_p.cases
@log10_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.2))
    yield dict(x=make.ints(4, low=1))
    yield dict(x=make(0, 2))


@expm1_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make.tensor([1e-5, -1e-5, 0.0]))
    yield dict(x=make.ints(4))


log1p_p.ref(lambda x: 2 * np.arctanh(x / (2 + x)))
expm1_p.ref(lambda x: 2 * np.sinh(x / 2) * np.exp(x / 2))
log2_p.ref(lambda x: np.log(x) / math.log(2))
log10_p.ref(lambda x: np.log(x) / math.log(10))
log1p, expm1, log2, log10 = public(log1p_p), public(expm1_p), public(log2_p), public(log10_p)


@primitive(elementwise=True, ufunc="sqrt", floats=True)
def sqrt_p(xp, x, out):
    """The square root: nan below 0."""


sqrt_p.grad(x=lambda g, y: g / (y * 2.0))


@sqrt_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.2, high=4))
    yield dict(x=make.ints(3, low=1))


@sqrt_p.ref
def _(x):
    return x**0.5


sqrt = public(sqrt_p)


@primitive(elementwise=True, ufunc="reciprocal", floats=True)
def reciprocal_p(xp, x, out):
    """1 / x."""


reciprocal_p.grad(x=lambda g, y: -g * y * y)


@reciprocal_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.3))


@reciprocal_p.ref
def _(x):
    return 1.0 / x


reciprocal = public(reciprocal_p)


@primitive(elementwise=True, ufunc="sin", floats=True)
def sin_p(xp, x, out):
    """The sine of x radians."""


@primitive(elementwise=True, ufunc="cos", floats=True)
def cos_p(xp, x, out):
    """The cosine of x radians."""


sin_p.grad(x=lambda g, x: g * cos_p(x))
cos_p.grad(x=lambda g, x: -g * sin_p(x))


@sin_p.cases
@cos_p.cases
def _(make):
    yield dict(x=make(3, 4))


@sin_p.ref
def _(x):
    return np.imag(np.exp(1j * x))


@cos_p.ref
def _(x):
    return np.real(np.exp(1j * x))


sin, cos = public(sin_p), public(cos_p)


def _rounding(name: str):
    @primitive(name=name, elementwise=True, ufunc={"round": "rint"}.get(name, name))
    def rounded_p(xp, x, out):
        """Rounded to an integer value: floor down, ceil up, trunc towards 0, round to even."""

    rounded_p.grad(x=no_slope)

    @rounded_p.cases
    def _(make):
        yield dict(x=make.tensor([-1.7, -0.5001, 0.3, 2.5001]))

    @rounded_p.ref
    def _(x):
        return np.array([getattr(math, name, round)(v) for v in x], float)

    return rounded_p


floor_p, ceil_p, trunc_p, round_p = map(_rounding, ("floor", "ceil", "trunc", "round"))
floor, ceil, trunc = public(floor_p), public(ceil_p), public(trunc_p)
round = public(round_p)


@op(method=True, in_place=True)
def square(input: Tensor) -> Tensor:
    """input * input."""
    return mul_p(input, input)


@square.cases
def _(make):
    yield dict(input=make(3, 4))


@square.ref
def _(input):
    return input**2


@op(method=True, in_place=True)
def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(input)."""
    return reciprocal_p(sqrt_p(input))


@rsqrt.cases
def _(make):
    yield dict(input=make(3, 4, low=0.2))


@rsqrt.ref
def _(input):
    return input**-0.5


for _p in (sqrt_p, reciprocal_p, exp_p, expm1_p, log_p, log1p_p):
    _p.kernel("cpu", _p.op.name, when=some)
