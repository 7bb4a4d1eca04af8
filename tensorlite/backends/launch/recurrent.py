"""Launches of LSTM, GRU and plain recurrent layers: recurrent.cu for the steps, matrix products for the rest. Floor 1.

Forward: x W_ih^T of all steps at once, then all steps in one launch. Backward: all steps in one launch, which gives the
gradients d before the gates; then the gradients by x and by the weights as products of whole matrices.
How the steps are spread over the GPU is worked out by recurrent_plan.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from tensorlite.backends import cublas, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.column_sum import column_sums, compute
from tensorlite.backends.launch.linalg import contiguous, tiled
from tensorlite.backends.launch.recurrent_plan import GATES, THREADS, Plan, device_limits, plan_of
from tensorlite.errors import ShapeError

CELLS = {"lstm": 0, "gru": 1, "tanh": 2, "relu": 3}
NUMBERS = "iiiqqiiiiii"  # steps, batch, reverse, steps between rows, sizes of the plan
FORWARD, BACKWARD = "P" * 15 + NUMBERS, "P" * 17 + NUMBERS
ITEMSIZES = {"f2": 2, "bf2": 2, "f4": 4, "f8": 8}
MOST_WALKS = 64  # of packed sequences that are kept on the GPU


def defines(cell: str, short: str, back: bool, plan: Plan) -> dict:
    """The macros of recurrent.cu."""
    types = dict(ELEM=CTYPES[short], SUM=CTYPES[compute(short)])
    return dict(CELL=CELLS[cell], BACK=int(back), **types, **plan.macros)


# ---- which rows belong to which step
class Walks:
    """(first rows, rows) of the steps of packed sequences, as arrays of the device: one upload for each list."""

    def __init__(self, name: str, rows: int, batch: int):
        self.name, self.rows, self.batch = name, rows, batch
        self._known: dict = {}

    def __call__(self, sizes: Any) -> tuple:
        from tensorlite.backends import cuda

        if sizes is None:
            return None, None
        if not isinstance(sizes, np.ndarray):  # usually they are on the CPU
            sizes = cuda.arrays().asnumpy(sizes)
        key = sizes.tobytes()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST_WALKS:
                self._known.clear()
            found = self._known[key] = self._upload(sizes.tolist())
        return found

    def _upload(self, sizes: list) -> tuple:
        from tensorlite.backends import cuda

        ends = list(accumulate(sizes))
        falls = all(0 < b <= a for a, b in zip([self.batch, *sizes], sizes))
        if ends[-1] != self.rows or sizes[0] != self.batch or not falls:
            raise ShapeError(
                f"{self.name}: batch_sizes {sizes} for {self.rows} rows of x and {self.batch} of state; wanted "
                "sizes that begin with the rows of state, never grow, are not 0 and sum to the rows of x"
            )
        both = cuda.arrays().asarray(np.array([[0, *ends[:-1]], sizes], np.int32))
        return both[0], both[1]


def _apart(x: Any, sizes: Any, batch: int, batch_first: bool) -> tuple:
    """Steps; rows from a step to the next and from a sample to the next."""
    if sizes is not None:
        return sizes.shape[0], 0, 1
    return (x.shape[1], 1, x.shape[1]) if batch_first else (x.shape[0], batch, 1)


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


# ---- the steps
class Steps:
    """One launch for all steps of a layer in one direction of time, forward or backward."""

    def __init__(self, cell: str, short: str, batch: int, hidden: int, back: bool):
        self.plan = plan = plan_of(cell, back, ITEMSIZES[short], batch, hidden, *device_limits())
        module = launch.load("recurrent", **defines(cell, short, back, plan))
        name, types = ("backward", BACKWARD) if back else ("forward", FORWARD)
        self.kernel = module.kernel(name, types, shared=plan.shared, cooperative=plan.groups > 1)
        self.pack = module.kernel("pack", "PPii") if not plan.where else None
        self.summed = "u2" if plan.mma else compute(short)  # u2: two bytes, whatever they are
        self.exchanged = 2 * plan.slices * plan.slice * plan.pitch * np.dtype(self.summed).itemsize
        self.hidden, self.sum_rows = hidden, hidden * (1 if back else GATES[cell])

    def __call__(self, given: tuple, w: Any, walk: tuple, numbers: tuple) -> None:
        """``given``: the arrays before the weights; ``numbers``: steps, batch, reverse, steps between rows."""
        plan, exchange, flags = self.plan, None, None
        if self.pack is not None:
            packed = launch.empty((self.sum_rows, plan.pitch), self.summed)
            self.pack((min(-(-packed.size // THREADS), 1024),), (THREADS,), w, packed, self.hidden, plan.pitch)
            w = packed
        if plan.groups > 1:  # the flags, and behind them the states of two steps
            after = -(-4 * plan.slices * plan.groups // 256) * 256
            flags = launch.zeros((after + self.exchanged,), "u1")
            exchange = flags[after:]
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
    steps, *apart = _apart(x, sizes, batch, kw["batch_first"])
    numbers, walks = (steps, batch, int(kw["reverse"]), *apart), Walks(f"{cell}_layer", rows, batch)
    run = Steps(cell, short, batch, hidden, False)

    def call(*arrays: Any) -> None:
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells = arrays
        x, h0, c0, w_ih, w_hh, b_ih, b_hh = map(contiguous, (x, h0, c0, w_ih, w_hh, b_ih, b_hh))
        pre = y.reshape(rows, hidden) if gates is None else gates[:, hidden:] if cell == "gru" else gates
        product(x.reshape(rows, -1) if x.size else x.reshape(rows, 0), w_ih, pre, tb=True)
        keeps = c0 is not None or (cell == "gru" and run.plan.mma)
        state = _states(short, h0) if keeps else None
        made = gates, cells, y, h_n, c_n, state, h0, c0
        run((made, (b_ih, b_hh)), w_hh, walks(sizes), numbers)

    return call


def lstm_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y, h_n, c_n, gates and cells of an LSTM without projection."""
    run = _forward("lstm", specs, outs, kw)

    def call(*arrays: Any) -> None:
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, _, sizes, y, h_n, c_n, gates, cells = arrays
        run(x, h0, c0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, c_n, gates, cells)

    return call


