"""The compiled batch norm: against float64 in every size, layout, instruction set and number of threads."""

from types import SimpleNamespace

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config, nn
from tensorlite.backends import cpu
from tensorlite.ops.activation import relu_dx_p, relu_p
from tensorlite.ops.batch_norm_act import (
    batch_norm_add_relu_dx_p,
    batch_norm_add_relu_p,
    batch_norm_relu_dx_p,
    batch_norm_relu_p,
)
from tensorlite.ops.norm import batch_norm_p, normalize_dx_p, scale_shift_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
each_dtype = pytest.mark.parametrize("d", ["f4", "f8"])
each_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])

# tails of every vector length, one channel, one pixel, runs that are cut, several blocks and tasks; no images
SIZES = [(4, 3), (65, 70), (3, 2, 5), (2, 3, 4, 5), (5, 1, 3, 3), (3, 17, 1, 1), (2, 5, 70, 71), (1, 33, 9, 4),
         (40, 64, 7, 7), (900, 130), (0, 3, 2, 2), (6, 7, 2, 3, 2)]  # fmt: skip


def lie(a, layout):
    if layout == "contiguous" or a.ndim != 4:
        return np.array(a, order="C")
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Given:
    """The inputs of a batch norm, drawn, its compiled kernels, and what they must give, in float64."""

    def __init__(self, rng, d, layout, shape, relu=False, residual=False, affine=True, mean=0.0, eps=1e-3):
        draw = lambda *s: rng.standard_normal(s).astype(d)
        c, self.shape, self.layout, self.d = shape[1], shape, layout, d
        self.x = lie(draw(*shape) * 2 + d_type(d, mean), layout)
        self.dy, self.more = lie(draw(*shape), layout), lie(draw(*shape), layout)
        self.w, self.b = (draw(c), draw(c)) if affine else (None, None)
        self.running = [draw(c), np.abs(draw(c))]
        self.how = dict(eps=eps, momentum=0.3, relu=relu, residual=residual)
        self.dim = (0, *range(2, len(shape)))
        self.affine_shape = (1, c, *(1 for _ in shape[2:]))

    def room(self, like):
        return lie(np.full_like(like, 77), self.layout)

    def native(self):
        """y, mean, var, dx, dw, db, the gradient of the residual, and the running statistics."""
        x, make, spec = self.x, cpu.extension(), lambda a: SimpleNamespace(
            shape=a.shape, dtype=a.dtype,
            format="channels_last" if self.layout == "channels_last" and a.ndim == 4 else "contiguous",
        )  # fmt: skip
        y, mean, var = self.room(x), np.empty(self.affine_shape, self.d), np.empty(self.affine_shape, self.d)
        moved = [r.copy() for r in self.running]
        more = [self.more] if self.how["residual"] else []
        make.batch_norm((spec(x),), (), self.how)(x, self.w, self.b, *moved, *more, y, mean, var)
        dx, dw, db = self.room(x), np.empty(x.shape[1], self.d), np.empty(x.shape[1], self.d)
        passed, of_more = [y] if self.how["relu"] else [], [self.room(x)] if more else []
        kernel = make.batch_norm_dx((spec(self.dy), spec(x)), (), self.how)
        kernel(self.dy, x, mean, var, self.w, *passed, dx, dw, db, *of_more)
        return [y, mean, var, dx, dw, db, *of_more, *moved]

    def wanted(self):
        wide = lambda a: None if a is None else a.astype(np.float64)
        x, dy, w, b, dim = wide(self.x), wide(self.dy), wide(self.w), wide(self.b), self.dim
        shape, n = self.affine_shape, max(x.size // x.shape[1], 1)
        mean = x.sum(dim, keepdims=True) / n
        var = ((x - mean) ** 2).sum(dim, keepdims=True) / n
        r = 1 / np.sqrt(var + self.how["eps"])
        xh, scale = (x - mean) * r, r if w is None else r * w.reshape(shape)
        y = xh * (1 if w is None else w.reshape(shape)) + (0 if b is None else b.reshape(shape))
        if self.how["residual"]:
            y = y + self.more
        if self.how["relu"]:
            dy, y = np.where(y <= 0, 0, dy), np.maximum(y, 0)
        total, inner = dy.sum(dim, keepdims=True), (dy * xh).sum(dim, keepdims=True)
        dx = scale * (dy - total / n - xh * inner / n)
        moved = [wide(r) for r in self.running]
        if x.size:
            new = (mean, var * n / max(n - 1, 1))
            moved = [r * 0.7 + v.reshape(-1) * 0.3 for r, v in zip(moved, new)]
        return [y, mean, var, dx, inner.reshape(-1), total.reshape(-1), *([dy] if self.how["residual"] else []), *moved]


def d_type(d, value):
    return np.dtype(d).type(value)


def near(got, want, d, note, bound=64):
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        scale = max(1.0, np.abs(w).max(initial=0))
        assert np.abs(g - w).max(initial=0) <= bound * np.finfo(d).eps * scale, (note, k)


@each_isa
@each_layout
@each_dtype
def test_every_size(isa, layout, d):
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for k, shape in enumerate(SIZES):
            given = Given(rng, d, layout, shape, affine=k % 4 != 3)
            near(given.native(), given.wanted(), d, shape)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("relu,residual", [(True, False), (False, True), (True, True)])
def test_what_is_fused_behind(isa, layout, d, relu, residual):
    rng = np.random.default_rng(1)
    with config.ISA(isa):
        for shape in ((3, 85, 5, 11), (2, 64, 40, 40))[: 1 + (d == "f8")]:  # among many float32 some have no sure sign
            given = Given(rng, d, layout, shape, relu, residual)
            near(given.native(), given.wanted(), d, shape)


@each_isa
@each_layout
@each_dtype
@pytest.mark.parametrize("shape", [(65, 70), (3, 2, 5), (3, 85, 5, 11), (2, 64, 40, 40)])
def test_fused_ops_have_the_bits_of_one_after_another(isa, layout, d, shape):
    rng = np.random.default_rng(6)
    bits = lambda *tensors: [np.ascontiguousarray(t.numpy()).tobytes() for t in tensors]
    given = Given(rng, d, layout, shape, mean=0.5)
    how = dict(dim=given.dim, shape=given.affine_shape, eps=1e-3)
    x, dy, more = (tl.from_numpy(a) for a in (given.x, given.dy, given.more))
    w, b = tl.tensor(given.w), tl.tensor(given.b)
    moved = lambda: [tl.tensor(a) for a in given.running]  # each call changes its own
    with config.ISA(isa), tl.no_grad():
        running = moved()
        y, *batch = batch_norm_p(x, w, b, *running, momentum=0.3, **how)
        for forward, back, residual in (
            (batch_norm_relu_p, batch_norm_relu_dx_p, []),
            (batch_norm_add_relu_p, batch_norm_add_relu_dx_p, [more]),
        ):
            own = moved()
            got = forward(x, w, b, *own, *residual, momentum=0.3, **how)
            want = relu_p(y + more if residual else y)
            assert bits(*got, *own) == bits(want, *batch, *running), forward
            passed = relu_dx_p(dy, want)
            dx = back(dy, x, *batch, w, want, affine=(shape[1],), **how)
            want = normalize_dx_p(passed, x, *batch, w, affine=(shape[1],), **how)
            assert bits(*dx) == bits(*want, *([passed] if residual else [])), back
            for op in (forward, back):
                native = [e.native for e in op.op.cache.values() if e.specs[0] is x._spec]
                assert native and all(native), op


@each_layout
def test_relu_behind_lets_nan_pass(layout):
    given = Given(np.random.default_rng(2), "f4", layout, (2, 3, 4, 4), relu=True)
    given.x[0, 1, 2, 2] = np.nan
    y, _, _, dx, *_ = given.native()
    assert np.isnan(y[:, 1]).all() and np.isnan(dx[:, 1]).all()
    assert not np.isnan(y[:, [0, 2]]).any() and not np.isnan(dx[:, [0, 2]]).any()


@each_isa
@each_layout
def test_a_mean_far_from_zero(isa, layout):
    """Mean 10,000, deviation 2: the sum of squares less the square of the sum would leave no digit of the variance."""
    with config.ISA(isa):
        given = Given(np.random.default_rng(3), "f4", layout, (16, 20, 23, 23), mean=1e4)
        got, want = given.native(), given.wanted()
        assert np.abs(got[1] / want[1] - 1).max() < 2e-7  # the mean
        assert np.abs(got[2] / want[2] - 1).max() < 2e-6  # the variance; measured 4e-7


@each_layout
@pytest.mark.parametrize("shape", [(8, 48, 37, 41), (3000, 40)])
def test_the_same_bits_for_every_number_of_threads(threads, layout, shape):
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(Given(np.random.default_rng(4), "f4", layout, shape, relu=True, residual=True).native())
    assert all((a == b).all() for made in found[1:] for a, b in zip(found[0], made))


@each_isa
@each_layout
@each_dtype
def test_scale_and_shift(isa, layout, d):
    rng = np.random.default_rng(5)
    with config.ISA(isa):
        for k, shape in enumerate(SIZES):
            x, scale, shift = (rng.standard_normal(s).astype(d) for s in (shape, shape[1:2], shape[1:2]))
            t = tl.tensor(x)
            t = t.to(memory_format=tl.channels_last) if layout == "channels_last" and len(shape) == 4 else t
            y = scale_shift_p(t, tl.tensor(scale), tl.tensor(shift) if k % 2 else None).numpy()
            want = np.moveaxis(np.moveaxis(x, 1, -1) * scale + (shift if k % 2 else 0), -1, 1)
            assert np.allclose(y, want, rtol=1e-6, atol=1e-6), shape


def test_ops_take_the_compiled_kernels():
    for format in (tl.contiguous_format, tl.channels_last):
        x, c = tl.randn(2, 3, 8, 8).to(memory_format=format), tl.ones(3)
        how = dict(dim=(0, 2, 3), shape=(1, 3, 1, 1), eps=1e-5)
        y, mean, var = batch_norm_p(x, c, c, None, None, momentum=0.1, **how)
        for op, given, kw in (
            (batch_norm_p, [x, c, c, None, None], dict(how, momentum=0.1)),
            (normalize_dx_p, [y, x, mean, var, c], dict(how, affine=(3,))),
            (scale_shift_p, [x, c, c], {}),
        ):
            assert op.op.entry(tuple(None if t is None else t._spec for t in given), kw).native, op


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("turned", [False, True])
def test_channels_last_in_and_out(training, turned):
    """``turned``: the gradient comes in contiguous."""
    module, value = nn.BatchNorm2d(5).train(training), tl.randn(3, 5, 6, 4)
    other = nn.BatchNorm2d(5).train(training)
    x, z = value.clone().requires_grad_(), value.to(memory_format=tl.channels_last).requires_grad_()
    y, w = module(x), other(z)
    assert w.is_contiguous(memory_format=tl.channels_last)
    g = tl.randn(*y.shape)
    y.backward(g)
    w.backward(g if turned else g.to(memory_format=tl.channels_last))
    assert z.grad.is_contiguous(memory_format=tl.channels_last)
    pairs = [(y, w), (x.grad, z.grad), *zip(module.buffers(), other.buffers())]
    pairs += [(a.grad, b.grad) for a, b in zip(module.parameters(), other.parameters())]
    assert all(tl.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.slow
def test_fuzz_batch_norm():
    seed = int(np.random.default_rng().integers(1 << 32))
    rng = np.random.default_rng(seed)
    try:
        for _ in range(10_000):
            rest = [(), (int(rng.integers(1, 60)),), tuple(int(n) for n in rng.integers(1, 20, 2))][rng.integers(3)]
            shape = (int(rng.integers(1, 9)), int(rng.integers(1, 70)), *rest)
            isa, layout = rng.choice(["baseline", "avx2", "avx512"]), rng.choice(["contiguous", "channels_last"])
            d, flags = str(rng.choice(["f4", "f8"])), [bool(v) for v in rng.integers(0, 2, 3)]
            with config.ISA(str(isa)):
                given = Given(rng, d, str(layout), shape, flags[0] and d == "f8", *flags[1:], eps=0.1)
                odd, bad = rng.random() < 0.2, np.array([np.nan, np.inf, -np.inf], d)
                if odd:  # a channel with such a number is lost, and no other
                    c = int(rng.integers(shape[1]))
                    given.x[(0, c, *(0 for _ in rest))] = rng.choice(bad)
                got, want = given.native(), None
                with np.errstate(invalid="ignore"):
                    want = given.wanted()
                if odd:
                    assert (
                        np.isnan(got[0][:, c]).all() and np.isnan(got[3][:, c]).all() and np.isnan(got[2][0, c]).all()
                    )
                    got, want = ([np.delete(a, c, min(a.ndim - 1, 1)) for a in made] for made in (got, want))
                near(got, want, d, (seed, shape, str(isa), str(layout), d, flags), bound=256)
    except AssertionError:
        print("seed", seed)
        raise
