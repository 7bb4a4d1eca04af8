"""The compiled chains of element-wise ops: every body, instruction set, way to lie in memory and block, bit for bit."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import cpu
from tensorlite.ops.fused import BODIES, MOST, NUMBERS, fused_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
CONSTANTS = {
    "elu": {"alpha": 0.7}, "elu_dx": {"alpha": 0.7}, "softplus": {"beta": 2.0, "threshold": 3.0},
    "softplus_dx": {"beta": 2.0, "threshold": 3.0}, "leaky_relu": {"slope": 0.2}, "leaky_relu_dx": {"slope": 0.2},
    "gelu": {"approximate": False}, "gelu_dx": {"approximate": True},
}  # fmt: skip
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1.0, -1.0])


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request):
    with config.ISA(request.param):
        yield request.param


def numbers(shape, seed, d, special=True):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape) * 2
    if special:
        a = np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), a)
    return tl.tensor(np.asarray(a), dtype=d)


def bits(t):
    a = np.array(t.numpy(), copy=True)
    a[np.isnan(a)] = np.nan
    return a.tobytes()


def by_itself(name, tensors):
    """The op's own compiled kernel on these tensors."""
    op, kw = TABLE[name], CONSTANTS.get(name, {})
    entry = op.entry(tuple(None if t is None else t._spec for t in tensors), kw)
    assert entry.native, name
    out = entry.empty()
    entry.kernel(*[None if t is None else t._arr for t in tensors], out)
    return tl.from_numpy(out)


def steps_of(name, sources):
    return ((name, tuple(sorted(CONSTANTS.get(name, {}).items())), sources),)


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
@pytest.mark.parametrize("name", sorted(BODIES - set(NUMBERS) - {"clone"}))
def test_every_body(isa, name, d):
    count = len(TABLE[name].inputs)
    for n in (1, 5, 67, 2048, 5001):
        x = [numbers(n, k, d) for k in range(count)]
        want = by_itself(name, x)
        # x + x first, so that the body reads what lies between steps; then the body again on its own result
        steps = (*steps_of(name, tuple(range(count))), ("add", (), (count, 0)))
        got = fused_p(*x, spread=(None,) * count, steps=steps, results=(count, count + 1))
        assert bits(got[0]) == bits(want), n
        assert bits(got[1]) == bits(want + x[0]), n
        steps = (("mul", (), (0, 0)), *steps_of(name, (count,) * count))
        got = fused_p(*x, spread=(None,) * count, steps=steps, results=(count + 1,))
        assert bits(got) == bits(by_itself(name, [x[0] * x[0]] * count)), n


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_numbers_behind_tensors(isa, d):
    x, g = numbers((9, 331), 0, d), numbers((9, 331), 1, d)
    low, high, two = (tl.tensor(v, dtype=d) for v in (-0.5, 1.5, 2.0))
    for sources, tensors in (
        ((0, 1, 2), (x, low, high)),
        ((0, None, 2), (x, None, high)),
        ((0, 1, None), (x, low, None)),
    ):
        got = fused_p(x, low, high, spread=(None, (1, 1), (1, 1)), steps=(("clamp", (), sources),), results=(3,))
        assert bits(got) == bits(by_itself("clamp", list(tensors)))
    for e in (two, tl.tensor(-1.0, dtype=d), tl.tensor(0.0, dtype=d), tl.tensor(4.0, dtype=d)):
        got = fused_p(x, e, spread=(None, (1, 1)), steps=(("pow", (), (0, 1)),), results=(2,))
        assert bits(got) == bits(by_itself("pow", [x, e]))
        got = fused_p(g, x, e, spread=(None, None, (1, 1)), steps=(("pow_dx", (), (0, 1, 2)),), results=(3,))
        assert bits(got) == bits(by_itself("pow_dx", [g, x, e]))
    got = fused_p(x, spread=(None,), steps=(("clone", (), (0,)),), results=(1,))
    assert bits(got) == bits(x)


