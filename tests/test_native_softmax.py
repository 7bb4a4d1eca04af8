"""Compiled softmax, log-softmax and cross-entropy: every instruction set, size class, layout and special value."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.activation import log_softmax_dx_p, log_softmax_p, softmax_dx_p, softmax_p
from tensorlite.ops.cross_entropy import (
    KEPT,
    cross_entropy_dx_p,
    cross_entropy_kept_dx_p,
    cross_entropy_kept_p,
    cross_entropy_p,
)

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
# tails of every vector length, lines one apart and many apart, one task and several
SHAPES = [((1, 1), 1), ((3, 7), 1), ((5, 16), 1), ((2, 67), 1), ((4, 129), 1), ((70, 1000), 1), ((9, 3), 0)]
SHAPES += [((2, 5, 3), 1), ((3, 4, 16), 1), ((2, 9, 37), 1), ((40, 33, 50), 1), ((6, 2, 300), 0)]


def lines(shape, dim, rng, d, special=False):
    """x, its softmax and log-softmax, a gradient, and what the four kernels should give, in float64."""
    x, g = (tl.tensor(rng.standard_normal(shape) * 4, dtype=d) for _ in range(2))
    if special:
        values = [math.inf, -math.inf, math.nan, 1e-40, -0.0, 3e38]
        where = rng.random(shape)
        x = tl.tensor(np.where(where < 0.02, rng.choice(values, shape), x.numpy()), dtype=d)
    a, h = x.double().numpy(), g.double().numpy()
    with np.errstate(all="ignore"):
        shifted = a - a.max(dim, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(dim, keepdims=True))
        s = np.exp(shifted) / np.exp(shifted).sum(dim, keepdims=True)
        dx = s * (h - (h * s).sum(dim, keepdims=True))
        log_dx = h - np.exp(log) * h.sum(dim, keepdims=True)
    return x, g, s, log, dx, log_dx


def check_lines(shape, dim, rng, d, special=False):
    x, g, s, log, dx, log_dx = lines(shape, dim, rng, d, special)
    y, z = softmax_p(x, dim=dim), log_softmax_p(x, dim=dim)
    n, eps = shape[dim], tl.finfo(d).eps
    got = [y, z, softmax_dx_p(g, tl.tensor(s, dtype=d), dim=dim), log_softmax_dx_p(g, tl.tensor(log, dtype=d), dim=dim)]
    for name, a, b in zip(("softmax", "log_softmax", "softmax_dx", "log_softmax_dx"), got, (s, log, dx, log_dx)):
        a, bound = a.double().numpy(), (4 + n**0.5) * eps * (1 if name == "softmax" else 40)
        with np.errstate(all="ignore"):
            ok = (np.abs(a - b) <= bound * np.maximum(1, np.abs(b))) | (a == b) | (np.isnan(a) & np.isnan(b))
        assert ok.all(), (name, shape, dim, d, a[~ok][:3], b[~ok][:3])


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_lines(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for shape, dim in SHAPES:
            check_lines(shape, dim, rng, d)
            check_lines(shape, dim, rng, d, special=True)


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_exp_inside_softmax_keeps_small_numbers(isa):
    x = tl.tensor([[0.0, -20.0, -80.0, -90.0, -103.0, -200.0, -math.inf]])
    with config.ISA(isa):
        y = tl.softmax(x, 1).double().numpy()[0]
    want = np.exp(x.double().numpy()[0])
    assert (np.abs(y - want) <= 4e-7 * want + 1.5e-45).all() and y[4] > 0 and y[5] == y[6] == 0


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_lines_that_have_no_softmax(isa):
    rows = [[math.nan, 0.0, 1.0], [math.inf, 0.0, 1.0], [-math.inf] * 3, [1.0, -math.inf, 1.0]]
    wide = np.array(rows).repeat(30, 1)
    with config.ISA(isa):
        for x in (tl.tensor(rows), tl.tensor(wide)):
            for y in (tl.softmax(x, 1), tl.softmax(x.t().contiguous(), 0).t()):
                assert y[:3].isnan().all() and not y[3].isnan().any() and (y[3] == 0).any()


def check_entropy(n, classes, rng, d, reduction, ignored=0.2):
    x = tl.tensor(rng.standard_normal((n, classes)) * 3, dtype=d)
    t = tl.tensor(np.where(rng.random(n) < ignored, -100, rng.integers(0, classes, n)))
    g = tl.tensor(rng.standard_normal(n if reduction == "none" else ()), dtype=d)
    how = dict(ignore=-100, reduction=reduction)
    loss, kept = cross_entropy_kept_p(x, t, **how)
    got = [cross_entropy_p(x, t, **how), cross_entropy_dx_p(g, x, t, **how)]
    again = [loss, cross_entropy_kept_dx_p(g, x, t, kept, **how)]
    assert all(np.array_equal(a.numpy(), b.numpy(), equal_nan=True) for a, b in zip(got, again)), (n, classes)
    with config.KERNELS("plain"):  # the second implementation, in float64
        x, g = x.double(), g.double()
        want = [cross_entropy_p(x, t, **how), cross_entropy_dx_p(g, x, t, **how), cross_entropy_kept_p(x, t, **how)[1]]
    got.append(kept)
    for a, b in zip(got, want):
        bound = (8 + classes**0.5) * tl.finfo(d).eps * max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        a, b = a.double().numpy(), b.numpy()
        assert ((np.abs(a - b) <= bound) | (np.isnan(a) & np.isnan(b))).all(), (n, classes, d, reduction)


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_cross_entropy(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for n, classes in ((1, 1), (5, 3), (64, 10), (33, 65), (70, 1000)):
            for reduction in ("none", "sum", "mean"):
                check_entropy(n, classes, rng, d, reduction)
        check_entropy(3, 4, rng, d, "sum", ignored=1.0)


@compiled
def test_cross_entropy_of_large_scores_and_of_no_row():
    x = tl.tensor([[1e30, 1e30, -1e30]])
    assert abs(float(tl.nn.functional.cross_entropy(x, tl.tensor([1]))) - math.log(2)) < 1e-6
    nothing = tl.nn.functional.cross_entropy(x.requires_grad_(), tl.tensor([-100]))
    nothing.backward()
    assert nothing.isnan() and (x.grad == 0).all()
    assert tl.nn.functional.cross_entropy(tl.tensor([[math.nan, 0.0]]), tl.tensor([1])).isnan()


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_exponentials_of_differences(isa):
    """What sums and gradients are made of: their error, and what becomes of numbers that are no exponents."""
    d = np.concatenate([-np.geomspace(1e-30, 87.3, 100_000), [0.0, -math.inf, -200.0, -1e38, math.nan]])
    x = tl.tensor(d, dtype=tl.float32).reshape(1, -1)
    kept = tl.tensor([[0.0, 1.0]])  # so that the gradient is exp(x)
    with config.ISA(isa):
        y = cross_entropy_kept_dx_p(tl.tensor([1.0]), x, tl.tensor([0]), kept, ignore=-1, reduction="none")
    got, exact = y.double().numpy()[0, 1:], x.double().numpy()[0, 1:]
    with np.errstate(all="ignore"):
        error = np.abs(got / np.exp(exact) - 1)
    assert (error[:-5] <= 1.7e-7 - 7.5e-8 * exact[:-5]).all()
    assert got[-5] == 1 and (got[-4:-1] == 0).all() and np.isnan(got[-1])


@compiled
def test_a_large_loss_keeps_what_its_gradient_needs():
    """With the same numbers as a small one, and a gradient that has one itself."""
    x, t = tl.randn(KEPT // 64, 64, dtype=tl.float64), tl.randint(0, 64, (KEPT // 64,))
    for count, op in ((KEPT // 64, cross_entropy_kept_p.op), (KEPT // 64 - 1, cross_entropy_p.op)):
        leaf = x[:count].clone().requires_grad_()
        op.cache.clear()
        loss = tl.nn.functional.cross_entropy(leaf, t[:count])
        assert len(op.cache) == 1
        (first,) = tl.autograd.grad(loss, leaf, create_graph=True)
        (plain,) = tl.autograd.grad(loss, leaf)
        s = tl.softmax(leaf.detach(), 1)
        assert tl.allclose(first, plain)
        # the second derivative of a sum of squares of first ones
        (second,) = tl.autograd.grad((first**2).sum() / 2, leaf)
        want = s * (first.detach() - (s * first.detach()).sum(1, keepdim=True)) / count
        assert tl.allclose(second, want)
    with tl.no_grad():
        cross_entropy_kept_p.op.cache.clear()
        tl.nn.functional.cross_entropy(x.requires_grad_(), t)
        assert not cross_entropy_kept_p.op.cache


@compiled
def test_the_same_bits_for_every_number_of_threads(threads):
    x, t = tl.randn(300, 700), tl.randint(0, 700, (300,))
    g, found = tl.randn(300, 700), []
    for n in (1, 2, 3):
        threads(n)
        x.requires_grad_()
        x.grad = None
        loss = tl.nn.functional.cross_entropy(x, t)  # large: its gradient is made of what it keeps
        loss.backward()
        s = tl.softmax(x.detach(), 0)
        found.append([v.numpy() for v in (loss.detach(), x.grad, s, tl.log_softmax(g, 1), softmax_dx_p(g, s, dim=0))])
    assert all((a == b).all() for other in found[1:] for a, b in zip(found[0], other))


@compiled
@pytest.mark.slow
def test_fuzz_softmax():
    """10,000 shapes drawn at random, with inf, nan and denormal numbers; the seed is in the message."""
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(1, 40, rng.integers(1, 4)))
        dim, d = int(rng.integers(len(shape))), FLOATS[rng.integers(2)]
        try:
            with config.ISA(ISAS[rng.integers(3)]):
                check_lines(shape, dim, rng, d, special=bool(rng.integers(2)))
                if len(shape) == 2:
                    check_entropy(*shape, rng, d, ("none", "sum", "mean")[rng.integers(3)])
        except AssertionError as why:
            raise AssertionError(f"seed {seed}") from why
