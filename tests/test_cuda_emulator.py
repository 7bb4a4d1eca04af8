"""The emulator of CUDA kernels: the faults that it must find, what it takes and refuses, its cache, its speed."""
# ruff: noqa: F811  (fixtures are imported)

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import SOURCES, emulation, every_order, kernels, needs_compiler, random  # noqa: F401

from tensorlite.backends import emulator, launch
from tensorlite.errors import DeviceError, KernelError

pytestmark = needs_compiler
ROOT = Path(__file__).resolve().parent.parent
FAULTS = (SOURCES / "faults.cu").read_text(encoding="utf-8")
tensor = kernels("tensor")


# ---- faults
faults = kernels("faults")


def line(text: str, last: bool = False, shift: int = 0) -> str:
    """Where this stands in FAULTS."""
    return f"faults.cu:{1 + shift + FAULTS[: (FAULTS.rindex if last else FAULTS.index)(text)].count(chr(10))}"


def refused(kernel, types, grid, block, *args, match, **kw):
    with pytest.raises(KernelError, match=match) as e:
        faults(kernel, types, grid, block, *args, **kw)
    assert str(e.value).startswith(kernel + ":")
    return str(e.value)


def test_a_missing_barrier_shows_in_another_order():
    for kernel, n in ("reverse", 64), ("warp_reverse", 32):
        for with_barrier, equal in ((1, True), (0, False)):
            seen = set()
            for k in range(emulator.ORDERS):
                x = random(n)
                with emulator.order(k):
                    faults(kernel, "Pi", 1, n, x, with_barrier)
                seen.add(x.tobytes())
            assert (len(seen) == 1) is equal
            assert not equal or x.tobytes() == random(n)[::-1].tobytes()


def test_blocks_that_write_one_place_show_in_another_order():
    seen = set()
    for k in range(emulator.ORDERS):
        x = np.zeros(1, np.float32)
        with emulator.order(k):
            faults("racy_blocks", "P", 7, 32, x)
        seen.add(x[0])
    assert len(seen) > 1


def test_barriers_that_not_all_reach(every_order):
    x = random(64)
    text = refused("divergent", "P", 2, 64, x, match="meet at different barriers")
    assert f"threads 0 to 19 wait: barrier at {line('if (threadIdx.x < 20) barrier')}\n" in text
    assert f"threads 20 to 63 wait: barrier at {line('else barrier')}" in text
    text = refused("partial", "Pi", 1, 64, x, 40, match="deadlock: threads wait")
    assert (
        f"threads 0 to 39 wait: barrier at {line('    barrier();')}" in text and "threads 40 to 63 have ended" in text
    )
    faults("partial", "Pi", 1, 64, x, 64)  # and the next launch is none the worse for it


def test_shuffles_that_not_all_reach(every_order):
    x = random(64)
    text = refused("half_warp", "P", 1, 64, x, match="deadlock: threads wait")
    assert f"threads 0 to 15 wait: shuffle_xor at {line('if (threadIdx.x % 32 < 16)')}\n" in text
    assert "threads 16 to 31 have ended" in text
    text = refused("mixed_warp", "P", 1, 64, x, match="a warp's threads meet at different places:")
    assert line("if (threadIdx.x % 32 < 16)", last=True) in text and line("else x[threadIdx.x]") in text
    refused("other_mask", "P", 1, 32, x, match=rf"shuffle_xor at {line('0xffff,')}: thread .* is not in its own mask")
    refused("half_product", "P", 1, 48, x, match=f"mma at {line('mma_f16')}: a warp of less than 32 threads")


def test_shared_memory_is_nan_when_a_block_starts():
    x, y = np.zeros(8, np.float32), np.zeros(4, np.int32)
    faults("unset", "PP", 3, 32, x, y, shared=8)
    assert np.isnan(x).all() and (y == -1).all()


