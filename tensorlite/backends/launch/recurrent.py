"""Launches of LSTM, GRU and plain recurrent layers: recurrent.cu for the steps, matrix products for the rest. Floor 1.

Forward: x W_ih^T of all steps at once, then all steps in one launch. Backward: all steps in one launch, which gives the
gradients d before the gates; then the gradients by x and by the weights as products of whole matrices.
How the steps are spread over the GPU is worked out by recurrent_plan.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.backends import cublas, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.linalg import contiguous, tiled
from tensorlite.backends.launch.recurrent_plan import GATES, THREADS, Plan, device_limits, plan_of

CELLS = {"lstm": 0, "gru": 1, "tanh": 2, "relu": 3}
NUMBERS = "iiiqqiiiiii"  # steps, batch, reverse, steps between rows, sizes of the plan
FORWARD, BACKWARD = "P" * 15 + NUMBERS, "P" * 17 + NUMBERS
MOST_WALKS = 64  # of packed sequences that are kept on the GPU


def compute(short: str) -> str:
    """The dtype of numpy in which a kernel computes."""
    return "f8" if short == "f8" else "f4"


def defines(cell: str, short: str, back: bool, plan: Plan) -> dict:
    """The macros of recurrent.cu."""
    types = dict(ELEM=CTYPES[short], SUM=CTYPES[compute(short)])
    return dict(CELL=CELLS[cell], BACK=int(back), **types, **plan.macros)


# ---- which rows belong to which step
class Walks:
    """(first rows, rows) of the steps of packed sequences, as arrays of the device: one upload for each list."""

    def __init__(self, name: str, rows: int, batch: int):
        self.name, self.rows, self.batch, self._known = name, rows, batch, {}

    def __call__(self, sizes: Any) -> Any:
        key = sizes.tobytes()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST_WALKS:
                self._known.clear()
            found = self._known[key] = self._upload(sizes)
        return found

    def _upload(self, sizes: Any) -> tuple:
        from tensorlite.backends import cuda

        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        both = cuda.arrays().asarray(np.stack([starts, sizes]).astype(np.int32))
        return both[0], both[1]


def _walk(x: Any, sizes: Any, batch: int, batch_first: bool, rows: int) -> tuple:
    """(steps, its rows apart, samples' rows apart) and what gives the arrays of packed sequences."""
    if sizes is None:
        steps = x.shape[1 if batch_first else 0]
        return (steps, *((1, steps) if batch_first else (batch, 1))), lambda sizes: (None, None)
    return (sizes.shape[0], 0, 1), Walks("", rows, batch)


# ---- products of matrices
def product(a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False) -> None:
    """out = a b, either transposed first; rows of ``out`` may have gaps."""
    if not out.size:
        return
    if not a.size:
        out.fill(0)
        return
    try:
        cublas.gemm(a, b, out, transpose_a=ta, transpose_b=tb)
    except cublas.Unsupported:
        from tensorlite import dtypes

        whole = out if out.flags.c_contiguous else launch.empty(out.shape, out.dtype)
        tiled(dtypes.dtype.of_numpy[out.dtype].short, ta, tb, out.shape)(a, b, whole)
        if whole is not out:
            out[...] = whole


def column_sums(short: str, rows: int, columns: int) -> Callable:
    """``run(x, out)``: the sums of the columns of x (rows, columns)."""
    wide, parts = compute(short), max(1, min(64, rows // 128))
    types = dict(SUM=CTYPES[wide])
    load = lambda a, b: launch.load("column_sum", FROM=CTYPES[a], TO=CTYPES[b], **types).kernel("column_sum", "PPqiqi")
    whole, first, last = load(short, short), load(short, wide), load(wide, short)
    blocks = -(-columns // 32)

    def run(x: Any, out: Any) -> None:
        if parts == 1:
            whole((blocks,), (256,), x, out, rows, columns, columns, 1)
            return
        some = launch.empty((parts, columns), wide)
        first((blocks, parts), (256,), x, some, rows, columns, columns, parts)
        last((blocks,), (256,), some, out, parts, columns, columns, 1)

    return run


# ---- the steps
class Steps:
    """One launch for all steps of a layer in one direction of time, forward or backward."""

    def __init__(self, cell: str, short: str, batch: int, hidden: int, back: bool):
        from tensorlite.backends import cuda

        self.plan = plan = plan_of(cell, back, np.dtype(compute(short)).itemsize, batch, hidden, *device_limits())
        module = launch.load("recurrent", **defines(cell, short, back, plan))
        name, types = ("backward", BACKWARD) if back else ("forward", FORWARD)
        self.kernel = module.kernel(name, types, shared=plan.shared, cooperative=plan.groups > 1)
        self.pack = module.kernel("pack", "PPii") if not plan.where else None
        self.wide, self.hidden, self.sum_rows = compute(short), hidden, hidden * (1 if back else GATES[cell])
        self.cuda = cuda

    def __call__(self, given: tuple, w: Any, walk: tuple, numbers: tuple) -> None:
        """``given``: the arrays before the weights; ``numbers``: steps, batch, reverse, steps between rows."""
        plan, exchange, flags = self.plan, None, None
        if self.pack is not None:
            packed = launch.empty((self.sum_rows, plan.pitch), self.wide)
            self.pack((min(-(-packed.size // THREADS), 1024),), (THREADS,), w, packed, self.hidden, plan.pitch)
            w = packed
        if plan.groups > 1:
            exchange = launch.zeros((2 * plan.slices * plan.slice * plan.pitch,), self.wide)
            flags = launch.zeros((plan.slices * plan.groups,), np.int32)
        self.kernel(
            (plan.groups, plan.slices),
            (THREADS,),
            *given[0],
            w,
            *given[1],
            exchange,
            flags,
            *walk,
            *numbers,
            *plan.sizes,
        )


def _states(short: str, given: Any) -> Any:
    """Memory for states in the type that is computed in."""
    return launch.empty(given.shape, compute(short))


# ---- factories
def _forward(cell: str, specs: tuple, outs: tuple, kw: dict) -> Callable:
    """``run(x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells)``."""
    x, h0, sizes = specs[0], specs[1], specs[-1]
    short, (batch, hidden) = x.dtype.short, h0.shape
    rows = outs[0].size // hidden
    if not rows:
        return lambda x, h0, c0, *more: None
    (steps, *apart), walks = _walk(x, sizes, batch, kw["batch_first"], rows)
    numbers = (steps, batch, int(kw["reverse"]), *apart)
    run = Steps(cell, short, batch, hidden, False)

    def call(x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells) -> None:  # noqa: ANN001
        x, h0, c0, w_ih, w_hh, b_ih, b_hh = map(contiguous, (x, h0, c0, w_ih, w_hh, b_ih, b_hh))
        pre = y.reshape(rows, hidden) if gates is None else gates[:, hidden:] if cell == "gru" else gates
        product(x.reshape(rows, -1) if x.size else x.reshape(rows, 0), w_ih, pre, tb=True)
        state = _states(short, c0) if c0 is not None else None
        made = gates, cells, y, h_n, c_n, state, h0, c0
        run((made, (b_ih, b_hh)), w_hh, walks(sizes), numbers)

    return call


def lstm_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y, h_n, c_n, gates and cells of an LSTM without projection."""
    run = _forward("lstm", specs, outs, kw)

    def call(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, sizes, y, h_n, c_n, gates, cells) -> None:  # noqa: ANN001
        run(x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells)

    return call


def gru_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y, h_n and gates of a GRU."""
    run = _forward("gru", specs, outs, kw)

    def call(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, gates) -> None:  # noqa: ANN001
        run(x, h0, None, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, None, gates, None)

    return call


def rnn_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y and h_n of a plain layer."""
    run = _forward(kw["nonlinearity"], specs, outs, kw)

    def call(x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n) -> None:  # noqa: ANN001
        run(x, h0, None, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, None, None, None)

    return call


def _backward(cell: str, specs: tuple, kept: Any, sizes: Any, kw: dict) -> Callable:
    """``run(...)`` gives (d, what each step began with or None); d (rows, numbers kept a unit times hidden)."""
    x, h0 = specs[:2]
    short, (batch, hidden) = x.dtype.short, h0.shape
    rows = kept.size // hidden
    (steps, *apart), walks = _walk(x, sizes, batch, kw["batch_first"], rows)
    numbers = (steps, batch, int(kw["reverse"]), *apart)
    run = Steps(cell, short, batch, hidden, True)
    width = hidden * (4 if cell in ("lstm", "gru") else 1)

    def call(h0, c0, w_hh, gates, kept, sizes, dy, dh, dc, out_h0, out_c0, before) -> tuple:  # noqa: ANN001
        given = map(contiguous, (gates, kept, h0, c0, dy, dh, dc))
        d = launch.empty((rows, width), h0.dtype)
        earlier = launch.empty((rows, hidden), h0.dtype) if before else None
        state = _states(short, h0) if cell in ("lstm", "gru") else None
        run(((d, earlier, out_h0, out_c0, state, *given), ()), contiguous(w_hh), walks(sizes), numbers)
        return d, earlier

    return call


def _nothing(outs: tuple) -> Callable:
    """Without rows the gradients are zeros, and those of the first states those of the last."""

    def call(*arrays: Any) -> None:
        for out in arrays[-len(outs) :]:
            out.fill(0)

    return call


def _products(want: tuple, x: Any, hidden: int, width: int, short: str) -> Callable:
    """``run(d_x, d_h, before, x, w_ih, out, out_w_ih, out_w_hh)``: gradients by x, w_ih, w_hh, from those before gates."""
    rows, inner = x.size // x.shape[-1] if x.shape[-1] else 0, x.shape[-1]

    def run(to_x: Any, to_h: Any, before: Any, x: Any, w_ih: Any, out: Any, out_w_ih: Any, out_w_hh: Any) -> None:
        if want[0] and inner:
            product(to_x, contiguous(w_ih), out.reshape(rows, inner))
        if want[1] and inner:
            product(to_x, contiguous(x).reshape(rows, inner), out_w_ih, ta=True)
        if want[2]:
            product(to_h, before, out_w_hh, ta=True)

    return run


def lstm_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradients of an LSTM without projection."""
    x, h0, want, cells = specs[0], specs[1], kw["want"], specs[6]
    if not cells.size:
        return _nothing(outs)
    short, hidden = x.dtype.short, h0.shape[1]
    run = _backward("lstm", specs, cells, specs[8], kw)
    rest = _products((want[0], want[3], want[4]), x, hidden, 4 * hidden, short)
    sums = column_sums(short, cells.shape[0], 4 * hidden)

    def call(x, h0, c0, w_ih, w_hh, gates, cells, w_hr, sizes, dy, dh, dc, *outs) -> None:  # noqa: ANN001
        out, out_h0, out_c0, out_w_ih, out_w_hh, out_b, _ = outs
        firsts = out_h0 if want[1] else None, out_c0 if want[2] else None
        d, before = run(h0, c0, w_hh, gates, cells, sizes, dy, dh, dc, *firsts, want[4])
        rest(d, d, before, x, w_ih, out, out_w_ih, out_w_hh)
        if want[5]:
            sums(d, out_b)

    return call


def rnn_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradients of a plain layer."""
    x, h0, want, y = specs[0], specs[1], kw["want"], specs[4]
    if not y.size:
        return _nothing(outs)
    short, hidden = x.dtype.short, h0.shape[1]
    run = _backward(kw["nonlinearity"], specs, y, specs[5], kw)
    rest = _products((want[0], want[2], want[3]), x, hidden, hidden, short)
    sums = column_sums(short, y.size // hidden, hidden)

    def call(x, h0, w_ih, w_hh, y, sizes, dy, dh, out, out_h0, out_w_ih, out_w_hh, out_b) -> None:  # noqa: ANN001
        d, before = run(h0, None, w_hh, None, y, sizes, dy, dh, None, out_h0 if want[1] else None, None, want[3])
        rest(d, d, before, x, w_ih, out, out_w_ih, out_w_hh)
        if want[4]:
            sums(d, out_b)

    return call


def gru_layer_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradients of a GRU. d lies as (q, reset, update, new): see ops/recurrent_gru.py."""
    x, h0, want, y = specs[0], specs[1], kw["want"], specs[5]
    if not y.size:
        return _nothing(outs)
    short, hidden = x.dtype.short, h0.shape[1]
    run = _backward("gru", specs, y, specs[6], kw)
    rest = _products((want[0], want[2], False), x, hidden, 4 * hidden, short)
    sums = column_sums(short, y.size // hidden, 4 * hidden)

    def call(x, h0, w_ih, w_hh, gates, y, sizes, dy, dh, *outs) -> None:  # noqa: ANN001
        out, out_h0, out_w_ih, out_w_hh, out_b_ih, out_b_hh = outs
        d, before = run(h0, None, w_hh, gates, y, sizes, dy, dh, None, out_h0 if want[1] else None, None, want[3])
        rest(d[:, hidden:], None, None, x, w_ih, out, out_w_ih, None)
        if want[3]:
            product(d[:, hidden : 3 * hidden], before, out_w_hh[: 2 * hidden], ta=True)
            product(d[:, :hidden], before, out_w_hh[2 * hidden :], ta=True)
        if want[4] or want[5]:
            total = launch.empty((4 * hidden,), h0.dtype)
            sums(d, total)
            if want[4]:
                out_b_ih[...] = total[hidden:]
            if want[5]:
                out_b_hh[: 2 * hidden], out_b_hh[2 * hidden :] = total[hidden : 3 * hidden], total[:hidden]

    return call
