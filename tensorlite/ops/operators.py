"""What Python's operators do on tensors. Floor 3."""

from __future__ import annotations

from typing import Any

from tensorlite.autograd.methods import attach_method, method
from tensorlite.autograd.run import run
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.weak import lift
from tensorlite.ops.compare import (
    bitwise_and_p,
    bitwise_not_p,
    bitwise_or_p,
    bitwise_xor_p,
    eq_p,
    ge_p,
    gt_p,
    le_p,
    lt_p,
    ne_p,
)
from tensorlite.ops.elementwise import abs_p, add_p, div_p, floor_divide_p, mul_p, neg_p, pow_p, remainder_p, sub_p


def _swapped(name: str, primitive_call: Any):
    def swapped(self: Tensor, other: Any) -> Tensor:
        if not isinstance(other, Tensor):
            other = lift(other, self)
        return primitive_call(other, self) if isinstance(other, Tensor) or hasattr(other, "dtype") else NotImplemented

    swapped.__name__ = name
    return swapped


def _inplace_operator(name: str):
    def operator(self: Tensor, other: Any) -> Tensor:
        return getattr(self, name)(other)

    return operator


for _name, _call in (
    ("add", add_p),
    ("sub", sub_p),
    ("mul", mul_p),
    ("truediv", div_p),
    ("floordiv", floor_divide_p),
    ("mod", remainder_p),
    ("pow", pow_p),
    ("and", bitwise_and_p),
    ("or", bitwise_or_p),
    ("xor", bitwise_xor_p),
):
    attach_method(f"__{_name}__", _call)
    attach_method(f"__r{_name}__", _swapped(f"__r{_name}__", _call))
for _name, _method in (
    ("add", "add_"),
    ("sub", "sub_"),
    ("mul", "mul_"),
    ("truediv", "div_"),
    ("pow", "pow_"),
    ("floordiv", "floor_divide_"),
    ("mod", "remainder_"),
    ("and", "bitwise_and_"),
    ("or", "bitwise_or_"),
    ("xor", "bitwise_xor_"),
):
    attach_method(f"__i{_name}__", _inplace_operator(_method))
attach_method("__neg__", neg_p)
attach_method("__abs__", abs_p)
attach_method("__invert__", bitwise_not_p)
attach_method("__pos__", lambda self: self)
for _name, _call in (("lt", lt_p), ("le", le_p), ("gt", gt_p), ("ge", ge_p)):
    attach_method(f"__{_name}__", _call)


def _equal(name: str, call: Any, otherwise: bool):
    def compare(self: Tensor, other: Any) -> Any:
        # == and != with what is no tensor and no number are False and True, as in PyTorch
        try:
            return call(self, other)
        except TypeError:
            return otherwise

    compare.__name__ = name
    setattr(Tensor, name, compare)


_equal("__eq__", eq_p, False)
_equal("__ne__", ne_p, True)


@method("_accumulate")
def _accumulate(self: Tensor, g: Tensor) -> None:
    """self += g for a sum of gradients that the tape owns: no history, no version, no check."""
    entry = add_p.op.cache.get((self._spec, g._spec)) or add_p.op.entry((self._spec, g._spec), {})
    run(entry, (self._arr, g._arr), (self._arr,))
