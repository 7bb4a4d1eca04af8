"""Two runs of a function, compared, made into what a program is built from. Floor 4."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd import recording
from tensorlite.autograd.autocast import uncast
from tensorlite.autograd.inner import ends_of
from tensorlite.autograd.modes import mode, no_grad
from tensorlite.autograd.node import Leaf
from tensorlite.autograd.tape import between
from tensorlite.autograd.tensor import Tensor, current_node, from_array, wrap
from tensorlite.autograd.weak import numbers
from tensorlite.errors import CaptureError
from tensorlite.program.explore import Reach
from tensorlite.program.record import ARG, CONST, ON_GPU, STATE, UNKNOWN, Part, Recorder, Storage, root
from tensorlite.program.trees import PLAIN, flatten, rebuild


class Gradient:
    """What a run does to one leaf's ``.grad``."""

    __slots__ = ("before", "free", "leaf", "now", "part", "spec", "tensor")

    def __init__(self, tensor: Tensor):
        self.tensor, self.leaf = tensor, tensor._node
        self.before = tensor._node.grad
        self.free = False  # whether what it was before does not matter
        self.part: Part | None = None  # the new gradient; None where it stays, or is dropped
        self.spec: Any = None
        self.now = False  # whether there is a gradient at the end


class Capture:
    """One run of ``fn``, recorded and undone.

    Args:
        arguments: the tensors among the arguments; ``tree`` has the rest.
        fixed: positions of arguments that are state (parameters): used as they are, not by a stand-in.
        state: tensors that ``state=`` declared, by name.
    """

    def __init__(
        self,
        fn: Any,
        tree: tuple,
        arguments: list[Tensor],
        fixed: set[int],
        state: dict[int, tuple],
        keep: bool = False,
    ):
        self.tree, self.arguments, self.fixed = tree, arguments, fixed
        self.reach = Reach(fn)
        self.standins = [t if k in fixed else _standin(t) for k, t in enumerate(arguments)]
        declared = [t for _, t in state.values()]
        self.gradients = self._leaves(declared)
        self.recorder = r = Recorder([t for k, t in enumerate(self.standins) if k not in fixed], keep)
        self.positions = [k for k in range(len(arguments)) if k not in fixed]
        r.gradients = {id(g.leaf): g for g in self.gradients}
        self.backward_from = -1  # the first step of the backward of a differentiable forward
        self.out_nodes: list[int] = []
        self.ends: list[Any] = []
        self.end_parts: list[Part | None] = []
        self.out_grads: list[Tensor] = []
        try:
            with r:
                args, kwargs = rebuild(tree, self.standins)
                result = fn(*args, **kwargs)
                self._results(result)
                if not r.walked and mode().grad:
                    self._differentiate()
                r.check_settings()
        finally:
            found = [(g, g.leaf.grad) for g in self.gradients]
            for g in self.gradients:
                g.leaf.grad = g.before
        for g, now in found:
            self._note_gradient(g, now)
        self._resolve(state)
        self._forget_others(declared)
        self.result_specs = [t._spec for t in self.results]
        result = found = now = None
        self.results = self.out_grads = []

    def _leaves(self, declared: list[Tensor]) -> list[Gradient]:
        tensors = {id(p): p for p in list(recording.parameters.values())}
        for x in self.reach.holders.values():
            tensors |= {id(t): t for _, t in recording.Kind.of(x).tensors(x)}  # type: ignore[union-attr]
        tensors |= {id(t): t for t in declared}
        return [Gradient(t) for t in tensors.values() if t._node.__class__ is Leaf]

    def surroundings(self) -> dict[str, Any]:
        """The plain values that the function reaches, and what its modules are set to."""
        found = {name: c.cell_contents if k is None else c.get(k) for c, k, _, name in self.reach.values}
        for x in self.holders.values():
            for fact in recording.Kind.of(x).facts(x):  # type: ignore[union-attr]
                if (
                    isinstance(fact, tuple)
                    and len(fact) == 2
                    and isinstance(fact[0], str)
                    and isinstance(fact[1], PLAIN)
                ):
                    found[f"{fact[0]} of {type(x).__name__} at {id(x):#x}"] = fact[1]
        return found

    def _results(self, result: Any) -> None:
        """Where each tensor of the result comes from: ("arg", k), ("state", tensor) or ("part", part, spec)."""
        self.results: list[Tensor] = []
        self.out_tree = flatten(result, self.results, "the result")
        self.sources: list[tuple] = []
        for t in self.results:
            k = next((k for k, s in enumerate(self.standins) if s is t), None)
            if k is not None:
                self.sources.append(("arg", k))
            else:
                self.sources.append(("part", self.recorder.part(t._arr), t._spec, t))

    def _differentiate(self) -> None:
        """Record the way back of a result that has a history, from stand-ins of its gradients."""
        nodes = [current_node(t) for t in self.results]
        own = [n if n is not None and n.__class__ is not Leaf else None for n in nodes]
        self.out_nodes = [k for k, n in enumerate(own) if n is not None]
        if not self.out_nodes:
            return
        r = self.recorder
        self.backward_from = len(r.steps)
        tops, grads = [], []
        for j, k in enumerate(self.out_nodes):
            spec = self.results[k]._spec.packed()
            g = wrap(spec.empty(), spec)
            g._arr[...] = 1
            r.storages[id(root(g._arr))] = Storage(ARG, root(g._arr), len(self.positions) + j)
            tops.append(own[k])
            grads.append(g)
        self.ends = list(ends_of(tops))
        with no_grad(), uncast():
            found = between(tops, grads, tuple(self.ends))
        self.end_parts = [None if g is None else r.part(g._arr) for g in found]
        self.end_specs = [None if g is None else g._spec for g in found]
        self.out_grads = grads

    def _note_gradient(self, g: Gradient, now: Any) -> None:
        g.free = id(g.leaf) in self.recorder.dropped_grads
        if now is None or now is g.before:
            g.part, g.spec = None, None if now is None else now._spec
        else:
            g.part, g.spec = self.recorder.part(now._arr), now._spec
        g.now = now is not None

    def _forget_others(self, declared: list[Tensor]) -> None:
        """Leave out the leaves that have nothing to do with this function: another model's gradients come and go."""
        mine = {id(t) for t in (*declared, *self.arguments)}
        for x in self.holders.values():
            mine |= {id(t) for _, t in recording.Kind.of(x).tensors(x)}  # type: ignore[union-attr]
        used = self.recorder.storages

        def concerned(g: Gradient) -> bool:
            changed = g.part is not None or g.free or g.now != (g.before is not None)
            return changed or id(g.tensor) in mine or (g.before is not None and id(root(g.before._arr)) in used)

        self.gradients = [g for g in self.gradients if concerned(g)]

    def _resolve(self, state: dict[int, tuple]) -> None:
        """Find out what every storage is that no step made."""
        r = self.recorder
        known: dict[int, list] = {}

        def add(name: str, t: Tensor) -> None:
            known.setdefault(id(root(t._arr)), []).append((name, t))

        for p in list(recording.parameters.values()):
            add("parameter", p)
        self.holders = dict(self.reach.holders) | r.modules | r.optimizers
        for x in list(self.holders.values()):
            for name, t in recording.Kind.of(x).tensors(x):  # type: ignore[union-attr]
                add(f"{name} of {type(x).__name__}", t)
        for generator in list(recording.generators):
            add("generator", generator._state)
        for g in self.gradients:
            if g.before is not None:
                add("gradient", g.before)
        for name, t in state.values():
            add(name, t)
        plain = {id(t._arr): t for t in numbers()}
        for s in r.storages.values():
            if id(s.array) in known and s.kind in (UNKNOWN, CONST):
                s.kind = STATE
                s.tensors = [t for _, t in known[id(s.array)]]
                s.name = known[id(s.array)][0][0]
            elif s.kind is UNKNOWN and id(s.array) in plain:
                s.kind, s.name = CONST, "number"
        for g in self.gradients:
            s = None if g.part is None else g.part.storage
            if s is not None and s.kind in (ARG, UNKNOWN):
                raise CaptureError(
                    "compile: .grad of a parameter was set to a tensor that the function did not make; give it a clone"
                )
            if s is not None and s.kind is CONST and s.pristine is None:
                s.pristine = s.array.copy("K")  # begins anew in each run, whatever happens to .grad between
        for step in r.steps:
            for p in step.parts():
                if p.storage.kind is UNKNOWN:
                    name = self.reach.name_of(p.storage.array, root)
                    raise CaptureError(
                        f"compile: {step.name} uses a tensor {list(p.shape)}{f' ({name!r})' if name else ''} that is "
                        "neither an argument nor a parameter, buffer or optimizer's state; pass it as an argument, or "
                        "declare it: compile(fn, state=[...])" + step.where()
                    )
        for k, source in enumerate(self.sources):
            if source[0] == "part":
                _, part, spec, t = source
                if part.storage.kind is UNKNOWN:
                    raise CaptureError(
                        f"compile: the result holds a tensor {list(part.shape)} that is neither made by the function "
                        "nor an argument, parameter, buffer or optimizer's state; declare it: compile(fn, state=[...])"
                    )
                own = [o for o in part.storage.tensors if o is t]
                self.sources[k] = ("state", own[0]) if own else ("part", part, spec)


