"""What an image is: uint8 arrays, tensors, Pillow's images; the way from one to the other. Floor 5.

Every transform takes three kinds of images and gives back the kind that it got:

- a NumPy array (H, W) or (H, W, C), which is what tensorlite's data sets hold,
- a Tensor (..., C, H, W) or (H, W),
- an image of Pillow (modes 1, L, LA, RGB, RGBA, I, I;16 and F).

A cut of an array or a tensor, and a flip of an array, is a view, as NumPy's and PyTorch's own are; all else is new.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlite.autograd.modes import is_grad_enabled
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import FLOAT, as_dtype, dtype, float32, float64, get_default_dtype, iinfo, int32, int64
from tensorlite.errors import GradError
from tensorlite.utils.extras import require

MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "F")


def is_pillow(img: Any) -> bool:
    """Whether ``img`` is one of Pillow's images; Pillow is not imported for it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(img, module.Image)


def pillow() -> Any:
    """The module ``PIL.Image``."""
    return require("PIL.Image", "examples", "Pillow's images")


def planes(img: Any, op: str) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """The values of an image as an array (..., H, W), and the way back from such an array to its kind.

    Raises:
        TypeError: something that is no image.
        GradError: a tensor that wants a gradient, which would be lost.
    """
    if isinstance(img, np.ndarray):
        if img.ndim == 2:
            return img, _same
        if img.ndim == 3:
            return img.transpose(2, 0, 1), _channels_last
        raise TypeError(f"{op}: an array of shape {img.shape}; wanted an image: (H, W) or (H, W, C)")
    if isinstance(img, Tensor):
        if img.ndim < 2:
            raise TypeError(f"{op}: a tensor of shape {tuple(img.shape)}; wanted an image: (H, W) or (..., C, H, W)")
        if img.requires_grad and is_grad_enabled():
            raise GradError(f"{op}: a tensor that requires grad; wanted image.detach(): transforms carry no gradient")
        return img.detach()._arr, from_array
    if is_pillow(img):
        if img.mode not in MODES:
            raise TypeError(f"{op}: an image of mode {img.mode}; wanted {', '.join(MODES)}: call .convert('RGB') first")
        array = np.asarray(img)
        return (array if array.ndim == 2 else array.transpose(2, 0, 1)), _to_pillow
    raise TypeError(f"{op}: img should be a NumPy array, Tensor or PIL Image. Got {type(img)}")


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array.transpose(1, 2, 0)


def _to_pillow(array: np.ndarray) -> Any:
    return pillow().fromarray(np.ascontiguousarray(array if array.ndim == 2 else array.transpose(1, 2, 0)))


def store(values: np.ndarray, target: np.dtype) -> np.ndarray:
    """Computed values in an image's own element type: to integers by rounding halves up, within its limits."""
    if target.kind in "iu":
        info = np.iinfo(target)
        values = np.floor(values + 0.5).clip(info.min, info.max)
    return values.astype(target, copy=False)


