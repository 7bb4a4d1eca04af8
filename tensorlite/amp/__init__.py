"""``tensorlite.amp``: mixed precision. ``autocast`` picks each op's dtype, ``GradScaler`` scales the loss. Floor 5.

>>> import tensorlite as tl
>>> model, x = tl.nn.Linear(4, 2), tl.ones(3, 4)
>>> with tl.amp.autocast("cpu"):
...     y = model(x)
...     loss = tl.nn.functional.mse_loss(y, tl.zeros(3, 2))
>>> y.dtype, loss.dtype
(tensorlite.bfloat16, tensorlite.float32)
"""

from tensorlite.amp.autocast_mode import (
    autocast as autocast,
    custom_bwd as custom_bwd,
    custom_fwd as custom_fwd,
    get_autocast_dtype as get_autocast_dtype,
    is_autocast_available as is_autocast_available,
    is_autocast_enabled as is_autocast_enabled,
)
from tensorlite.amp.grad_scaler import GradScaler as GradScaler

__all__ = [
    "GradScaler",
    "autocast",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_enabled",
]
