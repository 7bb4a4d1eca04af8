"""The pass that makes one step of element-wise chains: equal bits, effects in order, and what it leaves alone."""

import random

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.run import execute, set_seam
from tensorlite.backends import cpu
from tensorlite.errors import CaptureError

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
F = tl.nn.functional
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1.0, 1e-300, 5e-324]


def numbers(shape, seed, d=np.float32, special=False):
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal(shape) * 2).astype(d)
    if special and a.size:
        with np.errstate(over="ignore"):
            some = rng.choice(np.array(SPECIAL).astype(d), a.shape)
        a = np.where(rng.random(a.shape) < 0.3, some, a).astype(d)
    return np.asarray(a)


def bits(t):
    """The bytes of a tensor, with one kind of nan."""
    a = np.array(t.detach().numpy(), copy=True)
    a[np.isnan(a)] = np.nan
    return a.tobytes()


def both(f, *args, state=()):
    """(fused, unfused): the compiled function with the pass and without it."""
    return tl.compile(f, state=state), tl.compile(f, state=state, options={"elementwise": False})


def names(compiled):
    return [step.name for step in compiled.plan.steps]


def same(f, *arrays, fused=1, d=tl.float32):
    """The results of f compiled with and without the pass, and uncompiled, have the same bits; how many steps fused."""
    on, off = both(f)
    given = [[tl.tensor(a, dtype=d) for a in arrays] for _ in range(3)]
    got, want, plain = on(*given[0]), off(*given[1]), f(*given[2])
    for k, (g, w, p) in enumerate(zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want, plain)))):
        assert bits(g) == bits(w) == bits(p), k
        assert g.shape == w.shape and g.stride() == w.stride()
    for k in range(len(arrays)):  # what was written in place
        assert bits(given[0][k]) == bits(given[1][k]), k
    assert names(on).count("fused") == fused, str(on.plan)
    assert "fused" not in names(off)
    return on


def chain(x, y):
    a = F.relu(x * y + 0.5)
    return a.exp() / (a + 1), a - y


@pytest.mark.parametrize("d", [tl.float32, tl.float64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 67), (1, 1), (64, 401), (3, 30001)])
def test_chains_have_the_bits_of_their_ops(shape, d):
    on = same(chain, numbers(shape, 0, special=True), numbers(shape, 1, special=True), d=d)
    assert len(on.plan) == 1


def test_nothing_to_do():
    same(chain, numbers((0, 3), 0), numbers((0, 3), 1), fused=0)
    same(lambda x: x.exp(), numbers((5,), 0), fused=0)
    same(lambda x: (x @ x).relu() @ x, numbers((5, 5), 0), fused=0)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 5), (4, 1), (3, 1, 1), (3, 4, 1), (1, 4, 5), (1, 1, 5), (), (1,)])
def test_broadcast_inputs(shape):
    for special in (False, True):
        same(lambda x, w: ((x + w) * w).tanh() - w, numbers((3, 4, 5), 0), numbers(shape, 1, special=special))


def test_middle_dimension_and_gaps_are_left_alone():
    same(lambda x, w: (x + w).exp(), numbers((3, 4, 5), 0), numbers((3, 1, 5), 1), fused=0)
    same(lambda x: (x[:, ::2] + x[:, 1::2]).exp(), numbers((4, 6), 0), fused=0)
    same(lambda x: (x[:, ::2] + x[:, 1::2]) * 2 - 1, numbers((4, 6), 0), fused=1)
    same(lambda x, w: (x + w.t()).exp(), numbers((4, 6), 0), numbers((6, 4), 0), fused=0)


@pytest.mark.parametrize("shape", [(2048 * 3,), (64, 2500), (6, 1), (64, 1)])
def test_broadcasts_across_blocks(shape):
    whole = (3, *shape) if len(shape) == 1 else (64, 2500) if shape[1] > 1 or shape[0] == 64 else (6, 3001)
    same(lambda x, w: (x * w - x).sigmoid(), numbers(whole, 0), numbers(shape, 1))


def test_images_in_channels_last():
    def f(x, y):
        return F.relu(x + y) * 2

    on, off = both(f)
    x, y = (tl.tensor(numbers((2, 3, 4, 5), k)).to(memory_format=tl.channels_last) for k in range(2))
    assert bits(on(x, y)) == bits(off(x, y)) == bits(f(x, y))
    assert on(x, y).stride() == f(x, y).stride() == (60, 1, 15, 3)
    assert names(on) == ["fused"]
    bias = tl.tensor(numbers((3, 1, 1), 2))

    def g(x, b):
        return F.relu(x + b) * 2

    on, off = both(g)
    assert bits(on(x, bias)) == bits(off(x, bias)) == bits(g(x, bias))
    # a contiguous one between them keeps its order of memory
    z = tl.tensor(numbers((2, 3, 4, 5), 3))
    on, off = both(f)
    assert bits(on(x, z)) == bits(off(x, z)) == bits(f(x, z))


