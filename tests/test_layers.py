"""Layers, losses, first values and helpers on parameters; beside PyTorch where that says what is right."""

import contextlib
import math
from collections import OrderedDict

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn
from tensorlite.nn import functional as F


def twins(torch, make):
    """The same module of both libraries, with the same values."""
    theirs, mine = make(torch.nn), make(nn)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
    return mine, theirs


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


# ---- layers, beside PyTorch
LAYERS = {
    "Linear": (lambda n: n.Linear(4, 3), (5, 4)),
    "Linear without bias": (lambda n: n.Linear(4, 3, bias=False), (2, 5, 4)),
    "Identity": (lambda n: n.Identity(3, a=4), (2, 3)),
    "Flatten": (lambda n: n.Flatten(), (2, 3, 4)),
    "Flatten 0": (lambda n: n.Flatten(0, 1), (2, 3, 4)),
    "Unflatten": (lambda n: n.Unflatten(1, (2, 3)), (2, 6)),
    "Conv1d": (lambda n: n.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "Conv2d": (lambda n: n.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 7, 8)),
    "Conv2d same": (lambda n: n.Conv2d(3, 4, (3, 5), padding="same", bias=False), (2, 3, 6, 6)),
    "Conv2d valid": (lambda n: n.Conv2d(3, 4, 3, padding="valid", dilation=2), (2, 3, 6, 6)),
    "Conv2d depthwise": (lambda n: n.Conv2d(4, 8, 3, padding=1, groups=4), (4, 5, 5)),
    "Conv2d circular": (lambda n: n.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 2, 5, 5)),
    "Conv2d reflect": (lambda n: n.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 2, 5, 5)),
    "Conv2d replicate": (lambda n: n.Conv2d(2, 3, 4, padding="same", padding_mode="replicate"), (2, 2, 5, 5)),
    "ConvTranspose1d": (lambda n: n.ConvTranspose1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5)),
    "ConvTranspose2d": (lambda n: n.ConvTranspose2d(3, 4, (3, 2), (2, 3), 1, (1, 2)), (2, 3, 4, 5)),
    "ConvTranspose2d dilated": (lambda n: n.ConvTranspose2d(4, 2, 2, bias=False, dilation=2), (4, 4, 5)),
    "Upsample": (lambda n: n.Upsample(scale_factor=2), (1, 2, 3, 4)),
    "Upsample linear": (lambda n: n.Upsample(size=5, mode="linear", align_corners=True), (1, 2, 3)),
    "Upsample of each": (lambda n: n.Upsample(scale_factor=(2, 1.5), mode="bilinear"), (1, 2, 3, 4)),
    "UpsamplingNearest2d": (lambda n: n.UpsamplingNearest2d(size=(5, 6)), (1, 2, 3, 4)),
    "UpsamplingBilinear2d": (lambda n: n.UpsamplingBilinear2d(scale_factor=3), (1, 2, 3, 4)),
    "MaxPool1d": (lambda n: n.MaxPool1d(3, stride=2, padding=1, ceil_mode=True), (2, 3, 6)),
    "MaxPool1d indices": (lambda n: n.MaxPool1d(2, return_indices=True), (3, 6)),
    "AvgPool1d": (lambda n: n.AvgPool1d(3, padding=1, count_include_pad=False), (2, 3, 6)),
    "AdaptiveAvgPool1d": (lambda n: n.AdaptiveAvgPool1d(3), (2, 3, 7)),
    "AdaptiveMaxPool1d": (lambda n: n.AdaptiveMaxPool1d(2), (2, 3, 7)),
    "ZeroPad1d": (lambda n: n.ZeroPad1d(2), (2, 3)),
    "ZeroPad2d": (lambda n: n.ZeroPad2d((1, 2, 0, -1)), (2, 3, 4)),
    "ConstantPad1d": (lambda n: n.ConstantPad1d((1, 2), 3.5), (2, 3)),
    "ConstantPad2d": (lambda n: n.ConstantPad2d(1, 3.5), (2, 3, 4)),
    "ReflectionPad1d": (lambda n: n.ReflectionPad1d(2), (2, 5)),
    "ReflectionPad2d": (lambda n: n.ReflectionPad2d((1, 2, 0, 2)), (2, 3, 4)),
    "ReplicationPad1d": (lambda n: n.ReplicationPad1d(2), (2, 5)),
    "ReplicationPad2d": (lambda n: n.ReplicationPad2d(2), (1, 2, 3, 4)),
    "CircularPad1d": (lambda n: n.CircularPad1d(2), (2, 5)),
    "CircularPad2d": (lambda n: n.CircularPad2d((1, 2, 3, 0)), (2, 3, 4)),
    "MaxPool2d": (lambda n: n.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 3, 6, 6)),
    "MaxPool2d indices": (lambda n: n.MaxPool2d(2, return_indices=True), (2, 3, 6, 6)),
    "AvgPool2d": (lambda n: n.AvgPool2d((2, 3), padding=1, count_include_pad=False), (2, 3, 6, 6)),
    "AdaptiveAvgPool2d": (lambda n: n.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 5)),
    "AdaptiveMaxPool2d": (lambda n: n.AdaptiveMaxPool2d(2), (2, 3, 7, 5)),
    "BatchNorm1d": (lambda n: n.BatchNorm1d(4), (6, 4)),
    "BatchNorm1d 3-d": (lambda n: n.BatchNorm1d(4, momentum=None), (6, 4, 3)),
    "BatchNorm2d": (lambda n: n.BatchNorm2d(3, eps=1e-3, momentum=0.3), (4, 3, 5, 5)),
    "BatchNorm2d plain": (lambda n: n.BatchNorm2d(3, affine=False), (4, 3, 5, 5)),
    "BatchNorm2d untracked": (lambda n: n.BatchNorm2d(3, track_running_stats=False), (4, 3, 5, 5)),
    "BatchNorm2d unbiased": (lambda n: n.BatchNorm2d(3, bias=False), (4, 3, 5, 5)),
    "LayerNorm": (lambda n: n.LayerNorm(4), (2, 3, 4)),
    "LayerNorm 2-d": (lambda n: n.LayerNorm((3, 4), bias=False), (2, 3, 4)),
    "LayerNorm plain": (lambda n: n.LayerNorm(4, elementwise_affine=False), (3, 4)),
    "GroupNorm": (lambda n: n.GroupNorm(2, 6), (3, 6, 4)),
    "GroupNorm plain": (lambda n: n.GroupNorm(3, 6, affine=False), (3, 6, 2, 2)),
    "GroupNorm unbiased": (lambda n: n.GroupNorm(3, 6, eps=1e-3, bias=False), (3, 6)),
    "InstanceNorm1d": (lambda n: n.InstanceNorm1d(3), (2, 3, 4)),
    "InstanceNorm1d single": (lambda n: n.InstanceNorm1d(3, affine=True), (3, 4)),
    "InstanceNorm2d": (lambda n: n.InstanceNorm2d(3, affine=True), (2, 3, 4, 4)),
    "InstanceNorm2d tracked": (lambda n: n.InstanceNorm2d(3, affine=True, track_running_stats=True), (2, 3, 4, 4)),
    "RMSNorm": (lambda n: n.RMSNorm(4), (2, 3, 4)),
    "RMSNorm plain": (lambda n: n.RMSNorm((3, 4), eps=1e-3, elementwise_affine=False), (2, 3, 4)),
    "ReLU": (lambda n: n.ReLU(), (3, 4)),
    "ReLU in place": (lambda n: n.Sequential(n.Linear(4, 4), n.ReLU(True)), (3, 4)),
    "ReLU6": (lambda n: n.ReLU6(), (3, 4)),
    "LeakyReLU": (lambda n: n.LeakyReLU(0.2), (3, 4)),
    "ELU": (lambda n: n.ELU(0.7), (3, 4)),
    "Hardtanh": (lambda n: n.Hardtanh(-0.5, 0.7), (3, 4)),
    "GELU": (lambda n: n.GELU(), (3, 4)),
    "GELU tanh": (lambda n: n.GELU("tanh"), (3, 4)),
    "SiLU": (lambda n: n.SiLU(), (3, 4)),
    "SELU": (lambda n: n.SELU(), (3, 4)),
    "CELU": (lambda n: n.CELU(0.7), (3, 4)),
    "Mish": (lambda n: n.Mish(), (3, 4)),
    "Hardswish": (lambda n: n.Hardswish(), (3, 4)),
    "Hardsigmoid": (lambda n: n.Hardsigmoid(), (3, 4)),
    "Hardshrink": (lambda n: n.Hardshrink(0.3), (3, 4)),
    "Softshrink": (lambda n: n.Softshrink(0.3), (3, 4)),
    "Softsign": (lambda n: n.Softsign(), (3, 4)),
    "Tanhshrink": (lambda n: n.Tanhshrink(), (3, 4)),
    "Threshold": (lambda n: n.Threshold(0.1, 2), (3, 4)),
    "Threshold in place": (lambda n: n.Sequential(n.Linear(4, 4), n.Threshold(0.1, 2, True)), (3, 4)),
    "PReLU": (lambda n: n.PReLU(), (3, 4)),
    "PReLU of channels": (lambda n: n.PReLU(4, init=0.1), (2, 4, 3)),
    "RReLU": (lambda n: n.RReLU(0.2, 0.2), (3, 4)),
    "GLU": (lambda n: n.GLU(1), (3, 4)),
    "Softmin": (lambda n: n.Softmin(dim=1), (3, 4)),
    "Softmax2d": (lambda n: n.Softmax2d(), (2, 3, 2, 2)),
    "SELU in place": (lambda n: n.Sequential(n.Linear(4, 4), n.SELU(True)), (3, 4)),
    "Sigmoid": (lambda n: n.Sigmoid(), (3, 4)),
    "Tanh": (lambda n: n.Tanh(), (3, 4)),
    "Softplus": (lambda n: n.Softplus(2.0, 1.0), (3, 4)),
    "LogSigmoid": (lambda n: n.LogSigmoid(), (3, 4)),
    "Softmax": (lambda n: n.Softmax(dim=1), (3, 4)),
    "LogSoftmax": (lambda n: n.LogSoftmax(dim=0), (3, 4)),
    "Dropout of nothing": (lambda n: n.Dropout(0.0), (3, 4)),
    "Dropout2d of nothing": (lambda n: n.Dropout2d(0.0), (3, 4, 2, 2)),
    "ModuleList": (lambda n: n.ModuleList([n.ReLU(), n.ReLU(), n.Linear(1, 2), n.Sequential(n.ReLU())]), None),
    "ModuleDict": (lambda n: n.ModuleDict({"a": n.Linear(1, 2), "b": n.Tanh()}), None),
    "Sequential": (
        lambda n: n.Sequential(OrderedDict(a=n.Linear(4, 3), b=n.Sequential(n.BatchNorm1d(3), n.ReLU()))),
        (5, 4),
    ),
    "Embedding": (lambda n: n.Embedding(7, 3, padding_idx=-1, max_norm=2.5), None),
    "Dropout": (lambda n: n.Dropout(), None),
    "Dropout1d": (lambda n: n.Dropout1d(0.2), None),
    "AlphaDropout": (lambda n: n.AlphaDropout(0.2), None),
    "Dropout2d": (lambda n: n.Dropout2d(0.2, inplace=True), None),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", list(LAYERS))
