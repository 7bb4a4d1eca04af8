"""Constants beside arrays: in the dtype that computes, as each array module likes them best. Floor 3."""

from typing import Any

import numpy as np


def constant(xp: Any, value: Any, dtype: Any) -> Any:
    """``value``, a number or an array of one, in ``dtype``.

    To NumPy a 0-d array costs two thirds of what a number does. CuPy wants numbers, which go to the GPU with the
    kernel; an array would be copied there first.
    """
    if xp is np:
        return np.asarray(value, dtype)
    return value.astype(dtype) if isinstance(value, xp.ndarray) else dtype.type(value)
