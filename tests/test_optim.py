"""Optimizers, alone and beside PyTorch."""

import copy
import pickle

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


def test_half_parameters_keep_their_dtype():
    for kind in (tl.bfloat16, tl.float16):
        w = nn.Parameter(tl.ones(3, dtype=kind))
        w.grad = tl.ones(3, dtype=kind)
        opt = optim.Adam([w], lr=0.25)
        opt.step()
        assert w.dtype is kind and opt.state[w]["exp_avg"].dtype is kind and w[0].item() == 0.75
