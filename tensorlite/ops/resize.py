"""Images and signals in another size: interpolate. Floor 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.autograd.methods import op
from tensorlite.autograd.tensor import Tensor, placed
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.cast import laid_as
from tensorlite.ops.pool import adaptive_avg_pool2d
from tensorlite.ops.rows import index_select
from tensorlite.ops.signals import adaptive_avg_pool1d
from tensorlite.shapes import index

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
MODES = ("nearest", "nearest-exact", "area", *_LINEAR.values())


@op(torch="nn.functional.interpolate")
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """(N, C, ...) with the dimensions behind C brought to ``size``, or to ``scale_factor`` times theirs (rounded down).

    ``mode`` "nearest" and "nearest-exact" take one element (by its corner, by its middle), "linear" (of 3 dimensions),
    "bilinear" (4), "trilinear" (5) blend neighbours, with the outermost elements' middles at the same places with
    ``align_corners`` and else their borders; "area" takes means. ``recompute_scale_factor`` works the factor out anew
    from the rounded size.

    >>> import tensorlite as tl
    >>> tl.nn.functional.interpolate(tl.tensor([[[0.0, 4.0]]]), scale_factor=2, mode="linear")
    tensor([[[0., 1., 3., 4.]]])
    """
    name, shape = "interpolate", input._spec.shape
    if mode not in MODES or antialias:
        raise NotImplementedError(
            f"{name}: mode {mode!r}, antialias {antialias}; input error: wanted one of {', '.join(MODES)}, without "
            "antialias"
        )
    if mode in _LINEAR.values() and mode != _LINEAR.get(len(shape)):
        raise NotImplementedError(
            f"{name}: got {len(shape)}D input, but {mode} mode needs another; wanted {', '.join(map(str, _LINEAR))} "
            f"dimensions for {', '.join(_LINEAR.values())}"
        )
    if len(shape) not in _LINEAR or (mode == "area" and len(shape) == 5) or 0 in shape[1:]:
        raise NotImplementedError(
            f"{name}: input {shape} with mode {mode!r}; wanted (N, C, L), (N, C, H, W) or, for modes other than "
            "'area', (N, C, D, H, W), not empty but for N"
        )
    if mode not in _LINEAR.values() and align_corners is not None:
        raise ValueError(
            f"{name}: align_corners with mode {mode!r}; align_corners option can only be set with linear ones"
        )
    if mode in _LINEAR.values() and not input.is_floating_point():
        raise DTypeError(
            f"{name}: got {input.dtype.name}; wanted a floating-point dtype (not implemented for integers)"
        )
    out, ratios = _sizes(shape[2:], size, scale_factor, bool(recompute_scale_factor) or mode == "area")
    if mode == "area":
        return adaptive_avg_pool1d(input, out) if len(shape) == 3 else adaptive_avg_pool2d(input, out)
    y = input
    for k, (n, o, ratio) in enumerate(zip(shape[2:], out, ratios)):
        if mode in _LINEAR.values():
            y = _blended(y, k + 2, n, o, ratio, bool(align_corners))
        else:
            middle = np.float32(0.5 if mode == "nearest-exact" else 0.0)
            at = np.floor((np.arange(o, dtype=np.float32) + middle) * np.float32(ratio))  # PyTorch rounds to float32
            y = index_select(y, k + 2, placed(np.minimum(at, n - 1).astype(np.int64), y.device))
    return laid_as(y, input._spec)


def _sizes(own: tuple, size: Any, scale_factor: Any, anew: bool) -> tuple[tuple, tuple]:
    """The sizes wanted, and how far apart in the input two neighbours of the output lie."""

    def each(what: str, value: Any) -> tuple:
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(own)
        if len(values) != len(own):
            raise ValueError(
                f"interpolate: {what} {values} for sizes {own}; input and output must have the same number of spatial "
                "dimensions"
            )
        return values

    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"interpolate: size {size} and scale_factor {scale_factor}; only one of them should be defined, and one"
        )
    if size is not None:
        out = tuple(index("interpolate", s) for s in each("size", size))
        factors: tuple = (None,) * len(out)
    else:
        factors = each("scale_factor", scale_factor)
        out = tuple(int(n * f) for n, f in zip(own, factors))
        factors = (None,) * len(out) if anew else factors
    if any(o < 1 for o in out):
        raise ShapeError(f"interpolate: output size {out} of {own}; input and output sizes should be greater than 0")
    return out, tuple(n / o if f is None else 1 / f for n, o, f in zip(own, out, factors))


def _blended(x: Tensor, dim: int, n: int, o: int, ratio: float, corners: bool) -> Tensor:
    """The two neighbours of each place, by their nearness."""
    at = np.arange(o, dtype=np.float64)
    at = at * ((n - 1) / (o - 1) if o > 1 else 0.0) if corners else np.maximum((at + 0.5) * ratio - 0.5, 0)
    low = np.minimum(at.astype(np.int64), n - 1)
    part = x.new_tensor((at - low).reshape(-1, *(1,) * (x._spec.ndim - dim - 1)))
    a, b = (index_select(x, dim, placed(k, x.device)) for k in (low, np.minimum(low + 1, n - 1)))
    return a * (1.0 - part) + b * part


@interpolate.cases
def _(make):
    yield dict(input=make(2, 3, 4), size=7)
    yield dict(input=make(1, 2, 4, 5), size=(7, 3))
    yield dict(input=make(1, 2, 4, 3), scale_factor=2)
    yield dict(input=make(1, 2, 5, 4), scale_factor=(0.5, 1.6))
    yield dict(input=make(1, 2, 5), size=3, mode="nearest-exact")
    yield dict(input=make(1, 1, 2, 2, 3), size=(3, 4, 2))
    yield dict(input=make(2, 3, 4), size=7, mode="linear")
    yield dict(input=make(1, 2, 4, 5), size=(7, 3), mode="bilinear")
    yield dict(input=make(1, 2, 4, 5), size=(7, 1), mode="bilinear", align_corners=True)
    yield dict(input=make(1, 2, 4, 5), scale_factor=1.7, mode="bilinear", align_corners=False)
    yield dict(input=make(1, 2, 4, 5), scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)
    yield dict(input=make(1, 1, 2, 2, 3), size=3, mode="trilinear")
    yield dict(input=make(1, 2, 5), size=3, mode="area")
    yield dict(input=make(1, 2, 5, 6), size=(3, 2), mode="area")
    yield ValueError, dict(input=make(1, 2, 5))
    yield ValueError, dict(input=make(1, 2, 5), size=3, scale_factor=2)
    yield ValueError, dict(input=make(1, 2, 5), size=(3, 3))
    yield ValueError, dict(input=make(1, 2, 5), size=3, align_corners=True)
    yield RuntimeError, dict(input=make(1, 2, 5), size=0)
    yield NotImplementedError, dict(input=make(1, 2, 5), size=3, mode="bilinear")
    yield NotImplementedError, dict(input=make(1, 2, 5), size=3, mode="cube")


@interpolate.ref
def _(input, size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None):
    y = input
    for dim in range(2, input.ndim):
        n = input.shape[dim]
        one = [v[dim - 2] if isinstance(v, tuple) else v for v in (size, scale_factor)]
        o = one[0] or int(n * one[1])
        step = 1 / one[1] if one[1] and not recompute_scale_factor else n / o
        rows = []
        for k in range(o):
            if mode == "area":
                rows.append(y.take(range(k * n // o, -(-(k + 1) * n // o)), dim).mean(dim))
            elif mode.startswith("nearest"):
                place = (k + (0.5 if "exact" in mode else 0)) * step
                rows.append(y.take(min(int(place), n - 1), dim))
            else:  # np.interp of every line
                place = k * (n - 1) / max(o - 1, 1) if align_corners else (k + 0.5) * step - 0.5
                rows.append(np.apply_along_axis(lambda line, at=place, n=n: np.interp(at, np.arange(n), line), dim, y))
        y = np.stack(rows, dim)
    return y
