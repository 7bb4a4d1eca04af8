"""What the generated tests of ops are made of: an op's cases as calls, its reference, tolerances, comparison."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.cases import LAYOUTS, Make
from tensorlite.autograd.op import TABLE, Op
from tensorlite.autograd.primitive import Primitive
from tensorlite.autograd.run import execute, set_seam
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.backends import cpu
from tensorlite.dtypes import bfloat16, dtype, float16, float32, float64, get_default_dtype

FLOATS = (float64, float32, float16, bfloat16)
IMPLEMENTATIONS = ("plain", "native")

# How far a result may lie from the reference, evaluated in float64 on the same (rounded) inputs: (relative, absolute).
# A primitive computes half types in float32 and rounds once: half of the last place, and a little.
TOLERANCE: dict[dtype, tuple[float, float]] = {
    float64: (1e-10, 1e-10),
    float32: (1e-5, 1e-5),
    float16: (6e-4, 1e-5),
    bfloat16: (5e-3, 1e-5),
}
# A composite rounds at every step.
COMPOSITE: dict[dtype, tuple[float, float]] = {float16: (4e-3, 4e-3), bfloat16: (3.2e-2, 3.2e-2)}

# (op, dtype) -> (relative, absolute, the reason why this op needs more there)
_PARTS = "with weights or label smoothing it is made of several ops, and each rounds"
_ALPHA = "alpha times the other operand is rounded before it is added"
WIDER: dict[tuple[str, dtype], tuple[float, float, str]] = {
    ("sub", float16): (4e-3, 4e-3, _ALPHA),
    ("index_add", float16): (4e-3, 4e-3, _ALPHA),
    ("index_add", bfloat16): (3.2e-2, 3.2e-2, _ALPHA),
    ("cross_entropy", float16): (4e-3, 4e-3, _PARTS),
    ("cross_entropy", bfloat16): (3.2e-2, 3.2e-2, _PARTS),
}


def ops() -> list[Op]:
    """Every op, in the order of registration."""
    return list(TABLE.values())


def primitives() -> list[Primitive]:
    return [op for op in TABLE.values() if isinstance(op, Primitive)]


def implementations(op: Op) -> list[str]:
    """Where an op's numbers can come from on this machine."""
    native = isinstance(op, Primitive) and any(k[0] == "cpu" for k in op.kernels) and cpu.extension() is not None
    return ["plain", "native"] if native else ["plain"]


def reseed() -> None:
    """Begin the random numbers anew, so that ops that draw some give the same each time."""
    if hasattr(tl, "manual_seed"):
        tl.manual_seed(0)


@dataclass
class Case:
    """One sample call of an op. ``error`` is the class it must be refused with, or None."""

    op: Op
    number: int
    given: dict[str, Any]
    error: type[BaseException] | None

    def __str__(self) -> str:
        return f"{self.op.name} case {self.number}: " + ", ".join(f"{k}={_short(v)}" for k, v in self.given.items())

    def call(self) -> tuple[list, dict]:
        """The arguments for the op's public function: data by position, the rest by keyword."""
        return arguments(self.op, self.given)

    def run(self) -> list:
        """The outputs, as a list."""
        args, kwargs = self.call()
        return flat(self.op.call(*args, **kwargs))

    def tensors(self) -> dict[str, Tensor]:
        """Every input tensor by a name such as ``x`` or ``tensors[1]``."""
        found = {}
        for k, v in self.given.items():
            if isinstance(v, Tensor):
                found[k] = v
            elif isinstance(v, (list, tuple)):
                found.update({f"{k}[{n}]": t for n, t in enumerate(v) if isinstance(t, Tensor)})
        return found

    def floats(self) -> list[Tensor]:
        """The inputs that a gradient may be asked for."""
        return [t for t in self.tensors().values() if t.is_floating_point()]

    def with_tensors(self, values: Any) -> Case:
        """The same call on other tensors, given in the order of ``tensors()``."""
        values = iter(values)

        def replaced(v: Any) -> Any:
            if isinstance(v, Tensor):
                return next(values)
            return type(v)(map(replaced, v)) if type(v) in (list, tuple) else v

        return Case(self.op, self.number, {k: replaced(v) for k, v in self.given.items()}, self.error)


def layouts(op: Op) -> tuple[str, ...]:
    """The layouts to try an op in: channels_last only where it has inputs of 4 dimensions."""
    images = any(t.dim() == 4 for case in cases(op) for t in case.tensors().values())
    return LAYOUTS if images else LAYOUTS[:2]


def cases(
    op: Op, float_type: dtype = float64, layout: str = "contiguous", requires_grad: bool = False, refusals: bool = False
) -> list[Case]:
    """An op's cases, made anew with the same values each time; or the calls that it must refuse."""
    reseed()
    found = []
    for k, make_cases in enumerate(op.case_makers):
        for given in make_cases(Make(k, float_type, layout, requires_grad)):
            error, given = given if isinstance(given, tuple) else (None, given)
            found.append(Case(op, len(found), given, error))
            for name, t in found[-1].tensors().items():
                if _without(found[-1], name):
                    t.requires_grad_(False)
    return [c for c in found if (c.error is not None) == refusals]


