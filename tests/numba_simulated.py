"""The Numba-CUDA kernels in Numba's simulator, which is for a process of its own: test_cuda_numba.py runs this file.

Each is compared with the op of the same name on the CPU: NumPy's in float64, and the compiled one in its own dtype.
"""

import math
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ops_harness import TOLERANCE

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import numba_cuda
from tensorlite.backends.numba_cuda import elementwise, launching, linalg, reduce
from tensorlite.errors import KernelError, ShapeError

# threads of the simulator are Python's, and overflow to inf is no news there
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
each_float = pytest.mark.parametrize("d", [tl.float32, tl.float64], ids=["f4", "f8"])


class _OnceEach(dict):
    """Shared arrays of a block by the line that makes them; of two threads at a line the second waits for the first.

    The simulator's own dict may give each an array of its own.
    """

    def __init__(self):
        self.turn = threading.Lock()

    def get(self, line):
        self.turn.acquire()
        found = super().get(line)
        if found is not None:
            self.turn.release()
        return found

    def __setitem__(self, line, array):
        super().__setitem__(line, array)
        self.turn.release()


@pytest.fixture(autouse=True, scope="module")
def simulator():
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    assert launching.simulated()
    plain, interval = FakeCUDAShared.__init__, sys.getswitchinterval()

    def once(self, size):
        plain(self, size)
        self._allocations = _OnceEach()

    FakeCUDAShared.__init__ = once
    sys.setswitchinterval(1e-4)  # a thread that polls the others lets them go on
    yield
    FakeCUDAShared.__init__ = plain
    sys.setswitchinterval(interval)


@pytest.fixture
def small_tiles(monkeypatch):
    """Products in tiles of 4: a sixteenth of the threads, and more edges."""
    monkeypatch.setattr(linalg, "TILE", 4)
    linalg.kernel.cache_clear()
    yield
    linalg.kernel.cache_clear()


@pytest.fixture
def small_blocks(monkeypatch):
    """Reductions in blocks of few threads."""
    for name, threads in (("ACROSS", 4), ("DOWN", 2), ("FEW", 6)):
        monkeypatch.setattr(reduce, name, threads)
    reduce.kernel.cache_clear()
    yield
    reduce.kernel.cache_clear()


def arrays_of(tensors):
    return [None if t is None else t.numpy() for t in tensors]


def numba(name, tensors, outs, **kw):
    """What the kernel makes of tensors; ``outs`` the specs of its outputs, which begin as poison."""
    made = numba_cuda.kernel(name)(tuple(None if t is None else t._spec for t in tensors), outs, kw)
    arrays = [np.full(s.shape, 77, s.dtype.np) for s in outs]
    made(*arrays_of(tensors), *arrays)
    return arrays


def on_cpu(op, tensors, kernels, **kw):
    with config.KERNELS(kernels):
        made = TABLE[op].function(*tensors, **kw)
    return list(made) if isinstance(made, tuple) else [made]


def close(found, wanted, d, times=1):
    relative, absolute = (times * t for t in TOLERANCE.get(d, (0, 0)))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), relative, absolute)


def check(name, tensors, times=1, widened=True, **kw):
    """The kernel ``family.op`` against the op: in its dtype as it comes and, ``widened``, in float64 by NumPy."""
    op, d = name.split(".")[1], tensors[0].dtype
    same = on_cpu(op, tensors, "native", **kw)
    found = numba(name, tensors, tuple(t._spec for t in same), **kw)
    close(found, same, d, times)
    if d.is_floating_point and widened:
        wide = [None if t is None else t.double() if t.is_floating_point() else t for t in tensors]
        close(found, on_cpu(op, wide, "plain", **kw), d, times)
    return found


def draw(shape, d, low=-2.0, high=2.0, seed=0):
    values = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return tl.tensor(np.round(values) if not d.is_floating_point else values).to(d)


# ---- map and zip
CONSTANTS = {
    "softplus": dict(beta=1.5, threshold=2.0),
    "leaky_relu": dict(slope=0.1),
    "elu": dict(alpha=1.3),
    "hardtanh": dict(low=-1.0, high=0.5),
}
PUBLIC = [op for op in elementwise.FORMULAS if elementwise.factory(op) and op not in ("zeros", "copy")]


def variants(op):
    """The constants to try an op with."""
    if op in ("gelu", "gelu_dx"):
        return [dict(approximate=False), dict(approximate=True)]
    return [CONSTANTS.get(op.removesuffix("_dx"), {})]


