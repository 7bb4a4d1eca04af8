"""softmax, cross-entropy and pointwise losses on the emulated device, against the CPU's ops and NumPy's float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator, standin

F = tl.nn.functional
CLOSE = {tl.float32: 3e-6, tl.float64: 1e-13, tl.float16: 2e-3, tl.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


def numbers(*shape, seed=0, dtype=tl.float32):
    return tl.tensor(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def host(t):
    return t.detach().cpu().to(tl.float64).numpy()


def near(name, here, there, dtype):
    assert there.device.type == "cuda" and there.shape == here.shape and there.dtype is here.dtype
    a, b = host(here), host(there)
    scale = max(1, np.abs(a[np.isfinite(a)]).max(initial=0))
    np.testing.assert_allclose(b, a, rtol=0, atol=CLOSE[dtype] * scale, equal_nan=True, err_msg=name)


def native(name):
    """Whether every cached entry of an op on the device is a kernel of ours."""
    found = [e for e in TABLE[name].cache.values() if e.out is not None and e.out.device.type == "cuda"]
    return bool(found) and all(e.native for e in found)


def both(f, *given, g=None, lay=lambda t: t, **how):
    """f on the CPU and on the device: outputs, then the gradients of floating inputs."""
    found = []
    for device in ("cpu", "cuda"):
        args = [lay(t.detach().to(device)) for t in given]
        args = [t.requires_grad_() if t.is_floating_point() else t for t in args]
        y = f(*args, **how)
        seed = tl.ones((), device=device).to(y.dtype) if g is None else g.to(device)
        y.backward(seed.expand(y.shape) if g is None else seed)
        found.append([y, *(t.grad for t in args if t.is_floating_point())])
    return found


@pytest.mark.parametrize(
    "shape, dim, dtype",
    [
        ((3, 3), 1, tl.float32),
        ((5, 33), 1, tl.float32),
        ((1, 1100), 1, tl.float32),
        ((2, 8200), 1, tl.float32),  # longer than a block holds
        ((2, 3, 1), 1, tl.float32),
        ((4, 3), 0, tl.float32),
        ((2, 130, 3), 1, tl.float32),
        ((4, 136), 1, tl.bfloat16),
    ],
)
def test_softmax_and_its_gradient(shape, dim, dtype):
    x, g = numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    for f in (tl.softmax, tl.log_softmax):
        for here, there in zip(*both(lambda x, f=f: f(x, dim), x, g=g)):
            near(f.__name__, here, there, dtype)
    for name in ("softmax", "log_softmax", "softmax_dx", "log_softmax_dx"):
        assert native(name)


def test_rows_of_every_layout():
    def turned(t):
        return t.mT.contiguous().mT

    def gaps(t):
        return tl.stack([t, t, t], -1)[..., 1]

    def within(t):  # rows with something between them, one element off the 16 bytes
        return tl.cat([t[:, :1], t, t[:, :2]], 1)[:, 1:-2]

    for lay in (turned, gaps, within):
        for here, there in zip(*both(lambda x: tl.softmax(x, 1), numbers(3, 5), g=lay(numbers(3, 5, seed=2)), lay=lay)):
            near(lay.__name__, here, there, tl.float32)
    for here, there in zip(*both(lambda x: tl.log_softmax(x, 1), numbers(3, 5))):  # the gradient of a sum is expanded
        near("expanded", here, there, tl.float32)


def test_rows_of_nan_and_infinity():
    inf, nan = float("inf"), float("nan")
    rows = [[0.0, nan, 1.0], [inf, 0.0, 1.0], [-inf, 0.0, 1.0], [-inf, -inf, -inf], [1e4, -1e4, 9999.0]]
    for width in (3, 8200):
        x = tl.full((len(rows), width), -inf)
        x[:, [0, width // 2, width - 1]] = tl.tensor(rows)
        t = tl.tensor([0, 0, 1, 0, 0])
        for found in (
            both(tl.softmax, x, dim=1),
            both(tl.log_softmax, x, dim=1),
            both(F.cross_entropy, x, t, reduction="none"),
        ):
            for here, there in zip(*found):
                near("odd rows", here, there, tl.float32)


# ---- cross-entropy
@pytest.mark.parametrize(("shape", "dtype"), [((5, 3), tl.float32), ((5, 3), tl.float16), ((3, 8200), tl.float32)])
def test_cross_entropy(shape, dtype):
    x = numbers(*shape, dtype=dtype)
    t = tl.tensor([1, 2, 0, -100, 2][: shape[0]])
    for reduction in ("none", "sum", "mean"):
        for ignore in (-100, 2):
            keep = tl.where(t == -100, 0, t) if ignore == 2 else t
            found = both(F.cross_entropy, x, keep, reduction=reduction, ignore_index=ignore)
            for here, there in zip(*found):
                near(f"{reduction} {ignore}", here, there, dtype)
    assert native("cross_entropy") and native("cross_entropy_dx")


def test_cross_entropy_against_numpy():
    x, t = numbers(4, 5), tl.tensor([1, 0, 4, 2])
    e = np.exp(host(x))
    p = e / e.sum(1, keepdims=True)
    _, (y, dx) = both(F.cross_entropy, x, t)
    np.testing.assert_allclose(host(y), -np.log(p[range(4), t.numpy()]).mean(), rtol=1e-6)
    np.testing.assert_allclose(host(dx), (p - np.eye(5)[t.numpy()]) / 4, atol=1e-7)


@pytest.mark.parametrize("inside", [4, 400])
def test_cross_entropy_that_keeps_and_many_rows(inside, monkeypatch):
    from tensorlite.backends.launch import cross_entropy as half
    from tensorlite.ops import cross_entropy as ops

    monkeypatch.setattr(ops, "KEPT", 1)
    monkeypatch.setattr(half, "COUNT_INSIDE", inside)
    monkeypatch.setattr(half, "ONE_BLOCK", 4)
    x, t = numbers(19, 3), tl.tensor(np.arange(19) % 3)
    for reduction in ("none", "mean"):
        found = both(F.cross_entropy, x, t, reduction=reduction, ignore_index=1)
        for here, there in zip(*found):
            near(reduction, here, there, tl.float32)
    assert native("cross_entropy_kept") and native("cross_entropy_kept_dx")


@pytest.mark.parametrize("bad", [3, -1])
def test_an_index_that_is_no_class(bad):
    x, t = numbers(3, 3).to("cuda"), tl.tensor([0, bad, 1]).to("cuda")
    y = F.cross_entropy(x, t)
    with pytest.raises(IndexError, match=rf"cross_entropy: target {bad}; .* below 3.*out of bounds"):
        y.item()
    assert np.isfinite(F.cross_entropy(x, t.clamp(0, 2)).item()), "the fault is gone once it was raised"
    y = F.nll_loss(x, t)
    with pytest.raises(IndexError, match=f"nll_loss: target {bad}"):
        y.item()


def test_weights_and_smoothing():
    x, w = numbers(4, 3), numbers(3, seed=4).abs()
    t = tl.tensor([0, 2, 1, 2])
    for here, there in zip(*both(lambda x, w, t: F.cross_entropy(x, t, w, label_smoothing=0.1), x, w, t)):
        near("weighed", here, there, tl.float32)
    assert native("class_pick") and native("class_put")


# ---- losses of pairs
@pytest.mark.parametrize("f", ["mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits"])
def test_losses_of_pairs(f, monkeypatch):
    from tensorlite.backends.launch import pointwise_loss as half

    monkeypatch.setattr(half, "ONE_BLOCK", 600)
    x, t = numbers(3, 11, dtype=tl.float32), numbers(3, 11, seed=1).abs().clamp(0, 1)
    for reduction in ("none", "sum", "mean"):
        for here, there in zip(*both(getattr(F, f), x, t, reduction=reduction)):
            near(f"{f} {reduction}", here, there, tl.float32)
    g = numbers(3, 11, seed=3)
    for here, there in zip(*both(lambda x: getattr(F, f)(x, t.to(x.device), reduction="none"), x, g=g)):
        near(f, here, there, tl.float32)
    assert native("pointwise_loss") and native("pointwise_loss_dx")


def test_losses_of_pairs_that_lie_otherwise(monkeypatch):
    from tensorlite.backends.launch import pointwise_loss as half

    monkeypatch.setattr(half, "ONE_BLOCK", 600)
    x, t = numbers(2, 3, 16, 44), numbers(2, 3, 16, 44, seed=1)  # of 4224: several blocks
    last = x.to(memory_format=tl.channels_last)
    for a, b in ((x, t), (last, t), (x[..., 1:], t[..., :-1]), (last, t.to(memory_format=tl.channels_last))):
        for reduction in ("mean", "none"):
            for here, there in zip(*both(F.mse_loss, a, b, reduction=reduction)):
                near(reduction, here, there, tl.float32)


# ---- order and steps
def test_four_orders_of_threads_give_the_same_bits():
    def run(k):
        with emulator.order(k):
            x, t = numbers(5, 33).to("cuda").requires_grad_(), tl.tensor([0, 3, 1, 32, 2]).to("cuda")
            y = F.cross_entropy(x, t) + F.mse_loss(tl.softmax(x, 0), x.detach())
            y.backward()
            return host(y).tobytes() + host(x.grad).tobytes()

    assert len({run(k) for k in range(4)}) == 1


def test_a_loss_crosses_to_the_host_never():
    x, t = numbers(5, 3).to("cuda").requires_grad_(), tl.tensor([0, 1, 2, 2, 1]).to("cuda")
    loss = tl.nn.CrossEntropyLoss()
    with standin.watch() as seen:
        loss(x, t).backward()
    assert not seen.crossings
