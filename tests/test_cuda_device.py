"""kernels/cuda/device.cuh and philox.cuh: every wrapper beside NumPy, in the emulator and in every order of threads."""
# ruff: noqa: F811  (fixtures are imported)

import math

import ml_dtypes
import numpy as np
import pytest
from cuda_harness import emulation, every_order, kernels, needs_compiler, random  # noqa: F401

import tensorlite as tl
from tensorlite.backends import emulator
from tensorlite.ops import philox

pytestmark = needs_compiler
PHILOX_KEY = np.array([-5, 2**40 + 3])


# ---- numbers
numbers = kernels("numbers")


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
together = kernels("together")


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
tensor = kernels("tensor")


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
random_numbers = kernels("random_numbers")


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
