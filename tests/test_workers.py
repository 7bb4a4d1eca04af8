"""The worker processes of a DataLoader: what they hand over, and how they end."""

import copy
import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
from program_harness import OPEN_TO_CTRL_C

import tensorlite as tl
from tensorlite.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info, handover

ROOT = Path(__file__).resolve().parent.parent
Pair = namedtuple("Pair", "a b")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids, seconds):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def in_memory():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


@pytest.fixture(autouse=True)
def nothing_stays():
    """No process, no shared memory and no descriptor outlives a loop."""
    resource_tracker.ensure_running()  # spawning starts it, and it stays
    before, open_before = in_memory(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert in_memory() <= before
    assert len(os.listdir("/proc/self/fd")) <= open_before


class Items(Dataset):
    """``make(i)`` for i below n."""

    def __init__(self, make, n=8):
        self.make, self.n = make, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.make(i)


def loader(make, batch_size=2, n=8, **options):
    return DataLoader(Items(make, n), batch_size, **{"num_workers": 2, **options})


def pids(**options):
    return loader(lambda i: os.getpid(), **options)


# ---- what is handed over
def test_all_kinds_of_things_come_through():
    def make(i):
        return {
            "float": tl.full((3, 40), float(i)),
            "bfloat16": tl.full((600,), float(i), dtype=tl.bfloat16),
            "empty": tl.empty(0, 3),
            "scalar": tl.tensor(i),
            "array": np.full(5, i, np.int16),
            "text": "x" * i,
            "pair": Pair(i, (i / 2, [None])),
            "strided": tl.arange(6).reshape(2, 3).t(),
            "wants grad": tl.ones(2, requires_grad=True),
        }

    def show(tree):
        if isinstance(tree, tl.Tensor):
            return str(tree.dtype), tuple(tree.shape), tree.requires_grad, tree.tolist()
        if isinstance(tree, dict):
            return {k: show(v) for k, v in tree.items()}
        if isinstance(tree, np.ndarray):
            return tree.dtype, tree.tolist()
        return type(tree)(map(show, tree)) if type(tree) in (list, tuple) else tree

    for batch, want in zip(loader(make, None), map(make, range(8))):
        want["array"] = tl.as_tensor(want["array"])  # default_convert
        want["pair"] = Pair(want["pair"].a, [want["pair"].b[0], [None]])
        assert show(batch) == show(want) and isinstance(batch["pair"], Pair)
        batch["float"][0] = 7.0  # it may be written to
        assert (batch["float"][0] == 7).all()
    raw = [np.ones(4, tl.bfloat16.np), np.zeros((2, 0), tl.bfloat16.np)]
    for sent in loader(lambda i: raw, None, 1, collate_fn=lambda x: x):
        assert [(a.dtype, a.tolist()) for a in sent] == [(a.dtype, a.tolist()) for a in raw]


def test_large_batches_stay_valid_when_the_workers_are_gone(monkeypatch):
    for most in (handover._MOST_LIVE, 3):  # more than are mapped at a time are copied
        monkeypatch.setattr(handover, "_MOST_LIVE", most)
        batches = list(loader(lambda i: tl.full((100, 100), i), n=20))
        assert len(handover._live) == min(most, 10)
        assert [b[:, 99, 99].tolist() for b in batches] == [[k, k + 1] for k in range(0, 20, 2)]
        del batches
        gc.collect()
        assert len(handover._live) == 0


def test_memory_is_used_again_only_when_nobody_looks_at_it(monkeypatch):
    seen, made = [], []
    segment = handover._Segment
    monkeypatch.setattr(handover, "_Segment", lambda: made.append(1) or segment())

    def sizes(i):  # they grow and shrink; how many segments this worker made so far goes with them
        return tl.full((50 * (i % 3 + 1), 60), i), len(made)

    for i, (batch, count) in enumerate(loader(sizes, None, 40, num_workers=1)):
        seen.append(count)
        if i == 0:
            view = batch.t()[3, 1:]  # keeps the memory by itself
        assert (batch == i).all() and batch.shape[0] == 50 * (i % 3 + 1) and (view == 0).all()
    assert seen[-1] <= 6


def test_memory_that_a_forked_process_may_read_is_not_used_again():
    iterator = iter(loader(lambda i: tl.full((100, 100), i), None, 30, num_workers=1))
    batch = next(iterator)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:  # reads when the parent has long let go of it
        os.close(theirs)
        os.read(ours, 1)
        os._exit(int(not (batch == 0).all()))
    del batch
    assert [int(b[5, 5]) for b in iterator] == list(range(1, 30))
    os.write(theirs, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(ours), os.close(theirs)


def test_without_memory_to_share(monkeypatch):
    monkeypatch.setattr(handover, "SHARES", False)
    batches = [b[:, 299, 299].tolist() for b in loader(lambda i: tl.full((300, 300), i), n=20)]
    assert batches == [[k, k + 1] for k in range(0, 20, 2)]


def test_tasks_and_answers_larger_than_a_pipe():
    got = list(DataLoader(Items(lambda i: "x" * 40, 120_000), 30_000, num_workers=1, prefetch_factor=4))
    assert [len(b) for b in got] == [30_000] * 4


def test_what_has_no_place_in_a_worker():
    def elsewhere(i):
        t = tl.ones(2)
        t._spec = copy.copy(t._spec)  # as one that some other backend made
        t._spec.device = tl.device("cuda:0")
        return t

    with pytest.raises(RuntimeError, match="a worker made a tensor on cuda:0; wanted 'cpu'"):
        list(loader(elsewhere, None))
    with pytest.raises(RuntimeError, match="with a history"):
        list(loader(lambda i: tl.ones(2, requires_grad=True) * 2, None))
    with pytest.raises((AttributeError, TypeError), match="lambda"):
        list(loader(lambda i: lambda: i, None))


# ---- what a worker knows
def test_worker_info():
    assert get_worker_info() is None

    def about(i):
        info = get_worker_info()
        return info.id, info.num_workers, info.seed, len(info.dataset), tl.get_num_threads(), os.getpid()

    rows = list(loader(about, None))
    assert [r[:2] for r in rows] == [[k % 2, 2] for k in range(8)]
    assert rows[1][2] == rows[0][2] + 1 and all(r[3:5] == [8, 1] for r in rows)
    assert len({r[5] for r in rows}) == 2 and os.getpid() not in {r[5] for r in rows}


def test_worker_init_fn():
    def init(number):
        os.environ["NUMBER"] = str(number)

    def wrong(number):
        raise OSError(f"no camera {number}")

    got = list(loader(lambda i: os.environ["NUMBER"], None, worker_init_fn=init))
    assert got == ["0", "1"] * 4 and "NUMBER" not in os.environ
    with pytest.raises(OSError, match="no camera 0"):
        next(iter(loader(lambda i: i, worker_init_fn=wrong)))


def test_a_fork_of_a_process_whose_kernels_have_helpers():
    before = tl.get_num_threads()
    x = tl.rand(700, 700)
    try:
        tl.set_num_threads(2)
        want = ((x @ x) * 2).exp().sum().item()
        got = [b.item() for b in loader(lambda i: ((x @ x) * 2).exp().sum(), None, 2, num_workers=1)]
    finally:
        tl.set_num_threads(before)
    assert got == [want] * 2


def test_nested_loaders():
    inner = TensorDataset(tl.arange(4))

    def through_another(i):
        return sum(x.sum().item() for (x,) in DataLoader(inner, 2, shuffle=True)) + i

    outer = loader(through_another)
    seen = [(a.tolist(), [b.tolist() for b in loader(lambda i: i, 4)]) for a in outer]
    assert seen == [([6 + k, 7 + k], [[0, 1, 2, 3], [4, 5, 6, 7]]) for k in (0, 2, 4, 6)]


def test_a_loop_in_a_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(b.tolist() for b in loader(lambda i: i, 4)))
    thread.start()
    thread.join(10)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_context_set_later():
    late = loader(lambda i: i, 4, num_workers=1)
    late.multiprocessing_context = "spawn"
    assert late.multiprocessing_context.get_start_method() == "spawn"
    with pytest.raises(ValueError, match="wanted one of"):
        late.multiprocessing_context = "thread"


# ---- workers that stay
def test_persistent_workers():
    stays = pids(persistent_workers=True)
    first = [b.tolist() for b in stays]
    for _ in stays:
        break
    assert [b.tolist() for b in stays] == first
    old = iter(stays)
    new = iter(stays)
    with pytest.raises(RuntimeError, match="newer loop"):
        next(old)
    assert [b.tolist() for b in new] == first
    leaves = [{b[0].item() for b in pids()} for _ in range(2)]
    assert not leaves[0] & leaves[1]
    workers = {b[0] for b in first}
    del stays, new, old
    assert gone(workers, 2)


def test_persistent_workers_are_replaced_after_a_death(tmp_path):
    mark = tmp_path / "mark"

    def die_once(i):
        if i == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        return i

    stays = loader(die_once, persistent_workers=True)
    with pytest.raises(RuntimeError, match="exit code 1"):
        list(stays)
    assert [b.tolist() for b in stays] == [[0, 1], [2, 3], [4, 5], [6, 7]]


# ---- errors
class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)


