"""Channels turned into places of an image and back: pixel_shuffle, pixel_unshuffle. Floor 3."""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.cast import laid_as
from tensorlite.ops.shape import permute, reshape
from tensorlite.shapes import index


def _sizes(who: str, input: Tensor, factor: int) -> tuple[int, ...]:
    if input._spec.ndim < 3:
        raise RuntimeError(f"{who}: got {input._spec.ndim} dimensions; expects input to have at least 3 dimensions")
    if index(who, factor) <= 0:
        raise RuntimeError(f"{who}: factor {factor}; expects a positive factor")
    return input._spec.shape


@op(torch="nn.functional.pixel_shuffle")
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C r r, H, W) -> (..., C, H r, W r), r being ``upscale_factor``: r r channels become r by r pixels.

    >>> import tensorlite as tl
    >>> tl.nn.functional.pixel_shuffle(tl.arange(4).view(4, 1, 1), 2)
    tensor([[[0, 1],
             [2, 3]]])
    """
    *lead, c, h, w = _sizes("pixel_shuffle", input, upscale_factor)
    r, n = upscale_factor, len(lead)
    if c % (r * r):
        raise RuntimeError(f"pixel_shuffle: {c} channels; expects them to be divisible by the square of factor {r}")
    x = reshape(input, (*lead, c // (r * r), r, r, h, w))
    x = permute(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return laid_as(reshape(x, (*lead, c // (r * r), h * r, w * r)), input._spec)


@op(torch="nn.functional.pixel_unshuffle")
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H r, W r) -> (..., C r r, H, W), r being ``downscale_factor``: the way back of pixel_shuffle."""
    *lead, c, h, w = _sizes("pixel_unshuffle", input, downscale_factor)
    r, n = downscale_factor, len(lead)
    if h % r or w % r:
        raise RuntimeError(f"pixel_unshuffle: {h} x {w} pixels; expects both to be divisible by factor {r}")
    x = reshape(input, (*lead, c, h // r, r, w // r, r))
    x = permute(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return laid_as(reshape(x, (*lead, c * r * r, h // r, w // r)), input._spec)


@pixel_shuffle.cases
def _(make):
    yield dict(input=make(2, 8, 2, 3), upscale_factor=2)
    yield dict(input=make(9, 1, 2), upscale_factor=3)
    yield dict(input=make(0, 4, 2, 2), upscale_factor=2)
    yield RuntimeError, dict(input=make(1, 3, 2, 2), upscale_factor=2)
    yield RuntimeError, dict(input=make(2, 2), upscale_factor=2)
    yield RuntimeError, dict(input=make(4, 2, 2), upscale_factor=0)


@pixel_unshuffle.cases
def _(make):
    yield dict(input=make(2, 2, 4, 6), downscale_factor=2)
    yield dict(input=make(1, 3, 6), downscale_factor=3)
    yield RuntimeError, dict(input=make(1, 3, 3, 2), downscale_factor=2)


@pixel_shuffle.ref
def _(input, upscale_factor):
    r = upscale_factor
    *lead, c, h, w = input.shape
    y = np.zeros((*lead, c // (r * r), h * r, w * r), input.dtype)
    for k in range(r * r):
        y[..., k // r :: r, k % r :: r] = input[..., k :: r * r, :, :]
    return y


@pixel_unshuffle.ref
def _(input, downscale_factor):
    r = downscale_factor
    *lead, c, h, w = input.shape
    y = np.zeros((*lead, c * r * r, h // r, w // r), input.dtype)
    for k in range(r * r):
        y[..., k :: r * r, :, :] = input[..., k // r :: r, k % r :: r]
    return y