def gru_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y, h_n and gates of a GRU."""
    run = _forward("gru", specs, outs, kw)

    def call(*arrays: Any) -> None:
        x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, gates = arrays
        run(x, h0, None, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, None, gates, None)

    return call


def rnn_layer(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """y and h_n of a plain layer."""
    run = _forward(kw["nonlinearity"], specs, outs, kw)

    def call(*arrays: Any) -> None:
        x, h0, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n = arrays
        run(x, h0, None, w_ih, w_hh, b_ih, b_hh, sizes, y, h_n, None, None, None)

    return call


def _backward(cell: str, specs: tuple, kept: Any, sizes: Any, kw: dict) -> Callable:
    """``run(...)`` gives (d, what each step began with or None); d (rows, numbers kept a unit times hidden)."""
    x, h0 = specs[:2]
    short, (batch, hidden) = x.dtype.short, h0.shape
    rows = kept.size // hidden
    steps, *apart = _apart(x, sizes, batch, kw["batch_first"])
    numbers, walks = (steps, batch, int(kw["reverse"]), *apart), Walks(f"{cell}_layer", rows, batch)
    run = Steps(cell, short, batch, hidden, True)
    width = hidden * (4 if cell in ("lstm", "gru") else 1)

    def call(*arrays: Any) -> tuple:
        h0, c0, w_hh, gates, kept, sizes, dy, dh, dc, out_h0, out_c0, before = arrays
        given = map(contiguous, (gates, kept, h0, c0, dy, dh, dc))
        d = launch.empty((rows, width), h0.dtype)
        earlier = launch.empty((rows, hidden), h0.dtype) if before else None
        state = _states(short, h0) if cell in ("lstm", "gru") else None
        run(((d, earlier, out_h0, out_c0, state, *given), ()), contiguous(w_hh), walks(sizes), numbers)
        return d, earlier

    return call


def _nothing(outs: tuple) -> Callable:
    """Without rows the gradients by weights are zeros, and all others are empty."""

    def call(*arrays: Any) -> None:
        for out in arrays[-len(outs) :]:
            out.fill(0)

    return call


def _products(want: tuple, x: Any) -> Callable:
    """``run(to_x, to_h, before, x, w_ih, out, out_w_ih, out_w_hh)``: the gradients by x, w_ih and w_hh."""
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
    rest = _products((want[0], want[3], want[4]), x)
    sums = column_sums(short, cells.shape[0], 4 * hidden)

    def call(*arrays: Any) -> None:
        x, h0, c0, w_ih, w_hh, gates, cells, _, sizes, dy, dh, dc, *outs = arrays
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
    rest = _products((want[0], want[2], want[3]), x)
    sums = column_sums(short, y.size // hidden, hidden)

    def call(*arrays: Any) -> None:
        x, h0, w_ih, w_hh, y, sizes, dy, dh, out, out_h0, out_w_ih, out_w_hh, out_b = arrays
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
    rest = _products((want[0], want[2], False), x)
    sums = column_sums(short, y.size // hidden, 4 * hidden)

    def call(*arrays: Any) -> None:
        x, h0, w_ih, w_hh, gates, y, sizes, dy, dh, *outs = arrays
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


# ---- what the tests compile
SAMPLES = {  # architectures, and the limits that plans are made for -> cell, backward, dtype, batch, hidden
    (("80", "90a", "100", "120"), (108, 99 << 10)): [
        ("lstm", False, "f4", 128, 64),
        ("lstm", True, "f4", 128, 64),
        ("relu", False, "f4", 128, 64),
        ("gru", False, "f4", 16, 512),
        ("gru", True, "f4", 16, 512),
        ("lstm", True, "f4", 1000, 1500),
        ("lstm", False, "f8", 16, 96),
        ("lstm", False, "bf2", 16, 256),
        ("lstm", True, "bf2", 16, 256),
        ("gru", True, "f2", 600, 2000),
    ],
    (("90a", "100"), (132, 227 << 10)): [
        ("lstm", False, "f4", 128, 512),
        ("lstm", False, "bf2", 128, 512),
        ("lstm", True, "bf2", 128, 128),
    ],
}


@cache
def _variants() -> list[Variant]:
    """A choice of plans: with weights in each place, with most registers."""
    found: dict = {}
    for (archs, limits), samples in SAMPLES.items():
        for cell, back, short, batch, hidden in samples:
            plan = plan_of(cell, back, ITEMSIZES[short], batch, hidden, *limits)
            macros = defines(cell, short, back, plan)
            kernels = {"backward" if back else "forward": Needs(THREADS, plan.shared), "pack": Needs(THREADS)}
            found.setdefault(tuple(macros.items()), Variant(macros, kernels, archs, plan.mma))
    return list(found.values())


def __getattr__(name: str) -> Any:
    if name == "VARIANTS":  # worked out for those who ask
        return _variants()
    raise AttributeError(f"recurrent: no kernel {name!r}")
