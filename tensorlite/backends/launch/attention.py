"""Attention on a GPU and its gradients: sizes, steps and tiles for kernels/cuda/attention.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant

THREADS, DIMS, LEADS = 256, (32, 64, 128), 3  # sizes of heads that there are kernels for; leading dimensions
MOST_BATCHES = 65535  # of a grid
COMPUTED = {"f4": "float32", "f8": "float64", "f2": "float32", "bf2": "float32"}
TYPES = "PPPPPP" + "q" * 20 + "qqqqq" + "iiiid"
BACK = "P" * 7 + "q" * 25 + "qqqqq" + "iiiid"


def tiles(short: str, dim: int) -> tuple[int, int]:
    """Rows of a block forward and backward: what four or five tiles leave in 99 KB of shared memory."""
    wide = short == "f8"
    return (32 if wide else 64), (64 if dim < 128 else 32) // (2 if wide else 1)


def defines(short: str, dim: int) -> dict:
    """The macros for elements and heads of this size."""
    forward, backward = tiles(short, dim)
    return {"ELEM": CTYPES[short], "DIM": dim, "TILE": forward, "BACK_TILE": backward}


def shared(short: str, dim: int) -> tuple[int, int]:
    """Bytes of shared memory forward and backward: matrices of rows, and a square of weights."""
    size = 8 if short == "f8" else 4
    pad = 16 // size
    return tuple(size * n * (many * (dim + pad) + n + pad) for n, many in zip(tiles(short, dim), (2, 4)))  # type: ignore[return-value]


def _sizes(q: Any, k: Any, v: Any, mask: Any, kw: dict) -> tuple:
    """What comes after the steps in the kernels' arguments, and how many batches there are."""
    lead = (1,) * (LEADS + 2 - q.ndim) + q.shape[:-2]
    kind = 0 if mask is None else 1 if mask.dtype.short == "b1" else 2
    sizes = prod(lead), lead[1], lead[2], q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
    return *sizes, kind, int(kw["causal"]), float(kw["scale"])


def _steps(a: Any) -> tuple:
    """Steps in elements over five dimensions; 0 where the array is stretched."""
    if a is None:
        return (0,) * (LEADS + 2)
    steps = tuple([0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides)])
    return (0,) * (LEADS + 2 - len(steps)) + steps


def _grid(rows: int, tile: int, batches: int) -> tuple:
    return -(-rows // tile), min(batches, MOST_BATCHES)


def _module(q: Any, v: Any) -> tuple[Any, str, int]:
    dim = next(d for d in DIMS if d >= max(q.shape[-1], v.shape[-1]))
    return launch.load("attention", **defines(q.dtype.short, dim)), q.dtype.short, dim


def attention(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """softmax(q k' scale + mask) v, and the logarithm of each row's sum."""
    q, k, v, mask = specs
    sizes = _sizes(q, k, v, mask, kw)
    module, short, dim = _module(q, v)
    kernel = module.kernel("attention", TYPES, shared=shared(short, dim)[0])
    grid = _grid(q.shape[-2], tiles(short, dim)[0], sizes[0])

    def call(q: Any, k: Any, v: Any, mask: Any, out: Any, lse: Any) -> None:
        steps = (*_steps(q), *_steps(k), *_steps(v), *_steps(mask))
        kernel(grid, (THREADS,), q, k, v, mask, out, lse, *steps, *sizes)

    return call


def attention_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The gradients with respect to q, k and v: one launch for q, one for k and v."""
    _, q, k, v, *_, mask = specs
    sizes = _sizes(q, k, v, mask, kw)
    module, short, dim = _module(q, v)
    room, tile = shared(short, dim)[1], tiles(short, dim)[1]
    to_q = module.kernel("attention_dq", BACK + "PP", shared=room)
    to_kv = module.kernel("attention_dkv", BACK + "PPP", shared=room)
    queries, keys = _grid(q.shape[-2], tile, sizes[0]), _grid(k.shape[-2], tile, sizes[0])

    def call(dy: Any, q: Any, k: Any, v: Any, y: Any, lse: Any, mask: Any, dq: Any, dk: Any, dv: Any) -> None:
        steps = (*_steps(dy), *_steps(q), *_steps(k), *_steps(v), *_steps(mask))
        given = (dy, q, k, v, y, lse, mask, *steps, *sizes)
        sums = launch.empty(lse.shape, COMPUTED[short])
        to_q(queries, (THREADS,), *given, dq, sums)
        to_kv(keys, (THREADS,), *given, dk, dv, sums)

    return call


def _variants() -> list[Variant]:
    found = []
    for short in CTYPES:
        for dim in DIMS if short in COMPUTED else ():
            forward, backward = shared(short, dim)
            back = Needs(THREADS, backward)
            kernels = {"attention": Needs(THREADS, forward), "attention_dq": back, "attention_dkv": back}
            found.append(Variant(defines(short, dim), kernels))
    return found


VARIANTS = _variants()
