"""Functions of two tensors and more, element by element: atan2, logaddexp, addcmul, addcdiv, lerp. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import op, public
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError
from tensorlite.ops.activation import sigmoid_p


@primitive(elementwise=True, ufunc="arctan2", floats=True, torch="atan2")
def atan2_p(xp, x, w, out):
    """The angle of the point (w, x), between -pi and pi."""


@primitive(elementwise=True, ufunc="logaddexp", floats=True)
def logaddexp_p(xp, x, w, out):
    """log(exp(x) + exp(w)), without overflow."""


atan2_p.grad(x=lambda g, x, w: g * (w / (x * x + w * w)), w=lambda g, x, w: -g * (x / (x * x + w * w)))
logaddexp_p.grad(x=lambda g, x, w: g * sigmoid_p(x - w), w=lambda g, x, w: g * sigmoid_p(w - x))


@atan2_p.cases
@logaddexp_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.1), w=make(3, 4, away=0.1))
    yield dict(x=make(3, 1, away=0.1), w=make(4, away=0.1))
    yield dict(x=make(0, 2), w=make(2))


@logaddexp_p.cases
def _(make):
    yield dict(x=make.tensor([800.0, -800.0]), w=make.tensor([799.0, -801.0]))


atan2_p.ref(lambda x, w: np.angle(w + 1j * x))
logaddexp_p.ref(lambda x, w: np.maximum(x, w) + np.log(1 + np.exp(-abs(x - w))))
atan2, logaddexp = public(atan2_p), public(logaddexp_p, in_place=False)


@op(method=True, in_place=True, out=True)
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)


@op(method=True, in_place=True, out=True)
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2.

    >>> import tensorlite as tl
    >>> tl.addcdiv(tl.zeros(2), tl.tensor([1.0, 6.0]), tl.tensor([2.0, 3.0]), value=10)
    tensor([ 5., 20.])
    """
    if not tensor1.is_floating_point() and not tensor2.is_floating_point():
        raise DTypeError(
            f"addcdiv: got {tensor1.dtype.name} and {tensor2.dtype.name}; wanted floating point (integer division with "
            "addcdiv is no longer supported)"
        )
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else quotient * value)


@op(method=True, in_place=True, out=True)
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight * (end - input): from input, where weight is 0, to end, where it is 1.

    >>> import tensorlite as tl
    >>> tl.lerp(tl.zeros(2), tl.tensor([4.0, 8.0]), 0.25)
    tensor([1., 2.])
    """
    given = [t for t in (input, end, weight) if isinstance(t, Tensor)]
    if any(t.dtype is not input.dtype for t in given) or not input.is_floating_point():
        raise DTypeError(
            f"lerp: got {' and '.join(t.dtype.name for t in given)}; wanted one floating-point dtype (expected dtype "
            f"{input.dtype.name} for all)"
        )
    return input + (end - input) * weight


@addcmul.cases
@addcdiv.cases
def _(make):
    yield dict(input=make(3, 4), tensor1=make(3, 4), tensor2=make(3, 4, away=0.5))
    yield dict(input=make(3, 4), tensor1=make(4), tensor2=make(3, 1, away=0.5), value=0.5)
    yield RuntimeError, dict(input=make(3, 4), tensor1=make(5), tensor2=make(4))


@addcmul.cases
def _(make):
    yield dict(input=make.ints(3), tensor1=make.ints(3), tensor2=make.ints(3), value=2)


@addcdiv.cases
def _(make):
    yield RuntimeError, dict(input=make(3), tensor1=make.ints(3), tensor2=make.ints(3, low=1))


@lerp.cases
def _(make):
    yield dict(input=make(3, 4), end=make(3, 4), weight=0.25)
    yield dict(input=make(3, 4), end=make(4), weight=0.75)
    yield dict(input=make(3, 4), end=make(3, 4), weight=make(3, 1))
    yield RuntimeError, dict(input=make.ints(3), end=make.ints(3), weight=0.5)
    yield RuntimeError, dict(input=make(3), end=make.ints(3), weight=0.5)


addcmul.ref(lambda input, tensor1, tensor2, value=1: np.multiply(tensor1, tensor2) * value + input)
addcdiv.ref(lambda input, tensor1, tensor2, value=1: np.true_divide(tensor1 * value, tensor2) + input)
lerp.ref(lambda input, end, weight: (1 - weight) * input + weight * end)
