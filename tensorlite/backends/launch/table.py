"""Tables of many tensors in device memory, which one launch goes through: the host half of table.cuh. Floor 1.

A table is written by launches that carry its words as arguments, never copied from the host, and never changed once it
is written: a step whose addresses are those of a step before finds the tables of that step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorlite.backends import launch
from tensorlite.backends.launch import Needs, Variant

THREADS, WORDS = 256, 64  # threads a block; words that one launch writes
SMALL, LARGE, MANY = 1024, 4096, 1 << 21  # elements a block; elements in all from which blocks are large
KEPT = 64  # tables of an entry, of each sort
NUMBERS = {"f8": 0, "f4": 1, "f2": 2, "bf2": 3}  # codes of types of single numbers in table.cuh
VARIANTS = [Variant(kernels={"write_words": Needs(1)})]


def words(values: list) -> Any:
    """An array of these words on the device."""
    values = values + [0] * (-len(values) % WORDS)
    made = launch.empty((len(values),), np.int64)
    kernel = launch.load("table").kernel("write_words", "P" + "q" * WORDS)
    for k in range(0, len(values), WORDS):
        kernel((1,), (1,), made[k : k + WORDS], *values[k : k + WORDS])
    return made


class Table:
    """The tensors ``members`` of rows of ``n``: the first ``kinds`` rows are arrays, then come ``singles`` rows."""

    def __init__(self, specs: tuple, members: list[int], n: int, kinds: int, singles: int = 0):
        self.count, self.kinds = len(members), kinds
        self.arrays = [[row * n + k for row in range(kinds)] for k in members]
        self.singles = [[row * n + k for row in range(kinds, kinds + singles)] for k in members]
        self.sizes = [specs[k].size for k in members]
        self.chunk = SMALL if sum(self.sizes) < MANY else LARGE
        self.starts, self.blocks = [], 0
        for size in self.sizes:
            self.starts.append(self.blocks)
            self.blocks += -(-size // self.chunk)
        self.dense = all(specs[i].format == "contiguous" for at in self.arrays for i in at)
        still = [[at[0], *at[2:], *more] for at, more in zip(self.arrays, self.singles)]
        self.still = [i for at in still for i in at]
        self.width = len(still[0])
        self._fixed: dict = {}
        self._moving: dict = {}

    def find(self, tensors: tuple) -> tuple[tuple, Any]:
        """(``fixed`` and four numbers for each tensor, ``moving``) of these arrays."""
        addresses = tuple([tensors[i].data.ptr for i in self.still])
        fixed = self._fixed.get(addresses)
        if fixed is None:
            fixed = _keep(self._fixed, addresses, self._rows(addresses))
        key: tuple = tuple([tensors[at[1]].data.ptr for at in self.arrays]) if self.kinds > 1 else ()
        if not self.dense:
            key = (key, tuple([tensors[i].strides for at in self.arrays for i in at]))
        moving = self._moving.get(key)
        if moving is None:
            moving = _keep(self._moving, key, words(self._lying(tensors)))
        return fixed, moving

    def _rows(self, addresses: tuple) -> tuple[Any, Any]:
        rows = []
        for k, (size, start) in enumerate(zip(self.sizes, self.starts)):
            rows += [*addresses[k * self.width : (k + 1) * self.width], size, start]
        return words(rows), launch.empty((self.count, 4), np.float64)

    def _lying(self, tensors: tuple) -> list[int]:
        """Addresses of gradients, and how arrays lie."""
        table: list[int] = []
        more: list[int] = []
        for at in self.arrays:
            given = [tensors[i] for i in at]
            table.append(given[1].data.ptr if self.kinds > 1 else 0)
            if self.dense or alike(given):
                table.append(0)
                continue
            table.append(2 * self.count + len(more))
            dims = [d for d, size in enumerate(given[0].shape) if size != 1]
            more += [len(dims), *(given[0].shape[d] for d in dims)]
            more += [a.strides[d] // a.itemsize for a in given for d in dims]
        return table + more


def _keep(kept: dict, key: Any, made: Any) -> Any:
    if len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = made
    return made


def alike(arrays: list) -> bool:
    """Whether arrays of one shape lie alike and without gaps, so that each is a run of elements in the same order."""
    first = arrays[0]
    dims = [d for d, size in enumerate(first.shape) if size != 1]
    if any(a.strides[d] != first.strides[d] for a in arrays[1:] for d in dims):
        return False
    reach = first.itemsize
    for d in sorted(dims, key=lambda d: first.strides[d]):
        if first.strides[d] != reach:
            return False
        reach *= first.shape[d]
    return True


def tables(specs: tuple, kinds: int, singles: int = 0) -> Iterator[tuple[str, Table]]:
    """(dtype's short name, table) for the tensors of each dtype; those without elements come too."""
    n = len(specs) // (kinds + singles)
    members: dict = {}
    for k in range(n):
        members.setdefault(specs[k].dtype.short, []).append(k)
    for short, those in members.items():
        yield short, Table(specs, those, n, kinds, singles)
