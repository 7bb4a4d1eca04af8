"""Attention layers. Floor 5."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.tensor import Tensor
from tensorlite.nn import functional as F, init
from tensorlite.nn.linear import Linear
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Parameter
from tensorlite.ops.create import empty


class NonDynamicallyQuantizableLinear(Linear):
    """A Linear under the name that PyTorch gives the last layer of an attention."""


class MultiheadAttention(Module):
    """num_heads attentions side by side, each over its own projections of query, key and value.

    forward(query, key, value) takes (L, N, E), (S, N, kdim), (S, N, vdim), with ``batch_first`` (N, L, E) and so on, or
    all without N, and gives the output, shaped as the query, and the weights (N, L, S), which are averaged over the
    heads unless ``average_attn_weights=False`` (N, num_heads, L, S) and None with ``need_weights=False``. In masks
    True, or -inf, says that nobody may look: ``key_padding_mask`` (N, S), ``attn_mask`` (L, S) or
    (N * num_heads, L, S).

    >>> import tensorlite as tl
    >>> x = tl.rand(2, 5, 8)
    >>> y, weights = tl.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> y.shape, weights.shape
    (tensorlite.Size([2, 5, 8]), tensorlite.Size([2, 5, 5]))

    Args:
        embed_dim: E, split evenly among the heads.
        num_heads: how many.
        dropout: how many of the weights are dropped in training.
        bias: whether the projections have biases.
        add_bias_kv: learn one more key and value that all queries see.
        add_zero_attn: one more key and value of zeros.
        kdim, vdim: the sizes of keys and values where they are not E.
        batch_first: whether N is the first dimension.
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        super().__init__()
        place = dict(device=device, dtype=dtype)
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.head_dim, self.add_zero_attn = embed_dim // num_heads, add_zero_attn
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        one = self._qkv_same_embed_dim
        for name, shape in (
            ("q_proj_weight", None if one else (embed_dim, embed_dim)),
            ("k_proj_weight", None if one else (embed_dim, self.kdim)),
            ("v_proj_weight", None if one else (embed_dim, self.vdim)),
            ("in_proj_weight", (3 * embed_dim, embed_dim) if one else None),
            ("in_proj_bias", (3 * embed_dim,) if bias else None),
            ("bias_k", (1, 1, embed_dim) if add_bias_kv else None),
            ("bias_v", (1, 1, embed_dim) if add_bias_kv else None),
        ):
            self.register_parameter(name, None if shape is None else Parameter(empty(shape, **place)))
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, **place)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for w in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if w is not None:
                init.xavier_uniform_(w)
        for b in (self.in_proj_bias, self.out_proj.bias):
            if b is not None:
                init.zeros_(b)
        for b in (self.bias_k, self.bias_v):
            if b is not None:
                init.xavier_normal_(b)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        turn = self.batch_first and query.ndim == 3
        if turn:  # one tensor stays one: it is projected in one product
            turned = {id(t): t.transpose(0, 1) for t in (query, key, value)}
            query, key, value = (turned[id(t)] for t in (query, key, value))
        y, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (y.transpose(0, 1) if turn else y), weights
