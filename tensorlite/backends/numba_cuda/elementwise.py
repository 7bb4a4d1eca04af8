"""Map and zip: functions of one and of two elements, over inputs that broadcast by their strides. Floor 1.

Each is a line of text; a kernel is written around it for an element type and a number of dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from tensorlite.backends.numba_cuda.launching import (
    FLOATS,
    FUNCTIONS,
    TYPES,
    Kernel,
    array_type,
    digits,
    line,
    maths,
    merged,
    on_device,
    steps,
    written,
)

# of a, or of a and b; before the value there may be assignments. Constants stand by their names
ALIKE = {  # for numbers of every type
    "zeros": "zero",
    "copy": "a",
    "neg": "-a",
    "abs": "abs(a)",
    "sign": "one if a > zero else (-one if a < zero else a)",
    "relu": "zero if a <= zero else a",
    "add": "a + b",
    "sub": "a - b",
    "mul": "a * b",
    "maximum": "a if a > b or a != a else b",
    "minimum": "a if a < b or a != a else b",
    "relu_dx": "zero if b <= zero else a",
}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
BOOLEAN = {k: f"a {sign} b" for k, sign in COMPARISONS.items()} | {
    "isnan": "a != a",
    "isinf": "abs(a) == inf",
    "isfinite": "abs(a) < inf",
    "logical_not": "a == zero",
}
REAL = {name: f"{name}(a)" for name in (*FUNCTIONS, "erf")} | {
    "round": "rint(a)",
    "reciprocal": "one / a",
    "sigmoid": "one / (one + exp(-a))",
    "silu": "a / (one + exp(-a))",
    "softplus": "a if a * beta > threshold else log1p(exp(a * beta)) / beta",
    "logsigmoid": "(a if a < zero else zero) - log1p(exp(-abs(a)))",
    "leaky_relu": "a if a > zero else slope * a",
    "elu": "a if a > zero else alpha * expm1(a)",
    "hardtanh": "low if a < low else (high if a > high else a)",
    "gelu": "half * a * (one + erf(a * root))",
    "gelu_tanh": "half * a * (one + tanh(bend * (a + cubic * a * a * a)))",
    "div": "a / b",
    "pow": "pow(a, b)",
    "atan2": "atan2(a, b)",
    "tanh_dx": "a * (one - b * b)",
    "sigmoid_dx": "a * (b * (one - b))",
    "sqrt_dx": "a / (b + b)",
    "silu_dx": "s = one / (one + exp(-b)); a * (s * (one + b * (one - s)))",
    "softplus_dx": "a if b * beta > threshold else a / (one + exp(-beta * b))",
    "logsigmoid_dx": "a / (one + exp(b))",
    "leaky_relu_dx": "a if b > zero else slope * a",
    "elu_dx": "a if b > zero else a * (alpha * exp(b))",
    "gelu_dx": "a * (half * (one + erf(b * root)) + b * (density * exp(-half * b * b)))",
    "gelu_tanh_dx": "q = b * b; t = tanh(bend * (b + cubic * b * q)); "
    "a * (half * (one + t) + half * b * (one - t * t) * (bend * (one + three * cubic * q)))",
}
NUMBERS = {
    "root": math.sqrt(0.5),
    "density": 1 / math.sqrt(2 * math.pi),
    "bend": math.sqrt(2 / math.pi),
    "cubic": 0.044715,
    "three": 3.0,
}
FORMULAS = ALIKE | BOOLEAN | REAL
INTEGERS = {*ALIKE, *COMPARISONS, "logical_not"}


def inputs_of(op: str) -> list[str]:
    """The letters of the inputs that an op's formula names."""
    names = compile(FORMULAS[op], op, "exec").co_names
    return [letter for letter in "ab" if letter in names]


@cache
def kernel(op: str, short: str, ndim: int | None, constants: tuple = ()) -> Kernel:
    """The kernel of a formula: for arrays in one run (``ndim`` None), or for strides of ``ndim`` dimensions."""
    letters = inputs_of(op)
    *before, value = FORMULAS[op].split("; ")
    if ndim is None:
        count, index, at = "out.shape[0]", [], "i"
    else:
        names = [f"i{k}" for k in range(ndim)]
        count, index = "out.size", digits("i", [f"out.shape[{k}]" for k in range(ndim)], names)
        at = ", ".join(names)
    body = [*index, *(f"{c} = {c}_[{at}]" for c in letters), *before, f"out[{at}] = {value}"]
    text = (
        f"def tl_{op}({', '.join([*(f'{c}_' for c in letters), 'out'])}):\n    i = cuda.grid(1)\n    if i < {count}:\n"
    )
    text += "".join(f"        {row}\n" for row in body)
    names = maths(short) | {k: np.dtype(short).type(v) for k, v in constants}
    if short in FLOATS:
        names |= {k: np.dtype(short).type(v) for k, v in NUMBERS.items()}
    kind = lambda s: f"{TYPES[s]}[::1]" if ndim is None else array_type(s, ndim)
    types = [kind(short) for _ in letters] + [kind("b1" if op in BOOLEAN else short)]
    return written(f"tl_{op}", text, names, ", ".join(types))


def launch(op: str, short: str, constants: tuple, *arrays: Any) -> None:
    """Inputs and then the output, which the inputs broadcast to."""
    out = arrays[-1]
    n = math.prod(out.shape)
    if not n:
        return
    grid, block = line(n)
    if all(a.shape == out.shape and a.flags.c_contiguous for a in arrays):
        kernel(op, short, None, constants)(grid, block, *(on_device(a, (n,), (a.itemsize,)) for a in arrays))
        return
    sizes, strides = merged(out.shape, *(steps(a, out.shape) for a in arrays))
    if not sizes:
        sizes, strides = (1,), [(a.itemsize,) for a in arrays]
    given = [on_device(a, sizes, s) for a, s in zip(arrays, strides)]
    kernel(op, short, len(sizes), constants)(grid, block, *given)


def made(op: str, specs: tuple, outs: tuple, kw: dict) -> Callable | None:
    """The call of one op, or None where its dtypes are not ours."""
    if op in ("gelu", "gelu_dx"):
        op = op.replace("gelu", "gelu_tanh") if kw["approximate"] else op
        kw = {}
    kinds = {s.dtype.short for s in specs}
    short = specs[0].dtype.short
    if len(kinds) > 1 or short == "b1" or short not in (TYPES if op in INTEGERS else FLOATS):
        return None
    return partial(launch, op, short, tuple(sorted(kw.items())))


def factory(op: str) -> Callable | None:
    return partial(made, op) if op in FORMULAS and "tanh_dx" not in op[1:] and op != "gelu_tanh" else None
