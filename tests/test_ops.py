"""Every op, tested from its declaration alone: cases, reference, gradient, effects, aliasing, refusals.

Nothing here names an op, except where a tolerance is wider and says why (ops_harness.WIDER).
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ops_harness import (
    FLOATS,
    WIDER,
    Case,
    cases,
    complaint,
    function_of_floats,
    gradients,
    implementation,
    implementations,
    inconsistent,
    layouts,
    ops,
    outputs_and_written,
    plain_words,
    primitives,
    reference,
    reseed,
    runs_of,
    same_bits,
    to_numpy,
    usual_tolerance,
)

import tensorlite as tl
from tensorlite.autograd.gradcheck import gradcheck, gradgradcheck
from tensorlite.autograd.op import TABLE
from tensorlite.autograd.primitive import Primitive
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import can_cast, float32, float64

EVERY_OP = [pytest.param(op, id=op.name) for op in ops()]
DIFFERENTIABLE = [pytest.param(op, id=op.name) for op in ops() if op.differentiable]
GRID = [
    pytest.param(op, impl, d, layout, id=f"{op.name}-{impl}-{d.name}-{layout}")
    for op in ops()
    for impl in implementations(op)
    for d in FLOATS
    for layout in layouts(op)
]


def report(problems: list) -> None:
    problems = [p for p in problems if p]
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:20])


# ---- what an op must have
@pytest.mark.parametrize("op", EVERY_OP)
def test_has_all_its_parts(op):
    assert op.doc, "no docstring"
    assert cases(op), "no cases"
    assert op.reference is not None or op.torch is not None, "neither a reference nor a PyTorch counterpart"
    if isinstance(op, Primitive) and op.differentiable:
        missing = [i for i in op.inputs if i not in op.rules and op.joint is None]
        assert not missing, f"no gradient rule for {missing}, nor None, nor nograd()"


def test_the_table_is_not_empty():
    assert len(TABLE) > 100


# ---- values
@pytest.mark.parametrize(("op", "impl", "float_type", "layout"), GRID)
def test_value(op, impl, float_type, layout):
    """Values, shapes and dtypes against the reference in float64; inputs unmodified; the same bits when run twice."""
    problems = []
    with implementation(impl):
        again = cases(op, float_type, layout)
        for k, case in enumerate(cases(op, float_type, layout)):
            expected = reference(case) if op.reference is not None else None
            before = {name: (t._arr.copy(), t._version) for name, t in case.tensors().items()}
            outputs, written = _seeded(case)
            problems += effects(case, before, written)
            outputs += [t for t in written if not any(t is y for y in outputs)]
            problems += [
                f"{case}\n  output {n}: {text}"
                for n, y in enumerate(outputs)
                if isinstance(y, Tensor) and (text := inconsistent(y))
            ]
            if expected is not None:
                if len(outputs) != len(expected):
                    problems.append(f"{case}\n  {len(outputs)} outputs; the reference gives {len(expected)}")
                problems += [
                    complaint(case, y, r, f"output {n}", float_type) for n, (y, r) in enumerate(zip(outputs, expected))
                ]
            twice, written = _seeded(again[k])
            twice += [t for t in written if not any(t is y for y in twice)]
            problems += [
                f"{case}\n  output {n} of another run: {text}"
                for n, y in enumerate(twice)
                if isinstance(y, Tensor) and (text := inconsistent(y))
            ]
            problems += [
                f"{case}\n  output {n}: another run gave other bits"
                for n, (a, b) in enumerate(zip(outputs, twice))
                if not same_bits(a, b)
            ]
    report(problems)


def _seeded(case: Case) -> tuple[list, list]:
    """The outputs of a case, and those of its inputs that it declares to write to."""
    reseed()
    return outputs_and_written(case)


def effects(case: Case, before: dict, written: list) -> list:
    """Inputs that changed and should not have, or were to change and kept their version."""
    problems = []
    for name, t in case.tensors().items():
        old, version = before[name]
        if any(t is w for w in written):
            if t._version == version:
                problems.append(f"{case}\n  {name} is declared as written to but its version did not move")
        elif old.tobytes() != np.array(t._arr).tobytes() or t._version != version:
            problems.append(f"{case}\n  {name} was modified")
    return problems


@pytest.mark.parametrize("op", [pytest.param(p, id=p.name) for p in primitives() if not p.view])
def test_output_has_memory_of_its_own(op):
    problems = []
    for case in cases(op, float64):
        problems += [f"{case}\n  an output shares memory with an input" for *_, shared in runs_of(case) if shared]
    report(problems)


@pytest.mark.parametrize("op", [pytest.param(p, id=p.name) for p in primitives() if p.view])
def test_view_shares_memory(op):
    problems = []
    for case in cases(op, float64):
        base = next(iter(case.tensors().values()))
        for y in case.run():
            if y._spec.size and not np.may_share_memory(y._arr, base._arr):
                problems.append(f"{case}\n  an output does not share its input's memory")
            if y._base is not base:
                problems.append(f"{case}\n  ._base is not the input")
    report(problems)


# ---- refusals
@pytest.mark.parametrize("float_type", [float64, float32], ids=lambda d: d.name)
@pytest.mark.parametrize("op", EVERY_OP)
def test_refusals(op, float_type):
    """Calls that must be refused raise the stated class, and the message names the op and is no accident of NumPy's."""
    problems = []
    for case in cases(op, float_type, refusals=True):
        before = {name: t._arr.tobytes() for name, t in case.tensors().items()}
        try:
            case.run()
        except case.error as error:
            if not recognisable(op, str(error)):
                problems.append(f"{case}\n  the message does not begin with the op's name: {error}")
        except Exception as error:
            problems.append(f"{case}\n  raised {type(error).__name__}({error}); wanted {case.error.__name__}")
        else:
            problems.append(f"{case}\n  was not refused; wanted {case.error.__name__}")
        problems += [
            f"{case}\n  {name} was modified by a refused call"
            for name, t in case.tensors().items()
            if t._arr.tobytes() != before[name]
        ]
    report(problems)


