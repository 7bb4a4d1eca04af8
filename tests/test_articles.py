"""The models of the user's articles, through the native API: dense nets, a CNN, LSTMs on text and series, a plain loop.

Each trains on made-up data that it can learn; the assertion is that it has.
"""

import subprocess
import sys

import numpy as np
import pytest
from test_data import write_mnist

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import nn
from tensorlite.text import Vocab, build_vocab_from_iterator, pad_sequences, tokenize
from tensorlite.train import Trainer
from tensorlite.utils.data import DataLoader, TensorDataset
from tensorlite.vision import mnist


@pytest.fixture
def digits(tmp_path):
    """Images (N, 1, 28, 28) in [0, 1] and labels: training and test."""
    found = mnist.load(write_mnist(tmp_path / "digits", train=800, test=200))
    as_tensors = (
        (tl.from_numpy(x).float().unsqueeze(1) / 255, tl.from_numpy(y).long())
        for x, y in ((found.train_images, found.train_labels), (found.test_images, found.test_labels))
    )
    return [TensorDataset(*pair) for pair in as_tensors]


def trained(model, data, epochs, batch_size=32, loss=F.cross_entropy, metrics=("accuracy",), lr=1e-3):
    trainer = Trainer(model, tl.optim.Adam(model.parameters(), lr=lr), loss, metrics=metrics)
    trainer.fit(DataLoader(data, batch_size=batch_size, shuffle=True), epochs=epochs)
    return trainer


def test_000_dense_classifier():
    centres = tl.randn(10, 100)
    labels = tl.arange(1000) % 10
    data = TensorDataset(centres[labels] + tl.randn(1000, 100), labels)
    model = nn.Sequential(nn.Linear(100, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    trainer = trained(model, data, epochs=10)
    assert trainer.history[-1]["accuracy"] > 0.95
    probabilities = trainer.predict([data.tensors[0]]).softmax(1)
    assert probabilities.sum(1).allclose(tl.ones(1000))


def test_001_mnist_mlp(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    trainer = trained(model, digits[0], epochs=5, batch_size=128, lr=1e-2)
    assert trainer.evaluate(DataLoader(digits[1], 100))["accuracy"] > 0.9


def test_002_mnist_dense_with_one_hot_labels(digits):
    """Categorical cross-entropy: the targets are rows of probabilities."""
    training, test = (TensorDataset(d.tensors[0], F.one_hot(d.tensors[1], 10).float()) for d in digits)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = tl.optim.Adam(model.parameters())
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss())
    history = trainer.fit(DataLoader(training, 32, shuffle=True), epochs=5, validation=DataLoader(test, 100))
    assert history[-1]["val_loss"] < 0.3 * history[0]["val_loss"]
    with tl.no_grad():
        assert (model(test.tensors[0]).argmax(1) == test.tensors[1].argmax(1)).float().mean() > 0.9


def test_002_text_lstm():
    """Three sentences, three labels (the article fits one joined text; its sentences are meant)."""
    texts = ["I love machine learning", "Deep learning is amazing", "Natural language processing is fun"]
    words = build_vocab_from_iterator(map(tokenize, texts), specials=["<PAD>", "<OOV>"], max_tokens=1000)
    words.set_default_index(1)
    padded = pad_sequences([words(tokenize(t)) for t in texts], maxlen=10, padding="post")
    assert isinstance(words, Vocab) and padded.shape == (3, 10)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(1000, 64), nn.LSTM(64, 64, batch_first=True)
            self.linear = nn.Linear(64, 3)

        def forward(self, x):
            return self.linear(self.lstm(self.embedding(x))[0][:, -1])

    data = TensorDataset(padded, tl.eye(3))
    trainer = trained(Net(), data, epochs=60, metrics=(), lr=1e-2)
    assert trainer.history[-1]["loss"] < 0.05
    assert trainer.predict([padded]).argmax(1).tolist() == [0, 1, 2]


def test_003_train_validate_test_loop(tmp_path):
    """As its own program: cost an epoch, validation and test accuracy."""
    folder = write_mnist(tmp_path / "digits", train=1500, test=100)
    done = subprocess.run(
        [sys.executable, "-m", "tensorlite.examples.loop", str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 11 and lines[0].startswith("epoch 01: cost ") and "validation accuracy" in lines[0]
    assert float(lines[-1].removeprefix("test accuracy ")) > 0.9


def test_004_mnist_cnn(digits):
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    trainer = trained(model, digits[0], epochs=3)
    assert trainer.evaluate(DataLoader(digits[1], 100))["accuracy"] > 0.9


def test_004_stacked_lstm():
    """LSTM(64) - LSTM(32) - Dense(1): the mean of a feature over the series."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.LSTM(10, 64, batch_first=True), nn.LSTM(64, 32, batch_first=True)
            self.linear = nn.Linear(32, 1)

        def forward(self, x):
            return self.linear(self.second(self.first(x)[0])[0][:, -1])

    x = tl.rand(256, 12, 10)
    data = TensorDataset(x, x[:, :, :1].mean(1))
    trainer = trained(Net(), data, epochs=50, loss=F.mse_loss, metrics=("rmse", "r2"), lr=1e-2)
    assert trainer.evaluate(DataLoader(data, 64))["r2"] > 0.9


def test_vanilla_rnn_cell():
    """The cell that the articles draw, unrolled by hand: it tells which of two halves of a series was larger."""
    cell, linear = nn.RNNCell(1, 16), nn.Linear(16, 2)
    optimizer = tl.optim.Adam([*cell.parameters(), *linear.parameters()], lr=1e-2)
    x = tl.rand(200, 6, 1)
    y = (x[:, :3].sum((1, 2)) > x[:, 3:].sum((1, 2))).long()
    for _ in range(150):
        h = None
        for step in x.unbind(1):
            h = cell(step, h)
        loss = F.cross_entropy(linear(h), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (linear(h).argmax(1) == y).float().mean() > 0.95
    assert np.isfinite(loss.item())
