"""Launches of cross-entropy with class indices: the host half of kernels/cuda/cross_entropy.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import cuda, launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, rows

ONE_BLOCK = 1 << 14  # scores whose losses one block adds up, which saves a launch
COUNT_INSIDE = 2048  # rows that each block of the gradient counts itself, which saves another
LOSSES, FINISH, COUNTED = "PPPPPPiqqqqqqPi", "PPii", "PPqqq"
LOSSES_DX, PICK, PUT = "PPPPPPiqqqqqqqPi", "PPPqqqqqqPi", "PPPqqqqqPi"


def cross_entropy(specs: tuple, outs: tuple, kw: dict) -> Callable:
    forward = _forward(specs, outs, kw)
    return lambda x, t, out: forward(x, t, out, None)


def cross_entropy_kept(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _forward(specs, outs, kw)


def cross_entropy_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    backward = _backward(specs, outs, kw)
    return lambda dy, x, t, out: backward(dy, x, t, None, out)


def cross_entropy_kept_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _backward(specs, outs, kw)


def class_pick(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x[k, t[k]] for each row k of x."""
    x, t = specs
    count, classes = x.shape
    kernel = _module(x.dtype.short, t.dtype.short, *rows.held(x.dtype.short, classes)).kernel("pick", PICK)
    blocks, (flag, code), ignore = min(-(-count // 256), rows.FILL), _flag(kw["caller"], kw["ignore"]), kw["ignore"]

    def call(x: Any, t: Any, out: Any) -> None:
        steps = _step(x, 0), _step(x, 1), _step(t, 0)
        kernel((blocks,), (256,), x, t, out, count, classes, *steps, ignore, flag, code)

    return call


def class_put(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """Zeros with dy[k] at t[k] of row k."""
    dy, t = specs
    count, classes = outs[0].shape
    kernel = _module(dy.dtype.short, t.dtype.short, *rows.held(dy.dtype.short, classes)).kernel("put", PUT)
    blocks, (flag, code), ignore = min(-(-count // 8), rows.FILL), _flag(kw["caller"], kw["ignore"]), kw["ignore"]

    def call(dy: Any, t: Any, out: Any) -> None:
        kernel((blocks,), (256,), dy, t, out, count, classes, _step(dy, 0), _step(t, 0), ignore, flag, code)

    return call


def _forward(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x = specs[0]
    (count, classes), short, ignore = x.shape, x.dtype.short, kw["ignore"]
    each, mean = kw["reduction"] == "none", int(kw["reduction"] == "mean")
    group, keep, blocks = _grid(short, count, classes)
    blocks = blocks if each else 1 if x.size <= ONE_BLOCK else min(blocks, rows.FILL)
    flag, code = _flag("cross_entropy", ignore)

    def call(x: Any, t: Any, out: Any, kept: Any) -> None:
        x, row, step = rows.as_rows(x, 1)
        module = _module(short, _short(t), group, keep, rows.vec(short, keep, classes, (rows.address(x), row, step)))
        parts = launch.empty((blocks, 2), rows.STAT[short]) if blocks > 1 and not each else None
        module.kernel("losses", LOSSES)(
            (blocks,), (rows.THREADS,), x, t, out if each else None, kept, out, parts, mean, count, classes, row, step,
            _step(t, 0), ignore, flag, code,
        )  # fmt: skip
        if parts is not None:
            module.kernel("finish", FINISH)((1,), (rows.THREADS,), parts, out, mean, blocks)

    return call


def _backward(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x = specs[1]
    (count, classes), short, ignore = x.shape, x.dtype.short, kw["ignore"]
    each, mean = kw["reduction"] == "none", int(kw["reduction"] == "mean")
    group, keep, blocks = _grid(short, count, classes)
    flag, code = _flag("cross_entropy", ignore)

    def call(dy: Any, x: Any, t: Any, kept: Any, out: Any) -> None:
        x, row, step = rows.as_rows(x, 1)
        lying = (rows.address(x), row, step), (rows.address(out), classes, 1)
        module = _module(short, _short(t), group, keep, rows.vec(short, keep, classes, *lying))
        counted, t_step = None, _step(t, 0)
        if mean and count > COUNT_INSIDE:
            counted = launch.zeros((1,), "i8")
            blocks_of_it = min(-(-count // 4096), rows.FILL)
            module.kernel("counted", COUNTED)((blocks_of_it,), (rows.THREADS,), t, counted, count, t_step, ignore)
        module.kernel("losses_dx", LOSSES_DX)(
            (blocks,), (rows.THREADS,), dy, x, t, rows.dense(kept), out, counted, mean, count, classes,
            _step(dy, 0) if each else 0, row, step, t_step, ignore, flag, code,
        )  # fmt: skip

    return call


def _grid(short: str, count: int, classes: int) -> tuple[int, int, int]:
    group, keep = rows.held(short, classes)
    return group, keep, min(-(-count // (rows.THREADS // group)), rows.FILL * 4)


def _module(short: str, index: str, group: int, keep: int, vec: int = 1) -> launch.Module:
    return rows.program("cross_entropy", short, group, keep, vec, INDEX=CTYPES[index])


def _flag(name: str, ignore: int) -> tuple:
    return cuda.fault_flag(
        f"{name}: target {{index}}; wanted a class from 0 to below {{size}}, or ignore_index {ignore} "
        "(Target {index} is out of bounds.)"
    )


def _short(t: Any) -> str:
    return "u1" if t.itemsize == 1 else "i8"


def _step(a: Any, dim: int) -> int:
    return a.strides[dim] // a.itemsize


_NEEDS = {name: Needs(rows.THREADS, blocks=2) for name in ("losses", "finish", "counted", "losses_dx", "pick", "put")}
VARIANTS = [
    Variant(rows.macros(short, group, keep, vec, INDEX=CTYPES[index]), _NEEDS)
    for short, group, keep, vec, index in (
        ("f4", 32, 1, 1, "i8"), ("f4", 32, 32, 4, "i8"), ("f4", 256, 32, 4, "i8"), ("f4", 256, 0, 4, "i8"),
        ("f4", 32, 1, 1, "u1"), ("bf2", 32, 8, 8, "i8"), ("f2", 256, 0, 8, "i8"), ("f8", 256, 0, 2, "i8"),
        ("f8", 32, 8, 2, "i8"),
    )
]  # fmt: skip
