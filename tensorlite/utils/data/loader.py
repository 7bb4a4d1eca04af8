"""DataLoader: batches of a data set, in order or shuffled. Floor 5."""

from __future__ import annotations

import copy
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tensorlite.backends import cuda
from tensorlite.utils.data.collate import default_collate, default_convert
from tensorlite.utils.data.dataset import IterableDataset
from tensorlite.utils.data.fetch import END, Stream, fetcher
from tensorlite.utils.data.parallel import ParallelIterator, Pool
from tensorlite.utils.data.pinning import PinnedIterator
from tensorlite.utils.data.position import Epoch, Order, generators_of, stateful, stateful_sampler
from tensorlite.utils.data.sampler import BatchSampler, EndlessSampler, RandomSampler, Sampler, SequentialSampler


class DataLoader:
    """Iterates over ``dataset`` in batches; each ``for`` loop is an epoch.

    Args:
        dataset: something with ``__getitem__`` and ``__len__``.
        batch_size: samples a batch; None hands out single samples.
        shuffle: a new random order each epoch.
        sampler: the order of the indices, instead of ``shuffle``.
        batch_sampler: lists of indices, one a batch, instead of all of the above and ``drop_last``.
        num_workers: how many processes make the batches; 0 makes them in this one. What comes out is the same, and in
            the same order, for any number; only a data set that is a stream is read by each worker for itself.
        collate_fn: makes a batch of a list of samples; default ``default_collate``.
        pin_memory: give batches in pinned memory, from which ``.to("cuda", non_blocking=True)`` copies while the
            program goes on. Without a GPU it has no effect, and a warning says so.
        drop_last: leave out a last batch that is shorter than the others.
        timeout: how many seconds to wait for a batch from a worker before an error; 0 waits for ever.
        worker_init_fn: called in each worker with its number when it starts.
        multiprocessing_context: how workers start, "fork", "spawn" or "forkserver"; default the system's own way.
            Spawned ones are sent the data set, collate_fn and worker_init_fn, which must be picklable.
        prefetch_factor: batches that each worker makes ahead; default 2.
        persistent_workers: keep the workers from one epoch to the next.
        in_order: False hands out batches as they come, which makes loops differ.
        generator: the source of randomness; default the global one, which ``manual_seed`` sets.

    A loop draws one seed, and all that is random in it follows from that: the order, and, while the samples of batch k
    are made, tensorlite's, Python's and NumPy's global generators, which start from (seed, k). So the random numbers of
    a program do not mix with those of its loaders, and a loop can be taken up where it was left: ``state_dict``.

    >>> import tensorlite as tl
    >>> from tensorlite.utils.data import TensorDataset
    >>> for x, y in DataLoader(TensorDataset(tl.arange(3), tl.arange(3) * 2), batch_size=2):
    ...     print(x, y)
    tensor([0, 1]) tensor([0, 2])
    tensor([2]) tensor([4])
    """

    _fixed = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")

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
        if timeout < 0:
            raise ValueError(f"DataLoader: timeout {timeout}; wanted 0 or more (should be non-negative)")
        if num_workers == 0:
            only = {"timeout": timeout, "prefetch_factor": prefetch_factor, "persistent_workers": persistent_workers}
            for name, given in only.items():
                if given:
                    raise ValueError(f"DataLoader: {name} {given!r} without worker processes; wanted num_workers > 0")
        elif prefetch_factor is None:
            prefetch_factor = 2
        elif prefetch_factor < 1:
            raise ValueError(f"DataLoader: prefetch_factor {prefetch_factor}; wanted 1 or more")
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
        if isinstance(dataset, IterableDataset):
            for name, value in (("shuffle", shuffle or None), ("sampler", sampler), ("batch_sampler", batch_sampler)):
                if value is not None:
                    raise ValueError(f"DataLoader: {name} with an IterableDataset; expected unspecified {name} option")
            sampler = EndlessSampler()
        if pin_memory and not cuda.device_count():
            pin_memory = False
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
        self._epoch: Epoch | None = None  # of the newest loop
        self._resumed: Epoch | None = None  # the next loop's
        self._pool: Pool | None = None  # persistent workers
        self._built = True

    def _context(self, given: Any) -> Any:
        """The multiprocessing context of this name; None stands for the system's own, looked up when a loop begins."""
        if given is None:
            return None
        if self.num_workers == 0:
            raise ValueError("DataLoader: multiprocessing_context without worker processes; wanted num_workers > 0")
        if isinstance(given, str):
            known = multiprocessing.get_all_start_methods()
            if given not in known:
                raise ValueError(f"DataLoader: multiprocessing_context {given!r}; wanted one of {known}")
            return multiprocessing.get_context(given)
        if not isinstance(given, multiprocessing.context.BaseContext):
            raise TypeError(f"DataLoader: multiprocessing_context {given!r}; wanted a context or the name of one")
        return given

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and "_built" in self.__dict__:
            raise ValueError(f"DataLoader: {name} attribute should not be set after DataLoader is initialized")
        object.__setattr__(self, name, self._context(value) if name == "multiprocessing_context" else value)

    def __iter__(self) -> Iterator[Any]:
        return PinnedIterator(self._batches()) if self.pin_memory else self._batches()

    def _batches(self) -> Iterator[Any]:
        epoch, self._resumed = self._resumed or Epoch.begin(self), None
        self._epoch = epoch
        if self.num_workers == 0:
            return SerialIterator(self, epoch)
        pool = self._pool
        if pool is None or pool.stopped or len(pool) != self.num_workers:
            pool = Pool(self, epoch.seed)
        if self.persistent_workers:
            self._pool = pool
        return ParallelIterator(self, epoch, pool)

    def __len__(self) -> int:
        """The number of batches (of samples, where ``batch_size`` is None)."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
        size = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return size
        return size // self.batch_size if self.drop_last else -(-size // self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where the newest loop over this loader stands: plain values that ``tensorlite.save`` takes.

        That is the seed of its epoch, how many batches it was handed (not how many were made ahead), the state of
        generators that were given, and of a sampler and data set that have ``state_dict``. Before the first loop and
        once a loop has come to its end there is no epoch, so loading that state begins a fresh one.

        >>> import tensorlite as tl
        >>> loader = DataLoader(range(6), batch_size=2, shuffle=True)
        >>> loop = iter(loader)
        >>> _ = next(loop)
        >>> again = DataLoader(range(6), batch_size=2, shuffle=True)
        >>> again.load_state_dict(loader.state_dict())
        >>> [b.tolist() for b in again] == [b.tolist() for b in loop]
        True
        """
        epoch = self._resumed or self._epoch
        running = epoch is not None and not epoch.finished
        sampler = stateful_sampler(self)
        state: dict[str, Any] = {
            "epoch": epoch.state_dict() if epoch is not None and running else None,
            "batches": self._length() if running else None,
            "generators": [g.get_state() for g in generators_of(self)],
            "sampler": None if running or sampler is None else copy.deepcopy(sampler.state_dict()),
            "dataset": copy.deepcopy(self.dataset.state_dict()) if self._whole_dataset(running) else None,
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next loop continue the epoch that ``state_dict`` told of; later ones are fresh again.

        The number of workers may differ, except with an iterable data set, whose batches depend on it.

        Raises:
            ValueError: where the state is of a loader of another kind or length.
        """
        given, mine = state_dict["generators"], generators_of(self)
        if len(given) != len(mine):
            raise ValueError(
                f"DataLoader.load_state_dict: a state of {len(given)} generators; this loader has {len(mine)}"
            )
        if state_dict["batches"] is not None and state_dict["batches"] != self._length():
            raise ValueError(
                f"DataLoader.load_state_dict: a state within {state_dict['batches']} batches; this loader has "
                f"{self._length()}"
            )
        sampler = stateful_sampler(self)
        for name, own in (("sampler", sampler is not None), ("dataset", stateful(self.dataset))):
            if state_dict[name] is not None and not own:
                raise ValueError(
                    f"DataLoader.load_state_dict: holds a state of the {name}, which has no load_state_dict"
                )
        epoch = state_dict["epoch"] and Epoch.resume(self, state_dict["epoch"])
        for generator, state in zip(mine, given):
            generator.set_state(state)
        if state_dict["sampler"] is not None:
            sampler.load_state_dict(copy.deepcopy(state_dict["sampler"]))
        if state_dict["dataset"] is not None:
            self.dataset.load_state_dict(copy.deepcopy(state_dict["dataset"]))
        self._resumed, self._epoch = epoch, None

    def _whole_dataset(self, running: bool) -> bool:
        """Whether the data set's state is its own; within an epoch of a stream each reader has one."""
        return stateful(self.dataset) and not (running and isinstance(self.dataset, IterableDataset))

    def _length(self) -> int | None:
        """The number of batches, where it is known and stays as it is."""
        try:
            return None if stateful_sampler(self) is not None else len(self)
        except (TypeError, NotImplementedError):
            return None


class SerialIterator:
    """The batches of an epoch, made in this process."""

    def __init__(self, loader: DataLoader, epoch: Epoch) -> None:
        self._epoch, batched = epoch, loader.batch_sampler is not None
        if epoch.readers:
            self._next, self._part = self._read, epoch.readers[0]
            self._stream = Stream(
                loader.dataset, loader.collate_fn, loader.batch_size, loader.drop_last, epoch.seed, 0, self._part
            )
        else:
            self._next = self._make
            self._order = Order(loader, epoch)
            self._fetch = fetcher(loader.dataset, loader.collate_fn, batched, epoch.seed)

    def __iter__(self) -> SerialIterator:
        return self

    def __next__(self) -> Any:
        return self._next()

    def _make(self) -> Any:
        try:
            number, indices, sampler = next(self._order)
        except StopIteration:
            self._epoch.finished = True
            raise
        batch = self._fetch(number, indices)
        self._epoch.hand_out(number, sampler)
        return batch

    def _read(self) -> Any:
        batch = self._stream()
        if batch is END:
            self._epoch.finished = True
            raise StopIteration
        self._epoch.read(0, self._stream.ended, self._stream.state())
        return batch
