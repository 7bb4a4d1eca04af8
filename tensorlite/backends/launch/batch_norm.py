"""Launches of batch norm: the host half of kernels/cuda/batch_norm.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant, rows

PLANES, COLUMNS = 256, 8  # threads that share a channel: of planes, and where channels are neighbours
WHOLE = {PLANES: 1 << 14, COLUMNS: 1 << 9}  # elements of a channel that one block does in one launch
PARTS = {PLANES: 256, COLUMNS: 128}  # of a channel, at most, in the first of two passes
MOMENTS, APPLY, SUMS = "PPqqqq", "PPPPPPPPPPiiqqqqqdd", "PPPPPPqqqqd"
APPLY_DX, SCALE_SHIFT = "PPPPPPPPPPPiqqqqd", "PPPPqqqq"


class Channels:
    """Channels of an output (N, C, ...): how they lie, and the blocks that share them."""

    def __init__(self, out: Any, affine: str, running: str | None = None):
        self.short, self.channels = out.dtype.short, out.shape[1]
        self.n = out.size // self.channels
        self.inner = self.n // out.shape[0]
        self.group = COLUMNS if self.inner == 1 or out.format == "channels_last" else PLANES
        self.macros = {"AFFINE": CTYPES[affine], "RUNNING": CTYPES[running or affine]}
        self.across = -(-self.channels // (rows.THREADS // self.group))
        self.step = self.group * 16  # a multiple of what the group has in hand
        if self.n <= WHOLE[self.group]:
            self.parts, self.a_part, self.blocks, self.a_block = 0, self.n, 1, self.n
        else:
            self.parts, self.a_part = self._cut(PARTS[self.group], rows.FILL)
            self.blocks, self.a_block = self._cut(1 << 15, rows.FILL * 2)
        self.sizes = self.channels, self.n, self.inner

    def _cut(self, most: int, fill: int) -> tuple[int, int]:
        """(parts, elements a part) of each channel, for ``fill`` blocks in all."""
        each = max(1, min(-(-self.n // self.step), most, -(-fill // self.across)))
        a_part = -(-self.n // (each * self.step)) * self.step
        return -(-self.n // a_part), a_part

    def module(self, *arrays: Any) -> launch.Module:
        """For arrays that lie as the output does."""
        vec = 1
        if self.group == PLANES:
            vec = rows.vec(self.short, 0, self.inner, *((rows.address(a), 0, 1) for a in arrays))
        return rows.program("batch_norm", self.short, self.group, 0, vec, **self.macros)

    def scratch(self) -> Any:
        return launch.empty((self.parts, 2, self.channels), rows.STAT[self.short]) if self.parts else None


def batch_norm(specs: tuple, outs: tuple, kw: dict) -> Callable:
    run = _forward(specs, outs, kw, 0)
    return lambda x, w, b, mean, var, *made: run(x, w, b, mean, var, None, *made)


def batch_norm_relu(specs: tuple, outs: tuple, kw: dict) -> Callable:
    run = _forward(specs, outs, kw, 1)
    return lambda x, w, b, mean, var, *made: run(x, w, b, mean, var, None, *made)


def batch_norm_add_relu(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _forward(specs, outs, kw, 1)


def _short(*specs: Any, otherwise: Any) -> str:
    return next((s.dtype.short for s in specs if s is not None), otherwise.dtype.short)


def _forward(specs: tuple, outs: tuple, kw: dict, relu: int) -> Callable:
    x, w, b, mean, var = specs[:5]
    f = Channels(outs[0], _short(w, b, otherwise=x), _short(mean, var, otherwise=x))

    def run(
        x: Any, w: Any, b: Any, running_mean: Any, running_var: Any, more: Any, y: Any, mean: Any, var: Any
    ) -> None:
        x, more, w, b = rows.like(x, y), rows.like(more, y), rows.dense(w), rows.dense(b)
        module, parts = f.module(x, more, y), f.scratch()
        if parts is not None:
            module.kernel("moments", MOMENTS)((f.across, f.parts), (256,), x, parts, *f.sizes, f.a_part)
        module.kernel("apply", APPLY)(
            (f.across, f.blocks), (256,), x, more, w, b, y, mean, var, running_mean, running_var, parts, f.parts, relu,
            *f.sizes, f.a_part, f.a_block, kw["momentum"], kw["eps"],
        )  # fmt: skip

    return run


def normalize_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    run = _backward(specs, outs, kw)
    return lambda dy, x, mean, var, w, dx, dw, db: run(dy, x, mean, var, w, None, dx, dw, db)


def batch_norm_relu_dx(specs: tuple, outs: tuple, kw: dict) -> Callable:
    return _backward(specs, outs, kw)


batch_norm_add_relu_dx = batch_norm_relu_dx


def _backward(specs: tuple, outs: tuple, kw: dict) -> Callable:
    f, eps = Channels(outs[0], _short(specs[4], otherwise=specs[1])), kw["eps"]

    def run(
        dy: Any, x: Any, mean: Any, var: Any, w: Any, y: Any, dx: Any, dw: Any, db: Any, passed: Any = None
    ) -> None:
        dy, x, y = (rows.like(a, dx) for a in (dy, x, y))
        mean, var, w = (rows.dense(a) for a in (mean, var, w))
        module, parts = f.module(dy, x, y, dx, passed), f.scratch()
        if parts is not None:
            module.kernel("sums", SUMS)(
                (f.across, f.parts), (256,), dy, x, mean, var, y, parts, *f.sizes, f.a_part, eps
            )
        module.kernel("apply_dx", APPLY_DX)(
            (f.across, f.blocks), (256,), dy, x, mean, var, w, y, dx, dw, db, passed, parts, f.parts, *f.sizes,
            f.a_block, eps,
        )  # fmt: skip

    return run


def scale_shift(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """x * scale + shift of each channel."""
    f = Channels(outs[0], specs[1].dtype.short)
    blocks, a_block = f._cut(1 << 15, rows.FILL * 2)

    def run(x: Any, scale: Any, shift: Any, y: Any) -> None:
        x, scale, shift = rows.like(x, y), rows.dense(scale), rows.dense(shift)
        kernel = f.module(x, y).kernel("scale_shift", SCALE_SHIFT)
        kernel((f.across, blocks), (256,), x, scale, shift, y, *f.sizes, a_block)

    return run


_NEEDS = {name: Needs(256, blocks=2) for name in ("moments", "apply", "sums", "apply_dx", "scale_shift")}
VARIANTS = [
    Variant(rows.macros(short, group, 0, vec, AFFINE=CTYPES[affine], RUNNING=CTYPES[affine]), _NEEDS)
    for short, group, vec, affine in (
        ("f4", PLANES, 4, "f4"), ("f4", PLANES, 1, "f4"), ("f4", COLUMNS, 1, "f4"), ("bf2", PLANES, 8, "f4"),
        ("bf2", COLUMNS, 1, "f4"), ("f2", PLANES, 8, "f2"), ("f2", PLANES, 1, "f4"), ("f8", PLANES, 2, "f8"),
        ("f8", PLANES, 1, "f8"), ("f8", COLUMNS, 1, "f8"),
    )
]  # fmt: skip
