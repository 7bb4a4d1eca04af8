"""The workloads in JAX: plain functions, one donated jit a step, recurrent layers by scan over projected inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = Any


def prepare(workload: Any, phase: str, seed: int = 0, small: bool = False) -> tuple[Callable[[tuple], Any], list]:
    """As ``tensorlite.bench.steps.prepare``; wait for results with ``jax.block_until_ready``."""
    sizes = workload.sized(small)
    rng = np.random.default_rng(seed)
    if workload.name.startswith("text_"):
        params, apply = text(rng, **sizes)
    else:
        name = workload.name.rpartition("_b")[0] or workload.name
        params, apply = {"mlp_big": mlp}.get(workload.name, globals().get(name))(rng, **sizes)
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    batches = [tuple(jnp.asarray(a) for a in batch) for batch in workload.pool(seed, small)]
    running = apply.running(params) if hasattr(apply, "running") else {}
    if phase == "infer":
        forward = jax.jit(partial(apply, train=False))
        return lambda batch: forward(params, running, batch[0])[0], batches
    loss_of = LOSSES.get(workload.name, cross_entropy)
    update = {"resnet8": sgd, "gpt_nano": partial(adam, lr=3e-4, decay=0.01)}.get(workload.name, adam)
    clip = 1.0 if workload.name == "char_lm" else None

    @partial(jax.jit, donate_argnums=0)
    def step(state: Tree, batch: tuple) -> tuple[Tree, Any]:
        params, moments, running, key, count = state
        key, noise = jax.random.split(key)

        def loss(params):
            out, new = apply(params, running, batch[0], key=noise, train=True)
            return loss_of(out, *batch), new

        (value, running), grads = jax.value_and_grad(loss, has_aux=True)(params)
        if clip is not None:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
            grads = jax.tree.map(lambda g: g * jnp.minimum(clip / (norm + 1e-6), 1), grads)
        params, moments = update(params, grads, moments, count + 1)
        return (params, moments, running, key, count + 1), value

    zeros = jax.tree.map(jnp.zeros_like, params)
    moments = zeros if workload.name == "resnet8" else (zeros, jax.tree.map(jnp.zeros_like, params))
    state = (params, moments, running, jax.random.key(seed), jnp.zeros((), jnp.int32))

    def one(batch: tuple) -> Any:
        nonlocal state
        state, value = step(state, batch)
        return jax.block_until_ready((state, value))[1]  # the new weights too, as everywhere else

    return one, batches


# ---- losses and updates
def cross_entropy(logits: Any, _: Any, target: Any) -> Any:
    rows = jax.nn.log_softmax(logits.reshape(-1, logits.shape[-1]))
    return -jnp.take_along_axis(rows, target.reshape(-1, 1), 1).mean()


def squares(out: Any, _: Any, target: Any) -> Any:
    return jnp.mean((out - target) ** 2)


def evidence(out: Any, x: Any) -> Any:
    logits, mean, logvar = out
    surprise = jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))
    return (surprise - 0.5 * jnp.sum(1 + logvar - mean * mean - jnp.exp(logvar))) / x.shape[0]


LOSSES = {"lstm_seq": squares, "vae": evidence}


def adam(params: Tree, grads: Tree, moments: Tree, count: Any, lr: float = 1e-3, decay: float = 0.0) -> tuple:
    """As PyTorch's Adam, and AdamW for a decay."""
    means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    squares = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], grads)
    one, two = 1 - 0.9**count, jnp.sqrt(1 - 0.999**count)
    new = jax.tree.map(
        lambda p, m, v: p * (1 - lr * decay) - lr / one * m / (jnp.sqrt(v) / two + 1e-8), params, means, squares
    )
    return new, (means, squares)


def sgd(params: Tree, grads: Tree, moments: Tree, count: Any) -> tuple:
    """Momentum 0.9 as PyTorch's."""
    moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, grads)
    return jax.tree.map(lambda p, m: p - 0.05 * m, params, moments), moments


# ---- models: (parameters as NumPy arrays, apply(params, running, x, key, train) -> (out, running))
def _uniform(rng: Any, fan_in: int, *shape: int) -> np.ndarray:
    return rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape)


def _dense(rng: Any, a: int, b: int) -> dict:
    return {"w": _uniform(rng, a, a, b), "b": _uniform(rng, a, b)}


def _linear(p: Tree, x: Any) -> Any:
    return x @ p["w"] + p["b"]


