"""The compiled steps of recurrent layers: against NumPy's in every size, instruction set and number of threads."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.recurrent_gru import gru_layer_dx_p, gru_layer_p
from tensorlite.ops.recurrent_lstm import lstm_layer, lstm_layer_dx_p, lstm_layer_p
from tensorlite.ops.recurrent_rnn import rnn_layer_dx_p, rnn_layer_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

# (steps, rows, inputs, hidden): tails of every vector length, one of each, several tiles and tasks
SIZES = [(4, 1, 1, 1), (1, 4, 1, 3), (3, 2, 0, 5), (4, 3, 2, 16), (5, 7, 3, 17), (2, 9, 4, 48), (20, 33, 6, 65),
         (3, 40, 5, 130), (2, 6, 3, 370)]  # fmt: skip
PACKED = [[4], [2, 2, 2], [5, 5, 3, 1, 1], [33, 20, 20, 7, 1]]
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
each_layer = pytest.mark.parametrize("layer", GATES)
each_dtype = pytest.mark.parametrize("d", [tl.float32, tl.float64])
each_isa = pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])


class Given:
    """The inputs of a layer, drawn, and its calls."""

    def __init__(self, layer, d, steps, batch, inputs, hidden, sizes=None, biases=True, batch_first=False, seed=0):
        rng = np.random.default_rng(seed)
        draw = lambda *s: tl.tensor(rng.uniform(-1, 1, s), dtype=d)
        n = GATES[layer] * hidden
        self.layer, self.hidden, self.batch_first = layer, hidden, batch_first
        first = (batch, steps) if batch_first else (steps, batch)
        self.x = draw(*first, inputs) if sizes is None else draw(sum(sizes), inputs)
        self.states = [draw(batch, hidden) for _ in range(1 + (layer == "lstm"))]
        self.w = [draw(n, inputs), draw(n, hidden) / math.sqrt(hidden)]
        self.b = [draw(n), draw(n)] if biases else [None, None]
        self.sizes = None if sizes is None else tl.tensor(sizes)
        self.kw = dict(nonlinearity=layer) if GATES[layer] == 1 else {}

    def inputs(self):
        more = [None] if self.layer == "lstm" else []
        return [self.x, *self.states, *self.w, *self.b, *more, self.sizes]

    def forward(self, reverse=False):
        call = {"lstm": lstm_layer_p, "gru": gru_layer_p}.get(self.layer, rnn_layer_p)
        return call(*self.inputs(), reverse=reverse, batch_first=self.batch_first, **self.kw)

    def native(self):
        call = {"lstm": lstm_layer_p, "gru": gru_layer_p}.get(self.layer, rnn_layer_p)
        specs = tuple(None if t is None else t._spec for t in self.inputs())
        return call.op.entry(specs, dict(reverse=False, batch_first=self.batch_first, **self.kw)).native

    def all(self, reverse=False, last=True):
        """All outputs and all gradients; ``last``: gradients come in by the last states, too."""
        rng = np.random.default_rng(1)
        made = self.forward(reverse)
        g = [tl.tensor(rng.uniform(-1, 1, t.shape), dtype=t.dtype) for t in made[: 1 + len(self.states)]]
        g = g if last else [g[0]] + [None] * len(self.states)
        base = [self.x, *self.states, *self.w]
        kw = dict(reverse=reverse, batch_first=self.batch_first, **self.kw)
        if self.layer == "lstm":
            back = lstm_layer_dx_p(*base, *made[3:], None, self.sizes, *g, want=(True,) * 6 + (False,), **kw)
        elif self.layer == "gru":
            back = gru_layer_dx_p(*base, made[2], made[0], self.sizes, *g, want=(True,) * 6, **kw)
        else:
            back = rnn_layer_dx_p(*base, made[0], self.sizes, *g, want=(True,) * 5, **kw)
        return [t.numpy() for t in (*made, *back)]

    def check(self, reverse, last=True):
        native, plain = self.both(lambda: self.all(reverse, last))
        for k, (a, b) in enumerate(zip(native, plain, strict=True)):
            assert np.abs(a - b).max(initial=0) <= self.bound(b), k

    def both(self, call):
        """What it gives with compiled steps and with NumPy's."""
        assert self.native()
        native = call()
        with config.KERNELS("plain"):
            assert not self.native()
            return native, call()

    def bound(self, right):
        longest = self.x.numpy().size + 4 * self.hidden  # more than the terms of any sum
        return 4 * np.abs(right).max(initial=1) * math.sqrt(longest) * tl.finfo(self.x.dtype).eps


