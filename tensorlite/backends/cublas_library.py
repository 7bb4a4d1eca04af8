"""cuBLASLt as a C library: its constants, structures and functions, and where it is found. Floor 1.

Names and numbers are those of cublasLt.h, cublas_api.h and library_types.h; tests/test_cuda_cublas.py compares each
with the header of the wheel nvidia-cublas.
"""

from __future__ import annotations

import ctypes
import importlib
from ctypes import c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from functools import cache
from typing import Any

from tensorlite.errors import KernelError

# ---- cublas_api.h
CUBLAS_STATUS_SUCCESS = 0
CUBLAS_STATUS_NOT_INITIALIZED = 1
CUBLAS_STATUS_ALLOC_FAILED = 3
CUBLAS_STATUS_INVALID_VALUE = 7
CUBLAS_STATUS_ARCH_MISMATCH = 8
CUBLAS_STATUS_MAPPING_ERROR = 11
CUBLAS_STATUS_EXECUTION_FAILED = 13
CUBLAS_STATUS_INTERNAL_ERROR = 14
CUBLAS_STATUS_NOT_SUPPORTED = 15
CUBLAS_STATUS_LICENSE_ERROR = 16
CUBLAS_OP_N = 0
CUBLAS_OP_T = 1
CUBLAS_COMPUTE_32F = 68
CUBLAS_COMPUTE_32F_FAST_TF32 = 77
CUBLAS_COMPUTE_64F = 70

# ---- library_types.h
CUDA_R_32F = 0
CUDA_R_64F = 1
CUDA_R_16F = 2
CUDA_R_16BF = 14

# ---- cublasLt.h
CUBLASLT_ORDER_COL = 0
CUBLASLT_MATRIX_LAYOUT_TYPE = 0
CUBLASLT_MATRIX_LAYOUT_ORDER = 1
CUBLASLT_MATRIX_LAYOUT_ROWS = 2
CUBLASLT_MATRIX_LAYOUT_COLS = 3
CUBLASLT_MATRIX_LAYOUT_LD = 4
CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 5
CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 6

CUBLASLT_MATMUL_DESC_COMPUTE_TYPE = 0
CUBLASLT_MATMUL_DESC_SCALE_TYPE = 1
CUBLASLT_MATMUL_DESC_TRANSA = 3
CUBLASLT_MATMUL_DESC_TRANSB = 4
CUBLASLT_MATMUL_DESC_EPILOGUE = 7
CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8
CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11
CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12

CUBLASLT_REDUCTION_SCHEME_INPLACE = 1
CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2

CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7
CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8

CUBLASLT_EPILOGUE_DEFAULT = 1
CUBLASLT_EPILOGUE_RELU = 2
CUBLASLT_EPILOGUE_RELU_AUX = 130
CUBLASLT_EPILOGUE_BIAS = 4
CUBLASLT_EPILOGUE_RELU_BIAS = 6
CUBLASLT_EPILOGUE_RELU_AUX_BIAS = 134
CUBLASLT_EPILOGUE_DRELU = 136
CUBLASLT_EPILOGUE_DRELU_BGRAD = 152
CUBLASLT_EPILOGUE_GELU = 32
CUBLASLT_EPILOGUE_GELU_AUX = 160
CUBLASLT_EPILOGUE_GELU_BIAS = 36
CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 164
CUBLASLT_EPILOGUE_DGELU = 192
CUBLASLT_EPILOGUE_DGELU_BGRAD = 208
CUBLASLT_EPILOGUE_BGRADA = 256
CUBLASLT_EPILOGUE_BGRADB = 512


class Algo(ctypes.Structure):
    """``cublasLtMatmulAlgo_t``: which kernel runs, in the library's own words."""

    _fields_ = [("data", c_uint64 * 8)]


