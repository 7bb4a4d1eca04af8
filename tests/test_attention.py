"""Attention of several heads, beside PyTorch and beside its own parts."""

import math

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn
from tensorlite.nn import functional as F

SETTINGS = {
    "plain": {},
    "without bias": dict(bias=False),
    "more keys": dict(add_bias_kv=True, add_zero_attn=True),
    "other sizes": dict(kdim=5, vdim=3),
    "batch first": dict(batch_first=True),
}
CALLS = {
    "plain": {},
    "no weights": dict(need_weights=False),
    "all weights": dict(average_attn_weights=False),
    "bool mask": dict(attn_mask="bool"),
    "float mask": dict(attn_mask="float"),
    "mask of each head": dict(attn_mask="heads", need_weights=False),
    "padding": dict(key_padding_mask=True),
    "padding and mask": dict(key_padding_mask=True, attn_mask="bool", need_weights=False),
    "causal": dict(attn_mask="causal", is_causal=True, need_weights=False),
    "unbatched": dict(unbatched=True, key_padding_mask=True),
}
N, L, S, E, HEADS = 2, 4, 4, 8, 2


def arguments(lib, call, rng):
    given = dict(call)
    given.pop("unbatched", None)
    mask = given.get("attn_mask")
    if mask == "bool":
        values = rng.random((L, S)) < 0.4
        values[:, 0] = False
        given["attn_mask"] = lib.tensor(values)
    elif mask == "float":
        given["attn_mask"] = lib.tensor(rng.standard_normal((L, S)))
    elif mask == "heads":
        given["attn_mask"] = lib.tensor(rng.standard_normal((N * HEADS, L, S)))
    elif mask == "causal":
        given["attn_mask"] = lib.tensor(np.triu(np.ones((L, S), bool), 1))
    if given.get("key_padding_mask"):
        values = np.array([[False, False, True, True], [False, False, False, True]])
        given["key_padding_mask"] = lib.tensor(values[0] if "unbatched" in call else values)
    return given


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings,call",
    # PyTorch takes the hint for the mask itself there, and hides the added keys; here the mask is what counts
    [(s, c) for s in SETTINGS for c in CALLS if (s, c) != ("more keys", "causal")],
)
def test_multihead_attention_is_pytorchs(settings, call):
    """State, repr, output, weights and all gradients: of self-attention, or of three inputs of other sizes."""
    torch = pytest.importorskip("torch")
    results = []
    mine = nn.MultiheadAttention(E, HEADS, **SETTINGS[settings]).double()
    for lib in (tl, torch):
        rng = np.random.default_rng(0)
        layer = mine if lib is tl else torch.nn.MultiheadAttention(E, HEADS, **SETTINGS[settings]).double()
        if lib is torch:
            layer.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
        first = SETTINGS[settings].get("batch_first")
        sizes = (E, SETTINGS[settings].get("kdim", E), SETTINGS[settings].get("vdim", E))

        def draw(rows, size, first=first, rng=rng, lib=lib):
            values = rng.standard_normal((rows, N, size))
            values = values[:, 0] if "unbatched" in CALLS[call] else values.swapaxes(0, 1) if first else values
            return lib.tensor(values.copy(), requires_grad=True)

        q = draw(L, E)
        inputs = [q, draw(S, sizes[1]), draw(S, sizes[2])] if sizes != (E, E, E) else [q] * 3
        y, weights = layer(*inputs, **arguments(lib, CALLS[call], rng))
        loss = (y * y).sum() + (0 if weights is None else (weights * weights).sum())
        loss.backward()
        results.append(
            [
                y.detach().numpy(),
                None if weights is None else weights.detach().numpy(),
                *(x.grad.numpy() for x in inputs),
                *(p.grad.numpy() for _, p in sorted(layer.named_parameters())),
                list(layer.state_dict()),
                repr(layer),
            ]
        )
    for a, b in zip(*results):
        if isinstance(a, np.ndarray):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
        else:
            assert a == b


def test_heads_are_attentions_side_by_side():
    layer = nn.MultiheadAttention(E, HEADS, batch_first=True).double()
    x = tl.rand(N, L, E, dtype=tl.float64)
    q, k, v = (
        t.reshape(N, L, HEADS, E // HEADS).transpose(1, 2) for t in F.linear(x, layer.in_proj_weight).chunk(3, -1)
    )
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, L, E)
    want = layer.out_proj(y)
    for need in (True, False):
        got, weights = layer(x, x, x, need_weights=need)
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-12)
    assert weights is None


def test_static_keys_and_first_values():
    tl.manual_seed(0)
    layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
    assert not layer.in_proj_bias.detach().numpy().any() and not layer.out_proj.bias.detach().numpy().any()
    bound = math.sqrt(6 / (64 + 192))
    weight = layer.in_proj_weight.detach().numpy()
    assert np.abs(weight).max() <= bound and weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    q = tl.rand(3, 1, 8)
    static = tl.rand(2, 5, 4)
    plain = nn.MultiheadAttention(8, 2)
    y, weights = F.multi_head_attention_forward(
        q,
        q,
        q,
        8,
        2,
        plain.in_proj_weight,
        plain.in_proj_bias,
        None,
        None,
        False,
        0.0,
        plain.out_proj.weight,
        plain.out_proj.bias,
        static_k=static,
        static_v=static,
    )
    assert y.shape == (3, 1, 8) and weights.shape == (1, 3, 5)


