"""Transforms without chance: conversion, normalisation, fixed cuts and sizes, and lists of transforms. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn.module import Module
from tensorlite.vision.transforms import functional as F
from tensorlite.vision.transforms.geometry import InterpolationMode, as_size


class Transform(Module):
    """Base of the transforms: a module, so that ``nn.Sequential`` takes it too. ``shown`` are its settings."""

    shown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in self.shown)
        return f"{type(self).__name__}({', '.join(f'{n}={v.value if isinstance(v, Enum) else v}' for n, v in values)})"


class Compose:
    """One transform after the other.

    >>> import numpy as np
    >>> from tensorlite.vision.transforms import Compose, Normalize, ToTensor
    >>> Compose([ToTensor(), Normalize((0.5,), (0.5,))])(np.array([[0, 255]], np.uint8))
    tensor([[[-1.,  1.]]])
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img

    def __repr__(self) -> str:
        lines = "".join(f"\n    {transform}" for transform in self.transforms)
        return f"{type(self).__name__}({lines}\n)"


class ToTensor(Transform):
    """Arrays (H, W[, C]) and Pillow's images as float tensors (C, H, W); values 0 to 255 of uint8 become 0 to 1."""

    def forward(self, pic: Any) -> Tensor:
        return F.to_tensor(pic)


class PILToTensor(Transform):
    """Arrays (H, W[, C]) and Pillow's images as tensors (C, H, W) with the same values."""

    def forward(self, pic: Any) -> Tensor:
        return F.pil_to_tensor(pic)


class ToPILImage(Transform):
    """Tensors (C, H, W) and arrays (H, W[, C]) as images of Pillow, of a ``mode`` if it is given."""

    def __init__(self, mode: str | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.shown = () if mode is None else ("mode",)

    def forward(self, pic: Any) -> Any:
        return F.to_pil_image(pic, self.mode)


class ConvertImageDtype(Transform):
    """Tensors in another element type, their values scaled to it."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, image: Any) -> Any:
        return F.convert_image_dtype(image, self.dtype)


class Normalize(Transform):
    """(image - mean) / std, with a mean and a standard deviation for each channel of float tensors (..., C, H, W)."""

    shown = ("mean", "std")

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        super().__init__()
        self.mean, self.std, self.inplace = mean, std, inplace

    def forward(self, tensor: Tensor) -> Tensor:
        return F.normalize(tensor, self.mean, self.std, self.inplace)


class Resize(Transform):
    """Images in another size: see ``functional.resize``."""

    shown = ("size", "interpolation", "max_size", "antialias")

    def __init__(
        self,
        size: Any,
        interpolation: Any = InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        super().__init__()
        if not isinstance(size, (int, Sequence)):
            raise TypeError(f"Resize: Size should be int or sequence. Got {type(size)}")
        self.size, self.interpolation, self.max_size, self.antialias = size, interpolation, max_size, antialias

    def forward(self, img: Any) -> Any:
        return F.resize(img, self.size, self.interpolation, self.max_size, self.antialias)


class CenterCrop(Transform):
    """The middle of images; smaller ones are first filled up with zeros."""

    shown = ("size",)

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.size = as_size(size, "CenterCrop")

    def forward(self, img: Any) -> Any:
        return F.center_crop(img, self.size)


class Pad(Transform):
    """Images with a border: see ``functional.pad``."""

    shown = ("padding", "fill", "padding_mode")

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> None:
        super().__init__()
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def forward(self, img: Any) -> Any:
        return F.pad(img, self.padding, self.fill, self.padding_mode)


class Grayscale(Transform):
    """Images in grey, of one channel or of three equal ones."""

    shown = ("num_output_channels",)

    def __init__(self, num_output_channels: int = 1) -> None:
        super().__init__()
        self.num_output_channels = num_output_channels

    def forward(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, self.num_output_channels)


class Lambda(Transform):
    """A function as a transform."""

    def __init__(self, lambd: Callable) -> None:
        super().__init__()
        if not callable(lambd):
            raise TypeError(f"Lambda: Argument lambd should be callable, got {type(lambd).__name__!r}")
        self.lambd = lambd

    def forward(self, img: Any) -> Any:
        return self.lambd(img)