def raising(error):
    def make(i):
        if i == 2:
            raise error
        return i

    return make


@pytest.mark.parametrize(
    "error, kind",
    [
        (ValueError("bad picture"), ValueError),
        (KeyError("bad picture"), KeyError),
        (TwoArguments("bad picture", 1), RuntimeError),
        (type("Local", (Exception,), {})("bad picture"), RuntimeError),
        (tl.errors.DataError("bad picture"), tl.errors.DataError),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_an_exception_comes_with_its_traceback(error, kind):
    iterator = iter(loader(raising(error)))
    assert next(iterator).tolist() == [0, 1]
    with pytest.raises(kind, match="bad picture") as caught:
        next(iterator)
    assert type(caught.value) is kind
    assert "in DataLoader worker process 1" in str(caught.value) and "in make" in str(caught.value)
    assert "raise error" in str(caught.value) and "\\n" not in str(caught.value)
    assert next(iterator).tolist() == [4, 5]  # as in PyTorch


def test_an_exception_in_collate_and_in_a_stream():
    class Broken(IterableDataset):
        def __iter__(self):
            yield 1
            raise ValueError("broken stream")

    def collate(samples):
        raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch"):
        list(loader(lambda i: i, collate_fn=collate))
    iterator = iter(DataLoader(Broken(), 1, num_workers=1))
    assert next(iterator).tolist() == [1]
    with pytest.raises(ValueError, match="broken stream"):
        next(iterator)
    assert list(iterator) == []


def test_an_exception_in_the_sampler_comes_after_the_batches_before_it():
    def indices():
        yield from range(4)
        raise ValueError("no more indices")

    class Sampler:
        def __iter__(self):
            return indices()

    for workers in (0, 2):
        iterator = iter(DataLoader(Items(lambda i: i), 2, sampler=Sampler(), num_workers=workers))
        assert [next(iterator).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
        with pytest.raises(ValueError, match="no more indices"):
            next(iterator)


# ---- deaths
@pytest.mark.parametrize(
    "death, says",
    [
        (lambda: os._exit(3), "with exit code 3"),
        (lambda: sys.exit(4), "with exit code 4"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"killed by signal 9 \(SIGKILL\): out of memory\?"),
        (lambda: signal.raise_signal(signal.SIGTERM), r"killed by signal 15 \(SIGTERM\)"),
        (lambda: (faulthandler.disable(), os.abort()), r"killed by signal 6 \(SIGABRT\)"),
    ],
)
def test_a_dead_worker_is_named(death, says, capfd):
    def make(i):
        if i == 6:
            death()
        return i

    pool = loader(make)
    batches = []
    with pytest.raises(RuntimeError, match=rf"DataLoader worker 1 \(pid \d+\) exited unexpectedly,? {says}"):
        for batch in pool:
            batches.append(batch.tolist())
            tl.manual_seed(0)
    assert batches == [[0, 1], [2, 3], [4, 5]][: len(batches)] and pool.state_dict()["epoch"]["consumed"] == len(
        batches
    )


def test_timeout():
    slow = loader(lambda i: time.sleep(30 if i == 2 else 0) or i, timeout=0.3)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"timed out after 0.3 seconds, waiting for worker 1 \(pid \d+\)"):
        list(slow)
    assert time.monotonic() - begin < 3
    assert [b.tolist() for b in loader(lambda i: i, 4, timeout=30)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_leaving_the_loop_ends_the_workers():
    iterator = iter(pids())
    workers = {next(iterator)[0].item() for _ in range(2)}
    assert len(workers) == 2 and all(map(alive, workers))
    del iterator
    assert gone(workers, 0)
    for batch in pids():
        assert alive(batch[0].item())
        break
    assert gone([batch[0].item()], 0)

    iterator = iter(loader(lambda i: i if i < 2 else time.sleep(60), None))  # busy ones are not waited for
    next(iterator)
    begin = time.monotonic()
    del iterator
    assert time.monotonic() - begin < 3


def test_what_cannot_be_sent_to_a_spawned_worker():
    for part, options in (("dataset", {}), ("collate_fn", {"collate_fn": lambda samples: samples})):
        dataset = Items(lambda i: i) if part == "dataset" else [1, 2]
        with pytest.raises((AttributeError, TypeError), match=f"{part} .* cannot be sent to a spawned worker"):
            iter(DataLoader(dataset, num_workers=1, multiprocessing_context="spawn", **options))


SCRIPT = """
import os, sys, time
from tensorlite.utils.data import DataLoader

class Slow:
    def __len__(self):
        return 100
    def __getitem__(self, i):
        if i > 3:
            time.sleep(60)
        return os.getpid()

if __name__ == "__main__":
    loader = DataLoader(Slow(), 1, num_workers=2, multiprocessing_context=sys.argv[1])
    for k, batch in enumerate(loader):
        print(batch.item(), flush=True)
        if k == 3 and sys.argv[2] == "body":
            time.sleep(60)
"""


@pytest.mark.parametrize(
    "method, where, signals",
    [
        ("fork", "waiting", "SIGINT"),
        ("spawn", "waiting", "SIGINT"),
        ("fork", "body", "SIGINT"),
        ("fork", "body", "SIGKILL"),
    ],
)
def test_nothing_is_left_of_a_program_that_is_stopped(tmp_path, method, where, signals):
    (tmp_path / "script.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [sys.executable, "-W", "error", tmp_path / "script.py", method, where],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **OPEN_TO_CTRL_C,
    )
    workers = {int(program.stdout.readline()) for _ in range(4)}
    assert len(workers) == 2 and all(map(alive, workers))
    time.sleep(0.2)
    begin = time.monotonic()
    if signals == "SIGINT":  # what a terminal does: the whole group gets it
        os.killpg(program.pid, signal.SIGINT)
    else:
        program.kill()
    _, errors = program.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == (signals == "SIGINT"), errors
    assert "resource_tracker" not in errors
    assert gone(workers, 0.5 if signals == "SIGINT" else 5)
