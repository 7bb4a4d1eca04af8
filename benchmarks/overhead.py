"""What one eager op costs beside PyTorch, where the arithmetic is next to nothing.

    python benchmarks/overhead.py [--runs 15] [--json FILE] [--ops add,mul]

Three tables, every figure the median of alternating runs in this one invocation:
- forward with graph: one op on 8x8 float32 tensors that require a gradient;
- chain: forward and backward over 1,000 ops, a time an op;
- MLP 784-128-10, batch 32, forward and backward, each library in a process of its own (two thread pools in one
  process hurt each other).
Then where the time of one ``mul`` goes, stage by stage. Without PyTorch the peer's columns stay empty.
Exit status 1 when a bar is missed (``--check``).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

BARS = {  # ours / PyTorch at most: (forward with graph, chain of 1,000 forward and backward)
    "add": (0.8, 0.75),
    "mul": (0.8, 0.75),
    "reshape": (0.8, 0.75),
    "matmul": (0.8, 1.0),
    "linear": (0.8, 1.0),
    "relu": (1.0, 1.0),
    "sum": (1.0, 1.0),
    "getitem": (1.0, 1.0),
    "softmax": (1.0, 1.0),
}
MLP_BAR = 0.8
CHAIN = 1000


def library(name: str) -> Any:
    """Tensorlite or PyTorch, on one thread for 8x8 work."""
    if name == "torch":
        import torch

        torch.set_num_threads(1)
        return torch
    import tensorlite

    return tensorlite


def ops(lib: Any) -> dict[str, tuple[Callable, Callable]]:
    """For each op: one call of it, and a step of a chain (value in, value of the same kind out)."""
    functional = lib.nn.functional

    def leaf(scale: float = 1.0, rows: int = 8) -> Any:
        values = [[scale * (1 + ((3 * i + j) % 7) / 10) for j in range(8)] for i in range(rows)]
        return lib.tensor(values if rows > 1 else values[0], requires_grad=True)

    # 0.0962 makes w's largest eigenvalue 1: a chain that decays would time the processor's handling of denormals
    x, w, b = leaf(), leaf(0.0962), leaf(0.1, 1)
    one = leaf(0.0)
    with lib.no_grad():
        one.fill_(1.0)
    shapes = {1: (64,), 2: (8, 8)}
    return {
        "add": (lambda: x + w, lambda y: y + w),
        "mul": (lambda: x * w, lambda y: y * one),
        "matmul": (lambda: x @ w, lambda y: y @ w),
        "relu": (lambda: x.relu(), lambda y: y.relu()),
        "sum": (lambda: x.sum(), lambda y: y.sum(1, keepdim=True)),
        "reshape": (lambda: x.reshape(64), lambda y: y.reshape(shapes[3 - y.ndim])),
        "getitem": (lambda: x[1], lambda y: y[:]),
        "linear": (lambda: functional.linear(x, w, b), lambda y: functional.linear(y, w, b)),
        "softmax": (lambda: x.softmax(1), lambda y: y.softmax(1)),
    }


def time_forward(call: Callable, n: int = 2000) -> float:
    """Seconds a call, the result dropped."""
    for _ in range(20):
        call()
    start = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - start) / n


def time_chain(lib: Any, step: Callable) -> float:
    """Seconds an op, forward and backward over a chain of them."""
    x = lib.ones(8, 8, requires_grad=True)
    start = time.perf_counter()
    y = x
    for _ in range(CHAIN):
        y = step(y)
    y.backward(lib.ones_like(y))
    return (time.perf_counter() - start) / CHAIN


def mlp(name: str, seconds: float) -> list[float]:
    """Times of forward and backward of the MLP, in this process."""
    lib = __import__(name)
    if name == "torch":
        lib.set_num_threads(2)
    lib.manual_seed(0)
    nn = lib.nn
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    x, target = lib.rand(32, 784), lib.randint(0, 10, (32,))
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        model.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        times.append(time.perf_counter() - start)
    return times


def mlp_process(name: str, seconds: float = 1.0) -> float:
    """The median of ``mlp`` in a fresh process."""
    code = (
        f"import runpy, statistics; m = runpy.run_path({__file__!r}); "
        f"print(statistics.median(m['mlp']({name!r}, {seconds})))"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def stages() -> list[tuple[str, float]]:
    """Where the time of one 8x8 mul goes: each stage timed alone, in nanoseconds."""
    import numpy as np

    import tensorlite as tl
    from tensorlite.autograd.modes import mode
    from tensorlite.autograd.node import Node, tick
    from tensorlite.autograd.tensor import Tensor

    x, w = tl.ones(8, 8, requires_grad=True), tl.ones(8, 8, requires_grad=True)
    p, q = x.detach(), w.detach()
    op = type(x).__mul__.op
    cache, a, b, new = op.cache, x._arr, w._arr, object.__new__
    _ = x * w

    def make_tensor():
        t = new(Tensor)
        t._arr, t._spec, t._view, t._ver = a, x._spec, None, [0, 0]

    def make_node():
        n = new(Node)
        n.parents, n.saved, n.plan, n.seq, n.extra = (x._node, w._node), (x, w), None, tick(), None

    timed = [
        ("whole op with graph", lambda: x * w),
        ("whole op without graph", lambda: p * q),
        ("np.multiply alone", lambda: np.multiply(a, b)),
        ("entry look-up", lambda: cache[x._spec, w._spec]),
        ("result Tensor", make_tensor),
        ("node", make_node),
        ("grad mode", lambda: mode().grad),
        ("an empty call, as in each row above", lambda: None),
    ]
    return [(name, statistics.median(time_forward(f, 5000) for _ in range(7)) * 1e9) for name, f in timed]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--ops", default=",".join(BARS))
    parser.add_argument("--json")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--no-mlp", action="store_true")
    args = parser.parse_args(argv)
    try:
        import torch  # noqa: F401

        names = ["tensorlite", "torch"]
    except ImportError:
        names = ["tensorlite"]
    libs = {n: library(n) for n in names}
    tables = {n: ops(libs[n]) for n in names}
    rows: dict[str, dict] = {}
    for op_name in args.ops.split(","):
        found: dict[str, dict[str, list]] = {n: {"forward": [], "chain": []} for n in names}
        for _ in range(args.runs):
            for n in names:
                call, step = tables[n][op_name]
                found[n]["forward"].append(time_forward(call))
                found[n]["chain"].append(time_chain(libs[n], step))
        rows[op_name] = {
            kind: {n: statistics.median(found[n][kind]) * 1e6 for n in names} for kind in ("forward", "chain")
        }
    missed = report(rows, names)
    result: dict[str, Any] = {"date": str(date.today()), "machine": machine(), "runs": args.runs, "ops": rows}
    if not args.no_mlp:
        ours, theirs = [], []
        for _ in range(5):
            ours.append(mlp_process("tensorlite"))
            if "torch" in names:
                theirs.append(mlp_process("torch"))
        result["mlp"] = {
            "tensorlite": statistics.median(ours) * 1e6,
            "torch": statistics.median(theirs) * 1e6 if theirs else None,
        }
        line = f"MLP 784-128-10, batch 32, forward + backward: {result['mlp']['tensorlite']:.0f} us"
        if theirs:
            ratio = result["mlp"]["tensorlite"] / result["mlp"]["torch"]
            line += f", PyTorch {result['mlp']['torch']:.0f} us, ratio {ratio:.2f} (bar {MLP_BAR})"
            missed += ratio > MLP_BAR
        print("\n" + line)
    print("\nwhere one mul goes, ns")
    result["stages"] = stages()
    for name, ns in result["stages"]:
        print(f"  {name:38s} {ns:7.0f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
    return 1 if args.check and missed else 0


def report(rows: dict, names: list) -> int:
    """Print the table; how many bars were missed."""
    missed = 0
    print(f"8x8 float32, microseconds an op, {machine()}")
    print(f"{'':10s} {'forward with graph':>34s}   {'1,000-op chain, forward + backward':>36s}")
    for name, row in rows.items():
        cells = [f"{name:10s}"]
        for kind, bar in zip(("forward", "chain"), BARS[name]):
            ours = row[kind]["tensorlite"]
            if "torch" in names:
                ratio = ours / row[kind]["torch"]
                late = ratio > bar
                missed += late
                cells.append(
                    f"{ours:8.2f} {row[kind]['torch']:8.2f}  {ratio:5.2f} ({bar}){'  MISSED' if late else '        '}"
                )
            else:
                cells.append(f"{ours:8.2f} {'-':>8s}")
        print("   ".join(cells))
    return missed


def machine() -> str:
    """The processor and versions, for a figure's caption."""
    import numpy

    return (
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, NumPy {numpy.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
