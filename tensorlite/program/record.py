"""Recorder: one run of a function, written down as steps on storages, and undone. Floor 4.

Everything that an array of the run was cut from is a Storage; a step names parts of storages. What the run changed
that was there before is copied first and put back at the end, so that recording leaves no trace.
"""

from __future__ import annotations

import functools
import gc
import linecache
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd import recording, tracing
from tensorlite.autograd.op import Entry
from tensorlite.autograd.tensor import Tensor, address
from tensorlite.errors import CaptureError

ARG, STATE, CONST, SETTING, BUFFER = "argument", "state", "constant", "setting", "buffer"
UNKNOWN = "unknown"


class Storage:
    """Memory that a program uses: what it is, and what is known of it.

    ``index`` counts arguments and buffers. ``array`` is the memory, but of buffers, which live as long as the run needs
    them: of those there is ``alive``, a weak reference to it.
    """

    __slots__ = ("alive", "array", "first", "index", "kind", "nbytes", "name", "pristine", "source", "tensors")

    def __init__(self, kind: str, array: Any, index: int = -1):
        self.kind, self.array, self.index = kind, array, index
        self.nbytes = extent(array)
        self.alive: Any = None
        self.pristine: Any = None  # a copy from before the first write, of what was not made by a step
        self.source: Any = None  # (group, key) of a setting
        self.tensors: list = []  # of state
        self.name = ""
        self.first = -1  # the step that used it first

    def __repr__(self) -> str:
        return f"{self.kind}{self.index if self.index >= 0 else ''}"


class Part:
    """An array of a step: which storage, where in it, and how it lies there."""

    __slots__ = ("array", "dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple, dtype: np.dtype, array: Any = None):
        self.storage, self.offset, self.shape, self.strides, self.dtype = storage, offset, shape, strides, dtype
        self.array = array  # as recorded: what state and constants are replayed with

    @property
    def key(self) -> tuple:
        """Equal for the same part of the same storage."""
        return (id(self.storage), self.offset, self.shape, self.strides, self.dtype)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.storage}{list(self.shape)}"


class Step:
    """One run of a kernel: what was read, what was made, and which inputs were written."""

    __slots__ = ("entry", "group", "ins", "line", "module", "origin", "outs", "writes")

    def __init__(self, entry: Any, ins: tuple, outs: tuple, writes: tuple, module: str = "", line: Any = None):
        self.entry, self.ins, self.outs, self.writes = entry, ins, outs, writes
        self.module, self.line = module, line
        self.group: dict | None = None  # of the optimizer that steps here
        self.origin = -1  # the recorded step that it is, or the last of those that it stands for

    @property
    def name(self) -> str:
        return self.entry.op.name

    def parts(self) -> list[Part]:
        return [p for p in (*self.ins, *self.outs) if p is not None]

    def written(self) -> list[Part]:
        return [*self.outs, *self.writes]

    def where(self) -> str:
        at = f" in module {self.module}" if self.module else ""
        if self.line is None:
            return at
        file, number, function = self.line
        return f'{at}\n  File "{file}", line {number}, in {function}: {linecache.getline(file, number).strip()}'


class _Copy:
    """The op of a step that copies: ``target[...] = source``. Not of the table; nobody calls it."""

    name, view, dynamic, multiple, mutates, alias, elementwise = "copy", False, False, False, (), "elementwise", True
    fused_name = None


def _copy_entry() -> Entry:
    e = Entry()
    e.op, e.specs, e.kw, e.outs, e.out, e.fresh, e.native = _Copy, (), {}, (), None, None, False
    e.kernel = lambda source, target: np.copyto(target, source, casting="unsafe")
    return e


COPY = _copy_entry()


ON_GPU = "compile: got a tensor on a GPU; wanted tensors on the CPU: steps on a GPU are not recorded yet"


def root(array: Any) -> Any:
    """The array that owns (or stands for) the memory."""
    while True:
        base = array.base
        if not isinstance(base, np.ndarray):  # NumPy's as_strided and ours put an object between that has a base
            base = getattr(base, "base", None)
            if not isinstance(base, np.ndarray):
                return array
        array = base


