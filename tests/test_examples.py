"""The example programs, each on data so small that it takes a moment: what they print, write, refuse and go on with."""

import os
import re

import numpy as np
import pytest
from program_harness import cli, write_small_data

import tensorlite as tl
from tensorlite.examples import series, sources
from tensorlite.train import Trainer

PROGRAMS = {
    "mnist": ("--model", "lstm", "--epochs", "2", "--batch-size", "60"),
    "text": ("--epochs", "2", "--batch-size", "50"),
    "chars": ("--steps", "6", "--hidden", "16", "--length", "8", "--dropout", "0.1"),
    "series": ("--epochs", "2", "--window", "5"),
    "vae": (
        "--epochs",
        "2",
    ),
}
WEIGHTS = {"mnist": "mnist-lstm.safetensors", "series": "series-temperature.safetensors"}
FIGURE = {
    "mnist": r"test accuracy [01]\.\d{4}", "text": r"test accuracy [01]\.\d{4}",
    "chars": r"test \d\.\d{4} nats a character",
    "series": r"test RMSE \d\.\d{4} degrees, naive forecast \d\.\d{4},", "vae": r"test ELBO -\d+\.\d\d nats an image",
}  # fmt: skip


@pytest.fixture
def folder(place, monkeypatch):
    """A folder ``digits`` with a little of every program's data; no mirror answers."""
    write_small_data(place / "digits")
    for source in (sources.SHAKESPEARE, sources.REVIEWS, sources.TEMPERATURE, sources.POLLUTION):
        monkeypatch.setitem(source.__dict__, "mirrors", ("http://127.0.0.1:9/",))
    return place


def run(capsys, name, *options):
    return cli(capsys, "train", name, "--data", "digits", *PROGRAMS[name], *options)


def weights_of(name):
    return WEIGHTS.get(name, f"{name}.safetensors")


