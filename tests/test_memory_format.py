"""Memory formats: channels_last and contiguous by PyTorch's rule, in ops, views, gradients, copies and files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from ops_harness import cases, implementation, implementations, inconsistent, runs_of

import tensorlite as tl
from tensorlite.autograd.op import TABLE
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, format_in, format_of, spec_of
from tensorlite.autograd.tensor import is_dense

SHAPE = (2, 3, 4, 5)
ROWS, LAST = (60, 20, 5, 1), (60, 1, 15, 3)  # the strides of SHAPE in either format


def values(*shape, seed=0):
    return tl.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.fixture
def x():
    return values(*SHAPE)


@pytest.fixture
def y(x):
    return x.contiguous(memory_format=tl.channels_last)


# ---- specs
def test_a_spec_says_how_memory_lies(x, y):
    assert x._spec.format is CONTIGUOUS and y._spec.format is CHANNELS_LAST
    assert tl.from_numpy(np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2))._spec.format is CHANNELS_LAST
    assert tl.from_numpy(np.zeros((2, 4, 5, 3)).transpose(0, 3, 2, 1))._spec.format is STRIDED
    assert tl.from_numpy(np.zeros((2, 4, 5, 6)).transpose(0, 3, 1, 2)[:, ::2])._spec.format is STRIDED


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 3, 1, 1), (0, 3, 4, 5), (2, 3, 0, 5)])
def test_where_both_formats_hold_the_spec_is_contiguous(shape):
    t = tl.zeros(shape).to(memory_format=tl.channels_last)
    assert t._spec.format is CONTIGUOUS and spec_of(shape, tl.float32, format=CHANNELS_LAST).format is CONTIGUOUS
    assert t.is_contiguous() and t.is_contiguous(memory_format=tl.channels_last)


def test_a_channels_last_spec_allocates_so():
    spec = spec_of(SHAPE, tl.float32, format=CHANNELS_LAST)
    array = spec.empty()
    assert array.strides == tuple(4 * s for s in LAST) and array.base is None
    assert spec.strides == LAST and spec.laid(CONTIGUOUS).strides == ROWS and spec.strided().strides is None
    with pytest.raises(ValueError, match="wanted 4 dimensions"):
        spec_of((2, 3), tl.float32, format=CHANNELS_LAST)


def test_format_in():
    assert format_in(SHAPE, ROWS) is CONTIGUOUS and format_in(SHAPE, LAST) is CHANNELS_LAST
    assert format_in(SHAPE, (60, 20, 1, 4)) is STRIDED and format_in((3, 4), (1, 3)) is STRIDED
    assert format_in((1, 3, 4, 5), (7, 1, 15, 3)) is CHANNELS_LAST  # the stride of a size 1 does not matter


def test_format_of_inputs(x, y):
    number, bias = tl.tensor(1.0)._spec, tl.ones(3, 1, 1)._spec
    assert format_of(y._spec, number) is format_of(bias, y._spec) is format_of(y._spec, None) is CHANNELS_LAST
    assert format_of(x._spec, y._spec) is format_of(x._spec, bias) is CONTIGUOUS
    assert format_of(y._spec, x._spec) is CHANNELS_LAST
    assert format_of(tl.ones(1, 3, 4, 5)._spec, y._spec) is CONTIGUOUS
    stretched = tl.tensor(1.0).expand(SHAPE)._spec
    assert stretched.format is format_of(stretched, number) is format_of(x.mT._spec) is STRIDED
    assert format_of(stretched, y._spec) is format_of(y._spec, stretched) is CHANNELS_LAST
    assert format_of(stretched, x._spec) is CONTIGUOUS and format_of(stretched, bias) is STRIDED
    assert format_of(y._spec, tl.ones(2, 2, 3, 4, 5)._spec) is STRIDED
    assert format_of(tl.ones(2, 2, 3, 4, 5)._spec, y._spec) is CONTIGUOUS
    assert format_of(tl.ones(2, 0)._spec, tl.ones(3, 1, 1).mT.expand(3, 2, 1)._spec) is CONTIGUOUS


def test_the_gradient_of_a_mean_is_as_quick_as_any(x, y):
    """It arrives stretched; what an op makes of it beside another input has that one's format."""
    for t, strides in ((x, ROWS), (y, LAST)):
        p = t.clone().requires_grad_()
        seen = []
        q = p * 2.0
        q.register_hook(seen.append)
        q.relu().mean().backward()
        assert seen[0].stride() == p.grad.stride() == strides and seen[0]._spec.format is t._spec.format


