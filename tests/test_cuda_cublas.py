"""cuBLASLt: its constants beside the header, its descriptors in the real library, its products in the stand-in."""

from __future__ import annotations

import ctypes
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import skip

from tensorlite import config, dtypes
from tensorlite.backends import cublas, cublas_library as lt
from tensorlite.backends.cublas_standin import Standin, to_tf32
from tensorlite.errors import KernelError

HALVES = {"f2": dtypes.float16.np, "bf2": dtypes.bfloat16.np}
NUMPY = {"f4": np.dtype(np.float32), "f8": np.dtype(np.float64), **HALVES}
TOLERANCE = {"f4": 2e-6, "f8": 1e-14, "f2": 2e-3, "bf2": 1.6e-2}  # of the largest element


# ---- arrays of a device that is not there
class Array:
    """NumPy's memory with an address where CuPy has one."""

    def __init__(self, array):
        self.np = array
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)
        self.shape, self.strides, self.dtype, self.itemsize = array.shape, array.strides, array.dtype, array.itemsize
        self.ndim, self.flags, self.size = array.ndim, array.flags, array.size

    def copy(self, order="C"):
        return empty(self.shape, self.dtype, self.np)

    def __getitem__(self, key):
        return Array(self.np[key])


def empty(shape, dtype, values=None, shift=0):
    """A new array ``shift`` bytes off an address on 256 bytes; NaN or ones unless there are values."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(count + 512, 0xFF, np.uint8)
    start = -memory.ctypes.data % 256 + shift
    array = memory[start : start + count].view(dtype).reshape(shape)
    if values is not None:
        array[...] = values
    return Array(array)


@pytest.fixture
def emulated():
    """The stand-in of the library, on the stand-in's device."""
    with config.CUDA_EMULATION(1):
        yield cublas.library()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def draw(rng, short, *shape, **more):
    return empty(shape, NUMPY[short], rng.standard_normal(shape), **more)


def wide(array):
    return (array.np if isinstance(array, Array) else array).astype(np.float64)


def near(array, wanted, short, factor=1.0):
    top = np.abs(wanted).max(initial=1.0)
    np.testing.assert_allclose(wide(array) / top, wanted / top, rtol=0, atol=TOLERANCE[short] * factor)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x, h=1e-6):
    return (gelu(x + h) - gelu(x - h)) / (2 * h)


# ---- the header and the real library
def find(pattern):
    """A file of NVIDIA's wheels in this environment or, by pathfinder, elsewhere."""
    for folder in map(Path, sys.path):
        for base in (folder / "nvidia", folder / "nvidia" / "cu13"):
            for path in base.glob(pattern) if base.is_dir() else ():
                return path
    return None


def header(name):
    path = find(f"*/include/{name}") or find(f"include/{name}")
    if path is None:
        skip(f"{name} is not here: pip install nvidia-cublas nvidia-cuda-runtime")
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.S)


def constants(text):
    """The values of a header's enumerators, worked out as C does."""
    known = {}
    for body in re.findall(r"enum\s*\w*\s*\{(.*?)\}", text, flags=re.S):
        value = -1
        for name, given in re.findall(r"(\w+)\s*(?:=\s*([^,]+))?(?:,|$)", body.strip()):
            value = value + 1 if not given else eval(given, {"__builtins__": {}}, known)
            known[name] = value
    return known


def test_every_constant_is_the_headers():
    known = constants(header("cublas_api.h"))
    known.update(constants(header("library_types.h")))
    known.update(
        constants("enum { CUBLAS_POINTER_MODE_HOST = 0, CUBLAS_POINTER_MODE_DEVICE = 1 };" + header("cublasLt.h"))
    )
    ours = {k: v for k, v in vars(lt).items() if re.match("CUBLAS|CUDA_", k)}
    assert len(ours) > 50
    assert {k: known.get(k) for k in ours} == ours


