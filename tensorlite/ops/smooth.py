"""The rectifiers and their smooth relatives: gelu, silu, softplus, elu, leaky_relu, hardtanh; erf. Floor 3.

All are element-wise and take floating point only (hardtanh and relu6 integers too), as PyTorch's do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd.methods import face, op, public
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec, spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.views import inplace as write_back
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError
from tensorlite.ops.activation import sigmoid_p, tanh_p
from tensorlite.ops.choice import clamp_p, where_p
from tensorlite.ops.constants import constant
from tensorlite.ops.elementwise import compiled
from tensorlite.ops.functions import exp_p


def _floating(name: str) -> Callable:
    """The law of an element-wise op of one input that takes floating point only."""

    def law(x: Spec, **constants: Any) -> Spec:
        if not x.dtype.is_floating_point:
            raise DTypeError(f"{name}: got {x.dtype}; wanted a floating-point dtype (not implemented for integers)")
        return x

    return law


def on_floats(p: Any) -> None:
    p.spec(_floating(p.op.name))


def masked(keep: Any, g: Tensor) -> Tensor:
    """g where ``keep``, else 0."""
    return where_p(keep, g, lift(0.0, g))


def result(name: str, input: Tensor, inplace: bool, call: Callable) -> Tensor:
    """``call(input)``, written back into ``input`` where that was asked for."""
    return write_back(name + "_", input, call) if inplace else call(input)


# ---- the error function
# Rational approximations of least maximal error on three ranges: W. J. Cody, "Rational Chebyshev Approximations for the
# Error Function", Mathematics of Computation 23 (1969), 631-637. Highest power first.
_NEAR = (
    (0.185777706184603153, 3.16112374387056560, 113.864154151050156, 377.485237685302021, 3209.37758913846947),
    (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062),
)
_MIDDLE = (
    (
        2.15311535474403846e-8,
        0.564188496988670089,
        8.88314979438837594,
        66.1191906371416295,
        298.635138197400131,
        881.952221241769090,
        1712.04761263407058,
        2051.07837782607147,
        1230.33935479799725,
    ),
    (
        1.0,
        15.7449261107098347,
        117.693950891312499,
        537.181101862009858,
        1621.38957456669019,
        3290.79923573345963,
        4362.61909014324716,
        3439.36767414372164,
        1230.33935480374942,
    ),
)
_FAR = (
    (
        0.0163153871373020978,
        0.305326634961232344,
        0.360344899949804439,
        0.125781726111229246,
        0.0160837851487422766,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242,
        1.87295284992346725,
        0.527905102951428412,
        0.0605183413124413191,
        2.33520497626869185e-3,
    ),
)


def _ratio(terms: tuple, z: Any) -> Any:
    top, bottom = z * terms[0][0] + terms[0][1], z * terms[1][0] + terms[1][1]
    for a, b in zip(terms[0][2:], terms[1][2:]):
        top *= z
        top += a
        bottom *= z
        bottom += b
    top /= bottom
    return top


def erf_array(xp: Any, x: Any) -> Any:
    """The error function of an array, in its dtype, to within a few units in the last place."""
    flat = x.reshape(-1)
    y = xp.where(flat > 0, flat.dtype.type(1), flat.dtype.type(-1)) if flat.size else flat.copy()
    size = xp.abs(flat)
    near = size <= 0.46875
    z = flat[near]
    y[near] = z * _ratio(_NEAR, z * z)
    # from 6 on erf is 1 in float64; nan goes by the middle branch and stays what it is
    rest = xp.flatnonzero(~near & ~(size >= 6))
    z = size[rest]
    far = z > 4
    tail = xp.empty(z.shape, z.dtype)
    m = z[~far]
    tail[~far] = _ratio(_MIDDLE, m)
    m = z[far]
    if m.size:
        q = 1 / (m * m)
        tail[far] = (1 / math.sqrt(math.pi) - q * _ratio(_FAR, q)) / m
    tail *= xp.exp(-z * z)
    y[rest] = xp.copysign(1 - tail, flat[rest])
    return y.reshape(x.shape)


@primitive(elementwise=True, floats=True, signals=True)
def erf_p(xp, x, out):
    """The error function: 2 / sqrt(pi) times the integral of exp(-t * t) from 0 to x."""
    out[...] = erf_array(xp, x)


erf_p.grad(x=lambda g, x: g * (exp_p(-(x * x)) * (2 / math.sqrt(math.pi))))


@erf_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make.tensor([-7.0, -5.0, -3.0, -0.4, 0.0, 0.4, 1.0, 4.5, 5.9, 30.0]))
    yield dict(x=make())
    yield dict(x=make(0, 2))
    yield dict(x=make.ints(4))


erf_p.ref(lambda x: np.vectorize(math.erf, otypes=[float])(x))
erf = public(erf_p)


# ---- gelu
GAUSS, CUBIC = math.sqrt(2 / math.pi), 0.044715


@primitive(elementwise=True, signals=True, torch="nn.functional.gelu")
def gelu_p(xp, x, out, *, approximate):
    """x times the probability that a normal number is below x."""
    if approximate:
        t = xp.tanh((x * x * x * CUBIC + x) * GAUSS)
    else:
        t = erf_array(xp, x * math.sqrt(0.5))
    xp.multiply(x * 0.5, t + 1, out=out)


def gelu_slope(x: Tensor, approximate: bool) -> Tensor:
    if approximate:
        t = tanh_p((x * x * x * CUBIC + x) * GAUSS)
        return (t + 1.0) * 0.5 + x * (1.0 - t * t) * (x * x * (3 * CUBIC) + 1.0) * (0.5 * GAUSS)
    return (erf_p(x * math.sqrt(0.5)) + 1.0) * 0.5 + x * exp_p(x * x * -0.5) * (0.5 * GAUSS)


gelu_p.grad(x=lambda g, x, approximate: g * gelu_slope(x, approximate))


def unary_cases(make, **more):
    yield dict(input=make(3, 4, away=0.1), **more)
    yield dict(input=make.tensor([-30.0, -5.0, 0.25, 8.0, 30.0]), **more)
    yield dict(input=make(0, 2), **more)


def unary_refusals(make, **more):
    yield RuntimeError, dict(input=make.ints(3), **more)
    yield RuntimeError, dict(input=make.bools(3), **more)


@gelu_p.cases
def _(make):
    yield from unary_cases(make)
    yield from unary_cases(make, approximate="tanh")
    yield from unary_refusals(make)
    yield RuntimeError, dict(input=make(3), approximate="erf")


@gelu_p.ref
def _(input, approximate="none"):
    if approximate == "tanh":
        return input / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (input + 0.044715 * input**3)))
    return input * np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[float])(input)


@face(gelu_p)
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input * Phi(input), Phi being the distribution function of the normal law; "tanh" computes Phi approximately.

    >>> import tensorlite as tl
    >>> tl.nn.functional.gelu(tl.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.1587,  0.0000,  0.8413])
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate {approximate!r}; approximate argument must be either none or tanh.")
    return gelu_p(input, approximate=approximate == "tanh")


# ---- silu, softplus, logsigmoid
@primitive(elementwise=True, signals=True, torch="nn.functional.silu")
def silu_p(xp, x, out):
    """x / (1 + exp(-x))."""
    xp.divide(x, xp.exp(-x) + 1, out=out)


def _silu_dx(g: Tensor, x: Tensor) -> Tensor:
    s = sigmoid_p(x)
    return g * (s * (x * (1.0 - s) + 1.0))


silu_p.grad(x=_silu_dx)


@primitive(elementwise=True, signals=True, torch="nn.functional.softplus")
def softplus_p(xp, x, out, *, beta, threshold):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""
    z = x * beta
    # log1p(exp(z)) without overflow
    y = (xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))) / constant(xp, beta, x.dtype)
    xp.copyto(out, xp.where(z > threshold, x, y))  # not in two steps: out may be x


softplus_p.grad(x=lambda g, x, beta, threshold: where_p(x * beta > threshold, g, g * sigmoid_p(x * beta)))


@primitive(elementwise=True, name="logsigmoid", signals=True, torch="nn.functional.logsigmoid")
def logsigmoid_p(xp, x, out):
    """log(1 / (1 + exp(-x))), without overflow."""
    xp.subtract(xp.minimum(x, 0), xp.log1p(xp.exp(-xp.abs(x))), out=out)


logsigmoid_p.grad(x=lambda g, x: g * sigmoid_p(-x))


@silu_p.cases
@logsigmoid_p.cases
def _(make):
    yield from unary_cases(make)
    yield from unary_refusals(make)


@softplus_p.cases
def _(make):
    yield from unary_cases(make)
    yield from unary_cases(make, beta=2.0, threshold=10.0)
    yield from unary_refusals(make)


silu_p.ref(lambda input: input * np.exp(-np.logaddexp(0, -input)))
logsigmoid_p.ref(lambda input: -np.logaddexp(0, -input))


@softplus_p.ref
def _(input, beta=1.0, threshold=20.0):
    over = input * beta > threshold
    return np.where(over, input, np.logaddexp(0, np.where(over, 0, input * beta)) / beta)


@face(silu_p)
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input), also called swish."""
    return result("silu", input, inplace, silu_p)


