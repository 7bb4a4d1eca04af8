"""The compiled kernels: every size class, instruction set and number of threads; and life without them."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu
from tensorlite.ops.linalg import matmul_p

compiled = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")


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
