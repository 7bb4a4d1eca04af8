"""What is measured, and how: ``python -m benchmarks steps``, ``python -m benchmarks overhead``."""
