"""A convolution and relu in one pass. Floor 3.

No public function: a program that was recorded may use it in place of the two. With compiled kernels it gives the same
bits as they do.
"""

from __future__ import annotations

import numpy as np

from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS
from tensorlite.ops.activation import relu_dx_p
from tensorlite.ops.cast import laid_as
from tensorlite.ops.conv import conv2d_db_p, conv2d_dw_p, conv2d_dx_p, conv2d_p, not_empty, on_gpu


@primitive(name="conv_act", torch=None)
def conv_act_p(xp, x, w, b=None, out=None, *, stride, padding, dilation, groups, act):
    """relu(conv2d(x, w, b)); act is "relu"."""
    conv2d_p.op.fn(xp, x, w, b, out, stride=stride, padding=padding, dilation=dilation, groups=groups)
    xp.maximum(out, xp.zeros((), out.dtype), out=out)


@conv_act_p.spec
def _(x, w, b, *, act, **how):
    if act != "relu":
        raise ValueError(f"conv_act: act {act!r}; wanted 'relu'")
    return conv2d_p.op.make_spec(x, w, b, **how)


@conv_act_p.grad
def _(g, y, x, w, x_spec, w_spec, stride, padding, dilation, groups, want):
    dy = relu_dx_p(laid_as(g, y._spec), y)
    how = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return (
        conv2d_dx_p(dy, w, size=x_spec.shape[2:], **how) if want[0] else None,
        conv2d_dw_p(x, dy, kernel=w_spec.shape[2:], **how) if want[1] else None,
        conv2d_db_p(dy) if want[2] else None,
    )


conv_act_p.kernel("cpu", "conv2d", when=not_empty, formats=(CONTIGUOUS, CHANNELS_LAST))
conv_act_p.kernel("cuda", "conv.conv2d", "f2 bf2 f4 f8", when=on_gpu, formats=ANY)


@conv_act_p.cases
def _(make):
    how = dict(stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1, act="relu")
    yield dict(x=make(2, 1, 6, 9), w=make(3, 1, 3, 2), b=make(3), **how)
    yield dict(x=make(2, 6, 7, 6), w=make(4, 6, 3, 3), b=make(4), **dict(how, padding=(1, 0, 2, 1), stride=(1, 2)))
    yield dict(x=make(1, 4, 6, 7), w=make(6, 2, 2, 2), **dict(how, groups=2, dilation=(2, 1)))
    yield dict(x=make(2, 3, 5, 5), w=make(3, 1, 3, 3), b=make(3), **dict(how, groups=3, padding=(1, 1, 1, 1)))
    yield dict(x=make(0, 3, 5, 5), w=make(4, 3, 3, 3), b=make(4), **how)
    yield ValueError, dict(x=make(1, 3, 3, 3), w=make(4, 3, 3, 3), **dict(how, act="tanh"))


@conv_act_p.ref
def _(x, w, b=None, *, act, padding, **how):
    padded = np.pad(x, ((0, 0), (0, 0), padding[:2], padding[2:]))
    return np.maximum(conv2d_p.op.reference(padded, w, b, **how), 0)
