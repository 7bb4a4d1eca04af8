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


# ---- through one output alone
@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize(
    ("kind", "which"), [(kind, which) for kind in KINDS for which in range(3 if "LSTM" in kind else 2)]
)
def test_gradient_through_one_output(torch, kind, form, which):
    rng = np.random.default_rng(1)
    mine, theirs = twins(torch, lambda n: getattr(n, kind.split()[0])(3, 4, 2, bidirectional=True, **KINDS[kind]))
    leaves = [both(torch, rng, 5, 4, 3)]

    def run(lib, module):
        x = leaves[0][0 if lib is tl else 1]
        if form == "packed":
            x = lib.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        return module(x)

    ours, others = flat(run(tl, mine)), flat(run(torch, theirs))
    factor = rng.uniform(-1, 1, tuple(ours[which].shape))
    (ours[which] * tl.tensor(factor)).sum().backward()
    (others[which] * torch.tensor(factor)).sum().backward()
    same(leaves[0][0].grad, leaves[0][1].grad, "input")
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters()):
        a, b = (None if g is None or not g.abs().sum() else g for g in (a.grad, b.grad))
        assert (a is None) == (b is None), name
        if a is not None:
            same(a, b, name)


@pytest.mark.parametrize("kind", KINDS)
def test_second_order(torch, kind):
    """The gradient of a gradient's norm, as a gradient penalty takes it."""
    rng = np.random.default_rng(2)
    mine, theirs = twins(torch, lambda n: getattr(n, kind.split()[0])(3, 4, **KINDS[kind]))
    x, their_x = both(torch, rng, 4, 2, 3)
    for lib, module, leaf in ((tl, mine, x), (torch, theirs, their_x)):
        (g,) = lib.autograd.grad((module(leaf)[0] ** 2).sum(), leaf, create_graph=True)
        (g * g).sum().backward()
    same(x.grad, their_x.grad, "input")
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters()):
        if b.grad is not None and b.grad.abs().sum():
            same(a.grad, b.grad, name)


# ---- cells
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize("kind", ["RNNCell", "RNNCell relu", "GRUCell", "LSTMCell"])
def test_cells(torch, kind, lone, bias, given):
    rng = np.random.default_rng(3)
    how = dict(bias=bias, **(dict(nonlinearity="relu") if "relu" in kind else {}))
    mine, theirs = twins(torch, lambda n: getattr(n, kind.split()[0])(3, 4, **how))
    lead = () if lone else (5,)
    leaves = [both(torch, rng, *lead, 3)]
    if given:
        leaves += [both(torch, rng, *lead, 4) for _ in range(2 if "LSTM" in kind else 1)]

    def run(lib, module):
        x, *hx = [pair[0 if lib is tl else 1] for pair in leaves]
        return module(x, tuple(hx) if len(hx) > 1 else hx[0]) if hx else module(x)

    compare(rng, torch, run, mine, theirs, leaves)


def test_representations(torch):
    for make in (
        lambda n: n.LSTM(3, 4, 2, bias=False, batch_first=True, dropout=0.1, bidirectional=True, proj_size=2),
        lambda n: n.RNN(3, 4, nonlinearity="relu"),
        lambda n: n.RNN(3, 4, 2, "relu"),
        lambda n: n.GRU(3, 4),
        lambda n: n.RNNBase("LSTM", 3, 4),
        lambda n: n.LSTMCell(3, 4, bias=False),
        lambda n: n.GRUCell(3, 4),
        lambda n: n.RNNCell(3, 4, nonlinearity="relu"),
    ):
        assert repr(make(nn)) == repr(make(torch.nn))


# ---- packed sequences
def values(found):
    """Nested outputs as NumPy arrays."""
    if isinstance(found, (tuple, list)):
        return [values(f) for f in found]
    return found if found is None else found.detach().numpy()


PACKING = {
    "pack": lambda n, x, t: n.pack_padded_sequence(x, [5, 3, 1]),
    "pack unsorted": lambda n, x, t: n.pack_padded_sequence(x, [2, 5, 5], enforce_sorted=False),
    "pack first": lambda n, x, t: n.pack_padded_sequence(x.transpose(0, 1), [4, 4, 4], batch_first=True),
    "pack a tensor of lengths": lambda n, x, t: n.pack_padded_sequence(x, t([3, 1, 2]), enforce_sorted=False),
    "pad packed": lambda n, x, t: n.pad_packed_sequence(
        n.pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False), padding_value=7.0
    ),
    "pad packed first": lambda n, x, t: n.pad_packed_sequence(
        n.pack_padded_sequence(x, [4, 3, 1]), batch_first=True, total_length=6
    ),
    "pad": lambda n, x, t: n.pad_sequence([x[:2], x[:4], x[:1]]),
    "pad left": lambda n, x, t: n.pad_sequence([x[:2], x[:4]], True, 3.0, "left"),
    "pad a tensor": lambda n, x, t: n.pad_sequence(x),
    "pack sequence": lambda n, x, t: n.pack_sequence([x[:1], x[:4], x[:4]], enforce_sorted=False),
    "unpack": lambda n, x, t: n.unpack_sequence(n.pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)),
    "unpad": lambda n, x, t: n.unpad_sequence(x * 1, t([2, 4, 1])),  # PyTorch transposes its argument in place
    "unpad first": lambda n, x, t: n.unpad_sequence(x, t([2, 2, 1, 3, 0]), batch_first=True),
    "invert": lambda n, x, t: n.invert_permutation(t([2, 0, 3, 1])),
    "a length of 0": lambda n, x, t: n.pack_padded_sequence(x, [2, 1, 0]),
    "lengths that rise": lambda n, x, t: n.pack_padded_sequence(x, [2, 3, 1]),
    "too few lengths": lambda n, x, t: n.pack_padded_sequence(x, [2, 1]),
    "no sequences": lambda n, x, t: n.pack_padded_sequence(x[:, :0], []),
    "nothing to pad": lambda n, x, t: n.pad_sequence([]),
    "a side that is none": lambda n, x, t: n.pad_sequence([x], padding_side="up"),
    "too short": lambda n, x, t: n.pad_packed_sequence(n.pack_padded_sequence(x, [5, 3, 1]), total_length=4),
}


@pytest.mark.parametrize("name", PACKING)
def test_packing(torch, name):
    rng = np.random.default_rng(4)
    x, their_x = both(torch, rng, 5, 3, 2)
    call = PACKING[name]
    try:
        wanted = call(torch.nn.utils.rnn, their_x, torch.tensor)
    except Exception as error:
        base = next(b for b in type(error).__mro__ if b in (IndexError, ValueError, RuntimeError, TypeError))
        with pytest.raises(base):
            call(nn.utils.rnn, x, tl.tensor)
        return
    got = call(nn.utils.rnn, x, tl.tensor)
    assert type(got).__name__ == type(wanted).__name__
    got, wanted = (f if isinstance(f, (tuple, list)) else (f,) for f in (got, wanted))
    for a, b in zip(values(got), values(wanted), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
