"""Steps of the other optimizers, as update.py's: rmsprop, adagrad, adadelta, adamax, nadam, radam. Floor 3.

Each takes rows of tensors, parameters and gradients first and step counts last, and writes all but the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.update import (
    PIECE,
    SINGLE,
    as_data,
    by_rows,
    check_table,
    lists,
    pieces,
    sample_table,
    table_of,
    written,
)


def _rows(*states: str, **where: str) -> Callable[..., tuple[str, ...]]:
    """The kinds of rows that a call with given constants has; ``where`` says which constant brings which kind."""

    def kinds(**constants: Any) -> tuple[str, ...]:
        more = (kind for name, kind in where.items() if constants[name])
        return ("params", "grads", *(s for s in states if s not in SINGLE), *more, *(s for s in states if s in SINGLE))

    return kinds


def _writes(kinds: Callable) -> Callable[..., tuple[int, ...]]:
    def writes(count: int, **constants: Any) -> tuple[int, ...]:
        n = len(kinds(**constants))
        return written((0, *range(2, n)), n, count)

    return writes


def _declare(p: Any, kinds: Callable, torch: Callable, **defaults: Any) -> Any:
    """The law, the compiled step, the public function and PyTorch's counterpart of one of the steps."""
    name = p.op.name
    p.nograd()
    singles = sum(kind in SINGLE for kind in kinds(**{"momentum": 0, "centered": False}))
    by_rows(p, name, lambda **constants: len(kinds(**constants)), singles)

    @p.spec
    def _(lr, *tensors, **constants):
        return check_table(name, kinds(**constants), lr, tensors)

    def step(params: Sequence[Tensor], grads: Sequence[Tensor], *, lr: Any, **given: Any) -> tuple[Tensor, ...]:
        constants = {k: given.pop(k, v) for k, v in defaults.items()}
        order = kinds(**constants)
        if unknown := set(given) ^ set(order[2:]):
            raise TypeError(f"{name}: rows {sorted(unknown)} are missing or not wanted; wanted {', '.join(order[2:])}")
        rows = [params, grads, *(given[kind] for kind in order[2:])]
        p(as_data(lr), *lists(name, *rows), **constants)
        return tuple(t for row in (rows[0], *rows[2:]) for t in row)

    def theirs(library, params, grads, *, lr, **given):
        constants = {k: given.pop(k, v) for k, v in defaults.items()}
        torch(import_module(f"torch.optim.{name}"), params, grads, given, dict(constants, lr=lr, foreach=False))
        return tuple(t for row in (params, *(given[kind] for kind in kinds(**constants)[2:])) for t in row)

    step.__name__ = step.__qualname__ = name
    step.__doc__ = f"{p.op.doc}\n\nIn place; what was written is returned: parameters, then the states."
    p.op.torch = theirs
    return face(p)(step)


def _each(
    xp: Any, tensors: tuple, kinds: tuple, weight_decay: float, maximize: bool, shrink: float = 0.0
) -> Iterator[tuple]:
    """(step count, further single states, parameter, gradient, its states) piece by piece; counts are raised by 1.

    ``shrink`` is what decoupled weight decay takes away from the parameter, ``weight_decay`` what is added to the
    gradient. The gradient may be written to.
    """
    tensors = table_of(tensors, len(kinds)) or ()
    n, single = len(tensors) // len(kinds), sum(kind in SINGLE for kind in kinds)
    ends = len(tensors) - n * single
    tensors, ones = tensors[:ends], tensors[ends:]
    for t in ones[len(ones) - n :]:
        t += 1
    for k, (p, g, *states) in pieces(tensors, n):
        g = xp.negative(g) if maximize else g.copy()
        if shrink:
            xp.multiply(p, 1 - shrink, p)
        if weight_decay:
            xp.add(g, p * weight_decay, g)
        yield k, float(ones[len(ones) - n + k]), p, g, states


def _blend(xp: Any, a: Any, b: Any, keep: float) -> None:
    """a = keep a + (1 - keep) b, by way of the difference: exact where the two are equal."""
    xp.add(a, (b - a) * (1 - keep), a)


def _squares(xp: Any, v: Any, g: Any, keep: float) -> None:
    """v = keep v + (1 - keep) g g."""
    xp.multiply(v, keep, v)
    xp.add(v, g * g * (1 - keep), v)


def _down(xp: Any, p: Any, direction: Any, rate: float) -> None:
    """p = p - rate direction."""
    xp.subtract(p, direction * rate, p)


# ---- RMSprop
_RMSPROP = _rows("square_avgs", "steps", centered="grad_avgs", momentum="momentum_buffers")


