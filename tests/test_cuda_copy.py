"""The copy kernel in the emulator against NumPy: every size of element, every way in which an array can lie."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_harness import skip

from tensorlite import config
from tensorlite.backends import launch
from tensorlite.backends.launch import copy
from tensorlite.errors import KernelError


@pytest.fixture(scope="module", autouse=True)
def emulated():
    if shutil.which("g++") is None:
        skip("needs g++ for the emulator")
    with config.CUDA_EMULATION(1):
        yield


def on_device(a):
    """An array of NumPy's as CuPy's are: they tell their address."""
    return SimpleNamespace(
        array=a,
        size=a.size,
        shape=a.shape,
        strides=a.strides,
        itemsize=a.itemsize,
        data=SimpleNamespace(ptr=a.ctypes.data),
    )


def room(nbytes, offset=0):
    """Bytes that begin ``offset`` after a multiple of 256."""
    whole = np.full(nbytes + 512, 0xAB, np.uint8)
    start = -whole.ctypes.data % 256 + offset
    return whole[start : start + nbytes]


def copied(x, offset=0):
    out = room(x.size * x.itemsize, offset).view(x.dtype).reshape(x.shape)
    copy.contiguous((), (), {})(on_device(x), on_device(out))
    return out


def values(shape, dtype, offset=0):
    a = room(int(np.prod(shape)) * np.dtype(dtype).itemsize, offset).view(dtype).reshape(shape)
    a[...] = np.random.default_rng(len(shape)).integers(0, 127, shape)
    return a


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize(
    "lay",
    [
        lambda make: make(37, 29).T,
        lambda make: make(9, 40)[:, 3:20],
        lambda make: make(33, 33)[::2, ::-3],
        lambda make: np.broadcast_to(make(7, 1, 5), (7, 6, 5)),
        lambda make: make(3, 4, 5, 2, 3, 4).transpose(5, 3, 1, 4, 2, 0)[1:],
        lambda make: make(2, 3, 4, 5, 2, 3, 2)[:, :, :, :3].transpose(3, 0, 1, 2, 4, 6, 5),  # three of them are one
        lambda make: make(2, 6, 8, 8).transpose(0, 2, 3, 1),
        lambda make: make(2, 20, 7, 9).transpose(0, 2, 3, 1),
        lambda make: make(33, 64).T,
        lambda make: make(18, 2, 3, 2, 3, 17).transpose(3, 1, 5, 4, 2, 0)[:, ::-1],
        lambda make: np.broadcast_to(make(40, 1), (40, 35)).T.reshape(35, 40).T,
        lambda make: make(1100),
        lambda make: make(1),
        lambda make: make(0, 5).T,
        lambda make: make(2, 1, 3)[:, :, 1],
        lambda make: make(),
    ],
)
def test_copies(dtype, lay):
    x = lay(lambda *shape: values(shape, dtype))
    y = copied(x)
    assert np.array_equal(x, y)


def test_every_order_of_threads():
    from tensorlite.backends import emulator

    for x in (values((40, 33), "f4").T, values((40, 33), "f4")[:, 1:]):
        for order in range(emulator.ORDERS):
            with emulator.order(order):
                assert np.array_equal(copied(x), x)


@pytest.mark.parametrize("offset", [0, 4, 8])
@pytest.mark.parametrize("shape", [(64,), (33,), (12, 10)])
def test_dense_arrays_anywhere(shape, offset):
    """The unit is as wide as both addresses and the size allow."""
    x = values(shape, "f4", offset)
    assert np.array_equal(copied(x), x) and np.array_equal(copied(x, 4), x) and np.array_equal(copied(x, 8), x)


@pytest.mark.parametrize(
    "shape, strides, itemsize, offset, unit, sizes",
    [
        ((64,), (4,), 4, 0, 16, [16]),
        ((64,), (4,), 4, 8, 8, [32]),
        ((64,), (4,), 4, 4, 4, [64]),
        ((63,), (4,), 4, 0, 4, [63]),
        ((64, 64), (256, 4), 4, 0, 16, [1024]),
        ((10, 8), (48, 4), 4, 0, 16, [2, 10]),
        ((10, 8), (40, 4), 4, 0, 8, [4, 10]),
        ((10, 4), (4, 40), 4, 0, 4, [4, 10]),
        ((5, 16), (0, 1), 1, 0, 16, [5]),  # a row of one unit, again and again
        ((1, 1), (8, 8), 8, 0, 8, [1]),
    ],
)
def test_units_and_dimensions(shape, strides, itemsize, offset, unit, sizes):
    kernel, _, (units, dims, *rest) = copy.plan_of(shape, strides, itemsize, offset)
    defines = dict(kernel.module.defines)
    assert defines == {"UNIT": copy.UNITS[unit], "WIDE": 0} and dims == len(sizes)
    assert units == np.prod(sizes) and rest[: 3 * (len(sizes) - 1) : 3] == sizes[:-1]


@pytest.mark.parametrize(
    "shape, strides, grid, others",
    [
        ((64, 33), (4, 256), 2 * 2, []),
        ((3, 64, 33), (40_000, 4, 256), 3 * 2 * 2, [3, 10_000, 64 * 33]),
        ((64, 5, 16), (4, 9000, 256), 2 * 5, [5, 2250, 16]),
        ((64, 15), (4, 256), None, []),  # too few to be worth it
        ((15, 64), (4, 256), None, []),
    ],
)
def test_what_is_turned_in_tiles(shape, strides, grid, others):
    kernel, blocks, numbers = copy.plan_of(shape, strides, 4, 0)
    assert kernel.name == ("strided" if grid is None else "turned")
    if grid is not None:
        assert blocks == (grid,) and list(numbers[4 : 4 + len(others)]) == others


def test_index_of_64_bits():
    """The kernel for 2^31 units and more, on few; and where it begins."""
    x = values((3, 2, 4, 3, 2, 5), "f4").transpose(5, 3, 1, 4, 2, 0)
    y = np.empty(x.shape, "f4")
    dims = copy.joined(x.shape, x.strides)
    assert len(dims) == 6
    bases = [number for n, _ in dims[:-1] for number in (n, 0, 0)]
    kernel = launch.load("copy", UNIT="unsigned int", WIDE=1).kernel("strided", copy.TYPES)
    kernel((1,), (256,), on_device(x), on_device(y), x.size, 6, *bases, *(stride // 4 for _, stride in dims))
    assert np.array_equal(x, y)
    kernel = launch.load("copy", UNIT="unsigned int", WIDE=1).kernel("turned", copy.TURNED)
    x = values((3, 33, 40), "f4").transpose(0, 2, 1)
    y = np.empty(x.shape, "f4")
    grid, numbers = copy._turned([(33, 40), (40, 1), (3, 33 * 40)], 1)
    kernel(grid, (256,), on_device(x), on_device(y), *numbers)
    assert np.array_equal(x, y)
    for n, wide in ((2**31 - 1, 0), (2**31, 1)):
        kernel, (blocks,), _ = copy.plan_of((n,), (8,), 4, 0)
        assert dict(kernel.module.defines)["WIDE"] == wide and blocks == 2**21


def test_the_magic_of_division():
    rng = np.random.default_rng(0)
    divisors = [*range(1, 200), *(2**k + d for k in range(8, 31) for d in (-1, 0, 1)), *rng.integers(1, 2**31, 300)]
    for n in map(int, divisors):
        m, s = copy.magic(n)
        i = np.concatenate([rng.integers(0, 2**31, 50), [0, n - 1, n, 2**31 - 1, (2**31 - 1) // n * n - 1]])
        i = i[(i >= 0) & (i < 2**31)].astype(np.uint64)
        high = i * np.uint64(m) >> np.uint64(32)
        assert m < 2**32 and (high + i < 2**32).all()
        assert ((high + i >> np.uint64(s)) == i // np.uint64(n)).all(), n


def test_refusals():
    with pytest.raises(KernelError, match="are 7 dimensions; wanted 6"):
        copy.plan_of((2,) * 7, tuple(4 * 3**k for k in range(7)), 4, 0)
    for strides, offset in (((22, 4), 0), ((20, 4), 2)):
        with pytest.raises(KernelError, match="multiples of the element's 4 bytes"):
            copy.plan_of((5, 3), strides, 4, offset)
