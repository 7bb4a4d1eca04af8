"""Normalisation, losses and smooth activations beyond the ops' own cases: effects, edges, PyTorch."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.ops.cross_entropy import cross_entropy, nll_loss
from tensorlite.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    kl_div,
    l1_loss,
    mse_loss,
)
from tensorlite.ops.norm import batch_norm, layer_norm
from tensorlite.ops.smooth import elu, erf, gelu, hardtanh, leaky_relu, relu6, silu, softplus

rng = np.random.default_rng(0)


def _t(*shape, grad=False, dtype=None):
    return tl.tensor(rng.standard_normal(shape), requires_grad=grad, dtype=dtype)


# ---- batch norm
def test_running_statistics_move():
    x = _t(6, 3, 4)
    mean, var = tl.zeros(3, dtype=tl.float64), tl.ones(3, dtype=tl.float64)
    versions = mean._version, var._version
    batch_norm(x, mean, var, training=True, momentum=0.25)
    a = x.numpy()
    np.testing.assert_allclose(mean.numpy(), 0.25 * a.mean((0, 2)))
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * a.var((0, 2), ddof=1))
    assert (mean._version, var._version) == (versions[0] + 1, versions[1] + 1)
    before = mean.numpy().copy(), var.numpy().copy()
    batch_norm(x, mean, var)  # evaluation leaves them
    batch_norm(x[:0], mean, var, training=True)  # and so does an empty batch
    assert (mean.numpy() == before[0]).all() and (var.numpy() == before[1]).all()


def test_backward_after_the_statistics_moved_again():
    """The gradient does not look at the running statistics, so a later step does not make it stale."""
    x, w, mean, var = _t(4, 2, grad=True), _t(2, grad=True), tl.zeros(2, dtype=tl.float64), tl.ones(2, dtype=tl.float64)
    first = batch_norm(x, mean, var, w, training=True)
    batch_norm(x, mean, var, w, training=True)
    first.pow(2).sum().backward()
    assert x.grad is not None and w.grad is not None


def test_evaluation_is_the_training_formula():
    x, w, b = _t(5, 3), _t(3), _t(3)
    mean, var = x.mean(0), x.var(0, unbiased=False)
    np.testing.assert_allclose(
        batch_norm(x, mean, var, w, b).numpy(), batch_norm(x, None, None, w, b, training=True).numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("d", [tl.float16, tl.bfloat16], ids=["float16", "bfloat16"])
def test_half_norms_keep_their_types(d):
    x = _t(8, 4, dtype=d, grad=True)
    w, b = tl.ones(4, requires_grad=True), tl.zeros(4, requires_grad=True)
    mean, var = tl.zeros(4), tl.ones(4)
    for y in (batch_norm(x, mean, var, w, b, training=True), batch_norm(x, mean, var, w, b), layer_norm(x, (4,), w, b)):
        assert y.dtype is d
        y.sum().backward()
        assert x.grad.dtype is d and w.grad.dtype is tl.float32
    assert mean.dtype is tl.float32 and float(mean.abs().sum()) > 0


def test_large_mean_keeps_its_variance():
    """Variances are of distances from the mean: no cancellation, in float32 too."""
    x = tl.tensor(rng.standard_normal((64, 2)) + 1000.0, dtype=tl.float32)
    expected = (x.numpy() - x.numpy().mean(0, dtype=np.float64)) / x.numpy().astype(np.float64).std(0)
    np.testing.assert_allclose(batch_norm(x, None, None, training=True).numpy(), expected, atol=2e-3)


def test_norm_messages():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        batch_norm(tl.zeros(1, 3), None, None, training=True)
    with pytest.raises(RuntimeError, match=r"running_mean \(2,\).*should contain 3 elements"):
        batch_norm(tl.zeros(2, 3), tl.zeros(2), tl.zeros(2), training=True)
    with pytest.raises(TypeError, match="normalized_shape"):
        layer_norm(tl.zeros(2, 3), 3)


# ---- losses
def test_target_that_is_no_class():
    for loss in (cross_entropy, nll_loss):
        with pytest.raises(IndexError, match=rf"{loss.__name__}: target 7; wanted 0 to 3 for 4 classes.*index -100"):
            loss(tl.zeros(3, 4), tl.tensor([0, 7, 1]))
        with pytest.raises(IndexError, match="target -1"):
            loss(tl.zeros(3, 4), tl.tensor([0, -1, 1]))
    assert math.isfinite(cross_entropy(tl.zeros(3, 4), tl.tensor([0, 7, 1]), ignore_index=7).item())


def test_means_of_nothing_are_nan():
    assert math.isnan(cross_entropy(tl.zeros(0, 4), tl.zeros(0, dtype=tl.int64)).item())
    x = tl.zeros(2, 4, requires_grad=True)
    y = cross_entropy(x, tl.tensor([1, 1]), ignore_index=1)
    y.backward()
    assert math.isnan(y.item()) and not x.grad.numpy().any()
    assert math.isnan(nll_loss(tl.zeros(2, 4), tl.tensor([1, 1]), ignore_index=1).item())
    assert math.isnan(mse_loss(tl.zeros(0), tl.zeros(0)).item())


def test_cross_entropy_is_its_parts():
    x, t = _t(6, 5, grad=True), tl.tensor(rng.integers(0, 5, 6))
    whole, parts = cross_entropy(x, t), nll_loss(x.log_softmax(1), t)
    np.testing.assert_allclose(whole.item(), parts.item())
    a, b = (tl.autograd.grad(y, x)[0].numpy() for y in (whole, parts))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_cross_entropy_of_large_scores():
    x = tl.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    y = cross_entropy(x, tl.tensor([2]))
    y.backward()
    assert y.item() == 2e4 and x.grad.tolist() == [[1, 0, -1]]


def test_broadcasting_losses_warn():
    with pytest.warns(UserWarning, match="different to the input size"):
        assert mse_loss(tl.zeros(3, 2), tl.ones(2)).item() == 1
    with pytest.warns(UserWarning, match="deprecated"):
        assert l1_loss(tl.zeros(3), tl.ones(3), size_average=False).item() == 3


def test_binary_losses_at_the_ends():
    x = tl.tensor([0.0, 1.0], requires_grad=True)
    y = binary_cross_entropy(x, tl.tensor([1.0, 0.0]), reduction="none")
    assert y.tolist() == [100, 100]
    assert binary_cross_entropy(x, tl.tensor([0.0, 1.0])).item() == 0
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert binary_cross_entropy_with_logits(tl.tensor([1e4]), tl.tensor([0.0])).item() == 1e4


def test_kl_of_zero_probability():
    assert kl_div(tl.zeros(2), tl.tensor([0.0, 1.0]), reduction="sum").item() == 0


# ---- smooth activations
def test_erf_to_the_last_digits():
    x = np.concatenate([np.linspace(-7, 7, 20000), 10.0 ** np.arange(-300, 2), [0.46875, 4.0, 6.0]])
    exact = np.vectorize(math.erf)(x)
    got = erf(tl.tensor(x)).numpy()
    assert np.abs(got - exact).max() <= 5e-16
    assert np.abs(got / exact - 1).max() <= 1e-15
    assert erf(tl.tensor([math.inf, -math.inf, -0.0])).tolist() == [1, -1, 0]
    assert math.isnan(erf(tl.tensor([math.nan])).item())


@pytest.mark.parametrize("f", [gelu, silu, softplus, leaky_relu, elu, hardtanh, relu6])
def test_far_out_values_and_gradients_are_finite(f):
    x = tl.tensor([-1e4, -90.0, 90.0, 1e4], requires_grad=True)
    (g,) = tl.autograd.grad(f(x).sum(), x, create_graph=True)
    (h,) = tl.autograd.grad(g.sum(), x, allow_unused=True) if g.requires_grad else (None,)
    for v in (f(x), g, h):
        assert v is None or np.isfinite(v.detach().numpy()).all()


@pytest.mark.parametrize("f", [silu, leaky_relu, elu, hardtanh, relu6])
def test_inplace(f):
    x = _t(5)
    expected = f(x.clone()).numpy()
    y = f(x, inplace=True)
    assert y is x and (x.numpy() == expected).all()
    z = _t(5, grad=True)
    f(z * 1.0, inplace=True).sum().backward()
    again = z.detach().requires_grad_()
    f(again).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), again.grad.numpy())


# ---- beside PyTorch
@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parity
def test_a_step_of_batch_norm_beside_pytorch(torch):
    """Training, evaluation, statistics, gradients and their gradients, in one graph."""
    x, w, b = rng.standard_normal((4, 3, 2, 3)), rng.standard_normal(3), rng.standard_normal(3)

    def run(tensor, norm, grad):
        leaves = [tensor(v, requires_grad=True) for v in (x, w, b)]
        mean, var = tensor(np.zeros(3)), tensor(np.ones(3))
        y = norm(leaves[0], mean, var, *leaves[1:], training=True)
        z = norm(y * y, mean, var, *leaves[1:])
        first = grad((z * z).sum() + (y * leaves[0]).sum(), leaves, create_graph=True)
        second = grad(sum((g * g).sum() for g in first), leaves)
        return [v.detach().numpy() for v in (y, z, mean, var, *first, *second)]

    ours = run(tl.tensor, batch_norm, tl.autograd.grad)
    theirs = run(torch.tensor, torch.nn.functional.batch_norm, torch.autograd.grad)
    for a, e in zip(ours, theirs):
        np.testing.assert_allclose(a, e, rtol=1e-8, atol=1e-9)


@pytest.mark.parity
def test_kinks_beside_pytorch(torch):
    """Gradients exactly where the functions bend."""
    f = torch.nn.functional
    x = np.array([-1.0, 0.0, 1.0, 2.0, 6.0])
    for ours, theirs, more in (
        (hardtanh, f.hardtanh, {}),
        (relu6, f.relu6, {}),
        (leaky_relu, f.leaky_relu, {}),
        (elu, f.elu, dict(alpha=1.5)),
        (softplus, f.softplus, dict(threshold=2.0)),
        (gelu, f.gelu, {}),
    ):
        a, b = tl.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = ours(a, **more), theirs(b, **more)
        y.sum().backward()
        z.sum().backward()
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, err_msg=ours.__name__)


def test_cosine_of_dtypes_and_of_nothing():
    a, b = tl.tensor([[3, 4]]), tl.tensor([[4.0, 3.0]], dtype=tl.float64)
    assert tl.cosine_similarity(a, b).dtype is tl.float64
    np.testing.assert_allclose(tl.cosine_similarity(a, b).numpy(), 24 / 25)
    zero = tl.zeros(1, 2, requires_grad=True)
    tl.cosine_similarity(zero, tl.ones(1, 2)).sum().backward()
    assert np.isfinite(zero.grad.numpy()).all()


def test_variance_below_eps_keeps_its_gradient():
    var = tl.tensor([1e-9], requires_grad=True)
    loss = tl.nn.functional.gaussian_nll_loss(tl.ones(1), tl.ones(1), var, eps=0.25)
    assert abs(loss.item() - np.log(0.25) / 2) < 1e-6
    loss.backward()
    assert var.grad.item() == 2.0


def test_the_gradient_of_a_norm_at_zero_is_zero():
    for p in (0.5, 1, 1.5, 2, 3.0, math.inf):
        x = tl.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]], requires_grad=True)
        y = tl.norm(x, p, 1)
        y.sum().backward()
        assert y[0] == 0 and x.grad[0].tolist() == [0, 0] and np.allclose(x.grad[2].numpy(), [0, 1]), p
        assert x.grad[1].isfinite().all() and x.grad[1].any(), p
        x.grad = None
        d = tl.cdist(x, x, p)
        d.sum().backward()
        assert x.grad.isfinite().all() and d.diagonal().tolist() == [0, 0, 0], p
