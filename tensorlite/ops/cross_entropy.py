"""Losses of scores or log-probabilities against classes. Floor 3.

The cross-entropy of scores with class indices, with which nets are trained, is one primitive from scores to number;
its other forms are made of ops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.modes import mode
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor, needs_grad
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import log_softmax_p, softmax_dx_p, softmax_p
from tensorlite.ops.loss import REDUCTIONS, chosen_reduction, reduced_loss, sample_weights, sum_all
from tensorlite.ops.reduce import sum_p
from tensorlite.ops.shape import expand

KEPT = 1 << 16  # scores from which on the forward keeps what it knows of each row: less is quickly made again


# ---- class indices
def _check_classes(name: str, t: Any, classes: int, ignore: int) -> Any:
    """None where every index names a class; else which rows count. Other indices raise."""
    if not t.size or int((t.view(np.uint64) if t.itemsize == 8 else t).max()) < classes:
        return None if not 0 <= ignore < classes else t != ignore
    keep = t != ignore
    wrong = keep & ((t < 0) | (t >= classes))
    if wrong.any():
        first = int(t[wrong][0])
        raise IndexError(
            f"{name}: target {first}; wanted 0 to {classes - 1} for {classes} classes, or ignore_index "
            f"{ignore} (Target {first} is out of bounds.)"
        )
    return keep


def _rows_counted(t: Any, keep: Any, dtype: Any) -> Any:
    """How many rows the mean is over, in the dtype that computes."""
    return dtype.type(len(t)) if keep is None else keep.sum().astype(dtype)


def _check_rows(name: str, x: Spec, t: Spec) -> None:
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{name}: input is {x.dtype.name}; wanted floating point (not implemented for integers)")
    if t.dtype is not dtypes.int64 and t.dtype is not dtypes.uint8:
        raise DTypeError(f"{name}: target is {t.dtype.name}; expected target dtype to be Long or Byte")


@primitive(name="cross_entropy", signals=True, torch="nn.functional.cross_entropy")
def cross_entropy_p(xp, x, t, out, *, ignore, reduction):
    """log(sum(exp(x))) - x[t] for each row of x (M, C), its sum, or its mean over rows whose t is not ``ignore``."""
    _losses(xp, x, t, out, ignore, reduction)


@primitive(name="cross_entropy_kept", signals=True, torch=None)
def cross_entropy_kept_p(xp, x, t, out, out_kept, *, ignore, reduction):
    """cross_entropy, and of each row the largest score and sum(exp(x - largest)), from which the gradient starts.

    They stay two numbers: the logarithm of the sum would be lost beside a large score.
    """
    top, total = _losses(xp, x, t, out, ignore, reduction)
    left_out = t == ignore
    out_kept[:, 0], out_kept[:, 1] = xp.where(left_out, 0, top), xp.where(left_out, 1, total)


def _losses(xp: Any, x: Any, t: Any, out: Any, ignore: int, reduction: str) -> tuple[Any, Any]:
    """The loss; each row's largest score and sum(exp(x - largest))."""
    keep = _check_classes("cross_entropy", t, x.shape[1], ignore)
    top, total = _sums(xp, x)
    if x.size:
        # take costs a third of x[rows, t]; the difference of two large scores is exact where a sum with one is not
        own = x.take((t if keep is None else xp.where(keep, t, 0)) + xp.arange(0, x.size, x.shape[1]))
        loss = xp.log(total) + (top - own)
    else:
        loss = xp.zeros(len(t), x.dtype)
    if keep is not None:
        xp.copyto(loss, 0, where=~keep)
    if reduction == "none":
        out[...] = loss
    else:
        xp.add.reduce(loss, out=out)
        if reduction == "mean":
            xp.true_divide(out, _rows_counted(t, keep, out.dtype), out=out)
    return top, total


def _sums(xp: Any, x: Any, room: Any = None) -> tuple[Any, Any]:
    """Each row's largest score and sum(exp(x - largest)); in ``room`` are the exponentials."""
    if not x.size:
        return xp.zeros(len(x), x.dtype), xp.ones(len(x), x.dtype)
    top = x.max(1)
    parts = xp.subtract(x, top[:, None], room)
    return top, xp.add.reduce(xp.exp(parts, parts), axis=1)


