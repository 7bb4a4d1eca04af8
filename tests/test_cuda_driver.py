"""Launching through the driver: what it is given, and what becomes of its complaints. It is a fake in Python, then one
in C++ beneath NVIDIA's own bindings, and at last a GPU where there is one."""

import builtins
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import threading
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_harness import needs_gpu_check, skip

from tensorlite import backends
from tensorlite.backends import driver, nvrtc
from tensorlite.errors import DeviceError, KernelError

ROOT = Path(__file__).resolve().parent.parent


class Result(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701
    CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720


class FakeDriver:
    """The calls of ``cuda.bindings.driver`` that are used, for one kernel with arguments of these types."""

    CUresult, CUfunction, CUkernel, CUdevice = Result, int, int, int
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="dynamic")

    def __init__(self, types):
        self.types, self.fails, self.calls, self.inside = types, {}, [], lambda: None
        self.device = 0

    def _done(self, call, *values):
        status = self.fails.get(call, Result.CUDA_SUCCESS)
        return (status, *values) if status is Result.CUDA_SUCCESS else (status, *(None for _ in values))

    def cuLibraryLoadData(self, image, *nothing):
        assert nothing == ([], [], 0, [], [], 0)
        self.calls.append(("load", image))
        return self._done("load", "library")

    def cuLibraryGetKernel(self, library, name):
        assert library == "library"
        self.calls.append(("kernel", name))
        return self._done("kernel", 77)

    def cuKernelGetParamInfo(self, kernel, index):
        if self.types is None:
            raise RuntimeError('Function "cuKernelGetParamInfo" not found')
        if index >= len(self.types):
            return Result.CUDA_ERROR_INVALID_VALUE, None, None
        return Result.CUDA_SUCCESS, 0, struct.calcsize(self.types[index])

    def cuCtxGetDevice(self):
        return self._done("device", self.device)

    def cuKernelSetAttribute(self, *given):
        self.calls.append(("attribute", *given))
        return self._done("attribute")

    def cuGetErrorString(self, status):
        return Result.CUDA_SUCCESS, b"words of " + status.name.lower().encode()

    def _launch(self, kind, function, *rest):
        *numbers, addresses = rest
        self.inside()
        places = ctypes.cast(addresses, ctypes.POINTER(ctypes.c_void_p))
        args = tuple(
            struct.unpack("@" + t, ctypes.string_at(places[k], struct.calcsize(t)))[0]
            for k, t in enumerate(self.types or "")
        )
        assert all(places[k] % struct.calcsize(t) == 0 for k, t in enumerate(self.types or "")), "not aligned"
        self.calls.append((kind, function, *numbers, args))
        return self._done("launch")

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, addresses, extra):
        assert extra == 0
        return self._launch("plain", function, (gx, gy, gz), (bx, by, bz), shared, stream, addresses)

    def cuLaunchCooperativeKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, addresses):
        return self._launch("cooperative", function, (gx, gy, gz), (bx, by, bz), shared, stream, addresses)


@pytest.fixture
def fake(monkeypatch):
    """A fake driver, whose kernel ``k`` has the types that a test sets."""
    module = FakeDriver("PPqif")
    cuda = SimpleNamespace(stream_pointer=lambda: 4096, architecture=lambda: "90a")
    cubin = nvrtc.Cubin(b"\x7fELF", "", {"k": nvrtc.Usage(registers=96, shared=1024)})

    def compile(name, text, defines, arch):
        assert arch == "90a"
        return cubin

    monkeypatch.setattr(driver, "api", lambda: module)
    monkeypatch.setattr(nvrtc, "compile", compile)
    monkeypatch.setitem(sys.modules, "tensorlite.backends.cuda", cuda)
    monkeypatch.setattr(backends, "cuda", cuda, raising=False)
    return module


def array(address):
    """As CuPy's arrays tell where they lie."""
    return SimpleNamespace(data=SimpleNamespace(ptr=address))


def function(types="PPqif", shared=0, cooperative=False, name="k"):
    return driver.function(driver.compile("family", "text", {}), name, types, shared, cooperative)


# ---- launches
def test_a_launch_passes_its_arguments(fake):
    function()((3, 2), (256,), (array(2**40), None, -(2**40), 7, 0.5))
    assert fake.calls == [
        ("load", b"\x7fELF"),
        ("kernel", b"k"),
        ("plain", 77, (3, 2, 1), (256, 1, 1), 0, 4096, (2**40, 0, -(2**40), 7, 0.5)),
    ]


