"""DataLoader: positions and randomness, without and with worker processes."""

import io
import itertools
import random
import time

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)
from tensorlite.utils.data.randomness import Keyed, words


# ---- what is loaded: at the top level, so that spawned workers find it
class Noisy(Dataset):
    """A transform that draws from all three generators."""

    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return i, tl.rand(2), random.random(), np.random.rand(2)  # noqa: NPY002


class Stream(IterableDataset):
    """0 to n - 1, each with noise."""

    def __init__(self, n=10):
        self.n = n

    def __iter__(self):
        for i in range(self.n):
            yield i, tl.rand(2), random.random()


class Remembering(Stream):
    """A stream that keeps its own position and counts what it reads."""

    def __init__(self, n=10):
        super().__init__(n)
        self.at, self.reads = 0, 0

    def __iter__(self):
        while self.at < self.n:
            self.at, self.reads = self.at + 1, self.reads + 1
            yield self.at - 1, tl.rand(2), random.random()
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Lazy(Sampler):
    """Draws as it goes, from Python's and NumPy's generators and ours."""

    def __init__(self, n=10):
        self.n = n

    def __iter__(self):
        for _ in range(self.n):
            yield (random.randrange(self.n) + np.random.randint(self.n) + tl.randint(self.n, ()).item()) % self.n  # noqa: NPY002

    def __len__(self):
        return self.n


class Keeping(Sampler):
    """Keeps its own position."""

    def __init__(self, n=10):
        self.n, self.at = n, 0

    def __iter__(self):
        while self.at < self.n:
            self.at += 1
            yield self.n - self.at
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def plain(batch):
    return [v.tolist() if hasattr(v, "tolist") else v for v in batch]


def through_file(state):
    file = io.BytesIO()
    tl.save(state, file)
    file.seek(0)
    return tl.load(file)


LOADERS = {
    "shuffled": lambda **kw: DataLoader(Noisy(), 3, shuffle=True, **kw),
    "in order": lambda **kw: DataLoader(Noisy(), 3, **kw),
    "generator": lambda **kw: DataLoader(Noisy(), 3, shuffle=True, generator=tl.Generator().manual_seed(5), **kw),
    "sampler's generator": lambda **kw: DataLoader(
        Noisy(), 3, sampler=RandomSampler(range(10), generator=tl.Generator().manual_seed(6)), **kw
    ),
    "more than a permutation": lambda **kw: DataLoader(
        Noisy(4), 3, sampler=RandomSampler(range(4), num_samples=10), **kw
    ),
    "weighted": lambda **kw: DataLoader(Noisy(4), 3, sampler=WeightedRandomSampler([1, 2, 3, 4], 10), **kw),
    "lazy sampler": lambda **kw: DataLoader(Noisy(), 3, sampler=Lazy(), **kw),
    "lazy batches": lambda **kw: DataLoader(Noisy(), batch_sampler=BatchSampler(Lazy(), 3, False), **kw),
    "sampler with a state": lambda **kw: DataLoader(Noisy(), 3, sampler=Keeping(), **kw),
    "single samples": lambda **kw: DataLoader(Noisy(4), None, shuffle=True, **kw),
    "tensors": lambda **kw: DataLoader(TensorDataset(tl.arange(10)), 3, shuffle=True, **kw),
    "stream": lambda **kw: DataLoader(Stream(), 3, **kw),
    "stream, whole batches": lambda **kw: DataLoader(Stream(), 3, drop_last=True, **kw),
    "stream with a state": lambda **kw: DataLoader(Remembering(), 3, **kw),
}
INDEXED = [name for name in LOADERS if "stream" not in name]


def epochs(make, n=2, **kw):
    """The batches of n epochs, each batch preceded by numbers of the training's own."""
    loader = make(**kw)
    out = []
    for _ in range(n):
        own = []
        for batch in loader:
            own += [tl.rand(1).item(), random.random()]
            out.append(plain(batch))
        out.append(own)
    return out


