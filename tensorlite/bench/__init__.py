"""The benchmarks: whole training and inference steps beside other libraries, and single ops beside PyTorch. Floor 6.

``workloads`` and ``steps`` are files that import no library: the process that times a peer loads them by their path, so
that nothing of tensorlite runs in it. ``harness`` starts the processes, ``report`` and ``chart`` show what they found.
``python -m benchmarks steps`` in a checkout puts them together, and ``bars`` says what is wanted. ``ops`` are the rows
of ``python -m benchmarks ops``, and ``pairs`` times them turn by turn with PyTorch's. ``growth`` are the sizes of
``python -m benchmarks growth``; ``replay`` times what a compiled step takes beyond its kernels.
"""
