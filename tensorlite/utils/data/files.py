"""Where data files lie: folders that people name, the user's cache, and downloads into it. Floor 5."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tensorlite.errors import DataError


def cache_dir() -> Path:
    """The folder for files that can be fetched again. It need not exist yet.

    ``$XDG_CACHE_HOME/tensorlite`` where that is set, else ``~/.cache/tensorlite`` (macOS: ``~/Library/Caches``,
    Windows: ``%LOCALAPPDATA%``).
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # the XDG specification: a relative path is to be ignored
        return Path(given) / "tensorlite"
    local = os.environ.get("LOCALAPPDATA", "")
    if sys.platform == "win32" and local:
        return Path(local) / "tensorlite" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:  # a user without an entry in the system's tables, as in some containers
        return Path(tempfile.gettempdir()) / f"tensorlite-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "tensorlite"


def data_dirs() -> list[Path]:
    """The folders in which data sets are looked for, best first: ``$TENSORLITE_DATA``, then the cache."""
    given = os.environ.get("TENSORLITE_DATA", "")
    return [*([Path(given).expanduser()] if given else []), cache_dir()]


def fetch(
    name: str,
    sha256: str,
    mirrors: Iterable[str],
    folder: Path,
    *,
    patience: float = 4.0,
    deadline: float = 300.0,
    limit: int = 1 << 28,
    progress: Callable[[int, int | None], Any] | None = None,
) -> Path:
    """Download ``name`` from the first mirror that has it whole into ``folder``, and return its path.

    The file appears under its name only when its hash was right and its bytes were on the disk, so a download that
    broke off never looks like data.

    Args:
        name: the file's name, appended to a mirror's address and to ``folder``.
        sha256: of the file, in hexadecimal.
        mirrors: addresses that end with a slash, tried in order.
        patience: seconds without a byte (connecting included) after which a mirror is given up.
        deadline: seconds for one mirror altogether.
        limit: bytes after which a body is too large to be true.
        progress: called as ``progress(new bytes, size of the body or None)``.

    Raises:
        DataError: no mirror had it; the message names each with its reason.
    """
    reasons = []
    part = folder / f".{name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for mirror in mirrors:
            try:
                with open(part, "xb") as file:
                    found = _receive(mirror + name, file, patience, deadline, limit, progress)
                    if found != sha256:
                        raise DataError(f"sha256 {found[:12]}... is not the published {sha256[:12]}...")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, folder / name)
                _sync_folder(folder)
                return folder / name
            except _Unavailable as error:
                reasons.append(f"{mirror}: {error}")
            except DataError as error:
                reasons.append(f"{mirror}: {error}")
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:  # a cache that cannot be written, a full disk
        raise DataError(f"{name}: cannot be stored in {folder} ({error.strerror or error})") from error
    raise DataError(f"{name}: no mirror had it ({'; '.join(reasons) or 'none is known'})")


class _Unavailable(Exception):
    """A mirror that did not deliver."""


def _receive(
    url: str, file: Any, patience: float, deadline: float, limit: int, progress: Callable | None
) -> str:
    """Write the body of ``url`` to ``file`` and return its sha256.

    A thread does the waiting: name look-up and TLS know no time limit of their own, and neither does a server that
    sends a byte now and then. It is left behind (as a daemon) when it does not answer.
    """
    inbox: queue.Queue = queue.Queue(maxsize=16)
    given_up = threading.Event()

    def put(item: Any) -> bool:
        while not given_up.is_set():
            try:
                inbox.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        import urllib.request

        try:
            request = urllib.request.Request(url, headers={"User-Agent": "tensorlite"})
            with urllib.request.urlopen(request, timeout=patience) as answer:
                length = answer.headers.get("Content-Length")
                put(int(length) if length and length.isdigit() else None)
                while put(chunk := answer.read1(1 << 16)) and chunk:
                    pass
        except Exception as error:  # whatever urllib, http, ssl or the socket raise: the mirror has failed
            put(error)

    threading.Thread(target=work, name=f"fetch {url}", daemon=True).start()
    digest, size, count, end = hashlib.sha256(), None, 0, time.monotonic() + deadline
    item: Any = b"-"
    try:
        while item != b"":
            wait = min(patience, end - time.monotonic())
            try:
                item = inbox.get(timeout=max(wait, 0.0))
            except queue.Empty:
                slow = wait < patience
                raise _Unavailable(
                    f"not whole after {deadline:g} s" if slow else f"no answer for {patience:g} s"
                ) from None
            if isinstance(item, Exception):
                reason = getattr(item, "reason", None)  # of URLError: the socket's own error
                raise _Unavailable(str(reason or item) or type(item).__name__) from None
            if not isinstance(item, bytes):
                size = item
                continue
            count += len(item)
            if count > limit:
                raise _Unavailable(f"more than {limit} bytes")
            digest.update(item)
            file.write(item)
            if progress is not None and item:
                progress(len(item), size)
    finally:
        given_up.set()
    if size is not None and count != size:
        raise _Unavailable(f"broke off after {count} of {size} bytes")
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def find_files(wanted: Sequence[Sequence[str]], roots: Iterable[Path], subfolders: Iterable[str]) -> list[Path] | None:
    """One path for each entry of ``wanted`` (alternative names of one file), all from one folder, or None.

    Each root is looked at itself first, then its ``subfolders``.
    """
    for root in roots:
        for sub in ("", *subfolders):
            folder = root / sub
            paths = [next((folder / n for n in names if (folder / n).is_file()), None) for names in wanted]
            if all(paths):
                return paths  # type: ignore[return-value]  # none of them is None
    return None
