"""Images cut, filled up, flipped, resized, turned. Floor 5.

Positions count pixels from the top left corner; sizes are (height, width), angles are degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.vision.transforms.images import is_pillow, pillow, planes, store, work_dtype


class InterpolationMode(Enum):
    """How values between pixels are found."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"  # this and the following for Pillow's images only
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def as_mode(given: Any, op: str, wanted: tuple = ("nearest", "nearest-exact", "bilinear", "bicubic")) -> str:
    """The name of an interpolation, from the name or an ``InterpolationMode``."""
    name = given.value if isinstance(given, InterpolationMode) else given
    if name not in wanted:
        raise ValueError(f"{op}: interpolation {name!r}; wanted one of {', '.join(wanted)}")
    return str(name)


def as_size(size: Any, op: str) -> tuple[int, int]:
    """(height, width) from one number, a list of one, or two."""
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    if len(sizes) != 2:
        raise ValueError(f"{op}: size {size}; wanted a number or (height, width)")
    return int(sizes[0]), int(sizes[1])


# ---- cut and fill up
def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """The part of ``height`` x ``width`` pixels from (``top``, ``left``) on; zeros where it leaves the image."""
    array, back = planes(img, "crop")
    h, w = array.shape[-2:]
    if top >= 0 and left >= 0 and top + height <= h and left + width <= w:
        rows, columns = slice(top, top + height), slice(left, left + width)
        return img[..., rows, columns] if isinstance(img, Tensor) else back(array[..., rows, columns])
    out = np.zeros((*array.shape[:-2], height, width), array.dtype)
    y0, y1, x0, x1 = max(top, 0), min(top + height, h), max(left, 0), min(left + width, w)
    if y1 > y0 and x1 > x0:
        out[..., y0 - top : y1 - top, x0 - left : x1 - left] = array[..., y0:y1, x0:x1]
    return back(out)


