"""Activations made of pieces: threshold, hardshrink, softshrink, hardsigmoid, hardswish, prelu, rrelu. Floor 3.

All are element-wise and take floating point only (threshold integers too), as PyTorch's do.
"""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.methods import face, op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.choice import where_p
from tensorlite.ops.constants import constant
from tensorlite.ops.random import rand_like
from tensorlite.ops.shape import reshape
from tensorlite.ops.smooth import leaky_relu_p, masked, on_floats, result, unary_cases, unary_refusals


# ---- threshold and shrinkages
@primitive(elementwise=True, torch="nn.functional.threshold")
def threshold_p(xp, x, out, *, threshold, value):
    """x above the threshold, ``value`` elsewhere."""
    xp.copyto(out, xp.where(x <= threshold, constant(xp, value, out.dtype), x))  # nan stays


@threshold_p.spec
def _(x, *, threshold, value):
    if x.dtype.name == "bool":
        raise DTypeError("threshold: got bool; wanted numbers (not implemented for 'Bool')")
    return spec_of(x.shape, x.dtype, x.device, x.format)


@primitive(elementwise=True, torch="nn.functional.hardshrink")
def hardshrink_p(xp, x, out, *, lambd):
    """0 within [-lambd, lambd], else x."""
    xp.copyto(out, xp.where((x >= -lambd) & (x <= lambd), xp.zeros((), out.dtype), x))


@primitive(elementwise=True, signals=True, torch="nn.functional.softshrink")
def softshrink_p(xp, x, out, *, lambd):
    """x moved towards 0 by lambd, and 0 where that would go beyond."""
    xp.subtract(x, xp.clip(x, -lambd, lambd), out=out)


threshold_p.grad(x=lambda g, x, threshold, value: masked(x > threshold, g))
hardshrink_p.grad(x=lambda g, x, lambd: masked((x < -lambd) | (x > lambd), g))
softshrink_p.grad(x=lambda g, x, lambd: masked((x < -lambd) | (x > lambd), g))


@threshold_p.cases
def _(make):
    yield dict(input=make.distinct(3, 4), threshold=0.1, value=20.0)
    yield dict(input=make.distinct(0, 2), threshold=0.1, value=-1.0)
    yield dict(input=make.ints(6, low=-3), threshold=1, value=7)
    yield RuntimeError, dict(input=make.bools(3), threshold=0, value=1)


@hardshrink_p.cases
@softshrink_p.cases
def _(make):
    yield from unary_cases(make)
    yield dict(input=make.distinct(3, 4), lambd=0.8)
    yield dict(input=make.distinct(3), lambd=0.0)
    yield from unary_refusals(make)


@softshrink_p.cases
def _(make):
    yield RuntimeError, dict(input=make(3), lambd=-1.0)


threshold_p.ref(lambda input, threshold, value: np.choose(input > threshold, [np.full_like(input, value), input]))
hardshrink_p.ref(lambda input, lambd=0.5: input * (abs(input) > lambd))
softshrink_p.ref(lambda input, lambd=0.5: np.sign(input) * np.maximum(abs(input) - lambd, 0))


@face(threshold_p)
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """input where it is above ``threshold``, ``value`` elsewhere."""
    return result("threshold", input, inplace, lambda x: threshold_p(x, threshold=threshold, value=value))


@face(hardshrink_p, method=True)
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 where input lies within [-lambd, lambd], input elsewhere.

    >>> import tensorlite as tl
    >>> tl.nn.functional.hardshrink(tl.tensor([-1.0, 0.25, 2.0]))
    tensor([-1.,  0.,  2.])
    """
    return hardshrink_p(input, lambd=float(lambd))


@face(softshrink_p)
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """input moved towards 0 by lambd, and 0 where it lies within [-lambd, lambd]."""
    if lambd < 0:
        raise RuntimeError(f"softshrink: lambd {lambd}; lambda must be greater or equal to 0")
    return softshrink_p(input, lambd=float(lambd))


# ---- hard versions of curves
def _torch_hardsigmoid(torch, input):
    """PyTorch's, from parts: the slope of its own is 1/6 in float32 whatever the input's dtype."""
    parts = torch.nn.functional
    return parts.relu6(input + 3) / 6 if input.is_floating_point() else parts.hardsigmoid(input)


@primitive(elementwise=True, torch=_torch_hardsigmoid)
def hardsigmoid_p(xp, x, out):
    """min(max(x + 3, 0), 6) / 6."""
    xp.divide(xp.clip(x + 3, 0, 6), constant(xp, 6, out.dtype), out=out)


@primitive(elementwise=True, signals=True, torch="nn.functional.hardswish")
def hardswish_p(xp, x, out):
    """x min(max(x + 3, 0), 6) / 6."""
    xp.multiply(x, xp.clip(x + 3, 0, 6) / constant(xp, 6, out.dtype), out=out)


hardsigmoid_p.grad(x=lambda g, x: masked((x > -3.0) & (x < 3.0), g / 6.0))
hardswish_p.grad(x=lambda g, x: masked(x > -3.0, where_p(x < 3.0, g * (x / 3.0 + 0.5), g)))


@hardsigmoid_p.cases
@hardswish_p.cases
def _(make):
    yield from unary_cases(make)
    yield dict(input=make(3, 4, low=-5, high=5))
    yield from unary_refusals(make)


hardsigmoid_p.ref(lambda input: np.interp(input, [-3, 3], [0, 1]))
hardswish_p.ref(lambda input: input * np.interp(input, [-3, 3], [0, 1]))


@face(hardsigmoid_p)
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """0 up to -3, 1 from 3 on, and a straight line between."""
    return result("hardsigmoid", input, inplace, hardsigmoid_p)


@face(hardswish_p)
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * hardsigmoid(input) (Howard et al., "Searching for MobileNetV3", ICCV 2019)."""
    return result("hardswish", input, inplace, hardswish_p)


