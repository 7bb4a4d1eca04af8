"""Autocast: dtypes beside PyTorch's, regions, kept casts, recorded programs. Nothing of it where no region is open."""

import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.autograd import autocast as casting, tracing
from tensorlite.autograd.cases import Make
from tensorlite.autograd.op import TABLE
from tensorlite.ops import policies

F = tl.nn.functional
BF, F16, F32, F64 = tl.bfloat16, tl.float16, tl.float32, tl.float64


def some(*shape, seed=0, low=0.1):
    return tl.tensor(np.random.default_rng(seed).uniform(low, 1.0, shape).astype(np.float32))


# ---- dtypes beside PyTorch's
LABELS = np.array([0, 2, 1])
CALLS = {  # name -> what is called with (library, float32 tensor maker); results' dtypes must agree
    "matmul": lambda t, x: t.matmul(x(3, 4), x(4, 5)),
    "matmul, vectors": lambda t, x: t.matmul(x(4), x(4)),
    "operator": lambda t, x: x(3, 4) @ x(4, 5).bfloat16(),
    "method": lambda t, x: x(3, 4).matmul(x(4, 5)),
    "mm": lambda t, x: t.mm(x(3, 4), x(4, 5)),
    "bmm": lambda t, x: t.bmm(x(2, 3, 4), x(2, 4, 5)),
    "mv": lambda t, x: t.mv(x(3, 4), x(4)),
    "dot": lambda t, x: t.dot(x(4), x(4)),
    "outer": lambda t, x: t.outer(x(4), x(4)),
    "addmm": lambda t, x: t.addmm(x(5), x(3, 4), x(4, 5)),
    "baddbmm": lambda t, x: t.baddbmm(x(2, 3, 5), x(2, 3, 4), x(2, 4, 5)),
    "einsum": lambda t, x: t.einsum("ij,kj->ik", x(3, 4), x(5, 4)),
    "einsum, products": lambda t, x: t.einsum("ij,ij->ij", x(3, 4), x(3, 4)),
    "linear": lambda t, x: t.nn.functional.linear(x(3, 4), x(5, 4), x(5)),
    "linear by name": lambda t, x: t.nn.functional.linear(input=x(3, 4), weight=x(5, 4), bias=x(5)),
    "linear of float64": lambda t, x: t.nn.functional.linear(x(3, 4).double(), x(5, 4).double()),
    "nn.Linear": lambda t, x: t.nn.Linear(4, 5)(x(3, 4)),
    "conv1d": lambda t, x: t.nn.functional.conv1d(x(2, 3, 8), x(4, 3, 3), x(4)),
    "conv2d": lambda t, x: t.nn.functional.conv2d(x(2, 3, 6, 6), x(4, 3, 3, 3), x(4)),
    "conv_transpose1d": lambda t, x: t.nn.functional.conv_transpose1d(x(2, 3, 8), x(3, 4, 3)),
    "conv_transpose2d": lambda t, x: t.nn.functional.conv_transpose2d(x(2, 3, 6, 6), x(3, 4, 3, 3)),
    "attention": lambda t, x: t.nn.functional.scaled_dot_product_attention(x(2, 3, 4), x(2, 3, 4), x(2, 3, 4)),
    "MultiheadAttention": lambda t, x: t.nn.MultiheadAttention(4, 2)(x(3, 2, 4), x(3, 2, 4), x(3, 2, 4)),
    "prelu": lambda t, x: t.nn.functional.prelu(x(3, 4), x(1)),
    "LSTM": lambda t, x: t.nn.LSTM(4, 5)(x(3, 2, 4))[0],
    "LSTM of bfloat16": lambda t, x: t.nn.LSTM(4, 5)(x(3, 2, 4).bfloat16())[0],
    "RNN": lambda t, x: t.nn.RNN(4, 5)(x(3, 2, 4))[0],
    "RNNCell": lambda t, x: t.nn.RNNCell(4, 5)(x(3, 4)),
    "cross_entropy": lambda t, x: t.nn.functional.cross_entropy(x(3, 4).bfloat16(), t.tensor(LABELS)),
    "nll_loss": lambda t, x: t.nn.functional.nll_loss(x(3, 4).bfloat16(), t.tensor(LABELS)),
    "cosine_embedding_loss": lambda t, x: t.nn.functional.cosine_embedding_loss(
        x(3, 4).bfloat16(), x(3, 4).bfloat16(), t.ones(3)
    ),
    "triplet_margin_loss": lambda t, x: t.nn.functional.triplet_margin_loss(*[x(3, 4).bfloat16() for _ in range(3)]),
    "margin_ranking_loss": lambda t, x: t.nn.functional.margin_ranking_loss(*[x(3, 4).bfloat16() for _ in range(3)]),
    "cdist": lambda t, x: t.cdist(x(3, 4).bfloat16(), x(2, 4).bfloat16()),
    "prod": lambda t, x: x(3, 4).bfloat16().prod(),
    "prod of a dtype": lambda t, x: x(3, 4).bfloat16().prod(dtype=t.bfloat16),
    "trace": lambda t, x: t.trace(x(3, 3).bfloat16()),
    "quantile": lambda t, x: t.quantile(x(3, 4).bfloat16(), 0.5),
    "cat": lambda t, x: t.cat([x(3, 4), x(3, 4).bfloat16()]),
    "cat of one dtype": lambda t, x: t.cat([x(3, 4).bfloat16(), x(3, 4).bfloat16()]),
    "stack": lambda t, x: t.stack([x(3, 4), x(3, 4).bfloat16()]),
    "index_copy": lambda t, x: t.index_copy(x(3, 4), 0, t.tensor([1]), x(1, 4).bfloat16()),
    "addcmul": lambda t, x: t.addcmul(x(3), x(3).bfloat16(), x(3).bfloat16()),
    "layer_norm": lambda t, x: t.nn.functional.layer_norm(x(3, 4).bfloat16(), (4,), x(4), x(4)),
    "group_norm": lambda t, x: t.nn.functional.group_norm(x(3, 4).bfloat16(), 2, x(4), x(4)),
    "batch_norm": lambda t, x: t.nn.functional.batch_norm(x(3, 4).bfloat16(), x(4), x(4), x(4), x(4), True),
    "embedding": lambda t, x: t.nn.functional.embedding(t.tensor([1]), x(3, 4)),
    "integers": lambda t, x: t.ones(2, 2, dtype=t.int64) @ t.ones(2, 2, dtype=t.int64),
    "in place": lambda t, x: x(3, 4).add_(x(3, 4).bfloat16()),
    "power": lambda t, x: x(3, 4).bfloat16() ** 2.5,
    "a module": lambda t, x: t.nn.Sequential(t.nn.Linear(4, 3), t.nn.ReLU(), t.nn.Linear(3, 2), t.nn.Softmax(1))(
        x(3, 4)
    ),
}
LOSSES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "binary_cross_entropy", "soft_margin_loss",
    "binary_cross_entropy_with_logits", "poisson_nll_loss", "hinge_embedding_loss",
)  # fmt: skip
for _loss in LOSSES:
    CALLS[_loss] = lambda t, x, f=_loss: getattr(t.nn.functional, f)(
        x(3, 4).bfloat16(), x(3, 4).bfloat16(), reduction="sum"
    )
    CALLS[_loss + ", two dtypes"] = lambda t, x, f=_loss: getattr(t.nn.functional, f)(
        x(3, 4).bfloat16(), x(3, 4), reduction="sum"
    )
