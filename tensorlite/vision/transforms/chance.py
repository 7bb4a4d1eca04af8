"""Transforms by chance: random cuts, flips, turns, colours, and choices between transforms. Floor 5.

All numbers come from tensorlite's default generator, so ``tl.manual_seed`` decides them.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from tensorlite.nn.container import ModuleList
from tensorlite.ops import philox
from tensorlite.ops.random import randn, take
from tensorlite.vision.transforms import functional as F
from tensorlite.vision.transforms.geometry import InterpolationMode, as_size
from tensorlite.vision.transforms.images import planes
from tensorlite.vision.transforms.steps import Compose, Transform

_MANY = 256  # calls of the generator whose numbers are made at once
_TRIES = 10  # for a cut of random size that fits


@lru_cache(maxsize=4)
def _rows(seed: int, block: int) -> list[list[float]]:
    """Four uniform numbers in [0, 1) for each of the calls ``_MANY * block`` and on, under this seed."""
    calls = np.uint64(block * _MANY) + np.arange(_MANY, dtype=np.uint64)
    zero, low = np.zeros(_MANY, np.uint64), np.uint64(0xFFFFFFFF)
    words = philox.rounds(zero, zero, calls & low, calls >> np.uint64(32), seed & 0xFFFFFFFF, seed >> 32)
    rows: list[list[float]] = (np.stack(words, axis=1) * 2.0**-32).tolist()
    return rows


def draw() -> list[float]:
    """Four uniform numbers in [0, 1) from one call of the default generator.

    They depend on the generator's state alone. To make them four at a time costs more than a flip, so those of many
    calls are made at once and kept.
    """
    seed, call = (v & (2**64 - 1) for v in take()._arr.tolist())
    return _rows(seed, call // _MANY)[call % _MANY]


def _between(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _range(value: Any, name: str, low: float | None = None) -> tuple[float, float]:
    """(low, high) from two numbers, or (-x, x) from one."""
    if isinstance(value, (int, float)):
        if value < 0:
            raise ValueError(f"{name}: {value}; if it is a single number, it must be positive")
        value = (-value, value)
    if len(value) != 2 or value[0] > value[1] or (low is not None and value[0] < low):
        raise ValueError(f"{name}: {value}; wanted (least, most)" + (f" from {low} on" if low is not None else ""))
    return float(value[0]), float(value[1])


# ---- choices
class _Chance(Transform):
    """A change that is made with probability ``p``."""

    shown = ("p",)

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, img: Any) -> Any:
        return self.change(img) if draw()[0] < self.p else img

    def change(self, img: Any) -> Any:
        raise NotImplementedError


class RandomHorizontalFlip(_Chance):
    """Left becomes right, with probability ``p``.

    >>> import numpy as np
    >>> RandomHorizontalFlip(p=1.0)(np.array([[1, 2, 3]], np.uint8))
    array([[3, 2, 1]], dtype=uint8)
    """

    def change(self, img: Any) -> Any:
        return F.hflip(img)


class RandomVerticalFlip(_Chance):
    """Top becomes bottom, with probability ``p``."""

    def change(self, img: Any) -> Any:
        return F.vflip(img)


class RandomGrayscale(_Chance):
    """Grey in as many channels as before, with probability ``p``."""

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def change(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, F.get_image_num_channels(img))


class RandomApply(Transform):
    """A list of transforms one after the other, with probability ``p``: all of them or none."""

    def __init__(self, transforms: Sequence[Callable], p: float = 0.5) -> None:
        super().__init__()
        self.transforms, self.p = transforms, p

    def forward(self, img: Any) -> Any:
        if draw()[0] >= self.p:
            return img
        for transform in self.transforms:
            img = transform(img)
        return img

    def __repr__(self) -> str:
        given = self.transforms
        lines = "".join(f"\n    {t}" for t in (given if isinstance(given, ModuleList) else list(given)))
        return f"RandomApply(\n    p={self.p}{lines}\n)"


class RandomChoice(Compose):
    """One of the transforms; ``p`` are weights, one for each, default equal."""

    def __init__(self, transforms: Sequence[Callable], p: Sequence[float] | None = None) -> None:
        super().__init__(transforms)
        if p is not None and (len(p) != len(transforms) or min(p) < 0 or not sum(p) > 0):
            raise ValueError(
                f"RandomChoice: p {p} for {len(transforms)} transforms; wanted a weight for each, 0 or more"
            )
        self.p = p

    def __call__(self, img: Any) -> Any:
        weights = [1.0] * len(self.transforms) if self.p is None else self.p
        ends = list(accumulate(weights))
        return self.transforms[bisect(ends, draw()[0] * ends[-1])](img)

    def __repr__(self) -> str:
        return f"{super().__repr__()}(p={self.p})"


class RandomOrder(Compose):
    """All of the transforms in random order."""

    def __call__(self, img: Any) -> Any:
        left = list(self.transforms)
        while left:
            img = left.pop(int(draw()[0] * len(left)))(img)
        return img


# ---- cuts
def _part(h: int, w: int, scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, float, float]:
    """Two sides, the first by the second in ``ratio``, of an area in ``scale`` of h * w; and two uniform numbers."""
    u = draw()
    area = h * w * _between(u[0], *scale)
    aspect = math.exp(_between(u[1], math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect)), u[2], u[3]


class RandomCrop(Transform):
    """A cut of ``size`` at a random place, after ``padding`` if it is given: see ``functional.pad``.

    ``pad_if_needed`` fills up images that are smaller, on both sides.
    """

    def __init__(
        self,
        size: Any,
        padding: Any = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:
        super().__init__()
        self.size, self.padding, self.pad_if_needed = as_size(size, "RandomCrop"), padding, pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode

    @staticmethod
    def get_params(img: Any, output_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random cut."""
        (_, h, w), (height, width) = F.get_dimensions(img), output_size
        if h < height or w < width:
            raise ValueError(
                f"RandomCrop: Required crop size {(height, width)} is larger than input image size {(h, w)}; "
                "pad_if_needed=True fills it up"
            )
        u = draw()
        return int(u[0] * (h - height + 1)), int(u[1] * (w - width + 1)), height, width

    def forward(self, img: Any) -> Any:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        if self.pad_if_needed:
            _, h, w = F.get_dimensions(img)
            more = [max(self.size[1] - w, 0), max(self.size[0] - h, 0)]
            if any(more):
                img = F.pad(img, more, self.fill, self.padding_mode)
        return F.crop(img, *self.get_params(img, self.size))

    def __repr__(self) -> str:
        return f"RandomCrop(size={self.size}, padding={self.padding})"


