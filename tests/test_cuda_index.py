"""Picking and scattering by indices on CUDA in the emulator, against the CPU's ops: values, gradients, bad indices."""

import shutil

import numpy as np
import pytest
from cuda_harness import alike, skip

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import emulator
from tensorlite.backends.launch import scatter as scattering
from tensorlite.errors import BoundsError
from tensorlite.ops.gather import gather_p, scatter_add_p, scatter_p
from tensorlite.ops.index import index_p, index_put_p, unindex_p
from tensorlite.ops.mask import one_hot_p
from tensorlite.ops.rows import embedding_p, index_add_p, index_copy_p, index_select_p, unselect_p


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if shutil.which("g++") is None:
        skip("needs g++ for the emulator")
    with config.CUDA_EMULATION(1):
        yield


def ints(*shape, low=0, high, dtype=tl.int64):
    return tl.randint(low, high, shape, dtype=dtype)


def also(dtype):
    """A dtype of the slow run: each is a compilation more."""
    return pytest.param(dtype, marks=pytest.mark.slow)


MOVED = (tl.float32, tl.bfloat16, also(tl.float64), also(tl.bool))


# ---- picking
@pytest.mark.parametrize("dtype", MOVED, ids=str)
def test_rows(dtype):
    x = tl.randn(5, 7, 6).to(dtype)
    for dim in range(3):
        for i in (ints(0, high=5), ints(1, high=5), ints(9, high=5)):
            alike(index_select_p, x, i, dim=dim, who="index_select", exact=True)
        alike(index_select_p, x, ints(2, 3, low=-5, high=5), dim=dim, who="getitem", exact=True)
        alike(index_select_p, x.permute(2, 0, 1), ints(4, high=5, dtype=tl.int32), dim=dim, who="embedding", exact=True)
    alike(index_select_p, x[..., ::2], ints(12, high=5)[::3], dim=0, who="index_select", exact=True)


@pytest.mark.parametrize("columns", [1, 3, 8, 36])
def test_tables(columns):
    table = tl.randn(11, columns)
    for i in (ints(high=11), ints(3, 4, high=11), ints(4, 3, high=11, dtype=tl.int32).T, ints(2, 0, high=11)):
        alike(embedding_p, i, table, padding=None, by_freq=False, exact=True)
    alike(embedding_p, ints(5, high=11), tl.randn(columns, 11).T, padding=None, by_freq=False, exact=True)


def test_elements():
    x = tl.randn(4, 5, 6)
    for dim in range(3):
        for i in (ints(4, 5, 6, high=4), ints(2, 3, 4, high=4), ints(4, 1, 6, high=4, dtype=tl.int32)):
            alike(gather_p, x, i, dim=dim, wraps=False, exact=True)
        alike(gather_p, x.permute(1, 2, 0), ints(3, 4, 4, high=4).transpose(1, 2), dim=dim, wraps=False, exact=True)
        alike(gather_p, x, ints(2, 3, 4, low=-4, high=4), dim=dim, wraps=True, exact=True)
    i = ints(2, 2, 1, 2, 1, 2, high=2)
    alike(gather_p, tl.randn(3, 3, 3, 3, 3, 3).permute(5, 3, 1, 0, 2, 4), i, dim=3, wraps=False, exact=True)


def test_several_indices():
    x = tl.randn(4, 5, 3, 2)
    alike(index_p, x, ints(7, high=4), ints(7, high=5), dims=(0, 1), exact=True)
    alike(index_p, x, ints(2, 1, low=-5, high=5), ints(3, high=3), dims=(1, 2), exact=True)
    alike(index_p, x, ints(2, 3, high=4), ints(3, high=3, dtype=tl.int32), dims=(0, 2), exact=True)
    alike(index_p, x, ints(6, high=4), ints(6, high=5), ints(6, high=3), ints(6, high=2), dims=(0, 1, 2, 3), exact=True)
    alike(index_p, x.permute(3, 1, 0, 2), ints(3, high=5), ints(3, high=3), dims=(1, 3), exact=True)


def test_one_hot():
    alike(one_hot_p, ints(3, 4, high=5), classes=7)
    alike(one_hot_p, ints(3, 4, high=5).T, classes=5)
    alike(one_hot_p, ints(0, high=5), classes=5)


