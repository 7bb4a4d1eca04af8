"""x[key] and x[key] = value: random keys against NumPy and PyTorch, views, gradients, refusals, writes in place."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import DTypeError, GradError, ShapeError
from tensorlite.ops.index import getitem
from tensorlite.ops.mask import isclose, masked_fill, nonzero, one_hot
from tensorlite.ops.rows import embedding
from tensorlite.ops.sort import sort, topk, unique

SHAPES = ((5,), (4, 3), (2, 3, 4), (3, 1, 2, 4), ())
KEYS = 400


class Keys:
    """Random keys, index tensors in them as NumPy arrays. ``singles``: whether integers stand beside index tensors."""

    def __init__(self, seed: int, singles: bool):
        self.rng, self.singles = np.random.default_rng(seed), singles

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def draw(self) -> tuple[tuple, tuple]:
        """A shape and a key for it."""
        shape = self.pick(*SHAPES)
        picked = self.pick((), (1,), (2,), (2, 3))  # the sizes that index tensors share
        singles = not picked or self.singles
        parts: list = []
        at, dotted = 0, False
        while at < len(shape) and (dotted or self.chance(0.85)):  # what follows ... goes on to the last dimension
            n, far = shape[at], self.chance(0.01)  # now and then beyond the end
            kind = self.pick(
                "slice",
                "slice",
                "none",
                "dots",
                *(("int", "scalar") if singles else ()),
                *(("tensor", "tensor", "tensor", "list", "mask", "bool") if picked else ()),
            )
            if kind == "none":
                parts.append(None)
                continue
            if kind == "bool":
                if len(picked) == 1 and picked[0] == 1:
                    parts.append(self.chance(0.8))
                continue
            if kind == "dots":
                if not dotted and self.chance(0.4):
                    parts.append(Ellipsis)
                    at, dotted = at + int(self.rng.integers(0, len(shape) - at + 1)), True
                continue
            if kind == "slice":
                low, high = (int(v) for v in self.rng.integers(-n - 1, n + 2, 2))
                parts.append(slice(self.pick(None, low), self.pick(None, high), self.pick(None, None, 1, 2, 3)))
            elif kind == "int":
                parts.append(n if far else int(self.rng.integers(-n, n)))
            elif kind == "scalar":
                parts.append(np.asarray(self.rng.integers(-n, n)))
            elif kind == "tensor":
                parts.append(self.rng.integers(-n, n + far, picked[self.rng.integers(len(picked)) :]))
            elif kind == "list":
                parts.append(self.rng.integers(-n, n, picked[-1]).tolist())
            else:
                rank = int(self.rng.integers(1, len(shape) - at + 1))
                mask = self.rng.random(shape[at : at + rank]) < 0.6
                if mask.sum() not in (1, picked[-1]) and not self.chance(0.2):
                    continue
                parts.append(mask)
                at += rank - 1
            at += 1
        return shape, tuple(parts)


def convert(key, make):
    """The key with its arrays made tensors."""
    return tuple(make(k) if isinstance(k, np.ndarray) else k for k in key)


def advanced(k) -> bool:
    return isinstance(k, (bool, list)) or (isinstance(k, np.ndarray) and (k.ndim > 0 or k.dtype == bool))


def drawn(seed: int):
    """Keys on which NumPy and we must agree. (An integer beside index tensors is a slice for us, one of them for NumPy;
    an ellipsis of no dimensions parts index tensors for NumPy alone.)"""
    keys = Keys(seed, singles=False)
    for _ in range(KEYS):
        shape, key = keys.draw()
        if not (sum(map(advanced, key)) > 1 and any(k is Ellipsis for k in key)):
            yield shape, key


def outcome(run):
    try:
        return run()
    except (IndexError, ValueError, RuntimeError) as error:
        return error


def counted(shape) -> np.ndarray:
    return np.arange(1.0, np.prod(shape, dtype=int) + 1).reshape(shape)


# ---- x[key]
@pytest.mark.parametrize("seed", range(3))
def test_random_keys_as_numpy(seed):
    tried = refused = 0
    for shape, key in drawn(seed):
        array = counted(shape)
        expected = outcome(lambda a=array, k=key: a[k])
        x = tl.tensor(array, requires_grad=True)
        got = outcome(lambda t=x, k=key: t[convert(k, tl.tensor)])
        if isinstance(expected, Exception):
            assert isinstance(got, IndexError), (shape, key, expected, got)
            refused += 1
            continue
        assert not isinstance(got, Exception), (shape, key, got)
        np.testing.assert_array_equal(got.detach().numpy(), expected, err_msg=f"{shape} {key}")
        assert got._arr.shape == got._spec.shape and (got._spec.format != "contiguous" or got._arr.flags.c_contiguous)
        assert got._is_view() == (not any(map(advanced, key))), (shape, key)
        weights = np.random.default_rng(seed).uniform(-1, 1, expected.shape)
        got.backward(tl.tensor(weights))
        gradient = np.zeros(shape)
        np.add.at(gradient, key, weights)
        np.testing.assert_allclose(x.grad.numpy(), gradient, err_msg=f"{shape} {key}")
        tried += 1
    assert tried > KEYS // 3


@pytest.mark.parametrize("seed", range(3))
def test_random_assignments_as_numpy(seed):
    rng = np.random.default_rng(seed)
    for shape, key in drawn(100 + seed):
        array = counted(shape)
        picked = outcome(lambda a=array, k=key: a[k])
        if isinstance(picked, Exception):
            continue
        # equal places: the last wins in NumPy, and so in ours; a full value, one that stretches, a number
        for value in (rng.uniform(-1, 1, picked.shape), rng.uniform(-1, 1, picked.shape[-1:]), 7.5):
            expected, base = array.copy(), tl.tensor(array)
            expected[key] = value
            x = base.clone()
            x[convert(key, tl.tensor)] = value if isinstance(value, float) else tl.tensor(value)
            np.testing.assert_array_equal(x.numpy(), expected, err_msg=f"{shape} {key}")
        if _distinct(shape, key):
            w = tl.tensor(rng.uniform(-1, 1, picked.shape), requires_grad=True)
            leaf = tl.tensor(array, requires_grad=True)
            y = leaf * 1.0
            y[convert(key, tl.tensor)] = w
            weights = rng.uniform(-1, 1, shape)
            y.backward(tl.tensor(weights))
            np.testing.assert_allclose(w.grad.numpy(), weights[key])
            weights[key] = 0.0
            np.testing.assert_allclose(leaf.grad.numpy(), weights)


def _distinct(shape, key) -> bool:
    hit = counted(shape)[key]
    return len(np.unique(hit)) == hit.size


def test_integers_before_index_tensors_do_not_move_dimensions():
    # NumPy counts an int among index tensors as one of them; for PyTorch it is a slice
    x = tl.arange(24).view(2, 3, 4)
    assert x[0, :, [0, 1]].shape == (3, 2)
    assert x[tl.tensor(0), :, tl.tensor([0, 1])].shape == (3, 2)
    assert x[[0, 0], :, [0, 1]].shape == (2, 3)


def test_what_a_key_may_hold():
    x = tl.arange(12).view(3, 4)
    assert x[np.int64(1)].tolist() == [4, 5, 6, 7] == x[np.array(1)].tolist() == x[tl.tensor(1)].tolist()
    assert x[np.array([0, 2], np.int16)].tolist() == x[range(0, 3, 2)].tolist() == x[[0, 2]].tolist()
    assert x[(0, 2), (1, 0)].tolist() == [1, 8]
    assert x[tl.tensor([0, 2], dtype=tl.int32)].shape == (2, 4)
    assert x[[True, False, True]].tolist() == x[[0, 2]].tolist()
    assert x[tl.tensor(1) : tl.tensor(2), np.int64(0) :].shape == (1, 4)
    assert x[[]].shape == (0, 4) and x[[], :1].shape == (0, 1)
    assert x[True].shape == (1, 3, 4) and x[False].shape == (0, 3, 4) and x[True, [0, 1]].shape == (2, 4)
    assert x[x > 3].tolist() == list(range(4, 12))
    assert x[...].shape == x[()].shape == (3, 4) and x[...]._is_view()
    with pytest.warns(UserWarning, match="uint8"):
        assert x[tl.tensor([1, 0, 1], dtype=tl.uint8)].shape == (2, 4)
    with pytest.warns(UserWarning, match="non-tuple sequence"):
        assert x[[[0, 1], [1, 0]]].tolist() == [1, 4]


def test_equal_constants_of_other_types_are_other_keys():
    x = tl.arange(4)
    assert x[1].shape == () and x[True].shape == (1, 4) and x[1].shape == ()
    assert x[0:2].shape == (2,)
    with pytest.raises(TypeError):
        x[0.0:2]
    assert x[False].shape == (0, 4) and x[0].shape == ()


@pytest.mark.parametrize(
    ("key", "error", "says"),
    [
        (3, IndexError, "index 3 is out of bounds"),
        ((0, -5), IndexError, "-5"),
        ([0, 3], IndexError, "getitem: index 3 is out of bounds for dimension 0 with size 3"),
        ((slice(None), [-5, 0]), IndexError, "getitem: index -5 is out of bounds for dimension 1 with size 4"),
        (([0, 1], [0, 4]), IndexError, "getitem: index 4 is out of bounds for dimension 1 with size 4"),
        ((0, 0, 0), IndexError, "too many indices"),
        ((0, [0], 0), IndexError, "too many indices for tensor of dimension 2"),
        (([0, 1], [0, 1, 2]), IndexError, "could not be broadcast together with shapes"),
        (np.array([True, False]), IndexError, "shape of the mask"),
        (np.ones((3, 3), bool), IndexError, "shape of the mask"),
        (1.5, IndexError, "only integers, slices"),
        ([1.5], IndexError, "long, int, byte or bool"),
        (np.ones(2), IndexError, "long, int, byte or bool"),
        ({}, IndexError, "only integers, slices"),
        ("a", TypeError, "'a'"),
        (["a"], (TypeError, IndexError), None),
        (slice(None, None, -1), ValueError, "step must be greater than zero"),
        (slice(None, None, 0), ValueError, "step"),
        (slice(0.5, None), TypeError, "slice indices must be integers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_refused_keys(key, error, says):
    x = tl.zeros(3, 4)
    with pytest.raises(error, match=says):
        x[key]
    with pytest.raises(error):
        x[key] = 0.0
    assert x.sum().item() == 0


def test_index_tensors_of_other_types_are_refused():
    x = tl.zeros(3)
    for d in (tl.int16, tl.int8, tl.float32):
        with pytest.raises(IndexError, match="long, int, byte or bool"):
            x[tl.tensor([0, 1], dtype=d)]


# ---- x[key] = value
def test_values_that_are_refused():
    x = tl.zeros(3, 4)
    for value in ([1, 2, 3, 4], np.ones(4), "a", None, 1j):
        with pytest.raises(TypeError, match="setitem"):
            x[0] = value
    for key in (0, [0], x[0] == 0):
        with pytest.raises(ShapeError, match="cannot be broadcast"):
            x[:, key] = tl.ones(5)
    with pytest.raises(ShapeError):
        x[0] = tl.ones(2, 4)
    with pytest.raises(DTypeError):
        x[[0]] = tl.ones(4, dtype=tl.float64)  # PyTorch casts for basic keys and masks alone
    with pytest.raises(IndexError, match=r"setitem|index_put"):
        x[[5]] = 1.0
    assert x.sum().item() == 0


@pytest.mark.parametrize(
    ("dtype", "value", "stored"),
    [
        (tl.int64, 1.9, 1),
        (tl.int64, True, 1),
        (tl.uint8, -1, 255),
        (tl.uint8, 255, 255),
        (tl.bool, 0.5, True),
        (tl.float32, float("inf"), float("inf")),
        (tl.float16, 65504.0, 65504.0),
        (tl.int8, np.int64(-128), -128),
        (tl.float32, np.float64(0.5), 0.5),
        (tl.uint8, 256, None),
        (tl.uint8, -256, None),
        (tl.int8, 128, None),
        (tl.int64, 2**70, None),
        (tl.int64, float("nan"), None),
        (tl.int64, 1e30, None),
        (tl.float32, 1e300, None),
        (tl.float16, 1e5, None),
    ],
)
def test_numbers_that_fit_and_that_do_not(dtype, value, stored):
    for key in (0, slice(None), [0], np.array([True, False])):
        x = tl.zeros(2, dtype=dtype)
        if stored is None:
            with pytest.raises(RuntimeError, match="overflow"):
                x[key] = value
        else:
            x[key] = value
            assert x[0].item() == stored
    nan = tl.zeros(2)
    nan[1] = float("nan")
    assert nan.isnan().tolist() == [False, True]


def test_values_are_cast_to_the_dtype_of_the_tensor():
    x = tl.zeros(3, dtype=tl.int64)
    x[0] = tl.tensor(1.7)
    x[1:] = tl.tensor([2.5, 3.5])
    assert x.tolist() == [1, 2, 3]
    x[x > 1] = tl.tensor(9.9)
    assert x.tolist() == [1, 9, 9]
    x[0] = tl.tensor(4.0, requires_grad=True)
    assert not x.requires_grad


def test_leading_ones_of_values_are_dropped():
    x = tl.zeros(2, 3)
    x[0] = tl.ones(1, 1, 3)
    x[[1]] = tl.full((1, 1, 1, 3), 2.0)
    assert x.tolist() == [[1, 1, 1], [2, 2, 2]]


def test_writes_through_keys_reach_base_and_views():
    x = tl.zeros(4)
    v = x[1:]
    version = x._version
    v[0] = 1.0
    x[[3, 2]] = tl.tensor([3.0, 2.0])
    assert x.tolist() == [0, 1, 2, 3] and v.tolist() == [1, 2, 3] and x._version > version
    m = tl.zeros(3, 3)
    m[1:, 1:][m[1:, 1:] == 0] = 5.0
    m[:, 0][[0, 2]] = tl.tensor([7.0, 8.0])
    assert m.tolist() == [[7, 0, 0], [0, 5, 5], [8, 5, 5]]


def test_overlapping_parts():
    x = tl.arange(6).float()
    x[1:] += x[:-1]
    assert x.tolist() == [0, 1, 3, 5, 7, 9]
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 3, 5, 7]
    i = tl.tensor([2, 0, 1])
    i[i] = i  # the index is what is written to
    assert i.tolist() == [0, 1, 2]


def test_augmented_assignment_keeps_one_history():
    x = tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    y[1:] += y[:-1]
    y.backward(tl.tensor([1.0, 10.0, 100.0]))
    assert x.grad.tolist() == [22, 220, 200]
    x.grad = None
    y = x * 2
    y[[0, 2]] *= 3
    y[y > 10] += 1
    y.sum().backward()
    assert x.grad.tolist() == [6, 2, 6]


def test_assignments_on_the_tape():
    x = tl.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    y = x * 2
    y[0] = 5
    y.sum().backward()
    assert x.grad.tolist() == [0, 2, 2, 2]

    x.grad = None
    y = x * 2
    y[y > 5] = 0
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 0, 0]

    x.grad = None
    w = tl.tensor(3.0, requires_grad=True)
    y = x * 2
    y[y > 5] = w
    (y * y).sum().backward()
    assert w.grad.item() == 12 and x.grad.tolist() == [8, 16, 0, 0]

    z = tl.zeros(3)
    z[1] = w * 2  # a plain tensor becomes part of the tape
    assert z.requires_grad and not z.is_leaf
    z.sum().backward()
    assert w.grad.item() == 14

    v = (x * 1.0)[1:3]
    v[:] = w
    assert v.tolist() == [3, 3] and v._base.tolist() == [1, 3, 3, 4]


def test_assignments_that_the_tape_refuses():
    x = tl.zeros(3, requires_grad=True)
    for key in (0, [0], np.array([True, False, False]), slice(None)):
        with pytest.raises(GradError, match="leaf"):
            x[key] = 1.0
    with tl.no_grad():
        x[0] = 1.0
    assert x.tolist() == [1, 0, 0]
    e = tl.zeros(1).expand(3)
    with pytest.raises(RuntimeError, match="single memory location"):
        e[0:2] = 1.0
    y = x * 2
    z = y * y  # saves y
    y[0] = 1.0
    with pytest.raises(GradError, match="modified by an inplace"):
        z.sum().backward()


def test_source_may_change_after_it_was_indexed():
    x = tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 1.0
    i, j = tl.tensor([0, 2]), tl.tensor([0, 0])
    picked = y[i] * 2 + y.view(3, 1)[i, j]  # keeps the indices, not y
    y[0] = 7.0
    picked.sum().backward()
    assert x.grad.tolist() == [3, 0, 3]
    picked = (x * 1.0)[i]
    i[0] = 1
    with pytest.raises(GradError, match="modified by an inplace"):
        picked.sum().backward()


# ---- in-place methods
def test_methods_in_place():
    x = tl.zeros(2, 3)
    same = x.scatter_(1, tl.tensor([[2], [0]]), 1.0)
    assert same is x and x.tolist() == [[0, 0, 1], [1, 0, 0]]
    x.scatter_add_(0, tl.tensor([[1, 1, 1]]), tl.tensor([[1.0, 2.0, 3.0]]))
    x.index_add_(1, tl.tensor([0, 0]), tl.ones(2, 2), alpha=2)
    assert x.tolist() == [[4, 0, 1], [6, 2, 3]]
    x.index_copy_(0, tl.tensor([1]), tl.zeros(1, 3)).index_fill_(1, tl.tensor([-1]), 9)
    assert x.tolist() == [[4, 0, 9], [0, 0, 9]]
    x.index_put_((tl.tensor([0, 0]), tl.tensor([1, 1])), tl.tensor(1.0), accumulate=True)
    x.masked_fill_(x == 9, tl.tensor(5.0))
    assert x.tolist() == [[4, 2, 5], [0, 0, 5]]
    x.T.masked_fill_(tl.tensor([True, False]), 1)  # a strided destination
    x.T.scatter_add_(0, tl.tensor([[0, 0]]), tl.ones(1, 2))
    assert x.tolist() == [[2, 1, 1], [1, 0, 5]]
    assert tl.ones(3, 3).triu_().sum().item() == 6
    s = tl.zeros(())
    s.index_add_(0, tl.tensor([0]), tl.tensor(2.0)).scatter_(0, tl.tensor([0]), tl.tensor([3.0]))
    assert s.item() == 3
    with pytest.raises(RuntimeError, match="broadcast"):
        tl.zeros(3).masked_fill_(tl.zeros(2, 3) == 0, 1)


def test_methods_in_place_on_the_tape():
    x = tl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    w = tl.tensor([4.0, 5.0], requires_grad=True)
    i = tl.tensor([2, 0])
    for write, dx, dw in (
        (lambda y: y.scatter_(0, i, w), [0, 2, 0], [3, 1]),
        (lambda y: y.scatter_add_(0, i, w), [1, 2, 3], [3, 1]),
        (lambda y: y.index_add_(0, i, w, alpha=2), [1, 2, 3], [6, 2]),
        (lambda y: y.index_copy_(0, i, w), [0, 2, 0], [3, 1]),
        (lambda y: y.index_put_((i,), w), [0, 2, 0], [3, 1]),
        (lambda y: y.index_put_((i,), w, accumulate=True), [1, 2, 3], [3, 1]),
        (lambda y: y[1:].masked_fill_(tl.tensor([True, False]), w[0]), [1, 0, 3], [2, 0]),
        (lambda y: y[1:].index_fill_(0, tl.tensor([0]), w[1]), [1, 0, 3], [0, 2]),
    ):
        x.grad = w.grad = None
        y = x * 1.0
        write(y)
        y.backward(tl.tensor([1.0, 2.0, 3.0]))
        assert (x.grad.tolist(), w.grad.tolist()) == (dx, dw)
        with pytest.raises(GradError, match="leaf"):
            write(x)


def test_inputs_that_are_also_the_destination():
    x = tl.tensor([2, 0, 1])
    assert x.clone().scatter_add_(0, x, x).tolist() == x.scatter_add(0, x, x).tolist() == [2, 1, 3]
    y = x.clone()
    y.scatter_add_(0, y, y)
    assert y.tolist() == [2, 1, 3]
    y = x.clone()
    y.index_add_(0, y, y)
    assert y.tolist() == [2, 1, 3]
    b = tl.tensor([True, False])
    b.masked_fill_(b, False)
    assert b.tolist() == [False, False]


# ---- the rest
def test_accumulation_is_right_where_many_share_a_place():
    rng = np.random.default_rng(0)
    index, rows = rng.integers(-50, 50, 2000), rng.uniform(-1, 1, (2000, 7))
    for dim, shape in ((0, (50, 7)), (1, (7, 50)), (1, (7, 50, 1))):
        x = tl.zeros(*shape, dtype=tl.float64, requires_grad=True)
        weights = rows if dim == 0 else rows.T.reshape(7, 2000, *shape[2:])
        x[(slice(None),) * dim + (tl.tensor(index),)].backward(tl.tensor(weights))
        expected = np.zeros(shape)
        np.add.at(expected, (slice(None),) * dim + (index,), weights)
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("d", [tl.float16, tl.bfloat16], ids=str)
def test_half_types_are_moved_as_they_are(d):
    x = tl.tensor([1.0, float("nan"), 3.0, 0.0]).to(d)
    assert x[[2, 0]].tolist() == [3, 1] and x[[2, 0]].dtype is d
    assert nonzero(x).tolist() == [[0], [1], [2]]
    assert sort(x).values.dtype is d and sort(x).indices.tolist() == [3, 0, 2, 1]
    assert unique(x[[0, 2, 0]]).tolist() == [1, 3] and unique(x).dtype is d
    y = tl.zeros(2, dtype=d)
    y[0] = 2.0
    y[[1]] = x[2]
    assert y.tolist() == [2, 3]
    y.index_add_(0, tl.tensor([0, 0]), x[[0, 2]])
    assert y.tolist() == [6, 3]
    embedding(tl.tensor([0, 0]), y.view(1, 2).requires_grad_()).sum().backward()


def test_embedding_shortens_long_rows_in_place():
    w = tl.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]], requires_grad=True)
    y = embedding(tl.tensor([0, 1, 0]), w, max_norm=1.0)
    np.testing.assert_allclose(w.detach().numpy(), [[0.6, 0.8], [0.3, 0.4], [6, 8]], rtol=1e-6)
    np.testing.assert_allclose(y.detach().numpy(), [[0.6, 0.8], [0.3, 0.4], [0.6, 0.8]], rtol=1e-6)
    y.sum().backward()
    assert w.grad.tolist() == [[2, 2], [1, 1], [0, 0]]


def test_embedding_padding_and_frequency():
    w = tl.ones(4, 2, requires_grad=True)
    i = tl.tensor([[1, 2], [2, 3]])
    embedding(i, w, padding_idx=3).sum().backward()
    assert w.grad.tolist() == [[0, 0], [1, 1], [2, 2], [0, 0]]
    w.grad = None
    embedding(i, w, padding_idx=-3, scale_grad_by_freq=True).sum().backward()
    assert w.grad.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(IndexError, match="embedding: index 4 is out of bounds for dimension 0 with size 4"):
        embedding(tl.tensor([4]), w)


def test_order_of_equal_elements():
    x = tl.tensor([1, 0, 1, 0, 1])
    assert sort(x).indices.tolist() == [1, 3, 0, 2, 4]
    assert sort(x, descending=True).indices.tolist() == [0, 2, 4, 1, 3]
    assert topk(x, 3).values.tolist() == [1, 1, 1] and topk(x, 3).indices.tolist() == [0, 2, 4]
    nan = float("nan")
    assert unique(tl.tensor([nan, 1.0, nan])).shape == (3,)
    values, indices = topk(tl.tensor([[1.0, 3.0, 2.0]], requires_grad=True), 2)
    assert values.requires_grad and not indices.requires_grad


def test_results_that_are_views():
    x = tl.zeros(3, 3)
    x.diagonal()[:] = 1.0
    x.diagonal(1)[0] = 5.0
    x.diagonal(-1).fill_(2.0)
    assert x.tolist() == [[1, 5, 0], [2, 1, 0], [0, 2, 1]]
    w = tl.ones(3, 3, requires_grad=True)
    y = w * 1.0
    y.diagonal().mul_(3.0)
    y.sum().backward()
    assert w.grad.tolist() == [[3, 1, 1], [1, 3, 1], [1, 1, 3]]


def test_masks_of_no_elements():
    x = tl.zeros(0, 3, requires_grad=True)
    assert x[x > 0].shape == (0,) and nonzero(x).shape == (0, 2)
    x[x > 0].sum().backward()
    assert x.grad.shape == (0, 3)
    assert one_hot(tl.tensor([[1], [0]])).tolist() == [[[0, 1]], [[1, 0]]]
    assert masked_fill(tl.ones(2), tl.tensor(True), 3).tolist() == [3, 3]
    assert isclose(tl.tensor([1.0]), tl.tensor([1.0 + 1e-7])).item() is True
    assert getitem(tl.tensor(5.0), None).tolist() == [5.0]


# ---- beside PyTorch
@pytest.mark.parity
@pytest.mark.parametrize("seed", range(3))
def test_random_keys_as_pytorch(seed):
    torch = pytest.importorskip("torch")
    keys = Keys(1000 + seed, singles=True)
    rng = np.random.default_rng(seed)
    tried = 0
    for _ in range(KEYS):
        shape, key = keys.draw()
        array = counted(shape)
        t = torch.tensor(array, requires_grad=True)
        x = tl.tensor(array, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = outcome(lambda a=t, k=key: a[convert(k, torch.tensor)])
            got = outcome(lambda a=x, k=key: a[convert(k, tl.tensor)])
        where = f"{shape} {key} {expected} {got}"
        if isinstance(expected, Exception):
            assert isinstance(got, type(expected)), where
            continue
        if isinstance(got, IndexError) and not expected.numel():
            continue  # PyTorch looks at no index where there is nothing to pick
        assert not isinstance(got, Exception), where
        np.testing.assert_array_equal(got.detach().numpy(), expected.detach().numpy(), err_msg=where)
        assert got._is_view() == expected._is_view() and got.is_contiguous() == expected.is_contiguous(), where
        weights = rng.uniform(-1, 1, got.shape)
        got.backward(tl.tensor(weights))
        expected.backward(torch.tensor(weights))
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), err_msg=where)
        tried += 1

        value = rng.uniform(-1, 1, got.shape)
        a, b = t.detach().clone(), x.detach().clone()
        a[convert(key, torch.tensor)] = torch.tensor(value)
        b[convert(key, tl.tensor)] = tl.tensor(value)
        if _distinct_torch(torch, shape, key):
            np.testing.assert_array_equal(b.numpy(), a.numpy(), err_msg=where)
    assert tried > KEYS // 2


def _distinct_torch(torch, shape, key) -> bool:
    hit = torch.tensor(counted(shape))[convert(key, torch.tensor)]
    return len(torch.unique(hit)) == hit.numel()


def test_meshgrid():
    x, y, z = tl.arange(2.0).requires_grad_(), tl.arange(3.0), tl.tensor(5.0)
    for order in ("ij", "xy"):
        got, wanted = tl.meshgrid(x, y, z, indexing=order), np.meshgrid([0, 1], [0, 1, 2], [5], indexing=order)
        assert all(np.array_equal(g.detach().numpy(), w) for g, w in zip(got, wanted))
        assert [g.requires_grad for g in got] == [True, False, False]
        x.grad = None
        (got[0] * got[1]).sum().backward()
        assert x.grad.tolist() == [3, 3]
    (alone,) = tl.meshgrid([y], indexing="xy")
    assert alone.tolist() == [0, 1, 2]
    for wrong, how in (([], {}), ([y.view(1, 3)], {}), ([y, tl.arange(2)], {}), ([y], {"indexing": "yx"})):
        with pytest.raises(RuntimeError, match="meshgrid: "):
            tl.meshgrid(wrong, **how)


def test_places_of_triangles():
    for rows, columns, offset in ((3, 3, 0), (2, 4, 1), (4, 2, -1), (0, 2, 0)):
        for name in ("tril", "triu"):
            at = getattr(tl, name + "_indices")(rows, columns, offset)
            kept = getattr(tl, name)(tl.ones(rows, columns), offset)
            assert at.dtype is tl.int64 and at.tolist() == kept.nonzero().T.tolist()


def test_fill_diagonal():
    assert tl.zeros(2, 3).fill_diagonal_(4).tolist() == [[4, 0, 0], [0, 4, 0]]
    for wrap in (False, True):
        wanted = np.zeros((7, 3))
        np.fill_diagonal(wanted, 2, wrap)
        assert np.array_equal(tl.zeros(7, 3).fill_diagonal_(2, wrap).numpy(), wanted)
    with pytest.raises(RuntimeError, match="fill_diagonal_: got 1"):
        tl.zeros(3).fill_diagonal_(1)


def test_bincount_sums_weights():
    bins = tl.tensor([1, 3, 1])
    for d, result in ((tl.float32, tl.float32), (tl.float64, tl.float64), (tl.int64, tl.float64)):
        y = bins.bincount(tl.tensor([1, 2, 4], dtype=d), minlength=5)
        assert y.tolist() == [0, 5, 0, 2, 0] and y.dtype is result
