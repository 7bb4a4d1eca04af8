"""Memory of the stand-in device: aligned, poisoned, and every crossing between it and the host counted. Floor 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np

ALIGNMENT = 256  # bytes, as the driver's allocations
BLOCK = 512  # bytes: CuPy's pool rounds sizes up to multiples of this
POISON = {"f": 0xFF, "V": 0xFF, "b": 1}  # by kind of dtype; all bits set is NaN in every float (V: bfloat16)
INTEGER_POISON = 0xA5  # far out of every range of indices


@dataclass
class Counts:
    """What crossed between host and device, and what was allocated."""

    host_reads: int = 0  # values read: float(x), bool(x), x.item(), and what the host must know: sizes of nonzero, ...
    downloads: int = 0  # arrays copied to the host: x.get(), asnumpy, pickling, printing
    uploads: int = 0  # arrays copied to the device: asarray(numpy_array), x.set(...), index lists
    allocations: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    bytes_allocated: int = 0

    @property
    def crossings(self) -> int:
        """Host reads, downloads and uploads together: what may not happen inside a step."""
        return self.host_reads + self.downloads + self.uploads


counts = Counts()
live = [0]  # bytes that arrays hold now
_watching: list[Counts] = []


def count(**more: int) -> None:
    """Add to the counters of the process and of every open ``watch``."""
    for to in (counts, *_watching):
        for name, n in more.items():
            setattr(to, name, getattr(to, name) + n)


def reset() -> None:
    """Set the counters of the process to zero."""
    for f in fields(Counts):
        setattr(counts, f.name, 0)


@contextmanager
def watch() -> Iterator[Counts]:
    """Count what happens inside: ``with watch() as seen: ...; assert not seen.crossings``."""
    mine = Counts()
    _watching.append(mine)
    try:
        yield mine
    finally:
        _watching[:] = [w for w in _watching if w is not mine]


class Device:
    """The device that arrays say they are on."""

    __slots__ = ("id",)

    def __init__(self, id: int = 0):
        self.id = id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Memory:
    """One allocation. A size of 0 has no memory: its address is 0."""

    __slots__ = ("buffer", "ptr", "size")
    device_id = 0

    def __init__(self, size: int):
        room = np.empty(max(size, 1) + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        self.buffer = room[start : start + max(size, 1)]
        self.size = size
        self.ptr = self.buffer.ctypes.data if size else 0
        live[0] += self._held()

    def _held(self) -> int:
        return -(-self.size // BLOCK) * BLOCK

    def __del__(self) -> None:
        live[0] -= self._held()

    @property
    def device(self) -> Device:
        return Device(self.device_id)


class MemoryPointer:
    """A place in an allocation: ``ptr`` is its address, ``mem`` the allocation."""

    __slots__ = ("_offset", "mem")

    def __init__(self, mem: Memory, offset: int):
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return self.mem.ptr + self._offset

    @property
    def device_id(self) -> int:
        return self.mem.device_id

    @property
    def device(self) -> Device:
        return self.mem.device

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset


def allocate(size: int, kind: str) -> Memory:
    """Memory with the poison of dtypes of this ``kind`` in it."""
    memory = Memory(size)
    memory.buffer.fill(POISON.get(kind, INTEGER_POISON))
    count(allocations=1, bytes_allocated=size)
    return memory