# ---- ops
ELEMENTWISE = {
    "add": lambda y: y + y,
    "number": lambda y: 1.5 * y - 2,
    "bias": lambda y: y + tl.arange(3.0).view(3, 1, 1),
    "bias first": lambda y: tl.arange(3.0).view(1, 3, 1, 1) * y,
    "other format": lambda y: y * y.contiguous(),
    "relu": lambda y: y.relu(),
    "sigmoid": lambda y: tl.sigmoid(y),
    "gelu": lambda y: tl.nn.functional.gelu(y),
    "clamp": lambda y: y.clamp(-0.5, 0.5),
    "pow": lambda y: y**2,
    "where": lambda y: tl.where(y > 0, y, 0.5 * y),
    "comparison": lambda y: (y > 0).to(tl.float32),
    "double": lambda y: y.double().float(),
    "half": lambda y: y.half() + 1,
    "dropout": lambda y: tl.nn.functional.dropout(y, 0.0),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_keep_channels_last(name, y):
    got, want = ELEMENTWISE[name](y), ELEMENTWISE[name](y.contiguous())
    assert got.stride() == LAST and got._spec.format is CHANNELS_LAST and want.stride() == ROWS
    assert got._arr.transpose(0, 2, 3, 1).flags.c_contiguous
    assert np.array_equal(got._arr, want._arr)


def test_compiled_kernels_take_what_lies_alike(y):
    if not tl.backends.cpu.kernel_names():
        pytest.skip("no compiled kernels")
    other = y.contiguous()
    for op, args, native in (
        (tl.relu, (y,), True),
        (tl.add, (y, y), True),
        (tl.mul, (y, tl.tensor(2.0)), True),
        (tl.mul, (y, other), False),
    ):
        entry = op.op.entry(tuple(a._spec for a in args), {})
        assert entry.native is native, (op.op.name, args)


# ---- views
def test_views(y):
    assert y[:1]._spec.format is y.narrow(0, 1, 1)._spec.format is y.chunk(2)[0]._spec.format is CHANNELS_LAST
    assert y[:, :2]._spec.format is STRIDED and y[:, :2].stride() == LAST
    assert y.permute(0, 2, 3, 1)._spec.format is CONTIGUOUS
    assert values(2, 4, 5, 3).permute(0, 3, 1, 2)._spec.format is CHANNELS_LAST
    assert y.unbind(0)[0].stride() == LAST[1:]
    assert y.view(2, 3, 20).stride() == (60, 1, 3)
    assert y.view(y.shape)._spec is y._spec and y.expand(2, 3, 4, 5)._spec is y._spec
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        y.view(2, -1)
    assert np.array_equal(y.reshape(2, -1)._arr, y.contiguous().view(2, -1)._arr)
    assert np.array_equal(y.flatten(1)._arr, y.contiguous().flatten(1)._arr)


# ---- the public face
def test_names():
    assert repr(tl.channels_last) == "tensorlite.channels_last" and isinstance(tl.channels_last, tl.memory_format)
    assert repr(tl.contiguous_format) == "tensorlite.contiguous_format"
    for f in (tl.channels_last, tl.contiguous_format, tl.preserve_format, tl.channels_last_3d):
        assert pickle.loads(pickle.dumps(f)) is f and copy.deepcopy(f) is f


def test_refusals(x):
    for call in (x[0].contiguous, x[0].to, x[0].clone, tl.zeros_like.__get__(x[0])):
        with pytest.raises(RuntimeError, match="required rank 4 tensor"):
            call(memory_format=tl.channels_last)
    with pytest.raises(TypeError, match="memory_format is str"):
        x.contiguous(memory_format="channels_last")
    with pytest.raises(NotImplementedError, match="channels_last_3d is not supported"):
        values(1, 2, 3, 4, 5).to(memory_format=tl.channels_last_3d)
    with pytest.raises(NotImplementedError, match="channels_last_3d is not supported"):
        tl.nn.Linear(2, 2).to(memory_format=tl.channels_last_3d)
    with pytest.raises(RuntimeError, match="preserve_format"):
        x.mT.contiguous(memory_format=tl.preserve_format)
    with pytest.raises(RuntimeError, match="preserve_format"):
        tl.empty(2, 3, 4, 5, memory_format=tl.preserve_format)
    assert not x[0].is_contiguous(memory_format=tl.channels_last)


def test_copies(x, y):
    last, rows = tl.channels_last, tl.contiguous_format
    assert y.contiguous(memory_format=last) is y and x.contiguous() is x and y.contiguous().stride() == ROWS
    assert x.to(memory_format=last).stride() == x.clone(memory_format=last).stride() == LAST
    assert y.clone().stride() == y.to(tl.float64).stride() == y.to("cpu", copy=True).stride() == LAST
    assert y.clone(memory_format=rows).stride() == y.to(tl.float64, memory_format=rows).stride() == ROWS
    assert y.cpu(memory_format=rows).stride() == y.float(memory_format=rows).stride() == ROWS
    assert y.to(memory_format=tl.preserve_format) is y and y.float() is y and y.cpu() is y
    assert y.clone()._arr is not y._arr and np.array_equal(y.clone()._arr, y._arr)
    assert tl.zeros_like(y).stride() == tl.full_like(y, 2).stride() == tl.empty_like(y).stride() == LAST
    assert tl.zeros_like(y, memory_format=rows).stride() == y.new_zeros(y.shape).stride() == ROWS
    assert tl.empty(*SHAPE, memory_format=last).stride() == LAST


def test_copies_of_what_has_no_format():
    m = values(4, 6)
    assert m.t().clone().stride() == (1, 6) and m[:, ::2].clone().stride() == (3, 1)
    assert m[:1].expand(4, 6).clone().stride() == (6, 1) and m[::2].t().clone().stride() == (2, 1)
    assert np.array_equal(m.t().clone()._arr, m.t()._arr)
    assert values(*SHAPE)[0].clone().stride() == ROWS[1:]


def test_modules():
    net = tl.nn.Sequential(tl.nn.Conv2d(3, 4, 3), tl.nn.BatchNorm2d(4), tl.nn.Linear(2, 2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert net.to(memory_format=tl.channels_last) is net
    assert net[0].weight.stride() == (27, 1, 9, 3) and net[2].weight.stride() == (2, 1)
    after = net.state_dict()
    assert all(np.array_equal(before[k]._arr, after[k]._arr) for k in before)
    assert net.to(memory_format=tl.contiguous_format)[0].weight.stride() == (27, 9, 3, 1)
    assert net.to(tl.float64, memory_format=tl.channels_last)[0].weight.dtype is tl.float64


def test_pickle_and_deepcopy(y):
    for copied in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y)):
        assert copied.stride() == LAST and copied._spec is y._spec and np.array_equal(copied._arr, y._arr)
    p = tl.nn.Parameter(y)
    again = pickle.loads(pickle.dumps(p))
    assert isinstance(again, tl.nn.Parameter) and again.stride() == LAST and again.requires_grad


# ---- every element-wise op, from its cases
def four_dimensional(tensors: list, shape: tuple) -> list:
    """The inputs of an element-wise call repeated to 4 dimensions that channels_last tells from contiguous."""
    full = (1,) * (4 - len(shape)) + shape
    made = []
    for t in tensors:
        if t is not None and t.ndim:
            own = (1,) * (4 - t.ndim) + tuple(t.shape)
            array = np.tile(t._arr.reshape(own), [f if n == m else 1 for n, m, f in zip(own, full, (2, 3, 2, 1))])
            t = tl.from_numpy(array)
        made.append(t)
    return made


def lain(t, last: bool):
    if t is None or t.ndim != 4:
        return t
    return t.contiguous(memory_format=tl.channels_last if last else tl.contiguous_format)


@pytest.mark.parametrize("name", [n for n, op in TABLE.items() if getattr(op, "elementwise", False)])
def test_every_elementwise_op_gives_the_same_in_channels_last(name):
    """Values have the same bits in either layout, and gradients agree, in compiled and in plain kernels."""
    op = TABLE[name]
    seen = 0
    for impl in implementations(op):
        with implementation(impl):
            for case in cases(op, tl.float32):
                for arrays, kw, _ in runs_of(case):
                    given = [None if a is None else tl.from_numpy(a.copy()) for a in arrays]
                    shape = tuple(op.function(*given, **kw).shape)
                    if 0 in shape or len(shape) > 3:
                        continue
                    seen += both_layouts(op, four_dimensional(given, shape), kw)
    assert seen


def both_layouts(op, tensors: list, kw: dict) -> bool:
    results = []
    for last in (False, True):
        args = [lain(t, last) for t in tensors]
        if op.differentiable:
            args = [t.detach().requires_grad_() if t is not None and t.is_floating_point() else t for t in args]
        y = op.function(*args, **kw)
        assert inconsistent(y) is None
        if last:
            assert y._spec.format is format_of(*(a._spec for a in args if a is not None)) or name_of_contiguous(op)
        found = [y.detach()]
        if y.requires_grad:
            g = lain(values(*y.shape, seed=1).to(y.dtype), last)
            leaves = [a for a in args if a is not None and a.requires_grad]
            found += [t for t in tl.autograd.grad(y, leaves, g, allow_unused=True) if t is not None]
        results.append(found)
    for k, (a, b) in enumerate(zip(*results, strict=True)):
        assert inconsistent(b) is None
        if k:  # a gradient may be a sum, in another order
            assert np.allclose(a._arr, b._arr, 1e-5, 1e-5, equal_nan=True)
        else:
            assert np.array_equal(a._arr, b._arr, equal_nan=True)
    return any(t is not None and t.ndim == 4 for t in tensors)


def name_of_contiguous(op) -> bool:
    return op.name == "masked_fill"  # its result is contiguous in PyTorch, too


@pytest.mark.parametrize("name", [n for n, op in TABLE.items() if getattr(op, "elementwise", False)])
def test_every_elementwise_op_takes_layouts_that_differ(name):
    """One input at a time in another layout than the others: contiguous, channels_last or with gaps, in two orders."""
    op, rng = TABLE[name], np.random.default_rng(3)
    for impl in implementations(op):
        with implementation(impl):
            for case in cases(op, tl.float32):
                for arrays, kw, _ in runs_of(case):
                    given = [None if a is None else tl.from_numpy(a.copy()) for a in arrays]
                    shape = tuple(op.function(*given, **kw).shape)
                    if 0 in shape or len(shape) > 3:
                        continue
                    tensors = four_dimensional(given, shape)
                    wanted = op.function(*tensors, **kw)._arr
                    for _ in range(4):
                        mixed = [lain_at_random(t, rng) for t in tensors]
                        y = op.function(*mixed, **kw)
                        # compiled and plain kernels may differ in the last bit, and the layout chooses between them
                        assert inconsistent(y) is None and np.allclose(y._arr, wanted, 1e-6, 1e-6, equal_nan=True)


def lain_at_random(t, rng):
    if t is None or t.ndim != 4:
        return t
    way = rng.integers(4)
    if way < 2:
        return lain(t, bool(way))
    room = tl.zeros(*t.shape[:3], 2 * t.shape[3], dtype=t.dtype)
    gaps = room[..., ::2] if way == 2 else room.view(*t.shape[:2], 2 * t.shape[3], t.shape[2])[:, :, ::2].mT
    gaps.copy_(t)
    return gaps


# ---- gradients and effects
def test_a_gradient_lies_as_its_leaf_does(y):
    for use in (
        lambda p: (p.contiguous() * 2.0).sum(),
        lambda p: (p * y).sum(),
        lambda p: p.sum(),
        lambda p: p[:1].sum() + (p * p).sum(),
        lambda p: (p.permute(0, 2, 3, 1) ** 2).sum(),
    ):
        p, q = y.clone().requires_grad_(), y.contiguous().requires_grad_()
        for t in (p, q):
            use(t).backward()
            use(t).backward()
        assert p.grad.stride() == LAST and p.grad._spec.format is CHANNELS_LAST and q.grad._spec.format is CONTIGUOUS
        assert inconsistent(p.grad) is inconsistent(q.grad) is None
        assert np.allclose(p.grad._arr, q.grad._arr, 1e-6)


def test_a_matrix_gets_a_contiguous_gradient():
    w = values(3, 4).requires_grad_()
    (w.t() * values(4, 3)).sum().backward()
    assert w.grad._spec.format is CONTIGUOUS and inconsistent(w.grad) is None


def test_gradients_by_create_graph_and_hooks(y):
    p = y.clone().requires_grad_()
    (g,) = tl.autograd.grad((p**3).sum(), p, create_graph=True)
    (gg,) = tl.autograd.grad(g.sum(), p)
    assert np.allclose(gg._arr, 6 * y._arr, 1e-5)
    p.register_hook(lambda g: g * 2)
    (p * 1.0).sum().backward()
    assert p.grad.stride() == LAST and (p.grad == 2).all()


def test_in_place_keeps_the_layout(x, y):
    wanted = np.maximum(2 * y._arr + x._arr, 0)
    memory = y._arr
    y.mul_(2).add_(x).relu_()
    assert y._arr is memory and y.stride() == LAST and np.array_equal(y._arr, wanted)
    x.add_(y)
    assert x.stride() == ROWS and np.array_equal(x._arr, values(*SHAPE)._arr + wanted)
    y[:, 1] = 7.0
    assert (y._arr[:, 1] == 7).all() and y.stride() == LAST
    y.copy_(x)
    assert y.stride() == LAST and np.array_equal(y._arr, x._arr)
    assert tl.zeros(SHAPE).copy_(y).stride() == ROWS


def test_in_place_on_the_tape(y):
    p = y.clone().requires_grad_()
    z = p * 2
    z.mul_(y).add_(1.0)
    z[:1].mul_(3.0)
    z.sum().backward()
    q = y.contiguous().requires_grad_()
    r = q * 2
    r = r * y + 1.0
    (r[:1].sum() * 3 + r[1:].sum()).backward()
    assert np.allclose(p.grad._arr, q.grad._arr, 1e-6)


def test_out(x, y):
    new, rows, last = tl.empty(0), tl.empty(SHAPE), tl.empty(SHAPE, memory_format=tl.channels_last)
    assert tl.add(y, y, out=new).stride() == LAST and inconsistent(new) is None
    assert tl.add(y, y, out=rows).stride() == ROWS and tl.add(x, x, out=last).stride() == LAST
    assert np.array_equal(rows._arr, 2 * y._arr) and np.array_equal(last._arr, rows._arr)
    assert tl.add(y, y, out=tl.empty(0, dtype=tl.float64)).stride() == LAST


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizers_on_channels_last_parameters(optimizer, y):
    """Parameters, gradients and states lie alike, and a step gives what it gives to contiguous ones."""
    ends = []
    settings = {"momentum": 0.9} if optimizer in ("SGD", "RMSprop") else {}
    for p in (tl.nn.Parameter(y.clone()), tl.nn.Parameter(y.contiguous())):
        opt = getattr(tl.optim, optimizer)([p], lr=0.1, **settings)
        for k in range(3):
            opt.zero_grad()
            ((p - k) ** 2).sum().backward()
            opt.step()
        states = [t for t in opt.state[p].values() if isinstance(t, tl.Tensor) and t.dim() == 4]
        assert states and all(t.stride() == p.stride() == p.grad.stride() for t in states)
        assert all(is_dense(t._arr) for t in (p, p.grad, *states))
        ends.append(p)
    assert ends[0].stride() == LAST and np.allclose(ends[0]._arr, ends[1]._arr, 1e-6, 1e-7)


def test_is_dense():
    a = np.zeros((4, 6, 2))
    assert is_dense(a) and is_dense(a.T) and is_dense(a.transpose(1, 0, 2)) and is_dense(a[:1])
    assert not is_dense(a[::2]) and not is_dense(a[:, :, 0]) and not is_dense(np.broadcast_to(a[:1], a.shape))
    assert is_dense(np.zeros(())) and is_dense(a[:0])


# ---- files
def test_checkpoints_keep_values(tmp_path):
    net = tl.nn.Conv2d(3, 4, 3).to(memory_format=tl.channels_last)
    tl.save(net.state_dict(), tmp_path / "net.pt")
    loaded = tl.load(tmp_path / "net.pt")
    assert all(
        np.array_equal(loaded[k]._arr, v._arr) and inconsistent(loaded[k]) is None for k, v in net.state_dict().items()
    )
    other = tl.nn.Conv2d(3, 4, 3).to(memory_format=tl.channels_last)
    other.load_state_dict(loaded)
    assert other.weight.stride() == (27, 1, 9, 3) and np.array_equal(other.weight._arr, net.weight._arr)
    plain = tl.nn.Conv2d(3, 4, 3)
    plain.load_state_dict(net.state_dict())
    assert plain.weight.stride() == (27, 9, 3, 1) and np.array_equal(plain.weight._arr, net.weight._arr)
    again = copy.deepcopy(net)
    assert again.weight.stride() == (27, 1, 9, 3) and np.array_equal(again.weight._arr, net.weight._arr)


# ---- beside PyTorch
PROGRAMS = """
y.clone() ; y.double() ; y.to(lib.float64) ; y.half() ; y.cpu() ; y.to(x) ; x.to(y) ; y.type(lib.float64)
y.contiguous() ; y.clone(memory_format=rows) ; x.clone(memory_format=last) ; y.float(memory_format=rows)
x.to(lib.float64, memory_format=last) ; y.to(memory_format=rows) ; y.to(memory_format=keep) ; y.bool()
x.contiguous(memory_format=keep) ; y.to('cpu', copy=True) ; y.clone(memory_format=keep) ; lib.zeros_like(y)
lib.ones_like(y) ; lib.empty_like(y) ; lib.full_like(y, 2) ; y.new_zeros(y.shape) ; lib.rand_like(y)
lib.randn_like(y) ; lib.randint_like(y, 4) ; lib.rand_like(y, memory_format=rows)
lib.zeros_like(x, memory_format=last) ; lib.empty(2, 3, 4, 5, memory_format=last) ; x + y ; y + x ; y * 2 ; 2 - y
-y ; y ** 2 ; y > 0 ; y == x ; lib.where(y > 0, y, x) ; lib.where(x > 0, y, x) ; lib.ones(3, 1, 1) + y
y + lib.ones(3, 1, 1) ; lib.ones(2, 1, 4, 5) + y ; lib.ones(1, 3, 4, 5) + y ; y + lib.ones(1, 3, 4, 5)
lib.ones(2, 3, 1, 1) * y ; lib.ones(5) * y ; y.masked_fill(y > 0, 1.0) ; lib.maximum(y, x) ; lib.clamp(y, 0, 1)
y.abs().sqrt().exp() ; lib.lerp(y, x, 0.5) ; lib.addcmul(y, x, x) ; y.relu() ; y.sigmoid().tanh() ; F.gelu(y)
F.silu(y) ; F.prelu(y, lib.ones(3)) ; F.dropout(y) ; F.leaky_relu(y) ; F.hardtanh(y) ; F.elu(y) ; F.softplus(y)
F.normalize(y) ; y.relu_() ; y.add_(x) ; x.add_(y) ; lib.empty(2, 3, 4, 5).copy_(y)
lib.add(y, y, out=lib.empty(0)) ; lib.add(y, y, out=lib.empty(2, 3, 4, 5)) ; lib.add(x, x, out=lib.zeros_like(y))
lib.cat([y, y], 1) ; lib.cat([y, y]) ; lib.cat([x, y], 1) ; lib.cat([y, x], 1) ; lib.cat([y, y], 3)
F.pad(y, (1, 1, 1, 1)) ; F.pad(y, (1, 1, 1, 1), mode='reflect') ; F.pad(y, (1, 1, 1, 1), mode='replicate')
F.interpolate(y, scale_factor=2) ; F.interpolate(y, size=(3, 7), mode='bilinear') ; y.flip(3)
y.sum(1, keepdim=True) ; y.sum(0, keepdim=True) ; y.mean((2, 3)) ; y.cumsum(1) ; y.softmax(1) ; y.log_softmax(1)
lib.stack([x, x]) ; y.tril() ; y.index_select(1, lib.tensor([0, 1])) ; y[:, :2] ; y[:1] ; y[0]
y[:, :, ::2].clone() ; y[0].clone() ; y.permute(0, 2, 3, 1) ; x.permute(0, 3, 1, 2) ; y.view(2, 3, 20)
y.chunk(3, 1)[0] ; y.expand(2, 3, 4, 5) ; y.mT ; y.detach() ; y.data ; x.permute(0, 3, 1, 2).relu()
x.permute(0, 3, 1, 2).clone() ; x.mT.clone() ; x[0, 0].t().clone() ; x[0, 0, :, ::2].clone() ; y.repeat(1, 1, 1, 2)
lib.relu(x.permute(0, 3, 1, 2)) + x.permute(0, 3, 1, 2) ; (y * 2).contiguous().add(y)
lib.broadcast_to(y, (2, 3, 4, 5)) ; y.reshape(2, 60).stride() and x ; y.swapaxes(1, 3)
"""


@pytest.mark.parity
@pytest.mark.parametrize("program", [p.strip() for p in PROGRAMS.replace("\n", ";").split(";") if p.strip()])
def test_strides_are_pytorchs(program, x):
    torch = pytest.importorskip("torch")
    strides, numbers = [], []
    for lib, given in ((tl, x), (torch, torch.from_numpy(x._arr.copy()))):
        names = {"rows": lib.contiguous_format, "last": lib.channels_last, "keep": lib.preserve_format}
        names |= {"lib": lib, "F": lib.nn.functional, "x": given, "y": given.to(memory_format=lib.channels_last)}
        y = eval(program, names)
        strides.append((tuple(y.shape), tuple(y.stride())))
        numbers.append(y.float().contiguous().numpy())
        assert lib is torch or inconsistent(y) is None
    assert strides[0] == strides[1]
    if not any(word in program for word in ("rand", "dropout", "lib.empty_like(y)", "lib.empty(2, 3, 4, 5, m")):
        np.testing.assert_allclose(*numbers, 1e-3, 1e-5)


@pytest.mark.parity
def test_a_convolutional_net_stays_channels_last_as_pytorchs_does():
    """Every layer's output and every leaf's gradient lie as in PyTorch; values agree, and the gradients between stay
    channels_last, too (PyTorch's batch norm turns some of them round)."""
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tl, torch):
        nn, last = lib.nn, lib.channels_last
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.0)]
        layers += [nn.Conv2d(8, 6, 3, stride=2, bias=False), nn.ReLU(), nn.AvgPool2d(2, 1)]
        net = nn.Sequential(*layers)
        for k, p in enumerate(net.parameters()):
            p.data = lib.from_numpy(values(*p.shape, seed=k).numpy()).to(lib.float64) * 0.3
        net.to(lib.float64).to(memory_format=last)
        y = lib.from_numpy(values(2, 3, 16, 16).numpy()).to(lib.float64).to(memory_format=last).requires_grad_()
        outputs = [y]
        for layer in net:
            outputs.append(layer(outputs[-1]))
            outputs[-1].retain_grad()
            assert lib is torch or outputs[-1].is_contiguous(memory_format=last)
        (outputs[-1] ** 2).mean().backward()
        between = [t.grad for t in outputs[1:]]
        assert lib is torch or all(g.is_contiguous(memory_format=last) for g in between)
        tensors = [*outputs, y.grad, *net.parameters(), *(p.grad for p in net.parameters())]
        strides = [tuple(t.stride()) for t in tensors]
        found.append((strides, [t.detach().contiguous().numpy() for t in (*tensors, *between)]))
    assert found[0][0] == found[1][0]
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-8, 1e-10)
