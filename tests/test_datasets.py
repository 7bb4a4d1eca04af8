"""Data sets made of others, streams and samplers, beside PyTorch's."""

import warnings

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.utils import data as own


class Squares(own.Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return i * i


class Many(Squares):
    """Takes many at once, and remembers the calls."""

    def __init__(self, n):
        super().__init__(n)
        self.calls = []

    def __getitems__(self, indices):
        self.calls.append(list(indices))
        return [i * i for i in indices]


class Count(own.IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))

    def __len__(self):
        return self.n


# ---- data sets made of others
def test_sum_and_concatenation():
    both = Squares(3) + Squares(2)
    assert isinstance(both, own.ConcatDataset) and list(both) == [0, 1, 4, 0, 1]
    assert both.cumulative_sizes == [3, 5] and both[-1] == 1 and both[-5] == 0
    assert list(both + Squares(1)) == [0, 1, 4, 0, 1, 0]
    assert list(own.ConcatDataset([Squares(0), Squares(2), Squares(0), Squares(1)])) == [0, 1, 0]
    with pytest.raises(IndexError):
        both[5]
    assert [b.tolist() for b in own.DataLoader(both, 2)] == [[0, 1], [4, 0], [1]]


def test_chain():
    chain = Count(2) + Count(3)
    assert isinstance(chain, own.ChainDataset) and list(chain) == [0, 1, 0, 1, 2] and len(chain) == 5
    loader = own.DataLoader(chain, 2)
    assert [b.tolist() for b in loader] == [[0, 1], [0, 1], [2]] and len(loader) == 3
    assert len(own.DataLoader(chain, 2, drop_last=True)) == 2 and len(own.DataLoader(chain, None)) == 5
    with pytest.raises(TypeError):
        len(own.DataLoader(own.IterableDataset()))
    with pytest.raises(TypeError, match="should implement __iter__"):
        list(own.DataLoader(own.IterableDataset()))


def test_stack():
    many = Many(3)
    stacked, named = own.StackDataset(many, Squares(3)), own.StackDataset(a=many, b="xyz")
    assert stacked[2] == (4, 4) and named[1] == {"a": 1, "b": "y"} and len(stacked) == len(named) == 3
    assert stacked.__getitems__([2, 0]) == [(4, 4), (0, 0)]
    assert named.__getitems__([2, 0]) == [{"a": 4, "b": "z"}, {"a": 0, "b": "x"}]
    assert many.calls == [[2, 0], [2, 0]]
    many.__class__ = type("Short", (Many,), {"__getitems__": lambda self, indices: [1]})
    with pytest.raises(ValueError, match="1 samples for 2 indices"):
        stacked.__getitems__([2, 0])


def test_subset():
    many = Many(9)
    part = own.Subset(many, [8, 2, 4])
    assert len(part) == 3 and part[1] == 4 and list(part) == [64, 4, 16]
    assert [b.tolist() for b in own.DataLoader(part, 2)] == [[64, 4], [16]] and many.calls == [[8, 2], [4]]
    assert own.Subset(tl.arange(9) * 2, [8, 2])[[1, 0]].tolist() == [4, 16]
    with pytest.raises(NotImplementedError, match="__getitems__"):
        type("Half", (own.Subset,), {"__getitem__": lambda self, i: 0})(many, [0])


def test_subsets_of_tensors_are_gathered():
    whole = own.TensorDataset(tl.arange(10) * 2, tl.arange(20).reshape(10, 2))
    part = own.Subset(own.Subset(whole, [9, 1, 5, 3]), [3, 0])
    want = [[6, 18], [[6, 7], [18, 19]]]
    assert [t.tolist() for t in next(iter(own.DataLoader(part, 2)))] == want
    whole.__class__ = type(
        "Slow", (own.TensorDataset,), {"__getitem__": lambda self, i: tuple(t[i] for t in self.tensors)}
    )
    assert [t.tolist() for t in next(iter(own.DataLoader(part, 2)))] == want


SPLITS = [
    (10, [3, 7]),
    (10, [0, 10]),
    (10, [0.5, 0.5]),
    (10, [0.34, 0.33, 0.33]),
    (17, [0.1, 0.2, 0.7]),
    (1, [0.5, 0.5]),
    (1, [1]),
    (0, [0.5, 0.5]),
    (0, [0]),
    (10, [3, 6]),
    (10, [0.5, 0.4]),
    (10, [1.5, -0.5]),
    (10, [0.6, 0.6]),
    (3, [5, -2]),
]


def split_outcome(data, size, lengths):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parts = data.random_split(range(size), lengths)
        except (ValueError, RuntimeError, TypeError) as error:
            return next(c for c in (ValueError, TypeError, RuntimeError) if isinstance(error, c))
    return [len(part) for part in parts], sorted(x for part in parts for x in part), len(caught)


def test_random_split():
    whole = list(range(10))
    assert split_outcome(own, 10, [0.34, 0.33, 0.33]) == ([4, 3, 3], whole, 0)
    assert split_outcome(own, 1, [0.5, 0.5]) == ([1, 0], [0], 1)
    assert split_outcome(own, 10, [3, 6]) is ValueError

    def drawn(seed):
        return [list(part) for part in own.random_split(whole, [4, 6], generator=tl.Generator().manual_seed(seed))]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parity
