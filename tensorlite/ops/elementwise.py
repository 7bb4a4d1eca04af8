"""Element-wise ops: arithmetic, comparison, selection, casts. Floor 3.

Inputs broadcast; dtypes promote by PyTorch's table; Python numbers are weak. The gradient of a broadcast input is
summed to its shape by the tape.
"""

from __future__ import annotations

from typing import Any

from tensorlite import dtypes
from tensorlite.autograd.methods import attach_method, face, method, op, public
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.run import run
from tensorlite.autograd.spec import Spec, spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.dtypes import as_dtype
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.shapes import broadcast

boolean = dtypes.bool


def _zero(g):
    """The gradient of a function that is constant between its steps (also where g is inf or nan)."""
    return g.new_zeros(g._spec.shape)


# ---- arithmetic
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
    out = spec_of(broadcast("sub", x.shape, w.shape), x.dtype, x.device)
    return out if x.format is w.format is out.format else out.strided()


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
            isinstance(t, float) or (isinstance(t, Tensor) and t.is_floating_point()) for t in (input, other)):
        raise DTypeError(f"{name}: alpha {alpha!r} is a float; for integral input tensors, argument alpha must not be "
                         "a floating point number")
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


# small tensors of one shape, or beside a 0-d one: NumPy's call costs more than the work
def small(*specs: Spec, **kw: Any) -> bool:
    """Whether a compiled loop beats NumPy: few elements, and no broadcasting but of one element."""
    n = max(s.size for s in specs)
    shape = next(s.shape for s in specs if s.size == n)
    return 0 < n <= SMALL and all(s.shape == shape or s.ndim == 0 for s in specs)


SMALL = 4096

mul = public(mul_p, method=("mul", "multiply"))


@primitive(elementwise=True, ufunc="true_divide", floats=True)
def div_p(xp, x, w, out):
    """x / w, in floating point."""


div_p.grad(x=lambda g, w: g / w, w=lambda g, w, y: -g * y / w)


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


floor_divide_p.grad(x=_zero, w=_zero)


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


trunc_divide_p.grad(x=_zero, w=_zero)
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


def _pow_dx(g, x, w):
    if not isinstance(w, Tensor) or w.requires_grad:
        return g * where(w == 0, lift(0.0, g), w * pow_p(x, w - 1))
    if w._spec.size == 1 and w.item() == 2:
        return g * (x * 2.0)
    return g * where(w == 0, lift(0.0, g), w * pow_p(x, w - 1))


pow_p.grad(x=_pow_dx, w=lambda g, x, w, y: g * where(logical_and(x == 0, w >= 0), lift(0.0, g), y * log(x)))


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
    return rpow(exponent, input) if not isinstance(input, Tensor) else pow_p(input, exponent)


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


sign_p.grad(x=_zero)


@sign_p.cases
def _(make):
    yield dict(x=make(3, 4, away=0.1))


@sign_p.ref
def _(x):
    return (x > 0) * 1.0 - (x < 0) * 1.0


sign = public(sign_p)


# ---- functions of one variable
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
    import numpy as np

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
    import numpy as np

    return np.log2(x) / np.log2(np.e)


log = public(log_p)


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
    import numpy as np

    return np.imag(np.exp(1j * x))


@cos_p.ref
def _(x):
    import numpy as np

    return np.real(np.exp(1j * x))


sin, cos = public(sin_p), public(cos_p)


def _rounding(name: str):
    @primitive(name=name, elementwise=True, ufunc={"round": "rint"}.get(name, name))
    def rounded_p(xp, x, out):
        """Rounded to an integer value: floor down, ceil up, trunc towards 0, round to even."""

    rounded_p.grad(x=_zero)

    @rounded_p.cases
    def _(make):
        yield dict(x=make.tensor([-1.7, -0.5001, 0.3, 2.5001]))

    @rounded_p.ref
    def _(x):
        import math

        import numpy as np

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


# ---- larger and smaller
@primitive(elementwise=True)
def maximum_p(xp, x, w, out):
    """The larger of the two; nan wins. Where they are equal each gets half of the gradient."""
    xp.maximum(x, w, out=out)  # NumPy deprecates a positional out here


@primitive(elementwise=True)
def minimum_p(xp, x, w, out):
    """The smaller of the two; nan wins. Where they are equal each gets half of the gradient."""
    xp.minimum(x, w, out=out)  # NumPy deprecates a positional out here


