"""The GRU layer: one direction over a whole sequence. Floor 3.

Weights are in PyTorch's order, (reset, update, new). What is kept of each row for the gradient lies as (q, reset,
update, new), where q = w_hh's part of new, before reset scales it: so both the gradient that goes to w_ih (reset,
update, new) and the one that goes to w_hh (q, reset, update) are neighbouring columns of one matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.activation import sigmoid, tanh
from tensorlite.ops.constants import constant
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
    samples,
    sequences,
    sigmoid_of,
    start_at,
    walk_of,
    worth_packing,
)


def _turned(xp: Any, w: Any, size: int, out: Any = None) -> Any:
    """Blocks (reset, update, new) as (new, reset, update)."""
    return xp.concatenate([w[2 * size :], w[: 2 * size]], out=out)


# ---- the gradient
@primitive(name="gru_layer_dx", torch=None)
def gru_layer_dx_p(
    xp, x, h0, w_ih, w_hh, gates, y, sizes=None, dy=None, dh=None,
    out=None, out_h0=None, out_w_ih=None, out_w_hh=None, out_b_ih=None, out_b_hh=None, *, reverse, batch_first, want,
):  # fmt: skip
    """The gradients of gru_layer by x, h0, w_ih, w_hh, b_ih, b_hh; empty where ``want`` says no.

    dy and dh are the gradients of y and h_n, or None for zeros.
    """
    if batch_first:
        inputs, outputs = (
            [x, h0, w_ih, w_hh, gates, y, sizes, dy, dh],
            [out, out_h0, out_w_ih, out_w_hh, out_b_ih, out_b_hh],
        )
        how = dict(reverse=reverse, want=want)
        return batch_first_by_steps(gru_layer_dx_p.op.fn, xp, inputs, (0, 4, 5, 7), outputs, (0,), **how)
    rows, size = gates.shape[0], h0.shape[1]
    walk = walk_of("gru_layer", x, h0.shape[0], sizes, reverse)
    d, before = xp.empty_like(gates), earlier(xp, y.reshape(rows, size), h0, walk)
    state = out_h0 if want[1] else xp.empty_like(h0)
    start_at(state, dh)
    through = xp.empty_like(state)
    dy = None if dy is None else dy.reshape(rows, size)
    w = _turned(xp, w_hh, size)
    for here, steps in blocks(walk[::-1], 4 * size):
        # what the gradient of the new state is multiplied with
        q, r, z, n = (gates[here, k * size : (k + 1) * size] for k in range(4))
        to = [d[here, k * size : (k + 1) * size] for k in range(4)]
        xp.multiply(1 - z, 1 - n * n, out=to[3])
        xp.multiply(to[3], r, out=to[0])
        xp.multiply(to[0], q * (1 - r), out=to[1])
        xp.multiply(before[here] - n, z * (1 - z), out=to[2])
        for start, count in steps:
            g, at = state[:count], slice(start - here.start, start - here.start + count)
            if dy is not None:
                xp.add(g, dy[start : start + count], out=g)
            for part in to:
                xp.multiply(part[at], g, out=part[at])
            xp.multiply(g, z[at], out=through[:count])
            xp.matmul(d[start : start + count, : 3 * size], w, out=g)
            xp.add(g, through[:count], out=g)
    to_x, to_h = d[:, size:], d[:, : 3 * size]
    if want[0]:
        xp.matmul(to_x, w_ih, out=out.reshape(rows, x.shape[-1]))
    if want[2]:
        xp.matmul(to_x.T, x.reshape(rows, x.shape[-1]), out=out_w_ih)
    if want[3]:
        turned = to_h.T @ before
        xp.concatenate([turned[size:], turned[:size]], out=out_w_hh)
    if want[4] or want[5]:
        total = xp.add.reduce(d, axis=0)
        if want[4]:
            out_b_ih[...] = total[size:]
        if want[5]:
            out_b_hh[: 2 * size], out_b_hh[2 * size :] = total[size : 3 * size], total[:size]


def _dx_around(compiled, xp, x, h0, *arrays, reverse, batch_first, want):
    """gru_layer_dx with compiled steps."""
    check_sizes("gru_layer", x, h0.shape[0], arrays[4])
    compiled(*dense(x, h0, *arrays))


gru_layer_dx_p.op.on_host = (6,)  # sizes
gru_layer_dx_p.kernel("cpu", "gru_layer_dx", when=worth_packing, around=_dx_around)
gru_layer_dx_p.kernel("cuda", "recurrent.gru_layer_dx", "f2 bf2 f4 f8", formats=ANY)


@gru_layer_dx_p.spec
def _(x, h0, w_ih, w_hh, gates, y, sizes, dy, dh, *, reverse, batch_first, want):
    b = x.like(w_ih.shape[0])
    return tuple(s.like(*s.shape) if w else x.like(0) for s, w in zip((x, h0, w_ih, w_hh, b, b), want))


gru_layer_dx_p.nograd()  # where a second order is wanted, the gradient is made of other ops: see below


# ---- the layer
@primitive(name="gru_layer", torch=None)
def gru_layer_p(
    xp,
    x,
    h0,
    w_ih,
    w_hh,
    b_ih=None,
    b_hh=None,
    sizes=None,
    out=None,
    out_h=None,
    out_gates=None,
    *,
    reverse,
    batch_first,
):
    """y, h_n; and for the gradient (q, reset, update, new) of all rows."""
    if batch_first:
        inputs, outputs = [x, h0, w_ih, w_hh, b_ih, b_hh, sizes], [out, out_h, out_gates]
        how = dict(reverse=reverse)
        return batch_first_by_steps(gru_layer_p.op.fn, xp, inputs, (0,), outputs, (0, 2), **how)
    size, rows = h0.shape[1], out_gates.shape[0]
    walk = walk_of("gru_layer", x, h0.shape[0], sizes, reverse)
    y = out.reshape(rows, size)
    xp.matmul(x.reshape(rows, x.shape[-1]), w_ih.T, out=out_gates[:, size:])
    if b_ih is not None:
        xp.add(out_gates[:, size:], b_ih, out=out_gates[:, size:])
    if b_hh is not None:
        xp.add(out_gates[:, size : 3 * size], b_hh[: 2 * size], out=out_gates[:, size : 3 * size])
    out_gates[:, :size] = 0 if b_hh is None else b_hh[2 * size :]
    half = constant(xp, 0.5, x.dtype)
    part = xp.empty((h0.shape[0], 3 * size), x.dtype)
    new = xp.empty_like(h0)
    out_h[...] = h0
    w = _turned(xp, w_hh, size).T
    for start, count in walk:
        g, h, s, t = out_gates[start : start + count], out_h[:count], part[:count], new[:count]
        q, z, n, both = g[:, :size], g[:, 2 * size : 3 * size], g[:, 3 * size :], g[:, size : 3 * size]
        xp.matmul(h, w, out=s)
        xp.add(g[:, : 3 * size], s, out=g[:, : 3 * size])
        # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2: no overflow
        xp.multiply(both, half, out=both)
        xp.tanh(both, out=both)
        xp.multiply(both, half, out=both)
        xp.add(both, half, out=both)
        xp.multiply(q, g[:, size : 2 * size], out=t)
        xp.add(n, t, out=n)
        xp.tanh(n, out=n)
        xp.subtract(h, n, out=t)
        xp.multiply(t, z, out=t)
        xp.add(t, n, out=h)
        y[start : start + count] = h


def _around(compiled, xp, x, h0, *arrays, reverse, batch_first):
    """gru_layer with compiled steps."""
    check_sizes("gru_layer", x, h0.shape[0], arrays[4])
    compiled(*dense(x, h0, *arrays))


gru_layer_p.op.on_host = (6,)  # sizes
gru_layer_p.kernel("cpu", "gru_layer", when=worth_packing, around=_around)
gru_layer_p.kernel("cuda", "recurrent.gru_layer", "f2 bf2 f4 f8", formats=ANY)


@gru_layer_p.spec
def _(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, *, reverse, batch_first):
    bias = lambda b, h, p: (3 * h,)
    rows, size = check_layer(
        "gru_layer",
        3,
        x,
        dict(h0=(h0, lambda b, h, p: (b, h))),
        w_ih,
        w_hh,
        dict(w_hh=(w_hh, lambda b, h, p: (3 * h, h)), b_ih=(b_ih, bias), b_hh=(b_hh, bias)),
        sizes,
        batch_first,
    )
    return x.like(*x.shape[:-1], size), h0.like(*h0.shape), x.like(rows, 4 * size)


gru_layer_p.op.silent_outputs = (2,)


def _composed(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, how) -> tuple:
    """The layer as a composite of ops."""

    def step(pre: Tensor, h: Tensor) -> tuple:
        (r, z, n), (hr, hz, hn) = chunk(pre, 3, 1), chunk(linear(h, w_hh, b_hh), 3, 1)
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        n = tanh(n + r * hn)
        h = n + z * (h - n)
        return h, h

    return composed(w_ih, b_ih, (h0,), x, sizes, how, "gru_layer", step)


@gru_layer_p.grad
def _(g, x, h0, w_ih, w_hh, b_ih, b_hh, sizes, reverse, batch_first, want):
    forward = lambda *inputs: _composed(*inputs, dict(reverse=reverse, batch_first=batch_first))
    return gradients_of(forward, (x, h0, w_ih, w_hh, b_ih, b_hh, sizes), g, want)


@gru_layer_p.fused_grad
def _(g, x, h0, w_ih, w_hh, sizes, out, out_gates, reverse, batch_first, want):
    how = dict(reverse=reverse, batch_first=batch_first)
    found = gru_layer_dx_p(x, h0, w_ih, w_hh, out_gates, out, sizes, g[0], g[1], **how, want=want[:6])
    return (*found, None)


@gru_layer_p.cases
def _(make):
    yield from samples(make, 3, 1)
    yield RuntimeError, dict(x=make(3, 2, 2), h0=make(2, 2), w_ih=make(9, 2), w_hh=make(9, 2))


@gru_layer_p.ref
def _reference(x, h0, w_ih, w_hh, b_ih=0, b_hh=0, batch_sizes=None, reverse=False, batch_first=False):
    size, kind = h0.shape[1], np.result_type(x, h0, w_ih, w_hh, b_ih, b_hh)
    b_hh = b_hh + np.zeros(3 * size)
    y, h_n = np.zeros((*x.shape[:-1], size), kind), h0.astype(kind)
    for b, places in sequences(x, len(h0), batch_sizes, reverse, batch_first):
        h = h0[b]
        for at in places:
            r, z, n = np.split(w_ih @ x[at] + b_ih, 3)
            hr, hz, hn = np.split(w_hh @ h + b_hh, 3)
            z = sigmoid_of(z + hz)
            h = y[at] = (1 - z) * np.tanh(n + sigmoid_of(r + hr) * hn) + z * h
        h_n[b] = h
    return y, h_n


@gru_layer_dx_p.cases
def _(make):
    for k, case in enumerate(samples(make, 3, 1, plain=True)):
        case = below(case)
        y, h, gates = gru_layer_p(**case)
        case |= dict(gates=gates, y=y, want=(True,) * 6)
        dy, dh = gradients_for(make, (y, h))
        yield case | dict(dy=dy, dh=dh)
        yield case | [dict(dy=dy), dict(dh=dh, want=(False, True) * 3)][k % 2]


@gru_layer_dx_p.ref
def _(x, h0, w_ih, w_hh, gates, y, sizes=None, dy=None, dh=None, *, reverse, batch_first, want):
    zero = np.zeros(len(w_ih))
    inputs = dict(x=x, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=zero, b_hh=zero)
    how = dict(reverse=reverse, batch_first=batch_first)
    forward = lambda **given: _reference(**given, batch_sizes=sizes, **how)
    found = complex_gradients(forward, inputs, [dy, dh])
    return [found[n] if w else np.zeros(0) for n, w in zip(inputs, want)]


@face(gru_layer_p)
def gru_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """One GRU layer over a whole sequence: (y, h_n).

    r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r h_n);  h' = (1 - z) n + z h, where x_r, x_z, x_n
    are the parts of w_ih x + b_ih and h_r, h_z, h_n those of w_hh h + b_hh.

    x (T, B, I), (B, T, I) with ``batch_first``, or (rows, I) packed beside batch_sizes (T,) of int64; h0 (B, H), w_ih
    (3H, I), w_hh (3H, H), biases (3H,). y as x with H columns. ``reverse`` goes from the last step to the first. Half
    types are computed in float32.

    >>> import tensorlite as tl
    >>> from tensorlite.ops.recurrent_gru import gru_layer
    >>> w = tl.ones(3, 1)
    >>> gru_layer(tl.ones(2, 1, 1), tl.zeros(1, 1), w, w)[0].flatten()
    tensor([0.2048, 0.3468])
    """
    call = lambda *tensors: gru_layer_p(*tensors, batch_sizes, reverse=reverse, batch_first=batch_first)[:2]
    return in_wide("gru_layer", call, x, h0, w_ih, w_hh, b_ih, b_hh)
