"""A loader's side of its worker processes: starting them, asking and waiting for batches, ending them. Floor 5."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from tensorlite.utils.data import handover
from tensorlite.utils.data.position import Epoch, Order
from tensorlite.utils.data.workers import ENDED, FAILED, Job, work

_GRACE_SECONDS = 1.0  # for a worker to finish the batch that nobody wants any more
_ROOM = 4096  # bytes that all answers waiting in a worker's pipe may take, so that it never waits for the parent


class Pool:
    """The worker processes of a loader, each with a pipe of its own.

    They are ended by ``stop``, or once nobody holds the pool any more, or with this process.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self.epoch = 0
        # where nothing can be shared an answer may be too large for the pipe: then a worker is asked when it is idle
        self.ahead = (loader.prefetch_factor or 2) if handover.SHARES else 1
        self._timeout = loader.timeout or None
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._receivers: list[handover.Receiver] = []
        self._finalizer = weakref.finalize(self, _stop, os.getpid(), self._processes, self._pipes, _GRACE_SECONDS)
        job = Job(
            loader.dataset,
            loader.collate_fn,
            loader.worker_init_fn,
            loader.batch_sampler is not None,
            loader.batch_size,
            loader.drop_last,
            loader.num_workers,
            _ROOM // self.ahead,
        )
        context = loader.multiprocessing_context or multiprocessing.get_context()
        self._spawned = context.get_start_method() != "fork"
        try:
            for number in range(loader.num_workers):
                self._start(context, job, number, seed)
        except BaseException:
            self.stop(0)
            raise

    def _start(self, context: Any, job: Job, number: int, seed: int) -> None:
        ours, theirs = context.Pipe(duplex=True)
        self._pipes.append(ours)
        self._receivers.append(handover.Receiver(ours))
        with theirs, _no_interrupt(), warnings.catch_warnings():
            # Python 3.12 warns of threads at a fork; ours and BLAS's are made anew in the child
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            process = context.Process(target=work, args=(theirs, job, number, seed), daemon=True)
            try:
                process.start()
            except Exception as error:
                if self._spawned:
                    _name_what_cannot_be_sent(job, error)
                raise
        self._processes.append(process)

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def stopped(self) -> bool:
        return not self._finalizer.alive

    def stop(self, grace: float = _GRACE_SECONDS) -> None:
        """End the workers; those that are still at work after ``grace`` seconds by force."""
        if self._finalizer.detach() is not None:
            _stop(os.getpid(), self._processes, self._pipes, grace)

    def begin(self, seed: int, positions: list) -> int:
        """Begin an epoch in every worker; answers that belong to one before are dropped from now on."""
        self.epoch += 1
        for worker in range(len(self)):
            self.send(worker, (self.epoch, seed, positions[worker] if positions else None))
        return self.epoch

    def send(self, worker: int, task: tuple) -> None:
        """Give a worker a task. That it is dead is noticed where its answer is waited for."""
        with contextlib.suppress(ConnectionError):
            self._pipes[worker].send((self._receivers[worker].released(), task))

    def answer(self, workers: Iterable[int]) -> tuple[int, int, int, memoryview]:
        """(worker, number, kind, data) of the next answer of one of these workers.

        Raises:
            RuntimeError: where a worker is dead, or none of these answers in time.
        """
        among = {self._pipes[w]: w for w in workers}
        sentinels = {p.sentinel: w for w, p in enumerate(self._processes)}
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = connection.wait([*among, *sentinels], left)
            for pipe, worker in among.items():
                if pipe in ready:
                    try:
                        epoch, number, kind, data = self._receivers[worker].receive()
                    except (EOFError, OSError) as error:
                        raise RuntimeError(self._death(worker)) from error
                    if epoch == self.epoch:
                        return worker, number, kind, data
                    break
            else:
                for sentinel, worker in sentinels.items():
                    if sentinel in ready:
                        raise RuntimeError(self._death(worker))
                if not ready:
                    names = ", ".join(f"worker {w} (pid {self._processes[w].pid})" for w in among.values())
                    raise RuntimeError(f"DataLoader timed out after {self._timeout} seconds, waiting for {names}")

    def _death(self, worker: int) -> str:
        process = self._processes[worker]
        process.join(_GRACE_SECONDS)
        code, name = process.exitcode, f"DataLoader worker {worker} (pid {process.pid}) exited unexpectedly"
        if code is None:
            return f"{name}: it closed its pipe"
        if code >= 0:
            hint = " (its output says more; a script that spawns needs `if __name__ == '__main__':`)"
            return f"{name} with exit code {code}{hint if code == 1 and self._spawned else ''}"
        known = {s.value: s.name for s in signal.Signals}
        hint = {"SIGKILL": ": out of memory?", "SIGBUS": ": no room for shared memory?", "SIGSEGV": ": a crash"}
        sign = known.get(-code, "unknown")
        return f"{name}, killed by signal {-code} ({sign}){hint.get(sign, '')}"


