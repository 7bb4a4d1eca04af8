"""For whoever works on tensorlite: what is generated from the ops, and the start of a new one. Floor 7.

python -m tensorlite.dev table [--check]   docs/ops.md, the coverage table
python -m tensorlite.dev stubs [--check]   the .pyi files that type checkers read
python -m tensorlite.dev cuda [--check]    docs/cuda-kernels.md, what the CUDA kernels use (needs NVRTC, but no GPU)
python -m tensorlite.dev new FAMILY OP     a whole small op at the end of tensorlite/ops/FAMILY.py, to be changed
"""

from __future__ import annotations

import argparse
import ast
import keyword
import sys
from collections import Counter
from pathlib import Path

from tensorlite.autograd.cases import Make
from tensorlite.autograd.op import TABLE, Op
from tensorlite.autograd.primitive import Primitive
from tensorlite.autograd.tensor import Tensor

ROOT = Path(__file__).resolve().parent.parent
TABLE_FILE = ROOT / "docs" / "ops.md"
CUDA_FILE = ROOT / "docs" / "cuda-kernels.md"
COLUMNS = (
    "op",
    "kind",
    "cases",
    "reference",
    "gradient",
    "second order",
    "cpu kernel",
    "cuda kernel",
    "capture",
    "methods",
    "PyTorch",
)
NONE = "·"

HEADER = """\
# Every op

Written by `python -m tensorlite.dev table` from the ops themselves; a test fails when it is stale.

- **kind**: a *primitive* has a forward of its own (*view*: computes nothing; *effect*: writes to its inputs; *dynamic*:
  sizes depend on values); a *composite* is made of other ops and gets kernels, capture and gradient from them.
- **cases**: sample calls that every test below is made from, and calls that must be refused (after the `+`).
- **reference**: *own* is an independent formula in NumPy, float64; *PyTorch* is compared in the parity run alone.
- **gradient**: the inputs that have one; *none* where there is none by nature; *parts* where other ops give it.
- **second order**: whether the gradient can be differentiated again, or why not.
- **cpu kernel**, **cuda kernel**: compiled kernels, with the dtypes they take. Every op also runs on plain NumPy.
- **capture**: how a recorded program would hold it: *step*, *free* (a view costs nothing), *parts*, or *no*.
- **methods**: names on `Tensor`; `_` where it also works in place, `out` where it takes `out=`.
- **PyTorch**: the name it is compared with in the parity run.

From them come the tests of `tests/test_ops.py`: value, shape and dtype against the reference for float64, float32,
float16 and bfloat16, contiguous and strided, plain and compiled; inputs unmodified; equal bits in a second run;
gradient and second order against central differences; gradients that arrive strided or expanded; refusals; in place,
`out=` and overlapping memory. `tests/test_parity.py` compares the same cases with PyTorch.
"""


# ---- the coverage table
def table() -> str:
    """The text of docs/ops.md."""
    families: dict[str, list[Op]] = {}
    for op in TABLE.values():
        families.setdefault(op.module.rpartition(".")[2], []).append(op)
    parts = [HEADER, _totals()]
    for family, members in families.items():
        parts.append(f"\n## {family}\n\n| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        parts += ["| " + " | ".join(_row(op)) + " |" for op in sorted(members, key=lambda op: op.name)]
    alone = sorted(op.name for op in TABLE.values() if op.torch is None)
    parts.append(
        "\n## Not compared with PyTorch\n\nPyTorch has no function of the kind; the reference alone judges "
        "them: " + ", ".join(f"`{n}`" for n in alone) + "."
    )
    return "\n".join(parts) + "\n"


def _totals() -> str:
    count = Counter(op.kind for op in TABLE.values())
    calls = [_case_counts(op) for op in TABLE.values()]
    kernels = sum(isinstance(op, Primitive) and bool(op.kernels) for op in TABLE.values())
    return (
        f"{len(TABLE)} ops: {count['primitive']} primitives, {count['composite']} composites; "
        f"{sum(c for c, _ in calls)} cases and {sum(r for _, r in calls)} refusals; {kernels} primitives with "
        "compiled kernels."
    )


def _row(op: Op) -> list[str]:
    good, refused = _case_counts(op)
    return [
        f"`{op.name}`",
        _kind(op),
        f"{good} + {refused}" if refused else str(good),
        "own" if op.reference is not None else "PyTorch" if op.torch is not None else NONE,
        _gradient(op),
        NONE if not op.differentiable else op.first_order_only or "yes",
        _kernels(op, "cpu"),
        _kernels(op, "cuda"),
        _capture(op),
        _methods(op),
        NONE if op.torch is None else f"`{op.torch}`" if isinstance(op.torch, str) else "by a function",
    ]


def _case_counts(op: Op) -> tuple[int, int]:
    """How many calls an op is tried with, and how many it must refuse."""
    given = [case for k, make_cases in enumerate(op.case_makers) for case in make_cases(Make(k))]
    refused = sum(isinstance(case, tuple) for case in given)
    return len(given) - refused, refused


def _kind(op: Op) -> str:
    if not isinstance(op, Primitive):
        return "composite"
    for word, holds in (
        ("view", op.view),
        ("effect", op.mutates),
        ("dynamic", op.dynamic),
        ("element-wise", op.elementwise),
    ):
        if holds:
            return f"primitive, {word}"
    return "primitive"


def _gradient(op: Op) -> str:
    if not op.differentiable:
        return "none"
    if not isinstance(op, Primitive):
        return "parts"
    if op.joint is not None:
        return "one rule for all"
    return ", ".join(i for i in op.inputs if op.rules.get(i) is not None) or "none"


def _kernels(op: Op, device: str) -> str:
    found = [k for k in getattr(op, "kernels", ()) if k[0] == device]
    return ", ".join(f"`{name}` {' '.join(dtypes)}" for _, name, dtypes, *_ in found) or NONE


def _capture(op: Op) -> str:
    if not isinstance(op, Primitive):
        return "parts"
    return "no" if op.dynamic else "free" if op.view else "step"


def _methods(op: Op) -> str:
    names = op.methods or ((op.name,) if hasattr(Tensor, op.name) else ())
    shown = [f"`{n}`" + (" `_`" if n + "_" in op.in_place else "") for n in names]
    shown += [f"`{n}`" for n in op.in_place if n[:-1] not in names]
    return ", ".join(shown + ["`out`"] * op.takes_out) or NONE


def write_table(check: bool) -> int:
    """Write docs/ops.md, or with ``check`` only say whether it is stale."""
    return _write(TABLE_FILE, table(), "table", check)


def write_cuda(check: bool) -> int:
    """Compile all CUDA kernels for all architectures; print and write docs/cuda-kernels.md, or say that it is stale."""
    from tensorlite.backends.launch import limits

    text = limits.report()
    if not check:
        print(text)
    return _write(CUDA_FILE, text, "cuda", check)


def _write(file: Path, text: str, command: str, check: bool) -> int:
    fresh = file.exists() and file.read_text(encoding="utf-8") == text
    if check and not fresh:
        print(f"{file.relative_to(ROOT)} is stale: run `python -m tensorlite.dev {command}`")
    elif not fresh:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file.relative_to(ROOT)}")
    return int(check and not fresh)


