"""The emulator of CUDA kernels and the header that they include: every wrapper beside NumPy, every fault it must find."""

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import emulator, launch
from tensorlite.errors import DeviceError, KernelError
from tensorlite.ops import philox

pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
ROOT = Path(__file__).resolve().parent.parent
PHILOX_KEY = np.array([-5, 2**40 + 3])


@pytest.fixture(scope="module", autouse=True)
def emulation(tmp_path_factory):
    """Kernels run in the emulator, and what is compiled goes to a folder of this session."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    with config.CUDA_EMULATION(1):
        yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(params=range(emulator.ORDERS))
def every_order(request):
    with emulator.order(request.param):
        yield


def kernels(name: str, text: str):
    """run(kernel, types, grid, block, *arguments) on the kernels of a text; a grid or block is a number or a tuple."""

    def run(kernel, types, grid, block, *args, **kw):
        sizes = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
        launch.load_text(name, text).kernel(kernel, types, **kw)(*sizes, *args)

    return run


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- numbers
numbers = kernels(
    "numbers",
    r"""
#include "device.cuh"
extern "C" __global__ void from_half(const half_t* h, const bf16_t* b, float* x, float* y, half_t* hh, bf16_t* bb, long long n) {
    grid_stride(n, [&](long long i) {
        x[i] = to_float(h[i]), y[i] = to_float(b[i]);
        hh[i] = from_float<half_t>(x[i]), bb[i] = from_float<bf16_t>(y[i]);
    });
}
extern "C" __global__ void to_small(const float* x, const double* xx, half_t* h, half_t* hh, bf16_t* b, unsigned* t, long long n) {
    grid_stride(n, [&](long long i) { h[i] = half_of(x[i]), hh[i] = half_of(xx[i]), b[i] = bf16_of(x[i]), t[i] = to_tf32(x[i]); });
}
template <class T>
__device__ void all_functions(T x, T y, T* to, long long n) {
    const T v[] = {tl_exp(x), tl_exp2(x), tl_expm1(x), tl_log(y), tl_log2(y), tl_log10(y), tl_log1p(y), tl_sqrt(y),
                   tl_rsqrt(y), tl_cbrt(x), tl_sin(x), tl_cos(x), tl_tan(x), tl_atan(x), tl_sinh(x), tl_cosh(x),
                   tl_tanh(x), tl_asinh(x), tl_abs(x), tl_floor(x), tl_ceil(x), tl_trunc(x), tl_round(x), tl_pow(y, x),
                   tl_atan2(x, y), tl_fmod(x, y), tl_hypot(x, y), tl_copysign(y, x), tl_fma(x, y, x), tl_sigmoid(x),
                   tl_min(x, y), tl_max(x, y)};
    for (int k = 0; k < 32; ++k) to[k * n] = v[k];
}
extern "C" __global__ void functions(const float* x, const float* y, float* to, const double* xx, const double* yy, double* too, long long n) {
    grid_stride(n, [&](long long i) {
        all_functions(x[i], y[i], to + i, n);
        all_functions(xx[i], yy[i], too + i, n);
    });
}
extern "C" __global__ void bounded(const double* x, double* to, long long n) {
    grid_stride(n, [&](long long i) {
        const double v[] = {tl_asin(x[i]), tl_acos(x[i]), tl_atanh(x[i]), tl_erf(x[i]), tl_erfc(x[i]),
                            tl_acosh(1 + x[i] * x[i]), tl_lgamma(x[i]), tl_tgamma(x[i] + 2)};
        for (int k = 0; k < 8; ++k) to[k * n + i] = v[k];
    });
}
extern "C" __global__ void rough(const float* x, float* e, float* t, float* extreme, long long n) {
    grid_stride(n, [&](long long i) { e[i] = fast_exp(x[i]), t[i] = fast_tanh(x[i]); });
    extreme[0] = INF, extreme[1] = NAN_F, extreme[2] = tl_max(NAN_F, 1.0f), extreme[3] = tl_max(1.0f, NAN_F);
    extreme[4] = tl_min(NAN_F, 1.0f), extreme[5] = tl_min(1.0f, NAN_F), extreme[6] = is_nan(extreme[1]);
}
extern "C" __global__ void divide(const unsigned* n, unsigned* q, unsigned* r, unsigned mul, unsigned shift, unsigned divisor, int count) {
    const FastDivider d{mul, shift, divisor};
    for (int i = 0; i < count; ++i) q[i] = d.divide(n[i], r[i]);
}
extern "C" __global__ void intrinsics(unsigned* y, float* f) {
    y[0] = __popc(0xf0f1u), y[1] = __ffs(8), y[2] = __clz(1), y[3] = __brev(1u), y[4] = __umulhi(0x80000000u, 6u);
    y[5] = min(3, 4u), y[6] = max(3, 2), y[7] = __float_as_uint(1.0f), y[8] = __clz(0), y[9] = __popcll(~0ull);
    f[0] = __fmul_rn(3, 4), f[1] = __fadd_rn(3, 4), f[2] = __fmaf_rn(3, 4, 5), f[3] = rsqrtf(4), f[4] = __int_as_float(0x40000000);
    f[5] = make_float4(1, 2, 3, 4).z, f[6] = __ldg(f + 5), f[7] = __dadd_rn(1, 2), f[8] = __fdividef(1, 2);
}
""",
)


def test_all_halves_and_bfloats():
    """Every bit pattern there and back; NaN comes back as the one NaN that a GPU makes."""
    bits = np.arange(65536, dtype=np.uint16)
    x, y, h, b = np.empty(65536, np.float32), np.empty(65536, np.float32), np.empty_like(bits), np.empty_like(bits)
    numbers("from_half", "PPPPPPq", 2, 64, bits, bits, x, y, h, b, bits.size)
    np.testing.assert_array_equal(x, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(y, bits.view(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(h, np.where(np.isnan(x), 0x7FFF, bits))
    np.testing.assert_array_equal(b, np.where(np.isnan(y), 0x7FFF, bits))


def test_rounding_to_small_floats():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = np.concatenate([(halves[1:] + halves[:-1]) / 2, [65519.9, 65520.0, 65536.0, 1e30, np.inf, np.nan, 0.0]])
    near = np.concatenate([np.nextafter(ties, 0), np.nextafter(ties, np.inf), ties * (1 + 2**-30)])
    xx = np.concatenate([ties, near, halves * (1 + 1e-4), random(5000, dtype=np.float64) * 1e-6])
    xx = np.concatenate([xx, -xx])
    with np.errstate(over="ignore"):
        x = xx.astype(np.float32)
        h, hh, b = (np.empty(x.size, np.uint16) for _ in range(3))
        t = np.empty(x.size, np.uint32)
        numbers("to_small", "PPPPPPq", 2, 64, x, xx, h, hh, b, t, x.size)
        np.testing.assert_array_equal(h.view(np.float16), x.astype(np.float16))
        np.testing.assert_array_equal(hh.view(np.float16), xx.astype(np.float16))
    wanted = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(b.view(ml_dtypes.bfloat16).astype(np.float32), wanted)
    tf32 = t.view(np.float32).astype(np.float64)
    finite = np.isfinite(x) & (x != 0)
    assert not (t[finite] & 0x1FFF).any()
    exact = np.abs(x[finite].astype(np.float64))
    unit = 2.0 ** (np.maximum(np.floor(np.log2(exact)), -126) - 10)
    np.testing.assert_array_equal(np.abs(tf32[finite]), np.floor(exact / unit + 0.5) * unit)
    np.testing.assert_array_equal(tf32[~finite], x[~finite])


@pytest.mark.parametrize("case", ["float", "double"])
def test_functions_are_those_of_the_c_library(case):
    n = 33
    xx, yy = np.linspace(-4, 4, n), np.linspace(0.1, 5, n)
    x, y = xx.astype(np.float32), yy.astype(np.float32)
    to, too = np.empty((32, n), np.float32), np.empty((32, n))
    numbers("functions", "PPPPPPq", 3, 32, x, y, to, xx, yy, too, n)
    a, b, got, rtol = (x, y, to, 2e-6) if case == "float" else (xx, yy, too, 1e-14)
    a, b = a.astype(np.float64), b.astype(np.float64)
    wanted = [np.exp(a), np.exp2(a), np.expm1(a), np.log(b), np.log2(b), np.log10(b), np.log1p(b), np.sqrt(b),
              1 / np.sqrt(b), np.cbrt(a), np.sin(a), np.cos(a), np.tan(a), np.arctan(a), np.sinh(a), np.cosh(a),
              np.tanh(a), np.arcsinh(a), np.abs(a), np.floor(a), np.ceil(a), np.trunc(a), np.rint(a), b**a,
              np.arctan2(a, b), np.fmod(a, b), np.hypot(a, b), np.copysign(b, a), a * b + a, 1 / (1 + np.exp(-a)),
              np.minimum(a, b), np.maximum(a, b)]  # fmt: skip
    for k, want in enumerate(wanted):
        np.testing.assert_allclose(got[k], want, rtol=rtol, atol=rtol / 4, err_msg=f"function {k}")


def test_bounded_and_rough_functions():
    import math

    x = np.linspace(0.05, 0.95, 19)
    to = np.empty((8, 19))
    numbers("bounded", "PPq", 1, 32, x, to, 19)
    for k, f in enumerate([math.asin, math.acos, math.atanh, math.erf, math.erfc, lambda v: math.acosh(1 + v * v),
                           math.lgamma, lambda v: math.gamma(v + 2)]):  # fmt: skip
        np.testing.assert_allclose(to[k], [f(v) for v in x], rtol=1e-13, atol=1e-15)
    e, t, extreme = np.empty(19, np.float32), np.empty(19, np.float32), np.empty(7, np.float32)
    numbers("rough", "PPPPq", 1, 32, x.astype(np.float32), e, t, extreme, 19)
    np.testing.assert_allclose(e, np.exp(x), rtol=1e-5)
    np.testing.assert_allclose(t, np.tanh(x), rtol=1e-3)
    np.testing.assert_array_equal(extreme, [np.inf, np.nan, np.nan, np.nan, np.nan, np.nan, 1])


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 10, 64, 641, 65537, 2**30 - 1, 2**31 - 1])
def test_division_without_a_division(divisor):
    shift = (divisor - 1).bit_length()
    mul = (2**32 * (2**shift - divisor)) // divisor + 1
    n = np.random.default_rng(0).integers(0, 2**31, 500, np.uint32)
    n[:6] = 0, 1, divisor - 1, divisor, 2**31 - 1, max(divisor - 2, 0)
    q, r = np.empty_like(n), np.empty_like(n)
    numbers("divide", "PPPIIIi", 1, 1, n, q, r, mul, shift, divisor, n.size)
    np.testing.assert_array_equal(q, n // divisor)
    np.testing.assert_array_equal(r, n % divisor)


def test_intrinsics():
    y, f = np.zeros(10, np.uint32), np.zeros(9, np.float32)
    numbers("intrinsics", "PP", 1, 1, y, f)
    assert y.tolist() == [9, 4, 31, 2**31, 3, 3, 3, 0x3F800000, 32, 64]
    assert f.tolist() == [12, 7, 17, 0.5, 2, 3, 3, 3, 0.5]


# ---- threads together
together = kernels(
    "together",
    r"""
