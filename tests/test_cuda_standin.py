"""The stand-in of CuPy: as strict as CuPy, counted, poisoned; and its names and signatures against the real module."""

import copy
import importlib.util
import inspect
import pickle
import re
import threading

import ml_dtypes
import numpy as np
import pytest
from cuda_harness import skip

from tensorlite.backends import standin
from tensorlite.backends.standin import functions, ufuncs, watch, xp

BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8", BF16)


def on_device(values, dtype="f4"):
    return xp.asarray(np.asarray(values, dtype))


@pytest.fixture
def x():
    return on_device(np.arange(12).reshape(3, 4))


@pytest.fixture(scope="module")
def cupy():
    if importlib.util.find_spec("cupy") is None:
        skip("CuPy is not installed: names and signatures are not compared with the real ones")
    import cupy

    return cupy


# ---- strictness
HOST = np.ones((3, 4), "f4")
REFUSED = {
    "asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array(x),
    "device + host": lambda x: x + HOST,
    "host + device": lambda x: HOST + x,
    "device += host": lambda x: x.__iadd__(HOST),
    "host += device": lambda x: HOST.copy().__iadd__(x),
    "device < host": lambda x: x < HOST,
    "device @ host": lambda x: xp.matmul(x, HOST.T),
    "device + 0-d host": lambda x: x + np.array(1.0),
    "add(device, host)": lambda x: xp.add(x, HOST),
    "np.add(device, host)": lambda x: np.add(x, HOST),
    "np.add out=device": lambda x: np.add(HOST, HOST, out=x),
    "host out of a ufunc": lambda x: xp.add(x, x, HOST.copy()),
    "host out of a sum": lambda x: xp.sum(x, axis=0, out=np.ones(4, "f4")),
    "host out of take": lambda x: xp.take(x, xp.zeros(2, int), axis=0, out=np.ones((2, 4), "f4")),
    "where(device, host)": lambda x: xp.where(x > 0, HOST, x),
    "where(host)": lambda x: xp.where(HOST > 0, x, x),
    "concatenate": lambda x: xp.concatenate([x, HOST]),
    "concatenate of lists": lambda x: xp.concatenate([x, [[1, 2, 3, 4]]]),
    "sum of a host array": lambda x: xp.sum(HOST),
    "sum of a list": lambda x: xp.sum([1.0, 2.0]),
    "list in a ufunc": lambda x: xp.add(x, [1, 2, 3, 4]),
    "out of a matmul by position": lambda x: xp.matmul(x, x.T, xp.empty((3, 3), "f4")),
    "bool - bool": lambda x: (x > 0) - (x > 1),
    "-bool": lambda x: -(x > 0),
    "where= of a ufunc": lambda x: xp.add(x, x, where=x > 0),
    "keepdims of a scan": lambda x: x.cumsum(axis=0, keepdims=True),
    "initial of a max": lambda x: xp.max(x, initial=0.0),
    "take with a mode": lambda x: xp.take(x, xp.zeros(2, int), axis=0, mode="clip"),
    "put_along_axis from a host array": lambda x: xp.put_along_axis(x, xp.zeros((1, 4), int), HOST[:1], 0),
    "setting a host element": lambda x: HOST.copy().__setitem__(Ellipsis, x),
    "int(0-d) as an index": lambda x: range(xp.sum(x)),
    "hash": lambda x: {x: 1},
    "astype(casting=)": lambda x: x.astype("i4", casting="unsafe"),
    "casting down": lambda x: xp.add(x, x, out=xp.empty((3, 4), "i4")),
    "sort with a kind": lambda x: None if _raises(ValueError, lambda: xp.sort(x, kind="quicksort")) else 1 / 0,
}


def _raises(error, call):
    with pytest.raises(error):
        call()
    raise TypeError


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_with_a_type_error(x, what):
    with pytest.raises(TypeError):
        REFUSED[what](x)


