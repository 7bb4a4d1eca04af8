"""Sample inputs for an op's cases: the same values in any dtype and layout. Floor 2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import bool as bool_, dtype, float64, int64

LAYOUTS = ("contiguous", "strided", "channels_last")


class Make:
    """Makes an op's sample tensors: ``make(2, 3)`` is uniform in (-2, 2), drawn from the seed and nothing else.

    The tests run an op's cases once for each dtype and layout; the values are the same in all.
    """

    def __init__(
        self, seed: int = 0, float_type: dtype = float64, layout: str = "contiguous", requires_grad: bool = False
    ):
        self.rng = np.random.default_rng(seed)
        self.float_type, self.layout, self.requires_grad = float_type, layout, requires_grad

    def __call__(self, *shape: int, low: float = -2.0, high: float = 2.0, away: float = 0.0) -> Tensor:
        """Floats in (low, high), none nearer than ``away`` to zero."""
        values = self.rng.uniform(low, high, shape)
        if away:
            values = np.where(values < 0, np.minimum(values, -away), np.maximum(values, away))
        return self._tensor(values, self.float_type)

    def distinct(self, *shape: int) -> Tensor:
        """Floats no two of which are near each other, in random order: for max, sort, and other ops with ties."""
        n = math.prod(shape)
        return self._tensor(((self.rng.permutation(n) - n / 2 + 0.25) / 4.0).reshape(shape), self.float_type)

    def ints(self, *shape: int, low: int = 0, high: int = 5, dtype: dtype = int64) -> Tensor:
        """Integers from low (included) to high (not included)."""
        return self._tensor(self.rng.integers(low, high, shape), dtype)

    def bools(self, *shape: int) -> Tensor:
        """True or False, each with probability one half."""
        return self._tensor(self.rng.random(shape) < 0.5, bool_)

    def tensor(self, values: Any, dtype: dtype | None = None) -> Tensor:
        """These values, in the run's float dtype unless one is given."""
        return self._tensor(np.asarray(values), dtype or self.float_type)

    def _tensor(self, values: np.ndarray, d: dtype) -> Tensor:
        array = np.asarray(values).astype(d.np)
        if self.layout == "strided" and array.ndim:
            # every other element of a larger array whose axes run the other way: neither C nor Fortran order
            room = np.zeros(
                (*array.shape[:-1][::-1], array.shape[-1] * 2) if array.ndim > 1 else array.shape[0] * 2, d.np
            )
            view = room[..., ::2]
            axes = (*reversed(range(array.ndim - 1)), array.ndim - 1)
            view = view.transpose(axes)
            view[...] = array
            array = view
        elif self.layout == "channels_last" and array.ndim == 4:
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        t = from_array(array)
        return t.requires_grad_() if self.requires_grad and d.is_floating_point else t
