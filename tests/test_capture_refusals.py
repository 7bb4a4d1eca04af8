"""What compiled functions refuse, and that a refusal leaves no trace."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
from capture_harness import OFF, batches, everything, net, same, training

import tensorlite as tl
from tensorlite.autograd import recording, run
from tensorlite.errors import CaptureError, GradError

F, RNG = tl.nn.functional, np.random.default_rng(0)

READS = {
    "item": lambda y: y.sum().item(),
    "bool": lambda y: 1 if y.sum() > 0 else 2,
    "float": lambda y: float(y.sum()),
    "int": lambda y: int(y.sum()),
    "numpy": lambda y: y.numpy(),
    "asarray": lambda y: np.asarray(y),
    "tolist": lambda y: y.tolist(),
    "repr": lambda y: repr(y),
    "str": lambda y: f"{y}",
    "format": lambda y: f"{y.sum():.3f}",
    "index": lambda y: [1, 2, 3][y.long().sum()],
    "range": lambda y: list(range(y.long().sum())),
    "contains": lambda y: 2.0 in y,
    "mask": lambda y: y[y > 0],
    "nonzero": lambda y: y.nonzero(),
    "unique": lambda y: y.unique(),
    "tensor": lambda y: tl.tensor(y),
}


@pytest.mark.parametrize("name", READS)
def test_reading_numbers_on_the_host(name):
    """Raises, names the line, says what to do, and leaves nothing behind."""

    def f(x):
        return x * 2, READS[name](x * 2)

    compiled = tl.compile(f)
    with pytest.raises(CaptureError, match=r"return the tensor and read it outside[\s\S]*test_capture_refusals"):
        compiled(tl.ones(3))
    assert recording.recorder is None and run.seam is None
    assert tl.ones(2).tolist() == [1, 1]


def test_nested_compiled_functions():
    inner = tl.compile(lambda x: x + 1)
    outer = tl.compile(lambda x: inner(x) * 2)
    with pytest.raises(CaptureError, match=r"\.fn"):
        outer(tl.ones(2))
    inner(tl.ones(2))  # it has a program now
    with pytest.raises(CaptureError, match=r"\.fn"):
        outer(tl.ones(2))
    assert tl.compile(lambda x: inner.fn(x) * 2)(tl.ones(2)).tolist() == [4, 4]


def test_numbers_made_by_numpy():
    f = tl.compile(lambda x: x + tl.from_numpy(RNG.random(3, np.float32)))
    with pytest.raises(CaptureError, match="does not do the same twice"):
        for _ in range(3):
            f(tl.ones(3))
    f = tl.compile(lambda x: x * float(RNG.random()))
    with pytest.raises(CaptureError, match="does not do the same twice"):
        for _ in range(3):
            f(tl.ones(3))


def test_results_kept_in_a_list():
    kept = []

    def f(x):
        y = x * 2
        kept.append(y)
        return y + 1

    with pytest.raises(CaptureError, match=r"is kept after the function returned[\s\S]*test_capture_refusals"):
        tl.compile(f)(tl.ones(2))


def test_results_kept_in_an_attribute():
    class Net(tl.nn.Module):
        def forward(self, x):
            self.hidden = x * 2
            return self.hidden + 1

    with pytest.raises(CaptureError, match="is kept after the function returned"):
        tl.compile(Net())(tl.ones(2))


def test_tensors_of_the_closure():
    w = tl.ones(3)
    for f in (lambda x: x * w, lambda x: (x, w), lambda x: w):
        with pytest.raises(CaptureError, match="declare it"):
            tl.compile(f)(tl.ones(3))
    f = tl.compile(lambda x: x * w, state=[w])
    assert f(tl.ones(3)).tolist() == [1, 1, 1]
    w.fill_(2)
    assert f(tl.ones(3)).tolist() == [2, 2, 2]


def test_a_scheduler_inside():
    model = net()
    optimizer = tl.optim.SGD(model.parameters(), 0.1)
    scheduler = tl.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    step = tl.compile(training(model, optimizer, before=lambda: (optimizer.step(), scheduler.step())))
    with pytest.raises(CaptureError, match="step the scheduler outside"):
        step(*batches(1)[0])


def test_seeding_inside():
    def f(x):
        tl.manual_seed(1)
        return x + tl.rand(2)

    with pytest.raises(CaptureError, match="seed outside"):
        tl.compile(f)(tl.ones(2))


def test_new_memory_inside():
    model = net()

    def f(x):
        model[0].weight.data = model[0].weight * 2
        return model(x)

    with pytest.raises(CaptureError, match="other memory"):
        tl.compile(f)(tl.ones(2, 4))


def test_a_foreign_gradient():
    w = tl.nn.Parameter(tl.ones(3))

    def f(x):
        w.grad = x
        return w * 2

    with pytest.raises(CaptureError, match="clone"):
        tl.compile(f)(tl.ones(3))
    assert w.grad is None


# ---- a refusal, or any error, leaves no trace
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, CaptureError])
def test_an_error_while_recording(error):
    model = net(tl.nn.Dropout(0.5), tl.nn.BatchNorm1d(6))
    optimizer = tl.optim.Adam(model.parameters())
    fail = [True]

    def after():
        optimizer.step()
        if fail[0]:
            raise error("stop")

    step = tl.compile(training(model, optimizer, before=after), options=OFF)
    before, seed = everything(model, optimizer), tl.get_rng_state().clone()
    with pytest.raises(error):
        step(*batches(1)[0])
    assert same(everything(model, optimizer), before) and same(tl.get_rng_state(), seed)
    assert recording.recorder is None and run.seam is None
    fail[0] = False
    loss = step(*batches(1)[0])
    assert loss.item() > 0 and optimizer._steps_taken == 2


def test_recording_leaves_no_trace_but_one_call():
    model = net(tl.nn.Dropout(0.5), tl.nn.BatchNorm1d(6))
    f = tl.compile(lambda x: model(x))
    f(tl.randn(8, 4))
    assert model[3].num_batches_tracked.item() == 1


def test_other_threads_are_not_recorded():
    """A loader's threads may run ops while a function is recorded."""
    begun, done, seen = threading.Event(), threading.Event(), []

    def other():
        begun.wait(10)
        seen.append((tl.ones(3) * 3).tolist())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def f(x):
        y = x * 2
        begun.set()
        assert done.wait(10)
        return y + 1

    compiled = tl.compile(f)
    assert compiled(tl.ones(2)).tolist() == [3, 3]
    thread.join()
    assert seen == [[3, 3, 3]] and [s.name for s in compiled.plan.steps if s.name == "mul"] in ([], ["mul"])


