"""A program that uses the public API as its users do. Type checkers read it (`python -m mypy`); a test runs it."""

import tensorlite as tl
import tensorlite.nn.functional as F
from tensorlite import Tensor, nn


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 2, bias=False)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.drop(self.first(x).relu())
        out: Tensor = self.second(hidden)
        return out


def arithmetic(x: Tensor, y: Tensor) -> Tensor:
    z = (x + y) * 2.0 - 1 / (y.abs() + 1)
    z = -z @ x.T + x.matmul(y.transpose(0, 1))
    z = tl.exp(z.clamp(max=3.0)).softmax(dim=-1).clone()
    z += tl.zeros_like(z)
    z = tl.cat([z, tl.stack([z[0], z[1]])], dim=0)
    mask = (z > 0.1) & ~(z == 1)
    kept: Tensor = tl.where(mask, z, tl.zeros(()))
    return kept[:, 1:].contiguous().view(-1)


def properties(x: Tensor) -> tuple[int, int, bool, str]:
    rows, columns = x.shape
    leaf: bool = x.is_leaf and x.requires_grad
    d: tl.dtype = x.dtype
    kind: str = x.device.type
    assert x.size(0) == rows and x.dim() == x.ndim == 2 and d.is_floating_point
    return rows, columns, leaf, kind


def reductions(x: Tensor) -> float:
    total = x.sum(dim=0, keepdim=True).mean() + x.var(dim=1).sum()
    values, indices = x.max(dim=1)
    number: float = (total + values.sum() + indices.float().sum()).item()
    return number


def train(net: Net, steps: int) -> list[float]:
    optimizer = tl.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.99))
    schedule = tl.optim.lr_scheduler.StepLR(optimizer, step_size=5)
    data = tl.utils.data.TensorDataset(tl.randn(32, 4), tl.randint(0, 2, (32,)))
    losses: list[float] = []
    for _ in range(steps):
        for x, y in tl.utils.data.DataLoader(data, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss: Tensor = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
    return losses


def trained(net: Net) -> tl.Tensor:
    """The same by a Trainer, with callbacks and a metric."""
    data = tl.utils.data.TensorDataset(tl.randn(32, 4), tl.randint(0, 2, (32,)))
    loader = tl.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    stop = tl.callbacks.EarlyStopping("val_loss", patience=2)
    optimizer = tl.optim.Adam(net.parameters())
    trainer = tl.train.Trainer(net, optimizer, F.cross_entropy, metrics=["accuracy"], callbacks=[stop])
    history = trainer.fit(loader, epochs=2, validation=loader)
    assert history[-1]["epoch"] == 2 and trainer.evaluate(loader)["accuracy"] <= 1.0
    predicted: tl.Tensor = trainer.predict(loader)
    return predicted


def main() -> None:
    tl.manual_seed(0)
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=tl.float64, requires_grad=True)
    y = tl.from_numpy(x.detach().numpy() + 1)
    arithmetic(x, y).sum().backward()
    gradient = x.grad
    assert gradient is not None and gradient.shape == x.shape
    assert properties(x) == (2, 2, True, "cpu") and reductions(x) > 0
    net = Net(8)
    losses = train(net, 3)
    with tl.no_grad():
        predicted = net.eval()(tl.ones(1, 4)).argmax(dim=1)
    assert trained(net.train()).shape == (32, 2)
    state = net.state_dict()
    net.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    assert len(losses) == 6 and predicted.tolist() in ([0], [1])


if __name__ == "__main__":
    main()
