"""Launches of the gradient of the weights on the tensor cores. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import Needs, Variant, conv_mma
from tensorlite.backends.launch.conv_mma import SHARED, THREADS, variant
from tensorlite.backends.launch.images import divider, steps

BM, BN = 64, 128  # features and taps of a block
FILL, LEAST, MOST, ROOM = 132 * 2, 8, 128, 1 << 24  # blocks; stages of a part, parts, elements of all parts at most
TYPES = "PPPPiiIIIIIIiiiiiiiiiiiiiqiiqiiqiiiq"
VARIANTS = [
    Variant(variant(short), {"weights_mma": Needs(THREADS, SHARED, 2)}, mma=True) for short in ("f4", "f2", "bf2")
]


def weights(x: Any, dy: Any, dw: Any, kw: dict, join: Callable) -> Callable | None:
    """``run(x, dy, dw)``; None where conv_weights.cu does it, whose ``join(parts, dw, count)`` adds the parts."""
    (kh, kw_), (top, _, left, _), groups = kw["kernel"], kw["padding"], kw["groups"]
    short, piece = dw.dtype.short, 16 // dw.dtype.itemsize
    features, channels = dw.shape[0] // groups, dw.shape[1]
    pixels, size = dy.shape[0] * dy.shape[2] * dy.shape[3], dw.size
    if short not in ("f4", "f2", "bf2") or channels % piece or features % piece or pixels * size < conv_mma.WORTH:
        return None
    blocks = -(-features // BM) * -(-channels * kh * kw_ // BN) * groups
    stages = -(-pixels // (64 // dw.dtype.itemsize))
    parts = max(1, min(-(-FILL // blocks), stages // LEAST, MOST, ROOM // size))
    deep = -(-stages // parts)
    parts = -(-stages // deep)
    numbers = (
        deep, pixels, *divider(dy.shape[2]), *divider(dy.shape[3]), groups, channels, features, *x.shape[2:],
        kh, kw_, *kw["stride"], top, left, *kw["dilation"],
    )  # fmt: skip
    kernel = launch.load("conv_weights_mma", **variant(short)).kernel("weights_mma", TYPES, shared=SHARED)

    def run(x: Any, dy: Any, dw: Any) -> None:
        x, dy = conv_mma.laid_last(x, piece), conv_mma.laid_last(dy, piece)
        (xn, _, xh, xw), (yn, _, yh, yw) = steps(x), steps(dy)
        scratch = launch.empty((parts, size), "f4") if parts > 1 else None
        grid = blocks, 1, parts
        kernel(grid, (THREADS,), x, dy, dw, scratch, *numbers, xn, xh, xw, yn, yh, yw, *steps(dw), size)
        if parts > 1:
            join(scratch, dw, parts)

    return run
