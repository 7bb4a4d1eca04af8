"""Matrix products of the compiled kernels: every path, instruction set, transpose and epilogue beside float64."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.linalg import matmul_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

ISAS = ["baseline", "avx2", "avx512"]
TYPES = [np.float32, np.float64]


def spec(array):
    return tl.from_numpy(array)._spec


def product(x, w, tx=False, tw=False, out=None):
    """The kernel's matmul of arrays as they lie."""
    left, right = (x.mT if tx else x), (w.mT if tw else w)
    lead = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    y = np.full((*lead, left.shape[-2], right.shape[-1]), np.nan, x.dtype) if out is None else out
    cpu.kernel("matmul")((spec(x), spec(w)), (spec(y),), {"tx": tx, "tw": tw})(x, w, y)
    return y


def linear(x, w, b=None, residual=None, **constants):
    y = np.full((*x.shape[:-1], len(w)), np.nan, x.dtype)
    given = (x, w, b) if residual is None else (x, w, residual, b)
    kernel = cpu.kernel("linear" if residual is None else "linear_add")
    kernel(tuple(None if a is None else spec(a) for a in given), (spec(y),), constants)(*given, y)
    return y


def assert_product(got, x, w, tx=False, tw=False, say=""):
    """Rounding of a sum of k products: each step's at most, of the sum of their magnitudes."""
    left, right = (a.astype(np.float64) for a in ((x.mT if tx else x), (w.mT if tw else w)))
    with np.errstate(all="ignore"):
        want, size = left @ right, np.abs(left) @ np.abs(right)
        finite = np.isfinite(size)
        eps, tiny = np.finfo(x.dtype).eps, np.finfo(x.dtype).tiny
        k = left.shape[-1]
        assert (np.abs(got - want)[finite] <= (k + 2) * (eps * size[finite] + tiny)).all(), say
        # where inf or nan came in: the same kind of number comes out
        rest = ~finite
        assert (np.isnan(got[rest]) == np.isnan(want[rest])).all(), say
        infinite = rest & np.isinf(want)
        assert (got[infinite] == want[infinite]).all(), say


# what each is: one element; tails of every vector; inner products (few rows, few columns, long and short); a vector
# with a matrix; columns in place; packed columns; turned round; several pieces of k; parts of k as tasks; k of 1; a
# grid of tasks
SIZES = [(1, 1, 1), (5, 3, 7), (4, 4, 16), (33, 130, 17), (7, 65, 200), (3, 16, 4096), (64, 10, 128), (9, 1, 2100),
         (1, 70, 33), (1, 300, 1100), (70, 1, 40), (13, 31, 600), (32, 128, 784), (150, 70, 530), (20, 200, 130),
         (8, 9, 9000), (40, 33, 4100), (37, 45, 1), (140, 150, 140), (0, 3, 4), (3, 0, 4), (3, 4, 0)]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", TYPES)
