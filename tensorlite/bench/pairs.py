"""Two libraries in one process, turn by turn: times, their ratio and how sure it is, and what they come to. Floor 6."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tensorlite.bench.ops import ROOFS, ROWS, Row

REST = 0.003  # between two libraries' turns: so many seconds again and again, until nothing runs in them
SETTLE = 0.002  # seconds of untimed calls that wake them again and fill the caches
SAMPLE = 0.0002  # a time is that of as many calls as take this long
DIFFERENCE = 1e-3  # between the libraries' results, as a share of the greatest number
RESAMPLES = 4000


def rest() -> None:
    """Wait until the threads of whoever was measured before have given up waiting for more work, a second at most."""
    until = time.perf_counter() + 1
    while time.perf_counter() < until:
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < REST / 10:
            break


def turn(call: Callable[[], Any], seconds: float) -> float:
    """The median time of a call, in seconds, over about so many seconds and at least one call."""
    rest()
    clock = time.perf_counter
    until, took = clock() + SETTLE, 0.0
    while not took or (clock() < until and took < SETTLE):
        start = clock()
        call()
        took = clock() - start
    count = max(1, int(SAMPLE / took))
    times: list[float] = []
    until = clock() + seconds
    while not times or clock() < until:
        start = clock()
        for _ in range(count):
            call()
        times.append((clock() - start) / count)
    return statistics.median(times)


def alternate(ours: Any, theirs: Any, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of both in every round, each the median of a turn; who begins changes from round to round."""
    found: tuple[list[float], list[float]] = ([], [])
    collecting = gc.isenabled()
    gc.disable()
    try:
        for k in range(rounds):
            for which in (0, 1) if k % 2 else (1, 0):
                timed = (ours, theirs)[which]
                timed.renew()
                found[which].append(1e3 * turn(timed.call, seconds / (2 * rounds)))
    finally:
        if collecting:
            gc.enable()
    return found


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(theirs / ours, lower, upper end): the ratio of the medians over rounds, and where 95 % of it lies.

    The ends are the 2.5th and 97.5th percentile of the same ratio for rounds drawn anew with replacement, 4000 times;
    a round is drawn as a pair, so that what slowed the machine down for both cancels.
    """
    a, b = np.asarray(ours), np.asarray(theirs)
    drawn = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    ratios = np.median(b[drawn], 1) / np.median(a[drawn], 1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(b) / np.median(a)), float(low), float(high)


def compare(row: Row, libs: tuple[Any, Any], rounds: int, seconds: float, small: bool) -> dict[str, Any]:
    """One row of the report. Results that differ are not timed, so that a wrong op cannot win."""
    result: dict[str, Any] = {"name": row.name, "kind": row.kind, "amount": row.amount(small), "bar": row.bar}
    try:
        ours, theirs = (row.make(lib, **row.sized(small)) for lib in libs)
        first = []
        for timed in (ours, theirs):
            timed.renew()
            first.append([np.array(t.detach().numpy()) for t in timed.call()])
        difference = row.same(*first)
    except Exception as error:
        return {**result, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
    if not difference <= DIFFERENCE:
        return {**result, "status": "differs", "reason": f"results differ by {difference:.1e}"}
    del first
    times = alternate(ours, theirs, rounds, seconds)
    ratio, low, high = interval(*times)
    return {
        **result,
        "status": "ok",
        "difference": difference,
        "ours": statistics.median(times[0]),
        "theirs": statistics.median(times[1]),
        "ratio": ratio,
        "low": low,
        "high": high,
        "reached": low >= row.bar,
        "rounds": dict(ours=times[0], theirs=times[1]),
    }


def run(
    names: Iterable[str],
    libs: tuple[Any, Any],
    rounds: int = 15,
    seconds: float = 1.5,
    small: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """The results of these rows and, before them, of those that are the roofs; ``libs``: ours and its peer."""
    chosen = list(dict.fromkeys([*ROOFS.values(), *names]))
    results: list[dict[str, Any]] = []
    report: dict[str, Any] = {"results": results}
    try:
        for k, name in enumerate(chosen, 1):
            results.append(compare(ROWS[name], libs, rounds, seconds, small))
            say(f"[{k}/{len(chosen)}] {_line(results[-1])}")
            gc.collect()
    except KeyboardInterrupt:
        report["interrupted"] = True
    by_name = {r["name"]: r for r in results if r["status"] == "ok"}
    roofs = {}
    for kind, name in ROOFS.items():
        if name in by_name:
            times = by_name[name]["rounds"]
            rates = {lib: 1e3 * by_name[name]["amount"] / min(times[lib]) for lib in ("ours", "theirs")}
            roofs[kind] = {**rates, "roof": max(rates.values())}
    for r in by_name.values():
        r["rate"] = 1e3 * r["amount"] / r["ours"]
        r["share"] = r["rate"] / roofs[r["kind"]]["roof"] if r["kind"] in roofs else None
    return {**report, "roofs": roofs}


def _line(r: dict[str, Any]) -> str:
    if r["status"] != "ok":
        return f"{r['name']}: {r['status']}: {r['reason']}"
    return f"{r['name']}: {r['ours']:.3f} ms, {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"


UNITS = {"flops": "GFLOP/s", "bytes": "GB/s"}


def table(report: dict[str, Any], bars: bool = False) -> str:
    """A line for each op: both times, their ratio with its interval, our rate and its share of the roof."""
    width = max([len(r["name"]) for r in report["results"]], default=4)
    head = f"{'':{width}s} {'ours ms':>9s} {'torch ms':>9s} {'ratio':>6s} {'95 %':>14s} {'rate':>15s} {'roof':>5s}"
    lines = [head + (f" {'bar':>5s} reached" if bars else "")]
    for r in report["results"]:
        if r["status"] != "ok":
            lines.append(f"{r['name']:{width}s} {r['status']}: {r['reason']}")
            continue
        span = f"{r['low']:.2f} to {r['high']:.2f}"
        share = "-" if r["share"] is None else f"{r['share']:.0%}"
        line = f"{r['name']:{width}s} {r['ours']:9.4f} {r['theirs']:9.4f} {r['ratio']:6.2f} {span:>14s}"
        line += f" {r['rate']:7.1f} {UNITS[r['kind']]:7s} {share:>5s}"
        lines.append(line + (f" {r['bar']:5.2f} {'yes' if r['reached'] else 'NO'}" if bars else ""))
    for kind, roof in report["roofs"].items():
        lines.append(
            f"roof: {roof['roof']:.1f} {UNITS[kind]}, the quickest round of {ROOFS[kind]} "
            f"(ours {roof['ours']:.1f}, torch {roof['theirs']:.1f})"
        )
    if bars:
        reached = sum(r.get("reached", False) for r in report["results"])
        lines.append(f"{reached} of {len(report['results'])} bars reached by the lower end of the interval")
    return "\n".join(lines)
