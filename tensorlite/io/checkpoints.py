"""A folder of training checkpoints, of which the newest whole one counts. Floor 5."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from tensorlite.errors import DataError

_NAME = re.compile(r"step-(\d{10})\.safetensors")
_REST = re.compile(r"\.step-\d{10}\.safetensors\.\w+\.tmp")  # what a write that was killed leaves behind


class Checkpoints:
    """Checkpoints named by step in one folder, the last few of them kept.

    Each is written whole under another name, synced and renamed, and carries checksums; one that is damaged all the
    same is refused when read, and the one before it takes its place.

    Args:
        folder: made with the first checkpoint, if need be.
        keep: how many to keep.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = Checkpoints(folder)
    ...     for step in (10, 20, 30):
    ...         path = kept.save(step, {"step": step})
    ...     print([p.name for p in kept.paths()], kept.load()[1])
    ['step-0000000030.safetensors', 'step-0000000020.safetensors'] {'step': 30}
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep {keep}; wanted 1 or more")
        self.folder, self.keep = Path(folder).expanduser(), keep

    def paths(self) -> list[Path]:
        """The checkpoints that are there, newest first."""
        try:
            names = sorted((n for n in os.listdir(self.folder) if _NAME.fullmatch(n)), reverse=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self.folder / name for name in names]

    def save(self, step: int, state: Any) -> Path:
        """Write ``state`` as the newest checkpoint, then remove those that it makes superfluous.

        Raises:
            DataError: it could not be written; those that were there are as they were.
        """
        from tensorlite.io import save

        path = self.folder / f"step-{step:010d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"save: {self.folder}: cannot be made: {error.strerror or error}") from error
        save(state, path)
        older = [p for p in self.paths() if p.name < path.name]
        newer = [p for p in self.paths() if p.name > path.name]  # of a run that was taken up again before them
        broken = [self.folder / name for name in os.listdir(self.folder) if _REST.fullmatch(name)]
        for superfluous in [*older[self.keep - 1 :], *newer, *broken]:
            with contextlib.suppress(OSError):
                superfluous.unlink()
        return path

    def load(self, say: Callable[[str], Any] = print) -> tuple[Path, Any] | None:
        """The newest checkpoint that is whole, with its path; None where the folder holds none at all.

        Args:
            say: told of each damaged one that is passed over.

        Raises:
            DataError: there are some, and all are damaged.
        """
        from tensorlite.io import load

        paths = self.paths()
        for k, path in enumerate(paths):
            try:
                return path, load(path)
            except DataError as error:
                if k + 1 == len(paths):
                    raise DataError(f"{error}; no other checkpoint is left in {self.folder}") from error
                say(f"{error}; taking the one before it, {paths[k + 1].name}")
        return None

    def clear(self) -> None:
        """Remove all of them."""
        for path in self.paths():
            path.unlink()

    def set_aside(self) -> Path | None:
        """Move what is there out of the way of a new run, to ``<folder>.old``; None where there is nothing."""
        if not self.paths():
            return None
        names = (self.folder.name + ".old" + (str(n) if n else "") for n in count())
        old = next(path for path in map(self.folder.with_name, names) if not path.exists())
        os.replace(self.folder, old)
        return old
