"""The safetensors format through the library of that name: arrays (bfloat16 too) and a table of strings. Floor 5.

The library reads and writes; what is here maps element types to ours, and its errors to sentences that name the file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from tensorlite import dtypes
from tensorlite.errors import DataError

_CODES = {
    "F64": dtypes.float64,
    "F32": dtypes.float32,
    "F16": dtypes.float16,
    "BF16": dtypes.bfloat16,
    "I64": dtypes.int64,
    "I32": dtypes.int32,
    "I16": dtypes.int16,
    "I8": dtypes.int8,
    "U8": dtypes.uint8,
    "BOOL": dtypes.bool,
}


def raw(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, sharing its memory."""
    return array.reshape(-1).view(np.uint8)


def write(f: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write contiguous arrays and a table of strings; the same ones give the same bytes."""
    from safetensors.numpy import save

    data = save(dict(arrays), dict(metadata) or None)
    # the library writes the table in an order that differs from process to process
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    f.write(struct.pack("<Q", len(text)) + text)
    f.write(memoryview(data)[8 + length :])


def read(f: BinaryIO, size: int, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and strings of a file of ``size`` bytes; a DataError that says what is wrong with ``name``."""
    from safetensors import SafetensorError, deserialize

    def wrong(what: str) -> DataError:
        return DataError(f"load: {name}: {what}")

    data = f.read(size)
    if len(data) < 8:
        raise wrong(f"holds {len(data)} bytes; too short for a safetensors file (empty or cut off?)")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise wrong(
            f"is cut off: its header has {length} bytes, and only {len(data) - 8} are there (or it is not a "
            "safetensors file)"
        )
    there = len(data) - 8 - length
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        wanted = max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        if wanted != there:
            how = "cut off" if there < wanted else "too long"
            raise wrong(f"is {how}, or its header is damaged: it holds {there} bytes of tensors; wanted {wanted}")
        found = deserialize(data)
    except DataError:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise wrong(f"has a damaged header, or is not a safetensors file ({error})") from None
    arrays = {}
    for tensor, view in found:
        if view["dtype"] not in _CODES:
            raise wrong(f"tensor {tensor!r} has element type {view['dtype']}; wanted one of {', '.join(_CODES)}")
        # a copy: the bytes that the library hands out are read-only
        arrays[tensor] = np.frombuffer(view["data"], _CODES[view["dtype"]].np).reshape(view["shape"]).copy()
    return {tensor: arrays[tensor] for tensor in header if tensor in arrays}, header.get("__metadata__", {})
