"""The way back of ops with any number of inputs and outputs: rules called with arguments looked up by name. Floor 2.

Ops with one output and few inputs have a text of their own instead (template.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tensorlite.autograd.node import Node, Pick
from tensorlite.autograd.op import Entry, Plan
from tensorlite.autograd.tensor import wrap


def general_plan(op: Any, entry: Entry, args: tuple, wanted: list, made: list) -> tuple[Plan, tuple]:
    """The plan for an op of any number of inputs and outputs, and what to save for it."""
    key = tuple(wanted)
    p = entry.general.get(key)
    if p is None:
        p = entry.general[key] = _make_plan(op, entry, wanted)
    saved = tuple(
        v
        for n in p.names
        if n in op.inputs
        for v in (args[len(op.inputs) - 1 :] if n == op.variadic else (args[op.inputs.index(n)],))
    )
    return p, saved + tuple(v for k in _kept(op, p) for v in (made[k]._arr, made[k]._ver))


def _kept(op: Any, p: Plan) -> Any:
    """Which outputs are saved: all where a rule names ``y``, else those it names one by one."""
    return range(len(p.outs)) if "y" in p.names else [k for k, n in enumerate(op.outputs) if n in p.names]


def _make_plan(op: Any, entry: Entry, wanted: list) -> Plan:
    p = Plan()
    p.op, p.name, p.kw, p.specs, p.out, p.outs = op, node_name(op.name), entry.kw, entry.specs, entry.out, entry.outs
    p.sums, p.single, p.fresh = None, len(wanted) == 1, True
    rules = [(op.inputs[min(k, len(op.inputs) - 1)], k) for k in wanted]
    asked = set(op.rule_arguments(op.joint)) if op.joint else {a for i, _ in rules for a in op.arguments.get(i, ())}
    quick = set(op.rule_arguments(op.fused_joint)) if op.fused_joint else asked
    p.names = tuple(n for n in [*op.inputs, *op.outputs, "y"] if n in asked | quick)
    want = tuple(k in wanted for k in range(len(entry.specs)))
    p.back = p.fast = partial(_back, op, op.joint, rules, asked, want)
    if op.fused_joint:
        p.fast = partial(_back, op, op.fused_joint, rules, quick, want)
    return p


def _back(op: Any, joint: Any, rules: list, asked: set, want: tuple, g: Any, node: Node) -> Any:
    """Gradients by the rules, whose arguments are looked up by name. Several outputs come as tuples."""
    p, saved = node.plan, list(node.saved)
    values: dict[str, Any] = {"g": g, "want": want, "y_spec": p.out, **p.kw}
    for k, i in enumerate(op.inputs):
        many = i == op.variadic
        values[f"{i}_spec"] = p.specs[k:] if many else p.specs[k]
        if i in p.names:
            n = len(p.specs) - k if many else 1
            values[i] = tuple(saved[:n]) if many else saved[0]
            del saved[:n]
    # outputs are rebuilt from what was saved: an output Tensor kept by its own node would be a cycle
    several = op.multiple or len(p.outs) > 1
    kept = _kept(op, p)
    past = [Pick(node, k) if several and k not in op.silent_outputs else None if several else node for k in kept]
    ys = [wrap(saved[2 * n], p.outs[k], past[n], saved[2 * n + 1]) for n, k in enumerate(kept)]
    if "y" in p.names:
        values["y"] = tuple(ys) if several else ys[0]
    values |= zip((op.outputs[k] for k in kept if k < len(op.outputs)), ys)
    if joint:
        found = joint(**{n: values[n] for n in asked})
        grads = [found[k] for _, k in rules]
    else:
        grads, lists = [], {}
        for i, k in rules:
            rule = op.rules.get(i)
            if rule is None:
                op.missing(i, g)
            if i not in lists:
                lists[i] = rule(**{n: values[n] for n in op.arguments[i]})  # type: ignore[misc]
            grads.append(lists[i][k - len(op.inputs) + 1] if i == op.variadic else lists[i])
    return grads[0] if p.single else tuple(grads)


def attach(node: Node | None, made: list) -> None:
    """Give outputs their node; each of several differentiable ones a Pick of it."""
    if node is None:
        return
    if len(made) == 1 and not node.plan.op.multiple:
        made[0]._node = node
        return
    for k, t in enumerate(made):
        if t._spec.dtype.is_floating_point and k not in node.plan.op.silent_outputs:
            t._node = Pick(node, k)


def node_name(name: str) -> str:
    """PyTorch's name of an op's node: add -> AddBackward0."""
    return "".join(part.capitalize() for part in name.split("_")) + "Backward0"
