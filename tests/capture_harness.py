"""What the tests of compiled functions share: the same steps run twice, as they are and compiled."""

from __future__ import annotations

import numpy as np

import tensorlite as tl
from tensorlite.program.passes import PASSES

OFF = dict.fromkeys(PASSES, False)  # with all passes off a replay has the bits of the function


def same(a, b) -> bool:
    """Whether nested results are equal in every bit."""
    if isinstance(a, tl.Tensor) and isinstance(b, tl.Tensor):
        if a.dtype is not b.dtype or a.shape != b.shape:
            return False
        return np.ascontiguousarray(a._arr).tobytes() == np.ascontiguousarray(b._arr).tobytes()
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def recordings(f) -> int:
    """How often a compiled function was recorded."""
    return f._recordings


def net(*more) -> tl.nn.Sequential:
    """A small net; its parameters are those of seed 0."""
    tl.manual_seed(0)
    return tl.nn.Sequential(tl.nn.Linear(4, 6), tl.nn.Tanh(), *more, tl.nn.Linear(6, 3))


def everything(model, *optimizers) -> list:
    """Copies of all that training changes."""
    found = [t.detach().clone() for t in model.state_dict().values()]
    found += [None if p.grad is None else p.grad.detach().clone() for p in model.parameters()]
    for optimizer in optimizers:
        for state in optimizer.state.values():
            found += [v.detach().clone() if isinstance(v, tl.Tensor) else v for v in state.values()]
        found.append(optimizer._steps_taken)
    return found


def batches(count: int, size: int = 5) -> list:
    """Inputs (size, 4) and classes of a net, other ones each."""
    rng = np.random.default_rng(1)
    return [
        (tl.from_numpy(rng.standard_normal((size, 4)).astype(np.float32)), tl.from_numpy(rng.integers(0, 3, size)))
        for _ in range(count)
    ]


def both(make, count: int = 6, options: dict | None = None):
    """Train twice, as it is and compiled, and compare all that is left behind after each step, bit for bit.

    ``make()`` gives (step, model, optimizers, between): ``between(k)`` is called after step k. The compiled step is
    given back.
    """
    histories = []
    for compiled in (False, True):
        tl.manual_seed(0)
        step, model, optimizers, between = make()
        if compiled:
            step = tl.compile(step, options=OFF if options is None else options)
        tl.manual_seed(5)
        history = []
        for k, (x, y) in enumerate(batches(count)):
            loss = step(x, y)
            history.append([loss.detach().clone(), *everything(model, *optimizers)])
            if between is not None:
                between(k)
        history.append(tl.get_rng_state().clone())
        histories.append(history)
    for k, (a, b) in enumerate(zip(*histories)):
        assert same(a, b), f"after step {k}: as it is {a}\ncompiled {b}"
    return step


def training(model, optimizer, before=None, after=None):
    """A usual step: zero_grad, forward, loss, backward, step."""

    def step(x, y):
        optimizer.zero_grad()
        loss = tl.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if before is not None:
            before()
        optimizer.step()
        return loss

    return step
