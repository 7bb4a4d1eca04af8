"""Copies of arrays of any strides into dense ones: the host half of kernels/cuda/copy.cu. Floor 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import Needs, Variant
from tensorlite.errors import KernelError

UNITS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long", 16: "uint4"}
THREADS, EACH, MOST = 256, 4, 6  # threads a block, units a thread, dimensions: those of copy.cu
SIDE, WORTH = 32, 16  # of a tile; the least sizes that are turned in tiles
TYPES = "PPqi" + "IIi" * (MOST - 1) + "q" * MOST
TURNED = "PPqqqq" + "qqq" * (MOST - 2)
VARIANTS = [
    Variant(
        defines={"UNIT": unit, "WIDE": wide},
        kernels={"strided": Needs(block=THREADS, blocks=4 if wide else 6), "turned": Needs(block=THREADS, blocks=4)},
    )
    for wide in (0, 1)
    for unit in UNITS.values()
]


def contiguous(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """``call(x, out)``: x, which may lie anyhow, copied to ``out``, which is dense."""
    known: dict = {}  # a recorded program copies the same array again and again

    def call(x: Any, out: Any) -> None:
        if not x.size:
            return
        key = (x.shape, x.strides, x.data.ptr % 16, out.data.ptr % 16)
        plan = known.get(key)
        if plan is None:
            plan = known[key] = plan_of(x.shape, x.strides, x.itemsize, key[2] | key[3])
        kernel, grid, rest = plan
        kernel(grid, (THREADS,), x, out, *rest)

    return call


def plan_of(shape: tuple, strides: tuple, itemsize: int, offset: int) -> tuple:
    """The kernel, grid and arguments of a copy. ``offset``: the bits by which addresses miss a multiple of 16 bytes."""
    dims = joined(shape, strides)
    unit = itemsize
    if dims and dims[0][1] == itemsize:  # a run of neighbours: as many as possible of them are one unit
        run = dims[0][0] * itemsize
        others = [stride for _, stride in dims[1:]]
        unit = max(
            u for u in UNITS if (u >= itemsize and all(v % u == 0 for v in (run, offset, *others))) or u == itemsize
        )
        dims[0] = (run // unit, unit)
    dims = [(n, stride) for n, stride in dims if n != 1] or [(1, unit)]
    if len(dims) > MOST:
        raise KernelError(f"contiguous: sizes {shape} with strides {strides} are {len(dims)} dimensions; wanted {MOST}")
    if any(v % unit for v in (offset, *(stride for _, stride in dims))):
        raise KernelError(
            f"contiguous: strides {strides} and an address {offset} beyond a multiple of 16; wanted multiples of the "
            f"element's {itemsize} bytes"
        )
    units = math.prod(n for n, _ in dims)
    wide = int(units >= 2**31)
    module = launch.load("copy", UNIT=UNITS[unit], WIDE=wide)
    steps = [(n, stride // unit) for n, stride in dims]
    dense = next((k for k, (n, step) in enumerate(steps) if step == 1 and n >= WORTH), 0)
    if dense and steps[0][0] >= WORTH:
        return module.kernel("turned", TURNED), *_turned(steps, dense)
    bases = [number for n, _ in steps[:-1] for number in (n, *((0, 0) if wide else magic(n)))]
    bases += [0] * (3 * (MOST - 1) - len(bases))
    moves = [step for _, step in steps] + [0] * (MOST - len(steps))
    return module.kernel("strided", TYPES), (_blocks(units, THREADS * EACH),), (units, len(steps), *bases, *moves)


def _turned(steps: list[tuple[int, int]], dense: int) -> tuple[tuple, tuple]:
    """Grid and arguments where dimension 0 is the output's innermost, and dimension ``dense`` the input's."""
    (columns, dx), (rows, _) = steps[0], steps[dense]
    places = [math.prod(n for n, _ in steps[:k]) for k in range(len(steps))]  # where each one's neighbours lie in y
    others = [(n, step, places[k]) for k, (n, step) in enumerate(steps) if k not in (0, dense)]
    blocks = _blocks(columns, SIDE) * _blocks(rows, SIDE) * math.prod(n for n, _, _ in others)
    others += [(1, 0, 0)] * (MOST - 2 - len(others))
    return (blocks,), (columns, rows, dx, places[dense], *(number for other in others for number in other))


def _blocks(n: int, each: int) -> int:
    return -(-n // each)


def joined(shape: tuple, strides: tuple) -> list[tuple[int, int]]:
    """(size, stride) of each dimension, the innermost first, neighbours that lie end to end made one."""
    found: list[tuple[int, int]] = []
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n == 1:
            continue
        if found and stride == found[-1][0] * found[-1][1]:
            found[-1] = (found[-1][0] * n, found[-1][1])
        else:
            found.append((n, stride))
    return found


def magic(n: int) -> tuple[int, int]:
    """m and s with i // n == ((i * m >> 32) + i) >> s for all i below 2^31.

    >>> m, s = magic(7)
    >>> [((i * m >> 32) + i) >> s for i in (6, 7, 2**31 - 1)] == [0, 1, (2**31 - 1) // 7]
    True
    """
    s = (n - 1).bit_length()
    return (2**32 * (2**s - n)) // n + 1, s
