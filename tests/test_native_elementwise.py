"""The compiled element-wise kernels: every instruction set, size class and way to broadcast, and special values."""

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import cpu
from tensorlite.ops.elementwise import pow_dx_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
F = tl.nn.functional

UNARY = {
    "neg": tl.neg, "abs": tl.abs, "sign": tl.sign, "sqrt": tl.sqrt, "reciprocal": tl.reciprocal, "relu": F.relu,
    "exp": tl.exp, "expm1": tl.expm1, "log": tl.log, "log1p": tl.log1p, "tanh": tl.tanh, "sigmoid": tl.sigmoid,
    "erf": tl.erf, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "mish": F.mish, "logsigmoid": F.logsigmoid, "softplus": F.softplus, "elu": F.elu, "leaky_relu": F.leaky_relu,
    "softplus_2": lambda x: F.softplus(x, beta=2.0, threshold=5.0), "leaky_steep": lambda x: F.leaky_relu(x, -1.5),
    "square": lambda x: x**2, "cube": lambda x: x**3, "fourth": lambda x: x**4, "over": lambda x: x**-1,
    "over_square": lambda x: x**-2.0, "other_power": lambda x: x**2.5,
    "clamp": lambda x: x.clamp(-1.5, 2.0), "clamp_min": lambda x: x.clamp(min=0.25),
    "clamp_max": lambda x: x.clamp(max=-0.25), "zeroth": lambda x: x**0,
}  # fmt: skip
BINARY = {"add": tl.add, "sub": tl.sub, "mul": tl.mul, "div": tl.div}
BINARY |= {"maximum": tl.maximum, "minimum": tl.minimum}
# of the last kind each side gives some: rows and bias, columns, a middle dimension, an outer product, one number
SHAPES = [
    ((5,), (5,)), ((3, 7), (3, 7)), ((4, 67), (67,)), ((67,), (4, 67)), ((5, 33), (5, 1)), ((2, 3, 20), (3, 1)),
    ((2, 3, 4, 5), (1, 3, 1, 5)), ((6, 1), (1, 9)), ((3, 5), ()), ((), (3, 5)), ((1, 1), (4,)), ((), ()),
    ((40000,), (40000,)), ((3, 30000), (30000,)), ((3, 30000), (3, 1)), ((700, 80), (80,)), ((2, 300, 70), (2, 1, 70)),
]  # fmt: skip


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 3


def compare(got, want, d, tolerance, note):
    """Within so many units in the last place of the larger of 1 and the value; nan and inf in the same places."""
    got, want = got.double().numpy(), want.double().numpy()
    with np.errstate(all="ignore"):
        wrong = ~(np.abs(got - want) <= tolerance * tl.finfo(d).eps * np.maximum(1, np.abs(want)))
    wrong &= ~((got == want) | (np.isnan(got) & np.isnan(want)))
    assert not wrong.any(), (note, got[wrong][:4], want[wrong][:4])


def plain(call, *args):
    with config.KERNELS("plain"):
        return call(*args)


def slope(f, x, g):
    x = x.clone().requires_grad_()
    f(x).backward(g)
    return x.grad


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request):
    with config.ISA(request.param):
        yield request.param


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_one_input(isa, d):
    for n in (1, 5, 16, 67, 300, 40001):
        x, g = tl.tensor(numbers(n), dtype=d), tl.tensor(numbers(n, 1), dtype=d)
        for name, f in UNARY.items():
            compare(f(x), plain(f, x), d, 12, (name, n))
            # 1 - t t of a t near 1 loses digits, and gelu's approximation multiplies it by x x x
            tolerance = 1000 if name == "gelu_tanh" else 40
            compare(slope(f, x, g), plain(slope, f, x, g), d, tolerance, (name, n, "gradient"))


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_two_inputs(isa, d):
    for left, right in SHAPES:
        x, w = tl.tensor(numbers(left), dtype=d), tl.tensor(numbers(right, 1), dtype=d)
        for name, f in BINARY.items():
            got, want = f(x, w), plain(f, x, w)
            assert got.shape == want.shape and (got == want).all(), (name, left, right)


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_inputs_that_are_not_dense(d):
    """Expanded gradients and transposed inputs take the compiled kernel too, by way of a copy."""
    x = tl.tensor(numbers((60, 50)), dtype=d)
    for name, f in UNARY.items():
        compare(f(x.t()), plain(f, x.t()), d, 12, name)
        expanded = tl.ones(1, dtype=d).expand(60, 50)
        tolerance = 1000 if name == "gelu_tanh" else 40
        compare(slope(f, x, expanded), plain(slope, f, x, expanded), d, tolerance, (name, "gradient"))
    for f, name in ((F.gelu, "gelu_dx"), (F.logsigmoid, "logsigmoid_dx"), (F.relu, "relu_dx")):
        slope(f, x, expanded)
        entries = [e for e in TABLE[name].cache.values() if "strided" in [s.format for s in e.specs]]
        assert entries and all(e.native for e in entries), name


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_choices(isa, d):
    shapes = [(5,), (3, 7), (2, 3, 4, 33), (300, 200), (3, 30_000)]
    for shape in shapes:
        x, w = (tl.tensor(numbers(shape, k), dtype=d) for k in (1, 2))
        x[..., -1] = np.nan
        for c_shape in (shape, shape[-1:], (*shape[:-1], 1), (1,) * len(shape)):
            c = tl.tensor(numbers(c_shape) > 0)
            one = tl.tensor(2.5, dtype=d)
            for a, b in ((x, w), (x, one), (one, x), (x, -np.inf), (one, 0.5)):
                want = np.where(c.numpy(), *(v.numpy() if isinstance(v, tl.Tensor) else v for v in (a, b)))
                assert np.array_equal(tl.where(c, a, b).numpy(), want, equal_nan=True), (shape, c_shape)
            want = np.where(c.numpy(), 2.5, x.numpy())
            assert np.array_equal(x.masked_fill(c, 2.5).numpy(), want, equal_nan=True)
            assert np.array_equal(x.clone().masked_fill_(c, 2.5).numpy(), want, equal_nan=True)
    assert all(e.native for e in TABLE["where"].cache.values() if e.specs[0].shape == e.specs[1].shape)


