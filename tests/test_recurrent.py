"""Recurrent layers and cells, packed sequences, scan: gradients, states, copies, refusals. No PyTorch needed."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn
from tensorlite.autograd.gradcheck import gradcheck, gradgradcheck
from tensorlite.autograd.run import execute, set_seam
from tensorlite.errors import GradError, ShapeError
from tensorlite.nn.utils import rnn as packs
from tensorlite.ops.recurrent import blocks, walk_of
from tensorlite.ops.recurrent_gru import gru_layer
from tensorlite.ops.recurrent_lstm import lstm_layer
from tensorlite.ops.recurrent_rnn import rnn_layer

KINDS = {
    "RNN": lambda **how: nn.RNN(2, 3, **how),
    "relu": lambda **how: nn.RNN(2, 3, nonlinearity="relu", **how),
    "GRU": lambda **how: nn.GRU(2, 3, **how),
    "LSTM": lambda **how: nn.LSTM(2, 3, **how),
    "projected": lambda **how: nn.LSTM(2, 3, proj_size=2, **how),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, **how):
    tl.manual_seed(0)
    return KINDS[kind](dtype=tl.float64, **how)


def rand(*shape, **how):
    return tl.rand(*shape, dtype=tl.float64, **how) - 0.5


def states_of(module, batch):
    """First states that want gradients."""
    given = [rand(*size).requires_grad_() for size in module._state_sizes(batch)]
    return tuple(given) if len(given) > 1 else given[0]


def flat(outputs):
    if isinstance(outputs, packs.PackedSequence):
        return [outputs.data]
    return [t for o in outputs for t in flat(o)] if isinstance(outputs, tuple) else [outputs]


# ---- gradients of whole modules
@every_kind
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_a_module(kind, packed):
    """Two layers, both ways, first states given: gradients of input, states and every weight, and theirs."""
    module = make(kind, num_layers=2, bidirectional=True)
    x = rand(2, 2, 2).requires_grad_()
    hx = states_of(module, 2)
    names = [n for n, _ in module.named_parameters()]

    def run(x, *values):
        hx, weights = values[: -len(names)], values[-len(names) :]
        other = copy.copy(module)
        for name, value in zip(names, weights):
            other.__dict__[name] = value
        data = packs.pack_padded_sequence(x, [1, 2], enforce_sorted=False) if packed else x
        return tuple(flat(other(data, hx if len(hx) > 1 else hx[0])))

    inputs = (x, *(hx if isinstance(hx, tuple) else (hx,)), *module.parameters())
    assert gradcheck(run, inputs)
    if not packed:
        few = inputs[: -len(names) + 4]
        assert gradgradcheck(lambda *a: run(*a, *inputs[len(few) :])[0], few)


@every_kind
def test_gradient_through_one_output_alone(kind):
    """The fused gradient through h_n alone (or c_n, or y) is that of the layer made of plain ops."""
    module = make(kind)
    x, hx = rand(4, 3, 2), states_of(module, 3)
    for k in range(len(flat(module(x, hx)))):
        inputs = [*module.parameters(), *(hx if isinstance(hx, tuple) else (hx,))]
        got = tl.autograd.grad((flat(module(x, hx))[k] ** 2).sum(), inputs, allow_unused=True)
        exact = tl.autograd.grad((flat(module(x, hx))[k] ** 2).sum(), inputs, create_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in got)
        for a, b in zip(got, exact):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), 1e-10, 1e-12)


@every_kind
def test_long_sequences_in_several_blocks(kind):
    """Enough rows that the backward works in several blocks of several steps each, both ways, packed and not."""
    tl.manual_seed(1)
    how = dict(nonlinearity="relu") if kind == "relu" else dict(proj_size=16) if kind == "projected" else {}
    maker = {"relu": nn.RNN, "projected": nn.LSTM}.get(kind) or getattr(nn, kind)
    module = maker(5, 64, bidirectional=True, dtype=tl.float64, **how)
    x = rand(30, 24, 5).requires_grad_()
    lengths = [30] * 10 + list(range(28, 0, -2))
    sizes = np.array([sum(n > t for n in lengths) for t in range(30)])
    for reverse in (False, True):
        parts = list(blocks(walk_of("lstm_layer", np.empty((sum(lengths), 5)), 24, sizes, reverse), 256))
        assert len(parts) > 1 and len(parts[0][1]) > 1
        assert sorted(r for rows, _ in parts for r in range(sum(lengths))[rows]) == list(range(sum(lengths)))
    for data in (x, packs.pack_padded_sequence(x, lengths)):
        inputs = [x, *module.parameters()]
        loss = lambda data=data: (flat(module(data))[0] ** 2).sum()
        got = tl.autograd.grad(loss(), inputs, retain_graph=True)
        exact = tl.autograd.grad(loss(), inputs, create_graph=True)
        for a, b in zip(got, exact):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), 1e-8, 1e-10)


@pytest.mark.parametrize("kind", ["LSTM", "projected"])
def test_only_the_cell_state_goes_back(kind):
    module = make(kind)
    x = rand(3, 2, 2).requires_grad_()
    c_n = module(x)[1][1]
    c_n.sum().backward()
    assert x.grad.abs().sum() > 0
    assert module.weight_ih_l0.grad[9:].abs().sum() > 0  # of the output gates of all steps but the last


def test_frozen_weights_get_no_gradient_and_cost_none():
    module = make("LSTM")
    for p in module.parameters():
        p.requires_grad_(False)
    module.bias_hh_l0.requires_grad_()
    sizes = []

    def seam(entry, arrays, outs):
        made = execute(entry, arrays, outs)
        if entry.op.name == "lstm_layer_dx":
            sizes.append([y.size for y in made])
        return made

    y = module(rand(3, 2, 2))[0].sum()
    set_seam(seam)
    try:
        y.backward()
    finally:
        set_seam(None)
    assert sizes == [[0, 0, 0, 0, 0, 12, 0]]
    assert module.weight_ih_l0.grad is None and module.bias_hh_l0.grad is not None


def test_first_order_uses_the_fused_kernel_and_second_does_not():
    for kind, op in (("LSTM", "lstm_layer_dx"), ("GRU", "gru_layer_dx"), ("RNN", "rnn_layer_dx")):
        module = make(kind)
        ran = []

        def seam(entry, arrays, outs, ran=ran):
            ran.append(entry.op.name)
            return execute(entry, arrays, outs)

        set_seam(seam)
        try:
            module(rand(3, 2, 2))[0].sum().backward()
            assert ran.count(op) == 1
            ran.clear()
            module(rand(3, 2, 2))[0].sum().backward(create_graph=True)
            assert op not in ran
        finally:
            set_seam(None)


def test_one_tensor_given_twice_gets_both_gradients():
    cell, x = nn.LSTMCell(2, 3, dtype=tl.float64), rand(4, 2)
    s = rand(4, 3).requires_grad_()
    a, b = s.detach().clone().requires_grad_(), s.detach().clone().requires_grad_()
    for create_graph in (False, True):
        (both,) = tl.autograd.grad(cell(x, (s, s))[1].sum(), s, create_graph=create_graph)
        apart = tl.autograd.grad(cell(x, (a, b))[1].sum(), [a, b])
        np.testing.assert_allclose(both.detach().numpy(), (apart[0] + apart[1]).numpy(), 1e-12)


def test_an_output_that_does_not_depend_on_what_wants_a_gradient():
    module = make("projected")
    for p in module.parameters():
        p.requires_grad_(p is module.weight_hr_l0)
    for create_graph in (False, True):
        c_n = module(rand(1, 2, 2))[1][1]  # of the first step: no projection came before
        (g,) = tl.autograd.grad(c_n.sum(), module.weight_hr_l0, create_graph=create_graph, allow_unused=True)
        assert g is None or (g == 0).all()


def test_second_order_leaves_the_graph_before_it_alone():
    """The layer's gradient formula stops at its inputs: what made them is walked once, by the backward itself."""
    leaf = rand(3, 2, 2).requires_grad_()
    x = leaf * 2
    calls = []
    x.register_hook(lambda g: calls.append(g))
    (g,) = tl.autograd.grad(make("GRU")(x)[0].sum(), leaf, create_graph=True)
    assert len(calls) == 1
    g.sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_one_node_a_layer():
    module = make("LSTM")
    y = module(rand(5, 2, 2))[0]
    assert y.grad_fn.name() == "LstmLayerBackward0"
    layer = y.grad_fn.next_functions[0][0]
    assert [f for f, _ in layer.next_functions] == [p._node for p in module.parameters()]


