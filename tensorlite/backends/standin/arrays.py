"""The stand-in's array: memory that only the device may touch, as ``cupy.ndarray`` has it. Floor 1.

Operators and the methods that compute are attached by ufuncs.py and functions.py.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np

from tensorlite.backends.standin.memory import Device, Memory, MemoryPointer, allocate, count

SCALARS = (bool, int, float, complex)
KINDS = frozenset("biufc")


def dtype_of(given: Any) -> np.dtype:
    """NumPy's dtype for ``given``; refused where no kernel knows the type."""
    dtype = np.dtype(given)
    if dtype.byteorder == ">":
        raise ValueError(f"Unsupported dtype {dtype} with big-endian byte-order")
    if dtype.kind not in KINDS and dtype.name != "bfloat16":
        raise ValueError(f"Unsupported dtype {dtype}")
    return dtype


class Flags:
    """``c_contiguous``, ``f_contiguous``, ``owndata``: all that there is."""

    def __init__(self, c_contiguous: bool, f_contiguous: bool, owndata: bool):
        self.c_contiguous, self.f_contiguous, self.owndata = c_contiguous, f_contiguous, owndata

    fnc = property(lambda self: self.f_contiguous and not self.c_contiguous)
    forc = property(lambda self: self.f_contiguous or self.c_contiguous)

    def __getitem__(self, name: str) -> bool:
        if name in ("C_CONTIGUOUS", "F_CONTIGUOUS", "OWNDATA"):
            return getattr(self, name.lower())
        raise KeyError(f"{name} is not defined for cupy.ndarray.flags")

    def __repr__(self) -> str:
        return "\n".join(f"  {name} : {self[name]}" for name in ("C_CONTIGUOUS", "F_CONTIGUOUS", "OWNDATA"))


