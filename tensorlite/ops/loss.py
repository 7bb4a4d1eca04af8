"""Losses. Floor 3.

Every loss has ``reduction``: "mean" (the default), "sum" or "none". The cross-entropy of scores with class indices,
with which nets are trained, is one primitive from scores to number; the other losses are made of ops.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import log_softmax_p, softmax_dx_p, softmax_p
from tensorlite.ops.choice import clamp_p, where_p
from tensorlite.ops.functions import exp_p, log_p
from tensorlite.ops.reduce import sum_p
from tensorlite.ops.shape import expand
from tensorlite.ops.smooth import logsigmoid_p
from tensorlite.shapes import broadcast

REDUCTIONS = ("none", "mean", "sum")


def _reduction(name: str, size_average: Any, reduce: Any, reduction: str, also: tuple = ()) -> str:
    """The reduction, also where it is said in the old way."""
    if size_average is not None or reduce is not None:
        average, reduces = (True if v is None else bool(v) for v in (size_average, reduce))
        reduction = "none" if not reduces else "mean" if average else "sum"
        warnings.warn(f"{name}: size_average and reduce args will be deprecated, please use reduction={reduction!r} "
                      "instead.", stacklevel=3)
    if reduction not in (*REDUCTIONS, *also):
        raise ValueError(f"{name}: reduction {reduction!r}; {reduction} is not a valid value for reduction, wanted one "
                         f"of {', '.join((*REDUCTIONS, *also))}")
    return reduction


def _total(x: Tensor) -> Tensor:
    return sum_p(x, dim=tuple(range(x._spec.ndim)), keepdim=False)


def _reduced(loss: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """The loss of each element reduced; with weights their weighted mean."""
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return _total(loss)
    return loss.mean() if weight is None else _total(loss) / _total(weight)


# ---- class indices
def _check_classes(name: str, t: Any, classes: int, ignore: int) -> Any:
    """None where every index names a class; else which rows count. Other indices raise."""
    if not t.size or int((t.view(np.uint64) if t.itemsize == 8 else t).max()) < classes:
        return None if not 0 <= ignore < classes else t != ignore
    keep = t != ignore
    wrong = keep & ((t < 0) | (t >= classes))
    if wrong.any():
        first = int(t[wrong][0])
        raise IndexError(f"{name}: target {first}; wanted 0 to {classes - 1} for {classes} classes, or ignore_index "
                         f"{ignore} (Target {first} is out of bounds.)")
    return keep


def _check_rows(name: str, x: Spec, t: Spec) -> None:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: input is {x.dtype.name}; wanted floating point (not implemented for integers)")
    if t.dtype is not dtypes.int64 and t.dtype is not dtypes.uint8:
        raise DTypeError(f"{name}: target is {t.dtype.name}; expected target dtype to be Long or Byte")


@primitive(name="cross_entropy", signals=True, torch="nn.functional.cross_entropy")
def cross_entropy_p(xp, x, t, out, *, ignore, reduction):
    """log(sum(exp(x))) - x[t] for each row of x (M, C), its sum, or its mean over rows whose t is not ``ignore``."""
    keep = _check_classes("cross_entropy", t, x.shape[1], ignore)
    loss = _row_losses(xp, x, t if keep is None else xp.where(keep, t, 0))
    if keep is not None:
        loss[~keep] = 0
    if reduction == "none":
        out[...] = loss
    else:
        xp.add.reduce(loss, out=out)
        if reduction == "mean":
            xp.true_divide(out, out.dtype.type(len(t) if keep is None else keep.sum()), out=out)


def _row_losses(xp: Any, x: Any, t: Any) -> Any:
    """log(sum(exp(x))) - x[t] for each row."""
    if not x.size:
        return xp.zeros(len(t), x.dtype)
    top = xp.maximum.reduce(x, axis=1, keepdims=True)
    parts = xp.subtract(x, top)
    loss = xp.add.reduce(xp.exp(parts, parts), axis=1)
    xp.log(loss, loss)
    # take costs a third of x[rows, t]; the difference of two large scores is exact where a sum with one is not
    loss += top.reshape(-1) - x.take(t + xp.arange(0, x.size, x.shape[1]))
    return loss


@primitive(name="cross_entropy_dx", signals=True, torch=None)
def cross_entropy_dx_p(xp, dy, x, t, out, *, ignore, reduction):
    """(softmax(x) - onehot(t)) times each row's share of dy: the gradient of cross_entropy."""
    if not x.size:
        return
    keep = _check_classes("cross_entropy", t, x.shape[1], ignore)
    share = dy.reshape(-1, 1) if reduction == "none" else dy
    if reduction == "mean":
        share = share / out.dtype.type(len(t) if keep is None else keep.sum())
    xp.subtract(x, xp.maximum.reduce(x, axis=1, keepdims=True), out)
    xp.exp(out, out)
    total = xp.add.reduce(out, axis=1, keepdims=True)
    xp.multiply(out, xp.divide(share, total, total), out)
    rows = xp.arange(len(t))
    if keep is None:
        out[rows, t] -= share if reduction != "none" else dy
    else:
        out[rows[keep], t[keep]] -= share if reduction != "none" else dy[keep]
        out[~keep] = 0


