"""Launches of column_sum.cu: sums of the columns of a matrix, for gradients of biases. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant

FLOATS = ("f2", "bf2", "f4", "f8")


def compute(short: str) -> str:
    """The dtype of numpy in which a kernel computes."""
    return "f8" if short == "f8" else "f4"


def macros(given: str, made: str) -> dict:
    """The macros of column_sum.cu for dtypes of the matrix and of the sums."""
    return dict(FROM=CTYPES[given], TO=CTYPES[made], SUM=CTYPES[compute(made)])


def column_sums(short: str, rows: int, columns: int) -> Callable:
    """``run(x, out)``: the sums of the columns of x (rows, columns)."""
    wide, parts = compute(short), max(1, min(64, rows // 128))
    whole, first, last = (
        launch.load("column_sum", **macros(*types)).kernel("column_sum", "PPqiqi")
        for types in ((short, short), (short, wide), (wide, short))
    )
    blocks = -(-columns // 32)

    def run(x: Any, out: Any) -> None:
        if parts == 1:
            whole((blocks,), (256,), x, out, rows, columns, columns, 1)
            return
        some = launch.empty((parts, columns), wide)
        first((blocks, parts), (256,), x, some, rows, columns, columns, parts)
        last((blocks,), (256,), some, out, parts, columns, columns, 1)

    return run


_USED = {macros_of for t in FLOATS for macros_of in ((t, t), (t, compute(t)), (compute(t), t))}
VARIANTS = [Variant(macros(*used), {"column_sum": Needs(256, blocks=4)}) for used in sorted(_USED)]
