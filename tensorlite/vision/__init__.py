"""Images: the MNIST digits, IDX files, and pictures turned into what a net for digits reads. Floor 5."""

from tensorlite.vision.idx import read_idx

__all__ = ["read_idx"]
