"""Reduce: sum, mean, largest and smallest over any dimensions, always in the same order. Floor 1.

Two ways: ``rows``, a block an output, where elements that are reduced together lie side by side; ``columns``, 32
outputs a block with 8 threads each, where neighbouring outputs do, or where little is reduced. Long reductions are cut
into chunks, by their length alone, whose results are reduced in turn: the same bits come out each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from tensorlite.backends.numba_cuda.launching import (
    BLOCK,
    FLOATS,
    TYPES,
    Kernel,
    array_type,
    digits,
    empty,
    maths,
    merged,
    on_device,
    written,
)

CHUNK = 1 << 14  # elements that one block adds up, at most
ACROSS, DOWN = 32, 8  # threads of a block of columns
FEW = 64  # elements that are not worth a block
COMBINE = {
    "sum": "{t} + {v}",
    "mean": "{t} + {v}",
    "amax": "{v} if {v} > {t} or {v} != {v} else {t}",
    "amin": "{v} if {v} < {t} or {v} != {v} else {t}",
}


def first(op: str, short: str) -> Any:
    """What a reduction begins with."""
    kind = np.dtype(short)
    if op in ("sum", "mean"):
        return kind.type(0)
    low, high = (-math.inf, math.inf) if short in FLOATS else (np.iinfo(kind).min, np.iinfo(kind).max)
    return kind.type(low if op == "amax" else high)


@cache
def kernel(op: str, short: str, width: int, kept: int, gone: int) -> Kernel:
    """The kernel (x, count, outputs, chunks, n, out) for x of ``kept`` dimensions and then ``gone`` reduced ones.

    ``width`` threads share an output: DOWN in columns, more in rows.

    ``out`` (outputs * chunks,) has the chunks of an output side by side.
    """
    k, r = [f"k{d}" for d in range(kept)], [f"r{d}" for d in range(gone)]
    of_output = digits("o", [f"x.shape[{d}]" for d in range(kept)], k)
    of_element = digits("e", [f"x.shape[{kept + d}]" for d in range(gone)], r)
    combine = COMBINE[op].format
    rows = width != DOWN
    across = 1 if rows else ACROSS
    text = f"""
def tl_{op}(x, count, outputs, chunks, n, out):
    part = cuda.shared.array(({width}, {across}), kind)
    t = {"cuda.threadIdx.x" if rows else "cuda.threadIdx.y"}
    lane = {"0" if rows else "cuda.threadIdx.x"}
    chunk = cuda.blockIdx.x % chunks
    output = cuda.blockIdx.x // chunks * {across} + lane
    total = start
    if output < outputs:
        o = output
        {"; ".join(of_output) or "pass"}
        j = chunk * {CHUNK} + t
        end = min(chunk * {CHUNK} + {CHUNK}, count)
        while j < end:
            e = j
            {"; ".join(of_element) or "pass"}
            value = x[{", ".join(k + r)}]
            total = {combine(t="total", v="value")}
            j += {width}
    part[t, lane] = total
    cuda.syncthreads()
    step = {width // 2}
    while step > 0:
        if t < step:
            value = part[t + step, lane]
            total = part[t, lane]
            part[t, lane] = {combine(t="total", v="value")}
        cuda.syncthreads()
        step = step // 2
    if t == 0 and output < outputs:
        out[output * chunks + chunk] = part[0, lane]{" / n" if op == "mean" else ""}
"""
    names = maths(short) | {"start": first(op, short), "kind": np.dtype(short).type}
    numba = TYPES[short]
    types = f"{array_type(short, kept + gone)}, int64, int64, int64, {numba}, {numba}[::1]"
    return written(f"tl_{op}", text, names, types)


def reduce(op: str, short: str, dim: tuple, x: Any, out: Any) -> None:
    """``out`` in one run: x reduced over ``dim``."""
    kept = [d for d in range(x.ndim) if d not in dim]
    outputs, count = math.prod(x.shape[d] for d in kept), math.prod(x.shape[d] for d in dim)
    if not outputs:
        return
    cut = lambda dims: merged(tuple(x.shape[d] for d in dims), tuple(x.strides[d] for d in dims))
    (sizes, [steps]), (lengths, [strides]) = cut(kept), cut(sorted(dim))
    if not sizes + lengths:
        lengths, strides = (1,), (x.itemsize,)
    beside = bool(sizes) and (not strides or min(steps) < min(strides))
    source = on_device(x, sizes + lengths, steps + strides)
    n = np.dtype(short).type(count)
    while True:
        chunks = max(-(-count // CHUNK), 1)
        last = chunks == 1
        columns = beside or (count <= FEW and outputs > 1)
        width = DOWN if columns else min(BLOCK, max(ACROSS, 1 << (min(count, CHUNK) // 4).bit_length()))
        grid = (-(-outputs // ACROSS) if columns else outputs) * chunks
        made = on_device(out if last else empty((outputs * chunks,), x.dtype), (outputs * chunks,), (x.itemsize,))
        # a mean divides at the end
        run = kernel(op if last or op != "mean" else "sum", short, width, len(sizes), len(lengths))
        run((grid,), (ACROSS, DOWN) if columns else (width,), source, count, outputs, chunks, n, made)
        if last:
            return
        source, count, beside = made.reshape(outputs, chunks), chunks, False
        sizes, lengths = (outputs,), (chunks,)


def made(op: str, specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    short = specs[0].dtype.short
    if short == "b1" or short not in (FLOATS if op == "mean" else TYPES):
        return None
    return partial(reduce, op, short, tuple(kw["dim"]))


def factory(op: str) -> Callable | None:
    return partial(made, op) if op in COMBINE else None
