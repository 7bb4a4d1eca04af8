"""Every op, one family a file. Floor 3: importing this attaches Tensor's methods."""

from tensorlite.ops import activation, create, elementwise, linalg, reduce, shape  # noqa: F401