def inputs(op, d, *shapes):
    """Numbers from where the op is defined: above 0 for logarithms, roots, powers and what is divided by."""
    positive = op in ("log", "log2", "log10", "sqrt", "reciprocal", "div", "pow", "sqrt_dx", "log1p")
    return [draw(s, d, 0.2 if positive else -2.0, seed=k) for k, s in enumerate(shapes)]


@each_float
@pytest.mark.parametrize("op", PUBLIC)
def test_elementwise(op, d):
    two = len(elementwise.inputs_of(op)) == 2
    for kw in variants(op):
        name = f"elementwise.{op}"
        check(name, inputs(op, d, *[(3, 7)] * (1 + two)), **kw)
        turned = [t.t() for t in inputs(op, d, (3, 2), (2, 3))]
        check(name, [turned[0], turned[1].t()] if two else turned[:1], **kw)


@pytest.mark.parametrize(("op", "d"), [("add", tl.float32), ("exp", tl.float32), ("lt", tl.float64)])
def test_elementwise_shapes(op, d):
    two = len(elementwise.inputs_of(op)) == 2
    for shapes in ([(0, 3), (1, 3)], [(), ()], [(1,), (1,)], [(2, 3), ()], [(3, 1, 2), (4, 1)], [(2, 3, 4, 5)[::2], ()],
                   [(2, 3, 2, 2, 3), (3, 1, 2, 1)], [(300,), (300,)]):  # fmt: skip
        check(f"elementwise.{op}", inputs(op, d, *shapes)[: 1 + two])
    x = draw((4, 5, 6), d)
    for view in (x[::2, 1:, ::3], x.permute(2, 0, 1), x[1].expand(2, 5, 6), x[:, :, 3]):
        check(f"elementwise.{op}", [view, view[0]][: 1 + two])


def test_an_output_may_be_an_input():
    x = draw((3, 5), tl.float32)
    a = x.numpy().copy()
    numba_cuda.kernel("elementwise.mul")((x._spec, x._spec), (x._spec,), {})(a, a, a)
    np.testing.assert_array_equal(a, (x * x).numpy())


@pytest.mark.parametrize("d", [tl.int64, tl.int32, tl.int16, tl.int8, tl.uint8], ids=str)
def test_integers(d, small_blocks):
    low = 0 if d is tl.uint8 else -9
    for op in sorted(elementwise.INTEGERS - {"zeros", "copy", "relu_dx"}):
        given = [draw((5, 3), d, low, 9), draw((3,), d, low, 9, seed=1)]
        check(f"elementwise.{op}", given[: len(elementwise.inputs_of(op))])
    for op in ("sum", "amax", "amin") if d is tl.int64 else ("amax", "amin"):
        check(f"reduce.{op}", [draw((5, 3), d, low, 9)], dim=(0,), keepdim=False)


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1.0, -1.0, 90.0, -90.0, 800.0, -800.0]


@each_float
def test_infinities_and_nan(d, small_blocks):
    x = tl.tensor(SPECIAL, dtype=d)
    for op in PUBLIC:
        if len(elementwise.inputs_of(op)) == 1 and op not in ("silu", "sin", "cos", "gelu"):
            check(f"elementwise.{op}", [x], widened=False, **variants(op)[0])
    for op in ("maximum", "minimum", "add", "lt", "ge", "ne", "relu_dx"):
        check(f"elementwise.{op}", [x.reshape(-1, 1), x], widened=False)
    for op in ("amax", "amin", "sum"):
        for end in (2, 3, 11):
            check(f"reduce.{op}", [x[:end]], dim=(0,), keepdim=False)


# ---- reduce
def mean_of(x, **kw):
    """reduce.mean beside the CPU's, which is made of other ops."""
    wanted = x.mean(**kw)
    close(numba("reduce.mean", [x], (wanted._spec,), **kw), [wanted], x.dtype)


@each_float
def test_reduce(d, small_blocks):
    x = draw((3, 5, 2, 4), d)
    for view, dim in ((x, (0,)), (x, (1,)), (x, (3,)), (x, (0, 1, 2, 3)), (x, (0, 2)), (x, (1, 3)), (x[:, ::2], (1, 2)),
                      (x.permute(3, 1, 0, 2), (0,)), (x[:1, :1], (0,)), (x[0, 0, 0, 0], ()), (x[0, 0, 0, :1], (0,)),
                      (x[0, 0, 0].expand(3, 4), (0,)), (x[0, 0, 0].expand(3, 4), (1,)), (x[0, 0], ())):  # fmt: skip
        for op in ("sum", "amax", "amin") if view is x else ("sum",):
            check(f"reduce.{op}", [view], dim=dim, keepdim=False)
        if dim:
            mean_of(view, dim=dim, keepdim=True)
    check("reduce.sum", [draw((3, 0), d)], dim=(1,), keepdim=False)
    check("reduce.sum", [draw((0, 3), d)], dim=(0, 1), keepdim=False)
    check("reduce.amax", [draw((0, 3), d)], dim=(1,), keepdim=False)
    mean_of(draw((3, 0), d), dim=(1,), keepdim=False)


