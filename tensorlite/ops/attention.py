"""Attention: scaled dot products, and several heads of them between linear layers. Floor 3.

Source: Vaswani et al., "Attention is all you need" (NeurIPS 2017).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlite import dtypes
from tensorlite.autograd.methods import face, op
from tensorlite.autograd.modes import mode
from tensorlite.autograd.pick import ANY
from tensorlite.autograd.primitive import primitive
from tensorlite.autograd.spec import CONTIGUOUS, Spec
from tensorlite.autograd.tensor import Tensor, needs_grad
from tensorlite.dtypes import bool as boolean
from tensorlite.errors import DTypeError, ShapeError
from tensorlite.ops.activation import softmax_p
from tensorlite.ops.create import ones, zeros
from tensorlite.ops.join import cat
from tensorlite.ops.linalg import linear_p, matmul_p
from tensorlite.ops.random import dropout

_NAME = "scaled_dot_product_attention"


def _causal(scores: Tensor) -> Tensor:
    """True where a row may look: at itself and at what is before it."""
    return ones(*scores._spec.shape[-2:], dtype=boolean, device=scores.device).tril()


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(scores) over the last dimension under the mask; a row that may look nowhere has weights of 0."""
    dim = scores._spec.ndim - 1
    if mask is None:
        return softmax_p(scores, dim=dim)
    if mask.dtype is boolean:
        blind = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~(mask | blind), -math.inf)
    else:
        blind = (mask == -math.inf).all(-1, keepdim=True)
        scores = scores + mask.masked_fill(blind, 0.0)
    return softmax_p(scores, dim=dim).masked_fill(blind, 0.0)


def _attended(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout_p: float) -> Tensor:
    """The weights with which each query (..., L, E) looks at the keys (..., S, E): (..., L, S)."""
    scores = matmul_p(query * scale, key, tw=True)
    if causal:  # row 0 sees key 0, so that no row is blind
        seen = _causal(scores)
        weights = softmax_p(scores.masked_fill(~seen, -math.inf), dim=scores._spec.ndim - 1)
    else:
        weights = _weights(scores, mask)
    return dropout(weights, dropout_p) if dropout_p > 0 else weights


# ---- the whole of it as one op: no scores are kept
def _scores(xp: Any, q: Any, k: Any, mask: Any, causal: bool, scale: float) -> Any:
    scores = xp.matmul(q * scale, k.swapaxes(-1, -2))
    if causal:
        xp.copyto(scores, -np.inf, where=~xp.tri(*scores.shape[-2:], dtype=bool))
    if mask is None:
        return scores
    return xp.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask


@primitive(name="attention", torch=None)
def attention_p(xp, q, k, v, mask=None, out=None, out_lse=None, *, causal, scale):
    """softmax(q k' * scale + mask) v, 0 for rows that may look nowhere; and the logarithm of each row's sum."""
    scores = _scores(xp, q, k, mask, causal, scale)
    if scores.shape[-1]:
        top = scores.max(-1, keepdims=True)
        xp.copyto(top, 0, where=top == -np.inf)  # exp gives weights of 0 there, not nan
    else:
        top = xp.zeros((*scores.shape[:-1], 1), scores.dtype)
    weights = xp.exp(scores - top)
    total = xp.add.reduce(weights, axis=-1, keepdims=True)
    blind = total == 0
    out[...] = xp.matmul(weights, v) / xp.where(blind, 1, total)
    out_lse[...] = xp.where(blind, np.inf, top + xp.log(total))[..., 0]  # inf: the gradient finds weights of 0 again


@primitive(name="attention_dx", torch=None)
def attention_dx_p(
    xp, dy, q, k, v, y, lse, mask=None, out=None, out_dk=None, out_dv=None, *, causal, scale
):  # fmt: skip
    """The gradients of attention with respect to q, k and v, from its outputs."""
    weights = xp.exp(_scores(xp, q, k, mask, causal, scale) - lse[..., None])
    xp.matmul(weights.swapaxes(-1, -2), dy, out=out_dv)
    d = xp.matmul(dy, v.swapaxes(-1, -2))
    d -= (dy * y).sum(-1, keepdims=True)
    d *= weights
    d *= scale
    xp.matmul(d, k, out=out)
    xp.matmul(d.swapaxes(-1, -2), q, out=out_dk)