def test_writes_in_place_keep_their_order():
    def f(x, y):
        a = x * 2
        x.add_(a)
        b = x * a  # of the new x
        x.mul_(b)
        return b + x, a

    same(f, numbers((3, 70), 0), numbers((3, 70), 1))

    def g(x, y):
        a = x + y
        s = a.sum()  # between two parts of a chain, and written to by neither
        a.mul_(2)
        return a.exp() + s, a - y

    same(g, numbers((9, 70), 0), numbers((9, 70), 1), fused=1)

    def h(x, y):
        a = x + y
        x[0] = 5.0  # a part of what the chain reads
        return a * x, (a - y).exp()

    same(h, numbers((3, 70), 0), numbers((3, 70), 1))


def test_a_step_between_keeps_its_place():
    def f(x, w):
        a = (x * 2).exp()
        b = a @ w
        return b * a + 1, a

    on = same(f, numbers((6, 6), 0), numbers((6, 6), 1), fused=2)
    assert names(on) == ["fused", "matmul", "fused"]


def test_independent_steps_between_move():
    def f(x, w):
        a = x * 2
        b = w @ w
        c = a.exp()
        return c + 1, b

    on = same(f, numbers((80, 80), 0), numbers((80, 80), 1))
    assert sorted(names(on)) == ["fused", "matmul"]


def test_numbers_that_are_constants_of_the_body():
    same(lambda x: (x**2 + x**3 - x**-1).clamp(-2, 3) * x, numbers((5, 70), 0, special=True))
    same(lambda x: (x.clamp(min=0.5) + 1).clamp(max=2.0), numbers((5, 70), 0, special=True))
    same(lambda x: (x.abs() ** 2.5) * 2 + 1, numbers((5, 70), 0), fused=1)
    same(lambda x, e: x**e * 2 + 1, numbers((5, 70), 0), numbers((), 1), fused=1)
    same(lambda x: F.gelu(x, approximate="tanh") + F.gelu(x) + F.leaky_relu(x, 0.3), numbers((5, 70), 0))
    same(lambda x: F.softplus(x, 2.0, 3.0) + F.elu(x, 0.7), numbers((5, 70), 0))


def test_a_training_step():
    """Gradients, expanded ones too, an optimizer's state, and outputs that are used later."""

    def build(fuse):
        tl.manual_seed(3)
        model = tl.nn.Sequential(tl.nn.Linear(7, 33), tl.nn.Tanh(), tl.nn.Linear(33, 7))
        opt = tl.optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            opt.zero_grad()
            y = model(x)
            loss = (F.relu(y + x) * x.exp()).mean() + ((y - x) ** 2).sum() * 0.01 - (1 + y - y * y - y.exp()).sum() / 9
            loss.backward()
            opt.step()
            return loss, y

        return step if fuse is None else tl.compile(step, options={"elementwise": fuse}), model

    runs = [build(fuse) for fuse in (True, False, None)]
    for k in range(4):
        x = tl.tensor(numbers((12, 7), k))
        made = [bits(loss) + bits(y) for loss, y in (step(x) for step, _ in runs)]
        assert made[0] == made[1] == made[2], k
    for p, q in zip(runs[0][1].parameters(), runs[1][1].parameters()):
        assert bits(p) == bits(q)
    assert "fused" in names(runs[0][0])
    assert len(runs[0][0].plan) < len(runs[1][0].plan)


def test_step_by_step_and_checked():
    on = tl.compile(chain)
    x, y = (tl.tensor(numbers((4, 9), k)) for k in range(2))
    want = [bits(t) for t in on(x, y)]
    with config.CAPTURE("check"):
        assert [bits(t) for t in on(x, y)] == want
    step = on.plan.steps[0]
    assert step.entry.native and "fused" in str(on.plan)
    kernel = step.entry.kernel
    try:
        step.entry.kernel = lambda *arrays: [o.fill(0) for o in arrays[-len(step.outs) :]]
        with config.CAPTURE("check"), pytest.raises(CaptureError, match="fused"):
            on(x, y)
    finally:
        step.entry.kernel = kernel


