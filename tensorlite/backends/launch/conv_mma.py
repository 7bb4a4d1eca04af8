"""Launches of convolutions on the tensor cores. Floor 1.

Images that do not lie in channels_last are copied so first, weights are copied with their inner channels last.
float32 is rounded to TF32 only where ``backends.cudnn.allow_tf32`` says so, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import cudnn, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, copy
from tensorlite.backends.launch.images import divider, readable, steps

WORTH = 1 << 24  # products below which conv.cu takes no longer, and is exact
THREADS, BM, BN, SHARED = 128, 128, 64, 3 * (128 + 64) * 64
TYPES = "PPPPiiiiIIIIIIiiiiiiiiiiiiiiiqiiqiii"


def variant(short: str) -> dict:
    """The macros of conv_mma.cu."""
    return {"ELEM": CTYPES[short], "WIDE": "float"}


VARIANTS = [
    Variant(variant(short), {"image_mma": Needs(THREADS, SHARED, 2)}, mma=True) for short in ("f4", "f2", "bf2")
]


_copied = copy.contiguous((), (), {})


def laid_last(x: Any, piece: int) -> Any:
    """The images, or a copy in channels_last where their pieces of 16 bytes cannot be read as they lie."""
    xn, xc, xh, xw = steps(x)
    if xc == 1 and not any(s < 0 or s % piece for s in (xn, xh, xw)) and x.data.ptr % 16 == 0:
        return x
    pixels = x.transpose(0, 2, 3, 1)
    dense = launch.empty(pixels.shape, x.dtype)
    _copied(pixels, dense)
    return dense.transpose(0, 3, 1, 2)


def allowed(short: str) -> bool:
    """Whether a convolution of this dtype may be done on the tensor cores now."""
    return short in ("f2", "bf2") or (short == "f4" and bool(cudnn.allow_tf32))


def image(x: Any, w: Any, y: Any, kw: dict, *, transposed: bool) -> Callable | None:
    """``run(x, w, b, y)``: the convolution, or the gradient of its input; None where conv.cu does it."""
    (sh, sw), (top, _, left, _), groups = kw["stride"], kw["padding"], kw["groups"]
    short, piece = y.dtype.short, 16 // y.dtype.itemsize
    out, inner = w.shape[0] // groups, w.shape[1]
    channels, features = (out, inner) if transposed else (inner, out)
    products = y.size * w.size // w.shape[1 if transposed else 0] // (groups if transposed else 1)
    if short not in ("f4", "f2", "bf2") or channels % piece or features < 8 or products < WORTH:
        return None
    down, across = (-(-y.shape[2] // sh), -(-y.shape[3] // sw)) if transposed else y.shape[2:]
    pixels, phases = y.shape[0] * down * across, sh * sw if transposed else 1
    blocks = -(-pixels // BM) * -(-features // BN) * groups
    numbers = (
        pixels, *divider(down), *divider(across), groups, channels, features, *x.shape[2:], *y.shape[2:],
        *w.shape[2:], sh, sw, top, left, *kw["dilation"],
    )  # fmt: skip
    relu = int(kw.get("act") == "relu")
    kernel = launch.load("conv_mma", **variant(short)).kernel("image_mma", TYPES, shared=SHARED)

    def run(x: Any, w: Any, b: Any, y: Any) -> None:
        x = laid_last(x, piece)
        xn, _, xh, xw = steps(x)
        w = w.reshape(groups, out, *w.shape[1:]).transpose(0, 2, 3, 4, 1) if transposed else w.transpose(0, 2, 3, 1)
        if not w.flags.c_contiguous or w.data.ptr % 16:
            packed = launch.empty(w.shape, y.dtype)
            _copied(w, packed)
            w = packed
        yn, yc, yh, yw = steps(y)
        vector = yc == 1 and not any(v % 2 for v in (features, yn, yh, yw)) and y.data.ptr % (2 * y.itemsize) == 0
        kernel(
            (blocks, 1, phases), (THREADS,), x, w, readable(b), y, int(transposed), relu, int(vector), *numbers,
            xn, xh, xw, yn, yc, yh, yw,
        )  # fmt: skip

    return run