# ---- values in every dtype
@every_kind
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(kind, dtype):
    """Half types: float32 inside, rounded once."""
    kind_of = getattr(tl, dtype)
    module = make(kind).to(kind_of)
    wide = copy.deepcopy(module).float()
    x = rand(6, 2, 2).to(kind_of)
    for a, b in zip(flat(module(x)), flat(wide(x.float()))):
        assert a.dtype is kind_of
        if dtype == "float32":
            assert (a == b).all()
        else:
            assert (a == b.to(kind_of)).all()
    module(x)[0].float().sum().backward()
    wide(x.float())[0].sum().backward()
    for a, b in zip(module.parameters(), wide.parameters()):
        assert a.grad.dtype is kind_of and (a.grad == b.grad.to(kind_of)).all()


def test_great_values_make_no_nan_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("LSTM", "GRU", "RNN"):
            module = make(kind).float()
            x = (tl.ones(3, 2, 2) * 1e30).requires_grad_()
            y = module(x)[0]
            y.sum().backward()
            assert y.isfinite().all() and x.grad.isfinite().all()


# ---- shapes at the edge
@every_kind
def test_one_step_and_no_rows(kind):
    module = make(kind, num_layers=2, bidirectional=True)
    x = rand(1, 3, 2)
    width = module.proj_size or 3
    assert module(x)[0].shape == (1, 3, 2 * width)
    y, final = module(rand(4, 0, 2))
    assert y.shape == (4, 0, 2 * width) and flat(final)[0].shape == (4, 0, width)
    y.sum().backward()
    assert module.weight_ih_l0.grad.abs().sum() == 0


