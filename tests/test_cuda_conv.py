"""Convolutions and what follows them on the emulated device, against references and the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip
from ops_harness import cases, complaint, flat, reference

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator
from tensorlite.backends.launch import conv, conv_depthwise, conv_mma, conv_weights, conv_weights_mma
from tensorlite.ops.conv import conv2d_p
from tensorlite.ops.conv_act import conv_act_p
from tensorlite.ops.conv_pool import conv_relu_pool_p
from tensorlite.ops.pool import max_pool2d_p

OPS = ["conv2d", "conv2d_dx", "conv2d_dw", "conv2d_db", "conv_act", "conv1d", "conv_transpose2d"]
OPS += ["conv_relu_pool", "conv_relu_pool_dw", "conv_relu_pool_dx"]
F = tl.nn.functional


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


def host(t):
    t = t.detach().cpu()
    return t.to(tl.float64).numpy() if t.is_floating_point() else t.numpy()


def lying(t, how):
    """The tensor on the device: contiguous, channels_last, or a view with gaps."""
    if how == "last" and t.dim() == 4:
        return t.to("cuda").contiguous(memory_format=tl.channels_last)
    if how == "steps" and t.dim() == 4:
        wide = tl.zeros(t.shape[0], t.shape[1], t.shape[2] + 1, 2 * t.shape[3] + 1, dtype=t.dtype)
        wide[:, :, 1:, 1::2] = t
        return wide.to("cuda")[:, :, 1:, 1::2]
    return t.to("cuda")


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("dtype", "how"),
    [(tl.float32, "contiguous"), (tl.float32, "last"), (tl.float32, "steps")]
    + [(tl.float64, "last"), (tl.bfloat16, "contiguous"), (tl.float16, "last")],
    ids=str,
)
def test_every_case_of_the_ops(name, how, dtype):
    problems = []
    for case in cases(TABLE[name], dtype):
        there = case.with_tensors([lying(t, how) for t in case.tensors().values()])
        got = flat(there.run())
        assert all(y.device.type == "cuda" for y in got)
        expected = reference(case)
        problems += [complaint(case, y.cpu(), r, f"output {n}", dtype) for n, (y, r) in enumerate(zip(got, expected))]
    problems = [p for p in problems if p]
    assert not problems, "\n".join(problems)


# ---- beyond the cases: sizes of more than a tile, every tile, parts, layouts mixed
SHAPES = [  # x, w, stride, padding, dilation, groups
    ((2, 5, 9, 11), (70, 5, 3, 3), 1, 1, 1, 1),
    ((1, 18, 8, 8), (33, 18, 1, 1), 1, 0, 1, 1),
    ((3, 4, 12, 10), (6, 2, 3, 2), (2, 3), (2, 0), (1, 2), 2),
    ((2, 3, 3, 4), (4, 3, 5, 4), 1, (2, 1), 1, 1),  # a kernel larger than the image
    ((1, 4, 13, 9), (4, 1, 3, 3), (2, 1), 1, (3, 1), 4),
    ((5, 2, 7, 7), (3, 2, 2, 2), 3, 0, 1, 1),  # pixels that no window meets
    ((2, 2, 9, 8), (2, 2, 3, 3), 2, 2, 2, 1),  # dilation and stride that share a divisor: phases without taps
]


def step(device, shapes, dtype=tl.float32, form=None, seed=0):
    """Output and gradients of a convolution."""
    xs, ws, stride, padding, dilation, groups = shapes
    rng = np.random.default_rng(seed)
    x, w, b = (tl.tensor(rng.standard_normal(s)).to(dtype) for s in (xs, ws, ws[:1]))
    given = [t.to(device) for t in (x, w, b)]
    if form:
        given[:2] = [t.contiguous(memory_format=tl.channels_last) if f else t for t, f in zip(given, form)]
    given = [t.detach().requires_grad_() for t in given]
    y = F.conv2d(*given, stride=stride, padding=padding, dilation=dilation, groups=groups)
    g = tl.tensor(rng.standard_normal(tuple(y.shape))).to(dtype).to(device)
    y.backward(g)
    return [y.detach(), *(t.grad for t in given)]


def near(got, wanted, close):
    for a, b in zip(got, wanted):
        assert a.shape == b.shape and a.dtype is b.dtype
        b = host(b)
        np.testing.assert_allclose(host(a), b, rtol=0, atol=close * max(1, np.abs(b).max(initial=0)))


@pytest.fixture
def forced(monkeypatch):
    """Small problems cut up as large ones are: large tiles, many parts."""
    monkeypatch.setattr(conv, "FILL", 0)
    monkeypatch.setattr(conv_weights, "LEAST", 1)
    monkeypatch.setattr(conv_weights, "MOST", 11)
    for name in OPS[:3]:  # plans made otherwise
        TABLE[name].cache.clear()
    yield
    for name in OPS[:3]:
        TABLE[name].cache.clear()


@pytest.mark.parametrize("form", [(0, 0), (1, 1), (1, 0), (0, 1)], ids=str)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_cpu(shapes, form):
    near(step("cuda", shapes, form=form), step("cpu", shapes, form=form), 3e-6)


@pytest.mark.parametrize("form", [(0, 0), (1, 1)], ids=str)
def test_large_tiles_and_parts(forced, form):
    for shapes in SHAPES[:3]:
        near(step("cuda", shapes, form=form), step("cpu", shapes, form=form), 3e-6)


TENSOR_CORES = [
    ((2, 16, 9, 8), (72, 16, 3, 3), 1, 1, 1, 1),
    ((3, 16, 7, 9), (32, 8, 3, 2), (2, 3), (2, 0), (1, 2), 2),
    ((1, 40, 12, 13), (24, 40, 1, 1), 1, 0, 1, 1),
    ((2, 8, 9, 8), (9, 8, 2, 2), 2, 2, 2, 1),  # features not by 2, phases without taps
]


@pytest.fixture
def with_tensor_cores(monkeypatch):
    """Small problems go to the tensor cores too; gives the names of what is launched."""
    monkeypatch.setattr(conv_mma, "WORTH", 0)
    monkeypatch.setattr(conv_weights_mma, "LEAST", 1)
    monkeypatch.setattr(conv_weights_mma, "MOST", 3)
    from tensorlite.backends.launch import Kernel

    names, launch = [], Kernel.__call__
    monkeypatch.setattr(Kernel, "__call__", lambda self, *args: (names.append(self.name), launch(self, *args))[1])
    for name in OPS[:3]:
        TABLE[name].cache.clear()
    yield names
    for name in OPS[:3]:
        TABLE[name].cache.clear()


@pytest.mark.parametrize("form", [(0, 0), (1, 1), (1, 0)], ids=str)
@pytest.mark.parametrize(("dtype", "close"), [(tl.float32, 2e-3), (tl.float16, 1e-3), (tl.bfloat16, 8e-3)], ids=str)
@pytest.mark.parametrize("shapes", TENSOR_CORES, ids=str)
def test_tensor_cores(with_tensor_cores, shapes, dtype, close, form):
    there = step("cuda", shapes, dtype, form)
    assert "image_mma" in with_tensor_cores
    assert ("weights_mma" in with_tensor_cores) == (shapes[1][0] // shapes[5] % (16 // dtype.itemsize) == 0)
    near(there, step("cpu", shapes, dtype, form), close)


def test_tf32_only_where_it_is_allowed(with_tensor_cores, monkeypatch):
    monkeypatch.setattr(tl.backends.cudnn, "allow_tf32", False)
    there = step("cuda", TENSOR_CORES[0])
    assert not any(name.endswith("_mma") for name in with_tensor_cores)
    near(there, step("cpu", TENSOR_CORES[0]), 3e-6)


def test_tensor_cores_give_the_same_bits_in_every_order(with_tensor_cores):
    results = []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            results.append([host(t) for t in step("cuda", TENSOR_CORES[0], tl.bfloat16)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


FIRST = [  # few channels: one kernel
    ((2, 1, 9, 13), (9, 1, 3, 3), 1, 0, 1, 1),
    ((3, 3, 8, 7), (37, 3, 5, 4), (1, 2), 2, 1, 1),
    ((1, 4, 40, 6), (16, 2, 2, 3), 2, 1, (3, 1), 2),
]


@pytest.mark.parametrize("form", [(0, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("shapes", FIRST, ids=str)
def test_few_channels(shapes, form):
    near(step("cuda", shapes, form=form), step("cpu", shapes, form=form), 3e-6)


ONE_CHANNEL = [
    ((2, 8, 9, 13), (8, 1, 3, 3), 1, 1, 1, 8),
    ((3, 5, 12, 7), (10, 1, 5, 4), (1, 2), 2, (2, 1), 5),
    ((1, 3, 9, 8), (3, 1, 2, 3), (3, 2), 1, (2, 2), 3),
]


@pytest.mark.parametrize("form", [(0, 0), (1, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.float16], ids=str)
@pytest.mark.parametrize("shapes", ONE_CHANNEL, ids=str)
def test_one_channel_a_group(shapes, dtype, form):
    close = {tl.float32: 3e-6, tl.float64: 1e-14, tl.float16: 1e-3}[dtype]
    near(step("cuda", shapes, dtype, form), step("cpu", shapes, dtype, form), close)


@pytest.mark.parametrize("form", [(0, 0), (1, 1)], ids=str)
def test_one_channel_a_group_in_parts_and_every_order(monkeypatch, form):
    monkeypatch.setattr(conv_depthwise, "A_PART", 16)
    for name in OPS[:3]:
        TABLE[name].cache.clear()
    results = []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            results.append(step("cuda", ONE_CHANNEL[0], form=form))
    near(results[0], step("cpu", ONE_CHANNEL[0], form=form), 3e-6)
    for other in results[1:]:
        assert all(np.array_equal(host(a), host(b)) for a, b in zip(results[0], other))
    TABLE["conv2d_dw"].cache.clear()


@pytest.mark.parametrize(
    ("dtype", "form"),
    [(tl.float32, (0, 0)), (tl.float32, (1, 1)), (tl.float64, (1, 1)), (tl.bfloat16, (0, 0))],
    ids=str,
)
@pytest.mark.parametrize("shapes", [*FIRST, SHAPES[0]], ids=str)
def test_pooled_in_one_go_or_in_three(shapes, dtype, form):
    """The same bits, and the places too."""
    xs, ws, *how = shapes
    rng = np.random.default_rng(4)
    x, w, b = (tl.tensor(rng.standard_normal(s)).to(dtype).cuda() for s in (xs, ws, ws[:1]))
    x[0, 0, 0, 0] = float("nan")
    x = x.contiguous(memory_format=tl.channels_last) if form[0] else x
    stride, pad, dilation = ((v, v) if isinstance(v, int) else v for v in how[:3])
    y, place = conv_relu_pool_p(
        x, w, b, stride=stride, padding=(pad[0],) * 2 + (pad[1],) * 2, dilation=dilation, groups=how[3]
    )
    between = F.relu(F.conv2d(x, w, b, *how))
    wanted, at = max_pool2d_p(between, kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil=False)
    np.testing.assert_array_equal(host(y), host(wanted))
    np.testing.assert_array_equal(host(place), host(at))


@pytest.mark.parametrize(
    ("dtype", "close", "form"),
    [(tl.float64, 1e-14, (1, 1)), (tl.float16, 1e-3, (1, 1)), (tl.bfloat16, 8e-3, (0, 0))],
    ids=str,
)
def test_other_types(dtype, close, form):
    for shapes in SHAPES[2:4]:
        near(step("cuda", shapes, dtype, form), step("cpu", shapes, dtype, form), close)


def test_batches_of_none_and_one():
    near(
        step("cuda", ((1, 3, 4, 4), (2, 3, 3, 3), 1, 0, 1, 1)),
        step("cpu", ((1, 3, 4, 4), (2, 3, 3, 3), 1, 0, 1, 1)),
        3e-6,
    )
    x, w, b = tl.zeros(0, 3, 4, 4, device="cuda"), tl.ones(2, 3, 3, 3, device="cuda"), tl.ones(2, device="cuda")
    assert F.conv2d(x, w, b).shape == (0, 2, 2, 2)


@pytest.mark.parametrize("form", [(0, 0), (1, 1)], ids=str)
def test_the_same_bits_in_every_order_of_threads(forced, form):
    results = []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            results.append([host(t) for t in step("cuda", SHAPES[2], form=form)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


def test_views_are_read_as_they_lie(monkeypatch):
    """Channels of a wider image: nothing is copied, and the kernels did it."""
    rng = np.random.default_rng(2)
    x, w = (
        tl.tensor(rng.standard_normal((2, 9, 6, 7))).to(tl.float32),
        tl.tensor(rng.standard_normal((4, 3, 3, 3))).to(tl.float32),
    )
    there, weights = x.cuda(), w.cuda()
    wanted = F.conv2d(x[:, 4:7], w)
    from tensorlite.backends.launch import Kernel

    names, launch = [], Kernel.__call__
    monkeypatch.setattr(Kernel, "__call__", lambda self, *args: (names.append(self.name), launch(self, *args))[1])
    got = conv2d_p(there[:, 4:7], weights, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    assert names == ["image"]
    near([got], [wanted], 3e-6)


def test_relu_keeps_nan_and_follows_the_bias():
    x = tl.tensor([[[[1.0, float("nan"), -3.0]]]])
    how = dict(stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1, act="relu")
    w, b = tl.ones(2, 1, 1, 1), tl.tensor([0.5, 5.0])
    got, wanted = (conv_act_p(*(t.to(d) for t in (x, w, b)), **how) for d in ("cuda", "cpu"))
    np.testing.assert_array_equal(host(got), host(wanted))


def test_every_dtype_has_its_variants():
    for short in ("f2", "bf2", "f4", "f8"):
        for last in (False, True):
            assert conv.variant(short, last) in [v.defines for v in conv.VARIANTS]
            assert conv_weights.variant(short, last) in [v.defines for v in conv_weights.VARIANTS]


@pytest.mark.parametrize("form", [tl.contiguous_format, tl.channels_last], ids=str)
def test_a_training_step_of_modules(form):
    """Losses and weights of some steps are those of the CPU."""

    def train(device):
        tl.manual_seed(0)
        nn = tl.nn
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 3),
        ).to(device)  # fmt: skip
        net = net.to(memory_format=form)
        x = tl.randn(3, 1, 10, 11).to(device)
        x = x.contiguous(memory_format=form)
        losses = []
        for _ in range(3):
            loss = (net(x) ** 2).mean()
            loss.backward()
            with tl.no_grad():
                for p in net.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
            losses.append(loss.detach())
        return [*losses, *(p.detach() for p in net.parameters())]

    near(train("cuda"), train("cpu"), 1e-5)
