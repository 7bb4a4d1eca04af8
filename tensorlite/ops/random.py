"""Random numbers: generators, distributions, dropout. Floor 3.

A generator's state is (seed, call), two int64 on the device. Every random op takes the next call and hands it, as data,
to a pure op: the same key gives the same numbers again, which is how the gradient of dropout finds its mask.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tensorlite import config, dtypes
from tensorlite.autograd import recording
from tensorlite.autograd.methods import method, op
from tensorlite.autograd.modes import no_grad
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, channels_last, format_like, spec_of
from tensorlite.autograd.tensor import Tensor, from_array, placed
from tensorlite.autograd.views import inplace as write_in_place
from tensorlite.backends import CPU, Device, located, put
from tensorlite.dtypes import as_dtype, get_default_dtype
from tensorlite.errors import DTypeError
from tensorlite.ops import philox
from tensorlite.shapes import broadcast, size_args

_BITS = {dtypes.float64: 53, dtypes.float32: 24, dtypes.float16: 11, dtypes.bfloat16: 8}


# ---- the state
@primitive(name="take_key", mutates=("state",), torch=None)
def take_key_p(xp, state, out):
    """The state as it is, which becomes the key of one call; the state moves on to the next call."""
    out[...] = state
    state[1:] += 1


take_key_p.spec(lambda state: state)
take_key_p.nograd()
take_key_p.kernel("cuda", "random.take_key", "", formats=ANY)


@take_key_p.cases
def _(make):
    yield dict(state=make.tensor([7, 0], dtypes.int64))


take_key_p.ref(lambda state: (state, state + np.array([0, 1])))


class Generator:
    """A source of random numbers with a state of its own.

    >>> import tensorlite as tl
    >>> g = tl.Generator().manual_seed(0)
    >>> a = tl.rand(2, generator=g)
    >>> bool((tl.rand(2, generator=g.manual_seed(0)) == a).all())
    True
    """

    def __init__(self, device: Any = "cpu"):
        self.device = located(device)
        self._state = placed(np.zeros(2, np.int64), self.device)
        recording.generators.add(self)
        self.manual_seed(67280421310721)

    def manual_seed(self, seed: int) -> Generator:
        """Start over from ``seed`` (64 bits)."""
        recording.refuse("manual_seed: a recorded program would not seed anew; seed outside of the compiled function")
        seed = int(seed)
        if not -(2**63) <= seed < 2**64:
            raise RuntimeError(f"manual_seed: seed {seed} overflows; wanted -2**63 to 2**64 - 1")
        put(self._state._arr, np.array([np.uint64(seed & (2**64 - 1)).astype(np.int64), 0]))
        return self

    def seed(self) -> int:
        """Start over from a seed that the operating system gives; returns it."""
        seed = int.from_bytes(os.urandom(8), "little") >> 1
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed that this generator started from."""
        return self._state.tolist()[0] & (2**64 - 1)

    def get_state(self) -> Tensor:
        """The state, as a tensor of 16 bytes."""
        return from_array(np.frombuffer(self._state.cpu()._arr.tobytes(), np.uint8).copy())

    def set_state(self, new_state: Tensor) -> Generator:
        """Continue from a state that ``get_state`` gave."""
        if not isinstance(new_state, Tensor) or new_state.dtype is not dtypes.uint8 or new_state.shape != (16,):
            raise TypeError("set_state: expected the tensor of 16 bytes that get_state gives")
        put(self._state._arr, np.frombuffer(np.ascontiguousarray(new_state.cpu()._arr).tobytes(), np.int64))
        return self

    def clone_state(self) -> Generator:
        """Another generator in the same state."""
        return Generator(self.device).set_state(self.get_state())

    def __reduce__(self):
        return (_generator, (str(self.device), self.get_state()))


def _generator(device: str, state: Tensor) -> Generator:
    return Generator(device).set_state(state)


