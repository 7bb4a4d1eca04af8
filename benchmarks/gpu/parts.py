"""The parts of ``python -m benchmarks gpu``: each prints what it found as lines of JSON, the last with a summary.

They call the GPU through tensorlite's public names alone, and give both libraries the same inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CURVES = ("mlp_b32", "cnn_b32", "lstm_seq", "text_gru", "text_rnn", "char_lm", "vae", "resnet8", "gpt_nano")
CURVE_STEPS, TOY_STEPS = 20, 2
CLOSE = 2e-3  # how far the loss of a step may be from the CPU's: float32, sums in another order, steps add up
COPY_MB = 256
PARTS: dict[str, Callable[[bool], None]] = {}


def part(fn: Callable[[bool], None]) -> Callable[[bool], None]:
    PARTS[fn.__name__] = fn
    return fn


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


@part
def device(toy: bool) -> None:
    """The chip, its driver, versions; how fast it copies; what a launch costs."""
    import tensorlite as tl
    from tensorlite.backends import cuda

    found = tl.cuda.get_device_properties()
    runtime = cuda.arrays().cuda.runtime
    driver = runtime.driverGetVersion() if hasattr(runtime, "driverGetVersion") else None
    say(chip=found._asdict(), driver=driver, versions=_versions())
    n = 4096 if toy else COPY_MB << 18
    x = tl.rand(n, device="cuda")
    copy = microseconds(lambda: x.clone(), 3 if toy else 20)
    small = tl.rand(32, device="cuda")
    launch = microseconds(lambda: small + 1.0, 3 if toy else 200)
    say(copy_gb_per_s=round(8 * n / copy / 1e3, 1), copy_mb=n >> 18, one_small_op_us=round(launch, 2))
    say(summary=f"{found.name}, copy {8 * n / copy / 1e3:.0f} GB/s, one small op {launch:.1f} us")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("tensorlite", "numpy", "cupy-cuda13x", "cupy-cuda12x", "cuda-bindings", "torch", "numba-cuda"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": sys.version.split()[0]}


@part
def header(toy: bool) -> None:
    """The tests marked ``gpu``: the device header, cuBLASLt, launches, every kernel family. At toy size: the few that
    the emulator takes."""
    which = ["-m", "gpu"] if not toy else ["tests/test_cuda_tensor.py"]
    _pytest([*which, "--deselect", "tests/test_cuda_ops.py::test_the_table_on_a_gpu"])


@part
def table(toy: bool) -> None:
    """Every op and its gradients, CPU against GPU."""
    _pytest(["-m", "gpu", "tests/test_cuda_ops.py"] if not toy else ["tests/test_cuda_ops.py", "-k", "add or relu"])


def _pytest(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line", "--no-header", *arguments], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    say(failed=[line for line in lines if line.startswith(("FAILED", "ERROR"))][:200], tail=lines[-30:])
    say(summary=lines[-1] if lines else done.stderr[-400:])
    if done.returncode not in (0, 5):  # 5: no test of this mark
        sys.exit(1)


@part
def curves(toy: bool) -> None:
    """Training programs from one state: the loss of every step, CPU beside GPU."""
    import tensorlite as tl
    from tensorlite.bench.workloads import find

    worst: tuple[float, str] = (0.0, "-")
    for name in CURVES:
        workload, steps = find(name), TOY_STEPS if toy else CURVE_STEPS
        batches = workload.pool(0, small=toy, megabytes=1)
        losses = []
        for place in ("cpu", "cuda"):
            tl.manual_seed(0)
            task = workload.build(tl, **workload.sized(toy))
            modules = task.model if isinstance(task.model, (list, tuple)) else [task.model]
            for module in modules:
                module.to(place)
            step = stepper(tl, task)
            tl.manual_seed(1)  # noise is drawn on the device, whose generator knows nothing of what the CPU's gave
            losses.append([step([tl.tensor(a).to(place) for a in batches[k % len(batches)]]) for k in range(steps)])
        ours, theirs = (np.array([float(v.item()) for v in row]) for row in losses)
        off = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        worst = max(worst, (off, name))
        say(**{name: {"cpu": ours.tolist(), "cuda": theirs.tolist(), "off": off}})
    say(summary=f"{len(CURVES)} programs, furthest from the CPU: {worst[1]} by {worst[0]:.2g} (bar {CLOSE})")
    if not worst[0] <= CLOSE:
        sys.exit(1)


def stepper(lib: Any, task: Any) -> Callable[[list], Any]:
    """One training step of a task, eager."""
    params = list(task.model.parameters())
    optimizer = task.optimizer(params)

    def step(batch: list) -> Any:
        optimizer.zero_grad()
        loss = task.loss(*batch)
        loss.backward()
        if task.clip is not None:
            lib.nn.utils.clip_grad_norm_(params, task.clip)
        optimizer.step()
        return loss.detach()

    return step


def microseconds(call: Callable[[], Any], times: int) -> float:
    """The median time of one call on the GPU: events around runs of ten, after a warm-up."""
    import tensorlite as tl

    for _ in range(3):
        call()
    found = []
    for _ in range(max(times // 10, 3)):
        start, end = tl.cuda.Event(enable_timing=True), tl.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(10):
            call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 100)
    return max(statistics.median(found), 1e-3)


@part
def ops(toy: bool) -> None:
    """Single ops: time, GB/s or GFLOP/s, and the same in PyTorch where it is installed, alternating."""
    import tensorlite as tl

    try:
        import torch
    except ImportError:
        torch = None
    libs: dict[str, Any] = {"tensorlite": tl} | ({"torch": torch} if torch is not None and not toy else {})
    for name, (make, nbytes, flops) in OPS.items():
        sizes = SMALL if toy else LARGE
        row: dict[str, Any] = {}
        for lib_name, lib in libs.items():
            try:
                lib.manual_seed(0)
                call = make(lib, **sizes)
                us = microseconds(call, 10 if toy else 50)
                row[lib_name] = {"us": round(us, 2)}
                if nbytes:
                    row[lib_name]["gb_per_s"] = round(nbytes(**sizes) / us / 1e3, 1)
                if flops:
                    row[lib_name]["tflop_per_s"] = round(flops(**sizes) / us / 1e6, 3)
            except Exception as error:  # one op less, and the reason
                row[lib_name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        if "torch" in row and "us" in row["torch"] and "us" in row["tensorlite"]:
            row["times"] = round(row["torch"]["us"] / row["tensorlite"]["us"], 2)
        say(**{name: row})
    say(summary=f"{len(OPS)} ops measured")


LARGE = dict(n=1 << 26, rows=1 << 14, columns=1024, m=4096, batch=128, channels=64, side=28, steps=128, hidden=256)
SMALL = dict(n=300, rows=5, columns=33, m=9, batch=2, channels=4, side=6, steps=3, hidden=8)


def _one(fn: Callable) -> Callable:
    return lambda lib, n, **_: (lambda x: lambda: fn(lib, x))(lib.rand(n, device="cuda"))


def _rows(fn: Callable) -> Callable:
    return lambda lib, rows, columns, **_: (lambda x: lambda: fn(lib, x))(lib.rand(rows, columns, device="cuda"))


def _matmul(lib: Any, m: int, **_: Any) -> Callable:
    a, b = lib.rand(m, m, device="cuda"), lib.rand(m, m, device="cuda")
    return lambda: a @ b


def _conv(channels_in: int | None) -> Callable:
    def make(lib: Any, batch: int, channels: int, side: int, **_: Any) -> Callable:
        x = lib.rand(batch, channels_in or channels, side, side, device="cuda")
        w = lib.rand(channels, channels_in or channels, 3, 3, device="cuda")
        return lambda: lib.nn.functional.conv2d(x, w, padding=1)

    return make


def _recurrent(kind: str, back: bool) -> Callable:
    def make(lib: Any, batch: int, steps: int, hidden: int, **_: Any) -> Callable:
        layer = getattr(lib.nn, kind)(hidden, hidden, batch_first=True).to("cuda")
        x = lib.rand(batch, steps, hidden, device="cuda")

        def call() -> None:
            y = layer(x)[0]
            if back:
                y.sum().backward()

        return call

    return make


OPS: dict[str, tuple] = {
    "add": (_one(lambda lib, x: x + x), lambda n, **_: 8 * n, None),
    "add a number": (_one(lambda lib, x: x + 1.0), lambda n, **_: 8 * n, None),
    "gelu": (_one(lambda lib, x: lib.nn.functional.gelu(x)), lambda n, **_: 8 * n, None),
    "sum": (_one(lambda lib, x: x.sum()), lambda n, **_: 4 * n, None),
    "sum of rows": (_rows(lambda lib, x: x.sum(1)), lambda rows, columns, **_: 4 * rows * columns, None),
    "sum of columns": (_rows(lambda lib, x: x.sum(0)), lambda rows, columns, **_: 4 * rows * columns, None),
    "argmax": (_rows(lambda lib, x: x.argmax(1)), lambda rows, columns, **_: 4 * rows * columns, None),
    "softmax": (_rows(lambda lib, x: x.softmax(1)), lambda rows, columns, **_: 8 * rows * columns, None),
    "layer_norm": (
        _rows(lambda lib, x: lib.nn.functional.layer_norm(x, (x.shape[1],))),
        lambda rows, columns, **_: 8 * rows * columns,
        None,
    ),
    "transpose": (_rows(lambda lib, x: x.t().contiguous()), lambda rows, columns, **_: 8 * rows * columns, None),
    "matmul": (_matmul, None, lambda m, **_: 2 * m**3),
    "conv 3x3, one channel": (
        _conv(1), None, lambda batch, channels, side, **_: 18 * batch * channels * side * side,
    ),
    "conv 3x3": (_conv(None), None, lambda batch, channels, side, **_: 18 * batch * channels**2 * side * side),
    "lstm": (
        _recurrent("LSTM", False), None, lambda batch, steps, hidden, **_: 16 * batch * steps * hidden**2,
    ),
    "lstm, both ways": (
        _recurrent("LSTM", True), None, lambda batch, steps, hidden, **_: 48 * batch * steps * hidden**2,
    ),
    "gru": (_recurrent("GRU", False), None, lambda batch, steps, hidden, **_: 12 * batch * steps * hidden**2),
}  # fmt: skip


@part
def steps(toy: bool) -> None:
    """Eager training steps of whole models: milliseconds, and PyTorch's where it is installed, alternating."""
    import tensorlite as tl
    from tensorlite.bench.workloads import find

    try:
        import torch
    except ImportError:
        torch = None
    libs: dict[str, Any] = {"tensorlite": tl} | ({"torch": torch} if torch is not None and not toy else {})
    for name in CURVES:
        workload = find(name)
        batches = workload.pool(0, small=toy, megabytes=1)
        row: dict[str, Any] = {}
        for lib_name, lib in libs.items():
            lib.manual_seed(0)
            task = workload.build(lib, **workload.sized(toy))
            task.model.to("cuda")
            step = stepper(lib, task)
            placed = [[lib.tensor(a).to("cuda") for a in batch] for batch in batches[:4]]
            times = []
            for k in range(3 if toy else 60):
                lib.cuda.synchronize()
                start = time.perf_counter()
                step(placed[k % len(placed)])
                lib.cuda.synchronize()
                times.append(time.perf_counter() - start)
            row[lib_name] = {"ms": round(1e3 * statistics.median(times[len(times) // 3 :]), 3)}
        if "torch" in row:
            row["times"] = round(row["torch"]["ms"] / row["tensorlite"]["ms"], 2)
        say(**{name: row})
    say(summary=f"{len(CURVES)} models stepped")


@part
def sanitizer(toy: bool) -> None:
    """compute-sanitizer over some of the ops' cases: memory, races, barriers."""
    program = shutil.which("compute-sanitizer")
    if toy or program is None:
        say(summary="not run: " + ("at toy size" if toy else "compute-sanitizer is not installed"))
        return
    which = "softmax or conv2d or lstm or sum or adam or embedding or layer_norm"
    bad = []
    for tool in ("memcheck", "racecheck", "synccheck"):
        done = subprocess.run(
            [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", "-m", "gpu",
             "tests/test_cuda_ops.py", "-k", which], capture_output=True, text=True, env=os.environ,
        )  # fmt: skip
        errors = [line for line in done.stdout.splitlines() if "=====" in line][-20:]
        say(**{tool: {"exit": done.returncode, "tail": errors}})
        if done.returncode:
            bad.append(tool)
    say(summary=f"clean: {not bad}" + (f", not {', '.join(bad)}" if bad else ""))
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(PARTS))
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    PARTS[given.name](given.toy)
