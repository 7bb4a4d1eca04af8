"""Every op, one family a file. Floor 3: importing this attaches Tensor's methods."""

from tensorlite.ops import compare, choice, elementwise, functions, cast, operators  # noqa: F401, I001
from tensorlite.ops import slices, shape, join, reduce, create, linalg, activation, random  # noqa: F401
from tensorlite.ops import places, index, gather, rows, mask, diagonal, sort  # noqa: F401
from tensorlite.ops import conv, pool  # noqa: F401
from tensorlite.ops import smooth, norm, loss, update  # noqa: F401