@attention_p.spec
def _(q, k, v, mask, *, causal, scale):
    lead = q.shape[:-1]
    return q.like(*lead, v.shape[-1]), q.like(*lead, dtype=dtypes.float32 if q.dtype.is_half else q.dtype)


attention_dx_p.spec(lambda dy, q, k, v, y, lse, mask, *, causal, scale: tuple(s.like(*s.shape) for s in (q, k, v)))
attention_p.op.silent_outputs = (1,)
attention_p.grad(mask=None)
attention_dx_p.nograd()  # where a second order is wanted, the gradient is made of other ops


@attention_p.grad
def _(g, q, k, v, mask, out, out_lse, causal, scale):
    dy = g[0]
    if not mode().grad:
        return (*attention_dx_p(dy, q, k, v, out, out_lse, mask, causal=causal, scale=scale), None)
    weights = _attended(q, k, mask, causal, scale, 0.0)
    d = matmul_p(dy, v, tw=True)
    d = weights * (d - (d * weights).sum(-1, keepdim=True)) * scale
    return matmul_p(d, k), matmul_p(d, q, tx=True), matmul_p(weights, dy, tx=True), None


def _rows(a: Any) -> Any:
    """The array, or a copy where the numbers of a row do not follow each other."""
    return a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a)


def _added(mask: Any, q: Any, k: Any) -> Any:
    """The mask as numbers to add, for every head; what is stretched over heads or rows is not copied."""
    if mask is None:
        return None
    if mask.dtype == bool:
        mask = np.where(mask, q.dtype.type(0), q.dtype.type(-np.inf))
    keys = k.shape[-2]
    return np.broadcast_to(np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:-1], keys))), (*q.shape[:-1], keys))


def _around(kernel, xp, q, k, v, mask, out, out_lse, *, causal, scale):
    kernel(_rows(q), _rows(k), _rows(v), _added(mask, q, k), out, out_lse)


def _dx_around(kernel, xp, dy, q, k, v, y, lse, mask, out, out_dk, out_dv, *, causal, scale):
    kernel(
        _rows(dy),
        _rows(q),
        _rows(k),
        _rows(v),
        *map(np.ascontiguousarray, (y, lse)),
        _added(mask, q, k),
        out,
        out_dk,
        out_dv,
    )


def _some(*specs: Spec, **_: Any) -> bool:
    return all(s is None or s.size > 0 for s in specs)


def _on_gpu(q: Spec, k: Spec, v: Spec, mask: Spec | None, **_: Any) -> bool:
    """Whether the CUDA kernels take these: heads of up to 128 numbers, up to three dimensions before the rows."""
    given = [s for s in (q, k, v, mask) if s is not None]
    one_dtype = all(s.dtype is q.dtype for s in given[:3]) and (mask is None or mask.dtype in (boolean, q.dtype))
    return _some(*given) and one_dtype and max(q.shape[-1], v.shape[-1]) <= 128 and q.ndim <= 5


def _dx_on_gpu(
    dy: Spec, q: Spec, k: Spec, v: Spec, y: Spec, lse: Spec, mask: Spec | None, **_: Any
) -> bool:  # fmt: skip
    return _on_gpu(q, k, v, mask) and all(s.format is CONTIGUOUS for s in (y, lse)) and dy.dtype is q.dtype


attention_p.kernel("cpu", "attention", when=_some, around=_around)
attention_dx_p.kernel("cpu", "attention_dx", when=_some, around=_dx_around)
attention_p.kernel("cuda", "attention.attention", "", when=_on_gpu, formats=ANY)
attention_dx_p.kernel("cuda", "attention.attention_dx", "", when=_dx_on_gpu, formats=ANY)


