"""Runs that were killed end with the weights of one that never was."""

import os
import random
import time

import pytest
from program_harness import program

resource = pytest.importorskip("resource")

SETTINGS = ("train", "mnist", "--data", "digits", "--epochs", "12", "--batch-size", "20", "--dropout", "0.3",
            "--augment", "--checkpoint-every", "0.02")  # fmt: skip


def started(*options):
    """The program, once it trains."""
    process = program(*SETTINGS, *options)
    for line in process.stdout:
        if line.startswith("mlp: "):
            return process
    raise AssertionError(process.stderr.read())


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and err == "", (out, err)
    return out


def killed_and_resumed(place, kills, seed):
    """Kill a run so many times, resume it each time with another number of workers, and compare the weights."""
    print(f"seed {seed}")
    draw = random.Random(seed)
    begun = time.monotonic()
    ended(started("--out", "whole.safetensors"))
    whole, took = (place / "whole.safetensors").read_bytes(), time.monotonic() - begun
    done, told = 0, []
    while done < kills or not any(told):  # one of them after a checkpoint
        # two workers at first, then any number
        process = started(
            "--out", "again.safetensors", "--workers", str(draw.choice((0, 1, 2)) if told else 2), "--resume"
        )
        time.sleep(draw.uniform(0.0, 0.8 * took))
        if process.poll() is None:
            process.kill()
            done += 1
            told.append(sorted(os.listdir("again.checkpoints")) if os.path.isdir("again.checkpoints") else [])
        else:  # it was done before the kill: all over again
            assert (place / "again.safetensors").read_bytes() == whole
            os.unlink("again.safetensors")
            for name in os.listdir("again.checkpoints"):
                os.unlink(os.path.join("again.checkpoints", name))
        process.communicate()
    out = ended(started("--out", "again.safetensors", "--workers", "1", "--resume"))
    print(*told, out, sep="\n")
    assert (place / "again.safetensors").read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_two_kills(place):
    killed_and_resumed(place, 2, random.SystemRandom().randrange(2**32))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_ten_kills(place):
    killed_and_resumed(place, 10, random.SystemRandom().randrange(2**32))


def test_damaged_checkpoint_is_passed_over(place):
    """A run is stopped, its newest checkpoint cut: the one before it gives the same weights, and it is said."""
    ended(started("--out", "whole.safetensors"))
    process = started("--out", "again.safetensors")
    folder = place / "again.checkpoints"
    while len(list(folder.glob("step-*"))) < 2:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    paths = sorted(folder.glob("step-*"))
    paths[-1].write_bytes(paths[-1].read_bytes()[:-100])
    process = program(*SETTINGS, "--out", "again.safetensors", "--resume")
    out = ended(process)
    assert f"{paths[-1].name}: is cut off" in out and f"taking the one before it, {paths[-2].name}" in out
    assert (place / "again.safetensors").read_bytes() == (place / "whole.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of files are set from outside on Linux alone")
def test_a_full_disk_loses_nothing(place):
    """From a moment on no file may grow beyond 100 kB: the older files stay, and the run goes on later."""
    ended(started("--out", "whole.safetensors"))
    before = (place / "whole.safetensors").read_bytes()
    (place / "again.safetensors").write_bytes(b"older weights")
    folder = place / "again.checkpoints"
    process = started("--out", "again.safetensors")
    while not list(folder.glob("step-*")):
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "again.safetensors: could not be written: File too large" in err, (out, err)
    assert "no checkpoint of step" in out and "the one before it is as it was" in out
    assert (place / "again.safetensors").read_bytes() == b"older weights"
    assert not list(place.rglob("*.tmp"))
    out = ended(program(*SETTINGS, "--out", "again.safetensors", "--resume"))
    assert "going on after step" in out and (place / "again.safetensors").read_bytes() == before
