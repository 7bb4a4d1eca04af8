"""More smooth activations: selu, celu, mish, glu, softsign, tanhshrink. Floor 3.

All but the last two take floating point only, as PyTorch's do.
"""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.methods import face, op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import sigmoid_p, tanh_p
from tensorlite.ops.choice import clamp_p, where_p
from tensorlite.ops.constants import constant
from tensorlite.ops.elementwise import compiled
from tensorlite.ops.functions import exp_p
from tensorlite.ops.smooth import on_floats, result, softplus_p, unary_cases, unary_refusals
from tensorlite.shapes import dim_of

# the fixed point of mean 0 and variance 1: Klambauer et al., "Self-normalizing neural networks" (NeurIPS 2017)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@primitive(elementwise=True, signals=True, torch="nn.functional.selu")
def selu_p(xp, x, out):
    """scale x above 0, scale alpha (exp(x) - 1) below."""
    y = xp.expm1(xp.minimum(x, 0)) * SELU_ALPHA
    xp.multiply(xp.where(x > 0, x, y), constant(xp, SELU_SCALE, out.dtype), out=out)


@primitive(elementwise=True, signals=True, torch="nn.functional.celu")
def celu_p(xp, x, out, *, alpha):
    """x above 0, alpha (exp(x / alpha) - 1) below."""
    y = xp.expm1(xp.minimum(x, 0) / constant(xp, alpha, x.dtype)) * alpha
    xp.copyto(out, xp.where(x > 0, x, y))


@primitive(elementwise=True, signals=True, torch="nn.functional.mish")
def mish_p(xp, x, out):
    """x tanh(log(1 + exp(x)))."""
    e = xp.exp(-xp.abs(x))  # no overflow: of exp(x) and exp(-x) the one below 1
    above, below = (1 + 2 * e) / (1 + 2 * e + 2 * e * e), (e * e + 2 * e) / (e * e + 2 * e + 2)
    xp.multiply(x, xp.where(x > 0, above, below), out=out)


# exp only of what is below 0: where x is large the branch not taken would be inf, and its gradient nan
selu_p.grad(
    x=lambda g, x: where_p(x > 0, g * SELU_SCALE, g * (exp_p(clamp_p(x, None, 0.0)) * (SELU_ALPHA * SELU_SCALE)))
)
celu_p.grad(x=lambda g, x, alpha: where_p(x > 0, g, g * exp_p(clamp_p(x, None, 0.0) / alpha)))


def _mish_dx(g: Tensor, x: Tensor) -> Tensor:
    t = tanh_p(softplus_p(x, beta=1.0, threshold=20.0))
    return g * (t + x * (1.0 - t * t) * sigmoid_p(x))


mish_p.grad(x=_mish_dx)
for _p in (selu_p, celu_p, mish_p):
    on_floats(_p)
compiled(mish_p)


@selu_p.cases
@celu_p.cases
@mish_p.cases
def _(make):
    yield from unary_cases(make)
    yield dict(input=make.tensor([800.0, -800.0]))
    yield from unary_refusals(make)


@celu_p.cases
def _(make):
    yield from unary_cases(make, alpha=1.5)
    yield RuntimeError, dict(input=make(3), alpha=0.0)


selu_p.ref(
    lambda input: 1.0507009873554805 * (np.maximum(input, 0) + 1.6732632423543772 * (np.exp(np.minimum(input, 0)) - 1))
)
celu_p.ref(lambda input, alpha=1.0: np.maximum(input, 0) + alpha * (np.exp(np.minimum(input, 0) / alpha) - 1))
mish_p.ref(lambda input: input * np.tanh(np.logaddexp(0, input)))


@face(selu_p)
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 input where it is above 0, 1.0507 * 1.6733 (exp(input) - 1) elsewhere.

    >>> import tensorlite as tl
    >>> tl.selu(tl.tensor([-1.0, 1.0]))
    tensor([-1.1113,  1.0507])
    """
    return result("selu", input, inplace, selu_p)


@face(celu_p)
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where it is above 0, alpha * (exp(input / alpha) - 1) elsewhere (Barron 2017)."""
    if alpha == 0:
        raise RuntimeError("celu: alpha 0; ZeroDivisionError: alpha cannot be 0 for CELU")
    return result("celu", input, inplace, lambda x: celu_p(x, alpha=float(alpha)))


@face(mish_p)
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input)) (Misra 2019)."""
    return result("mish", input, inplace, mish_p)


@op(torch="nn.functional.glu")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), a and b being the halves of input along ``dim`` (Dauphin et al. 2017).

    >>> import tensorlite as tl
    >>> tl.nn.functional.glu(tl.tensor([1.0, 2.0, 0.0, 0.0]))
    tensor([0.5000, 1.0000])
    """
    x = input._spec
    if not x.ndim:
        raise ShapeError("glu: input (); glu does not support 0-dimensional tensors")
    if not x.dtype.is_floating_point:
        raise DTypeError(f"glu: got {x.dtype}; wanted a floating-point dtype (not implemented for integers)")
    n = x.shape[dim_of("glu", dim, x.ndim)]
    if n % 2:
        raise ShapeError(f"glu: input {x.shape}; halving dimension must be even, but dimension {dim} is size {n}")
    return input.narrow(dim, 0, n // 2) * sigmoid_p(input.narrow(dim, n // 2, n // 2))


@glu.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(4, 3), dim=0)
    yield dict(input=make(0, 2))
    yield RuntimeError, dict(input=make(4, 3))
    yield RuntimeError, dict(input=make())
    yield RuntimeError, dict(input=make.ints(4))
    yield IndexError, dict(input=make(4), dim=1)


@glu.ref
def _(input, dim=-1):
    a, b = np.split(input, 2, dim)
    return a / (1 + np.exp(-b))


@op(torch="nn.functional.softsign")
def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    return input / (input.abs() + 1)


@op(torch="nn.functional.tanhshrink")
def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - tanh_p(input)


@softsign.cases
@tanhshrink.cases
def _(make):
    yield from unary_cases(make)
    yield dict(input=make.ints(4))


softsign.ref(lambda input: np.sign(input) * (1 - 1 / (1 + np.abs(input))))
tanhshrink.ref(lambda input: input - (np.exp(2 * input) - 1) / (np.exp(2 * input) + 1))