@cross_entropy_p.spec
def _(x, t, *, ignore, reduction):
    _check_rows("cross_entropy", x, t)
    return x.like(*(t.shape if reduction == "none" else ()))


def _share(g: Tensor, dy: Tensor, t: Tensor, ignore: int, reduction: str) -> Tensor:
    """g times each row's share of dy."""
    keep = (t != ignore).to(dy.dtype)
    if reduction == "mean":
        keep = keep / _total(keep)
    return g * (keep * dy).unsqueeze(1)


def _dx_dy(g: Tensor, x: Tensor, t: Tensor, dy_spec: Spec, ignore: int, reduction: str) -> Tensor:
    one = cross_entropy_dx_p(g.new_ones(dy_spec.shape), x, t, ignore=ignore, reduction=reduction)
    return sum_p(g * one, dim=(1,) if reduction == "none" else (0, 1), keepdim=False)


cross_entropy_dx_p.spec(lambda dy, x, t, *, ignore, reduction: x.like(*x.shape))
for _p in (cross_entropy_p, cross_entropy_dx_p):
    _p.kernel("cpu", _p.op.name, dtypes="f4 f8", when=lambda *specs, ignore, reduction: (
        specs[-1].dtype is dtypes.int64 and specs[-2].size > 0))
cross_entropy_p.grad(
    x=lambda g, x, t, ignore, reduction: cross_entropy_dx_p(g, x, t, ignore=ignore, reduction=reduction), t=None)
cross_entropy_dx_p.grad(
    dy=_dx_dy,
    x=lambda g, dy, x, t, ignore, reduction: softmax_dx_p(
        _share(g, dy, t, ignore, reduction), softmax_p(x, dim=1), dim=1),
    t=None,
)


@cross_entropy_dx_p.cases
def _(make):
    yield dict(dy=make(), x=make(3, 4), t=make.ints(3, high=4), ignore=-100, reduction="mean")
    yield dict(dy=make(), x=make(3, 4), t=make.tensor([1, 2, 1], dtypes.int64), ignore=2, reduction="mean")
    yield dict(dy=make(3), x=make(3, 4), t=make.tensor([1, -7, 1], dtypes.int64), ignore=-7, reduction="none")


@cross_entropy_dx_p.ref
def _(dy, x, t, ignore, reduction):
    dx = np.zeros(x.shape)
    kept = [k for k in range(len(t)) if t[k] != ignore]
    share = dy / len(kept) if reduction == "mean" else dy
    for k in kept:
        for c in range(x.shape[1]):
            p = 1 / sum(np.exp(x[k, d] - x[k, c]) for d in range(x.shape[1]))
            dx[k, c] = (p - (c == t[k])) * (share[k] if reduction == "none" else share)
    return dx


# ---- picking by class: for weights and for log-probabilities that somebody else made
@primitive(name="class_pick", torch=None)
def class_pick_p(xp, x, t, out, *, ignore, caller):
    """x[k, t[k]] for each row k of x (M, C), 0 where t is ``ignore``."""
    keep = _check_classes(caller, t, x.shape[1], ignore)
    out[...] = x[xp.arange(len(t)), t if keep is None else xp.where(keep, t, 0)] if x.size else 0
    if keep is not None:
        out[~keep] = 0


@primitive(name="class_put", torch=None)
def class_put_p(xp, dy, t, out, *, classes, ignore, caller):
    """Zeros (M, classes) with dy[k] at t[k] of row k, unless t is ``ignore``: the gradient of picking."""
    out.fill(0)
    keep = _check_classes(caller, t, classes, ignore)
    rows = xp.arange(len(t))
    if keep is None:
        out[rows, t] = dy
    else:
        out[rows[keep], t[keep]] = dy[keep]


