"""Copies, and the same values in another dtype or on another device. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import attach_method, face, method
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import (
    CHANNELS_LAST,
    CONTIGUOUS,
    PRESERVE,
    STRIDED,
    Spec,
    asked_format,
    spec_of,
)
from tensorlite.autograd.tensor import Tensor, copied, from_array, lies
from tensorlite.backends import CPU, Device, in_pinned_memory, located, pinned, put
from tensorlite.dtypes import as_dtype

boolean = dtypes.bool


@primitive(name="cast", alias="elementwise", torch=lambda torch, x, dtype: x.to(dtype))
def cast_p(xp, x, out, *, dtype):
    """x in another dtype. Floats lose their fraction on the way to integers."""
    xp.copyto(out, x, casting="unsafe")


@cast_p.spec
def _(x, *, dtype):
    return spec_of(x.shape, dtype, x.device, x.packed().format)


cast_p.kernel("cuda", "elementwise.cast", "", formats=ANY)
cast_p.grad(x=lambda g, x_spec: g.to(x_spec.dtype))


@cast_p.cases
def _(make):
    yield dict(x=make(3, 4), dtype=dtypes.float64)
    yield dict(x=make(3, low=0), dtype=dtypes.int32)
    yield dict(x=make.ints(3), dtype=boolean)
    yield dict(x=make.bools(3), dtype=dtypes.float32)


@cast_p.ref
def _(x, dtype):
    return x != 0 if dtype is boolean else np.trunc(x) if not dtype.is_floating_point else x * 1.0


@face(cast_p)
def cast(x: Tensor, *, dtype: Any) -> Tensor:
    """x in another dtype; the gradient ends where that is not a floating-point one."""
    return cast_p(x if dtype.is_floating_point else x.detach(), dtype=dtype)


@primitive(name="clone", alias="elementwise", signals=False)
def clone_p(xp, x, out):
    """A copy that lies as x does."""
    xp.copyto(out, x)


@clone_p.bind
def _(xp, specs, outs):
    return (None, copied) if specs[0].format is STRIDED else None


clone_p.spec(lambda x: x)
clone_p.grad(x=lambda g: g)


def _copy(compiled, xp, x, out, **how):
    """The compiled copy, where elements lie at multiples of their size."""
    compiled(x, out) if x.flags.aligned else xp.copyto(out, x)


def _moves_much(x: Spec, **how: Any) -> bool:
    """Whether the compiled copy is worth its call: NumPy is as quick at copying runs."""
    return (x.format is not CONTIGUOUS or "format" in how) and x.size >= 2048 and x.ndim <= 16


clone_p.kernel("cpu", "clone", when=_moves_much, around=_copy)
clone_p.kernel("cuda", "elementwise.clone", "", formats=ANY)


@clone_p.cases
def _(make):
    yield dict(x=make(3, 4))
    yield dict(x=make())
    yield dict(x=make.ints(3))


clone_p.ref(lambda x: x + 0 if x.dtype != bool else x)


@face(clone_p, method=True)
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own storage, on the tape."""
    if memory_format is None:
        return clone_p(input)
    format = asked_format("clone", memory_format, input._spec.ndim)
    return clone_p(input) if format is PRESERVE else laid_p(input, format=format)


@primitive(
    name="laid",
    alias="elementwise",
    signals=False,
    torch=lambda torch, x, format: x.clone(memory_format=getattr(torch, _TORCH[format])),
)
def laid_p(xp, x, out, *, format):
    """A copy in a memory format."""
    xp.copyto(out, x)


_TORCH = {CONTIGUOUS: "contiguous_format", CHANNELS_LAST: "channels_last"}
laid_p.spec(lambda x, *, format: x.laid(format))
laid_p.grad(x=lambda g: g)
laid_p.kernel("cpu", "clone", when=_moves_much, around=_copy)
laid_p.kernel("cuda", "elementwise.laid", "", formats=ANY)


@laid_p.cases
def _(make):
    yield dict(x=make(2, 3, 4, 2), format=CHANNELS_LAST)
    yield dict(x=make.ints(2, 3, 1, 1), format=CHANNELS_LAST)
    yield dict(x=make(2, 3, 0, 2), format=CHANNELS_LAST)
    yield dict(x=make(3, 4), format=CONTIGUOUS)


laid_p.ref(lambda x, format: np.array(x.tolist(), x.dtype).reshape(x.shape))


@face(laid_p)
def laid(x: Tensor, *, format: str) -> Tensor:
    """A copy in a memory format; the gradient comes back as it is."""
    return laid_p(x, format=format)


