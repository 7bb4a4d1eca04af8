"""``run``: the one place where numbers are made, and the seam for those who watch or record. Floor 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite import config
from tensorlite.autograd import recording
from tensorlite.autograd.op import TABLE, Entry

seam: Callable | None = None  # (entry, arrays, outs) -> outputs: where every run goes, if there is one
picks = [0]  # how often kernels were chosen anew
trace: Callable | None = None  # () -> the ``extra`` of every new node, if there is one


def run(entry: Entry, arrays: tuple, outs: tuple | None = None) -> Any:
    """Make an entry's outputs from arrays: the one place that every number passes, here or in the text of a call.

    ``outs`` are buffers to write into; without them the outputs are allocated.
    """
    if seam is not None and not entry.op.view:
        return seam(entry, arrays, outs)
    return execute(entry, arrays, outs)


def execute(entry: Entry, arrays: tuple, outs: tuple | None = None) -> Any:
    """Allocate the outputs and call the kernel. A seam calls this when it wants the ordinary thing done."""
    if entry.op.view or entry.op.dynamic:
        return entry.kernel(*arrays)
    if outs is None:
        if entry.fresh is not None:  # as the text of a call does, so that all calls give the same strides and bits
            return entry.fresh(*arrays)
        outs = tuple([o.empty() for o in entry.outs])
    entry.kernel(*arrays, *outs)
    return outs if len(outs) != 1 or entry.op.multiple else outs[0]


def set_seam(new_seam: Callable | None, new_trace: Callable | None = None) -> None:
    """Send every run through ``seam(entry, arrays) -> outputs``; every new node's ``extra`` comes from ``trace()``."""
    global seam, trace
    seam, trace = new_seam, new_trace
    for op in TABLE.values():
        if op.kind == "primitive":
            op.namespace["seam"], op.namespace["trace"] = seam, trace


def forget_picks(_: Any = None) -> None:
    """Drop every cached choice of kernel, so that the next calls choose anew."""
    for op in TABLE.values():
        if op.kind == "primitive":
            op.cache.clear()
    picks[0] += 1
    recording.changed()


config.KERNELS.listeners.append(forget_picks)
config.ISA.listeners.append(forget_picks)
config.CUDA_EMULATION.listeners.append(forget_picks)
