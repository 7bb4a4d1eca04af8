"""relu and pooling in one pass, behind a convolution or alone: the bits of one op after another."""

import numpy as np
import pytest
from test_native_conv import SIZES, Given

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.activation import relu_dx_p, relu_p
from tensorlite.ops.conv import conv2d_p
from tensorlite.ops.conv_pool import (
    HALVES,
    conv_relu_pool_dw_p,
    conv_relu_pool_dx_p,
    conv_relu_pool_p,
    relu_pool_dx_p,
    relu_pool_p,
)
from tensorlite.ops.pool import max_pool2d_p, pool_put_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])

# what the convolutions' own tests have, and sizes for Winograd's
MORE = {
    "first layer": (5, 1, 32, (28, 28), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "second layer": (9, 32, 64, (13, 13), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "winograd, padded": (3, 16, 32, (24, 23), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "winograd, narrow": (40, 32, 16, (7, 6), (3, 3), (1, 1), (1, 1), (1, 0, 0, 1), 1),
    "large": (1, 40, 70, (60, 50), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 1),
    "many weights": (2, 64, 66, (6, 5), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "one window": (6, 20, 24, (4, 5), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
}
ALL = {k: v for k, v in {**SIZES, **MORE}.items() if k not in ("one", "one row", "taps that no pixel meets")}


def laid(a, d, last):
    return tl.tensor(a, dtype=d).contiguous(memory_format=tl.channels_last if last else tl.contiguous_format)


def bits(*tensors):
    return [np.ascontiguousarray(t.numpy()).tobytes() for t in tensors]


def check(given, d, last="", bias=True):
    """The forward's bits, and the gradient's of what is pooled."""
    x, w = laid(given.x, d, "x" in last), laid(given.w, d, "w" in last)
    b = tl.tensor(given.b, dtype=d) if bias else None
    with tl.no_grad():
        relu = relu_p(conv2d_p(x, w, b, **given.kw))
        y, place = max_pool2d_p(relu, **HALVES, ceil=False)
        got = conv_relu_pool_p(x, w, b, **given.kw)
        assert [t._spec for t in got] == [t._spec for t in (y, place)]
        assert bits(*got) == bits(y, place)
        g = laid(np.random.default_rng(3).standard_normal(y.shape), d, y._spec.format == "channels_last")
        size = relu.shape[2:]
        dx = relu_pool_dx_p(g, y, place, size=size, **HALVES)
        assert bits(dx) == bits(relu_dx_p(pool_put_p(g, place, size=size, **HALVES), relu))


@each_isa
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
@pytest.mark.parametrize("name", ALL)
def test_the_bits_of_one_after_another(name, d, isa):
    given = Given(ALL[name], d, np.random.default_rng(0))
    with config.ISA(isa):
        for last in ("", "xw"):
            check(given, d, last, bias=last == "")


@pytest.mark.parametrize("last", ["x", "w"])
@pytest.mark.parametrize("name", ALL)
def test_mixed_layouts(name, last):
    check(Given(ALL[name], tl.float32, np.random.default_rng(0)), tl.float32, last)


@pytest.mark.parametrize("last", ["", "xw"])
@pytest.mark.parametrize("name", ALL)
def test_nan_infinities_and_ties(name, last):
    """Few different numbers, so that windows have ties; nan wins, and an image with infinities is gathered anew."""
    given = Given(ALL[name], tl.float32, np.random.default_rng(1), special=True)
    check(given, tl.float32, last)
    given.x, given.w, given.b = (np.round(np.nan_to_num(a, posinf=0, neginf=0)) for a in (given.x, given.w, given.b))
    check(given, tl.float32, last)


@pytest.mark.parametrize("last", ["", "xw"])
@pytest.mark.parametrize("name", ALL)
def test_the_same_bits_for_every_number_of_threads(name, last, threads):
    given, found = Given(ALL[name], tl.float32, np.random.default_rng(0)), []
    x, w, b = (laid(a, tl.float32, last and a.ndim == 4) for a in (given.x, given.w, given.b))
    for n in (1, 2, 3):
        threads(n)
        found.append(bits(*conv_relu_pool_p(x, w, b, **given.kw)))
    assert found[0] == found[1] == found[2]


def test_without_winograd():
    given = Given(MORE["second layer"], tl.float32, np.random.default_rng(0))
    with config.WINOGRAD(0):
        check(given, tl.float32)
        check(given, tl.float32, "xw")


@each_isa
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_relu_and_every_kind_of_window(d, last, isa):
    from test_native_pool import KINDS, draw

    rng = np.random.default_rng(0)
    with config.ISA(isa), tl.no_grad():
        for shape, kernel, stride, padding, dilation in KINDS:
            how = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
            x = laid(draw(rng, shape, d.np), d, last)
            relu = relu_p(x)
            y, place = relu_pool_p(x, ceil=False, **how)
            assert bits(y, place) == bits(*max_pool2d_p(relu, ceil=False, **how)), how
            g = laid(np.round(rng.standard_normal(y.shape) * 8), d, y._spec.format == "channels_last")
            got = relu_pool_dx_p(g, y, place, size=shape[2:], **how)
            want = relu_dx_p(pool_put_p(g, place, size=shape[2:], **how), relu)
            assert (got == want).all(), how


def gradients(given, d, last):
    """dw, db and dx from what is pooled, and the two ops."""
    x, w = laid(given.x, d, "x" in last), laid(given.w, d, "w" in last)
    y, place = conv_relu_pool_p(x, w, tl.tensor(given.b, dtype=d), **given.kw)
    g = laid(np.random.default_rng(3).standard_normal(y.shape), d, y._spec.format == "channels_last")
    dw, db = conv_relu_pool_dw_p(x, g, y, place, kernel=given.kernel, **given.kw)
    dx = conv_relu_pool_dx_p(g, y, place, w, size=given.size, **given.kw)
    return dw, db, dx, g, y, place


def check_gradients(given, d, last):
    """Beside NumPy's, in float64, of the same outputs."""
    with tl.no_grad():
        dw, db, dx, g, y, place = gradients(given, d, last)
    for op, at in ((conv_relu_pool_dw_p.op, 1), (conv_relu_pool_dx_p.op, 0))[: 1 if given.c % 16 else 2]:
        native = [e.native for e in op.cache.values() if e.specs[at] is g._spec]
        assert native and all(native), op.name
    with config.KERNELS("plain"), tl.no_grad():
        wide = [tl.tensor(a.numpy(), dtype=tl.float64) for a in (g, y)]
        place = tl.tensor(place.numpy())
        x, w = (tl.tensor(a, dtype=tl.float64) for a in (given.x, given.w))
        want = conv_relu_pool_dw_p(x, *wide, place, kernel=given.kernel, **given.kw)
        want = (*want, conv_relu_pool_dx_p(*wide, place, w, size=given.size, **given.kw))
    eps = 1e-5 if d is tl.float32 else 1e-13
    for a, z in zip((dw, db, dx), want):
        np.testing.assert_allclose(a.numpy(), z.numpy(), rtol=eps, atol=eps * max(np.abs(z.numpy()).max(), 1))


GROUPLESS = [name for name, sizes in ALL.items() if sizes[-1] == 1]


@each_isa
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
@pytest.mark.parametrize("name", GROUPLESS)
def test_gradients_of_the_winners(name, d, isa):
    given = Given(ALL[name], d, np.random.default_rng(0))
    with config.ISA(isa):
        for last in ("", "xw", "x", "w"):
            check_gradients(given, d, last)


@each_isa
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_every_part_of_a_window_that_stays_in_registers(d, isa):
    """One to three rows of taps by as many vectors as there are registers for: w's gradient, then x's too, whose
    channels come by sixteens."""
    rng, lanes = np.random.default_rng(0), {"baseline": 16, "avx2": 32, "avx512": 64}[isa] // d.itemsize
    with config.ISA(isa):
        for rows in (1, 2, 3):
            for vectors in range(1, 9):
                for c, width in ((vectors * lanes - (vectors > 1), 1), (16, vectors)):
                    sizes = (2, c, 3, (rows + 1, width + 3), (rows, width), (1, 1), (1, 1), (0, 0, 0, 0), 1)
                    check_gradients(Given(sizes, d, rng), d, "xw" if vectors % 2 else "")


# (x's where channels make whole vectors: others have no kernel, and NumPy's products depend on threads)
@pytest.mark.parametrize("last", ["", "xw"])
@pytest.mark.parametrize("name", GROUPLESS)
def test_gradients_have_the_same_bits_for_every_number_of_threads(name, last, threads):
    given, found = Given(ALL[name], tl.float32, np.random.default_rng(0)), []
    for n in (1, 2, 3):
        threads(n)
        found.append(bits(*gradients(given, tl.float32, last)[: 2 if given.c % 16 else 3]))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["second layer", "first layer", "groups", "rows", "winograd, padded", "wide"])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_are_those_of_one_after_another(name, last):
    """Whichever way they take: by the winners, by the whole gradient."""
    F = tl.nn.functional
    sizes = dict(ALL, wide=(1, 16, 16, (80, 70), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1))[name]
    given = Given(sizes, tl.float32, np.random.default_rng(0))
    found = []
    for fused in (True, False):
        x, w, b = (laid(a, tl.float32, last and a.ndim == 4).requires_grad_() for a in (given.x, given.w, given.b))
        if fused:
            y = conv_relu_pool_p(x, w, b, **given.kw)[0]
        else:
            y = F.max_pool2d(F.relu(conv2d_p(x, w, b, **given.kw)), 2)
        (y * y).sum().backward()
        found.append((x.grad, w.grad, b.grad))
    for a, z in zip(*found):
        assert (a - z).abs().max() <= 3e-5 * z.abs().max()


@pytest.mark.parametrize(
    "op", [relu_pool_p, relu_pool_dx_p, conv_relu_pool_p, conv_relu_pool_dw_p, conv_relu_pool_dx_p]
)
def test_is_native(op):
    x, w = tl.randn(2, 3, 9, 8), tl.randn(4, 3, 3, 3)
    y, place = relu_pool_p(x, **HALVES, ceil=False)
    how = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    z, at = conv_relu_pool_p(x, w, **how)
    given, kw = {
        "relu_pool": ((x,), dict(HALVES, ceil=False)),
        "relu_pool_dx": ((y, y, place), dict(HALVES, size=(9, 8))),
        "conv_relu_pool": ((x, w, None), how),
        "conv_relu_pool_dw": ((x, z, z, at), dict(how, kernel=(3, 3))),
        "conv_relu_pool_dx": ((z, z, at, tl.randn(4, 16, 3, 3)), dict(how, size=(9, 8))),
    }[op.op.name]
    assert op.op.entry(tuple(t if t is None else t._spec for t in given), kw).native