def test_a_forward_that_is_differentiated():
    w = tl.nn.Parameter(tl.tensor(numbers((4, 9), 5)))

    def f(x):
        y = (x * w).tanh()
        return (y * w - x).exp() + y, y * 2

    made = []
    for call in (*both(f), f):
        x = tl.tensor(numbers((4, 9), 0)).requires_grad_()
        w.grad = None
        one, two = call(x)
        (one.sum() + (two * two).sum()).backward()
        made.append([bits(t) for t in (one, two, x.grad, w.grad)])
    assert made[0] == made[1] == made[2]


def test_those_who_watch_ops_see_the_fused_one():
    on = tl.compile(chain)
    x, y = (tl.tensor(numbers((4, 9), k)) for k in range(2))
    want = [bits(t) for t in on(x, y)]
    seen = []

    def watch(entry, arrays, outs):
        seen.append(entry.op.name)
        return execute(entry, arrays, outs)

    set_seam(watch)
    try:
        assert [bits(t) for t in on(x, y)] == want
    finally:
        set_seam(None)
    assert seen == ["fused"]


def test_plain_kernels_are_left_alone():
    with config.KERNELS("plain"):
        on = tl.compile(chain)
        x, y = (tl.tensor(numbers((4, 9), k)) for k in range(2))
        want = [bits(t) for t in chain(x, y)]
        assert [bits(t) for t in on(x, y)] == want
        assert "fused" not in names(on)


# ---- random programs
UNARY = [
    "{a}.exp()", "-{a}", "{a}.tanh()", "F.relu({a})", "{a}.sigmoid()", "{a} * 0.5", "1 - {a}", "{a} ** 2", "{a}.abs()",
    "F.gelu({a})", "{a}.clamp(-1, 2)", "{a}.clone()", "{a} / 3", "F.silu({a})", "{a}.sqrt()", "{a}.log1p()",
]  # fmt: skip
BINARY = ["{a} + {b}", "{a} - {b}", "{a} * {b}", "{a} / {b}", "tl.maximum({a}, {b})", "tl.minimum({a}, {b})"]
OTHERS = ["{a} + {a}.sum()", "{a} * {b}.mean(-1, keepdim=True)", "{a}.cumsum(-1)", "{a}.flip(0)", "{a}.softmax(-1)"]
WRITES = ["{a}.add_({b})", "{a}.mul_(0.5)", "{a}.copy_({b})", "{a}.exp_()", "{a}[0] = 0.25", "{a}.sub_({b}.sum())"]


def program(rng):
    """The text of a function of x, y (one shape) and w (a row), and what it is called with."""
    lines, known = [], ["x", "y"]
    for k in range(rng.randint(2, 12)):
        a, b = rng.choice(known), rng.choice([*known, "w"] if rng.random() < 0.3 else known)
        kind = rng.random()
        if kind < 0.12:
            lines.append(rng.choice(WRITES).format(a=a, b=b))
            continue
        text = rng.choice(UNARY if kind < 0.5 else BINARY if kind < 0.88 else OTHERS)
        lines.append(f"v{k} = {text.format(a=a, b=b if 'mean' not in text else a)}")
        known.append(f"v{k}")
    kept = rng.sample(known, min(len(known), rng.randint(1, 3)))
    text = "\n    ".join([*lines, f"return {', '.join(f'{n}.clone()' if n in 'xy' else n for n in kept)},"])
    return f"def f(x, y, w):\n    {text}\n"


def one_program(seed):
    """Whether random program ``seed`` was fused; its results have the same bits with and without the pass."""
    rng = random.Random(seed)
    text = program(rng)
    scope = {"tl": tl, "F": F}
    exec(text, scope)
    shape = rng.choice([(1,), (5,), (3, 4), (2, 3, 33), (1, 7), (40, 129), (3, 2100)])
    d = rng.choice([np.float32, np.float64])
    arrays = [numbers(s, seed + k, d, rng.random() < 0.3) for k, s in enumerate((shape, shape, shape[-1:]))]
    made = []
    for compiled in (*both(scope["f"]), scope["f"]):
        given = [tl.tensor(a) for a in arrays]
        for _ in range(2):
            results = compiled(*given)
        made.append((compiled, [bits(t) for t in (*results, *given)]))
    for k in (1, 2):
        assert made[0][1] == made[k][1], f"seed {seed}, {shape} {d.__name__}, beside {k}:\n{text}\n{made[0][0].plan}"
    return "fused" in names(made[0][0])


def test_random_programs():
    assert sum(one_program(seed) for seed in range(60)) > 30


@pytest.mark.slow
def test_fuzz_programs():
    assert sum(one_program(seed) for seed in range(1000, 4000)) > 1500