def test_every_type_lies_where_c_puts_it(fake):
    fake.types = "iPIdfqiQ"
    given = (-1, array(1 << 63), 2**32 - 1, 0.1, 0.25, -(2**63), 5, 2**64 - 1)
    function("iPIdfqiQ")((1, 1, 1), (32, 2, 1), given)
    assert fake.calls[-1][-1] == (-1, 1 << 63, 2**32 - 1, 0.1, 0.25, -(2**63), 5, 2**64 - 1)


def test_numbers_of_numpy(fake):
    function()((1,), (1,), (None, None, np.int64(9), np.int32(3), np.float32(1.5)))
    assert fake.calls[-1][-1] == (0, 0, 9, 3, 1.5)


def test_a_kernel_without_arguments(fake):
    fake.types = ""
    function("")((1,), (1,), ())
    assert fake.calls[-1][-1] == ()


def test_cooperative_launch_with_much_shared_memory(fake):
    function(shared=100_000, cooperative=True)((8,), (128,), (None, None, 1, 2, 3.0))
    assert ("attribute", "dynamic", 100_000, 77, 0) in fake.calls
    assert fake.calls[-1][:5] == ("cooperative", 77, (8, 1, 1), (128, 1, 1), 100_000)


def test_another_gpu_is_allowed_the_shared_memory_too(fake):
    call = function(shared=100_000)
    fake.device = 1

    def once():
        fake.fails = {} if ("attribute", "dynamic", 100_000, 77, 1) in fake.calls else {"launch": Result(1)}

    fake.inside = once
    call((8,), (128,), (None, None, 1, 2, 3.0))
    assert [c[0] for c in fake.calls] == ["load", "kernel", "attribute", "plain", "attribute", "plain"]
    fake.inside, fake.fails = (lambda: None), {"launch": Result(1)}
    with pytest.raises(KernelError, match="INVALID_VALUE"):
        call((8,), (128,), (None, None, 1, 2, 3.0))


def test_no_blocks_is_no_launch(fake):
    call = function()
    for grid in ((0,), (4, 0), (1, 1, 0)):
        call(grid, (32,), (None, None, 1, 2, 3.0))
    assert [c[0] for c in fake.calls] == ["load", "kernel"]


def test_a_launch_within_a_launch_has_its_own_arguments(fake):
    """As with threads: the driver reads the arguments while another thread launches the same kernel."""
    call = function()

    def inside():
        fake.inside = lambda: None
        call((1,), (1,), (array(1), array(2), 3, 4, 5.0))

    fake.inside = inside
    call((1,), (1,), (array(10), array(20), 30, 40, 50.0))
    assert [c[-1] for c in fake.calls[-2:]] == [(1, 2, 3, 4, 5.0), (10, 20, 30, 40, 50.0)]


