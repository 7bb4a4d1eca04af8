"""A compiled Module: the module itself, its forward replayed. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.nn.module import Module
from tensorlite.program.compiled import WRAPPERS, Compiled


class OptimizedModule(Module):
    """What ``tensorlite.compile(module)`` gives: a Module whose forward is recorded and replayed.

    The module inside, ``_orig_mod``, keeps its parameters, modes and attributes, which are reached through this one.

    >>> import tensorlite as tl
    >>> model = tl.compile(tl.nn.Linear(2, 1))
    >>> model(tl.ones(3, 2)).shape, model.in_features, list(model.state_dict())
    (tensorlite.Size([3, 1]), 2, ['_orig_mod.weight', '_orig_mod.bias'])
    """

    def __init__(self, module: Module, state: Any = (), options: dict[str, Any] | None = None):
        super().__init__()
        self._orig_mod = module
        self.__dict__["_program"] = Compiled(module, (state, module), options)
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_program"](*args, **kwargs)

    def train(self, mode: bool = True) -> OptimizedModule:
        super().train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        inside = self.__dict__.get("_orig_mod")
        if inside is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(inside, name)

    def __reduce__(self) -> Any:
        return OptimizedModule, (self._orig_mod,)


WRAPPERS.append((Module, OptimizedModule))
