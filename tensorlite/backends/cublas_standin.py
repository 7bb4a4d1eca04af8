"""A stand-in of cuBLASLt on the CPU's memory, for ``TL_CUDA_EMULATION=1``. Floor 1.

It has the C functions that ``cublas.py`` calls, behind real C function pointers: arguments cross the same ABI, handles
are opaque numbers, and a product is made from nothing but the descriptors and addresses that it was given. What the
library refuses, or computes with an algorithm that was asked for something else, is refused here, and ``reason`` says
why. Numbers are rounded as on a GPU: TF32 inputs where the compute type allows it, sums of halves in float32.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from tensorlite.backends import cublas_library as lt

_DTYPES: dict[int, Any] = {
    lt.CUDA_R_32F: np.dtype(np.float32),
    lt.CUDA_R_64F: np.dtype(np.float64),
    lt.CUDA_R_16F: np.dtype(np.float16),
    lt.CUDA_R_16BF: np.dtype(ml_dtypes.bfloat16),
}
_COMPUTE = {  # compute type -> (type of alpha and beta, types of the matrices)
    lt.CUBLAS_COMPUTE_32F: (lt.CUDA_R_32F, (lt.CUDA_R_32F, lt.CUDA_R_16F, lt.CUDA_R_16BF)),
    lt.CUBLAS_COMPUTE_32F_FAST_TF32: (lt.CUDA_R_32F, (lt.CUDA_R_32F,)),
    lt.CUBLAS_COMPUTE_64F: (lt.CUDA_R_64F, (lt.CUDA_R_64F,)),
}
_BIAS, _RELU, _GELU, _AUX, _BGRAD = 4, 2, 32, 128, 16  # bits of an epilogue
_DRELU, _DGELU = 8, 64
_EPILOGUES = {v for k, v in vars(lt).items() if k.startswith("CUBLASLT_EPILOGUE_")}
_SCRATCH = 4096  # bytes of the workspace that its algorithms claim, and spoil
_MAGIC = 0x7E5704
_LARGEST = 2**31 - 1  # of sizes and leading dimensions


class Refused(Exception):
    def __init__(self, reason: str, status: int = lt.CUBLAS_STATUS_INVALID_VALUE):
        super().__init__(reason)
        self.status = status


class Thing:
    """What a handle stands for: its kind and the bytes of its attributes."""

    def __init__(self, kind: str, types: dict):
        self.kind, self.types = kind, types
        self.values = {a: b"\0" * ctypes.sizeof(t) for a, t in types.items()}

    def put(self, attribute: int, value: int) -> None:
        self.values[attribute] = bytes(self.types[attribute](value))

    def get(self, attribute: int) -> int:
        return self.types[attribute].from_buffer_copy(self.values[attribute]).value or 0

    def checked(self, attribute: int, size: int) -> None:
        if attribute not in self.types:
            raise Refused(f"{self.kind}: attribute {attribute} is unknown")
        if size != ctypes.sizeof(self.types[attribute]):
            raise Refused(
                f"{self.kind}: {size} bytes for attribute {attribute}; wanted {ctypes.sizeof(self.types[attribute])}"
            )


class Matrix:
    """A layout read: what a pointer means under it."""

    def __init__(self, name: str, thing: Thing):
        get = thing.get
        self.name, self.type = name, get(lt.CUBLASLT_MATRIX_LAYOUT_TYPE)
        self.rows, self.cols = get(lt.CUBLASLT_MATRIX_LAYOUT_ROWS), get(lt.CUBLASLT_MATRIX_LAYOUT_COLS)
        self.ld = get(lt.CUBLASLT_MATRIX_LAYOUT_LD)
        self.batch = get(lt.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
        self.step = get(lt.CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
        if get(lt.CUBLASLT_MATRIX_LAYOUT_ORDER) != lt.CUBLASLT_ORDER_COL:
            raise Refused(f"{name}: an order other than by columns", lt.CUBLAS_STATUS_NOT_SUPPORTED)
        if self.type not in _DTYPES:
            raise Refused(f"{name}: type {self.type}", lt.CUBLAS_STATUS_NOT_SUPPORTED)
        if not (0 < self.rows <= self.ld <= _LARGEST and 0 < self.cols <= _LARGEST and self.batch >= 1):
            raise Refused(
                f"{name}: {self.rows} rows, {self.cols} columns, leading dimension {self.ld}, batch {self.batch}"
            )
        if self.step < 0:
            raise Refused(f"{name}: step {self.step} between matrices")
        self.dtype = _DTYPES[self.type]

    def at(self, address: int) -> np.ndarray:
        """The matrices behind an address: (batch, rows, cols), steps as in the layout."""
        size = self.dtype.itemsize
        if address % size:
            raise Refused(f"{self.name}: address {address:#x} for elements of {size} bytes")
        count = (self.batch - 1) * self.step + (self.cols - 1) * self.ld + self.rows
        flat = memory(address, count * size).view(self.dtype)
        return np.lib.stride_tricks.as_strided(
            flat, (self.batch, self.rows, self.cols), (self.step * size, size, self.ld * size)
        )


def memory(address: int, size: int) -> np.ndarray:
    return np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """float32 with 10 bits after the point, the nearest; halves away from zero, as cvt.rna.tf32 does."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + x.dtype.type(0.044715) * x * x * x)))


