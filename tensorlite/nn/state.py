"""The part of Module that gives its state and takes it back. Floor 5."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from typing import Any

from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.node import Handle
from tensorlite.autograd.tensor import Tensor
from tensorlite.nn.hooks import add
from tensorlite.nn.parameter import Parameter

EXTRA = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    """What ``load_state_dict`` returns: the keys that were missing and those that nothing wanted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return (
            "<All keys matched successfully>"
            if not self.missing_keys and not self.unexpected_keys
            else super().__repr__()
        )

    __str__ = __repr__


class Stateful:
    """``state_dict`` and ``load_state_dict``, with their hooks."""

    _version: int = 1  # of the layout of a class's state; written to the metadata of state dicts
    _state_hooks: dict[str, dict] | None = None

    # for whoever reads: Module has these
    _parameter_names: dict[str, None]
    _buffer_names: dict[str, bool]
    _module_names: dict[str, None]

    def _hooks_of_state(self, kind: str) -> dict:
        if self._state_hooks is None:
            self._state_hooks = {}
        return self._state_hooks.setdefault(kind, {})

    def _run_state_hooks(self, kind: str, *args: Any) -> Any:
        for hook in list((self._state_hooks or {}).get(kind, {}).values()):
            hook(*args)

    def register_state_dict_pre_hook(self, hook: Callable) -> Handle:
        """``hook(module, prefix, keep_vars)`` runs before the module's state is collected."""
        return add(self._hooks_of_state("save_pre"), hook)

    def register_state_dict_post_hook(self, hook: Callable) -> Handle:
        """``hook(module, state_dict, prefix, local_metadata)`` runs after the module's state was collected."""
        return add(self._hooks_of_state("save_post"), hook)

    def register_load_state_dict_pre_hook(self, hook: Callable) -> Handle:
        """``hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)``
        runs before the module takes its part of ``state_dict``, which it may change."""
        return add(self._hooks_of_state("load_pre"), hook)

    def register_load_state_dict_post_hook(self, hook: Callable) -> Handle:
        """``hook(module, incompatible_keys)`` runs after the module has loaded; it may change the two lists."""
        return add(self._hooks_of_state("load_post"), hook)

    def get_extra_state(self) -> Any:
        """Whatever else belongs into the state: define it together with ``set_extra_state``."""
        raise RuntimeError(f"{type(self).__name__}: defines no get_extra_state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what ``get_extra_state`` gave."""
        raise RuntimeError(f"{type(self).__name__}: defines no set_extra_state")

    # ---- out
    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Every parameter and persistent buffer by its dotted name, detached but sharing memory.

        >>> import tensorlite as tl
        >>> list(tl.nn.Linear(2, 3).state_dict())
        ['weight', 'bias']
        """
        if args:  # PyTorch's older positional form
            destination = args[0] if destination is None else destination
            prefix = args[1] if len(args) > 1 and not prefix else prefix
            keep_vars = args[2] if len(args) > 2 and not keep_vars else keep_vars
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = metadata
        self._run_state_hooks("save_pre", self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None:
                child.state_dict(destination=destination, prefix=prefix + name + ".", keep_vars=keep_vars)
        self._run_state_hooks("save_post", self, destination, prefix, metadata)
        return destination

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        """Put this module's own state, without its children's, into ``destination``."""
        persistent = [n for n, keep in self._buffer_names.items() if keep]
        for name in (*self._parameter_names, *persistent):
            value = self.__dict__[name]
            if value is not None:
                destination[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Stateful.get_extra_state:
            destination[prefix + EXTRA] = self.get_extra_state()

    # ---- back in
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy values from ``state_dict`` into parameters and buffers of these names.

        Args:
            strict: raise where keys are missing or unexpected; otherwise they are only returned.
            assign: make the given tensors the parameters and buffers, instead of copying their values.

        Raises:
            RuntimeError: listing the missing keys, the unexpected ones, and each tensor whose size differs.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        metadata = getattr(state_dict, "_metadata", None)
        given = OrderedDict(state_dict)
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []

        def load(module: Any, part: dict, prefix: str) -> None:
            local = {} if metadata is None else dict(metadata.get(prefix[:-1], {}))
            if assign:
                local["assign_to_params_buffers"] = True
            module._load_from_state_dict(part, prefix, local, True, missing, unexpected, errors)
            for name in module._module_names:
                child = module.__dict__[name]
                if child is not None:
                    inner = prefix + name + "."
                    load(child, {k: v for k, v in part.items() if k.startswith(inner)}, inner)
            module._run_state_hooks("load_post", module, _IncompatibleKeys(missing, unexpected))

        load(self, given, "")
        if strict:
            if unexpected:
                errors.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
            if missing:
                errors.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if errors:
            listed = "\n\t".join(errors)
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{listed}")
        return _IncompatibleKeys(missing, unexpected)

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list,
        unexpected_keys: list,
        error_msgs: list,
    ) -> None:
        """Take this module's own state from ``state_dict``; note in the lists what does not fit."""
        self._run_state_hooks(
            "load_pre", self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        assign = local_metadata.get("assign_to_params_buffers", False)
        persistent = [n for n, keep in self._buffer_names.items() if keep]
        own = {n: self.__dict__[n] for n in (*self._parameter_names, *persistent)}
        for name, value in own.items():
            if value is None:
                continue
            key = prefix + name
            if key not in state_dict:
                missing_keys.append(key)
                continue
            given = state_dict[key]
            if not isinstance(given, Tensor):
                error_msgs.append(
                    f'While copying the parameter named "{key}", expected a tensor from checkpoint but '
                    f"received {type(given)}"
                )
            elif given._spec.shape != value._spec.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, "
                    f"the shape in current model is {value.shape}."
                )
            elif assign:
                if isinstance(value, Parameter) and not isinstance(given, Parameter):
                    given = Parameter(given, requires_grad=value.requires_grad)
                setattr(self, name, given)
            else:
                with no_grad():
                    value.copy_(given)
        if type(self).set_extra_state is not Stateful.set_extra_state:
            if prefix + EXTRA in state_dict:
                self.set_extra_state(state_dict[prefix + EXTRA])
            else:
                missing_keys.append(prefix + EXTRA)
        elif prefix + EXTRA in state_dict:
            unexpected_keys.append(prefix + EXTRA)
        for key in state_dict:
            if key.startswith(prefix) and key != prefix + EXTRA:
                name, *rest = key[len(prefix) :].split(".", 1)
                if name not in self._module_names if rest else name not in own:
                    unexpected_keys.append(key)


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{k}"' for k in keys)
