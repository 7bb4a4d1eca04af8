"""Modules: registration, state, hooks, containers."""

import copy
import math
import pickle
import time
from collections import OrderedDict

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.scale = nn.Parameter(tl.ones(1))
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.register_buffer("seen", tl.zeros(1))
        self.register_buffer("scratch", tl.zeros(2), persistent=False)
        self.last = nn.Linear(8, 2, bias=False)

    def forward(self, x):
        return self.last(self.body(self.first(x) * self.scale))


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


# ---- registration and traversal
def test_members_are_plain_attributes_in_order():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "scale",
        "first.weight",
        "first.bias",
        "body.1.weight",
        "body.1.bias",
        "body.2.weight",
        "body.2.bias",
        "last.weight",
    ]
    assert [n for n, _ in net.named_buffers()] == [
        "seen",
        "scratch",
        "body.2.running_mean",
        "body.2.running_var",
        "body.2.num_batches_tracked",
    ]
    assert [n for n, _ in net.named_children()] == ["first", "body", "last"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "body", "body.0", "body.1", "body.2", "last"]
    assert net.__dict__["scale"] is net.scale and "__getattr__" not in dir(nn.Module)
    assert list(net._parameters) == ["scale"] and net._modules["first"] is net.first and len(net._buffers) == 2
    assert list(net.parameters(recurse=False)) == [net.scale]


def test_names_follow_assignment_and_deletion():
    net = Net()
    net.scale = nn.Parameter(tl.zeros(3))
    assert net._parameters["scale"].shape == (3,)
    net.scale = None
    assert "scale" in net._parameters and net.scale is None and "scale" not in net.state_dict()
    with pytest.raises(TypeError, match=r"cannot assign 'tensorlite.autograd.tensor.Tensor' as parameter 'scale'"):
        net.scale = tl.ones(1)
    with pytest.raises(TypeError, match="as child module 'first'"):
        net.first = 3
    with pytest.raises(TypeError, match="as buffer 'seen'"):
        net.seen = 3
    net.seen = tl.ones(2)
    assert net._buffers["seen"].tolist() == [1, 1]
    net.first = nn.Identity()  # another module under the same name keeps its place
    assert [n for n, _ in net.named_children()] == ["first", "body", "last"]
    net.last = nn.Parameter(tl.ones(1))  # a module becomes a parameter
    assert "last" not in net._modules and "last" in net._parameters
    del net.last
    assert not hasattr(net, "last") and "last" not in net._parameters
    net._parameters["made"] = nn.Parameter(tl.ones(1))  # through the view
    assert net.made is net._parameters["made"]
    del net._parameters["made"]
    assert not hasattr(net, "made")
    net.plain = 3
    net.plain = nn.Parameter(tl.ones(1))
    assert "plain" in dict(net.named_parameters())


def test_before_init():
    class Early(nn.Module):
        def __init__(self, value):
            self.value = value

    for value, what in (
        (nn.Parameter(tl.ones(1)), "parameters"),
        (nn.Identity, "module"),
        (nn.Buffer(tl.ones(1)), "buffer"),
    ):
        with pytest.raises(AttributeError, match=rf"cannot assign {what} before Module.__init__\(\) call"):
            Early(value() if isinstance(value, type) else value)
    assert Early(3).value == 3


@pytest.mark.parametrize(
    "call,error,text",
    [
        (lambda m: m.register_parameter("a.b", None), KeyError, "parameter name can.+t contain"),
        (lambda m: m.register_parameter("", None), KeyError, "t be empty string"),
        (lambda m: m.register_parameter(3, None), TypeError, "should be a string"),
        (lambda m: m.register_parameter("forward", None), KeyError, "already exists"),
        (lambda m: m.register_parameter("x", tl.ones(1)), TypeError, "cannot assign"),
        (lambda m: m.register_buffer("first", None), KeyError, "already exists"),
        (lambda m: m.register_buffer("x", 3), TypeError, "cannot assign 'builtins.int' object to buffer 'x'"),
        (lambda m: m.add_module("x", 3), TypeError, "is not a Module subclass"),
        (lambda m: m.add_module("train", nn.Identity()), KeyError, "already exists"),
        (lambda m: m.get_submodule("body.7"), AttributeError, "has no attribute `7`"),
        (lambda m: m.get_submodule("scale"), AttributeError, "is not an nn.Module"),
        (lambda m: m.get_parameter("seen"), AttributeError, "is not an nn.Parameter"),
        (lambda m: m.get_buffer("scale"), AttributeError, "is not a buffer"),
        (lambda m: m.nothing, AttributeError, "'Net' object has no attribute 'nothing'"),
        (lambda m: m.train("yes"), ValueError, "training mode is expected to be boolean"),
        (
            lambda m: nn.Module()(3),
            NotImplementedError,
            r"Module \[Module\] is missing the required \"forward\" function",
        ),
        (lambda m: m.to(tl.int64), TypeError, "only accepts floating point"),
        (lambda m: m.load_state_dict(3), TypeError, "Expected state_dict to be dict-like"),
        (lambda m: nn.Parameter([1.0]), TypeError, "Parameter: got list; wanted a Tensor"),
        (lambda m: nn.Parameter(tl.arange(3)), RuntimeError, "floating point"),
    ],
)
def test_what_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(Net())


