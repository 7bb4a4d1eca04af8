"""``GradScaler``: a loss scaled so that small gradients survive half precision, and a scale that adapts. Floor 5."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import Device, cuda
from tensorlite.dtypes import float16, float32, int32
from tensorlite.ops.create import full, zeros
from tensorlite.ops.scaling import amp_unscale, amp_update_scale
from tensorlite.ops.update import skipped_where
from tensorlite.optim.optimizer import Optimizer, steps_by_table

READY, UNSCALED, STEPPED = "ready", "unscaled", "stepped"


class GradScaler:
    """Scales the loss, takes the scale out of the gradients again, and skips steps whose gradients overflowed.

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.ones(2))
    >>> opt, scaler = tl.optim.SGD([w], lr=0.5), tl.amp.GradScaler("cpu", init_scale=1024.0)
    >>> scaler.scale(w.sum()).backward()
    >>> scaler.step(opt)
    >>> scaler.update()
    >>> w.tolist(), scaler.get_scale()
    ([0.5, 0.5], 1024.0)

    An inf or nan among an optimizer's gradients skips its step and multiplies the scale by ``backoff_factor``; after
    ``growth_interval`` steps without one it is multiplied by ``growth_factor``. Scale, count and what was found are
    tensors on the device. On a GPU, and in a function that ``compile`` records, nothing is read on the host: the step
    itself does nothing where an infinity was found (the hooks of the optimizer run, and schedulers count it).

    Args:
        device: "cuda" or "cpu". "cuda" where there is no GPU is warned of, and turns the scaler off.
        init_scale: the first scale.
        growth_factor, backoff_factor, growth_interval: as said above.
        enabled: False makes every method pass things through.

    Raises:
        AssertionError: growth_factor is not above 1, or backoff_factor not below 1.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        self._device, self._enabled = device, bool(enabled)
        if self._enabled and Device(device).type == "cuda" and not cuda.device_count():
            warnings.warn("GradScaler: is enabled, but CUDA is not available. Disabling.", stacklevel=2)
            self._enabled = False
        if not self._enabled:
            return
        if growth_factor <= 1.0:
            raise AssertionError(f"GradScaler: got growth_factor {growth_factor}; the growth factor must be > 1.0.")
        if backoff_factor >= 1.0:
            raise AssertionError(f"GradScaler: got backoff_factor {backoff_factor}; the backoff factor must be < 1.0.")
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._begin(init_scale, 0)

    def _begin(self, scale: float, steps: int) -> None:
        self._scale = full((), float(scale), dtype=float32, device=self._device)
        self._growth_tracker = full((), int(steps), dtype=int32, device=self._device)
        self._scaled = False  # whether ``scale`` was ever called
        self._stages: dict[int, str] = {}  # of each optimizer, by its id, since the last update
        self._found: dict[int, dict[Any, Tensor]] = {}  # of each optimizer: device -> found_inf

    # ---- one step
    def scale(self, outputs: Any) -> Any:
        """A tensor times the scale, or an iterable of them: lists and tuples stay such, others become a ``map``."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            self._scaled = True
            return outputs * self._scale.to(device=outputs.device)
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(map(self.scale, outputs))
        if isinstance(outputs, Iterable):
            return map(self.scale, outputs)
        raise ValueError(
            f"GradScaler.scale: got {type(outputs).__name__}; outputs must be a Tensor or an iterable of Tensors"
        )

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer by the scale now, to clip them before ``step``.

        Raises:
            RuntimeError: it was done already since the last ``update``, or ``step`` was.
            ValueError: a gradient is float16.
        """
        if not self._enabled:
            return
        self._check_begun("unscale_")
        stage = self._stages.get(id(optimizer), READY)
        if stage is UNSCALED:
            raise RuntimeError(
                "GradScaler: unscale_() has already been called on this optimizer since the last update()."
            )
        if stage is STEPPED:
            raise RuntimeError("GradScaler: unscale_() is being called after step().")
        by_device: dict[Any, list[Tensor]] = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.dtype is float16:
                        raise ValueError("GradScaler: Attempting to unscale FP16 gradients.")
                    by_device.setdefault(p.grad.device, []).append(p.grad)
        found = {}
        with no_grad():
            for device, grads in by_device.items():
                found[device] = zeros((), dtype=float32, device=device)
                amp_unscale(grads, found[device], self._scale.to(device=device))
        self._found[id(optimizer)], self._stages[id(optimizer)] = found, UNSCALED

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(...)`` with unscaled gradients, or nothing where one of them is inf or nan.

        Raises:
            RuntimeError: it was done already since the last ``update``, or a closure is given.
            AssertionError: ``scale`` was never called, or there is no gradient.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("GradScaler: Closure use is not currently supported if GradScaler is enabled.")
        self._check_begun("step")
        if self._stages.get(id(optimizer)) is STEPPED:
            raise RuntimeError("GradScaler: step() has already been called since the last update().")
        if self._stages.get(id(optimizer)) is not UNSCALED:
            self.unscale_(optimizer)
        found = self._found[id(optimizer)]
        if not found:
            raise AssertionError("GradScaler: No inf checks were recorded for this optimizer.")
        on_host = recording.active() is None and all(device.type == "cpu" for device in found)
        result = None
        if not on_host and steps_by_table(optimizer):
            with skipped_where(self._spread(found)):
                result = optimizer.step(*args, **kwargs)
        elif not any(f.item() for f in found.values()):
            result = optimizer.step(*args, **kwargs)
        self._stages[id(optimizer)] = STEPPED
        return result

    def _spread(self, found: dict[Any, Tensor]) -> dict[Any, Tensor]:
        """What was found on any device, on each of them: a step is skipped whole."""
        if len(found) == 1:
            return found
        return {d: sum(f.to(device=d) for f in found.values()) for d in found}  # type: ignore[misc]

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last ``update`` found; or set it.

        Raises:
            AssertionError: no optimizer was stepped or unscaled; new_scale is no tensor of one element on the device of
                this scaler without a gradient.
        """
        if not self._enabled:
            return
        self._check_begun("update")
        if new_scale is None:
            found = [f.to(device=self._scale.device) for by in self._found.values() for f in by.values()]
            if not found:
                raise AssertionError("GradScaler: No inf checks were recorded prior to update.")
            amp_update_scale(
                self._scale,
                self._growth_tracker,
                found,
                self._growth_factor,
                self._backoff_factor,
                self._growth_interval,
            )
        elif isinstance(new_scale, Tensor):
            if new_scale.device.type != self._scale.device.type or new_scale.numel() != 1 or new_scale.requires_grad:
                raise AssertionError(
                    f"GradScaler: got new_scale {list(new_scale.shape)} on {new_scale.device}; new_scale should be a "
                    f"float or a 1-element tensor on {self._device} with requires_grad=False."
                )
            self._scale.copy_(new_scale.reshape(()))
        else:
            self._scale.fill_(float(new_scale))
        self._stages, self._found = {}, {}

    def _check_begun(self, name: str) -> None:
        if not self._scaled:
            raise AssertionError(
                f"GradScaler: Attempted {name} but _scale is None.  This may indicate your script did not use "
                "scaler.scale(loss or outputs) earlier in the iteration."
            )

    # ---- its settings
    def get_scale(self) -> float:
        """The scale, read on the host; 1.0 where the scaler is off."""
        return self._scale.item() if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by when it grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Let the scale grow by another factor."""
        self._growth_factor = new_factor
        recording.changed()

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after an overflow."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Let the scale shrink by another factor."""
        self._backoff_factor = new_factor
        recording.changed()

    def get_growth_interval(self) -> int:
        """After how many good steps the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Let the scale grow after another number of good steps."""
        self._growth_interval = new_interval
        recording.changed()

    def is_enabled(self) -> bool:
        """Whether the scaler does anything."""
        return self._enabled

    # ---- saving
    def state_dict(self) -> dict[str, Any]:
        """Scale, count of good steps and settings, under PyTorch's keys; empty where the scaler is off."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker.item(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; a RuntimeError where that is empty."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "GradScaler: The source state dict is empty, possibly because it was saved from a disabled instance of "
                "GradScaler."
            )
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._scale.fill_(float(state_dict["scale"]))
        self._growth_tracker.fill_(int(state_dict["_growth_tracker"]))
        recording.changed()

    def __getstate__(self) -> dict[str, Any]:
        if self._enabled and self._stages:
            raise AssertionError(
                "GradScaler: A GradScaler instance may only be pickled at the beginning of an iteration, or at the end "
                "after scaler.update()."
            )
        return {"device": self._device, "enabled": self._enabled, **self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._device, self._enabled = state["device"], state["enabled"]
        if self._enabled:
            self._growth_factor, self._backoff_factor = state["growth_factor"], state["backoff_factor"]
            self._growth_interval = state["growth_interval"]
            self._begin(state["scale"], state["_growth_tracker"])


def _held(scaler: GradScaler) -> list[tuple[str, Any]]:
    return [("scale", scaler._scale), ("growth_tracker", scaler._growth_tracker)] if scaler._enabled else []


def _facts(scaler: GradScaler) -> tuple:
    if not scaler._enabled:
        return (False,)
    return (True, id(scaler._scale), scaler._growth_factor, scaler._backoff_factor, scaler._growth_interval)


recording.Kind(GradScaler, _held, _facts)