def test_refusals_of_other_classes(x):
    with pytest.raises(ValueError, match="cannot be used for fill"):
        x[...] = HOST
    with pytest.raises(ValueError, match="cannot be used for fill"):
        x[:1] = [1, 2, 3, 4]
    with pytest.raises(ValueError, match="cannot be used for copyto"):
        xp.copyto(x, HOST)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    with pytest.raises(ValueError, match="size 1"):
        x.item()
    with pytest.raises(IndexError):
        x[3]
    with pytest.raises(ValueError, match="Out shape"):
        xp.add(x, x, out=xp.empty((2, 3, 4), "f4")[:, :, :1])
    with pytest.raises(ValueError, match="Unsupported dtype"):
        xp.empty(3, object)
    with pytest.raises(ValueError, match="Unsupported dtype"):
        xp.asarray(["a", "b"])
    for method in ("reduce", "accumulate"):
        with pytest.raises(NotImplementedError):
            getattr(xp.maximum, method)(x)
    with pytest.raises(NotImplementedError):
        xp.sort(x.astype(BF16))
    with pytest.raises(NotImplementedError):
        xp.multiply.at(x, xp.zeros(2, int), 1.0)
    with pytest.raises(TypeError, match="add"):
        xp.add.at(x.astype(BF16), xp.zeros(2, int), 1.0)
    with pytest.raises(NotImplementedError, match="non-contiguous"):
        x.T.sort()
    with pytest.raises(OverflowError):
        x.astype("i1") + 1000


def test_an_unknown_name_says_so():
    with pytest.raises(AttributeError, match=r"the stand-in of CuPy has no cupy\.nditer"):
        xp.nditer


def test_scalars_are_welcome(x):
    for one in (1, 1.0, True, np.float32(1), np.int64(1), np.bool_(True)):
        assert (x + one).get()[0, 0] == 1 and (one + x).get()[0, 1] == 2
    x[0] = np.float64(7)
    x[1] = np.array(8.0)  # a host array of one number is a scalar to CuPy here
    assert x.get()[:2, 0].tolist() == [7, 8]
    assert (x + np.float64(1)).dtype == "f8" and (x + 1.0).dtype == "f4"
    assert (x == np.array(7.0)).get()[0].all()


# ---- counting
READS = {
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "item": lambda x: x.sum().item(),
    "nonzero": lambda x: xp.nonzero(x),
    "where(mask)": lambda x: xp.where(x > 0),
    "unique": lambda x: xp.unique(x),
    "mask": lambda x: x[x > 3],
    "mask written": lambda x: x.__setitem__(x > 3, 0.0),
}
DOWNLOADS = {"get": lambda x: x.get(), "asnumpy": lambda x: xp.asnumpy(x), "tolist": lambda x: x.tolist(), "repr": repr}
UPLOADS = {
    "asarray": lambda x: xp.asarray(HOST),
    "array of a list": lambda x: xp.array([1, 2]),
    "index list": lambda x: x[[0, 1]],
    "host index": lambda x: x[np.array([0, 1])],
    "host values at an index": lambda x: x.__setitem__(xp.zeros(1, int), HOST[:1]),
    "set": lambda x: x.set(HOST),
}


@pytest.mark.parametrize("what", READS)
def test_host_reads_are_counted(x, what):
    with watch() as seen:
        READS[what](x)
    assert (seen.host_reads, seen.downloads, seen.uploads) == (1, 0, 0)


@pytest.mark.parametrize("what", DOWNLOADS)
def test_downloads_are_counted(x, what):
    with watch() as seen:
        DOWNLOADS[what](x)
    assert (seen.host_reads, seen.downloads, seen.uploads) == (0, 1, 0) and seen.bytes_down == 48


@pytest.mark.parametrize("what", UPLOADS)
def test_uploads_are_counted(x, what):
    with watch() as seen:
        UPLOADS[what](x)
    assert (seen.host_reads, seen.downloads, seen.uploads) == (0, 0, 1) and seen.bytes_up > 0