maximum_p.bind(lambda xp, specs, outs: (lambda x, w, out: xp.maximum(x, w, out=out), xp.maximum))
minimum_p.bind(lambda xp, specs, outs: (lambda x, w, out: xp.minimum(x, w, out=out), xp.minimum))


def _share(g, wins, ties):
    """The gradient where this side won, half of it at ties."""
    return g * (wins.to(g.dtype) + ties.to(g.dtype) * 0.5)


maximum_p.grad(x=lambda g, x, w: _share(g, x > w, x == w), w=lambda g, x, w: _share(g, w > x, x == w))
minimum_p.grad(x=lambda g, x, w: _share(g, x < w, x == w), w=lambda g, x, w: _share(g, w < x, x == w))


@maximum_p.cases
@minimum_p.cases
def _(make):
    yield dict(x=make.distinct(3, 4), w=make(3, 4))
    yield dict(x=make.distinct(3, 4), w=make(4))


@maximum_p.ref
def _(x, w):
    return x * (x > w) + w * (w >= x)


@minimum_p.ref
def _(x, w):
    return x * (x < w) + w * (w <= x)


maximum, minimum = public(maximum_p, in_place=False), public(minimum_p, in_place=False)


@primitive(elementwise=True, numbers=True)
def clamp_p(xp, x, low=None, high=None, out=None):
    """min(max(x, low), high); a bound left out does not bind. The gradient passes where x is within, bounds included."""
    if low is None:
        xp.minimum(x, high, out=out)
    elif high is None:
        xp.maximum(x, low, out=out)
    else:
        xp.minimum(xp.maximum(x, low), high, out=out)


def _within(x, low, high):
    inside = x == x if low is None else x >= low
    return inside if high is None else logical_and(inside, x <= high)


clamp_p.grad(
    x=lambda g, x, low, high: g * _within(x, low, high).to(g.dtype),
    low=lambda g, x, low, high: g * ((x < low) if high is None else logical_and(x < low, low < high)).to(g.dtype),
    high=lambda g, x, low, high: g * ((x > high) if low is None else (maximum_p(x, low) > high)).to(g.dtype),
)


@clamp_p.cases
def _(make):
    yield dict(x=make.distinct(3, 4), low=-0.7, high=0.8)
    yield dict(x=make.distinct(3, 4), low=0.1)
    yield dict(x=make.distinct(3, 4), high=0.1)
    yield dict(x=make.distinct(3, 4), low=make(4, low=-1, high=0), high=make(3, 1, low=0.1, high=1))
    yield RuntimeError, dict(x=make(3))


@clamp_p.ref
def _(x, low=None, high=None):
    import numpy as np

    return np.clip(x, low, high)


@face(clamp_p, method=("clamp", "clip"), in_place=True, out=True)
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input held between min and max, which are numbers, tensors or None.

    >>> import tensorlite as tl
    >>> tl.clamp(tl.tensor([-2.0, 0.5, 3.0]), min=-1, max=1)
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min is None and max is None:
        raise RuntimeError("clamp: got neither min nor max; at least one of 'min' or 'max' must not be None")
    return clamp_p(input, min, max)


# ---- comparison and logic
def _comparison(name: str, ufunc: str, sign: str):
    @primitive(name=name, elementwise=True, ufunc=ufunc, out_dtype=boolean)
    def compare_p(xp, x, w, out): ...

    compare_p.op.doc = f"x {sign} w, as bool."
    compare_p.nograd()

    @compare_p.cases
    def _(make):
        yield dict(x=make.ints(3, 4), w=make.ints(3, 4))
        yield dict(x=make.ints(3, 4), w=2)
        yield dict(x=make(3, 1), w=make(4))

    compare_p.ref(lambda x, w: eval(f"x {sign} w"))
    return compare_p


eq_p, ne_p, lt_p, le_p, gt_p, ge_p = (
    _comparison(*c) for c in (("eq", "equal", "=="), ("ne", "not_equal", "!="), ("lt", "less", "<"),
                              ("le", "less_equal", "<="), ("gt", "greater", ">"), ("ge", "greater_equal", ">=")))
eq, ne, lt, le, gt, ge = (public(p) for p in (eq_p, ne_p, lt_p, le_p, gt_p, ge_p))