default_generator = Generator()
_gpu_generators: dict = {}  # device -> its default generator, made when first asked for
_gpu_seed = [default_generator.initial_seed()]
config.CUDA_EMULATION.listeners.append(lambda _: _gpu_generators.clear())


def generator_of(device: Device) -> Generator:
    """The default generator of a device."""
    if device is CPU:
        return default_generator
    if device not in _gpu_generators:
        _gpu_generators[device] = Generator(device).manual_seed(_gpu_seed[0])
    return _gpu_generators[device]


def seed_gpus(seed: int) -> None:
    """Start the default generators of all GPUs over from ``seed``, those that are made later too."""
    _gpu_seed[0] = int(seed)
    for g in _gpu_generators.values():
        g.manual_seed(seed)


def manual_seed(seed: int) -> Generator:
    """Start the default generators of all devices over from ``seed``; returns the CPU's."""
    default_generator.manual_seed(seed)
    seed_gpus(seed)
    return default_generator


def seed() -> int:
    """Start the default generators over from a seed that the operating system gives; returns it."""
    chosen = default_generator.seed()
    seed_gpus(chosen)
    return chosen


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The state of the default generator."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Continue the default generator from a state that ``get_rng_state`` gave."""
    default_generator.set_state(new_state)


def take(generator: Generator | None = None, device: Any = None) -> Tensor:
    """The key of one random call on a device, from that device's default generator unless one is given."""
    if generator is None:
        own = device is None or device is CPU
        return take_key_p((default_generator if own else generator_of(located(device)))._state)
    if device is not None and generator.device.type != Device(device).type:
        raise RuntimeError(
            f"random: expected a '{Device(device).type}' device type for generator but found '{generator.device.type}'"
        )
    return take_key_p(generator._state)


# ---- numbers from a key
def _shaped(key, *, shape, dtype, **kw):
    return spec_of(shape, dtype, key.device)


def _random(name: str, values: Any, doc: str, constants: tuple = ()):
    """A pure op (key) -> random numbers of a shape and dtype."""
    if constants:

        @primitive(name=name, torch=None)
        def random_p(xp, key, out, *, shape, dtype, low, high):
            out[...] = values(xp, key, out.size, dtype, low, high).reshape(shape)
    else:

        @primitive(name=name, torch=None)
        def random_p(xp, key, out, *, shape, dtype):
            out[...] = values(xp, key, out.size, dtype).reshape(shape)

    random_p.op.doc = doc
    random_p.spec(_shaped)
    random_p.nograd()
    if not constants:
        random_p.kernel("cpu", name)
    random_p.kernel("cuda", f"random.{name}", "", formats=ANY)
    return random_p


uniform_p = _random(
    "uniform", lambda xp, key, n, dtype: philox.uniform(xp, key, n, _BITS[dtype]), "Uniform in [0, 1) from a key."
)
normal_p = _random(
    "normal", lambda xp, key, n, dtype: philox.normal(xp, key, n, _BITS[dtype]), "Standard normal from a key."
)


def _randint(xp, key, n, dtype, low, high):
    return (philox.integers(xp, key, n) % xp.uint64(high - low)).astype(xp.int64) + low


randint_p = _random("randint", _randint, "Integers in [low, high) from a key.", ("low", "high"))


@primitive(name="randperm", torch=None)
def randperm_p(xp, key, out, *, n):
    """The numbers 0 to n - 1 in random order: the order of n random words of 64 bits."""
    out[...] = xp.argsort(philox.integers(xp, key, n), kind="stable")


randperm_p.spec(lambda key, *, n: spec_of((n,), dtypes.int64, key.device))
randperm_p.nograd()
randperm_p.kernel("cuda", "random.randperm", "", formats=ANY)