class RandomResizedCrop(Transform):
    """A cut of random size and proportions, resized to ``size``: the usual augmentation of ImageNet.

    Args:
        size: of the result.
        scale: least and most share of the image's area.
        ratio: least and most width by height.
        interpolation: see ``functional.resize``.
        antialias: see ``functional.resize``.
    """

    shown = ("size", "scale", "ratio", "interpolation", "antialias")

    def __init__(
        self,
        size: Any,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Any = InterpolationMode.BILINEAR,
        antialias: bool | None = True,
    ) -> None:
        super().__init__()
        self.size = as_size(size, "RandomResizedCrop")
        self.scale, self.ratio = _range(scale, "scale", 0), _range(ratio, "ratio", 0)
        self.interpolation, self.antialias = interpolation, antialias

    @staticmethod
    def get_params(img: Any, scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of a random cut; the largest middle one if none fits."""
        _, h, w = F.get_dimensions(img)
        for _ in range(_TRIES):
            width, height, u, v = _part(h, w, scale, ratio)
            if 0 < width <= w and 0 < height <= h:
                return int(u * (h - height + 1)), int(v * (w - width + 1)), height, width
        if w / h < min(ratio):
            width, height = w, round(w / min(ratio))
        elif w / h > max(ratio):
            width, height = round(h * max(ratio)), h
        else:
            width, height = w, h
        return (h - height) // 2, (w - width) // 2, height, width

    def forward(self, img: Any) -> Any:
        place = self.get_params(img, self.scale, self.ratio)
        return F.resized_crop(img, *place, self.size, self.interpolation, self.antialias)


class RandomErasing(Transform):
    """A random part of the image is overwritten, with probability ``p``.

    Args:
        p: the probability.
        scale: least and most share of the image's area.
        ratio: least and most height by width.
        value: a number, one for each channel, or "random": normal random numbers.
        inplace: write into the image that is given.

    Source: Zhong et al., "Random erasing data augmentation" (AAAI 2020).
    """

    shown = ("p", "scale", "ratio", "value", "inplace")

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: Any = 0,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(value, (int, float, Sequence)) or (isinstance(value, str) and value != "random"):
            raise ValueError(f"RandomErasing: value {value!r}; wanted a number, one for each channel, or 'random'")
        if not 0 <= p <= 1:
            raise ValueError(f"RandomErasing: p {p}; Random erasing probability should be between 0 and 1")
        self.p, self.scale, self.ratio = p, _range(scale, "scale", 0), _range(ratio, "ratio", 0)
        self.value, self.inplace = value, inplace

    def forward(self, img: Any) -> Any:
        if draw()[0] >= self.p:
            return img
        channels, h, w = F.get_dimensions(img)
        for _ in range(_TRIES):
            height, width, u, v = _part(h, w, self.scale, self.ratio)
            if height < h and width < w:
                break
        else:
            return img
        if self.value == "random":
            if planes(img, "RandomErasing")[0].dtype.kind in "iub":
                raise TypeError("RandomErasing: value 'random' in an image of integers; wanted floats: ToTensor first")
            value: Any = randn(channels, height, width)._arr
            value = value[0] if getattr(img, "ndim", 3) == 2 else value
        elif isinstance(self.value, (int, float)):
            value = self.value
        else:
            if len(self.value) != channels:
                raise ValueError(f"RandomErasing: value {self.value} for {channels} channels; wanted one for each")
            value = np.array(self.value)[:, None, None]
        top, left = int(u * (h - height + 1)), int(v * (w - width + 1))
        return F.erase(img, top, left, height, width, value, self.inplace)


# ---- turns
class RandomRotation(Transform):
    """The image turned by a random angle: see ``functional.rotate``.

    ``degrees`` are (least, most), or one number x for (-x, x).
    """

    shown = ("degrees", "interpolation", "expand", "fill")

    def __init__(
        self,
        degrees: Any,
        interpolation: Any = InterpolationMode.NEAREST,
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Any = 0,
    ) -> None:
        super().__init__()
        self.degrees, self.interpolation = list(_range(degrees, "degrees")), interpolation
        self.expand, self.center, self.fill = expand, center, fill

    @staticmethod
    def get_params(degrees: Sequence[float]) -> float:
        """A random angle."""
        return _between(draw()[0], *degrees)

    def forward(self, img: Any) -> Any:
        angle = self.get_params(self.degrees)
        return F.rotate(img, angle, self.interpolation, self.expand, self.center, self.fill)


class RandomAffine(Transform):
    """The image turned, moved, scaled and sheared at random: see ``functional.affine``.

    Args:
        degrees: (least, most) angle, or x for (-x, x).
        translate: the most that it is moved to either side, as shares of width and height.
        scale: (least, most) scale; None: 1.
        shear: degrees: x for (-x, x) along x, (least, most) along x, or four numbers: along x and along y.
        interpolation: "nearest" or "bilinear".
        fill: the value outside of the image.
        center: (x, y) that turning and scaling leave where it is.
    """

    shown = ("degrees", "translate", "scale", "shear", "interpolation", "fill")

    def __init__(
        self,
        degrees: Any,
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: Any = None,
        interpolation: Any = InterpolationMode.NEAREST,
        fill: Any = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if translate is not None and not all(0 <= t <= 1 for t in translate):
            raise ValueError(f"RandomAffine: translate {translate}; translation values should be between 0 and 1")
        if scale is not None and not all(s > 0 for s in scale):
            raise ValueError(f"RandomAffine: scale {scale}; scale values should be positive")
        self.degrees, self.translate = list(_range(degrees, "degrees")), translate
        self.scale = None if scale is None else _range(scale, "scale")
        if shear is None:
            self.shear = None
        elif isinstance(shear, (int, float)) or len(shear) == 2:
            self.shear = [*_range(shear, "shear"), 0.0, 0.0]
        else:
            self.shear = [*_range(shear[:2], "shear"), *_range(shear[2:], "shear")]
        self.interpolation, self.fill, self.center = interpolation, fill, center

    def forward(self, img: Any) -> Any:
        _, h, w = F.get_dimensions(img)
        u, v = draw(), draw()
        move = (0.0, 0.0) if self.translate is None else (self.translate[0] * w, self.translate[1] * h)
        translate = [round(_between(a, -most, most)) for a, most in zip(u[1:3], move)]
        scale = 1.0 if self.scale is None else _between(u[3], *self.scale)
        shear = self.shear or (0.0,) * 4
        shears = [_between(v[0], *shear[:2]), _between(v[1], *shear[2:])]
        angle = _between(u[0], *self.degrees)
        return F.affine(img, angle, translate, scale, shears, self.interpolation, self.fill, self.center)


# ---- colours
class ColorJitter(Transform):
    """Brightness, contrast, saturation and hue changed by random factors, in random order.

    Args:
        brightness: x for factors from max(0, 1 - x) to 1 + x, or (least, most).
        contrast: as brightness.
        saturation: as brightness.
        hue: x up to 0.5 for moves from -x to x, or (least, most).
    """

    shown = ("brightness", "contrast", "saturation", "hue")

    def __init__(self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation = (
            self._limits(value, name, 1.0, 0.0, math.inf)
            for value, name in ((brightness, "brightness"), (contrast, "contrast"), (saturation, "saturation"))
        )
        self.hue = self._limits(hue, "hue", 0.0, -0.5, 0.5)

    @staticmethod
    def _limits(value: Any, name: str, middle: float, low: float, high: float) -> tuple[float, float] | None:
        if isinstance(value, (int, float)):
            if value < 0:
                raise ValueError(f"ColorJitter: If {name} is a single number, it must be non negative. Got {value}")
            value = (max(middle - value, 0.0) if middle else -value, middle + value)
        least, most = map(float, value)
        if not low <= least <= most <= high:
            raise ValueError(f"ColorJitter: {name} values should be between {low} and {high}, but got {(least, most)}.")
        return None if least == most == middle else (least, most)

    def forward(self, img: Any) -> Any:
        order, factors = draw(), draw()
        for k in sorted(range(4), key=order.__getitem__):
            limits = getattr(self, self.shown[k])
            if limits is not None:
                img = getattr(F, f"adjust_{self.shown[k]}")(img, _between(factors[k], *limits))
        return img
