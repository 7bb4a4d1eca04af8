"""Philox4x32-10: random words from a key and a counter, the same on every device. Floor 3.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Word w of block b of
call c under seed s depends on (s, c, b, w) alone, not on how many threads there are or in what order they run.

Uniforms are words cut to the mantissa. Normals (Box-Muller) use only +, -, *, /, sqrt and floor in float64, in a fixed
order without contraction, so that a GPU can give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def rounds(c0: Any, c1: Any, c2: Any, c3: Any, k0: int, k1: int) -> tuple:
    """Ten rounds on four counters (uint64 arrays below 2**32, or Python ints) under a key of two words."""
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def words(xp: Any, key: Any, n: int) -> Any:
    """The first n words (as uint64 below 2**32) of the call that ``key`` = (seed, call), int64, stands for."""
    blocks = -(-n // 4)
    seed, call = (int(v) & (2**64 - 1) for v in key)
    if blocks == 1:  # a few Python ints are cheaper than arrays of one element
        out = rounds(0, 0, call & _LOW, call >> 32, seed & _LOW, seed >> 32)
        return xp.asarray(out, xp.uint64)[:n]
    b = xp.arange(blocks, dtype=xp.uint64)
    zero = xp.zeros(blocks, xp.uint64)
    parts = rounds(
        b & xp.uint64(_LOW), b >> xp.uint64(32), zero + (call & _LOW), zero + (call >> 32), seed & _LOW, seed >> 32
    )
    return xp.stack(parts, axis=1).reshape(-1)[:n]


def uniform(xp: Any, key: Any, n: int, bits: int) -> Any:
    """n numbers in [0, 1), multiples of 2**-bits: bits is 24 for float32, 53 for float64, 11 and 8 for halves."""
    if bits <= 32:
        return (words(xp, key, n) >> xp.uint64(32 - bits)).astype(xp.float64) * 2.0**-bits
    w = words(xp, key, 2 * n).reshape(n, 2)
    high, low = w[:, 0] >> xp.uint64(5), w[:, 1] >> xp.uint64(6)
    return (high * xp.uint64(2**26) + low).astype(xp.float64) * 2.0**-53


def integers(xp: Any, key: Any, n: int) -> Any:
    """n integers of 64 bits, as uint64."""
    w = words(xp, key, 2 * n).reshape(n, 2)
    return (w[:, 0] << xp.uint64(32)) | w[:, 1]


# 1/3, 1/5, ... of log((1 + f) / (1 - f)) / 2 = f + f^3/3 + f^5/5 + ...; |f| < 0.1716, so the rest is below 1e-17
_LOG = [1.0 / k for k in range(21, 0, -2)]
# Taylor's series of sin(r) / r and cos(r) in r^2; |r| <= pi / 4, so the rest is below 1e-17
_SIN = [
    1.0,
    -1.0 / 6,
    1.0 / 120,
    -1.0 / 5040,
    1.0 / 362880,
    -1.0 / 39916800,
    1.0 / 6227020800,
    -1.0 / 1307674368000,
    1.0 / 355687428096000,
][::-1]
_COS = [
    1.0,
    -1.0 / 2,
    1.0 / 24,
    -1.0 / 720,
    1.0 / 40320,
    -1.0 / 3628800,
    1.0 / 479001600,
    -1.0 / 87178291200,
    1.0 / 20922789888000,
][::-1]
_HALF_PI, _LN2 = 1.5707963267948966, 0.6931471805599453


def _horner(coefficients: list, t: Any) -> Any:
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * t + c
    return y


def natural_log(xp: Any, x: Any) -> Any:
    """log(x) for normal positive float64, by +, -, * and / alone."""
    m, e = xp.frexp(x)  # m in [1/2, 1)
    small = m < 0.7071067811865476
    m, e = xp.where(small, m * 2.0, m), e - small
    f = (m - 1.0) / (m + 1.0)
    return e * _LN2 + 2.0 * (f * _horner(_LOG, f * f))


def turn(xp: Any, u: Any) -> tuple:
    """cos and sin of 2 pi u for u in [0, 1)."""
    t = u * 4.0
    q = xp.floor(t + 0.5)
    r = (t - q) * _HALF_PI
    s, c = r * _horner(_SIN, r * r), _horner(_COS, r * r)
    q = q.astype(xp.int64) & 3
    cos = xp.where(q == 0, c, xp.where(q == 1, -s, xp.where(q == 2, -c, s)))
    sin = xp.where(q == 0, s, xp.where(q == 1, c, xp.where(q == 2, -s, -c)))
    return cos, sin


def normal(xp: Any, key: Any, n: int, bits: int) -> Any:
    """n numbers from the standard normal distribution, as float64. Numbers 2k and 2k + 1 come from one pair."""
    pairs = -(-n // 2)
    u = uniform(xp, key, 2 * pairs, 32 if bits <= 32 else 53).reshape(pairs, 2)
    radius = xp.sqrt(natural_log(xp, 1.0 - u[:, 0]) * -2.0)
    cos, sin = turn(xp, u[:, 1])
    return xp.stack([radius * cos, radius * sin], axis=1).reshape(-1)[:n]


__all__ = ["integers", "natural_log", "normal", "np", "rounds", "turn", "uniform", "words"]
