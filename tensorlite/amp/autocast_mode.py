"""``autocast``: regions in which each op runs in the dtype that suits it, and custom Functions inside them. Floor 5."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from tensorlite.autograd.autocast import DEVICES, current, enter, leave
from tensorlite.autograd.modes import Setting
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import cuda
from tensorlite.dtypes import as_dtype, bfloat16, dtype, float16, float64
from tensorlite.ops import policies as policies  # entering a region needs them in force


def is_autocast_available(device_type: str) -> bool:
    """Whether ``autocast`` knows a type of device."""
    return _device_type(device_type) in DEVICES


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether ops on a type of device ("cuda" if not given) are cast now."""
    return current().holds(_known("cuda" if device_type is None else device_type))


def get_autocast_dtype(device_type: str) -> dtype:
    """The dtype that autocast lowers to on a type of device: bfloat16 on "cpu" and float16 on "cuda" unless set."""
    return current().lower(_known(device_type))


def _device_type(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"autocast: expected `device_type` of type `str`, got: `{type(given)}`")
    return given


def _known(given: Any) -> str:
    if not is_autocast_available(given):
        raise RuntimeError(
            f"autocast: user specified an unsupported autocast device_type {given!r}; wanted one of "
            + ", ".join(map(repr, DEVICES))
        )
    return given


class autocast(Setting):
    """A region, or with ``@autocast(...)`` a function, in which ops run in the dtype that suits them.

    Products (``matmul``, ``linear``, convolutions, recurrent layers, attention) take their tensors in ``dtype``; losses
    and, on a GPU, what sums or exponentiates (``softmax``, ``layer_norm``, ``exp``, ``sum``, ...) in float32; ``cat``
    and its like in the widest dtype given. All others take what comes. Only floating-point tensors on ``device_type``
    are cast, never float64; in-place ops are left as they are. Casts are on the tape, and a backward runs in the dtypes
    of its forward, wherever it is called.

    Outside of all regions ops run the code that they always run: autocast costs nothing there.

    >>> import tensorlite as tl
    >>> a = tl.ones(2, 2)
    >>> with tl.autocast("cpu"):
    ...     b = a @ a
    ...     with tl.autocast("cpu", enabled=False):
    ...         c = a @ a
    >>> b.dtype, c.dtype
    (tensorlite.bfloat16, tensorlite.float32)

    Args:
        device_type: "cpu" or "cuda": where the tensors are.
        dtype: bfloat16 or float16. Default: bfloat16 on "cpu", float16 on "cuda", or what a region around says.
        enabled: False makes a region without casts, inside another too.
        cache_enabled: whether a float32 weight is cast once for the outermost region, until it is written to. Default:
            as around, and True.

    Raises:
        ValueError: device_type is no string.
        RuntimeError: it is another type of device.

    A dtype that autocast cannot lower to, or "cuda" where there is no GPU, is warned of, and nothing is cast.
    """

    def __init__(
        self, device_type: str, dtype: dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ):
        self.device = _known(device_type)
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else as_dtype(dtype, "autocast")
        self._cache_enabled = current().cache if cache_enabled is None else bool(cache_enabled)
        enabled = bool(enabled)
        if enabled and device_type == "cuda" and not cuda.device_count():
            warnings.warn("autocast: CUDA is not available. Disabling autocast.", stacklevel=2)
            enabled = False
        if enabled and self.fast_dtype not in (bfloat16, float16):
            warnings.warn(
                f"autocast: in {device_type.upper()} autocast, but the target dtype {self.fast_dtype} is not "
                "supported. Disabling autocast. Wanted tensorlite.bfloat16 or tensorlite.float16",
                stacklevel=2,
            )
            enabled = False
        self._enabled = enabled

    def clone(self) -> autocast:
        return self  # regions are left in the order in which they were entered: one stack does for all

    def __enter__(self) -> autocast:
        state = current()._replace(
            **{self.device: self._enabled, f"{self.device}_dtype": self.fast_dtype}, cache=self._cache_enabled
        )
        self._stack().append(enter(state))
        return self

    def __exit__(self, *exc: Any) -> None:
        leave(self._stack().pop())


# ---- custom Functions
def _cast(value: Any, device_type: str, d: dtype) -> Any:
    if isinstance(value, Tensor):
        fits = value.is_floating_point() and value.device.type == device_type and value.dtype is not float64
        return value.to(d) if fits else value
    if isinstance(value, dict):
        return {k: _cast(v, device_type, d) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_cast(v, device_type, d) for v in value)
    return value


def custom_fwd(fwd: Callable | None = None, *, device_type: str, cast_inputs: dtype | None = None) -> Callable:
    """A decorator of ``forward`` of a custom ``autograd.Function``, which notes what holds for its ``backward``.

    >>> import tensorlite as tl
    >>> class Product(tl.autograd.Function):
    ...     @staticmethod
    ...     @tl.amp.custom_fwd(device_type="cpu", cast_inputs=tl.float32)
    ...     def forward(ctx, a, b):
    ...         ctx.save_for_backward(a, b)
    ...         return a @ b
    ...     @staticmethod
    ...     @tl.amp.custom_bwd(device_type="cpu")
    ...     def backward(ctx, g):
    ...         a, b = ctx.saved_tensors
    ...         return g @ b.t(), a.t() @ g
    >>> with tl.autocast("cpu"):
    ...     Product.apply(tl.ones(2, 2).bfloat16(), tl.ones(2, 2)).dtype
    tensorlite.float32

    Args:
        device_type: "cpu" or "cuda".
        cast_inputs: inside a region, floating-point arguments there are cast to this dtype, and ``forward`` runs with
            autocast off. None: it runs with autocast as it is.
    """
    _known(device_type)
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        on = is_autocast_enabled(device_type)
        ctx._dtype, ctx._fwd_used_autocast = get_autocast_dtype(device_type), on and cast_inputs is None
        if not on or cast_inputs is None:
            return fwd(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, device_type, cast_inputs), **_cast(kwargs, device_type, cast_inputs))

    return forward


def custom_bwd(bwd: Callable | None = None, *, device_type: str) -> Callable:
    """A decorator of ``backward`` beside ``custom_fwd``: it runs under the autocast that its ``forward`` ran under."""
    _known(device_type)
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, enabled=ctx._fwd_used_autocast, dtype=ctx._dtype):
            return bwd(ctx, *args, **kwargs)

    return backward