@primitive(name="cross_entropy_dx", signals=True, torch=None)
def cross_entropy_dx_p(xp, dy, x, t, out, *, ignore, reduction):
    """(softmax(x) - onehot(t)) times each row's share of dy: the gradient of cross_entropy."""
    _, total = _sums(xp, x, out)
    _scale(xp, dy, t, total, out, ignore, reduction)


@primitive(name="cross_entropy_kept_dx", signals=True, torch=None)
def cross_entropy_kept_dx_p(xp, dy, x, t, kept, out, *, ignore, reduction):
    """The same from what cross_entropy_kept has kept."""
    xp.subtract(x, kept[:, :1], out)
    _scale(xp, dy, t, kept[:, 1], xp.exp(out, out), ignore, reduction)


def _scale(xp: Any, dy: Any, t: Any, total: Any, out: Any, ignore: int, reduction: str) -> None:
    """From exponentials and their sums to the gradient."""
    if not out.size:
        return
    keep = _check_classes("cross_entropy", t, out.shape[1], ignore)
    share = dy.reshape(-1, 1) if reduction == "none" else dy
    if reduction == "mean":
        share = share / _rows_counted(t, keep, out.dtype)
    xp.multiply(out, share / total[:, None], out)
    own = share if reduction != "none" else dy
    out[xp.arange(len(t)), t if keep is None else xp.where(keep, t, 0)] -= own
    if keep is not None:
        if xp is np:
            out[~keep] = 0  # touches these rows alone
        else:
            xp.copyto(out, 0, where=~keep[:, None])


@cross_entropy_p.spec
def _(x, t, *, ignore, reduction):
    _check_rows("cross_entropy", x, t)
    return x.like(*(t.shape if reduction == "none" else ()))


@cross_entropy_kept_p.spec
def _(x, t, *, ignore, reduction):
    return cross_entropy_p.op.make_spec(x, t, ignore=ignore, reduction=reduction), x.like(*t.shape, 2)


def _share(g: Tensor, dy: Tensor, t: Tensor, ignore: int, reduction: str) -> Tensor:
    """g times each row's share of dy."""
    keep = (t != ignore).to(dy.dtype)
    if reduction == "mean":
        keep = keep / sum_all(keep)
    return g * (keep * dy).unsqueeze(1)


def _dx_dy(g: Tensor, x: Tensor, t: Tensor, dy_spec: Spec, ignore: int, reduction: str) -> Tensor:
    one = cross_entropy_dx_p(g.new_ones(dy_spec.shape), x, t, ignore=ignore, reduction=reduction)
    return sum_p(g * one, dim=(1,) if reduction == "none" else (0, 1), keepdim=False)


cross_entropy_dx_p.spec(lambda dy, x, t, *, ignore, reduction: x.like(*x.shape))
cross_entropy_kept_dx_p.spec(lambda dy, x, t, kept, *, ignore, reduction: x.like(*x.shape))
for _p, _at in ((cross_entropy_p, 0), (cross_entropy_kept_p, 0), (cross_entropy_dx_p, 1), (cross_entropy_kept_dx_p, 1)):
    _p.kernel(
        "cpu",
        _p.op.name,
        dtypes="f4 f8",
        when=lambda *specs, ignore, reduction, at=_at: specs[at + 1].dtype is dtypes.int64 and specs[at].size > 0,
    )
    _p.kernel(
        "cuda",
        f"cross_entropy.{_p.op.name}",
        "f2 bf2 f4 f8",
        when=lambda *specs, ignore, reduction, at=_at: specs[at].size > 0,
        formats=ANY,
    )
cross_entropy_p.grad(
    x=lambda g, x, t, ignore, reduction: cross_entropy_dx_p(g, x, t, ignore=ignore, reduction=reduction), t=None
)
cross_entropy_dx_p.grad(
    dy=_dx_dy,
    x=lambda g, dy, x, t, ignore, reduction: softmax_dx_p(
        _share(g, dy, t, ignore, reduction), softmax_p(x, dim=1), dim=1
    ),
    t=None,
)
cross_entropy_kept_p.op.silent_outputs = (1,)
cross_entropy_kept_p.grad(t=None)
cross_entropy_kept_dx_p.nograd()  # where a second order is wanted, cross_entropy_dx is differentiated


