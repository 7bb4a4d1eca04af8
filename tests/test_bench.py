"""The step benchmark: its workloads train, its processes are alone, its report, chart and command hold."""

import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from benchmarks import __main__ as command, child, steps as script
from tensorlite.bench import bars, chart, harness, report, steps
from tensorlite.bench.workloads import WORKLOADS, find

ROOT = Path(__file__).resolve().parent.parent
CHILD = [sys.executable, "-m", "benchmarks.child"]
HERE = [name for name, w in WORKLOADS.items() if not w.missing(tl)]


# ---- workloads
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_trains_and_infers(name):
    workload = WORKLOADS[name]
    if missing := workload.missing(tl):
        pytest.skip(f"not available: {', '.join(missing)}")
    models = []
    sizes = workload.sized(small=True)
    watched = types.SimpleNamespace(**vars(workload), sized=workload.sized, pool=workload.pool)
    watched.build = lambda lib, **sizes: models.append(workload.build(lib, **sizes)) or models[-1]
    step, batches = steps.prepare(tl, watched, "train", small=True)
    before = {key: value.clone() for key, value in models[0].model.named_parameters()}
    losses = [step(batch).item() for batch in batches[:3]]
    assert np.isfinite(losses).all() and not step(batches[0]).requires_grad
    same = [key for key, value in models[0].model.named_parameters() if tl.equal(value.detach(), before[key].detach())]
    assert not same, "parameters that did not change"
    step, batches = steps.prepare(tl, watched, "infer", small=True)
    out = step(batches[0])
    out = out[0] if isinstance(out, tuple) else out
    assert not models[1].model.training and out.shape[0] == sizes["batch"] and not out.requires_grad
    assert all(p.grad is None for p in models[1].model.parameters())


@pytest.mark.parametrize("name", [n for n in HERE if n in ("mlp_b32", "cnn_b32", "vae", "text_lstm", "char_lm")])
def test_the_data_can_be_learnt(name):
    step, batches = steps.prepare(tl, WORKLOADS[name], "train", small=True)
    losses = [step(batches[k % len(batches)]).item() for k in range(300)]
    assert np.mean(losses[-20:]) < 0.97 * np.mean(losses[:5])


@pytest.mark.parametrize("name", WORKLOADS)
def test_data_differ_from_batch_to_batch_and_come_again_with_the_seed(name):
    workload = WORKLOADS[name]
    pool, again, other = (workload.pool(seed, small=True) for seed in (0, 0, 1))
    assert len(pool) >= 16 and len({batch[0].tobytes() for batch in pool}) > 0.75 * len(pool)
    assert all(np.array_equal(a, b) for a, b in zip(pool[3], again[3]))
    assert not np.array_equal(pool[0][0], other[0][0])
    assert {a.dtype for batch in pool for a in batch} <= {np.dtype(np.float32), np.dtype(np.int64)}


# GFLOP/s times milliseconds of the measurements that these workloads were taken from
@pytest.mark.parametrize(
    "name,phase,gflop",
    [
        ("mlp_b32", "train", 24 * 0.54e-3), ("mlp_b128", "infer", 79 * 0.33e-3), ("mlp_big", "train", 138 * 17.8e-3),
        ("cnn_b32", "train", 30 * 17.7e-3), ("cnn_b128", "infer", 73 * 9.8e-3), ("lstm_seq", "train", 33 * 8.8e-3),
        ("text_lstm", "train", 48 * 13e-3), ("text_gru", "train", 26 * 18.3e-3), ("text_rnn", "train", 23 * 6.9e-3),
        ("char_lm", "train", 89 * 120e-3), ("vae", "train", 77 * 5.5e-3), ("resnet8", "train", 67 * 71.3e-3),
        ("gpt_nano", "train", 87 * 61e-3),
    ],
)  # fmt: skip
def test_flops(name, phase, gflop):
    assert WORKLOADS[name].gflop(phase) == pytest.approx(gflop, rel=0.025)


def test_flops_of_a_dense_net_by_hand():
    assert WORKLOADS["mlp_b32"].gflop("infer") == 2 * 32 * (784 * 128 + 128 * 10) / 1e9
    assert WORKLOADS["mlp_b32"].gflop("train") == 2 * 32 * (2 * 784 * 128 + 3 * 128 * 10) / 1e9


