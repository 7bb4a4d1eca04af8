"""Arithmetic, element by element. Floor 3.

Inputs broadcast; dtypes promote by PyTorch's table; Python numbers are weak. The gradient of a broadcast input is
summed to its shape by the tape.
"""

from __future__ import annotations

from typing import Any

from tensorlite import dtypes
from tensorlite.autograd.methods import face, public
from tensorlite.autograd.primitive import broadcast_spec, primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.choice import where
from tensorlite.ops.compare import logical_and

boolean = dtypes.bool


def no_slope(g):
    """The gradient of a function that is constant between its steps (also where g is inf or nan)."""
    return g.new_zeros(g._spec.shape)


@primitive(elementwise=True, ufunc="add")
def add_p(xp, x, w, out):
    """x + w."""


add_p.grad(x=lambda g: g, w=lambda g: g)


@add_p.cases
def _(make):
    yield dict(x=make(3, 4), w=make(3, 4))
    yield dict(x=make(3, 4), w=make(4))
    yield dict(x=make(3, 1), w=make(1, 4))
    yield dict(x=make(), w=make(2, 2))
    yield dict(x=make(0, 3), w=make(3))
    yield dict(x=make(2, 3), w=2.5)
    yield dict(x=make(2, 3), w=make(2, 3), alpha=2)
    yield dict(x=make.ints(3), w=make(3))
    yield ShapeError, dict(x=make(3), w=make(4))


@add_p.ref
def _(x, w, alpha=1):
    return x + alpha * w


@face(add_p, method=True, in_place=True, out=True)
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other, element by element.

    >>> import tensorlite as tl
    >>> tl.add(tl.tensor([1, 2]), 0.5)
    tensor([1.5000, 2.5000])
    """
    return add_p(input, other if alpha == 1 else _scaled(input, other, alpha, "add"))


@primitive(elementwise=True, ufunc="subtract")
def sub_p(xp, x, w, out):
    """x - w."""


@sub_p.spec
def _(x, w):
    if x.dtype is boolean:
        raise DTypeError("sub: got two bool tensors; wanted numbers (use logical_xor or ^ for bool)")
    return broadcast_spec("sub", x, w)


sub_p.grad(x=lambda g: g, w=lambda g: -g)


@sub_p.cases
def _(make):
    yield dict(x=make(3, 4), w=make(3, 4))
    yield dict(x=make(3, 4), w=make(3, 1))
    yield dict(x=make(2, 3), w=2)
    yield dict(x=make(2), w=make(2), alpha=3)
    yield DTypeError, dict(x=make.bools(2), w=make.bools(2))


@sub_p.ref
def _(x, w, alpha=1):
    return x - alpha * w


@face(sub_p, method=("sub", "subtract"), in_place=True, out=True)
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other, element by element."""
    return sub_p(input, other if alpha == 1 else _scaled(input, other, alpha, "sub"))


def _scaled(input: Any, other: Any, alpha: Any, name: str) -> Any:
    if isinstance(alpha, float) and not any(
        isinstance(t, float) or (isinstance(t, Tensor) and t.is_floating_point()) for t in (input, other)
    ):
        raise DTypeError(
            f"{name}: alpha {alpha!r} is a float; for integral input tensors, argument alpha must not be "
            "a floating point number"
        )
    return other * alpha


@primitive(elementwise=True, ufunc="multiply")
def mul_p(xp, x, w, out):
    """x * w."""


mul_p.grad(x=lambda g, w: g * w, w=lambda g, x: g * x)


@mul_p.cases
def _(make):
    yield dict(x=make(3, 4), w=make(3, 4))
    yield dict(x=make(3, 4), w=make(4))
    yield dict(x=make(2, 1, 3), w=make(4, 1))
    yield dict(x=make(2, 3), w=-1.5)
    yield dict(x=make(), w=make())
    yield dict(x=make(2, 0), w=make(1))
    yield ShapeError, dict(x=make(2, 3), w=make(2))


@mul_p.ref
def _(x, w):
    return x * w


SMALL = 4096


def some(*specs: Spec, **constants: Any) -> bool:
    """Whether there is an element: what the compiled element-wise kernels ask for."""
    return 0 not in [s.size for s in specs]


def densely(compiled: Any, xp: Any, *arrays: Any, **constants: Any) -> None:
    """The compiled kernel on dense copies of inputs that are not: the copy costs less than NumPy's several passes."""
    *inputs, out = arrays
    dense = out if out.flags.c_contiguous else xp.empty(out.shape, out.dtype)
    compiled(*[xp.ascontiguousarray(a) for a in inputs], dense)
    if dense is not out:
        out[...] = dense


def compiled(p: Any) -> None:
    """Give an op of several passes in NumPy its compiled kernel, for inputs of every layout."""
    p.kernel("cpu", p.op.name, when=some)
    p.kernel("cpu", p.op.name, when=some, around=densely, formats=(CONTIGUOUS, CHANNELS_LAST))


