"""Optimizers that measure the gradient's size: RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam. Floor 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float32
from tensorlite.ops import adaptive
from tensorlite.ops.create import full, full_like
from tensorlite.optim.optimizer import Optimizer, check, rate, refuse_differentiable, with_gradients


class _Adaptive(Optimizer):
    """``rows`` says which state goes to which row of the update; the settings that it takes have the same names."""

    update: Callable
    rows: dict[str, str]
    constants: tuple[str, ...]

    def __init__(self, params: Any, settings: dict[str, Any]):
        check("learning rate", settings["lr"], settings["lr"] >= 0.0)
        check("epsilon value", settings["eps"], settings["eps"] >= 0.0)
        check("weight_decay value", settings["weight_decay"], settings["weight_decay"] >= 0.0)
        for k, beta in enumerate(settings.get("betas", ())):
            check(f"beta parameter at index {k}", beta, 0.0 <= beta < 1.0)
        refuse_differentiable(settings["differentiable"])
        super().__init__(params, settings)

    def _kept(self, group: dict[str, Any]) -> dict[str, str]:
        """The rows of this group: name in the update -> name in the state."""
        return self.rows

    def _first(self, name: str) -> float:
        """What a state is at the start."""
        return 0.0

    def _update(self, group: dict[str, Any]) -> None:
        params, grads = with_gradients(group)
        if not params:
            return
        rows = self._kept(group) | {"steps": "step"}
        for p in params:
            state = self.state[p]
            for row, name in rows.items():
                if name not in state:
                    first = self._first(name)
                    single = row in ("steps", "mu_products")
                    state[name] = (
                        full((), first, dtype=float32, device=p.device)
                        if single
                        else full_like(p, first, requires_grad=False)
                    )
        type(self).update(
            params,
            grads,
            lr=rate(group),
            **{row: [self.state[p][name] for p in params] for row, name in rows.items()},
            **{name: group[setting] for name, setting in self._constants()},
        )

    def _constants(self) -> list[tuple[str, str]]:
        return [("decoupled" if c == "decoupled_weight_decay" else c, c) for c in self.constants]


_MORE = """
    Args:
        params: tensors or groups of them.
        lr: the step size.
        weight_decay: adds this much of the parameter to its gradient.
        maximize: go up instead of down.
        foreach, capturable, fused: taken for PyTorch's sake; every step here is one call for all tensors of a group.
"""


class RMSprop(_Adaptive):
    """p = p - lr g / (sqrt(v) + eps), v being a running mean of the squared gradient (Hinton 2012).

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.ones(1))
    >>> opt = tl.optim.RMSprop([w], lr=0.01, alpha=0.75)
    >>> (w * 3).sum().backward()
    >>> opt.step()
    >>> round(w.item(), 4)
    0.98
    """

    update = staticmethod(adaptive.rmsprop)
    constants = ("alpha", "eps", "weight_decay", "momentum", "centered", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        check("momentum value", momentum, momentum >= 0.0)
        check("alpha value", alpha, alpha >= 0.0)
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                alpha=alpha,
                eps=eps,
                centered=centered,
                weight_decay=weight_decay,
                capturable=capturable,
                foreach=foreach,
                maximize=maximize,
                differentiable=differentiable,
            ),
        )

    def _kept(self, group: dict[str, Any]) -> dict[str, str]:
        rows = {"square_avgs": "square_avg"}
        if group["momentum"] > 0:
            rows["momentum_buffers"] = "momentum_buffer"
        if group["centered"]:
            rows["grad_avgs"] = "grad_avg"
        return rows


class Adagrad(_Adaptive):
    """p = p - lr g / (sqrt(s) + eps), s being the sum of all squared gradients (Duchi, Hazan and Singer 2011).

    lr falls as lr / (1 + (t - 1) lr_decay); s begins at ``initial_accumulator_value``.
    """

    update = staticmethod(adaptive.adagrad)
    rows = {"state_sums": "sum"}
    constants = ("lr_decay", "weight_decay", "eps", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        check("lr_decay value", lr_decay, lr_decay >= 0.0)
        check("initial_accumulator_value value", initial_accumulator_value, initial_accumulator_value >= 0.0)
        super().__init__(
            params,
            dict(
                lr=lr,
                lr_decay=lr_decay,
                eps=eps,
                weight_decay=weight_decay,
                initial_accumulator_value=initial_accumulator_value,
                foreach=foreach,
                maximize=maximize,
                differentiable=differentiable,
                fused=fused,
            ),
        )

    def _first(self, name: str) -> float:
        return self.defaults["initial_accumulator_value"] if name == "sum" else 0.0


class Adadelta(_Adaptive):
    """Steps as large as the last ones were: p = p - lr g sqrt(a + eps) / sqrt(v + eps) (Zeiler 2012).

    v and a are running means of the squared gradient and of the squared step; rho is how much of them is kept.
    """

    update = staticmethod(adaptive.adadelta)
    rows = {"square_avgs": "square_avg", "acc_deltas": "acc_delta"}
    constants = ("rho", "eps", "weight_decay", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        check("rho value", rho, 0.0 <= rho <= 1.0)
        super().__init__(
            params,
            dict(
                lr=lr,
                rho=rho,
                eps=eps,
                weight_decay=weight_decay,
                maximize=maximize,
                capturable=capturable,
                foreach=foreach,
                differentiable=differentiable,
            ),
        )


class Adamax(_Adaptive):
    """Adam with the greatest gradient of late, which fades by betas[1], in place of the root (Kingma and Ba 2015)."""

    update = staticmethod(adaptive.adamax)
    rows = {"exp_avgs": "exp_avg", "exp_infs": "exp_inf"}
    constants = ("betas", "eps", "weight_decay", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                foreach=foreach,
                maximize=maximize,
                differentiable=differentiable,
                capturable=capturable,
            ),
        )


class NAdam(_Adaptive):
    """Adam that looks one step ahead, with a momentum that grows over the steps (Dozat 2016).

    ``decoupled_weight_decay`` shrinks the parameter itself by lr * weight_decay instead.
    """

    update = staticmethod(adaptive.nadam)
    rows = {"exp_avgs": "exp_avg", "exp_avg_sqs": "exp_avg_sq", "mu_products": "mu_product"}
    constants = ("betas", "eps", "weight_decay", "momentum_decay", "decoupled_weight_decay", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        check("momentum_decay value", momentum_decay, momentum_decay >= 0.0)
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                momentum_decay=momentum_decay,
                decoupled_weight_decay=decoupled_weight_decay,
                maximize=maximize,
                foreach=foreach,
                capturable=capturable,
                differentiable=differentiable,
            ),
        )

    def _first(self, name: str) -> float:
        return 1.0 if name == "mu_product" else 0.0


class RAdam(_Adaptive):
    """Adam whose first steps are plain momentum, until enough squares were seen to divide by (Liu et al. 2020).

    ``decoupled_weight_decay`` shrinks the parameter itself by lr * weight_decay instead.
    """

    update = staticmethod(adaptive.radam)
    rows = {"exp_avgs": "exp_avg", "exp_avg_sqs": "exp_avg_sq"}
    constants = ("betas", "eps", "weight_decay", "decoupled_weight_decay", "maximize")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                maximize=maximize,
                foreach=foreach,
                capturable=capturable,
                decoupled_weight_decay=decoupled_weight_decay,
                differentiable=differentiable,
            ),
        )


for _optimizer in (RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam):
    _optimizer.__doc__ = f"{_optimizer.__doc__}{_MORE}"
