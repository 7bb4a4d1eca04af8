"""Fresh processes in turn, library after library, round after round, and what they found together. Floor 6."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tensorlite.bench.workloads import find

TIME_LIMIT = 600.0  # seconds for one process beyond those it measures


def run(
    workloads: Sequence[str],
    phases: Sequence[str],
    libs: Sequence[str],
    command: Sequence[str],
    *,
    rounds: int = 3,
    seconds: float = 1.0,
    threads: int = 2,
    small: bool = False,
    folder: str | os.PathLike | None = None,
    say: Callable[[str], Any] = lambda line: None,
    fits: Callable[[str, str, str], bool] = lambda workload, phase, lib: True,
    roofs: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure every workload and phase in every library, the libraries alternating, each in a process of its own.

    Args:
        command: started once for each measurement, with the job as JSON behind it; its last line is JSON with a
            ``status`` ("ok", "not available" or "not installed") and, for "ok", what ``steps.measure`` gives.
        rounds: how often each is measured.
        seconds: how long each is measured, after the warm-up.
        threads: given to every library by the environment, and in the job.
        small: tiny sizes, to try the harness.
        folder: where the processes start.
        say: told of each process in one line.
        fits: whether a workload and phase are worth measuring in a library; the others are left out.
        roofs: libraries that tell the machine's roofs, each in a process of its own, before all else.

    Returns:
        The report: date, machine, versions and ``results``, a dict for each workload, phase and library with the
        rounds' own figures; ``roofs``, by kind what each library reached and the best of them. A process that failed
        has the status "failed" and its last line as ``reason``.
    """
    report: dict[str, Any] = {
        "kind": "steps",
        "date": str(date.today()),
        "machine": machine(),
        "versions": {},
        "threads": threads,
        "rounds": rounds,
        "seconds": seconds,
        "small": small,
        "libs": list(libs),
        "results": [],
    }
    absent: dict[str, str] = {}
    fitting = {(w, p): [lib for lib in libs if fits(w, p, lib)] for w in workloads for p in phases}
    total, done = sum(map(len, fitting.values())) * rounds, 0
    try:
        report["roofs"] = _roofs(
            {lib: one(command, dict(roofs=True, lib=lib, seconds=seconds, threads=threads, small=small), folder,
                      threads, seconds) for lib in roofs}, say
        )  # fmt: skip
        for workload in workloads:
            for phase in phases:
                found: dict[str, list[dict]] = {lib: [] for lib in fitting[workload, phase]}
                for k in range(rounds):
                    for lib in found:
                        done += 1
                        if lib in absent or (found[lib] and found[lib][-1]["status"] != "ok"):
                            continue  # it would say the same again
                        job = dict(workload=workload, phase=phase, lib=lib, seconds=seconds, threads=threads, seed=k)
                        got = one(command, job | {"small": small}, folder, threads, seconds)
                        report["versions"].update(got.pop("versions", {}))
                        found[lib].append(got)
                        say(f"[{done}/{total}] {workload} {phase} {lib}: {_line(got)}")
                        if got["status"] == "not installed":
                            absent[lib] = got["reason"]
                            say(f"{lib}: {got['reason']} is not installed; skipped")
                for lib in found:
                    parts = found[lib] or [{"status": "not installed", "reason": absent[lib]}]
                    report["results"].append(together(workload, phase, lib, parts, small))
    except KeyboardInterrupt:
        report["interrupted"] = True
    return report


def one(
    command: Sequence[str],
    job: dict[str, Any],
    folder: str | os.PathLike | None,
    threads: int,
    seconds: float,
    more: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What one process found; ``more`` is added to its environment."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(threads)), **(more or {})}
    try:
        done = subprocess.run(
            [*command, json.dumps(job)],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT + 2 * seconds,
        )
    except subprocess.TimeoutExpired as error:
        return {"status": "failed", "reason": f"took more than {error.timeout:.0f} seconds"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    last = lines[-1] if lines else ""
    if done.returncode:
        return {"status": "failed", "reason": last or f"exit status {done.returncode}"}
    try:
        found = json.loads(last)
        found["status"]
    except (ValueError, KeyError, TypeError):
        return {"status": "failed", "reason": f"printed {last!r}; wanted JSON with a status"}
    return found


def together(workload: str, phase: str, lib: str, parts: list[dict], small: bool) -> dict[str, Any]:
    """One result of all rounds: the median of their medians in ms, the least and the quartiles, GFLOP/s."""
    result: dict[str, Any] = {"workload": workload, "phase": phase, "lib": lib, "status": parts[-1]["status"]}
    if result["status"] != "ok":
        return {**result, "reason": parts[-1]["reason"]}
    middle = statistics.median(part["median"] for part in parts)
    gflop = find(workload).gflop(phase, small)
    known = {
        key: statistics.median(values)
        for key in ("first", "peak_mb", "moved")
        if (values := [part[key] for part in parts if part.get(key) is not None])
    }
    result |= known | {
        "ms": middle,
        "min": min(part["min"] for part in parts),
        "q1": statistics.median(part["q1"] for part in parts),
        "q3": statistics.median(part["q3"] for part in parts),
        "medians": [part["median"] for part in parts],
        "gflop": gflop,
        "gflop_per_s": 1e3 * gflop / middle,
    }
    if phase == "train":
        result |= {key: statistics.median(part[key] for part in parts) for key in ("loss_start", "loss_end")}
        result["trained"] = result["loss_end"] < result["loss_start"]
    return {**result, "rounds": parts}


def _roofs(found: dict[str, dict], say: Callable[[str], Any]) -> dict[str, dict[str, float]]:
    """For each kind of work what each library reached in billions a second, and the best of them as ``roof``."""
    roofs: dict[str, dict[str, float]] = {}
    for lib, got in found.items():
        if got["status"] != "ok":
            say(f"roofs {lib}: {_line(got)}")
            continue
        for kind, rate in got["rates"].items():
            roofs.setdefault(kind, {})[lib] = rate
    return {kind: {**rates, "roof": max(rates.values())} for kind, rates in roofs.items()}


def _line(found: dict[str, Any]) -> str:
    if found["status"] != "ok":
        return f"{found['status']}: {found['reason']}"
    loss = "" if found["loss_end"] is None else f", loss {found['loss_start']:.3f} to {found['loss_end']:.3f}"
    return f"{found['median']:.3f} ms{loss}"


def machine() -> dict[str, Any]:
    """The processor's name, how many cores this process may use, vector instructions, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu, vectors = platform.processor() or platform.machine(), []
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(
            (part.strip() for part in line.split(":", 1)) for line in info.read_text().splitlines() if ":" in line
        )
        cpu = fields.get("model name", cpu)
        flags = fields.get("flags", "").split()
        vectors = [name for name in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile") if name in flags]
    return {"cpu": cpu, "cores": cores, "isa": " ".join([platform.machine(), *vectors]), "system": platform.platform()}
