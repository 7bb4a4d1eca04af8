"""The norm of many tensors taken as one vector, and their scaling: two calls, whatever their number. Floor 3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.update import by_rows, sample_table


# ---- the norm
@primitive(torch=None)
def total_norm_p(xp, *tensors, out, kind):
    """(sum |x|^kind)^(1 / kind) over all elements of all tensors, for kind 1, 2 or inf; summed in float64."""
    wide = [xp.abs(t.astype(np.float64)) for t in tensors if t.size]
    if kind == math.inf:
        out[...] = xp.max(xp.stack([w.max() for w in wide])) if wide else 0.0
    else:
        total = math.fsum([float((w if kind == 1 else w * w).sum()) for w in wide])
        out[...] = total if kind == 1 else xp.sqrt(total)


@total_norm_p.spec
def _(*tensors, kind):
    if not tensors:
        raise ShapeError("total_norm: got no tensors; wanted one at least")
    if kind not in (1, 2, math.inf):
        raise ValueError(f"total_norm: kind {kind}; wanted 1, 2 or inf")
    for t in tensors:
        if not t.dtype.is_floating_point:
            raise DTypeError(f"total_norm: one of the tensors is {t.dtype}; wanted floating point")
    return tensors[0].like()


def _flat(compiled, xp, *arrays, kind):
    compiled(*[a.ravel("K") for a in arrays])  # a view, wherever the elements lie without gaps


total_norm_p.nograd()
total_norm_p.kernel("cpu", "total_norm", around=_flat)
total_norm_p.kernel("cuda", "clip.total_norm", "", formats=ANY)


@face(total_norm_p)
def total_norm(tensors: Sequence[Tensor], kind: float = 2.0) -> Tensor:
    """The norm of all tensors as one vector: kind 1, 2 or inf; a 0-d tensor in the dtype of the first."""
    return total_norm_p(*tensors, kind=float(kind))


@total_norm_p.cases
def _(make):
    for kind in (2.0, 1.0, math.inf):
        yield dict(tensors=sample_table(make, 1)[0], kind=kind)
    yield dict(tensors=[make(0, 2), make(40)])
    yield dict(tensors=[make(70000)])
    yield ValueError, dict(tensors=[make(2)], kind=3.0)
    yield DTypeError, dict(tensors=[make.ints(2)])
    yield ShapeError, dict(tensors=[])


@total_norm_p.ref
def _(tensors, kind=2.0):
    return np.linalg.norm(np.concatenate([np.ravel(t) for t in tensors]), kind)


# ---- scaling
@primitive(name="scale", mutates=("tensors",), torch=None)
def scale_p(xp, factor, *tensors):
    """Every tensor multiplied by one number, in place."""
    for t in tensors:
        if t.dtype.itemsize == 2:
            t[...] = t.astype(np.float32) * factor.astype(t.dtype).astype(np.float32)
        else:
            xp.multiply(t, factor.astype(t.dtype), t)


@scale_p.spec
def _(factor, *tensors):
    if factor.size != 1:
        raise ShapeError(f"scale: factor has shape {factor.shape}; wanted one element")
    for t in tensors:
        if not t.dtype.is_floating_point:
            raise DTypeError(f"scale: one of the tensors is {t.dtype}; wanted floating point")
    return ()


scale_p.nograd()
by_rows(scale_p, "scale", lambda: 1)


@face(scale_p)
def scale(tensors: Sequence[Tensor], factor: Tensor) -> tuple[Tensor, ...]:
    """Multiply all tensors by ``factor``, one element, in place; they are returned."""
    scale_p(factor, *tensors)
    return tuple(tensors)


@scale_p.cases
def _(make):
    yield dict(tensors=sample_table(make, 1)[0], factor=make(low=0.5))
    yield dict(tensors=[make(70000), make(0, 3)], factor=make(low=0.5))
    yield ShapeError, dict(tensors=[make(2)], factor=make(2))
    yield DTypeError, dict(tensors=[make.ints(2)], factor=make())


scale_p.ref(lambda tensors, factor: tuple(t * factor for t in tensors))