def test_layer_is_pytorchs(torch, name):
    """repr, state_dict keys and dtypes, output, gradients, buffers after a step; in training and in evaluation."""
    make, shape = LAYERS[name]
    mine, theirs = twins(torch, make)
    assert repr(mine) == repr(theirs)
    assert [(k, tuple(v.shape), v.dtype.name) for k, v in mine.state_dict().items()] == [
        (k, tuple(v.shape), str(v.dtype)[6:]) for k, v in theirs.state_dict().items()
    ]
    assert mine.state_dict()._metadata == theirs.state_dict()._metadata
    if shape is None:
        return
    rng = np.random.default_rng(0)
    for training in (True, True, False):
        mine.train(training)
        theirs.train(training)
        values = rng.standard_normal(shape).astype(np.float32)
        x, z = tl.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
        y, w = mine(x), theirs(z)
        if isinstance(y, tuple):
            np.testing.assert_array_equal(y[1].numpy(), w[1].numpy())
            y, w = y[0], w[0]
        (y * y).sum().backward()
        (w * w).sum().backward()
        np.testing.assert_allclose(y.detach().numpy(), w.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-3, atol=1e-4)
        for p, q in zip(mine.parameters(), theirs.parameters()):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-4)
        for p, q in zip(mine.buffers(), theirs.buffers()):
            np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-5)


