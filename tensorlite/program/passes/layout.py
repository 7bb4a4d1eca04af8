"""Changes of layout that undo one another, or change nothing. Floor 4."""

from __future__ import annotations

from tensorlite.program.passes.graph import Graph, each, same
from tensorlite.program.plan import Plan, covers
from tensorlite.program.record import Part, Step


def run(plan: Plan) -> int:
    """Let steps read what lies as they want it already; the copies that nobody reads then are dead steps."""
    graph = Graph(plan)
    each(graph, _cancel, "laid", "copy", "clone")
    return graph.finish()


def _cancel(graph: Graph, k: int, step: Step) -> None:
    given, copy = step.ins[0], step.outs[0]
    origins = [given]
    at = graph.maker(given)
    if at is not None and graph.steps[at].name in ("laid", "copy", "clone") and same(graph.steps[at].outs[0], given):
        origins.insert(0, graph.steps[at].ins[0])
    readers = graph.read_by(copy)
    if id(copy.storage) in graph.kept or graph.maker(copy) != k or not covers(copy) or not readers:
        return
    if any(
        p.storage is copy.storage and not same(p, copy) for j in readers for p in graph.steps[j].ins if p is not None
    ):
        return  # somebody reads a part of it, or all in another shape
    for origin in origins:
        if _lies_as(origin, copy) and _unwritten(graph, origin, k if origin is given else at, max(readers)):
            for j in readers:
                graph.read_instead(j, copy, origin)
            graph.remove(k)
            return


def _lies_as(a: Part, b: Part) -> bool:
    steps = [(s, t) for n, s, t in zip(a.shape, a.strides, b.strides) if n != 1]
    return a.shape == b.shape and a.dtype == b.dtype and all(s == t for s, t in steps)


def _unwritten(graph: Graph, part: Part, first: int, last: int) -> bool:
    return not any(first < j <= last for j in graph.writers.get(id(part.storage), []) if graph.steps[j] is not None)
