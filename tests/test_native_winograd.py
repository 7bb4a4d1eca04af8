"""Winograd's convolution: its error against float64, every layout, padding, instruction set and number of threads."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.conv import conv2d_dx_p, conv2d_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])

# The error beside float64, of the largest output: measured up to 8e-6 for these sizes, 1.9e-5 for 256 channels.
BOUND = 2e-5

# images, channels, features, image, padding: whole tiles and parts, odd numbers of vectors, blocks that are filled up
SIZES = [
    (4, 32, 32, (16, 16), (1, 1)),
    (4, 32, 48, (23, 14), (1, 1)),
    (8, 48, 32, (14, 22), (0, 2)),
    (3, 64, 16, (28, 27), (2, 0)),
    (2, 16, 64, (25, 36), (5, 3)),
]


class Given:
    """A convolution, drawn, and its gradient for x."""

    def __init__(self, rng, n, c, o, size, pad, layout="contiguous", d=tl.float32):
        last = [tl.channels_last if layout == "channels_last" else tl.contiguous_format] * 2
        last[1] = tl.channels_last if layout == "mixed" else last[1]
        draw = lambda *s: tl.from_numpy(rng.standard_normal(s).astype(np.float32)).to(d)
        self.x = draw(n, c, *size).to(memory_format=last[0])
        self.w, self.b = draw(o, c, 3, 3).to(memory_format=last[1]), draw(o)
        out = [m + 2 * p - 2 for m, p in zip(size, pad)]
        self.dy = draw(n, o, *out).to(memory_format=last[0])
        self.how = dict(stride=(1, 1), padding=(pad[0], pad[0], pad[1], pad[1]), dilation=(1, 1), groups=1)

    def forward(self):
        return conv2d_p(self.x, self.w, self.b, **self.how)

    def dx(self):
        return conv2d_dx_p(self.dy, self.w, size=self.x.shape[2:], **self.how)

    def both(self, winograd=1):
        with config.WINOGRAD(winograd):
            return [self.forward().numpy(), self.dx().numpy()]

    def wanted(self):
        self.x, self.w, self.b, self.dy = (t.double() for t in (self.x, self.w, self.b, self.dy))
        with config.KERNELS("plain"):
            return [self.forward().numpy(), self.dx().numpy()]


def error(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


@each_isa
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
def test_every_size(isa, layout):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for size in SIZES:
            given = Given(rng, *size, layout=layout)
            fast, slow = given.both(), given.both(0)
            for f, s, want in zip(fast, slow, given.wanted(), strict=True):
                assert error(f, want) < BOUND and error(s, want) < 2e-6, size
                assert (f != s).any(), size  # else it was no Winograd


def test_it_is_left_out_where_it_does_not_pay():
    rng = np.random.default_rng(1)
    few = Given(rng, 1, 32, 32, (12, 12), (1, 1))  # tiles
    tails = Given(rng, 4, 32, 36, (16, 16), (1, 1))  # channels that fill no vector
    small = Given(rng, 64, 32, 32, (5, 5), (1, 1))  # images that fill no tiles
    double = Given(rng, 4, 32, 32, (16, 16), (1, 1), d=tl.float64)
    for given in (few, tails, small, double):
        assert all((a == b).all() for a, b in zip(given.both(), given.both(0)))


def test_relu_behind():
    given = Given(np.random.default_rng(2), *SIZES[1])
    kernel = cpu.extension().conv2d
    specs = tuple(t._spec for t in (given.x, given.w, given.b))
    want, made = given.forward(), given.forward()
    kernel(specs, (want._spec,), dict(given.how, act="relu"))(given.x._arr, given.w._arr, given.b._arr, made._arr)
    assert (made == want.relu()).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_numbers_that_are_not_finite_stay_where_they_are(value):
    """In a tile they would reach all 16 outputs; so would what overflows on the way."""
    given = Given(np.random.default_rng(3), *SIZES[0])
    given.x[1, 5, 6, 7] = value
    given.dy[2, 3, 9, 9] = value
    for got, want in zip(given.both(), given.both(0)):
        assert np.array_equal(np.isfinite(got), np.isfinite(want))
        assert np.array_equal(np.nan_to_num(got), np.nan_to_num(want))


def test_the_same_bits_for_every_number_of_threads(threads):
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(Given(np.random.default_rng(4), *SIZES[1]).both())
    assert all((a == b).all() for made in found[1:] for a, b in zip(found[0], made))


@pytest.mark.slow
def test_fuzz_winograd():
    seed = int(np.random.default_rng().integers(1 << 32))
    rng = np.random.default_rng(seed)
    try:
        for _ in range(5_000):  # those of a size that it takes are dear to check
            c, o = (int(16 * k) for k in rng.integers(1, 7, 2))
            size, pad = ([int(k) for k in rng.integers(low, high, 2)] for low, high in ((3, 30), (0, 4)))
            n = int(rng.integers(1, 1 + max(1, 4000 // (size[0] * size[1]))))
            layout = str(rng.choice(["contiguous", "channels_last", "mixed"]))
            with config.ISA(str(rng.choice(["baseline", "avx2", "avx512"]))):
                given = Given(rng, n, c, o, size, pad, layout)
                got, want = given.both(), given.wanted()
                assert all(error(g, w) < 2 * BOUND for g, w in zip(got, want)), (n, c, o, size, pad, layout)
    except AssertionError:
        print("seed", seed)
        raise
