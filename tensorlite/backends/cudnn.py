"""``backends.cudnn``: PyTorch's switches of that library, which programs set before they seed. Floor 1.

There is no CUDA backend, so cuDNN is never there and the switches steer nothing, as in PyTorch's builds for CPUs.
"""

enabled, benchmark, deterministic, allow_tf32 = True, False, False, True


def is_available() -> bool:
    """Whether cuDNN can be used: no."""
    return False


def version() -> None:
    """The version of cuDNN: None, since there is none."""
    return None
