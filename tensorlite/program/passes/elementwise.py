"""Element-wise chains as one step each, which reads and writes memory once. Floor 4.

Steps join where one reads what another makes, they have one shape and layout, and everything between them can run
before or after them. What is made and read in a chain alone never reaches memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import prod
from typing import Any

from numpy.lib.stride_tricks import as_strided

from tensorlite.autograd.op import TABLE
from tensorlite.autograd.spec import STRIDED, format_in, spec_of
from tensorlite.backends import CPU, backend
from tensorlite.dtypes import dtype
from tensorlite.ops.fused import BODIES, MOST, NUMBERS
from tensorlite.program.plan import Plan
from tensorlite.program.record import BUFFER, CONST, COPY, Part, Step

EXACT = frozenset(("add", "sub", "mul", "div", "neg", "clone"))  # NumPy's bits are those of the compiled kernels
SHORT = frozenset((-2, -1, 0, 1, 2, 3, 4))  # exponents that are worked out by products
SMALL = 1 << 12  # elements of steps that may join though they share nothing: a call costs more than they do


class _Link:
    """A recorded step as part of a chain: the body that it runs and how each input lies beside its output."""

    __slots__ = ("constants", "name", "out", "reads", "space", "spread")

    def __init__(self, name: str, constants: tuple, reads: tuple, spread: tuple, out: Part, space: tuple):
        self.name, self.constants, self.reads, self.spread, self.out, self.space = (
            name, constants, reads, spread, out, space
        )  # fmt: skip


def run(plan: Plan) -> int:
    """Replace chains by fused steps; gives how many steps went into them."""
    if backend(CPU).kernel("fused") is None:
        return 0
    written = {id(p.storage) for step in plan.steps for p in step.written()}
    links = [_link(step, written) for step in plan.steps]
    if sum(link is not None for link in links) < 2:
        return 0
    groups = _Groups(plan.steps, links)
    groups.join()
    outside = {id(p.storage) for p in (*plan.outputs, *plan.lasting)}
    readers: dict[int, set[int]] = {}
    for k, step in enumerate(plan.steps):
        for p in step.ins:
            if p is not None:
                readers.setdefault(id(p.storage), set()).add(k)
    steps, count = [], 0
    for members in groups.in_order():
        made = _fused(plan, members, links, outside, readers) if len(members) > 1 else None
        steps += [plan.steps[k] for k in members] if made is None else [made]
        count += 0 if made is None else len(members)
    plan.steps = steps
    return count


# ---- which steps can be part of a chain
def _link(step: Step, written: set[int]) -> _Link | None:
    e = step.entry
    name = "clone" if e is COPY else e.op.name
    if name not in BODIES or len(step.outs) != 1 or step.writes or not (e is COPY or e.native or name in EXACT):
        return None
    if e is not COPY and TABLE.get(name) is not e.op:
        return None
    out = step.outs[0]
    d, n = out.dtype, prod(out.shape)
    if d.kind != "f" or d.itemsize < 4 or not n or any(p is not None and p.dtype != d for p in step.ins):
        return None
    item = d.itemsize
    format = format_in(out.shape, tuple(s // item for s in out.strides))
    if format is STRIDED or any(s % item for s in out.strides):
        return None
    spread: list = []
    for k, p in enumerate(step.ins):
        if p is None or k in NUMBERS.get(name, ()):
            if p is not None and not _number(name, p, written):
                return None
            spread.append((1, 1))
            continue
        how = _spread(p, out)
        if how is False:
            return None
        spread.append(how)
    constants = () if e is COPY else tuple(sorted(e.kw.items()))
    return _Link(name, constants, step.ins, tuple(spread), out, (d, out.shape, format))


def _number(name: str, p: Part, written: set[int]) -> bool:
    """Whether an exponent is one that has a body for ever, or a bound is one number."""
    if prod(p.shape) != 1:
        return False
    if name == "clamp":
        return True
    return (
        p.storage.kind is CONST
        and id(p.storage) not in written
        and p.array is not None
        and float(p.array.reshape(())) in SHORT
    )


def _spread(p: Part, out: Part) -> Any:
    """None where an input lies as the output does, (period, repeat) where its elements are spread, else False."""
    lead = len(out.shape) - len(p.shape)
    if lead < 0:
        return False
    step = p.dtype.itemsize
    # dimensions from the outermost in memory to the innermost, with the input's steps; those of size 1 do not matter
    dims = sorted((-out.strides[d], d) for d, n in enumerate(out.shape) if n != 1)
    steps = [0 if d < lead or p.shape[d - lead] == 1 else p.strides[d - lead] for _, d in dims]
    if p.shape == out.shape and steps == [-s for s, _ in dims]:
        return None
    kept = [k for k, s in enumerate(steps) if s]
    if not kept:
        return (1, 1)
    first, last = kept[0], kept[-1]
    period = repeat = 1
    for k in range(last, first - 1, -1):
        if steps[k] != step * period:
            return False
        period *= out.shape[dims[k][1]]
    for k in range(last + 1, len(dims)):
        repeat *= out.shape[dims[k][1]]
    return (period, repeat)


# ---- which of them become one
class _Groups:
    """Sets of steps, each of which will run as one; and what has to come before what."""

    def __init__(self, steps: list[Step], links: list):
        self.steps, self.links = steps, links
        self.group = list(range(len(steps)))  # of each step: its first member
        self.members = [[k] for k in range(len(steps))]
        self.joined: dict[int, list[int]] = {}  # groups of more than one
        self.after: list[set[int]] = [set() for _ in steps]  # groups that must wait for this one
        self.before: list[set[int]] = [set() for _ in steps]
        readers: dict[int, list[int]] = {}
        writer: dict[int, int] = {}
        for k, step in enumerate(steps):
            for s in {id(p.storage) for p in step.ins if p is not None}:
                if s in writer:
                    self._edge(writer[s], k)
                readers.setdefault(s, []).append(k)
            for s in {id(p.storage) for p in step.written()}:
                for r in readers.pop(s, ()):
                    self._edge(r, k)
                if s in writer:
                    self._edge(writer[s], k)
                writer[s] = k

    def _edge(self, a: int, b: int) -> None:
        if a != b:
            self.after[a].add(b)
            self.before[b].add(a)

    def join(self) -> None:
        """Join each step with the chains that made what it reads, then small steps with each other."""
        makers: dict[tuple, int] = {}
        for k, link in enumerate(self.links):
            if link is not None:
                for p, how in zip(link.reads, link.spread):
                    if p is not None and how is None and p.key in makers:
                        self._try(self.group[makers[p.key]], self.group[k])
            for p in self.steps[k].written():
                makers.pop(p.key, None)
            if link is not None:
                makers[link.out.key] = k
        latest: dict[tuple, int] = {}
        for k, link in enumerate(self.links):
            if link is not None and prod(link.out.shape) <= SMALL:
                if link.space in latest:
                    self._try(self.group[latest[link.space]], self.group[k])
                latest[link.space] = k

    def _try(self, a: int, b: int) -> None:
        """Make one group of two, where nothing has to run between them and one kernel can take both."""
        if a == b or self.links[a].space != self.links[b].space:
            return
        if len(self.members[a]) + len(self.members[b]) >= MOST:
            return
        if self._between(a, b) or self._between(b, a):
            return
        both = sorted(self.members[a] + self.members[b])
        if _size(both, self.links) > MOST or not _apart(both, self.links):
            return
        for k in self.members[b]:
            self.group[k] = a
        self.members[a], self.members[b] = both, []
        self.joined.pop(b, None)
        self.joined[a] = both
        for ways, back in ((self.after, self.before), (self.before, self.after)):
            for k in ways[b]:
                back[k].discard(b)
                if k != a:
                    back[k].add(a)
                    ways[a].add(k)
            ways[a].discard(b)
            ways[b] = set()

    def _between(self, a: int, b: int) -> bool:
        """Whether another group has to run after ``a`` and before ``b``."""
        if self.after[a] <= {b} or self.before[b] <= {a}:
            return False
        # no way leads back from behind ``end`` to ``b``: groups that reach across it move it on
        end, last = -1, max(self.members[a][-1], self.members[b][-1])
        while last > end:
            end = last
            last = max((m[-1] for m in self.joined.values() if m[0] <= end), default=end)
        seen, todo = {a, b}, [k for k in self.after[a] if k != b]
        while todo:
            k = todo.pop()
            if k in seen:
                continue
            seen.add(k)
            if b in self.after[k]:
                return True
            if self.members[k][0] <= end:
                todo += self.after[k]
        return False

    def in_order(self) -> Iterator[list[int]]:
        """The groups, each when all that it waits for is done: where its last member stood, if that can be."""
        waiting = {g: len(self.before[g]) for g, m in enumerate(self.members) if m}
        ready = [(self.members[g][-1], g) for g, n in waiting.items() if not n]
        heapify(ready)
        while ready:
            _, g = heappop(ready)
            yield self.members[g]
            for k in self.after[g]:
                waiting[k] -= 1
                if not waiting[k]:
                    heappush(ready, (self.members[k][-1], k))


def _size(members: list[int], links: list) -> int:
    """At most how many inputs, steps and results a chain has."""
    reads = {p.key for k in members for p in links[k].reads if p is not None}
    made = {links[k].out.key for k in members}
    return len(reads - made) + len(members) + len(made)


def _apart(members: list[int], links: list) -> bool:
    """Whether what is written is read and written in one way alone: block by block, all of it."""
    written = {id(links[k].out.storage): links[k].out.key for k in members}
    for k in members:
        link = links[k]
        if written[id(link.out.storage)] != link.out.key:
            return False
        for p, how in zip(link.reads, link.spread):
            if p is not None and id(p.storage) in written and (how is not None or written[id(p.storage)] != p.key):
                return False
    return True


# ---- what they become
def _fused(plan: Plan, members: list[int], links: list, outside: set[int], readers: dict[int, set]) -> Step | None:
    """One step for all members; None where the kernel does not take them."""
    chain = set(members)

    def wanted(p: Part) -> bool:
        s = p.storage
        return s.kind is not BUFFER or id(s) in outside or not chain.issuperset(readers.get(id(s), ()))

    inputs: list[tuple[Part, Any]] = []
    numbers: dict[tuple, int] = {}  # of inputs
    values: dict[tuple, tuple[int, int]] = {}  # a part made here -> (step of the chain, recorded step)
    sources: list[list] = []
    for k in members:
        read: list = []
        for p, how in zip(links[k].reads, links[k].spread):
            if p is None:
                read.append(None)
            elif how is None and p.key in values:
                read.append(values[p.key][0])
            else:
                key = (p.key, how)
                if key not in numbers:
                    numbers[key] = -1 - len(inputs)  # below 0, until they are counted
                    inputs.append((p, how))
                read.append(numbers[key])
        values[links[k].out.key] = (len(sources), k)
        sources.append(read)
    last = links[members[-1]].out
    parts = {links[k].out.key: links[k].out for k in members}
    kept = [p for p in parts.values() if wanted(p)]
    outs = (last, *(p for p in kept if p.key != last.key))  # checks compare the first with the last step's
    whole = [how for _, how in inputs].count(None)
    if not whole:
        return None
    count = len(inputs)
    steps = tuple(
        (links[k].name, links[k].constants, tuple(n if n is None else n + count if n >= 0 else -1 - n for n in read))
        for k, read in zip(members, sources)
    )
    results = tuple(count + values[p.key][0] for p in outs)
    specs = tuple(_spec(p, how) for p, how in inputs)
    how = tuple(h for _, h in inputs)
    entry = TABLE["fused"].entry(specs, {"spread": how, "steps": steps, "results": results})
    if not entry.native:
        return None
    ins = tuple(p if h is None else _dense(p, h) for p, h in inputs)
    origin = plan.steps[members[-1]]
    made = Step(entry, ins, outs, (), origin.module, origin.line)
    made.origin = origin.origin
    return made


def _dense(p: Part, how: tuple) -> Part:
    """The elements of a spread input, which lie one after the other."""
    shape, strides = ((), ()) if how[0] == 1 else ((how[0],), (p.dtype.itemsize,))
    array = None  # of buffers: these are nobody's once they are recorded
    if p.storage.kind is not BUFFER and p.array is not None:
        array = as_strided(p.array, shape, strides)
    return Part(p.storage, p.offset, shape, strides, p.dtype, array)


def _spec(p: Part, how: Any) -> Any:
    if how is not None:
        return spec_of(() if how[0] == 1 else (how[0],), dtype.of_numpy[p.dtype])
    return spec_of(
        p.shape, dtype.of_numpy[p.dtype], format=format_in(p.shape, tuple(s // p.dtype.itemsize for s in p.strides))
    )
