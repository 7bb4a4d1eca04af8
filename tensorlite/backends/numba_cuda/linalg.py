"""Matrix products in tiles of 16 by 16 that a block keeps in shared memory; any shape, any strides. Floor 1.

Each element of a tile is read from memory once for 16 products: 2 flops a byte of float32, so memory is the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tensorlite.backends.numba_cuda import elementwise
from tensorlite.backends.numba_cuda.launching import (
    FLOATS,
    Kernel,
    array_type,
    digits,
    maths,
    merged,
    on_device,
    steps,
    written,
)

TILE = 16
LAYERS = 65535  # blocks in the grid's third dimension, at most


@cache
def kernel(short: str, batches: int, adds: bool) -> Kernel:
    """The kernel (x, w, out) for so many leading dimensions, the same in all; ``adds``: to what ``out`` holds."""
    names = [f"b{k}" for k in range(batches)]
    lead = "".join(f"{n}, " for n in names)
    index = digits("b", [f"out.shape[{k}]" for k in range(batches)], names)
    rows, columns, inner = f"out.shape[{batches}]", f"out.shape[{batches + 1}]", f"x.shape[{batches + 1}]"
    text = f"""
def matmul(x, w, out):
    left = cuda.shared.array(({TILE}, {TILE}), kind)
    right = cuda.shared.array(({TILE}, {TILE}), kind)
    i = cuda.threadIdx.y
    j = cuda.threadIdx.x
    row = cuda.blockIdx.x * {TILE} + i
    column = cuda.blockIdx.y * {TILE} + j
    layers = out.size // ({rows} * {columns})
    layer = cuda.blockIdx.z
    while layer < layers:
        b = layer
        {"; ".join(index) or "pass"}
        total = zero
        for k in range(0, {inner}, {TILE}):
            inside = row < {rows} and k + j < {inner}
            left[i, j] = x[{lead}row, k + j] if inside else zero
            inside = k + i < {inner} and column < {columns}
            right[i, j] = w[{lead}k + i, column] if inside else zero
            cuda.syncthreads()
            for t in range({TILE}):
                total += left[i, t] * right[t, j]
            cuda.syncthreads()
        if row < {rows} and column < {columns}:
            out[{lead}row, column] = {f"out[{lead}row, column] + " if adds else ""}total
        layer += cuda.gridDim.z
"""
    types = ", ".join([array_type(short, batches + 2)] * 3)
    return written("matmul", text, maths(short) | {"kind": np.dtype(short).type}, types)


def matmul(short: str, x: Any, w: Any, out: Any, adds: bool = False) -> None:
    """out = x @ w, or out + x @ w; leading dimensions broadcast to those of ``out``."""
    lead, (m, n), k = out.shape[:-2], out.shape[-2:], x.shape[-1]
    if 0 in out.shape:
        return
    given = [(x, (m, k)), (w, (k, n)), (out, (m, n))]
    sizes, strides = merged(lead, *(steps(a, (*lead, *own))[: len(lead)] for a, own in given))
    arrays = [on_device(a, (*sizes, *own), (*s, *a.strides[-2:])) for (a, own), s in zip(given, strides)]
    grid = (-(-m // TILE), -(-n // TILE), min(math.prod(sizes), LAYERS))
    kernel(short, len(sizes), adds)(grid, (TILE, TILE), *arrays)


def _matmul(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    short = specs[0].dtype.short
    if short not in FLOATS:
        return None
    turn = lambda a, flag: a.swapaxes(-1, -2) if flag else a
    tx, tw = kw.get("tx", False), kw.get("tw", False)
    return lambda x, w, out: matmul(short, turn(x, tx), turn(w, tw), out)


def _linear(specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    short = specs[0].dtype.short
    if short not in FLOATS or kw.get("act") is not None:
        return None

    def call(x: Any, w: Any, b: Any, out: Any) -> None:
        matmul(short, x[None] if x.ndim == 1 else x, w.T, out[None] if out.ndim == 1 else out)
        if b is not None:
            elementwise.launch("add", short, (), out, b, out)

    return call


def factory(op: str) -> Callable | None:
    return {"matmul": _matmul, "linear": _linear}.get(op)
