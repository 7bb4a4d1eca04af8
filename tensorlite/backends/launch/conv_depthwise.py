"""Launches of convolutions of one input channel a group. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, conv_weights
from tensorlite.backends.launch.images import SUMS, divider, readable, steps

MOST_FEATURES = 8  # of a group: with more of them, products in tiles are quicker
THREADS, TAPS, FEW_TAPS = 256, 9, 27
SHARED, EACH = 48 << 10, 128  # bytes of weights in a block, pixels that it makes
FILL, A_PART, ROOM = (
    132 * 8,
    2048,
    1 << 24,
)  # blocks that keep a large GPU busy, pixels of a part, elements of all parts
GEOMETRY, LIES = "i" * 14, "qqqqqii"


def variant(short: str) -> dict:
    """The macros of conv_depthwise.cu."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short]}


_ALL = {"planes": Needs(THREADS, blocks=4), "last": Needs(THREADS, SHARED, 2), "weights": Needs(THREADS, blocks=2)}
VARIANTS = [Variant(variant(short), _ALL) for short in SUMS]


def fits(w: tuple, groups: int) -> bool:
    """Whether a convolution is one of these, by the shape of its weights."""
    return w[1] == 1 and groups > 1 and w[0] // groups <= MOST_FEATURES


def image(x: Any, w: Any, y: Any, kw: dict, *, transposed: bool) -> Callable | None:
    """``run(x, w, b, y)``: the convolution, or the gradient of its input; None where another kernel does it."""
    groups = kw["groups"]
    times = w.shape[0] // groups
    spread, joined = (1, times) if transposed else (times, 1)
    short, channels, size = y.dtype.short, y.shape[1], y.shape[2:]
    (top, _, left, _), kernel = kw["padding"], w.shape[2:]
    geometry = (
        int(transposed), int(kw.get("act") == "relu"), *x.shape[2:], *kernel, *kw["stride"], top, left, *kw["dilation"],
        spread, joined,
    )  # fmt: skip
    module = launch.load("conv_depthwise", **variant(short))
    if y.size >= 2**31 - 2**12 or not fits(w.shape, groups):
        return None
    if y.format != "channels_last":
        planes = module.kernel("planes", "PPPPI" + "III" * 3 + GEOMETRY + LIES)
        walk = (y.size, *(v for n in (channels, *size) for v in divider(n)), *geometry)
        blocks = -(-y.size // THREADS)

        def flat(x: Any, w: Any, b: Any, y: Any) -> None:
            x, b, (wo, _, wi, wj) = readable(x), readable(b), steps(w)
            planes((blocks,), (THREADS,), x, w, b, y, *walk, *steps(x), wo, wi, wj)

        return flat
    itemsize, taps, pixels = 8 if short == "f8" else 4, kernel[0] * kernel[1], y.shape[0] * size[0] * size[1]

    def cut(vector: int) -> tuple[int, int]:
        """Channels of a block, and bytes of their weights."""
        chunk = vector * min(32, 1 << (-(-channels // vector) - 1).bit_length())
        return chunk, chunk * joined * taps * itemsize

    if cut(1)[1] > SHARED:
        return None
    walk = (pixels, channels, *(v for n in size for v in divider(n)), *geometry)

    def run(x: Any, w: Any, b: Any, y: Any) -> None:
        x, b, (wo, _, wi, wj), of_x = readable(x), readable(b), steps(w), steps(x)
        whole = all(v % 4 == 0 for v in (channels, of_x[0], *of_x[2:])) and of_x[1] == 1 and times == 1
        whole = whole and x.data.ptr % (4 * x.itemsize) == 0 == y.data.ptr % (4 * y.itemsize) and x.itemsize <= 4
        vector = 4 if whole and cut(4)[1] <= SHARED else 1
        chunk, shared = cut(vector)
        kernel = module.kernel("last", "PPPPiiiii" + "III" * 2 + GEOMETRY + LIES, shared=shared)
        grid = -(-pixels // EACH), -(-channels // chunk)
        kernel(grid, (THREADS,), x, w, b, y, vector, chunk, EACH, *walk, *of_x, wo, wi, wj)

    return run


def weights(x: Any, dy: Any, dw: Any, kw: dict) -> Callable | None:
    """``run(x, dy, dw)``: the gradient of the weights; None where another kernel does it.

    A first layer of one channel is done so too: of a tile of 64 x 64 products its few taps would fill a part.
    """
    groups = kw["groups"]
    if not fits(dw.shape, groups) and (dw.shape[1] != 1 or dw.shape[2] * dw.shape[3] > FEW_TAPS):
        return None
    (kh, kw_), (top, _, left, _), short, features = dw.shape[2:], kw["padding"], dw.dtype.short, dw.shape[0]
    pixels, size = dy.shape[0] * dy.shape[2] * dy.shape[3], dw.size
    last = dy.format == "channels_last"
    across = min(32, 1 << (features - 1).bit_length()) if last else 1
    blocks, turns = -(-features // across), -(-kh * kw_ // TAPS)
    parts = max(1, min(-(-FILL // (blocks * turns)), pixels * across // A_PART, 256, ROOM // size))
    each = -(-pixels // parts)
    parts = -(-pixels // each)
    kernel = launch.load("conv_depthwise", **variant(short)).kernel(
        "weights", "PPPPiiiii" + "III" * 2 + "i" * 10 + "q" * 8 + "qiiq"
    )
    join = launch.load("conv_weights", **conv_weights.variant(short, last)).kernel("join", "PPiq")
    numbers = (
        across, each, pixels, features, features // groups, *(v for n in dy.shape[2:] for v in divider(n)),
        *x.shape[2:], kh, kw_, *kw["stride"], top, left, *kw["dilation"],
    )  # fmt: skip
    wide = "f8" if short == "f8" else "f4"

    def run(x: Any, dy: Any, dw: Any) -> None:
        x, dy, (wo, _, wi, wj) = readable(x), readable(dy), steps(dw)
        scratch = launch.empty((parts, size), wide) if parts > 1 else None
        grid = blocks, turns, parts
        kernel(grid, (THREADS,), x, dy, dw, scratch, *numbers, *steps(x), *steps(dy), wo, wi, wj, size)
        if parts > 1:
            join((-(-size // 32),), (THREADS,), scratch, dw, parts, size)

    return run
