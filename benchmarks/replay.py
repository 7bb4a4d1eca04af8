"""What replaying a compiled step costs beyond its kernels.

    python -m benchmarks replay [--workloads mlp_b32,vae] [--phases train] [--rounds 9] [--bars]

Each kernel of a program is timed in a loop over the arrays that it works on; what the step takes beyond all of them is
the overhead: guards, calls, results, and arrays that are in no near cache any more. The column Python is what a C++
executor of the same plan could save: all of the step that is not in the row of calls, and the calls' own cost. Exit
status 1 with --bars when an overhead is above a tenth of its step.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from benchmarks.child import versions
from benchmarks.steps import ROOT, above, some
from tensorlite.bench import harness, replay, report
from tensorlite.bench.steps import PHASES
from tensorlite.bench.workloads import WORKLOADS
from tensorlite.errors import DataError
from tensorlite.utils.data.files import check_writable


def main(argv: list[str] | None = None) -> int:
    import tensorlite

    parser = argparse.ArgumentParser("python -m benchmarks replay", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workloads", type=some(WORKLOADS), default="all", help="some, with commas between, or all")
    parser.add_argument("--phases", type=some(PHASES), default="all", help="train, infer or all")
    parser.add_argument("--rounds", type=above(int), default=9, help="of which each figure is the median")
    parser.add_argument("--threads", type=above(int), default=2)
    parser.add_argument("--nhwc", action="store_true", help="pictures in the channels_last layout")
    parser.add_argument("--bars", action="store_true", help="exit status 1 when an overhead is above a tenth")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/replay-DATE.json")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to try the benchmark, not to measure")
    args = parser.parse_args(argv)
    out = args.out or ROOT / "benchmarks" / "results" / f"replay-{date.today()}.json"
    try:
        check_writable(out)
    except DataError as error:
        parser.error(str(error))
    head = dict(kind="replay", date=str(date.today()), machine=harness.machine(), versions=versions(tensorlite))
    found = head | dict(threads=args.threads, rounds=args.rounds, small=args.small, bar=replay.BAR, results=[])
    threads = tensorlite.get_num_threads()
    tensorlite.set_num_threads(args.threads)
    try:
        for name in args.workloads:
            for phase in args.phases:
                got = replay.measure(tensorlite, WORKLOADS[name], phase, args.rounds, args.small, args.nhwc)
                found["results"].append({"workload": name, "phase": phase, **got})
                print(
                    f"{name} {phase}: {got['step']:.1f} us, overhead {got['overhead']:.1%}", file=sys.stderr, flush=True
                )
    finally:
        tensorlite.set_num_threads(threads)
    print(f"{report.describe(found)}\n{replay.table(found)}")
    report.save(found, out)
    print(f"wrote {out}")
    return 1 if args.bars and any(r["overhead"] > replay.BAR for r in found["results"]) else 0
