"""Batches from indices, or from the next samples of a stream: the same in this process and in a worker. Floor 5."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

from tensorlite.utils.data.collate import default_collate
from tensorlite.utils.data.dataset import Subset, TensorDataset, take_many
from tensorlite.utils.data.position import Reader, stateful
from tensorlite.utils.data.randomness import BATCH, READER, Keyed, words

END = object()  # what a stream that has ended gives instead of a batch


def fetcher(dataset: Any, collate: Callable, batched: bool, seed: int) -> Callable[[int, Any], Any]:
    """A function (number, indices) -> batch for a data set with indices."""
    gather = _gather(dataset) if batched and collate is default_collate else None
    if gather is not None:  # nobody else's code runs, so no generator is asked
        return lambda number, indices: gather(indices)

    def fetch(number: int, indices: Any) -> Any:
        with Keyed(words(seed, BATCH, number)):
            return _guarded(number, make, indices)

    def make(indices: Any) -> Any:
        return collate(take_many(dataset, indices) if batched else dataset[indices])

    return fetch


def _guarded(number: int, make: Callable, what: Any) -> Any:
    try:
        return make(what)
    except StopIteration as error:  # would end the loop without a word
        raise RuntimeError(f"DataLoader: batch {number}: the data set or collate_fn raised {error!r}") from error


def _gather(dataset: Any) -> Callable[[list], list] | None:
    """One gather a tensor, which gives what stacking its entries one by one would; None for other data sets."""
    cls = type(dataset)
    if getattr(cls, "__getitem__", None) is TensorDataset.__getitem__ and not hasattr(dataset, "__getitems__"):
        return lambda indices: [t[indices] for t in dataset.tensors]
    if cls is Subset:
        gather, chosen = _gather(dataset.dataset), dataset.indices
        return gather and (lambda indices: gather([chosen[i] for i in indices]))
    return None


class Stream:
    """Batches of an iterable data set, as one of its readers.

    Args:
        size: samples a batch; None for single ones.
        number: of the reader; 0 where there are no workers.
        position: how far this reader had come. A data set with ``state_dict`` and ``load_state_dict`` continues from
            its state; from others what was handed out is read again and left aside.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable,
        size: int | None,
        drop_last: bool,
        seed: int,
        number: int,
        position: Reader,
    ) -> None:
        self._dataset, self._collate, self._size, self._drop_last = dataset, collate, size, drop_last
        self._seed, self._number, self._count, self.ended = seed, number, 0, position.ended
        self._stateful = stateful(dataset)
        with Keyed(words(seed, READER, reader=number)):
            if self._stateful and position.state is not None:
                dataset.load_state_dict(copy.deepcopy(position.state))
                self._count = position.count
            if self.ended:
                return
            self._samples = iter(dataset)
        while self._count < position.count and not self.ended:
            with Keyed(words(self._seed, BATCH, self._count, self._number)):
                self._read()

    def __call__(self) -> Any:
        """The next batch, or END."""
        if self.ended:
            return END
        with Keyed(words(self._seed, BATCH, self._count, self._number)):
            samples = self._read()
            if samples is END:
                return END
            return _guarded(self._count, self._collate, samples)

    def state(self) -> Any:
        """The data set's own state, if it has one."""
        return copy.deepcopy(self._dataset.state_dict()) if self._stateful else None

    def _read(self) -> Any:
        self._count += 1
        wanted = 1 if self._size is None else self._size
        samples = list(itertools.islice(self._samples, wanted))
        self.ended = len(samples) < wanted
        if not samples or (self.ended and self._drop_last):
            return END
        return samples[0] if self._size is None else samples
