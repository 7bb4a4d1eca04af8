"""The tape: accumulation, order, memory, hooks, second order."""

import gc
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import AnomalyError, GradError


def leaf(*values):
    return tl.tensor(values, dtype=tl.float64, requires_grad=True)


def test_one_tensor_feeds_several_ops():
    x = leaf(1.0, 2.0, 3.0)
    y = x * x + x.exp() + x * 3
    (y + x).sum().backward()
    assert np.allclose(x.grad.numpy(), 2 * x.detach().numpy() + np.exp(x.detach().numpy()) + 4)


def test_diamonds_are_visited_once_all_gradients_are_in():
    x = leaf(2.0)
    a = x * 3
    b, c = a * a, a.exp()
    d = b * c
    e = d + b
    e.backward()
    a0 = 6.0
    want = 3 * (2 * a0 * np.exp(a0) + a0**2 * np.exp(a0) + 2 * a0)
    assert np.allclose(x.grad.numpy(), want)


def test_grad_accumulates_and_never_aliases():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = tl.ones(2, dtype=tl.float64)
    y = x + w
    y.backward(g)
    for a in (x.grad, w.grad):
        for b in (g, x, w, x.grad, w.grad):
            assert a is b or not np.shares_memory(a.numpy(), b.detach().numpy())
    before = x.grad
    (x + w).backward(g)
    assert x.grad is before and x.grad.tolist() == [2.0, 2.0]
    assert g.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.sum(),
        lambda x: x.t().reshape(-1).sum(),
        lambda x: x.expand(2, 2, 3).sum(),
        lambda x: x[::2].sum() + x.t()[1].sum(),
    ],
)
def test_grad_is_contiguous_and_owned(make):
    x = tl.ones(2, 3, dtype=tl.float64, requires_grad=True)
    make(x).backward()
    assert x.grad.numpy().flags.owndata and x.grad.is_contiguous() and x.grad.shape == x.shape
    x.grad += 1  # writable


def test_expanded_and_strided_gradients_arrive():
    x = leaf(1.0, 2.0, 3.0)
    (x * x).backward(tl.ones((), dtype=tl.float64).expand(3))
    assert x.grad.tolist() == [2.0, 4.0, 6.0]
    m = tl.ones(3, 2, dtype=tl.float64, requires_grad=True)
    (m * 2).backward(tl.arange(6, dtype=tl.float64).reshape(2, 3).t())
    assert m.grad.tolist() == [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]]


