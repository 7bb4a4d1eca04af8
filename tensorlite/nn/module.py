"""Module: the base of all layers and models. Floor 5.

Parameters, buffers and submodules are plain attributes: reading one costs what any attribute costs. Beside them a
module keeps their names in order; ``_parameters``, ``_buffers`` and ``_modules`` are views of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import nullcontext
from typing import Any, TypeVar

from tensorlite.autograd import recording
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.node import Handle
from tensorlite.autograd.spec import asked_format, channels_last_3d
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import Device
from tensorlite.dtypes import as_dtype, bfloat16, dtype, float16, float32, float64
from tensorlite.nn import hooks as _hooks
from tensorlite.nn.hooks import Hooked, Hooks
from tensorlite.nn.parameter import Buffer, Parameter
from tensorlite.nn.state import Stateful
from tensorlite.program.trees import PLAIN, Same

M = TypeVar("M", bound="Module")

path_tracker: Callable | None = None  # module -> context manager held while its forward runs; see nn/path.py
_of_all: Hooks | None = None  # the hooks of all modules


class Registry(MutableMapping):
    """A view of a module's parameters, buffers or submodules as a dict. Writing to it sets the attribute too."""

    __slots__ = ("_default", "_names", "_values")

    def __init__(self, values: dict, names: dict, default: Any = None):
        self._values, self._names, self._default = values, names, default

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names.setdefault(name, self._default)
        self._values[name] = value
        recording.changed()

    def __delitem__(self, name: str) -> None:
        del self._names[name]
        del self._values[name]
        recording.changed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def copy(self) -> dict:
        return {n: self._values[n] for n in self._names}

    def __repr__(self) -> str:
        return repr(self.copy())


def _forward_missing(self: Any, *args: Any) -> None:
    raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')


