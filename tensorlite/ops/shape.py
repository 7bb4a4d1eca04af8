"""Ops that look at the same elements in another shape, and ops that join and cut. Floor 3.

Views share storage: nothing is computed, and a write through one is seen through all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import attach_method, face, method, op
from tensorlite.autograd.primitive import common_dtype, primitive
from tensorlite.autograd.spec import CONTIGUOUS, STRIDED, Spec, spec_of
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import strided
from tensorlite.errors import ShapeError
from tensorlite.shapes import Size, broadcast, dim_of, dims_of, index, infer, size_args


def _viewed(x: Spec, shape: tuple, contiguous: bool = False) -> Spec:
    return spec_of(shape, x.dtype, x.device, CONTIGUOUS if contiguous and x.format is CONTIGUOUS else STRIDED)


# ---- the same order of elements
@primitive(view=True, torch=lambda torch, x, shape: x.view(shape))
def view_p(xp, x, *, shape):
    """The same elements, in the same order, in another shape: a view, so strides must allow it."""
    try:
        return xp.reshape(x, shape, copy=False) if xp is np else x.reshape(shape)
    except ValueError:
        raise ShapeError(
            f"view: shape {shape} for strides {x.strides} of {x.shape}: view size is not compatible with input tensor's "
            "size and stride (at least one dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        ) from None


@view_p.spec
def _(x, *, shape):
    shape = infer("view", shape, x.size, x.shape)
    return _viewed(x, shape, contiguous=True)


@view_p.bind
def _(xp, specs, outs, shape):
    if specs[0].format is not CONTIGUOUS:
        return None
    size = outs[0].shape
    return lambda x: x.reshape(size)


view_p.grad(x=lambda g, x_spec: view_p(g, shape=x_spec.shape) if g._spec.format is CONTIGUOUS
            else reshape(g, x_spec.shape))


@view_p.cases
def _(make):
    yield dict(x=make(2, 6), shape=(3, 4))
    yield dict(x=make(2, 6), shape=(-1,))
    yield dict(x=make(4, 0), shape=(0, 7))
    yield dict(x=make(), shape=(1, 1))
    yield ShapeError, dict(x=make(2, 3), shape=(4,))
    yield ShapeError, dict(x=make(2, 3), shape=(-1, -1))


@view_p.ref
def _(x, shape):
    return np.array(x.ravel().tolist(), x.dtype).reshape(shape)


@face(view_p)
def view(x: Tensor, shape: tuple) -> Tensor:
    """x in another shape, sharing storage."""
    return view_p(x, shape=tuple(shape))


@method("view")
def _view(self: Tensor, *shape: Any) -> Tensor:
    """The same storage in another shape (or, with a dtype, as another type of the same size).

    >>> import tensorlite as tl
    >>> tl.arange(6).view(2, -1)
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    if len(shape) == 1 and hasattr(shape[0], "np"):
        from tensorlite.autograd.tensor import from_array

        return from_array(self.detach()._arr.view(shape[0].np))
    return view_p(self, shape=size_args("view", shape))


def _can_view(x: Tensor, shape: tuple) -> bool:
    try:
        np.reshape(x._arr, infer("reshape", tuple(shape), x._spec.size, x._spec.shape), copy=False)
    except ValueError as error:
        if isinstance(error, ShapeError):
            raise
        return False
    return True


@op(method=False)
def reshape(input: Tensor, shape: Any) -> Tensor:
    """The same elements, in the same order, in another shape: a view where the strides allow it, else a copy.

    >>> import tensorlite as tl
    >>> tl.reshape(tl.arange(4), (2, 2))
    tensor([[0, 1],
            [2, 3]])
    """
    shape = shape if type(shape) is tuple else size_args("reshape", (shape,))
    if input._spec.format is CONTIGUOUS or _can_view(input, shape):
        return view_p(input, shape=shape)
    return view_p(input.clone(), shape=shape)


@reshape.cases
def _(make):
    yield dict(input=make(2, 6), shape=(3, 4))
    yield dict(input=make(2, 3, 4), shape=(6, -1))
    yield ShapeError, dict(input=make(2, 3), shape=(4, 2))


reshape.ref(lambda input, shape: np.array(input.ravel().tolist(), input.dtype).reshape(shape))