def test_long_chain_neither_recurses_nor_leaks():
    n = 100_000
    x = tl.ones(1, requires_grad=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        y = x
        for _ in range(n):
            y = y + 1
        alive = weakref.ref(y.grad_fn)
        y.backward()
        assert x.grad.tolist() == [1.0]
        del y
        assert alive() is None
    finally:
        sys.setrecursionlimit(limit)


def test_long_chain_of_views_and_dropped_graph():
    x = tl.ones(4, requires_grad=True)
    y = x * 1
    for _ in range(20_000):
        y = y.view(4)
    y.sum().backward()
    assert x.grad.tolist() == [1.0] * 4
    z = x * 1
    for _ in range(100_000):
        z = z * 1.0
    del z  # never gone back over


def step(x, w):
    h = (x @ w).relu()
    v = h[:, 0:2] * 2
    h = h.clone()
    h[:, 0:2] = v
    loss = (h.softmax(1).log() + h.max(1, keepdim=True).values).mean()
    loss.backward()
    w.grad = None


def test_memory_is_flat_without_the_garbage_collector():
    x, w = tl.rand(4, 3), tl.rand(3, 5).requires_grad_()
    for _ in range(50):
        step(x, w)
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        step(x, w)
        before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
        tracemalloc.stop()
        for _ in range(10_000):
            step(x, w)
        after = len(gc.get_objects())
        assert after - objects < 100, f"{after - objects} objects more after 10,000 steps"
        assert before >= 0
        assert gc.collect() < 100
    finally:
        gc.enable()


def test_backward_twice_is_refused_unless_retained():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_saved_values_are_freed_by_backward():
    x = tl.rand(10, requires_grad=True)
    h = x * 2
    alive = weakref.ref(h)
    y = (h * h).sum()
    del h
    assert alive() is not None
    y.backward()
    assert alive() is None


def test_only_what_wanted_rules_name_is_saved():
    x, w = tl.rand(3, 4), tl.rand(4, 2)
    w.requires_grad_()
    y = (x + 0) @ w  # x wants no gradient: its gradient would need w, w's needs x
    assert len(y.grad_fn.saved) == 1 and y.grad_fn.saved[0].shape == (3, 4)
    x2 = tl.rand(3, 4, requires_grad=True)
    y = x2 @ w.detach()
    assert len(y.grad_fn.saved) == 1 and y.grad_fn.saved[0].shape == (4, 2)


def test_stale_saved_values_are_refused():
    x = leaf(1.0, 2.0)
    y = x * 1
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    e = (x * 1).exp()  # its rule names the output
    e.mul_(2)
    a = (x * 1).exp()
    b = a * 1
    a.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        b.sum().backward()


def test_writes_that_no_rule_minds_are_fine():
    x = leaf(1.0, 2.0)
    y = x * 1
    z = y + 3
    y.mul_(5)
    z.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_inputs_argument_and_grad():
    x, w = leaf(2.0), leaf(3.0)
    h = x * w
    y = h * h
    y.backward(inputs=[x], retain_graph=True)
    assert x.grad.item() == 36.0 and w.grad is None
    gh, gw = tl.autograd.grad(y, [h, w])
    assert gh.item() == 12.0 and gw.item() == 24.0 and w.grad is None
    with pytest.raises(RuntimeError, match="not have been used"):
        tl.autograd.grad(x * 2, w)
    assert tl.autograd.grad(x * 2, w, allow_unused=True) == (None,)
    assert tl.autograd.grad(x * 2, w, materialize_grads=True)[0].item() == 0.0
    with pytest.raises(RuntimeError, match="does not require grad"):
        tl.autograd.grad(x * 2, tl.ones(1))


def test_grad_runs_only_what_leads_to_the_inputs():
    x, w = leaf(2.0), leaf(3.0)
    called = []
    a = w * 2
    a.register_hook(lambda g: called.append(1))
    tl.autograd.grad(x * x * a, x)
    assert not called


def test_second_and_third_order():
    x = leaf(2.0)
    (g,) = tl.autograd.grad(x**4.0, x, create_graph=True)
    (h,) = tl.autograd.grad(g, x, create_graph=True)
    (t,) = tl.autograd.grad(h, x)
    assert np.allclose([g.item(), h.item(), t.item()], [32.0, 48.0, 48.0])


def test_create_graph_accumulates_a_differentiable_grad():
    x = leaf(3.0)
    (x**3.0).backward(create_graph=True)
    penalty = (x.grad**2.0).sum()
    x.grad = None
    penalty.backward()
    assert np.allclose(x.grad.item(), 2 * 27.0 * 18.0)


def test_hooks():
    x = leaf(1.0, 2.0)
    seen = []
    h = x * 2
    handle = h.register_hook(lambda g: seen.append(g.tolist()))
    h2 = h.register_hook(lambda g: g * 10)
    (h * 3).sum().backward(retain_graph=True)
    assert seen == [[3.0, 3.0]] and x.grad.tolist() == [60.0, 60.0]
    handle.remove()
    with h2:
        pass
    x.grad = None
    (h * 3).sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [6.0, 6.0]


def test_leaf_hooks_see_the_total_once():
    x = leaf(1.0)
    seen = []
    x.register_hook(lambda g: seen.append(g.item()))
    after = []
    x.register_post_accumulate_grad_hook(lambda t: after.append(t.grad.item()))
    (x * 2 + x * 3).backward()
    assert seen == [5.0] and after == [5.0]


def test_retain_grad():
    x = leaf(1.0, 2.0)
    h = x * 2
    h.retain_grad()
    assert h.grad is None and h.retains_grad
    (h * h).sum().backward()
    assert h.grad.tolist() == [4.0, 8.0] and x.grad.tolist() == [8.0, 16.0]
    with pytest.raises(RuntimeError):
        tl.ones(1).retain_grad()


def test_grad_modes():
    x = leaf(1.0)
    with tl.no_grad():
        assert not (x * 2).requires_grad and not tl.is_grad_enabled()
        with tl.enable_grad():
            assert (x * 2).requires_grad
    with tl.inference_mode():
        assert not (x * 2).requires_grad and tl.is_inference_mode_enabled()

    @tl.no_grad()
    def f():
        return x * 2

    @tl.no_grad
    def g():
        yield tl.is_grad_enabled()
        yield tl.is_grad_enabled()

    assert not f().requires_grad
    it = g()
    assert next(it) is False and tl.is_grad_enabled() and next(it) is False
    before = tl.is_grad_enabled()
    with tl.set_grad_enabled(False):
        assert not tl.is_grad_enabled()
    assert tl.is_grad_enabled() == before
    tl.set_grad_enabled(False)
    assert not tl.is_grad_enabled()
    tl.set_grad_enabled(True)


def test_modes_are_a_threads_own():
    found = []
    with tl.no_grad():
        t = threading.Thread(target=lambda: found.append(tl.is_grad_enabled()))
        t.start()
        t.join()
    assert found == [True]


def test_several_outputs():
    x = tl.tensor([[1.0, 5.0], [7.0, 2.0]], dtype=tl.float64, requires_grad=True)
    values, indices = x.max(1)
    assert not indices.requires_grad
    (values * tl.tensor([2.0, 3.0], dtype=tl.float64)).sum().backward()
    assert x.grad.tolist() == [[0.0, 2.0], [3.0, 0.0]]
    x.grad = None
    a, b = x.unbind(0)  # a is never used
    (b * b).sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [14.0, 4.0]]
    assert a.grad_fn is not None


