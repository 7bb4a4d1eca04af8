"""Pooling over windows of the last two dimensions. Floor 3.

A max pooling remembers for each window which place of it won (one byte), not where in the image that is: the gradient
then is a few passes over whole arrays, and the indices that PyTorch returns are made of it where somebody asks. Taking
the winners and putting them back are each other's gradients, as averaging and spreading are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.cast import laid_as
from tensorlite.ops.slices import x_spec_zeros
from tensorlite.shapes import index, windows


class Grid(NamedTuple):
    """Where the windows lie: sizes of image, window and result, and the steps between them; (height, width) each."""

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """The size of an image with its padding, and with what the last windows need beyond it."""
        rows, columns = (
            max((o - 1) * s + d * (k - 1) + 1, n + p)
            for o, s, d, k, n, p in zip(self.out, self.stride, self.dilation, self.kernel, self.size, self.pad)
        )
        return rows, columns

    @property
    def inside(self) -> tuple:
        return (..., *(slice(p, p + n) for p, n in zip(self.pad, self.size)))

    @property
    def loose(self) -> bool:
        """Whether windows lie in the image without padding."""
        return self.pad == (0, 0) and self.reach == self.size

    @property
    def apart(self) -> bool:
        """Whether no pixel is in two windows."""
        return all(s >= d * (k - 1) + 1 for s, d, k in zip(self.stride, self.dilation, self.kernel))

    def taps(self) -> Iterator[tuple]:
        """For each place in the window: the pixels (of the padded image) that it meets, as an index."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield (
                    ...,
                    *(
                        slice(t * d, t * d + (o - 1) * s + 1, s)
                        for t, d, o, s in zip((i, j), self.dilation, self.out, self.stride)
                    ),
                )

    def padded(self, xp: Any, x: Any, fill: Any) -> Any:
        """The image with its padding (itself where there is none)."""
        if self.loose:
            return x
        room = xp.full((*x.shape[:-2], *self.reach), fill, x.dtype)
        room[self.inside] = x
        return room

    def canvas(self, xp: Any, out: Any) -> Any:
        """Zeros to gather a gradient in: ``out`` itself where there is no padding."""
        room = out if self.loose else xp.empty((*out.shape[:-2], *self.reach), out.dtype)
        room.fill(0)
        return room

    def starts(self, xp: Any) -> tuple:
        """Each window's first row as a column, and its first column as a row."""
        rows, columns = (xp.arange(o) * s - p for o, s, p in zip(self.out, self.stride, self.pad))
        return rows[:, None], columns


def _grid(x: tuple, out: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> Grid:
    return Grid(tuple(x[-2:]), tuple(out[-2:]), kernel, stride, padding, dilation)


def _pooled(name: str, x: Spec, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil: bool) -> tuple:
    """The shape of the result, or PyTorch's refusals."""
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ShapeError(
            f"{name}: input {x.shape}; wanted (N, C, H, W) or (C, H, W) without empty dimensions but N "
            "(non-empty 3D or 4D (batch mode) tensor expected for input)"
        )
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ShapeError(
            f"{name}: kernel_size {kernel}, stride {stride}, padding {padding}, dilation {dilation}; "
            "wanted 1 or more, and padding of 0 or more (pad must be non-negative)"
        )
    if any(p > (d * (k - 1) + 1) // 2 for p, d, k in zip(padding, dilation, kernel)):
        raise ShapeError(
            f"{name}: padding {padding} for kernel_size {kernel} and dilation {dilation}; pad should be "
            "at most half of effective kernel size"
        )
    each = zip(x.shape[-2:], kernel, stride, padding, dilation)
    out = tuple(windows(name, n, k, s, p, d, ceil) for n, k, s, p, d in each)
    if min(out) < 1:
        raise ShapeError(
            f"{name}: input {x.shape} with kernel_size {kernel} gives output size {out}; output size is too small"
        )
    return (*x.shape[:-2], *out)


def _beside(x: Spec, shape: tuple, dtype: Any = None) -> Spec:
    """The spec of an output that lies in memory as x does."""
    return x.like(*shape, dtype=dtype).laid(x.packed().format)


def _one_layout(*specs: Spec, **how: Any) -> bool:
    """Whether inputs lie alike; those of one channel or one pixel lie as any other."""
    tell = [s.format for s in specs if s.ndim == 4 and s.size and s.shape[1] > 1 and s.shape[2] * s.shape[3] > 1]
    return len(set(tell)) < 2


def _on_gpu(x: Spec, *_: Spec, kernel: tuple, padding: tuple, size: tuple = (0, 0), **__: Any) -> bool:
    """Whether the CUDA kernels, which count with 32 bits, can take these sizes."""
    windows = x.size // max(x.shape[-1] * x.shape[-2], 1) * max(size[0] * size[1], x.shape[-1] * x.shape[-2])
    windows *= 4 if any(padding) else 1  # an image of one pixel has 2 x 2 windows then
    return 0 < x.size <= windows < 2**31 - 2**12 and max(kernel) < 2**15


def _two(name: str, value: Any, what: str) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)):
        value = (value,)
    if len(value) not in (1, 2):
        raise ShapeError(f"{name}: {what} {tuple(value)}; {what} must either be a single int, or a tuple of two ints")
    first, *rest = (index(name, v) for v in value)
    return first, rest[0] if rest else first


