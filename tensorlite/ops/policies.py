"""What autocast does with each op, by device, as in PyTorch. Floor 3: imported when a region is first entered.

One table and not a line at each op: what matters is that the whole list agrees with PyTorch's, one for each device, and
that is seen where the lists stand side by side. Ops in no list take what comes: they promote as everywhere.
"""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.autocast import FLOAT32, KEEP, LOWER, REFUSE, WIDEST, route
from tensorlite.autograd.op import TABLE, Op
from tensorlite.autograd.primitive import Primitive

_BOTH = {
    # recurrent layers and cells too, of all kinds: PyTorch's GRU on the CPU takes the dtype of its state instead
    LOWER: "addmm attention baddbmm bmm conv1d conv2d conv_transpose1d conv_transpose2d gru_cell gru_layer linear "
    "lstm_cell lstm_layer matmul mm prelu rnn_layer rnn_relu_cell rnn_tanh_cell scaled_dot_product_attention",
    FLOAT32: "binary_cross_entropy_with_logits cdist cosine_embedding_loss cross_entropy hinge_embedding_loss "
    "huber_loss kl_div l1_loss margin_ranking_loss mse_loss nll_loss poisson_nll_loss prod smooth_l1_loss "
    "soft_margin_loss triplet_margin_loss",
    KEEP: "adaptive_avg_pool1d adaptive_avg_pool2d",  # made of products here, which are no products to PyTorch
}
_CPU = {
    FLOAT32: "binary_cross_entropy quantile trace",
    WIDEST: "cat index_copy stack",
    # products that PyTorch's list for the CPU leaves out, and ops that are made of others here alone
    KEEP: "cumprod dot index_fill interpolate mv roll",
}
_CUDA = {
    LOWER: "einsum mv",
    FLOAT32: "cosine_similarity cumprod cumsum exp expm1 group_norm interpolate layer_norm log log10 log1p log2 "
    "log_softmax logsumexp norm pow reciprocal rms_norm rsqrt softmax softplus square sum",
    WIDEST: "addcdiv addcmul atan2 dot index_put scatter_add",
    KEEP: "instance_norm trace",
    REFUSE: "binary_cross_entropy",
}
# primitives that other ops are made of, which keep the dtype they get: only the public function has the policy
_PUBLIC_ONLY = ("cumsum", "sum")


def policies() -> dict[str, dict[str, str]]:
    """op -> device -> policy."""
    found: dict[str, dict[str, str]] = {}
    for devices, lists in ((("cpu", "cuda"), _BOTH), (("cpu",), _CPU), (("cuda",), _CUDA)):
        for policy, names in lists.items():
            for name in names.split():
                for device in devices:
                    found.setdefault(name, {})[device] = policy
    return found


def functions(op: Op) -> list[Any]:
    """The functions that an op is called through, those around another left out."""
    if not isinstance(op, Primitive):
        return [op.fn]
    face = getattr(op.call, "__wrapped__", op.call)  # without its out=
    own = [] if op.name in _PUBLIC_ONLY else [op.function]
    return own if face is op.function or face.__closure__ else [*own, face]


def _declare() -> None:
    for name, by_device in policies().items():
        op = TABLE[name]
        if isinstance(op, Primitive) and not hasattr(op, "tracked"):
            op.finalize()  # its text replaces the code of its function: that comes before the exchange
        for function in functions(op):
            route(name, function, by_device)


_declare()
