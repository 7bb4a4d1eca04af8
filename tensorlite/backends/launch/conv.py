"""Launches of convolutions on a GPU: conv2d, relu behind it, its gradients. Floor 1.

conv.cu makes images (the convolution, and the gradient of its input), conv_mma.cu the same on the tensor cores,
conv_small.cu those of few channels, conv_weights.cu the gradient of the weights, conv_depthwise.cu all three where a
group has one channel. All but conv_mma.cu take arrays of any strides: no layout is copied to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, conv_depthwise, conv_mma, reduce
from tensorlite.backends.launch.conv_small import direct
from tensorlite.backends.launch.conv_weights import conv2d_dw
from tensorlite.backends.launch.images import SUMS, divider, lying_last, readable, steps

FILL = 132  # blocks that keep a large GPU busy
TALL, WIDE, SMALL = (
    (8, 4),
    (8, 2),
    (4, 4),
)  # outputs of a thread: pixels x features; a block has 16 times as many of both
THREADS = 256
TYPES = "PPPPiiiiIIIIIIiiiiiiiiiiiiiiiqiiiqiiiiqiii"


def variant(short: str, last: bool, tile: tuple[int, int] = SMALL) -> dict:
    """The macros of conv.cu."""
    return {
        "ELEM": CTYPES[short], "WIDE": SUMS[short], "LAST": int(last), "ROWS_EACH": tile[0], "COLS_EACH": tile[1]
    }  # fmt: skip


VARIANTS = [
    Variant(variant(short, last, tile), {"image": Needs(THREADS, blocks=2)})
    for short, last, tile in [("f4", last, tile) for last in (False, True) for tile in (TALL, WIDE, SMALL)]
    + [(short, last, SMALL) for short in ("f2", "bf2", "f8") for last in (False, True)]
]


def conv2d(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x * w + b, and relu where ``act`` says so; b may be None."""
    x, w, _ = specs
    run = conv_depthwise.image(x, w, outs[0], kw, transposed=False)
    run = run or direct(x, w, outs[0].shape[2:], kw, relu=kw.get("act") == "relu")
    return run or _products(x, w, outs[0], kw, transposed=False)


def conv2d_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradient with respect to the image, from dy and w."""
    run = conv_depthwise.image(specs[0], specs[1], outs[0], kw, transposed=True)
    run = run or _products(specs[0], specs[1], outs[0], kw, transposed=True)
    return lambda dy, w, dx: run(dy, w, None, dx)


def conv2d_db(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The sums of dy's channels."""
    return reduce.sum(specs, outs, {"dim": (0, 2, 3)})


def _products(x: Any, w: Any, y: Any, kw: dict, transposed: bool) -> Callable:
    """``run(x, w, b, y)``: on the tensor cores where they take it and may."""
    short = y.dtype.short
    exact, quick = _images(x, w, y, kw, transposed), conv_mma.image(x, w, y, kw, transposed=transposed)
    if quick is None:
        return exact
    return lambda *arrays: (quick if conv_mma.allowed(short) else exact)(*arrays)


def _images(x: Any, w: Any, y: Any, kw: dict, transposed: bool) -> Callable:
    (sh, sw), (top, _, left, _), groups = kw["stride"], kw["padding"], kw["groups"]
    short, relu = y.dtype.short, kw.get("act") == "relu"
    out, inner = w.shape[0] // groups, w.shape[1]
    channels, features = (out, inner) if transposed else (inner, out)
    down, across = (-(-y.shape[2] // sh), -(-y.shape[3] // sw)) if transposed else y.shape[2:]
    pixels, phases = y.shape[0] * down * across, sh * sw if transposed else 1
    tile = _tile(short, pixels, features, groups * phases)
    blocks = -(-pixels // (16 * tile[0])) * -(-features // (16 * tile[1])) * groups
    sizes = (
        pixels, *divider(down), *divider(across), groups, channels, features, *x.shape[2:], *y.shape[2:],
        *w.shape[2:], sh, sw, top, left, *kw["dilation"],
    )  # fmt: skip
    known: dict = {}

    def plan(x: Any, w: Any, y: Any) -> tuple:
        last, (wo, wc, wi, wj), to = lying_last(x), steps(w), steps(y)
        of_weights = (out * wo, wo, wc, wi, wj) if transposed else (out * wo, wc, wo, wi, wj)
        vector = phases == 1 and y.data.ptr % (4 * y.itemsize) == 0 and y.itemsize <= 4 and to[0] % 4 == 0
        if last:
            vector = vector and to[1] == 1 and all(v % 4 == 0 for v in (features, *to[2:])) and tile[1] == 4
        else:
            plane = y.shape[2] * y.shape[3]
            vector = vector and to[1:] == (plane, y.shape[3], 1) and plane % 4 == 0
        kernel = launch.load("conv", **variant(short, last, tile)).kernel("image", TYPES)
        return kernel, int(vector), (*sizes, *steps(x), *of_weights, *to)

    def run(x: Any, w: Any, b: Any, y: Any) -> None:
        x, w, b = readable(x), readable(w, whole=True), readable(b)
        key = x.strides, w.strides, y.strides, y.data.ptr % 32
        found = known.get(key)
        if found is None:
            found = known[key] = plan(x, w, y)
        kernel, vector, numbers = found
        kernel((blocks, 1, phases), (THREADS,), x, w, b, y, int(transposed), int(relu), vector, *numbers)

    return run


def _tile(short: str, pixels: int, features: int, times: int) -> tuple[int, int]:
    """The largest tile with which all of a large GPU has work."""
    if short != "f4":
        return SMALL
    tile = WIDE if features <= 32 else TALL
    return tile if math.ceil(pixels / 128) * math.ceil(features / 64) * times >= FILL else SMALL


__all__ = ["VARIANTS", "conv2d", "conv2d_db", "conv2d_dw", "conv2d_dx"]
