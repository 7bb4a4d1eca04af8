"""Convolutions, as matrix products over windows. Floor 3.

Three primitives are closed under differentiation: the product of two of (y, x, w) gives the gradient of the third, so
``conv2d``, ``conv2d_dx`` and ``conv2d_dw`` are each other's gradients to every order.

Two layouts are used, because a matrix product is only as fast as the copies around it:

- pixels by channels (NHWC): a window's row is one run of kernel width x channels in memory, and several images make one
  tall product. Right where there are many channels.
- channels by pixels (NCHW, as stored): an image at a time, without any transposing. Right where channels are few
  (a first layer) and for 1x1 kernels, whose windows are the image itself.

Both go through the images in blocks whose windows fit in a core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tensorlite.autograd.methods import face, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import strided
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.cast import laid_p
from tensorlite.ops.reduce import spread_p
from tensorlite.ops.slices import slice_
from tensorlite.shapes import index

BLOCK = 1 << 19  # elements of a block's windows: 2 MB of float32, a core's L2
COUNTED = 2**31 - 2**12  # what CUDA kernels count to with 32 bits, and the last of their tiles
FEW_CHANNELS = 4  # at most so many channels in a group: the image's own layout is faster


class Plan(NamedTuple):
    """Sizes of a convolution: n images of groups x cg channels to groups x og channels."""

    n: int
    groups: int
    cg: int
    og: int
    size: tuple[int, int]  # of an image
    padded: tuple[int, int]
    kernel: tuple[int, int]
    out: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]  # at the top and at the left
    dilation: tuple[int, int]

    @property
    def taps(self) -> int:
        """Numbers in one window of one group."""
        return self.cg * self.kernel[0] * self.kernel[1]

    @property
    def few(self) -> bool:
        return self.cg <= FEW_CHANNELS or self.point

    @property
    def point(self) -> bool:
        """Whether a window is one pixel, and every pixel is a window."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padded == self.size

    def blocks(self, images: int) -> Iterator[tuple[int, int, int, int]]:
        """Ranges (first image, last, first output row, last): ``images`` at a time, or a part of one that is large."""
        rows, row = self.out[0], self.groups * self.taps * self.out[1]
        if images > 1 or rows * row <= BLOCK:
            for a in range(0, self.n, images):
                yield a, min(a + images, self.n), 0, rows
            return
        step = max(BLOCK // max(row, 1), 1)
        for a in range(self.n):
            for r in range(0, rows, step):
                yield a, a + 1, r, min(r + step, rows)

    def together(self) -> int:
        """How many images make a block: as many as fit, in blocks of about one size."""
        one = max(self.groups * self.taps * self.out[0] * self.out[1], 1)
        parts = max(-(-one * self.n // BLOCK), 1)
        return max(-(-self.n // parts), 1)


def _plan(x: tuple, w: tuple, out: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> Plan:
    top, bottom, left, right = padding
    return Plan(
        x[0],
        groups,
        w[1],
        w[0] // groups,
        x[2:],
        (x[2] + top + bottom, x[3] + left + right),
        w[2:],
        out[2:],
        stride,
        (top, left),
        dilation,
    )


def _taps(p: Plan, rows: tuple[int, int]) -> Iterator[tuple[int, int, tuple]]:
    """For each place (i, j) in the kernel: the pixels that it meets, as an index of (any, height, width, ...)."""
    for i in range(p.kernel[0]):
        for j in range(p.kernel[1]):
            a, b = i * p.dilation[0] + rows[0] * p.stride[0], j * p.dilation[1]
            yield (
                i,
                j,
                (
                    slice(None),
                    slice(a, a + (rows[1] - rows[0] - 1) * p.stride[0] + 1, p.stride[0]),
                    slice(b, b + (p.out[1] - 1) * p.stride[1] + 1, p.stride[1]),
                ),
            )


# ---- channels by pixels: an image at a time
def _image(xp: Any, p: Plan, dtype: Any) -> Callable:
    """A function from an image (C, H, W) to its padded self, in a buffer that is used again for every image."""
    if p.padded == p.size:
        return lambda image: image
    room = xp.zeros((p.groups * p.cg, *p.padded), dtype)
    inside = room[:, p.pad[0] : p.pad[0] + p.size[0], p.pad[1] : p.pad[1] + p.size[1]]

    def padded(image):
        inside[...] = image
        return room

    return padded


def _rows(xp: Any, p: Plan, dtype: Any) -> Callable:
    """A function from a padded image and a range of output rows to the windows (groups, taps, pixels)."""
    (kh, kw), (sh, sw), (dh, dw), c = p.kernel, p.stride, p.dilation, p.groups * p.cg
    if p.point:
        return lambda image, a, b: image[:, a:b].reshape(p.groups, p.cg, (b - a) * p.out[1])
    most = max((b - a for _, _, a, b in p.blocks(1)), default=0)
    room = xp.empty(c * kh * kw * most * p.out[1], dtype)

    def windows(image, a, b):
        z, y, x = image.strides
        shape = (c, kh, kw, b - a, p.out[1])
        part = room[: c * kh * kw * (b - a) * p.out[1]].reshape(shape)
        xp.copyto(part, strided(image[:, a * sh :], shape, (z, dh * y, dw * x, sh * y, sw * x)))
        return part.reshape(p.groups, p.taps, -1)

    return windows


def _few_forward(xp: Any, p: Plan, x: Any, w: Any, b: Any, out: Any) -> None:
    weight = w.reshape(p.groups, p.og, p.taps)
    padded, windows = _image(xp, p, out.dtype), _rows(xp, p, out.dtype)
    y = out.reshape(p.n, p.groups, p.og, *p.out)
    bias = None if b is None else b.reshape(p.groups, p.og, 1)
    for n, _, r0, r1 in p.blocks(1):
        part = y[n, :, :, r0:r1].reshape(p.groups, p.og, -1) if r1 - r0 == p.out[0] else None
        got = xp.matmul(weight, windows(padded(x[n]), r0, r1), out=part)
        if bias is not None:
            xp.add(got, bias, got)
        if part is None:
            y[n, :, :, r0:r1] = got.reshape(p.groups, p.og, r1 - r0, p.out[1])


def _few_dx(xp: Any, p: Plan, dy: Any, w: Any, out: Any) -> None:
    weight = w.reshape(p.groups, p.og, p.taps).swapaxes(1, 2)
    dy = dy.reshape(p.n, p.groups, p.og, *p.out)
    if p.point:
        for n in range(p.n):
            xp.matmul(weight, dy[n].reshape(p.groups, p.og, -1), out=out[n].reshape(p.groups, p.cg, -1))
        return
    direct = p.padded == p.size
    room = None if direct else xp.empty((p.groups * p.cg, *p.padded), out.dtype)
    for n, _, r0, r1 in p.blocks(1):
        whole = out[n] if direct else room
        if r0 == 0:
            whole.fill(0)
        got = xp.matmul(weight, dy[n, :, :, r0:r1].reshape(p.groups, p.og, -1))
        got = got.reshape(p.groups * p.cg, *p.kernel, r1 - r0, p.out[1])
        for i, j, place in _taps(p, (r0, r1)):
            whole[place] += got[:, i, j]
        if not direct and r1 == p.out[0]:
            out[n] = whole[:, p.pad[0] : p.pad[0] + p.size[0], p.pad[1] : p.pad[1] + p.size[1]]


def _few_dw(xp: Any, p: Plan, x: Any, dy: Any, out: Any) -> None:
    total = xp.zeros((p.groups, p.og, p.taps), out.dtype)
    padded, windows = _image(xp, p, out.dtype), _rows(xp, p, out.dtype)
    dy = dy.reshape(p.n, p.groups, p.og, *p.out)
    for n, _, r0, r1 in p.blocks(1):
        part = windows(padded(x[n]), r0, r1)
        total += xp.matmul(dy[n, :, :, r0:r1].reshape(p.groups, p.og, -1), part.swapaxes(1, 2))
    out[...] = total.reshape(out.shape)


# ---- pixels by channels: many images in one product
def _pixels(xp: Any, p: Plan, images: int, dtype: Any) -> Callable:
    """A function from images (n, C, H, W) to padded (n, H, W, C), in a buffer that is used again."""
    room = (xp.empty if p.padded == p.size else xp.zeros)((images, *p.padded, p.groups * p.cg), dtype)
    inside = room[:, p.pad[0] : p.pad[0] + p.size[0], p.pad[1] : p.pad[1] + p.size[1]]

    def turned(x):
        inside[: len(x)] = x.transpose(0, 2, 3, 1)
        return room[: len(x)]

    return turned


def _stacked(xp: Any, p: Plan, images: int, dtype: Any) -> Callable:
    """A function from padded (n, H, W, C) and a range of output rows to the windows (groups, pixels, taps)."""
    (kh, kw), (sh, sw), (dh, dw) = p.kernel, p.stride, p.dilation
    most = max((b - a for _, _, a, b in p.blocks(images)), default=0)
    room = xp.empty(images * most * p.out[1] * p.groups * p.taps, dtype)

    def windows(image, a, b):
        n, y, x, c = image.strides
        shape = (len(image), b - a, p.out[1], p.groups, kh, kw, p.cg)
        pixels = len(image) * (b - a) * p.out[1]
        part = room[: pixels * p.groups * p.taps].reshape(shape)
        xp.copyto(part, strided(image[:, a * sh :], shape, (n, sh * y, sw * x, p.cg * c, dh * y, dw * x, c)))
        return part.reshape(pixels, p.groups, p.taps).swapaxes(0, 1)

    return windows


def _turned_rows(xp: Any, p: Plan, dy: Any, n0: int, n1: int, r0: int, r1: int) -> Any:
    """dy (N, O, H, W) of a block as (pixels, O)."""
    part = dy[n0:n1, :, r0:r1].transpose(0, 2, 3, 1)
    return xp.ascontiguousarray(part).reshape(-1, p.groups * p.og)


def _many_forward(xp: Any, p: Plan, x: Any, w: Any, b: Any, out: Any) -> None:
    images = p.together()
    weight = xp.ascontiguousarray(w.reshape(p.groups, p.og, p.cg, *p.kernel).transpose(0, 3, 4, 2, 1))
    weight = weight.reshape(p.groups, p.taps, p.og)
    turned, windows = _pixels(xp, p, images, out.dtype), _stacked(xp, p, images, out.dtype)
    for n0, n1, r0, r1 in p.blocks(images):
        got = _grouped(xp, windows(turned(x[n0:n1]), r0, r1), weight)
        if b is not None:
            xp.add(got, b, got)
        out[n0:n1, :, r0:r1] = got.reshape(n1 - n0, r1 - r0, p.out[1], -1).transpose(0, 3, 1, 2)


def _grouped(xp: Any, rows: Any, weight: Any) -> Any:
    """(groups, pixels, k) @ (groups, k, m) as (pixels, groups * m)."""
    if len(rows) == 1:
        return xp.matmul(rows[0], weight[0])
    got = xp.empty((rows.shape[1], len(rows), weight.shape[2]), rows.dtype)
    xp.matmul(rows, weight, out=got.swapaxes(0, 1))
    return got.reshape(len(got), -1)


def _many_dx(xp: Any, p: Plan, dy: Any, w: Any, out: Any) -> None:
    images = p.together()
    # a product for each place in the kernel: its result is added to the image in long runs
    weight = xp.ascontiguousarray(w.reshape(p.groups, p.og, p.cg, *p.kernel).transpose(3, 4, 0, 1, 2))
    room = xp.empty((images, *p.padded, p.groups * p.cg), out.dtype)
    for n0, n1, r0, r1 in p.blocks(images):
        whole = room[: n1 - n0]
        if r0 == 0:
            whole.fill(0)
        rows = _turned_rows(xp, p, dy, n0, n1, r0, r1).reshape(-1, p.groups, p.og).swapaxes(0, 1)
        for i, j, place in _taps(p, (r0, r1)):
            got = _grouped(xp, rows, weight[i, j])
            whole[place] += got.reshape(n1 - n0, r1 - r0, p.out[1], -1)
        if r1 == p.out[0]:
            inside = whole[:, p.pad[0] : p.pad[0] + p.size[0], p.pad[1] : p.pad[1] + p.size[1]]
            out[n0:n1] = inside.transpose(0, 3, 1, 2)


def _many_dw(xp: Any, p: Plan, x: Any, dy: Any, out: Any) -> None:
    images = p.together()
    total = xp.zeros((p.groups, p.taps, p.og), out.dtype)
    turned, windows = _pixels(xp, p, images, out.dtype), _stacked(xp, p, images, out.dtype)
    for n0, n1, r0, r1 in p.blocks(images):
        rows = _turned_rows(xp, p, dy, n0, n1, r0, r1).reshape(-1, p.groups, p.og).swapaxes(0, 1)
        total += xp.matmul(windows(turned(x[n0:n1]), r0, r1).swapaxes(1, 2), rows)
    total = total.reshape(p.groups, *p.kernel, p.cg, p.og).transpose(0, 4, 3, 1, 2)
    out.reshape(p.groups, p.og, p.cg, *p.kernel)[...] = total


# ---- the primitives
@primitive(name="conv2d", torch="nn.functional.conv2d")
def conv2d_p(xp, x, w, b=None, out=None, *, stride, padding, dilation, groups):
    """x (N, C, H, W), w (O, C / groups, KH, KW), b (O,) or None -> (N, O, OH, OW); padding top, bottom, left, right."""
    if not w.size:  # no channels: nothing to add up
        out[...] = 0 if b is None else b.reshape(-1, 1, 1)
        return
    p = _plan(x.shape, w.shape, out.shape, stride, padding, dilation, groups)
    (_few_forward if p.few else _many_forward)(xp, p, x, w, b, out)


@primitive(name="conv2d_dx", torch=None)
def conv2d_dx_p(xp, dy, w, out, *, size, stride, padding, dilation, groups):
    """The gradient of conv2d with respect to x of H, W = ``size``, from dy and w; also the transposed convolution."""
    if not out.size:
        return
    p = _plan((len(dy), out.shape[1], *size), w.shape, dy.shape, stride, padding, dilation, groups)
    (_few_dx if p.few else _many_dx)(xp, p, dy, w, out)


@primitive(name="conv2d_dw", torch=None)
def conv2d_dw_p(xp, x, dy, out, *, kernel, stride, padding, dilation, groups):
    """The gradient of conv2d with respect to w of KH, KW = ``kernel``, from x and dy."""
    if not out.size:
        return
    p = _plan(x.shape, out.shape, dy.shape, stride, padding, dilation, groups)
    (_few_dw if p.few else _many_dw)(xp, p, x, dy, out)


# ---- the compiled kernels; none for sizes of 0
def not_empty(*specs: Spec | None, **_: Any) -> bool:
    return all(s.size for s in specs if s is not None)


def on_gpu(
    a: Spec,
    b: Spec,
    *_: Spec | None,
    stride: tuple,
    padding: tuple,
    groups: int,
    size: Any = None,
    kernel: Any = None,
    **__: Any,
) -> bool:
    """Whether the CUDA kernels, which count pixels and the places of one image with 32 bits, can take these sizes."""
    if not a.size or not b.size:
        return False
    rows, columns = size or a.shape[2:]
    image = (rows + padding[0] + padding[1] + stride[0]) * (columns + padding[2] + padding[3] + stride[1])
    other = b.shape[1] * groups if size else b.shape[1] if kernel else b.shape[0]
    return image * max(a.shape[0], a.shape[1], other) < COUNTED and b.size // (b.shape[0] if kernel else 1) < COUNTED


for _p in (conv2d_p, conv2d_dx_p, conv2d_dw_p):
    _p.kernel("cpu", _p.op.name, when=not_empty, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"conv.{_p.op.name}", "f2 bf2 f4 f8", when=on_gpu, formats=ANY)


def _beside(shape: tuple, *specs: Spec) -> Spec:
    """The spec of a result: channels_last if one of these inputs is, as in PyTorch."""
    last = any(s.format is CHANNELS_LAST for s in specs)
    return specs[0].like(*shape).laid(CHANNELS_LAST if last else CONTIGUOUS)


def _packed(x: Tensor) -> Tensor:
    """x in a layout that kernels know."""
    return laid_p(x, format=CONTIGUOUS) if x._spec.format is STRIDED else x


@primitive(name="conv2d_db", torch=None)
def conv2d_db_p(xp, dy, out):
    """The gradient of conv2d with respect to b: the sums of dy's channels."""
    xp.add.reduce(dy, axis=(0, 2, 3), out=out)


conv2d_db_p.spec(lambda dy: dy.like(dy.shape[1]))
conv2d_db_p.grad(dy=lambda g, dy_spec: spread_p(g, shape=dy_spec.shape, dim=(0, 2, 3), keepdim=False))
conv2d_db_p.kernel("cpu", "conv2d_db", when=not_empty, formats=(CONTIGUOUS, CHANNELS_LAST))
conv2d_db_p.kernel("cuda", "conv.conv2d_db", "f2 bf2 f4 f8", when=not_empty, formats=ANY)


@conv2d_db_p.cases
def _(make):
    yield dict(dy=make(3, 5, 2, 4))
    yield dict(dy=make(2, 3, 1, 1))
    yield dict(dy=make(0, 3, 4, 4))
    yield dict(dy=make(2, 20, 9, 7))


conv2d_db_p.ref(lambda dy: np.einsum("nchw->c", dy))


def _check(
    name: str, x: Spec, w: Spec, b: Spec | None, stride: tuple, dilation: tuple, groups: int, padding: tuple
) -> None:
    """What PyTorch refuses, whatever the sizes of the image."""
    given = [s for s in (x, w, b) if s is not None]
    if any(s.dtype is not x.dtype for s in given):
        raise DTypeError(
            f"{name}: got {' and '.join(s.dtype.name for s in given)}; wanted one dtype for input, weight "
            "and bias (input type and bias type should be the same)"
        )
    if x.dtype.name == "bool":
        raise DTypeError(f"{name}: got bool; wanted numbers (not implemented for 'Bool')")
    if groups < 1:
        raise ShapeError(f"{name}: groups {groups}; wanted 1 or more (non-positive groups is not supported)")
    if min(stride) < 1:
        raise ShapeError(f"{name}: stride {stride}; wanted 1 or more (non-positive stride is not supported)")
    if min(dilation) < 1:
        raise ShapeError(f"{name}: dilation {dilation}; dilation should be greater than zero")
    if min(padding) < 0:
        raise ShapeError(f"{name}: padding {padding}; negative padding is not supported")
    if w.shape[0] < 1 or w.shape[0] % groups:
        raise ShapeError(
            f"{name}: weight {w.shape} with groups {groups}; wanted dimension 0 to be 1 or more and "
            f"divisible by {groups}"
        )
    if min(w.shape[2:]) < 1:
        raise ShapeError(f"{name}: weight {w.shape}; kernel size should be greater than zero")
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(
            f"{name}: bias {b.shape} for weight {w.shape}; expected bias to be 1-dimensional with {w.shape[0]} elements"
        )


@conv2d_p.spec
def _(x, w, b, *, stride, padding, dilation, groups):
    _check("conv2d", x, w, b, stride, dilation, groups, padding)
    if x.shape[1] != w.shape[1] * groups:
        raise ShapeError(
            f"conv2d: input {x.shape} for weight {w.shape} with groups {groups}; expected input to have "
            f"{w.shape[1] * groups} channels, but got {x.shape[1]} channels instead"
        )
    if min(x.shape[2:]) < 1:
        raise ShapeError(f"conv2d: input {x.shape}; only zero batch or zero channel inputs are supported")
    sizes = (x.shape[2] + padding[0] + padding[1], x.shape[3] + padding[2] + padding[3])
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:]))
    if any(s < k for s, k in zip(sizes, spans)):
        raise ShapeError(
            f"conv2d: padded input {sizes} for kernel {spans}; kernel size can't be greater than actual input size"
        )
    return _beside((x.shape[0], w.shape[0], *((s - k) // t + 1 for s, k, t in zip(sizes, spans, stride))), x, w)


conv2d_dx_p.spec(
    lambda dy, w, *, size, stride, padding, dilation, groups: _beside((dy.shape[0], w.shape[1] * groups, *size), dy, w)
)
conv2d_dw_p.spec(
    lambda x, dy, *, kernel, stride, padding, dilation, groups: _beside(
        (dy.shape[1], x.shape[1] // groups, *kernel), x, dy
    )
)


def _fit(y: Tensor, like: Spec) -> Tensor:
    """y without the rows and columns that dy did not have: a transposed convolution with an output padding larger than
    its stride makes images in which more windows fit."""
    if y._spec.shape == like.shape:
        return y
    return slice_(y, (slice(None), slice(None), slice(like.shape[2]), slice(like.shape[3])))


conv2d_p.grad(
    x=lambda g, w, x_spec, stride, padding, dilation, groups: conv2d_dx_p(
        _packed(g), w, size=x_spec.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    w=lambda g, x, w_spec, stride, padding, dilation, groups: conv2d_dw_p(
        x, _packed(g), kernel=w_spec.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    b=lambda g: conv2d_db_p(_packed(g)),
)
conv2d_dx_p.grad(
    dy=lambda g, w, dy_spec, stride, padding, dilation, groups: _fit(
        conv2d_p(_packed(g), w, stride=stride, padding=padding, dilation=dilation, groups=groups), dy_spec
    ),
    w=lambda g, dy, w_spec, stride, padding, dilation, groups: conv2d_dw_p(
        _packed(g), dy, kernel=w_spec.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
)
conv2d_dw_p.grad(
    x=lambda g, dy, x_spec, stride, padding, dilation, groups: conv2d_dx_p(
        dy, _packed(g), size=x_spec.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
    ),
    dy=lambda g, x, dy_spec, stride, padding, dilation, groups: _fit(
        conv2d_p(x, _packed(g), stride=stride, padding=padding, dilation=dilation, groups=groups), dy_spec
    ),
)


@conv2d_p.cases
def _(make):
    yield dict(input=make(2, 3, 6, 5), weight=make(4, 3, 3, 2), bias=make(4))
    yield dict(input=make(2, 6, 7, 6), weight=make(4, 6, 3, 3), bias=make(4), stride=2, padding=1)
    yield dict(input=make(1, 5, 8, 7), weight=make(2, 5, 2, 3), stride=(1, 3), padding=(2, 0), dilation=(3, 2))
    yield dict(input=make(2, 6, 5, 5), weight=make(4, 3, 3, 3), bias=make(4), groups=2, padding=1)
    yield dict(input=make(2, 10, 5, 4), weight=make(4, 5, 2, 2), groups=2, stride=2)
    yield dict(input=make(2, 3, 4, 5), weight=make(6, 1, 3, 3), groups=3, padding=1)
    yield dict(input=make(2, 3, 4, 5), weight=make(2, 3, 1, 1), bias=make(2))
    yield dict(input=make(2, 6, 5, 5), weight=make(3, 6, 1, 1), stride=2)
    yield dict(input=make(3, 6, 5), weight=make(2, 3, 2, 4), bias=make(2), padding="same")
    yield dict(input=make(1, 5, 6, 5), weight=make(2, 5, 3, 2), padding="valid")
    yield dict(input=make(1, 5, 6, 5), weight=make(2, 5, 3, 2), padding="same", dilation=2)
    yield dict(input=make(0, 3, 5, 5), weight=make(4, 3, 3, 3), bias=make(4))
    yield dict(input=make.ints(1, 2, 4, 4), weight=make.ints(2, 2, 3, 3))
    yield RuntimeError, dict(input=make(5, 5), weight=make(4, 3, 3, 3))
    yield RuntimeError, dict(input=make(1, 2, 5, 5), weight=make(4, 3, 3, 3))
    yield RuntimeError, dict(input=make(1, 3, 2, 5), weight=make(4, 3, 3, 3))
    yield RuntimeError, dict(input=make(1, 3, 0, 5), weight=make(4, 3, 3, 3), padding=2)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), bias=make(3))
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), stride=0)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), dilation=0)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), padding=-1)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), groups=0)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 1, 3, 3), groups=3)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), padding="same", stride=2)
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(4, 3, 3, 3), padding="full")
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make.ints(4, 3, 3, 3))


