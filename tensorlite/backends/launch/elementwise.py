"""Element-wise kernels, written out for an op or a chain of ops: ``elementwise.add``, ``elementwise.fused``. Floor 1.

Every text has two kernels around the same function (kernels/cuda/elementwise.cuh). ``packed`` reads and writes 16 bytes
at a time: the innermost dimension of each input is dense or one number, up to three outer dimensions have any steps
(a bias, a mask of rows). ``single`` goes element by element: up to eight dimensions of any steps, any alignment.
Both go through the output in the order of its memory. They are bound by memory: the floor is bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tensorlite.backends import launch
from tensorlite.backends.launch import CTYPES, Needs, Variant

BLOCK = 256
BLOCKS = 132 * 16  # enough to fill any GPU of today; each thread goes on from there
OUTER, MOST = 3, 8  # outer dimensions of ``packed``, dimensions of ``single``

# What an op takes besides numbers computed in its own type: which inputs are bool. Its constants come as double.
CONDITIONS = {"where": (0,), "masked_fill": (1,)}
FLAGS = {"gelu": ("approximate",), "gelu_dx": ("approximate",), "isclose": ("equal_nan",)}
NAMES = (
    "add", "sub", "mul", "div", "neg", "clone", "abs", "sign", "reciprocal", "maximum", "minimum", "clamp",
    "floor_divide", "remainder", "trunc_divide", "pow", "pow_dx", "atan2", "logaddexp", "exp", "log", "log1p",
    "expm1", "log2", "log10", "sqrt", "sqrt_dx", "sin", "cos", "tanh", "tanh_dx", "erf", "floor", "ceil", "trunc",
    "round", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not", "isnan",
    "isinf", "isfinite", "isclose", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "where",
    "masked_fill", "relu", "relu_dx", "sigmoid", "sigmoid_dx", "silu", "silu_dx", "elu", "elu_dx", "celu", "selu",
    "gelu", "gelu_dx", "leaky_relu", "leaky_relu_dx", "prelu", "logsigmoid", "logsigmoid_dx", "softplus",
    "softplus_dx", "mish", "mish_dx", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink",
    "threshold", "bce",
)  # fmt: skip
# inputs that a GPU cannot refuse by itself: (which input, what is wrong with it, what is said)
REFUSES = {
    "bce": ("!(v0 >= C(0) && v0 <= C(1) && v1 >= C(0) && v1 <= C(1))", RuntimeError,
            "binary_cross_entropy: all elements of input and target should be between 0 and 1"),
    "floor_divide": ("v1 == C(0)", RuntimeError, "floor_divide: ZeroDivisionError: integer division by zero"),
    "remainder": ("v1 == C(0)", RuntimeError, "remainder: ZeroDivisionError: integer modulo by zero"),
    "trunc_divide": ("v1 == C(0)", RuntimeError, "div: ZeroDivisionError: integer division by zero"),
    "pow": ("v1 < C(0)", RuntimeError, "pow: integers to negative integer powers are not allowed"),
}  # fmt: skip


def computed_in(dtypes: list) -> str:
    """The C type in which elements of these dtypes (short names) meet."""
    wide = [d for d in dtypes if d != "b1"]
    if "f8" in wide:
        return "double"
    if any(d.startswith(("f", "b")) for d in wide):
        return "float"
    return CTYPES[max(wide, key=lambda d: int(d[-1]))] if wide else "bool"


class Chain:
    """Steps over inputs, as text: ``steps`` are (op, constants, sources), ``results`` the values that are kept."""

    def __init__(self, inputs: tuple, outputs: tuple, steps: tuple, results: tuple):
        self.inputs, self.outputs, self.steps, self.results = inputs, outputs, steps, results  # dtypes: short names
        conditions = {s[k] for name, _, s in steps for k in CONDITIONS.get(name, ())}
        numbers = [d for k, d in enumerate(inputs) if k not in conditions and d is not None]
        self.type = computed_in(numbers or ["b1"])
        if steps[0][0] == "isclose" and self.type not in ("float", "double"):
            self.type = "double"
        self.conditions = conditions
        self.constants = [(n, k) for n, (_, constants, _) in enumerate(steps) for k, _ in enumerate(constants)]
        refused = REFUSES.get(steps[0][0]) if len(steps) == 1 else None
        self.refuses = refused if refused and (steps[0][0] == "bce" or self.type not in ("float", "double")) else None
        widest = max(int(d[-1]) for d in (*filter(None, inputs), *outputs))
        self.pack = 16 // widest  # elements that are read at a time

    def values(self) -> list:
        """The constants, as the kernel takes them."""
        return [float(v) for _, constants, _ in self.steps for _, v in constants]

    def text(self) -> str:
        """The source of the two kernels."""
        xs = [(k, CTYPES[d]) for k, d in enumerate(self.inputs) if d is not None]
        ys = [(k, CTYPES[d]) for k, d in enumerate(self.outputs)]
        constants = "".join(f", double c{n}_{k}" for n, k in self.constants)
        fault = ", long long* flag, int code" if self.refuses else ""
        return "\n".join(
            [
                f"// {' '.join(s[0] for s in self.steps)}: {self.inputs} -> {self.outputs}",
                '#include "elementwise.cuh"',
                "using namespace tl;",
                f"typedef {self.type} C;",
                f"constexpr int V = {self.pack};",
                self._function(xs, ys, constants, fault),
                self._packed(xs, ys, constants, fault),
                self._single(xs, ys, constants, fault),
            ]
        )

    def _function(self, xs: list, ys: list, constants: str, fault: str) -> str:
        given = ", ".join(f"{t} a{k}" for k, t in xs)
        made = "".join(f", {t}& r{k}" for k, t in ys)
        lines = [f"TL_DEVICE void apply({given}{made}{constants}{fault}) {{"]
        for k, _ in xs:
            lines.append(f"    const auto v{k} = read<{'bool' if k in self.conditions else 'C'}>(a{k});")
        if self.refuses:
            lines.append(f"    if ({self.refuses[0]}) fault(flag, code, 0, 0);")
        for n, (name, held, sources) in enumerate(self.steps):
            flags = FLAGS.get(name, ())
            read = [f"v{s}" if s is not None and s in self._known(n) else "Missing{}" for s in sources]
            read += [f"c{n}_{k} != 0" if c in flags else f"C(c{n}_{k})" for k, (c, _) in enumerate(held)]
            lines.append(f"    const auto v{len(self.inputs) + n} = op_{name}({', '.join(read)});")
        lines += [f"    r{k} = Put<{t}>::of(v{v});" for (k, t), v in zip(ys, self.results)]
        return "\n".join([*lines, "}"])

    def _known(self, n: int) -> set:
        there = {k for k, d in enumerate(self.inputs) if d is not None}
        return there | {len(self.inputs) + k for k in range(n)}

    def _call(self, xs: list, ys: list, read: str, write: str) -> str:
        arguments = [read.format(k=k) for k, _ in xs] + [write.format(k=k) for k, _ in ys]
        arguments += [f"c{n}_{k}" for n, k in self.constants] + (["flag", "code"] if self.refuses else [])
        return f"apply({', '.join(arguments)});"

    def _packed(self, xs: list, ys: list, constants: str, fault: str) -> str:
        given = "".join(
            f", const {t}* __restrict__ x{k}, int dense{k}" + "".join(f", long long s{k}_{d}" for d in range(OUTER))
            for k, t in xs
        )
        made = "".join(f", {t}* y{k}" for k, t in ys)
        at = "".join(f" + i{d} * s{{k}}_{d}" for d in range(OUTER))
        place = (f"const {{t}}* p{{k}} = x{{k}} + (dense{{k}} ? at : 0){at};").format
        lines = [
            f'extern "C" __global__ void packed(long long n, long long inner, unsigned n1, unsigned n2{given}{made}'
            f"{constants}{fault}) {{",
            "    const long long step = (long long)gridDim.x * blockDim.x * V;",
            "    for (long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += step) {",
            "        long long at = i, i0 = 0, i1 = 0, i2 = 0;",
            "        if (inner < n) {  // the same for all threads",
            "            long long row = i / inner;",
            "            at = i - row * inner;",
            "            if (n2 > 1) { i2 = row % n2; row /= n2; }",
            "            if (n1 > 1) { i1 = row % n1; row /= n1; }",
            "            i0 = row;",
            "        }",
            *("        " + place(k=k, t=t) for k, t in xs),
            "        if (i + V <= n) {",
            *(f"            Pack<{t}, V> b{k};" for k, t in xs),
            *(
                f"            if (dense{k}) b{k} = *reinterpret_cast<const Pack<{t}, V>*>(p{k}); else "
                f"for (int e = 0; e < V; ++e) b{k}.v[e] = *p{k};"
                for k, t in xs
            ),
            *(f"            Pack<{t}, V> w{k};" for k, t in ys),
            "#pragma unroll",
            "            for (int e = 0; e < V; ++e) " + self._call(xs, ys, "b{k}.v[e]", "w{k}.v[e]"),
            *(f"            *reinterpret_cast<Pack<{t}, V>*>(y{k} + i) = w{k};" for k, t in ys),
            "        } else {",
            "            for (int e = 0; i + e < n; ++e) "
            + self._call(xs, ys, "p{k}[dense{k} ? e : 0]", "y{k}[i + e]"),
            "        }",
            "    }",
            "}",
        ]
        return "\n".join(lines)

    def _single(self, xs: list, ys: list, constants: str, fault: str) -> str:
        sizes = "".join(f", unsigned n{d}" for d in range(1, MOST))
        given = "".join(f", const {t}* x{k}" + "".join(f", long long s{k}_{d}" for d in range(MOST)) for k, t in xs)
        made = "".join(f", {t}* y{k}" for k, t in ys)
        lines = [
            f'extern "C" __global__ void single(long long n{sizes}{given}{made}{constants}{fault}) {{',
            "    const long long step = (long long)gridDim.x * blockDim.x;",
            "    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {",
            "        long long rest = i, at;",
            *(f"        long long o{k} = 0;" for k, _ in xs),
        ]
        for d in range(MOST - 1, 0, -1):
            moves = "".join(f" o{k} += at * s{k}_{d};" for k, _ in xs)
            lines.append(f"        if (n{d} > 1) {{ at = rest % n{d}; rest /= n{d};{moves} }}")
        lines += [f"        o{k} += rest * s{k}_0;" for k, _ in xs]
        lines += ["        " + self._call(xs, ys, "x{k}[o{k}]", "y{k}[i]"), "    }", "}"]
        return "\n".join(lines)

    def types(self, packed: bool) -> str:
        """The types of the arguments of a kernel."""
        count = sum(d is not None for d in self.inputs)
        each = "Pi" + "q" * OUTER if packed else "P" + "q" * MOST
        head = "qqII" if packed else "q" + "I" * (MOST - 1)
        return head + each * count + "P" * len(self.outputs) + "d" * len(self.constants) + "Pi" * bool(self.refuses)


@cache
def _compiled(chain: tuple) -> tuple:
    """(Chain, its module): one for all shapes."""
    made = Chain(*chain)
    name = "elementwise_" + "_".join(s[0] for s in made.steps[:4])
    return made, launch.load_text(name, made.text())


def call_of(inputs: tuple, outs: tuple, steps: tuple, results: tuple, spread: tuple | None = None) -> Callable:
    """The call of a chain: ``call(*arrays, *outs)``. ``spread``: as in ops/fused.py, for inputs that repeat."""
    held = tuple((name, tuple((c, 0.0) for c, _ in constants), sources) for name, constants, sources in steps)
    shorts = tuple(None if s is None else s.dtype.short for s in inputs)
    chain, module = _compiled((shorts, tuple(o.dtype.short for o in outs), held, results))
    constants = [float(v) for _, given, _ in steps for _, v in given]
    flag: tuple = ()
    if chain.refuses:
        from tensorlite.backends import cuda

        flag = cuda.fault_flag(chain.refuses[2], chain.refuses[1])
    n = outs[0].size
    if not n:
        return lambda *arrays: None
    packed = module.kernel("packed", chain.types(True))
    single = module.kernel("single", chain.types(False))
    count, size = len(inputs), chain.pack
    plans: dict = {}

    def call(*arrays: Any) -> None:
        given, made = arrays[:count], arrays[count:]
        key = tuple([None if a is None else a.strides for a in given])
        plan = plans.get(key)
        if plan is None:
            plan = plans[key] = _plan(given, made[0], size, spread)
        dims, steps_of = plan
        there = [a for a in given if a is not None]
        if dims[0] == "packed" and _aligned(size, there, made):
            rows = [v for a, s in zip(there, steps_of) for v in (a, *s)]
            packed((min(-(-n // (BLOCK * size)), BLOCKS),), (BLOCK,), n, *dims[1], *rows, *made, *constants, *flag)
        else:
            dims, steps_of = plans.get((key, 1)) or plans.setdefault((key, 1), _plan(given, made[0], 0, spread))
            rows = [v for a, s in zip(there, steps_of) for v in (a, *s)]
            single((min(-(-n // BLOCK), BLOCKS),), (BLOCK,), n, *dims[1], *rows, *made, *constants, *flag)

    return call


def _aligned(size: int, *arrays: Any) -> bool:
    """Whether elements can be read ``size`` at a time."""
    return not any(a.data.ptr % (size * a.itemsize) for row in arrays for a in row)


def _plan(given: tuple, out: Any, size: int, spread: tuple | None) -> tuple:
    """((kernel, its sizes), steps of each input) for these layouts; ``single`` where ``size`` is 0 or it must be."""
    order = sorted(range(out.ndim), key=lambda d: (-out.strides[d], d))
    sizes = [out.shape[d] for d in order]
    rows = []
    for k, a in enumerate(given):
        if a is None:
            continue
        if spread is not None and spread[k] is not None:
            rows.append(_spread_steps(sizes, *spread[k]))
            continue
        lead = out.ndim - a.ndim
        rows.append([0 if d < lead or a.shape[d - lead] == 1 else a.strides[d - lead] // a.itemsize for d in order])
    sizes, rows = _joined(sizes, rows)
    if size and len(sizes) <= OUTER + 1:
        inner, last = sizes[-1], [r[-1] for r in rows]
        outer = [[0] * (OUTER + 1 - len(sizes)) + r[:-1] for r in rows]
        fits = set(last) <= {0, 1} and (len(sizes) == 1 or inner % size == 0)
        if fits and all(not v % size for r, s in zip(outer, last) if s for v in r):
            n1, n2 = ([1] * OUTER + sizes[:-1])[-2:]
            return ("packed", (inner, n1, n2)), [(s, *o) for s, o in zip(last, outer)]
    if len(sizes) > MOST:
        raise ValueError(f"elementwise: {len(sizes)} dimensions that cannot be joined; wanted at most {MOST}")
    pad = MOST - len(sizes)
    return ("single", ([1] * pad + sizes)[1:]), [[0] * pad + r for r in rows]


def _joined(sizes: list, rows: list) -> tuple[list, list]:
    """Neighbouring dimensions made one where every input goes through them in even steps."""
    kept = [d for d, n in enumerate(sizes) if n != 1] or [0] * bool(sizes)
    if not kept:
        return [1], [[0] for _ in rows]
    out_sizes, out_rows = [sizes[kept[0]]], [[r[kept[0]]] for r in rows]
    for d in kept[1:]:
        if all(o[-1] == r[d] * sizes[d] for o, r in zip(out_rows, rows)):
            out_sizes[-1] *= sizes[d]
            for o, r in zip(out_rows, rows):
                o[-1] = r[d]
        else:
            out_sizes.append(sizes[d])
            for o, r in zip(out_rows, rows):
                o.append(r[d])
    return out_sizes, out_rows


def _spread_steps(sizes: list, period: int, repeat: int) -> list:
    """The steps of an input whose element i // repeat % period meets element i of the output, in memory order."""
    steps, inside = [], 1
    for n in reversed(sizes):
        reached = inside // repeat
        steps.append(reached if inside >= repeat and reached < period and period > 1 else 0)
        inside *= n
    return steps[::-1]


