"""Passes of compiled programs: each does what it says, changes no bit, and can be turned off."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn
from tensorlite.nn import functional as F
from tensorlite.program.passes import PASSES

native = pytest.mark.skipif(tl.backends.cpu.kernel("act_dx") is None, reason="needs the compiled kernels")


def _steps(program):
    return [step.name for step in program.plan.steps]


def _trained(build, inputs, options, steps=3):
    """The losses of some steps, the gradients and weights after them, and the program."""
    tl.manual_seed(0)
    model = build()
    optimizer = tl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(*args):
        optimizer.zero_grad()
        loss = model(*args)
        loss.backward()
        optimizer.step()
        return loss

    step = step if options is None else tl.compile(step, options=options)
    losses = [step(*inputs).item() for _ in range(steps)]
    state = [(p.detach().numpy().copy(), p.grad.numpy().copy()) for p in model.parameters()]
    return losses, state, step


def _same_bits(build, inputs, names, gone=()):
    """The three ways agree bit for bit; the program with passes has the steps ``names``, and none of ``gone``."""
    plain = _trained(build, inputs, None)
    off = _trained(build, inputs, dict.fromkeys(PASSES, False))
    on = _trained(build, inputs, {"winners": False})  # the one that changes last bits
    for other in (off, on):
        assert other[0] == plain[0]
        for a, b in zip(other[1], plain[1]):
            for x, y in zip(a, b):
                np.testing.assert_array_equal(x, y)
    for name in names:
        assert name in _steps(on[2]), _steps(on[2])
        assert name not in _steps(off[2])
    assert not set(gone) & set(_steps(on[2])), _steps(on[2])
    return on[2]


class Net(nn.Module):
    """Layers whose result goes through ``fn``; the loss is its mean square."""

    def __init__(self, fn, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.fn = fn

    def forward(self, *args):
        return (self.fn(self, *args) ** 2).mean()


def _x(*shape):
    return tl.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@native
@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid"])
def test_linear_and_activation(act):
    def fn(net, x):
        return net.two(getattr(tl, act)(net.one(x)))

    def build():
        return Net(fn, one=nn.Linear(7, 9), two=nn.Linear(9, 5))

    _same_bits(build, [_x(6, 7)], ["linear_act", "act_dx"], [act, f"{act}_dx"])


@native
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_linear_and_gelu(approximate):
    def fn(net, x):
        return net.two(F.gelu(net.one(x), approximate=approximate))

    def build():
        return Net(fn, one=nn.Linear(7, 9), two=nn.Linear(9, 5))

    _same_bits(build, [_x(6, 7)], ["linear_gelu", "act_dx"], ["gelu", "gelu_dx"])
    model = nn.Sequential(nn.Linear(7, 9), nn.GELU(approximate))
    compiled = tl.compile(lambda x: model(x))
    with tl.no_grad():
        np.testing.assert_array_equal(compiled(_x(6, 7)).numpy(), model(_x(6, 7)).numpy())
    assert _steps(compiled) == ["linear_act"]


@native
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_linear_and_activation_of_a_single_row(act):
    """Its bias has the gradient of the row itself: no sums of columns to make in passing."""

    def build():
        return Net(lambda net, x: net.two(getattr(F, act)(net.one(x))), one=nn.Linear(7, 9), two=nn.Linear(9, 5))

    fused = "linear_act" if act == "relu" else "linear_gelu"
    _same_bits(build, [_x(7)], [fused], [act, "act_dx"])


@native
def test_linear_and_residual():
    def fn(net, x):
        return net.two(x + net.one(x)) + x

    def build():
        return Net(fn, one=nn.Linear(8, 8), two=nn.Linear(8, 8))

    _same_bits(build, [_x(6, 8)], ["linear_add"], ["linear"])


@native
def test_what_is_used_elsewhere_stays():
    def fn(net, x):
        z = net.one(x)
        return z.relu() * z.sum()

    program = _same_bits(lambda: Net(fn, one=nn.Linear(7, 9)), [_x(6, 7)], [])
    assert "linear" in _steps(program)

    def shown(net, x):
        z = net.one(x)
        return z, z.relu()

    net = Net(None, one=nn.Linear(7, 9))
    compiled = tl.compile(lambda x: shown(net, x))
    with tl.no_grad():
        for a, b in zip(compiled(_x(6, 7)), shown(net, _x(6, 7))):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert "linear_act" not in _steps(compiled)


@native
@pytest.mark.parametrize("channels, side", [(1, 12), (3, 12), (5, 11), (16, 9)])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_convolution_relu_and_pooling(channels, side, last):
    def fn(net, x):
        return F.max_pool2d(net.one(x).relu(), 2)

    layout = tl.channels_last if last else tl.contiguous_format
    x = _x(3, channels, side, side).contiguous(memory_format=layout)
    _same_bits(
        lambda: Net(fn, one=nn.Conv2d(channels, 8, 3, padding=1)).to(memory_format=layout),
        [x],
        ["conv_relu_pool"],
        ["conv2d", "relu", "max_pool2d", "pool_put", "relu_dx"],
    )


@native
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_convolution_and_relu(last):
    def fn(net, x):
        return net.two(net.one(x).relu())

    layout = tl.channels_last if last else tl.contiguous_format
    x = _x(3, 5, 9, 8).contiguous(memory_format=layout)

    def build():
        return Net(fn, one=nn.Conv2d(5, 8, 3), two=nn.Conv2d(8, 4, 3)).to(memory_format=layout)

    _same_bits(build, [x], ["conv_act"], ["relu"])


@native
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_batch_norm_residual_and_relu(last):
    def fn(net, x):
        a = net.one_norm(net.one(x)).relu()
        return (net.two_norm(net.two(a)) + net.short(a)).relu() + (net.three(a) + a).relu()

    layout = tl.channels_last if last else tl.contiguous_format
    x = _x(3, 5, 9, 8).contiguous(memory_format=layout)

    def build():
        parts = dict(one=nn.Conv2d(5, 8, 3), one_norm=nn.BatchNorm2d(8), two=nn.Conv2d(8, 8, 3, padding=1))
        parts |= dict(two_norm=nn.BatchNorm2d(8), short=nn.BatchNorm2d(8), three=nn.BatchNorm2d(8, affine=False))
        return Net(fn, **parts).to(memory_format=layout)

    names = ["batch_norm_relu", "batch_norm_relu_dx", "batch_norm_add_relu", "batch_norm_add_relu_dx"]
    _same_bits(build, [x], names, ["relu", "relu_dx"])


@native
def test_relu_and_pooling_of_other_windows():
    def fn(net, x):
        return F.max_pool2d(net.norm(net.one(x)).relu(), 3, 2, 1)

    def build():
        return Net(fn, one=nn.Conv2d(3, 8, 3, bias=False), norm=nn.GroupNorm(2, 8))

    _same_bits(build, [_x(3, 3, 12, 12)], ["relu_pool", "relu_pool_dx"], ["relu", "max_pool2d"])


@native
def test_pooled_relu_used_elsewhere_stays():
    def fn(net, x):
        r = net.one(x).relu()
        return F.max_pool2d(r, 2).mean() + r.mean()

    program = _same_bits(lambda: Net(fn, one=nn.Conv2d(3, 8, 3)), [_x(3, 3, 12, 12)], [])
    assert {"conv_act", "max_pool2d"} <= set(_steps(program))


@native
@pytest.mark.parametrize("channels", [1, 16, 64])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_gradients_of_the_winners(channels, last):
    def fn(net, x):
        return F.max_pool2d(net.two(F.max_pool2d(net.one(x).relu(), 2)).relu(), 2)

    layout = tl.channels_last if last else tl.contiguous_format
    x = _x(3, channels, 14, 14).contiguous(memory_format=layout)

    def build():
        return Net(fn, one=nn.Conv2d(channels, channels, 3), two=nn.Conv2d(channels, 8, 3)).to(memory_format=layout)

    plain, on = _trained(build, [x], None), _trained(build, [x], {})
    np.testing.assert_allclose(on[0], plain[0], rtol=1e-5)
    for a, b in zip(on[1], plain[1]):
        for got, wanted in zip(a, b):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    names = _steps(on[2])
    assert names.count("conv_relu_pool_dw") == 2 and "conv2d_dw" not in names
    assert ("conv_relu_pool_dx" in names) == (channels == 16)
    assert names.count("relu_pool_dx") == (channels != 16)


def test_layouts_that_undo_one_another():
    conv = nn.Conv2d(3, 4, 3).to(memory_format=tl.channels_last)

    def there_and_back(x):
        y = conv(x).contiguous().contiguous(memory_format=tl.channels_last)
        return y.contiguous().clone().contiguous(memory_format=tl.channels_last) * 2

    x = _x(2, 3, 6, 6).contiguous(memory_format=tl.channels_last)
    off, on = (tl.compile(there_and_back, options={"layout": layout, "elementwise": False}) for layout in (False, True))
    with tl.no_grad():
        wanted = there_and_back(x)
        for compiled in (off, on):
            got = compiled(x)
            np.testing.assert_array_equal(got.numpy(), wanted.numpy())
            assert got.stride() == wanted.stride()
    assert _steps(off).count("laid") + _steps(off).count("clone") == 5
    assert _steps(on) == ["conv2d", "mul"]


def test_a_copy_that_outlives_a_write_stays():
    def fn(x):
        y = x.exp()
        kept = y.clone()
        y.mul_(2)
        return kept + y

    compiled = tl.compile(fn)
    x = _x(4, 5)
    np.testing.assert_array_equal(compiled(x).numpy(), fn(x).numpy())


def test_dead_steps_go():
    def fn(x):
        x.exp().sum()
        return x * 2

    on, off = tl.compile(fn), tl.compile(fn, options=dict.fromkeys(PASSES, False))
    x = _x(4, 5)
    np.testing.assert_array_equal(on(x).numpy(), off(x).numpy())
    assert len(on.plan) == 1 and len(off.plan) == 3


def test_buffers_are_used_again():
    def fn(x):
        for _ in range(6):
            x = x.exp().sqrt().cumsum(0) / 7
        return x.sum()

    x = _x(100, 100)
    on = tl.compile(fn, options={**dict.fromkeys(PASSES, False), "reuse": True})
    off = tl.compile(fn, options=dict.fromkeys(PASSES, False))
    assert on(x).item() == off(x).item() == fn(x).item()
    assert on.plan.arena_bytes <= 3 * 40_064 < 20 * 40_000 < off.plan.arena_bytes


def test_unknown_pass():
    with pytest.raises(RuntimeError, match=r"unexpected optimization option \['fast'\]; known are \['dead'"):
        tl.compile(lambda x: x, options={"fast": True})


def test_switch_turns_all_off():
    def fn(x):
        x.exp()
        return x + 1

    with tl.config.PASSES("none"):
        compiled = tl.compile(fn)
        compiled(_x(3))
    assert _steps(compiled) == ["exp", "add"]
