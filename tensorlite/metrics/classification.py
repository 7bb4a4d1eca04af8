"""Metrics of classes: accuracy, precision, recall, F1, the confusion matrix. Floor 6."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.metrics.metric import Metric, State, as_array, is_float, ratio

AVERAGES = ("macro", "micro", "weighted", "none", "binary")


class ClassMetric(Metric):
    """Compares predicted classes with true ones. Predictions come in three forms, told apart by dtype and shape:

    - scores of each class, floating point (N, C) or (N, C, ...), with target (N) or (N, ...) of class numbers: the
      greatest score names the class, the first of several. Logits and probabilities do alike.
    - scores of the second of two classes, floating point of the target's shape: above ``threshold`` means class 1.
      0.5 is for probabilities; for logits give 0. The target is 0 or 1 (integers, booleans or floats).
    - class numbers, integers or booleans of the target's shape.

    Args:
        num_classes: how many classes there are; default: as many as there are scores, or as were seen.
        threshold: above which the score of the second class decides for it.
        ignore_index: places where the target is this are left out.
        dim: along which the scores of the classes lie.
        name: under which it is reported.

    Raises:
        ShapeError: shapes that are none of these forms.
        DTypeError: class numbers that are not integers.
        ValueError: a class below 0, or not below the number of classes.
    """

    higher_is_better = True

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        threshold: float = 0.5,
        ignore_index: int | None = None,
        dim: int = 1,
        name: str | None = None,
    ):
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"{type(self).__name__}: got num_classes {num_classes}; wanted 1 or more")
        self.num_classes, self.threshold, self.ignore_index, self.dim = num_classes, threshold, ignore_index, dim
        super().__init__(name)

    def classes(self, preds: Any, target: Any) -> tuple[np.ndarray, np.ndarray, int | None]:
        """Predicted and true class numbers, int64 (M,), and how many classes there are where that is known."""
        p, t = as_array(self, "preds", preds), as_array(self, "target", target)
        count = self.num_classes
        if is_float(p) and p.ndim == t.ndim + 1:
            scores, t = rows_of_scores(self, p, t, self.dim)
            p, count = scores.argmax(1), self._agree(scores.shape[1])
        elif p.shape != t.shape:
            wrong_shapes(self, p, t, self.dim)
        elif is_float(p):
            p, t, count = p > self.threshold, binary_target(self, t, self.ignore_index), self._agree(2)
        p, t = p.reshape(-1), t.reshape(-1)
        if self.ignore_index is not None:
            keep = t != self.ignore_index
            p, t = p[keep], t[keep]
        return class_numbers(self, "preds", p, count), class_numbers(self, "target", t, count), count

    def _agree(self, count: int) -> int:
        if self.num_classes not in (None, count):
            raise ShapeError(f"{type(self).__name__}: got scores of {count} classes; wanted {self.num_classes}")
        return count


def wrong_shapes(metric: Metric, p: np.ndarray, t: np.ndarray, dim: int) -> None:
    raise ShapeError(
        f"{type(metric).__name__}: got preds {p.shape} ({p.dtype}) and target {t.shape} ({t.dtype}); wanted two of "
        f"the same shape, or floating-point scores with the classes along dimension {dim} and target without it"
    )


def rows_of_scores(metric: Metric, p: np.ndarray, t: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M, C) and the target (M,) of scores that have one dimension more, ``dim``, than the target."""
    dim = 0 if p.ndim == 1 else dim  # one sample without a batch
    if not -p.ndim <= dim < p.ndim:
        wrong_shapes(metric, p, t, dim)
    p = np.moveaxis(p, dim, -1)
    if p.shape[:-1] != t.shape:
        wrong_shapes(metric, np.moveaxis(p, -1, dim), t, dim)
    if p.shape[-1] < 2:
        raise ShapeError(
            f"{type(metric).__name__}: got scores of {p.shape[-1]} classes; wanted 2 or more, or preds and target of "
            "the same shape (scores of the second of two classes)"
        )
    return p.reshape(-1, p.shape[-1]), t.reshape(-1)


def binary_target(metric: Metric, t: np.ndarray, ignore: int | None = None) -> np.ndarray:
    """The target as integers 0 and 1 (and ``ignore``), which it must be for scores of one class."""
    wrong = (t != 0) & (t != 1)
    if ignore is not None:
        wrong &= t != ignore
    if wrong.any():
        raise ValueError(
            f"{type(metric).__name__}: got target {t[wrong][0]} for scores of the target's shape; wanted 0 or 1 "
            "(for more classes, scores of each)"
        )
    return t.astype(np.int64)


