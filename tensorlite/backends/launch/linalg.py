"""Launches of matmul and linear: cuBLASLt, and the kernel of linalg.cu for what it does not take. Floor 1.

cuBLASLt makes products of floating-point matrices whose rows or columns lie without gaps; others are copied first.
linalg.cu makes those of integers and bools, and those without inner elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product as every
from typing import Any

from tensorlite import config
from tensorlite.backends import cublas, launch
from tensorlite.backends.cublas import Lay, Unsupported, lay_of, packed
from tensorlite.backends.launch import CTYPES, Needs, Variant

SUMS = {"f4": "float", "f2": "float", "bf2": "float", "f8": "double"}  # what is summed in; integers in 64 bits
TILE, THREADS = 32, (32, 8)
MOST_ALONG_Z = 65535


def variant(short: str) -> dict:
    """The macros of linalg.cu for a dtype."""
    return {"ELEM": CTYPES[short], "SUM": SUMS.get(short, "unsigned long long")}


VARIANTS = [Variant(defines=variant(t), kernels={"product": Needs(block=256, blocks=4)}) for t in CTYPES]


# ---- factories
def matmul(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x @ w over the last two dimensions, each transposed first where tx or tw says so; the others broadcast."""
    return by_layout(specs[0], specs[1], outs[0], tx=bool(kw.get("tx")), tw=bool(kw.get("tw")))


def linear(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x @ w.T + b; b may be None."""
    run = with_bias(specs, outs[0])
    return lambda x, w, b, out: run(x, w, out, b)


def with_bias(specs: tuple, out: Any) -> Callable:
    """``run(x, w, out, b)``: x @ w.T, and b added in the product's epilogue, or after it where that cannot be."""
    from tensorlite.backends.launch.linear_act import finisher

    x, w, b = specs
    plain = by_layout(x, w, out, tw=True)
    if b is None:
        return plain
    finish = finisher(out)

    def apart(x: Any, w: Any, out: Any, b: Any) -> None:
        plain(x, w, out)
        finish(out, contiguous(b), None, out)

    return in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue="bias"), apart)


def in_epilogue(make: Callable, apart: Callable) -> Callable:
    """What ``make()`` gives, or ``apart`` where the library has no such epilogue for these arrays."""
    try:
        fused = make()
    except Unsupported:
        return apart

    def run(x: Any, w: Any, out: Any, b: Any, *more: Any) -> None:
        try:
            fused(x, w, out, contiguous(b), *more)
        except Unsupported:  # arrays that lie worse than most
            apart(x, w, out, b, *more)

    return run


def by_layout(
    x: Any,
    w: Any,
    out: Any,
    *,
    tx: bool = False,
    tw: bool = False,
    epilogue: str | None = None,
    aux: bool = False,
    residual: bool = False,
    wide: bool = False,
) -> Callable:
    """``run(x, w, out, bias=None, aux=None, residual=None)`` for the arrays of these specs.

    It is made here where the specs tell how the inputs lie, else at the first call with arrays that lie so; here
    Unsupported is raised if there is no such epilogue. ``aux`` and ``residual`` lie as ``out`` does, if they are given.
    ``wide``: the array for ``out`` is float32 and the others are halves.
    """
    if not out.size:
        return lambda *arrays: None
    short = "f4" if wide else out.dtype.short
    if not out.dtype.is_floating_point or not x.size:
        return tiled(short, tx, tw, out.shape)
    known: dict = {}

    def find(key: tuple) -> Callable:
        run = known.get(key)
        if run is None:
            run = known[key] = _product(key, tx, tw, out, epilogue, aux, residual, wide)
        return run

    usual = packed(x.shape), packed(w.shape)
    first = find(usual)
    if (x.strides, w.strides) == (usual[0].strides, usual[1].strides):
        return first
    return lambda x, w, out, *more: find((lay_of(x), lay_of(w)))(x, w, out, *more)


def contiguous(array: Any) -> Any:
    """The array, or a copy whose elements lie without gaps."""
    return array if array is None or array.flags.c_contiguous else array.copy(order="C")


# ---- how arrays lie
def collapsed(sizes: tuple, *strides: tuple) -> list:
    """Dimensions, outermost first, as (size, steps): neighbours that every array walks in one go are one."""
    dims: list = []
    for size, *steps in zip(sizes, *strides):
        if size == 1:
            continue
        if dims and all(outer == step * size for outer, step in zip(dims[-1][1], steps)):
            dims[-1] = (dims[-1][0] * size, tuple(steps))
        else:
            dims.append((size, tuple(steps)))
    return dims


def spread(lay: Lay, batch: tuple) -> tuple:
    """The steps of the leading dimensions when broadcast to ``batch``."""
    own = [0 if n == 1 else s for n, s in zip(lay.shape[:-2], lay.strides)]
    return (0,) * (len(batch) - len(own)) + tuple(own)


def merged(lay: Lay) -> Lay | None:
    """(..., K) as (rows, K), or None where the rows are not at even distances."""
    dims = collapsed(lay.shape[:-1], lay.strides[:-1])
    if len(dims) > 1:
        return None
    rows, (step,) = dims[0] if dims else (1, (lay.shape[-1],))
    return Lay((rows, lay.shape[-1]), (step, lay.strides[-1]))


