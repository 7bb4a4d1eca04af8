"""einsum: sums of products of tensors, written with letters. Floor 3.

The letters become dimensions, repeated ones diagonals; then two operands at a time meet in one matrix product whose
batch, rows, inner size and columns are groups of letters. All of it is made of other ops, and so has their gradients.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.diagonal import diagonal
from tensorlite.ops.linalg import matmul_p
from tensorlite.ops.shape import permute, reshape
from tensorlite.shapes import index

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # in the order of an output that is not given
_DOTS = -1  # stands for the ellipsis until the operands' dimensions are known


def _numbers(part: str, equation: str) -> tuple[int, ...]:
    """The letters of one operand as numbers, its ellipsis as _DOTS."""
    found, k = [], 0
    part = part.replace(" ", "")
    while k < len(part):
        if part.startswith("...", k):
            found.append(_DOTS)
            k += 3
        elif part[k] in _LETTERS:
            found.append(_LETTERS.index(part[k]))
            k += 1
        else:
            raise ShapeError(
                f"einsum: {part[k]!r} in {equation!r}; wanted letters, spaces, commas, '...' and '->' "
                "(invalid subscript given)"
            )
    if found.count(_DOTS) > 1:
        raise ShapeError(f"einsum: {part!r} in {equation!r}; found '...' for the second time in one operand")
    return tuple(found)


@lru_cache
def _parsed(equation: str) -> tuple[tuple, tuple | None]:
    """The numbers of each operand and of the output, which is None where it is not given."""
    left, arrow, right = equation.partition("->")
    inputs = tuple(_numbers(part, equation) for part in left.split(","))
    return inputs, (_numbers(right, equation) if arrow else None)


def _from_lists(args: tuple) -> tuple[list, tuple, tuple | None]:
    """Operands, their numbers and the output's, from ``einsum(x, [0, 1], y, [1, 2], [0, 2])``."""

    def numbers(given: Any) -> tuple[int, ...]:
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"einsum: got {given!r}; wanted a list of integers and ... after each operand")
        found = tuple(_DOTS if n is Ellipsis else index("einsum", n) for n in given)
        if any(n is not Ellipsis and not 0 <= k < len(_LETTERS) for n, k in zip(given, found)):
            raise ShapeError(f"einsum: subscripts {list(given)}; wanted integers within the range [0, 52)")
        if found.count(_DOTS) > 1:
            raise ShapeError(f"einsum: subscripts {list(given)}; found ... for the second time in one operand")
        return found

    pairs = len(args) // 2
    inputs = tuple(numbers(args[2 * k + 1]) for k in range(pairs))
    return list(args[: 2 * pairs : 2]), inputs, numbers(args[-1]) if len(args) % 2 else None


@lru_cache(1024)
def _resolved(inputs: tuple, output: tuple | None, shapes: tuple) -> tuple:
    """Labels of every dimension, of the output, and all labels' sizes. Labels of an ellipsis come after the letters."""
    if len(inputs) != len(shapes):
        raise ShapeError(
            f"einsum: {len(inputs)} subscripts for {len(shapes)} operands; more or fewer operands were provided than "
            "specified in the equation"
        )
    covered = []
    for subscripts, shape in zip(inputs, shapes):
        named = sum(s != _DOTS for s in subscripts)
        if named > len(shape) or (named < len(shape) and _DOTS not in subscripts):
            raise ShapeError(
                f"einsum: {named} subscripts for an operand of shape {shape}; the number of subscripts must equal the "
                "number of dimensions, or be less and hold '...'"
            )
        covered.append(len(shape) - named if _DOTS in subscripts else 0)
    dots = tuple(range(len(_LETTERS), len(_LETTERS) + max(covered, default=0)))
    labels, sizes = [], {}
    for subscripts, shape, n in zip(inputs, shapes, covered):
        own = tuple(k for s in subscripts for k in ((s,) if s != _DOTS else dots[len(dots) - n :]))
        labels.append(own)
        here: dict[int, int] = {}
        for k, size in zip(own, shape):
            if here.setdefault(k, size) != size:
                raise ShapeError(f"einsum: a repeated subscript has sizes {here[k]} and {size} in shape {shape}")
        for k, size in here.items():
            if size != 1 and sizes.setdefault(k, size) not in (1, size):
                raise ShapeError(f"einsum: operands do not broadcast: a subscript has sizes {sizes[k]} and {size}")
            sizes[k] = size if sizes.get(k, 1) == 1 else sizes[k]
    if output is None:
        letters = [k for own in labels for k in own if k < len(_LETTERS)]
        result = (*dots, *sorted(k for k in set(letters) if letters.count(k) == 1))
    else:
        result = tuple(k for s in output for k in ((s,) if s != _DOTS else dots))
        if len(set(result)) != len(result):
            raise ShapeError("einsum: the output has a subscript twice; output subscripts must appear once")
        if missing := [k for k in result if k not in sizes]:
            raise ShapeError(
                f"einsum: output subscript {_LETTERS[missing[0]]!r} does not appear in the equation for any operand"
            )
    return tuple(labels), result, sizes


