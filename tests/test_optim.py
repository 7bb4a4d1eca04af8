"""Optimizers and learning-rate schedules, alone and beside PyTorch."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn, optim
from tensorlite.autograd.op import TABLE
from tensorlite.ops import adaptive, update
from tensorlite.optim import lr_scheduler as sched

SGDS = [
    dict(lr=0.1),
    dict(lr=0.1, momentum=0.9),
    dict(lr=0.1, momentum=0.9, dampening=0.3),
    dict(lr=0.05, weight_decay=0.1),
    dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    dict(lr=0.01, momentum=0.9, maximize=True),
    dict(lr=0.01, weight_decay=0.1, maximize=True),
]
ADAMS = [
    dict(lr=0.05),
    dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3),
    dict(lr=0.05, weight_decay=0.2),
    dict(lr=0.05, amsgrad=True),
    dict(lr=0.05, maximize=True),
    dict(lr=0.05, amsgrad=True, weight_decay=0.1),
]
OTHERS = {
    "RMSprop": [
        dict(lr=0.01),
        dict(lr=0.01, alpha=0.9, eps=1e-3, weight_decay=0.1),
        dict(lr=0.01, momentum=0.9, maximize=True),
        dict(lr=0.01, momentum=0.9, centered=True),
    ],
    "Adagrad": [dict(lr=0.1), dict(lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-3)],
    "Adadelta": [dict(lr=0.5), dict(lr=0.5, rho=0.8, eps=1e-3, weight_decay=0.1, maximize=True)],
    "Adamax": [dict(lr=0.05), dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1, maximize=True)],
    "NAdam": [
        dict(lr=0.05),
        dict(lr=0.05, weight_decay=0.1, momentum_decay=0.1),
        dict(lr=0.05, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    ],
    "RAdam": [
        dict(lr=0.05),
        dict(lr=0.05, betas=(0.7, 0.9), weight_decay=0.1),
        dict(lr=0.05, weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
    ],
}
ALL = (
    [("SGD", k) for k in SGDS]
    + [(name, k) for name in ("Adam", "AdamW") for k in ADAMS]
    + [(name, k) for name, many in OTHERS.items() for k in many]
)


def problem(lib, values):
    """Parameters of a small regression, and a function that computes its loss."""
    make = lambda a: lib.nn.Parameter(lib.from_numpy(a.copy()))
    w, b, scale = (make(a) for a in values["params"])
    x, y = lib.from_numpy(values["x"]), lib.from_numpy(values["y"])

    def loss():
        d = (x @ w + b) * scale - y
        return (d * d).mean()

    return [w, b, scale], loss


@pytest.fixture
def values():
    rng = np.random.default_rng(0)

    def draw(*s):
        return np.asarray(rng.standard_normal(s), np.float64)

    return {"params": [draw(4, 3), draw(3), draw()], "x": draw(16, 4), "y": draw(16, 3)}


def steps(lib, values, name, settings, count=12, resume=None):
    params, loss = problem(lib, values)
    opt = getattr(lib.optim, name)(params, **settings)
    for k in range(count):
        if k == resume:  # through a state_dict, into new objects
            state = copy.deepcopy(opt.state_dict())
            params, loss = problem(lib, {**values, "params": [p.detach().numpy() for p in params]})
            opt = getattr(lib.optim, name)(params, lr=123.0)
            opt.load_state_dict(state)
        opt.zero_grad()
        loss().backward()
        opt.step()
    return params, opt


@pytest.mark.parity
@pytest.mark.parametrize("name,settings", ALL)
def test_twelve_steps_are_pytorchs(values, name, settings):
    torch = pytest.importorskip("torch")
    mine, opt = steps(tl, values, name, settings)
    theirs, other = steps(torch, values, name, settings)
    for a, b in zip(mine, theirs):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    ours, state = opt.state_dict(), other.state_dict()
    assert ours["param_groups"] == state["param_groups"]
    assert {k: sorted(v) for k, v in ours["state"].items()} == {k: sorted(v) for k, v in state["state"].items()}
    for k, kept in state["state"].items():
        for key, value in kept.items():
            got = ours["state"][k][key]
            assert str(got.dtype).split(".")[1] == str(value.dtype).split(".")[1] and got.shape == value.shape
            np.testing.assert_allclose(got.numpy(), value.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parity
def test_a_state_of_pytorch_can_be_loaded(values):
    torch = pytest.importorskip("torch")
    theirs, other = steps(torch, values, "Adam", dict(lr=0.05), count=6)
    state = other.state_dict()
    state["state"] = {k: {n: tl.tensor(v.numpy()) for n, v in s.items()} for k, s in state["state"].items()}
    params, loss = problem(tl, {**values, "params": [p.detach().numpy() for p in theirs]})
    opt = optim.Adam(params)
    opt.load_state_dict(state)
    whole, _ = steps(tl, values, "Adam", dict(lr=0.05), count=8)
    for _ in range(2):
        opt.zero_grad()
        loss().backward()
        opt.step()
    for a, b in zip(params, whole):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("name,settings", ALL)
def test_a_resumed_run_is_bit_equal(values, name, settings):
    whole, _ = steps(tl, values, name, settings)
    resumed, opt = steps(tl, values, name, settings, resume=5)
    assert all(np.array_equal(a.detach().numpy(), b.detach().numpy()) for a, b in zip(whole, resumed))
    assert opt.param_groups[0]["lr"] == settings["lr"]


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam"])
@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "float16"])
def test_updates_write_what_the_reference_says_and_nothing_else(name, kind):
    from tensorlite.autograd.cases import Make

    op = TABLE[name]
    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 4e-2}[kind]
    ran = 0
    for cases in op.case_makers:
        for case in cases(Make(3, float_type=getattr(tl, kind))):
            if not isinstance(case, dict):
                error, case = case
                with pytest.raises(error):
                    op.call(**case)
                continue
            rows = {k: v for k, v in case.items() if isinstance(v, list)}
            before = {k: [t.double().numpy().copy() for t in v] for k, v in rows.items()}
            versions = {k: [t._version for t in v] for k, v in rows.items()}
            rest = {k: v for k, v in case.items() if k not in rows}
            got = op.call(**case)
            want = op.reference(**before, **rest)
            assert len(got) == len(want)
            for a, b in zip(got, want):
                np.testing.assert_allclose(a.double().numpy(), b, rtol=tolerance, atol=tolerance)
            for key in rows:
                moved = [t._version - v for t, v in zip(rows[key], versions[key])]
                assert moved == [0 if key == "grads" else 1] * len(moved)
                if key == "grads":
                    assert all(np.array_equal(t.double().numpy(), b) for t, b in zip(rows[key], before[key]))
            ran += 1
    assert ran >= 5


def test_strided_parameters_and_gradients(values):
    for name in ("SGD", "Adam", *OTHERS):
        whole, strided = [], []
        for out, make in ((whole, lambda a: tl.tensor(a)), (strided, lambda a: tl.tensor(np.repeat(a, 2, 1))[:, ::2])):
            p = nn.Parameter(make(values["x"]))
            p.grad = make(values["x"] * 3)
            opt = getattr(optim, name)([p], lr=0.1)
            opt.step()
            opt.step()
            out.append(p.detach().numpy())
        assert np.array_equal(whole[0], strided[0])


def test_parameters_without_gradient_stay_and_come_in_later():
    a, b = nn.Parameter(tl.ones(2)), nn.Parameter(tl.ones(2))
    opt = optim.SGD([a, b], lr=0.1, momentum=0.9, dampening=0.5)
    a.grad = tl.ones(2)
    opt.step()
    assert b.tolist() == [1, 1] and b not in opt.state
    b.grad = tl.ones(2)
    opt.step()  # the first buffer of b is its gradient, that of a is 0.9 + 0.5
    np.testing.assert_allclose(b.detach().numpy(), 0.9, rtol=1e-6)
    np.testing.assert_allclose(a.detach().numpy(), 0.9 - 0.14, rtol=1e-6)


def test_groups_closures_and_hooks():
    a, b = nn.Parameter(tl.ones(1)), nn.Parameter(tl.ones(1))
    opt = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    seen = []
    handle = opt.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))

    def closure():
        opt.zero_grad()
        loss = (a + b).sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 2
    assert seen == ["before", "after"]
    handle.remove()
    opt.step(closure)
    assert seen == ["before", "after", "after"]
    np.testing.assert_allclose([a.item(), b.item()], [0.8, -1.0], rtol=1e-6)
    opt.add_param_group({"params": nn.Parameter(tl.ones(1))})
    assert opt.param_groups[2]["lr"] == 0.1 and opt.state_dict()["param_groups"][2]["params"] == [2]
    opt.zero_grad(set_to_none=False)
    assert a.grad.item() == 0
    opt.zero_grad()
    assert a.grad is None


@pytest.mark.parametrize("name", ["Adam", *OTHERS])
def test_one_optimizer_op_a_group(values, name):
    """A step is one effect for all tensors of a group, whatever their number."""
    from tensorlite.autograd import run

    params, loss = problem(tl, values)
    opt = getattr(optim, name)(params)
    loss().backward()
    opt.step()
    ran = []

    def seam(entry, arrays, outs):
        ran.append(entry.op.name)
        return run.execute(entry, arrays, outs)

    run.set_seam(seam)
    try:
        opt.step()
    finally:
        run.set_seam(None)
    assert ran == [name.lower()]


def test_a_step_is_seen_by_the_version_check():
    w = nn.Parameter(tl.ones(2))
    y = (w * w).sum()
    w.grad = tl.ones(2)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize(
    "make,error,text",
    [
        (lambda p: optim.SGD(p, lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda p: optim.SGD(p, momentum=-1), ValueError, "Invalid momentum value: -1"),
        (lambda p: optim.SGD(p, weight_decay=-1), ValueError, "Invalid weight_decay value: -1"),
        (lambda p: optim.SGD(p, nesterov=True), ValueError, "Nesterov momentum requires a momentum and zero dampening"),
        (lambda p: optim.Adam(p, lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda p: optim.Adam(p, eps=-1), ValueError, "Invalid epsilon value: -1"),
        (lambda p: optim.Adam(p, betas=(1, 0)), ValueError, "Invalid beta parameter at index 0: 1"),
        (lambda p: optim.AdamW(p, betas=(0, 2)), ValueError, "Invalid beta parameter at index 1: 2"),
        (lambda p: optim.RMSprop(p, alpha=-1), ValueError, "Invalid alpha value: -1"),
        (lambda p: optim.RMSprop(p, differentiable=True), NotImplementedError, "differentiable"),
        (lambda p: optim.Adagrad(p, lr_decay=-1), ValueError, "Invalid lr_decay value: -1"),
        (lambda p: optim.Adadelta(p, rho=2), ValueError, "Invalid rho value: 2"),
        (lambda p: optim.Adamax(p, eps=-1), ValueError, "Invalid epsilon value: -1"),
        (lambda p: optim.NAdam(p, momentum_decay=-1), ValueError, "Invalid momentum_decay value: -1"),
        (lambda p: optim.RAdam(p, betas=(0.5, 1)), ValueError, "Invalid beta parameter at index 1: 1"),
        (
            lambda p: adaptive.adagrad(p, p, lr=1, state_sums=p, steps=p),
            RuntimeError,
            r"adagrad: one of the steps has shape \(2,\); wanted one element",
        ),
        (lambda p: adaptive.adagrad(p, p, lr=1, state_sums=p), TypeError, "adagrad: rows .'steps'. are missing"),
        (lambda p: optim.SGD([], lr=1), ValueError, "optimizer got an empty parameter list"),
        (lambda p: optim.SGD(p[0], lr=1), TypeError, "should be an iterable of Tensors or dicts"),
        (lambda p: optim.SGD([1.0], lr=1), TypeError, "can only optimize Tensors"),
        (lambda p: optim.SGD([p[0] * 2], lr=1), ValueError, "can't optimize a non-leaf Tensor"),
        (lambda p: optim.SGD(p + p, lr=1), ValueError, "duplicate parameters"),
        (lambda p: optim.SGD([{"params": p}, {"params": p}], lr=1), ValueError, "more than one parameter group"),
        (
            lambda p: optim.SGD(p, lr=1).load_state_dict({"param_groups": [], "state": {}}),
            ValueError,
            "different number of parameter groups",
        ),
        (
            lambda p: optim.SGD(p, lr=1).load_state_dict({"param_groups": [{"params": []}], "state": {}}),
            ValueError,
            "doesn't match the size of optimizer's group",
        ),
        (lambda p: update.sgd(p, [], lr=1), RuntimeError, "sgd: rows of 1, 0 tensors; wanted equal lengths"),
        (
            lambda p: update.sgd_p(
                tl.ones(()),
                *p,
                *p,
                *p,
                momentum=0,
                dampening=0,
                weight_decay=0,
                nesterov=False,
                maximize=False,
                first=False,
            ),
            RuntimeError,
            "sgd: got 3 tensors; wanted as many each of params, grads",
        ),
        (lambda p: update.sgd(p, p, lr=tl.ones(2)), RuntimeError, r"sgd: lr has shape \(2,\); wanted one element"),
        (lambda p: sched.StepLR(3, 1), TypeError, "int is not an Optimizer"),
        (lambda p: sched.StepLR(optim.SGD(p), 1, last_epoch=3), KeyError, "initial_lr"),
    ],
)
def test_what_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make([nn.Parameter(tl.ones(2))])


def test_copies_and_pickles(values):
    params, loss = problem(tl, values)
    opt = optim.Adam(params, lr=0.05)
    loss().backward()
    opt.step()
    again = pickle.loads(pickle.dumps(opt))
    assert len(again.state) == 3 and again.param_groups[0]["lr"] == 0.05
    assert again.param_groups[0]["params"][0] in again.state
    assert "lr: 0.05" in repr(opt) and repr(opt).startswith("Adam (\nParameter Group 0\n")


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


def test_half_parameters_keep_their_dtype():
    for kind in (tl.bfloat16, tl.float16):
        w = nn.Parameter(tl.ones(3, dtype=kind))
        w.grad = tl.ones(3, dtype=kind)
        opt = optim.Adam([w], lr=0.25)
        opt.step()
        assert w.dtype is kind and opt.state[w]["exp_avg"].dtype is kind and w[0].item() == 0.75
