"""Random numbers from compiled kernels, and dropout: the bits of the plain ones, everywhere."""

import math
from functools import partial

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.random import bernoulli_p, dropout_p, normal_p, uniform_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

# parts of a block, of a register, of a batch and of a task, and several tasks
COUNTS = [0, 1, 2, 3, 4, 5, 31, 33, 511, 513, 4095, 20001, 70003]
KEYS = [[7, 3], [-1, 2**40 + 1], [2**62 + 5, -7]]
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
each_dtype = pytest.mark.parametrize("d", [tl.float32, tl.float64])


def check(call, primitive, *inputs, **kw):
    """The compiled kernel has the bits of the plain forward, and is the one that runs."""
    with config.KERNELS("plain"):
        want = call().numpy()
    got = call().numpy()
    assert got.tobytes() == want.tobytes() and got.dtype == want.dtype
    assert primitive.op.entry(tuple(t._spec for t in inputs), kw).native


@each_isa
@each_dtype
@pytest.mark.parametrize("p", [uniform_p, normal_p], ids=["uniform", "normal"])
def test_numbers(p, isa, d):
    with config.ISA(isa):
        for key in map(tl.tensor, KEYS):
            for n in COUNTS:
                check(partial(p, key, shape=(n,), dtype=d), p, key, shape=(n,), dtype=d)


@each_isa
@each_dtype
def test_dropout(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for key in map(tl.tensor, KEYS):
            for shape, channels in [*[((n,), 0) for n in COUNTS], ((), 0), ((3, 5, 4, 2), 2), ((2, 3, 90, 80), 2),
                                    ((500, 70, 3), 2), ((4, 0, 3), 1), ((2, 3, 0), 2)]:  # fmt: skip
                x = tl.tensor(rng.standard_normal(shape), dtype=d)
                for p in (0.0, 0.3, 1 - 2**-40, 1.0):
                    kw = dict(p=p, channels=channels)
                    check(partial(dropout_p, x, key, **kw), dropout_p, x, key, **kw)


@each_isa
@each_dtype
def test_bernoulli(isa, d):
    with config.ISA(isa):
        for n in COUNTS:
            x = tl.tensor(np.random.default_rng(n).uniform(0, 1, n), dtype=d)
            x._arr[::3], x._arr[1::3] = 0, 1
            check(partial(bernoulli_p, x, tl.tensor(KEYS[0])), bernoulli_p, x, tl.tensor(KEYS[0]))
        for bad in (-0.1, 1.1, math.nan, math.inf):
            x = tl.full((40000,), 0.5, dtype=d)
            x._arr[39999] = bad
            with pytest.raises(RuntimeError, match="in \\[0, 1\\]"):
                bernoulli_p(x, tl.tensor(KEYS[0]))


def test_the_same_bits_for_every_number_of_threads(threads):
    key, found = tl.tensor([1, 2]), []
    for n in (1, 2, 3):
        threads(n)
        made = [f(key, shape=(300001,), dtype=d) for f in (uniform_p, normal_p) for d in (tl.float32, tl.float64)]
        made += [dropout_p(made[1], key, p=0.4, channels=0), bernoulli_p(made[0], key)]
        found.append([t.numpy().tobytes() for t in made])
    assert found[0] == found[1] == found[2]


def test_special_values_keep_their_bits():
    x = tl.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42, 3e38, -1.0] * 100)
    for p in (0.5, 1.0):
        check(
            partial(dropout_p, x, tl.tensor(KEYS[0]), p=p, channels=0),
            dropout_p,
            x,
            tl.tensor(KEYS[0]),
            p=p,
            channels=0,
        )


def test_gradients_that_come_in_any_layout():
    """The gradient finds the mask of the call, whether it comes whole, expanded or transposed."""
    x = tl.ones(300, 200, requires_grad=True)
    tl.manual_seed(3)
    y = tl.nn.functional.dropout(x, 0.25)
    mask = y.detach().numpy()
    assert 0.7 < (mask != 0).mean() < 0.8
    w = tl.randn(200, 300)
    for out, want in ((y.sum(), mask), ((y * 2).sum(), 2 * mask), ((y.t() * w).sum(), mask * w.numpy().T)):
        (dx,) = tl.autograd.grad(out, x, retain_graph=True)
        np.testing.assert_array_equal(dx.numpy(), want.astype(np.float32))


def test_normal_numbers_are_normal():
    x = tl.randn(1_000_001).numpy().astype(float)
    assert abs(x.mean()) < 5e-3 and abs(x.var() - 1) < 1e-2
    assert abs((x**3).mean()) < 2e-2 and abs((x**4).mean() - 3) < 5e-2
    assert abs((x[::2][:-1] * x[1::2]).mean()) < 5e-3  # the two of a pair


@pytest.mark.slow
def test_fuzz_random():
    rng = np.random.default_rng(seed := 20261121)
    for k in range(10000):
        key = tl.tensor(rng.integers(-(2**63), 2**63 - 1, 2))
        d = (tl.float32, tl.float64)[rng.integers(2)]
        shape = tuple(int(n) for n in rng.integers(0, (9, 30, 9, 9), 4)[: rng.integers(0, 5)])
        x = tl.tensor(rng.choice([1.0, -2.5, math.nan, math.inf, 1e-310, 0.0], shape), dtype=d)
        with config.ISA(str(rng.choice(["baseline", "avx2", "avx512"]))):
            try:
                for p in (uniform_p, normal_p):
                    check(partial(p, key, shape=shape, dtype=d), p, key, shape=shape, dtype=d)
                kw = dict(p=float(rng.uniform()), channels=int(rng.integers(0, len(shape) + 1)))
                check(partial(dropout_p, x, key, **kw), dropout_p, x, key, **kw)
                chance = tl.tensor(rng.uniform(0, 1, shape), dtype=d)
                check(partial(bernoulli_p, chance, key), bernoulli_p, chance, key)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {k}: {key.tolist()} {shape} {d}") from error
