"""The compiled pooling: against NumPy's in every kind of window, layout, instruction set and number of threads."""

from types import SimpleNamespace

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.pool import avg_pool2d_dx_p, avg_pool2d_p, max_pool2d_p, pool_put_p, pool_take_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
each_dtype = pytest.mark.parametrize("d", ["f4", "f8"])
each_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])

# image, kernel, stride, padding, dilation: halves of every width and with a row and a column left over, windows that
# overlap, that leave gaps, that lie in the padding alone, as large as the image; several tasks; places of four bytes
KINDS = [
    ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((2, 17, 5, 31), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((1, 4, 28, 70), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((3, 64, 28, 28), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((2, 3, 7, 6), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((1, 3, 7, 7), (3, 3), (2, 2), (0, 0), (1, 1)),
    ((2, 20, 40, 39), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((1, 2, 9, 35), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 5, 11, 50), (2, 3), (3, 4), (1, 0), (2, 3)),
    ((1, 5, 13, 23), (3, 2), (1, 2), (0, 1), (1, 5)),
    ((1, 2, 1, 1), (2, 2), (1, 1), (2, 2), (4, 4)),
    ((1, 2, 18, 17), (17, 17), (1, 1), (3, 2), (1, 1)),
    ((1, 19, 35, 37), (17, 17), (17, 17), (0, 0), (1, 1)),
    ((1, 19, 3, 3), (17, 17), (1, 1), (8, 8), (1, 1)),
    ((1, 19, 2, 2), (17, 17), (1, 1), (8, 8), (1, 1)),
    ((2, 33, 4, 4), (4, 4), (4, 4), (0, 0), (1, 1)),
    ((2, 3, 600, 90), (5, 5), (3, 3), (2, 2), (1, 1)),
    ((0, 3, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1)),
]


def draw(rng, shape, d, tiny=True):
    """Eighths, with ties, and here and there nan, infinities and -0: sums are exact in every order. And denormals."""
    x = rng.integers(-40, 40, shape).astype(d) / 8
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, np.finfo(d).smallest_subnormal if tiny else 0], d)
    at = rng.random(shape) < 0.1
    x[at] = rng.choice(odd, int(at.sum()))
    return x


def lie(a, layout):
    """A copy of ``a`` whose memory is in this order."""
    if layout == "contiguous":
        return np.ascontiguousarray(a)
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def compiled(op, layout, *arrays, outs, **kw):
    """The outputs of the compiled kernel, given arrays of this layout; ``outs`` are arrays like them."""
    spec = lambda a: SimpleNamespace(shape=a.shape, dtype=a.dtype, format=layout)
    arrays, rooms = [lie(a, layout) for a in arrays], [np.full(a.size + 64, 77, a.dtype) for a in outs]
    made = [np.ndarray(a.shape, a.dtype, r[32:], 0, lie(a, layout).strides) for a, r in zip(outs, rooms)]
    kernel = getattr(cpu.extension(), op)(tuple(map(spec, arrays)), tuple(map(spec, made)), kw)
    kernel(*arrays, *made)
    assert all((r[:32] == 77).all() and (r[-32:] == 77).all() for r in rooms)  # nothing was written beside them
    return made


def plain(op, *arrays, **kw):
    with config.KERNELS("plain"):
        y = op(*(tl.tensor(a) for a in arrays), **kw)
    return [t.numpy() for t in (y if isinstance(y, tuple) else (y,))]


def same(got, want, note, ulps=0, terms=0):
    """``terms``: what sums have at most. Denormal ones are each off by some smallest number, not by eps."""
    for g, w in zip(got, want, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            off, about = np.abs(g - w), np.finfo(w.dtype) if ulps else None
            near = off <= ulps * about.eps * np.abs(w) + terms * about.smallest_subnormal if ulps else False
        assert ((g == w) | ((g != g) & (w != w)) | near).all(), note


def check(rng, d, layout, shape, kernel, stride, padding, dilation, ceil=False, include=True, divisor=None):
    note = (d, layout, shape, kernel, stride, padding, dilation, ceil, include, divisor)
    windows = dict(kernel=kernel, stride=stride, padding=padding)
    how, size = dict(windows, dilation=dilation), shape[-2:]
    x = draw(rng, shape, d)
    want = plain(max_pool2d_p, x, ceil=ceil, **how)
    same(compiled("max_pool2d", layout, x, outs=want, ceil=ceil, **how), want, note)
    place = want[1]
    dy = draw(rng, place.shape, d, tiny=False)
    want = plain(pool_put_p, dy, place, size=size, **how)
    same(compiled("pool_put", layout, dy, place, outs=want, size=size, **how), want, note)
    want = plain(pool_take_p, x, place, **how)
    same(compiled("pool_take", layout, x, place, outs=want, **how), want, note)
    if dilation == (1, 1):
        windows.update(ceil=ceil, include=include, divisor=divisor)
        want = plain(avg_pool2d_p, x, **windows)
        same(compiled("avg_pool2d", layout, x, outs=want, **windows), want, note)
        dy = np.abs(draw(rng, want[0].shape, d))  # shares of one sign, whose sum in another order is near
        want = plain(avg_pool2d_dx_p, dy, size=size, **windows)
        got = compiled("avg_pool2d_dx", layout, dy, outs=want, size=size, **windows)
        same(got, want, note, ulps=16, terms=2 * kernel[0] * kernel[1])


@each_isa
@each_layout
@each_dtype
def test_every_kind_of_window(isa, layout, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for kind in KINDS:
            check(rng, d, layout, *kind)


@each_isa
@each_layout
def test_what_a_mean_counts(isa, layout):
    rng = np.random.default_rng(1)
    shape, kernel, stride, padding = (2, 19, 12, 37), (3, 4), (2, 3), (1, 2)
    with config.ISA(isa):
        for ceil, include, divisor in [(True, True, None), (True, False, None), (False, False, None), (False, True, 5)]:
            check(rng, "f4", layout, shape, kernel, stride, padding, (1, 1), ceil, include, divisor)
        check(rng, "f4", layout, (2, 19, 12, 36), (2, 2), (2, 2), (0, 0), (1, 1), divisor=3)
        check(rng, "f4", layout, (2, 19, 11, 35), (2, 2), (2, 2), (0, 0), (1, 1), ceil=True)


@each_layout
def test_places_that_no_window_has_are_left_out(layout):
    how = dict(kernel=(2, 2), stride=(2, 2), padding=(1, 1), dilation=(1, 1))
    place = np.full((1, 2, 3, 3), 200, np.uint8)
    dy, x = np.ones(place.shape, np.float32), np.ones((1, 2, 5, 5), np.float32)
    assert not compiled("pool_put", layout, dy, place, outs=[x], size=(5, 5), **how)[0].any()
    assert not compiled("pool_take", layout, x, place, outs=[dy], **how)[0].any()


@each_layout
@pytest.mark.parametrize("window", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1))])
def test_the_same_bits_for_every_number_of_threads(threads, layout, window):
    rng = np.random.default_rng(2)
    how = dict(zip(("kernel", "stride", "padding"), window))
    x = rng.standard_normal((4, 48, 37, 41)).astype("f4")
    y, place = plain(max_pool2d_p, x, ceil=False, dilation=(1, 1), **how)
    dy, mean = rng.standard_normal(y.shape).astype("f4"), dict(ceil=False, include=True, divisor=None, **how)
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(
            [
                *compiled("max_pool2d", layout, x, outs=[y, place], ceil=False, dilation=(1, 1), **how),
                *compiled("pool_put", layout, dy, place, outs=[x], size=x.shape[2:], dilation=(1, 1), **how),
                *compiled("pool_take", layout, x, place, outs=[y], dilation=(1, 1), **how),
                *compiled("avg_pool2d", layout, x, outs=[y], **mean),
                *compiled("avg_pool2d_dx", layout, dy, outs=[x], size=x.shape[2:], **mean),
            ]
        )
    assert all((a == b).all() for made in found[1:] for a, b in zip(found[0], made))


def test_ops_take_the_compiled_kernels():
    x = tl.randn(2, 3, 8, 8)
    how = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    y, place = max_pool2d_p(x, ceil=False, dilation=(1, 1), **how)
    mean = dict(ceil=False, include=True, divisor=None)
    for op, given, kw in (
        (max_pool2d_p, [x], dict(dilation=(1, 1), ceil=False)),
        (pool_put_p, [y, place], dict(dilation=(1, 1), size=(8, 8))),
        (pool_take_p, [x, place], dict(dilation=(1, 1))),
        (avg_pool2d_p, [x], mean),
        (avg_pool2d_dx_p, [y], dict(mean, size=(8, 8))),
    ):
        assert op.op.entry(tuple(t._spec for t in given), dict(how, **kw)).native, op


@pytest.mark.parametrize("call", [
    lambda F, x: F.max_pool2d(x, 3, 2, 1), lambda F, x: F.avg_pool2d(x, 2), lambda F, x: F.max_pool2d(x, 6)
])  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_channels_last_in_and_out(call, turned):
    """``turned``: the gradient comes in contiguous."""
    F, value = tl.nn.functional, tl.randn(2, 3, 6, 6)
    x, z = value.clone().requires_grad_(), value.to(memory_format=tl.channels_last).requires_grad_()
    y, w = call(F, x), call(F, z)
    assert w.is_contiguous(memory_format=tl.channels_last)
    g = tl.randn(*y.shape)
    y.backward(g)
    w.backward(g if turned else g.to(memory_format=tl.channels_last))
    assert (y == w).all() and (x.grad == z.grad).all()
    assert z.grad.is_contiguous(memory_format=tl.channels_last)


@pytest.mark.slow
def test_fuzz_pool():
    seed = int(np.random.default_rng().integers(1 << 32))
    rng = np.random.default_rng(seed)
    pick = lambda low, high: tuple(int(v) for v in rng.integers(low, high, 2))
    done = 0
    try:
        while done < 10_000:
            shape = (int(rng.integers(0, 4)), int(rng.integers(1, 40)), *pick(1, 40))
            kernel, dilation = pick(1, 6), pick(1, 4) if rng.random() < 0.3 else (1, 1)
            stride = kernel if rng.random() < 0.4 else pick(1, 5)
            padding = pick(0, 4)
            reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
            if any(p > r // 2 or n + 2 * p < r for n, p, r in zip(shape[2:], padding, reach)):
                continue
            done += 1
            isa, layout = rng.choice(["baseline", "avx2", "avx512"]), rng.choice(["contiguous", "channels_last"])
            with config.ISA(str(isa)):
                d, divisor = str(rng.choice(["f4", "f8"])), 3 if rng.random() < 0.2 else None
                ceil, include = (bool(rng.random() < part) for part in (0.3, 0.7))
                check(rng, d, str(layout), shape, kernel, stride, padding, dilation, ceil, include, divisor)
    except AssertionError:
        print("seed", seed)
        raise
