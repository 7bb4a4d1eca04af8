"""What is wanted of whole steps, and how near a report comes to it. Floor 6."""

from __future__ import annotations

import statistics
from typing import Any

OURS = "tensorlite"
COMPILED = ("tensorlite_compiled", "tensorlite_nhwc_compiled")  # what the bars are for
EAGER = ("tensorlite", "tensorlite_nhwc")
BESIDE = ("torch_kept",)  # not as it is installed: reported, but no peer that a bar is measured by

# times as fast as the best of the peers, at least, and what is aimed at
BARS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("mlp_b32", "train"): (1.6, 3.0),
    ("mlp_b128", "train"): (1.6, 3.0),
    ("mlp_big", "train"): (1.0, 1.4),
    ("cnn_b32", "train"): (2.5, 4.0),
    ("cnn_b128", "train"): (1.6, 4.0),
    ("vae", "train"): (1.3, 2.0),
    ("resnet8", "train"): (1.2, 1.8),
    ("lstm_seq", "train"): (2.0, 3.0),
    ("text_lstm", "train"): (2.0, 3.0),
    ("text_gru", "train"): (3.0, 5.0),
    ("text_rnn", "train"): (2.5, 5.0),
    ("char_lm", "train"): (1.1, 1.4),
    ("gpt_nano", "train"): (1.2, 1.8),
}
BARS |= {(name, "infer"): (1.3, None) for name in ("mlp_b32", "mlp_b128", "cnn_b32", "cnn_b128", "lstm_seq")}


def rows(report: dict[str, Any]) -> list[tuple[str, str, dict[str, dict]]]:
    """(workload, phase, result by library), in the order in which they were measured."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for result in report["results"]:
        found.setdefault((result["workload"], result["phase"]), {})[result["lib"]] = result
    return [(*key, by_lib) for key, by_lib in found.items()]


def _quickest(by_lib: dict[str, dict], libs: Any) -> dict[str, Any] | None:
    found = [by_lib[lib] for lib in libs if lib in by_lib and by_lib[lib]["status"] == "ok"]
    return min(found, key=lambda r: r["ms"], default=None)


def our_best(by_lib: dict[str, dict]) -> dict[str, Any] | None:
    """The quickest of our compiled results; of the others where nothing was compiled."""
    return _quickest(by_lib, COMPILED if set(COMPILED) & set(by_lib) else EAGER)


def best_peer(by_lib: dict[str, dict]) -> dict[str, Any] | None:
    """The quickest result that is not ours, of libraries as they are installed."""
    return _quickest(by_lib, [lib for lib in by_lib if not lib.startswith(OURS) and lib not in BESIDE])


def speedup(by_lib: dict[str, dict]) -> float | None:
    """The best peer's time over ours: above 1 we are faster. None where one of the two is missing."""
    ours, best = our_best(by_lib), best_peer(by_lib)
    return best["ms"] / ours["ms"] if ours and best else None


def summary(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each workload and phase: how many times as fast we are, what is wanted, and what it takes.

    ``speedup`` is of the medians, ``low`` of the least lucky round. ``kept`` is beside PyTorch that keeps its memory;
    ``gemm_share`` of our matrix products and ``moved_share`` of the bytes that our kernels read and write (also those
    that stay in a cache) in the machine's roofs. ``first`` is the first step in milliseconds, ``peak_mb`` the memory
    beyond what the import took and the data; each ours and the best peer's.
    """
    found = []
    roofs = {} if report["small"] else report.get("roofs", {})
    for workload, phase, by_lib in rows(report):
        ours, best = our_best(by_lib), best_peer(by_lib)
        bar, aim = BARS.get((workload, phase), (None, None))
        row: dict[str, Any] = {"workload": workload, "phase": phase, "bar": bar, "aim": aim, "speedup": speedup(by_lib)}
        row |= {"ours": ours and ours["lib"], "best": best and best["lib"]}
        if ours:
            row["gemm_share"] = ours["gflop_per_s"] / roofs["flops"]["roof"] if "flops" in roofs else None
            moved = ours.get("moved")
            row["moved_share"] = moved / ours["ms"] / 1e6 / roofs["bytes"]["roof"] if moved and roofs else None
            eager, kept = _quickest(by_lib, EAGER), _quickest(by_lib, BESIDE)
            row["eager"] = eager["ms"] / ours["ms"] if eager else None
            row["kept"] = kept["ms"] / ours["ms"] if kept else None
        if ours and best:
            row["low"] = min(b / a for a, b in zip(ours["medians"], best["medians"]))
            for key in ("first", "peak_mb"):
                row[key] = [ours.get(key), best.get(key)]
        row["reached"] = None if bar is None else row["speedup"] is not None and row["speedup"] >= bar
        found.append(row)
    return found


def misses(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose bar is not reached."""
    return [row for row in found if row["reached"] is False]


def table(found: list[dict[str, Any]]) -> str:
    """The rows as text: the shares in percent, the first step in milliseconds, memory in MB, each ours / theirs."""
    lines = [
        f"{'':10s} {'':5s} {'times':>6s} {'low':>6s} {'bar':>5s} {'aim':>5s} {'':6s} {'eager':>6s} {'kept':>6s} "
        f"{'GEMM':>5s} {'moved':>6s} {'first step':>17s} {'peak MB':>13s}  ours, best peer"
    ]
    for r in found:
        verdict = {None: "", True: "yes", False: "MISSED"}[r["reached"]]
        cells = [f"{r['workload']:10s} {r['phase']:5s} {_x(r['speedup']):>6s} {_x(r.get('low')):>6s}"]
        cells.append(f"{_x(r['bar']):>5s} {_x(r['aim']):>5s} {verdict:6s}")
        cells.append(f"{_x(r.get('eager')):>6s} {_x(r.get('kept')):>6s}")
        cells.append(f"{_percent(r.get('gemm_share')):>5s} {_percent(r.get('moved_share')):>6s}")
        cells += [f"{_both(r.get('first')):>17s}", f"{_both(r.get('peak_mb')):>13s} "]
        lines.append(" ".join(cells) + f" {r['ours'] or '-'}, {r['best'] or '-'}")
    speedups = [r["speedup"] for r in found if r["speedup"]]
    if speedups:
        lines.append(f"{statistics.geometric_mean(speedups):.2f} times as fast on (geometric) average")
    wanted = [r for r in found if r["reached"] is not None]
    lines.append(f"{sum(r['reached'] for r in wanted)} of {len(wanted)} bars reached")
    lines += [
        f"missed: {r['workload']} {r['phase']}: {_x(r['speedup'])} times as fast as {r['best'] or 'nobody'}; "
        f"wanted {r['bar']:g}"
        for r in misses(found)
    ]
    return "\n".join(lines)


def _x(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _both(values: list[float | None] | None) -> str:
    if not values:
        return "-"
    return " / ".join("-" if v is None else f"{v:.3g}" if v < 100 else f"{v:.0f}" for v in values)
