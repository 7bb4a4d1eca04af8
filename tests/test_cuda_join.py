"""cat, pad, tril, triu and cumsum on CUDA in the emulator, against the CPU's ops."""

import shutil

import numpy as np
import pytest
from cuda_harness import alike, skip, there

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import emulator
from tensorlite.backends.launch import cumsum as running
from tensorlite.ops.diagonal import tril, triu
from tensorlite.ops.join import cat_p
from tensorlite.ops.pad import pad_p
from tensorlite.ops.reduce import cumsum_p


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if shutil.which("g++") is None:
        skip("needs g++ for the emulator")
    with config.CUDA_EMULATION(1):
        yield


def also(dtype):
    """A dtype of the slow run: each is a compilation more."""
    return pytest.param(dtype, marks=pytest.mark.slow)


@pytest.mark.parametrize("dtype", [tl.float32, also(tl.float64), also(tl.bfloat16), also(tl.bool)], ids=str)
def test_cat(dtype):
    def make(*shape):
        return tl.randn(*shape).to(dtype)

    alike(cat_p, make(3, 4), make(0, 4), make(2, 4), dim=0, exact=True)
    alike(cat_p, make(3, 4), make(3, 1), make(3, 5), dim=1, exact=True)
    alike(cat_p, make(3, 8, 4), make(3, 4, 4), dim=1, exact=True)
    alike(cat_p, make(4, 5, 3).permute(2, 0, 1), make(3, 4, 2), dim=2, exact=True)
    alike(cat_p, make(5, 4, 3).permute(2, 1, 0), make(1, 4, 5).expand(3, 4, 5), make(3, 4, 10)[..., ::2], dim=0,
          exact=True)  # fmt: skip


def test_cat_in_channels_last():
    last = [tl.randn(2, c, 3, 4).contiguous(memory_format=tl.channels_last) for c in (4, 3, 8)]
    for dim in range(4):
        alike(cat_p, *(last if dim == 1 else last[:1] * 2), dim=dim, exact=True)
    made = tl.cat([there(x) for x in last], 1)
    assert made.is_contiguous(memory_format=tl.channels_last)
    alike(cat_p, last[0], tl.randn(2, 4, 3, 4), dim=1, exact=True)


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, also(tl.int64), also(tl.bool)], ids=str)
def test_pad(dtype):
    x = tl.randn(2, 3, 5, 4).mul(9).to(dtype)
    value = float("-inf") if dtype.is_floating_point else 1
    for widths in (
        ((0, 0), (0, 0), (1, 2), (3, 0)),
        ((1, 0), (0, 2), (-1, 2), (-2, -1)),
        ((0, 0), (2, 1), (0, 0), (0, 0)),
    ):
        for v in (x, x.contiguous(memory_format=tl.channels_last), x.permute(0, 1, 3, 2)):
            alike(pad_p, v, widths=widths, value=value, exact=True)
    alike(pad_p, tl.ones(0, 3).to(dtype), widths=((1, 1), (0, 1)), value=0, exact=True)
    six = tl.randn(2, 1, 2, 3, 2, 3).to(dtype)
    alike(pad_p, six, widths=((0, 0), (1, 0), (0, 0), (0, 0), (0, 1), (0, 0)), value=value, exact=True)


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16, also(tl.float64), also(tl.bool)], ids=str)
def test_triangles(dtype):
    for shape in ((5, 7), (3, 1, 6, 4), (0, 3)):
        x = tl.randn(*shape).to(dtype)
        for p in (tril, triu):
            for diagonal in (0, -2, 3, 9):
                for v in (x, x.transpose(-1, -2)):
                    made = p(there(v), diagonal)
                    assert (made.cpu() == p(v, diagonal)).all()
    x = tl.ones(4, 4).to(dtype)
    y = there(x)
    assert (y.tril_(-1).cpu() == x.tril(-1)).all() and (y[1:, :2].triu_().cpu() == x.tril(-1)[1:, :2].triu()).all()


@pytest.mark.parametrize("dtype", [tl.float32, tl.int64, also(tl.bfloat16), also(tl.float64)], ids=str)
def test_running_sums(dtype, monkeypatch):
    monkeypatch.setattr(running, "A_PART", {"lines": 700, "columns": 9})
    for shape in ((1,), (1500,), (3, 1100), (2, 37, 3), (0, 3)):
        x = tl.randn(*shape).mul(8).round().to(dtype)  # whole numbers: sums are exact, and rounded once
        for dim in range(len(shape)):
            for reverse in (False, True):
                alike(cumsum_p, x, dim=dim, reverse=reverse, exact=True)
    x = tl.randn(6, 5, 4).mul(8).round().to(dtype)
    alike(cumsum_p, x.permute(2, 0, 1), dim=1, reverse=False, exact=True)
    alike(cumsum_p, x[:, ::2], dim=0, reverse=True, exact=True)
    alike(cumsum_p, x[:1].expand(6, 5, 4), dim=0, reverse=False, exact=True)


def test_running_sums_in_every_order_of_threads(monkeypatch):
    monkeypatch.setattr(running, "A_PART", {"lines": 700, "columns": 9})
    line, columns = tl.randn(2500), tl.randn(50, 3)
    wanted = [np.cumsum(v.numpy().astype(np.float64), 0) for v in (line, columns)]
    found = set()
    for k in range(4):
        with emulator.order(k):
            made = [there(v).cumsum(0).cpu().numpy() for v in (line, columns)]
        found.add(tuple(v.tobytes() for v in made))
    assert len(found) == 1
    for a, b in zip(made, wanted):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
