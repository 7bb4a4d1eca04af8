"""Recurrent modules and packed sequences beside PyTorch's, with the same weights: values, gradients, messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn

pytestmark = pytest.mark.parity

KINDS = {
    "RNN": {},
    "RNN relu": dict(nonlinearity="relu"),
    "GRU": {},
    "LSTM": {},
    "LSTM projected": dict(proj_size=2),
}
LENGTHS = [3, 5, 1, 5]


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def twins(torch, make):
    """The same module of both libraries in float64, with the same values."""
    mine, theirs = make(nn).double(), make(torch.nn).double()
    assert list(mine.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
    return mine, theirs


def both(torch, rng, *shape):
    """The same leaf in both libraries."""
    values = rng.uniform(-1, 1, shape)
    return tl.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)


def flat(outputs) -> list:
    """The tensors of nested outputs, a packed sequence's rows among them."""
    if hasattr(outputs, "batch_sizes"):
        return [outputs.data]
    return [t for o in outputs for t in flat(o)] if isinstance(outputs, (tuple, list)) else [outputs]


def same(mine, theirs, what):
    assert tuple(mine.shape) == tuple(theirs.shape), what
    np.testing.assert_allclose(mine.detach().numpy(), theirs.detach().numpy(), 1e-9, 1e-11, err_msg=what)


def compare(rng, torch, run, mine, theirs, leaves, weigh=lambda k: True):
    """Outputs, and gradients of a random sum of those outputs that ``weigh`` picks, by leaves and by weights."""
    ours, others = flat(run(tl, mine)), flat(run(torch, theirs))
    assert len(ours) == len(others)
    for k, (a, b) in enumerate(zip(ours, others)):
        same(a, b, f"output {k}")
    factors = [rng.uniform(-1, 1, tuple(a.shape)) for a in ours]
    used = [k for k in range(len(ours)) if weigh(k)]
    sum((ours[k] * tl.tensor(factors[k])).sum() for k in used).backward()
    sum((others[k] * torch.tensor(factors[k])).sum() for k in used).backward()
    for k, (a, b) in enumerate(leaves):
        same(a.grad, b.grad, f"gradient of leaf {k}")
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters()):
        same(a.grad, b.grad, f"gradient of {name}")


GRID = list(itertools.product(KINDS, (1, 2), (False, True), (False, True), (False, True)))


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("form", ["padded", "packed", "lone"])
@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional", "batch_first", "bias"),
    [pytest.param(*g, id=f"{g[0]}-{g[1]}{'-bi' * g[2]}{'-first' * g[3]}{'-bias' * g[4]}") for g in GRID],
)
def test_layers(torch, kind, layers, bidirectional, batch_first, bias, form, given):
    rng = np.random.default_rng(0)
    how = dict(num_layers=layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias, **KINDS[kind])
    mine, theirs = twins(torch, lambda n: getattr(n, kind.split()[0])(3, 4, **how))
    batch, steps = len(LENGTHS), max(LENGTHS)
    shape = (steps, 3) if form == "lone" else (batch, steps, 3) if batch_first else (steps, batch, 3)
    leaves = [both(torch, rng, *shape)]
    if given:
        lead = (layers * (2 if bidirectional else 1), *(() if form == "lone" else (batch,)))
        leaves.append(both(torch, rng, *lead, how.get("proj_size", 4)))
        if mine.mode == "LSTM":
            leaves.append(both(torch, rng, *lead, 4))

    def run(lib, module):
        x, *hx = [pair[0 if lib is tl else 1] for pair in leaves]
        if form == "packed":
            pack = lib.nn.utils.rnn.pack_padded_sequence
            x = pack(x, lib.tensor(LENGTHS), batch_first=batch_first, enforce_sorted=False)
        state = (tuple(hx) if mine.mode == "LSTM" else hx[0]) if hx else None
        output, final = module(x, state)
        if form == "packed":
            output = lib.nn.utils.rnn.pad_packed_sequence(output, batch_first=batch_first)[0]
        return output, final

    compare(rng, torch, run, mine, theirs, leaves)
