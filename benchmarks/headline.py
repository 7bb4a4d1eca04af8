"""The MNIST CNN to 0.97 on the test images, tensorlite beside PyTorch in one run.

    python -m benchmarks headline [--seeds 5] [--data DIR] [--bars]

Every training is a process of its own, library after library, seed after seed. For a seed all of them start from the
same weights and see the same batches; what differs is the library. Time counts from the data in tensors to the look at
the test images that finds the goal reached; a cold start from the start of the process to the end of its first step.
Our best compiled is held beside PyTorch's best, its memory kept or not. Exit status 1 when a process failed or, with
--bars, ours takes more than half of PyTorch's time or misses the goal; 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.child import LIBS
from benchmarks.digits import FILES, RECIPE
from benchmarks.steps import ROOT, above, some
from tensorlite.bench import bars, harness, report
from tensorlite.errors import DataError
from tensorlite.utils.data.files import check_writable

BAR = 0.5  # our time / PyTorch's best, at most
CHOICES = [lib for lib in LIBS if lib != "jax"]


def main(argv: list[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    out = args.out or ROOT / "benchmarks" / "results" / f"headline-{date.today()}.json"
    if args.data is None or (folder := data_folder(args.data)) is None:
        parser.error(f"--data: {args.data}: no MNIST there; give its folder, or name it by TENSORLITE_DATA")
    try:
        check_writable(out)
    except DataError as error:
        parser.error(str(error))
    found = measured(args.libs, args.seeds, folder, args.threads, args.small)
    if not found["results"]:
        return 1
    print(table(found))
    report.save(found, out)
    print(f"wrote {out}")
    failed = [r for r in found["results"] if r["status"] == "failed"]
    return 1 if failed or (args.bars and not found["reached"]) else 0


def data_folder(given: Path) -> Path | None:
    """The folder with the four files: the one given, or one of those in it."""
    return next((at for at in (given, given / "mnist", given / "mnist10k") if (at / FILES["images"][0]).exists()), None)


def measured(libs: list[str], seeds: int, folder: Path, threads: int, small: bool) -> dict[str, Any]:
    """The report: a result for each library, of all seeds, and how ours compares with PyTorch's best."""
    command = [sys.executable, "-m", "benchmarks.child"]
    recipe = RECIPE | (dict(batch=8, epochs=2, goal=0.2) if small else {})
    parts: dict[str, list[dict]] = {lib: [] for lib in libs}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as cache:  # of torch.compile: empty at first, then as warm as it gets
        for seed in range(seeds):
            for lib in libs:
                job = dict(lib=lib, seed=seed, threads=threads, small=small, digits=recipe, data=str(folder))
                got = harness.one(
                    command, job | {"started": time.time()}, ROOT, threads, 0, {"TORCHINDUCTOR_CACHE_DIR": cache}
                )
                versions.update(got.pop("versions", {}))
                parts[lib].append(got)
                said = f"{got['seconds']:.2f} s, {got['accuracies'][-1]:.4f}" if got["status"] == "ok" else got
                print(f"seed {seed} {lib}: {said}", file=sys.stderr, flush=True)
    head = dict(kind="headline", date=str(date.today()), machine=harness.machine(), versions=versions)
    found = head | dict(threads=threads, small=small, seeds=seeds, recipe=recipe, bar=BAR)
    return found | verdict([together(lib, got) for lib, got in parts.items()])


def together(lib: str, parts: list[dict]) -> dict[str, Any]:
    """One library's result: medians over the seeds."""
    if bad := [part for part in parts if part["status"] != "ok"]:
        return {"lib": lib, "status": bad[0]["status"], "reason": bad[0]["reason"]}
    middle = {key: statistics.median(part[key] for part in parts) for key in ("seconds", "stepping", "looking", "cold")}
    return {
        "lib": lib,
        "status": "ok",
        **middle,
        "least": min(part["seconds"] for part in parts),
        "most": max(part["seconds"] for part in parts),
        "steps": statistics.median(part["steps"] for part in parts),
        "cold_first": parts[0]["cold"],
        "reached": all(part["reached"] for part in parts),
        "rounds": parts,
    }


def verdict(results: list[dict[str, Any]]) -> dict[str, Any]:
    """``ratio`` of our time to PyTorch's best, of those that reach the goal with every seed; whether it is enough."""
    good = [r for r in results if r["status"] == "ok" and r["reached"]]

    def quickest(libs: list[str]) -> dict[str, Any] | None:
        return min((r for r in good if r["lib"] in libs), key=lambda r: r["seconds"], default=None)

    ours = quickest(list(bars.COMPILED))
    best = quickest([lib for lib in CHOICES if not lib.startswith(bars.OURS)])
    ratio = ours["seconds"] / best["seconds"] if ours and best else None
    names = {"ours": ours and ours["lib"], "best": best and best["lib"]}
    return {"results": results, **names, "ratio": ratio, "reached": ratio is not None and ratio <= BAR}


def table(found: dict[str, Any]) -> str:
    """A line for each library, and what it comes to."""
    recipe = found["recipe"]
    lines = [
        f"MNIST CNN to {recipe['goal']:g} on the test images, batch {recipe['batch']}, Adam from {recipe['lr']:g}; "
        f"seconds, median of {found['seeds']} seeds; {report.describe(found)}",
        f"{'':26s} {'seconds':>8s} {'least':>7s} {'most':>7s} {'steps':>6s} {'in steps':>8s} {'in looks':>8s} "
        f"{'cold start':>10s} {'the first':>9s}",
    ]
    for r in found["results"]:
        if r["status"] != "ok":
            lines.append(f"{r['lib']:26s} {r['status']}: {r['reason']}")
            continue
        line = f"{r['lib']:26s} {r['seconds']:8.2f} {r['least']:7.2f} {r['most']:7.2f} {r['steps']:6.0f} "
        line += f"{r['stepping']:8.2f} {r['looking']:8.2f} {r['cold']:10.2f} {r['cold_first']:9.2f}"
        lines.append(line + ("" if r["reached"] else "  GOAL MISSED"))
    if found["ratio"] is None:
        lines.append("nothing to compare")
    else:
        lines.append(
            f"{found['ours']} takes {found['ratio']:.2f} of the time of {found['best']}; "
            f"wanted at most {found['bar']:g}: {'reached' if found['reached'] else 'MISSED'}"
        )
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser("python -m benchmarks headline", description=(__doc__ or "").split("\n", 1)[0])
    given = os.environ.get("TENSORLITE_DATA")
    parser.add_argument("--libs", type=some(CHOICES), default="all", help="some, with commas between; default: all")
    parser.add_argument("--seeds", type=above(int), default=5, help="trainings of each library")
    parser.add_argument("--data", type=Path, default=given and Path(given), help="default: $TENSORLITE_DATA")
    parser.add_argument("--threads", type=above(int), default=2, help="of every library")
    parser.add_argument("--bars", action="store_true", help="exit status 1 when the bar is missed")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/headline-DATE.json")
    parser.add_argument("--small", action="store_true", help="next to no training: to try the benchmark")
    return parser
