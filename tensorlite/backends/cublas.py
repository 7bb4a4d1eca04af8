"""Matrix products on a GPU: cuBLASLt with its epilogues, by ctypes, also while a stream captures. Floor 1.

Arrays are row-major here and the library is column-major, so it is given b as its A and a as its B, and makes the
transpose of ``out``. A ``Plan`` holds what does not change from call to call: the descriptors and the algorithm, asked
of the library's heuristics once. Make plans before a capture (a first run that is not captured does); a call then only
hands pointers over. ``TL_CUDA_EMULATION=1`` puts cublas_standin.py in the library's place, nothing else changes.
"""

from __future__ import annotations

import ctypes
import math
import sys
from ctypes import byref, c_int, c_void_p
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from tensorlite import config, dtypes
from tensorlite.backends import cublas_library as lt
from tensorlite.errors import KernelError

WORKSPACE = 32 << 20  # bytes a stream, as PyTorch has on Hopper
ALIGNED = 16  # bytes on which arrays usually lie; what lies worse gets a plan of its own
PRECISIONS = ("highest", "high", "medium")
MOST_PLANS = 10_000


class Unsupported(KernelError):
    """A product that cuBLASLt does not make, or whose matrices it cannot read as they lie."""


class Precision:
    """How products of float32 matrices are made: ``tl.backends.cuda.matmul``.

    By default exactly, in float32. ``allow_tf32 = True``, or a precision of "high" or "medium", rounds the factors to
    10 bits after the point (TF32), which is several times as fast. Sums are in float32 always: the two switches of
    reductions in half precision are there for programs that set them, and steer nothing.
    """

    def __init__(self) -> None:
        self.precision = "highest"
        self.allow_fp16_reduced_precision_reduction = True
        self.allow_bf16_reduced_precision_reduction = True

    @property
    def allow_tf32(self) -> bool:
        return self.precision != "highest"

    @allow_tf32.setter
    def allow_tf32(self, on: bool) -> None:
        self.precision = "high" if on else "highest"


matmul = Precision()


def matmul_precision() -> str:
    """How exactly float32 matrices are multiplied: "highest", "high" or "medium"."""
    return matmul.precision


