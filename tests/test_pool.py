"""The threads of compiled kernels: how many, beside whom, and the same bits whoever else is at work."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.backends import cpu

pytestmark = [
    pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built"),
    pytest.mark.usefixtures("threads"),
]
PRODUCT = "import tensorlite as tl; x, w = tl.randn(64, 784), tl.randn(256, 784); y = tl.nn.functional.linear(x, w);"


def printed(code, **env):
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()


def test_omp_num_threads_is_obeyed():
    code = PRODUCT + "import os; print(tl.get_num_threads(), len(os.listdir('/proc/self/task')))"
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs Linux to count threads")
    assert printed(code, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == ["1", "1"]
    most = cpu.cores()
    assert printed(code, OMP_NUM_THREADS="64", OPENBLAS_NUM_THREADS="1")[0] == str(most)


def test_the_number_holds_for_numpys_blas_too():
    ask = cpu._openblas("get_num_threads")
    if ask is None:
        pytest.skip("NumPy stands on another library here")
    for n in (1, 2):
        tl.set_num_threads(n)
        assert tl.get_num_threads() == ask() == n


def at_once(*works):
    """Runs every function in a thread of its own and raises what one of them raised."""
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=run, args=(w,)) for w in works]
    for t in started:
        t.start()
    for t in started:
        t.join(60)
        assert not t.is_alive()
    if errors:
        raise errors[0]


def test_kernels_called_from_several_threads_beside_openblas():
    tl.set_num_threads(3)
    x, w = tl.randn(32, 784), tl.randn(128, 784)
    want = tl.nn.functional.linear(x, w)
    a = np.random.default_rng(0).standard_normal((300, 300))
    product = a @ a

    def ours():
        for _ in range(200):
            assert (tl.nn.functional.linear(x, w) == want).all()

    def blas():
        for _ in range(40):
            assert np.allclose(a @ a, product)

    at_once(ours, ours, blas)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_helpers_are_at_work():
    code = """
import os, sys, threading, warnings
import tensorlite as tl
warnings.simplefilter("ignore")
tl.set_num_threads(2)
x, w = tl.randn(32, 784), tl.randn(128, 784)
want = tl.nn.functional.linear(x, w)
stop = threading.Event()
def busy():
    while not stop.is_set():
        tl.nn.functional.linear(x, w)
t = threading.Thread(target=busy)
t.start()
bad = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if all((tl.nn.functional.linear(x, w) == want).all() for _ in range(5)) else 1)
    bad += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
stop.set(); t.join()
sys.exit(bad)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