def recognisable(op, message: str) -> bool:
    """Whether a message begins with the op's name, or with that of a function it is made of."""
    head, colon, rest = message.partition(":")
    heads = {h.strip() for h in head.split(",")}
    return bool(colon and rest.strip()) and all(
        h == op.name
        or h in TABLE
        or hasattr(tl, h)
        or hasattr(Tensor, h)
        or hasattr(Tensor, f"__{h}__")
        or h == getattr(op.call, "__name__", "")
        for h in heads
    )


# ---- gradients
@pytest.mark.parametrize(
    ("op", "layout"),
    [pytest.param(op, layout, id=f"{op.name}-{layout}") for op in ops() if op.differentiable for layout in layouts(op)],
)
def test_gradient(op, layout):
    """backward against central differences, in float64."""
    problems = []
    for case in cases(op, float64, layout, requires_grad=True):
        if has_a_derivative(case):
            func, inputs = function_of_floats(case)
            if inputs:
                problems.append(failure(case, gradcheck, func, inputs))
    report(problems)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_second_order(op):
    """The gradient's own gradient against central differences, unless the op says that it has none."""
    problems = []
    for case in cases(op, float64, requires_grad=True):
        if has_a_derivative(case) and not op.first_order_only:
            func, inputs = function_of_floats(case)
            if inputs:
                problems.append(failure(case, gradgradcheck, func, inputs))
    report(problems)


def has_a_derivative(case: Case) -> bool:
    """Whether finite differences can tell the gradient: not at nan (or inf inputs), nor where the op means another."""
    if case.op.not_derivative is not None and case.op.not_derivative(case.given):
        return False
    if not all(np.isfinite(t._arr).all() for t in case.floats()):
        return False
    outputs = [y for y in outputs_and_written(case)[0] if isinstance(y, Tensor) and y.is_floating_point()]
    return bool(case.floats()) and not any(np.isnan(y._arr).any() for y in outputs)


def failure(case: Case, check, func, inputs) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(func, inputs, rtol=1e-5, atol=1e-6)
    except Exception as error:
        return f"{case}\n  {type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradient_of_each_input_alone(op):
    """What one input gets does not depend on which others want a gradient, nor on create_graph (fused rules)."""
    problems = []
    for k in range(len(cases(op))):
        together = cases(op, float64, requires_grad=True)[k]
        wanted, _ = gradients(together)
        if not wanted:
            continue
        names = [name for name, t in together.tensors().items() if t.requires_grad]
        for n, name in enumerate(names):
            case = cases(op, float64)[k]
            case.tensors()[name].requires_grad_()
            alone, _ = gradients(case)
            if not nearly(alone[0] if alone else None, wanted[n]):
                problems.append(f"{case}\n  the gradient of {name} differs when it alone wants one")
            case = cases(op, float64, requires_grad=True)[k]
            exact, _ = gradients(case, create_graph=True)
            if not nearly(exact[n], wanted[n]):
                problems.append(f"{case}\n  the gradient of {name} differs with create_graph")
    report(problems)


