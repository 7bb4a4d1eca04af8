"""Random numbers and dropout on a GPU: the host half of kernels/cuda/random.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import cuda, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, copy
from tensorlite.backends.launch.index import dense

THREADS, FILL = 256, 132 * 16  # threads a block; blocks that fill any GPU of today: threads go on from there
_copied = copy.contiguous((), (), {})
PART = 4096  # elements of a row that a group of lanes goes through


def _module(dtype: Any) -> Any:
    return launch.load("random", **_defines(dtype.short))


def _defines(short: str) -> dict:
    return {"ELEM": CTYPES[short], "FLOATS": int("f" in short)}


def _grid(n: int, each: int) -> tuple:
    return (max(1, min(FILL, -(-n // (each * THREADS)))),)


def _two(key: Any) -> Any:
    """The two numbers of a key side by side."""
    return key if key.strides[0] == key.itemsize else dense(key)


def take_key(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The key of one call; the state moves on to the next. One thread: nothing comes to the host."""
    kernel = launch.load("random", **_defines("i8")).kernel("take_key", "PPqq")
    return lambda state, out: kernel((1,), (32,), state, out, state.strides[0] // 8, out.strides[0] // 8)


def uniform(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _filling("uniform", outs[0])


def normal(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _filling("normal", outs[0])


def _filling(name: str, out: Any) -> Callable:
    kernel, n = _module(out.dtype).kernel(name, "PPq"), out.size
    grid = _grid(n, 2 if out.dtype.short == "f8" else 4)

    def call(key: Any, y: Any) -> None:
        if n:
            kernel(grid, (THREADS,), _two(key), y, n)

    return call


def randint(specs: tuple, outs: tuple, kw: dict) -> Callable:
    low, n = kw["low"], outs[0].size
    kernel, grid, span = _module(outs[0].dtype).kernel("randint", "PPqqQ"), _grid(n, 2), kw["high"] - low

    def call(key: Any, y: Any) -> None:
        if n:
            kernel(grid, (THREADS,), _two(key), y, n, low, span)

    return call


def randperm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The order of n random integers of 64 bits."""
    n = kw["n"]
    kernel, grid = launch.load("random", **_defines("i8")).kernel("integers", "PPq"), _grid(n, 2)

    def call(key: Any, y: Any) -> None:
        if n:
            words = launch.empty((n,), np.uint64)
            kernel(grid, (THREADS,), _two(key), words, n)
            y[...] = cuda.arrays().argsort(words)  # CuPy's sort is stable

    return call


def bernoulli(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x = specs[0]
    kernel, grid, n = _module(x.dtype).kernel("bernoulli", "PPPqPi"), _grid(x.size, 4), x.size
    flag, code = cuda.fault_flag(
        "bernoulli: expected all probabilities p_in to be in [0, 1] (p_in >= 0 && p_in <= 1)", RuntimeError
    )

    def call(p: Any, key: Any, y: Any) -> None:
        if not n:
            return
        to = y if y.flags.c_contiguous else launch.empty(y.shape, y.dtype)
        if not p.flags.c_contiguous:
            _copied(p, to)
            p = to
        kernel(grid, (THREADS,), p, _two(key), to, n, flag, code)
        if to is not y:
            y[...] = to

    return call


def dropout_mask(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Arrays of C order, or both in channels_last; what lies in other ways is copied first."""
    x, p = specs[0], kw["p"]
    n, channels = x.size, kw["channels"] or x.ndim
    rows, inner = prod(x.shape[:channels]), prod(x.shape[channels:])
    least, scale = round(p * 2**32), 1.0 / (1.0 - p) if p < 1 else 0.0
    module = _module(x.dtype)
    rest: tuple
    if inner == 1:
        kernel, grid, rest = module.kernel("dropout", "PPPqQd"), _grid(n, 4), (n, least, scale)
    else:
        lanes = min(THREADS, 1 << max(inner - 1, 0).bit_length())
        parts = max(1, min(65535, inner // PART, FILL * THREADS // max(1, rows * lanes)))
        kernel = module.kernel("dropout_rows", "PPPqqiQd")
        grid, rest = (*_grid(rows * lanes, 1), parts), (rows, inner, lanes, least, scale)
    last = None
    if x.ndim == 4 and kw["channels"] in (0, 2):
        last = module.kernel("dropout_last", "PPPqqqiQd")
        given = (n, x.shape[2] * x.shape[3], x.shape[1], int(channels == 2), least, scale)

    def call(a: Any, key: Any, y: Any) -> None:
        if not n:
            return
        key = _two(key)
        if y.flags.c_contiguous:
            if not a.flags.c_contiguous:
                _copied(a, y)
                a = y
            kernel(grid, (THREADS,), a, key, y, *rest)
            return
        if last is not None and y.transpose(0, 2, 3, 1).flags.c_contiguous:
            if a.strides != y.strides:
                _copied(a.transpose(0, 2, 3, 1), y.transpose(0, 2, 3, 1))
                a = y
            last(_grid(n, 1), (THREADS,), a, key, y, *given)
            return
        room = launch.empty(y.shape, y.dtype)
        _copied(a, room)
        kernel(grid, (THREADS,), room, key, room, *rest)
        y[...] = room

    return call


_FLOATS = ("uniform", "normal", "bernoulli", "dropout", "dropout_rows", "dropout_last")
_EACH = ("take_key", "integers", "randint")
VARIANTS = [
    Variant(_defines(short), {k: Needs(THREADS, blocks=2) for k in (_EACH + _FLOATS if "f" in short else _EACH)})
    for short in ("f4", "f8", "f2", "bf2", "i8", "b1")
]
