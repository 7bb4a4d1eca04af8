"""The linear layer and what often comes after it, in one pass: an activation, a residual. Floor 3.

No public function: a program that was recorded may use them in place of the ops that they are made of. With compiled
kernels they give the same bits as those.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops import acts
from tensorlite.ops.linalg import (
    flat,
    linear_dx,
    linear_p,
    matmul_p,
    on_aligned,
    our_linear,
    same_dtype,
)


# ---- the gradient that passes the activation
@primitive(name="act_dx", torch=None)
def act_dx_p(xp, dy, s, out, out_db, *, act):
    """dy times the slope of ``act``, and the sums of its columns (the gradient of a bias) over all other dimensions.

    ``s`` is the output of the activation, or what went into it for "gelu" and "gelu_tanh".
    """
    acts.apply_dx(xp, act, dy, s, out)
    xp.add.reduce(out, axis=tuple(range(out.ndim - 1)), out=out_db)


@act_dx_p.spec
def _(dy, s, *, act):
    acts.check("act_dx", act)
    if dy.ndim < 2 or dy.shape != s.shape:
        raise ShapeError(f"act_dx: dy {dy.shape} and s {s.shape}; wanted one shape of 2 dimensions or more")
    same_dtype("act_dx", dy, s)
    return dy.like(*dy.shape), dy.like(dy.shape[-1])


act_dx_p.nograd()


@act_dx_p.cases
def _(make):
    for act in acts.OPS:
        yield dict(dy=make(9, 4), s=make(9, 4, away=0.1), act=act)
    yield dict(dy=make(2, 5, 3), s=make(2, 5, 3, away=0.1), act="gelu")
    yield dict(dy=make(0, 3), s=make(0, 3), act="relu")
    yield dict(dy=make(3, 0), s=make(3, 0), act="tanh")
    yield ValueError, dict(dy=make(2, 3), s=make(2, 3), act="softsign")
    yield RuntimeError, dict(dy=make(3), s=make(3), act="relu")
    yield RuntimeError, dict(dy=make(2, 3), s=make(3, 2), act="relu")


@act_dx_p.ref
def _(dy, s, act):
    dz = acts.reference_dx(act, dy, s)
    return dz, np.tensordot(np.ones(dz.shape[:-1]), dz, dz.ndim - 1)


def _dense(kernel: Any, xp: Any, dy: Any, s: Any, out: Any, out_db: Any, *, act: str) -> None:
    kernel(*(a if a.flags.c_contiguous else a.copy() for a in (dy, s)), out, out_db)


# one row or column: the op ``sum`` adds those in an order of its own, and there is little to win
_several = lambda dy, s, *, act: dy.shape[-1] > 1 and dy.size > dy.shape[-1]
act_dx_p.kernel("cpu", "act_dx", when=_several)
act_dx_p.kernel("cpu", "act_dx", when=_several, around=_dense)
act_dx_p.kernel("cuda", "linear_act.act_dx", "", formats=ANY)


# ---- the gradients of the product
def _back(dz: Tensor, db: Tensor | None, x: Tensor, w: Tensor, want: tuple) -> tuple:
    dx = linear_dx(dz, w) if want[0] else None
    dw = matmul_p(flat(dz), flat(x), tx=True) if want[1] else None
    return dx, dw, (flat(dz).sum(0) if db is None else db) if want[2] else None


def _fast(g: Tensor, s: Tensor, x: Tensor, w: Tensor, act: str, want: tuple) -> tuple:
    """All gradients from what the slope is made of, in as few passes as there are."""
    if want[2] and g._spec.ndim > 1 and _several(g._spec, s._spec, act=act):
        dz, db = act_dx_p(g, s, act=act)
        return _back(dz, db, x, w, want)
    return _back(acts.run_dx(act, g, s), None, x, w, want)


# ---- an activation
@primitive(name="linear_act", torch=None)
def linear_act_p(xp, x, w, b=None, out=None, *, act):
    """act(x @ w.T + b), where act is one of relu, tanh, sigmoid, gelu and gelu_tanh.  As ``linear`` otherwise.

    On the way back gelu computes the product once more; ``linear_gelu`` keeps it.
    """
    linear_p.op.fn(xp, x, w, b, out)
    acts.apply(xp, act, out, out)


@linear_act_p.spec
def _(x, w, b, *, act):
    acts.check("linear_act", act)
    return _linear_spec("linear_act", x, w, b)


def _linear_spec(name: str, x: Spec, w: Spec, b: Spec | None) -> Spec:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {x.dtype}; wanted a floating-point dtype")
    return linear_p.op.make_spec(x, w, b)


@linear_act_p.grad
def _(g, y, x, w, b, act, want):
    return _back(acts.exact_dx(act, g, linear_p(x, w, b) if act in acts.GELUS else y), None, x, w, want)


@linear_act_p.fused_grad
def _(g, y, x, w, b, act, want):
    return _fast(g, linear_p(x, w, b) if act in acts.GELUS else y, x, w, act, want)


# ---- gelu, which needs what went into it
@primitive(name="linear_gelu", torch=None)
def linear_gelu_p(xp, x, w, b=None, out=None, out_pre=None, *, act):
    """gelu(x @ w.T + b) and x @ w.T + b, which its gradient is made of; act is "gelu" or "gelu_tanh"."""
    linear_p.op.fn(xp, x, w, b, out_pre)
    acts.apply(xp, act, out_pre, out)


@linear_gelu_p.spec
def _(x, w, b, *, act):
    acts.check("linear_gelu", act, acts.GELUS)
    y = _linear_spec("linear_gelu", x, w, b)
    return y, y


linear_gelu_p.op.silent_outputs = (1,)


@linear_gelu_p.grad
def _(g, x, w, b, act, want):  # for second order the product must be a function of x; the one kept is mere numbers
    return _back(acts.exact_dx(act, g[0], linear_p(x, w, b)), None, x, w, want)


@linear_gelu_p.fused_grad
def _(g, out_pre, x, w, act, want):
    return _fast(g[0], out_pre, x, w, act, want)


# ---- a residual
@primitive(name="linear_add", torch=None)
def linear_add_p(xp, x, w, residual, b=None, out=None):
    """x @ w.T + b + residual, which has the result's shape.  As ``linear`` otherwise."""
    y = xp.empty(out.shape, out.dtype)  # not in two steps: out may be the residual
    linear_p.op.fn(xp, x, w, b, y)
    xp.add(y, residual, out)


