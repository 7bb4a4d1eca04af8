"""Modules that hold modules, and lists and dicts of parameters. Floor 5."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Parameter


class _Row(Module):
    """Modules under the names "0", "1", ...: what Sequential and ModuleList share."""

    def _at(self, idx: Any) -> str:
        idx, n = operator.index(idx), len(self)
        if not -n <= idx < n:
            raise IndexError(f"index {idx} is out of range")
        return str(idx % n)

    def _named(self, idx: int) -> str:
        """The name of the module at ``idx``, which in a Sequential of a dict is no number."""
        self._at(idx)
        return list(self._module_names)[idx]

    def _rename(self, modules: Iterable[Module]) -> None:
        """Hold exactly these, numbered from 0."""
        modules = list(modules)
        for name in list(self._module_names):
            del self._modules[name]
        for k, m in enumerate(modules):
            self.add_module(str(k), m)

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Module]:
        d = self.__dict__
        return iter([d[name] for name in self._module_names])

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return self._slice(idx)
        return self.__dict__[self._named(idx)]

    def _slice(self, idx: slice) -> Any:
        return type(self)(list(self)[idx])

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._named(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        names = list(self._module_names)
        for name in names[idx] if isinstance(idx, slice) else [self._named(idx)]:
            delattr(self, name)
        self._renumber()

    def _renumber(self) -> None:
        if all(n.isdigit() for n in self._module_names):
            self._rename(self)

    def append(self, module: Module) -> Any:
        """Put a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Put several modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend should be called with an iterable, but got {type(modules).__name__}"
            )
        for m in modules:
            self.append(m)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at ``index``."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module)} is not a Module subclass")
        modules = list(self)
        modules.insert(index, module)
        self._rename(modules)
        return self

    def pop(self, key: int) -> Module:
        """Take a module out."""
        module = self[key]
        del self[key]
        return module


class Sequential(_Row):
    """Modules one after the other, each given what the one before returned.

    >>> import tensorlite as tl
    >>> net = tl.nn.Sequential(tl.nn.Linear(4, 8), tl.nn.ReLU(), tl.nn.Linear(8, 2))
    >>> net(tl.ones(3, 4)).shape
    tensorlite.Size([3, 2])
    """

    def __init__(self, *args: Any):
        super().__init__()
        if len(args) == 1 and isinstance(args[0], (OrderedDict, dict)):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for k, module in enumerate(args):
                self.add_module(str(k), module)

    def forward(self, input: Any) -> Any:
        d = self.__dict__
        for name in self._module_names:
            input = d[name](input)
        return input

    def _slice(self, idx: slice) -> Sequential:
        return type(self)(OrderedDict(list(self._modules.items())[idx]))

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)

    def __iadd__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return self.extend(list(other))


class ModuleList(_Row):
    """A list of modules whose parameters belong to the module that holds it. It has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __repr__(self) -> str:
        runs: list[list] = []  # [first, last, text] of neighbours that look alike
        for k, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1][1] = k
            else:
                runs.append([k, k, text])
        lines = [f"({a}): {t}" if a == b else f"({a}-{b}): {b - a + 1} x {t}" for a, b, t in runs]
        body = "".join("\n  " + line.replace("\n", "\n  ") for line in lines)
        return f"ModuleList({body}" + ("\n)" if lines else ")")

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])


class ModuleDict(Module):
    """A dict of modules whose parameters belong to the module that holds it. It has no forward."""

    def __init__(self, modules: Any = None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._module_names)

    def __contains__(self, key: str) -> bool:
        return key in self._module_names

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take a module out and return it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """The names with their modules."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Add the modules of a mapping or of (name, module) pairs."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"ModuleDict.update should be called with an iterable of key/value pairs, but got "
                f"{type(modules).__name__}"
            )
        items = modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules
        for k, pair in enumerate(items):
            if len(pair) != 2:
                raise ValueError(f"ModuleDict update sequence element #{k} has length {len(pair)}; 2 is required")
            self[pair[0]] = pair[1]


class ParameterList(Module):
    """A list of parameters (tensors become ones) that belong to the module that holds it."""

    def __init__(self, values: Iterable[Any] | None = None):
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _at(self, idx: Any) -> str:
        idx = operator.index(idx)
        if not -self._size <= idx < self._size:
            raise IndexError(f"index {idx} is out of range")
        return str(idx % self._size)

    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self.__dict__[self._at(idx)]

    def __setitem__(self, idx: int, param: Any) -> None:
        setattr(self, self._at(idx), _as_parameter(param))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([self.__dict__[str(k)] for k in range(self._size)])

    def append(self, value: Any) -> ParameterList:
        """Put a parameter at the end."""
        setattr(self, str(self._size), _as_parameter(value))
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> ParameterList:
        """Put several parameters at the end."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        for value in values:
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> ParameterList:
        return self.extend(values)

    def __repr__(self) -> str:
        return _listed(self, enumerate(self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterList should not be called.")


class ParameterDict(Module):
    """A dict of parameters (tensors become ones) that belong to the module that holds it."""

    def __init__(self, parameters: Any = None):
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return self.__dict__[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(
                f"Index given to ParameterDict cannot be used as a key as it is not a string (type is "
                f"'{type(key).__name__}')"
            )
        if key not in self._keys and hasattr(self, key):
            raise KeyError(f"attribute '{key}' already exists")
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __reversed__(self) -> Iterator[str]:
        return reversed(list(self._keys))

    def keys(self) -> Any:
        """The names."""
        return self._keys.keys()

    def values(self) -> list:
        """The parameters."""
        return [self[k] for k in self._keys]

    def items(self) -> list:
        """The names with their parameters."""
        return [(k, self[k]) for k in self._keys]

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of this name, or ``default``."""
        return self.__dict__[key] if key in self._keys else default

    def pop(self, key: str) -> Any:
        """Take a parameter out and return it."""
        value = self[key]
        del self[key]
        return value

    def clear(self) -> None:
        """Take all parameters out."""
        for key in list(self._keys):
            del self[key]

    def update(self, parameters: Any) -> None:
        """Add the parameters of a mapping or of (name, parameter) pairs."""
        items = parameters.items() if isinstance(parameters, (Mapping, ParameterDict)) else parameters
        for key, value in items:
            self[key] = value

    def __repr__(self) -> str:
        return _listed(self, self.items())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("ParameterDict should not be called.")


def _as_parameter(value: Any) -> Any:
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _listed(self: Module, items: Iterable) -> str:
    lines = [
        f"  ({name}): "
        + (
            f"{'Parameter' if isinstance(p, Parameter) else 'Tensor'} containing: "
            f"[{p.dtype} of size {'x'.join(map(str, p.shape))}]"
            if isinstance(p, Tensor)
            else f"Object of type: {type(p).__name__}"
        )
        for name, p in items
    ]
    return f"{type(self).__name__}(" + "\n".join(lines) + ")"
