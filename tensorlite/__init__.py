"""tensorlite: a small deep-learning framework with PyTorch's names."""
from tensorlite.dtypes import *  # noqa
from tensorlite.autograd.tensor import Tensor
from tensorlite.autograd.modes import *
from tensorlite import ops
from tensorlite.ops.elementwise import *
from tensorlite.ops.shape import *
from tensorlite.ops.reduce import *
from tensorlite.ops.create import *
from tensorlite.ops.linalg import *
from tensorlite.ops.activation import *