def test_reduce_in_blocks_of_256():
    d = tl.float32
    check("reduce.sum", [draw((2, 1001), d)], dim=(1,), keepdim=False)
    check("reduce.amax", [draw((70, 33), d)], dim=(0,), keepdim=False)


def test_long_reductions_in_chunks_have_the_same_bits_each_time(small_blocks, monkeypatch):
    """One output, several, several side by side; so long that the chunks' results make chunks again."""
    monkeypatch.setattr(reduce, "CHUNK", 16)
    for shape, dim in (((280,), (0,)), ((3, 40), (1,)), ((40, 9), (0,))):
        x = draw(shape, tl.float32)
        for op in ("sum", "amax"):
            first = check(f"reduce.{op}", [x], dim=dim, keepdim=False)
            again = numba(f"reduce.{op}", [x], (x.sum(dim)._spec,), dim=dim, keepdim=False)
            assert first[0].tobytes() == again[0].tobytes()
        mean_of(x, dim=dim, keepdim=False)


# ---- products
def test_matmul_in_tiles_of_sixteen():
    check("linalg.matmul", [draw((17, 18), tl.float32), draw((18, 5), tl.float32)], tx=False, tw=False)


@each_float
def test_matmul(d, small_tiles, monkeypatch):
    monkeypatch.setattr(linalg, "LAYERS", 4)  # blocks of batches: some take several
    for a, b in (((1, 1), (1, 1)), ((5, 9), (9, 4)), ((0, 4), (4, 2)), ((3, 0), (0, 2)), ((2, 3), (3, 0)),
                 ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((0, 3, 4), (4, 2))):  # fmt: skip
        x, w = draw(a, d), draw(b, d, seed=1)
        for tx in (False, True):
            for tw in (False, True):
                given = [x.mT.contiguous() if tx else x, w.mT.contiguous() if tw else w]
                if (tx, tw) == (False, False) or len(a) == len(b) == 2:
                    check("linalg.matmul", given, tx=tx, tw=tw)
    x = draw((6, 5, 4), d)
    check("linalg.matmul", [x[::2, 1:, ::3], x[:3, ::3, :3]], tx=False, tw=False)
    check("linalg.matmul", [x.permute(1, 0, 2), x[0].expand(5, 5, 4)], tx=False, tw=True)


@each_float
def test_linear(d, small_tiles):
    w, b = draw((5, 3), d), draw((5,), d)
    for x in (draw((4, 3), d), draw((2, 3, 3), d), draw((3,), d), draw((0, 3), d), draw((3, 4), d).t()):
        check("linalg.linear", [x, w, b])
        check("linalg.linear", [x, w, None])


# ---- recurrent layers
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}
# steps, rows, inputs, hidden; sizes of packed steps; how
LAYERS = [
    ((3, 2, 3, 5), None, dict(reverse=False, batch_first=False)),
    ((2, 3, 2, 3), None, dict(reverse=True, batch_first=True)),
    ((8, 3, 2, 3), [3, 2, 2, 1], dict(reverse=False, batch_first=False)),
    ((8, 3, 2, 3), [3, 2, 2, 1], dict(reverse=True, batch_first=False)),
    ((1, 1, 1, 1), None, dict(reverse=False, batch_first=False)),
    ((2, 0, 3, 2), None, dict(reverse=False, batch_first=False)),
    ((0, 0, 3, 2), None, dict(reverse=False, batch_first=True)),
    ((2, 2, 0, 2), None, dict(reverse=True, batch_first=False)),
]


QUICK = {"lstm": (0, 1, 3, 7), "gru": (1, 3, 6), "tanh": (2, 4), "relu": (1, 3, 5)}  # the others are slow