def laid_as(x: Tensor, like: Spec) -> Tensor:
    """x in the memory format of ``like`` (contiguous where that is not known): itself where it lies so."""
    spec = x._spec.laid(like.packed().format)
    return x if x._spec is spec else laid_p(x, format=spec.format)


@primitive(name="to_device", signals=False, torch=None)
def transfer_p(xp, x, out, *, device, wait):
    """x on another device. Without ``wait`` the copy from pinned memory goes on behind the program's back."""
    put(out, x, wait)


transfer_p.op.moves = True
transfer_p.spec(lambda x, *, device, wait: spec_of(x.shape, x.dtype, device, x.packed().format))
transfer_p.grad(x=lambda g, x_spec: g.to(device=x_spec.device))


@transfer_p.cases
def _(make):
    yield dict(x=make(3, 4), device=CPU, wait=True)
    yield dict(x=make.ints(3), device=CPU, wait=False)


transfer_p.ref(lambda x, device, wait: x)


@method()
def contiguous(self: Tensor, memory_format: Any = None) -> Tensor:
    """Itself where its elements lie in C order (or in the memory format), else a copy in which they do."""
    if memory_format is None:
        return self if self._spec.format is CONTIGUOUS or lies(self, CONTIGUOUS) else laid_p(self, format=CONTIGUOUS)
    format = asked_format("contiguous", memory_format, self._spec.ndim)
    if lies(self, CONTIGUOUS if format is PRESERVE else format):
        return self
    if format is PRESERVE:
        raise RuntimeError("contiguous: got preserve_format; wanted another (unsupported by the contiguous operator)")
    return laid_p(self, format=format)


@method()
def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """This tensor in a dtype and on a device, itself where nothing changes: ``x.to(tl.float16)``, ``x.to("cpu")``."""
    for a in args:
        if isinstance(a, Tensor):
            dtype, device = a._spec.dtype, a._spec.device
        elif isinstance(a, Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
            device = a
        elif isinstance(a, bool):
            non_blocking = a
        elif a is not None:
            dtype = a
    if device is not None and (place := located(device)) is not self._spec.device:
        moved = transfer_p(self, device=place, wait=not non_blocking)
        return moved.to(dtype=dtype, memory_format=memory_format)
    spec = self._spec
    d = spec.dtype if dtype is None else dtype if isinstance(dtype, dtypes.dtype) else as_dtype(dtype, "to")
    if memory_format is not None:
        format = asked_format("to", memory_format, spec.ndim)
        if format is not PRESERVE:
            x = self if d is spec.dtype else cast(self, dtype=d)
            if copy and x is self:
                return laid_p(x, format=format)
            return x.contiguous(memory_format)
    if d is not spec.dtype:
        return cast(self, dtype=d)
    return clone_p(self) if copy else self


def _caster(name: str, d: dtypes.dtype):
    def cast(self: Tensor, memory_format: Any = None) -> Tensor:
        return self.to(d, memory_format=memory_format)

    cast.__name__ = cast.__qualname__ = name
    cast.__doc__ = f"This tensor as {d.name}; itself where it is that already."
    attach_method(name, cast)


for _name, _dtype in (
    ("float", dtypes.float32),
    ("double", dtypes.float64),
    ("half", dtypes.float16),
    ("bfloat16", dtypes.bfloat16),
    ("long", dtypes.int64),
    ("int", dtypes.int32),
    ("short", dtypes.int16),
    ("char", dtypes.int8),
    ("byte", dtypes.uint8),
    ("bool", boolean),
):
    _caster(_name, _dtype)


@method()
def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """This tensor on the CPU."""
    return self.to("cpu", memory_format=memory_format)


@method()
def cuda(self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
    """This tensor on a GPU."""
    return self.to("cuda" if device is None else device, non_blocking=non_blocking, memory_format=memory_format)


@method()
def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """This CPU tensor in memory that a GPU reads by itself: itself where it is there already.

    Raises:
        RuntimeError: where there is no GPU, or the tensor is on one.
    """
    if self._spec.device is not CPU:
        raise RuntimeError(f"pin_memory: got a tensor on {self._spec.device}; only dense CPU tensors can be pinned")
    return self if is_pinned(self) else from_array(pinned(self._arr))


@method()
def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether this tensor is in pinned memory."""
    return self._spec.device is CPU and in_pinned_memory(self._arr)


@method()
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in the dtype of another."""
    return self.to(other.dtype)
