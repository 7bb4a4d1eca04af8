"""What the programs must learn, on real data, three seeds each: minutes. ``python -m pytest -s -m slow <this file>``"""

import statistics

import pytest


def medians(train, tmp_path, figure, **settings):
    """A figure of three seeds, printed, and its median."""
    found = []
    for seed in range(3):
        result = train(seed=seed, out=tmp_path / "weights.safetensors", **settings)
        found.append(result.test[figure])
    print(f"{figure}: {', '.join(f'{f:.4f}' for f in found)}; median {statistics.median(found):.4f}")
    return statistics.median(found)


@pytest.mark.slow
@pytest.mark.parametrize("model, epochs, wanted", [("mlp", 10, 0.93), ("cnn", 5, 0.975), ("lstm", 10, 0.945)])
def test_mnist(data, tmp_path, model, epochs, wanted):
    """On mnist10k; PyTorch reaches 0.938, 0.979 and 0.952."""
    from tensorlite.examples.mnist import train

    folder = data / "mnist10k"
    assert medians(train, tmp_path, "accuracy", model=model, epochs=epochs, data=folder) >= wanted


@pytest.mark.slow
def test_text(data, tmp_path):
    """Bidirectional LSTM 64, 6 epochs, the last 1,062 of the shuffled sentences; PyTorch reaches 0.747."""
    from tensorlite.examples.text import train

    assert medians(train, tmp_path, "accuracy", data=data, epochs=6) >= 0.735


@pytest.mark.slow
def test_chars(data, tmp_path):
    """2 x 256, batch 32, length 64, 1,500 steps, nats a character held out; PyTorch reaches 1.55."""
    from tensorlite.examples.chars import train

    assert medians(train, tmp_path, "nats", data=data, steps=1500) < 1.65


@pytest.mark.slow
@pytest.mark.parametrize("series", ["temperature", "pollution"])
def test_series(data, tmp_path, series):
    """The forecast is better than the naive one."""
    from tensorlite.examples.series import train

    error = medians(train, tmp_path, "rmse", data=data, series=series)
    naive = train(data=data, series=series, epochs=1, out=tmp_path / "weights.safetensors").test["naive"]
    assert error < naive


@pytest.mark.slow
def test_vae(data, tmp_path):
    """The same net, data, optimizer and schedule in PyTorch, in the same run: the bounds differ by 2 % at most."""
    torch = pytest.importorskip("torch")
    from tensorlite.examples import vae
    from tensorlite.vision import mnist

    ours = medians(vae.train, tmp_path, "elbo", data=data / "mnist10k", epochs=10)
    digits = mnist.load(data / "mnist10k")
    train, test = (
        torch.from_numpy(x).float().flatten(1) / 255 for x in (digits.train_images[1000:], digits.test_images)
    )

    class VAE(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Linear(784, 400)
            self.mean, self.log_variance = torch.nn.Linear(400, 20), torch.nn.Linear(400, 20)
            self.decoder = torch.nn.Sequential(torch.nn.Linear(20, 400), torch.nn.ReLU(), torch.nn.Linear(400, 784))

        def forward(self, x):
            h = torch.relu(self.hidden(x))
            mean, log_variance = self.mean(h), self.log_variance(h)
            return self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean)), mean, log_variance

    def loss_of(net, x):
        logits, mean, log_variance = net(x)
        error = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (error - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()) / len(x)

    theirs = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = VAE()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        steps = -(-len(train) // 128)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10 * steps)
        for _ in range(10):
            for batch in torch.randperm(len(train)).split(128):
                optimizer.zero_grad()
                loss_of(net, train[batch]).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            theirs.append(-loss_of(net, test).item())
    median = statistics.median(theirs)
    print(f"PyTorch's: {', '.join(f'{t:.4f}' for t in theirs)}; median {median:.4f}; ours / theirs {ours / median:.4f}")
    assert abs(ours / median - 1) <= 0.02
