"""The linear layer with an activation or a residual: the bits of the ops that it is made of, forward and back."""

import itertools

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.nn import functional as F
from tensorlite.ops.activation import relu_p, sigmoid_p, tanh_p
from tensorlite.ops.linalg import linear_p
from tensorlite.ops.linear_act import act_dx_p, linear_act_p, linear_add_p, linear_gelu_p
from tensorlite.ops.smooth import gelu_p

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")

ISAS = ["baseline", "avx2", "avx512"]
FLOATS = [tl.float32, tl.float64]
GELUS = {"gelu": False, "gelu_tanh": True}
ACTS = {
    "relu": relu_p,
    "tanh": tanh_p,
    "sigmoid": sigmoid_p,
    "gelu": lambda z: gelu_p(z, approximate=False),
    "gelu_tanh": lambda z: gelu_p(z, approximate=True),
}
# (rows, in, out): tails of vectors and tiles, inner products, turned round, parts of k, several tasks, one row, one
# column, one product
SIZES = [(5, 33, 20), (33, 40, 130), (130, 40, 33), (3, 100, 50), (50, 100, 3), (16, 9000, 9), (300, 64, 200),
         (1, 30, 70), (70, 30, 1), (9, 1, 40), (1, 1, 1)]  # fmt: skip


def bits(*tensors):
    """The bytes of tensors; a nan is a nan, whatever its sign, which no two compilers agree on."""
    return [np.where(np.isnan(a), np.nan, a).tobytes() for a in (t.detach().numpy() for t in tensors)]


def draw(rng, d, *shape):
    return tl.tensor(rng.standard_normal(shape), dtype=d)


def run(call, tensors, g, outputs=1):
    """The bits of what a call gives and of all gradients."""
    given = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    y = call(*given)
    first = y[0] if isinstance(y, tuple) else y
    first.backward(g)
    return bits(first, *(t.grad for t in given if t is not None))


def same_as_the_ops(rng, d, size, act, bias, say=""):
    rows, n, m = size
    x, w = draw(rng, d, rows, n), draw(rng, d, m, n) * (2 / n**0.5)
    b = draw(rng, d, m) if bias else None
    g, residual = draw(rng, d, rows, m), draw(rng, d, rows, m)
    want = run(lambda x, w, b: ACTS[act](linear_p(x, w, b)), (x, w, b), g)
    assert run(lambda x, w, b: linear_act_p(x, w, b, act=act), (x, w, b), g) == want, (size, act, bias, say)
    if act in GELUS:
        assert run(lambda x, w, b: linear_gelu_p(x, w, b, act=act), (x, w, b), g) == want, (size, act, bias, say)
        assert bits(linear_gelu_p(x, w, b, act=act)[1]) == bits(linear_p(x, w, b))
    if act == "relu":
        want = run(lambda x, w, r, b: linear_p(x, w, b) + r, (x, w, residual, b), g)
        assert run(linear_add_p, (x, w, residual, b), g) == want, (size, bias, say)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
@pytest.mark.parametrize("act", ACTS)
def test_the_bits_of_the_ops(isa, d, act):
    """Where our kernel makes the product, and where it comes after NumPy's (large ones, without AVX-512)."""
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for size, bias in itertools.product(SIZES, (True, False)):
            same_as_the_ops(rng, d, size, act, bias)


def test_kernels_run():
    """Ours with the product where it is ahead, else ours behind NumPy's product."""
    small, large = tl.ones(4, 4), tl.ones(128, 128)
    for isa in ISAS:
        with config.ISA(isa):
            for t in (small, large):
                for op, more in ((linear_act_p, dict(act="tanh")), (linear_gelu_p, dict(act="gelu"))):
                    assert op.op.entry((t._spec, t._spec, None), more).native
                assert act_dx_p.op.entry((t._spec, t._spec), dict(act="relu")).native
            ours = linear_p.op.entry((large._spec, large._spec, None), {}).native
            assert linear_add_p.op.entry((large._spec, large._spec, large._spec, None), {}).native == ours


@pytest.mark.parametrize("isa", ISAS)
def test_nan_inf_and_signed_zeros(isa):
    odd = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 1e30, -1e30, 3.0]
    x = tl.tensor(np.array(odd)[:, None], dtype=tl.float32)
    w, b = tl.ones(17, 1), tl.zeros(17)
    g = tl.ones(9, 17)
    with config.ISA(isa):
        for act, bias in itertools.product(ACTS, (b, None)):
            want = run(lambda x, w, b, act=act: ACTS[act](linear_p(x, w, b)), (x, w, bias), g)
            assert run(lambda x, w, b, act=act: linear_act_p(x, w, b, act=act), (x, w, bias), g) == want
            y = linear_act_p(x, w, bias, act=act)
            assert y[0].isnan().all() and y[3:5].isfinite().all()


