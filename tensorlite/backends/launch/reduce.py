"""Reductions on a GPU: which kernel of kernels/cuda/reduce.cu, over how many blocks. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.elementwise import computed_in

THREADS, FILL = 256, 132 * 8  # threads a block; blocks that keep a large GPU busy
A_PART = 4096  # elements that a block of `rows` should at least have to go through
DIMS = 4  # kept and reduced dimensions, once neighbours are joined
_WIDE = {"float": "float", "double": "double"}
_BEST_BYTES = 16


def sum(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The sum over ``dim``: floats in float (halves too), integers and bools in 64 bits."""
    return _reduction(specs[0], outs[0], None, "Sum", kw["dim"])


def amax(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], None, "Largest", kw["dim"])


def amin(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], None, "Smallest", kw["dim"])


def any(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], None, "Any", kw["dim"])


def all(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], None, "All", kw["dim"])


def argmax(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], None, outs[0], "Largest", kw["dim"])


def argmin(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], None, outs[0], "Smallest", kw["dim"])


def max_along(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], outs[1], "Largest", kw["dim"])


def min_along(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _reduction(specs[0], outs[0], outs[1], "Smallest", kw["dim"])


def _defines(x: str, y: str, op: str) -> dict:
    """The macros of a reduction of elements of dtype ``x`` to ``y`` (short names)."""
    kind = computed_in([x])
    truth = op in ("Any", "All")
    if op == "Sum":
        kind = _WIDE.get(kind, "long long")
    return {"ELEMENT": CTYPES[x], "RESULT": CTYPES[y], "NUMBER": "bool" if truth else kind, "OP": op}


def _reduction(x: Any, out: Any, places: Any, op: str, dim: Any) -> Callable:
    dims = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    dims = tuple(d for d in dims if d < x.ndim)  # a 0-d tensor has dimension 0 too
    kept = [d for d in range(x.ndim) if d not in dims]
    outputs, n = prod(x.shape[d] for d in kept), prod(x.shape[d] for d in dims)
    defines = _defines(x.dtype.short, (out or x).dtype.short, op)
    module = launch.load("reduce", **defines)
    types = "PPPPqqq" + "q" * 14
    rows, columns, finish = (module.kernel(k, t) for k, t in (("rows", types), ("columns", types), ("finish", "PPPqi")))
    size = _BEST_BYTES if op[0] in "LS" and op != "Sum" else 8
    plans: dict = {}

    def call(a: Any, *made: Any) -> None:
        y, at = (made[0] if out is not None else None), (made[-1] if places is not None else None)
        if not outputs:
            return
        plan = plans.get(a.strides)
        if plan is None:
            plan = plans[a.strides] = _plan(a, kept, dims, outputs, n)
        beside, blocks, parts, a_part, steps = plan
        kernel = columns if beside else rows
        scratch = launch.empty((parts * outputs * size,), np.uint8) if parts > 1 else None
        kernel((blocks, parts), (THREADS,), a, y, at, scratch, outputs, n, a_part, *steps)
        if parts > 1:
            finish((-(-outputs // 256),), (256,), scratch, y, at, outputs, parts)

    return call


def _plan(a: Any, kept: list, dims: tuple, outputs: int, n: int) -> tuple:
    """(whether outputs lie together, blocks, parts, elements a part, sizes and steps) for an array of these strides."""
    outer, inner = _joined(a, kept), _joined(a, list(dims))
    for name, found in (("kept", outer), ("reduced", inner)):
        if len(found) > DIMS:
            raise ValueError(f"reduce: {len(found)} {name} dimensions that cannot be joined; wanted at most {DIMS}")
    # neighbouring threads should read neighbouring elements
    near_out = min((abs(s) for m, s in outer[-1:] if m > 1), default=1 << 62)
    near_in = min((abs(s) for m, s in inner[-1:] if m > 1), default=1 << 62)
    beside = outputs > 1 and (near_out < near_in or n < 32)
    groups = -(-outputs // 32) if beside else outputs
    most = max(1, n // (256 if beside else A_PART))
    parts = min(most, max(1, FILL // groups), 512)
    a_part = -(-n // parts)
    parts = max(1, -(-n // a_part)) if a_part else 1
    return beside, min(groups, 1 << 20), parts, a_part, (*_numbers(outer), *_numbers(inner))


def _joined(a: Any, dims: list) -> list:
    """(size, step in elements) of these dimensions, neighbours made one where that is the same walk."""
    found: list = []
    for d in dims:
        m, s = a.shape[d], a.strides[d] // a.itemsize
        if m == 1:
            continue
        if found and found[-1][1] == s * m:
            found[-1] = (found[-1][0] * m, s)
        else:
            found.append((m, s))
    return found


def _numbers(found: list) -> tuple:
    """n1, n2, n3 and s0..s3 of Steps: the outermost dimension's size is not needed."""
    padded = [(1, 0)] * (DIMS - len(found)) + found
    if len(found) < DIMS:  # the innermost of all goes first where there is but one: no division
        padded = found[:1] + [(1, 0)] * (DIMS - len(found)) + found[1:]
        padded = (padded + [(1, 0)] * DIMS)[:DIMS]
    return (*[m for m, _ in padded[1:]], *[s for _, s in padded])


_BLOCKS = {"rows": Needs(256, blocks=4), "columns": Needs(256, blocks=4), "finish": Needs(256, blocks=4)}
VARIANTS = [
    Variant(_defines(x, y, op), _BLOCKS)
    for x, y, op in (
        ("f4", "f4", "Sum"), ("f2", "f2", "Sum"), ("bf2", "bf2", "Sum"), ("f8", "f8", "Sum"), ("i8", "i8", "Sum"),
        ("f4", "f4", "Largest"), ("f4", "f4", "Smallest"), ("i8", "i8", "Largest"), ("bf2", "bf2", "Largest"),
        ("b1", "b1", "Any"), ("f4", "b1", "All"),
    )
]  # fmt: skip