@class_pick_p.spec
def _(x, t, *, ignore, caller):
    _check_rows(caller, x, t)
    return x.like(*t.shape)


class_put_p.spec(lambda dy, t, *, classes, ignore, caller: dy.like(*dy.shape, classes))
class_pick_p.grad(t=None, x=lambda g, t, x_spec, ignore, caller: class_put_p(
    g, t, classes=x_spec.shape[1], ignore=ignore, caller=caller))
class_put_p.grad(t=None, dy=lambda g, t, ignore, caller: class_pick_p(g, t, ignore=ignore, caller=caller))


@class_pick_p.cases
def _(make):
    yield dict(x=make(3, 4), t=make.ints(3, high=4), ignore=-100, caller="nll_loss")
    yield dict(x=make(3, 4), t=make.tensor([1, 2, 1], dtypes.int64), ignore=2, caller="nll_loss")
    yield IndexError, dict(x=make(3, 4), t=make.tensor([1, 4, 1], dtypes.int64), ignore=2, caller="nll_loss")


@class_put_p.cases
def _(make):
    yield dict(dy=make(3), t=make.ints(3, high=4), classes=4, ignore=-100, caller="nll_loss")
    yield dict(dy=make(3), t=make.tensor([1, 9, 1], dtypes.int64), classes=4, ignore=9, caller="nll_loss")


class_pick_p.ref(lambda x, t, ignore, caller: np.array([0.0 if c == ignore else x[k, c] for k, c in enumerate(t)]))
class_put_p.ref(lambda dy, t, classes, ignore, caller: np.array(
    [[v * (c == k and c != ignore) for k in range(classes)] for v, c in zip(dy, t)]))