def test_structures_and_functions_are_the_headers():
    text = header("cublasLt.h")
    words = re.search(r"struct\s*\{\s*uint64_t data\[(\d+)\];\s*\}\s*cublasLtMatmulAlgo_t", text)[1]
    assert ctypes.sizeof(lt.Algo) == 8 * int(words)
    body = re.search(r"struct\s*\{([^}]*)\}\s*cublasLtMatmulHeuristicResult_t", text)[1]
    assert re.findall(r"(\w+)(?:\[4\])?;", body) == [name for name, _ in lt.HeuristicResult._fields_]
    assert ctypes.sizeof(lt.HeuristicResult) == 96
    assert (lt.HeuristicResult.workspaceSize.offset, lt.HeuristicResult.state.offset) == (64, 72)
    widths = {"int": 4, "size_t": 8, "uint64_t": 8, "int64_t": 8}
    for name, ours in lt.PROTOTYPES.items():
        given = re.search(rf"cublasStatus_t CUBLASWINAPI {name}\(([^)]*)\)", text)[1]
        theirs = []
        for argument in given.split(","):
            kind = argument.strip()
            pointer = (
                "*" in kind or "[]" in kind or re.search(r"(Handle_t|Layout_t|Desc_t|Preference_t|Stream_t) ", kind)
            )
            theirs.append(8 if pointer else widths.get(kind.split()[0], 4))
        assert [ctypes.sizeof(t) for t in ours] == theirs, name


@pytest.fixture
def real(monkeypatch):
    path = find("*/lib/libcublasLt.so*") or find("lib/libcublasLt.so*")
    try:
        return lt.declare(ctypes.CDLL(str(path))) if path else lt.load()
    except KernelError as error:
        skip(str(error))


PROBLEM = cublas.Problem(
    0, "bf2", cublas.Matrix(3, 4, 8), cublas.Matrix(4, 16, 4, True, 5, 64), cublas.Matrix(3, 16, 16, False, 5, 48)
)


@pytest.mark.parametrize("which", ["real", "emulated"])
def test_descriptors_keep_what_they_were_told(which, request):
    lib = request.getfixturevalue(which)
    made = cublas.layout(lib, lt.CUDA_R_16BF, PROBLEM.b)
    values = [made.get(a) for a in lt.LAYOUT_TYPES]
    assert values == [lt.CUDA_R_16BF, lt.CUBLASLT_ORDER_COL, 4, 16, 4, 5, 64]
    epilogue = "gelu_tanh_aux_bias"
    made = cublas.operation(lib, PROBLEM._replace(epilogue=epilogue, aux_ld=24))
    values = {a: made.get(a) for a in lt.MATMUL_TYPES}
    assert values == {
        lt.CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: lt.CUBLAS_COMPUTE_32F,
        lt.CUBLASLT_MATMUL_DESC_SCALE_TYPE: lt.CUDA_R_32F,
        lt.CUBLASLT_MATMUL_DESC_TRANSA: lt.CUBLAS_OP_T,
        lt.CUBLASLT_MATMUL_DESC_TRANSB: lt.CUBLAS_OP_N,
        lt.CUBLASLT_MATMUL_DESC_EPILOGUE: lt.CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        lt.CUBLASLT_MATMUL_DESC_BIAS_POINTER: 16,
        lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: 16,
        lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: 24,
    }
    made = cublas.preference(lib, PROBLEM)
    assert [made.get(a) for a in lt.PREFERENCE_TYPES] == [32 << 20, 2, 16, 16, 16, 16]
    for descriptor, types_ in ((made, lt.PREFERENCE_TYPES), (cublas.operation(lib, PROBLEM), lt.MATMUL_TYPES)):
        for attribute, kind in types_.items():  # each attribute has the width that we say
            written, get = ctypes.c_size_t(), getattr(lib, f"cublasLt{descriptor.kind}GetAttribute")
            assert get(descriptor.handle, attribute, None, 0, ctypes.byref(written)) == 0
            assert written.value == ctypes.sizeof(kind)
    with pytest.raises(KernelError, match="CUBLAS_STATUS_INVALID_VALUE"):
        cublas._check(lib, lib.cublasLtMatmulDescSetAttribute(None, 3, None, 4), "null")