def class_numbers(metric: Metric, what: str, ids: np.ndarray, count: int | None) -> np.ndarray:
    if is_float(ids):
        raise DTypeError(f"{type(metric).__name__}: got {what} of {ids.dtype}; wanted integers, the classes' numbers")
    ids = ids.astype(np.int64)
    wrong = ids < 0 if count is None else (ids < 0) | (ids >= count)
    if wrong.any():
        wanted = "0 or more" if count is None else f"0 to {count - 1}"
        raise ValueError(f"{type(metric).__name__}: got class {ids[wrong][0]} in {what}; wanted {wanted}")
    return ids


# ---- shares of right answers
class Accuracy(ClassMetric):
    """The share of right answers: right / all. Forms of preds and target, arguments and errors: see ``ClassMetric``.

    >>> import tensorlite as tl
    >>> accuracy = tl.metrics.Accuracy()
    >>> accuracy(tl.tensor([[2.0, 1.0], [0.0, 3.0]]), tl.tensor([0, 0]))
    0.5
    >>> accuracy(tl.tensor([0.2, 0.7]), tl.tensor([0.0, 1.0]))  # probabilities of class 1
    1.0
    >>> accuracy.compute()
    0.75
    """

    short_name = "accuracy"

    def start(self) -> State:
        return {"right": 0, "total": 0}

    def measure(self, preds: Any, target: Any) -> State:
        p, t, _ = self.classes(preds, target)
        return {"right": int((p == t).sum()), "total": len(t)}

    def result(self, state: State) -> float:
        return ratio(state["right"], state["total"])


class TopKAccuracy(Accuracy):
    """The share of samples whose class is among the k of the greatest scores; of equal scores the first is greater.

    >>> import tensorlite as tl
    >>> tl.metrics.TopKAccuracy(2)(tl.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), tl.tensor([1, 2]))
    0.5

    ``update(preds, target)`` takes scores (N, C) or (N, C, ...) and class numbers (N) or (N, ...).

    Args:
        k: how many guesses are allowed, at most C.
        ignore_index, dim, name: as in ``ClassMetric``; the name is "top<k>_accuracy" unless given.
    """

    def __init__(self, k: int = 5, *, ignore_index: int | None = None, dim: int = 1, name: str | None = None):
        if k < 1:
            raise ValueError(f"TopKAccuracy: got k {k}; wanted 1 or more")
        self.k = k
        super().__init__(ignore_index=ignore_index, dim=dim, name=f"top{k}_accuracy" if name is None else name)

    def measure(self, preds: Any, target: Any) -> State:
        p, t = as_array(self, "preds", preds), as_array(self, "target", target)
        if not is_float(p) or p.ndim != t.ndim + 1:
            wrong_shapes(self, p, t, self.dim)
        scores, t = rows_of_scores(self, p, t, self.dim)
        if self.k > scores.shape[1]:
            raise ShapeError(f"TopKAccuracy: got scores of {scores.shape[1]} classes; wanted {self.k} or more for k")
        if self.ignore_index is not None:
            keep = t != self.ignore_index
            scores, t = scores[keep], t[keep]
        t = class_numbers(self, "target", t, scores.shape[1])
        own = np.take_along_axis(scores, t[:, None], 1)
        before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < t[:, None]))
        right = (before.sum(1) < self.k) & (own[:, 0] == own[:, 0])  # a nan is greater than nothing
        return {"right": int(right.sum()), "total": len(t)}


# ---- counts of each class
class _Counted(ClassMetric):
    """Counts whose last dimensions are classes and grow with the classes seen."""

    def combine(self, state: State, part: State) -> None:
        for key, new in part.items():
            old = state[key]
            sum_ = np.zeros(np.maximum(old.shape, new.shape), np.int64)
            for counts in (old, new):
                sum_[tuple(slice(n) for n in counts.shape)] += counts
            state[key] = sum_

    def seen(self, p: np.ndarray, t: np.ndarray, count: int | None) -> int:
        """How many classes this batch shows."""
        return count if count is not None else 1 + int(max(p.max(initial=-1), t.max(initial=-1)))


