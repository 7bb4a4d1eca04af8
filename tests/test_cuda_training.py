"""Training programs on device "cuda", played by the emulator: the CPU's losses, no copy to or from the host in a step.

The quick run takes some of the programs, others every day; ``-m slow`` takes all of them.
"""

from __future__ import annotations

import datetime
import shutil

import numpy as np
import pytest

import tensorlite as tl
from benchmarks.gpu.parts import CURVES, stepper
from tensorlite import config
from tensorlite.backends import standin
from tensorlite.bench.workloads import find

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")

A_DAY = 2  # programs in the quick run
STEPS = 3
CLOSE = 1e-5


def losses(name: str, place: str) -> tuple[list[float], list]:
    """The loss of each step, and what crossed between host and device in it."""
    workload = find(name)
    batches = workload.pool(0, small=True, megabytes=1)
    tl.manual_seed(0)
    task = workload.build(tl, **workload.sized(small=True))
    task.model.to(place)
    step, found, crossings = stepper(tl, task), [], []
    tl.manual_seed(1)
    for k in range(STEPS):
        batch = [tl.tensor(a).to(place) for a in batches[k]]
        with standin.watch() as seen:
            loss = step(batch)
        crossings.append(seen.crossings)
        found.append(loss.item())
    return found, crossings


def check(name: str) -> None:
    ours, _ = losses(name, "cpu")
    with config.CUDA_EMULATION(1):
        theirs, crossings = losses(name, "cuda")
    np.testing.assert_allclose(theirs, ours, rtol=CLOSE)
    assert not any(crossings[1:]), f"{name}: steps crossed between host and device {crossings} times"


def today() -> list[str]:
    first = datetime.date.today().toordinal() * A_DAY
    return [CURVES[(first + k) % len(CURVES)] for k in range(A_DAY)]


@pytest.mark.parametrize("name", today())
def test_some_programs(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_every_program(name):
    check(name)


def test_a_trainer_says_why_its_steps_are_not_compiled_and_trains(capsys):
    with config.CUDA_EMULATION(1):
        tl.manual_seed(0)
        x = tl.randn(24, 6)
        y = (x.sum(1) > 0).long()
        net = tl.nn.Sequential(tl.nn.Linear(6, 8), tl.nn.ReLU(), tl.nn.Linear(8, 2)).to("cuda")
        optimizer = tl.optim.Adam(net.parameters(), lr=0.05)
        loss = tl.nn.functional.cross_entropy
        trainer = tl.train.Trainer(net, optimizer, loss, metrics=["accuracy"], device="cuda")
        data = tl.utils.data.TensorDataset(x, y)
        history = trainer.fit(tl.utils.data.DataLoader(data, batch_size=8, pin_memory=True), epochs=8)
    assert "not compiled: compile: got a tensor on a GPU" in capsys.readouterr().err
    assert history[-1]["loss"] < history[0]["loss"] / 2 and history[-1]["accuracy"] > 0.9