# ---- max
@primitive(name="max_pool2d", torch="nn.functional.max_pool2d")
def max_pool2d_p(xp, x, out, out_place, *, kernel, stride, padding, dilation, ceil):
    """The largest of each window (nan wins), and the place in the window, counted row by row, where it is."""
    grid = _grid(x.shape, out.shape, kernel, stride, padding, dilation)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    image = grid.padded(xp, x, lowest)
    if grid.pad == (0, 0):
        out_place.fill(0)
        xp.copyto(out, image[next(grid.taps())])
    else:
        out.fill(lowest)
        out_place[...] = _first_places(xp, grid)
    wins = xp.empty(out.shape, bool)
    for k, tap in enumerate(grid.taps()):
        part = image[tap]
        if k or grid.pad != (0, 0):
            xp.greater(part, out, out=wins)
            if out_place.dtype.itemsize == 1:
                # k grows, so the larger of two winners' numbers is the later one's: several times as fast as a mask
                number = wins.view(np.uint8)
                xp.multiply(number, np.uint8(k), out=number)
                xp.maximum(out_place, number, out=out_place)
            else:
                xp.copyto(out_place, k, where=wins)
            xp.maximum(out, part, out=out)
    # rare: nan never is greater, and wins all the same; to ask a GPU whether there is one costs more than the loop
    if x.dtype.kind == "f" and out.size and (xp is not np or np.isnan(out.max())):
        for k, tap in enumerate(grid.taps()):
            xp.copyto(out_place, k, where=xp.isnan(image[tap]))


