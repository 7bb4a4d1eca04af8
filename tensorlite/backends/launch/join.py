"""Elements that go to another place, cat, pad, tril and triu: the host half of kernels/cuda/join.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.backends.launch import Needs, Variant, copy
from tensorlite.backends.launch.index import THREADS, dense, grid, lanes_of, start, step_of, widest

BORDERED = 5  # dimensions of `pad`, once neighbours are joined
_dense = copy.contiguous((), (), {})


def _defines(unit: int) -> dict:
    return {"UNIT": copy.UNITS[unit], "SMALL": int(unit <= 8)}


def _order(y: Any) -> tuple:
    """The order of an array's dimensions in its memory."""
    return tuple(sorted(range(y.ndim), key=lambda d: (-y.strides[d], d)))


def cat(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """A launch for each input. The output may lie in any order without gaps."""
    dim, size = kw["dim"], outs[0].dtype.itemsize
    plans: dict = {}

    def call(*arrays: Any) -> None:
        *xs, y = arrays
        order = _order(y)
        if not y.transpose(order).flags.c_contiguous:
            room = launch.empty(y.shape, y.dtype)
            call(*xs, room)
            y[...] = room
            return
        axis, to = order.index(dim), y.transpose(order)
        outer, line = prod(to.shape[:axis]), prod(to.shape[axis:])
        at = 0
        for x in xs:
            x = x.transpose(order)
            inner = prod(x.shape[axis:])
            if outer * inner:
                key = (x.shape, x.strides, at, x.data.ptr % 16, y.data.ptr % 16)
                if key not in plans:
                    plans[key] = _line_plan(x, y, axis, (outer, inner, line, at))
                kernel, blocks, rest = plans[key]
                if kernel is not None:
                    kernel(blocks, (THREADS,), x, y, *rest)
                elif outer == 1:  # any way of lying, into a dense part
                    first = at * to.shape[axis] // line
                    part = (slice(None),) * axis + (slice(first, first + x.shape[axis]),)
                    _dense(x, to[part])
                else:
                    x = dense(x)
                    kernel, blocks, rest = _line_plan(x, y, axis, (outer, inner, line, at))
                    kernel(blocks, (THREADS,), x, y, *rest)
            at += inner

    def _line_plan(x: Any, y: Any, axis: int, sizes: tuple) -> tuple:
        outer, inner, line, at = sizes
        steps = step_of(x.shape[:axis], x.strides[:axis]), step_of(x.shape[axis:], x.strides[axis:])
        if None in steps:
            return None, None, None
        row, step = (s // size for s in steps)
        step = step if inner > 1 else 1
        unit = widest(size, inner, (x, (row, 0, step)), (y, (line, at, 1)))
        many = unit // size
        lanes, blocks = lanes_of(outer, inner // many)
        kernel = launch.load("join", **_defines(unit)).kernel("lines", "PPqqqqqqi")
        return kernel, blocks, (outer, inner // many, row // many, step, at // many, line // many, lanes)

    return call


def pad(specs: tuple, outs: tuple, kw: dict) -> Callable:
    widths, n, value = kw["widths"], outs[0].size, kw["value"]
    kernel = launch.load("join", **_defines(outs[0].dtype.itemsize)).kernel("pad", "PPqQ" + "qqqq" * BORDERED)
    plans: dict = {}
    held: list = []

    def call(x: Any, y: Any) -> None:
        if not n:
            return
        if not held:  # the bits of the value
            held.append(int.from_bytes(np.asarray(value).astype(y.dtype).tobytes(), "little"))
        order = _order(y)
        to = y
        if not y.transpose(order).flags.c_contiguous:
            to, order = launch.empty(y.shape, y.dtype), tuple(range(y.ndim))
        x = x.transpose(order)
        key = (x.strides, order)
        if key not in plans:
            plans[key] = _bordered(x, order)
        numbers = plans[key]
        if numbers is None:
            x = dense(x)
            numbers = _bordered(x, order)
        kernel((grid(n)), (THREADS,), x, to, n, held[0], *numbers)
        if to is not y:
            y[...] = to

    def _bordered(x: Any, order: tuple) -> tuple | None:
        """(size of y, before, size of x, step) of each dimension, those without a border joined; None for too many."""
        found: list = []
        for d, m, s in zip(order, x.shape, x.strides):
            before, after = widths[d]
            plain, s = not before and not after, s // x.itemsize
            if plain and m == 1:
                continue
            if plain and found and found[-1][4] and found[-1][3] == s * m:
                found[-1] = (found[-1][0] * m, 0, found[-1][2] * m, s, True)
            else:
                found.append((m + before + after, before, m, s, plain))
        if len(found) > BORDERED:
            return None
        return (1, 0, 1, 0) * (BORDERED - len(found)) + tuple(v for d in found for v in d[:4])

    return call


def tril(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _triangle(outs[0], kw["diagonal"], 0)


def triu(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _triangle(outs[0], kw["diagonal"], 1)


def _triangle(out: Any, diagonal: int, upper: int) -> Callable:
    height, width = out.shape[-2:]
    rows = prod(out.shape[:-1])
    lanes, blocks = lanes_of(rows, width)
    kernel = launch.load("join", **_defines(out.dtype.itemsize)).kernel("triangle", "PPqqqqii")

    def call(x: Any, y: Any) -> None:
        if not out.size:
            return
        to = y if y.flags.c_contiguous else launch.empty(y.shape, y.dtype)
        if not x.flags.c_contiguous:
            start(x, to)
            x = to
        kernel(blocks, (THREADS,), x, to, rows, height, width, diagonal, upper, lanes)
        if to is not y:
            y[...] = to

    return call


VARIANTS = [
    Variant(
        _defines(unit),
        {k: Needs(THREADS, blocks=4) for k in (("lines", "pad", "triangle") if unit <= 8 else ("lines",))},
    )
    for unit in copy.UNITS
]
