"""relu and max-pooling in one pass, behind a convolution or alone, for recorded programs. Floor 3.

``conv_relu_pool`` is conv2d, relu and max_pool2d(2) one after another with the same bits; ``relu_pool`` the latter two,
for every kind of window. What is not pooled yet, four times as much as what is, never is an array: compiled kernels
have some rows of it in a core's cache. The gradients need the pooled outputs and the places of the winners alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import ShapeError
from tensorlite.ops.activation import relu_dx_p
from tensorlite.ops.cast import laid_as
from tensorlite.ops.conv import conv2d_db_p, conv2d_dw_p, conv2d_dx_p, conv2d_p, on_gpu
from tensorlite.ops.pool import _on_gpu, _one_layout, max_pool2d_p, pool_put_p, pool_take_p

HALVES = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))  # windows of 2 x 2 side by side
NEAR = 1 << 12  # pixels of an image whose copy (of 32 channels at a time) stays in a core's cache


# ---- relu and pooling
@primitive(name="relu_pool", torch=None)
def relu_pool_p(xp, x, out, out_place, *, kernel, stride, padding, dilation, ceil):
    """The largest of each window of relu(x) (nan wins), and its place in the window."""
    how = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil=ceil)
    max_pool2d_p.op.fn(xp, xp.maximum(x, xp.zeros((), x.dtype)), out, out_place, **how)


@primitive(name="relu_pool_dx", torch=None)
def relu_pool_dx_p(xp, dy, s, place, out, *, size, kernel, stride, padding, dilation):
    """Zeros of H, W = ``size`` with each window's number added at its place, where s, the pooled, is not 0 or less."""
    passed = xp.where(s <= 0, xp.zeros((), dy.dtype), dy)
    how = dict(size=size, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    pool_put_p.op.fn(xp, passed, place, out, **how)


relu_pool_p.spec(max_pool2d_p.op.make_spec)
relu_pool_dx_p.spec(lambda dy, s, place, **how: pool_put_p.op.make_spec(dy, place, **how))


@relu_pool_p.grad
def _(g, out, out_place, x_spec, kernel, stride, padding, dilation, want):
    how = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    dx = relu_pool_dx_p(laid_as(g[0], out_place._spec), out, out_place, size=x_spec.shape[-2:], **how)
    return (laid_as(dx, x_spec),)


relu_pool_dx_p.grad(
    s=None,
    place=None,
    dy=lambda g, s, place, kernel, stride, padding, dilation: relu_dx_p(
        pool_take_p(laid_as(g, place._spec), place, kernel=kernel, stride=stride, padding=padding, dilation=dilation),
        s,
    ),
)
for _p in (relu_pool_p, relu_pool_dx_p):
    _p.kernel("cpu", _p.op.name, "f4 f8", when=_one_layout, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"pool.{_p.op.name}", "f2 bf2 f4 f8", when=_on_gpu, formats=ANY)


# ---- a convolution before it
@primitive(name="conv_relu_pool", torch=None)
def conv_relu_pool_p(xp, x, w, b=None, out=None, out_place=None, *, stride, padding, dilation, groups):
    """max_pool2d(relu(conv2d(x, w, b)), 2), and the place of each window's largest number."""
    sizes = _sizes(x.shape, w.shape, stride, padding, dilation)
    y = xp.empty((x.shape[0], w.shape[0], *sizes), out.dtype)
    conv2d_p.op.fn(xp, x, w, b, y, stride=stride, padding=padding, dilation=dilation, groups=groups)
    relu_pool_p.op.fn(xp, y, out, out_place, **HALVES, ceil=False)


def _sizes(x: tuple, w: tuple, stride: tuple, padding: tuple, dilation: tuple) -> tuple[int, ...]:
    """Height and width of what the convolution makes."""
    room = (x[2] + padding[0] + padding[1], x[3] + padding[2] + padding[3])
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(room, dilation, w[2:], stride))


@conv_relu_pool_p.spec
def _(x, w, b, **how):
    return max_pool2d_p.op.make_spec(conv2d_p.op.make_spec(x, w, b, **how), **HALVES, ceil=False)


def _dy(g: Tensor, out: Tensor, place: Tensor, x: Spec, w: Spec, stride: tuple, padding: tuple, dilation: tuple):
    """The gradient of what the convolution made."""
    size = _sizes(x.shape, w.shape, stride, padding, dilation)
    return relu_pool_dx_p(laid_as(g, place._spec), out, place, size=size, **HALVES)


