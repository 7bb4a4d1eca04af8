"""The way back of a compiled forward: a second program, and the node that runs it. Floor 4."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd import run as running
from tensorlite.autograd.general import attach
from tensorlite.autograd.node import Node, tick
from tensorlite.autograd.op import Plan as TapePlan
from tensorlite.autograd.tensor import Tensor, current_node, new, wrap, zeros_of
from tensorlite.errors import GradError
from tensorlite.program.capture import Capture
from tensorlite.program.executor import Text, stepwise
from tensorlite.program.passes import apply
from tensorlite.program.plan import Plan
from tensorlite.program.record import ARG, BUFFER, STATE, Part, Step, Storage


class _ProgramOp:
    """What the tape asks of an op."""

    def __init__(self, name: str, outputs: int):
        self.name, self.multiple, self.silent_outputs = name, outputs > 1, ()


class Backward:
    """The backward of one program: its plan, and what its node needs of each call.

    Its arguments are those of the forward, the gradients of the outputs, and the buffers that the forward saved.
    """

    def __init__(self, capture: Capture, steps: list[Step], saved: list[Part], program: Any, passes: dict[str, bool]):
        self.program, self.saved, self.nodes_of = program, saved, capture.out_nodes
        first = len(capture.positions) + len(self.nodes_of)
        moved = {id(p.storage): _argument(first + k, p.storage) for k, p in enumerate(saved)}
        self.parts = [None if p is None else _moved(p, moved) for p in capture.end_parts]
        self.specs = capture.end_specs
        steps = [_with(step, moved) for step in steps]
        self.plan = Plan(steps, [p for p in self.parts if p is not None], [], program.name + " backward")
        apply(self.plan, passes)
        # whose gradients come out: an argument by its place, or a leaf
        standins = {
            id(t._node): k for k, t in enumerate(capture.standins) if k not in capture.fixed and t._node is not None
        }
        self.ends = [standins.get(id(e), e) for e in capture.ends]
        states = {id(p.storage): p.storage for step in steps for p in step.parts() if p.storage.kind is STATE}
        self.state = [t for s in states.values() for t in s.tensors[:1]]
        specs = [capture.result_specs[k] for k in self.nodes_of]
        self.plan_of_node = p = TapePlan()
        p.op, p.name, p.kw, p.specs = _ProgramOp(program.name, len(specs)), "CompiledBackward", {}, ()
        p.outs, p.out, p.sums, p.fresh = tuple(specs), specs[0], None, False
        p.single = len(self.ends) == 1
        p.back, p.fast = self._twice, self._back
        self.replay = self._compile()

    def _compile(self) -> Any:
        specs = {p.key: s for p, s in zip(self.parts, self.specs) if p is not None}
        text = Text(self.plan, specs)
        text.steps()
        used = {p.storage.index for step in self.plan.steps for p in step.parts() if p.storage.kind is ARG}
        used |= {p.storage.index for p in self.plan.outputs if p.storage.kind is ARG}
        results = ", ".join("None" if p is None else self._result(text, p) for p in self.parts)
        lines = [f"a{k} = arrays[{k}]" for k in sorted(used)] + text.lines + [f"return ({results},)"]
        source = "def replay(arrays):\n" + "\n".join("    " + line for line in lines)
        exec(compile(source, f"<tensorlite program {self.plan.name}>", "exec"), text.names)
        return text.names["replay"]

    def _result(self, text: Text, p: Part) -> str:
        return text.array(p) + ("" if p.storage.kind is BUFFER else ".copy()")

    def attach(self, made: list[Tensor], tensors: list[Tensor], saved: tuple) -> None:
        """Give the outputs of a call their history."""
        parents = [current_node(tensors[e]) if isinstance(e, int) else e for e in self.ends]
        node = new(Node)
        node.parents, node.plan = tuple(parents), self.plan_of_node
        given = [tensors[k] for k in self.program.positions]
        node.saved = (*given, *self.state, (len(given), saved))
        node.seq = tick()
        node.extra = None if running.trace is None else running.trace()
        attach(node, made)

    def _back(self, g: Any, node: Node) -> Any:
        count, saved = node.saved[-1]
        arguments = [t._arr for t in node.saved[:count]]
        grads = g if isinstance(g, list) else [g]
        for one, spec in zip(grads, self.plan_of_node.outs):
            one = zeros_of(spec.packed()) if one is None else one
            if one._spec is not spec.packed():
                one = _laid(one, spec.packed())
            arguments.append(one._arr)
        arguments += saved
        if running.seam is not None:
            found = iter(stepwise(self.plan, arguments))
            arrays = [None if p is None else next(found) for p in self.parts]
        else:
            arrays = self.replay(arguments)
        made = [None if a is None else wrap(a, s) for a, s in zip(arrays, self.specs)]
        return made[0] if self.plan_of_node.single else tuple(made)

    def _twice(self, g: Any, node: Node) -> Any:
        raise GradError(
            f"{self.program.name}: create_graph is not supported through a compiled function; call the plain function "
            "(its .fn) where a second derivative is wanted"
        )


def _laid(g: Tensor, spec: Any) -> Tensor:
    """A gradient in the layout that was recorded."""
    array = spec.empty()
    array[...] = g._arr
    return wrap(array, spec)


def _argument(index: int, of: Storage) -> Storage:
    s = Storage.__new__(Storage)
    s.kind, s.index, s.array, s.nbytes = ARG, index, None, of.nbytes
    s.pristine = s.source = s.alive = None
    s.tensors, s.first, s.name = [], -1, ""
    return s


def _moved(p: Part | None, moved: dict[int, Storage]) -> Part | None:
    if p is None or id(p.storage) not in moved:
        return p
    return Part(moved[id(p.storage)], p.offset, p.shape, p.strides, p.dtype)


def _with(step: Step, moved: dict[int, Storage]) -> Step:
    made = Step(
        step.entry, tuple(_moved(p, moved) for p in step.ins), tuple(_moved(p, moved) for p in step.outs),
        tuple(_moved(p, moved) for p in step.writes), step.module, step.line,
    )  # fmt: skip
    made.origin = step.origin
    return made
