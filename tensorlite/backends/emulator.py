"""CUDA kernels on the CPU: g++ compiles a .cu with kernels/cuda/on_cpu.h, and each CUDA thread is a fiber. Floor 1.

What is compiled is kept in the user's cache folder. Faults of a kernel (a barrier that some threads miss, memory that
is not there, a wrong argument type ...) are KernelErrors that say which thread, and where in the source.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import platform
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
OPTIONS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off")
OPTIONS += ("-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w")
_PADDED = {"P": "P", "q": "q", "Q": "Q", "d": "d", "i": "i4x", "I": "I4x", "f": "f4x"}
_NAMES = {"P": "a pointer", "q": "long long", "Q": "unsigned long long", "d": "double", "i": "int", "I": "unsigned",
          "f": "float", "?": "a type that no letter stands for"}  # fmt: skip
_BETWEEN = r"(?:[\w\s]|__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\))*?"
_KERNEL = re.compile(rf'extern\s*"C"\s*__global__\s+({_BETWEEN})((?!__launch_bounds__)\b\w+)\s*\(')
_BOUNDS = re.compile(r"__launch_bounds__\s*\(\s*((?:[^(),]|\([^()]*\))+)")
_TYPE = r"((?:(?:volatile|unsigned|signed|long|short)\s+)*[A-Za-z_]\w*)"
_PLACE = r"__shared__\s+(?:__align__\s*\([^)]*\)\s*|alignas\s*\([^)]*\)\s*)?"
_SHARED = re.compile(rf"\b{_PLACE}{_TYPE}\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);")
_DYNAMIC = re.compile(rf"\bextern\s+{_PLACE}{_TYPE}\s+(\w+)\s*\[\s*\]\s*;")
_LIBRARIES = {"thread": "libtsan.so", "address": "libasan.so", "undefined": "libubsan.so"}
_lock = threading.Lock()  # one launch at a time
_order = 0
_sanitizers: tuple[str, ...] = ()


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
def _headers(place: Path) -> bytes:
    """The text of all that a kernel can include."""
    found = sorted(p for p in place.iterdir() if p.suffix in (".cuh", ".h"))
    return b"\0".join(part for p in found for part in (p.name.encode(), p.read_bytes()))


def _run(command: list[str], name: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"{name}: g++ refuses it:\n{done.stderr.strip()[:4000]}")
    return done.stdout


def _plain_shared(text: str) -> str:
    """CUDA's own declarations of shared memory, one variable a statement, as macros of on_cpu.h; lines stay lines."""
    return _SHARED.sub(r"TL_EMU_SHARED(\1, \2, \3);", _DYNAMIC.sub(r"TL_EMU_DYNAMIC(\1, \2);", text))


def compile(name: str, text: str, defines: dict, options: tuple = ()) -> ctypes.CDLL:
    """The library of the kernels of ``text``, built unless the cache has it. ``options`` are more ones for g++."""
    program, version = compiler()
    place = launch.sources()
    flags = [*OPTIONS, *_sanitizers, *options, f"-I{place}", *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    key = hashlib.sha256(_headers(place))
    for part in (version, platform.machine(), *flags, name, text):
        key.update(b"\0" + part.encode())
    library = folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key.hexdigest()[:24]}.so"
    if not _is_whole(library):
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as build:
            made = _build(Path(build), name, _plain_shared(text), [program, *flags])
            digest = hashlib.sha256(made.read_bytes()).digest()
            with made.open("ab") as file:
                file.write(digest)
            os.replace(made, library)
    kernels = ctypes.CDLL(str(library))
    kernels.tl_emu_pool.restype, kernels.tl_emu_pool.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    layout = kernels.tl_emu_layout()  # that of the C library's stack switch is another
    _pools[layout] = kernels.tl_emu_pool(_pools.get(layout))
    return kernels


_pools: dict = {}  # the address of the fibers that libraries share; it is the first library's, which stays loaded


def _is_whole(library: Path) -> bool:
    """A library that was cut short would take the process with it, so each ends with its digest."""
    try:
        data = library.read_bytes()
    except OSError:
        return False
    return len(data) > 32 and hashlib.sha256(data[:-32]).digest() == data[-32:]


def _build(build: Path, name: str, text: str, command: list[str]) -> Path:
    source, made = build / "source.cpp", build / "made.so"
    headers = [part for h in ("on_cpu.h", "device.cuh") for part in ("-include", str(launch.sources() / h))]
    front = ["-x", "c++", *headers, str(source)]
    source.write_text(text, encoding="utf-8")
    exports = []
    for before, kernel in _KERNEL.findall(_run([*command, "-DTL_LISTING", "-E", "-P", *front], name)):
        bounds = _BOUNDS.search(before)
        exports.append(f"TL_EMU_KERNEL({kernel}, {bounds[1].strip() if bounds else BLOCK_LIMIT})\n")
    # in a namespace and without C linkage, a kernel may have the name of a function of the C library
    text = re.sub(r'extern\s*"C"\s*(?=__global__)', "", text)
    source.write_text(
        f'namespace tl_kernels {{\n#line 1 "{name if "." in name else name + ".cu"}"\n{text}\n{"".join(exports)}}}\n',
        encoding="utf-8",
    )
    _run([*command, *front, "-o", str(made)], name)
    return made


# ---- finding faults
@contextlib.contextmanager
def sanitize(*names: str):
    """Compile kernels with g++'s sanitizers from now on: ``thread``, or ``address``, ``undefined`` or both.

    The process must have been started with what ``preload`` gives in its environment.
    """
    global _sanitizers
    if not names or not set(names) <= set(_LIBRARIES) or {"thread", "address"} <= set(names):
        raise ValueError(f"sanitize: got {names}; wanted 'thread', or one or both of 'address' and 'undefined'")
    before, _sanitizers = _sanitizers, ("-g", *(f"-fsanitize={n}" for n in names))
    try:
        yield
    finally:
        _sanitizers = before


def preload(*names: str) -> dict[str, str]:
    """The environment for a process whose kernels are sanitized so: it loads the sanitizers' libraries first."""
    libraries = [_run([compiler()[0], f"-print-file-name={_LIBRARIES[n]}"], "preload").strip() for n in names]
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy of ``array`` that ends where memory ends: a kernel that goes beyond it raises.

    It begins at a multiple of 16 bytes only if its size in bytes is one.
    """
    array = np.ascontiguousarray(array)
    pages = max(1, -(-array.nbytes // mmap.PAGESIZE))
    whole = np.frombuffer(mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE), np.uint8)
    end, libc = pages * mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(whole.ctypes.data + end), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "guarded: the system does not protect a page")
    copy = whole[end - array.nbytes : end].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


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
    where, run, three = ctypes.c_void_p(ctypes.addressof(entry)), compiled.tl_emu_launch, ctypes.c_uint * 3
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
                where, three(*grid), three(*block), ctypes.c_size_t(shared), int(cooperative), _order,
                packed, error, ctypes.c_size_t(len(error)),
            )  # fmt: skip
            message = error.value.decode(errors="replace") if failed else ""
        if message.startswith("interrupted"):
            raise KeyboardInterrupt(f"{name}: {message}")
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
