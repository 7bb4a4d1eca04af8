"""What runs in a loader's worker process. Floor 5."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any

from tensorlite.backends.cpu import set_num_threads
from tensorlite.utils.data import handover
from tensorlite.utils.data.dataset import IterableDataset
from tensorlite.utils.data.fetch import END, Stream, fetcher
from tensorlite.utils.data.position import Reader
from tensorlite.utils.data.randomness import WORKER, seed_all, words

MADE, ENDED, FAILED = 0, 1, 2  # kinds of answers

_PARENT_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is.

    Attributes:
        id: its number, from 0.
        num_workers: how many there are.
        seed: what its generators started from, for generators of other libraries.
        dataset: this process's copy of the data set.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker of a ``DataLoader``, which one it is; None elsewhere.

    >>> from tensorlite.utils.data import DataLoader, IterableDataset, get_worker_info
    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         info = get_worker_info()
    ...         first, step = (0, 1) if info is None else (info.id, info.num_workers)
    ...         return iter(range(first, 4, step))
    >>> list(DataLoader(Count(), batch_size=2))
    [tensor([0, 1]), tensor([2, 3])]
    """
    return _info


@dataclass
class Job:
    """What a loader's workers do."""

    dataset: Any
    collate_fn: Callable
    worker_init_fn: Callable | None
    batched: bool
    batch_size: int | None
    drop_last: bool
    workers: int
    inline: int  # the most bytes of an answer that go through the pipe


@dataclass
class Failure:
    """An exception of a worker, on its way to the loop."""

    kind: type
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        kind = type(error)
        try:
            pickle.dumps(kind)
        except Exception:  # a class of this process's own
            kind = RuntimeError
        return cls(kind, "".join(traceback.format_exception(error)))

    def raised(self, worker: int) -> Exception:
        """The exception to raise: of the same class, with the worker's traceback as its text."""
        text = f"Caught {self.kind.__name__} in DataLoader worker process {worker}.\nOriginal {self.text}"
        try:
            return self.kind(_Text(text) if issubclass(self.kind, KeyError) else text)
        except Exception:  # a constructor that wants something else
            return RuntimeError(text)


class _Text(str):
    """Shown as it is: a KeyError shows the repr of its argument."""

    def __repr__(self) -> str:
        return self


def work(pipe: Any, job: Job, number: int, seed: int) -> None:
    """The life of worker ``number``: answers tasks from the pipe until it closes.

    Tasks are (epoch, seed, Reader or None), which begins an epoch, and (number, indices), which asks for a batch. With
    each come the segments that were released.
    """
    global _info
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent's handler, if any, is not for a worker
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    set_num_threads(1)
    _info = WorkerInfo(number, job.workers, seed + number, job.dataset)
    seed_all(words(seed, WORKER, reader=number))
    wrong: Failure | None = None  # what keeps this worker from making batches
    if job.worker_init_fn is not None:
        try:
            job.worker_init_fn(number)
        except Exception as error:
            wrong = Failure.of(error)
    epoch, make, sender = 0, None, handover.Sender(pipe, job.inline)
    try:
        while True:
            released, task = pipe.recv()
            sender.released(released)
            if len(task) == 3:
                epoch, make = task[0], wrong or _maker(job, number, *task[1:])
            else:
                kind, pieces = _answer(make, task)
                sender.send(epoch, task[0], kind, pieces)
    except (EOFError, ConnectionError):
        pass  # the parent has ended this loop


def _leave_with_parent() -> None:
    """End this process when its parent is gone, whatever it is doing."""
    parent, above = parent_process(), os.getppid()
    # workers that were forked later hold copies of what would tell us, so the parent's number is looked at too
    watched = [] if parent is None else [parent.sentinel]
    while not connection.wait(watched, _PARENT_CHECK_SECONDS) and os.getppid() == above:
        pass
    os._exit(1)


def _maker(job: Job, number: int, seed: int, position: Reader | None) -> Any:
    """What makes (batch, whether the stream ended, its state) from a task, or a Failure."""
    try:
        if isinstance(job.dataset, IterableDataset):
            stream = Stream(
                job.dataset, job.collate_fn, job.batch_size, job.drop_last, seed, number, position or Reader()
            )
            return lambda task: (stream(), stream.ended, stream.state())
        fetch = fetcher(job.dataset, job.collate_fn, job.batched, seed)
        return lambda task: (fetch(*task), False, None)
    except Exception as error:
        return Failure.of(error)


def _answer(make: Any, task: Any) -> tuple[int, list]:
    if isinstance(make, Failure):
        return FAILED, handover.pack(make)
    try:
        made = make(task)
        return (ENDED, handover.pack(None)) if made[0] is END else (MADE, handover.pack(made))
    except Exception as error:
        return FAILED, handover.pack(Failure.of(error))