def set_matmul_precision(precision: str) -> None:
    """What ``set_float32_matmul_precision`` does: "highest" is float32; "high" and "medium" allow TF32."""
    if precision not in PRECISIONS:
        raise RuntimeError(f"set_float32_matmul_precision: got {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    matmul.precision = precision


# ---- names of what comes after the product, for row-major arrays
EPILOGUES = {
    None: lt.CUBLASLT_EPILOGUE_DEFAULT,
    "bias": lt.CUBLASLT_EPILOGUE_BIAS,
    "relu": lt.CUBLASLT_EPILOGUE_RELU,  # the library's relu gives 0 for NaN
    "relu_bias": lt.CUBLASLT_EPILOGUE_RELU_BIAS,
    "relu_aux": lt.CUBLASLT_EPILOGUE_RELU_AUX,
    "relu_aux_bias": lt.CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
    "gelu_tanh": lt.CUBLASLT_EPILOGUE_GELU,  # the library's gelu is the form with tanh
    "gelu_tanh_bias": lt.CUBLASLT_EPILOGUE_GELU_BIAS,
    "gelu_tanh_aux": lt.CUBLASLT_EPILOGUE_GELU_AUX,
    "gelu_tanh_aux_bias": lt.CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    "drelu": lt.CUBLASLT_EPILOGUE_DRELU,
    "drelu_bgrad": lt.CUBLASLT_EPILOGUE_DRELU_BGRAD,
    "dgelu_tanh": lt.CUBLASLT_EPILOGUE_DGELU,
    "dgelu_tanh_bgrad": lt.CUBLASLT_EPILOGUE_DGELU_BGRAD,
    "bgrad_a": lt.CUBLASLT_EPILOGUE_BGRADB,  # sums of our a, which is the library's B, over the inner dimension
    "bgrad_b": lt.CUBLASLT_EPILOGUE_BGRADA,
}
_TYPES = {"f4": lt.CUDA_R_32F, "f8": lt.CUDA_R_64F, "f2": lt.CUDA_R_16F, "bf2": lt.CUDA_R_16BF}
WIDENED = (("f2", "f4"), ("bf2", "f4"))  # products whose result has another dtype
_SIZES = {"f4": 4, "f8": 8, "f2": 2, "bf2": 2}


class Lay(NamedTuple):
    """How an array lies: its sizes, and the steps between neighbours in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


def lay_of(array: Any) -> Lay:
    size = array.itemsize
    return Lay(array.shape, tuple([s // size for s in array.strides]))


def packed(shape: tuple[int, ...]) -> Lay:
    """An array of this shape in C order."""
    return Lay(shape, tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))))


class Matrix(NamedTuple):
    """A row-major factor or result: ``turned`` where it is the columns that lie apart."""

    rows: int
    cols: int
    ld: int
    turned: bool = False
    batch: int = 1
    step: int = 0


_LARGEST = 2**31 - 1


def matrix(lay: Lay, transpose: bool = False) -> Matrix:
    """A 2-D or 3-D array, transposed or not, as the library can read it, or Unsupported."""
    if len(lay.shape) not in (2, 3):
        raise Unsupported(f"cublas: shape {lay.shape}; wanted 2 or 3 dimensions")
    (rows, cols), (down, right) = lay.shape[-2:], lay.strides[-2:]
    if transpose:
        rows, cols, down, right = cols, rows, right, down
    batch, step = (lay.shape[0], lay.strides[0]) if len(lay.shape) == 3 else (1, 0)
    if turned := right != 1 and cols != 1:  # nobody takes the step of a dimension of size 1
        fits, ld, least = down == 1 or rows == 1, right, rows
    else:
        fits, ld, least = True, cols if rows == 1 else down, cols
    if not fits or (0 < least > ld):
        raise Unsupported(f"cublas: shape {lay.shape} with strides {lay.strides}; wanted rows or columns without gaps")
    if 0 in lay.shape or step < 0 or max(rows, cols, ld, batch) > _LARGEST:
        raise Unsupported(f"cublas: shape {lay.shape} with strides {lay.strides}; wanted sizes of 1 to {_LARGEST}")
    return Matrix(rows, cols, ld, turned, batch, step if batch > 1 else 0)


class Problem(NamedTuple):
    """All that decides over descriptors and algorithm."""

    device: int
    dtype: str
    a: Matrix
    b: Matrix
    out: Matrix
    residual: Matrix | None = None
    epilogue: str | None = None
    aux_ld: int = 0
    alpha: float = 1.0
    tf32: bool = False
    wide: bool = False  # halves whose product is written in float32
    align: int = ALIGNED

    def __str__(self) -> str:
        a, b = self.a, self.b
        more = f", {self.epilogue}" if self.epilogue else ""
        return f"{a.batch} x ({a.rows}x{a.cols} @ {b.rows}x{b.cols}) of {self.dtype}{more}, {self.align} bytes aligned"


# ---- the library, handles, memory
@cache
def _standin() -> Any:
    from tensorlite.backends.cublas_standin import Standin

    return Standin()


def library() -> Any:
    """cuBLASLt, or its stand-in under ``TL_CUDA_EMULATION=1``."""
    return _standin() if config.CUDA_EMULATION.value else lt.load()


def _check(lib: Any, status: int, what: Any) -> None:
    if status:
        reason = getattr(lib, "reason", "")
        kind = Unsupported if status == lt.CUBLAS_STATUS_NOT_SUPPORTED else KernelError
        raise kind(f"cublas: {what}: {lt.status_name(status)}{': ' + reason if reason else ''}")


_handles: dict = {}  # (library, device) -> handle
_workspaces: dict = {}  # (device, stream) -> array
config.CUDA_EMULATION.listeners.append(lambda _: _workspaces.clear())


def _handle(lib: Any, device: int) -> c_void_p:
    handle = _handles.get((id(lib), device))
    if handle is None:
        handle = c_void_p()
        _check(lib, lib.cublasLtCreate(byref(handle)), "cublasLtCreate")
        _handles[id(lib), device] = handle
    return handle


def workspace(device: int, stream: int) -> int:
    """The address of a stream's workspace. Graphs captured from one stream share it: do not run two at once."""
    array = _workspaces.get((device, stream))
    if array is None:
        from tensorlite.backends import cuda

        array = _workspaces[device, stream] = cuda.arrays().empty(WORKSPACE, np.uint8)
    return array.data.ptr


class _Descriptor:
    """A handle of the library with attributes, freed with this object."""

    def __init__(self, lib: Any, kind: str, types: dict, *arguments: int):
        self.lib, self.kind, self.types, self.handle = lib, kind, types, c_void_p()
        _check(lib, getattr(lib, f"cublasLt{kind}Create")(byref(self.handle), *arguments), f"cublasLt{kind}Create")

    def set(self, attribute: int, value: int) -> None:
        box = self.types[attribute](value)
        put = getattr(self.lib, f"cublasLt{self.kind}SetAttribute")
        _check(self.lib, put(self.handle, attribute, byref(box), ctypes.sizeof(box)), f"{self.kind} {attribute}")

    def get(self, attribute: int) -> int:
        box, written = self.types[attribute](), ctypes.c_size_t()
        get = getattr(self.lib, f"cublasLt{self.kind}GetAttribute")
        status = get(self.handle, attribute, byref(box), ctypes.sizeof(box), byref(written))
        _check(self.lib, status, f"{self.kind} {attribute}")
        return box.value or 0

    def __del__(self) -> None:
        if self.handle and not sys.is_finalizing():
            getattr(self.lib, f"cublasLt{self.kind}Destroy")(self.handle)


def layout(lib: Any, type: int, m: Matrix) -> _Descriptor:
    """A row-major matrix as the library's: columns of its transpose are our rows."""
    rows, cols = (m.rows, m.cols) if m.turned else (m.cols, m.rows)
    made = _Descriptor(lib, "MatrixLayout", lt.LAYOUT_TYPES, type, rows, cols, m.ld)
    made.set(lt.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, m.batch)
    made.set(lt.CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.step)
    return made


def operation(lib: Any, p: Problem) -> _Descriptor:
    """What is multiplied how, and what comes after."""
    if p.dtype == "f8":
        compute, scale = lt.CUBLAS_COMPUTE_64F, lt.CUDA_R_64F
    else:
        exact = not (p.tf32 and p.dtype == "f4")
        compute, scale = lt.CUBLAS_COMPUTE_32F if exact else lt.CUBLAS_COMPUTE_32F_FAST_TF32, lt.CUDA_R_32F
    made = _Descriptor(lib, "MatmulDesc", lt.MATMUL_TYPES, compute, scale)
    made.set(lt.CUBLASLT_MATMUL_DESC_TRANSA, lt.CUBLAS_OP_T if p.b.turned else lt.CUBLAS_OP_N)
    made.set(lt.CUBLASLT_MATMUL_DESC_TRANSB, lt.CUBLAS_OP_T if p.a.turned else lt.CUBLAS_OP_N)
    made.set(lt.CUBLASLT_MATMUL_DESC_EPILOGUE, EPILOGUES[p.epilogue])
    # the heuristics read no more of these addresses than how they are aligned
    if uses_bias(p.epilogue):
        made.set(lt.CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.align)
    if uses_aux(p.epilogue):
        made.set(lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.align)
        made.set(lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.aux_ld)
    return made


def preference(lib: Any, p: Problem) -> _Descriptor:
    """Which algorithms will do."""
    made = _Descriptor(lib, "MatmulPreference", lt.PREFERENCE_TYPES)
    made.set(lt.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE)
    schemes = lt.CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE  # never sums of parts in half precision
    schemes |= 0 if _SIZES[p.dtype] == 2 and not p.wide else lt.CUBLASLT_REDUCTION_SCHEME_INPLACE
    made.set(lt.CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes)
    for attribute in (
        lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ):
        made.set(attribute, p.align)
    return made


def uses_bias(epilogue: str | None) -> bool:
    return epilogue is not None and ("bias" in epilogue or "bgrad" in epilogue)


def uses_aux(epilogue: str | None) -> bool:
    return epilogue is not None and ("aux" in epilogue or epilogue.startswith("d"))


class Plan:
    """One product, ready: ``plan(a, b, out, bias, aux, residual)`` of arrays that lie as it was told."""

    def __init__(self, problem: Problem):
        self.problem = p = problem
        self.lib = lib = library()
        self.float32 = p.dtype == "f4"
        self.pointers = uses_bias(p.epilogue) or uses_aux(p.epilogue)
        self.bias = self.aux = 0  # what the descriptor holds now
        self.lock = Lock()
        type, number = _TYPES[p.dtype], ctypes.c_double if p.dtype == "f8" else ctypes.c_float
        self.operation, wish = operation(lib, p), preference(lib, p)
        result = lt.CUDA_R_32F if p.wide else type
        kinds = (type, p.b), (type, p.a), (result, p.residual or p.out), (result, p.out)
        self.layouts = [layout(lib, kind, m) for kind, m in kinds]
        self.alpha, self.beta = number(p.alpha), number(p.residual is not None)
        self.result, found, self.handle = lt.HeuristicResult(), c_int(), _handle(lib, p.device)
        b, a, c, d = (x.handle for x in self.layouts)
        desc = self.operation.handle
        status = lib.cublasLtMatmulAlgoGetHeuristic(
            self.handle, desc, b, a, c, d, wish.handle, 1, byref(self.result), byref(found)
        )
        _check(lib, status, p)
        if not found.value:
            raise Unsupported(f"cublas: {p}: no algorithm")
        # ctypes takes such an object as it is, and would have to make one of a number in every call
        self.fixed = (
            lib.cublasLtMatmul,
            self.handle,
            desc,
            c_void_p(ctypes.addressof(self.alpha)),
            b,
            a,
            c_void_p(ctypes.addressof(self.beta)),
            c,
            d,
            c_void_p(ctypes.addressof(self.result.algo)),
            ctypes.c_size_t(WORKSPACE),
        )
        from tensorlite.backends import cuda

        self.stream = cuda.stream_pointer

    def __call__(self, a: Any, b: Any, out: Any, bias: Any = None, aux: Any = None, residual: Any = None) -> None:
        self.at(
            a.data.ptr,
            b.data.ptr,
            out.data.ptr,
            0 if bias is None else bias.data.ptr,
            0 if aux is None else aux.data.ptr,
            0 if residual is None else residual.data.ptr,
        )

    def at(self, a: int, b: int, out: int, bias: int = 0, aux: int = 0, residual: int = 0) -> None:
        """The same with addresses."""
        p = self.problem
        worse = (a | b | out | bias | aux | residual) & (ALIGNED - 1)
        if worse & (p.align - 1) or (self.float32 and p.tf32 is not matmul.allow_tf32):
            other = p._replace(align=(worse & -worse) or ALIGNED, tf32=matmul.allow_tf32)
            plan_of(other).at(a, b, out, bias, aux, residual)
            return
        stream = self.stream()
        array = _workspaces.get((p.device, stream))
        space = workspace(p.device, stream) if array is None else array.data.ptr
        call, handle, desc, alpha, lb, la, beta, lc, ld, algo, size = self.fixed
        if not self.pointers:
            c = residual or out
            status = call(handle, desc, alpha, b, lb, a, la, beta, c, lc, out, ld, algo, space, size, stream)
        else:
            with self.lock:  # the descriptor holds these addresses
                if bias != self.bias:
                    self.operation.set(lt.CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)
                    self.bias = bias
                if aux != self.aux:
                    self.operation.set(lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux)
                    self.aux = aux
                c = residual or out
                status = call(handle, desc, alpha, b, lb, a, la, beta, c, lc, out, ld, algo, space, size, stream)
        if status:
            _check(self.lib, status, p)


_plans: dict = {}


def plan_of(problem: Problem) -> Plan:
    """The plan of a problem, made once; Unsupported where the library has no algorithm."""
    key = (problem, config.CUDA_EMULATION.value)
    made = _plans.get(key)
    if made is None:
        if len(_plans) >= MOST_PLANS:  # losing one costs time, never a wrong answer
            _plans.clear()
        made = _plans[key] = Plan(problem)
    return made


def plan(
    dtype: str,
    a: Lay,
    b: Lay,
    out: Lay,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    epilogue: str | None = None,
    aux: Lay | None = None,
    residual: Lay | None = None,
    alpha: float = 1.0,
    device: int | None = None,
    wide: bool = False,
) -> Plan:
    """A plan for row-major arrays that lie so: out = epilogue(alpha a @ b + residual), with 2 or 3 dimensions.

    ``dtype`` is "f4", "f8", "f2" or "bf2". A batch step of 0 repeats a matrix. ``epilogue`` is a key of ``EPILOGUES``:
    a bias has one number a column of ``out``; "bgrad" writes the sums of its columns (``bgrad_a``: of a's rows,
    ``bgrad_b``: of b's columns, each over the inner dimension) where a bias would be read; ``aux`` lies like ``out``
    with a step by 8 elements between rows, for relu it is bits: uint8 rows of a multiple of 16 bytes. ``wide``: the
    result of halves, and all that has its dtype, is float32.
    """
    if epilogue not in EPILOGUES:
        raise ValueError(f"cublas: epilogue {epilogue!r}; wanted one of {', '.join(map(str, EPILOGUES))}")
    if dtype not in _TYPES:
        raise Unsupported(f"cublas: dtype {dtype}; wanted one of {', '.join(_TYPES)}")
    left, right, result = matrix(a, transpose_a), matrix(b, transpose_b), matrix(out)
    if (left.rows, right.cols) != (result.rows, result.cols) or left.cols != right.rows:
        raise ValueError(f"cublas: {left.rows}x{left.cols} @ {right.rows}x{right.cols} into {out.shape}")
    if result.turned:
        raise Unsupported(f"cublas: out {out.shape} with strides {out.strides}; wanted rows without gaps")
    batch = max(left.batch, right.batch, result.batch)
    if result.batch != batch or {left.batch, right.batch} - {1, batch}:
        raise ValueError(f"cublas: batches of {left.batch} and {right.batch} into {result.batch}")
    aux_ld = 0
    if uses_aux(epilogue):
        if aux is None:
            raise ValueError(f"cublas: epilogue {epilogue} without aux")
        aux_ld = aux.strides[-2] * (8 if "relu" in str(epilogue) else 1)
    more = None if residual is None else matrix(residual)
    if more is not None and (more.turned or more.batch != result.batch):
        raise Unsupported(f"cublas: residual with strides {residual}; wanted rows without gaps")
    if device is None:
        from tensorlite.backends import cuda

        device = cuda.current_device()
    left, right = left._replace(batch=batch), right._replace(batch=batch)
    tf32 = dtype == "f4" and matmul.allow_tf32
    return plan_of(Problem(device, dtype, left, right, result, more, epilogue, aux_ld, float(alpha), tf32, wide))


def gemm(
    a: Any,
    b: Any,
    out: Any,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Any = None,
    epilogue: str | None = None,
    aux: Any = None,
    residual: Any = None,
    alpha: float = 1.0,
) -> None:
    """out = epilogue(alpha a @ b + residual) of arrays on the current device; see ``plan``. A bias alone is added."""
    short, other, result = (dtypes.dtype.of_numpy[x.dtype].short for x in (a, b, out))
    wide = (short, result) in WIDENED
    if short != other or not (short == result or wide):
        raise ValueError(f"cublas: {short} @ {other} into {result}; wanted one dtype, or halves into f4")
    made = plan(
        short,
        lay_of(a),
        lay_of(b),
        lay_of(out),
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        epilogue="bias" if bias is not None and epilogue is None else epilogue,
        aux=None if aux is None else lay_of(aux),
        residual=None if residual is None else lay_of(residual),
        alpha=alpha,
        wide=wide,
    )
    made(a, b, out, bias, aux, residual)
