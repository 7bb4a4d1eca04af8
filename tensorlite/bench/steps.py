"""One step of a workload in a library with PyTorch's names, and the times of many. Floor 6.

Nothing here imports a library of tensors.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

PHASES = ("train", "infer")


def prepare(
    lib: Any,
    workload: Any,
    phase: str,
    seed: int = 0,
    small: bool = False,
    optimizer: dict[str, Any] | None = None,
    channels_last: bool = False,
    compile: bool = False,
) -> tuple[Callable[[tuple], Any], list[tuple]]:
    """A function that does one step on a batch, and batches for it.

    A training step is zero_grad, forward, loss, backward and the optimizer, and returns the loss; an inference step is
    the forward alone, in evaluation and inference mode, and returns what the model gives.

    Args:
        optimizer: further settings of the optimizer, ``dict(fused=True)``.
        channels_last: keep weights and pictures in PyTorch's channels_last layout.
        compile: hand the whole step to ``lib.compile``.
    """
    lib.manual_seed(seed)
    task = workload.build(lib, **workload.sized(small))
    batches = [tuple(lib.from_numpy(a) for a in batch) for batch in workload.pool(seed, small)]
    if channels_last:
        layout = lib.channels_last
        task.model.to(memory_format=layout)
        batches = [tuple(a.contiguous(memory_format=layout) if a.ndim == 4 else a for a in b) for b in batches]
    step = (training if phase == "train" else inference)(lib, task, optimizer or {})
    return lib.compile(step) if compile else step, batches


def training(lib: Any, task: Any, settings: dict[str, Any]) -> Callable[[tuple], Any]:
    """A training step of the task; its optimizer takes these further settings."""
    task.model.train()
    params = list(task.model.parameters())
    optimizer = task.optimizer(params, **settings)

    def step(batch: tuple) -> Any:
        optimizer.zero_grad()
        loss = task.loss(*batch)
        loss.backward()
        if task.clip is not None:
            lib.nn.utils.clip_grad_norm_(params, task.clip)
        optimizer.step()
        return loss.detach()  # so that the record of the forward is freed within the step

    return step


def inference(lib: Any, task: Any, settings: dict[str, Any]) -> Callable[[tuple], Any]:
    """An inference step of the task."""
    model = task.model.eval()

    def step(batch: tuple) -> Any:
        with lib.inference_mode():
            return model(batch[0])

    return step


def best_rates(lib: Any, rows: dict[str, Any], seconds: float, small: bool = False) -> dict[str, float]:
    """For each kind of work the billions a second of the quickest call, each tried for so many seconds."""
    rates = {}
    for kind, row in rows.items():
        call = row.make(lib, **row.sized(small)).call
        call()
        least, until = math.inf, time.perf_counter() + seconds
        while math.isinf(least) or time.perf_counter() < until:
            start = time.perf_counter()
            call()
            least = min(least, time.perf_counter() - start)
        rates[kind] = row.amount(small) / least
    return rates


def measure(
    step: Callable[[tuple], Any],
    batches: Sequence[tuple],
    phase: str,
    seconds: float,
    ready: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Times of single steps for about this many seconds, after a warm-up of a quarter of them.

    Args:
        ready: waits until a step's result is there, for libraries that work behind one's back.

    Returns:
        milliseconds: the ``first`` step, and ``median``, ``min``, ``q1``, ``q3`` of those after the warm-up; how many
        they are; the mean loss of the first and of the last five; how many cores this process and others kept busy.

    Raises:
        ArithmeticError: a loss that is not finite.
    """
    wait = ready or (lambda result: result)
    losses: list[float] = []
    count = 0

    def one() -> float:
        nonlocal count
        batch = batches[count % len(batches)]
        count += 1
        start = time.perf_counter()
        result = wait(step(batch))
        took = time.perf_counter() - start
        if phase == "train":
            losses.append(float(result))
            if not math.isfinite(losses[-1]):
                raise ArithmeticError(f"step {count}: the loss is {losses[-1]}; wanted a finite number")
        return took

    first = one()
    until = time.perf_counter() + seconds / 4
    while count < 4 or time.perf_counter() < until:
        one()
    times: list[float] = []
    busy = Busy()
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        times.append(one())
    own, other = busy.cores()
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    milliseconds = {"first": first, "median": median, "min": min(times), "q1": q1, "q3": q3}
    return {
        **{name: 1e3 * value for name, value in milliseconds.items()},
        "steps": len(times),
        "loss_start": statistics.fmean(losses[:5]) if losses else None,
        "loss_end": statistics.fmean(losses[-5:]) if losses else None,
        "own_cores": own,
        "other_cores": other,
    }


class Memory:
    """The most resident memory of this process beyond what it had when this was made, where Linux tells."""

    def __init__(self) -> None:
        self.before, self.known = self._read("VmRSS"), False

    @staticmethod
    def _read(name: str) -> float | None:
        if not os.path.exists("/proc/self/status"):
            return None
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            found = [line for line in status if line.startswith(name + ":")]
        return int(found[0].split()[1]) / 1024 if found else None

    def begin(self) -> None:
        """Count from here on: what was needed before to make data does not matter."""
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
                refs.write("5")
            self.known = self.before is not None
        except OSError:
            pass

    def peak(self, data: int = 0) -> float | None:
        """In MB, less so many bytes of data; None where the system does not tell."""
        most = self._read("VmHWM") if self.known else None
        return None if most is None or self.before is None else max(most - self.before - data / 2**20, 0.0)


class Busy:
    """How many cores this process and all others kept busy since it was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def _now(self) -> tuple[float, float, float | None]:
        machine = None
        if os.path.exists("/proc/stat"):
            with open("/proc/stat", encoding="ascii") as stat:  # user, nice, system, idle, iowait, irq, softirq
                ticks = [int(n) for n in stat.readline().split()[1:8]]
            machine = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), time.process_time(), machine

    def cores(self) -> tuple[float, float | None]:
        """(of this process, of all others); the second is None where the system does not tell."""
        (t0, own0, all0), (t1, own1, all1) = self.start, self._now()
        wall = max(t1 - t0, 1e-9)
        own = (own1 - own0) / wall
        other = None if all0 is None or all1 is None else round(max((all1 - all0) / wall - own, 0.0), 2)
        return round(own, 2), other
