"""Gradients of pooled convolutions made from the winners of each window alone: a quarter of the products. Floor 4.

Sums run in another order than in the gradient of the whole picture, so last bits differ.
"""

from __future__ import annotations

from tensorlite.ops.conv_pool import conv_relu_pool_dw_p, conv_relu_pool_dx_p, winners_pay, winners_pay_dx
from tensorlite.program.passes.graph import Graph, each, fused, same
from tensorlite.program.plan import Plan
from tensorlite.program.record import Step


def run(plan: Plan) -> int:
    """Leave out gradients that are zero but for one pixel in four; gives how many steps went away."""
    graph = Graph(plan)
    each(graph, _winners, "relu_pool_dx")
    return graph.finish()


def _winners(graph: Graph, k: int, step: Step) -> None:
    whole = step.outs[0]
    readers = graph.read_by(whole)
    at = {graph.steps[j].name: j for j in readers}
    if (
        len(at) != len(readers)
        or set(at) - {"conv2d_dx"} != {"conv2d_dw", "conv2d_db"}
        or not graph.only(whole, *readers)
    ):
        return
    if any(
        not same(p, whole) for j in readers for p in graph.steps[j].ins if p is not None and p.storage is whole.storage
    ):
        return
    dw, db = graph.steps[at["conv2d_dw"]], graph.steps[at["conv2d_db"]]
    how, x = dw.entry.kw, dw.entry.specs[0]
    if not winners_pay(x, how["groups"]):
        return
    for_w = fused(
        conv_relu_pool_dw_p, dw, (dw.ins[0], *step.ins), (dw.outs[0], db.outs[0]), (x, *step.entry.specs), **how
    )  # fmt: skip
    if for_w is None or not graph.movable(db, at["conv2d_db"], at["conv2d_dw"], readers):
        return
    for_x, gone = None, []
    if "conv2d_dx" in at:
        dx = graph.steps[at["conv2d_dx"]]
        w = dx.entry.specs[1]
        if winners_pay_dx(x, w, how["stride"], how["dilation"]):
            for_x = fused(
                conv_relu_pool_dx_p, dx, (*step.ins, dx.ins[1]), dx.outs, (*step.entry.specs, w), **dx.entry.kw
            )  # fmt: skip
    if "conv2d_dx" not in at or for_x is not None:
        gone = [k]
    if not graph.movable(step, k, max(readers), readers):
        return
    graph.replace([at["conv2d_dw"], at["conv2d_db"], *gone], at["conv2d_dw"], for_w)
    if for_x is not None:
        graph.replace([at["conv2d_dx"]], at["conv2d_dx"], for_x)
