"""Gradients of a scaled loss unscaled on a GPU, and the next scale: kernels/cuda/scaling.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.table import NUMBERS, THREADS, tables

MOST = 8  # of `found_inf` that one launch takes


def amp_unscale(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Every gradient divided by the scale; found_inf becomes 1 where one has an inf or nan."""
    launches = [
        (table, launch.load("scaling", ELEM=CTYPES[short]).kernel("unscale", "PPPPii"))
        for short, table in tables(specs[2:], 1)
    ]

    def call(scale: Any, found: Any, *grads: Any) -> None:
        for table, kernel in launches:
            if table.blocks:
                (fixed, _), moving = table.find(grads)
                kernel((table.blocks,), (THREADS,), scale, found, fixed, moving, table.count, table.chunk)

    return call


def amp_update_scale(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The scale of the next step, and the count of good ones."""
    constants = kw["growth_factor"], kw["backoff_factor"], kw["growth_interval"]
    kernel = launch.load("scaling", ELEM="float").kernel("update_scale", "PP" + "P" * MOST + "ddi")
    rest = (None,) * (MOST - (len(specs) - 2))
    return lambda scale, tracker, *found: kernel((1,), (1,), scale, tracker, *found, *rest, *constants)


VARIANTS = [
    Variant(
        {"ELEM": CTYPES[t]}, {"unscale": Needs(THREADS, blocks=4)} | ({"update_scale": Needs(1)} if t == "f4" else {})
    )
    for t in NUMBERS
]
