"""DataLoader: batches of a data set, in order or shuffled. Floor 5."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tensorlite.utils.data.collate import default_collate, default_convert
from tensorlite.utils.data.dataset import TensorDataset
from tensorlite.utils.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler


class DataLoader:
    """Iterates over ``dataset`` in batches; each ``for`` loop is an epoch.

    Args:
        dataset: something with ``__getitem__`` and ``__len__``.
        batch_size: samples a batch; None hands out single samples.
        shuffle: a new random order each epoch.
        sampler: the order of the indices, instead of ``shuffle``.
        batch_sampler: lists of indices, one a batch, instead of all of the above and ``drop_last``.
        num_workers: 0; samples are made in this process.
        collate_fn: makes a batch of a list of samples; default ``default_collate``.
        pin_memory: no effect without an accelerator, and a warning says so.
        drop_last: leave out a last batch that is shorter than the others.
        generator: the source of the shuffle's randomness; default the global one, which ``manual_seed`` sets.

    >>> import tensorlite as tl
    >>> for x, y in DataLoader(TensorDataset(tl.arange(3), tl.arange(3) * 2), batch_size=2):
    ...     print(x, y)
    tensor([0, 1]) tensor([0, 2])
    tensor([2]) tensor([4])
    """

    _fixed = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset")

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler | Iterable | None = None,
        batch_sampler: Sampler | Iterable | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"DataLoader: num_workers {num_workers}; wanted 0 or more (should be non-negative)")
        if num_workers > 0:
            raise NotImplementedError(
                f"DataLoader: num_workers {num_workers}; wanted 0, the one number there is so far"
            )
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout {timeout}; wanted 0 or more (should be non-negative)")
        for name, given, default in (
            ("timeout", timeout, 0),
            ("prefetch_factor", prefetch_factor, None),
            ("persistent_workers", persistent_workers, False),
            ("multiprocessing_context", multiprocessing_context, None),
        ):
            if given != default:
                raise ValueError(f"DataLoader: {name} {given!r} without worker processes; wanted num_workers > 0")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "DataLoader: batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and "
                    "drop_last"
                )
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise ValueError(
                "DataLoader: batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler option is mutually exclusive with shuffle")
        if pin_memory:
            warnings.warn("DataLoader: pin_memory=True has no effect: there is no accelerator", stacklevel=2)

        if sampler is None:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None and batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.sampler, self.batch_sampler, self.collate_fn, self.generator = (
            sampler,
            batch_sampler,
            collate_fn,
            generator,
        )
        self.num_workers, self.timeout, self.worker_init_fn = num_workers, timeout, worker_init_fn
        self.multiprocessing_context, self.prefetch_factor = multiprocessing_context, prefetch_factor
        self.pin_memory, self.pin_memory_device, self.in_order = pin_memory, pin_memory_device, in_order
        self.persistent_workers = persistent_workers
        self._built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and "_built" in self.__dict__:
            raise ValueError(f"DataLoader: {name} attribute should not be set after DataLoader is initialized")
        object.__setattr__(self, name, value)

    def __iter__(self) -> Iterator[Any]:
        dataset, collate = self.dataset, self.collate_fn
        if self.batch_sampler is None:
            for index in self.sampler:
                yield collate(dataset[index])
        elif collate is default_collate and getattr(type(dataset), "__getitem__", None) is TensorDataset.__getitem__:
            # one gather a tensor gives what stacking its entries one by one would
            for indices in self.batch_sampler:
                yield [t[indices] for t in dataset.tensors]
        elif hasattr(dataset, "__getitems__"):  # a data set that takes many at once, as in PyTorch
            for indices in self.batch_sampler:
                yield collate(dataset.__getitems__(indices))
        else:
            for indices in self.batch_sampler:
                yield collate([dataset[index] for index in indices])

    def __len__(self) -> int:
        """The number of batches (of samples, where ``batch_size`` is None)."""
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
