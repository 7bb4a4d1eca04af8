"""A text a character at a time: the program behind ``tensorlite train chars`` and ``tensorlite sample``. Floor 7."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import Schedule
from tensorlite.errors import DataError
from tensorlite.examples.program import Result, Run, read_weights, say
from tensorlite.examples.sources import SHAKESPEARE
from tensorlite.text import CharVocab, read_text
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, Dataset, RandomSampler

REPORT = 250  # steps from one line to the next


class CharLM(nn.Module):
    """Embedding - stacked LSTM - Linear.  Characters (B, T) -> logits (B, T, V) of the next ones, and the state."""

    def __init__(self, characters: int, embedding: int = 64, hidden: int = 256, layers: int = 2, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout)
        self.linear = nn.Linear(hidden, characters)

    def forward(self, x: tl.Tensor, state: tuple | None = None) -> tuple[tl.Tensor, tuple]:
        y, state = self.lstm(self.embedding(x), state)
        return self.linear(y), state


class Windows(Dataset):
    """Pieces of a text: sample i is (characters i to i + length, the same one further on)."""

    def __init__(self, codes: np.ndarray, length: int, stride: int = 1) -> None:
        self.view = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride]

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> tuple[tl.Tensor, tl.Tensor]:
        piece = tl.from_numpy(self.view[index].copy())
        return piece[:-1], piece[1:]

    def __getitems__(self, indices: list[int]) -> tuple[tl.Tensor, tl.Tensor]:
        """A whole batch at once."""
        pieces = tl.from_numpy(self.view[indices])
        return pieces[:, :-1], pieces[:, 1:]


def batches(windows: Windows, **how: object) -> DataLoader:
    """A loader of them; ``__getitems__`` has made the batch already."""
    return DataLoader(windows, collate_fn=_whole, **how)  # type: ignore[arg-type]


def _whole(batch: tuple) -> tuple:
    return batch


def nats(model: nn.Module, batch: tuple) -> tl.Tensor:
    """The mean of -log p(next character)."""
    x, y = batch
    logits, _ = model(x)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def train(
    steps: int = 1500,
    batch_size: int = 32,
    length: int = 64,
    hidden: int = 256,
    layers: int = 2,
    lr: float = 4e-3,
    dropout: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    workers: int = 0,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
) -> Result:
    """Train a language model on a text; the last tenth of it is held out. Prints a sample at the end.

    Args:
        steps: of the optimizer; a line is printed about every 250.
        length: characters that the net is unrolled over.
        hidden, layers: of the LSTM.
        data: a text, or the folder with tinyshakespeare.txt; default: where ``TENSORLITE_DATA`` says, the cache, or
            the internet.
        batch_size, lr, dropout, seed, device, workers, out, plot, resume, checkpoint_every: as in
            ``tensorlite.examples.mnist.train``.
    """
    epochs = -(-steps // REPORT)
    each = -(-steps // epochs)  # so that all epochs have as many steps
    run = Run("chars", out or "chars.safetensors", plot, resume, checkpoint_every, steps=steps, batch_size=batch_size,
              length=length, hidden=hidden, layers=layers, lr=lr, dropout=dropout, seed=seed)  # fmt: skip

    # The data: nine tenths to train on, and of the last one half to watch and half to test.
    path = Path(data).expanduser() if data is not None and os.path.isfile(os.path.expanduser(data)) else None
    path = path or SHAKESPEARE.find(data)[0]
    text = read_text(path)
    characters = CharVocab.from_text(text)
    codes = characters.encode(text).numpy()
    ends = (len(codes) * 90 // 100, len(codes) * 95 // 100, len(codes))
    long = min(1024, (ends[1] - ends[0]) // 2)  # pieces so long that it does not matter that they begin with no state
    if long < length:
        raise DataError(f"{path}: {len(text):,} characters; wanted at least {40 * length:,} for pieces of {length}")
    training = Windows(codes[: ends[0]], length)
    validation, test = (Windows(codes[a:b], long, long) for a, b in ((ends[0], ends[1]), (ends[1], ends[2])))

    tl.manual_seed(seed)
    net = CharLM(len(characters), hidden=hidden, layers=layers, dropout=dropout).to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    order = RandomSampler(training, replacement=True, num_samples=each * batch_size)
    loader = batches(training, batch_size=batch_size, sampler=order, num_workers=workers)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * each)
    say(f"{path}: {ends[0]:,} characters to train, {ends[1] - ends[0]:,} to validate, {ends[2] - ends[1]:,} to test, "
        f"{len(characters)} different ones")  # fmt: skip
    say(f"LSTM {layers} x {hidden}: {sum(p.numel() for p in net.parameters()):,} parameters on {device}, "
        f"{epochs} x {each} steps")  # fmt: skip

    trainer = Trainer(net, optimizer, compute=nats, clip_grad_norm=1.0, device=device,
                      callbacks=[Schedule(schedule, "step")])  # fmt: skip
    result = run.fit(
        trainer,
        loader,
        epochs,
        validation=batches(validation, batch_size=16),
        test=lambda: {"nats": trainer.evaluate(batches(test, batch_size=16))["loss"]},
        data=[codes],
        config={"characters": "".join(characters.get_itos()), "hidden": hidden, "layers": layers},
    )
    run.draw(f"characters of {path.name}", loss="nats a character")
    if not result.interrupted:
        say("--- a sample\n" + continue_text(net, characters, "\n", 300, seed=seed).strip() + "\n---")
    return run.last_line("" if result.interrupted else f"test {result.test['nats']:.4f} nats a character")


def sample(
    weights: str | os.PathLike = "chars.safetensors",
    prompt: str = "\n",
    length: int = 500,
    temperature: float = 0.8,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """``prompt`` and ``length`` characters that follow it, by a model that ``train`` saved.

    Args:
        weights: the file of weights, a checkpoint, or a folder of checkpoints.
        temperature: below 1 the likelier characters are preferred; 0 always takes the likeliest.

    Raises:
        DataError: no such file, another kind of file, or a prompt with a character that the model has never seen.
    """
    config, state = read_weights(weights, "chars")
    characters = CharVocab(config["characters"])
    net = CharLM(len(characters), hidden=config["hidden"], layers=config["layers"])
    net.load_state_dict(state)
    try:
        characters.encode(prompt)
    except RuntimeError as error:
        raise DataError(f"the prompt: {error}") from error
    if not prompt:
        raise DataError("the prompt is empty; wanted at least one character")
    return continue_text(net.to(device), characters, prompt, length, temperature, seed, device)


@tl.no_grad()
def continue_text(
    net: CharLM,
    characters: CharVocab,
    prompt: str,
    length: int,
    temperature: float = 0.8,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """``prompt`` and ``length`` drawn characters after it."""
    generator, training = tl.Generator().manual_seed(seed), net.training
    net.eval()
    x, state, drawn = characters.encode(prompt).to(device).unsqueeze(0), None, []
    for _ in range(length):
        logits, state = net(x, state)
        last = logits[0, -1].cpu()
        if temperature > 0:  # the greatest of logits plus Gumbel noise is a draw from their softmax
            noise = -(-(tl.rand(last.shape, generator=generator) + 1e-9).log()).log()
            last = last / temperature + noise
        drawn.append(int(last.argmax()))
        x = tl.tensor([[drawn[-1]]]).to(device)
    net.train(training)
    return prompt + characters.decode(drawn)
