"""Rows added where indices say, equal ones adding up: the host half of kernels/cuda/scatter.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import cuda, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.elementwise import computed_in
from tensorlite.backends.launch.index import (
    THREADS,
    Picked,
    apart,
    cropped,
    dense,
    grid,
    lanes_of,
    places,
    putting,
    start,
    stepped,
    steps_of,
    watched,
)

PART = 32  # keys of a part: that of scatter.cu
FEW, COMPARED = 4096, 1 << 26  # keys that are looked through rather than sorted; comparisons that this may cost
NUMPYS = {"float": np.float32, "double": np.float64}  # of what sums are kept in; other types are those of the elements


def _defines(short: str) -> dict:
    return {"ELEM": CTYPES[short], "NUMBER": computed_in([short])}


class Adding:
    """y += the rows of w at their keys, for elements of one dtype."""

    def __init__(self, dtype: Any):
        defines = _defines(dtype.short)
        module = launch.load("scatter", **defines)
        self.number = NUMPYS.get(defines["NUMBER"])
        self.scan = module.kernel("scan", "PPP" + "q" * 13)
        self.rows = module.kernel("add_rows", "PPPP" + "q" * 9 + "PPi")
        self.parts = module.kernel("add_parts", "PPP" + "q" * 6 + "PPi")

    def __call__(self, w: Any, keys: Any, y: Any, size: int, m: int, cuts: tuple) -> None:
        """y[o, keys[j], :] += w[o, j, :]; ``cuts``: where rows begin and end in y and in w."""
        to = steps_of(y, cuts[0])
        if to is None:
            room = dense(y)
            self(w, keys, room, size, m, cuts)
            y[...] = room
            return
        w, of = stepped(w, cuts[1])
        outer, inner = prod(w.shape[: cuts[1][0]]), prod(w.shape[cuts[1][1] :])
        if m <= FEW and y.size * m <= COMPARED:
            self.looked_through(w, keys, y, (size, inner, m), (0, 1, 0), of, to)
        else:
            self.sorted(w, keys, y, m, (outer, inner), of, to)

    def looked_through(self, w: Any, keys: Any, y: Any, sizes: tuple, steps: tuple, of: tuple, to: tuple) -> None:
        self.scan(grid(y.size), (THREADS,), w, keys, y, y.size, *sizes, *steps, *of, *to)

    def sorted(self, w: Any, keys: Any, y: Any, m: int, columns: tuple, of: tuple, to: tuple) -> None:
        order = cuda.arrays().argsort(keys)  # CuPy's sort is stable
        count, given = m, None
        while count:
            parts = -(-count // PART)
            lanes, blocks = lanes_of(parts, prod(columns))
            next_keys = next_sums = None
            if parts > 1:
                next_keys = launch.empty((2 * parts,), np.int64)
                next_sums = launch.empty((2 * parts * prod(columns),), self.number or y.dtype)
            rest = (count, *columns, *(of if given is None else ()), *to, next_keys, next_sums, lanes)
            if given is None:
                self.rows(blocks, (THREADS,), w, keys, order, y, *rest)
            else:
                self.parts(blocks, (THREADS,), *given, y, *rest)
            given, count = (next_sums, next_keys), 2 * parts if parts > 1 else 0


def _adding(p: Picked, dtype: Any) -> Callable:
    """``call(x, indices, w, y)``: y = x, or zeros, with the rows of w added where the indices say."""
    add = Adding(dtype)

    def call(x: Any, indices: tuple, w: Any, y: Any) -> None:
        w = apart(w, y)
        keys = p.keys(indices) if p.m else None
        start(x, y)
        if p.m and p.outer * p.inner and p.size:
            w = w if w.shape == p.room else cuda.arrays().broadcast_to(w, p.room)
            add(w, keys, p.lying(y), p.size, p.m, (p.cut, p.picked_cut))

    return call


def unselect(specs: tuple, outs: tuple, kw: dict) -> Callable:
    w, index = specs
    call = _adding(Picked("unselect", kw["shape"], (kw["dim"],), (index,), True), w.dtype)
    return lambda w, index, y: call(None, (index,), w, y)


def unindex(specs: tuple, outs: tuple, kw: dict) -> Callable:
    w, *indices = specs
    call = _adding(Picked("unindex", kw["shape"], kw["dims"], tuple(indices), True), w.dtype)
    return lambda w, *rest: call(None, rest[:-1], w, rest[-1])


def index_add(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, index, _ = specs
    call = _adding(Picked("index_add", x.shape, (kw["dim"],), (index,), False), x.dtype)
    return lambda x, index, w, y: call(x, (index,), w, y)


def index_put(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, _, *indices = specs
    picked = Picked("index_put", x.shape, kw["dims"], tuple(indices), True)
    call = _adding(picked, x.dtype) if kw["accumulate"] else putting(picked)
    return lambda x, w, *rest: call(x, rest[:-1], w, rest[-1])


def scatter_add(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Few indices along the dimension are looked through by each element; else those of all elements are sorted."""
    x, index, _ = specs
    dim, wraps, n = kw["dim"], kw["wraps"], index.size
    add, m = Adding(x.dtype), index.shape[dim]
    whole = (*x.shape[:dim], m, *x.shape[dim + 1 :]) == index.shape
    inner, size = prod(x.shape[dim + 1 :]), x.shape[dim]
    few = whole and (m <= PART or (m <= FEW and x.size * m <= COMPARED))
    if few:  # each line of x has m keys of its own
        picked = Picked("scatter_add", (size,), (0,), (index,), wraps)
        picked.notes = [watched("scatter_add", dim, size, wraps)]
    else:
        found = places("scatter_add", x.shape, index, dim, wraps)

    def call(a: Any, i: Any, w: Any, y: Any) -> None:
        w = apart(w, y)
        keys = (picked.keys((i,)) if few else found(i)) if n else None
        start(a, y)
        if not n or not y.size:
            return
        w = cropped(w, i.shape)
        if not few or not y.flags.c_contiguous:
            here = keys if not few else places("scatter_add", x.shape, index, dim, wraps)(i)
            add(w, here, y, y.size, n, ((0, y.ndim), (0, y.ndim)))
            return
        w, of = stepped(w, (dim, dim + 1))
        add.looked_through(w, keys, y, (size, inner, m), (m * inner, inner, 1), of, (size * inner, inner, 1))

    return call


VARIANTS = [
    Variant(
        _defines(short),
        {"scan": Needs(THREADS, blocks=4), "add_rows": Needs(THREADS, blocks=3), "add_parts": Needs(THREADS, blocks=3)},
    )
    for short in ("f4", "f8", "f2", "bf2", "i8", "i4", "b1")
]
