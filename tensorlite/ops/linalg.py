"""Matrix products. Floor 3.

``matmul`` is closed under differentiation: its gradients are matmuls with a transpose flag, which costs nothing,
where ``x.T @ g`` would cost a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import attach_method, face, op
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import Spec
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import cpu
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.shape import reshape
from tensorlite.shapes import broadcast


def same_dtype(name: str, *specs: Spec | None) -> None:
    given = [s for s in specs if s is not None]
    if any(s.dtype is not given[0].dtype for s in given):
        raise DTypeError(
            f"{name}: got {' and '.join(s.dtype.name for s in given)}; wanted one dtype "
            "(expected m1 and m2 to have the same dtype)"
        )


@primitive(name="matmul")
def matmul_p(xp, x, w, out, *, tx=False, tw=False):
    """x @ w over the last two dimensions, each transposed first where its flag says so; the others broadcast."""
    xp.matmul(x.mT if tx else x, w.mT if tw else w, out=out)


def _by_position(xp: Any) -> Any:
    """matmul(x, w, out): NumPy's is quicker by position, CuPy's takes its output by keyword alone."""
    return xp.matmul if xp is np else lambda x, w, out=None: xp.matmul(x, w, out=out)


@matmul_p.bind
def _(xp, specs, outs, tx, tw):
    matmul = _by_position(xp)
    if not tx and not tw:
        return matmul, matmul
    if tx and tw:
        call = lambda x, w, out=None: matmul(x.mT, w.mT, out)
    elif tx:
        call = lambda x, w, out=None: matmul(x.mT, w, out)
    else:
        call = lambda x, w, out=None: matmul(x, w.mT, out)
    return call, call


@matmul_p.spec
def _(x, w, *, tx=False, tw=False):
    same_dtype("matmul", x, w)
    if x.ndim < 2 or w.ndim < 2:
        raise ShapeError(f"matmul: shapes {x.shape} and {w.shape}; wanted 2 dimensions or more")
    m, k = x.shape[-2:][::-1] if tx else x.shape[-2:]
    k2, n = w.shape[-2:][::-1] if tw else w.shape[-2:]
    if k != k2:
        raise ShapeError(
            f"matmul: mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {k2}x{n}): "
            f"{x.shape} @ {w.shape}; wanted equal inner sizes"
        )
    return x.like(*broadcast("matmul", x.shape[:-2], w.shape[:-2]), m, n)


def _fit(y: Tensor, spec: Spec) -> Tensor:
    return y if y._spec.shape == spec.shape else y.sum_to_size(spec.shape)


matmul_p.grad(
    x=lambda g, w, x_spec, tx, tw: _fit(
        matmul_p(w, g, tx=tw, tw=True) if tx else matmul_p(g, w, tx=False, tw=not tw), x_spec
    ),
    w=lambda g, x, w_spec, tx, tw: _fit(
        matmul_p(g, x, tx=True, tw=tx) if tw else matmul_p(x, g, tx=not tx, tw=False), w_spec
    ),
)


@matmul_p.cases
def _(make):
    yield dict(x=make(3, 4), w=make(4, 5))
    yield dict(x=make(2, 3, 4), w=make(4, 5))
    yield dict(x=make(3, 4), w=make(2, 4, 5))
    yield dict(x=make(2, 1, 3, 4), w=make(5, 4, 2))
    yield dict(x=make(4), w=make(4))
    yield dict(x=make(4), w=make(4, 3))
    yield dict(x=make(3, 4), w=make(4))
    yield dict(x=make(0, 4), w=make(4, 2))
    yield dict(x=make(3, 0), w=make(0, 2))
    yield dict(x=make.ints(2, 3), w=make.ints(3, 2))
    yield RuntimeError, dict(x=make(3, 4), w=make(3, 4))
    yield RuntimeError, dict(x=make(3, 4), w=make())
    yield RuntimeError, dict(x=make(3, 4), w=make.ints(4, 2))


@matmul_p.ref
def _(x, w):
    left, right = (x[None] if x.ndim == 1 else x), (w[:, None] if w.ndim == 1 else w)
    y = np.einsum("...ij,...jk->...ik", left, right)
    y = y[..., 0] if w.ndim == 1 else y
    return (y[..., 0] if w.ndim == 1 else y[..., 0, :]) if x.ndim == 1 else y


@face(matmul_p, out=True)
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product; vectors count as a row on the left and a column on the right; leading dimensions broadcast.

    >>> import tensorlite as tl
    >>> tl.matmul(tl.tensor([[1.0, 2.0]]), tl.tensor([3.0, 4.0]))
    tensor([11.])
    """
    if type(other) is not Tensor and not isinstance(other, Tensor):
        return NotImplemented
    a, b = input._spec.ndim, other._spec.ndim
    if a >= 2 and b >= 2:
        return matmul_p(input, other)
    if not a or not b:
        raise ShapeError(f"matmul: got {a} and {b} dimensions; both arguments to matmul need to be at least 1D")
    left = input.unsqueeze(0) if a == 1 else input
    right = other.unsqueeze(1) if b == 1 else other
    y = matmul_p(left, right)
    shape = y._spec.shape
    if b == 1:
        shape = shape[:-1]
    if a == 1:
        shape = shape[:-2] + shape[-1:] if b != 1 else shape[:-1]
    return reshape(y, shape)


