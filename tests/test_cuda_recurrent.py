"""Recurrent layers on CUDA: the kernels in the emulator against the CPU's, in every way to spread the steps."""

import numpy as np
import pytest
from cuda_harness import skip

import tensorlite as tl
from tensorlite import config, nn
from tensorlite.backends import cuda, emulator, standin
from tensorlite.backends.launch import column_sum, recurrent, recurrent_plan
from tensorlite.backends.launch.recurrent_plan import MEMORY, REGISTERS, SHARED, plan_of
from tensorlite.errors import ShapeError
from tensorlite.nn.utils.rnn import pack_padded_sequence
from tensorlite.ops.recurrent_gru import gru_layer, gru_layer_dx_p, gru_layer_p
from tensorlite.ops.recurrent_lstm import lstm_layer, lstm_layer_dx_p, lstm_layer_p
from tensorlite.ops.recurrent_rnn import rnn_layer, rnn_layer_dx_p, rnn_layer_p

OPS = [p.op for p in (lstm_layer_p, lstm_layer_dx_p, gru_layer_p, gru_layer_dx_p, rnn_layer_p, rnn_layer_dx_p)]
LAYERS = {  # gates, states, the layer
    "lstm": (4, 2, lstm_layer),
    "gru": (3, 1, gru_layer),
    "tanh": (1, 1, rnn_layer),
    "relu": (1, 1, lambda *given, **how: rnn_layer(*given, nonlinearity="relu", **how)),
}
TOLERANCE = {tl.float64: 1e-12, tl.float32: 4e-6, tl.float16: 1e-2, tl.bfloat16: 8e-2}
SIZES = [3, 3, 2, 1]
WAYS = {
    "steps": dict(),
    "reverse": dict(reverse=True),
    "batch first": dict(batch_first=True),
    "packed": dict(batch_sizes=SIZES),
    "packed, reverse": dict(batch_sizes=SIZES, reverse=True),
}


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++")
    with config.CUDA_EMULATION(1):
        yield


@pytest.fixture
def spread(monkeypatch):
    """A function that lets all plans have these fields, for a GPU of so many multiprocessors."""

    def spread(blocks=132, **fields):
        monkeypatch.setattr(recurrent, "device_limits", lambda: (blocks, 227 << 10))
        for op in OPS:
            op.cache.clear()
        recurrent_plan.FORCED.clear()
        recurrent_plan.FORCED.update(fields)

    yield spread
    spread()


def given(cell, lead, batch, i, h, kind=tl.float32, bias=True):
    """Arrays: x, states, weights, biases."""
    gates, states, _ = LAYERS[cell]
    rng = np.random.default_rng(h)
    shapes = [(*lead, i), *[(batch, h)] * states, (gates * h, i), (gates * h, h), *[(gates * h,)] * (2 * bias)]
    wide = min(1, 3 / h**0.5)  # larger weights make errors grow from step to step
    return [rng.uniform(-wide, wide, shape) for shape in shapes]


def results(cell, arrays, device, kind=tl.float32, only=None, **how):
    """The outputs, and the gradients of a sum of them in which each counts differently, as float64."""
    sizes = how.pop("batch_sizes", None)
    how |= {} if sizes is None else dict(batch_sizes=tl.tensor(sizes))
    tensors = [tl.tensor(a, dtype=kind, device=device, requires_grad=True) for a in arrays]
    outputs = LAYERS[cell][2](*tensors, **how)
    rng = np.random.default_rng(7)
    parts = [y * tl.tensor(rng.uniform(-1, 1, y.shape), dtype=kind, device=device) for y in outputs]
    sum(
        (p.sum() for p in (parts if only is None else [parts[only]])), tl.zeros((), dtype=kind, device=device)
    ).backward()
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.cpu().double().numpy() for t in tensors]
    return [y.detach().cpu().double().numpy() for y in outputs] + grads


