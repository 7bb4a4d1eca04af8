"""Random numbers and dropout on CUDA in the emulator: the CPU's bits, for every dtype, layout and size."""

import shutil

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import emulator, standin
from tensorlite.ops import random

FLOATS = (tl.float32, tl.float64, tl.float16, tl.bfloat16)
KEYS = ([7, 3], [-1, 2**40])


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if shutil.which("g++") is None:
        skip("needs g++ for the emulator")
    with config.CUDA_EMULATION(1):
        yield


def key_of(values):
    key = tl.tensor(values, dtype=tl.int64)
    return key, key.to("cuda")


def alike(of, on_cpu, on_cuda, **kw):
    """The op gives the same bits on both, without a copy to or from the host; gives them back."""
    wanted = of(*on_cpu, **kw)
    with standin.watch() as seen:
        made = of(*on_cuda, **kw)
    assert not seen.crossings
    assert made.device.type == "cuda" and made.dtype is wanted.dtype and made.shape == wanted.shape
    entry = of.op.entry(tuple(t._spec for t in on_cuda), kw)
    assert entry.native, "the plain forward ran"
    bits = [np.ascontiguousarray(t.cpu().contiguous()._arr).tobytes() for t in (wanted, made)]
    assert bits[0] == bits[1], (of.op.name, kw)
    return made


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("p", [random.uniform_p, random.normal_p], ids=["uniform", "normal"])
def test_floats(p, dtype):
    for values in KEYS:
        key, there = key_of(values)
        for shape in ((0,), (), (1,), (2,), (3, 1), (5,), (7, 19), (1000,)):
            alike(p, (key,), (there,), shape=shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [tl.int64, tl.float32, tl.bool], ids=str)
def test_integers(dtype):
    key, there = key_of(KEYS[1])
    for shape, low, high in (((0,), 0, 2), ((1,), -4, 9), ((101,), 0, 2**62), ((64,), -(2**63), 2**63 - 1)):
        if dtype is tl.int64 or high < 100:
            alike(random.randint_p, (key,), (there,), shape=shape, dtype=dtype, low=low, high=high)


def test_permutations():
    key, there = key_of(KEYS[0])
    for n in (0, 1, 2, 33, 300):
        alike(random.randperm_p, (key,), (there,), n=n)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bernoulli(dtype):
    key, there = key_of(KEYS[0])
    for shape in ((0,), (1,), (5, 7), (250,)):
        x = tl.rand(*shape).to(dtype)
        alike(random.bernoulli_p, (x, key), (x.to("cuda"), there))
    x = tl.rand(7, 5)
    alike(random.bernoulli_p, (x.T, key), (x.to("cuda").T, there))
    assert tl.zeros(9, device="cuda").bernoulli().tolist() == [0] * 9
    assert tl.ones(9, device="cuda").bernoulli().tolist() == [1] * 9


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_no_probability(bad):
    x = tl.tensor([0.5, bad, 0.5])
    with pytest.raises(RuntimeError) as said:
        tl.bernoulli(x)
    y = tl.bernoulli(x.to("cuda"))
    with pytest.raises(RuntimeError) as noted:
        y.cpu()
    assert str(noted.value) == str(said.value)
    tl.ones(2, device="cuda").cpu()  # said once


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dropout(dtype):
    key, there = key_of(KEYS[1])
    x = tl.randn(5, 67).to(dtype)
    x[0, :2] = tl.tensor([0.0, -0.0]).to(dtype)
    c = x.to("cuda")
    for p in (0.1, 0.5, 1.0):
        alike(random.dropout_p, (x, key), (c, there), p=p, channels=0)
        alike(random.dropout_p, (x[:, 1:], key), (c[:, 1:], there), p=p, channels=0)
        alike(random.dropout_p, (x.T, key), (c.T, there), p=p, channels=0)
        alike(random.dropout_p, (x, key), (c, there), p=p, channels=1)


def test_dropout_keeps_what_is_not_finite():
    key, there = key_of(KEYS[0])
    x = tl.tensor([float("nan"), float("inf"), float("-inf")] * 5)
    wanted, made = (random.dropout_p(v, k, p=0.5, channels=0).tolist() for v, k in ((x, key), (x.to("cuda"), there)))
    np.testing.assert_array_equal(made, wanted)


def test_dropout_of_channels():
    key, there = key_of(KEYS[0])
    for shape in ((0, 3, 2, 2), (2, 3, 1, 1), (3, 5, 3, 7), (1, 2, 40, 50)):
        x = tl.randn(*shape)
        last = x.contiguous(memory_format=tl.channels_last)
        for v in (x, last, x.expand(shape).transpose(2, 3)):
            for channels in (0, 2):
                alike(random.dropout_p, (v, key), (_there(v), there), p=0.4, channels=channels)
    x = tl.randn(3, 5, 2, 9000)  # rows in parts
    alike(random.dropout_p, (x[:1, :2], key), (_there(x[:1, :2]), there), p=0.4, channels=2)


def _there(x):
    """On the device, lying as it does here."""
    if x.is_contiguous(memory_format=tl.channels_last) and not x.is_contiguous():
        return x.to("cuda").contiguous(memory_format=tl.channels_last)
    return x.to("cuda") if x.is_contiguous() else x.contiguous().transpose(2, 3).contiguous().to("cuda").transpose(2, 3)


def test_gradient_of_dropout_finds_its_mask():
    there = tl.Generator("cuda").manual_seed(11)
    _, key = key_of(there._state.tolist())
    x = tl.randn(4, 9, device="cuda").requires_grad_()
    y = random.dropout_p(x, key, p=0.5, channels=0)
    y.backward(tl.ones(4, 9).to("cuda"))
    grad, y = x.grad.cpu(), y.detach().cpu()
    assert ((grad == 0) == (y == 0)).all() and ((grad == 2) == (y != 0)).all()


def test_generators_move_on_alike():
    here, there = tl.Generator().manual_seed(5), tl.Generator("cuda").manual_seed(5)
    tl.rand(3, generator=there, device="cuda")  # what is done once
    here.manual_seed(5), there.manual_seed(5)
    with standin.watch() as seen:
        made = [tl.rand(3, generator=there, device="cuda") for _ in range(3)]
    assert not seen.crossings
    for y in made:
        assert (y.cpu() == tl.rand(3, generator=here)).all()
    assert there.get_state().tolist() == here.get_state().tolist()


def test_keys_with_gaps():
    key, there = key_of(KEYS[1])
    there = tl.tensor([[v, 9] for v in KEYS[1]], dtype=tl.int64).to("cuda")[:, 0]
    alike(random.normal_p, (key,), (there,), shape=(9,), dtype=tl.float32)
    alike(random.randperm_p, (key,), (there,), n=9)
    x = tl.randn(6)
    alike(random.dropout_p, (x, key), (x.to("cuda"), there), p=0.5, channels=0)
    assert random.take_key_p(there).tolist() == KEYS[1] and there.tolist() == [KEYS[1][0], KEYS[1][1] + 1]


def test_in_every_order_of_threads():
    _, key = key_of(KEYS[0])
    found = set()
    for k in range(4):
        with emulator.order(k):
            found.add(random.normal_p(key, shape=(301,), dtype=tl.float32).cpu()._arr.tobytes())
    assert len(found) == 1