@pytest.mark.parametrize(
    ("layer", "k"),
    [
        pytest.param(layer, k, marks=() if k in quick else pytest.mark.slow)
        for layer, quick in QUICK.items()
        for k in range(len(LAYERS))
    ],
)
def test_layers(layer, k, small_tiles):
    (steps, batch, size, hidden), sizes, how = LAYERS[k]
    d = [tl.float32, tl.float64][k % 2]
    if steps == 0:
        steps = 2  # no rows, batch first
    name = layer if layer in ("lstm", "gru") else "rnn"
    kw = how if name != "rnn" else how | dict(nonlinearity=layer)
    gates = GATES[layer] * hidden
    lead = (steps,) if sizes else (batch, steps) if how["batch_first"] else (steps, batch)
    x = draw((*lead[:-1], 2 * lead[-1], size), d)[..., ::2, :]  # rows apart
    states = [draw((hidden, batch), d, seed=s).t() for s in range(1 + (name == "lstm"))]
    weights = [draw((gates, size), d), draw((gates, hidden), d, seed=1)]
    biases = [draw((gates,), d, seed=s) if k % 4 != 1 else None for s in (2, 3)]
    more = [None] if name == "lstm" else []
    sizes = None if sizes is None else tl.tensor(sizes)

    check(f"recurrent.{name}_layer", [x, *states, *weights, *biases, *more, sizes], 4, **kw)

    made = on_cpu(f"{name}_layer", [x, *states, *weights, *biases, *more, sizes], "plain", **kw)
    saved = {"lstm": made[3:], "gru": [*made[2:], made[0]]}.get(name, made[:1])
    g = [draw(tuple(t.shape), d, seed=9 + s) for s, t in enumerate(made[: 1 + len(states)])]
    g = [[*g], [g[0], *[None] * len(states)], [None, *g[1:]]][k % 3]
    outputs = {"lstm": 6, "gru": 6, "rnn": 5}[name]
    want = tuple(k != 3 or o % 2 == 0 for o in range(outputs)) + ((False,) if name == "lstm" else ())
    given = [x, *states, *weights, *saved, *more, sizes, *g]
    check_gradients(f"recurrent.{name}_layer_dx", given, want, **kw)


def check_gradients(name, given, want, **kw):
    """As ``check``, for outputs that ``want`` says."""
    op, d = name.split(".")[1], given[0].dtype
    same = on_cpu(op, given, "native", want=want, **kw)
    found = numba(name, given, tuple(t._spec for t in same), want=want, **kw)
    wide = [None if t is None else t.double() if t.is_floating_point() else t for t in given]
    for wanted in (same, on_cpu(op, wide, "plain", want=want, **kw)):
        close([a for a, w in zip(found, want) if w], [t for t, w in zip(wanted, want) if w], d, 4)


def test_sizes_that_do_not_fit_are_refused(small_tiles):
    x, h = draw((7, 2), tl.float32), draw((3, 2), tl.float32)
    given = [x, h, draw((2, 2), tl.float32), draw((2, 2), tl.float32), None, None, tl.tensor([3, 2, 2, 1])]
    with pytest.raises(ShapeError, match=r"batch_sizes \[3, 2, 2, 1\]"):
        numba("recurrent.rnn_layer", given, (x._spec, h._spec), nonlinearity="tanh", reverse=False, batch_first=False)


# ---- what is not ours, and arrays of others
def test_what_has_no_kernel():
    for name in ("conv.conv2d", "elementwise.where", "elementwise.gelu_tanh", "reduce.prod", "launching.empty"):
        assert numba_cuda.kernel(name) is None
    half = draw((2, 2), tl.float16)._spec
    for name, kw in (("elementwise.add", {}), ("reduce.sum", dict(dim=(0,), keepdim=False)), ("linalg.matmul", {})):
        assert numba_cuda.kernel(name)((half, half), (half,), kw) is None


class Device:
    """Memory of the CPU under the name of a GPU's, as the stand-in has it."""

    def __init__(self, array):
        self.held, self.shape, self.strides = array, array.shape, array.strides
        self.itemsize, self.flags = array.itemsize, array.flags
        self.__cuda_array_interface__ = array.__array_interface__


def test_arrays_of_the_emulated_device():
    x = draw((3, 4), tl.float32)
    y = np.zeros((3, 4), np.float32)
    run = numba_cuda.kernel("elementwise.add")((x._spec, x._spec), (x._spec,), {})
    given = Device(x.numpy()), Device(x.numpy()[0]), Device(y)
    with pytest.raises(KernelError, match="wanted NumPy arrays"):
        run(*given)
    with config.CUDA_EMULATION(1):
        run(*given)
    np.testing.assert_array_equal(y, (x + x[0]).numpy())


# ---- the page for users
def test_the_program_of_the_page_runs(capsys):
    text = (Path(__file__).resolve().parent.parent / "docs" / "numba.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(program.replace("256", "8"), "docs/numba.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out.startswith("tensor([-0.6667, -0.5000,  0.0000,  0.5000,  0.6667]")