for _each in ("exp", "log", "sum", "norm", "rsqrt", "square", "var", "mean", "sigmoid", "relu"):
    CALLS[_each] = lambda t, x, f=_each: getattr(x(3, 4).bfloat16(), f)()
for _each in ("cumsum", "cumprod", "logsumexp", "softmax"):
    CALLS[_each] = lambda t, x, f=_each: getattr(x(3, 4).bfloat16(), f)(1)


def _dtypes(made):
    return [str(y.dtype).partition(".")[2] for y in (made if isinstance(made, tuple) else (made,))]


@pytest.mark.parity
@pytest.mark.parametrize("lower", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CALLS)
def test_dtypes_are_those_of_pytorch_on_the_cpu(name, lower):
    torch = pytest.importorskip("torch")
    if lower == "float16" and "bfloat16" in name:
        pytest.skip("PyTorch refuses a sequence in another half type than its weights")
    call = CALLS[name]
    with torch.autocast("cpu", dtype=getattr(torch, lower)):
        try:
            theirs = _dtypes(call(torch, lambda *shape: torch.full(shape, 0.5)))
        except RuntimeError as error:  # two half types at once, which PyTorch's cat and its like refuse
            pytest.skip(f"PyTorch refuses it: {error}")
    with tl.autocast("cpu", dtype=getattr(tl, lower)):
        assert _dtypes(call(tl, lambda *shape: tl.full(shape, 0.5))) == theirs


