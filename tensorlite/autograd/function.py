"""Users' own ops: ``autograd.Function`` with forward and backward as static methods. Floor 2."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from tensorlite.autograd.general import attach
from tensorlite.autograd.modes import mode, no_grad
from tensorlite.autograd.node import Node, Pick, tick
from tensorlite.autograd.op import Plan
from tensorlite.autograd.tensor import Tensor, alias, current_node, new, wrap, zeros_of
from tensorlite.autograd.views import rebase, touch
from tensorlite.errors import GradError


class Context:
    """What forward leaves for backward: saved tensors, marks on inputs and outputs, attributes of its own."""

    def __init__(self):
        self._tensors: tuple = ()
        self._silent: tuple = ()
        self._dirty: tuple = ()
        self._materialize = True
        self._node: Any = None
        self.needs_input_grad: tuple = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or outputs for backward; writes to them in between are noticed."""
        self._tensors = tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say that these outputs have no gradient."""
        self._silent = outputs

    def mark_dirty(self, *inputs: Tensor) -> None:
        """Say that forward wrote to these inputs, which it returns."""
        self._dirty = inputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for outputs that nobody used."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple:
        """What ``save_for_backward`` kept."""
        if self._node is None:
            return self._tensors
        saved = self._node.saved
        if saved is None:
            raise GradError(
                "saved_tensors: trying to backward through the graph a second time; the saved tensors have "
                "already been freed. Specify retain_graph=True if you need to backward twice."
            )
        out = []
        items = iter(saved)
        for item in items:
            if isinstance(item, Tensor) or item is None:
                out.append(item)
            else:  # an output: (array, version cell), then which output it is
                array, ver = item, next(items)
                spec, output = next(items)
                out.append(wrap(array, spec, _output_node(self._node, output), ver))
        return tuple(out)


def _output_node(node: Node, output: int) -> Any:
    if len(node.plan.outs) == 1:
        return node
    return Pick(node, output)


class _FunctionOp:
    """What the tape asks of an op, for a user's Function."""

    def __init__(self, outputs: int, silent: tuple):
        self.multiple, self.silent_outputs = outputs > 1, silent


class Function:
    """An op with a gradient of your own. Derive from it, then call ``YourOp.apply(...)``.

    >>> import tensorlite as tl
    >>> class Cube(tl.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * 3 * x * x
    >>> x = tl.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    forward: Callable
    backward: Callable

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple, output: Any) -> None:
        """The other style: ``forward(*args)`` without ctx, and here what to keep. Override to use it."""
        raise NotImplementedError

    def __init__(self):
        raise RuntimeError(
            f"{type(self).__name__} should not be instantiated. Methods on autograd functions are all "
            "static, so you should invoke them on the class itself: use YourOp.apply(...)"
        )

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward without a tape, and record this op as one node."""
        if not hasattr(cls, "forward"):
            raise NotImplementedError(f"{cls.__name__}: you must implement the forward function")
        ctx = Context()
        nodes = [current_node(a) if isinstance(a, Tensor) else None for a in args]
        wanted = [k for k, n in enumerate(nodes) if n is not None]
        recording = mode().grad and bool(wanted)
        ctx.needs_input_grad = tuple(n is not None for n in nodes)
        with no_grad():
            if cls.setup_context is not Function.setup_context:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
            else:
                result = cls.forward(ctx, *args)
        outs = result if isinstance(result, tuple) else (result,)
        for t in ctx._dirty:
            touch(t)
        if not recording:
            return result
        given = {id(a) for a in args if isinstance(a, Tensor)}
        dirty = {id(t) for t in ctx._dirty}
        # an input handed back unchanged becomes a new tensor, so that it can have this node
        made = [alias(o) if isinstance(o, Tensor) and id(o) in given and id(o) not in dirty else o for o in outs]
        tensors = [m for m in made if isinstance(m, Tensor)]
        silent = tuple(
            k
            for k, o in enumerate(outs)
            if any(o is s for s in ctx._silent) or not isinstance(o, Tensor) or not o._spec.dtype.is_floating_point
        )
        node = new(Node)
        node.parents = tuple(nodes[k] for k in wanted)
        node.plan = cls._plan(ctx, args, wanted, [m._spec if isinstance(m, Tensor) else None for m in made], silent)
        node.seq, node.extra = tick(), None
        at = {id(o): k for k, o in enumerate(outs) if isinstance(o, Tensor)}
        saved: list = []
        for t in ctx._tensors:
            if isinstance(t, Tensor) and id(t) in at and id(t) not in given:
                saved += [t._arr, t._ver, (t._spec, at[id(t)])]
            else:
                saved.append(t)
        node.saved, ctx._tensors, ctx._node = tuple(saved), (), _Weak(node)
        if len(tensors) == len(made) and not dirty:
            attach(node, made)
        else:
            for k, m in enumerate(made):
                if isinstance(m, Tensor) and k not in silent:
                    own = _output_node(node, k)
                    if id(outs[k]) in dirty:
                        rebase(m, own)
                    else:
                        m._node = own
        return tuple(made) if isinstance(result, tuple) else made[0]

    @classmethod
    def _plan(cls, ctx: Context, args: tuple, wanted: list, specs: list, silent: tuple) -> Plan:
        p = Plan()
        p.op, p.name, p.kw, p.specs = _FunctionOp(len(specs), silent), f"{cls.__name__}Backward", {}, ()
        p.out, p.outs, p.sums, p.fresh = specs[0], tuple(specs), None, False
        p.single = single = len(wanted) == 1
        shapes = [a._spec.shape if isinstance(a, Tensor) else None for a in args]

        def back(g: Any, node: Node) -> Any:
            ctx._node = node
            try:
                return gradients(g)
            finally:
                ctx._node = _Weak(node)

        def gradients(g: Any) -> Any:
            grads = g if isinstance(g, list) else [g]
            if ctx._materialize:
                grads = [zeros_of(s.like(*s.shape)) if x is None and s is not None else x for x, s in zip(grads, specs)]
            found = cls.backward(ctx, *grads)
            found = found if isinstance(found, tuple) else (found,)
            if len(found) > len(shapes) and all(f is None for f in found[len(shapes) :]):
                found = found[: len(shapes)]
            if len(found) != len(shapes):
                raise GradError(
                    f"{cls.__name__}: function returned an incorrect number of gradients (expected {len(shapes)}, "
                    f"got {len(found)})"
                )
            out = []
            for k in wanted:
                f = found[k]
                if f is not None and f._spec.shape != shapes[k]:
                    f = f.sum_to_size(shapes[k])
                out.append(f)
            return out[0] if single else tuple(out)

        p.back = p.fast = back
        return p


class _Weak:
    """The node, held weakly: ctx belongs to the node's plan, and a strong reference back would be a cycle."""

    def __init__(self, node: Node):
        self._ref = weakref.ref(node)

    @property
    def saved(self) -> Any:
        node = self._ref()
        return None if node is None else node.saved

    @property
    def plan(self) -> Any:
        return self._ref().plan
