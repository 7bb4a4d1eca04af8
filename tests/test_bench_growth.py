"""How a step's time grows: the sizes of its points, its table, chart and command."""

import json
import math
from itertools import pairwise

import pytest

import tensorlite as tl
from benchmarks import __main__ as command
from tensorlite.bench import chart, growth, steps
from tensorlite.bench.workloads import find


def test_every_point_is_a_workload_and_they_grow():
    points = growth.names(["mlp", "cnn", "lstm"], list(growth.GROWING))
    assert len(points) == sum(len(values) for _, values, _ in growth.CURVES.values())
    work: dict = {}
    for name, (model, what, value) in points.items():
        work.setdefault((model, what), []).append((value, find(name).gflop("train")))
    assert set(work) == set(growth.CURVES)
    for found in work.values():
        assert all(a < b and x < y for (a, x), (b, y) in pairwise(found))


@pytest.mark.parametrize("what", growth.GROWING)
def test_a_point_trains(what):
    name = next(iter(growth.names(["lstm"], [what], 1)))
    step, batches = steps.prepare(tl, find(name), "train", compile=True)
    assert math.isfinite(float(step(batches[0]))) and "@" in name


def report(times):
    results = [
        dict(model="mlp", grows="batch", value=v, lib=lib, status="ok", ms=ms)
        for lib, points in times.items() for v, ms in points
    ]  # fmt: skip
    machine = dict(cpu="x", cores=2)
    return dict(results=results, date="d", machine=machine, versions={}, small=False, threads=2)


def test_table_and_powers(tmp_path):
    found = report({"tensorlite": [(8, 1.0), (16, 2.0)], "torch": [(8, 3.0), (16, 12.0)]})
    lines = growth.table(found).splitlines()
    assert lines[0].split()[:4] == ["mlp,", "batch", "8", "16"]
    assert lines[1].split() == ["tensorlite", "1.000", "2.000", "1.00"] and lines[2].split()[-1] == "2.00"
    assert growth.exponent([(8, 1.0)]) is None
    failed = dict(model="mlp", grows="batch", value=8, lib="jax", status="failed", reason="why", workload="w")
    found["results"].append(failed)
    assert "w jax: failed: why" in growth.table(found)


def test_chart(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    times = {"tensorlite": [(8, 1.0), (16, 2.0)], "torch": [(8, 3.0), (16, 12.0)]}
    found = report(times)
    found["results"] += [r | dict(model="lstm", grows="length") for r in found["results"]]
    chart.draw_growth(found, tmp_path / "g.png")
    with image.open(tmp_path / "g.png") as picture:
        colours = {c for _, c in picture.convert("RGB").getcolors(2**24)}
    assert {(0x2A, 0x6F, 0xBB), (0xD1, 0x60, 0x5E)} <= colours


def test_the_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "g.json"
    given = "growth --models mlp --growing batch --libs tensorlite_compiled --rounds 1 --seconds 0.01 --small"
    assert command.main([*given.split(), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [r["value"] for r in found["results"]] == [8, 32] and found["kind"] == "growth"
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG") and "mlp, batch" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        command.main(["growth", "--models", "mlp", "--growing", "length"])
    assert stop.value.code == 2