def test_work_on_the_device_crosses_nothing(x):
    with watch() as seen, watch() as inner:
        y = xp.exp(x - x.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)
        y[xp.argmax(y, axis=1), 0] = 1.0
        xp.copyto(x, y)
        xp.add(x, 1, out=x)
        copy.deepcopy(x).astype("f8").reshape(-1)[::2].fill(0)
        len(x), x.shape, x.T, x.size, [row.shape for row in x]
    assert seen.crossings == 0 and seen.allocations > 0 and seen.bytes_allocated > 0 and seen == inner
    before = seen.allocations
    xp.empty(3)
    assert seen.allocations == before
    total = standin.counts.allocations
    xp.empty(3)
    assert standin.counts.allocations == total + 1


def test_counts_of_other_threads_are_seen(x):
    with watch() as seen:
        thread = threading.Thread(target=lambda: x.get())
        thread.start()
        thread.join()
    assert seen.downloads == 1


# ---- memory
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_new_memory_is_poisoned_and_aligned(dtype):
    for made in (xp.empty((3, 5), dtype), xp.empty_like(xp.zeros((3, 5), dtype)), xp.ndarray((3, 5), dtype)):
        host = made.get()
        if np.dtype(dtype).kind in "fV":
            assert np.isnan(host.astype("f8")).all()
        elif dtype == "?":
            assert host.all()
        else:
            assert (host != 0).all() and (abs(host.astype("f8")) > 5).all()
        assert made.data.ptr % 256 == 0 and made.data.mem.ptr == made.data.ptr and made.data.device_id == 0
    assert (xp.ones(3, dtype) + xp.ones(3, dtype)).data.ptr % 256 == 0


def test_views_share_memory_and_fresh_results_do_not(x):
    views = [x[1:], x.T, x.reshape(2, 6), x.ravel(), x[None], x.view("i4"), x[..., ::2], x[::-1], x[1], x.squeeze()]
    views += [xp.broadcast_to(x, (2, 3, 4)), xp.moveaxis(x, 0, 1), x.transpose(1, 0), xp.diagonal(x), xp.flip(x, 1)]
    for view in views:
        assert view.base is x and not view.flags.owndata and view.data.mem is x.data.mem
    assert x[1:].data.ptr == x.data.ptr + 16 and x[1:][:, 1:].base is x and x[::-1].data.ptr == x.data.ptr + 32
    for made in (
        x + 0,
        x[xp.asarray(np.array([0, 1]))],
        x.copy(),
        x.T.ravel(),
        x.sum(0),
        xp.take(x, 1, 0),
        x.flatten(),
    ):
        assert made.base is None and made.flags.owndata and made.data.mem is not x.data.mem
    xp.diagonal(x)[...] = -1  # views of CuPy can all be written to
    assert x.get()[1, 1] == -1


def test_layouts(x):
    assert (x.T + 1).flags.c_contiguous  # CuPy's results are in C order; NumPy's follow the inputs
    assert x.T.copy().flags.c_contiguous and x.T.copy("K").flags.f_contiguous and x.T.astype("f8").flags.f_contiguous
    assert xp.zeros_like(x.T).flags.f_contiguous and xp.sort(x.T).flags.c_contiguous
    assert xp.diag(x).flags.owndata and xp.argsort(x[0, 0]).shape == (1,)  # as CuPy has it, not NumPy
    assert xp.empty_like(x.T).flags.f_contiguous and xp.ascontiguousarray(x) is x
    assert xp.ndarray((3, 4), "f4", strides=(4, 12)).strides == (4, 12)
    assert xp.ndarray((2,), "f4", memptr=x[1].data).get().tolist() == [4, 5]
    assert xp.empty((0, 3)).data.ptr == 0 and xp.empty((0, 3))[1:].shape == (0, 3)
    assert x.flags["C_CONTIGUOUS"] and x.__cuda_array_interface__["data"] == (x.data.ptr, False)


