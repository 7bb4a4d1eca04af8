"""Pooling on the emulated device, against references and the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import skip
from ops_harness import cases, complaint, flat, reference
from test_cuda_conv import host, lying

import tensorlite as tl
from tensorlite import config
from tensorlite.autograd.op import TABLE
from tensorlite.backends import emulator
from tensorlite.backends.launch import pool
from tensorlite.ops.conv_pool import relu_pool_dx_p, relu_pool_p

OPS = ["max_pool2d", "pool_take", "pool_put", "relu_pool", "relu_pool_dx", "avg_pool2d", "avg_pool2d_dx"]
OPS += ["adaptive_avg_pool2d", "adaptive_max_pool2d"]
F = tl.nn.functional


@pytest.fixture(autouse=True)
def emulated():
    if not emulator.available():
        skip("needs g++, which plays the GPU")
    with config.CUDA_EMULATION(1):
        yield


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


WAYS = [  # kernel, stride, padding, dilation
    (2, 2, 0, 1),
    (3, 2, 1, 1),
    ((2, 3), (3, 1), (1, 0), (1, 2)),
    (3, 4, 1, 2),  # pixels that no window meets, and a stride that shares a divisor with the dilation
    ((17, 16), 1, (8, 8), 1),  # places of more than one byte
]


def step(device, make, shape, form):
    """Pooled, places and the gradient."""
    rng = np.random.default_rng(1)
    x = tl.tensor(rng.integers(-3, 4, shape).astype(np.float32) / 4).to(device)  # many are equal
    x = x.contiguous(memory_format=tl.channels_last) if form else x
    x = x.detach().requires_grad_()
    y, *places = flat(make(x))
    y.backward(tl.tensor(rng.standard_normal(tuple(y.shape)).astype(np.float32)).to(device))
    return [y, *places, x.grad]


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_values_and_places_are_those_of_the_cpu(way, form):
    """To the bit, but for sums, which are added in another order."""

    def largest(x):
        return F.max_pool2d(x, way[0], way[1], way[2], way[3], return_indices=True)

    def mean(x):
        return F.avg_pool2d(x, way[0], way[1], way[2], ceil_mode=bool(form), count_include_pad=not form)

    for make in (largest, mean):
        there, here = (step(device, make, (2, 3, 9, 11), form) for device in ("cuda", "cpu"))
        for k, (a, b) in enumerate(zip(there, here)):
            assert a.stride() == b.stride()
            close = 0 if make is largest and k < 2 else 1e-5
            np.testing.assert_allclose(host(a), host(b), rtol=0, atol=close)


def test_nan_and_infinities():
    nan, inf = float("nan"), float("inf")
    x = tl.tensor([[[1.0, nan, nan, 2, -inf, -inf], [0, nan, 3, -1, -inf, -inf]]])
    how = dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    for make in (lambda x: F.max_pool2d(x, 2, return_indices=True), lambda x: flat(relu_pool_p(x, ceil=False, **how))):
        with config.KERNELS("plain"):
            here = make(x)
        for a, b in zip(make(x.cuda()), here):
            np.testing.assert_array_equal(host(a), host(b))
    s, place = tl.tensor([[[nan, 0.0, -1.0]]]), tl.tensor([[[3, 1, 0]]], dtype=tl.uint8)
    got = relu_pool_dx_p(tl.ones(1, 1, 3).cuda(), s.cuda(), place.cuda(), size=(2, 6), **how)
    np.testing.assert_array_equal(host(got), [[[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]])


def test_inputs_that_lie_differently():
    rng = np.random.default_rng(3)
    dy, s = (tl.tensor(rng.standard_normal((2, 3, 3, 2)).astype(np.float32)) for _ in range(2))
    place = tl.tensor(rng.integers(0, 4, (2, 3, 3, 2)), dtype=tl.uint8)
    how = dict(size=(6, 5), kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    wanted = host(relu_pool_dx_p(dy, s, place, **how))
    got = relu_pool_dx_p(lying(dy, "last"), s.cuda(), lying(place, "last"), **how)
    np.testing.assert_array_equal(host(got), wanted)


def test_the_same_bits_in_every_order_of_threads():
    results = []
    for order in range(emulator.ORDERS):
        with emulator.order(order):
            makes = (lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.avg_pool2d(x, 3, 1))
            results.extend([host(t) for t in step("cuda", make, (1, 2, 7, 6), 0)] for make in makes)
    for k, other in enumerate(results):
        assert all(np.array_equal(a, b) for a, b in zip(results[k % 2], other))


def test_every_dtype_has_its_variants():
    said = [v.defines for v in pool.VARIANTS]
    assert all(
        pool.variant(t, *how) in said
        for t in ("f2", "bf2", "f4", "f8")
        for how in (("u1", False), ("u1", True), ("i4", False))
    )
