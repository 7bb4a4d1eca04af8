"""Padding layers. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn import functional as F
from tensorlite.nn.module import Module
from tensorlite.shapes import index


class _Pad(Module):
    """``padding`` is (left, right) or (left, right, top, bottom), or one number for every side."""

    dims: int
    mode: str

    def __init__(self, padding: Any):
        super().__init__()
        sides = 2 * self.dims
        self.padding = tuple(padding) if isinstance(padding, (tuple, list)) else (index("padding", padding),) * sides
        if len(self.padding) != sides:
            raise ValueError(f"{type(self).__name__}: padding {self.padding}; wanted one integer or {sides}")

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Any):
        super().__init__(padding, 0.0)

    extra_repr = _Pad.extra_repr


class ConstantPad1d(_ConstantPad):
    """``value`` before and after the last dimension."""

    dims = 1


class ConstantPad2d(_ConstantPad):
    """``value`` around the last two dimensions.

    >>> import tensorlite as tl
    >>> tl.nn.ConstantPad2d((1, 0, 0, 1), 7.0)(tl.ones(1, 1, 2))
    tensor([[[7., 1., 1.],
             [7., 7., 7.]]])
    """

    dims = 2


class ZeroPad1d(_ZeroPad):
    """Zeros before and after the last dimension."""

    dims = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around the last two dimensions."""

    dims = 2


class ReflectionPad1d(_Pad):
    """The signal mirrored at its ends."""

    dims, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The image mirrored at its edges."""

    dims, mode = 2, "reflect"


class ReplicationPad1d(_Pad):
    """The signal's first and last elements repeated."""

    dims, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The image's outermost elements repeated."""

    dims, mode = 2, "replicate"


class CircularPad1d(_Pad):
    """The signal going on at its other end."""

    dims, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The image going on at its other edges."""

    dims, mode = 2, "circular"