PYTORCH_MACROS = {
    "LOWER_PRECISION_FP": "lower",
    "FP32": "float32",
    "FP32_SET_OPT_DTYPE": "float32",
    "PROMOTE": "widest",
}


@pytest.mark.parity
def test_the_list_for_gpus_is_pytorchs():
    """PyTorch's header has its list for CUDA: each op of it that we have has that policy, and no op another."""
    torch = pytest.importorskip("torch")
    text = (Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h").read_text(encoding="utf-8")
    theirs = {"norm": "float32"}  # of the macro for those whose signature differs
    for macro, policy in PYTORCH_MACROS.items():
        body = re.search(rf"#define AT_FORALL_{macro}\(_\)(.*?)\n\n", text, re.S).group(1)
        theirs |= dict.fromkeys(re.findall(r"\n\s*_\((\w+)", body), policy)
    ours = {name: by["cuda"] for name, by in policies.policies().items() if "cuda" in by}
    for name, policy in theirs.items():
        if name in TABLE:
            assert ours.get(name) == policy, name
    # further ones: parts and wholes of ops on the list
    more = {name for name in ours if name not in theirs and ours[name] != "keep"}
    assert more == {
        "attention", "gru_layer", "lstm_layer", "rnn_layer",  # of attention and recurrent nets, lowered by cuDNN
        "cross_entropy", "interpolate", "square", "binary_cross_entropy",
    }  # fmt: skip


def test_dtypes_on_the_cpu():
    """Some of them without PyTorch: products, losses, what promotes, and all others as they come."""
    x, half = some(3, 4), some(3, 4).bfloat16()
    with tl.autocast("cpu"):
        for y in (x @ x.t(), F.linear(x, x), tl.mm(x, half.t()), tl.nn.Linear(4, 2)(x), tl.nn.LSTM(4, 2)(x)[0]):
            assert y.dtype is BF
        for y in (F.mse_loss(half, half), F.cross_entropy(half, tl.tensor([0, 1, 2])), tl.cat([x, half]), x.softmax(1)):
            assert y.dtype is F32
        assert half.softmax(1).dtype is BF and (half + x).dtype is F32 and F.linear(x.double(), x.double()).dtype is F64


def test_names_of_older_programs():
    from tensorlite.cuda.amp import GradScaler, autocast

    assert issubclass(GradScaler, tl.amp.GradScaler) and issubclass(autocast, tl.autocast)
    assert tl.amp.autocast_mode.autocast is tl.amp.autocast is tl.autocast
    with autocast(enabled=False):
        assert tl.get_autocast_dtype("cuda") is F16
    assert not GradScaler(enabled=False).is_enabled()
    with pytest.raises(AttributeError, match="nothing"):
        _ = tl.cuda.nothing


def test_policies_of_a_gpu_give_their_dtypes():
    """The list for "cuda", tried on tensors of the CPU: the same watchers, by another device."""
    x, half = some(3, 4), some(3, 4).half()
    state = casting.Autocast(cpu=True, cpu_dtype=F16)
    wanted = {"lower": F16, "float32": F32, "widest": F32}
    calls = {
        "exp": (half,), "softmax": (half, 1), "log_softmax": (half, 1), "sum": (half,), "cumsum": (half, 1),
        "layer_norm": (half, (4,), some(4), some(4)), "rms_norm": (half, (4,), some(4)), "pow": (half, 2.5),
        "norm": (half,), "logsumexp": (half, 1), "softplus": (half,), "linear": (x, some(5, 4)),
        "einsum": ("ij,ij->i", x, half), "addcmul": (x, half, half), "atan2": (x, half), "square": (half,),
        "group_norm": (half, 2, some(4), some(4)), "mse_loss": (half, half), "cosine_similarity": (half, half),
    }  # fmt: skip
    for name, args in calls.items():
        policy = policies.policies()[name]["cuda"]
        watched = casting._watcher(name, TABLE[name].call, {"cpu": policy})
        before = casting.enter(state)
        try:
            assert watched(args, {}).dtype is wanted[policy], name
        finally:
            casting.leave(before)


def test_a_loss_of_probabilities_is_refused_where_pytorch_does():
    watched = casting._watcher("binary_cross_entropy", F.binary_cross_entropy, {"cpu": casting.REFUSE})
    before = casting.enter(casting.Autocast(cpu=True))
    try:
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            watched((some(3), some(3)), {})
    finally:
        casting.leave(before)


def test_a_number_beside_a_tensor_is_not_rounded_to_the_lower_dtype():
    """The exponent of a power that runs in float32 is the number given."""
    x = some(5).half()
    watched = casting._watcher("pow", tl.pow, {"cpu": casting.FLOAT32})
    before = casting.enter(casting.Autocast(cpu=True, cpu_dtype=F16))
    try:
        got = watched((x, 0.3), {})
    finally:
        casting.leave(before)
    assert np.allclose(got.numpy(), x.float().numpy() ** np.float32(0.3), rtol=1e-6)


def test_ops_without_a_policy_cast_nothing():
    """Composites are made of other ops, some with a policy: where PyTorch's are not, they are kept as they are."""
    by_device = policies.policies()
    casting_ = set()
    for op in TABLE.values():
        if op.kind == "primitive" or "cpu" in by_device.get(op.name, ()) or op.name == "einsum":
            continue
        for k, cases in enumerate(op.case_makers):
            for case in cases(Make(k, float_type=F32)):
                if not isinstance(case, tuple):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        outside = _casts(lambda: op.call(**case))  # noqa: B023
                        with tl.autocast("cpu"):
                            inside = _casts(lambda: op.call(**case))  # noqa: B023
                    if inside != outside:
                        casting_.add(op.name)
    assert not casting_


# ---- regions
def test_nothing_of_it_is_left_where_no_region_is_open():
    """Texts, caches and code objects of ops with a policy are those from before; their texts have no test of it."""
    x, w = some(3, 4), some(5, 4)
    F.linear(x, w)
    ops = [TABLE[name] for name in policies.policies()]
    functions = [f for op in ops for f in policies.functions(op)]
    before = [f.__code__ for f in functions]
    sources = [getattr(op, "source", None) for op in ops]
    with tl.autocast("cpu"):
        assert all(f.__code__ is not c for f, c in zip(functions, before))
        assert F.linear(x, w).dtype is BF
    assert all(f.__code__ is c for f, c in zip(functions, before))
    assert [getattr(op, "source", None) for op in ops] == sources
    for source in filter(None, sources):
        assert "autocast" not in source
    op = TABLE["linear"]
    assert op.namespace["cache"] is op.cache and op.namespace["miss"] == op.apply
    assert F.linear(x, w).dtype is F32


def test_regions_within_regions():
    a = some(2, 2)
    assert not tl.is_autocast_enabled("cpu") and tl.get_autocast_dtype("cpu") is BF
    with tl.autocast("cpu"):
        assert tl.is_autocast_enabled("cpu") and not tl.is_autocast_enabled() and not tl.is_autocast_enabled("cuda")
        with tl.autocast("cpu", enabled=False):
            assert not tl.is_autocast_enabled("cpu") and (a @ a).dtype is F32
            with tl.autocast("cpu", dtype=F16):
                assert tl.get_autocast_dtype("cpu") is F16 and (a @ a).dtype is F16
            assert (a @ a).dtype is F32
        assert (a @ a).dtype is BF
    assert (a @ a).dtype is F32 and tl.get_autocast_dtype("cuda") is F16


def test_a_region_ends_with_an_exception_and_serves_again():
    a, region = some(2, 2), tl.autocast("cpu")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), region:
            assert (a @ a).dtype is BF
            raise ZeroDivisionError
        assert (a @ a).dtype is F32
    with region, region:
        assert (a @ a).dtype is BF
    assert (a @ a).dtype is F32 and not casting._open


