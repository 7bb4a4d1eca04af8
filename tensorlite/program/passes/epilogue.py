"""Activations, residuals and pooling folded into the product or convolution before them. Floor 4.

Each rule looks for steps in a row and puts one step of a fused op in their place, which has a compiled kernel and gives
the same bits. What lay between them is then no array any more.
"""

from __future__ import annotations

from tensorlite.ops.batch_norm_act import (
    batch_norm_add_relu_dx_p,
    batch_norm_add_relu_p,
    batch_norm_relu_dx_p,
    batch_norm_relu_p,
)
from tensorlite.ops.conv_act import conv_act_p
from tensorlite.ops.conv_pool import (
    HALVES,
    conv_relu_pool_p,
    relu_pool_dx_p,
    relu_pool_p,
)
from tensorlite.ops.linear_act import act_dx_p, linear_act_p, linear_add_p, linear_gelu_p
from tensorlite.program.passes.graph import Graph, each, fused, same
from tensorlite.program.plan import Plan
from tensorlite.program.record import Step

ACTS = ("relu", "tanh", "sigmoid", "gelu")


def run(plan: Plan) -> int:
    """Fold what can be folded; gives how many steps went away."""
    graph = Graph(plan)
    each(graph, _pool, "max_pool2d")
    each(graph, _norm, "relu")
    each(graph, _norm_back, "relu_dx")
    each(graph, _conv, "relu")
    each(graph, _act, *ACTS)
    each(graph, _add, "add")
    each(graph, _slope, *(f"{act}_dx" for act in ACTS))
    return graph.finish()


def _act_name(step: Step) -> str:
    """The activation that a step is, or is the slope of."""
    name = step.name.removesuffix("_dx")
    return "gelu_tanh" if name == "gelu" and step.entry.kw.get("approximate") in (True, "tanh") else name


def _act(graph: Graph, k: int, step: Step) -> None:
    """linear, then an activation."""
    at = graph.source(step.ins[0], "linear")
    if at is None:
        return
    product, act = graph.steps[at], _act_name(step)
    specs = product.entry.specs
    if graph.only(product.outs[0], k):
        made = fused(linear_act_p, step, product.ins, step.outs, specs, act=act)
    elif act.startswith("gelu"):
        made = fused(linear_gelu_p, step, product.ins, (step.outs[0], product.outs[0]), specs, act=act)
    else:
        return
    if made is not None and graph.movable(step, k, at, (at,)):  # type: ignore[arg-type]
        graph.replace((at, k), at, made)  # type: ignore[arg-type]


def _add(graph: Graph, k: int, step: Step) -> None:
    """linear, then a residual added."""
    for own, other in ((0, 1), (1, 0)):
        y, residual = step.ins[own], step.ins[other]
        at = graph.source(y, "linear")
        if at is None:
            continue
        product = graph.steps[at]
        if residual.shape != y.shape or residual.storage is y.storage or not graph.only(y, k):
            continue
        x, w, b = product.entry.specs
        made = fused(
            linear_add_p, step, (product.ins[0], product.ins[1], residual, product.ins[2]), step.outs,
            (x, w, step.entry.specs[other], b),
        )  # fmt: skip
        if made is not None and graph.movable(product, at, k, (k,)):
            graph.replace((at, k), k, made)
            return


def _slope(graph: Graph, k: int, step: Step) -> None:
    """The slope of an activation, then the sums of its columns, which are the gradient of a bias."""
    dz = step.outs[0]
    if len(dz.shape) < 2:  # a row alone, whose sums are itself; act_dx is for a matrix
        return
    for j in graph.read_by(dz):
        total = graph.steps[j]
        if total.name != "sum" or total.outs[0].shape != dz.shape[-1:]:
            continue
        rows = total.ins[0]
        if total.entry.kw.get("dim") not in ((0,), 0) or rows.nbytes != dz.nbytes or rows.shape[1:] != dz.shape[-1:]:
            continue
        act = _act_name(step)
        made = fused(act_dx_p, step, step.ins[:2], (dz, total.outs[0]), step.entry.specs[:2], act=act)
        if made is not None and graph.movable(total, j, k, (k,)):
            graph.replace((k, j), k, made)
        return


