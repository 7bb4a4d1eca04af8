"""Layer norm with what often stands beside it, in one pass: an activation after it, a residual before it. Floor 3.

No public function: a program that was recorded may use them in place of the ops that they are made of. With compiled
kernels they give the same bits as those. As ``layer_norm_p`` they do for group norm too, whose shape is another.
"""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops import acts
from tensorlite.ops.norm import gradients, layer_norm_p, normalize, normalize_dx_p, row_cases, rows_together


# ---- x + residual
@primitive(name="add_layer_norm_dx", torch=None)
def add_layer_norm_dx_p(
    xp, dy, d_sum, s, mean, var, w=None, out=None, out_dw=None, out_db=None, *, dim, shape, affine, eps
):
    """The gradients with respect to s, scale and shift of (s - mean) / sqrt(var + eps) * w + b, the first + d_sum."""
    normalize_dx_p.op.fn(xp, dy, s, mean, var, w, out, out_dw, out_db, dim=dim, shape=shape, affine=affine, eps=eps)
    xp.add(out, d_sum, out=out)


@add_layer_norm_dx_p.spec
def _(dy, d_sum, s, mean, var, w, *, dim, shape, affine, eps):
    return s.packed(), mean.like(*affine), mean.like(*affine)


add_layer_norm_dx_p.nograd()


@primitive(name="add_layer_norm", torch=None)
def add_layer_norm_p(
    xp, x, residual, w=None, b=None, out=None, out_sum=None, out_mean=None, out_var=None, *, dim, shape, eps
):
    """The layer norm of x + residual, and x + residual itself; and mean and variance of that."""
    xp.add(x, residual, out=out_sum)
    normalize(xp, out_sum, w, b, out, out_mean, out_var, dim, shape, eps)


@add_layer_norm_p.spec
def _(x, residual, w, b, *, dim, shape, eps):
    if residual.shape != x.shape:
        raise ShapeError(f"add_layer_norm: x {x.shape} and residual {residual.shape}; wanted one shape")
    if residual.dtype is not x.dtype:
        raise DTypeError(f"add_layer_norm: x {x.dtype.name} and residual {residual.dtype.name}; wanted one dtype")
    y, mean, var = layer_norm_p.op.make_spec(x, w, b, dim=dim, shape=shape, eps=eps)
    return y, y, mean, var


add_layer_norm_p.op.silent_outputs = (2, 3)


def _of_sum(g: tuple, found: Any) -> tuple:
    """The gradients of x, residual, w and b from those of both outputs, of which one may be missing."""
    of_y, of_sum = g[:2]
    if of_y is None:
        return of_sum, of_sum, None, None
    dx, dw, db = found(of_y)
    dx = dx if of_sum is None else dx + of_sum
    return dx, dx, dw, db


@add_layer_norm_p.grad
def _(g, out_sum, out_mean, out_var, w, w_spec, b_spec, dim, shape, eps, want):
    how = dict(dim=dim, shape=shape, eps=eps)
    return _of_sum(g, lambda dy: gradients((dy,), out_mean, out_var, out_sum, w, w_spec, b_spec, **how))


@add_layer_norm_p.fused_grad
def _(g, out_sum, out_mean, out_var, w, w_spec, b_spec, dim, shape, eps, want):
    how = dict(dim=dim, shape=shape, eps=eps)
    if g[0] is None or g[1] is None:
        return _of_sum(g, lambda dy: gradients((dy,), out_mean, out_var, out_sum, w, w_spec, b_spec, **how))
    kernel = lambda dy, s, mean, var, w, **how: add_layer_norm_dx_p(dy, g[1], s, mean, var, w, **how)
    dx, dw, db = gradients(g, out_mean, out_var, out_sum, w, w_spec, b_spec, kernel, **how)
    return dx, dx, dw, db


