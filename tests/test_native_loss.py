"""Compiled losses of pairs: every instruction set, kind, reduction, size class and special value, in wider numbers
beside; those near the largest beside PyTorch, too."""

import itertools
import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.pointwise_loss import pointwise_loss_dx_p, pointwise_loss_p

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
KINDS = [
    ("squared", 0.0, 0.0),
    ("absolute", 0.0, 0.0),
    ("huber", 0.75, 0.75),
    ("huber", 0.5, 1.0),
    ("logits", 0.0, 0.0),
]
REDUCTIONS = ["none", "sum", "mean"]
# LARGE is nine tenths of the largest number of the dtype: twice as much overflows
LARGE = 0.9
SPECIAL = [math.inf, -math.inf, math.nan, -0.0, 1e-40, 90.0, -104.0, -800.0]


def formulas(kind, bound, steep, share, x, t, fit):
    """Losses, and slopes times a share, in wider numbers; ``fit`` makes inf of what the dtype does not hold."""
    with np.errstate(all="ignore"):
        d = fit(x - t)
        if kind == "squared":  # as PyTorch has it: the share of a mean goes with the 2, and then comes the gradient
            return d**2, fit(d * (2 * share))
        if kind == "absolute":
            return np.abs(d), np.sign(d) * share
        if kind == "huber":
            far = np.abs(d) > bound
            loss = np.where(far, steep * (np.abs(d) - bound / 2), d * d * steep / bound / 2)
            return loss, np.where(far, np.sign(d) * steep, d * (steep / bound)) * share
        log_sigmoid = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
        return (1 - t) * x - log_sigmoid, (np.exp(log_sigmoid) - t) * share


def close(a, b, bound):
    with np.errstate(all="ignore"):
        return (np.abs(a - b) <= bound) | (a == b) | (np.isnan(a) & np.isnan(b))


def drawn(n, kind, d, rng, special):
    """x and t; the targets of logits are probabilities, whatever the logits are."""
    x, t = rng.standard_normal(n) * 3, rng.random(n)
    if special:
        large = LARGE * tl.finfo(d).max
        values = [*SPECIAL, large, -large]
        x = np.where(rng.random(n) < 0.1, rng.choice(values, n), x)
        t = np.where(rng.random(n) < 0.1, rng.choice(values, n), t) if kind != "logits" else t
    return tl.tensor(x, dtype=d), tl.tensor(t, dtype=d)


