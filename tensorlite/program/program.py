"""Program: one plan with what it was recorded under, and the function that guards and replays it. Floor 4."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite import config
from tensorlite.autograd import recording, run as running
from tensorlite.autograd.modes import mode
from tensorlite.autograd.node import last_write, tick
from tensorlite.autograd.recording import Kind
from tensorlite.autograd.spec import STRIDED
from tensorlite.autograd.tensor import Tensor, current_node, wrap
from tensorlite.dtypes import get_default_dtype
from tensorlite.errors import CaptureError
from tensorlite.program import check
from tensorlite.program.backward import Backward
from tensorlite.program.capture import Capture
from tensorlite.program.executor import Text, fill_settings, settings, stepwise
from tensorlite.program.passes import apply
from tensorlite.program.plan import Plan
from tensorlite.program.record import ARG, BUFFER, CONST, COPY, STATE, Part, Step, Storage
from tensorlite.program.trees import LEAF, NAMED, describe, differs, flatten, items_differ, items_of, rebuild, source

MISS = object()  # what a program gives for a call that it was not made for


class Program:
    """What one recording became.

    Args:
        name: of the function.
        capture: the second of two equal runs.
        passes: which passes run.
        again: records the function once more, with other arguments of the same kind.
    """

    def __init__(self, name: str, capture: Capture, passes: dict[str, bool], again: Callable[[list], Capture]):
        self.name, self.runs, self.again = name, 0, again
        self.tree, self.out_tree, self.sources = capture.tree, capture.out_tree, capture.sources
        self.fixed = {k: capture.arguments[k] for k in capture.fixed}
        self.positions = capture.positions
        self.specs = [t._spec for t in capture.arguments]
        self.strides = [t._arr.strides for t in capture.arguments]
        self.wants = [current_node(t) is not None for t in capture.arguments]
        r = capture.recorder
        self.reach = capture.reach  # keeps what it found
        self.holders = list(capture.holders.values())
        self.optimizers = list(r.optimizers.values())
        self.taken = [(o, r.taken[id(o)]) for o in self.optimizers]
        self.gradients = [g for g in capture.gradients if g.now or g.free or g.before is not None]
        self.none_before = [g.leaf for g in capture.gradients if g.before is None and not g.free and g.part is not None]

        steps = list(r.steps)
        at = capture.backward_from
        forward, back = (steps, []) if at < 0 else (steps[:at], steps[at:])
        forward = _initialised(r.storages.values()) + forward
        outputs = [s[1] for s in self.sources if s[0] == "part"]
        lasting = [g.part for g in capture.gradients if g.part is not None]
        saved = _saved(forward, [*back, *_asked(capture.end_parts)])
        r.check_leaks()
        self.plan = Plan(forward, [*outputs, *saved], lasting, name)
        apply(self.plan, passes)
        self.backward = Backward(capture, back, saved, self, passes) if at >= 0 else None

        states = {id(s): s for step in (*forward, *back) for s in (p.storage for p in step.parts()) if s.kind is STATE}
        self.states = [(t, t._arr, current_node(t) is not None) for s in states.values() for t in s.tensors]
        written = {id(p.storage): p.storage for step in forward for p in step.written()}
        self.cells = list({id(t._ver): t._ver for s in written.values() for t in s.tensors}.values())
        self.written_args = sorted({s.index for s in written.values() if s.kind is ARG})
        self._refuse_overlaps(capture, written)
        self.grad_tensors = [
            (g.leaf, wrap(self.plan.static(g.part), g.spec)) for g in capture.gradients if g.part is not None
        ]
        self.grads_dropped = [
            g.leaf for g in capture.gradients if g.part is None and not g.now and g.before is not None
        ]
        self.grads_dropped += [
            g.leaf for g in capture.gradients if g.part is None and not g.now and g.before is None and g.free
        ]

        self.mode, self.default = mode(), get_default_dtype()
        self.values = [(c, k, _value(c, k), name) for c, k, _, name in self.reach.values]
        self.containers = [(x, items_of(x), name) for x, name in self.reach.containers]
        self.counts = [(o, _count(o)) for o in self.optimizers]
        self.facts = [(x, Kind.of(x).facts(x)) for x in self.holders]  # type: ignore[union-attr]
        self.groups = [
            (g, k, v) for o in self.optimizers for g in o.param_groups for k, v in g.items() if k != "params"
        ]
        self.bound = [self._bound(g, k, v) for g, k, v in self.groups]
        self.picks = running.picks[0]
        self.counter = recording.structure[0]
        self.run = self._compile()

    # ---- guards, slow and with reasons
    def misfit(self, args: tuple, kwargs: dict) -> str:
        """Why these arguments, or the world as it is now, are not what was recorded; empty where they are."""
        tensors: list[Tensor] = []
        tree = flatten((args, kwargs), tensors, "an argument")
        if tree != self.tree:
            return (
                f"arguments {describe(tree, [t._spec for t in tensors])} in place of {describe(self.tree, self.specs)}"
            )
        for k, t in enumerate(tensors):
            if k in self.fixed:
                if t is not self.fixed[k]:
                    return f"argument {k} is another parameter"
            elif t._spec is not self.specs[k] or (t._spec.format is STRIDED and t._arr.strides != self.strides[k]):
                return f"argument {k} is {t._spec} ({t._spec.format}), was {self.specs[k]} ({self.specs[k].format})"
            if (current_node(t) is not None) != self.wants[k]:
                return f"argument {k} {'no longer requires' if self.wants[k] else 'now requires'} a gradient"
        if mode() != self.mode:
            now, then = mode(), self.mode
            if now.autocast != then.autocast:
                return f"autocast is {now.autocast}, was {then.autocast}"
            return f"gradients are {now}, were {then}"
        if get_default_dtype() is not self.default:
            return "another default dtype"
        for container, key, value, name in self.values:
            now = _value(container, key)
            if differs(now, value):
                return f"{name} is {now!r}, was {value!r}"
        for container, items, name in self.containers:
            if items_differ(container, items):
                return f"{name} holds something else"
        for optimizer, *count in self.counts:
            if _count(optimizer) != count[0]:
                return f"{type(optimizer).__name__} has other groups, parameters or state"
        for n, (group, key, value) in enumerate(self.groups):
            now = group.get(key)
            if key != "lr" and differs(now, value) and not self.bind(n):
                return f"{key} of an optimizer's group is {now!r}, was {value!r}"
            if key == "lr" and isinstance(now, Tensor) != isinstance(value, Tensor):
                return "the learning rate became a tensor, or is none any more"
        for leaf in self.none_before:
            if leaf.grad is not None:
                return "a parameter has a gradient that was not there"
        for g in self.gradients:
            if not g.free and g.before is not None and g.leaf.grad is not g.before:
                return "a parameter has another gradient tensor, or none"
        return self._changed()

    def _changed(self) -> str:
        """Whether models, optimizers and kernels are those that were recorded."""
        if self.counter == recording.structure[0]:
            return ""
        for x, facts in self.facts:
            now = Kind.of(x).facts(x)  # type: ignore[union-attr]
            if now != facts:
                what = next((f"{b} was {a}" for a, b in zip(facts, now) if a != b), "something")
                return f"{type(x).__name__} changed: {what}"
        for t, array, wanted in self.states:
            if t._arr is not array:
                return f"a tensor {list(t.shape)} got other memory"
            if (current_node(t) is not None) != wanted:
                return f"a tensor {list(t.shape)} {'no longer requires' if wanted else 'now requires'} a gradient"
        if self.picks != running.picks[0]:
            return "kernels were chosen anew"
        self.counter = recording.structure[0]
        return ""

    def _bound(self, group: dict, key: str, value: Any) -> list[int]:
        """The steps whose kernel takes a setting of a group as a constant and nothing else depends on it."""
        if not all(isinstance(v, float) for v in _parts(value)):
            return []
        steps = ((k, s) for k, s in enumerate(self.plan.steps) if s.group is group)
        return [k for k, s in steps if key in s.entry.kw and s.entry.kw[key] == value]

    def bind(self, n: int) -> bool:
        """Give the optimizer's kernels a setting that changed, as schedulers of momentum do; False where that is not
        enough: zero is a step of another form."""
        group, key, value = self.groups[n]
        now = group.get(key)
        if not self.bound[n] or now.__class__ is not value.__class__ or len(_parts(now)) != len(_parts(value)):
            return False
        if any(b.__class__ is not float or bool(a) != bool(b) for a, b in zip(_parts(value), _parts(now))):
            return False
        for k in self.bound[n]:
            step = self.plan.steps[k]
            old = step.entry
            step.entry = old.op.entry(old.specs, old.kw | {key: now})
            self.names[f"step{k}"] = step.entry.kernel
        self.groups[n] = (group, key, now)
        return True

    def _refuse_overlaps(self, capture: Capture, written: dict) -> None:
        """Arguments had memory of their own while recorded: where one is written, that must not matter."""
        if not self.written_args:
            return
        arrays = [t._arr for t in capture.arguments]
        others = [*arrays, *(s.array for s in capture.recorder.storages.values() if s.kind is STATE)]
        for j in self.written_args:
            a = arrays[self.positions[j]]
            if any(o is not a and np.may_share_memory(a, o) for o in others):
                raise CaptureError(
                    f"compile: {self.name} writes to argument {self.positions[j]}, which shares memory with another "
                    "argument or with state; pass a clone"
                )

    # ---- the function
    def _compile(self) -> Any:
        specs = {s[1].key: s[2] for s in self.sources if s[0] == "part"}
        text = Text(self.plan, specs)
        c = text.constant
        lines = ["if structure[0] != program.counter and program._changed(): return MISS", "if recorder(): return MISS"]
        lines += self._argument_guards(c)
        lines.append(f"if mode() != {c(self.mode)} or default() is not {c(self.default)}: return MISS")
        for container, key, value, _ in self.values:
            read = f"{c(container)}.cell_contents" if key is None else f"{c(container)}.get({key!r})"
            lines.append(f"if differs({read}, {c(value)}): return MISS")
        for container, items, _ in self.containers:
            lines.append(f"if items_differ({c(container)}, {c(items)}): return MISS")
        for optimizer, count in self.counts:
            lines.append(f"if count({c(optimizer)}) != {c(count)}: return MISS")
        for n, (group, key, _) in enumerate(self.groups):
            if key != "lr":
                test = f"differs({c(group)}.get({key!r}), groups[{n}][2])"
                lines.append(f"if {test} and not program.bind({n}): return MISS")
        for leaf in self.none_before:
            lines.append(f"if {c(leaf)}.grad is not None: return MISS")
        for g in self.gradients:
            if not g.free and g.before is not None:
                lines.append(f"if {c(g.leaf)}.grad is not {c(g.before)}: return MISS")
        arrays = [f"t{k}._arr" for k in self.positions]
        lines.append("program.runs += 1")
        given = ", ".join(f"t{k}" for k in range(len(self.specs)))
        lines.append(f"if running.seam is not None or CAPTURE.value == 'check': return program.watched([{given}])")
        lines += [f"a{j} = {a}" for j, a in enumerate(arrays)]
        for j, k in enumerate(self.positions):
            spec = self.specs[k]
            strides = self.strides[k]
            text.whole(j, Part(_arg(self.plan, j), 0, spec.shape, strides, spec.dtype.np))
        for s in settings(self.plan):
            group, key = s.source
            lines.append(f"{c(s.array)}[...] = {c(group)}[{key!r}]")
        text.steps()
        lines += text.lines
        lines += self._after(c)
        leaves = {}
        for k, s in enumerate(self.sources):
            if s[0] == "arg":
                leaves[k] = f"t{s[1]}"
            elif s[0] == "state":
                leaves[k] = c(s[1])
            else:
                array = text.array(s[1])
                own = s[1].storage.kind is BUFFER
                lines.append(f"y{k} = wrap({array if own else array + '.copy()'}, {c(s[2])})")
                leaves[k] = f"y{k}"
        if self.backward is not None:
            made = [f"y{k}" for k in self.backward.nodes_of]
            saved = [text.array(p) for p in self.backward.saved]
            lines.append(
                f"{c(self.backward)}.attach([{', '.join(made)}], [{given}], ({', '.join(saved)}{',' if saved else ''}))"
            )
        lines.append("return " + source(self.out_tree, leaves.__getitem__, c))
        names = text.names | {
            "structure": recording.structure, "recorder": recording.active, "MISS": MISS, "mode": mode,
            "program": weakref.proxy(self),  # so that a program and its function die without a search for cycles
            "default": get_default_dtype, "differs": differs, "running": running, "CAPTURE": config.CAPTURE,
            "groups": self.groups,
            "Tensor": Tensor, "wrap": wrap, "tick": tick, "last_write": last_write, "apart": apart,
            "current_node": current_node, "items_differ": items_differ, "count": _count,
        }  # fmt: skip
        self.source = "def replay(args, kwargs):\n" + "\n".join("    " + line for line in lines)
        self.names = names
        exec(compile(self.source, f"<tensorlite program {self.name}>", "exec"), names)
        return names["replay"]

    def _argument_guards(self, c: Any) -> list[str]:
        """Lines that take the arguments apart, and leave where they are not as they were."""
        lines: list[str] = []
        seen: set[int] = set()
        count = [0]

        def visit(tree: tuple, name: str) -> None:
            kind = tree[0]
            if kind is LEAF:
                k = tree[1]
                if k in seen:
                    lines.append(f"if {name} is not t{k}: return MISS")
                    return
                seen.add(k)
                lines.append(f"t{k} = {name}")
                if k in self.fixed:
                    lines.append(f"if t{k} is not {c(self.fixed[k])}: return MISS")
                    return
                lines.append(f"if not isinstance(t{k}, Tensor) or t{k}._spec is not {c(self.specs[k])}: return MISS")
                if self.specs[k].format is STRIDED:
                    lines.append(f"if t{k}._arr.strides != {self.strides[k]!r}: return MISS")
                no = "is" if self.wants[k] else "is not"
                lines.append(f"if current_node(t{k}) {no} None: return MISS")
                return
            if kind in ("value", "object"):
                value = tree[2] if kind == "value" else tree[1].value
                test = f"differs({name}, {c(value)})" if kind == "value" else f"{name} is not {c(value)}"
                lines.append(f"if {test}: return MISS")
                return
            items = tree[2] if kind in ("dict", NAMED) else tree[1]
            cls = tree[1] if kind == NAMED else {"tuple": tuple, "list": list, "dict": dict}[kind]
            lines.append(f"if {name}.__class__ is not {c(cls)} or len({name}) != {len(items)}: return MISS")
            if kind == "dict":
                lines.append(f"if tuple({name}) != {c(tree[1])}: return MISS")
            for j, t in enumerate(items):
                own = f"x{count[0]}"
                count[0] += 1
                lines.append(f"{own} = {name}[{c(tree[1][j]) if kind == 'dict' else j}]")
                visit(t, own)  # noqa: F821 - deleted at the end

        visit(self.tree[1][0], "args")
        if self.tree[1][1][1]:
            visit(self.tree[1][1], "kwargs")
        else:
            lines.append("if kwargs: return MISS")
        del visit  # which holds itself, and self with it
        for j in self.written_args:
            k = self.positions[j]
            others = ", ".join(f"t{m}" for m in range(len(self.specs)) if m != k)
            lines.append(f"if apart(t{k}, ({others}{',' if others else ''})): return MISS")
        return lines

    def _after(self, c: Any) -> list[str]:
        """Lines for what a step leaves behind besides numbers."""
        lines = []
        args = [f"t{self.positions[j]}._ver" for j in self.written_args]
        if self.cells or args:
            lines.append("last_write[0] = now = tick()")
            if self.cells:
                lines.append(f"for cell in {c(self.cells)}: cell[0] = now; cell[1] += 1")
            lines += [f"{a}[0] = now; {a}[1] += 1" for a in args]
        for leaf, t in self.grad_tensors:
            lines.append(f"{c(leaf)}.grad = {c(t)}")
        for leaf in self.grads_dropped:
            lines.append(f"{c(leaf)}.grad = None")
        for o, taken in self.taken:
            lines.append(f"{c(o)}._steps_taken += {taken}")
        return lines

    # ---- step by step
    def watched(self, tensors: list[Tensor]) -> Any:
        """A replay that goes through the seam step by step, for those who watch ops; or one that is checked."""
        fill_settings(self.plan)
        arrays = [tensors[k]._arr for k in self.positions]
        if config.CAPTURE.value == "check":
            made = check.compare(self, tensors)
        else:
            made = stepwise(self.plan, arrays)
        return self._finish(tensors, made)

    def _finish(self, tensors: list[Tensor], made: list) -> Any:
        last_write[0] = now = tick()
        for cell in (*self.cells, *(tensors[self.positions[j]]._ver for j in self.written_args)):
            cell[0] = now
            cell[1] += 1
        for leaf, t in self.grad_tensors:
            leaf.grad = t
        for leaf in self.grads_dropped:
            leaf.grad = None
        for o, taken in self.taken:
            o._steps_taken += taken
        parts = iter(made)
        leaves: list = []
        for s in self.sources:
            if s[0] == "part":
                array = next(parts)
                leaves.append(wrap(array if s[1].storage.kind is BUFFER else array.copy(), s[2]))
            else:
                leaves.append(tensors[s[1]] if s[0] == "arg" else s[1])
        if self.backward is not None:
            self.backward.attach([leaves[k] for k in self.backward.nodes_of], tensors, tuple(parts))
        return rebuild(self.out_tree, leaves)


def _arg(plan: Plan, index: int) -> Storage:
    """The storage of an argument, or one that no step knows."""
    for step in plan.steps:
        for p in step.parts():
            if p.storage.kind is ARG and p.storage.index == index:
                return p.storage
    for p in plan.outputs:
        if p.storage.kind is ARG and p.storage.index == index:
            return p.storage
    return Storage.__new__(Storage)


def _initialised(storages: Any) -> list[Step]:
    """Steps that give constants which the program writes to their first values."""
    steps = []
    for s in storages:
        if s.kind is CONST and s.pristine is not None:
            first = Storage(CONST, s.pristine)
            whole = Part(s, 0, s.array.shape, s.array.strides, s.array.dtype, s.array)
            steps.append(
                Step(
                    COPY,
                    (Part(first, 0, s.pristine.shape, s.pristine.strides, s.pristine.dtype, s.pristine),),
                    (whole,),
                    (),
                )
            )
    return steps


def _asked(parts: list) -> list[Step]:
    """A step that reads what a backward hands out, to count as a use."""
    return [Step(COPY, tuple(parts), (), ())]


def _saved(forward: list[Step], back: list[Step]) -> list[Part]:
    """All of each buffer that the forward makes and the backward reads."""
    made = {id(p.storage): p.storage for step in forward for p in step.outs if p.storage.kind is BUFFER}
    found: dict[int, Part] = {}
    for step in back:
        for p in step.parts():
            s = p.storage
            if id(s) in made and id(s) not in found:
                found[id(s)] = Part(s, 0, (s.nbytes,), (1,), np.dtype(np.uint8))
    return list(found.values())


def _value(container: Any, key: Any) -> Any:
    return container.cell_contents if key is None else container.get(key)


def _parts(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _count(optimizer: Any) -> tuple:
    """How much an optimizer holds: what may change without a word."""
    return (id(optimizer.state), len(optimizer.state), *[len(g["params"]) for g in optimizer.param_groups])


def apart(t: Tensor, others: tuple) -> bool:
    """Whether a tensor shares memory with one of the others."""
    return any(np.may_share_memory(t._arr, o._arr) for o in others)
