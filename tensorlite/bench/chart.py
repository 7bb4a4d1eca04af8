"""The benchmarks' reports as pictures: our steps beside the peers', our ops beside PyTorch's. Floor 6."""

from __future__ import annotations

import os
from typing import Any

from tensorlite.bench.bars import OURS, our_best, rows, speedup
from tensorlite.bench.growth import GROWING, curves
from tensorlite.bench.report import describe
from tensorlite.io.files import atomic
from tensorlite.utils.extras import require

COLOURS = {
    OURS: "#2a6fbb",
    "tensorlite_compiled": "#123a66",
    "tensorlite_nhwc": "#7fb2e5",
    "tensorlite_nhwc_compiled": "#3f8f9f",
    "torch": "#d1605e",
    "torch_fused": "#e59a98",
    "torch_nhwc": "#b58a3c",
}
COLOURS |= {"torch_kept": "#8c4a2f", "torch_compile": "#7d5ba6", "torch_nhwc_compile": "#b39ddb", "jax": "#5b9a68"}
INK = "#444444"


def draw(report: dict[str, Any], path: str | os.PathLike) -> None:
    """Bars of milliseconds a step on a logarithmic scale, a panel for each phase, with the best peer's time over ours.

    Raises:
        MissingExtraError: without matplotlib, which the extra ``examples`` installs.
    """
    figures = require("matplotlib.figure", "examples", "a chart")
    found = rows(report)
    phases = list(dict.fromkeys(phase for _, phase, _ in found))
    libs = [lib for lib in report["libs"] if _measured(report, lib)]
    height = 1.6 + 0.16 * max(len(libs), 2) * max(sum(phase == p for _, phase, _ in found) for p in phases)
    figure = figures.Figure(figsize=(5.2 * len(phases) + 0.8, height), layout="constrained", dpi=150)
    figure.supxlabel(describe(report), fontsize=6, color=INK, wrap=True)
    width = 0.8 / max(len(libs), 1)
    panels = figure.subplots(1, len(phases), squeeze=False)[0]
    for axes, phase in zip(panels, phases):
        mine = [(workload, by_lib) for workload, p, by_lib in found if p == phase]
        for k, lib in enumerate(libs):
            at = [y + (k - (len(libs) - 1) / 2) * width for y in range(len(mine))]
            shown = [(y, by_lib[lib]) for y, (_, by_lib) in zip(at, mine) if by_lib.get(lib, {}).get("status") == "ok"]
            ms = [r["ms"] for _, r in shown]
            spread = [[r["ms"] - r["q1"] for _, r in shown], [r["q3"] - r["ms"] for _, r in shown]]
            spread = [[max(v, 0) for v in side] for side in spread]
            axes.barh(
                [y for y, _ in shown], ms, width, xerr=spread, label=lib, color=COLOURS.get(lib, "#999999"),
                error_kw={"lw": 0.6, "ecolor": INK},
            )  # fmt: skip
            for y, (_, by_lib) in zip(at, mine):
                best, times = our_best(by_lib), speedup(by_lib)
                if times is not None and best and best["lib"] == lib:
                    axes.annotate(f" {times:.2f}", (best["q3"], y), va="center", fontsize=6, color=INK)
        axes.set_title(f"{phase}, milliseconds a step; beside our best: the best peer's / ours", fontsize=8, color=INK)
        axes.set_yticks(range(len(mine)), [workload for workload, _ in mine], fontsize=8)
        axes.set_ylim(len(mine) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if libs:
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(len(libs), 4 * len(phases)),
            frameon=False, fontsize=7,
        )  # fmt: skip
    _save(figure, path)


def draw_ratios(report: dict[str, Any], path: str | os.PathLike) -> None:
    """A bar for each op: PyTorch's time over ours on a logarithmic scale, with the interval that holds 95 % of it.

    Raises:
        MissingExtraError: without matplotlib, which the extra ``examples`` installs.
    """
    figures = require("matplotlib.figure", "examples", "a chart")
    found = [r for r in report["results"] if r["status"] == "ok"]
    figure = figures.Figure(figsize=(7.5, 1.4 + 0.15 * len(found)), layout="constrained", dpi=150)
    figure.supxlabel(describe(report), fontsize=6, color=INK, wrap=True)
    axes = figure.subplots()
    ratio = [r["ratio"] for r in found]
    spread = [[max(r["ratio"] - r["low"], 0) for r in found], [max(r["high"] - r["ratio"], 0) for r in found]]
    axes.barh(
        range(len(found)), [v - 1 for v in ratio], 0.7, 1, xerr=spread,
        color=[COLOURS[OURS] if v >= 1 else COLOURS["torch"] for v in ratio], error_kw={"lw": 0.6, "ecolor": INK},
    )  # fmt: skip
    axes.scatter([r["bar"] for r in found], range(len(found)), s=14, c=INK, marker="|", lw=0.8, label="wanted")
    axes.axvline(1, color=INK, lw=0.8)
    axes.set_title("PyTorch's time / ours; above 1 ours is faster", fontsize=8, color=INK)
    axes.set_yticks(range(len(found)), [r["name"] for r in found], fontsize=5)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xticks([n for n in (0.1, 0.2, 0.5, 1, 2, 5, 10) if min(ratio, default=1) <= 1.5 * n])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=6, loc="lower right")
    _save(figure, path)


def draw_growth(report: dict[str, Any], path: str | os.PathLike) -> None:
    """A panel for each model and what grows: milliseconds a step of each library, both axes logarithmic.

    Raises:
        MissingExtraError: without matplotlib, which the extra ``examples`` installs.
    """
    figures = require("matplotlib.figure", "examples", "a chart")
    found = curves(report)
    models = list(dict.fromkeys(model for model, _ in found))
    growing = [what for what in GROWING if any(what == w for _, w in found)]
    size = (3.1 * len(growing) + 0.6, 2.3 * len(models) + 0.9)
    figure = figures.Figure(figsize=size, layout="constrained", dpi=150)
    figure.supxlabel(describe(report), fontsize=6, color=INK, wrap=True)
    panels = figure.subplots(len(models), len(growing), squeeze=False)
    shown: dict[str, Any] = {}
    for model, row in zip(models, panels):
        for what, axes in zip(growing, row):
            if (model, what) not in found:
                axes.set_visible(False)
                continue
            for lib, points in found[model, what].items():
                (shown[lib],) = axes.plot(
                    *zip(*points), color=COLOURS.get(lib, "#999999"), marker="o", ms=3, lw=1.4, label=lib
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(sorted({v for points in found[model, what].values() for v, _ in points}))
            axes.minorticks_off()
            axes.xaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.tick_params(labelsize=7)
            axes.set_title(f"{model}: milliseconds a step, by {what}", fontsize=8, color=INK)
            axes.grid(alpha=0.25, lw=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    if shown:
        figure.legend(shown.values(), shown, loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: str | os.PathLike) -> None:
    with atomic(path) as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower() or "png")


def _measured(report: dict[str, Any], lib: str) -> bool:
    return any(r["lib"] == lib and r["status"] == "ok" for r in report["results"])