@each_layer
@each_isa
@each_dtype
def test_the_same_as_numpy(layer, isa, d):
    with config.ISA(isa):
        for k, size in enumerate(SIZES):
            Given(layer, d, *size, biases=k % 3 > 0, batch_first=k % 4 > 1).check(k % 2 == 1, k % 4 > 0)
        for sizes in PACKED:
            for reverse in (False, True):
                Given(layer, d, None, sizes[0], 3, 19, sizes).check(reverse)


@each_layer
@each_isa
@each_dtype
def test_every_tile(layer, isa, d):
    """1 to 9 rows by 1, 2 and 4 vectors of hidden units."""
    one = {"baseline": 16, "avx2": 32, "avx512": 64}[isa] // d.itemsize
    with config.ISA(isa):
        for rows in range(1, 10):
            for vectors in (1, 2, 4):
                Given(layer, d, 12, rows, 3, vectors * one).check(False)


@each_layer
@each_dtype
def test_inputs_of_every_layout_are_taken(layer, d):
    given = Given(layer, d, 4, 5, 3, 18)
    want = given.all()
    turn = lambda t: t.transpose(0, 1).contiguous().transpose(0, 1)
    given.x, given.states, given.w = turn(given.x), [turn(t) for t in given.states], [turn(t) for t in given.w]
    assert given.native()
    for a, b in zip(given.all(), want):
        np.testing.assert_allclose(a, b, 1e-4 if d is tl.float32 else 1e-12, 1e-6)


@each_layer
@each_isa
def test_the_same_bits_for_every_number_of_threads(layer, isa, threads):
    with config.ISA(isa):
        given = Given(layer, tl.float32, 20, 45, 6, 70)
        found = []
        for n in (1, 2, 3, 8):
            threads(n)
            found += [given.all() for _ in range(3)]
    for other in found[1:]:
        for a, b in zip(found[0], other):
            assert (a == b).all()


@each_layer
@each_isa
@each_dtype
def test_nan_and_inf_stay_what_they_are(layer, isa, d):
    with config.ISA(isa):
        given = Given(layer, d, 4, 9, 2, 21)
        x = given.x.numpy().copy()
        x[1, 2, 0], x[2, 4, 1], x[0, 5, 0] = np.nan, np.inf, -np.inf
        if layer != "relu":
            x[:, 6] = 1e30  # gates that are all the way open or shut
        given.x = tl.tensor(x)
        native = given.all()
        with config.KERNELS("plain"):
            plain = given.all()
    y = native[0]
    assert np.isnan(y[1:, 2]).all() and not np.isnan(y[0, 2]).any() and np.isfinite(y[:, [0, 1, 3, 6, 7, 8]]).all()
    for k, (a, b) in enumerate(zip(native, plain, strict=True)):
        assert (np.isnan(a) == np.isnan(b)).all(), k
        if k < 3:
            np.testing.assert_allclose(a, b, 1e-4 if d is tl.float32 else 1e-10, 1e-5)


def gates_of(z):
    """sigmoid and tanh of each of z as the kernel computes them: gates of an LSTM of one step from zeros."""
    if len(z) > 64:
        return [np.concatenate(part) for part in zip(*(gates_of(z[k : k + 64]) for k in range(0, len(z), 64)))]
    n = len(z)
    zeros = lambda *s: tl.zeros(*s, dtype=z.dtype)
    inputs = [zeros(1, 4, 1), zeros(4, n), zeros(4, n), zeros(4 * n, 1), zeros(4 * n, n), tl.cat([z] * 4)]
    gates = lstm_layer_p(*inputs, reverse=False, batch_first=False)[3].numpy()[0]
    return gates[:n], gates[2 * n : 3 * n]


@each_isa
@each_dtype
def test_sigmoid_and_tanh_are_exact_to_the_last_digits(isa, d):
    eps, tiny = tl.finfo(d).eps, tl.finfo(d).tiny
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.uniform(-20, 20, 999), rng.uniform(-1, 1, 999), 10.0 ** rng.uniform(-30, 2, 999)])
    z = tl.tensor(np.concatenate([z, -z, [0.0, 700, -700, 1e30, -1e30, np.inf, -np.inf, np.nan]]), dtype=d)
    with config.ISA(isa):
        sigmoid, tanh = gates_of(z)
    exact = z.numpy().astype(np.longdouble)
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-exact))
    for got, right in ((sigmoid, want), (tanh, np.tanh(exact))):
        assert (np.isnan(got) == np.isnan(right)).all()
        ok = ~np.isnan(right)
        error = np.abs(got[ok].astype(np.longdouble) - right[ok])
        assert (error <= 3 * eps * np.abs(right[ok]) + 4 * tiny).all()
    assert sigmoid[-3] == 1 and sigmoid[-2] == 0 and tanh[-3] == 1 and tanh[-2] == -1


