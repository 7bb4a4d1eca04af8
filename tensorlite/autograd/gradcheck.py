"""Gradients checked against finite differences, for users and for the tests of every op. Floor 2.

The Jacobian J is never built: for random u and v, ``u . (J v)`` comes from two forward calls (a central difference)
and ``(u J) . v`` from one backward. A wrong entry of J shows in nearly every direction. Only when a check fails are
single entries looked at, so that the message can say where.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.autograd.modes import enable_grad
from tensorlite.autograd.tape import grad
from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.autograd.views import overlaps_itself
from tensorlite.dtypes import float64
from tensorlite.errors import GradError

DIRECTIONS = 3  # random directions tried for each input; 1 with fast_mode
LOCATE_LIMIT = 10_000  # inputs larger than this are not searched for the worst entry


class GradcheckError(GradError):
    """The gradient of a function is not what finite differences say."""


def gradcheck(
    func: Callable,
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compare backward of ``func`` with central differences; True where they agree.

    Args:
        func: takes ``inputs`` and returns a Tensor or a tuple of them. It must give the same result each time.
        inputs: a Tensor or a tuple; those with ``requires_grad`` are checked, and should be float64.
        eps: the step of the difference.
        atol, rtol: what may lie between the two: ``atol + rtol * |numerical|``.
        raise_exception: raise where they differ; else return False.
        nondet_tol: by how much two runs of backward may differ.
        check_undefined_grad: also check that backward works where only one of several outputs has a gradient.
        check_grad_dtypes: also check that gradients have their inputs' dtype.
        fast_mode: one random direction instead of three.

    Forward-mode and batched gradients are not part of tensorlite: asking for them is an error.

    >>> import tensorlite as tl
    >>> x = tl.tensor([0.5, 2.0], dtype=tl.float64, requires_grad=True)
    >>> tl.autograd.gradcheck(lambda x: x * x.exp(), x)
    True
    """
    for name, asked in (
        ("check_batched_grad", check_batched_grad),
        ("check_forward_ad", check_forward_ad),
        ("check_batched_forward_grad", check_batched_forward_grad),
        ("masked", masked),
    ):
        if asked:
            raise NotImplementedError(f"gradcheck: {name}=True is not supported; wanted False")
    inputs = _tuple(inputs)
    targets = _checked_inputs(inputs)
    check = _Check(
        func,
        inputs,
        targets,
        eps,
        atol,
        rtol,
        nondet_tol,
        check_grad_dtypes,
        check_undefined_grad,
        1 if fast_mode else DIRECTIONS,
    )
    try:
        if check_backward_ad:
            check.run()
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable,
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """``gradcheck`` of the gradient: the second derivatives of ``func``, by inputs and by ``grad_outputs``.

    ``grad_outputs`` are drawn at random unless given. The other arguments are those of ``gradcheck``.

    >>> import tensorlite as tl
    >>> x = tl.tensor([0.5, 2.0], dtype=tl.float64, requires_grad=True)
    >>> tl.autograd.gradgradcheck(lambda x: x**3, x)
    True
    """
    if check_fwd_over_rev:
        raise NotImplementedError("gradgradcheck: check_fwd_over_rev=True is not supported; wanted False")
    inputs = _tuple(inputs)
    targets = _checked_inputs(inputs)
    if grad_outputs is None:
        outputs = _differentiable(_outputs(func, inputs))
        rng = np.random.default_rng(1)
        starts = tuple(_random_like(y, rng, gen_non_contig_grad_outputs).requires_grad_() for y in outputs)
    else:
        starts = _tuple(grad_outputs)
    count = len(inputs)

    def first_order(*args: Any) -> tuple:
        outputs = _differentiable(_outputs(func, args[:count]))
        if not outputs:
            return ()
        wanted = [t for t in args[:count] if isinstance(t, Tensor) and t.requires_grad]
        found = grad(outputs, wanted, args[count:], create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None and g.requires_grad)

    if not check_rev_over_rev or not (starts and targets):
        return True
    return gradcheck(
        first_order,
        (*inputs, *starts),
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        fast_mode=fast_mode,
        masked=masked,
    )


