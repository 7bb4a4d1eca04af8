"""README's figures of speed, written from the files in benchmarks/results.

    python -m benchmarks readme [--check]

A section lies between a line ``<!-- speed NAME: python -m benchmarks readme -->`` and ``<!-- end of speed NAME -->``.
NAME is that of a command, and its newest file of results is taken. With --check nothing is written: exit status 1 says
which sections are not what their files say, or have a file and no place.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.steps import ROOT
from tensorlite.bench import bars, growth
from tensorlite.io.files import atomic

RESULTS = ROOT / "benchmarks" / "results"
NAMES = {
    "tensorlite": "tensorlite",
    "tensorlite_compiled": "tensorlite compiled",
    "tensorlite_nhwc": "tensorlite channels_last",
    "tensorlite_nhwc_compiled": "tensorlite compiled, channels_last",
    "torch": "PyTorch",
    "torch_fused": "PyTorch, fused Adam",
    "torch_nhwc": "PyTorch, fused, channels_last",
    "torch_kept": "PyTorch, memory kept",
    "torch_compile": "torch.compile",
    "torch_nhwc_compile": "torch.compile, channels_last",
    "jax": "JAX",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks readme", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when README is stale")
    parser.add_argument("--file", type=Path, default=ROOT / "README.md", help="default: README.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: benchmarks/results")
    args = parser.parse_args(argv)
    old = args.file.read_text(encoding="utf-8")
    new, wrong = filled(old, args.results)
    for line in wrong:
        print(line, file=sys.stderr)
    if args.check:
        return 1 if wrong else 0
    if new != old:
        with atomic(args.file) as file:
            file.write(new.encode())
        print(f"wrote {args.file}")
    return 0


def filled(text: str, results: Path = RESULTS) -> tuple[str, list[str]]:
    """The text with its sections as the results say, and what was wrong with it, a line each."""
    wrong = []
    places = re.findall(r"^<!-- speed (\w+):", text, re.MULTILINE)
    wrong += [f"speed {name}: no such section; there are {', '.join(SECTIONS)}" for name in set(places) - set(SECTIONS)]
    for name, section in SECTIONS.items():
        path = newest(name, results)
        if name not in places:
            if path and places:
                wrong.append(f"speed {name}: {path.name} has no place")
            continue
        if path is None:
            wrong.append(f"speed {name}: no file of results")
            continue
        head, end = f"<!-- speed {name}: python -m benchmarks readme -->", f"<!-- end of speed {name} -->"
        pattern = re.compile(f"^{re.escape(head)}$.*?^{re.escape(end)}$", re.MULTILINE | re.DOTALL)
        if not pattern.search(text):
            wrong.append(f"speed {name}: wanted a line {head} and later a line {end}")
            continue
        body = section(json.loads(path.read_text(encoding="utf-8")), path)
        whole = f"{head}\n\n{body.strip()}\n\n{end}"
        made = pattern.sub(lambda _, whole=whole: whole, text)
        if made != text:
            wrong.append(f"speed {name}: not what {path.name} says; python -m benchmarks readme writes it")
        text = made
    return text, wrong


def newest(name: str, results: Path) -> Path | None:
    """The file of results with the latest date in its name."""
    return max(results.glob(f"{name}-????-??-??.json"), default=None)


# ---- pieces
def markdown(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three digits, no exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def pair(values: list[float | None] | None) -> str:
    return " / ".join(number(v) or "-" for v in values) if values else ""


def where(found: dict[str, Any]) -> str:
    """When and on what it was measured."""
    machine, versions = found["machine"], found["versions"]
    said = {"python": "Python", "numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
    known = ", ".join(f"{name} {versions[key]}" for key, name in said.items() if key in versions)
    vectors = "AVX-512" if "avx512f" in machine["isa"] else "AVX2" if "avx2" in machine["isa"] else "no AVX"
    return f"{found['date']}, {machine['cores']} cores of an {machine['cpu']} with {vectors} ({known})"


def files(path: Path) -> str:
    """Links to the numbers and, where there is one, the picture."""
    picture = path.with_suffix(".png")
    text = f"[The numbers](benchmarks/results/{path.name})"
    return text + (f" and [a picture](benchmarks/results/{picture.name})" if picture.exists() else "") + "."


# ---- sections
def steps(found: dict[str, Any], path: Path) -> str:
    rows, libs = bars.rows(found), [lib for lib in NAMES if any(r["lib"] == lib for r in found["results"])]
    summary = {(r["workload"], r["phase"]): r for r in bars.summary(found)}
    parts = [
        f"Milliseconds a step, median of {found['rounds']} alternating fresh processes of {found['threads']}"
        f" threads each,"
        f" from `python -m benchmarks steps --rounds {found['rounds']} --seconds {found['seconds']:g}`: {where(found)}."
        f" The last columns say how many times as fast our quickest (compiled) is as the quickest of the others as they"
        f" are installed, and what is wanted. Memory kept: glibc told never to give memory back, an aside. An"
        f" empty cell"
        f" would be the same as another column. {files(path)}"
    ]
    for phase, title in (("train", "training step"), ("infer", "inference")):
        lines = []
        for workload, p, by_lib in rows:
            if p == phase:
                r = summary[workload, phase]
                cells = [number(by_lib.get(lib, {}).get("ms")) for lib in libs]
                wanted = times(r["bar"]) + (" (missed)" if r["reached"] is False else "")
                lines.append([f"`{workload}`", *cells, times(r["speedup"]), wanted, times(r["aim"])])
        if lines:
            parts.append(markdown([title, *(NAMES[lib] for lib in libs), "times as fast", "wanted", "aim"], lines))
    lines = []
    for (workload, phase), r in summary.items():
        if r.get("gemm_share") is not None:
            shares = [percent(r["gemm_share"]), percent(r["moved_share"]), times(r["kept"]), times(r["eager"])]
            lines.append([f"`{workload}` {phase}", *shares, pair(r.get("first")), pair(r.get("peak_mb"))])
    if lines:
        roofs = found["roofs"]
        parts.append(
            f"What our quickest takes of the machine: its matrix products as a share of the"
            f" {roofs['flops']['roof']:.0f}"
            f" GFLOP/s and the bytes that its kernels read and write, those in a cache too, as a share of the"
            f" {roofs['bytes']['roof']:.1f} GB/s that were measured in the same run; how many times as fast it is as"
            f" PyTorch with memory kept and as our own eager step; the first step in ms and the memory beyond"
            f" import and"
            f" data in MB, ours / the best peer's."
        )
        head = ["", "GEMM", "moved", "to kept", "to eager", "first step", "peak memory"]
        parts.append(markdown(head, lines))
    reached = [r for r in summary.values() if r["reached"] is not None]
    parts.append(
        f"{sum(r['reached'] for r in reached)} of {len(reached)} bars are reached (`--bars` exits 1 else). "
        f"`python -m benchmarks steps --list` tells what the models are."
    )
    return "\n\n".join(parts)


def headline(found: dict[str, Any], path: Path) -> str:
    recipe = found["recipe"]
    lines = []
    for r in found["results"]:
        if r["status"] == "ok":
            spread = f"{r['seconds']:.2f} ({r['least']:.2f} to {r['most']:.2f})" + (
                "" if r["reached"] else ", goal missed"
            )
            cold = f"{r['cold']:.2f}" + (
                f" (at first {r['cold_first']:.1f})" if r["cold_first"] > 1.5 * r["cold"] else ""
            )
            lines.append([NAMES[r["lib"]], spread, f"{r['steps']:.0f}", cold])
    text = (
        f"The MNIST CNN trained to {recipe['goal']:g} on the test images (first 10,000 training images, batch"
        f" {recipe['batch']}, Adam from {recipe['lr']:g} down a cosine), seconds from the data in memory to the look at"
        f" the test images that finds it, one look an epoch; median (least to most) of {found['seeds']} seeds,"
        f" alternating, every library from the same weights and in the same order: `python -m benchmarks"
        f" headline --seeds"
        f" {found['seeds']}`, {where(found)}. A cold start is from the start of the process to the end of its first"
        f" step. {files(path)}\n\n" + markdown(["", "seconds to the goal", "steps", "cold start"], lines)
    )
    if found["ratio"] is None:
        return text
    return text + (
        f"\n\n{NAMES[found['ours']]} takes {found['ratio']:.2f} of the time of {NAMES[found['best']]}; wanted"
        f" is at most"
        f" {found['bar']:g}{'' if found['reached'] else ', which is missed'}."
    )


def grows(found: dict[str, Any], path: Path) -> str:
    lines = []
    for (model, what), by_lib in growth.curves(found).items():
        for lib, points in by_lib.items():
            first, last = points[0], points[-1]
            power = growth.exponent(points)
            cells = [f"{first[0]}: {number(first[1])}", f"{last[0]}: {number(last[1])}"]
            lines.append([f"{model}, {what}", NAMES[lib], *cells, "" if power is None else f"{power:.2f}"])
    return (
        f"How a training step's time grows, milliseconds at the least and the greatest value and the power of the last"
        f" stretch, from `python -m benchmarks growth --rounds {found['rounds']} --seconds {found['seconds']:g}`:"
        f" {where(found)}. {files(path)}\n\n" + markdown(["", "", "least", "greatest", "power"], lines)
    )


def replay(found: dict[str, Any], path: Path) -> str:
    lines = [
        [f"`{r['workload']}` {r['phase']}", r["steps"], number(r["step"]), percent(r["overhead"]), percent(r["python"])]
        for r in found["results"]
    ]
    over = sum(r["overhead"] > found["bar"] for r in found["results"])
    return (
        f"What a compiled step takes beyond its kernels, each timed in a loop over the same arrays, and what"
        f" of the step a"
        f" C++ executor could save: `python -m benchmarks replay --rounds {found['rounds']}`, {where(found)}. {over} of"
        f" {len(lines)} are above {found['bar']:.0%}. {files(path)}\n\n"
        + markdown(["", "kernels", "µs a step", "beyond its kernels", "Python's part"], lines)
    )


def ops(found: dict[str, Any], path: Path) -> str:
    good = [r for r in found["results"] if r["status"] == "ok"]
    return (
        f"Single ops beside PyTorch's with its memory kept, turn by turn in one process, with 95 % intervals"
        f" and the share"
        f" of the measured roof, from `python -m benchmarks ops --bars --rounds {found['rounds']} --seconds"
        f" {found['seconds']:g}`: {where(found)}. {sum(r['reached'] for r in good)} of"
        f" {len(found['results'])} reach the"
        f" ratio that is wanted. {files(path)}"
    )


def overhead(found: dict[str, Any], path: Path) -> str:
    lines = []
    for name, row in found["ops"].items():
        cells = [f"`{name}`"]
        for kind in ("forward", "chain"):
            ours, theirs = row[kind]["tensorlite"], row[kind].get("torch")
            cells += [f"{ours:.2f}", times(theirs), times(theirs and ours / theirs)]
        lines.append(cells)
    head = ["8x8 float32, µs an op", "forward with graph", "PyTorch", "ratio"]
    head += ["chain of 1,000, forward and backward", "PyTorch", "ratio"]
    text = (
        f"What an eager op costs beside PyTorch, where the arithmetic is next to nothing; below 1 tensorlite is faster."
        f" Median of {found['runs']} alternating runs of `python benchmarks/overhead.py` on {found['date']}"
        f" ({found['machine']}); read the ratios, the times drift with the machine. {files(path)}\n\n"
        + markdown(head, lines)
    )
    mlp = found.get("mlp")
    if mlp and mlp["torch"]:
        text += (
            f"\n\nForward and backward of the MLP 784-128-10 at batch 32 took {mlp['tensorlite']:.0f} µs, PyTorch"
            f" {mlp['torch']:.0f} µs ({mlp['tensorlite'] / mlp['torch']:.2f}), each in processes of its own."
        )
    return text


SECTIONS: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "overhead": overhead,
    "steps": steps,
    "headline": headline,
    "growth": grows,
    "replay": replay,
    "ops": ops,
}  # by the name of their command and files