@primitive(name="rmsprop", mutates=_writes(_RMSPROP))
def rmsprop_p(xp, lr, *tensors, alpha, eps, weight_decay, momentum, centered, maximize):
    """v = alpha v + (1 - alpha) g g;  p = p - lr g / (sqrt(v) + eps), with momentum through a running sum.

    ``centered`` takes v less the square of the running mean of g for v.
    """
    kinds = _RMSPROP(momentum=momentum, centered=centered)
    for _, _, p, g, (v, *rest) in _each(xp, tensors, kinds, weight_decay, maximize):
        _squares(xp, v, g, alpha)
        if centered:
            _blend(xp, rest[0], g, alpha)
            v = v - rest[0] * rest[0]
        xp.divide(g, xp.sqrt(v) + eps, g)
        if momentum:
            xp.multiply(rest[-1], momentum, rest[-1])
            g = xp.add(rest[-1], g, rest[-1])
        _down(xp, p, g, float(lr))


rmsprop = _declare(
    rmsprop_p,
    _RMSPROP,
    lambda m, p, g, s, how: m.rmsprop(
        p, g, s["square_avgs"], s.get("grad_avgs", []), s.get("momentum_buffers", []), s["steps"], **how
    ),
    alpha=0.99,
    eps=1e-8,
    weight_decay=0.0,
    momentum=0.0,
    centered=False,
    maximize=False,
)

# ---- Adagrad
_ADAGRAD = _rows("state_sums", "steps")


@primitive(name="adagrad", mutates=_writes(_ADAGRAD))
def adagrad_p(xp, lr, *tensors, lr_decay, weight_decay, eps, maximize):
    """s = s + g g;  p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)."""
    for _, t, p, g, (s,) in _each(xp, tensors, _ADAGRAD(), weight_decay, maximize):
        xp.add(s, g * g, s)
        _down(xp, p, g / (xp.sqrt(s) + eps), float(lr) / (1 + (t - 1) * lr_decay))


adagrad = _declare(
    adagrad_p,
    _ADAGRAD,
    lambda m, p, g, s, how: m.adagrad(p, g, s["state_sums"], s["steps"], **how),
    lr_decay=0.0,
    weight_decay=0.0,
    eps=1e-10,
    maximize=False,
)

# ---- Adadelta
_ADADELTA = _rows("square_avgs", "acc_deltas", "steps")


@primitive(name="adadelta", mutates=_writes(_ADADELTA))
def adadelta_p(xp, lr, *tensors, rho, eps, weight_decay, maximize):
    """v = rho v + (1 - rho) g g;  d = g sqrt(a + eps) / sqrt(v + eps);  a = rho a + (1 - rho) d d;  p = p - lr d."""
    for _, _, p, g, (v, a) in _each(xp, tensors, _ADADELTA(), weight_decay, maximize):
        _squares(xp, v, g, rho)
        d = xp.sqrt(a + eps) / xp.sqrt(v + eps) * g
        _squares(xp, a, d, rho)
        _down(xp, p, d, float(lr))


adadelta = _declare(
    adadelta_p,
    _ADADELTA,
    lambda m, p, g, s, how: m.adadelta(p, g, s["square_avgs"], s["acc_deltas"], s["steps"], **how),
    rho=0.9,
    eps=1e-6,
    weight_decay=0.0,
    maximize=False,
)

# ---- Adamax
_ADAMAX = _rows("exp_avgs", "exp_infs", "steps")


@primitive(name="adamax", mutates=_writes(_ADAMAX))
def adamax_p(xp, lr, *tensors, betas, eps, weight_decay, maximize):
    """m = m + (1 - b1) (g - m);  u = max(b2 u, |g| + eps);  p = p - lr / (1 - b1^t) m / u."""
    for _, t, p, g, (m, u) in _each(xp, tensors, _ADAMAX(), weight_decay, maximize):
        _blend(xp, m, g, betas[0])
        xp.maximum(u * betas[1], xp.abs(g) + eps, out=u)
        _down(xp, p, m / u, float(lr) / (1 - betas[0] ** t))


def _split_betas(how: dict) -> dict:
    beta1, beta2 = how.pop("betas")
    return dict(how, beta1=beta1, beta2=beta2)


adamax = _declare(
    adamax_p,
    _ADAMAX,
    lambda m, p, g, s, how: m.adamax(p, g, s["exp_avgs"], s["exp_infs"], s["steps"], **_split_betas(how)),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    maximize=False,
)

# ---- NAdam
_NADAM = _rows("exp_avgs", "exp_avg_sqs", "mu_products", "steps")


