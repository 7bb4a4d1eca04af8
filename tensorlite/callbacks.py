"""Callbacks: what happens around a training's steps and epochs. Floor 6."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DataError
from tensorlite.io import save
from tensorlite.io.checkpoints import Checkpoints
from tensorlite.io.files import atomic
from tensorlite.utils.extras import require


class Callback:
    """The base of callbacks: each method is told of one moment of a ``Trainer``'s work and does nothing by default.

    >>> from tensorlite.callbacks import Callback
    >>> class Print(Callback):
    ...     def on_epoch_end(self, trainer, logs):
    ...         print(logs["epoch"], f"{logs['loss']:.4f}")
    """

    last = False  # told after the others: checkpoints hold what those did
    stateful = False  # whether it has a state that belongs into checkpoints

    def on_fit_begin(self, trainer: Any) -> None:
        """``fit`` begins, or goes on: ``trainer.epoch`` and ``trainer.step`` say where."""

    def on_epoch_begin(self, trainer: Any) -> None:
        """An epoch begins, or what is left of one."""

    def on_step_end(self, trainer: Any) -> None:
        """The optimizer has made a step; its loss is ``trainer.losses[-1]``."""

    def on_evaluate_begin(self, trainer: Any) -> None:
        """``evaluate`` or ``predict`` begins."""

    def on_evaluate_end(self, trainer: Any) -> None:
        """``evaluate`` or ``predict`` has ended, well or not."""

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        """An epoch has ended. ``logs`` is its entry in ``trainer.history``; what is added there stays there."""

    def on_fit_end(self, trainer: Any) -> None:
        """``fit`` has done all that was asked for."""

    def on_interrupt(self, trainer: Any) -> None:
        """Ctrl-C has ended ``fit``."""

    def on_fit_exit(self, trainer: Any) -> None:
        """``fit`` is left, in whatever way."""

    def state_dict(self) -> dict[str, Any]:
        """What it must know to go on, in a form that ``tl.save`` takes. For those that are ``stateful``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""


class _Best(Callback):
    """What watches one entry of the logs for its best value."""

    stateful = True

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"{type(self).__name__}: mode {mode!r}; wanted 'min' or 'max'")
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best = math.inf if mode == "min" else -math.inf

    def improved(self, logs: dict[str, Any]) -> bool:
        """Whether this epoch's value is the best so far, by more than ``min_delta``; then it is noted."""
        value = float(watched(self, self.monitor, logs))
        if not (value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta):
            return False
        self.best = value
        return True


def watched(callback: Callback, monitor: str, logs: dict[str, Any]) -> Any:
    """``logs[monitor]``, or an error that says what there is."""
    if monitor not in logs:
        raise KeyError(f"{type(callback).__name__}: monitor {monitor!r}; wanted one of {', '.join(sorted(logs))}")
    return logs[monitor]