def test_reductions_stay_on_the_device(x):
    for name in ["sum", "prod", "mean", "var", "std", "max", "min", "ptp", "all", "any", "argmax", "argmin"]:
        assert isinstance(getattr(xp, name)(x), xp.ndarray) and getattr(x, name)().shape == ()
    assert isinstance(x.dot(x.T).trace(), xp.ndarray) and isinstance(xp.allclose(x, x), xp.ndarray)
    assert isinstance(x[0, 0], xp.ndarray) and isinstance(xp.add.reduce(x[0]), xp.ndarray)
    out = xp.empty((), "f4")
    assert x.sum(out=out) is out and float(out) == 66


def test_indices_out_of_range_wrap_around(x):
    at = on_device([3, -4], "i8")
    assert x[at].get().tolist() == x.get()[[0, 2]].tolist()
    assert x[:, on_device([4, 5], "i8")].get().tolist() == x.get()[:, [0, 1]].tolist()
    assert xp.take(x, at, axis=0).get().tolist() == x.get()[[0, 2]].tolist()
    assert xp.take_along_axis(x, on_device([[7]] * 3, "i8"), 1).get()[:, 0].tolist() == [3, 7, 11]
    assert x[1, on_device([9], "i8")].get().tolist() == [5]
    x[at] = 0.0
    assert x.get().sum(1).tolist() == [0, 22, 0]
    xp.add.at(x, on_device([4, 4], "i8"), 1.0)
    assert x.get()[1].tolist() == [6, 7, 8, 9]


def test_index_forms(x):
    h, at, mask = x.get(), on_device([2, 0], "i8"), x > 4
    for key in (0, -1, slice(None, None, -1), (Ellipsis, 1), (None, 1, slice(1, 3)), (slice(0, 2), None, 3)):
        assert x[key].get().tolist() == h[key].tolist()
    assert x[at, at].get().tolist() == h[[2, 0], [2, 0]].tolist()
    assert x[at[:, None], at].get().tolist() == h[np.ix_([2, 0], [2, 0])].tolist()
    assert x[None, ..., at].get().tolist() == h[None, ..., [2, 0]].tolist()
    assert x[mask].get().tolist() == h[h > 4].tolist() and x[mask[:, 0]].get().tolist() == h[h[:, 0] > 4].tolist()
    x[mask] = on_device(np.arange(7))
    h[h > 4] = np.arange(7)
    assert x.get().tolist() == h.tolist()


def test_none_equals_no_element(x):
    assert not (x == None).get().any() and (x != None).get().all()  # noqa: E711


def test_pickle_and_deepcopy(x):
    again, twin = pickle.loads(pickle.dumps(x.T)), copy.deepcopy(x)
    assert isinstance(again, xp.ndarray) and again.get().tolist() == x.T.get().tolist()
    assert twin.data.ptr != x.data.ptr and twin.get().tolist() == x.get().tolist()


def test_promotion_as_in_cupy(x):
    half, brain, small = x.astype("f2"), x.astype(BF16), x.astype("i1")
    assert (half * 2.0).dtype == "f2" and (small + 1).dtype == "i1" and (small * 1.0).dtype == "f8"
    assert xp.exp(small).dtype == "f2" and xp.sqrt(x > 0).dtype == "f2" and (small / small).dtype == "f8"
    assert (brain + brain).dtype == BF16 and (brain * 2).dtype == BF16
    assert (brain * 2.0).dtype == "f4"  # ml_dtypes gives Python floats no weak promotion beside bfloat16
    assert xp.where(x > 0, brain, brain).dtype == "f4"  # CuPy's where has no loop for bfloat16
    assert small.sum().dtype == "i8" and half.sum().dtype == "f2" and brain.max().dtype == BF16


def test_numpy_functions_come_back_to_the_device(x):
    assert isinstance(np.add(x, x), xp.ndarray) and isinstance(np.sum(x), xp.ndarray)
    assert np.concatenate([x, x]).shape == (6, 4) and (np.float32(2) * x).dtype == "f4"


