"""Attention and its gradient, compiled and plain, beside float64: every instruction set, block size, layout, mask."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.attention import attention_dx_p, attention_p

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
attention = tl.nn.functional.scaled_dot_product_attention
# (heads, queries, keys, E, V): less than a tile, tails of every block, several blocks of queries and of keys
SIZES = [
    ((), 1, 1, 1, 1),
    ((2,), 3, 5, 2, 3),
    ((2, 3), 25, 17, 16, 16),
    ((1, 2), 64, 64, 32, 32),
    ((2,), 50, 150, 8, 20),
    ((1,), 131, 300, 33, 7),
]


def mask_of(kind, lead, rows, keys, rng, d):
    """A mask of bools or numbers, stretched over heads or rows; some rows may look nowhere."""
    if kind is None:
        return None
    shape = {"rows": (rows, keys), "heads": (*lead, rows, keys), "keys": (1, keys), "one": (rows, 1)}[kind[1]]
    see = rng.random(shape) < 0.7
    if len(see) > 1:
        see[..., 0, :] = False
    if kind[0] == "bool":
        return tl.tensor(see)
    return tl.tensor(np.where(see, rng.standard_normal(shape), -np.inf), dtype=d)


def laid_out(values, d, layout):
    """The heads' rows one after the other, or cut from (B, T, H, D), or with a row's numbers apart."""
    x = tl.tensor(values, dtype=d)
    if layout == "heads last" and x.ndim > 2:
        return x.transpose(-3, -2).contiguous().transpose(-3, -2)
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if layout == "columns" else x


def reference(q, k, w, g, mask, causal, scale):
    """y, the logarithm of each row's sum (inf where it looks nowhere), dq, dk and dv, by the textbook in float64."""
    t = lambda a: np.swapaxes(a, -1, -2)
    scores = q @ t(k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        rows, keys = np.indices(scores.shape[-2:])
        scores = np.where(keys <= rows, scores, -np.inf)
    lse = np.logaddexp.reduce(scores, -1, keepdims=True)
    blind = lse == -np.inf
    p = np.where(blind, 0, np.exp(scores - np.where(blind, 0, lse)))
    y, dp = p @ w, g @ t(w)
    # the Jacobian of a softmax of each row: diag(p) - p p'
    ds = (p * dp - p * np.sum(p * dp, -1, keepdims=True)) * scale
    return dict(y=y, lse=np.where(blind, np.inf, lse)[..., 0], dq=ds @ k, dk=t(ds) @ q, dv=t(p) @ g)


def compare(size, rng, d, causal=False, kind=None, layout="dense", spread=1.0, scale=0.3):
    lead, rows, keys, e, v = size
    q, k, w, g = (
        laid_out(rng.standard_normal((*lead, *shape)) * spread, d, layout)
        for shape in ((rows, e), (keys, e), (keys, v), (rows, v))
    )
    mask, how = mask_of(kind, lead, rows, keys, rng, d), dict(causal=causal, scale=scale)
    wide = [t.double().numpy() for t in (q, k, w, g)]
    added = None if mask is None else mask.numpy().astype(bool if kind[0] == "bool" else np.float64)
    want = reference(*wide, added, causal, scale)
    # scores of this size are rounded before exp
    size_of_scores = max(1.0, np.abs(wide[0]).max() * np.abs(wide[1]).max() * e**0.5 * scale)
    for kernels in ("native", "plain"):
        with config.KERNELS(kernels):
            y, lse = attention_p(q, k, w, mask, **how)
            got = [y, lse, *attention_dx_p(g, q, k, w, y, lse, mask, **how)]
        for a, (name, b) in zip(got, want.items(), strict=True):
            a, finite = a.double().numpy(), np.isfinite(b)
            most = max(1.0, np.abs(b[finite]).max(initial=0))
            bound = 16 * size_of_scores * max(rows, keys) ** 0.5 * tl.finfo(d).eps * most
            with np.errstate(invalid="ignore"):
                off = np.abs(a - b)
                ok = (a == b) | (off <= bound) & finite
            assert ok.all(), (kernels, name, size, d, causal, kind, layout, off.max(), bound)


@compiled
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_attention(isa, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for size in SIZES:
            for causal in (False, True):
                for layout in ("dense", "heads last", "columns"):
                    compare(size, rng, d, causal, layout=layout)
        for kind in (
            ("bool", "rows"),
            ("bool", "heads"),
            ("bool", "keys"),
            ("bool", "one"),
            ("number", "rows"),
            ("number", "heads"),
            ("number", "keys"),
        ):
            compare(SIZES[2], rng, d, kind=kind)
            compare(SIZES[4], rng, d, kind=kind, layout="heads last")


@compiled
def test_the_compiled_kernel_runs():
    attention_p.op.cache.clear(), attention_dx_p.op.cache.clear()
    x = tl.randn(2, 10, 3 * 4 * 8, requires_grad=True)
    q, k, v = (t.view(2, 10, 4, 8).transpose(1, 2) for t in x.split(32, -1))
    y = attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 10, 32)
    y.sum().backward()
    for op in (attention_p.op, attention_dx_p.op):
        assert len(op.cache) == 1 and all(e.native for e in op.cache.values())


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_and_later_blocks(isa):
    """A maximum that comes in a later block shrinks what was summed before; nothing overflows."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        compare(((1,), 30, 400, 4, 4), rng, tl.float32, spread=30.0, scale=1.0)
        q, k, v = tl.ones(1, 1), tl.arange(300.0).reshape(300, 1), tl.arange(300.0).reshape(300, 1)
        assert abs(float(attention(q, k, v, scale=1.0)) - (299 - 1 / (math.e - 1))) < 1e-3
        assert abs(float(attention(q, -k, v, scale=1.0)) - 1 / (math.e - 1)) < 1e-6


@compiled
@pytest.mark.parametrize("isa", ISAS)
def test_nan_stays_and_the_blind_get_nothing(isa):
    q, k, v = tl.randn(3, 4), tl.randn(5, 4), tl.randn(5, 2)
    with config.ISA(isa):
        bad = q.clone()
        bad[1, 2] = math.nan
        assert attention(bad, k, v).isnan().any(1).tolist() == [False, True, False]
        mask = tl.ones(3, 5, dtype=tl.bool)
        mask[2] = False
        given = [t.requires_grad_() for t in (q, k, v)]
        y = attention(*given, attn_mask=mask)
        y.sum().backward()
        assert (y[2] == 0).all() and (q.grad[2] == 0).all() and all(t.grad.isfinite().all() for t in given)


@compiled
def test_the_same_bits_for_every_number_of_threads(threads):
    found = []
    for lead in ((3, 4), (2,)):
        q, k, v, g = (tl.randn(*lead, 200, 24) for _ in range(4))
        for n in (1, 2, 3):
            threads(n)
            given = [t.detach().requires_grad_() for t in (q, k, v)]
            y = attention(*given, is_causal=True)
            y.backward(g)
            found.append([y.detach().numpy(), *(t.grad.numpy() for t in given)])
    for first, *rest in (found[:3], found[3:]):
        assert all((a == b).all() for other in rest for a, b in zip(first, other))


def test_gradients_of_gradients_and_of_masks():
    q, k, v = (tl.randn(2, 3, 4, dtype=tl.float64, requires_grad=True) for _ in range(3))
    mask = tl.randn(3, 3, dtype=tl.float64, requires_grad=True)
    assert tl.autograd.gradgradcheck(lambda *t: attention(*t, is_causal=True), (q, k, v))
    assert tl.autograd.gradcheck(lambda *t: attention(*t[:3], attn_mask=t[3]), (q, k, v, mask))


def test_several_heads_without_weights_are_the_same():
    layer, x = tl.nn.MultiheadAttention(12, 3, batch_first=True), tl.randn(2, 5, 12)
    hidden = tl.tensor([[False] * 5, [False, False, True, True, True]])
    with_weights = layer(x, x, x, key_padding_mask=hidden)[0]
    alone = layer(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
    assert tl.allclose(with_weights, alone, atol=1e-6)


@compiled
@pytest.mark.slow
def test_fuzz_attention():
    """10,000 shapes, masks and layouts drawn at random; the seed is in the message."""
    kinds = [None, None, *((a, b) for a in ("bool", "number") for b in ("rows", "heads", "keys"))]
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        rows, keys, e, v = (int(n) for n in rng.integers(1, 70, 4))
        size = (((), (2,), (1, 2))[rng.integers(3)], rows, keys, e, v)
        causal = bool(rng.integers(2))
        kind = None if causal else kinds[rng.integers(len(kinds))]
        try:
            with config.ISA(ISAS[rng.integers(3)]):
                compare(size, rng, FLOATS[rng.integers(2)], causal, kind, ("dense", "heads last")[rng.integers(2)])
        except AssertionError as why:
            raise AssertionError(f"seed {seed}") from why
