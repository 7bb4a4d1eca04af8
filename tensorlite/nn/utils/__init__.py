"""Helpers on the parameters of models: ``nn.utils.clip_grad_norm_`` and others. Floor 5."""

from tensorlite.nn.utils import rnn
from tensorlite.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from tensorlite.nn.utils.convert import parameters_to_vector, vector_to_parameters

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_total_norm",
    "parameters_to_vector",
    "rnn",
    "clip_grads_with_norm_",
    "vector_to_parameters",
]
