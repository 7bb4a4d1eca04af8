"""Where data files lie: folders that people name, the user's cache, and downloads into it. Floor 5."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from tensorlite.errors import DataError
from tensorlite.io.files import atomic


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
    files: Mapping[str, str],
    mirrors: Iterable[str],
    folder: Path,
    *,
    patience: float = 4.0,
    deadline: float = 300.0,
    slowest: float = 4096.0,
    progress: Callable[[str, int, int | None], Any] | None = None,
) -> None:
    """Download what is missing of ``files`` into ``folder``, each from the first mirror that has it whole.

    A file appears under its name only when its hash was right and its bytes were on the disk, so a download that
    broke off never looks like data.

    Args:
        files: name to sha256 in hexadecimal, or to "md5:" and the md5 where nothing better was published; the name is
            appended to a mirror's address and to ``folder``.
        mirrors: addresses that end with a slash, tried in order; one that failed goes to the end.
        patience: seconds without a byte (connecting included) after which a mirror is given up for a file.
        deadline: seconds for everything.
        slowest: bytes a second below which a mirror is given up once twice the patience has passed.
        progress: called as ``progress(name, new bytes, size of the body or None)``.

    Raises:
        DataError: no mirror had a file, or it could not be stored; the message names each mirror with its reason.
    """
    order, end = list(mirrors), time.monotonic() + deadline
    for name, published in files.items():
        kind, _, wanted = published.rpartition(":")
        kind = kind or "sha256"
        if os.path.isfile(folder / name):
            continue
        reasons: dict[str, list[str]] = {}
        for mirror in list(order):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with atomic(folder / name) as file:
                    digest = hashlib.new(kind, usedforsecurity=kind != "md5")
                    told = progress and partial(progress, name)
                    found = _receive(mirror + name, file, digest, patience, end, slowest, told)
                    if found != wanted:
                        raise _Unavailable(f"its {kind} {found[:12]}... is not the published {wanted[:12]}...")
                break
            except _Unavailable as error:
                reasons.setdefault(str(error), []).append(urlsplit(mirror).netloc)
                order.remove(mirror)
                order.append(mirror)
            except OSError as error:  # a cache that cannot be written, a full disk
                raise DataError(f"{name} cannot be stored in {folder} ({error.strerror or error})") from error
        else:
            told = "; ".join(f"{' and '.join(hosts)}: {why}" for why, hosts in reasons.items())
            raise DataError(f"{name} could not be downloaded ({told or 'no mirror is known'})")


class _Unavailable(Exception):
    """A mirror that did not deliver."""


def _receive(
    url: str, file: BinaryIO, digest: Any, patience: float, end: float, slowest: float, progress: Callable | None
) -> str:
    """Write the body of ``url`` to ``file`` and return its hash by ``digest``.

    A thread does the waiting: name look-up and TLS know no time limit of their own, and neither does a server that
    sends a byte now and then. It is left behind (as a daemon) when it does not answer.
    """
    # it sends: the size of the body or None, the body in pieces, b"" at its end; or an error
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
            with urllib.request.urlopen(request, timeout=2 * patience) as answer:  # the waiter gives up first
                length = answer.headers.get("Content-Length") or ""
                put(int(length) if length.isdigit() else None)
                piece: bytes | None = None
                while piece != b"":
                    piece = answer.read1(1 << 16)
                    if not put(piece):
                        return
        except Exception as error:  # whatever urllib, http, ssl or the socket raise: the mirror has failed
            put(error)

    threading.Thread(target=work, name=f"fetch {url}", daemon=True).start()
    size, count, start = None, 0, time.monotonic()
    item: Any = None
    try:
        while item != b"":
            try:
                item = inbox.get(timeout=max(min(patience, end - time.monotonic()), 0.0))
            except queue.Empty:
                late = time.monotonic() >= end
                raise _Unavailable("out of time" if late else f"no answer for {patience:g} s") from None
            if isinstance(item, Exception):
                reason = getattr(item, "reason", item)  # of URLError: the socket's own error
                code = f"{item.code} " if hasattr(item, "code") else ""  # of HTTPError
                raise _Unavailable(code + (getattr(reason, "strerror", None) or str(reason) or type(item).__name__))
            if not isinstance(item, bytes):
                size = item
                continue
            count += len(item)
            digest.update(item)
            file.write(item)
            passed = time.monotonic() - start
            if passed > 2 * patience and count < slowest * passed:
                raise _Unavailable(f"only {count} bytes in {passed:.0f} s")
            if progress is not None and item:
                progress(len(item), size)
    finally:
        given_up.set()
    if size is not None and count != size:
        raise _Unavailable(f"broke off after {count} of {size} bytes")
    return digest.hexdigest()


def check_writable(path: str | os.PathLike) -> Path:
    """``path``, if a file can be written there: for programs that must not find out after hours of work.

    Raises:
        DataError: its folder is missing or closed to this user, or it is a folder itself.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}; wanted a file in a folder that exists")
    if path.is_dir() or not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise DataError(f"{path}: cannot be written; wanted a file that can")
    return path


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """The text in a file; line ends are read as ``\\n``.

    Raises:
        DataError: a file that cannot be read, or bytes that are no text in this encoding; the message names the file
            and the byte offset of the first of them.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; wanted a text file that can be read") from error
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: offset {error.start}: byte {raw[error.start]:02x} is no {encoding} ({error.reason}); wanted text "
            f"in {encoding}, or another encoding="
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def find_files(wanted: Sequence[Sequence[str]], roots: Iterable[Path], subfolders: Iterable[str]) -> list[Path] | None:
    """One path for each entry of ``wanted`` (alternative names of one file), all from one folder, or None.

    Each root is looked at itself first, then its ``subfolders``.
    """
    for root in roots:
        for sub in ("", *subfolders):
            folder = root / sub
            paths = [next((folder / n for n in names if os.path.isfile(folder / n)), None) for names in wanted]
            if all(paths):
                return paths  # type: ignore[return-value]  # none of them is None
    return None
