"""What a GPU's multiprocessor holds, and whether the kernels that the families declare fit it. Floor 1.

Nothing here needs a GPU: each variant is compiled for the architectures that it declares, and the compiler's figures
are set against those of the hardware (the tables of NVIDIA's programming guide and occupancy calculator).
"""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from tensorlite.backends import launch, nvrtc
from tensorlite.backends.launch import Needs, Variant
from tensorlite.backends.nvrtc import Usage
from tensorlite.errors import DeviceError

WARP = 32
REGISTER_UNIT, WARP_UNIT = 256, 4  # registers come to a warp by the 256; a quarter of a multiprocessor has its own file
SHARED_UNIT, SHARED_RESERVED = 128, 1024  # shared memory comes by the 128 bytes, and the system takes 1 KB a block
BLOCK_THREADS = 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What one holds: registers, bytes of shared memory (and at most, for one block), threads, blocks."""

    registers: int
    shared: int
    block_shared: int
    threads: int
    blocks: int


MULTIPROCESSORS = {
    "80": Multiprocessor(64 << 10, 164 << 10, 163 << 10, 2048, 32),  # A100
    "90a": Multiprocessor(64 << 10, 228 << 10, 227 << 10, 2048, 32),  # H100, H200
    "100": Multiprocessor(64 << 10, 228 << 10, 227 << 10, 2048, 32),  # B200
    "120": Multiprocessor(64 << 10, 100 << 10, 99 << 10, 1536, 24),  # RTX 50
}
# Machine code of the tensor cores: mma.sync (H, I, Q, D, OMMA by type), wgmma (the same with G), tcgen05 (UTC...).
TENSOR_CORES = re.compile(r"\b(?:[HIQDO]G?MMA|UTC\w*MMA)\b")
# Sines of large arguments keep the digits of the argument on the stack, in a branch that is hardly ever taken.
SINES, SINES_STACK = re.compile(r"(?<![a-z])(?:sin|cos|tan|sincos)f?\b"), 40
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?(\w+)\s*\('
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def resident(usage: Usage, needs: Needs, on: Multiprocessor) -> int:
    """How many blocks of a kernel a multiprocessor holds at once."""
    warps = -(-needs.block // WARP)
    a_warp = _up(max(usage.registers, 1) * WARP, REGISTER_UNIT)
    by_registers = on.registers // WARP_UNIT // a_warp * WARP_UNIT // warps
    by_shared = on.shared // _up(usage.shared + needs.shared + SHARED_RESERVED, SHARED_UNIT)
    return min(on.blocks, on.threads // (warps * WARP), by_registers, by_shared)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def faults(name: str, usage: Usage, needs: Needs, arch: str, stack: int = 0) -> list[str]:
    """What is wrong with a kernel that uses and needs this much, where so many bytes of stack are allowed."""
    on = MULTIPROCESSORS[arch]
    shared, found = usage.shared + needs.shared, []
    if not 1 <= needs.block <= BLOCK_THREADS:
        found.append(f"{needs.block} threads a block; wanted 1 to {BLOCK_THREADS}")
    elif shared > on.block_shared:
        found.append(f"{usage.shared} + {needs.shared} bytes of shared memory; wanted at most {on.block_shared}")
    elif (fit := resident(usage, needs, on)) < max(1, needs.blocks):
        found.append(
            f"{fit} blocks of {needs.block} threads, {usage.registers} registers and {shared} bytes of shared memory "
            f"fit at once; wanted {max(1, needs.blocks)}"
        )
    return [f"{name} on sm_{arch}: {fault}" for fault in (*_spills(usage, stack), *found)]


def _spills(usage: Usage, stack: int) -> Iterator[str]:
    if usage.spilled or usage.stack > stack:
        yield f"{usage.spilled} bytes spilled, {usage.stack} bytes of stack; wanted none"


# ---- what is declared
def families() -> dict[str, Any]:
    """The host halves that declare variants, by name."""
    found = {}
    for entry in pkgutil.iter_modules(launch.__path__):
        module = import_module(f"{launch.__name__}.{entry.name}")
        if hasattr(module, "VARIANTS"):
            found[entry.name] = module
    return found


def text_of(family: str, variant: Variant) -> str:
    """The source text of a variant."""
    if variant.text is not None:
        return variant.text
    return (launch.sources() / f"{family}.cu").read_text(encoding="utf-8")


def marks(variant: Variant) -> list[str]:
    """What tells a variant from others: its macros; of a generated text also the comment that it begins with."""
    found = [f"{name}={value}" for name, value in variant.defines.items()]
    if variant.text is not None:
        comment = re.match(r"// *(.+)", variant.text)
        found.append(comment[1].strip() if comment else f"text {zlib.crc32(variant.text.encode()):08x}")
    return found


def label(variant: Variant) -> str:
    """``marks`` in a line."""
    return " ".join(marks(variant)) or "plain"


def cell(variant: Variant) -> str:
    """``marks`` as the document shows them."""
    return ", ".join(f"`{mark}`" for mark in marks(variant)) or "·"


def kernels_of(text: str) -> set[str]:
    """The names of a text's kernels."""
    return set(_KERNEL.findall(_COMMENT.sub("", text)))


