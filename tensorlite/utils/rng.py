"""The state of every generator that a training may draw from: tensorlite's, Python's and NumPy's. Floor 5."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorlite.ops.random import get_rng_state, set_rng_state


def state_dict() -> dict[str, Any]:
    """The states of the default generator, of ``random`` and of ``numpy.random``, in a form that ``tl.save`` takes."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "tensorlite": get_rng_state(),
        "python": [version, np.array(words, np.int64), gauss],
        "numpy": [name, np.asarray(keys, np.int64), int(position), int(has_gauss), float(cached)],
    }


def load_state_dict(state: dict[str, Any]) -> None:
    """Put the generators back to what ``state_dict`` gave."""
    set_rng_state(state["tensorlite"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys).astype(np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is drawn inside leaves no trace: afterwards the generators are where they were.

    >>> import tensorlite as tl
    >>> from tensorlite.utils import rng
    >>> with rng.kept():
    ...     a = tl.rand(3)
    >>> bool((tl.rand(3) == a).all())
    True
    """
    ours, pythons, numpys = get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        set_rng_state(ours)
        random.setstate(pythons)
        np.random.set_state(numpys)