def test_threads(fake):
    fake.inside = lambda: threading.Event().wait(0.0005)  # lets the others run
    call = function()

    def launch(k):
        for i in range(20):
            call((1,), (1,), (array(k), array(i), k * i, k, 0.0))

    threads = [threading.Thread(target=launch, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = sorted(c[-1][:4] for c in fake.calls if c[0] == "plain")
    assert seen == sorted((k, i, k * i, k) for k in range(1, 5) for i in range(20))


# ---- refusals
@pytest.mark.parametrize(
    "args, said",
    [
        ((None, None, 1, 2), r"got 4 arguments; wanted 5, 'PPqif'"),
        ((None, None, 1, 2, 3.0, 4), r"got 6 arguments; wanted 5"),
        ((np.zeros(3), None, 1, 2, 3.0), r"argument 0 is ndarray; wanted an array of the device or None"),
        ((None, 4096, 1, 2, 3.0), r"argument 1 is 4096; wanted an array of the device"),
        ((None, None, 2**63, 2, 3.0), r"argument 2 is 9223372036854775808; wanted an int of 64 bits"),
        ((None, None, 1, 2.5, 3.0), r"argument 3 is 2.5; wanted an int of 32 bits \('i' of 'PPqif'\)"),
        ((None, None, 1, 2, array(3)), r"argument 4 is SimpleNamespace; wanted a float"),
    ],
)
def test_arguments_that_do_not_fit(fake, args, said):
    call = function()
    with pytest.raises(KernelError, match=r"family\.k: " + said):
        call((1,), (1,), args)
    call((1,), (1,), (None, None, 1, 2, 3.0))  # the next launch is none the worse
    assert [c[0] for c in fake.calls] == ["load", "kernel", "plain"]


def test_grids_that_are_none(fake):
    for grid, block in (((1, 1, 1, 1), (1,)), ((1,), (1, 1, 1, 1)), ((), (1,))):
        with pytest.raises(KernelError, match=r"family\.k: grid \(.*, block \(.*wanted tuples of 1 to 3"):
            function()(grid, block, (None, None, 1, 2, 3.0))
    with pytest.raises(KernelError, match=r"family\.k: grid 5"):
        function()(5, (1,), (None, None, 1, 2, 3.0))


def test_types_that_are_not_the_kernels(fake):
    with pytest.raises(KernelError, match=r"types 'PPiif' of \[8, 8, 4, 4, 4\] bytes; wanted .*\[8, 8, 8, 4, 4\]"):
        function("PPiif")
    with pytest.raises(KernelError, match="wanted the kernel's own"):
        function("PPqi")
    with pytest.raises(KernelError, match="types 'Px'; wanted letters of PiIqQfd"):
        function("Px")
    with pytest.raises(KernelError, match=r"family\.other: no such kernel; wanted one of k"):
        function(name="other")
    fake.types = None  # an older driver does not know
    assert callable(function("PP"))


@pytest.mark.parametrize(
    "where, status, error, said",
    [
        ("load", "NO_BINARY_FOR_GPU", KernelError, "family: loading its 4 bytes of machine code: words of"),
        ("load", "NOT_INITIALIZED", DeviceError, "CUDA_ERROR_NOT_INITIALIZED"),
        ("load", "NO_DEVICE", DeviceError, "CUDA_ERROR_NO_DEVICE"),
        ("kernel", "NOT_FOUND", KernelError, r"family\.k: looking the kernel up"),
        ("device", "INVALID_CONTEXT", DeviceError, "INVALID_CONTEXT"),
        ("attribute", "INVALID_VALUE", KernelError, "50000 bytes of dynamic shared memory a block.*96 registers"),
        ("launch", "LAUNCH_OUT_OF_RESOURCES", KernelError, r"grid \(9, 1, 1\), block \(1024, 1, 1\).*96 registers a "
         r"thread and 1024 \+ 50000 bytes of shared memory"),
        ("launch", "COOPERATIVE_LAUNCH_TOO_LARGE", KernelError, "96 registers"),
        ("launch", "ILLEGAL_ADDRESS", KernelError, "words of cuda_error_illegal_address.*launched before"),
        ("launch", "INVALID_CONTEXT", DeviceError, r"family\.k: grid"),
    ],
)  # fmt: skip
def test_what_the_driver_complains_of(fake, where, status, error, said):
    fake.fails[where] = Result["CUDA_ERROR_" + status]
    with pytest.raises(error, match=said):
        function(shared=50_000)((9,), (1024,), (None, None, 1, 2, 3.0))


def test_without_the_package(monkeypatch):
    def refuses(name, *rest, **more):
        if name.startswith("cuda"):
            raise ImportError("No module named 'cuda'")
        return real(name, *rest, **more)

    real = builtins.__import__
    driver.api.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuses)
    with pytest.raises(DeviceError, match=r"pip install tensorlite\[cuda13\]"):
        driver.api()


# ---- NVIDIA's bindings over a driver in C++
EMPTY = 'extern "C" __global__ void f(T* x, T* y, long long n, int k, float v, double w) { }'
BENEATH = (
    f"EMPTY = {EMPTY!r}"
    + """
import sys
from types import SimpleNamespace
from tensorlite import backends
cuda = SimpleNamespace(stream_pointer=lambda: 4096, architecture=lambda: "90a")
sys.modules["tensorlite.backends.cuda"] = backends.cuda = cuda
from tensorlite.backends import launch
from tensorlite.errors import KernelError
a = SimpleNamespace(data=SimpleNamespace(ptr=2 ** 40 + 8))
module = launch.load_text("f", EMPTY, T="float")
kernel = module.kernel("f", "PPqifd", shared=70000)
kernel((5, 4), (64, 2), a, None, -3, 9, 0.5, 0.25)
module.kernel("f", "PPqifd", cooperative=True)((6,), (32,), a, a, 1, 2, 3.0, 4.0)
for grid, block in (((5,), (2048,)), ((-1,), (1,))):
    try:
        kernel(grid, block, a, None, -3, 9, 0.5, 0.25)
    except KernelError as error:
        print(error)
try:
    module.kernel("f", "PPqifi")((1,), (1,))
except KernelError as error:
    print(error)
if len(sys.argv) > 1:
    from timeit import repeat
    grid, block, args = (7, 1, 1), (256, 1, 1), (a, a, 7, 9, 0.5, 0.25)
    from tensorlite.backends import driver
    call = kernel._functions[driver]
    for name, code in (("engine", lambda: call(grid, block, args)), ("Kernel", lambda: kernel(grid, block, *args))):
        print(name, "us a launch:", round(min(repeat(code, number=500, repeat=300)) / 500 * 1e6, 2))
"""
)


@pytest.fixture(scope="module")
def beneath(tmp_path_factory):
    """Runs a text in an interpreter whose libcuda is ``cuda_stub.cpp``; what it printed and what the stub was asked."""
    needs_gpu_check()
    if sys.platform != "linux" or shutil.which("g++") is None:
        skip("needs g++ on Linux to build a stand-in of libcuda")
    folder = tmp_path_factory.mktemp("libcuda")
    stub = Path(__file__).with_name("cuda_stub.cpp")
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", str(stub), "-o", str(folder / "libcuda.so.1")], check=True)

    # NVRTC asks the driver, too, and more than the stub knows: it finds the cubin on the disk
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        nvrtc.compile("f", EMPTY, {"T": "float"}, "90a")

    def run(code, *arguments):
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(folder),
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder),
            "STUB_LOG": str(folder / "log"),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, (folder / "log").read_text()

    return run