@pytest.mark.parametrize("which", ["real", "emulated"])
def test_defaults_of_descriptors(which, request):
    """The stand-in's fresh descriptors are the library's."""
    lib = request.getfixturevalue(which)
    made = cublas._Descriptor(lib, "MatrixLayout", lt.LAYOUT_TYPES, lt.CUDA_R_64F, 7, 8, 9)
    assert [made.get(a) for a in lt.LAYOUT_TYPES] == [lt.CUDA_R_64F, 0, 7, 8, 9, 1, 0]
    made = cublas._Descriptor(lib, "MatmulDesc", lt.MATMUL_TYPES, lt.CUBLAS_COMPUTE_64F, lt.CUDA_R_64F)
    assert [made.get(a) for a in lt.MATMUL_TYPES] == [lt.CUBLAS_COMPUTE_64F, lt.CUDA_R_64F, 0, 0, 1, 0, 0, 0]
    made = cublas._Descriptor(lib, "MatmulPreference", lt.PREFERENCE_TYPES)
    assert [made.get(a) for a in lt.PREFERENCE_TYPES] == [0, 7, 256, 256, 256, 256]


def test_no_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    monkeypatch.setattr(lt, "_NAMES", ("libnot-there.so",))
    with pytest.raises(KernelError, match=r"pip install 'tensorlite\[cuda13\]'"):
        lt.load.__wrapped__()


# ---- products in the stand-in
@pytest.mark.parametrize("short", NUMPY)
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_every_transposition(emulated, rng, short, ta, tb, batch):
    m, n, k = 5, 7, 3
    a = draw(rng, short, *batch, *((k, m) if ta else (m, k)))
    b = draw(rng, short, *batch, *((n, k) if tb else (k, n)))
    out = empty((*batch, m, n), NUMPY[short])
    cublas.gemm(a, b, out, transpose_a=ta, transpose_b=tb)
    left, right = wide(a).swapaxes(-1, -2) if ta else wide(a), wide(b).swapaxes(-1, -2) if tb else wide(b)
    near(out, left @ right, short)


@pytest.mark.parametrize("view", ["columns", "transposed", "row", "column", "steps"])
def test_views_are_read_where_they_lie(emulated, rng, view):
    a = draw(rng, "f4", 6, 12)
    a = {
        "columns": lambda: a[:, 4:8],
        "transposed": lambda: Array(a.np.T),
        "row": lambda: a[2:3, ::2],
        "column": lambda: a[:, 3:4],
        "steps": lambda: a[::2],
    }[view]()
    b = draw(rng, "f4", a.shape[1], 5)
    out = empty((a.shape[0], 5), np.float32)
    cublas.gemm(a, b, out)
    near(out, wide(a) @ wide(b), "f4")


def test_how_a_matrix_is_read():
    """Rows where they can be; a dimension of size 1 has no step that matters."""
    read = lambda *lay, **more: cublas.matrix(cublas.Lay(*lay), **more)[:4]
    assert read((4, 3), (3, 1)) == read((3, 4), (1, 3), transpose=True) == (4, 3, 3, False)
    assert read((4, 3), (1, 4)) == read((3, 4), (4, 1), transpose=True) == (4, 3, 4, True)
    assert read((4, 1), (1, 1)) == read((4, 1), (1, 99)) == (4, 1, 1, False)
    assert read((4, 1), (7, 3)) == (4, 1, 7, False)
    assert read((1, 4), (4, 1)) == read((1, 4), (0, 1)) == (1, 4, 4, False)
    assert read((1, 4), (8, 2)) == (1, 4, 2, True)
    assert read((1, 1), (5, 5)) == (1, 1, 1, False)
    for lay in [
        ((4, 3), (0, 1)),
        ((4, 3), (1, 0)),
        ((4, 3), (2, 1)),
        ((4, 3), (6, 2)),
        ((4, 1), (0, 1)),
        ((2, 2), (-2, 1)),
    ]:
        with pytest.raises(cublas.Unsupported):
            read(*lay)


