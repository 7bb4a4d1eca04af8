"""Every op's cases beside PyTorch's: values, dtypes, shapes, gradients, and which calls are refused.

Ops say what PyTorch calls them (``torch=``); those that say None have no counterpart and are listed in docs/ops.md.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from ops_harness import TOLERANCE, Case, cases, flat, ops, reseed

import tensorlite as tl
from tensorlite.autograd.op import Op
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import dtype, float32, float64

pytestmark = pytest.mark.parity
# (op, a part of what is found) -> why it is right that we differ. An entry that nothing needs fails the test.
KNOWN = {
    ("group_norm", "tensor does not have a device"): "PyTorch's gradient fails for a bias without a weight",
    ("take_along_dim", "PyTorch does not refuse"): "PyTorch reads out of bounds where the index broadcasts",
}
# What PyTorch says where it lacks a gradient that we have.
LACKING = ("not implemented", "returned an invalid gradient")
NOT_DIFFERENTIABLE = re.compile(r"not differentiable with respect to argument '(\w+)'")
COMPARED = [pytest.param(op, id=op.name) for op in ops() if op.torch is not None]
BUILTIN = (IndexError, TypeError, ValueError, RuntimeError, OverflowError)


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def counterpart(torch: Any, op: Op) -> Any:
    """PyTorch's function for an op: as it says, else of its name in torch, Tensor or nn.functional."""
    if callable(op.torch):
        return None
    found: Any = torch
    for part in op.torch.split("."):
        found = getattr(found, part, None)
    if found is None and op.torch == op.name:
        found = getattr(torch.Tensor, op.name, None) or getattr(torch.nn.functional, op.name, None)
    return found


def theirs(torch: Any, case: Case, wide: bool = False) -> list:
    """PyTorch's outputs for a case, and the tensors it was called with; ``wide``: with float64 for float32."""
    tensors: list = []

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            t = torch.from_numpy(value._arr.copy())
            t = (t.double() if wide and value.is_floating_point() else t).requires_grad_(value.requires_grad)
            tensors.append(t)
            return t
        if isinstance(value, dtype):
            return torch.float64 if wide and value.is_floating_point else getattr(torch, value.name)
        return type(value)(map(convert, value)) if type(value) in (list, tuple) else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if callable(case.op.torch):
            result = case.op.torch(torch, **{k: convert(v) for k, v in case.given.items()})
        else:
            args, kwargs = case.call()
            args = [convert(a) for a in args]
            result = counterpart(torch, case.op)(*args, **{k: convert(v) for k, v in kwargs.items()})
    return [flat(result), tensors]


def outcome(run: Any) -> tuple:
    """(result, None) or (None, the error raised)."""
    try:
        return run(), None
    except Exception as error:
        return None, error


@pytest.mark.parametrize("op", COMPARED)
def test_has_a_counterpart(torch, op):
    assert callable(op.torch) or counterpart(torch, op) is not None, (
        f"PyTorch has no {op.torch!r}: name it with torch=..., or say torch=None"
    )


@pytest.mark.parametrize("float_type", [float64, float32], ids=lambda d: d.name)
@pytest.mark.parametrize("op", COMPARED)
def test_same_as_pytorch(torch, op, float_type):
    problems: list = []
    for refusals in (False, True):
        for case in cases(op, float_type, requires_grad=op.differentiable, refusals=refusals):
            problems += [f"{case}\n  {text}" for text in compare(torch, case)]
    for name, part in KNOWN:
        if name == op.name:
            assert any(part in p for p in problems), f"nothing needs KNOWN[{name!r}, {part!r}]"
            problems = [p for p in problems if part not in p]
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:20])


def compare(torch: Any, case: Case) -> list:
    reseed()
    wanted, their_error = outcome(lambda: theirs(torch, case))
    while (found := NOT_DIFFERENTIABLE.search(str(their_error))) and case.given[found[1]].requires_grad:
        case.given[found[1]].requires_grad_(False)
        wanted, their_error = outcome(lambda: theirs(torch, case))
    got, our_error = outcome(case.run)
    if their_error is not None or our_error is not None:
        if our_error is None:
            return [f"PyTorch refuses: {type(their_error).__name__}: {str(their_error)[:150]}"]
        if their_error is None:
            return [f"refused with {type(our_error).__name__}: {our_error}; PyTorch does not refuse"]
        if callable(case.op.torch):
            return []  # both refuse; which class comes out of a function of our own says little
        base = next(b for b in (*type(their_error).__mro__, BaseException) if b in (*BUILTIN, BaseException))
        if not isinstance(our_error, base):
            return [
                f"raised {type(our_error).__name__}: {our_error}; PyTorch raises "
                f"{type(their_error).__name__}: {str(their_error)[:150]}"
            ]
        return []
    problems = differences(torch, case, got, *wanted)
    if problems and case.floats() and case.floats()[0].dtype is float32:
        # PyTorch's own rounding may be the greater: its float64 result is the judge
        return differences(torch, case, got, *theirs(torch, as_before(case), wide=True), exact_type=False)
    return problems