def agree(cell, way, kind=tl.float32, batch=3, i=2, h=7, only=None, bias=True):
    how = WAYS[way]
    lead = (sum(SIZES),) if "batch_sizes" in how else (batch, 4) if "batch_first" in how else (4, batch)
    arrays = given(cell, lead, batch, i, h, bias=bias)
    if kind.is_half:  # the numbers that both begin with
        arrays = [tl.tensor(a, dtype=kind).double().numpy() for a in arrays]
    wanted = results(cell, arrays, "cpu", tl.float32 if kind.is_half else kind, only, **how)
    with standin.watch() as seen:
        got = results(cell, arrays, "cuda", kind, only, **how)
    tolerance = TOLERANCE[kind]
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=f"result {k} of {cell}, {way}")
    assert all(e.native for op in OPS for e in op.cache.values() if e.device.type == "cuda")
    return got, seen


# ---- each cell, each way through the rows, each way to spread the steps
SPREADS = [dict(where=w, groups=g) for w in (REGISTERS, SHARED, MEMORY) for g in (1, 2, 4)]
QUICK = [
    ("lstm", "packed", tl.float32, {}),
    ("lstm", "packed, reverse", tl.float32, dict(where=SHARED, groups=2)),
    ("gru", "batch first", tl.float32, dict(where=MEMORY, groups=4, staged=False)),
    ("tanh", "reverse", tl.float64, {}),
    ("lstm", "packed", tl.bfloat16, dict(groups=2)),
    ("gru", "reverse", tl.float16, {}),
]


@pytest.mark.parametrize("cell, way, kind, fields", QUICK, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_gives_what_the_cpu_gives(spread, cell, way, kind, fields):
    spread(**fields)
    agree(cell, way, kind)


@pytest.mark.slow
@pytest.mark.parametrize("fields", SPREADS, ids=str)
@pytest.mark.parametrize("cell", LAYERS)
def test_every_spread(spread, cell, fields):
    spread(**fields)
    for way in WAYS:
        agree(cell, way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tl.float16, tl.bfloat16, tl.float64], ids=str)
@pytest.mark.parametrize("cell", LAYERS)
def test_every_type(spread, cell, kind):
    wheres = [dict(where=w, mma=m) for w in (SHARED, MEMORY) for m in (True, False)] if kind.is_half else []
    for fields in ({}, dict(groups=2), *wheres):
        spread(**fields)
        for way in WAYS:
            agree(cell, way, kind)


@pytest.mark.slow
@pytest.mark.parametrize("cell", LAYERS)
def test_odd_sizes(spread, cell):
    for batch, i, h in ((1, 1, 1), (1, 3, 20), (5, 7, 9), (11, 2, 33), (2, 5, 66)):
        for fields in ({}, dict(blocks=1)):
            spread(**fields)
            agree(cell, "steps", batch=batch, i=i, h=h)


@pytest.mark.slow
@pytest.mark.parametrize("cell", LAYERS)
def test_slices_in_several_tiles(spread, cell):
    for fields in (dict(blocks=1, tile=4), dict(blocks=2, groups=2, tile=4), dict(blocks=2, groups=2, staged=False)):
        spread(**fields)
        agree(cell, "steps", batch=11, h=6)
        agree(cell, "packed, reverse", batch=3, h=6)
    spread(blocks=1, tile=8)
    agree(cell, "reverse", tl.bfloat16, batch=11, h=6)


@pytest.mark.parametrize("k", range(1, emulator.ORDERS))
def test_same_bits_in_every_order_of_threads(spread, k):
    for cell, way, kind, fields in QUICK:
        spread(**fields)
        first, _ = agree(cell, way, kind)
        with emulator.order(k):
            again, _ = agree(cell, way, kind)
        assert all(np.array_equal(a, b) for a, b in zip(first, again))


# ---- what may be left out
def test_gradients_of_some_outputs(spread):
    spread()
    for only in range(3):
        agree("lstm", "packed", only=only, bias=only == 1)