def test_projections_stay_with_numpy():
    inputs = [tl.randn(*s) for s in ((2, 2, 2), (2, 2), (2, 3), (12, 2), (12, 2))] + [None, None, tl.randn(2, 3), None]
    specs = tuple(None if t is None else t._spec for t in inputs)
    assert not lstm_layer_p.op.entry(specs, dict(reverse=False, batch_first=False)).native
    y = lstm_layer(*inputs)[0]
    with config.KERNELS("plain"):
        np.testing.assert_array_equal(lstm_layer(*inputs)[0].numpy(), y.numpy())


@pytest.mark.parametrize("layer", ["lstm", "gru", "tanh"])
def test_sizes_that_do_not_fit_are_refused(layer):
    given = Given(layer, tl.float32, None, 3, 2, 4, [3, 2])
    assert given.native()
    for wrong in ([2, 3], [3, 1], [4, 1], [3, 2, 0]):
        given.sizes = tl.tensor(wrong)
        with pytest.raises(tl.errors.ShapeError, match="batch_sizes"):
            given.forward()


def test_gradients_that_fade_away_end_as_zeros():
    """Numbers below the smallest usual one, which are slow, are 0 in the loop; the caller's arithmetic stays."""
    zero, w = tl.zeros(1, 1), tl.zeros(4, 1)
    inputs = [tl.zeros(5, 1, 1), zero, zero, w, w, tl.full((4,), -18.5)]  # forget gates nearly shut
    gates, cells = lstm_layer_p(*inputs, reverse=False, batch_first=False)[3:]
    back = (inputs[0], zero, zero, w, w, gates, cells, None, None, None, None, tl.ones(1, 1))
    want = dict(reverse=False, batch_first=False, want=(False, False, True) + (False,) * 4)
    tiny = np.float32(tl.finfo(tl.float32).tiny)
    assert lstm_layer_dx_p(*back, **want)[2].item() == 0
    assert tiny / np.float32(2) > 0
    with config.KERNELS("plain"):
        assert 0 < lstm_layer_dx_p(*back, **want)[2].item() < tiny


@pytest.mark.slow
@pytest.mark.parametrize("layer", GATES)
def test_fuzz_the_same_as_numpy(layer, threads):
    """2,500 random shapes of each layer; in every fifth nan, inf, denormals and great numbers among the data."""
    for seed in range(2500):
        rng = np.random.default_rng([seed, GATES[layer]])
        pick = lambda low, high, rng=rng: int(rng.integers(low, high + 1))
        steps, batch = pick(1, 9), pick(1, 40)
        sizes = None
        if pick(0, 3) == 0:
            sizes = sorted((pick(1, batch) for _ in range(steps)), reverse=True)
            batch = sizes[0]
        if (steps * batch if sizes is None else sum(sizes)) < 4:
            continue
        d, reverse = (tl.float32, tl.float64)[pick(0, 1)], pick(0, 1) == 1
        first = sizes is None and pick(0, 1) == 1
        shape = (steps, batch, pick(0, 40), pick(1, 70))
        what = f"seed {seed}, shape {shape}, {d}, sizes {sizes}, reverse {reverse}, batch first {first}"
        threads(pick(1, 3))
        with config.ISA(("baseline", "avx2", "avx512")[pick(0, 2)]):
            given = Given(layer, d, *shape, sizes, pick(0, 1) == 1, first, seed)
            try:
                if seed % 5 or not shape[2]:
                    given.check(reverse, pick(0, 1) == 1)
                    continue
                x = given.x.numpy().copy()
                special = np.array([np.nan, np.inf, -np.inf, 1e-41, -1e-310, 1e30, -1e30])
                places = rng.integers(0, x.size, 4)
                x.ravel()[places] = special[rng.integers(0, 7, 4)]
                given.x = tl.tensor(x)
                count = 1 + len(given.states)
                for a, b in zip(*given.both(lambda g=given, r=reverse, n=count: [t.numpy() for t in g.forward(r)[:n]])):
                    assert (np.isnan(a) == np.isnan(b)).all() and (np.isinf(a) == np.isinf(b)).all()
                    usual = np.isfinite(b) & (np.abs(b) < 1e6)
                    assert np.abs(a[usual] - b[usual]).max(initial=0) <= given.bound(b[usual])
            except AssertionError as error:
                raise AssertionError(what) from error
