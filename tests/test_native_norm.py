"""Layer norm, group norm and their gradients, compiled and plain, in float64 beside: every instruction set, layout of
the scale and size class."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.norm import layer_norm_p, normalize_dx_p

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
# (input, dimensions, shape of the scale): layer norm, group norm and instance norm; tails, one part and several
FORMS = [
    ((1, 1), (1,), (1,)),
    ((5, 7), (1,), (7,)),
    ((3, 4, 6), (1, 2), (4, 6)),
    ((2, 3, 130), (2,), (130,)),
    ((300, 200), (1,), (200,)),
    ((320, 1000), (1,), (1000,)),
    ((6,), (0,), (6,)),
    ((2, 2, 3, 5), (2, 3), (1, 2, 3, 1)),
    ((3, 4, 2, 1), (2, 3), (1, 4, 2, 1)),
    ((40, 4, 8, 49), (2, 3), (1, 4, 8, 1)),
    ((3, 5, 70), (2,), (1, 5, 1)),
]


def reference(x, w, b, g, mean, var, dim, own, eps):
    """y, mean and variance of x, and dx, dw and db where these are ``mean`` and ``var``: the textbook in float64."""
    along = dict(axis=dim, keepdims=True)
    w, b = (np.full((), one) if k is None else k for k, one in ((w, 1.0), (b, 0.0)))
    true_mean = x.mean(**along)
    true_var = ((x - true_mean) ** 2).mean(**along)
    y = (x - true_mean) / np.sqrt(true_var + eps) * w + b
    r = (var + eps) ** -0.5
    h = (x - mean) * r
    lead = (1,) * (x.ndim - len(own)) + tuple(own)
    dw, db = (k.sum(tuple(i for i in range(x.ndim) if lead[i] == 1)) for k in (g * h, g))
    # the Jacobian of h: (1 - 1 1'/n - h h'/n) r, which is symmetric
    dx = (g * w - (g * w).mean(**along) - h * (g * w * h).mean(**along)) * r
    return dict(y=y, mean=true_mean, var=true_var, dx=dx, dw=dw, db=db)


def compare(form, rng, d, scale=True, shift=True, offset=0.0):
    """Both kernels, and the plain ones."""
    shape, dim, own = form
    x, g = (tl.tensor(rng.standard_normal(shape) * 2 + offset, dtype=d) for _ in range(2))
    w, b = (tl.tensor(rng.standard_normal(own), dtype=d) if has else None for has in (scale, shift))
    how = dict(dim=dim, shape=own, eps=1e-3)
    wide = [None if t is None else t.double().numpy() for t in (x, w, b, g)]
    sizes = of_terms(*wide, dim, own, how["eps"])
    for kernels in ("native", "plain"):
        with config.KERNELS(kernels):
            y, mean, var = layer_norm_p(x, w, b, **how)
            got = [y, mean, var, *normalize_dx_p(g, x, mean, var, w, **how, affine=own)]
        want = reference(*wide, mean.double().numpy(), var.double().numpy(), dim, own, how["eps"])
        for a, (name, c) in zip(got, want.items(), strict=True):
            a = a.double().numpy()
            bound = 8 * tl.finfo(d).eps * sizes[name].reshape(a.shape)
            assert (np.abs(a - c.reshape(a.shape)) <= bound).all(), (kernels, name, form, d, scale, shift)


def of_terms(x, w, b, g, dim, own, eps):
    """What every element of each result is the sum of, its terms without their signs. Sums may cancel, so this and
    not the result is what a rounding is a part of: 3,000 random forms came within 3 of them, in plain NumPy too."""
    along = dict(axis=dim, keepdims=True)
    mean, size = x.mean(**along), np.abs(x).mean(**along)
    r = 1 / np.sqrt(x.var(**along) + eps)
    h, g = np.abs(x - mean) * r, np.abs(g)
    w, b = (np.abs(k) if k is not None else np.full((), one) for k, one in ((w, 1.0), (b, 0.0)))
    lead = (1,) * (x.ndim - len(own)) + tuple(own)
    summed = tuple(k for k in range(x.ndim) if lead[k] == 1)
    dx = r * (g * w + (g * w).mean(**along) + h * (g * w * h).mean(**along))
    y = w * r * (np.abs(x) + size) + b
    dw, db = (k.sum(axis=summed) for k in (g * h, g))
    return dict(y=y, mean=size, var=x.var(**along), dx=dx, dw=dw, db=db)


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_norms(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for form in FORMS:
            compare(form, rng, d)
        for scale, shift in ((True, False), (False, True), (False, False)):
            compare(FORMS[4], rng, d, scale, shift)
            compare(FORMS[9], rng, d, scale, shift)
        compare(FORMS[3], rng, d, offset=1000.0)  # far from 0: the mean goes first


@compiled
def test_the_compiled_kernel_runs():
    """Its gate is open for all three norms, forward and back."""
    for op in (layer_norm_p.op, normalize_dx_p.op):
        op.cache.clear()
    x = tl.randn(4, 6, 5, requires_grad=True)
    for y in (
        tl.nn.functional.layer_norm(x, (6, 5)),
        tl.nn.functional.group_norm(x, 3),
        tl.nn.functional.instance_norm(x),
    ):
        y.backward(tl.randn(4, 6, 5))
    for op in (layer_norm_p.op, normalize_dx_p.op):
        assert len(op.cache) == 3 and all(e.native for e in op.cache.values())


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_rows_without_a_norm(isa):
    x = tl.tensor([[math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [3.0, 3.0, 3.0], [1e-40, -1e-40, 0.0]])
    with config.ISA(isa):
        y = tl.nn.functional.layer_norm(x, (3,))
    assert y[:2].isnan().all() and (y[2] == 0).all() and y[3].isfinite().all()


@compiled
def test_the_same_bits_for_every_number_of_threads(threads):
    x, w, b, g = tl.randn(500, 300), tl.randn(300), tl.randn(300), tl.randn(500, 300)
    found = []
    for n in (1, 2, 3):
        threads(n)
        given = [t.detach().requires_grad_() for t in (x, w, b)]
        y = tl.nn.functional.layer_norm(given[0], (300,), *given[1:])
        y.backward(g)
        found.append([y.detach().numpy(), *(t.grad.numpy() for t in given)])
    assert all((a == c).all() for other in found[1:] for a, c in zip(found[0], other))


@compiled
def test_the_same_bits_wherever_memory_lies():
    values, found = np.random.default_rng(0).standard_normal((9, 301)).astype(np.float32), []
    for lead in range(5):
        x = tl.tensor(values.reshape(-1)).clone()
        room = tl.empty(9 * 301 + lead)
        part = room[lead:].view(9, 301)
        part.copy_(x.view(9, 301))
        y = tl.nn.functional.layer_norm(part.contiguous(), (301,))
        found.append(y.numpy().tobytes())
    assert len(set(found)) == 1


@compiled
@pytest.mark.slow
def test_fuzz_norms():
    """10,000 shapes drawn at random; the seed is in the message."""
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        n, groups, channels, inner = (int(k) for k in rng.integers(1, 12, 4))
        form = [
            ((n, groups * inner), (1,), (groups * inner,)),
            ((n, channels, inner), (1, 2), (channels, inner)),
            ((n, groups, channels, inner), (2, 3), (1, groups, channels, 1)),
            ((n, channels, inner * 3), (2,), (1, channels, 1)),
        ][rng.integers(4)]
        try:
            with config.ISA(ISAS[rng.integers(3)]):
                compare(form, rng, FLOATS[rng.integers(2)], bool(rng.integers(2)), bool(rng.integers(2)))
        except AssertionError as why:
            raise AssertionError(f"seed {seed}") from why