# ---- positions
@pytest.mark.parametrize("name", LOADERS)
def test_an_epoch_continues_from_every_position(name):
    make = LOADERS[name]
    loader = make()
    first = list(map(plain, loader))
    loader = make()
    tl.manual_seed(3)
    fresh, own = through_file(loader.state_dict()), tl.get_rng_state()
    states, batches = [], []
    for batch in loader:
        batches.append(plain(batch))
        tl.rand(1)  # the training's own
        states.append((through_file(loader.state_dict()), tl.get_rng_state()))
    ended, own_ended = through_file(loader.state_dict()), tl.get_rng_state()
    second = list(map(plain, loader))
    assert len(batches) == len(first) > 2
    if name not in ("in order", "single samples"):
        assert second != batches

    def resumed(state, generator):
        other = make()
        other.load_state_dict(state)
        assert repr(other.state_dict()) == repr(state)  # saved again before it is used
        tl.set_rng_state(generator)
        return list(map(plain, other)), other

    assert resumed(fresh, own)[0] == batches
    assert resumed(ended, own_ended)[0] == second
    for k, (state, generator) in enumerate(states):
        rest, other = resumed(state, generator)
        assert rest == batches[k + 1 :]
        assert list(map(plain, other)) != rest or not rest  # and the epoch after that is another
        tl.set_rng_state(generator)
    rest, other = resumed(*states[-1])
    assert rest == [] and list(map(plain, other)) == second


def test_one_draw_an_epoch():
    loader = DataLoader(Noisy(), 3, shuffle=True)
    before = tl.get_rng_state()
    iterator = iter(loader)
    after = tl.get_rng_state()
    assert (before != after).any()
    list(iterator)
    assert (tl.get_rng_state() == after).all()
    tl.set_rng_state(before)
    tl.randint(0, 2, ())
    assert (tl.get_rng_state() == after).all()
    g = tl.Generator()
    iter(DataLoader(Noisy(), 3, shuffle=True, generator=g))
    assert (tl.get_rng_state() == after).all() and (g.get_state() != tl.Generator().get_state()).any()


def test_the_programs_generators_are_put_back():
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002  # each keeps a second number for later
    iterators = [iter(make()) for make in LOADERS.values()]
    before = random.getstate(), np.random.get_state(legacy=False), tl.get_rng_state().tolist()  # noqa: NPY002
    for iterator in iterators:
        list(iterator)
    after = random.getstate(), np.random.get_state(legacy=False), tl.get_rng_state().tolist()  # noqa: NPY002
    assert repr(before) == repr(after)


def test_noise_differs_from_batch_to_batch_and_follows_the_seed():
    first = epochs(LOADERS["in order"])
    noise = [b[1][0][0] for b in first if len(b) == 4]
    assert len(set(noise)) == len(noise) == 8
    tl.manual_seed(0)
    random.seed(2)
    again = epochs(LOADERS["in order"])
    assert [b for b in again if len(b) == 4] == [b for b in first if len(b) == 4]


def test_keyed_is_entered_again_and_nested():
    def draw():
        return random.random(), np.random.rand(), tl.rand(1).item()  # noqa: NPY002

    again = Keyed(words(1, 0), again=True)
    with again:
        a = draw()
        with Keyed(words(2, 0)):
            b = draw()
    with again:
        c = draw()
    with Keyed(words(1, 0)):
        assert [draw(), draw()] == [a, c]
    with Keyed(words(2, 0)):
        assert draw() == b
    with pytest.raises(ZeroDivisionError), Keyed(words(2, 0)):
        1 / 0


def test_words_differ_in_every_argument():
    keys = [words(s, p, i, r) for s, p, i, r in itertools.product((0, 1, 2**40), (0, 1), (0, 1, 2**33), (0, 1))]
    assert len(set(keys)) == len(keys) and all(0 <= w < 2**32 for key in keys for w in key)


def test_the_newest_loop_counts():
    loader = DataLoader(Noisy(), 3, shuffle=True)
    outer = iter(loader)
    next(outer)
    inner = iter(loader)
    rest = [plain(b) for b in [next(inner)] and inner]
    next(outer)
    assert loader.state_dict()["epoch"] is None  # the inner loop has ended; the outer one is nobody's any more
    inner = iter(loader)
    next(inner)
    state = loader.state_dict()
    next(outer)
    assert loader.state_dict() == state and len(rest) == 3


