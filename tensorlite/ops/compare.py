"""Comparison and logic, element by element: results are bool and have no gradient. Floor 3."""

from __future__ import annotations

from typing import Any

from tensorlite import dtypes
from tensorlite.autograd.methods import public
from tensorlite.autograd.primitive import broadcast_spec, primitive
from tensorlite.errors import DTypeError

boolean = dtypes.bool


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
    _comparison(*c)
    for c in (
        ("eq", "equal", "=="),
        ("ne", "not_equal", "!="),
        ("lt", "less", "<"),
        ("le", "less_equal", "<="),
        ("gt", "greater", ">"),
        ("ge", "greater_equal", ">="),
    )
)
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
        return broadcast_spec(name, x, w)

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
isnan_p.ref(lambda x: x != x)
isinf_p.ref(lambda x: (x == float("inf")) | (x == -float("inf")))
isfinite_p.ref(lambda x: (x - x) == 0)
logical_not, bitwise_not = public(logical_not_p), public(bitwise_not_p)
isnan, isinf, isfinite = (public(p, in_place=False) for p in (isnan_p, isinf_p, isfinite_p))
