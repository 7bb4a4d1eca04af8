"""Launches of softmax, log_softmax and their gradients: the host half of kernels/cuda/softmax.cu. Floor 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends.launch import Needs, Variant, rows

TYPES = "PPP" + "q" * 9
COLUMNS = 8  # threads that share a column of memory


def softmax(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _along(specs, outs[0], kw["dim"], "softmax")


def log_softmax(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _along(specs, outs[0], kw["dim"], "log_softmax")


def softmax_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _along(specs, outs[0], kw["dim"], "softmax_dx")


def log_softmax_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _along(specs, outs[0], kw["dim"], "log_softmax_dx")


def _along(specs: tuple, out: Any, dim: int, name: str) -> Callable:
    short, dim = out.dtype.short, dim % out.ndim
    n, inner = out.shape[dim], math.prod(out.shape[dim + 1 :])
    count = out.size // n
    if inner == 1:
        group, keep = rows.held(short, n)
    else:
        group, keep = COLUMNS, next((k for k in (1, 4) if n <= COLUMNS * k), 0)
    blocks = min(-(-count // (max(group, rows.THREADS) // group)), rows.FILL * 4)

    def lying(a: Any) -> tuple:
        """The array and its steps: between outer parts, along dim, between inner ones."""
        steps = rows.joined(a, range(dim)), rows.joined(a, (dim,)), rows.joined(a, range(dim + 1, a.ndim))
        apart = inner == 1 and n > 1 and steps[1] not in (0, 1)  # a transposed copy beats a walk across memory
        if apart or None in steps:
            a = rows.dense(a)
            steps = n * inner, inner, 1
        return a, *steps

    def call(*arrays: Any) -> None:
        *given, y = arrays
        (a, *of_a), (b, *of_b) = lying(given[0]), lying(given[1]) if len(given) > 1 else (None, 0, 1, 0)
        if inner == 1:
            at = [(rows.address(array), outer, step) for array, outer, step in ((a, *of_a[:2]), (b, *of_b[:2]))]
            vec = rows.vec(short, keep, n, *at, (rows.address(y), n, 1))
        else:
            vec = 1
        kernel = rows.program("softmax", short, group, keep, vec).kernel(name, TYPES)
        kernel((blocks,), (max(group, rows.THREADS),), a, b, y, count, n, inner, *of_a, *of_b)

    return call


_NEEDS = ("softmax", "log_softmax", "softmax_dx", "log_softmax_dx")
VARIANTS = [
    Variant(rows.macros(short, group, keep, vec), dict.fromkeys(_NEEDS, Needs(rows.THREADS, blocks=blocks)))
    for short, group, keep, vec, blocks in (
        ("f4", 32, 1, 1, 4), ("f4", 32, 8, 4, 3), ("f4", 32, 32, 4, 2), ("f4", 256, 32, 4, 2), ("f4", 256, 0, 4, 3),
        ("f4", 8, 4, 1, 3), ("f4", 8, 0, 1, 2), ("bf2", 32, 32, 8, 2), ("f2", 256, 16, 8, 2), ("bf2", 256, 0, 8, 2),
        ("f8", 32, 8, 2, 2), ("f8", 256, 0, 2, 2), ("f8", 8, 0, 1, 2),
    )
]  # fmt: skip