@face(attention_p)
def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False, scale: float = 1.0
) -> Tensor:
    """The first output of ``attention_p``."""
    return attention_p(q, k, v, mask, causal=causal, scale=scale)[0]


@attention_p.cases
def _(make):
    def qkv(*lead, rows=3, keys=4):
        return dict(q=make(*lead, rows, 2), k=make(*lead, keys, 2), v=make(*lead, keys, 3))

    seen = make.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]], boolean)
    yield dict(**qkv(), causal=False, scale=0.5)
    yield dict(**qkv(2, 2, rows=5), causal=True, scale=1.0)
    yield dict(**qkv(2), mask=seen, causal=False, scale=1.0)
    yield dict(**qkv(2), mask=make(2, 1, 4).detach(), causal=False, scale=1.0)
    yield dict(**qkv(0), causal=False, scale=1.0)


@attention_p.ref
def _(q, k, v, mask=None, *, causal, scale):
    return _reference(q, k, v, mask, causal, scale)[0]


def _reference(q, k, v, mask, causal, scale):
    y, lse = np.zeros((*q.shape[:-1], v.shape[-1])), np.full(q.shape[:-1], np.inf)
    for *head, i in np.ndindex(*q.shape[:-1]):
        at = tuple(head)
        scores = k[at] @ q[(*at, i)] * scale
        if mask is not None:
            row = np.broadcast_to(mask, (*q.shape[:-1], k.shape[-2]))[(*at, i)]
            scores = np.where(row, scores, -np.inf) if row.dtype == bool else scores + row
        if causal:
            scores[i + 1 :] = -np.inf
        if (scores > -np.inf).any():
            lse[(*at, i)] = np.logaddexp.reduce(scores)
            y[(*at, i)] = np.exp(scores - lse[(*at, i)]) @ v[at]
    return y, lse


@attention_dx_p.cases
def _(make):
    def whole(*lead, keys=4, mask=None, causal=False):
        q, k, v = make(*lead, 3, 2), make(*lead, keys, 2), make(*lead, keys, 3)
        how = dict(mask=mask, causal=causal, scale=0.7)
        values = [t._arr.astype(np.float64) for t in (q, k, v)]
        y, lse = _reference(*values, None if mask is None else mask._arr, causal, 0.7)
        wide = dtypes.float32 if q.dtype.is_half else q.dtype
        return dict(dy=make(*lead, 3, 3), q=q, k=k, v=v, y=make.tensor(y), lse=make.tensor(lse, wide), **how)

    yield whole()
    yield whole(2, 2, causal=True)
    yield whole(2, mask=make.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]], boolean))


@attention_dx_p.ref
def _(dy, q, k, v, y, lse, mask=None, *, causal, scale):
    # one query after the other
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for *head, i in np.ndindex(*q.shape[:-1]):
        at = tuple(head)
        scores = k[at] @ q[(*at, i)] * scale
        if mask is not None:
            scores = np.where(mask[i], scores, -np.inf)
        if causal:
            scores[i + 1 :] = -np.inf
        p = np.exp(scores - np.logaddexp.reduce(scores)) if (scores > -np.inf).any() else np.zeros(len(scores))
        d = p * (v[at] @ dy[(*at, i)] - dy[(*at, i)] @ y[(*at, i)]) * scale
        dq[(*at, i)] = d @ k[at]
        dk[at] += np.outer(d, q[(*at, i)])
        dv[at] += np.outer(p, dy[(*at, i)])
    return dq, dk, dv


