"""The compiled convolutions: against NumPy's, in every family of sizes, layout, instruction set, number of threads."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.conv import conv2d_db_p, conv2d_dw_p, conv2d_dx_p, conv2d_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

# images, channels, features, (height, width), kernel, stride, dilation, padding (top, bottom, left, right), groups
SIZES = {
    "one": (1, 1, 1, (3, 3), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "odd": (2, 3, 4, (6, 5), (3, 2), (1, 1), (1, 1), (1, 0, 0, 1), 1),
    "grey": (3, 1, 33, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "colour": (2, 3, 16, (32, 32), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "colour, strided": (2, 3, 18, (31, 30), (7, 7), (2, 2), (1, 1), (3, 3, 3, 3), 1),
    "grey, many features": (5, 1, 32, (28, 28), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "grey, five taps a row": (3, 1, 48, (19, 17), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 1),
    "grey, one tap": (2, 1, 16, (9, 9), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "grey, all different": (3, 1, 64, (31, 37), (2, 3), (1, 1), (3, 2), (2, 0, 1, 3), 1),
    "grey, bands": (1, 1, 80, (70, 64), (3, 3), (1, 1), (2, 1), (2, 2, 1, 1), 1),
    "grey, narrow": (2, 1, 16, (40, 3), (3, 7), (1, 1), (1, 1), (1, 1, 3, 3), 1),
    "few channels, all different": (3, 2, 64, (31, 37), (2, 3), (2, 3), (3, 2), (2, 0, 1, 3), 1),
    "few channels, bands": (1, 3, 80, (70, 64), (3, 3), (1, 1), (2, 1), (2, 2, 1, 1), 1),
    "few channels, strided rows": (2, 4, 16, (25, 20), (3, 2), (2, 1), (1, 1), (1, 1, 0, 1), 1),
    "two channels, dilated": (3, 2, 7, (12, 11), (3, 2), (1, 1), (2, 3), (1, 2, 0, 3), 1),
    "three channels, no padding": (2, 3, 5, (9, 30), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "four channels": (2, 4, 20, (20, 9), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 1),
    "rows": (2, 33, 70, (15, 14), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "images": (19, 20, 37, (5, 5), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "few images, many channels": (1, 130, 150, (4, 6), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "bands": (1, 40, 48, (60, 50), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "points": (3, 16, 40, (9, 8), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "points, strided": (2, 16, 32, (9, 8), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), 1),
    "points, padded": (2, 4, 4, (5, 5), (1, 1), (1, 1), (1, 1), (3, 3, 3, 3), 1),
    "strided": (2, 16, 32, (11, 12), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 1),
    "all different": (2, 5, 6, (13, 17), (2, 3), (3, 2), (2, 3), (2, 0, 1, 3), 1),
    "dilated": (2, 18, 17, (14, 13), (3, 3), (1, 1), (2, 2), (2, 2, 2, 2), 1),
    "groups": (2, 12, 18, (8, 9), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 3),
    "groups, strided": (2, 64, 32, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 2),
    "depthwise": (2, 37, 37, (9, 10), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 37),
    "depthwise, strided": (2, 16, 32, (9, 10), (5, 3), (2, 1), (1, 2), (2, 2, 1, 1), 16),
    "depthwise, rows of whole vectors": (2, 32, 32, (30, 32), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 32),
    "depthwise, few channels": (3, 3, 3, (9, 40), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 3),
    "depthwise, 7x7": (2, 48, 48, (14, 14), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3), 48),
    "depthwise, stride 2": (2, 70, 70, (41, 75), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 70),
    "depthwise, stride 3": (2, 5, 5, (11, 50), (2, 2), (3, 3), (1, 1), (0, 1, 2, 0), 5),
    "depthwise, wider than the image": (2, 20, 20, (3, 2), (5, 5), (1, 1), (2, 2), (4, 4, 4, 4), 20),
    "channel multiplier": (2, 9, 27, (10, 19), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 9),
    "channel multiplier, many channels": (2, 18, 36, (8, 33), (3, 2), (1, 1), (1, 2), (1, 1, 1, 1), 18),
    "one row": (3, 6, 10, (1, 20), (1, 3), (1, 2), (1, 1), (0, 0, 1, 1), 1),
    "taps that no pixel meets": (2, 48, 6, (1, 10), (2, 2), (3, 2), (1, 2), (3, 3, 0, 3), 3),
    "points of groups of one channel": (2, 2, 8, (15, 14), (1, 1), (1, 3), (2, 1), (3, 0, 2, 0), 2),
    "wider than the image": (2, 4, 5, (3, 3), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3), 1),
}
DEPTHWISE = [name for name in SIZES if "depthwise" in name or "multiplier" in name]
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
each_dtype = pytest.mark.parametrize("d", [tl.float32, tl.float64])
each_layout = pytest.mark.parametrize("last", ["", "x", "w", "y", "xwy"])


class Given:
    """A convolution: its arrays, drawn, and its three calls."""

    def __init__(self, sizes, d, rng, special=False):
        self.n, self.c, self.o, self.size, self.kernel, stride, dilation, padding, groups = sizes
        self.kw = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        out = [
            (n + padding[2 * k] + padding[2 * k + 1] - dilation[k] * (self.kernel[k] - 1) - 1) // stride[k] + 1
            for k, n in enumerate(self.size)
        ]
        draw = lambda *s: rng.uniform(-1, 1, s).astype(d.np)
        self.x = draw(self.n, self.c, *self.size)
        self.w = draw(self.o, self.c // groups, *self.kernel)
        self.b = draw(self.o)
        self.dy = draw(self.n, self.o, *out)
        self.d = d
        if special:  # what the zeros around an image meet must be finite: weights, and dy where it meets x
            for a in (self.x, self.dy):
                a.flat[rng.integers(0, a.size, 2)] = rng.choice([np.nan, np.inf, -np.inf, 1e-40, -0.0], 2)

    def calls(self, last="", bias=True, d=None):
        """y, dx, dw and db."""
        as_is = lambda a, name: tl.tensor(a, dtype=d or self.d).contiguous(
            memory_format=tl.channels_last if name in last else tl.contiguous_format
        )
        x, w, dy = as_is(self.x, "x"), as_is(self.w, "w"), as_is(self.dy, "y")
        b = tl.tensor(self.b, dtype=d or self.d) if bias else None
        finite = tl.where(dy.isfinite(), dy, 0.0)
        y = conv2d_p(x, w, b, **self.kw)
        dx = conv2d_dx_p(dy, w, size=self.size, **self.kw)
        dw = conv2d_dw_p(x, finite, kernel=self.kernel, **self.kw)
        return [t.numpy() for t in (y, dx, dw, conv2d_db_p(dy))]

    def check(self, last="", bias=True):
        """Against NumPy's in float64: within what adding so many products may lose."""
        native = self.calls(last, bias)
        x, dy = self.x, self.dy
        with config.KERNELS("plain"), np.errstate(invalid="ignore"):
            want = self.calls("", bias, tl.float64)
            self.x, self.dy = (np.abs(np.nan_to_num(a, posinf=0, neginf=0)) for a in (x, dy))
            self.w, w, self.b, b = np.abs(self.w), self.w, np.abs(self.b), self.b
            most = self.calls("", bias, tl.float64)
            self.x, self.dy, self.w, self.b = x, dy, w, b
        taps = self.w[0].size
        products = taps, taps * self.o // self.w.shape[1], *[self.dy[:, 0].size] * 2
        for name, a, b, m, count in zip(("y", "dx", "dw", "db"), native, want, most, products):
            assert a.shape == b.shape
            assert a.dtype == self.d.np
            bad = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            with np.errstate(invalid="ignore"):
                far = bad & ~(np.abs(a - b) <= (8 + count**0.5) * np.finfo(self.d.np).eps * (m + 1e-30))
            assert not far.any(), f"{name}: {far.sum()} of {a.size}, {a[far][:3]} for {b[far][:3]}"


