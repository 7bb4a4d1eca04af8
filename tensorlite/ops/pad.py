"""Padding: a border of one value, of mirrored, repeated or wrapped elements; negative widths crop. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.errors import ShapeError
from tensorlite.ops.cast import laid_as
from tensorlite.ops.rows import index_select
from tensorlite.shapes import index

MODES = ("constant", "reflect", "replicate", "circular")


@primitive(name="pad", torch="nn.functional.pad", signals=False)
def pad_p(xp, x, out, *, widths, value):
    """x with so much of the value before and after each dimension; less than 0 takes away."""
    out.fill(value)
    into = tuple(slice(max(b, 0), max(b, 0) + max(n + min(b, 0) + min(a, 0), 0)) for n, (b, a) in zip(x.shape, widths))
    of = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, widths))
    out[into] = x[of]


@pad_p.spec
def _(x, *, widths, value):
    shape = tuple(n + b + a for n, (b, a) in zip(x.shape, widths))
    if any(n < 0 for n in shape):
        raise ShapeError(
            f"pad: widths {widths} for {x.shape} give {shape}; wanted sizes of 0 or more (negative output size, "
            "which is invalid)"
        )
    return x.like(*shape).laid(x.packed().format)


pad_p.op.moves = True
pad_p.kernel(  # the GPU's walk is through five dimensions, those without a border joined
    "cuda",
    "join.pad",
    "",
    when=lambda x, *, widths, value: x.ndim <= 5 or sum(w != (0, 0) for w in widths) <= 2,
    formats=ANY,
)
# what was taken away gets no gradient, and what was added gives none
pad_p.grad(x=lambda g, widths: pad_p(g, widths=tuple((-b, -a) for b, a in widths), value=0))


@pad_p.cases
def _(make):
    yield dict(input=make(2, 3), pad=(1, 2))
    yield dict(input=make(2, 3), pad=(1, 2, 0, 1), value=2.5)
    yield dict(input=make(2, 3, 2), pad=(0, 0, 2, 0), mode="constant")
    yield dict(input=make(2, 5), pad=(-1, -2))
    yield dict(input=make(2, 5), pad=(-1, 2, 3, -1))
    yield dict(input=make(0, 3), pad=(1, 1))
    yield dict(input=make.ints(3), pad=(1, 1), value=7)
    yield dict(input=make.bools(3), pad=(0, 1))
    yield dict(input=make(2, 5), pad=(1, 2), mode="reflect")
    yield dict(input=make(2, 3, 4), pad=(2, 1, 1, 2), mode="reflect")
    yield dict(input=make(2, 3), pad=(4, 1), mode="replicate")
    yield dict(input=make(2, 3, 4, 3), pad=(1, 0, 2, 2), mode="replicate")
    yield dict(input=make(2, 3), pad=(3, 1), mode="circular")
    yield dict(input=make(2, 2, 3, 4), pad=(1, 2, 3, 0), mode="circular")
    yield dict(input=make(2, 3, 3, 3), pad=(1, 1, 0, 2, 2, 1), mode="replicate")
    yield RuntimeError, dict(input=make(2, 3), pad=(1, 2, 3))
    yield RuntimeError, dict(input=make(3), pad=(1, 2, 1, 1))
    yield RuntimeError, dict(input=make(2, 3), pad=(-2, -2))
    yield RuntimeError, dict(input=make(2, 3), pad=(3, 0), mode="reflect")
    yield RuntimeError, dict(input=make(2, 3), pad=(4, 0), mode="circular")
    yield NotImplementedError, dict(input=make(3), pad=(1, 1), mode="reflect")
    yield NotImplementedError, dict(input=make(3, 3), pad=(1, 1), mode="mirror")


@pad_p.ref
def _(input, pad, mode="constant", value=0):
    widths = [(0, 0)] * (input.ndim - len(pad) // 2) + [(pad[k], pad[k + 1]) for k in range(len(pad) - 2, -1, -2)]
    grown = [(max(b, 0), max(a, 0)) for b, a in widths]
    how = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    y = np.pad(input, grown, how, **(dict(constant_values=value) if mode == "constant" else {}))
    return y[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(y.shape, widths))]


def _sources(n: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which element each place of the padded dimension shows."""
    at = np.arange(-before, n + after)
    if mode == "circular":
        return at % n
    if mode == "replicate":
        return np.clip(at, 0, n - 1)
    return n - 1 - np.abs(n - 1 - np.abs(at))


@face(pad_p)
def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """input with a border. ``pad`` is (left, right) of the last dimension, then of the one before it, and so on.

    ``mode`` "constant" fills with ``value`` (0 unless given), "reflect" mirrors at the outermost elements, "replicate"
    repeats them, "circular" goes on at the other end. These three take a pair for each of the last dimensions and one
    or two dimensions before them. Negative widths crop.

    >>> import tensorlite as tl
    >>> tl.nn.functional.pad(tl.tensor([[1.0, 2.0, 3.0]]), (2, 1), mode="reflect")
    tensor([[3., 2., 1., 2., 3., 2.]])
    """
    given, shape = tuple(index("pad", p) for p in pad), input._spec.shape
    if len(given) % 2 or len(given) > 2 * len(shape):
        raise ShapeError(
            f"pad: {len(given)} widths for {len(shape)} dimensions; padding length must be divisible by 2 and no more "
            "than twice the number of dimensions of the input"
        )
    pairs = [(given[k], given[k + 1]) for k in range(len(given) - 2, -1, -2)]
    if mode == "constant":
        widths = ((0, 0),) * (len(shape) - len(pairs)) + tuple(pairs)
        return pad_p(input, widths=widths, value=0 if value is None else value)
    if mode not in MODES:
        raise NotImplementedError(f"pad: unrecognised padding mode {mode}; wanted one of {', '.join(MODES)}")
    if value is not None and value != 0:
        raise ValueError(f'pad: value {value}; padding mode "{mode}" doesn\'t take in value argument')
    if not 1 <= len(pairs) <= 3 or len(shape) - len(pairs) not in (1, 2):
        raise NotImplementedError(
            f"pad: {len(pairs)} pairs for {len(shape)} dimensions; only 2D, 3D, 4D, 5D padding with non-constant "
            "padding are supported for now"
        )
    own = input
    for k, (before, after) in enumerate(pairs):
        dim = len(shape) - len(pairs) + k
        n = shape[dim]
        most = {"reflect": n - 1, "circular": n}.get(mode)
        if most is not None and max(before, after) > most:
            raise ShapeError(
                f"pad: {mode} padding of ({before}, {after}) at dimension {dim} of {shape}; padding size should be at "
                f"most {most}"
            )
        if n + before + after < 1 or n < 1:
            raise ShapeError(f"pad: ({before}, {after}) at dimension {dim} of {shape}; wanted something to be left")
        if (before, after) != (0, 0):
            input = index_select(input, dim, placed(_sources(n, before, after, mode), input.device))
    return laid_as(input, own._spec)