def test_paths():
    net = Net()
    assert net.get_submodule("body.1") is net.body[1] and net.get_submodule("") is net
    assert net.get_parameter("body.1.weight") is net.body[1].weight and net.get_buffer("seen") is net.seen
    net.set_submodule("body.0", nn.Tanh())
    assert isinstance(net.body[0], nn.Tanh)


def test_shared_members_are_listed_once():
    net = nn.Module()
    net.a = nn.Linear(2, 2)
    net.b = net.a
    net.c = nn.Linear(2, 2)
    net.c.weight = net.a.weight
    assert [n for n, _ in net.named_parameters()] == ["a.weight", "a.bias", "c.bias"]
    assert [n for n, _ in net.named_parameters(remove_duplicate=False)] == [
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
        "c.weight",
        "c.bias",
    ]
    assert len(list(net.modules())) == 3
    assert list(net.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias"]


def test_parameters():
    data = tl.zeros(3)
    p = nn.Parameter(data)
    data[0] = 5
    assert p[0].item() == 5 and p.requires_grad and p.is_leaf and isinstance(p, tl.Tensor)
    assert (
        repr(p).startswith("Parameter containing:\ntensor([5., 0., 0.]") and not nn.Parameter(data, False).requires_grad
    )
    assert type(p * 2) is tl.Tensor and type(p.detach()) is tl.Tensor and nn.Parameter().shape == (0,)
    for again in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(again) is nn.Parameter and again.requires_grad and again.tolist() == [5, 0, 0]
    b = nn.Buffer(data, persistent=False)
    m = nn.Module()
    m.b = b
    assert m._buffers["b"] is b and not m.state_dict()


# ---- whole-module changes
def test_copies_and_pickles_keep_everything():
    net = Net()
    net(tl.randn(5, 4)).sum().backward()
    x = tl.randn(3, 4)
    net.eval()
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(again(x).detach().numpy(), net(x).detach().numpy())
        assert list(again.state_dict()) == list(net.state_dict()) and not again.training
        assert again.first.weight is again.get_parameter("first.weight") is not net.first.weight
    deep = copy.deepcopy(net)
    assert np.array_equal(deep.last.weight.grad.numpy(), net.last.weight.grad.numpy())
    with tl.no_grad():
        deep.last.weight.zero_()
    assert net.last.weight.abs().sum().item() > 0


def test_modes_gradients_and_apply():
    net = Net()
    assert net.training and not net.eval().body[2].training and net.train() is net and net.body.training
    net(tl.randn(5, 4)).sum().backward()
    kept = net.first.weight.grad
    net.zero_grad(set_to_none=False)
    assert net.first.weight.grad is kept and not kept.any()
    net.zero_grad()
    assert net.first.weight.grad is None
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Linear", "BatchNorm1d", "Sequential", "Linear", "Net"]


def test_casts_keep_parameters_the_same_objects():
    net = Net()
    net(tl.randn(5, 4)).sum().backward()
    w = net.first.weight
    opt = tl.optim.SGD(net.parameters(), lr=0.1)
    net.double()
    assert net.first.weight is w and w.dtype is tl.float64 and w.grad.dtype is tl.float64
    assert net.seen.dtype is tl.float64 and net.body[2].num_batches_tracked.dtype is tl.int64
    before = w.detach().clone()
    opt.step()
    assert not np.array_equal(before.numpy(), w.detach().numpy())
    for cast, d in (("half", tl.float16), ("bfloat16", tl.bfloat16), ("float", tl.float32)):
        assert getattr(net, cast)().first.weight.dtype is d
    assert net.to("cpu", tl.float64).scale.dtype is tl.float64 and net.to(tl.ones(1)).scale.dtype is tl.float32
    with pytest.raises(RuntimeError, match="cuda"):
        net.cuda()


# ---- state
def test_load_state_dict_says_what_does_not_fit():
    net = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.BatchNorm1d(3)))
    state = net.state_dict()
    del state["a.bias"]
    state["a.weight"] = tl.ones(3, 4)
    state["c"] = state["b.more"] = tl.ones(1)
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    assert str(error.value) == (
        'Error(s) in loading state_dict for Sequential:\n\tMissing key(s) in state_dict: "a.bias". \n\t'
        'Unexpected key(s) in state_dict: "c", "b.more". \n\t'
        "size mismatch for a.weight: copying a param with shape tensorlite.Size([3, 4]) from checkpoint, "
        "the shape in current model is tensorlite.Size([3, 2])."
    )
    state["a.weight"] = tl.ones(3, 2)
    found = net.load_state_dict(state, strict=False)
    assert found.missing_keys == ["a.bias"] and found.unexpected_keys == ["c", "b.more"]
    assert net.a.weight.sum().item() == 6
    assert str(net.load_state_dict(net.state_dict())) == "<All keys matched successfully>"