@every_kind
def test_no_steps_are_refused(kind):
    with pytest.raises(RuntimeError, match="expected sequence length to be larger than 0"):
        make(kind)(rand(0, 3, 2))


@every_kind
def test_padding_is_not_worked_on(kind):
    """Rows behind the end of a sequence may hold anything, and short sequences are cheap."""
    module = make(kind, bidirectional=True)
    x = rand(5, 3, 2)
    spoilt = x.clone()
    spoilt[2:, 0], spoilt[1:, 2] = float("nan"), float("inf")
    lengths = [2, 5, 1]
    clean = module(packs.pack_padded_sequence(x, lengths, enforce_sorted=False))
    other = module(packs.pack_padded_sequence(spoilt, lengths, enforce_sorted=False))
    assert clean[0].data.shape[0] == sum(lengths)
    for a, b in zip(flat(clean), flat(other)):
        assert (a == b).all()
    for b, n in enumerate(lengths):  # each sequence as if alone
        y, final = module(x[:n, b])
        np.testing.assert_allclose(packs.unpack_sequence(clean[0])[b].detach().numpy(), y.detach().numpy(), 1e-12)
        for a, f in zip(flat(clean[1]), flat(final)):
            np.testing.assert_allclose(a[:, b].detach().numpy(), f.detach().numpy(), 1e-12)


def test_sizes_of_steps_are_data():
    """Other lengths of the same sums make no new entry in the op's cache."""
    module = make("LSTM")
    cache = lstm_layer.op.cache
    pack = packs.pack_sequence
    module(pack([rand(3, 2), rand(1, 2)]))
    before = len(cache)
    module(pack([rand(3, 2), rand(1, 2)]))
    assert len(cache) == before


def test_batch_first_and_lone_sequences_agree():
    module = make("GRU")
    first = copy.deepcopy(module)
    first.batch_first = True
    x = rand(4, 3, 2)
    a, b = module(x), first(x.transpose(0, 1))
    assert (a[0] == b[0].transpose(0, 1)).all() and (a[1] == b[1]).all()
    y, h = module(x[:, 1])
    assert y.shape == (4, 3) and h.shape == (1, 3)
    np.testing.assert_allclose(y.detach().numpy(), a[0][:, 1].detach().numpy(), 1e-12)


