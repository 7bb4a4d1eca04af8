"""What the example programs have in common: checkpoints, going on after a kill, Ctrl-C, what people see. Floor 7."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tensorlite as tl
from tensorlite.callbacks import LastCheckpoint, Lines, Progress
from tensorlite.errors import DataError
from tensorlite.examples.curves import Curves
from tensorlite.io.checkpoints import Checkpoints
from tensorlite.train import Trainer
from tensorlite.utils.data.files import check_writable


@dataclass
class Result:
    """What a training came to. ``test`` holds the figures on the test data; it is empty if Ctrl-C ended it."""

    weights: Path
    source: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def test_accuracy(self) -> float | None:
        """The share of the test data that is told right, where the program has such a figure."""
        return self.test.get("accuracy")


class Run:
    """One run of a program, from the check of its files to the last line.

    Checkpoints lie beside the weights, in a folder named after them. A run that is taken up again must have the
    settings of the one that began it, and the same data.

    Args:
        program: its name, "mnist".
        out: the file for the weights.
        plot: a file for the curves, or None.
        resume: go on from the newest checkpoint; without one, begin.
        checkpoint_every: seconds from one checkpoint to the next at least.
        settings: what decides the weights, by name of the option.
    """

    def __init__(
        self,
        program: str,
        out: str | os.PathLike,
        plot: str | os.PathLike | None,
        resume: bool,
        checkpoint_every: float,
        **settings: Any,
    ) -> None:
        # what would spoil the end is found out at the beginning
        self.result = Result(check_writable(out))
        self.curves = Curves(plot) if plot else None
        self.resume, self.every = resume, checkpoint_every
        self.extra: dict[str, Any] = {"program": program, "settings": settings}
        self.folder = checkpoint_folder(self.result.weights)

    def fit(
        self,
        trainer: Trainer,
        loader: Iterable,
        epochs: int,
        validation: Iterable | None = None,
        test: Callable[[], dict[str, Any]] | None = None,
        data: Iterable[np.ndarray] = (),
        config: dict[str, Any] | None = None,
    ) -> Result:
        """Train, then ``test``, then write the weights; after Ctrl-C write those there are.

        Args:
            data: arrays that the training is made of, whose checksum a checkpoint keeps.
            config: what it takes to make the model again. It is saved with the weights, as ``read_weights`` wants it;
                without it the file of weights is a plain state_dict.
        """
        crc = 0
        for array in data:
            crc = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"", crc)
        self.extra |= {"data": crc, "config": config}
        last = LastCheckpoint(self.folder, self.every, extra=self.extra, say=say)
        trainer.callbacks += [Progress(), Lines(say), last]
        self._make_room(last.checkpoints, epochs)
        result, start = self.result, time.perf_counter()
        if self.resume:
            self._continue(trainer, last.checkpoints)
        try:
            trainer.fit(loader, epochs, validation)
            if test is not None:
                result.test = test()
        except KeyboardInterrupt:
            result.interrupted = True
        result.history, result.losses = trainer.history, trainer.losses
        result.seconds = time.perf_counter() - start
        state = trainer.model.state_dict()
        tl.save(state if config is None else {**self.extra, "model": state}, result.weights)
        return result

    def _make_room(self, checkpoints: Checkpoints, epochs: int) -> None:
        """A new run does not mix its checkpoints with those of another: an unfinished run's are set aside."""
        if self.resume or not checkpoints.paths():
            return
        try:
            found = checkpoints.load(lambda line: None)
        except DataError:
            found = None
        if found is not None and found[1].get("epoch", 0) >= epochs:
            checkpoints.clear()
        elif old := checkpoints.set_aside():
            say(f"{self.folder} held the checkpoints of an unfinished run (--resume goes on with one); now in {old}")

    def _continue(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        found = checkpoints.load(say)
        if found is None:
            say(f"no checkpoint in {self.folder}: beginning")
            return
        path, state = found
        before = state.get("extra") or {}
        if before.get("program") != self.extra["program"]:
            raise DataError(
                f"{path}: is of {before.get('program')!r}; wanted a checkpoint of {self.extra['program']!r}"
            )
        for name, now in self.extra["settings"].items():
            was = before["settings"].get(name)
            if was != now:
                option = "--" + name.replace("_", "-")
                raise DataError(f"{path}: was begun with {option} {was}, now {now}; wanted the same to go on with it")
        if before["data"] != self.extra["data"]:
            raise DataError(f"{path}: was begun with other data; wanted the same to go on with it")
        trainer.load_state_dict(state)
        say(f"going on after step {trainer.step} of {path}")

    def draw(self, title: str, **how: Any) -> None:
        """The picture of the curves, where one was asked for. ``how`` is for ``Curves.draw``."""
        if self.curves is not None and self.result.losses:
            self.curves.draw(title, self.result.losses, self.result.history, **how)
            say(f"curves in {self.curves.path}")

    def last_line(self, figures: str) -> Result:
        """Say how it ended."""
        result = self.result
        took = f"{result.seconds:.1f} s"
        if result.interrupted:
            say(f"interrupted after {len(result.history)} epochs and {took}; weights so far in {result.weights}, "
                f"checkpoint in {self.folder}")  # fmt: skip
        else:
            say(f"{figures} after {took}; weights in {result.weights}")
        return result


def read_weights(path: str | os.PathLike, program: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config, state_dict) from the weights or a checkpoint of a program; of a folder, its newest checkpoint.

    Raises:
        DataError: it is not there, damaged, or of something else.
    """
    wanted = f"weights or a checkpoint that `tensorlite train {program}` wrote"
    path = Path(path).expanduser()
    if path.is_dir():
        found = Checkpoints(path).load(say)
        if found is None:
            raise DataError(f"{path}: holds no checkpoint; wanted {wanted}")
        path, state = found
    else:
        state = tl.load(path)
    about = state.get("extra", state) if isinstance(state, dict) else {}
    if not isinstance(about, dict) or about.get("program") != program:
        raise DataError(f"{path}: is something else; wanted {wanted}")
    return about["config"], state["model"]


def checkpoint_folder(weights: str | os.PathLike) -> Path:
    """Where the checkpoints of a run lie that writes these weights."""
    path = Path(weights)
    return path.with_name((path.stem if path.suffix == ".safetensors" else path.name) + ".checkpoints")


# ---- what people see
def say(line: str) -> None:
    """A line on standard output, at once: it may be a pipe, and it may be long until the next."""
    print(line, flush=True)


class Download:
    """A bar on standard error that appears with the first byte of a file, where that is a terminal."""

    def __init__(self) -> None:
        self.name = ""
        self.bar: Any = None

    def advance(self, name: str, count: int, size: int | None) -> None:
        if name != self.name:
            from tqdm import tqdm

            self.__exit__()
            self.name = name
            self.bar = tqdm(
                total=size, desc=name, unit="B", unit_scale=True, leave=False, disable=None, dynamic_ncols=True
            )
        self.bar.update(count)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self.bar is not None:
            self.bar.close()