# ---- the start of an op
SKELETON = '''

# ---- OP
@primitive(name="OP", torch=None)  # torch: PyTorch's name of it; None where PyTorch has no such function
def OP_p(xp, x, out, *, scale):
    """x * scale.  x of any shape, in a floating-point dtype -> the same shape and dtype."""
    xp.multiply(x, scale, out)


@OP_p.spec
def _(x, *, scale):
    if not x.dtype.is_floating_point:
        raise DTypeError(f"OP: got {x.dtype}; wanted a floating-point dtype")
    return x.like(*x.shape)


OP_p.grad(x=lambda g, scale: OP_p(g, scale=scale))


@OP_p.cases
def _(make):
    yield dict(input=make(3, 4))
    yield dict(input=make(2, 0), scale=0.5)
    yield dict(input=make())
    yield DTypeError, dict(input=make.ints(3))


@OP_p.ref
def _(input, scale=2.0):
    return input / (1.0 / scale)


@face(OP_p, method=True, in_place=True, out=True)
def OP(input: Tensor, scale: float = 2.0) -> Tensor:
    """input * scale.

    >>> from tensorlite.ops.FAMILY import OP
    >>> OP(Tensor([1.0, 2.0]))
    tensor([2., 4.])
    """
    return OP_p(input, scale=scale)
'''
NEEDED = {
    "face": "from tensorlite.autograd.methods import face",
    "primitive": "from tensorlite.autograd.primitive import primitive",
    "Tensor": "from tensorlite.autograd.tensor import Tensor",
    "DTypeError": "from tensorlite.errors import DTypeError",
}


def new_op(family: str, name: str) -> int:
    """Append a whole small op to a family's file: every part is there, and its tests pass; change them one by one."""
    path = Path(__file__).resolve().parent / "ops" / f"{family.removesuffix('.py')}.py"
    if not path.exists():
        families = ", ".join(sorted(p.stem for p in path.parent.glob("*.py") if p.stem != "__init__"))
        return _refuse(f"new: no family {family!r}; wanted one of {families}")
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        return _refuse(f"new: {name!r} is no name for a function")
    if name in TABLE or hasattr(Tensor, name):
        return _refuse(f"new: {name!r} is taken")
    text = path.read_text(encoding="utf-8")
    skeleton = SKELETON.replace("OP", name).replace("FAMILY", path.stem)
    path.write_text(_with_imports(text).rstrip("\n") + "\n" + skeleton, encoding="utf-8")
    print(
        f"appended {name} to tensorlite/ops/{path.name}: forward, spec, grad, cases, ref and face; change each.\n"
        f"Make it public in tensorlite/__init__.py, then:\n"
        f"  python -m tensorlite.dev table && python -m tensorlite.dev stubs\n"
        f'  python -m pytest tests/test_ops.py -k "{name}"'
    )
    return 0


def _with_imports(text: str) -> str:
    """A module's text in which the names that the skeleton needs are imported."""
    tree = ast.parse(text)
    there = {a.asname or a.name for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    last = max((n.end_lineno or 0 for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))), default=0)
    lines = text.split("\n")
    return "\n".join([*lines[:last], *(line for name, line in NEEDED.items() if name not in there), *lines[last:]])


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tensorlite.dev", description="What is generated from the ops.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, others, text in (
        ("table", ["docs"], "write docs/ops.md"),
        ("stubs", [], "write the type stubs"),
        ("cuda", [], "compile the CUDA kernels and write docs/cuda-kernels.md"),
    ):
        command = commands.add_parser(name, aliases=others, help=text)
        command.add_argument("--check", action="store_true", help="write nothing; exit 1 where it is stale")
    command = commands.add_parser("new", help="append a whole small op to a family's file")
    command.add_argument("family", help="a file of tensorlite/ops, such as elementwise")
    command.add_argument("op", help="the op's name")
    given = parser.parse_args(arguments)
    if given.command == "new":
        return new_op(given.family, given.op)
    if given.command == "stubs":
        from tensorlite import stubs

        return stubs.main(["--check"] if given.check else [])
    return (write_cuda if given.command == "cuda" else write_table)(given.check)


if __name__ == "__main__":
    sys.exit(main())
