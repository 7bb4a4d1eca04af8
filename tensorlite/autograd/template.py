"""The text of an op's call, written out once for each primitive and compiled. Floor 2.

``Primitive.apply`` says in plain Python what a call does. For ops with one output and up to three inputs this file
writes the same as straight-line code without loops: that is what makes an op cheaper than PyTorch's (loops over
arguments cost four times as much). ``run``, the place where numbers are made, is the seam test in this text.
"""

from collections.abc import Sequence

MAX_INPUTS = 3


def call_source(
    name: str,
    inputs: Sequence[str],
    optional: Sequence[str],
    params: Sequence[tuple[str, str]],
    tracked: Sequence[str],
    saves: dict[int, Sequence[str]],
    *,
    view: bool,
    numbers: bool,
    public: dict[str, str],
) -> str:
    """The source of the op's function.

    ``params`` are (name, default text); ``tracked`` the inputs that may want a gradient; ``saves[mask]`` the names
    that the rules of the wanted inputs (bits of ``mask``) ask for, "y" being the output; ``public`` the names of inputs
    to those who call, where they differ.
    """
    # constants may come by position too, which saves 30 ns, unless Python's rule on defaults forbids it
    star = ["*"] if params and (optional or any(d for _, d in params)) else []
    signature = ", ".join(
        [
            *(public.get(i, i) + ("=None" if i in optional else "") for i in inputs),
            *star,
            *(f"{p}{d}" for p, d in params),
        ]
    )
    code = [f"def {name}({signature}):", *(f"    {i} = {p}" for i, p in public.items())]
    if numbers:
        first, *others = inputs
        code += [f"    if type({o}) is not Tensor: {o} = lift({o}, {first})" for o in others]
    key = ", ".join(
        [
            *(f"None if {i} is None else {i}._spec" if i in optional else f"{i}._spec" for i in inputs),
            *(p for p, _ in params),
        ]
    )
    keywords = ", ".join(f"{p}={p}" for p, _ in params)
    code += [
        f"    try: _e = cache[{key}]",
        "    except (KeyError, AttributeError, TypeError): _e = None",
        f"    if _e is None: return miss(({', '.join(inputs)},), dict({keywords}))",
    ]
    for i in inputs:
        there = f"{i} is not None and " if i in optional else ""
        code.append(f"    if {there}{i}._view is not None: current_node({i})")
    arrays = ", ".join(f"None if {i} is None else {i}._arr" if i in optional else f"{i}._arr" for i in inputs)
    if view:
        code.append(f"    _y = _e.kernel({arrays})")
    else:
        code += [
            "    if seam is None:",
            "        _f = _e.fresh",
            "        if _f is None:",
            "            _y = _e.empty()",
            f"            _e.kernel({arrays}, _y)",
            f"        else: _y = _f({arrays})",
            f"    else: _y = seam(_e, ({arrays},), None)",
        ]
    code += ["    _t = new(Tensor)", "    _t._arr = _y", "    _t._spec = _e.out"]
    if view:
        code += [
            f"    _t._ver = _v = {inputs[0]}._ver",
            "    _t._view = _w = new(View)",
            f"    _w.parent = {inputs[0]}",
            "    _w.entry = _e",
            "    _w.stamp = _v[0]",
            "    _w.made = _m = mode()",
        ]
    else:
        code += ["    _t._view = None", "    _t._ver = _v = [0, 0]"]
    code += _node_source(tracked, optional, saves, "_m" if view else "mode()") if tracked else ["    _t._node = None"]
    code.append("    return _t")
    return "\n".join(code)


def _node_source(
    tracked: Sequence[str], optional: Sequence[str], saves: dict[int, Sequence[str]], mode: str
) -> list[str]:
    code = [
        f"    _n{i} = None if {i} is None else {i}._node" if i in optional else f"    _n{i} = {i}._node"
        for i in tracked
    ]
    wanted = " or ".join(f"_n{i} is not None" for i in tracked)
    code += [f"    if ({wanted}) and {mode}.grad:", "        _n = _t._node = new(Node)"]

    def branch(at: int, mask: int, indent: str) -> None:
        if at == len(tracked):
            if not mask:
                return
            parents = ", ".join(f"_n{i}" for k, i in enumerate(tracked) if mask >> k & 1)
            saved = "".join("_y, _v, " if s == "y" else f"{s}, " for s in saves[mask])
            code.append(f"{indent}_n.parents = ({parents},)")
            code.append(f"{indent}_n.saved = ({saved})")
            code.append(f"{indent}_n.plan = _e.plans[{mask}]")
            return
        here = tracked[at]
        if at == len(tracked) - 1 and not mask:
            branch(at + 1, mask | 1 << at, indent)
            return
        code.append(f"{indent}if _n{here} is not None:")
        branch(at + 1, mask | 1 << at, indent + "    ")
        code.append(f"{indent}else:")
        branch(at + 1, mask, indent + "    ")

    branch(0, 0, "        ")
    code += [
        "        _n.seq = tick()",
        "        _n.extra = None if trace is None else trace()",
        "    else: _t._node = None",
    ]
    return code


def back_source(
    name: str,
    mask: int,
    wanted: Sequence[str],
    rules: dict[str, Sequence[str]],
    saves: Sequence[str],
    params: Sequence[str],
    inputs: Sequence[str],
    prefix: str,
) -> str:
    """The source of the backward of one choice of wanted inputs: a gradient, or a tuple of them.

    ``rules[i]`` are the argument names of input ``i``'s rule; the rule itself is in the namespace as ``prefix + i``.
    """
    used = {a for i in wanted for a in rules[i]}
    code = [f"def {name}_back_{mask}(g, _node):"]
    if saves:
        code.append("    " + "".join("_y, _v, " if s == "y" else f"{s}, " for s in saves) + "= _node.saved")
    if "y" in saves:
        code.append("    y = wrap(_y, _node.plan.out, _node, _v)")
    code += [f"    {p} = _node.plan.kw[{p!r}]" for p in params if p in used]
    code += [f"    {i}_spec = _node.plan.specs[{k}]" for k, i in enumerate(inputs) if f"{i}_spec" in used]
    if "y_spec" in used:
        code.append("    y_spec = _node.plan.out")
    grads = ", ".join(f"{prefix}{i}({', '.join(rules[i])})" for i in wanted)
    code.append(f"    return {grads}")
    return "\n".join(code)