@primitive(name="nadam", mutates=_writes(_NADAM))
def nadam_p(xp, lr, *tensors, betas, eps, weight_decay, momentum_decay, decoupled, maximize):
    """Adam with Nesterov's look ahead: mu_t = b1 (1 - 0.96^(t momentum_decay) / 2), M the product of all so far;

    p = p - lr ((1 - mu_t) / (1 - M) g + mu_{t+1} / (1 - M mu_{t+1}) m) / (sqrt(v / (1 - b2^t)) + eps).
    """
    rate, (beta1, beta2), n = float(lr), betas, len(tensors) // 6
    products = tensors[4 * n : 5 * n]
    add, shrink = (0.0, rate * weight_decay) if decoupled else (weight_decay, 0.0)

    def mu(t: float) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    moved = set()
    for k, t, p, g, (m, v) in _each(xp, tensors, _NADAM(), add, maximize, shrink):
        if k not in moved:
            moved.add(k)
            products[k][...] *= mu(t)
        product, ahead = float(products[k]), mu(t + 1)
        _blend(xp, m, g, beta1)
        _squares(xp, v, g, beta2)
        size = xp.sqrt(v / (1 - beta2**t)) + eps
        _down(xp, p, g / size, rate * (1 - mu(t)) / (1 - product))
        _down(xp, p, m / size, rate * ahead / (1 - product * ahead))


def _decoupling(how: dict) -> dict:
    how["decoupled_weight_decay"] = how.pop("decoupled")
    return _split_betas(how)


nadam = _declare(
    nadam_p,
    _NADAM,
    lambda m, p, g, s, how: m.nadam(
        p, g, s["exp_avgs"], s["exp_avg_sqs"], s["mu_products"], s["steps"], **_decoupling(how)
    ),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    momentum_decay=4e-3,
    decoupled=False,
    maximize=False,
)

# ---- RAdam
_RADAM = _rows("exp_avgs", "exp_avg_sqs", "steps")


def _rectification(t: float, beta2: float) -> float | None:
    """By how much the step is damped while few squares have been seen; None while they are too few to divide by."""
    most = 2 / (1 - beta2) - 1
    seen = most - 2 * t * beta2**t / (1 - beta2**t)
    if seen <= 5:
        return None
    return ((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen)) ** 0.5


@primitive(name="radam", mutates=_writes(_RADAM))
def radam_p(xp, lr, *tensors, betas, eps, weight_decay, decoupled, maximize):
    """Adam whose division by sqrt(v) comes in as v becomes trustworthy; until then p = p - lr m / (1 - b1^t)."""
    rate, (beta1, beta2) = float(lr), betas
    add, shrink = (0.0, rate * weight_decay) if decoupled else (weight_decay, 0.0)
    for _, t, p, g, (m, v) in _each(xp, tensors, _RADAM(), add, maximize, shrink):
        _blend(xp, m, g, beta1)
        _squares(xp, v, g, beta2)
        damped, size = _rectification(t, beta2), rate / (1 - beta1**t)
        if damped is None:
            _down(xp, p, m, size)
        else:
            _down(xp, p, m / (xp.sqrt(v) + eps), size * damped * (1 - beta2**t) ** 0.5)


radam = _declare(
    radam_p,
    _RADAM,
    lambda m, p, g, s, how: m.radam(p, g, s["exp_avgs"], s["exp_avg_sqs"], s["steps"], **_decoupling(how)),
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    decoupled=False,
    maximize=False,
)


# ---- cases and references
def _cases(op: Any, kinds: Callable, *settings: dict) -> None:
    """A step for each of these settings, large and empty tensors, and what is refused."""

    def given(make: Any, how: dict, rows: Callable) -> dict:
        from tensorlite.dtypes import float32

        order = kinds(**{"momentum": 0, "centered": False, **how})
        table: dict = {}
        for kind in order:
            row = rows()
            if kind == "steps":
                row = [make.tensor(float(t), float32) for t in (0, 3, 7)[: len(row)]]
            elif kind == "mu_products":
                row = [make.tensor(v, float32) for v in (1.0, 0.25, 0.125)[: len(row)]]
            elif kind.endswith(("avgs", "sqs", "sums", "deltas", "infs")) and kind not in ("exp_avgs", "grad_avgs"):
                row = [t.abs() + 4.0 for t in row]  # more than the square of any mean
            table[kind] = row
        return dict(**table, lr=0.1, **how)

    @op.cases
    def _(make):
        for how in settings:
            yield given(make, how, lambda: sample_table(make, 1)[0])
        if op is rmsprop:  # one is enough: all go through the same pieces
            yield given(make, {}, lambda: [make(2 * PIECE + 3, low=0.5)])
        yield given(make, {}, lambda: [make(0, 2)])
        yield RuntimeError, dict(given(make, {}, lambda: [make(3)]), grads=[make(2)])
        yield RuntimeError, dict(given(make, {}, lambda: [make(3)]), grads=[])