@method("reshape")
def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape: a view where the strides allow it, else a copy."""
    first = shape[0] if shape else ()
    if type(first) is not int:
        shape = first if type(first) is tuple else size_args("reshape", shape)
    return view_p(self, shape=shape) if self._spec.format is CONTIGUOUS else reshape(self, shape)


@method()
def view_as(self: Tensor, other: Tensor) -> Tensor:
    """A view in the shape of another tensor."""
    return self.view(other._spec.shape)


@method()
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor in the shape of another."""
    return reshape(self, other._spec.shape)


@op(method=True)
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim (included) laid into one."""
    n = input._spec.ndim
    if n == 0:
        return reshape(input, (1,))
    a, b = dim_of("flatten", start_dim, n), dim_of("flatten", end_dim, n)
    if a > b:
        raise RuntimeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    shape = input._spec.shape
    size = 1
    for s in shape[a:b + 1]:
        size *= s
    return input if a == b else reshape(input, (*shape[:a], size, *shape[b + 1:]))


@flatten.cases
def _(make):
    yield dict(input=make(2, 3, 4))
    yield dict(input=make(2, 3, 4), start_dim=1)
    yield dict(input=make(2, 3, 4, 2), start_dim=1, end_dim=2)
    yield dict(input=make())
    yield RuntimeError, dict(input=make(2, 3, 4), start_dim=2, end_dim=1)


@flatten.ref
def _(input, start_dim=0, end_dim=-1):
    shape = list(input.shape) or [1]
    end = end_dim % len(shape)
    return input.reshape(shape[:start_dim] + [-1] + shape[end + 1:])


@op(method=True)
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Dimension dim cut into several."""
    d = dim_of("unflatten", dim, input._spec.ndim)
    shape = input._spec.shape
    sizes = infer("unflatten", size_args("unflatten", (sizes,)), shape[d], (shape[d],))
    return reshape(input, (*shape[:d], *sizes, *shape[d + 1:]))


@unflatten.cases
def _(make):
    yield dict(input=make(2, 6), dim=1, sizes=(2, -1))


unflatten.ref(lambda input, dim, sizes: input.reshape(*input.shape[:dim], *sizes))


@op(method=True)
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without its dimensions of size 1, or without those of ``dim`` that have size 1."""
    shape = input._spec.shape
    dims = dims_of("squeeze", dim, len(shape))
    drop = {d for d in dims if shape[d] == 1}
    if input._spec.format is CONTIGUOUS:
        return view_p(input, shape=tuple(s for k, s in enumerate(shape) if k not in drop))
    return slice_(input, tuple(0 if k in drop else slice(None) for k in range(len(shape))))


@squeeze.cases
def _(make):
    yield dict(input=make(1, 3, 1))
    yield dict(input=make(1, 3, 1), dim=0)
    yield dict(input=make(1, 3, 1), dim=1)
    yield dict(input=make(1, 3, 1), dim=(0, -1))
    yield IndexError, dict(input=make(1, 3), dim=2)


squeeze.ref(lambda input, dim=None: input.reshape(
    [s for k, s in enumerate(input.shape)
     if s != 1 or dim is not None and k not in {d % input.ndim for d in np.atleast_1d(dim)}]))


@op(method=True)
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at dim."""
    n = input._spec.ndim
    d = dim_of("unsqueeze", dim, n + 1)
    return slice_(input, (slice(None),) * d + (None,))


@unsqueeze.cases
def _(make):
    yield dict(input=make(2, 3), dim=1)
    yield dict(input=make(2, 3), dim=-1)
    yield dict(input=make(), dim=0)
    yield IndexError, dict(input=make(2, 3), dim=3)


unsqueeze.ref(lambda input, dim: np.expand_dims(input, dim))


# ---- another order of dimensions
@primitive(view=True)
def permute_p(xp, x, *, dims):
    """Dimension k of the result is dimension dims[k] of x."""
    return x.transpose(dims)


@permute_p.spec
def _(x, *, dims):
    moved = [d for d in dims if x.shape[d] != 1]
    return _viewed(x, tuple(x.shape[d] for d in dims), contiguous=moved == sorted(moved))


permute_p.grad(x=lambda g, dims: permute_p(g, dims=tuple(sorted(range(len(dims)), key=dims.__getitem__))))