def _first_places(xp: Any, grid: Grid) -> Any:
    """The first place of each window that is not padding: where an image of -inf has its maximum."""
    firsts = [(xp.maximum(-start, 0) + d - 1) // d for start, d in zip(grid.starts(xp), grid.dilation)]
    return (firsts[0] * grid.kernel[1] + firsts[1]) % (grid.kernel[0] * grid.kernel[1])


@max_pool2d_p.spec
def _(x, *, kernel, stride, padding, dilation, ceil):
    if x.dtype.name == "bool":
        raise DTypeError("max_pool2d: got bool; wanted numbers (not implemented for 'Bool')")
    shape = _pooled("max_pool2d", x, kernel, stride, padding, dilation, ceil)
    places = dtypes.uint8 if kernel[0] * kernel[1] <= 256 else dtypes.int32
    return _beside(x, shape), _beside(x, shape, places)


@primitive(name="pool_take", torch=None)
def pool_take_p(xp, x, place, out, *, kernel, stride, padding, dilation):
    """The pixel at its place of each window."""
    grid = _grid(x.shape, out.shape, kernel, stride, padding, dilation)
    image = grid.padded(xp, x, 0)
    out.fill(0)
    for k, tap in enumerate(grid.taps()):
        xp.copyto(out, image[tap], where=place == k)


@primitive(name="pool_put", torch=None)
def pool_put_p(xp, dy, place, out, *, size, kernel, stride, padding, dilation):
    """Zeros of H, W = ``size`` with each window's number added at its place: the gradient of taking the largest."""
    grid = _grid(size, dy.shape, kernel, stride, padding, dilation)
    canvas = grid.canvas(xp, out)
    for k, tap in enumerate(grid.taps()):
        here = canvas[tap]
        if xp is np:
            xp.add(here, dy, out=here, where=place == k)
        else:  # CuPy's operations know no ``where``
            here += xp.where(place == k, dy, 0)
    if canvas is not out:
        out[...] = canvas[grid.inside]


@primitive(name="pool_indices", torch=None)
def pool_indices_p(xp, place, out, *, size, kernel, stride, padding, dilation):
    """Where in the image of H, W = ``size``, counted row by row, the place of each window is."""
    rows, columns = _grid(size, out.shape, kernel, stride, padding, dilation).starts(xp)
    i, j = xp.divmod(place.astype(np.int64), kernel[1])
    xp.add((i * dilation[0] + rows) * size[1], j * dilation[1] + columns, out=out)


pool_take_p.spec(lambda x, place, **_: _beside(place, place.shape, x.dtype))
pool_put_p.spec(lambda dy, place, *, size, **_: _beside(place, (*dy.shape[:-2], *size), dy.dtype))
pool_indices_p.spec(lambda place, **_: _beside(place, place.shape, dtypes.int64))


@max_pool2d_p.grad
def _(g, out_place, x_spec, kernel, stride, padding, dilation, want):
    how = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    dx = pool_put_p(laid_as(g[0], out_place._spec), out_place, size=x_spec.shape[-2:], **how)
    return (laid_as(dx, x_spec),)  # a copy only where windows are as large as the image, and so tell no layout


pool_take_p.grad(
    place=None,
    x=lambda g, place, x_spec, kernel, stride, padding, dilation: pool_put_p(
        laid_as(g, place._spec),
        place,
        size=x_spec.shape[-2:],
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
    ),
)
pool_put_p.grad(
    place=None,
    dy=lambda g, place, kernel, stride, padding, dilation: pool_take_p(
        laid_as(g, place._spec), place, kernel=kernel, stride=stride, padding=padding, dilation=dilation
    ),
)
pool_indices_p.nograd()
for _p in (max_pool2d_p, pool_take_p, pool_put_p):
    _p.kernel("cpu", _p.op.name, "f4 f8", when=_one_layout, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"pool.{_p.op.name}", "f2 bf2 f4 f8", when=_on_gpu, formats=ANY)

_2x2 = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
_3x2 = dict(kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))


@pool_take_p.cases
def _(make):
    yield dict(x=make(2, 3, 5, 4), place=make.ints(2, 3, 2, 2, high=4, dtype=dtypes.uint8), **_2x2)
    yield dict(x=make(2, 5, 4), place=make.ints(2, 3, 2, low=2, high=4, dtype=dtypes.uint8), **_3x2)


@pool_put_p.cases
def _(make):
    yield dict(dy=make(2, 3, 2, 2), place=make.ints(2, 3, 2, 2, high=4, dtype=dtypes.uint8), size=(5, 4), **_2x2)
    yield dict(dy=make(2, 3, 2), place=make.ints(2, 3, 2, low=2, high=4, dtype=dtypes.uint8), size=(5, 4), **_3x2)


@pool_indices_p.cases
def _(make):
    yield dict(place=make.ints(2, 3, 2, 2, high=4, dtype=dtypes.uint8), size=(5, 4), **_2x2)
    yield dict(place=make.ints(2, 3, 2, low=2, high=4, dtype=dtypes.uint8), size=(5, 4), **_3x2)