# ---- modules as things
@every_kind
def test_pickle_and_deepcopy(kind):
    module = make(kind, num_layers=2, bidirectional=True, bias=False)
    x = rand(3, 2, 2)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert repr(other) == repr(module)
        assert (other(x)[0] == module(x)[0]).all()
        assert other.weight_hh_l1_reverse is not module.weight_hh_l1_reverse
        assert other.all_weights[3][1] is other.weight_hh_l1_reverse


def test_names_and_first_values():
    module = nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3)
    assert {n: tuple(p.shape) for n, p in module.named_parameters() if n.endswith("l1_reverse")} == {
        "weight_ih_l1_reverse": (16, 6),
        "weight_hh_l1_reverse": (16, 3),
        "bias_ih_l1_reverse": (16,),
        "bias_hh_l1_reverse": (16,),
        "weight_hr_l1_reverse": (3, 4),
    }
    assert [len(w) for w in module.all_weights] == [5] * 4
    assert list(nn.GRU(2, 3, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    values = tl.nn.utils.parameters_to_vector(nn.LSTM(50, 64).parameters())
    assert 0.12 < values.abs().max() <= 0.125 and abs(values.mean()) < 1e-3
    module.flatten_parameters()


def test_dropout_lies_between_layers_and_follows_the_seed():
    module = make("LSTM", num_layers=2, dropout=0.5)
    x = rand(3, 4, 2)

    def run():
        tl.manual_seed(3)
        return module(x)

    y, (h, _) = run()
    assert (run()[0] == y).all() and not (module(x)[0] == y).all()
    assert y.shape == (3, 4, 3) and (y != 0).all()  # not after the last layer
    module.eval()
    plain, (h_plain, _) = module(x)
    assert (plain == module(x)[0]).all() and (h_plain[0] == h[0]).all() and not (h_plain[1] == h[1]).all()


def test_dropout_warns_where_it_does_nothing():
    with pytest.warns(UserWarning, match="num_layers greater than 1") as w:
        nn.GRU(2, 3, dropout=0.5)
    assert w[0].filename == __file__


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (dict(hidden_size=0), ValueError),
        (dict(hidden_size=4.0), TypeError),
        (dict(input_size=-1), ValueError),
        (dict(num_layers=0), ValueError),
        (dict(dropout=1.5), ValueError),
        (dict(dropout=True), ValueError),
        (dict(bias=1), TypeError),
        (dict(batch_first=None), TypeError),
        (dict(proj_size=-1), ValueError),
        (dict(proj_size=3), ValueError),
    ],
    ids=str,
)
def test_refused_arguments(how, error):
    with pytest.raises(error, match=next(iter(how))):
        nn.LSTM(**(dict(input_size=2, hidden_size=3) | how))


def test_more_refused_arguments():
    with pytest.raises(ValueError, match="proj_size"):
        nn.GRU(2, 3, proj_size=1)
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(2, 3, nonlinearity="sin")
    with pytest.raises(ValueError, match="mode"):
        nn.RNNBase("QRNN", 2, 3)


@pytest.mark.parametrize(
    ("kind", "call", "error", "text"),
    [
        ("LSTM", lambda m: m(rand(1, 1, 1, 2)), ValueError, "2D or 3D, got 4D"),
        ("LSTM", lambda m: m(rand(2, 1, 5)), RuntimeError, "Expected 2, got 5"),
        ("LSTM", lambda m: m(packs.pack_sequence([rand(2, 5)])), RuntimeError, "Expected 2, got 5"),
        ("LSTM", lambda m: m(rand(2, 1, 2).float()), ValueError, "does not match weight dtype"),
        ("LSTM", lambda m: m(tl.ones(2, 1, 2, dtype=tl.int64)), ValueError, "does not match weight dtype"),
        ("LSTM", lambda m: m(rand(2, 1, 2), rand(1, 1, 3)), TypeError, "pair"),
        (
            "LSTM",
            lambda m: m(rand(2, 1, 2), (rand(1, 2, 3), rand(1, 1, 3))),
            RuntimeError,
            r"hidden\[0\] size \(1, 1, 3",
        ),
        ("LSTM", lambda m: m(rand(2, 1, 2), (rand(1, 1, 3), rand(1, 2, 3))), RuntimeError, r"hidden\[1\] size"),
        ("LSTM", lambda m: m(rand(2, 1, 2), (rand(1, 3), rand(1, 3))), RuntimeError, "batched 3-D input, hx and cx"),
        ("GRU", lambda m: m(rand(2, 2), rand(1, 1, 3)), RuntimeError, "unbatched 2-D input, hx"),
        (
            "GRU",
            lambda m: m(rand(2, 1, 2), rand(1, 2, 3)),
            RuntimeError,
            r"Expected hidden size \(1, 1, 3\), got \[1, 2",
        ),
        ("RNN", lambda m: m(rand(2, 1, 2), rand(2, 1, 3)), RuntimeError, "Expected hidden size"),
        ("RNN", lambda m: m(rand(2, 1, 2), rand(1, 1, 3).float()), RuntimeError, "dtype"),
    ],
)
def test_refused_calls(kind, call, error, text):
    with pytest.raises(error, match=text):
        call(make(kind))