def _logical(name: str, how: Any):
    @primitive(name=name, elementwise=True, ufunc=name, out_dtype=boolean)
    def logical_p(xp, x, w, out):
        """Of the truth of the elements: zero is False, anything else is True."""

    logical_p.nograd()

    @logical_p.cases
    def _(make):
        yield dict(x=make.bools(3, 4), w=make.bools(4))
        yield dict(x=make.ints(3, 4, high=2), w=make(3, 4))

    logical_p.ref(lambda x, w: how(x != 0, w != 0))
    return logical_p


logical_and_p = _logical("logical_and", lambda a, b: a & b)
logical_or_p = _logical("logical_or", lambda a, b: a | b)
logical_xor_p = _logical("logical_xor", lambda a, b: a != b)
logical_and, logical_or, logical_xor = map(public, (logical_and_p, logical_or_p, logical_xor_p))


@primitive(elementwise=True, ufunc="logical_not", out_dtype=boolean)
def logical_not_p(xp, x, out):
    """True where x is zero."""


def _bitwise(name: str, how: Any):
    @primitive(name=name, elementwise=True, ufunc=name)
    def bits_p(xp, x, w, out):
        """Bit by bit, on integers and bool."""

    @bits_p.spec
    def _(x, w):
        if x.dtype.is_floating_point:
            raise DTypeError(f"{name}: got {x.dtype}; wanted integers or bool (not implemented for floating point)")
        out = spec_of(broadcast(name, x.shape, w.shape), x.dtype, x.device)
        return out if x.format is w.format is out.format else out.strided()

    bits_p.nograd()

    @bits_p.cases
    def _(make):
        yield dict(x=make.bools(3, 4), w=make.bools(4))
        yield dict(x=make.ints(3, 4, high=9), w=make.ints(3, 4, high=9))
        yield DTypeError, dict(x=make(2), w=make(2))

    bits_p.ref(lambda x, w: how(x, w))
    return bits_p


bitwise_and_p = _bitwise("bitwise_and", lambda a, b: a & b)
bitwise_or_p = _bitwise("bitwise_or", lambda a, b: a | b)
bitwise_xor_p = _bitwise("bitwise_xor", lambda a, b: a ^ b)
bitwise_and, bitwise_or, bitwise_xor = map(public, (bitwise_and_p, bitwise_or_p, bitwise_xor_p))


@primitive(elementwise=True, ufunc="invert")
def bitwise_not_p(xp, x, out):
    """Every bit turned over; for bool, not x."""


@bitwise_not_p.spec
def _(x):
    if x.dtype.is_floating_point:
        raise DTypeError(f"bitwise_not: got {x.dtype}; wanted integers or bool (not implemented for floating point)")
    return x


@primitive(elementwise=True, ufunc="isnan", out_dtype=boolean)
def isnan_p(xp, x, out):
    """True where x is not a number."""


@primitive(elementwise=True, ufunc="isinf", out_dtype=boolean)
def isinf_p(xp, x, out):
    """True where x is infinite."""


@primitive(elementwise=True, ufunc="isfinite", out_dtype=boolean)
def isfinite_p(xp, x, out):
    """True where x is neither infinite nor nan."""


for _op in (logical_not_p, bitwise_not_p, isnan_p, isinf_p, isfinite_p):
    _op.nograd()


@isnan_p.cases
@isinf_p.cases
@isfinite_p.cases
def _(make):
    yield dict(x=make.tensor([0.0, float("inf"), float("-inf"), float("nan"), 1.0]))
    yield dict(x=make.ints(3))


@logical_not_p.cases
def _(make):
    yield dict(x=make.bools(3, 4))
    yield dict(x=make.ints(5, high=2))


@bitwise_not_p.cases
def _(make):
    yield dict(x=make.bools(3, 4))
    yield dict(x=make.ints(5))
    yield DTypeError, dict(x=make(3))


logical_not_p.ref(lambda x: x == 0)
bitwise_not_p.ref(lambda x: ~x)
isnan_p.ref(lambda x: x != x)  # noqa: PLR0124
isinf_p.ref(lambda x: (x == float("inf")) | (x == -float("inf")))
isfinite_p.ref(lambda x: (x - x) == 0)
logical_not, bitwise_not = public(logical_not_p), public(bitwise_not_p)
isnan, isinf, isfinite = (public(p, in_place=False) for p in (isnan_p, isinf_p, isfinite_p))


