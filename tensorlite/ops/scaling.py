"""What a scaled loss needs on the device: its gradients unscaled, infinities found, the next scale. Floor 3.

Nothing is read on the host: whether there was an infinity or nan is a tensor, ``found_inf``, 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float32, int32
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.update import sample_table


def _check_single(name: str, **given: tuple) -> None:
    for what, (spec, dtype) in given.items():
        if spec.size != 1:
            raise ShapeError(f"{name}: {what} has shape {spec.shape}; wanted one element")
        if spec.dtype is not dtype:
            raise DTypeError(f"{name}: {what} is {spec.dtype.name}; wanted {dtype.name}")


# ---- unscaling
@primitive(
    name="amp_unscale",
    mutates=("found_inf", "grads"),
    torch=lambda torch, **case: _torch_unscale(torch, **case),
)
def amp_unscale_p(xp, scale, found_inf, *grads):
    """Every gradient divided by the scale, in place; found_inf becomes 1 where any of them has an inf or nan."""
    inverse = (1.0 / scale.astype(np.float64)).astype(np.float32)
    for g in grads:
        if not g.size:
            continue
        wide = g.astype(np.float32) if g.dtype.itemsize == 2 else g
        for most in (wide.max(), wide.min()):  # nan wins over all, so two numbers tell of all
            xp.maximum(found_inf, xp.logical_not(xp.isfinite(most)), out=found_inf)
        if wide is g:
            xp.multiply(g, inverse.astype(g.dtype), out=g)
        else:
            g[...] = wide * inverse


@amp_unscale_p.spec
def _(scale, found_inf, *grads):
    _check_single("amp_unscale", scale=(scale, float32), found_inf=(found_inf, float32))
    for g in grads:
        if not g.dtype.is_floating_point:
            raise DTypeError(f"amp_unscale: one of the gradients is {g.dtype}; wanted floating point")
    return ()


amp_unscale_p.nograd()
amp_unscale_p.kernel("cuda", "scaling.amp_unscale", "", formats=ANY)


@face(amp_unscale_p)
def amp_unscale(grads: Sequence[Tensor], found_inf: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Divide gradients by ``scale``, in place, and write 1 to ``found_inf`` where one of them has an inf or nan.

    scale and found_inf: one element, float32; found_inf is not set back to 0. Returned: found_inf, then the gradients.
    """
    amp_unscale_p(scale, found_inf, *grads)
    return (found_inf, *grads)


@amp_unscale_p.cases
def _(make):
    def case(grads: list, scale: float = 8.0, found: float = 0.0) -> dict:
        return dict(grads=grads, found_inf=make.tensor(found, float32), scale=make.tensor(scale, float32))

    yield case(sample_table(make, 1)[0])
    yield case(sample_table(make, 1)[0], found=1.0)
    yield case([make(3), make.tensor([1.0, np.inf, 2.0])])
    yield case([make.tensor([-np.inf, 2.0]), make(2, 0)])
    yield case([make.tensor([[1.0], [np.nan]]), make(3)], scale=0.5)
    yield case([])
    yield DTypeError, case([make.ints(3)])
    yield ShapeError, dict(grads=[make(2)], found_inf=make.tensor([0.0, 0.0], float32), scale=make.tensor(1.0, float32))


@amp_unscale_p.ref
def _(grads, found_inf, scale):
    found = float(found_inf) or float(any(not np.isfinite(g).all() for g in grads))
    return (np.array(found), *(g / scale for g in grads))


def _torch_unscale(torch, grads, found_inf, scale):
    if grads:
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found_inf, scale.double().reciprocal().float())
    return (found_inf, *grads)


# ---- the next scale
@primitive(
    name="amp_update_scale",
    mutates=("scale", "growth_tracker"),
    torch=lambda torch, **case: _torch_update(torch, **case),
)
def amp_update_scale_p(xp, scale, growth_tracker, *found_infs, growth_factor, backoff_factor, growth_interval):
    """Shrink the scale where an infinity was found; grow it where none was in so many steps; count those steps."""
    found = xp.zeros_like(scale, dtype=bool)
    for f in found_infs:
        found = xp.logical_or(found, f.reshape(scale.shape) != 0)
    steps = xp.where(found, 0, growth_tracker.reshape(scale.shape) + 1)
    full = steps == growth_interval
    grown = scale * np.float32(growth_factor)
    grown = xp.where(xp.logical_and(full, xp.isfinite(grown)), grown, scale)
    scale[...] = xp.where(found, scale * np.float32(backoff_factor), grown)
    growth_tracker[...] = xp.where(full, 0, steps).reshape(growth_tracker.shape)


@amp_update_scale_p.spec
def _(scale, growth_tracker, *found_infs, growth_factor, backoff_factor, growth_interval):
    name = "amp_update_scale"
    _check_single(name, scale=(scale, float32), growth_tracker=(growth_tracker, int32))
    if not found_infs:
        raise ShapeError(f"{name}: got no found_inf; wanted one at least")
    for f in found_infs:
        _check_single(name, found_inf=(f, float32))
    return ()


amp_update_scale_p.nograd()
amp_update_scale_p.kernel(
    "cuda", "scaling.amp_update_scale", "", when=lambda *specs, **kw: len(specs) <= 10, formats=ANY
)


@face(amp_update_scale_p)
def amp_update_scale(
    scale: Tensor,
    growth_tracker: Tensor,
    found_infs: Sequence[Tensor],
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
) -> tuple[Tensor, Tensor]:
    """Give scale its value for the next step, in place: scale and growth_tracker, which are returned.

    Where any found_inf is not 0: scale backoff_factor, and the count of good steps, growth_tracker, begins anew. Else
    one more step is counted, and at growth_interval the scale becomes scale growth_factor, if that is finite.
    """
    amp_update_scale_p(
        scale,
        growth_tracker,
        *found_infs,
        growth_factor=float(growth_factor),
        backoff_factor=float(backoff_factor),
        growth_interval=int(growth_interval),
    )
    return scale, growth_tracker


@amp_update_scale_p.cases
def _(make):
    def case(scale: float, steps: int, *found: float, **how: float) -> dict:
        return dict(
            scale=make.tensor(scale, float32),
            growth_tracker=make.tensor(steps, int32),
            found_infs=[make.tensor(f, float32) for f in found],
            **how,
        )

    yield case(1024.0, 3, 0.0)
    yield case(1024.0, 3, 1.0)
    yield case(1024.0, 3, 0.0, 1.0, backoff_factor=0.25)
    yield case(1024.0, 3, 0.0, growth_interval=4, growth_factor=3.0)
    yield case(3e38, 1, 0.0, growth_interval=2)
    yield ShapeError, case(1024.0, 3)
    yield DTypeError, case(1024.0, 3, 0.0) | dict(growth_tracker=make.tensor(3.0, float32))


@amp_update_scale_p.ref
def _(scale, growth_tracker, found_infs, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000):
    if any(found_infs):
        return scale * backoff_factor, np.array(0)
    if growth_tracker + 1 < growth_interval:
        return scale, growth_tracker + 1
    grown = scale * growth_factor
    return (grown if grown < 2.0**128 else scale), np.array(0)


def _torch_update(torch, scale, growth_tracker, found_infs, **how):
    settings = dict(growth_factor=2.0, backoff_factor=0.5, growth_interval=2000) | how
    torch._amp_update_scale_(
        scale,
        growth_tracker,
        sum(found_infs),
        settings["growth_factor"],
        settings["backoff_factor"],
        settings["growth_interval"],
    )
    return scale, growth_tracker
