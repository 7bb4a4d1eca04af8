"""Layer, group, RMS and batch norm on the emulated device, against the CPU's ops and NumPy's float64."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator, standin
from tensorlite.backends.launch import norm
from tensorlite.ops import batch_norm_act, norm_act

F = tl.nn.functional
CLOSE = {tl.float32: 4e-6, tl.float64: 1e-13, tl.float16: 3e-3, tl.bfloat16: 2e-2}


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


def native(*names):
    """Whether every cached entry of these ops on the device is a kernel of ours."""
    found = [[e for e in TABLE[n].cache.values() if e.outs and e.outs[0].device.type == "cuda"] for n in names]
    return all(entries and all(e.native for e in entries) for entries in found)


def both(f, *given, seed=None, lay=lambda t: t, **how):
    """f on the CPU and on the device: outputs, then the gradients of floating inputs."""
    found = []
    for device in ("cpu", "cuda"):
        args = [None if t is None else lay(t.detach().to(device)).requires_grad_() for t in given]
        ys = f(*args, **how)
        ys = ys if isinstance(ys, tuple) else (ys,)
        gs = [
            tl.ones((), device=device).to(y.dtype).expand(y.shape)
            if seed is None
            else numbers(*y.shape, seed=seed + k, dtype=y.dtype).to(device)
            for k, y in enumerate(ys)
        ]
        tl.autograd.backward(ys, gs)
        found.append([*ys, *(t.grad for t in args if t is not None)])
    return found


def same(found, dtype, name=""):
    for k, (here, there) in enumerate(zip(*found)):
        near(f"{name} {k}", here, there, dtype)


# ---- rows
@pytest.mark.parametrize(
    "rows, n, dtype",
    [
        (3, 1, tl.float32),
        (5, 33, tl.float32),
        (2, 1100, tl.float32),
        (2, 8200, tl.float32),  # longer than a block holds
        (11, 136, tl.bfloat16),
    ],
)
def test_layer_norm(rows, n, dtype, monkeypatch):
    monkeypatch.setattr(norm, "ONE_BLOCK", 1000)
    x, w, b = numbers(rows, n, dtype=dtype), numbers(n, seed=1), numbers(n, seed=2)
    same(both(_layer_norm, x, w, b, seed=3), dtype)
    assert native("layer_norm", "normalize_dx")


def _layer_norm(x, w, b, **how):
    return F.layer_norm(x, w.shape, w, b, **how)


def test_layer_norm_against_numpy():
    x, w, b, g = (numbers(*shape, seed=k) for k, shape in enumerate(((4, 5), (5,), (5,), (4, 5))))
    a, there = host(x), [t.detach().to("cuda").requires_grad_() for t in (x, w, b)]
    y = _layer_norm(*there)
    y.backward(g.to("cuda"))
    r = 1 / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    h = (a - a.mean(1, keepdims=True)) * r
    v = host(g) * host(w)
    np.testing.assert_allclose(host(y), h * host(w) + host(b), atol=1e-6)
    dx = r * (v - v.mean(1, keepdims=True) - h * (v * h).mean(1, keepdims=True))
    wanted = dx, (host(g) * h).sum(0), host(g).sum(0)
    for t, one in zip(there, wanted):
        np.testing.assert_allclose(host(t.grad), one, atol=2e-6)


def test_rows_that_lie_otherwise():
    def turned(t):
        return t.mT.contiguous().mT if t.dim() > 1 else t

    def within(t):  # one element off the 16 bytes
        return tl.cat([t[..., :1], t, t[..., :2]], -1)[..., 1:-2]

    x, w, b = numbers(3, 8), numbers(8, seed=1), numbers(8, seed=2)
    for lay in (turned, within):
        same(both(_layer_norm, x, w, b, seed=3, lay=lay), tl.float32, lay.__name__)
    same(both(_layer_norm, x, w, b), tl.float32, "the gradient of a sum is expanded")
    assert native("layer_norm", "normalize_dx")


def test_rows_of_nan_and_infinity():
    x = numbers(4, 5)
    x[0, 1], x[1, 2], x[2] = float("nan"), float("inf"), 3.0
    same(both(lambda x: F.layer_norm(x, (5,)), x, seed=1), tl.float32)
    same(both(lambda x: F.rms_norm(x, (5,)), x, seed=1), tl.float32)


def test_rms_norm():
    for shape in ((3, 33), (2, 2, 5)):
        x, w = numbers(*shape), numbers(shape[-1], seed=1)
        same(both(lambda x, w: F.rms_norm(x, w.shape, w, eps=1e-5), x, w, seed=3), tl.float32)
    assert native("rms_norm", "rms_norm_dx")


def test_group_and_instance_norm():
    for shape, groups in (((2, 6, 5), 2), ((3, 16, 1, 2), 2)):
        x, w, b = numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)
        same(both(lambda x, w, b, k=groups: F.group_norm(x, k, w, b), x, w, b, seed=3), tl.float32)
    x, w, b = numbers(2, 3, 20), numbers(3, seed=1), numbers(3, seed=2)
    same(both(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), x, w, b, seed=3), tl.float32)
    assert native("layer_norm", "normalize_dx")


@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_layer_norm_with_an_activation(act):
    x, w, b = numbers(3, 9), numbers(9, seed=1), numbers(9, seed=2)
    how = dict(dim=(1,), shape=(9,), eps=1e-5, act=act)
    here, there = (
        [
            *norm_act.layer_norm_act_p(*(t.to(place) for t in (x, w, b)), **how),
            *_act_dx(place, x, w, b, how),
        ]
        for place in ("cpu", "cuda")
    )
    same([here, there], tl.float32)
    assert native("layer_norm_act", "layer_norm_act_dx")


def _act_dx(place, x, w, b, how):
    given = [t.to(place) for t in (numbers(*x.shape, seed=5), x)]
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    more = [t.to(place) for t in (mean, var, w, b)]
    return norm_act.layer_norm_act_dx_p(*given, *more, affine=(9,), **how)


def test_layer_norm_of_a_sum():
    x, more, w, b = numbers(3, 9), numbers(3, 9, seed=1), numbers(9, seed=2), numbers(9, seed=3)
    how = dict(dim=(1,), shape=(9,), eps=1e-5)
    same(both(norm_act.add_layer_norm, x, more, w, b, seed=4, **how), tl.float32)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    given = numbers(3, 9, seed=6), numbers(3, 9, seed=7), x, mean, var, w
    here, there = (
        norm_act.add_layer_norm_dx_p(*(t.to(place) for t in given), affine=(9,), **how) for place in ("cpu", "cuda")
    )
    same([here, there], tl.float32)
    assert native("add_layer_norm", "add_layer_norm_dx")


# ---- channels
def _batch_norm(x, w, b, running=(None, None), **how):
    return F.batch_norm(x, *running, w, b, training=True, **how)


@pytest.mark.parametrize("form", ["planes", "rows", "last", "turned"])
def test_batch_norm(form, monkeypatch):
    from tensorlite.backends.launch import batch_norm as half

    monkeypatch.setattr(half, "WHOLE", {half.PLANES: 3000, half.COLUMNS: 40})
    shapes = dict(planes=[(3, 2, 5), (2, 2, 64, 64)], rows=[(5, 3), (300, 35)], last=[(2, 3, 3, 5), (2, 3, 16, 16)])
    for shape in shapes.get(form, [(2, 3, 4, 5)]):
        x, w, b = numbers(*shape), numbers(shape[1], seed=1), numbers(shape[1], seed=2)
        running = [numbers(shape[1], seed=k).abs() for k in (5, 6)]
        kept = [[t.clone().to(place) for t in running] for place in ("cpu", "cuda")]
        turn = iter(kept)

        def f(x, w, b, turn=turn):
            return _batch_norm(x, w, b, next(turn), momentum=0.3)

        lay = {"last": _channels_last, "turned": _turned}.get(form, lambda t: t)
        same(both(f, x, w, b, seed=3, lay=lay), tl.float32, form)
        same(kept, tl.float32, "running")
    assert native("batch_norm", "normalize_dx")


def _channels_last(t):
    return t.contiguous(memory_format=tl.channels_last) if t.dim() == 4 else t


def _turned(t):
    return t.transpose(2, 3).contiguous().transpose(2, 3) if t.dim() == 4 else t


def test_batch_norm_against_numpy():
    x = numbers(3, 2, 7) * 0.01 + 1000  # far from 0: deviations must be made from the mean
    y = F.batch_norm(x.to("cuda"), None, None, training=True)
    a = host(x)
    wanted = (a - a.mean((0, 2), keepdims=True)) / np.sqrt(a.var((0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(host(y), wanted, atol=2e-2)


def test_batch_norm_of_halves():
    x, w, b = numbers(4, 3, 2, 4, dtype=tl.bfloat16), numbers(3, seed=1), numbers(3, seed=2)
    same(both(_batch_norm, x, w, b, seed=3), tl.bfloat16)


@pytest.mark.parametrize("last", [False, True])
def test_batch_norm_with_relu(last):
    lay = _channels_last if last else lambda t: t
    x, w, b, more = (numbers(*s, seed=k) for k, s in enumerate([(2, 3, 4, 2), (3,), (3,), (2, 3, 4, 2)]))
    how = dict(dim=(0, 2, 3), shape=(1, 3, 1, 1), eps=1e-3)
    same(both(batch_norm_act.batch_norm_relu, x, w, b, seed=4, lay=lay, momentum=0.1, **how), tl.float32)
    y = numbers(2, 3, 4, 2, seed=8)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    given = numbers(2, 3, 4, 2, seed=9), x, mean, var, w, y
    for p in (batch_norm_act.batch_norm_relu_dx_p, batch_norm_act.batch_norm_add_relu_dx_p):
        here, there = (p(*(lay(t.to(place)) for t in given), affine=(3,), **how) for place in ("cpu", "cuda"))
        same([here, there], tl.float32, p.op.name)
    f = lambda x, w, b, more: batch_norm_act.batch_norm_add_relu(x, w, b, residual=more, momentum=0.1, **how)
    same(both(f, x, w, b, more, seed=4, lay=lay), tl.float32)
    names = ("batch_norm_relu", "batch_norm_add_relu", "batch_norm_relu_dx", "batch_norm_add_relu_dx")
    assert native(*names)


def test_batch_norm_with_given_statistics():
    mean, var = numbers(3, seed=5), numbers(3, seed=6).abs()

    def f(x, w, b):
        return F.batch_norm(x, mean.to(x.device), var.to(x.device), w, b)

    for lay in (lambda t: t, _channels_last, _turned):
        x, w, b = numbers(2, 3, 4, 5), numbers(3, seed=1), numbers(3, seed=2)
        same(both(f, x, w, b, seed=3, lay=lay), tl.float32)
    assert native("scale_shift")


# ---- modules, order
def test_four_orders_of_threads_give_the_same_bits(monkeypatch):
    from tensorlite.backends.launch import batch_norm as half

    monkeypatch.setattr(half, "WHOLE", {half.PLANES: 10, half.COLUMNS: 10})
    monkeypatch.setattr(norm, "ONE_BLOCK", 10)

    def run(k):
        with emulator.order(k):
            xs = [numbers(*shape).to("cuda").requires_grad_() for shape in ((9, 5), (2, 3, 5), (9, 3))]
            ws = [numbers(n, seed=1).to("cuda").requires_grad_() for n in (5, 3, 3)]
            ys = [_layer_norm(xs[0], ws[0], None), *(_batch_norm(x, w, None) for x, w in zip(xs[1:], ws[1:]))]
            tl.autograd.backward(ys, [numbers(*y.shape, seed=2).to("cuda") for y in ys])
            return b"".join(host(t).tobytes() for t in (*ys, *(t.grad for t in xs + ws)))

    assert len({run(k) for k in range(4)}) == 1


def test_a_step_crosses_to_the_host_never():
    tl.manual_seed(0)
    nn = tl.nn
    made = [nn.BatchNorm2d(3), nn.Flatten(), nn.LayerNorm(12)]
    here = nn.Sequential(*made)
    there = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.LayerNorm(12))
    there.load_state_dict(here.state_dict())
    there.to("cuda")
    x, t, loss = numbers(5, 3, 2, 2), tl.tensor([0, 3, 11, 2, 1]), nn.CrossEntropyLoss()
    loss(here(x), t).backward()
    x, t = x.to("cuda"), t.to("cuda")
    with standin.watch() as seen:
        loss(there(x), t).backward()
    assert not seen.crossings
    same([[p.grad for p in m.parameters()] for m in (here, there)], tl.float32)
    same([[here[0].running_mean, here[0].running_var], [there[0].running_mean, there[0].running_var]], tl.float32)
    here.eval(), there.eval()
    same([[here(x.cpu())], [there(x)]], tl.float32)
