"""Basic indices: the one view op behind x[2], x[1:3], x[None], select, narrow and unsqueeze. Floor 3.

Also its gradient, and what a write to a view does to its base.
"""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import STRIDED, Spec, format_in, spec_of
from tensorlite.autograd.tensor import Tensor, zeros_of
from tensorlite.shapes import dim_of, index


def viewed(x: Spec, shape: tuple, strides: tuple | None = None) -> Spec:
    """The spec of a view of x in another shape, with these strides in elements where they are known."""
    return spec_of(shape, x.dtype, x.device, STRIDED if strides is None else format_in(shape, strides))


def x_spec_zeros(spec: Spec, shape: tuple) -> Tensor:
    """Zeros of a shape beside a tensor of this spec."""
    return zeros_of(spec.like(*shape))


def encode(key: tuple) -> tuple:
    """A basic index as a hashable constant: slices as (start, stop, step)."""
    return tuple([(k.start, k.stop, k.step) if k.__class__ is slice else k for k in key])


def decode(key: tuple) -> tuple:
    return (*(slice(*k) if isinstance(k, tuple) else k for k in key), *(() if Ellipsis in key else (Ellipsis,)))


@primitive(view=True, name="slice")
def slice_p(xp, x, *, key):
    """x[key] for a key of integers, slices, None and Ellipsis."""
    return x[decode(key)]


@slice_p.bind
def _(xp, specs, outs, key):
    return itemgetter(decode(key))


@slice_p.spec
def _(x, *, key):
    try:
        sample = np.broadcast_to(np.int8(0), x.shape)[decode(key)]
    except IndexError as error:
        raise IndexError(f"getitem: {error}") from None
    if x.format is STRIDED:
        return viewed(x, sample.shape)
    return viewed(
        x, sample.shape, np.lib.stride_tricks.as_strided(np.empty(0, np.int8), x.shape, x.strides)[decode(key)].strides
    )


slice_p.grad(x=lambda g, x_spec, key: unslice_p(g, shape=x_spec.shape, key=key))


@slice_p.cases
def _(make):
    yield dict(x=make(4, 3), key=(0,))
    yield dict(x=make(4, 3), key=((1, 3, None), -1))
    yield dict(x=make(4, 3), key=(Ellipsis, None, (None, None, 2)))
    yield dict(x=make(4, 3), key=(1, 2))
    yield IndexError, dict(x=make(4, 3), key=(4,))


slice_p.ref(lambda x, key: np.array(list(x[decode(key)].ravel())).reshape(x[decode(key)].shape))
slice_p.op.torch = None


@primitive(name="unslice", torch=None, signals=False)
def unslice_p(xp, x, out, *, shape, key):
    """Zeros of this shape with x at key: the gradient of slice."""
    out.fill(0)
    out[decode(key)] = x


unslice_p.spec(lambda x, *, shape, key: x.like(*shape))
unslice_p.grad(x=lambda g, key: slice_p(g, key=key))


@unslice_p.cases
def _(make):
    yield dict(x=make(3), shape=(4, 3), key=(1,))
    yield dict(x=make(2, 3), shape=(4, 3), key=((1, 3, None),))


@unslice_p.ref
def _(x, shape, key):
    y = np.zeros(shape)
    y[decode(key)] += x
    return y


def slice_(x: Tensor, key: tuple) -> Tensor:
    """x[key] for a basic key."""
    return slice_p(x, key=encode(key))


@op(method=True)
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The part of ``length`` elements from ``start`` along dim. A view."""
    n = input._spec.ndim
    d = dim_of("narrow", dim, n)
    size = input._spec.shape[d]
    start = index("narrow", start)
    start = start + size if start < 0 else start
    if not 0 <= start <= start + length <= size:
        raise RuntimeError(f"narrow: start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return slice_(input, (slice(None),) * d + (slice(start, start + length),))


@narrow.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, start=1, length=2)
    yield dict(input=make(4, 3), dim=-1, start=-2, length=1)
    yield RuntimeError, dict(input=make(4, 3), dim=0, start=3, length=2)


narrow.ref(
    lambda input, dim, start, length: np.take(
        input, range(start % input.shape[dim], start % input.shape[dim] + length), dim
    )
)


@op(method=True)
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Row ``index`` of dimension dim, which is dropped. A view."""
    if not input._spec.ndim:
        raise IndexError("select: cannot be applied to a 0-dim tensor.")
    d = dim_of("select", dim, input._spec.ndim)
    size = input._spec.shape[d]
    if not -size <= index < size:
        raise IndexError(f"select: index {index} is out of range for dimension {d} with size {size}")
    return slice_(input, (slice(None),) * d + (int(index),))


@select.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=1)
    yield dict(input=make(4, 3), dim=1, index=-1)
    yield IndexError, dict(input=make(4, 3), dim=1, index=3)


select.ref(lambda input, dim, index: np.take(input, index, dim))


# ---- what a write to a view does to the base
@primitive(name="overwrite", torch=None, alias="elementwise", signals=False)
def overwrite_p(xp, x, w, out, *, path):
    """x with the part that the view ops of ``path`` lead to replaced by w."""
    if out is not x:
        w = w.copy() if xp.may_share_memory(out, w) else w
        xp.copyto(out, x)
    part = out
    for entry in path:
        part = entry.kernel(part)
    part[...] = w


overwrite_p.spec(lambda x, w, *, path: x.like(*x.shape))


def _follow(g, path):
    for entry in path:
        g = entry.op.function(g, **entry.kw)
    return g


overwrite_p.grad(
    x=lambda g, w_spec, path: overwrite_p(g, x_spec_zeros(w_spec, w_spec.shape), path=path),
    w=lambda g, path: _follow(g, path),
)


@overwrite_p.cases
def _(make):
    x = make(4, 3)
    yield dict(x=x, w=make(3), path=(slice_p.op.entry((x._spec,), {"key": (1,)}),))
    yield dict(x=x, w=make(4, 3), path=())


@overwrite_p.ref
def _(x, w, path):
    y = x.copy()
    y[1 if path else ...] = w
    return y


Tensor._overwrite = overwrite_p