LOSSES = {
    "MSELoss": [{}, {"reduction": "sum"}],
    "L1Loss": [{}, {"size_average": False}],
    "SmoothL1Loss": [{"beta": 0.5}],
    "HuberLoss": [{"delta": 0.5, "reduction": "none"}],
    "KLDivLoss": [{"reduction": "batchmean"}],
    "BCELoss": [{}, {"weight": True}],
    "BCEWithLogitsLoss": [{}, {"pos_weight": True}, {"reduce": False}],
    "HingeEmbeddingLoss": [{}, {"margin": 0.4}],
    "SoftMarginLoss": [{}, {"reduction": "sum"}],
    "PoissonNLLLoss": [{}, {"full": True}, {"log_input": False}],
    "GaussianNLLLoss": [{}, {"full": True, "reduction": "sum"}],
    "CosineEmbeddingLoss": [{"margin": 0.2}],
    "MarginRankingLoss": [{"margin": 0.2}],
    "TripletMarginLoss": [{}, {"swap": True, "p": 1.0, "reduction": "none"}],
    "CosineSimilarity": [{}, {"dim": 0}],
    "PairwiseDistance": [{}, {"p": 3.0, "keepdim": True}],
    "NLLLoss": [{}, {"weight": True, "ignore_index": 1}],
    "CrossEntropyLoss": [{}, {"weight": True}, {"label_smoothing": 0.2}, {"reduction": "sum", "ignore_index": 2}],
}


