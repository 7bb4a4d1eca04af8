"""The safetensors format: a JSON header with names, dtypes, shapes and offsets, then the bytes. Floor 5.

The file is 8 bytes with the header's length, the header, and the tensors without gaps. Numbers are little-endian.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from tensorlite import dtypes
from tensorlite.errors import DataError

_CODES = {"F64": dtypes.float64, "F32": dtypes.float32, "F16": dtypes.float16, "BF16": dtypes.bfloat16,
          "I64": dtypes.int64, "I32": dtypes.int32, "I16": dtypes.int16, "I8": dtypes.int8, "U8": dtypes.uint8,
          "BOOL": dtypes.bool}
_CODE_OF = {d.np: code for code, d in _CODES.items()}
_HEADER_LIMIT = 100_000_000  # that of the format's own library


def raw(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, sharing its memory."""
    return array.reshape(-1).view(np.uint8)


def write(f: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write contiguous arrays and a table of strings."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # each begins at a multiple of its size
    at = 0
    for name in order:
        a = arrays[name]
        header[name] = {"dtype": _CODE_OF[a.dtype], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    f.write(struct.pack("<Q", len(text)))
    f.write(text)
    for name in order:
        if arrays[name].nbytes:
            f.write(raw(arrays[name]).data)


def read(f: BinaryIO, size: int, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and strings of a file of ``size`` bytes; a DataError that says what is wrong with ``name``."""

    def wrong(what: str) -> DataError:
        return DataError(f"load: {name}: {what}")

    start = f.read(8)
    if len(start) < 8:
        raise wrong(f"holds {size} bytes; too short for a safetensors file (empty or cut off?)")
    (length,) = struct.unpack("<Q", start)
    if length > _HEADER_LIMIT:
        raise wrong("is not a safetensors file: it does not begin with the length of a header")
    if length > size - 8:
        raise wrong(f"is cut off: its header has {length} bytes, and only {size - 8} are there (or it is not a "
                    "safetensors file)")
    try:
        header = json.loads(f.read(length))
        if not isinstance(header, dict):
            raise TypeError("no table")
        metadata = header.pop("__metadata__", {})
        entries = {k: (v["dtype"], tuple(v["shape"]), *v["data_offsets"]) for k, v in header.items()}
        if not all(isinstance(n, int) and n >= 0 for _, shape, a, b in entries.values() for n in (*shape, a, b)):
            raise ValueError("sizes that are no counts")
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise ValueError("metadata that is no text")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise wrong(f"has a damaged header, or is not a safetensors file ({type(error).__name__}: {error})") from None
    at = 0
    for tensor, (code, shape, begin, end) in sorted(entries.items(), key=lambda e: e[1][2:]):
        if code not in _CODES:
            raise wrong(f"tensor {tensor!r} has element type {code}; wanted one of {', '.join(_CODES)}")
        if begin != at or end - begin != math.prod(shape) * _CODES[code].itemsize:
            raise wrong(f"has a damaged header: tensor {tensor!r} of shape {list(shape)} and type {code} is said to "
                        f"lie at bytes {begin} to {end}")
        at = end
    there = size - 8 - length
    if at != there:
        raise wrong(f"is {'cut off' if there < at else 'too long'}: it holds {there} bytes of tensors; wanted {at}")
    arrays = {}
    for tensor, (code, shape, _, _) in sorted(entries.items(), key=lambda e: e[1][2]):
        arrays[tensor] = a = np.empty(shape, _CODES[code].np)
        if a.nbytes and f.readinto(raw(a).data) != a.nbytes:  # type: ignore[attr-defined]
            raise wrong(f"could not be read to its end: tensor {tensor!r}")
    return {tensor: arrays[tensor] for tensor in entries}, metadata