@cross_entropy_kept_p.grad
def _(g, x, t, out_kept, ignore, reduction):
    if mode().grad:
        return cross_entropy_dx_p(g[0], x, t, ignore=ignore, reduction=reduction), None
    return cross_entropy_kept_dx_p(g[0], x, t, out_kept, ignore=ignore, reduction=reduction), None


@cross_entropy_dx_p.cases
def _(make):
    yield dict(dy=make(), x=make(3, 4), t=make.ints(3, high=4), ignore=-100, reduction="mean")
    yield dict(dy=make(), x=make(3, 4), t=make.tensor([1, 2, 1], dtypes.int64), ignore=2, reduction="mean")
    yield dict(dy=make(3), x=make(3, 4), t=make.tensor([1, -7, 1], dtypes.int64), ignore=-7, reduction="none")


@cross_entropy_kept_p.cases
def _(make):
    yield dict(x=make(3, 4), t=make.ints(3, high=4), ignore=-100, reduction="mean")
    yield dict(x=make(3, 4), t=make.tensor([1, 2, 1], dtypes.int64), ignore=2, reduction="sum")
    yield dict(x=make(3, 4), t=make.tensor([1, -7, 1], dtypes.int64), ignore=-7, reduction="none")
    yield dict(x=make(0, 4), t=make.ints(0), ignore=-7, reduction="sum")
    yield IndexError, dict(x=make(3, 4), t=make.tensor([0, 1, 4], dtypes.int64), ignore=-7, reduction="sum")


@cross_entropy_kept_dx_p.cases
def _(make):
    kept = make.tensor([[2.0, 3.0], [1.0, 1.5], [2.5, 4.0]], dtypes.float32)
    for ignore, reduction in ((-100, "mean"), (2, "sum"), (1, "none")):
        dy = make(3) if reduction == "none" else make()
        t = make.tensor([1, 2, 1], dtypes.int64)
        yield dict(dy=dy, x=make(3, 4), t=t, kept=kept, ignore=ignore, reduction=reduction)


@cross_entropy_kept_p.ref
def _(x, t, ignore, reduction):
    top = [max(row) for row in x]
    kept = [(0, 1) if c == ignore else (m, sum(np.exp(v - m) for v in row)) for m, row, c in zip(top, x, t)]
    loss = [0.0 if c == ignore else np.log(s) + m - row[c] for (m, s), row, c in zip(kept, x, t)]
    whole = sum(loss) / (max(sum(c != ignore for c in t), 1) if reduction == "mean" else 1)
    return np.array(loss if reduction == "none" else whole), np.array(kept, float).reshape(-1, 2)


@cross_entropy_kept_dx_p.ref
def _(dy, x, t, kept, ignore, reduction):
    used = t != ignore
    share = (dy * np.ones(len(t)) / (used.sum() if reduction == "mean" else 1) * used)[:, None]
    return share * (np.exp(x - kept[:, :1]) / kept[:, 1:] - (np.arange(x.shape[1]) == t[:, None]))


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
        xp.copyto(out, 0, where=~keep)


@primitive(name="class_put", torch=None)
def class_put_p(xp, dy, t, out, *, classes, ignore, caller):
    """Zeros (M, classes) with dy[k] at t[k] of row k, unless t is ``ignore``: the gradient of picking."""
    out.fill(0)
    keep = _check_classes(caller, t, classes, ignore)
    rows = xp.arange(len(t))
    if keep is None:
        out[rows, t] = dy
    elif classes:
        out[rows, xp.where(keep, t, 0)] = xp.where(keep, dy, 0)


@class_pick_p.spec
def _(x, t, *, ignore, caller):
    _check_rows(caller, x, t)
    return x.like(*t.shape)


class_put_p.spec(lambda dy, t, *, classes, ignore, caller: dy.like(*dy.shape, classes))
class_pick_p.grad(
    t=None,
    x=lambda g, t, x_spec, ignore, caller: class_put_p(g, t, classes=x_spec.shape[1], ignore=ignore, caller=caller),
)
class_put_p.grad(t=None, dy=lambda g, t, ignore, caller: class_pick_p(g, t, ignore=ignore, caller=caller))


