"""CUDA C++ compiled by NVRTC to cubins, which are kept on disk, and what each kernel uses of a GPU. Floor 1.

``compile`` needs no GPU and no CUDA header: the text, its macros and the headers of kernels/cuda are all that it sees.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tensorlite.backends.launch import sources
from tensorlite.errors import DeviceError, KernelError

INSTALL = "`pip install tensorlite[cuda13]` brings it (tensorlite[cuda12] where the driver is of CUDA 12)"
OPTIONS = ("-std=c++17", "-default-device", "--ptxas-options=-v")  # no fast math: the bits are those of the CPU's law
MAGIC = b"tensorlite cubin 1 "
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+\.cuh)"', re.MULTILINE)
_TIME = re.compile(r"^ptxas info *: Compile time = .*\n?", re.MULTILINE)  # so that equal texts have equal entries
_ERROR = re.compile(r"^(\S+)\((\d+)\): (?:catastrophic )?error", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """What one kernel uses: registers a thread; bytes of stack, spills (stores and loads) and static shared memory."""

    registers: int = 0
    stack: int = 0
    spilled: int = 0
    shared: int = 0


@dataclass(frozen=True)
class Cubin:
    """A text compiled for one architecture: machine code, the compiler's log, and what its kernels use, by name."""

    image: bytes = field(repr=False)
    log: str = field(repr=False)
    kernels: dict[str, Usage]


@cache
def library() -> Any:
    """``cuda.bindings.nvrtc`` with its library loaded; else a DeviceError that says what to install."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as why:
        raise DeviceError(
            f"nvrtc: cuda.bindings is missing ({why}); wanted to compile CUDA kernels: {INSTALL}"
        ) from None
    try:
        nvrtc.nvrtcVersion()  # looks for the library when first called
    except RuntimeError as why:
        raise DeviceError(f"nvrtc: NVIDIA's compiler library is missing ({why}); {INSTALL}") from None
    return nvrtc


def version() -> tuple[int, int]:
    """NVRTC's version, such as (13, 0)."""
    _, major, minor = library().nvrtcVersion()
    return major, minor


def compile(name: str, text: str, defines: dict[str, Any], arch: str) -> Cubin:
    """The cubin of ``text`` under these macros for an architecture such as "80" or "90a"; from the disk if it is there.

    Raises KernelError with the compiler's log and the lines that it complains of.
    """
    texts = {f"{name}.cu": text, **headers(text)}
    # Macros are lines of the text, after what is common: one such as T must not hold in the templates of a header.
    before = '#include "device.cuh"\n' if "device.cuh" in texts else ""
    before += "".join(f"#define {macro} {value}\n" for macro, value in sorted(defines.items()))
    options = [f"--gpu-architecture=sm_{arch}", *OPTIONS]
    file = _folder() / f"{_key(before, texts, options)}.cubin"
    found = _read(file)
    if found is None:
        found = _compile(f'{before}#line 1 "{name}.cu"\n', texts, options)
        _write(file, found)
    return found


def headers(text: str) -> dict[str, str]:
    """The headers of kernels/cuda that a text includes, and those that they include: name -> text."""
    found: dict[str, str] = {}
    left = [text]
    while left:
        for name in _INCLUDE.findall(left.pop()):
            file = sources() / name
            if name not in found and file.is_file():  # the compiler says which is missing, and where it was wanted
                found[name] = file.read_text(encoding="utf-8")
                left.append(found[name])
    return found


# ---- the compiler
def _compile(before: str, texts: dict[str, str], options: list[str]) -> Cubin:
    nvrtc = library()
    (name, text), *included = texts.items()
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            (before + text).encode(),
            name.encode(),
            len(included),
            [header.encode() for _, header in included],
            [file.encode() for file, _ in included],
        )
    )
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        log = _TIME.sub("", log.strip("\0 \n"))
        if status == nvrtc.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
            known = " ".join(map(str, _checked(nvrtc.nvrtcGetSupportedArchs())))
            raise KernelError(f"{name}: options {' '.join(options)}; wanted an architecture of {known} ({log})")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelError(f"{name}: it does not compile with {' '.join(options)}\n{log}{_lines(log, texts)}")
        image = _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Cubin(image, log, usage(log))


