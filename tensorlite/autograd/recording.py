"""What the rest of the package tells a recorder, and what tells compiled programs that the world changed. Floor 2.

Almost every number passes ``run``, where a recorder sees it. The few that do not (filled arrays, writes by assignment,
numbers read on the host) are told here; without a recorder that costs one test.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

recorder: Any = None  # the one that records now, in its own thread

# Parameters, found by their id: a Parameter may be anything that PyTorch lets it be, unhashable too.
parameters: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
generators: weakref.WeakSet = weakref.WeakSet()

# Counts changes of what a program took for granted: modes of modules, their members and hooks, what wants a gradient,
# the arrays behind parameters, the choice of kernels. Equal numbers mean that nothing needs to be looked at.
structure = [0]


def changed() -> None:
    """Let every compiled program look again at what it was recorded with."""
    structure[0] += 1


class Kind:
    """What programs need to know of a sort of object that holds tensors; the floors above register theirs.

    Args:
        type: the class.
        tensors: object -> (name, tensor) of all that it holds.
        facts: object -> a tuple that changes when the object does (its settings, not the values of its tensors).
        parts: object -> the objects of some Kind inside it.
    """

    table: list[Kind] = []

    def __init__(
        self,
        type: type,
        tensors: Callable[[Any], Iterable[tuple[str, Any]]],
        facts: Callable[[Any], tuple],
        parts: Callable[[Any], Iterable[Any]] = lambda x: (),
    ):
        self.type, self.tensors, self.facts, self.parts = type, tensors, facts, parts
        Kind.table.append(self)

    @staticmethod
    def of(x: Any) -> Kind | None:
        """The Kind of an object, or None."""
        return next((k for k in Kind.table if isinstance(x, k.type)), None)


def active() -> Any:
    """The recorder, if this thread's ops are recorded."""
    return recorder if recorder is not None and recorder.thread == threading.get_ident() else None


def made(array: Any) -> None:
    """An array was filled without ``run``: it is a constant of the program that is recorded."""
    if recorder is not None and active():
        recorder.constant(array)


def write(target: Any, source: Any) -> None:
    """``target[...] = source``, seen by a recorder."""
    if recorder is not None and active():
        recorder.write(target, source)
    else:
        target[...] = source


def copied(array: Any, order: str = "C") -> Any:
    """``array.copy(order)``, seen by a recorder."""
    if recorder is None or not active():
        return array.copy(order)
    copy = np.empty_like(array, order=order)
    recorder.write(copy, array)
    return copy


def reading(what: str) -> None:
    """Numbers are about to be read on the host, where no recorded program can come by."""
    if recorder is not None and active():
        recorder.refuse(
            f"{what}: got a value that is only known when the program runs; return the tensor and read it outside of "
            "the compiled function, or keep it a tensor (where, masked_fill, clamp in place of if)"
        )


def refuse(what: str) -> None:
    """Something that a recorded program would not do again."""
    if recorder is not None and active():
        recorder.refuse(what)


def setting(owner: dict, key: str, value: Any) -> Any:
    """A number of an optimizer's group as a float64 array; a program reads it anew before each replay."""
    array = np.asarray(value, np.float64)
    if recorder is not None and active():
        recorder.setting(array, owner, key)
    return array


def optimizer(x: Any) -> None:
    """An optimizer steps: what it keeps is state, and its count of steps goes on in every replay."""
    if recorder is not None and active():
        recorder.stepped(x)


def stepping(group: dict | None) -> None:
    """The steps that follow are those of one group of an optimizer; or no longer."""
    if recorder is not None and active():
        recorder.group = group


def module(x: Any) -> None:
    """A module's forward runs."""
    if recorder is not None and active():
        recorder.entered(x)


def walked() -> None:
    """A backward ran that frees its graph."""
    if recorder is not None and active():
        recorder.walked = True


def cleared(x: Any) -> None:
    """``.grad`` of a tensor was dropped: what it was before does not matter to the program."""
    if recorder is not None and active():
        recorder.dropped(x)
