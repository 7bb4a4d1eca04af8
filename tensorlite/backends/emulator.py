"""CUDA kernels on the CPU: g++ compiles a .cu with kernels/cuda/on_cpu.h, and each CUDA thread is a fiber. Floor 1.

What is compiled is kept in the user's cache folder. Faults of a kernel (a barrier that some threads miss, memory that
is not there, a wrong argument type ...) are KernelErrors that say which thread, and where in the source.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.errors import DeviceError, KernelError

BLOCK_LIMIT, SHARED_LIMIT = 1024, 227 << 10  # threads, bytes
GRID_LIMITS, BLOCK_LIMITS = (2**31 - 1, 65535, 65535), (1024, 1024, 64)
MULTIPROCESSORS = 132  # of the device that is played
ORDERS = 4  # of threads and blocks: forward, backward, two permutations
OPTIONS = ("-std=c++17", "-O1", "-g1", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off",
           "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w")  # fmt: skip
_PADDED = {"P": "P", "q": "q", "Q": "Q", "d": "d", "i": "i4x", "I": "I4x", "f": "f4x"}
_NAMES = {"P": "a pointer", "q": "long long", "Q": "unsigned long long", "d": "double", "i": "int", "I": "unsigned",
          "f": "float", "?": "a type that no letter stands for"}  # fmt: skip
_KERNEL = re.compile(
    r'extern\s*"C"\s*__global__\s+((?:[\w\s]|__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\))*?)((?!__launch_bounds__)\b\w+)\s*\('
)
_BOUNDS = re.compile(r"__launch_bounds__\s*\(\s*((?:[^(),]|\([^()]*\))+)")
_lock = threading.Lock()  # one launch at a time
_order = 0


@contextlib.contextmanager
def order(k: int):
    """Run the threads and blocks of launches in order ``k``, 0 to 3: forward, backward, two permutations.

    A kernel whose results depend on it lacks a barrier.
    """
    global _order
    if k not in range(ORDERS):
        raise ValueError(f"order: got {k}; wanted 0 to {ORDERS - 1}")
    before, _order = _order, k
    try:
        yield
    finally:
        _order = before


# ---- compiling
@cache
def compiler() -> tuple[str, str]:
    """The C++ compiler and its version."""
    found = shutil.which("g++")
    if found is None:
        raise DeviceError("emulator: no g++ on this machine; wanted one (Debian: apt install g++), or a GPU")
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    return found, done.stdout.splitlines()[0]


def available() -> bool:
    """Whether there is a compiler."""
    return shutil.which("g++") is not None


def folder() -> Path:
    """Where compiled kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tensorlite" / "emulator"


@cache
def _headers() -> bytes:
    """The text of all that a kernel can include."""
    found = sorted(p for p in launch.sources().iterdir() if p.suffix in (".cuh", ".h"))
    return b"\0".join(part for p in found for part in (p.name.encode(), p.read_bytes()))


def _run(command: list[str], name: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"{name}: g++ refuses it:\n{done.stderr.strip()[:4000]}")
    return done.stdout


def compile(name: str, text: str, defines: dict, options: tuple = ()) -> ctypes.CDLL:
    """The library of the kernels of ``text``, built unless the cache has it. ``options`` are more ones for g++."""
    program, version = compiler()
    flags = [*OPTIONS, *options, f"-I{launch.sources()}", *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    key = hashlib.sha256(_headers())
    for part in (version, os.uname().machine, *flags, name, text):
        key.update(b"\0" + part.encode())
    library = folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key.hexdigest()[:24]}.so"
    if library.is_file():
        with contextlib.suppress(OSError, AttributeError):
            return _opened(library)
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as build:
        source, made = Path(build) / "source.cpp", Path(build) / "made.so"
        body = f'#line 1 "{name if "." in name else name + ".cu"}"\n{text}\n'
        front = ["-x", "c++", "-include", str(launch.sources() / "on_cpu.h")]
        source.write_text(body, encoding="utf-8")
        listing = _run([program, *flags, "-DTL_LISTING", "-E", "-P", *front, str(source)], name)
        found = {}
        for before, kernel in _KERNEL.findall(listing):
            bounds = _BOUNDS.search(before)
            found[kernel] = bounds[1].strip() if bounds else str(BLOCK_LIMIT)
        source.write_text(
            body + "\n".join(f"TL_EMU_KERNEL({k}, {bound})" for k, bound in found.items()) + "\n", encoding="utf-8"
        )
        _run([program, *flags, *front, str(source), "-o", str(made)], name)
        os.replace(made, library)
    return _opened(library)


