"""Optimizer: groups of parameters with their settings, and the state kept for each. Floor 5."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tensorlite.autograd import recording
from tensorlite.autograd.modes import enable_grad, no_grad
from tensorlite.autograd.node import Handle
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.autograd.weak import constant
from tensorlite.dtypes import float64
from tensorlite.nn.hooks import add
from tensorlite.nn.module import clear_grad


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()  # the default of a setting that has none


class Optimizer:
    """The base of optimizers: what is common to them, with PyTorch's names and formats.

    ``state[p]`` holds what is kept for parameter p; ``param_groups`` are dicts of ``params`` and settings, which may be
    changed at any time (``lr`` is read at every step). A subclass says in ``_update(group)`` how one group is stepped,
    or defines ``step`` itself.

    Args:
        params: tensors, (name, tensor) pairs, or dicts of ``params`` and settings that differ from the defaults.
        defaults: the settings of groups that do not have their own.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]):
        self.defaults = defaults
        self.state: Any = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._pre_hooks: dict = {}
        self._post_hooks: dict = {}
        self._steps_taken = 0  # lets a scheduler tell that it was stepped first
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                f"{type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own, such as unfrozen layers while a net is fine-tuned."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of "
                "tensors in sets will change between runs. Please use a list instead."
            )
        params = [params] if isinstance(params, Tensor) else list(params)
        if params and isinstance(params[0], tuple):
            group["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        for name, default in self.defaults.items():
            if default is required and name not in group:
                raise ValueError(f"parameter group didn't specify a value of required optimization parameter {name}")
            group.setdefault(name, default)
        if len({id(p) for p in params}) != len(params):
            raise ValueError("optimizer contains a parameter group with duplicate parameters")
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        if any(id(p) in taken for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        if self.param_groups and ("param_names" in group) != ("param_names" in self.param_groups[0]):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group with "
                "names to the optimizer that has groups without them, or the other way round"
            )
        group["params"] = params
        self.param_groups.append(group)
        recording.changed()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                clear_grad(p, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient.

        Args:
            closure: computes the loss anew, gradients included, and returns it; its value is returned.
        """
        recording.optimizer(self)
        for hook in list(self._pre_hooks.values()):
            hook(self, () if closure is None else (closure,), {})
        loss = None
        with no_grad():
            if closure is not None:
                with enable_grad():
                    loss = closure()
            own = type(self).__module__.startswith("tensorlite.")  # what it does to its settings is known
            for group in self.param_groups:
                recording.stepping(group if own else None)
                self._update(group)
            recording.stepping(None)
        self._steps_taken += 1
        for hook in list(self._post_hooks.values()):
            hook(self, () if closure is None else (closure,), {})
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        """Step the parameters of one group, in place, off the tape."""
        raise NotImplementedError(f"{type(self).__name__}: defines neither step nor _update")

    def register_step_pre_hook(self, hook: Callable) -> Handle:
        """``hook(optimizer, args, kwargs)`` runs before each step."""
        return add(self._pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable) -> Handle:
        """``hook(optimizer, args, kwargs)`` runs after each step."""
        return add(self._post_hooks, hook)

    # ---- its state
    def state_dict(self) -> dict[str, Any]:
        """State and settings, with parameters named by number: in PyTorch's format, sharing the tensors."""
        number = {id(p): k for k, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [number[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        state = {number[id(p)] if isinstance(p, Tensor) else p: s for p, s in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; parameters are matched by their order. The given tensors are copied."""
        given = state_dict["param_groups"]
        if len(given) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(a["params"]) != len(b["params"]) for a, b in zip(given, self.param_groups)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        mine = dict(zip((k for g in given for k in g["params"]), (p for g in self.param_groups for p in g["params"])))
        state: Any = defaultdict(dict)
        for key, value in state_dict["state"].items():
            p = mine.get(key)
            if p is None:
                state[key] = copy.deepcopy(value)
            else:
                state[p] = {name: _fitted(name, v, p) for name, v in value.items()}
        groups = []
        for new, old in zip(given, self.param_groups):
            group = {k: copy.deepcopy(v) for k, v in new.items() if k != "params"}
            if "param_names" in old and "param_names" not in group:
                group["param_names"] = old["param_names"]
            group["params"] = old["params"]
            groups.append(group)
        self.__setstate__({"state": state, "param_groups": groups})

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        recording.changed()
        for name in ("_pre_hooks", "_post_hooks"):
            self.__dict__.setdefault(name, {})
        self.__dict__.setdefault("_steps_taken", 0)
        for group in self.param_groups:  # settings that an older version did not have
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for k, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {k}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join(lines) + "\n)"


def _fitted(name: str, value: Any, p: Tensor) -> Any:
    """A state of parameter ``p`` as loaded: floats in the dtype of ``p``, except what is single. Always a copy."""
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    with no_grad():
        if name not in ("step", "mu_product") and p.is_floating_point():
            return value.detach().to(dtype=p.dtype if value.is_floating_point() else None, device=p.device, copy=True)
        return value.detach().to(device=p.device, copy=True)


def check(name: str, value: Any, ok: bool) -> None:
    """Refuse a setting with PyTorch's words."""
    if not ok:
        raise ValueError(f"Invalid {name}: {value}")


def with_gradients(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of a group that have a gradient, and the gradients."""
    params, grads = [], []
    for p in group["params"]:
        g = p.grad
        if g is not None:
            params.append(p)
            grads.append(g)
    return params, grads


def rate(group: dict[str, Any], key: str = "lr") -> Tensor:
    """The learning rate of a group as data: a program that was recorded reads it anew at every step."""
    value = group[key]
    if isinstance(value, Tensor):
        return value
    device = group["params"][0].device
    if device.type != "cpu":
        return constant(float(value), float64, device)
    return from_array(recording.setting(group, key, value))


def steps_by_table(optimizer: Any) -> bool:
    """Whether a step is nothing but update ops, which can be told on the device to do nothing."""
    cls = type(optimizer)
    return isinstance(optimizer, Optimizer) and cls.step is Optimizer.step and cls.__module__.startswith("tensorlite.")


def refuse_differentiable(differentiable: bool) -> None:
    """Steps are effects that no gradient passes."""
    if differentiable:
        raise NotImplementedError("optimizer: differentiable=True is not supported; wanted False")


def _held(optimizer: Optimizer) -> list[tuple[str, Any]]:
    """The tensors of an optimizer: parameters, what it keeps for each, settings that are tensors."""
    found: list[tuple[str, Any]] = []
    for g, group in enumerate(optimizer.param_groups):
        found += [(f"parameter {k} of group {g}", p) for k, p in enumerate(group["params"])]
        found += [(f"{key} of group {g}", v) for key, v in group.items() if isinstance(v, Tensor)]
    for state in optimizer.state.values():
        found += [(key, v) for key, v in state.items() if isinstance(v, Tensor)]
    return found


def _facts(optimizer: Optimizer) -> tuple:
    kept = (id(v) for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
    return (tuple(tuple(map(id, g["params"])) for g in optimizer.param_groups), len(optimizer.state), tuple(kept))


recording.Kind(Optimizer, _held, _facts)