@lru_cache(1024)
def _order(labels: tuple, result: tuple, sizes: tuple) -> list:
    """Which operands meet next: positions in the list, whose end the product joins."""
    known, names = dict(sizes), {k: n for n, k in enumerate(sorted({k for own in labels for k in own}))}
    given: list = []
    for own in labels:
        given += [np.broadcast_to(0, [known[k] for k in own]), [names[k] for k in own]]
    return np.einsum_path(*given, [names[k] for k in result], optimize="greedy")[0][1:]


class _Operand:
    """A tensor and the labels of its dimensions, all distinct."""

    def __init__(self, x: Tensor, labels: tuple, sizes: dict):
        labels_ = list(labels)
        for k in dict.fromkeys(labels):
            while labels_.count(k) > 1:  # a repeated label walks along the diagonal, which becomes the last dimension
                a = labels_.index(k)
                b = labels_.index(k, a + 1)
                x = diagonal(x, 0, a, b)
                labels_ = [n for d, n in enumerate(labels_) if d not in (a, b)] + [k]
        flat = [d for d, k in enumerate(labels_) if x._spec.shape[d] == 1 and sizes[k] != 1]
        if flat:  # size 1 stretches to the size that others have, which the product does by itself
            x = x.squeeze(tuple(flat))
        self.x, self.labels = x, [k for d, k in enumerate(labels_) if d not in flat]

    def summed(self, keep: set) -> _Operand:
        """Without the labels that nobody else needs."""
        dims = tuple(d for d, k in enumerate(self.labels) if k not in keep)
        if dims:
            self.x, self.labels = self.x.sum(dims), [k for k in self.labels if k in keep]
        return self

    def laid(self, *groups: list) -> Tensor:
        """With its dimensions in this order, each group as one."""
        at = {k: d for d, k in enumerate(self.labels)}
        shape = self.x._spec.shape
        order = tuple(at[k] for group in groups for k in group)
        x = self.x if order == tuple(range(len(order))) else permute(self.x, order)
        return reshape(x, tuple(math.prod([shape[at[k]] for k in group]) for group in groups))


def _product(a: _Operand, b: _Operand, keep: set, sizes: dict) -> _Operand:
    """The product of two operands, summed over the labels that both have and nobody else needs."""
    a, b = a.summed(keep | set(b.labels)), b.summed(keep | set(a.labels))
    batch = [k for k in a.labels if k in b.labels and k in keep]
    inner = [k for k in a.labels if k in b.labels and k not in keep]
    rows = [k for k in a.labels if k not in b.labels]
    columns = [k for k in b.labels if k not in a.labels]
    if not inner:
        x, y = a.laid(*([k] for k in batch + rows)), b.laid(*([k] for k in batch + columns))
        lead = tuple(sizes[k] for k in batch)
        y = reshape(y, (*lead, *(1 for _ in rows), *(sizes[k] for k in columns)))
        x = reshape(x, (*lead, *(sizes[k] for k in rows), *(1 for _ in columns)))
        product = x * y
    else:  # each side in the order in which it lies, as far as one product can take it
        tx, tw = bool(rows) and a.labels[-1] in rows, b.labels[-1] in inner and bool(columns)
        x = a.laid(batch, inner, rows) if tx else a.laid(batch, rows, inner)
        y = b.laid(batch, columns, inner) if tw else b.laid(batch, inner, columns)
        if not batch:
            x, y = x.squeeze(0), y.squeeze(0)
        product = matmul_p(x, y, tx=tx, tw=tw)
        product = reshape(product, tuple(sizes[k] for k in (*batch, *rows, *columns)))
    made = object.__new__(_Operand)
    made.x, made.labels = product, [*batch, *rows, *columns]
    return made


@op
def einsum(*args: Any) -> Tensor:
    """Sums of products, as in ``einsum("ij,jk->ik", x, w)``: letters name dimensions, what the output lacks is summed.

    A letter twice in one operand takes its diagonal; ``...`` stands for dimensions that broadcast; without ``->`` the
    output has the dimensions of ``...`` and then the letters that appear once, capitals first, in alphabetical order.
    Size 1 stretches. Also ``einsum(x, [0, 1], w, [1, 2], [0, 2])``. Two operands at a time meet in a matrix product;
    more than two in an order that ``numpy.einsum_path`` finds.

    >>> import tensorlite as tl
    >>> x = tl.arange(6.0).reshape(2, 3)
    >>> tl.einsum("ij,kj->ik", x, x)
    tensor([[ 5., 14.],
            [14., 50.]])
    >>> tl.einsum("ii", tl.ones(3, 3))
    tensor(3.)
    """
    if not args:
        raise ValueError("einsum: got nothing; wanted an equation and operands (at least one operand)")
    if isinstance(args[0], str):
        operands = list(args[1]) if len(args) == 2 and isinstance(args[1], (list, tuple)) else list(args[1:])
        inputs, output = _parsed(args[0])
    else:
        operands, inputs, output = _from_lists(args)
    if not operands:
        raise ValueError("einsum: got no operands; wanted at least one operand")
    for x in operands:
        if not isinstance(x, Tensor):
            raise TypeError(f"einsum: an operand is a {type(x).__name__}; wanted Tensors")
    labels, result, sizes = _resolved(inputs, output, tuple(x._spec.shape for x in operands))
    parts = [_Operand(x, own, sizes) for x, own in zip(operands, labels)]
    path: Any = [(0, 1)] if len(parts) == 2 else []
    if len(parts) > 2:
        path = _order(tuple(tuple(p.labels) for p in parts), result, tuple(sizes.items()))
    for meeting in path:
        first, *rest = [parts[k] for k in meeting]
        parts = [p for k, p in enumerate(parts) if k not in meeting]
        for k, other in enumerate(rest):
            needed = set(result).union(*(p.labels for p in (*parts, *rest[k + 1 :])))
            first = _product(first, other, needed, sizes)
        parts.append(first)
    last = parts[0].summed(set(result))
    at = tuple(last.labels.index(k) for k in result)
    return last.x if at == tuple(range(len(at))) else permute(last.x, at)


