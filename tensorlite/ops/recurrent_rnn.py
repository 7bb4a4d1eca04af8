"""The plain recurrent layer (tanh or relu): one direction over a whole sequence. Floor 3."""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.activation import relu, tanh
from tensorlite.ops.linalg import linear
from tensorlite.ops.recurrent import (
    batch_first_by_steps,
    below,
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
    start_at,
    walk_of,
    worth_packing,
)


# ---- the gradient
@primitive(name="rnn_layer_dx", torch=None)
def rnn_layer_dx_p(
    xp, x, h0, w_ih, w_hh, y, sizes=None, dy=None, dh=None,
    out=None, out_h0=None, out_w_ih=None, out_w_hh=None, out_b=None, *, nonlinearity, reverse, batch_first, want,
):  # fmt: skip
    """The gradients of rnn_layer by x, h0, w_ih, w_hh, either bias; empty where ``want`` says no.

    dy and dh are the gradients of y and h_n, or None for zeros.
    """
    if batch_first:
        inputs, outputs = [x, h0, w_ih, w_hh, y, sizes, dy, dh], [out, out_h0, out_w_ih, out_w_hh, out_b]
        how = dict(nonlinearity=nonlinearity, reverse=reverse, want=want)
        return batch_first_by_steps(rnn_layer_dx_p.op.fn, xp, inputs, (0, 4, 6), outputs, (0,), **how)
    size = h0.shape[1]
    rows = y.size // size
    y = y.reshape(rows, size)
    walk = walk_of("rnn_layer", x, h0.shape[0], sizes, reverse)
    d = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)
    state = out_h0 if want[1] else xp.empty_like(h0)
    start_at(state, dh)
    dy = None if dy is None else dy.reshape(rows, size)
    for start, n in reversed(walk):
        here, g = slice(start, start + n), state[:n]
        if dy is not None:
            xp.add(g, dy[here], out=g)
        xp.multiply(d[here], g, out=d[here])
        xp.matmul(d[here], w_hh, out=g)
    before = lambda: earlier(xp, y, h0, walk)
    product_gradients(xp, (want[0], *want[2:]), d, x, w_ih, before, out, out_w_ih, out_w_hh, out_b)


def _dx_around(compiled, xp, x, h0, *arrays, nonlinearity, reverse, batch_first, want):
    """rnn_layer_dx with compiled steps."""
    check_sizes("rnn_layer", x, h0.shape[0], arrays[3])
    compiled(*dense(x, h0, *arrays))


rnn_layer_dx_p.op.on_host = (5,)  # sizes
rnn_layer_dx_p.kernel("cpu", "rnn_layer_dx", when=worth_packing, around=_dx_around)
rnn_layer_dx_p.kernel("cuda", "recurrent.rnn_layer_dx", "f2 bf2 f4 f8", formats=ANY)


@rnn_layer_dx_p.spec
def _(x, h0, w_ih, w_hh, y, sizes, dy, dh, *, nonlinearity, reverse, batch_first, want):
    b = x.like(w_ih.shape[0])
    return tuple(s.like(*s.shape) if w else x.like(0) for s, w in zip((x, h0, w_ih, w_hh, b), want))


rnn_layer_dx_p.nograd()  # where a second order is wanted, the gradient is made of other ops: see below


# ---- the layer
@primitive(name="rnn_layer", torch=None)
def rnn_layer_p(
    xp, x, h0, w_ih, w_hh, b_ih=None, b_hh=None, sizes=None, out=None, out_h=None, *, nonlinearity, reverse, batch_first
):
    """y and h_n."""
    if batch_first:
        inputs, outputs = [x, h0, w_ih, w_hh, b_ih, b_hh, sizes], [out, out_h]
        how = dict(nonlinearity=nonlinearity, reverse=reverse)
        return batch_first_by_steps(rnn_layer_p.op.fn, xp, inputs, (0,), outputs, (0,), **how)
    size = h0.shape[1]
    rows = out.size // size
    walk = walk_of("rnn_layer", x, h0.shape[0], sizes, reverse)
    y = out.reshape(rows, size)
    xp.matmul(x.reshape(rows, x.shape[-1]), w_ih.T, out=y)
    for b in (b_ih, b_hh):
        if b is not None:
            xp.add(y, b, out=y)
    out_h[...] = h0
    part, w = xp.empty_like(h0), w_hh.T
    for start, n in walk:
        now, h = y[start : start + n], out_h[:n]
        xp.matmul(h, w, out=part[:n])
        xp.add(now, part[:n], out=now)
        if nonlinearity == "tanh":
            xp.tanh(now, out=now)
        else:
            xp.maximum(now, 0, out=now)
        h[...] = now


def _around(compiled, xp, x, h0, *arrays, nonlinearity, reverse, batch_first):
    """rnn_layer with compiled steps."""
    check_sizes("rnn_layer", x, h0.shape[0], arrays[4])
    compiled(*dense(x, h0, *arrays))


rnn_layer_p.op.on_host = (6,)  # sizes
rnn_layer_p.kernel("cpu", "rnn_layer", when=worth_packing, around=_around)
rnn_layer_p.kernel("cuda", "recurrent.rnn_layer", "f2 bf2 f4 f8", formats=ANY)


