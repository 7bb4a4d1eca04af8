"""``backends.cudnn``: PyTorch's switches of that library, which programs set before they seed. Floor 1.

Convolutions on a GPU are our own kernels, so cuDNN is never there. ``allow_tf32`` alone steers something: whether large
convolutions of float32 may be rounded to TF32 for the tensor cores.
"""

enabled, benchmark, deterministic, allow_tf32 = True, False, False, True


def is_available() -> bool:
    """Whether cuDNN can be used: no."""
    return False


def version() -> None:
    """The version of cuDNN: None, since there is none."""
    return None
