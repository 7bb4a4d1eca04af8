"""How tensors print: PyTorch's layout. Floor 2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd import recording
from tensorlite.autograd.node import Leaf
from tensorlite.autograd.tensor import Tensor, current_node
from tensorlite.backends import CPU, backend

_DEFAULT = {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None}
_options: dict[str, Any] = dict(_DEFAULT)


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """How tensors print from now on.

    Args:
        precision: digits after the point (4).
        threshold: more elements than that are summarised (1000).
        edgeitems: how many are shown at each end of a summary (3).
        linewidth: characters a line (80).
        profile: "default", "short" (2 digits, 2 edge items) or "full" (never summarise).
        sci_mode: scientific notation always, never, or where it helps (None).
    """
    if profile is not None:
        profiles = {"default": {}, "short": {"precision": 2, "edgeitems": 2}, "full": {"threshold": math.inf}}
        if profile not in profiles:
            raise ValueError(f"set_printoptions: profile {profile!r}; wanted 'default', 'short' or 'full'")
        _options.update({**_DEFAULT, **profiles[profile]})
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    _options.update({k: v for k, v in given.items() if v is not None})
    _options["sci_mode"] = sci_mode


def _formatter(values: np.ndarray, d: dtypes.dtype) -> Any:
    """One function for all shown elements: number -> text of equal width."""
    if d is dtypes.bool:
        texts = [str(bool(v)) for v in values.ravel()]
        width = max(map(len, texts), default=1)
        return lambda v: str(bool(v)).rjust(width)
    if not d.is_floating_point:
        width = max((len(str(int(v))) for v in values.ravel()), default=1)
        return lambda v: str(int(v)).rjust(width)
    values = values.astype(np.float64)
    finite = np.abs(values[np.isfinite(values) & (values != 0)])
    digits = _options["precision"]
    form = f".{digits}f"
    if finite.size:
        high, low = finite.max(), finite.min()
        whole = bool((finite == np.ceil(finite)).all())
        scientific = _options["sci_mode"]
        if scientific is None:
            scientific = high > 1e8 or high / low > 1000 if whole else high / low > 1000 or high > 1e8 or low < 1e-4
        if scientific:
            form = f".{digits}e"
        elif whole:
            form = "whole"
    else:
        form = "whole"

    def text(v: float) -> str:
        if not math.isfinite(v):
            return "nan" if v != v else "inf" if v > 0 else "-inf"
        return f"{v:.0f}." if form == "whole" else format(v, form)

    # zeros, nan and inf do not count towards the width, as in PyTorch
    width = max((len(text(float(v))) for v in values[np.isfinite(values) & (values != 0)]), default=1)
    return lambda v: text(float(v)).rjust(width)


def _shown(array: np.ndarray, edge: int) -> np.ndarray:
    """The elements that a summary shows."""
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            keep = [*range(edge), *range(n - edge, n)]
            array = array.take(keep, axis)
    return array


def _lines(array: np.ndarray, indent: int, summarise: bool, form: Any) -> str:
    edge = _options["edgeitems"]
    if array.ndim == 0:
        return form(array[()])
    n = array.shape[0]
    cut = summarise and n > 2 * edge
    if array.ndim == 1:
        items = [form(v) for v in (array[:edge] if cut else array)]
        if cut:
            items += [" ...", *(form(v) for v in array[n - edge :])]
        width = len(items[0]) + 2 if items else 1
        a_line = max(1, (_options["linewidth"] - indent) // max(width, 1))
        rows = [", ".join(items[k : k + a_line]) for k in range(0, len(items), a_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(rows) + "]"
    parts = list(array[:edge]) + ["..."] + list(array[n - edge :]) if cut else list(array)
    texts = [p if isinstance(p, str) else _lines(p, indent + 1, summarise, form) for p in parts]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(texts) + "]"


def tensor_repr(x: Tensor) -> str:
    """``repr(x)``: values, then what is not the default of dtype, device and gradient."""
    spec = x._spec
    recording.reading("print")
    array = backend(spec.device).to_numpy(x._arr)
    notes = []
    if spec.device is not CPU:
        notes.append(f"device='{spec.device}'")
    if not spec.size:
        body = "[]"
        if spec.ndim != 1:
            notes.append(f"size={tuple(spec.shape)}")
        if spec.dtype is not dtypes.get_default_dtype():
            notes.append(f"dtype={spec.dtype!r}")
    else:
        summarise = spec.size > _options["threshold"]
        sample = _shown(array, _options["edgeitems"]) if summarise else array
        body = _lines(array, len("tensor("), summarise, _formatter(sample, spec.dtype))
        if spec.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool):
            notes.append(f"dtype={spec.dtype!r}")
    node = current_node(x)
    if isinstance(node, Leaf):
        notes.append("requires_grad=True")
    elif node is not None:
        notes.append(f"grad_fn=<{node.name()}>")
    out = f"tensor({body}"
    line = len(out) - out.rfind("\n")
    for note in notes:
        if line + len(note) + 2 > _options["linewidth"]:
            out += ",\n" + " " * len("tensor(") + note
            line = len("tensor(") + len(note)
        else:
            out += ", " + note
            line += len(note) + 2
    return out + ")"


Tensor.__repr__ = tensor_repr  # type: ignore[method-assign]
