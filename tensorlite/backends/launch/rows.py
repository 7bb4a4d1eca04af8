"""What launches over rows share: how many threads hold one, how rows lie in an array. Floor 1.

The device's half is kernels/cuda/rows.cuh.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES

NUMBER = {"f4": "float", "f2": "float", "bf2": "float", "f8": "double"}  # what is computed in
STAT = {"f4": "f4", "f2": "f4", "bf2": "f4", "f8": "f8"}  # of the arrays that hold such numbers
THREADS, FILL = 256, 132 * 8  # threads a block; blocks that keep a large GPU busy


def macros(short: str, group: int, keep: int, vec: int = 1, **more: Any) -> dict:
    """The macros of rows.cuh for elements of this dtype (a short name)."""
    threads = max(group, THREADS)
    return {
        "ELEM": CTYPES[short], "NUMBER": NUMBER[short], "THREADS": threads, "GROUP": group, "KEEP": keep, "VEC": vec,
        **more,
    }  # fmt: skip


@cache
def program(stem: str, short: str, group: int, keep: int, vec: int = 1, **more: Any) -> launch.Module:
    """The kernels of a file under these macros."""
    return launch.load(stem, **macros(short, group, keep, vec, **more))


def wide(short: str) -> int:
    """How many elements 16 bytes hold."""
    return {"f8": 2, "f4": 4}.get(short, 8)


def held(short: str, n: int, most: int = 32, longest: int = 256) -> tuple[int, int]:
    """(GROUP, KEEP) for rows of n numbers of which a thread can hold ``most``; KEEP 0: a row is read in each pass.

    Short rows are held by a warp, others by ``longest`` threads; few sizes, so that few programs are compiled.
    """
    if short == "f8":
        most //= 4
    for group, keeps in ((32, (1, 8, most)), (longest, (8, most))):
        for keep in keeps:
            if n <= group * keep:
                return group, keep
    return longest, 0


def vec(short: str, keep: int, n: int, *lying: tuple) -> int:
    """VEC: the elements of 16 bytes where each row of each (address, step between rows, step in it) is aligned."""
    v = wide(short)
    if n % v or (keep and keep % v):
        return 1
    return v if all(address % 16 == 0 and row % v == 0 and step == 1 for address, row, step in lying) else 1


def address(a: Any) -> int:
    """Of an array of the device; 0 of None."""
    return 0 if a is None else a.data.ptr


def dense(a: Any) -> Any:
    """The array, or a copy whose elements lie in order without gaps."""
    return a if a is None or a.flags.c_contiguous else a.copy(order="C")


def as_rows(a: Any, lead: int) -> tuple[Any, int, int]:
    """(array, step between rows, step within one), in elements, of an array whose first ``lead`` dimensions count rows.

    Rows of one number again and again (an expanded gradient) are taken as they are; what cannot be walked in two
    steps, or has gaps within rows, is copied.
    """
    if a.flags.c_contiguous:
        return a, math.prod(a.shape[lead:]), 1
    outer, inner = joined(a, range(lead)), joined(a, range(lead, a.ndim))
    if outer is None or inner not in (0, 1):
        return a.copy(order="C"), math.prod(a.shape[lead:]), 1
    return a, outer, inner


def joined(a: Any, dims: Any) -> int | None:
    """The step, in elements, that walks these neighbouring dimensions in order; None where there is none."""
    step = size = 0
    for d in reversed(dims):
        n, s = a.shape[d], a.strides[d] // a.itemsize
        if n == 1:
            continue
        if not size:
            step, size = s, n
        elif s == step * size:
            size *= n
        else:
            return None
    return step if size else 1


def like(a: Any, out: Any) -> Any:
    """The array, or a copy that lies in memory as ``out`` does, which has no gaps and its shape."""
    if a is None or steps(a) == steps(out):
        return a
    order = sorted(range(out.ndim), key=lambda d: (-out.strides[d], d))
    back = tuple(order.index(d) for d in range(out.ndim))
    return a.transpose(order).copy(order="C").transpose(back)


def steps(a: Any) -> tuple:
    """The strides where they matter."""
    return tuple(s for n, s in zip(a.shape, a.strides) if n != 1)


def is_one(a: Any) -> bool:
    """Whether all elements are the same one."""
    return not any(steps(a))


def without_gaps(a: Any) -> bool:
    """Whether the elements lie one behind the other in some order of the dimensions."""
    order = sorted(range(a.ndim), key=lambda d: (-a.strides[d], d))
    return bool(a.transpose(order).flags.c_contiguous)