@einsum.cases
def _(make):
    yield dict(args=("ij,jk->ik", make(2, 3), make(3, 4)))
    yield dict(args=("ij,kj", make(2, 3), make(4, 3)))
    yield dict(args=("bhqd,bhkd->bhqk", make(2, 2, 3, 4), make(2, 2, 5, 4)))
    yield dict(args=("bhqk,bkhd->bqhd", make(2, 2, 3, 4), make(2, 4, 2, 5)))
    yield dict(args=("ji,kj->ik", make(3, 2), make(4, 3)))
    yield dict(args=("bij,bjk", make(2, 3, 4), make(2, 4, 2)))
    yield dict(args=("i,i", make(4), make(4)))
    yield dict(args=("i,j", make(3), make(4)))
    yield dict(args=("i,", make(3), make()))
    yield dict(args=("ij,ij->ij", make(2, 3), make(2, 3)))
    yield dict(args=("ii", make(3, 3)))
    yield dict(args=("ii->i", make(3, 3)))
    yield dict(args=("iji->j", make(3, 2, 3)))
    yield dict(args=("iij,jk->ik", make(2, 2, 3), make(3, 4)))
    yield dict(args=("ijk->k", make(2, 3, 4)))
    yield dict(args=("bA", make(2, 3)))
    yield dict(args=("  i j -> j i ", make(2, 3)))
    yield dict(args=("->", make()))
    yield dict(args=("...ij->...ji", make(2, 3, 4)))
    yield dict(args=("...ij,...jk", make(2, 1, 2, 3), make(4, 3, 2)))
    yield dict(args=("i...,i...->...", make(2, 3), make(2, 4, 3)))
    yield dict(args=("...i->i", make(2, 3)))
    yield dict(args=("ij,jk->ik", make(2, 1), make(3, 4)))
    yield dict(args=("ij,jk->ijk", make(2, 1), make(3, 4)))
    yield dict(args=("ij,jk,kl->il", make(2, 3), make(3, 4), make(4, 2)))
    yield dict(args=("i,j,k->kji", make(2), make(3), make(4)))
    yield dict(args=("bn,anm,bm->ba", make(2, 3), make(4, 3, 5), make(2, 5)))
    yield dict(args=("a,ab,b,bc->c", make(2), make(2, 3), make(3), make(3, 2)))
    yield dict(args=("ij,jk->ik", make(2, 0), make(0, 4)))
    yield dict(args=("ij,jk->ik", make(0, 2), make(2, 4)))
    yield dict(args=("ij,jk->ik", make.ints(2, 3), make.ints(3, 4)))
    yield dict(args=(make(2, 3), [0, 1], make(3, 4), [1, 2], [0, 2]))
    yield dict(args=(make(2, 3, 3), [..., 5, 5]))
    yield RuntimeError, dict(args=("ij,jk->ik", make(2, 3), make(2, 4)))
    yield RuntimeError, dict(args=("ij,jk->ik", make(2, 3)))
    yield RuntimeError, dict(args=("ij->i", make(2, 3, 4)))
    yield RuntimeError, dict(args=("ijk", make(2, 3)))
    yield RuntimeError, dict(args=("ii->i", make(2, 3)))
    yield RuntimeError, dict(args=("ij->k", make(2, 3)))
    yield RuntimeError, dict(args=("ij->ii", make(2, 3)))
    yield RuntimeError, dict(args=("i1->i", make(2, 3)))
    yield RuntimeError, dict(args=("......i", make(2, 3)))
    yield ValueError, dict(args=("ij",))


@einsum.ref
def _(args):
    if not isinstance(args[0], str):
        return np.einsum(*args)
    if args[0].startswith("ij") and 1 in args[1].shape and len(args) > 2:  # NumPy stretches no named dimension
        args = (args[0], np.broadcast_to(args[1], (args[1].shape[0], args[2].shape[0])), args[2])
    equation = args[0].replace(" ", "")
    if equation.count("...") == 1 and "->" in equation:  # NumPy wants the dots in the output too
        equation = equation.replace("...", "z")
    return np.einsum(equation, *args[1:])
