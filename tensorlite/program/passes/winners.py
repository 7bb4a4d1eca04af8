"""Gradients of pooled convolutions made from the winners of each window alone: a quarter of the products. Floor 4.

Sums run in another order than in the gradient of the whole picture, so last bits differ.
"""

from __future__ import annotations

from tensorlite.ops.conv_pool import conv_relu_pool_dw_p, conv_relu_pool_dx_p
from tensorlite.program.passes.graph import Graph, each, fused, same
from tensorlite.program.plan import Plan
from tensorlite.program.record import Step


def run(plan: Plan) -> int:
    """Leave out gradients that are zero but for one pixel in four; gives how many steps went away."""
    graph = Graph(plan)
    each(graph, _winners, "relu_pool_dx")
    return graph.finish()


def _winners(graph: Graph, k: int, step: Step) -> None:
    """The gradients of a convolution, relu and pooling without that of the convolution's output."""
    whole = step.outs[0]
    readers = graph.read_by(whole)
    by_name = {graph.steps[j].name: j for j in readers}
    known = {"conv2d_dw", "conv2d_db", "conv2d_dx"}
    if not graph.only(whole, *readers) or len(by_name) != len(readers) or not set(by_name) <= known:
        return
    if any(not same(p, whole) for j in readers for p in graph.steps[j].ins if p.storage is whole.storage):
        return
    if "conv2d_dw" not in by_name or "conv2d_db" not in by_name:
        return
    dw, db = graph.steps[by_name["conv2d_dw"]], graph.steps[by_name["conv2d_db"]]
    pooled = step.entry.specs
    made = [
        (
            ("conv2d_dw", "conv2d_db"),
            fused(
                conv_relu_pool_dw_p, dw, (dw.ins[0], *step.ins), (dw.outs[0], db.outs[0]), (dw.entry.specs[0], *pooled),
                **dw.entry.kw,
            ),
        )
    ]  # fmt: skip
    if "conv2d_dx" in by_name:
        dx = graph.steps[by_name["conv2d_dx"]]
        made.append(
            (
                ("conv2d_dx",),
                fused(
                    conv_relu_pool_dx_p, dx, (*step.ins, dx.ins[1]), dx.outs, (*pooled, dx.entry.specs[1]),
                    **dx.entry.kw,
                ),
            )
        )  # fmt: skip
    last = max(readers)
    if any(one is None for _, one in made) or not graph.movable(step, k, last, readers):
        return
    if not graph.movable(db, by_name["conv2d_db"], by_name["conv2d_dw"], readers):
        return
    for names, one in made:
        at = [by_name[name] for name in names]
        graph.replace((*at, k) if names[0] == "conv2d_dw" else at, at[0], one)
