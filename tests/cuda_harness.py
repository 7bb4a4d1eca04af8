"""What tests of CUDA share: the emulator with a cache of its own, orders of threads, tests/cuda; skips with a reason;
ops on the device beside the CPU's.

A skip is a failure where nothing may be skipped.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import emulator, launch, standin

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


needs_compiler = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
SOURCES = Path(__file__).resolve().parent / "cuda"


@pytest.fixture(scope="module", autouse=True)
def emulation(tmp_path_factory):
    """Kernels run in the emulator, and what is compiled goes to a folder of this session."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")
    with config.CUDA_EMULATION(1):
        yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(params=range(emulator.ORDERS))
def every_order(request):
    """The test runs once in each order of threads and blocks."""
    with emulator.order(request.param):
        yield


def kernels(stem):
    """run(kernel, types, grid, block, *arguments) on tests/cuda/<stem>.cu; a grid or block is a number or a tuple."""
    text = (SOURCES / f"{stem}.cu").read_text(encoding="utf-8")

    def run(kernel, types, grid, block, *args, **kw):
        sizes = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
        launch.load_text(stem, text).kernel(kernel, types, **kw)(*sizes, *args)

    return run


def random(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


TOLERANCE = {tl.float32: 1e-5, tl.float64: 1e-13, tl.float16: 1e-3, tl.bfloat16: 1e-2}


def there(x):
    """The same on the device, lying as it does here: turned, stretched, or with gaps."""
    stretched = [x.stride(d) == 0 and x.shape[d] > 1 for d in range(x.ndim)]
    if any(stretched):
        return there(x[tuple(slice(1) if s else slice(None) for s in stretched)].contiguous()).expand(x.shape)
    order = sorted(range(x.ndim), key=lambda d: -x.stride(d))
    made = x.permute(order).contiguous().to("cuda") if x.ndim else x.to("cuda")
    if x.numel() > 1 and min(x.stride(d) for d in range(x.ndim) if x.shape[d] > 1) > 1:
        made = tl.stack([made, made], -1)[..., 0]
    return made.permute([order.index(d) for d in range(x.ndim)]) if x.ndim else made


def alike(p, *inputs, exact=False, **kw):
    """The op gives on the device what it gives on the CPU, by a kernel and without a copy to or from the host."""
    wanted = p(*inputs, **kw)
    given = [there(x) for x in inputs]
    assert p.op.entry(tuple(x._spec for x in given), kw).native, "the plain forward ran"
    with standin.watch() as seen:
        made = p(*given, **kw)
    assert not seen.crossings
    assert made.device.type == "cuda" and made.dtype is wanted.dtype and made.shape == wanted.shape
    a, b = made.cpu(), wanted
    if exact or a.dtype not in TOLERANCE:
        assert (a == b).all(), (p.op.name, kw, a, b)
    else:
        close = TOLERANCE[a.dtype]
        np.testing.assert_allclose(a.to(tl.float64).numpy(), b.to(tl.float64).numpy(), rtol=close, atol=close)
    return made