@permute_p.cases
def _(make):
    yield dict(x=make(2, 3, 4), dims=(2, 0, 1))
    yield dict(x=make(2, 3), dims=(-1, 0))
    yield RuntimeError, dict(x=make(2, 3), dims=(0,))
    yield RuntimeError, dict(x=make(2, 3), dims=(0, 0))


permute_p.ref(lambda x, dims: np.einsum(x, list(range(x.ndim)), [d % x.ndim for d in dims]))


@face(permute_p)
def permute(x: Tensor, dims: Any) -> Tensor:
    """Dimensions in another order: dimension k of the result is dimension dims[k] of the input. A view."""
    n = x._spec.ndim
    dims = tuple(dims)
    if len(dims) != n:
        raise ShapeError(f"permute: dims {dims} for {n} dimensions; wanted each dimension once (number of dimensions in "
                         "the tensor input does not match the length of the desired ordering of dimensions)")
    if not n:
        return x.view(())
    return permute_p(x, dims=dims_of("permute", dims, n))


@method("permute")
def _permute(self: Tensor, *dims: Any) -> Tensor:
    """Dimensions in another order. A view."""
    return permute(self, size_args("permute", dims))


@op(method=("transpose", "swapaxes", "swapdims"))
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged. A view."""
    n = input._spec.ndim
    a, b = dim_of("transpose", dim0, n), dim_of("transpose", dim1, n)
    if not n:
        return input.view(())
    order = list(range(n))
    order[a], order[b] = b, a
    return permute_p(input, dims=tuple(order))


@transpose.cases
def _(make):
    yield dict(input=make(2, 3, 4), dim0=0, dim1=2)
    yield dict(input=make(2, 3), dim0=-1, dim1=0)
    yield IndexError, dict(input=make(2, 3), dim0=0, dim1=2)


transpose.ref(lambda input, dim0, dim1: np.swapaxes(input, dim0, dim1))
swapaxes = swapdims = transpose


@op(method=True)
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix (a vector stays as it is). A view."""
    if input._spec.ndim > 2:
        raise ShapeError(f"t: got {input._spec.ndim} dimensions; wanted at most 2 (t() expects a tensor with <= 2 dimensions)")
    return input.transpose(0, 1) if input._spec.ndim == 2 else input.view(input._spec.shape)


@t.cases
def _(make):
    yield dict(input=make(2, 3))
    yield dict(input=make(2))
    yield RuntimeError, dict(input=make(2, 3, 4))


t.ref(lambda input: input.T)


def _reversed(self: Tensor) -> Tensor:
    """All dimensions in reverse order; for a matrix, the transpose."""
    return permute_p(self, dims=tuple(range(self._spec.ndim))[::-1]) if self._spec.ndim else self.view(())


