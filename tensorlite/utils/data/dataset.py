"""Data sets: things with a length, from which an index takes a sample. Floor 5."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from tensorlite.autograd.tensor import Tensor

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


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Tensors of equal length: sample ``i`` is the tuple of their ``i``-th entries along the first dimension.

    >>> import tensorlite as tl
    >>> TensorDataset(tl.arange(3), tl.arange(3) * 2)[1]
    (tensor(1), tensor(2))
    """

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor) -> None:
        sizes = [t.size(0) for t in tensors]
        # PyTorch raises by `assert` here; the class is kept so that programs that expect it go on working
        if any(n != sizes[0] for n in sizes):
            raise AssertionError(f"TensorDataset: size mismatch between tensors of lengths {sizes}; wanted equal ones")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].size(0)