# ---- adding
@pytest.fixture(params=["looked through", "sorted"])
def way(request, monkeypatch):
    if request.param == "sorted":
        monkeypatch.setattr(scattering, "FEW", 0)
    return request.param


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, tl.int64, also(tl.float16), also(tl.float64)], ids=str)
def test_rows_that_are_added(dtype, way):
    for m in (0, 1, 33, 150):
        for shape, dim in (((3, 5), 0), ((2, 4, 3), 1), ((5,), 0)):
            w = tl.randn(*shape[:dim], m, *shape[dim + 1 :]).mul(4).to(dtype)
            i = ints(m, low=-shape[dim], high=shape[dim])
            alike(unselect_p, w, i, shape=shape, dim=dim)
            alike(index_add_p, tl.randn(*shape).to(dtype), i.abs().clamp(max=shape[dim] - 1), w, dim=dim)
    alike(unselect_p, tl.ones(1, 1).to(dtype).expand(40, 6), ints(40, high=3), shape=(3, 6), dim=0)
    alike(unselect_p, tl.randn(6, 40).to(dtype).T, ints(8, 5, high=3).view(40), shape=(3, 6), dim=0)


def test_many_equal_rows(way):
    for high in (1, 2, 40):
        w, i = tl.randn(1500, 2), ints(1500, high=high)
        alike(unselect_p, w, i, shape=(high, 2), dim=0)


def test_elements_that_are_added(way):
    x = tl.randn(4, 5, 3)
    for dim in range(3):
        for i in (ints(4, 5, 3, high=3), ints(2, 3, 2, high=3), ints(0, 5, 3, high=3)):
            alike(scatter_add_p, x, i, tl.randn(4, 5, 3), dim=dim, wraps=False)
    alike(scatter_add_p, tl.zeros(6, 9), ints(6, 1, low=-9, high=9), tl.randn(6, 1), dim=1, wraps=True)
    alike(scatter_add_p, tl.zeros(6, 9), ints(70, 9, high=6), tl.randn(9, 70).T, dim=0, wraps=False)


def test_several_indices_added(way):
    x = tl.randn(4, 5, 3)
    i, j, k = ints(7, low=-4, high=4), ints(7, high=5), ints(7, high=3)
    alike(unindex_p, tl.randn(7, 3), i, j, shape=(4, 5, 3), dims=(0, 1))
    alike(unindex_p, tl.randn(7, 5), i, k, shape=(4, 5, 3), dims=(0, 2))
    alike(index_put_p, x, tl.randn(4, 7), j, k, dims=(1, 2), accumulate=True)
    alike(index_put_p, x, tl.randn(1, 5), i, k, dims=(0, 2), accumulate=True)
    alike(index_put_p, x.permute(2, 1, 0), tl.randn(7, 4), k, j, dims=(0, 1), accumulate=True)


def test_the_same_bits_in_every_order_of_threads():
    w, i = tl.randn(700, 3).to("cuda"), ints(700, high=2).to("cuda")
    x, k = tl.randn(3, 50).to("cuda"), ints(3, 20, high=2).to("cuda")
    found = set()
    for few in (4096, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scattering, "FEW", few)
            for order in range(4):
                with emulator.order(order):
                    made = unselect_p(w, i, shape=(2, 3), dim=0), scatter_add_p(x, k, x, dim=1, wraps=False)
                    found.add((few, *(y.cpu().numpy().tobytes() for y in made)))
    assert len(found) == 2


# ---- writing
@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, also(tl.float64)], ids=str)
def test_rows_that_are_written(dtype):
    x = tl.randn(6, 5, 4).to(dtype)
    for dim in range(3):
        shape = list(x.shape)
        shape[dim] = 9
        w = tl.randn(*shape).to(dtype)
        alike(index_copy_p, x, ints(9, high=4), w, dim=dim, who="index_copy", exact=True)  # of equal ones the last
        alike(index_copy_p, x, ints(9, low=-4, high=4), tl.zeros(1, 1, 1).to(dtype).expand(shape), dim=dim,
              who="index_fill", exact=True)  # fmt: skip
    alike(index_put_p, x, tl.randn(7, 4).to(dtype), ints(7, high=2), ints(7, high=2), dims=(0, 1), accumulate=False,
          exact=True)  # fmt: skip
    alike(index_put_p, x, tl.randn(1, 5).to(dtype), ints(7, high=3), ints(7, high=4), dims=(0, 2), accumulate=False,
          exact=True)  # fmt: skip


def test_elements_that_are_written():
    x = tl.randn(4, 5, 3)
    for dim in range(3):
        for i in (ints(4, 5, 3, high=3), ints(2, 3, 2, high=3), ints(0, 5, 3, high=3)):
            alike(scatter_p, x, i, tl.randn(4, 5, 3), dim=dim, exact=True)


