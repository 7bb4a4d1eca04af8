"""Every TL_* switch: an environment variable, a context manager and a decorator in one. Floor 0: plain Python.

>>> from tensorlite import config
>>> with config.DEBUG(1):
...     config.DEBUG.value
1
"""

import os
from contextlib import ContextDecorator
from typing import Any


class Switch:
    """One setting. ``value`` is what holds now; calling it gives a context manager (and decorator) that sets it."""

    table: dict[str, "Switch"] = {}

    def __init__(self, name: str, default: Any, choices: tuple, doc: str):
        self.name, self.default, self.choices, self.doc = name, default, choices, doc
        self.listeners: list = []
        given = os.environ.get(name)
        self.value = default if given is None or given == "" else self.parse(given)
        Switch.table[name] = self

    def parse(self, text: str) -> Any:
        try:
            value = type(self.default)(text)
        except ValueError:
            value = None
        if value not in self.choices:
            raise ValueError(f"{self.name}: got {text!r}; wanted one of {', '.join(map(str, self.choices))}")
        return value

    def set(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{self.name}: got {value!r}; wanted one of {', '.join(map(str, self.choices))}")
        self.value = value
        for listener in self.listeners:
            listener(value)

    def __call__(self, value: Any) -> "_Setting":
        return _Setting(self, value)

    def __bool__(self) -> bool:
        return bool(self.value)


class _Setting(ContextDecorator):
    def __init__(self, switch: Switch, value: Any):
        self.switch, self.value = switch, value
        self.before: list = []

    def __enter__(self):
        self.before.append(self.switch.value)
        self.switch.set(self.value)
        return self.switch

    def __exit__(self, *exc):
        self.switch.set(self.before.pop())


DEBUG = Switch("TL_DEBUG", 0, (0, 1, 2), "1 says which kernels are found; 2 prints each op with its time.")
KERNELS = Switch(
    "TL_KERNELS",
    "native",
    ("native", "plain", "numba"),
    "plain turns the compiled kernels off: NumPy alone; numba takes those of a GPU from Numba-CUDA where it has them.",
)
ISA = Switch(
    "TL_ISA",
    "best",
    ("best", "avx512", "avx2", "baseline"),
    "the best instruction set that compiled kernels may use; they take no better one than the processor has.",
)
CACHE = Switch("TL_CACHE", 1, (0, 1), "0 gives the memory of large arrays back to the system as soon as they die.")
WINOGRAD = Switch(
    "TL_WINOGRAD",
    1,
    (0, 1),
    "0 leaves out Winograd's convolution, which is fast and less exact (2e-5 of the largest output, not 2e-6).",
)
NAN = Switch("TL_NAN", 0, (0, 1), "1 stops at the first NaN or infinity and names op, module and source line.")

CAPTURE = Switch(
    "TL_CAPTURE",
    "1",
    ("0", "1", "check"),
    "0 runs compiled functions as they are; check runs each step both ways and names the first buffer that differs.",
)
PASSES = Switch(
    "TL_PASSES",
    "all",
    ("all", "none"),
    "none leaves recorded programs as they are: a replay then has the bits of the function.",
)

CUDA_EMULATION = Switch(
    "TL_CUDA_EMULATION",
    0,
    (0, 1),
    "1 plays a GPU on the CPU: device 'cuda' runs the CUDA kernels in an emulator, for tests and debugging.",
)


def table() -> str:
    """The switches as a Markdown table; README shows it and a test compares the two."""
    head = ["| switch | default | choices | what it does |", "|---|---|---|---|"]
    rows = [
        f"| `{s.name}` | `{s.default}` | {', '.join(f'`{c}`' for c in s.choices)} | {s.doc} |"
        for s in Switch.table.values()
    ]
    return "\n".join(head + rows)