def test_a_step_of_0_repeats_a_matrix(emulated, rng):
    a, b, out = draw(rng, "f4", 3, 4, 5), draw(rng, "f4", 5, 6), empty((3, 4, 6), np.float32)
    cublas.gemm(a, Array(np.broadcast_to(b.np, (3, 5, 6))), out)
    near(out, wide(a) @ wide(b), "f4")
    cublas.gemm(a, b, out)
    near(out, wide(a) @ wide(b), "f4")


def test_what_cannot_be_read_is_refused(emulated, rng):
    b, out = draw(rng, "f4", 4, 5), empty((3, 5), np.float32)
    for a in (draw(rng, "f4", 6, 8)[::2, ::2], Array(np.broadcast_to(draw(rng, "f4", 1, 4).np, (3, 4)))):
        with pytest.raises(cublas.Unsupported, match="wanted rows or columns without gaps"):
            cublas.gemm(a, b, out)
    with pytest.raises(cublas.Unsupported, match="wanted sizes of 1"):
        cublas.gemm(empty((3, 0), np.float32), empty((0, 5), np.float32), out)
    with pytest.raises(ValueError, match="3x5 @ 4x5"):
        cublas.gemm(draw(rng, "f4", 3, 5), b, out)
    with pytest.raises(cublas.Unsupported, match="dtype i4"):
        cublas.gemm(*(empty((2, 2), np.int32, 1) for _ in range(3)))
    with pytest.raises(ValueError, match="epilogue 'tanh'"):
        cublas.gemm(draw(rng, "f4", 3, 4), b, out, epilogue="tanh")


def test_residual_alpha_and_bias(emulated, rng):
    a, b, bias, more = draw(rng, "f4", 5, 4), draw(rng, "f4", 4, 6), draw(rng, "f4", 6), draw(rng, "f4", 5, 6)
    wanted = 0.5 * (wide(a) @ wide(b)) + wide(bias) + wide(more)
    out = empty((5, 6), np.float32)
    cublas.gemm(a, b, out, alpha=0.5, bias=bias, residual=more)
    near(out, wanted, "f4")
    cublas.gemm(a, b, more, alpha=0.5, bias=bias, residual=more)  # in place
    near(more, wanted, "f4")


FORWARD = ["bias", "relu", "relu_bias", "gelu_tanh", "gelu_tanh_bias", "relu_aux", "relu_aux_bias", "gelu_tanh_aux"]


def check_epilogue(name, short, rng, gemm, new):
    """One epilogue beside NumPy: results, what it keeps, what it sums."""
    m, n, k = 6, 16, 5
    a, b = new(rng, short, m, k), new(rng, short, k, n)
    out, bias = new(rng, short, m, n), new(rng, short, n)
    y = wide(a) @ wide(b)
    if name.startswith("bgrad"):
        sums = new(rng, short, m if name == "bgrad_a" else n)
        gemm(a, b, out, epilogue=name, bias=sums)
        near(out, y, short)
        near(sums, wide(a).sum(1) if name == "bgrad_a" else wide(b).sum(0), short, 4)
    elif name.startswith("d"):
        sums, pre = bias, new(rng, short, m, n)
        if "relu" in name:
            bits = np.zeros((m, 128), bool)
            bits[:, :n] = wide(pre) > 0
            aux, slope = empty((m, 16), np.uint8, np.packbits(bits, axis=1, bitorder="little")), wide(pre) > 0
        else:
            aux, slope = pre, gelu_slope(wide(pre))
        gemm(a, b, out, epilogue=name, aux=aux, bias=sums if "bgrad" in name else None)
        near(out, y * slope, short, 4)
        if "bgrad" in name:
            near(sums, (y * slope).sum(0), short, 16)
    else:
        if "bias" in name:
            y = y + wide(bias)
        aux = None
        if "aux" in name:
            aux = empty((m, 16), np.uint8) if "relu" in name else empty((m, n), NUMPY[short])
        gemm(a, b, out, epilogue=name, aux=aux, bias=bias if "bias" in name else None)
        near(out, np.maximum(y, 0) if "relu" in name else gelu(y) if "gelu" in name else y, short, 4)
        if aux is not None and "gelu" in name:
            near(aux, y, short)
        elif aux is not None:
            bits = np.unpackbits(aux.np, axis=1, bitorder="little")[:, :n]
            sure = np.abs(y) > 1e-2
            assert np.array_equal(bits[sure], (y > 0)[sure])


