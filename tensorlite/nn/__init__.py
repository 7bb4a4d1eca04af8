"""Neural-network layers. Floor 5."""

from tensorlite.nn import init, utils
from tensorlite.nn.container import *
from tensorlite.nn.container import Sequential, ModuleList, ModuleDict, ParameterDict, ParameterList
from tensorlite.nn.conv import Conv1d, Conv2d
from tensorlite.nn.dropout import Dropout, Dropout2d
from tensorlite.nn.embedding import Embedding
from tensorlite.nn.linear import Flatten, Identity, Linear, Unflatten
from tensorlite.nn.module import Module
from tensorlite.nn.parameter import Buffer, Parameter
