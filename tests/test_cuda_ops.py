"""Every op on device "cuda", played by the emulator, against the CPU: values, gradients, dtypes, devices, host copies.

Derived from the ops' cases, as tests/test_ops.py is. The quick run takes a part of the table that changes from day to
day; ``-m slow`` takes all of it, in both layouts.
"""

from __future__ import annotations

import datetime
import shutil
import zlib

import numpy as np
import pytest
from ops_harness import Case, cases, ops, reseed

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float32

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")

CPU, CUDA = tl.device("cpu"), tl.device("cuda:0")
TOLERANCE = (1e-4, 1e-5)
PARTS = 8

# Ops whose call must read values on the host: their result's size depends on them, or PyTorch's does so too.
READS = {
    "allclose", "bincount", "embedding_bag", "equal", "full", "index", "index_put", "interpolate", "item", "linspace",
    "masked_scatter", "masked_select", "multinomial", "nonzero", "normal", "one_hot", "pad", "quantile",
    "repeat_interleave", "unique",
}  # fmt: skip


def on_cuda(t: Tensor, layout: str) -> Tensor:
    """The same values on the device, in the same layout; strided ones with gaps between their elements."""
    made = t.detach().to("cuda")
    if layout == "strided" and t.dim():
        made = tl.stack([made, made], -1)[..., 0]
    return made.requires_grad_(t.requires_grad) if t.is_floating_point() else made


def _own(t: Tensor) -> Tensor:
    """A tensor of this case alone: cases may share theirs, and gradients add up."""
    made = t.detach()
    return made.requires_grad_(t.requires_grad) if t.is_floating_point() else made


def placed(case: Case, layout: str) -> Case:
    return case.with_tensors([on_cuda(t, layout) for t in case.tensors().values()])


def outputs_of(case: Case) -> list[Tensor]:
    """What a call gives, and those of its inputs that it wrote to."""
    reseed()
    before = [(t, t._version) for t in case.tensors().values()]
    outputs = [y for y in case.run() if isinstance(y, Tensor)]
    return outputs + [t for t, version in before if t._version != version and not any(t is y for y in outputs)]


def gradients_of(case: Case, outputs: list[Tensor]) -> list:
    wanted = [t for t in case.tensors().values() if t.requires_grad]
    differentiable = [y for y in outputs if y.requires_grad]
    if not wanted or not differentiable:
        return []
    total = sum((y * _weights(y)).sum() for y in differentiable)
    total.backward()
    return [t.grad for t in wanted]


def _weights(y: Tensor) -> Tensor:
    values = np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(tuple(y.shape))
    return tl.tensor(values.astype(np.float32), device=y.device).to(y.dtype)


def differs(name: str, a: Tensor | None, b: Tensor | None) -> str | None:
    if a is None or b is None:
        return None if a is b else f"{name}: {a} on the CPU, {b} on cuda"
    if b.device is not CUDA and a.dim() and not name.startswith("to_device"):
        return f"{name}: on {b.device}"
    if a.shape != b.shape or a.dtype is not b.dtype:
        return f"{name}: {a._spec} on the CPU, {b._spec} on cuda"
    x, y = a.detach().numpy(), b.detach().cpu().numpy()
    if x.dtype.kind not in "fV":
        return None if (x == y).all() else f"{name}: {x.tolist()} on the CPU, {y.tolist()} on cuda"
    x, y = x.astype(np.float64), y.astype(np.float64)
    near = np.isclose(y, x, *TOLERANCE, equal_nan=True)
    return None if near.all() else f"{name}: off by {np.abs(x - y).max():.3g}: {x.ravel()[:6]}, {y.ravel()[:6]}"


def check(op, layout: str, emulated: int = 1) -> None:
    problems = []
    for here, there in zip(cases(op, float32, layout, True), cases(op, float32, layout, True)):
        here = here.with_tensors([_own(t) for t in here.tensors().values()])
        outputs = outputs_of(here)
        grads = gradients_of(here, outputs) if op.differentiable else []
        with config.CUDA_EMULATION(emulated):
            there = placed(there, layout)
            try:
                theirs = outputs_of(there)
                their_grads = gradients_of(there, theirs) if op.differentiable else []
            except Exception as error:
                problems.append(f"{here}\n  {type(error).__name__}: {error}")
                continue
            found = [differs(f"{op.name}: output {k}", a, b) for k, (a, b) in enumerate(zip(outputs, theirs))]
            found += [differs(f"{op.name}: gradient {k}", a, b) for k, (a, b) in enumerate(zip(grads, their_grads))]
            problems += [f"{here}\n  {text}" for text in found if text]
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:10])


def today(op) -> bool:
    day = datetime.date.today().toordinal()
    return zlib.crc32(op.name.encode()) % PARTS == day % PARTS


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops() if today(op)])
def test_a_part_of_the_table(op):
    check(op, "contiguous")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ("contiguous", "strided"))
@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops()])
def test_the_table_on_a_gpu(op, layout):
    check(op, layout, emulated=0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ("contiguous", "strided"))
@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops()])
def test_the_whole_table(op, layout):
    check(op, layout)
