"""What can be watched while numbers are made: the first NaN, and a line for each op. Floor 2.

Watchers are layers around ``run``: ``layer(inner, entry, arrays, outs)``. Without any, ops pay nothing for them.
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from typing import Any

import numpy as np

from tensorlite import config
from tensorlite.autograd import recording
from tensorlite.autograd.node import Extra, Node
from tensorlite.autograd.op import Entry
from tensorlite.autograd.run import execute, set_seam
from tensorlite.autograd.tensor import Tensor
from tensorlite.backends import array_module
from tensorlite.errors import AnomalyError

_layers: list[Callable] = []
_going_back: ContextVar[Any] = ContextVar("tensorlite_going_back", default=None)
# what the modules above this floor plug in: () -> the path of the module that runs, and (on) -> keep track of it or not
module_path: Callable[[], str] = lambda: ""
track_modules: Callable[[bool], None] = lambda on: None


def _install() -> None:
    seam = execute
    for layer in _layers:
        seam = functools.partial(layer, seam)
    watching = _find_nan in _layers
    track_modules(watching or recording.recorder is not None)
    set_seam(seam if _layers else None, _trace if watching else None)


def add_layer(layer: Callable) -> None:
    """Put ``layer`` around every run."""
    _layers.append(layer)
    _install()


def remove_layer(layer: Callable) -> None:
    """Take the newest such layer away."""
    for k in range(len(_layers) - 1, -1, -1):
        if _layers[k] is layer:
            del _layers[k]
            break
    _install()


def user_frame() -> str:
    """The line of the user's program that is running: the innermost one outside this package."""
    package = __name__.partition(".")[0]
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        own = module == package or (module.startswith(package + ".") and ".examples" not in module)
        if not own and not frame.f_code.co_filename.startswith("<tensorlite"):
            summary = traceback.extract_stack(frame, limit=1)[0]
            return f'File "{summary.filename}", line {summary.lineno}, in {summary.name}: {summary.line}'
        frame = frame.f_back  # type: ignore[assignment]
    return "(no frame outside tensorlite)"


class Trace:
    """Where a node's op was called, and the watch over its way back."""

    __slots__ = ("line", "module")

    def __init__(self):
        self.line, self.module = user_frame(), module_path()

    def where(self) -> str:
        return (f" in module {self.module}" if self.module else "") + f"\n  {self.line}"

    def back(self, rule: Callable, g: Any, node: Node) -> Any:
        token = _going_back.set((node.name(), self))
        try:
            grads = rule(g, node)
        finally:
            _going_back.reset(token)
        given = g if isinstance(g, list) else [g]
        made = grads if isinstance(grads, tuple) else (grads,)
        if all(map(_sound, given)) and not all(map(_sound, made)):
            raise AnomalyError(
                f"{node.name()} returned {_what(made)} values in its backward. The op ran forward{self.where()}"
            )
        return grads


def _trace() -> Extra:
    extra = Extra()
    extra.trace = Trace()
    return extra


def _sound(x: Any) -> bool:
    """Whether an array or Tensor is free of nan and inf (whatever is no float is)."""
    a = x._arr if isinstance(x, Tensor) else x
    if a is None or not hasattr(a, "dtype") or not (a.dtype.kind == "f" or a.dtype.name == "bfloat16"):
        return True
    return bool(array_module(a).isfinite(a.astype(np.float32) if a.dtype.itemsize == 2 else a).all())


def _what(values: Any) -> str:
    arrays = [v._arr if isinstance(v, Tensor) else v for v in values if not _sound(v)]
    return "nan" if any((a != a).any() for a in arrays) else "inf"


def _find_nan(inner: Callable, entry: Entry, arrays: tuple, outs: tuple | None) -> Any:
    sound = all(map(_sound, arrays))  # before the run: it may write over an input
    made = inner(entry, arrays, outs)
    results = made if isinstance(made, tuple) else (made,)
    if sound and not all(map(_sound, results)):
        what = _what(results)
        going_back = _going_back.get()
        if going_back is not None:
            name, trace = going_back
            raise AnomalyError(
                f"{name}: {entry.op.name} made {what} values in the backward. The op ran forward{trace.where()}"
            )
        raise AnomalyError(f"{entry.op.name}: made {what} values from finite inputs{Trace().where()}")
    return made


class detect_anomaly(ContextDecorator):
    """Stop at the first NaN or infinity, forward or backward, and say which op made it, in which module and line.

    Every output is looked at, so this is for finding a bug, not for training. ``TL_NAN=1`` turns it on for a program.

    >>> import tensorlite as tl
    >>> try:
    ...     with tl.autograd.detect_anomaly():
    ...         y = tl.zeros(2).log()
    ... except tl.errors.AnomalyError as error:
    ...     print(str(error).splitlines()[0])
    log: made inf values from finite inputs
    """

    def __init__(self, check_nan: bool = True):
        self.check_nan = check_nan

    def __enter__(self):
        if self.check_nan:
            add_layer(_find_nan)
        return self

    def __exit__(self, *exc):
        if self.check_nan:
            remove_layer(_find_nan)


class set_detect_anomaly(detect_anomaly):
    """``detect_anomaly`` as a switch: takes effect at once, and until the end of the block if used as one."""

    def __init__(self, mode: bool, check_nan: bool = True):
        super().__init__(check_nan)
        self.before = _find_nan in _layers
        self._to(mode)

    def _to(self, on: bool) -> None:
        while _find_nan in _layers:
            remove_layer(_find_nan)
        if on:
            add_layer(_find_nan)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._to(self.before)


def is_anomaly_enabled() -> bool:
    """Whether the first NaN or infinity would be found now."""
    return _find_nan in _layers


def plug_in_modules(path: Callable[[], str], track: Callable[[bool], None]) -> None:
    """How the floor of modules tells this one where in a model the code runs."""
    global module_path, track_modules
    module_path, track_modules = path, track
    _install()


def _print_op(inner: Callable, entry: Entry, arrays: tuple, outs: tuple | None) -> Any:
    start = time.perf_counter()
    made = inner(entry, arrays, outs)
    took = time.perf_counter() - start
    given = ", ".join("-" if s is None else str(s) for s in entry.specs)
    print(
        f"{took * 1e6:9.1f} us  {'native' if entry.native else 'plain '}  {entry.op.name}({given}) -> "
        f"{', '.join(map(str, entry.outs))}",
        file=sys.stderr,
    )
    return made


def _follow_debug(level: int) -> None:
    if (level >= 2) != (_print_op in _layers):
        (add_layer if level >= 2 else remove_layer)(_print_op)


def _follow_nan(on: int) -> None:
    if bool(on) != (_find_nan in _layers):
        (add_layer if on else remove_layer)(_find_nan)


config.DEBUG.listeners.append(_follow_debug)
config.NAN.listeners.append(_follow_nan)


def follow_switches() -> None:
    """Do as the environment says, once all ops are there."""
    _follow_debug(config.DEBUG.value)
    _follow_nan(config.NAN.value)