def test_gradients_that_nobody_wants(spread):
    spread()
    arrays = given("lstm", (4, 3), 3, 2, 7)
    made = {}
    for device in ("cpu", "cuda"):
        tensors = [tl.tensor(a, dtype=tl.float32, device=device) for a in arrays]
        tensors[4].requires_grad_()
        lstm_layer(*tensors)[0].sum().backward()
        made[device] = tensors[4].grad.cpu().numpy()
        assert tensors[0].grad is None
    np.testing.assert_allclose(made["cuda"], made["cpu"], 4e-6, 4e-6)


def test_no_samples_and_no_inputs(spread):
    spread()
    for cell, (gates, states, layer) in LAYERS.items():
        agree(cell, "steps", i=0) if cell == "lstm" else None
        arrays = given(cell, (4, 0), 0, 2, 7)
        tensors = [tl.tensor(a, dtype=tl.float32, device="cuda", requires_grad=True) for a in arrays]
        outputs = layer(*tensors)
        outputs[0].sum().backward()
        assert outputs[0].shape == (4, 0, 7) and outputs[1].shape == (0, 7)
        assert not tensors[-1].grad.cpu().numpy().any() and tensors[1 + states].grad.shape == (gates * 7, 2)


def test_arrays_that_lie_with_gaps(spread):
    spread()
    arrays = given("lstm", (4, 3), 3, 2, 7)
    wanted = results("lstm", arrays, "cuda")
    tensors = [tl.tensor(np.stack([a, a], -1), dtype=tl.float32, device="cuda")[..., 1] for a in arrays]
    assert not tensors[0].is_contiguous()
    for a, b in zip(lstm_layer(*tensors), wanted):
        assert np.array_equal(a.cpu().double().numpy(), b)


def test_projections_go_by_plain_operations():
    arrays = [*given("lstm", (4, 3), 3, 2, 7), np.random.default_rng(0).uniform(-1, 1, (5, 7))]
    arrays[1], arrays[4] = arrays[1][:, :5], arrays[4][:, :5]
    made = [lstm_layer(*(tl.tensor(a, dtype=tl.float32, device=device) for a in arrays)) for device in ("cpu", "cuda")]
    for a, b in zip(*made):
        np.testing.assert_allclose(a.numpy(), b.cpu().numpy(), 4e-6, 4e-6)


def test_sizes_that_do_not_fit(spread):
    spread()
    tensors = [tl.tensor(a, dtype=tl.float32, device="cuda") for a in given("gru", (9,), 3, 2, 7)]
    for sizes in ([3, 3, 2, 2], [2, 3, 2, 2], [3, 3, 3, 0]):
        with pytest.raises(ShapeError, match=r"gru_layer: batch_sizes .* for 9 rows of x and 3 of state"):
            gru_layer(*tensors, batch_sizes=tl.tensor(sizes))


def test_a_step_crosses_nothing(spread):
    """But for the sizes of packed sequences, once."""
    spread()
    tensors = [tl.tensor(a, dtype=tl.float32, device="cuda", requires_grad=True) for a in given("lstm", (9,), 3, 2, 7)]
    sizes, other = tl.tensor(SIZES), tl.tensor([3, 2, 2, 2])
    one = tl.ones(9, 7, device="cuda")

    def step(sizes):
        with standin.watch() as seen:
            lstm_layer(*tensors, batch_sizes=sizes)[0].backward(one)
        return seen.crossings

    assert [step(s) > 0 for s in (sizes, sizes, other, sizes)] == [True, False, True, False]


