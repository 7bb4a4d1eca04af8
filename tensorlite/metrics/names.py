"""Metrics by their names in text: ``get("accuracy")``. Floor 6."""

from __future__ import annotations

import re

from tensorlite.metrics.classification import Accuracy, ConfusionMatrix, F1Score, Precision, Recall, TopKAccuracy
from tensorlite.metrics.metric import Mean, Metric
from tensorlite.metrics.probability import AUC, Perplexity
from tensorlite.metrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score, RootMeanSquaredError

NAMES: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "top_k_accuracy": TopKAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1Score,
    "f1_score": F1Score,
    "confusion_matrix": ConfusionMatrix,
    "auc": AUC,
    "roc_auc": AUC,
    "perplexity": Perplexity,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "rmse": RootMeanSquaredError,
    "root_mean_squared_error": RootMeanSquaredError,
    "r2": R2Score,
    "r2_score": R2Score,
    "mean": Mean,
}


def get(metric: str | Metric | type[Metric]) -> Metric:
    """A metric from its name, its class or itself; "top3_accuracy" (any number) is ``TopKAccuracy(3)``.

    >>> import tensorlite as tl
    >>> tl.metrics.get("mae"), tl.metrics.get("top3_accuracy").k
    (MeanAbsoluteError(name='mae'), 3)

    A metric that is given comes back as it is; a name or a class makes a new one with its defaults.

    Raises:
        ValueError: a name that is none of theirs.
        TypeError: something else.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not isinstance(metric, str):
        raise TypeError(f"metrics.get: got {metric!r}; wanted a Metric, its class or its name")
    if top := re.fullmatch(r"top(\d+)(_accuracy)?", metric):
        return TopKAccuracy(int(top[1]))
    if metric not in NAMES:
        raise ValueError(f"metrics.get: got {metric!r}; wanted topN_accuracy or one of {', '.join(NAMES)}")
    return NAMES[metric]()
