"""Every op, compiled: recorded on one case's data and replayed on other data, it gives what the op gives as it is.

Made from the table of ops, as test_ops.py is; the only names here are those of ops that no program can hold.
"""

from __future__ import annotations

import numpy as np
import pytest
from ops_harness import COMPOSITE, FLOATS, TOLERANCE, Case, cases, layouts, ops, reseed, same_bits
from test_ops import report

import tensorlite as tl
from tensorlite.autograd.cases import Make
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import float32
from tensorlite.errors import CaptureError
from tensorlite.ops.cast import laid_as
from tensorlite.program.passes import PASSES

OFF = dict.fromkeys(PASSES, False)
WAYS = ("forward", "whole", "back")  # without gradients; with gradients taken inside; with gradients taken outside

# ops that must raise CaptureError in at least one case, and why; all others must not
_SIZES, _READS = "the result's sizes depend on values", "numbers are read on the host"
REFUSED: dict[str, str] = {
    "nonzero": _SIZES,
    "argwhere": _SIZES,
    "masked_select": _SIZES,
    "unique": _SIZES,
    "bincount": _SIZES,
    "one_hot": _SIZES + " without num_classes",
    "repeat_interleave": _SIZES + " where the repeats are a tensor",
    "index_put": _SIZES + " of a mask's places",
    "embedding_bag": _READS + ": offsets are checked",
    "allclose": _READS + ": the result is a bool",
    "equal": _READS + ": the result is a bool",
}


def renewed(case: Case, *how) -> list[Tensor]:
    """Other tensors for a case, drawn from another seed; its own values where other ones would have other shapes."""
    reseed()
    first = list(case.tensors().values())
    found = [
        given[1] if isinstance(given, tuple) else given
        for k, make_cases in enumerate(case.op.case_makers)
        for given in make_cases(Make(k + 1000, *how))
    ]
    second = list(Case(case.op, 0, found[case.number], None).tensors().values())
    same = len(first) == len(second) and all(
        a._spec is b._spec and a._arr.strides == b._arr.strides for a, b in zip(first, second)
    )
    return second if same else first


def copies(tensors: list[Tensor], wants: list[bool]) -> list[Tensor]:
    """Leaves with memory of their own that lie as the given ones do; a tensor given twice stays one tensor."""
    made: dict[int, Tensor] = {}
    for t, want in zip(tensors, wants):
        if id(t) not in made:
            made[id(t)] = t.detach().clone().requires_grad_(want)
    return [made[id(t)] for t in tensors]


def start(y: Tensor) -> Tensor:
    """A gradient for y that lies as y does: a program lays it so, and sums in another order have other last bits."""
    values = np.random.default_rng(y._spec.size).uniform(-1, 1, y.shape)
    return laid_as(from_array(np.asarray(values).astype(y.dtype.np)), y._spec)


class Way:
    """One way to run a case on given tensors, as it is or compiled."""

    def __init__(self, case: Case, way: str, options: dict):
        self.case, self.outside, self.inside = case, way == "back", way == "whole"
        self.wants = [t.requires_grad for t in case.tensors().values()]
        self.starts: list[Tensor] = []
        if way != "forward":
            reseed()
            given = copies(list(case.tensors().values()), self.wants)
            self.starts = [start(y) for y in self.ends(case.with_tensors(given).run())]
        self.compiled = tl.compile(self.function, options=options)

    def ends(self, outputs) -> list[Tensor]:
        return [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]

    def function(self, given, starts):
        outputs = tuple(self.case.with_tensors(given).run())
        return (outputs, self.gradients(outputs, given, starts)) if self.inside else (outputs, ())

    def gradients(self, outputs, given, starts) -> tuple:
        inputs = list({id(t): t for t, want in zip(given, self.wants) if want}.values())
        ends = self.ends(outputs)
        return tl.autograd.grad(ends, inputs, starts, allow_unused=True) if ends and inputs else ()

    def run(self, f, tensors: list[Tensor]) -> list:
        """Outputs, gradients, and what the arguments hold afterwards."""
        reseed()
        given = copies(tensors, self.wants)
        outputs, gradients = f(given, self.starts)
        if self.outside:
            gradients = self.gradients(outputs, given, self.starts)
        return [*outputs, *gradients, *given]


def close(a, b, bits: bool) -> bool:
    if bits or not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.is_floating_point()):
        return (a is None and b is None) or same_bits(a, b)
    rtol, atol = (TOLERANCE | COMPOSITE)[a.dtype]
    x, y = a._arr.astype(np.float64), b._arr.astype(np.float64)
    return a.dtype is b.dtype and a.shape == b.shape and np.allclose(x, y, rtol, atol, equal_nan=True)


def check(op, float_type, layout, way: str, options: dict, bits: bool) -> None:
    problems, refused = [], 0
    for case in cases(op, float_type, layout, requires_grad=way != "forward"):
        ways = Way(case, way, options)
        first, others = list(case.tensors().values()), renewed(case, float_type, layout)
        with tl.set_grad_enabled(way != "forward"):
            try:
                for call, given in enumerate((first, others, first)):
                    expected, got = ways.run(ways.function, given), ways.run(ways.compiled, given)
                    wrong = [n for n, (a, b) in enumerate(zip(expected, got)) if not close(a, b, bits)]
                    if wrong or len(expected) != len(got):
                        n = wrong[0] if wrong else -1
                        problems.append(
                            f"{case}\n  {way}, call {call}, result {n}: {got[n]!r}\n  wanted {expected[n]!r}"
                        )
            except CaptureError as error:
                refused += 1
                if op.name not in REFUSED:
                    problems.append(f"{case}\n  {way}: {error}")
                continue
        if len(ways.compiled.programs) != 1:
            problems.append(f"{case}\n  {way}: {len(ways.compiled.programs)} programs")
    if op.name in REFUSED and not refused:
        problems.append(f"{op.name} is recorded in all cases; take it out of REFUSED")
    report(problems)


def grid(*types):
    return list(_grid(types))


def _grid(types):
    for op in ops():
        for way in WAYS if op.differentiable else WAYS[:1]:
            for d in types:
                for layout in layouts(op):
                    yield pytest.param(op, d, layout, way, id=f"{op.name}-{d.name}-{layout}-{way}")


@pytest.mark.parametrize(
    ("op", "way"),
    [pytest.param(op, way, id=f"{op.name}-{way}") for op in ops() for way in (WAYS if op.differentiable else WAYS[:1])],
)
def test_replay_has_the_bits_of_the_op(op, way):
    check(op, float32, "contiguous", way, OFF, bits=True)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "float_type", "layout", "way"), grid(*FLOATS))
def test_sweep_of_layouts(op, float_type, layout, way):
    check(op, float_type, layout, way, OFF, bits=True)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "float_type", "layout", "way"), grid(float32))
def test_sweep_with_passes(op, float_type, layout, way):
    check(op, float_type, layout, way, {}, bits=False)
