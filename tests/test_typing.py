"""What type checkers see is what there is: the stubs are fresh and the typed sample program runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    "command",
    [["-m", "tensorlite.dev", "stubs", "--check"], [str(HERE / "typing_public_api.py")]],
    ids=["stubs are fresh", "typed program runs"],
)
def test_typing(command):
    """In an interpreter of their own, where no test has added ops."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