EPILOGUES = [name for name in cublas.EPILOGUES if name]


@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("short", ["f4", "f2", "bf2"])
def test_every_epilogue(emulated, rng, name, short):
    check_epilogue(name, short, rng, cublas.gemm, draw)


def test_relu_of_the_library_hides_nan(emulated):
    """Known of the library, so the ops do not use it; a GPU test tells if it changes."""
    a, b, out = (empty((2, 2), np.float32) for _ in range(3))  # NaN
    cublas.gemm(a, b, out, epilogue="relu")
    assert (out.np == 0).all()
    cublas.gemm(a, b, out, epilogue="gelu_tanh")
    assert np.isnan(out.np).all()


def test_precision_of_float32(emulated, rng):
    a, b, out = draw(rng, "f4", 4, 64), draw(rng, "f4", 64, 4), empty((4, 4), np.float32)
    exact = wide(a) @ wide(b)
    rounded = to_tf32(a.np).astype(np.float64) @ to_tf32(b.np).astype(np.float64)
    plan = cublas.plan("f4", *(cublas.lay_of(x) for x in (a, b, out)))
    try:
        assert (cublas.matmul_precision(), cublas.matmul.allow_tf32) == ("highest", False)
        plan(a, b, out)
        near(out, exact, "f4")
        for setting in ("high", "medium"):
            cublas.set_matmul_precision(setting)
            assert cublas.matmul.allow_tf32 and cublas.matmul_precision() == setting
            plan(a, b, out)  # made before: it follows all the same
            near(out, rounded, "f4")
            assert np.abs(wide(out) - exact).max() > 1e-5
        cublas.matmul.allow_tf32 = False
        plan(a, b, out)
        near(out, exact, "f4")
    finally:
        cublas.set_matmul_precision("highest")
    with pytest.raises(RuntimeError, match="set_float32_matmul_precision: got 'low'"):
        cublas.set_matmul_precision("low")


def test_tf32_is_the_nearest_number_of_10_bits():
    x = np.float32([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-12, np.inf, np.nan, 0])
    y = np.float32([1 + 2**-10, 1 + 2**-9, -1 - 2**-10, 1, np.inf, np.nan, 0])
    np.testing.assert_array_equal(to_tf32(x), y)


@pytest.mark.parametrize("shift", [2, 4, 8])
def test_arrays_off_16_bytes_get_a_plan_of_their_own(emulated, rng, shift):
    a, b = draw(rng, "f2", 4, 8, shift=shift), draw(rng, "f2", 8, 8)
    out, bias = empty((4, 8), np.float16), draw(rng, "f2", 8)
    plan = cublas.plan("f2", *(cublas.lay_of(x) for x in (a, b, out)), epilogue="bias")
    plan(a, b, out, bias)
    near(out, wide(a) @ wide(b) + wide(bias), "f2")
    status = emulated.calls
    with pytest.raises(KernelError, match=r"A: address .* asked for with 16 bytes|B: address .* with 16 bytes"):
        plan.at.__func__(_Blind(plan), a.data.ptr, b.data.ptr, out.data.ptr, bias.data.ptr)
    assert emulated.calls == status


class _Blind:
    """A plan that thinks itself fit for any address."""

    def __init__(self, plan):
        self._plan = plan
        self.loose = 0

    def __getattr__(self, name):
        return getattr(self._plan, name)


