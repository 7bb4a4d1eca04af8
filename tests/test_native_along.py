"""argmax, max(dim), cumsum and cat by compiled kernels: every instruction set, layout and size class against NumPy."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.join import cat_p
from tensorlite.ops.reduce import argmax_p, argmin_p, cumsum_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
TYPES = {"f4": tl.float32, "f8": tl.float64}
each_dtype = pytest.mark.parametrize("d", TYPES.values(), ids=TYPES)
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
# one number, tails of every vector, several blocks of a line, columns wider than a block, lines and columns in parts
SHAPES = [
    (1,), (5,), (67,), (5000,), (200_003,), (5, 3), (3, 50), (9, 1500), (700, 130), (3, 40_000), (40_000, 3),
    (3, 4, 5), (7, 65, 33), (40, 1, 50), (3, 100, 1100), (2, 3, 2, 3),
]  # fmt: skip


def numbers(shape, seed=0):
    """Few different numbers, so that there are ties."""
    return np.random.default_rng(seed).integers(-40, 40, shape) / 8


def check_places(x, dim, note):
    """Values and places are NumPy's, which are PyTorch's: the first of equals, a nan before all."""
    for name in ("max", "min"):
        for keepdim in (False, True):
            with config.KERNELS("plain"):
                want = getattr(x, f"arg{name}")(dim, keepdim).numpy()
                values = None if dim is None else getattr(x, name)(dim, keepdim).values.numpy()
            got = getattr(x, f"arg{name}")(dim, keepdim)
            assert got.dtype is tl.int64 and got.shape == want.shape and (got.numpy() == want).all(), (note, dim)
            if dim is not None:
                both = getattr(x, name)(dim, keepdim)
                assert (both.indices.numpy() == want).all(), (note, dim)
                assert np.array_equal(both.values.numpy(), values, equal_nan=True), (note, dim)
                assert (np.signbit(both.values.numpy()) == np.signbit(values)).all(), (note, dim)


def check_sums(x, dim, note, d):
    """Running sums in float64, rounded once."""
    for reverse in (False, True):
        a = x.numpy()[(slice(None),) * dim + (slice(None, None, -1 if reverse else None),)].astype(np.float64)
        with np.errstate(all="ignore"):
            want, size = np.cumsum(a, dim), np.cumsum(np.abs(a), dim)
            got = cumsum_p(x, dim=dim, reverse=reverse).numpy()
            got = got[(slice(None),) * dim + (slice(None, None, -1 if reverse else None),)]
            off = ~(np.abs(got - want) <= tl.finfo(d).eps * (np.abs(want) + size * a.shape[dim] * 1e-13))
        off &= ~((got == want.astype(got.dtype)) | (np.isnan(got) & np.isnan(want)))
        assert not off.any(), (note, dim, reverse)


def check_cat(arrays, dim, note):
    want = np.concatenate([a.numpy() for a in arrays], dim)
    got = tl.cat(arrays, dim).numpy()
    assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes(), (note, dim)


@each_isa
@each_dtype
def test_every_layout(d, isa):
    with config.ISA(isa):
        for shape in SHAPES:
            x = tl.tensor(numbers(shape), dtype=d)
            for dim in (None, *range(len(shape))):
                check_places(x, dim, shape)
                if dim is not None:
                    check_sums(x, dim, shape, d)


@each_isa
@each_dtype
def test_special_values(d, isa):
    with config.ISA(isa):
        for value, shape, at in itertools.product(
            (np.nan, np.inf, -np.inf, -0.0, 1e-42), ((70, 50), (50_000,), (3, 40_000), (9,)), (0, 5, -1)
        ):
            a = numbers(shape)
            a.reshape(-1)[[at, a.size // 2]] = value
            x = tl.tensor(a, dtype=d)
            for dim in (None, *range(len(shape))):
                check_places(x, dim, (value, shape, at))
                if dim is not None:
                    check_sums(x, dim, (value, shape, at), d)
        for value in (np.nan, np.inf, -np.inf, 0.0):
            for shape in ((3, 7), (2000, 40), (300_000,)):
                for dim in (None, *range(len(shape))):
                    check_places(tl.full(shape, value, dtype=d), dim, (value, shape))


@pytest.mark.parametrize("d", [tl.float32, tl.float64, tl.bfloat16, tl.int64, tl.uint8, tl.bool])
def test_cat(d):
    rng = np.random.default_rng(0)
    for shape in ((1,), (6,), (4, 8), (3, 4, 5), (5, 1), (300, 1000), (2, 70_000), (0, 3), (2, 3, 0)):
        for dim in range(len(shape)):
            parts = [(*shape[:dim], n, *shape[dim + 1 :]) for n in (shape[dim], 1, 0, 3)]
            arrays = [tl.tensor(rng.integers(0, 2 if d is tl.bool else 100, s)).to(d) for s in parts]
            if len(shape) > 1 or shape[0]:
                check_cat(arrays, dim, shape)
                check_cat(arrays[:1], dim, shape)


def test_which_are_compiled():
    x = tl.ones(3, 4)
    for p, given, kw in (
        (argmax_p, (x,), dict(dim=None, keepdim=False)),
        (argmin_p, (x,), dict(dim=1, keepdim=True)),
        (cumsum_p, (x,), dict(dim=0, reverse=True)),
        (cat_p, (x, x), dict(dim=1)),
        (cat_p, (x.bool(),), dict(dim=0)),
    ):
        assert p.op.entry(tuple(t._spec for t in given), kw).native
    assert not argmax_p.op.entry((x.t()._spec,), dict(dim=0, keepdim=False)).native
    assert not argmax_p.op.entry((x.long()._spec,), dict(dim=0, keepdim=False)).native
    for y in (x.t(), x.long()):
        check_places(y, 0, "plain")
    check_cat([x.t(), tl.zeros(4, 2)], 1, "plain")
    y = tl.tensor(numbers((4, 5)), dtype=tl.float32)
    want = y.cumsum(1)
    assert (y.cumsum_(1) == want).all()


def test_the_same_bits_for_every_number_of_threads():
    before, found = tl.get_num_threads(), []
    shapes = ((3_000_000,), (20_000, 70), (70, 20_000), (2, 100_000), (100_000, 2))
    x = [tl.tensor(numbers(s), dtype=tl.float32) for s in shapes]
    try:
        for n in (1, 2, 3):
            tl.set_num_threads(n)
            found.append([a.argmax(dim).numpy() for a in x for dim in range(a.ndim)])
            found[-1] += [a.cumsum(dim).numpy() for a in x for dim in range(a.ndim)]
            found[-1] += [tl.cat([a, a], dim).numpy() for a in x for dim in range(a.ndim)]
    finally:
        tl.set_num_threads(before)
    assert all((a == b).all() for other in found[1:] for a, b in zip(found[0], other))


@pytest.mark.slow
def test_fuzz_along():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    for turn in range(10_000):
        d = list(TYPES.values())[turn % 2]
        shape = tuple(rng.integers(1, 12, rng.integers(1, 5)))
        if turn % 40 == 0:
            shape = tuple(rng.integers(1, 400, 2))
        a = numbers(shape, rng.integers(1 << 30))
        if rng.random() < 0.4:
            values = rng.choice([np.nan, np.inf, -np.inf, 1e-310, 1e-42, -0.0], 3)
            a.reshape(-1)[rng.integers(0, a.size, 3)] = values
        x, dim = tl.tensor(a, dtype=d), int(rng.integers(len(shape)))
        note = f"seed {seed}, turn {turn}, shape {shape}"
        with config.ISA(("baseline", "avx2", "avx512")[turn % 3]):
            check_places(x, None if rng.random() < 0.2 else dim, note)
            check_sums(x, dim, note, d)
        check_cat([x.narrow(dim, 0, int(n)).contiguous() for n in rng.integers(0, shape[dim] + 1, 3)], dim, note)
