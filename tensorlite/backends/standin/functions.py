"""The stand-in's functions and computing methods: CuPy's names and arguments, NumPy's numbers. Floor 1.

``FUNCTIONS`` and ``METHODS`` say what there is, with CuPy's own signatures (tests compare them with the real ones).
A mark before a name: ``~`` the host must learn a size from the device, which stops the stream; ``=`` the answer is
known on the host. A ``!`` after an argument: it must be an array of the device, or a list of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.backends.standin.arrays import SCALARS, _uploaded, dtype_of, fresh, given, ndarray, viewed
from tensorlite.backends.standin.memory import count
from tensorlite.backends.standin.ufuncs import BF16, UFUNCS, ufunc

FUNCTIONS = """
arange(start, stop=None, step=1, dtype=None)
linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0)
eye(N, M=None, k=0, dtype=float, order='C')
identity(n, dtype=float)
tri(N, M=None, k=0, dtype=float)
indices(dimensions, dtype=int)
tril_indices(n, k=0, m=None)
triu_indices(n, k=0, m=None)
zeros(shape, dtype=float, order='C')
ones(shape, dtype=float, order='C')
full(shape, fill_value, dtype=None, order='C')
zeros_like(a!, dtype=None, order='K', subok=None, shape=None)
ones_like(a!, dtype=None, order='K', subok=None, shape=None)
full_like(a!, fill_value, dtype=None, order='K', subok=None, shape=None)
tril(m!, k=0)
triu(m!, k=0)
diag(v!, k=0)
diagonal(a!, offset=0, axis1=0, axis2=1)
reshape(a!, newshape, order='C', *, copy=None)
ravel(a!, order='C')
transpose(a!, axes=None)
moveaxis(a!, source, destination)
swapaxes(a!, axis1, axis2)
rollaxis(a!, axis, start=0)
expand_dims(a!, axis)
squeeze(a!, axis=None)
broadcast_to(array!, shape)
flip(a!, axis=None)
roll(a!, shift, axis=None)
repeat(a!, repeats, axis=None)
tile(A!, reps)
concatenate(tup!, axis=0, out=None, *, dtype=None, casting='same_kind')
stack(tup!, axis=0, out=None, *, dtype=None, casting='same_kind')
hstack(tup!, *, dtype=None, casting='same_kind')
vstack(tup!, *, dtype=None, casting='same_kind')
split(ary!, indices_or_sections, axis=0)
array_split(ary!, indices_or_sections, axis=0)
atleast_1d(*arys!)
atleast_2d(*arys!)
broadcast_arrays(*args!)
sum(a!, axis=None, dtype=None, out=None, keepdims=False)
prod(a!, axis=None, dtype=None, out=None, keepdims=False)
mean(a!, axis=None, dtype=None, out=None, keepdims=False)
var(a!, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
std(a!, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
max(a!, axis=None, out=None, keepdims=False)
min(a!, axis=None, out=None, keepdims=False)
amax(a!, axis=None, out=None, keepdims=False)
amin(a!, axis=None, out=None, keepdims=False)
ptp(a!, axis=None, out=None, keepdims=False)
all(a!, axis=None, out=None, keepdims=False)
any(a!, axis=None, out=None, keepdims=False)
argmax(a!, axis=None, dtype=None, out=None, keepdims=False)
argmin(a!, axis=None, dtype=None, out=None, keepdims=False)
count_nonzero(a!, axis=None)
cumsum(a!, axis=None, dtype=None, out=None)
cumprod(a!, axis=None, dtype=None, out=None)
diff(a!, n=1, axis=-1, prepend=None, append=None)
around(a!, decimals=0, out=None)
round(a!, decimals=0, out=None)
trace(a!, offset=0, axis1=0, axis2=1, dtype=None, out=None)
dot(a!, b!, out=None)
inner(a!, b!)
outer(a!, b!, out=None)
vdot(a!, b!)
tensordot(a!, b!, axes=2)
kron(a!, b!)
isclose(a!, b!, rtol=1e-05, atol=1e-08, equal_nan=False)
allclose(a!, b!, rtol=1e-05, atol=1e-08, equal_nan=False)
array_equal(a1!, a2!, equal_nan=False)
sort(a!, axis=-1, kind=None)
argsort(a!, axis=-1, kind=None)
partition(a!, kth, axis=-1)
argpartition(a!, kth, axis=-1)
lexsort(keys!)
searchsorted(a!, v!, side='left', sorter=None)
~nonzero(a!)
~flatnonzero(a!)
~argwhere(a!)
~unique(ar!, return_index=False, return_inverse=False, return_counts=False, axis=None, *, equal_nan=True)
~extract(condition!, a!)
~bincount(x!, weights=None, minlength=None)
isin(element!, test_elements!, assume_unique=False, invert=False)
pad(array!, pad_width, mode='constant', **kwargs)
nan_to_num(x!, copy=True, nan=0.0, posinf=None, neginf=None)
=ndim(a)
=may_share_memory(a!, b!, max_work=None)
=shares_memory(a!, b!, max_work=None)
=can_cast(from_, to, casting='safe')
=result_type(*arrays_and_dtypes)
=iscomplexobj(x)
=isscalar(element)
"""

METHODS = """
sum(self, axis=None, dtype=None, out=None, keepdims=False)
prod(self, axis=None, dtype=None, out=None, keepdims=None)
mean(self, axis=None, dtype=None, out=None, keepdims=False)
var(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
std(self, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
max(self, axis=None, out=None, keepdims=False)
min(self, axis=None, out=None, keepdims=False)
ptp(self, axis=None, out=None, keepdims=False)
all(self, axis=None, out=None, keepdims=False)
any(self, axis=None, out=None, keepdims=False)
argmax(self, axis=None, out=None, dtype=None, keepdims=False)
argmin(self, axis=None, out=None, dtype=None, keepdims=False)
cumsum(self, axis=None, dtype=None, out=None)
cumprod(self, axis=None, dtype=None, out=None)
round(self, decimals=0, out=None)
trace(self, offset=0, axis1=0, axis2=1, dtype=None, out=None)
diagonal(self, offset=0, axis1=0, axis2=1)
repeat(self, repeats, axis=None)
ravel(self, order='C')
squeeze(self, axis=None)
swapaxes(self, axis1, axis2)
take(self, indices, axis=None, out=None)
clip(self, min=None, max=None, out=None)
argsort(self, axis=-1, kind=None)
argpartition(self, kth, axis=-1)
searchsorted(self, v, side='left', sorter=None)
nonzero(self)
dot(self, b, out=None)
conj(self)
"""

SUMS = frozenset(("sum", "prod", "cumsum", "cumprod", "mean", "var", "std"))
SORTS = frozenset(("sort", "argsort", "partition", "argpartition", "lexsort"))
PARTS = frozenset(("split", "array_split", "broadcast_arrays"))  # give lists, as NumPy's do


def _device_only(name: str, argument: str, x: Any) -> None:
    for v in x if isinstance(x, (list, tuple)) else (x,):
        if not isinstance(v, ndarray):
            what = "Only cupy arrays can be concatenated" if argument == "tup" else f"{name}: {argument}"
            raise TypeError(f"{what}: got {type(v)}; wanted an array of the device")


def _host(x: Any) -> Any:
    """An argument for NumPy. A NumPy array does not come by itself onto the device."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, (list, tuple)):
        return type(x)(map(_host, x))
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def _device(x: Any, inputs: list[ndarray], outs: list[ndarray]) -> Any:
    """A result of NumPy on the device: a view where it is one, else new memory."""
    if isinstance(x, (list, tuple)):
        made = [_device(v, inputs, outs) for v in x]
        return made if isinstance(x, list) else tuple(made)
    if isinstance(x, np.ndarray):
        for o in outs:
            if x is o._host:
                return o
        for a in inputs:
            if np.may_share_memory(x, a._host):
                return viewed(a, x)
    return fresh(x)


def _signature(text: str) -> tuple[inspect.Signature, frozenset[str]]:
    plain: dict[str, Any] = {}
    exec(f"def f{text[text.index('(') :].replace('!', '')}: pass", {"float": float, "int": int}, plain)
    strict = frozenset(part.split("!")[0].lstrip("( *") for part in text.split(",") if "!" in part)
    return inspect.signature(plain["f"]), frozenset(s.split("(")[-1] for s in strict)


def _made(line: str) -> tuple[str, Callable]:
    """The function that a line of FUNCTIONS describes."""
    mark, line = (line[0], line[1:]) if line[0] in "~=" else ("", line)
    name = line[: line.index("(")]
    signature, strict = _signature(line)
    numpys = getattr(np, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        plain: list = []
        named: dict[str, Any] = {}
        inputs: list[ndarray] = []
        for key, value in bound.arguments.items():
            p = signature.parameters[key]
            if p.kind is p.VAR_POSITIONAL:
                for v in value:
                    if key in strict:
                        _device_only(name, key, v)
                plain.extend(map(_host, value))
            elif p.kind is p.VAR_KEYWORD:
                named |= {k: _host(v) for k, v in value.items()}
            else:
                if key in strict:
                    _device_only(name, key, value)
                if key == "out" and value is not None and not isinstance(value, ndarray):
                    raise TypeError(f"Argument 'out' has incorrect type (expected cupy.ndarray, got {type(value)})")
                if p.default is p.empty:
                    plain.append(_host(value))
                elif value is not None:
                    named[key] = _host(value)
            many = value if isinstance(value, (list, tuple)) else (value,)
            inputs.extend(v for v in many if isinstance(v, ndarray))
        out = bound.arguments.get("out")
        _refuse(name, inputs, named)
        if mark == "~":
            count(host_reads=1)
        with np.errstate(all="ignore"):
            result = _computed(name, numpys, plain, named, out)
        if mark == "=":
            return result
        result = _device(result, inputs, [] if out is None else [out])
        return list(result) if name in PARTS else result

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    return name, function


def _refuse(name: str, inputs: list[ndarray], named: dict) -> None:
    if name in SORTS:
        if any(x.dtype == BF16 for x in inputs):
            raise NotImplementedError(f"Sorting arrays with dtype '{BF16}' is not supported")
        if named.get("kind") not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")


def _computed(name: str, numpys: Callable, plain: list, named: dict, out: Any) -> Any:
    if name in ("partition", "argpartition"):  # CuPy sorts, so more is in order than was asked for
        numpys, plain = (np.sort if name == "partition" else np.argsort), plain[:1]
        named.pop("kth", None)
    if name == "argsort":
        named["kind"] = "stable"
    if name in ("argmax", "argmin"):
        dtype = named.pop("dtype", np.int64)
        if out is None:
            return np.asarray(numpys(*plain, **named)).astype(dtype)
    if name in SUMS and plain[0].dtype.itemsize == 2 and plain[0].dtype.kind in "fV":
        # half types add up in float32 and are rounded once
        dtype = dtype_of(named.pop("dtype", plain[0].dtype))
        named.pop("out", None)
        result = np.asarray(numpys(plain[0].astype(np.float32), *plain[1:], **named)).astype(dtype)
        return result if out is None else _written(out, result)
    return numpys(*plain, **named)


def _written(out: ndarray, result: Any) -> np.ndarray:
    if out.shape != np.shape(result):
        raise ValueError(f"Out shape is mismatched: got {out.shape}; wanted {np.shape(result)}")
    np.copyto(out._host, result, casting="unsafe")
    return out._host


NAMES: dict[str, Any] = dict(_made(line) for line in FUNCTIONS.split("\n") if line)


# ---- creation
def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    _device_only("empty_like", "prototype", prototype)
    like = np.empty_like(prototype._host, dtype, order, shape=shape)
    return ndarray(like.shape, like.dtype, strides=None if like.flags.c_contiguous else like.strides)


def array(
    obj: Any,
    dtype: Any = None,
    copy: Any = True,
    order: Any = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """A new array from host data (counted as an upload) or from one of the device."""
    if isinstance(obj, ndarray):
        made = obj.astype(obj.dtype if dtype is None else dtype, order, copy=copy is True)
        if copy is False and made is not obj:
            raise ValueError("Unable to avoid copy while creating an array as requested.")
    elif isinstance(obj, (list, tuple)) and any(isinstance(v, ndarray) for v in obj):
        made = fresh(_uploaded(obj), dtype)
    else:
        if copy is False:
            raise ValueError("Unable to avoid copy while creating an array as requested.")
        host = np.array(obj, dtype, order=order or "K", ndmin=ndmin)
        dtype_of(host.dtype)
        count(uploads=1, bytes_up=host.nbytes)
        return fresh(host, order=order or "K")
    return made if made.ndim >= ndmin else made.reshape((1,) * (ndmin - made.ndim) + made.shape)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, copy, order or "K", blocking=blocking)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        return array(a, dtype, None, "C", ndmin=1)
    return a.astype(a.dtype if dtype is None else dtype, "C", copy=False) if a.ndim else a.reshape(1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a, order=order)


def copy(a: Any, order: str = "K") -> ndarray:
    _device_only("copy", "a", a)
    return a.copy(order)


# ---- writing and choosing
def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    """Write src, an array of the device or one number, into dst."""
    _device_only("copyto", "dst", dst)
    if isinstance(src, np.ndarray):
        if src.size != 1:
            raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
        src = src.squeeze()[()]
    if type(src) in SCALARS:
        np.copyto(np.empty((), dst.dtype), src, casting=casting)
    elif not np.can_cast(given(src).dtype, dst.dtype, casting):
        raise TypeError(f"Cannot cast {src.dtype} to {dst.dtype} in {casting} casting mode")
    if where is not None:
        mask = given(where)
        if isinstance(where, ndarray) and where.dtype != np.bool_:
            raise TypeError(f"Cannot cast array data from {where.dtype!r} to {np.dtype(bool)!r} according to 'safe'")
        where = np.asarray(mask, bool)
    with np.errstate(all="ignore"):
        np.copyto(dst._host, given(src), casting="unsafe", where=True if where is None else where)


class _Where(ufunc):
    """where(condition, x, y) and clip(x, low, high): three arguments, and no loop for bfloat16."""

    def __init__(self, name: str, loops: str, compute: Callable):
        self._of_arrays = compute
        super().__init__(name, loops)
        self._plain = compute


_TYPES = ["?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d"]
_where = _Where("where", " ".join(f"?{t}{t}->{t}" for t in _TYPES), np.where)
_clip = _Where(
    "clip",
    " ".join(f"{t}{t}{t}->{t}" for t in _TYPES),
    lambda x, low, high: np.where(low > high, high, np.where(x < low, low, np.where(x > high, high, x))),
)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        return NAMES["nonzero"](condition)
    _device_only("where", "condition", condition)
    return _where(condition.astype(bool, copy=False), x, y)


def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    _device_only("clip", "a", a)
    if a.dtype.kind == "f":
        a_min = a.dtype.type("-inf") if a_min is None else a_min
        a_max = a.dtype.type("inf") if a_max is None else a_max
    elif a.dtype.kind in "iu":
        a_min = np.iinfo(a.dtype).min if a_min is None else a_min
        a_max = np.iinfo(a.dtype).max if a_max is None else a_max
    return _clip(a, a_min, a_max, out=out)


def take(a: Any, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    """Elements at indices, which wrap around."""
    _device_only("take", "a", a)
    host = indices._host if isinstance(indices, ndarray) else _uploaded(indices, np.int64)
    if out is not None:
        if not isinstance(out, ndarray):
            raise TypeError(f"Argument 'out' has incorrect type (expected cupy.ndarray, got {type(out)})")
        if out.dtype != a.dtype:
            raise TypeError("Output dtype mismatch")
    size = a.size if axis is None else a.shape[axis] if a.ndim else 1
    if not size and host.size:
        raise IndexError("cannot do a non-empty take from an empty axes.")
    found = np.take(a._host, host % size if size else host.astype(np.int64), axis)
    if out is None:
        return fresh(found)
    if out.shape != found.shape:
        raise ValueError("Output shape mismatch")
    out._host[...] = found
    return out


def _along(a: ndarray, indices: Any, axis: Any) -> tuple[ndarray, tuple]:
    _device_only("take_along_axis", "indices", indices)
    if indices.dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    if axis is None:
        a, axis = a.ravel(), 0
    if a.ndim != indices.ndim:
        raise ValueError("`indices` and `a` must have the same number of dimensions")
    axis = range(a.ndim)[axis]
    places = [np.arange(n).reshape((1,) * k + (-1,) + (1,) * (a.ndim - k - 1)) for k, n in enumerate(a.shape)]
    size = a.shape[axis]
    if not size and indices.size:
        raise IndexError("cannot do a non-empty take from an empty axes.")
    places[axis] = indices._host % size if size else indices._host
    return a, tuple(places)


def take_along_axis(a: Any, indices: Any, axis: Any) -> ndarray:
    _device_only("take_along_axis", "a", a)
    a, places = _along(a, indices, axis)
    return fresh(a._host[places])


def put_along_axis(arr: Any, indices: Any, values: Any, axis: Any) -> None:
    _device_only("put_along_axis", "arr", arr)
    arr, places = _along(arr, indices, axis)
    arr._host[places] = np.asarray(given(values)).astype(arr.dtype)


# ---- products
def matmul(*args: Any, axes: Any = None, axis: Any = None, keepdims: bool = False, casting: str = "same_kind",
           dtype: Any = None, signature: Any = None, order: str = "K", out: Any = None) -> ndarray:  # fmt: skip
    if axes is not None or axis is not None or signature is not None or keepdims:
        raise NotImplementedError("matmul: axes, axis, keepdims and signature are not in the stand-in")
    if len(args) not in (2, 3) or (len(args) == 3 and out is not None):
        raise TypeError(f"matmul: got {len(args)} arguments; wanted two arrays, and out")
    out = args[2] if len(args) == 3 else out
    for name, x in zip(("x1", "x2"), args):
        _device_only("matmul", name, x)
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"matmul: out is {type(out)}; wanted an array of the device")
    return _product(lambda x, y: np.matmul(x, y), [x._host for x in args[:2]], dtype, casting, out)


def einsum(*operands: Any, **kwargs: Any) -> ndarray:
    dtype, _ = kwargs.pop("dtype", None), kwargs.pop("optimize", False)
    if kwargs:
        raise TypeError(f"Did not understand the following kwargs: {list(kwargs)}")
    arrays = [x for x in operands if isinstance(x, ndarray)]
    if any(isinstance(x, np.ndarray) for x in operands) or not arrays:
        raise TypeError("einsum: wanted arrays of the device")

    def product(*hosts: np.ndarray) -> Any:
        left = iter(hosts)
        return np.einsum(*(next(left) if isinstance(x, ndarray) else x for x in operands))

    return _product(product, [x._host for x in arrays], dtype, "same_kind", None)


def _product(function: Callable, hosts: list, dtype: Any, casting: str, out: Any) -> ndarray:
    """Half types are multiplied and added in float32, and rounded once."""
    kept = np.result_type(*hosts) if dtype is None else dtype_of(dtype)
    half = kept.itemsize == 2 and kept.kind in "fV"
    with np.errstate(all="ignore"):
        result = np.asarray(function(*(x.astype(np.float32 if half else kept, copy=False) for x in hosts)))
        result = result.astype(kept, copy=False)
    if out is None:
        return fresh(result)
    if not np.can_cast(kept, out.dtype, casting):
        raise TypeError(f"Cannot cast output from {kept!r} to {out.dtype!r} with casting rule '{casting}'")
    _written(out, result)
    return out


def as_strided(x: Any, shape: Any = None, strides: Any = None) -> ndarray:
    """A view with these sizes and steps in bytes; outside of x's memory it is refused (CuPy does not look)."""
    _device_only("as_strided", "x", x)
    shape, strides = x.shape if shape is None else tuple(shape), x.strides if strides is None else tuple(strides)
    view = np.ndarray(shape, x.dtype, x._mem.buffer, x.data._offset if x.size else 0, strides)
    return viewed(x, view)


for _function in (empty, empty_like, array, asarray, ascontiguousarray, asnumpy, copy, copyto, where, clip, take,
                  take_along_axis, put_along_axis, matmul, einsum):  # fmt: skip
    NAMES[_function.__name__] = _function


# ---- methods
def _attached(line: str) -> tuple[str, Callable]:
    """A method in terms of the function, or operation, of its name."""
    name = line[: line.index("(")]
    signature, _ = _signature(line)
    function = NAMES.get(name) or UFUNCS[name]
    rename = {"min": "a_min", "max": "a_max"} if name == "clip" else {}

    def method(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if rename:
            bound.apply_defaults()
        self = bound.arguments.pop("self")
        return function(self, **{rename.get(k, k): v for k, v in bound.arguments.items()})

    method.__name__, method.__qualname__ = name, f"ndarray.{name}"
    method.__signature__ = signature  # type: ignore[attr-defined]
    return name, method


def _reshape(self: ndarray, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
    return NAMES["reshape"](self, shape[0] if len(shape) == 1 else shape, order, copy=copy)


def _transpose(self: ndarray, *axes: Any) -> ndarray:
    axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    return NAMES["transpose"](self, None if axes is None or not len(axes) else tuple(axes))


def _flatten(self: ndarray, order: str = "C") -> ndarray:
    return fresh(self._host.flatten(order))


def _sort(self: ndarray, axis: int = -1, kind: Any = None) -> None:
    _refuse("sort", [self], {"kind": kind})
    if not self.flags.c_contiguous:
        raise NotImplementedError("Sorting non-contiguous array is not supported.")
    self._host.sort(axis, "stable")


def _put(self: ndarray, indices: Any, values: Any, mode: str = "wrap") -> None:
    places = indices._host if isinstance(indices, ndarray) else _uploaded(indices)
    np.put(self._host, places, np.asarray(given(values)).astype(self.dtype), mode=mode)


for _line in METHODS.split("\n"):
    if _line:
        setattr(ndarray, *_attached(_line))
for _name, _method in dict(reshape=_reshape, transpose=_transpose, flatten=_flatten, sort=_sort, put=_put).items():
    setattr(ndarray, _name, _method)
ndarray.__matmul__ = lambda x, y: matmul(x, y)  # type: ignore[attr-defined]