def test_out_of_shared_memory():
    x = random(4)
    refused("too_far", "Pi", 1, 1, x, 8, match="goes 0 bytes beyond the end of tile, 32 bytes of shared memory")
    refused("too_far", "Pi", 1, 1, x, -1, match=r"block \(0, 0, 0\) writes before the start of tile, 32 bytes")
    refused("too_far_dynamic", "Pi", 1, 1, x, 28, shared=100, match="goes 12 bytes beyond the end of the dynamic array")
    refused("too_far_dynamic", "Pi", 1, 1, x, 25, shared=100, match="writes beyond the end of the dynamic array, 100")
    refused("too_far_dynamic", "Pi", 1, 1, x, -3, shared=100, match="writes before the start of the dynamic array")
    refused("too_far_dynamic", "Pi", 1, 1, x, 0, match="the launch asks for none; wanted shared=")
    refused("too_far_dynamic", "Pi", 1, 1, x, 0, shared=228 << 10, match="wanted 0 to 232448")
    refused("big_static", "P", 1, 1, x, match="static shared memory: 56000 bytes; wanted at most 49152")
    faults("too_far", "Pi", 1, 1, x, 7)
    faults("too_far_dynamic", "Pi", 1, 1, x, 24, shared=100)


def test_out_of_global_memory():
    x, y = emulator.guarded(random(100)), np.zeros(1, np.float32)
    faults("far_read", "PPi", 1, 32, x, y, 99)
    assert y[0] == x[99]
    text = refused(
        "far_read", "PPi", 1, 32, x, y, 100, match=r"thread \(0, 0, 0\) of block \(0, 0, 0\) reads or writes"
    )
    assert "memory that is not there" in text and f"(after barrier at {line('y[0] = x[n]', shift=-1)})" in text
    refused("far_read", "PPi", 1, 32, None, y, 3, match=r"through a null pointer \(\+12\)")