class _Check:
    """One run of gradcheck: a function, its inputs, and how near the two sides must be."""

    def __init__(
        self,
        func: Callable,
        inputs: tuple,
        targets: dict[int, Tensor],
        eps: float,
        atol: float,
        rtol: float,
        nondet_tol: float,
        check_dtypes: bool,
        check_undefined: bool,
        directions: int,
    ):
        self.func, self.inputs, self.targets, self.eps, self.atol, self.rtol = func, inputs, targets, eps, atol, rtol
        self.nondet_tol, self.check_dtypes, self.check_undefined = nondet_tol, check_dtypes, check_undefined
        self.directions = directions
        self.rng = np.random.default_rng(0)

    def run(self) -> None:
        every = _outputs(self.func, self.inputs)
        where = [k for k, y in enumerate(every) if _is_differentiable(y)]
        outputs = [every[k] for k in where]
        if not outputs:
            self._constant([k for k, y in enumerate(every) if isinstance(y, Tensor) and y.is_floating_point()])
            return
        for _ in range(self.directions):
            u = [_direction(self.rng, y.shape) for y in outputs]
            gradients = [self._backward(outputs, {j: u[j]}) for j in range(len(outputs))]
            if self.check_undefined and len(outputs) > 1:
                self._together(gradients, self._backward(outputs, dict(enumerate(u))))
            for i, x in self.targets.items():
                v = _direction(self.rng, x.shape)
                moved = self._difference(x, v, where)
                for j in range(len(outputs)):
                    numerical, analytical = float((u[j] * moved[j]).sum()), float((gradients[j][i] * v).sum())
                    if not self._near(numerical, analytical):
                        raise GradcheckError(
                            self._describe(i, j, x, u[j], gradients[j][i], numerical, analytical, where)
                        )
        again = self._backward(outputs, {0: u[0]})
        for i in self.targets:
            self._repeatable(i, gradients[0][i], again[i])

    def _near(self, numerical: float, analytical: float) -> bool:
        return bool(np.isclose(analytical, numerical, rtol=self.rtol, atol=self.atol, equal_nan=True))

    def _values(self, where: list[int]) -> list[np.ndarray]:
        every = _outputs(self.func, self.inputs)
        return [_wide(every[k]) for k in where]

    def _difference(self, x: Tensor, v: np.ndarray, where: list[int]) -> list[np.ndarray]:
        """J v of every output, by moving x along v and back."""
        kept = x._arr.copy()
        try:
            x._arr[...] = kept + self.eps * v
            above = self._values(where)
            x._arr[...] = kept - self.eps * v
            below = self._values(where)
        finally:
            x._arr[...] = kept
        with np.errstate(invalid="ignore"):  # where the output is infinite on both sides it does not move
            return [np.where(a == b, 0.0, (a - b) / (2.0 * self.eps)) for a, b in zip(above, below)]

    def _backward(self, outputs: list, starts: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """u J of every input, for gradients that start at some of the outputs."""
        roots = [outputs[j] for j in starts]
        given = [from_array(u.astype(outputs[j].dtype.np)) for j, u in starts.items()]
        found = grad(roots, list(self.targets.values()), given, retain_graph=True, allow_unused=True)
        result = {}
        for (i, x), g in zip(self.targets.items(), found):
            if g is None:
                result[i] = np.zeros(x.shape)
                continue
            if g._spec.shape != x._spec.shape:
                raise GradcheckError(
                    f"gradcheck: the gradient of input {i} has shape {tuple(g.shape)}; "
                    f"wanted {tuple(x.shape)}, as the input"
                )
            if self.check_dtypes and g.dtype is not x.dtype:
                raise GradcheckError(
                    f"gradcheck: the gradient of input {i} is {g.dtype}; wanted {x.dtype}, as the input"
                )
            result[i] = _wide(g)
        return result

    def _together(self, single: list, joint: dict[int, np.ndarray]) -> None:
        for i in self.targets:
            total = sum(g[i] for g in single)
            if not np.allclose(total, joint[i], rtol=self.rtol, atol=self.atol, equal_nan=True):
                raise GradcheckError(
                    f"gradcheck: the gradient of input {i} from all outputs together is not the sum of "
                    "those from each alone; wanted outputs without a gradient to count as zeros"
                )

    def _repeatable(self, i: int, first: np.ndarray, second: np.ndarray) -> None:
        if first.size and not np.allclose(first, second, rtol=0.0, atol=self.nondet_tol, equal_nan=True):
            raise GradcheckError(
                f"gradcheck: backward is not reentrant: two runs differ for input {i} by "
                f"{np.abs(first - second).max():.3g}; wanted at most nondet_tol={self.nondet_tol}"
            )

    def _constant(self, where: list[int]) -> None:
        """No output has a gradient, so no output may depend on the inputs."""
        for i, x in self.targets.items():
            for j, moved in zip(where, self._difference(x, _direction(self.rng, x.shape), where)):
                if not np.allclose(moved, 0.0, atol=self.atol):
                    raise GradcheckError(
                        f"gradcheck: output {j} changes with input {i} but does not require grad; "
                        "wanted a differentiable output (numerical gradient for function expected to be "
                        "zero)"
                    )

    def _describe(
        self,
        i: int,
        j: int,
        x: Tensor,
        u: np.ndarray,
        gradient: np.ndarray,
        numerical: float,
        analytical: float,
        where: list[int],
    ) -> str:
        text = (
            f"gradcheck: jacobian mismatch for output {j} with respect to input {i} ({x._spec}): along a random "
            f"direction central differences give {numerical:.10g} and backward gives {analytical:.10g}"
        )
        if x._spec.size > LOCATE_LIMIT:
            return text
        worst, most, wrong = None, -1.0, 0
        for at in np.ndindex(tuple(x.shape)):
            one = np.zeros(x.shape)
            one[at] = 1.0
            slope = float((u * self._difference(x, one, where)[j]).sum())
            if not self._near(slope, float(gradient[at])):
                wrong += 1
                off = abs(slope - float(gradient[at]))
                if worst is None or not off <= most:  # nan is the worst of all
                    worst, most = (at, slope, float(gradient[at])), off
        if worst is None:
            return text
        at, slope, found = worst
        return (
            f"{text}; {wrong} of {x._spec.size} elements differ, most of all {list(at)}: numerical {slope:.10g}, "
            f"analytical {found:.10g}"
        )


def _tuple(given: Any) -> tuple:
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def _checked_inputs(inputs: tuple) -> dict[int, Tensor]:
    """The inputs to check, by their place."""
    targets: dict[int, Tensor] = {}
    for k, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.requires_grad and not any(x is other for other in targets.values()):
            if x.dtype is not float64:
                warnings.warn(
                    f"gradcheck: input #{k} requires gradient and is not a double precision floating point "
                    f"({x.dtype}); the check will likely fail",
                    stacklevel=3,
                )
            if overlaps_itself(x):
                raise GradError(
                    f"gradcheck: input {k} has a dimension with stride 0; wanted its own memory for each "
                    "element (call contiguous() first)"
                )
            targets[k] = x
    if not targets:
        raise ValueError(
            "gradcheck: expects at least one input tensor to require gradient, but none of them have requires_grad=True"
        )
    return targets


def _outputs(func: Callable, inputs: tuple) -> tuple:
    with enable_grad():
        result = func(*inputs)
    # a function that returns its input as it is would be moved together with it
    return tuple(y.clone() if any(y is x for x in inputs) else y for y in _tuple(result))


def _is_differentiable(y: Any) -> bool:
    return isinstance(y, Tensor) and y.is_floating_point() and y.requires_grad


def _differentiable(outputs: tuple) -> list:
    return [y for y in outputs if _is_differentiable(y)]


def _wide(y: Tensor) -> np.ndarray:
    """A float64 copy, since a view's memory changes when its base is moved."""
    return np.array(y._arr, np.float64)


def _direction(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Entries between 0.5 and 1 in size, so that none hides a wrong element."""
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice((-1.0, 1.0), shape))


def _random_like(y: Tensor, rng: np.random.Generator, strided: bool) -> Tensor:
    values = np.asarray(rng.standard_normal(y.shape)).astype(y.dtype.np)
    if strided and values.ndim:
        room = np.zeros((*values.shape[:-1], values.shape[-1] * 2), values.dtype)
        room[..., ::2] = values
        values = room[..., ::2]
    return from_array(values)
