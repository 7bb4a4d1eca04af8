"""One training of the headline in this process: the MNIST CNN from the same weights, in the same order, to a goal.

Written for libraries with PyTorch's names; nothing here imports one.
"""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels
FILES = {
    "images": ("train-images-idx3-ubyte.gz", 16), "labels": ("train-labels-idx1-ubyte.gz", 8),
    "test_images": ("t10k-images-idx3-ubyte.gz", 16), "test_labels": ("t10k-labels-idx1-ubyte.gz", 8),
}  # fmt: skip
RECIPE = {
    "batch": 64,
    "lr": 1e-3,  # Adam's at the first step; a quarter of a cosine's period takes it to 0 after all epochs
    "epochs": 5,
    "goal": 0.97,  # accuracy on the test images
    "look": 1.0,  # epochs from one look at the test images to the next
    "looked_at": 500,  # images at once
}


def read(folder: str) -> dict[str, np.ndarray]:
    """The arrays, pictures as the net wants them. Raises OSError where a file is missing."""
    found = {}
    for name, (file, head) in FILES.items():
        raw = np.frombuffer(gzip.decompress((Path(folder) / file).read_bytes()), np.uint8, offset=head)
        if head == 16:
            found[name] = ((raw.astype(np.float32) / 255 - MEAN) / DEVIATION).reshape(-1, 1, 28, 28)
        else:
            found[name] = raw.astype(np.int64)
    return found


def weights(lib: Any, model: Any, seed: int) -> None:
    """PyTorch's law for first weights, drawn by NumPy: the same ones in every library."""
    rng = np.random.default_rng(seed)
    with lib.no_grad():
        for layer in model.modules():
            if hasattr(layer, "weight"):
                bound = math.prod(layer.weight.shape[1:]) ** -0.5
                for p in (layer.weight, layer.bias):
                    p.copy_(lib.from_numpy(rng.uniform(-bound, bound, tuple(p.shape)).astype(np.float32)))


def train(lib: Any, build: Any, data: dict[str, np.ndarray], seed: int, recipe: dict[str, Any], how: dict) -> dict:
    """Train until the goal is reached at a look at the test images, or the recipe ends.

    Args:
        build: gives the net.
        how: ``optimizer`` (further settings), ``channels_last`` and ``compile`` as in benchmarks.child.

    Returns:
        seconds from the data in tensors to the end of the last look: ``seconds``, those of them in training steps and
        in looks; how many steps, whether the goal is ``reached``, the accuracies, and when the first step was done.
    """
    tensors = {name: lib.from_numpy(array) for name, array in data.items()}
    start = time.perf_counter()
    model = build(lib)
    weights(lib, model, seed)
    if how.get("channels_last"):
        model.to(memory_format=lib.channels_last)
        for name in ("images", "test_images"):
            tensors[name] = tensors[name].contiguous(memory_format=lib.channels_last)
    optimizer = lib.optim.Adam(model.parameters(), lr=recipe["lr"], **how.get("optimizer", {}))
    step, logits = _functions(lib, model, optimizer, how.get("compile", False))
    batch, count = recipe["batch"], len(data["images"]) // recipe["batch"]
    total, look = recipe["epochs"] * count, max(int(recipe["look"] * count), 1)
    rng = np.random.default_rng(seed)
    accuracies: list[float] = []
    stepping = looking = first = 0.0
    done = 0
    while done < total and not (accuracies and accuracies[-1] >= recipe["goal"]):
        began = time.perf_counter()
        for _ in range(min(look, total - done)):
            if done % count == 0:
                order = lib.from_numpy(rng.permutation(len(data["images"])))
            optimizer.param_groups[0]["lr"] = recipe["lr"] * math.cos(math.pi / 2 * done / total)
            at = order[done % count * batch : (done % count + 1) * batch]
            loss = step(tensors["images"][at], tensors["labels"][at])
            done += 1
            if done == 1:
                loss.item()
                first = time.time()
        if not math.isfinite(value := loss.item()):
            raise ArithmeticError(f"step {done}: the loss is {value}; wanted a finite number")
        middle = time.perf_counter()
        model.eval()
        accuracies.append(_accuracy(logits, tensors, recipe["looked_at"]))
        model.train()
        stepping += middle - began
        looking += time.perf_counter() - middle
    return {
        "seconds": time.perf_counter() - start,
        "stepping": stepping,
        "looking": looking,
        "steps": done,
        "reached": accuracies[-1] >= recipe["goal"],
        "accuracies": accuracies,
        "first": first,
    }


def _functions(lib: Any, model: Any, optimizer: Any, compiled: bool) -> tuple[Any, Any]:
    """A training step, and the net for a look: each library compiled as far as it goes.

    PyTorch compiles the net, forward and backward; the whole step would be compiled anew for each learning rate.
    """
    net = lib.compile(model) if compiled and lib.__name__ == "torch" else model

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = lib.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def logits(x: Any) -> Any:
        with lib.inference_mode():
            return net(x)

    return (lib.compile(step), lib.compile(logits)) if compiled and net is model else (step, logits)


def _accuracy(logits: Any, tensors: dict[str, Any], size: int) -> float:
    images, labels = tensors["test_images"], tensors["test_labels"]
    right = 0
    for k in range(0, len(images), size):
        right += int((logits(images[k : k + size]).argmax(1) == labels[k : k + size]).sum())
    return right / len(images)
