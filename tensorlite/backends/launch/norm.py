"""Launches of layer norm, group norm and RMS norm: the host half of kernels/cuda/norm.cu. Floor 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, rows
from tensorlite.backends.launch.linear_act import ACTS

NORMALIZE = "PPPPPPPPiqqqqqqqqqd"
NORMALIZE_DX = "PPPPPPPPPPPiqqqqqqqqd"
COLUMN_SUMS = "PPPPPPPPPqqqqqqqd"
GROUPS_DX = "PPPPPPPPPqqqqqqqqqqd"
ADD_PARTS = "PPPqqqq"
KEPT_DX = 8  # numbers of a row that a thread holds in the gradient, beside as many sums of each kind
ONE_BLOCK = 1 << 13  # numbers of which one block makes the whole gradient, which saves a launch
PARTS = 132 * 2  # blocks that leave partial sums


class Norm:
    """Rows of channels * inner numbers, each with one mean and variance; scales take turns through ``period`` sets."""

    def __init__(self, x: Any, w: Any, b: Any, kw: dict):
        dim, shape = kw["dim"], kw.get("shape", ())
        self.short, self.lead = x.dtype.short, x.ndim - len(dim)
        self.n = math.prod(x.shape[d] for d in dim)
        self.rows = x.size // self.n
        self.groups = len(shape) > len(dim)
        self.channels = math.prod(shape[-len(dim) :]) if self.groups else self.n
        self.period = math.prod(shape) // self.channels if self.groups else 1
        self.inner = self.n // self.channels
        self.affine = next((s.dtype.short for s in (w, b) if s is not None), self.short)
        self.act, self.eps = ACTS[kw.get("act")], kw["eps"]

    def module(self, group: int, keep: int, vec: int = 1) -> launch.Module:
        more = {"AFFINE": CTYPES[self.affine], "ACT": self.act, "GROUPS": int(self.groups)}
        return rows.program("norm", self.short, group, keep, vec, **more)


def layer_norm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    run = _forward(Norm(*specs, kw))
    return lambda x, w, b, y, mean, var: run(x, None, w, b, y, None, mean, var)


layer_norm_act = layer_norm


def add_layer_norm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, _, w, b = specs
    return _forward(Norm(x, w, b, kw))


def rms_norm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, w = specs
    run = _forward(Norm(x, w, None, kw), rms=1)
    return lambda x, w, y, squares: run(x, None, w, None, y, None, None, squares)


def normalize_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    _, x, _, _, w = specs
    run = _backward(Norm(x, w, None, kw))
    return lambda dy, x, mean, var, w, dx, dw, db: run(dy, None, x, mean, var, w, None, dx, dw, db)


def layer_norm_act_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    _, x, _, _, w, b = specs
    run = _backward(Norm(x, w, b, kw))
    return lambda dy, x, mean, var, w, b, dx, dw, db: run(dy, None, x, mean, var, w, b, dx, dw, db)


def add_layer_norm_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    _, _, s, _, _, w = specs
    run = _backward(Norm(s, w, None, kw))
    return lambda dy, d_sum, s, mean, var, w, dx, dw, db: run(dy, d_sum, s, mean, var, w, None, dx, dw, db)


def rms_norm_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    _, x, _, w = specs
    run = _backward(Norm(x, w, None, kw), rms=1)
    return lambda dy, x, squares, w, dx, dw: run(dy, None, x, None, squares, w, None, dx, dw, None)


def _forward(f: Norm, rms: int = 0) -> Callable:
    """``run(x, residual, w, b, y, sum, mean, var)``; None leaves one out."""
    group, keep = rows.held(f.short, f.n)
    threads = max(group, rows.THREADS)
    blocks = min(-(-f.rows * group // threads), rows.FILL * 4)

    def run(x: Any, more: Any, w: Any, b: Any, y: Any, total: Any, mean: Any, var: Any) -> None:
        (x, *of_x), (more, *of_more), w, b = _rows(x, f), _rows(more, f), rows.dense(w), rows.dense(b)
        lying = [(rows.address(a), *steps) for a, steps in ((x, of_x), (more, of_more))]
        lying += [(rows.address(a), f.n, 1) for a in (y, total)]
        if not f.groups:
            lying += [(rows.address(a), 0, 1) for a in (w, b)]
        kernel = f.module(group, keep, rows.vec(f.short, keep, f.n, *lying)).kernel("normalize", NORMALIZE)
        kernel(
            (blocks,), (threads,), x, more, w, b, y, total, mean, var, rms, f.rows, f.n, f.period, f.channels, f.inner,
            *of_x, *of_more, f.eps,
        )  # fmt: skip

    return run


def _rows(a: Any, f: Norm) -> tuple:
    return (None, 0, 1) if a is None else rows.as_rows(a, f.lead)


def _backward(f: Norm, rms: int = 0) -> Callable:
    """``run(dy, d_sum, x, mean, var, w, b, dx, dw, db)``; None leaves one out."""
    if f.groups:
        return _of_groups(f)
    group, keep = rows.held(f.short, f.n, KEPT_DX * (4 if f.short == "f8" else 1))
    if not keep and f.n <= 512 * KEPT_DX and f.short != "f8":
        group, keep = 512, KEPT_DX
    sums, threads = keep > 0, max(group, rows.THREADS)
    each = threads // group
    if sums:
        blocks = 1 if f.rows * f.n <= ONE_BLOCK else min(-(-f.rows // each), PARTS)
    else:
        blocks = min(f.rows, rows.FILL)
    across = -(-f.n // 32)
    parts = blocks if sums else max(1, min(f.rows // 64, -(-PARTS * 4 // across), 256))
    a_part = -(-f.rows // parts)
    parts = parts if sums else -(-f.rows // a_part)

    def run(dy: Any, d_sum: Any, x: Any, mean: Any, var: Any, w: Any, b: Any, dx: Any, dw: Any, db: Any) -> None:
        (dy, *of_dy), (d_sum, *of_sum), (x, *of_x) = (_rows(a, f) for a in (dy, d_sum, x))
        w, b, mean, var = (rows.dense(a) for a in (w, b, mean, var))
        lying = [(rows.address(a), *steps) for a, steps in ((dy, of_dy), (d_sum, of_sum), (x, of_x))]
        lying += [(rows.address(dx), f.n, 1), (rows.address(w), 0, 1), (rows.address(b), 0, 1)]
        module = f.module(group, keep, rows.vec(f.short, keep, f.n, *lying))
        made = launch.empty((parts, 2, f.n), rows.STAT[f.short]) if parts > 1 else None
        module.kernel("normalize_dx", NORMALIZE_DX)(
            (blocks,), (threads,), dy, d_sum, x, mean, var, w, b, dx, dw, db, made, rms, f.rows, f.n, *of_dy, *of_sum,
            *of_x, f.eps,
        )  # fmt: skip
        if not sums:
            module.kernel("column_sums", COLUMN_SUMS)(
                (across, parts), (256,), dy, x, mean, var, w, b, dw, db, made, f.rows, f.n, *of_dy, *of_x, a_part, f.eps
            )
        if made is not None:
            grid = across, 1 if db is None else 2
            module.kernel("add_parts", ADD_PARTS)(grid, (256,), made, dw, db, parts, f.n, 2 * f.n, f.n)

    return run


def _of_groups(f: Norm) -> Callable:
    module, affine = f.module(256, 0), f.period * f.channels
    kernel, add = module.kernel("groups_dx", GROUPS_DX), module.kernel("add_parts", ADD_PARTS)
    blocks = min(f.rows, rows.FILL * 4)

    def run(dy: Any, d_sum: Any, x: Any, mean: Any, var: Any, w: Any, b: Any, dx: Any, dw: Any, db: Any) -> None:
        (dy, *of_dy), (d_sum, *of_sum), x = _rows(dy, f), _rows(d_sum, f), rows.dense(x)
        w, b, mean, var = (rows.dense(a) for a in (w, b, mean, var))
        parts = launch.empty((2, f.rows, f.channels), rows.STAT[f.short])
        kernel(
            (blocks,), (256,), dy, d_sum, x, mean, var, w, b, dx, parts, f.rows, f.period, f.channels, f.inner, *of_dy,
            *of_sum, f.n, 1, f.eps,
        )  # fmt: skip
        add((-(-affine // 32), 2), (256,), parts, dw, db, f.rows // f.period, affine, affine, f.rows * f.channels)

    return run


def _variant(short: str, affine: str, group: int, keep: int, vec: int, act: str | None, groups: int) -> Variant:
    threads, few = max(group, rows.THREADS), keep > 16 or short == "f8" or group > 256
    names = ("groups_dx",) if groups else ("normalize_dx", "column_sums") if keep <= 8 else ()
    needs = {name: Needs(threads if name.startswith("n") else 256, blocks=1 if few else 2) for name in names}
    needs |= {"normalize": Needs(threads, blocks=1 if few else 2), "add_parts": Needs(256, blocks=4)}
    macros = rows.macros(short, group, keep, vec, AFFINE=CTYPES[affine], ACT=ACTS[act], GROUPS=groups)
    return Variant(macros, needs)


VARIANTS = [
    _variant(*form)
    for form in (
        ("f4", "f4", 32, 1, 1, None, 0), ("f4", "f4", 32, 8, 4, None, 0), ("f4", "f4", 32, 32, 4, None, 0),
        ("f4", "f4", 256, 8, 4, None, 0), ("f4", "f4", 512, 8, 4, None, 0), ("f4", "f4", 256, 32, 4, None, 0),
        ("f4", "f4", 256, 0, 4, None, 0), ("f4", "f4", 256, 8, 4, "gelu", 0), ("f4", "f4", 32, 8, 1, "relu", 0),
        ("f4", "f4", 256, 8, 4, "gelu_tanh", 0), ("f4", "f4", 32, 8, 4, "tanh", 0),
        ("f4", "f4", 32, 8, 4, "sigmoid", 0),
        ("bf2", "f4", 256, 8, 8, None, 0), ("bf2", "bf2", 32, 8, 8, "gelu", 0), ("f2", "f2", 256, 0, 8, None, 0),
        ("f8", "f8", 32, 8, 2, None, 0), ("f8", "f8", 256, 0, 2, "gelu", 0),
        ("f4", "f4", 256, 0, 4, None, 1), ("f4", "f4", 256, 0, 1, "relu", 1), ("f4", "f4", 32, 8, 4, None, 1),
        ("bf2", "f4", 256, 0, 8, None, 1), ("f8", "f8", 256, 0, 1, None, 1),
    )
]  # fmt: skip
