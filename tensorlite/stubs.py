"""The .pyi files that tell type checkers of methods and functions attached at run time. Floor 7.

``python -m tensorlite.dev stubs`` writes them; a test compares. Signatures come from the functions themselves.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorlite.autograd.primitive import Primitive
from tensorlite.autograd.tensor import Tensor

HEAD = "# Written by `python -m tensorlite.dev stubs`: change the functions, not this file.\nimport builtins\n"
UNARY = {"__abs__", "__neg__", "__pos__", "__invert__"}
NAMESPACES = ("tensorlite", "tensorlite.nn.functional")
_SKIPPED = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__module__",
    "__slots__",
    "__hash__",
    "__annotations__",
    "__annotations_cache__",
    "__annotate__",
    "__annotate_func__",
    "__static_attributes__",
    "__firstlineno__",
}


class _Stub:
    """The text of one stub file. Imports carry an underscore, so that no attribute called ``int`` hides a type."""

    def __init__(self, module: str):
        self.module, self.imports, self.body = module, {"from typing import Any as _Any"}, []

    def text(self) -> str:
        return "\n".join([HEAD + "\n".join(sorted(self.imports)), "", *self.body, ""])

    def annotation(self, given: Any, names: dict, default: str) -> str:
        """An annotation as it can stand here: builtins by their full name, all else imported."""
        if given is inspect.Parameter.empty:
            return default
        if not isinstance(given, str):
            given = inspect.formatannotation(given)

        class Rename(ast.NodeTransformer):
            def visit_Name(_, node: ast.Name) -> ast.AST:
                return ast.parse(self.name(node.id, names), mode="eval").body

            def visit_Constant(_, node: ast.Constant) -> ast.AST:
                if isinstance(node.value, str):  # a quoted name
                    return ast.parse(self.annotation(node.value, names, "_Any"), mode="eval").body
                return node

        return ast.unparse(Rename().visit(ast.parse(given, mode="eval").body))

    def name(self, name: str, names: dict) -> str:
        found = names.get(name, getattr(builtins, name, None))
        if isinstance(found, types.ModuleType):
            self.imports.add(f"import {found.__name__} as _{name}")
        elif getattr(found, "__module__", None) == "builtins" or found is getattr(builtins, name, self):
            return f"builtins.{name}"
        elif found is Tensor and self.module == Tensor.__module__:
            return "Tensor"
        elif found is None or not hasattr(found, "__module__"):
            return "_Any"
        else:
            home = "typing" if found is Any else found.__module__
            if not hasattr(importlib.import_module(home), name):
                return "_Any"
            self.imports.add(f"from {home} import {name} as _{name}")
        return f"_{name}"

    def function(self, name: str, fn: Callable, returns: str, bound: bool = False, indent: str = "") -> str:
        """``def name(...) -> ...: ...`` of a function; ``bound`` calls the first parameter self."""
        if isinstance(entry := getattr(fn, "op", None), Primitive) and not hasattr(entry, "tracked"):
            entry.finalize()  # until its first call a primitive's function takes anything
        signature, names = inspect.signature(fn, follow_wrapped=True), getattr(inspect.unwrap(fn), "__globals__", {})
        if fn is not inspect.unwrap(fn) and "out" not in signature.parameters:  # methods.op wraps to add ``out=``
            out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)
            given = list(signature.parameters.values())
            at = len(given) - (bool(given) and given[-1].kind is inspect.Parameter.VAR_KEYWORD)
            signature = signature.replace(parameters=[*given[:at], out, *given[at:]])
        parameters = list(signature.parameters.values())
        if bound and name.startswith("__") and parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
            other = "" if name in UNARY else ", other: _Any"
            return f"{indent}def {name}(self{other}) -> {returns}: ..."
        parts, starred = [], False
        for k, p in enumerate(parameters):
            if bound and k == 0 and p.kind is not p.VAR_POSITIONAL:
                parts.append("self")
                continue
            if p.kind is p.KEYWORD_ONLY and not starred:
                parts.append("*")
                starred = True
            starred |= p.kind is p.VAR_POSITIONAL
            star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
            default = "" if p.default is p.empty else " = ..."
            parts.append(f"{star}{p.name}: {self.annotation(p.annotation, names, '_Any')}{default}")
        back = self.annotation(signature.return_annotation, names, returns)
        return f"{indent}def {name}({', '.join(parts)}) -> {back}: ..."


def tensor_stub() -> str:
    """autograd/tensor.pyi: Tensor with every attached method, and the functions beside it."""
    home = importlib.import_module(Tensor.__module__)
    stub = _Stub(home.__name__)
    stub.body.append("class Tensor:")
    for name, value in sorted(Tensor.__dict__.items()):
        if name in _SKIPPED:
            continue
        if name == "__new__":
            stub.body.append("    def __new__(cls, *args: _Any, **kwargs: _Any) -> Tensor: ...")
        elif isinstance(value, property):
            getter = stub.function(name, value.fget, "_Any", bound=True, indent="    ")
            stub.body += ["    @property", getter]
            if value.fset is not None:
                stub.body += [f"    @{name}.setter", f"    def {name}(self, value: _Any) -> None: ..."]
        elif isinstance(value, (staticmethod, classmethod)):
            kind = "staticmethod" if isinstance(value, staticmethod) else "classmethod"
            stub.body += [f"    @{kind}", stub.function(name, value.__func__, "_Any", kind == "classmethod", "    ")]
        elif callable(value):
            attached = value.__module__ != home.__name__
            stub.body.append(stub.function(name, value, "Tensor" if attached else "_Any", True, "    "))
        else:
            plain = isinstance(value, (bool, int, float, str))
            stub.body.append(f"    {name}: {'builtins.' + type(value).__name__ if plain else '_Any'}")
    for name, value in sorted(vars(home).items()):
        if inspect.isfunction(value) and value.__module__ == home.__name__:
            stub.body.append(stub.function(name, value, "_Any"))
        elif name in getattr(home, "__all__", ()) and name != "Tensor" and isinstance(value, type):
            stub.body.append(f"from {value.__module__} import {name} as {name}")
    stub.body.append("def new(cls: type[Tensor], /) -> Tensor: ...")
    return stub.text()


def namespace_stub(module: str) -> str:
    """A module of public names: ops with their signatures, everything else imported from its home."""
    home = importlib.import_module(module)
    stub = _Stub(module)
    public = getattr(home, "__all__", None) or [n for n in dir(home) if not n.startswith("_")]
    for name in sorted({*public, *(["__version__"] if hasattr(home, "__version__") else [])}):
        value = getattr(home, name)
        if isinstance(value, types.ModuleType):
            if value.__name__.startswith("tensorlite."):
                base, _, last = value.__name__.rpartition(".")
                stub.body.append(f"from {base} import {last} as {name}")
        elif inspect.isfunction(value) and (hasattr(value, "op") or value.__module__ == module):
            stub.name("Tensor", {"Tensor": Tensor})
            stub.body.append(stub.function(name, value, "_Tensor"))
        elif (
            str(getattr(value, "__module__", "")).startswith("tensorlite.")
            and getattr(importlib.import_module(value.__module__), getattr(value, "__name__", ""), None) is value
        ):
            stub.body.append(f"from {value.__module__} import {value.__name__} as {name}")
        else:
            kind = type(value)
            known = kind.__module__.startswith("tensorlite.") or kind in (bool, int, float, str, tuple, list, dict)
            stub.body.append(f"{name}: {stub.name(kind.__name__, {kind.__name__: kind}) if known else '_Any'}")
    return stub.text()


def stubs() -> dict[Path, str]:
    """The path and text of every stub."""
    found = {_path(Tensor.__module__): tensor_stub()}
    for module in NAMESPACES:
        found[_path(module)] = namespace_stub(module)
    return found


def _path(module: str) -> Path:
    return Path(importlib.import_module(module).__file__ or "").with_suffix(".pyi")


def main(arguments: list[str]) -> int:
    """Write the stubs; with ``--check`` only say which are not as they would be written."""
    stale = [path for path, text in stubs().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"stale: {path}; run `python -m tensorlite.dev stubs`")
        else:
            path.write_text(stubs()[path], encoding="utf-8")
            print(f"wrote {path}")
    return int("--check" in arguments and bool(stale))