# ---- selection
@primitive(elementwise=True, promotes=("x", "w"))
def where_p(xp, condition, x, w, out):
    """x where condition is True, w elsewhere."""
    xp.copyto(out, w)
    xp.copyto(out, x, where=condition)


@where_p.spec
def _(condition, x, w):
    if condition.dtype is not boolean:
        raise DTypeError(f"where: condition is {condition.dtype}; wanted bool (expected condition to be a boolean tensor)")
    return spec_of(broadcast("where", condition.shape, x.shape, w.shape), x.dtype, x.device)


where_p.op.alias = None  # w is written before x is read
where_p.grad(
    condition=None,
    x=lambda g, condition: where_p(condition, g, lift(0.0, g)),
    w=lambda g, condition: where_p(condition, lift(0.0, g), g),
)


@where_p.cases
def _(make):
    yield dict(condition=make.bools(3, 4), x=make(3, 4), w=make(3, 4))
    yield dict(condition=make.bools(3, 4), x=make(4), w=make(3, 1))
    yield dict(condition=make.bools(3), x=1.5, w=make(3))
    yield dict(condition=make.bools(3), x=make(3), w=0)
    yield DTypeError, dict(condition=make(3), x=make(3), w=make(3))


@where_p.ref
def _(condition, x, w):
    import numpy as np

    c = condition.astype(float)
    return np.where(condition, 0, w) * (1 - c) + np.where(condition, x, 0) * c


@face(where_p, out=True)
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """input where condition is True, other elsewhere. With the condition alone: ``nonzero(as_tuple=True)``.

    >>> import tensorlite as tl
    >>> x = tl.tensor([-1.0, 2.0])
    >>> tl.where(x > 0, x, 0.0)
    tensor([0., 2.])
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if not isinstance(input, Tensor):
        input = lift(input, other)
    elif not isinstance(other, Tensor):
        other = lift(other, input)
    return where_p(condition, input, other)


@method("where")
def _where(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """self where condition is True, other elsewhere."""
    return where(condition, self, other)


# ---- copies and casts
@primitive(name="cast", alias="elementwise",
           torch=lambda torch, x, dtype: x.to(dtype))
def cast_p(xp, x, out, *, dtype):
    """x in another dtype. Floats lose their fraction on the way to integers."""
    xp.copyto(out, x, casting="unsafe")


@cast_p.spec
def _(x, *, dtype):
    out = spec_of(x.shape, dtype, x.device)
    return out


cast_p.grad(x=lambda g, x_spec: g.to(x_spec.dtype))


@cast_p.cases
def _(make):
    yield dict(x=make(3, 4), dtype=dtypes.float64)
    yield dict(x=make(3, low=0), dtype=dtypes.int32)
    yield dict(x=make.ints(3), dtype=boolean)
    yield dict(x=make.bools(3), dtype=dtypes.float32)


@cast_p.ref
def _(x, dtype):
    import numpy as np

    return x != 0 if dtype is boolean else np.trunc(x) if not dtype.is_floating_point else x * 1.0


@face(cast_p)
def cast(x: Tensor, *, dtype: Any) -> Tensor:
    """x in another dtype; the gradient ends where that is not a floating-point one."""
    return cast_p(x if dtype.is_floating_point else x.detach(), dtype=dtype)


@primitive(name="clone", alias="elementwise", signals=False)
def clone_p(xp, x, out):
    """A copy."""
    xp.copyto(out, x)


clone_p.spec(lambda x: spec_of(x.shape, x.dtype, x.device))
clone_p.grad(x=lambda g: g)


@clone_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make())
    yield dict(x=make.ints(3))


clone_p.ref(lambda x: x + 0 if x.dtype != bool else x)


@face(clone_p, method=True)
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own storage, on the tape."""
    return clone_p(input)


@method()
def contiguous(self: Tensor, memory_format: Any = None) -> Tensor:
    """Itself where its elements lie in C order, else a copy in which they do."""
    return self if self.is_contiguous() else clone_p(self)


