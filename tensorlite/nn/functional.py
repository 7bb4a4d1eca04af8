"""PyTorch's ``torch.nn.functional``: ops that layers are made of, as functions. Floor 5."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops import activation as _activation
from tensorlite.ops.activation import sigmoid, tanh
from tensorlite.ops.attention import multi_head_attention_forward, scaled_dot_product_attention
from tensorlite.ops.conv import conv1d, conv2d, conv_transpose2d
from tensorlite.ops.cross_entropy import cross_entropy, nll_loss
from tensorlite.ops.group_norm import group_norm, instance_norm, rms_norm
from tensorlite.ops.linalg import linear
from tensorlite.ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from tensorlite.ops.mask import one_hot
from tensorlite.ops.norm import batch_norm, layer_norm
from tensorlite.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tensorlite.ops.random import dropout, dropout2d
from tensorlite.ops.rows import embedding
from tensorlite.ops.smooth import elu, gelu, hardtanh, leaky_relu, logsigmoid, relu6, silu, softplus


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0); ``inplace`` writes it into the input.

    >>> import tensorlite as tl
    >>> relu(tl.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return input.relu_() if inplace else input.relu()


def relu_(input: Tensor) -> Tensor:
    """max(input, 0), in place."""
    return input.relu_()


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """exp(input) / sum(exp(input)) along ``dim``, computed without overflow."""
    return _activation.softmax(input, _chosen("softmax", dim, input.ndim), dtype=dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """input - log(sum(exp(input))) along ``dim``, computed without overflow."""
    return _activation.log_softmax(input, _chosen("log_softmax", dim, input.ndim), dtype=dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-input) along ``dim``."""
    return _activation.softmax(-input, _chosen("softmin", dim, input.ndim), dtype=dtype)


def _chosen(name: str, dim: int | None, ndim: int) -> int:
    if dim is not None:
        return dim
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        UserWarning,
        stacklevel=3,
    )
    return 0 if ndim in (0, 1, 3) else 1


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """input over its p-norm along ``dim`` (over eps where that is smaller)."""
    norm = (
        (input * input).sum(dim, keepdim=True).sqrt()
        if p == 2
        else (input.abs() ** p).sum(dim, keepdim=True) ** (1.0 / p)
    )
    return input / norm.clamp(min=eps)


__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout2d",
    "elu",
    "embedding",
    "gelu",
    "group_norm",
    "hardtanh",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "max_pool2d",
    "mse_loss",
    "multi_head_attention_forward",
    "nll_loss",
    "normalize",
    "one_hot",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "tanh",
]