@conv2d_dx_p.cases
def _(make):
    yield dict(
        dy=make(2, 4, 2, 2),
        w=make(4, 6, 3, 3),
        size=(6, 5),
        stride=(2, 2),
        padding=(1, 0, 0, 1),
        dilation=(1, 1),
        groups=1,
    )
    yield dict(
        dy=make(2, 4, 3, 2),
        w=make(4, 2, 2, 2),
        size=(4, 4),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 2),
        groups=2,
    )


@conv2d_dw_p.cases
def _(make):
    yield dict(
        x=make(2, 6, 6, 5),
        dy=make(2, 4, 3, 2),
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 0, 0, 1),
        dilation=(1, 1),
        groups=1,
    )
    yield dict(
        x=make(2, 4, 4, 4),
        dy=make(2, 4, 3, 2),
        kernel=(2, 2),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 2),
        groups=2,
    )


def _meetings(size, kernel, out, stride, padding, dilation, groups, channels, features):
    """Indices of every (output, weight, input) that are multiplied: by loops over pixels, kernel places and groups."""
    og, cg = features // groups, channels // groups
    for r in range(out[0]):
        for c in range(out[1]):
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    h = r * stride[0] + i * dilation[0] - padding[0]
                    v = c * stride[1] + j * dilation[1] - padding[2]
                    if 0 <= h < size[0] and 0 <= v < size[1]:
                        for k in range(groups):
                            yield (slice(k * og, (k + 1) * og), r, c), (i, j), (slice(k * cg, (k + 1) * cg), h, v)


