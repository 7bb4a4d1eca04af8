"""How arrays of images lie, for the kernels of convolutions and pooling. Floor 1."""

from __future__ import annotations

from typing import Any

from tensorlite.backends.launch.copy import magic

LIMIT = 2**31 - 2**12  # places in one image, which the kernels count with 32 bits
SUMS = {"f4": "float", "f8": "double", "f2": "float", "bf2": "float"}  # what is computed in


def steps(a: Any) -> tuple[int, ...]:
    """Strides in elements."""
    return tuple(s // a.itemsize for s in a.strides)


def readable(a: Any, whole: bool = False) -> Any:
    """The array (or None), or a copy without gaps where one image (or all of it) is too far spread to count in."""
    if a is None:
        return None
    first = 0 if whole else 1
    span = sum((n - 1) * abs(s) for n, s in zip(a.shape[first:], a.strides[first:]))
    if span < LIMIT * a.itemsize and all(s >= 0 and s % a.itemsize == 0 for s in a.strides) and a.ndim != 1:
        return a
    return a if a.flags.c_contiguous else a.copy(order="C")


def lying_last(a: Any) -> bool:
    """Whether channels are nearer to each other than pixels."""
    sizes, strides = a.shape, a.strides
    beside = min((s for n, s in zip(sizes[2:], strides[2:]) if n > 1), default=None)
    return sizes[1] > 1 and (beside is None or strides[1] < beside)


def divider(n: int) -> tuple[int, int, int]:
    """The numbers of device.cuh's FastDivider, the divisor first."""
    return n, *magic(n)
