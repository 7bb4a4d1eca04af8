"""The tape: Tensor, primitives, gradients. Floor 2; knows no op by name.

This folder's names are PyTorch's ``torch.autograd``: ``grad``, ``backward``, ``Function``, ``gradcheck`` and modes.
"""

from tensorlite.autograd.function import Function as Function
from tensorlite.autograd.gradcheck import gradcheck as gradcheck, gradgradcheck as gradgradcheck
from tensorlite.autograd.modes import (
    enable_grad as enable_grad,
    inference_mode as inference_mode,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from tensorlite.autograd.tape import backward as backward, grad as grad
from tensorlite.autograd.tracing import detect_anomaly as detect_anomaly, set_detect_anomaly as set_detect_anomaly
from tensorlite.autograd.variable import Variable as Variable
