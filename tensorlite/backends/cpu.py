"""Arrays on the CPU: NumPy, and our compiled kernels where the extension was built. Floor 1."""

import contextvars
import importlib
import math
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from tensorlite import config

xp = np
KEPT = 1 << 15  # bytes: larger arrays come from memory that is kept when arrays die (kernels/cpu/memory.cpp)

# IEEE arithmetic is silent in tensorlite, as in PyTorch: inf and nan are values. NumPy would warn of them, so plain
# kernels run inside a context whose error state is "ignore" (compiled ones have no such check).
_SILENT = contextvars.copy_context()
_SILENT.run(np.seterr, all="ignore")


def maker(shape: tuple, dtype: Any, strides: tuple | None = None) -> Callable[[], np.ndarray]:
    """A function that gives a new array, its numbers whatever the memory held. Strides, in bytes, leave no gaps."""
    make = partial(np.empty, shape, dtype) if strides is None else partial(np.ndarray, shape, dtype, strides=strides)
    if math.prod(shape) * np.dtype(dtype).itemsize < KEPT:
        return make
    extension()  # which sets the allocator when it is loaded
    copy = _SILENT.copy  # in this context alone, so that a user's arrays stay NumPy's
    return lambda: copy().run(make)


def quiet(kernel: Callable) -> Callable:
    """``kernel`` under ``np.errstate(all="ignore")``, at a seventh of the cost of entering one.

    The context is copied for each call (60 ns), so that threads and nested calls never meet in one.
    """
    copy = _SILENT.copy

    def silent(*arrays):
        return copy().run(kernel, *arrays)

    return silent


def strided(array: np.ndarray, shape: tuple, strides: tuple) -> np.ndarray:
    """A view of ``array`` with these sizes and steps in bytes. The caller answers for its bounds."""
    if array.flags.c_contiguous and array.flags.writeable and array.size and array.dtype.kind != "V":
        return np.ndarray(shape, array.dtype, array, 0, strides)  # a tenth of the cost of as_strided
    return np.lib.stride_tricks.as_strided(array, shape, strides)


def from_numpy(array: np.ndarray) -> np.ndarray:
    return array


def to_numpy(array: np.ndarray) -> np.ndarray:
    return array


def number(value: Any, dtype: Any) -> np.ndarray:
    return np.asarray(value, dtype)


def synchronize() -> None:
    """Nothing runs behind our back on a CPU."""


_extension: Any = None


def extension() -> Any:
    """The compiled kernels, or None where they were not built or are turned off (``TL_KERNELS=plain``)."""
    global _extension
    if config.KERNELS.value == "plain":
        return None
    if _extension is None:
        try:
            _extension = importlib.import_module("tensorlite._native")
            _follow_isa(config.ISA.value)
            _follow_winograd(config.WINOGRAD.value)
            _keep_memory(config.CACHE.value)
            _SILENT.run(_extension._keep_memory)
        except ImportError as error:
            _extension = False
            if config.DEBUG.value:
                print(f"tensorlite: no compiled CPU kernels ({error}); NumPy does the work")
    return _extension or None


_ISAS = ("baseline", "avx2", "avx512")


def _follow_isa(name: str) -> None:
    if _extension:
        _extension._set_isa(len(_ISAS) - 1 if name == "best" else _ISAS.index(name))


config.ISA.listeners.append(_follow_isa)


def _follow_winograd(on: int) -> None:
    if _extension:
        _extension._set_winograd(bool(on))


config.WINOGRAD.listeners.append(_follow_winograd)


def _keep_memory(on: int) -> None:
    if _extension:
        _extension._limit_memory(-1 if on else 0)


config.CACHE.listeners.append(_keep_memory)


def memory_kept() -> int:
    """Bytes of dead arrays that are kept for the next ones: at most an eighth of the machine's memory."""
    return _extension._memory_kept() if _extension else 0


def empty_cache() -> None:
    """Give the memory of dead arrays back to the system."""
    if _extension:
        _extension._give_back_memory()


def isa() -> str:
    """The instruction set that compiled kernels use, or "none" without them."""
    return _ISAS[extension()._isa()] if extension() else "none"


def get_num_threads() -> int:
    """How many threads compiled kernels use (NumPy's BLAS counts its own); 1 without them."""
    return extension()._threads() if extension() else 1


def set_num_threads(n: int) -> None:
    """Let compiled kernels and NumPy's OpenBLAS use n threads; ``OMP_NUM_THREADS`` gives the start.

    What compiled kernels give has the same bits for any n.
    """
    if not isinstance(n, int) or n < 1:
        raise RuntimeError(f"set_num_threads: got {n!r}; expects a positive integer")
    if extension():
        extension()._set_threads(n)
    if (call := _openblas("set_num_threads")) is not None:
        call(n)


@lru_cache
def _openblas(function: str) -> Any:
    """A function of the OpenBLAS that NumPy's wheels bring along; None where NumPy stands on another library."""
    import ctypes

    from numpy._core import _multiarray_umath

    library = ctypes.CDLL(_multiarray_umath.__file__)  # symbols of what it was linked with are found too
    for name in (f"scipy_openblas_{function}64_", f"scipy_openblas_{function}", f"openblas_{function}"):
        if hasattr(library, name):
            return getattr(library, name)
    return None


def kernel(name: str) -> Callable | None:
    """The compiled kernel of this name, or None."""
    return getattr(extension(), name, None)


def kernel_names() -> list[str]:
    """The compiled kernels at hand, sorted."""
    return sorted(n for n in dir(extension()) if not n.startswith("_")) if extension() else []


def cores() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
