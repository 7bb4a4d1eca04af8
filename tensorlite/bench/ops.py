"""What is timed op by op: calls, sizes and their work, each a function of the library with PyTorch's names. Floor 6.

Nothing here imports a library of tensors: the caller hands over ``tensorlite`` or ``torch``, which draw the same
numbers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BAR = 0.95  # torch's time over ours that is wanted where a row says nothing else
LITTLE = dict(kernel=3, heads=2, pool=2)  # the most of each size for a quick test; of all others 8


@dataclass
class Timed:
    """A call that is timed, whose results both libraries must agree on, and what is done untimed before many of it."""

    call: Callable[[], Sequence[Any]]
    renew: Callable[[], Any] = lambda: None


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The greatest difference, as a share of the greatest number there is in its array."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"shapes {a.shape} and {b.shape}; wanted the same")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError("a result is not finite")
        worst = max(worst, float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30)))
    return worst


def dropped(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """As ``close`` where neither dropped the number; the difference from half that are dropped, beyond chance."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        both = (a != 0) & (b != 0)
        chance = 2.5 / math.sqrt(a.size)
        found.append(close([a * both], [b * both]))
        found += [abs(float((v == 0).mean()) - 0.5) - chance for v in (a, b)]
    return max(found)


@dataclass(frozen=True)
class Row:
    """One op at one size.

    ``make(lib, **sizes)`` gives the call; ``work(**sizes)`` its floating-point operations of matrix products, or where
    there are none its bytes, every input and output counted once on the way there and once on the way back.
    """

    name: str
    make: Callable[..., Timed]
    sizes: dict[str, Any]
    work: Callable[..., float]
    kind: str = "flops"  # or "bytes"
    bar: float = BAR
    same: Callable[[list, list], float] = close

    def sized(self, small: bool = False) -> dict[str, Any]:
        if not small:
            return self.sizes
        little = lambda k, v: min(v, LITTLE.get(k, 8)) if type(v) is int else v
        return {k: little(k, v) for k, v in self.sizes.items()}

    def amount(self, small: bool = False) -> float:
        """Billions of operations or bytes of one call."""
        sizes = dict(self.sized(small))
        back = sizes.pop("back", False)
        one = self.work(**{k: v for k, v in sizes.items() if type(v) is int})
        return one * ((3 if self.kind == "flops" else 2) if back else 1) / 1e9


class Draw:
    """Tensors of normal numbers, the same ones in every library."""

    def __init__(self, lib: Any):
        self.lib, self.rng = lib, np.random.default_rng(0)

    def __call__(self, *shape: int, scale: float = 1.0, nhwc: bool = False) -> Any:
        t = self.lib.from_numpy(self.rng.standard_normal(shape, np.float32) * np.float32(scale))
        return t.contiguous(memory_format=self.lib.channels_last) if nhwc and len(shape) == 4 else t

    def ids(self, most: int, *shape: int) -> Any:
        return self.lib.from_numpy(self.rng.integers(0, most, shape))


def passes(lib: Any, draw: Draw, forward: Callable[[], Any], leaves: list, back: bool, nhwc: bool = False) -> Timed:
    """The forward alone, nothing recorded; or ``back`` forward and backward, with fresh gradients of all leaves."""

    def infer():
        with lib.no_grad():
            return [forward()]

    if not back:
        return Timed(infer)
    (like,) = infer()
    g = draw(*like.shape, nhwc=nhwc) if like.ndim else None
    for leaf in leaves:
        leaf.requires_grad_()

    def train():
        for leaf in leaves:
            leaf.grad = None
        y = forward()
        y.backward(g)
        return [y, *(leaf.grad for leaf in leaves)]

    return Timed(train)


ROWS: dict[str, Row] = {}


def _add(name: str, make: Any, work: Any, kind: str = "flops", bar: float = BAR, same: Any = close, **sizes: Any):
    ROWS[name] = Row(name, make, sizes, work, kind, bar, same)


def _both(name: str, make: Any, work: Any, kind: str = "flops", bar: Any = BAR, same: Any = close, **sizes: Any):
    """Two rows: the forward alone, and forward and backward. ``bar``: one for both, or one for each."""
    bars = bar if isinstance(bar, tuple) else (bar, bar)
    for back, suffix, wanted in zip((False, True), ("fwd", "fwd+bwd"), bars):
        _add(f"{name} {suffix}", make, work, kind, wanted, same, **sizes, back=back)


