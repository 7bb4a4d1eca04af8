"""Compiling CUDA without a GPU: what NVRTC is given, what it says, and the cubins that are kept on disk."""

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_harness import needs_gpu_check

from tensorlite.backends import nvrtc
from tensorlite.errors import DeviceError, KernelError

ROOT = Path(__file__).resolve().parent.parent
TEXT = """\
extern "C" __global__ void __launch_bounds__(128) scaled(const T* x, T* y, long long n) {
    __shared__ T s[128];
    long long i = blockIdx.x * 128ll + threadIdx.x;
    s[threadIdx.x] = i < n ? x[i] : (T)0;
    __syncthreads();
    if (i < n) y[i] = s[threadIdx.x ^ 1] * (T)BY;
}
"""
SPILLS = """\
extern "C" __global__ void __launch_bounds__(1024) many(float* x) {
    float a[200];
    for (int i = 0; i < 200; i++) a[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int k = 1; k < 4; k++) for (int i = 0; i < 200; i++) a[i] = a[i] * a[(i * 7 + k) % 200];
    __syncthreads();
    for (int i = 0; i < 200; i++) x[i * 1024 + threadIdx.x] = a[i];
}
extern "C" __global__ void indexed(float* x, int k) {
    float a[64];
    for (int i = 0; i < 64; i++) a[(int)x[i] & 63] = x[i + 64];
    x[0] = a[k];
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of cubins, empty."""
    needs_gpu_check()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tensorlite" / "cubins"


@pytest.fixture
def compilations(monkeypatch):
    """The names of the files that the compiler was run for."""
    run, real = [], nvrtc._compile
    monkeypatch.setattr(nvrtc, "_compile", lambda *given: run.append(next(iter(given[1]))) or real(*given))
    return run


def compiled(**defines):
    return nvrtc.compile("scaled", TEXT, {"T": "float", "BY": 2, **defines}, "80")


# ---- the compiler
@pytest.mark.parametrize("arch", ["80", "90a", "100", "120"])
def test_a_cubin_and_what_its_kernels_use(folder, arch):
    cubin = nvrtc.compile("scaled", TEXT, {"T": "double", "BY": 3}, arch)
    assert cubin.image[:4] == b"\x7fELF" and f"sm_{arch}" in cubin.log
    (name, usage), *others = cubin.kernels.items()
    assert name == "scaled" and not others
    assert 8 <= usage.registers <= 40
    assert (usage.stack, usage.spilled, usage.shared) == (0, 0, 128 * 8)


def test_spills_and_stacks_are_seen(folder):
    kernels = nvrtc.compile("spills", SPILLS, {}, "90a").kernels
    assert kernels["many"].spilled > 0 and kernels["many"].stack > 0
    assert kernels["indexed"].stack == 64 * 4 and kernels["indexed"].spilled == 0


def test_a_log_that_does_not_say_is_refused():
    with pytest.raises(KernelError, match="registers"):
        nvrtc.usage("ptxas info : Compiling entry function 'f' for 'sm_80'\n0 bytes stack frame\n")


def test_macros_of_several_words_and_one_letter(folder):
    assert compiled(T="signed char").kernels["scaled"].shared == 128
    assert compiled(T="unsigned long long").kernels["scaled"].shared == 1024