def test_missing_parts_are_named():
    lib = types.SimpleNamespace(nn=types.SimpleNamespace(Embedding=1, utils=None))
    assert WORKLOADS["char_lm"].missing(lib) == ["nn.LSTM", "nn.utils.clip_grad_norm_"]
    assert not WORKLOADS["mlp_b32"].missing(lib)


# ---- measuring
def test_measure_counts_steps_and_refuses_a_loss_that_is_not_finite():
    seen = []
    found = steps.measure(lambda batch: seen.append(batch) or 1 / len(seen), [(1,), (2,), (3,)], "train", 0.02)
    assert seen[:4] == [(1,), (2,), (3,), (1,)] and len(seen) > found["steps"] >= 5
    assert found["min"] <= found["q1"] <= found["median"] <= found["q3"]
    assert found["loss_start"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    assert found["loss_end"] < 5 / len(seen)
    slow = steps.measure(lambda batch: None, [()], "infer", 0.01, ready=lambda _: sum(range(20_000)))
    assert slow["loss_end"] is None and slow["median"] > found["median"] and slow["own_cores"] >= 0
    with pytest.raises(ArithmeticError, match="step 1: the loss is nan"):
        steps.measure(lambda batch: math.nan, [()], "train", 0.01)


def test_the_files_that_peers_load_import_no_library():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom benchmarks import child\n"
    code += "child.load('workloads'), child.load('steps')\n"
    code += "assert not {'tensorlite', 'torch', 'jax'} & set(sys.modules), sorted(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- processes and their report
@pytest.fixture(scope="module")
def found():
    """A tiny run of two workloads, each phase of each in a process of its own."""
    said = []
    result = harness.run(
        ["mlp_b32", "vae"], ["train", "infer"], ["tensorlite"], CHILD, rounds=1, seconds=0.02, threads=1, small=True,
        folder=ROOT, say=said.append,
    )  # fmt: skip
    assert len(said) == 4 and said[0].startswith("[1/4] mlp_b32 train tensorlite: ")
    return result


def with_peer(found, factor=2.0, **changes):
    """The report as if a peer had been measured too, that many times slower."""
    theirs = [
        {**r, "lib": "torch", "ms": r["ms"] * factor, "medians": [factor * m for m in r["medians"]], **changes}
        for r in found["results"]
    ]
    both = [x for pair in zip(found["results"], theirs) for x in pair]
    return {**found, "libs": ["tensorlite", "torch"], "results": both}


def test_the_report_says_all(found):
    assert [(r["workload"], r["phase"]) for r in found["results"]] == [
        (w, p) for w in ("mlp_b32", "vae") for p in ("train", "infer")
    ]
    assert {"kind", "date", "machine", "versions", "threads", "rounds", "seconds"} <= set(found)
    assert set(found["machine"]) == {"cpu", "cores", "isa", "system"}
    assert found["versions"]["tensorlite"] == tl.__version__ and found["versions"]["numpy"] == np.__version__
    for r in found["results"]:
        assert r["status"] == "ok" and r["rounds"][0]["steps"] >= 5 and r["rounds"][0]["also_loaded"] == []
        assert r["ms"] == r["medians"][0] > 0 and r["min"] <= r["q1"] <= r["ms"] <= r["q3"]
        assert r["gflop_per_s"] == pytest.approx(WORKLOADS[r["workload"]].gflop(r["phase"], True) / r["ms"] * 1e3)
        assert ("loss_start" in r) == (r["phase"] == "train")


def test_rounds_come_together_by_their_median():
    part = dict(status="ok", min=1.0, q1=2.0, q3=4.0, loss_start=3.0, loss_end=2.0)
    parts = [part | {"median": m, "min": m - 1} for m in (9.0, 3.0, 4.0)]
    got = harness.together("mlp_b32", "train", "torch", parts, False)
    assert (got["ms"], got["min"], got["medians"], got["trained"]) == (4.0, 2.0, [9.0, 3.0, 4.0], True)


def test_table(found, tmp_path):
    text = report.table(with_peer(found))
    lines = [line.split() for line in text.splitlines()]
    assert lines[1][:2] == ["tensorlite", "torch"] and lines[2][:2] == ["mlp_b32", "train"]
    assert lines[2][-2:] == ["2.00", "torch"] and found["machine"]["cpu"] in text and "tiny sizes" in text
    assert report.table(found).splitlines()[2].split()[-2:] == ["-", "-"]  # nobody to compare with
    worse = with_peer(found, trained=False, loss_start=1.0, loss_end=2.0)
    assert "mlp_b32 train torch: the loss did not fall: 1.0000 to 2.0000" in report.table(worse)
    for part in (r["rounds"][0] for r in worse["results"]):
        part["other_cores"] = 1.5
    assert "other programs kept 1.5 cores busy" in report.table(worse)
    report.save(found, tmp_path / "steps.json")
    assert json.loads((tmp_path / "steps.json").read_text()) == found


def test_chart(found, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    chart.draw(with_peer(found), tmp_path / "steps.png")
    with image.open(tmp_path / "steps.png") as picture:
        assert picture.width > 1000
        colours = {c for _, c in picture.convert("RGB").getcolors(2**24)}
    assert {(0x2A, 0x6F, 0xBB), (0xD1, 0x60, 0x5E)} <= colours  # our bars and theirs
    nobody = {**found, "results": [{**found["results"][0], "status": "failed", "reason": "x"}]}
    chart.draw(nobody, tmp_path / "empty.svg")
    assert (tmp_path / "empty.svg").read_text().startswith("<?xml")


def fake(tmp_path, body):
    """A child that does ``body`` with its ``job``."""
    path = tmp_path / "fake.py"
    path.write_text("import json, sys, os\njob = json.loads(sys.argv[1])\n" + body)
    return [sys.executable, str(path)]


OK = dict(status="ok", median=1.0, min=1.0, q1=1.0, q3=1.0, loss_start=2.0, loss_end=1.0, versions={}, other_cores=0.0)


def test_a_child_that_fails_is_reported_and_the_others_go_on(tmp_path):
    body = f"if job['lib'] == 'torch': raise RuntimeError('no more memory')\nprint(json.dumps({OK!r}))"
    got = harness.run(["vae"], ["train"], ["torch", "tensorlite"], fake(tmp_path, body), rounds=2)
    torch, ours = got["results"]
    assert (torch["status"], torch["reason"]) == ("failed", "RuntimeError: no more memory")
    assert ours["status"] == "ok" and len(ours["rounds"]) == 2
    text = report.table(got)
    assert "FAILED" in text and "vae train torch: failed: RuntimeError: no more memory" in text


@pytest.mark.parametrize(
    "body,reason",
    [
        ("print('no JSON')", "printed 'no JSON'; wanted JSON"), ("print([])", "wanted JSON"), ("", "printed ''"),
        ("os._exit(3)", "exit status 3"),
    ],
)  # fmt: skip
def test_a_child_that_says_nonsense_has_failed(tmp_path, body, reason):
    got = harness.run(["vae"], ["train"], ["torch"], fake(tmp_path, body), rounds=1)
    assert got["results"][0]["status"] == "failed" and reason in got["results"][0]["reason"]


def test_a_child_that_hangs_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "TIME_LIMIT", 0.3)
    got = harness.run(["vae"], ["train"], ["torch"], fake(tmp_path, "import time; time.sleep(60)"), seconds=0.01)
    assert "took more than" in got["results"][0]["reason"]


def test_the_processes_alternate_and_get_their_threads(tmp_path):
    log = tmp_path / "log"
    body = f"open({str(log)!r}, 'a').write(job['lib'] + os.environ['OMP_NUM_THREADS'] + str(job['seed']) + ' ')\n"
    harness.run(["vae"], ["train"], ["torch", "jax"], fake(tmp_path, body + f"print(json.dumps({OK!r}))"), threads=3)
    assert log.read_text().split() == ["torch30", "jax30", "torch31", "jax31", "torch32", "jax32"]


def test_what_is_not_there_is_said_once_and_not_dropped(tmp_path):
    body = "reason = 'jax' if job['lib'] == 'jax' else 'nn.LSTM'\n"
    body += "status = 'not installed' if job['lib'] == 'jax' else 'not available'\n"
    body += "print(json.dumps({'status': status, 'reason': reason}))"
    said = []
    libs = ["tensorlite", "jax"]
    got = harness.run(["char_lm"], ["train", "infer"], libs, fake(tmp_path, body), rounds=2, say=said.append)
    assert [r["status"] for r in got["results"]] == ["not available", "not installed"] * 2
    assert said.count("jax: jax is not installed; skipped") == 1
    text = report.table(got)
    assert "char_lm train tensorlite: not available: nn.LSTM" in text and "jax: skipped, jax is not installed" in text


def test_a_process_with_an_environment_of_its_own_starts_again_with_it(monkeypatch):
    started = []
    monkeypatch.setattr(child.os, "execve", lambda *given: started.append(given) or sys.exit(0))
    job = json.dumps(dict(lib="torch_kept"))
    with pytest.raises(SystemExit):
        child.main(job)
    ((program, arguments, env),) = started
    assert program == sys.executable and arguments[-1] == job and set(child.KEEP_MEMORY.items()) <= set(env.items())
    assert env["PATH"] == os.environ["PATH"]
    for key, value in child.KEEP_MEMORY.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(child, "run", lambda job: {"status": "ok"})
    child.main(job)
    assert len(started) == 1


def test_the_child_says_what_a_library_lacks(monkeypatch):
    job = dict(workload="vae", phase="train", lib="tensorlite", seconds=0.01, threads=1, small=True)
    monkeypatch.setattr(child, "keep_to", lambda threads: None)
    monkeypatch.setitem(child.LIBS, "tensorlite", {"module": "no_such_library"})
    assert child.run(job) == {"status": "not installed", "reason": "no_such_library"}
    monkeypatch.setitem(child.LIBS, "tensorlite", {"module": "tensorlite"})
    lacking = types.SimpleNamespace(missing=lambda lib: ["nn.LSTM"])
    loaded = types.SimpleNamespace(find=lambda name: lacking, Memory=steps.Memory)
    monkeypatch.setattr(child, "load", lambda name: loaded)
    monkeypatch.setattr(tl, "set_num_threads", lambda n: None)
    assert child.run(job)["status"] == "not available"


# ---- the command
def test_the_command_from_end_to_end(tmp_path, capsys):
    plot, out = tmp_path / "p.png", tmp_path / "o.json"
    libs = "tensorlite,tensorlite_compiled,tensorlite_nhwc_compiled"
    given = f"--workloads mlp_b32 --phases infer --libs {libs} --small --rounds 1 --seconds 0.01 --out {out}"
    assert command.main(["steps", *given.split(), "--plot", str(plot)]) == 0
    printed = capsys.readouterr()
    assert "mlp_b32    infer" in printed.out and str(plot) in printed.out and "[2/2] mlp_b32" in printed.err
    assert "missed: mlp_b32 infer: - times as fast as nobody; wanted 1.3" in printed.out
    got = json.loads(out.read_text())
    assert got["small"] is True and plot.read_bytes().startswith(b"\x89PNG")
    assert set(got["roofs"]) == {"flops", "bytes"} and got["roofs"]["flops"]["roof"] > 0
    ((compiled,), (row,)) = [r for r in got["results"] if r["lib"] == "tensorlite_compiled"], got["summary"]
    assert compiled["moved"] > 4 * 8 * 12 and compiled["first"] > compiled["min"]
    assert row["ours"] == "tensorlite_compiled" and row["reached"] is False and row["gemm_share"] is None
    if sys.platform == "linux":
        assert 0 <= compiled["peak_mb"] < 200
    assert command.main(["steps", *given.split(), "--bars"]) == 1


def test_a_failed_process_is_exit_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script.sys, "executable", "/bin/false" if os.name == "posix" else "false")
    given = f"--workloads mlp_b32 --phases infer --libs tensorlite --rounds 1 --out {tmp_path / 'o.json'}"
    assert script.main(given.split()) == 1
    assert "mlp_b32 infer tensorlite: failed: exit status 1" in capsys.readouterr().out