def _rows(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """input (C,) or (N, C, d1, ...) and target () or (N, d1, ...) as (M, C) and (M,)."""
    x, t = input._spec.shape, target._spec.shape
    if not x:
        raise ShapeError(f"{name}: input (); expected 1 or more dimensions (got 0)")
    if len(x) == 1:
        if t not in ((), (1,)):
            raise ShapeError(f"{name}: input {x} and target {t}; wanted one class index for one row of scores "
                             "(multi-target not supported)")
        return input.reshape(1, -1), target.reshape(1)
    if not t or t[0] != x[0]:
        raise ShapeError(f"{name}: input {x} and target {t}; expected input batch_size ({x[0]}) to match target "
                         f"batch_size ({t[0] if t else 0})")
    if t != (x[0], *x[2:]):
        raise ShapeError(f"{name}: input {x} and target {t}; expected target size {[x[0], *x[2:]]}, got {list(t)}")
    if len(x) == 2:
        return input, target
    return input.movedim(1, -1).reshape(target._spec.size, x[1]), target.reshape(-1)


def _check_weight(name: str, input: Tensor, weight: Tensor | None, classes: int) -> None:
    if weight is None:
        return
    if weight._spec.shape != (classes,):
        raise ShapeError(f"{name}: weight {weight._spec.shape} for {classes} classes; weight tensor should be defined "
                         "either for all classes or no classes")
    if weight._spec.dtype is not input._spec.dtype:
        raise DTypeError(f"{name}: weight is {weight._spec.dtype.name} and input {input._spec.dtype.name}; wanted one "
                         "dtype (expected scalar type)")


def _class_weights(name: str, weight: Tensor | None, t: Tensor, like: Tensor, ignore: int) -> Tensor:
    """The weight of each row's class, 0 for rows that are ignored."""
    if weight is None:
        return (t != ignore).to(like.dtype)
    spread = expand(weight.unsqueeze(0), (t._spec.size, weight._spec.size))
    return class_pick_p(spread, t, ignore=ignore, caller=name)


def _nll(name: str, x: Tensor, t: Tensor, weight: Tensor | None, ignore: int, reduction: str) -> Tensor:
    """The negative log-likelihood of rows (M, C) of log-probabilities."""
    loss = -class_pick_p(x, t, ignore=ignore, caller=name)
    if weight is not None:
        loss = loss * _class_weights(name, weight, t, x, ignore)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return _total(loss)
    return _total(loss) / _total(_class_weights(name, weight, t, x, ignore))


@face(cross_entropy_p)
def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
                  ignore_index: int = -100, reduce: Any = None, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Tensor:
    """-log(softmax(input)[target]), the loss of classification, from scores (logits).

    input (C,), (N, C) or (N, C, d1, ...); target class indices (), (N,) or (N, d1, ...), or probabilities of input's
    shape and dtype. ``weight`` (C,) weighs the classes; rows whose target is ``ignore_index`` do not count;
    ``label_smoothing`` mixes the target with the uniform distribution. An index that is no class is an IndexError.

    >>> import tensorlite as tl
    >>> tl.nn.functional.cross_entropy(tl.zeros(2, 4), tl.tensor([0, 3]))
    tensor(1.3863)
    """
    name = "cross_entropy"
    if size_average is not None or reduce is not None or reduction not in REDUCTIONS:
        reduction = _reduction(name, size_average, reduce, reduction)
    x, t = input._spec, target._spec
    if weight is None and not label_smoothing and x.ndim == 2 and t.ndim == 1 and x.shape[0] == t.shape[0]:
        return cross_entropy_p(input, target, ignore=ignore_index, reduction=reduction)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"{name}: label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if x.shape == t.shape:
        return _with_probabilities(input, target, weight, ignore_index, reduction, label_smoothing)
    rows, indices = _rows(name, input, target)
    classes = rows._spec.shape[1]
    _check_weight(name, input, weight, classes)
    if weight is None and not label_smoothing:
        y = cross_entropy_p(rows, indices, ignore=ignore_index, reduction=reduction)
    else:
        if not x.dtype.is_floating_point:
            raise DTypeError(f"{name}: input is {x.dtype.name}; wanted a floating-point dtype")
        logs = log_softmax_p(rows, dim=1)
        y = _nll(name, logs, indices, weight, ignore_index, reduction)
        if label_smoothing:
            even = -sum_p(logs if weight is None else logs * weight, dim=(1,), keepdim=False)
            even = even * (indices != ignore_index).to(x.dtype)
            if reduction == "mean":
                even = _total(even) / _total(_class_weights(name, weight, indices, rows, ignore_index))
            elif reduction == "sum":
                even = _total(even)
            y = y * (1 - label_smoothing) + even * (label_smoothing / classes)
    return y.reshape(t.shape) if reduction == "none" and y._spec.shape != t.shape else y


def _with_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str,
                        smoothing: float) -> Tensor:
    name, spec = "cross_entropy", input._spec
    if not target._spec.dtype.is_floating_point or not spec.dtype.is_floating_point:
        raise DTypeError(f"{name}: input is {spec.dtype.name} and target {target._spec.dtype.name}, of one shape; "
                         "expected floating point type for target with class probabilities")
    if ignore_index >= 0:
        raise RuntimeError(f"{name}: ignore_index {ignore_index}; it is not supported for floating point target")
    dim = 1 if spec.ndim > 1 else 0
    classes = spec.shape[dim]
    _check_weight(name, input, weight, classes)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    terms = log_softmax_p(input, dim=dim) * target
    if weight is not None:
        terms = terms * (weight.reshape(1, -1, *(1 for _ in spec.shape[2:])) if spec.ndim > 1 else weight)
    loss = -sum_p(terms, dim=(dim,), keepdim=False)
    return _reduced(loss, reduction)


def _indices(make, *values):
    return make.tensor(list(values), dtypes.int64)


def _weights(make, *shape):
    """Weights: data, for which PyTorch has no gradient."""
    return make(*shape, low=0.5).detach()


def _index_cases(make):
    """Class indices in all the ways that cross_entropy and nll_loss take them."""
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make.ints(3, high=4), reduction=reduction)
        yield dict(input=make(3, 4), target=_indices(make, 1, 1, 3), weight=_weights(make, 4), reduction=reduction)
        yield dict(input=make(2, 4, 3), target=make.ints(2, 3, high=4), reduction=reduction)
        yield dict(input=make(4), target=make.ints(high=4), reduction=reduction)
        yield dict(input=make(4, 3), target=_indices(make, 1, -100, 2, -100), reduction=reduction)
        yield dict(input=make(4, 3), target=_indices(make, 1, 0, 2, 0), weight=_weights(make, 3), ignore_index=0,
                   reduction=reduction)
    yield dict(input=make(2, 3, 2, 2), target=make.ints(2, 2, 2, high=3), weight=_weights(make, 3))
    yield dict(input=make(3, 4), target=make.ints(3, high=4, dtype=dtypes.uint8))
    yield dict(input=make(0, 4), target=make.ints(0), reduction="sum")
    yield dict(input=make(0, 4), target=make.ints(0), reduction="none")
    yield dict(input=make(2, 3), target=_indices(make, 1, 1), ignore_index=1, reduction="sum")
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, 1, 4))
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, -1, 3))
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, 4, 3), weight=_weights(make, 4))
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3, high=4, dtype=dtypes.int32))
    yield RuntimeError, dict(input=make.ints(3, 4), target=make.ints(3, high=4))
    yield ValueError, dict(input=make(3, 4), target=make.ints(2))
    yield RuntimeError, dict(input=make(2, 4, 3), target=make.ints(2, 2))
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3), weight=_weights(make, 3))
    yield ValueError, dict(input=make(3, 4), target=make.ints(3), reduction="average")


