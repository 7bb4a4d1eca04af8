"""Which kernel an entry gets: a compiled one whose gate opens, else the plain forward fit for its dtypes. Floor 2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tensorlite.autograd.op import Entry
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS

ANY = ("any",)  # formats of a kernel that looks at the strides of what it is given


def pick(op: Any, e: Entry, on: Any) -> None:
    """Choose the implementation: a compiled kernel whose gate opens, else the plain forward."""
    given = [s for s in e.specs if s is not None]
    floats = {s.dtype.short for s in given if s.dtype.is_floating_point}
    floats = floats or {s.dtype.short for s in e.outs if s.dtype.is_floating_point}
    if op.kernels:
        for device, name, dtypes, when, around, formats in op.kernels:
            typed = not dtypes or (len(floats) == 1 and floats <= set(dtypes))
            fits = device == (e.out or given[0]).device.type and typed
            fits = fits and (_readable if around is None else _writable)(op, given, e.outs, formats)
            if fits and (when is None or when(*e.specs, **e.kw)):
                factory = on.kernel(name)
                made = None if factory is None else factory(e.specs, e.outs, e.kw)
                if made is not None:
                    e.kernel, e.native = made, True
                    if around is not None:
                        e.kernel = on.quiet(partial(around, e.kernel, on.xp, **e.kw))
                    return
    xp = on.xp
    halves = any(s.dtype.is_half for s in (*given, *e.outs))
    if op.ufunc is not None:
        e.kernel = getattr(xp, op.ufunc)
        if not halves and e.out is not None and e.out.ndim:
            e.fresh = e.kernel
    else:
        bound = op.binder(xp, e.specs, e.outs, **e.kw) if op.binder is not None else None
        bound, fresh = bound if isinstance(bound, tuple) else (bound, None)
        e.kernel = bound or partial(op.fn, xp, **e.kw)
        if not halves and e.out is not None and e.out.ndim:
            e.fresh = fresh
    if e.fresh is not None and not op.signals and e.out.nbytes >= on.KEPT:
        e.fresh = None  # called outside of the context that keeps memory
    if e.fresh is not None and not _lies_as_inputs(given, e.out):
        e.fresh = None  # NumPy lays its result out as the inputs lie
    if op.variadic and not op.dynamic and not op.view and op.outputs:
        e.kernel = keyword_outputs(e.kernel, len(e.outs), op.outputs)
    if halves and not (op.view or op.mutates or op.moves or op.dynamic):
        e.kernel = in_float32(xp, e.kernel, len(e.outs))
    if op.signals and not op.view and not op.dynamic:
        e.kernel = on.quiet(e.kernel)
        e.fresh = on.quiet(e.fresh) if e.fresh is not None else None


def _readable(op: Any, given: list, outs: tuple, formats: tuple) -> bool:
    """Whether a kernel that knows these formats can read the inputs and write the outputs."""
    if formats is ANY or all(s.format is CONTIGUOUS for s in given):
        return True
    if all(s.format is CONTIGUOUS or (s.ndim == 4 and s.format in formats) for s in given):
        return True
    # element by element the order does not matter, if it is the same for all
    shape = outs[0].shape if outs else ()
    return op.elementwise and all(s.shape == shape and s.format is CHANNELS_LAST for s in (*given, *outs) if s.ndim)


def _writable(op: Any, given: list, outs: tuple, formats: tuple) -> bool:
    """Whether a kernel that takes inputs of every layout can write the outputs.

    Other ops choose the format of their outputs themselves, but an element-wise one gets its from the inputs.
    """
    if not op.elementwise or all(o.format is not CHANNELS_LAST for o in outs):
        return True
    same = all(s.shape == outs[0].shape for s in given if s.ndim)
    return same and (CHANNELS_LAST in formats or _readable(op, given, outs, formats))


def _lies_as_inputs(given: list, out: Any) -> bool:
    """Whether NumPy, left to itself, gives an output of this format."""
    if out.format is CONTIGUOUS:
        return all(s.format is CONTIGUOUS for s in given)
    if out.format is CHANNELS_LAST:
        return all(s.shape == out.shape and s.format is CHANNELS_LAST for s in given if s.ndim)
    return True


def in_float32(xp: Any, kernel: Callable, outputs: int) -> Callable:
    """``kernel`` for half types: computed in float32, rounded once when stored."""

    def rounded(*arrays):
        inputs, outs = arrays[:-outputs], arrays[-outputs:]
        wide = [
            a.astype(np.float32) if a is not None and a.dtype.itemsize == 2 and a.dtype.kind in "fV" else a
            for a in inputs
        ]
        temps = [xp.empty_like(o, np.float32) if o.dtype.itemsize == 2 and o.dtype.kind in "fV" else o for o in outs]
        kernel(*wide, *temps)
        for o, t in zip(outs, temps):
            if o is not t:
                o[...] = t

    return rounded


def keyword_outputs(kernel: Callable, outputs: int, names: list[str]) -> Callable:
    def call(*arrays):
        kernel(*arrays[:-outputs], **dict(zip(names, arrays[-outputs:])))

    return call
