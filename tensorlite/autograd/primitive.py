"""Primitive: one op, whole. Its forward, law of shapes, gradient and cases, and what a call does. Floor 2.

Positional inputs are data and may change between replays of a recorded program; keyword parameters are constants.
See CONTRIBUTING.md, "add an op in six steps", for a walk through the parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from tensorlite.autograd import recording, run as running, template
from tensorlite.autograd.general import attach, general_plan, node_name
from tensorlite.autograd.modes import mode
from tensorlite.autograd.node import Node, tick
from tensorlite.autograd.op import SAME, TABLE, Entry, Op, Plan
from tensorlite.autograd.pick import ANY, pick
from tensorlite.autograd.run import run
from tensorlite.autograd.spec import CHANNELS_LAST, CONTIGUOUS, Spec, format_of, spec_of
from tensorlite.autograd.tensor import Tensor, address, current_node, from_array, needs_grad, new, wrap
from tensorlite.autograd.views import MULTIPLE, View, assign, check_inplace, previous, touch
from tensorlite.autograd.weak import lift
from tensorlite.backends import CPU, backend, overlap
from tensorlite.dtypes import FLOAT, dtype, get_default_dtype, result_type
from tensorlite.errors import DeviceError, GradError
from tensorlite.shapes import broadcast

CACHE_LIMIT = 4096  # entries an op keeps; a program with more shapes than that starts over
_NUMBERS = (int, float, bool)
_STUB = (lambda *args, **kw: _first(args, kw)).__code__  # type: ignore[name-defined]  # noqa: F821


class Primitive(Op):
    """An op with a forward of its own. ``primitive`` makes one from a function; see there."""

    kind = "primitive"

    def __init__(
        self,
        fn: Callable,
        name: str,
        *,
        elementwise: bool,
        ufunc: str | None,
        view: bool,
        dynamic: bool,
        mutates: Any,
        numbers: bool,
        floats: bool,
        out_dtype: dtype | None,
        signals: bool,
        promotes: tuple | None,
        alias: str | None,
        torch: Any,
    ):
        super().__init__(fn, name, torch)
        self.elementwise, self.view, self.dynamic, self.mutates = elementwise, view, dynamic, mutates
        self.ufunc, self.numbers, self.floats, self.out_dtype = ufunc, numbers, floats, out_dtype
        self.signals = signals
        self.alias = alias or ("elementwise" if elementwise else None)
        self.inputs: list[str] = []
        self.optional: list[str] = []
        self.outputs: list[str] = []
        self.params: dict[str, Any] = {}  # name -> default, or inspect.Parameter.empty
        self.variadic: str | None = None
        self._read_signature()
        self.promotes = tuple(self.inputs) if promotes is None and elementwise else tuple(promotes or ())
        self.rules: dict[str, Callable | None] = {}
        self.fused: dict[str, Callable] = {}
        self.joint: Callable | None = None  # one rule for all inputs
        self.fused_joint: Callable | None = None
        self.make_spec: Callable = partial(_broadcast_spec, name) if elementwise else _no_spec
        self.kernels: list[tuple] = []
        self.binder: Callable | None = None
        self.public_names: dict[str, str] = {}  # of inputs, where those who call know them by another name
        self.cache: dict = {}
        self.symbol = fn.__name__
        self.namespace: dict[str, Any] = {
            "__name__": fn.__module__,
            "cache": self.cache,
            "miss": self.apply,
            "Tensor": Tensor,
            "new": new,
            "mode": mode,
            "tick": tick,
            "Node": Node,
            "View": View,
            "current_node": current_node,
            "lift": lift,
            "wrap": wrap,
            "seam": running.seam,
            "trace": running.trace,
            "_first": self._first,
        }
        self.call = self.function = self._stub()

    def _read_signature(self) -> None:
        # from the code object: inspect.signature would be half of this package's import time
        code, fn = self.fn.__code__, self.fn
        names = code.co_varnames[1 : code.co_argcount]  # the first is xp
        defaults = code.co_argcount - len(fn.__defaults__ or ())
        for k, name in enumerate(names, 1):
            if name == "out" or name.startswith("out_"):
                self.outputs.append(name)
            else:
                self.inputs.append(name)
                if k >= defaults:
                    self.optional.append(name)
        end = code.co_argcount + code.co_kwonlyargcount
        if code.co_flags & inspect.CO_VARARGS:
            self.variadic = code.co_varnames[end]
            self.inputs.append(self.variadic)
        for name in code.co_varnames[code.co_argcount : end]:
            if name == "out" or name.startswith("out_"):
                self.outputs.append(name)
            else:
                self.params[name] = (fn.__kwdefaults__ or {}).get(name, inspect.Parameter.empty)

    # ---- declaring
    def spec(self, make_spec: Callable) -> Callable:
        """The law of shapes and dtypes: input Specs and constants in, output Spec (or tuple) out, errors raised."""
        self.make_spec = make_spec
        return make_spec

    def grad(self, joint: Callable | None = None, /, **rules: Callable | None) -> Any:
        """A rule for each input, ``x=lambda g, w: g * w``: a differentiable formula of what it names, which is saved.

        A rule may name g, inputs, constants, the output ``y``, and ``x_spec`` for a spec alone. None says that the
        input never has a gradient. One function ``(g, *inputs, y..., want)`` giving a tuple does for all at once; where
        the op has several outputs it may name one of them (``out_mean``), and no other is saved.
        """
        if joint is not None:
            self.joint = joint
            return joint
        self.rules.update(rules)
        return None

    def fused_grad(self, joint: Callable | None = None, /, **rules: Callable) -> Any:
        """Faster rules, used where no second order is wanted; they must save no more than ``grad``'s rules do.

        Beside one rule for all inputs stands one fused rule for all; what either names is saved.
        """
        if joint is not None:
            self.fused_joint = joint
            return joint
        self.fused.update(rules)
        return None

    def bind(self, binder: Callable) -> Callable:
        """``(xp, specs, outs, **constants) -> kernel``: a plain kernel with its constants worked out once an entry.

        A pair is (kernel, the same that allocates its output: ``fresh(*arrays)``); None stands for the forward itself.
        """
        self.binder = binder
        return binder

    def kernel(
        self,
        device: str,
        name: str,
        dtypes: str = "f4 f8",
        when: Callable | None = None,
        around: Callable | None = None,
        formats: tuple[str, ...] = (CONTIGUOUS,),
    ) -> None:
        """A compiled kernel for these dtypes, "" for all. ``when(*specs, **constants)`` narrows it further.

        ``formats`` are the memory formats that it knows of 4-D inputs and outputs, which the factory finds in
        ``spec.format``; all others are contiguous. An element-wise one may also get inputs and outputs of one shape
        (or 0-d) that are all in channels_last: their elements lie in the same order.

        ``around(compiled, xp, *inputs, *outputs, **constants)`` stands for the op where the compiled kernel is a part
        of it; it takes inputs of every layout and gives the kernel what it needs.
        """
        self.kernels.append((device, name, tuple(dtypes.split()), when, around, formats))

    # ---- the function that users call
    def _stub(self) -> Callable:
        """A function that writes its own text when first called; by then gradient and spec are declared."""
        call: Any = FunctionType(_STUB, self.namespace, self.symbol)
        call.__doc__, call.op, call.__module__ = self.doc, self, self.fn.__module__
        call.__qualname__ = self.name
        for part in ("spec", "grad", "fused_grad", "bind", "cases", "ref", "nograd", "kernel"):
            setattr(call, part, getattr(self, part))
        return call

    def _default(self, param: str) -> str:
        value = self.params[param]
        if value is inspect.Parameter.empty:
            return ""
        self.namespace[f"_default_{param}"] = value
        return f"=_default_{param}"

    @property
    def general(self) -> bool:
        """Whether calls go through ``apply`` instead of a text of their own."""
        tracked = self._tracked()
        return bool(
            self.variadic
            or self.dynamic
            or self.multiple
            or len(self.outputs) > 1
            or self.joint
            or self.mutates
            or len(tracked) > template.MAX_INPUTS
        )

    def _tracked(self) -> list[str]:
        """Inputs that may want a gradient. One with no rule counts: backward must be able to say that it is missing."""
        if not self.differentiable:
            return []
        return [i for i in self.inputs if self.rules.get(i, False) is not None]

    def _first(self, args: tuple, kw: dict) -> Any:
        self.finalize()
        return self.function(*args, **kw)

    def finalize(self) -> None:
        """Write and compile the op's text, and its backward's."""
        tracked = self._tracked()
        self.tracked = tracked
        self.arguments = {i: self.rule_arguments(self.rules[i]) for i in tracked if self.rules.get(i)}
        fused = {i: self.rule_arguments(r) for i, r in self.fused.items()}
        text = []
        if self.general:
            star = f"*{self.variadic}" if self.variadic else None
            names = [star if i == self.variadic else i for i in self.inputs]
            signature = [f"{n}=None" if n in self.optional else n for n in names]
            if self.params:
                signature += [*([] if self.variadic else ["*"]), *(f"{p}{self._default(p)}" for p in self.params)]
            text.append(
                f"def {self.symbol}({', '.join(signature)}): return apply(({', '.join(names)},), "
                f"dict({', '.join(f'{p}={p}' for p in self.params)}))"
            )
            self.namespace["apply"] = self.apply
        else:
            self.saves = {m: self._saves(m) for m in range(1, 1 << len(tracked))}
            params = [(p, self._default(p)) for p in self.params]
            text.append(
                template.call_source(
                    self.symbol,
                    self.inputs,
                    self.optional,
                    params,
                    tracked,
                    self.saves,
                    view=self.view,
                    numbers=self.numbers and len(self.inputs) > 1,
                    public=self.public_names,
                )
            )
            for m in self.saves:
                wanted = [i for k, i in enumerate(tracked) if m >> k & 1]
                for prefix, rules, name in (("_rule_", self.arguments, "exact"), ("_fused_", fused, "fused")):
                    if name == "fused" and not fused:
                        continue
                    arguments = {i: rules.get(i, self.arguments.get(i, ["g"])) for i in wanted}
                    text.append(
                        template.back_source(
                            name, m, wanted, arguments, self.saves[m], list(self.params), self.inputs, prefix
                        )
                    )
            for i in tracked:
                self.namespace[f"_rule_{i}"] = self.rules.get(i) or partial(self.missing, i)
                self.namespace[f"_fused_{i}"] = self.fused.get(i) or self.namespace[f"_rule_{i}"]
        source = "\n\n".join(text)
        stub = self.function
        exec(compile(source, f"<tensorlite op {self.name}>", "exec"), self.namespace)
        stub.__code__ = self.namespace[self.symbol].__code__
        stub.__kwdefaults__ = self.namespace[self.symbol].__kwdefaults__
        stub.__defaults__ = self.namespace[self.symbol].__defaults__
        self.source = source

    def rule_arguments(self, rule: Callable) -> list[str]:
        names = list(inspect.signature(rule).parameters)
        known = {"g", "y", "y_spec", "want", *self.inputs, *self.params, *(f"{i}_spec" for i in self.inputs)}
        if self.general:
            known.update(self.outputs)
        if unknown := [n for n in names if n not in known]:
            raise TypeError(f"{self.name}: a gradient rule names {unknown}; wanted some of {sorted(known)}")
        return names

    def _saves(self, mask: int) -> list[str]:
        used = {a for k, i in enumerate(self.tracked) if mask >> k & 1 for a in self.arguments.get(i, ())}
        return [n for n in [*self.inputs, "y"] if n in used]

    def missing(self, name: str, g: Tensor) -> Tensor:
        raise GradError(f"{self.name}: the derivative with respect to {name} is not implemented")

    # ---- a call, in plain words
    def apply(self, args: tuple, kw: dict) -> Any:
        """What a call does. The text of template.py is this, written out for one op."""
        entry = self.known(args, kw)
        if entry is None:
            args = self.together(self.coerce(args))
            entry = self.entry(tuple(None if a is None else a._spec for a in args), kw)
            if self.promotes:
                args = self.promote(args)
                entry = self.entry(tuple(None if a is None else a._spec for a in args), kw)
        # asked before the run: a write to a view changes its node
        nodes = [None if a is None else current_node(a) for a in args] if self.differentiable and mode().grad else None
        arrays = tuple([None if a is None else a._arr for a in args])
        if self.dynamic:
            return self._dynamic(entry, arrays)
        outs = run(entry, arrays)
        if self.mutates:
            touch(*[args[k] for k in self.written(len(args), kw) if args[k] is not None])
            if not entry.outs:
                return None
        if self.view:
            outs = outs if self.multiple else (outs,)
            if self.multiple:  # each output remembers the one-output view op that leads to it
                made = [
                    View.make(array, spec, args[0], self.step(k, args[0]._spec, kw), MULTIPLE)
                    for k, (array, spec) in enumerate(zip(outs, entry.outs))
                ]
            else:
                made = [View.make(outs[0], entry.out, args[0], entry, mode())]
        else:
            made = [wrap(array, spec) for array, spec in zip(outs if len(entry.outs) > 1 else (outs,), entry.outs)]
        node = self.record(entry, args, nodes, made) if nodes is not None else None
        attach(node, made)
        return tuple(made) if self.multiple or len(made) > 1 else made[0] if made else None

    def written(self, count: int, kw: dict) -> tuple[int, ...]:
        """The positions of the inputs that a call with ``count`` inputs and these constants writes to."""
        if callable(self.mutates):
            return self.mutates(count, **kw)
        return tuple(
            k for k in range(count) if self.mutates and self.inputs[min(k, len(self.inputs) - 1)] in self.mutates
        )

    moves = False  # set for ops that only move elements: half types need no float32 in between
    multiple = False  # set for ops whose number of outputs depends on constants (unbind, split)
    step: Callable  # for those that return views: (k, spec, kw) -> the entry of a one-output view op
    silent_outputs: tuple[int, ...] = ()  # outputs that carry no gradient though they are floating point
    on_host: tuple[int, ...] = ()  # inputs that may be on the CPU beside others that are not

    def coerce(self, args: tuple) -> tuple:
        """Tensors of what was given: numbers where the op takes them, NumPy arrays; else a TypeError."""
        like = next((a for a in args if isinstance(a, Tensor)), None)
        out = []
        for k, a in enumerate(args):
            if not isinstance(a, Tensor):
                name = self.inputs[min(k, len(self.inputs) - 1)]
                if a is None and name in self.optional:
                    pass
                elif isinstance(a, (np.ndarray, np.generic)):
                    a = from_array(np.asarray(a))
                elif self.numbers and isinstance(a, _NUMBERS):
                    a = lift(a, like) if like is not None else from_array(np.asarray(a, _number_type(a).np))
                else:
                    raise TypeError(f"{self.name}: argument '{name}' must be Tensor, not {type(a).__name__}")
            out.append(a)
        return tuple(out)

    def together(self, args: tuple) -> tuple:
        """The arguments on one device: 0-d CPU tensors go to where the others are (differentiably)."""
        specs = [a._spec for a in args if a is not None]
        if all(s.device is specs[0].device for s in specs):
            return args
        device = self._device([None if a is None else a._spec for a in args])
        return tuple(
            a if a is None or a._spec.device is device or k in self.on_host else a.to(device)
            for k, a in enumerate(args)
        )

    def _device(self, specs: Any) -> Any:
        return _one_device(self.name, [s for k, s in enumerate(specs) if k not in self.on_host])

    def promote(self, args: tuple) -> tuple:
        """The arguments cast to their common dtype (differentiably), and to floating point where the op needs it."""
        takes = [k for k in range(len(args)) if self.inputs[min(k, len(self.inputs) - 1)] in self.promotes]
        tensors = [args[k] for k in takes if args[k] is not None]
        common = common_dtype([t._spec for t in tensors], self.floats)
        return tuple(
            a.to(common) if k in takes and a is not None and a._spec.dtype is not common else a
            for k, a in enumerate(args)
        )

    def known(self, args: tuple, kw: dict) -> Entry | None:
        """The entry of a call like one before; None where the arguments want a closer look."""
        try:
            key = (*[None if a is None else a._spec for a in args], *kw.values())
            return self.cache.get(key if len(key) != 1 else key[0])
        except (AttributeError, TypeError):  # something that is no Tensor, a constant that is a list
            return None

    def entry(self, specs: tuple, kw: dict) -> Entry:
        """The entry for these specs and constants, from the cache or worked out now."""
        kw = {p: _frozen(v) for p, v in kw.items()}
        key = (*specs, *kw.values())
        if len(key) == 1:
            key = key[0]
        if self.params and not kw:
            kw = {p: d for p, d in self.params.items() if d is not inspect.Parameter.empty}
        found = self.cache.get(key)
        return found if found is not None else self._build(key, specs, kw)

    def _build(self, key: Any, specs: tuple, kw: dict) -> Entry:
        if not hasattr(self, "tracked"):
            self.finalize()
        device = self._device(specs)
        promoted = [
            s
            for k, s in enumerate(specs)
            if s is not None and self.inputs[min(k, len(self.inputs) - 1)] in self.promotes
        ]
        e = Entry()
        e.op, e.kw, e.device = self, kw, device
        if promoted:
            common = common_dtype(promoted, self.floats)
            if any(s.dtype is not common for s in promoted):
                # not kept: the call casts its inputs and comes back with specs of one dtype
                e.specs = specs
                broadcast(self.name, *(s.shape for s in promoted))
                return e
        if self.dynamic:
            self.make_spec(*specs, **kw)
            outs: Any = ()
        else:
            outs = self.make_spec(*specs, **kw)
        e.specs = specs
        e.outs = outs if isinstance(outs, tuple) else (outs,)
        if self.out_dtype is not None:
            e.outs = tuple(spec_of(o.shape, self.out_dtype, o.device, o.format) for o in e.outs)
        e.out = e.outs[0] if e.outs else None
        e.empty = e.out.empty if e.out is not None else None
        e.native, e.general = False, {}
        e.fresh = None
        pick(self, e, backend(device))
        e.plans = [None] if self.general else [None, *(self._plan(e, m) for m in self.saves)]
        if len(self.cache) > CACHE_LIMIT:
            self.cache.clear()
        self.cache[key] = e
        return e

    # ---- the tape
    def _plan(self, e: Entry, mask: int) -> Plan:
        p = Plan()
        wanted = [i for k, i in enumerate(self.tracked) if mask >> k & 1]
        p.op, p.name, p.kw, p.specs, p.out, p.outs = self, node_name(self.name), e.kw, e.specs, e.out, e.outs
        p.back = self.namespace[f"exact_back_{mask}"]
        p.fast = self.namespace.get(f"fused_back_{mask}", p.back)
        p.single, p.fresh = len(wanted) == 1, True
        p.sums = None
        if self.elementwise:
            specs = [e.specs[self.inputs.index(i)] for i in wanted]
            shapes = [e.out.shape if s is None else s.shape for s in specs]  # an input left out wants nothing
            if any(s != e.out.shape for s in shapes):
                p.sums = tuple(None if s == e.out.shape else s for s in shapes)
        return p

    def record(self, entry: Entry, args: tuple, nodes: list, made: list) -> Node | None:
        """The node of a call, or None where no input wants a gradient."""
        if not self.differentiable:
            return None
        wanted = [k for k, n in enumerate(nodes) if n is not None and self._is_tracked(k)]
        if not wanted:
            return None
        node = new(Node)
        node.parents = tuple(nodes[k] for k in wanted)
        if self.general:
            node.plan, node.saved = general_plan(self, entry, args, wanted, made)
        else:
            mask = sum(1 << self.tracked.index(self.inputs[k]) for k in wanted)
            node.plan = entry.plans[mask]
            node.saved = tuple(
                v
                for s in self.saves[mask]
                for v in ((made[0]._arr, made[0]._ver) if s == "y" else (args[self.inputs.index(s)],))
            )
        node.seq = tick()
        node.extra = None if running.trace is None else running.trace()
        return node

    def _is_tracked(self, k: int) -> bool:
        return self.inputs[min(k, len(self.inputs) - 1)] in self.tracked

    # ---- into a given tensor
    def into(self, dest: Tensor, *args: Any, **kw: Any) -> Tensor:
        """``dest[...] = op(*args)``, without a temporary where that is safe; ``dest`` may be one of ``args``."""
        entry = self.known(args, kw)
        if entry is None:
            args = self.together(self.coerce(args))
            entry = self.entry(tuple([None if a is None else a._spec for a in args]), kw)
        out = getattr(entry, "out", None)  # an entry that needs casts first has none
        fits = out is dest._spec or (
            out is not None
            and out.shape == dest._spec.shape
            and out.dtype is dest._spec.dtype
            and out.device is dest._spec.device
        )
        if not fits or needs_grad(dest, *args):
            own = any(a is dest for a in args)
            before = previous(dest) if own else dest
            return assign(dest, self.function(*(before if a is dest else a for a in args), **kw), self.name + "_")
        check_inplace(dest, self.name + "_")
        target = dest._arr
        arrays = tuple([None if a is None else a._arr for a in args])
        # compiled kernels write outputs of their own layout alone; a BLAS may give a strided one other last bits
        if entry.out.format is CHANNELS_LAST:
            writes = out is dest._spec or (self.elementwise and not entry.native)
        else:
            writes = target.flags.c_contiguous or (self.elementwise and not entry.native)
        if writes and all(a is None or self._safe(a, target) for a in arrays):
            run(entry, arrays, (target,))
        else:
            recording.write(target, run(entry, arrays))
        touch(dest)
        return dest

    def _safe(self, a: Any, target: Any) -> bool:
        """Whether the kernel may read ``a`` while it writes ``target``."""
        if a is not target and a.base is None and target.base is None:
            return True  # two arrays that own their memory
        if a is target or (a.shape == target.shape and a.strides == target.strides and address(a) == address(target)):
            return self.alias == "elementwise"
        return not overlap(a, target)

    def _dynamic(self, entry: Entry, arrays: tuple) -> Any:
        """An op whose sizes depend on values. It cannot be recorded, and its output has no history of its own."""
        recording.reading(self.name)
        outs, device = run(entry, arrays), entry.device
        several = isinstance(outs, tuple)
        return tuple(from_array(o, device=device) for o in outs) if several else from_array(outs, device=device)


# ---- registration
def primitive(
    fn: Callable | None = None,
    *,
    name: str | None = None,
    elementwise: bool = False,
    ufunc: str | None = None,
    view: bool = False,
    dynamic: bool = False,
    mutates: Any = (),
    numbers: bool | None = None,
    floats: bool = False,
    out_dtype: dtype | None = None,
    signals: bool = True,
    promotes: tuple | None = None,
    alias: str | None = None,
    torch: Any = SAME,
) -> Any:
    """Make an op of ``def f(xp, x, w, out, *, constant)``: array module, inputs, the buffer to fill, constants.

    Args:
        elementwise: broadcasts, promotes dtypes, takes Python numbers; its spec comes by default.
        ufunc: the array module's ufunc that is the whole forward, called unwrapped.
        view: returns a view of its input (no ``out``); nothing is computed.
        dynamic: output sizes depend on values; returns arrays (no ``out``).
        mutates: inputs that it writes to; where only a part of the variadic ones is written, a function of the number
            of inputs and the constants that gives the positions. An op that only writes has no ``out``.
        numbers: whether inputs after the first may be Python numbers. Default: as ``elementwise``.
        floats: integer inputs become the default floating-point type.
        out_dtype: the dtype of the result whatever the inputs' (comparisons).
        signals: may meet inf or nan, so NumPy is told to be silent (150 ns a call); False for ops that only copy.
        promotes: the inputs that are cast to a common dtype. Default: all where ``elementwise``.
        alias: "elementwise" where writing the output over an input of the same layout is safe.
        torch: PyTorch's name of it for the parity run where it differs, a function (torch, **case), or None.
    """

    def register(fn: Callable) -> Any:
        own = name or fn.__name__.removesuffix("_p")
        if own in TABLE:
            raise ValueError(f"op {own!r} is registered twice")
        TABLE[own] = Primitive(
            fn,
            own,
            elementwise=elementwise,
            ufunc=ufunc,
            view=view,
            dynamic=dynamic,
            mutates=mutates,
            numbers=elementwise if numbers is None else numbers,
            floats=floats,
            out_dtype=out_dtype,
            signals=signals,
            promotes=promotes,
            alias=alias,
            torch=torch,
        )
        if elementwise:  # its body, if it has one, is in kernels/cuda/elementwise.cuh
            TABLE[own].kernel("cuda", f"elementwise.{own}", "", formats=ANY)
        return TABLE[own].call

    return register if fn is None else register(fn)


def _broadcast_spec(name: str, *specs: Spec, **kw: Any) -> Spec:
    return broadcast_spec(name, *specs)


def broadcast_spec(name: str, *specs: Spec | None) -> Spec:
    """The spec of an element-wise op's output, in the dtype of the first input and in PyTorch's memory format."""
    given = [s for s in specs if s is not None]
    return spec_of(broadcast(name, *(s.shape for s in given)), given[0].dtype, given[0].device, format_of(*given))


def _frozen(constant: Any) -> Any:
    """A constant that can be a key: lists as tuples, tensors that stand for integers as such."""
    if isinstance(constant, (list, tuple)) and not hasattr(constant, "_fields"):
        return tuple([_frozen(v) for v in constant])
    return constant.__index__() if isinstance(constant, Tensor) else constant


def _no_spec(*specs: Spec, **kw: Any) -> Spec:
    raise TypeError("this primitive has no spec; declare one with @op.spec")


def _one_device(name: str, specs: tuple) -> Any:
    """The device of an op's inputs. 0-d CPU tensors go with any."""
    devices = {s.device for s in specs if s is not None and (s.ndim or s.device is not CPU)}
    if len(devices) > 1:
        raise DeviceError(f"{name}: tensors on {' and '.join(sorted(map(str, devices)))}; wanted one device")
    return devices.pop() if devices else CPU


def common_dtype(specs: list[Spec], floats: bool = False) -> dtype:
    """The dtype that tensors of these specs are computed in (0-d ones count less than others)."""
    common = specs[0].dtype
    if any(s.dtype is not common for s in specs):
        common = result_type([(s.dtype, 2 if s.ndim else 1) for s in specs])
    return get_default_dtype() if floats and common.category != FLOAT else common


def _number_type(value: Any) -> dtype:
    from tensorlite.dtypes import bool as bool_, int64

    return bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else get_default_dtype()
