"""``save`` and ``load``: tensors, state dicts and what goes with them, as safetensors. Floor 5."""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from tensorlite.backends import Device
from tensorlite.errors import DataError
from tensorlite.io import safetensors
from tensorlite.io.files import MissingFileError, atomic
from tensorlite.io.tree import Packer, Unpacker

_PICKLE = b"tensorlite pickle 1\n"
_TREE, _SUMS, _TREE_SUM = "tensorlite.tree", "tensorlite.crc32", "tensorlite.tree.crc32"


def save(obj: Any, f: Any, *, pickle: bool = False) -> None:
    """Write tensors, numbers, text, and lists, tuples and dicts of them to a file.

    The file is in the safetensors format, which many programs read: a state_dict keeps its names. How things are nested
    and checksums stand in its metadata. A file that is there already is replaced only once the new one is complete.

    Args:
        f: a path, or a file open for writing bytes.
        pickle: write any Python object instead. Such a file can run code when it is loaded, so ``load`` wants
            ``weights_only=False`` for it.

    Raises:
        TypeError: where something is none of these; its place is named.
        DataError: where the file cannot be written.

    >>> import io
    >>> import tensorlite as tl
    >>> file = io.BytesIO()
    >>> tl.save({"weight": tl.ones(2), "epoch": 3}, file)
    >>> _ = file.seek(0)
    >>> tl.load(file)
    {'weight': tensor([1., 1.]), 'epoch': 3}
    """
    if pickle:
        import pickle as pickles

        data = pickles.dumps(obj, protocol=4)

        def write(file: BinaryIO) -> None:
            file.write(_PICKLE + struct.pack("<IQ", zlib.crc32(data), len(data)))
            file.write(data)
    else:
        packer = Packer()
        tree = json.dumps(packer.pack(obj), separators=(",", ":"))
        sums = {name: _sum(name, a) for name, a in packer.arrays.items()}
        metadata = {"format": "pt", _TREE: tree, _SUMS: json.dumps(sums), _TREE_SUM: str(zlib.crc32(tree.encode()))}

        def write(file: BinaryIO) -> None:
            safetensors.write(file, packer.arrays, metadata)

    if hasattr(f, "write"):
        write(f)
        return
    try:
        with atomic(f) as file:
            write(file)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"save: {os.fspath(f)}: could not be written: {error.strerror or error}") from error


def load(f: Any, map_location: Any = None, *, weights_only: bool = True) -> Any:
    """Read what ``save`` wrote, or any safetensors file (as a dict of tensors).

    Args:
        f: a path, or a file open for reading bytes that can seek.
        map_location: the device to put tensors on; default the CPU.
        weights_only: refuse files that can run code. False also takes those of ``save(..., pickle=True)``: pass it for
            files that you trust.

    Raises:
        DataError: where the file is missing, cut off, altered or of another kind; it says which.
    """
    if hasattr(f, "read"):
        return _read(f, getattr(f, "name", "the file"), map_location, weights_only)
    name = os.fspath(f)
    try:
        with open(name, "rb") as file:
            return _read(file, name, map_location, weights_only)
    except FileNotFoundError:
        raise MissingFileError(f"load: {name}: no such file") from None
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"load: {name}: could not be read: {error.strerror or error}") from error


def _read(f: BinaryIO, name: Any, map_location: Any, weights_only: bool) -> Any:
    start = f.tell()
    size = f.seek(0, os.SEEK_END) - start
    f.seek(start)
    head = f.read(len(_PICKLE))
    if head == _PICKLE:
        return _unpickle(f, name, weights_only)
    if head[:4] == b"PK\x03\x04" or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DataError(
            f"load: {name}: is a pickle or a file of torch.save; wanted a safetensors file (pickles can "
            "run code when they are loaded)"
        )
    f.seek(start)
    arrays, metadata = safetensors.read(f, size, name)
    place = _placer(map_location)
    if not {_TREE, _SUMS, _TREE_SUM} & set(metadata):  # of another program
        unpacker = Unpacker(arrays, place)
        return {key: unpacker.tensor(key) for key in arrays}
    try:
        tree = metadata[_TREE]
        if int(metadata[_TREE_SUM]) != zlib.crc32(tree.encode()):
            raise DataError(f"load: {name}: was altered: how its parts are nested does not match its checksum")
        sums = json.loads(metadata[_SUMS])
        for key, a in arrays.items():
            if sums[key] != _sum(key, a):
                raise DataError(f"load: {name}: was altered: tensor {key!r} does not match its checksum")
        if lost := sorted(set(sums) - set(arrays)):
            raise DataError(f"load: {name}: was altered: tensor {lost[0]!r} is not there")
        return Unpacker(arrays, place).unpack(json.loads(tree))
    except DataError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"load: {name}: was altered: its metadata is damaged ({what})") from None


def _unpickle(f: BinaryIO, name: Any, weights_only: bool) -> Any:
    if weights_only:
        raise DataError(
            f"load: {name}: holds a pickle, which can run code when it is loaded; pass weights_only=False "
            "if you trust who wrote it"
        )
    head = f.read(12)
    crc, length = struct.unpack("<IQ", head) if len(head) == 12 else (0, 1)
    data = f.read()
    if len(data) != length or zlib.crc32(data) != crc:
        what = (
            "was altered: it does not match its checksum"
            if len(data) == length
            else f"is {'cut off' if len(data) < length else 'too long'}: it holds {len(data)} bytes; wanted {length}"
        )
        raise DataError(f"load: {name}: {what}")
    import pickle

    return pickle.loads(data)


def _sum(name: str, a: np.ndarray) -> int:
    """A checksum of a tensor: its bytes, and what says how to read them."""
    return zlib.crc32(safetensors.raw(a).data, zlib.crc32(f"{name} {a.dtype} {a.shape}".encode()))


def _placer(map_location: Any) -> Any:
    if map_location is None:
        return lambda t: t
    if not isinstance(map_location, (str, Device)):
        raise TypeError(f"load: map_location is {type(map_location).__name__}; wanted a device, such as 'cpu', or None")
    device = Device(map_location)
    return lambda t: t.to(device)


__all__ = ["atomic", "load", "save"]
