"""Losses between values, and of probabilities; what all losses share. Floor 3.

Every loss has ``reduction``: "mean" (the default), "sum" or "none".
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.choice import clamp_p, where_p
from tensorlite.ops.functions import exp_p, log_p
from tensorlite.ops.pointwise_loss import pointwise_loss_p
from tensorlite.ops.reduce import sum_p
from tensorlite.ops.shape import expand
from tensorlite.ops.smooth import logsigmoid_p
from tensorlite.shapes import broadcast

REDUCTIONS = ("none", "mean", "sum")


def chosen_reduction(name: str, size_average: Any, reduce: Any, reduction: str, also: tuple = ()) -> str:
    """The reduction, also where it is said in the old way."""
    if size_average is not None or reduce is not None:
        average, reduces = (True if v is None else bool(v) for v in (size_average, reduce))
        reduction = "none" if not reduces else "mean" if average else "sum"
        warnings.warn(
            f"{name}: size_average and reduce args will be deprecated, please use reduction={reduction!r} instead.",
            stacklevel=3,
        )
    if reduction not in (*REDUCTIONS, *also):
        raise ValueError(
            f"{name}: reduction {reduction!r}; {reduction} is not a valid value for reduction, wanted one "
            f"of {', '.join((*REDUCTIONS, *also))}"
        )
    return reduction


def sum_all(x: Tensor) -> Tensor:
    return sum_p(x, dim=tuple(range(x._spec.ndim)), keepdim=False)


def reduced_loss(loss: Tensor, reduction: str, weight: Tensor | None = None) -> Tensor:
    """The loss of each element reduced; with weights their weighted mean."""
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return sum_all(loss)
    return loss.mean() if weight is None else sum_all(loss) / sum_all(weight)


def sample_weights(make, *shape):
    """Weights: data, for which PyTorch has no gradient."""
    return make(*shape, low=0.5).detach()


# ---- distances
def _pair(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both, stretched to one shape; a warning where that was needed, since it seldom is what was meant."""
    a, b = input._spec, target._spec
    if not a.dtype.is_floating_point and not b.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {a.dtype.name} and {b.dtype.name}; wanted a floating-point dtype")
    if a.shape != b.shape:
        shape = broadcast(name, a.shape, b.shape)
        warnings.warn(
            f"{name}: using a target size ({list(b.shape)}) that is different to the input size "
            f"({list(a.shape)}). This will likely lead to incorrect results due to broadcasting. Please "
            "ensure they have the same size.",
            stacklevel=3,
        )
        return expand(input, shape), expand(target, shape)
    return input, target


def _sized(name: str, weight: Tensor | None, input: Tensor) -> Tensor | None:
    if weight is not None and weight._spec.shape != input._spec.shape:
        raise ShapeError(
            f"{name}: weight {weight._spec.shape} and input {input._spec.shape}; weights and input must "
            "have the same size"
        )
    return weight


def _distance(
    name: str, input: Tensor, target: Tensor, reduction: str, weight: Tensor | None, kind: str, bound=0.0, steep=0.0
) -> Tensor:
    """The loss of a distance; with weights their weighted mean."""
    how = dict(kind=kind, bound=float(bound), steep=float(steep))
    if weight is None:
        return pointwise_loss_p(input, target, **how, reduction=reduction)
    return reduced_loss(
        pointwise_loss_p(input, target, **how, reduction="none"), reduction, _sized(name, weight, input)
    )


@op(torch="nn.functional.mse_loss")
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(input - target)², element by element. With ``weight`` of input's shape the mean is the weighted mean.

    >>> import tensorlite as tl
    >>> tl.nn.functional.mse_loss(tl.tensor([1.0, 2.0]), tl.tensor([1.0, 4.0]))
    tensor(2.)
    """
    reduction = chosen_reduction("mse_loss", size_average, reduce, reduction)
    input, target = _pair("mse_loss", input, target)
    return _distance("mse_loss", input, target, reduction, weight, "squared")


@op(torch="nn.functional.l1_loss")
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|input - target|, element by element."""
    reduction = chosen_reduction("l1_loss", size_average, reduce, reduction)
    input, target = _pair("l1_loss", input, target)
    return _distance("l1_loss", input, target, reduction, weight, "absolute")


