"""What a function reaches without being given it: models, optimizers, tensors, numbers. Floor 4."""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from tensorlite.autograd.recording import Kind
from tensorlite.autograd.tensor import Tensor
from tensorlite.program.trees import PLAIN

DEPTH, MOST = 8, 1000  # of nested objects; items of one list


class Reach:
    """The objects of some Kind, the tensors by name, and the plain values that a function's closure and globals hold.

    ``values`` are (container, key, value, name), where the container is a dict or a closure's cell (key None);
    ``containers`` are lists and dicts, and their names.
    """

    def __init__(self, fn: Callable):
        self.holders: dict[int, Any] = {}
        self.tensors: dict[int, tuple[str, Tensor]] = {}
        self.values: list[tuple[Any, Any, Any, str]] = []
        self.containers: list[tuple[Any, str]] = []
        self._seen: set[int] = set()
        self._keep: list = []
        self._visit(fn, getattr(fn, "__name__", type(fn).__name__), set(), 0)

    def _visit(self, x: Any, name: str, names: set[str], depth: int) -> None:
        if id(x) in self._seen or depth > DEPTH or isinstance(x, (type, CodeType, *PLAIN)):
            return
        self._seen.add(id(x))
        self._keep.append(x)
        if isinstance(x, Tensor):
            self.tensors[id(x)] = (name, x)
        elif (kind := Kind.of(x)) is not None:
            self._hold(x, kind)
        elif hasattr(x, "_reached"):  # an object of this package that says what it works with
            for part in x._reached():
                self._visit(part, name, names, depth + 1)
        elif isinstance(x, functools.partial):
            for k, v in enumerate((x.func, *x.args, *x.keywords.values())):
                self._visit(v, f"{name}[{k}]", names, depth + 1)
        elif isinstance(x, MethodType):
            self._visit(x.__func__, name, names, depth)
            self._visit(x.__self__, "self", _loaded(x.__func__), depth + 1)
        elif isinstance(x, FunctionType):
            if not _ours(x):
                self._function(x, depth)
        elif isinstance(x, (list, tuple, set)):
            if isinstance(x, list) and len(x) <= MOST:
                self.containers.append((x, name))
            for k, v in enumerate(list(x)[:MOST]):
                self._visit(v, f"{name}[{k}]", names, depth + 1)
        elif isinstance(x, dict):
            if len(x) <= MOST:
                self.containers.append((x, name))
            for k, v in list(x.items())[:MOST]:
                self._visit(v, f"{name}[{k!r}]", names, depth + 1)
        elif hasattr(x, "__dict__") and not _ours(x) and type(x).__module__ != "builtins":
            self._object(x, name, names, depth)

    def _hold(self, x: Any, kind: Kind) -> None:
        if id(x) not in self.holders:
            self.holders[id(x)] = x
            forward = getattr(type(x), "forward", None)
            if isinstance(forward, FunctionType) and not _ours(forward):
                self._function(forward, 1)
            for part in kind.parts(x):
                self._hold(part, Kind.of(part))  # type: ignore[arg-type]

    def _function(self, f: FunctionType, depth: int) -> None:
        names = _loaded(f)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:  # not set yet
                continue
            self._found(cell, None, value, name, names, depth)
        for name in _globals(f.__code__):
            if name in f.__globals__:
                self._found(f.__globals__, name, f.__globals__[name], name, names, depth)
        for k, v in enumerate((*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())):
            self._visit(v, f"default {k}", names, depth + 1)

    def _object(self, x: Any, name: str, names: set[str], depth: int) -> None:
        call = type(x).__dict__.get("__call__")
        if isinstance(call, FunctionType) and depth <= 1:
            names = names | _loaded(call)
            self._function(call, depth + 1)
        for key, value in vars(x).items():
            if key in names:
                self._found(vars(x), key, value, f"{name}.{key}", names, depth)

    def _found(self, container: Any, key: Any, value: Any, name: str, names: set[str], depth: int) -> None:
        if isinstance(value, PLAIN):
            self.values.append((container, key, value, name))
        else:
            self._visit(value, name, names, depth + 1)

    def name_of(self, memory: Any, root: Callable) -> str:
        """The name of a tensor on this memory, or nothing."""
        return next((name for name, t in self.tensors.values() if root(t._arr) is memory), "")


def _ours(x: Any) -> bool:
    """Whether something is part of this package, or of a library that no user's program stands in."""
    module = getattr(x, "__module__", None) or type(x).__module__
    package = str(module).partition(".")[0]
    return package in ("numpy", "torch") or (package == "tensorlite" and ".examples" not in str(module))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for c in code.co_consts:
        if isinstance(c, CodeType):
            yield from _codes(c)


def _globals(code: CodeType) -> set[str]:
    """The names that a function, and those written inside it, look up in their module."""
    return {i.argval for c in _codes(code) for i in dis.get_instructions(c) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def _loaded(f: Any) -> set[str]:
    """All names of attributes and globals in a function."""
    return {name for c in _codes(f.__code__) for name in c.co_names}