def test_views_and_leading_dimensions():
    rng = np.random.default_rng(1)
    whole = draw(rng, tl.float32, 40, 6, 30)
    for x in (whole, whole[::2, 1:5], whole.transpose(0, 1), whole[0], whole[:, 0], whole[3, 2]):
        w, b = draw(rng, tl.float32, 21, 30), draw(rng, tl.float32, 50)[::2][:21]
        for act in ACTS:
            for v in (w, w.t().contiguous().t()):
                assert bits(linear_act_p(x, v, b, act=act)) == bits(ACTS[act](linear_p(x, v, b)))
        more = draw(rng, tl.float32, 21, *x.shape[:-1]).movedim(0, -1)
        assert bits(linear_add_p(x, w, more, b)) == bits(linear_p(x, w, b) + more)
        x = x.detach().clone().requires_grad_()
        linear_gelu_p(x, w, b, act="gelu")[0].backward(more)
        got, x.grad = x.grad, None
        F.gelu(F.linear(x, w, b)).backward(more)
        assert bits(got) == bits(x.grad)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_column_sums(isa, d):
    """The gradient of the bias is what ``sum`` gives: tails of blocks and vectors, parts of rows and of columns."""
    rng = np.random.default_rng(2)
    with config.ISA(isa):
        for rows, n in ((2, 2), (7, 5), (8, 16), (65, 37), (64, 64), (700, 130), (3, 2100), (5000, 20), (129, 1029)):
            dy, s = draw(rng, d, rows, n), draw(rng, d, rows, n)
            for act in ACTS if rows < 700 else ("relu",):
                dz, db = act_dx_p(dy, s, act=act)
                assert bits(db) == bits(dz.sum(0)), (rows, n, act)


def spec(a):
    return tl.from_numpy(a)._spec


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", FLOATS)
def test_behind_a_product_made_elsewhere(isa, d):
    """The kernels by themselves, for every instruction set takes some product of its own: with and without bias,
    kept or not, and where there is no activation."""
    rng = np.random.default_rng(4)
    acts = {**ACTS, "none": lambda z: z}
    with config.ISA(isa):
        for rows, n in ((1, 1), (5, 7), (3, 16), (9, 130), (300, 70), (0, 3)):
            for act, bias, keep in itertools.product(acts, (True, False), (True, False)):
                z, b = draw(rng, d, rows, n), draw(rng, d, n)
                into = z + b if bias else z
                y, pre = z.numpy().copy(), np.full((rows, n), np.nan, d.np)
                outs = (y, pre) if keep else (y,)
                kernel = cpu.kernel("linear_finish")((), tuple(map(spec, outs)), {"act": act})
                kernel(b.numpy() if bias else None, *outs)
                assert bits(tl.from_numpy(y)) == bits(acts[act](into)), (rows, n, act, bias, keep)
                assert not keep or bits(tl.from_numpy(pre)) == bits(into), (rows, n, act, bias)
        dy, dz, db = draw(rng, d, 33, 70), np.full((33, 70), np.nan, d.np), np.full(70, np.nan, d.np)
        cpu.kernel("act_dx")((), (spec(dz), spec(db)), {"act": "none"})(dy.numpy(), dy.numpy(), dz, db)
        assert bits(tl.from_numpy(dz), tl.from_numpy(db)) == bits(dy, dy.sum(0))


def test_the_same_bits_for_every_number_of_threads(threads):
    rng = np.random.default_rng(3)
    x, w, b, g = (draw(rng, tl.float32, *s) for s in ((500, 96), (300, 96), (300,), (500, 300)))
    for act in ACTS:
        found = []
        for n in (1, 2, 3):
            threads(n)
            found.append(run(lambda x, w, b, act=act: linear_act_p(x, w, b, act=act), (x, w, b), g))
        assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_fuzz_linear_act():
    """10,000 shapes drawn at random; the seed is in the message."""
    for seed in range(10_000):
        rng = np.random.default_rng(seed)
        size = tuple(
            int(2 ** rng.uniform(0, most)) for most in ((7, 7, 7), (3, 10, 8), (8, 5, 3), (4, 12, 4))[seed % 4]
        )
        act = list(ACTS)[rng.integers(5)]
        with config.ISA(ISAS[rng.integers(3)]):
            same_as_the_ops(rng, FLOATS[rng.integers(2)], size, act, bool(rng.integers(2)), f"seed {seed}")
