"""Launches of pooling on a GPU: the kernels of pool.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.images import SUMS, divider, steps

THREADS = 256
WALK, WINDOWS, LIES = "Ii" + "III" * 3, "i" * 12, "qqqq"
HALVES = ((2, 2), (2, 2), (0, 0), (1, 1))  # kernel, stride, padding, dilation of windows that pool.cu knows by heart


def variant(short: str, place: str = "u1", halves: bool = False) -> dict:
    """The macros of pool.cu."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short], "PLACE": CTYPES[place], "HALVES": int(halves)}


_ALL = {name: Needs(THREADS, blocks=4) for name in ("largest", "take", "put", "mean", "mean_dx")}
VARIANTS = [
    Variant(variant(short, *how), _ALL) for short in SUMS for how in (("u1", False), ("u1", True), ("i4", False))
]


def max_pool2d(specs: tuple, outs: tuple, kw: dict, relu: bool = False) -> Callable:
    """The largest of each window, and its place."""
    y, place = outs
    run = _walk("largest", "PPPi", 1, y, specs[0].shape, y.shape, kw, place.dtype.short)
    return lambda x, y, place: run((x, y, place, int(relu)), x)


def relu_pool(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The largest of each window of relu(x), and its place."""
    return max_pool2d(specs, outs, kw, relu=True)


def pool_take(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The pixel at its place of each window."""
    (x, place), (y,) = specs, outs
    run = _walk("take", "PPP", 2, y, x.shape, y.shape, kw, place.dtype.short)
    return lambda x, place, y: run((x, place, y), x, place)


def pool_put(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Each window's number at its place, 0 elsewhere."""
    put = relu_pool_dx((specs[0], None, specs[1]), outs, kw)
    return lambda dy, place, dx: put(dy, None, place, dx)


def relu_pool_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The same where what was pooled is not 0 or less."""
    (dy, _, place), (dx,) = specs, outs
    run = _walk("put", "PPPP", 1, dx, dx.shape, dy.shape, kw, place.dtype.short)

    def call(dy: Any, s: Any, place: Any, dx: Any) -> None:
        given = [a for a in (dy, s, place) if a is not None]
        if len({steps(a) for a in given}) > 1:  # the kernel knows one walk for all three
            dy, s, place = (a if a is None else a.copy(order="C") for a in (dy, s, place))
        run((dy, s, place, dx), dy)

    return call


def avg_pool2d(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The mean of each window."""
    (y,), x = outs, specs[0]
    include, divisor = int(kw["include"]), float(kw["divisor"] or 0)
    run = _walk("mean", "PPid", 1, y, x.shape, y.shape, kw)
    return lambda x, y: run((x, y, include, divisor), x)


def avg_pool2d_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Each window's number shared among its pixels."""
    (dx,), dy = outs, specs[0]
    include, divisor = int(kw["include"]), float(kw["divisor"] or 0)
    run = _walk("mean_dx", "PPid", 1, dx, dx.shape, dy.shape, kw)
    return lambda dy, dx: run((dy, dx, include, divisor), dy)


def _walk(
    name: str, types: str, lying: int, out: Any, image: tuple, windows: tuple, kw: dict, place: str = "u1"
) -> Callable:
    """``run(arguments, *arrays)``: a kernel over all outputs, told how ``lying`` inputs lie."""
    how = tuple(kw[k] for k in ("kernel", "stride", "padding")) + (kw.get("dilation", (1, 1)),)
    module = launch.load("pool", **variant(out.dtype.short, place, place == "u1" and how == HALVES))
    kernel = module.kernel(name, types + WALK + WINDOWS + LIES * lying)
    numbers = (*(v for pair in how for v in pair), *image[-2:], *windows[-2:])
    blocks, channels, size = -(-out.size // THREADS), out.shape[-3], out.shape[-2:]
    last = out.format == "channels_last"
    inner = (*size, channels) if last else (channels, *size)
    walk = (out.size, int(last), *(v for n in inner for v in divider(n)))

    def run(arguments: tuple, *arrays: Any) -> None:
        lies = [s for a in arrays for s in (steps(a) if a.ndim == 4 else (0, *steps(a)))]
        kernel((blocks,), (THREADS,), *arguments, *walk, *numbers, *lies)

    return run