class EarlyStopping(_Best):
    """Ends the training when ``monitor`` has not improved for ``patience`` epochs.

    Args:
        monitor: the entry of the logs to watch.
        mode: "min" where smaller is better, "max" where larger is.
        min_delta: by how much more than nothing a value must be better to count.
        restore_best: put the weights of the best epoch back when ``fit`` ends.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 3,
        mode: str = "min",
        min_delta: float = 0.0,
        restore_best: bool = False,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.restore_best = patience, restore_best
        self.waited = 0
        self._weights: dict[str, Tensor] | None = None

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        if self.improved(logs):
            self.waited = 0
            if self.restore_best:
                self._weights = {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}
        else:
            self.waited += 1
        self.on_fit_begin(trainer)

    def on_fit_begin(self, trainer: Any) -> None:
        if self.waited >= max(self.patience, 1):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Any) -> None:
        if self._weights is not None:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self._weights = state["best"], state["waited"], state["weights"]


class BestCheckpoint(_Best):
    """Writes the model's weights to ``path`` each time ``monitor`` is at its best.

    The file is a state_dict: ``model.load_state_dict(tl.load(path))``.
    """

    last = True

    def __init__(
        self, path: str | os.PathLike, monitor: str = "val_loss", mode: str = "min", min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path = Path(path)

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        if self.improved(logs):
            trainer.check_finite()
            save(trainer.model.state_dict(), self.path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class LastCheckpoint(Callback):
    """Writes all that ``fit(..., resume=True)`` needs to go on bit for bit, every so often and after Ctrl-C.

    One that cannot be written (a full disk) is told of and tried again later: the training goes on, and those that were
    there are as they were. None is written of weights that are no longer numbers.

    Args:
        folder: see ``tensorlite.io.checkpoints.Checkpoints``.
        every: seconds from one to the next at least; 0 writes one after every step.
        keep: how many are kept.
        extra: put into each under "extra", to tell whose it is.
        say: told in a line of what went wrong.
    """

    last = True

    def __init__(
        self,
        folder: str | os.PathLike,
        every: float = 30.0,
        keep: int = 2,
        extra: dict[str, Any] | None = None,
        say: Callable[[str], Any] = print,
    ) -> None:
        self.checkpoints, self.every, self.extra, self.say = Checkpoints(folder, keep), every, extra, say
        self._due = 0.0

    def write(self, trainer: Any) -> None:
        """Write one now."""
        trainer.check_finite()
        self.checkpoints.save(trainer.step, {**trainer.state_dict(), "extra": self.extra})
        self._due = time.monotonic() + self.every

    def _try(self, trainer: Any) -> None:
        try:
            self.write(trainer)
        except DataError as error:
            self._due = time.monotonic() + self.every
            self.say(f"no checkpoint of step {trainer.step}: {error}; the one before it is as it was")

    def on_fit_begin(self, trainer: Any) -> None:
        self._due = time.monotonic() + self.every

    def on_step_end(self, trainer: Any) -> None:
        if time.monotonic() >= self._due:
            self._try(trainer)

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        if time.monotonic() >= self._due:
            self._try(trainer)

    def on_interrupt(self, trainer: Any) -> None:
        self._try(trainer)

    def on_fit_end(self, trainer: Any) -> None:
        self._try(trainer)


class Schedule(Callback):
    """Steps a learning-rate scheduler after every epoch, or after every step of the optimizer.

    Args:
        scheduler: of ``tensorlite.optim.lr_scheduler``.
        every: "epoch" or "step".
        monitor: the entry of the logs that is handed to it, for ``ReduceLROnPlateau``.
    """

    stateful = True

    def __init__(self, scheduler: Any, every: str = "epoch", monitor: str | None = None) -> None:
        if every not in ("epoch", "step"):
            raise ValueError(f"Schedule: every {every!r}; wanted 'epoch' or 'step'")
        if monitor is not None and every == "step":
            raise ValueError("Schedule: monitor with every='step'; wanted every='epoch', when the logs are there")
        self.scheduler, self.every, self.monitor = scheduler, every, monitor

    def on_step_end(self, trainer: Any) -> None:
        if self.every == "step":
            self.scheduler.step()

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        if self.every == "epoch":
            self.scheduler.step(*([] if self.monitor is None else [watched(self, self.monitor, logs)]))

    def state_dict(self) -> dict[str, Any]:
        return dict(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


class EMA(Callback):
    """Keeps an exponential moving average of the model's floating-point parameters and buffers.

    After every step, average = decay * average + (1 - decay) * weight; the first step's weights begin it.
    ``BestCheckpoint`` and ``EarlyStopping(restore_best=True)`` keep the weights beside which it stood, not the average.

    Args:
        decay: nearer to 1 is slower.
        evaluate: have ``evaluate`` and ``predict`` use the average in place of the weights.
        keep: leave the average in the model when ``fit`` ends.
    """

    stateful = True

    def __init__(self, decay: float = 0.999, evaluate: bool = True, keep: bool = False) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA: decay {decay}; wanted from 0 to below 1")
        self.decay, self.evaluate, self.keep = decay, evaluate, keep
        self.average: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] | None = None

    @no_grad()
    def on_step_end(self, trainer: Any) -> None:
        for name, weight in trainer.model.state_dict().items():
            if not weight.is_floating_point():
                continue
            if name not in self.average:
                self.average[name] = weight.detach().clone()
            else:
                self.average[name].mul_(self.decay).add_(weight.detach() * (1.0 - self.decay))

    def on_evaluate_begin(self, trainer: Any) -> None:
        if self.evaluate and self.average:
            self._weights = {k: v.detach().clone() for k, v in trainer.model.state_dict().items() if k in self.average}
            self.copy_to(trainer.model)

    def on_evaluate_end(self, trainer: Any) -> None:
        if self._weights is not None:
            trainer.model.load_state_dict(self._weights, strict=False)
            self._weights = None

    def on_fit_end(self, trainer: Any) -> None:
        if self.keep:
            self.copy_to(trainer.model)

    def copy_to(self, model: Any) -> None:
        """Put the average into a model."""
        model.load_state_dict(self.average, strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = {k: v.clone() for k, v in state["average"].items()}  # they are written to in place


class CSVLogger(Callback):
    """The history as a table of comma-separated values, written anew and whole after every epoch."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        names = list(dict.fromkeys(name for entry in trainer.history for name in entry))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows({k: v.tolist() if isinstance(v, Tensor) else v for k, v in e.items()} for e in trainer.history)
        with atomic(self.path) as file:
            file.write(text.getvalue().encode())


