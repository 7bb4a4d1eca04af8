"""Files that are whole or not there at all. Floor 5."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

from tensorlite.errors import DataError


class MissingFileError(DataError, FileNotFoundError):
    """A file that is not there."""


@contextlib.contextmanager
def atomic(path: Any) -> Iterator[BinaryIO]:
    """A binary file to write that takes the place of ``path`` only once all of it is on the disk.

    It is written under another name in the same folder. Where the block raises, or the machine stops, ``path`` is as it
    was before.
    """
    target = os.path.realpath(os.fspath(path))  # through a link: what it points to is replaced, not the link
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise MissingFileError(f"save: {os.fspath(path)}: parent directory {folder} does not exist")
    if os.path.isdir(target):
        raise DataError(f"save: {os.fspath(path)}: is a folder; wanted the name of a file")
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        if os.path.exists(target):
            os.chmod(temporary, os.stat(target).st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # the rename itself, too
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