@each_isa
@each_dtype
@pytest.mark.parametrize("name", SIZES)
def test_sizes(name, d, isa):
    with config.ISA(isa):
        given = Given(SIZES[name], d, np.random.default_rng(0))
        given.check()
        given.check("xwy", bias=False)


@each_isa
@each_dtype
def test_every_height_and_width_of_a_tile(d, isa):
    """Rows of pixels up to two tiles wide, channels up to more than a panel, few and many of the input's."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for width, o in itertools.product((*range(1, 17), 29), (1, 7, 16, 24, 40, 64)):
            c, padding = (1, 3, 6, 19)[(width + o) % 4], (1, 1, 1, 1) if o % 3 else (0, 0, 0, 0)
            kernel = (min(2 + o % 2, 3), min(1 + width % 3, width))
            Given((2, c, o, (5, width), kernel, (1, 1), (1, 1), padding, 1), d, rng).check("xwy" if o % 2 else "")


def lanes(isa, d):
    """Elements of a vector."""
    return {"baseline": 16, "avx2": 32, "avx512": 64}[isa] // d.itemsize


def plain_sizes(n, c, o, size, kernel, groups=1):
    return n, c, o, size, kernel, (1, 1), (1, 1), (0, 0, 0, 0), groups


@pytest.mark.slow
@each_isa
@each_dtype
def test_every_tile_of_the_general_kernels(d, isa):
    """A row of 1 to 16 pixels by 1 to 7 vectors of channels; the weights' gradient has as many rows of sums."""
    rng, one = np.random.default_rng(0), lanes(isa, d)
    with config.ISA(isa):
        for rows, vectors in itertools.product(range(1, 17), (1, 2, 3, 4, 7)):
            Given(plain_sizes(1, rows, vectors * one, (1, rows), (1, 1)), d, rng).check("xwy")