@pytest.mark.parity
@pytest.mark.parametrize("name,settings", [(n, s) for n, many in LOSSES.items() for s in many])
def test_loss_is_pytorchs(torch, name, settings):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0.1, 0.9, (5, 4)), rng.uniform(0.1, 0.9, (5, 4))
    if name in ("NLLLoss", "CrossEntropyLoss"):
        y = rng.integers(0, 4, 5)
    signs = np.where(rng.random((5, 4)) < 0.5, 1.0, -1.0)
    if name in ("HingeEmbeddingLoss", "SoftMarginLoss"):
        y = signs
    results = []
    for lib in (tl, torch):
        given = {k: lib.tensor(np.arange(1.0, 5.0)) if "weight" in k else v for k, v in settings.items()}
        with (
            pytest.warns(UserWarning)
            if lib is torch and {"reduce", "size_average"} & set(given)
            else contextlib.nullcontext()
        ):
            loss = getattr(lib.nn, name)(**given)
        a = lib.tensor(x, requires_grad=True)
        third = {"GaussianNLLLoss": y + 0.1, "TripletMarginLoss": y[::-1].copy(), "MarginRankingLoss": signs}
        third["CosineEmbeddingLoss"] = signs[:, 0].copy()
        out = loss(a, lib.tensor(y), *([lib.tensor(third[name])] if name in third else []))
        out.sum().backward()
        results.append((out.detach().numpy(), a.grad.numpy(), repr(loss), list(loss.state_dict())))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-9)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)
    assert results[0][2:] == results[1][2:]


def test_embedding_layer():
    table = nn.Embedding(6, 3, padding_idx=2)
    assert not table.weight[2].any()
    y = table(tl.tensor([[1, 2], [5, 1]]))
    assert y.shape == (2, 2, 3)
    y.sum().backward()
    assert table.weight.grad.sum(1).tolist() == [0, 6, 0, 0, 0, 3]
    frozen = nn.Embedding.from_pretrained(tl.ones(4, 2))
    assert not frozen.weight.requires_grad and frozen(tl.tensor(3)).tolist() == [1, 1]


def test_dropout_layers():
    tl.manual_seed(1)
    x = tl.ones(200, 50)
    for p in (0.0, 0.3, 1.0):
        layer = nn.Dropout(p)
        y = layer(x).numpy()
        assert abs((y == 0).mean() - p) < 0.02 and (p == 1 or set(np.unique(y)) <= {0.0, np.float32(1 / (1 - p))})
        assert np.array_equal(layer.eval()(x).numpy(), x.numpy())
    y = nn.Dropout2d(0.5)(tl.ones(40, 30, 2, 2)).numpy()
    assert np.array_equal(y.min((2, 3)), y.max((2, 3))) and 0.4 < (y == 0).mean() < 0.6
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