def test_state_shares_memory_and_loading_copies():
    net = nn.Linear(2, 2)
    state = net.state_dict()
    assert not state["weight"].requires_grad and net.state_dict(keep_vars=True)["weight"] is net.weight
    state["weight"][0, 0] = 7
    assert net.weight[0, 0].item() == 7
    other = nn.Linear(2, 2)
    w = other.weight
    other.load_state_dict(state)
    assert other.weight is w and w.requires_grad
    state["weight"][0, 0] = 8
    assert w[0, 0].item() == 7
    other.load_state_dict(state, assign=True)
    assert other.weight is not w and other.weight.requires_grad and type(other.weight) is nn.Parameter
    state["weight"][0, 0] = 9
    assert other.weight[0, 0].item() == 9
    assert list(net.state_dict(prefix="x.")) == ["x.weight", "x.bias"]
    assert net.state_dict()._metadata == {"": {"version": 1}}


def test_extra_state_and_state_hooks():
    class Counter(nn.Linear):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    a, b = nn.Sequential(Counter(1, 1)), nn.Sequential(Counter(1, 1))
    a[0].count = 5
    seen = []
    a[0].register_state_dict_pre_hook(lambda m, prefix, keep: seen.append(prefix))
    a.register_state_dict_post_hook(lambda m, state, prefix, meta: state.update(more=tl.ones(1)))
    b.register_load_state_dict_pre_hook(lambda m, state, *rest: state.pop("more"))
    b.register_load_state_dict_post_hook(lambda m, keys: seen.append(keys.missing_keys))
    state = a.state_dict()
    assert list(state) == ["0.weight", "0.bias", "0._extra_state", "more"]
    b.load_state_dict(state)
    assert b[0].count == 5 and seen == ["0.", []]


def test_a_batch_norm_of_an_older_version_loads():
    norm = nn.BatchNorm1d(2)
    state = norm.state_dict()
    del state["num_batches_tracked"], state._metadata
    assert norm.load_state_dict(state).missing_keys == []


# ---- hooks
def test_forward_hooks():
    net, seen = nn.Linear(2, 2), []
    with tl.no_grad():
        net.weight.copy_(tl.eye(2))
        net.bias.zero_()
    x = tl.ones(1, 2)
    handles = [
        net.register_forward_pre_hook(lambda m, args: seen.append("pre")),
        net.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        net.register_forward_pre_hook(lambda m, args, kw: seen.append(("first", kw)), prepend=True, with_kwargs=True),
        net.register_forward_hook(lambda m, args, out: seen.append(args[0].tolist())),
        net.register_forward_hook(lambda m, args, kw, out: out + 1, with_kwargs=True),
    ]
    assert net(x).tolist() == [[3, 3]]
    assert seen == [("first", {}), "pre", [[2, 2]]]
    for h in handles:
        h.remove()
    assert net(x).tolist() == [[1, 1]] and len(seen) == 3
    with net.register_forward_hook(lambda m, args, out: out * 0):
        assert net(x).tolist() == [[0, 0]]
    assert net(input=x).tolist() == [[1, 1]]
    always = []
    net.register_forward_hook(lambda m, args, out: always.append(out), always_call=True)
    with pytest.raises(RuntimeError):
        net(tl.ones(1, 3))
    assert always == [None]


