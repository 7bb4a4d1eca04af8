"""Steps of optimizers: effects over a table of tensors, one call for all parameters of a group. Floor 3.

The tensors come as one row: all parameters, all gradients, then the states, each kind as long as the first. Learning
rate and step counts are data, so that a recorded step can be replayed with others; the rest are constants. Everything
is written in place, a piece at a time that stays in the cache, with a temporary or two of a piece's size.

One tensor more may end the table: ``found_inf`` (float32, one element). Where it is not 0 the step does nothing at all,
so a kernel on a device decides there, and nobody reads it on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from tensorlite.autograd.methods import face
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.dtypes import float32
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.constants import constant

SINGLE = ("steps", "mu_products")  # kinds of one element each, in a dtype of their own
PIECE = 65536  # elements: four arrays of a piece fit in a core's second-level cache


def check_table(name: str, kinds: Sequence[str], lr: Spec, tensors: tuple[Spec, ...]) -> tuple:
    """Refuse a table that is not one row of each kind, in the sizes and dtypes of the parameters; no outputs."""
    if lr.size != 1:
        raise ShapeError(f"{name}: lr has shape {lr.shape}; wanted one element")
    n, more = divmod(len(tensors), len(kinds))
    if more > 1 or (more and (tensors[-1].size != 1 or tensors[-1].dtype is not float32)):
        raise ShapeError(f"{name}: got {len(tensors)} tensors; wanted as many each of {', '.join(kinds)}")
    for k, kind in enumerate(kinds):
        for p, t in zip(tensors[:n], tensors[k * n : (k + 1) * n]):
            if kind in SINGLE:
                if t.size != 1:
                    raise ShapeError(f"{name}: one of the {kind} has shape {t.shape}; wanted one element")
            elif t.shape != p.shape:
                raise ShapeError(
                    f"{name}: one of the {kind} has shape {t.shape}, its parameter {p.shape}; wanted equal shapes"
                )
            elif t.dtype is not p.dtype or not p.dtype.is_floating_point:
                raise DTypeError(
                    f"{name}: one of the {kind} is {t.dtype}, its parameter {p.dtype}; wanted one floating-point dtype"
                )
    return ()


_found_inf: ContextVar[dict | None] = ContextVar("tensorlite_found_inf", default=None)


@contextmanager
def skipped_where(found_inf: dict) -> Iterator[None]:
    """The steps inside do nothing where the tensor of their device, device -> ``found_inf``, is not 0."""
    token = _found_inf.set(found_inf)
    try:
        yield
    finally:
        _found_inf.reset(token)


def lists(name: str, *rows: Sequence[Tensor]) -> list[Tensor]:
    if any(len(row) != len(rows[0]) for row in rows):
        raise ShapeError(f"{name}: rows of {', '.join(str(len(row)) for row in rows)} tensors; wanted equal lengths")
    table = [t for row in rows for t in row]
    found = _found_inf.get()
    if found is not None and table:
        table.append(found[table[0]._spec.device])
    return table


def table_of(tensors: tuple, kinds: int) -> tuple | None:
    """The table of so many kinds without the ``found_inf`` that may end it; None where that says to do nothing."""
    if not len(tensors) % kinds:
        return tensors
    return None if tensors[-1].any() else tensors[:-1]


def as_data(lr: Any) -> Tensor:
    return lr if isinstance(lr, Tensor) else from_array(np.asarray(lr, np.float64))


@lru_cache
def written(kinds: tuple[int, ...], of: int, count: int) -> tuple[int, ...]:
    """The positions of these kinds, of so many, among ``count`` inputs that begin with the learning rate."""
    n = (count - 1) // of
    return tuple(1 + k * n + i for k in kinds for i in range(n))


def pieces(tensors: tuple, n: int) -> Iterator[tuple[int, tuple]]:
    """(k, arrays) for parameter k: its arrays, all cut alike where they are large, none of them 0-d.

    Half types are computed in float32, and rounded once when all pieces are done.
    """
    for k in range(n):
        arrays = given = tensors[k::n]
        half = arrays[0].dtype.itemsize == 2
        if half:
            arrays = tuple(a.astype(np.float32) for a in arrays)
        first = arrays[0]
        if first.ndim and first.size <= 2 * PIECE:
            yield k, arrays
        elif all(a.flags.c_contiguous for a in arrays):
            flat = [a.reshape(-1) for a in arrays]
            for i in range(0, first.size, PIECE):
                yield k, tuple(f[i : i + PIECE] for f in flat)
        else:
            yield k, arrays
        if half:
            for kind, (g, a) in enumerate(zip(given, arrays)):
                if kind != 1:  # gradients are only read
                    g[...] = a


def by_rows(p: Any, name: str, kinds: Callable[..., int], singles: int = 0) -> None:
    """The compiled steps of ``p``, of ``kinds(**constants)`` rows, the last ``singles`` of one float32 number each.

    The CPU's takes any table, and says which parameters it left (half types, tensors that lie unlike in memory): those
    take the plain forward.
    """

    def around(compiled: Callable, xp: Any, lr: Any, *tensors: Any, **constants: Any) -> None:
        of = kinds(**constants)
        if len(tensors) % of:
            if tensors[-1].any():
                return
            tensors = tensors[:-1]
        left = compiled(lr, *tensors)
        if left is not None:
            n = len(tensors) // of
            p.op.fn(xp, lr, *(tensors[row + k] for row in range(0, len(tensors), n) for k in left), **constants)

    def fits(lr: Spec, *tensors: Spec, **constants: Any) -> bool:
        of = kinds(**constants)
        n = len(tensors) // of
        return lr.dtype.is_floating_point and all(t.dtype is float32 for t in tensors[(of - singles) * n : of * n])

    p.kernel("cpu", name, "", around=around)
    p.kernel("cuda", f"update.{name}", "", when=fits, formats=ANY)


class _Scalars(dict):
    """Constants in the dtype that computes, made once a call."""

    def __init__(self, xp: Any, *values: Any):
        self.xp, self.values_ = xp, values

    def __missing__(self, d: np.dtype) -> tuple:
        made = self[d] = tuple(constant(self.xp, v, d) for v in self.values_)
        return made


# ---- SGD
def _sgd_writes(count: int, *, momentum: float, **constants: Any) -> tuple[int, ...]:
    return written((0, 2), 3, count) if momentum else written((0,), 2, count)


@primitive(name="sgd", mutates=_sgd_writes, torch=lambda torch, **case: _torch_sgd(torch, **case))
def sgd_p(xp, lr, *tensors, momentum, dampening, weight_decay, nesterov, maximize, first):
    """One step of SGD on parameters p, gradients g and, with momentum, buffers b.

    d = weight_decay p + g (- g: ``maximize``);  b = momentum b + (1 - dampening) d (``first``: b = d);
    d = d + momentum b (nesterov), else b;  p = p - lr d.
    """
    add, subtract, multiply = xp.add, xp.subtract, xp.multiply
    tensors = table_of(tensors, 3 if momentum else 2)
    if tensors is None:
        return
    scalars = _Scalars(xp, lr, momentum, 1 - dampening, weight_decay)
    for _, (p, g, *rest) in pieces(tensors, len(tensors) // (3 if momentum else 2)):
        rate, m, keep, decay = scalars[p.dtype]
        d = g
        if weight_decay:
            d = multiply(p, decay)
            (subtract if maximize else add)(d, g, d)
        elif maximize:
            d = xp.negative(g)
        own = d is not g  # whether d may be written to
        if momentum:
            (b,) = rest
            if first:
                b[...] = d
            else:
                multiply(b, m, b)
                add(b, multiply(d, keep) if dampening else d, b)
            if nesterov:
                ahead = multiply(b, m)
                d, own = add(ahead, d, ahead), True
            else:
                d, own = b, False
        step = multiply(d, rate, d if own else None)
        subtract(p, step, p)


sgd_p.nograd()
by_rows(sgd_p, "sgd", lambda momentum, **constants: 3 if momentum else 2)


@sgd_p.spec
def _(lr, *tensors, momentum, **constants):
    return check_table("sgd", ("params", "grads", "momentum_buffers") if momentum else ("params", "grads"), lr, tensors)


@face(sgd_p)
def sgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor] = (),
    *,
    lr: Any,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    first: bool = False,
) -> tuple[Tensor, ...]:
    """One step of SGD in place; what was written is returned: parameters, then momentum buffers."""
    rows = (params, grads, momentum_buffers) if momentum else (params, grads)
    sgd_p(
        as_data(lr),
        *lists("sgd", *rows),
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        maximize=maximize,
        first=first,
    )
    return (*params, *momentum_buffers)


def sample_table(make: Any, rows: int) -> list[list[Tensor]]:
    return [[make(3, 2, low=0.1), make(4, low=0.1), make(low=0.1)] for _ in range(rows)]


@sgd_p.cases
def _(make):
    for constants in (dict(), dict(weight_decay=0.3), dict(maximize=True), dict(weight_decay=0.3, maximize=True)):
        p, g = sample_table(make, 2)
        yield dict(params=p, grads=g, lr=0.1, **constants)
    for constants in (
        dict(),
        dict(dampening=0.2),
        dict(first=True, dampening=0.2),
        dict(nesterov=True),
        dict(nesterov=True, weight_decay=0.3, maximize=True),
    ):
        p, g, b = sample_table(make, 3)
        yield dict(params=p, grads=g, momentum_buffers=b, lr=0.1, momentum=0.9, **constants)
    yield dict(params=[make(PIECE * 2 + 3)], grads=[make(PIECE * 2 + 3)], lr=0.1)
    yield dict(params=[make(0, 2)], grads=[make(0, 2)], lr=0.1)
    yield ShapeError, dict(params=[make(3, 2)], grads=[make(3)], lr=0.1)
    yield DTypeError, dict(params=[make.ints(3)], grads=[make.ints(3)], lr=0.1)


@sgd_p.ref
def _(
    params,
    grads,
    momentum_buffers=(),
    *,
    lr,
    momentum=0.0,
    dampening=0.0,
    weight_decay=0.0,
    nesterov=False,
    maximize=False,
    first=False,
):
    moved, kept = [], []
    for k, p in enumerate(params):
        slope = np.where(maximize, -1.0, 1.0) * grads[k] + weight_decay * p
        if momentum:
            old = momentum_buffers[k]
            slope_kept = slope if first else momentum * old + slope - dampening * slope
            kept.append(slope_kept)
            slope = slope + momentum * slope_kept if nesterov else slope_kept
        moved.append(p - lr * slope)
    return (*moved, *kept)


def _torch_sgd(torch, params, grads, momentum_buffers=(), *, lr, first=False, **constants):
    buffers = [None if first else b for b in momentum_buffers] or [None] * len(params)
    settings = dict(momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False) | constants
    theirs = import_module("torch.optim.sgd")  # torch.optim hides it under the class
    theirs.sgd(params, grads, buffers, has_sparse_grad=False, foreach=False, lr=lr, **settings)
    for given, b in zip(momentum_buffers, buffers):
        given.copy_(b)
    return (*params, *momentum_buffers)


# ---- Adam and AdamW
_ADAM = ("params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "steps")


def _adam_kinds(amsgrad: bool) -> tuple[str, ...]:
    return _ADAM if amsgrad else tuple(k for k in _ADAM if k != "max_exp_avg_sqs")


def _adam_writes(count: int, *, amsgrad: bool, **constants: Any) -> tuple[int, ...]:
    kinds = len(_adam_kinds(amsgrad))
    return written((0, *range(2, kinds)), kinds, count)


@primitive(name="adam", mutates=_adam_writes, torch=lambda torch, **case: _torch_adam(torch, **case))
def adam_p(xp, lr, *tensors, betas, eps, weight_decay, amsgrad, maximize, decoupled):
    """One step of Adam on parameters p, gradients g, moments m and v, [greatest v,] and step counts t, raised by 1.

    g = g + weight_decay p (``decoupled``: p = p - lr weight_decay p instead);  m = m + (1 - b1) (g - m);
    v = b2 v + (1 - b2) g g;  p = p - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps).
    """
    tensors = table_of(tensors, len(_adam_kinds(amsgrad)))
    if tensors is None:
        return
    n = len(tensors) // len(_adam_kinds(amsgrad))
    tensors, steps = tensors[: -n or None], tensors[-n:] if n else ()
    rate, (beta1, beta2) = float(lr), betas
    add, subtract, multiply, sqrt = xp.add, xp.subtract, xp.multiply, xp.sqrt
    scalars = _Scalars(xp, 1 - beta1, beta2, 1 - beta2, 1 - rate * weight_decay if decoupled else weight_decay)
    for t in steps:
        t += 1
    corrections: dict = {}  # the counts of a group are mostly equal
    for k, (p, g, m, v, *most) in pieces(tensors, n):
        keep1, beta, keep2, decay = scalars[p.dtype]
        key = (float(steps[k]), p.dtype)
        if key not in corrections:
            # sqrt(v / c2) + eps = (sqrt(v) + eps sqrt(c2)) / sqrt(c2): one pass less
            root = (1 - beta2 ** key[0]) ** 0.5
            sizes = eps * root, rate * root / (1 - beta1 ** key[0])
            corrections[key] = tuple(constant(xp, v, p.dtype) for v in sizes)
        small, size = corrections[key]
        if maximize:
            g = xp.negative(g)
        if weight_decay and decoupled:
            multiply(p, decay, p)
        elif weight_decay:
            d = multiply(p, decay)
            g = add(d, g, d)
        t = subtract(g, m)
        add(m, multiply(t, keep1, t), m)
        multiply(v, beta, v)
        multiply(multiply(g, g, t), keep2, t)
        add(v, t, v)
        if amsgrad:
            v = xp.maximum(most[0], v, out=most[0])
        add(sqrt(v, t), small, t)
        multiply(xp.divide(m, t, t), size, t)
        subtract(p, t, p)


adam_p.nograd()
by_rows(adam_p, "adam", lambda amsgrad, **constants: len(_adam_kinds(amsgrad)), singles=1)


@adam_p.spec
def _(lr, *tensors, amsgrad, **constants):
    return check_table("adam", _adam_kinds(amsgrad), lr, tensors)


@face(adam_p)
def adam(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor] = (),
    *,
    lr: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled: bool = False,
) -> tuple[Tensor, ...]:
    """One step of Adam in place; what was written is returned: parameters, the moments, the counts."""
    rows = (params, grads, exp_avgs, exp_avg_sqs, *((max_exp_avg_sqs,) if amsgrad else ()), steps)
    adam_p(
        as_data(lr),
        *lists("adam", *rows),
        betas=tuple(betas),
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled=decoupled,
    )
    return (*params, *exp_avgs, *exp_avg_sqs, *max_exp_avg_sqs, *steps)


@adam_p.cases
def _(make):
    def counts(*values):
        return [make.tensor(v, float32) for v in values]

    for constants in (
        dict(),
        dict(weight_decay=0.3),
        dict(weight_decay=0.3, decoupled=True),
        dict(maximize=True),
        dict(betas=(0.7, 0.9), eps=0.01),
    ):
        p, g, m, v = sample_table(make, 4)
        v = [t.abs() for t in v]
        yield dict(params=p, grads=g, exp_avgs=m, exp_avg_sqs=v, steps=counts(0, 3, 3), lr=0.1, **constants)
    p, g, m, v, most = sample_table(make, 5)
    yield dict(
        params=p, grads=g, exp_avgs=m, exp_avg_sqs=v, max_exp_avg_sqs=most, steps=counts(1, 2, 3), lr=0.1, amsgrad=True
    )
    p, g, m = ([make(2 * PIECE + 3, low=0.5)] for _ in range(3))
    yield dict(params=p, grads=g, exp_avgs=m, exp_avg_sqs=[t.abs() for t in m], steps=counts(5), lr=0.1)
    row = [make(3, low=0.1)]
    yield ShapeError, dict(params=row, grads=[make(2)], exp_avgs=row, exp_avg_sqs=row, steps=counts(0), lr=0.1)
    yield ShapeError, dict(params=row, grads=row, exp_avgs=row, exp_avg_sqs=row, steps=[make(2)], lr=0.1)


@adam_p.ref
def _(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    steps,
    max_exp_avg_sqs=(),
    *,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled=False,
):
    rows: list = [[], [], [], [], []]
    for k, p in enumerate(params):
        t = float(steps[k]) + 1
        g = (-grads[k] if maximize else grads[k]) + (0 if decoupled else weight_decay * p)
        m = betas[0] * exp_avgs[k] + (1 - betas[0]) * g
        v = betas[1] * exp_avg_sqs[k] + (1 - betas[1]) * g**2
        top = np.maximum(max_exp_avg_sqs[k], v) if amsgrad else v
        m_hat, v_hat = m / (1 - betas[0] ** t), top / (1 - betas[1] ** t)
        start = p * (1 - lr * weight_decay) if decoupled else p
        made = (start - lr * m_hat / (np.sqrt(v_hat) + eps), m, v, *((top,) if amsgrad else ()), np.asarray(t))
        for row, value in zip(rows, made):
            row.append(value)
    return tuple(value for row in rows for value in row)


def _torch_adam(
    torch,
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    steps,
    max_exp_avg_sqs=(),
    *,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    decoupled=False,
    **constants,
):
    settings = dict(weight_decay=0.0, amsgrad=False, maximize=False) | constants
    theirs = import_module("torch.optim.adam")
    theirs.adam(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        list(max_exp_avg_sqs),
        steps,
        foreach=False,
        lr=lr,
        eps=eps,
        beta1=betas[0],
        beta2=betas[1],
        decoupled_weight_decay=decoupled,
        **settings,
    )
    return (*params, *exp_avgs, *exp_avg_sqs, *max_exp_avg_sqs, *steps)