@linear_add_p.spec
def _(x, w, residual, b):
    y = _linear_spec("linear_add", x, w, b)
    if residual.shape != y.shape:
        raise ShapeError(f"linear_add: residual {residual.shape}; wanted {y.shape}, the shape of the product")
    same_dtype("linear_add", x, residual)
    return y


linear_add_p.grad(
    x=lambda g, w: linear_dx(g, w),
    w=lambda g, x: matmul_p(flat(g), flat(x), tx=True),
    residual=lambda g: g,
    b=lambda g: flat(g).sum(0),
)


# ---- which kernel: ours makes the product too, or comes after NumPy's
def _as_it_lies(kernel: Any, xp: Any, x: Any, w: Any, b: Any, *outs: Any, act: str) -> None:
    on_aligned(lambda x, w, b: kernel(x, w, b, *outs), x, w, b)


def _after_blas(kernel: Any, xp: Any, x: Any, w: Any, b: Any, *outs: Any, act: str) -> None:
    xp.matmul(x, w.T, out=outs[0])
    kernel(b if b is None or b.flags.c_contiguous else b.copy(), *outs)


for _p in (linear_act_p, linear_gelu_p):
    _p.kernel("cpu", "linear", when=lambda x, w, b, *, act: our_linear(x, w, b))
    _p.kernel("cpu", "linear", when=lambda x, w, b, *, act: our_linear(x, w, b), around=_as_it_lies)
    _p.kernel("cpu", "linear_finish", when=lambda x, w, b, *, act: bool(x.size and w.size), around=_after_blas)


def _add_as_it_lies(kernel: Any, xp: Any, x: Any, w: Any, residual: Any, b: Any, out: Any) -> None:
    more = residual if residual.flags.c_contiguous else residual.copy()
    on_aligned(lambda x, w, b: kernel(x, w, more, b, out), x, w, b)


linear_add_p.kernel("cpu", "linear_add", when=lambda x, w, residual, b: our_linear(x, w, b))
linear_add_p.kernel("cpu", "linear_add", when=lambda x, w, residual, b: our_linear(x, w, b), around=_add_as_it_lies)
for _p in (linear_act_p, linear_gelu_p, linear_add_p):
    _p.kernel("cuda", f"linear_act.{_p.op.name}", "", formats=ANY)


# ---- cases and references
def _linear_cases(make, **more):
    yield dict(x=make(4, 3), w=make(5, 3), b=make(5), **more)
    yield dict(x=make(2, 4, 3), w=make(5, 3), **more)
    yield dict(x=make(3), w=make(5, 3), b=make(5), **more)
    yield dict(x=make(4, 3), w=make(1, 3), b=make(1), **more)
    yield dict(x=make(0, 3), w=make(5, 3), b=make(5), **more)


def _linear_refusals(make, **more):
    yield ShapeError, dict(x=make(4, 2), w=make(5, 3), b=make(5), **more)
    yield ShapeError, dict(x=make(4, 3), w=make(5, 3), b=make(4), **more)
    yield RuntimeError, dict(x=make.ints(4, 3), w=make.ints(5, 3), **more)


@linear_act_p.cases
def _(make):
    for act in acts.OPS:
        yield from _linear_cases(make, act=act)
    yield from _linear_refusals(make, act="relu")
    yield ValueError, dict(x=make(4, 3), w=make(5, 3), act="softsign")


@linear_gelu_p.cases
def _(make):
    for act in acts.GELUS:
        yield from _linear_cases(make, act=act)
    yield from _linear_refusals(make, act="gelu")
    yield ValueError, dict(x=make(4, 3), w=make(5, 3), act="relu")


@linear_add_p.cases
def _(make):
    yield dict(x=make(4, 3), w=make(5, 3), residual=make(4, 5), b=make(5))
    yield dict(x=make(2, 4, 3), w=make(5, 3), residual=make(2, 4, 5))
    yield dict(x=make(3), w=make(5, 3), residual=make(5), b=make(5))
    yield dict(x=make(0, 3), w=make(5, 3), residual=make(0, 5), b=make(5))
    yield from _linear_refusals(make, residual=make(4, 5))
    yield RuntimeError, dict(x=make(4, 3), w=make(5, 3), residual=make(5))
    yield RuntimeError, dict(x=make(4, 3), w=make(5, 3), residual=make.ints(4, 5))


def _ref(x, w, b=None):
    return np.einsum("...i,oi->...o", x, w) + (0 if b is None else b)


linear_act_p.ref(lambda x, w, b=None, act=None: acts.reference[act](_ref(x, w, b)))
linear_gelu_p.ref(lambda x, w, b=None, act=None: (acts.reference[act](_ref(x, w, b)), _ref(x, w, b)))
linear_add_p.ref(lambda x, w, residual, b=None: _ref(x, w, b) + residual)
