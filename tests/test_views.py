"""Views and writes in place: shared memory, rebased history, PyTorch's refusals."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import GradError


def leaf(values):
    return tl.tensor(values, dtype=tl.float64, requires_grad=True)


def test_a_write_to_a_view_changes_the_history_of_its_base():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x * 2
    v = y[0]
    v.mul_(3)
    y.sum().backward()
    assert x.grad.tolist() == [[6.0, 6.0], [2.0, 2.0]]


def test_a_write_to_the_base_changes_the_history_of_views_made_before():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x * 2
    v = y[0]
    y.mul_(5)
    v.sum().backward()
    assert x.grad.tolist() == [[10.0, 10.0], [0.0, 0.0]]


def test_chained_views():
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y = x * 1
    v = y.t()[1:]
    w = v[0]
    w.mul_(10)
    assert y.tolist() == [[1.0, 20.0, 3.0], [4.0, 50.0, 6.0]]
    (y * tl.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=tl.float64)).sum().backward()
    assert x.grad.tolist() == [[1.0, 20.0, 3.0], [4.0, 50.0, 6.0]]


def test_a_write_to_one_view_is_seen_by_another():
    x = leaf([1.0, 2.0, 3.0, 4.0])
    y = x * 1
    a, b = y[:3], y[1:]
    a.mul_(2)
    b.sum().backward()
    assert b.tolist() == [4.0, 6.0, 4.0] and x.grad.tolist() == [0.0, 2.0, 2.0, 1.0]


def test_a_base_without_history_gets_one():
    w = leaf([2.0, 3.0])
    y = tl.zeros(3, 2, dtype=tl.float64)
    other = y[1]
    y[1].copy_(w)
    assert y.requires_grad and other.requires_grad
    (y * y).sum().backward()
    assert w.grad.tolist() == [4.0, 6.0]


def test_overlapping_slices():
    x = leaf([1.0, 2.0, 3.0, 4.0])
    y = x * 1
    y[1:] += y[:-1]
    assert y.tolist() == [1.0, 3.0, 5.0, 7.0]
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0, 1.0]
    z = tl.arange(6)
    z[1:] += z[:-1]
    assert z.tolist() == [0, 1, 3, 5, 7, 9]
    z = tl.arange(6)
    z[:-1].copy_(z[1:])
    assert z.tolist() == [1, 2, 3, 4, 5, 5]


def test_in_place_on_leaf_expanded_and_forbidden_views():
    x = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        x.add_(1)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable"):
        x[0].add_(1)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        tl.zeros(1).expand(3).add_(1)
    y = x * 1
    a, _ = y.unbind()
    with pytest.raises(RuntimeError, match="multiple views"):
        a.add_(1)
    c, _ = y.split(1)
    with pytest.raises(RuntimeError, match="multiple views"):
        c.mul_(2)
    with tl.no_grad():
        v = y[0]
    with pytest.raises(RuntimeError, match="no_grad mode"):
        v.mul_(2)
    with tl.no_grad():
        x.add_(1)
    assert x.tolist() == [2.0, 3.0]


def test_split_views_share_memory_but_have_no_history_after_a_write_to_the_base():
    x = leaf([1.0, 2.0, 3.0])
    y = x * 1
    _, b = y.split([1, 2])
    y.mul_(4)
    assert b.tolist() == [8.0, 12.0]
    with tl.no_grad():
        assert b.sum().item() == 20.0
    with pytest.raises(RuntimeError, match="multiple views"):
        b.sum()
    z = tl.arange(3)
    _, c = z.split([1, 2])
    z.mul_(4)  # without gradients there is nothing to be ambiguous
    assert c.sum().item() == 12


def test_in_place_forms_of_ops():
    x = leaf([1.0, 4.0])
    y = x * 1
    y.add_(1).mul_(2).sub_(1).div_(3)
    y.sqrt_()
    y.sum().backward()
    t = x.detach().numpy()
    assert np.allclose(x.grad.numpy(), 0.5 / np.sqrt(((t + 1) * 2 - 1) / 3) * 2 / 3)
    w = leaf([2.0, 3.0])
    h = x * 1
    h.mul_(w)  # the gradient of w needs the old h
    h.sum().backward()
    assert w.grad.tolist() == [1.0, 4.0]


def test_in_place_keeps_dtype_and_shape():
    x = tl.arange(3)
    with pytest.raises(RuntimeError, match="can't be cast"):
        x.add_(0.5)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        tl.zeros(3).add_(tl.zeros(2, 3))
    y = tl.zeros(3, dtype=tl.float16)
    y.add_(tl.ones(3))
    assert y.dtype is tl.float16


def test_zero_and_fill_cut_the_gradient():
    x = leaf([1.0, 2.0])
    y = x * 3
    y[0].fill_(7.0)
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 3.0]
    z = x * 3
    z.zero_()
    assert z.requires_grad
    z.sum().backward()
    assert x.grad.tolist() == [0.0, 3.0]


def test_detach_shares_storage_and_version():
    x = leaf([1.0, 2.0])
    y = x * 1
    z = y * y
    y.detach().add_(1)
    assert y._version == 1
    with pytest.raises(RuntimeError, match="inplace"):
        z.sum().backward()
    z = (x * 1) * 2
    z.data.add_(1)
    assert z._version == 0


def test_views_are_views():
    x = tl.arange(6)
    for v in (
        x.view(2, 3),
        x.reshape(3, 2),
        x[1:],
        x.view(2, 3).t(),
        x.unsqueeze(0),
        x.expand(2, 6),
        x.view(1, 6).squeeze(),
    ):
        assert np.shares_memory(v.numpy(), x.numpy()) and v._base is x
    t = x.view(2, 3).t()
    assert not np.shares_memory(t.reshape(6).numpy(), x.numpy())
    with pytest.raises(RuntimeError, match="not compatible"):
        t.view(6)
    assert t.contiguous().is_contiguous() and not t.is_contiguous()
    assert t.stride() == (1, 3) and x.view(2, 3).stride() == (3, 1) and x[2:].storage_offset() == 2


def test_out_writes_where_it_is_told():
    out = tl.empty(3)
    got = tl.add(tl.ones(3), 1, out=out)
    assert got is out and out.tolist() == [2.0] * 3
    x = tl.ones(4)
    tl.add(x[1:], x[:-1], out=x[1:])
    assert x.tolist() == [1.0, 2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        tl.add(leaf([1.0]), 1, out=tl.zeros(1, dtype=tl.float64))
    with pytest.raises(RuntimeError, match="can't be cast"):
        tl.add(tl.ones(3), 0.5, out=tl.zeros(3, dtype=tl.int64))


def test_second_order_through_a_write():
    x = leaf([2.0, 3.0])
    y = x * x
    y[0].mul_(x[1])
    (g,) = tl.autograd.grad((y * y).sum(), x, create_graph=True)
    (h,) = tl.autograd.grad(g.sum(), x)
    a, b = 2.0, 3.0  # f = (a^2 b)^2 + b^4
    assert np.allclose(g.tolist(), [4 * a**3 * b**2, 2 * a**4 * b + 4 * b**3])
    assert np.allclose(h.tolist(), [12 * a**2 * b**2 + 8 * a**3 * b, 8 * a**3 * b + 2 * a**4 + 12 * b**2])


def test_writes_under_no_grad_are_seen_by_the_version_check():
    x = leaf([1.0, 2.0])
    y = x * 1
    z = y * y
    with tl.no_grad():
        y.mul_(2)
    with pytest.raises(GradError):
        z.sum().backward()


@pytest.mark.parity
@pytest.mark.parametrize(
    "program",
    [
        "y = x * 2; v = y[0]; v.mul_(3)",
        "y = x * 2; v = y[0]; y.mul_(3); y = y + v.sum()",
        "y = x * 2; v = y.t(); w = v[1:]; w.mul_(x.t()[1:])",
        "y = x * 2; y[0] = x[1]; y[:, 1] += y[:, 0]",
        "y = x * 2; v = y.view(-1); v[1:].add_(v[:-1].clone()); v[2] = 0",
        "y = x.exp(); y = y * 1; y.transpose(0, 1).mul_(2); y.select(1, 0).copy_(x[:, 1])",
        "y = L.zeros(2, 2, dtype=L.float64); y[0] = x[0] * x[1]; y[1].add_(x[0]); v = y[1]; y.mul_(2); y = y * v",
        "y = x * 1; a = y[0]; b = y[1]; a.add_(b); b.mul_(a)",
        "y = x * 1; v = y.narrow(1, 0, 1); v.fill_(3.0); y.mul_(x)",
        "y = x * 1; v = y.unsqueeze(0); v.sub_(x * 3); w = v[0, 0]; w.neg_()",
        "y = x * 1; y.clamp_(-0.5, 0.5); y.relu_(); y.add_(x)",
        "y = x * 1; v = y[0]; v.relu_(); y.sigmoid_(); u = y[1]; u.tanh_()",
        "y = x * 1; y.masked_fill_(y > 0, 2.0); y[y < 0] = 0; y = y * x",
        "y = x * 1; v = y.t(); v.sigmoid_(); y = y * v",
        "y = x * 1; z = y * y; y.add_(1)",
        "y = x * 1; v = y[0]; z = v * v; y[1].add_(1); y = z",
    ],
)
def test_programs_as_in_pytorch(program):
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tl, torch):
        x = lib.tensor([[0.3, -1.2], [0.7, 2.0]], dtype=lib.float64, requires_grad=True)
        names = {"L": lib, "x": x}
        try:
            exec(program, names)
            names["y"].backward(
                lib.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=lib.float64)
                if names["y"].ndim == 2
                else lib.tensor([1.0, 2.0], dtype=lib.float64)
            )
            found.append((names["y"].detach().tolist(), x.grad.tolist()))
        except RuntimeError as error:
            found.append(type(error).__mro__[-4:] and "RuntimeError")
    if isinstance(found[1], str):
        assert found[0] == found[1]
    else:
        assert np.allclose(found[0][0], found[1][0]) and np.allclose(found[0][1], found[1][1])
