"""``python -m benchmarks gpu``: every part in a process of its own, the report written anew after each of them.

Whatever ends it early (a limit, a crash, a lost machine), the file holds all that was found until then. ``--toy`` runs
the same code on the emulated device at small sizes, so that a first run on a GPU is not wasted on mistakes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS
from tensorlite.bench.harness import machine
from tensorlite.io.files import atomic

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 560.0  # of one run, all parts together
SHARES = {  # of the time that is left, the most that a part may take
    "device": 0.2, "header": 0.3, "curves": 0.35, "ops": 0.4, "steps": 0.5, "table": 0.6, "sanitizer": 1.0,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="the report (default: benchmarks/results/gpu-DATE.json)")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, by commas: " + ", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"the most in all (default {SECONDS:.0f})")
    parser.add_argument("--toy", action="store_true", help="on the emulated device, at small sizes")
    given = parser.parse_args(argv)
    names = given.parts.split(",")
    if unknown := [n for n in names if n not in PARTS]:
        parser.error(f"got {', '.join(unknown)}; wanted some of {', '.join(PARTS)}")
    out = given.out or ROOT / "benchmarks" / "results" / f"gpu-{date.today()}{'-toy' if given.toy else ''}.json"
    report: dict[str, Any] = {
        "kind": "gpu", "date": str(date.today()), "machine": machine(), "toy": given.toy, "parts": {},
    }  # fmt: skip
    end = time.monotonic() + given.seconds
    for name in names:
        left = end - time.monotonic()
        print(f"{name} ...", flush=True)
        report["parts"][name] = (
            part(name, given.toy, max(left * SHARES[name], 1.0)) if left > 0 else _not("no time left")
        )
        save(out, report)
        found = report["parts"][name]
        print(
            f"{name}: {found['status']}, {found['seconds']} s: {found.get('summary') or found.get('reason')}",
            flush=True,
        )
    print(f"wrote {out}")
    return 0 if all(p["status"] == "ok" for p in report["parts"].values()) else 1


def part(name: str, toy: bool, limit: float) -> dict[str, Any]:
    """What a part found: ``status`` is "ok", "failed" or "stopped", with the reason."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, *(["--toy"] if toy else [])]
    environment = os.environ | ({"TL_CUDA_EMULATION": "1"} if toy else {})
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            output, errors = process.communicate()
            found = _not(f"longer than {limit:.0f} s", "stopped")
        else:
            found = {"status": "ok"} if process.returncode == 0 else _not(_last(errors) or _last(output))
    for line in output.splitlines():  # each complete line counts, also of a part that was stopped
        if line.startswith("{"):
            found |= json.loads(line)
    return found | {"seconds": round(time.monotonic() - begun, 1)}


def _not(reason: str, status: str = "failed") -> dict[str, Any]:
    return {"status": status, "reason": reason, "seconds": 0.0}


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def save(path: Path, report: dict[str, Any]) -> None:
    """The report as it is, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    sys.exit(main())
