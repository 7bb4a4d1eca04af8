"""The compiled reductions: every instruction set, way to reduce and size class, accuracy and special values."""

import itertools
import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.reduce import four_turns, sum_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
TYPES = {"f4": tl.float32, "f8": tl.float64}
# one row, tails of every vector, columns wider than a block, many rows, images; some are cut into parts
SHAPES = [
    (1,), (7,), (67,), (5000,), (200_003,), (5, 3), (3, 5), (300, 7), (9, 1500), (700, 130), (3, 40_000), (40_000, 3),
    (2, 3, 4), (7, 65, 33), (40, 1, 50), (8, 16, 9, 11), (64, 16, 8, 8), (3, 5, 100, 90), (2, 3, 2, 3, 2),
]  # fmt: skip


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) + 0.3


def every_dim(shape):
    """Every choice of dimensions that the kernels take."""
    ndim, spec = len(shape), tl.empty(shape)._spec
    choices = itertools.chain.from_iterable(itertools.combinations(range(ndim), k) for k in range(1, ndim + 1))
    return [dim for dim in choices if four_turns(spec, dim=dim, keepdim=False)]


def check(x, dim, note, d):
    """Sums to within two units of the sum of |x| (a hundredth of what adding one by one may lose); extremes exactly."""
    a, axis = x.numpy().astype(np.float64), tuple(dim)
    with np.errstate(all="ignore"):
        exact, size = a.astype(np.longdouble).sum(axis), np.abs(a).sum(axis)
        got = x.sum(dim).numpy()
        with np.errstate(all="ignore"):
            wrong = ~(np.abs(got - exact) <= 2 * tl.finfo(d).eps * size) & ~((got == exact) | np.isnan(exact))
        wrong |= np.isnan(exact) & ~np.isnan(got)
    assert not wrong.any(), (note, dim)
    for got, want in ((x.amax(dim), a.max(axis)), (x.amin(dim), a.min(axis))):
        assert np.array_equal(got.numpy().astype(np.float64), want, equal_nan=True), (note, dim)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("d", TYPES.values(), ids=TYPES)
def test_every_way_to_reduce(isa, d):
    with config.ISA(isa):
        for shape in SHAPES:
            x = tl.tensor(numbers(shape), dtype=d)
            for dim in every_dim(shape):
                check(x, dim, shape, d)


def test_which_are_compiled():
    yes = ((2, 3), (0,)), ((2, 3, 4, 5), (1, 3)), ((1, 3, 1, 4, 2), (2, 3)), ((2, 3, 4), (0, 2))
    no = ((2, 3, 4, 5), (0, 2)), ((2, 3, 2, 3, 2), (0, 2, 4)), ((0, 3), (0,))
    for (shape, dim), native in [(c, True) for c in yes] + [(c, False) for c in no]:
        y = tl.ones(*shape).sum(dim)
        entry = sum_p.op.cache[tl.ones(*shape)._spec, dim, False]
        assert entry.native is native and (y == math.prod(shape[k] for k in dim)).all()


def test_float32_is_closer_than_pairwise():
    """Ten million numbers, and a column of a million: errors of the order of one rounding of the sum."""
    x = np.random.default_rng(1).random(10_000_000).astype(np.float32)
    exact = math.fsum(x.tolist())
    ours, numpys = abs(tl.tensor(x).sum().item() - exact), abs(float(x.sum()) - exact)
    assert ours <= np.spacing(np.float32(exact)) and ours <= numpys
    columns = x[:3_000_000].reshape(-1, 3)
    exact = np.array([math.fsum(c.tolist()) for c in columns.T])
    ours = np.abs(tl.tensor(columns).sum(0).numpy() - exact)
    assert (ours <= np.spacing(exact.astype(np.float32))).all()


def test_what_rounding_takes_comes_back():
    x = np.zeros(200_000)
    x[::2000], x[70_000], x[130_001] = 1e-3, 1e20, -1e20
    # all but the few that lie in the same lane of the same block as a large one
    assert 0.095 < tl.tensor(x).sum().item() < 0.1 + 1e-9


@pytest.mark.parametrize("d", TYPES.values(), ids=TYPES)
def test_special_values(d):
    for value in (np.nan, np.inf, -np.inf, -0.0, 1e-42):
        for shape in ((70, 50), (50_000,), (300, 400)):
            for at in (0, 17, -1):
                a = numbers(shape)
                a.reshape(-1)[at] = value
                x = tl.tensor(a, dtype=d)
                for dim in every_dim(shape):
                    check(x, dim, (value, shape, at), d)
    both = tl.tensor([np.inf, 1.0, -np.inf], dtype=d)
    assert both.sum().isnan() and both.amax() == np.inf and both.amin() == -np.inf
    assert tl.full((9,), -np.inf, dtype=d).amax() == -np.inf and tl.full((9,), np.inf, dtype=d).amin() == np.inf
    large = tl.full((4,), tl.finfo(d).max, dtype=d)
    assert large.sum() == np.inf


def test_the_same_bits_for_every_number_of_threads():
    before, found = tl.get_num_threads(), []
    shapes = ((3_000_000,), (20_000, 70), (70, 20_000), (64, 3, 50, 50), (2, 100_000), (100_000, 2))
    x = [tl.tensor(numbers(s).astype(np.float32)) for s in shapes]
    try:
        for n in (1, 2, 3):
            tl.set_num_threads(n)
            found.append([a.sum(dim).numpy() for a in x for dim in every_dim(a.shape)])
    finally:
        tl.set_num_threads(before)
    assert all((a == b).all() for other in found[1:] for a, b in zip(found[0], other))


@pytest.mark.slow
def test_fuzz_reduce():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    for turn in range(10_000):
        d = list(TYPES.values())[turn % 2]
        shape = tuple(rng.integers(1, 12, rng.integers(1, 6)))
        if turn % 40 == 0:
            shape = tuple(rng.integers(1, 400, 2))
        a = rng.standard_normal(shape)
        if rng.random() < 0.3:
            a.reshape(-1)[rng.integers(0, a.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e-310, 1e-42, -0.0])
        dims = every_dim(shape)
        dim = dims[rng.integers(len(dims))]
        with config.ISA(("baseline", "avx2", "avx512")[turn % 3]):
            check(tl.tensor(a, dtype=d), dim, f"seed {seed}, turn {turn}, shape {shape}", d)
