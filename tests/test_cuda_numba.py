"""The Numba-CUDA kernels without a GPU: run in Numba's simulator, compiled to assembly for four architectures."""

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tensorlite import config
from tensorlite.backends import numba_cuda
from tensorlite.backends.numba_cuda import cells, elementwise, launching, linalg, recurrent, reduce
from tensorlite.errors import KernelError

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "numba_simulated.py"
ARCHITECTURES = [(8, 0), (9, 0), (10, 0), (12, 0)]
SLICES = 120  # a quick run compiles one of them, by the day
# libdevice reduces large angles with one product in double precision, in a branch that small ones do not take
SLOW_PATHS = {"tl_sin": 2, "tl_cos": 2}

THERE = importlib.util.find_spec("numba_cuda") is not None
needs_numba = pytest.mark.skipif(
    not THERE and os.environ.get("TL_TEST_NO_SKIP") != "1", reason="numba-cuda is not installed (extra numba)"
)


def simulate(*options):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES.relative_to(ROOT)), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


@needs_numba
def test_every_kernel_in_the_simulator():
    assert simulate() >= 140


@needs_numba
@pytest.mark.slow
def test_more_cases_in_the_simulator():
    assert simulate("-m", "slow") >= 10


# ---- assembly
def kernels():
    """Every kernel of every family, by the arguments of its maker: (maker, arguments)."""
    for short in launching.FLOATS:
        for name in cells.CELLS:
            yield cells.kernel, (name, short)
        for batches, adds in product(range(3), (False, True)):
            yield linalg.kernel, (short, batches, adds)
    for op in elementwise.FORMULAS:
        constants = [(c, 0.5) for c in ("beta", "threshold", "slope", "alpha", "low", "high")]
        for short in launching.TYPES if op in elementwise.INTEGERS else launching.FLOATS:
            if short != "b1":
                for ndim in (None, 1, 3):
                    yield elementwise.kernel, (op, short, ndim, tuple(constants) if short in launching.FLOATS else ())
    for op in reduce.COMBINE:
        for short in ("f4", "f8") if op == "mean" else ("f4", "f8", "i8", "u1"):
            for width, dims in product((reduce.DOWN, 32, 256), ((0, 1), (1, 0), (2, 2))):
                yield reduce.kernel, (op, short, width, *dims)


def check_assembly(maker, arguments, cc):
    kernel = maker(*arguments)
    ptx = kernel.ptx(cc)
    assert f".target sm_{cc[0]}{cc[1]}" in ptx, (kernel.name, arguments)
    assert ".visible .entry" in ptx
    for instruction in (".shfl", "shfl.", "vote.", "bar.warp"):
        assert instruction not in ptx, f"{kernel.name} {arguments}: {instruction} is not in the simulator"
    if "f8" not in arguments:
        doubles = [row.strip() for row in ptx.splitlines() if ".f64" in row and ".reg" not in row]
        allowed = SLOW_PATHS.get(kernel.name, 0)
        assert len(doubles) <= allowed, f"{kernel.name} {arguments} computes in double precision: {doubles}"


@pytest.fixture
def numba_of_a_gpu():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        pytest.fail("NUMBA_ENABLE_CUDASIM=1 is set; wanted the compiler")


@needs_numba
def test_a_slice_of_the_kernels_compiles(numba_of_a_gpu):
    jobs = [(maker, arguments, cc) for cc in ARCHITECTURES for maker, arguments in kernels()]
    for maker, arguments, cc in jobs[date.today().toordinal() % SLICES :: SLICES]:
        check_assembly(maker, arguments, cc)


@needs_numba
@pytest.mark.slow
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=str)
def test_every_kernel_compiles(cc, numba_of_a_gpu):
    for maker, arguments in kernels():
        check_assembly(maker, arguments, cc)


@needs_numba
def test_double_precision_is_found(numba_of_a_gpu, monkeypatch):
    """What the check above is for: a Python number in a formula."""
    monkeypatch.setitem(elementwise.FORMULAS, "slip", "a * 0.1")
    with pytest.raises(AssertionError, match="double precision"):
        check_assembly(elementwise.kernel.__wrapped__, ("slip", "f4", None), (9, 0))


# ---- what is found, and what is said where it is not
def test_the_lists_of_this_file_are_whole():
    """Every family is tried, and every layer and cell belongs to one."""
    assert set(numba_cuda.FAMILIES) == {"elementwise", "linalg", "recurrent", "reduce"}
    assert {name.removesuffix("_dx") for name in recurrent.LAYERS} == {"lstm_layer", "gru_layer", "rnn_layer"}
    for name in ("elementwise.exp", "elementwise.add", "reduce.amax", "linalg.linear", "recurrent.gru_layer_dx"):
        assert callable(numba_cuda.kernel(name))


def test_without_numba_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(KernelError, match=r"pip install 'tensorlite\[numba\]'"):
        launching.numba_cuda.__wrapped__()


@needs_numba
def test_numbas_own_target_is_refused(monkeypatch):
    from numba import cuda

    monkeypatch.setattr(cuda, "implementation", "Built-in")
    with pytest.raises(KernelError, match="wanted the package numba-cuda"):
        launching.numba_cuda.__wrapped__()


@needs_numba
def test_the_emulator_wants_the_simulator(numba_of_a_gpu):
    with config.CUDA_EMULATION(1), pytest.raises(KernelError, match="NUMBA_ENABLE_CUDASIM=1"):
        launching.on_device(object())


@needs_numba
def test_launches_go_to_the_stream_of_what_is_written(numba_of_a_gpu):
    """Once a configuration; and without Numba's warning that a grid is small."""
    from numba.cuda.cudadrv import driver

    class Compiled:
        def __init__(self):
            self.configured, self.launched = [], 0

        def __getitem__(self, how):
            warnings.warn("a small grid", stacklevel=1)
            self.configured.append(how)
            return lambda *arguments: setattr(self, "launched", self.launched + len(arguments))

    class Array:
        shape = (3,)

        def __init__(self, stream):
            self.stream = stream

    kernel = launching.Kernel(lambda x, n, out: None, "float32[:], float32, float32[:]")
    kernel._compiled = Compiled()
    streams = [driver.Stream(driver.binding.CUstream(5), external=True) for _ in range(2)]
    for stream in (0, *streams):
        kernel((2,), (32,), Array(0), np.float32(1), Array(stream))
    kernel((2, 0), (32,), Array(0), np.float32(1), Array(0))
    assert kernel._compiled.configured == [((2,), (32,), 0), ((2,), (32,), streams[0])]
    assert kernel._compiled.launched == 9


def test_the_switch_knows_numba():
    with config.KERNELS("numba"):
        assert config.KERNELS.value == "numba"


def test_merged_dimensions():
    rows = launching.merged((2, 3, 4), (48, 16, 4), (0, 0, 4))
    assert rows == ((6, 4), [(16, 4), (0, 4)])
    assert launching.merged((2, 3, 4), (48, 16, 4), (48, 16, 4)) == ((24,), [(4,), (4,)])
    assert launching.merged((1, 1), (4, 4)) == ((), [()])