def _standin(t: Tensor) -> Tensor:
    """A tensor with memory of its own that lies as ``t`` does."""
    a = t._arr
    if not isinstance(a, np.ndarray):
        raise CaptureError(ON_GPU)
    if any(s < 0 for s in a.strides):
        raise CaptureError("compile: an argument has negative strides; wanted positive ones: pass a copy of it")
    size = sum((n - 1) * s for n, s in zip(a.shape, a.strides)) + a.itemsize if a.size else 0
    own = np.ndarray(a.shape, a.dtype, np.zeros(size, np.uint8), 0, a.strides)
    own[...] = a
    made = from_array(own)
    made._spec = t._spec
    if current_node(t) is not None:
        made._node = Leaf(made)
    return made


def difference(one: Capture, two: Capture) -> str:
    """How two runs from the same state differ; empty where they do not."""
    a, b = one.recorder, two.recorder
    numbers_: dict[int, int] = {}

    def same_part(p: Part | None, q: Part | None) -> bool:
        if p is None or q is None:
            return p is q
        if (p.offset, p.shape, p.strides, p.dtype) != (q.offset, q.shape, q.strides, q.dtype):
            return False
        if p.storage.kind is not q.storage.kind and not (p.storage.kind is CONST and q.storage.kind is STATE):
            return False
        return numbers_.setdefault(id(p.storage), id(q.storage)) == id(q.storage)

    for k, (s, t) in enumerate(zip(a.steps, b.steps)):
        if s.entry is not t.entry or len(s.ins) != len(t.ins) or len(s.outs) != len(t.outs):
            return f"step {k} was {s.name}{_constants(s)}, then {t.name}{_constants(t)}" + t.where()
        if not all(map(same_part, (*s.ins, *s.outs), (*t.ins, *t.outs))):
            return f"step {k}, {s.name}, worked on other tensors the second time" + t.where()
        for p, q in zip(s.ins, t.ins):
            if p is not None and p.storage.kind is CONST and q.storage.kind is CONST:
                x, y = _initial(p), _initial(q)
                if x.tobytes() != y.tobytes():
                    return (
                        f"step {k}, {s.name}, was given other numbers the second time: numbers that are made outside "
                        "of tensorlite's ops (by NumPy, random, a counter) would be frozen; pass them as arguments"
                        + t.where()
                    )
    if len(a.steps) != len(b.steps):
        return f"the first run took {len(a.steps)} steps, the second {len(b.steps)}"
    return ""


def _initial(p: Part) -> Any:
    s = p.storage
    return p.array if s.pristine is None else s.pristine


def _constants(step: Any) -> str:
    return f"({', '.join(f'{k}={v}' for k, v in step.entry.kw.items())})" if step.entry.kw else ""