@op(torch="nn.functional.smooth_l1_loss")
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d² / (2 beta) for distances d below beta, d - beta / 2 above."""
    reduction = chosen_reduction("smooth_l1_loss", size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss: beta {beta}; smooth_l1_loss does not support negative values for beta.")
    input, target = _pair("smooth_l1_loss", input, target)
    how = ("huber", beta, 1.0) if beta else ("absolute",)
    return _distance("smooth_l1_loss", input, target, reduction, None, *how)


@op(torch="nn.functional.huber_loss")
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d² / 2 for distances d up to delta, delta (d - delta / 2) above."""
    reduction = chosen_reduction("huber_loss", None, None, reduction)
    if delta <= 0:
        raise RuntimeError(f"huber_loss: delta {delta}; huber_loss does not support non-positive values for delta.")
    input, target = _pair("huber_loss", input, target)
    if weight is None:
        return _distance("huber_loss", input, target, reduction, None, "huber", delta, delta)
    loss = _distance("huber_loss", input, target, "none", _sized("huber_loss", weight, input), "huber", delta, delta)
    return reduced_loss(loss, reduction)  # the mean stays that of the elements, unlike mse_loss's


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


mse_loss.ref(
    lambda input, target, reduction="mean", weight=None: _mean_ref(
        input**2 - 2 * input * target + target**2, reduction, weight
    )
)
l1_loss.ref(
    lambda input, target, reduction="mean", weight=None: _mean_ref(
        np.maximum(input, target) - np.minimum(input, target), reduction, weight
    )
)


def _huber_ref(input, target, reduction="mean", delta=1.0, weight=1.0):
    d = np.sqrt((input - target) ** 2)
    near = np.minimum(d, delta)  # the integral of a slope that grows to delta and stays
    return _mean_ref((near**2 / 2 + delta * (d - near)) * weight, reduction)


huber_loss.ref(_huber_ref)
smooth_l1_loss.ref(
    lambda input, target, reduction="mean", beta=1.0: (
        _mean_ref(abs(input - target), reduction) if not beta else _huber_ref(input, target, reduction, beta) / beta
    )
)


