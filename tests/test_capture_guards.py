"""Guards of compiled functions: what makes them record anew, and what must not."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
from capture_harness import OFF, batches, net, recordings, same, training

import tensorlite as tl
from tensorlite import config
from tensorlite.errors import CaptureError
from tensorlite.program import compiled as compiling


def affine(x):
    return x * 2 + 1


def calls(f, g, *arguments) -> None:
    """Compare on each of these tuples of arguments."""
    for given in arguments:
        assert same(f(*given), g(*given))


# ---- arguments
def test_a_shape_is_recorded_once():
    f = tl.compile(affine)
    shapes = [(3, 2), (3, 2), (1, 2), (3, 2), (1, 2), (0, 2), (3, 2), ()]
    calls(f, affine, *((tl.randn(shape),) for shape in shapes))
    assert recordings(f) == 4  # (3, 2), (1, 2), (0, 2), ()


def test_alternating_shapes_do_not_record():
    f = tl.compile(affine)
    for k in range(40):
        f(tl.randn(2 + k % 3))
    assert recordings(f) == 3 and len(f.programs) == 3


def test_the_last_batch_is_smaller():
    model, made = net(), []
    for compiled in (False, True):
        tl.manual_seed(3)
        model.load_state_dict(net().state_dict())
        step = training(model, tl.optim.SGD(model.parameters(), 0.1))
        step = tl.compile(step, options=OFF) if compiled else step
        for _ in range(3):
            for x, y in [*batches(2), *batches(1, size=2)]:
                step(x, y)
        made.append([p.detach().clone() for p in model.parameters()])
    assert same(*made) and recordings(step) == 2


def test_dtypes():
    f = tl.compile(affine)
    calls(f, affine, *((tl.ones(3).to(d),) for d in (tl.float32, tl.float64, tl.int64, tl.float32, tl.float16)))
    assert recordings(f) == 4


def test_layouts():
    f = tl.compile(affine)
    x = tl.randn(2, 3, 4, 4)
    calls(f, affine, (x,), (x.to(memory_format=tl.channels_last),), (x.transpose(0, 1),), (x[:, :, ::2],), (x,))
    got = f(x.to(memory_format=tl.channels_last))
    assert got.is_contiguous(memory_format=tl.channels_last)
    assert recordings(f) == 4
    calls(f, affine, (tl.randn(2, 3, 8, 4)[:, :, ::2],))  # other strides, the same shape
    assert recordings(f) == 5


def test_a_gradient_that_lies_otherwise_than_the_result():
    """A program lays it as the result lies, and its sums go in that order."""
    f = tl.compile(tl.nn.functional.conv2d)
    x = tl.randn(2, 3, 6, 5).to(memory_format=tl.channels_last)
    w, b = tl.randn(4, 3, 3, 2), tl.randn(4)
    for _ in range(2):
        g, found = tl.randn(2, 4, 4, 4), []
        for call in (f, f.fn):
            given = [t.detach().clone().requires_grad_() for t in (x, w, b)]
            y = call(*given)
            assert y.is_contiguous(memory_format=tl.channels_last) and not y.is_contiguous()
            found.append(tl.autograd.grad(y, given, g))
        for got, want in zip(*found):
            assert tl.allclose(got, want, rtol=1e-5, atol=1e-5)


def test_negative_strides_are_refused_or_right():
    x = tl.from_numpy(__import__("numpy").arange(6.0)[::-1])
    f = tl.compile(affine)
    try:
        assert same(f(x), affine(x))
    except CaptureError as error:
        assert "negative strides" in str(error)


def test_numbers_strings_none_and_keywords():
    def g(x, k=1, *, mode="a", more=None):
        y = x * k
        return (y if mode == "a" else -y) if more is None else y + more

    f = tl.compile(g)
    x = tl.randn(3)
    for args, kwargs in [
        ((x,), {}), ((x, 2), {}), ((x, 2.0), {}), ((x,), {"k": 2}), ((x,), {"mode": "b"}), ((x,), {"more": x}),
        ((x, True), {}), ((), {"x": x}), ((x,), {}), ((x, float("nan")), {}),
    ]:  # fmt: skip
        assert same(f(*args, **kwargs), g(*args, **kwargs)), (args, kwargs)
    assert recordings(f) == 9


def test_equal_numbers_of_other_types_differ():
    f = tl.compile(lambda x, k: x * k)
    assert f(tl.ones(2, dtype=tl.int64), 1).dtype is tl.int64
    assert f(tl.ones(2, dtype=tl.int64), 1.0).dtype is tl.float32
    assert f(tl.ones(2, dtype=tl.int64), True).dtype is tl.int64


def test_signs_of_zero_and_nan_are_numbers_of_their_own():
    f = tl.compile(lambda x, k: x / k)
    assert f(tl.ones(1), 0.0).item() == float("inf")
    assert f(tl.ones(1), -0.0).item() == float("-inf")
    before = recordings(f)
    for _ in range(3):
        assert f(tl.ones(1), float("nan")).isnan().all()
    assert recordings(f) <= before + 3


class Pair(NamedTuple):
    a: tl.Tensor
    b: tl.Tensor


def test_nested_arguments_and_results():
    def g(xs, table):
        total = sum(xs)
        return {"total": total, "pair": Pair(total + 1, table["k"][0]), "list": [total, (xs[0], None, 3, "s")]}

    f = tl.compile(g)
    for n in (2, 3, 2, 3):
        xs, table = [tl.randn(2) for _ in range(n)], {"k": (tl.randn(3),)}
        got, wanted = f(xs, table), g(xs, table)
        assert same(got, wanted)
        assert type(got["pair"]) is Pair and got["pair"].b is table["k"][0] and got["list"][1][0] is xs[0]
    assert recordings(f) == 2


def test_numpy_arrays_are_refused():
    f = tl.compile(affine)
    with pytest.raises(CaptureError, match="NumPy array"):
        f(tl.ones(2).numpy())


def test_an_object_is_itself():
    class Settings:
        scale = 2.0

    def g(x, s):
        return x * s.scale

    one, two = Settings(), Settings()
    two.scale = 3.0
    f = tl.compile(g)
    x = tl.randn(3)
    calls(f, g, (x, one), (x, two), (x, one))
    assert recordings(f) == 2


def test_a_tensor_given_twice():
    f = tl.compile(lambda a, b: a * b + a)
    x, y = tl.randn(3), tl.randn(3)
    calls(f, f.fn, (x, y), (x, x), (y, y), (x, y))
    f = tl.compile(f.fn)
    calls(f, f.fn, (x, x), (x, y), (y, y), (x, y))


def test_a_tensor_given_twice_of_which_one_is_written():
    def g(a, b):
        a.add_(1)
        return a * b

    f = tl.compile(g)
    for twice in (False, True, False, True):
        x, y = tl.ones(3), tl.full((3,), 2.0)
        got = f(x, x if twice else y)
        assert got.tolist() == [4.0] * 3 and x.tolist() == [2.0] * 3


def test_written_arguments_that_overlap():
    def g(a, b):
        a.add_(1)
        return a * b

    f = tl.compile(g)
    x, y = tl.ones(3), tl.ones(3)
    assert f(x, y).tolist() == [2.0] * 3
    base = tl.ones(4)
    try:
        got = f(base[:3], base[1:])  # b changes as a is written
        assert got.tolist() == [4.0, 4.0, 2.0]
    except CaptureError as error:
        assert "shares memory" in str(error)


def test_an_argument_written_in_place():
    def g(x):
        x.mul_(2)
        x[0] = 7
        return x.sum()

    f = tl.compile(g, options=OFF)
    for _ in range(3):
        x = tl.randn(4)
        y, version = x.clone(), x._version
        assert same(f(x), g(y)) and same(x, y)
        assert x._version > version


def test_written_arguments_are_seen_by_the_tape():
    f = tl.compile(lambda x: x.zero_())
    w = tl.ones(3, requires_grad=True)
    saved = w * 2
    loss = (saved * saved).sum()
    for _ in range(2):
        with tl.no_grad():
            f(saved.detach())
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_out_equals():
    def g(x, out):
        tl.add(x, 1, out=out)
        return out

    f = tl.compile(g)
    for _ in range(3):
        x, out = tl.randn(3), tl.zeros(3)
        assert f(x, out) is out and same(out, x + 1)
    with pytest.raises(CaptureError, match="other memory"):
        f(tl.randn(3), tl.empty(0))


def test_an_argument_that_wants_a_gradient():
    f = tl.compile(affine)
    x = tl.randn(3)
    assert not f(x).requires_grad
    assert f(x.clone().requires_grad_()).requires_grad
    assert not f(x).requires_grad
    assert recordings(f) == 2


def test_an_argument_that_is_a_parameter():
    model = net()
    w, b = model[0].weight, model[0].bias
    f = tl.compile(lambda x, w, b: tl.nn.functional.linear(x, w, b), options=OFF)
    x = tl.randn(5, 4)
    for _ in range(3):
        got = f(x, w, b)
        got.sum().backward()
        mine, w.grad = w.grad, None
        (x @ w.T + b).sum().backward()
        assert tl.allclose(mine, w.grad)
        w.grad = b.grad = None
    assert recordings(f) == 1
    other = tl.nn.Linear(4, 6)
    assert same(f(x, other.weight, other.bias), other(x))


# ---- modes
def test_gradient_modes():
    model = net()
    f = tl.compile(model)
    x = tl.randn(2, 4)
    assert f(x).requires_grad
    with tl.no_grad():
        assert not f(x).requires_grad
    with tl.inference_mode():
        assert not f(x).requires_grad
    assert f(x).requires_grad


def test_default_dtype():
    f = tl.compile(lambda x: x + tl.ones(3))
    x = tl.ones(3, dtype=tl.int64)
    assert f(x).dtype is tl.float32
    tl.set_default_dtype(tl.float64)
    try:
        assert f(x).dtype is tl.float64
    finally:
        tl.set_default_dtype(tl.float32)
    assert f(x).dtype is tl.float32


def test_train_and_eval():
    model = net(tl.nn.Dropout(0.5), tl.nn.BatchNorm1d(6))
    f = tl.compile(lambda x: model(x), options=OFF)
    x = tl.randn(8, 4)
    for mode in (True, True, False, False, True, False):
        model.train(mode)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        tl.manual_seed(2)
        wanted = model(x)
        after = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(before)
        tl.manual_seed(2)
        assert same(f(x), wanted)
        assert same(dict(model.state_dict()), after)
    assert recordings(f) <= 3


def test_one_module_in_eval():
    model = net(tl.nn.Dropout(0.5))
    f = tl.compile(lambda x: model(x))
    x = tl.randn(8, 4)
    f(x), f(x)
    model[2].eval()
    assert same(f(x), f(x)) and tl.allclose(f(x), model(x))


def test_other_kernels():
    f = tl.compile(affine)
    x = tl.randn(100)
    f(x)
    assert all(s.entry.native for s in f.plan.steps if s.name in ("mul", "add")) or recordings(f) == 1
    with config.KERNELS("plain"):
        assert same(f(x), affine(x))
        assert not any(s.entry.native for s in f.plan.steps)
    assert same(f(x), affine(x))


def test_threads_do_not_matter(threads):
    model = tl.nn.Linear(300, 300)
    f = tl.compile(model)
    x = tl.randn(256, 300)
    threads(1)
    one = f(x)
    threads(2)
    assert same(one, f(x)) and recordings(f._program if hasattr(f, "_program") else f) == 1


# ---- models and optimizers
def stepped(make_change, count=3):
    """A few steps, a change of model or optimizer, a few steps more: as it is and compiled give equal bits."""
    made = []
    for compiled in (False, True):
        model = net()
        optimizer = tl.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        step = training(model, optimizer)
        step = tl.compile(step, options=OFF) if compiled else step
        for k, (x, y) in enumerate(batches(2 * count)):
            if k == count:
                make_change(model, optimizer)
            step(x, y)
        made.append([p.detach().clone() for p in model.parameters()])
    assert same(*made)
    return step


def test_freezing():
    def freeze(model, optimizer):
        model[0].weight.requires_grad_(False)

    stepped(freeze)


def test_unfreezing():
    made = []
    for compiled in (False, True):
        model = net()
        model[0].requires_grad_(False)
        optimizer = tl.optim.SGD(model.parameters(), 0.1)
        step = training(model, optimizer)
        step = tl.compile(step, options=OFF) if compiled else step
        for k, (x, y) in enumerate(batches(6)):
            if k == 3:
                model[0].requires_grad_(True)
            step(x, y)
        made.append([p.detach().clone() for p in model.parameters()])
    assert same(*made)


def test_load_state_dict_of_the_model():
    step = stepped(lambda model, optimizer: model.load_state_dict(
        {k: v * 0.5 for k, v in model.state_dict().items()}
    ))  # fmt: skip
    assert recordings(step) <= 2  # the first step makes the momentum


def test_load_state_dict_of_the_optimizer():
    def load(model, optimizer):
        given = optimizer.state_dict()
        for state in given["state"].values():
            state["momentum_buffer"] = state["momentum_buffer"] * 0.5
        optimizer.load_state_dict(given)

    stepped(load)


def test_new_memory_by_data():
    def swap(model, optimizer):
        model[0].weight.data = tl.full((6, 4), 0.25)

    stepped(swap)


def test_a_parameter_written_outside():
    def write(model, optimizer):
        with tl.no_grad():
            model[0].weight.mul_(0.5)
            model[2].bias[0] = 3

    assert recordings(stepped(write)) <= 2


def test_a_new_parameter():
    def replace(model, optimizer):
        model[2].bias = tl.nn.Parameter(tl.full((3,), 0.5))
        optimizer.param_groups[0]["params"][-1] = model[2].bias

    stepped(replace)


def test_to_float64():
    made = []
    for compiled in (False, True):
        model = net()
        f = tl.compile(model, options=OFF) if compiled else model
        x = tl.randn(2, 4, generator=tl.Generator().manual_seed(1))
        out = [f(x)]
        model.double()
        out.append(f(x.double()))
        model.float()
        out.append(f(x))
        made.append([t.detach() for t in out])
    assert same(*made)


def test_add_param_group():
    made = []
    for compiled in (False, True):
        model = net()
        optimizer = tl.optim.SGD(model[0].parameters(), 0.1)
        step = training(model, optimizer)
        step = tl.compile(step, options=OFF) if compiled else step
        for k, (x, y) in enumerate(batches(6)):
            if k == 3:
                optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5})
            step(x, y)
        made.append([p.detach().clone() for p in model.parameters()])
    assert same(*made)


def test_hooks_come_and_go():
    model = net()
    f = tl.compile(model, options=OFF)
    x = tl.randn(2, 4)
    plain = f(x)
    handle = model[0].register_forward_hook(lambda module, args, out: out * 2)
    assert same(f(x), model(x)) and not same(f(x), plain)
    handle.remove()
    assert same(f(x), plain)
    with model[0].weight.register_hook(lambda g: g * 0):
        f(x).sum().backward()
        assert not model[0].weight.grad.any()
    model.zero_grad()
    f(x).sum().backward()
    assert model[0].weight.grad.any()


def test_attributes_of_modules():
    class Scaled(tl.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.names = 2.0, ["a"]
            self.w = tl.nn.Parameter(tl.ones(3))

        def forward(self, x):
            return x * self.w * self.scale * len(self.names)

    model = Scaled()
    f = tl.compile(model)
    x = tl.randn(3)
    assert same(f(x), model(x))
    model.scale = 3.0
    assert same(f(x), model(x))
    model.names = ["a", "b"]
    assert same(f(x), model(x))


def test_a_new_layer():
    model = net()
    f = tl.compile(lambda x: model(x))
    x = tl.randn(2, 4)
    f(x)
    model.append(tl.nn.Linear(3, 2))
    assert same(f(x), model(x))
    model[1] = tl.nn.ReLU()
    assert same(f(x), model(x))


# ---- numbers outside
SCALE = 2.0


def scaled(x):
    return x * SCALE


def test_a_global_number(monkeypatch):
    f = tl.compile(scaled)
    x = tl.randn(3)
    assert same(f(x), x * 2)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert same(f(x), x * 3)


def test_a_number_of_the_closure():
    k = 2.0

    def g(x):
        return x * k

    f = tl.compile(g)
    x = tl.randn(3)
    assert same(f(x), x * 2)
    k = 3.0
    assert same(f(x), x * 3)


def test_a_number_in_an_object():
    class Trainer:
        def __init__(self):
            self.scale = 2.0

        @tl.compile
        def step(self, x):
            return x * self.scale

    trainer = Trainer()
    x = tl.randn(3)
    assert same(trainer.step(x), x * 2)
    trainer.scale = 3.0
    assert same(trainer.step(x), x * 3)
    assert same(Trainer().step(x), x * 2)


def test_a_number_in_a_container():
    settings = {"scale": 2.0, "list": [1.0]}

    def g(x):
        return x * settings["scale"] + settings["list"][0]

    f = tl.compile(g)
    x = tl.randn(3)
    assert same(f(x), x * 2 + 1)
    settings["scale"] = 3.0
    assert same(f(x), x * 3 + 1)
    settings["list"][0] = 5.0
    assert same(f(x), x * 3 + 5)


def test_partial():
    def g(k, x, *, plus):
        return x * k + plus

    f = tl.compile(functools.partial(g, 2.0, plus=1))
    x = tl.randn(3)
    assert same(f(x), x * 2 + 1)


# ---- how many, and why
def test_programs_are_bounded():
    f = tl.compile(affine)
    for n in range(compiling.PROGRAMS + 5):
        for _ in range(3):
            f(tl.ones(n + 1))
    assert len(f.programs) == compiling.PROGRAMS
    before = recordings(f)
    f(tl.ones(compiling.PROGRAMS + 5))
    assert recordings(f) == before
    f(tl.ones(1))  # the one used longest ago went
    assert recordings(f) == before + 1


def test_debug_says_why(capsys):
    with config.DEBUG(1):
        f = tl.compile(affine)
        f(tl.ones(3))
        f(tl.ones(3, dtype=tl.float64))
        f(tl.ones(3))
        with tl.no_grad():
            f(tl.ones(3))
    lines = [line for line in capsys.readouterr().err.splitlines() if "recording" in line]
    assert len(lines) == 3
    assert "the first call" in lines[0] and "float64[3]" in lines[1] and "gradients are" in lines[2]


def test_what_never_pays_is_given_up():
    f = tl.compile(lambda x, k: x * k)
    with pytest.warns(UserWarning, match="hardly ever replayed"):
        for k in range(compiling.PATIENCE + 3):
            assert f(tl.ones(1), float(k)).item() == k


def test_another_models_gradients_do_not_matter():
    """Two models trained in turns are recorded once each."""
    steps = []
    for _ in range(2):
        model = net()
        steps.append(tl.compile(training(model, tl.optim.Adam(model.parameters()))))
    for x, y in batches(6):
        for step in steps:
            step(x, y)
    assert [recordings(step) for step in steps] == [1, 1]
