"""A plain loop that trains, validates and tests, with nothing between you and the steps. Floor 7.

Run it with ``python -m tensorlite.examples.loop [folder with MNIST]``.
"""

from __future__ import annotations

import sys

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite.vision import mnist


def main(
    data: str | None = None, epochs: int = 10, batch_size: int = 128, lr: float = 0.01, seed: int = 0
) -> tuple[list[float], float]:
    """Train a 784-256-10 net on the digits; returns each epoch's mean cost, and the test accuracy."""
    digits = mnist.load(data)
    pixels = tl.from_numpy(digits.train_images).float().flatten(1) / 255
    labels = tl.from_numpy(digits.train_labels).long()
    test_pixels = tl.from_numpy(digits.test_images).float().flatten(1) / 255
    test_labels = tl.from_numpy(digits.test_labels).long()
    held_out = max(len(pixels) // 10, 1)

    tl.manual_seed(seed)
    h1 = (tl.randn(784, 256) * 0.01).requires_grad_()
    b1 = (tl.randn(256) * 0.01).requires_grad_()
    h2 = (tl.randn(256, 10) * 0.01).requires_grad_()
    b2 = (tl.randn(10) * 0.01).requires_grad_()
    optimizer = tl.optim.Adam([h1, b1, h2, b2], lr=lr)

    def logits(x: tl.Tensor) -> tl.Tensor:
        return F.relu(x @ h1 + b1) @ h2 + b2

    @tl.no_grad()
    def accuracy(x: tl.Tensor, y: tl.Tensor) -> float:
        return (logits(x).argmax(1) == y).float().mean().item()

    costs = []
    for epoch in range(1, epochs + 1):
        cost, order = 0.0, tl.randperm(len(pixels) - held_out) + held_out
        for batch in order.split(batch_size):
            loss = F.cross_entropy(logits(pixels[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cost += loss.item() * len(batch) / len(order)
        costs.append(cost)
        print(f"epoch {epoch:02d}: cost {cost:.6f}, validation accuracy "
              f"{accuracy(pixels[:held_out], labels[:held_out]):.4f}")  # fmt: skip
    tested = accuracy(test_pixels, test_labels)
    print(f"test accuracy {tested:.4f}")
    return costs, tested


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