def _pool(graph: Graph, k: int, step: Step) -> None:
    """A convolution, relu and max-pooling, or the latter two; with their way back, pooling first and relu after it."""
    r = step.ins[0]
    at = graph.source(r, "relu")
    if at is None:
        return
    relu = graph.steps[at]
    back = [j for j in graph.read_by(r) if j != k]
    pairs = []  # (position of pool_put, position of relu_dx)
    for j in back:
        slope = graph.steps[j]
        put = graph.maker(slope.ins[0])
        ok = slope.name == "relu_dx" and same(slope.ins[1], r) and put is not None
        if not ok or graph.steps[put].name != "pool_put" or not same(graph.steps[put].ins[1], step.outs[1]):
            return
        if not graph.only(graph.steps[put].outs[0], j):
            return
        pairs.append((put, j))
    if not graph.only(r, k, *back):
        return
    how = step.entry.kw
    z = relu.ins[0]
    conv_at = graph.source(z, "conv2d")
    forward = None
    if (
        conv_at is not None
        and graph.only(z, at)
        and not how["ceil"]
        and all(how[name] == value for name, value in HALVES.items())
        and graph.movable(graph.steps[conv_at], conv_at, k, (at, k))
    ):
        conv = graph.steps[conv_at]
        forward = fused(conv_relu_pool_p, step, conv.ins, step.outs, conv.entry.specs, **conv.entry.kw)
        gone = (conv_at, at, k)
    if forward is None:
        if not graph.movable(relu, at, k, (k,)):
            return
        forward, gone = fused(relu_pool_p, step, (z,), step.outs, relu.entry.specs, **how), (at, k)
    backs = []
    for put, j in pairs:
        p, slope = graph.steps[put], graph.steps[j]
        dy, place = p.entry.specs
        made = fused(
            relu_pool_dx_p, slope, (p.ins[0], step.outs[0], p.ins[1]), slope.outs, (dy, step.entry.outs[0], place),
            **p.entry.kw,
        )  # fmt: skip
        if made is None or not graph.movable(p, put, j, (j,)):
            return
        backs.append(((put, j), made))
    if forward is None:
        return
    graph.replace(gone, k, forward)
    for (put, j), made in backs:
        graph.replace((put, j), j, made)


def _norm(graph: Graph, k: int, step: Step) -> None:
    """A batch norm and relu, with a residual added between them or not."""
    y = step.ins[0]
    add, residual, spec = None, (), ()
    add_at = graph.source(y, "add")
    if add_at is not None and graph.only(y, k):
        add = graph.steps[add_at]
        for own in (1, 0):  # of two batch norms the later one takes the other as its residual
            norm_at = graph.maker(add.ins[own])
            other = add.ins[1 - own]
            if norm_at is not None and graph.steps[norm_at].name == "batch_norm" and other.shape == y.shape:
                y, residual, spec = add.ins[own], (other,), (add.entry.specs[1 - own],)
                break
        else:
            return
    at = graph.source(y, "batch_norm")
    if at is None or not graph.only(y, add_at if add is not None else k):
        return
    norm = graph.steps[at]
    op = batch_norm_add_relu_p if residual else batch_norm_relu_p
    outs = (step.outs[0], *norm.outs[1:])
    made = fused(op, step, (*norm.ins, *residual), outs, (*norm.entry.specs, *spec), **norm.entry.kw)
    gone = (at, k) if add is None else (at, add_at, k)
    if made is None or not graph.movable(norm, at, k, gone):
        return
    if add is not None and not graph.movable(add, add_at, k, gone):
        return
    made.writes = norm.writes
    graph.replace(gone, k, made)


def _norm_back(graph: Graph, k: int, step: Step) -> None:
    """The slope of relu, then the gradient of the batch norm before it; what relu let pass is kept where it is used."""
    dy, y = step.ins
    d = step.outs[0]
    forward = graph.maker(y)
    if forward is None or graph.steps[forward].name not in ("batch_norm_relu", "batch_norm_add_relu"):
        return
    for j in graph.read_by(d):
        norm = graph.steps[j]
        if norm.name != "normalize_dx" or not same(norm.ins[0], d):
            continue
        if norm.ins[2].storage is not graph.steps[forward].outs[1].storage:
            continue
        alone = graph.only(d, j)
        op, outs = (batch_norm_relu_dx_p, norm.outs) if alone else (batch_norm_add_relu_dx_p, (*norm.outs, d))
        specs = (step.entry.specs[0], *norm.entry.specs[1:], step.entry.specs[1])
        made = fused(op, step, (dy, *norm.ins[1:], y), outs, specs, **norm.entry.kw)
        if made is not None and graph.movable(norm, j, k, (k,)):
            graph.replace((k, j), k, made)
        return


def _conv(graph: Graph, k: int, step: Step) -> None:
    """A convolution, then relu."""
    at = graph.source(step.ins[0], "conv2d")
    if at is None or not graph.only(step.ins[0], k):
        return
    conv = graph.steps[at]
    made = fused(conv_act_p, step, conv.ins, step.outs, conv.entry.specs, **conv.entry.kw, act="relu")
    if made is not None and graph.movable(step, k, at, (at,)):
        graph.replace((at, k), at, made)