def _reference(op: Any, kinds: Callable, one: Callable) -> None:
    """``one(p, g, t, states, constants)`` gives the new parameter and states of one parameter, counts apart."""

    @op.ref
    def _(params, grads, *, lr, maximize=False, weight_decay=0.0, decoupled=False, **given):
        order = kinds(**{"momentum": 0, "centered": False, **given})[2:]
        moved = []
        for k, p in enumerate(params):
            g = np.where(maximize, -1.0, 1.0) * grads[k] + (0 if decoupled else weight_decay) * p
            p = p * (1 - lr * weight_decay) if decoupled else p
            t = float(given["steps"][k]) + 1
            moved.append((*one(p, g, t, lr, *(given[kind][k] for kind in order[:-1]), **given), np.asarray(t)))
        return tuple(made[n] for n in range(1 + len(order)) for made in moved)


def _rmsprop_ref(p, g, t, lr, v, *rest, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, **_):
    v = v - (1 - alpha) * (v - g**2)
    mean = alpha * rest[0] + (1 - alpha) * g if centered else 0.0
    d = g / ((v - mean**2) ** 0.5 + eps)
    d = momentum * rest[-1] + d if momentum else d
    return (p - lr * d, v, *((mean,) if centered else ()), *((d,) if momentum else ()))


def _adagrad_ref(p, g, t, lr, s, *, lr_decay=0.0, eps=1e-10, **_):
    s = s + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (s**0.5 + eps), s


def _adadelta_ref(p, g, t, lr, v, a, *, rho=0.9, eps=1e-6, **_):
    v = v - (1 - rho) * (v - g**2)
    d = ((a + eps) / (v + eps)) ** 0.5 * g
    return p - lr * d, v, a - (1 - rho) * (a - d**2)


def _adamax_ref(p, g, t, lr, m, u, *, betas=(0.9, 0.999), eps=1e-8, **_):
    m, u = betas[0] * m + (1 - betas[0]) * g, np.fmax(betas[1] * u, abs(g) + eps)
    return p - lr * (m / (1 - betas[0] ** t)) / u, m, u


def _nadam_ref(p, g, t, lr, m, v, product, *, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3, **_):
    now, then = (betas[0] * (1 - 0.96 ** (k * momentum_decay) / 2) for k in (t, t + 1))
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
    product = np.float64(np.float32(product) * np.float32(now))  # kept in float32, as counts are
    ahead = then * m / (1 - product * then) + (1 - now) * g / (1 - product)
    return p - lr * ahead / ((v / (1 - betas[1] ** t)) ** 0.5 + eps), m, v, product


def _radam_ref(p, g, t, lr, m, v, *, betas=(0.9, 0.999), eps=1e-8, **_):
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
    most = (1 + betas[1]) / (1 - betas[1])
    seen = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    step = m / (1 - betas[0] ** t)
    if seen > 5:
        damping = (seen - 4) / (most - 4) * (seen - 2) / (most - 2) * most / seen
        step = step * (damping * (1 - betas[1] ** t)) ** 0.5 / (v**0.5 + eps)
    return p - lr * step, m, v


_COMMON = (dict(), dict(weight_decay=0.3), dict(weight_decay=0.3, maximize=True))
_DECOUPLED = (*_COMMON, dict(weight_decay=0.3, decoupled=True), dict(betas=(0.7, 0.9), eps=0.01))
for _op, _kinds, _one, _settings in (
    (
        rmsprop,
        _RMSPROP,
        _rmsprop_ref,
        (*_COMMON, dict(centered=True), dict(momentum=0.9), dict(momentum=0.8, centered=True, alpha=0.9, eps=0.01)),
    ),
    (adagrad, _ADAGRAD, _adagrad_ref, (*_COMMON, dict(lr_decay=0.2, eps=0.01))),
    (adadelta, _ADADELTA, _adadelta_ref, (*_COMMON, dict(rho=0.7, eps=0.01))),
    (adamax, _ADAMAX, _adamax_ref, (*_COMMON, dict(betas=(0.7, 0.9), eps=0.01))),
    (nadam, _NADAM, _nadam_ref, (*_DECOUPLED, dict(momentum_decay=0.1))),
    (radam, _RADAM, _radam_ref, (*_DECOUPLED, dict(betas=(0.9, 0.6)))),
):
    _cases(_op, _kinds, *_settings)
    _reference(_op, _kinds, _one)
