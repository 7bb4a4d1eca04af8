"""Elements and rows picked by indices, or written where they say: the host half of kernels/cuda/index.cu. Floor 1."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from tensorlite.backends import cuda, launch
from tensorlite.backends.launch import Needs, Variant, copy
from tensorlite.errors import BoundsError, KernelError

THREADS, FILL = 256, 132 * 16  # threads a block; blocks that fill any GPU of today: threads go on from there
DIMS = 4  # dimensions of `gather` and `places`, once neighbours are joined
_dense = copy.contiguous((), (), {})


# ---- what the factories share
def grid(n: int) -> tuple:
    """Blocks for n threads, or as many as the GPU holds."""
    return (max(1, min(FILL, -(-n // THREADS))),)


def lanes_of(rows: int, inner: int) -> tuple[int, tuple]:
    """How many threads share a row of ``inner``, and the grid: blocks over the rows, and over parts of them."""
    if inner <= 32:
        lanes = 1 << max(inner - 1, 0).bit_length()
    else:
        lanes = min((32, 64, 128, 256), key=lambda n: (-(-inner // n) * n, -n))
    parts = max(1, min(65535, inner // (4 * lanes), FILL * THREADS // max(1, rows * lanes)))
    return lanes, (*grid(rows * lanes), parts)


def dense(a: Any) -> Any:
    """The array in C order, copied where it lies in another way."""
    if a.flags.c_contiguous:
        return a
    made = launch.empty(a.shape, a.dtype)
    _dense(a, made)
    return made


def step_of(shape: tuple, strides: tuple) -> int | None:
    """The one step in bytes that goes through these dimensions; None where there is none."""
    found = copy.joined(shape, strides)
    return None if len(found) > 1 else found[0][1] if found else 0


def steps_of(a: Any, cut: tuple) -> tuple | None:
    """The steps in elements of an array seen as (outer, rows, inner), which begin at dimensions ``cut``."""
    first, last = cut
    ends = ((0, first), (first, last), (last, a.ndim))
    steps = [step_of(a.shape[i:j], a.strides[i:j]) for i, j in ends]
    return None if None in steps else tuple(s // a.itemsize for s in steps)


def stepped(a: Any, cut: tuple) -> tuple[Any, tuple]:
    """The array, copied to C order where it cannot be seen as (outer, rows, inner), and its steps."""
    steps = steps_of(a, cut)
    if steps is None:
        a = dense(a)
        steps = steps_of(a, cut) or ()
    return a, steps


def apart(a: Any, y: Any) -> Any:
    """The array, copied where its memory may be that of y."""
    ends = [
        (v.data.ptr, v.data.ptr + sum((n - 1) * s for n, s in zip(v.shape, v.strides)) + v.itemsize) for v in (a, y)
    ]
    if not a.size or ends[0][1] <= ends[1][0] or ends[1][1] <= ends[0][0]:
        return a
    made = launch.empty(a.shape, a.dtype)
    _dense(a, made)
    return made


def start(x: Any, y: Any) -> None:
    """y = x, or zeros where there is no x."""
    if x is None:
        y.fill(0)
    elif x is not y:
        if y.flags.c_contiguous:
            _dense(x, y)
        else:
            y[...] = x


def widest(itemsize: int, inner: int, *moved: tuple) -> int:
    """Bytes of the widest unit: ``moved`` are (array, its steps) in elements."""
    if any(steps[2] != 1 for _, steps in moved):
        return itemsize
    for unit in sorted(copy.UNITS, reverse=True):
        whole = all(v % unit == 0 for a, steps in moved for v in (a.data.ptr, steps[0] * itemsize, steps[1] * itemsize))
        if unit > itemsize and whole and inner * itemsize % unit == 0:
            return unit
    return itemsize


def module(unit: int) -> Any:
    return launch.load("index", UNIT=copy.UNITS[unit])


def watched(who: str, dim: int, size: int, wraps: bool) -> tuple:
    """Where a kernel notes an index out of bounds, in the words of the CPU."""
    low = -size if wraps else 0
    return cuda.fault_flag(
        f"{who}: index {{index}} is out of bounds for dimension {dim} with size {size}; wanted {low} to {size - 1}",
        BoundsError,
    )


def flat(index: Any, shape: tuple) -> tuple[Any, int, int]:
    """An array of indices of this shape as (array, step, whether it is int32)."""
    if index.shape != shape:
        index = cuda.arrays().broadcast_to(index, shape)
    step = step_of(index.shape, index.strides)
    if step is None:
        index, step = dense(index), index.itemsize
    return index, step // index.itemsize, int(index.itemsize == 4)


class Picked:
    """Where ``indices`` at dimensions ``dims`` of an array of this shape point: rows of (outer, size, inner)."""

    def __init__(self, who: str, shape: tuple, dims: tuple, indices: tuple, wraps: bool):
        self.dims, self.sizes, self.wraps = dims, [shape[d] for d in dims], wraps
        self.common = np.broadcast_shapes(*(i.shape for i in indices))
        # NumPy's rule: where a slice stands between two indices, their dimensions come first
        self.turned = dims[-1] - dims[0] != len(dims) - 1
        rest = [d for d in range(len(shape)) if d not in dims]
        first = 0 if self.turned else dims[0]
        self.order = (*dims, *rest)
        self.cut = (first, first + len(dims))  # of the array
        self.picked_cut = (first, first + len(self.common))  # of what is picked
        lying = tuple(shape[d] for d in self.order) if self.turned else shape
        self.outer, self.inner = prod(lying[:first]), prod(lying[self.cut[1] :])
        self.size, self.m = prod(self.sizes), prod(self.common)
        self.room = (*lying[:first], *self.common, *lying[self.cut[1] :])
        self.notes = [watched(who, d, shape[d], wraps) for d in dims]

    def lying(self, a: Any) -> Any:
        """The array with its indexed dimensions side by side."""
        return a.transpose(self.order) if self.turned else a

    def keys(self, indices: tuple) -> Any:
        """The row that each of the m indices means, -1 where there is none."""
        found = launch.empty((self.m,), np.int64)
        kernel = module(4).kernel("keys", "PqiPqqiiPi")
        for more, (index, size, note) in enumerate(zip(indices, self.sizes, self.notes)):
            given = flat(index, self.common)
            kernel(grid(self.m), (THREADS,), *given, found, self.m, size, int(self.wraps), int(more > 0), *note)
        return found


# ---- rows
def _taken(p: Picked, itemsize: int) -> Callable:
    """``call(x, indices, y)``: y = the rows of x that the indices mean."""
    rows, alone = p.outer * p.m, len(p.dims) == 1
    rest = p.size, int(p.wraps)
    plans: dict = {}  # a recorded program picks from the same arrays again and again

    def call(x: Any, indices: tuple, y: Any) -> None:
        if not rows:
            return
        to = y if y.flags.c_contiguous else launch.empty(y.shape, y.dtype)
        index = indices[0]
        key = (x.strides, index.strides, x.data.ptr % 16, to.data.ptr % 16)
        plan = plans.get(key)
        if plan is None:
            plan, copied = planned(x, index, to)
            if copied is None:
                plans[key] = plan
            else:
                x = copied
        kernel, blocks, moves, found, lanes = plan
        if found is None:
            index, *found = flat(index, p.common) if alone else (p.keys(indices), 1, 0)
        kernel(blocks, (THREADS,), x, index, to, rows, p.m, *moves, *found, *rest, lanes, *p.notes[0])
        if to is not y:
            y[...] = to

    def planned(x: Any, index: Any, to: Any) -> tuple:
        """The launch for arrays that lie like these, and x in C order where none reads it as it is."""
        lying = p.lying(x)
        x, steps = stepped(lying, p.cut)
        copied = None if x is lying else x
        steps = (*steps[:2], steps[2] if p.inner > 1 else 1)
        unit = widest(itemsize, p.inner, (x, steps), (to, (p.m * p.inner, p.inner, 1)))
        many = unit // itemsize
        lanes, blocks = lanes_of(rows, p.inner // many)
        kernel = module(unit).kernel("take", "PPP" + "q" * 7 + "iqiiPi")
        moves = (p.inner // many, steps[0] // many, steps[1] // many, steps[2])
        step = step_of(index.shape, index.strides) if alone else None
        found = None if step is None else (step // index.itemsize, int(index.itemsize == 4))
        return (kernel, blocks, moves, found, lanes), copied

    return call


def index_select(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, index = specs
    call = _taken(Picked(kw["who"], x.shape, (kw["dim"],), (index,), kw["who"] == "getitem"), x.dtype.itemsize)
    return lambda x, index, y: call(x, (index,), y)


def embedding(specs: tuple, outs: tuple, kw: dict) -> Callable:
    index, table = specs
    call = _taken(Picked("embedding", table.shape, (0,), (index,), False), table.dtype.itemsize)
    return lambda index, table, y: call(table, (index,), y)


def index(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, *indices = specs
    call = _taken(Picked("getitem", x.shape, kw["dims"], tuple(indices), True), x.dtype.itemsize)
    return lambda x, *rest: call(x, rest[:-1], rest[-1])


def put_rows(w: Any, keys: Any, y: Any, size: int, m: int, cuts: tuple) -> None:
    """y[o, keys[j], :] = w[o, j, :], the last of equal keys; ``cuts``: where rows begin and end in y and in w."""
    if m >= 2**32:
        raise KernelError(f"index_put: {m} indices; wanted fewer than 2**32")
    to = steps_of(y, cuts[0])
    if to is None:
        room = dense(y)
        put_rows(w, keys, room, size, m, cuts)
        y[...] = room
        return
    w, of = stepped(w, cuts[1])
    outer, inner = prod(w.shape[: cuts[1][0]]), prod(w.shape[cuts[1][1] :])
    of, to = ((*s[:2], s[2] if inner > 1 else 1) for s in (of, to))
    winner = launch.zeros((size,), np.uint32)
    unit = widest(y.itemsize, inner, (w, of), (y, to))
    many = unit // y.itemsize
    found = module(unit)
    found.kernel("winners", "PPq")(grid(m), (THREADS,), keys, winner, m)
    lanes, blocks = lanes_of(outer * m, inner // many)
    moves = [s // many if k < 2 else s for steps in (of, to) for k, s in enumerate(steps)]
    put = found.kernel("put", "PPPP" + "q" * 9 + "i")
    put(blocks, (THREADS,), w, keys, winner, y, outer * m, m, inner // many, *moves, lanes)


def putting(p: Picked) -> Callable:
    """``call(x, indices, w, y)``: y = x with the rows that the indices mean replaced by those of w."""

    def call(x: Any, indices: tuple, w: Any, y: Any) -> None:
        w = apart(w, y)
        keys = p.keys(indices) if p.m else None
        start(x, y)
        if p.m and p.outer * p.inner and p.size:
            w = w if w.shape == p.room else cuda.arrays().broadcast_to(w, p.room)
            put_rows(w, keys, p.lying(y), p.size, p.m, (p.cut, p.picked_cut))

    return call


def index_copy(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, index, _ = specs
    call = putting(Picked(kw["who"], x.shape, (kw["dim"],), (index,), kw["who"] == "index_fill"))
    return lambda x, index, w, y: call(x, (index,), w, y)


# ---- one index an element
def _numbers(shape: tuple, *strides: tuple) -> tuple | None:
    """The sizes of up to four dimensions without the first, and for each way of stepping its four steps in elements.

    Neighbours that all of them walk through alike are made one; None where more than four are left.
    """
    found: list = []
    for n, *steps in zip(shape, *strides):
        if n == 1:
            continue
        if found and all(a == s * n for a, s in zip(found[-1][1:], steps)):
            found[-1] = (found[-1][0] * n, *steps)
        else:
            found.append((n, *steps))
    if len(found) > DIMS:
        return None
    found = [(1, *(0 for _ in strides))] * (DIMS - len(found)) + found
    return (*(d[0] for d in found[1:]), *(d[k + 1] for k in range(len(strides)) for d in found))


def _steps(a: Any, shape: tuple) -> tuple:
    return tuple(s // a.itemsize for s in a.strides)


def _but(steps: tuple, dim: int) -> tuple:
    """These steps, none along ``dim``."""
    return tuple(0 if d == dim else s for d, s in enumerate(steps))


def cropped(a: Any, shape: tuple, dim: int = -1) -> Any:
    """The part of an array that an index of this shape reaches, all of it along ``dim``."""
    return a[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(shape))]


def gather(specs: tuple, outs: tuple, kw: dict) -> Callable:
    dim, wraps, n = kw["dim"], kw["wraps"], outs[0].size
    x, shape = specs[0], specs[1].shape
    note = watched("take_along_dim" if wraps else "gather", dim, x.shape[dim], wraps)
    kernel = module(x.dtype.itemsize).kernel("gather", "PPP" + "q" * 13 + "iqiPi")
    plans: dict = {}

    def call(a: Any, i: Any, y: Any) -> None:
        if not n:
            return
        key = (a.strides, i.strides)
        if key not in plans:
            plans[key] = _numbers(shape, _steps(i, shape), _but(_steps(a, shape), dim))
        numbers, to = plans[key], y if y.flags.c_contiguous else launch.empty(y.shape, y.dtype)
        if numbers is None:  # dense ones have three dimensions
            a, i = dense(cropped(a, shape, dim)), dense(i)
            numbers = _numbers(shape, _steps(i, shape), _but(_steps(a, shape), dim)) or ()
        step = a.strides[dim] // a.itemsize
        narrow = int(i.itemsize == 4)
        kernel(grid(n), (THREADS,), a, i, to, n, *numbers, step, narrow, x.shape[dim], int(wraps), *note)
        if to is not y:
            y[...] = to

    return call


def places(who: str, shape: tuple, index: Any, dim: int, wraps: bool) -> Callable:
    """``call(index)``: where the elements that it means stand in an array of this shape in C order, -1 for nowhere.

    The index has at most four dimensions, or is smaller than the array in one dimension besides ``dim`` at most.
    """
    note, n = watched(who, dim, shape[dim], wraps), index.size
    dense_steps = tuple(prod(shape[d + 1 :]) for d in range(len(shape)))
    kernel = module(4).kernel("places", "PPq" + "q" * 12 + "iqiPi")

    def call(i: Any) -> Any:
        found = launch.empty((n,), np.int64)
        numbers = _numbers(i.shape, _steps(i, shape), _but(dense_steps, dim))
        if numbers is None:
            i = dense(i)
            numbers = _numbers(i.shape, _steps(i, shape), _but(dense_steps, dim)) or ()
        narrow = int(i.itemsize == 4)
        kernel(grid(n), (THREADS,), i, found, n, *numbers, dense_steps[dim], narrow, shape[dim], int(wraps), *note)
        return found

    return call


def scatter(specs: tuple, outs: tuple, kw: dict) -> Callable:
    x, index, _ = specs
    found, n = places("scatter", x.shape, index, kw["dim"], False), index.size

    def call(a: Any, i: Any, w: Any, y: Any) -> None:
        w = apart(w, y)
        keys = found(i) if n else None
        start(a, y)
        if n and y.size:
            put_rows(cropped(w, i.shape), keys, y, y.size, n, ((0, y.ndim), (0, y.ndim)))

    return call


def one_hot(specs: tuple, outs: tuple, kw: dict) -> Callable:
    n, classes = specs[0].size, kw["classes"]
    kernel = module(8).kernel("one_hot", "PPqqPii")
    flag, negative = cuda.fault_flag("one_hot: value {index}; Class values must be non-negative.", RuntimeError)
    large = cuda.fault_flag(
        "one_hot: value {index} for {size} classes; Class values must be smaller than num_classes.", RuntimeError
    )[1]

    def call(x: Any, y: Any) -> None:
        if n and classes:
            kernel(grid(n * classes), (THREADS,), dense(x), y, n, classes, flag, negative, large)

    return call


_KERNELS = ("take", "gather", "keys", "places", "winners", "put", "one_hot")
VARIANTS = [Variant({"UNIT": unit}, {k: Needs(THREADS, blocks=4) for k in _KERNELS}) for unit in copy.UNITS.values()]
