"""The compiled steps of optimizers, norms and scaling of many tensors: the bits of the plain ones, everywhere."""

import math
from functools import partial

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops import adaptive, clip, update

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

# tails of every vector length, 0-d, empty, one that is cut, many in a task
SHAPES = [(3, 5), (), (0, 4), (7,), (64,), (33, 100), (70001,), *[(17,)] * 9]
STEPS = {
    "sgd": (
        dict(),
        dict(weight_decay=0.1, maximize=True),
        dict(momentum=0.9),
        dict(momentum=0.9, dampening=0.2, first=True),
        dict(momentum=0.9, dampening=0.2, maximize=True),
        dict(momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (
        dict(),
        dict(weight_decay=0.1),
        dict(weight_decay=0.1, decoupled=True, maximize=True),
        dict(amsgrad=True),
        dict(amsgrad=True, weight_decay=0.1, decoupled=True, betas=(0.0, 0.5), eps=0.01),
    ),
    "rmsprop": (
        dict(),
        dict(weight_decay=0.1, maximize=True),
        dict(momentum=0.9),
        dict(centered=True, alpha=0.9),
        dict(centered=True, momentum=0.9, eps=0.01),
    ),
    "adagrad": (dict(), dict(lr_decay=0.1, weight_decay=0.1, maximize=True)),
}
KINDS = {
    "sgd": lambda how: ["params", "grads", *(["momentum_buffers"] if how.get("momentum") else [])],
    "adam": lambda how: update._adam_kinds(how.get("amsgrad", False)),
    "rmsprop": lambda how: adaptive._RMSPROP(momentum=how.get("momentum"), centered=how.get("centered")),
    "adagrad": lambda how: adaptive._ADAGRAD(),
}
each_step = pytest.mark.parametrize("name,how", [(n, h) for n, many in STEPS.items() for h in many])
each_dtype = pytest.mark.parametrize("d", [tl.float32, tl.float64])


def op_of(name):
    return getattr(adaptive if name in ("rmsprop", "adagrad") else update, name)


def table(name, how, d, shapes, seed=0, lay=lambda a: a):
    rng, rows = np.random.default_rng(seed), {}
    for kind in KINDS[name](how):
        if kind == "steps":
            rows[kind] = [tl.tensor(float(k % 3), dtype=tl.float32) for k in range(len(shapes))]
        else:
            draw = [rng.standard_normal(s) for s in shapes]
            draw = [abs(a) + 2 if kind.endswith(("sqs", "square_avgs", "sums")) else a for a in draw]
            rows[kind] = [lay(tl.tensor(a, dtype=d)) for a in draw]
    return rows


def run(name, how, rows, lr=0.1):
    op_of(name)(**rows, lr=lr, **how)
    return [t.numpy().copy() for row in rows.values() for t in row]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))


def check(name, how, make, lr=0.1):
    with config.KERNELS("plain"):
        want = run(name, how, make(), lr)
    assert same(run(name, how, make(), lr), want), (name, how)


@each_step
@each_dtype
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_the_bits_of_the_plain_step(name, how, d, isa):
    with config.ISA(isa):
        check(name, how, lambda: table(name, how, d, SHAPES))


@pytest.mark.parametrize("name", STEPS)
def test_the_same_bits_for_every_number_of_threads(name, threads):
    how, found = STEPS[name][-1], []
    for n in (1, 2, 3):
        threads(n)
        found.append(run(name, how, table(name, how, tl.float32, [(300001,), *SHAPES])))
    assert same(found[0], found[1]) and same(found[0], found[2])


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-42, 3e38, -0.0])
def test_special_values(name, value):
    for how in STEPS[name]:
        for kind in KINDS[name](how):
            if kind != "steps":

                def make(how=how, kind=kind):
                    rows = table(name, how, tl.float32, [(40,), (5,)])
                    rows[kind][0]._arr[[0, 20, 39]] = value
                    return rows

                check(name, how, make)


