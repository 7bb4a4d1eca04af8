"""A strict stand-in of CuPy's array module on NumPy memory, for ``TL_CUDA_EMULATION=1``. Floor 1.

``xp`` has CuPy's names as far as they are needed, each with CuPy's signature and refusals: no array becomes a NumPy
array by itself, host and device arrays do not mix, reductions stay on the device, new memory is full of NaN. What
crosses between host and device is counted: ``with watch() as seen: ...; assert not seen.crossings``.
"""

from typing import Any

import numpy as np

from tensorlite.backends.standin.array import ndarray as ndarray
from tensorlite.backends.standin.functions import NAMES
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
PLAIN = [
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "intp",
    "dtype",
    "finfo",
    "iinfo",
    "newaxis",
    "pi",
    "e",
    "inf",
    "nan",
    "broadcast_shapes",
]


class Module:
    """What stands in CuPy's place. A name that is missing here is an error, never NumPy's."""

    def __init__(self, names: dict[str, Any]):
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stand-in of CuPy has no {name!r} ({_in_cupy(name)})")

    def __repr__(self) -> str:
        return "<stand-in of the module 'cupy'>"


def _in_cupy(name: str) -> str:
    import importlib.util

    if name.startswith("__") or importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed, so whether it has the name is not known"
    import cupy

    return "CuPy has it: add it to tensorlite/backends/standin" if hasattr(cupy, name) else "CuPy has none either"


xp = Module({**NAMES, **UFUNCS, **{name: getattr(np, name) for name in PLAIN}, "ndarray": ndarray, "ufunc": ufunc})