def gelu_slope(x: np.ndarray) -> np.ndarray:
    root, cubic = np.sqrt(2 / np.pi).astype(x.dtype), x.dtype.type(0.044715)
    t = np.tanh(root * (x + cubic * x * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * cubic * x * x)


class Operation:
    """A product as its descriptors tell it, checked as the library checks it."""

    def __init__(self, desc: Thing, layouts: tuple[Thing, Thing, Thing, Thing]):
        get = desc.get
        self.a, self.b, self.c, self.d = (Matrix(n, t) for n, t in zip("ABCD", layouts))
        self.compute, self.epilogue = get(lt.CUBLASLT_MATMUL_DESC_COMPUTE_TYPE), get(lt.CUBLASLT_MATMUL_DESC_EPILOGUE)
        self.turned = get(lt.CUBLASLT_MATMUL_DESC_TRANSA), get(lt.CUBLASLT_MATMUL_DESC_TRANSB)
        self.scale = get(lt.CUBLASLT_MATMUL_DESC_SCALE_TYPE)
        self.bias, self.aux = (
            get(lt.CUBLASLT_MATMUL_DESC_BIAS_POINTER),
            get(lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER),
        )
        self.aux_ld = get(lt.CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD)
        self._check_shapes()
        self._check_types()
        self._check_epilogue()

    @property
    def uses_bias(self) -> bool:
        return bool(self.epilogue & (_BIAS | _BGRAD) or self.sums_input)

    @property
    def sums_input(self) -> bool:
        return self.epilogue in (lt.CUBLASLT_EPILOGUE_BGRADA, lt.CUBLASLT_EPILOGUE_BGRADB)

    @property
    def masked(self) -> bool:
        return bool(self.epilogue & _AUX and self.epilogue & (_RELU | _DRELU))

    def _check_shapes(self) -> None:
        a, b, c, d = self.a, self.b, self.c, self.d
        m, k = (a.cols, a.rows) if self.turned[0] else (a.rows, a.cols)
        k2, n = (b.cols, b.rows) if self.turned[1] else (b.rows, b.cols)
        if k != k2 or (d.rows, d.cols) != (m, n) or (c.rows, c.cols) != (m, n):
            raise Refused(
                f"op(A) {m}x{k}, op(B) {k2}x{n}, C {c.rows}x{c.cols}, D {d.rows}x{d.cols}: these do not go together"
            )
        if len({x.batch for x in (a, b, c, d)}) != 1:
            raise Refused(f"batches of {a.batch}, {b.batch}, {c.batch} and {d.batch}")
        if d.batch > 1 and d.step < (d.cols - 1) * d.ld + d.rows:
            raise Refused(f"D: step {d.step} between matrices, which then overlap")

    def _check_types(self) -> None:
        scale, types = _COMPUTE.get(self.compute, (None, ()))
        given = {x.type for x in (self.a, self.b)}, {x.type for x in (self.c, self.d)}
        one = len(given[0]) == len(given[1]) == 1 and given[0] <= set(types)
        if self.scale != scale or not one or not (given[0] == given[1] or given[1] == {scale}):
            raise Refused(
                f"compute type {self.compute}, scale type {self.scale}, matrices {given}",
                lt.CUBLAS_STATUS_NOT_SUPPORTED,
            )

    def _check_epilogue(self) -> None:
        e = self.epilogue
        if e not in _EPILOGUES:
            raise Refused(f"epilogue {e}")
        if e != lt.CUBLASLT_EPILOGUE_DEFAULT and self.d.type == lt.CUDA_R_64F:
            raise Refused(f"epilogue {e} for float64", lt.CUBLAS_STATUS_NOT_SUPPORTED)
        if self.d.batch > 1 and e not in (lt.CUBLASLT_EPILOGUE_DEFAULT, lt.CUBLASLT_EPILOGUE_BIAS):
            raise Refused(f"epilogue {e} for a batch", lt.CUBLAS_STATUS_NOT_SUPPORTED)
        if e & _AUX:
            whole = 128 if self.masked else 8
            if self.aux_ld % whole or self.aux_ld < self.d.rows:
                raise Refused(f"aux: leading dimension {self.aux_ld}; wanted {self.d.rows} or more, by {whole}")

    def check_pointers(self, align: int) -> None:
        """The bias and aux that the epilogue wants are there, and lie on ``align`` bytes."""
        for name, wanted, pointer in (("bias", self.uses_bias, self.bias), ("aux", self.epilogue & _AUX, self.aux)):
            if wanted and not pointer:
                raise Refused(f"{name}: null, and epilogue {self.epilogue} wants it")
            if wanted and pointer % align:
                raise Refused(f"{name}: address {pointer:#x}; the algorithm was asked for with {align} bytes")

    def signature(self) -> int:
        """A number for all but the pointers: an algorithm serves the product that it was asked for."""
        parts = [(x.type, x.rows, x.cols, x.ld, x.batch, x.step) for x in (self.a, self.b, self.c, self.d)]
        return zlib.crc32(repr((parts, self.compute, self.scale, self.epilogue, self.turned, self.aux_ld)).encode())

    def run(self, alpha: float, a: int, b: int, beta: float, c: int, d: int) -> None:
        wide: Any = np.float64 if self.compute == lt.CUBLAS_COMPUTE_64F else np.float32
        left, right = self.a.at(a).astype(wide), self.b.at(b).astype(wide)
        left = left.transpose(0, 2, 1) if self.turned[0] else left
        right = right.transpose(0, 2, 1) if self.turned[1] else right
        if self.sums_input:
            self._store_sums(left.sum(2)[0] if self.epilogue == lt.CUBLASLT_EPILOGUE_BGRADA else right.sum(1)[0])
        if self.compute == lt.CUBLAS_COMPUTE_32F_FAST_TF32:
            left, right = to_tf32(left), to_tf32(right)
        y = np.matmul(left, right) * wide(alpha)
        if beta:
            y = y + wide(beta) * self.c.at(c).astype(wide)
        self.d.at(d)[...] = self._finished(y).astype(self.d.dtype)

    def _finished(self, y: np.ndarray) -> np.ndarray:
        e = self.epilogue
        if self.sums_input:
            return y
        if e & _BIAS:
            y = y + memory(self.bias, self.d.rows * self.d.dtype.itemsize).view(self.d.dtype).astype(y.dtype)[:, None]
        if e & (_DRELU | _DGELU) and e & _AUX:
            y = np.where(self._mask(), y, 0) if e & _DRELU else y * gelu_slope(self._aux().astype(y.dtype))
            if e & _BGRAD:
                self._store_sums(y[0].sum(1))
            return y
        if e & _RELU:
            if e & _AUX:
                self._mask()[...] = y[0] > 0
                self._flush()
            return np.where(y > 0, y, 0).astype(y.dtype)  # 0 for NaN too: so does the library
        if e & _GELU:
            if e & _AUX:
                self._aux()[...] = y[0].astype(self.d.dtype)
            return gelu(y)
        return y

    def _store_sums(self, sums: np.ndarray) -> None:
        memory(self.bias, sums.size * self.d.dtype.itemsize).view(self.d.dtype)[...] = sums.astype(self.d.dtype)

    def _aux(self) -> np.ndarray:
        size = self.d.dtype.itemsize
        flat = memory(self.aux, ((self.d.cols - 1) * self.aux_ld + self.d.rows) * size).view(self.d.dtype)
        return np.lib.stride_tricks.as_strided(flat, (self.d.rows, self.d.cols), (size, self.aux_ld * size))

    def _mask(self) -> np.ndarray:
        """The bits of a mask, one an element of D; ``_flush`` writes them back."""
        self._bytes = memory(self.aux, self.d.cols * self.aux_ld // 8).reshape(self.d.cols, self.aux_ld // 8)
        self._bits = np.unpackbits(self._bytes, axis=1, bitorder="little")
        return self._bits[:, : self.d.rows].T

    def _flush(self) -> None:
        self._bytes[...] = np.packbits(self._bits, axis=1, bitorder="little")


class Standin:
    """The library's functions as attributes, each a C function pointer that gives a status."""

    def __init__(self) -> None:
        self.reason = ""  # of the last refusal
        self.calls = 0  # products made
        self._things: dict[int, Thing] = {}
        self._next = 0x10000
        for name, types in lt.PROTOTYPES.items():
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *types)(self._guarded(getattr(self, "_" + name))))

    def _guarded(self, body: Callable) -> Callable:
        def call(*arguments: Any) -> int:
            try:
                with np.errstate(all="ignore"):
                    body(*arguments)
            except Refused as refusal:
                self.reason = str(refusal)
                return refusal.status
            except Exception as error:  # must not pass the C boundary
                self.reason = f"{type(error).__name__}: {error}"
                return lt.CUBLAS_STATUS_INTERNAL_ERROR
            return lt.CUBLAS_STATUS_SUCCESS

        return call

    # ---- handles
    def _new(self, where: int, thing: Thing) -> Thing:
        self._next += 0x100
        self._things[self._next] = thing
        ctypes.c_void_p.from_address(where).value = self._next
        return thing

    def _thing(self, handle: int | None, kind: str) -> Thing:
        thing = self._things.get(handle or 0)
        if thing is None or thing.kind != kind:
            raise Refused(f"handle {handle} is no {kind}")
        return thing

    def _drop(self, kind: str) -> Callable:
        def drop(handle: int) -> None:
            self._thing(handle, kind)
            del self._things[handle]

        return drop

    def _set(self, kind: str) -> Callable:
        def put(handle: int, attribute: int, value: int, size: int) -> None:
            thing = self._thing(handle, kind)
            thing.checked(attribute, size)
            thing.values[attribute] = ctypes.string_at(value, size)

        return put

    def _get(self, kind: str) -> Callable:
        def get(handle: int, attribute: int, value: int | None, size: int, written: int | None) -> None:
            thing = self._thing(handle, kind)
            if size:
                thing.checked(attribute, size)
                ctypes.memmove(value, thing.values[attribute], size)
            if written:
                ctypes.c_size_t.from_address(written).value = ctypes.sizeof(thing.types[attribute])

        return get

    def _cublasLtCreate(self, where: int) -> None:
        self._new(where, Thing("context", {}))

    def _cublasLtMatrixLayoutCreate(self, where: int, type: int, rows: int, cols: int, ld: int) -> None:
        thing = self._new(where, Thing("layout", lt.LAYOUT_TYPES))
        thing.put(lt.CUBLASLT_MATRIX_LAYOUT_TYPE, type)
        thing.put(lt.CUBLASLT_MATRIX_LAYOUT_ROWS, rows)
        thing.put(lt.CUBLASLT_MATRIX_LAYOUT_COLS, cols)
        thing.put(lt.CUBLASLT_MATRIX_LAYOUT_LD, ld)
        thing.put(lt.CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1)

    def _cublasLtMatmulDescCreate(self, where: int, compute: int, scale: int) -> None:
        thing = self._new(where, Thing("operation", lt.MATMUL_TYPES))
        thing.put(lt.CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute)
        thing.put(lt.CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale)
        thing.put(lt.CUBLASLT_MATMUL_DESC_EPILOGUE, lt.CUBLASLT_EPILOGUE_DEFAULT)

    def _cublasLtMatmulPreferenceCreate(self, where: int) -> None:
        thing = self._new(where, Thing("preference", lt.PREFERENCE_TYPES))
        thing.put(lt.CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 7)
        for attribute in _ALIGNMENTS:
            thing.put(attribute, 256)

    _cublasLtDestroy = property(lambda self: self._drop("context"))
    _cublasLtMatrixLayoutDestroy = property(lambda self: self._drop("layout"))
    _cublasLtMatrixLayoutSetAttribute = property(lambda self: self._set("layout"))
    _cublasLtMatrixLayoutGetAttribute = property(lambda self: self._get("layout"))
    _cublasLtMatmulDescDestroy = property(lambda self: self._drop("operation"))
    _cublasLtMatmulDescSetAttribute = property(lambda self: self._set("operation"))
    _cublasLtMatmulDescGetAttribute = property(lambda self: self._get("operation"))
    _cublasLtMatmulPreferenceDestroy = property(lambda self: self._drop("preference"))
    _cublasLtMatmulPreferenceSetAttribute = property(lambda self: self._set("preference"))
    _cublasLtMatmulPreferenceGetAttribute = property(lambda self: self._get("preference"))

    # ---- products
    def _operation(self, handle: int, desc: int, *layouts: int) -> Operation:
        self._thing(handle, "context")
        a, b, c, d = (self._thing(x, "layout") for x in layouts)
        return Operation(self._thing(desc, "operation"), (a, b, c, d))

    def _cublasLtMatmulAlgoGetHeuristic(
        self, handle: int, desc: int, a: int, b: int, c: int, d: int, preference: int, most: int, found: int, count: int
    ) -> None:
        ctypes.c_int.from_address(count).value = 0
        operation, wish = self._operation(handle, desc, a, b, c, d), self._thing(preference, "preference")
        if most < 1:
            raise Refused(f"{most} algorithms asked for")
        if wish.get(lt.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) < _SCRATCH:
            raise Refused("no algorithm for so small a workspace", lt.CUBLAS_STATUS_NOT_SUPPORTED)
        align = min(wish.get(x) for x in _ALIGNMENTS)
        operation.check_pointers(align)
        result = lt.HeuristicResult.from_address(found)
        result.algo.data[:3] = _MAGIC, align, operation.signature()
        result.workspaceSize, result.state, result.wavesCount = _SCRATCH, lt.CUBLAS_STATUS_SUCCESS, 1.0
        ctypes.c_int.from_address(count).value = 1

    def _cublasLtMatmul(
        self,
        handle: int,
        desc: int,
        alpha: int,
        a: int | None,
        a_layout: int,
        b: int | None,
        b_layout: int,
        beta: int,
        c: int | None,
        c_layout: int,
        d: int | None,
        d_layout: int,
        algo: int | None,
        workspace: int | None,
        size: int,
        stream: int | None,
    ) -> None:
        operation = self._operation(handle, desc, a_layout, b_layout, c_layout, d_layout)
        number: Any = ctypes.c_double if operation.scale == lt.CUDA_R_64F else ctypes.c_float
        if not alpha or not beta or not a or not b or not d or not algo or not workspace:
            raise Refused("a null pointer among alpha, beta, A, B, D, algorithm, workspace")
        times, plus = number.from_address(alpha).value, number.from_address(beta).value
        if plus and not c:
            raise Refused("C: null, and beta is not 0")
        magic, align, signature = lt.Algo.from_address(algo).data[:3]
        if magic != _MAGIC or signature != operation.signature():
            raise Refused("the algorithm was asked for with other descriptors")
        for name, address in zip("ABCD", (a, b, c or 0, d)):
            if address % align:
                raise Refused(f"{name}: address {address:#x}; the algorithm was asked for with {align} bytes")
        operation.check_pointers(align)
        if size < _SCRATCH or workspace % 256:
            raise Refused(f"workspace: {size} bytes at {workspace:#x}; wanted {_SCRATCH} on 256")
        memory(workspace, _SCRATCH)[...] = 0xFF
        operation.run(times, a, b, plus, c or 0, d)
        self.calls += 1


_ALIGNMENTS = (
    lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    lt.CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
)
