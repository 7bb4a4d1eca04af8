"""What holds for the code that runs now: gradients on or off, autocast. Floor 2.

One ContextVar holds one small immutable object, so an op reads it once (20 ns) and threads do not see one another.
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable)


class Mode(NamedTuple):
    """The state that ops consult.

    ``grad``: record a tape; ``inference``: inside ``inference_mode``; ``autocast``: what the regions of autocast around
    say (an ``Autocast`` of autocast.py), None outside of them all.
    """

    grad: bool = True
    inference: bool = False
    autocast: Any = None


_mode: ContextVar[Mode] = ContextVar("tensorlite_mode", default=Mode())  # noqa: B039 - a NamedTuple is immutable
mode = _mode.get
set_mode = _mode.set


class Setting:
    """A change of the mode, as a context manager and as a decorator of functions and generators."""

    changes: dict[str, Any] = {}

    def __enter__(self):
        self._stack().append(mode())
        set_mode(mode()._replace(**self.changes))

    def __exit__(self, *exc):
        set_mode(self._stack().pop())

    def _stack(self) -> list:
        if "_before" not in self.__dict__:
            self._before: list = []
        return self._before

    def clone(self):
        return type(self)()

    def __call__(self, f: F) -> F:
        if inspect.isgeneratorfunction(f):

            @functools.wraps(f)
            def generator(*args, **kwargs):
                # the setting holds while the generator's body runs, and not while its consumer's does
                body = f(*args, **kwargs)
                send: Any = None
                while True:
                    try:
                        with self.clone():
                            item = body.send(send)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        send = yield item
                    except GeneratorExit:
                        body.close()
                        raise
                    except BaseException as error:
                        with self.clone():
                            item = body.throw(error)
                        send = yield item

            return generator  # type: ignore[return-value]

        @functools.wraps(f)
        def function(*args, **kwargs):
            with self.clone():
                return f(*args, **kwargs)

        return function  # type: ignore[return-value]


class no_grad(Setting):
    """No tape is recorded inside: ``with no_grad():`` or ``@no_grad()``.

    >>> import tensorlite as tl
    >>> x = tl.ones(2, requires_grad=True)
    >>> with tl.no_grad():
    ...     (x * 2).requires_grad
    False
    """

    changes = {"grad": False}

    def __new__(cls, f: Callable | None = None) -> Any:
        self = object.__new__(cls)
        return self if f is None else self(f)  # @no_grad without parentheses

    def __init__(self, f: Callable | None = None): ...


class enable_grad(no_grad):
    """The tape is recorded inside, also within ``no_grad``."""

    changes = {"grad": True}


class set_grad_enabled(Setting):
    """Turn the tape on or off, at once (as a call) or for a block (as a context manager)."""

    def __init__(self, mode_: bool):
        self.on = bool(mode_)
        self.changes = {"grad": self.on}
        self._stack().append(mode())
        set_mode(mode()._replace(grad=self.on))

    def __enter__(self): ...

    def clone(self):
        return set_grad_enabled(self.on)

    def __call__(self, f: F) -> F:
        set_mode(self._stack().pop())  # used as a decorator: it takes effect when f runs
        return super().__call__(f)


class inference_mode(Setting):
    """No tape inside, and none may be asked for. Here it is ``no_grad`` that ``is_inference_mode_enabled`` tells."""

    def __new__(cls, mode: Any = True) -> Any:
        self = object.__new__(cls)
        if callable(mode) and not isinstance(mode, bool):
            self.__init__(True)  # type: ignore[misc]
            return self(mode)
        return self

    def __init__(self, mode: bool = True):
        self.on = mode
        self.changes = {"grad": False, "inference": True} if mode else {"grad": True, "inference": False}

    def clone(self):
        return inference_mode(self.on)


def is_grad_enabled() -> bool:
    """Whether ops record a tape now."""
    return mode().grad


def is_inference_mode_enabled() -> bool:
    """Whether ``inference_mode`` holds now."""
    return mode().inference
