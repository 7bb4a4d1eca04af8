"""One process of the step benchmark: one workload, phase and library, timed; prints one line of JSON.

    python -m benchmarks.child '{"workload": "mlp_b32", "phase": "train", "lib": "torch", "seconds": 1, "threads": 2}'

The files of ``tensorlite.bench`` that it needs are loaded by their path, so that a peer's process holds no tensorlite.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent / "tensorlite" / "bench"

# glibc told never to give memory back: what a caching allocator would be worth to a library that has none
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}

# what each column is: the library, and how it is used
LIBS: dict[str, dict[str, Any]] = {
    "tensorlite": {"module": "tensorlite"},
    "tensorlite_compiled": {"module": "tensorlite", "compile": True},
    "tensorlite_nhwc": {"module": "tensorlite", "channels_last": True},
    "tensorlite_nhwc_compiled": {"module": "tensorlite", "channels_last": True, "compile": True},
    "torch": {"module": "torch"},
    "torch_fused": {"module": "torch", "optimizer": {"fused": True}},
    "torch_nhwc": {"module": "torch", "optimizer": {"fused": True}, "channels_last": True},
    "torch_kept": {"module": "torch", "optimizer": {"fused": True}, "channels_last": True, "env": KEEP_MEMORY},
    "torch_compile": {"module": "torch", "compile": True},
    "torch_nhwc_compile": {"module": "torch", "channels_last": True, "compile": True},
    "jax": {"module": "jax"},
}


def same(workload: str, phase: str, lib: str) -> str:
    """The first column that does the same: a layout is one of pictures, an optimizer is there to train."""
    how = set(LIBS[lib]) - {"module"}
    if phase == "infer":
        how -= {"optimizer"}
    if not load("workloads").find(workload).pictures:
        how -= {"channels_last"}
    other = {"module": LIBS[lib]["module"], **{key: LIBS[lib][key] for key in how}}
    return next(name for name, known in LIBS.items() if known == other or name == lib)


def load(name: str) -> Any:
    """A file of ``tensorlite.bench``, without its package."""
    if f"bench_{name}" in sys.modules:
        return sys.modules[f"bench_{name}"]
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{BENCH / name}.py: cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def keep_to(threads: int) -> None:
    """Run on so many processors, where the system can hold a process to some: some libraries ask nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def digits(lib: Any, job: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    """One training of the headline; ``cold`` are the seconds from the start of the process to its first step."""
    from benchmarks.digits import read, train

    workload = load("workloads").find("cnn_b32")
    sizes = workload.sizes | ({"widths": (8, 8, 8, 16)} if job.get("small") else {})
    found = train(
        lib, lambda lib: workload.build(lib, **sizes).model, read(job["data"]), job["seed"], job["digits"], how
    )
    return {**found, "cold": found.pop("first") - job["started"]}


def roofs() -> dict[str, Any]:
    """By kind of work the op that shows what the machine can do."""
    ops = load("ops")
    return {kind: ops.ROWS[name] for kind, name in ops.ROOFS.items()}


def versions(lib: Any) -> dict[str, str]:
    import numpy

    found = {"python": platform.python_version(), "numpy": numpy.__version__, lib.__name__: lib.__version__}
    if lib.__name__ == "tensorlite":
        from tensorlite.backends.cpu import isa

        found["tensorlite kernels"] = isa()
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What the job measured, with a ``status``: "ok", "not available" or "not installed"."""
    how = dict(LIBS[job["lib"]])
    name = how.pop("module")
    how.pop("env", None)
    if importlib.util.find_spec(name) is None:
        return {"status": "not installed", "reason": name}
    keep_to(job["threads"])
    steps = load("steps")
    lib = importlib.import_module(name)
    if job.get("roofs"):
        lib.set_num_threads(job["threads"])
        return {"status": "ok", "rates": steps.best_rates(lib, roofs(), job["seconds"], job.get("small", False))}
    if "digits" in job:
        lib.set_num_threads(job["threads"])
        return {"status": "ok", **digits(lib, job, how), "versions": versions(lib)}
    workload, memory = load("workloads").find(job["workload"]), steps.Memory()
    phase, small, seed = job["phase"], job.get("small", False), job.get("seed", 0)
    if name == "jax":
        from benchmarks.peers import jax_steps

        step, batches = jax_steps.prepare(workload, phase, seed, small)
        ready = lib.block_until_ready
    else:
        lib.set_num_threads(job["threads"])
        if missing := workload.missing(lib):
            return {"status": "not available", "reason": ", ".join(missing), "versions": versions(lib)}
        step, batches = steps.prepare(lib, workload, phase, seed, small, **how)
        ready = None
    memory.begin()
    found = steps.measure(step, batches, phase, job["seconds"], ready)
    found["peak_mb"] = memory.peak(sum(int(a.nbytes) for batch in batches for a in batch))
    if name == "tensorlite" and how.get("compile"):
        found["moved"] = sum(part.nbytes for one in step.plan.steps for part in one.parts())
    others = sorted({"tensorlite", "torch", "jax"} & set(sys.modules) - {name})
    return {"status": "ok", **found, "versions": versions(lib), "also_loaded": others}


def main(text: str) -> None:
    job = json.loads(text)
    wanted = LIBS[job["lib"]].get("env", {})
    if any(os.environ.get(key) != value for key, value in wanted.items()):  # read when a process starts: start again
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.child", text], {**os.environ, **wanted})
    print(json.dumps(run(job)))


if __name__ == "__main__":
    main(sys.argv[1])
