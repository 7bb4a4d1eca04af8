"""The LSTM layer: one direction over a whole sequence. Floor 3.

Gates lie in PyTorch's order, (input, forget, cell, output), in blocks of ``hidden`` columns.
"""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import int64
from tensorlite.ops.activation import sigmoid, tanh
from tensorlite.ops.join import chunk
from tensorlite.ops.linalg import linear
from tensorlite.ops.recurrent import (
    batch_first_by_steps,
    below,
    blocks,
    check_layer,
    check_sizes,
    complex_gradients,
    composed,
    dense,
    earlier,
    gradients_for,
    gradients_of,
    in_wide,
    product_gradients,
    samples,
    sequences,
    sigmoid_of,
    start_at,
    walk_of,
    worth_packing,
)


# ---- the gradient
@primitive(name="lstm_layer_dx", torch=None)
def lstm_layer_dx_p(
    xp, x, h0, c0, w_ih, w_hh, gates, cells, w_hr=None, sizes=None, dy=None, dh=None, dc=None,
    out=None, out_h0=None, out_c0=None, out_w_ih=None, out_w_hh=None, out_b=None, out_w_hr=None,
    *, reverse, batch_first, want,
):  # fmt: skip
    """The gradients of lstm_layer by x, h0, c0, w_ih, w_hh, either bias, w_hr; empty where ``want`` says no.

    dy, dh, dc are the gradients of y, h_n, c_n, or None for zeros.
    """
    if batch_first:
        inputs, outputs = (
            [x, h0, c0, w_ih, w_hh, gates, cells, w_hr, sizes, dy, dh, dc],
            [out, out_h0, out_c0, out_w_ih, out_w_hh, out_b, out_w_hr],
        )
        how = dict(reverse=reverse, want=want)
        return batch_first_by_steps(lstm_layer_dx_p.op.fn, xp, inputs, (0, 5, 6, 9), outputs, (0,), **how)
    rows, n4 = gates.shape
    size = n4 // 4
    walk = walk_of("lstm_layer", x, h0.shape[0], sizes, reverse)
    d, raw, before = xp.empty_like(gates), xp.empty_like(cells), earlier(xp, cells, c0, walk)
    state, cell = out_h0 if want[1] else xp.empty_like(h0), out_c0 if want[2] else xp.empty_like(c0)
    start_at(state, dh)
    start_at(cell, dc)
    part, inner = xp.empty_like(cell), xp.empty_like(cell)
    outer = None if w_hr is None else xp.empty((rows, h0.shape[1]), x.dtype)
    dy = None if dy is None else dy.reshape(rows, h0.shape[1])
    for here, steps in blocks(walk[::-1], n4):
        # what the gradients of the cell (for i, f, c) and of the output (for o) are multiplied with
        now = gates[here]
        i, f, c, o = (now[:, k * size : (k + 1) * size] for k in range(4))
        to_i, to_f, to_c, to_o = (d[here, k * size : (k + 1) * size] for k in range(4))
        squashed = xp.tanh(cells[here])
        xp.multiply(now, 1 - now, out=d[here])
        xp.multiply(to_i, c, out=to_i)
        xp.multiply(to_f, before[here], out=to_f)
        xp.multiply(i, 1 - c * c, out=to_c)
        xp.multiply(to_o, squashed, out=to_o)
        xp.multiply(o, squashed, out=raw[here])
        to_cell = o - raw[here] * squashed
        for start, n in steps:
            g, gc, rows_d = state[:n], cell[:n], d[start : start + n]
            at = slice(start - here.start, start - here.start + n)
            if dy is not None:
                xp.add(g, dy[start : start + n], out=g)
            m = g
            if w_hr is not None:
                outer[start : start + n] = g
                m = xp.matmul(g, w_hr, out=inner[:n])
            xp.multiply(m, to_cell[at], out=part[:n])
            xp.add(gc, part[:n], out=gc)
            for to in (to_i, to_f, to_c):
                xp.multiply(to[at], gc, out=to[at])
            xp.multiply(to_o[at], m, out=to_o[at])
            xp.multiply(gc, f[at], out=gc)
            xp.matmul(rows_d, w_hh, out=g)
    hidden = lambda: earlier(xp, raw if w_hr is None else raw @ w_hr.T, h0, walk)
    product_gradients(xp, (want[0], *want[3:6]), d, x, w_ih, hidden, out, out_w_ih, out_w_hh, out_b)
    if want[6]:
        xp.matmul(outer.T, raw, out=out_w_hr)