def test_macros_do_not_reach_the_common_header(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(nvrtc, "sources", lambda: tmp_path)
    (tmp_path / "device.cuh").write_text("#pragma once\ntemplate <class T> __device__ T twice(T x) { return x + x; }\n")
    text = '#include "device.cuh"\nextern "C" __global__ void f(T* x) {\n    x[0] = twice(x[0]);\n    wrong;\n}\n'
    with pytest.raises(KernelError, match=r'f.cu\(4\): error: identifier "wrong"') as caught:
        nvrtc.compile("f", text, {"T": "float"}, "80")
    assert str(caught.value).count(": error") == 1


def test_no_fast_arithmetic(folder):
    """Neither flushed denormals nor approximate division: both leave .FTZ or MUFU.RCP alone in the machine code."""
    text = 'extern "C" __global__ void f(float* x, float y) { x[0] = x[0] / y; }'
    fast = nvrtc._compile("", {"f.cu": text}, ["--gpu-architecture=sm_80", *nvrtc.OPTIONS, "--use_fast_math"])
    assert len(nvrtc.compile("f", text, {}, "80").image) > len(fast.image)  # exact division is a longer program


def test_an_error_has_the_log_and_the_lines(folder):
    text = '// one\n// two\nextern "C" __global__ void f(T* x) {\n    x[0] = y;\n}\n'
    with pytest.raises(KernelError) as caught:
        nvrtc.compile("wrong", text, {"T": "float"}, "80")
    message = str(caught.value)
    assert 'wrong.cu(4): error: identifier "y" is undefined' in message
    assert ">    4     x[0] = y;" in message and "     2 // two" in message and "sm_80" in message


def test_an_error_in_a_header_shows_the_header(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(nvrtc, "sources", lambda: tmp_path)
    (tmp_path / "outer.cuh").write_text('#include "inner.cuh"\n')
    (tmp_path / "inner.cuh").write_text("// first\n__device__ int broken() { return nothing; }\n")
    with pytest.raises(KernelError, match=r">    2 __device__ int broken"):
        nvrtc.compile("user", '#include "outer.cuh"\n', {}, "80")
    with pytest.raises(KernelError, match=r'user.cu\(1\).*"missing.cuh"'):
        nvrtc.compile("user", '#include "missing.cuh"\n', {}, "80")


def test_an_unknown_architecture(folder):
    with pytest.raises(KernelError, match=r"sm_17 .*wanted an architecture of .*80"):
        nvrtc.compile("scaled", TEXT, {}, "17")


def test_without_the_package(monkeypatch):
    def refuses(name, *rest, **more):
        if name.startswith("cuda"):
            raise ImportError("No module named 'cuda'")
        return real(name, *rest, **more)

    real = builtins.__import__
    nvrtc.library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuses)
    with pytest.raises(DeviceError, match=r"pip install tensorlite\[cuda13\]"):
        nvrtc.library()


# ---- the disk
def test_an_entry_is_used_again(folder, compilations):
    first = compiled()
    assert compiled() == first
    assert compilations == ["scaled.cu"]
    assert [file.suffix for file in folder.iterdir()] == [".cubin"]


def test_all_that_matters_is_in_the_key(folder, tmp_path, compilations, monkeypatch):
    monkeypatch.setattr(nvrtc, "sources", lambda: tmp_path)
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\n')
    header = tmp_path / "b.cuh"
    header.write_text("#define ONE 1\n")
    text = '#include "a.cuh"\nextern "C" __global__ void f(int* x) { x[0] = ONE + TWO; }\n'
    calls = [
        lambda: nvrtc.compile("f", text, {"TWO": 2}, "80"),
        lambda: nvrtc.compile("f", text, {"TWO": 3}, "80"),
        lambda: nvrtc.compile("f", text, {"TWO": 2}, "90a"),
        lambda: nvrtc.compile("f", text + "// more\n", {"TWO": 2}, "80"),
        lambda: header.write_text("#define ONE 11\n") and nvrtc.compile("f", text, {"TWO": 2}, "80"),
    ]
    for k, call in enumerate(calls):
        call()
        assert len(compilations) == k + 1
    monkeypatch.setattr(nvrtc, "version", lambda: (12, 0))
    calls[0]()
    assert len(compilations) == len(calls) + 1


@pytest.mark.parametrize("harm", ["empty", "truncated", "flipped", "no header", "a folder"])
def test_a_broken_entry_is_made_anew(folder, compilations, harm):
    whole = compiled()
    (file,) = folder.iterdir()
    data = file.read_bytes()
    if harm == "flipped":
        at = len(data) // 2
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    data = {"empty": b"", "truncated": data[:-1], "no header": data.partition(b"\n")[2]}.get(harm, data)
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(data)
    assert compiled() == whole
    assert len(compilations) == 2
    if harm != "a folder":
        assert compiled() == whole and len(compilations) == 2


def test_nothing_is_left_of_a_write_that_fails(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert compiled().kernels
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, compilations):
    needs_gpu_check()
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_the_way))
    assert compiled() == compiled()
    assert len(compilations) == 2
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shut))
    assert compiled().kernels  # root writes into it all the same


def test_two_processes_at_once(folder):
    code = (
        "import sys; from tensorlite.backends import nvrtc; from test_cuda_nvrtc import TEXT\n"
        "sys.stdin.readline()\n"
        "for by in range(4): print(nvrtc.compile('scaled', TEXT, {'T': 'float', 'BY': by}, '80').kernels)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    said = [process.communicate("go\n", timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] and said[0][0].count("registers") == 4
    files = sorted(folder.iterdir())
    assert len(files) == 4 and all(nvrtc._read(file) is not None for file in files)