class Module(Stateful, Hooked):
    """A part of a model: parameters, buffers, submodules, and a ``forward`` that uses them.

    >>> import tensorlite as tl
    >>> class Net(tl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = tl.nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.fc(x).relu()
    >>> [name for name, _ in Net().named_parameters()]
    ['fc.weight', 'fc.bias']
    >>> Net()(tl.ones(3, 4)).shape
    tensorlite.Size([3, 2])
    """

    training: bool
    forward: Callable[..., Any] = _forward_missing

    def __init__(self) -> None:
        d = self.__dict__
        d["training"] = True
        d["_parameter_names"] = {}
        d["_buffer_names"] = {}  # name -> whether it is part of the state_dict
        d["_module_names"] = {}

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self._hooks is None and path_tracker is None and _of_all is None:
            return self.forward(*args, **kwargs)
        return self._call_with_hooks(args, kwargs)

    def _call_with_hooks(self, args: tuple, kwargs: dict) -> Any:
        global _of_all
        if _of_all is not None and not _of_all:  # all were taken away again: calls become cheap again
            _of_all = None
        if self._hooks is not None and not self._hooks:
            self._hooks = None
        given = [h for h in (_of_all, self._hooks) if h is not None]
        with nullcontext() if path_tracker is None else path_tracker(self):
            return _hooks.call(self, given, args, kwargs) if given else self.forward(*args, **kwargs)

    __call__: Callable[..., Any] = _call

    # ---- registration
    @property
    def _parameters(self) -> Registry:
        return Registry(self.__dict__, self._parameter_names)

    @property
    def _buffers(self) -> Registry:
        return Registry(self.__dict__, self._buffer_names, True)

    @property
    def _modules(self) -> Registry:
        return Registry(self.__dict__, self._module_names)

    @property
    def _non_persistent_buffers_set(self) -> set[str]:
        return {n for n, persistent in self._buffer_names.items() if not persistent}

    def __setattr__(self, name: str, value: Any) -> None:
        recording.structure[0] += 1
        d = self.__dict__
        parameters = d.get("_parameter_names")
        if parameters is None:
            if isinstance(value, (Parameter, Module, Buffer)):
                kinds = {Module: "module", Buffer: "buffer", Parameter: "parameters"}
                what = next(name for kind, name in kinds.items() if isinstance(value, kind))
                raise AttributeError(f"cannot assign {what} before Module.__init__() call")
            object.__setattr__(self, name, value)
        elif isinstance(value, Parameter):
            self._forget(name, parameters)
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self._forget(name, d["_module_names"])
            d["_module_names"][name] = None
            d[name] = value
        elif isinstance(value, Buffer):
            persistent = d["_buffer_names"].get(name, value.persistent)
            self._forget(name, d["_buffer_names"])
            self.register_buffer(name, value, persistent)
        elif name in parameters:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type(value)}' as parameter '{name}' (tensorlite.nn.Parameter or None expected)"
                )
            d[name] = None
        elif name in d["_module_names"]:
            if value is not None:
                raise TypeError(
                    f"cannot assign '{_type(value)}' as child module '{name}' (tensorlite.nn.Module or None expected)"
                )
            d[name] = None
        elif name in d["_buffer_names"]:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign '{_type(value)}' as buffer '{name}' (tensorlite.Tensor, "
                    "tensorlite.nn.Buffer or None expected)"
                )
            d[name] = value
        else:
            object.__setattr__(self, name, value)

    def _forget(self, name: str, keep: dict) -> None:
        """``name`` is about to become a member of ``keep``: drop what else it may have been."""
        d = self.__dict__
        for names in (d["_parameter_names"], d["_buffer_names"], d["_module_names"]):
            if names is not keep and name in names:
                del names[name]
                del d[name]
        if name not in keep:
            d.pop(name, None)

    def __delattr__(self, name: str) -> None:
        recording.changed()
        object.__delattr__(self, name)
        for names in (self._parameter_names, self._buffer_names, self._module_names):
            names.pop(name, None)

    def _check_name(self, what: str, name: str, names: dict) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {_type(name)}")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got: "{name}"')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and name not in names:
            raise KeyError(f"attribute '{name}' already exists")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Make ``param`` (or None: a place kept free) the parameter of this name."""
        if "_parameter_names" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, self._parameter_names)
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{_type(param)}' object to parameter '{name}' (tensorlite.nn.Parameter "
                    "or None required)"
                )
            if param.grad_fn is not None:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be "
                    f"created explicitly. To express '{name}' as a function of another Tensor, compute "
                    "the value in the forward() method."
                )
        self._parameter_names[name] = None
        self.__dict__[name] = param
        recording.changed()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make ``tensor`` a buffer: it moves with the module, but no optimizer trains it.

        Args:
            persistent: whether it is part of ``state_dict``.
        """
        if "_buffer_names" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, self._buffer_names)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{_type(tensor)}' object to buffer '{name}' (tensorlite Tensor or None required)"
            )
        self._buffer_names[name] = persistent
        self.__dict__[name] = tensor
        recording.changed()

    def add_module(self, name: str, module: Module | None) -> None:
        """Make ``module`` a child under this name."""
        if not isinstance(module, Module) and module is not None:
            raise TypeError(f"{_type(module)} is not a Module subclass")
        self._check_name("module", name, self._module_names)
        self._module_names[name] = None
        self.__dict__[name] = module

    register_module = add_module

    # ---- going through what there is
    def named_modules(
        self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted names, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None:
                yield from child.named_modules(memo, prefix + ("." if prefix else "") + name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names, each once."""
        seen = set()
        for name in self._module_names:
            child = self.__dict__[name]
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        for _, child in self.named_children():
            yield child

    def _named_members(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        below = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in below:
            for name in module.__dict__[kind]:
                member = module.__dict__[name]
                if member is None or id(member) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(member))
                yield path + ("." if path else "") + name, member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters here and below with their dotted names, each once."""
        return self._named_members("_parameter_names", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters here and below, each once: what an optimizer is given."""
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers here and below with their dotted names, each once."""
        return self._named_members("_buffer_names", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers here and below, each once."""
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; the empty path is this one."""
        module: Module = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put ``module`` at a dotted path. With ``strict`` there must be one already."""
        if not target:
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"{_type(module)} is not an nn.Module")
        path, _, name = target.rpartition(".")
        parent = self.get_submodule(path)
        if strict and not hasattr(parent, name):
            raise AttributeError(f"{type(parent).__name__} has no attribute `{name}`")
        if hasattr(parent, name) and not isinstance(getattr(parent, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        found = self._member(target)
        if not isinstance(found, Parameter):
            raise AttributeError(f"`{target.rpartition('.')[2]}` is not an nn.Parameter")
        return found

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path."""
        path, _, name = target.rpartition(".")
        found = self._member(target)
        if name not in self.get_submodule(path)._buffer_names:
            raise AttributeError(f"`{name}` is not a buffer")
        return found

    def _member(self, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        return getattr(module, name)

    # ---- changing all of it
    def apply(self: M, fn: Callable[[Module], None]) -> M:
        """Call ``fn`` with every module below and then with this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: M, mode: bool = True) -> M:
        """Set training mode here and below: dropout and batch norm behave differently in it."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: M) -> M:
        """Leave training mode here and below."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Say of all parameters whether they want a gradient."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with zeros."""
        for p in self.parameters():
            clear_grad(p, set_to_none)

    def _apply(self: M, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> M:
        """Put ``fn(data)`` in the place of every parameter's data and gradient (parameters stay the same objects) and
        of every buffer."""
        if recurse:
            for child in self.children():
                child._apply(fn)
        d = self.__dict__
        with no_grad():
            for name in self._parameter_names:
                p = d[name]
                if p is not None:
                    grad = p.grad
                    p.data = fn(p.data)
                    if grad is not None:
                        grad.data = fn(grad.data)
        for name in self._buffer_names:
            if d[name] is not None:
                d[name] = fn(d[name])
        recording.changed()
        return self

    def compile(self, *, state: Any = (), options: dict[str, Any] | None = None, **unused: Any) -> None:
        """Compile this module's forward in place (``tensorlite.compile``); hooks of its own go on running each call.

        Args:
            state, options: as of ``tensorlite.compile``; its other keywords are taken for PyTorch's sake.
        """
        from tensorlite.program.compiled import Compiled, mode_options

        mode_options(options or {})
        self.__dict__.pop("forward", None)
        self.__dict__["forward"] = Compiled(self.forward, (state, self), options)
        recording.changed()

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        """Move parameters and buffers to a device, floating-point ones to a dtype: ``to(device)``, ``to(dtype)``,
        ``to(device, dtype)``, ``to(tensor)``. A ``memory_format`` is for those of 4 dimensions."""
        device, kind = kwargs.pop("device", None), kwargs.pop("dtype", None)
        kwargs.pop("non_blocking", None)
        format = kwargs.pop("memory_format", None)
        if kwargs:
            raise TypeError(f"to: got an unexpected keyword argument {next(iter(kwargs))!r}")
        for a in args:
            if isinstance(a, Tensor):
                device, kind = a.device, a.dtype
            elif isinstance(a, (Device, str)):
                device = a
            elif isinstance(a, bool):
                pass  # non_blocking by position
            elif a is not None:
                kind = a
        if kind is not None:
            kind = as_dtype(kind, "to")
            if not kind.is_floating_point:
                raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={kind}")
        if format is channels_last_3d:
            asked_format("to", format, 5)  # raises, saying what is missing
        return self._apply(
            lambda t: t.to(
                dtype=kind if t.is_floating_point() else None,
                device=device,
                memory_format=format if t.dim() == 4 else None,
            )
        )

    def type(self: M, dst_type: dtype) -> M:
        """Cast all parameters and buffers, whatever they are now."""
        return self._apply(lambda t: t.to(dst_type))

    def float(self: M) -> M:
        """Cast floating-point parameters and buffers to float32."""
        return self.to(float32)

    def double(self: M) -> M:
        """Cast floating-point parameters and buffers to float64."""
        return self.to(float64)

    def half(self: M) -> M:
        """Cast floating-point parameters and buffers to float16."""
        return self.to(float16)

    def bfloat16(self: M) -> M:
        """Cast floating-point parameters and buffers to bfloat16."""
        return self.to(bfloat16)

    def cpu(self: M) -> M:
        """Move parameters and buffers to the CPU."""
        return self.to("cpu")

    def cuda(self: M, device: Any = None) -> M:
        """Move parameters and buffers to a GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    # ---- as text
    def _get_name(self) -> str:
        return self.__class__.__name__

    def extra_repr(self) -> str:
        """What stands in the brackets of this module's repr, before its children."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        head = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(self.__dict__[name]))}" for name in self._module_names]
        lines = head + children
        if not lines:
            return self._get_name() + "()"
        if len(head) == 1 and not children:
            return f"{self._get_name()}({head[0]})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"

    def __dir__(self) -> list[str]:
        return sorted(k for k in object.__dir__(self) if not k[0].isdigit())


def clear_grad(p: Tensor, set_to_none: bool) -> None:
    """``p.grad`` dropped, or filled with zeros and cut from its history."""
    if set_to_none:
        recording.cleared(p)
    grad = p.grad
    if grad is None:
        return
    if set_to_none:
        p.grad = None
        return
    if grad.grad_fn is not None:
        p.grad = grad = grad.detach()
    with no_grad():
        grad.zero_()


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


# ---- hooks of all modules
def _hooks_of_all() -> Hooks:
    global _of_all
    if _of_all is None:
        _of_all = Hooks()
    return _of_all


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> Handle:
    """``hook(module, args)`` before every module's forward."""
    return _hooks.add(_hooks_of_all().forward_pre, (hook, False))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> Handle:
    """``hook(module, args, output)`` after every module's forward."""
    return _hooks.add(_hooks_of_all().forward, (hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> Handle:
    """``hook(module, grad_output)`` before every module's backward."""
    return _hooks.add(_hooks_of_all().backward_pre, hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> Handle:
    """``hook(module, grad_input, grad_output)`` after every module's backward."""
    return _hooks.add(_hooks_of_all().backward, hook)


def _fact(value: Any) -> Any:
    """A plain value, or a tuple of some, as it is; anything else by what object it is."""
    parts = value if isinstance(value, tuple) else (value,)
    return value if all(isinstance(v, PLAIN) for v in parts) else Same(value)


def _facts(module: Module) -> tuple:
    """What a module's forward may depend on besides the values of its tensors."""
    d = module.__dict__
    members = {*module._parameter_names, *module._buffer_names, *module._module_names}
    return (
        *((k, _fact(v)) for k, v in d.items() if k not in members and k != "_hooks"),
        *((k, id(d[k])) for k in sorted(members)),
        None if module._hooks is None else tuple(tuple(getattr(module._hooks, k)) for k in Hooks.__slots__),
    )


def _own(module: Module) -> list[tuple[str, Any]]:
    d = module.__dict__
    return [(name, d[name]) for name in (*module._parameter_names, *module._buffer_names) if d[name] is not None]


recording.Kind(Module, _own, _facts, lambda module: list(module.children()))
