"""The benchmark of single ops: its rows agree with PyTorch, its turns, intervals, table, chart and command hold."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command, ops as script
from tensorlite.bench import chart, pairs
from tensorlite.bench.ops import ROOFS, ROWS, Row, Timed, close, dropped

ROOT = Path(__file__).resolve().parent.parent


# ---- rows
@pytest.mark.parity
def test_every_row_gives_pytorchs_values_in_tiny_sizes(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(pairs, "REST", 0)
    monkeypatch.setattr(pairs, "SETTLE", 0)
    import tensorlite

    bad = {}
    for name, row in ROWS.items():
        got = pairs.compare(row, (tensorlite, torch), 1, 1e-6, True)
        assert row.amount(small=True) < row.amount() or "embedding" in name
        if got["status"] != "ok" or not (got["difference"] < 1e-4 or row.same is dropped) or got["ours"] <= 0:
            bad[name] = got
    assert not bad


@pytest.mark.parametrize(
    "name,work",
    [
        ("sgemm 32x784x128", 2 * 32 * 784 * 128),
        ("conv N32 32->64 28px 3x3 nhwc fwd", 2 * 32 * 28 * 28 * 64 * 32 * 9),
        ("conv N8 256->256 14px 1x1 nchw fwd+bwd", 3 * 2 * 8 * 14 * 14 * 256 * 256),
        ("LSTM B32 T64 64->128 fwd", 2 * 32 * 64 * 4 * 128 * (64 + 128)),
        ("LSTM two layers B32 T64 64->64 fwd", 2 * 32 * 64 * 4 * 64 * (64 + 64) * 2),
        ("LSTM both ways B32 T64 64->64 fwd", 2 * 32 * 64 * 4 * 64 * (64 + 64) * 2),
        ("softmax 4096x1000 fwd+bwd", 2 * 2 * 4 * 4096 * 1000),
        ("Adam 100 x 10k", 28 * 1_000_000),
        ("copy 256 MB", 2 * 4 * 2**26),
    ],
)
def test_the_work_of_a_row(name, work):
    assert ROWS[name].amount() == pytest.approx(work / 1e9)


def test_bars_are_those_that_are_wanted():
    wanted = {
        "LSTM B32 T64 64->64 fwd+bwd": 1.5, "LSTM B32 T64 64->512 fwd": 0.9, "GRU B32 T64 64->64 fwd+bwd": 4,
        "conv N128 1->32 28px 3x3 nchw fwd": 5, "conv N128 1->32 28px 3x3 nhwc fwd": 0.95,
        "maxpool2 32x64x28x28 nchw fwd+bwd": 5, "maxpool2 32x64x28x28 nhwc fwd": 0.95, "sgemm 64x64x64": 0.9,
        "conv N8 256->256 14px 3x3 nhwc fwd+bwd": 0.9, "cross_entropy 4096x1000 fwd": 3, "Adam 1 x 10M": 0.95,
    }  # fmt: skip
    assert {name: ROWS[name].bar for name in wanted} == wanted


# ---- what counts as the same
def test_results_are_compared_by_their_greatest_number():
    a = np.array([100.0, 1e-3])
    assert close([a], [a + [0, 0.1]]) == pytest.approx(1e-3)
    for wrong in (np.zeros(3), np.array([np.nan, 1])):
        with pytest.raises(ValueError, match=r"shapes|not finite"):
            close([a], [wrong])
    rng = np.random.default_rng(0)
    x = rng.standard_normal(10_000)
    drop = lambda p: x * 2 * (rng.random(x.size) > p)
    assert dropped([drop(0.5)], [drop(0.5)]) < 1e-3
    assert dropped([drop(0.5)], [drop(0.2)]) > 0.1 and dropped([drop(0.5)], [2 * drop(0.5)]) > 0.1


def sleeper(seconds, result=1.0, renewed=None):
    """A library whose every op sleeps."""

    class Result:
        detach = lambda self: self
        numpy = lambda self: np.array([result])

    def call():
        time.sleep(seconds)
        return [Result()]

    return Timed(call, lambda: renewed.append(1) if renewed is not None else None)


def test_a_row_is_the_ratio_of_two_sleepers():
    libs, renewed = (0.001, 0.002), []
    row = Row("sleep", lambda seconds: sleeper(seconds, renewed=renewed), {}, lambda: 2e9, "bytes", 1.5)
    got = pairs.compare(row, libs, 5, 0.1, False)
    assert got["status"] == "ok" and got["amount"] == 2 and len(renewed) == 2 + 2 * 5
    assert len(got["rounds"]["ours"]) == 5 and got["ours"] == statistics.median(got["rounds"]["ours"])
    assert 1 <= got["ours"] < 2 <= got["theirs"] and got["low"] <= got["ratio"] <= got["high"]
    assert got["ratio"] == pytest.approx(1.9, rel=0.2) and got["reached"] == (got["low"] >= 1.5)


def test_a_wrong_op_or_one_that_fails_is_not_timed():
    wrong = Row("wrong", lambda lib: sleeper(0, lib), {}, lambda: 1.0)
    got = pairs.compare(wrong, (1.0, 2.0), 1, 0.01, False)
    assert got["status"] == "differs" and "ours" not in got and "5.0e-01" in got["reason"]
    broken = Row("broken", lambda lib: 1 / 0, {}, lambda: 1.0)
    assert pairs.compare(broken, (1, 2), 1, 0.01, False)["reason"] == "ZeroDivisionError: division by zero"


def test_the_interval_is_narrow_where_both_slow_down_together():
    slow = np.random.default_rng(1).uniform(1, 2, 21)
    ours, theirs = list(slow), list(3 * slow)
    assert pairs.interval(ours, theirs) == pytest.approx((3, 3, 3))
    ratio, low, high = pairs.interval(ours, list(3 * np.random.default_rng(2).permutation(slow)))
    assert low < 2.8 < ratio < 3.2 < high
    assert pairs.interval([1.0], [2.0]) == (2, 2, 2)


# ---- the report
def result(name, ours, theirs, **more):
    ratio, low, high = pairs.interval(ours, theirs)
    row = ROWS[name]
    part = dict(name=name, kind=row.kind, amount=row.amount(), bar=row.bar, status="ok", difference=0.0)
    part |= dict(ours=statistics.median(ours), theirs=statistics.median(theirs), ratio=ratio, low=low, high=high)
    return part | dict(reached=low >= row.bar, rounds=dict(ours=ours, theirs=theirs)) | more


def report_of(monkeypatch, rows):
    monkeypatch.setattr(pairs, "compare", lambda row, *_: rows[row.name])
    return pairs.run([name for name in rows if name not in ROOFS.values()], (None, None))


def test_roofs_shares_and_the_table(monkeypatch, tmp_path):
    gemm, moved = ROOFS["flops"], ROOFS["bytes"]
    size = ROWS[gemm].amount()
    rows = {
        gemm: result(gemm, [1e3 * size / 100], [1e3 * size / 200]),  # 100 and 200 GFLOP/s
        moved: result(moved, [1.0, 2.0], [4.0, 4.0]),
        "sgemm 64x64x64": result("sgemm 64x64x64", [0.01, 0.01], [0.02, 0.02]),
        "gelu 4M fwd": dict(name="gelu 4M fwd", status="differs", reason="results differ by 1"),
    }
    found = report_of(monkeypatch, rows)
    assert found["roofs"]["flops"] == pytest.approx(dict(ours=100, theirs=200, roof=200))
    assert found["roofs"]["bytes"]["roof"] == pytest.approx(1e3 * ROWS[moved].amount())  # the quickest round
    small = found["results"][2]
    assert small["rate"] == pytest.approx(2 * 64**3 / 1e9 / 1e-5) and small["share"] == pytest.approx(
        small["rate"] / 200
    )
    lines = pairs.table(found, bars=True).splitlines()
    line = next(line for line in lines if line.startswith("sgemm 64"))
    assert line.endswith("0.0100    0.0200   2.00   2.00 to 2.00    52.4 GFLOP/s   26%  0.90 yes")
    assert "gelu 4M fwd" in lines[4] and "differs: results differ by 1" in lines[4]
    assert any(line.split()[-2:] == ["0.90", "NO"] for line in lines if line.startswith(gemm))
    assert lines[-1].startswith("2 of 4 bars")
    assert "bar" not in pairs.table(found)


def test_chart(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    head = dict(date="2026-01-01", machine=dict(cpu="x", cores=2), threads=2, small=False, versions={})
    names = [*ROOFS.values(), "sgemm 64x64x64"]
    rows = {n: result(n, [1.0, 1.1, 1.2], [0.5 + k, 0.6 + k, 0.7 + k]) for k, n in enumerate(names)}
    chart.draw_ratios(head | report_of(monkeypatch, rows), tmp_path / "ops.png")
    with image.open(tmp_path / "ops.png") as picture:
        colours = {c for _, c in picture.convert("RGB").getcolors(2**24)}
    assert {(0x2A, 0x6F, 0xBB), (0xD1, 0x60, 0x5E)} <= colours  # what is faster and what is slower


# ---- the command
@pytest.mark.parity
def test_a_whole_run_in_a_process_of_its_own(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "ops.json"
    given = f"ops --ops softmax --small --rounds 2 --seconds 0.01 --threads 1 --out {out}".split()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *given], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [r["name"] for r in found["results"]] == [*ROOFS.values(), *(n for n in ROWS if "softmax" in n)]
    assert all(r["status"] == "ok" and len(r["rounds"]["ours"]) == 2 for r in found["results"])
    assert {"tensorlite", "torch", "numpy", "tensorlite kernels"} <= set(found["versions"]) and found["threads"] == 1
    assert "[4/4] softmax" in done.stderr and "softmax 4096x1000 fwd+bwd" in done.stdout


@pytest.mark.parametrize("given", ["--ops nonsense", "--ops (", "--rounds 0", "--seconds x", "--out /no/such/x.json"])
def test_arguments_that_make_no_sense(given, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(given.split())
    assert stop.value.code == 2 and given.split()[0].strip("-") in capsys.readouterr().err


@pytest.mark.parametrize("bars,low,status,code", [
    (False, 0.5, "ok", 0), (True, 0.5, "ok", 1), (True, 1.5, "ok", 0), (False, 1.5, "differs", 1)
])  # fmt: skip
def test_exit_status(monkeypatch, tmp_path, bars, low, status, code):
    one = result("sgemm 64x64x64", [1.0], [low], status=status, reason="x", rate=1.0, share=None)
    head = dict(date="2026-01-01", machine=dict(cpu="x", cores=2), threads=2, small=False, versions={}, roofs={})
    monkeypatch.setattr(script, "measured", lambda job: head | dict(results=[one]))
    given = ["--out", str(tmp_path / "x.json"), *(["--bars"] if bars else [])]
    assert script.main(given) == code and (tmp_path / "x.json").exists()


def test_list(capsys):
    assert command.main(["ops", "--list", "--ops", "^rnn"]) == 0
    assert capsys.readouterr().out.split("\n")[0] == " 4.00  RNN B32 T64 64->64 fwd"
