"""Objects from a worker to this process, their arrays through shared memory that has no name. Floor 5.

An object is pickled; the bytes of its arrays stay outside of the pickle, in an anonymous file in memory whose
descriptor goes through the pipe. The memory is gone with its last holder, however that ends, so nothing can be left
behind. The arrays that come out lie in it: they are not copied. Small objects, and all of them where there are no such
files (Linux has them), go through the pipe itself.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import struct
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import CPU
from tensorlite.errors import DeviceError, GradError

SHARES = hasattr(os, "memfd_create")

_ALIGN = 64
_HEAD = struct.Struct("<qqbq")  # epoch, number, kind, bytes in the shared file (0: they follow in the message)
_MOST_MAPPED = 128  # each map holds a descriptor, of which a process has some hundreds; beyond this arrays are copied
_mapped: weakref.WeakSet = weakref.WeakSet()


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


def send(pipe: Any, epoch: int, number: int, kind: int, pieces: list, inline: int) -> None:
    """Send what ``pack`` made. ``inline``: the most bytes that go through the pipe, which must have room for them."""
    size = 0
    for piece in pieces:
        size += _pad(size) + len(piece)
    if size <= inline or not SHARES:
        joined = bytearray(_HEAD.pack(epoch, number, kind, 0))
        for piece in pieces:
            joined += bytes(_pad(len(joined) - _HEAD.size))
            joined += piece
        pipe.send_bytes(joined)
        return
    fd = os.memfd_create("tensorlite batch")
    try:
        at = 0
        for piece in pieces:
            at += _pad(at)
            rest = memoryview(piece)
            while len(rest):
                done = os.pwrite(fd, rest, at)
                at, rest = at + done, rest[done:]
        os.ftruncate(fd, size)  # where the last piece is empty
        pipe.send_bytes(_HEAD.pack(epoch, number, kind, size))
        reduction.send_handle(pipe, fd, None)
    finally:
        os.close(fd)


def receive(pipe: Any) -> tuple[int, int, int, memoryview]:
    """(epoch, number, kind, data for ``unpack``). EOFError or OSError where the sender is gone."""
    message = pipe.recv_bytes()
    epoch, number, kind, size = _HEAD.unpack_from(message)
    if not size:
        return epoch, number, kind, memoryview(bytearray(message[_HEAD.size :]))  # writable, as the arrays shall be
    fd = reduction.recv_handle(pipe)
    try:
        if len(_mapped) >= _MOST_MAPPED:
            with open(fd, "rb", closefd=False) as file:
                data = bytearray(size)
                file.readinto(data)
                return epoch, number, kind, memoryview(data)
        shared = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        _mapped.add(shared)
        return epoch, number, kind, memoryview(shared)
    finally:
        os.close(fd)