def test_misaligned_vectors():
    x = np.zeros(64, np.float32)
    x = x[(-x.ctypes.data // 4) % 4 :][:32]
    faults("misaligned", "PP", 1, 1, x, x[4:])
    refused(
        "misaligned", "PP", 1, 1, x[1:], x, match=rf"{line('load4(x)')}: thread .* 16 bytes at .* not a multiple of"
    )
    refused("misaligned", "PP", 1, 1, x, x[2:], match="not a multiple of 16")
    refused("misaligned_copy", "PP", 1, 1, x, x, match="not a multiple of 16")
    refused("long_copy", "P", 1, 1, x, match=f"cp_async at {line('17);')}: 17 bytes; wanted 0 to 16")


def test_faults_of_the_processor():
    x = np.zeros(1, np.int32)
    refused("zero_division", "Pi", 1, 1, x, 0, match="divides an integer by zero")
    refused("recursive", "Pi", 1, 1, x, 10**6, match="has no stack left")
    faults("recursive", "Pi", 1, 1, x, 100)
    assert x[0] == sum(range(2, 101))
    refused("trap", "P", 1, 32, x, match=r"__trap at faults.cu:\d+ by thread \(3, 0, 0\)")


def test_flags_that_nobody_sets():
    flag = np.zeros(2, np.uint32)
    text = refused("spin", "P", 2, 64, flag, cooperative=True, match="deadlock: flags are polled that nobody sets")
    assert (
        "block (1, 0, 0)" in text
        and "thread 0 waits: load_flag at faults.cu" in text
        and "threads 1 to 63 wait" in text
    )
    refused("spin_two", "P", 1, 1, flag, match="flags are polled that nobody sets")
    refused("handed_on", "P", 2, 32, flag, match="wanted cooperative=True")
    flag[:] = 0
    faults("handed_on", "P", 2, 32, flag, cooperative=True)
    assert flag[0] == 1


def test_ctrl_c_ends_an_endless_loop():
    """Whichever thread of the process the signal comes to."""

    def interrupt(x, target, done):
        while x[1] == 0:  # until the kernel runs
            time.sleep(0.01)
        signal.pthread_kill(target or threading.get_ident(), signal.SIGINT)
        done.wait()

    for target in (threading.main_thread().ident, None):
        x, done = np.zeros(2, np.int32), threading.Event()
        helper = threading.Thread(target=interrupt, args=(x, target, done))
        helper.start()
        with pytest.raises(KeyboardInterrupt, match=r"endless: interrupted: thread \(1, 0, 0\)"), emulator.order(1):
            faults("endless", "P", 1, 2, x)
        done.set()
        helper.join()
    with pytest.raises(KeyboardInterrupt):  # Python's own handler is back
        signal.raise_signal(signal.SIGINT)


def test_cooperative_launches():
    counter = np.zeros(1, np.uint32)
    refused("together_only", "P", 2, 32, counter, match="grid_barrier at faults.cu.* without cooperative=True")
    faults("together_only", "P", 40, 256, counter, cooperative=True)
    refused(
        "together_only", "P", 265, 1024, counter, cooperative=True, match="265 blocks launched together; at most 264"
    )


# ---- launching
def test_types_are_those_of_the_kernel():
    y = np.zeros(7, np.float32)
    faults("types", "PiIqQfdP", 1, 1, None, -1, 2**31, -(2**40), 2**63, 0.5, 0.25, y)
    assert y.tolist() == [-1, 2**31, -(2**40), 2**63, 0.5, 0.25, 1]
    args = (None, 1, 1, 1, 1, 1.0, 1.0, y)
    refused("types", "PiIqQfd", 1, 1, *args[:-1], match=r"7 argument types 'PiIqQfd'; wanted 8 \(PiIqQfdP\)")
    refused("types", "PqIqQfdP", 1, 1, *args, match="argument 1 is given as long long; wanted int")
    refused("types", "PiIqQddP", 1, 1, *args, match="argument 5 is given as double; wanted float")
    refused("types", "iiIqQfdP", 1, 1, *args, match="argument 0 is given as int; wanted a pointer")
    refused("types", "PiIqQfdx", 1, 1, *args, match="argument 7 has type letter 'x'")
    refused("types", "PiIqQfdP", 1, 1, *args[:-1], match="7 arguments; wanted 8")
    refused("types", "PiIqQfdP", 1, 1, None, 1.5, *args[2:], match=r"argument 1 is 1\.5; wanted int")
    refused("types", "PiIqQfdP", 1, 1, None, 2**31, *args[2:], match="argument 1 is 2147483648; wanted int")
    refused("types", "PiIqQfdP", 1, 1, 17, *args[1:], match="argument 0 is int; wanted an array, or None")
    refused("types", "PiIqQfdP", 1, 1, [1.0], *args[1:], match="argument 0 is list; wanted an array")
    refused("odd_types", "ii", 1, 1, 1, 1, match="argument 0 is given as int; wanted a type that no letter stands for")
    refused("nothing", "P", 1, 1, y, match='no such kernel; wanted an extern "C" __global__ function')


def test_arrays_of_a_device():
    """What CuPy and its stand-in have: data.ptr."""

    class Data:
        def __init__(self, ptr):
            self.ptr = ptr

    class Array:
        def __init__(self, array):
            self.data = Data(array.ctypes.data)

    y = np.zeros(7, np.float32)
    faults("types", "PiIqQfdP", 1, 1, Array(y), 3, 0, 0, 0, 0.0, 0.0, Array(y))
    assert y[0] == 3 and y[6] == 0


def test_sizes_of_a_launch():
    x = np.zeros(1024, np.float32)
    faults("bounded", "P", 1, 64, x)
    refused("bounded", "P", 1, 65, x, match="65 threads a block; wanted at most 64")
    refused("racy_blocks", "P", 1, (32, 33), x, match="1056 threads a block; wanted at most 1024")
    refused("racy_blocks", "P", 0, 32, x, match=r"grid \(0,\)")
    refused("racy_blocks", "P", (1, 65536), 32, x, match=r"grid \(1, 65536\)")
    refused("racy_blocks", "P", 1, (1, 1, 65), x, match=r"block \(1, 1, 65\)")
    refused("racy_blocks", "P", (1, 1, 1, 1), 1, x, match=r"grid \(1, 1, 1, 1\)")
    refused(
        "two_dimensions", "P", 1, (32, 2), np.zeros(1, np.int32), match=r"block of \(32, 2, 1\) threads; wanted one"
    )
    with pytest.raises(ValueError, match="order: got 4; wanted 0 to 3"), emulator.order(4):
        pass


def test_threads_of_python_may_launch_at_once():
    results = [random(64, seed=k) for k in range(4)]

    def work(x):
        for _ in range(20):
            faults("reverse", "Pi", 3, 64, x, 1)

    work(results[0])
    threads = [threading.Thread(target=work, args=(x,)) for x in results[1:]]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, x in enumerate(results):
        np.testing.assert_array_equal(x, random(64, seed=k))  # 60 times reversed


# ---- compiling
tiny = 'extern "C" __global__ void set(float* x) { x[threadIdx.x] = VALUE; }'


def test_libraries_are_kept_and_broken_ones_are_built_anew():
    x = np.zeros(2, np.float32)

    def load(value):
        compiled = emulator.compile("tiny", tiny, {"VALUE": value}, ("-O0",))  # quicker to build
        emulator.function(compiled, "set", "P", 0, False)((1,), (2,), (x,))
        return x[1]

    assert load(3) == 3
    (kept,) = emulator.folder().glob("tiny-*.so")
    made = kept.stat().st_mtime_ns
    assert load(3) == 3 and kept.stat().st_mtime_ns == made
    whole = kept.read_bytes()
    kept.unlink()  # the process holds the old one
    kept.write_bytes(whole[: len(whole) // 2])
    assert load(3) == 3 and len(kept.read_bytes()) == len(whole)
    assert load(4) == 4  # another macro is another library
    assert len([*emulator.folder().glob("tiny-*.so")]) == 2
    for broken in (b"", b"nonsense", whole[:-40] + bytes(40)):
        kept.write_bytes(broken)
        assert not emulator._is_whole(kept)
    assert not list(emulator.folder().glob(".build-*"))


def test_kernels_may_have_names_of_the_c_library():
    text = '#define NAMED(f) extern "C" __global__ void f(float* x) { x[0] = ::f(x[0]); }\nNAMED(exp) NAMED(round)'
    text += '\nextern "C" __global__ void index(float* x) { x[0] += 1; }'
    x = np.ones(1, np.float32)
    for name in ("exp", "round", "index"):
        launch.load_text("names", text).kernel(name, "P")((1,), (1,), x)
    assert x[0] == 4


def test_what_does_not_compile_is_told():
    with pytest.raises(KernelError, match=r"(?s)broken: g\+\+ refuses it:.*broken\.cu:2:.*nonsense"):
        launch.load_text("broken", '\nnonsense\nextern "C" __global__ void f() {}').kernel("f", "")((1,), (1,))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    emulator.compiler.cache_clear()
    try:
        assert not emulator.available()
        with pytest.raises(DeviceError, match=r"no g\+\+ on this machine; wanted one \(Debian: apt install g\+\+\)"):
            emulator.compile("tiny", tiny, {"VALUE": 1})
    finally:
        emulator.compiler.cache_clear()


def test_cudas_own_words():
    """Kernels that were written without our header: __shared__, extern __shared__, __syncthreads, __shfl_xor_sync."""
    text = r"""
        #define N 16
        __constant__ float scale = 2;
        extern "C" __global__ void __launch_bounds__(N * N, 1) turn(float* x) {
            __shared__ float tile[N][N + 1];
            __shared__ unsigned count;
            __shared__ volatile unsigned long long wide;
            extern __shared__ float all[];
            const int i = threadIdx.x;
            if (i == 0) count = 0, wide = 1ull << 40;
            tile[i / N][i % N] = x[i];
            all[i] = x[i];
            __syncthreads();
            atomicAdd(&count, 1u);
            __syncthreads();
            x[i] = scale * tile[i % N][i / N] + count * (wide >> 40) + __shfl_xor_sync(0xffffffff, all[i], 1);
        }
        """
    x = random(256)
    want = 2 * x.reshape(16, 16).T.ravel() + 256 + x.reshape(-1, 2)[:, ::-1].ravel()
    turn = launch.load_text("words.cu", text).kernel("turn", "P", shared=1024)
    turn((1,), (256,), x)
    np.testing.assert_allclose(x, want, rtol=1e-6)
    with pytest.raises(KernelError, match="257 threads a block; wanted at most 256"):
        turn((1,), (257,), x)


def test_the_stack_switch_of_the_c_library_does_the_same():
    """ucontext, which other processors use."""
    text = r"""
#include "device.cuh"
extern "C" __global__ void rotate(float* x) {
    TL_SHARED(float, s, 64);
    s[threadIdx.x] = shuffle_from(x[threadIdx.x], lane_id());
    barrier();
    const float v = s[(threadIdx.x + 1) % 64];
    barrier();
    x[threadIdx.x] = v;
}
extern "C" __global__ void bad(float* x) {
    if (threadIdx.x < 8) barrier(); else x[threadIdx.x] = 1;
}
"""
    lib = emulator.compile("switched", text, {}, ("-DTL_UCONTEXT",))
    x = random(64)
    emulator.function(lib, "rotate", "P", 0, False)((5,), (64,), (x,))
    np.testing.assert_array_equal(x, random(64)[(np.arange(64) + 5) % 64])
    bad = emulator.function(lib, "bad", "P", 0, False)
    for _ in range(2):
        with pytest.raises(KernelError, match=r"threads 0 to 7 wait: barrier at switched\.cu:12"):
            bad((1,), (64,), (x,))
        with pytest.raises(KernelError, match="null pointer"):
            bad((1,), (64,), (None,))


def test_it_is_quick_enough():
    """A tiled product of 64^3 in less than 20 ms (2 to 4 on a quiet machine): the best of several."""
    a, b, c = random(64, 64), random(64, 64, seed=1), np.zeros((64, 64), np.float32)
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        tensor("matmul", "PPPi", (4, 4), (16, 16), a, b, c, 64)
        best = min(best, time.perf_counter() - start)
    print(f"tiled product of 64^3: {1e3 * best:.1f} ms")
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)
    assert best < 0.02


# ---- sanitizers
SANITIZED = """
import sys
import numpy as np
from tensorlite.backends import emulator
sanitizers, kernel, last, text = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]), sys.stdin.read()
x, y, flag = np.arange(256, dtype=np.float32), np.zeros(8, np.float32), np.zeros(1, np.uint32)
with emulator.sanitize(*sanitizers):
    lib = emulator.compile("races", text, {})
shape, *args = {
    "reverse": ((1, 64), "Pi", x, last), "one_place": ((3, 64), "Pi", x, last), "copy": ((1, 64), "Pi", x, last),
    "handed_on": ((2, 32), "PPi", flag, x, last), "last_one": ((5, 32), "PPPi", x, y, flag, last),
    "sums": ((4, 64), "PPP", x, y, flag), "beyond": ((1, 32), "PPi", x, y, last), "index": ((1, 1), "Pi", x, last),
    "shift": ((1, 1), "Pi", x.view(np.int32), last),
}[kernel]
types, *args = args
emulator.function(lib, kernel, types, 0, kernel in ("handed_on", "sums"))(shape[:1], shape[1:], tuple(args))
print("finished")
"""


def sanitized(kernel: str, last: int, *names: str) -> str:
    """What a process prints that runs a kernel of tests/cuda/races.cu under these sanitizers."""
    text = (SOURCES / "races.cu").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, ",".join(names), kernel, str(last)],
        env=os.environ | emulator.preload(*names) | {"PYTHONPATH": str(ROOT)},
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def race(text: str) -> str:
    return f"races.cu:{1 + (SOURCES / 'races.cu').read_text(encoding='utf-8').split(text)[0].count(chr(10))}"


@pytest.mark.slow
def test_a_race_is_named():
    """Each CUDA thread is a thread to ThreadSanitizer; only barriers, flags, fences and atomics order them."""
    for kernel in ("reverse", "one_place", "copy", "handed_on", "last_one", "sums"):
        text = sanitized(kernel, 1, "thread")
        assert "finished" in text and "WARNING" not in text, text
    for kernel, line_of in [
        ("reverse", "s[threadIdx.x] = x[threadIdx.x];"),
        ("one_place", "else x[0] += 1.0f;"),
        ("copy", "const float v = s[4"),
        ("handed_on", "else flag[0] = 1;"),
        ("last_one", "y[1 + blockIdx.x] = x[blockIdx.x];"),
    ]:
        text = sanitized(kernel, 0, "thread")
        assert "ThreadSanitizer: data race" in text and race(line_of) in text, text


@pytest.mark.slow
def test_out_of_bounds_is_named():
    for kernel, last in (("reverse", 1), ("copy", 1), ("sums", 1), ("beyond", 255), ("index", 7), ("shift", 5)):
        text = sanitized(kernel, last, "address", "undefined")
        assert "finished" in text and "ERROR" not in text and "runtime error" not in text, text
    text = sanitized("beyond", 256, "address", "undefined")
    assert "heap-buffer-overflow" in text and race("y[0] = x[n];") in text and "finished" not in text, text
    text = sanitized("index", 8, "address", "undefined")
    assert race("s[n] = 1;") in text and "index 8 out of bounds for type 'float [8]'" in text, text
    text = sanitized("shift", 40, "undefined")
    assert race("1 << n") in text and "shift exponent 40 is too large" in text, text


def test_sanitizers_that_do_not_go_together():
    with pytest.raises(ValueError, match="wanted 'thread', or one or both"), emulator.sanitize("thread", "address"):
        pass


def test_the_programs_of_the_document_run():
    """docs/emulator.md: its programs run."""
    document = (ROOT / "docs" / "emulator.md").read_text(encoding="utf-8")
    space = {"__name__": "docs"}
    programs = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    assert len(programs) == 2
    for program in programs:
        exec(program, space)
