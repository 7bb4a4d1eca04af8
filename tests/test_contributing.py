"""CONTRIBUTING's six steps, followed to the letter in a copy of the checkout."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEPS = TEXT.split("\n## Add an op in six steps\n")[1].split("\n## ")[0]


def test_there_are_six_steps():
    assert re.findall(r"^\*\*(\d)\. ", STEPS, re.MULTILINE) == list("123456")


def test_the_steps_add_an_op(tmp_path):
    copy = tmp_path / "checkout"
    copy.mkdir()
    no_cache = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("tensorlite", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=no_cache)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy2(ROOT / name, copy / name)

    blocks = re.findall(r"Append to\s+`([^`]+)`:\n\n```python\n(.*?)```", STEPS, re.DOTALL)
    assert len(blocks) == STEPS.count("```python")
    for name, code in blocks:
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write(code)

    env = os.environ | {"PYTHONPATH": str(copy)}
    env = {k: v for k, v in env.items() if not k.startswith("PYTEST_")}
    commands = re.findall(r"^\$ (.*)$", STEPS, re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=copy, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "pytest" in words:
            assert re.search(r"\b\d+ passed", done.stdout) and "failed" not in done.stdout, done.stdout
    table = (copy / "docs" / "ops.md").read_text(encoding="utf-8")
    assert "smooth_abs" in table