def compare(n, form, d, reduction, rng, special=False):
    kind, bound, steep = form
    x, t = drawn(n, kind, d, rng, special)
    g = tl.tensor(rng.standard_normal(n if reduction == "none" else ()), dtype=d)
    how = dict(kind=kind, bound=bound, steep=steep, reduction=reduction)
    y, dx = (v.double().numpy() for v in (pointwise_loss_p(x, t, **how), pointwise_loss_dx_p(g, x, t, **how)))
    a, b, h = (v.numpy().astype(np.longdouble if d is tl.float64 else np.float64) for v in (x, t, g))
    eps, largest, share = tl.finfo(d).eps, tl.finfo(d).max, 1 / n if reduction == "mean" else 1
    fit = lambda v: np.where(np.abs(v) > largest, np.sign(v) * math.inf, v)
    loss, slope = formulas(kind, bound, steep, share, a, b, fit)
    with np.errstate(all="ignore"):
        want_dx = slope * h
        # what a difference of terms of this size may lose; the share is rounded once more
        size = np.abs(loss) + np.abs(a) + 1
        if reduction == "none":
            want, off = loss, 8 * eps * size
        else:
            want = fit(loss.sum()) * share  # inf where the sum is, if it is one of a mean too
            off = 16 * eps * size.sum() * share
        want, want_dx = fit(want), fit(want_dx)
    where = (n, form, d, reduction, special)
    assert close(y, want, off).all(), where
    assert close(dx, want_dx, 8 * eps * (np.abs(want_dx) + np.abs(h * share))).all(), where


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_losses_of_pairs(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for form in KINDS:
            for reduction in REDUCTIONS:
                for n in (1, 7, 16, 33, 1000, 40_000):
                    compare(n, form, d, reduction, rng)
                compare(500, form, d, reduction, rng, special=True)


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_logits_keep_the_small_end(isa, d):
    """log(1 + exp(-x)) to its last digits where it is far below 1."""
    x = np.linspace(0, 87 if d is tl.float32 else 700, 5000).astype(d.np)
    with config.ISA(isa):
        y = tl.nn.functional.binary_cross_entropy_with_logits(tl.tensor(x), tl.ones(5000, dtype=d), reduction="none")
    want = np.log1p(np.exp(-x.astype(np.longdouble)))
    assert (np.abs(y.numpy() / want - 1) <= 4 * tl.finfo(d).eps).all()


@pytest.mark.parametrize("kernels", ["plain", pytest.param("native", marks=compiled)])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("d", FLOATS)
def test_a_slope_overflows_where_it_does_in_pytorch(d, create_graph, kernels):
    """2 (x - t) is inf beyond half of the largest number; 2 / n (x - t), a mean's, is not."""
    large = tl.finfo(d).max * LARGE
    with config.KERNELS(kernels), np.errstate(over="ignore"):
        for reduction, want in (("none", math.inf), ("sum", math.inf), ("mean", large / 5)):
            x, t = (tl.tensor([a, -a, *[1.0] * 8], dtype=d, requires_grad=True) for a in (large, 0.0))
            y = tl.nn.functional.mse_loss(x, t, reduction=reduction).sum()
            for found, sign in zip(tl.autograd.grad(y, (x, t), create_graph=create_graph), (1, -1)):
                assert np.allclose(found.detach().numpy()[:2], [want * sign, -want * sign], rtol=4 * tl.finfo(d).eps)


@pytest.mark.parametrize("kernels", ["plain", pytest.param("native", marks=compiled)])
@pytest.mark.parametrize("d", FLOATS)
def test_a_mean_is_inf_where_its_sum_is(d, kernels):
    x = tl.full((8,), tl.finfo(d).max / 4, dtype=d)
    with config.KERNELS(kernels), np.errstate(over="ignore"):
        means = [float(tl.nn.functional.l1_loss(x[:n], tl.zeros(n, dtype=d))) for n in (2, 8)]
    assert means == [tl.finfo(d).max / 4, math.inf]


@pytest.mark.parity
@pytest.mark.parametrize("kernels", ["plain", pytest.param("native", marks=compiled)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("d", FLOATS)
def test_special_values_beside_pytorch(d, reduction, kernels):
    torch, rng = pytest.importorskip("torch"), np.random.default_rng(0)
    calls = [("mse_loss", {}), ("l1_loss", {}), ("binary_cross_entropy_with_logits", {})]
    calls += [("huber_loss", dict(delta=b)) for b in (0.75, 3.0)]
    calls += [("smooth_l1_loss", dict(beta=b)) for b in (0.0, 0.5, 3.0)]
    for (name, how), scale in itertools.product(calls, (0.3, 4.0)):
        pairs = drawn(400, "logits" if "logits" in name else "others", d, rng, special=True)
        found = []
        for library, F in ((torch, torch.nn.functional), (tl, tl.nn.functional)):
            x, t = (library.from_numpy(v.numpy().copy()).requires_grad_() for v in pairs)
            with config.KERNELS(kernels), np.errstate(all="ignore"):
                y = getattr(F, name)(x, t, reduction=reduction, **how)
                y.backward(library.full(tuple(y.shape), scale, dtype=x.dtype))
            found.append([v.detach().numpy() for v in (y, x.grad, t.grad)])
        for what, theirs, ours in zip(("y", "dx", "dt"), *found):
            if name == "l1_loss" or how == dict(beta=0.0):  # sign(nan) is 0 in PyTorch, nan here as in NumPy
                theirs = np.where(np.isnan(ours) & (theirs == 0), np.nan, theirs)
            eps = tl.finfo(d).eps
            assert np.allclose(ours, theirs, rtol=32 * eps, atol=8 * eps, equal_nan=True), (name, how, scale, what)


@compiled
def test_the_compiled_kernels_run():
    F = tl.nn.functional
    for op in (pointwise_loss_p.op, pointwise_loss_dx_p.op):
        op.cache.clear()
    t = tl.rand(4, 6)
    for loss in (F.mse_loss, F.l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits):
        for reduction in REDUCTIONS:
            x = tl.randn(4, 6, requires_grad=True)
            y = loss(x, t, reduction=reduction)
            y.backward(tl.randn(4, 6) if reduction == "none" else None)
    for op in (pointwise_loss_p.op, pointwise_loss_dx_p.op):
        assert len(op.cache) == 12 and all(e.native for e in op.cache.values())


@compiled
def test_the_same_bits_for_every_number_of_threads(threads):
    x, t = tl.randn(300_001), tl.rand(300_001)
    for kind, bound, steep in KINDS:
        found = []
        for n in (1, 2, 3):
            threads(n)
            how = dict(kind=kind, bound=bound, steep=steep, reduction="mean")
            dx = pointwise_loss_dx_p(tl.tensor(1.5), x, t, **how)
            found.append((pointwise_loss_p(x, t, **how).numpy().tobytes(), dx.numpy().tobytes()))
        assert found[0] == found[1] == found[2]


@compiled
@pytest.mark.slow
def test_fuzz_losses():
    """10,000 sizes drawn at random, with inf, nan and denormal numbers; the seed is in the message."""
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        form, d = KINDS[rng.integers(len(KINDS))], FLOATS[rng.integers(2)]
        special = bool(rng.integers(2))
        reduction = REDUCTIONS[rng.integers(3)]
        try:
            with config.ISA(ISAS[rng.integers(3)]):
                compare(int(rng.integers(1, 2000)), form, d, reduction, rng, special)
        except AssertionError as why:
            raise AssertionError(f"seed {seed}") from why
