"""Normalisation of groups of channels and of single images. Floor 3.

They are ``layer_norm_p`` and ``batch_norm_p`` of another shape and share their kernels.
"""

from __future__ import annotations

import math

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.norm import batch_norm, layer_norm_p


def _of_channels(name: str, channels: int, **given: Tensor | None) -> None:
    for what, t in given.items():
        if t is not None and t._spec.shape != (channels,):
            raise ShapeError(f"{name}: {what} {t._spec.shape}; expected {what} to be a vector of size {channels}")


@op(torch="nn.functional.group_norm")
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(input - mean) / sqrt(var + eps) * weight + bias, with mean and variance over each group of channels.

    input (N, C, ...), whose C channels fall into ``num_groups`` equal groups; weight and bias (C,) or None.
    Source: Wu and He, "Group normalization" (ECCV 2018).

    >>> import tensorlite as tl
    >>> tl.nn.functional.group_norm(tl.tensor([[1.0, 3.0, 0.0, 8.0]]), 2)
    tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    name, shape = "group_norm", input._spec.shape
    if len(shape) < 2:
        raise ShapeError(f"{name}: input {shape}; expected at least 2 dimensions for input tensor")
    n, channels = shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise RuntimeError(
            f"{name}: {channels} channels in {num_groups} groups; expected number of channels in input to be "
            "divisible by num_groups"
        )
    _of_channels(name, channels, weight=weight, bias=bias)
    rest = math.prod(shape[2:])
    if n * (channels // num_groups) * rest == 1:
        raise ShapeError(f"{name}: expected more than 1 value per channel when training, got input size {list(shape)}")
    own = (1, num_groups, channels // num_groups, 1)
    w, b = (None if t is None else t.reshape(own) for t in (weight, bias))
    x = input.reshape(n, num_groups, channels // num_groups, rest)
    return layer_norm_p(x, w, b, dim=(2, 3), shape=own, eps=float(eps))[0].reshape(shape)


@group_norm.cases
def _(make):
    yield dict(input=make(2, 4, 3), num_groups=2, weight=make(4), bias=make(4))
    yield dict(input=make(2, 6, 2, 3), num_groups=3, weight=make(6), bias=make(6), eps=1e-2)
    yield dict(input=make(2, 4, 2, 2), num_groups=4, weight=make(4))
    yield dict(input=make(2, 4), num_groups=1)
    yield dict(input=make(3, 4, 2), num_groups=2, bias=make(4))
    yield dict(input=make(0, 4, 2), num_groups=2, weight=make(4), bias=make(4))
    yield RuntimeError, dict(input=make(4), num_groups=2)
    yield RuntimeError, dict(input=make(2, 4), num_groups=3)
    yield RuntimeError, dict(input=make(2, 4), num_groups=2, weight=make(3))
    yield RuntimeError, dict(input=make.ints(2, 4), num_groups=2)
    yield ValueError, dict(input=make(1, 4), num_groups=4)


@group_norm.ref
def _(input, num_groups, weight=None, bias=None, eps=1e-5):
    y, size = np.zeros(input.shape), input.shape[1] // num_groups
    for k in np.ndindex(input.shape[0], num_groups):
        part = input[k[0], k[1] * size : (k[1] + 1) * size]
        y[k[0], k[1] * size : (k[1] + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    wide = (slice(None), *(None for _ in input.shape[2:]))
    return y * (1 if weight is None else weight[wide]) + (0 if bias is None else bias[wide])


@op(torch="nn.functional.instance_norm")
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(input - mean) / sqrt(var + eps) * weight + bias, with mean and variance over each channel of each sample.

    input (N, C, ...); the others (C,) or None. Running statistics move, in place, towards the samples' mean statistics;
    without ``use_input_stats`` they take their place.

    >>> import tensorlite as tl
    >>> tl.nn.functional.instance_norm(tl.tensor([[[1.0, 3.0], [0.0, 8.0]]]))
    tensor([[[-1.0000,  1.0000],
             [-1.0000,  1.0000]]])
    """
    name, shape = "instance_norm", input._spec.shape
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError(
                f"{name}: no running statistics; expected running_mean and running_var to be defined when "
                "use_input_stats is false"
            )
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if len(shape) < 2:
        raise ShapeError(f"{name}: input {shape}; wanted (N, C, ...)")
    n, channels = shape[:2]
    if math.prod(shape[2:]) == 1:
        raise ShapeError(f"{name}: expected more than 1 spatial element when training, got input size {list(shape)}")
    _of_channels(name, channels, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if (running_mean is None) != (running_var is None):
        raise ShapeError(f"{name}: running_mean and running_var must either both be None or neither be None")
    if running_mean is None or running_var is None:
        own = (1, channels, 1)
        w, b = (None if t is None else t.reshape(own) for t in (weight, bias))
        x = input.reshape(n, channels, math.prod(shape[2:]))
        return layer_norm_p(x, w, b, dim=(2,), shape=own, eps=float(eps))[0].reshape(shape)
    mean, var, w, b = (None if t is None else t.repeat(n) for t in (running_mean, running_var, weight, bias))
    x = input.reshape(1, n * channels, *shape[2:])
    y = batch_norm(x, mean, var, w, b, True, momentum, eps)
    with no_grad():
        for running, each in ((running_mean, mean), (running_var, var)):
            running.copy_(each.reshape(n, channels).mean(0))
    return y.reshape(shape)


@instance_norm.cases
def _(make):
    yield dict(input=make(2, 3, 4))
    yield dict(input=make(2, 3, 2, 2), weight=make(3), bias=make(3), eps=1e-2)
    yield dict(input=make(2, 3, 4), weight=make(3))
    yield dict(
        input=make(2, 3, 4),
        running_mean=make(3).detach(),
        running_var=make(3, low=0.5).detach(),
        weight=make(3),
        bias=make(3),
        use_input_stats=False,
    )
    yield ValueError, dict(input=make(2, 3, 1))
    yield RuntimeError, dict(input=make(2, 3, 4), use_input_stats=False)
    yield RuntimeError, dict(input=make(2, 3, 4), weight=make(2))
    yield RuntimeError, dict(input=make.ints(2, 3, 4))


@instance_norm.ref
def _(input, running_mean=None, running_var=None, weight=1.0, bias=0.0, use_input_stats=True, eps=1e-5):
    wide = (slice(None), *(None for _ in input.shape[2:]))
    weight, bias = (np.broadcast_to(t, input.shape[1])[wide] for t in (weight, bias))
    if use_input_stats:
        at = tuple(range(2, input.ndim))
        mean = input.mean(at, keepdims=True)
        var = (input**2).mean(at, keepdims=True) - mean**2
    else:
        mean, var = running_mean[wide], running_var[wide]
    return (input - mean) * (var + eps) ** -0.5 * weight + bias
