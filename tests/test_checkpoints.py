"""Checkpoints: damaged ones are passed over, a full disk loses nothing, old and broken files go."""

import os
import resource
import subprocess
import sys
import textwrap

import pytest

import tensorlite as tl
from tensorlite.errors import DataError
from tensorlite.io.checkpoints import Checkpoints


def state(step):
    return {"step": step, "weights": tl.full((100,), float(step)), "nested": [1, {"a": (2.5, None)}]}


@pytest.fixture
def kept(tmp_path):
    kept = Checkpoints(tmp_path / "c", keep=3)
    for step in (1, 2, 3):
        kept.save(step, state(step))
    return kept


def test_newest_first_and_only_so_many(kept):
    kept.save(20, state(20))
    assert [p.name for p in kept.paths()] == [f"step-{n:010d}.safetensors" for n in (20, 3, 2)]
    path, found = kept.load()
    assert path == kept.paths()[0] and found["step"] == 20 and found["nested"] == [1, {"a": (2.5, None)}]
    assert Checkpoints(kept.folder / "none").load() is None


def test_every_cut_is_noticed(kept):
    path = kept.paths()[0]
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        said = []
        assert kept.load(said.append)[1]["step"] == 2, size
        assert len(said) == 1 and str(path) in said[0] and said[0].endswith("step-0000000002.safetensors")


def test_every_flipped_bit_is_noticed(kept):
    path = kept.paths()[0]
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = kept.load(lambda line: None)[1]
        except Exception as error:
            raise AssertionError(f"byte {at}") from error
        # padding and the name of the format are nobody's values: then nothing was altered that is read
        assert found["step"] == 2 or (found["step"] == 3 and bool((found["weights"] == 3).all())), at


def test_all_damaged(kept):
    for path in kept.paths():
        path.write_bytes(b"x" * 50)
    with pytest.raises(DataError, match="no other checkpoint is left"):
        kept.load(lambda line: None)


def test_what_a_killed_write_left_goes_with_the_next(kept):
    left = kept.folder / ".step-0000000004.safetensors.0123456789ab.tmp"
    other = kept.folder / "notes.txt"
    left.write_bytes(b"half")
    other.write_text("mine")
    assert kept.load()[1]["step"] == 3
    kept.save(5, state(5))
    assert not left.exists() and other.exists()


def test_newer_ones_of_a_run_taken_up_before_them_go(kept):
    kept.save(2, state(2.5))
    assert [p.name[-14:-12] for p in kept.paths()] == ["02", "01"] and kept.load()[1]["step"] == 2.5


def test_set_aside(kept):
    first = kept.set_aside()
    assert first.name == "c.old" and len(list(first.iterdir())) == 3 and kept.set_aside() is None
    kept.save(9, state(9))
    second = kept.set_aside()
    assert second.name == "c.old1" and len(list(first.iterdir())) == 3


@pytest.mark.skipif(os.name == "nt", reason="no limits of files there")
def test_a_full_disk_loses_nothing(kept):
    """The process may write files of 300 bytes at most, as on a disk that fills up: saving fails, the old are whole."""
    code = f"""
        import resource
        import tensorlite as tl
        from tensorlite.errors import DataError
        from tensorlite.io.checkpoints import Checkpoints
        kept = Checkpoints({str(kept.folder)!r}, keep=3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        try:
            kept.save(4, {{"weights": tl.zeros(1000)}})
        except DataError as error:
            print(error)
    """
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "could not be written: File too large" in done.stdout, done
    assert sorted(p.name for p in kept.folder.iterdir()) == [f"step-{n:010d}.safetensors" for n in (1, 2, 3)]
    assert kept.load()[1]["step"] == 3


@pytest.mark.parametrize("at", [0, 1, 100, 600])
def test_a_writer_that_fails_at_a_byte(kept, monkeypatch, at):
    from tensorlite.io import files

    class Failing:
        def __init__(self, file):
            self.file, self.left = file, at

        def write(self, data):
            self.file.write(data[: self.left])
            if len(data) > self.left:
                raise OSError(28, "No space left on device")
            self.left -= len(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

    real = open
    monkeypatch.setattr(files, "open", lambda *a, **k: Failing(real(*a, **k)), raising=False)
    with pytest.raises(DataError, match="No space left on device"):
        kept.save(4, state(4))
    monkeypatch.undo()
    assert len(list(kept.folder.iterdir())) == 3 and kept.load()[1]["step"] == 3
