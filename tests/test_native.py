"""The compiled kernels: every size class, instruction set and number of threads; and life without them."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops import linalg
from tensorlite.ops.linalg import matmul_p

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")


@pytest.fixture
def threads():
    before = tl.get_num_threads()
    yield tl.set_num_threads
    tl.set_num_threads(before)


# tails of every vector length, one row, several blocks, and sizes that are cut over threads
SIZES = [(1, 1, 1), (5, 3, 7), (4, 4, 16), (33, 130, 17), (7, 65, 200), (32, 128, 784), (3, 16, 4096), (64, 10, 128)]


@compiled
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("d", [tl.float32, tl.float64])
def test_products(isa, d, monkeypatch):
    monkeypatch.setattr(linalg, "wide_vectors", lambda: True)  # so that all sizes take the compiled kernel
    rng = np.random.default_rng(0)
    with config.ISA(isa):
        for m, n, k in SIZES:
            x, w, b = (rng.standard_normal(s) for s in ((m, k), (k, n), (n,)))
            a, c, e = (tl.tensor(v, dtype=d) for v in (x, w, b))
            want = a.double().numpy() @ c.double().numpy()
            bound = 2 * k * np.abs(a.double().numpy()).max() * np.abs(c.double().numpy()).max() * tl.finfo(d).eps
            at, ct = a.t().contiguous(), c.t().contiguous()
            for got in (a @ c, matmul_p(at, c, tx=True), matmul_p(a, ct, tw=True), tl.nn.functional.linear(a, ct)):
                assert np.abs(got.double().numpy() - want).max() <= bound, (m, n, k)
            got = tl.nn.functional.linear(a, ct, e).double().numpy()
            want = want + e.double().numpy()
            assert (np.abs(got - want) <= bound + tl.finfo(d).eps * np.abs(want)).all(), (m, n, k)


@compiled
def test_the_same_bits_for_every_number_of_threads(threads):
    x, w, g = tl.randn(32, 784), tl.randn(128, 784), tl.randn(32, 128)
    found = []
    for n in (1, 2, 3, 8):
        threads(n)
        assert tl.get_num_threads() == n
        found += [(tl.nn.functional.linear(x, w).numpy(), matmul_p(g, x, tx=True).numpy()) for _ in range(20)]
    assert all((a == found[0][0]).all() and (b == found[0][1]).all() for a, b in found)
    with pytest.raises(RuntimeError, match="positive"):
        tl.set_num_threads(0)


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_pool_survives_a_fork():
    code = """
import os, sys, warnings
import tensorlite as tl
warnings.simplefilter("ignore")
tl.set_num_threads(2)
x, w = tl.randn(32, 784), tl.randn(128, 784)
want = tl.nn.functional.linear(x, w)
child = os.fork()
for _ in range(50):
    assert (tl.nn.functional.linear(x, w) == want).all()
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@compiled
def test_calls_from_several_threads(threads):
    import threading

    threads(2)
    x, w = tl.randn(32, 784), tl.randn(128, 784)
    want, wrong = tl.nn.functional.linear(x, w), []

    def work():
        wrong.extend(1 for _ in range(50) if not (tl.nn.functional.linear(x, w) == want).all())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not wrong


@compiled
def test_kernels_refuse_what_is_no_array():
    from tensorlite import _native

    x = tl.ones(2, 2)
    kernel = _native.neg((x._spec,), (x._spec,), {})
    with pytest.raises(TypeError, match="wanted an array"):
        kernel(1.0, x.numpy())
    with pytest.raises(TypeError, match="wanted 2"):
        kernel(x.numpy())


def test_plain_kernels_do_the_same(threads):
    x, w = tl.randn(8, 8), tl.randn(8, 8)
    ours = (x @ w).softmax(1)
    with config.KERNELS("plain"):
        assert (
            cpu.extension() is None and cpu.kernel_names() == [] and cpu.isa() == "none" and tl.get_num_threads() == 1
        )
        assert np.allclose((x @ w).softmax(1).numpy(), ours.numpy(), atol=1e-6)


def test_a_wrong_setting_is_named():
    for name, value in (("TL_ISA", "mmx"), ("TL_KERNELS", "quick"), ("TL_DEBUG", "9")):
        run = subprocess.run(
            [sys.executable, "-c", "import tensorlite"], env={**os.environ, name: value}, capture_output=True, text=True
        )
        assert run.returncode and name in run.stderr and "wanted one of" in run.stderr
