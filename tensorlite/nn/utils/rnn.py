"""Sequences of different lengths: packed, padded, and back. Floor 5.

A PackedSequence lays all first steps side by side, then all second steps, and so on, the longest sequence first: each
step is then one run of rows, and recurrent layers do no work on padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tensorlite.autograd import recording
from tensorlite.autograd.tensor import Tensor, from_array, placed
from tensorlite.errors import ShapeError
from tensorlite.ops.create import as_tensor, full
from tensorlite.ops.join import cat
from tensorlite.ops.rows import index_copy, index_select


class _Packed(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Packed):
    """Sequences without padding: ``data`` (all steps, *), ``batch_sizes`` (T,) how many sequences reach each step.

    ``sorted_indices`` says which sequence stands at each place, the longest first; ``unsorted_indices`` is its inverse.
    Both are None where the sequences came sorted. ``pack_padded_sequence`` and ``pack_sequence`` make one.
    """

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        if batch_sizes.device.type != "cpu":
            raise ValueError(
                "batch_sizes should always be on CPU. Instances of PackedSequence should never be created manually. "
                "They should be instantiated by functions like pack_sequence and pack_padded_sequence in nn.utils.rnn."
            )
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The same sequences with ``data.to(*args, **kwargs)``; itself where that changes nothing."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        order = (None if k is None else k.to(data.device) for k in (self.sorted_indices, self.unsorted_indices))
        return type(self)(data, self.batch_sizes, *order)

    def cpu(self) -> PackedSequence:
        return self.to(device="cpu")

    def cuda(self, device: Any = "cuda") -> PackedSequence:
        return self.to(device=device)

    def pin_memory(self) -> PackedSequence:
        return self

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda

    def is_pinned(self) -> bool:
        return False


def _converter(name: str) -> Any:
    def convert(self: PackedSequence) -> PackedSequence:
        return self.to(dtype=name)

    convert.__name__ = convert.__qualname__ = {"float32": "float", "float64": "double"}.get(name, name)
    convert.__doc__ = f"The same sequences with data of {name}."
    return convert


for _method, _name in dict(
    double="float64", float="float32", half="float16", long="int64", int="int32", short="int16", char="int8",
    byte="uint8",
).items():  # fmt: skip
    setattr(PackedSequence, _method, _converter(_name))


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes another; None for None.

    >>> import tensorlite as tl
    >>> tl.nn.utils.rnn.invert_permutation(tl.tensor([2, 0, 1]))
    tensor([1, 2, 0])
    """
    if permutation is None:
        return None
    return placed(_inverse(permutation.cpu()._arr), permutation.device)


