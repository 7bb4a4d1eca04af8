"""Sources of the compiled kernels; installed as ``tensorlite._kernels``. Floor 1: text, no Python."""
