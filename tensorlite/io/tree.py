"""Nested dicts, lists and numbers as JSON, with the tensors beside it. Floor 5."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, address, from_array
from tensorlite.backends import Device
from tensorlite.dtypes import dtype
from tensorlite.nn.parameter import Parameter
from tensorlite.shapes import Size

TAG = "$"  # marks a JSON object that stands for something else than text, numbers and lists


class Packer:
    """Collects the tensors of an object: ``tree = pack(obj)``, and ``arrays`` by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[tuple, str] = {}  # tensors on the very same memory are stored once
        self._open: list[int] = []

    def pack(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """``value`` as JSON. ``path`` leads to it, for names and messages."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, float)):
            return int(value) if isinstance(value, int) else float(value)
        if isinstance(value, Tensor):
            kind = "parameter" if isinstance(value, Parameter) else "tensor"
            packed = {TAG: kind, "name": self._store(value.detach().cpu()._arr, path)}
            return {**packed, "requires_grad": True} if value.requires_grad else packed
        if isinstance(value, np.ndarray):
            if value.dtype not in dtype.of_numpy:
                raise TypeError(
                    f"save: {_where(path)} is an array of {value.dtype}; wanted one of {', '.join(dtype.known)}"
                )
            return {TAG: "array", "name": self._store(value, path)}
        if isinstance(value, np.generic):
            return self.pack(value.item(), path)
        if isinstance(value, dtype):
            return {TAG: "dtype", "value": value.name}
        if isinstance(value, Device):
            return {TAG: "device", "value": str(value)}
        if isinstance(value, (dict, list, tuple)):
            return self._container(value, path)
        raise TypeError(
            f"save: {_where(path)} is a {type(value).__module__}.{type(value).__qualname__}; wanted "
            "tensors, arrays, numbers, text, None, and lists, tuples and dicts of them (a Module: its "
            "state_dict()). save(..., pickle=True) takes anything, but such a file can run code when it is "
            "loaded"
        )

    def _container(self, value: Any, path: tuple[str, ...]) -> Any:
        if id(value) in self._open:
            raise ValueError(f"save: {_where(path)} holds itself; wanted a tree")
        self._open.append(id(value))
        if isinstance(value, dict):
            tag = "odict" if isinstance(value, OrderedDict) else "dict"
            pairs = [[self._key(k, path), self.pack(v, (*path, str(k)))] for k, v in value.items()]
            packed: Any = {TAG: tag, "items": pairs}
        else:
            items = [self.pack(v, (*path, str(k))) for k, v in enumerate(value)]
            packed = (
                items
                if isinstance(value, list)
                else {TAG: "size" if isinstance(value, Size) else "tuple", "items": items}
            )
        self._open.pop()
        return packed

    def _key(self, key: Any, path: tuple[str, ...]) -> Any:
        if key is None or isinstance(key, (str, bool, int, float)):
            return self.pack(key)
        if isinstance(key, tuple):
            return {TAG: "tuple", "items": [self._key(k, path) for k in key]}
        raise TypeError(
            f"save: {_where(path)} has a key of type {type(key).__name__}; wanted text, numbers, or tuples of them"
        )

    def _store(self, array: np.ndarray, path: tuple[str, ...]) -> str:
        same = (address(array), array.shape, array.strides, array.dtype)
        found = self._names.get(same) if array.size else None
        if found is not None:
            return found
        base = name = ".".join(path) or "tensor"
        count = 1
        while name in self.arrays or name == "__metadata__":  # {"a.b": t, "a": {"b": t}}
            count += 1
            name = f"{base}~{count}"
        self.arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
        self._names[same] = name
        return name


def _where(path: tuple[str, ...]) -> str:
    return "[" + "][".join(map(repr, path)) + "]" if path else "the object"


class Unpacker:
    """Builds the object again. ``place`` puts a new Tensor where it belongs."""

    def __init__(self, arrays: dict[str, np.ndarray], place: Any):
        self.arrays, self.place = arrays, place
        self._made: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        """The tensor of this name; every time the same storage."""
        if name not in self._made:
            self._made[name] = self.place(from_array(self.arrays[name]))
        return self._made[name]

    def unpack(self, tree: Any) -> Any:
        """What ``pack`` was given."""
        if isinstance(tree, list):
            return [self.unpack(v) for v in tree]
        if not isinstance(tree, dict):
            return tree
        tag = tree[TAG]
        if tag in ("dict", "odict"):
            return (dict if tag == "dict" else OrderedDict)((self.unpack(k), self.unpack(v)) for k, v in tree["items"])
        if tag in ("tuple", "size"):
            return (tuple if tag == "tuple" else Size)(self.unpack(v) for v in tree["items"])
        if tag == "array":
            return self.arrays[tree["name"]]
        if tag == "dtype":
            return dtype.known[tree["value"]]
        if tag == "device":
            return Device(tree["value"])
        if tag not in ("tensor", "parameter"):
            raise KeyError(tag)
        wants = tree.get("requires_grad", False)
        t = self.tensor(tree["name"])
        return Parameter(t, wants) if tag == "parameter" else t.detach().requires_grad_(wants)