class _FromCounts(_Counted):
    """A quotient of each class's counts, and the average of the classes' quotients."""

    def __init__(
        self,
        average: str = "macro",
        num_classes: int | None = None,
        *,
        zero_division: float = 0.0,
        threshold: float = 0.5,
        ignore_index: int | None = None,
        dim: int = 1,
        name: str | None = None,
    ):
        if average not in AVERAGES:
            raise ValueError(f"{type(self).__name__}: got average {average!r}; wanted one of {', '.join(AVERAGES)}")
        if average == "binary" and num_classes not in (None, 2):
            raise ValueError(f"{type(self).__name__}: got num_classes {num_classes}; wanted 2 for average 'binary'")
        self.average, self.zero_division = average, zero_division
        classes = 2 if average == "binary" else num_classes
        super().__init__(classes, threshold=threshold, ignore_index=ignore_index, dim=dim, name=name)

    def quotient(self, hits: np.ndarray, guessed: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is divided by what."""
        raise NotImplementedError

    def start(self) -> State:
        return {"counts": np.zeros((3, self.num_classes or 0), np.int64)}

    def measure(self, preds: Any, target: Any) -> State:
        p, t, count = self.classes(preds, target)
        seen = self.seen(p, t, count)
        return {"counts": np.stack([np.bincount(ids, minlength=seen) for ids in (t[p == t], p, t)])}

    def result(self, state: State) -> float | Tensor:
        counts = state["counts"]
        if self.average == "micro":
            counts = counts.sum(1, keepdims=True)
        elif self.average == "binary":
            counts = counts[:, 1:]
        above, below = self.quotient(*counts)
        each = np.full(above.shape, float(self.zero_division))
        np.divide(above, below, out=each, where=below > 0)
        if self.average == "none":
            return from_array(each)
        if not state["counts"].any():
            return float("nan")
        _, guessed, true = counts
        if self.average == "weighted":
            return float(each @ true / true.sum())
        return float(each[guessed + true > 0].mean()) if self.average == "macro" else float(each[0])


class Precision(_FromCounts):
    """Of those guessed to be of a class, the share that is: hits / guessed.

    >>> import tensorlite as tl
    >>> guesses, target = tl.tensor([0, 0, 1, 1]), tl.tensor([0, 1, 1, 1])
    >>> tl.metrics.Precision()(guesses, target)
    0.75
    >>> tl.metrics.Precision("none")(guesses, target)
    tensor([0.5000, 1.0000], dtype=tensorlite.float64)

    Args:
        average: "macro", the mean over the classes that were guessed or true; "weighted", their mean weighted by how
            often each is true; "micro", of all classes together; "none", a tensor (C,) of each class; "binary", of
            class 1 of two.
        zero_division: the value of a class where the quotient is of nothing.
        num_classes, threshold, ignore_index, dim, name: and forms of preds and target: see ``ClassMetric``.
    """

    short_name = "precision"

    def quotient(self, hits: np.ndarray, guessed: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return hits, guessed


class Recall(_FromCounts):
    """Of those that are of a class, the share that was guessed to be: hits / true. Arguments as of ``Precision``.

    >>> import tensorlite as tl
    >>> tl.metrics.Recall("none")(tl.tensor([0, 0, 1, 1]), tl.tensor([0, 1, 1, 0]))
    tensor([0.5000, 0.5000], dtype=tensorlite.float64)
    """

    short_name = "recall"

    def quotient(self, hits: np.ndarray, guessed: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return hits, true


class F1Score(_FromCounts):
    """The harmonic mean of precision and recall: 2 hits / (guessed + true). Arguments as of ``Precision``.

    >>> import tensorlite as tl
    >>> tl.metrics.F1Score("binary")(tl.tensor([0.1, 0.9, 0.8]), tl.tensor([0, 1, 1]))
    1.0
    """

    short_name = "f1"

    def quotient(self, hits: np.ndarray, guessed: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 2 * hits, guessed + true


class ConfusionMatrix(_Counted):
    """How often each class was guessed for each: row, the true class; column, the guessed one. int64 (C, C).

    >>> import tensorlite as tl
    >>> tl.metrics.ConfusionMatrix()(tl.tensor([0, 1, 1]), tl.tensor([0, 0, 1]))
    tensor([[1, 1],
            [0, 1]])

    Args:
        normalize: None for counts; "true", "pred" or "all" for shares (float64) of each row, each column or of all,
            0 where there is nothing.
        num_classes, threshold, ignore_index, dim, name: and forms of preds and target: see ``ClassMetric``.
    """

    short_name = "confusion_matrix"
    higher_is_better = None

    def __init__(self, num_classes: int | None = None, *, normalize: str | None = None, **others: Any):
        if normalize not in (None, "true", "pred", "all"):
            raise ValueError(f"ConfusionMatrix: got normalize {normalize!r}; wanted None, 'true', 'pred' or 'all'")
        self.normalize = normalize
        super().__init__(num_classes, **others)

    def start(self) -> State:
        return {"counts": np.zeros((self.num_classes or 0,) * 2, np.int64)}

    def measure(self, preds: Any, target: Any) -> State:
        p, t, count = self.classes(preds, target)
        seen = self.seen(p, t, count)
        return {"counts": np.bincount(t * seen + p, minlength=seen * seen).reshape(seen, seen)}

    def result(self, state: State) -> Tensor:
        counts = state["counts"]
        if self.normalize is None:
            return from_array(counts.copy())
        whole = counts.sum({"true": 1, "pred": 0, "all": None}[self.normalize], keepdims=True)
        return from_array(counts / np.maximum(whole, 1))
