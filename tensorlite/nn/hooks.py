"""Hooks of modules: kept apart, so that a module without any pays for none. Floor 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.autograd import recording, run
from tensorlite.autograd.modes import mode
from tensorlite.autograd.node import Handle, Node, Pick, tick
from tensorlite.autograd.op import Plan
from tensorlite.autograd.tensor import Tensor, alias, current_node, new
from tensorlite.ops.create import zeros


class Hooks:
    """The hooks of one module, or those of all: by kind, each a dict of handle id to what was registered."""

    __slots__ = ("backward", "backward_pre", "forward", "forward_pre")

    def __init__(self) -> None:
        self.forward_pre: dict = {}  # (hook, with_kwargs)
        self.forward: dict = {}  # (hook, with_kwargs, always_call)
        self.backward_pre: dict = {}
        self.backward: dict = {}

    def __bool__(self) -> bool:
        return bool(self.forward or self.forward_pre or self.backward or self.backward_pre)


class Hooked:
    """The part of Module that registers hooks. ``_hooks`` is None until there is one."""

    _hooks: Hooks | None = None

    def _own_hooks(self) -> Hooks:
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Handle:
        """``hook(module, args)`` runs before forward; what it returns, if not None, replaces the arguments.

        With ``with_kwargs`` it is ``hook(module, args, kwargs)`` and returns ``(args, kwargs)`` or None.
        """
        return add(self._own_hooks().forward_pre, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> Handle:
        """``hook(module, args, output)`` runs after forward; what it returns, if not None, replaces the output.

        With ``with_kwargs`` it is ``hook(module, args, kwargs, output)``; with ``always_call`` it runs with output
        None where forward raised.
        """
        return add(self._own_hooks().forward, (hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """``hook(module, grad_output)`` runs before the module's backward; what it returns replaces ``grad_output``."""
        return add(self._own_hooks().backward_pre, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Handle:
        """``hook(module, grad_input, grad_output)`` runs once the gradients of the module's tensor arguments are
        known; what it returns, if not None, replaces ``grad_input``."""
        return add(self._own_hooks().backward, hook, prepend)

    def register_backward_hook(self, hook: Callable[..., Any]) -> Handle:
        """PyTorch's old name of ``register_full_backward_hook``."""
        return self.register_full_backward_hook(hook)


def add(hooks: dict, hook: Any, prepend: bool = False) -> Handle:
    """Register a hook, before all others where ``prepend`` says so."""
    handle = Handle(hooks, hook)
    recording.changed()
    if prepend:
        others = {k: v for k, v in hooks.items() if k != handle.id}
        for k in others:
            del hooks[k]
        hooks.update(others)
    return handle


def call(module: Any, hooks: list[Hooks], args: tuple, kwargs: dict) -> Any:
    """``module.forward(*args, **kwargs)`` with everything that is hooked on it. Hooks of all modules come first."""
    after = [h for hs in hooks for h in hs.forward.values()]
    ran = []
    try:
        for hs in hooks:
            for hook, with_kwargs in list(hs.forward_pre.values()):
                args, kwargs = _before(module, hook, with_kwargs, args, kwargs)
        back = [h for hs in hooks for h in hs.backward.values()]
        back_pre = [h for hs in hooks for h in hs.backward_pre.values()]
        if back or back_pre:
            output = _with_backward(module, back_pre, back, args, kwargs)
        else:
            output = module.forward(*args, **kwargs)
        for entry in after:
            hook, with_kwargs, _ = entry
            ran.append(entry)
            changed = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            output = output if changed is None else changed
        return output
    except Exception:
        for hook, with_kwargs, always in after:
            if always and not any(h is hook for h, _, _ in ran):
                hook(module, args, kwargs, None) if with_kwargs else hook(module, args, None)
        raise


def _before(module: Any, hook: Callable, with_kwargs: bool, args: tuple, kwargs: dict) -> tuple:
    if not with_kwargs:
        changed = hook(module, args)
        if changed is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
        return args, kwargs
    changed = hook(module, args, kwargs)
    if changed is None:
        return args, kwargs
    if not isinstance(changed, tuple) or len(changed) != 2:
        raise RuntimeError(
            f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {changed}."
        )
    return changed


# ---- backward hooks: the tape passes through a node of ours before the module and through one behind it
def _with_backward(module: Any, before: list, after: list, args: tuple, kwargs: dict) -> Any:
    if not mode().grad:
        return module.forward(*args, **kwargs)
    seen: dict[str, tuple] = {}  # the gradients of the outputs, for the hooks that run when those of the inputs come

    def at_output(grads: tuple) -> tuple:
        for hook in before:
            grads = _replaced("full backward pre-hook", grads, hook(module, grads))
        seen["output"] = grads
        if not inputs_tracked:
            for hook in after:
                changed = hook(module, (None,) * count, grads)
                if changed is not None and not (isinstance(changed, tuple) and all(c is None for c in changed)):
                    raise RuntimeError(
                        "full backward hook: returned a gradient for inputs none of which requires grad; wanted None"
                    )
        return grads

    def at_input(grads: tuple) -> tuple:
        for hook in after:
            grads = _replaced("full backward hook", grads, hook(module, grads, seen["output"]))
        return grads

    count = len(args)
    inputs_tracked = any(isinstance(a, Tensor) and current_node(a) is not None for a in args)
    if after and inputs_tracked:
        args = _through(args, at_input, zeros_for_others=True)
    output = module.forward(*args, **kwargs)
    del args  # the hooks must not keep the module's inputs alive
    several = isinstance(output, (tuple, list))
    passed = _through(tuple(output) if several else (output,), at_output)
    return (
        type(output)(passed)
        if several and not hasattr(output, "_fields")
        else type(output)(*passed)
        if several
        else passed[0]
    )


def _replaced(what: str, grads: tuple, changed: Any) -> tuple:
    if changed is None:
        return grads
    changed = changed if isinstance(changed, tuple) else (changed,)
    if len(changed) != len(grads):
        raise RuntimeError(f"{what}: returned {len(changed)} gradients; wanted {len(grads)}")
    return changed


def _through(values: tuple, hook: Callable[[tuple], tuple], zeros_for_others: bool = False) -> tuple:
    """``values`` with its tensors that want a gradient behind one node, whose backward is ``hook``.

    ``zeros_for_others``: the hook sees zeros, not None, for tensors that want none (as PyTorch's does for inputs).
    """
    nodes = [current_node(v) if isinstance(v, Tensor) else None for v in values]
    at = [k for k, n in enumerate(nodes) if n is not None]
    if not at:
        return values
    plan = Plan()
    others = {
        k: v._spec for k, v in enumerate(values) if zeros_for_others and isinstance(v, Tensor) and nodes[k] is None
    }
    count = len(values)
    plan.name, plan.op, plan.kw, plan.sums, plan.fresh = "BackwardHookFunctionBackward", None, {}, None, False
    plan.specs = plan.outs = tuple(values[k]._spec for k in at)
    plan.out, plan.single = plan.outs[0], len(at) == 1

    def back(g: Any, node: Node) -> Any:
        grads: list = [None] * count
        for k, spec in others.items():
            grads[k] = zeros(spec.shape, dtype=spec.dtype, device=spec.device)
        for k, part in zip(at, (g,) if plan.single else g):
            grads[k] = part
        found = hook(tuple(grads))
        return found[at[0]] if plan.single else tuple(found[k] for k in at)

    plan.back = plan.fast = back
    node = new(Node)
    node.parents, node.saved, node.plan, node.seq = tuple(nodes[k] for k in at), (), plan, tick()
    node.extra = None if run.trace is None else run.trace()
    out = list(values)
    for place, k in enumerate(at):
        out[k] = alias(values[k], node if plan.single else Pick(node, place))
    return tuple(out)