# ---- cells
@pytest.mark.parametrize(
    "pair",
    [
        (nn.LSTMCell, nn.LSTM, {}),
        (nn.GRUCell, nn.GRU, {}),
        (nn.RNNCell, nn.RNN, {}),
        (nn.RNNCell, nn.RNN, dict(nonlinearity="relu")),
    ],
    ids=lambda p: p[0].__name__,
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_loop_of_cells_is_a_layer(pair, bias):
    cell_type, layer_type, how = pair
    cell = cell_type(2, 3, bias=bias, dtype=tl.float64, **how)
    layer = layer_type(2, 3, bias=bias, dtype=tl.float64, **how)
    layer.load_state_dict({f"{k}_l0": v for k, v in cell.state_dict().items()})
    x = rand(4, 5, 2)
    state, rows = None, []
    for step in x:
        state = cell(step, state)
        rows.append(state[0] if isinstance(state, tuple) else state)
    loop, (y, final) = tl.stack(rows), layer(x)
    np.testing.assert_allclose(loop.detach().numpy(), y.detach().numpy(), 1e-12)
    for a, b in zip(flat(state), flat(final)):
        np.testing.assert_allclose(a.detach().numpy(), b[0].detach().numpy(), 1e-12)
    (loop**2).sum().backward()
    (y**2).sum().backward()
    for a, b in zip(cell.parameters(), layer.parameters()):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), 1e-10, 1e-12)
    lone = cell(x[0, 0])
    assert flat(lone)[0].shape == (3,)
    np.testing.assert_allclose(flat(lone)[0].detach().numpy(), y[0, 0].detach().numpy(), 1e-12)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nn.LSTMCell(2, 3)(tl.ones(1, 1, 2)), ValueError, "Expected input to be 1D or 2D"),
        (lambda: nn.LSTMCell(2, 3)(tl.ones(1, 4)), RuntimeError, "inconsistent input_size"),
        (lambda: nn.LSTMCell(2, 3)(tl.ones(2, 2), (tl.ones(1, 3),) * 2), RuntimeError, "batch size"),
        (lambda: nn.LSTMCell(2, 3)(tl.ones(2, 2), (tl.ones(1, 2, 3),) * 2), ValueError, r"hx\[0\]"),
        (lambda: nn.GRUCell(2, 3)(tl.ones(2, 2), tl.ones(2, 4)), RuntimeError, "inconsistent hidden_size"),
        (lambda: nn.GRUCell(2, 3)(tl.ones(2, 2), tl.ones(1, 2, 3)), ValueError, "Expected hidden"),
        (lambda: nn.GRUCell(2, 3)(tl.ones(2, 2).double()), RuntimeError, "dtype"),
        (lambda: nn.RNNCell(2, 3, nonlinearity="sin")(tl.ones(2, 2)), RuntimeError, "nonlinearity"),
    ],
)
def test_refused_cells(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ---- packed sequences
def test_packing_there_and_back():
    rows = [tl.arange(n) + 10 * n for n in (2, 4, 1, 4)]
    packed = packs.pack_sequence(rows, enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [4, 3, 2, 2]
    assert packed.data.tolist() == [40, 40, 20, 10, 41, 41, 21, 42, 42, 43, 43]
    assert packed.sorted_indices.tolist() == [1, 3, 0, 2]
    assert packs.invert_permutation(packed.sorted_indices).tolist() == packed.unsorted_indices.tolist() == [2, 0, 3, 1]
    for a, b in zip(packs.unpack_sequence(packed), rows):
        assert a.tolist() == b.tolist()
    padded, lengths = packs.pad_packed_sequence(packed, batch_first=True, padding_value=-1, total_length=5)
    assert padded.shape == (4, 5) and lengths.tolist() == [2, 4, 1, 4]
    assert padded[2].tolist() == [10, -1, -1, -1, -1] and padded.dtype is tl.int64
    assert packs.pad_sequence(rows, True, -1.0, "left")[0].tolist() == [-1, -1, 20, 21]
    assert [r.tolist() for r in packs.unpad_sequence(padded, lengths, True)] == [r.tolist() for r in rows]


def test_packing_carries_gradients():
    x = rand(4, 3, 2).requires_grad_()

    def there_and_back(x):
        packed = packs.pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
        return packs.pad_packed_sequence(packed._replace(data=packed.data * packed.data))[0]

    assert gradcheck(there_and_back, x) and gradgradcheck(there_and_back, x)
    assert there_and_back(x)[3, 0].tolist() == [0, 0]
    a, b = rand(2, 2).requires_grad_(), rand(3, 2).requires_grad_()
    assert gradcheck(lambda a, b: packs.pad_sequence([a, b], padding_side="left"), (a, b))


def test_packed_sequence_is_a_tuple_with_conversions():
    packed = packs.pack_sequence([tl.ones(3), tl.ones(2)])
    data, sizes, order, back = packed
    assert order is back is None and not packed.is_cuda and not packed.is_pinned()
    assert packed.double().data.dtype is tl.float64 and packed.char().data.dtype is tl.int8
    assert packed.double().long().batch_sizes is sizes
    assert packed.to(tl.float32) is packed and packed.cpu() is packed
    other = pickle.loads(pickle.dumps(packed))
    assert isinstance(other, packs.PackedSequence) and other.data.tolist() == data.tolist()
    assert "PackedSequence(data=tensor(" in repr(packed)
    assert packs.PackedSequence((data, sizes)).data is data
    assert packs.PackedSequence(data, sizes, tl.tensor([1, 2, 0])).unsorted_indices.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: packs.pack_padded_sequence(rand(3, 2), [2, 0]), RuntimeError, "greater than 0"),
        (lambda: packs.pack_padded_sequence(rand(3, 2), [2, 3]), RuntimeError, "enforce_sorted"),
        (lambda: packs.pack_padded_sequence(rand(3, 2), [4, 3]), RuntimeError, "at most 3"),
        (lambda: packs.pack_padded_sequence(rand(3, 2), [3]), RuntimeError, "batch_size=2"),
        (lambda: packs.pack_padded_sequence(rand(3, 2), tl.ones(1, 2)), RuntimeError, "1D"),
        (lambda: packs.pack_padded_sequence(rand(3, 0), []), RuntimeError, "Cannot pack empty"),
        (lambda: packs.pack_padded_sequence(rand(3), [3]), IndexError, "wanted"),
        (lambda: packs.pad_sequence([]), RuntimeError, "empty list"),
        (lambda: packs.pad_sequence(3), RuntimeError, "iterable"),
        (lambda: packs.pad_sequence([rand(2)], padding_side="up"), RuntimeError, "left or right"),
        (lambda: packs.pad_sequence([rand(2, 1), rand(2, 2)]), RuntimeError, "wanted"),
        (lambda: packs.pad_sequence([tl.tensor(1.0)]), RuntimeError, r"a sequence of shape \(\); wanted"),
        (lambda: packs.pad_packed_sequence(rand(3, 2)), TypeError, "got a Tensor; wanted a PackedSequence"),
        (lambda: packs.pad_packed_sequence(packs.pack_sequence([rand(3)]), total_length=2), ValueError, "total_length"),
        (lambda: packs.pack_sequence([rand(1), rand(2)]), RuntimeError, "sorted in decreasing order"),
    ],
)
def test_refused_packing(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ---- ops
def test_batch_sizes_must_fit():
    w = rand(3, 2), rand(3, 3)
    x, h = rand(5, 2), rand(2, 3)
    good = tl.tensor([2, 2, 1])
    assert rnn_layer(x, h, *w, batch_sizes=good)[0].shape == (5, 3)
    for bad in ([2, 1, 2], [1, 2, 2], [2, 2], [2, 2, 1, 0]):
        with pytest.raises(ShapeError, match="rnn_layer: batch_sizes"):
            rnn_layer(x, h, *w, batch_sizes=tl.tensor(bad))
    with pytest.raises(ShapeError, match="w_ih"):
        gru_layer(rand(2, 2, 2), rand(2, 3), rand(6, 2), rand(9, 3))


def test_strided_and_expanded_inputs():
    module = make("LSTM")
    x = rand(3, 1, 2).expand(3, 4, 2)
    assert (module(x)[0] == module(x.contiguous())[0]).all()
    y = module(x)[0]
    y.sum().backward()  # the gradient that comes in is one number, expanded
    assert module.weight_ih_l0.grad.isfinite().all()


# ---- scan
def rnn_step(w, b):
    def cell(x, h):
        h = (x @ w + h @ w.T + b).tanh()
        return h, h

    return cell


def loop(cell, xs, state):
    rows = []
    for x in xs:
        y, state = cell(x, state)
        rows.append(y)
    return tl.stack(rows), state


def scan_inputs():
    return [t.requires_grad_() for t in (rand(4, 2, 3), rand(2, 3), rand(3, 3), rand(3))]


def test_scan_is_a_loop_in_one_node():
    xs, h0, w, b = inputs = scan_inputs()
    ys, h = tl.scan(rnn_step(w, b), xs, h0)
    expected, last = loop(rnn_step(w, b), xs, h0)
    assert (ys == expected).all() and (h == last).all()
    node = ys.grad_fn
    assert node.name() == "ScanBackward0" and node.next_functions[0][0].name() == "ScanBackward0"
    assert {f for f, _ in node.parents[0].next_functions} == {t._node for t in inputs}
    got = tl.autograd.grad((ys**2).sum() + h.sum(), inputs)
    wanted = tl.autograd.grad((expected**2).sum() + last.sum(), inputs)
    for a, c in zip(got, wanted):
        np.testing.assert_allclose(a.numpy(), c.numpy(), 1e-12)


def test_scan_gradients_and_theirs():
    inputs = scan_inputs()
    run = lambda xs, h0, w, b: tl.scan(rnn_step(w, b), xs, h0)
    assert gradcheck(run, inputs) and gradgradcheck(run, inputs)


@pytest.mark.parametrize("which", [0, 1])
def test_scan_with_unused_outputs(which):
    xs, h0, w, b = inputs = scan_inputs()
    got = tl.autograd.grad(tl.scan(rnn_step(w, b), xs, h0)[which].sum(), inputs)
    wanted = tl.autograd.grad(loop(rnn_step(w, b), xs, h0)[which].sum(), inputs)
    for a, c in zip(got, wanted):
        np.testing.assert_allclose(a.numpy(), c.numpy(), 1e-12)


def test_scan_of_a_module_and_what_it_is_made_from():
    """Captured tensors that are made from one another and from leaves outside: each path counts once."""
    cell = nn.LSTMCell(3, 2, dtype=tl.float64)
    scale = rand(2).requires_grad_()

    def run(through):
        gain = scale.exp()
        twice = gain * 2  # both are used inside, and one is made from the other

        def step(x, state):
            h, c = cell(x, state)
            return h * gain + twice, (h * twice, c)

        xs = (rand_xs * scale.sum()).tanh()
        ys, (h, c) = through(step, xs, (tl.zeros(4, 2, dtype=tl.float64),) * 2)
        return (ys**2).sum() + (h * c).sum() + gain.sum()

    rand_xs = rand(5, 4, 3)
    inputs = [scale, *cell.parameters()]
    got, wanted = (tl.autograd.grad(run(through), inputs) for through in (tl.scan, loop))
    for a, c in zip(got, wanted):
        np.testing.assert_allclose(a.numpy(), c.numpy(), 1e-10)
    calls = []
    scale.register_hook(calls.append)  # of the leaf: once, with the whole gradient
    run(tl.scan).backward()
    assert len(calls) == 1
    np.testing.assert_allclose(scale.grad.numpy(), wanted[0].numpy(), 1e-10)


def test_hooks_of_captured_tensors_run_once():
    w = rand(3, 3).requires_grad_()
    inner = w * 2
    seen = []
    inner.register_hook(lambda g: seen.append(g) or g * 0)
    ys, _ = tl.scan(lambda x, h: (h @ inner, h + x), rand(3, 2, 3), rand(2, 3))
    assert inner.grad_fn in [f for f, _ in ys.grad_fn.parents[0].next_functions]
    ys.sum().backward()
    assert len(seen) == 1 and seen[0].abs().sum() > 0 and (w.grad == 0).all()


def test_scan_of_nests():
    xs = {"a": rand(3, 2), "b": (rand(3, 2).requires_grad_(),)}

    def cell(x, state):
        total = state["total"] + x["a"] * x["b"][0]
        return None, {"total": total, "count": [state["count"][0] + 1]}

    ys, state = tl.scan(cell, xs, {"total": tl.zeros(2, dtype=tl.float64), "count": [tl.tensor(0)]})
    assert ys is None and state["count"][0].item() == 3 and not state["count"][0].requires_grad
    np.testing.assert_allclose(state["total"].detach().numpy(), (xs["a"] * xs["b"][0]).sum(0).detach().numpy(), 1e-12)
    state["total"].sum().backward()
    assert (xs["b"][0].grad == xs["a"]).all()


def test_scan_without_gradients_leaves_nothing():
    xs, h0, w, b = scan_inputs()
    with tl.no_grad():
        ys, h = tl.scan(rnn_step(w, b), xs, h0)
    assert ys.grad_fn is None and not h.requires_grad
    ys, h = tl.scan(rnn_step(w.detach(), b.detach()), xs.detach(), h0.detach())
    assert ys.grad_fn is None
    ys, h = tl.scan(lambda x, s: (x * 2, s), xs.detach(), h0)  # a state handed through
    assert not ys.requires_grad
    (h * 3).sum().backward()
    assert (h0.grad == 3).all()


def test_scan_frees_what_it_kept():
    xs, h0, w, b = scan_inputs()
    ys, _ = tl.scan(rnn_step(w, b), xs, h0)
    ys.sum().backward(retain_graph=True)
    first = w.grad.clone()
    ys.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * first.numpy(), 1e-12)
    with pytest.raises(GradError, match="ScanBackward0: trying to backward through the graph a second time"):
        ys.sum().backward()


