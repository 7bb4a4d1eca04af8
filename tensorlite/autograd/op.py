"""What is known of every op, and what a call of one comes to. Floor 2."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tensorlite.autograd.spec import Spec

TABLE: dict[str, Any] = {}  # every op by name: tests, docs and benchmarks are made from it
SAME = "same"


class Entry:
    """What a call with these specs and constants comes to: output specs, the kernel picked, plans for going back."""

    __slots__ = ("device", "empty", "fresh", "general", "kernel", "kw", "native", "op", "out", "outs", "plans", "specs")

    op: Any  # the Primitive
    device: Any  # where it runs
    specs: tuple  # of the inputs; None for an input left out
    kw: dict
    outs: tuple[Spec, ...]
    out: Spec  # outs[0]
    empty: Callable  # () -> an array for outs[0]
    kernel: Callable  # (*arrays, *outputs), or for views (array) -> view
    fresh: Callable | None  # (*arrays) -> a new array, where the kernel may allocate
    native: bool  # whether a compiled kernel was picked
    general: dict  # the same for general ops: which inputs want a gradient -> Plan
    plans: list  # one Plan for each choice of inputs that want a gradient, as a bit mask


class Plan:
    """How to go back from one node: ``back(g, node)`` gives the wanted inputs' gradients."""

    __slots__ = ("back", "fast", "fresh", "kw", "name", "names", "op", "out", "outs", "single", "specs", "sums")

    back: Callable  # made of differentiable formulas
    fast: Callable  # the same by fused kernels, where create_graph is not asked for
    names: tuple  # what a general plan saves, in order
    fresh: bool  # whether what rules return is their own (no user's function, which may keep it)
    sums: tuple | None  # shapes to sum the gradients to, where inputs were broadcast


class Op:
    """What every op has, primitive or composed of others: a name, cases, an independent reference, its parity name."""

    kind = "composite"

    def __init__(self, fn: Callable, name: str, torch: Any):
        self.fn, self.name = fn, name
        self.torch = name if torch is SAME else torch  # PyTorch's name, a function (torch, **case), or None
        self.doc = inspect.getdoc(fn) or ""
        self.call: Callable = fn  # what cases are run through
        self.case_makers: list[Callable] = []
        self.reference: Callable | None = None
        self.module = fn.__module__
        self.differentiable = True
        self.methods: tuple[str, ...] = ()
        self.in_place: tuple[str, ...] = ()  # methods that write the result into their first argument
        self.takes_out = False  # whether the public function has PyTorch's ``out=``
        self.first_order_only = ""  # why its gradient cannot be differentiated again, where that is so
        self.not_derivative: Callable | None = None  # (case) -> whether its gradient is meant to be another there

    def cases(self, make_cases: Callable) -> Callable:
        """Sample calls: a generator of dicts of arguments, or of (error class, dict) for calls that must be refused."""
        self.case_makers.append(make_cases)
        return make_cases

    def ref(self, reference: Callable) -> Callable:
        """The value by other means: NumPy arrays in float64 and constants in, array or tuple out."""
        self.reference = reference
        return reference

    def nograd(self) -> None:
        """Say that no input has a gradient (comparisons, indices, counters)."""
        self.differentiable = False
