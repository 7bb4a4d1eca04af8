"""Dead steps out: those whose results nobody reads. Floor 4."""

from __future__ import annotations

from tensorlite.program.plan import Plan
from tensorlite.program.record import BUFFER


def run(plan: Plan) -> int:
    """Drop the steps that write nothing but buffers which no later step reads, nor anybody afterwards."""
    wanted = {id(p.storage) for p in (*plan.outputs, *plan.lasting)}
    kept = []
    for step in reversed(plan.steps):
        if any(p.storage.kind is not BUFFER or id(p.storage) in wanted for p in step.written()):
            kept.append(step)
            wanted |= {id(p.storage) for p in step.ins if p is not None}
    count = len(plan.steps) - len(kept)
    plan.steps = kept[::-1]
    return count
