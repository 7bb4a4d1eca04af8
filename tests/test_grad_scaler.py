"""GradScaler: scaled losses, skipped steps, a scale that adapts, on the host and in the update ops themselves."""

import pickle

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.autograd import recording
from tensorlite.errors import CaptureError
from tensorlite.ops.update import skipped_where

F = tl.nn.functional
OPTIMIZERS = {
    "SGD": dict(lr=0.1),
    "SGD with momentum": dict(lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
    "Adam": dict(lr=0.1),
    "AdamW": dict(lr=0.1, amsgrad=True),
    "RMSprop": dict(lr=0.1, centered=True, momentum=0.9),
    "Adagrad": dict(lr=0.1),
    "Adadelta": dict(lr=0.1),
    "Adamax": dict(lr=0.1),
    "NAdam": dict(lr=0.1),
    "RAdam": dict(lr=0.1),
}


def some(*shape, seed=0):
    return tl.tensor(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def weights(*dtypes):
    return [tl.nn.Parameter(some(3, 2, seed=k).to(d)) for k, d in enumerate(dtypes or (tl.float32, tl.float64))]


def scaler_of(**how):
    return tl.amp.GradScaler("cpu", **dict(dict(init_scale=1024.0), **how))


def optimizer_of(name, params):
    return getattr(tl.optim, name.partition(" ")[0])(params, **OPTIMIZERS[name])


def values(opt):
    """All that an optimizer holds, as bytes."""
    kept = [t for state in opt.state.values() for _, t in sorted(state.items(), key=lambda kv: kv[0])]
    return [t._arr.tobytes() for t in (*(p for g in opt.param_groups for p in g["params"]), *kept) if t is not None]


# ---- a step
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaled_step_is_the_step(name):
    ends = []
    for scaled in (False, True):
        params = weights()
        opt, scaler = optimizer_of(name, params), scaler_of(enabled=scaled)
        for k in range(3):
            opt.zero_grad()
            loss = sum((p.float() * some(3, 2, seed=7 + k)).sum() for p in params)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        ends.append(values(opt))
    assert ends[0] == ends[1]  # a scale that is a power of two rounds nothing


@pytest.mark.parametrize("kernels", ["native", "plain"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_ops_do_nothing_where_an_infinity_was_found(name, kernels):
    """The way of GPUs and programs: the op is called, and told by a tensor."""

    def fresh():
        params = weights(tl.float32, tl.float64, tl.bfloat16)
        params.append(tl.nn.Parameter(some(4, 6).t()[::2]))  # strided: left to the plain forward
        for p in params:
            p.grad = some(*p.shape, seed=9).to(p.dtype)
        opt = optimizer_of(name, params)
        opt.step()
        return opt

    with tl.config.KERNELS(kernels):
        opt, reference = fresh(), fresh()
        before = values(opt)
        assert before == values(reference)
        with skipped_where({tl.device("cpu"): tl.tensor(1.0)}):
            opt.step()
        assert values(opt) == before
        with skipped_where({tl.device("cpu"): tl.tensor(0.0)}):
            opt.step()
        reference.step()
        assert values(opt) == values(reference) != before


def test_an_overflow_skips_the_step_and_halves_the_scale():
    p, q = weights()
    first, second = tl.optim.Adam([p], lr=0.1), tl.optim.SGD([q], lr=0.1)
    scaler = scaler_of()
    before = p.detach().clone()
    scaler.scale((p * float("inf")).sum() + q.sum()).backward()
    scaler.step(first)
    scaler.step(second)
    assert p.tolist() == before.tolist() and not first.state and q.tolist() != weights()[1].tolist()
    scaler.update()
    assert scaler.get_scale() == 512.0 and scaler._growth_tracker.item() == 0
    p.grad = None
    scaler.scale(p.sum()).backward()
    scaler.step(first)
    scaler.update()
    assert p.tolist() != before.tolist() and scaler.get_scale() == 512.0


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_one_bad_number_anywhere_is_found(bad):
    params = weights(tl.float32, tl.float64, tl.bfloat16)
    for at in range(3):
        opt, scaler = tl.optim.SGD(params, lr=0.1), scaler_of()
        for p in params:
            p.grad = tl.ones_like(p)
        scaler.scale(tl.tensor(1.0))
        params[at].grad[2, 1] = bad
        before = values(opt)
        scaler.step(opt)
        assert values(opt) == before
        scaler.update()
        assert scaler.get_scale() == 512.0


def scales_of(lib):
    """The states of a scaler, and what is trained, after each of some steps of which some overflow."""
    how = dict(init_scale=8.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=3)
    bad = [False, False, False, False, True, False, False, True, True, False, False, False]
    p, states = lib.nn.Parameter(lib.ones(2)), []
    opt, scaler = lib.optim.SGD([p], lr=0.5), lib.amp.GradScaler("cpu", **how)
    for b in bad:
        opt.zero_grad()
        scaler.scale((p * (float("inf") if b else 1.0)).sum()).backward()
        scaler.step(opt)
        scaler.update()
        states.append((scaler.state_dict(), p.tolist()))
    return states


def test_the_scale_grows_after_an_interval_of_good_steps():
    states = scales_of(tl)
    assert [s["scale"] for s, _ in states] == [8, 8, 32, 32, 8, 8, 8, 2, 0.5, 0.5, 0.5, 2]
    assert [s["_growth_tracker"] for s, _ in states] == [1, 2, 0, 1, 0, 1, 2, 0, 0, 1, 2, 0]
    assert [p[0] for _, p in states] == [0.5, 0, -0.5, -1, -1, -1.5, -2, -2, -2, -2.5, -3, -3.5]


@pytest.mark.parity
def test_scales_and_states_are_pytorchs():
    torch = pytest.importorskip("torch")
    assert scales_of(tl) == scales_of(torch)


def test_unscaled_gradients_can_be_clipped():
    (p,) = weights(tl.float32)
    opt, scaler = tl.optim.SGD([p], lr=1.0), scaler_of()
    before = p.detach().clone()
    scaler.scale((p * 3).sum()).backward()
    assert p.grad[0, 0].item() == 3072.0
    scaler.unscale_(opt)
    assert p.grad.tolist() == [[3.0] * 2] * 3
    tl.nn.utils.clip_grad_norm_([p], 1.0)
    scaler.step(opt)
    scaler.update()
    assert abs((before - p).norm().item() - 1.0) < 1e-5


def test_scale_takes_iterables():
    scaler = scaler_of(init_scale=2.0)
    one, [two, (three,)] = scaler.scale((tl.tensor(1.0), [tl.tensor(2.0), (tl.tensor(3.0),)]))
    assert [one.item(), two.item(), three.item()] == [2.0, 4.0, 6.0]
    assert [t.item() for t in scaler.scale(t for t in [tl.tensor(4.0)])] == [8.0]
    assert scaler.scale(tl.ones(2, dtype=tl.float16)).dtype is tl.float16
    with pytest.raises(ValueError, match="iterable of Tensors"):
        scaler.scale(3.0)


# ---- what is refused
def test_calls_out_of_order_are_refused():
    (p,) = weights(tl.float32)
    opt, scaler = tl.optim.SGD([p], lr=0.1), scaler_of()
    for call in (lambda: scaler.unscale_(opt), lambda: scaler.step(opt), scaler.update):
        with pytest.raises(AssertionError, match="_scale is None"):
            call()
    scaler.scale(p.sum()).backward()
    with pytest.raises(AssertionError, match="No inf checks were recorded prior to update"):
        scaler.update()
    scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(opt)
    scaler.step(opt)
    with pytest.raises(RuntimeError, match="called after step"):
        scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match="step\\(\\) has already been called"):
        scaler.step(opt)
    with pytest.raises(RuntimeError, match="Closure"):
        scaler.step(opt, closure=lambda: None)
    with pytest.raises(AssertionError, match="pickled"):
        pickle.dumps(scaler)
    scaler.update()
    p.grad = None
    with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
        scaler.step(opt)


def test_float16_gradients_and_bad_settings_are_refused():
    (p,) = weights(tl.float16)
    opt, scaler = tl.optim.SGD([p], lr=0.1), scaler_of()
    scaler.scale(p.sum()).backward()
    with pytest.raises(ValueError, match="FP16"):
        scaler.step(opt)
    with pytest.raises(AssertionError, match="growth factor"):
        scaler_of(growth_factor=1.0)
    with pytest.raises(AssertionError, match="backoff factor"):
        scaler_of(backoff_factor=1.0)


# ---- settings and states
def test_a_new_scale_can_be_set():
    scaler = scaler_of()
    scaler.scale(tl.tensor(1.0))
    scaler.update(8.0)
    assert scaler.get_scale() == 8.0
    scaler.update(tl.tensor([16.0]))
    assert scaler.get_scale() == 16.0
    with pytest.raises(AssertionError, match="1-element"):
        scaler.update(tl.ones(2))
    scaler.set_growth_factor(3.0)
    scaler.set_backoff_factor(0.1)
    scaler.set_growth_interval(5)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()) == (3.0, 0.1, 5)


def test_states_have_pytorchs_keys_and_come_back():
    how = dict(init_scale=4.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=7)
    ours = scaler_of(**how)
    p = tl.nn.Parameter(tl.ones(2))
    opt = tl.optim.SGD([p], lr=0.1)
    ours.scale(p.sum()).backward()
    ours.step(opt)
    ours.update()
    assert ours.state_dict() == {
        "scale": 4.0,
        "growth_factor": 3.0,
        "backoff_factor": 0.25,
        "growth_interval": 7,
        "_growth_tracker": 1,
    }
    other = scaler_of()
    other.load_state_dict(ours.state_dict())
    assert other.state_dict() == ours.state_dict() == pickle.loads(pickle.dumps(ours)).state_dict()
    with pytest.raises(RuntimeError, match="state dict is empty"):
        other.load_state_dict({})


def test_a_scaler_that_is_off_passes_everything_through():
    (p,) = weights(tl.float32)
    opt, scaler = tl.optim.SGD([p], lr=0.1), scaler_of(enabled=False)
    loss = p.sum()
    assert scaler.scale(loss) is loss and not scaler.is_enabled() and scaler.get_scale() == 1.0
    loss.backward()
    before = p.tolist()
    scaler.unscale_(opt)
    assert scaler.step(opt, lambda: tl.tensor(5.0)).item() == 5.0 and p.tolist() != before
    scaler.update()
    scaler.load_state_dict({})
    assert scaler.state_dict() == {} and not pickle.loads(pickle.dumps(scaler)).is_enabled()


# ---- optimizers of others
class Own(tl.optim.Optimizer):
    """A user's optimizer with a step of its own."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        with tl.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)


def test_a_users_optimizer_is_skipped_on_the_host_and_refused_in_a_program():
    (p,) = weights(tl.float32)
    opt, scaler = Own([p]), scaler_of()
    before = p.tolist()
    scaler.scale((p * float("nan")).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert p.tolist() == before and scaler.get_scale() == 512.0

    @tl.compile
    def step():
        opt.zero_grad()
        scaler.scale(p.sum()).backward()
        scaler.step(opt)
        scaler.update()

    with pytest.raises(CaptureError, match="item"):
        step()
    assert recording.active() is None


# ---- recorded programs
def trained(name, compiled):
    """Losses, scales and counts of seven steps, one of which overflows, and what the optimizer holds then."""
    tl.manual_seed(0)
    net = tl.nn.Sequential(tl.nn.Linear(4, 8), tl.nn.ReLU(), tl.nn.Linear(8, 2))
    opt, scaler = optimizer_of(name, net.parameters()), scaler_of(growth_interval=2, init_scale=4.0)

    def step(x, y):
        opt.zero_grad()
        with tl.autocast("cpu"):
            loss = F.mse_loss(net(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        return loss

    run = tl.compile(step) if compiled else step
    losses, scales = [], []
    for k in range(7):
        x = some(5, 4, seed=k)
        if k == 3:
            x[1, 2] = float("inf")
        losses.append(run(x, some(5, 2, seed=50 + k)).item())
        scales.append((scaler.get_scale(), scaler._growth_tracker.item()))
    assert not compiled or run.programs[0].runs >= 5
    held = [p.tolist() for p in net.parameters()]
    return losses[:3] + losses[4:], scales, held + [t.tolist() for s in opt.state.values() for t in s.values()]


@pytest.mark.parametrize("name", ["SGD", "SGD with momentum", "Adam", "RMSprop", "NAdam"])
def test_a_compiled_step_with_autocast_and_scaler_is_the_step(name):
    """Scale, count and skipped steps go on from replay to replay, and the numbers are those of the plain step.

    Its passes fuse steps that round to bfloat16 in between: 2 ** -8 of the largest.
    """
    losses, scales, held = trained(name, compiled=False)
    other_losses, other_scales, other_held = trained(name, compiled=True)
    assert scales == other_scales and [s for s, _ in scales] == [4.0, 8.0, 8.0, 4.0, 4.0, 8.0, 8.0]
    assert np.allclose(losses, other_losses, rtol=2**-8)
    assert len(held) == len(other_held)
    for a, b in zip(held, other_held):
        assert np.abs(np.subtract(a, b)).max() <= 2**-8 * np.abs(a).max()


def test_a_program_looks_at_the_settings_of_a_scaler():
    (p,) = weights(tl.float32)
    opt, scaler = tl.optim.SGD([p], lr=0.1), scaler_of(growth_interval=1, growth_factor=2.0)

    @tl.compile
    def step():
        opt.zero_grad()
        scaler.scale(p.sum()).backward()
        scaler.step(opt)
        scaler.update()

    step()
    assert scaler.get_scale() == 2048.0
    scaler.set_growth_factor(4.0)
    step()
    assert scaler.get_scale() == 8192.0
    scaler.load_state_dict(dict(scaler.state_dict(), scale=2.0))
    step()
    assert scaler.get_scale() == 8.0