class ndarray:
    """An array on the stand-in device. It never becomes a NumPy array by itself; ``get()`` copies it."""

    __slots__ = ("__weakref__", "_host", "_mem", "base")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    _host: np.ndarray  # the same memory as NumPy sees it: for this package alone
    _mem: Memory
    base: ndarray | None

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(map(int, shape))
        if any(n < 0 for n in shape):
            raise ValueError("Negative dimensions are not allowed")
        dtype = dtype_of(dtype)
        size = math.prod(shape) * dtype.itemsize
        if strides is not None and memptr is None and size:
            if any(s < 0 for s in strides):
                raise ValueError("ndarray() with strides currently does not allow negative strides")
            reach = sum((n - 1) * s for n, s in zip(shape, strides)) + dtype.itemsize
            if reach > size:
                raise ValueError(
                    f"ndarray() with strides must stay withing a contiguous size of {size} but got {reach}."
                )
        self._mem = allocate(size, dtype.kind) if memptr is None else memptr.mem
        offset = 0 if memptr is None else memptr._offset
        self._host = np.ndarray(shape, dtype, self._mem.buffer, offset, strides, order or "C")
        self.base = None

    # ---- what it is
    @property
    def data(self) -> MemoryPointer:
        start = self._host.__array_interface__["data"][0] - self._mem.ptr if self._mem.ptr else 0
        return MemoryPointer(self._mem, start)

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    device = property(lambda self: Device(self._mem.device_id))
    T = property(lambda self: viewed(self, self._host.T))
    mT = property(lambda self: viewed(self, self._host.mT))
    real = property(lambda self: self if self._host.dtype.kind != "c" else viewed(self, self._host.real))

    @property
    def flags(self) -> Flags:
        f = self._host.flags
        return Flags(f.c_contiguous, f.f_contiguous, self.base is None)

    @shape.setter  # type: ignore[no-redef]
    def shape(self, shape: Any) -> None:
        host = self._host.reshape(shape)
        if host.size and not np.may_share_memory(host, self._host):
            raise AttributeError("incompatible shape")  # where a copy would be needed
        self._host = host

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        plain = self._host.__array_interface__
        return {
            "shape": self.shape,
            "typestr": plain["typestr"],
            "descr": plain["descr"],
            "stream": 1,
            "version": 3,
            "strides": None if self._host.flags.c_contiguous else self.strides,
            "data": (self.data.ptr, False),
        }

    def __len__(self) -> int:
        if not self._host.ndim:
            raise TypeError("len() of unsized object")
        return len(self._host)

    def __iter__(self) -> Any:
        if not self._host.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self._host)))

    # ---- to the host: never by itself
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        """A copy on the host."""
        count(downloads=1, bytes_down=self.nbytes)
        if out is None:
            return np.array(self._host, order=order)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be obtained fromcupy.ndarray, but {type(out)} was given")
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError(f"get: out is {out.dtype}{out.shape}; wanted {self.dtype}{self.shape}")
        np.copyto(out, self._host)
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Fill it with the numbers of a host array of the same shape and dtype."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        count(uploads=1, bytes_up=arr.nbytes)
        np.copyto(self._host, arr)

    def _value(self) -> Any:
        count(host_reads=1, bytes_down=self.nbytes)
        return self._host

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._value().item()

    def __bool__(self) -> bool:
        if self.size == 1:
            return bool(self._value())
        if not self.size:
            warnings.warn(
                "The truth value of an empty array is ambiguous. Returning False, but in future this will result in "
                "an error. Use `array.size > 0` to check that an array is not empty.",
                DeprecationWarning,
                stacklevel=2,
            )
            return False
        raise ValueError("The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()")

    __int__ = lambda self: int(self._value())
    __float__ = lambda self: float(self._value())
    __complex__ = lambda self: complex(self._value())
    __repr__ = lambda self: repr(self.get())
    __str__ = lambda self: str(self.get())
    __format__ = lambda self, spec: format(self.get(), spec)
    tolist = lambda self: self.get().tolist()
    tobytes = lambda self, order="C": self.get().tobytes(order)

    # ---- copies
    def astype(self, dtype: Any, order: Any = "K", casting: Any = None, subok: Any = None, copy: Any = True) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError(f"{'casting' if casting is not None else 'subok'} is not supported yet")
        dtype, order = dtype_of(dtype), order or "K"
        if not copy and dtype == self.dtype and np.asarray(self._host, order=order) is self._host:
            return self
        return fresh(self._host, dtype, order)

    def copy(self, order: str = "C") -> ndarray:
        return fresh(self._host, order=order)

    __copy__ = lambda self: self.copy()
    __deepcopy__ = lambda self, memo: self.copy()

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return viewed(self, self._host if dtype is None else self._host.view(dtype))

    def fill(self, value: Any) -> None:
        if isinstance(value, ndarray):
            if value.shape != ():
                raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
            value = value._host
        elif np.asarray(value, self.dtype).shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        with np.errstate(all="ignore"):
            self._host[...] = np.asarray(value).astype(self.dtype)

    # ---- indexing
    def __getitem__(self, key: Any) -> ndarray:
        places, advanced = self._places(key)
        found = self._host[places]
        return fresh(found) if advanced else viewed(self, found)

    def __setitem__(self, key: Any, value: Any) -> None:
        places, advanced = self._places(key)
        if isinstance(value, ndarray):
            value = value._host
            while value.ndim > self.ndim and value.shape[0] == 1:
                value = value[0]
        elif advanced:
            value = _uploaded(value, self.dtype)
        else:
            viewed(self, self._host[places]).fill(value)
            return
        with np.errstate(all="ignore"):
            self._host[places] = value.astype(self.dtype, copy=False)

    def _places(self, key: Any) -> tuple[tuple, bool]:
        """``key`` for the host's array, and whether it has arrays in it: these wrap around."""
        parts = [_place(k) for k in (key if isinstance(key, tuple) else (key,))]
        used = [k.ndim if _is_mask(k) else 0 if k is None or k is Ellipsis else 1 for k in parts]
        masks = sum(map(_is_mask, parts))
        if masks:
            count(host_reads=masks)  # how many are true decides the shape of the result
        axis, advanced = 0, False
        for n, k in enumerate(parts):
            if k is Ellipsis:
                axis = self.ndim - sum(used[n + 1 :])
            if isinstance(k, np.ndarray):
                advanced = True
                if not _is_mask(k) and axis < self.ndim:
                    size = self.shape[axis]
                    if not size and k.size:
                        raise IndexError("cannot do a non-empty take from an empty axes.")
                    parts[n] = k % size if size else k
            axis += used[n]
        return (*parts, Ellipsis) if Ellipsis not in [k for k in parts if k is Ellipsis] else tuple(parts), advanced

    # ---- for NumPy's functions and pickle
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            if len(kwargs["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            (kwargs["out"],) = kwargs["out"]
        function = getattr(_namespace(), ufunc.__name__, None)
        if function is None:
            return NotImplemented
        if ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return (function if method == "__call__" else getattr(function, method))(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        names = func.__module__.split(".")[1:]
        function = functools.reduce(lambda at, name: getattr(at, name, None), [*names, func.__name__], _namespace())
        return NotImplemented if function is None else function(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _namespace().array, (self.get(order="A"),)


def _namespace() -> Any:
    from tensorlite.backends import standin

    return standin.xp


# ---- from and to the host's arrays, inside this package
def fresh(host: Any, dtype: Any = None, order: str = "C") -> ndarray:
    """New device memory with these numbers."""
    host = np.asarray(host)
    dtype = host.dtype if dtype is None else dtype
    template = np.empty_like(host, dtype, order)  # for its strides alone
    if template.flags.c_contiguous:
        made = ndarray(host.shape, dtype)
    else:
        made = ndarray(host.shape, dtype, strides=template.strides)
    with np.errstate(all="ignore"):
        np.copyto(made._host, host, casting="unsafe")
    return made


def viewed(x: ndarray, host: Any) -> ndarray:
    """A view of x's memory that looks as this NumPy view of it does (and may be written to)."""
    made = ndarray.__new__(ndarray)
    made._mem, made.base = x._mem, x if x.base is None else x.base
    start = 0
    if host.size:
        start = host.__array_interface__["data"][0] - x._mem.buffer.__array_interface__["data"][0]
    made._host = np.ndarray(host.shape, host.dtype, x._mem.buffer, start, host.strides)
    return made


def given(x: Any) -> Any:
    """What NumPy gets for an argument of a device function: the memory of an array, or a scalar as it is."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, (*SCALARS, np.generic)):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _uploaded(value: Any, dtype: Any = None) -> np.ndarray:
    if isinstance(value, (list, tuple)) and any(isinstance(v, ndarray) for v in value):
        return np.stack([given(v) for v in value]).astype(dtype or value[0].dtype)
    host = np.asarray(value)
    dtype_of(host.dtype)
    if host.ndim or isinstance(value, np.ndarray):
        count(uploads=1, bytes_up=host.nbytes)
    if dtype is None:
        return host
    return host.astype(dtype) if isinstance(value, (np.ndarray, np.generic)) else np.asarray(value, dtype)


def _is_mask(k: Any) -> bool:
    return isinstance(k, np.ndarray) and k.dtype == np.bool_


def _place(k: Any) -> Any:
    """One part of an index, for NumPy."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, ndarray):
        host = k._host
    elif np.isscalar(k) and not isinstance(k, (bool, np.bool_)):
        if isinstance(k, (int, np.integer)):
            return k
        raise IndexError(
            "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean arrays are "
            "valid indices"
        )
    else:
        host = _uploaded(k)
        if isinstance(k, (list, tuple)) and not host.size:
            host = host.astype(np.int32)
    if host.dtype.kind not in "biu":
        raise IndexError(f"arrays used as indices must be of integer or boolean type. (actual: {host.dtype.type})")
    return host
