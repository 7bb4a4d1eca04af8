"""``tensorlite.cuda.amp``: mixed precision by PyTorch's older names, for device "cuda". Floor 7.

>>> import tensorlite as tl
>>> with tl.cuda.amp.autocast(enabled=False):
...     print(tl.is_autocast_enabled("cuda"))
False
"""

from __future__ import annotations

import functools

from tensorlite import amp
from tensorlite.dtypes import dtype, float16

custom_fwd = functools.partial(amp.custom_fwd, device_type="cuda")
custom_bwd = functools.partial(amp.custom_bwd, device_type="cuda")


class autocast(amp.autocast):
    """``tensorlite.amp.autocast("cuda", ...)``."""

    def __init__(self, enabled: bool = True, dtype: dtype = float16, cache_enabled: bool = True):
        super().__init__("cuda", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class GradScaler(amp.GradScaler):
    """``tensorlite.amp.GradScaler("cuda", ...)``."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        super().__init__("cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled)


__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]