def _readable(lay: Lay, transpose: bool = False) -> bool:
    try:
        cublas.matrix(Lay(lay.shape[-2:], lay.strides[-2:]), transpose)
    except Unsupported:
        return False
    return True


# ---- cuBLASLt
def _product(
    key: tuple, tx: bool, tw: bool, out: Any, epilogue: str | None, aux: bool, residual: bool, wide: bool
) -> Callable:
    """The product of arrays that lie so, on copies of those that cannot be read as they are."""
    x, w = key
    rows = None if tx or len(w.shape) > 2 else merged(x)  # one matrix of all rows
    one = rows is not None or epilogue is not None or residual or wide  # what comes after is for one matrix
    copy_w = not _readable(w, tw)
    w = packed(w.shape) if copy_w else w
    if copy_x := not _readable(rows or x, tx) or (one and rows is None):
        x = packed(x.shape)
        rows = merged(x) if one else None
    try:
        if rows is not None:
            made: Callable = _planned(rows, w, tw, out, epilogue, aux, residual, wide)
        else:
            made = _looped(x, w, tx, tw, out)
    except Unsupported as error:
        if epilogue or residual or wide:
            raise
        if config.DEBUG.value:
            print(f"tensorlite: {error}; linalg.cu does it")
        return tiled(out.dtype.short, tx, tw, out.shape)
    if not copy_x and not copy_w:
        return made
    return lambda x, w, *more: made(x.copy(order="C") if copy_x else x, w.copy(order="C") if copy_w else w, *more)


def _planned(
    rows: Lay, w: Lay, tw: bool, out: Any, epilogue: str | None, aux: bool, residual: bool, wide: bool
) -> cublas.Plan:
    y = packed((rows.shape[0], out.shape[-1]))
    return cublas.plan(
        out.dtype.short,
        rows,
        w,
        y,
        transpose_b=tw,
        epilogue=epilogue,
        aux=y if aux else None,
        residual=y if residual else None,
        device=out.device.index,
        wide=wide,
    )


def _looped(x: Lay, w: Lay, tx: bool, tw: bool, out: Any) -> Callable:
    """Batches of matrices: one call for the inner dimensions that go together, a loop over the others."""
    y, batch = packed(out.shape), out.shape[:-2]
    dims = collapsed(batch, spread(x, batch), spread(w, batch), y.strides[:-2])
    size, steps = dims.pop() if dims else (1, (0, 0, 0))
    inner = [Lay((size, *lay.shape[-2:]), (step, *lay.strides[-2:])) for lay, step in zip((x, w, y), steps)]
    plan = cublas.plan(out.dtype.short, *inner, transpose_a=tx, transpose_b=tw, device=out.device.index)
    if not dims:
        return plan
    offsets = [tuple(o * out.dtype.itemsize for o in offset) for offset in _offsets(dims)]

    def run(x: Any, w: Any, out: Any, *more: Any) -> None:
        a, b, c = x.data.ptr, w.data.ptr, out.data.ptr
        for i, j, k in offsets:
            plan.at(a + i, b + j, c + k)

    return run


def _offsets(dims: list) -> list:
    """Where each turn of a loop over these dimensions begins, in elements of each array."""
    turns = every(*(range(size) for size, _ in dims))
    return [tuple(sum(i * steps[n] for i, (_, steps) in zip(turn, dims)) for n in range(3)) for turn in turns]


# ---- linalg.cu
def tiled(short: str, tx: bool, tw: bool, shape: tuple) -> Callable:
    """The product by linalg.cu: any dtype, any strides, any sizes."""
    kernel = launch.load("linalg", **variant(short)).kernel("product", "PPPPP" + "q" * 14)
    flat, known = len(shape) < 2, {}

    def arguments(x: Lay, w: Lay) -> tuple:
        """Grid, and the numbers of each launch: sizes, steps, offsets."""
        if flat:
            x, y = Lay((1, *x.shape), (0, *x.strides)), packed((1, *shape))
        else:
            y = packed(shape)
        batch, (m, n) = y.shape[:-2], y.shape[-2:]
        (xs, xk), (wk, wn) = x.strides[-2:], w.strides[-2:]
        k = x.shape[-2 if tx else -1]
        xs, xk = (xk, xs) if tx else (xs, xk)
        wk, wn = (wn, wk) if tw else (wk, wn)
        dims = collapsed(batch, spread(x, batch), spread(w, batch), y.strides[:-2])
        size, (px, pw, py) = dims.pop() if dims else (1, (0, 0, 0))
        grid = math.ceil(n / TILE), min(math.ceil(m / TILE), MOST_ALONG_Z), min(size, MOST_ALONG_Z)
        return grid, [(m, n, k, size, xs, xk, px, wk, wn, pw, py, *o) for o in _offsets(dims)]

    def run(x: Any, w: Any, out: Any, bias: Any = None, aux: Any = None, residual: Any = None) -> None:
        key = lay_of(x), lay_of(w)
        if key not in known:
            known[key] = arguments(*key)
        grid, launches = known[key]
        bias = contiguous(bias)
        for numbers in launches:
            kernel(grid, THREADS, x, w, bias, residual, out, *numbers)

    return run