def test_dropped_weights_in_training_only():
    tl.manual_seed(0)
    layer = nn.MultiheadAttention(E, HEADS, dropout=0.5)
    x = tl.rand(L, N, E)
    _, weights = layer(x, x, x, average_attn_weights=False)
    dropped = (weights.detach().numpy() == 0).mean()
    assert 0.2 < dropped < 0.8
    _, weights = layer.eval()(x, x, x)
    assert (weights.detach().numpy() > 0).all()
    q = tl.rand(64, 4)
    y = F.scaled_dot_product_attention(q, q, tl.eye(64), dropout_p=0.25)
    assert 0.15 < (y.numpy() == 0).mean() < 0.35


@pytest.mark.parametrize(
    "call,error",
    [
        (lambda: nn.MultiheadAttention(7, 2), AssertionError),
        (lambda: nn.MultiheadAttention(0, 2), ValueError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(8)] * 3), AssertionError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(3, 1, 6)] * 3), AssertionError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(3, 1, 8)] * 3, is_causal=True), RuntimeError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(3, 1, 8)] * 3, attn_mask=tl.rand(2, 3)), RuntimeError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(3, 1, 8)] * 3, key_padding_mask=tl.rand(2, 3)), AssertionError),
        (lambda: nn.MultiheadAttention(8, 2)(*[tl.rand(3, 1, 8)] * 3, attn_mask=tl.ones(3, 3).long()), AssertionError),
    ],
)
def test_what_is_refused(call, error):
    with pytest.raises(error, match=r"wanted|should|expect|must|divisible|need|only"):
        call()


# ---- transformers
NETS = {
    "encoder layer": lambda n: n.TransformerEncoderLayer(E, HEADS, 16, dropout=0.0),
    "encoder layer, norm first": lambda n: n.TransformerEncoderLayer(
        E, HEADS, 16, 0.0, "gelu", norm_first=True, bias=False
    ),
    "encoder": lambda n: n.TransformerEncoder(
        n.TransformerEncoderLayer(E, HEADS, 16, dropout=0.0), 2, n.LayerNorm(E), enable_nested_tensor=False
    ),
    "decoder layer": lambda n: n.TransformerDecoderLayer(E, HEADS, 16, dropout=0.0, layer_norm_eps=1e-3),
    "decoder": lambda n: n.TransformerDecoder(n.TransformerDecoderLayer(E, HEADS, 16, dropout=0.0), 2),
    "transformer": lambda n: n.Transformer(E, HEADS, 1, 2, 16, dropout=0.0),
}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # PyTorch's, of a fast path that it does not take
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", list(NETS))
def test_transformers_are_pytorchs(name, masked):
    """State, repr, output and gradients in training."""
    torch = pytest.importorskip("torch")
    mine, results = NETS[name](nn).double(), []
    for lib in (tl, torch):
        rng = np.random.default_rng(0)
        net = mine if lib is tl else NETS[name](torch.nn).double()
        if lib is torch:
            net.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
        x, y = (lib.tensor(rng.standard_normal((rows, N, E)), requires_grad=True) for rows in (L, 3))
        mask = lib.nn.Transformer.generate_square_subsequent_mask(L, dtype=lib.float64)
        padding = lib.tensor(np.array([[0.0, 0.0, 0.0, -math.inf]] * N))
        if "encoder" in name:
            given, masks = (x,), dict(src_key_padding_mask=padding)
            masks["src_mask" if "layer" in name else "mask"] = mask
        elif "decoder" in name:
            given, masks = (x, y), dict(tgt_mask=mask, tgt_key_padding_mask=padding)
        else:
            given, masks = (y, x), dict(tgt_mask=mask)
        out = net(*given, **(masks if masked else {}))
        (out * out * lib.tensor(rng.standard_normal(tuple(out.shape)))).sum().backward()
        results.append(
            [
                out.detach().numpy(),
                *(t.grad.numpy() for t in given),
                *(p.grad.numpy() for _, p in sorted(net.named_parameters())),
                list(net.state_dict()),
                repr(net),
            ]
        )
    for a, b in zip(*results):
        if isinstance(a, np.ndarray):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
        else:
            assert a == b


def test_a_causal_encoder_sees_nothing_ahead():
    tl.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, HEADS, 16, batch_first=True), 2).eval()
    x = tl.rand(1, L, E)
    changed = x.clone()
    changed[:, -1] = 5.0
    mask = nn.Transformer.generate_square_subsequent_mask(L)
    a, b = (net(t, mask=mask, is_causal=True).detach().numpy() for t in (x, changed))
    np.testing.assert_array_equal(a[:, :-1], b[:, :-1])
    assert not np.allclose(a[:, -1], b[:, -1])
    assert net.layers[0].linear1.weight is not net.layers[1].linear1.weight
    with pytest.raises(RuntimeError, match="relu/gelu"):
        nn.TransformerEncoderLayer(E, HEADS, activation="tanh")
    with pytest.raises(RuntimeError, match="equal to d_model"):
        nn.Transformer(E, HEADS, 1, 1, 16)(tl.rand(3, 1, E), tl.rand(3, 1, E + 1))
