"""Is it praise? Movie reviews, the program behind ``tensorlite train text``. Floor 7."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.callbacks import Schedule
from tensorlite.examples.program import Result, Run, say
from tensorlite.examples.sources import REVIEWS
from tensorlite.nn.utils.rnn import pack_padded_sequence
from tensorlite.text import Vocab, build_vocab_from_iterator, pad_sequences, read_text, tokenize
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, TensorDataset

PAD, UNKNOWN = "<pad>", "<unk>"
VALIDATION, TEST = 500, 1062  # sentences at the end of the shuffled ones
SHUFFLE = 0  # the seed of their order: the same test sentences whatever the training's seed


def read(data: str | os.PathLike | None = None) -> tuple[list[str], np.ndarray]:
    """The sentences in a fixed random order, and 1 for praise, 0 for the contrary."""
    positive, negative = (_sentences(path) for path in REVIEWS.find(data))
    sentences = positive + negative
    labels = np.repeat(np.array([1, 0], np.int64), [len(positive), len(negative)])
    order = np.random.default_rng(SHUFFLE).permutation(len(sentences))
    return [sentences[k] for k in order], labels[order]


def _sentences(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, "latin-1").split("\n") if line.strip()]


class Reader(nn.Module):
    """Embedding - LSTM in both directions - Linear.  Words (B, T) and their number (B,) -> logits (B, 2)."""

    def __init__(self, words: int, embedding: int = 64, hidden: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=0)
        with tl.no_grad():  # small, so that what is learnt of a word soon outweighs what was drawn for it
            self.embedding.weight.mul_(0.1)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * hidden, 2)

    def forward(self, words: tl.Tensor, count: tl.Tensor) -> tl.Tensor:
        x = self.dropout(self.embedding(words))
        _, (h, _) = self.lstm(pack_padded_sequence(x, count, batch_first=True, enforce_sorted=False))
        return self.linear(self.dropout(tl.cat([h[0], h[1]], 1)))


def train(
    epochs: int | None = None,
    batch_size: int = 32,
    lr: float = 2e-3,
    dropout: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    data: str | os.PathLike | None = None,
    workers: int = 0,
    out: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
) -> Result:
    """Train a net to tell praise from its contrary; the last 1,062 of the shuffled sentences test it.

    Args:
        epochs: default 6.
        dropout: the chance of a feature to be left out while training, before and after the LSTM.
        data: the folder with rt-polarity.pos and .neg; default: where ``TENSORLITE_DATA`` says, the cache, or the
            internet.
        batch_size, lr, seed, device, workers, out, plot, resume, checkpoint_every: as in
            ``tensorlite.examples.mnist.train``.
    """
    epochs = epochs or 6
    run = Run("text", out or "text.safetensors", plot, resume, checkpoint_every, epochs=epochs, batch_size=batch_size,
              lr=lr, dropout=dropout, seed=seed)  # fmt: skip

    # The data. Which words there are is learnt from the sentences to train on.
    sentences, labels = read(data)
    tokens = [tokenize(sentence) for sentence in sentences]
    held_out = len(tokens) - VALIDATION - TEST
    words = build_vocab_from_iterator(tokens[:held_out], min_freq=2, specials=[PAD, UNKNOWN])
    words.set_default_index(1)
    inputs, counts = encode(tokens, words)
    answers = tl.from_numpy(labels)

    def part(start: int, end: int) -> TensorDataset:
        return TensorDataset(inputs[start:end], counts[start:end], answers[start:end])

    n = len(tokens)
    training, validation, test = part(0, held_out), part(held_out, n - TEST), part(n - TEST, n)

    tl.manual_seed(seed)
    net = Reader(len(words), dropout=dropout).to(device)
    optimizer = tl.optim.Adam(net.parameters(), lr=lr)
    loader = DataLoader(training, batch_size=batch_size, shuffle=True, num_workers=workers)
    schedule = tl.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    say(f"reviews: {len(training):,} sentences to train, {len(validation):,} to validate, {len(test):,} to test, "
        f"{len(words):,} words")  # fmt: skip
    say(f"LSTM: {sum(p.numel() for p in net.parameters()):,} parameters on {device}")

    trainer = Trainer(net, optimizer, F.cross_entropy, metrics=["accuracy"], clip_grad_norm=1.0, device=device,
                      compile=False,  # Reader packs by lengths that it reads from the batch
                      callbacks=[Schedule(schedule, "step")])  # fmt: skip
    result = run.fit(
        trainer,
        loader,
        epochs,
        validation=DataLoader(validation, batch_size=118),
        test=lambda: trainer.evaluate(DataLoader(test, batch_size=118)),
        data=[inputs.numpy(), labels],
        config={"words": words.state_dict()},
    )
    run.draw("movie reviews", figure="accuracy", test=result.test_accuracy)
    return run.last_line("" if result.interrupted else f"test accuracy {result.test_accuracy:.4f}")


def encode(tokens: list[list[str]], words: Vocab) -> tuple[tl.Tensor, tl.Tensor]:
    """Lists of words as their numbers (N, T), padded, and how many (N,) there are in each, 1 at least."""
    counts = tl.tensor([max(len(t), 1) for t in tokens])
    return pad_sequences([words(t) for t in tokens], padding="post"), counts
