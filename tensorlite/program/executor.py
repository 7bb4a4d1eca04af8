"""The text of a plan: one line a kernel, its arrays at hand. What makes a replay cost little. Floor 4.

A program's function is written out and compiled, as the calls of ops are. Arrays that never move are globals of the
text; arguments and results are locals, and views of them are cut where they are first used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd import run as running
from tensorlite.autograd.spec import CONTIGUOUS, Spec
from tensorlite.backends import CPU, backend
from tensorlite.program.plan import Plan, covers
from tensorlite.program.record import ARG, BUFFER, COPY, SETTING, Part, Step


class Text:
    """Lines of a function that replays a plan, and the names they use.

    Args:
        plan: whose buffers have their places.
        specs: of handed-out parts, by their key: where one covers its storage, it is allocated as such a tensor is.
    """

    def __init__(self, plan: Plan, specs: dict[tuple, Spec]):
        self.plan = plan
        self.names: dict[str, Any] = {"cut": cut, "as_memory": as_memory}
        self.lines: list[str] = []
        self._known: dict[tuple, str] = {}  # of parts
        self._constants: dict[int, str] = {}
        self._memory: dict[int, str] = {}  # of storages made anew
        for part in plan.outputs:
            if part.storage.kind is BUFFER and id(part.storage) not in self._memory:
                self._allocate(part, specs.get(part.key))
        for part in plan.outputs:
            self.array(part)

    def constant(self, value: Any, prefix: str = "c") -> str:
        """A name for an object."""
        name = self._constants.get(id(value))
        if name is None:
            name = self._constants[id(value)] = f"{prefix}{len(self._constants)}"
            self.names[name] = value  # which keeps the object, and with it its id
        return name

    def _allocate(self, part: Part, spec: Spec | None) -> None:
        name = self._memory[id(part.storage)] = f"m{len(self._memory)}"
        if spec is not None and covers(part) and spec.format is CONTIGUOUS:
            self.lines.append(f"{name} = {self.constant(spec.empty, 'empty')}()")
            self._known[part.key] = name
        else:
            make = backend(CPU).maker((part.storage.nbytes,), np.uint8)
            self.lines.append(f"{name} = {self.constant(make, 'empty')}()")

    def array(self, part: Part | None) -> str:
        """The name of a part's array; the line that cuts it is added where it is first needed."""
        if part is None:
            return "None"
        found = self._known.get(part.key)
        if found is not None:
            return found
        s = part.storage
        if s.kind is ARG:
            name = f"v{len(self._known)}"
            how = (part.shape, part.dtype, part.offset, part.strides)
            self.lines.append(f"{name} = as_memory(a{s.index}, {self.constant(how, 'how')})")
        elif id(s) in self._memory:
            name = f"v{len(self._known)}"
            how = (part.shape, part.dtype, part.offset, part.strides)
            self.lines.append(f"{name} = cut({self._memory[id(s)]}, {self.constant(how, 'how')})")
        else:
            name = self.constant(self.plan.static(part), "b")
        self._known[part.key] = name
        return name

    def whole(self, index: int, part: Part) -> None:
        """Say that a part is all of an argument as it comes."""
        self._known[part.key] = f"a{index}"

    def steps(self) -> None:
        for k, step in enumerate(self.plan.steps):
            arrays = ", ".join(map(self.array, (*step.ins, *step.outs)))
            name = self.constant(kernel_for(step), "k") if step.group is None else f"step{k}"  # may be bound anew
            self.names[name] = kernel_for(step)
            self.lines.append(f"{name}({arrays})")


def kernel_for(step: Step) -> Callable:
    """What a step calls with its inputs and outputs."""
    if step.entry is COPY:
        return _copy
    return step.entry.kernel


def _copy(source: Any, target: Any) -> None:
    target[...] = source


def cut(memory: Any, how: tuple) -> Any:
    """A part of a contiguous block."""
    shape, dtype, offset, strides = how
    return np.ndarray(shape, dtype, memory, offset, strides)


class _Lent:
    """Memory of another array, described to NumPy."""

    def __init__(self, array: Any, how: tuple):
        shape, dtype, offset, strides = how
        self.base = array
        pointer, readonly = array.__array_interface__["data"]
        self.__array_interface__ = {
            "data": (pointer + offset, readonly), "shape": shape, "strides": strides, "typestr": dtype.str, "version": 3
        }  # fmt: skip


def as_memory(array: Any, how: tuple) -> Any:
    """A part of an argument, whatever its strides are."""
    shape, dtype, offset, strides = how
    if array.flags.c_contiguous and array.dtype.kind != "V":
        return np.ndarray(shape, dtype, array, offset, strides)
    plain = np.asarray(_Lent(array, (shape, np.dtype(f"u{dtype.itemsize}"), offset, strides)))
    return plain.view(dtype)


def arrays_of(plan: Plan, arguments: list) -> Callable[[Part | None], Any]:
    """A function that gives the array of a part in one run of the plan, whose handed-out memory is made when asked."""
    dynamic, memory = plan.dynamic(), {}

    def array(part: Part | None) -> Any:
        if part is None:
            return None
        s = part.storage
        how = (part.shape, part.dtype, part.offset, part.strides)
        if s.kind is ARG:
            return as_memory(arguments[s.index], how)
        if id(s) in dynamic:
            if id(s) not in memory:
                memory[id(s)] = np.empty(s.nbytes, np.uint8)
            return cut(memory[id(s)], how)
        return plan.static(part)

    return array


def stepwise(plan: Plan, arguments: list, after: Callable[[int, Step, list], None] | None = None) -> list:
    """Run a plan step by step through the seam, so that whoever watches ops sees them; gives the handed-out arrays.

    ``after(k, step, arrays)`` is told the arrays that step k has written.
    """
    array = arrays_of(plan, arguments)
    for k, step in enumerate(plan.steps):
        ins, outs = [array(p) for p in step.ins], [array(p) for p in step.outs]
        if step.entry is COPY:
            _copy(ins[0], outs[0])
        else:
            running.run(step.entry, tuple(ins), tuple(outs))
        if after is not None:
            after(k, step, [array(p) for p in step.written()])
    return [array(p) for p in plan.outputs]


def fill_settings(plan: Plan) -> None:
    """Write what the optimizers' groups say now into the program's 0-d inputs."""
    for s in settings(plan):
        owner, key = s.source
        s.array[...] = owner[key]


def settings(plan: Plan) -> list:
    """The storages that hold numbers of optimizers' groups."""
    found = {id(p.storage): p.storage for step in plan.steps for p in step.ins if p is not None}
    return [s for s in found.values() if s.kind is SETTING]