#include "device.cuh"
extern "C" __global__ void indices(int* y) {
    const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    y[b * blockDim.x * blockDim.y * blockDim.z + t] = b * 1000 + t;
}
extern "C" __global__ void shuffles(const float* x, float* y, const double* d, double* dd, long long* q) {
    const int i = threadIdx.x;
    y[i] = shuffle_xor(x[i], 5), y[64 + i] = shuffle_down(x[i], 3), y[128 + i] = shuffle_up(x[i], 3);
    y[192 + i] = shuffle_from(x[i], 7), y[256 + i] = __shfl_xor_sync(all_lanes, x[i], 9, 16);
    y[320 + i] = __shfl_down_sync(all_lanes, x[i], 3, 8), y[384 + i] = __shfl_sync(all_lanes, x[i], 5, 4);
    dd[i] = shuffle_xor(d[i], 1), q[i] = shuffle_from((long long)i << 40, i + 1);
    if (i < 32) {  // half a warp by its own mask
        const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
        if (i < 16) y[448 + i] = __shfl_xor_sync(half, x[i], 1);
        else y[448 + i] = __shfl_up_sync(half, x[i], 1, 16);
    }
}
extern "C" __global__ void votes(const float* x, unsigned* y) {
    const int i = threadIdx.x;
    y[i] = ballot(x[i] > 0), y[64 + i] = any(x[i] > 1.5f), y[128 + i] = all(x[i] > -1.5f);
    y[192 + i] = barrier_or(x[i] > 2), y[256 + i] = barrier_and(x[i] > -9), y[320 + i] = barrier_count(x[i] > 0);
}
extern "C" __global__ void sums(const float* x, float* y, int* z) {
    TL_SHARED(float, scratch, 32);
    TL_SHARED(int, ints, 32);
    const int i = threadIdx.x, n = blockDim.x;
    y[i] = warp_sum(x[i]), y[n + i] = warp_max(x[i]);
    y[2 * n + i] = block_sum(x[i], scratch), y[3 * n + i] = block_max(x[i], scratch), z[i] = block_sum(i, ints);
}
extern "C" __global__ void atomics(unsigned* u, int* i, long long* q, float* f, double* d) {
    const int t = threadIdx.x;
    atomic_add(u, 2u), atomic_or(u + 1, 1u << t % 32), atomic_and(u + 2, ~(1u << t % 32)), atomic_max(i, t), atomic_min(i + 1, t);
    atomic_add(q, 1ll), atomic_add(f, 0.5f), atomic_add(d, 0.25), atomic_exchange(i + 2, 5);
    for (unsigned old = u[3], seen; (seen = atomic_cas(u + 3, old, old + 3)) != old; old = seen) {}
}
extern "C" __global__ void vectors(const float* x, float* y, const half_t* h, half_t* hh) {
    const int i = threadIdx.x;
    float4 v = load4(x + 4 * i);
    v.x += 1, v.w += 4;
    store4(y + 4 * i, v);
    store16(hh + 8 * i, load16(h + 8 * i));
    auto p = load_vec<2>(h + 2 * i);
    p[0] = half_of(to_float(p[0]) + 1);
    store_vec(hh + 512 + 2 * i, p);
    if (i == 0 && is_aligned(x, 16) && !is_aligned(x + 1, 16)) y[256] = 1;
}
extern "C" __global__ void copies(const float* x, float* y) {
    TL_SHARED(float, a, 128);
    TL_SHARED(float, b, 128);
    const int i = threadIdx.x;
    cp_async16(a + 4 * i, x + 4 * i, i == 31 ? 8 : 16);
    cp_async_commit();
    cp_async4(b + i, x + 128 + i, i < 16 ? 4 : 0);
    cp_async_commit();
    y[i] = a[4 * i];
    cp_async_wait<1>();
    y[32 + i] = a[4 * i + 3], y[64 + i] = b[i];
    cp_async_wait<0>();
    y[96 + i] = b[i], y[128 + i] = a[4 * i + 1], y[160 + i] = b[64 + i];
    barrier();
    y[192 + i] = a[4 * (i ^ 1)];
}
extern "C" __global__ void faulty(const long long* index, long long* flag, float* y, int n) {
    for (int k = threadIdx.x; k < 64; k += blockDim.x) {
        long long i = index[k];
        if (i < 0 || i >= n) fault(flag, 4, i, n), i = 0;
        y[k] = static_cast<float>(i);
    }
}
extern "C" __global__ void chain(unsigned* flags, unsigned long long* wide, float* data) {  // each block after the one before it
    const unsigned b = blockIdx.x;
    if (threadIdx.x == 0) {
        while (b && load_flag(flags + b - 1) == 0) {}
        while (b && load_flag(wide) < b) {}
        data[b] = b ? data[b - 1] + 1 : 1;
        store_flag(wide, b + 1ull);
        store_flag(flags + b, 1u);
    }
}
extern "C" __global__ void grid_sum(unsigned* counter, const float* x, float* partial, float* y, int rounds) {
    TL_SHARED(float, scratch, 32);
    for (int r = 0; r < rounds; ++r) {
        const float s = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x], scratch);
        if (threadIdx.x == 0) partial[blockIdx.x] = s + r;
        grid_barrier(counter);
        float sum = 0;
        for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[b];
        y[(r * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = sum;
        grid_barrier(counter);
    }
}
extern "C" __global__ void ticket(unsigned* next, unsigned* done, int* order) {  // a lock that polls with compare-and-swap
    if (threadIdx.x % 16 == 0) {
        while (atomic_cas(next, 0u, 1u) != 0) {}
        order[*done] = blockIdx.x, *done += 1;
        store_flag(next, 0u);
    }
    barrier();
}
""",
)


def test_indices():
    y = np.zeros(2 * 3 * 2 * 24, np.int32)
    together("indices", "P", (2, 3, 2), (4, 3, 2), y)
    np.testing.assert_array_equal(y.reshape(12, 24), np.arange(12)[:, None] * 1000 + np.arange(24))


def test_shuffles(every_order):
    x, i = random(64), np.arange(64)
    y, dd, q = np.zeros(480, np.float32), np.zeros(64), np.zeros(64, np.int64)
    together("shuffles", "PPPPP", 1, 64, x, y, x.astype(np.float64), dd, q)
    lane, base = i % 32, i - i % 32
    y, half = y[:448].reshape(7, 64), y[448:]
    np.testing.assert_array_equal(y[0], x[i ^ 5])
    np.testing.assert_array_equal(y[1], x[np.where(lane + 3 < 32, i + 3, i)])
    np.testing.assert_array_equal(y[2], x[np.where(lane >= 3, i - 3, i)])
    np.testing.assert_array_equal(y[3], x[base + 7])
    np.testing.assert_array_equal(y[4], x[i ^ 9])
    np.testing.assert_array_equal(y[5], x[np.where(i % 8 + 3 < 8, i + 3, i)])
    np.testing.assert_array_equal(y[6], x[i - i % 4 + 1])
    np.testing.assert_array_equal(dd, x[i ^ 1])
    np.testing.assert_array_equal(q, (base + (lane + 1) % 32) << 40)
    np.testing.assert_array_equal(half[:16], x[i[:16] ^ 1])
    np.testing.assert_array_equal(half[16:], x[np.maximum(i[16:32] - 1, 16)])


def test_votes(every_order):
    x = random(64)
    y = np.zeros((6, 64), np.uint32)
    together("votes", "PP", 1, 64, x, y)
    for w in (0, 1):
        part, lanes = x[32 * w : 32 * w + 32], slice(32 * w, 32 * w + 32)
        assert (y[0, lanes] == sum(1 << k for k in range(32) if part[k] > 0)).all()
        assert (y[1, lanes] == (part > 1.5).any()).all() and (y[2, lanes] == (part > -1.5).all()).all()
    assert (y[3] == (x > 2).any()).all() and (y[4] == 1).all() and (y[5] == (x > 0).sum()).all()


@pytest.mark.parametrize("n", [32, 96, 1024])
def test_sums_have_the_same_bits_in_every_thread_and_order(n):
    x, seen = random(n), set()
    for k in range(emulator.ORDERS):
        y, z = np.zeros((4, n), np.float32), np.zeros(n, np.int32)
        with emulator.order(k):
            together("sums", "PPP", 1, n, x, y, z)
        warps = x.reshape(-1, 32).astype(np.float64)
        np.testing.assert_allclose(y[0].reshape(-1, 32), np.repeat(warps.sum(1)[:, None], 32, 1), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y[1].reshape(-1, 32), np.repeat(x.reshape(-1, 32).max(1)[:, None], 32, 1))
        np.testing.assert_allclose(y[2], x.astype(np.float64).sum(), rtol=1e-5, atol=1e-5)
        assert (y[2] == y[2, 0]).all() and (y[3] == x.max()).all() and (z == n * (n - 1) // 2).all()
        seen.add(y.tobytes())
    assert len(seen) == 1


def test_a_maximum_keeps_nan():
    x = random(64)
    x[45] = np.nan
    y, z = np.zeros((4, 64), np.float32), np.zeros(64, np.int32)
    together("sums", "PPP", 1, 64, x, y, z)
    assert np.isnan(y[1, 32:]).all() and not np.isnan(y[1, :32]).any() and np.isnan(y[3]).all()


def test_atomics(every_order):
    u, i = np.array([0, 0, 2**32 - 1, 0], np.uint32), np.array([0, 99, 0], np.int32)
    q, f, d = np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1)
    together("atomics", "PPPPP", 3, 64, u, i, q, f, d)
    assert u.tolist() == [384, 2**32 - 1, 0, 576] and i.tolist() == [63, 0, 5]
    assert (q[0], f[0], d[0]) == (192, 96, 48)


def test_vectors():
    x, h = random(256 + 4), random(512, dtype=np.float16)
    x = x[(-x.ctypes.data // 4) % 4 :][:256]  # begins at a multiple of 16 bytes
    y = np.zeros(260 + 4, np.float32)
    y = y[(-y.ctypes.data // 4) % 4 :][:257]
    out = emulator.guarded(np.zeros(512 + 128, np.float16))
    h = emulator.guarded(h)
    together("vectors", "PPPP", 1, 64, x, y, h, out)
    np.testing.assert_array_equal(y[:256].reshape(64, 4) - x.reshape(64, 4) > 0.5, [[True, False, False, True]] * 64)
    np.testing.assert_array_equal(out[:512], h)
    np.testing.assert_array_equal(out[512::2], (h[:128:2].astype(np.float32) + 1).astype(np.float16))
    assert y[256] == 1


def test_copies_land_at_the_wait():
    """Before the wait there is NaN, and a later group is not there after a wait for the earlier one."""
    x = emulator.guarded(np.arange(160, dtype=np.float32) + 1)
    y = np.zeros(224, np.float32)
    together("copies", "PP", 1, 32, x, y)
    y = y.reshape(7, 32)
    rows = x[:128].reshape(32, 4).copy()
    rows[31, 2:] = 0
    assert np.isnan(y[0]).all() and np.isnan(y[2]).all() and np.isnan(y[5]).all()
    np.testing.assert_array_equal(y[1], rows[:, 3])
    np.testing.assert_array_equal(y[3], np.where(np.arange(32) < 16, x[128:160], 0))
    np.testing.assert_array_equal(y[4], rows[:, 1])
    np.testing.assert_array_equal(y[6], rows[np.arange(32) ^ 1, 0])


def test_a_bad_index_is_recorded_once(every_order):
    index = np.arange(64) % 10
    flag, y = np.zeros(3, np.int64), np.zeros(64, np.float32)
    together("faulty", "PPPi", 1, 32, index, flag, y, 10)
    assert flag.tolist() == [0, 0, 0] and (y == index).all()
    index[40] = -3
    together("faulty", "PPPi", 1, 32, index, flag, y, 10)
    assert flag.tolist() == [4, -3, 10] and y[40] == 0


def test_flags_between_blocks(every_order):
    flags, wide, data = np.zeros(9, np.uint32), np.zeros(1, np.uint64), np.zeros(9, np.float32)
    together("chain", "PPP", 9, 32, flags, wide, data, cooperative=True)
    np.testing.assert_array_equal(data, np.arange(9) + 1)


def test_grid_barrier(every_order):
    x, counter = random(5 * 64), np.zeros(1, np.uint32)
    for _ in range(2):  # the counter needs no reset
        partial, y = np.zeros(5, np.float32), np.zeros((3, 5 * 64), np.float32)
        together("grid_sum", "PPPPi", 5, 64, counter, x, partial, y, 3, cooperative=True)
        np.testing.assert_allclose(y, np.repeat([[x.sum() + 5 * r] for r in range(3)], 320, 1), rtol=1e-4, atol=1e-4)
        assert (y == y[:, :1]).all()
    assert counter[0] in (0, 2**31)


def test_a_lock_lets_others_go_on(every_order):
    lock, done, order = np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.full(24, -1, np.int32)
    together("ticket", "PPP", 6, 64, lock, done, order, cooperative=True)
    assert sorted(order) == sorted([*range(6)] * 4) and done[0] == 24


# ---- tensor cores
tensor = kernels(
    "tensor",
    r"""