def mlp(rng: Any, *, shape: tuple, hidden: tuple, classes: int = 10, **_: Any) -> tuple:
    widths = [*shape, *hidden, classes]

    def apply(params, running, x, key=None, train=False):
        for layer in params[:-1]:
            x = jax.nn.relu(_linear(layer, x))
        return _linear(params[-1], x), running

    return [_dense(rng, a, b) for a, b in zip(widths, widths[1:])], apply  # noqa: RUF007


def _conv(x: Any, w: Any, stride: int = 1, pad: int = 0) -> Any:
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def _pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def cnn(rng: Any, *, shape: tuple, widths: tuple, classes: int = 10, **_: Any) -> tuple:
    a, b, c, d = widths
    side = ((shape[1] - 2) // 2 - 2) // 2 - 2
    kernels = [
        {"w": _uniform(rng, 9 * i, o, i, 3, 3), "b": _uniform(rng, 9 * i, o, 1, 1)}
        for i, o in ((shape[0], a), (a, b), (b, c))
    ]
    params = {"convs": kernels, "one": _dense(rng, c * side * side, d), "two": _dense(rng, d, classes)}

    def apply(params, running, x, key=None, train=False):
        for k, p in enumerate(params["convs"]):
            x = jax.nn.relu(_conv(x, p["w"]) + p["b"])
            x = _pool(x) if k < 2 else x
        x = jax.nn.relu(_linear(params["one"], x.reshape(len(x), -1)))
        return _linear(params["two"], x), running

    return params, apply


def vae(rng: Any, *, features: int, hidden: int, code: int, **_: Any) -> tuple:
    sizes = dict(encode=(features, hidden), mean=(hidden, code), logvar=(hidden, code))
    sizes |= dict(wide=(code, hidden), decode=(hidden, features))

    def apply(params, running, x, key=None, train=False):
        h = jax.nn.relu(_linear(params["encode"], x))
        mean, logvar = _linear(params["mean"], h), _linear(params["logvar"], h)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape) if train else mean
        return (_linear(params["decode"], jax.nn.relu(_linear(params["wide"], z))), mean, logvar), running

    return {name: _dense(rng, *size) for name, size in sizes.items()}, apply


class resnet8:
    """Parameters by the name of each convolution; its running mean and variance by the same."""

    def __new__(cls, rng: Any, *, shape: tuple, stages: tuple, classes: int = 10, **_: Any) -> tuple:
        a, b, c = stages
        cls.strides = {"b": 2, "c": 2}
        convs = {"first": (shape[0], a, 3), "a1": (a, a, 3), "a2": (a, a, 3)}
        for name, i, o in (("b", a, b), ("c", b, c)):
            convs |= {f"{name}1": (i, o, 3), f"{name}2": (o, o, 3), f"{name}0": (i, o, 1)}
        params: dict = {
            name: {"w": _uniform(rng, i * k * k, o, i, k, k), "scale": np.ones(o), "shift": np.zeros(o)}
            for name, (i, o, k) in convs.items()
        }
        return {**params, "out": _dense(rng, c, classes)}, object.__new__(cls)

    @staticmethod
    def running(params: Tree) -> Tree:
        return {
            name: (jnp.zeros_like(p["scale"]), jnp.ones_like(p["scale"]))
            for name, p in params.items() if name != "out"
        }  # fmt: skip

    def __call__(self, params: Tree, running: Tree, x: Any, key: Any = None, train: bool = False) -> tuple:
        new = dict(running)

        def unit(name, x, stride=1):
            p = params[name]
            x = _conv(x, p["w"], stride, p["w"].shape[2] // 2)
            mean, var = running[name]
            if train:
                n = x.size // x.shape[1]
                old = mean, var
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
                new[name] = (0.9 * old[0] + 0.1 * mean, 0.9 * old[1] + 0.1 * var * n / (n - 1))
            scale = p["scale"] * lax.rsqrt(var + 1e-5)
            return x * scale[:, None, None] + (p["shift"] - mean * scale)[:, None, None]

        x = jax.nn.relu(unit("first", x))
        for name in "abc":
            stride = self.strides.get(name, 1)
            y = unit(f"{name}2", jax.nn.relu(unit(f"{name}1", x, stride)))
            x = jax.nn.relu(y + (unit(f"{name}0", x, stride) if stride > 1 else x))
        return _linear(params["out"], x.mean((2, 3))), new


# ---- sequences
def _cell(rng: Any, gates: int, a: int, h: int) -> dict:
    return {
        "w": _uniform(rng, h, a, gates * h), "u": _uniform(rng, h, h, gates * h),
        "b": _uniform(rng, h, gates * h), "c": _uniform(rng, h, gates * h),
    }  # fmt: skip


def _scan(p: Tree, x: Any, body: Callable, carry: Any) -> Any:
    """The states (N, T, H) of a recurrent layer over x (N, T, A)."""
    projected = (x @ p["w"] + p["b"]).swapaxes(0, 1)
    return lax.scan(body, carry, projected)[1].swapaxes(0, 1)


def _lstm(p: Tree, x: Any) -> Any:
    zero = jnp.zeros((len(x), p["u"].shape[0]))

    def body(carry, projected):
        h, c = carry
        i, f, g, o = jnp.split(projected + h @ p["u"] + p["c"], 4, 1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return _scan(p, x, body, (zero, zero))


def _gru(p: Tree, x: Any) -> Any:
    def body(h, projected):
        r, z, n = jnp.split(projected, 3, 1)
        ur, uz, un = jnp.split(h @ p["u"] + p["c"], 3, 1)
        z = jax.nn.sigmoid(z + uz)
        h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + ur) * un) + z * h
        return h, h

    return _scan(p, x, body, jnp.zeros((len(x), p["u"].shape[0])))


