"""The activations that kernels do in passing, by name: their ops, gradients, references. Floor 3."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.activation import relu_dx_p, relu_p, sigmoid_p, tanh_p
from tensorlite.ops.slopes import gelu_dx_p, sigmoid_dx_p, tanh_dx_p
from tensorlite.ops.smooth import gelu_p, gelu_slope

GELUS = {"gelu": dict(approximate=False), "gelu_tanh": dict(approximate=True)}  # constants of those named so
OPS: dict[str, Any] = dict(relu=relu_p, tanh=tanh_p, sigmoid=sigmoid_p, gelu=gelu_p, gelu_tanh=gelu_p)
_SLOPES: dict[str, Any] = dict(
    relu=relu_dx_p, tanh=tanh_dx_p, sigmoid=sigmoid_dx_p, gelu=gelu_dx_p, gelu_tanh=gelu_dx_p
)


def check(name: str, act: str, known: Iterable[str] = OPS) -> None:
    if act not in known:
        raise ValueError(f"{name}: act {act!r}; wanted one of {', '.join(known)}")


def apply(xp: Any, act: str, x: Any, out: Any) -> None:
    """The plain forward on arrays; ``out`` may be ``x``."""
    op = OPS[act].op
    if op.ufunc is not None:
        getattr(xp, op.ufunc)(x, out)
    else:
        op.fn(xp, x, out, **GELUS.get(act, {}))


def apply_dx(xp: Any, act: str, dy: Any, s: Any, out: Any) -> None:
    """The plain gradient on arrays: ``s`` is the activation's output, for the gelus its input."""
    _SLOPES[act].op.fn(xp, dy, s, out, **GELUS.get(act, {}))


def run(act: str, x: Tensor) -> Tensor:
    return OPS[act](x, **GELUS.get(act, {}))


def run_dx(act: str, g: Tensor, s: Tensor) -> Tensor:
    """The gradient in one pass, for first order; ``s`` as above."""
    return _SLOPES[act](g, s, **GELUS.get(act, {}))


def exact_dx(act: str, g: Tensor, s: Tensor) -> Tensor:
    """The gradient as a differentiable formula; ``s`` as above."""
    return g * gelu_slope(s, **GELUS[act]) if act in GELUS else OPS[act].op.rules["x"](g, s)


reference: dict[str, Any] = {act: p.op.reference for act, p in OPS.items()}  # of arrays
reference["gelu_tanh"] = partial(gelu_p.op.reference, approximate="tanh")


def reference_dx(act: str, dy: Any, s: Any) -> Any:
    return _SLOPES[act].op.reference(dy, s, **GELUS.get(act, {}))
