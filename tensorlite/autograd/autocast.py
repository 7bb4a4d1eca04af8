"""Autocast: how calls inside a region come to be looked at, and the dtypes that their tensors get. Floor 2.

Outside of all regions nothing of this exists for an op. While one is open, in whatever thread, the functions of those
ops that have a policy run other code: their code objects are exchanged, so that each name a function is known under,
public, method or inside another op, leads to the same place, and none of them has a test of its own to pay. There the
state of the thread decides: the tensors are cast by the policy of their device, and what the function itself calls
counts as part of it, so it is left alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, NamedTuple

from tensorlite.autograd import recording
from tensorlite.autograd.modes import mode, set_mode
from tensorlite.autograd.node import Leaf
from tensorlite.autograd.tensor import Tensor
from tensorlite.dtypes import bfloat16, dtype, float16, float32, float64, promote_types

DEVICES = ("cuda", "cpu")  # where an op has tensors on both, the first decides
# what becomes of floating-point tensors: the region's dtype, float32, the widest of theirs, nothing, an error
LOWER, FLOAT32, WIDEST, KEEP, REFUSE = "lower", "float32", "widest", "keep", "refuse"


class Autocast(NamedTuple):
    """What the regions around say: where autocast is on, the dtypes it lowers to, whether cast weights are kept."""

    cpu: bool = False
    cuda: bool = False
    cpu_dtype: dtype = bfloat16
    cuda_dtype: dtype = float16
    cache: bool = True

    def holds(self, device: str) -> bool:
        return getattr(self, device, False)

    def lower(self, device: str) -> dtype:
        return getattr(self, device + "_dtype")


DEFAULT = Autocast()


class Kept:
    """The weights that were cast since the outermost region began. A recorded program makes its own casts: what is kept
    counts for the recording, or the lack of one, that the region began in."""

    def __init__(self) -> None:
        self.recorder = recording.active()
        self.casts: dict[tuple, tuple] = {}

    def cast(self, t: Tensor, d: dtype) -> Tensor:
        key = (id(t), d, mode().grad)
        found = self.casts.get(key)
        if found is not None:
            of, array, cell, writes, made = found
            if of is t and t._arr is array and t._ver is cell and cell[1] == writes:
                return made
        made = t.to(d)
        self.casts[key] = (t, t._arr, t._ver, t._ver[1], made)
        return made


_kept: ContextVar[Kept | None] = ContextVar("tensorlite_autocast_kept", default=None)


# ---- the casts
def _tensors(values: Any) -> Iterator[Tensor]:
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif x.__class__ is list or x.__class__ is tuple:
            yield from _tensors(x)


def _mapped(x: Any, f: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, Tensor):
        return f(x)
    if x.__class__ is list or x.__class__ is tuple:
        return x.__class__([_mapped(y, f) for y in x])
    return x


def _casting(policy: str, name: str, device: str, state: Autocast, values: tuple) -> Callable[[Tensor], Tensor]:
    """What is done with each tensor of a call. float64 is left as it is."""
    wanted = state.lower(device)
    if policy == REFUSE:
        raise RuntimeError(
            f"{name}: got a call inside of autocast, where its logarithms of {wanted.name} overflow; it is unsafe to "
            f"autocast. Wanted {name}_with_logits, or autocast(enabled=False) around it"
        )

    def eligible(t: Tensor) -> bool:
        d = t._spec.dtype
        return d.is_floating_point and d is not float64 and t._spec.device.type == device

    if policy == FLOAT32:
        wanted = float32
    elif policy == WIDEST:
        for t in _tensors(values):
            if eligible(t):
                wanted = promote_types(wanted, t._spec.dtype)
    kept = _kept.get() if policy == LOWER and state.cache else None
    if kept is not None and kept.recorder is not recording.active():
        kept = None

    def cast(t: Tensor) -> Tensor:
        d = t._spec.dtype
        if d is wanted or not eligible(t):
            return t
        if kept is not None and d is float32 and t._node.__class__ is Leaf and t._view is None:
            return kept.cast(t, wanted)
        return t.to(wanted)

    return cast


def _watcher(name: str, plain: Callable, policies: dict[str, str]) -> Callable[[tuple, dict], Any]:
    """What a call of an op comes to while a region is open. ``policies``: by device."""

    def call(args: tuple, kw: dict) -> Any:
        before = mode()
        state = before.autocast
        if state is not None and any(state.holds(device) for device in policies):
            values = (*args, *kw.values())
            there = {t._spec.device.type for t in _tensors(values)}
            device = next((d for d in DEVICES if d in there and state.holds(d)), "")
            policy = policies.get(device)
            if policy is not None:
                if policy != KEEP:
                    cast = _casting(policy, name, device, state, values)
                    args = tuple([_mapped(x, cast) for x in args])
                    kw = {k: _mapped(x, cast) for k, x in kw.items()}
                set_mode(before._replace(autocast=None))
                try:
                    return plain(*args, **kw)
                finally:
                    set_mode(before)
        return plain(*args, **kw)

    return call


# ---- the exchange of codes
_routes: list[tuple[FunctionType, Any, Any]] = []  # (function, its own code, the watched one)
_open = 0  # regions, in all threads
_lock = threading.Lock()


def route(name: str, function: FunctionType, policies: dict[str, str]) -> None:
    """Let calls of ``function`` go by these policies while a region is open."""
    own = function.__code__
    plain = FunctionType(own, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    plain.__kwdefaults__ = function.__kwdefaults__
    watchers = function.__globals__.setdefault("__autocast__", {})
    watchers[name, function.__name__] = _watcher(name, plain, policies)
    text = f"def watched(*args, **kw): return __autocast__[{name!r}, {function.__name__!r}](args, kw)"
    made: dict[str, Any] = {}
    exec(compile(text, f"<tensorlite autocast {name}>", "exec"), made)
    watched = made["watched"].__code__.replace(co_freevars=own.co_freevars, co_name=own.co_name)
    _routes.append((function, own, watched))


def open_region() -> None:
    """One more region is open somewhere."""
    global _open
    with _lock:
        _open += 1
        if _open == 1:
            for function, _, watched in _routes:
                function.__code__ = watched


def close_region() -> None:
    """One region fewer is open."""
    global _open
    with _lock:
        _open -= 1
        if not _open:
            for function, own, _ in _routes:
                function.__code__ = own


def enter(state: Autocast) -> tuple:
    """Let ``state`` hold in this thread from now on. Gives what ``leave`` needs."""
    before, kept = mode().autocast, _kept.get()
    if kept is None:
        _kept.set(Kept())
    watching = state.cpu or state.cuda
    if watching:
        open_region()
    set_mode(mode()._replace(autocast=state))
    return before, kept, watching


def leave(entered: tuple) -> None:
    """Let what held before ``enter`` hold again."""
    before, kept, watching = entered
    set_mode(mode()._replace(autocast=before))
    _kept.set(kept)
    if watching:
        close_region()


def current() -> Autocast:
    """What holds in this thread."""
    return mode().autocast or DEFAULT


@contextmanager
def uncast() -> Iterator[None]:
    """No autocast inside, as in a backward."""
    before = mode().autocast
    set_mode(mode()._replace(autocast=None))
    try:
        yield
    finally:
        set_mode(mode()._replace(autocast=before))
