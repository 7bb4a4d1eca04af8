"""Launches of a convolution with relu and pooling behind it, and of its gradients. Floor 1.

Few channels are done by one kernel. Otherwise, and in the gradients, what is not pooled is an array for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import conv, pool, reduce
from tensorlite.backends.launch.conv_small import direct

HALVES = dict(zip(("kernel", "stride", "padding", "dilation"), pool.HALVES))


def conv_relu_pool(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """max_pool2d(relu(conv2d(x, w, b)), 2) and the places; b may be None."""
    x, w, b = specs
    size = _size(x.shape[2:], w.shape[2:], kw)
    run = direct(x, w, size, kw, relu=True, pooled=True)
    if run is not None:
        return run
    whole = _between(outs[0], (x.shape[0], w.shape[0], *size))
    image = conv.conv2d((x, w, b), (whole,), {**kw, "act": "relu"})
    best = pool.max_pool2d((whole,), outs, HALVES)

    def apart(x: Any, w: Any, b: Any, y: Any, place: Any) -> None:
        between = _empty(whole)
        image(x, w, b, between)
        best(between, y, place)

    return apart


def conv_relu_pool_dw(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradients of w and b, from x, dy, what was pooled and the places."""
    x, dy, s, place = specs
    dw, db = outs
    whole = _between(place, (*dy.shape[:2], *_size(x.shape[2:], kw["kernel"], kw)), dy.dtype)
    put = pool.relu_pool_dx((dy, s, place), (whole,), HALVES)
    weights = conv.conv2d_dw((x, whole), (dw,), kw)
    sums = reduce.sum((whole,), (db,), {"dim": (0, 2, 3)})

    def run(x: Any, dy: Any, s: Any, place: Any, dw: Any, db: Any) -> None:
        d = _empty(whole)
        put(dy, s, place, d)
        weights(x, d, dw)
        sums(d, db)

    return run


def conv_relu_pool_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradient of x, from dy, what was pooled, the places and w."""
    dy, s, place, w = specs
    whole = _between(place, (*dy.shape[:2], *_size(kw["size"], w.shape[2:], kw)), dy.dtype)
    put = pool.relu_pool_dx((dy, s, place), (whole,), HALVES)
    image = conv.conv2d_dx((whole, w), outs, kw)

    def run(dy: Any, s: Any, place: Any, w: Any, dx: Any) -> None:
        d = _empty(whole)
        put(dy, s, place, d)
        image(d, w, dx)

    return run


def _size(image: tuple, kernel: tuple, kw: dict) -> tuple[int, int]:
    """Height and width of what the convolution makes."""
    top, bottom, left, right = kw["padding"]
    room = image[0] + top + bottom, image[1] + left + right
    rows, columns = ((n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(room, kw["dilation"], kernel, kw["stride"]))
    return rows, columns


def _between(like: Any, shape: tuple, dtype: Any = None) -> Any:
    """The spec of what is not pooled yet, which lies as what is."""
    packed = like.packed()
    return packed.like(*shape, dtype=dtype or like.dtype).laid(packed.format)


def _empty(spec: Any) -> Any:
    """Scratch memory for an image."""
    n, c, h, w = spec.shape
    if spec.format == "channels_last":
        return launch.empty((n, h, w, c), spec.dtype.np).transpose(0, 3, 1, 2)
    return launch.empty((n, c, h, w), spec.dtype.np)
