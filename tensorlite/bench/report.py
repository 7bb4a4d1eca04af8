"""The step benchmark's report as a table and as a file. Floor 6."""

from __future__ import annotations

import json
import os
import statistics
from typing import Any

from tensorlite.bench import bars
from tensorlite.io.files import atomic

QUIET = 0.2  # cores that other programs may keep busy before the figures say little
SHORT = {"not available": "n/a", "not installed": "-", "failed": "FAILED"}


def other_cores(report: dict[str, Any]) -> float | None:
    """How many cores other programs kept busy while a process measured: the median; None where nobody could tell."""
    parts = [part.get("other_cores") for result in report["results"] for part in result.get("rounds", ())]
    known = [cores for cores in parts if cores is not None]
    return statistics.median(known) if known else None


def table(report: dict[str, Any]) -> str:
    """Milliseconds a step, a line for each workload and phase, and below them what could not be measured and why."""
    measured = {result["lib"] for result in report["results"]}
    libs = [lib for lib in report["libs"] if lib in measured]
    lines, notes = [], []
    wide = [max(len(lib), 9) for lib in libs]
    head = [f"{'':10s} {'':5s}", *(f"{lib:>{w}s}" for lib, w in zip(libs, wide)), f"{'GFLOP/s':>8s}", f"{'times':>6s}"]
    lines.append(" ".join([*head, "best peer"]))
    for workload, phase, by_lib in bars.rows(report):
        cells = [f"{workload:10s} {phase:5s}"]
        for lib, w in zip(libs, wide):
            result = by_lib.get(lib)
            cells.append(f"{_cell(result) if result else '':>{w}s}")
            if result is None:
                continue  # it would be the same as another column
            if result["status"] in ("not available", "failed"):
                notes.append(f"{workload} {phase} {lib}: {result['status']}: {result['reason']}")
            elif result["status"] == "ok" and phase == "train" and not result["trained"]:
                start, end = result["loss_start"], result["loss_end"]
                notes.append(f"{workload} {phase} {lib}: the loss did not fall: {start:.4f} to {end:.4f}")
        ours, best, times = bars.our_best(by_lib), bars.best_peer(by_lib), bars.speedup(by_lib)
        cells.append(f"{ours['gflop_per_s']:8.1f}" if ours else "       -")
        cells.append("     -" if times is None else f"{times:6.2f}")
        cells.append("-" if best is None else best["lib"])
        lines.append(" ".join(cells))
    if (busy := other_cores(report)) is not None and busy > QUIET:
        notes.append(f"other programs kept {busy:.1f} cores busy (median): measure again on a quiet machine")
    absent = {r["lib"]: r["reason"] for r in report["results"] if r["status"] == "not installed"}
    notes += [f"{lib}: skipped, {reason} is not installed" for lib, reason in absent.items()]
    caption = (
        f"milliseconds a step, median of {report['rounds']} alternating processes; times: the best peer's / our best; "
        f"{describe(report)}"
    )
    return "\n".join([caption, *lines, *notes])


def describe(report: dict[str, Any]) -> str:
    """Date, machine and versions in a line."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report["versions"].items()))
    small = ", tiny sizes" if report["small"] else ""
    cores = f"{report['threads']} threads of {machine['cores']} cores"
    return f"{report['date']}, {machine['cpu']}, {cores}{small}; {versions}"


def _cell(result: dict[str, Any]) -> str:
    return f"{result['ms']:.3f}" if result["status"] == "ok" else SHORT[result["status"]]


def save(report: dict[str, Any], path: str | os.PathLike) -> None:
    """Write it as JSON."""
    with atomic(path) as f:
        f.write((json.dumps(report, indent=1) + "\n").encode())
