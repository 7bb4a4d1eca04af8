"""Learning-rate schedules, alone and beside PyTorch."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn, optim
from tensorlite.optim import lr_scheduler as sched

SCHEDULES = {
    "StepLR": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9], gamma=0.3),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 5, eta_min=0.01),
    "LambdaLR": lambda s, o: s.LambdaLR(o, [lambda e: 0.95**e, lambda e: 1 / (1 + e)]),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.25, 0.75, total_iters=6),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, total_iters=4),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, total_iters=8, power=1.7),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, [lambda e: 0.95, lambda e: 1 / (1 + e)]),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 2, T_mult=2, eta_min=0.01),
    "CosineAnnealingWarmRestarts 1": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda s, o: s.CyclicLR(o, [0.1, 0.2], 0.5, step_size_up=3, step_size_down=2),
    "CyclicLR triangular2": lambda s, o: s.CyclicLR(o, 0.1, 0.5, step_size_up=2, mode="triangular2"),
    "CyclicLR exp_range": lambda s, o: s.CyclicLR(o, 0.1, 0.5, step_size_up=2, mode="exp_range", gamma=0.9),
    "CyclicLR own": lambda s, o: s.CyclicLR(
        o, 0.1, 0.5, step_size_up=2, scale_fn=lambda x: 1 / (1 + x), scale_mode="iterations", cycle_momentum=False
    ),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, [0.5, 1.0], total_steps=15),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(
        o, 0.5, epochs=3, steps_per_epoch=5, anneal_strategy="linear", cycle_momentum=False, pct_start=0.4
    ),
    "OneCycleLR three phases": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=15, three_phase=True, div_factor=10),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, total_iters=2), s.ExponentialLR(o, 0.9), s.StepLR(o, 2)], milestones=[3, 8]
    ),
    "SequentialLR restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=3), s.CosineAnnealingWarmRestarts(o, 4)], milestones=[4]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 4), s.ExponentialLR(o, 0.9)]),
}


def _settings(opt):
    return [g[k] for g in opt.param_groups for k in ("lr", "momentum")]


def rates(lib, names, count=14, resume=None):
    groups = [{"params": [lib.nn.Parameter(lib.ones(1))]}, {"params": [lib.nn.Parameter(lib.ones(1))], "lr": 0.7}]
    opt = lib.optim.SGD(groups, lr=0.4, momentum=0.9)
    s = [SCHEDULES[n](lib.optim.lr_scheduler, opt) for n in names]
    found = [_settings(opt)]
    for k in range(count):
        if k == resume:
            states, state = [copy.deepcopy(x.state_dict()) for x in s], copy.deepcopy(opt.state_dict())
            opt = lib.optim.SGD([{"params": g["params"]} for g in groups], lr=1.0, momentum=0.5)
            s = [SCHEDULES[n](lib.optim.lr_scheduler, opt) for n in names]
            opt.load_state_dict(state)
            for x, y in zip(s, states):
                x.load_state_dict(y)
        opt.step()
        for x in s:
            x.step()
        found.append(_settings(opt))
        assert s[-1].get_last_lr() == [g["lr"] for g in opt.param_groups]
    return found


@pytest.mark.parity
@pytest.mark.parametrize(
    "names", [[n] for n in SCHEDULES] + [["LinearLR", "StepLR"], ["ExponentialLR", "CosineAnnealingLR"]]
)
def test_schedules_are_pytorchs(names):
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(rates(tl, names), rates(torch, names), rtol=1e-12)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_resumed_schedule_goes_on(name):
    assert rates(tl, [name]) == rates(tl, [name], resume=6)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_states_of_schedules_are_plain(name):
    """They can be pickled (functions and optimizers stay out)."""
    opt = optim.SGD([{"params": [nn.Parameter(tl.ones(1))]}, {"params": [nn.Parameter(tl.ones(1))]}], 0.1, momentum=0.9)
    pickle.loads(pickle.dumps(SCHEDULES[name](sched, opt).state_dict()))


MEASURES = [5.0, 4.0, 4.0, 3.9999, 4.2, 4.1, 4.3, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7, 2.0]


def plateau_rates(lib, settings, resume=None):
    groups = [{"params": [lib.nn.Parameter(lib.ones(1))]}, {"params": [lib.nn.Parameter(lib.ones(1))], "lr": 0.7}]
    opt = lib.optim.SGD(groups, lr=0.4)
    s, found = lib.optim.lr_scheduler.ReduceLROnPlateau(opt, **settings), []
    for k, measure in enumerate(MEASURES):
        if k == resume:
            state = copy.deepcopy(s.state_dict())
            s = lib.optim.lr_scheduler.ReduceLROnPlateau(opt)
            s.load_state_dict(state)
        s.step(lib.tensor(measure))
        found.append(s.get_last_lr())
    return found


PLATEAUS = [
    dict(patience=1),
    dict(patience=0, factor=0.5, threshold=0.3, threshold_mode="abs", cooldown=2),
    dict(mode="max", patience=2, min_lr=[0.1, 0.2]),
    dict(mode="max", patience=1, threshold=0.05, threshold_mode="abs", min_lr=0.05, eps=0.01),
]


@pytest.mark.parity
@pytest.mark.parametrize("settings", PLATEAUS)
def test_a_plateau_is_pytorchs(settings):
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(plateau_rates(tl, settings), plateau_rates(torch, settings), rtol=1e-12)


@pytest.mark.parametrize("settings", PLATEAUS)
def test_a_resumed_plateau_goes_on(settings):
    assert plateau_rates(tl, settings) == plateau_rates(tl, settings, resume=5)
    assert len({tuple(r) for r in plateau_rates(tl, settings)}) > 1


@pytest.mark.parity
def test_warm_restarts_within_epochs_and_betas_in_cycles():
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tl, torch):
        opt = lib.optim.Adam([lib.nn.Parameter(lib.ones(1))], lr=0.4)
        s = lib.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 2, T_mult=3)
        rates = []
        for epoch in (0, 0.25, 1.75, 2.0, 3.5, 7.75, 8.0, 30.5, 1.5):
            s.step(epoch)
            rates += s.get_last_lr()
        opt = lib.optim.Adam([lib.nn.Parameter(lib.ones(1))], lr=0.4)
        s = lib.optim.lr_scheduler.OneCycleLR(opt, 0.5, total_steps=8)
        for _ in range(7):
            opt.step()
            s.step()
            rates += [*s.get_last_lr(), opt.param_groups[0]["betas"][0]]
        found.append(rates)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


@pytest.mark.parametrize(
    "make,error,text",
    [
        (lambda o: sched.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be"),
        (lambda o: sched.ReduceLROnPlateau(o, mode="up"), ValueError, "mode up is unknown"),
        (lambda o: sched.ReduceLROnPlateau(o, min_lr=[1, 2, 3]), ValueError, "expected 1 min_lrs, got 3"),
        (lambda o: sched.OneCycleLR(o, 0.1), ValueError, "You must define either"),
        (lambda o: sched.OneCycleLR(o, 0.1, total_steps=0), ValueError, "positive integer total_steps"),
        (lambda o: sched.OneCycleLR(o, 0.1, total_steps=5, pct_start=2), ValueError, "pct_start"),
        (lambda o: sched.OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="up"), ValueError, "anneal_strategy"),
        (lambda o: sched.OneCycleLR(optim.Adagrad(o.param_groups[0]["params"]), 0.1, 5), ValueError, "momentum"),
        (lambda o: sched.CyclicLR(o, [0.1, 0.2], 0.5), ValueError, "same length as optimizer.param_groups"),
        (lambda o: sched.CyclicLR(o, 0.1, 0.5, mode="square"), ValueError, "mode is invalid"),
        (lambda o: sched.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0"),
        (lambda o: sched.CosineAnnealingWarmRestarts(o, 1, 0), ValueError, "T_mult"),
        (lambda o: sched.ConstantLR(o, 2.0), ValueError, "between 0 and 1"),
        (lambda o: sched.MultiplicativeLR(o, 3), TypeError, "should be a function"),
        (lambda o: sched.SequentialLR(o, [], []), ValueError, "at least one scheduler"),
        (lambda o: sched.SequentialLR(o, [sched.StepLR(o, 1)], [3]), ValueError, "one more than the number"),
        (lambda o: sched.ChainedScheduler([sched.ReduceLROnPlateau(o)]), ValueError, "ReduceLROnPlateau"),
        (
            lambda o: sched.ChainedScheduler([sched.StepLR(o, 1)], optim.SGD(o.param_groups[0]["params"])),
            ValueError,
            "the same optimizer",
        ),
    ],
)
def test_schedules_refuse(make, error, text):
    with pytest.raises(error, match=text):
        make(optim.SGD([nn.Parameter(tl.ones(1))], 0.1))


def test_one_cycle_ends():
    opt = optim.SGD([nn.Parameter(tl.ones(1))], 0.1)
    s = sched.OneCycleLR(opt, 0.5, total_steps=2)
    for _ in range(2):
        opt.step()
        s.step()
    with pytest.raises(ValueError, match="Tried to step 3 times"):
        s.step()


def test_schedules_follow_their_closed_form():
    for name in ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR"):
        opt = optim.SGD([nn.Parameter(tl.ones(1))], lr=0.5)
        s = SCHEDULES[name](sched, opt)
        for _ in range(9):
            opt.step()
            s.step()
        walked = s.get_last_lr()[0]
        s.step(9)
        assert math.isclose(walked, s.get_last_lr()[0], rel_tol=1e-12)


def test_a_schedule_stepped_first_warns():
    opt = optim.SGD([nn.Parameter(tl.ones(1))], lr=0.5)
    s = sched.ExponentialLR(opt, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        s.step()
    opt = optim.SGD([nn.Parameter(tl.ones(1))], lr=0.5)
    s = sched.ExponentialLR(opt, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
        s.step()


def test_a_rate_may_be_a_tensor():
    lr = tl.tensor(0.5)
    w = nn.Parameter(tl.ones(1))
    opt = optim.SGD([w], lr=lr)
    s = sched.ExponentialLR(opt, 0.5)
    w.grad = tl.ones(1)
    opt.step()
    assert w.item() == 0.5
    s.step()
    assert lr.item() == 0.25 and opt.param_groups[0]["lr"] is lr
