"""matmul, linear and what follows it, on the emulated device: cuBLASLt's stand-in and the kernels of linalg.cu."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip
from ops_harness import cases, complaint, flat, reference

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import cublas, emulator
from tensorlite.backends.launch import linalg
from tensorlite.ops import acts, linear_act

OPS = [
    "matmul",
    "mm",
    "bmm",
    "mv",
    "dot",
    "addmm",
    "baddbmm",
    "linear",
    "linear_act",
    "linear_gelu",
    "linear_add",
    "act_dx",
]
SHAPES = [  # of x and w
    ((5, 7), (7, 3)),
    ((33, 40), (40, 65)),
    ((1, 4), (4, 1)),
    ((3, 1), (1, 3)),
    ((2, 5, 7), (7, 3)),
    ((2, 5, 7), (2, 7, 3)),
    ((5, 7), (2, 7, 3)),
    ((2, 1, 4, 3), (3, 3, 5)),
    ((2, 3, 4, 3), (2, 3, 3, 5)),
    ((2, 2, 4, 3), (2, 1, 3, 5)),
    ((0, 4), (4, 2)),
    ((3, 0), (0, 2)),
    ((2, 3, 0), (0, 2)),
    ((0, 3, 2), (0, 2, 4)),
]
LAYOUTS = ["contiguous", "rows", "turned", "steps", "offset"]


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield cublas.library()


def lying(t, how):
    """The tensor on the device, contiguous, or a view that lies otherwise."""
    if how == "contiguous" or t.dim() == 0 or (how == "turned" and t.dim() < 2):
        return t.to("cuda")
    if how == "turned":
        return t.mT.contiguous().to("cuda").mT
    if how == "offset":  # one element off the 16 bytes
        return tl.cat([tl.zeros(1, dtype=t.dtype), t.reshape(-1)]).to("cuda")[1:].view(t.shape)
    wide = tl.zeros(*t.shape[:-1], 2 * t.shape[-1] + 3, dtype=t.dtype)
    at = slice(2, 2 + t.shape[-1]) if how == "rows" else slice(1, 1 + 2 * t.shape[-1], 2)
    wide[..., at] = t
    return wide.to("cuda")[..., at]


def host(t):
    t = t.detach().cpu()
    return t.to(tl.float64).numpy() if t.is_floating_point() else t.numpy()


def tensor(rng, dtype, *shape):
    if dtype.is_floating_point:
        return tl.tensor(rng.standard_normal(shape)).to(dtype)
    low, high = (0, 2) if dtype is tl.bool else (0 if dtype is tl.uint8 else -50, 50)
    return tl.tensor(rng.integers(low, high, shape)).to(dtype)


CLOSE = {tl.float32: 2e-6, tl.float64: 1e-14, tl.float16: 2e-3, tl.bfloat16: 1.6e-2}


def near(t, wanted):
    np.testing.assert_allclose(host(t), wanted, rtol=0, atol=CLOSE[t.dtype] * max(1, np.abs(wanted).max(initial=0)))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("dtype", "how"),
    [(tl.float32, how) for how in LAYOUTS]
    + [(d, how) for d in (tl.float64, tl.float16, tl.bfloat16) for how in LAYOUTS[::4]],
    ids=str,
)
def test_every_case_of_the_ops(name, how, dtype):
    problems = []
    for case in cases(TABLE[name], dtype):
        there = case.with_tensors([lying(t, how) for t in case.tensors().values()])
        got = flat(there.run())
        assert all(y.device.type == "cuda" for y in got)
        expected = reference(case)
        assert len(got) == len(expected)
        problems += [complaint(case, y.cpu(), r, f"output {n}", dtype) for n, (y, r) in enumerate(zip(got, expected))]
    problems = [p for p in problems if p]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("tx", [False, True])
@pytest.mark.parametrize("tw", [False, True])
def test_shapes_and_transposes(emulated, how, tx, tw):
    rng = np.random.default_rng(3)
    for a, b in SHAPES:
        x, w = tensor(rng, tl.float32, *a), tensor(rng, tl.float32, *b)
        wanted = host(x) @ host(w)
        x, w = x.mT.contiguous() if tx else x, w.mT.contiguous() if tw else w
        x, w, before = lying(x, how), lying(w, how), emulated.calls
        y = linear_act.matmul_p(x, w, tx=tx, tw=tw)
        assert (emulated.calls > before) == bool(x.numel() and w.numel())  # by cuBLASLt, if there is something to do
        assert y.shape == wanted.shape
        near(y, wanted)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("dtype", [tl.int8, tl.uint8, tl.int16, tl.int32, tl.int64, tl.bool], ids=lambda d: d.name)
def test_integers(emulated, how, dtype):
    rng, before = np.random.default_rng(4), emulated.calls
    for a, b in SHAPES:
        x, w = tensor(rng, dtype, *a), tensor(rng, dtype, *b)
        y = lying(x, how) @ lying(w, how)
        np.testing.assert_array_equal(host(y), np.matmul(host(x), host(w)))  # wraps as NumPy's does
    assert emulated.calls == before  # none of it is cuBLASLt's


def test_the_way_back():
    """Gradients on the device are those of the CPU."""
    rng = np.random.default_rng(5)
    for shape in [(4, 6), (2, 4, 6)]:
        x, w, b = (tensor(rng, tl.float32, *s) for s in (shape, (8, 6), (8,)))
        results = []
        for device in ("cpu", "cuda"):
            given = [t.detach().to(device).requires_grad_() for t in (x, w, b)]
            y = tl.nn.functional.linear(*given)
            (y @ y.mT).sum().backward()
            results.append([host(y), *(host(t.grad) for t in given)])
        for ours, theirs in zip(*results):
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


def test_readable_views_are_not_copied(emulated, monkeypatch):
    """Rows of a wider array, a transpose, a repeated matrix: cuBLASLt reads them as they lie."""
    monkeypatch.setattr(type(tl.zeros(1, device="cuda")._arr), "copy", None)
    rng = np.random.default_rng(6)
    x, w = tensor(rng, tl.float32, 2, 5, 8), tensor(rng, tl.float32, 8, 4)
    for a in ("contiguous", "rows", "turned"):
        for b in ("contiguous", "rows", "turned"):
            near(lying(x, a) @ lying(w, b), host(x) @ host(w))
    before = emulated.calls
    near(lying(x, "contiguous") @ lying(w, "contiguous"), host(x) @ host(w))
    assert emulated.calls == before + 1  # one product of all rows


@pytest.mark.parametrize("act", acts.OPS)
def test_nan_and_infinity_pass_the_activation(act):
    """As on the CPU; cuBLASLt's own relu would give 0 for NaN."""
    values = tl.tensor([[float("nan")], [float("inf")], [-float("inf")], [-0.0], [1.0]])
    w, b = tl.ones(8, 1), tl.zeros(8)
    wanted = host(linear_act.linear_act_p(values, w, b, act=act))
    got = host(linear_act.linear_act_p(values.cuda(), w.cuda(), b.cuda(), act=act))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    slopes = [
        linear_act.act_dx_p(tl.ones(5, 8).to(d), values.expand(5, 8).contiguous().to(d), act=act)[0]
        for d in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(host(slopes[1]), host(slopes[0]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("cols", [8, 12, 5])
def test_what_goes_into_the_epilogue(emulated, cols):
    """gelu with tanh and the bias are one product; what gelu keeps must have rows by 8 elements."""
    rng = np.random.default_rng(7)
    x, w, b = (tensor(rng, tl.float32, *s).cuda() for s in ((6, 4), (cols, 4), (cols,)))
    launches = []
    for op in (linear_act.linear_act_p, linear_act.linear_gelu_p):
        for act in ("gelu_tanh", "gelu"):
            op(x, w, b, act=act)
            before = emulated.calls, _launched()
            op(x, w, b, act=act)
            launches.append((emulated.calls - before[0], _launched() - before[1]))
    assert launches == [(1, 0), (1, 1), (1, 0 if cols % 8 == 0 else 1), (1, 1)]


def _launched():
    return COUNT[0]


COUNT = [0]


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """Counts launches of our kernels."""
    from tensorlite.backends.launch import Kernel

    launch = Kernel.__call__

    def call(self, *args):
        COUNT[0] += 1
        launch(self, *args)

    monkeypatch.setattr(Kernel, "__call__", call)


@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(1, 1), (65, 33), (200, 5), (3, 70)])
def test_sums_of_the_columns(dtype, shape):
    """The gradient of a bias, in one part and in several, and the same bits under every order of threads."""
    rng = np.random.default_rng(8)
    dy, s = tensor(rng, dtype, *shape), tensor(rng, dtype, *shape)
    results = []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            results.append([host(t) for t in linear_act.act_dx_p(dy.cuda(), s.cuda(), act="tanh")])
    slope = host(dy) * (1 - host(s) ** 2)
    np.testing.assert_allclose(results[0][0], slope, rtol=0, atol=CLOSE[dtype] * np.abs(slope).max())
    total = slope.sum(0)
    np.testing.assert_allclose(results[0][1], total, rtol=0, atol=2 * CLOSE[dtype] * np.abs(slope).sum(0).max())
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


def test_products_of_our_kernel_have_the_same_bits_in_every_order():
    rng = np.random.default_rng(9)
    x, w = tensor(rng, tl.float32, 40, 35), tensor(rng, tl.float32, 35, 33)
    run, results = linalg.tiled("f4", False, False, (40, 33)), []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            y = tl.empty(40, 33, device="cuda")
            run(x.cuda()._arr, w.cuda()._arr, y._arr)
            results.append(host(y))
    near(y, host(x) @ host(w))
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_a_product_without_inner_elements_is_the_bias():
    x, w, b = tl.zeros(3, 0), tl.zeros(4, 0), tl.arange(4.0)
    more = tl.arange(12.0).reshape(3, 4)
    y = tl.nn.functional.linear(x.cuda(), w.cuda(), b.cuda())
    np.testing.assert_array_equal(host(y), np.tile(np.arange(4.0), (3, 1)))
    y = linear_act.linear_add_p(x.cuda(), w.cuda(), more.cuda(), b.cuda())
    np.testing.assert_array_equal(host(y), np.arange(4.0) + host(more))
    for act in acts.OPS:
        wanted = linear_act.linear_act_p(x, w, b, act=act)
        near(linear_act.linear_act_p(x.cuda(), w.cuda(), b.cuda(), act=act), host(wanted))


def test_dimensions_that_go_together():
    assert linalg.collapsed((2, 3, 4), (12, 4, 1)) == [(24, (1,))]
    assert linalg.collapsed((2, 3, 4), (24, 4, 1)) == [(2, (24,)), (12, (1,))]
    assert linalg.collapsed((2, 1, 4), (4, 99, 1), (0, 7, 0)) == [(8, (1, 0))]
    assert linalg.collapsed((1, 1), (5, 6)) == []


def test_every_variant_is_said():
    """Each dtype that a tensor can have is among what the compile check builds."""
    from tensorlite.backends.launch import CTYPES, linear_act as launches

    assert [v.defines for v in linalg.VARIANTS] == [linalg.variant(t) for t in CTYPES]
    said = [v.defines for v in launches.VARIANTS]
    assert said == [launches.variant(t) for t in ("f4", "f2", "bf2", "f8")] + [
        launches.variant(t, wide=True) for t in ("f2", "bf2")
    ]