# ---- images
def conv(lib, *, batch, inputs, outputs, side, kernel, nhwc, back):
    draw = Draw(lib)
    x = draw(batch, inputs, side, side, nhwc=nhwc)
    w = draw(outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5, nhwc=nhwc)
    b = draw(outputs)
    run = lambda: lib.nn.functional.conv2d(x, w, b, padding=kernel // 2)
    return passes(lib, draw, run, [x, w, b], back, nhwc)


def depthwise(lib, *, batch, channels, side, kernel, stride, nhwc, back):
    draw = Draw(lib)
    x = draw(batch, channels, side, side, nhwc=nhwc)
    w = draw(channels, 1, kernel, kernel, scale=1 / kernel, nhwc=nhwc)
    b = draw(channels)
    run = lambda: lib.nn.functional.conv2d(x, w, b, stride=stride, padding=kernel // 2, groups=channels)
    return passes(lib, draw, run, [x, w, b], back, nhwc)


def _depthwise_flops(batch, channels, side, kernel, stride):
    return 2 * batch * channels * (-(-side // stride) * kernel) ** 2


def _conv_flops(batch, inputs, outputs, side, kernel):
    return 2 * batch * inputs * outputs * (side * kernel) ** 2


def maxpool(lib, *, batch, channels, side, nhwc, back):
    draw = Draw(lib)
    x = draw(batch, channels, side, side, nhwc=nhwc)
    return passes(lib, draw, lambda: lib.nn.functional.max_pool2d(x, 2), [x], back, nhwc)


def batchnorm(lib, *, batch, channels, side, nhwc, back):
    draw = Draw(lib)
    x = draw(batch, channels, side, side, nhwc=nhwc)
    w, b, mean, var = draw(channels), draw(channels), lib.zeros(channels), lib.ones(channels)
    return passes(
        lib, draw, lambda: lib.nn.functional.batch_norm(x, mean, var, w, b, True), [x, w, b], back, nhwc
    )  # fmt: skip


def _image_bytes(each: float) -> Callable[..., float]:
    """So many numbers moved for each element."""
    return lambda batch, channels, side: 4 * each * batch * channels * side**2


_CONVS = [
    (32, 32, 64, 28, 3), (128, 1, 32, 28, 3), (8, 64, 64, 56, 3), (8, 256, 256, 14, 3), (8, 256, 256, 14, 1),
    (32, 1, 32, 28, 3), (32, 32, 64, 13, 3), (32, 64, 64, 5, 3), (32, 32, 32, 28, 3),
]  # fmt: skip
for _nhwc in (True, False):
    _order = "nhwc" if _nhwc else "nchw"
    for _n, _i, _o, _side, _k in _CONVS:
        _both(
            f"conv N{_n} {_i}->{_o} {_side}px {_k}x{_k} {_order}", conv, _conv_flops,
            bar=0.9 if _i == 256 else 5 if _i == 1 and not _nhwc else BAR,
            batch=_n, inputs=_i, outputs=_o, side=_side, kernel=_k, nhwc=_nhwc,
        )  # fmt: skip
    for _n, _i, _side, _k, _stride in ((32, 64, 28, 3, 1), (8, 128, 56, 3, 2), (8, 96, 14, 7, 1)):
        _both(
            f"depthwise N{_n} {_i} {_side}px {_k}x{_k} stride {_stride} {_order}", depthwise, _depthwise_flops,
            batch=_n, channels=_i, side=_side, kernel=_k, stride=_stride, nhwc=_nhwc,
        )  # fmt: skip
    _images = dict(batch=32, channels=64, side=28, nhwc=_nhwc)
    _both(
        f"maxpool2 32x64x28x28 {_order}", maxpool, _image_bytes(1.25), "bytes", BAR if _nhwc else 5, **_images

    )  # fmt: skip
    _both(f"batchnorm train 32x64x28x28 {_order}", batchnorm, _image_bytes(2), "bytes", **_images)


# ---- recurrent layers
def recurrent(lib, *, cell, batch, steps, inputs, hidden, back, layers=1, bidirectional=False):
    draw = Draw(lib)
    layer = getattr(lib.nn, cell)(inputs, hidden, num_layers=layers, bidirectional=bidirectional)
    with lib.no_grad():
        for p in layer.parameters():
            p.copy_(draw(*p.shape, scale=hidden**-0.5))
    x = draw(steps, batch, inputs)
    return passes(lib, draw, lambda: layer(x)[0], [x, *layer.parameters()], back)


def _recurrent_flops(gates, ways=1):
    def flops(batch, steps, inputs, hidden, layers=1):
        later = (layers - 1) * (ways + 1) * hidden
        return 2 * batch * steps * ways * gates * hidden * (inputs + hidden + later)

    return flops


for _h, _bar in ((64, 1.5), (128, 1.05), (256, 0.9), (512, 0.9)):
    _both(
        f"LSTM B32 T64 64->{_h}", recurrent, _recurrent_flops(4), bar=(0.9 if _h == 512 else BAR, _bar),
        cell="LSTM", batch=32, steps=64, inputs=64, hidden=_h,
    )  # fmt: skip
for _cell, _gates in (("GRU", 3), ("RNN", 1)):
    _both(
        f"{_cell} B32 T64 64->64", recurrent, _recurrent_flops(_gates), bar=4,
        cell=_cell, batch=32, steps=64, inputs=64, hidden=64,
    )  # fmt: skip
_both(
    "LSTM two layers B32 T64 64->64", recurrent, _recurrent_flops(4), bar=1.5,
    cell="LSTM", batch=32, steps=64, inputs=64, hidden=64, layers=2,
)  # fmt: skip
_both(
    "LSTM both ways B32 T64 64->64", recurrent, _recurrent_flops(4, 2), bar=1.5,
    cell="LSTM", batch=32, steps=64, inputs=64, hidden=64, bidirectional=True,
)  # fmt: skip


# ---- rows of numbers
def softmax(lib, *, rows, columns, back):
    draw = Draw(lib)
    x = draw(rows, columns)
    return passes(lib, draw, lambda: lib.nn.functional.softmax(x, 1), [x], back)


def cross_entropy(lib, *, rows, columns, back):
    draw = Draw(lib)
    x, y = draw(rows, columns), draw.ids(columns, rows)
    return passes(lib, draw, lambda: lib.nn.functional.cross_entropy(x, y), [x], back)


def layernorm(lib, *, rows, columns, back):
    draw = Draw(lib)
    x, w, b = draw(rows, columns), draw(columns), draw(columns)
    return passes(lib, draw, lambda: lib.nn.functional.layer_norm(x, (columns,), w, b), [x, w, b], back)


def gelu(lib, *, rows, columns, back):
    draw = Draw(lib)
    x = draw(rows, columns)
    return passes(lib, draw, lambda: lib.nn.functional.gelu(x), [x], back)


def gelu_written_out(lib, *, rows, columns, back):
    draw = Draw(lib)
    x = draw(rows, columns)
    c = math.sqrt(2 / math.pi)
    return passes(lib, draw, lambda: 0.5 * x * (1 + lib.tanh(c * (x + 0.044715 * x * x * x))), [x], back)


def bce_with_logits(lib, *, rows, columns, back):
    draw = Draw(lib)
    x, y = draw(rows, columns), draw(rows, columns).sigmoid()
    return passes(lib, draw, lambda: lib.nn.functional.binary_cross_entropy_with_logits(x, y), [x], back)


def dropout(lib, *, rows, columns, back):
    draw = Draw(lib)
    x = draw(rows, columns)
    return passes(lib, draw, lambda: lib.nn.functional.dropout(x, 0.5, True), [x], back)


def embedding(lib, *, words, width, ids, back):
    draw = Draw(lib)
    w, at = draw(words, width), draw.ids(words, ids)
    return passes(lib, draw, lambda: lib.nn.functional.embedding(at, w), [w], back)


def attention(lib, *, batch, heads, steps, width, back):
    draw = Draw(lib)
    q, k, v = (draw(batch, heads, steps, width) for _ in range(3))
    run = lambda: lib.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return passes(lib, draw, run, [q, k, v], back)


def _floats(each: int) -> Callable[..., float]:
    """So many numbers moved for each element."""
    return lambda rows, columns: 4 * each * rows * columns


_both("softmax 4096x1000", softmax, _floats(2), "bytes", rows=4096, columns=1000)
_both("cross_entropy 4096x1000", cross_entropy, _floats(1), "bytes", 3, rows=4096, columns=1000)
_both("layernorm 4096x768", layernorm, _floats(2), "bytes", rows=4096, columns=768)
_both("gelu written out 4M", gelu_written_out, _floats(2), "bytes", rows=2000, columns=2000)
_both("gelu 4M", gelu, _floats(2), "bytes", rows=2000, columns=2000)
_both("dropout 4M", dropout, _floats(2), "bytes", same=dropped, rows=2000, columns=2000)
_both("bce_with_logits 4M", bce_with_logits, _floats(2), "bytes", rows=2000, columns=2000)
_both(
    "embedding 30000x128, 4096 ids", embedding, lambda words, width, ids: 8 * ids * width, "bytes",
    words=30000, width=128, ids=4096,
)  # fmt: skip
_both(
    "attention B16 4 heads T64 d32 causal", attention,
    lambda batch, heads, steps, width: 4 * batch * heads * steps**2 * width,
    batch=16, heads=4, steps=64, width=32,
)  # fmt: skip


# ---- parameters
def parameters(lib: Any, draw: Draw, count: int, size: int) -> tuple[list, Callable[[], None]]:
    """Parameters, and a function that gives each the next of four gradients."""
    params = [lib.nn.Parameter(draw(size)) for _ in range(count)]
    grads = [[draw(size) for _ in params] for _ in range(4)]
    turn = 0

    def renew():
        nonlocal turn
        turn += 1
        for p, g in zip(params, grads[turn % 4]):
            p.grad = g.clone()

    return params, renew


def optimizer(lib, *, algorithm, count, size, **settings):
    """A step; fused where PyTorch can, which is not its default."""
    params, renew = parameters(lib, Draw(lib), count, size)
    make = getattr(lib.optim, algorithm)
    if lib.__name__ == "torch" and "fused" in inspect.signature(make).parameters:
        settings["fused"] = True
    step = make(params, lr=1e-3, **settings).step

    def call():
        step()
        return params

    return Timed(call, renew)


def clip(lib, *, count, size):
    params, renew = parameters(lib, Draw(lib), count, size)

    def call():
        norm = lib.nn.utils.clip_grad_norm_(params, 1.0)
        return [norm, *(p.grad for p in params)]

    return Timed(call, renew)


def _moved(each: int) -> Callable[..., float]:
    return lambda count, size: 4 * each * count * size


for _count, _size, _title in ((1, 10_000_000, "1 x 10M"), (100, 10_000, "100 x 10k")):
    for _kind, _each, _more in (("Adam", 7, {}), ("AdamW", 7, {}), ("SGD", 5, dict(momentum=0.9)), ("RMSprop", 5, {})):
        _add(f"{_kind} {_title}", optimizer, _moved(_each), "bytes", algorithm=_kind, count=_count, size=_size, **_more)
    _add(f"clip_grad_norm_ {_title}", clip, _moved(3), "bytes", count=_count, size=_size)


# ---- matrix products, and the machine's roofs
def matmul(lib, *, m, k, n):
    draw = Draw(lib)
    a, b = draw(m, k), draw(k, n)
    return passes(lib, draw, lambda: a @ b, [], False)


def copy(lib, *, size):
    draw = Draw(lib)
    x, y = draw(size), lib.zeros(size)
    return passes(lib, draw, lambda: y.copy_(x), [], False)


for _m, _k, _n in (
    *((size,) * 3 for size in (64, 128, 256, 512, 1024, 2048)), (32, 784, 128), (128, 784, 128), (32, 64, 256),
    (32, 256, 1024), (1024, 128, 512), (128, 784, 400), (32, 128, 10), (512, 128, 384), (512, 128, 512),
    (5408, 288, 64),
):  # fmt: skip
    _add(f"sgemm {_m}x{_k}x{_n}", matmul, lambda m, k, n: 2 * m * k * n, bar=0.9, m=_m, k=_k, n=_n)
_add("copy 256 MB", copy, lambda size: 8 * size, "bytes", size=1 << 26)
ROOFS = {
    "flops": "sgemm 2048x2048x2048",
    "bytes": "copy 256 MB",
}  # measured in every run: the quickest call is the roof
