"""What tests of CUDA share: a skip that names its reason (a failure where none may be), and ops on both devices."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NoReturn

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.backends import standin

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


# ---- an op on the device beside the CPU's
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
