"""Pictures of how a training went: loss and accuracy by epoch. Floor 7."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorlite.errors import DataError
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
        self, title: str, steps: Sequence[float], epochs: Sequence[Any], test_accuracy: float | None = None
    ) -> None:
        """Write the picture.

        Args:
            steps: the training loss of every step.
            epochs: of every finished epoch something with ``loss``, ``validation_loss`` and ``validation_accuracy``.
            test_accuracy: drawn as a line, if known.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        per_epoch = len(steps) / len(epochs) if epochs else len(steps) or 1
        figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=150)
        figure.suptitle(title, fontsize=11, color=INK)
        left, right = figure.subplots(1, 2)
        at = range(1, len(epochs) + 1)

        left.plot(
            [(k + 1) / per_epoch for k in range(len(steps))], steps, color=LIGHT, lw=0.7, label="training, a step"
        )
        left.plot(at, [e.loss for e in epochs], color=LOSS, marker="o", ms=3.5, label="training, an epoch")
        left.plot(at, [e.validation_loss for e in epochs], color=SECOND, marker="o", ms=3.5, label="validation")
        if steps and min(steps) > 0:
            left.set_yscale("log")
        left.set_ylabel("cross-entropy")
        right.plot(at, [e.validation_accuracy for e in epochs], color=SECOND, marker="o", ms=3.5, label="validation")
        if test_accuracy is not None:
            right.axhline(test_accuracy, color=INK, lw=0.9, ls="--", label=f"test {test_accuracy:.4f}")
        right.set_ylabel("accuracy")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.25, lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(self.path)
