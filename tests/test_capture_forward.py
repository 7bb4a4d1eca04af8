"""Compiled forwards that are differentiated outside, what they return, and the faces of ``compile``."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
from capture_harness import OFF, everything, net, same

import tensorlite as tl
from tensorlite import config
from tensorlite.errors import AnomalyError, CaptureError

F = tl.nn.functional


def gradients(model, f, *inputs, seed=0):
    """Loss and gradients of a model's parameters."""
    tl.manual_seed(seed)
    model.zero_grad()
    loss = sum(f(x).square().mean() for x in inputs)
    loss.backward()
    return [loss.detach(), *everything(model)]


def test_two_calls_before_one_backward():
    model = net(tl.nn.Dropout(0.5))
    f = tl.compile(model, options=OFF)
    for k in range(3):
        x, y = tl.randn(5, 4), tl.randn(5, 4)
        wanted = gradients(model, model, x, y, seed=k)
        assert same(gradients(model, f, x, y, seed=k), wanted)


def test_batch_norm_and_dropout_in_train_mode():
    one, two = net(tl.nn.BatchNorm1d(6), tl.nn.Dropout(0.5)), net(tl.nn.BatchNorm1d(6), tl.nn.Dropout(0.5))
    f = tl.compile(two, options=OFF)
    for k in range(4):
        x = tl.randn(5, 4)
        assert same(gradients(one, one, x, seed=k), gradients(two, f, x, seed=k))


def test_inputs_that_want_gradients():
    model = net()
    f = tl.compile(model, options=OFF)
    for _ in range(3):
        x = tl.randn(5, 4, requires_grad=True)
        f(x * 2).sum().backward()
        mine, x.grad = x.grad, None
        model(x * 2).sum().backward()
        assert same(mine, x.grad)


def test_outputs_used_in_part():
    g = lambda x, y: (x * y, x.sum() * 2, y.detach() + 1, 3)
    f = tl.compile(g, options=OFF)
    for used in ((0,), (1,), (0, 1)):
        x, y = tl.randn(3, requires_grad=True), tl.randn(3, requires_grad=True)
        got, wanted = f(x, y), g(x, y)
        assert same(got, wanted) and not got[2].requires_grad
        a = tl.autograd.grad(sum(got[k].sum() for k in used), (x, y), allow_unused=True)
        b = tl.autograd.grad(sum(wanted[k].sum() for k in used), (x, y), allow_unused=True)
        assert all(p is None and not q.any() if p is None or q is None else same(p, q) for p, q in zip(b, a))


