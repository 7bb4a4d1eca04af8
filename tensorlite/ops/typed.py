"""PyTorch's older names for tensors of one element type: LongTensor, FloatTensor and so on. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import method
from tensorlite.autograd.tensor import Tensor
from tensorlite.ops.create import empty, tensor
from tensorlite.shapes import Size


class _OfType(type):
    """Calling such a class makes a Tensor of its dtype, and every Tensor of that dtype is an instance."""

    dtype: Any

    def __call__(cls, *args: Any) -> Tensor:
        data = args[0] if len(args) == 1 else None
        if isinstance(data, Tensor):
            if data.dtype is not cls.dtype:
                raise TypeError(f"{cls.__name__}: got a tensor of {data.dtype.name}; expected {cls.dtype.name}")
            return data.detach()
        if isinstance(data, float):
            raise TypeError(f"{cls.__name__}: got {data}; data must be a sequence or sizes")
        if isinstance(data, (list, tuple, np.ndarray)) and not isinstance(data, Size):
            return tensor(np.asarray(data).astype(cls.dtype.np))
        return empty(*(args or (0,)), dtype=cls.dtype)

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Tensor) and x._spec.dtype is cls.dtype


def _of_type(name: str, dtype: Any) -> _OfType:
    doc = f"``{name}(2, 3)`` is an empty {dtype.name} tensor of that shape, ``{name}([1, 2])`` holds the data."
    return _OfType(name, (), {"dtype": dtype, "__doc__": doc, "__module__": "tensorlite"})


DoubleTensor = _of_type("DoubleTensor", dtypes.float64)
FloatTensor = _of_type("FloatTensor", dtypes.float32)
HalfTensor = _of_type("HalfTensor", dtypes.float16)
BFloat16Tensor = _of_type("BFloat16Tensor", dtypes.bfloat16)
LongTensor = _of_type("LongTensor", dtypes.int64)
IntTensor = _of_type("IntTensor", dtypes.int32)
ShortTensor = _of_type("ShortTensor", dtypes.int16)
CharTensor = _of_type("CharTensor", dtypes.int8)
ByteTensor = _of_type("ByteTensor", dtypes.uint8)
BoolTensor = _of_type("BoolTensor", dtypes.bool)

_TYPES = {
    t.dtype: t
    for t in (
        *(DoubleTensor, FloatTensor, HalfTensor, BFloat16Tensor, LongTensor),
        *(IntTensor, ShortTensor, CharTensor, ByteTensor, BoolTensor),
    )
}
_NAMES = {t.__name__: d for d, t in _TYPES.items()}


@method()
def type(self: Tensor, dtype: Any = None) -> Any:
    """The name of the tensor's type, or with a dtype, a class such as ``LongTensor`` or its name the tensor in it.

    >>> import tensorlite as tl
    >>> tl.ones(2).type(), tl.ones(2).type(tl.LongTensor)
    ('tensorlite.FloatTensor', tensor([1, 1]))
    """
    if dtype is None:
        return f"tensorlite.{_TYPES[self.dtype].__name__}"
    if isinstance(dtype, _OfType):
        dtype = dtype.dtype
    elif isinstance(dtype, str):  # 'torch.LongTensor'
        dtype = _NAMES.get(dtype.rpartition(".")[2], dtype)
    return self.to(dtype)


@method()
def new(self: Tensor, *args: Any) -> Tensor:
    """A tensor of this one's dtype: ``x.new(2, 3)`` empty, ``x.new([1, 2])`` with data."""
    return _TYPES[self.dtype](*args)