def last(t):
    return tl.tensor(np.ascontiguousarray(t.numpy().transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)


def test_what_lies_alike_is_taken_and_the_rest_left():
    """channels_last parameters, transposed ones, gradients that lie otherwise, half types, float64 among float32."""
    from tensorlite.ops.update import adam_p

    how, left = {}, []
    original = adam_p.op.fn

    def plain(xp, lr, *tensors, **constants):
        left.append([t.shape for t in tensors[: len(tensors) // 5]])
        original(xp, lr, *tensors, **constants)

    def make():
        rows = table("adam", how, tl.float32, [(2, 3, 4, 5), (2, 3, 4, 6), (6, 8), (9,), (10,), (11,)])
        for kind, row in rows.items():
            if kind != "steps":
                row[0] = last(row[0])
                row[1] = row[1] if kind == "grads" else last(row[1])
                row[2] = tl.tensor(np.ascontiguousarray(row[2].numpy().T)).t()
                row[3] = row[3].half()
                row[4] = row[4].double()
                row[5] = tl.tensor(np.repeat(row[5].numpy(), 2))[::2]
        return rows

    with config.KERNELS("plain"):
        want = run("adam", how, make())
    adam_p.op.fn = plain
    try:
        assert same(run("adam", how, make()), want)
    finally:
        adam_p.op.fn = original
    assert left == [[(2, 3, 4, 6), (9,), (11,)]]


def test_tensors_that_share_memory_go_one_after_the_other():
    def make():
        rows = table("sgd", {}, tl.float32, [(40,), (40,), (30,)])
        whole = tl.arange(50, dtype=tl.float32)
        rows["params"][0], rows["params"][1] = whole[:40], whole[10:]
        return rows

    def twice():
        rows = make()
        return run("sgd", {}, rows) + run("sgd", {}, rows)

    with config.KERNELS("plain"):
        want = twice()
    assert same(twice(), want)
    steps = tl.tensor(0.0)  # one count for all: every parameter raises it

    def shared():
        rows = table("adam", {}, tl.float32, [(3,), (4,)])
        steps._arr[...] = 0
        rows["steps"] = [steps, steps]
        return rows

    check("adam", {}, shared)


@pytest.mark.parametrize("lr", [0.25, tl.tensor(0.25), tl.tensor(0.25, dtype=tl.float64), tl.tensor(1)])
def test_learning_rates_of_every_kind(lr):
    for name in STEPS:
        check(name, {}, lambda name=name: table(name, {}, tl.float32, [(20,)]), lr)


def test_a_step_of_an_optimizer_takes_the_compiled_kernel():
    for name, kernel in (("SGD", "sgd"), ("Adam", "adam"), ("AdamW", "adam"), ("RMSprop", "rmsprop")):
        p = tl.nn.Parameter(tl.ones(3))
        p.grad = tl.ones(3)
        getattr(tl.optim, name)([p], lr=0.1).step()
        entries = [e for e in op_of(kernel).op.cache.values() if e.specs[1] is p._spec]
        assert entries and all(e.native for e in entries)


# ---- norms and scaling
@each_dtype
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_norms(d, isa, threads):
    tensors = [tl.tensor(np.random.default_rng(k).standard_normal(s) * 3, dtype=d) for k, s in enumerate(SHAPES)]
    tensors.append(last(tl.randn(2, 3, 4, 5, dtype=d)))
    whole = np.concatenate([t.double().numpy().ravel() for t in tensors])
    with config.ISA(isa):
        for kind in (1.0, 2.0, math.inf):
            found = []
            for n in (1, 2, 3):
                threads(n)
                found.append(clip.total_norm(tensors, kind).item())
            assert found[0] == found[1] == found[2]
            np.testing.assert_allclose(found[0], np.linalg.norm(whole, kind), rtol=4 * tl.finfo(d).eps)


@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_norms_of_special_values(kernels):
    with config.KERNELS(kernels):
        for kind in (1.0, 2.0, math.inf):
            for n in (3, 100, 40000):
                for where in (0, n // 2, n - 1):
                    x = tl.ones(n)
                    x._arr[where] = math.nan
                    assert math.isnan(clip.total_norm([x, tl.ones(50)], kind).item())
                    x._arr[where] = -math.inf
                    assert clip.total_norm([tl.ones(50), x], kind).item() == math.inf
            assert clip.total_norm([tl.zeros(0)], kind).item() == 0
        assert clip.total_norm([tl.full((4,), 1e30)], 2.0).item() == pytest.approx(2e30)  # squares that float32 has not


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_scaling_has_the_bits_of_the_plain_one(isa):
    def scaled(factor):
        tensors = [t * 3 for t in (tl.arange(s[0] if s else 1, dtype=tl.float32) for s in SHAPES)]
        tensors += [
            tl.ones(5).half(),
            tl.ones(5).double(),
            tl.tensor([math.nan, math.inf, -0.0]),
            last(tl.ones(2, 3, 4, 5)),
        ]
        clip.scale(tensors, tl.tensor(factor))
        assert all(t._version == 1 for t in tensors[:-1])
        return [t.numpy() for t in tensors]

    for factor in (0.3, 1.0, 0.0, math.nan):
        with config.KERNELS("plain"):
            want = scaled(factor)
        with config.ISA(isa):
            assert same(scaled(factor), want)


def test_clipping_beside_the_formula():
    params = [tl.nn.Parameter(tl.zeros(s)) for s in ((3, 4), (50000,), ())]
    for p in params:
        p.grad = tl.ones(p.shape) * 2
    total = tl.nn.utils.clip_grad_norm_(params, 1.0)
    assert total.item() == pytest.approx(2 * math.sqrt(50013))
    assert all((p.grad.numpy() == np.float32(2) * np.float32(1 / (total.item() + 1e-6))).all() for p in params)
    before = [p.grad.numpy().copy() for p in params]
    tl.nn.utils.clip_grad_norm_(params, 10.0)  # short enough already
    assert same([p.grad.numpy() for p in params], before)


def odd_table(name, how, d, shapes, seed):
    """A table with nan, inf and denormals here and there."""
    rows, rng = table(name, how, d, shapes, seed), np.random.default_rng(seed)
    for kind, row in rows.items():
        for t in row:
            if kind != "steps" and t.numel() and rng.random() < 0.3:
                at = rng.integers(t.numel())
                t._arr.reshape(-1)[at] = rng.choice([math.nan, math.inf, -math.inf, 1e-310, 1e-42])
    return rows


@pytest.mark.slow
def test_fuzz_steps():
    rng = np.random.default_rng(seed := 20261121)
    for k in range(10000):
        name = str(rng.choice(list(STEPS)))
        how, d = STEPS[name][rng.integers(len(STEPS[name]))], (tl.float32, tl.float64)[rng.integers(2)]
        shapes = [tuple(int(m) for m in rng.integers(0, 60, n)) for n in rng.integers(0, 3, rng.integers(1, 6))]
        if k % 100 == 0:
            shapes.append((int(rng.integers(1, 200000)),))
        with config.ISA(str(rng.choice(["baseline", "avx2", "avx512"]))):
            try:
                check(name, how, partial(odd_table, name, how, d, shapes, k))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, round {k}: {name} {how} {shapes} {d}") from error