def _checked(result: tuple) -> Any:
    """The value of a call of NVRTC's; a failure here is no fault of a kernel's text."""
    status, *values = result
    if status != library().nvrtcResult.NVRTC_SUCCESS:
        raise KernelError(f"nvrtc: {library().nvrtcGetErrorString(status)[1].decode()}")
    return values[-1] if values else None


def _bytes(size: Any, get: Any, program: Any) -> bytes:
    many = _checked(size(program))
    room = b" " * (many + 2)  # the bindings write into it; Python has but one object for all equal single bytes
    _checked(get(program, room))
    return room[:many]


def _lines(log: str, texts: dict[str, str], shown: int = 3) -> str:
    """The surroundings of the first places that a log complains of."""
    parts = []
    for file, number in list(dict.fromkeys(_ERROR.findall(log)))[:shown]:
        lines, at = texts.get(file, "").split("\n"), int(number)
        if at <= len(lines):
            parts.append(f"\n{file}:")
            near = range(max(1, at - 2), min(len(lines), at + 2) + 1)
            parts += [f"{'>' if k == at else ' '}{k:5} {lines[k - 1]}" for k in near]
    return "\n" + "\n".join(parts) if parts else ""


def usage(log: str) -> dict[str, Usage]:
    """What ptxas says that each kernel uses."""
    found = {}
    _, *parts = re.split(r"Compiling entry function '(\w+)' for '\w+'", log)
    for name, part in zip(parts[::2], parts[1::2]):
        found[name] = Usage(
            registers=_number(r"Used (\d+) registers", part),
            stack=_number(r"(\d+) bytes stack frame", part),
            spilled=_number(r"(\d+) bytes spill stores", part) + _number(r"(\d+) bytes spill loads", part),
            shared=_number(r"(\d+) bytes smem", part, 0),  # not named where there is none
        )
    return found


def _number(pattern: str, text: str, missing: int | None = None) -> int:
    found = re.search(pattern, text)
    if found is None and missing is None:
        raise KernelError(f"nvrtc: no {pattern!r} in the log of ptxas; wanted what a kernel uses:\n{text}")
    return missing if found is None else int(found[1])  # type: ignore[return-value]


# ---- the disk
def _folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(given):  # the XDG specification: a relative path is to be ignored
        home = os.path.expanduser("~")  # stays "~" for a user whom the system does not know, as in some containers
        given = os.path.join(home if os.path.isabs(home) else tempfile.gettempdir(), ".cache")
    return Path(given) / "tensorlite" / "cubins"


def _key(before: str, texts: dict[str, str], options: list[str]) -> str:
    """A name for all that the machine code depends on."""
    return hashlib.sha256(json.dumps([before, [*texts.items()], options, version()]).encode()).hexdigest()[:40]


def _read(file: Path) -> Cubin | None:
    """An entry; None where there is none that is whole."""
    try:
        head, _, body = file.read_bytes().partition(b"\n")
        if head != MAGIC + hashlib.sha256(body).hexdigest().encode():
            return None
        about, _, image = body.partition(b"\n")
    except OSError:
        return None
    said = json.loads(about)
    return Cubin(image, said["log"], {name: Usage(**of) for name, of in said["kernels"].items()})


def _write(file: Path, cubin: Cubin) -> None:
    """Keep an entry. It appears whole under its name, whatever happens; where nothing can be kept, nothing is."""
    about = {"log": cubin.log, "kernels": {name: asdict(of) for name, of in cubin.kernels.items()}}
    body = json.dumps(about).encode() + b"\n" + cubin.image
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as to:
                to.write(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                to.flush()
                os.fsync(to.fileno())
            os.replace(part, file)
        except BaseException:
            os.unlink(part)
            raise
    except OSError:
        return  # a disk that is full or read-only: the next process compiles again