def test_hooks_of_all_modules():
    seen = []
    handles = [
        nn.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__)),
        nn.module.register_module_forward_pre_hook(lambda m, args: seen.append("to " + type(m).__name__)),
    ]
    try:
        nn.Sequential(nn.ReLU())(tl.ones(1))
    finally:
        for h in handles:
            h.remove()
    nn.ReLU()(tl.ones(1))
    assert seen == ["to Sequential", "to ReLU", "ReLU", "Sequential"]


def backward_hooks_of(lib, make, change):
    class Two(lib.nn.Module):
        def forward(self, a, b):
            return a * b, a + b

    one, two = lib.nn.Linear(3, 3), Two()
    with lib.no_grad():
        one.weight.copy_(make(np.arange(9.0).reshape(3, 3)))
        one.bias.zero_()
    seen = []

    def hook(m, grad_input, grad_output):
        seen.append(
            [type(m).__name__] + [[None if g is None else g.tolist() for g in gs] for gs in (grad_input, grad_output)]
        )
        return tuple(None if g is None else g * 2 for g in grad_input) if change else None

    def before(m, grad_output):
        seen.append([type(m).__name__ + " before", [None if g is None else g.tolist() for g in grad_output]])
        return tuple(None if g is None else g * 3 for g in grad_output) if change else None

    for m in (one, two):
        m.register_full_backward_hook(hook)
        m.register_full_backward_pre_hook(before)
    x = make(np.ones((2, 3)))
    x.requires_grad_()
    product, total = two(one(x), make(np.full((2, 3), 2.0)))
    (product.sum() + total.sum()).backward()
    product, total = two(one(make(np.ones((2, 3)))), x)
    product.sum().backward()
    return seen, x.grad.tolist(), one.weight.grad.tolist()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("change", [False, True])
def test_backward_hooks_are_pytorchs(torch, change):
    mine = backward_hooks_of(tl, lambda a: tl.tensor(a, dtype=tl.float32), change)
    theirs = backward_hooks_of(torch, lambda a: torch.tensor(a, dtype=torch.float32), change)
    assert mine == theirs


def test_backward_hooks_leave_no_cycle():
    import gc
    import weakref

    net = nn.Linear(3, 3)
    net.register_full_backward_hook(lambda m, gi, go: None)
    gc.collect()
    gc.disable()
    try:
        for back in (True, False):
            x = tl.ones(2, 3, requires_grad=True)
            y = net(x)
            alive = [weakref.ref(y.grad_fn), weakref.ref(y.grad_fn.next_functions[0][0]), weakref.ref(x)]
            if back:
                y.sum().backward()
            del x, y
            assert [r() for r in alive] == [None] * 3
    finally:
        gc.enable()


def test_the_path_of_modules_is_known_while_asked_for():
    from tensorlite.nn.path import current_path, track

    seen = []

    class Note(nn.Module):
        def forward(self, x):
            seen.append(current_path())
            return x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Note(), nn.Sequential(Note())])

        def forward(self, x):
            return self.parts[1](self.parts[0](x))

    net = Outer()
    net(1)
    with track():
        net(1)
        with pytest.raises(TypeError):
            net()
        assert current_path() == ""
    net(1)
    assert seen == ["", "", "Outer.parts.0", "Outer.parts.1.0", "", ""]


def test_a_call_without_hooks_costs_little():
    class Plain(nn.Module):
        def forward(self, x):
            return x

    net, forward = Plain(), Plain().forward

    def cost(f):
        best = math.inf
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(500):
                f(1)
            best = min(best, (time.perf_counter() - start) / 500)
        return best

    assert cost(net) - cost(forward) < 1e-6