@cross_entropy_p.cases
def _(make):
    yield from _index_cases(make)
    yield dict(input=make.tensor([[1000.0, -1000.0, 999.0]]), target=_indices(make, 2))
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make.ints(3, high=4), reduction=reduction, label_smoothing=0.2)
        yield dict(input=make(4, 3), target=_indices(make, 1, 2, -100, 0), weight=_weights(make, 3),
                   reduction=reduction, label_smoothing=0.1)
        yield dict(input=make(3, 4), target=make(3, 4, low=0.0, high=1.0), reduction=reduction)
        yield dict(input=make(2, 3, 2), target=make(2, 3, 2, low=0.0, high=1.0), weight=_weights(make, 3),
                   label_smoothing=0.1, reduction=reduction)
    yield dict(input=make(4), target=make(4, low=0.0, high=1.0))
    yield RuntimeError, dict(input=make(3, 4), target=make(3, 3))
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3, 4))
    yield RuntimeError, dict(input=make(3, 4), target=make(3, 4), ignore_index=1)
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3), label_smoothing=1.5)


def _nll_ref(logs, target, weight, ignore, reduction, smoothing=0.0):
    """Row by row: a target is a distribution over classes, and a weighted mean divides by what the indices weigh."""
    logs = logs if logs.ndim > 1 else logs[None]
    classes = logs.shape[1]
    weight = np.ones(classes) if weight is None else weight
    flat = np.moveaxis(logs, 1, -1).reshape(-1, classes)
    indices = target.ravel()
    even = smoothing / classes
    losses = [0.0 if c == ignore else -((1 - smoothing) * weight[c] * row[c] + even * (weight * row).sum())
              for row, c in zip(flat, indices)]
    if reduction == "none":
        return np.array(losses).reshape(target.shape)
    if reduction == "sum":
        return np.array(sum(losses, 0.0))
    return np.divide(sum(losses, 0.0), sum((weight[c] for c in indices if c != ignore), 0.0))


@cross_entropy_p.ref
def _(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    dim = min(input.ndim - 1, 1)
    logs = input - np.logaddexp.reduce(input, axis=dim, keepdims=True)
    if target.dtype.kind != "f":
        return _nll_ref(logs, target, weight, ignore_index, reduction, label_smoothing)
    classes = input.shape[dim]
    mixed = target * (1 - label_smoothing) + label_smoothing / classes
    weight = np.ones(classes) if weight is None else weight
    losses = -np.einsum("...c,...c,c->...", np.moveaxis(logs, dim, -1), np.moveaxis(mixed, dim, -1), weight)
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


@op(torch="nn.functional.nll_loss")
def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
             ignore_index: int = -100, reduce: Any = None, reduction: str = "mean") -> Tensor:
    """-input[target], input being log-probabilities: what is left of ``cross_entropy`` after ``log_softmax``."""
    name = "nll_loss"
    reduction = _reduction(name, size_average, reduce, reduction)
    rows, indices = _rows(name, input, target)
    _check_rows(name, input._spec, target._spec)
    _check_weight(name, input, weight, rows._spec.shape[1])
    y = _nll(name, rows, indices, weight, ignore_index, reduction)
    return y.reshape(target._spec.shape) if reduction == "none" and y._spec.shape != target._spec.shape else y


@nll_loss.cases
def _(make):
    yield from _index_cases(make)
    yield RuntimeError, dict(input=make(3, 4), target=make(3))


nll_loss.ref(lambda input, target, weight=None, ignore_index=-100, reduction="mean": _nll_ref(
    input, target, weight, ignore_index, reduction))


