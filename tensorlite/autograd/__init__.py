"""The tape: Tensor, primitives, gradients. Floor 2; knows no op by name."""
