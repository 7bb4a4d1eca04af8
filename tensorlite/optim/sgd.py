"""Stochastic gradient descent. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.create import zeros_like
from tensorlite.ops.update import sgd
from tensorlite.optim.optimizer import Optimizer, check, rate, refuse_differentiable, with_gradients


class SGD(Optimizer):
    """p = p - lr d, where d is the gradient plus weight_decay p, or with momentum a running sum of such gradients.

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.ones(1))
    >>> opt = tl.optim.SGD([w], lr=0.5)
    >>> (w * 3).sum().backward()
    >>> opt.step()
    >>> w.item()
    -0.5

    Args:
        params: tensors or groups of them.
        lr: the step size.
        momentum: how much of the running sum is kept.
        dampening: how much of a new gradient is left out of the running sum.
        weight_decay: adds this much of the parameter to its gradient.
        nesterov: look one step ahead; needs momentum and no dampening.
        maximize: go up instead of down.
        foreach, fused: taken for PyTorch's sake; every step here is one call for all tensors of a group.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        check("learning rate", lr, lr >= 0.0)
        check("momentum value", momentum, momentum >= 0.0)
        check("weight_decay value", weight_decay, weight_decay >= 0.0)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        refuse_differentiable(differentiable)
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                dampening=dampening,
                weight_decay=weight_decay,
                nesterov=nesterov,
                maximize=maximize,
                foreach=foreach,
                differentiable=differentiable,
                fused=fused,
            ),
        )

    def _update(self, group: dict[str, Any]) -> None:
        params, grads = with_gradients(group)
        settings = dict(
            lr=rate(group),
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=float(group["weight_decay"]),
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if not group["momentum"]:
            if params:
                sgd(params, grads, **settings)
            return
        states = [self.state[p] for p in params]
        fresh = [s.get("momentum_buffer") is None for s in states]
        for p, s, new in zip(params, states, fresh):
            if new:
                s["momentum_buffer"] = zeros_like(p, requires_grad=False)
        # a first buffer is the gradient itself: without dampening the formula gives that from zeros
        for first in (False, True) if group["dampening"] else (False,):
            take = [k for k in range(len(params)) if not group["dampening"] or fresh[k] is first]
            if take:
                sgd(
                    [params[k] for k in take],
                    [grads[k] for k in take],
                    [states[k]["momentum_buffer"] for k in take],
                    first=first,
                    **settings,
                )
