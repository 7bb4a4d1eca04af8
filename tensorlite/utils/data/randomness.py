"""Random numbers of a loader: every state follows from one seed an epoch, whoever draws and whenever. Floor 5.

A block of Philox under the epoch's seed gives the seeds of tensorlite's, Python's and NumPy's global generators for one
purpose: drawing the order, making batch k, starting reader r. So what is drawn for batch k depends on neither the
batches before it nor the process that makes it, and drawing ahead leaves the program's own generators alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorlite.ops import philox
from tensorlite.ops.random import Generator, default_generator, randint

ORDER, BATCH, READER, WORKER = 0, 1, 2, 3  # purposes

_WORD = 2**32 - 1
numpy_global: Any = np.random  # what `np.random.rand` and its like draw from: transforms of users do


def draw_seed(generator: Generator | None = None) -> int:
    """One seed of 63 bits from ``generator``, or from the default one."""
    return int(randint(0, 2**63 - 1, (), generator=generator))


def words(seed: int, purpose: int, index: int = 0, reader: int = 0) -> tuple:
    """Four words of 32 bits that these numbers stand for."""
    return philox.rounds(index & _WORD, index >> 32, reader, purpose, seed & _WORD, seed >> 32)


def seed_all(key: tuple) -> None:
    """Start the three global generators from four words."""
    default_generator.manual_seed(key[0] | key[1] << 32)
    _seed_foreign(key)


def _seed_foreign(key: tuple) -> None:
    numpy_global.seed(key[2])
    random.seed(key[2] << 32 | key[3])


class Keyed:
    """``with Keyed(key):`` the global generators start from ``key`` inside, and are as they were afterwards.

    Args:
        key: four words.
        others: pairs of a generator and a key of its own, treated alike.
        foreign: whether Python's and NumPy's generators are included. Saving and setting those two takes some 70
            microseconds; tensorlite's takes one.
        again: each ``with`` of this object continues where the one before it ended.
    """

    __slots__ = ("_again", "_foreign", "_generators", "_inner", "_key", "_outer")

    def __init__(
        self, key: tuple, others: Iterable[tuple[Generator, tuple]] = (), *, foreign: bool = True, again: bool = False
    ) -> None:
        self._key, self._foreign, self._again = key, foreign, again
        self._generators = [(default_generator, key), *others]
        self._inner: Any = None
        self._outer: Any = None

    def __enter__(self) -> Keyed:
        self._outer = self._states()
        if self._inner is not None:
            self._restore(self._inner)
        else:
            for generator, key in self._generators:
                generator.manual_seed(key[0] | key[1] << 32)
            if self._foreign:
                _seed_foreign(self._key)
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._again:
            self._inner = self._states()
        self._restore(self._outer)

    def _states(self) -> tuple:
        own = [generator._state._arr.copy() for generator, _ in self._generators]
        return own, (random.getstate(), numpy_global.get_state(legacy=False)) if self._foreign else None

    def _restore(self, states: tuple) -> None:
        own, foreign = states
        for (generator, _), state in zip(self._generators, own):
            generator._state._arr[:] = state
        if foreign is not None:
            random.setstate(foreign[0])
            numpy_global.set_state(foreign[1])