def _stop(owner: int, processes: list, pipes: list, grace: float) -> None:
    if os.getpid() != owner:  # a copy in a process that was forked from ours
        return
    for pipe in pipes:
        if os.name == "posix":  # processes that were forked later hold copies; this reaches the worker all the same
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)
        pipe.close()
    deadline = time.monotonic() + grace
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for end_it in ("terminate", "kill"):
        left = [p for p in processes if p.is_alive()]
        for process in left:
            getattr(process, end_it)()
        for process in left:
            process.join(_GRACE_SECONDS)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """A worker begins with Ctrl-C blocked, until it ignores it; here it comes a moment later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _name_what_cannot_be_sent(job: Job, error: Exception) -> None:
    """Raise an error that says which part of the job no other process can be sent, if it is that."""
    for name in ("dataset", "collate_fn", "worker_init_fn"):
        try:
            ForkingPickler.dumps(getattr(job, name))
        except Exception as found:
            if str(found) == str(error):
                text = (
                    f"DataLoader: {name} {getattr(job, name)!r} cannot be sent to a spawned worker: {error}; wanted "
                    "something defined at the top level of a module, or multiprocessing_context='fork'"
                )
                try:
                    named = type(error)(text)
                except Exception:
                    named = RuntimeError(text)
                raise named from error


class ParallelIterator:
    """The batches of an epoch, made by workers and handed out in order (unless the loader says otherwise)."""

    def __init__(self, loader: Any, epoch: Epoch, pool: Pool) -> None:
        self._epoch, self._pool, self._in_order, self._keep = epoch, pool, loader.in_order, loader.persistent_workers
        self._asked: deque[tuple[int, int, Any]] = deque()  # (worker, number, the sampler's state), oldest first
        self._order = None if epoch.readers else Order(loader, epoch)
        self._sampler_error: Exception | None = None
        self._number = pool.begin(epoch.seed, epoch.readers)
        for k in range(pool.ahead * len(pool)):
            self._ask((epoch.turn + k) % len(pool))

    def __iter__(self) -> ParallelIterator:
        return self

    def __next__(self) -> Any:
        if self._pool.epoch != self._number:
            raise RuntimeError("DataLoader: a newer loop has taken over the persistent workers of this one")
        try:
            return self._next()
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C
                self._pool.stop(0)
            raise

    def _next(self) -> Any:
        while self._asked:
            if self._pool.stopped:
                raise RuntimeError("DataLoader: this loop has ended with an error")
            try:
                worker, number, kind, data = self._pool.answer(
                    [self._asked[0][0]] if self._in_order else [worker for worker, _, _ in self._asked]
                )
            except RuntimeError:
                self._pool.stop(0)
                raise
            place = next(k for k, asked in enumerate(self._asked) if asked[0] == worker)
            sampler = self._asked[place][2]
            del self._asked[place]
            if kind == ENDED:
                continue
            self._ask(worker)
            answer = handover.unpack(data)
            if kind == FAILED:
                raise answer.raised(worker)
            batch, ended, state = answer
            if self._order is None:
                self._epoch.read(worker, ended, state)
            else:
                self._epoch.hand_out(number, sampler, self._in_order)
            return batch
        if self._sampler_error is not None:
            raise self._sampler_error
        self._epoch.finished = True
        if not self._keep:
            self._pool.stop()
        raise StopIteration

    def _ask(self, worker: int) -> None:
        number, indices, sampler = 0, None, None
        if self._order is not None and self._sampler_error is None:
            try:
                number, indices, sampler = next(self._order)
            except StopIteration:
                return
            except Exception as error:  # its turn is after the batches that are on their way
                self._sampler_error = error
        if self._sampler_error is None:
            self._pool.send(worker, (number, indices))
            self._asked.append((worker, number, sampler))