@face(add_layer_norm_p)
def add_layer_norm(x: Tensor, residual: Tensor, w: Any = None, b: Any = None, **how: Any) -> tuple[Tensor, Tensor]:
    """The layer norm of x + residual, and x + residual."""
    return add_layer_norm_p(x, residual, w, b, **how)[:2]


# ---- an activation
@primitive(name="layer_norm_act_dx", torch=None)
def layer_norm_act_dx_p(
    xp, dy, x, mean, var, w=None, b=None, out=None, out_dw=None, out_db=None, *, dim, shape, affine, eps, act
):
    """The gradients with respect to x, scale and shift of act((x - mean) / sqrt(var + eps) * w + b)."""
    z = (x - mean) * (1 / xp.sqrt(var + eps))
    for given, join in ((w, xp.multiply), (b, xp.add)):
        z = z if given is None else join(z, given.reshape(shape))
    if act not in acts.GELUS:
        acts.apply(xp, act, z, z)
    acts.apply_dx(xp, act, dy, z, z)
    normalize_dx_p.op.fn(xp, z, x, mean, var, w, out, out_dw, out_db, dim=dim, shape=shape, affine=affine, eps=eps)


@layer_norm_act_dx_p.spec
def _(dy, x, mean, var, w, b, *, dim, shape, affine, eps, act):
    acts.check("layer_norm_act_dx", act)
    return x.packed(), mean.like(*affine), mean.like(*affine)


layer_norm_act_dx_p.nograd()


@primitive(name="layer_norm_act", torch=None)
def layer_norm_act_p(xp, x, w=None, b=None, out=None, out_mean=None, out_var=None, *, dim, shape, eps, act):
    """act(layer norm of x), where act is one of relu, tanh, sigmoid, gelu and gelu_tanh; and mean and variance."""
    normalize(xp, x, w, b, out, out_mean, out_var, dim, shape, eps)
    acts.apply(xp, act, out, out)


@layer_norm_act_p.spec
def _(x, w, b, *, dim, shape, eps, act):
    acts.check("layer_norm_act", act)
    return layer_norm_p.op.make_spec(x, w, b, dim=dim, shape=shape, eps=eps)


layer_norm_act_p.op.silent_outputs = (1, 2)


@layer_norm_act_p.grad
def _(g, out_mean, out_var, x, w, b, w_spec, b_spec, dim, shape, eps, act, want):
    how = dict(dim=dim, shape=shape, eps=eps)
    z = layer_norm_p(x, w, b, **how)[0]
    dz = acts.exact_dx(act, g[0], z if act in acts.GELUS else acts.run(act, z))
    return gradients((dz,), out_mean, out_var, x, w, w_spec, b_spec, **how)


@layer_norm_act_p.fused_grad
def _(g, out_mean, out_var, x, w, b, w_spec, b_spec, dim, shape, eps, act, want):
    kernel = lambda dy, x, mean, var, w, **how: layer_norm_act_dx_p(dy, x, mean, var, w, b, act=act, **how)
    return gradients(g, out_mean, out_var, x, w, w_spec, b_spec, kernel, dim=dim, shape=shape, eps=eps)


@face(layer_norm_act_p)
def layer_norm_act(x: Tensor, w: Any = None, b: Any = None, **how: Any) -> Tensor:
    """act(layer norm of x), where act is one of relu, tanh, sigmoid, gelu and gelu_tanh."""
    return layer_norm_act_p(x, w, b, **how)[0]


# ---- which kernel
def _together(x: Spec, *given: Spec | None, dim: tuple, **constants: Any) -> bool:
    return rows_together(x, dim)


def _dx_together(dy: Spec, *given: Spec | None, dim: tuple, **constants: Any) -> bool:
    return rows_together(dy, dim)