class_pick_p.kernel(
    "cuda", "cross_entropy.class_pick", "f2 bf2 f4 f8", when=lambda x, t, *, ignore, caller: x.size > 0, formats=ANY
)
class_put_p.kernel(
    "cuda",
    "cross_entropy.class_put",
    "f2 bf2 f4 f8",
    when=lambda dy, t, *, classes, ignore, caller: dy.size > 0 and classes > 0,
    formats=ANY,
)


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
class_put_p.ref(
    lambda dy, t, classes, ignore, caller: np.array(
        [[v * (c == k and c != ignore) for k in range(classes)] for v, c in zip(dy, t)]
    )
)


def _rows(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """input (C,) or (N, C, d1, ...) and target () or (N, d1, ...) as (M, C) and (M,)."""
    x, t = input._spec.shape, target._spec.shape
    if not x:
        raise ShapeError(f"{name}: input (); expected 1 or more dimensions (got 0)")
    if len(x) == 1:
        if t not in ((), (1,)):
            raise ShapeError(
                f"{name}: input {x} and target {t}; wanted one class index for one row of scores "
                "(multi-target not supported)"
            )
        return input.reshape(1, -1), target.reshape(1)
    if not t or t[0] != x[0]:
        raise ShapeError(
            f"{name}: input {x} and target {t}; expected input batch_size ({x[0]}) to match target "
            f"batch_size ({t[0] if t else 0})"
        )
    if t != (x[0], *x[2:]):
        raise ShapeError(f"{name}: input {x} and target {t}; expected target size {[x[0], *x[2:]]}, got {list(t)}")
    if len(x) == 2:
        return input, target
    return input.movedim(1, -1).reshape(target._spec.size, x[1]), target.reshape(-1)


def _check_weight(name: str, input: Tensor, weight: Tensor | None, classes: int) -> None:
    if weight is None:
        return
    if weight._spec.shape != (classes,):
        raise ShapeError(
            f"{name}: weight {weight._spec.shape} for {classes} classes; weight tensor should be defined "
            "either for all classes or no classes"
        )
    if weight._spec.dtype is not input._spec.dtype:
        raise DTypeError(
            f"{name}: weight is {weight._spec.dtype.name} and input {input._spec.dtype.name}; wanted one "
            "dtype (expected scalar type)"
        )


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
        return sum_all(loss)
    return sum_all(loss) / sum_all(_class_weights(name, weight, t, x, ignore))


def _index_loss(x: Tensor, t: Tensor, ignore: int, reduction: str) -> Tensor:
    """The loss of rows; a gradient of many scores is worth keeping two numbers a row for, if not rounded to 16 bits."""
    if x._spec.size >= KEPT and not x._spec.dtype.is_half and needs_grad(x):
        return cross_entropy_kept_p(x, t, ignore=ignore, reduction=reduction)[0]
    return cross_entropy_p(x, t, ignore=ignore, reduction=reduction)


@face(cross_entropy_p)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
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
        reduction = chosen_reduction(name, size_average, reduce, reduction)
    x, t = input._spec, target._spec
    if weight is None and not label_smoothing and x.ndim == 2 and t.ndim == 1 and x.shape[0] == t.shape[0]:
        return _index_loss(input, target, ignore_index, reduction)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"{name}: label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if x.shape == t.shape:
        return _with_probabilities(input, target, weight, ignore_index, reduction, label_smoothing)
    rows, indices = _rows(name, input, target)
    classes = rows._spec.shape[1]
    _check_weight(name, input, weight, classes)
    if weight is None and not label_smoothing:
        y = _index_loss(rows, indices, ignore_index, reduction)
    else:
        if not x.dtype.is_floating_point:
            raise DTypeError(f"{name}: input is {x.dtype.name}; wanted a floating-point dtype")
        logs = log_softmax_p(rows, dim=1)
        y = _nll(name, logs, indices, weight, ignore_index, reduction)
        if label_smoothing:
            even = -sum_p(logs if weight is None else logs * weight, dim=(1,), keepdim=False)
            even = even * (indices != ignore_index).to(x.dtype)
            if reduction == "mean":
                even = sum_all(even) / sum_all(_class_weights(name, weight, indices, rows, ignore_index))
            elif reduction == "sum":
                even = sum_all(even)
            y = y * (1 - label_smoothing) + even * (label_smoothing / classes)
    return y.reshape(t.shape) if reduction == "none" and y._spec.shape != t.shape else y


def _with_probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    name, spec = "cross_entropy", input._spec
    if not target._spec.dtype.is_floating_point or not spec.dtype.is_floating_point:
        raise DTypeError(
            f"{name}: input is {spec.dtype.name} and target {target._spec.dtype.name}, of one shape; "
            "expected floating point type for target with class probabilities"
        )
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
    return reduced_loss(loss, reduction)


def _indices(make, *values):
    return make.tensor(list(values), dtypes.int64)


def _index_cases(make):
    """Class indices in all the ways that cross_entropy and nll_loss take them."""
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make.ints(3, high=4), reduction=reduction)
        yield dict(
            input=make(3, 4), target=_indices(make, 1, 1, 3), weight=sample_weights(make, 4), reduction=reduction
        )
        yield dict(input=make(2, 4, 3), target=make.ints(2, 3, high=4), reduction=reduction)
        yield dict(input=make(4), target=make.ints(high=4), reduction=reduction)
        yield dict(input=make(4, 3), target=_indices(make, 1, -100, 2, -100), reduction=reduction)
        yield dict(
            input=make(4, 3),
            target=_indices(make, 1, 0, 2, 0),
            weight=sample_weights(make, 3),
            ignore_index=0,
            reduction=reduction,
        )
    yield dict(input=make(2, 3, 2, 2), target=make.ints(2, 2, 2, high=3), weight=sample_weights(make, 3))
    yield dict(input=make(3, 4), target=make.ints(3, high=4, dtype=dtypes.uint8))
    yield dict(input=make(0, 4), target=make.ints(0), reduction="sum")
    yield dict(input=make(0, 4), target=make.ints(0), reduction="none")
    yield dict(input=make(2, 3), target=_indices(make, 1, 1), ignore_index=1, reduction="sum")
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, 1, 4))
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, -1, 3))
    yield IndexError, dict(input=make(3, 4), target=_indices(make, 0, 4, 3), weight=sample_weights(make, 4))
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3, high=4, dtype=dtypes.int32))
    yield RuntimeError, dict(input=make.ints(3, 4), target=make.ints(3, high=4))
    yield ValueError, dict(input=make(3, 4), target=make.ints(2))
    yield RuntimeError, dict(input=make(2, 4, 3), target=make.ints(2, 2))
    yield RuntimeError, dict(input=make(3, 4), target=make.ints(3), weight=sample_weights(make, 3))
    yield ValueError, dict(input=make(3, 4), target=make.ints(3), reduction="average")


