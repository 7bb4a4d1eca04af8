"""What is trained and timed: models, losses and data, each a function of the library with PyTorch's names. Floor 6.

Nothing here imports a library of tensors: the caller hands over ``tensorlite`` or ``torch``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass
class Task:
    """A model and how it learns."""

    model: Any
    loss: Callable[..., Any]  # of the batch's tensors
    optimizer: Callable[..., Any]  # of the parameters and further settings
    clip: float | None = None  # the greatest norm of all gradients together


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark.

    ``sizes`` are the keywords of ``build``, ``data`` and ``flops``; ``small`` replaces some for a quick test.
    """

    name: str
    title: str
    build: Callable[..., Task]  # (lib, **sizes)
    data: Callable[..., tuple[np.ndarray, ...]]  # (rng, count, **sizes): arrays (count, batch, ...)
    flops: Callable[..., tuple[float, float]]  # (**sizes): of the forward; of the input gradient that nobody needs
    sizes: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # names in the library without which it cannot be built

    def sized(self, small: bool = False) -> dict[str, Any]:
        return self.sizes | self.small if small else self.sizes

    @property
    def pictures(self) -> bool:
        """Whether it has any, so that their layout matters."""
        return len(self.sizes.get("shape", ())) == 3

    def missing(self, lib: Any) -> list[str]:
        """Those of ``needs`` that the library does not have."""
        return [name for name in self.needs if not _has(lib, name)]

    def gflop(self, phase: str, small: bool = False) -> float:
        """Billions of operations of one step: matrix products alone, forward once, or forward and backward."""
        forward, unneeded = self.flops(**self.sized(small))
        return (forward if phase == "infer" else 3 * forward - unneeded) / 1e9

    def pool(self, seed: int, small: bool = False, megabytes: int = 64) -> list[tuple[np.ndarray, ...]]:
        """Batches to choose from: many, so that none is learnt by heart."""
        sizes = self.sized(small)
        rng = np.random.default_rng(seed)
        one = sum(a.nbytes for a in self.data(rng, 1, **sizes))
        count = min(max(megabytes * 2**20 // one, 16), 512)
        return [tuple(np.ascontiguousarray(a) for a in batch) for batch in zip(*self.data(rng, count, **sizes))]


def _has(lib: Any, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(lib, part):
            return False
        lib = getattr(lib, part)
    return True


WORKLOADS: dict[str, Workload] = {}


def find(name: str) -> Workload:
    """The workload of this name; ``cnn_b32@batch=8;widths=(8,8,8,8)`` is one with other sizes."""
    base, _, changes = name.partition("@")
    workload = WORKLOADS[base]
    if not changes:
        return workload
    sizes = {key: ast.literal_eval(value) for key, value in (part.split("=") for part in changes.split(";"))}
    if unknown := sorted(set(sizes) - set(workload.sizes)):
        raise ValueError(f"{name}: got {', '.join(unknown)}; wanted some of {', '.join(workload.sizes)}")
    return replace(workload, name=name, sizes=workload.sizes | sizes)


def _add(name: str, title: str, build: Any, data: Any, flops: Any, sizes: dict, small: dict, *needs: str) -> None:
    WORKLOADS[name] = Workload(name, title, build, data, flops, sizes, small, needs)


def _adam(lib: Any) -> Callable[..., Any]:
    return lambda params, **more: lib.optim.Adam(params, lr=1e-3, **more)


# ---- data that can be learnt
def pictures(rng: Any, count: int, *, batch: int, shape: tuple, classes: int = 10, **_: Any) -> tuple:
    """The mean of noise in [0, 1) and a fixed picture of the class; some classes are wrong."""
    templates = np.random.default_rng(0).random((classes, *shape), dtype=np.float32)
    for axis, side in enumerate(shape[1:], 2):  # squares of 7 pixels, which a convolution can see
        templates = templates.take(np.arange(side) // 7, axis)
    y = rng.integers(0, classes, (count, batch))
    x = rng.random((count, batch, *shape), dtype=np.float32)
    x += templates[y]
    x *= 0.5
    return x, _mistaken(rng, y, classes)


def _mistaken(rng: Any, y: np.ndarray, classes: int) -> np.ndarray:
    """A fifth of the classes drawn anew, so that no loss, and with it no gradient, fades to nothing."""
    return np.where(rng.random(y.shape) < 0.2, rng.integers(0, classes, y.shape), y)


def blobs(rng: Any, count: int, *, batch: int, features: int, **_: Any) -> tuple:
    """Probabilities (batch, features) that eight numbers decide."""
    directions = np.random.default_rng(0).standard_normal((8, features)).astype(np.float32)
    return (1 / (1 + np.exp(-rng.standard_normal((count, batch, 8), dtype=np.float32) @ directions)),)


def signals(rng: Any, count: int, *, batch: int, length: int, features: int, **_: Any) -> tuple:
    """Sequences of noise and the mean of what came last."""
    x = rng.random((count, batch, length, features), dtype=np.float32)
    return x, x[:, :, -3:].mean((2, 3))[..., None] * 4


def sentences(rng: Any, count: int, *, batch: int, length: int, words: int, classes: int, **_: Any) -> tuple:
    """Words and a class that the last of them decides, mostly."""
    x = rng.integers(0, words, (count, batch, length))
    x[:, :, -1] %= 5 * classes
    return x, _mistaken(rng, x[:, :, -1] % classes, classes)


def characters(rng: Any, count: int, *, batch: int, length: int, words: int, **_: Any) -> tuple:
    """Text where mostly each character decides the next one, and the same text one character on."""
    text = rng.integers(0, words, (count, batch, length + 1))
    surprise = rng.random((count, batch, length + 1)) < 0.1
    for k in range(1, length + 1):
        text[:, :, k] = np.where(surprise[:, :, k], text[:, :, k], (7 * text[:, :, k - 1] + 3) % words)
    return text[:, :, :-1], text[:, :, 1:]


# ---- plain layers
def _classifier(lib: Any, model: Any) -> Task:
    return Task(model, lambda x, y: lib.nn.functional.cross_entropy(model(x), y), _adam(lib))


def mlp(lib: Any, *, shape: tuple, hidden: tuple, classes: int = 10, **_: Any) -> Task:
    nn = lib.nn
    widths = [*shape, *hidden]
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return _classifier(lib, nn.Sequential(*layers, nn.Linear(widths[-1], classes)))


def _mlp_flops(*, batch: int, shape: tuple, hidden: tuple, classes: int = 10) -> tuple[float, float]:
    widths = [*shape, *hidden, classes]
    layers = [2 * batch * a * b for a, b in pairwise(widths)]
    return sum(layers), layers[0]


for _batch in (32, 128):
    _add(
        f"mlp_b{_batch}", "784-128-10, ReLU, cross-entropy, Adam", mlp, pictures, _mlp_flops,
        dict(batch=_batch, shape=(784,), hidden=(128,)), dict(batch=8, shape=(12,), hidden=(16,)),
    )  # fmt: skip
_add(
    "mlp_big", "784-1024-1024-10, ReLU, cross-entropy, Adam", mlp, pictures, _mlp_flops,
    dict(batch=256, shape=(784,), hidden=(1024, 1024)), dict(batch=8, shape=(12,), hidden=(16, 16)),
)  # fmt: skip


def cnn(lib: Any, *, shape: tuple, widths: tuple, classes: int = 10, **_: Any) -> Task:
    nn, (a, b, c, d) = lib.nn, widths
    side = ((shape[1] - 2) // 2 - 2) // 2 - 2
    model = nn.Sequential(
        *(nn.Conv2d(shape[0], a, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(b, c, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(c * side * side, d), nn.ReLU(), nn.Linear(d, classes)),
    )
    return _classifier(lib, model)


def _cnn_flops(*, batch: int, shape: tuple, widths: tuple, classes: int = 10) -> tuple[float, float]:
    (channels, side, _), (a, b, c, d) = shape, widths
    one, two = side - 2, (side - 2) // 2 - 2
    three = two // 2 - 2
    layers = [
        *(channels * 9 * a * one**2, a * 9 * b * two**2, b * 9 * c * three**2),
        *(c * three**2 * d, d * classes),
    ]
    return 2 * batch * sum(layers), 2 * batch * layers[0]


for _batch in (32, 128):
    _add(
        f"cnn_b{_batch}", "three 3x3 convolutions 32/64/64, two max-pools, 64, 10, Adam", cnn, pictures, _cnn_flops,
        dict(batch=_batch, shape=(1, 28, 28), widths=(32, 64, 64, 64)),
        dict(batch=8, shape=(1, 22, 22), widths=(8, 8, 8, 16)),
    )  # fmt: skip


def vae(lib: Any, *, features: int, hidden: int, code: int, **_: Any) -> Task:
    nn, F = lib.nn, lib.nn.functional

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.mean, self.logvar = (
                nn.Linear(features, hidden), nn.Linear(hidden, code), nn.Linear(hidden, code)
            )  # fmt: skip
            self.decode = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, features))

        def forward(self, x):
            h = F.relu(self.encode(x))
            mean, logvar = self.mean(h), self.logvar(h)
            z = mean + lib.exp(0.5 * logvar) * lib.randn_like(mean) if self.training else mean
            return self.decode(z), mean, logvar

    model = VAE()

    def loss(x):
        logits, mean, logvar = model(x)
        surprise = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (surprise - 0.5 * (1 + logvar - mean * mean - logvar.exp()).sum()) / x.shape[0]

    return Task(model, loss, _adam(lib))


def _vae_flops(*, batch: int, features: int, hidden: int, code: int) -> tuple[float, float]:
    return 2 * batch * (2 * features * hidden + 3 * hidden * code), 2 * batch * features * hidden


_add(
    "vae", "784-400-20-400-784, BCE with logits + KL, Adam", vae, blobs, _vae_flops,
    dict(batch=128, features=784, hidden=400, code=20), dict(batch=8, features=12, hidden=10, code=3),
)  # fmt: skip


def resnet8(lib: Any, *, shape: tuple, stages: tuple, classes: int = 10, **_: Any) -> Task:
    nn, F = lib.nn, lib.nn.functional

    def conv(a, b, size, stride):
        return nn.Sequential(nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b))

    class Block(nn.Module):
        def __init__(self, a, b, stride):
            super().__init__()
            self.one, self.two = conv(a, b, 3, stride), conv(b, b, 3, 1)
            self.short = conv(a, b, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x):
            return F.relu(self.two(F.relu(self.one(x))) + self.short(x))

    a, b, c = stages
    model = nn.Sequential(
        *(conv(shape[0], a, 3, 1), nn.ReLU(), Block(a, a, 1), Block(a, b, 2), Block(b, c, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes)),
    )
    task = _classifier(lib, model)
    task.optimizer = lambda params, **more: lib.optim.SGD(params, lr=0.05, momentum=0.9, **more)
    return task


def _resnet8_flops(*, batch: int, shape: tuple, stages: tuple, classes: int = 10) -> tuple[float, float]:
    (channels, side, _), (a, b, c) = shape, stages
    first, full, half, quarter = channels * 9 * a * side**2, side**2, (side // 2) ** 2, (side // 4) ** 2
    blocks = 2 * 9 * a * a * full + (10 * a * b + 9 * b * b) * half + (10 * b * c + 9 * c * c) * quarter
    return 2 * batch * (first + blocks + c * classes), 2 * batch * first


_add(
    "resnet8", "3x32x32, one block each of 16/32/64 with BatchNorm, SGD with momentum", resnet8, pictures,
    _resnet8_flops, dict(batch=64, shape=(3, 32, 32), stages=(16, 32, 64)),
    dict(batch=4, shape=(3, 8, 8), stages=(4, 6, 8)), "nn.BatchNorm2d", "nn.AdaptiveAvgPool2d",
)  # fmt: skip


# ---- sequences
def lstm_seq(lib: Any, *, features: int, widths: tuple, **_: Any) -> Task:
    nn, (a, b) = lib.nn, widths

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LSTM(features, a, batch_first=True), nn.LSTM(a, b, batch_first=True)
            self.out = nn.Linear(b, 1)

        def forward(self, x):
            return self.out(self.two(self.one(x)[0])[0][:, -1])

    model = Net()
    return Task(model, lambda x, y: nn.functional.mse_loss(model(x), y), _adam(lib))


def _lstm_seq_flops(*, batch: int, length: int, features: int, widths: tuple) -> tuple[float, float]:
    a, b = widths
    steps = 2 * batch * length
    return steps * ((features + a) * 4 * a + (a + b) * 4 * b) + 2 * batch * b, steps * features * 4 * a


_add(
    "lstm_seq", "LSTM(64) - LSTM(32) - Linear(1), 50 steps of 10 features, MSE of the last, Adam", lstm_seq, signals,
    _lstm_seq_flops, dict(batch=32, length=50, features=10, widths=(64, 32)),
    dict(batch=4, length=5, features=3, widths=(6, 4)), "nn.LSTM",
)  # fmt: skip


def text(lib: Any, *, cell: str, words: int, width: int, classes: int, **_: Any) -> Task:
    nn = lib.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(words, width)
            self.cell = getattr(nn, cell)(width, width, batch_first=True)
            self.out = nn.Linear(width, classes)

        def forward(self, ids):
            return self.out(self.cell(self.embed(ids))[0][:, -1])

    return _classifier(lib, Net())


def _text_flops(*, batch: int, length: int, cell: str, words: int, width: int, classes: int) -> tuple[float, float]:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell]
    return 2 * batch * (length * 2 * width * gates * width + width * classes), 0


for _cell in ("LSTM", "GRU", "RNN"):
    _add(
        f"text_{_cell.lower()}", f"Embedding(1000, 64) - {_cell}(64) - Linear(3), 100 steps, the last counts, Adam",
        text, sentences, _text_flops, dict(batch=32, length=100, cell=_cell, words=1000, width=64, classes=3),
        dict(batch=4, length=6, words=20, width=8), "nn.Embedding", f"nn.{_cell}",
    )  # fmt: skip


def _language(lib: Any, model: Any, words: int) -> Callable[..., Any]:
    def loss(ids, following):
        return lib.nn.functional.cross_entropy(model(ids).reshape(-1, words), following.reshape(-1))

    return loss


def char_lm(lib: Any, *, words: int, width: int, hidden: int, **_: Any) -> Task:
    nn = lib.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(words, width)
            self.cell = nn.LSTM(width, hidden, num_layers=2, batch_first=True)
            self.out = nn.Linear(hidden, words)

        def forward(self, ids):
            return self.out(self.cell(self.embed(ids))[0])

    model = Net()
    return Task(model, _language(lib, model, words), _adam(lib), clip=1.0)


def _char_lm_flops(*, batch: int, length: int, words: int, width: int, hidden: int) -> tuple[float, float]:
    return 2 * batch * length * ((width + 3 * hidden) * 4 * hidden + hidden * words), 0


_add(
    "char_lm", "Embedding(65, 64) - two layers of LSTM(256) - Linear(65), 64 steps, gradients clipped, Adam", char_lm,
    characters, _char_lm_flops, dict(batch=32, length=64, words=65, width=64, hidden=256),
    dict(batch=4, length=6, words=11, width=8, hidden=8), "nn.Embedding", "nn.LSTM", "nn.utils.clip_grad_norm_",
)  # fmt: skip


def gpt_nano(lib: Any, *, length: int, words: int, layers: int, width: int, heads: int, **_: Any) -> Task:
    nn, F = lib.nn, lib.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = (
                part.reshape(n, t, heads, width // heads).transpose(1, 2)
                for part in self.qkv(self.norm1(x)).split(width, 2)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.join(seen.transpose(1, 2).reshape(n, t, width))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

        def forward(self, ids):
            x = self.embed(ids) + self.place(lib.arange(ids.shape[1], device=ids.device))
            return self.out(self.norm(self.blocks(x)))

    model = GPT()
    return Task(model, _language(lib, model, words), lambda params, **more: lib.optim.AdamW(params, lr=3e-4, **more))


def _gpt_flops(*, batch: int, length: int, words: int, layers: int, width: int, heads: int) -> tuple[float, float]:
    return 2 * batch * length * (layers * (12 * width**2 + 2 * length * width) + width * words), 0


_add(
    "gpt_nano", "4 layers of width 128, 4 heads, 64 steps, pre-norm, GELU, causal, AdamW", gpt_nano, characters,
    _gpt_flops, dict(batch=16, length=64, words=65, layers=4, width=128, heads=4),
    dict(batch=2, length=6, words=11, layers=2, width=8, heads=2), "nn.Embedding", "nn.LayerNorm",
    "nn.functional.scaled_dot_product_attention",
)  # fmt: skip