@pytest.mark.slow
@each_isa
@each_dtype
def test_every_tile_of_depthwise_kernels(d, isa):
    """Rows of 1 to 16 pixels and taps by 1 to 4 vectors of channels, or a part of one; as many rows of a plane."""
    rng, one = np.random.default_rng(0), lanes(isa, d)
    with config.ISA(isa):
        for rows in range(1, 17):
            for channels in (2, 3, one, 2 * one, 3 * one, 4 * one):
                Given(plain_sizes(1, channels, channels, (1, 2 * rows - 1), (1, rows), channels), d, rng).check("xwy")
            for width in (one, 2 * one):
                Given(plain_sizes(1, 2, 2, (rows, width + rows - 1), (1, rows), 2), d, rng).check()


@each_isa
@each_dtype
def test_every_width_of_a_strided_plane(d, isa):
    """Rows of depthwise planes whose last pixels are a part of a vector of each place in a stride."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for width, stride in itertools.product(range(1, 2 * lanes(isa, d) + 4), (2, 3)):
            pad = (1, 1, width % 3, 1) if width > 1 else (1, 1, 1, 1)
            Given((2, 2, 2, (4, width), (3, 3), (2, stride), (1, 1), pad, 2), d, rng).check()


@pytest.mark.slow
@each_isa
@each_dtype
def test_every_tile_of_few_channels(d, isa):
    """1 to 17 features by 1 to 3 vectors of a row's pixels."""
    rng, one = np.random.default_rng(0), lanes(isa, d)
    with config.ISA(isa):
        for o, width in itertools.product(range(1, 18), {max(8, k * one) for k in (1, 2, 3, 5)}):
            for rows in (1, 2):  # a stride of rows: not as a run of all pixels
                Given((1, 2, o, (1, width), (1, 1), (rows, 1), (1, 1), (0, 0, 0, 0), 1), d, rng).check()


