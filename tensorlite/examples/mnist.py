"""Handwritten digits: the program behind ``tensorlite train mnist`` and ``tensorlite predict``. Floor 7."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.errors import DataError
from tensorlite.examples.curves import Curves
from tensorlite.utils.data import DataLoader, TensorDataset
from tensorlite.utils.data.files import check_writable
from tensorlite.vision import mnist


def build(model: str) -> nn.Module:
    """``"mlp"``: 784-128-10. ``"cnn"``: three 3x3 convolutions of 32, 64 and 64 channels. Images in, logits out."""
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),  # 28x28 -> 26x26 -> 13x13
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),  # -> 11x11 -> 5x5
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),  # -> 3x3 -> 576
        nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def as_input(images: np.ndarray, device: str = "cpu") -> tl.Tensor:
    """Grey images (N, 28, 28) from 0 to 255 as the net wants them: (N, 1, 28, 28), MNIST's mean at 0, deviation 1."""
    pixels = tl.from_numpy(images).to(device).float() / 255
    return (pixels.unsqueeze(1) - 0.1307) / 0.3081


class Epoch(NamedTuple):
    """What an epoch came to."""

    loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class Result:
    """What a training came to. ``test_accuracy`` is None if Ctrl-C ended it."""

    weights: Path
    source: str
    epochs: list[Epoch] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    test_accuracy: float | None = None
    seconds: float = 0.0
    interrupted: bool = False


def train(
    model: str = "mlp",
    epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
) -> Result:
    """Train a net on the digits, print how it goes, and save its weights.

    Args:
        model: ``"mlp"`` or ``"cnn"``.
        epochs: passes over the training images; default 5, or 30 where there are only a few images.
        lr: Adam's learning rate at the start; it falls to 0 along a cosine.
        data: the folder with MNIST; default: wherever it is found, see ``tensorlite.vision.mnist.load``.
        out: the file for the weights; default ``mnist-<model>.safetensors`` in the current folder.
        plot: a file for the curves of loss and accuracy.
    """
    # What would spoil the end is found out at the beginning.
    result = Result(check_writable(out or f"mnist-{model}.safetensors"), "")
    curves = Curves(plot) if plot else None

    # The data: a tenth of the training images is held out to watch the training by, at most 5,000.
    with Download() as bar:
        digits = mnist.load(data, say=say, progress=bar.advance)
    result.source = digits.source
    held_out = max(min(len(digits.train_images) // 10, 5000), 1)
    images, labels = as_input(digits.train_images, device), tl.from_numpy(digits.train_labels).long().to(device)
    training = TensorDataset(images[held_out:], labels[held_out:])
    validation = TensorDataset(images[:held_out], labels[:held_out])
    test = TensorDataset(as_input(digits.test_images, device), tl.from_numpy(digits.test_labels).long().to(device))
    epochs = epochs or (5 if len(training) > 5000 else 30)

    # The net. One seed settles its first weights and the order of the images.
    tl.manual_seed(seed)
    net = build(model).to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(training, batch_size=batch_size, shuffle=True)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))  # down to 0 at the end
    say(f"{digits.source}: {len(training):,} images to train, {len(validation):,} to validate, {len(test):,} to test")
    say(f"{model}: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    start = time.perf_counter()
    try:
        for epoch in range(1, epochs + 1):
            began, total = time.perf_counter(), 0.0
            with progress_bar(len(training), f"epoch {epoch}/{epochs}") as bar:
                for x, y in loader:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(x), y)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    result.steps.append(loss.item())
                    total += loss.item() * len(x)
                    bar.set_postfix(loss=f"{result.steps[-1]:.4f}", refresh=False)
                    bar.update(len(x))
            done = Epoch(total / len(training), *evaluate(net, validation))
            result.epochs.append(done)
            say(
                f"epoch {epoch}/{epochs}: loss {done.loss:.4f}, validation loss {done.validation_loss:.4f}, "
                f"accuracy {done.validation_accuracy:.4f} ({time.perf_counter() - began:.1f} s)"
            )
        result.test_accuracy = evaluate(net, test)[1]
    except KeyboardInterrupt:
        result.interrupted = True
    result.seconds = time.perf_counter() - start

    tl.save(net.state_dict(), result.weights)
    if curves is not None and result.steps:
        curves.draw(f"{model} on {digits.source}", result.steps, result.epochs, result.test_accuracy)
        say(f"curves in {curves.path}")
    if result.interrupted:
        say(
            f"interrupted after {len(result.epochs)} epochs and {result.seconds:.1f} s; weights so far in "
            f"{result.weights}"
        )
    else:
        say(f"test accuracy {result.test_accuracy:.4f} after {result.seconds:.1f} s; weights in {result.weights}")
    return result


@tl.no_grad()
def evaluate(net: nn.Module, digits: TensorDataset) -> tuple[float, float]:
    """Mean loss and accuracy over a data set."""
    loss, right = 0.0, 0
    net.eval()
    for x, y in DataLoader(digits, batch_size=500):
        logits = net(x)
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        right += int((logits.argmax(1) == y).sum())
    net.train()
    return loss / len(digits), right / len(digits)


@tl.no_grad()
def predict(pictures: Sequence[str | os.PathLike], weights: str | os.PathLike) -> list[tuple[int, float]]:
    """The digit on each picture and its probability, by weights that ``train`` saved."""
    images = as_input(np.stack([mnist.read_picture(picture) for picture in pictures]))
    state = tl.load(weights)
    net = build("cnn" if any(t.dim() == 4 for t in state.values()) else "mlp")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"{weights}: these are not the weights of a net for digits; wanted a file that `tensorlite train "
            "mnist` wrote"
        ) from error
    probability, digit = net.eval()(images).softmax(1).max(1)
    return list(zip(digit.tolist(), probability.tolist()))


# ---- what people see
def say(line: str) -> None:
    """A line on standard output, at once: it may be a pipe, and it may be long until the next."""
    print(line, flush=True)


def progress_bar(total: int | None, title: str, unit: str = " images") -> Any:
    """A bar on standard error while it is a terminal, nothing otherwise; gone when it is full."""
    from tqdm import tqdm

    return tqdm(total=total, desc=title, unit=unit, unit_scale=True, leave=False, disable=None, dynamic_ncols=True)


class Download:
    """A bar that appears with the first byte of a file."""

    def __init__(self) -> None:
        self.name = ""
        self.bar: Any = None

    def advance(self, name: str, count: int, size: int | None) -> None:
        if name != self.name:
            self.__exit__()
            self.name, self.bar = name, progress_bar(size, name, "B")
        self.bar.update(count)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self.bar is not None:
            self.bar.close()
