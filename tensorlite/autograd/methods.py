"""How op files make functions public and attach them to Tensor. Floor 2.

``@op`` registers a composite of other ops; ``@face(primitive)`` the public function of a primitive whose arguments
need PyTorch's freedom (``alpha=``, ``dim`` as int or tuple, ``out=``). Both can become methods and in-place methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.op import TABLE, Op
from tensorlite.autograd.primitive import Primitive
from tensorlite.autograd.spec import spec_of
from tensorlite.autograd.tensor import Tensor, needs_grad
from tensorlite.autograd.views import inplace, touch
from tensorlite.autograd.weak import lift
from tensorlite.dtypes import can_cast
from tensorlite.errors import DTypeError, GradError


def op(
    fn: Callable | None = None,
    *,
    name: str | None = None,
    method: bool | str | tuple = False,
    in_place: bool = False,
    out: bool = False,
    torch: Any = "same",
) -> Any:
    """Register a public function made of other ops. ``method`` attaches it to Tensor (True: under its own name)."""
    if fn is None:
        return functools.partial(op, name=name, method=method, in_place=in_place, out=out, torch=torch)
    entry = Op(fn, name or fn.__name__, torch)
    if entry.name in TABLE:
        raise ValueError(f"op {entry.name!r} is registered twice")
    TABLE[entry.name] = entry
    return _publish(fn, entry, method, in_place, out, None)


def face(primitive: Any, *, method: bool | str | tuple = False, in_place: bool = False, out: bool = False) -> Callable:
    """Make a function the public face of a primitive: its cases run through it."""

    def decorate(fn: Callable) -> Any:
        return _publish(fn, primitive.op, method, in_place, out, primitive.op)

    return decorate


def _publish(
    fn: Callable, entry: Op, method: bool | str | tuple, in_place: bool, out: bool, primitive: Primitive | None
) -> Any:
    call = _with_out(fn, entry.name) if out else fn
    if not hasattr(call, "op"):
        call.op = entry  # type: ignore[attr-defined]
        for part in ("cases", "ref", "nograd"):
            setattr(call, part, getattr(entry, part))
    entry.call, entry.doc = call, (fn.__doc__ or entry.doc)
    names = (fn.__name__,) if method is True else (method,) if isinstance(method, str) else tuple(method or ())
    for name in names:
        attach_method(name, fn)  # methods take no out=, and are spared the look at it
    if in_place:
        entry.in_place = tuple(name + "_" for name in names or (fn.__name__,))
        for name in entry.in_place:
            attach_method(name, _in_place(fn, primitive))
    entry.methods, entry.takes_out = names, out
    return call


def public(primitive_call: Any, *, method: str | tuple | None = None, in_place: bool = True) -> Any:
    """The public function of a primitive that needs no argument beyond its inputs and ``out=``.

    The primitive's own text becomes the method, so that ``x.exp()`` costs no second call.
    """
    entry: Primitive = primitive_call.op
    names = (method,) if isinstance(method, str) else method or (entry.name,)

    if len(entry.inputs) == 1:

        def function(input: Tensor, *, out: Any = None) -> Tensor:
            y = primitive_call(input)
            return y if out is None else store(y, out, (input,), entry.name)
    else:
        entry.public_names = {entry.inputs[1]: "other"}

        def function(input: Any, other: Any, *, out: Any = None) -> Tensor:  # type: ignore[misc]
            if not isinstance(input, Tensor):
                input = lift(input, other)
            y = primitive_call(input, other)
            return y if out is None else store(y, out, (input, other), entry.name)

    function.__name__ = function.__qualname__ = entry.name
    function.__doc__, function.__module__ = entry.doc, entry.module
    function.op = entry  # type: ignore[attr-defined]
    entry.call, entry.methods, entry.takes_out = function, tuple(names), True
    for name in names:
        attach_method(name, primitive_call)
    if in_place:
        for name in names:
            attach_method(name + "_", _in_place(function, entry))
        entry.in_place = tuple(name + "_" for name in names)
    return function


def attach_method(name: str, fn: Callable) -> None:
    """Make ``fn`` a method of Tensor."""
    if name in Tensor.__dict__:
        raise ValueError(f"Tensor.{name} is attached twice")
    setattr(Tensor, name, fn)


def method(*names: str) -> Callable:
    """Attach a function to Tensor under these names (or its own)."""

    def decorate(fn: Callable) -> Any:
        for name in names or (fn.__name__,):
            attach_method(name, fn)
        return fn

    return decorate


def _in_place(fn: Callable, primitive: Primitive | None) -> Callable:
    """``x.op_(...)`` of ``op(x, ...)``."""
    name = fn.__name__ + "_"

    def call(self, *args, **kwargs):
        if primitive is not None and not kwargs and len(args) == len(primitive.inputs) - 1 and not primitive.params:
            return primitive.into(self, self, *[lift(a, self) for a in args])
        return inplace(name, self, lambda old: fn(old, *args, **kwargs))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"In place: ``x.{name}(...)`` writes ``{fn.__name__}(x, ...)`` into x and returns x."
    return call


def _with_out(fn: Callable, name: str) -> Callable:
    """``fn`` with PyTorch's ``out=``: the result is written there, and the tensor resized where it is empty."""

    @functools.wraps(fn)
    def call(*args, out: Any = None, **kwargs):
        result = fn(*args, **kwargs)
        return result if out is None else store(result, out, args, name)

    return call


def store(result: Any, out: Any, args: tuple, name: str) -> Any:
    """Write ``result`` into ``out`` by PyTorch's rules of ``out=``."""
    if isinstance(result, tuple):
        return (
            type(result)(*(store(r, o, args, name) for r, o in zip(result, out)))
            if hasattr(result, "_fields")
            else tuple(store(r, o, args, name) for r, o in zip(result, out))
        )
    if not isinstance(out, Tensor):
        raise TypeError(f"{name}: out is {type(out).__name__}; wanted a Tensor")
    if needs_grad(out, *args):
        raise GradError(
            f"{name}: functions with out=... arguments don't support automatic differentiation, but one of "
            "the arguments requires grad"
        )
    if not can_cast(result._spec.dtype, out._spec.dtype):
        raise DTypeError(
            f"{name}: result type {result._spec.dtype.name} can't be cast to the desired output type "
            f"{out._spec.dtype.name}"
        )
    if out._spec.shape != result._spec.shape:
        spec, d = result._spec, out._spec.dtype
        recording.refuse("out=: the given tensor got other memory; give one of the result's shape")
        out._arr, out._spec = result._arr.astype(d.np), spec_of(spec.shape, d, spec.device, spec.format)
    else:
        recording.write(out._arr, result._arr)
    touch(out)
    return out
