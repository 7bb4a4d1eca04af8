"""Every CUDA kernel compiles for the architectures that it declares, spills nothing and fits their multiprocessors.

A quick run builds each variant for one architecture, another one every day; the slow run builds all of them.
``TL_TEST_ARCHS`` chooses others: ``all``, or names such as ``80,90a``.
"""

import datetime
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from cuda_harness import needs_gpu_check, skip

from tensorlite.backends import launch, nvrtc
from tensorlite.backends.launch import Needs, Variant, limits
from tensorlite.backends.nvrtc import Usage
from tensorlite.errors import DeviceError

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = limits.families()
EACH = [(family, k) for family, module in FAMILIES.items() for k in range(len(module.VARIANTS))]
IDS = [f"{family}-{k} {limits.label(FAMILIES[family].VARIANTS[k])}" for family, k in EACH]


def chosen(family: str, variant: Variant, day: int) -> tuple[str, ...]:
    """The architectures that a quick run builds a variant for."""
    asked = os.environ.get("TL_TEST_ARCHS", "")
    if asked:
        return variant.archs if asked == "all" else tuple(a for a in variant.archs if a in asked.split(","))
    turn = day + zlib.crc32(f"{family} {limits.label(variant)} {variant.text}".encode())
    return (variant.archs[turn % len(variant.archs)],)


def today() -> int:
    return datetime.date.today().timetuple().tm_yday