def _rnn(p: Tree, x: Any) -> Any:
    def body(h, projected):
        h = jnp.tanh(projected + h @ p["u"] + p["c"])
        return h, h

    return _scan(p, x, body, jnp.zeros((len(x), p["u"].shape[0])))


CELLS = {"LSTM": (4, _lstm), "GRU": (3, _gru), "RNN": (1, _rnn)}


def lstm_seq(rng: Any, *, features: int, widths: tuple, **_: Any) -> tuple:
    a, b = widths

    def apply(params, running, x, key=None, train=False):
        return _linear(params["out"], _lstm(params["two"], _lstm(params["one"], x))[:, -1]), running

    return {"one": _cell(rng, 4, features, a), "two": _cell(rng, 4, a, b), "out": _dense(rng, b, 1)}, apply


def text(rng: Any, *, cell: str, words: int, width: int, classes: int, **_: Any) -> tuple:
    gates, run = CELLS[cell]

    def apply(params, running, ids, key=None, train=False):
        return _linear(params["out"], run(params["cell"], params["embed"][ids])[:, -1]), running

    embed = rng.standard_normal((words, width))
    return {"embed": embed, "cell": _cell(rng, gates, width, width), "out": _dense(rng, width, classes)}, apply


def char_lm(rng: Any, *, words: int, width: int, hidden: int, **_: Any) -> tuple:
    def apply(params, running, ids, key=None, train=False):
        return _linear(params["out"], _lstm(params["two"], _lstm(params["one"], params["embed"][ids]))), running

    cells = {"one": _cell(rng, 4, width, hidden), "two": _cell(rng, 4, hidden, hidden)}
    return {"embed": rng.standard_normal((words, width)), **cells, "out": _dense(rng, hidden, words)}, apply


def gpt_nano(rng: Any, *, length: int, words: int, layers: int, width: int, heads: int, **_: Any) -> tuple:
    def norm():
        return {"w": np.ones(width), "b": np.zeros(width)}

    def block():
        sizes = dict(qkv=(width, 3 * width), join=(width, width), wide=(width, 4 * width), narrow=(4 * width, width))
        return {name: _dense(rng, *size) for name, size in sizes.items()} | {"norm1": norm(), "norm2": norm()}

    def normal(p, x):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["w"] + p["b"]

    def apply(params, running, ids, key=None, train=False):
        n, t = ids.shape
        x = params["embed"][ids] + params["place"][:t]
        for p in params["blocks"]:
            q, k, v = (a.reshape(n, t, heads, -1) for a in jnp.split(_linear(p["qkv"], normal(p["norm1"], x)), 3, 2))
            seen = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + _linear(p["join"], seen.reshape(n, t, -1))
            h = jax.nn.gelu(_linear(p["wide"], normal(p["norm2"], x)), approximate=False)
            x = x + _linear(p["narrow"], h)
        return normal(params["norm"], x) @ params["out"], running

    params = {"embed": rng.standard_normal((words, width)), "place": rng.standard_normal((length, width))}
    params |= {"blocks": [block() for _ in range(layers)], "norm": norm()}
    return {**params, "out": _uniform(rng, width, width, words)}, apply
