"""Tensor: an array with a tape. What needs the object's insides; every op is attached from floor 3. Floor 2."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd import recording
from tensorlite.autograd.modes import mode
from tensorlite.autograd.node import Handle, Leaf, extra_of
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, STRIDED, Spec, asked_format, spec_of
from tensorlite.backends import CPU, Device, backend, located
from tensorlite.dtypes import as_dtype, dtype
from tensorlite.errors import GradError
from tensorlite.shapes import Size, dim_of

new = object.__new__


class Tensor:
    """An n-dimensional array that remembers how it was made, so that ``backward`` can find gradients.

    Make one with ``tensorlite.tensor(data)``; ``Tensor(2, 3)`` gives uninitialised float32 values, as in PyTorch.

    >>> import tensorlite as tl
    >>> x = tl.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """

    # _arr: the array.  _spec: what is known of it.  _ver: [stamp of the last write, number of writes], shared by all
    # that share storage.  _node: None, Leaf or Node.  _view: None, or how it was derived from its base.
    __slots__ = ("__dict__", "__weakref__", "_arr", "_node", "_spec", "_ver", "_view")
    __array_priority__ = 1000  # ndarray + Tensor is Tensor.__radd__

    _arr: Any
    _spec: Spec
    _ver: list
    _node: Any
    _view: Any

    def __new__(cls, *args, **kwargs):
        return cls._construct(*args, **kwargs)  # attached by ops/create.py; ops make tensors by object.__new__

    # ---- what it is
    @property
    def shape(self) -> Size:
        return Size(self._spec.shape)

    @property
    def dtype(self) -> dtype:
        return self._spec.dtype

    @property
    def device(self) -> Device:
        return self._spec.device

    @property
    def ndim(self) -> int:
        return self._spec.ndim

    @property
    def itemsize(self) -> int:
        return self._spec.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self._spec.nbytes

    def dim(self) -> int:
        return self._spec.ndim

    ndimension = dim

    def numel(self) -> int:
        return self._spec.size

    nelement = numel

    def element_size(self) -> int:
        return self._spec.dtype.itemsize

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return Size(self._spec.shape) if dim is None else self._spec.shape[dim_of("size", dim, self._spec.ndim)]

    def stride(self, dim: int | None = None) -> Any:
        """Steps between neighbours, in elements: of all dimensions, or of one."""
        strides = strides_of(self)
        return strides if dim is None else strides[dim_of("stride", dim, self._spec.ndim)]

    def storage_offset(self) -> int:
        """How far this view starts behind its storage's first element."""
        base = self._arr
        if self._spec.device is not CPU:
            return (base.data.ptr - base.data.mem.ptr) // self._spec.dtype.itemsize
        while isinstance(base.base, np.ndarray):
            base = base.base
        return (address(self._arr) - address(base)) // self._spec.dtype.itemsize

    def data_ptr(self) -> int:
        return address(self._arr)

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether the elements lie in C order, or in another memory format, without gaps."""
        if memory_format is None:
            return self._spec.format is CONTIGUOUS or self._arr.flags.c_contiguous
        format = asked_format("is_contiguous", memory_format, 4)
        return lies(self, CHANNELS_LAST if format is CHANNELS_LAST else CONTIGUOUS)

    def is_floating_point(self) -> bool:
        return self._spec.dtype.is_floating_point

    def is_complex(self) -> bool:
        return False

    def is_signed(self) -> bool:
        return self._spec.dtype.is_signed

    def is_inference(self) -> bool:
        return False

    @property
    def is_cuda(self) -> bool:
        return self._spec.device.type == "cuda"

    layout = "strided"
    is_sparse = False
    is_quantized = False

    def __len__(self) -> int:
        if not self._spec.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self._spec.shape[0]

    def __hash__(self) -> int:
        return id(self)

    # ---- its place on the tape
    @property
    def requires_grad(self) -> bool:
        return current_node(self) is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for this tensor's gradient (or stop asking). Only leaves can be changed."""
        node = current_node(self)
        if requires_grad and node is None:
            if not self._spec.dtype.is_floating_point:
                raise GradError(
                    f"requires_grad_: got {self._spec}; wanted a floating-point dtype (only Tensors of floating point "
                    "and complex dtype can require gradients)"
                )
            self._node, self._view = Leaf(self), None
            recording.changed()
            self._node.grad = self.__dict__.pop("_idle_grad", None)
        elif not requires_grad and node is not None:
            if not isinstance(node, Leaf):
                raise GradError(
                    "requires_grad_: you can only change requires_grad flags of leaf variables; "
                    "use .detach() for a tensor that does not require grad"
                )
            if node.grad is not None:
                self._idle_grad = node.grad
            self._node = None
            recording.changed()
        return self

    @property
    def is_leaf(self) -> bool:
        node = current_node(self)
        return node is None or isinstance(node, Leaf)

    @property
    def grad_fn(self) -> Any:
        node = current_node(self)
        return None if node is None or isinstance(node, Leaf) else node

    @property
    def output_nr(self) -> int:
        node = current_node(self)
        return 0 if node is None else node.output

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward left here: on leaves, and where ``retain_grad`` was called."""
        node = self._node
        if node is None:
            return self.__dict__.get("_idle_grad")
        if isinstance(node, Leaf):
            return node.grad
        return node.extra.retained if node.extra is not None else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad: got {type(value).__name__}; wanted a Tensor or None")
            if value is self:
                raise GradError("grad: a tensor cannot be its own gradient")
            mine, given = self._spec, value._spec
            if given.shape != mine.shape or given.dtype is not mine.dtype or given.device is not mine.device:
                raise GradError(f"grad: got {given} on {given.device}; wanted {mine} on {mine.device}, as the tensor")
        if self._node is None:
            self._idle_grad = value
        elif isinstance(self._node, Leaf):
            self._node.grad = value
        else:
            extra_of(self._node).retained = value

    def retain_grad(self) -> None:
        """Keep this tensor's gradient in ``.grad`` although it is not a leaf."""
        node = current_node(self)
        if node is None:
            raise GradError("retain_grad: can't retain_grad on a Tensor that has requires_grad=False")
        if not isinstance(node, Leaf):
            extra_of(node).retains = True

    @property
    def retains_grad(self) -> bool:
        node = self._node
        return node is not None and node.extra is not None and node.extra.retains

    def register_hook(self, hook) -> Handle:
        """``hook(grad)`` runs when this tensor's gradient is complete; what it returns replaces the gradient."""
        node = current_node(self)
        if node is None:
            raise GradError("register_hook: cannot register a hook on a tensor that doesn't require gradient")
        return Handle(extra_of(node).hooks, hook)

    def register_post_accumulate_grad_hook(self, hook) -> Handle:
        """``hook(tensor)`` runs once backward has accumulated ``.grad``. Leaves only."""
        node = current_node(self)
        if not isinstance(node, Leaf):
            raise GradError("register_post_accumulate_grad_hook: wanted a leaf tensor that requires grad")
        return Handle(extra_of(node).after, hook)

    @property
    def _version(self) -> int:
        return self._ver[1]

    def detach(self) -> Tensor:
        """The same storage without history. Writes to either are seen by both, and by the version check."""
        return alias(self)

    def detach_(self) -> Tensor:
        if self._view is not None:
            raise GradError("detach_: can't detach views in-place; use detach() instead")
        self._node = None
        return self

    @property
    def data(self) -> Tensor:
        """The same storage without history and without version check. ``detach()`` is the safe way."""
        t = alias(self)
        t._ver = [0, 0]
        return t

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data: got {type(value).__name__}; wanted a Tensor")
        recording.refuse("data: a tensor got other memory; a recorded program writes where it did when recorded")
        recording.changed()
        self._arr, self._spec = value._arr, value._spec

    @property
    def _base(self) -> Tensor | None:
        base = self
        while base._view is not None:
            base = base._view.parent
        return None if base is self else base

    def _is_view(self) -> bool:
        return self._view is not None

    def is_set_to(self, other: Tensor) -> bool:
        return (
            address(self._arr) == address(other._arr)
            and self._arr.strides == other._arr.strides
            and self._spec.shape == other._spec.shape
        )

    def is_same_size(self, other: Tensor) -> bool:
        return self._spec.shape == other._spec.shape

    # ---- out of the framework
    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The values as a NumPy array that shares this tensor's memory (``force=True`` copies where it must)."""
        if current_node(self) is not None and not force:
            raise GradError("numpy: can't call numpy() on Tensor that requires grad; use tensor.detach().numpy()")
        if self._spec.device is not CPU and not force:
            raise TypeError(f"numpy: can't convert a tensor on {self._spec.device}; use tensor.cpu() first")
        recording.reading("numpy")
        return backend(self._spec.device).to_numpy(self._arr)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return np.array(array, dtype, copy=copy) if dtype is not None or copy else array

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return from_array(np.asarray(array))

    @property
    def __cuda_array_interface__(self) -> dict:
        """How other libraries (CuPy, Numba) find this tensor's memory on a GPU."""
        if self._spec.device is CPU:
            raise AttributeError("__cuda_array_interface__: can't get it on non-CUDA tensor type; use tensor.cuda()")
        if current_node(self) is not None:
            raise GradError("__cuda_array_interface__: can't get it on Variable that requires grad; use var.detach()")
        recording.reading("__cuda_array_interface__")
        return self._arr.__cuda_array_interface__

    def item(self) -> Any:
        """The one element as a Python number."""
        if self._spec.size != 1:
            raise GradError(f"item: a Tensor with {self._spec.size} elements cannot be converted to Scalar; wanted 1")
        recording.reading("item")
        return to_python(backend(self._spec.device).to_numpy(self._arr))

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        recording.reading("tolist")
        return to_python(backend(self._spec.device).to_numpy(self._arr), nested=True)

    def __bool__(self) -> bool:
        if self._spec.size != 1:
            raise GradError(
                f"bool: Boolean value of Tensor with {self._spec.size} values is ambiguous; wanted exactly one"
            )
        recording.reading("bool")
        return bool(self._arr.reshape(()))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self._spec.dtype.is_floating_point or self._spec.size != 1:
            raise TypeError(f"index: got {self._spec}; only integer tensors of a single element can be an index")
        return int(self.item())

    def __iter__(self):
        if not self._spec.ndim:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind(0))

    def __contains__(self, element) -> bool:
        return bool((self == element).any())

    def __format__(self, how: str) -> str:
        return object.__format__(self, how) if self._spec.ndim else format(self.item(), how)

    def __reduce_ex__(self, protocol):
        state = {k: v for k, v in self.__dict__.items() if k != "_idle_grad"}
        last = self._spec.format is CHANNELS_LAST  # NumPy writes arrays in C order, so such a one goes as (N, H, W, C)
        array = self._arr.transpose(0, 2, 3, 1) if last else self._arr
        if not array.flags.c_contiguous:
            array = array.copy("C")
        if self._spec.device is not CPU:
            array = backend(self._spec.device).to_numpy(array)
        return _rebuild, (type(self), array, self._spec.dtype, self.requires_grad, state, last, str(self._spec.device))

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise GradError(
                "deepcopy: only Tensors created explicitly by the user (graph leaves) can be copied; "
                "use tensor.detach().clone()"
            )
        done = memo.get(id(self))
        if done is None:
            import copy

            array = copied(self._arr) if self._spec.format is not CONTIGUOUS else self._arr.copy()
            done = _rebuild(type(self), array, self._spec.dtype, self.requires_grad, {}, device=self._spec.device)
            memo[id(self)] = done
            done.__dict__.update(copy.deepcopy({k: v for k, v in self.__dict__.items() if k != "_idle_grad"}, memo))
            if self.grad is not None:
                done.grad = copy.deepcopy(self.grad, memo)
        return done

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add d self / d leaf to ``.grad`` of every leaf that this tensor was made from (or of ``inputs`` alone).

        Args:
            gradient: what to start from, of this tensor's shape; may be left out for one element (then 1).
            retain_graph: keep what the graph saved for another backward. Default: as ``create_graph``.
            create_graph: make gradients that can be differentiated again.
            inputs: the leaves to accumulate into; default all.
        """
        from tensorlite.autograd.tape import backward

        backward(self, gradient, retain_graph, create_graph, inputs)


def _rebuild(cls, array, d, requires_grad, state, last: bool = False, device: Any = "cpu") -> Tensor:
    place = Device(device)
    if place is not CPU and isinstance(array, np.ndarray):
        place = located(place)
        array = backend(place).from_numpy(array)
    t = from_array(array.transpose(0, 3, 1, 2) if last else array.astype(d.np, copy=False), device=place)
    if cls is not Tensor:
        t = cls._from_tensor(t, requires_grad)
    elif requires_grad:
        t._node = Leaf(t)
    t.__dict__.update(state)
    return t


def from_array(array: Any, requires_grad: bool = False, device: Device = CPU) -> Tensor:
    """A Tensor on this very array (no copy, unless its bytes are in another machine's order)."""
    if device is CPU:
        array = np.asarray(array)  # a NumPy scalar becomes 0-d: kernels read an array's memory
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
    recording.made(array)
    t = new(Tensor)
    t._arr, t._ver, t._node, t._view = array, [0, 0], None, None
    t._spec = spec_of(
        array.shape,
        dtype.of_numpy.get(array.dtype) or as_dtype(array.dtype, "tensor"),
        device,
        CONTIGUOUS if array.flags.c_contiguous else CHANNELS_LAST if is_channels_last(array) else STRIDED,
    )
    if requires_grad:
        t.requires_grad_()
    return t


def placed(array: np.ndarray, device: Any, requires_grad: bool = False) -> Tensor:
    """A Tensor of an array of the host: on it where ``device`` is None or the CPU, else a copy on that device."""
    place = located(device)
    return from_array(array if place is CPU else backend(place).from_numpy(array), requires_grad, place)


def is_channels_last(array: Any) -> bool:
    """Whether (N, C, H, W) lies in memory as (N, H, W, C), without gaps."""
    return array.ndim == 4 and array.transpose(0, 2, 3, 1).flags.c_contiguous


def lies(x: Tensor, format: str) -> bool:
    """Whether the elements lie in this format: CONTIGUOUS or CHANNELS_LAST, and where sizes are 1 perhaps both."""
    if x._spec.format is format:
        return True
    return x._arr.flags.c_contiguous if format is CONTIGUOUS else is_channels_last(x._arr)


def is_dense(array: Any) -> bool:
    """Whether the elements fill their memory without gaps or overlaps, in whatever order of dimensions."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return True
    step = array.itemsize
    for stride, n in sorted((s, n) for s, n in zip(array.strides, array.shape) if n != 1):
        if stride != step:
            return False
        step *= n
    return True


def copied(array: Any) -> Any:
    """A copy whose elements lie as they did, by PyTorch's rule of what has gaps."""
    if is_dense(array):
        return array.copy("K")
    last = array.ndim == 4 and 0 < array.strides[1] < array.strides[3] < array.strides[2] < array.strides[0]
    return array.copy("K" if last else "C")


def wrap(array: Any, spec: Spec, node: Any = None, ver: list | None = None) -> Tensor:
    """A Tensor on this array, whose spec is known."""
    t = new(Tensor)
    t._arr, t._spec, t._node, t._view = array, spec, node, None
    t._ver = [0, 0] if ver is None else ver
    return t


def zeros_of(spec: Spec) -> Tensor:
    """Zeros of this spec: the gradient of an output that nobody used."""
    array = spec.empty()
    array[...] = 0
    recording.made(array)
    return wrap(array, spec)


def alias(x: Tensor, node: Any = None) -> Tensor:
    """The same storage and version under another node. The array object is a new one, so that it shows a base."""
    return wrap(x._arr.view(), x._spec, node, x._ver)


def current_node(x: Tensor) -> Any:
    """The node of ``x``, after in-place writes to its base or to other views of it were taken into account."""
    view = x._view
    if view is not None and view.stamp < x._ver[0]:
        view.fresh(x)
    return x._node


def address(array: Any) -> int:
    return array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr


def strides_of(x: Tensor) -> tuple[int, ...]:
    itemsize, strides = x._spec.dtype.itemsize, x._arr.strides
    if x._spec.format is not STRIDED:  # NumPy's strides of sizes 0 and 1 are arbitrary; say what PyTorch says
        return x._spec.strides
    return tuple(s // itemsize for s in strides)


def to_python(array: np.ndarray, nested: bool = False) -> Any:
    """Python numbers; bfloat16, which NumPy does not know, goes by way of float32."""
    if array.dtype.kind not in "fiub" or (array.dtype.itemsize == 2 and array.dtype.kind == "V"):
        array = array.astype(np.float32)
    return array.tolist() if nested else array.reshape(()).item()


def needs_grad(*tensors: Tensor) -> bool:
    """Whether an op on these records a node now."""
    return mode().grad and any(isinstance(t, Tensor) and current_node(t) is not None for t in tensors)