def test_every_height_and_width_of_a_tile(isa, d):
    """One call for each: rows up to two tiles, columns up to more than a panel, short and long sums, all transposes."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for m, n in itertools.product(range(1, 30), (9, 16, 21, 32, 39, 48, 57, 64, 75, 139)):
            for k, tx, tw in ((3, False, False), (5, True, False), (600, False, True), (600, True, True)):
                x, w = rng.uniform(-1, 1, (m, k)).astype(d), rng.uniform(-1, 1, (k, n)).astype(d)
                x, w = np.ascontiguousarray(x.T) if tx else x, np.ascontiguousarray(w.T) if tw else w
                assert_product(product(x, w, tx, tw), x, w, tx, tw, (m, n, k, tx, tw))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", TYPES)
def test_every_tile_where_columns_lie_in_place(isa, d):
    """Few rows by 1 to 4 vectors, the last one whole or in part; transposed, tiles are stored across."""
    rng, lanes = np.random.default_rng(0), {"baseline": 16, "avx2": 32, "avx512": 64}[isa] // np.dtype(d).itemsize
    draw = lambda *shape: rng.uniform(-1, 1, shape).astype(d)
    with config.ISA(isa):
        for vectors, part in itertools.product(range(1, 5), (0, 1)):
            cols = vectors * lanes - part
            for rows in range(1, 16):
                x, w = draw(rows, 5), draw(5, cols)
                assert_product(product(x, w), x, w, say=(rows, cols))
                for k in (5, 17):  # the fewer are packed instead
                    x, w = draw(k, cols), draw(rows, k)
                    assert_product(product(x, w, True, True), x, w, True, True, (cols, rows, k))
            x, w, b = draw(5, cols).T, draw(1, 5), draw(1)  # one row, stored across
            assert np.allclose(linear(x, w, b), x.astype(np.float64) @ w.T + b, atol=1e-5), cols


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", TYPES)
def test_products(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for (m, n, k), tx, tw in itertools.product(SIZES, (False, True), (False, True)):
            x = rng.standard_normal((k, m) if tx else (m, k)).astype(d)
            w = rng.standard_normal((n, k) if tw else (k, n)).astype(d)
            assert_product(product(x, w, tx, tw), x, w, tx, tw, (m, n, k, tx, tw))


ACTS = {
    "none": lambda y: y,
    "relu": lambda y: y.relu(),
    "gelu": tl.nn.functional.gelu,
    "gelu_tanh": lambda y: tl.nn.functional.gelu(y, approximate="tanh"),
    "tanh": lambda y: y.tanh(),
    "sigmoid": lambda y: y.sigmoid(),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", TYPES)
@pytest.mark.parametrize("act", ACTS)
def test_epilogues(isa, d, act):
    """Bias, residual and activation, in tiles that are stored as they are, across, as inner products and in parts."""
    rng = np.random.default_rng(1)
    with config.ISA(isa):
        for m, n, k in (
            (5, 20, 33),
            (33, 130, 40),
            (130, 33, 40),
            (3, 50, 100),
            (50, 3, 100),
            (16, 9, 9000),
            (9, 1, 8),
        ):
            x, w, b, r = (rng.standard_normal(s).astype(d) for s in ((m, k), (n, k), (n,), (m, n)))
            w /= np.sqrt(k)
            for bias, residual in itertools.product((None, b), (None, r)):
                y = x.astype(np.float64) @ w.T.astype(np.float64)
                y = y + (0 if bias is None else bias) + (0 if residual is None else residual)
                with config.KERNELS("plain"):
                    want = ACTS[act](tl.from_numpy(y)).numpy()
                got = linear(x, w, bias, residual, act=act)
                error = np.abs(got - want).max() / np.finfo(d).eps
                assert error < 8 * np.sqrt(k) + 40, (m, n, k, bias is None, residual is None, error)


def test_an_unknown_activation_is_refused():
    x = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="got act 'softsign'; wanted none, relu"):
        linear(x, x, act="softsign")


@pytest.mark.parametrize("isa", ISAS)
def test_leading_dimensions(isa):
    rng = np.random.default_rng(2)
    leads = [((3,), (3,)), ((2, 3), (3,)), ((3,), (2, 1)), ((), (4,)), ((4,), ()), ((2, 1, 3), (5, 1)), ((0,), (1,)),
             ((70,), (70,))]  # fmt: skip
    with config.ISA(isa):
        x, w = rng.standard_normal((70, 20, 20)), rng.standard_normal((70, 20, 20))  # float64, by threads
        assert_product(product(x, w), x, w)
        for (left, right), tx, tw in itertools.product(leads, (False, True), (False, True)):
            for m, n, k in ((7, 9, 5), (64, 32, 64)):
                x = rng.standard_normal((*left, *((k, m) if tx else (m, k)))).astype(np.float32)
                w = rng.standard_normal((*right, *((n, k) if tw else (k, n)))).astype(np.float32)
                assert_product(product(x, w, tx, tw), x, w, tx, tw, (left, right, m, n, k, tx, tw))


@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bits_for_every_number_of_threads(isa, threads):
    rng = np.random.default_rng(3)
    with config.ISA(isa):
        for m, n, k in ((32, 128, 784), (300, 200, 100), (1, 2000, 600), (8, 9, 9000), (128, 784, 32), (5, 900, 900)):
            for tx, tw in itertools.product((False, True), (False, True)):
                x = rng.standard_normal((k, m) if tx else (m, k)).astype(np.float32)
                w = rng.standard_normal((n, k) if tw else (k, n)).astype(np.float32)
                found = []
                for count in (1, 2, 3):
                    threads(count)
                    found += [product(x, w, tx, tw) for _ in range(3)]
                assert all((y == found[0]).all() for y in found), (m, n, k, tx, tw)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_inf_and_denormals_go_through(isa):
    """A number taints its own row or column and no other: the zeros that fill panels up must not meet it."""
    rng = np.random.default_rng(4)
    with config.ISA(isa):
        for (m, n, k), tx, tw in itertools.product(SIZES[1:19], (False, True), (False, True)):
            for odd in (np.nan, np.inf, -np.inf, 1e-42):
                x = rng.standard_normal((k, m) if tx else (m, k)).astype(np.float32)
                w = rng.standard_normal((n, k) if tw else (k, n)).astype(np.float32)
                x.flat[rng.integers(x.size)] = odd
                w.flat[rng.integers(w.size)] = odd
                assert_product(product(x, w, tx, tw), x, w, tx, tw, (m, n, k, tx, tw, odd))


def test_nothing_beyond_the_result_is_written():
    rng = np.random.default_rng(5)
    for (m, n, k), tx, tw in itertools.product(SIZES, (False, True), (False, True)):
        for isa in ISAS:
            with config.ISA(isa):
                x = rng.standard_normal((k, m) if tx else (m, k)).astype(np.float32)
                w = rng.standard_normal((n, k) if tw else (k, n)).astype(np.float32)
                room = np.full(m * n + 64, 7, np.float32)
                product(x, w, tx, tw, out=room[32 : 32 + m * n].reshape(m, n))
                assert (room[:32] == 7).all() and (room[32 + m * n :] == 7).all(), (m, n, k, tx, tw, isa)


def test_gates(monkeypatch):
    """With AVX-512 every product of float32 or float64 runs on our kernel; with less only smaller ones do."""

    def native(x, w, **kw):
        matmul_p.op.cache.clear()
        return matmul_p.op.entry((x._spec, w._spec), kw).native

    tiny, small, large = tl.ones(4, 4), tl.ones(32, 32), tl.ones(128, 128)
    whole = tl.ones(4, 4, dtype=tl.int64)
    for isa, wanted in (("avx512", [1, 1, 1]), ("avx2", [1, 1, 0]), ("baseline", [1, 0, 0])):
        monkeypatch.setattr(cpu, "isa", lambda isa=isa: isa)
        for turn in (lambda t: t, lambda t: t.t()):
            assert [native(turn(t), t) for t in (tiny, small, large)] == wanted
            assert [native(t, turn(t), tx=True, tw=True) for t in (tiny, small, large)] == wanted
        assert not native(whole, whole)
    matmul_p.op.cache.clear()


def test_views_are_multiplied_as_they_lie():
    """Transposes, slices, steps backwards, broadcasts and arrays that are not aligned, in matmul and linear."""
    rng = np.random.default_rng(6)
    odd = np.zeros(40 * 50 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(40, 50)
    odd[:] = rng.standard_normal((40, 50))
    whole = rng.standard_normal((40, 50)).astype(np.float32)
    lefts = [whole[:20, :30], whole[::2, 1:31], whole[:20, ::-1][:, :30], whole.T[:20, :30], odd[:20, :30]]
    lefts += [np.broadcast_to(whole[0, :30], (20, 30)), np.broadcast_to(whole[:20, :1], (20, 30)), odd[3:23].T[:20]]
    lefts = [a[:20, : min(30, a.shape[1])] for a in lefts]
    for isa in ISAS:
        with config.ISA(isa):
            for x in lefts:
                for w in (
                    whole[: x.shape[1]],
                    whole[:, ::2].T[: x.shape[1]] if x.shape[1] <= 25 else odd[: x.shape[1]],
                ):
                    assert_product(tl.matmul(tl.from_numpy(x), tl.from_numpy(w)).numpy(), x, w)
                    b = whole[0, ::-1][: w.shape[1]]
                    got = tl.nn.functional.linear(*(tl.from_numpy(a) for a in (x, w.T, b))).numpy()
                    assert np.allclose(got, x.astype(np.float64) @ w + b, atol=1e-4)
            heads = tl.from_numpy(rng.standard_normal((3, 20, 4, 8)).astype(np.float32)).transpose(1, 2)
            assert np.allclose((heads @ heads.mT).numpy(), heads.numpy() @ heads.numpy().mT, atol=1e-4)
            steps = heads[:, 1]  # (3, 20, 8), whose rows do not follow one another
            w = tl.from_numpy(whole[:6, :8])
            assert np.allclose(tl.nn.functional.linear(steps, w).numpy(), steps.numpy() @ w.numpy().T, atol=1e-4)


@pytest.mark.slow
def test_fuzz_products():
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        d = TYPES[rng.integers(2)]
        m, n, k = (int(2 ** rng.uniform(0, most)) for most in ((7, 7, 10), (3, 9, 9), (9, 3, 9), (5, 5, 13))[seed % 4])
        tx, tw = (bool(v) for v in rng.integers(2, size=2))
        lead = [(), (2,), (3, 1)][rng.integers(3)] if m * n * k < 10_000 else ()
        x = rng.standard_normal((*lead, *((k, m) if tx else (m, k)))).astype(d)
        w = rng.standard_normal((n, k) if tw else (k, n)).astype(d)
        if seed % 3 == 0:
            for a in (x, w):
                a.flat[rng.integers(a.size, size=2)] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1e18])
        with config.ISA(ISAS[rng.integers(3)]):
            assert_product(product(x, w, tx, tw), x, w, tx, tw, f"seed {seed}: {d.__name__} {m} {n} {k} {tx} {tw}")
