"""Launches of losses of pairs of numbers: the host half of kernels/cuda/pointwise_loss.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import Needs, Variant, rows

KINDS = ("squared", "absolute", "huber", "logits")  # in the order of pointwise_loss.cu
ONE_BLOCK = 1 << 14  # pairs that one block adds up, which saves a launch
CHUNK = rows.THREADS * 8  # pairs that a block has in hand, at least


def pointwise_loss(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The loss of each pair, its sum or its mean."""
    x, short, bounds = specs[0], outs[0].dtype.short, (kw["bound"], kw["steep"])
    kind = KINDS.index(kw["kind"])
    each, by = kw["reduction"] == "none", float(x.size if kw["reduction"] == "mean" else 1)
    blocks = 1 if not each and x.size <= ONE_BLOCK else min(-(-x.size // CHUNK), rows.FILL)

    def call(x: Any, t: Any, out: Any) -> None:
        x, t = _alike(x, t, out if each else None)
        module = _module(short, x, t, out if each else None)
        parts = launch.empty((blocks,), rows.STAT[short]) if blocks > 1 and not each else None
        module.kernel("losses", "PPPPPiqddd")(
            (blocks,), (rows.THREADS,), x, t, out if each else None, out, parts, kind, x.size, *bounds, by
        )
        if parts is not None:
            module.kernel("finish", "PPid")((1,), (rows.THREADS,), parts, out, blocks, by)

    return call


def pointwise_loss_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The slope of each pair's loss along x, times its share of dy."""
    n, short, bounds = outs[0].size, outs[0].dtype.short, (kw["bound"], kw["steep"])
    kind = KINDS.index(kw["kind"])
    by = float(n if kw["reduction"] == "mean" else 1)
    blocks = min(-(-n // CHUNK), rows.FILL * 2)

    def call(dy: Any, x: Any, t: Any, out: Any) -> None:
        one = rows.is_one(dy)
        dy = dy if one else rows.like(dy, out)
        x, t = _alike(x, t, out)
        module = _module(short, x, t, out, None if one else dy)
        module.kernel("losses_dx", "PPPPiiqdddd")(
            (blocks,), (rows.THREADS,), dy, x, t, out, int(one), kind, n, *bounds, 2.0 / by, by
        )

    return call


def _alike(x: Any, t: Any, out: Any) -> tuple:
    """x and t, without gaps and in one order: that of ``out``, or of x."""
    if out is None:
        out = x if rows.without_gaps(x) else None
        if out is None:
            return rows.dense(x), rows.dense(t)
    return rows.like(x, out), rows.like(t, out)


def _module(short: str, *arrays: Any) -> launch.Module:
    at = [(rows.address(a), 0, 1) for a in arrays if a is not None]
    vec = rows.vec(short, 0, arrays[0].size, *at)
    return rows.program("pointwise_loss", short, rows.THREADS, 0, vec)


_NEEDS = {name: Needs(rows.THREADS, blocks=2) for name in ("losses", "finish", "losses_dx")}
VARIANTS = [
    Variant(rows.macros(short, rows.THREADS, 0, vec), _NEEDS)
    for short, vec in (
        ("f4", 4), ("f4", 1), ("bf2", 8), ("f2", 8), ("f2", 1), ("f8", 2), ("f8", 1)
    )
]  # fmt: skip
