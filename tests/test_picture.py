"""The picture of a plan: valid, says every step, shows every buffer at its place, and replaces its file as a whole."""

from itertools import combinations
from xml.etree import ElementTree

import pytest

import tensorlite as tl
from tensorlite.program import picture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plan():
    tl.manual_seed(0)
    model = tl.nn.Sequential(tl.nn.Linear(20, 64), tl.nn.ReLU(), tl.nn.Linear(64, 5))
    optimizer = tl.optim.Adam(model.parameters())

    @tl.compile
    def step(x):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    step(tl.randn(32, 20))
    return step.plan


def drawn(plan, path):
    plan.svg(path)
    return ElementTree.parse(path).getroot()


def texts(root):
    return ["".join(t.itertext()) for t in root.iter(SVG + "text")]


def blocks(root):
    """(x, y, width, height) of every buffer, by what its title says."""
    found = {}
    for group in root.iter(SVG + "g"):
        title, shape = group.find(SVG + "title").text, group.find(SVG + "rect")
        if " at " in title.split(",")[1]:
            found[title] = tuple(float(shape.get(key)) for key in ("x", "y", "width", "height"))
    return found


def test_it_says_every_step_and_buffer(plan, tmp_path):
    root = drawn(plan, tmp_path / "plan.svg")
    said = texts(root)
    assert [t.text for t in root.iter(SVG + "text") if t.get("class") == "op"] == [s.name for s in plan.steps]
    assert any("state 64×20" in t for t in said) and any(f"{len(plan.steps)} steps" in t for t in said)
    assert plan.name in said and root.find(SVG + "title").text == plan.name
    assert len(blocks(root)) == len(plan.buffers()) > 4


def test_buffers_lie_at_their_places_for_as_long_as_they_live(plan, tmp_path):
    found = blocks(drawn(plan, tmp_path / "plan.svg"))
    scale = picture.LANES / plan.arena_bytes
    lives = plan.lives()
    for s, (x, y, width, height) in zip(plan.buffers(), found.values()):
        assert x == pytest.approx(picture.MEMORY + plan.places[id(s)] * scale, abs=0.01)
        assert width == pytest.approx(max(s.nbytes * scale, 1), abs=0.01)
        first, last = lives[id(s)]
        assert y == picture.HEAD + picture.ROW * first
        assert height == picture.ROW * (min(last, len(plan.steps) - 1) - first + 1)
    for (x, y, width, height), (x2, y2, width2, height2) in combinations(found.values(), 2):
        if width > 1.5 and width2 > 1.5:  # a pixel is more than the thinnest take
            apart = x + width <= x2 + 0.02 or x2 + width2 <= x + 0.02 or y + height <= y2 or y2 + height2 <= y
            assert apart


def test_what_stays_for_the_run_is_told(plan, tmp_path):
    stays = [title for title in blocks(drawn(plan, tmp_path / "plan.svg")) if "read after the run" in title]
    assert len(stays) == len({id(p.storage) for p in plan.lasting}) == 4


def test_names_are_escaped(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "name", '<f> & "\x00g\x1b')
    assert '<f> & "�g�' in texts(drawn(plan, tmp_path / "plan.svg"))


def test_an_empty_plan(tmp_path):
    same = tl.compile(lambda x: x)
    same(tl.ones(2))
    assert any(t.startswith("0 steps") for t in texts(drawn(same.plan, tmp_path / "plan.svg")))


def test_the_file_is_replaced_as_a_whole(plan, tmp_path, monkeypatch):
    path = tmp_path / "plan.svg"
    path.write_text("old")
    monkeypatch.setattr(picture, "picture", lambda plan: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plan.svg(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    plan.svg(str(path))
    assert path.read_text(encoding="utf-8").startswith("<svg") and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        plan.svg(tmp_path / "no" / "plan.svg")