def test_state_after_break_and_after_an_error():
    loader = DataLoader(Noisy(), 3, shuffle=True)
    for _ in loader:
        break
    assert loader.state_dict()["epoch"]["consumed"] == 1

    class Broken(Noisy):
        broken = True

        def __getitem__(self, i):
            if i == 4 and self.broken:
                raise OSError("no such picture")
            return super().__getitem__(i)

    loader = DataLoader(Broken(), 3)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(OSError, match="no such picture"):
        next(iterator)
    state = loader.state_dict()
    assert next(iterator)[0].tolist() == [6, 7, 8]  # as in PyTorch, a loop may go on behind it
    Broken.broken = False
    loader.load_state_dict(state)
    assert next(iter(loader))[0].tolist() == [3, 4, 5]


def test_indices_are_skipped_without_fetching():
    read = []

    class Watched(Noisy):
        def __getitem__(self, i):
            read.append(i)
            return i

    loader = DataLoader(Watched(), 2)
    iterator = iter(loader)
    next(iterator), next(iterator)
    loader.load_state_dict(loader.state_dict())
    read.clear()
    next(iter(loader))
    assert read == [4, 5]
    stream = Remembering()
    loader = DataLoader(stream, 2)
    iterator = iter(loader)
    next(iterator), next(iterator)
    loader.load_state_dict(loader.state_dict())
    stream.reads = 0
    assert next(iter(loader))[0].tolist() == [4, 5] and stream.reads == 2


def test_a_data_set_with_a_state():
    class Curriculum(Noisy):
        level = 0

        def state_dict(self):
            return {"level": self.level}

        def load_state_dict(self, state):
            self.level = state["level"]

    loader = DataLoader(Curriculum(), 3)
    loader.dataset.level = 7
    state, other = loader.state_dict(), DataLoader(Curriculum(), 3)
    other.load_state_dict(through_file(state))
    assert other.dataset.level == 7


def test_an_epoch_that_is_interrupted_again_and_again():
    want = list(map(plain, LOADERS["shuffled"]()))
    tl.manual_seed(0)
    loader = LOADERS["shuffled"]()
    got = [plain(next(iter(loader)))]
    for workers in (1, 0, 2):
        state = loader.state_dict()
        loader = LOADERS["shuffled"](num_workers=workers)
        loader.load_state_dict(state)
        got.append(plain(next(iter(loader))))
    assert got == want


def test_states_that_do_not_fit():
    def state(loader):
        next(iter(loader))
        return loader.state_dict()

    plain_one = state(DataLoader(Noisy(), 3))
    for other, says in (
        (DataLoader(Noisy(), 2), "4 batches; this loader has 5"),
        (DataLoader(Noisy(), 3, generator=tl.Generator()), "0 generators; this loader has 1"),
        (DataLoader(Stream(12), 3), "batches|readers"),
    ):
        with pytest.raises(ValueError, match=says):
            other.load_state_dict(plain_one)
    with pytest.raises(ValueError, match="sampler, which has no load_state_dict"):
        DataLoader(Noisy(), 3).load_state_dict(DataLoader(Noisy(), 3, sampler=Keeping()).state_dict())


def test_stop_iteration_in_a_data_set_is_an_error():
    class Wrong(Noisy):
        def __getitem__(self, i):
            return next(iter(()))

    for loader in (DataLoader(Wrong(), 2), DataLoader(Stream(), 2, collate_fn=lambda samples: next(iter(())))):
        with pytest.raises(RuntimeError, match="StopIteration"):
            list(loader)


# ---- any number of workers
def batches_of(epochs):
    return [batch for batch in epochs if not isinstance(batch[0], float)]


@pytest.mark.parametrize("name", INDEXED)
def test_the_number_of_workers_changes_nothing(name):
    want = epochs(LOADERS[name])
    for workers in (1, 2):
        tl.manual_seed(0)
        random.seed(0)
        got = epochs(LOADERS[name], num_workers=workers, prefetch_factor=workers)
        assert batches_of(got) == batches_of(want)