#include "device.cuh"
// one warp: d(16, 8) += a(16, 16) b(16, 8) with fragments as PTX says; `wrong` swaps the two halves of A's rows
template <class T, class F>
__device__ void product(const T* a, const T* b, float* d, int wrong, F mma) {
    const int g = lane_id() / 4, t = lane_id() % 4, swap = wrong ? 8 : 0;
    unsigned fa[4], fb[2];
    for (int k = 0; k < 4; ++k) {
        const T* at = a + (g + (k % 2 * 8 ^ swap)) * 16 + k / 2 * 8 + 2 * t;
        fa[k] = pack2(at[0], at[1]);
    }
    for (int k = 0; k < 2; ++k) fb[k] = pack2(b[(2 * t + 8 * k) * 8 + g], b[(2 * t + 1 + 8 * k) * 8 + g]);
    float c[4];
    for (int k = 0; k < 4; ++k) c[k] = d[(g + k / 2 * 8) * 8 + 2 * t + k % 2];
    mma(c, fa, fb);
    for (int k = 0; k < 4; ++k) d[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = c[k];
}
extern "C" __global__ void half_product(const half_t* a, const half_t* b, float* d, int wrong) {
    product(a, b, d, wrong, [](float (&c)[4], unsigned (&x)[4], unsigned (&y)[2]) { mma_f16_16x8x16(c, x, y); });
}
extern "C" __global__ void bf16_product(const bf16_t* a, const bf16_t* b, float* d, int wrong) {
    product(a, b, d, wrong, [](float (&c)[4], unsigned (&x)[4], unsigned (&y)[2]) { mma_bf16_16x8x16(c, x, y); });
}
extern "C" __global__ void tf32_product(const float* a, const float* b, float* d, int raw) {  // a(16, 8) b(8, 8)
    const int g = lane_id() / 4, t = lane_id() % 4;
    unsigned fa[4], fb[2];
    const auto bits = [&](float x) { return raw ? __float_as_uint(x) : to_tf32(x); };
    for (int k = 0; k < 4; ++k) fa[k] = bits(a[(g + k % 2 * 8) * 8 + t + k / 2 * 4]);
    for (int k = 0; k < 2; ++k) fb[k] = bits(b[(t + 4 * k) * 8 + g]);
    float c[4] = {};
    mma_tf32_16x8x8(c, fa, fb);
    for (int k = 0; k < 4; ++k) d[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = c[k];
}
// c = a b with bf16, through shared memory and ldmatrix: rows of a, and columns of b by _trans; n x n, one warp a tile
extern "C" __global__ void gemm(const bf16_t* a, const bf16_t* b, float* c, int n) {
    TL_SHARED(bf16_t, as, 16 * 24);
    TL_SHARED(bf16_t, bs, 16 * 24);
    const int lane = lane_id(), r0 = blockIdx.y * 16, c0 = blockIdx.x * 16;
    float acc[2][4] = {};
    for (int k = 0; k < n; k += 16) {
        cp_async16(as + lane / 2 * 24 + lane % 2 * 8, a + (r0 + lane / 2) * n + k + lane % 2 * 8, 16);
        cp_async16(bs + lane / 2 * 24 + lane % 2 * 8, b + (k + lane / 2) * n + c0 + lane % 2 * 8, 16);
        cp_async_commit();
        cp_async_wait<0>();
        barrier();
        unsigned fa[4], fb[4], pair[2], again[2];
        ldmatrix_x4(fa, as + lane % 16 * 24 + lane / 16 * 8);
        ldmatrix_x4_trans(fb, bs + lane % 16 * 24 + lane / 16 * 8);
        ldmatrix_x2_trans(pair, bs + lane % 16 * 24);
        if (pair[0] != fb[0] || pair[1] != fb[1]) acc[0][0] = NAN_F;
        ldmatrix_x2(again, as + lane % 16 * 24);
        if (again[0] != fa[0] || again[1] != fa[1]) acc[0][0] = NAN_F;
        for (int h = 0; h < 2; ++h) {
            unsigned two[2] = {fb[2 * h], fb[2 * h + 1]};
            mma_bf16_16x8x16(acc[h], fa, two);
        }
        barrier();
    }
    for (int h = 0; h < 2; ++h)
        for (int k = 0; k < 4; ++k)
            c[(r0 + lane / 4 + k / 2 * 8) * n + c0 + h * 8 + lane % 4 * 2 + k % 2] = acc[h][k];
}
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int n) {
    TL_SHARED(float, at, 256);
    TL_SHARED(float, bt, 256);
    const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        at[y * 16 + x] = a[row * n + k + x], bt[y * 16 + x] = b[(k + y) * n + column];
        barrier();
        for (int i = 0; i < 16; ++i) sum += at[y * 16 + i] * bt[i * 16 + x];
        barrier();
    }
    c[row * n + column] = sum;
}
""",
)


@pytest.mark.parametrize("kernel, dtype", [("half_product", np.float16), ("bf16_product", ml_dtypes.bfloat16)])
def test_products_of_small_floats(every_order, kernel, dtype):
    a, b, c = random(16, 16).astype(dtype), random(16, 8, seed=1).astype(dtype), random(16, 8, seed=2)
    want = c + a.astype(np.float64) @ b.astype(np.float64)
    d, wrong = c.copy(), c.copy()
    tensor(kernel, "PPPi", 1, 32, a.view(np.uint16), b.view(np.uint16), d, 0)
    tensor(kernel, "PPPi", 1, 32, a.view(np.uint16), b.view(np.uint16), wrong, 1)
    np.testing.assert_allclose(d, want, rtol=1e-5, atol=1e-5)
    assert np.abs(wrong - want).max() > 0.1  # a wrong fragment index shows


def test_products_of_tf32():
    """A tensor core does not read the low 13 bits: raw floats are cut, those of to_tf32 rounded."""
    a, b = random(16, 8), random(8, 8, seed=1)
    cut = [(v.view(np.uint32) & ~np.uint32(0x1FFF)).view(np.float32).astype(np.float64) for v in (a, b)]
    near = [((v.view(np.uint32) + 0x1000) & ~np.uint32(0x1FFF)).view(np.float32).astype(np.float64) for v in (a, b)]
    raw, rounded = np.zeros((16, 8), np.float32), np.zeros((16, 8), np.float32)
    tensor("tf32_product", "PPPi", 1, 32, a, b, raw, 1)
    tensor("tf32_product", "PPPi", 1, 32, a, b, rounded, 0)
    np.testing.assert_allclose(raw, cut[0] @ cut[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rounded, near[0] @ near[1], rtol=1e-6, atol=1e-6)
    assert np.abs(raw - a @ b).max() > 1e-4


def test_a_product_through_shared_memory():
    n, dtype = 48, ml_dtypes.bfloat16
    a, b = random(n, n).astype(dtype), random(n, n, seed=1).astype(dtype)
    a16, b16 = emulator.guarded(a.view(np.uint16)), emulator.guarded(b.view(np.uint16))
    seen = set()
    for k in range(emulator.ORDERS):
        c = np.zeros((n, n), np.float32)
        with emulator.order(k):
            tensor("gemm", "PPPi", (n // 16, n // 16), 32, a16, b16, c, n)
        np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-4)
        seen.add(c.tobytes())
    assert len(seen) == 1


# ---- random numbers
random_numbers = kernels(
    "random_numbers",
    r"""
