"""README's figures of speed are those of the files in benchmarks/results, and the writer of them says what is wrong."""

import json
import shutil

import pytest

from benchmarks import __main__ as command, readme

HEAD, END = "<!-- speed {}: python -m benchmarks readme -->", "<!-- end of speed {} -->"


def test_readme_is_not_stale(capsys):
    assert command.main(["readme", "--check"]) == 0, capsys.readouterr().err


@pytest.fixture
def desk(tmp_path):
    """A README with a place for each kind of results, and results: what is there, and small ones of the others."""
    results = tmp_path / "results"
    results.mkdir()
    for name in ("steps", "ops", "overhead"):
        shutil.copy(readme.newest(name, readme.RESULTS), results / f"{name}-2026-01-02.json")
    base = json.loads((results / "steps-2026-01-02.json").read_text())
    head = {key: base[key] for key in ("date", "machine", "versions", "threads", "rounds", "seconds", "small")}
    row = dict(lib="tensorlite_compiled", status="ok", seconds=1.5, least=1.25, most=2.0, steps=468, cold=0.5)
    row |= dict(cold_first=0.75, reached=True)
    recipe = dict(goal=0.97, batch=64, lr=0.001)
    verdict = dict(ratio=0.4, bar=0.5, reached=True, ours="tensorlite_compiled", best="torch", seeds=3, recipe=recipe)
    points = [dict(model="mlp", grows="batch", value=v, lib="torch", status="ok", ms=v / 4) for v in (8, 32)]
    beyond = dict(workload="vae", phase="train", step=1500.0, steps=57, overhead=0.125, python=0.05)
    others = {
        "headline": verdict | dict(results=[row, row | dict(lib="torch", seconds=3.75)]),
        "growth": dict(results=points),
        "replay": dict(results=[beyond], bar=0.1),
    }
    for name, found in others.items():
        (results / f"{name}-2026-01-02.json").write_text(json.dumps(head | found))
    page = tmp_path / "README.md"
    places = "\n".join(f"{HEAD.format(name)}\nold\n{END.format(name)}\n" for name in readme.SECTIONS)
    page.write_text(f"# Title\n\n{places}\nlast line\n")
    return page, results


def run(desk, *more):
    page, results = desk
    return command.main(["readme", "--file", str(page), "--results", str(results), *more])


def test_it_writes_every_section(desk, capsys):
    page, _ = desk
    assert run(desk, "--check") == 1 and "speed steps: not what steps-2026-01-02.json says" in capsys.readouterr().err
    assert "\nold\n" in page.read_text() and run(desk) == 0
    text = page.read_text()
    assert (
        text.startswith("# Title\n\n<!-- speed overhead")
        and text.endswith("-->\n\nlast line\n")
        and "\nold\n" not in text
    )
    assert "| tensorlite compiled | 1.50 (1.25 to 2.00) | 468 | 0.50 |" in text
    assert "tensorlite compiled takes 0.40 of the time of PyTorch; wanted is at most 0.5." in text
    assert "| mlp, batch | PyTorch | 8: 2 | 32: 8 | 1.00 |" in text
    assert "| `vae` train | 57 | 1500 | 12% | 5% |" in text and "1 of 1 are above 10%" in text
    assert "| `add` |" in text and "| `gpt_nano` |" in text and " reach the ratio that is wanted" in text
    assert run(desk, "--check") == 0 and run(desk) == 0 and page.read_text() == text


def test_newer_results_make_it_stale(desk, capsys):
    page, results = desk
    run(desk)
    found = json.loads((results / "steps-2026-01-02.json").read_text())
    for r in found["results"]:
        r["ms"] *= 2 if r["lib"] == "torch" else 1
    (results / "steps-2026-01-03.json").write_text(json.dumps(found))
    assert run(desk, "--check") == 1 and "speed steps: not what steps-2026-01-03.json says" in capsys.readouterr().err
    assert run(desk) == 0 and "steps-2026-01-03.json" in page.read_text() and run(desk, "--check") == 0
    page.write_text(page.read_text().replace("| 57 | 1500 |", "| 57 | 150 |"))
    assert run(desk, "--check") == 1 and "speed replay" in capsys.readouterr().err


def test_places_and_files_belong_together(desk, capsys):
    page, results = desk
    run(desk)
    text = page.read_text()
    page.write_text(text.replace(HEAD.format("ops"), "<!-- speed opts: x -->"))
    assert run(desk, "--check") == 1
    said = capsys.readouterr().err
    assert "speed opts: no such section" in said and "speed ops: ops-2026-01-02.json has no place" in said
    page.write_text(text.replace(END.format("ops"), ""))
    assert run(desk, "--check") == 1 and "wanted a line" in capsys.readouterr().err
    page.write_text(text)
    (results / "ops-2026-01-02.json").unlink()
    assert run(desk, "--check") == 1 and "speed ops: no file of results" in capsys.readouterr().err
    page.write_text("# no places\n")
    assert run(desk, "--check") == 0