def test_a_setting_made_inside_outlives_the_region():
    with tl.no_grad():
        with tl.autocast("cpu"):
            tl.autograd.modes.set_mode(tl.autograd.modes.mode()._replace(grad=True))
        assert tl.is_grad_enabled() and not tl.is_autocast_enabled("cpu")


def test_decorated_functions_and_generators():
    a = some(2, 2)

    @tl.autocast("cpu")
    def product(n):
        """Its text."""
        return a @ a if not n else product(n - 1)

    @tl.autocast("cpu")
    def products():
        while (yield a @ a):
            pass

    assert product(2).dtype is BF and product.__doc__ == "Its text." and (a @ a).dtype is F32
    generator = products()
    assert next(generator).dtype is BF and (a @ a).dtype is F32 and generator.send(True).dtype is BF
    generator.close()
    assert not casting._open


def test_threads_have_regions_of_their_own():
    a, inside, done = some(2, 2), threading.Event(), threading.Event()
    seen = []

    def other():
        inside.wait(10)
        seen.append(((a @ a).dtype, tl.is_autocast_enabled("cpu")))
        with tl.autocast("cpu", dtype=F16):
            done.set()
            left.wait(10)
            seen.append((a @ a).dtype)

    left = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    with tl.autocast("cpu"):
        inside.set()
        done.wait(10)
        assert (a @ a).dtype is BF
    assert (a @ a).dtype is F32  # while the other's region is open
    left.set()
    thread.join()
    assert seen == [(F32, False), F16] and not casting._open


