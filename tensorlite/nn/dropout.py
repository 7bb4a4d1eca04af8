"""Dropout. Floor 5."""

from __future__ import annotations

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn.module import Module
from tensorlite.ops.random import alpha_dropout, dropout, dropout1d, dropout2d


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training each element becomes zero with probability p, and the others grow by 1 / (1 - p)."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """In training whole channels of (N, C, H, W) become zero with probability p, and the others grow by 1 / (1 - p)."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout2d(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """In training whole channels of (N, C, L) or (C, L) become zero with probability p, the others grow."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout1d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """In training each element becomes SELU's lowest value with probability p; mean 0 and variance 1 stay."""

    def forward(self, input: Tensor) -> Tensor:
        return alpha_dropout(input, self.p, self.training, self.inplace)
