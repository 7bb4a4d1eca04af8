"""Images: data sets, transforms, grids of pictures, and MNIST's own file format. Floor 5."""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from tensorlite.vision.idx import read_idx

if _TYPE_CHECKING:
    from tensorlite.vision import datasets as datasets, transforms as transforms, utils as utils

__all__ = ["datasets", "read_idx", "transforms", "utils"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tensorlite.vision' has no attribute {name!r}")
    globals()[name] = module = _importlib.import_module(f"tensorlite.vision.{name}")
    return module


def __dir__() -> list:
    return sorted({*globals(), *__all__})
