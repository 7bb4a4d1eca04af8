"""What every test shares: the data folder, and a check that no test leaves a setting behind."""

from __future__ import annotations

import os
import pathlib

import pytest


@pytest.fixture(autouse=True)
def unchanged_settings():
    """Every test begins from seed 0 and must leave the modes as they were."""
    import tensorlite as tl
    from tensorlite.autograd import run
    from tensorlite.autograd.modes import mode
    from tensorlite.dtypes import float32, get_default_dtype

    if hasattr(tl, "manual_seed"):
        tl.manual_seed(0)
    yield
    assert get_default_dtype() is float32, "the test left another default dtype"
    assert mode().grad and not mode().inference, "the test left another gradient mode"
    assert run.seam is None, "the test left a seam"


@pytest.fixture
def threads():
    """``set_num_threads``, undone after the test."""
    import tensorlite as tl

    before = tl.get_num_threads()
    yield tl.set_num_threads
    tl.set_num_threads(before)


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
    """The folder of data sets; tests that need it are skipped where TENSORLITE_DATA is not set."""
    folder = os.environ.get("TENSORLITE_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("TENSORLITE_DATA names no folder")
    return pathlib.Path(folder)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a tiny MNIST in ``digits``; no other data, no network."""
    from test_data import write_mnist

    from tensorlite.vision import mnist

    write_mnist(tmp_path / "digits", train=400, test=50)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLITE_DATA", raising=False)
    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])  # nobody listens there
    return tmp_path