def test_bias_and_aux_follow_the_call(emulated, rng):
    a, b, out = draw(rng, "f4", 4, 8), draw(rng, "f4", 8, 8), empty((4, 8), np.float32)
    plan = cublas.plan("f4", *(cublas.lay_of(x) for x in (a, b, out)), epilogue="bias")
    for _ in range(3):
        bias = draw(rng, "f4", 8)
        plan(a, b, out, bias)
        near(out, wide(a) @ wide(b) + wide(bias), "f4")
    with pytest.raises(KernelError, match="bias: null"):
        plan(a, b, out)


def test_one_plan_a_problem(emulated, rng):
    lays = [cublas.packed(s) for s in ((4, 8), (8, 8), (4, 8))]
    first = cublas.plan("f4", *lays)
    assert cublas.plan("f4", *lays) is first
    others = [
        cublas.plan("f2", *lays),
        cublas.plan("f4", *lays, epilogue="relu"),
        cublas.plan("f4", *lays, alpha=2),
        cublas.plan("f4", *lays, transpose_b=True),
        cublas.plan("f4", *lays, residual=lays[2]),
        cublas.plan("f4", *lays, device=1),
    ]
    assert len({id(p) for p in [first, *others]}) == 7


def test_a_workspace_a_stream(emulated, rng, monkeypatch):
    a, b, out = draw(rng, "f4", 4, 8), draw(rng, "f4", 8, 8), empty((4, 8), np.float32)
    streams = iter([1, 1, 2])
    plan = cublas.plan("f4", *(cublas.lay_of(x) for x in (a, b, out)))
    before = dict(cublas._workspaces)
    monkeypatch.setattr(plan, "stream", lambda: next(streams))
    for _ in range(3):
        plan(a, b, out)
    made = {key: array for key, array in cublas._workspaces.items() if key not in before}
    assert {key: array.size for key, (_, array) in made.items()} == {(0, 1): 32 << 20, (0, 2): 32 << 20}


# ---- the stand-in refuses what the library refuses
def refused(status, reason, lib, problem):
    with pytest.raises(KernelError, match=f"{status}.*{reason}"):
        cublas.Plan(problem)


def test_refusals(emulated):
    m = cublas.Matrix
    good = cublas.Problem(0, "f4", m(3, 4, 4), m(4, 8, 8), m(3, 8, 8))
    cublas.Plan(good)
    invalid, unsupported = "CUBLAS_STATUS_INVALID_VALUE", "CUBLAS_STATUS_NOT_SUPPORTED"
    for status, reason, problem in [
        (invalid, "leading dimension 3", good._replace(a=m(3, 4, 3))),
        (invalid, "do not go together", good._replace(a=m(3, 5, 5))),
        (invalid, "do not go together", good._replace(a=m(4, 3, 4))),
        (invalid, "batches of", good._replace(a=m(3, 4, 4, False, 2, 12))),
        (invalid, "aux: leading dimension 8", good._replace(epilogue="relu_aux", aux_ld=8)),
        (invalid, "aux: leading dimension 12", good._replace(epilogue="gelu_tanh_aux", aux_ld=12)),
        (invalid, "aux: leading dimension 0", good._replace(epilogue="dgelu_tanh_bgrad")),
        (unsupported, "for float64", good._replace(dtype="f8", epilogue="bias")),
    ]:
        refused(status, reason, emulated, problem)
    batched = [x._replace(batch=2, step=32) for x in (good.a, good.b, good.out)]
    refused(
        unsupported, "for a batch", emulated, good._replace(a=batched[0], b=batched[1], out=batched[2], epilogue="relu")
    )


def test_an_algorithm_serves_its_own_product(emulated, rng):
    a, b, out = draw(rng, "f4", 4, 8), draw(rng, "f4", 8, 8), empty((4, 8), np.float32)
    plan = cublas.Plan(cublas.plan("f4", *(cublas.lay_of(x) for x in (a, b, out))).problem)
    plan.operation.set(lt.CUBLASLT_MATMUL_DESC_TRANSA, lt.CUBLAS_OP_T)  # b is square: only the algorithm tells
    with pytest.raises(KernelError, match="asked for with other descriptors"):
        plan(a, b, out)


