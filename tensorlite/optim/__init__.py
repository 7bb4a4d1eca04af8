"""Optimizers and learning-rate schedules. Floor 5."""

from tensorlite.optim import lr_scheduler
from tensorlite.optim.adam import Adam, AdamW
from tensorlite.optim.adaptive import Adadelta, Adagrad, Adamax, NAdam, RAdam, RMSprop
from tensorlite.optim.optimizer import Optimizer
from tensorlite.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lr_scheduler",
]
