"""Optimizer steps, norms and scalings of many tensors on the emulated device, against the CPU: values, host copies."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator, standin
from tensorlite.backends.launch import table, update as launch_update
from tensorlite.ops import clip, update
from tensorlite.ops.clip import total_norm
from tensorlite.ops.scaling import amp_unscale, amp_update_scale
from tensorlite.ops.update import skipped_where

SHAPES = ((7, 3), (1030,), (), (0, 2), (3,))  # 1030: two blocks
slow = pytest.mark.slow  # a kernel of its own that g++ takes seconds for; tests/test_cuda_ops.py has a part each day


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


def values(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


class Pair:
    """The same parameters on the CPU and on the device, each with its optimizer."""

    def __init__(self, make, dtype=tl.float32, shapes=SHAPES, lay=lambda t: t):
        self.shapes, self.dtype = shapes, dtype
        given = [tl.tensor(v).to(dtype) for v in values(0, shapes)]
        self.here = [lay(t.clone()).detach().requires_grad_() for t in given]
        self.there = [lay(t.to("cuda")).detach().requires_grad_() for t in given]
        self.optimizers = make(self.here), make(self.there)
        for p, q in zip(self.here, self.there):
            p.grad, q.grad = tl.zeros_like(p), tl.zeros_like(q)

    def fill(self, seed):
        for v, p, q in zip(values(seed, self.shapes), self.here, self.there):
            p.grad.copy_(tl.tensor(v).to(self.dtype))
            q.grad.copy_(tl.tensor(v).to(self.dtype).to("cuda"))

    def state(self, k):
        """Parameters and what is kept for them, on the CPU (0) or the device (1)."""
        params = (self.here, self.there)[k]
        kept = self.optimizers[k].state
        return [*params, *(t for p in params for _, t in sorted(kept[p].items()))]

    def check(self, rtol=2e-6, atol=1e-6):
        for a, b in zip(self.state(0), self.state(1), strict=True):
            assert b.device.type == "cuda" and a.dtype is b.dtype
            x, y = (t.detach().cpu().to(tl.float64).numpy() for t in (a, b))
            np.testing.assert_allclose(y, x, rtol, atol)


OPTIONS = [
    (tl.optim.SGD, dict(lr=0.1)),
    (tl.optim.SGD, dict(lr=0.1, weight_decay=0.3, maximize=True)),
    (tl.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.2)),
    (tl.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3)),
    (tl.optim.Adam, dict(lr=0.1)),
    (tl.optim.Adam, dict(lr=0.1, weight_decay=0.3, maximize=True, betas=(0.7, 0.9), eps=0.01)),
    (tl.optim.Adam, dict(lr=0.1, amsgrad=True)),
    (tl.optim.AdamW, dict(lr=0.1, weight_decay=0.3)),
]
SLOWER = [
    (tl.optim.RMSprop, dict(lr=0.1)),
    (tl.optim.RMSprop, dict(lr=0.1, centered=True, weight_decay=0.3)),
    (tl.optim.RMSprop, dict(lr=0.1, momentum=0.9, maximize=True)),
    (tl.optim.RMSprop, dict(lr=0.1, momentum=0.9, centered=True, alpha=0.9, eps=0.01)),
    (tl.optim.Adagrad, dict(lr=0.1, lr_decay=0.2, weight_decay=0.3)),
    (tl.optim.Adadelta, dict(lr=0.1, rho=0.7, weight_decay=0.3)),
    (tl.optim.Adamax, dict(lr=0.1, weight_decay=0.3)),
    (tl.optim.NAdam, dict(lr=0.1, weight_decay=0.3, momentum_decay=0.1)),
    (tl.optim.NAdam, dict(lr=0.1, weight_decay=0.3, decoupled_weight_decay=True)),
    (tl.optim.RAdam, dict(lr=0.1, weight_decay=0.3)),
    (tl.optim.RAdam, dict(lr=0.1, weight_decay=0.3, betas=(0.9, 0.6), decoupled_weight_decay=True)),
]


def named(option):
    return f"{option[0].__name__} {option[1]}"


@pytest.mark.parametrize(
    "option",
    [*(pytest.param(o, id=named(o)) for o in OPTIONS), *(pytest.param(o, id=named(o), marks=slow) for o in SLOWER)],
)
def test_steps(option):
    cls, how = option
    pair = Pair(lambda params: cls(params, **how))
    for step in range(3):
        pair.fill(step + 1)
        pair.optimizers[0].step()
        with standin.watch() as seen:
            pair.optimizers[1].step()
        assert not seen.crossings
        if step > 1:  # SGD's first step with momentum has settings of its own
            assert not seen.allocations, "the tables of the step before should do"
    pair.check()


def test_the_kernels_ran():
    """Not the plain forward."""
    (t, g, m, v), one = (tl.ones(3, device="cuda") for _ in range(4)), tl.ones((), device="cuda")
    update.sgd([t], [g], lr=0.5)
    update.adam([t], [g], [m], [v], [one.clone()], lr=0.1)
    clip.scale([t], one * 2)
    clip.total_norm([t])
    amp_unscale([t], one * 0, one)
    amp_update_scale(one.clone(), one.to(tl.int32), [one])
    for name in ("sgd", "adam", "scale", "total_norm", "amp_unscale", "amp_update_scale"):
        entries = [e for e in TABLE[name].cache.values() if e.device.type == "cuda"]
        assert entries and all(e.native for e in entries), name


@pytest.mark.parametrize(
    "dtype", [tl.float64, pytest.param(tl.bfloat16, marks=slow), pytest.param(tl.float16, marks=slow)]
)
def test_other_dtypes(dtype):
    pair = Pair(lambda params: tl.optim.Adam(params, lr=0.1, weight_decay=0.1), dtype)
    for step in range(3):
        pair.fill(step + 1)
        for optimizer in pair.optimizers:
            optimizer.step()
    near = (1e-14, 1e-14) if dtype is tl.float64 else (1e-2, 1e-2)
    pair.check(*near)
    norms = [tl.nn.utils.clip_grad_norm_(params, 0.5) for params in (pair.here, pair.there)]
    assert norms[1].dtype is dtype
    for a, b in zip((norms[0], *(p.grad for p in pair.here)), (norms[1], *(p.grad for p in pair.there))):
        x, y = (t.cpu().to(tl.float64).numpy() for t in (a, b))
        np.testing.assert_allclose(y, x, *near)


def test_a_group_of_two_dtypes():
    def run(device):
        params = [
            tl.full((5,), 1.0, dtype=d, device=device).requires_grad_() for d in (tl.float32, tl.float64, tl.float32)
        ]
        for k, p in enumerate(params):
            p.grad = tl.full_like(p, k + 1.0).detach()
        tl.optim.SGD(params, lr=0.25, momentum=0.5).step()
        return [p.tolist() for p in params]

    assert run("cuda") == run("cpu")


def skewed(t):
    """The same values one element off the 16 bytes; matrices turned."""
    t = tl.cat([tl.zeros(1, dtype=t.dtype, device=t.device), t.reshape(-1)])[1:].view(t.shape)
    return t.mT.contiguous().mT if t.dim() == 2 else t


def test_tensors_that_lie_otherwise():
    pair = Pair(lambda params: tl.optim.SGD(params, lr=0.1, momentum=0.9), lay=skewed)
    for step in range(2):
        pair.fill(step + 1)
        for optimizer in pair.optimizers:
            optimizer.step()
    pair.check()
    for params in (pair.here, pair.there):  # a gradient of one number, as a sum's is; of every other element
        params[0].grad = tl.ones((), device=params[0].device).expand(7, 3)
        params[1].grad = tl.arange(2060.0, device=params[1].device)[::2]
    for optimizer in pair.optimizers:
        optimizer.step()
    pair.check()


@pytest.mark.parametrize("sizes", [(1, 5, 0, 1027), (4, 1024)])
def test_no_access_beyond_the_arrays(sizes):
    """Launched on arrays behind which memory ends; some begin at a multiple of 16 bytes, some do not."""

    class OnDevice(SimpleNamespace):
        strides, itemsize = (4,), 4

        def __init__(self, size):
            array = emulator.guarded(np.ones(size, np.float32))
            super().__init__(array=array, shape=(size,), data=SimpleNamespace(ptr=array.ctypes.data))

    rows = [[OnDevice(n) for n in sizes] for _ in range(3)]
    lr = np.array(0.25)
    specs = [tl.from_numpy(a.copy())._spec for a in (lr, *(t.array for row in rows for t in row))]
    how = dict(momentum=0.5, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False, first=False)
    step = launch_update.sgd(tuple(specs), (), how)
    step(emulator.guarded(lr), *(t for row in rows for t in row))
    for p, g, b in zip(*rows):
        assert (p.array == 1 - 0.25 * 1.5).all() and (g.array == 1).all() and (b.array == 1.5).all()


def test_the_learning_rate_is_data():
    rate = tl.tensor(0.5, dtype=tl.float64, device="cuda")
    p = tl.ones(3, device="cuda").requires_grad_()
    p.grad = tl.ones(3, device="cuda")
    optimizer = tl.optim.SGD([p], lr=rate)
    optimizer.step()
    rate.fill_(0.25)
    with standin.watch() as seen:
        optimizer.step()
    assert not seen.crossings
    assert p.tolist() == [0.25] * 3


def test_nothing_is_done_where_an_infinity_was_found():
    pair = Pair(lambda params: tl.optim.Adam(params, lr=0.1), shapes=((3,), (1030,)))
    pair.fill(1)
    for optimizer in pair.optimizers:
        optimizer.step()
    before = [t.tolist() for t in pair.state(1)]
    found = tl.ones((), device="cuda")
    with standin.watch() as seen, skipped_where({found.device: found}):
        pair.optimizers[1].step()
    assert not seen.crossings
    assert [t.tolist() for t in pair.state(1)] == before
    with skipped_where({found.device: found.zero_()}):
        pair.optimizers[1].step()
    pair.optimizers[0].step()
    pair.check()


def test_tables_are_written_when_addresses_change_only(monkeypatch):
    written = []
    words = table.words
    monkeypatch.setattr(table, "words", lambda given: written.append(len(given)) or words(given))
    pair = Pair(lambda params: tl.optim.SGD(params, lr=0.1, momentum=0.9), shapes=((5, 5), (6,), (2, 2)))
    step = pair.optimizers[1].step
    step()  # the first has settings of its own: momentum buffers begin
    step()
    written.clear()
    step()
    assert not written
    kept = pair.there[1].grad
    pair.there[1].grad = kept.clone()
    step()
    assert written == [6], "two words for each gradient, and no row of parameters"
    pair.there[1].grad = kept
    step()
    assert written == [6]


def test_thread_orders():
    def run(order):
        with emulator.order(order):
            pair = Pair(lambda params: tl.optim.Adam(params, lr=0.1, amsgrad=True))
            pair.fill(1)
            tl.nn.utils.clip_grad_norm_(pair.there, 1.0)
            for _ in range(2):
                pair.optimizers[1].step()
        return [t.detach().cpu().numpy().tobytes() for t in pair.state(1)]

    assert len({tuple(run(k)) for k in range(emulator.ORDERS)}) == 1


# ---- norms and scalings
@pytest.mark.parametrize("kind", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("extra", [None, math.nan, -math.inf])
def test_norms(kind, extra):
    given = values(3)
    if extra is not None:
        given[1][700] = extra
    here = [tl.tensor(v, dtype=tl.float32) for v in given]
    there = total_norm([t.to("cuda") for t in here], kind)
    wanted = np.linalg.norm(np.concatenate([t.numpy().astype(np.float64).ravel() for t in here]), kind)
    np.testing.assert_allclose(there.cpu().numpy(), np.float32(wanted), 1e-7)


def test_the_norm_of_nothing_is_zero():
    assert total_norm([tl.ones(0, device="cuda")]).item() == 0


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_reads_nothing_on_the_host(most):
    pair = Pair(lambda params: tl.optim.SGD(params, lr=0.1))
    pair.fill(1)
    total = tl.nn.utils.clip_grad_norm_(pair.here, most)
    with standin.watch() as seen:
        found = tl.nn.utils.clip_grad_norm_(pair.there, most)
    assert not seen.crossings
    np.testing.assert_allclose(found.item(), total.item(), 1e-6)
    for p, q in zip(pair.here, pair.there):
        np.testing.assert_allclose(q.grad.cpu().numpy(), p.grad.numpy(), 1e-6)


def test_a_norm_that_is_not_finite():
    p = tl.ones(2, device="cuda").requires_grad_()
    p.grad = tl.tensor([math.inf, 1.0], device="cuda")
    with pytest.raises(RuntimeError, match="non-finite"):
        tl.nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_unscaling(bad):
    given = values(4)
    if bad is not None:
        given[1][1029] = bad
    grads = [tl.tensor(v, dtype=tl.float32).to("cuda") for v in given]
    found, scale = tl.zeros((), device="cuda"), tl.full((), 8.0, device="cuda")
    tracker = tl.full((), 3, dtype=tl.int32, device="cuda")
    with standin.watch() as seen:
        amp_unscale(grads, found, scale)
        amp_update_scale(scale, tracker, [found], growth_interval=4)
    assert not seen.crossings
    for v, g in zip(given, grads):
        np.testing.assert_array_equal(g.cpu().numpy(), v.astype(np.float32) / 8)
    assert found.item() == (bad is not None)
    assert (scale.item(), tracker.item()) == ((16.0, 0) if bad is None else (4.0, 0))


def test_a_scaled_loss_reads_nothing_on_the_host():
    p = tl.ones(3, device="cuda").requires_grad_()
    optimizer, scaler = tl.optim.SGD([p], lr=0.5), tl.amp.GradScaler("cuda", init_scale=4.0)
    x = tl.ones(3, device="cuda")
    for step, wanted in ((0, 0.5), (1, 0.0), (2, 0.0), (3, -0.5)):
        if step == 2:
            x.fill_(math.inf)
        elif step == 3:
            x.fill_(1.0)
        with standin.watch() as seen:
            optimizer.zero_grad()
            scaler.scale((p * x).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert not step or not seen.crossings
        assert p.tolist() == [wanted] * 3
    assert scaler.get_scale() == 2.0