def _matrix_transposed(self: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    if self._spec.ndim < 2:
        raise ShapeError(f"mT: got {self._spec.ndim} dimensions; wanted 2 or more")
    return transpose(self, -2, -1)


attach_method("T", property(_reversed))
attach_method("mT", property(_matrix_transposed))


@op(method=True)
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions ``source`` moved to the places ``destination``. A view."""
    n = input._spec.ndim
    src = dims_of("movedim", source if hasattr(source, "__iter__") else (source,), n)
    dst = dims_of("movedim", destination if hasattr(destination, "__iter__") else (destination,), n)
    if len(src) != len(dst):
        raise ShapeError(f"movedim: source {source} and destination {destination}; wanted as many of each")
    order = [d for d in range(n) if d not in src]
    for place, d in sorted(zip(dst, src)):
        order.insert(place, d)
    return permute_p(input, dims=tuple(order))


@movedim.cases
def _(make):
    yield dict(input=make(2, 3, 4), source=0, destination=2)
    yield dict(input=make(2, 3, 4), source=(0, 1), destination=(-1, 0))


movedim.ref(lambda input, source, destination: np.moveaxis(input, source, destination))


# ---- stretching
@primitive(view=True, torch=lambda torch, x, shape: x.expand(shape))
def expand_p(xp, x, *, shape):
    """x stretched to shape: dimensions of size 1 repeat without being copied."""
    lead = len(shape) - x.ndim
    strides = (0,) * lead + tuple(0 if n == 1 and s != 1 else step
                                  for n, s, step in zip(x.shape, shape[lead:], x.strides))
    return strided(x, shape, strides)


@expand_p.spec
def _(x, *, shape):
    return _viewed(x, shape, contiguous=shape == x.shape)


expand_p.grad(x=lambda g, x_spec: g.sum_to_size(x_spec.shape))


@expand_p.cases
def _(make):
    yield dict(x=make(3, 1), shape=(3, 4))
    yield dict(x=make(3, 1), shape=(2, -1, 4))
    yield dict(x=make(), shape=(2, 2))
    yield dict(x=make(1), shape=(0,))
    yield RuntimeError, dict(x=make(3), shape=(4,))
    yield RuntimeError, dict(x=make(2, 3), shape=(3,))


@expand_p.ref
def _(x, shape):
    lead = len(shape) - x.ndim
    return x + np.zeros([x.shape[k - lead] if s == -1 else s for k, s in enumerate(shape)])


@face(expand_p)
def expand(x: Tensor, shape: tuple) -> Tensor:
    """x stretched to ``shape`` without copying; -1 keeps a size."""
    own = x._spec.shape
    lead = len(shape) - len(own)
    if lead < 0:
        raise ShapeError(f"expand: the number of sizes provided ({len(shape)}) must be greater or equal to the number of "
                         f"dimensions in the tensor ({len(own)})")
    full = tuple(own[k - lead] if s == -1 and k >= lead else s for k, s in enumerate(shape))
    if any(s < 0 for s in full) or any(n not in (1, s) for n, s in zip(own, full[lead:])):
        raise ShapeError(f"expand: {tuple(own)} to {tuple(shape)}; the expanded size must match the existing size at "
                         "non-singleton dimensions")
    return expand_p(x, shape=full)


@method("expand")
def _expand(self: Tensor, *sizes: Any) -> Tensor:
    """Stretched to these sizes without copying; -1 keeps a size."""
    return expand(self, size_args("expand", sizes))


@method()
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Stretched to the shape of another tensor."""
    return expand(self, other._spec.shape)


@op(method=True)
def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """Stretched to size without copying."""
    return expand(input, tuple(size))


@broadcast_to.cases
def _(make):
    yield dict(input=make(3, 1), size=(2, 3, 4))


broadcast_to.ref(lambda input, size: np.ones(size) * input)


def broadcast_tensors(*tensors: Tensor) -> tuple:
    """All tensors stretched to their common shape."""
    tensors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    shape = broadcast("broadcast_tensors", *(t._spec.shape for t in tensors))
    return tuple(expand(t, shape) for t in tensors)


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that all these shapes stretch to."""
    return Size(broadcast("broadcast_shapes", *((s,) if isinstance(s, int) else tuple(s) for s in shapes)))


@method()
def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """Summed over the dimensions in which ``size`` has 1 or nothing: the gradient of stretching."""
    shape = size_args("sum_to_size", size)
    own = self._spec.shape
    if own == shape:
        return self
    lead = len(own) - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, own[lead:])):
        raise ShapeError(f"sum_to_size: {tuple(own)} to {shape}; size is not expandable to the tensor's shape")
    dims = (*range(lead), *(k + lead for k, n in enumerate(shape) if n == 1 and own[k + lead] != 1))
    y = self.sum(dims, keepdim=not lead) if dims else self
    return y if y._spec.shape == shape else reshape(y, shape)


# ---- joining and cutting
@primitive(name="cat", signals=False)
def cat_p(xp, *xs, out, dim):
    """Tensors laid one behind the other along dim."""
    xp.concatenate(xs, axis=dim, out=out)


@cat_p.spec
def _(*xs, dim):
    first = xs[0]
    for k, x in enumerate(xs):
        if x.ndim != first.ndim or any(a != b for d, (a, b) in enumerate(zip(x.shape, first.shape)) if d != dim):
            raise ShapeError(f"cat: tensor {k} is {x.shape} and tensor 0 is {first.shape}; wanted equal sizes except in "
                             f"dimension {dim}")
    return first.like(*first.shape[:dim], sum(x.shape[dim] for x in xs), *first.shape[dim + 1:])


def _cat_grads(g, xs_spec, dim):
    grads, at = [], 0
    for s in xs_spec:
        grads.append(narrow(g, dim, at, s.shape[dim]))
        at += s.shape[dim]
    return grads


cat_p.grad(xs=_cat_grads)


@cat_p.cases
def _(make):
    yield dict(tensors=[make(2, 3), make(1, 3)])
    yield dict(tensors=[make(2, 3), make(2, 1), make(2, 0)], dim=-1)
    yield dict(tensors=[make(2), make.ints(2)])
    yield RuntimeError, dict(tensors=[make(2, 3), make(2, 2)])
    yield ValueError, dict(tensors=[])


cat_p.ref(lambda tensors, dim=0: np.concatenate(tensors, axis=dim))


@face(cat_p, out=True)
def cat(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors laid one behind the other along dim; dtypes promote.

    >>> import tensorlite as tl
    >>> tl.cat([tl.zeros(1, 2), tl.ones(1, 2)])
    tensor([[0., 0.],
            [1., 1.]])
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: expected a non-empty list of Tensors")
    for k, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            raise TypeError(f"cat: element {k} is {x.__class__.__name__}; expected Tensor")
    common = common_dtype([x._spec for x in tensors])
    tensors = [x.to(common) for x in tensors if x._spec.shape != (0,)] or tensors[:1]  # PyTorch skips legacy empties
    if not tensors[0]._spec.ndim:
        raise ShapeError("cat: zero-dimensional tensor (at position 0) cannot be concatenated")
    return cat_p(*tensors, dim=dim_of("cat", dim, tensors[0]._spec.ndim))


concat = concatenate = cat


@op(out=True)
def stack(tensors: Any, dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension."""
    tensors = list(tensors)
    if not tensors:
        raise RuntimeError("stack: expects a non-empty TensorList")
    first = tensors[0]._spec.shape
    for k, x in enumerate(tensors):
        if x._spec.shape != first:
            raise ShapeError(f"stack: expects each tensor to be equal size, but got {list(first)} at entry 0 and "
                             f"{list(x._spec.shape)} at entry {k}")
    return cat([unsqueeze(x, dim) for x in tensors], dim if dim >= 0 else dim)


@stack.cases
def _(make):
    yield dict(tensors=[make(2, 3), make(2, 3)])
    yield dict(tensors=[make(2, 3), make(2, 3)], dim=-1)
    yield dict(tensors=[make(), make()])
    yield RuntimeError, dict(tensors=[make(2), make(3)])


stack.ref(lambda tensors, dim=0: np.stack(tensors, dim))


@op(method=True)
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The part of ``length`` elements from ``start`` along dim. A view."""
    n = input._spec.ndim
    d = dim_of("narrow", dim, n)
    size = input._spec.shape[d]
    start = index("narrow", start)
    start = start + size if start < 0 else start
    if not 0 <= start <= start + length <= size:
        raise RuntimeError(f"narrow: start ({start}) + length ({length}) exceeds dimension size ({size}).")
    return slice_(input, (slice(None),) * d + (slice(start, start + length),))


@narrow.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, start=1, length=2)
    yield dict(input=make(4, 3), dim=-1, start=-2, length=1)
    yield RuntimeError, dict(input=make(4, 3), dim=0, start=3, length=2)


narrow.ref(lambda input, dim, start, length: np.take(input, range(start % input.shape[dim], start % input.shape[dim] + length), dim))


@op(method=True)
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Row ``index`` of dimension dim, which is dropped. A view."""
    if not input._spec.ndim:
        raise IndexError("select: cannot be applied to a 0-dim tensor.")
    d = dim_of("select", dim, input._spec.ndim)
    size = input._spec.shape[d]
    if not -size <= index < size:
        raise IndexError(f"select: index {index} is out of range for dimension {d} with size {size}")
    return slice_(input, (slice(None),) * d + (int(index),))


@select.cases
def _(make):
    yield dict(input=make(4, 3), dim=0, index=1)
    yield dict(input=make(4, 3), dim=1, index=-1)
    yield IndexError, dict(input=make(4, 3), dim=1, index=3)


select.ref(lambda input, dim, index: np.take(input, index, dim))


def _steps(sizes):
    at = 0
    for n in sizes:
        yield at, at + n
        at += n


@primitive(view=True, name="split_with_sizes")
def split_p(xp, x, *, sizes, dim):
    """Pieces of these sizes along dim."""
    lead = (slice(None),) * dim
    return tuple(x[(*lead, slice(a, b))] for a, b in _steps(sizes))


split_p.op.multiple = True
split_p.spec(lambda x, *, sizes, dim: tuple(
    _viewed(x, (*x.shape[:dim], n, *x.shape[dim + 1:]), contiguous=dim == 0) for n in sizes))


@split_p.grad
def _(g, x_spec, sizes, dim, want):
    parts = [x_spec_zeros(x_spec, (*x_spec.shape[:dim], n, *x_spec.shape[dim + 1:])) if p is None else p
             for p, n in zip(g, sizes)]
    return (cat_p(*parts, dim=dim),)


def x_spec_zeros(spec: Spec, shape: tuple) -> Tensor:
    """Zeros beside a tensor of this spec: the gradient of an output that nobody used."""
    from tensorlite.autograd.tensor import wrap

    s = spec_of(shape, spec.dtype, spec.device)
    array = s.empty()
    array[...] = 0
    return wrap(array, s)


@split_p.cases
def _(make):
    yield dict(x=make(5, 3), split_sizes=(2, 3), dim=0)
    yield dict(x=make(2, 4), split_sizes=(1, 0, 3), dim=1)
    yield RuntimeError, dict(x=make(5, 3), split_sizes=(2, 2), dim=0)


split_p.ref(lambda x, split_sizes, dim: tuple(np.split(x, np.cumsum(split_sizes)[:-1], dim)))


def _split_step(k, x, kw):
    a, b = list(_steps(kw["sizes"]))[k]
    key = encode((slice(None),) * kw["dim"] + (slice(a, b),))
    return slice_p.op.entry((x,), {"key": key})


split_p.op.step = _split_step


@face(split_p, method=True)
def split_with_sizes(input: Tensor, split_sizes: Any, dim: int = 0) -> tuple:
    """Pieces of these sizes along dim. Views."""
    d = dim_of("split", dim, input._spec.ndim)
    sizes = tuple(index("split", s) for s in split_sizes)
    if sum(sizes) != input._spec.shape[d] or any(s < 0 for s in sizes):
        raise ShapeError(f"split: split_with_sizes expects split_sizes to sum exactly to {input._spec.shape[d]} (input "
                         f"tensor's size at dimension {d}), but got split_sizes={list(sizes)}")
    return split_p(input, sizes=sizes, dim=d)


@op(method=True)
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple:
    """Pieces of one size along dim (the last may be smaller), or of the sizes listed. Views."""
    if not isinstance(split_size_or_sections, int):
        return split_with_sizes(tensor, split_size_or_sections, dim)
    d = dim_of("split", dim, tensor._spec.ndim)
    n, size = tensor._spec.shape[d], split_size_or_sections
    if size < 0 or (size == 0 and n):
        raise RuntimeError(f"split: split_size {size}; wanted 1 or more for dimension {d} of size {n}")
    sizes = [min(size, n - a) for a in range(0, n, size)] if n else [0]
    return split_p(tensor, sizes=tuple(sizes), dim=d)


@split.cases
def _(make):
    yield dict(tensor=make(5, 3), split_size_or_sections=2)
    yield dict(tensor=make(5, 4), split_size_or_sections=[1, 3], dim=-1)
    yield RuntimeError, dict(tensor=make(5, 4), split_size_or_sections=[1, 1], dim=-1)


@split.ref
def _(tensor, split_size_or_sections, dim=0):
    n = tensor.shape[dim]
    s = split_size_or_sections
    cuts = list(range(s, n, s)) if isinstance(s, int) else np.cumsum(s)[:-1]
    return tuple(np.split(tensor, cuts, dim))


@op(method=True)
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple:
    """At most ``chunks`` pieces of one size along dim (the last may be smaller). Views."""
    if chunks < 1:
        raise RuntimeError(f"chunk: chunks {chunks}; expects `chunks` to be greater than 0")
    n = input._spec.shape[dim_of("chunk", dim, input._spec.ndim)]
    return split(input, max(-(-n // chunks), 1), dim)


@chunk.cases
def _(make):
    yield dict(input=make(5, 3), chunks=2)
    yield dict(input=make(4, 3), chunks=3, dim=1)


@chunk.ref
def _(input, chunks, dim=0):
    size = -(-input.shape[dim] // chunks)
    return tuple(np.split(input, range(size, input.shape[dim], size), dim))


@primitive(view=True, name="unbind")
def unbind_p(xp, x, *, dim):
    """The rows of dimension dim."""
    return tuple(xp.moveaxis(x, dim, 0)[k, ...] for k in range(x.shape[dim]))


unbind_p.op.multiple = True
unbind_p.spec(lambda x, *, dim: (_viewed(x, (*x.shape[:dim], *x.shape[dim + 1:]), contiguous=dim == 0),) * x.shape[dim])


@unbind_p.grad
def _(g, x_spec, dim, want):
    shape = (*x_spec.shape[:dim], *x_spec.shape[dim + 1:])
    return (stack([x_spec_zeros(x_spec, shape) if p is None else p for p in g], dim),)


@unbind_p.cases
def _(make):
    yield dict(x=make(3, 2))
    yield dict(x=make(3, 2), dim=-1)
    yield IndexError, dict(x=make())


unbind_p.ref(lambda x, dim=0: tuple(np.moveaxis(x, dim, 0)))
unbind_p.op.step = lambda k, x, kw: slice_p.op.entry((x,), {"key": encode((slice(None),) * kw["dim"] + (k,))})


@face(unbind_p, method=True)
def unbind(x: Tensor, dim: int = 0) -> tuple:
    """The rows of dimension dim, as a tuple of views."""
    if not x._spec.ndim:
        raise IndexError("unbind: dimension specified as 0 but tensor has no dimensions")
    return unbind_p(x, dim=dim_of("unbind", dim, x._spec.ndim))


@op(method=False)
def tile(input: Tensor, dims: Any) -> Tensor:
    """Repeated dims[k] times along dimension k, counted from the last."""
    dims = tuple(dims)
    return repeat(input, (1,) * (input._spec.ndim - len(dims)) + dims)


@tile.cases
def _(make):
    yield dict(input=make(2, 3), dims=(2,))
    yield dict(input=make(3), dims=(2, 2))


tile.ref(lambda input, dims: np.tile(input, dims))


def repeat(input: Tensor, sizes: tuple) -> Tensor:
    """Copies laid side by side, sizes[k] of them along dimension k."""
    shape = input._spec.shape
    lead = len(sizes) - len(shape)
    if lead < 0:
        raise ShapeError(f"repeat: {len(sizes)} sizes for {len(shape)} dimensions; number of dimensions of repeat dims "
                         "can not be smaller than number of dimensions of tensor")
    shape = (1,) * lead + shape
    inner = tuple(n for s in shape for n in (1, s))
    outer = tuple(n for r, s in zip(sizes, shape) for n in (r, s))
    y = expand(reshape(input, inner), outer).clone()
    return reshape(y, tuple(r * s for r, s in zip(sizes, shape)))


@method("repeat")
def _repeat(self: Tensor, *sizes: Any) -> Tensor:
    """Copies laid side by side, sizes[k] of them along dimension k."""
    return repeat(self, size_args("repeat", sizes))


@method("tile")
def _tile(self: Tensor, *dims: Any) -> Tensor:
    """Repeated dims[k] times along dimension k, counted from the last."""
    return tile(self, size_args("tile", dims))


@op(method=False)
def flip(input: Tensor, dims: Any) -> Tensor:
    """In reverse order along these dimensions; a copy."""
    d = dims_of("flip", dims if hasattr(dims, "__iter__") else (dims,), input._spec.ndim)
    return slice_(input, tuple(slice(None, None, -1) if k in d else slice(None) for k in range(input._spec.ndim))).clone()


@flip.cases
def _(make):
    yield dict(input=make(2, 3), dims=(1,))
    yield dict(input=make(2, 3), dims=(0, -1))


flip.ref(lambda input, dims: np.flip(input, dims))


@method("flip")
def _flip(self: Tensor, *dims: Any) -> Tensor:
    """In reverse order along these dimensions; a copy."""
    return flip(self, size_args("flip", dims))


# ---- basic indices: the one view op behind x[2], x[1:3], x[None], select, narrow, unsqueeze
def encode(key: tuple) -> tuple:
    """A basic index as a hashable constant: slices as (start, stop, step)."""
    return tuple([(k.start, k.stop, k.step) if k.__class__ is slice else k for k in key])


def decode(key: tuple) -> tuple:
    return (*(slice(*k) if isinstance(k, tuple) else k for k in key), *(() if Ellipsis in key else (Ellipsis,)))


@primitive(view=True, name="slice")
def slice_p(xp, x, *, key):
    """x[key] for a key of integers, slices, None and Ellipsis."""
    return x[decode(key)]


@slice_p.bind
def _(xp, specs, outs, key):
    plain = decode(key)
    return lambda x: x[plain]


@slice_p.spec
def _(x, *, key):
    try:
        sample = np.broadcast_to(np.int8(0), x.shape)[decode(key)]
    except IndexError as error:
        raise IndexError(f"getitem: {error}") from None
    if x.format is not CONTIGUOUS:
        return _viewed(x, sample.shape)
    strides = np.lib.stride_tricks.as_strided(np.empty(0, np.int8), x.shape, _c_strides(x.shape))[decode(key)].strides
    return _viewed(x, sample.shape, contiguous=_is_contiguous(sample.shape, strides))


def _c_strides(shape: tuple) -> tuple:
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= max(n, 1)
    return tuple(reversed(out))


def _is_contiguous(shape: tuple, strides: tuple) -> bool:
    return all(n == 1 or s == c for n, s, c in zip(shape, strides, _c_strides(shape))) or 0 in shape


slice_p.grad(x=lambda g, x_spec, key: unslice_p(g, shape=x_spec.shape, key=key))


@slice_p.cases
def _(make):
    yield dict(x=make(4, 3), key=(0,))
    yield dict(x=make(4, 3), key=((1, 3, None), -1))
    yield dict(x=make(4, 3), key=(Ellipsis, None, (None, None, 2)))
    yield dict(x=make(4, 3), key=(1, 2))
    yield IndexError, dict(x=make(4, 3), key=(4,))


slice_p.ref(lambda x, key: np.array([v for v in x[decode(key)].ravel()]).reshape(x[decode(key)].shape))
slice_p.op.torch = None


@primitive(name="unslice", torch=None, signals=False)
def unslice_p(xp, x, out, *, shape, key):
    """Zeros of this shape with x at key: the gradient of slice."""
    out.fill(0)
    out[decode(key)] = x


unslice_p.spec(lambda x, *, shape, key: x.like(*shape))
unslice_p.grad(x=lambda g, key: slice_p(g, key=key))


@unslice_p.cases
def _(make):
    yield dict(x=make(3), shape=(4, 3), key=(1,))
    yield dict(x=make(2, 3), shape=(4, 3), key=((1, 3, None),))


@unslice_p.ref
def _(x, shape, key):
    y = np.zeros(shape)
    y[decode(key)] += x
    return y


def slice_(x: Tensor, key: tuple) -> Tensor:
    """x[key] for a basic key."""
    return slice_p(x, key=encode(key))


# ---- what a write to a view does to the base
@primitive(name="overwrite", torch=None, alias="elementwise", signals=False)
def overwrite_p(xp, x, w, out, *, path):
    """x with the part that the view ops of ``path`` lead to replaced by w."""
    if out is not x:
        w = w.copy() if xp.may_share_memory(out, w) else w
        xp.copyto(out, x)
    part = out
    for entry in path:
        part = entry.kernel(part)
    part[...] = w


overwrite_p.spec(lambda x, w, *, path: x.like(*x.shape))


def _follow(g, path):
    for entry in path:
        g = entry.op.function(g, **entry.kw)
    return g


overwrite_p.grad(
    x=lambda g, w_spec, path: overwrite_p(g, x_spec_zeros(w_spec, w_spec.shape), path=path),
    w=lambda g, path: _follow(g, path),
)


@overwrite_p.cases
def _(make):
    x = make(4, 3)
    yield dict(x=x, w=make(3), path=(slice_p.op.entry((x._spec,), {"key": (1,)}),))
    yield dict(x=x, w=make(4, 3), path=())


@overwrite_p.ref
def _(x, w, path):
    y = x.copy()
    y[1 if path else ...] = w
    return y


Tensor._overwrite = overwrite_p
