"""CUDA kernels on a GPU: cubins loaded and launched through NVIDIA's driver. Floor 1.

backends/cuda.py makes a context current and says which stream and architecture hold; this file keeps neither.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from tensorlite.backends import nvrtc
from tensorlite.errors import DeviceError, KernelError

KINDS = {
    "P": "an array of the device or None",
    "i": "an int of 32 bits",
    "I": "an unsigned int of 32 bits",
    "q": "an int of 64 bits",
    "Q": "an unsigned int of 64 bits",
    "f": "a float",
    "d": "a float",
}
NO_DEVICE = {  # of CUresult: what is wrong with the machine, not with a kernel
    "CUDA_ERROR_NOT_INITIALIZED",
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_INVALID_DEVICE",
    "CUDA_ERROR_INVALID_CONTEXT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    "CUDA_ERROR_STUB_LIBRARY",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
}
ASKS_TOO_MUCH = {
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
    "CUDA_ERROR_INVALID_VALUE",
}
EARLIER = {  # the first call after a kernel went wrong hears of it
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
}


@cache
def api() -> Any:
    """``cuda.bindings.driver``; else a DeviceError that says what to install."""
    try:
        from cuda.bindings import driver
    except ImportError as why:
        raise DeviceError(f"cuda: cuda.bindings is missing ({why}); {nvrtc.INSTALL}") from None
    return driver


class Loaded:
    """A cubin in the driver, which gives each context its own copy when it is needed there."""

    def __init__(self, name: str, cubin: nvrtc.Cubin):
        self.name, self.cubin = name, cubin
        status, self.library = api().cuLibraryLoadData(cubin.image, [], [], 0, [], [], 0)
        _check(status, f"{name}: loading its {len(cubin.image)} bytes of machine code")


def compile(name: str, text: str, defines: dict[str, Any]) -> Loaded:
    """A text, compiled for the current device and loaded."""
    from tensorlite.backends import cuda

    return Loaded(name, nvrtc.compile(name, text, defines, cuda.architecture()))


def function(compiled: Loaded, name: str, types: str, shared: int, cooperative: bool) -> Callable:
    """``call(grid, block, args)``, which launches the kernel ``name`` on the current stream."""
    from tensorlite.backends.cuda import stream_pointer

    driver, where = api(), f"{compiled.name}.{name}"
    usage = compiled.cubin.kernels.get(name)
    if usage is None:
        raise KernelError(f"{where}: no such kernel; wanted one of {', '.join(sorted(compiled.cubin.kernels))}")
    handle = _handle(compiled, name, types)
    allowed = {_allow(handle, where, usage, shared)} if shared else set()  # devices with that much shared memory
    pack, new, free = struct.Struct("@" + types).pack_into, _Room.of(types), []
    pointers = tuple(k for k, kind in enumerate(types) if kind == "P")
    launch = driver.cuLaunchCooperativeKernel if cooperative else driver.cuLaunchKernel
    more = () if cooperative else (0,)
    done = driver.CUresult.CUDA_SUCCESS

    def call(grid: tuple, block: tuple, args: tuple) -> None:
        # A room of its own for each launch under way: the driver copies the arguments, but without Python's lock.
        stream = stream_pointer()
        room = free.pop() if free else new()
        try:
            values = list(args)
            for k in pointers:
                array = values[k]
                values[k] = 0 if array is None else array.data.ptr
            pack(room.bytes, 0, *values)
            if len(grid) != 3:
                grid = (*grid, 1) if len(grid) == 2 else (*grid, 1, 1)
            if len(block) != 3:
                block = (*block, 1) if len(block) == 2 else (*block, 1, 1)
            x, y, z = grid
            if not (x and y and z):
                return  # no blocks, nothing to do; the driver would refuse
            status = launch(handle, x, y, z, *block, shared, stream, room.addresses, *more)[0]
        except (struct.error, AttributeError, IndexError, TypeError, ValueError, OverflowError) as why:
            raise _refusal(where, types, grid, block, args, why) from None
        finally:
            free.append(room)
        if status is not done:
            if shared and (device := _device(where)) not in allowed:  # another GPU than that of the first launch
                allowed.add(device)
                _allow(handle, where, usage, shared)
                return call(grid, block, args)
            _check(status, f"{where}: grid {grid}, block {block}", usage, shared)

    return call


class _Room:
    """The arguments of one launch as C lays them out, and the table of their addresses that the driver wants."""

    __slots__ = ("addresses", "bytes", "table")

    @classmethod
    def of(cls, types: str) -> Callable[[], _Room]:
        ends = [struct.calcsize("@" + types[: k + 1]) for k in range(len(types))]
        starts = [end - struct.calcsize(kind) for end, kind in zip(ends, types)]

        def new() -> _Room:
            room = cls()
            room.bytes = (ctypes.c_double * (ends[-1] // 8 + 1 if ends else 1))()  # of doubles: aligned for all
            base = ctypes.addressof(room.bytes)
            room.table = (ctypes.c_void_p * max(1, len(starts)))(*(base + start for start in starts))
            room.addresses = ctypes.addressof(room.table)
            return room

        return new


def _handle(compiled: Loaded, name: str, types: str) -> Any:
    """The kernel as the driver's calls take it, its arguments checked."""
    driver, where = api(), f"{compiled.name}.{name}"
    unknown = set(types) - set(KINDS)
    if unknown:
        raise KernelError(f"{where}: types {types!r}; wanted letters of {''.join(KINDS)}")
    status, kernel = driver.cuLibraryGetKernel(compiled.library, name.encode())
    _check(status, f"{where}: looking the kernel up")
    _check_sizes(kernel, where, types)
    return driver.CUfunction(int(kernel))


