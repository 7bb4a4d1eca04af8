"""Layer norm with an activation or a residual: the bits of the ops that it is made of; the root-mean-square norm."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.nn import functional as F
from tensorlite.ops import acts
from tensorlite.ops.norm import layer_norm_p
from tensorlite.ops.norm_act import (
    add_layer_norm,
    add_layer_norm_dx_p,
    add_layer_norm_p,
    layer_norm_act,
    layer_norm_act_dx_p,
    layer_norm_act_p,
)
from tensorlite.ops.rms_norm import rms_norm_dx_p, rms_norm_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
# (input, dimensions, shape of the scale): layer norm, group norm and instance norm; tails, one part and several
FORMS = [
    ((1, 1), (1,), (1,)),
    ((5, 7), (1,), (7,)),
    ((3, 4, 6), (1, 2), (4, 6)),
    ((2, 3, 130), (2,), (130,)),
    ((300, 200), (1,), (200,)),
    ((6,), (0,), (6,)),
    ((2, 2, 3, 5), (2, 3), (1, 2, 3, 1)),
    ((3, 4, 2, 1), (2, 3), (1, 4, 2, 1)),
    ((40, 4, 8, 49), (2, 3), (1, 4, 8, 1)),
    ((3, 5, 70), (2,), (1, 5, 1)),
]


def bits(*tensors):
    """The bytes of tensors; a nan is a nan, whatever its sign, which no two compilers agree on."""
    return [np.where(np.isnan(a), np.nan, a).tobytes() for a in (t.detach().numpy() for t in tensors)]


def draw(rng, d, *shape):
    return tl.tensor(rng.standard_normal(shape), dtype=d)


def run(call, tensors, *g):
    """The bits of what a call gives and of all gradients."""
    given = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    y = call(*given)
    y = y if isinstance(y, tuple) else (y,)
    tl.autograd.backward(y[: len(g)], g)
    return bits(*y, *(t.grad for t in given if t is not None))


def same_as_the_ops(rng, d, form, scale=True, shift=True, only=None, say=""):
    size, dim, own = form
    x, residual, g, h = (draw(rng, d, *size) for _ in range(4))
    w, b = (draw(rng, d, *own) if has else None for has in (scale, shift))
    how = dict(dim=dim, shape=own, eps=1e-3)
    given = (x, residual, w, b)

    def apart(x, residual, w, b):
        s = x + residual
        return layer_norm_p(s, w, b, **how)[0], s

    for gs in ((g, h), (g,)):
        fused = lambda *given: add_layer_norm(*given, **how)
        assert run(fused, given, *gs) == run(apart, given, *gs), (form, scale, shift, say)
    for act in [only] if only else acts.OPS:
        want = run(lambda x, w, b, act=act: acts.run(act, layer_norm_p(x, w, b, **how)[0]), (x, w, b), g)
        got = run(lambda x, w, b, act=act: layer_norm_act(x, w, b, **how, act=act), (x, w, b), g)
        assert got == want, (form, scale, shift, act, say)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_the_bits_of_the_ops(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for form in FORMS:
            same_as_the_ops(rng, d, form)
        for scale, shift in ((True, False), (False, True), (False, False)):
            same_as_the_ops(rng, d, FORMS[3], scale, shift)
            same_as_the_ops(rng, d, FORMS[6], scale, shift)


def test_kernels_run():
    for op in (add_layer_norm_p, add_layer_norm_dx_p, layer_norm_act_p, layer_norm_act_dx_p, rms_norm_p, rms_norm_dx_p):
        op.op.cache.clear()
    x, w = tl.randn(4, 5, requires_grad=True), tl.randn(5, requires_grad=True)
    how = dict(dim=(1,), shape=(5,), eps=1e-3)
    y, s = add_layer_norm(x, x, w, **how)
    layer_norm_act(y, w, **how, act="relu").backward(s)
    tl.autograd.backward(add_layer_norm(x, x, w, **how), (tl.ones(4, 5), tl.ones(4, 5)))
    F.rms_norm(x, (5,), w).backward(tl.ones(4, 5))
    for op in (add_layer_norm_p, add_layer_norm_dx_p, layer_norm_act_p, layer_norm_act_dx_p, rms_norm_p, rms_norm_dx_p):
        assert op.op.cache and all(e.native for e in op.op.cache.values()), op.op.name


def test_the_sum_alone_and_the_norm_alone():
    """A gradient may come for either output."""
    rng = np.random.default_rng(1)
    x, r, g = (draw(rng, tl.float64, 3, 4) for _ in range(3))
    how = dict(dim=(1,), shape=(4,), eps=1e-3)
    x.requires_grad_()
    (of_sum,) = tl.autograd.grad(add_layer_norm(x, r, **how)[1], x, g)
    assert bits(of_sum) == bits(g)
    (of_norm,) = tl.autograd.grad(add_layer_norm(x, r, **how)[0], x, g)
    assert bits(of_norm) == bits(tl.autograd.grad(layer_norm_p(x + r, **how)[0], x, g)[0])


@pytest.mark.parametrize("isa", ISAS)
def test_rows_without_a_norm(isa):
    x = tl.tensor([[math.nan, 1.0, 2.0], [math.inf, 1.0, 2.0], [3.0, 3.0, 3.0], [1e-40, -1e-40, 0.0], [1e30, 0.0, 1.0]])
    how = dict(dim=(1,), shape=(3,), eps=1e-5)
    with config.ISA(isa):
        for act in acts.OPS:
            want = run(lambda x, act=act: acts.run(act, layer_norm_p(x, **how)[0]), (x,), tl.ones(5, 3))
            assert run(lambda x, act=act: layer_norm_act(x, **how, act=act), (x,), tl.ones(5, 3)) == want
        y, s = add_layer_norm(x, x, **how)
        assert bits(y, s) == bits(layer_norm_p(x + x, **how)[0], x + x)
        y = F.rms_norm(x, (3,))
        assert y[0].isnan().all() and y[2:].isfinite().all() and y[1, 0].isnan() and (y[1, 1:] == 0).all()


def test_the_same_bits_for_every_number_of_threads(threads):
    rng = np.random.default_rng(2)
    x, r, w, b, g = (draw(rng, tl.float32, *s) for s in ((500, 300), (500, 300), (300,), (300,), (500, 300)))
    how = dict(dim=(1,), shape=(300,), eps=1e-3)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(run(lambda *given: add_layer_norm(*given, **how), (x, r, w, b), g, r))
        found[-1] += run(lambda x, w, b: layer_norm_act(x, w, b, **how, act="gelu"), (x, w, b), g)
        found[-1] += run(lambda x, w: F.rms_norm(x, (300,), w), (x, w), g)
    assert found[0] == found[1] == found[2]


# ---- the root-mean-square norm
def compare_rms(rng, d, shape, dims, scale, say=""):
    """Both kernels beside the plain ones in float64; sums may cancel, so beside what they are sums of."""
    own = shape[-dims:]
    x, g = draw(rng, d, *shape), draw(rng, d, *shape)
    w = draw(rng, d, *own) if scale else None
    how = dict(dim=tuple(range(len(shape) - dims, len(shape))), eps=1e-3)
    y, squares = rms_norm_p(x, w, **how)
    got = [y, squares, *rms_norm_dx_p(g, x, squares, w, **how)]
    with config.KERNELS("plain"):
        wide = [None if t is None else t.double() for t in (x, w, g, squares)]
        want = list(rms_norm_p(wide[0], wide[1], **how))
        want += rms_norm_dx_p(wide[2], wide[0], wide[3], wide[1], **how)
        size = [None if t is None else t.abs() for t in wide]
        of = list(rms_norm_p(size[0], size[1], **how))
        v = size[2] * (1 if w is None else size[1])
        r, own_dims = (wide[3] + how["eps"]).rsqrt(), how["dim"]
        h = size[0] * r
        of.append((v + h * (v * h).mean(own_dims, keepdim=True)) * r)
        of.append((size[2] * h).reshape(-1, *own).sum(0))
    for a, c, most in zip(got, want, of):
        bound = 8 * tl.finfo(d).eps * most.numpy()
        assert (np.abs(a.double().numpy() - c.numpy()) <= bound).all(), (shape, dims, d, scale, say)


# tails; several parts of rows; their sums added up by several threads
RMS = [((1, 1), 1), ((5, 7), 1), ((3, 4, 6), 2), ((2, 3, 130), 1), ((300, 200), 1), ((6,), 1), ((4, 2100), 1),
       ((17, 4100), 1)]  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_rms_norm(isa, d):
    rng = np.random.default_rng(3)
    with config.ISA(isa):
        for shape, dims in RMS:
            for scale in (True, False):
                compare_rms(rng, d, shape, dims, scale)


@pytest.mark.slow
def test_fuzz_norm_act():
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
        d, scale, shift = FLOATS[rng.integers(2)], bool(rng.integers(2)), bool(rng.integers(2))
        with config.ISA(ISAS[rng.integers(3)]):
            same_as_the_ops(rng, d, form, scale, shift, list(acts.OPS)[rng.integers(5)], f"seed {seed}")
            compare_rms(rng, d, (n, groups * inner * channels), 1, scale, f"seed {seed}")