def test_values_are_numpys(x):
    h = x.get()
    for name in ["exp", "sqrt", "tanh", "abs", "floor", "sign", "negative", "square"]:
        np.testing.assert_array_equal(getattr(xp, name)(x).get(), getattr(np, name)(h))
    np.testing.assert_array_equal(xp.clip(x, 2, 5).get(), np.clip(h, 2, 5))
    np.testing.assert_array_equal(xp.einsum("ij,kj->ik", x, x).get(), h @ h.T)
    np.testing.assert_array_equal(xp.lib.stride_tricks.as_strided(x, (3, 2), (16, 8)).get(), h[:, ::2])
    fraction, power = xp.frexp(x)
    np.testing.assert_array_equal(fraction.get(), np.frexp(h)[0])
    assert power.dtype == "i4"


# ---- the device
def test_streams_events_and_memory():
    first = xp.cuda.get_current_stream()
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        assert xp.cuda.get_current_stream() is stream and stream.ptr != first.ptr
        event = stream.record()
    assert xp.cuda.get_current_stream() is first and event.done
    assert xp.cuda.get_elapsed_time(event, xp.cuda.Stream.null.record(xp.cuda.Event())) >= 0
    pool = xp.get_default_memory_pool()
    held = pool.used_bytes()
    x = xp.empty(1000, "u1")
    assert pool.used_bytes() == held + 1024
    view = x[10:]
    del x
    assert pool.used_bytes() == held + 1024 and xp.cuda.runtime.memGetInfo()[0] > 0
    del view
    assert pool.used_bytes() == held
    assert standin.cuda is xp.cuda and standin.empty is xp.empty  # the package itself may stand for the module


# ---- beside the real CuPy, which can be imported without a GPU
def described(table: str) -> dict:
    return {
        line.lstrip("~=").split("(")[0]: functions._signature(line.lstrip("~="))[0]
        for line in table.split("\n")
        if line
    }


def parameters(signature, without=()) -> list:
    return [
        (p.name, p.kind, float if p.default is np.float64 else p.default)
        for p in signature.parameters.values()
        if p.name not in without
    ]


def test_every_name_is_in_cupy(cupy):
    names = [n for n in vars(xp) if n != "__name__"]
    assert len(names) > 150 and not [n for n in names if not hasattr(cupy, n)]
    assert not [n for n in vars(xp.cuda) if n != "__name__" and not hasattr(cupy.cuda, n)]
    assert not [n for n in vars(xp.cuda.runtime) if n[0] != "_" and not hasattr(cupy.cuda.runtime, n)]
    assert callable(cupy.lib.stride_tricks.as_strided)


@pytest.mark.parametrize("name", ["Device", "Event", "MemoryPointer", "MemoryPool", "PinnedMemoryPool", "Stream"])
def test_members_of_cuda_are_cupys(cupy, name):
    theirs = dir(getattr(cupy.cuda, name))
    assert not [n for n in dir(getattr(xp.cuda, name)) if n[0] != "_" and n not in theirs]


def test_every_member_of_the_array_is_in_cupy(cupy):
    mine = {n for n in dir(xp.ndarray) if n not in dir(object) and n not in ("_host", "_mem", "_places", "_value")}
    assert not mine - set(dir(cupy.ndarray)) - {"__slots__", "__weakref__", "__doc__", "__annotations__", "__module__"}


def test_functions_take_cupys_arguments(cupy):
    real = {n: getattr(cupy, n) for n in functions.NAMES}
    wrong = {}
    for name, function in real.items():
        try:
            theirs = inspect.signature(function)
        except ValueError:  # built in, and silent about its arguments
            continue
        ours = inspect.signature(functions.NAMES[name])
        if parameters(ours) != parameters(theirs):
            wrong[name] = f"{ours}; CuPy {theirs}"
    assert not wrong