def _pixel(place, kernel, stride, padding, dilation):
    """Every window's row and column in the image: an iterator of (index of the window, row, column)."""
    for at in np.ndindex(*place.shape):
        yield (
            at,
            (
                at[-2] * stride[0] - padding[0] + place[at] // kernel[1] * dilation[0],
                at[-1] * stride[1] - padding[1] + place[at] % kernel[1] * dilation[1],
            ),
        )


@pool_take_p.ref
def _(x, place, **how):
    y = np.zeros(place.shape)
    for at, (r, c) in _pixel(place.astype(int), **how):
        y[at] = x[(*at[:-2], r, c)]
    return y


@pool_put_p.ref
def _(dy, place, size, **how):
    dx = np.zeros((*dy.shape[:-2], *size))
    for at, (r, c) in _pixel(place.astype(int), **how):
        dx[(*at[:-2], r, c)] += dy[at]
    return dx


@pool_indices_p.ref
def _(place, size, **how):
    y = np.zeros(place.shape, int)
    for at, (r, c) in _pixel(place.astype(int), **how):
        y[at] = r * size[1] + c
    return y


@max_pool2d_p.cases
def _(make):
    yield dict(input=make.distinct(2, 3, 6, 4), kernel_size=2)
    yield dict(input=make.distinct(2, 3, 5, 7), kernel_size=2)
    yield dict(input=make.distinct(3, 5, 7), kernel_size=(2, 3), return_indices=True)
    yield dict(input=make.distinct(2, 3, 7, 6), kernel_size=3, stride=2, padding=1, return_indices=True)
    yield dict(input=make.distinct(2, 2, 6, 7), kernel_size=3, stride=(1, 2), dilation=(2, 1), return_indices=True)
    yield dict(input=make.distinct(1, 2, 5, 6), kernel_size=2, ceil_mode=True, return_indices=True)
    yield dict(input=make.distinct(1, 2, 5, 5), kernel_size=3, stride=3, padding=1, ceil_mode=True, return_indices=True)
    yield dict(input=make.distinct(1, 1, 18, 17), kernel_size=17, stride=1)
    yield dict(input=make.ints(1, 1, 6, 6, high=2), kernel_size=3, return_indices=True)
    yield dict(input=make.distinct(0, 3, 4, 4), kernel_size=2)
    yield dict(input=make.ints(2, 4, 4, low=-4), kernel_size=2, padding=1)
    yield RuntimeError, dict(input=make(2, 4), kernel_size=2)
    yield RuntimeError, dict(input=make(2, 0, 4, 4), kernel_size=2)
    yield RuntimeError, dict(input=make(1, 1, 5), kernel_size=2)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, padding=2)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, padding=-1)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, stride=0)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, dilation=0)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=(2, 2, 2))
    yield RuntimeError, dict(input=make.bools(1, 4, 4), kernel_size=2)


def _windows(input, kernel_size, stride, padding, dilation, ceil_mode):
    """Each window as a list of (row, column) within the image."""
    k, p, d = (np.broadcast_to(v, 2) for v in (kernel_size, padding, dilation))
    s = k if stride is None else np.broadcast_to(stride, 2)
    grid = []
    for axis in (0, 1):
        n = input.shape[axis - 2]
        starts = range(-p[axis], n + p[axis] - (0 if ceil_mode else d[axis] * (k[axis] - 1)), s[axis])
        starts = [a for a in starts if a < n]
        if ceil_mode:  # no more windows than are needed to reach the end
            need = n + p[axis] - d[axis] * (k[axis] - 1) - 1
            starts = [a for a in starts if a - s[axis] < need or a == -p[axis]]
        grid.append([[a + t * d[axis] for t in range(k[axis]) if 0 <= a + t * d[axis] < n] for a in starts])
    return grid