def _matmul_method(self: Tensor, other: Tensor) -> Tensor:
    """The matrix product of this tensor with another."""
    if isinstance(other, Tensor) and self._spec.ndim >= 2 and other._spec.ndim >= 2:
        return matmul_p(self, other)
    return matmul(self, other)


attach_method("matmul", _matmul_method)
attach_method("__matmul__", _matmul_method)
attach_method("__rmatmul__", lambda self, other: matmul(Tensor(other).to(self.dtype), self))


def _checked(name: str, a: int, b: int):
    def call(input: Tensor, mat2: Tensor) -> Tensor:
        if input._spec.ndim != a or mat2._spec.ndim != b:
            raise ShapeError(f"{name}: got {input._spec.shape} and {mat2._spec.shape}; wanted {a} and {b} dimensions")
        if a == 3 and input._spec.shape[0] != mat2._spec.shape[0]:
            raise ShapeError(f"{name}: got {input._spec.shape} and {mat2._spec.shape}; wanted equal batch sizes")
        return matmul(input, mat2)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"The product of tensors of {a} and {b} dimensions, without broadcasting."
    return op(call, method=True, out=True)


mm, bmm, mv = _checked("mm", 2, 2), _checked("bmm", 3, 3), _checked("mv", 2, 1)


@mm.cases
def _(make):
    yield dict(input=make(3, 4), mat2=make(4, 2))
    yield RuntimeError, dict(input=make(3, 4), mat2=make(4))


@bmm.cases
def _(make):
    yield dict(input=make(2, 3, 4), mat2=make(2, 4, 2))
    yield RuntimeError, dict(input=make(2, 3, 4), mat2=make(1, 4, 2))


@mv.cases
def _(make):
    yield dict(input=make(3, 4), mat2=make(4))


mm.op.torch = lambda torch, input, mat2: torch.mm(input, mat2)
mv.op.torch = lambda torch, input, mat2: torch.mv(input, mat2)
for _op in (mm, bmm, mv):
    _op.ref(lambda input, mat2: np.einsum("...ij,...jk->...ik" if mat2.ndim > 1 else "ij,j->i", input, mat2))


@op(method=True, out=True)
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors of one size."""
    if input._spec.ndim != 1 or tensor._spec.ndim != 1 or input._spec.shape != tensor._spec.shape:
        raise ShapeError(
            f"dot: got {input._spec.shape} and {tensor._spec.shape}; wanted two vectors of one size "
            "(1D tensors expected)"
        )
    return matmul(input, tensor)


@dot.cases
def _(make):
    yield dict(input=make(4), tensor=make(4))
    yield RuntimeError, dict(input=make(4), tensor=make(3))


dot.ref(lambda input, tensor: (input * tensor).sum())


@op(method=True, out=True)
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The outer product of two vectors."""
    if input._spec.ndim != 1 or vec2._spec.ndim != 1:
        raise ShapeError(f"outer: got {input._spec.shape} and {vec2._spec.shape}; wanted two vectors")
    return input.unsqueeze(1) * vec2


@outer.cases
def _(make):
    yield dict(input=make(3), vec2=make(4))


outer.ref(lambda input, vec2: np.einsum("i,j->ij", input, vec2))


@op(method=True, out=True)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    y = mm(mat1, mat2)
    y = y if alpha == 1 else y * alpha
    return y + (input if beta == 1 else input * beta)


@addmm.cases
def _(make):
    yield dict(input=make(5), mat1=make(3, 4), mat2=make(4, 5))
    yield dict(input=make(3, 5), mat1=make(3, 4), mat2=make(4, 5), beta=0.5, alpha=2)


addmm.ref(lambda input, mat1, mat2, beta=1, alpha=1: beta * input + alpha * np.einsum("ij,jk->ik", mat1, mat2))


# ---- the linear layer
@primitive(name="linear", torch="nn.functional.linear")
def linear_p(xp, x, w, b=None, out=None):
    """y = x @ w.T + b.  x (..., I), w (O, I), b (O,) or None -> (..., O), in x's dtype."""
    xp.matmul(x, w.T, out=out)
    if b is not None:
        xp.add(out, b, out)


@linear_p.bind
def _(xp, specs, outs):
    matmul, add = _by_position(xp), xp.add

    def call(x, w, b, out=None):
        y = matmul(x, w.T, out)
        return y if b is None else add(y, b, y)

    return call, call