def test_in_place():
    def steps(x, w, i, low, flat):
        x.index_copy_(0, i, w)
        x.index_add_(0, i, w)
        x.scatter_(1, flat, x[:, 1:3])
        x.scatter_add_(1, flat, x[:, 1:3])
        x[i, i] = w[:, 0]
        x[:, i] = 2.0
        x[1:].index_put_((low,), w, accumulate=True)
        x[i] = x[low]
        return x

    given = tl.randn(5, 6), tl.randn(3, 6), tl.tensor([4, 0, 4]), tl.tensor([3, 0, 1]), tl.tensor([[0, 5]] * 5)
    wanted = steps(*(v.clone() for v in given))
    made = steps(*(v.to("cuda") for v in given))
    np.testing.assert_allclose(made.cpu().numpy(), wanted.numpy(), rtol=1e-6)


# ---- gradients
def test_gradients():
    def total(place):
        tl.manual_seed(3)
        x, table = (tl.randn(4, 6).to(place).requires_grad_() for _ in range(2))
        i, j, e = ints(9, high=4).to(place), ints(4, 3, high=4).to(place), ints(2, 5, high=4).to(place)
        parts = [
            x.index_select(1, i), x.gather(1, j), x[i, i], x.scatter_add(1, j, x), x.index_add(0, i[:4], table),
            x.index_copy(0, tl.arange(2).to(place), table[1:3]), x.scatter(1, j[:, :1], table),
            tl.nn.functional.embedding(e, table, padding_idx=1),
            tl.nn.functional.embedding(e, table, padding_idx=0, scale_grad_by_freq=True),
        ]  # fmt: skip
        for y in parts:
            y.backward(tl.arange(y.numel()).to(tl.float32).cos().view(*y.shape).to(place))
        return [v.grad.cpu().numpy() for v in (x, table)]

    for made, wanted in zip(total("cuda"), total("cpu")):
        np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


# ---- bad indices
BAD = [
    (index_select_p, (tl.ones(4, 3),), dict(dim=0, who="index_select"), ()),
    (index_select_p, (tl.ones(4, 3),), dict(dim=0, who="getitem"), ()),
    (gather_p, (tl.ones(4),), dict(dim=0, wraps=False), ()),
    (scatter_p, (tl.ones(4),), dict(dim=0), (tl.ones(1),)),
    (scatter_add_p, (tl.ones(4),), dict(dim=0, wraps=False), (tl.ones(1),)),
    (index_add_p, (tl.ones(4),), dict(dim=0), (tl.ones(1),)),
    (index_copy_p, (tl.ones(4),), dict(dim=0, who="index_copy"), (tl.ones(1),)),
    (index_p, (tl.ones(4),), dict(dims=(0,)), ()),
]


@pytest.mark.parametrize("p, first, kw, last", BAD, ids=lambda v: getattr(getattr(v, "op", None), "name", ""))
@pytest.mark.parametrize("bad", [4, -5])
def test_bad_indices(p, first, kw, last, bad):
    index = tl.tensor([bad])
    with pytest.raises(BoundsError) as said:
        p(*first, index, *last, **kw)
    y = p(*(v.to("cuda") for v in (*first, index, *last)), **kw)
    with pytest.raises(IndexError) as noted:
        y.cpu()
    assert isinstance(noted.value, BoundsError) and str(noted.value) == str(said.value)
    tl.ones(1).to("cuda").cpu()  # said once


def test_bad_indices_of_tables():
    table = tl.ones(4, 3)
    for i in (tl.tensor([0, 4]), tl.tensor([-1])):
        with pytest.raises(IndexError) as said:
            tl.nn.functional.embedding(i, table)
        y = tl.nn.functional.embedding(i.to("cuda"), table.to("cuda"))
        with pytest.raises(IndexError) as noted:
            y.cpu()
        assert str(noted.value) == str(said.value)
    y = tl.nn.functional.embedding(tl.tensor([0]).to("cuda"), tl.ones(0, 3).to("cuda"))
    with pytest.raises(IndexError, match="index 0 is out of bounds for dimension 0 with size 0"):
        y.cpu()


@pytest.mark.parametrize("bad", [-1, 3])
def test_bad_classes(bad):
    x = tl.tensor([0, bad])
    with pytest.raises(RuntimeError) as said:
        one_hot_p(x, classes=3)
    y = one_hot_p(x.to("cuda"), classes=3)
    with pytest.raises(RuntimeError) as noted:
        y.cpu()
    assert str(noted.value) == str(said.value)