@max_pool2d_p.ref
def _(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    rows, columns = _windows(input, kernel_size, stride, padding, dilation, ceil_mode)
    y = np.zeros((*input.shape[:-2], len(rows), len(columns)))
    at = np.zeros(y.shape, int)
    for r, c in np.ndindex(y.shape[-2:]):
        flat = (np.array(rows[r])[:, None] * input.shape[-1] + columns[c]).ravel()
        part = input.reshape(*input.shape[:-2], input.shape[-2] * input.shape[-1])[..., flat]
        order = np.argsort(-part, axis=-1, kind="stable")[..., 0] if part.size else np.zeros(part.shape[:-1], int)
        at[..., r, c] = flat[order]
        y[..., r, c] = np.take_along_axis(part, order[..., None], -1)[..., 0]
    return (y, at) if return_indices else y


@face(max_pool2d_p)
def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (N, C, H, W) or (C, H, W); the padding counts as -inf.

    OH = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1, rounded down, or up with ``ceil_mode`` (but no
    window starts in the padding behind). ``stride`` is the kernel's size unless said. With ``return_indices`` also
    where each is, counted row by row in its image.

    >>> import tensorlite as tl
    >>> tl.nn.functional.max_pool2d(tl.arange(16.0).reshape(1, 4, 4), 2)
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """
    name = "max_pool2d"
    kernel = _two(name, kernel_size, "kernel_size")
    step = kernel if stride is None or stride == () or stride == [] else _two(name, stride, "stride")
    how = dict(
        kernel=kernel, stride=step, padding=_two(name, padding, "padding"), dilation=_two(name, dilation, "dilation")
    )
    y, place = max_pool2d_p(input, ceil=bool(ceil_mode), **how)
    return (y, pool_indices_p(place, size=input._spec.shape[-2:], **how)) if return_indices else y


# ---- averages
@primitive(name="avg_pool2d", torch="nn.functional.avg_pool2d")
def avg_pool2d_p(xp, x, out, *, kernel, stride, padding, ceil, include, divisor):
    """The sum of each window over its number of elements, or over ``divisor``."""
    grid = _grid(x.shape, out.shape, kernel, stride, padding, (1, 1))
    image = grid.padded(xp, x, 0)
    total = out if out.dtype.kind == "f" else xp.zeros(out.shape, np.float64)
    first, *taps = grid.taps()
    xp.copyto(total, image[first])
    for tap in taps:
        total += image[tap]
    total /= _counts(xp, grid, include, divisor, total.dtype)
    if total is not out:
        xp.copyto(out, total, casting="unsafe")


@primitive(name="avg_pool2d_dx", torch=None)
def avg_pool2d_dx_p(xp, dy, out, *, size, kernel, stride, padding, ceil, include, divisor):
    """The gradient of avg_pool2d with respect to its input of H, W = ``size``."""
    grid = _grid(size, dy.shape, kernel, stride, padding, (1, 1))
    canvas = grid.canvas(xp, out)
    share = dy / _counts(xp, grid, include, divisor, dy.dtype)
    for tap in grid.taps():
        if grid.apart:
            canvas[tap] = share
        else:
            canvas[tap] += share
    if canvas is not out:
        out[...] = canvas[grid.inside]


def _counts(xp: Any, grid: Grid, include: bool, divisor: int | None, dtype: Any) -> Any:
    """What each window's sum is divided by. Padding counts where ``include``, what lies beyond the padding never."""
    if divisor is not None:
        return dtype.type(divisor)
    sides = []
    for start, k, n, p in zip(grid.starts(xp), grid.kernel, grid.size, grid.pad):
        last = xp.minimum(start + k, n + p)
        sides.append(last - start if include else xp.minimum(last, n) - xp.maximum(start, 0))
    return (sides[0] * sides[1]).astype(dtype)


@avg_pool2d_p.spec
def _(x, *, kernel, stride, padding, ceil, include, divisor):
    if divisor == 0:
        raise ShapeError("avg_pool2d: divisor_override 0; divisor must be not zero")
    if x.dtype.name == "bool":
        raise DTypeError("avg_pool2d: got bool; wanted numbers (not implemented for 'Bool')")
    return _beside(x, _pooled("avg_pool2d", x, kernel, stride, padding, (1, 1), ceil))


avg_pool2d_dx_p.spec(lambda dy, *, size, **_: _beside(dy, (*dy.shape[:-2], *size)))
avg_pool2d_p.grad(
    x=lambda g, x_spec, kernel, stride, padding, ceil, include, divisor: laid_as(
        avg_pool2d_dx_p(
            laid_as(g, x_spec),
            size=x_spec.shape[-2:],
            kernel=kernel,
            stride=stride,
            padding=padding,
            ceil=ceil,
            include=include,
            divisor=divisor,
        ),
        x_spec,
    )
)
avg_pool2d_dx_p.grad(
    dy=lambda g, kernel, stride, padding, ceil, include, divisor: avg_pool2d_p(
        g, kernel=kernel, stride=stride, padding=padding, ceil=ceil, include=include, divisor=divisor
    )
)
avg_pool2d_p.kernel("cpu", "avg_pool2d", "f4 f8", formats=(CONTIGUOUS, CHANNELS_LAST))
avg_pool2d_dx_p.kernel("cpu", "avg_pool2d_dx", "f4 f8", formats=(CONTIGUOUS, CHANNELS_LAST))
avg_pool2d_p.kernel("cuda", "pool.avg_pool2d", "f2 bf2 f4 f8", when=_on_gpu, formats=ANY)
avg_pool2d_dx_p.kernel("cuda", "pool.avg_pool2d_dx", "f2 bf2 f4 f8", when=_on_gpu, formats=ANY)


@avg_pool2d_p.cases
def _(make):
    yield dict(input=make(2, 3, 6, 4), kernel_size=2)
    yield dict(input=make(2, 5, 7), kernel_size=(2, 3), stride=1)
    yield dict(input=make(2, 3, 7, 6), kernel_size=3, stride=2, padding=1)
    yield dict(input=make(2, 3, 7, 6), kernel_size=3, stride=2, padding=1, count_include_pad=False)
    yield dict(input=make(1, 2, 5, 6), kernel_size=2, ceil_mode=True)
    yield dict(input=make(1, 2, 6, 6), kernel_size=3, stride=2, padding=1, ceil_mode=True)
    yield dict(input=make(1, 2, 6, 6), kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    yield dict(input=make(1, 2, 5, 6), kernel_size=2, divisor_override=3)
    yield dict(input=make(0, 3, 4, 4), kernel_size=2)
    yield dict(input=make.ints(2, 4, 4, low=-4), kernel_size=2)
    yield RuntimeError, dict(input=make(2, 0, 4, 4), kernel_size=2)
    yield RuntimeError, dict(input=make(1, 1, 5), kernel_size=2)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, padding=2)
    yield RuntimeError, dict(input=make(1, 4, 4), kernel_size=2, divisor_override=0)


@avg_pool2d_dx_p.cases
def _(make):
    for how in (
        dict(padding=(0, 0), include=True, divisor=None),
        dict(padding=(1, 0), include=False, divisor=None),
        dict(padding=(0, 1), include=True, divisor=3),
    ):
        out = (2, 3, (6 + 2 * how["padding"][0] - 3) // 2 + 1, (5 + 2 * how["padding"][1] - 2) // 1 + 1)
        yield dict(dy=make(*out), size=(6, 5), kernel=(3, 2), stride=(2, 1), ceil=False, **how)


@avg_pool2d_p.ref
def _(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    rows, columns = _windows(input, kernel_size, stride, padding, 1, ceil_mode)
    k, p = np.broadcast_to(kernel_size, 2), np.broadcast_to(padding, 2)
    s = k if stride is None else np.broadcast_to(stride, 2)
    y = np.zeros((*input.shape[:-2], len(rows), len(columns)))
    for r, c in np.ndindex(y.shape[-2:]):
        size = [min(k[d], input.shape[d - 2] + 2 * p[d] - at * s[d]) for d, at in ((0, r), (1, c))]
        count = divisor_override or (size[0] * size[1] if count_include_pad else len(rows[r]) * len(columns[c]))
        y[..., r, c] = sum(input[..., a, b] for a in rows[r] for b in columns[c]) / count
    return np.trunc(y) if input.dtype.kind == "i" else y


@avg_pool2d_dx_p.ref
def _(dy, size, kernel, stride, padding, ceil, include, divisor):
    dx = np.zeros((*dy.shape[:-2], *size))
    for r, c in np.ndindex(dy.shape[-2:]):
        box = [
            slice(max(at * s - p, 0), min(at * s - p + k, n))
            for at, s, p, k, n in zip((r, c), stride, padding, kernel, size)
        ]
        inside = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
        dx[(..., *box)] += dy[..., r, c, None, None] / (divisor or (kernel[0] * kernel[1] if include else inside))
    return dx


@face(avg_pool2d_p)
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of (N, C, H, W) or (C, H, W). Padding counts as zeros, with ``count_include_pad=False``
    not at all; ``divisor_override`` takes the place of the number of elements.

    >>> import tensorlite as tl
    >>> tl.nn.functional.avg_pool2d(tl.arange(16.0).reshape(1, 4, 4), 2)
    tensor([[[ 2.5000,  4.5000],
             [10.5000, 12.5000]]])
    """
    name = "avg_pool2d"
    kernel = _two(name, kernel_size, "kernel_size")
    step = kernel if stride is None or stride == () or stride == [] else _two(name, stride, "stride")
    return avg_pool2d_p(
        input,
        kernel=kernel,
        stride=step,
        padding=_two(name, padding, "padding"),
        ceil=bool(ceil_mode),
        include=bool(count_include_pad),
        divisor=divisor_override,
    )


# ---- windows that adapt to the image
def _edges(size: int, out: int) -> tuple[Any, Any]:
    """Where the windows begin and end: window k covers floor(k size / out) to ceil((k + 1) size / out)."""
    k = np.arange(out)
    return k * size // out, -(-(k + 1) * size // out)


def _target(name: str, input: Tensor, output_size: Any) -> tuple[int, int]:
    shape = input._spec.shape
    if input._spec.ndim not in (3, 4):
        raise ShapeError(f"{name}: input {shape}; expected 3D or 4D tensor")
    if 0 in shape[-3:]:
        raise ShapeError(f"{name}: input {shape}; expected input to have non-zero size for non-batch dimensions")
    if not input._spec.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {input._spec.dtype}; wanted a floating-point dtype")
    given = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    if len(given) != 2:
        raise ShapeError(f"{name}: output_size {given}; output_size must be 2")
    out = tuple(n if o is None else index(name, o) for n, o in zip(shape[-2:], given))
    if min(out) < 0:
        raise ShapeError(f"{name}: output_size {out}; elements of output_size must be greater than or equal to 0")
    return out  # type: ignore[return-value]


def _regular(size: tuple, out: tuple) -> bool:
    return all(o and n % o == 0 for n, o in zip(size, out))


@op(torch="nn.functional.adaptive_avg_pool2d")
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of OH x OW windows that together cover the image; ``output_size`` is (OH, OW), None keeping a size.

    >>> import tensorlite as tl
    >>> tl.nn.functional.adaptive_avg_pool2d(tl.arange(6.0).reshape(1, 2, 3), 1)
    tensor([[[2.5000]]])
    """
    out = _target("adaptive_avg_pool2d", input, output_size)
    size = input._spec.shape[-2:]
    if out == (1, 1):
        return input.mean((-2, -1), keepdim=True)
    if _regular(size, out):
        return avg_pool2d(input, tuple(n // o for n, o in zip(size, out)))
    # windows are rectangles, so the mean is a product with a matrix on either side
    means = []
    for n, o in zip(size, out):
        first, last = _edges(n, o)
        at = np.arange(n)
        row = ((at >= first[:, None]) & (at < last[:, None])) / (last - first)[:, None]
        means.append(input.new_tensor(row))
    return means[0] @ input @ means[1].T


@op(torch="nn.functional.adaptive_max_pool2d")
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of OH x OW windows that together cover the image; with ``return_indices`` also where."""
    out = _target("adaptive_max_pool2d", input, output_size)
    shape = input._spec.shape
    size, lead = shape[-2:], shape[:-2]
    if 0 in out or 0 in lead:
        y = input[..., :1, :1].expand(*lead, *out)  # empty, and a function of the input all the same
        return (y, x_spec_zeros(input._spec, y._spec.shape).to(dtypes.int64)) if return_indices else y
    if _regular(size, out):
        return max_pool2d(input, tuple(n // o for n, o in zip(size, out)), return_indices=return_indices)
    # every window widened to the size of the largest by repeating its last row and column: that changes no maximum
    rows, columns = (
        np.minimum(first[:, None] + np.arange((last - first).max()), last[:, None] - 1)
        for first, last in (_edges(n, o) for n, o in zip(size, out))
    )
    flat = (rows[:, None, :, None] * size[1] + columns[None, :, None, :]).reshape(*out, -1)
    at = input.new_tensor(flat.reshape(-1), dtype=dtypes.int64)
    part = input.reshape(*lead, size[0] * size[1]).index_select(-1, at).reshape(*lead, *flat.shape)
    y, place = part.max(-1)
    if not return_indices:
        return y
    table = at.reshape(*((1,) * len(lead)), *flat.shape).expand(part._spec.shape)
    return y, table.gather(-1, place.unsqueeze(-1)).squeeze(-1)


@adaptive_avg_pool2d.cases
def _(make):
    yield dict(input=make(2, 3, 6, 4), output_size=(3, 2))
    yield dict(input=make(2, 3, 5, 7), output_size=(3, None))
    yield dict(input=make(2, 5, 7), output_size=1)
    yield dict(input=make(2, 3, 5), output_size=(4, 8))
    yield dict(input=make(0, 3, 5, 7), output_size=2)
    yield RuntimeError, dict(input=make(5, 7), output_size=2)
    yield RuntimeError, dict(input=make(1, 2, 0, 7), output_size=2)
    yield RuntimeError, dict(input=make(1, 2, 5, 7), output_size=-1)
    yield RuntimeError, dict(input=make.ints(1, 2, 5, 7), output_size=2)


@adaptive_max_pool2d.cases
def _(make):
    yield dict(input=make.distinct(2, 3, 6, 4), output_size=(3, 2), return_indices=True)
    yield dict(input=make.distinct(2, 3, 5, 7), output_size=(3, None), return_indices=True)
    yield dict(input=make.distinct(2, 5, 7), output_size=(2, 3))
    yield dict(input=make.distinct(2, 3, 5), output_size=(4, 8))
    yield RuntimeError, dict(input=make(5, 7), output_size=2)
    yield RuntimeError, dict(input=make.ints(1, 2, 5, 7), output_size=2)


def _adaptive_ref(input, output_size, how):
    sizes = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    out = [n if o is None else o for n, o in zip(input.shape[-2:], sizes)]
    y = np.zeros((*input.shape[:-2], *out))
    for r, c in np.ndindex(*out):
        (a, b), (i, j) = ((k * n // o, ((k + 1) * n + o - 1) // o) for k, n, o in zip((r, c), input.shape[-2:], out))
        y[..., r, c] = how(input[..., a:b, i:j], a, i)
    return y


adaptive_avg_pool2d.ref(
    lambda input, output_size: _adaptive_ref(input, output_size, lambda part, a, i: part.mean((-2, -1)))
)


@adaptive_max_pool2d.ref
def _(input, output_size, return_indices=False):
    def where(part, a, i):
        flat = part.reshape(*part.shape[:-2], -1).argmax(-1)
        return (a + flat // part.shape[-1]) * input.shape[-1] + i + flat % part.shape[-1]

    y = _adaptive_ref(input, output_size, lambda part, a, i: part.max((-2, -1)))
    return (y, _adaptive_ref(input, output_size, where).astype(int)) if return_indices else y
