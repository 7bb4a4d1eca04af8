"""Who makes and who reads each buffer of a plan: what passes that replace steps ask. Floor 4."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tensorlite.program.plan import Plan, covers
from tensorlite.program.record import BUFFER, Part, Step


class Graph:
    """The steps of a plan while a pass works on them. ``finish`` puts what came of it into the plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.steps: list[Step | None] = list(plan.steps)
        self.writers: dict[int, list[int]] = {}
        self.readers: dict[int, list[int]] = {}
        for k, step in enumerate(plan.steps):
            self._note(k, step)
        self.kept = {id(p.storage) for p in (*plan.outputs, *plan.lasting)}
        self.count = 0

    def _note(self, k: int, step: Step) -> None:
        for p in step.written():
            self.writers.setdefault(id(p.storage), []).append(k)
        for p in step.ins:
            if p is not None:
                self._note_reader(k, p)

    def _note_reader(self, k: int, part: Part) -> None:
        readers = self.readers.setdefault(id(part.storage), [])
        if k not in readers:
            readers.append(k)
            readers.sort()

    def maker(self, part: Part | None) -> int | None:
        """The one step that writes a part's buffer, all of it at once; None where there is no such step."""
        if part is None or part.storage.kind is not BUFFER:
            return None
        writers = self.writers.get(id(part.storage), [])
        if len(writers) != 1 or self.steps[writers[0]] is None:
            return None
        made = next((p for p in self.steps[writers[0]].outs if p.storage is part.storage), None)  # type: ignore[union-attr]
        return writers[0] if made is not None and covers(made) else None

    def source(self, part: Part | None, name: str) -> int | None:
        """The step of this name whose first output is the part; None where something else makes it."""
        at = self.maker(part)
        step = None if at is None else self.steps[at]
        return at if step is not None and step.name == name and same(step.outs[0], part) else None

    def read_by(self, part: Part) -> list[int]:
        """The steps that read a part's buffer, in order."""
        return [k for k in self.readers.get(id(part.storage), []) if self.steps[k] is not None]

    def only(self, part: Part, *readers: int) -> bool:
        """Whether these steps alone read a part's buffer, and nobody does after the run."""
        return id(part.storage) not in self.kept and set(self.read_by(part)) <= set(readers)

    def movable(self, step: Step, at: int, to: int, passing: Iterable[int] = ()) -> bool:
        """Whether a step could run at ``to`` instead of ``at``: nothing between them writes what it uses or reads what
        it writes. Steps of ``passing`` do not count: they go away."""
        reads = {id(p.storage) for p in step.ins if p is not None}
        writes = {id(p.storage) for p in step.written()}
        skip = {at, *passing}
        for k in range(min(at, to), max(at, to) + 1):
            other = self.steps[k]
            if k in skip or other is None:
                continue
            if any(id(p.storage) in reads or id(p.storage) in writes for p in other.written()):
                return False
            if any(p is not None and id(p.storage) in writes for p in other.ins):
                return False
        return True

    def replace(self, gone: Iterable[int], at: int, step: Step) -> None:
        """Put ``step`` in place of these steps, at the position of one of them."""
        gone = list(gone)
        step.origin = max(self.steps[k].origin for k in gone)  # type: ignore[union-attr]
        last = self.steps[at]
        step.module, step.line = last.module, last.line  # type: ignore[union-attr]
        for k in gone:
            self.steps[k] = None
            for table in (self.readers, self.writers):
                for users in table.values():
                    if k in users:
                        users.remove(k)
        self.steps[at] = step
        self._note(at, step)
        self.count += len(gone) - 1

    def read_instead(self, k: int, old: Part, new: Part) -> None:
        """Let step k read another part in place of one that is equal."""
        step = self.steps[k]
        ins = tuple([new if p is not None and p.key == old.key else p for p in step.ins])  # type: ignore[union-attr]
        made = Step(step.entry, ins, step.outs, step.writes, step.module, step.line)  # type: ignore[union-attr]
        made.origin = step.origin  # type: ignore[union-attr]
        self.steps[k] = made
        self.readers[id(old.storage)].remove(k)
        self._note_reader(k, new)

    def remove(self, k: int) -> None:
        """Take a step away that nobody reads."""
        self.steps[k] = None
        self.count += 1

    def finish(self) -> int:
        """Write the steps back; gives how many went away."""
        self.plan.steps = [s for s in self.steps if s is not None]
        return self.count


def same(a: Part | None, b: Part | None) -> bool:
    """Whether two parts are the same array."""
    return a is not None and b is not None and a.key == b.key


def fused(op: Any, like: Step, ins: tuple, outs: tuple, specs: tuple, **constants: Any) -> Step | None:
    """A step of another op, or None where it has no compiled kernel for these."""
    entry = op.op.entry(specs, constants)
    if not entry.native or [(o.shape, o.dtype.np) for o in entry.outs] != [(p.shape, p.dtype) for p in outs]:
        return None
    return Step(entry, ins, outs, (), like.module, like.line)


def each(graph: Graph, rule: Callable[[Graph, int, Step], Any], *names: str) -> None:
    """Call ``rule(graph, k, step)`` for every step of these ops, in order."""
    for k in range(len(graph.steps)):
        step = graph.steps[k]
        if step is not None and step.name in names:
            rule(graph, k, step)