def _dx_around(compiled, xp, x, h0, *arrays, reverse, batch_first, want):
    """lstm_layer_dx with compiled steps."""
    check_sizes("lstm_layer", x, h0.shape[0], arrays[6])
    compiled(*dense(x, h0, *arrays))


def _dx_fits(x, h0, c0, w_ih, w_hh, gates, cells, w_hr, *more, **constants) -> bool:
    return w_hr is None and worth_packing(x)


lstm_layer_dx_p.op.on_host = (8,)  # sizes
lstm_layer_dx_p.kernel("cpu", "lstm_layer_dx", when=_dx_fits, around=_dx_around)
lstm_layer_dx_p.kernel(
    "cuda",
    "recurrent.lstm_layer_dx",
    "f2 bf2 f4 f8",
    when=lambda x, h0, c0, w_ih, w_hh, gates, cells, w_hr, *more, **constants: w_hr is None,
    formats=ANY,
)


@lstm_layer_dx_p.spec
def _(x, h0, c0, w_ih, w_hh, gates, cells, w_hr, sizes, dy, dh, dc, *, reverse, batch_first, want):
    none = x.like(0)
    b = x.like(w_ih.shape[0])
    return tuple(s.like(*s.shape) if w else none for s, w in zip((x, h0, c0, w_ih, w_hh, b, w_hr), want))


lstm_layer_dx_p.nograd()  # where a second order is wanted, the gradient is made of other ops: see below


# ---- the layer
@primitive(name="lstm_layer", torch=None)
def lstm_layer_p(
    xp, x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, sizes=None,
    out=None, out_h=None, out_c=None, out_gates=None, out_cells=None, *, reverse, batch_first,
):  # fmt: skip
    """y, h_n, c_n; and for the gradient the gates and cells of all rows."""
    if batch_first:
        inputs, outputs = [x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes], [out, out_h, out_c, out_gates, out_cells]
        how = dict(reverse=reverse)
        return batch_first_by_steps(lstm_layer_p.op.fn, xp, inputs, (0,), outputs, (0, 3, 4), **how)
    size = out_cells.shape[1]
    walk = walk_of("lstm_layer", x, h0.shape[0], sizes, reverse)
    rows = out_cells.shape[0]
    y = out.reshape(rows, h0.shape[1])
    xp.matmul(x.reshape(rows, x.shape[-1]), w_ih.T, out=out_gates)
    for b in (b_ih, b_hh):
        if b is not None:
            xp.add(out_gates, b, out=out_gates)
    # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2: no overflow, and one tanh for all gates
    scale = xp.full((h0.shape[0], 4 * size), 0.5, x.dtype)
    scale[:, 2 * size : 3 * size] = 1
    shift = 1 - scale
    shift[:, 2 * size : 3 * size] = 0
    part, new = xp.empty_like(scale), xp.empty_like(c0)
    out_h[...], out_c[...] = h0, c0
    w, proj = w_hh.T, None if w_hr is None else w_hr.T
    for start, n in walk:
        g, h, c, raw = out_gates[start : start + n], out_h[:n], out_c[:n], new[:n]
        xp.matmul(h, w, out=part[:n])
        xp.add(g, part[:n], out=g)
        xp.multiply(g, scale[:n], out=g)
        xp.tanh(g, out=g)
        xp.multiply(g, scale[:n], out=g)
        xp.add(g, shift[:n], out=g)
        xp.multiply(c, g[:, size : 2 * size], out=c)
        xp.multiply(g[:, :size], g[:, 2 * size : 3 * size], out=raw)
        xp.add(c, raw, out=c)
        out_cells[start : start + n] = c
        xp.tanh(c, out=raw)
        if proj is None:
            xp.multiply(raw, g[:, 3 * size :], out=h)
        else:
            xp.multiply(raw, g[:, 3 * size :], out=raw)
            xp.matmul(raw, proj, out=h)
        y[start : start + n] = h


