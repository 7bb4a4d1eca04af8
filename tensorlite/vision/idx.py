"""IDX, the file format of MNIST: two zero bytes, a type, a number of dimensions, the sizes, the values. Floor 5."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np

from tensorlite.errors import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """The array in an IDX file, plain or packed by gzip (told by its first bytes, not by its name).

    Raises:
        DataError: a file that is missing, broken, cut off or not IDX; the message names the file and the offset
            (within the unpacked data) at which it went wrong.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as file:
                return _read(path, file)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; wanted an IDX file that can be read") from error


def _read(path: Path, file: io.BufferedIOBase) -> np.ndarray:
    head = _take(path, file, 0, 4, "the header")
    if head[:2] != b"\0\0" or head[2] not in TYPES:
        raise DataError(
            f"{path}: offset 0: got {head.hex(' ')}; wanted an IDX header: 00 00, a type from "
            f"{min(TYPES):02x} to {max(TYPES):02x}, a number of dimensions"
        )
    sizes = np.frombuffer(_take(path, file, 4, 4 * head[3], "the sizes"), ">u4").tolist()
    dtype, start = np.dtype(TYPES[head[2]]), 4 + 4 * head[3]
    values = _take(path, file, start, math.prod(sizes) * dtype.itemsize, f"values of shape {tuple(sizes)}")
    end = start + len(values)
    if _take(path, file, end, 1, "", partly=True):
        raise DataError(f"{path}: offset {end}: more bytes follow; wanted the end after values of shape {tuple(sizes)}")
    array: np.ndarray = np.frombuffer(values, dtype).astype(dtype.newbyteorder("=")).reshape(sizes)
    return array


def _take(path: Path, file: io.BufferedIOBase, start: int, count: int, what: str, partly: bool = False) -> bytearray:
    """``count`` bytes, read in pieces: a broken header must not make us ask for memory that its file cannot fill."""
    got = bytearray()
    while len(got) < count:
        try:
            piece = file.read(min(count - len(got), 1 << 20))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{path}: offset {start + len(got)}: broken gzip data ({error}); wanted {what or 'the end'}"
            ) from error
        if not piece:
            if partly:
                break
            raise DataError(
                f"{path}: offset {start + len(got)}: the file ends; wanted {count} bytes of {what} from offset {start}"
            )
        got += piece
    return got