def _device(where: str) -> int:
    status, device = api().cuCtxGetDevice()
    _check(status, f"{where}: asking for the device")
    return int(device)


def _allow(handle: Any, where: str, usage: nvrtc.Usage, shared: int) -> int:
    """Let a kernel have this much dynamic shared memory on the current device, whose number is returned."""
    driver, device = api(), _device(where)
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (status,) = driver.cuKernelSetAttribute(limit, shared, driver.CUkernel(int(handle)), driver.CUdevice(device))
    _check(status, f"{where}: {shared} bytes of dynamic shared memory a block", usage, shared)
    return device


def _check_sizes(kernel: Any, where: str, types: str) -> None:
    """Refuse types of other sizes than the kernel's own arguments; drivers before CUDA 12.4 cannot say those."""
    driver = api()
    sizes = []
    for k in range(len(types) + 1):
        try:
            status, _, size = driver.cuKernelGetParamInfo(kernel, k)
        except RuntimeError:
            return
        if status != driver.CUresult.CUDA_SUCCESS:
            break
        sizes.append(size)
    if status == driver.CUresult.CUDA_ERROR_NOT_FOUND:
        return
    given = [struct.calcsize(kind) for kind in types]
    if sizes != given:
        raise KernelError(f"{where}: types {types!r} of {given} bytes; wanted the kernel's own {sizes}")


# ---- what went wrong
def _refusal(where: str, types: str, grid: Any, block: Any, args: tuple, why: Exception) -> KernelError:
    """An error that names the argument which does not fit its type."""
    if len(args) != len(types):
        return KernelError(f"{where}: got {len(args)} arguments; wanted {len(types)}, {types!r}")
    for k, (kind, value) in enumerate(zip(types, args)):
        try:
            number = value if kind != "P" else 0 if value is None else value.data.ptr
            struct.pack("@" + kind, number)
        except (struct.error, AttributeError, TypeError, ValueError, OverflowError):
            shown = repr(value) if isinstance(value, (int, float)) else type(value).__name__
            return KernelError(f"{where}: argument {k} is {shown}; wanted {KINDS[kind]} ({kind!r} of {types!r})")
    return KernelError(f"{where}: grid {grid}, block {block} ({why}); wanted tuples of 1 to 3 ints")


def _check(status: Any, doing: str, usage: nvrtc.Usage | None = None, shared: int = 0) -> None:
    """Raise what the driver complains of: DeviceError where no kernel is to blame, else KernelError."""
    driver = api()
    if status == driver.CUresult.CUDA_SUCCESS:
        return
    name = driver.CUresult(status).name
    text = driver.cuGetErrorString(status)[1]
    message = f"{doing}: {text.decode() if text else 'the driver refuses'} ({name})"
    if name in NO_DEVICE:
        raise DeviceError(message)
    if usage is not None and name in ASKS_TOO_MUCH:
        message += (
            f"; it takes {usage.registers} registers a thread and {usage.shared} + {shared} bytes of shared memory a "
            "block (static + dynamic)"
        )
    if name in EARLIER:
        message += "; a kernel that was launched before may be the one that failed"
    raise KernelError(message)