@rnn_layer_p.spec
def _(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, *, nonlinearity, reverse, batch_first):
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn_layer: nonlinearity {nonlinearity!r}; wanted 'tanh' or 'relu'")
    bias = lambda b, h, p: (h,)
    _, size = check_layer(
        "rnn_layer",
        1,
        x,
        dict(h0=(h0, lambda b, h, p: (b, h))),
        w_ih,
        w_hh,
        dict(w_hh=(w_hh, lambda b, h, p: (h, h)), b_ih=(b_ih, bias), b_hh=(b_hh, bias)),
        sizes,
        batch_first,
    )
    return x.like(*x.shape[:-1], size), h0.like(*h0.shape)


def _composed(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, nonlinearity, how) -> tuple:
    """The layer as a composite of ops."""
    squash = tanh if nonlinearity == "tanh" else relu

    def step(pre: Tensor, h: Tensor) -> tuple:
        h = squash(pre + linear(h, w_hh, b_hh))
        return h, h

    return composed(w_ih, b_ih, (h0,), x, sizes, how, "rnn_layer", step)


@rnn_layer_p.grad
def _(g, x, h0, w_ih, w_hh, b_ih, b_hh, sizes, nonlinearity, reverse, batch_first, want):
    forward = lambda *inputs: _composed(*inputs, nonlinearity, dict(reverse=reverse, batch_first=batch_first))
    return gradients_of(forward, (x, h0, w_ih, w_hh, b_ih, b_hh, sizes), g, want)


@rnn_layer_p.fused_grad
def _(g, x, h0, w_ih, w_hh, sizes, out, nonlinearity, reverse, batch_first, want):
    some = (*want[:4], want[4] or want[5])
    dx, dh0, dw_ih, dw_hh, db = rnn_layer_dx_p(
        x,
        h0,
        w_ih,
        w_hh,
        out,
        sizes,
        g[0],
        g[1],
        nonlinearity=nonlinearity,
        reverse=reverse,
        batch_first=batch_first,
        want=some,
    )
    return dx, dh0, dw_ih, dw_hh, db, db, None


@rnn_layer_p.cases
def _(make):
    yield from samples(make, 1, 1)
    for case in samples(make, 1, 1, plain=True):
        yield case | dict(nonlinearity="relu")
    yield ValueError, dict(x=make(3, 2, 2), h0=make(2, 2), w_ih=make(2, 2), w_hh=make(2, 2), nonlinearity="sin")
    yield RuntimeError, dict(x=make(3, 2, 2), h0=make(2, 2), w_ih=make(3, 2), w_hh=make(3, 2))


@rnn_layer_p.ref
def _reference(
    x, h0, w_ih, w_hh, b_ih=0, b_hh=0, batch_sizes=None, nonlinearity="tanh", reverse=False, batch_first=False
):
    kind = np.result_type(x, h0, w_ih, w_hh, b_ih, b_hh)
    y, h_n = np.zeros((*x.shape[:-1], h0.shape[1]), kind), h0.astype(kind)
    for b, places in sequences(x, len(h0), batch_sizes, reverse, batch_first):
        h = h0[b]
        for at in places:
            z = w_ih @ x[at] + b_ih + w_hh @ h + b_hh
            h = y[at] = np.tanh(z) if nonlinearity == "tanh" else z * (z.real > 0)
        h_n[b] = h
    return y, h_n


@rnn_layer_dx_p.cases
def _(make):
    for k, case in enumerate(samples(make, 1, 1, plain=True)):
        case = below(case) | dict(nonlinearity="relu" if k % 2 else "tanh")
        y, h = rnn_layer_p(**case)
        case |= dict(y=y, want=(True,) * 5)
        dy, dh = gradients_for(make, (y, h))
        yield case | dict(dy=dy, dh=dh)
        yield case | [dict(dh=dh, want=(False, True, False, True, False)), dict(dy=dy)][k % 3 > 0]


@rnn_layer_dx_p.ref
def _(x, h0, w_ih, w_hh, y, sizes=None, dy=None, dh=None, *, nonlinearity, reverse, batch_first, want):
    inputs = dict(x=x, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=np.zeros(len(w_ih)))
    how = dict(nonlinearity=nonlinearity, reverse=reverse, batch_first=batch_first)
    forward = lambda **given: _reference(**given, batch_sizes=sizes, **how)
    found = complex_gradients(forward, inputs, [dy, dh])
    return [found[n] if w else np.zeros(0) for n, w in zip(inputs, want)]


@face(rnn_layer_p)
def rnn_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    nonlinearity: str = "tanh",
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """One plain recurrent layer over a whole sequence: (y, h_n).

    h' = tanh(w_ih x + b_ih + w_hh h + b_hh), or relu of that.

    x (T, B, I), (B, T, I) with ``batch_first``, or (rows, I) packed beside batch_sizes (T,) of int64; h0 (B, H), w_ih
    (H, I), w_hh (H, H), biases (H,). y as x with H columns. ``reverse`` goes from the last step to the first. Half
    types are computed in float32.

    >>> import tensorlite as tl
    >>> from tensorlite.ops.recurrent_rnn import rnn_layer
    >>> w = tl.ones(1, 1)
    >>> rnn_layer(tl.ones(2, 1, 1), tl.zeros(1, 1), w, w)[0].flatten()
    tensor([0.7616, 0.9427])
    """
    how = dict(nonlinearity=nonlinearity, reverse=reverse, batch_first=batch_first)
    call = lambda *tensors: rnn_layer_p(*tensors, batch_sizes, **how)
    return in_wide("rnn_layer", call, x, h0, w_ih, w_hh, b_ih, b_hh)