def test_what_is_refused_and_warned_of():
    with pytest.raises(ValueError, match="type `str`"):
        tl.autocast(tl.device("cpu"))
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'mps'"):
        tl.autocast("mps")
    with pytest.raises(RuntimeError, match="unsupported"):
        tl.is_autocast_enabled("tpu")
    with pytest.warns(UserWarning, match="not supported"), tl.autocast("cpu", dtype=F32):
        assert not tl.is_autocast_enabled("cpu") and tl.get_autocast_dtype("cpu") is F32
    assert tl.amp.is_autocast_available("cpu") and not tl.amp.is_autocast_available("mps")


def test_a_gpu_that_is_not_there_is_warned_of():
    if tl.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(UserWarning, match="CUDA is not available"), tl.cuda.amp.autocast():
        assert not tl.is_autocast_enabled("cuda") and not casting._open
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not tl.cuda.amp.GradScaler().is_enabled()


# ---- gradients and kept casts
def _casts(call):
    """How often ``call`` ran the op cast."""
    count = [0]

    def layer(inner, entry, arrays, outs):
        count[0] += entry.op.name == "cast"
        return inner(entry, arrays, outs)

    tracing.add_layer(layer)
    try:
        call()
    finally:
        tracing.remove_layer(layer)
    return count[0]


def test_casts_are_differentiable_and_a_backward_inside_is_as_one_outside():
    x, w = some(3, 4), tl.nn.Parameter(some(5, 4, seed=1))
    grads = []
    for inside in (False, True):
        w.grad = None
        with tl.autocast("cpu"):
            loss = F.softmax(F.linear(x, w), 1).float().log().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append(w.grad)
    assert grads[0].dtype is F32 and grads[0].tolist() == grads[1].tolist()
    exact = tl.nn.Parameter(w.detach().clone())
    F.linear(x, exact).softmax(1).log().sum().backward()
    assert np.allclose(grads[0].numpy(), exact.grad.numpy(), atol=0.02)


def test_a_weight_is_cast_once_for_the_outermost_region_until_it_is_written_to():
    x, w = some(3, 4).bfloat16(), tl.nn.Parameter(some(5, 4))
    plain = some(5, 4)

    def twice(weight, **how):
        with tl.autocast("cpu", **how):
            with tl.autocast("cpu"):
                F.linear(x, weight)
            F.linear(x, weight)

    assert _casts(lambda: twice(w)) == 1
    assert _casts(lambda: twice(w, cache_enabled=False)) == 2
    assert _casts(lambda: twice(plain)) == 2  # what needs no gradient is not kept, as in PyTorch
    with tl.autocast("cpu"):
        first = F.linear(x, w)
        with tl.no_grad():
            assert not F.linear(x, w).requires_grad  # and does not take the place of one on the tape
            w.add_(1.0)
        second = F.linear(x, w)
        assert second.requires_grad and (second - first).abs().max() > 0.5
        w.data = some(5, 4, seed=3)
        assert F.linear(x, w).tolist() == (x @ w.detach().bfloat16().t()).tolist()


def test_two_backwards_through_one_kept_cast():
    x, w = some(3, 4), tl.nn.Parameter(some(5, 4))
    with tl.autocast("cpu"):
        F.linear(x, w).sum().backward()
        once = w.grad.clone()
        F.linear(x, w).sum().backward()
    assert w.grad.tolist() == (once * 2).tolist()


def test_training_in_bfloat16_comes_to_the_loss_of_float32():
    """A small net on a smooth function, 150 steps: within a tenth of the loss that it has lost, and below 0.02."""
    rng = np.random.default_rng(0)
    x = tl.tensor(rng.uniform(-1, 1, (64, 2)).astype(np.float32))
    y = (x[:, :1] * 2).sin() + x[:, 1:] * 0.5
    ends = []
    for enabled in (False, True):
        tl.manual_seed(0)
        net = tl.nn.Sequential(tl.nn.Linear(2, 32), tl.nn.Tanh(), tl.nn.Linear(32, 1))
        opt, scaler = tl.optim.Adam(net.parameters(), lr=0.01), tl.amp.GradScaler("cpu", enabled=enabled)
        losses = []
        for _ in range(150):
            opt.zero_grad()
            with tl.autocast("cpu", enabled=enabled):
                loss = F.mse_loss(net(x), y)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            losses.append(loss.item())
        assert net[0].weight.dtype is F32 and loss.dtype is F32
        ends.append((losses[0], losses[-1]))
    assert ends[1][1] < 0.02 and abs(ends[1][1] - ends[0][1]) < 0.1 * (ends[0][0] - ends[0][1])


