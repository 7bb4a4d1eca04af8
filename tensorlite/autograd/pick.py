"""Which kernel an entry gets: a compiled one whose gate opens, else the plain forward fit for its dtypes. Floor 2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tensorlite.autograd.op import Entry
from tensorlite.autograd.spec import CONTIGUOUS


def pick(op: Any, e: Entry, on: Any) -> None:
    """Choose the implementation: a compiled kernel whose gate opens, else the plain forward."""
    given = [s for s in e.specs if s is not None]
    floats = {s.dtype.short for s in given if s.dtype.is_floating_point}
    if len(floats) == 1:
        dense = all(s.format is CONTIGUOUS for s in given)
        for device, name, dtypes, when, around in op.kernels:
            fits = device == e.out.device.type and floats <= set(dtypes) and (dense or around is not None)
            if fits and (when is None or when(*e.specs, **e.kw)):
                factory = on.kernel(name)
                if factory is not None:
                    e.kernel, e.native = factory(e.specs, e.outs, e.kw), True
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
    if e.fresh is not None and e.out.format is CONTIGUOUS and any(s.format is not CONTIGUOUS for s in given):
        e.fresh = None  # NumPy lays its result out as the inputs lie
    if op.variadic and not op.dynamic and not op.view and op.outputs:
        e.kernel = keyword_outputs(e.kernel, len(e.outs), op.outputs)
    if halves and not (op.view or op.mutates or op.moves or op.dynamic):
        e.kernel = in_float32(e.kernel, len(e.outs))
    if op.signals and not op.view and not op.dynamic:
        e.kernel = on.quiet(e.kernel)
        e.fresh = on.quiet(e.fresh) if e.fresh is not None else None


def in_float32(kernel: Callable, outputs: int) -> Callable:
    """``kernel`` for half types: computed in float32, rounded once when stored."""

    def rounded(*arrays):
        inputs, outs = arrays[:-outputs], arrays[-outputs:]
        wide = [
            a.astype(np.float32) if a is not None and a.dtype.itemsize == 2 and a.dtype.kind in "fV" else a
            for a in inputs
        ]
        temps = [np.empty(o.shape, np.float32) if o.dtype.itemsize == 2 and o.dtype.kind in "fV" else o for o in outs]
        kernel(*wide, *temps)
        for o, t in zip(outs, temps):
            if o is not t:
                o[...] = t

    return rounded


def keyword_outputs(kernel: Callable, outputs: int, names: list[str]) -> Callable:
    def call(*arrays):
        kernel(*arrays[:-outputs], **dict(zip(names, arrays[-outputs:])))

    return call
