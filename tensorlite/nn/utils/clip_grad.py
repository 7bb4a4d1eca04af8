"""Gradients kept within bounds. Floor 5."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.create import tensor
from tensorlite.ops.join import stack


def _gradients(parameters: Any) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in parameters if p.grad is not None]


def _norm(x: Tensor, norm_type: float) -> Tensor:
    """(sum |x| ** norm_type) ** (1 / norm_type), the greatest |x| for inf; half types are summed in float32."""
    x = x.float() if x.dtype.is_half else x
    if norm_type == float("inf"):
        return x.abs().max()
    if norm_type == 2.0:
        return (x * x).sum().sqrt()
    return (x.abs() ** norm_type).sum() ** (1.0 / norm_type)


def get_total_norm(
    tensors: Iterable[Tensor] | Tensor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors, as if they were one vector."""
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not tensors:
        return tensor(0.0)
    kind = tensors[0].dtype
    total = _norm(stack([_norm(t, float(norm_type)) for t in tensors]), float(norm_type)).to(kind)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it "
            "cannot be clipped. To disable this error and scale the gradients by the non-finite norm "
            "anyway, set `error_if_nonfinite=False`"
        )
    return total


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients, in place, so that their norm together is at most max_norm; returns the norm they had."""
    with no_grad():
        grads = _gradients(parameters)
        total = get_total_norm(grads, norm_type, error_if_nonfinite)
        factor = (float(max_norm) / (total + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(factor.to(g.dtype))
        return total


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float, foreach: bool | None = None) -> None:
    """Clamp every element of every gradient, in place, to [-clip_value, clip_value]."""
    with no_grad():
        for g in _gradients(parameters):
            g.clamp_(min=-float(clip_value), max=float(clip_value))