def test_handles_are_checked():
    lib = lt.declare(Standin())
    layout = cublas.layout(lib, 0, cublas.Matrix(3, 4, 4))
    assert lib.cublasLtMatmulDescDestroy(layout.handle) == lt.CUBLAS_STATUS_INVALID_VALUE
    assert "is no operation" in lib.reason
    assert lib.cublasLtMatrixLayoutDestroy(layout.handle) == 0
    assert lib.cublasLtMatrixLayoutDestroy(layout.handle) == lt.CUBLAS_STATUS_INVALID_VALUE
    layout.handle = None


# ---- on a GPU
@pytest.mark.gpu
@pytest.mark.parametrize("name", [None, *EPILOGUES])
@pytest.mark.parametrize("short", NUMPY)
def test_on_a_gpu(rng, name, short):
    """Every epilogue, dtype and transposition of the real library beside NumPy."""
    import cupy

    def new(rng, short, *shape):
        return cupy.asarray(rng.standard_normal(shape).astype(NUMPY[short]))

    class Host(Array):
        """A device array and what it holds."""

        def __init__(self, array):
            self.device, self.data = array, array.data
            for attribute in ("shape", "strides", "dtype", "itemsize", "flags"):
                setattr(self, attribute, getattr(array, attribute))

        @property
        def np(self):
            return self.device.get()

    def gemm(*arrays, aux=None, **more):
        try:
            given = None if aux is None or isinstance(aux, Host) else Host(cupy.asarray(aux.np))
            cublas.gemm(*arrays, aux=given or aux, **more)
            if given is not None:
                aux.np[...] = given.np
        except cublas.Unsupported as error:
            assert name is not None, error  # an epilogue may be missing, a plain product not
            pytest.skip(str(error))

    if name is not None:
        check_epilogue(name, short, rng, gemm, lambda *a: Host(new(*a)))
        return
    for ta, tb, batch in [(x, y, z) for x in (0, 1) for y in (0, 1) for z in ((), (3,))]:
        a = Host(new(rng, short, *batch, *((30, 17) if ta else (17, 30))))
        b = Host(new(rng, short, *batch, *((9, 30) if tb else (30, 9))))
        out = Host(new(rng, short, *batch, 17, 9))
        gemm(a, b, out, transpose_a=bool(ta), transpose_b=bool(tb))
        left, right = wide(a).swapaxes(-1, -2) if ta else wide(a), wide(b).swapaxes(-1, -2) if tb else wide(b)
        near(out, left @ right, short, 4)


@pytest.mark.gpu
def test_capture_on_a_gpu(rng):
    """A product and its epilogue in a CUDA graph, replayed on new numbers."""
    import cupy

    a, b = (
        cupy.asarray(rng.standard_normal((32, 64), np.float32)),
        cupy.asarray(rng.standard_normal((64, 16), np.float32)),
    )
    bias, out = cupy.asarray(rng.standard_normal(16, np.float32)), cupy.empty((32, 16), np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        cublas.gemm(a, b, out, bias=bias)  # plan and workspace
        stream.begin_capture()
        cublas.gemm(a, b, out, bias=bias)
        graph = stream.end_capture()
        a *= 2
        graph.launch(stream)
        stream.synchronize()
    near(out.get(), wide(a.get()) @ wide(b.get()) + wide(bias.get()), "f4", 4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["relu", "gelu_tanh"])
def test_nan_on_a_gpu(name):
    """What is known: relu hides NaN. Where this fails, relu may go to the epilogue (launch/linear_act.py)."""
    import cupy

    a, out = cupy.full((16, 16), np.nan, np.float32), cupy.empty((16, 16), np.float32)
    cublas.gemm(a, a, out, epilogue=name)
    assert bool(cupy.isnan(out).all()) == (name != "relu")
