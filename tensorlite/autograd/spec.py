"""What is known of a tensor without its numbers. Floor 2.

A memory format says how the elements lie. CONTIGUOUS: in C order. CHANNELS_LAST: 4-D tensors (N, C, H, W) whose memory
is in the order (N, H, W, C). STRIDED: nothing is known. Where both of the first hold (C = 1, or H = W = 1, or no
elements), the format is CONTIGUOUS.
"""

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends import CPU, Device, backend
from tensorlite.dtypes import dtype
from tensorlite.errors import ShapeError

CONTIGUOUS, CHANNELS_LAST, STRIDED = "contiguous", "channels_last", "strided"
PRESERVE = "preserve"  # of no spec: what a copy is asked for


class memory_format:
    """How a tensor's elements shall lie: ``channels_last`` and its like, as arguments of ``x.to(memory_format=...)``.

    >>> import tensorlite as tl
    >>> tl.empty(2, 3, 4, 5, memory_format=tl.channels_last).stride()
    (60, 1, 15, 3)
    """

    __slots__ = ("format", "name")

    def __init__(self, name: str, format: str):
        self.name, self.format = name, format

    def __repr__(self) -> str:
        return f"tensorlite.{self.name}"

    def __reduce__(self) -> str:
        return self.name  # one object each: pickle and deepcopy look it up in this module


contiguous_format = memory_format("contiguous_format", CONTIGUOUS)
channels_last = memory_format("channels_last", CHANNELS_LAST)
channels_last_3d = memory_format("channels_last_3d", "channels_last_3d")
preserve_format = memory_format("preserve_format", PRESERVE)


def asked_format(name: str, given: Any, ndim: int) -> str:
    """The format that the argument ``memory_format`` of ``name`` asks for; None stands for preserve_format."""
    if given is None:
        return PRESERVE
    if not isinstance(given, memory_format):
        raise TypeError(f"{name}: memory_format is {type(given).__name__}; must be tensorlite.memory_format")
    if given is channels_last_3d:
        raise NotImplementedError(f"{name}: memory_format channels_last_3d is not supported; wanted channels_last")
    if given is channels_last and ndim != 4:
        raise ShapeError(f"{name}: got {ndim} dimensions; required rank 4 tensor to use channels_last format")
    return given.format


class Spec:
    """Shape, dtype, device and memory format of a tensor.

    Interned: equal specs are one object, so caches look them up by identity. ``format`` is CONTIGUOUS or CHANNELS_LAST
    only where that is known; STRIDED means that nothing is known of the strides.
    """

    __slots__ = ("device", "dtype", "empty", "format", "ndim", "shape", "size")

    shape: tuple[int, ...]
    dtype: dtype
    device: Device
    format: str
    ndim: int
    size: int
    empty: Callable

    def like(self, *shape: int, dtype: dtype | None = None) -> "Spec":
        """A contiguous spec on the same device, of the same dtype unless one is given."""
        return spec_of(shape, dtype or self.dtype, self.device)

    def laid(self, format: str) -> "Spec":
        """The same in a memory format, such as that of an input: ``x.like(n, c, h, w).laid(format_of(x, w))``."""
        return self if format is self.format else spec_of(self.shape, self.dtype, self.device, format)

    def packed(self) -> "Spec":
        """The same, contiguous where nothing is known of the strides: for outputs that lie as their input does."""
        return self.laid(CONTIGUOUS) if self.format is STRIDED else self

    def strided(self) -> "Spec":
        return spec_of(self.shape, self.dtype, self.device, STRIDED)

    @property
    def strides(self) -> tuple[int, ...] | None:
        """Steps between neighbours, in elements; None where they are not known."""
        return None if self.format is STRIDED else strides_in(self.shape, self.format)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


_known: dict = {}


