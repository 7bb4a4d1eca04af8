"""Kernels written in Python with Numba-CUDA: the second implementation, ``TL_KERNELS=numba``. Floor 1.

A launch costs 6.6 to 14 microseconds of the host's time, so CUDA C++ is the first; these check it, and show how one
writes a kernel. They keep to what Numba's simulator has: no shuffles, no votes, nothing of a warp.
"""

from collections.abc import Callable
from importlib import import_module

FAMILIES = ("elementwise", "linalg", "recurrent", "reduce")


def kernel(name: str) -> Callable | None:
    """The factory of a kernel by the name that CUDA C++ has for it, such as "reduce.sum"; None where there is none.

    ``factory(specs, outs, kw)`` gives ``call(*arrays, *outs)``, or None where these dtypes or constants are not ours.
    """
    family, _, op = name.partition(".")
    return import_module(f"{__name__}.{family}").factory(op) if family in FAMILIES else None