# ---- yes or no
@primitive(name="bce", elementwise=True, signals=True, torch=None)
def bce_p(xp, x, t, out):
    """-(t log(x) + (1 - t) log(1 - x)), the logarithms no less than -100. x and t lie between 0 and 1."""
    for a, what in ((x, "input"), (t, "target")):
        if not bool(((a >= 0) & (a <= 1)).all()):
            raise RuntimeError(
                f"binary_cross_entropy: {what} from {a.min()} to {a.max()}; all elements of {what} "
                "should be between 0 and 1"
            )
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
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-(target log(input) + (1 - target) log(1 - input)), from probabilities. ``weight`` multiplies each element."""
    name = "binary_cross_entropy"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    if input._spec.shape != target._spec.shape:
        raise ShapeError(
            f"{name}: input {input._spec.shape} and target {target._spec.shape}; please ensure they have the same size"
        )
    if not input._spec.dtype.is_floating_point or target._spec.dtype is not input._spec.dtype:
        raise DTypeError(
            f"{name}: input is {input._spec.dtype.name} and target {target._spec.dtype.name}; wanted one "
            "floating-point dtype (found dtype but expected)"
        )
    loss = bce_p(input, target)
    return reduced_loss(loss if weight is None else loss * weight, reduction)


@op(torch="nn.functional.binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """``binary_cross_entropy`` of sigmoid(input), without overflow. ``pos_weight`` multiplies the targets' share.

    >>> import tensorlite as tl
    >>> tl.nn.functional.binary_cross_entropy_with_logits(tl.tensor([0.0, 100.0]), tl.tensor([0.0, 1.0]))
    tensor(0.3466)
    """
    name = "binary_cross_entropy_with_logits"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    if input._spec.shape != target._spec.shape:
        raise ShapeError(
            f"{name}: target size {list(target._spec.shape)} must be the same as input size {list(input._spec.shape)}"
        )
    if not target._spec.dtype.is_floating_point:
        raise DTypeError(
            f"{name}: target is {target._spec.dtype.name}; wanted a floating-point dtype (result type "
            "Float can't be cast)"
        )
    if pos_weight is None and target._spec.dtype is input._spec.dtype:
        how = dict(kind="logits", bound=0.0, steep=0.0)
        if weight is None:
            return pointwise_loss_p(input, target, **how, reduction=reduction)
        return reduced_loss(pointwise_loss_p(input, target, **how, reduction="none") * weight, reduction)
    # (1 - t) x + (1 + (p - 1) t) log(1 + exp(-x))
    logs = logsigmoid_p(input)
    if pos_weight is not None:
        if broadcast(name, input._spec.shape, pos_weight._spec.shape) != input._spec.shape:
            raise ShapeError(
                f"{name}: pos_weight {pos_weight._spec.shape}; wanted a shape that stretches to {input._spec.shape}"
            )
        logs = logs * ((pos_weight - 1.0) * target + 1.0)
    loss = (1.0 - target) * input - logs
    return reduced_loss(loss if weight is None else loss * weight, reduction)


@binary_cross_entropy.cases
def _(make):
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4, low=0.05, high=0.95), target=make(3, 4, low=0.05, high=0.95), reduction=reduction)
    yield dict(
        input=make(3, 4, low=0.05, high=0.95), target=make(3, 4, low=0.05, high=0.95), weight=sample_weights(make, 4)
    )
    yield dict(input=make(0), target=make(0), reduction="sum")
    yield RuntimeError, dict(input=make(3, low=1.5), target=make(3, low=0.0, high=1.0))
    yield RuntimeError, dict(input=make(3, low=0.0, high=1.0), target=make(3, low=1.5))
    yield ValueError, dict(input=make(3, 4, low=0.0, high=1.0), target=make(4, low=0.0, high=1.0))
    yield RuntimeError, dict(input=make(3, low=0.0, high=1.0), target=make.ints(3, high=2))


@binary_cross_entropy_with_logits.cases
def _(make):
    for reduction in ("mean", "sum", "none"):
        yield dict(input=make(3, 4), target=make(3, 4, low=0.0, high=1.0), reduction=reduction)
        yield dict(
            input=make(3, 4),
            target=make(3, 4, low=0.0, high=1.0),
            weight=sample_weights(make, 4),
            pos_weight=sample_weights(make, 4),
            reduction=reduction,
        )
    yield dict(input=make.tensor([-800.0, 800.0, 800.0]), target=make.tensor([0.0, 1.0, 0.5]))
    yield dict(input=make(0), target=make(0), reduction="sum")
    yield ValueError, dict(input=make(3, 4), target=make(4))
    yield RuntimeError, dict(input=make(3, 4), target=make(3, 4), pos_weight=make(3))
    yield RuntimeError, dict(input=make(3), target=make.ints(3))


def _weighed_ref(losses, reduction, weight):
    return _mean_ref(losses if weight is None else losses * weight, reduction)


binary_cross_entropy.ref(
    lambda input, target, weight=None, reduction="mean": _weighed_ref(
        -np.log(input**target * (1 - input) ** (1 - target)), reduction, weight
    )
)


@binary_cross_entropy_with_logits.ref
def _(input, target, weight=None, reduction="mean", pos_weight=1.0):
    yes, no = np.logaddexp(0, -input), np.logaddexp(0, input)
    return _weighed_ref(yes * target * pos_weight + no * (1 - target), reduction, weight)


# ---- distributions
@op(torch="nn.functional.kl_div")
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target (log(target) - input): the Kullback-Leibler divergence of log-probabilities ``input`` from ``target``.

    ``log_target`` says that target is logarithms too. "batchmean" is the sum over the batch size, which the divergence
    is by definition; "mean" divides by the number of elements.
    """
    reduction = chosen_reduction("kl_div", size_average, reduce, reduction, ("batchmean",))
    if not input._spec.dtype.is_floating_point or not target._spec.dtype.is_floating_point:
        raise DTypeError(
            f"kl_div: got {input._spec.dtype.name} and {target._spec.dtype.name}; integral inputs not supported"
        )
    if log_target:
        loss = exp_p(target) * (target - input)
    else:  # 0 log(0) is 0
        loss = target * (log_p(where_p(target == 0, lift(1.0, target), target)) - input)
    if reduction == "batchmean":
        return sum_all(loss) / input._spec.shape[0] if input._spec.ndim else sum_all(loss)
    return reduced_loss(loss, reduction)


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