mul = public(mul_p, method=("mul", "multiply"))


@primitive(elementwise=True, ufunc="true_divide", floats=True)
def div_p(xp, x, w, out):
    """x / w, in floating point."""


div_p.grad(x=lambda g, w: g / w, w=lambda g, x, w: -g * (x / w) / w)


@div_p.cases
def _(make):
    yield dict(x=make(3, 4), w=make(3, 4, away=0.3))
    yield dict(x=make(3, 4), w=make(4, away=0.3))
    yield dict(x=make.ints(3), w=make.ints(3, low=1))
    yield dict(x=make(2, 3), w=4)
    yield dict(x=make(5, low=0.1), w=make(5, low=0.3), rounding_mode="floor")
    yield dict(x=make.ints(5, low=-9, high=9), w=make.ints(5, low=1), rounding_mode="trunc")


@div_p.ref
def _(x, w, rounding_mode=None):
    import numpy as np

    y = x / w
    return y if rounding_mode is None else np.floor(y) if rounding_mode == "floor" else np.trunc(y)


@face(div_p, method=("div", "divide", "true_divide"), in_place=True, out=True)
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other. ``rounding_mode`` "floor" or "trunc" rounds the quotient, and integers stay integers.

    >>> import tensorlite as tl
    >>> tl.div(tl.tensor([7, -7]), 2, rounding_mode="floor")
    tensor([ 3, -4])
    """
    if rounding_mode is None:
        return div_p(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        return trunc_divide_p(input, other)
    raise RuntimeError(f"div: rounding_mode {rounding_mode!r}; expected None, 'trunc' or 'floor'")


@primitive(elementwise=True)
def floor_divide_p(xp, x, w, out):
    """floor(x / w)."""
    if x.dtype.kind in "iub":
        if x.dtype.kind != "b" and bool((w == 0).any()):
            raise RuntimeError("floor_divide: ZeroDivisionError: integer division by zero")
        xp.floor_divide(x, w, out)
    else:
        quotient = xp.floor_divide(x, w)
        xp.copyto(out, xp.where(w == 0, x / w, quotient))


floor_divide_p.grad(x=no_slope, w=no_slope)


@floor_divide_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.1, high=9), w=make(4, low=0.4))
    yield dict(x=make.ints(6, low=-9, high=9), w=make.ints(6, low=1))
    yield RuntimeError, dict(x=make.ints(2), w=make.ints(2, low=0, high=1))


@floor_divide_p.ref
def _(x, w):
    import numpy as np

    return np.floor(x / w)


floor_divide = public(floor_divide_p)


@primitive(elementwise=True)
def trunc_divide_p(xp, x, w, out):
    """x / w rounded towards zero."""
    if x.dtype.kind in "iu":
        if bool((w == 0).any()):
            raise RuntimeError("div: ZeroDivisionError: integer division by zero")
        q = xp.floor_divide(x, w)
        xp.add(q, (q < 0) & (q * w != x), out)
    else:
        xp.trunc(xp.true_divide(x, w), out)


trunc_divide_p.grad(x=no_slope, w=no_slope)
trunc_divide_p.op.torch = lambda torch, x, w: torch.div(x, w, rounding_mode="trunc")


@trunc_divide_p.cases
def _(make):
    yield dict(x=make(4, low=-9, high=9), w=make(4, low=0.5))
    yield dict(x=make.ints(6, low=-9, high=9), w=make.ints(6, low=1))


@trunc_divide_p.ref
def _(x, w):
    import numpy as np

    return np.trunc(x / w)


@primitive(elementwise=True)
def remainder_p(xp, x, w, out):
    """x - floor(x / w) * w: the sign is that of w, as in Python."""
    if x.dtype.kind in "iu" and bool((w == 0).any()):
        raise RuntimeError("remainder: ZeroDivisionError: integer modulo by zero")
    xp.remainder(x, w, out)


remainder_p.grad(x=lambda g: g, w=lambda g, x, w: -g * floor_divide(x, w))


@remainder_p.cases
def _(make):
    yield dict(x=make.tensor([5.3, -5.3, 2.25]), w=make.tensor([2.0, 2.0, -0.7]))
    yield dict(x=make.ints(6, low=-9, high=9), w=make.ints(6, low=1))
    yield dict(x=make.tensor([5.3, -5.3]), w=2)


@remainder_p.ref
def _(x, w):
    import numpy as np

    return x - np.floor(x / w) * w


remainder = public(remainder_p)


@primitive(elementwise=True)
def pow_p(xp, x, w, out):
    """x to the power of w."""
    if out.dtype.kind in "iu" and bool((w < 0).any()):
        raise RuntimeError("pow: integers to negative integer powers are not allowed")
    xp.power(x, w, out)


# exponents that are worked out by products and quotients
_SHORT = frozenset(range(-2, 5))


def _one_exponent(*specs: Spec) -> bool:
    """Whether the exponent, the last input, is one number beside tensors that lie alike without gaps."""
    *full, w = specs
    lie = {(s.shape, s.format) for s in full}
    return w.size == 1 and w.ndim == 0 and len(lie) == 1 and full[0].format is not STRIDED and full[0].size > 0


def _short_power(compiled: Any, xp: Any, x: Any, w: Any, out: Any) -> None:
    if float(w) in _SHORT:
        compiled(x, w, out)
    else:
        xp.power(x, w, out)


pow_p.kernel("cpu", "pow", when=_one_exponent, around=_short_power)


@primitive(elementwise=True, torch=None)
def pow_dx_p(xp, dy, x, w, out):
    """dy times the slope of x to the power of w, which is 0 where w is."""
    xp.multiply(dy, xp.where(w == 0, xp.zeros((), out.dtype), w * xp.power(x, w - 1)), out)


def _short_power_dx(compiled: Any, xp: Any, dy: Any, x: Any, w: Any, out: Any) -> None:
    if float(w) in _SHORT and dy.shape == x.shape:
        compiled(dy, x, w, out)
    else:
        pow_dx_p.op.fn(xp, dy, x, w, out)


pow_dx_p.kernel("cpu", "pow_dx", when=_one_exponent, around=_short_power_dx)
pow_dx_p.nograd()  # where a second order is wanted, the gradient is made of other ops


def _pow_dx(g, x, w):
    if not isinstance(w, Tensor) or w.requires_grad:
        return g * where(w == 0, lift(0.0, g), w * pow_p(x, w - 1))
    if w._spec.size == 1 and w.item() == 2:
        return g * (x * 2.0)
    return g * where(w == 0, lift(0.0, g), w * pow_p(x, w - 1))


pow_p.grad(x=_pow_dx, w=lambda g, x, w, y: g * where(logical_and(x == 0, w >= 0), lift(0.0, g), y * x.log()))
pow_p.fused_grad(x=lambda g, x, w: pow_dx_p(g, x, w))


@pow_dx_p.cases
def _(make):
    for w in (2.0, 3.0, 0.0, -1.0, 1.7):
        yield dict(dy=make(3, 4), x=make(3, 4, low=0.5, high=2), w=make.tensor(w))
    yield dict(dy=make(3, 4), x=make(3, 4, low=0.5, high=2), w=make(4))


pow_dx_p.ref(lambda dy, x, w: dy * w * x**w / x)


@pow_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.5, high=2), w=make(3, 4))
    yield dict(x=make(3, 4, away=0.1), w=2)
    yield dict(x=make(3, 4, away=0.1), w=3.0)
    yield dict(x=make(3, low=0.2), w=-0.5)
    yield dict(x=make.ints(4), w=make.ints(4, high=3))
    yield RuntimeError, dict(x=make.ints(4), w=-1)


@pow_p.ref
def _(x, w):
    import numpy as np

    return np.sign(x) ** (np.asarray(w) % 2) * np.exp(np.asarray(w) * np.log(np.abs(x))) if np.all(x != 0) else x**w


@face(pow_p, method=True, in_place=True, out=True)
def pow(input: Any, exponent: Any) -> Tensor:
    """input ** exponent. Either may be a number."""
    return pow_p(input if isinstance(input, Tensor) else lift(input, exponent), exponent)


@primitive(elementwise=True, ufunc="negative")
def neg_p(xp, x, out):
    """-x."""


@neg_p.spec
def _(x):
    if x.dtype is boolean:
        raise DTypeError("neg: got a bool tensor; wanted numbers (use ~ or logical_not for bool)")
    return x


neg_p.grad(x=lambda g: -g)


@neg_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make.ints(3))
    yield DTypeError, dict(x=make.bools(3))


@neg_p.ref
def _(x):
    return 0 - x


neg = public(neg_p, method=("neg", "negative"))


@primitive(elementwise=True, ufunc="absolute")
def abs_p(xp, x, out):
    """|x|; its gradient at 0 is 0."""


abs_p.grad(x=lambda g, x: g * sign(x))


@abs_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.1))
    yield dict(x=make.ints(3, low=-4))


@abs_p.ref
def _(x):
    import numpy as np

    return np.sqrt(x * x)


abs = public(abs_p, method=("abs", "absolute"))


@primitive(elementwise=True, ufunc="sign")
def sign_p(xp, x, out):
    """-1, 0 or 1."""


sign_p.grad(x=no_slope)


@sign_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.1))


@sign_p.ref
def _(x):
    return (x > 0) * 1.0 - (x < 0) * 1.0


sign = public(sign_p)


for _p in (add_p, sub_p, mul_p, div_p, neg_p, abs_p, sign_p):
    _p.kernel("cpu", _p.op.name, when=some)
