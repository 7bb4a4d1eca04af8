"""Losses of pairs and triples (rankings, embeddings), of counts and of normal laws; distances. Floor 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite.autograd import recording
from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.dtypes import promote_types
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.choice import clamp_p, minimum, where_p
from tensorlite.ops.functions import exp_p, log_p, sqrt_p
from tensorlite.ops.loss import chosen_reduction, reduced_loss
from tensorlite.ops.reduce import norm
from tensorlite.ops.smooth import logsigmoid_p
from tensorlite.shapes import broadcast, dim_of


def _above_zero(x: Tensor) -> Tensor:
    return clamp_p(x, 0.0, None)


def _where(condition: Tensor, x: Tensor) -> Tensor:
    """x where the condition holds, else 0."""
    return where_p(condition, x, lift(0.0, x))


# ---- distances
@op
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Tensor:
    """The distance, in the ``p`` norm, of each row of x1 (..., P, M) from each of x2 (..., R, M): (..., P, R).

    >>> import tensorlite as tl
    >>> tl.cdist(tl.zeros(1, 2), tl.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[5., 1.]])
    """
    a, b = x1._spec, x2._spec
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"cdist: {a.shape} and {b.shape}; wanted (..., P, M) and (..., R, M)")
    if not a.dtype.is_floating_point or not b.dtype.is_floating_point:
        raise DTypeError(f"cdist: {a.dtype.name} and {b.dtype.name}; cdist only supports floating-point dtypes")
    return norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


@cdist.cases
def _(make):
    yield dict(x1=make(3, 4), x2=make(2, 4))
    yield dict(x1=make(2, 3, 4), x2=make(1, 2, 4), p=1.0)
    yield dict(x1=make(3, 4), x2=make(2, 4), p=3.0)
    yield dict(x1=make(0, 4), x2=make(2, 4))
    yield RuntimeError, dict(x1=make(3, 4), x2=make(2, 3))
    yield RuntimeError, dict(x1=make(3), x2=make(3))


@cdist.ref
def _(x1, x2, p=2.0):
    gap = np.abs(x1[..., :, None, :] - x2[..., None, :, :])
    return (gap**p).sum(-1) ** (1 / p)


@op
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """sum(x1 x2) / (|x1| |x2|) along ``dim``: the cosine of the angle; lengths below eps count as eps.

    >>> import tensorlite as tl
    >>> tl.cosine_similarity(tl.tensor([[1.0, 0.0]]), tl.tensor([[1.0, 1.0]]))
    tensor([0.7071])
    """
    common = promote_types(x1.dtype, x2.dtype)
    if not common.is_floating_point:
        raise DTypeError(f"cosine_similarity: got {common}; expected common dtype to be floating point")
    a, b = x1.to(common), x2.to(common)
    shape = broadcast("cosine_similarity", a._spec.shape, b._spec.shape)
    at = dim_of("cosine_similarity", dim, len(shape)) - len(shape)  # from the end: both may have fewer dimensions
    a, b = (t if t._spec.shape == shape else t.broadcast_to(shape) for t in (a, b))
    length_a, length_b = (sqrt_p(clamp_p((t * t).sum(at), eps * eps, None)) for t in (a, b))
    return (a * b).sum(at) / (length_a * length_b)


@cosine_similarity.cases
def _(make):
    yield dict(x1=make(3, 4), x2=make(3, 4))
    yield dict(x1=make(3, 4, 2), x2=make(3, 4, 2), dim=-1)
    yield dict(x1=make(4), x2=make(4), dim=0, eps=1e-3)
    yield dict(x1=make(3, 4), x2=make(4))
    yield dict(x1=make(0, 4), x2=make(0, 4))
    yield RuntimeError, dict(x1=make(3, 4), x2=make(3, 5))
    yield RuntimeError, dict(x1=make.ints(3, 4), x2=make.ints(3, 4))
    yield IndexError, dict(x1=make(4), x2=make(4))


@cosine_similarity.ref
def _(x1, x2, dim=1, eps=1e-8):
    a, b = np.broadcast_arrays(x1, x2)
    return (a * b).sum(dim) / (np.linalg.norm(a, axis=dim) * np.linalg.norm(b, axis=dim))


@op(torch="nn.functional.pairwise_distance")
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last dimension.

    >>> import tensorlite as tl
    >>> tl.pairwise_distance(tl.zeros(1, 2), tl.tensor([[3.0, 4.0]]))
    tensor([5.0000])
    """
    return norm(x1 - x2 + eps, float(p), -1, keepdim)