def test_methods_take_cupys_arguments(cupy):
    wrong = {}
    for name, ours in described(functions.METHODS).items():
        first = (getattr(cupy.ndarray, name).__doc__ or "").split("\n")[0]
        theirs = re.fullmatch(r"_ndarray_base\.\w+\((.*)\)(?: -> .*)?", first)
        assert theirs, name
        if [p.split()[-1] for p in theirs[1].replace("'", "").split(", ")] != [
            str(p).replace("'", "") for p in ours.parameters.values()
        ]:
            wrong[name] = f"{ours}; CuPy {theirs[1]}"
    assert not wrong


def test_operations_have_cupys_loops(cupy):
    for name, ours in ufuncs.UFUNCS.items():
        theirs = getattr(cupy, name)
        assert isinstance(theirs, cupy.ufunc) and (theirs.nin, theirs.nout) == (ours.nin, ours.nout), name
        loops = [t for t in theirs.types if not set(t) & set("FDGV")]
        assert ours.types == loops, name


PROMOTED = ("?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", BF16)
BESIDE = (
    True,
    2,
    -3,
    1 << 40,
    2.5,
    np.bool_(True),
    np.int8(1),
    np.int64(1),
    np.float16(1),
    np.float32(1),
    np.float64(1),
)


def loop_of(ufunc, ins, dtype):
    try:
        return ufunc._loop([i._host if isinstance(i, xp.ndarray) else i for i in ins], dtype)
    except TypeError:
        return None


def cupys_loop(ufunc, ins, dtype):
    from cupy._core import _scalar

    given = [_scalar.CScalar(i) if isinstance(i, (bool, int, float, np.generic)) else i for i in ins]
    try:
        op = ufunc._ops.guess_routine(ufunc.name, {}, given, dtype, ufunc._out_ops)
    except TypeError:
        return None
    return op.resolve_dtypes(given, [])


@pytest.mark.parametrize("name", ufuncs.UFUNCS)
def test_operations_choose_cupys_loops(cupy, unowned, name):
    """For every pair of dtypes, and of a dtype and a number, on either side: the types that CuPy computes in."""
    ours, theirs = ufuncs.UFUNCS[name], getattr(cupy, name)
    if ours.nin == 1:
        operands = [(t,) for t in PROMOTED]
    else:
        operands = [(a, b) for a in PROMOTED for b in (*PROMOTED, *BESIDE)]
        operands += [(b, a) for a in PROMOTED for b in BESIDE]
    wrong = []
    for types in operands:
        for dtype in (None, np.dtype("f4"), np.dtype("f8"), np.dtype("i8")):
            array = [isinstance(t, (str, np.dtype)) for t in types]
            mine = loop_of(ours, [xp.empty(2, t) if a else t for t, a in zip(types, array)], dtype)
            real = cupys_loop(theirs, [unowned((2,), t) if a else t for t, a in zip(types, array)], dtype)
            if mine != real:
                wrong.append(f"{types} dtype={dtype}: {mine}; CuPy {real}")
    assert not wrong, "\n".join(wrong[:8])


@pytest.fixture(scope="module")
def unowned(cupy):
    """CuPy arrays that look at host memory: without a GPU no kernel runs on them, but views and refusals work."""
    buffer = np.zeros(4096, np.uint8)
    memory = cupy.cuda.memory.UnownedMemory(buffer.ctypes.data, buffer.nbytes, buffer, device_id=0)
    return lambda shape, dtype="f4": cupy.ndarray(shape, dtype, memptr=cupy.cuda.memory.MemoryPointer(memory, 0))


def test_choosing_has_cupys_loops(cupy):
    """No bfloat16 among them: where and clip give float32 for it."""
    from cupy._core import _routines_math
    from cupy._sorting import search

    for ours, theirs in ((functions._where, search._where_ufunc), (functions._clip, _routines_math.clip)):
        assert ours.types == [t for t in theirs.types if not set(t) & set("FD")]


