"""The same elements in another shape. Floor 3.

Views share storage: nothing is computed, and a write through one is seen through all.
"""

from __future__ import annotations

from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np

from tensorlite.autograd.methods import attach_method, face, method, op
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, strides_in
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import strided
from tensorlite.errors import ShapeError
from tensorlite.ops.cast import laid_p
from tensorlite.ops.slices import slice_, viewed
from tensorlite.shapes import Size, broadcast, dim_of, dims_of, infer, size_args


# ---- the same order of elements
@primitive(view=True, torch=lambda torch, x, shape: x.view(shape))
def view_p(xp, x, *, shape):
    """The same elements, in the same order, in another shape: a view, so strides must allow it."""
    try:
        return xp.reshape(x, shape, copy=False) if xp is np else x.reshape(shape)
    except ValueError:
        raise ShapeError(
            f"view: shape {shape} for strides {x.strides} of {x.shape}: view size is not compatible with input "
            "tensor's size and stride (at least one dimension spans across two contiguous subspaces). "
            "Use .reshape(...) instead."
        ) from None


@view_p.spec
def _(x, *, shape):
    # shape as a method gets it, (2, 3) or ((2, 3),): looking at it here costs nothing once the entry is known
    size = infer("view", size_args("view", shape), x.size, x.shape)
    if size == x.shape:
        return x
    return viewed(x, size, strides_in(size, CONTIGUOUS) if x.format is CONTIGUOUS else None)


@view_p.bind
def _(xp, specs, outs, shape):
    size = outs[0].shape
    if specs[0].format is not CONTIGUOUS:
        return partial(view_p.op.fn, xp, shape=size)
    return methodcaller("reshape", size)


view_p.grad(
    x=lambda g, x_spec: view_p(g, shape=x_spec.shape) if g._spec.format is CONTIGUOUS else reshape(g, x_spec.shape)
)


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
    return view_p(self, shape=shape)


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
    return view_p(laid_p(input, format=CONTIGUOUS), shape=shape)


@reshape.cases
def _(make):
    yield dict(input=make(2, 6), shape=(3, 4))
    yield dict(input=make(2, 3, 4), shape=(6, -1))
    yield ShapeError, dict(input=make(2, 3), shape=(4, 2))


reshape.ref(lambda input, shape: np.array(input.ravel().tolist(), input.dtype).reshape(shape))


@method("reshape")
def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape: a view where the strides allow it, else a copy."""
    if self._spec.format is CONTIGUOUS:
        return view_p(self, shape)  # a keyword would cost 30 ns
    return reshape(self, size_args("reshape", shape))


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
    for s in shape[a : b + 1]:
        size *= s
    return input if a == b else reshape(input, (*shape[:a], size, *shape[b + 1 :]))


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
    return input.reshape(shape[:start_dim] + [-1] + shape[end + 1 :])


@op(method=True)
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Dimension dim cut into several."""
    d = dim_of("unflatten", dim, input._spec.ndim)
    shape = input._spec.shape
    sizes = infer("unflatten", size_args("unflatten", (sizes,)), shape[d], (shape[d],))
    return reshape(input, (*shape[:d], *sizes, *shape[d + 1 :]))


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


squeeze.ref(
    lambda input, dim=None: input.reshape(
        [
            s
            for k, s in enumerate(input.shape)
            if s != 1 or (dim is not None and k not in {d % input.ndim for d in np.atleast_1d(dim)})
        ]
    )
)


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


@permute_p.bind
def _(xp, specs, outs, dims):
    return methodcaller("transpose", dims)


@permute_p.spec
def _(x, *, dims):
    strides = x.strides and tuple(x.strides[d] for d in dims)
    return viewed(x, tuple(x.shape[d] for d in dims), strides)


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
        raise ShapeError(
            f"permute: dims {dims} for {n} dimensions; wanted each dimension once (number of dimensions in "
            "the tensor input does not match the length of the desired ordering of dimensions)"
        )
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
        raise ShapeError(
            f"t: got {input._spec.ndim} dimensions; wanted at most 2 (t() expects a tensor with <= 2 dimensions)"
        )
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
    strides = (0,) * lead + tuple(
        0 if n == 1 and s != 1 else step for n, s, step in zip(x.shape, shape[lead:], x.strides)
    )
    return strided(x, shape, strides)


@expand_p.spec
def _(x, *, shape):
    return x if shape == x.shape else viewed(x, shape)


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
        raise ShapeError(
            f"expand: the number of sizes provided ({len(shape)}) must be greater or equal to the number of "
            f"dimensions in the tensor ({len(own)})"
        )
    full = tuple(own[k - lead] if s == -1 and k >= lead else s for k, s in enumerate(shape))
    if any(s < 0 for s in full) or any(n not in (1, s) for n, s in zip(own, full[lead:])):
        raise ShapeError(
            f"expand: {tuple(own)} to {tuple(shape)}; the expanded size must match the existing size at "
            "non-singleton dimensions"
        )
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


@op(method=True)
def ravel(input: Tensor) -> Tensor:
    """All elements in one row; a view where the memory allows."""
    return reshape(input, (-1,))


@ravel.cases
def _(make):
    yield dict(input=make(2, 3))
    yield dict(input=make())
    yield dict(input=make(0, 3))


ravel.ref(lambda input: input.flatten())


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
