"""The base of learning-rate schedules. Floor 5."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.optim.optimizer import Optimizer


class LRScheduler:
    """The base of schedulers: a subclass gives the rates of ``last_epoch`` in ``get_lr``.

    The first epoch, number 0, is set when the scheduler is made; call ``step()`` after the optimizer's steps of each.

    Args:
        optimizer: whose ``param_groups`` get the rates.
        last_epoch: the epoch to go on from; -1 begins, and notes today's rates as ``initial_lr``.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for k, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", value_of(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{k}] when resuming scheduler with "
                    "last_epoch >= 0; load the optimizer's state first, or begin with last_epoch=-1"
                )
        self.base_lrs = [value_of(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._steps_before = optimizer._steps_taken
        self._begin()

    def _begin(self) -> None:
        """Set the rates of the first epoch."""
        self._step_count = 0
        self._initial = True
        try:
            self.step()
        finally:
            self._initial = False

    def get_lr(self) -> list[Any]:
        """The rates of epoch ``last_epoch``, given that the groups hold those of the epoch before."""
        raise NotImplementedError(f"{type(self).__name__}: defines no get_lr")

    def get_last_lr(self) -> list[Any]:
        """The rates that hold now, one a group."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch (or, where the rates have a closed form, to ``epoch``) and set its rates."""
        if (
            self._step_count == 1
            and type(self.optimizer).step is Optimizer.step
            and self.optimizer._steps_taken == self._steps_before
        ):
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first learning rate "
                "of the schedule is skipped. Call `optimizer.step()` first.",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self._update(epoch)

    def _update(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
            rates = self.get_lr()
        else:
            self.last_epoch = epoch
            closed = getattr(self, "_get_closed_form_lr", None)
            rates = self.get_lr() if closed is None else closed()
        self._set(rates)

    def _set(self, rates: Iterable[Any]) -> None:
        """These rates, one a group, hold from now on."""
        for group, rate in zip(self.optimizer.param_groups, rates):
            if isinstance(group["lr"], Tensor):
                with no_grad():
                    group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = self._now()

    def _now(self) -> list[Any]:
        return [value_of(group["lr"]) for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[Any]:
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_initial", "_steps_before")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.__dict__.update(state_dict)


def value_of(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group, from one or from as many."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, "
            f"param_groups has {groups}."
        )
    return list(value)


def cycles_momentum(optimizer: Optimizer) -> bool:
    """Whether momentum is the first of betas; refuses optimizers that have neither."""
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def set_momentum(group: dict[str, Any], momentum: float, use_beta1: bool) -> None:
    """Momentum, or what stands for it."""
    if use_beta1:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum
