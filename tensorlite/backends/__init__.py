"""Where arrays live: the names of devices and the short contract that each must meet. Floor 1."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tensorlite import config
from tensorlite.backends import cudnn as cudnn, mps as mps
from tensorlite.errors import DeviceError


class Device:
    """A place for arrays, such as ``device("cpu")``. Equal devices are one object.

    >>> Device("cpu")
    device(type='cpu')
    """

    __slots__ = ("index", "type")
    _known: dict = {}

    type: str
    index: int | None

    def __new__(cls, type: Any = "cpu", index: int | None = None):
        if isinstance(type, Device):
            return type
        if not isinstance(type, str):
            raise TypeError(f"device: got {type!r}; wanted a name such as 'cpu' or 'cuda:0'")
        kind, _, number = type.partition(":")
        if number:
            if index is not None or not number.isdigit():
                raise DeviceError(f"device: got {type!r}; wanted a name such as 'cpu' or 'cuda:0'")
            index = int(number)
        if kind not in ("cpu", "cuda"):
            raise DeviceError(f"device: got {type!r}; wanted 'cpu' or 'cuda'")
        key = (kind, index if kind == "cuda" else None)
        found = cls._known.get(key)
        if found is None:
            found = object.__new__(cls)
            found.type, found.index = key
            cls._known[key] = found
        return found

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}')" if self.index is None else f"device(type='{self.type}', index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __reduce__(self):
        return (Device, (str(self),))


CPU = Device("cpu")


class Backend(Protocol):
    """What a device must offer. Everything above this floor reaches arrays through these names alone."""

    xp: Any  # the array module: numpy, cupy
    KEPT: float  # bytes from which on the memory of arrays is kept

    def maker(self, shape: tuple, dtype: Any, strides: tuple | None = None) -> Callable[[], Any]: ...

    def from_numpy(self, array: Any) -> Any: ...

    def to_numpy(self, array: Any) -> Any: ...

    def number(self, value: Any, dtype: Any) -> Any: ...

    def kernel(self, name: str) -> Callable | None: ...

    def strided(self, array: Any, shape: tuple, strides: tuple) -> Any: ...

    def quiet(self, kernel: Callable) -> Callable: ...

    def synchronize(self) -> None: ...


def backend(device: Device) -> Backend:
    """The backend that holds this device's arrays; an error that says what is missing where there is none."""
    if device is CPU:
        from tensorlite.backends import cpu

        return cpu
    from tensorlite.backends import cuda

    return cuda.on(located(device).index)  # type: ignore[arg-type]


_there: dict = {}  # devices that were found to be there


def located(device: Any) -> Device:
    """The device that a name means now: ``"cuda"`` is the current GPU. Raises where there is none of that kind."""
    if device is None or device is CPU:
        return CPU
    device = Device(device)
    if device is CPU:
        return CPU
    from tensorlite.backends import cuda

    if device not in _there:
        cuda.check(device.index or 0)
        if device.index is not None:
            _there[device] = True
    return Device("cuda", cuda.current_device()) if device.index is None else device


def put(target: Any, source: Any, wait: bool = True) -> None:
    """``target[...] = source`` between devices; without ``wait``, copies from pinned memory may go on afterwards."""
    if isinstance(target, np.ndarray) and isinstance(source, np.ndarray):
        target[...] = source
        return
    from tensorlite.backends import cuda

    cuda.put(target, source, wait)


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy in memory that a GPU reads by itself. Raises where there is none."""
    from tensorlite.backends import cuda

    cuda.check(0)
    return cuda.pinned(array)


def in_pinned_memory(array: np.ndarray) -> bool:
    """Whether an array is, or is a view of, such a copy."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    owner = base.obj if isinstance(base, memoryview) else base
    return type(owner).__name__ == "PinnedMemoryPointer"


def get_float32_matmul_precision() -> str:
    """How exactly a GPU multiplies float32 matrices: "highest" (float32), "high" or "medium" (TF32)."""
    from tensorlite.backends import cublas

    return cublas.matmul_precision()


def set_float32_matmul_precision(precision: str) -> None:
    """Let a GPU multiply float32 matrices in float32 ("highest", the default) or in TF32 ("high", "medium")."""
    from tensorlite.backends import cublas

    cublas.set_matmul_precision(precision)


def __getattr__(name: str) -> Any:
    if name == "cuda":  # loaded when first asked for
        return importlib.import_module("tensorlite.backends.cuda")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


config.CUDA_EMULATION.listeners.append(lambda _: _there.clear())


def array_module(array: Any) -> Any:
    """NumPy, CuPy: the module of an array."""
    if isinstance(array, np.ndarray):
        return np
    from tensorlite.backends import cuda

    return cuda.arrays()


def overlap(a: Any, b: Any) -> bool:
    """Whether the memory of two arrays may overlap, by the ranges of their addresses."""
    both = isinstance(a, np.ndarray) + isinstance(b, np.ndarray)
    if both:
        return both == 2 and np.may_share_memory(a, b)
    return array_module(a).may_share_memory(a, b)


def strided(array: Any, shape: tuple, strides: tuple) -> Any:
    """A view of an array of any backend with these sizes and steps in bytes."""
    if isinstance(array, np.ndarray):
        from tensorlite.backends import cpu

        return cpu.strided(array, shape, strides)
    from tensorlite.backends import cuda

    return cuda.strided(array, shape, strides)