def test_layers_refuse_what_pytorchs_refuse():
    for call, error, text in (
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be divisible by groups"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be divisible by groups"),
        (lambda: nn.Conv2d(4, 4, 3, groups=0), ValueError, "groups must be a positive integer"),
        (lambda: nn.Conv2d(1, 1, 3, padding="some"), ValueError, "Invalid padding string"),
        (lambda: nn.Conv2d(1, 1, 3, padding="same", stride=2), ValueError, "strided"),
        (lambda: nn.Conv2d(1, 1, 3, padding_mode="mirror"), ValueError, "padding_mode must be one of"),
        (lambda: nn.BatchNorm1d(3)(tl.ones(2, 3, 4, 5)), ValueError, "expected 2D or 3D input"),
        (lambda: nn.BatchNorm2d(3)(tl.ones(2, 3)), ValueError, "expected 4D input"),
        (lambda: nn.Linear(3, 2)(tl.ones(2, 4)), RuntimeError, "linear: x .*wanted"),
        (
            lambda: nn.Conv2d(1, 1, 3, padding=9, padding_mode="reflect")(tl.ones(1, 1, 4, 4)),
            RuntimeError,
            "pad: reflect",
        ),
    ):
        with pytest.raises(error, match=text):
            call()


def test_dropout_of_channels_and_selus():
    tl.manual_seed(0)
    for shape in ((50, 4, 6), (200, 6)):
        y = nn.Dropout1d(0.25)(tl.ones(shape)).numpy()
        assert (y == y[..., :1]).all() and set(np.unique(y).tolist()) == {0.0, np.float32(4 / 3)}
        assert 0.15 < (y == 0).mean() < 0.35
    with pytest.raises(RuntimeError, match="2D or 3D"):
        nn.Dropout1d()(tl.ones(4))
    x = tl.randn(20000).double()
    y = nn.AlphaDropout(0.3)(x).numpy()
    assert abs(y.mean()) < 0.03 and abs(y.std() - 1) < 0.03
    values, counts = np.unique(y, return_counts=True)
    scale = (0.7 * (1 + 0.3 * 1.7580993408473766**2)) ** -0.5
    assert values[counts.argmax()] == pytest.approx(-1.7580993408473766 * 0.7 * scale)
    assert 0.28 < counts.max() / y.size < 0.32
    layer = nn.AlphaDropout(0.3, inplace=True)
    z = x.clone()
    assert layer(z) is z and not np.array_equal(z.numpy(), x.numpy())
    assert layer.eval()(x) is x


def test_output_size_of_a_transposed_convolution():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = tl.ones(1, 2, 5, 5)
    assert layer(x).shape == (1, 3, 9, 9) and layer(x, output_size=(10, 9)).shape == (1, 3, 10, 9)
    assert layer(x, output_size=(1, 3, 9, 10)).shape == (1, 3, 9, 10)
    with pytest.raises(ValueError, match="valid sizes range from"):
        layer(x, output_size=(11, 9))
    with pytest.raises(ValueError, match="zeros"):
        nn.ConvTranspose1d(2, 3, 3, padding_mode="reflect")


def test_slopes_of_rrelu_are_drawn_in_training():
    layer, x = nn.RReLU(0.1, 0.3), -tl.ones(1000)
    tl.manual_seed(0)
    slopes = -layer(x).numpy()
    assert 0.1 <= slopes.min() < 0.12 and 0.28 < slopes.max() <= 0.3
    np.testing.assert_allclose(layer.eval()(x).numpy(), -0.2, rtol=1e-6)


@pytest.mark.parametrize(
    "name,arguments", [("elu", (0.5,)), ("selu", ()), ("celu", (0.5,)), ("threshold", (0.2, 1.5)), ("rrelu", ())]
)
def test_activations_in_place(name, arguments):
    x = tl.tensor([-1.0, 0.1, 2.0])
    want = getattr(F, name)(x, *arguments)
    for call in (getattr(F, name + "_"), lambda t, *a: getattr(F, name)(t, *a, inplace=True)):
        y = x.clone()
        assert call(y, *arguments) is y
        np.testing.assert_array_equal(y.numpy(), want.numpy())
    assert not np.array_equal(x.numpy(), want.numpy())