@pytest.mark.parametrize("size, lengths", SPLITS, ids=str)
def test_random_split_parity(size, lengths):
    theirs = pytest.importorskip("torch.utils.data")
    assert split_outcome(own, size, lengths) == split_outcome(theirs, size, lengths)


REFUSALS = {
    "nothing to concatenate": lambda data: data.ConcatDataset([]),
    "a stream concatenated": lambda data: data.ConcatDataset([stream(data)]),
    "before the first": lambda data: data.ConcatDataset([range(2)])[-3],
    "behind the last": lambda data: data.ConcatDataset([range(2)])[2],
    "indices chained": lambda data: list(data.ChainDataset([range(2)])),
    "length of indices chained": lambda data: len(data.ChainDataset([range(2)])),
    "nothing to stack": lambda data: data.StackDataset(),
    "stacked both ways": lambda data: data.StackDataset(range(2), a=range(2)),
    "stacked unequal": lambda data: data.StackDataset(range(2), range(3)),
    "stacked unequal by name": lambda data: data.StackDataset(a=range(2), b=range(3)),
    "a stream without __iter__": lambda data: list(data.DataLoader(data.IterableDataset())),
    "a shuffled stream": lambda data: data.DataLoader(stream(data), shuffle=True),
    "a stream with a sampler": lambda data: data.DataLoader(stream(data), sampler=[0]),
    "a stream with batches": lambda data: data.DataLoader(stream(data), batch_sampler=[[0]]),
    "no length": lambda data: len(data.DataLoader(stream(data))),
    "no samples": lambda data: data.WeightedRandomSampler([1.0], 0),
    "samples that are a bool": lambda data: data.WeightedRandomSampler([1.0], True),
    "replacement that is no bool": lambda data: data.WeightedRandomSampler([1.0], 1, 1),
    "weights in two dimensions": lambda data: data.WeightedRandomSampler([[1.0]], 1),
    "more than there are": lambda data: list(data.WeightedRandomSampler([1.0], 2, False)),
    "negative weights": lambda data: list(data.WeightedRandomSampler([-1.0, 2.0], 2)),
    "an item of Dataset": lambda data: data.Dataset()[0],
    "workers below 0": lambda data: data.DataLoader([1], num_workers=-1),
    "a context without workers": lambda data: data.DataLoader([1], multiprocessing_context="spawn"),
    "an unknown context": lambda data: data.DataLoader([1], num_workers=1, multiprocessing_context="thread"),
    "a context of another type": lambda data: data.DataLoader([1], num_workers=1, multiprocessing_context=3),
    "prefetch without workers": lambda data: data.DataLoader([1], prefetch_factor=2),
    "prefetch below 0": lambda data: data.DataLoader([1], num_workers=1, prefetch_factor=-1),
    "workers set to stay": lambda data: setattr(data.DataLoader([1]), "persistent_workers", True),
}


def stream(data):
    return type("Stream", (data.IterableDataset,), {"__iter__": lambda self: iter([1, 2])})()


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    with pytest.raises((ValueError, TypeError, RuntimeError, AssertionError, IndexError)):
        REFUSALS[name](own)


@pytest.mark.parity
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_parity(name):
    theirs = pytest.importorskip("torch.utils.data")
    with pytest.raises(Exception) as theirs_raised:
        REFUSALS[name](theirs)
    with pytest.raises(theirs_raised.type):
        REFUSALS[name](own)


# ---- samplers
def test_subset_random_sampler():
    sampler = own.SubsetRandomSampler([7, 1, 5], generator=tl.Generator().manual_seed(0))
    draws = [list(sampler) for _ in range(8)]
    assert all(sorted(d) == [1, 5, 7] for d in draws) and len({*map(tuple, draws)}) > 1 and len(sampler) == 3


def test_weighted_random_sampler():
    sampler = own.WeightedRandomSampler([0.0, 1.0, 3.0], 8000, generator=tl.Generator().manual_seed(0))
    counts = np.bincount(list(sampler), minlength=3)
    assert counts[0] == 0 and abs(counts[2] / 8000 - 0.75) < 0.03 and len(sampler) == 8000
    once = own.WeightedRandomSampler(np.array([1, 2, 3]), 3, replacement=False)
    assert all(sorted(once) == [0, 1, 2] for _ in range(5))
    first = [next(iter(own.WeightedRandomSampler([1.0, 3.0], 1, False))) for _ in range(1000)]
    assert abs(np.mean(first) - 0.75) < 0.05


@pytest.mark.parity
def test_streams_with_workers_parity():
    theirs = pytest.importorskip("torch.utils.data")

    def rows(data, **options):
        def read(self):
            info = data.get_worker_info()
            return iter(range(info.id, 12, info.num_workers))

        kind = type("Shares", (data.IterableDataset,), {"__iter__": read})
        return [batch.tolist() for batch in data.DataLoader(kind(), 3, num_workers=2, **options)]

    for options in ({}, {"drop_last": True}, {"prefetch_factor": 1}):
        assert rows(own, **options) == rows(theirs, **options)
