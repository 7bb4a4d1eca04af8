"""Batches in pinned memory, from which a GPU copies by itself while the program goes on. Floor 5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tensorlite.autograd.tensor import Tensor


class PinnedIterator:
    """The batches of another iterator, each copied into pinned memory."""

    def __init__(self, batches: Any):
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return pinned(next(self._batches))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


def pinned(batch: Any) -> Any:
    """The same structure with every tensor in pinned memory; what has a ``pin_memory`` of its own is asked for it."""
    if isinstance(batch, Tensor) or hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, (str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        made = {key: pinned(value) for key, value in batch.items()}
        return made if type(batch) is dict else type(batch)(made)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(pinned, batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map(pinned, batch))
    return batch