def test_instance_statistics_move_towards_the_samples_mean():
    layer = nn.InstanceNorm1d(2, momentum=0.5, track_running_stats=True).double()
    x = tl.rand(3, 2, 5, dtype=tl.float64)
    layer(x)
    np.testing.assert_allclose(layer.running_mean.numpy(), x.numpy().mean((0, 2)) / 2)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.5 + x.numpy().var(2, ddof=1).mean(0) / 2)
    with pytest.warns(UserWarning, match="does not match num_features"):
        nn.InstanceNorm1d(3)(x.float())
    with pytest.raises(ValueError, match="num_features"):
        nn.InstanceNorm1d(3, affine=True)(x.float())


def test_implicit_dim_of_softmax_warns():
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        assert F.softmax(tl.zeros(2, 4)).sum().item() == 2


# ---- init
def test_first_values_have_the_right_spread():
    tl.manual_seed(0)
    w = tl.empty(200, 100)
    for fill, low, high, std in (
        (lambda: nn.init.uniform_(w, -1, 3), -1, 3, 4 / math.sqrt(12)),
        (lambda: nn.init.normal_(w, 0, 2), -math.inf, math.inf, 2),
        (lambda: nn.init.trunc_normal_(w, std=1, a=-1, b=1.5), -1, 1.5, 0.641),
        (
            lambda: nn.init.xavier_uniform_(w, gain=2),
            -2 * math.sqrt(6 / 300),
            2 * math.sqrt(6 / 300),
            2 * math.sqrt(2 / 300),
        ),
        (lambda: nn.init.xavier_normal_(w), -math.inf, math.inf, math.sqrt(2 / 300)),
        (
            lambda: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
            -math.sqrt(6 / 100),
            math.sqrt(6 / 100),
            math.sqrt(2 / 100),
        ),
        (
            lambda: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            -math.inf,
            math.inf,
            math.sqrt(2 / 200),
        ),
    ):
        assert fill() is w
        v = w.numpy()
        assert v.min() >= low and v.max() <= high and abs(v.std() / std - 1) < 0.02
    for shape in ((20, 30), (30, 20), (8, 2, 3, 3)):
        q = nn.init.orthogonal_(tl.empty(*shape), gain=2).numpy().reshape(shape[0], -1)
        gram = q @ q.T if q.shape[0] < q.shape[1] else q.T @ q
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)
    assert nn.init.eye_(tl.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert nn.init.constant_(tl.empty(2), 3).tolist() == [3, 3] and nn.init.zeros_(nn.Parameter(tl.ones(1))).item() == 0
    same = nn.init.dirac_(tl.empty(2, 2, 3, 3))
    x = tl.randn(1, 2, 4, 4)
    np.testing.assert_allclose(F.conv2d(x, same, padding=1).numpy(), x.numpy())


def test_first_values_of_layers_are_pytorchs_distribution():
    w = nn.Linear(400, 300).weight.detach().numpy()
    assert abs(w).max() <= 1 / 20 and abs(w.std() - 1 / 20 / math.sqrt(3)) < 1e-3
    conv = nn.Conv2d(8, 64, 5)
    for p in (conv.weight, conv.bias):
        assert p.abs().max().item() <= 1 / math.sqrt(200)
    first, second = (tl.manual_seed(4) and nn.Linear(3, 3) for _ in range(2))
    assert np.array_equal(first.weight.detach().numpy(), second.weight.detach().numpy())


def test_init_leaves_no_history_and_refuses():
    w = nn.Parameter(tl.empty(3, 3))
    for fill in (nn.init.normal_, nn.init.orthogonal_, nn.init.ones_, nn.init.trunc_normal_, nn.init.eye_):
        fill(w)
        assert w.is_leaf and w.requires_grad
    for call, error, text in (
        (lambda: nn.init.kaiming_normal_(tl.empty(3)), ValueError, "fewer than 2 dimensions"),
        (lambda: nn.init.kaiming_normal_(w, mode="in"), ValueError, "Mode in not supported"),
        (lambda: nn.init.calculate_gain("sine"), ValueError, "Unsupported nonlinearity sine"),
        (lambda: nn.init.eye_(tl.empty(3)), ValueError, "2 dimensions"),
        (lambda: nn.init.orthogonal_(tl.empty(3)), ValueError, "2 or more"),
        (lambda: nn.init.trunc_normal_(w, a=50, b=60), ValueError, "wanted 0.01 or more"),
    ):
        with pytest.raises(error, match=text):
            call()
    assert nn.init.calculate_gain("leaky_relu", 0.2) == math.sqrt(2 / 1.04)


# ---- utils
@pytest.mark.parity
@pytest.mark.parametrize("norm", [2.0, 1.0, math.inf, 3.0, 0.5, 0.0, -math.inf])
def test_clipping_is_pytorchs(torch, norm):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(s) for s in ((3, 4), (5,), ())]
    results = []
    for lib in (tl, torch):
        ps = [lib.nn.Parameter(lib.zeros(tuple(g.shape), dtype=lib.float64)) for g in grads] + [
            lib.nn.Parameter(lib.zeros(2))
        ]
        for p, g in zip(ps, grads):
            p.grad = lib.tensor(g)
        total = lib.nn.utils.clip_grad_norm_(ps, 0.7, norm)
        clipped = [p.grad.numpy().copy() for p in ps[:3]]
        lib.nn.utils.clip_grads_with_norm_(ps, 0.3, total)
        clipped += [p.grad.numpy().copy() for p in ps[:3]]
        lib.nn.utils.clip_grad_value_(ps, 0.1)
        results.append([total.numpy(), *clipped, *(p.grad.numpy() for p in ps[:3])])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_clipping_and_vectors():
    p = nn.Parameter(tl.zeros(2))
    assert nn.utils.clip_grad_norm_([p], 1.0).item() == 0
    p.grad = tl.tensor([math.inf, 1.0])
    with pytest.raises(RuntimeError, match="is non-finite"):
        nn.utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    p.grad = tl.tensor([0.3, 0.4])
    assert nn.utils.clip_grad_norm_(p, 5.0).item() == pytest.approx(0.5) and p.grad.tolist() == pytest.approx(
        [0.3, 0.4]
    )
    with pytest.warns(UserWarning, match="empty generator"):
        assert nn.utils.clip_grad_norm_(iter([]), 1.0).item() == 0
    half = nn.Parameter(tl.zeros(4096).half())
    half.grad = tl.full((4096,), 100.0).half()
    nn.utils.clip_grad_norm_(half, 64.0, error_if_nonfinite=True)  # the sum of squares is beyond float16
    np.testing.assert_allclose(half.grad.float().numpy(), 1.0, rtol=1e-3)
    net = nn.Linear(2, 3)
    v = nn.utils.parameters_to_vector(net.parameters())
    assert v.shape == (9,)
    nn.utils.vector_to_parameters(tl.arange(9.0), net.parameters())
    assert net.weight.tolist() == [[0, 1], [2, 3], [4, 5]] and net.bias.tolist() == [6, 7, 8] and net.weight.is_leaf