SLOPES = [
    *(("gelu_dx", dict(approximate=a)) for a in (False, True)), ("elu_dx", dict(alpha=1.5)),
    ("softplus_dx", dict(beta=2.0, threshold=3.0)), ("leaky_relu_dx", dict(slope=0.1)),
    *((f"{name}_dx", {}) for name in ("relu", "sqrt", "tanh", "sigmoid", "silu", "mish", "logsigmoid")),
]  # fmt: skip


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_slopes_of_operands_that_broadcast(isa, d):
    """A kernel of two operands takes every one that broadcasts: with the bits of the operand written out."""
    for name, how in SLOPES:
        for left, right in (((6, 33), (6, 1)), ((6, 1), (6, 33)), ((6, 33), (33,))):
            given = [np.abs(numbers(shape, k)).astype(d.np) for k, shape in enumerate((left, right))]
            found = []
            for arrays in (given, [np.ascontiguousarray(np.broadcast_to(a, (6, 33))) for a in given]):
                out = np.empty((6, 33), d.np)
                specs = [tl.from_numpy(a)._spec for a in (*arrays, out)]
                cpu.kernel(name)(tuple(specs[:2]), (specs[2],), how)(*arrays, out)
                found.append(out.tobytes())
            assert found[0] == found[1], (name, how, left, right)


def test_short_powers_and_others_share_an_entry():
    x = tl.tensor(numbers(50)).abs()
    for w in (2.0, 0.3, -1.0, 1.7, 0.0):
        e = tl.tensor(w)
        assert np.allclose((x**e).numpy(), x.numpy() ** np.float32(w), rtol=1e-5)
        got = pow_dx_p(tl.ones(50), x, e).numpy()
        assert np.allclose(got, w * x.double().numpy() ** (w - 1), rtol=1e-5)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, -1e-310, 1e-42, -1e-42, 700.0, -700.0, 90.0, -90.0, 20.0, -20.0]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_special_values(isa, d):
    x = tl.tensor(SPECIAL * 3, dtype=d)
    for name, f in UNARY.items():
        compare(f(x), plain(f, x), d, 12, name)
    w = tl.tensor([v for v in SPECIAL for _ in range(3)], dtype=d)
    for name, f in BINARY.items():
        compare(f(x, w), plain(f, x, w), d, 0, name)
    for f in (tl.neg, tl.tanh, tl.erf, F.gelu, tl.expm1):  # the sign of zero stays
        assert (np.signbit(f(tl.tensor([0.0, -0.0], dtype=d)).numpy()) == (f is tl.neg) ^ np.array([False, True])).all()


def test_an_element_does_not_depend_on_its_place(isa):
    x = tl.tensor(numbers(50000))
    for name, f in UNARY.items():
        whole = f(x).numpy()
        for at in (0, 1, 7, 30, 40000):
            part = f(x[at : at + 37].clone()).numpy()
            assert (part == whole[at : at + 37])[~np.isnan(part)].all(), (name, at)


def test_the_same_bits_for_every_number_of_threads():
    before = tl.get_num_threads()
    x, w, b = (tl.tensor(numbers(s, k)) for k, s in enumerate(((300, 333), (300, 333), (333,))))
    found = []
    try:
        for n in (1, 2, 3):
            tl.set_num_threads(n)
            found.append([f(x).numpy() for f in (F.gelu, tl.tanh, F.relu)] + [(x + w).numpy(), (x * b).numpy()])
    finally:
        tl.set_num_threads(before)
    assert all((a == c).all() for other in found[1:] for a, c in zip(found[0], other))


@pytest.mark.slow
def test_fuzz_elementwise():
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    names, pairs = list(UNARY), list(BINARY)
    for turn in range(10_000):
        d = (tl.float32, tl.float64)[turn % 2]
        shape = tuple(rng.integers(1, 9, rng.integers(0, 5)))
        if turn % 50 == 0:
            shape = (int(rng.integers(1, 60)), int(rng.integers(1, 3000)))
        other = tuple(n if rng.random() < 0.6 else 1 for n in shape)[int(rng.integers(0, len(shape) + 1)) :]
        x, w = rng.standard_normal(shape) * 4, rng.standard_normal(other) * 4
        for a in (x, w):
            if rng.random() < 0.3 and a.ndim:
                a.reshape(-1)[rng.integers(0, a.size)] = rng.choice(SPECIAL)
        x, w = (tl.tensor(a, dtype=d) for a in (x, w))
        with config.ISA(("baseline", "avx2", "avx512")[turn % 3]):
            f, g = UNARY[names[rng.integers(len(names))]], BINARY[pairs[rng.integers(len(pairs))]]
            note = (f"seed {seed}, turn {turn}", shape, other)
            compare(f(x), plain(f, x), d, 12, note)
            compare(g(x, w), plain(g, x, w), d, 0, note)