def test_the_bindings_pass_it_on(beneath):
    said, log = beneath(BENEATH)
    pointer, half, quarter = f"{2**40 + 8:016x}", struct.pack(">f", 0.5).hex(), struct.pack(">d", 0.25).hex()
    assert log.splitlines() == [
        "load ELF",
        "get f",
        "shared 70000",
        f"launch 5 4 1 64 2 1 70000 stream 4096: {pointer} {0:016x} {2**64 - 3:016x} {9:08x} {half} {quarter}",
        "get f",
        f"cooperative 6 1 1 32 1 1 0 stream 4096: {pointer} {pointer} {1:016x} {2:08x} "
        + f"{struct.pack('>f', 3.0).hex()} {struct.pack('>d', 4.0).hex()}",
        "get f",
    ]
    too_large, negative, other_types = said.splitlines()
    assert "f.f: grid (5, 1, 1), block (2048, 1, 1): the stub's words (CUDA_ERROR_INVALID_VALUE)" in too_large
    assert "registers a thread and 0 + 70000 bytes" in too_large
    assert "f.f: grid (-1, 1, 1), block (1, 1, 1)" in negative
    assert "wanted the kernel's own [8, 8, 8, 4, 4, 8]" in other_types


@pytest.mark.slow
def test_a_launch_costs_little(beneath):
    said, _ = beneath(BENEATH, "time")
    print(said)
    times = [float(line.rpartition(" ")[2]) for line in said.splitlines() if "us a launch" in line]
    assert len(times) == 2 and max(times) < 5.0


# ---- a GPU
@pytest.mark.gpu
def test_on_a_gpu():
    cupy = pytest.importorskip("cupy")
    from tensorlite.backends import cuda, launch

    assert cuda.architecture()
    text = (
        'extern "C" __global__ void f(const float* x, float* y, long long n, float by) {\n'
        "    extern __shared__ float s[];\n"
        "    long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;\n"
        "    s[threadIdx.x] = i < n ? x[i] : 0.0f;\n"
        "    __syncthreads();\n"
        "    if (i < n) y[i] = s[threadIdx.x] * by;\n"
        "}\n"
    )
    x, y = cupy.arange(1000, dtype="float32"), cupy.zeros(1000, "float32")
    for cooperative in (False, True):
        kernel = launch.load_text("f", text).kernel("f", "PPqf", shared=60_000, cooperative=cooperative)
        kernel((4,), (256,), x, y, 1000, 2.5)
        assert (y.get() == np.arange(1000, dtype="float32") * np.float32(2.5)).all()
        y[:] = 0
    with pytest.raises(KernelError, match="registers a thread"):
        kernel((4,), (2048,), x, y, 1000, 2.5)
    with pytest.raises(KernelError, match="wanted the kernel's own"):
        launch.load_text("f", text).kernel("f", "PPif")((1,), (1,), x, y, 1, 1.0)