@method()
def to(self: Tensor, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False,
       copy: bool = False, memory_format: Any = None) -> Tensor:
    """This tensor in a dtype and on a device, itself where nothing changes: ``x.to(tl.float16)``, ``x.to("cpu")``."""
    from tensorlite.backends import Device, backend

    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a._spec.dtype, a._spec.device
        elif isinstance(a, Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
            device = a
        elif isinstance(a, bool):
            pass  # non_blocking by position
        elif a is not None:
            dtype = a
    spec = self._spec
    if device is not None and Device(device) is not spec.device:
        backend(Device(device))  # raises, saying what is missing
    d = spec.dtype if dtype is None else dtype if isinstance(dtype, dtypes.dtype) else as_dtype(dtype, "to")
    if d is not spec.dtype:
        return cast(self, dtype=d)
    return clone_p(self) if copy else self


def _caster(name: str, d: dtypes.dtype):
    def cast(self: Tensor, memory_format: Any = None) -> Tensor:
        return self.to(d)

    cast.__name__ = cast.__qualname__ = name
    cast.__doc__ = f"This tensor as {d.name}; itself where it is that already."
    attach_method(name, cast)


for _name, _dtype in (("float", dtypes.float32), ("double", dtypes.float64), ("half", dtypes.float16),
                      ("bfloat16", dtypes.bfloat16), ("long", dtypes.int64), ("int", dtypes.int32),
                      ("short", dtypes.int16), ("char", dtypes.int8), ("byte", dtypes.uint8), ("bool", boolean)):
    _caster(_name, _dtype)


@method()
def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """This tensor on the CPU."""
    return self.to("cpu")


@method()
def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """This tensor on a GPU."""
    return self.to("cuda" if device is None else device)


@method()
def type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the tensor's type, or with a dtype the tensor in it."""
    if dtype is None:
        names = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
                 "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool"}
        return f"tensorlite.{names[self.dtype.name]}Tensor"
    return self.to(dtype)


@method()
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in the dtype of another."""
    return self.to(other.dtype)


@method("_accumulate")
def _accumulate(self: Tensor, g: Tensor) -> None:
    """self += g for a sum of gradients that the tape owns: no history, no version, no check."""
    entry = add_p.op.cache.get((self._spec, g._spec)) or add_p.op.entry((self._spec, g._spec), {})
    run(entry, (self._arr, g._arr), (self._arr,))


for _p in (add_p, sub_p, mul_p, div_p, neg_p):
    _p.kernel("cpu", _p.op.name, dtypes="f4 f8", when=small)


# ---- operators
def _swapped(name: str, primitive_call: Any):
    def swapped(self: Tensor, other: Any) -> Tensor:
        if not isinstance(other, Tensor):
            other = lift(other, self)
        return primitive_call(other, self) if isinstance(other, Tensor) or hasattr(other, "dtype") else NotImplemented

    swapped.__name__ = name
    return swapped


def rpow(base: Any, exponent: Tensor) -> Tensor:
    """base ** exponent for a number base."""
    return pow_p(lift(base, exponent), exponent)


def _inplace_operator(name: str):
    def operator(self: Tensor, other: Any) -> Tensor:
        return getattr(self, name)(other)

    return operator


for _name, _call in (("add", add_p), ("sub", sub_p), ("mul", mul_p), ("truediv", div_p), ("floordiv", floor_divide_p),
                     ("mod", remainder_p), ("pow", pow_p), ("and", bitwise_and_p), ("or", bitwise_or_p),
                     ("xor", bitwise_xor_p)):
    attach_method(f"__{_name}__", _call)
    attach_method(f"__r{_name}__", _swapped(f"__r{_name}__", _call))
for _name, _method in (("add", "add_"), ("sub", "sub_"), ("mul", "mul_"), ("truediv", "div_"), ("pow", "pow_"),
                       ("floordiv", "floor_divide_"), ("mod", "remainder_"), ("and", "bitwise_and_"),
                       ("or", "bitwise_or_"), ("xor", "bitwise_xor_")):
    attach_method(f"__i{_name}__", _inplace_operator(_method))
attach_method("__neg__", neg_p)
attach_method("__abs__", abs_p)
attach_method("__invert__", bitwise_not_p)
attach_method("__pos__", lambda self: self)
for _name, _call in (("lt", lt_p), ("le", le_p), ("gt", gt_p), ("ge", ge_p)):
    attach_method(f"__{_name}__", _call)


def _equal(name: str, call: Any, otherwise: bool):
    def compare(self: Tensor, other: Any) -> Any:
        # == and != with what is no tensor and no number are False and True, as in PyTorch
        try:
            return call(self, other)
        except TypeError:
            return otherwise

    compare.__name__ = name
    setattr(Tensor, name, compare)


_equal("__eq__", eq_p, False)
_equal("__ne__", ne_p, True)