def _copy(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """The same elements, in another type or in another order in memory."""
    return call_of(specs, outs, (("clone", (), (0,)),), (1,))


cast = laid = _copy


def _factory(name: str) -> Callable:
    def factory(specs: tuple, outs: tuple, kw: dict) -> Callable:
        sources = tuple(None if s is None else k for k, s in enumerate(specs))
        step = (name, tuple((k, v) for k, v in kw.items()), sources)
        return call_of(specs, outs, (step,), (len(specs),))

    return factory


def fused(specs: tuple, outs: tuple, kw: dict) -> Callable:
    """A chain of ops as one kernel (ops/fused.py)."""
    return call_of(specs, outs, kw["steps"], kw["results"], kw["spread"])


def __getattr__(name: str) -> Callable:
    if name in NAMES:
        return _factory(name)
    raise AttributeError(f"elementwise: no kernel {name!r}")


def _variants() -> list[Variant]:
    """What the tests compile: every op in float, some in every type."""
    made = []
    for name in NAMES:
        inputs, constants = SAMPLES.get(name, (("x", "x"), ()))
        for d in ("f4",) if name not in ("add", "relu", "where") else ("f4", "f2", "bf2", "f8", "i8"):
            types = tuple("b1" if k == "b" else d for k in inputs)
            out = "b1" if name in BOOLS else d
            if d == "f4" and name.startswith("bitwise"):
                types, out = ("i4",) * len(types), "i4"
            step = (name, tuple((c, 0.0) for c in constants), tuple(range(len(types))))
            text = Chain(types, (out,), (step,), (len(types),)).text()
            made.append(Variant({}, {"packed": Needs(BLOCK, blocks=4), "single": Needs(BLOCK, blocks=2)}, text=text))
    return made


UNARY = (
    "neg", "clone", "abs", "sign", "reciprocal", "exp", "log", "log1p", "expm1", "log2", "log10", "sqrt", "sin",
    "cos", "tanh", "erf", "floor", "ceil", "trunc", "round", "logical_not", "isnan", "isinf", "isfinite",
    "bitwise_not", "relu", "sigmoid", "silu", "selu", "logsigmoid", "mish", "hardsigmoid", "hardswish",
)  # fmt: skip
BOOLS = (
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "logical_not", "isnan", "isinf",
    "isfinite", "isclose",
)  # fmt: skip
SAMPLES: dict = dict.fromkeys(UNARY, (("x",), ())) | {
    "clamp": (("x", "x", "x"), ()),
    "pow_dx": (("x", "x", "x"), ()),
    "where": (("b", "x", "x"), ()),
    "masked_fill": (("x", "b", "x"), ()),
    "isclose": (("x", "x"), ("rtol", "atol", "equal_nan")),
    "elu": (("x",), ("alpha",)),
    "elu_dx": (("x", "x"), ("alpha",)),
    "celu": (("x",), ("alpha",)),
    "gelu": (("x",), ("approximate",)),
    "gelu_dx": (("x", "x"), ("approximate",)),
    "leaky_relu": (("x",), ("slope",)),
    "leaky_relu_dx": (("x", "x"), ("slope",)),
    "softplus": (("x",), ("beta", "threshold")),
    "softplus_dx": (("x", "x"), ("beta", "threshold")),
    "hardtanh": (("x",), ("low", "high")),
    "hardshrink": (("x",), ("lambd",)),
    "softshrink": (("x",), ("lambd",)),
    "threshold": (("x",), ("threshold", "value")),
}
VARIANTS = _variants()