@pytest.mark.slow
@each_isa
@each_dtype
def test_every_tile_of_one_channel(d, isa):
    """The weights' gradient: taps by features, whose vectors lie along pixels or along features."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        # all numbers of taps up to 16 and, cut into parts, 10 with 11 and 12 with 13
        for high, wide in ((1, 1), (1, 2), (1, 3), (2, 2), (5, 1), (3, 2), (1, 7), (2, 4), (3, 3), (2, 5), (3, 4),
                           (2, 7), (3, 5), (4, 4), (3, 7), (5, 5), (7, 7)):  # fmt: skip
            size = (7 + high, 7 + wide)
            for o in range(4, 19) if high * wide < 6 else (5,):  # more taps fall into parts of such numbers
                Given(plain_sizes(1, 1, o, size, (high, wide)), d, rng).check()
            for o in (16, 32, 48, 64, 80):
                Given(plain_sizes(1, 1, o, size, (high, wide)), d, rng).check("y")


@each_layout
@each_isa
@pytest.mark.parametrize(
    "name",
    [
        "odd",
        "rows",
        "images",
        "strided",
        "groups",
        "grey",
        "grey, many features",
        "grey, all different",
        "few channels, all different",
        "points, strided",
        *DEPTHWISE,
    ],
)
def test_layouts(name, isa, last):
    with config.ISA(isa):
        Given(SIZES[name], tl.float32, np.random.default_rng(0)).check(last)


def test_is_native():
    given = Given(SIZES["odd"], tl.float32, np.random.default_rng(0))
    x, w, dy = tl.tensor(given.x), tl.tensor(given.w), tl.tensor(given.dy)
    assert conv2d_p.op.entry((x._spec, w._spec, None), given.kw).native
    assert conv2d_dx_p.op.entry((dy._spec, w._spec), dict(given.kw, size=given.size)).native
    assert conv2d_db_p.op.entry((dy._spec,), {}).native
    assert conv2d_dw_p.op.entry((x._spec, dy._spec), dict(given.kw, kernel=given.kernel)).native


@pytest.mark.parametrize(
    "name",
    [
        "bands",
        "rows",
        "images",
        "strided",
        "grey",
        "grey, many features",
        "grey, bands",
        "few channels, bands",
        "few images, many channels",
        *DEPTHWISE,
    ],
)
@pytest.mark.parametrize("last", ["", "xwy"])
def test_same_bits_for_every_number_of_threads(name, last):
    before = tl.get_num_threads()
    given, made = Given(SIZES[name], tl.float32, np.random.default_rng(0)), []
    try:
        for n in (1, 2, 3):
            tl.set_num_threads(n)
            made.append(given.calls(last))
    finally:
        tl.set_num_threads(before)
    for other in made[1:]:
        for a, b in zip(made[0], other):
            assert a.tobytes() == b.tobytes()


@each_isa
@each_dtype
@pytest.mark.parametrize("name", SIZES)
def test_nan_inf_and_denormals(name, d, isa):
    with config.ISA(isa):
        Given(SIZES[name], d, np.random.default_rng(1), special=True).check()


@each_isa
@pytest.mark.parametrize("name", ["odd", "grey", "colour", "rows", "images", *DEPTHWISE])
@pytest.mark.parametrize("layout", [tl.contiguous_format, tl.channels_last])
def test_relu_in_the_same_pass(name, isa, layout):
    given = Given(SIZES[name], tl.float32, np.random.default_rng(0))
    given.x.flat[4] = np.nan
    x, y = (tl.tensor(a).contiguous(memory_format=layout) for a in (given.x, given.dy))
    w, b = tl.tensor(given.w), tl.tensor(given.b)
    pixels = x.numpy()
    specs = (x._spec, w._spec, b._spec)
    with config.ISA(isa):
        plain, relu = np.empty_like(y.numpy()), np.empty_like(y.numpy())
        cpu.kernel("conv2d")(specs, (y._spec,), given.kw)(pixels, given.w, given.b, plain)
        cpu.kernel("conv2d")(specs, (y._spec,), dict(given.kw, act="relu"))(pixels, given.w, given.b, relu)
    assert np.isnan(plain).any()
    np.testing.assert_array_equal(relu, np.where(plain < 0, 0, plain))
    with pytest.raises(ValueError, match="wanted None or 'relu'"):
        cpu.kernel("conv2d")(specs, (y._spec,), dict(given.kw, act="silu"))


@pytest.mark.slow
def test_fuzz_convolutions():
    seed = np.random.SeedSequence().entropy
    rng = np.random.default_rng(seed)
    for k in range(10_000):
        kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, m, 2)) for m in (5, 4, 3))
        padding = tuple(int(v) for v in rng.integers(0, 4, 4))
        spans = [d * (n - 1) + 1 for d, n in zip(dilation, kernel)]
        size = tuple(
            int(max(rng.integers(1, 24), s - padding[2 * i] - padding[2 * i + 1], 1)) for i, s in enumerate(spans)
        )
        groups = int(rng.choice([1, 1, 1, 2, 3, 8]))
        channels, features = (groups * int(rng.choice([1, 2, 3, 4, 5, 8, 16, 17, 33])) for _ in range(2))
        if k % 4 == 1:  # depthwise, perhaps with a channel multiplier
            groups = channels = int(rng.integers(2, 40))
            features = channels * int(rng.choice([1, 1, 2, 3]))
        sizes = (int(rng.integers(1, 10)), channels, features, size, kernel, stride, dilation, padding, groups)
        d = tl.float64 if k % 4 == 0 else tl.float32
        last = "".join(name for name in "xwy" if rng.integers(0, 3) == 0)
        isa = ["avx512", "avx2", "baseline"][int(rng.choice([0, 0, 1, 2]))]
        try:
            if channels * features * size[0] * size[1] * kernel[0] * kernel[1] < 1 << 22:
                with config.ISA(isa):
                    Given(sizes, d, rng, special=k % 3 == 0).check(last, bias=k % 2 == 0)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, round {k}: {sizes} {d} {last!r} {isa}: {error}") from None
