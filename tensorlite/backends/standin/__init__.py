"""A strict stand-in of CuPy's array module on NumPy memory, for ``TL_CUDA_EMULATION=1``. Floor 1.

``xp`` has CuPy's names as far as they are needed, each with CuPy's signature and refusals: no array becomes a NumPy
array by itself, host and device arrays do not mix, reductions stay on the device, new memory is full of NaN. What
crosses between host and device is counted: ``with watch() as seen: ...; assert not seen.crossings``.
"""

import importlib
from typing import Any

import numpy as np

from tensorlite.backends.standin import driver
from tensorlite.backends.standin.arrays import ndarray as ndarray
from tensorlite.backends.standin.functions import NAMES, as_strided
from tensorlite.backends.standin.memory import (
    Counts as Counts,
    Memory as Memory,
    MemoryPointer as MemoryPointer,
    counts as counts,
    reset as reset,
    watch as watch,
)
from tensorlite.backends.standin.ufuncs import UFUNCS, ufunc

# Types and constants: NumPy's own objects, in CuPy too.
PLAIN = """
bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 intp dtype finfo iinfo newaxis pi e inf
nan broadcast_shapes
"""


class Module:
    """What stands in CuPy's place. A name that is missing here is an error, never NumPy's."""

    def __init__(self, path: str, names: dict[str, Any]):
        self.__dict__.update(names)
        self.__name__ = path

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stand-in of CuPy has no {self.__name__}.{name} ({_in_cupy(self.__name__, name)})")

    def __repr__(self) -> str:
        return f"<stand-in of the module {self.__name__!r}>"


def _in_cupy(path: str, name: str) -> str:
    import importlib.util

    if name.startswith("__") or importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed, so whether it has the name is not known"
    real = importlib.import_module(path)
    return "CuPy has it: add it to tensorlite/backends/standin" if hasattr(real, name) else "CuPy has none either"


xp = Module(
    "cupy",
    {
        **NAMES,
        **UFUNCS,
        **{name: getattr(np, name) for name in PLAIN.split()},
        "ndarray": ndarray,
        "ufunc": ufunc,
        "cuda": Module("cupy.cuda", driver.NAMES),
        "lib": Module("cupy.lib", {"stride_tricks": Module("cupy.lib.stride_tricks", {"as_strided": as_strided})}),
        "get_default_memory_pool": driver.get_default_memory_pool,
        "get_default_pinned_memory_pool": driver.get_default_pinned_memory_pool,
    },
)


def __getattr__(name: str) -> Any:
    """The module itself may stand for ``xp``."""
    return getattr(xp, name)
