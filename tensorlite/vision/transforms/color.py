"""Colours of images changed: grey, brightness, contrast, saturation, hue. Floor 5.

Integer images reach from 0 to the largest number of their type, floating ones from 0 to 1; results are cut to that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.vision.transforms.images import convert_image_dtype, is_pillow, planes, work_dtype


def rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """0.2989 R + 0.587 G + 0.114 B (Pillow's own formula for its images), in one channel or in three equal ones.

    A grey array is (H, W), a grey tensor (..., 1, H, W).
    """
    if num_output_channels not in (1, 3):
        raise ValueError(f"rgb_to_grayscale: num_output_channels should be either 1 or 3; got {num_output_channels}")
    if is_pillow(img):
        grey = img.convert("L")
        return grey if num_output_channels == 1 else grey.convert("RGB")
    array, back = planes(img, "rgb_to_grayscale")
    grey = _grey(array, "rgb_to_grayscale")
    if isinstance(img, np.ndarray):
        return grey.copy() if num_output_channels == 1 else np.stack([grey] * 3, axis=-1)
    return back(np.stack([grey] * num_output_channels, axis=-3))


to_grayscale = rgb_to_grayscale


def _grey(array: np.ndarray, op: str) -> np.ndarray:
    """(..., H, W), in the type of the image."""
    channels = _channels(array, op)
    if array.ndim == 2:
        return array
    if channels == 1:
        return array[..., 0, :, :]
    to = work_dtype(array)
    red, green, blue = (array[..., k, :, :].astype(to) for k in range(3))
    grey = red * to.type(0.2989) + green * to.type(0.587) + blue * to.type(0.114)
    result: np.ndarray = grey.astype(array.dtype)
    return result


def _channels(array: np.ndarray, op: str) -> int:
    channels = 1 if array.ndim == 2 else array.shape[-3]
    if channels not in (1, 3):
        raise TypeError(f"{op}: Input image permitted channel values are [1, 3], but found {channels}")
    return channels


def _blend(one: np.ndarray, other: Any, ratio: float) -> np.ndarray:
    """ratio * one + (1 - ratio) * other, cut to the image's range and to its type."""
    to = work_dtype(one)
    bound = np.iinfo(one.dtype).max if one.dtype.kind in "iu" else 1
    mixed = one.astype(to) * to.type(ratio) + np.asarray(other, to) * to.type(1.0 - ratio)
    result: np.ndarray = mixed.clip(0, bound).astype(one.dtype)
    return result


def _positive(name: str, factor: float) -> None:
    if factor < 0:
        raise ValueError(f"adjust_{name}: {name}_factor ({factor}) is not non-negative.")


def adjust_brightness(img: Any, brightness_factor: float) -> Any:
    """The values times a factor of 0 (black) or more; 1 changes nothing."""
    _positive("brightness", brightness_factor)
    array, back = planes(img, "adjust_brightness")
    _channels(array, "adjust_brightness")
    return back(_blend(array, 0.0, brightness_factor))


def adjust_contrast(img: Any, contrast_factor: float) -> Any:
    """The distance of the values from the mean grey times a factor of 0 (all grey) or more."""
    _positive("contrast", contrast_factor)
    array, back = planes(img, "adjust_contrast")
    grey = _grey(array, "adjust_contrast")
    mean = grey.mean(axis=(-2, -1), dtype=work_dtype(array), keepdims=True)
    return back(_blend(array, mean if array.ndim == 2 else np.expand_dims(mean, -3), contrast_factor))


def adjust_saturation(img: Any, saturation_factor: float) -> Any:
    """The distance of the values from their grey times a factor of 0 (grey) or more; grey images stay as they are."""
    _positive("saturation", saturation_factor)
    array, back = planes(img, "adjust_saturation")
    if _channels(array, "adjust_saturation") == 1:
        return img
    return back(_blend(array, np.expand_dims(_grey(array, "adjust_saturation"), -3), saturation_factor))


def adjust_hue(img: Any, hue_factor: float) -> Any:
    """The colours moved round the circle by ``hue_factor`` of it, -0.5 to 0.5; grey images stay as they are."""
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"adjust_hue: hue_factor ({hue_factor}) is not in [-0.5, 0.5].")
    array, back = planes(img, "adjust_hue")
    if _channels(array, "adjust_hue") == 1:
        return img
    # convert_image_dtype takes arrays (H, W): any leading sizes may be laid into the rows
    flat = array.reshape(-1, array.shape[-1])
    rgb = convert_image_dtype(flat, "float32").reshape(array.shape)
    high, low = rgb.max(-3), rgb.min(-3)
    span = high - low
    grey = span == 0
    part = (high[..., None, :, :] - rgb) / np.where(grey, 1, span)[..., None, :, :]
    red, green, blue = (part[..., k, :, :] for k in range(3))
    is_red, is_green = rgb[..., 0, :, :] == high, rgb[..., 1, :, :] == high
    sixths = np.where(is_red, blue - green, np.where(is_green, 2 + red - blue, 4 + green - red))
    hue = (np.where(grey, 0, sixths) / 6 + np.float32(hue_factor)) % 1
    # in each sixth of the circle one colour is high, one is low, one between: all three are one curve, shifted
    curves = [high - span * (np.minimum(k, 4 - k)).clip(0, 1) for k in ((n + hue * 6) % 6 for n in (5, 3, 1))]
    out = np.stack(curves, axis=-3).clip(0, 1).astype(np.float32)
    return back(convert_image_dtype(out.reshape(flat.shape), array.dtype).reshape(array.shape))
