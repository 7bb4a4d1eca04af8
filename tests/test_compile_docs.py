"""docs/compile.md: its programs run."""

import contextlib
import io
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "compile.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("number", range(3))
def test_programs_run(number):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(PROGRAMS[number], f"docs/compile.md, program {number}", "exec"), {"__name__": "docs"})
    assert number or ("adam" in out.getvalue() and "kernel" in out.getvalue())
