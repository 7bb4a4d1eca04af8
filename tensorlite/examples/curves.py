"""Pictures of how a training went: loss and another figure by epoch; a series and its forecasts. Floor 7."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorlite.errors import DataError
from tensorlite.io.files import atomic
from tensorlite.utils.data.files import check_writable
from tensorlite.utils.extras import require

LOSS, LIGHT, SECOND, INK = "#2a6fbb", "#b9d3ee", "#d1605e", "#444444"


class Curves:
    """A figure-to-be. Made before training, so that what would prevent it is said at once.

    Raises:
        DataError: the file cannot be written, or its name does not end in .png, .svg or .pdf.
        MissingExtraError: without matplotlib, which the extra ``examples`` installs.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise DataError(f"{self.path}: wanted a name that ends in .png, .svg or .pdf")
        check_writable(self.path)
        require("matplotlib.figure", "examples", "a plot")

    def draw(
        self,
        title: str,
        steps: Sequence[float],
        history: Sequence[Mapping[str, Any]],
        loss: str = "cross-entropy",
        figure: str | None = None,
        test: float | None = None,
        series: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        """Write the picture.

        Args:
            steps: the training loss of every step.
            history: of every finished epoch its logs, as in ``Trainer.history``.
            loss: what the loss is, for its axis.
            figure: a metric among the logs, drawn beside the loss.
            test: its value on the test data, drawn as a line.
            series: lines by name, each (where, values), drawn in a panel of their own below.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        rows, columns = 1 + bool(series), 1 + (figure is not None)
        picture = Figure(figsize=(4.5 * max(columns, rows), 3.6 * rows), layout="constrained", dpi=150)
        picture.suptitle(title, fontsize=11, color=INK)
        grid = picture.add_gridspec(rows, columns)
        panels = [picture.add_subplot(grid[0, k]) for k in range(columns)]

        per_epoch = len(steps) / len(history) if history else len(steps) or 1
        left, at = panels[0], [e["epoch"] for e in history]
        left.plot(
            [(k + 1) / per_epoch for k in range(len(steps))], steps, color=LIGHT, lw=0.7, label="training, a step"
        )
        left.plot(at, [e["loss"] for e in history], color=LOSS, marker="o", ms=3.5, label="training, an epoch")
        if history and "val_loss" in history[0]:
            left.plot(at, [e["val_loss"] for e in history], color=SECOND, marker="o", ms=3.5, label="validation")
        if steps and min(steps) > 0:
            left.set_yscale("log")
        left.set_ylabel(loss)
        if figure is not None:
            values = [e[f"val_{figure}"] for e in history]
            panels[1].plot(at, values, color=SECOND, marker="o", ms=3.5, label="validation")
            if test is not None:
                panels[1].axhline(test, color=INK, lw=0.9, ls="--", label=f"test {test:.4f}")
            panels[1].set_ylabel(figure)
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if series:
            below = picture.add_subplot(grid[1, :])
            panels.append(below)
            for (name, (where, line)), color in zip(series.items(), (INK, LOSS, SECOND, LIGHT)):
                below.plot(where, line, color=color, lw=1.0, label=name)
        for axes in panels:
            axes.grid(alpha=0.25, lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        with atomic(self.path) as file:
            picture.savefig(file, format=self.path.suffix[1:].lower())
