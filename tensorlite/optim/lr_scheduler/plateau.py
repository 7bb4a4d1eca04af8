"""A schedule that follows a measure: ReduceLROnPlateau. Floor 5."""

from __future__ import annotations

import math
from typing import Any

from tensorlite.optim.lr_scheduler.base import LRScheduler
from tensorlite.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """Times factor when a measure has not become better for more than ``patience`` epochs: ``step(measure)``.

    >>> import tensorlite as tl
    >>> opt = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> s = tl.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.5, 2.5):
    ...     s.step(loss)
    >>> s.get_last_lr()
    [0.5]

    Args:
        optimizer: whose ``param_groups`` get the rates.
        mode: "min", where the smaller measure is the better, or "max".
        factor: less than 1.
        patience: how many epochs may bring nothing.
        threshold: by how much a measure must be better, ...
        threshold_mode: ... as a part of the best one ("rel"), or as it is ("abs").
        cooldown: for how many epochs after a reduction nothing is counted.
        min_lr: no rate goes below; one number or one for each group.
        eps: a change smaller than this is left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        groups = len(optimizer.param_groups)
        several = isinstance(min_lr, (list, tuple))
        self.default_min_lr = None if several else min_lr
        self.min_lrs: list[Any] = list(min_lr) if several else [min_lr] * groups  # type: ignore[arg-type]
        if len(self.min_lrs) != groups:
            raise ValueError(f"expected {groups} min_lrs, got {len(self.min_lrs)}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.last_epoch = 0
        self._last_lr = self._now()
        self._reset()

    def _reset(self) -> None:
        """Forget what was seen."""
        self.best, self.cooldown_counter, self.num_bad_epochs = self.mode_worse, 0, 0

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction was so recent that nothing is counted."""
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        ahead = best + sign * self.threshold if self.threshold_mode == "abs" else best * (1 + sign * self.threshold)
        return a < ahead if self.mode == "min" else a > ahead

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Look at this epoch's measure, and reduce the rates if it is due."""
        current = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current, self.best):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._set(self._reduced())
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._now()

    def _reduced(self) -> list[Any]:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"ReduceLROnPlateau: {len(groups)} param groups and {len(self.min_lrs)} min_lrs; a group was "
                    "added, so min_lrs must be made as long"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        old = [float(group["lr"]) for group in groups]
        new = [max(rate * self.factor, low) for rate, low in zip(old, self.min_lrs)]
        return [b if a - b > self.eps else a for a, b in zip(old, new)]
