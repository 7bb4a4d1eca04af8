"""Pooling and transposed convolution of signals (N, C, L): those of images one pixel high. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.conv import conv_transpose2d
from tensorlite.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tensorlite.shapes import index


def _one(name: str, value: Any, what: str) -> int:
    """An integer, or the one in a sequence."""
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise ShapeError(f"{name}: {what} {tuple(value)}; {what} should contain one int")
        value = value[0]
    return index(name, value)


def _image(name: str, input: Tensor) -> Tensor:
    x = input._spec
    if x.ndim not in (2, 3) or 0 in x.shape[-2:]:
        raise ShapeError(
            f"{name}: input {x.shape}; expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input"
        )
    return input.unsqueeze(-2)


def _flat(y: Any) -> Any:
    return tuple(map(_flat, y)) if isinstance(y, tuple) else y.squeeze(-2)


@op(torch="nn.functional.max_pool1d")
def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (N, C, L) or (C, L); with ``return_indices`` also where it is.

    >>> import tensorlite as tl
    >>> tl.nn.functional.max_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[3., 2.]])
    """
    name = "max_pool1d"
    kernel = _one(name, kernel_size, "kernel_size")
    step = kernel if stride is None or stride in ((), []) else _one(name, stride, "stride")
    pad, apart = _one(name, padding, "padding"), _one(name, dilation, "dilation")
    x = _image(name, input)
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {x.dtype}; wanted a floating-point dtype (not implemented for integers)")
    return _flat(max_pool2d(x, (1, kernel), (1, step), (0, pad), (1, apart), ceil_mode, return_indices))


@op(torch="nn.functional.avg_pool1d")
def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of (N, C, L) or (C, L); padding counts as zeros, or with ``count_include_pad=False`` not.

    >>> import tensorlite as tl
    >>> tl.nn.functional.avg_pool1d(tl.tensor([[1.0, 3.0, 2.0, 0.0]]), 2)
    tensor([[2., 1.]])
    """
    name = "avg_pool1d"
    kernel = _one(name, kernel_size, "kernel_size")
    step = kernel if stride is None or stride in ((), []) else _one(name, stride, "stride")
    pad = _one(name, padding, "padding")
    return _flat(avg_pool2d(_image(name, input), (1, kernel), (1, step), (0, pad), ceil_mode, count_include_pad))


@op(torch="nn.functional.adaptive_avg_pool1d")
def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """The means of ``output_size`` windows that together cover the signal."""
    size = _one("adaptive_avg_pool1d", output_size, "output_size")
    return _flat(adaptive_avg_pool2d(_image("adaptive_avg_pool1d", input), (1, size)))


@op(torch="nn.functional.adaptive_max_pool1d")
def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of ``output_size`` windows that together cover the signal; and where they are."""
    size = _one("adaptive_max_pool1d", output_size, "output_size")
    return _flat(adaptive_max_pool2d(_image("adaptive_max_pool1d", input), (1, size), return_indices))


@max_pool1d.cases
def _(make):
    yield dict(input=make.distinct(2, 3, 6), kernel_size=2)
    yield dict(input=make.distinct(3, 7), kernel_size=3, stride=2, padding=1, return_indices=True)
    yield dict(input=make.distinct(2, 2, 8), kernel_size=(2,), stride=[1], dilation=3, return_indices=True)
    yield dict(input=make.distinct(1, 2, 5), kernel_size=2, ceil_mode=True)
    yield dict(input=make.distinct(0, 2, 5), kernel_size=2)
    yield RuntimeError, dict(input=make(5), kernel_size=2)
    yield RuntimeError, dict(input=make(2, 5), kernel_size=2, padding=2)
    yield RuntimeError, dict(input=make(2, 5), kernel_size=(2, 2))
    yield RuntimeError, dict(input=make(2, 1), kernel_size=2)
    yield RuntimeError, dict(input=make(2, 5), kernel_size=2, stride=0)
    yield RuntimeError, dict(input=make.ints(2, 5), kernel_size=2)


@avg_pool1d.cases
def _(make):
    yield dict(input=make(2, 3, 6), kernel_size=2)
    yield dict(input=make(3, 7), kernel_size=3, stride=2, padding=1)
    yield dict(input=make(3, 7), kernel_size=3, stride=2, padding=1, count_include_pad=False)
    yield dict(input=make(1, 2, 5), kernel_size=(2,), ceil_mode=True)
    yield RuntimeError, dict(input=make(5), kernel_size=2)
    yield RuntimeError, dict(input=make(2, 5), kernel_size=2, padding=2)
    yield dict(input=make.ints(2, 5), kernel_size=2)


