"""Tensors from data, from nothing, and from NumPy and DLPack. Floor 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd import recording
from tensorlite.autograd.methods import attach_method, method
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, PRESERVE, STRIDED, asked_format, format_like, spec_of
from tensorlite.autograd.tensor import Tensor, from_array, placed, wrap
from tensorlite.autograd.weak import lift
from tensorlite.backends import CPU, backend, located
from tensorlite.dtypes import as_dtype, dtype, get_default_dtype
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.shape import expand
from tensorlite.ops.slices import overwrite_p
from tensorlite.shapes import Size, size_args


# ---- filled
@primitive(name="fill", torch=None, alias="elementwise")
def fill_p(xp, x, w, out):
    """A tensor like x in which every element is w, a tensor of one element."""
    xp.copyto(out, w.reshape(()), casting="unsafe")


fill_p.spec(lambda x, w: x.like(*x.shape))
fill_p.grad(x=lambda g: g.new_zeros(g._spec.shape), w=lambda g, w_spec: g.sum().to(w_spec.dtype).reshape(w_spec.shape))


@fill_p.cases
def _(make):
    yield dict(x=make(2, 3), w=make())
    yield dict(x=make(0, 3), w=make())


fill_p.ref(lambda x, w: x * 0 + w)


def _filled(shape: tuple, value: Any, dtype: Any, device: Any, requires_grad: bool, format: str = CONTIGUOUS) -> Tensor:
    d = get_default_dtype() if dtype is None else as_dtype(dtype)
    if any(n < 0 for n in shape):
        raise ShapeError(f"sizes {shape}: trying to create tensor with negative dimension")
    spec = spec_of(shape, d, located(device), format)
    array = spec.empty()
    if value is not None:
        array.fill(value)
    recording.made(array)
    t = wrap(array, spec)
    return t.requires_grad_() if requires_grad else t


def empty(
    *size: Any,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Uninitialised values."""
    shape = size_args("empty", size)
    format = CONTIGUOUS if memory_format is None else asked_format("empty", memory_format, len(shape))
    if format is PRESERVE:
        raise RuntimeError("empty: got memory_format preserve_format; unsupported memory format without a tensor")
    return _filled(shape, None, dtype, device, requires_grad, format)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, out: Any = None) -> Tensor:
    """Zeros: ``zeros(2, 3)`` or ``zeros((2, 3))``.

    >>> import tensorlite as tl
    >>> tl.zeros(2, 2, dtype=tl.int64)
    tensor([[0, 0],
            [0, 0]])
    """
    return _filled(size_args("zeros", size), 0, dtype, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, out: Any = None) -> Tensor:
    """Ones: ``ones(2, 3)`` or ``ones((2, 3))``."""
    return _filled(size_args("ones", size), 1, dtype, device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One value everywhere; its kind gives the dtype unless one is said."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    if dtype is None:
        dtype = {bool: dtypes.bool, int: dtypes.int64}.get(type(fill_value), get_default_dtype())
    return _filled(size_args("full", (size,)), fill_value, dtype, device, requires_grad)


def _like(fill: Any, name: str):
    def like(
        input: Tensor,
        *args: Any,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        value = args[0] if name == "full_like" else fill
        spec = input._spec
        format = spec.format
        if memory_format is not None or format is STRIDED:
            format = format_like(name, memory_format, spec)
        return _filled(spec.shape, value, dtype or spec.dtype, device or spec.device, requires_grad, format)

    like.__name__ = like.__qualname__ = name
    like.__doc__ = f"``{name.removesuffix('_like')}`` with the shape, dtype and device of a tensor."
    return like


empty_like, zeros_like, ones_like, full_like = (
    _like(v, n) for v, n in ((None, "empty_like"), (0, "zeros_like"), (1, "ones_like"), (None, "full_like"))
)


def _new(fill: Any, name: str):
    def new(
        self: Tensor,
        *size: Any,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        fill_value: Any = None,
    ) -> Tensor:
        value = fill
        if name == "new_full":
            size, value = (size[0],), fill_value if fill_value is not None else size[1]
        return _filled(
            size_args(name, size), value, dtype or self._spec.dtype, device or self._spec.device, requires_grad
        )

    new.__name__ = new.__qualname__ = name
    new.__doc__ = f"``{name.removeprefix('new_')}`` with the dtype and device of this tensor."
    attach_method(name, new)


for _value, _name in ((None, "new_empty"), (0, "new_zeros"), (1, "new_ones"), (None, "new_full")):
    _new(_value, _name)


def arange(
    *args: Any,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    out: Any = None,
) -> Tensor:
    """Numbers from start (0) up to but not including end, ``step`` apart; int64 if all three are integers.

    >>> import tensorlite as tl
    >>> tl.arange(1, 4)
    tensor([1, 2, 3])
    """
    if len(args) == 1:
        first, last = (0 if start is None else start), args[0]
    elif args:
        first, last, *rest = args
        step = rest[0] if rest else step
    else:
        first, last = (0 if start is None else start), end
    numbers = [v.item() if isinstance(v, Tensor) else v for v in (first, last, step)]
    if numbers[2] == 0:
        raise RuntimeError("arange: step must be nonzero")
    if (numbers[1] - numbers[0]) * numbers[2] < 0:
        raise RuntimeError(
            f"arange: start {numbers[0]}, end {numbers[1]}, step {numbers[2]}; upper bound and lower "
            "bound inconsistent with step sign"
        )
    if dtype is None:
        dtype = dtypes.int64 if all(isinstance(v, (int, np.integer)) for v in numbers) else get_default_dtype()
    d = as_dtype(dtype, "arange")
    n = math.ceil((numbers[1] - numbers[0]) / numbers[2])
    wide = np.int64 if d.category != dtypes.FLOAT else np.float64
    if (place := located(device)) is CPU:
        array = (np.arange(n, dtype=wide) * np.asarray(numbers[2], wide) + np.asarray(numbers[0], wide)).astype(d.np)
    else:  # made there: nothing to copy
        array = (backend(place).xp.arange(n, dtype=wide) * wide(numbers[2]) + wide(numbers[0])).astype(d.np)
    return from_array(array, requires_grad, place)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """``steps`` numbers from start to end, both included, evenly apart."""
    a, b = (float(v) for v in (start, end))
    d = get_default_dtype() if dtype is None else as_dtype(dtype)
    return placed(np.linspace(a, b, steps).astype(d.np), device, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The identity matrix, n by n or n by m."""
    d = get_default_dtype() if dtype is None else as_dtype(dtype)
    return placed(np.eye(n, m).astype(d.np), device, requires_grad)


# ---- from data
def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A new tensor with a copy of ``data``: numbers, nested lists, NumPy arrays, tensors.

    Python floats become the default dtype (float32), ints int64, bools bool; arrays keep their dtype.

    >>> import tensorlite as tl
    >>> tl.tensor([[1, 2], [3, 4.5]])
    tensor([[1.0000, 2.0000],
            [3.0000, 4.5000]])
    """
    if isinstance(data, Tensor) and (device is not None or data._spec.device is not CPU):
        made = data.detach().to(device=data._spec.device if device is None else device, dtype=dtype, copy=True)
        return made.requires_grad_() if requires_grad else made
    return placed(_array(data, None if dtype is None else as_dtype(dtype, "tensor"), copy=True), device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of ``data``, without a copy where it is a tensor or array of that dtype already."""
    if isinstance(data, Tensor):
        return data if dtype is None and device is None else data.to(dtype=dtype, device=device)
    return placed(_array(data, None if dtype is None else as_dtype(dtype, "as_tensor"), copy=False), device, False)


asarray = as_tensor


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: expected np.ndarray (got {type(ndarray).__name__})")
    if not ndarray.dtype.isnative:
        raise DTypeError(f"from_numpy: byte order of {ndarray.dtype} is not this machine's; call .astype first")
    if ndarray.dtype not in dtype.of_numpy:
        raise TypeError(
            f"from_numpy: can't convert np.ndarray of type {ndarray.dtype}; the supported types are: "
            f"{', '.join(dtype.known)}."
        )
    return from_array(ndarray)


def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A 1-d tensor on the memory of a buffer."""
    return from_array(np.frombuffer(buffer, as_dtype(dtype).np, count, offset), requires_grad)


def _array(data: Any, d: dtype | None, copy: bool) -> np.ndarray:
    if isinstance(data, Tensor):
        recording.reading("tensor")
        data = data._arr
    if isinstance(data, (np.ndarray, np.generic)):
        source = np.asarray(data)
        target = d or as_dtype(source.dtype, "tensor")
        return source.astype(target.np, copy=copy) if source.dtype == target.np else source.astype(target.np)
    if hasattr(data, "__array__") and not isinstance(data, (list, tuple)):
        return _array(np.asarray(data), d, copy)
    data = _plain(data)
    try:
        array = np.asarray(data)
    except ValueError:
        raise ValueError(
            f"tensor: sequences of unequal length in {_short(data)}; wanted nested lists of equal sizes"
        ) from None
    if array.dtype.kind not in "biuf":
        if array.dtype.kind == "O" or array.dtype.kind == "c":
            raise TypeError(f"tensor: could not infer dtype of {_short(data)}; wanted numbers, nested lists or arrays")
        raise TypeError(f"tensor: new(): invalid data type {array.dtype}; wanted numbers, nested lists or arrays")
    if d is None:
        d = (
            dtypes.bool
            if array.dtype.kind == "b"
            else dtypes.int64
            if array.dtype.kind in "iu"
            else get_default_dtype()
        )
        if not array.size:
            d = get_default_dtype()
    return array.astype(d.np)


def _plain(data: Any) -> Any:
    """Nested lists in which tensors of one element have become numbers, and others lists."""
    if isinstance(data, Tensor):
        return data.tolist()
    if isinstance(data, (list, tuple)) and any(isinstance(v, (list, tuple, Tensor)) for v in data):
        return [_plain(v) for v in data]
    return data


def _short(data: Any) -> str:
    text = repr(data)
    return text if len(text) < 60 else text[:57] + "..."


def _construct(cls, *args: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``Tensor(2, 3)`` is empty float32 of that shape; ``Tensor([1, 2])`` holds data."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer, Size)):
        return args[0].detach() if isinstance(args[0], Tensor) else tensor(args[0], dtype=dtype or get_default_dtype())
    return empty(*(args or (0,)), dtype=dtype, device=device)


Tensor._construct = classmethod(_construct)


@method()
def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A copy of ``data`` with the dtype and device of this tensor."""
    return tensor(data, dtype=dtype or self.dtype, device=device or self._spec.device, requires_grad=requires_grad)


# ---- DLPack
_DLPACK_CUDA = 2  # kDLCUDA of dlpack.h


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares the memory of any object that speaks DLPack (NumPy, PyTorch, JAX, CuPy arrays)."""
    if isinstance(ext_tensor, Tensor):
        return ext_tensor.detach()
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"from_dlpack: got {type(ext_tensor).__name__}; wanted an object with __dlpack__")
    device = located("cuda") if ext_tensor.__dlpack_device__()[0] == _DLPACK_CUDA else CPU
    try:
        array = backend(device).xp.from_dlpack(ext_tensor)
    except (BufferError, RuntimeError, ValueError) as error:
        raise DTypeError(
            f"from_dlpack: NumPy cannot take this tensor: {error} (bfloat16 is not in NumPy's DLPack)"
        ) from None
    return from_array(array, device=device)


@method("__dlpack__")
def _dlpack(self: Tensor, **kwargs: Any) -> Any:
    """A DLPack capsule on this tensor's memory."""
    if self.requires_grad:
        raise BufferError("__dlpack__: can't export tensors that require gradient, use tensor.detach()")
    if self.dtype is dtypes.bfloat16:
        raise BufferError("__dlpack__: bfloat16 is not in NumPy's DLPack; use .float() or .view(tensorlite.int16)")
    if self._spec.device is not CPU:
        return self._arr.__dlpack__(**kwargs)
    kwargs.pop("stream", None)
    if not self._arr.flags.writeable:
        raise BufferError("__dlpack__: the tensor is on read-only memory; clone() it first")
    recording.reading("__dlpack__")
    return self._arr.__dlpack__(**kwargs)


@method("__dlpack_device__")
def _dlpack_device(self: Tensor) -> tuple:
    return self._arr.__dlpack_device__()


# ---- filling in place
@method()
def fill_(self: Tensor, value: Any) -> Tensor:
    """Write one value everywhere."""
    if not isinstance(value, Tensor):
        value = lift(value, self)
        value = value if isinstance(value, Tensor) else placed(np.asarray(value), self._spec.device)
    elif value._spec.ndim:
        raise RuntimeError(
            f"fill_: only supports 0-dimension value tensor but got tensor with {value._spec.ndim} dimensions."
        )
    value = value.to(self._spec.dtype)
    return fill_p.op.into(self, self, value)


@method()
def zero_(self: Tensor) -> Tensor:
    """Write zeros."""
    return self.fill_(0)


@method()
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write ``src``, stretched to this shape and cast to this dtype. Its gradient flows to ``src``."""
    src = as_tensor(src).to(self._spec.dtype)
    if src._spec.device is not self._spec.device:
        src = src.to(device=self._spec.device)
    value = expand(src, self._spec.shape) if src._spec.shape != self._spec.shape else src
    return overwrite_p.op.into(self, self, value, path=())


def is_tensor(obj: Any) -> bool:
    """Whether this is a Tensor."""
    return isinstance(obj, Tensor)


def numel(input: Tensor) -> int:
    """How many elements there are."""
    return input._spec.size


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating-point one."""
    return input._spec.dtype.is_floating_point