def test_gradient_argument_is_checked():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="scalar"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="shape"):
        (x * 2).backward(tl.ones(3, dtype=tl.float64))
    with pytest.raises(RuntimeError, match="does not require grad"):
        tl.ones(1).backward()
    with pytest.raises(TypeError):
        (x * 2).backward(1.0)


def test_requires_grad_rules():
    with pytest.raises(RuntimeError, match="floating point"):
        tl.arange(3).requires_grad_()
    x = leaf(1.0)
    with pytest.raises(RuntimeError, match="leaf"):
        (x * 2).requires_grad_(False)
    x.backward()
    x.requires_grad_(False)
    assert x.grad.item() == 1.0
    x.grad = None
    assert x.grad is None
    with pytest.raises(RuntimeError, match="wanted"):
        x.grad = tl.ones(2)


class Cube(tl.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3.0

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3.0 * x * x


class Exp(tl.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Split(tl.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        at = (x * 0).to(tl.int64)
        ctx.mark_non_differentiable(at)
        return x * k, x + k, at

    @staticmethod
    def backward(ctx, a, b, c):
        return a * ctx.k + b, None


def test_function():
    x = leaf(2.0)
    y = Cube.apply(x)
    assert y.grad_fn.name() == "CubeBackward"
    (g,) = tl.autograd.grad(y, x, create_graph=True)
    (h,) = tl.autograd.grad(g, x)
    assert g.item() == 12.0 and h.item() == 12.0
    (g,) = tl.autograd.grad(Exp.apply(x), x, create_graph=True)
    (h,) = tl.autograd.grad(g, x)
    assert np.allclose([g.item(), h.item()], np.exp(2.0))
    _, b, c = Split.apply(x, 5.0)
    assert not c.requires_grad
    b.backward()
    assert x.grad.item() == 1.0
    assert Cube.apply(tl.ones(1)).requires_grad is False
    with pytest.raises(RuntimeError):
        Cube()
    with tl.no_grad():
        assert not Cube.apply(x).requires_grad


def test_function_makes_no_cycle():
    gc.collect()
    gc.disable()
    try:
        x = leaf(2.0)
        for call in (lambda: Cube.apply(x), lambda: Exp.apply(x), lambda: Split.apply(x, 2.0)[0]):
            y = call()
            ref = weakref.ref(y.grad_fn)
            y.backward()
            del y
            assert ref() is None
            y = call()
            ref = weakref.ref(y.grad_fn)
            del y
            assert ref() is None
    finally:
        gc.enable()


def test_function_that_modifies_and_checks():
    class Double(tl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(3.0)
    h = x * 1
    out = Double.apply(h)
    assert out is h and h.grad_fn.name() == "DoubleBackward"
    h.backward()
    assert x.grad.item() == 2.0

    class Wrong(tl.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(x, x).backward()


def test_missing_rule_is_named():
    from tensorlite.autograd.op import TABLE
    from tensorlite.autograd.primitive import primitive

    @primitive(name="no_rule_here", elementwise=True)
    def no_rule_here_p(xp, x, out):
        out[...] = x

    try:
        with pytest.raises(GradError, match="no_rule_here"):
            no_rule_here_p(leaf(1.0)).backward()
    finally:
        del TABLE["no_rule_here"]


def test_a_fused_gradient_serves_where_no_second_order_is_asked_for():
    from tensorlite.autograd.op import TABLE
    from tensorlite.autograd.primitive import primitive

    used = []

    @primitive(name="cubed", elementwise=True)
    def cubed_p(xp, x, out):
        xp.power(x, 3, out)

    def fused(g, x):
        used.append(1)
        return g * 3.0 * x * x

    cubed_p.grad(x=lambda g, x: g * (x * x * 3.0))
    cubed_p.fused_grad(x=fused)
    try:
        x = leaf(2.0)
        cubed_p(x).backward()
        assert used and x.grad.item() == 12.0
        (g,) = tl.autograd.grad(cubed_p(x), x, create_graph=True)
        (h,) = tl.autograd.grad(g, x)
        assert len(used) == 1 and h.item() == 12.0
    finally:
        del TABLE["cubed"]


def test_a_fused_joint_gradient_and_single_outputs_saved():
    from tensorlite.autograd.op import TABLE
    from tensorlite.autograd.primitive import primitive

    used = []

    @primitive(name="both")
    def both_p(xp, x, w, out, out_sum):
        xp.multiply(x, w, out)
        xp.add(x, w, out_sum)

    both_p.spec(lambda x, w: (x, x))

    @both_p.grad
    def _(g, x, w, want):
        used.append("exact")
        return tuple(
            None if not wanted else (0 if g[0] is None else g[0] * other) + (0 if g[1] is None else g[1])
            for wanted, other in zip(want, (w, x))
        )

    @both_p.fused_grad
    def _(g, w, out, want):  # x is out / w: what a rule may name is an output by its own name
        used.append("fused")
        x = out / w
        return tuple((0 if g[0] is None else g[0] * other) + (0 if g[1] is None else g[1]) for other in (w, x))

    try:
        x, w = leaf(2.0), leaf(3.0)
        y, s = both_p(x, w)
        (y * 5 + s).backward()
        assert used == ["fused"] and x.grad.item() == 16.0 and w.grad.item() == 11.0
        s = both_p(x, w)[1]
        assert tl.autograd.grad(s, [x, w]) == (1.0, 1.0)  # the product is not used
        (g,) = tl.autograd.grad(both_p(x, w)[0], x, create_graph=True)
        assert used == ["fused", "fused", "exact"] and g.item() == 3.0
        assert tl.autograd.grad(g, w)[0].item() == 1.0
        y, s = both_p(x, w)
        s.mul_(2.0)  # no rule names it
        y.backward()
        y, s = both_p(x, w)
        y.mul_(2.0)
        with pytest.raises(GradError, match="modified by an inplace"):
            s.backward()
    finally:
        del TABLE["both"]


def test_anomaly_names_op_and_line_forward():
    x = tl.zeros(2, requires_grad=True)
    with tl.autograd.detect_anomaly(), pytest.raises(AnomalyError, match=r"log.*inf") as e:
        y = x.log()  # the line that is named
    assert "test_tape.py" in str(e.value) and "x.log()" in str(e.value)
    y = x.log()  # outside nothing is watched
    assert y.tolist()[0] == float("-inf")


def test_anomaly_names_op_and_line_backward():
    x = tl.zeros(2, dtype=tl.float64, requires_grad=True)
    with tl.autograd.detect_anomaly():
        y = x.sqrt().sum()
        with pytest.raises(AnomalyError, match="SqrtBackward0") as e:
            y.backward()
    assert "test_tape.py" in str(e.value) and "sqrt" in str(e.value)


def test_anomaly_names_the_module():
    class Root(tl.nn.Module):
        def forward(self, x):
            return x.sqrt()

    model = tl.nn.Sequential(tl.nn.Linear(2, 2), Root())
    x = tl.zeros(1, 2)
    with tl.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1.0)
    with tl.autograd.detect_anomaly(), pytest.raises(AnomalyError, match=r"sqrt.*nan.*in module Sequential\.1"):
        model(x)
    with tl.no_grad():
        model[0].bias.zero_()
    with tl.autograd.detect_anomaly():
        loss = model(x).sum()
        with pytest.raises(AnomalyError, match=r"SqrtBackward0.*in module Sequential\.1"):
            loss.backward()
    assert model(x).sum().item() == 0.0  # nothing is tracked any more


def test_a_switch_finds_the_first_nan():
    with tl.config.NAN(1), pytest.raises(AnomalyError, match="div"):
        tl.zeros(1) / 0
    assert (tl.zeros(1) / 0).isnan().all()


def test_nodes_tell_their_graph():
    x = leaf(1.0)
    y = (x * 2) + 1
    assert y.grad_fn.name() == "AddBackward0"
    ((mul, index),) = y.grad_fn.next_functions
    assert mul.name() == "MulBackward0" and index == 0
    assert mul.next_functions[0][0].name() == "AccumulateGrad"
    assert x.grad_fn is None and x.is_leaf and not y.is_leaf