# ---- distances
def _pair(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both, stretched to one shape; a warning where that was needed, since it seldom is what was meant."""
    a, b = input._spec, target._spec
    if not a.dtype.is_floating_point and not b.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {a.dtype.name} and {b.dtype.name}; wanted a floating-point dtype")
    if a.shape != b.shape:
        shape = broadcast(name, a.shape, b.shape)
        warnings.warn(f"{name}: using a target size ({list(b.shape)}) that is different to the input size "
                      f"({list(a.shape)}). This will likely lead to incorrect results due to broadcasting. Please "
                      "ensure they have the same size.", stacklevel=3)
        return expand(input, shape), expand(target, shape)
    return input, target


def _sized(name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    if weight is not None and weight._spec.shape != input._spec.shape:
        raise ShapeError(f"{name}: weight {weight._spec.shape} and input {input._spec.shape}; weights and input must "
                         "have the same size")
    return weight


@op(torch="nn.functional.mse_loss")
def mse_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
             weight: Tensor | None = None) -> Tensor:
    """(input - target)², element by element. With ``weight`` of input's shape the mean is the weighted mean.

    >>> import tensorlite as tl
    >>> tl.nn.functional.mse_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0]))
    tensor(2.)
    """
    reduction = _reduction("mse_loss", size_average, reduce, reduction)
    input, target = _pair("mse_loss", input, target)
    off = input - target
    return _reduced(off * off, reduction, _sized("mse_loss", weight, input))


@op(torch="nn.functional.l1_loss")
def l1_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
            weight: Tensor | None = None) -> Tensor:
    """|input - target|, element by element."""
    reduction = _reduction("l1_loss", size_average, reduce, reduction)
    input, target = _pair("l1_loss", input, target)
    return _reduced((input - target).abs(), reduction, _sized("l1_loss", weight, input))


@op(torch="nn.functional.smooth_l1_loss")
def smooth_l1_loss(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
                   beta: float = 1.0) -> Tensor:
    """d² / (2 beta) for distances d below beta, d - beta / 2 above."""
    reduction = _reduction("smooth_l1_loss", size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta {beta}; smooth_l1_loss does not support negative values for beta.")
    input, target = _pair("smooth_l1_loss", input, target)
    off = input - target
    size = off.abs()
    return _reduced(size if not beta else where_p(size < beta, off * off * (0.5 / beta), size - 0.5 * beta), reduction)


@op(torch="nn.functional.huber_loss")
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
               weight: Tensor | None = None) -> Tensor:
    """d² / 2 for distances d up to delta, delta (d - delta / 2) above."""
    reduction = _reduction("huber_loss", None, None, reduction)
    if delta <= 0:
        raise RuntimeError(f"huber_loss: delta {delta}; huber_loss does not support non-positive values for delta.")
    input, target = _pair("huber_loss", input, target)
    off = input - target
    size = off.abs()
    loss = where_p(size <= delta, off * off * 0.5, (size - 0.5 * delta) * delta)
    if _sized("huber_loss", weight, input) is not None:
        loss = loss * weight  # and the mean stays that of the elements, unlike mse_loss's
    return _reduced(loss, reduction)


def _apart(make, *shape):
    """Inputs and targets whose distances are spread between 0 and 4, none near 0, 0.5, 1 or 2."""
    gap = make.distinct(*shape)
    return dict(input=make.tensor((gap * 0.8).detach().numpy()), target=make.tensor((gap * -0.1).detach().numpy()))


def _distance_cases(make, **more):
    for reduction in ("mean", "sum", "none"):
        yield dict(**_apart(make, 3, 4), reduction=reduction, **more)
    yield dict(input=make(0), target=make(0), reduction="sum", **more)
    yield RuntimeError, dict(input=make.ints(3), target=make.ints(3), **more)
    yield RuntimeError, dict(input=make(3, 4), target=make(3), **more)
    yield ValueError, dict(input=make(3), target=make(3), reduction="average", **more)


@mse_loss.cases
@l1_loss.cases
@huber_loss.cases
def _(make):
    yield from _distance_cases(make)
    yield dict(**_apart(make, 3, 4), weight=make(3, 4, low=0.5))
    yield ValueError, dict(input=make(3, 4), target=make(3, 4), weight=make(4))


@smooth_l1_loss.cases
def _(make):
    yield from _distance_cases(make)
    yield from _distance_cases(make, beta=0.5)
    yield dict(**_apart(make, 3, 4), beta=0.0)
    yield RuntimeError, dict(input=make(3), target=make(3), beta=-1.0)


@huber_loss.cases
def _(make):
    yield from _distance_cases(make, delta=2.0)
    yield RuntimeError, dict(input=make(3), target=make(3), delta=0.0)


def _mean_ref(losses, reduction, weight=None):
    weight = np.ones(losses.shape) if weight is None else weight
    if reduction == "none":
        return losses * weight
    total = (losses * weight).sum()
    return total if reduction == "sum" else np.divide(total, weight.sum())


mse_loss.ref(lambda input, target, reduction="mean", weight=None: _mean_ref(
    input**2 - 2 * input * target + target**2, reduction, weight))
l1_loss.ref(lambda input, target, reduction="mean", weight=None: _mean_ref(
    np.maximum(input, target) - np.minimum(input, target), reduction, weight))


def _huber_ref(input, target, reduction="mean", delta=1.0, weight=1.0):
    d = np.sqrt((input - target) ** 2)
    near = np.minimum(d, delta)  # the integral of a slope that grows to delta and stays
    return _mean_ref((near**2 / 2 + delta * (d - near)) * weight, reduction)


huber_loss.ref(_huber_ref)
smooth_l1_loss.ref(lambda input, target, reduction="mean", beta=1.0: _mean_ref(
    abs(input - target), reduction) if not beta else _huber_ref(input, target, reduction, beta) / beta)


# ---- yes or no
@primitive(name="bce", elementwise=True, signals=True, torch=None)
def bce_p(xp, x, t, out):
    """-(t log(x) + (1 - t) log(1 - x)), the logarithms no less than -100. x and t lie between 0 and 1."""
    for a, what in ((x, "input"), (t, "target")):
        if not bool(((a >= 0) & (a <= 1)).all()):
            raise RuntimeError(f"binary_cross_entropy: {what} from {a.min()} to {a.max()}; all elements of {what} "
                               "should be between 0 and 1")
    yes, no = xp.maximum(xp.log(x), -100), xp.maximum(xp.log1p(-x), -100)
    xp.subtract((t - 1) * no, t * yes, out=out)


def _bounded_log(x: Tensor) -> Tensor:
    return clamp_p(log_p(x), -100.0, None)


bce_p.grad(
    x=lambda g, x, t: g * (x - t) / clamp_p((1.0 - x) * x, 1e-12, None),
    t=lambda g, x: g * (_bounded_log(1.0 - x) - _bounded_log(x)),
)


@bce_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.05, high=0.95), t=make(3, 4, low=0.05, high=0.95))
    yield RuntimeError, dict(x=make(3, low=1.5, high=2.0), t=make(3, low=0.0, high=1.0))


bce_p.ref(lambda x, t: -np.log(x**t * (1 - x) ** (1 - t)))


@op(torch="nn.functional.binary_cross_entropy")
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: Any = None,
                         reduce: Any = None, reduction: str = "mean") -> Tensor:
    """-(target log(input) + (1 - target) log(1 - input)), from probabilities. ``weight`` multiplies each element."""
    name = "binary_cross_entropy"
    reduction = _reduction(name, size_average, reduce, reduction)
    if input._spec.shape != target._spec.shape:
        raise ShapeError(f"{name}: input {input._spec.shape} and target {target._spec.shape}; please ensure they have "
                         "the same size")
    if not input._spec.dtype.is_floating_point or target._spec.dtype is not input._spec.dtype:
        raise DTypeError(f"{name}: input is {input._spec.dtype.name} and target {target._spec.dtype.name}; wanted one "
                         "floating-point dtype (found dtype but expected)")
    loss = bce_p(input, target)
    return _reduced(loss if weight is None else loss * weight, reduction)


@op(torch="nn.functional.binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None,
                                     size_average: Any = None, reduce: Any = None, reduction: str = "mean",
                                     pos_weight: Tensor | None = None) -> Tensor:
    """``binary_cross_entropy`` of sigmoid(input), without overflow. ``pos_weight`` multiplies the targets' share.

    >>> import tensorlite as tl
    >>> tl.nn.functional.binary_cross_entropy_with_logits(tl.tensor([0.0, 100.0]), tl.tensor([0.0, 1.0]))
    tensor(0.3466)
    """
    name = "binary_cross_entropy_with_logits"
    reduction = _reduction(name, size_average, reduce, reduction)
    if input._spec.shape != target._spec.shape:
        raise ShapeError(f"{name}: target size {list(target._spec.shape)} must be the same as input size "
                         f"{list(input._spec.shape)}")
    if not target._spec.dtype.is_floating_point:
        raise DTypeError(f"{name}: target is {target._spec.dtype.name}; wanted a floating-point dtype (result type "
                         "Float can't be cast)")
    # (1 - t) x + (1 + (p - 1) t) log(1 + exp(-x))
    logs = logsigmoid_p(input)
    if pos_weight is not None:
        if broadcast(name, input._spec.shape, pos_weight._spec.shape) != input._spec.shape:
            raise ShapeError(f"{name}: pos_weight {pos_weight._spec.shape}; wanted a shape that stretches to "
                             f"{input._spec.shape}")
        logs = logs * ((pos_weight - 1.0) * target + 1.0)
    loss = (1.0 - target) * input - logs
    return _reduced(loss if weight is None else loss * weight, reduction)


@binary_cross_entropy.cases
def _(make):
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4, low=0.05, high=0.95), target=make(3, 4, low=0.05, high=0.95), reduction=reduction)
    yield dict(input=make(3, 4, low=0.05, high=0.95), target=make(3, 4, low=0.05, high=0.95), weight=_weights(make, 4))
    yield dict(input=make(0), target=make(0), reduction="sum")
    yield RuntimeError, dict(input=make(3, low=1.5), target=make(3, low=0.0, high=1.0))
    yield RuntimeError, dict(input=make(3, low=0.0, high=1.0), target=make(3, low=1.5))
    yield ValueError, dict(input=make(3, 4, low=0.0, high=1.0), target=make(4, low=0.0, high=1.0))
    yield RuntimeError, dict(input=make(3, low=0.0, high=1.0), target=make.ints(3, high=2))


@binary_cross_entropy_with_logits.cases
def _(make):
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make(3, 4, low=0.0, high=1.0), reduction=reduction)
        yield dict(input=make(3, 4), target=make(3, 4, low=0.0, high=1.0), weight=_weights(make, 4),
                   pos_weight=_weights(make, 4), reduction=reduction)
    yield dict(input=make.tensor([-800.0, 800.0, 800.0]), target=make.tensor([0.0, 1.0, 0.5]))
    yield dict(input=make(0), target=make(0), reduction="sum")
    yield ValueError, dict(input=make(3, 4), target=make(4))
    yield RuntimeError, dict(input=make(3, 4), target=make(3, 4), pos_weight=make(3))
    yield RuntimeError, dict(input=make(3), target=make.ints(3))


def _weighed_ref(losses, reduction, weight):
    return _mean_ref(losses if weight is None else losses * weight, reduction)


binary_cross_entropy.ref(lambda input, target, weight=None, reduction="mean": _weighed_ref(
    -np.log(input**target * (1 - input) ** (1 - target)), reduction, weight))


@binary_cross_entropy_with_logits.ref
def _(input, target, weight=None, reduction="mean", pos_weight=1.0):
    yes, no = np.logaddexp(0, -input), np.logaddexp(0, input)
    return _weighed_ref(yes * target * pos_weight + no * (1 - target), reduction, weight)


# ---- distributions
@op(torch="nn.functional.kl_div")
def kl_div(input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
           log_target: bool = False) -> Tensor:
    """target (log(target) - input): the Kullback-Leibler divergence of log-probabilities ``input`` from ``target``.

    ``log_target`` says that target is logarithms too. "batchmean" is the sum over the batch size, which the divergence
    is by definition; "mean" divides by the number of elements.
    """
    reduction = _reduction("kl_div", size_average, reduce, reduction, ("batchmean",))
    if not input._spec.dtype.is_floating_point or not target._spec.dtype.is_floating_point:
        raise DTypeError(f"kl_div: got {input._spec.dtype.name} and {target._spec.dtype.name}; integral inputs not "
                         "supported")
    if log_target:
        loss = exp_p(target) * (target - input)
    else:  # 0 log(0) is 0
        loss = target * (log_p(where_p(target == 0, lift(1.0, target), target)) - input)
    if reduction == "batchmean":
        return _total(loss) / input._spec.shape[0] if input._spec.ndim else _total(loss)
    return _reduced(loss, reduction)


@kl_div.cases
def _(make):
    for reduction in ("mean", "sum", "none", "batchmean"):
        yield dict(input=make(3, 4), target=make(3, 4, low=0.1, high=1.0), reduction=reduction)
        yield dict(input=make(3, 4), target=make(3, 4), reduction=reduction, log_target=True)
    yield dict(input=make(3, 4), target=make(4, low=0.1, high=1.0), reduction="sum")
    yield RuntimeError, dict(input=make(3), target=make.ints(3))
    yield ValueError, dict(input=make(3), target=make(3), reduction="average")


@kl_div.ref
def _(input, target, reduction="mean", log_target=False):
    p = np.exp(target) if log_target else target
    losses = p * np.log(p / np.exp(input))
    return losses.sum() / len(input) if reduction == "batchmean" else _mean_ref(losses, reduction)
