"""The program ``tensorlite``: train mnist, predict, info, its errors and exit codes, Ctrl-C."""

import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from program_harness import cli, program

import tensorlite as tl
from tensorlite import config
from tensorlite.vision import mnist

F4, SHARE = r"\d+\.\d{4}", r"[01]\.\d{4}"
EPOCH = rf"epoch \d+/\d+: loss {F4}, accuracy {SHARE}, validation loss {F4}, validation accuracy {SHARE} \(\d+\.\d s\)"


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_train_and_predict(place, capsys, model):
    image = pytest.importorskip("PIL.Image")
    code, out, err = cli(capsys, "train", "mnist", "--data", "digits", "--model", model, "--epochs", 6, "--lr", 3e-3,
                         "--batch-size", 20)  # fmt: skip
    assert code == 0 and err == []  # no bar where nobody watches
    assert out[0] == "digits: 360 images to train, 40 to validate, 50 to test"
    assert re.fullmatch(rf"{model}: \d+,\d+ parameters on cpu", out[1])
    assert len(out) == 9 and all(re.fullmatch(EPOCH, line) for line in out[2:8])
    end = re.fullmatch(rf"test accuracy (\d\.\d{{4}}) after \d+\.\d s; weights in mnist-{model}\.safetensors", out[8])
    assert end and float(end[1]) > 0.9

    digits = mnist.load("digits")
    for label, ground in ((3, 0), (7, 255)):
        image.fromarray(digits.test_images[label] ^ np.uint8(ground)).save(f"{label}.png")
    code, out, err = cli(capsys, "predict", "3.png", "7.png")
    assert code == 0 and err == []
    for label, line in zip((3, 7), out):
        assert re.fullmatch(rf"{label}\.png  {label}  [01]\.\d{{4}}", line)
    assert cli(capsys, "predict", "--weights", f"mnist-{model}.safetensors", "3.png")[1] == out[:1]


def test_same_seed_same_weights(place, capsys):
    states = []
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        assert cli(capsys, "train", "mnist", "--data", "digits", "--epochs", 1, "--seed", seed, "--out", name)[0] == 0
        states.append([t.tolist() for t in tl.load(name).values()])
    assert states[0] == states[1] != states[2]


def test_plot(place, capsys):
    pytest.importorskip("matplotlib")
    code, out, _ = cli(capsys, "train", "mnist", "--data", "digits", "--epochs", 2, "--plot", "a.png")
    assert code == 0 and "curves in a.png" in out
    assert (place / "a.png").read_bytes().startswith(b"\x89PNG")