# ---- slopes that are learned or drawn
@primitive(name="prelu", elementwise=True, torch="nn.functional.prelu")
def prelu_p(xp, x, w, out):
    """x above 0, w x below."""
    xp.copyto(out, xp.where(x > 0, x, x * w))


prelu_p.grad(
    x=lambda g, x, w: where_p(x > 0, g, g * w),
    w=lambda g, x: where_p(x > 0, lift(0.0, g), g * x),
)


@prelu_p.cases
def _(make):
    yield dict(input=make(2, 3, 4, away=0.1), weight=make(3))
    yield dict(input=make(2, 3, away=0.1), weight=make(1))
    yield dict(input=make(4, away=0.1), weight=make(1))
    yield dict(input=make(2, 3, away=0.1), weight=make())
    yield dict(input=make(0, 3), weight=make(3))
    yield RuntimeError, dict(input=make(2, 3), weight=make(2))
    yield RuntimeError, dict(input=make(2, 3), weight=make(2, 3))
    yield RuntimeError, dict(input=make(4), weight=make(4))


@prelu_p.ref
def _(input, weight):
    w = weight if weight.size == 1 else weight.reshape(-1, *(1,) * (input.ndim - 2))
    return np.maximum(input, 0) + w * np.minimum(input, 0)


@face(prelu_p, method=True)
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """input where it is above 0, weight * input elsewhere; weight has one element, or one for each of dimension 1.

    Source: He et al., "Delving deep into rectifiers" (ICCV 2015).

    >>> import tensorlite as tl
    >>> tl.prelu(tl.tensor([[-1.0, 2.0], [3.0, -4.0]]), tl.tensor([0.5, 0.25]))
    tensor([[-0.5000,  2.0000],
            [ 3.0000, -1.0000]])
    """
    x, w = input._spec, weight._spec
    if w.dtype is not x.dtype or not x.dtype.is_floating_point:
        raise DTypeError(f"prelu: input is {x.dtype.name}, weight {w.dtype.name}; wanted one floating-point dtype")
    if w.ndim > 1:
        raise ShapeError(f"prelu: weight {w.shape}; expected weight to be a scalar or 1D tensor")
    if w.size != 1:
        channels = x.shape[1] if x.ndim > 1 else 1
        if w.size != channels:
            raise ShapeError(
                f"prelu: {w.size} weights for input {x.shape}; mismatch of parameter numbers and input channel size "
                f"{channels}"
            )
        weight = reshape(weight, (w.size, *(1,) * (x.ndim - 2)))
    elif w.ndim and not x.ndim:
        weight = reshape(weight, ())
    return prelu_p(input, weight)


@op(torch="nn.functional.rrelu")
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """input where it is above 0, a * input elsewhere; a is drawn between lower and upper for each element in training,
    else their mean. Source: Xu et al., "Empirical evaluation of rectified activations in convolutional network" (2015).
    """
    if lower > upper:
        raise RuntimeError(f"rrelu: lower {lower} and upper {upper}; lower bound should be less than upper bound")

    def call(x: Tensor) -> Tensor:
        if training:
            return prelu_p(x, rand_like(x) * (upper - lower) + lower)
        return leaky_relu_p(x, slope=(lower + upper) / 2)

    return result("rrelu", input, inplace, call)


@rrelu.cases
def _(make):
    yield dict(input=make(3, 4, away=0.1))
    yield dict(input=make(3, 4, away=0.1), lower=0.1, upper=0.3)
    yield RuntimeError, dict(input=make(3), lower=0.5, upper=0.1)


rrelu.ref(lambda input, lower=1 / 8, upper=1 / 3: np.maximum(input, 0) + (lower + upper) / 2 * np.minimum(input, 0))

for _p in (hardshrink_p, softshrink_p, hardsigmoid_p, hardswish_p):
    on_floats(_p)
