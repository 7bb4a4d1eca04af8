"""Memory of large arrays is kept when they die, within bounds, and a user's own arrays have no part in it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

import tensorlite as tl
from tensorlite import config
from tensorlite.backends import cpu

pytestmark = pytest.mark.skipif(cpu.extension() is None, reason="the extension was not built")
LARGE = cpu.KEPT  # elements: four times as many bytes


@pytest.fixture(autouse=True)
def empty():
    cpu.empty_cache()
    yield
    cpu.empty_cache()


def test_a_dead_result_is_used_again():
    x = tl.ones(LARGE)
    y = x * 2
    at = y._arr.ctypes.data
    assert at % 64 == 0 and get_handler_name(y._arr) == "tensorlite" and y._arr.base is None
    before = cpu.memory_kept()
    del y
    assert cpu.memory_kept() >= before + x.nbytes
    z = x + 3
    assert z._arr.ctypes.data == at and (z == 4).all() and cpu.memory_kept() == before


def test_arrays_outlive_their_tensor_and_a_users_arrays_are_numpys():
    array = (tl.ones(LARGE) * 2).numpy()
    tl.ones(LARGE) * 3
    assert (array == 2).all()
    assert get_handler_name(np.empty(LARGE)) == "default_allocator"
    assert get_handler_name((tl.ones(8) * 2)._arr) == "default_allocator"


def test_switch_and_bounds():
    x = tl.ones(LARGE)
    with config.CACHE(0):
        x * 2
        assert cpu.memory_kept() == 0
    x * 2
    assert cpu.memory_kept() >= x.nbytes
    try:
        cpu.extension()._limit_memory(3 * x.nbytes)
        for _ in range(3):
            many = [x * k for k in range(8)]
            del many
            assert cpu.memory_kept() <= 3 * x.nbytes
        larger = tl.ones(8 * LARGE)
        larger * 2  # more than may be kept at all
        assert cpu.memory_kept() <= 3 * x.nbytes
    finally:
        cpu.extension()._limit_memory(-1)


def test_numpy_grows_and_clears_such_arrays():
    make = cpu.maker((LARGE,), np.float32)
    a = make()
    a[:] = 5
    a.resize(4 * LARGE, refcheck=False)
    assert (a[:LARGE] == 5).all() and not a[LARGE:].any() and a.size == 4 * LARGE
    a.resize(7, refcheck=False)
    assert (a == 5).all()
    dirty = make()
    dirty[:] = 9
    del dirty
    clean = cpu.quiet(lambda: np.zeros(LARGE, np.float32))()
    assert get_handler_name(clean) == "tensorlite" and not clean.any()


def test_out_of_memory_is_an_error_and_gives_back_what_is_kept():
    tl.ones(LARGE) * 2
    assert cpu.memory_kept()
    with pytest.raises(MemoryError, match="allocate"):
        cpu.maker((1 << 46,), np.float32)()
    assert cpu.memory_kept() == 0 or sys.platform != "linux"
    assert (tl.ones(LARGE) * 2 == 2).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_memory_of_its_own():
    code = """
import os, sys, time, warnings
import tensorlite as tl
warnings.simplefilter("ignore")
x = tl.ones(100_000)
x * 2
if "ASAN_OPTIONS" in os.environ:  # its allocator (GCC 12's) forks with a lock held that a starting thread has taken
    time.sleep(0.1)
child = os.fork()
for k in range(50):
    assert ((x * k) == k).all()
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
