"""Single ops beside PyTorch's, turn by turn in one process.

    python -m benchmarks ops [--ops 'conv|lstm'] [--rounds 15] [--seconds 1.5] [--bars] [--plot FILE]

Both libraries run in one process of their own with two threads each, and glibc keeps their memory; they take turns.
Every row says PyTorch's time over ours, above 1 ours is faster, with the interval that holds 95 % of it, and the share
that ours has of the machine's roof, measured in the same run. Results must agree before they are timed. Exit status 1
when an op failed, its results differed or, with --bars, its bar was missed; 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.child import KEEP_MEMORY, keep_to, versions
from benchmarks.steps import ROOT, above
from tensorlite.bench import chart, harness, pairs, report
from tensorlite.bench.ops import ROWS
from tensorlite.errors import DataError
from tensorlite.utils.data.files import check_writable
from tensorlite.utils.extras import MissingExtraError, require


def main(argv: list[str] | None = None) -> int:
    parser = arguments()
    args = parser.parse_args(argv)
    names = [name for name in ROWS if re.search(args.ops, name, re.IGNORECASE)]
    if not names:
        parser.error(f"--ops: no row has {args.ops!r} in its name; see --list")
    if args.list:
        print("\n".join(f"{ROWS[name].bar:5.2f}  {name}" for name in names))
        return 0
    out = args.out or ROOT / "benchmarks" / "results" / f"ops-{date.today()}.json"
    try:  # what cannot be written is said before minutes of measuring
        check_writable(out)
        if args.plot:
            check_writable(args.plot)
            require("matplotlib.figure", "examples", "--plot")
    except (DataError, MissingExtraError) as error:
        parser.error(str(error))
    job = dict(names=names, rounds=args.rounds, seconds=args.seconds, threads=args.threads, small=args.small)
    found = measured(job)
    if found is None:
        return 1
    print(f"{report.describe(found)}; {args.rounds} rounds\n{pairs.table(found, args.bars)}")
    report.save(found, out)
    print(f"wrote {out}")
    if args.plot:
        chart.draw_ratios(found, args.plot)
        print(f"wrote {args.plot}")
    if found.get("interrupted"):
        return 130
    bad = [r for r in found["results"] if r["status"] != "ok" or (args.bars and not r["reached"])]
    return 1 if bad else 0


def measured(job: dict[str, Any]) -> dict[str, Any] | None:
    """What a process of its own found: the threads and the memory of both libraries are set when it starts."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, str(job["threads"])), **KEEP_MEMORY}
    command = [sys.executable, "-m", "benchmarks.ops", json.dumps(job)]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        while True:
            try:
                text, _ = process.communicate()
                break
            except KeyboardInterrupt:  # it has been told, too, and says what it has so far
                continue
    return json.loads(text.splitlines()[-1]) if process.returncode == 0 else None


def child(job: dict[str, Any]) -> dict[str, Any]:
    """The whole report, measured here."""
    keep_to(job["threads"])
    import torch

    import tensorlite

    for lib in (tensorlite, torch):
        lib.set_num_threads(job["threads"])
        lib.manual_seed(0)
    how = {key: job[key] for key in ("rounds", "seconds", "small")}
    found = pairs.run(
        job["names"], (tensorlite, torch), **how, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    head = dict(kind="ops", date=str(date.today()), machine=harness.machine(), threads=job["threads"], **how)
    return {**head, "versions": {**versions(tensorlite), **versions(torch)}, **found}


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks ops", description=(__doc__ or "").split("\n", 1)[0], epilog="see also --list"
    )
    parser.add_argument("--ops", type=pattern, default="", help="a regular expression that names of rows must match")
    parser.add_argument("--rounds", type=above(int), default=15, help="turns of each library")
    parser.add_argument("--seconds", type=above(float), default=1.5, help="measured for each row")
    parser.add_argument("--threads", type=above(int), default=2, help="of each library")
    parser.add_argument("--bars", action="store_true", help="say which ratio is wanted, and whether it is reached")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/ops-DATE.json")
    parser.add_argument("--plot", type=Path, help="a chart: a .png, .svg or .pdf file")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to try the benchmark, not to measure")
    parser.add_argument("--list", action="store_true", help="say what rows there are, and stop")
    return parser


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted a regular expression: {error}") from None
    return text


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
