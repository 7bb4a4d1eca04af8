"""Arrays on NVIDIA GPUs: CuPy, and our CUDA kernels (launch/). The one file that imports CuPy. Floor 1.

With ``TL_CUDA_EMULATION=1`` a strict stand-in on NumPy memory takes CuPy's place, and kernels run in the emulator.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tensorlite import config
from tensorlite.backends import in_pinned_memory
from tensorlite.errors import DeviceError, OutOfMemoryError

WANTED = "wanted: python -m pip install 'tensorlite[cuda13]' (or cuda12, as `nvidia-smi` says), and an NVIDIA GPU"


@cache
def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(f"device 'cuda': CuPy could not be imported ({error}); {WANTED}") from error


def arrays() -> Any:
    """The array module: CuPy, or its stand-in."""
    if config.CUDA_EMULATION.value:
        from tensorlite.backends import standin

        return standin
    return _cupy()


def device_count() -> int:
    """How many GPUs there are; 0 without CuPy or a driver. The emulation plays one."""
    if config.CUDA_EMULATION.value:
        return 1
    try:
        return _cupy().cuda.runtime.getDeviceCount()
    except Exception:  # CuPy missing, no driver, a driver too old: each raises its own
        return 0


def current_device() -> int:
    """The index of the GPU that ``device="cuda"`` means now, in this thread."""
    return 0 if config.CUDA_EMULATION.value else _cupy().cuda.runtime.getDevice()


def check(index: int) -> None:
    """Raise unless there is a GPU of this index."""
    if config.CUDA_EMULATION.value:
        count = 1
    else:
        xp = _cupy()
        try:
            count = xp.cuda.runtime.getDeviceCount()
        except xp.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(f"device 'cuda': no GPU can be used ({error}); {WANTED}") from error
    if index >= count:
        raise DeviceError(f"device 'cuda:{index}': got index {index}; wanted one of the {count} GPUs of this machine")


class Cuda:
    """The backend of one GPU. Everything above this floor reaches arrays through these names alone."""

    KEPT = math.inf  # CuPy's pool keeps memory of every size

    def __init__(self, index: int):
        self.index = index

    @property
    def xp(self) -> Any:
        return arrays()

    def here(self) -> Any:
        """A context in which this is the current GPU."""
        return arrays().cuda.Device(self.index)

    def maker(self, shape: tuple, dtype: Any, strides: tuple | None = None) -> Callable[[], Any]:
        """A function that gives a new array. Strides, in bytes, leave no gaps."""
        dtype = np.dtype(dtype)
        if strides is None:
            return self._guarded(lambda: arrays().empty(shape, dtype))
        order = sorted(range(len(shape)), key=lambda d: -strides[d])
        lying = tuple(shape[d] for d in order)
        back = tuple(order.index(d) for d in range(len(shape)))
        return self._guarded(lambda: arrays().empty(lying, dtype).transpose(back))

    def _guarded(self, make: Callable) -> Callable:
        def made() -> Any:
            try:
                if current_device() == self.index:
                    return make()
                with self.here():
                    return make()
            except MemoryError as error:  # CuPy has freed its cached blocks and tried again by now
                raise _out_of_memory(error, self.index) from error

        return made

    def from_numpy(self, array: np.ndarray) -> Any:
        """A copy on the GPU."""
        with self.here():
            return arrays().asarray(array)

    def to_numpy(self, array: Any) -> np.ndarray:
        """A copy on the host, once all that was asked of the GPU is done; a fault that kernels noted is raised."""
        with self.here():
            copy = arrays().asnumpy(array)
        faults()
        return copy

    def number(self, value: Any, dtype: Any) -> Any:
        """A 0-d array of a number, filled by a kernel: no copy from the host."""
        with self.here():
            array = arrays().empty((), dtype)
            array.fill(_plain(value))
        return array

    def kernel(self, name: str) -> Callable | None:
        """The factory of a CUDA kernel, ``family.function``; None where it is turned off (``TL_KERNELS``)."""
        if config.KERNELS.value == "plain":
            return None
        family, _, function = name.partition(".")
        ours = getattr(importlib.import_module(f"tensorlite.backends.launch.{family}"), function, None)
        if config.KERNELS.value == "numba":
            from tensorlite.backends import numba_cuda

            if (other := numba_cuda.kernel(name)) is not None:  # it gives None for what Numba has no kernel of
                return self._on(lambda *given: other(*given) or (ours and ours(*given)))
        return None if ours is None else self._on(ours)

    def _on(self, factory: Callable) -> Callable:
        def made(*given: Any) -> Callable | None:
            with self.here():
                call = factory(*given)
            return None if call is None else self.quiet(call)

        return made

    def quiet(self, kernel: Callable) -> Callable:
        """``kernel`` with this GPU as the current one. (CuPy's arithmetic is silent.)"""
        if self.index == 0 and device_count() == 1:
            return kernel

        def there(*arrays: Any) -> Any:
            with self.here():
                return kernel(*arrays)

        return there

    def strided(self, array: Any, shape: tuple, strides: tuple) -> Any:
        """A view of ``array`` with these sizes and steps in bytes. The caller answers for its bounds."""
        return strided(array, shape, strides)

    def synchronize(self) -> None:
        """Wait until the GPU has done all that was asked of it; a fault that kernels noted is raised."""
        with self.here():
            arrays().cuda.runtime.deviceSynchronize()
        faults()


def _plain(value: Any) -> Any:
    """A number of Python's: CuPy's ``fill`` does not take a bfloat16 of NumPy's."""
    if isinstance(value, (bool, int, float)):
        return value
    return value.item() if value.dtype.kind in "biu" else float(value)


def strided(array: Any, shape: tuple, strides: tuple) -> Any:
    """A view of an array on a GPU. What CuPy makes of an address looks like its own master; a view of that does not."""
    return arrays().lib.stride_tricks.as_strided(array, shape, strides).view()


_flying: list = []  # (event, array) of copies that go on: the memory must not be used anew before they are done


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy of an array in pinned memory."""
    memory = arrays().cuda.alloc_pinned_memory(max(array.nbytes, 1))
    order = tuple(sorted(range(array.ndim), key=lambda d: (-array.strides[d], d)))
    lying = np.frombuffer(memory, array.dtype, array.size).reshape([array.shape[d] for d in order])
    copy = lying.transpose([order.index(d) for d in range(array.ndim)])
    copy[...] = array
    return copy


def _send(target: Any, source: np.ndarray) -> None:
    """Copy from pinned memory on the current stream, without waiting."""
    stream = arrays().cuda.get_current_stream()
    target.set(source, stream=stream)
    event = arrays().cuda.Event(disable_timing=True)
    event.record(stream)
    _flying[:] = [(e, a) for e, a in _flying if not e.done]
    _flying.append((event, source))


def put(target: Any, source: Any, wait: bool = True) -> None:
    """``target[...] = source`` where at least one is on a GPU. A single number goes up as an argument of a kernel."""
    gpu = on((source if isinstance(target, np.ndarray) else target).device.id)
    with gpu.here():
        if isinstance(target, np.ndarray):
            target[...] = gpu.to_numpy(source)
        elif not isinstance(source, np.ndarray):
            target[...] = source
        elif not source.ndim:
            target.fill(_plain(source[()]))
        elif (order := _order(target)) is None:
            target[...] = arrays().asarray(source)
        else:
            target, source = target.transpose(order), np.ascontiguousarray(source.transpose(order))
            _send(target, source) if not wait and in_pinned_memory(source) else target.set(source)


def _order(array: Any) -> tuple | None:
    """The order of dimensions in which an array lies in memory without gaps; None where it does not."""
    order = tuple(sorted(range(array.ndim), key=lambda d: (-array.strides[d], d)))
    return order if array.transpose(order).flags.c_contiguous else None


def _out_of_memory(error: Exception, index: int) -> OutOfMemoryError:
    pool = arrays().get_default_memory_pool()
    free, total = arrays().cuda.runtime.memGetInfo()
    return OutOfMemoryError(
        f"CUDA out of memory on cuda:{index}: {error}; tensors hold {pool.used_bytes():,} bytes, the cache "
        f"{pool.total_bytes() - pool.used_bytes():,}, {free:,} of {total:,} are free"
    )


@cache
def on(index: int) -> Cuda:
    """The backend of the GPU of this index."""
    return Cuda(index)


# ---- bad indices: kernels clamp and note the first one, the host raises when it next reads (device.cuh, ``fault``)
_faulty: dict = {}  # device -> [flag array, {code: message}]


def fault_flag(message: str, error: type = IndexError) -> tuple[Any, int]:
    """Where a kernel notes bad input, and the code it notes: (an array of four int64, code).

    ``message`` is what the error will say, with ``{index}`` and ``{size}``.
    """
    index = current_device()
    if index not in _faulty:
        _faulty[index] = [arrays().zeros(4, np.int64), []]
    flag, messages = _faulty[index]
    if (message, error) not in messages:
        messages.append((message, error))
    return flag, messages.index((message, error)) + 1


def faults() -> None:
    """Raise the error that a kernel noted on this GPU, if there is one."""
    noted = _faulty.get(current_device())
    if noted is None:
        return
    code, at, size, _ = (int(v) for v in arrays().asnumpy(noted[0]))
    if code:
        noted[0].fill(0)
        message, error = noted[1][code - 1]
        raise error(message.format(index=at, size=size))


def stream_pointer() -> int:
    """The current stream, for launches."""
    return arrays().cuda.get_current_stream().ptr


@cache
def _architecture(index: int) -> str:
    major, minor = divmod(int(_cupy().cuda.Device(index).compute_capability), 10)
    return f"{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


def architecture() -> str:
    """The architecture of the current GPU that kernels are compiled for: "80", "90a"."""
    return _architecture(current_device())


def is_built() -> bool:
    """Whether this package can use GPUs, if there are any: it always can."""
    return True


def __getattr__(name: str) -> Any:
    if name == "matmul":  # PyTorch's ``backends.cuda.matmul.allow_tf32``
        from tensorlite.backends import cublas

        return cublas.matmul
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _forget(_: Any = None) -> None:
    _faulty.clear()


config.CUDA_EMULATION.listeners.append(_forget)