def unnamed(family: str, variants: list[Variant]) -> set[str]:
    """Kernels of a family's texts that none of its variants names."""
    there = set().union(*(kernels_of(text_of(family, variant)) for variant in variants))
    return there.difference(*(variant.kernels for variant in variants))


# ---- what comes out
def compiled(family: str, variant: Variant, arch: str) -> nvrtc.Cubin:
    """A variant's cubin for an architecture."""
    return nvrtc.compile(family, text_of(family, variant), variant.defines, arch)


def check(family: str, variant: Variant, arch: str) -> list[str]:
    """What is wrong with a variant on an architecture: nothing is allowed to spill or to exceed what it has."""
    cubin = compiled(family, variant, arch)
    where, stack = f"{family} ({label(variant)})", SINES_STACK if SINES.search(text_of(family, variant)) else 0
    found = []
    for name, needs in variant.kernels.items():
        usage = cubin.kernels.get(name)
        if usage is None:
            found.append(f"{where} on sm_{arch}: no kernel {name}; it has {', '.join(sorted(cubin.kernels)) or 'none'}")
        else:
            found += faults(f"{where} {name}", usage, needs, arch, stack)
    for name in sorted(set(cubin.kernels) - set(variant.kernels)):  # built along, and launched by another variant
        found += [f"{where} {name} on sm_{arch}: {fault}" for fault in _spills(cubin.kernels[name], stack)]
    if variant.mma and not TENSOR_CORES.search(disassembled(cubin.image)):
        found.append(f"{where} on sm_{arch}: no instruction of the tensor cores; wanted one, since mma=True")
    return found


@cache
def _nvdisasm() -> str:
    """The path of NVIDIA's disassembler: from its package, else from a CUDA toolkit."""
    for package in ("nvidia-cuda-nvdisasm", "nvidia-cuda-nvdisasm-cu12"):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.stem == "nvdisasm":
                return str(file.locate())
    found = shutil.which("nvdisasm")
    if found is None:
        raise DeviceError("nvdisasm is missing; wanted to read machine code: `pip install tensorlite[gpu-check]`")
    return found


def disassembled(image: bytes) -> str:
    """The machine code of a cubin as text."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "kernel.cubin")
        with open(file, "wb") as to:
            to.write(image)
        return subprocess.run([_nvdisasm(), "-c", file], capture_output=True, text=True, check=True).stdout


# ---- the document
HEADER = """\
# What the CUDA kernels use

Written by `python -m tensorlite.dev cuda` with NVRTC {version}; no GPU is needed for it. A row is a kernel under one
set of macros or of one generated text: threads a block, bytes of shared memory a block (static + dynamic), and for each
architecture the registers a thread and, after the ×, how many blocks a multiprocessor holds at once.
"""


def report() -> str:
    """The text of docs/cuda-kernels.md: all variants of all families on all architectures."""
    work = [(family, v, a) for family, module in families().items() for v in module.VARIANTS for a in v.archs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = dict(zip(map(_key, work), pool.map(lambda job: compiled(*job), work)))
    parts = [HEADER.format(version=".".join(map(str, nvrtc.version()))).rstrip("\n")]
    for family, module in families().items():
        head = ["kernel", "of", "threads", "shared", *(f"sm_{arch}" for arch in launch.ARCHITECTURES)]
        parts.append(f"\n## {family}\n\n| {' | '.join(head)} |\n" + "|---" * len(head) + "|")
        for variant in module.VARIANTS:
            of = {arch: cubins[_key((family, variant, arch))].kernels for arch in variant.archs}
            parts += [
                "| " + " | ".join(_row(name, needs, variant, of)) + " |" for name, needs in variant.kernels.items()
            ]
    return "\n".join(parts) + "\n"


def _key(job: tuple[str, Variant, str]) -> tuple:
    family, variant, arch = job
    return family, id(variant), arch


def _row(name: str, needs: Needs, variant: Variant, of: dict[str, dict[str, Usage]]) -> list[str]:
    cells = []
    for arch in launch.ARCHITECTURES:
        usage = of[arch][name] if arch in of else None
        fit = usage and resident(usage, needs, MULTIPROCESSORS[arch])
        cells.append(f"{usage.registers} × {fit}" if usage else "·")
    static = max(kernels[name].shared for kernels in of.values())
    return [f"`{name}`", cell(variant), str(needs.block), f"{static} + {needs.shared}", *cells]
