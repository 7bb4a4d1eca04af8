"""``TL_CAPTURE=check``: each step of a program beside the same step run as it is. Floor 4."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlite.errors import CaptureError
from tensorlite.program.executor import stepwise
from tensorlite.program.record import Step

# how far a buffer may be off, beside its largest element: sums in another order, fused steps
TOLERANCE = {8: 1e-10, 4: 2e-5, 2: 2e-2}


def compare(program: Any, tensors: list) -> list:
    """Run the function itself and undo it, then the program step by step; raise at the first buffer that differs.

    Both start from the same state and arguments. Gives what the program hands out.
    """
    eager = program.again(tensors).recorder
    values, names = eager.values, [s.name for s in eager.steps]

    def after(k: int, step: Step, arrays: list) -> None:
        if step.origin < 0 or step.origin >= len(values):
            return
        for n, (wanted, got) in enumerate(zip(values[step.origin], arrays)):
            if wanted.shape == got.shape and not close(got, wanted):
                raise CaptureError(
                    f"check: step {k}, {step.name}, of {program.name}: output {n} {list(got.shape)} is off by "
                    f"{_distance(got, wanted):.3g} from {names[step.origin]} run as it is (largest element "
                    f"{_largest(wanted):.3g})" + step.where()
                )

    return stepwise(program.plan, [tensors[k]._arr for k in program.positions], after)


def close(a: Any, b: Any) -> bool:
    """Whether two arrays are equal, or within the tolerance of their dtype; nan equals nan."""
    if a.dtype.kind not in "fV":
        return bool((a == b).all())
    x, y = _wide(a), _wide(b)
    both = np.isfinite(x) & np.isfinite(y)
    if not ((x == y) | both | (np.isnan(x) & np.isnan(y))).all():
        return False
    return _distance(a, b) <= TOLERANCE[a.dtype.itemsize] * max(_largest(b), 1e-30)


def _wide(a: Any) -> Any:
    return a.astype(np.float64)


def _distance(a: Any, b: Any) -> float:
    x, y = _wide(a), _wide(b)
    both = np.isfinite(x) & np.isfinite(y)
    return float(np.abs(x - y, where=both, out=np.zeros(x.shape)).max(initial=0.0)) if x.size else 0.0


def _largest(a: Any) -> float:
    x = _wide(a)
    return float(np.abs(x, where=np.isfinite(x), out=np.zeros(x.shape)).max(initial=0.0)) if x.size else 0.0