def test_scan_notices_writes_to_what_it_saved():
    xs, h0, w, b = scan_inputs()
    ys, _ = tl.scan(rnn_step(w, b), xs, h0)
    with tl.no_grad():
        w.mul_(2.0)
    with pytest.raises(GradError, match="modified by an inplace"):
        ys.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: tl.scan(lambda x, s: (s, s), rand(0, 2), rand(2)), ShapeError, "at least 1"),
        (lambda: tl.scan(lambda x, s: (s, s), (rand(3), rand(2)), rand(2)), ShapeError, "one length"),
        (lambda: tl.scan(lambda x, s: (s, s), rand(()), rand(2)), ShapeError, "first dimension"),
        (lambda: tl.scan(lambda x, s: s, rand(3), rand(2)), TypeError, "output, new state"),
        (lambda: tl.scan(nn.LSTMCell(2, 2), tl.ones(3, 1, 2), (tl.ones(1, 2),) * 2), TypeError, "wrapped"),
        (lambda: tl.scan(lambda x, s: (s, s[:1]), rand(3), rand(2)), ShapeError, "wanted float64"),
        (lambda: tl.scan(lambda x, s: (s, s.float()), rand(3), rand(2)), ShapeError, "wanted float64"),
        (lambda: tl.scan(lambda x, s: (s, s), rand(3), 1.0), TypeError, "state has a float"),
        (lambda: tl.scan(lambda x, s: (3, s), rand(3), rand(2)), TypeError, "output has a int"),
    ],
)
def test_refused_scans(call, error, text):
    with pytest.raises(error, match=text):
        call()
