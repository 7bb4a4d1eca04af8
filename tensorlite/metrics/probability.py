"""Metrics of scores as such: the area under the ROC curve, perplexity. Floor 6."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.metrics.classification import binary_target, class_numbers, rows_of_scores, wrong_shapes
from tensorlite.metrics.metric import Metric, State, as_array, is_float, ratio


class AUC(Metric):
    """The area under the ROC curve: how likely a sample of class 1 scores above one of class 0, a tie counting half.

    Exact, the Mann-Whitney statistic over the number of pairs; it keeps every score (float64) and label. nan while one
    of the classes is missing.

    >>> import tensorlite as tl
    >>> tl.metrics.AUC()(tl.tensor([0.1, 0.4, 0.4, 0.8]), tl.tensor([0, 0, 1, 1]))
    0.875

    ``update(preds, target)`` takes scores of class 1 of the target's shape (logits and probabilities do alike), or
    scores (N, 2) of both classes with target (N), whose difference counts; the target is 0 or 1.

    Raises:
        ShapeError: shapes that are none of these, more classes than two.
        DTypeError: scores that are not floating point.
        ValueError: a target that is not 0 or 1, a score that is nan.
    """

    short_name = "auc"
    higher_is_better = True

    def start(self) -> State:
        return {"scores": [], "labels": []}

    def measure(self, preds: Any, target: Any) -> State:
        p, t = as_array(self, "preds", preds), as_array(self, "target", target)
        if not is_float(p):
            raise DTypeError(f"AUC: got preds of {p.dtype}; wanted floating-point scores")
        if p.ndim == t.ndim + 1 and p.shape[-1] == 2 and p.shape[:-1] == t.shape:
            scores = p[..., 1].astype(np.float64) - p[..., 0]
        elif p.shape == t.shape:
            scores = p.astype(np.float64)
        else:
            raise ShapeError(f"AUC: got preds {p.shape} and target {t.shape}; wanted (N) and (N), or (N, 2) and (N)")
        if np.isnan(scores).any():
            raise ValueError("AUC: got a score that is nan; wanted scores that can be put in order")
        return {"scores": [scores.reshape(-1)], "labels": [binary_target(self, t).reshape(-1).astype(bool)]}

    def combine(self, state: State, part: State) -> None:
        for key in state:
            state[key].extend(part[key])

    def result(self, state: State) -> float:
        values, place = np.unique(_joined(state, "scores"), return_inverse=True)
        labels = _joined(state, "labels")
        ones, zeros = (np.bincount(place[labels == kind], minlength=len(values)) for kind in (True, False))
        below = np.cumsum(zeros) - zeros  # samples of class 0 with a smaller score
        return ratio(int((ones * (2 * below + zeros)).sum()), 2 * int(ones.sum()) * int(zeros.sum()))

    def state_dict(self) -> dict[str, Tensor]:
        return {key: from_array(_joined(self._state, key)) for key in self._state}

    def restored(self, start: Any, value: np.ndarray) -> list[np.ndarray]:
        return [value]


def _joined(state: State, key: str) -> np.ndarray:
    return np.concatenate([np.empty(0, {"scores": np.float64, "labels": bool}[key]), *state[key]])


class Perplexity(Metric):
    """exp of the mean of -log(probability) that a model gave what came: among how many equals it seems to choose.

    >>> import tensorlite as tl
    >>> perplexity = tl.metrics.Perplexity()
    >>> round(perplexity(tl.zeros(2, 10), tl.tensor([3, 7])), 4)
    10.0
    >>> perplexity.update_nats(0.0, count=2)  # a mean cross-entropy, and of how many targets
    >>> round(perplexity.compute(), 4)
    3.1623

    ``update(preds, target)`` takes logits (N, C) or (N, C, ...) and class numbers (N) or (N, ...), as does
    ``cross_entropy``.

    Args:
        ignore_index: places where the target is this are left out; None leaves out none.
        dim: along which the logits of the classes lie; -1 for (N, T, C).
        name: under which it is reported.
    """

    short_name = "perplexity"
    higher_is_better = False

    def __init__(self, ignore_index: int | None = -100, *, dim: int = 1, name: str | None = None):
        self.ignore_index, self.dim = ignore_index, dim
        super().__init__(name)

    def start(self) -> State:
        return {"nats": 0.0, "count": 0}

    def measure(self, preds: Any, target: Any) -> State:
        p, t = as_array(self, "preds", preds), as_array(self, "target", target)
        if not is_float(p) or p.ndim != t.ndim + 1:
            wrong_shapes(self, p, t, self.dim)
        logits, t = rows_of_scores(self, p, t, self.dim)
        if self.ignore_index is not None:
            keep = t != self.ignore_index
            logits, t = logits[keep], t[keep]
        t = class_numbers(self, "target", t, logits.shape[1])
        x = logits.astype(np.float64)
        with np.errstate(all="ignore"):  # an impossible class has the logit -inf, and then the perplexity is infinite
            x -= x.max(1, keepdims=True)
            nats = np.log(np.exp(x).sum(1)) - np.take_along_axis(x, t[:, None], 1)[:, 0]
        return {"nats": float(nats.sum()), "count": len(t)}

    def update_nats(self, nats: float | Tensor, count: int = 1) -> None:
        """Add the mean of -log(probability), in nats, of ``count`` targets: a loss that was computed already."""
        mean = as_array(self, "nats", nats)
        if mean.size != 1:
            raise ShapeError(f"Perplexity: got nats {mean.shape}; wanted one number, the mean")
        if count < 0:
            raise ValueError(f"Perplexity: got count {count}; wanted 0 or more")
        if count:
            self.combine(self._state, {"nats": float(mean.reshape(()).astype(np.float64)) * count, "count": int(count)})

    def result(self, state: State) -> float:
        mean = ratio(state["nats"], state["count"])
        return math.inf if mean > 709.78 else math.exp(mean)  # the greatest whose exp is a float