def arguments(op: Op, given: dict[str, Any]) -> tuple[list, dict]:
    """How a case's dict becomes a call. Its keys are the public function's names, or the primitive's input names
    (which stand for the public function's parameters at the same places)."""
    if isinstance(op, Primitive) and not hasattr(op, "source"):
        op.finalize()  # until then its function has no signature
    params = list(inspect.signature(op.call).parameters.values())
    names = [p.name for p in params]
    inputs = op.inputs if isinstance(op, Primitive) else []
    args: list = []
    kwargs: dict[str, Any] = {}
    for key, value in given.items():
        if key not in names and key in inputs and inputs.index(key) < len(names):
            name = names[inputs.index(key)]
        else:
            name = key
        at = names.index(name) if name in names else -1
        data = (
            key in inputs
            or isinstance(value, Tensor)
            or (isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))
        )
        if at >= 0 and params[at].kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(value)
        elif data and not kwargs and at == len(args) and params[at].kind is not inspect.Parameter.KEYWORD_ONLY:
            args.append(value)
        else:
            kwargs[name] = value
    return args, kwargs


def flat(result: Any) -> list:
    """The outputs of a call as a list."""
    if isinstance(result, (tuple, list)) and not isinstance(result, tl.Tensor):
        return [y for part in result for y in flat(part)]
    return [result]


# ---- the reference
def to_numpy(value: Any) -> Any:
    """What a reference gets: float64, integer and bool arrays for tensors; constants as they are."""
    if isinstance(value, Tensor):
        return value._arr.astype(np.float64) if value.is_floating_point() else value._arr.copy()
    if type(value) in (list, tuple):
        return type(value)(map(to_numpy, value))
    return value


def reference(case: Case) -> list:
    """The outputs that the op's independent reference gives. Call it before the op where the op has effects."""
    with np.errstate(all="ignore"):
        return flat(case.op.reference(**{k: to_numpy(v) for k, v in case.given.items()}))


def tolerance(op: Op, *types: dtype) -> tuple[float, float]:
    """The (relative, absolute) tolerance of the coarsest of these types."""
    usual = usual_tolerance(op)
    limits = [WIDER[op.name, d][:2] if (op.name, d) in WIDER else usual[d] for d in types if d in usual]
    return max(limits, default=usual[float64])


def usual_tolerance(op: Op) -> dict[dtype, tuple[float, float]]:
    return TOLERANCE if isinstance(op, Primitive) else TOLERANCE | COMPOSITE