layer_norm_act_p.kernel("cpu", "layer_norm", when=_together)
layer_norm_act_dx_p.kernel("cpu", "layer_norm_act_dx", when=_dx_together)
add_layer_norm_p.kernel("cpu", "add_layer_norm", when=_together)
add_layer_norm_dx_p.kernel("cpu", "add_layer_norm_dx", when=_dx_together)
for _p, _when in (
    (layer_norm_act_p, _together),
    (layer_norm_act_dx_p, _dx_together),
    (add_layer_norm_p, _together),
    (add_layer_norm_dx_p, _dx_together),
):
    _p.kernel("cuda", f"norm.{_p.op.name}", "", when=_when, formats=ANY)


# ---- cases and references
def _forms(make):
    """Rows, and groups of channels: (shape of x, what goes into the norm)."""
    yield (4, 5), dict(w=make(5), b=make(5), dim=(1,), shape=(5,), eps=1e-2)
    yield (3, 2, 4), dict(w=make(2, 4), dim=(1, 2), shape=(2, 4), eps=1e-2)
    yield (3, 4), dict(b=make(4), dim=(1,), shape=(4,), eps=1e-2)
    yield (2, 2, 2, 3), dict(w=make(1, 2, 2, 1), b=make(1, 2, 2, 1), dim=(2, 3), shape=(1, 2, 2, 1), eps=1e-2)
    yield (0, 4), dict(w=make(4), b=make(4), dim=(1,), shape=(4,), eps=1e-2)


def _refused(make):
    return dict(x=make(4, 3), w=make(4), dim=(1,), shape=(3,), eps=1e-2)


@layer_norm_act_p.cases
def _(make):
    for shape, how in _forms(make):
        for act in acts.OPS:
            yield dict(x=make(*shape), **how, act=act)
    yield RuntimeError, dict(_refused(make), act="relu")
    yield ValueError, dict(_refused(make), act="softsign")


@add_layer_norm_p.cases
def _(make):
    for shape, how in _forms(make):
        yield dict(x=make(*shape), residual=make(*shape), **how)
    yield RuntimeError, dict(_refused(make), residual=make(4, 3))
    yield RuntimeError, dict(_refused(make), residual=make(3))
    yield RuntimeError, dict(_refused(make), residual=make.ints(4, 3))


@layer_norm_act_dx_p.cases
def _(make):
    for act in acts.OPS:
        for case in row_cases(make):
            yield dict(case, b=make(*case["w"].shape), act=act) if "w" in case else dict(case, act=act)


@add_layer_norm_dx_p.cases
def _(make):
    for case in row_cases(make):
        yield dict(d_sum=make(*case["x"].shape), s=case.pop("x"), **case)


def _layer_norm(x, w=None, b=None, *, dim, shape, eps):
    own = tuple(range(x.ndim))[-len(dim) :]
    mean, var = x.mean(own, keepdims=True), x.var(own, keepdims=True)
    y = (x - mean) * (var + eps) ** -0.5
    return y * (1 if w is None else w) + (0 if b is None else b)


@layer_norm_act_p.ref
def _(x, w=None, b=None, *, act, **how):
    return acts.reference[act](_layer_norm(x, w, b, **how))


@add_layer_norm_p.ref
def _(x, residual, w=None, b=None, **how):
    return _layer_norm(x + residual, w, b, **how), x + residual


@add_layer_norm_dx_p.ref
def _(dy, d_sum, s, mean, var, w=None, **how):
    dx, dw, db = normalize_dx_p.op.reference(dy, s, mean, var, w, **how)
    return dx + d_sum, dw, db


@layer_norm_act_dx_p.ref
def _(dy, x, mean, var, w=None, b=None, *, act, **how):
    full = lambda t, one: one if t is None else t.reshape(how["shape"])
    z = (x - mean) * (var + how["eps"]) ** -0.5 * full(w, 1.0) + full(b, 0.0)
    dz = acts.reference_dx(act, dy, z if act in acts.GELUS else acts.reference[act](z))
    return normalize_dx_p.op.reference(dz, x, mean, var, w, **how)
