"""Compiled losses of pairs: every instruction set, kind, reduction, size class and special value, in float64 beside."""

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
SPECIAL = [math.inf, -math.inf, math.nan, -0.0, 1e-40, 1e38, -1e38, 90.0, -104.0, -800.0]


def formulas(kind, bound, steep, x, t):
    """Losses and slopes, in float64."""
    with np.errstate(all="ignore"):
        d = x - t
        if kind == "squared":
            return d**2, 2 * d
        if kind == "absolute":
            return np.abs(d), np.sign(d)
        if kind == "huber":
            far = np.abs(d) > bound
            loss = np.where(far, steep * (np.abs(d) - bound / 2), d * d * steep / bound / 2)
            return loss, np.where(far, np.sign(d) * steep, d * (steep / bound))
        log_sigmoid = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
        return (1 - t) * x - log_sigmoid, np.exp(log_sigmoid) - t


def close(a, b, bound):
    with np.errstate(all="ignore"):
        return (np.abs(a - b) <= bound) | (a == b) | (np.isnan(a) & np.isnan(b))


def compare(n, form, d, reduction, rng, special=False):
    kind, bound, steep = form
    x, t = rng.standard_normal(n) * 3, rng.random(n)
    if special:
        x = np.where(rng.random(n) < 0.1, rng.choice(SPECIAL, n), x)
    x, t = tl.tensor(x, dtype=d), tl.tensor(t, dtype=d)
    g = tl.tensor(rng.standard_normal(n if reduction == "none" else ()), dtype=d)
    how = dict(kind=kind, bound=bound, steep=steep, reduction=reduction)
    y, dx = (v.double().numpy() for v in (pointwise_loss_p(x, t, **how), pointwise_loss_dx_p(g, x, t, **how)))
    a, b, h = (v.double().numpy() for v in (x, t, g))
    loss, slope = formulas(kind, bound, steep, a, b)
    eps, largest = tl.finfo(d).eps, tl.finfo(d).max
    with np.errstate(all="ignore"):
        want_dx = slope * h / (n if reduction == "mean" else 1)
        # what a difference of terms of this size may lose; the share is rounded once more
        size = np.abs(loss) + np.abs(a) + 1
        if reduction == "none":
            want, off = loss, 8 * eps * size
        else:
            want = loss.sum() / (n if reduction == "mean" else 1)
            off = 16 * eps * size.sum() / (n if reduction == "mean" else 1)
        want, want_dx = (np.where(np.abs(v) > largest, np.sign(v) * math.inf, v) for v in (want, want_dx))
    where = (n, form, d, reduction, special)
    assert close(y, want, off).all(), where
    assert close(dx, want_dx, 8 * eps * (np.abs(want_dx) + np.abs(h))).all(), where


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
                compare(500, form, d, "none", rng, special=True)


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
        reduction = "none" if special else REDUCTIONS[rng.integers(3)]
        try:
            with config.ISA(ISAS[rng.integers(3)]):
                compare(int(rng.integers(1, 2000)), form, d, reduction, rng, special)
        except AssertionError as why:
            raise AssertionError(f"seed {seed}") from why