def _alone(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether ``attention_p`` can do it: heads that need no stretching, and a mask without a gradient."""
    q, k, v = query._spec.shape, key._spec.shape, value._spec.shape
    if q[:-2] != k[:-2] or k[:-2] != v[:-2]:
        return False
    if mask is None:
        return True
    own, full = mask._spec.shape, (*q[:-1], k[-2])
    fits = len(own) <= len(full) and all(a in (1, b) for a, b in zip(own[::-1], full[::-1]))
    return fits and len(own) > 0 and not needs_grad(mask)


@op(torch="nn.functional.scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value, where ``scale`` is 1 / sqrt(E) unless said.

    query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V); the dimensions before them broadcast.
    ``attn_mask`` stretches to (..., L, S): bool, True where a query may look, or numbers that are added to the scores.
    A query that may look nowhere gets zeros. ``is_causal`` lets query i look at keys 0 to i. ``dropout_p`` drops
    weights (give 0 when not training). With ``enable_gqa`` key and value have fewer heads (dimension -3) than query,
    and each serves several.

    >>> import tensorlite as tl
    >>> x = tl.eye(2)
    >>> tl.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True, scale=1.0)
    tensor([[1.0000, 0.0000],
            [0.2689, 0.7311]])
    """
    q, k, v = query._spec, key._spec, value._spec
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ShapeError(
            f"{_NAME}: query {q.shape}, key {k.shape}, value {v.shape}; wanted 2 dimensions or more, all to be at "
            "least 2 dimensional"
        )
    if not (q.dtype is k.dtype is v.dtype) or not q.dtype.is_floating_point:
        raise DTypeError(
            f"{_NAME}: query is {q.dtype.name}, key {k.dtype.name}, value {v.dtype.name}; wanted one floating-point "
            "dtype"
        )
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            f"{_NAME}: query {q.shape}, key {k.shape}, value {v.shape}; wanted (..., L, E), (..., S, E), (..., S, V)"
        )
    if attn_mask is not None:
        if is_causal:
            raise RuntimeError(f"{_NAME}: got attn_mask and is_causal; explicit attn_mask should not be set then")
        if attn_mask.dtype is not boolean and attn_mask.dtype is not q.dtype:
            raise DTypeError(
                f"{_NAME}: attn_mask is {attn_mask.dtype.name}; wanted bool or {q.dtype.name}, the query's dtype"
            )
    if enable_gqa:
        key, value = _served(query, key), _served(query, value)
    scale = (1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0) if scale is None else float(scale)
    if dropout_p <= 0 and _alone(query, key, value, attn_mask):
        return _attend(query, key, value, attn_mask, causal=bool(is_causal), scale=scale)
    return matmul_p(_attended(query, key, attn_mask, is_causal, scale, dropout_p), value)


def _served(query: Tensor, shared: Tensor) -> Tensor:
    """Keys or values of fewer heads, each repeated for the query heads that it serves."""
    q, shape = query._spec.shape, shared._spec.shape
    if len(q) < 3 or len(shape) < 3 or not shape[-3] or q[-3] % shape[-3]:
        raise ShapeError(
            f"{_NAME}: query {q} beside {shape} with enable_gqa; number of heads in key and value must divide the "
            "number of heads in query"
        )
    times = q[-3] // shape[-3]
    spread = shared.unsqueeze(-3).expand(*shape[:-2], times, *shape[-2:])
    return spread.reshape(*shape[:-3], q[-3], *shape[-2:])


@scaled_dot_product_attention.cases
def _(make):
    def qkv(*lead, rows=3, keys=4):
        return dict(query=make(*lead, rows, 2), key=make(*lead, keys, 2), value=make(*lead, keys, 3))

    seen = [[True, False, True, True], [False, True, False, False], [True, True, True, True]]
    yield dict(**qkv())
    yield dict(**qkv(2, 2))
    yield dict(**qkv(2), scale=0.3)
    yield dict(**qkv(2, 2), is_causal=True)
    yield dict(**qkv(rows=5), is_causal=True)
    yield dict(**qkv(2), attn_mask=make.tensor(seen, boolean))
    yield dict(**qkv(2), attn_mask=make.tensor([seen[0], [False] * 4, seen[2]], boolean))
    yield dict(**qkv(2, 2), attn_mask=make.tensor([[seen], [seen]], boolean))
    yield dict(**qkv(2), attn_mask=make(3, 4))
    yield dict(**qkv(2), attn_mask=make(2, 1, 4))
    yield dict(query=make(2, 4, 3, 2), key=make(2, 2, 5, 2), value=make(2, 2, 5, 3), enable_gqa=True)
    yield dict(query=make(3, 2, 2), key=make(1, 4, 2), value=make(1, 4, 2))
    yield dict(**qkv(0))
    yield RuntimeError, dict(query=make(2), key=make(2), value=make(2))
    yield RuntimeError, dict(query=make(3, 2), key=make(4, 3), value=make(4, 3))
    yield RuntimeError, dict(**qkv(), attn_mask=make.ints(3, 4))
    yield RuntimeError, dict(**qkv(), attn_mask=make(3, 4), is_causal=True)
    yield RuntimeError, dict(query=make.ints(3, 2), key=make.ints(3, 2), value=make.ints(3, 2))
    yield RuntimeError, dict(query=make(4, 3, 2), key=make(3, 3, 2), value=make(3, 3, 2), enable_gqa=True)