@pytest.mark.parametrize("name", ["stream", "stream, whole batches", "stream with a state"])
def test_one_worker_reads_a_stream_as_this_process_does(name):
    want = epochs(LOADERS[name])
    tl.manual_seed(0)
    assert batches_of(epochs(LOADERS[name], num_workers=1)) == batches_of(want)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start(method):
    want = epochs(LOADERS["shuffled"], 1)
    tl.manual_seed(0)
    got = epochs(LOADERS["shuffled"], 1, num_workers=1, multiprocessing_context=method)
    assert batches_of(got) == batches_of(want)


@pytest.mark.parametrize("name", ["shuffled", "generator", "lazy sampler", "sampler with a state"])
def test_an_epoch_continues_with_another_number_of_workers(name):
    make = LOADERS[name]
    want = list(map(plain, make(num_workers=2)))
    for before, after in ((0, 2), (2, 0), (2, 1)):
        tl.manual_seed(0)
        loader = make(num_workers=before)
        states = [through_file(loader.state_dict()) for _ in loader]
        assert len(states) == 4
        for k, state in enumerate(states):
            other = make(num_workers=after)
            other.load_state_dict(state)
            assert list(map(plain, other)) == want[k + 1 :]


class Shares(Stream):
    """Each worker its share: 0, 2, 4 .. and 1, 3, 5 .., the shares of unequal length."""

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(first, self.n, step):
            yield i, tl.rand(1), random.random()


class RememberingShares(Remembering):
    def __iter__(self):
        info = get_worker_info()
        while self.at * info.num_workers + info.id < self.n:
            self.at += 1
            yield (self.at - 1) * info.num_workers + info.id, tl.rand(1), random.random()
        self.at = 0


@pytest.mark.parametrize("kind", [Shares, RememberingShares])
@pytest.mark.parametrize("drop_last", [False, True])
def test_streams_continue_with_workers(kind, drop_last):
    def make():
        return DataLoader(kind(11), 2, drop_last=drop_last, num_workers=2)

    loader, states, want = make(), [], []
    for batch in loader:
        want.append(plain(batch))
        states.append(through_file(loader.state_dict()))
    rows = [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9]]
    assert [b[0] for b in want] == (rows[:5] if drop_last else rows)
    for k, state in enumerate(states):
        other = make()
        other.load_state_dict(state)
        assert list(map(plain, other)) == want[k + 1 :]
    with pytest.raises(ValueError, match=r"2 readers .* has 1"):
        DataLoader(kind(11), 2, drop_last=drop_last).load_state_dict(states[0])


def test_a_stream_continues_at_the_next_workers_turn_when_another_has_ended():
    class Uneven(Stream):
        def __iter__(self):
            info = get_worker_info()
            return iter([(info.id, k) for k in range(2 if info.id == 0 else 7)])

    def make(factor):
        return DataLoader(Uneven(), 2, num_workers=2, prefetch_factor=factor)

    want = [[0, 0], [0, 1]], [[1, 1], [0, 1]], [[1, 1], [2, 3]], [[1, 1], [4, 5]], [[1], [6]]
    for factor in (1, 3):
        loader = make(factor)
        states = [(plain(b), loader.state_dict()) for b in loader]
        assert [b for b, _ in states] == list(want)
        for k, (_, state) in enumerate(states):
            other = make(factor)
            other.load_state_dict(state)
            assert list(map(plain, other)) == list(want[k + 1 :])


def test_batches_as_they_come():
    class Slow(Noisy):
        def __getitem__(self, i):
            time.sleep(0.2 if i < 2 else 0)
            return i

    loader = DataLoader(Slow(12), 2, num_workers=2, in_order=False)
    iterator = iter(loader)
    seen = [next(iterator).tolist() for _ in range(3)]
    assert [0, 1] not in seen
    state = through_file(loader.state_dict())
    assert state["epoch"]["consumed"] == 0 and len(state["epoch"]["beyond"]) == 3
    for workers in (0, 2):
        other = DataLoader(Slow(12), 2, num_workers=workers)
        other.load_state_dict(state)
        rest = [b.tolist() for b in other]
        assert rest[0] == [0, 1] and sorted(seen + rest) == [[k, k + 1] for k in range(0, 12, 2)]
    assert sorted(seen + [b.tolist() for b in iterator]) == [[k, k + 1] for k in range(0, 12, 2)]
    assert loader.state_dict()["epoch"] is None
