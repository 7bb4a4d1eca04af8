"""Numba-CUDA as the families here use it: one import, kernels of one signature, arrays as Numba takes them. Floor 1.

On a GPU kernels take anything with ``__cuda_array_interface__``; in the simulator (``NUMBA_ENABLE_CUDASIM=1``, set
before Python starts) NumPy arrays, and arrays of our stand-in, whose device memory is the CPU's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tensorlite import config
from tensorlite.errors import KernelError

TYPES = {
    "f4": "float32",
    "f8": "float64",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "b1": "boolean",
}  # by dtype.short; Numba's names
FLOATS = ("f4", "f8")
FUNCTIONS = ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tanh", "floor", "ceil", "trunc")
BLOCK = 256  # threads
SHAPES = 512  # launch configurations that a kernel keeps


@cache
def numba_cuda() -> Any:
    """The module numba.cuda of the package numba-cuda."""
    try:
        from numba import cuda
    except ImportError as error:
        raise KernelError(
            f"TL_KERNELS=numba: numba-cuda could not be imported ({error}); wanted: "
            "python -m pip install 'tensorlite[numba]'"
        ) from error
    if getattr(cuda, "implementation", None) != "NVIDIA":
        raise KernelError(
            "TL_KERNELS=numba: found the CUDA target inside numba, which is no longer kept up; wanted the package "
            "numba-cuda: python -m pip install 'tensorlite[numba]'"
        )
    return cuda


@cache
def simulated() -> bool:
    """Whether Numba plays the GPU on the CPU."""
    numba_cuda()
    from numba.cuda.core import config as numbas

    return bool(numbas.ENABLE_CUDASIM)


@cache
def maths(short: str) -> dict[str, Any]:
    """The functions and numbers that a kernel's text may name, for one element type."""
    kind = np.dtype(short).type
    names: dict[str, Any] = {"zero": kind(0), "one": kind(1)}
    if short in FLOATS:
        # a Python number in a formula would make float64 of float32
        names |= {"half": kind(0.5), "inf": kind(math.inf)}
    names["cuda"] = numba_cuda()
    names["erf"] = math.erf
    if simulated():  # math's functions raise where IEEE says inf or nan
        names |= {f: getattr(np, f) for f in FUNCTIONS} | dict(rint=np.rint, pow=np.power, atan2=np.arctan2)
    else:
        from numba.cuda import libdevice

        names |= {f: getattr(math, f) for f in FUNCTIONS} | dict(pow=math.pow, atan2=math.atan2)
        names["rint"] = libdevice.rintf if short == "f4" else libdevice.rint
    return names


# ---- kernels
class Kernel:
    """A function on the GPU, of one signature; compiled when first launched."""

    def __init__(self, body: Callable, types: str):
        self.body, self.name, self.signature = body, body.__name__, f"void({types})"
        self._compiled: Any = None
        self._ready: dict = {}  # by grid, block and stream

    def __call__(self, grid: tuple, block: tuple, *arguments: Any) -> None:
        """Launch on the stream of the last array, the one that is written. An empty grid does nothing."""
        if 0 in grid:
            return
        if self._compiled is None:
            self._compiled = numba_cuda().jit(self.signature)(self.body)
        if simulated():
            self._compiled[grid, block](*arguments)
            return
        last = [a for a in arguments if hasattr(a, "shape") and a.shape != ()][-1]
        stream = last.stream
        key = (grid, block, int(stream))
        if key not in self._ready:
            if len(self._ready) >= SHAPES:
                self._ready.clear()
            with warnings.catch_warnings():  # that a small grid leaves much of the GPU idle is no news here
                warnings.simplefilter("ignore")
                self._ready[key] = self._compiled[grid, block, stream]
        self._ready[key](*arguments)

    def ptx(self, cc: tuple[int, int]) -> str:
        """The kernel's assembly for a GPU of this compute capability; none need be there."""
        from numba.core.sigutils import normalize_signature

        return numba_cuda().compile_ptx(self.body, normalize_signature(self.signature)[0], cc=cc)[0]


