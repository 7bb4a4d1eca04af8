"""What tests of CUDA share: a skip that names its reason, and is a failure where nothing may be skipped."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NoReturn

import pytest

NO_SKIP = "TL_TEST_NO_SKIP"  # set in CI, where what a test needs is installed and must be used


def skip(reason: str) -> NoReturn:
    """Skip the test, or fail it where ``TL_TEST_NO_SKIP=1``."""
    if os.environ.get(NO_SKIP) == "1":
        pytest.fail(f"{reason}; {NO_SKIP}=1 lets no test be skipped")
    pytest.skip(reason)


def needs_gpu_check() -> None:
    """Skip where NVIDIA's compiler is not installed."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        skip("needs NVRTC: pip install tensorlite[gpu-check]")
