"""Convolution layers. Floor 5."""

from __future__ import annotations

import math
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn import functional as F, init
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Parameter
from tensorlite.ops.conv import conv1d, conv2d
from tensorlite.ops.create import empty
from tensorlite.shapes import index

_MODES = ("zeros", "reflect", "replicate", "circular")


def sizes(name: str, value: Any, n: int) -> tuple[int, ...]:
    """n ints from one, or from a sequence of n."""
    if hasattr(value, "__iter__"):
        given = tuple(index(name, v) for v in value)
        if len(given) != n:
            raise ValueError(f"{name}: got {given}; wanted one integer or {n}")
        return given
    return (index(name, value),) * n


class _Conv(Module):
    dims: int
    transposed = False
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
        output_padding: Any = 0,
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
        self.kernel_size, self.stride = sizes(name, kernel_size, n), sizes(name, stride, n)
        self.dilation, self.padding_mode = sizes(name, dilation, n), padding_mode
        self.padding: Any = padding
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{padding}', should be one of {{'valid', 'same'}}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        else:
            self.padding = sizes(name, padding, n)
        self.output_padding = sizes(name, output_padding, n)
        features = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (features[0], features[1] // groups, *self.kernel_size)
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
        margins = [side for pair in reversed(self._margins()) for side in pair]
        return F.pad(input, margins, self.padding_mode), 0

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != (0,) * self.dims:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.dims:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != (0,) * self.dims:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


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


class _ConvTranspose(_Conv):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            output_padding,
        )

    def _extra(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output padding that makes the output this large."""
        if output_size is None:
            return self.output_padding
        name, n = type(self).__name__, self.dims
        wanted = tuple(output_size)
        if len(wanted) == input.ndim:
            wanted = wanted[-n:]
        if len(wanted) != n:
            raise ValueError(f"{name}: output_size {tuple(output_size)}; wanted {n} or {input.ndim} sizes")
        least = tuple(
            (size - 1) * s - 2 * p + d * (k - 1) + 1
            for size, s, p, d, k in zip(input.shape[-n:], self.stride, self.padding, self.dilation, self.kernel_size)
        )
        if any(not 0 <= w - m < s for w, m, s in zip(wanted, least, self.stride)):
            most = tuple(m + s - 1 for m, s in zip(least, self.stride))
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to {most} "
                f"(for an input of {tuple(input.shape[-n:])})"
            )
        return tuple(w - m for w, m in zip(wanted, least))


class ConvTranspose1d(_ConvTranspose):
    """What the gradient of a Conv1d does.  (N, C, L) or (C, L) -> (N, out_channels, L'); forward takes output_size."""

    dims = 1

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self._extra(input, output_size)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """What the gradient of a Conv2d does.  (N, C, H, W) or (C, H, W) -> (N, out_channels, H', W').

    H' = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1; forward also takes output_size,
    which settles output_padding.

    >>> import tensorlite as tl
    >>> up = tl.nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1)
    >>> up(tl.ones(2, 8, 5, 5), output_size=(10, 10)).shape
    tensorlite.Size([2, 3, 10, 10])
    """

    dims = 2

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self._extra(input, output_size)
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