def _reference_words(key, n):
    """Words one at a time in Python integers."""
    seed, call = (int(v) & (2**64 - 1) for v in key)
    out = []
    for block in range(-(-n // 4)):
        c, k = [block, 0, call % 2**32, call // 2**32], [seed % 2**32, seed // 2**32]
        for _ in range(10):
            a, b = divmod(0xD2511F53 * c[0], 2**32), divmod(0xCD9E8D57 * c[2], 2**32)
            c = [b[0] ^ c[1] ^ k[0], b[1], a[0] ^ c[3] ^ k[1], a[1]]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        out += c
    return out[:n]


def _reference_uniform(key, n, dtype):
    bits = _BITS[dtype]
    if bits <= 32:
        return [(w >> (32 - bits)) / 2**bits for w in _reference_words(key, n)]
    w = _reference_words(key, 2 * n)
    return [((w[2 * k] >> 5) * 2**26 + (w[2 * k + 1] >> 6)) / 2**53 for k in range(n)]


def _reference_normal(key, n, dtype):
    import cmath
    import math

    pairs = -(-n // 2)
    u = (
        [w / 2**32 for w in _reference_words(key, 2 * pairs)]
        if _BITS[dtype] <= 32
        else _reference_uniform(key, 2 * pairs, dtype)
    )
    z = [math.sqrt(-2 * math.log1p(-u[2 * k])) * cmath.exp(2j * math.pi * u[2 * k + 1]) for k in range(pairs)]
    return [v for c in z for v in (c.real, c.imag)][:n]


def _reference_integers(key, n):
    w = _reference_words(key, 2 * n)
    return [w[2 * k] * 2**32 + w[2 * k + 1] for k in range(n)]


@uniform_p.cases
@normal_p.cases
def _(make):
    for d in (dtypes.float32, dtypes.float64):
        yield dict(key=make.tensor([7, 3], dtypes.int64), shape=(3, 5), dtype=d)
    yield dict(key=make.tensor([-1, 2**40], dtypes.int64), shape=(2,), dtype=dtypes.float32)
    yield dict(key=make.tensor([0, 0], dtypes.int64), shape=(0,), dtype=dtypes.float32)


@randint_p.cases
def _(make):
    yield dict(key=make.tensor([7, 3], dtypes.int64), shape=(3, 5), dtype=dtypes.int64, low=-4, high=9)


@randperm_p.cases
def _(make):
    yield dict(key=make.tensor([7, 3], dtypes.int64), n=10)
    yield dict(key=make.tensor([7, 3], dtypes.int64), n=0)


uniform_p.ref(lambda key, shape, dtype: np.reshape(_reference_uniform(key, int(np.prod(shape)), dtype), shape))
normal_p.ref(lambda key, shape, dtype: np.reshape(_reference_normal(key, int(np.prod(shape)), dtype), shape))
randint_p.ref(
    lambda key, shape, dtype, low, high: np.reshape(
        [low + v % (high - low) for v in _reference_integers(key, int(np.prod(shape)))], shape
    )
)
randperm_p.ref(lambda key, n: np.array(sorted(range(n), key=_reference_integers(key, n).__getitem__), int))


# ---- what users call
def _sized(name: str, pure: Any, doc: str):
    def draw(
        *size: Any,
        generator: Generator | None = None,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        out: Any = None,
        layout: Any = None,
        pin_memory: bool = False,
    ) -> Tensor:
        d = get_default_dtype() if dtype is None else as_dtype(dtype, name)
        if not d.is_floating_point:
            raise DTypeError(f"{name}: got {d}; wanted a floating-point dtype")
        y = pure(take(generator, device or CPU), shape=size_args(name, size), dtype=d)
        return y.requires_grad_() if requires_grad else y

    def like(
        input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, memory_format: Any = None
    ) -> Tensor:
        y = draw(*input.shape, dtype=dtype or input.dtype, device=device or input._spec.device)
        y = _laid(name + "_like", y, input, memory_format)
        return y.requires_grad_() if requires_grad else y

    draw.__name__ = draw.__qualname__ = name
    draw.__doc__ = doc
    like.__name__ = like.__qualname__ = name + "_like"
    like.__doc__ = f"``{name}`` with the shape and dtype of a tensor."
    return draw, like


def _laid(name: str, y: Tensor, x: Tensor, memory_format: Any) -> Tensor:
    """``y`` in the memory format that is asked for, or else in that of ``x``."""
    return y if format_like(name, memory_format, x._spec) is CONTIGUOUS else y.contiguous(channels_last)


rand, rand_like = _sized("rand", uniform_p, "Uniform in [0, 1): ``rand(2, 3)`` or ``rand((2, 3))``.")
randn, randn_like = _sized("randn", normal_p, "Standard normal: ``randn(2, 3)`` or ``randn((2, 3))``.")


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high): ``randint(high, size)`` or ``randint(low, high, size)``."""
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    if size is None:
        raise TypeError("randint: missing size; wanted randint(high, size) or randint(low, high, size)")
    if high <= low:
        raise RuntimeError(f"randint: 'from' ({low}) must be less than 'to' ({high})")
    d = dtypes.int64 if dtype is None else as_dtype(dtype, "randint")
    key = take(generator, device or CPU)
    return randint_p(key, shape=size_args("randint", (size,)), dtype=d, low=int(low), high=int(high))


def randint_like(
    input: Tensor, low: int, high: Any = None, *, dtype: Any = None, device: Any = None, memory_format: Any = None
) -> Tensor:
    """Integers in [low, high) with the shape of a tensor."""
    low, high = (0, low) if high is None else (low, high)
    y = randint(low, high, tuple(input.shape), dtype=dtype or input.dtype, device=device or input._spec.device)
    return _laid("randint_like", y, input, memory_format)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    if n < 0:
        raise RuntimeError(f"randperm: n must be non-negative, got {n}")
    y = randperm_p(take(generator, device or CPU), n=int(n))
    return y if dtype is None else y.to(dtype)


def normal(
    mean: Any, std: Any, size: Any = None, *, generator: Generator | None = None, dtype: Any = None, device: Any = None
) -> Tensor:
    """Normal numbers of this mean and standard deviation: numbers with a size, or tensors."""
    tensors = [v for v in (mean, std) if isinstance(v, Tensor)]
    if size is None:
        if not tensors:
            raise TypeError("normal: mean and std are numbers; wanted a size too")
        size, dtype = broadcast("normal", *(t._spec.shape for t in tensors)), tensors[0].dtype
        device = tensors[0]._spec.device
    with no_grad():
        return randn(*size_args("normal", (size,)), generator=generator, dtype=dtype, device=device) * std + mean


@method()
@no_grad()
def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers in [a, b)."""
    if a > b:
        raise RuntimeError(f"uniform_: expects to return a [from, to) range, but found from={a} > to={b}")
    key = take(generator, self._spec.device)
    return self.copy_(uniform_p(key, shape=self._spec.shape, dtype=_float(self, "uniform_")) * (b - a) + a)


@method()
@no_grad()
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers of this mean and standard deviation."""
    if std < 0:
        raise RuntimeError(f"normal_: expects std >= 0.0, but found std {std}")
    key = take(generator, self._spec.device)
    return self.copy_(normal_p(key, shape=self._spec.shape, dtype=_float(self, "normal_")) * std + mean)


@method()
@no_grad()
def random_(self: Tensor, from_: int = 0, to: int | None = None, *, generator: Generator | None = None) -> Tensor:
    """Fill with integers in [from_, to); without bounds, with all that the dtype holds exactly."""
    if to is None:
        low, high = 0, from_ or (2**24 if self.is_floating_point() else min(2**31, dtypes.iinfo(self.dtype).max + 1))
    else:
        low, high = from_, to
    return self.copy_(randint(low, high, tuple(self.shape), generator=generator, device=self._spec.device))


def _float(x: Tensor, name: str) -> dtypes.dtype:
    if not x._spec.dtype.is_floating_point:
        raise DTypeError(f"{name}: got {x._spec.dtype}; wanted a floating-point tensor")
    return x._spec.dtype


@primitive(name="bernoulli", torch=None)
def bernoulli_p(xp, x, key, out):
    """1 with probability x, else 0."""
    if x.size and not bool(((x >= 0) & (x <= 1)).all()):
        raise RuntimeError("bernoulli: expected all probabilities p_in to be in [0, 1] (p_in >= 0 && p_in <= 1)")
    out[...] = philox.words(xp, key, out.size).reshape(out.shape) * 2.0**-32 < x


bernoulli_p.spec(lambda x, key: x.like(*x.shape))
bernoulli_p.kernel("cpu", "bernoulli")
bernoulli_p.kernel("cuda", "random.bernoulli", "", formats=ANY)
bernoulli_p.grad(x=lambda g: g * 0.0, key=None)


@bernoulli_p.cases
def _(make):
    yield dict(x=make(3, 4, low=0.1, high=0.9), key=make.tensor([7, 3], dtypes.int64))
    yield RuntimeError, dict(x=make(3, low=2, high=3), key=make.tensor([7, 3], dtypes.int64))


bernoulli_p.ref(lambda x, key: (np.reshape(_reference_words(key, x.size), x.shape) / 2**32 < x) * 1.0)


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with probability ``input``, else 0, in the dtype of ``input``."""
    _float(input, "bernoulli")
    return bernoulli_p(input, take(generator, input._spec.device))


@method("bernoulli")
def _bernoulli(self: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with probability p (default: the values of this tensor), else 0."""
    return bernoulli(self if p is None else self.new_full(self.shape, p), generator=generator)


@method()
@no_grad()
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill with 1 with probability p, else 0."""
    d = self.dtype if self.is_floating_point() else get_default_dtype()
    chance = p.to(d) if isinstance(p, Tensor) else self.new_full(self.shape, p, dtype=d)
    return self.copy_(bernoulli(chance.expand(self.shape).contiguous(), generator=generator))


# ---- dropout
@primitive(name="dropout_mask", torch=None)
def dropout_p(xp, x, key, out, *, p, channels):
    """x / (1 - p) where the mask of this key keeps it, else 0. ``channels``: one draw for each (sample, channel)."""
    shape = x.shape[:channels] + (1,) * (x.ndim - channels) if channels else x.shape
    n = 1
    for s in shape:
        n *= s
    keep = (philox.words(xp, key, n) >= xp.uint64(round(p * 2**32))).reshape(shape)
    xp.multiply(x, keep * x.dtype.type(1.0 / (1.0 - p) if p < 1 else 0.0), out)


dropout_p.spec(lambda x, key, *, p, channels: x.packed())


def _laid_out(compiled: Any, xp: Any, x: Any, key: Any, out: Any, **constants: Any) -> None:
    if out.flags.c_contiguous:  # gradients often come expanded
        compiled(xp.ascontiguousarray(x), xp.ascontiguousarray(key), out)
    else:
        dropout_p.op.fn(xp, x, key, out, **constants)


dropout_p.kernel("cpu", "dropout_mask")
dropout_p.kernel("cpu", "dropout_mask", around=_laid_out)
dropout_p.kernel("cuda", "random.dropout_mask", "", formats=ANY)
dropout_p.grad(x=lambda g, key, p, channels: dropout_p(g, key, p=p, channels=channels), key=None)


@dropout_p.cases
def _(make):
    yield dict(x=make(3, 4), key=make.tensor([7, 3], dtypes.int64), p=0.5, channels=0)
    yield dict(x=make(3, 4, 2, 2), key=make.tensor([7, 4], dtypes.int64), p=0.3, channels=2)
    yield dict(x=make(0, 4), key=make.tensor([7, 3], dtypes.int64), p=0.5, channels=0)
    yield dict(x=make(4), key=make.tensor([7, 3], dtypes.int64), p=1.0, channels=0)


@dropout_p.ref
def _(x, key, p, channels):
    shape = x.shape[:channels] if channels else x.shape
    kept = [w >= p * 2**32 for w in _reference_words(key, int(np.prod(shape)))]
    mask = np.reshape(kept, shape + (1,) * (x.ndim - len(shape)))
    return x * mask / (1 - p) if p < 1 else x * 0


def _dropout(name: str, input: Tensor, p: float, training: bool, inplace: bool, channels: int) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    key = take(device=input._spec.device)
    if inplace:
        return write_in_place(name + "_", input, lambda old: dropout_p(old, key, p=float(p), channels=channels))
    return dropout_p(input, key, p=float(p), channels=channels)


@op(torch=None)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p), while training.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 2014).
    """
    return _dropout("dropout", input, p, training, inplace, 0)


@dropout.cases
def _(make):
    yield dict(input=make(3, 4), p=0.0)
    yield dict(input=make(3, 4), p=1.0)
    yield dict(input=make(3, 4), training=False)
    yield ValueError, dict(input=make(3), p=1.5)


dropout.ref(lambda input, p=0.5, training=True: input * (p < 1 or not training))


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels (dimension 1) with probability p and scale the others by 1 / (1 - p), while training."""
    return _dropout("dropout2d", input, p, training, inplace, 2)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability p and scale the others by 1 / (1 - p)."""
    if input.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d: expected 2D or 3D input, but received a {input.ndim}D input")
    return _dropout("dropout1d", input, p, training, inplace, input.ndim - 1)


# -scale * alpha of selu: its value far below 0
_LOWEST = -1.7580993408473766


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Give each element selu's lowest value with probability p, then shift and scale to keep mean 0 and variance 1.

    Source: Klambauer et al., "Self-normalizing neural networks" (NeurIPS 2017).
    """
    if not 0 <= p <= 1:
        raise ValueError(f"alpha_dropout: dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    keep = input.new_full(input.shape, 1.0 - p).bernoulli()
    scale = 0.0 if p == 1 else ((1 - p) * (1 + p * _LOWEST**2)) ** -0.5

    def call(x: Tensor) -> Tensor:
        return (x * keep + (1.0 - keep) * _LOWEST) * scale - scale * p * _LOWEST

    return write_in_place("alpha_dropout_", input, call) if inplace else call(input)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn in proportion to the weights in each row of ``input`` (1-d or 2-d).

    Without replacement by the exponential trick: the largest of log(w) - log(-log(u)) (Efraimidis and Spirakis 2006).
    """
    weights = np.asarray(input.detach().cpu()._arr, np.float64)
    if weights.ndim not in (1, 2) or num_samples < 1:
        raise RuntimeError(
            f"multinomial: got {input._spec}, num_samples {num_samples}; wanted 1 or 2 dimensions and at "
            "least one sample"
        )
    rows = weights.reshape(-1, weights.shape[-1])
    if not np.isfinite(rows).all() or (rows < 0).any() or (rows.sum(1) <= 0).any():
        raise RuntimeError("multinomial: probability tensor contains either `inf`, `nan` or element < 0 (or sums to 0)")
    if not replacement and ((rows > 0).sum(1) < num_samples).any():
        raise RuntimeError("multinomial: cannot sample more than the number of non-zero weights without replacement")
    key = take(generator, input._spec.device).cpu()._arr
    if replacement:
        u = philox.uniform(np, key, len(rows) * num_samples, 53).reshape(len(rows), num_samples)
        ends = np.cumsum(rows, axis=1)
        picks = np.stack([np.searchsorted(e, v * e[-1], side="right") for e, v in zip(ends, u)])
        picks = np.minimum(picks, rows.shape[1] - 1)
    else:
        u = philox.uniform(np, key, rows.size, 53).reshape(rows.shape)
        with np.errstate(divide="ignore"):
            score = np.log(rows) - np.log(-np.log1p(-u))
        picks = np.argsort(-score, axis=1, kind="stable")[:, :num_samples]
    return placed(picks.reshape(*weights.shape[:-1], num_samples).astype(np.int64), input._spec.device)


method("multinomial")(multinomial)
