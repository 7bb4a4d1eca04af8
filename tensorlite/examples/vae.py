"""Digits made up: a variational auto-encoder, the program behind ``tensorlite train vae``. Floor 7.

D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes, 2013.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import Schedule
from tensorlite.examples.program import Download, Result, Run, say
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, TensorDataset
from tensorlite.utils.data.files import check_writable
from tensorlite.utils.extras import require
from tensorlite.vision import mnist


class VAE(nn.Module):
    """784-400-20-400-784: pixels (B, 784) to the mean and log-variance of a code (B, 20), a code to pixels' logits."""

    def __init__(self, pixels: int = 784, hidden: int = 400, code: int = 20) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, hidden)
        self.mean = nn.Linear(hidden, code)
        self.log_variance = nn.Linear(hidden, code)
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def encode(self, x: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor]:
        """The mean and the log-variance of the code of each image."""
        h = F.relu(self.hidden(x))
        return self.mean(h), self.log_variance(h)

    def forward(self, x: tl.Tensor) -> tuple[tl.Tensor, tl.Tensor, tl.Tensor]:
        """Logits of the pixels from a drawn code, and the code's mean and log-variance."""
        mean, log_variance = self.encode(x)
        code = mean + (0.5 * log_variance).exp() * tl.randn_like(mean)
        return self.decoder(code), mean, log_variance


def negative_elbo(model: nn.Module, batch: tuple) -> tl.Tensor:
    """-log p(x | code) + KL(code || N(0, 1)), in nats an image: the lower, the better."""
    (x,) = batch
    logits, mean, log_variance = model(x)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum()
    return (reconstruction + divergence) / x.shape[0]


def train(
    epochs: int | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    workers: int = 0,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    grid: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
) -> Result:
    """Train on the digits, print the bound on the likelihood (ELBO), and draw digits that nobody wrote.

    Args:
        grid: a picture (.png) of 64 made-up digits; default ``vae.png``.
        plot: a file for the curves of the loss.
        epochs, batch_size, lr, seed, device, data, workers, out, resume, checkpoint_every: as in
            ``tensorlite.examples.mnist.train``.
    """
    epochs = epochs or 10
    picture = check_writable(grid or Path(out or "vae.safetensors").with_suffix(".png"))
    require("PIL.Image", "examples", "a picture of made-up digits")
    run = Run("vae", out or "vae.safetensors", plot, resume, checkpoint_every, epochs=epochs, batch_size=batch_size,
              lr=lr, seed=seed)  # fmt: skip

    with Download() as bar:
        digits = mnist.load(data, say=say, progress=bar.advance)

    def pixels(images: np.ndarray) -> TensorDataset:
        return TensorDataset(tl.from_numpy(images).float().flatten(1) / 255)

    held_out = max(min(len(digits.train_images) // 10, 5000), 1)
    training, validation = pixels(digits.train_images[held_out:]), pixels(digits.train_images[:held_out])
    test = pixels(digits.test_images)

    tl.manual_seed(seed)
    net = VAE().to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(training, batch_size=batch_size, shuffle=True, num_workers=workers)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    say(f"{digits.source}: {len(training):,} images to train, {len(validation):,} to validate, {len(test):,} to test")
    say(f"VAE 784-400-20: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    trainer = Trainer(net, optimizer, compute=negative_elbo, device=device, callbacks=[Schedule(schedule, "step")])
    result = run.fit(
        trainer,
        loader,
        epochs,
        validation=DataLoader(validation, batch_size=500),
        test=lambda: {"elbo": -trainer.evaluate(DataLoader(test, batch_size=500))["loss"]},
        data=[digits.train_images],
    )
    result.source = digits.source
    draw(net, picture, device)
    say(f"64 made-up digits in {picture}")
    run.draw(f"VAE on {digits.source}", loss="-ELBO, nats an image")
    return run.last_line("" if result.interrupted else f"test ELBO {result.test['elbo']:.2f} nats an image")


@tl.no_grad()
def draw(net: VAE, path: Path, device: str = "cpu", seed: int = 0) -> None:
    """Write a picture of 64 digits, decoded from codes that ``seed`` draws."""
    from tensorlite.vision.utils import save_image

    codes = tl.randn(64, net.mean.out_features, generator=tl.Generator().manual_seed(seed)).to(device)
    save_image(net.decoder(codes).sigmoid().cpu().reshape(64, 1, 28, 28), path, nrow=8)