@face(softplus_p)
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta; input itself where beta * input is above ``threshold``."""
    return softplus_p(input, beta=float(beta), threshold=float(threshold))


@face(logsigmoid_p)
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(input)), without overflow."""
    return logsigmoid_p(input)


# ---- leaky_relu, elu, hardtanh
@primitive(elementwise=True, torch="nn.functional.leaky_relu")
def leaky_relu_p(xp, x, out, *, slope):
    """x above 0, slope * x below."""
    if 0 <= slope <= 1:
        xp.maximum(x, x * slope, out=out)
    else:
        out[...] = xp.where(x > 0, x, x * slope)


leaky_relu_p.grad(x=lambda g, x, slope: where_p(x > 0, g, g * slope))


@primitive(elementwise=True, signals=True, torch="nn.functional.elu")
def elu_p(xp, x, out, *, alpha):
    """x above 0, alpha * (exp(x) - 1) below."""
    y = xp.expm1(xp.minimum(x, 0)) * alpha
    xp.copyto(out, xp.where(x > 0, x, y))


# exp only of what is below 0: where x is large the branch not taken would be inf, and its gradient nan
elu_p.grad(x=lambda g, x, alpha: where_p(x > 0, g, g * (exp_p(clamp_p(x, None, 0.0)) * alpha)))