def center_crop(img: Any, output_size: Any) -> Any:
    """The middle of ``output_size``; a smaller image is first filled up with zeros."""
    height, width = as_size(output_size, "center_crop")
    array, _ = planes(img, "center_crop")
    h, w = array.shape[-2:]
    if height > h or width > w:
        more_h, more_w = max(height - h, 0), max(width - w, 0)
        img = pad(img, [more_w // 2, more_h // 2, (more_w + 1) // 2, (more_h + 1) // 2])
        h, w = h + more_h, w + more_w
    return crop(img, round((h - height) / 2.0), round((w - width) / 2.0), height, width)


def pad(img: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """The image with a border.

    Args:
        img: an image.
        padding: pixels: one number, (left and right, top and bottom), or (left, top, right, bottom).
        fill: the border's value, or one for each channel, where ``padding_mode`` is "constant".
        padding_mode: "constant"; "edge" repeats the last pixel, "reflect" mirrors without repeating it, "symmetric"
            mirrors with it.
    """
    if isinstance(padding, (int, np.integer)):
        padding = (padding,)
    if not isinstance(padding, Sequence) or isinstance(padding, str):
        raise TypeError(
            f"pad: padding {padding!r}; wanted a number or 1, 2 or 4 of them (Got inappropriate padding arg)"
        )
    if len(padding) not in (1, 2, 4):
        raise ValueError(
            f"pad: Padding must be an int or a 1, 2, or 4 element tuple, not a {len(padding)} element tuple"
        )
    left, top, right, bottom = (int(n) for n in list(padding) * (4 // len(padding)))
    if min(left, top, right, bottom) < 0:
        raise ValueError(f"pad: padding {tuple(padding)}; wanted 0 or more: crop cuts")
    if padding_mode not in ("constant", "edge", "reflect", "symmetric"):
        raise ValueError(
            f"pad: padding_mode {padding_mode!r}; Padding mode should be either constant, edge, reflect or symmetric"
        )
    array, back = planes(img, "pad")
    h, w = array.shape[-2:]
    if padding_mode != "constant":
        return back(array[..., _places(h, top, bottom, padding_mode)[:, None], _places(w, left, right, padding_mode)])
    out = np.empty((*array.shape[:-2], h + top + bottom, w + left + right), array.dtype)
    out[...] = _fill(fill, array, "pad")
    out[..., top : top + h, left : left + w] = array
    return back(out)


@lru_cache(maxsize=64)
def _places(n: int, before: int, after: int, mode: Any) -> np.ndarray:
    """Which of n pixels stands at each place of a padded side."""
    return np.pad(np.arange(n), (before, after), mode=mode)


def _fill(fill: Any, array: np.ndarray, op: str) -> Any:
    """``fill`` as a number, or as a column of one number for each channel, in the image's element type."""
    if fill is None:
        fill = 0
    if isinstance(fill, (int, float, np.number)):
        return _fitting(np.asarray(fill), array, op)
    channels = 1 if array.ndim == 2 else array.shape[-3]
    if not isinstance(fill, Sequence) or isinstance(fill, str) or len(fill) not in (1, channels):
        raise TypeError(f"{op}: fill {fill!r} for {channels} channels; wanted a number or one for each channel")
    return _fitting(np.array(fill)[:, None, None] if len(fill) > 1 else np.array(fill[0]), array, op)


def _fitting(value: np.ndarray, array: np.ndarray, op: str) -> np.ndarray:
    """``value`` in the element type of an image, which must hold it if it is one of integers."""
    if array.dtype.kind in "iub":
        info = np.iinfo(np.uint8 if array.dtype == np.bool_ else array.dtype)
        if (value.dtype.kind == "f" and (value != np.floor(value)).any()) or (
            (value < info.min) | (value > info.max)
        ).any():
            raise ValueError(f"{op}: value {value.tolist()} in an image of {array.dtype}; wanted what that can hold")
    result: np.ndarray = value.astype(array.dtype)
    return result


# ---- flip
def hflip(img: Any) -> Any:
    """Left becomes right."""
    if isinstance(img, Tensor) and img.ndim > 1:
        return img.flip(-1)
    array, back = planes(img, "hflip")
    return back(array[..., ::-1])


def vflip(img: Any) -> Any:
    """Top becomes bottom."""
    if isinstance(img, Tensor) and img.ndim > 1:
        return img.flip(-2)
    array, back = planes(img, "vflip")
    return back(array[..., ::-1, :])


def erase(img: Any, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Any:
    """The image with ``v`` in place of the ``h`` x ``w`` pixels from row ``i``, column ``j`` on."""
    array, back = planes(img, "erase")
    value = _fitting(np.asarray(v), array, "erase")
    if inplace and isinstance(img, Tensor):
        img[..., i : i + h, j : j + w] = from_array(value)
        return img
    out = array if inplace and isinstance(img, np.ndarray) else array.copy()
    out[..., i : i + h, j : j + w] = value
    return img if out is array else back(out)


# ---- resize
def resize(
    img: Any,
    size: Any,
    interpolation: Any = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:
    """The image in another size; Pillow resizes its own images, whatever ``antialias`` is.

    Args:
        img: an image.
        size: (height, width), or one number: the length of the shorter side, the other keeps the proportions.
        interpolation: "nearest", "nearest-exact", "bilinear" or "bicubic", or the ``InterpolationMode``.
        max_size: the most that the longer side may be, where ``size`` is one number.
        antialias: whether a pixel of a smaller image is the mean of all that it covers ("bilinear", "bicubic").
    """
    array, back = planes(img, "resize")
    h, w = array.shape[-2:]
    sizes = (size,) if isinstance(size, int) else tuple(size)
    if len(sizes) not in (1, 2):
        raise ValueError(f"resize: size {size}; wanted one number or (height, width)")
    if len(sizes) == 2:
        if max_size is not None:
            raise ValueError(f"resize: max_size with size {sizes}; wanted one number for size, the shorter side")
        height, width = sizes
    else:
        height, width = _by_shorter_side(h, w, sizes[0], max_size)
    if height < 1 or width < 1 or not array.size:
        raise ValueError(f"resize: an image of {h} x {w} to {height} x {width}; wanted 1 x 1 or more")
    if is_pillow(img):
        mode = as_mode(interpolation, "resize", tuple(m.value for m in InterpolationMode))
        name = "NEAREST" if mode == "nearest-exact" else mode.upper()
        return img if (h, w) == (height, width) else img.resize((width, height), pillow().Resampling[name])
    mode = as_mode(interpolation, "resize")
    if (h, w) == (height, width):
        return img
    if mode.startswith("nearest"):
        shift = 0.5 if mode == "nearest-exact" else 0.0
        rows, columns = (
            np.minimum(((np.arange(n) + shift) * (old / n)).astype(np.int64), old - 1)
            for n, old in ((height, h), (width, w))
        )
        return back(array[..., rows[:, None], columns])
    to = work_dtype(array)
    down, across = (_weights(old, n, mode, bool(antialias)).astype(to) for old, n in ((h, height), (w, width)))
    return back(store(down @ (array.astype(to) @ across.T), array.dtype))


def _by_shorter_side(h: int, w: int, size: int, max_size: int | None) -> tuple[int, int]:
    short, long = min(h, w), max(h, w)
    new_short, new_long = size, int(size * long / short) if short else 0
    if max_size is not None:
        if max_size <= size:
            raise ValueError(f"resize: max_size {max_size} must be strictly greater than size {size}, the shorter side")
        if new_long > max_size:
            new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_long, new_short) if w <= h else (new_short, new_long)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def _weights(old: int, new: int, mode: str, antialias: bool) -> np.ndarray:
    """(new, old): how much each old pixel gives to each new one, along one side."""
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale
    if antialias:  # the kernel is stretched over all the old pixels that a new one covers
        x = (np.arange(old) + 0.5 - centre[:, None]) / max(scale, 1.0)
        weights = np.maximum(1 - np.abs(x), 0.0) if mode == "bilinear" else _cubic(x, -0.5)
        return weights / weights.sum(1, keepdims=True)
    at = centre - 0.5
    if mode == "bilinear":
        at = np.maximum(at, 0.0)
    first = np.floor(at).astype(np.int64)
    weights = np.zeros((new, old))
    for tap in (0, 1) if mode == "bilinear" else (-1, 0, 1, 2):
        x = at - (first + tap)
        share = 1 - np.abs(x) if mode == "bilinear" else _cubic(x, -0.75)
        np.add.at(weights, (np.arange(new), (first + tap).clip(0, old - 1)), share)
    return weights


def resized_crop(
    img: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Any,
    interpolation: Any = InterpolationMode.BILINEAR,
    antialias: bool | None = True,
) -> Any:
    """``resize`` of ``crop``."""
    return resize(crop(img, top, left, height, width), size, interpolation, antialias=antialias)


# ---- turn
def rotate(
    img: Any,
    angle: float,
    interpolation: Any = InterpolationMode.NEAREST,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = None,
) -> Any:
    """The image turned by ``angle`` degrees, counter-clockwise.

    Args:
        img: an image.
        angle: in degrees.
        interpolation: "nearest" or "bilinear".
        expand: make the result large enough to hold all of the turned image (about its middle).
        center: (x, y) that stays where it is; default the middle.
        fill: the value outside of the image, or one for each channel; None: 0.
    """
    array, back = planes(img, "rotate")
    h, w = array.shape[-2:]
    middle = _from_middle(center, h, w)
    matrix = inverse_matrix(middle, -angle, (0.0, 0.0), 1.0, (0.0, 0.0))
    size = _turned_size(matrix, h, w) if expand else (h, w)
    return back(_sample(array, matrix, size, interpolation, fill, "rotate"))


def affine(
    img: Any,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Any,
    interpolation: Any = InterpolationMode.NEAREST,
    fill: Any = None,
    center: Sequence[float] | None = None,
) -> Any:
    """The image turned by ``angle`` degrees (clockwise), sheared, scaled about its middle and moved.

    Args:
        img: an image.
        angle: in degrees.
        translate: (right, down) in pixels.
        scale: more than 0; 2 makes it twice as large.
        shear: degrees along x, or (along x, along y).
        interpolation: "nearest" or "bilinear".
        fill: the value outside of the image, or one for each channel; None: 0.
        center: (x, y) that turning and scaling leave where it is; default the middle.
    """
    if scale <= 0:
        raise ValueError(f"affine: scale {scale}; wanted more than 0 (Argument scale should be positive)")
    array, back = planes(img, "affine")
    h, w = array.shape[-2:]
    shears = (float(shear), 0.0) if isinstance(shear, (int, float)) else (*map(float, shear), 0.0)[:2]
    matrix = inverse_matrix(_from_middle(center, h, w), angle, translate, scale, shears)
    return back(_sample(array, matrix, (h, w), interpolation, fill, "affine"))


def _from_middle(center: Sequence[float] | None, h: int, w: int) -> tuple[float, float]:
    return (0.0, 0.0) if center is None else (center[0] - w * 0.5, center[1] - h * 0.5)


def inverse_matrix(
    center: Sequence[float], angle: float, translate: Sequence[float], scale: float, shear: Sequence[float]
) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the pixel at (x, y), from the middle, comes from (a x + b y + c, d x + e y + f).

    The inverse of T C RSS C^-1: C moves to the centre, RSS = scale * rotation * shear along y * shear along x, T moves.
    """
    rot, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    a = math.cos(rot - sy) / math.cos(sy)
    b = -math.cos(rot - sy) * math.tan(sx) / math.cos(sy) - math.sin(rot)
    c = math.sin(rot - sy) / math.cos(sy)
    d = -math.sin(rot - sy) * math.tan(sx) / math.cos(sy) + math.cos(rot)
    m = (d / scale, -b / scale, -c / scale, a / scale)  # the determinant of (a b; c d) is 1
    x, y = -center[0] - translate[0], -center[1] - translate[1]
    return (m[0], m[1], m[0] * x + m[1] * y + center[0], m[2], m[3], m[2] * x + m[3] * y + center[1])


def _turned_size(matrix: tuple[float, ...], h: int, w: int) -> tuple[int, int]:
    a, b, c, d, e, f = matrix
    corners = [(sx * w / 2, sy * h / 2) for sx in (-1, 1) for sy in (-1, 1)]
    sizes = []
    for values, half in (([d * x + e * y + f for x, y in corners], h), ([a * x + b * y + c for x, y in corners], w)):
        low, high = min(values) + half / 2, max(values) + half / 2
        # what is less than a ten-thousandth of a pixel does not count; nor does the noise of the sines
        low, high = (int(round(v, 9) * 1e4) / 1e4 for v in (low, high))
        sizes.append(math.ceil(high) - math.floor(low))
    return sizes[0], sizes[1]


def _sample(
    array: np.ndarray, matrix: tuple[float, ...], size: tuple[int, int], interpolation: Any, fill: Any, op: str
) -> np.ndarray:
    """The values at the places that ``matrix`` names, ``fill`` outside."""
    mode = as_mode(interpolation, op, ("nearest", "bilinear"))
    h, w = array.shape[-2:]
    x, y = np.arange(size[1]) + 0.5 - size[1] * 0.5, (np.arange(size[0]) + 0.5 - size[0] * 0.5)[:, None]
    a, b, c, d, e, f = matrix
    xs, ys = a * x + b * y + (c + w * 0.5 - 0.5), d * x + e * y + (f + h * 0.5 - 0.5)
    colour = _fill(fill, array, op)
    if not array.size:
        return np.broadcast_to(colour, (*array.shape[:-2], *size)).copy()

    def taps(xi: np.ndarray, yi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = (xi >= 0) & (xi < w) & (yi >= 0) & (yi < h)
        return array[..., yi.clip(0, h - 1), xi.clip(0, w - 1)], inside

    if mode == "nearest":
        values, inside = taps(np.rint(xs).astype(np.int64), np.rint(ys).astype(np.int64))
        return np.where(inside, values, colour)
    to = work_dtype(array)
    x0, y0 = np.floor(xs).astype(np.int64), np.floor(ys).astype(np.int64)
    total, mask = np.zeros((*array.shape[:-2], *size), to), np.zeros(size, to)
    for dx in (0, 1):
        for dy in (0, 1):
            values, inside = taps(x0 + dx, y0 + dy)
            share = ((1 - np.abs(xs - (x0 + dx))) * (1 - np.abs(ys - (y0 + dy))) * inside).astype(to)
            total += values * share
            mask += share
    if fill is not None:  # torchvision's blend, which darkens a border pixel by the mask once more
        total = total * mask + (1 - mask) * colour.astype(to)
    return store(total, array.dtype)