def written(name: str, text: str, names: dict, types: str) -> Kernel:
    """The kernel ``name`` of a generated text."""
    space = dict(names)
    exec(compile(text, f"<tensorlite numba kernel {name}>", "exec"), space)
    return Kernel(space[name], types)


def array_type(short: str, ndim: int) -> str:
    """Numba's name of an array type of any strides."""
    return f"{TYPES[short]}[{','.join(':' * ndim)}]"


def line(n: int) -> tuple[tuple, tuple]:
    """Grid and block for n threads in a row."""
    block = min(BLOCK, -(-n // 32) * 32) or 32
    return (-(-n // block),), (block,)


def digits(number: str, sizes: list[str], names: list[str]) -> list[str]:
    """Lines that take a number apart into indices, of which the last runs fastest."""
    lines = []
    for size, name in reversed(list(zip(sizes, names))[1:]):
        lines += [f"{name} = {number} % {size}", f"{number} = {number} // {size}"]
    return [*lines, f"{names[0]} = {number}"] if names else lines


# ---- arrays
class _Memory:
    """CPU memory that an array of the stand-in names, as NumPy reads it."""

    def __init__(self, face: dict):
        self.__array_interface__ = {k: face[k] for k in ("shape", "typestr", "data", "strides") if k in face} | {
            "version": 3
        }


def on_device(array: Any, shape: tuple | None = None, strides: tuple | None = None) -> Any:
    """An array as Numba takes it: the same memory, with other sizes and steps in bytes where they are given."""
    if not simulated():
        if config.CUDA_EMULATION.value:
            raise KernelError(
                "TL_KERNELS=numba under TL_CUDA_EMULATION=1: got Numba for a GPU; wanted its simulator "
                "(NUMBA_ENABLE_CUDASIM=1, set before Python starts)"
            )
        face = array.__cuda_array_interface__
        if shape is not None:
            face = {**face, "shape": shape, "strides": strides}
        return numba_cuda().from_cuda_array_interface(face, owner=array, sync=False)
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    if not isinstance(array, np.ndarray):
        if not config.CUDA_EMULATION.value:
            raise KernelError(
                f"TL_KERNELS=numba: got {type(array).__name__} of a GPU in Numba's simulator; wanted NumPy arrays, or "
                "TL_CUDA_EMULATION=1, or no NUMBA_ENABLE_CUDASIM"
            )
        array = np.asarray(_Memory(array.__cuda_array_interface__))
    if shape is not None:
        array = np.lib.stride_tricks.as_strided(array, shape, strides)
    return FakeCUDAArray(array)


def empty(shape: tuple, dtype: Any) -> Any:
    """Scratch memory where the arrays are."""
    if simulated() and not config.CUDA_EMULATION.value:
        return np.empty(shape, dtype)
    from tensorlite.backends import launch

    return launch.empty(shape, dtype)


def steps(array: Any, shape: tuple) -> tuple:
    """The strides, in bytes, with which an array fills a shape that it broadcasts to."""
    ahead = len(shape) - len(array.shape)
    own = [0 if n == 1 else s for n, s in zip(array.shape, array.strides)]
    return (0,) * ahead + tuple(own)


def merged(shape: tuple, *strides: tuple) -> tuple[tuple, list[tuple]]:
    """The same elements in as few dimensions as all arrays allow: sizes, and the strides of each."""
    sizes: list[int] = []
    made: list[list[int]] = [[] for _ in strides]
    for k, n in enumerate(shape):
        if n == 1:
            continue
        if sizes and all(m[-1] == s[k] * n for m, s in zip(made, strides)):
            sizes[-1] *= n
            for m, s in zip(made, strides):
                m[-1] = s[k]
        else:
            sizes.append(n)
            for m, s in zip(made, strides):
                m.append(s[k])
    return tuple(sizes), [tuple(m) for m in made]