def work_dtype(array: np.ndarray) -> np.dtype:
    """The type to compute in: float64 for float64, else float32."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


# ---- sizes
def get_dimensions(img: Any) -> list[int]:
    """[channels, height, width]."""
    array, _ = planes(img, "get_dimensions")
    return [1 if array.ndim == 2 else array.shape[-3], *array.shape[-2:]]


def get_image_size(img: Any) -> list[int]:
    """[width, height]."""
    return get_dimensions(img)[:0:-1]


def get_image_num_channels(img: Any) -> int:
    """The number of channels."""
    return get_dimensions(img)[0]


# ---- from one kind to another
def to_tensor(pic: Any) -> Tensor:
    """An array (H, W[, C]) or an image of Pillow as a tensor (C, H, W).

    uint8 values, 0 to 255, become floats from 0 to 1 (of the default dtype); other types keep their values, those
    of uint16 (mode I;16) as int32.

    >>> import numpy as np
    >>> to_tensor(np.array([[0, 51], [102, 255]], np.uint8))
    tensor([[[0.0000, 0.2000],
             [0.4000, 1.0000]]])

    Raises:
        TypeError: anything else, tensors too.
        ValueError: an array of other dimensions.
    """
    array = _chw(pic, "to_tensor")
    if array.dtype == np.bool_ and is_pillow(pic):
        return from_array(array.astype(get_default_dtype().np))
    if array.dtype == np.uint8:
        target = get_default_dtype().np
        out = array.astype(target, order="C")
        out /= target.type(255)
        return from_array(out)
    return from_array(np.array(array, order="C"))


def pil_to_tensor(pic: Any) -> Tensor:
    """An image of Pillow, or an array (H, W[, C]), as a tensor (C, H, W) with the same values."""
    array = _chw(pic, "pil_to_tensor")
    return from_array(np.array(array, np.uint8 if array.dtype == np.bool_ else array.dtype, order="C"))


def _chw(pic: Any, op: str) -> np.ndarray:
    if isinstance(pic, Tensor) or not (isinstance(pic, np.ndarray) or is_pillow(pic)):
        raise TypeError(f"{op}: pic should be PIL Image or ndarray. Got {type(pic)}")
    if isinstance(pic, np.ndarray) and pic.ndim not in (2, 3):
        raise ValueError(f"{op}: pic should be 2/3 dimensional. Got {pic.ndim} dimensions.")
    array = planes(pic, op)[0]
    if array.dtype == np.uint16:  # tensors have no such type; mode I;16 is of it
        array = array.astype(np.int32)
    return array[None] if array.ndim == 2 else array


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """A tensor (C, H, W) or (H, W), or an array (H, W[, C]), as an image of Pillow.

    The values of a floating tensor, from 0 to 1, become 0 to 255 (cut, not rounded); one channel of int16, int32 or
    of a float32 array keeps its values (modes I;16, I, F). ``mode`` picks between modes of as many channels.

    Raises:
        TypeError: something that is no tensor or array, or of an element type that Pillow does not have.
        ValueError: other dimensions, more than four channels, a mode that does not fit.
    """
    if isinstance(pic, Tensor):
        if pic.ndim not in (2, 3):
            raise ValueError(f"to_pil_image: pic should be 2/3 dimensional. Got {pic.ndim} dimensions.")
        array = pic.detach().cpu()._arr
        if array.dtype.kind not in "iub" and mode != "F":
            array = (array.astype(work_dtype(array)) * 255).astype(np.int64).astype(np.uint8)
        array = array if array.ndim == 2 else array.transpose(1, 2, 0)
    elif isinstance(pic, np.ndarray):
        if pic.ndim not in (2, 3):
            raise ValueError(f"to_pil_image: pic should be 2/3 dimensional. Got {pic.ndim} dimensions.")
        array = pic
    else:
        raise TypeError(f"to_pil_image: pic should be Tensor or ndarray. Got {type(pic)}.")
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels > 4 or channels == 0:
        raise ValueError(f"to_pil_image: pic should not have > 4 channels. Got {channels} channels.")
    if channels == 1:
        array = array.reshape(array.shape[:2])
        fits = {"uint8": "L", "int16": "I;16", "int32": "I", "float32": "F", "bool": "1"}.get(array.dtype.name)
        allowed: tuple = (fits,)
    else:
        allowed = {2: ("LA",), 3: ("RGB", "YCbCr", "HSV"), 4: ("RGBA", "CMYK", "RGBX")}[channels]
        fits = allowed[0] if array.dtype == np.uint8 else None
    if fits is None:
        raise TypeError(f"to_pil_image: {channels} channels of {array.dtype}; wanted uint8 (one channel: also int16, "
                        "int32, float32 or bool)")  # fmt: skip
    if mode is not None and mode not in allowed:
        raise ValueError(
            f"to_pil_image: mode {mode!r} for {channels} channels of {array.dtype}; wanted one of {allowed}"
        )
    image = pillow()
    if mode is None or mode == fits:
        return image.fromarray(np.ascontiguousarray(array.view(np.uint16) if fits == "I;16" else array))
    return image.frombytes(mode, (array.shape[1], array.shape[0]), np.ascontiguousarray(array).tobytes())


# ---- element types and scales
def convert_image_dtype(image: Any, dtype: Any = float32) -> Any:
    """A tensor or array in another element type, its values scaled to it: 0 to 1 in floats, 0 to 255 in uint8, etc.

    >>> import tensorlite as tl
    >>> convert_image_dtype(tl.tensor([[0, 255]], dtype=tl.uint8))
    tensor([[0., 1.]])

    Raises:
        RuntimeError: float32 to int32 or int64, float64 to int64, which would not be exact.
    """
    target = as_dtype(dtype, "convert_image_dtype")
    if not isinstance(image, Tensor):
        array, back = planes(image, "convert_image_dtype")
        return back(convert_image_dtype(from_array(array), target)._arr)
    source = image.dtype
    if source is target:
        return image
    if source.is_floating_point:
        if target.is_floating_point:
            return image.to(target)
        if (source is float32 and target in (int32, int64)) or (source is float64 and target is int64):
            raise RuntimeError(f"convert_image_dtype: The cast from {source} to {target} cannot be performed safely.")
        # a thousandth less than max + 1: the values from 0 to 1 are shared out evenly, and 1 stays in range
        return (image * (_largest(target) + 1.0 - 1e-3)).to(target)
    if target.is_floating_point:
        return image.to(target) / _largest(source)
    if _largest(source) > _largest(target):
        return (image // ((_largest(source) + 1) // (_largest(target) + 1))).to(target)
    return image.to(target) * ((_largest(target) + 1) // (_largest(source) + 1))


def _largest(d: dtype) -> int:
    return 1 if d.category == FLOAT or d.name == "bool" else iinfo(d).max


def normalize(tensor: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """(tensor - mean) / std, with a mean and a standard deviation for each channel of (..., C, H, W).

    >>> import tensorlite as tl
    >>> normalize(tl.ones(1, 1, 2), [0.5], [0.25])
    tensor([[[2., 2.]]])

    Raises:
        TypeError: no tensor, or not of floats.
        ValueError: fewer than three dimensions, a standard deviation of zero.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"normalize: img should be Tensor Image. Got {type(tensor)}")
    if not tensor.is_floating_point():
        raise TypeError(f"normalize: Input tensor should be a float tensor. Got {tensor.dtype}.")
    if tensor.ndim < 3:
        raise ValueError(
            "normalize: Expected tensor to be a tensor image of size (..., C, H, W). Got tensor.size() = "
            f"{tuple(tensor.shape)}"
        )
    m, s = _column(_numbers(mean), tensor.dtype), _column(_numbers(std), tensor.dtype)
    if not s._arr.all():
        raise ValueError(f"normalize: std {list(std)} leads to division by zero; wanted other values than 0")
    return tensor.sub_(m).div_(s) if inplace else (tensor - m) / s


def _numbers(values: Any) -> tuple:
    return tuple(values.tolist()) if isinstance(values, (Tensor, np.ndarray)) else tuple(values)


@lru_cache(maxsize=64)
def _column(values: tuple, d: dtype) -> Tensor:
    return from_array(np.array(values, np.float64).astype(d.np).reshape(-1, 1, 1))
