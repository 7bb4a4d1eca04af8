"""PyTorch's ``torch.nn.functional``: ops that layers are made of, as functions. Floor 5."""

from __future__ import annotations

import warnings
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops import activation as _activation, piecewise as _piecewise
from tensorlite.ops.activation import sigmoid, tanh
from tensorlite.ops.attention import multi_head_attention_forward, scaled_dot_product_attention
from tensorlite.ops.bags import embedding_bag
from tensorlite.ops.conv import conv1d, conv2d, conv_transpose2d
from tensorlite.ops.cross_entropy import cross_entropy, nll_loss
from tensorlite.ops.curved import celu, glu, mish, selu, softsign, tanhshrink
from tensorlite.ops.group_norm import group_norm, instance_norm
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
from tensorlite.ops.pad import pad
from tensorlite.ops.pair_loss import (
    cosine_embedding_loss,
    cosine_similarity,
    gaussian_nll_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    pairwise_distance,
    poisson_nll_loss,
    soft_margin_loss,
    triplet_margin_loss,
)
from tensorlite.ops.piecewise import hardshrink, hardsigmoid, hardswish, prelu, rrelu, softshrink, threshold
from tensorlite.ops.pool import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from tensorlite.ops.random import alpha_dropout, dropout, dropout1d, dropout2d
from tensorlite.ops.resize import interpolate
from tensorlite.ops.rms_norm import rms_norm
from tensorlite.ops.rows import embedding
from tensorlite.ops.shuffle import pixel_shuffle, pixel_unshuffle
from tensorlite.ops.signals import adaptive_avg_pool1d, adaptive_max_pool1d, avg_pool1d, conv_transpose1d, max_pool1d
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


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``elu``, in place."""
    return elu(input, alpha, True)


def selu_(input: Tensor) -> Tensor:
    """``selu``, in place."""
    return selu(input, True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``celu``, in place."""
    return celu(input, alpha, True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``leaky_relu``, in place."""
    return leaky_relu(input, negative_slope, True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """``hardtanh``, in place."""
    return hardtanh(input, min_val, max_val, True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """input where it is above the threshold, ``value`` elsewhere, in place."""
    return _piecewise.threshold(input, threshold, value, True)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """``rrelu``, in place."""
    return rrelu(input, lower, upper, training, True)


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
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "celu_",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "elu",
    "elu_",
    "embedding",
    "embedding_bag",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "group_norm",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "leaky_relu_",
    "linear",
    "log_softmax",
    "logsigmoid",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "mse_loss",
    "multi_head_attention_forward",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rms_norm",
    "rrelu",
    "rrelu_",
    "scaled_dot_product_attention",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
    "triplet_margin_loss",
]
