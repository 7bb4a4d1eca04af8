"""Where in a model the code runs: "Net.features.0". Kept only while somebody asks. Floor 5."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tensorlite.autograd import recording, tracing
from tensorlite.nn import module as _module

_stack: ContextVar[tuple] = ContextVar("tensorlite_module_path", default=())  # of (module, its name in the one before)


def current_path() -> str:
    """The names of the modules whose forward runs now, outermost first; empty outside, or while tracking is off."""
    return ".".join(name for _, name in _stack.get())


@contextmanager
def enter(module: Any):
    """Note that the forward of ``module`` runs: this is what ``module.path_tracker`` is set to."""
    recording.module(module)
    stack = _stack.get()
    name = None
    if stack:  # the name by which the caller knows it; a grandchild called directly is found too
        name = next((n for n, m in stack[-1][0].named_modules() if m is module and n), None)
    token = _stack.set((*stack, (module, name or type(module).__name__)))
    try:
        yield
    finally:
        _stack.reset(token)


@contextmanager
def track():
    """Keep ``current_path`` up to date inside.

    >>> import tensorlite as tl
    >>> from tensorlite.nn.path import current_path, track
    >>> class Net(tl.nn.Module):
    ...     def forward(self, x):
    ...         print(current_path())
    >>> with track():
    ...     tl.nn.Sequential(Net())(1)
    Sequential.0
    """
    before = _module.path_tracker
    _module.path_tracker = enter
    try:
        yield
    finally:
        _module.path_tracker = before


def _follow(on: bool) -> None:
    """Track modules while ``detect_anomaly`` looks for the first NaN."""
    _module.path_tracker = enter if on else None


tracing.plug_in_modules(current_path, _follow)
