"""Arithmetic of sizes: broadcasting, dimensions, windows. Floor 0: integers only."""

import math
import operator
from collections.abc import Iterable

from tensorlite.errors import ShapeError

Shape = tuple[int, ...]


class Size(tuple):
    """The shape of a tensor: a tuple that prints and counts like PyTorch's ``torch.Size``."""

    __slots__ = ()

    def numel(self) -> int:
        return math.prod(self)

    def __repr__(self) -> str:
        return f"tensorlite.Size({list(self)})"

    def __getitem__(self, i):
        got = tuple.__getitem__(self, i)
        return Size(got) if isinstance(i, slice) else got

    def __add__(self, other):
        return Size(tuple.__add__(self, tuple(other)))

    def __radd__(self, other):
        return Size(tuple(other) + tuple(self))


def broadcast(op: str, *shapes: Shape) -> Shape:
    """The shape that all ``shapes`` stretch to: dimensions align at the right, 1 stretches to anything."""
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    out = []
    ndim = max(map(len, shapes))
    for i in range(-ndim, 0):
        sizes = {s[i] for s in shapes if len(s) >= -i} - {1}
        if len(sizes) > 1:
            at = ndim + i
            raise ShapeError(
                f"{op}: shapes {' and '.join(str(tuple(s)) for s in shapes)} differ at dimension {at}; "
                f"wanted equal sizes or 1 (the size of tensor a must match the size of tensor b)"
            )
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def index(op: str, value) -> int:
    """A Python int from anything that is one (NumPy integers, 0-d integer tensors), refusing floats and bools."""
    if isinstance(value, int):
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: got {value!r} of type {type(value).__name__}; wanted an integer") from None


def dim_of(op: str, dim, ndim: int) -> int:
    """``dim`` counted from the front. A 0-d tensor takes 0 and -1, as in PyTorch."""
    d = index(op, dim)
    n = max(ndim, 1)
    if not -n <= d < n:
        raise IndexError(
            f"{op}: dim {d} is out of range; wanted {-n} to {n - 1} "
            f"(Dimension out of range for a tensor of {ndim} dimensions)"
        )
    return d % n


_ALL = [tuple(range(n)) for n in range(8)]
_ONE = [(n,) for n in range(8)]


def dims_of(op: str, dim, ndim: int) -> Shape:
    """A tuple of distinct dimensions counted from the front; None and () mean all."""
    if dim is None:
        return _ALL[ndim] if ndim < len(_ALL) else tuple(range(ndim))
    if type(dim) is int and 0 <= dim < ndim:
        return _ONE[dim] if dim < len(_ONE) else (dim,)
    if not isinstance(dim, Iterable):
        return (dim_of(op, dim, ndim),) if ndim else (dim_of(op, dim, ndim),)[:0]
    dims = tuple(dim_of(op, d, ndim) for d in dim)
    if len(set(dims)) != len(dims):
        raise RuntimeError(f"{op}: dim {tuple(dim)} names a dimension twice; wanted each once")
    if not dims:
        return tuple(range(ndim))
    return dims if ndim else ()


def size_args(op: str, args: tuple) -> Shape:
    """Sizes given as ``f(2, 3)``, ``f((2, 3))`` or ``f([2, 3])``."""
    if len(args) == 1 and isinstance(args[0], Iterable) and not hasattr(args[0], "_arr"):
        args = tuple(args[0])
    return tuple(index(op, a) for a in args)


def infer(op: str, sizes: Shape, numel: int, of: Shape) -> Shape:
    """``sizes`` with its one -1 worked out so that it holds ``numel`` elements."""
    if any(s < -1 for s in sizes) or sizes.count(-1) > 1:
        raise ShapeError(f"{op}: invalid shape {sizes}; wanted sizes of 0 or more with at most one -1")
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        if known == 0:
            raise ShapeError(
                f"{op}: cannot work out -1 in {sizes} for {tuple(of)}; the other sizes hold no elements "
                "(the unspecified dimension size -1 can be any value)"
            )
        if numel % known:
            raise ShapeError(
                f"{op}: shape {sizes} is invalid for {tuple(of)} with {numel} elements; wanted a multiple of {known}"
            )
        sizes = tuple(numel // known if s == -1 else s for s in sizes)
    if math.prod(sizes) != numel:
        raise ShapeError(
            f"{op}: shape {sizes} is invalid for {tuple(of)}, an input of size {numel}; "
            f"wanted {numel} elements, got {math.prod(sizes)}"
        )
    return sizes


def pair(op: str, value, what: str = "value") -> tuple[int, int]:
    """Two ints from one, or from a sequence of one or two."""
    if isinstance(value, Iterable):
        got = tuple(index(op, v) for v in value)
        if len(got) == 1:
            got = got * 2
        if len(got) != 2:
            raise ShapeError(f"{op}: {what} {got}; wanted one or two integers")
        return got
    v = index(op, value)
    return (v, v)


def windows(op: str, size: int, kernel: int, stride: int, pad: int, dilation: int = 1, ceil: bool = False) -> int:
    """How many windows of ``kernel`` fit: floor((size + 2 pad - dilation (kernel - 1) - 1) / stride) + 1."""
    if stride < 1 or dilation < 1 or pad < 0 or kernel < 1:
        raise ShapeError(
            f"{op}: kernel {kernel}, stride {stride}, padding {pad}, dilation {dilation}; "
            "wanted kernel, stride and dilation of 1 or more and padding of 0 or more"
        )
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    n = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (n - 1) * stride >= size + pad:
        n -= 1  # the last window would start in the padding
    return n
