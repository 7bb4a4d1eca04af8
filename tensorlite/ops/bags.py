"""Bags of embeddings: the rows of a table that one index list names, summed, averaged or their largest. Floor 3."""

from __future__ import annotations

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd import recording
from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.errors import ShapeError
from tensorlite.ops.rows import embedding, index_add
from tensorlite.ops.shape import reshape


@op(torch="nn.functional.embedding_bag")
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """One row for each bag of indices: the sum, mean or maximum of the rows of weight (V, D) that it names: (B, D).

    input (B, N) holds B bags of N indices; input (N,) all bags in a row, and ``offsets`` (B,) where each begins. A bag
    without indices gives zeros.

    Args:
        mode: "sum", "mean" or "max".
        per_sample_weights: a factor for each index, with "sum" only.
        include_last_offset: offsets has one number more, the end of the last bag.
        padding_idx: indices that do not count.

    >>> import tensorlite as tl
    >>> table = tl.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> embedding_bag(tl.tensor([0, 1, 2]), table, tl.tensor([0, 2]))
    tensor([[2., 3.],
            [5., 6.]])
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode {mode!r}; mode has to be one of sum, mean or max")
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"embedding_bag: per_sample_weights with mode {mode!r}; wanted mode='sum'")
        if per_sample_weights._spec.shape != input._spec.shape:
            raise ValueError(
                f"embedding_bag: per_sample_weights {per_sample_weights._spec.shape} for input {input._spec.shape}; "
                "expected the same shape"
            )
    if mode == "max" and scale_grad_by_freq:
        raise NotImplementedError("embedding_bag: max mode does not support scaling the gradient by the frequency")
    starts, bags = _bags(input, offsets, include_last_offset)
    flat, n = reshape(input, (-1,)), input._spec.size
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    padding = None if padding_idx is None else padding_idx % weight._spec.shape[0]
    counts = None if padding is None else flat != padding
    if mode == "max":
        return _largest(rows, counts, starts, n, bags)
    # the bag of each index: how many bags have begun at it or before
    begun = index_add(input.new_zeros(n + 1, dtype=dtypes.int64), 0, starts, starts.new_ones(bags, dtype=dtypes.int64))
    bag = begun.cumsum(0)[:n] - 1
    if per_sample_weights is not None:
        rows = rows * reshape(per_sample_weights, (-1, 1))
    if counts is not None:
        rows = rows * counts.unsqueeze(-1).to(rows.dtype)
    total = index_add(rows.new_zeros(bags, weight._spec.shape[1]), 0, bag, rows)
    if mode == "sum":
        return total
    ones = rows.new_ones(n) if counts is None else counts.to(rows.dtype)
    return total / index_add(rows.new_zeros(bags), 0, bag, ones).clamp(min=1).unsqueeze(-1)


def _bags(input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[Tensor, int]:
    """Where each bag begins, and how many there are."""
    if input._spec.ndim == 2:
        if offsets is not None:
            raise ValueError("embedding_bag: got 2-D input and offsets; if input is 2D, then offsets has to be None")
        b, n = input._spec.shape
        return placed(np.arange(b) * n, input.device), b
    if input._spec.ndim != 1:
        raise ValueError(f"embedding_bag: input has {input._spec.ndim} dimensions; input has to be 1D or 2D Tensor")
    if offsets is None or offsets._spec.ndim != 1:
        given = "None" if offsets is None else f"{offsets._spec.ndim} dimensions"
        raise ValueError(f"embedding_bag: offsets is {given}; offsets has to be a 1D Tensor where input is")
    if include_last:
        if not offsets._spec.size:
            raise RuntimeError("embedding_bag: include_last_offset: number of offsets should be at least 1")
        offsets = offsets[:-1]
    recording.reading("embedding_bag with offsets")
    at = offsets.cpu()._arr
    if at.size and (at[0] != 0 or (np.diff(at) < 0).any() or at[-1] > input._spec.size):
        raise ShapeError(
            f"embedding_bag: offsets {at.tolist()[:8]} for {input._spec.size} indices; offsets[0] has to be 0, and "
            "none less than the one before or more than the number of indices"
        )
    return offsets, offsets._spec.size


def _largest(rows: Tensor, counts: Tensor | None, starts: Tensor, n: int, bags: int) -> Tensor:
    """The maximum of each bag's rows, which are laid side by side, filled up to the longest bag."""
    begin = starts.cpu()._arr
    lengths = np.diff(begin, append=n)
    steps = np.arange(max(int(lengths.max(initial=0)), 1))
    there = steps < lengths[:, None]
    if not n:
        return rows.new_zeros(bags, rows._spec.shape[1])
    place = placed(np.where(there, begin[:, None] + steps, 0), rows.device)
    within = placed(there, rows.device)
    if counts is not None:
        within = within & counts[place]
    y = rows[place].masked_fill(~within.unsqueeze(-1), -float("inf")).max(1)[0]
    return y.masked_fill(~within.any(1).unsqueeze(-1), 0)


@embedding_bag.cases
def _(make):
    flat, at = make.tensor([1, 3, 0, 2, 2, 3], dtypes.int64), make.tensor([0, 2, 2, 5], dtypes.int64)
    ends = make.tensor([0, 2, 2, 6], dtypes.int64)
    for mode in ("mean", "sum", "max"):
        yield dict(input=make.ints(3, 4, high=5), weight=make.distinct(5, 2), mode=mode)
        yield dict(input=flat, weight=make.distinct(4, 3), offsets=at, mode=mode)
        yield dict(input=flat, weight=make.distinct(4, 3), offsets=ends, mode=mode, include_last_offset=True)
    yield dict(input=flat, weight=make(4, 3), offsets=at, mode="sum", per_sample_weights=make(6))
    yield dict(input=make.ints(0), weight=make(4, 3), offsets=make.tensor([0, 0], dtypes.int64))
    yield ValueError, dict(input=flat, weight=make(4, 3))
    yield ValueError, dict(input=make.ints(2, 2), weight=make(4, 3), offsets=at)
    yield ValueError, dict(input=flat, weight=make(4, 3), offsets=at, mode="min")
    yield RuntimeError, dict(input=flat, weight=make(4, 3), offsets=make.tensor([1, 2], dtypes.int64))
    yield NotImplementedError, dict(input=flat, weight=make(4, 3), offsets=at, per_sample_weights=make(6))


@embedding_bag.ref
def _(input, weight, offsets=None, mode="mean", per_sample_weights=None, include_last_offset=False):
    if offsets is None:
        bags = [list(row) for row in input]
        places = None
    else:
        ends = [*offsets[1:], len(input)]
        places = [list(range(a, b)) for a, b in zip(offsets, ends)][: len(offsets) - include_last_offset]
        bags = [[input[k] for k in p] for p in places]
    how = {"mean": np.average, "sum": np.sum, "max": np.max}[mode]
    y = np.zeros((len(bags), weight.shape[1]))
    for b, bag in enumerate(bags):
        if bag:
            rows = weight[np.array(bag)]
            y[b] = how(rows if per_sample_weights is None else rows * per_sample_weights[places[b], None], axis=0)
    return y