def _around(compiled, xp, x, h0, *arrays, reverse, batch_first):
    """lstm_layer with compiled steps."""
    check_sizes("lstm_layer", x, h0.shape[0], arrays[6])
    compiled(*dense(x, h0, *arrays))


def _fits(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, **constants) -> bool:
    return w_hr is None and worth_packing(x)


lstm_layer_p.op.on_host = (8,)  # sizes
lstm_layer_p.kernel("cpu", "lstm_layer", when=_fits, around=_around)
lstm_layer_p.kernel(
    "cuda",
    "recurrent.lstm_layer",
    "f2 bf2 f4 f8",
    when=lambda x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, **constants: w_hr is None,
    formats=ANY,
)


@lstm_layer_p.spec
def _(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, *, reverse, batch_first):
    rows, size = check_layer(
        "lstm_layer",
        4,
        x,
        dict(h0=(h0, lambda b, h, p: (b, p)), c0=(c0, lambda b, h, p: (b, h))),
        w_ih,
        w_hh,
        dict(
            w_hh=(w_hh, lambda b, h, p: (4 * h, h if w_hr is None else p)),
            b_ih=(b_ih, lambda b, h, p: (4 * h,)),
            b_hh=(b_hh, lambda b, h, p: (4 * h,)),
            w_hr=(w_hr, lambda b, h, p: (p, h)),
        ),
        sizes,
        batch_first,
    )
    y = x.like(*x.shape[:-1], w_hh.shape[1])
    return y, h0.like(*h0.shape), c0.like(*c0.shape), x.like(rows, 4 * size), x.like(rows, size)


lstm_layer_p.op.silent_outputs = (3, 4)