def test_missing_extra_is_said_before_training(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = cli(capsys, "train", "mnist", "--data", "digits", "--plot", "a.png")
    assert code == 1 and out == [] and len(err) == 1
    assert "a plot: matplotlib" in err[0] and "pip install 'tensorlite[examples]'" in err[0]


def test_no_mnist_no_network(place, capsys):
    pytest.importorskip("sklearn")
    start = time.monotonic()
    code, out, _ = cli(capsys, "train", "mnist", "--epochs", 1)
    assert code == 0 and time.monotonic() - start < 20
    assert out[0].startswith("MNIST: no copy here") and out[0].endswith(
        "scikit-learn's 1,797 handwritten digits instead"
    )
    assert out[1] == "scikit-learn's 1,797 handwritten digits: 1,294 images to train, 143 to validate, 360 to test"


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--epochs", "0"], "argument --epochs: '0'; wanted a whole number from 1 up"),
        (["--batch-size", "1.5"], "argument --batch-size: '1.5'; wanted a whole number"),
        (["--lr", "0"], "argument --lr: '0'; wanted a number above 0"),
        (["--lr", "nan"], "argument --lr: 'nan'"),
        (["--lr", "inf"], "argument --lr: 'inf'"),
        (["--seed", "-1"], "argument --seed: '-1'"),
        (["--model", "rnn"], "argument --model: invalid choice: 'rnn'"),
        (["--device", "tpu"], "--device: device: got 'tpu'"),
        (["--data", "nowhere"], "--data: there is no folder nowhere"),
        (["--out", "nowhere/a"], "--out: nowhere/a: there is no folder nowhere"),
        (["--out", "digits"], "--out: digits: cannot be written"),
        (["--plot", "a.txt"], "--plot: a.txt: wanted a name that ends in .png"),
        (["--plot", "nowhere/a.png"], "--plot: nowhere/a.png: there is no folder"),
        (["--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_bad_options(place, capsys, argv, says):
    code, out, err = cli(capsys, "train", "mnist", *argv)
    assert code == 2 and out == [] and len(err) == 1
    assert "error: " in err[0] and says in err[0]


def test_bad_data(place, capsys):
    (place / "empty").mkdir()
    code, out, err = cli(capsys, "train", "mnist", "--data", "empty")
    assert code == 1 and out == [] and len(err) == 1 and "empty: MNIST is not there" in err[0]
    path = place / "digits/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    code, out, err = cli(capsys, "train", "mnist", "--data", "digits")
    assert code == 1 and out == [] and len(err) == 1
    assert re.search(r"train-images-idx3-ubyte\.gz: offset \d+: broken gzip data", err[0])


def test_predict_refuses(place, capsys):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((28, 28), np.uint8)).save("a.png")
    (place / "text.png").write_text("text")
    tl.save({"weight": tl.zeros(2, 2)}, "other.safetensors")
    (place / "broken.safetensors").write_bytes(b"broken")
    for argv, says in (
        (["b.png"], "b.png: there is no such file"),
        (["a.png"], "there is no mnist-*.safetensors here"),
        (["a.png", "--weights", "none"], "none: there is no such file"),
        (["text.png", "--weights", "other.safetensors"], "text.png: cannot identify"),
        (["a.png", "--weights", "other.safetensors"], "other.safetensors: these are not the weights"),
        (["a.png", "--weights", "broken.safetensors"], "broken.safetensors"),
    ):
        code, out, err = cli(capsys, "predict", *argv)
        assert code == 1 and out == [] and len(err) == 1 and says in err[0], (argv, err)
    code, _, err = cli(capsys, "predict")
    assert code == 2 and "IMAGE" in err[0]


def test_info(place, capsys, monkeypatch):
    code, out, err = cli(capsys, "info")
    text = "\n".join(out)
    assert code == 0 and err == []
    for word in ("tensorlite", "python", "numpy", "ml_dtypes", "safetensors", "cores", "compiled kernels", "devices",
                 str(place / "cache/tensorlite"), "not here", *config.Switch.table):  # fmt: skip
        assert word in text, word
    monkeypatch.setenv("TENSORLITE_DATA", "digits")
    assert "  MNIST             digits" in cli(capsys, "info")[1]


def test_version_and_help(capsys):
    code, out, _ = cli(capsys, "--version")
    assert code == 0 and out == [f"tensorlite {tl.__version__}"]
    for argv, code in (([], 2), (["train"], 2), (["--help"], 0), (["train", "mnist", "--help"], 0)):
        got, out, _ = cli(capsys, *argv)
        assert got == code and out[0].startswith("usage: tensorlite")


def test_as_a_module(place):
    process = program("--version")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"tensorlite {tl.__version__}\n", "")


def test_output_that_nobody_reads_to_the_end(place):
    process = program("info")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_saves(place):
    process = program("train", "mnist", "--data", "digits", "--epochs", "1000000", "--out", "a.safetensors")
    try:
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[3].startswith("epoch 2/1000000: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and err == ""
    told, resume = out.splitlines()[-2:]
    assert re.fullmatch(
        r"interrupted after \d+ epochs and \d+\.\d s; weights so far in a\.safetensors, checkpoint in a\.checkpoints",
        told,
    )
    assert resume == ("go on with: tensorlite train mnist --data digits --epochs 1000000 --out a.safetensors --resume")
    assert sorted(t.shape for t in tl.load("a.safetensors").values()) == [(10,), (10, 128), (128,), (128, 784)]
    assert sorted(p.name for p in place.iterdir()) == ["a.checkpoints", "a.safetensors", "digits"]
    assert len(list((place / "a.checkpoints").iterdir())) in (1, 2)


def test_ctrl_c_early(place, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "load", interrupt)
    code, out, err = cli(capsys, "train", "mnist")
    assert code == 130 and out == [] and err == ["tensorlite: interrupted; nothing was written"]
