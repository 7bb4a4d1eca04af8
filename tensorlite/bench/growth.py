"""How the time of a step grows: workloads at other sizes, one size after another. Floor 6."""

from __future__ import annotations

import math
from typing import Any

# (model, what grows): the workload, its values, and the sizes that stand for a value
CURVES: dict[tuple[str, str], tuple[str, tuple[int, ...], Any]] = {
    ("mlp", "batch"): ("mlp_b128", (8, 32, 128, 512, 2048), lambda n: dict(batch=n)),
    ("mlp", "width"): ("mlp_b128", (32, 128, 512, 2048), lambda n: dict(hidden=(n,))),
    ("cnn", "batch"): ("cnn_b32", (4, 16, 64, 256), lambda n: dict(batch=n)),
    ("cnn", "width"): ("cnn_b32", (8, 16, 32, 64), lambda n: dict(widths=(n, 2 * n, 2 * n, 2 * n))),
    ("lstm", "batch"): ("lstm_seq", (4, 16, 64, 256), lambda n: dict(batch=n)),
    ("lstm", "width"): ("lstm_seq", (16, 64, 256, 512), lambda n: dict(widths=(n, n // 2))),
    ("lstm", "length"): ("lstm_seq", (12, 50, 200, 800), lambda n: dict(length=n)),
}
GROWING = ("batch", "width", "length")


def names(models: list[str], growing: list[str], most: int | None = None) -> dict[str, tuple[str, str, int]]:
    """The workloads of these curves as ``workloads.find`` takes them: name -> (model, what grows, value)."""
    found = {}
    for (model, what), (base, values, sizes) in CURVES.items():
        if model in models and what in growing:
            for value in values[:most]:
                changes = ";".join(f"{key}={size}".replace(" ", "") for key, size in sizes(value).items())
                found[f"{base}@{changes}"] = (model, what, value)
    return found


def curves(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
    """(model, what grows) -> library -> (value, milliseconds) of what was measured."""
    found: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for result in report["results"]:
        by_lib = found.setdefault((result["model"], result["grows"]), {})
        if result["status"] == "ok":
            by_lib.setdefault(result["lib"], []).append((result["value"], result["ms"]))
    return found


def exponent(points: list[tuple[int, float]]) -> float | None:
    """How steep the last stretch is: time grows as the value to this power."""
    if len(points) < 2:
        return None
    (a, first), (b, last) = points[-2:]
    return math.log(last / first) / math.log(b / a)


def table(report: dict[str, Any]) -> str:
    """Milliseconds of each curve, a line a library, and the power of its last stretch."""
    lines = []
    for (model, what), by_lib in curves(report).items():
        values = sorted({value for points in by_lib.values() for value, _ in points})
        lines.append(f"{model}, {what:20s} " + " ".join(f"{v:>9d}" for v in values) + "    power")
        for lib, points in by_lib.items():
            known, power = dict(points), exponent(points)
            cells = " ".join(f"{known[v]:9.3f}" if v in known else f"{'-':>9s}" for v in values)
            lines.append(f"  {lib:24s} {cells} {'-' if power is None else format(power, '8.2f')}")
    lines += [
        f"{r['workload']} {r['lib']}: {r['status']}: {r['reason']}" for r in report["results"] if r["status"] != "ok"
    ]
    return "\n".join(lines)