# ---- custom Functions
def test_custom_functions_run_under_the_autocast_they_say():
    seen = []

    def make(**how):
        class Product(tl.autograd.Function):
            @staticmethod
            @tl.amp.custom_fwd(device_type="cpu", **how)
            def forward(ctx, a, b):
                seen.append((a.dtype, b.dtype, tl.is_autocast_enabled("cpu")))
                ctx.save_for_backward(a, b)
                return a @ b

            @staticmethod
            @tl.amp.custom_bwd(device_type="cpu")
            def backward(ctx, g):
                a, b = ctx.saved_tensors
                seen.append((tl.is_autocast_enabled("cpu"), (g @ b.t()).dtype))
                return (g @ b.t()).to(a.dtype), (a.t() @ g).to(b.dtype)

        return Product

    a, b = some(2, 2).requires_grad_(), some(2, 2).bfloat16()
    with tl.autocast("cpu"):
        y = make(cast_inputs=F32).apply(a, b)
        assert y.dtype is F32
    y.sum().backward()
    assert seen == [(F32, F32, False), (False, F32)]
    seen.clear()
    with tl.autocast("cpu"):
        y = make().apply(a, b)
        assert y.dtype is BF
    y.sum().backward()
    assert seen == [(F32, BF, True), (True, BF)]
    seen.clear()
    make(cast_inputs=F16).apply(a, b.float())  # outside it does nothing
    assert seen == [(F32, F32, False)]
    with pytest.raises(ValueError, match="type `str`"):
        tl.amp.custom_fwd(device_type=None)


# ---- recorded programs
def test_a_region_inside_a_compiled_function():
    net, x = tl.nn.Sequential(tl.nn.Linear(4, 8), tl.nn.ReLU(), tl.nn.Linear(8, 2)), some(3, 4)

    def forward(x):
        with tl.autocast("cpu"):
            return net(x)

    compiled = tl.compile(forward)
    for _ in range(3):
        y = compiled(x)
        assert y.dtype is BF and y.tolist() == forward(x).tolist()
    assert len(compiled.programs) == 1 and compiled.programs[0].runs == 3
    assert "cast" in str(compiled.plan)
    y.float().sum().backward()
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    forward(x).float().sum().backward()
    assert all(np.allclose(g.numpy(), p.grad.numpy(), rtol=2e-2, atol=2e-2) for g, p in zip(got, net.parameters()))
    with tl.no_grad():
        net[0].weight.add_(0.5)  # a program casts anew: it keeps no weight of the recording
        assert compiled(x).tolist() == forward(x).tolist()


def test_a_region_around_a_compiled_function_is_a_guard():
    net, x = tl.nn.Linear(4, 2), some(3, 4)
    compiled = tl.compile(net)
    with tl.no_grad():
        for _ in range(2):
            assert compiled(x).dtype is F32
            with tl.autocast("cpu"):
                net(x)  # keeps a cast of the weight, which the program must not be made with
                assert compiled(x).tolist() == net(x).tolist() and compiled(x).dtype is BF
            with tl.autocast("cpu", dtype=F16):
                assert compiled(x).dtype is F16
    assert (
        sorted(p.runs for p in compiled._compiled.programs if p.runs) == [2, 2, 4]
        if hasattr(compiled, "_compiled")
        else True
    )


def test_a_region_around_a_compiled_step_with_a_backward():
    w, x = tl.nn.Parameter(some(2, 4)), some(3, 4)

    @tl.compile
    def step(x):
        w.grad = None
        loss = F.mse_loss(F.linear(x, w), tl.zeros(3, 2))
        loss.backward()
        return loss

    with tl.autocast("cpu"):
        for _ in range(3):
            loss = step(x)
        compiled = w.grad.clone()
        eager = step.fn(x)
    assert loss.dtype is F32 and loss.item() == eager.item() and compiled.tolist() == w.grad.tolist()