@primitive(elementwise=True, torch="nn.functional.hardtanh")
def hardtanh_p(xp, x, out, *, low, high):
    """x held between low and high."""
    xp.clip(x, low, high, out=out)


@hardtanh_p.spec
def _(x, *, low, high):
    if x.dtype.name == "bool":
        raise DTypeError("hardtanh: got bool; wanted numbers (Bool inputs not supported for hardtanh)")
    return spec_of(x.shape, x.dtype, x.device, x.format)


# at the bounds themselves the gradient is 0, unlike clamp's
hardtanh_p.grad(x=lambda g, x, low, high: masked((x > low) & (x < high), g))

for _p in (gelu_p, silu_p, softplus_p, logsigmoid_p, leaky_relu_p, elu_p):
    on_floats(_p)
for _p in (erf_p, gelu_p, silu_p, softplus_p, logsigmoid_p, leaky_relu_p, elu_p):
    compiled(_p)


@leaky_relu_p.cases
def _(make):
    yield from unary_cases(make)
    yield from unary_cases(make, negative_slope=0.3)
    yield dict(input=make(3, 4, away=0.1), negative_slope=-2.0)
    yield from unary_refusals(make)


@elu_p.cases
def _(make):
    yield from unary_cases(make)
    yield from unary_cases(make, alpha=1.5)
    yield dict(input=make.tensor([800.0, -800.0]))
    yield from unary_refusals(make)


@hardtanh_p.cases
def _(make):
    yield dict(input=make.distinct(3, 4))
    yield dict(input=make.distinct(3, 4), min_val=-0.3, max_val=1.7)
    yield dict(input=make.distinct(0, 4))
    yield dict(input=make.ints(6, low=-3), min_val=-1, max_val=2)
    yield ValueError, dict(input=make(3), min_val=1.0, max_val=-1.0)
    yield RuntimeError, dict(input=make.bools(3))


leaky_relu_p.ref(
    lambda input, negative_slope=0.01: (1 + negative_slope) / 2 * input + (1 - negative_slope) / 2 * abs(input)
)
elu_p.ref(lambda input, alpha=1.0: input * (input > 0) + alpha * (np.exp(input * (input <= 0)) - 1))
hardtanh_p.ref(
    lambda input, min_val=-1.0, max_val=1.0: np.median(
        np.stack([input, np.full(input.shape, min_val), np.full(input.shape, max_val)]), axis=0
    )
)


@face(leaky_relu_p)
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where it is above 0, negative_slope * input elsewhere."""
    slope = float(negative_slope)
    return result("leaky_relu", input, inplace, lambda x: leaky_relu_p(x, slope=slope))


@face(elu_p)
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where it is above 0, alpha * (exp(input) - 1) elsewhere."""
    return result("elu", input, inplace, lambda x: elu_p(x, alpha=float(alpha)))


@face(hardtanh_p)
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """input held between min_val and max_val; the gradient is 0 at the bounds and beyond."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} and max_val {max_val}; min_val cannot be greater than max_val")
    return result("hardtanh", input, inplace, lambda x: hardtanh_p(x, low=min_val, high=max_val))


@op(torch="nn.functional.relu6")
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """input held between 0 and 6; the gradient is 0 at the bounds and beyond."""
    return result("relu6", input, inplace, lambda x: hardtanh_p(x, low=0, high=6))


@relu6.cases
def _(make):
    yield dict(input=make(3, 4, low=-3, high=9, away=0.1))
    yield dict(input=make.ints(8, low=-3, high=9))
    yield RuntimeError, dict(input=make.bools(3))


relu6.ref(lambda input: np.median(np.stack([input, 0 * input, 0 * input + 6]), axis=0))