def test_a_net_learns():
    tl.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    x = tl.randn(200, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    opt = tl.optim.Adam(net.parameters(), lr=0.05)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(80):
        opt.zero_grad()
        loss = loss_of(net(x), y)
        loss.backward()
        opt.step()
    assert (net(x).argmax(1) == y).float().mean().item() > 0.95


@pytest.mark.parity
def test_a_net_learns_as_pytorchs_does(torch):
    """Layers, an optimizer, a schedule and clipping together, from the same first values."""

    def build(n):
        return n.Sequential(
            *(n.ZeroPad2d(1), n.Conv2d(1, 8, 3), n.GroupNorm(2, 8), n.Mish(), n.MaxPool2d(2)),
            *(n.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), n.InstanceNorm2d(8, affine=True), n.PReLU(8)),
            *(n.Upsample(scale_factor=2), n.AdaptiveAvgPool2d(2), n.Flatten(), n.RMSNorm(32)),
            *(n.Linear(32, 16), n.Hardswish(), n.Linear(16, 4)),
        ).double()

    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((32, 1, 8, 8)), rng.integers(0, 4, 32)
    nets, losses = twins(torch, build), []
    for lib, net in zip((tl, torch), nets):
        optimizer = lib.optim.RMSprop(net.parameters(), lr=3e-3, momentum=0.5)
        schedule = lib.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)
        x, y = lib.tensor(images), lib.tensor(labels)
        for _ in range(20):
            optimizer.zero_grad()
            loss = lib.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            lib.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    assert losses[19] < losses[0] / 2
    np.testing.assert_allclose(losses[:20], losses[20:], rtol=1e-8)
