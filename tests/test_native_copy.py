"""Compiled copies: every permutation, expanded and flipped inputs, blocks and their edges, threads."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.autograd.spec import CONTIGUOUS
from tensorlite.autograd.tensor import from_array
from tensorlite.backends import cpu
from tensorlite.ops.cast import laid_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
TYPES = {"f4": np.float32, "f8": np.float64}
SHAPES = [(70, 50), (64, 64), (3, 900), (900, 3), (5, 17, 33), (4, 16, 8, 32), (2, 3, 40, 41), (2, 3, 4, 5, 30)]


def check(a):
    """A copy of the array, into a contiguous one and, by the kernel itself, into one of the input's order of layout."""
    got = laid_p(from_array(a), format=CONTIGUOUS)._arr
    assert got.flags.c_contiguous and np.array_equal(got, a, equal_nan=True), (a.shape, a.strides)
    x = from_array(a)._spec
    order = np.random.default_rng(a.size).permutation(a.ndim)
    out = np.empty([a.shape[k] for k in order], a.dtype).transpose(np.argsort(order))
    cpu.kernel("clone")((x,), (x,), {})(a, out)
    assert np.array_equal(out, a, equal_nan=True), (a.shape, a.strides, out.strides)


def layouts(a):
    for order in itertools.permutations(range(a.ndim)):
        yield a.transpose(order)
    yield a[..., ::-1]
    yield a[::-1].swapaxes(0, -1)
    yield a[..., 1::2]
    yield np.broadcast_to(a[:1], a.shape)
    yield np.broadcast_to(a[..., :1], a.shape)
    yield np.broadcast_to(a[..., :1], a.shape).swapaxes(0, -1)
    yield np.broadcast_to(a.reshape(-1)[0], a.shape)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("d", TYPES.values(), ids=TYPES)
def test_every_layout(isa, d):
    with config.ISA(isa):
        for shape in SHAPES:
            for a in layouts(np.random.default_rng(0).standard_normal(shape).astype(d)):
                check(a)


def test_which_are_compiled():
    x = tl.randn(64, 80)
    x.t().clone(), x[:4].t().clone(), x.t().to(tl.int64).t().clone()
    for spec, entry in ((e.specs[0], e) for e in TABLE["clone"].cache.values()):
        wanted = spec.format == "strided" and spec.size >= 2048 and spec.dtype is tl.float32
        assert entry.native is wanted, spec


def test_elements_off_their_places():
    record = np.zeros(3000, np.dtype([("a", "i1"), ("x", "f4")]))
    record["x"] = np.arange(3000)
    assert np.array_equal(laid_p(from_array(record["x"]), format=CONTIGUOUS)._arr, np.arange(3000))


@pytest.mark.parametrize("d", TYPES.values(), ids=TYPES)
def test_every_number_of_threads(d):
    before = tl.get_num_threads()
    a = np.random.default_rng(0).standard_normal((8, 90, 70)).astype(d)
    try:
        for n in (1, 2, 3):
            tl.set_num_threads(n)
            for b in layouts(a):
                check(b)
    finally:
        tl.set_num_threads(before)


def test_gradients_pass():
    x = tl.randn(60, 50, requires_grad=True)
    y = x.t().contiguous()
    y.backward(tl.arange(3000.0).reshape(50, 60))
    assert (x.grad == tl.arange(3000.0).reshape(50, 60).t()).all()


@pytest.mark.slow
def test_fuzz_copy():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    for turn in range(10_000):
        ndim = int(rng.integers(1, 6))
        shape = rng.integers(1, (3000, 80, 20, 9, 6)[ndim - 1], ndim)
        a = rng.standard_normal(shape).astype(list(TYPES.values())[turn % 2])
        a.reshape(-1)[rng.integers(0, a.size)] = np.nan
        a = a[tuple(slice(None, None, int(rng.choice([1, 1, 1, 2, -1]))) for _ in shape)].transpose(
            rng.permutation(ndim)
        )
        if rng.random() < 0.3:
            a = np.broadcast_to(np.take(a, [0], -1), a.shape).swapaxes(0, -1)
        with config.ISA(("baseline", "avx2", "avx512")[turn % 3]):
            try:
                check(a)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, turn {turn}") from error
