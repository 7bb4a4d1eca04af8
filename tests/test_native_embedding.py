"""Rows picked and added by compiled kernels: the bits of the plain ones, everywhere."""

import math
from functools import partial

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.rows import embedding_p, index_add_p, index_select_p, unselect_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

# (shape of the table, dim, indices): one element a row, tails, several ranges of rows, columns cut, more dimensions
FORMS = [((4, 3), 0, 7), ((5,), 0, 9), ((1, 1), 0, 1), ((50000,), 0, 3000), ((900, 130), 0, 2000), ((3, 4099), 0, 40),
         ((2, 7, 3), 1, 11), ((3, 4, 5), 2, 6), ((4, 300, 33), 1, 500), ((4, 0), 0, 3), ((6, 3), 0, 0),
         ((0, 3), 0, 0)]  # fmt: skip
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
each_dtype = pytest.mark.parametrize("d", [tl.float32, tl.float64])
each_index = pytest.mark.parametrize("i", [tl.int32, tl.int64])


def check(p, *inputs, **kw):
    """The compiled kernel has the bits of the plain forward, and is the one that runs."""
    with config.KERNELS("plain"):
        want = p(*inputs, **kw).numpy()
    got = p(*inputs, **kw).numpy()
    assert got.tobytes() == want.tobytes() and got.shape == want.shape
    assert p.op.entry(tuple(t._spec for t in inputs), kw).native
    return got


def given(shape, dim, count, d, i, seed=0, low=0):
    rng, n = np.random.default_rng(seed), shape[dim]
    x = tl.tensor(rng.standard_normal(shape), dtype=d)
    w = tl.tensor(rng.standard_normal((*shape[:dim], count, *shape[dim + 1 :])), dtype=d)
    return x, tl.tensor(rng.integers(low and -n, max(n, 1), count), dtype=i), w


@each_isa
@each_dtype
@each_index
def test_rows_picked(d, i, isa):
    with config.ISA(isa):
        for shape, dim, count in FORMS:
            x, index, _ = given(shape, dim, count, d, i)
            check(index_select_p, x, index, dim=dim, who="index_select")
            x, index, _ = given(shape, dim, count, d, i, low=1)
            check(index_select_p, x, index, dim=dim, who="getitem")
            if len(shape) == 2 and dim == 0:
                _, index, _ = given(shape, dim, count, d, i)
                check(embedding_p, index, x, padding=None, by_freq=False)


@each_dtype
@each_index
@each_isa
def test_rows_added(d, i, isa):
    with config.ISA(isa):
        for shape, dim, count in FORMS:
            x, index, w = given(shape, dim, count, d, i)
            check(index_add_p, x, index, w, dim=dim)
            _, index, w = given(shape, dim, count, d, i, low=1)
            check(unselect_p, w, index, shape=shape, dim=dim)


def test_the_same_bits_for_every_number_of_threads(threads):
    x, index, w = given((3000, 70), 0, 9000, tl.float32, tl.int64)
    few, many, v = given((3, 512), 0, 2000, tl.float32, tl.int64)
    found = []
    for n in (1, 2, 3):
        threads(n)
        made = [index_select_p(x, index, dim=0, who="getitem"), unselect_p(w, index, shape=x.shape, dim=0)]
        made += [index_add_p(x, index, w, dim=0), index_add_p(few, many, v, dim=0)]
        found.append([t.numpy().tobytes() for t in made])
    assert found[0] == found[1] == found[2]


def test_special_values():
    x, index, w = given((40, 9), 0, 60, tl.float32, tl.int64)
    for value in (math.nan, math.inf, -math.inf, -0.0, 1e-42):
        x._arr[3], w._arr[[5, 30]] = value, value
        check(index_select_p, x, index, dim=0, who="getitem")
        check(index_add_p, x, index, w, dim=0)
        check(unselect_p, w, index, shape=(40, 9), dim=0)


def test_indices_beyond_the_end_are_refused_in_the_same_words():
    def text(call):
        with pytest.raises(IndexError) as error:
            call()
        return str(error.value)

    x, _, w = given((400, 90), 0, 500, tl.float32, tl.int64)
    for bad in (400, -1, -401, 2**40):
        for at in (0, 499):
            index = tl.zeros(500, dtype=tl.int64)
            index._arr[at] = bad
            calls = [
                partial(index_select_p, x, index, dim=0, who="index_select"),
                partial(embedding_p, index, x, padding=None, by_freq=False),
                partial(index_add_p, x, index, w, dim=0),
            ]
            if bad != -1:
                calls.append(partial(index_select_p, x, index, dim=0, who="getitem"))
                calls.append(partial(unselect_p, w, index, shape=(400, 90), dim=0))
            for call in calls:
                with config.KERNELS("plain"):
                    want = text(call)
                assert text(call) == want


def test_sources_that_share_memory_with_the_target():
    index = tl.tensor([2, 0, 1, 1])

    def added():
        x = tl.arange(12, dtype=tl.float32).reshape(4, 3)
        x.index_add_(0, index, x)
        y = tl.arange(15, dtype=tl.float32).reshape(5, 3)
        y[:4].index_add_(0, index, y[1:])
        return x.numpy(), y.numpy()

    with config.KERNELS("plain"):
        want = added()
    assert all(np.array_equal(a, b) for a, b in zip(added(), want))


@pytest.mark.parametrize("kw", [dict(), dict(padding_idx=3), dict(padding_idx=3, scale_grad_by_freq=True)])
def test_gradients_of_embeddings(kw):
    """Whole, expanded and strided gradients; the padding's row stays zero though nan comes in."""
    w = tl.randn(50, 8, requires_grad=True)
    index = tl.randint(50, (6, 20))
    index._arr[0, :3] = 3
    g = tl.randn(8, 20, 6).permute(2, 1, 0)
    y = tl.nn.functional.embedding(index, w, **kw)
    for grad in (g.contiguous(), g, tl.tensor([2.0]).expand(6, 20, 8)):
        with config.KERNELS("plain"):
            (want,) = tl.autograd.grad(y, w, grad, create_graph=True)  # by the formula
        (got,) = tl.autograd.grad(y, w, grad, retain_graph=True)
        np.testing.assert_array_equal(got.numpy(), want.detach().numpy())
    if kw:
        bad = tl.ones(6, 20, 8)
        bad._arr[index.numpy() == 3] = math.nan
        (got,) = tl.autograd.grad(y, w, bad)
        assert (got[3] == 0).all() and not got.isnan().any()


@pytest.mark.slow
def test_fuzz_rows():
    rng = np.random.default_rng(seed := 20261121)
    for k in range(10000):
        shape = tuple(int(n) for n in rng.integers(0, (60, 40, 12), 3)[: rng.integers(1, 4)])
        dim, d, i = int(rng.integers(len(shape))), (tl.float32, tl.float64)[k % 2], (tl.int32, tl.int64)[k // 2 % 2]
        x, index, w = given(shape, dim, int(rng.integers(0, 200)) if shape[dim] else 0, d, i, k)
        for t in (x, w):
            if t.numel():
                t._arr.reshape(-1)[rng.integers(t.numel())] = rng.choice([math.nan, math.inf, 1e-310])
        with config.ISA(str(rng.choice(["baseline", "avx2", "avx512"]))):
            try:
                check(index_select_p, x, index, dim=dim, who="getitem")
                check(index_add_p, x, index, w, dim=dim)
                check(unselect_p, w, index, shape=shape, dim=dim)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {k}: {shape} {dim} {index.shape} {d} {i}") from error