class HeuristicResult(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = [
        ("algo", Algo),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    ]


_P = c_void_p
_SET, _GET = (_P, c_int, _P, c_size_t), (_P, c_int, _P, c_size_t, _P)
PROTOTYPES: dict[str, tuple] = {  # each gives a status
    "cublasLtCreate": (_P,),
    "cublasLtDestroy": (_P,),
    "cublasLtMatrixLayoutCreate": (_P, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (_P,),
    "cublasLtMatrixLayoutSetAttribute": _SET,
    "cublasLtMatrixLayoutGetAttribute": _GET,
    "cublasLtMatmulDescCreate": (_P, c_int, c_int),
    "cublasLtMatmulDescDestroy": (_P,),
    "cublasLtMatmulDescSetAttribute": _SET,
    "cublasLtMatmulDescGetAttribute": _GET,
    "cublasLtMatmulPreferenceCreate": (_P,),
    "cublasLtMatmulPreferenceDestroy": (_P,),
    "cublasLtMatmulPreferenceSetAttribute": _SET,
    "cublasLtMatmulPreferenceGetAttribute": _GET,
    "cublasLtMatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, c_int, _P, _P),
    # handle, operation, alpha, A, its layout, B, its layout, beta, C, its layout, D, its layout, algorithm,
    # workspace, its bytes, stream
    "cublasLtMatmul": (*(_P,) * 14, c_size_t, _P),
}

# attribute -> the C type of its value
LAYOUT_TYPES: dict[int, Any] = {
    CUBLASLT_MATRIX_LAYOUT_TYPE: ctypes.c_uint32,
    CUBLASLT_MATRIX_LAYOUT_ORDER: ctypes.c_int32,
    CUBLASLT_MATRIX_LAYOUT_ROWS: c_uint64,
    CUBLASLT_MATRIX_LAYOUT_COLS: c_uint64,
    CUBLASLT_MATRIX_LAYOUT_LD: c_int64,
    CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: ctypes.c_int32,
    CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: c_int64,
}
MATMUL_TYPES: dict[int, Any] = {
    CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: ctypes.c_int32,
    CUBLASLT_MATMUL_DESC_SCALE_TYPE: ctypes.c_int32,
    CUBLASLT_MATMUL_DESC_TRANSA: ctypes.c_int32,
    CUBLASLT_MATMUL_DESC_TRANSB: ctypes.c_int32,
    CUBLASLT_MATMUL_DESC_EPILOGUE: ctypes.c_uint32,
    CUBLASLT_MATMUL_DESC_BIAS_POINTER: c_void_p,
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: c_void_p,
    CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: c_int64,
}
PREFERENCE_TYPES: dict[int, Any] = {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: c_uint64,
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: ctypes.c_uint32,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: ctypes.c_uint32,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: ctypes.c_uint32,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: ctypes.c_uint32,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: ctypes.c_uint32,
}

_NAMES = ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "cublasLt64_13.dll", "cublasLt64_12.dll")


def status_name(status: int) -> str:
    """The name of a status, "CUBLAS_STATUS_NOT_SUPPORTED" for 15."""
    known = {v: k for k, v in globals().items() if k.startswith("CUBLAS_STATUS_")}
    return known.get(status, f"status {status}")


def declare(library: Any) -> Any:
    """``library`` with the types of its functions' arguments set."""
    for name, types in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, c_int
    return library


@cache
def load() -> Any:
    """The library that is installed: by NVIDIA's pathfinder where that is, else as the system finds libraries."""
    tried = []
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        return declare(ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path))
    except Exception as error:  # not installed, or its own classes of errors for a library that is not there
        tried.append(f"cuda.pathfinder: {error}")
    for name in _NAMES:
        try:
            return declare(ctypes.CDLL(name))
        except OSError as error:
            tried.append(str(error))
    raise KernelError(
        f"cublas: no cuBLASLt library found ({tried[0]}; {tried[1]}); wanted: python -m pip install "
        "'tensorlite[cuda13]' (or cuda12), or nvidia-cublas, or a CUDA toolkit on the library path"
    )