def spec_of(shape: tuple, dtype: dtype, device: Device = CPU, format: str = CONTIGUOUS) -> Spec:
    """The one Spec with these contents."""
    key = (shape, dtype, device, format)
    spec = _known.get(key)
    if spec is None:
        if len(_known) > 100_000:  # losing a spec costs cache misses, never a wrong answer
            _known.clear()
        if format is CHANNELS_LAST:
            if len(shape) != 4:
                raise ValueError(f"memory format channels_last: got shape {shape}; wanted 4 dimensions")
            if shape[1] == 1 or shape[2] * shape[3] == 1 or 0 in shape:
                spec = _known[key] = spec_of(shape, dtype, device)
                return spec
        spec = Spec()
        spec.shape, spec.dtype, spec.device, spec.format = shape, dtype, device, format
        spec.ndim, spec.size = len(shape), math.prod(shape)
        steps = None if format is not CHANNELS_LAST else tuple(s * dtype.itemsize for s in spec.strides)
        spec.empty = backend(device).maker(shape, dtype.np, steps)
        _known[key] = spec
    return spec


def format_like(name: str, given: Any, spec: Spec) -> str:
    """The format of a new tensor like one of this spec: ``given``, or by default that tensor's own."""
    format = asked_format(name, given, spec.ndim)
    return spec.packed().format if format is PRESERVE else format


def strides_in(shape: tuple, format: str) -> tuple[int, ...]:
    """The strides, in elements, of a shape in CONTIGUOUS or CHANNELS_LAST."""
    strides, step = [0] * len(shape), 1
    for d in _order(len(shape), format):
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)


def format_in(shape: tuple, strides: tuple) -> str:
    """The memory format of a shape with these strides in elements."""
    if lies_in(shape, strides, CONTIGUOUS):
        return CONTIGUOUS
    return CHANNELS_LAST if len(shape) == 4 and lies_in(shape, strides, CHANNELS_LAST) else STRIDED


def lies_in(shape: tuple, strides: tuple, format: str) -> bool:
    """Whether a shape with these strides is in a format; strides of sizes 1 do not matter."""
    return 0 in shape or all(n == 1 or a == b for n, a, b in zip(shape, strides, strides_in(shape, format)))


def format_of(*specs: Spec | None) -> str:
    """The format of the result of an element-wise op, and of others that follow one input: PyTorch's rule.

    Where inputs differ, the first that tells two dimensions apart says which of them lies closer in memory: an input
    in channels_last with a bias (C, 1, 1) or a number gives channels_last. Inputs whose strides are not known (often
    expanded, as the gradient of a mean) are passed over if another has the shape of the result.
    """
    given = [s for s in specs if s is not None]
    formats = {s.format for s in given}
    if len(formats) == 1 and CHANNELS_LAST not in formats:
        return given[0].format
    if any(not s.size for s in given):
        return CONTIGUOUS
    n = max(s.ndim for s in given)
    shape = tuple(max(s.shape[d - n + s.ndim] if d >= n - s.ndim else 1 for s in given) for d in range(n))
    if STRIDED in formats:
        given = [s for s in given if s.format is not STRIDED]
        if all(s.shape != shape for s in given):
            return STRIDED
    if all(s.format is CONTIGUOUS for s in given):
        return CONTIGUOUS
    rows = []
    for s in given:
        lead = n - s.ndim
        rows.append([0] * lead + [0 if size == 1 else step for size, step in zip(s.shape, s.strides)])
    # PyTorch's insertion sort over the dimensions, from the last to the first: where no input tells, they stay
    order = list(reversed(range(n)))
    for i in range(1, n):
        at = i
        for k in reversed(range(i)):
            swap = _closer(rows, order[k], order[at])
            if swap > 0:
                order[k], order[at] = order[at], order[k]
                at = k
            elif swap < 0:
                break
    strides, step = [0] * n, 1
    for d in order:
        strides[d] = step
        step *= max(shape[d], 1)
    return format_in(shape, tuple(strides))


def _closer(rows: list, a: int, b: int) -> int:
    """1 where dimension b lies closer in memory than a, -1 where a does, 0 where no input tells."""
    for steps in rows:
        if steps[a] and steps[b] and steps[a] != steps[b]:
            return 1 if steps[a] > steps[b] else -1
    return 0


def _order(ndim: int, format: str) -> tuple | range:
    """The dimensions from the one whose neighbours lie closest to the outermost."""
    return (1, 3, 2, 0) if format is CHANNELS_LAST else range(ndim - 1, -1, -1)