# ---- containers
def test_sequential():
    a, b, c = nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)
    net = nn.Sequential(a, b)
    net.append(c)
    assert len(net) == 3 and net[-1] is c and list(net) == [a, b, c] and list(net[:2]) == [a, b]
    x = tl.ones(4, 2)
    assert np.array_equal(net(x).detach().numpy(), c(b(a(x))).detach().numpy())
    net[1] = nn.Tanh()
    net.insert(1, nn.Identity())
    assert [type(m).__name__ for m in net] == ["Linear", "Identity", "Tanh", "Linear"] and list(net._modules) == list(
        "0123"
    )
    del net[1]
    assert net.pop(1).__class__ is nn.Tanh and list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert len(net + nn.Sequential(nn.ReLU())) == 3
    named = nn.Sequential(OrderedDict(x=a, y=b))
    assert named.x is a and list(named.state_dict()) == ["x.weight", "x.bias"] and list(named[:1]._modules) == ["x"]
    with pytest.raises(IndexError):
        net[2]
    with pytest.raises(TypeError, match="is not a Module subclass"):
        nn.Sequential(3)


def test_lists_and_dicts():
    rows = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    rows += [nn.ReLU()]
    assert len(rows) == 3 and isinstance(rows[1:], nn.ModuleList) and len(list(rows.parameters())) == 4
    with pytest.raises(NotImplementedError):
        rows(1)
    table = nn.ModuleDict({"a": nn.Linear(1, 1)})
    table["b"] = nn.ReLU()
    assert list(table) == ["a", "b"] == list(table.keys()) and "b" in table and table.pop("b").__class__ is nn.ReLU
    assert [n for n, _ in table.named_parameters()] == ["a.weight", "a.bias"]
    with pytest.raises(KeyError):
        table["keys"] = nn.ReLU()
    ps = nn.ParameterList([tl.ones(2), nn.Parameter(tl.zeros(1))])
    ps.append(tl.ones(3))
    ps[0] = tl.zeros(2)
    assert [n for n, _ in ps.named_parameters()] == ["0", "1", "2"] and isinstance(ps[2], nn.Parameter) and len(ps) == 3
    pd = nn.ParameterDict({"w": tl.ones(2)})
    pd["v"] = tl.ones(1)
    assert list(pd.state_dict()) == ["w", "v"] and pd.pop("w").shape == (2,) and "w" not in pd and pd.get("z", 3) == 3
    for again in (copy.deepcopy(pd), pickle.loads(pickle.dumps(pd))):
        assert list(again.keys()) == ["v"]


def test_what_comes_before_an_in_place_relu():
    """Normalisation and pooling need no output of their own for the gradient, so ReLU(inplace=True) may follow."""
    befores = [
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.LayerNorm([4, 4, 4]),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d(2),
        nn.Conv2d(4, 2, 3),
        nn.ConvTranspose2d(4, 2, 3),
        nn.Linear(4, 3),
        nn.Upsample(scale_factor=2),
        nn.ZeroPad2d(1),
        lambda x: x.max(1)[0],
        lambda x: x.sort(-1).values,
        lambda x: x.topk(2).values,
    ]
    for before in befores:
        grads = []
        for inplace in (False, True):
            x = tl.linspace(-1, 1, 128).view(2, 4, 4, 4).requires_grad_()
            nn.ReLU(inplace)(before(x)).pow(2).sum().backward()
            grads.append(x.grad.numpy())
        assert np.array_equal(*grads), before


def test_channels_become_pixels_and_come_back():
    up, down = nn.PixelShuffle(2), nn.PixelUnshuffle(2)
    assert repr(up) == "PixelShuffle(upscale_factor=2)" and repr(down) == "PixelUnshuffle(downscale_factor=2)"
    x = tl.arange(2 * 4 * 3 * 2).view(2, 4, 3, 2)
    assert up(x).shape == (2, 1, 6, 4) and tl.equal(down(up(x)), x)
    assert down(tl.zeros(0, 1, 2, 2)).shape == (0, 4, 1, 1)  # PyTorch leaves an empty one as it is


def test_a_star_import_brings_every_layer():
    public = {n for n, v in vars(nn).items() if isinstance(v, type) and not n.startswith("_")}
    assert public == {n for n in nn.__all__ if isinstance(getattr(nn, n), type)} and len(set(nn.__all__)) == len(
        nn.__all__
    )