def _opened(library: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(library))
    lib.tl_emu_launch.restype = ctypes.c_int
    return lib


# ---- launching
class _Entry(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int),
        ("bound", ctypes.c_int),
        ("letters", ctypes.c_char_p),
        ("sizes", ctypes.c_char_p),
        ("invoke", ctypes.c_void_p),
    ]


def _address(name: str, k: int, value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    try:
        return value.data.ptr
    except AttributeError:
        raise KernelError(f"{name}: argument {k} is {type(value).__name__}; wanted an array, or None") from None


def _sizes(name: str, what: str, given: tuple, limits: tuple) -> tuple:
    full = tuple(int(v) for v in given) + (1,) * (3 - len(given))
    if len(full) != 3 or not all(1 <= v <= limit for v, limit in zip(full, limits)):
        raise KernelError(f"{name}: {what} {tuple(given)}; wanted 1 to 3 numbers from 1 up to {limits}")
    return full


def function(compiled: ctypes.CDLL, name: str, types: str, shared: int, cooperative: bool) -> Any:
    """``call(grid, block, args)`` of a kernel; ``types`` must be those of its C++ arguments."""
    try:
        entry = _Entry.in_dll(compiled, f"tl_emu_kernel_{name}")
    except ValueError:
        raise KernelError(f'{name}: no such kernel; wanted an extern "C" __global__ function of that name') from None
    letters = entry.letters.decode()
    if len(types) != entry.count:
        raise KernelError(f"{name}: {len(types)} argument types {types!r}; wanted {entry.count} ({letters})")
    for k, (given, wanted) in enumerate(zip(types, letters)):
        if given not in _PADDED:
            raise KernelError(f"{name}: argument {k} has type letter {given!r}; wanted one of {' '.join(_PADDED)}")
        if given.lower() != wanted.lower():
            raise KernelError(f"{name}: argument {k} is given as {_NAMES[given]}; wanted {_NAMES[wanted]}")
    if not 0 <= shared <= SHARED_LIMIT:
        raise KernelError(f"{name}: {shared} bytes of dynamic shared memory; wanted 0 to {SHARED_LIMIT}")
    packer = struct.Struct("=" + "".join(_PADDED[t].replace("P", "Q") for t in types))
    pointers = [k for k, t in enumerate(types) if t == "P"]
    where, run, three = ctypes.addressof(entry), compiled.tl_emu_launch, ctypes.c_uint * 3
    error = ctypes.create_string_buffer(1 << 14)

    def call(grid: tuple, block: tuple, args: tuple) -> None:
        if len(args) != entry.count:
            raise KernelError(f"{name}: {len(args)} arguments; wanted {entry.count}")
        grid, block = _sizes(name, "grid", grid, GRID_LIMITS), _sizes(name, "block", block, BLOCK_LIMITS)
        threads, blocks = block[0] * block[1] * block[2], grid[0] * grid[1] * grid[2]
        if threads > min(entry.bound, BLOCK_LIMIT):
            raise KernelError(f"{name}: {threads} threads a block; wanted at most {min(entry.bound, BLOCK_LIMIT)}")
        if cooperative:
            fit = MULTIPROCESSORS * min(2048 // threads, 32, SHARED_LIMIT // shared if shared else 32)
            if blocks > fit:
                raise KernelError(f"{name}: {blocks} blocks launched together; at most {fit} of {threads} threads fit")
        values = list(args)
        for k in pointers:
            values[k] = _address(name, k, values[k])
        try:
            packed = packer.pack(*values)
        except struct.error:
            _wrong_value(name, types, values)
        with _lock:
            failed = run(
                ctypes.c_void_p(where), three(*grid), three(*block), ctypes.c_size_t(shared), int(cooperative), _order,
                packed, error, ctypes.c_size_t(len(error)),
            )  # fmt: skip
            message = error.value.decode(errors="replace") if failed else ""
        if failed:
            raise KernelError(f"{name}: {message}")

    return call


def _wrong_value(name: str, types: str, values: list) -> None:
    for k, (letter, value) in enumerate(zip(types, values)):
        try:
            struct.pack("=" + letter.replace("P", "Q"), value)
        except struct.error:
            raise KernelError(f"{name}: argument {k} is {value!r}; wanted {_NAMES[letter]}") from None
    raise KernelError(f"{name}: arguments {values!r} do not fit {types!r}")