class TensorBoard(Callback):
    """Scalars for TensorBoard, written by tensorboardX: the loss of every step, the logs of every epoch.

    Raises:
        MissingExtraError: without tensorboardX, which the extra ``tensorboard`` installs.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._module = require("tensorboardX", "tensorboard", "TensorBoard")
        self._writer: Any = None

    def on_fit_begin(self, trainer: Any) -> None:
        # what a run that was killed wrote after the checkpoint is hidden from the step on that comes again
        self._writer = self._module.SummaryWriter(str(self.folder), purge_step=trainer.step + 1)

    def on_step_end(self, trainer: Any) -> None:
        self._writer.add_scalar("loss/step", trainer.losses[-1], trainer.step)

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        for name, value in logs.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"epoch/{name}", value, trainer.step)
        self._writer.flush()

    def on_fit_exit(self, trainer: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Progress(Callback):
    """A bar of the epoch's batches on standard error while it is a terminal; gone at the epoch's end."""

    def __init__(self, unit: str = " batches") -> None:
        self.unit = unit
        self._bar: Any = None
        self._done = 0

    def on_epoch_begin(self, trainer: Any) -> None:
        from tqdm import tqdm

        title = f"epoch {trainer.epoch + 1}/{trainer.epochs}"
        self._done = trainer.position
        self._bar = tqdm(
            total=trainer.batches, initial=self._done, desc=title, unit=self.unit, leave=False,
            disable=None, dynamic_ncols=True, file=sys.stderr,
        )  # fmt: skip

    def on_step_end(self, trainer: Any) -> None:
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{trainer.losses[-1]:.4f}", refresh=False)
            self._bar.update(trainer.position - self._done)
            self._done = trainer.position

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        self.on_fit_exit(trainer)

    def on_fit_exit(self, trainer: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines(Callback):
    """A line after every epoch, handed to ``say``: epoch, the logs, seconds."""

    def __init__(self, say: Callable[[str], Any] = print) -> None:
        self.say = say

    def on_epoch_end(self, trainer: Any, logs: dict[str, Any]) -> None:
        values = (
            f"{name.replace('_', ' ')} {value:.4f}".replace("val ", "validation ")
            for name, value in logs.items()
            if isinstance(value, float) and name not in ("seconds", "lr")
        )
        self.say(f"epoch {logs['epoch']}/{trainer.epochs}: {', '.join(values)} ({logs['seconds']:.1f} s)")


__all__ = [
    "BestCheckpoint", "CSVLogger", "Callback", "EMA", "EarlyStopping", "LastCheckpoint", "Lines", "Progress",
    "Schedule", "TensorBoard",
]  # fmt: skip