@adaptive_avg_pool1d.cases
@adaptive_max_pool1d.cases
def _(make):
    yield dict(input=make.distinct(2, 3, 6), output_size=3)
    yield dict(input=make.distinct(2, 7), output_size=(3,))
    yield dict(input=make.distinct(2, 3), output_size=5)
    yield RuntimeError, dict(input=make(5), output_size=2)
    yield RuntimeError, dict(input=make.ints(2, 5), output_size=2)


@adaptive_max_pool1d.cases
def _(make):
    yield dict(input=make.distinct(2, 3, 7), output_size=3, return_indices=True)


def _reach(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> list:
    """The elements that each window shows."""
    windows, start = [], -p
    while start + d * (k - 1) < n + p or (ceil and start < n and windows and windows[-1][-1] < n + p - 1):
        windows.append([start + d * t for t in range(k)])
        start += s
    return windows


@max_pool1d.ref
def _(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    k, s = np.ravel(kernel_size)[0], np.ravel(kernel_size if stride is None else stride)[0]
    y, at = [], []
    for window in _reach(input.shape[-1], k, s, padding, dilation, ceil_mode):
        inside = [i for i in window if 0 <= i < input.shape[-1]]
        y.append(input[..., inside].max(-1))
        at.append(np.array(inside)[input[..., inside].argmax(-1)])
    return (np.stack(y, -1), np.stack(at, -1)) if return_indices else np.stack(y, -1)


@avg_pool1d.ref
def _(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    k, s, n = np.ravel(kernel_size)[0], np.ravel(kernel_size if stride is None else stride)[0], input.shape[-1]
    y = []
    for window in _reach(n, k, s, padding, 1, ceil_mode):
        inside = [i for i in window if 0 <= i < n]
        count = len([i for i in window if i < n + padding]) if count_include_pad else len(inside)
        y.append(input[..., inside].sum(-1) / count)
    return np.stack(y, -1).astype(input.dtype)


def _adaptive(input, output_size, how):
    n, o = input.shape[-1], np.ravel(output_size)[0]
    return np.stack([how(input[..., k * n // o : -(-(k + 1) * n // o)], k * n // o) for k in range(o)], -1)


adaptive_avg_pool1d.ref(lambda input, output_size: _adaptive(input, output_size, lambda part, at: part.mean(-1)))


@adaptive_max_pool1d.ref
def _(input, output_size, return_indices=False):
    y = _adaptive(input, output_size, lambda part, at: part.max(-1))
    return (y, _adaptive(input, output_size, lambda part, at: part.argmax(-1) + at)) if return_indices else y


@op(torch="nn.functional.conv_transpose1d")
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The transposed convolution: what the gradient of ``conv1d`` does to a signal.

    input (N, C, L) or (C, L), weight (C, O / groups, K), bias (O,) or None -> (N, O, OL) with
    OL = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1.
    """
    name = "conv_transpose1d"
    if weight._spec.ndim != 3 or input._spec.ndim not in (2, 3):
        raise ShapeError(
            f"{name}: input {input._spec.shape}, weight {weight._spec.shape}; expected 2D (unbatched) or 3D (batched) "
            f"input to {name} and a weight of 3 dimensions"
        )
    s, p, e, d = (
        _one(name, v, k)
        for k, v in dict(stride=stride, padding=padding, output_padding=output_padding, dilation=dilation).items()
    )
    x = input.unsqueeze(-2)
    return conv_transpose2d(x, weight.unsqueeze(2), bias, (1, s), (0, p), (0, e), groups, (1, d)).squeeze(-2)


@conv_transpose1d.cases
def _(make):
    yield dict(input=make(2, 3, 5), weight=make(3, 2, 3), bias=make(2))
    yield dict(input=make(2, 4, 3), weight=make(4, 3, 2), stride=2, padding=1, output_padding=1, groups=2)
    yield dict(input=make(3, 4), weight=make(3, 2, 2), dilation=2)
    yield RuntimeError, dict(input=make(4), weight=make(3, 2, 2))
    yield RuntimeError, dict(input=make(2, 4, 3), weight=make(3, 2, 2))
    yield RuntimeError, dict(input=make(2, 3, 3), weight=make(3, 2, 2), output_padding=1)


@conv_transpose1d.ref
def _(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    n, k = input.shape[-1], weight.shape[2]
    y = np.zeros((*input.shape[:-2], weight.shape[1] * groups, (n - 1) * stride + dilation * (k - 1) + 1))
    c, o = weight.shape[0] // groups, weight.shape[1]
    for g in range(groups):
        for i in range(n):
            for t in range(k):
                part = input[..., g * c : (g + 1) * c, i] @ weight[g * c : (g + 1) * c, :, t]
                y[..., g * o : (g + 1) * o, i * stride + t * dilation] += part
    y = np.concatenate([y, np.zeros((*y.shape[:-1], output_padding))], -1)[..., padding:]
    y = y[..., : y.shape[-1] - padding]
    return y if bias is None else y + bias[:, None]