def test_list_names_everything(capsys):
    assert command.main(["steps", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in WORKLOADS) and all(f"  {name}\n" in out for name in child.LIBS)


@pytest.mark.parametrize(
    "given,message",
    [
        ("--workloads mlp_b32,mlp_b33", "got mlp_b33; wanted some of mlp_b32"), ("--libs tf", "got tf; wanted"),
        ("--phases test", "got test; wanted"), ("--rounds 0", "got 0; wanted more than 0"), ("--seconds x", "'x'"),
        ("--out no/such/folder/o.json", "no folder"), ("--out o.json --plot no/such/folder/p.png", "no folder"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_exit_status_2(given, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        script.main(given.split())
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_commands_of_the_package(capsys):
    assert command.main([]) == 2 and "steps" in capsys.readouterr().err
    assert command.main(["--help"]) == 0 and "overhead" in capsys.readouterr().out
    assert command.main(["nonsense"]) == 2
    with pytest.raises(SystemExit):
        command.main(["overhead", "--help"])
    assert "--check" in capsys.readouterr().out


# ---- the bars
def measured(ms, lib="tensorlite_compiled", **more):
    return dict(workload="cnn_b32", phase="train", lib=lib, status="ok", ms=ms, medians=[ms], gflop_per_s=50.0, **more)


def test_our_best_compiled_stands_beside_the_best_peer_as_installed():
    results = [
        measured(1.0, "tensorlite"), measured(2.0, first=9.0, peak_mb=1.5), measured(1.5, "tensorlite_nhwc_compiled"),
        measured(6.0, "torch"), measured(4.5, "torch_nhwc", first=30.0, peak_mb=None), measured(2.5, "torch_kept"),
    ]  # fmt: skip
    roofs = dict(flops=dict(roof=200.0), bytes=dict(roof=20.0))
    found = dict(results=results, small=False, roofs=roofs)
    (row,) = bars.summary(found)
    assert (row["ours"], row["best"], row["speedup"], row["bar"], row["aim"]) == (
        "tensorlite_nhwc_compiled", "torch_nhwc", 3.0, 2.5, 4.0
    )  # fmt: skip
    assert row["reached"] and row["gemm_share"] == 0.25 and row["kept"] == 2.5 / 1.5 and row["eager"] == 1 / 1.5
    assert "yes" in bars.table([row]) and "1 of 1 bars reached" in bars.table([row]) and not bars.misses([row])
    results[2]["ms"], results[2]["moved"], results[4]["medians"] = 1.9, 19e6, [1.5]
    (row,) = bars.summary(found)
    assert row["low"] == 1.0 and row["moved_share"] == pytest.approx(0.5)
    assert row["reached"] is False and bars.misses([row]) == [row]
    assert "missed: cnn_b32 train: 2.37 times as fast as torch_nhwc; wanted 2.5" in bars.table([row])


def test_every_bar_is_one_of_a_workload():
    assert {name for name, _ in bars.BARS} == set(WORKLOADS) and {p for _, p in bars.BARS} == set(steps.PHASES)
    assert all(aim is None or aim >= bar for bar, aim in bars.BARS.values())


def test_columns_that_say_the_same():
    assert child.same("cnn_b32", "train", "torch_nhwc") == child.same("cnn_b32", "infer", "torch_nhwc") == "torch_nhwc"
    assert child.same("mlp_b32", "train", "torch_nhwc") == "torch_fused"
    assert child.same("mlp_b32", "infer", "torch_nhwc") == child.same("vae", "infer", "torch_fused") == "torch"
    assert child.same("lstm_seq", "train", "tensorlite_nhwc_compiled") == "tensorlite_compiled"
    assert all(child.same(w, p, "torch_kept") == "torch_kept" for w in WORKLOADS for p in steps.PHASES)
    assert all(child.same("cnn_b32", "train", lib) == lib for lib in child.LIBS)
    assert script.skipped(["torch"]) == [lib for lib in child.LIBS if lib != "torch"]


def test_a_workload_of_other_sizes():
    other = find("cnn_b32@batch=8;widths=(4,4,4,4)")
    assert other.name == "cnn_b32@batch=8;widths=(4,4,4,4)" and other.sizes["widths"] == (4, 4, 4, 4)
    assert other.gflop("train") < find("cnn_b32").gflop("train") / 4 and WORKLOADS["cnn_b32"].sizes["batch"] == 32
    with pytest.raises(ValueError, match="got deep; wanted some of batch"):
        find("cnn_b32@deep=8")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
def test_memory_counts_from_where_it_begins():
    memory = steps.Memory()
    data = np.ones(2**24)  # 128 MB, which are gone when it begins
    del data
    memory.begin()
    if not memory.known:
        pytest.skip("this system does not let the mark be put back")
    kept = np.ones(2**22)  # 32 MB
    assert 30 < memory.peak() < 60 and memory.peak(kept.nbytes) < 28


# ---- peers
@pytest.mark.parity
@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_weights_give_pytorchs_losses(name, monkeypatch):
    torch = pytest.importorskip("torch")
    workload = WORKLOADS[name]
    if missing := workload.missing(tl):
        pytest.skip(f"not available: {', '.join(missing)}")
    noise = np.random.default_rng(0).standard_normal(4096)
    for lib in (tl, torch):
        drawn = lambda x, lib=lib: lib.from_numpy(noise[: x.numel()].astype(np.float32)).reshape(x.shape)
        monkeypatch.setattr(lib, "randn_like", drawn)
    start = workload.build(tl, **workload.sized(small=True)).model.state_dict()
    losses = []
    for lib in (tl, torch):

        def build(lib, **sizes):
            task = workload.build(lib, **sizes)
            task.model.load_state_dict({k: lib.from_numpy(v.numpy().copy()) for k, v in start.items()})
            return task

        same = types.SimpleNamespace(**vars(workload), sized=workload.sized, pool=workload.pool)
        same.build = build
        step, batches = steps.prepare(lib, same, "train", small=True)
        losses.append([step(batch).item() for batch in batches[:3]])
    np.testing.assert_allclose(*losses, rtol=2e-5)


@pytest.mark.parity
@pytest.mark.parametrize("lib", ["torch", "torch_fused", "torch_nhwc", "torch_kept"])
def test_a_pytorch_process_holds_no_tensorlite(lib):
    pytest.importorskip("torch")
    got = harness.run(["cnn_b32"], ["train"], [lib], CHILD, rounds=1, seconds=0.02, small=True, folder=ROOT)
    (result,) = got["results"]
    assert result["status"] == "ok" and result["rounds"][0]["also_loaded"] == [] and "torch" in got["versions"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_jax_has_every_workload(name):
    pytest.importorskip("jax")
    from benchmarks.peers import jax_steps

    for phase in steps.PHASES:
        step, batches = jax_steps.prepare(WORKLOADS[name], phase, small=True)
        outs = [step(batch) for batch in batches[:3]]
        if phase == "train":
            assert np.isfinite([float(loss) for loss in outs]).all()


@pytest.mark.parametrize("ours,theirs", [("Adam", "adam"), ("AdamW", "adam"), ("SGD", "sgd")])
def test_the_updates_in_jax_are_ours(ours, theirs):
    jax = pytest.importorskip("jax")
    from benchmarks.peers import jax_steps

    w, grads = np.linspace(-1, 1, 7, dtype=np.float32), np.random.default_rng(0).standard_normal((5, 7))
    p = tl.nn.Parameter(tl.from_numpy(w.copy()))
    settings = {"Adam": dict(lr=1e-3), "AdamW": dict(lr=3e-4), "SGD": dict(lr=0.05, momentum=0.9)}[ours]
    optimizer = getattr(tl.optim, ours)([p], **settings)
    zero = jax.numpy.zeros(7)
    q, moments = jax.numpy.asarray(w), zero if ours == "SGD" else (zero, zero)
    more = dict(lr=3e-4, decay=0.01) if ours == "AdamW" else {}
    for k, g in enumerate(grads.astype(np.float32)):
        p.grad = tl.from_numpy(g)
        optimizer.step()
        q, moments = getattr(jax_steps, theirs)(q, g, moments, k + 1, **more)
    np.testing.assert_allclose(np.asarray(q), p.detach().numpy(), rtol=1e-5, atol=1e-7)