@scaled_dot_product_attention.ref
def _(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    if enable_gqa:
        key, value = (np.repeat(t, query.shape[-3] // key.shape[-3], -3) for t in (key, value))
    scores = np.einsum("...le,...se->...ls", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = np.where(np.arange(scores.shape[-2])[:, None] >= np.arange(scores.shape[-1]), scores, -np.inf)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    powers = np.exp(scores)
    total = powers.sum(-1, keepdims=True)
    return np.einsum("...ls,...sv->...lv", powers / np.where(total == 0, 1, total), value)


# ---- several heads
def _float_mask(name: str, mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask of numbers to add: a bool one has -inf where True says that nobody may look."""
    if mask is None or mask.dtype is like.dtype:
        return mask
    if mask.dtype is boolean:
        return zeros(mask._spec.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, -math.inf)
    if mask.is_floating_point():
        return mask.to(like.dtype)
    raise AssertionError(f"multi_head_attention_forward: {name} is {mask.dtype.name}; only bool and floating types")


def _projected(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None, separate: tuple | None
) -> list[Tensor]:
    """Query, key and value through their linear layers, in one product where all are one tensor."""
    e = query._spec.shape[-1]
    if separate is None and weight is not None and key is value and query is key:
        return list(linear_p(query, weight, bias).split(e, -1))
    weights = separate or weight.split(e)  # type: ignore[union-attr]
    biases = (None,) * 3 if bias is None else bias.split(e)
    return [linear_p(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of ``num_heads`` heads between linear layers: what ``nn.MultiheadAttention`` computes.

    query (L, N, E), key (S, N, EK), value (S, N, EV), or all without N -> (L, N, E) or (L, E), and the weights
    (N, L, S), averaged over heads or (N, heads, L, S), or None. Masks are bool, True where one may *not* look, or
    numbers to add: ``key_padding_mask`` (N, S), ``attn_mask`` (L, S) or (N heads, L, S). ``static_k`` and
    ``static_v``, (N heads, S, E / heads), take the place of projected keys and values.
    """
    name, batched = "multi_head_attention_forward", query._spec.ndim == 3
    if query._spec.ndim not in (2, 3) or any(t._spec.ndim != query._spec.ndim for t in (key, value)):
        raise AssertionError(
            f"{name}: query, key, value have {query._spec.ndim}, {key._spec.ndim}, {value._spec.ndim} dimensions; "
            "query should be unbatched 2D or batched 3D tensor, and key and value as query"
        )
    same = key is query and value is key
    if not batched:
        query = query.unsqueeze(1)
        key, value = (query, query) if same else (key.unsqueeze(1), value.unsqueeze(1))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    (rows, n, e), keys = query._spec.shape, key._spec.shape[0]
    head = e // num_heads
    if e != embed_dim_to_check:
        raise AssertionError(f"{name}: was expecting embedding dimension of {embed_dim_to_check}, but got {e}")
    if head * num_heads != e:
        raise AssertionError(f"{name}: embed_dim {e} not divisible by num_heads {num_heads}")
    if key._spec.shape[:2] != value._spec.shape[:2] or key._spec.shape[1] != n:
        raise AssertionError(
            f"{name}: key {key._spec.shape}, value {value._spec.shape} for query {query._spec.shape}; wanted one "
            "sequence length of key and value, and one batch size of all"
        )
    if is_causal and attn_mask is None:
        raise RuntimeError(f"{name}: got is_causal alone; need attn_mask if specifying the is_causal hint.")

    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias, separate)
    mask = _float_mask("attn_mask", attn_mask, q)
    padding = _float_mask("key_padding_mask", key_padding_mask, q)
    if mask is not None:
        wanted = {2: (rows, keys), 3: (n * num_heads, rows, keys)}.get(mask._spec.ndim)
        if mask._spec.shape != wanted:
            raise RuntimeError(
                f"{name}: the shape of the attn_mask is {mask._spec.shape}, but should be "
                f"{(rows, keys)} or {(n * num_heads, rows, keys)}"
            )
        mask = mask if mask._spec.ndim == 2 else mask.reshape(n, num_heads, rows, keys)
    if padding is not None:
        if padding._spec.shape != (n, keys):
            raise AssertionError(
                f"{name}: expecting key_padding_mask shape of {(n, keys)}, but got {padding._spec.shape}"
            )
        padding = padding.reshape(n, 1, 1, keys)

    extra = 0
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError(f"{name}: got bias_k with static_k or static_v; bias cannot be added to static keys")
        k, v = (cat([t, b.expand(1, n, e)]) for t, b in ((k, bias_k), (v, bias_v)))
        extra += 1
    q = q.reshape(rows, n, num_heads, head).permute(1, 2, 0, 3)
    k, v = (
        _heads(t, n, num_heads, head) if static is None else _static(what, static, n, num_heads, head)
        for what, t, static in (("static_k", k, static_k), ("static_v", v, static_v))
    )
    if add_zero_attn:
        nothing = zeros(n, num_heads, 1, head, dtype=q.dtype, device=q.device)
        k, v = cat([k, nothing], 2), cat([v, nothing], 2)
        extra += 1
    if extra:  # what was added is seen by all
        mask, padding = (
            None if t is None else cat([t, zeros(*t._spec.shape[:-1], extra, dtype=t.dtype, device=t.device)], -1)
            for t in (mask, padding)
        )
    if padding is not None:
        mask = padding if mask is None else mask + padding

    dropped, scale = training and dropout_p > 0, 1 / math.sqrt(head)
    if not (need_weights or dropped) and _alone(q, k, v, mask):
        y = _attend(q, k, v, mask, scale=scale).permute(2, 0, 1, 3).reshape(rows, n, e)
        y = linear_p(y, out_proj_weight, out_proj_bias)
        return (y if batched else y.squeeze(1)), None
    scores = matmul_p(q * scale, k, tw=True)
    if need_weights:  # a row that may look nowhere is nan here and 0 without weights, as in PyTorch
        scores = scores if mask is None else scores + mask
        weights = softmax_p(scores, dim=3)
    else:
        weights = _weights(scores, mask)
    if dropped:
        weights = dropout(weights, dropout_p)
    y = matmul_p(weights, v).permute(2, 0, 1, 3).reshape(rows, n, e)
    y = linear_p(y, out_proj_weight, out_proj_bias)
    y = y if batched else y.squeeze(1)
    if not need_weights:
        return y, None
    weights = weights.mean(1) if average_attn_weights else weights
    return y, weights if batched else weights.squeeze(0)


def _heads(x: Tensor, n: int, heads: int, head: int) -> Tensor:
    """(S, N, E) as (N, heads, S, E / heads)."""
    return x.reshape(x._spec.shape[0], n, heads, head).permute(1, 2, 0, 3)


def _static(what: str, x: Tensor, n: int, heads: int, head: int) -> Tensor:
    shape = x._spec.shape
    if len(shape) != 3 or shape[0] != n * heads or shape[2] != head:
        raise AssertionError(f"multi_head_attention_forward: {what} {shape}; expecting ({n * heads}, S, {head})")
    return x.reshape(n, heads, shape[1], head)
