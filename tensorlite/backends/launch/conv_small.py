"""Launches of convolutions of few channels, and of those with relu and pooling behind them. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.images import SUMS, readable, steps

FEW, LEAST_FEATURES = 4, 8  # channels of a group at most, features at least
QUADS, ACROSS, THREADS = 64, 16, 256  # windows of 2 x 2 pixels a block makes, how many of them in a row at most
SHARED = 40 << 10  # bytes for weights and a patch of the image, so that two blocks fit
FEATURES = {"float": 32, "double": 16}  # of a block
TYPES = "PPPPP" + "i" * 23 + "qiii" + "qiii" + "qqqq"


def variant(short: str) -> dict:
    """The macros of conv_small.cu."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short]}


VARIANTS = [Variant(variant(short), {"direct": Needs(THREADS, shared=SHARED, blocks=2)}) for short in SUMS]


def direct(x: Any, w: Any, size: tuple, kw: dict, *, relu: bool = False, pooled: bool = False) -> Callable | None:
    """``run(x, w, b, y, place)`` for outputs of the convolution of ``size``; None where another kernel does it."""
    (sh, sw), (top, _, left, _), (dh, dw), groups = kw["stride"], kw["padding"], kw["dilation"], kw["groups"]
    channels, features, (kh, kw_) = w.shape[1], w.shape[0] // groups, w.shape[2:]
    if channels > FEW or features < LEAST_FEATURES:
        return None
    macros = variant(x.dtype.short)
    chunk, itemsize = FEATURES[macros["WIDE"]], 8 if macros["WIDE"] == "double" else 4
    rows, cols = (n // 2 if pooled else -(-n // 2) for n in size)  # of windows
    across = min(ACROSS, cols)
    down = min(QUADS // across, rows)
    high = (2 * down - 1) * sh + (kh - 1) * dh + 1
    wide = (2 * across - 1) * sw + (kw_ - 1) * dw + 1
    shared = itemsize * (channels * kh * kw_ * (chunk + 4) + channels * high * wide)
    tiles_down, tiles_across, chunks = -(-rows // down), -(-cols // across), groups * -(-features // chunk)
    blocks = x.shape[0] * tiles_down * tiles_across
    if shared > SHARED or chunks > 65535 or blocks >= 2**31:
        return None
    kernel = launch.load("conv_small", **macros).kernel("direct", TYPES, shared=shared)
    sizes = (
        int(relu), int(pooled), down, across, tiles_down, tiles_across, high, wide, groups, channels, features,
        *x.shape[2:], *(size if not pooled else (2 * rows, 2 * cols)), kh, kw_, sh, sw, top, left, dh, dw,
    )  # fmt: skip

    def run(x: Any, w: Any, b: Any, y: Any, place: Any = None) -> None:
        x, w, b = readable(x), readable(w, whole=True), readable(b)
        kernel((blocks, chunks), (THREADS,), x, w, b, y, place, *sizes, *steps(x), *steps(w), *steps(y))

    return run