@pytest.mark.parametrize("name", PROGRAMS)
def test_trains_and_says_so(folder, capsys, name):
    pytest.importorskip("matplotlib")
    code, out, err = run(capsys, name, "--plot", "curves.png")
    assert code == 0 and err == [], (out, err)
    epochs = [line for line in out if line.startswith("epoch ")]
    assert len(epochs) == (1 if name == "chars" else 2) and ", validation loss " in epochs[0]
    assert "curves in curves.png" in out and (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert re.fullmatch(rf"{FIGURE[name]} after \d+\.\d s; weights in {weights_of(name)}", out[-1]), out[-1]
    state = tl.load(weights_of(name))
    assert all(t.isfinite().all() for t in (state.get("model") or state).values())
    # done: to resume it measures again, and ends with the same line
    code, again, _ = run(capsys, name, "--resume")
    assert code == 0 and any(line.startswith("going on after step") for line in again)
    assert again[-1].split(" after ")[0] == out[-1].split(" after ")[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_interrupted_and_resumed(folder, capsys, monkeypatch, name):
    assert run(capsys, name, "--out", "whole.safetensors")[0] == 0
    step = Trainer._step

    def interrupt(self, batches):
        step(self, batches)
        self._interrupted = self.step == 4

    monkeypatch.setattr(Trainer, "_step", interrupt)
    code, out, err = run(capsys, name, "--out", "again.safetensors")
    assert code == 130 and err == [], (out, err)
    assert out[-2].startswith("interrupted after ") and out[-2].endswith("checkpoint in again.checkpoints")
    command = ["train", name, "--data", "digits", *PROGRAMS[name], "--out", "again.safetensors", "--resume"]
    assert out[-1] == f"go on with: tensorlite {' '.join(command)}"
    monkeypatch.undo()
    os.chdir(folder)
    assert cli(capsys, *command)[0] == 0
    assert (folder / "again.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


def test_resume_refuses_another_run(folder, capsys):
    assert run(capsys, "mnist", "--out", "a")[0] == 0
    for options, says in (
        (("--seed", "5"), "was begun with --seed 0, now 5; wanted the same"),
        (("--batch-size", "30"), "was begun with --batch-size 60, now 30"),
        (("--dropout", "0.5"), "was begun with --dropout 0.0, now 0.5"),
    ):
        code, _, err = run(capsys, "mnist", "--out", "a", "--resume", *options)
        assert code == 1 and len(err) == 1 and "a.checkpoints" in err[0] and says in err[0]
    code, _, err = cli(capsys, "train", "vae", "--data", "digits", "--out", "a", "--resume")
    assert code == 1 and "is of 'mnist'; wanted a checkpoint of 'vae'" in err[0]
    from test_data import write_mnist

    write_mnist(folder / "digits", train=400, test=50, seed=1)
    code, _, err = run(capsys, "mnist", "--out", "a", "--resume")
    assert code == 1 and "was begun with other data" in err[0]


def test_a_new_run_keeps_the_checkpoints_of_an_unfinished_one(folder, capsys, monkeypatch):
    step = Trainer._step

    def interrupt(self, batches):
        step(self, batches)
        self._interrupted = self.step == 4

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", interrupt)
        assert run(capsys, "mnist", "--out", "a")[0] == 130
    code, out, _ = run(capsys, "mnist", "--out", "a")
    assert code == 0 and any("now in a.checkpoints.old" in line for line in out)
    assert [p.name for p in (folder / "a.checkpoints.old").iterdir()] == ["step-0000000004.safetensors"]
    code, out, _ = run(capsys, "mnist", "--out", "a")  # that one was finished: it goes
    assert code == 0 and not any(".old" in line for line in out)
    assert not (folder / "a.checkpoints.old1").exists()


@pytest.mark.parametrize(
    "name, wanted",
    [("text", "rt-polarity.pos and rt-polarity.neg"), ("chars", "input.txt"), ("series", "daily-min-temperatures.csv")],
)
def test_no_data(folder, capsys, name, wanted):
    (folder / "empty").mkdir()
    code, _, err = cli(capsys, "train", name, "--data", "empty")
    assert code == 1 and len(err) == 1 and f"is not there; wanted {wanted}" in err[0]
    code, _, err = cli(capsys, "train", name)
    assert code == 1 and len(err) == 1 and "no copy here" in err[0] and "wanted --data DIR or TENSORLITE_DATA" in err[0]


def test_broken_data(folder, capsys):
    path = folder / "digits/daily-min-temperatures.csv"
    path.write_text(path.read_text().replace('"1981-01-03",', '"1981-01-03",cold', 1))
    code, _, err = run(capsys, "series")
    assert code == 1 and re.search(r"daily-min-temperatures\.csv: line 4, column 'Temp': got 'cold", err[0])
    (folder / "digits/tinyshakespeare.txt").write_bytes(b"abc\xff" * 500)
    code, _, err = run(capsys, "chars")
    assert code == 1 and "tinyshakespeare.txt: offset 3: byte ff is no utf-8" in err[0]
    (folder / "digits/tinyshakespeare.txt").write_text("too short")
    code, _, err = run(capsys, "chars")
    assert code == 1 and "9 characters; wanted at least" in err[0]


def test_sample(folder, capsys):
    assert run(capsys, "chars", "--checkpoint-every", "0")[0] == 0
    code, out, err = cli(capsys, "sample", "--prompt", "To be", "--length", 40)
    text = "\n".join(out)
    assert code == 0 and err == [] and text.startswith("To be") and len(text) == 45
    assert cli(capsys, "sample", "--prompt", "To be", "--length", 40)[1] == out
    assert cli(capsys, "sample", "--prompt", "To be", "--length", 40, "--seed", 1)[1] != out
    assert cli(capsys, "sample", "--prompt", "To be", "--length", 40, "--weights", "chars.checkpoints")[1] == out
    cold = [cli(capsys, "sample", "--temperature", 0, "--seed", s)[1] for s in (1, 2)]
    assert cold[0] == cold[1]
    for options, says in (
        (("--prompt", "To be @"), "the prompt: CharVocab: character '@' at offset 6"),
        (("--prompt", ""), "the prompt is empty"),
        (("--weights", "none"), "none: there is no such file"),
        (("--weights", "digits"), "digits: holds no checkpoint"),
    ):
        code, out, err = cli(capsys, "sample", *options)
        assert code == 1 and out == [] and len(err) == 1 and says in err[0], err
    tl.save({"weight": tl.zeros(2)}, "other")
    assert "is something else; wanted weights" in cli(capsys, "sample", "--weights", "other")[2][0]


def test_a_text_of_ones_own(folder, capsys):
    (folder / "mine.txt").write_text("eins zwei drei vier\n" * 200)
    code, out, _ = cli(capsys, "train", "chars", "--data", "mine.txt", *PROGRAMS["chars"])
    assert code == 0 and out[0].startswith("mine.txt: 3,600 characters to train")


def test_series_with_gaps(folder, capsys):
    code, out, _ = run(capsys, "series", "--series", "pollution")
    assert code == 0 and "67 of 600 values are missing" in out[0] and "ug/m3, naive forecast" in out[-1]
    assert series.filled(np.array([np.nan, 1, np.nan, np.nan, 4, np.nan])).tolist() == [1, 1, 1, 1, 4, 4]
    table = series.Table(np.array([0.0, 1, np.nan, 3, 4, 5, np.nan, 7]), np.zeros((8, 0)), 365.25, "")
    made = series.windows(table, 3, 0.0, 1.0, (np.zeros(0), np.ones(0)))
    assert made.where.tolist() == [3, 4, 5, 7] and made.target.tolist() == [3, 4, 5, 7]
    assert made.last.tolist() == [1, 3, 4, 5] and made.inputs.shape == (4, 3, 4)
    assert made.inputs[0, :, :2].tolist() == [[0, 0], [1, 0], [1, 1]]  # value, and whether it was missing


@pytest.mark.parametrize(
    "argv, says",
    [
        (("series", "--series", "gold"), "invalid choice: 'gold'"),
        (("series", "--window", "1"), "argument --window: '1'; wanted a whole number from 2 up"),
        (("text", "--dropout", "1"), "argument --dropout: '1'"),
        (("vae", "--grid", "nowhere/a.png"), "--grid: nowhere/a.png: there is no folder nowhere"),
        (("chars", "--data", "nowhere"), "--data: there is no folder nowhere"),
        (("chars", "--epochs", "1"), "unrecognized arguments: --epochs"),
        (("mnist", "--checkpoint-every", "-1"), "argument --checkpoint-every: '-1'"),
        (("mnist", "--workers", "-1"), "argument --workers: '-1'"),
    ],
)
def test_bad_options(folder, capsys, argv, says):
    code, out, err = cli(capsys, "train", *argv)
    assert code == 2 and out == [] and len(err) == 1 and says in err[0]
