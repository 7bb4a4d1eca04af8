"""Element types and PyTorch's promotion table. Floor 0: NumPy's dtypes, no arrays."""

from typing import Any

import ml_dtypes
import numpy as np

from tensorlite.errors import DTypeError

BOOL, INTEGER, FLOAT = 0, 1, 2  # categories, in the order in which one wins over the other


class dtype:
    """An element type, such as ``tensorlite.float32``. There is one object for each, compared by identity."""

    __slots__ = ("category", "is_floating_point", "is_half", "is_signed", "itemsize", "name", "np", "short")
    known: dict[str, "dtype"] = {}
    of_numpy: dict[np.dtype, "dtype"] = {}

    def __init__(self, name: str, short: str, numpy_type: Any):
        self.name, self.short, self.np = name, short, np.dtype(numpy_type)
        self.itemsize = self.np.itemsize
        self.is_floating_point = "float" in name
        self.is_half = self.is_floating_point and self.itemsize == 2
        self.is_signed = name != "uint8" and name != "bool"
        self.category = FLOAT if self.is_floating_point else BOOL if name == "bool" else INTEGER
        dtype.known[name] = self
        dtype.of_numpy[self.np] = self

    is_complex = False

    def __repr__(self) -> str:
        return f"tensorlite.{self.name}"

    def __reduce__(self):
        return (_by_name, (self.name,))

    def to_real(self) -> "dtype":
        return self


def _by_name(name: str) -> dtype:
    return dtype.known[name]


float64 = double = dtype("float64", "f8", np.float64)
float32 = float = dtype("float32", "f4", np.float32)
float16 = half = dtype("float16", "f2", np.float16)
bfloat16 = dtype("bfloat16", "bf2", ml_dtypes.bfloat16)
int64 = long = dtype("int64", "i8", np.int64)
int32 = int = dtype("int32", "i4", np.int32)
int16 = short = dtype("int16", "i2", np.int16)
int8 = dtype("int8", "i1", np.int8)
uint8 = dtype("uint8", "u1", np.uint8)
bool = dtype("bool", "b1", np.bool_)

_PY = {type(True): bool, type(1): int64}
_default = float32


def as_dtype(given: Any, op: str = "dtype") -> dtype:
    """A dtype from ours, NumPy's, a name, or Python's bool, int and float.

    >>> as_dtype("float32"), as_dtype(np.int64)
    (tensorlite.float32, tensorlite.int64)
    """
    if isinstance(given, dtype):
        return given
    if given is type(1.0):
        return _default
    if given in _PY:
        return _PY[given]
    if isinstance(given, str) and given in dtype.known:
        return dtype.known[given]
    try:
        return dtype.of_numpy[np.dtype(given).newbyteorder("=")]
    except (KeyError, TypeError):
        names = ", ".join(dtype.known)
        raise DTypeError(f"{op}: got element type {given!r}; wanted one of {names}") from None


def get_default_dtype() -> dtype:
    """The floating-point type that Python floats and creation functions get: float32 unless set."""
    return _default


def set_default_dtype(d: Any) -> None:
    """Set the floating-point type that Python floats and creation functions get."""
    global _default
    d = as_dtype(d, "set_default_dtype")
    if not d.is_floating_point:
        raise TypeError(f"set_default_dtype: got {d}; wanted a floating-point type")
    _default = d


def promote_types(a: dtype, b: dtype) -> dtype:
    """The smallest type that both fit in, by PyTorch's table (an integer never widens a float).

    >>> promote_types(uint8, int8), promote_types(float16, int64), promote_types(float16, bfloat16)
    (tensorlite.int16, tensorlite.float16, tensorlite.float32)
    """
    if a is b:
        return a
    if a.category != b.category:
        return a if a.category > b.category else b
    if a.category == FLOAT:
        if a.is_half and b.is_half:
            return float32
        return a if a.itemsize > b.itemsize else b
    if a.is_signed == b.is_signed or a.itemsize != b.itemsize:
        wide, other = (a, b) if a.itemsize >= b.itemsize else (b, a)
        return wide if wide.is_signed or not other.is_signed else int16
    return int16  # uint8 with int8


def result_type(operands: list) -> dtype:
    """The common type of ``(dtype, rank)`` pairs: ``rank`` 2 for a tensor with dimensions, 1 for a 0-d tensor and
    0 for a Python number. A lower rank matters only where its category is higher (PyTorch's rule)."""
    best: list = [None, None, None]
    for d, rank in operands:
        best[rank] = d if best[rank] is None else promote_types(best[rank], d)
    number, zero, dim = best
    return _combine(dim, _combine(zero, number))


def _combine(higher: dtype | None, lower: dtype | None) -> Any:
    if higher is None or lower is None:
        return higher or lower
    if lower.category > higher.category:
        return promote_types(higher, lower)
    return higher


def can_cast(source: dtype, target: dtype) -> type(True):
    """Whether PyTorch lets a result of ``source`` be stored into ``target``: never down a category."""
    return source.category <= target.category


class finfo:
    """Limits of a floating-point type: ``eps``, ``max``, ``min``, ``tiny``, ``smallest_normal``, ``bits``.

    >>> finfo(float32).eps
    1.1920928955078125e-07
    """

    def __init__(self, d: dtype | None = None):
        d = d or _default
        if not d.is_floating_point:
            raise TypeError(f"finfo: got {d}; wanted a floating-point type")
        info = ml_dtypes.finfo(d.np)
        for name in ("eps", "max", "min", "tiny", "smallest_normal", "resolution"):
            setattr(self, name, type(1.0)(getattr(info, name)))
        self.bits, self.dtype = info.bits, d.name


class iinfo:
    """Limits of an integer type: ``min``, ``max``, ``bits``."""

    def __init__(self, d: dtype):
        if d.category != INTEGER:
            raise TypeError(f"iinfo: got {d}; wanted an integer type")
        info = np.iinfo(d.np)
        self.min, self.max, self.bits, self.dtype = type(1)(info.min), type(1)(info.max), info.bits, d.name
