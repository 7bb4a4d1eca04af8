"""Running sums: the host half of kernels/cuda/cumsum.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.index import THREADS, grid, stepped

FILL, MOST = 132 * 4, 256  # blocks that keep a large GPU busy; parts of a line
A_PART = {"lines": 4096, "columns": 64}  # elements that a part should at least have
_NUMBERS = {"double": np.float64, "float": np.float32, "long long": np.int64, "int": np.int32}


def _defines(short: str) -> dict:
    wide = {"f8": "double", "i8": "long long"}.get(short, "float" if "f" in short else "int")
    return {"ELEM": CTYPES[short], "NUMBER": wide}


def cumsum(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Sums of halves and float32 in float32, of short integers in 32 bits, which wrap as their own do."""
    x, dim = specs[0], kw["dim"]
    n, inner, outer = x.shape[dim], prod(x.shape[dim + 1 :]), prod(x.shape[:dim])
    count = outer * inner
    defines = _defines(x.dtype.short)
    module, number = launch.load("cumsum", **defines), _NUMBERS[defines["NUMBER"]]
    name, first_name = ("lines", "line_sums") if inner == 1 else ("columns", "column_sums")
    kernel, sums_of = (module.kernel(k, "PPP" + "q" * 12) for k in (name, first_name))
    blocks = (max(1, min(count, 1 << 20)),) if inner == 1 else grid(count)
    parts = max(1, min(MOST, n // A_PART[name], FILL // blocks[0]))
    a_part = -(-n // parts)
    parts = max(1, -(-n // a_part)) if a_part else 1

    def call(a: Any, y: Any) -> None:
        if not x.size:
            return
        to = y if y.flags.c_contiguous else launch.empty(y.shape, y.dtype)
        a, steps = stepped(a, (dim, dim + 1))
        ways = (*_way(steps), *_way((n * inner, inner, 1)))
        sums = launch.empty((count * parts,), number) if parts > 1 else None
        rest = (sums, count, inner, n, a_part, *ways)
        if parts > 1:
            sums_of((*blocks, parts), (THREADS,), a, to, *rest)
        kernel((*blocks, parts), (THREADS,), a, to, *rest)
        if to is not y:
            y[...] = to

    def _way(steps: tuple) -> tuple:
        """The first element, and the steps: backwards along n where the sums run from the end."""
        before, along, beside = steps
        return ((n - 1) * along, before, -along, beside) if kw["reverse"] else (0, before, along, beside)

    return call


_NAMES = ("line_sums", "lines", "column_sums", "columns")
VARIANTS = [
    Variant(_defines(short), {k: Needs(THREADS, blocks=2) for k in _NAMES})
    for short in ("f4", "f8", "f2", "bf2", "i8", "i4")
]
