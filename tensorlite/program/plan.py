"""Plan: the steps of a program with the memory that each of them uses. Floor 4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorlite.backends import CPU, backend
from tensorlite.program.record import ARG, BUFFER, CONST, COPY, SETTING, STATE, Part, Step, Storage

ALIGNMENT = 64


class Plan:
    """A recorded program: ``print(plan)`` shows its steps, ``plan.svg(path)`` draws them.

    Args:
        steps: what runs, in order.
        outputs: parts that are handed out: their storages are made anew for every run.
        lasting: parts that are read after the run (gradients): their storages are never used for anything else.
    """

    def __init__(self, steps: list[Step], outputs: list[Part], lasting: list[Part], name: str = "program"):
        self.steps, self.outputs, self.lasting, self.name = steps, outputs, lasting, name
        self.places: dict[int, int] = {}  # id of a buffer -> its offset in the arena
        self.arena_bytes = 0
        self.buffer_bytes = 0  # what the buffers would take side by side
        self.applied: list[str] = []  # what the passes did
        self._arena: Any = None

    # ---- memory
    def dynamic(self) -> set[int]:
        """The ids of storages that are made anew for every run."""
        return {id(p.storage) for p in self.outputs if p.storage.kind is BUFFER}

    def buffers(self) -> list[Storage]:
        """The storages that the arena holds, in the order of their first use."""
        found: dict[int, Storage] = {}
        skip = self.dynamic()
        for p in (*(p for s in self.steps for p in s.parts()), *self.lasting):
            if p.storage.kind is BUFFER and id(p.storage) not in skip:
                found.setdefault(id(p.storage), p.storage)
        return list(found.values())

    def lives(self) -> dict[int, tuple[int, int]]:
        """The first and the last step that use each buffer of the arena."""
        lives: dict[int, tuple[int, int]] = {}
        for k, step in enumerate(self.steps):
            for p in step.parts():
                if p.storage.kind is BUFFER:
                    lives[id(p.storage)] = (lives.get(id(p.storage), (k, k))[0], k)
        for p in self.lasting:
            if p.storage.kind is BUFFER:
                lives[id(p.storage)] = (0, len(self.steps))
        return lives

    def place(self, reuse: bool) -> None:
        """Give every buffer its place in the arena; with ``reuse`` those that never live together share memory.

        Largest first, each at the lowest offset that is free for as long as it lives.
        """
        lives = self.lives()
        buffers = self.buffers()
        self.buffer_bytes = sum(_rounded(s.nbytes) for s in buffers)
        lasting = {id(p.storage) for p in self.lasting}
        placed: list[tuple[int, int, int, int]] = []  # offset, end, first step, last step
        for s in sorted(buffers, key=lambda s: (id(s) not in lasting, -s.nbytes)):
            first, last = lives[id(s)] if reuse else (0, len(self.steps))
            at = 0
            for offset, end, a, b in sorted(placed):
                if a <= last and first <= b:  # both are needed at some step
                    if at + s.nbytes <= offset:
                        break
                    at = max(at, end)
            self.places[id(s)] = at
            placed.append((at, at + _rounded(s.nbytes), first, last))
        self.arena_bytes = max((end for _, end, _, _ in placed), default=0)
        self._arena = None

    @property
    def arena(self) -> Any:
        """The one block of memory that all buffers lie in; made when first needed."""
        if self._arena is None:
            block = backend(CPU).maker((self.arena_bytes + ALIGNMENT,), np.uint8)()
            start = -block.ctypes.data % ALIGNMENT
            self._arena = block[start : start + self.arena_bytes]
        return self._arena

    def static(self, part: Part) -> Any:
        """The array of a part that is the same in every run."""
        s = part.storage
        if s.kind is BUFFER:
            return cut(self.arena, part, self.places[id(s)])
        return part.array

    # ---- what it comes to
    def effects(self) -> Iterable[Storage]:
        """The storages from outside that the program writes."""
        found = {id(p.storage): p.storage for s in self.steps for p in s.written() if p.storage.kind in (STATE, ARG)}
        return found.values()

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.steps)} steps, {_bytes(self.arena_bytes)} of buffers"]
        if self.buffer_bytes != self.arena_bytes:
            lines[0] += f" ({_bytes(self.buffer_bytes)} without reuse)"
        if self.applied:
            lines.append("passes: " + ", ".join(self.applied))
        rows = [("", "op", "kernel", "module", "reads", "writes", "bytes")]
        for k, step in enumerate(self.steps):
            reads = ", ".join(map(self._named, (p for p in step.ins if p is not None)))
            writes = ", ".join(map(self._named, step.written()))
            moved = _bytes(sum(p.nbytes for p in step.parts()))
            rows.append((str(k), step.name, kernel_of(step), step.module, _short(reads), _short(writes), moved))
        widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
        lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    __repr__ = __str__

    def _named(self, p: Part) -> str:
        s = p.storage
        if s.kind is BUFFER:
            name = f"out{s.index}" if id(s) in self.dynamic() else f"b{s.index}"
        else:
            name = {ARG: f"arg{s.index}", STATE: "state", CONST: "const", SETTING: "setting"}.get(s.kind, s.kind)
        return name + str(list(p.shape))

    def svg(self, path: Any) -> None:
        """Draw the steps, and what each reads and writes, as a picture."""
        from tensorlite.program.picture import draw

        draw(self, path)


def kernel_of(step: Step) -> str:
    """Which kernel a step runs: native, plain, or a copy of memory."""
    return "copy" if step.entry is COPY else "native" if step.entry.native else "plain"


def cut(memory: Any, part: Part, offset: int = 0) -> Any:
    """The array of a part whose storage begins at ``offset`` of a contiguous block of bytes."""
    return np.ndarray(part.shape, part.dtype, memory, offset + part.offset, part.strides)


def covers(part: Part) -> bool:
    """Whether a part is all of its storage, contiguous from its first byte."""
    return part.offset == 0 and part.nbytes == part.storage.nbytes and _is_dense(part)


def _is_dense(part: Part) -> bool:
    step = part.dtype.itemsize
    for n, stride in sorted(zip(part.shape, part.strides), key=lambda pair: pair[1]):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def _rounded(n: int) -> int:
    return -(-max(n, 1) // ALIGNMENT) * ALIGNMENT


def _bytes(n: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GB"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
