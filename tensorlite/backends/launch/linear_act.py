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
MOST_ROWS, MOST_PARTS = 4096, 256  # blocks along y


def variant(short: str, act: str | None) -> dict:
    """The macros of linear_act.cu for a dtype and an activation."""
    return {"ELEM": CTYPES[short], "WIDE": SUMS[short], "ACT": ACTS[act]}


_ALL = {name: Needs(block=256, blocks=4) for name in ("finish", "act_dx", "add_parts")}
VARIANTS = [Variant(defines=variant(t, act), kernels=_ALL) for t in SUMS for act in ACTS]


def linear_act(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """act(x @ w.T + b); b may be None."""
    x, w, b = specs
    (out,), act = outs, kw["act"]
    product, finish = with_bias(specs, out), finisher(out, act)

    def apart(x: Any, w: Any, out: Any, b: Any) -> None:
        product(x, w, out, b)
        finish(out, None, None, out)

    run = apart
    if act in IN_EPILOGUE and x.size:
        run = in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue=_named(act, b)), apart)
    return lambda x, w, b, out: run(x, w, out, b)


def linear_gelu(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """gelu(x @ w.T + b) and x @ w.T + b."""
    x, w, b = specs
    (out, pre), act = outs, kw["act"]
    product, finish = with_bias(specs, pre), finisher(out, act)

    def apart(x: Any, w: Any, out: Any, b: Any, pre: Any) -> None:
        product(x, w, pre, b)
        finish(pre, None, None, out)

    run = apart
    if act in IN_EPILOGUE and x.size and out.shape[-1] % AUX_STEP == 0:
        run = in_epilogue(lambda: by_layout(x, w, out, tw=True, epilogue=_named(f"{act}_aux", b), aux=True), apart)
    return lambda x, w, b, out, pre: run(x, w, out, b, pre)


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
    cols = dx.shape[-1]
    rows = dx.size // cols
    module = launch.load("linear_act", **variant(dx.dtype.short, kw["act"]))
    parts = max(1, min(math.ceil(rows / 64), MOST_PARTS))
    kernel, add = module.kernel("act_dx", "PPPPPqqq"), module.kernel("add_parts", "PPqq")
    across, chunk = math.ceil(cols / TILE), math.ceil(rows / parts)
    wide = "f8" if dx.dtype.short == "f8" else "f4"

    def run(dy: Any, s: Any, dx: Any, db: Any) -> None:
        dy, s = contiguous(dy), contiguous(s)
        if parts == 1:
            kernel((across, 1), THREADS, dy, s, dx, db, None, rows, cols, chunk)
        else:
            scratch = launch.empty((parts, cols), wide)
            kernel((across, parts), THREADS, dy, s, dx, None, scratch, rows, cols, chunk)
            add((across,), THREADS, scratch, db, parts, cols)

    return run


def finisher(out: Any, act: str | None = None) -> Callable:
    """``finish(y, bias, residual, out)``: out = act(y + bias + residual), where y may be out; None leaves one out."""
    if not out.size:
        return lambda *arrays: None
    cols = out.shape[-1]
    rows = out.size // cols
    kernel = launch.load("linear_act", **variant(out.dtype.short, act)).kernel("finish", "PPPPqq")
    grid = math.ceil(cols / TILE), min(math.ceil(rows / TILE), MOST_ROWS)
    return lambda y, bias, residual, out: kernel(grid, THREADS, y, bias, residual, out, rows, cols)


def _named(epilogue: str, b: Any) -> str:
    return epilogue if b is None else f"{epilogue}_bias"
