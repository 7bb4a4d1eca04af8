"""Adam and AdamW. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float32
from tensorlite.ops.create import zeros, zeros_like
from tensorlite.ops.update import adam
from tensorlite.optim.optimizer import Optimizer, check, rate, refuse_differentiable, with_gradients


class Adam(Optimizer):
    """Steps of about lr whatever the gradient's size: p = p - lr m / (sqrt(v) + eps) (Kingma and Ba 2015).

    m and v are running means of the gradient and of its square, corrected for their start at zero.

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.ones(1))
    >>> opt = tl.optim.Adam([w], lr=0.25)
    >>> (w * 3).sum().backward()
    >>> opt.step()
    >>> round(w.item(), 4)
    0.75

    Args:
        params: tensors or groups of them.
        lr: the step size.
        betas: how much of m and of v is kept each step.
        eps: added to the root, so that nothing is divided by zero.
        weight_decay: adds this much of the parameter to its gradient, or (``decoupled_weight_decay``, as AdamW) shrinks
            the parameter by lr times this much.
        amsgrad: divide by the greatest v so far.
        maximize: go up instead of down.
        foreach, capturable, fused: taken for PyTorch's sake; every step here is one call for all tensors of a group.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        check("learning rate", lr, lr >= 0.0)
        check("epsilon value", eps, eps >= 0.0)
        check("beta parameter at index 0", betas[0], 0.0 <= betas[0] < 1.0)
        check("beta parameter at index 1", betas[1], 0.0 <= betas[1] < 1.0)
        check("weight_decay value", weight_decay, weight_decay >= 0.0)
        refuse_differentiable(differentiable)
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                maximize=maximize,
                foreach=foreach,
                capturable=capturable,
                differentiable=differentiable,
                fused=fused,
                decoupled_weight_decay=decoupled_weight_decay,
            ),
        )

    def _update(self, group: dict[str, Any]) -> None:
        params, grads = with_gradients(group)
        if not params:
            return
        states = [self._started(p, group["amsgrad"]) for p in params]
        adam(
            params,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["step"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else (),
            lr=rate(group),
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            decoupled=group["decoupled_weight_decay"],
        )

    def _started(self, p: Tensor, amsgrad: bool) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = zeros((), dtype=float32, device=p.device)
            state["exp_avg"] = zeros_like(p, requires_grad=False)
            state["exp_avg_sq"] = zeros_like(p, requires_grad=False)
        if amsgrad and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = zeros_like(p, requires_grad=False)
        return state


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself, apart from the gradient (Loshchilov and Hutter 2019)."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
