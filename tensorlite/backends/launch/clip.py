"""The norm of many tensors on a GPU: kernels/cuda/clip.cu. Floor 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.table import NUMBERS, THREADS, tables

KINDS = {math.inf: 0, 1.0: 1, 2.0: 2}  # codes of clip.cu


def total_norm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """(sum |x|^kind)^(1 / kind) over all elements of all tensors."""
    code, kind = NUMBERS[outs[0].dtype.short], KINDS[kw["kind"]]
    launches, blocks = [], 0
    for short, table in tables(specs, 1):
        module = launch.load("clip", ELEM=CTYPES[short])
        launches.append((table, module.kernel("norm_parts", "PPiiPi"), blocks))
        blocks += table.blocks
        join = module.kernel("join_parts", "PqPii")

    def call(*arrays: Any) -> None:
        parts = launch.empty((max(1, blocks),), np.float64)
        for table, add, first in launches:
            if table.blocks:
                (fixed, _), moving = table.find(arrays)
                add((table.blocks,), (THREADS,), fixed, moving, table.count, table.chunk, parts[first:], kind)
        join((1,), (THREADS,), parts, blocks, arrays[-1], code, kind)

    return call


VARIANTS = [
    Variant({"ELEM": CTYPES[t]}, {"norm_parts": Needs(THREADS, blocks=4), "join_parts": Needs(THREADS, blocks=4)})
    for t in NUMBERS
]
