"""Objects from a worker to this process, their arrays through shared memory that has no name. Floor 5.

An object is pickled; the bytes of its arrays stay outside of the pickle, in an anonymous file in memory (a segment)
whose descriptor goes through the pipe. The memory is gone with its last holder, however that ends, so nothing can be
left behind. The arrays that come out lie in it: they are not copied. Once all of them are gone the worker is told, and
writes a later batch there: fresh memory costs ten times the copy. Small objects, and all of them where there are no
such files (Linux has them), go through the pipe itself.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import pickle
import struct
import weakref
from collections import deque
from multiprocessing import reduction
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import CPU
from tensorlite.errors import DeviceError, GradError

SHARES = hasattr(os, "memfd_create")

_ALIGN = 64
# epoch, number, kind; bytes in a segment (0: they follow in the message), its name, whether its descriptor follows
_HEAD = struct.Struct("<qqbqq?")
_MOST_LIVE = (
    128  # segments in use hold a descriptor each, of which a process has some hundreds; further ones are copied
)
_live: set[int] = set()  # one token for each segment that arrays lie in
_tokens = itertools.count()
_forks = 0  # of this process, so far


class _Pickler(pickle.Pickler):
    """Keeps the bytes of arrays outside, those of bfloat16 too, and refuses what has no place in a worker."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            if obj.device is not CPU:
                raise DeviceError(
                    f"DataLoader: a worker made a tensor on {obj.device}; wanted 'cpu' (move batches in the loop)"
                )
            if not obj.is_leaf:
                raise GradError("DataLoader: a worker made a tensor with a history; wanted tensor.detach()")
        elif type(obj) is np.ndarray and obj.dtype.kind == "V" and obj.dtype.names is None and obj.dtype.isbuiltin == 2:
            flat = np.ascontiguousarray(obj).reshape(-1).view(np.uint8)  # NumPy exports no buffer of these dtypes
            return _array, (pickle.PickleBuffer(flat), obj.dtype, obj.shape)
        return NotImplemented


def _array(data: Any, dtype: np.dtype, shape: tuple) -> np.ndarray:
    return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)


def _pad(n: int) -> int:
    return -n % _ALIGN


def pack(obj: Any) -> list:
    """Pieces of bytes: how long each of the others is, the pickle, the arrays' contents."""
    file = io.BytesIO()
    arrays: list[pickle.PickleBuffer] = []
    _Pickler(file, 5, buffer_callback=arrays.append).dump(obj)
    pieces: list[Any] = [file.getbuffer(), *(a.raw() for a in arrays)]
    return [struct.pack(f"<{len(pieces) + 1}q", len(pieces), *(len(p) for p in pieces)), *pieces]


def unpack(data: memoryview) -> Any:
    """The object, its arrays in ``data``."""
    (count,) = struct.unpack_from("<q", data)
    at, parts = 8 * (count + 1), []
    for length in struct.unpack_from(f"<{count}q", data, 8):
        at += _pad(at)
        parts.append(data[at : at + length])
        at += length
    return pickle.loads(parts[0], buffers=parts[1:])


class Sender:
    """A worker's end. ``inline``: the most bytes that go through the pipe, which must have room for them."""

    def __init__(self, pipe: Any, inline: int) -> None:
        self._pipe, self._inline = pipe, inline
        self._segments: list[_Segment | None] = []  # by name
        self._free: list[int] = []

    def released(self, names: list[int]) -> None:
        """These segments, told by ``Receiver.released``, are no longer in use."""
        for name in names:
            if name >= 0:
                self._free.append(name)
            else:
                self._segments[~name] = None

    def send(self, epoch: int, number: int, kind: int, pieces: list) -> None:
        """Send what ``pack`` made."""
        size, places = 0, []
        for piece in pieces:
            size += _pad(size)
            places.append(size)
            size += len(piece)
        if size <= self._inline or not SHARES:
            joined = bytearray(_HEAD.size + size)
            _HEAD.pack_into(joined, 0, epoch, number, kind, 0, 0, False)
            for at, piece in zip(places, pieces):
                joined[_HEAD.size + at : _HEAD.size + at + len(piece)] = piece
            self._pipe.send_bytes(joined)
            return
        if not self._free:
            self._free.append(len(self._segments))
            self._segments.append(_Segment())
        name = self._free.pop()
        segment = self._segments[name]
        assert segment is not None
        grown = segment.write(size, places, pieces)
        self._pipe.send_bytes(_HEAD.pack(epoch, number, kind, size, name, grown))
        if grown:
            reduction.send_handle(self._pipe, segment.fd, None)


class _Segment:
    """A file in memory without a name."""

    def __init__(self) -> None:
        self.fd, self._capacity, self._map = os.memfd_create("tensorlite batch"), 0, None

    def __del__(self) -> None:
        os.close(self.fd)

    def write(self, size: int, places: list[int], pieces: list) -> bool:
        """Put the pieces in their places; whether the segment had to grow for it."""
        if size <= self._capacity:
            self._map = self._map or mmap.mmap(self.fd, self._capacity)
            with memoryview(self._map) as view:
                for at, piece in zip(places, pieces):
                    view[at : at + len(piece)] = piece
            return False
        os.ftruncate(self.fd, size)
        for at, piece in zip(places, pieces):  # cheaper than mapping pages that are not there yet
            rest = memoryview(piece)
            while len(rest):
                done = os.pwrite(self.fd, rest, at)
                at, rest = at + done, rest[done:]
        self._capacity, self._map = size, None
        return True


class Receiver:
    """The end of the process that the batches are for."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._maps: dict[int, mmap.mmap] = {}
        self._released: deque[int] = deque()

    def receive(self) -> tuple[int, int, int, memoryview]:
        """(epoch, number, kind, data for ``unpack``). EOFError or OSError where the sender is gone."""
        message = self._pipe.recv_bytes()
        epoch, number, kind, size, name, grown = _HEAD.unpack_from(message)
        if not size:
            return epoch, number, kind, memoryview(bytearray(message[_HEAD.size :]))  # writable, as arrays shall be
        if grown:
            fd = reduction.recv_handle(self._pipe)
            try:
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
                self._maps[name] = mmap.mmap(fd, os.fstat(fd).st_size, flags=flags)
            finally:
                os.close(fd)
        holder = np.frombuffer(self._maps[name], np.uint8, size)  # every array in it keeps it alive
        if len(_live) >= _MOST_LIVE:
            self._released.append(name)
            return epoch, number, kind, memoryview(bytearray(holder))
        token = next(_tokens)
        _live.add(token)
        weakref.finalize(holder, _release, token, name, _forks, self._released).atexit = False
        return epoch, number, kind, memoryview(holder)

    def released(self) -> list[int]:
        """The segments that came free since the last call; those that nobody shall use again as ~name."""
        names = []
        while self._released:
            names.append(self._released.popleft())
            if names[-1] < 0:
                del self._maps[~names[-1]]
        return names


def _release(token: int, name: int, fork: int, released: deque[int]) -> None:
    _live.discard(token)
    # a process that was forked meanwhile may still read what lies there
    released.append(name if fork == _forks else ~name)


def _forked() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forked)