def extent(array: Any) -> int:
    """Bytes from an array's first element to behind its last one; its strides are not negative."""
    if not array.size:
        return 0
    return sum((n - 1) * s for n, s in zip(array.shape, array.strides)) + array.itemsize


def user_line() -> tuple | None:
    """(file, line, function) of the innermost frame outside of this package."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        own = module == "tensorlite" or (module.startswith("tensorlite.") and ".examples" not in module)
        if not own and not frame.f_code.co_filename.startswith("<tensorlite"):
            return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return None


class Recorder:
    """Runs a function once and writes its steps down. ``with recorder: result = fn(...)``; leaving undoes the run.

    Args:
        arguments: the tensors that stand for the function's arguments.
        keep: whether arrays made by steps are kept as they were right after each step (``TL_CAPTURE=check``).
    """

    def __init__(self, arguments: list[Tensor], keep: bool = False):
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.storages: dict[int, Storage] = {}  # id of the root array -> Storage, which keeps that array alive
        self.optimizers: dict[int, Any] = {}
        self.modules: dict[int, Any] = {}
        self.dropped_grads: set[int] = set()
        self.values: list[list] | None = [] if keep else None
        self.gradients: dict[int, Any] = {}  # id of a leaf -> what .grad it had
        self.walked = False  # whether a backward ran and freed its graph
        self.group: dict | None = None
        self._count = 0
        for k, t in enumerate(arguments):
            self.storages[id(root(t._arr))] = Storage(ARG, root(t._arr), k)

    # ---- while it runs
    def __enter__(self) -> Recorder:
        if recording.recorder is not None:
            raise CaptureError(
                "compile: a compiled function was called while another is recorded; call the plain function inside "
                "(compiled.fn), the outer program holds its steps"
            )
        self._groups: dict[int, list] = {}
        self._steps_taken: dict[int, int] = {}
        self._kept: dict[int, dict] = {}
        self.taken: dict[int, int] = {}  # how many steps each optimizer took
        recording.recorder = self
        self._layer = self.layer  # one object, to be found again
        tracing.add_layer(self._layer)
        return self

    def __exit__(self, *exc: Any) -> None:
        recording.recorder = None
        tracing.remove_layer(self._layer)
        for s in self.storages.values():
            if s.pristine is not None and s.kind is not BUFFER:
                s.array[...] = s.pristine
        for x in self.optimizers.values():
            self.taken[id(x)] = x._steps_taken - self._steps_taken[id(x)]
            x._steps_taken = self._steps_taken[id(x)]
        if exc[0] is not None:
            self.forget_states()

    def forget_states(self) -> None:
        """Take away what optimizers began to keep in this run, so that their next step is a first step again."""
        for x in self.optimizers.values():
            kept = self._kept[id(x)]
            for p in list(x.state):
                if p not in kept:
                    del x.state[p]
                else:
                    for key in x.state[p].keys() - kept[p].keys():
                        del x.state[p][key]

    def layer(self, inner: Callable, entry: Any, arrays: tuple, outs: tuple | None) -> Any:
        if threading.get_ident() != self.thread:
            return inner(entry, arrays, outs)
        ins = tuple([None if a is None else self.part(a) for a in arrays])
        writes = ()
        if entry.op.mutates:
            written = entry.op.written(len(arrays), entry.kw)
            writes = tuple(ins[k] for k in written if ins[k] is not None)
        targets = None if outs is None else tuple([self.part(o) for o in outs])
        for p in (*writes, *(targets or ())):
            self.before_write(p.storage)
        made = inner(entry, arrays, outs)
        results = outs
        if targets is None:
            results = made if isinstance(made, tuple) else (made,) if entry.outs else ()
            targets = tuple([self.part(o, BUFFER) for o in results])
        step = Step(entry, ins, targets, writes, tracing.module_path(), user_line())
        self.note(step, [*results, *(a for p, a in zip(ins, arrays) if any(p is w for w in writes))])
        return made

    def note(self, step: Step, written: list) -> None:
        step.origin, step.group = len(self.steps), self.group
        for p in step.parts():
            if p.storage.first < 0:
                p.storage.first = step.origin
        self.steps.append(step)
        if self.values is not None:
            self.values.append([a.copy() for a in written])

    def part(self, array: Any, kind: str = UNKNOWN) -> Part:
        if not isinstance(array, np.ndarray):
            self.refuse(ON_GPU)
        base = root(array)
        s = self.storages.get(id(base))
        if s is None:
            index = -1
            if kind is BUFFER:
                index, self._count = self._count, self._count + 1
            elif kind is UNKNOWN and not array.size:
                kind = CONST  # nothing to renew
            s = self.storages[id(base)] = Storage(kind, base, index)
            if kind is BUFFER:  # it may die in the run as it would without us, and another have its id
                s.array, forget = None, functools.partial(self.storages.pop, id(base))
                s.alive = weakref.ref(base, lambda _: forget(None))
        kept = None if s.kind is BUFFER else array
        return Part(s, address(array) - address(base), array.shape, array.strides, array.dtype, kept)

    def before_write(self, s: Storage) -> None:
        if s.pristine is None and s.kind is not BUFFER:
            s.pristine = s.array.copy("K")

    # ---- what tensorlite.autograd.recording passes on
    def constant(self, array: Any) -> None:
        base = root(array)
        if id(base) not in self.storages:
            self.storages[id(base)] = Storage(CONST, base)

    def setting(self, array: Any, owner: dict, key: str) -> None:
        s = self.storages[id(array)] = Storage(SETTING, array)
        s.source = (owner, key)

    def write(self, target: Any, source: Any) -> None:
        into, from_ = self.part(target, BUFFER), self.part(source)
        self.before_write(into.storage)
        target[...] = source
        self.note(Step(COPY, (from_,), (into,), (), tracing.module_path(), user_line()), [target])

    def refuse(self, message: str) -> None:
        line = user_line()
        at = (
            ""
            if line is None
            else f'\n  File "{line[0]}", line {line[1]}: {linecache.getline(line[0], line[1]).strip()}'
        )
        path = tracing.module_path()
        raise CaptureError(message + (f" (in module {path})" if path else "") + at)

    def stepped(self, optimizer: Any) -> None:
        if id(optimizer) not in self.optimizers:
            self.optimizers[id(optimizer)] = optimizer
            self._steps_taken[id(optimizer)] = optimizer._steps_taken
            self._kept[id(optimizer)] = {p: dict(kept) for p, kept in optimizer.state.items()}
            self._groups[id(optimizer)] = [dict(g) for g in optimizer.param_groups]

    def entered(self, module: Any) -> None:
        self.modules[id(module)] = module

    def dropped(self, tensor: Tensor) -> None:
        g = self.gradients.get(id(tensor._node))
        stepped = (p for o in self.optimizers.values() for group in o.param_groups for p in group["params"])
        untouched = g is not None and g.leaf.grad is g.before and not any(p is tensor for p in stepped)
        if untouched and (g.before is None or id(root(g.before._arr)) not in self.storages):
            self.dropped_grads.add(id(g.leaf))

    # ---- afterwards
    def check_settings(self) -> None:
        """Refuse a run that changed an optimizer's settings: a replay would not."""
        for x in self.optimizers.values():
            for before, now in zip(self._groups[id(x)], x.param_groups):
                for key, value in before.items():
                    if key != "params" and now.get(key) is not value and now.get(key) != value:
                        raise CaptureError(
                            f"compile: {key!r} of an optimizer's group changed from {value} to {now.get(key)} inside "
                            "the compiled function, which a replay would not do; step the scheduler outside of it"
                        )

    def check_leaks(self) -> None:
        """Refuse a run whose tensors live on in an attribute or a list: a replay would not renew them."""
        made = [(p.storage, step) for step in self.steps for p in step.outs if p.storage.first == step.origin]
        buffers = [(s, step) for s, step in made if s.kind is BUFFER]
        if any(s.alive() is not None for s, _ in buffers):
            gc.collect()
        for s, step in buffers:
            if s.alive() is not None:
                raise CaptureError(
                    f"compile: the result of {step.name} is kept after the function returned (in an attribute, a list, "
                    "a hook); a replay would not renew it. Return it, or declare a tensor with state= and write to that"
                    + step.where()
                )