@conv_relu_pool_p.grad
def _(g, x, w, out, out_place, x_spec, w_spec, stride, padding, dilation, groups, want):
    dy = _dy(g[0], out, out_place, x_spec, w_spec, stride, padding, dilation)
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return (
        conv2d_dx_p(dy, w, size=x_spec.shape[2:], **how) if want[0] else None,
        conv2d_dw_p(x, dy, kernel=w_spec.shape[2:], **how) if want[1] else None,
        conv2d_db_p(dy) if want[2] else None,
    )


# ---- its gradients without that of what the convolution made: one pixel of each window has one, the winner
@primitive(name="conv_relu_pool_dw", torch=None)
def conv_relu_pool_dw_p(xp, x, dy, s, place, out, out_db, *, kernel, stride, padding, dilation, groups):
    """The gradients of conv_relu_pool with respect to w of KH, KW = ``kernel`` and to b, from its outputs."""
    d = _whole(xp, dy, s, place, _sizes(x.shape, (0, 0, *kernel), stride, padding, dilation))
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    conv2d_dw_p.op.fn(xp, x, d, out, kernel=kernel, **how)
    conv2d_db_p.op.fn(xp, d, out_db)


@primitive(name="conv_relu_pool_dx", torch=None)
def conv_relu_pool_dx_p(xp, dy, s, place, w, out, *, size, stride, padding, dilation, groups):
    """The gradient of conv_relu_pool with respect to x of H, W = ``size``, from its outputs."""
    d = _whole(xp, dy, s, place, _sizes((0, 0, *size), w.shape, stride, padding, dilation))
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    conv2d_dx_p.op.fn(xp, d, w, out, size=size, **how)


def _whole(xp: Any, dy: Any, s: Any, place: Any, size: tuple) -> Any:
    """The gradient of what the convolution made."""
    whole = xp.empty((*dy.shape[:2], *size), dy.dtype)
    relu_pool_dx_p.op.fn(xp, dy, s, place, whole, size=size, **HALVES)
    return whole


