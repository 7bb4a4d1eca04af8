"""How the time of a training step grows with batch, width and sequence length, beside PyTorch.

    python -m benchmarks growth [--models mlp,cnn,lstm] [--growing batch,width,length] [--rounds 2] [--plot FILE]

Every point comes from fresh processes in turn, library after library, as those of ``python -m benchmarks steps``. Exit
status 1 when a process failed, 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from benchmarks.child import LIBS
from benchmarks.steps import ROOT, above, some
from tensorlite.bench import chart, growth, harness, report
from tensorlite.errors import DataError
from tensorlite.utils.data.files import check_writable
from tensorlite.utils.extras import MissingExtraError, require

DEFAULT_LIBS = "tensorlite,tensorlite_compiled,torch,torch_compile"


def main(argv: list[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    out = args.out or ROOT / "benchmarks" / "results" / f"growth-{date.today()}.json"
    plot = args.plot or out.with_suffix(".png")
    try:
        check_writable(out)
        check_writable(plot)
        require("matplotlib.figure", "examples", "--plot")
    except (DataError, MissingExtraError) as error:
        parser.error(str(error))
    points = growth.names(args.models, args.growing, 2 if args.small else None)
    if not points:
        parser.error("--growing: no such curve of these models")
    found = harness.run(
        list(points),
        ["train"],
        args.libs,
        [sys.executable, "-m", "benchmarks.child"],
        rounds=args.rounds,
        seconds=args.seconds,
        threads=args.threads,
        folder=ROOT,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    found["kind"] = "growth"
    for result in found["results"]:
        result["model"], result["grows"], result["value"] = points[result["workload"]]
    print(f"milliseconds a training step; {report.describe(found)}\n{growth.table(found)}")
    report.save(found, out)
    print(f"wrote {out}")
    if found["results"]:
        chart.draw_growth(found, plot)
        print(f"wrote {plot}")
    if found.get("interrupted"):
        return 130
    return 1 if any(result["status"] == "failed" for result in found["results"]) else 0


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser("python -m benchmarks growth", description=(__doc__ or "").split("\n", 1)[0])
    models = list(dict.fromkeys(model for model, _ in growth.CURVES))
    parser.add_argument("--models", type=some(models), default="all", help="some, with commas between, or all")
    parser.add_argument("--growing", type=some(growth.GROWING), default="all", help="batch, width, length or all")
    parser.add_argument("--libs", type=some(LIBS), default=DEFAULT_LIBS, help=f"default: {DEFAULT_LIBS}")
    parser.add_argument("--rounds", type=above(int), default=2, help="fresh processes for each point")
    parser.add_argument("--seconds", type=above(float), default=0.5, help="measured in each process")
    parser.add_argument("--threads", type=above(int), default=2, help="of every library")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/growth-DATE.json")
    parser.add_argument("--plot", type=Path, help="the chart; default: beside the numbers, a .png file")
    parser.add_argument("--small", action="store_true", help="two points a curve: to try the benchmark")
    return parser
