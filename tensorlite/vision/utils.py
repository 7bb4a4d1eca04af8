"""Pictures of many images: laid out in a grid, written to a file. Floor 5."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.io.files import atomic
from tensorlite.ops.join import stack
from tensorlite.utils.extras import require


@no_grad()
def make_grid(
    tensor: Tensor | Sequence[Tensor],
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Images side by side in rows: one image (C, H', W').

    Args:
        tensor: images (N, C, H, W), a list of images of one size, or one image (C, H, W) or (H, W).
        nrow: images in a row.
        padding: pixels between images and around them.
        normalize: move the values to 0 to 1, by ``value_range``.
        value_range: (least, most); default those of the images.
        scale_each: take least and most of each image, not of all.
        pad_value: of the pixels between.

    One channel becomes three equal ones; a single image gets no border.

    >>> import tensorlite as tl
    >>> make_grid(tl.ones(6, 1, 4, 5), nrow=3).shape
    tensorlite.Size([3, 14, 23])
    """
    if isinstance(tensor, Tensor):
        images = tensor
    else:
        tensors = list(tensor) if isinstance(tensor, Sequence) else [None]
        if not tensors or not all(isinstance(t, Tensor) for t in tensors):
            raise TypeError(f"make_grid: tensor or list of tensors expected, got {type(tensor)}")
        images = stack(tensors)
    if images.ndim == 2:
        images = images.unsqueeze(0)
    if images.ndim == 3:
        images = images.unsqueeze(0)
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"make_grid: a tensor of shape {tuple(images.shape)}; wanted images (N, C, H, W)")
    if images.size(1) == 1:
        images = images.expand(-1, 3, -1, -1)
    if normalize:
        if value_range is not None and not isinstance(value_range, tuple):
            raise TypeError("make_grid: value_range has to be a tuple (min, max) if specified. min and max are numbers")
        images = stack([_scaled(t, value_range) for t in images]) if scale_each else _scaled(images, value_range)
    if images.size(0) == 1:
        return images.squeeze(0)
    count, channels, h, w = images.shape
    across = min(nrow, count)
    h, w = h + padding, w + padding
    grid = images.new_full((channels, h * math.ceil(count / across) + padding, w * across + padding), pad_value)
    for k in range(count):
        top, left = k // across * h + padding, k % across * w + padding
        grid[:, top : top + h - padding, left : left + w - padding] = images[k]
    return grid


def _scaled(tensor: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    low, high = value_range or (tensor.min().item(), tensor.max().item())
    return (tensor.clamp(low, high) - low) / max(high - low, 1e-5)


@no_grad()
def save_image(tensor: Tensor | Sequence[Tensor], fp: Any, format: str | None = None, **kwargs: Any) -> None:
    """Write images, values 0 to 1, into one picture file; ``kwargs`` are ``make_grid``'s.

    Args:
        tensor: as in ``make_grid``.
        fp: a path, or a file open for writing in binary. A path's file is whole or as it was before.
        format: Pillow's name of the format; default by the path's ending.

    Raises:
        ValueError: an ending that names no format.
        MissingExtraError: without Pillow, which the extra ``examples`` installs.
    """
    image = require("PIL.Image", "examples", "save_image")
    grid = make_grid(tensor, **kwargs)
    values = (grid.float() * 255 + 0.5).clamp(0, 255).permute(1, 2, 0).cpu()._arr.astype(np.uint8)
    picture = image.fromarray(np.ascontiguousarray(values))
    if not isinstance(fp, (str, os.PathLike)):
        picture.save(fp, format=format)
        return
    if format is None:
        ending = os.path.splitext(os.fspath(fp))[1].lower()
        format = image.registered_extensions().get(ending)
        if format is None:
            raise ValueError(
                f"save_image: {fp}: ending {ending!r} names no format; wanted .png, .jpg or such, or format="
            )
    with atomic(fp) as file:
        picture.save(file, format=format)
