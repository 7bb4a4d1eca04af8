"""Launches of the gradient of conv2d with respect to the weights. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.images import SUMS, divider, lying_last, readable, steps

THREADS, SIDE, DEEP = 256, 64, 16  # a tile is 64 features x 64 taps x 16 pixels
FILL = 132 * 2  # blocks that keep a large GPU busy
LEAST, MOST, ROOM = 8, 256, 1 << 24  # tiles of a part at least, parts, elements of all parts at most
TYPES = "PPPPiiIIIIIIiiiiiiiiiiiiiqiiiqiiiqiiiq"


def variant(short: str, last: bool) -> dict:
    """The macros of conv_weights.cu."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short], "LAST": int(last)}


VARIANTS = [
    Variant(variant(short, last), {"weights": Needs(THREADS, blocks=2), "join": Needs(THREADS, blocks=4)})
    for short in SUMS
    for last in (False, True)
]


def conv2d_dw(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradient with respect to the weights, from x and dy."""
    from tensorlite.backends.launch import conv_depthwise, conv_mma, conv_weights_mma

    x, dy, (dw,) = *specs, outs
    if (depthwise := conv_depthwise.weights(x, dy, dw, kw)) is not None:
        return depthwise
    (kh, kw_), (top, _, left, _), groups = kw["kernel"], kw["padding"], kw["groups"]
    short = dw.dtype.short
    features, channels = dw.shape[0] // groups, dw.shape[1]
    pixels = dy.shape[0] * dy.shape[2] * dy.shape[3]
    blocks = -(-features // SIDE) * -(-channels * kh * kw_ // SIDE) * groups
    parts, deep = parted(pixels, blocks, dw.size)
    sizes = (
        pixels, *divider(dy.shape[2]), *divider(dy.shape[3]), groups, channels, features, *x.shape[2:],
        kh, kw_, *kw["stride"], top, left, *kw["dilation"],
    )  # fmt: skip
    size, wide = dw.size, "f8" if short == "f8" else "f4"

    def join(scratch: Any, dw: Any, count: int) -> None:
        kernel = launch.load("conv_weights", **variant(short, False)).kernel("join", "PPiq")
        kernel((-(-size // 32),), (THREADS,), scratch, dw, count, size)

    def exact(x: Any, dy: Any, dw: Any) -> None:
        x, dy = readable(x), readable(dy)
        kernel = launch.load("conv_weights", **variant(short, lying_last(x))).kernel("weights", TYPES)
        scratch = launch.empty((parts, size), wide) if parts > 1 else None
        numbers = (*sizes, *steps(x), *steps(dy), *steps(dw), size)
        kernel((blocks, 1, parts), (THREADS,), x, dy, dw, scratch, deep, *numbers)
        if parts > 1:
            join(scratch, dw, parts)

    quick = conv_weights_mma.weights(x, dy, dw, kw, join)
    if quick is None:
        return exact
    return lambda *arrays: (quick if conv_mma.allowed(short) else exact)(*arrays)


def parted(pixels: int, blocks: int, size: int) -> tuple[int, int]:
    """How many parts, and tiles in each: by the shape alone."""
    tiles = -(-pixels // DEEP)
    parts = max(1, min(-(-FILL // blocks), tiles // LEAST, MOST, ROOM // size))
    deep = -(-tiles // parts)
    return -(-tiles // deep), deep
