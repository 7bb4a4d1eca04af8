"""The stand-in's ``cupy.cuda``: one device, whose work is done when a call returns; streams, events, pools. Floor 1."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

from tensorlite.backends.standin.memory import Device, Memory, MemoryPointer, live

_TOTAL = 1 << 34  # bytes that the played device says it has

_handles = itertools.count(16)
_current = threading.local()


class Stream:
    """A queue of work. All of it is done by the time that a call returns."""

    null: Stream
    done = True

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        self.ptr = 0 if null else next(_handles)
        self._before: list[Stream] = []

    def use(self) -> Stream:
        _current.stream = self
        return self

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        return self.use()

    def __exit__(self, *error: object) -> None:
        self._before.pop().use()

    def synchronize(self) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event


Stream.null = Stream(null=True)


def get_current_stream(device_id: int | None = None) -> Stream:
    return getattr(_current, "stream", Stream.null)


class Event:
    """A place in a stream, and a clock."""

    done = True

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self._timed, self._at = not disable_timing, 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two events."""
    if not (start_event._timed and end_event._timed):
        raise ValueError("get_elapsed_time: both events must be made with disable_timing=False")
    return (end_event._at - start_event._at) * 1e3


class MemoryPool:
    """What arrays hold. Nothing is kept when they die."""

    def used_bytes(self) -> int:
        return live[0]

    total_bytes = used_bytes

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass


class PinnedMemoryPointer(bytearray):
    """Memory of the host that is called pinned."""


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    return PinnedMemoryPointer(size)


class PinnedMemoryPool:
    """Nothing is kept."""

    def free_all_blocks(self) -> None:
        pass

    def n_free_blocks(self) -> int:
        return 0


_pool, _pinned = MemoryPool(), PinnedMemoryPool()


def get_default_memory_pool() -> MemoryPool:
    return _pool


def get_default_pinned_memory_pool() -> PinnedMemoryPool:
    return _pinned


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where a call of the runtime fails; here never."""


class runtime:
    """``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount() -> int:
        return 1

    @staticmethod
    def getDevice() -> int:
        return 0

    @staticmethod
    def setDevice(device: int) -> None:
        if device:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    @staticmethod
    def deviceSynchronize() -> None:
        pass

    @staticmethod
    def memGetInfo() -> tuple[int, int]:
        return _TOTAL - live[0], _TOTAL

    @staticmethod
    def getDeviceProperties(device: int) -> dict[str, Any]:
        return {
            "name": b"CPU (stand-in)",
            "major": 8,
            "minor": 0,
            "totalGlobalMem": _TOTAL,
            "multiProcessorCount": 1,
            "warpSize": 32,
        }


NAMES = {
    "Device": Device,
    "Event": Event,
    "Memory": Memory,
    "MemoryPointer": MemoryPointer,
    "MemoryPool": MemoryPool,
    "PinnedMemoryPointer": PinnedMemoryPointer,
    "PinnedMemoryPool": PinnedMemoryPool,
    "alloc_pinned_memory": alloc_pinned_memory,
    "Stream": Stream,
    "get_current_stream": get_current_stream,
    "get_elapsed_time": get_elapsed_time,
    "runtime": runtime,
}