def _inverse(order: Any) -> Any:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _places(sizes: Any) -> tuple[Any, Any]:
    """The (step, place in the batch) of each row of packed data."""
    starts = np.cumsum(sizes) - sizes
    step = np.repeat(np.arange(len(sizes)), sizes)
    return step, np.arange(len(step)) - starts[step]


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Padded sequences, (T, B, *) or with ``batch_first`` (B, T, *), as a PackedSequence.

    Args:
        lengths: of each sequence, a list or a tensor; each at least 1 and at most T.
        enforce_sorted: refuse lengths that are not in falling order; False sorts the sequences.

    >>> import tensorlite as tl
    >>> rnn = tl.nn.utils.rnn
    >>> packed = rnn.pack_padded_sequence(tl.tensor([[1, 2], [3, 0]]), [2, 1], batch_first=True)
    >>> packed.data, packed.batch_sizes
    (tensor([1, 3, 2]), tensor([2, 1]))
    """
    name = "pack_padded_sequence"
    recording.reading(name)
    counts = np.asarray(lengths.cpu()._arr if isinstance(lengths, Tensor) else lengths)
    shape = input._spec.shape
    if len(shape) < 2:
        raise IndexError(f"{name}: input {shape}; wanted (T, B, *), or (B, T, *) with batch_first")
    steps, batch = (shape[1], shape[0]) if batch_first else shape[:2]
    if counts.ndim != 1:
        raise ShapeError(f"{name}: 'lengths' argument should be a 1D CPU int64 tensor, but got {counts.ndim}D")
    counts = counts.astype(np.int64)
    if not batch:
        raise ShapeError(f"{name}: input {shape}; wanted at least one sequence (Cannot pack empty tensors.)")
    if len(counts) != batch:
        raise ShapeError(
            f"{name}: Expected `len(lengths)` to be equal to batch_size, but got {len(counts)} (batch_size={batch})"
        )
    order = None
    if not enforce_sorted:
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
    elif (counts[1:] > counts[:-1]).any():
        raise ShapeError(
            f"{name}: `lengths` array must be sorted in decreasing order when `enforce_sorted` is True; wanted that, "
            "or enforce_sorted=False"
        )
    if counts[-1] <= 0:
        raise ShapeError(
            f"{name}: Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if counts[0] > steps:
        raise ShapeError(f"{name}: a length of {counts[0]} for input {shape}; wanted at most {steps}")
    sizes = (counts[:, None] > np.arange(counts[0])).sum(0)
    step, place = _places(sizes)
    column = place if order is None else order[place]
    row = column * steps + step if batch_first else step * batch + column
    data = index_select(input.reshape(steps * batch, *shape[2:]), 0, placed(row, input.device))
    return PackedSequence(data, from_array(sizes), None if order is None else placed(order, input.device))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """(padded, lengths) of a PackedSequence: (T, B, *), or (B, T, *) with ``batch_first``, in the order before packing.

    Args:
        padding_value: what stands behind the end of each sequence.
        total_length: pad to so many steps, at least those of the longest.
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"pad_packed_sequence: got a {type(sequence).__name__}; wanted a PackedSequence")
    recording.reading("pad_packed_sequence")
    data, sizes = sequence.data, sequence.batch_sizes._arr
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} and max sequence length being {steps}"
            )
        steps = total_length
    step, place = _places(sizes)
    lengths = np.bincount(place, minlength=batch)
    if sequence.unsorted_indices is not None:
        back = sequence.unsorted_indices.cpu()._arr
        lengths = lengths[back]
        place = _inverse(back)[place]
    row = place * steps + step if batch_first else step * batch + place
    rest = data._spec.shape[1:]
    padded = full((steps * batch, *rest), padding_value, dtype=data.dtype, device=data.device)
    padded = index_copy(padded, 0, placed(row, padded.device), data)
    lead = (batch, steps) if batch_first else (steps, batch)
    return padded.reshape(*lead, *rest), from_array(lengths.astype(np.int64))


def pad_sequence(
    sequences: Iterable[Tensor] | Tensor,
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences (length, *) of different lengths as one tensor (T, B, *), or (B, T, *) with ``batch_first``.

    >>> import tensorlite as tl
    >>> tl.nn.utils.rnn.pad_sequence([tl.tensor([1, 2]), tl.tensor([3])], batch_first=True)
    tensor([[1, 2],
            [3, 0]])
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    given = list(sequences)
    if not given:
        raise ShapeError("pad_sequence: received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"pad_sequence: Expected padding_side to be one of left or right, but got {padding_side}.")
    rest = given[0]._spec.shape[1:]
    wrong = next((s._spec.shape for s in given if not s._spec.ndim or s._spec.shape[1:] != rest), None)
    if wrong is not None:
        raise ShapeError(f"pad_sequence: a sequence of shape {wrong}; wanted (length, {', '.join(map(str, rest))})")
    lengths = np.array([s._spec.shape[0] for s in given])
    steps = int(lengths.max())
    which = np.repeat(np.arange(len(given)), lengths)
    step = np.arange(len(which)) - (np.cumsum(lengths) - lengths)[which]
    if padding_side == "left":
        step += steps - lengths[which]
    row = which * steps + step if batch_first else step * len(given) + which
    padded = full((steps * len(given), *rest), padding_value, dtype=given[0].dtype, device=given[0].device)
    padded = index_copy(padded, 0, placed(row, padded.device), cat([s.to(padded.dtype) for s in given]))
    return padded.reshape(*((len(given), steps) if batch_first else (steps, len(given))), *rest)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences of a padded tensor (T, B, *), or (B, T, *) with ``batch_first``, cut to their lengths."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [row[: int(n)] for row, n in zip(rows.unbind(0), as_tensor(lengths).tolist())]


def pack_sequence(sequences: Iterable[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """A PackedSequence of sequences (length, *), the longest first unless ``enforce_sorted=False``.

    >>> import tensorlite as tl
    >>> tl.nn.utils.rnn.pack_sequence([tl.tensor([1, 2]), tl.tensor([3])]).data
    tensor([1, 3, 2])
    """
    given = list(sequences)
    return pack_padded_sequence(pad_sequence(given), [len(s) for s in given], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a PackedSequence, each (length, *), in the order before packing."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
