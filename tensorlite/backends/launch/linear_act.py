"""Launches of the linear layer with what comes after it: an activation, a residual, their gradient. Floor 1.

gelu with tanh is done by cuBLASLt's epilogue. Its relu gives 0 for NaN, which would hide a training that went wrong, so
relu and the others are done by linear_act.cu in one more pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant
from tensorlite.backends.launch.linalg import SUMS, THREADS, TILE, by_layout, contiguous, in_epilogue, with_bias

ACTS = {None: 0, "relu": 1, "tanh": 2, "sigmoid": 3, "gelu": 4, "gelu_tanh": 5}  # as in linear_act.cu
IN_EPILOGUE = ("gelu_tanh",)
AUX_STEP = 8  # elements by which the rows of what gelu keeps must be apart
MOST_ROWS, MOST_PARTS, ROWS_OF_PART = 4096, 256, 64  # blocks along y, rows that one of them sums at least


def variant(short: str, wide: bool = False) -> dict:
    """The macros of linear_act.cu for a dtype; ``wide``: for a product in float32."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short], "FROM": "float" if wide else CTYPES[short]}


_ALL = {name: Needs(block=256, blocks=4) for name in ("finish", "act_dx", "add_parts")}
VARIANTS = [Variant(defines=variant(t), kernels=_ALL) for t in SUMS]
VARIANTS += [Variant(defines=variant(t, wide=True), kernels=_ALL) for t in ("f2", "bf2")]


def linear_act(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """act(x @ w.T + b); b may be None."""
    x, w, b = specs
    (out,), act = outs, kw["act"]
    run = _apart(specs, out, act)
    if act in IN_EPILOGUE and x.size:
        run = in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue=_named(act, b)), run)
    return lambda x, w, b, out: run(x, w, out, b)


def linear_gelu(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """gelu(x @ w.T + b) and x @ w.T + b."""
    x, w, b = specs
    (out, _), act = outs, kw["act"]
    run = _apart(specs, out, act)
    if act in IN_EPILOGUE and x.size and out.shape[-1] % AUX_STEP == 0:
        run = in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue=_named(f"{act}_aux", b), aux=True), run)
    return lambda x, w, b, out, pre: run(x, w, out, b, pre)


def _apart(specs: tuple, out: Any, act: str) -> Callable:
    """``run(x, w, out, b, pre=None)`` in two passes. What is rounded is rounded once, as on the CPU.

    relu gives the same bits before and after rounding; for the others the product of halves comes in float32.
    """
    x, w, _ = specs
    if out.dtype.is_half and act != "relu":
        product, finish = by_layout(x, w, out, tw=True, wide=True), finisher(out, act, wide=True)

        def run(x: Any, w: Any, out: Any, b: Any, pre: Any = None) -> None:
            y = launch.empty(out.shape, "f4")
            product(x, w, y)
            finish(y, contiguous(b), pre, out)

        return run
    product, finish = with_bias(specs, out), finisher(out, act)

    def in_place(x: Any, w: Any, out: Any, b: Any, pre: Any = None) -> None:
        y = out if pre is None else pre
        product(x, w, y, b)
        finish(y, None, None, out)

    return in_place


def linear_add(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x @ w.T + b + residual."""
    x, w, _, b = specs
    (out,) = outs
    run = by_layout(x, w, out, tw=True, residual=True)
    if b is not None:
        plain, finish = run, finisher(out)

        def apart(x: Any, w: Any, out: Any, b: Any, aux: Any, residual: Any) -> None:
            plain(x, w, out, None, None, residual)
            finish(out, contiguous(b), None, out)

        run = in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue="bias", residual=True), apart)
    return lambda x, w, residual, b, out: run(x, w, out, b, None, contiguous(residual))


def act_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """dy times the slope of act, and the sums of its columns."""
    dx, db = outs
    if not db.size:
        return lambda *arrays: None
    cols, act = dx.shape[-1], ACTS[kw["act"]]
    rows, short = dx.size // cols, dx.dtype.short
    module = launch.load("linear_act", **variant(short))
    parts = max(1, min(math.ceil(rows / ROWS_OF_PART), MOST_PARTS))
    kernel, add = module.kernel("act_dx", "PPPPPiqqq"), module.kernel("add_parts", "PPqq")
    across, chunk = math.ceil(cols / TILE), math.ceil(rows / parts)
    sums = "f8" if short == "f8" else "f4"

    def run(dy: Any, s: Any, dx: Any, db: Any) -> None:
        dy, s = contiguous(dy), contiguous(s)
        if parts == 1:
            kernel((across, 1), THREADS, dy, s, dx, db, None, act, rows, cols, chunk)
        else:
            scratch = launch.empty((parts, cols), sums)
            kernel((across, parts), THREADS, dy, s, dx, None, scratch, act, rows, cols, chunk)
            add((across,), THREADS, scratch, db, parts, cols)

    return run


def finisher(out: Any, act: str | None = None, wide: bool = False) -> Callable:
    """``finish(y, bias, pre, out)``: pre = y + bias, out = act(pre); pre and out may be y, None leaves one out."""
    if not out.size:
        return lambda *arrays: None
    cols, code = out.shape[-1], ACTS[act]
    rows = out.size // cols
    kernel = launch.load("linear_act", **variant(out.dtype.short, wide)).kernel("finish", "PPPPiqq")
    grid = math.ceil(cols / TILE), min(math.ceil(rows / TILE), MOST_ROWS)
    return lambda y, bias, pre, out: kernel(grid, THREADS, y, bias, pre, out, code, rows, cols)


def _named(epilogue: str, b: Any) -> str:
    return epilogue if b is None else f"{epilogue}_bias"
