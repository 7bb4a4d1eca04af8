"""Nested arguments and results as trees: where tensors stand in them, and what else they hold. Floor 4."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor
from tensorlite.errors import CaptureError

LEAF, TUPLE, NAMED, LIST, DICT, VALUE, OBJECT = "tensor", "tuple", "namedtuple", "list", "dict", "value", "object"
PLAIN = (bool, int, float, str, bytes, type(None))
NAN = float("nan")


def flatten(value: Any, tensors: list, what: str) -> tuple:
    """The shape of a nested value; its tensors are appended to ``tensors``, each once.

    A node is (kind, ...): numbers and strings by type and value, other objects (a model, a dtype) as they are.
    """
    if isinstance(value, Tensor):
        for k, t in enumerate(tensors):
            if t is value:
                return (LEAF, k)
        tensors.append(value)
        return (LEAF, len(tensors) - 1)
    kind = type(value)
    if kind is tuple or kind is list:
        return (TUPLE if kind is tuple else LIST, tuple([flatten(v, tensors, what) for v in value]))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (NAMED, kind, tuple([flatten(v, tensors, what) for v in value]))
    if kind is dict:
        return (DICT, tuple(value), tuple([flatten(v, tensors, what) for v in value.values()]))
    if kind is float:
        return (VALUE, kind, value if value == value else NAN, str(value))  # -0.0 is not 0.0, and nan is nan
    if kind in PLAIN:
        return (VALUE, kind, value)
    if isinstance(value, (np.ndarray, np.generic)):
        raise CaptureError(
            f"compile: {what} holds a NumPy array of shape {value.shape}; wanted tensors (tensorlite.from_numpy), "
            "whose values a replay takes anew"
        )
    return (OBJECT, Same(value))


class Same:
    """An object that equals itself alone."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__}>"


def differs(now: Any, then: Any) -> bool:
    """Whether a plain value is another one: 1, 1.0 and True are three, so are 0.0 and -0.0; nan is nan."""
    if now is then:
        return False
    if now.__class__ is not then.__class__:
        return True
    return str(now) != str(then) if now.__class__ is float else bool(now != then)


def items_differ(container: Any, then: tuple) -> bool:
    """Whether a list or dict holds other objects, or plain values, than it did (``items_of``)."""
    now = items_of(container)
    if len(now) != len(then):
        return True
    if not any(map(operator.is_not, now, then)):
        return False
    return any(a is not b and (not isinstance(a, PLAIN) or differs(a, b)) for a, b in zip(now, then))


def items_of(container: Any) -> tuple:
    """What a list or dict holds."""
    return (*container, *container.values()) if isinstance(container, dict) else tuple(container)


def rebuild(tree: tuple, leaves: Callable[[int], Any] | list) -> Any:
    """The nested value again, with these in place of its tensors."""
    kind = tree[0]
    if kind is LEAF:
        return leaves[tree[1]] if isinstance(leaves, list) else leaves(tree[1])
    if kind is TUPLE:
        return tuple([rebuild(t, leaves) for t in tree[1]])
    if kind is LIST:
        return [rebuild(t, leaves) for t in tree[1]]
    if kind is NAMED:
        return tree[1](*(rebuild(t, leaves) for t in tree[2]))
    if kind is DICT:
        return {k: rebuild(t, leaves) for k, t in zip(tree[1], tree[2])}
    return tree[2] if kind is VALUE else tree[1].value


def source(tree: tuple, leaf: Callable[[int], str], constant: Callable[[Any], str]) -> str:
    """The text of an expression that builds the value."""
    kind = tree[0]
    if kind is LEAF:
        return leaf(tree[1])
    if kind in (TUPLE, LIST):
        inside = ", ".join(source(t, leaf, constant) for t in tree[1])
        return f"[{inside}]" if kind is LIST else f"({inside},)" if tree[1] else "()"
    if kind is NAMED:
        return f"{constant(tree[1])}({', '.join(source(t, leaf, constant) for t in tree[2])})"
    if kind is DICT:
        pairs = (f"{constant(k)}: {source(t, leaf, constant)}" for k, t in zip(tree[1], tree[2]))
        return "{" + ", ".join(pairs) + "}"
    return constant(tree[2] if kind is VALUE else tree[1].value)


def describe(tree: tuple, specs: list) -> str:
    """A tree for people."""
    return source(tree, lambda k: str(specs[k]), repr)