@linear_p.spec
def _(x, w, b):
    same_dtype("linear", x, w, b)
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[1]:
        raise ShapeError(
            f"linear: x {x.shape} and w {w.shape}; wanted (..., I) and (O, I) (mat1 and mat2 shapes cannot be "
            "multiplied)"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"linear: b {b.shape} for w {w.shape}; wanted ({w.shape[0]},)")
    return x.like(*x.shape[:-1], w.shape[0])


def flat(t: Tensor) -> Tensor:
    """(..., K) as (M, K)."""
    shape = t._spec.shape
    return t if len(shape) == 2 else reshape(t, (int(np.prod(shape[:-1])), shape[-1]))


def linear_dx(g: Tensor, w: Tensor) -> Tensor:
    return matmul_p(g, w) if g._spec.ndim > 1 else reshape(matmul_p(reshape(g, (1, -1)), w), (w._spec.shape[1],))


linear_p.grad(
    x=linear_dx,
    w=lambda g, x: matmul_p(flat(g), flat(x), tx=True),
    b=lambda g: flat(g).sum(0),
)


@linear_p.cases
def _(make):
    yield dict(x=make(4, 3), w=make(5, 3), b=make(5))
    yield dict(x=make(2, 4, 3), w=make(5, 3), b=make(5))
    yield dict(x=make(3), w=make(5, 3), b=make(5))
    yield dict(x=make(4, 3), w=make(5, 3))
    yield dict(x=make(0, 3), w=make(5, 3), b=make(5))
    yield ShapeError, dict(x=make(4, 2), w=make(5, 3), b=make(5))
    yield ShapeError, dict(x=make(4, 3), w=make(5, 3), b=make(4))


@linear_p.ref
def _(x, w, b=None):
    return np.einsum("...i,oi->...o", x, w) + (0 if b is None else b)


@face(linear_p)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias.  input (..., I), weight (O, I), bias (O,) or None -> (..., O)."""
    return linear_p(input, weight, bias)


# ---- which product runs: the most multiplications that ours, with these vectors, does before NumPy's BLAS is ahead
MOST_PRODUCT = {"baseline": 1 << 12, "avx2": 1 << 17}  # with AVX-512 it is ahead at every size


def wide_vectors() -> bool:
    """Whether the compiled kernels have AVX-512."""
    return cpu.isa() == "avx512"


def _suits(multiplications: int) -> bool:
    return wide_vectors() or multiplications <= MOST_PRODUCT.get(cpu.isa(), 0)


def _our_matmul(x: Spec, w: Spec, *, tx: bool, tw: bool) -> bool:
    return _suits(x.size * (w.shape[-2] if tw else w.shape[-1]))


def _matmul_as_it_lies(kernel, xp, x, w, out, *, tx, tw):
    if x.flags.aligned and w.flags.aligned:  # then steps are whole elements
        kernel(x, w, out)
    else:
        xp.matmul(x.mT if tx else x, w.mT if tw else w, out=out)


matmul_p.kernel("cpu", "matmul", "f4 f8", when=_our_matmul)
matmul_p.kernel("cpu", "matmul", "f4 f8", when=_our_matmul, around=_matmul_as_it_lies)
matmul_p.kernel("cuda", "linalg.matmul", "", formats=ANY)


def our_linear(x: Spec, w: Spec, b: Spec | None) -> bool:
    return _suits(x.size * w.shape[0])


def on_aligned(kernel, x, w, b) -> None:
    """``kernel(x, w, b)`` on what it can read: any steps of an x of two dimensions and of w, if they are whole."""
    x = x if x.ndim == 2 and x.flags.aligned else x.copy()
    kernel(x, w if w.flags.aligned else w.copy(), b if b is None or b.flags.c_contiguous else b.copy())


def _linear_as_it_lies(kernel, xp, x, w, b, out):
    on_aligned(lambda x, w, b: kernel(x, w, b, out), x, w, b)


linear_p.kernel("cpu", "linear", "f4 f8", when=our_linear)
linear_p.kernel("cpu", "linear", "f4 f8", when=our_linear, around=_linear_as_it_lies)
linear_p.kernel("cuda", "linalg.linear", "", formats=ANY)


@op(method=True, out=True)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * (batch1 @ batch2), matrix by matrix."""
    y = bmm(batch1, batch2)
    y = y if alpha == 1 else y * alpha
    return y + (input if beta == 1 else input * beta)


@baddbmm.cases
def _(make):
    yield dict(input=make(5), batch1=make(2, 3, 4), batch2=make(2, 4, 5))
    yield dict(input=make(2, 3, 5), batch1=make(2, 3, 4), batch2=make(2, 4, 5), beta=0.5, alpha=2)
    yield RuntimeError, dict(input=make(5), batch1=make(2, 3, 4), batch2=make(2, 3, 5))


baddbmm.ref(
    lambda input, batch1, batch2, beta=1, alpha=1: beta * input + alpha * np.einsum("bij,bjk->bik", batch1, batch2)
)
