"""Launching CUDA C++ kernels: one interface over a GPU (driver.py) and a CPU that plays one (emulator.py). Floor 1.

The text of the kernels is in kernels/cuda; the files beside this one are its host halves: they choose types, grids and
scratch memory, and list what they compile (``VARIANTS``), which the tests build for every architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tensorlite import config

ARCHITECTURES = ("80", "90a", "100", "120")
CTYPES = {
    "f4": "float",
    "f8": "double",
    "f2": "half_t",
    "bf2": "bf16_t",
    "i1": "signed char",
    "i2": "short",
    "i4": "int",
    "i8": "long long",
    "u1": "unsigned char",
    "b1": "bool",
}  # by dtype.short; half_t and bf16_t are device.cuh's


@dataclass(frozen=True)
class Needs:
    """What one kernel asks of a multiprocessor: threads a block, dynamic shared bytes, blocks that must fit at once."""

    block: int
    shared: int = 0
    blocks: int = 1


@dataclass(frozen=True)
class Variant:
    """One compilation of a file: its macros, its architectures, its kernels, whether they use tensor cores."""

    defines: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, Needs] = field(default_factory=dict)
    archs: tuple[str, ...] = ARCHITECTURES
    mma: bool = False
    text: str | None = None  # of a generated source; else the file of the family


def sources() -> Path:
    """The folder of the kernels' text: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent.parent
    installed = package / "_kernels" / "cuda"
    return installed if installed.is_dir() else package.parent / "kernels" / "cuda"


def engine() -> Any:
    """What runs kernels now: ``compile(name, text, defines)`` and ``function(compiled, name, ...)``."""
    if config.CUDA_EMULATION.value:
        from tensorlite.backends import emulator

        return emulator
    from tensorlite.backends import driver

    return driver


class Module:
    """One source text with its macros. Nothing is compiled before a kernel of it is launched."""

    def __init__(self, name: str, text: str, defines: tuple):
        self.name, self.text, self.defines = name, text, defines
        self._compiled: dict = {}  # engine -> what it made of the text
        self._kernels: dict = {}

    def kernel(self, name: str, types: str, *, shared: int = 0, cooperative: bool = False) -> Kernel:
        """The kernel ``name``, whose arguments are of these ``types``: one letter each.

        P pointer, i int, I unsigned, q long long, Q unsigned long long, f float, d double. ``shared`` is its dynamic
        shared memory in bytes; a cooperative launch has all its blocks on the device at once, or fails.
        """
        key = (name, types, shared, cooperative)
        if key not in self._kernels:
            self._kernels[key] = Kernel(self, *key)
        return self._kernels[key]

    def compiled(self, on: Any) -> Any:
        if on not in self._compiled:
            self._compiled[on] = on.compile(self.name, self.text, dict(self.defines))
        return self._compiled[on]


class Kernel:
    """A kernel to launch: ``kernel(grid, block, *arguments)``; arrays of the device, None (null pointer), numbers."""

    __slots__ = ("_functions", "cooperative", "module", "name", "shared", "types")

    def __init__(self, module: Module, name: str, types: str, shared: int, cooperative: bool):
        self.module, self.name, self.types, self.shared, self.cooperative = module, name, types, shared, cooperative
        self._functions: dict = {}

    def __call__(self, grid: tuple, block: tuple, *args: Any) -> None:
        on = engine()
        call = self._functions.get(on)
        if call is None:
            made = self.module.compiled(on)
            call = self._functions[on] = on.function(made, self.name, self.types, self.shared, self.cooperative)
        call(grid, block, args)


@cache
def _load(stem: str, defines: tuple) -> Module:
    return Module(stem, (sources() / f"{stem}.cu").read_text(encoding="utf-8"), defines)


@cache
def _load_text(name: str, text: str, defines: tuple) -> Module:
    return Module(name, text, defines)


def load(stem: str, **defines: Any) -> Module:
    """The kernels of ``kernels/cuda/<stem>.cu`` under these macros."""
    return _load(stem, tuple(sorted(defines.items())))


def load_text(name: str, text: str, **defines: Any) -> Module:
    """The kernels of a generated text, which may include the headers of kernels/cuda."""
    return _load_text(name, text, tuple(sorted(defines.items())))


def empty(shape: tuple, dtype: Any) -> Any:
    """Scratch memory on the current device."""
    from tensorlite.backends import cuda

    return cuda.arrays().empty(shape, dtype)


def zeros(shape: tuple, dtype: Any) -> Any:
    """Scratch memory of zeros on the current device."""
    from tensorlite.backends import cuda

    return cuda.arrays().zeros(shape, dtype)
