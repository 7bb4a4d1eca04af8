"""Attention on the emulated device against NumPy and the CPU: sizes, masks, dtypes, layouts; a step of a layer."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator, standin
from tensorlite.backends.launch import attention
from tensorlite.ops.attention import _reference, attention_dx_p, attention_p

slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


def values(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def weights_of(q, k, mask, causal, scale):
    scores = q @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = powers.sum(-1, keepdims=True)
    return powers / np.where(total == 0, 1, total)


def gradients(dy, q, k, v, mask, causal, scale):
    p = weights_of(q, k, mask, causal, scale)
    d = dy @ v.swapaxes(-1, -2)
    d = p * (d - (d * p).sum(-1, keepdims=True)) * scale
    return d @ k, d.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy


def check(rows, keys, dim, width, lead=(2,), mask=None, causal=False, dtype=tl.float32, near=2e-6):
    """Forward and backward through the op, against float64."""
    scale = 0.37
    q, k, v = values(1, *lead, rows, dim), values(2, *lead, keys, dim), values(3, *lead, keys, width)
    dy = values(4, *lead, rows, width)
    there = [tl.tensor(a).to(dtype).to("cuda") for a in (q, k, v, dy)]
    q, k, v, dy = (t.cpu().to(tl.float64).numpy() for t in there)
    m = None
    if mask is not None:
        m = tl.tensor(mask) if mask.dtype == bool else tl.tensor(mask).to(dtype)
        mask = mask if mask.dtype == bool else m.to(tl.float64).numpy()
        m = m.to("cuda")
    with standin.watch() as seen:
        y, lse = attention_p(*there[:3], m, causal=causal, scale=scale)
        made = attention_dx_p(there[3], *there[:3], y, lse, m, causal=causal, scale=scale)
    assert not seen.crossings
    for op in (attention_p, attention_dx_p):
        assert all(e.native for e in op.op.cache.values() if e.device.type == "cuda")
    wanted_y, wanted_lse = _reference(q, k, v, mask, causal, scale) if rows * keys < 40 else (None, None)
    if wanted_y is None:
        wanted_y = weights_of(q, k, mask, causal, scale) @ v
    else:
        np.testing.assert_allclose(lse.cpu().numpy(), wanted_lse, 10 * near, 10 * near)
    if dtype.is_half:  # the gradient goes on from the rounded output
        near = 1e-2 if dtype is tl.bfloat16 else 2e-3
    for found, wanted in zip((y, *made), (wanted_y, *gradients(dy, q, k, v, mask, causal, scale))):
        x = found.cpu().to(tl.float64).numpy()
        assert np.isfinite(x).all()
        assert np.abs(x - wanted).max() <= 4 * near * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows, keys", [(1, 1), (3, 9), (65, 70), (70, 5)])
def test_sizes(rows, keys, causal):
    check(rows, keys, 5, 3, causal=causal)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2), (2, 1, 3)])
def test_leading_dimensions(lead):
    check(3, 4, 2, 7, lead)


def masks(rows, keys):
    seen = np.random.default_rng(5).random((rows, keys)) < 0.6
    seen[1] = False  # a row that may look nowhere
    yield "bools", seen
    yield "a row", seen[:1]
    yield "of heads", np.stack([seen, ~seen])[:, None]
    yield "a row of each batch", np.stack([seen[:1], ~seen[:1]])[:, None]
    yield "numbers", np.where(seen, values(6, rows, keys), -np.inf)


@pytest.mark.parametrize("name, mask", [pytest.param(n, m, id=n) for n, m in masks(3, 66)])
def test_masks(name, mask):
    check(3, 66, 4, 4, (2, 2), mask=mask)


@pytest.mark.parametrize(
    "dtype, dim, width",
    [
        (tl.float32, 33, 64),
        pytest.param(tl.float32, 128, 65, marks=slow),
        pytest.param(tl.float64, 31, 3, marks=slow),
        pytest.param(tl.float64, 64, 64, marks=slow),
        pytest.param(tl.float64, 100, 128, marks=slow),
        pytest.param(tl.float16, 8, 8, marks=slow),
        pytest.param(tl.bfloat16, 8, 8, marks=slow),
    ],
)
def test_heads_and_dtypes(dtype, dim, width):
    check(35, 37, dim, width, (1,), causal=True, dtype=dtype, near=1e-13 if dtype is tl.float64 else 3e-6)


def test_nan_comes_through():
    q = tl.ones(1, 3, 2, device="cuda")
    q[0, 1, 0] = float("nan")
    y, lse = attention_p(q, tl.ones(1, 4, 2, device="cuda"), tl.ones(1, 4, 2, device="cuda"), causal=False, scale=1.0)
    assert np.isnan(y.cpu().numpy()).all(-1).tolist() == [[False, True, False]]
    assert np.isnan(lse.cpu().numpy()).tolist() == [[False, True, False]]


@pytest.mark.parametrize("kind", ["bools", "numbers"])
def test_no_access_beyond_the_arrays(kind):
    """Launched on arrays behind which memory ends."""
    shapes = dict(q=(2, 3, 5), k=(2, 67, 5), v=(2, 67, 7), dy=(2, 3, 7))
    q, k, v, dy = (emulator.guarded(values(n, *s).astype(np.float32)) for n, s in enumerate(shapes.values()))
    mask = values(5, 3, 67) < 0.5
    mask = emulator.guarded(mask if kind == "bools" else np.where(mask, np.float32(0.5), -np.inf).astype(np.float32))
    y, lse, dq, dk, dv = (
        emulator.guarded(np.full(s, np.nan, np.float32)) for s in ((2, 3, 7), (2, 3), q.shape, k.shape, v.shape)
    )
    how = dict(causal=False, scale=0.4)
    specs = [tl.from_numpy(a.copy())._spec for a in (q, k, v, mask)]
    attention.attention(tuple(specs), (), how)(q, k, v, mask, y, lse)
    attention.attention_dx((None, *specs[:3], None, None, specs[3]), (), how)(dy, q, k, v, y, lse, mask, dq, dk, dv)
    q, k, v, dy, mask = (a.astype(np.float64) if a.dtype != bool else a for a in (q, k, v, dy, mask))
    np.testing.assert_allclose(y, weights_of(q, k, mask, False, 0.4) @ v, 1e-4, 1e-5)
    for found, wanted in zip((dq, dk, dv), gradients(dy, q, k, v, mask, False, 0.4)):
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


def test_larger_heads_take_the_plain_path():
    q = tl.tensor(values(1, 2, 3, 130), dtype=tl.float32)
    here = attention_p(q, q, q, causal=True, scale=0.1)[0]
    there = attention_p(*(q.to("cuda") for _ in range(3)), causal=True, scale=0.1)[0]
    np.testing.assert_allclose(there.cpu().numpy(), here.numpy(), 1e-5, 1e-6)


def test_views_are_not_copied():
    """Heads cut out of one projection, in the order of nn.MultiheadAttention."""
    whole = tl.tensor(values(1, 5, 2, 3 * 8), dtype=tl.float32)

    def run(x):
        q, k, v = (t.reshape(5, 2, 2, 4).permute(1, 2, 0, 3) for t in x.split(8, -1))
        with standin.watch() as seen:
            y, lse = attention_p(q, k, v, causal=True, scale=0.5)
            made = attention_dx_p(y, q, k, v, y, lse, causal=True, scale=0.5)
        return seen.allocations, [t.cpu().numpy() for t in (y, lse, *made)]

    (_, here), (allocated, there) = run(whole), run(whole.to("cuda"))
    assert allocated == 6, "outputs and one row of sums"
    for a, b in zip(here, there):
        np.testing.assert_allclose(b, a, 1e-5, 1e-6)


def test_thread_orders():
    def run(order):
        q, k, v, dy = (tl.tensor(values(n, 2, 66, 4), dtype=tl.float32).to("cuda") for n in range(4))
        with emulator.order(order):
            y, lse = attention_p(q, k, v, causal=True, scale=0.5)
            made = attention_dx_p(dy, q, k, v, y, lse, causal=True, scale=0.5)
        return tuple(t.cpu().numpy().tobytes() for t in (y, lse, *made))

    assert len({run(k) for k in range(emulator.ORDERS)}) == 1


@pytest.mark.parametrize("weights", [False, True])
def test_a_training_step_of_a_layer(weights):
    def run(device):
        tl.manual_seed(0)
        layer = tl.nn.MultiheadAttention(8, 2)
        layer.to(device)
        # not Adam: the gradient of the keys' bias is 0 but for rounding, and Adam's steps are as long for that
        optimizer = tl.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
        x = tl.tensor(values(1, 5, 3, 8), dtype=tl.float32).to(device)
        hidden = tl.ones(5, 5, dtype=tl.bool).triu(1).to(device)
        padding = tl.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2]).to(device)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            y, _ = layer(x, x, x, key_padding_mask=padding, need_weights=weights, attn_mask=hidden)
            loss = (y - x).square().mean()
            loss.backward()
            tl.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses, [p.detach().cpu().numpy() for p in layer.parameters()]

    (losses, here), (found, there) = run("cpu"), run("cuda")
    np.testing.assert_allclose(found, losses, 1e-5)
    for a, b in zip(here, there):
        np.testing.assert_allclose(b, a, 1e-4, 1e-5)
    if not weights:
        entries = [e for e in TABLE["attention"].cache.values() if e.device.type == "cuda" and e.specs[3] is not None]
        assert entries and all(e.native for e in entries)


def test_extra_keys_and_masks_are_on_the_device():
    tl.manual_seed(0)
    layer = tl.nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True)
    x = tl.tensor(values(1, 3, 2, 4), dtype=tl.float32)
    mask = tl.ones(3, 3, dtype=tl.bool).triu(1)
    here = layer(x, x, x, need_weights=False, attn_mask=mask)[0]
    layer.to("cuda")
    x, mask = x.to("cuda"), mask.to("cuda")
    there = layer(x, x, x, need_weights=False, attn_mask=mask)[0]
    np.testing.assert_allclose(there.detach().cpu().numpy(), here.detach().numpy(), 1e-5, 1e-6)