def test_a_second_backward():
    f = tl.compile(lambda x: (x * x).sum())
    x = tl.randn(3, requires_grad=True)
    y = f(x)
    y.backward(retain_graph=True)
    y.backward()
    assert tl.allclose(x.grad, 4 * x)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_a_parameter_changed_before_backward():
    model = net()
    f = tl.compile(model)
    loss = f(tl.randn(5, 4)).sum()
    with tl.no_grad():
        model[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_results_are_the_callers_own():
    model = net()
    with tl.no_grad():
        f = tl.compile(lambda x: (model(x), model(x)[0], x, model[0].weight, x[0]))
        x = tl.randn(5, 4)
        first = f(x)
        copies = [t.clone() for t in first]
        f(tl.randn(5, 4))
        assert same(list(first), copies)
        assert first[2] is x and first[3] is model[0].weight
        first[0].zero_()
        assert same(f(x)[0], copies[0])


def test_views_of_one_result():
    def g(x):
        y = x * 2
        return y, y[0], y.T, y

    f = tl.compile(g)
    for _ in range(2):
        x = tl.randn(3, 2)
        y, row, turned, again = f(x)
        assert same((y, row, turned, again), g(x))


# ---- who watches
def test_debug_prints_the_ops_of_a_replay(capsys):
    f = tl.compile(lambda x: x.exp().sum())
    f(tl.ones(3))
    capsys.readouterr()
    with config.DEBUG(2):
        f(tl.ones(3))
    assert "exp" in capsys.readouterr().err


def test_nan_is_found_in_a_replay():
    f = tl.compile(lambda x: x.log().sum())
    f(tl.ones(3))
    with config.NAN(1), pytest.raises(AnomalyError, match="log"):
        f(tl.zeros(3))
    assert f(tl.ones(3)).item() == 0


def test_capture_off():
    with config.CAPTURE("0"):
        f = tl.compile(lambda x: x * 2 if x.sum() > 0 else x)
        assert f(tl.ones(2)).tolist() == [2, 2] and not f.programs


@pytest.mark.parametrize("options", [OFF, {}], ids=["plain", "passes"])
def test_check_finds_nothing_in_a_sound_step(options):
    model = net(tl.nn.Dropout(0.5), tl.nn.BatchNorm1d(6))
    optimizer = tl.optim.Adam(model.parameters())

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    f = tl.compile(step, options=options)
    with config.CAPTURE("check"):
        losses = [f(tl.ones(5, 4), tl.tensor([0, 1, 2, 0, 1])).item() for _ in range(4)]
    assert len(set(losses)) == 4 and optimizer._steps_taken == 4


def test_check_names_a_broken_step():
    f = tl.compile(lambda x: (x.exp() * 2).sum(), options=OFF)
    f(tl.ones(3))
    step = next(s for s in f.plan.steps if s.name == "exp")
    entry = copy.copy(step.entry)
    entry.kernel = lambda x, out: out.fill(7)
    step.entry = entry
    with (
        config.CAPTURE("check"),
        pytest.raises(CaptureError, match=r"check: step \d+, exp, .*output 0 \[3\] is off by"),
    ):
        f(tl.ones(3))


def test_a_plan_prints():
    model = net()
    f = tl.compile(lambda x: model(x).sum(), options=OFF)
    f(tl.ones(5, 4))
    text = str(f.plan)
    assert "linear" in text and "[5, 6]" in text and ("native" in text or "plain" in text) and " B" in text
    assert len(text.splitlines()) >= 2 + len(f.plan.steps)
    with pytest.raises(CaptureError, match="call it once"):
        tl.compile(lambda x: x).plan


# ---- faces
def test_a_compiled_module():
    model = net(tl.nn.Dropout(0.5))
    f = tl.compile(model)
    assert isinstance(f, tl.nn.Module) and [k.removeprefix("_orig_mod.") for k in f.state_dict()] == [
        *model.state_dict()
    ]
    f.eval()
    assert not model.training and not model[2].training
    x = tl.randn(5, 4)
    assert tl.allclose(f(x), model(x))
    f.train()
    assert model[2].training
    f.load_state_dict(f.state_dict())
    twin = copy.deepcopy(f)
    with tl.no_grad():
        model[0].weight.zero_()
    twin.eval(), f.eval()
    assert not tl.allclose(twin(x), f(x)) and tl.allclose(f(x), model(x))
    again = pickle.loads(pickle.dumps(f))
    assert tl.allclose(again(x), f(x))
    assert pickle.loads(pickle.dumps(model)) is not None and copy.deepcopy(model)(x).shape == (5, 3)


def test_module_compile():
    model = net().eval()
    x = tl.randn(5, 4)
    wanted = model(x)
    assert model.compile(options=OFF) is None
    assert same(model(x), wanted) and same(model(x), wanted)
    assert next(iter(model.state_dict())) == "0.weight"
    assert same(copy.deepcopy(model)(x), wanted)
    assert same(pickle.loads(pickle.dumps(model))(x), wanted)


def test_decorators():
    @tl.compile
    def f(x):
        """Adds one."""
        return x + 1

    @tl.compile(options={"dead": False}, fullgraph=True, dynamic=False, mode="default", backend="inductor")
    def g(x):
        return x + 1

    x = tl.ones(2)
    assert same(f(x), x + 1) and same(g(x), x + 1) and f.__doc__ == "Adds one." and f.__name__ == "f"
    h = tl.compile(functools.partial(f.fn))
    assert same(h(x), x + 1)
    assert tl.compile(f.fn, disable=True) is f.fn
    with pytest.raises(RuntimeError, match="unexpected optimization option"):
        tl.compile(f.fn, options={"no such pass": True})
    with pytest.raises(TypeError, match="wanted a function"):
        tl.compile(3)


def test_methods_are_compiled_for_each_object():
    class Thing:
        def __init__(self, k):
            self.w = tl.nn.Parameter(tl.full((2,), k))

        @tl.compile
        def f(self, x):
            return self.w * x

    one, two = Thing(2.0), Thing(3.0)
    x = tl.ones(2)
    for _ in range(2):
        assert one.f(x).tolist() == [2, 2] and two.f(x).tolist() == [3, 3]
