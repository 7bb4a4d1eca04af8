"""What every metric is: counts of batches that add up, and the number made of them; the mean of losses. Floor 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import dtype
from tensorlite.errors import DTypeError, ShapeError

State = dict[str, Any]


class Metric:
    """A number about predictions, gathered batch by batch: the metric of all batches together, not a mean of metrics.

    ``update(preds, target)`` adds a batch, ``compute()`` gives the value of all since ``reset()``, and calling the
    metric adds a batch and gives the value of that batch alone. Counts are int64 and sums float64, nothing is recorded
    for gradients. A metric of nothing is nan, as the mean of no numbers is, unless its class says otherwise.

    A metric of your own says what one batch contributes, as NumPy arrays by name, and what is made of their sum:

    >>> import tensorlite as tl
    >>> class Positives(tl.metrics.Metric):
    ...     short_name = "positives"
    ...     def start(self):
    ...         return {"hits": 0, "total": 0}
    ...     def measure(self, preds, target):
    ...         return {"hits": (preds > 0).sum().item(), "total": preds.numel()}
    ...     def result(self, state):
    ...         return state["hits"] / max(state["total"], 1)
    >>> metric = Positives()
    >>> metric(tl.tensor([1.0, -1.0]), None), metric(tl.tensor([1.0, 2.0]), None), metric.compute()
    (0.5, 1.0, 0.75)

    Args:
        name: under which it is reported; default: the ``short_name`` of its class.

    Attributes:
        higher_is_better: True or False; None where neither is better.
    """

    short_name = "metric"
    higher_is_better: bool | None = None

    def __init__(self, name: str | None = None):
        self.name = self.short_name if name is None else name
        self.reset()

    # ---- what a metric of one's own defines
    def start(self) -> State:
        """The counts of no batch."""
        raise NotImplementedError(f"{type(self).__name__}.start: not defined; wanted the counts of no batch")

    def measure(self, preds: Any, target: Any) -> State:
        """What this batch contributes to the counts."""
        raise NotImplementedError(f"{type(self).__name__}.measure: not defined; wanted the counts of a batch")

    def result(self, state: State) -> float | Tensor:
        """The value that these counts make."""
        raise NotImplementedError(f"{type(self).__name__}.result: not defined; wanted the value of the counts")

    def combine(self, state: State, part: State) -> None:
        """Add the counts of a batch; sums, unless a metric says otherwise."""
        for key in state:
            state[key] = state[key] + part[key]

    # ---- what everybody calls
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch."""
        self.combine(self._state, self.measure(*args, **kwargs))

    def compute(self) -> float | Tensor:
        """The value of all batches since ``reset()``."""
        return self.result(self._state)

    def reset(self) -> None:
        """Forget all batches."""
        self._state = self.start()

    def __call__(self, *args: Any, **kwargs: Any) -> float | Tensor:
        """Add a batch and return the value of this batch alone."""
        part, alone = self.measure(*args, **kwargs), self.start()
        self.combine(alone, part)
        self.combine(self._state, part)
        return self.result(alone)

    def state_dict(self) -> dict[str, Tensor]:
        """The counts as tensors of their own, so that a run can stop and go on in the middle of an epoch."""
        return {key: from_array(np.array(value)) for key, value in self._state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from these counts, which ``state_dict()`` of a metric made alike gave."""
        known = self.start()
        if set(known) != set(state_dict):
            raise RuntimeError(
                f"{type(self).__name__}.load_state_dict: got {sorted(state_dict)}; wanted {sorted(known)}"
            )
        self._state = {key: self.restored(known[key], np.array(as_array(self, key, state_dict[key]))) for key in known}

    def restored(self, start: Any, value: np.ndarray) -> Any:
        """One of the counts from what ``state_dict`` holds of it; ``start`` is what it is for no batch."""
        if np.ndim(start) != value.ndim:
            raise ShapeError(
                f"{type(self).__name__}.load_state_dict: got a count of {value.ndim} dimensions; "
                f"wanted {np.ndim(start)}"
            )
        return value.item() if value.ndim == 0 else value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


class Mean(Metric):
    """The weighted mean of numbers, such as losses: sum(value * weight) / sum(weight).

    >>> import tensorlite as tl
    >>> loss = tl.metrics.Mean("loss")
    >>> loss.update(2.0, weight=32)  # the mean of a batch of 32
    >>> loss.update(1.0, weight=16)
    >>> round(loss.compute(), 4)
    1.6667

    ``update(value, weight=1)`` takes numbers or tensors of any shape; the weight is broadcast to the value's shape.

    Args:
        name: under which it is reported.
        higher_is_better: whether more is better, which the mean cannot know.
    """

    short_name = "mean"

    def __init__(self, name: str | None = None, higher_is_better: bool | None = None):
        super().__init__(name)
        self.higher_is_better = higher_is_better

    def start(self) -> State:
        return {"total": 0.0, "weight": 0.0}

    def measure(self, value: Any, weight: Any = 1) -> State:
        values, weights = (
            as_array(self, what, given).astype(np.float64) for what, given in (("value", value), ("weight", weight))
        )
        try:
            weights = np.broadcast_to(weights, values.shape)
        except ValueError:
            raise ShapeError(
                f"{type(self).__name__}: got weight {weights.shape}; wanted a number or {values.shape}, as value"
            ) from None
        if (weights < 0).any():
            raise ValueError(f"{type(self).__name__}: got weight {weights.min()}; wanted 0 or more")
        with np.errstate(all="ignore"):  # a loss may be infinite or nan, and then so is the mean
            return {"total": float((values * weights).sum()), "weight": float(weights.sum())}

    def result(self, state: State) -> float:
        return ratio(state["total"], state["weight"])


def ratio(part: float, whole: float) -> float:
    """part / whole, nan where there is nothing."""
    return float(part) / float(whole) if whole else float("nan")


def as_array(metric: Metric, what: str, value: Any) -> np.ndarray:
    """The values of a tensor, an array or nested lists as a NumPy array; the tensor's memory may be shared."""
    array = value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype not in dtype.of_numpy:
        raise DTypeError(
            f"{type(metric).__name__}: got {what} of type {type(value).__name__} ({array.dtype}); "
            "wanted a tensor, an array or numbers"
        )
    return array


def is_float(array: np.ndarray) -> bool:
    """Whether its elements are of one of the floating-point types."""
    return dtype.of_numpy[array.dtype].is_floating_point
