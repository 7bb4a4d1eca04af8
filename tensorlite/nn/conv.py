"""Convolution layers. Floor 5."""

from __future__ import annotations

import math
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn import init
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Parameter
from tensorlite.ops.conv import conv1d, conv2d
from tensorlite.ops.create import empty
from tensorlite.ops.join import cat
from tensorlite.shapes import index

_MODES = ("zeros", "reflect", "replicate", "circular")


def _sizes(name: str, value: Any, n: int) -> tuple[int, ...]:
    """n ints from one, or from a sequence of n."""
    if hasattr(value, "__iter__"):
        sizes = tuple(index(name, v) for v in value)
        if len(sizes) != n:
            raise ValueError(f"{name}: got {sizes}; wanted one integer or {n}")
        return sizes
    return (index(name, value),) * n


class _Conv(Module):
    dims: int
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        name, n = type(self).__name__, self.dims
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {set(_MODES)}, but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _sizes(name, kernel_size, n), _sizes(name, stride, n)
        self.dilation, self.padding_mode = _sizes(name, dilation, n), padding_mode
        self.padding: Any = padding
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{padding}', should be one of {{'valid', 'same'}}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        else:
            self.padding = _sizes(name, padding, n)
        self.transposed, self.output_padding = False, (0,) * n
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew: uniform in +-1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            if fan_in:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def _margins(self) -> list[tuple[int, int]]:
        """How much goes before and after, for each dimension."""
        if self.padding == "valid":
            return [(0, 0)] * self.dims
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            return [(t // 2, t - t // 2) for t in total]
        return [(p, p) for p in self.padding]

    def _padded(self, input: Tensor) -> tuple[Tensor, Any]:
        """The input, extended where the mode is not zeros, and the padding that is left to do."""
        if self.padding_mode == "zeros":
            return input, self.padding
        for k, (before, after) in enumerate(self._margins()):
            input = _extended(input, input.ndim - self.dims + k, before, after, self.padding_mode)
        return input, 0

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != (0,) * self.dims:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.dims:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


def _extended(x: Tensor, dim: int, before: int, after: int, mode: str) -> Tensor:
    """``x`` with what the mode puts before and after it along ``dim``."""
    n = x.shape[dim]
    if max(before, after) > (n - 1 if mode == "reflect" else n) and mode != "replicate":
        raise RuntimeError(
            f"pad: {mode} padding of ({before}, {after}) at dimension {dim} of {tuple(x.shape)}; wanted "
            f"at most {n - 1 if mode == 'reflect' else n}"
        )
    if mode == "circular":
        left, right = x.narrow(dim, n - before, before), x.narrow(dim, 0, after)
    elif mode == "reflect":
        left, right = x.narrow(dim, 1, before).flip(dim), x.narrow(dim, n - 1 - after, after).flip(dim)
    else:
        left, right = (
            x.narrow(dim, at, 1).expand([m if k == dim else -1 for k in range(x.ndim)])
            for at, m in ((0, before), (n - 1, after))
        )
    return cat([left, x, right], dim)


class Conv1d(_Conv):
    """Convolution over the last dimension.  (N, C, L) or (C, L) -> (N, out_channels, L')."""

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return conv1d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Convolution over the last two dimensions.  (N, C, H, W) or (C, H, W) -> (N, out_channels, H', W').

    >>> import tensorlite as tl
    >>> tl.nn.Conv2d(3, 8, 3, padding=1)(tl.ones(2, 3, 5, 5)).shape
    tensorlite.Size([2, 8, 5, 5])
    """

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        input, padding = self._padded(input)
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