@pairwise_distance.cases
def _(make):
    yield dict(x1=make(3, 4), x2=make(3, 4))
    yield dict(x1=make.distinct(3, 4), x2=make.tensor(0.1), p=1.0)
    yield dict(x1=make(2, 3, 4), x2=make(4), p=3.0, keepdim=True)
    yield dict(x1=make(4), x2=make(4), eps=0.1)
    yield RuntimeError, dict(x1=make(3, 4), x2=make(3, 5))


pairwise_distance.ref(
    lambda x1, x2, p=2.0, eps=1e-6, keepdim=False: (abs(x1 - x2 + eps) ** p).sum(-1, keepdims=keepdim) ** (1 / p)
)


# ---- pairs and triples
@op(torch="nn.functional.cosine_embedding_loss")
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos for pairs of target 1, max(cos - margin, 0) for those of target -1.  input (N, D), target (N,)."""
    name = "cosine_embedding_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    n = target._spec.ndim
    if n not in (0, 1) or input1._spec.ndim != n + 1 or input2._spec.ndim != n + 1:
        raise ShapeError(
            f"{name}: inputs {input1._spec.shape} and {input2._spec.shape} for target {target._spec.shape}; 0D or 1D "
            "target tensor expected, and inputs of one dimension more"
        )
    tiny = 1e-12
    lengths = sqrt_p(((input1 * input1).sum(n) + tiny) * ((input2 * input2).sum(n) + tiny))
    cosine = (input1 * input2).sum(n) / lengths
    loss = _where(target == 1, 1.0 - cosine) + _where(target == -1, _above_zero(cosine - margin))
    return reduced_loss(loss, reduction)


@op(torch="nn.functional.margin_ranking_loss")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """max(margin - target (input1 - input2), 0): target 1 says that input1 should be the larger, -1 the smaller."""
    name = "margin_ranking_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    if not input1._spec.ndim == input2._spec.ndim == target._spec.ndim:
        raise ShapeError(
            f"{name}: {input1._spec.shape}, {input2._spec.shape}, {target._spec.shape}; all input tensors should have "
            "same dimension"
        )
    return reduced_loss(_above_zero(margin - target * (input1 - input2)), reduction)


@op(torch="nn.functional.triplet_margin_loss")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """max(|anchor - positive| - |anchor - negative| + margin, 0), in p-norms over the last dimension.

    ``swap`` takes |positive - negative| for the second where that is smaller.
    """
    name = "triplet_margin_loss"
    reduction = chosen_reduction(name, size_average, reduce, reduction)
    if margin <= 0:
        raise ValueError(f"{name}: margin {margin}; margin must be greater than 0")
    if not anchor._spec.ndim == positive._spec.ndim == negative._spec.ndim:
        raise ShapeError(
            f"{name}: {anchor._spec.shape}, {positive._spec.shape}, {negative._spec.shape}; the anchor, positive and "
            "negative tensors are expected to have the same number of dimensions"
        )
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced_loss(_above_zero(near - far + margin), reduction)


@op(torch="nn.functional.hinge_embedding_loss")
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """input where target is 1, max(margin - input, 0) where it is -1."""
    reduction = chosen_reduction("hinge_embedding_loss", size_average, reduce, reduction)
    loss = _where(target != 1, _above_zero(margin - input)) + _where(target != -1, input)
    return reduced_loss(loss, reduction)


@op(torch="nn.functional.soft_margin_loss")
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """log(1 + exp(-target input)), target being 1 or -1."""
    reduction = chosen_reduction("soft_margin_loss", size_average, reduce, reduction)
    return reduced_loss(-logsigmoid_p(target * input), reduction)


def _signs(make, *shape):
    return make.tensor(np.where(make.bools(*shape).numpy(), 1.0, -1.0)).detach()


def _reductions(given):
    for reduction in ("mean", "sum", "none"):
        yield dict(**given(), reduction=reduction)


@cosine_embedding_loss.cases
def _(make):
    def given(**more):
        return dict(input1=make(5, 4), input2=make(5, 4), target=_signs(make, 5), **more)

    yield from _reductions(given)
    yield dict(**given(margin=0.3))
    yield dict(input1=make(4), input2=make(4), target=make.tensor(1.0).detach())
    yield RuntimeError, dict(input1=make(4), input2=make(4), target=_signs(make, 4))
    yield RuntimeError, dict(input1=make(3, 4), input2=make(3, 4), target=_signs(make, 3, 4))


@margin_ranking_loss.cases
def _(make):
    def given(**more):
        return dict(
            input1=make.distinct(3, 4), input2=make(3, 4, low=-0.1, high=0.1), target=_signs(make, 3, 4), **more
        )

    yield from _reductions(given)
    yield dict(**given(margin=0.5))
    yield RuntimeError, dict(input1=make(3, 4), input2=make(3, 4), target=_signs(make, 4))
    yield ValueError, dict(**given(), reduction="average")


@triplet_margin_loss.cases
def _(make):
    def given(**more):
        return dict(anchor=make(5, 4), positive=make(5, 4), negative=make(5, 4), **more)

    yield from _reductions(given)
    yield dict(**given(margin=0.4, swap=True, p=3))
    yield ValueError, dict(**given(margin=0.0))
    yield RuntimeError, dict(anchor=make(5, 4), positive=make(5, 4), negative=make(4))


@hinge_embedding_loss.cases
def _(make):
    def given(**more):
        return dict(input=make.distinct(3, 4), target=_signs(make, 3, 4), **more)

    yield from _reductions(given)
    yield dict(**given(margin=0.6))
    yield ValueError, dict(**given(), reduction="average")


@soft_margin_loss.cases
def _(make):
    yield from _reductions(lambda: dict(input=make(3, 4), target=_signs(make, 3, 4)))
    yield ValueError, dict(input=make(3), target=_signs(make, 3), reduction="average")


def _reduced(losses, reduction):
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


@cosine_embedding_loss.ref
def _(input1, input2, target, margin=0, reduction="mean"):
    cosine = (input1 * input2).sum(-1) / np.linalg.norm(input1, axis=-1) / np.linalg.norm(input2, axis=-1)
    return _reduced(np.where(target == 1, 1 - cosine, np.maximum(cosine - margin, 0)), reduction)


margin_ranking_loss.ref(
    lambda input1, input2, target, margin=0, reduction="mean": _reduced(
        np.maximum(0, np.where(target == 1, input2 - input1, input1 - input2) + margin), reduction
    )
)


@triplet_margin_loss.ref
def _(anchor, positive, negative, margin=1.0, p=2, swap=False, reduction="mean"):
    def distance(a, b):
        return (abs(a - b + 1e-6) ** p).sum(-1) ** (1 / p)

    far = distance(anchor, negative)
    far = np.minimum(far, distance(positive, negative)) if swap else far
    return _reduced(np.maximum(distance(anchor, positive) - far + margin, 0), reduction)


hinge_embedding_loss.ref(
    lambda input, target, margin=1.0, reduction="mean": _reduced(
        np.where(target == 1, input, np.maximum(0, margin - input)), reduction
    )
)
soft_margin_loss.ref(lambda input, target, reduction="mean": _reduced(np.logaddexp(0, -target * input), reduction))


# ---- of a law's parameters
@op(torch="nn.functional.gaussian_nll_loss")
def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Any,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log(var) + (input - target)² / var) / 2: -log of a normal density, without its constant unless ``full``.

    ``var`` is a number or a tensor of input's shape, which may lack the last dimension or have size 1 in one. Values
    below eps count as eps, with the gradient as if they did not. Negative ones are refused, but count as eps in a
    compiled function, which reads no numbers.
    """
    name, shape = "gaussian_nll_loss", input._spec.shape
    if not isinstance(var, Tensor):
        var = input.new_full(shape, float(var))
    if not recording.active() and bool((var < 0).any()):
        raise ValueError(f"{name}: var from {var.min().item()}; var has negative entry/entries")
    if var._spec.shape != shape:
        own = var._spec.shape
        if own == shape[:-1]:
            var = var.unsqueeze(-1)
        elif len(own) != len(shape) or sum(b for a, b in zip(shape, own) if a != b) != 1:
            raise ShapeError(f"{name}: var {own} for input {shape}; var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name}: reduction {reduction!r}; {reduction} is not valid, wanted none, mean or sum")
    var = var + (clamp_p(var, eps, None) - var).detach()
    off = input - target
    loss = (log_p(var) + off * off / var) * 0.5
    return reduced_loss(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


@op(torch="nn.functional.poisson_nll_loss")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """exp(input) - target input, from the logarithm of a Poisson law's mean.

    Without ``log_input`` from the mean itself: input - target log(input + eps). ``full`` adds Stirling's approximation
    of log(target!) for targets above 1.
    """
    reduction = chosen_reduction("poisson_nll_loss", size_average, reduce, reduction)
    loss = exp_p(input) - target * input if log_input else input - target * log_p(input + eps)
    if full:
        many = target > 1
        t = where_p(many, target, lift(1.0, target))
        loss = loss + _where(many, t * log_p(t) - t + log_p(t * (2 * math.pi)) * 0.5)
    return reduced_loss(loss, reduction)


@gaussian_nll_loss.cases
def _(make):
    def given(*shape):
        return dict(input=make(3, 4), target=make(3, 4), var=make(*shape, low=0.2))

    yield from _reductions(lambda: given(3, 4))
    yield dict(**given(3), full=True)
    yield dict(**given(3, 1))
    yield dict(**given(1, 4))
    yield dict(input=make(3, 4), target=make(3, 4), var=0.7)
    yield ValueError, dict(**given(2, 4))
    yield ValueError, dict(input=make(3), target=make(3), var=-1.0)
    yield ValueError, dict(input=make(3), target=make(3), var=make(3, low=-2, high=-1))
    yield ValueError, dict(**given(3, 4), reduction="average")


@poisson_nll_loss.cases
def _(make):
    yield from _reductions(lambda: dict(input=make(3, 4), target=make(3, 4, low=0.1, high=4)))
    yield dict(input=make(3, 4, low=0.1), target=make(3, 4, low=0.1, high=4), log_input=False)
    yield dict(input=make(3, 4), target=make(3, 4, low=0.1, high=4), full=True)
    yield ValueError, dict(input=make(3), target=make(3), reduction="average")


@gaussian_nll_loss.ref
def _(input, target, var, full=False, eps=1e-6, reduction="mean"):
    var = np.asarray(var, float)
    var = var[:, None] if var.shape == input.shape[:-1] else var
    density = np.exp(-((input - target) ** 2) / (2 * var)) / np.sqrt(var * (2 * np.pi if full else 1))
    return _reduced(-np.log(density), reduction)


@poisson_nll_loss.ref
def _(input, target, log_input=True, full=False, reduction="mean"):
    loss = np.exp(input) - target * input if log_input else input - target * np.log(input + 1e-8)
    stirling = np.log(np.sqrt(2 * np.pi * target) * (target / np.e) ** target)
    return _reduced(loss + np.where(target > 1, stirling, 0) if full else loss, reduction)
