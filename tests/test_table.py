"""docs/ops.md is what the ops say, and the skeleton of a new op is a whole op."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def dev(*arguments, cwd=ROOT):
    """``python -m tensorlite.dev`` in an interpreter of its own, where no test has added ops."""
    return subprocess.run(
        [sys.executable, "-m", "tensorlite.dev", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(cwd)},
        timeout=120,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the checkout that may be changed."""
    for name in ("tensorlite", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_table_is_fresh():
    done = dev("table", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_table_is_found_and_written_anew(copy):
    path = copy / "docs" / "ops.md"
    good = path.read_text(encoding="utf-8")
    path.write_text(good + "\n", encoding="utf-8")
    assert dev("table", "--check", cwd=copy).returncode == 1
    assert path.read_text(encoding="utf-8") == good + "\n"
    assert dev("table", cwd=copy).returncode == 0
    assert path.read_text(encoding="utf-8") == good


def test_every_op_has_a_row():
    from tensorlite.dev import table

    text = table()
    from tensorlite.autograd.op import TABLE

    assert all(f"| `{name}` | " in text for name in TABLE)


def test_a_new_op_is_whole(copy):
    done = dev("new", "activation", "doubled", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert dev("table", "--check", cwd=copy).returncode == 1
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_ops.py", "-k", "doubled"],
        cwd=copy,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(copy)},
        timeout=300,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("activation", "relu"), "taken"),
        (("activation", "two words"), "no name"),
        (("nonsense", "doubled"), "elementwise"),
    ],
)
def test_new_refuses(arguments, says):
    before = {p: p.read_bytes() for p in (ROOT / "tensorlite" / "ops").glob("*.py")}
    done = dev("new", *arguments)
    assert done.returncode == 2 and says in done.stderr
    assert {p: p.read_bytes() for p in before} == before