def complaint(case: Case, got: Any, expected: Any, which: str, float_type: dtype) -> str | None:
    """What is wrong with an output, or None."""
    expected = np.asarray(expected)
    if not isinstance(got, Tensor):
        same = np.asarray(got).shape == expected.shape and bool(np.all(np.asarray(got) == expected))
        return None if same else f"{case}\n  {which}: got {got!r}; reference {expected!r}"
    if problem := inconsistent(got):
        return f"{case}\n  {which}: {problem}"
    if tuple(got.shape) != expected.shape:
        return f"{case}\n  {which}: shape {tuple(got.shape)}; reference {expected.shape}"
    if (expected.dtype == bool) != (got.dtype is tl.bool) and expected.dtype == bool:
        return f"{case}\n  {which}: dtype {got.dtype}; reference bool"
    if expected.dtype.kind in "iu" and got.is_floating_point() and expected.size:
        return f"{case}\n  {which}: dtype {got.dtype}; reference is of integers"
    if wrong := wrong_float_type(case, got):
        return f"{case}\n  {which}: dtype {got.dtype}; wanted {wrong}, as the inputs"
    values = to_numpy(got)
    if not got.is_floating_point():
        close = values == expected.astype(values.dtype)
    else:
        rtol, atol = tolerance(case.op, float_type, got.dtype)
        with np.errstate(all="ignore"):
            close = np.isclose(values, expected, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return None
    at = tuple(int(i) for i in np.argwhere(~close)[0])
    return (
        f"{case}\n  {which}: {int((~close).sum())} of {close.size} elements differ, first {list(at)}: "
        f"got {values[at]!r}; reference {expected[at]!r}"
    )


def inconsistent(t: Tensor) -> str | None:
    """Whether a tensor's spec says what its array is."""
    a, s = t._arr, t._spec
    if a.shape != s.shape or a.dtype != s.dtype.np:
        return f"the array is {a.dtype}{list(a.shape)}, its spec says {s}"
    if s.format == "contiguous" and not a.flags.c_contiguous:
        return f"the spec says contiguous, the strides are {a.strides} for shape {a.shape}"
    if s.format == "channels_last" and not a.transpose(0, 2, 3, 1).flags.c_contiguous:
        return f"the spec says channels_last, the strides are {a.strides} for shape {a.shape}"
    return None


def wrong_float_type(case: Case, got: Tensor) -> dtype | None:
    """The dtype a floating-point result should have: its inputs' where they agree, the default where none is float."""
    if not got.is_floating_point() or any(isinstance(v, dtype) for v in case.given.values()):
        return None
    types = {t.dtype for t in case.floats()}
    if len(types) == 1:
        wanted = types.pop()
    elif not types:
        wanted = get_default_dtype()
    else:
        return None
    return None if got.dtype is wanted else wanted


def same_bits(a: Any, b: Any) -> bool:
    """Whether two outputs are equal in every bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (
            a.dtype is b.dtype
            and a.shape == b.shape
            and np.ascontiguousarray(a._arr).tobytes() == np.ascontiguousarray(b._arr).tobytes()
        )
    return type(a) is type(b) and (a == b or (a != a and b != b))


# ---- gradients
def function_of_floats(case: Case) -> tuple[Any, tuple]:
    """The case as a function of its floating-point inputs alone, and those inputs.

    Inputs whose gradient rule is None (the op says that they have none) stay as they are.
    """
    every = list(case.tensors().values())
    places = [
        k for k, (name, t) in enumerate(case.tensors().items()) if t.is_floating_point() and not _without(case, name)
    ]

    def func(*floats: Tensor) -> tuple:
        full = list(every)
        for k, t in zip(places, floats):
            full[k] = t
        reseed()
        return tuple(y for y in case.with_tensors(full).run() if isinstance(y, Tensor))

    return func, tuple(every[k] for k in places)


def _without(case: Case, name: str) -> bool:
    """Whether the op declares that the input of this name has no gradient."""
    rules = case.op.rules if isinstance(case.op, Primitive) else {}
    return name in rules and rules[name] is None


def gradients(case: Case, starts: list[Tensor] | None = None, create_graph: bool = False) -> tuple[list, list]:
    """One gradient (or None) for each float input of a case made with requires_grad, and the outputs."""
    reseed()
    outputs = [y for y in case.run() if isinstance(y, Tensor) and y.requires_grad]
    inputs = [t for t in case.floats() if t.requires_grad]
    if not outputs or not inputs:
        return [], outputs
    rng = np.random.default_rng(3)
    starts = starts or [from_array(np.asarray(rng.uniform(-1, 1, y.shape)).astype(y.dtype.np)) for y in outputs]
    found = tl.autograd.grad(outputs, inputs, starts, create_graph=create_graph, allow_unused=True)
    return list(found), outputs


# ---- other ways to run
@contextlib.contextmanager
def implementation(name: str) -> Iterator[None]:
    with config.KERNELS(name):
        yield


class _Never(dict):
    """A cache in which nothing is ever found."""

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)


@contextlib.contextmanager
def plain_words() -> Iterator[None]:
    """Every primitive goes through ``Primitive.apply``; the text that template.py wrote finds no entry."""
    touched = primitives()
    for p in touched:
        p.namespace["cache"] = _Never()
    try:
        yield
    finally:
        for p in touched:
            p.namespace["cache"] = p.cache


def outputs_and_written(case: Case) -> tuple[list, list]:
    """A case's outputs, and the inputs that the op's declaration (``mutates``) says it writes to.

    A reference returns the outputs, then the new values of the written inputs that are not outputs themselves.
    """
    if not (isinstance(case.op, Primitive) and case.op.mutates):
        return case.run(), []
    written: list = []

    def seam(entry: Any, arrays: tuple, outs: Any) -> Any:
        if entry.op is case.op:
            written.extend(arrays[k] for k in entry.op.written(len(arrays), entry.kw))
        return execute(entry, arrays, outs)

    set_seam(seam)
    try:
        outputs = case.run()
    finally:
        set_seam(None)
    owner = {id(t._arr): t for t in case.tensors().values()}
    return outputs, [owner[id(a)] for a in written if id(a) in owner]


def runs_of(case: Case) -> list[tuple[tuple, dict, bool]]:
    """Every run of the op's own primitive in a case: arrays, constants, whether outputs share their memory."""
    found: list = []

    def seam(entry: Any, arrays: tuple, outs: Any) -> Any:
        made = execute(entry, arrays, outs)
        if entry.op is case.op:
            given = [a for a in arrays if a is not None]
            shared = any(
                np.may_share_memory(a, y) for a in given for y in (made if isinstance(made, tuple) else (made,))
            )
            found.append((tuple(None if a is None else a.copy() for a in arrays), dict(entry.kw), shared))
        return made

    set_seam(seam)
    try:
        with tl.no_grad():
            case.run()
    finally:
        set_seam(None)
    return found


def _short(v: Any) -> str:
    if isinstance(v, Tensor):
        return f"{v._spec}" + ("" if v._spec.format == "contiguous" else "*")
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(_short, v)) + "]"
    return repr(v)[:60]


__all__ = [
    "COMPOSITE",
    "FLOATS",
    "IMPLEMENTATIONS",
    "TOLERANCE",
    "WIDER",
    "Case",
    "arguments",
    "cases",
    "complaint",
    "flat",
    "function_of_floats",
    "gradients",
    "implementation",
    "implementations",
    "inconsistent",
    "layouts",
    "ops",
    "outputs_and_written",
    "plain_words",
    "primitives",
    "reference",
    "reseed",
    "runs_of",
    "same_bits",
    "to_numpy",
    "tolerance",
    "usual_tolerance",
]
