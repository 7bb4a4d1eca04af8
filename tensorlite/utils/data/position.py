"""Where a loader stands: the epoch's seed, what was handed out, and the order of its indices from there. Floor 5."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from tensorlite.ops.random import Generator
from tensorlite.utils.data.dataset import IterableDataset
from tensorlite.utils.data.randomness import ORDER, Keyed, draw_seed, words
from tensorlite.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_OWN = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, list, tuple, range)


def stateful(thing: Any) -> bool:
    """Whether a data set or sampler keeps a position of its own."""
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def generators_of(loader: Any) -> list[Generator]:
    """The generators that were given to the loader or its samplers, the loader's first."""
    batches = loader.batch_sampler
    holders = [loader, loader.sampler, batches, getattr(batches, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, Generator)}.values())


def stateful_sampler(loader: Any) -> Any:
    """The sampler whose state is the position, or None. A BatchSampler stands where the sampler under it stands."""
    return next((s for s in (loader.batch_sampler, loader.sampler) if stateful(s)), None)


@dataclass
class Reader:
    """How far one reader of an iterable data set has come: batches handed out, whether it ended, the data's state."""

    count: int = 0
    ended: bool = False
    state: Any = None


@dataclass
class Epoch:
    """One pass over the data, and how much of it the loop was handed."""

    seed: int
    order_seeds: list[int]  # one for each generator that is a sampler's alone
    consumed: int = 0  # batches 0 to consumed - 1 were handed out
    beyond: dict[int, Any] = field(default_factory=dict)  # so were these, where no order is kept: as `sampler`
    sampler: Any = None  # [state of a stateful sampler once it had given batch consumed - 1, whether it had ended]
    readers: list[Reader] = field(default_factory=list)  # of an iterable data set, one a worker
    turn: int = 0  # the reader that comes next
    finished: bool = False

    @classmethod
    def begin(cls, loader: Any) -> Epoch:
        """A new one: draws the seeds."""
        own = [g for g in generators_of(loader) if g is not loader.generator]
        readers = [Reader() for _ in range(readers_of(loader))]
        return cls(draw_seed(loader.generator), [draw_seed(g) for g in own], readers=readers)

    def hand_out(self, number: int, sampler: Any = None, in_order: bool = True) -> None:
        """Note that batch ``number`` was handed out; ``sampler`` came with its indices."""
        self.beyond[number] = sampler
        if in_order:  # a batch that could not be made is left behind
            self.consumed = number
        while self.consumed in self.beyond:
            self.sampler = self.beyond.pop(self.consumed)
            self.consumed += 1

    def read(self, number: int, ended: bool, state: Any) -> None:
        """Note that a batch of reader ``number`` was handed out, and how the reader stands after it."""
        self.readers[number] = Reader(self.readers[number].count + 1, ended, state)
        self.consumed += 1
        self.turn = (number + 1) % len(self.readers)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seed": self.seed,
            "order_seeds": list(self.order_seeds),
            "consumed": self.consumed,
            "beyond": [[number, state] for number, state in self.beyond.items()],
            "sampler": copy.deepcopy(self.sampler),
            "readers": [[r.count, r.ended, copy.deepcopy(r.state)] for r in self.readers],
            "turn": self.turn,
        }

    @classmethod
    def resume(cls, loader: Any, state: dict[str, Any]) -> Epoch:
        """The one that ``state_dict`` told of, for a loader that must fit it."""
        want = len(generators_of(loader)) - (loader.generator in generators_of(loader))
        if len(state["order_seeds"]) != want:
            raise ValueError(
                f"DataLoader.load_state_dict: a state with {len(state['order_seeds'])} sampler generators; this loader "
                f"has {want}"
            )
        if len(state["readers"]) != readers_of(loader):
            raise ValueError(
                f"DataLoader.load_state_dict: a state of {len(state['readers'])} readers of an iterable data set; "
                f"this loader has {readers_of(loader)} (num_workers {loader.num_workers}), and the number decides "
                "which batches there are"
            )
        return cls(
            state["seed"],
            list(state["order_seeds"]),
            state["consumed"],
            dict(state["beyond"]),
            copy.deepcopy(state["sampler"]),
            [Reader(*copy.deepcopy(r)) for r in state["readers"]],
            state["turn"],
        )


def readers_of(loader: Any) -> int:
    """How many processes read an iterable data set; 0 where the data set has indices."""
    return max(1, loader.num_workers) if isinstance(loader.dataset, IterableDataset) else 0


class Order:
    """The numbers and indices of an epoch's batches that were not handed out yet, drawn under keys of their own.

    Each item is (number, indices, ``Epoch.sampler`` after them).
    """

    def __init__(self, loader: Any, epoch: Epoch) -> None:
        batches = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        basis = batches.sampler if type(batches) is BatchSampler else batches
        own = [g for g in generators_of(loader) if g is not loader.generator]
        others = [(g, words(seed, ORDER)) for g, seed in zip(own, epoch.order_seeds)]
        if isinstance(loader.generator, Generator):
            others.append((loader.generator, words(epoch.seed, ORDER, 1)))
        # samplers of this library draw from nothing but tensorlite's generators
        self._scope = Keyed(words(epoch.seed, ORDER), others, foreign=type(basis) not in _OWN, again=True)
        self._sampler = stateful_sampler(loader)
        self._size = batches.batch_size if type(batches) is BatchSampler else None
        self._beyond = set(epoch.beyond)
        self._number = epoch.consumed
        with self._scope:
            self._indices = iter(())
            if self._sampler is not None and epoch.sampler is not None:
                self._sampler.load_state_dict(copy.deepcopy(epoch.sampler[0]))
                if epoch.sampler[1]:
                    return
            self._indices = iter(batches)
            if self._sampler is None:
                for _ in zip(range(epoch.consumed), self._indices):
                    pass

    def __iter__(self) -> Order:
        return self

    def __next__(self) -> tuple[int, Any, Any]:
        while True:
            with self._scope:
                indices = next(self._indices)
            number = self._number
            self._number += 1
            if number not in self._beyond:
                return number, indices, self._state(indices)

    def _state(self, indices: Any) -> Any:
        if self._sampler is None:
            return None
        # a BatchSampler gives a short batch once the sampler under it has ended, and perhaps started over
        return [copy.deepcopy(self._sampler.state_dict()), self._size is not None and len(indices) < self._size]