# ---- the kernels of the families
@pytest.mark.parametrize("family, k", EACH, ids=IDS)
def test_compiles_and_fits(family, k):
    needs_gpu_check()
    variant = FAMILIES[family].VARIANTS[k]
    archs = chosen(family, variant, today())
    if not archs:
        skip(f"{family} declares none of TL_TEST_ARCHS")
    found = [fault for arch in archs for fault in limits.check(family, variant, arch)]
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("family, k", EACH, ids=IDS)
def test_compiles_and_fits_everywhere(family, k):
    needs_gpu_check()
    variant = FAMILIES[family].VARIANTS[k]
    found = [fault for arch in variant.archs for fault in limits.check(family, variant, arch)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_declares_all_of_its_kernels(family):
    variants = FAMILIES[family].VARIANTS
    assert not limits.unnamed(family, variants)
    assert all(variant.kernels for variant in variants)
    assert all(set(variant.archs) <= set(launch.ARCHITECTURES) for variant in variants)
    assert {a for variant in variants for a in variant.archs} >= {"80"}, "every family has a path for sm_80"


def test_every_file_of_kernels_has_a_family():
    files = {file.stem for file in launch.sources().glob("*.cu")}
    assert files <= set(FAMILIES), f"no variants in tensorlite/backends/launch for {files - set(FAMILIES)}"


@pytest.mark.slow
def test_the_document_is_fresh():
    needs_gpu_check()
    if nvrtc.version() != (13, 0):
        skip(f"docs/cuda-kernels.md is of NVRTC 13.0, this is {nvrtc.version()}")
    done = subprocess.run(
        [sys.executable, "-m", "tensorlite.dev", "cuda", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_names_every_kernel():
    """Without a compiler; the slow test above compares all of it."""
    text = (ROOT / "docs" / "cuda-kernels.md").read_text(encoding="utf-8")
    sections = dict(part.partition("\n")[::2] for part in text.split("\n## ")[1:])
    rows = {family: set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for family, part in sections.items()}
    there = {family: {k for v in module.VARIANTS for k in v.kernels} for family, module in FAMILIES.items()}
    assert rows == there, "stale: run `python -m tensorlite.dev cuda`"


# ---- the slice of the day
def test_the_slice_turns(monkeypatch):
    monkeypatch.delenv("TL_TEST_ARCHS", raising=False)
    variants = [Variant(defines={"N": n}) for n in range(40)]
    for variant in variants:
        assert sorted(chosen("f", variant, day)[0] for day in range(7, 11)) == sorted(variant.archs)
    assert len({chosen("f", variant, 1) for variant in variants}) == 4, "all variants have one and the same turn"
    monkeypatch.setenv("TL_TEST_ARCHS", "all")
    assert chosen("f", variants[0], 1) == variants[0].archs
    monkeypatch.setenv("TL_TEST_ARCHS", "120,80")
    assert chosen("f", variants[0], 1) == ("80", "120")


# ---- the check itself
H100 = limits.MULTIPROCESSORS["90a"]


@pytest.mark.parametrize(
    "usage, needs, arch, blocks",
    [  # as NVIDIA's occupancy calculator says
        (Usage(registers=32), Needs(block=256), "90a", 8),
        (Usage(registers=33), Needs(block=256), "90a", 6),  # 40 registers a thread are given
        (Usage(registers=255), Needs(block=256), "90a", 1),
        (Usage(registers=255), Needs(block=288), "90a", 0),  # 9 warps of 8160 registers; 2 a quarter fit
        (Usage(registers=64), Needs(block=1024), "90a", 1),
        (Usage(registers=65), Needs(block=1024), "90a", 0),
        (Usage(registers=16), Needs(block=32), "90a", 32),
        (Usage(registers=16), Needs(block=32), "120", 24),
        (Usage(registers=16), Needs(block=1024), "120", 1),
        (Usage(registers=16), Needs(block=33), "90a", 32),
        (Usage(registers=16, shared=1024), Needs(block=64, shared=75_000), "90a", 3),
        (Usage(registers=16), Needs(block=64, shared=227 << 10), "90a", 1),
        (Usage(registers=16), Needs(block=64, shared=81 << 10), "80", 2),
        (Usage(registers=16), Needs(block=64, shared=(81 << 10) + 1), "80", 1),
    ],
)
def test_blocks_at_once(usage, needs, arch, blocks):
    assert limits.resident(usage, needs, limits.MULTIPROCESSORS[arch]) == blocks


@pytest.mark.parametrize(
    "usage, needs, arch, said",
    [
        (Usage(registers=40, spilled=8), Needs(block=32), "80", "8 bytes spilled, 0 bytes of stack"),
        (Usage(registers=40, stack=16), Needs(block=32), "80", "0 bytes spilled, 16 bytes of stack"),
        (Usage(registers=40), Needs(block=1056), "80", "1056 threads a block"),
        (Usage(registers=40), Needs(block=0), "80", "0 threads a block"),
        (Usage(registers=40, shared=1), Needs(block=32, shared=99 << 10), "120", r"1 \+ 101376 bytes of shared memory"),
        (Usage(registers=40, shared=1), Needs(block=32, shared=227 << 10), "90a", "wanted at most 232448"),
        (Usage(registers=128), Needs(block=512, blocks=2), "90a", "1 blocks of 512 threads, 128 registers.*wanted 2"),
        (Usage(registers=255), Needs(block=288), "90a", "0 blocks of 288 threads.*wanted 1"),
    ],
)
def test_what_does_not_fit(usage, needs, arch, said):
    (fault,) = limits.faults("kernel", usage, needs, arch)
    assert re.search(f"kernel on sm_{arch}: .*{said}", fault), fault


def test_what_fits():
    assert not limits.faults("kernel", Usage(registers=128), Needs(block=512), "90a")
    assert not limits.faults("kernel", Usage(registers=32), Needs(block=512, shared=48 << 10, blocks=4), "90a")


def test_kernels_that_nobody_names():
    text = """
    extern "C" __global__ void first(float* x) { }
    extern "C" __global__ void __launch_bounds__((256 * 2), 2)
        second(int n) { }
    // extern "C" __global__ void not_this(int n) { }
    __device__ void nor_this(float* x) { }
    """
    assert limits.kernels_of(text) == {"first", "second"}
    variants = [Variant(text=text, kernels={"first": Needs(32)}), Variant(text=text, kernels={})]
    assert limits.unnamed("f", variants) == {"second"}
    assert not limits.unnamed("f", [*variants, Variant(text=text, kernels={"second": Needs(64)})])


def test_a_variant_is_compiled_and_judged():
    needs_gpu_check()
    text = """
    extern "C" __global__ void __launch_bounds__(N) small(float* x) { x[threadIdx.x] *= 2; }
    extern "C" __global__ void stacked(float* x, int k) {
        float a[64];
        for (int i = 0; i < 64; i++) a[(int)x[i] & 63] = x[i + 64];
        x[0] = a[k];
    }
    """
    small = Variant(text=text, defines={"N": 64}, kernels={"small": Needs(64), "gone": Needs(64)})
    stack, gone = sorted(limits.check("f", small, "80"))
    assert re.search(r"f \(N=64 text \w+\) on sm_80: no kernel gone; it has small, stacked", stack + gone)
    assert re.search(r"stacked on sm_80: 0 bytes spilled, 256 bytes of stack", stack + gone)


PRODUCT = """
extern "C" __global__ void %s(const unsigned* a, const unsigned* b, float* d) {
    float c[4] = {0, 0, 0, 0};
    const int t = threadIdx.x;
    asm volatile("mma.sync.aligned.%s.row.col.f32.%s.%s.f32 {%%0, %%1, %%2, %%3}, {%%4, %%5, %%6, %%7}, {%%8, %%9}, "
                 "{%%0, %%1, %%2, %%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[t]), "r"(a[t + 32]), "r"(a[t + 64]), "r"(a[t + 96]), "r"(b[t]), "r"(b[t + 32]));
    for (int k = 0; k < 4; k++) d[4 * t + k] = c[k];
}
"""


@pytest.mark.parametrize("arch", launch.ARCHITECTURES)
def test_tensor_cores_are_seen_in_the_machine_code(arch):
    needs_gpu_check()
    kinds = {"tf32": "m16n8k8", "bf16": "m16n8k16", "f16": "m16n8k16"}
    text = "".join(PRODUCT % (kind, shape, kind, kind) for kind, shape in kinds.items())
    variant = Variant(text=text, kernels=dict.fromkeys(kinds, Needs(32)), mma=True)
    assert not limits.check("mma", variant, arch)
    code = limits.disassembled(limits.compiled("mma", variant, arch).image)
    assert len(limits.TENSOR_CORES.findall(code)) >= len(kinds)


def test_no_tensor_cores():
    needs_gpu_check()
    plain = Variant(text='extern "C" __global__ void f(float* x) { x[0] *= x[1]; }', kernels={"f": Needs(1)}, mma=True)
    (fault,) = limits.check("plain", plain, "80")
    assert "no instruction of the tensor cores" in fault


def test_sines_may_use_the_stack():
    needs_gpu_check()
    text = 'extern "C" __global__ void f(double* x) { x[0] = %s(x[1]); }'
    sines, others = (Variant(text=text % name, kernels={"f": Needs(32)}) for name in ("sin", "asinh"))
    assert limits.compiled("sines", sines, "80").kernels["f"].stack > 0
    assert not limits.check("sines", sines, "80")
    assert (
        not limits.SINES.search(others.text) and limits.SINES.search("op_cos(x)") and limits.SINES.search("tl_sincosf(")
    )
    assert limits.faults("f", Usage(registers=32, stack=41), Needs(32), "80", limits.SINES_STACK)


def test_generated_texts_are_told_apart():
    named = Variant(text="// add f4 f4 -> f4\nvoid f();", defines={"T": "float"})
    assert limits.label(named) == "T=float add f4 f4 -> f4" and limits.cell(named) == "`T=float`, `add f4 f4 -> f4`"
    first, second = (limits.label(Variant(text=text)) for text in ("void f();", "void g();"))
    assert first != second and first.startswith("text ")
    assert limits.label(Variant()) == "plain"


def test_no_disassembler(monkeypatch):
    def missing(name):
        raise limits.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(limits.metadata, "files", missing)
    monkeypatch.setattr(limits.shutil, "which", lambda name: None)
    limits._nvdisasm.cache_clear()
    with pytest.raises(DeviceError, match=r"tensorlite\[gpu-check\]"):
        limits.disassembled(b"")
