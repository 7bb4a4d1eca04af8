"""Chains of element-wise ops as one op, which compiled programs put in their place. Floor 3.

A chain is written as constants: ``steps``, of (op, its constants, the values that it reads), where values are
numbered from the inputs on through the steps; ``results``, the values that are kept; and ``spread``, of each input
that does not lie as the results do: (period, repeat), where element i of the results, in the order of memory, meets
element i // repeat % period of the input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite.autograd.op import TABLE
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec, format_of
from tensorlite.errors import ShapeError

MOST = 48  # inputs, steps and results

# ops with a body in kernels/cpu/elementwise.cpp, and those that may read numbers as constants behind their tensors
BODIES = frozenset((
    "add", "sub", "mul", "div", "maximum", "minimum", "neg", "abs", "sign", "sqrt", "reciprocal", "relu",
    "relu_dx", "sqrt_dx", "tanh_dx", "sigmoid_dx", "exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf",
    "silu", "silu_dx", "mish", "mish_dx", "logsigmoid", "logsigmoid_dx", "elu", "elu_dx", "softplus",
    "softplus_dx", "leaky_relu", "leaky_relu_dx", "gelu", "gelu_dx", "clone", "clamp", "pow", "pow_dx",
))  # fmt: skip
NUMBERS = {"clamp": (1, 2), "pow": (1,), "pow_dx": (2,)}


@primitive(name="fused", torch=None, alias="elementwise")
def fused_p(xp, *arrays, spread, steps, results):
    """Element-wise ops one after the other, element by element; each result is that of the ops by themselves."""
    inputs, outs = arrays[: len(spread)], arrays[len(spread) :]
    values = [a if s is None else _spread_out(xp, a, s, outs[0]) for a, s in zip(inputs, spread)]
    for name, constants, sources in steps:
        op, made = TABLE[name], xp.empty_like(outs[0])
        read = [None if k is None else inputs[k] if n in NUMBERS.get(name, ()) else values[k]
                for n, k in enumerate(sources)]  # fmt: skip
        if op.ufunc is not None:
            getattr(xp, op.ufunc)(*read, made)
        else:
            op.fn(xp, *read, made, **dict(constants))
        values.append(made)
    for out, k in zip(outs, results):
        out[...] = values[k]


fused_p.nograd()  # programs are made of steps whose gradients are recorded already


@fused_p.spec
def _(*specs, spread, steps, results):
    whole = [s for s, how in zip(specs, spread) if how is None]
    if not whole or len(specs) != len(spread):
        raise ShapeError(f"fused: got {list(specs)}; wanted an input for each of {spread}, one of the results' shape")
    out = whole[0].laid(format_of(*whole)).packed()
    for s, how in zip(specs, spread):
        fits = s.shape == out.shape if how is None else s.size == how[0] and out.size % math.prod(how) == 0
        if not fits or s.dtype is not out.dtype:
            raise ShapeError(f"fused: got {s} beside {out}; wanted {how or 'the same'}")
    return (out,) * len(results)


def _alike(*specs: Spec, spread: tuple, steps: tuple, results: tuple) -> bool:
    """Whether the compiled kernel takes this chain: whole inputs lie alike, others have no gaps."""
    whole = {s.format for s, how in zip(specs, spread) if how is None}
    rest = {s.format for s, how in zip(specs, spread) if how is not None}
    return (
        specs[spread.index(None)].size > 0
        and len(whole) == 1
        and rest <= {CONTIGUOUS}
        and len(spread) + len(steps) + len(results) <= MOST
        and {s[0] for s in steps} <= BODIES
    )


fused_p.kernel("cpu", "fused", when=_alike, formats=(CONTIGUOUS, CHANNELS_LAST))


def _spread_out(xp: Any, a: Any, how: tuple, like: Any) -> Any:
    """An input's elements in the places of the results."""
    period, repeat = how
    order = sorted(range(like.ndim), key=lambda d: -like.strides[d])  # as they lie in memory
    row = xp.broadcast_to(a.reshape(1, period, 1), (like.size // (period * repeat), period, repeat))
    return row.reshape([like.shape[d] for d in order]).transpose(np.argsort(order))


@fused_p.cases
def _(make):
    chain = (("mul", (), (0, 1)), ("add", (), (2, 1)), ("relu", (), (3,)))
    yield dict(arrays=[make(3, 4), make(3, 4)], spread=(None, None), steps=chain, results=(4,))
    yield dict(arrays=[make(2, 3, 4, 5), make(2, 3, 4, 5)], spread=(None, None), steps=chain, results=(4, 2))
    yield dict(arrays=[make(3, 4), make(4)], spread=(None, (4, 1)), steps=chain, results=(4, 3))
    yield dict(arrays=[make(3, 4), make(3)], spread=(None, (3, 4)), steps=chain, results=(4,))
    yield dict(arrays=[make(2, 3, 2), make(3)], spread=(None, (3, 2)), steps=chain, results=(4,))
    yield dict(arrays=[make(3, 4), make()], spread=(None, (1, 1)), steps=chain, results=(4,))
    yield dict(arrays=[make(), make()], spread=(None, None), steps=chain, results=(4,))
    yield dict(arrays=[make(0, 4), make(4)], spread=(None, (4, 1)), steps=chain, results=(4,))
    yield ShapeError, dict(arrays=[make(3, 4), make(4)], spread=(None, None), steps=chain, results=(4,))
    yield ShapeError, dict(arrays=[make(3, 4), make(5)], spread=(None, (5, 1)), steps=chain, results=(4,))


@fused_p.ref
def _(arrays, spread, steps, results):
    x, w = arrays
    if spread[1] is not None and w.size == 3:
        w = w.reshape([3 if n == 3 else 1 for n in x.shape])
    product = x * w
    total = product + w
    values = [x, w, product, total, np.where(total > 0, total, 0 * total)]
    return tuple(values[k] for k in results)
