"""The overhead of a replay: its calls do what the step does, its times add up, its command reports."""

import json

import numpy as np
import pytest

import tensorlite as tl
from benchmarks import __main__ as command
from tensorlite.bench import replay, steps
from tensorlite.bench.workloads import WORKLOADS


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_calls_are_those_of_the_step(name):
    """The same calls, from the same state, give the loss and the weights of a replay."""
    prepared = [steps.prepare(tl, WORKLOADS[name], "train", small=True, compile=True) for _ in range(2)]
    (step, batches), (other, _) = prepared
    if name == "vae":
        pytest.skip("draws random numbers, whose state the calls of two programs share")
    for one in (step, other):
        one(batches[0])
    loss = float(step(batches[1]))
    made = replay.calls(other, batches[1])
    for _, kernel, arrays, _ in made:
        kernel(*arrays)
    written = [[w for w in written if w.dtype == np.float32] for *_, written in made]
    again = replay.calls(step, batches[1])
    for (*_, theirs), ours in zip(again[-1:], written[-1:]):
        for a, b in zip(ours, [w for w in theirs if w.dtype == np.float32]):
            np.testing.assert_array_equal(a, b)
    scalars = [w.item() for ws in written for w in ws if w.size == 1]
    assert any(np.isclose(s, loss, rtol=1e-6) for s in scalars)


def test_times_add_up():
    found = replay.measure(tl, WORKLOADS["mlp_b32"], "train", rounds=3)
    assert found["steps"] == sum(1 for _ in replay.calls(*_again())) and 0 < found["kernels"] < 10 * found["step"]
    assert found["overhead"] == pytest.approx(1 - found["kernels"] / found["step"])
    assert found["kernels"] == pytest.approx(sum(found["ops"].values())) and "adam" in found["ops"]
    assert 0 < found["call"] < found["step"]


def _again():
    step, batches = steps.prepare(tl, WORKLOADS["mlp_b32"], "train", compile=True)
    step(batches[0])
    return step, batches[0]


def test_a_slow_kernel_is_no_overhead_and_a_slow_call_is(monkeypatch):
    import time

    real = replay.kernel_for

    def slow(one):
        kernel = real(one)

        def run(*arrays):
            time.sleep(0.002)
            kernel(*arrays)

        return run

    monkeypatch.setattr(replay, "kernel_for", slow)
    found = replay.measure(tl, WORKLOADS["mlp_b32"], "infer", rounds=2, small=True)
    assert found["kernels"] > 2000 * found["steps"] and found["overhead"] < 0 and found["python"] < 0


def test_the_command(tmp_path, capsys):
    out = tmp_path / "r.json"
    given = f"replay --workloads mlp_b32,lstm_seq --phases infer --rounds 2 --threads 1 --small --out {out}"
    assert command.main(given.split()) == 0
    found = json.loads(out.read_text())
    assert [r["workload"] for r in found["results"]] == ["mlp_b32", "lstm_seq"]
    assert "have an overhead above 10%" in capsys.readouterr().out
    over = any(r["overhead"] > 0.1 for r in found["results"])
    assert over, "tiny steps are nearly all overhead"
    assert command.main([*given.split(), "--bars"]) == 1