def _ref(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    stride, dilation = _two("conv2d", stride, "stride"), _two("conv2d", dilation, "dilation")
    pad = _padding("conv2d", padding, weight.shape[2:], stride, dilation)
    x = input[None] if input.ndim == 3 else input
    room = [n + pad[2 * d] + pad[2 * d + 1] for d, n in enumerate(x.shape[2:])]
    out = tuple((r - d * (k - 1) - 1) // s + 1 for r, d, k, s in zip(room, dilation, weight.shape[2:], stride))
    y = np.zeros((x.shape[0], weight.shape[0], *out))
    for (o, r, c), (i, j), (k, h, v) in _meetings(
        x.shape[2:], weight.shape[2:], out, stride, pad, dilation, groups, x.shape[1], weight.shape[0]
    ):
        y[:, o, r, c] += np.einsum("nc,oc->no", x[:, k, h, v], weight[o, :, i, j])
    y = y if bias is None else y + bias[:, None, None]
    return y[0] if input.ndim == 3 else y


def _dx_ref(dy, w, size, stride, padding, dilation, groups):
    dx = np.zeros((dy.shape[0], w.shape[1] * groups, *size))
    for (o, r, c), (i, j), (k, h, v) in _meetings(
        size, w.shape[2:], dy.shape[2:], stride, padding, dilation, groups, dx.shape[1], w.shape[0]
    ):
        dx[:, k, h, v] += np.einsum("no,oc->nc", dy[:, o, r, c], w[o, :, i, j])
    return dx


def _dw_ref(x, dy, kernel, stride, padding, dilation, groups):
    dw = np.zeros((dy.shape[1], x.shape[1] // groups, *kernel))
    for (o, r, c), (i, j), (k, h, v) in _meetings(
        x.shape[2:], kernel, dy.shape[2:], stride, padding, dilation, groups, x.shape[1], dy.shape[1]
    ):
        dw[o, :, i, j] += np.einsum("no,nc->oc", dy[:, o, r, c], x[:, k, h, v])
    return dw


conv2d_p.ref(_ref)
conv2d_dx_p.ref(_dx_ref)
conv2d_dw_p.ref(_dw_ref)


# ---- the public functions
def _two(name: str, value: Any, what: str, n: int = 2) -> tuple:
    """``n`` integers from one, or from a sequence of one or ``n``."""
    if isinstance(value, (tuple, list)):
        got = tuple(index(name, v) for v in value)
        if len(got) not in (1, n):
            raise ShapeError(
                f"{name}: {what} {list(got)}; expected {what} to be a single integer value or a list of "
                f"{n} values to match the convolution dimensions"
            )
        return got * n if len(got) == 1 else got
    return (index(name, value),) * n


def _padding(name: str, padding: Any, kernel: tuple, stride: tuple, dilation: tuple) -> tuple:
    """Padding before and after each dimension, from an integer, one for each dimension, "same" or "valid"."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0) * len(kernel)
        if padding != "same":
            raise RuntimeError(f"{name}: invalid padding string: {padding!r}; wanted 'same' or 'valid'")
        if any(s != 1 for s in stride):
            raise RuntimeError(f"{name}: padding='same' is not supported for strided convolutions; got stride {stride}")
        spans = [d * (k - 1) for d, k in zip(dilation, kernel)]
        return tuple(v for s in spans for v in (s // 2, s - s // 2))  # the odd one goes behind
    return tuple(v for p in _two(name, padding, "padding", len(kernel)) for v in (p, p))


def _ranks(name: str, input: Tensor, weight: Tensor, n: int) -> None:
    if weight._spec.ndim != n + 2:
        raise ShapeError(f"{name}: weight {weight._spec.shape}; wanted {n + 2} dimensions")
    if input._spec.ndim not in (n + 1, n + 2):
        raise ShapeError(
            f"{name}: expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}, but got input "
            f"of size: {list(input._spec.shape)}"
        )


@face(conv2d_p)
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The cross-correlation of images with kernels, plus a bias for each output channel.

    input (N, C, H, W) or (C, H, W), weight (O, C / groups, KH, KW), bias (O,) or None -> (N, O, OH, OW) with
    OH = (H + 2 padding - dilation (KH - 1) - 1) // stride + 1. ``padding`` may be "valid" (none) or "same" (OH = H).

    >>> import tensorlite as tl
    >>> tl.nn.functional.conv2d(tl.ones(1, 1, 4, 4), tl.ones(2, 1, 3, 3)).shape
    tensorlite.Size([1, 2, 2, 2])
    """
    _ranks("conv2d", input, weight, 2)
    stride, dilation = _two("conv2d", stride, "stride"), _two("conv2d", dilation, "dilation")
    pads = _padding("conv2d", padding, weight._spec.shape[2:], stride, dilation)
    input, weight = _packed(input), _packed(weight)
    if input._spec.ndim == 3:
        return conv2d_p(
            input.unsqueeze(0), weight, bias, stride=stride, padding=pads, dilation=dilation, groups=groups
        ).squeeze(0)
    return conv2d_p(input, weight, bias, stride=stride, padding=pads, dilation=dilation, groups=groups)


@op(torch="nn.functional.conv1d")
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``conv2d`` of images one pixel high: input (N, C, L) or (C, L), weight (O, C / groups, K) -> (N, O, OL)."""
    _ranks("conv1d", input, weight, 1)
    stride, dilation = _two("conv1d", stride, "stride", 1), _two("conv1d", dilation, "dilation", 1)
    pads = _padding("conv1d", padding, weight._spec.shape[2:], stride, dilation)
    x = _packed(input.unsqueeze(0) if input._spec.ndim == 2 else input)
    y = conv2d_p(
        x.unsqueeze(2),
        _packed(weight).unsqueeze(2),
        bias,
        stride=(1, *stride),
        padding=(0, 0, *pads),
        dilation=(1, *dilation),
        groups=groups,
    ).squeeze(2)
    return y.squeeze(0) if input._spec.ndim == 2 else y


@conv1d.cases
def _(make):
    yield dict(input=make(2, 3, 7), weight=make(4, 3, 3), bias=make(4))
    yield dict(input=make(2, 6, 8), weight=make(4, 3, 2), stride=2, padding=1, dilation=2, groups=2)
    yield dict(input=make(3, 5), weight=make(2, 3, 2), padding="same")
    yield dict(input=make(0, 3, 5), weight=make(2, 3, 2))
    yield RuntimeError, dict(input=make(1, 1, 3, 5), weight=make(4, 3, 2))
    yield RuntimeError, dict(input=make(1, 3, 2), weight=make(4, 3, 3))


@conv1d.ref
def _(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    pads = padding if isinstance(padding, str) else (0, padding)
    return _ref(input[..., None, :], weight[:, :, None], bias, (1, stride), pads, (1, dilation), groups)[..., 0, :]


@op(torch="nn.functional.conv_transpose2d")
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The transposed convolution: what the gradient of ``conv2d`` does to an image.

    input (N, C, H, W) or (C, H, W), weight (C, O / groups, KH, KW), bias (O,) or None -> (N, O, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1.
    """
    name = "conv_transpose2d"
    _ranks(name, input, weight, 2)
    stride, dilation, pad, extra = (
        _two(name, v, k)
        for v, k in (
            (stride, "stride"),
            (dilation, "dilation"),
            (padding, "padding"),
            (output_padding, "output_padding"),
        )
    )
    x = input.unsqueeze(0) if input._spec.ndim == 3 else input
    shape, kernel = x._spec.shape, weight._spec.shape[2:]
    _check(name, x._spec, weight._spec, None, stride, dilation, groups, pad)
    features = weight._spec.shape[1] * groups
    if shape[1] != weight._spec.shape[0]:
        raise ShapeError(
            f"{name}: input {shape} for weight {weight._spec.shape}; expected input to have "
            f"{weight._spec.shape[0]} channels, but got {shape[1]} channels instead"
        )
    if bias is not None and bias._spec.shape != (features,):
        raise ShapeError(f"{name}: bias {bias._spec.shape}; expected bias to be 1-dimensional with {features} elements")
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation)) or min(extra) < 0:
        raise ShapeError(
            f"{name}: output_padding {extra}; output padding must be smaller than either stride {stride} "
            f"or dilation {dilation}"
        )
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(shape[2:], stride, pad, dilation, kernel, extra)
    )
    if min(size) < 1 or min(shape[2:]) < 1:
        raise ShapeError(f"{name}: input {shape} gives output size {size}; output size is too small")
    pads = tuple(v for p in pad for v in (p, p))
    y = conv2d_dx_p(
        _packed(x), _packed(weight), size=size, stride=stride, padding=pads, dilation=dilation, groups=groups
    )
    y = y if bias is None else y + bias.reshape(1, features, 1, 1)
    return y.squeeze(0) if input._spec.ndim == 3 else y


@conv_transpose2d.cases
def _(make):
    yield dict(input=make(2, 3, 4, 3), weight=make(3, 2, 3, 2), bias=make(2))
    yield dict(input=make(2, 6, 3, 4), weight=make(6, 5, 3, 3), bias=make(5), stride=2, padding=1, output_padding=1)
    yield dict(input=make(2, 4, 3, 3), weight=make(4, 2, 2, 2), stride=(2, 1), dilation=(1, 2), groups=2)
    yield dict(input=make(3, 4, 3), weight=make(3, 2, 3, 2))
    yield dict(input=make(1, 3, 3, 2), weight=make(3, 2, 2, 2), stride=2, output_padding=2, dilation=3)
    yield dict(input=make(0, 3, 4, 3), weight=make(3, 2, 3, 2))
    yield RuntimeError, dict(input=make(1, 2, 5, 5), weight=make(3, 4, 3, 3))
    yield RuntimeError, dict(input=make(1, 3, 5, 5), weight=make(3, 4, 3, 3), stride=2, output_padding=2)
    yield RuntimeError, dict(input=make(1, 3, 1, 1), weight=make(3, 4, 1, 1), padding=3)
    yield RuntimeError, dict(input=make(1, 3, 4, 4), weight=make(3, 4, 3, 3), bias=make(3))


@conv_transpose2d.ref
def _(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    x = input[None] if input.ndim == 3 else input
    s, d, p, e = (np.broadcast_to(v, 2) for v in (stride, dilation, padding, output_padding))
    kernel = weight.shape[2:]
    full = [(x.shape[2 + k] - 1) * s[k] + d[k] * (kernel[k] - 1) + 1 + e[k] for k in (0, 1)]
    y = np.zeros((x.shape[0], weight.shape[1] * groups, *full))
    cg, og = weight.shape[0] // groups, weight.shape[1]
    for g in range(groups):
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                # every input pixel paints the kernel onto the canvas
                paint = np.einsum("nchw,co->nohw", x[:, g * cg : (g + 1) * cg], weight[g * cg : (g + 1) * cg, :, i, j])
                y[
                    :,
                    g * og : (g + 1) * og,
                    i * d[0] : i * d[0] + (x.shape[2] - 1) * s[0] + 1 : s[0],
                    j * d[1] : j * d[1] + (x.shape[3] - 1) * s[1] + 1 : s[1],
                ] += paint
    y = y[:, :, p[0] : y.shape[2] - p[0], p[1] : y.shape[3] - p[1]]
    y = y if bias is None else y + bias[:, None, None]
    return y[0] if input.ndim == 3 else y
