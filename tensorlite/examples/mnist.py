"""Handwritten digits: the program behind ``tensorlite train mnist`` and ``tensorlite predict``. Floor 7."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import Schedule
from tensorlite.errors import DataError
from tensorlite.examples.program import Download, Result, Run, say
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, Dataset, TensorDataset
from tensorlite.vision import mnist

MODELS = ("mlp", "cnn", "lstm")
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels


class Rows(nn.Module):
    """An LSTM that reads an image from the top, a row a time step; its last state is told apart by a linear layer."""

    def __init__(self, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, 10)

    def forward(self, images: tl.Tensor) -> tl.Tensor:
        _, (h, _) = self.lstm(images.flatten(0, 1))
        return self.linear(self.dropout(h[-1]))


def build(model: str, dropout: float = 0.0) -> nn.Module:
    """A net from images (N, 1, 28, 28) to logits (N, 10).

    ``"mlp"``: 784-128-10. ``"cnn"``: three 3x3 convolutions of 32, 64 and 64 channels. ``"lstm"``: ``Rows``.
    ``dropout`` is the chance of a feature before the last layer to be left out while training.
    """
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 10))
    if model == "lstm":
        return Rows(dropout=dropout)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),  # 28x28 -> 26x26 -> 13x13
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),  # -> 11x11 -> 5x5
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),  # -> 3x3 -> 576
        nn.Linear(576, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10),
    )  # fmt: skip


def as_input(images: np.ndarray, device: str = "cpu") -> tl.Tensor:
    """Grey images (N, 28, 28) from 0 to 255 as the net wants them: (N, 1, 28, 28), MNIST's mean at 0, deviation 1."""
    pixels = tl.from_numpy(images).to(device).float() / 255
    return (pixels.unsqueeze(1) - MEAN) / DEVIATION


class Augmented(Dataset):
    """Images with their labels; each time an image is taken it is turned by up to 10 degrees and shifted by up to 2."""

    def __init__(self, images: tl.Tensor, labels: tl.Tensor) -> None:
        from tensorlite.vision import transforms

        ground = -MEAN / DEVIATION
        bilinear = transforms.InterpolationMode.BILINEAR
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([
            transforms.RandomRotation(10, interpolation=bilinear, fill=ground),
            transforms.RandomCrop(28, padding=2, fill=ground),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tl.Tensor, tl.Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def train(
    model: str = "mlp",
    epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    dropout: float = 0.0,
    augment: bool = False,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    workers: int = 0,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
) -> Result:
    """Train a net on the digits, print how it goes, and save its weights.

    Args:
        model: ``"mlp"``, ``"cnn"`` or ``"lstm"``.
        epochs: passes over the training images; default 5, or 30 where there are only a few images.
        lr: Adam's learning rate at the start; it falls to 0 along a cosine.
        dropout: the chance of a feature before the last layer to be left out while training.
        augment: turn and shift the training images at random.
        data: the folder with MNIST; default: wherever it is found, see ``tensorlite.vision.mnist.load``.
        workers: processes that make batches; 0 makes them in this one. The weights are the same for any number.
        out: the file for the weights; default ``mnist-<model>.safetensors`` in the current folder.
        plot: a file for the curves of loss and accuracy.
        resume: go on from the newest checkpoint of this run; it ends with the weights of one that was never stopped.
        checkpoint_every: seconds from one checkpoint to the next at least.
    """
    run = Run("mnist", out or f"mnist-{model}.safetensors", plot, resume, checkpoint_every, model=model, epochs=epochs,
              batch_size=batch_size, lr=lr, dropout=dropout, augment=augment, seed=seed)  # fmt: skip

    # The data: a tenth of the training images is held out to watch the training by, at most 5,000.
    with Download() as bar:
        digits = mnist.load(data, say=say, progress=bar.advance)
    held_out = max(min(len(digits.train_images) // 10, 5000), 1)
    images, labels = as_input(digits.train_images), tl.from_numpy(digits.train_labels).long()
    training = (Augmented if augment else TensorDataset)(images[held_out:], labels[held_out:])
    validation = TensorDataset(images[:held_out], labels[:held_out])
    test = TensorDataset(as_input(digits.test_images), tl.from_numpy(digits.test_labels).long())
    epochs = epochs or (5 if len(training) > 5000 else 30)

    # The net. One seed settles its first weights and the order of the images.
    tl.manual_seed(seed)
    net = build(model, dropout).to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(training, batch_size=batch_size, shuffle=True, num_workers=workers)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))  # down to 0 at the end
    say(f"{digits.source}: {len(training):,} images to train, {len(validation):,} to validate, {len(test):,} to test")
    say(f"{model}: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    trainer = Trainer(net, optimizer, F.cross_entropy, metrics=["accuracy"], device=device,
                      callbacks=[Schedule(schedule, every="step")])  # fmt: skip
    result = run.fit(
        trainer,
        loader,
        epochs,
        validation=DataLoader(validation, batch_size=500),
        test=lambda: trainer.evaluate(DataLoader(test, batch_size=500)),
        data=[digits.train_images, digits.train_labels],
    )
    result.source = digits.source
    run.draw(f"{model} on {digits.source}", figure="accuracy", test=result.test_accuracy)
    return run.last_line("" if result.interrupted else f"test accuracy {result.test_accuracy:.4f}")


def _model_of(state: dict[str, Any]) -> str:
    if any(name.startswith("lstm.") for name in state):
        return "lstm"
    return "cnn" if any(t.dim() == 4 for t in state.values()) else "mlp"


@tl.no_grad()
def predict(pictures: Sequence[str | os.PathLike], weights: str | os.PathLike) -> list[tuple[int, float]]:
    """The digit on each picture and its probability, by weights that ``train`` saved."""
    images = as_input(np.stack([mnist.read_picture(picture) for picture in pictures]))
    state = tl.load(weights)
    net = build(_model_of(state))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(
            f"{weights}: these are not the weights of a net for digits; wanted a file that `tensorlite train "
            "mnist` wrote"
        ) from error
    probability, digit = net.eval()(images).softmax(1).max(1)
    return list(zip(digit.tolist(), probability.tolist()))
