"""README holds: its programs run, its commands run, its table and its map are those of the code.

The two set-up commands, which install, are run by `.ci/run`.
"""

import gzip
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from program_harness import write_small_data

from tensorlite import config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = (
    "python -m pip install '.[examples]' && tensorlite train mnist",
    "python -m pip install -e '.[test]' && python -m pytest -n 2",
)


def blocks(language: str) -> list[str]:
    """The code blocks of README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def commands() -> list[str]:
    return [
        line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
    ]


def run_program(code: str, folder: Path) -> None:
    """Run it as a reader would: alone, in a fresh interpreter."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def code_lines(program: str) -> list[str]:
    return [line for line in program.splitlines() if line.strip() and not line.startswith(("import ", "from "))]


def test_set_up_commands_are_these_two():
    assert tuple(re.findall(r"^python -m pip install .*$", README, re.MULTILINE)) == SET_UP
    assert tuple(block.strip() for block in blocks("sh")) == SET_UP


def test_training_loop(tmp_path):
    program = next(p for p in blocks("python") if "loss.backward()" in p)
    assert len(code_lines(program)) == 10
    run_program(program + "\nassert accuracy > 0.9, accuracy\n", tmp_path)


def test_own_op(tmp_path):
    program = next(p for p in blocks("python") if "@primitive" in p)
    assert len([line for line in program.splitlines() if line]) <= 20
    run_program(
        program
        + """
x = tl.randn(3, 4, dtype=tl.float64, requires_grad=True)
squareplus(x).sum().backward()
assert x.grad is not None and x.grad.shape == x.shape
assert tl.autograd.gradcheck(squareplus, (x,)) and tl.autograd.gradgradcheck(squareplus, (x,))
from tensorlite.autograd.cases import Make
for make_cases in squareplus.op.case_makers:
    for case in make_cases(Make()):
        expected = squareplus.op.reference(**{k: v.numpy() if isinstance(v, tl.Tensor) else v for k, v in case.items()})
        np.testing.assert_allclose(squareplus(**case).numpy(), expected, rtol=1e-12)
""",
        tmp_path,
    )


@pytest.mark.parametrize("k", range(len(blocks("python"))))
def test_every_program_runs(k, tmp_path):
    run_program(blocks("python")[k], tmp_path)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder to work in: a small MNIST (bright squares at ten places) and other data, and the command on the path."""
    from PIL import Image

    desk = tmp_path_factory.mktemp("desk")
    (desk / "data").mkdir()
    (desk / "bin").mkdir()
    rng = np.random.default_rng(0)
    for stem, n in (("train", 320), ("t10k", 100)):
        labels = rng.integers(0, 10, n)
        images = rng.integers(0, 40, (n, 28, 28))
        for image, label in zip(images, labels):
            image[4 + 12 * (label % 2) : 12 + 12 * (label % 2), 2 + 5 * (label // 2) : 7 + 5 * (label // 2)] = 255
        write_idx(desk / "data" / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(desk / "data" / f"{stem}-labels-idx1-ubyte.gz", labels)
    write_small_data(desk / "data")
    Image.fromarray(images[0].astype(np.uint8)).save(desk / "digit.png")
    command = desk / "bin" / "tensorlite"  # what the installed one does, on this very checkout
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tensorlite "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return desk


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
def test_commands_run_in_order(desk):
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TENSORLITE_DATA": str(desk / "data"),
        "MPLBACKEND": "Agg",
    }
    assert commands()
    for command in commands():
        assert shlex.split(command)[0] == "tensorlite", f"README may show only commands that run anywhere: {command}"
        done = subprocess.run(
            command,
            shell=True,
            cwd=desk,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_table_of_switches_is_the_codes():
    assert config.table() in section("Settings"), "copy the output of tensorlite.config.table() to README"


def test_map_shows_every_part():
    text = blocks("text")[0]
    inside, outside = text.split("\nkernels/", 1)
    named = set(re.findall(r"^ {2}(?:\d \w+ +| {10,})([\w.]+/?) {2,}\S", inside, re.MULTILINE))
    there = {
        p.name + "/" if p.is_dir() else p.name
        for p in (ROOT / "tensorlite").iterdir()
        if (p.is_dir() and (p / "__init__.py").exists()) or (p.suffix == ".py")
    }
    assert named == there
    for name in re.findall(r"^(\S+) ", "kernels/" + outside, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
