"""Training and inference steps of whole models beside other libraries.

    python -m benchmarks steps [--workloads mlp_b32,vae] [--libs tensorlite,torch,jax] [--rounds 3] [--bars]
                               [--plot FILE]

Every figure comes from fresh processes in turn, library after library. Below the milliseconds a second table says how
many times as fast our best (compiled) is as the best of the peers as they are installed, and what that takes of the
machine. Exit status 1 when a process failed or, with --bars, a bar was missed, 2 for arguments that make no sense. A
library that is not installed, or a workload whose parts a library does not have, is skipped, and the table says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

from benchmarks.child import LIBS, same
from tensorlite.bench import bars, chart, harness, report
from tensorlite.bench.steps import PHASES
from tensorlite.bench.workloads import WORKLOADS
from tensorlite.errors import DataError
from tensorlite.utils.data.files import check_writable
from tensorlite.utils.extras import MissingExtraError, require

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_LIBS = (
    "tensorlite,tensorlite_compiled,tensorlite_nhwc_compiled,torch,torch_fused,torch_nhwc,torch_kept,torch_compile,"
    "torch_nhwc_compile,jax"
)


def main(argv: list[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(listing()))
        return 0
    out = args.out or ROOT / "benchmarks" / "results" / f"steps-{date.today()}.json"
    try:  # what cannot be written is said before an hour of measuring
        check_writable(out)
        if args.plot:
            check_writable(args.plot)
            require("matplotlib.figure", "examples", "--plot")
    except (DataError, MissingExtraError) as error:
        parser.error(str(error))
    found = harness.run(
        args.workloads,
        args.phases,
        args.libs,
        [sys.executable, "-m", "benchmarks.child"],
        rounds=args.rounds,
        seconds=args.seconds,
        threads=args.threads,
        small=args.small,
        folder=ROOT,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        fits=lambda workload, phase, lib: same(workload, phase, lib) in (lib, *skipped(args.libs)),
        roofs=[lib for lib in ("tensorlite", "torch") if any(name.startswith(lib) for name in args.libs)],
    )
    found["summary"] = bars.summary(found)
    print(f"{report.table(found)}\n\n{bars.table(found['summary'])}")
    report.save(found, out)
    print(f"wrote {out}")
    if args.plot and found["results"]:
        chart.draw(found, args.plot)
        print(f"wrote {args.plot}")
    if found.get("interrupted"):
        return 130
    missed = args.bars and bars.misses(found["summary"])
    return 1 if missed or any(result["status"] == "failed" for result in found["results"]) else 0


def skipped(libs: list[str]) -> list[str]:
    """Columns that nobody asked for: others may stand for them."""
    return [lib for lib in LIBS if lib not in libs]


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks steps", description=(__doc__ or "").split("\n", 1)[0], epilog="see also --list"
    )

    parser.add_argument("--workloads", type=some(WORKLOADS), default="all", help="some, with commas between, or all")
    parser.add_argument("--phases", type=some(PHASES), default="all", help="train, infer or all")
    parser.add_argument("--libs", type=some(LIBS), default=DEFAULT_LIBS, help=f"default: {DEFAULT_LIBS}")
    parser.add_argument("--rounds", type=above(int), default=3, help="fresh processes for each figure")
    parser.add_argument("--seconds", type=above(float), default=1.0, help="measured in each process")
    parser.add_argument("--threads", type=above(int), default=2, help="of every library")
    parser.add_argument("--bars", action="store_true", help="exit status 1 when a bar is missed")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/steps-DATE.json")
    parser.add_argument("--plot", type=Path, help="a chart: a .png, .svg or .pdf file")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to try the benchmark, not to measure")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    return parser


def some(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an argument that is some of these names, with commas between, or all."""
    names = list(known)

    def chosen(text: str) -> list[str]:
        wanted = names if text == "all" else list(dict.fromkeys(text.split(",")))
        if unknown := [name for name in wanted if name not in names]:
            raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}; wanted some of {', '.join(names)}, or all")
        return wanted

    return chosen


def above(kind: type) -> Callable[[str], float]:
    """The type of an argument that is a number above 0."""

    def number(text: str) -> float:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"got {text}; wanted more than 0")
        return value

    return number


def listing() -> list[str]:
    """Every workload and library, a line each."""
    lines = ["workloads:"]
    for workload in WORKLOADS.values():
        train, infer = (workload.gflop(phase) for phase in PHASES)
        batch = workload.sizes["batch"]
        lines.append(
            f"  {workload.name:10s} {workload.title}; batch {batch}; GFLOP {train:.3g} train, {infer:.3g} infer"
        )
    return [*lines, "libraries:", *(f"  {name}" for name in LIBS)]
