"""Random numbers: published vectors, distributions, states."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.ops import philox

ONES = 0xFFFFFFFF
# the known-answer tests of the Random123 distribution (kat_vectors, philox4x32 10)
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "want"), VECTORS)
def test_published_vectors(counter, key, want):
    assert philox.rounds(*counter, *key) == want
    arrays = philox.rounds(*(np.full(3, c, np.uint64) for c in counter), *key)
    assert [int(a[2]) for a in arrays] == list(want)


def test_words_do_not_depend_on_how_many_are_asked_for():
    key = np.array([5, 9])
    many = philox.words(np, key, 1000)
    for n in (1, 3, 4, 5, 999):
        assert (philox.words(np, key, n) == many[:n]).all()


def test_log_and_turn_are_exact_to_rounding():
    x = np.random.default_rng(0).random(20_000) + 1e-12
    assert np.abs(philox.natural_log(np, x) / np.log(x) - 1).max() < 1e-13
    c, s = philox.turn(np, x % 1)
    assert (
        np.abs(c - np.cos(2 * np.pi * (x % 1))).max() < 1e-14 and np.abs(s - np.sin(2 * np.pi * (x % 1))).max() < 1e-14
    )


def test_seeds_repeat_and_differ():
    tl.manual_seed(1)
    a = tl.rand(5), tl.randn(5), tl.randint(0, 9, (5,)), tl.randperm(5)
    tl.manual_seed(1)
    b = tl.rand(5), tl.randn(5), tl.randint(0, 9, (5,)), tl.randperm(5)
    assert all((p == q).all() for p, q in zip(a, b))
    tl.manual_seed(2)
    assert (tl.rand(5) != a[0]).any()
    assert tl.initial_seed() == 2 and tl.manual_seed(-1).initial_seed() == 2**64 - 1


def test_states():
    g = tl.Generator().manual_seed(3)
    state = g.get_state()
    assert state.dtype is tl.uint8 and state.shape == (16,)
    a = tl.rand(3, generator=g)
    g.set_state(state)
    assert (tl.rand(3, generator=g) == a).all() and (g.clone_state().get_state() == g.get_state()).all()
    state = tl.get_rng_state()
    a = tl.randn(3)
    tl.set_rng_state(state)
    assert (tl.randn(3) == a).all()
    with pytest.raises(TypeError):
        tl.set_rng_state(tl.zeros(3))


@pytest.mark.parametrize("d", [tl.float32, tl.float64, tl.float16, tl.bfloat16])
def test_uniform(d):
    x = tl.rand(40_000, dtype=d).double()
    assert x.min().item() >= 0 and x.max().item() < 1
    assert abs(x.mean().item() - 0.5) < 0.01 and abs(x.var().item() - 1 / 12) < 0.005


def test_normal():
    z = tl.randn(200_000, dtype=tl.float64)
    assert abs(z.mean().item()) < 0.01 and abs(z.std().item() - 1) < 0.01
    assert abs((z**4.0).mean().item() - 3) < 0.08 and abs(np.corrcoef(z.numpy()[:-1], z.numpy()[1:])[0, 1]) < 0.01
    assert abs((z.abs() < 1).double().mean().item() - 0.6827) < 0.005
    assert (tl.normal(tl.tensor([10.0, 20.0]), 0.0) == tl.tensor([10.0, 20.0])).all()


def test_integers_and_permutations():
    x = tl.randint(-3, 4, (70_000,))
    counts = np.bincount(x.numpy() + 3)
    assert len(counts) == 7 and abs(counts / 10_000 - 1).max() < 0.05 and x.dtype is tl.int64
    p = tl.randperm(1000)
    assert sorted(p.tolist()) == list(range(1000)) and p.tolist() != list(range(1000))
    with pytest.raises(RuntimeError, match="less than"):
        tl.randint(3, 3, (1,))
    with pytest.raises(RuntimeError):
        tl.randperm(-1)


def test_fills():
    x = tl.empty(10_000)
    assert abs(x.uniform_(-2, 4).mean().item() - 1) < 0.1 and x.min().item() >= -2
    assert abs(x.normal_(5, 2).std().item() - 2) < 0.1
    assert set(x.bernoulli_(0.3).unique().tolist()) == {0.0, 1.0} and abs(x.mean().item() - 0.3) < 0.03
    assert tl.empty(5, dtype=tl.int64).random_(0, 3).max().item() <= 2
    w = tl.empty(3, requires_grad=True)
    w.uniform_()  # a leaf may be filled
    with pytest.raises(RuntimeError):
        tl.empty(2, dtype=tl.int64).normal_()


def test_bernoulli_and_multinomial():
    assert tl.bernoulli(tl.ones(5)).tolist() == [1.0] * 5 and tl.bernoulli(tl.zeros(5)).tolist() == [0.0] * 5
    w = tl.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
    assert tl.multinomial(w, 1)[1].item() == 0
    draws = tl.multinomial(w[0], 20_000, replacement=True)
    assert abs((draws == 2).double().mean().item() - 0.75) < 0.02 and (draws != 0).all()
    assert sorted(tl.multinomial(w[0], 2).tolist()) == [1, 2]
    for wrong in (lambda: tl.multinomial(w[0], 3), lambda: tl.multinomial(-w[0], 1)):
        with pytest.raises(RuntimeError):
            wrong()


def test_dropout():
    tl.manual_seed(0)
    x = tl.ones(200, 200, requires_grad=True)
    y = tl.dropout(x, 0.25)
    kept = (y != 0).double().mean().item()
    assert abs(kept - 0.75) < 0.01 and set(y.detach().unique().tolist()) == {0.0, np.float32(1 / 0.75).item()}
    y.sum().backward()
    assert (x.grad == y.detach()).all()  # the gradient goes where the value went
    assert tl.dropout(x, 0.5, training=False) is x and (tl.dropout(x, 1.0) == 0).all()
    z = tl.nn.functional.dropout2d(tl.ones(8, 16, 3, 3), 0.5).flatten(2)
    assert (z == z[:, :, :1]).all() and 0 < (z == 0).double().mean().item() < 1
    with pytest.raises(ValueError):
        tl.dropout(x, -0.1)


def test_second_order_through_dropout():
    x = tl.rand(50, dtype=tl.float64, requires_grad=True)
    y = tl.dropout(x * x, 0.5)
    (g,) = tl.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = tl.autograd.grad(g.sum(), x)
    assert np.allclose(h.numpy(), np.where(y.detach().numpy() != 0, 4.0, 0.0))
