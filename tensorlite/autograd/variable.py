"""Variable: PyTorch's older name for a tensor that may want a gradient. Floor 2."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.tensor import Tensor


class _IsTensor(type):
    def __call__(cls, data: Tensor, requires_grad: bool = False) -> Tensor:
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable: data has to be a tensor, but got {type(data).__name__}")
        return data.detach().requires_grad_() if requires_grad else data.detach()

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Tensor)


class Variable(metaclass=_IsTensor):
    """``Variable(x, requires_grad)`` is x as a leaf of its own with the same memory; every Tensor is a Variable.

    >>> import tensorlite as tl
    >>> tl.autograd.Variable(tl.ones(2), requires_grad=True)
    tensor([1., 1.], requires_grad=True)
    """
