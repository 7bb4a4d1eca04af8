"""Recurrent layers over a whole sequence: the steps one after another, a product and a cell each. Floor 1.

The shapes, what is saved for the gradient and packed sequences are those of the ops (tensorlite/ops/recurrent_*.py).
With ``batch_first`` the rows of a step lie apart in memory, which strides take care of: nothing is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from tensorlite.backends.numba_cuda import cells as steps_of, elementwise, linalg, reduce
from tensorlite.backends.numba_cuda.launching import FLOATS, empty
from tensorlite.errors import ShapeError


class Layer:
    """One layer at work: its element type, the way through its rows, and launches on them."""

    def __init__(self, name: str, x: Any, batch: int, sizes: Any, reverse: bool, batch_first: bool):
        self.name, self.short, self.batch, self.reverse = name, x.dtype.short, batch, reverse
        self.apart = x.shape[1] if batch_first else 1  # from a row of a step to its next
        self.fixed = None
        if sizes is None:
            walk = [(t if batch_first else t * batch, batch) for t in range(x.shape[batch_first])]
            self.fixed = walk[::-1] if reverse else walk

    def walk(self, x: Any, sizes: Any) -> list[tuple[slice, int, slice, int]]:
        """Each step in turn: its rows, how many; the rows of the step before that go on in it, how many.

        ``x`` and ``sizes`` are arrays. Packed sequences read their sizes on the host.
        """
        walk = self.fixed
        if walk is None:
            counts = sizes.tolist()
            ends = [0, *accumulate(counts)]
            falls = all(0 < b <= a for a, b in zip([self.batch, *counts], counts))
            if ends[-1] != x.shape[0] or counts[0] != self.batch or not falls:
                raise ShapeError(
                    f"{self.name}: batch_sizes {counts} for x {x.shape} and {self.batch} rows of state; wanted sizes "
                    "that begin with the rows of state, never grow, are not 0 and sum to the rows of x"
                )
            walk = list(zip(ends, counts))[:: -1 if self.reverse else 1]
        found, last = [], (walk[0][0], 0)
        for start, n in walk:
            m = min(n, last[1])
            found.append((self.rows(start, n), n, self.rows(last[0], n) if m == n else self.rows(last[0], m), m))
            last = (start, n)
        return found

    def rows(self, start: int, n: int) -> slice:
        return slice(start, start + max(n - 1, 0) * self.apart + bool(n), self.apart)

    def empty(self, like: Any, *shape: int) -> Any:
        return empty(shape, like.dtype)

    def dense(self, a: Any) -> Any:
        """The array itself if its elements are in one run, else a copy of it that is."""
        if a is None or a.flags.c_contiguous:
            return a
        copy = empty(a.shape, a.dtype)
        self.each("copy", a, copy)
        return copy

    def flat(self, a: Any) -> Any:
        """(rows, columns) of an array whose rows are those of x."""
        return None if a is None else self.dense(a).reshape(-1 if a.size else _rows(a), a.shape[-1])

    def each(self, op: str, *arrays: Any) -> None:
        elementwise.launch(op, self.short, (), *arrays)

    def product(self, x: Any, w: Any, out: Any, adds: bool = False) -> None:
        linalg.matmul(self.short, x, w, out, adds)

    def total(self, d: Any, out: Any) -> None:
        """The sum of all rows."""
        reduce.reduce("sum", self.short, (0,), d, out)

    def step(self, name: str, units: int, *arguments: Any) -> None:
        steps_of.step(name, self.short, units, *arguments)

    def start(self, given: Any, state: Any) -> None:
        """A buffer of gradients begins with what came in, or with zeros."""
        self.each("zeros", state) if given is None else self.each("copy", given, state)


def _rows(a: Any) -> int:
    n = 1
    for size in a.shape[:-1]:
        n *= size
    return n


def _layer(name: str, specs: tuple, sizes: Any, kw: dict) -> Layer | None:
    x, h0 = specs[0], specs[1]
    if x.dtype.short not in FLOATS:
        return None
    return Layer(name, x, h0.shape[0], sizes, kw["reverse"], kw["batch_first"])


# ---- LSTM
def lstm_layer(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    *_, w_hr, sizes = specs
    layer = _layer("lstm_layer", specs, sizes, kw)
    if layer is None or w_hr is not None:
        return None

    def call(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, y, h, c, gates, cells):
        layer.product(layer.flat(x), w_ih.T, gates)
        for b in (b_ih, b_hh):
            if b is not None:
                layer.each("add", gates, b, gates)
        layer.each("copy", h0, h)
        layer.each("copy", c0, c)
        out = y.reshape(cells.shape)
        for here, n, _, _ in layer.walk(x, sizes):
            layer.product(h[:n], w_hh.T, gates[here], adds=True)
            layer.step("lstm_step", n * h.shape[1], gates[here], c[:n], h[:n], cells[here], out[here])

    return call


def lstm_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    w_hr, sizes, want = specs[7], specs[8], kw["want"]
    layer = _layer("lstm_layer", specs, sizes, kw)
    if layer is None or w_hr is not None:
        return None

    def call(x, h0, c0, w_ih, w_hh, gates, cells, w_hr, sizes, dy, dh, dc, *outs):
        out, out_h, out_c, out_w_ih, out_w_hh, out_b, _ = outs
        gates, cells, dy = layer.flat(gates), layer.flat(cells), layer.flat(dy)
        d, before = layer.empty(x, *gates.shape), layer.empty(x, *cells.shape)
        h, c = out_h if want[1] else layer.empty(x, *h0.shape), out_c if want[2] else layer.empty(x, *c0.shape)
        layer.start(dh, h)
        layer.start(dc, c)
        for here, n, last, m in reversed(layer.walk(x, sizes)):
            grads = cells[here] if dy is None else dy[here]
            layer.step(
                "lstm_step_dx", n * h.shape[1], gates[here], cells[here], gates[last], cells[last], h0[:n], c0[:n],
                grads, m, int(dy is not None), h[:n], c[:n], before[here], d[here],
            )  # fmt: skip
            layer.product(d[here], w_hh, h[:n])
        _products(layer, (want[0], *want[3:6]), d, x, w_ih, before, out, out_w_ih, out_w_hh, out_b)

    return call


def _products(layer: Layer, want: tuple, d, x, w_ih, before, out, out_w_ih, out_w_hh, out_b) -> None:
    """From the gradients d of w_ih x + w_hh h + b those of x, w_ih, w_hh and b."""
    if want[0]:
        layer.product(d, w_ih, out.reshape(d.shape[0], x.shape[-1]))
    if want[1]:
        layer.product(d.T, layer.flat(x), out_w_ih)
    if want[2]:
        layer.product(d.T, before, out_w_hh)
    if want[3]:
        layer.total(d, out_b)


# ---- GRU
def _turned(layer: Layer, w: Any) -> Any:
    """Blocks (reset, update, new) as (new, reset, update)."""
    size = w.shape[0] // 3
    turned = layer.empty(w, *w.shape)
    layer.each("copy", w[2 * size :], turned[:size])
    layer.each("copy", w[: 2 * size], turned[size:])
    return turned


def gru_layer(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    layer = _layer("gru_layer", specs, specs[6], kw)
    if layer is None:
        return None

    def call(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h, gates):
        size = h0.shape[1]
        layer.product(layer.flat(x), w_ih.T, gates[:, size:])
        if b_ih is not None:
            layer.each("add", gates[:, size:], b_ih, gates[:, size:])
        if b_hh is None:
            layer.each("zeros", gates[:, :size])
        else:
            layer.each("copy", b_hh[2 * size :], gates[:, :size])
            layer.each("add", gates[:, size : 3 * size], b_hh[: 2 * size], gates[:, size : 3 * size])
        layer.each("copy", h0, h)
        w, out = _turned(layer, w_hh).T, y.reshape(gates.shape[0], size)
        for here, n, _, _ in layer.walk(x, sizes):
            now = gates[here]
            layer.product(h[:n], w, now[:, : 3 * size], adds=True)
            layer.step("gru_step", n * size, now, h[:n], out[here])

    return call


def gru_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    layer, want = _layer("gru_layer", specs, specs[6], kw), kw["want"]
    if layer is None:
        return None

    def call(x, h0, w_ih, w_hh, gates, y, sizes, dy, dh, *outs):
        out, out_h, out_w_ih, out_w_hh, out_b_ih, out_b_hh = outs
        size = h0.shape[1]
        gates, y, dy = layer.flat(gates), layer.flat(y), layer.flat(dy)
        d, before = layer.empty(x, *gates.shape), layer.empty(x, *y.shape)
        h, w = out_h if want[1] else layer.empty(x, *h0.shape), _turned(layer, w_hh)
        layer.start(dh, h)
        for here, n, last, m in reversed(layer.walk(x, sizes)):
            grads = y[here] if dy is None else dy[here]
            layer.step(
                "gru_step_dx", n * size, gates[here], y[last], h0[:n], grads, m, int(dy is not None), h[:n],
                before[here], d[here],
            )  # fmt: skip
            layer.product(d[here][:, : 3 * size], w, h[:n], adds=True)
        to_x, to_q, to_gates = d[:, size:], d[:, :size], d[:, size : 3 * size]
        if want[0]:
            layer.product(to_x, w_ih, out.reshape(d.shape[0], x.shape[-1]))
        if want[2]:
            layer.product(to_x.T, layer.flat(x), out_w_ih)
        if want[3]:
            layer.product(to_gates.T, before, out_w_hh[: 2 * size])
            layer.product(to_q.T, before, out_w_hh[2 * size :])
        if want[4]:
            layer.total(to_x, out_b_ih)
        if want[5]:
            layer.total(to_gates, out_b_hh[: 2 * size])
            layer.total(to_q, out_b_hh[2 * size :])

    return call


# ---- tanh and relu
def rnn_layer(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    layer, cell = _layer("rnn_layer", specs, specs[6], kw), f"{kw['nonlinearity']}_step"
    if layer is None:
        return None

    def call(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h):
        rows = layer.flat(x)
        out = y.reshape(rows.shape[0], h0.shape[1])
        layer.product(rows, w_ih.T, out)
        for b in (b_ih, b_hh):
            if b is not None:
                layer.each("add", out, b, out)
        layer.each("copy", h0, h)
        for here, n, _, _ in layer.walk(x, sizes):
            layer.product(h[:n], w_hh.T, out[here], adds=True)
            layer.step(cell, n * h0.shape[1], out[here], h[:n])

    return call


def rnn_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    layer, want = _layer("rnn_layer", specs, specs[5], kw), kw["want"]
    if layer is None:
        return None

    def call(x, h0, w_ih, w_hh, y, sizes, dy, dh, out, out_h, out_w_ih, out_w_hh, out_b):
        y, dy = layer.flat(y), layer.flat(dy)
        d, before = layer.empty(x, *y.shape), layer.empty(x, *y.shape)
        h = out_h if want[1] else layer.empty(x, *h0.shape)
        layer.start(dh, h)
        for here, n, last, m in reversed(layer.walk(x, sizes)):
            grads = y[here] if dy is None else dy[here]
            layer.step(
                f"{kw['nonlinearity']}_step_dx", n * h0.shape[1], y[here], y[last], h0[:n], grads, m,
                int(dy is not None), h[:n], before[here], d[here],
            )  # fmt: skip
            layer.product(d[here], w_hh, h[:n])
        _products(layer, (want[0], *want[2:]), d, x, w_ih, before, out, out_w_ih, out_w_hh, out_b)

    return call


LAYERS = {f.__name__: f for f in (lstm_layer, lstm_layer_dx, gru_layer, gru_layer_dx, rnn_layer, rnn_layer_dx)}


def factory(op: str) -> Callable | None:
    return LAYERS.get(op)
