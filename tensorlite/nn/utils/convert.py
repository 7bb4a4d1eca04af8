"""Parameters as one vector, and back. Floor 5."""

from __future__ import annotations

from collections.abc import Iterable

from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.join import cat


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters laid end to end.

    >>> import tensorlite as tl
    >>> tl.nn.utils.parameters_to_vector(tl.nn.Linear(3, 2).parameters()).shape
    tensorlite.Size([8])
    """
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make pieces of ``vec`` the data of the parameters, in their order."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected Tensor, but got: {type(vec).__name__}")
    at = 0
    for p in parameters:
        p.data = vec[at : at + p.numel()].view(p.shape).data
        at += p.numel()
