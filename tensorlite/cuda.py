"""``tensorlite.cuda``: what a program asks before it chooses a device. Floor 7.

There is no CUDA backend yet, so it says so: nothing is available, and no program lands on a GPU unasked.
"""

from typing import Any

from tensorlite.backends import Device, backend
from tensorlite.errors import DeviceError


def is_available() -> bool:
    """Whether tensors can be put on a GPU."""
    try:
        backend(Device("cuda"))
    except DeviceError:
        return False
    return True


def device_count() -> int:
    """How many GPUs can hold tensors."""
    return 1 if is_available() else 0


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has done all that was asked of it; an error where there is none."""
    backend(Device("cuda" if device is None else device)).synchronize()


def manual_seed(seed: int) -> None:
    """Seed the current GPU's generator; without a GPU nothing happens, as in PyTorch."""


def manual_seed_all(seed: int) -> None:
    """Seed every GPU's generator; without a GPU nothing happens, as in PyTorch."""


def empty_cache() -> None:
    """Give cached memory back; without a GPU there is none."""