@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "all", "any"])
def test_reductions_have_cupys_dtypes(cupy, unowned, name):
    from cupy._core import _routines_logic, _routines_math, _routines_statistics

    theirs = {
        "sum": _routines_math.sum_auto_dtype,
        "prod": _routines_math.prod_auto_dtype,
        "max": _routines_statistics.amax,
        "min": _routines_statistics.amin,
        "all": _routines_logic.all,
        "any": _routines_logic.any,
    }[name]
    for t in PROMOTED:
        op = theirs._ops.guess_routine(theirs.name, {}, [unowned((2,), t)], None, None)
        assert (t, getattr(xp.ones(2, t), name)().dtype) == (t, op.out_types[0])


VIEWS = {
    "slice": lambda a: a[1:, ::2],
    "reversed": lambda a: a[::-1],
    "element": lambda a: a[1, 2],
    "new axis": lambda a: a[None, :, 1],
    "T": lambda a: a.T,
    "reshape": lambda a: a.reshape(2, 6),
    "reshape -1": lambda a: a.reshape(-1),
    "ravel": lambda a: a.ravel(),
    "transpose": lambda a: a.transpose(1, 0),
    "swapaxes": lambda a: a.swapaxes(0, 1),
    "squeeze": lambda a: a[:1].squeeze(0),
    "diagonal": lambda a: a.diagonal(),
    "wider view": lambda a: a.view("f8"),
    "narrower view": lambda a: a.view("i2"),
    "empty": lambda a: a[3:],
}


@pytest.mark.parametrize("what", VIEWS)
def test_views_look_as_cupys(unowned, x, what):
    theirs, ours = VIEWS[what](unowned((3, 4))), VIEWS[what](x)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if theirs.size:
        assert ours.strides == theirs.strides
    assert ours.flags.c_contiguous == theirs.flags.c_contiguous
    assert ours.flags.f_contiguous == theirs.flags.f_contiguous
    assert (ours.base is not None, ours.flags.owndata) == (theirs.base is not None, theirs.flags.owndata)


def test_matmul_takes_its_output_by_keyword_alone(cupy, unowned):
    with pytest.raises(TypeError, match="multiple values for argument 'out'"):
        cupy.matmul(unowned((3, 3)), unowned((3, 3)), unowned((3, 3)))


SAME_REFUSALS = {
    "np.asarray": lambda a: np.asarray(a),
    "host assigned": lambda a: a.__setitem__(Ellipsis, HOST),
    "list assigned": lambda a: a.__setitem__(slice(0, 1), [1, 2, 3, 4]),
    "host fill": lambda a: a.fill(HOST),
    "item of many": lambda a: a.item(),
    "truth of many": bool,
    "index": lambda a: a[3],
    "too many indices": lambda a: a[0, 0, 0],
    "len of 0-d": lambda a: len(a[0, 0]),
    "iteration of 0-d": lambda a: iter(a[0, 0]),
    "hash": hash,
    "casting=": lambda a: a.astype("i4", casting="unsafe"),
    "view of 0-d": lambda a: a[0, 0].view("f8"),
    "set of a list": lambda a: a.set([1]),
    "reshape": lambda a: a.reshape(5, -1),
    "range": lambda a: range(a[0, 0]),
    "flags": lambda a: a.flags["WRITEABLE"],
    "bad order": lambda a: a.astype("f4", order="Z"),
}


@pytest.mark.parametrize("what", SAME_REFUSALS)
def test_refuses_what_cupy_refuses(unowned, x, what):
    with pytest.raises(Exception) as theirs:
        SAME_REFUSALS[what](unowned((3, 4)))
    with pytest.raises(Exception) as ours:
        SAME_REFUSALS[what](x)
    assert theirs.type.__name__ != "CUDARuntimeError", "CuPy got as far as the device"
    assert issubclass(ours.type, theirs.type)
