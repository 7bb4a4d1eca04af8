"""The stand-in's element-wise functions: CuPy's loops, promotion, refusals; NumPy's numbers. Floor 1."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tensorlite.backends.standin.arrays import fresh, given, ndarray

BF16 = np.dtype(ml_dtypes.bfloat16)

# CuPy's loops without the complex ones (``cupy.add.types``): the first that the operands fit decides. E is bfloat16.
_INTEGERS = ["b", "B", "h", "H", "i", "I", "l", "L", "q", "Q"]


def _same(types: str, pattern: str) -> str:
    """A loop for each type: ``_same("e f", "xx->x")`` is "ee->e ff->f"."""
    return " ".join(pattern.replace("x", t) for t in types.split())


_FLOATS = "e E f d"
_NUMBERS = " ".join([*_INTEGERS, _FLOATS])
_ALL = "? " + _NUMBERS
_COMPARE = "??->? qq->? QQ->? qQ->? Qq->? " + _same(_FLOATS, "xx->?")
_NO_HALF_BRAIN = " ".join([*_INTEGERS, "e f d"])

LOOPS: dict[str, str] = {
    name: loops
    for names, loops in [
        ("abs absolute ceil floor negative positive trunc", _same(_ALL, "x->x")),
        (
            "arccos arccosh arcsin arcsinh arctan arctanh cbrt cos cosh exp exp2 expm1 fabs log log10 log1p log2 rint "
            "sin sinh sqrt tan tanh",
            _same(_FLOATS, "x->x"),
        ),
        ("add fmax fmin maximum minimum multiply subtract", _same(_ALL, "xx->x")),
        ("arctan2 copysign heaviside hypot logaddexp logaddexp2 nextafter", _same(_FLOATS, "xx->x")),
        ("bitwise_and bitwise_or bitwise_xor", _same(" ".join(["?", *_INTEGERS]), "xx->x")),
        ("bitwise_not invert", _same(" ".join(["?", *_INTEGERS]), "x->x")),
        ("left_shift right_shift", _same(" ".join(_INTEGERS), "xx->x")),
        ("reciprocal sign square conj conjugate", _same(_NUMBERS, "x->x")),
        ("divide true_divide", "qq->d qQ->d Qq->d QQ->d " + _same(_FLOATS, "xx->x")),
        ("divmod", _same(_NO_HALF_BRAIN, "xx->xx")),
        ("equal greater greater_equal less less_equal logical_and logical_or not_equal", _COMPARE),
        ("floor_divide fmod mod remainder", _same(_NUMBERS, "xx->x")),
        ("frexp", _same(_FLOATS, "x->xi")),
        ("isfinite isinf isnan signbit", _same(_FLOATS, "x->?")),
        ("ldexp", "ei->e Ei->E fi->f el->e El->E fl->f di->d dq->d"),
        ("logical_not", _same("? " + _NO_HALF_BRAIN, "x->?")),
        ("logical_xor", _same("? " + _NO_HALF_BRAIN, "xx->?")),
        ("modf", _same(_FLOATS, "x->xx")),
        ("power", "??->b " + _same(_NUMBERS, "xx->x")),
    ]
    for name in names.split()
}
_AT = {  # name -> dtypes that have an atomic operation
    "add": "i4 i8 u4 u8 f2 f4 f8",
    "subtract": "i4 u4",
    "maximum": "i4 i8 u4 u8 f4 f8",
    "minimum": "i4 i8 u4 u8 f4 f8",
    "bitwise_and": "i4 i8 u4 u8",
    "bitwise_or": "i4 i8 u4 u8",
    "bitwise_xor": "i4 i8 u4 u8",
}
# beside an integer array, a Python integer keeps its own type here: it may be out of the array's range
_OWN_INTEGERS = frozenset(name for name, loops in LOOPS.items() if loops == _COMPARE)
_NOT_BOOL = frozenset(("negative", "positive", "subtract"))
_PYTHON = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(np.float64)}


def _dtype(letter: str) -> np.dtype:
    return BF16 if letter == "E" else np.dtype(letter)


def _kind(t: type) -> int:
    if issubclass(t, np.bool_):
        return 0
    if issubclass(t, (np.integer, int)):
        return 1
    return 2 if issubclass(t, (np.inexact, float, complex)) else 3


class ufunc:
    """One element-wise function."""

    def __init__(self, name: str, loops: str):
        self.__name__, self.name = name, f"cupy_{name}"
        self.types = loops.split()
        self._loops = [tuple(tuple(map(_dtype, side)) for side in loop.split("->")) for loop in self.types]
        self.nin, self.nout = map(len, self._loops[0])
        self.nargs = self.nin + self.nout
        self._plain = getattr(np, name)

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def _loop(self, ins: list, dtype: Any) -> tuple[tuple, tuple]:
        """The types of inputs and outputs: CuPy's own rule, the first loop that everything can be cast to."""
        if dtype is not None:
            for loop in self._loops:
                of_integers = self.__name__ in ("divide", "true_divide") and loop[0][0].kind in "iu"
                if all(t == dtype for t in loop[1]) and not of_integers:
                    return self._valid(loop)
            raise TypeError(f"Wrong type ({dtype}) of arguments for {self.name}")
        types: list = []
        weak: list = []
        for x in ins:
            python = _PYTHON.get(type(x))
            if type(x) is int and x >= 1 << 63:
                python = np.dtype(np.uint64)
            types.append(python if python is not None else x.dtype)
            weak.append(type(x) if type(x) in (int, float) else False)
        if self.__name__ in _OWN_INTEGERS:
            for a, b in ((0, 1), (1, 0)):
                if weak[a] is int and weak[b] is False and types[b].kind in "iu":
                    weak[a] = False
        strong = [_kind(t.type) for t, w in zip(types, weak) if not w]
        soft = [_kind(w) for w in weak if w]
        if not strong or not soft or max(strong) < max(soft):
            weak = [False] * len(ins)
        for loop in self._loops:
            if all(np.can_cast(t, to) or (w and _keeps(w, to)) for t, w, to in zip(types, weak, loop[0])):
                return self._valid(loop)
        raise TypeError(f"Wrong type ({tuple(types)}) of arguments for {self.name}")

    def _valid(self, loop: tuple) -> tuple:
        if self.__name__ in _NOT_BOOL and loop[0][0] == np.bool_:
            raise TypeError(f"{self.name}: not of bool; wanted another operation, such as logical_not or bitwise_xor")
        return loop

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out, dtype = kwargs.pop("out", None), kwargs.pop("dtype", None)
        casting = kwargs.pop("casting", "same_kind")
        if kwargs:
            raise TypeError(f"Wrong arguments {kwargs}")
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. It must be either {self.nin} or {self.nargs} (with "
                f"outputs), but given {len(args)}."
            )
        outs = list(args[self.nin :])
        if out is not None:
            if outs:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            if not isinstance(out, tuple) and self.nout != 1:
                raise ValueError("'out' must be a tuple of arrays")
            outs = list(out) if isinstance(out, tuple) else [out]
            if len(outs) != self.nout:
                raise ValueError("The 'out' tuple must have exactly one entry per ufunc output")
        outs += [None] * (self.nout - len(outs))
        ins = [given(x) for x in args[: self.nin]]
        for o in outs:
            if o is not None and not isinstance(o, ndarray):
                given(o)
                raise TypeError("Output arguments type must be cupy.ndarray")
        shape = np.broadcast_shapes(*(np.shape(x) for x in ins), *(o.shape for o in outs if o is not None))
        in_types, out_types = self._loop(ins, None if dtype is None else np.dtype(dtype))
        for o, t in zip(outs, out_types):
            if o is not None and o.shape != shape:
                raise ValueError("Out shape is mismatched")
            if o is not None and not np.can_cast(t, o.dtype, casting):
                raise TypeError(f"Cannot cast output operand from {t!r} to {o.dtype!r} with casting rule '{casting}'")
        made = self._compute(ins, in_types, out_types, shape)
        results = []
        for o, m in zip(outs, made):
            if o is None:
                results.append(fresh(m))
            else:
                np.copyto(o._host, m, casting="unsafe")
                results.append(o)
        return results[0] if self.nout == 1 else tuple(results)

    def _compute(self, ins: list, in_types: tuple, out_types: tuple, shape: tuple) -> list:
        with np.errstate(all="ignore"):
            cast = []
            for x, t in zip(ins, in_types):
                x = x.astype(t, copy=False) if isinstance(x, (np.ndarray, np.generic)) else np.asarray(x, t)
                # a kernel computes bfloat16 in float32 and rounds once
                cast.append(x.astype(np.float32) if t == BF16 and self.__name__ != "nextafter" else x)
            made = self._plain(*cast)
            made = list(made) if self.nout > 1 else [made]
            return [np.broadcast_to(np.asarray(m).astype(t, copy=False), shape) for m, t in zip(made, out_types)]

    # ---- the methods that CuPy has
    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.__name__ == "add":
            return array.sum(axis, dtype, out, keepdims)
        if self.__name__ == "multiply":
            return array.prod(axis, dtype, out, keepdims)
        raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")

    def accumulate(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        if self.__name__ == "add":
            return array.cumsum(axis, dtype, out)
        if self.__name__ == "multiply":
            return array.cumprod(axis, dtype, out)
        raise NotImplementedError(f"`{self.name}.accumulate` is not supported yet")

    def reduceat(self, array: Any, indices: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        raise NotImplementedError(f"`{self.name}.reduceat` is not in the stand-in")

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:
        if not isinstance(A, ndarray) or not isinstance(B, ndarray):
            raise TypeError(f"{self.name}.outer: got {type(A)} and {type(B)}; wanted arrays of the device")
        return self(A.reshape(A.shape + (1,) * B.ndim), B, **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        """``a[indices] op= b``, where the same place may come several times."""
        if self.__name__ not in _AT:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        places, advanced = a._places(indices)
        if not advanced:
            view = a[indices]
            self(view, b, view)
            return
        allowed = _AT[self.__name__]
        if a.dtype == BF16 or a.dtype.str[1:] not in allowed.split():
            raise TypeError(f"cupy.{self.__name__}.at only supports {allowed} as data type, not {a.dtype}")
        with np.errstate(all="ignore"):
            self._plain.at(a._host, places, np.asarray(given(b)).astype(a.dtype))


def _keeps(weak: type, to: np.dtype) -> bool:
    try:
        return np.result_type(weak(0), to) == to
    except TypeError:
        return False


UFUNCS = {name: ufunc(name, loops) for name, loops in LOOPS.items()}


# ---- operators: device with device, or with a scalar; NumPy's functions refuse the rest by __array_ufunc__
def _operator(name: str) -> Any:
    function, numpys = UFUNCS[name], getattr(np, name)
    return lambda x, y: function(x, y) if isinstance(y, ndarray) else numpys(x, y)


def _reflected(name: str) -> Any:
    return lambda x, y: getattr(np, name)(y, x)


def _in_place(name: str) -> Any:
    return lambda x, y: UFUNCS[name](x, y, x)


def _power(x: ndarray, y: Any, modulo: Any = None) -> Any:
    if type(y) in (int, float) and (y == 2 or (type(y) is float and y in (0.5, -1.0))):
        fast = "square" if y == 2 else "sqrt" if y == 0.5 else "reciprocal"
        whole = type(y) is int
        dtype = None if x.dtype.kind in ("ifc" if whole else "fc") else np.result_type(x.dtype, y)
        return UFUNCS[fast](x, dtype=dtype)
    return _operator("power")(x, y)


for _sign, _name in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "divmod": "divmod",
}.items():
    setattr(ndarray, f"__{_sign}__", _operator(_name))
    setattr(ndarray, f"__r{_sign}__", _reflected(_name))
    if _sign != "divmod":
        setattr(ndarray, f"__i{_sign}__", _in_place(_name))
ndarray.__pow__ = _power  # type: ignore[attr-defined]
for _sign, _name in dict(lt="less", le="less_equal", gt="greater", ge="greater_equal").items():
    setattr(ndarray, f"__{_sign}__", _operator(_name))


def _equal(x: ndarray, y: Any) -> Any:
    return fresh(np.zeros(x.shape, bool)) if y is None else _operator("equal")(x, y)


def _not_equal(x: ndarray, y: Any) -> Any:
    return fresh(np.ones(x.shape, bool)) if y is None else _operator("not_equal")(x, y)


ndarray.__eq__, ndarray.__ne__ = _equal, _not_equal  # type: ignore[method-assign,assignment]
for _sign, _name in dict(neg="negative", pos="positive", abs="absolute", invert="invert").items():
    setattr(ndarray, f"__{_sign}__", lambda x, name=_name: UFUNCS[name](x))