def test_two_threads_call_one_function():
    model = net()
    f = tl.compile(lambda x: model(x), options=OFF)
    inputs = [tl.randn(3 + k % 2, 4) for k in range(40)]
    wanted = [model(x) for x in inputs]
    wrong = []

    def work(part):
        wrong.extend(k for k in part if not same(f(inputs[k]), wanted[k]))

    threads = [threading.Thread(target=work, args=(range(n, 40, 2),)) for n in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_programs_die_with_their_function():
    model = net()
    x, y = batches(1)[0]

    def once():
        optimizer = tl.optim.SGD(model.parameters(), 0.1)
        f = tl.compile(training(model, optimizer))
        f(x, y)
        model.zero_grad()
        return weakref.ref(f.programs[0])

    for _ in range(3):
        once()
    gc.collect()
    before = len(gc.get_objects())
    refs = [once() for _ in range(30)]
    gc.collect()
    assert not any(r() is not None for r in refs)
    assert len(gc.get_objects()) - before < 1000


# ---- ways of going back
def test_retain_graph_and_grad_inside():
    def f(x):
        w = x.detach().requires_grad_()
        y = (w * w).sum()
        (a,) = tl.autograd.grad(y, w, retain_graph=True)
        (b,) = tl.autograd.grad(y, w)
        return a + b

    compiled = tl.compile(f)
    for _ in range(3):
        x = tl.randn(3)
        assert same(compiled(x), f(x))


def test_custom_functions():
    class Twice(tl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    model = net(tl.nn.Dropout(0.5))

    def step(x):
        model.zero_grad()
        loss = Twice.apply(model(x)).sum()
        loss.backward()
        return loss

    made = []
    for f in (step, tl.compile(step, options=OFF)):
        tl.manual_seed(0)
        made.append([(f(tl.ones(5, 4)).detach(), everything(model)) for _ in range(3)])
    assert same(*made)


def test_create_graph_through_a_compiled_forward():
    f = tl.compile(lambda x: (x * x).sum())
    x = tl.randn(3, requires_grad=True)
    with pytest.raises(GradError, match="create_graph"):
        tl.autograd.grad(f(x), x, create_graph=True)
