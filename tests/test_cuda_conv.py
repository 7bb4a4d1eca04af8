"""Convolutions and what follows them on the emulated device, against references and the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip
from ops_harness import cases, complaint, flat, reference

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator
from tensorlite.backends.launch import conv, conv_weights

OPS = ["conv2d", "conv2d_dx", "conv2d_dw", "conv2d_db", "conv_act", "conv1d", "conv_transpose2d"]
F = tl.nn.functional


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


def host(t):
    t = t.detach().cpu()
    return t.to(tl.float64).numpy() if t.is_floating_point() else t.numpy()


def lying(t, how):
    """The tensor on the device: contiguous, channels_last, or a view with gaps."""
    if how == "last" and t.dim() == 4:
        return t.to("cuda").contiguous(memory_format=tl.channels_last)
    if how == "steps" and t.dim() == 4:
        wide = tl.zeros(t.shape[0], t.shape[1], t.shape[2] + 1, 2 * t.shape[3] + 1, dtype=t.dtype)
        wide[:, :, 1:, 1::2] = t
        return wide.to("cuda")[:, :, 1:, 1::2]
    return t.to("cuda")


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
    ("dtype", "how"),
    [(tl.float32, "contiguous"), (tl.float32, "last"), (tl.float32, "steps")]
    + [(tl.float64, "last"), (tl.bfloat16, "contiguous"), (tl.float16, "last")],
    ids=str,
)
def test_every_case_of_the_ops(name, how, dtype):
    problems = []
    for case in cases(TABLE[name], dtype):
        there = case.with_tensors([lying(t, how) for t in case.tensors().values()])
        got = flat(there.run())
        assert all(y.device.type == "cuda" for y in got)
        expected = reference(case)
        problems += [complaint(case, y.cpu(), r, f"output {n}", dtype) for n, (y, r) in enumerate(zip(got, expected))]
    problems = [p for p in problems if p]
    assert not problems, "\n".join(problems)
