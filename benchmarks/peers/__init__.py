"""Libraries that do not share PyTorch's names: the same workloads written for each."""
