"""What a replay costs beyond its kernels: a compiled step, its calls in a row, and each kernel in a loop. Floor 6."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

from tensorlite.bench.steps import prepare
from tensorlite.program.compiled import Compiled
from tensorlite.program.executor import arrays_of, fill_settings, kernel_for

BAR = 0.1  # of a step: above it a C++ executor would be worth having
SAMPLE, SAMPLE_ALONE = (
    0.01,
    0.001,
)  # seconds: a time is that of as many calls of the step, of a kernel, as take this long
MOST = 64  # calls of a kernel in a row: one that works in place would lead its numbers astray


def calls(step: Compiled, batch: tuple) -> list[tuple[str, Callable, list, list]]:
    """(op, kernel, arrays, those that it writes) of each step of the program that ran last, for this batch."""
    program = step.programs[0]
    plan = program.plan
    array = arrays_of(plan, [batch[k]._arr for k in program.positions])
    fill_settings(plan)
    return [
        (one.name, kernel_for(one), [array(p) for p in (*one.ins, *one.outs)], [array(p) for p in one.written()])
        for one in plan.steps
    ]


def _nothing(*arrays: Any) -> None:
    """The kernel that does nothing: what is left is the cost of a call."""


def _timed(call: Callable, arrays: Any, count: int) -> float:
    """Seconds a call, after one that fills the caches and wakes the threads."""
    clock = time.perf_counter
    call(*arrays)
    turns = range(count)
    start = clock()
    for _ in turns:
        call(*arrays)
    return (clock() - start) / count


def _count(call: Callable, arrays: Any, sample: float, least: int, most: int) -> int:
    return int(min(max(sample / max(_timed(call, arrays, 1), 1e-9), least), most))


def measure(
    lib: Any, workload: Any, phase: str, rounds: int = 9, small: bool = False, channels_last: bool = False
) -> dict[str, Any]:
    """Medians of so many rounds, in microseconds.

    Returns:
        ``step``: the compiled step; ``row``: its kernels called one after another on the same arrays, no guards and no
        results; ``kernels``: each in a loop of its own, less what a call of nothing costs, and all of them together;
        ``call``: all those calls of nothing. ``overhead`` is (step - kernels) / step, the caches' part included: in a
        loop a kernel finds its arrays near. ``python`` is (step - row + call) / step, what a C++ executor could save.
    """
    step, batches = prepare(lib, workload, phase, small=small, channels_last=channels_last, compile=True)
    batch = batches[0]
    for _ in range(3):
        step(batch)
    made = calls(step, batch)
    before = [[w.copy() for w in written] for *_, written in made]
    counts = [_count(kernel, arrays, SAMPLE_ALONE, 2, MOST) for _, kernel, arrays, _ in made]
    whole = _count(step, (batch,), SAMPLE, 3, 1000)

    def row(_: Any) -> None:
        for _, kernel, arrays, _ in made:
            kernel(*arrays)

    found: dict[str, list[float]] = {"step": [], "row": [], "call": []}
    alone: list[list[float]] = [[] for _ in made]
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            found["step"].append(_timed(step, (batch,), whole))
            found["row"].append(_timed(row, (batch,), whole))
            costs = [_timed(_nothing, arrays, MOST) for _, _, arrays, _ in made]
            found["call"].append(sum(costs))
            for k, (_, kernel, arrays, written) in enumerate(made):
                for w, old in zip(written, before[k]):
                    w[...] = old
                alone[k].append(max(_timed(kernel, arrays, counts[k]) - costs[k], 0.0))
    finally:
        if collecting:
            gc.enable()
    result: dict[str, Any] = {key: 1e6 * statistics.median(values) for key, values in found.items()}
    each = [1e6 * statistics.median(values) for values in alone]
    result["kernels"] = sum(each)
    result["overhead"] = (result["step"] - result["kernels"]) / result["step"]
    result["python"] = (result["step"] - result["row"] + result["call"]) / result["step"]
    by_op: dict[str, float] = {}
    for (name, *_), cost in zip(made, each):
        by_op[name] = by_op.get(name, 0.0) + cost
    return {**result, "steps": len(made), "ops": dict(sorted(by_op.items(), key=lambda item: -item[1]))}


def table(report: dict[str, Any]) -> str:
    """A line for each workload and phase."""
    lines = [
        f"{'':10s} {'':5s} {'steps':>5s} {'step µs':>9s} {'row':>9s} {'kernels':>9s} {'overhead':>9s} {'Python':>7s}  "
        "most of it"
    ]
    for r in report["results"]:
        most = ", ".join(f"{name} {cost / r['kernels']:.0%}" for name, cost in list(r["ops"].items())[:3])
        flag = " !" if r["overhead"] > BAR else "  "
        lines.append(
            f"{r['workload']:10s} {r['phase']:5s} {r['steps']:5d} {r['step']:9.1f} {r['row']:9.1f} {r['kernels']:9.1f} "
            f"{r['overhead']:7.1%}{flag} {r['python']:7.1%}  {most}"
        )
    over = [r for r in report["results"] if r["overhead"] > BAR]
    lines.append(f"{len(over)} of {len(report['results'])} have an overhead above {BAR:.0%}")
    return "\n".join(lines)
