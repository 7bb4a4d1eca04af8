"""``backends.mps``: what a program asks before it chooses Apple's GPU. Floor 1."""


def is_available() -> bool:
    """Whether tensors can be put on such a GPU: no."""
    return False


def is_built() -> bool:
    """Whether this package was built for such GPUs: no."""
    return False