# ---- modules
@pytest.mark.parametrize(
    "make, packed",
    [
        (lambda **how: nn.LSTM(7, 7, 2, bidirectional=True, **how), True),
        (lambda **how: nn.GRU(7, 7, bias=False, batch_first=True, bidirectional=True, **how), False),
        pytest.param(lambda **how: nn.RNN(7, 7, 2, nonlinearity="relu", **how), False, marks=pytest.mark.slow),
    ],
    ids=["lstm", "gru", "rnn"],
)
def test_modules(spread, make, packed):
    spread()
    tl.manual_seed(1)
    here = make()
    there = make(device="cuda")
    there.load_state_dict(here.state_dict())
    data = np.random.default_rng(0).uniform(-1, 1, (3, 3, 7)).astype("f4")
    found = []
    for module in (here, there):
        x = tl.tensor(data, device=module.weight_hh_l0.device, requires_grad=True)
        y, last = module(pack_padded_sequence(x, tl.tensor([3, 2, 1])) if packed else x)
        y = y.data if packed else y
        last = last if isinstance(last, tuple) else (last,)
        sum((p * p).sum() for p in (y, *last)).backward()
        found.append([y, *last, x.grad, *(p.grad for p in module.parameters())])
    assert all(b.device.type == "cuda" for b in found[1])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b.detach().cpu().numpy(), a.detach().numpy(), 2e-5, 2e-5)


@pytest.mark.slow
def test_second_order(spread):
    spread()
    found = []
    for device in ("cpu", "cuda"):
        tensors = [
            tl.tensor(a, dtype=tl.float64, device=device, requires_grad=True) for a in given("tanh", (2, 3), 3, 2, 7)
        ]
        (g,) = tl.autograd.grad(rnn_layer(*tensors)[0].sum(), tensors[0], create_graph=True)
        (g * g).sum().backward()
        found.append(tensors[3].grad.cpu().numpy())
    np.testing.assert_allclose(*found, 1e-10, 1e-10)


# ---- plans
@pytest.mark.parametrize("cell", recurrent_plan.GATES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("blocks, shared", [(132, 227 << 10), (170, 99 << 10), (16, 99 << 10)])
def test_every_size_has_a_plan_that_fits(cell, back, blocks, shared):
    for itemsize, batch, hidden in (
        (2, 5, 9),
        (2, 128, 512),
        (2, 9, 30000),
        (4, 1, 1),
        (4, 3, 20),
        (8, 77, 129),
        (4, 128, 1024),
        (4, 4096, 513),
        (8, 2, 20000),
    ):
        p = plan_of(cell, back, itemsize, batch, hidden, blocks, shared)
        assert p.shared <= shared and p.groups * p.slices <= blocks
        assert p.groups * p.units >= hidden > (p.groups - 1) * p.units and p.slices * p.slice >= batch
        assert p.slice % p.tile == 0 == p.tile % p.rb and p.tile * p.units <= p.pairs * recurrent_plan.THREADS
        assert p.mma or p.kl * p.wk * p.chunks * (16 // max(itemsize, 4)) <= p.pitch
        if p.mma:
            assert p.nu * p.wu * 16 >= p.units * (1 if back else recurrent_plan.GATES[cell]) and p.rb % 8 == 0
            assert 16 * p.wk * p.chunks <= p.pitch - 8 and p.pitch // 8 % 2
        elif p.where == REGISTERS:
            unit_tiles = -(-p.units * p.kl // (32 * p.ur))
            assert p.nu * p.wu >= unit_tiles and p.nk == p.chunks


def test_small_layers_stay_in_one_block_and_large_ones_on_the_chip():
    small, middle = (plan_of("lstm", False, 4, b, h, 132, 227 << 10) for b, h in ((128, 64), (16, 512)))
    assert (small.groups, small.where) == (1, REGISTERS)
    assert middle.groups > 1 and middle.where == REGISTERS
    assert plan_of("lstm", False, 4, 4, 4000, 132, 227 << 10).where == MEMORY


# ---- sums of columns
@pytest.mark.parametrize("rows, columns", [(1, 1), (7, 33), (300, 40)])
def test_column_sums(rows, columns):
    x = np.random.default_rng(0).uniform(-1, 1, (rows, columns)).astype("f4")
    out = cuda.arrays().empty(columns, "f4")
    column_sum.column_sums("f4", rows, columns)(cuda.arrays().asarray(x), out)
    np.testing.assert_allclose(cuda.arrays().asnumpy(out), x.astype("f8").sum(0), 1e-5, 1e-5)
