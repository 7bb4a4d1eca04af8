"""Batches from samples: what ``DataLoader`` does with a list of them unless told otherwise. Floor 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import float64
from tensorlite.ops.create import as_tensor, tensor
from tensorlite.ops.join import stack


def default_collate(batch: Sequence) -> Any:
    """One batch from a list of samples of one structure.

    Tensors and arrays are stacked along a new first dimension; Python floats become a float64 tensor, ints int64,
    bools bool; strings stay a list; mappings, named tuples and sequences are collated entry by entry (a tuple becomes
    a list).

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ['a', 'b']]

    Raises:
        TypeError: for anything else.
        RuntimeError: where samples differ in size.
    """
    if not len(batch):
        raise IndexError("default_collate: got no samples; wanted at least one")
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, (np.ndarray, np.generic)) and not isinstance(first, (str, bytes)):
        if first.dtype.kind not in "USOMm":  # ml_dtypes' bfloat16 is of kind V
            return stack([as_tensor(a) for a in batch])
    elif isinstance(first, float):
        return tensor(list(batch), dtype=float64)
    elif isinstance(first, int):
        return tensor(list(batch))
    elif isinstance(first, (str, bytes)):
        return list(batch)
    elif isinstance(first, Mapping):
        return _mapping(first, {key: default_collate([sample[key] for sample in batch]) for key in first})
    elif isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(default_collate, zip(*batch)))
    elif isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError(
                f"default_collate: samples of {sorted({len(s) for s in batch})} entries; each element in list of batch "
                "should be of equal size"
            )
        columns = [default_collate(column) for column in zip(*batch)]
        return columns if isinstance(first, (tuple, list)) else _sequence(first, columns)
    found = f"an array of {first.dtype}" if isinstance(first, np.ndarray) else str(type(first))
    raise TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, strings, dicts or lists; found {found}"
    )


def default_convert(data: Any) -> Any:
    """Arrays inside ``data`` as tensors, the rest unchanged: used where a loader makes no batches.

    >>> import numpy as np
    >>> default_convert([np.arange(2), "a"])
    [tensor([0, 1]), 'a']
    """
    if isinstance(data, (np.ndarray, np.generic)) and data.dtype.kind not in "USOMm":
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _mapping(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple):
        converted = [default_convert(value) for value in data]
        return type(data)(*converted) if hasattr(data, "_fields") else converted
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _sequence(data, [default_convert(value) for value in data])
    return data


def _mapping(like: Mapping, items: dict) -> Any:
    try:
        return type(like)(items)  # type: ignore[call-arg]
    except TypeError:  # a mapping class with a constructor of its own, such as defaultdict
        return items


def _sequence(like: Sequence, items: list) -> Any:
    try:
        return type(like)(items)  # type: ignore[call-arg]
    except TypeError:  # such as range
        return items