def nearly(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two gradients are equal but for rounding; None stands for zeros."""
    if a is None or b is None:
        some = b if a is None else a
        return some is None or not some._arr.any()
    return a.shape == b.shape and a.dtype is b.dtype and np.allclose(a._arr, b._arr, 1e-12, 1e-12, equal_nan=True)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradient_layouts(op):
    """Gradients that arrive strided or expanded give what contiguous ones give; they are not written to, nor kept."""
    problems = []
    for k in range(len(cases(op))):

        def fresh(k=k) -> Case:
            return cases(op, float64, requires_grad=True)[k]

        outputs = [y for y in fresh().run() if isinstance(y, Tensor) and y.requires_grad]
        rng = np.random.default_rng(5)
        values = [np.asarray(rng.uniform(-1, 1, y.shape)) for y in outputs]
        same = [np.full(y.shape, 0.75) for y in outputs]
        for name, plain, arriving in (
            ("strided", values, [from_array(strided(v)) for v in values]),
            ("channels_last", values, [from_array(channels_last(v)) for v in values]),
            (
                "expanded",
                same,
                [
                    tl.tensor(0.75, dtype=float64).expand(*y.shape) if y.ndim else tl.tensor(0.75, dtype=float64)
                    for y in outputs
                ],
            ),
        ):
            before = [g._arr.tobytes() for g in arriving]
            wanted, _ = gradients(fresh(), [from_array(v.copy()) for v in plain])
            case = fresh()
            try:
                got, _ = gradients(case, arriving)
                tl.autograd.backward([y for y in case.run() if isinstance(y, Tensor) and y.requires_grad], arriving)
            except Exception as error:
                problems.append(f"{case}\n  {name} gradient: {type(error).__name__}: {error}")
                continue
            for n, (a, b) in enumerate(zip(got, wanted)):
                if not nearly(a, b):
                    problems.append(f"{case}\n  gradient {n} differs when the incoming gradient is {name}")
            if [g._arr.tobytes() for g in arriving] != before:
                problems.append(f"{case}\n  backward wrote to the {name} gradient it was given")
            problems += [
                f"{case}\n  .grad shares memory with the incoming {name} gradient"
                for t in case.floats()
                for g in arriving
                if t.grad is not None and t.grad._spec.size and np.may_share_memory(t.grad._arr, g._arr)
            ]
    report(problems)


def strided(values: np.ndarray) -> np.ndarray:
    """The same values, every other element of a larger array with its axes reversed."""
    if not values.ndim:
        return values
    room = np.zeros((*values.shape[::-1][:-1], values.shape[0] * 2))[..., ::2].T
    room[...] = values
    return room


def channels_last(values: np.ndarray) -> np.ndarray:
    """The same values with the memory of (N, H, W, C), where there are four dimensions."""
    return values.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) if values.ndim == 4 else values.copy()


@pytest.mark.parametrize("op", [pytest.param(p, id=p.name) for p in primitives()])
def test_text_says_what_apply_says(op):
    """The straight-line text of a call and ``Primitive.apply`` give the same bits, and the same gradients."""
    problems = []
    for layout in layouts(op):
        n = len(cases(op))
        for k in range(n):
            results = []
            for context in (plain_words, None):
                cases(op, float32, layout, requires_grad=True)[k].run()  # so that the text finds an entry
                case = cases(op, float32, layout, requires_grad=True)[k]
                if context is None:
                    results.append(gradients_and_outputs(case))
                else:
                    with context():
                        results.append(gradients_and_outputs(case))
            (grads_a, outs_a), (grads_b, outs_b) = results
            for what, left, right in (("output", outs_a, outs_b), ("gradient", grads_a, grads_b)):
                if len(left) != len(right) or not all(map(same_bits, left, right)):
                    problems.append(f"{case} ({layout})\n  the {what}s of text and apply differ")
            if [y._spec for y in outs_a if isinstance(y, Tensor)] != [y._spec for y in outs_b if isinstance(y, Tensor)]:
                problems.append(f"{case} ({layout})\n  the specs of text and apply differ")
    report(problems)


def gradients_and_outputs(case: Case) -> tuple:
    reseed()
    outputs = case.run()
    differentiable = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
    inputs = [t for t in case.floats() if t.requires_grad]
    if not differentiable or not inputs or not case.op.differentiable:
        return [], outputs
    starts = [from_array(np.full(y.shape, 0.5, y.dtype.np)) for y in differentiable]
    return list(tl.autograd.grad(differentiable, inputs, starts, allow_unused=True)), outputs


# ---- into, in place, out=
INTO = [
    pytest.param(p, impl, id=f"{p.name}-{impl}")
    for p in primitives()
    for impl in implementations(p)
    if not (p.view or p.dynamic or p.mutates or p.multiple or len(p.outputs) != 1)
]


@pytest.mark.parametrize(("op", "impl"), INTO)
def test_into(op, impl):
    """``into`` writes what a call returns, also where the destination is, or overlaps, one of the inputs."""
    problems = []
    with implementation(impl):
        for layout in layouts(op):
            for case in cases(op, float32, layout):
                for arrays, kw, _ in runs_of(case):
                    problems += [f"{case} ({layout})\n  {text}" for text in into_problems(op, arrays, kw)]
    report(problems)


def into_problems(op: Primitive, arrays: tuple, kw: dict) -> list:
    def tensors() -> list:
        return [None if a is None else from_array(a.copy(order="K")) for a in arrays]

    expected = op.function(*tensors(), **kw)
    shape, d = tuple(expected.shape), expected.dtype
    problems = []

    def check(what: str, dest: Tensor, args: list) -> None:
        kept = [None if a is None or np.may_share_memory(a._arr, dest._arr) else a._arr.copy() for a in args]
        version = dest._version
        result = op.into(dest, *args, **kw)
        if result is not dest or not same_bits(dest, expected):
            problems.append(f"into {what} gave {dest._arr!r}; a call gives {expected._arr!r}")
        if dest._version == version:
            problems.append(f"into {what} did not count as a write")
        problems.extend(
            f"into {what} modified input {n}"
            for n, (a, old) in enumerate(zip(args, kept))
            if old is not None and a._arr.tobytes() != old.tobytes()
        )

    check("a new tensor", from_array(np.ones(shape, d.np)), tensors())
    room = np.ones((*shape[:-1], shape[-1] * 2), d.np)[..., ::2] if shape else np.ones((), d.np)
    check("a strided tensor", from_array(room), tensors())
    for k, a in enumerate(arrays):
        if a is None or a.shape != shape or a.dtype != d.np:
            continue
        args = tensors()
        check(f"its own input {k}", args[k], args)
        if shape and shape[0]:
            args = tensors()
            room = np.ones((shape[0] + 1, *shape[1:]), d.np)
            room[:-1] = a
            args[k] = from_array(room[:-1])
            check(f"a tensor that overlaps input {k}", from_array(room[1:]), args)
            args = tensors()
            room = np.ones((shape[0] + 1, *shape[1:]), d.np)
            room[1:] = a
            args[k] = from_array(room[1:])
            check(f"a tensor that overlaps input {k} from below", from_array(room[:-1]), args)
    return problems


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops() if op.in_place])
def test_in_place(op):
    """``x.op_(...)`` writes what ``op(x, ...)`` returns into x and has its gradient."""
    problems = []
    for name in op.in_place:
        for k in range(len(cases(op))):
            case = cases(op, float64, requires_grad=op.differentiable)[k]
            args, kwargs = case.call()
            if not args or not isinstance(args[0], Tensor):
                continue
            expected = op.call(*args, **kwargs)
            x = args[0]
            y = x.clone()
            fits = expected.shape == x.shape and can_cast(expected.dtype, x.dtype)
            try:
                result = getattr(y, name)(*args[1:], **kwargs)
            except RuntimeError as error:
                if fits:
                    problems.append(f"{case}\n  {name}: {type(error).__name__}: {error}")
                elif not str(error).startswith(name[:-1]) and not recognisable(op, str(error).replace("_:", ":", 1)):
                    problems.append(f"{case}\n  {name}: the message does not name it: {error}")
                continue
            if not fits:
                problems.append(f"{case}\n  {name}: a result of {expected._spec} was written into {x._spec}")
                continue
            if result is not y or y.dtype is not x.dtype or not same_bits(y, expected.to(x.dtype)):
                problems.append(f"{case}\n  {name}: wrote another result")
            if inconsistent(y):
                problems.append(f"{case}\n  {name}: {inconsistent(y)}")
            inputs = [t for t in case.floats() if t.requires_grad]
            if expected.requires_grad != y.requires_grad:
                if expected.dtype is y.dtype:
                    problems.append(
                        f"{case}\n  {name}: requires_grad is {y.requires_grad}; the op's is {expected.requires_grad}"
                    )
            elif inputs and y.requires_grad:
                start = from_array(np.random.default_rng(2).uniform(-1, 1, y.shape).astype(y.dtype.np))
                for a, b in zip(
                    tl.autograd.grad(y, inputs, start, allow_unused=True),
                    tl.autograd.grad(expected, inputs, start, allow_unused=True),
                ):
                    if not nearly(a, b):
                        problems.append(f"{case}\n  {name}: its gradient is not the op's")
    report(problems)


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops() if op.takes_out])
def test_out(op):
    """``out=`` gets the result: when it fits, when it is empty, and when it is one of the inputs or overlaps it."""
    problems = []
    for k in range(len(cases(op))):
        case = cases(op, float64)[k]
        args, kwargs = case.call()
        expected = op.call(*args, **kwargs)
        if not isinstance(expected, Tensor):
            continue

        def check(what: str, out: Tensor, args: list, case=case, kwargs=kwargs, expected=expected) -> None:
            result = op.call(*args, **kwargs, out=out)
            if result is not out or not same_bits(out, expected):
                problems.append(f"{case}\n  out={what}: got {out._arr!r}; wanted {expected._arr!r}")
            if inconsistent(out):
                problems.append(f"{case}\n  out={what}: {inconsistent(out)}")

        shape, d = tuple(expected.shape), expected.dtype
        check("a tensor that fits", from_array(np.ones(shape, d.np)), args)
        check(
            "a strided tensor",
            from_array(np.ones((*shape[:-1], shape[-1] * 2), d.np)[..., ::2] if shape else np.ones((), d.np)),
            args,
        )
        check("an empty tensor", tl.empty(0, dtype=d), args)
        for n, a in enumerate(args):
            if isinstance(a, Tensor) and tuple(a.shape) == shape and a.dtype is d:
                mine = a.clone()
                check(f"argument {n}", mine, [mine if m == n else b for m, b in enumerate(args)])
                if shape and shape[0]:
                    room = np.ones((shape[0] + 1, *shape[1:]), d.np)
                    room[:-1] = a._arr
                    check(
                        f"a tensor that overlaps argument {n}",
                        from_array(room[1:]),
                        [from_array(room[:-1]) if m == n else b for m, b in enumerate(args)],
                    )
        if d.is_floating_point:
            with pytest.raises(RuntimeError, match="can't be cast"):
                op.call(*args, **kwargs, out=tl.zeros(shape, dtype=tl.int64))
    report(problems)


@pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in ops() if op.methods])
def test_method(op):
    """``x.op(...)`` is ``op(x, ...)``."""
    problems = []
    for name in op.methods:
        for k in range(len(cases(op))):
            case = cases(op, float64)[k]
            args, kwargs = case.call()
            if not args or not isinstance(args[0], Tensor):
                continue
            reseed()
            expected = flat_result(op.call(*args, **kwargs))
            reseed()
            got = flat_result(getattr(args[0], name)(*args[1:], **kwargs))
            if not all(map(same_bits, got, expected)):
                problems.append(f"{case}\n  .{name} gave another result than the function")
    report(problems)


def flat_result(result) -> list:
    return list(result) if isinstance(result, (tuple, list)) else [result]


@pytest.mark.parametrize(("name", "float_type"), WIDER)
def test_wider_tolerance_is_needed(name, float_type):
    """An op with a tolerance of its own states the reason, and fails the usual one."""
    op = TABLE[name]
    rtol, atol, reason = WIDER[name, float_type]
    usual = usual_tolerance(op)[float_type]
    assert reason and (rtol, atol) > usual
    missed = False
    for layout in layouts(op):
        for case in cases(op, float_type, layout):
            expected = reference(case)
            missed |= any(
                not np.allclose(to_numpy(y), r, *usual, equal_nan=True)
                for y, r in zip(case.run(), expected)
                if isinstance(y, Tensor)
            )
    assert missed, f"{name} meets the usual tolerance of {float_type}; take its entry out"