def as_before(case: Case) -> Case:
    """The case as it was before it was run."""
    fresh = cases(case.op, float32, requires_grad=case.op.differentiable)
    found = next(c for c in fresh if c.number == case.number)
    for t, asked in zip(found.tensors().values(), case.tensors().values()):
        t.requires_grad_(asked.requires_grad)
    return found


def differences(torch: Any, case: Case, got: list, theirs_: list, their_tensors: list, exact_type: bool = True) -> list:
    """What differs between two results of a case: values, requires_grad, effects, gradients."""
    if len(got) != len(theirs_):
        return [f"{len(got)} outputs; PyTorch gives {len(theirs_)}"]

    def differ(a: Any, b: Any, which: str) -> None:
        if text := difference(torch, a, b, which, exact_type):
            problems.append(text)

    problems: list = []
    for n, (a, b) in enumerate(zip(got, theirs_)):
        differ(a, b, f"output {n}")
        if isinstance(a, Tensor) and isinstance(b, torch.Tensor) and a.requires_grad != b.requires_grad:
            problems.append(f"output {n}: requires_grad is {a.requires_grad}; PyTorch's is {b.requires_grad}")
    if not callable(case.op.torch):
        for (name, a), b in zip(case.tensors().items(), their_tensors):
            differ(a, b, f"{name} after the call")
    both = [(a, b) for a, b in zip(got, theirs_) if isinstance(a, Tensor) and a.requires_grad]
    inputs = [t for t in case.tensors().values() if t.requires_grad]
    their_inputs = [t for t in their_tensors if t.requires_grad]
    if problems or not both or not inputs:
        return problems
    rng = np.random.default_rng(4)
    starts = [np.asarray(rng.uniform(-1, 1, a.shape)).astype(a.dtype.np) for a, _ in both]
    their_grads, their_error = outcome(
        lambda: torch.autograd.grad(
            [b for _, b in both],
            their_inputs,
            [torch.from_numpy(g).to(b.dtype) for g, (_, b) in zip(starts, both)],
            allow_unused=True,
        )
    )
    our_grads, our_error = outcome(
        lambda: tl.autograd.grad(
            [a for a, _ in both], inputs, [from_array(g.copy()) for g in starts], retain_graph=True, allow_unused=True
        )
    )
    if our_error is None and any(text in str(their_error) for text in LACKING):
        return []
    if (our_error is None) != (their_error is None):
        return [f"backward: got {our_error!r}; PyTorch {their_error!r}"]
    for n, (a, b) in enumerate(zip(our_grads or (), their_grads or ())):
        if (a is None) != (b is None):
            some = a._arr if b is None else b.numpy()
            if np.any(some):  # None stands for zeros
                problems.append(f"gradient {n} is {'None' if a is None else 'there'}; PyTorch's is not")
        elif a is not None:
            differ(a, b, f"gradient {n}")
    return problems


def difference(torch: Any, a: Any, b: Any, which: str, exact_type: bool) -> str | None:
    """How one of our outputs differs from PyTorch's."""
    if not isinstance(b, torch.Tensor):
        same = tuple(a) == tuple(b) if isinstance(b, tuple) else type(a) is type(b) and a == b
        return None if same else f"{which}: {a!r}; PyTorch {b!r}"
    if not isinstance(a, Tensor):
        return f"{which}: a {type(a).__name__}; PyTorch a Tensor"
    if tuple(a.shape) != tuple(b.shape):
        return f"{which}: shape {tuple(a.shape)}; PyTorch {tuple(b.shape)}"
    if f"torch.{a.dtype.name}" != str(b.dtype) and (exact_type or not a.is_floating_point()):
        return f"{which}: dtype {a.dtype.name}; PyTorch {b.dtype}"
    x, y = a._arr, b.detach().numpy()
    if a.is_floating_point():
        rtol, atol = TOLERANCE[a.dtype]
        close = np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
    else:
        close = x == y
    if np.all(close):
        return None
    at = tuple(int(i) for i in np.argwhere(~close)[0])
    count = f"{int((~close).sum())} of {close.size} elements differ"
    return f"{which}: {count}, first {list(at)}: {x[at]!r}; PyTorch {y[at]!r}"
