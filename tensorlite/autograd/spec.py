"""What is known of a tensor without its numbers. Floor 2."""

import math
from collections.abc import Callable

from tensorlite.backends import CPU, Device, backend
from tensorlite.dtypes import dtype

CONTIGUOUS, CHANNELS_LAST, STRIDED = "contiguous", "channels_last", "strided"


class Spec:
    """Shape, dtype, device and memory format of a tensor.

    Interned: equal specs are one object, so caches look them up by identity. ``format`` is CONTIGUOUS only where that
    is known; STRIDED means that nothing is known of the strides.
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

    def strided(self) -> "Spec":
        return spec_of(self.shape, self.dtype, self.device, STRIDED)

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
        spec = Spec()
        spec.shape, spec.dtype, spec.device, spec.format = shape, dtype, device, format
        spec.ndim, spec.size = len(shape), math.prod(shape)
        spec.empty = backend(device).maker(shape, dtype.np)
        _known[key] = spec
    return spec