@cross_entropy_p.cases
def _(make):
    yield from _index_cases(make)
    yield dict(input=make.tensor([[1000.0, -1000.0, 999.0]]), target=_indices(make, 2))
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make.ints(3, high=4), reduction=reduction, label_smoothing=0.2)
        yield dict(
            input=make(4, 3),
            target=_indices(make, 1, 2, -100, 0),
            weight=sample_weights(make, 3),
            reduction=reduction,
            label_smoothing=0.1,
        )
        yield dict(input=make(3, 4), target=make(3, 4, low=0.0, high=1.0), reduction=reduction)
        yield dict(
            input=make(2, 3, 2),
            target=make(2, 3, 2, low=0.0, high=1.0),
            weight=sample_weights(make, 3),
            label_smoothing=0.1,
            reduction=reduction,
        )
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
    losses = [
        0.0 if c == ignore else -((1 - smoothing) * weight[c] * row[c] + even * (weight * row).sum())
        for row, c in zip(flat, indices)
    ]
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
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-input[target], input being log-probabilities: what is left of ``cross_entropy`` after ``log_softmax``."""
    name = "nll_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    rows, indices = _rows(name, input, target)
    _check_rows(name, input._spec, target._spec)
    _check_weight(name, input, weight, rows._spec.shape[1])
    y = _nll(name, rows, indices, weight, ignore_index, reduction)
    return y.reshape(target._spec.shape) if reduction == "none" and y._spec.shape != target._spec.shape else y


@nll_loss.cases
def _(make):
    yield from _index_cases(make)
    yield RuntimeError, dict(input=make(3, 4), target=make(3))


nll_loss.ref(
    lambda input, target, weight=None, ignore_index=-100, reduction="mean": _nll_ref(
        input, target, weight, ignore_index, reduction
    )
)