# shapes of the result and of an input spread over it, with (period, repeat)
SPREAD = [
    ((3, 5), (5,), (5, 1)), ((3, 5), (3, 1), (3, 5)), ((3, 5), (), (1, 1)), ((2, 3, 5), (3, 1), (3, 5)),
    ((3000, 7), (7,), (7, 1)), ((40, 100), (100,), (100, 1)), ((5, 4096), (4096,), (4096, 1)),
    ((5, 2999), (2999,), (2999, 1)), ((3, 4096), (3, 1), (3, 4096)), ((7, 2999), (7, 1), (7, 2999)),
    ((2, 3, 1500), (3, 1), (3, 1500)), ((4, 3, 5, 1), (3, 5, 1), (15, 1)), ((60, 50, 40), (50, 40), (2000, 1)),
    ((30, 5, 300), (5, 1), (5, 300)), ((20, 300, 30), (300, 1), (300, 30)),
]  # fmt: skip


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
@pytest.mark.parametrize(("shape", "small", "how"), SPREAD)
def test_spread_inputs(isa, shape, small, how, d):
    x, w, one = numbers(shape, 0, d), numbers(small, 1, d), numbers((), 2, d, False)
    steps = (("add", (), (1, 0)), ("mul", (), (3, 1)), ("exp", (), (1,)), ("sub", (), (4, 2)), ("div", (), (5, 6)))
    got = fused_p(x, w, one, spread=(None, how, (1, 1)), steps=steps, results=(7, 4))
    second = (w + x) * w
    assert bits(got[1]) == bits(second)
    wide = tl.zeros(shape, dtype=d) + w
    assert bits(got[0]) == bits(wide.exp() / (second - one))
    # a number beside a number, with itself, and alone
    steps = (("sub", (), (2, 1)), ("mul", (), (2, 2)), ("neg", (), (2,)), ("add", (), (3, 4)), ("add", (), (6, 5)))
    flat = numbers((), 3, d, False)
    got = fused_p(x, flat, one, spread=(None, (1, 1), (1, 1)), steps=(*steps, ("add", (), (7, 0))), results=(8,))
    assert bits(got) == bits((one - flat + one * one + -one) + x)


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_any_number_of_threads(threads, d):
    shape = (64, 3, 411)
    x, w = numbers(shape, 0, d), numbers((3, 1), 1, d)
    steps = (("mul", (), (0, 1)), ("tanh", (), (2,)), ("sub", (), (3, 0)), ("maximum", (), (4, 2)))
    made = []
    for n in (1, 2, 3):
        threads(n)
        made.append([bits(t) for t in fused_p(x, w, spread=(None, (3, 411)), steps=steps, results=(5, 3))])
    assert made[0] == made[1] == made[2]


def test_written_over_an_input(isa):
    for n in (5, 700, 50_001):
        x, w = numbers(n, 0, tl.float32), numbers(n, 1, tl.float32)
        want = (x * w).tanh() + w
        steps = (("mul", (), (0, 1)), ("tanh", (), (2,)), ("add", (), (3, 1)))
        kw = {"spread": (None, None), "steps": steps, "results": (4,)}
        entry = fused_p.op.entry((x._spec, w._spec), kw)
        entry.kernel(x._arr, w._arr, x._arr)
        assert bits(x) == bits(want)


def test_long_chains_and_many_results():
    x = numbers((3, 999), 0, tl.float32, False)
    steps, results = (), ()
    for k in range((MOST - 1) // 2):
        steps += (("add" if k % 3 else "sub", (), (k, k // 2)),)
        results += (k + 1,)
    got = fused_p(x, spread=(None,), steps=steps, results=results)
    with config.KERNELS("plain"):
        want = fused_p(x, spread=(None,), steps=steps, results=results)
    for g, w in zip(got, want):
        assert bits(g) == bits(w)
    longer = (*steps, ("neg", (), (0,)), ("neg", (), (0,)))
    entry = fused_p.op.entry((x._spec,), {"spread": (None,), "steps": longer, "results": results})
    assert not entry.native
