"""Convolutions and pooling beyond the ops' own cases: random geometries, both layouts, blocks, edges, PyTorch."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.ops import conv
from tensorlite.ops.conv import conv1d, conv2d, conv2d_dw_p, conv2d_dx_p, conv2d_p, conv_transpose2d
from tensorlite.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d

rng = np.random.default_rng(0)


def _t(*shape, grad=False):
    return tl.tensor(rng.standard_normal(shape), requires_grad=grad)


def _geometries(n=40):
    """Random convolutions that fit: (input, weight) shapes and keyword arguments."""
    draw = np.random.default_rng(5)
    while n:
        groups, stride, dilation = (int(v) for v in draw.integers(1, 4, 3))
        channels, features = int(draw.integers(1, 8)) * groups, int(draw.integers(1, 4)) * groups
        size, kernel = draw.integers(3, 9, 2).tolist(), draw.integers(1, 4, 2).tolist()
        padding = draw.integers(0, 3, 2).tolist()
        if all(s + 2 * p >= dilation * (k - 1) + 1 for s, k, p in zip(size, kernel, padding)):
            n -= 1
            yield (
                (2, channels, *size),
                (features, channels // groups, *kernel),
                dict(stride=stride, padding=tuple(padding), dilation=dilation, groups=groups),
            )


@pytest.mark.parametrize("few", [0, 10**9])
@pytest.mark.parametrize("block", [conv.BLOCK, 64])
def test_layouts_and_blocks_agree(monkeypatch, few, block):
    """Either layout, in blocks of any size, gives what the reference gives; and so do the gradients."""
    for (x, w, how), _ in zip(_geometries(), range(15)):
        x, w = _t(*x, grad=True), _t(*w, grad=True)
        b = _t(w.shape[0])
        monkeypatch.setattr(conv, "FEW_CHANNELS", conv.FEW_CHANNELS)
        monkeypatch.setattr(conv, "BLOCK", conv.BLOCK)
        y = conv2d(x, w, b, **how)
        g = _t(*y.shape)
        dx, dw = tl.autograd.grad(y, (x, w), g)
        monkeypatch.setattr(conv, "FEW_CHANNELS", few)
        monkeypatch.setattr(conv, "BLOCK", block)
        again = conv2d(x, w, b, **how)
        np.testing.assert_allclose(again.detach().numpy(), y.detach().numpy(), rtol=1e-12, atol=1e-12)
        for a, e in zip(tl.autograd.grad(again, (x, w), g), (dx, dw)):
            np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=1e-12, atol=1e-12)
        monkeypatch.undo()


def test_adjoint():
    """<y, conv(x, w)> = <x, conv_dx(y, w)> = <w, conv_dw(x, y)>, for any geometry."""
    for x, w, how in _geometries():
        x, w = _t(*x), _t(*w)
        pads = tuple(v for p in how["padding"] for v in (p, p))
        how = dict(stride=(how["stride"],) * 2, padding=pads, dilation=(how["dilation"],) * 2, groups=how["groups"])
        y = conv2d_p(x, w, **how)
        g = _t(*y.shape)
        one = float((y * g).sum())
        assert float((conv2d_dx_p(g, w, size=tuple(x.shape[2:]), **how) * x).sum()) == pytest.approx(one, abs=1e-9)
        assert float((conv2d_dw_p(x, g, kernel=tuple(w.shape[2:]), **how) * w).sum()) == pytest.approx(one, abs=1e-9)


def test_conv_of_strided_and_expanded():
    x, w = _t(5, 6, 3, 2).permute(3, 2, 1, 0), _t(4, 3, 3, 3)
    np.testing.assert_allclose(conv2d(x, w).numpy(), conv2d(x.contiguous(), w).numpy())
    row = _t(1, 3, 1, 5)
    y = conv2d(row.expand(2, 3, 5, 5), w)
    np.testing.assert_allclose(y.numpy(), conv2d(row.expand(2, 3, 5, 5).clone(), w).numpy())
    w.requires_grad_()
    conv2d(x, w).sum().backward()  # the gradient that arrives is an expanded number
    first = w.grad.numpy().copy()
    w.grad = None
    y = conv2d(x, w)
    y.backward(tl.ones(*y.shape, dtype=tl.float64))
    np.testing.assert_allclose(w.grad.numpy(), first)


def test_conv_without_channels_or_images():
    assert conv2d(tl.zeros(0, 2, 4, 4), tl.zeros(3, 2, 3, 3)).shape == (0, 3, 2, 2)
    w = tl.ones(3, 2, 3, 3, requires_grad=True)
    conv2d(tl.zeros(0, 2, 4, 4), w).sum().backward()
    assert float(w.grad.abs().sum()) == 0
    x = tl.zeros(2, 8, 4, 4, requires_grad=True)
    conv2d(x[:0], tl.ones(3, 8, 3, 3)).sum().backward()
    assert x.grad.shape == x.shape


def test_same_padding_is_odd_behind():
    """An even kernel needs one more pixel behind than before."""
    x = tl.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    assert conv1d(x, tl.tensor([[[1.0, 0.0]]]), padding="same").tolist() == [[[1, 2, 3, 4]]]
    assert conv1d(x, tl.tensor([[[0.0, 1.0]]]), padding="same").tolist() == [[[2, 3, 4, 0]]]


def test_messages_say_what_was_given():
    with pytest.raises(tl.errors.ShapeError, match=r"conv2d: input \(1, 2, 5, 5\).*expected input to have 3 channels"):
        conv2d(tl.zeros(1, 2, 5, 5), tl.zeros(4, 3, 3, 3))
    with pytest.raises(tl.errors.ShapeError, match=r"conv2d: padded input \(2, 5\) for kernel \(3, 3\)"):
        conv2d(tl.zeros(1, 3, 2, 5), tl.zeros(4, 3, 3, 3))
    with pytest.raises(tl.errors.ShapeError, match=r"max_pool2d: .*output size is too small"):
        max_pool2d(tl.zeros(1, 1, 5), 2)


# ---- pooling
def test_first_of_equals_wins():
    _, at = max_pool2d(tl.zeros(1, 4, 4), 2, return_indices=True)
    assert at.tolist() == [[[0, 2], [8, 10]]]
    x = tl.zeros(1, 2, 2, requires_grad=True)
    max_pool2d(x, 2).sum().backward()
    assert x.grad.tolist() == [[[1, 0], [0, 0]]]


def test_infinite_images_keep_their_indices_inside():
    y, at = max_pool2d(tl.full((1, 2, 2), -float("inf")), 3, 1, 1, return_indices=True)
    assert at.tolist() == [[[0, 0], [0, 0]]] and bool((y == -float("inf")).all())


def test_nan_wins():
    nan = float("nan")
    x = tl.tensor([[[1.0, nan, 3.0, nan]], [[1.0, 5.0, 2.0, 0.0]]], requires_grad=True)
    y, at = max_pool2d(x, (1, 4), return_indices=True)
    assert np.isnan(y.detach().numpy()[0, 0, 0]) and float(y.detach()[1, 0, 0]) == 5
    assert at.tolist() == [[[3]], [[1]]]
    y.sum().backward()
    assert x.grad.tolist() == [[[0, 0, 0, 1]], [[0, 1, 0, 0]]]


def test_more_places_than_a_byte_counts():
    x = tl.tensor(rng.permutation(20 * 20).reshape(1, 20, 20).astype(float), requires_grad=True)
    y, at = max_pool2d(x, 18, stride=1, return_indices=True)
    flat = x.detach().numpy().ravel()
    assert (flat[at.numpy()] == y.detach().numpy()).all()
    y.sum().backward()
    assert float(x.grad.sum()) == 9


def test_global_average():
    x = _t(2, 3, 4, 5)
    np.testing.assert_allclose(adaptive_avg_pool2d(x, 1).numpy()[..., 0, 0], x.numpy().mean((2, 3)))
    np.testing.assert_allclose(adaptive_avg_pool2d(x, (4, 5)).numpy(), x.numpy())


# ---- beside PyTorch
@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def _compare(torch, ours, theirs, arrays, second=True):
    """Values, gradients and second-order gradients of two functions of the same arrays."""
    a = [tl.tensor(v, requires_grad=v.dtype.kind == "f") for v in arrays]
    b = [torch.tensor(v, requires_grad=v.dtype.kind == "f") for v in arrays]
    y, z = ours(*a), theirs(*b)
    y, z = (y[0], z[0]) if isinstance(y, tuple) else (y, z)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-11)
    start = np.random.default_rng(1).standard_normal(y.shape)
    xs, us = [t for t in a if t.requires_grad], [t for t in b if t.requires_grad]
    g = tl.autograd.grad(y, xs, tl.tensor(start), create_graph=True)
    h = torch.autograd.grad(z, us, torch.tensor(start), create_graph=True)
    for p, q in zip(g, h):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-8, atol=1e-10)
    if second and len(xs) > 1:
        g = tl.autograd.grad(sum((p * p).sum() for p in g), xs, allow_unused=True)
        h = torch.autograd.grad(sum((q * q).sum() for q in h), us, allow_unused=True)
        for p, q in zip(g, h):
            assert (p is None) == (q is None)
            if p is not None:
                np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-7, atol=1e-8)


@pytest.mark.parity
def test_conv2d_beside_pytorch(torch):
    for x, w, how in _geometries(30):
        arrays = [rng.standard_normal(s) for s in (x, w, w[:1])]
        _compare(
            torch,
            lambda *a, how=how: conv2d(*a, **how),
            lambda *a, how=how: torch.nn.functional.conv2d(*a, **how),
            arrays,
        )


@pytest.mark.parity
def test_conv_transpose2d_beside_pytorch(torch):
    for stride, padding, extra, dilation, groups in itertools.product((1, 2), (0, 1), (0, 1), (1, 2), (1, 2)):
        if extra >= max(stride, dilation):
            continue
        how = dict(stride=stride, padding=padding, output_padding=extra, dilation=dilation, groups=groups)
        arrays = [rng.standard_normal(s) for s in ((2, 4, 3, 4), (4, 3, 3, 2), (3 * groups,))]
        _compare(
            torch,
            lambda *a, how=how: conv_transpose2d(*a, **how),
            lambda *a, how=how: torch.nn.functional.conv_transpose2d(*a, **how),
            arrays,
        )


@pytest.mark.parity
def test_pools_beside_pytorch(torch):
    f = torch.nn.functional
    for size, kernel, stride, padding, ceil in itertools.product(
        ((6, 5), (7, 8)), (2, 3), (None, 1, 2), (0, 1), (False, True)
    ):
        x = rng.permutation(2 * size[0] * size[1]).reshape(2, *size) / 7.0
        for dilation in (1, 2):
            how = dict(stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil, return_indices=True)
            _compare(
                torch,
                lambda a, k=kernel, how=how: max_pool2d(a, k, **how),
                lambda a, k=kernel, how=how: f.max_pool2d(a, k, **how),
                [x],
            )
            _, at = max_pool2d(tl.tensor(x), kernel, **how)
            assert (at.numpy() == f.max_pool2d(torch.tensor(x), kernel, **how)[1].numpy()).all()
        for include, divisor in ((True, None), (False, None), (True, 3)):
            how = dict(
                stride=stride, padding=padding, ceil_mode=ceil, count_include_pad=include, divisor_override=divisor
            )
            _compare(
                torch,
                lambda a, k=kernel, how=how: avg_pool2d(a, k, **how),
                lambda a, k=kernel, how=how: f.avg_pool2d(a, k, **how),
                [x],
            )
        for out in itertools.product((1, 3, 4), (2, 5, 9)):
            _compare(
                torch, lambda a, o=out: adaptive_avg_pool2d(a, o), lambda a, o=out: f.adaptive_avg_pool2d(a, o), [x]
            )
            _compare(
                torch,
                lambda a, o=out: adaptive_max_pool2d(a, o, return_indices=True),
                lambda a, o=out: f.adaptive_max_pool2d(a, o, return_indices=True),
                [x],
            )


def test_adaptive_max_of_no_images_has_a_gradient():
    x = tl.rand(0, 3, 5, 4, requires_grad=True)
    y, where = adaptive_max_pool2d(x, 2, return_indices=True)
    assert tuple(y.shape) == tuple(where.shape) == (0, 3, 2, 2)
    y.sum().backward()
    assert tuple(x.grad.shape) == (0, 3, 5, 4)
