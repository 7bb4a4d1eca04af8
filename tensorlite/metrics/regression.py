"""Metrics of numbers: mean absolute and squared errors, the share of variance explained. Floor 6."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.errors import DTypeError, ShapeError
from tensorlite.metrics.metric import Metric, State, as_array, ratio


def _numbers(metric: Metric, preds: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 of the same shape."""
    p, t = as_array(metric, "preds", preds), as_array(metric, "target", target)
    for what, array in (("preds", p), ("target", t)):
        if array.dtype == bool:
            raise DTypeError(f"{type(metric).__name__}: got {what} of booleans; wanted numbers")
    if p.shape != t.shape:  # (N, 1) and (N) would broadcast to (N, N)
        raise ShapeError(f"{type(metric).__name__}: got preds {p.shape} and target {t.shape}; wanted the same shape")
    return p.astype(np.float64), t.astype(np.float64)


class MeanAbsoluteError(Metric):
    """The mean of |preds - target| over all elements. preds and target: numbers of the same shape.

    >>> import tensorlite as tl
    >>> tl.metrics.MeanAbsoluteError()(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0]))
    1.0
    """

    short_name = "mae"
    higher_is_better = False

    def start(self) -> State:
        return {"total": 0.0, "count": 0}

    def measure(self, preds: Any, target: Any) -> State:
        p, t = _numbers(self, preds, target)
        with np.errstate(all="ignore"):
            return {"total": self.errors(p - t), "count": p.size}

    def errors(self, difference: np.ndarray) -> float:
        """The sum of the errors."""
        return float(np.abs(difference).sum())

    def result(self, state: State) -> float:
        return ratio(state["total"], state["count"])


class MeanSquaredError(MeanAbsoluteError):
    """The mean of (preds - target)**2 over all elements. preds and target: numbers of the same shape.

    >>> import tensorlite as tl
    >>> tl.metrics.MeanSquaredError()(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0]))
    2.0
    """

    short_name = "mse"

    def errors(self, difference: np.ndarray) -> float:
        return float((difference * difference).sum())


class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean of (preds - target)**2 over all elements. preds and target: numbers of the same shape.

    >>> import tensorlite as tl
    >>> tl.metrics.RootMeanSquaredError()(tl.tensor([1.0, 2.0]), tl.tensor([4.0, 5.0]))
    3.0
    """

    short_name = "rmse"

    def result(self, state: State) -> float:
        return super().result(state) ** 0.5


class R2Score(Metric):
    """The share of the target's variance that preds explain: 1 - sum((preds - target)**2) / sum((target - mean)**2).

    Of (N, K), the mean over the K columns. Where the target does not vary: 1 if preds are exact, else 0. nan for fewer
    than two samples.

    >>> import tensorlite as tl
    >>> tl.metrics.R2Score()(tl.tensor([1.0, 2.0, 4.0]), tl.tensor([1.0, 3.0, 5.0]))
    0.75

    Raises:
        ShapeError: preds and target that are not both (N) or both (N, K), or another K than before.
    """

    short_name = "r2"
    higher_is_better = True

    def start(self) -> State:
        return {"count": 0, "mean": np.zeros(0), "spread": np.zeros(0), "errors": np.zeros(0)}

    def measure(self, preds: Any, target: Any) -> State:
        p, t = _numbers(self, preds, target)
        if p.ndim not in (1, 2):
            raise ShapeError(f"R2Score: got preds and target {p.shape}; wanted (N) or (N, K)")
        p, t = (a[:, None] if a.ndim == 1 else a for a in (p, t))
        with np.errstate(all="ignore"):
            mean = t.sum(0) / max(len(t), 1)
            return {
                "count": len(t),
                "mean": mean,
                "spread": ((t - mean) ** 2).sum(0),
                "errors": ((t - p) ** 2).sum(0),
            }

    def combine(self, state: State, part: State) -> None:
        """By means and sums around them (Chan, Golub and LeVeque 1979): sums of squares would lose digits."""
        if not part["count"]:
            return
        if not state["count"]:
            state.update(part)
            return
        if len(state["mean"]) != len(part["mean"]):
            raise ShapeError(f"R2Score: got {len(part['mean'])} columns; wanted {len(state['mean'])}, as before")
        n, m = state["count"], part["count"]
        shift = part["mean"] - state["mean"]
        state["count"] = n + m
        state["mean"] = state["mean"] + shift * (m / (n + m))
        state["spread"] = state["spread"] + part["spread"] + shift**2 * (n * m / (n + m))
        state["errors"] = state["errors"] + part["errors"]

    def result(self, state: State) -> float:
        if state["count"] < 2:
            return float("nan")
        errors, spread = state["errors"], state["spread"]
        each = np.where(errors == 0, 1.0, 0.0)
        varies = spread != 0  # nan too: what has no number must not look like 0
        with np.errstate(all="ignore"):
            each[varies] = 1 - errors[varies] / spread[varies]
        return float(each.mean()) if each.size else float("nan")