#include "philox.cuh"
template <class T, class F>
__device__ void fill(T* y, long long n, F numbers) {
    constexpr int each = philox_numbers<T>;
    grid_stride((n + each - 1) / each, [&](long long block) {
        T v[each];
        numbers(block, v);
        for (int k = 0; k < each && each * block + k < n; ++k) y[each * block + k] = v[k];
    });
}
#define BOTH(name, T) \
    extern "C" __global__ void uniform_##name(const long long* key, T* y, long long n) { \
        const PhiloxKey k = philox_key(key); \
        fill(y, n, [&](long long b, T (&v)[philox_numbers<T>]) { philox_uniforms(philox_block(k, b), v); }); \
    } \
    extern "C" __global__ void normal_##name(const long long* key, T* y, long long n) { \
        const PhiloxKey k = philox_key(key); \
        fill(y, n, [&](long long b, T (&v)[philox_numbers<T>]) { philox_normals(philox_block(k, b), v); }); \
    }
BOTH(f4, float)
BOTH(f8, double)
BOTH(f2, half_t)
BOTH(bf2, bf16_t)
extern "C" __global__ void words(const long long* key, unsigned* w, unsigned long long* whole, unsigned long long* below, unsigned long long n,
                                 const float* p, float* kept, long long count) {
    const PhiloxKey k = philox_key(key);
    grid_stride(count, [&](long long i) {
        w[i] = philox_word(k, i), whole[i] = philox_integer(k, i), below[i] = philox_below(k, i, n);
        kept[i] = philox_bernoulli(w[i], p[i]);
    });
}
extern "C" __global__ void far(const long long* key, unsigned* w, long long first) {
    const uint4 b = philox_block(philox_key(key), first);
    w[0] = b.x, w[1] = b.y, w[2] = b.z, w[3] = b.w;
}
""",
)


@pytest.mark.parametrize("what", ["uniform", "normal"])
@pytest.mark.parametrize("short, bits, dtype", [("f4", 24, np.float32), ("f8", 53, np.float64),
                                                ("f2", 11, np.float16), ("bf2", 8, ml_dtypes.bfloat16)])  # fmt: skip
def test_random_numbers_have_the_bits_of_the_cpu(what, short, bits, dtype):
    n = 3001 if short[0] == "f" and short != "f2" else 1003
    y = np.zeros(n, dtype)
    raw = y.view(np.uint16) if y.itemsize == 2 else y
    random_numbers(f"{what}_{short}", "PPq", 3, 64, PHILOX_KEY, raw, n)
    want = np.empty(n, dtype)
    want[...] = getattr(philox, what)(np, PHILOX_KEY, n, bits)
    np.testing.assert_array_equal(raw, want.view(raw.dtype))
    if y.itemsize > 2:  # and of the compiled kernel
        key = tl.tensor(PHILOX_KEY)
        op = getattr(tl.ops.random, f"{what}_p")
        native = op(key, shape=(n,), dtype=tl.float32 if y.itemsize == 4 else tl.float64)
        np.testing.assert_array_equal(y, native.numpy())


def test_random_words_have_the_bits_of_the_cpu():
    n, m = 1001, 2**61 - 7
    w, whole, below = np.zeros(n, np.uint32), np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    p, kept = np.linspace(0, 1, n, dtype=np.float32), np.zeros(n, np.float32)
    random_numbers("words", "PPPPQPPq", 2, 32, PHILOX_KEY, w, whole, below, m, p, kept, n)
    np.testing.assert_array_equal(w, philox.words(np, PHILOX_KEY, n))
    np.testing.assert_array_equal(whole, philox.integers(np, PHILOX_KEY, n))
    np.testing.assert_array_equal(below, whole % np.uint64(m))
    np.testing.assert_array_equal(kept, tl.ops.random.bernoulli_p(tl.tensor(p), tl.tensor(PHILOX_KEY)).numpy())
    assert kept[-1] == 1
    block = 2**35 + 1  # beyond 32 bits of counter
    random_numbers("far", "PPq", 1, 1, PHILOX_KEY, w, block)
    seed, call = (int(v) % 2**64 for v in PHILOX_KEY)
    assert w[:4].tolist() == list(
        philox.rounds(block % 2**32, block >> 32, call % 2**32, call >> 32, seed % 2**32, seed >> 32)
    )


# ---- faults
FAULTS = r"""
#include "device.cuh"
extern "C" __global__ void divergent(float* x) {
    if (threadIdx.x < 20) barrier();
    else barrier();
}
extern "C" __global__ void partial(float* x, int n) {
    if (static_cast<int>(threadIdx.x) >= n) return;
    barrier();
}
extern "C" __global__ void half_warp(float* x) {
    if (threadIdx.x % 32 < 16) x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
}
extern "C" __global__ void mixed_warp(float* x) {
    if (threadIdx.x % 32 < 16) x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
    else x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
}
extern "C" __global__ void other_mask(float* x) { x[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 1); }
extern "C" __global__ void half_product(float* x) {
    unsigned a[4] = {}, b[2] = {};
    float d[4] = {};
    mma_f16_16x8x16(d, a, b);
}
extern "C" __global__ void reverse(float* x, int with) {
    TL_SHARED(float, s, 64);
    s[threadIdx.x] = x[threadIdx.x];
    if (with) barrier();
    x[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void warp_reverse(float* x, int with) {
    TL_SHARED(float, s, 32);
    s[threadIdx.x] = x[threadIdx.x];
    if (with) warp_sync();
    x[threadIdx.x] = s[31 - threadIdx.x];
}
extern "C" __global__ void racy_blocks(float* x) { x[0] = blockIdx.x; }
extern "C" __global__ void unset(float* x, int* y) {
    TL_SHARED(float, f, 4);
    TL_SHARED(int, i, 4);
    TL_DYNAMIC_SHARED(half_t, h);
    if (threadIdx.x < 4) x[threadIdx.x] = f[threadIdx.x], x[4 + threadIdx.x] = to_float(h[threadIdx.x]), y[threadIdx.x] = i[threadIdx.x];
    barrier();
    if (threadIdx.x < 4) f[threadIdx.x] = 1, i[threadIdx.x] = 1, h[threadIdx.x] = half_of(1.0f);
}
extern "C" __global__ void too_far(float* x, int n) {
    TL_SHARED(float, tile, 8);
    tile[n] = 1;
    x[0] = tile[0];
}
extern "C" __global__ void too_far_dynamic(float* x, int n) {
    TL_DYNAMIC_SHARED(float, s);
    s[n] = 1;
}
extern "C" __global__ void far_read(const float* x, float* y, int n) {
    barrier();
    y[0] = x[n];
}
extern "C" __global__ void misaligned(const float* x, float* y) { store4(y, load4(x)); }
extern "C" __global__ void misaligned_copy(const float* x, float* y) {
    TL_SHARED(float, s, 8);
    cp_async16(s + 1, x, 16);
}
extern "C" __global__ void long_copy(const float* x) {
    TL_SHARED(float, s, 8);
    cp_async16(s, x, 17);
}
extern "C" __global__ void zero_division(int* x, int n) { x[0] = 5 / n; }
__device__ __noinline__ int deep(volatile int* x, int n) {
    volatile int here[64] = {n};
    return n ? deep(here, n - 1) + x[0] : 0;
}
extern "C" __global__ void recursive(int* x, int n) { x[0] = deep(x, n); }
extern "C" __global__ void spin(unsigned* flag) {
    if (threadIdx.x == 0) while (load_flag(flag) == 0) {}
    barrier();
}
extern "C" __global__ void spin_two(unsigned* flag) { while (load_flag(flag) == 0 || load_flag(flag + 1) == 0) {} }
extern "C" __global__ void handed_on(unsigned* flag) {
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) while (load_flag(flag) == 0) {}
        else store_flag(flag, 1u);
    }
}
extern "C" __global__ void together_only(unsigned* counter) { grid_barrier(counter); }
extern "C" __global__ void trap(float* x) { if (threadIdx.x == 3) __trap(); }
extern "C" __global__ void __launch_bounds__(2 * 32) bounded(float* x) { x[threadIdx.x] = 1; }
extern "C" __global__ void two_dimensions(int* x) { x[0] = lane_id(); }
extern "C" __global__ void big_static(float* x) {
    TL_SHARED(float, a, 7000);
    TL_SHARED(float, b, 7000);
    x[0] = a[0] + b[0];
}
extern "C" __global__ void types(float* p, int i, unsigned u, long long q, unsigned long long w, float f, double d, float* y) {
    y[0] = i, y[1] = u, y[2] = q, y[3] = w, y[4] = f, y[5] = d, y[6] = p == nullptr;
}
extern "C" __global__ void odd_types(bool b, short s) {}
"""
faults = kernels("faults", FAULTS)


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
    assert x[0] == 100 * 101 // 2 - 1  # the last call reads the 0 that stands in x
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
        compiled = emulator.compile("tiny", tiny, {"VALUE": value})
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
    run = kernels(
        "words.cu",
        r"""
        #define N 16
        __constant__ float scale = 2;
        extern "C" __global__ void __launch_bounds__(N * N, 1) turn(float* x) {
            __shared__ float tile[N][N + 1];
            __shared__ unsigned count;
            extern __shared__ float all[];
            const int i = threadIdx.x;
            if (i == 0) count = 0;
            tile[i / N][i % N] = x[i];
            all[i] = x[i];
            __syncthreads();
            atomicAdd(&count, 1u);
            __syncthreads();
            x[i] = scale * tile[i % N][i / N] + count + __shfl_xor_sync(0xffffffff, all[i], 1);
        }
        """,
    )
    x = random(256)
    want = 2 * x.reshape(16, 16).T.ravel() + 256 + x.reshape(-1, 2)[:, ::-1].ravel()
    run("turn", "P", 1, 256, x, shared=1024)
    np.testing.assert_allclose(x, want, rtol=1e-6)
    with pytest.raises(KernelError, match="257 threads a block; wanted at most 256"):
        run("turn", "P", 1, 257, x, shared=1024)


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