def _check(name: str, size: tuple, *pooled: Spec) -> None:
    """Kernels rely on it that there is a window for every four outputs of the convolution."""
    want = (*pooled[0].shape[:2], size[0] // 2, size[1] // 2)
    if any(p.shape != want for p in pooled):
        raise ShapeError(f"{name}: pooled {' and '.join(str(p.shape) for p in pooled)}; wanted {want}")


@conv_relu_pool_dw_p.spec
def _(x, dy, s, place, *, kernel, stride, padding, dilation, groups):
    size = _sizes(x.shape, (0, 0, *kernel), stride, padding, dilation)
    _check("conv_relu_pool_dw", size, dy, s, place)
    how = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return conv2d_dw_p.op.make_spec(x, dy, **how), x.like(dy.shape[1])


@conv_relu_pool_dx_p.spec
def _(dy, s, place, w, *, size, stride, padding, dilation, groups):
    _check("conv_relu_pool_dx", _sizes((0, 0, *size), w.shape, stride, padding, dilation), dy, s, place)
    how = dict(size=size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return conv2d_dx_p.op.make_spec(dy, w, **how)


conv_relu_pool_dw_p.nograd()  # where a second order is wanted, the gradient is made of other ops
conv_relu_pool_dx_p.nograd()


@conv_relu_pool_p.fused_grad
def _(g, x, w, out, out_place, x_spec, w_spec, stride, padding, dilation, groups, want):
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    dy, dx, dw, db = laid_as(g[0], out_place._spec), None, None, None
    never = not winners_pay(x_spec, groups)
    whole = never or (want[0] and not winners_pay_dx(x_spec, w_spec, stride, dilation))
    if whole:
        d = _dy(dy, out, out_place, x_spec, w_spec, stride, padding, dilation)
    if want[0]:
        if whole:
            dx = conv2d_dx_p(d, w, size=x_spec.shape[2:], **how)
        else:
            dx = conv_relu_pool_dx_p(dy, out, out_place, w, size=x_spec.shape[2:], **how)
    if never:
        dw = conv2d_dw_p(x, d, kernel=w_spec.shape[2:], **how) if want[1] else None
        db = conv2d_db_p(d) if want[2] else None
    elif want[1] or want[2]:
        dw, db = conv_relu_pool_dw_p(x, dy, out, out_place, kernel=w_spec.shape[2:], **how)
    return dx, dw, db if want[2] else None


def winners_pay(x: Spec, groups: int) -> bool:
    """Whether w's gradient from the winners alone is the quicker one."""
    return groups == 1 and x.shape[2] * x.shape[3] <= NEAR


def winners_pay_dx(x: Spec, w: Spec, stride: tuple, dilation: tuple) -> bool:
    """Whether x's gradient from the winners alone is the quicker one, as measured: with few channels the whole one is,
    and with many where Winograd's products, which are as few, keep them in registers."""
    plain = w.shape[2:] == (3, 3) and stride == dilation == (1, 1) and x.dtype is dtypes.float32
    return w.shape[1] % 16 == 0 and not (plain and w.shape[1] >= 64)


def _any(*specs: Spec | None, **_: Any) -> bool:
    return all(s.size and s.format is not STRIDED for s in specs if s is not None)


def _dw_fits(x: Spec, dy: Spec, s: Spec, place: Spec, *, groups: int, **_: Any) -> bool:
    return groups == 1 and _any(x, dy) and _one_layout(dy, s, place)


def _dx_fits(dy: Spec, s: Spec, place: Spec, w: Spec, *, groups: int, **_: Any) -> bool:
    return groups == 1 and _any(dy, w) and _one_layout(dy, s, place) and w.shape[1] % 16 == 0


def _counted(*specs: Spec | None, size: Any = None, kernel: Any = None, **how: Any) -> bool:
    """Whether CUDA kernels can count what is not pooled yet."""
    if size:
        dy, _, _, w = specs
        whole = dy.like(*dy.shape[:2], *_sizes((0, 0, *size), w.shape, how["stride"], how["padding"], how["dilation"]))
        return on_gpu(whole, w, size=size, **how)
    a, b = specs[:2]
    return on_gpu(a, b, kernel=kernel, **how)


for _p, _when in ((conv_relu_pool_p, _any), (conv_relu_pool_dw_p, _dw_fits), (conv_relu_pool_dx_p, _dx_fits)):
    _p.kernel("cpu", _p.op.name, "f4 f8", when=_when, formats=(CONTIGUOUS, CHANNELS_LAST))
    _p.kernel("cuda", f"conv_pool.{_p.op.name}", "f2 bf2 f4 f8", when=_counted, formats=ANY)


# ---- cases
@relu_pool_p.cases
def _(make):
    how = dict(HALVES, ceil=False)
    yield dict(x=make.distinct(2, 3, 6, 4), **how)
    yield dict(x=make.distinct(2, 3, 5, 7), **how)
    yield dict(x=make.distinct(3, 5, 7), kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil=True)
    yield dict(x=make.distinct(0, 3, 4, 4), **how)
    yield RuntimeError, dict(x=make(2, 0, 4, 4), **how)


@relu_pool_dx_p.cases
def _(make):
    places = dict(low=0, high=4, dtype=dtypes.uint8)
    yield dict(dy=make(2, 3, 2, 2), s=make(2, 3, 2, 2), place=make.ints(2, 3, 2, 2, **places), size=(5, 4), **HALVES)
    yield dict(
        dy=make(2, 3, 2), s=make.tensor(np.zeros((2, 3, 2))), place=make.ints(2, 3, 2, **places), size=(7, 5), **HALVES
    )
    yield dict(
        dy=make(2, 4, 4),
        s=make(2, 4, 4),
        place=make.ints(2, 4, 4, **places),
        size=(5, 5),
        **dict(HALVES, stride=(1, 1)),
    )


@conv_relu_pool_p.cases
def _(make):
    how = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    yield dict(x=make(2, 1, 6, 9), w=make(3, 1, 3, 2), b=make(3), **how)
    yield dict(x=make(2, 6, 7, 6), w=make(4, 6, 3, 3), b=make(4), **dict(how, padding=(1, 0, 2, 1), stride=(1, 2)))
    yield dict(x=make(1, 4, 6, 7), w=make(6, 2, 2, 2), **dict(how, groups=2, dilation=(2, 1)))
    yield dict(x=make(2, 3, 5, 5), w=make(3, 1, 3, 3), b=make(3), **dict(how, groups=3, padding=(1, 1, 1, 1)))
    yield dict(x=make(0, 3, 5, 5), w=make(4, 3, 3, 3), b=make(4), **how)
    yield RuntimeError, dict(x=make(1, 3, 3, 3), w=make(4, 3, 3, 3), **how)
    yield RuntimeError, dict(x=make(1, 2, 5, 5), w=make(4, 3, 3, 3), **how)


@conv_relu_pool_dw_p.cases
def _(make):
    how = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    made = lambda *shape: dict(
        dy=make(*shape), s=make(*shape), place=make.ints(*shape, low=0, high=4, dtype=dtypes.uint8)
    )
    yield dict(x=make(2, 1, 6, 9), **made(2, 3, 2, 4), kernel=(3, 2), **how)
    yield dict(x=make(2, 6, 7, 6), **made(2, 4, 3, 3), kernel=(3, 3), **dict(how, padding=(1, 0, 2, 1), stride=(1, 1)))
    yield dict(x=make(1, 4, 6, 7), **made(1, 6, 2, 3), kernel=(2, 2), **dict(how, groups=2, dilation=(2, 1)))
    yield dict(x=make(1, 5, 6, 7), **made(1, 6, 2, 2), kernel=(2, 2), **dict(how, dilation=(2, 2)))
    yield dict(x=make(0, 3, 5, 5), **made(0, 4, 1, 1), kernel=(3, 3), **how)
    yield RuntimeError, dict(x=make(1, 3, 5, 5), **made(1, 4, 2, 1), kernel=(3, 3), **how)


@conv_relu_pool_dx_p.cases
def _(make):
    how = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    made = lambda *shape: dict(
        dy=make(*shape), s=make(*shape), place=make.ints(*shape, low=0, high=4, dtype=dtypes.uint8)
    )
    yield dict(**made(2, 3, 2, 4), w=make(3, 1, 3, 2), size=(6, 9), **how)
    yield dict(**made(2, 4, 3, 3), w=make(4, 16, 3, 3), size=(7, 5), **dict(how, padding=(1, 0, 2, 1)))
    yield dict(**made(1, 6, 2, 3), w=make(6, 2, 2, 2), size=(6, 7), **dict(how, groups=2, dilation=(2, 1)))
    yield dict(**made(0, 4, 1, 1), w=make(4, 3, 3, 3), size=(5, 5), **how)
    yield RuntimeError, dict(**made(1, 4, 2, 1), w=make(4, 3, 3, 3), size=(5, 5), **how)


@relu_pool_p.ref
def _(x, kernel, stride, padding, dilation, ceil):
    y, at = max_pool2d_p.op.reference(np.maximum(x, 0), kernel, stride, padding, dilation, ceil, True)
    # from places in the image to places in the window
    rows, columns = (np.arange(n) * s - p for n, s, p in zip(y.shape[-2:], stride, padding))
    down, right = at // x.shape[-1] - rows[:, None], at % x.shape[-1] - columns
    return y, down // dilation[0] * kernel[1] + right // dilation[1]


@relu_pool_dx_p.ref
def _(dy, s, place, **how):
    return pool_put_p.op.reference(dy * (s > 0), place, **how)


@conv_relu_pool_p.ref
def _(x, w, b=None, **how):
    padding = how.pop("padding")
    padded = np.pad(x, ((0, 0), (0, 0), padding[:2], padding[2:]))
    y = conv2d_p.op.reference(padded, w, b, **how)
    return relu_pool_p.op.reference(y, **HALVES, ceil=False)


def _spread(dy, s, place, size):
    return relu_pool_dx_p.op.reference(dy, s, place, size=size, **HALVES)


@conv_relu_pool_dw_p.ref
def _(x, dy, s, place, kernel, stride, padding, dilation, groups):
    d = _spread(dy, s, place, _sizes(x.shape, (0, 0, *kernel), stride, padding, dilation))
    return conv2d_dw_p.op.reference(x, d, kernel, stride, padding, dilation, groups), d.sum((0, 2, 3))


@conv_relu_pool_dx_p.ref
def _(dy, s, place, w, size, stride, padding, dilation, groups):
    d = _spread(dy, s, place, _sizes((0, 0, *size), w.shape, stride, padding, dilation))
    return conv2d_dx_p.op.reference(d, w, size, stride, padding, dilation, groups)
