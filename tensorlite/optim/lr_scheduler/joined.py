"""Schedules made of others: one after the other, and all at once. Floor 5."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from tensorlite.optim.lr_scheduler.base import LRScheduler
from tensorlite.optim.lr_scheduler.plateau import ReduceLROnPlateau
from tensorlite.optim.optimizer import Optimizer


class _Joined(LRScheduler):
    _schedulers: list[LRScheduler]

    def _take(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        """Keep them, if they can be joined."""
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name} expects at least one scheduler, but got no scheduler.")
        optimizer = optimizer or getattr(schedulers[0], "optimizer", None)
        for k, s in enumerate(schedulers):
            if not hasattr(s, "optimizer"):
                raise TypeError(f"{name} at index {k} should have `optimizer` as its attribute.")
            if isinstance(s, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be "
                    f"specified when calling `step`, but got one at index {k} in the given schedulers sequence."
                )
            if s.optimizer is not optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(s).__name__} at index {k} of another one."
                )
        self._schedulers, self.optimizer = list(schedulers), optimizer  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer; the schedulers as their own state dicts."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for s, state in zip(self._schedulers, state_dict["_schedulers"]):
            s.load_state_dict(state)


class SequentialLR(_Joined):
    """The first scheduler up to the first milestone, then the second, which begins at its own epoch 0, and so on.

    >>> import tensorlite as tl
    >>> opt = tl.optim.SGD([tl.nn.Parameter(tl.ones(1))], lr=1.0)
    >>> lr_scheduler = tl.optim.lr_scheduler
    >>> warm, cool = lr_scheduler.ConstantLR(opt, 0.5), lr_scheduler.ExponentialLR(opt, 0.9)
    >>> s = lr_scheduler.SequentialLR(opt, [warm, cool], milestones=[2])
    >>> rates = []
    >>> for epoch in range(4):
    ...     rates += s.get_last_lr()
    ...     opt.step()
    ...     s.step()
    >>> rates
    [0.5, 0.5, 1.0, 0.9]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        self._take(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones "
                f"to be equal to {len(milestones)}"
            )
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        # each scheduler set its first rate when it was made: take that back, then let the one whose turn it is begin
        self._set([group["initial_lr"] for group in optimizer.param_groups])
        _undo(self._schedulers)
        first = self._schedulers[bisect_right(milestones, 0)]
        first._begin()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch."""
        self.last_epoch += 1
        k = bisect_right(self._milestones, self.last_epoch)
        current = self._schedulers[k]
        if k > 0 and self._milestones[k - 1] == self.last_epoch:
            current._update(0)
        else:
            current.step()
        self._last_lr = current.get_last_lr()


def _undo(schedulers: list[LRScheduler]) -> None:
    for s in schedulers:
        s.last_epoch -= 1
        if isinstance(s, _Joined):
            _undo(s._schedulers)


class ChainedScheduler(_Joined):
    """All schedulers at once: each changes the rate that the one before it left."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        self._take(schedulers, optimizer)
        self._last_lr = self._now()

    def step(self) -> None:  # type: ignore[override]
        """Step every scheduler."""
        for s in self._schedulers:
            s.step()
        self._last_lr = self._now()