def _composed(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, how) -> tuple:
    """The layer as a composite of ops."""

    def step(pre: Tensor, h: Tensor, c: Tensor) -> tuple:
        i, f, g, o = chunk(pre + linear(h, w_hh, b_hh), 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        h = h if w_hr is None else linear(h, w_hr)
        return h, h, c

    return composed(w_ih, b_ih, (h0, c0), x, sizes, how, "lstm_layer", step)


@lstm_layer_p.grad
def _(g, x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, reverse, batch_first, want):
    forward = lambda *inputs: _composed(*inputs, dict(reverse=reverse, batch_first=batch_first))
    return gradients_of(forward, (x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes), g, want)


@lstm_layer_p.fused_grad
def _(g, x, h0, c0, w_ih, w_hh, w_hr, sizes, out_gates, out_cells, reverse, batch_first, want):
    some = (*want[:5], want[5] or want[6], want[7])
    dx, dh0, dc0, dw_ih, dw_hh, db, dw_hr = lstm_layer_dx_p(
        x,
        h0,
        c0,
        w_ih,
        w_hh,
        out_gates,
        out_cells,
        w_hr,
        sizes,
        g[0],
        g[1],
        g[2],
        reverse=reverse,
        batch_first=batch_first,
        want=some,
    )
    return dx, dh0, dc0, dw_ih, dw_hh, db, db, dw_hr, None


def _projected(make) -> list[dict]:
    """Hidden 3, outputs 2."""
    given = dict(h0=make(2, 2), c0=make(2, 3), w_ih=make(12, 2), w_hh=make(12, 2), w_hr=make(2, 3))
    packed = dict(x=make(3, 2), batch_sizes=make.tensor([2, 1], int64), reverse=True)
    return [dict(x=make(2, 2, 2)) | given, packed | given]


@lstm_layer_p.cases
def _(make):
    yield from samples(make, 4, 2)
    yield from _projected(make)
    yield dict(b_ih=make(12)) | _projected(make)[0]
    yield RuntimeError, _projected(make)[0] | dict(w_hr=make(3, 2))
    yield RuntimeError, dict(x=make(2, 2, 2), h0=make(2, 2), c0=make(2, 3), w_ih=make(12, 2), w_hh=make(12, 2))


@lstm_layer_p.ref
def _reference(x, h0, c0, w_ih, w_hh, b_ih=0, b_hh=0, w_hr=None, batch_sizes=None, reverse=False, batch_first=False):
    kind = np.result_type(x, h0, c0, w_ih, w_hh, b_ih, b_hh, *([] if w_hr is None else [w_hr]))
    y, h_n, c_n = np.zeros((*x.shape[:-1], h0.shape[1]), kind), h0.astype(kind), c0.astype(kind)
    for b, places in sequences(x, len(h0), batch_sizes, reverse, batch_first):
        h, c = h0[b], c0[b]
        for at in places:
            i, f, g, o = np.split(w_ih @ x[at] + b_ih + w_hh @ h + b_hh, 4)
            c = sigmoid_of(f) * c + sigmoid_of(i) * np.tanh(g)
            h = sigmoid_of(o) * np.tanh(c)
            h = y[at] = h if w_hr is None else w_hr @ h
        h_n[b], c_n[b] = h, c
    return y, h_n, c_n


@lstm_layer_dx_p.cases
def _(make):
    for k, case in enumerate([*samples(make, 4, 2, plain=True), *_projected(make)]):
        case = below(case)
        *outputs, gates, cells = lstm_layer_p(**case)
        case |= dict(gates=gates, cells=cells, want=(True,) * 6 + ("w_hr" in case,))
        dy, dh, dc = gradients_for(make, outputs)
        yield case | dict(dy=dy, dh=dh, dc=dc)
        yield case | [dict(dy=dy), dict(dh=dh), dict(dc=dc, want=(False, True) * 3 + (False,))][k % 3]


@lstm_layer_dx_p.ref
def _(
    x, h0, c0, w_ih, w_hh, gates, cells, w_hr=None, sizes=None, dy=None, dh=None, dc=None, *, reverse, batch_first, want
):
    inputs = dict(x=x, h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=np.zeros(len(w_ih)))
    inputs |= {} if w_hr is None else dict(w_hr=w_hr)
    how = dict(reverse=reverse, batch_first=batch_first)
    forward = lambda **given: _reference(**given, batch_sizes=sizes, **how)
    found = complex_gradients(forward, inputs, [dy, dh, dc])
    return [found[n] if w else np.zeros(0) for n, w in zip([*inputs, "w_hr"], want)]


@face(lstm_layer_p)
def lstm_layer(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer over a whole sequence: (y, h_n, c_n).

    i, f, g, o = w_ih x + b_ih + w_hh h + b_hh;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c'),
    times w_hr where there is a projection.

    x (T, B, I), (B, T, I) with ``batch_first``, or (rows, I) packed beside batch_sizes (T,) of int64; h0 (B, P), c0 (B,
    H), w_ih (4H, I), w_hh (4H, P), biases (4H,), w_hr (P, H); P is H without a projection. y as x with P columns.
    ``reverse`` goes from the last step to the first. Half types are computed in float32.

    >>> import tensorlite as tl
    >>> from tensorlite.ops.recurrent_lstm import lstm_layer
    >>> state, w = tl.zeros(1, 1), tl.ones(4, 1)
    >>> lstm_layer(tl.ones(2, 1, 1), state, state, w, w)[0].flatten()
    tensor([0.3696, 0.6505])
    """
    call = lambda *tensors: lstm_layer_p(*tensors, batch_sizes, reverse=reverse, batch_first=batch_first)[:3]
    return in_wide("lstm_layer", call, x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr)
