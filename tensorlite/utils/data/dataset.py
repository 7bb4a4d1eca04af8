"""Data sets: samples by index or as a stream, and data sets made of others. Floor 5."""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.random import Generator, randperm

T_co = TypeVar("T_co", covariant=True)


class Dataset(Generic[T_co]):
    """Base of data sets: a subclass defines ``__getitem__(index)`` and ``__len__()``.

    >>> from tensorlite.utils.data import Dataset
    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, i):
    ...         return i * i
    >>> Squares()[2]
    4
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"{type(self).__name__}: subclasses of Dataset should implement __getitem__")

    def __add__(self, other: Dataset[T_co]) -> ConcatDataset[T_co]:
        """This data set's samples, then the other's."""
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co], Iterable[T_co]):
    """Base of data sets that are read as a stream: a subclass defines ``__iter__``.

    With worker processes each of them reads a copy; ``get_worker_info`` tells a copy which share is its own.

    >>> from tensorlite.utils.data import DataLoader, IterableDataset
    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         return iter(range(3))
    >>> list(DataLoader(Count(), batch_size=2))
    [tensor([0, 1]), tensor([2])]
    """

    def __iter__(self) -> Iterator[T_co]:
        raise TypeError(f"{type(self).__name__}: not iterable; subclasses of IterableDataset should implement __iter__")

    def __add__(self, other: Dataset[T_co]) -> ChainDataset:  # type: ignore[override]  # as in PyTorch
        """This stream, then the other."""
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Tensors of equal length: sample ``i`` is the tuple of their ``i``-th entries along the first dimension.

    >>> import tensorlite as tl
    >>> TensorDataset(tl.arange(3), tl.arange(3) * 2)[1]
    (tensor(1), tensor(2))
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        for t in tensors:
            if not isinstance(t, Tensor) or not t.ndim:
                got = "a tensor without dimensions" if isinstance(t, Tensor) else f"a {type(t).__name__}"
                raise TypeError(f"TensorDataset: got {got}; wanted tensors whose first dimension counts the samples")
        sizes = [t.size(0) for t in tensors]
        # PyTorch raises by `assert` here; the class is kept so that programs that expect it go on working
        if any(n != sizes[0] for n in sizes):
            raise AssertionError(f"TensorDataset: size mismatch between tensors of lengths {sizes}; wanted equal ones")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].size(0)


class StackDataset(Dataset):
    """Data sets of equal length side by side: a sample is the tuple (or, given by name, the dict) of their samples.

    >>> StackDataset(range(3), "abc")[1]
    (1, 'b')
    >>> StackDataset(number=range(3), letter="abc")[1]
    {'number': 1, 'letter': 'b'}
    """

    datasets: tuple | dict

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args and kwargs:
            raise ValueError("StackDataset: got data sets with and without names; wanted one kind of them")
        if not args and not kwargs:
            raise ValueError("StackDataset: got none; at least one dataset should be passed")
        self.datasets = args or kwargs
        sizes = [len(d) for d in (args or kwargs.values())]
        if any(n != sizes[0] for n in sizes):
            raise ValueError(f"StackDataset: size mismatch between datasets of lengths {sizes}; wanted equal ones")
        self._length = sizes[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: d[index] for name, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __getitems__(self, indices: list) -> list:
        named = isinstance(self.datasets, dict)
        columns = [take_many(d, indices) for d in (self.datasets.values() if named else self.datasets)]
        for column in columns:
            if len(column) != len(indices):
                raise ValueError(
                    f"StackDataset: nested dataset's output size mismatch: {len(column)} samples for {len(indices)} "
                    "indices"
                )
        return [dict(zip(self.datasets, row)) if named else row for row in zip(*columns)]

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[T_co]):
    """Data sets one after the other.

    >>> both = ConcatDataset([range(3), range(10, 12)])
    >>> len(both), both[3], both[-1]
    (5, 10, 11)
    """

    datasets: list
    cumulative_sizes: list[int]

    def __init__(self, datasets: Iterable) -> None:
        self.datasets = list(datasets)
        # PyTorch asserts both; the class is kept
        if not self.datasets:
            raise AssertionError("ConcatDataset: datasets should not be an empty iterable")
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise AssertionError("ConcatDataset: does not support IterableDataset; wanted data sets with indices")
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, idx: int) -> T_co:
        if idx < -len(self):
            raise ValueError(
                f"ConcatDataset: index {idx}; absolute value of index should not exceed dataset length {len(self)}"
            )
        idx += len(self) if idx < 0 else 0
        if idx >= len(self):  # without this, iteration over a data set that takes any index would never end
            raise IndexError(f"ConcatDataset: index {idx}; wanted less than {len(self)}")
        k = bisect.bisect_right(self.cumulative_sizes, idx)
        return self.datasets[k][idx - (self.cumulative_sizes[k - 1] if k else 0)]


class ChainDataset(IterableDataset):
    """Streams one after the other."""

    def __init__(self, datasets: Iterable) -> None:
        self.datasets = datasets

    def _checked(self) -> Iterator:
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise AssertionError(f"ChainDataset: got {type(d).__name__}; only supports IterableDataset")
            yield d

    def __iter__(self) -> Iterator:
        for d in self._checked():
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self._checked())


class Subset(Dataset[T_co]):
    """The samples of a data set at certain indices.

    >>> Subset("abcde", [4, 0])[0]
    'e'
    """

    dataset: Any
    indices: Sequence[int]

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        own = type(self)
        if own.__getitem__ is not Subset.__getitem__ and own.__getitems__ is Subset.__getitems__:
            raise NotImplementedError(
                f"{own.__name__}: overrides __getitem__ but not __getitems__, which loaders call; wanted both"
            )
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, list):
            return self.dataset[[self.indices[i] for i in idx]]
        return self.dataset[self.indices[idx]]

    def __getitems__(self, indices: list[int]) -> list:
        return take_many(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def take_many(dataset: Any, indices: Sequence) -> list:
    """The samples at these indices, in one call where the data set has ``__getitems__``."""
    many: Callable | None = getattr(dataset, "__getitems__", None)
    return many(indices) if callable(many) else [dataset[i] for i in indices]


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None) -> list[Subset]:
    """Disjoint random parts of a data set.

    Args:
        lengths: sizes that sum to the whole, or fractions that sum to 1 (rounded down, then one more to each in turn
            until nothing is left over).
        generator: the source of randomness; default the global one.

    Raises:
        ValueError: where they do not sum to the whole, or a fraction is not between 0 and 1.

    >>> [len(part) for part in random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    size, sizes = len(dataset), list(lengths)
    if math.isclose(sum(sizes), 1) and sum(sizes) <= 1:
        for k, fraction in enumerate(sizes):
            if not 0 <= fraction <= 1:
                raise ValueError(f"random_split: fraction at index {k} is not between 0 and 1, but {fraction}")
        sizes = [math.floor(size * fraction) for fraction in sizes]
        for k in range(size - sum(sizes)):
            sizes[k % len(sizes)] += 1
        for k, n in enumerate(sizes):
            if n == 0:
                warnings.warn(
                    f"random_split: length of split at index {k} is 0. This might result in an empty dataset.",
                    stacklevel=2,
                )
    if sum(sizes) != size:
        raise ValueError(
            f"random_split: lengths {sizes} for {size} samples; sum of input lengths does not equal the length of the "
            "input dataset!"
        )
    order, ends = randperm(size, generator=generator).tolist(), itertools.accumulate(sizes)
    return [Subset(dataset, order[end - n : end]) for n, end in zip(sizes, ends)]
