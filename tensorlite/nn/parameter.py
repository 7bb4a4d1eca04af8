"""Parameter and Buffer: tensors that a Module finds by their type. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.node import Leaf
from tensorlite.autograd.tensor import Tensor, new
from tensorlite.errors import GradError
from tensorlite.ops.create import empty


def _share(cls: type, t: Tensor) -> Any:
    """An object of ``cls`` on the storage and version cell of ``t``, without history."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{cls.__name__}: got {type(t).__name__}; wanted a Tensor (tensorlite.tensor makes one)")
    made = new(cls)
    made._arr, made._spec, made._ver = t._arr, t._spec, t._ver
    made._node = made._view = None
    return made


class Parameter(Tensor):
    """A tensor that a Module registers as one of its parameters when it is set as an attribute.

    It shares the data of the tensor it is made from, and requires a gradient unless told otherwise.

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.zeros(2))
    >>> w.requires_grad, w.is_leaf
    (True, True)
    """

    __slots__ = ()

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        return cls._from_tensor(empty(0) if data is None else data, requires_grad)

    @classmethod
    def _from_tensor(cls, t: Tensor, requires_grad: bool) -> Parameter:
        p = _share(cls, t)
        if requires_grad:
            if not p._spec.dtype.is_floating_point:
                raise GradError(
                    f"Parameter: got {p._spec}; wanted a floating-point dtype, or requires_grad=False "
                    "(only Tensors of floating point dtype can require gradients)"
                )
            p._node = Leaf(p)
        recording.parameters[id(p)] = p
        return p

    def __repr__(self) -> str:
        return "Parameter containing:\n" + Tensor.__repr__(self)


class Buffer(Tensor):
    """A tensor that a Module registers as one of its buffers when it is set as an attribute."""

    __slots__ = ()

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        made = _share(cls, empty(0) if data is None else data)
        made.persistent = persistent
        return made

    @classmethod
    def _from_tensor(cls, t: Tensor, requires_grad: bool) -> Buffer:
        made = _share(cls, t)
        return made.requires_grad_() if requires_grad else made
