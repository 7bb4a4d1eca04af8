"""Python numbers among tensors: 0-d tensors of the dtype that PyTorch's promotion gives them. Floor 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import config
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.backends import CPU, Device, backend
from tensorlite.dtypes import BOOL, FLOAT, INTEGER, dtype, get_default_dtype, int64

_cache: dict = {}
config.CUDA_EMULATION.listeners.append(lambda _: _cache.clear())
_CATEGORY = {bool: BOOL, int: INTEGER, float: FLOAT}


def numbers() -> list[Tensor]:
    """The tensors that stand for Python numbers now."""
    return list(_cache.values())


def constant(value: float, d: dtype, device: Device) -> Tensor:
    """A number as a 0-d tensor on a device: one for each value, made by a kernel that gets it as an argument."""
    key = (value or str(value), d, device)
    found = _cache.get(key)
    if found is None:
        if len(_cache) > 4096:
            _cache.clear()
        found = _cache[key] = from_array(backend(device).number(value, d.np), device=device)
    return found


def lift(value: Any, like: Any) -> Any:
    """``value`` as a 0-d tensor beside ``like``; whatever is not a Python number comes back as it was.

    A number never widens a tensor: it takes the tensor's dtype unless its kind (bool < int < float) is higher.
    """
    kind = type(value)
    if kind not in _CATEGORY or not isinstance(like, Tensor):
        return value
    d = like._spec.dtype
    if _CATEGORY[kind] > d.category:
        d = get_default_dtype() if kind is float else int64
    device = like._spec.device
    key = (value or str(value), kind, d, device)  # 0.0 == -0.0, but they are two numbers
    found = _cache.get(key)
    if found is not None:
        return found
    if kind is int and d.category == INTEGER:
        if not -(2**63) <= value < 2**63:
            raise OverflowError(f"number {value}: cannot be converted to int64 without overflow")
        array = np.asarray(value, np.int64).astype(d.np)
    else:
        with np.errstate(over="ignore"):
            array = np.asarray(value).astype(d.np)
    made = from_array(array if device is CPU else backend(device).number(array[()], d.np), device=device)
    if len(_cache) > 4096:
        _cache.clear()
    _cache[key] = made
    return made
