"""``compile``: a function whose runs are recorded once for each kind of arguments, then replayed. Floor 4."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from tensorlite import config
from tensorlite.autograd import recording
from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import CaptureError
from tensorlite.program.capture import Capture, difference
from tensorlite.program.explore import Reach
from tensorlite.program.plan import Plan
from tensorlite.program.program import MISS, Program
from tensorlite.program.record import root
from tensorlite.program.trees import flatten

PROGRAMS = 16  # a function keeps; the one used longest ago goes first
PATIENCE = 32  # recordings that never paid, after which a function gives up
WRAPPERS: list[tuple[type, Callable]] = []  # how the floors above compile objects of their own (modules)


class Compiled:
    """A function, and the programs that replay it. ``compile`` makes one; call it as the function.

    ``fn`` is the function itself, ``plan`` the steps of the program that ran last (``print`` shows them), ``programs``
    all of them, newest first.
    """

    def __init__(self, fn: Callable, state: Any = (), options: dict[str, Any] | None = None):
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.programs: list[Program] = []
        self.options = options or {}
        self._state = state
        self._lock = threading.RLock()
        self._recordings = 0
        self._unsettled: set = set()  # trees of calls that made their state at their first run
        self._given_up = ""
        self._bound: dict[int, tuple] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if config.CAPTURE.value == "0" or self._given_up:
            return self.fn(*args, **kwargs)
        with self._lock:
            if self.programs:
                made = self.programs[0].run(args, kwargs)
                if made is not MISS:
                    return made
            return self._other(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        found = self._bound.get(id(instance))
        if found is None or found[0] is not instance:
            bound = Compiled(self.fn.__get__(instance, owner), self._state, self.options)
            found = self._bound[id(instance)] = (instance, bound)
        return found[1]

    def __reduce__(self) -> Any:
        return Compiled, (self.fn, self._state, self.options)

    @property
    def plan(self) -> Plan:
        """The steps of the program that ran last."""
        if not self.programs:
            raise CaptureError(f"compile: {self._name()} has no program yet; call it once")
        return self.programs[0].plan

    def _name(self) -> str:
        return getattr(self.fn, "__qualname__", type(self.fn).__name__)

    def __repr__(self) -> str:
        return f"<compiled {self._name()}, {len(self.programs)} programs>"

    # ---- the ways beside the common one
    def _other(self, args: tuple, kwargs: dict) -> Any:
        """Another program that fits, or a new one."""
        if recording.active():
            raise CaptureError(
                f"compile: {self._name()} is compiled and was called while another function is recorded; call the "
                "plain function there (its .fn), the outer program holds its steps"
            )
        why = "the first call"
        for k, program in enumerate(self.programs):
            reason = program.misfit(args, kwargs)
            if not reason:
                self.programs.insert(0, self.programs.pop(k))
                made = program.run(args, kwargs)
                if made is not MISS:
                    return made
                reason = "its guards did not hold"
            why = reason if k == 0 else why
        self._say(f"recording {self._name()}: {why}")
        self._recordings += 1
        if self._recordings > PATIENCE and sum(p.runs for p in self.programs) < 2 * len(self.programs):
            self._given_up = why
            warnings.warn(
                f"compile: {self._name()} was recorded {self._recordings - 1} times and hardly ever replayed (last: "
                f"{why}); it runs uncompiled from now on. Pass what changes as a tensor",
                stacklevel=3,
            )
            return self.fn(*args, **kwargs)
        program = self._record(args, kwargs)
        if program is None:
            return self.fn(*args, **kwargs)
        self.programs.insert(0, program)
        del self.programs[PROGRAMS:]
        made = program.run(args, kwargs)
        if made is MISS:
            raise CaptureError(
                f"compile: {self._name()} changed what it depends on while it was recorded: "
                f"{program.misfit(args, kwargs)}"
            )
        return made

    def _record(self, args: tuple, kwargs: dict) -> Program | None:
        """A program for these arguments; None where this call has to run as it is, to settle its state."""
        tensors: list[Tensor] = []
        tree = flatten((args, kwargs), tensors, "an argument")
        declared = self._declared()
        state_roots = {id(root(t._arr)) for _, t in declared.values()}
        state_roots |= {id(root(p._arr)) for p in list(recording.parameters.values())}
        reach = Reach(self.fn)
        for x in reach.holders.values():
            state_roots |= {id(root(t._arr)) for _, t in recording.Kind.of(x).tensors(x)}  # type: ignore[union-attr]
        fixed = {k for k, t in enumerate(tensors) if id(root(t._arr)) in state_roots}
        first = Capture(self.fn, tree, tensors, fixed, declared)
        before = first.surroundings()
        second = Capture(self.fn, tree, tensors, fixed, declared)
        after = second.surroundings()
        if name := next((n for n, v in after.items() if n in before and before[n] != v), ""):
            raise CaptureError(
                f"compile: {self._name()} changes {name}, which it reads too; a replay would not. Keep such a count in "
                "a tensor (state=), or outside"
            )
        found = difference(first, second)
        if found:
            if tree in self._unsettled:
                raise CaptureError(f"compile: {self._name()} does not do the same twice from the same state: {found}")
            self._unsettled.add(tree)
            first.recorder.forget_states()
            self._say(f"{self._name()} runs as it is once: {found}")
            return None
        del first

        fn = self.fn  # not self, which holds the program: the two should die without a search for cycles

        def again(others: list[Tensor]) -> Capture:
            return Capture(fn, tree, others, fixed, declared, keep=True)

        return Program(self._name(), second, mode_options(self.options), again)

    def _declared(self) -> dict[int, tuple]:
        """What ``state=`` names: tensors, and all tensors of modules and optimizers."""
        found: dict[int, tuple] = {}

        def add(name: str, x: Any) -> None:
            if isinstance(x, Tensor):
                found[id(x)] = (name, x)
            elif (kind := recording.Kind.of(x)) is not None:
                for n, t in kind.tensors(x):
                    add(f"{name}.{n}", t)
                for k, part in enumerate(kind.parts(x)):
                    add(f"{name}.{k}", part)
            elif isinstance(x, dict):
                for k, v in x.items():
                    add(f"{name}[{k!r}]", v)
            elif isinstance(x, Iterable) and not isinstance(x, (str, bytes)):
                for k, v in enumerate(x):
                    add(f"{name}[{k}]", v)
            else:
                raise TypeError(f"compile: state holds a {type(x).__name__}; wanted tensors, modules or optimizers")

        add("state", self._state)
        return found

    def _say(self, text: str) -> None:
        if config.DEBUG.value:
            print(f"tensorlite: {text}", file=sys.stderr)


def mode_options(options: dict[str, Any]) -> dict[str, bool]:
    """Which passes run: those that ``options`` or TL_PASSES do not turn off."""
    from tensorlite.program.passes import PASSES

    on = dict.fromkeys(PASSES, config.PASSES.value != "none")
    unknown = set(options) - set(PASSES)
    if unknown:
        raise RuntimeError(f"compile: unexpected optimization option {sorted(unknown)}; known are {sorted(PASSES)}")
    return on | {k: bool(v) for k, v in options.items()}


def compile(
    model: Any = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: Any = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
    state: Any = (),
) -> Any:
    """A function (or module) whose steps are recorded at its first call and replayed from then on.

    A replay runs the kernels of the recorded ops one after another, on memory laid out beforehand: no tape, no
    gradients' bookkeeping, no allocation. It pays most where steps are short. The whole training step may be compiled:
    ``zero_grad``, forward, loss, ``backward``, clipping and the optimizer's ``step``.

    What holds for a compiled function:

    - **Arguments** are tensors, numbers, strings, None, and lists, tuples and dicts of them. Each combination of
      shapes, dtypes, layouts and plain values is recorded anew (at most 16 are kept).
    - **State**: other tensors that it uses must be parameters or buffers of modules, what optimizers keep, or declared
      in ``state``. Python's own side effects (counters, ``print``, ``append``, hooks) happen while it is recorded,
      twice, and not in replays.
    - **Numbers on the host** (``item()``, ``bool()``, ``numpy()``, printing) and shapes that depend on values raise
      CaptureError. Random numbers, schedulers' learning rates and step counts go on from call to call.
    - **Results** are new tensors. The ``.grad`` of parameters after a step is the program's own memory, which its next
      run overwrites. Results of a function that runs ``backward`` itself have no history; those of a plain forward can
      be differentiated once.

    >>> import tensorlite as tl
    >>> w = tl.nn.Parameter(tl.ones(3))
    >>> opt = tl.optim.SGD([w], lr=0.5)
    >>> @tl.compile
    ... def step(x):
    ...     opt.zero_grad()
    ...     loss = (w * x).sum()
    ...     loss.backward()
    ...     opt.step()
    ...     return loss
    >>> step(tl.ones(3)), step(tl.ones(3))
    (tensor(3.), tensor(1.5000))

    Args:
        model: the function or Module. Left out: a decorator with these settings.
        fullgraph, dynamic, backend, mode: taken for PyTorch's sake. A function is always recorded whole.
        options: which passes run, by name: ``{"winners": False}``.
        disable: give the function back as it is.
        state: tensors, modules and optimizers that the function uses besides its arguments and what it reaches itself.

    Raises:
        CaptureError: when called: what was recorded could not be replayed; it says where and what to do.
    """
    if model is None:
        return functools.partial(
            compile, fullgraph=fullgraph, dynamic=dynamic, backend=backend, mode=mode, options=options,
            disable=disable, state=state,
        )  # fmt: skip
    mode_options(options or {})
    if disable:
        return model
    for kind, wrap in WRAPPERS:
        if isinstance(model, kind):
            return wrap(model, state, options)
    if not callable(model):
        raise TypeError(f"compile: got {type(model).__name__}; wanted a function or a Module")
    return Compiled(model, state, options)
