"""Tensor itself: dtypes and promotion, interchange, printing, copies."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import DTypeError

DTYPES = [tl.bool, tl.uint8, tl.int8, tl.int16, tl.int32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64]


def test_python_numbers_are_weak():
    assert (tl.ones(2, dtype=tl.float16) + 1.5).dtype is tl.float16
    assert (tl.ones(2, dtype=tl.bfloat16) * 3).dtype is tl.bfloat16
    assert (tl.arange(2) + 1.5).dtype is tl.float32
    assert (tl.arange(2, dtype=tl.int8) + 1).dtype is tl.int8
    assert (tl.tensor([True]) + 1).dtype is tl.int64
    assert (tl.tensor([True]) + True).dtype is tl.bool
    assert (tl.arange(3) / 2).dtype is tl.float32


def test_numbers_that_look_alike_are_told_apart():
    x = tl.arange(2)
    assert (x * 1).dtype is tl.int64 and (x * 1.0).dtype is tl.float32 and (x * True).dtype is tl.int64
    z = tl.ones(1)
    assert np.signbit((z * -0.0).numpy())[0] and not np.signbit((z * 0.0).numpy())[0]
    assert np.isnan((z * float("nan")).item())


def test_zero_dim_tensors_count_less():
    assert (tl.ones(2) + tl.tensor(1.0, dtype=tl.float64)).dtype is tl.float32
    assert (tl.arange(2) + tl.tensor(1.5, dtype=tl.float64)).dtype is tl.float64
    assert (tl.tensor(1, dtype=tl.int32) + tl.arange(2, dtype=tl.int8)).dtype is tl.int8


@pytest.mark.parity
def test_promotion_table_is_pytorchs():
    torch = pytest.importorskip("torch")
    for a, b in itertools.product(DTYPES, DTYPES):
        ta, tb = getattr(torch, a.name), getattr(torch, b.name)
        assert tl.promote_types(a, b).name == str(torch.promote_types(ta, tb)).partition(".")[2], (a, b)
        for (m, tm), (n, tn) in itertools.product(
            *[
                [(tl.ones(2, dtype=d), torch.ones(2, dtype=td)), (tl.tensor(1, dtype=d), torch.tensor(1, dtype=td))]
                for d, td in ((a, ta), (b, tb))
            ]
        ):
            assert (m * n).dtype.name == str((tm * tn).dtype).partition(".")[2], (m, n)
        for number in (True, 2, 2.5):
            got, want = (lib.ones(2, dtype=d) * number for lib, d in ((tl, a), (torch, ta)))
            assert got.dtype.name == str(want.dtype).partition(".")[2], (a, number)


def test_half_types_round_once():
    x = tl.tensor([1.0, 2.0**-8, 2.0**-8], dtype=tl.bfloat16)
    assert x.sum().item() == np.float32(1 + 2.0**-7)  # rounding after each step would give 1
    assert (tl.ones(70_000, dtype=tl.float16) * 2).mean().item() == 2.0  # the sum alone overflows


def test_tensor_from_data():
    assert tl.tensor([1, 2]).dtype is tl.int64 and tl.tensor([1.0]).dtype is tl.float32
    assert tl.tensor(np.float64(2)).dtype is tl.float64 and tl.tensor([True]).dtype is tl.bool
    assert tl.tensor([tl.tensor(1.0), 2.0]).tolist() == [1.0, 2.0]
    assert tl.tensor([]).dtype is tl.float32 and tl.tensor([]).shape == (0,)
    source = np.arange(3)
    t = tl.tensor(source)
    source[0] = 9
    assert t[0].item() == 0
    with pytest.raises(ValueError, match="unequal"):
        tl.tensor([[1, 2], [3]])
    with pytest.raises(TypeError):
        tl.tensor(["a"])
    with pytest.raises(TypeError, match="uint16"):
        tl.from_numpy(np.zeros(2, np.uint16))
    assert tl.Tensor(2, 3).shape == (2, 3) and tl.Tensor([1, 2]).dtype is tl.float32


def test_default_dtype():
    tl.set_default_dtype(tl.float64)
    try:
        assert tl.tensor([1.0]).dtype is tl.float64 and (tl.arange(2) * 0.5).dtype is tl.float64
        assert tl.zeros(1).dtype is tl.get_default_dtype() is tl.float64
    finally:
        tl.set_default_dtype(tl.float32)
    with pytest.raises(TypeError):
        tl.set_default_dtype(tl.int64)


def test_numpy_shares_memory_both_ways():
    a = np.arange(4.0)
    t = tl.from_numpy(a)
    t[0] = 7
    assert a[0] == 7 and t.numpy() is not None and np.shares_memory(t.numpy(), a)
    assert isinstance(np.sin(tl.ones(2)), tl.Tensor)
    assert np.asarray(tl.ones(2), dtype=np.float64).dtype == np.float64
    with pytest.raises(RuntimeError, match="requires grad"):
        tl.ones(2, requires_grad=True).numpy()
    assert (np.ones(2, np.float32) + tl.ones(2)).tolist() == [2.0, 2.0]
    assert (tl.ones(2) * np.float32(3)).tolist() == [3.0, 3.0]


def test_dlpack():
    t = tl.arange(6, dtype=tl.float32).view(2, 3).t()
    back = np.from_dlpack(t)
    assert back.tolist() == t.tolist() and np.shares_memory(back, t.numpy())
    assert tl.from_dlpack(np.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(BufferError):
        tl.ones(1, requires_grad=True).__dlpack__()
    with pytest.raises(BufferError, match="bfloat16"):
        tl.ones(1, dtype=tl.bfloat16).__dlpack__()
    with pytest.raises(TypeError):
        tl.from_dlpack([1])


@pytest.mark.parity
def test_dlpack_with_pytorch():
    torch = pytest.importorskip("torch")
    t = tl.arange(4, dtype=tl.float32)
    p = torch.from_dlpack(t)
    p[0] = 9
    assert t[0].item() == 9 and tl.from_dlpack(torch.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("d", DTYPES)
def test_pickle_and_deepcopy(d):
    x = tl.ones(2, 3, dtype=d)
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.deepcopy(x[:, ::2])):
        assert y.dtype is d and (y == 1).all() and not np.shares_memory(y.numpy(), x.numpy())
    if d.is_floating_point:
        x.requires_grad_()
        x.sum().backward()
        y = copy.deepcopy(x)
        assert y.requires_grad and y.is_leaf and (y.grad == x.grad).all() and y.grad is not x.grad
        assert pickle.loads(pickle.dumps(x)).requires_grad
        with pytest.raises(RuntimeError):
            copy.deepcopy(x * 2)


def test_deepcopy_keeps_sharing():
    x = tl.ones(2)
    a, b = copy.deepcopy((x, x))
    assert a is b


def test_conversions():
    x = tl.tensor([1.7, -2.2])
    assert x.int().tolist() == [1, -2] and x.long().dtype is tl.int64 and x.double().dtype is tl.float64
    assert (
        x.to(tl.int8).dtype is tl.int8
        and x.to("cpu") is x
        and x.to(tl.float32) is x
        and x.to(x.double()).dtype is tl.float64
    )
    assert x.to(copy=True) is not x and x.bool().all() and x.type() == "tensorlite.FloatTensor"
    with pytest.raises(RuntimeError, match="cuda"):
        x.cuda()
    assert (
        float(tl.tensor(2.5)) == 2.5 and int(tl.tensor(3)) == 3 and bool(tl.tensor(True)) and [5, 6][tl.tensor(1)] == 6
    )
    for wrong in (lambda: bool(tl.ones(2)), lambda: tl.ones(2).item()):
        with pytest.raises(RuntimeError):
            wrong()
    with pytest.raises(TypeError):
        [1, 2][tl.tensor(1.0)]
    with pytest.raises(TypeError):
        len(tl.tensor(1))


def test_equality_with_what_is_no_tensor():
    assert (tl.ones(1) == "a") is False and (tl.ones(1) != None) is True  # noqa: E711
    x = tl.ones(2)
    assert {x: 1}[x] == 1 and tl.tensor(3.0) in [tl.tensor(3.0)] and 1.0 in x and 2.0 not in x


def test_size():
    s = tl.ones(2, 3).shape
    assert s == (2, 3) and s.numel() == 6 and repr(s) == "tensorlite.Size([2, 3])" and isinstance(s[:1], tl.Size)
    assert tl.ones(2, 3).size(-1) == 3
    with pytest.raises(IndexError):
        tl.ones(2).size(1)


REPRS = [
    "L.tensor([1.0, 2.5, 100000.0])",
    "L.tensor(3)",
    "L.zeros(0, 3)",
    "L.arange(2000)",
    "L.tensor([True, False])",
    "L.zeros(2, 2, 2, dtype=L.float64)",
    "L.tensor([1.0, 2.0], requires_grad=True)",
    "L.tensor([1.0], requires_grad=True) * 2",
    "L.tensor([float('nan'), 1.0, float('-inf')])",
    "L.tensor([1e-6, 1.0])",
    "L.tensor([[1, -20], [300, 4]], dtype=L.int32)",
    "L.ones(40)",
    "L.ones(30, 50)",
    "L.tensor([0.1, 22.25], dtype=L.float16)",
    "L.tensor(1.5)",
    "L.tensor([1e10, 1.0])",
    "L.zeros(3, 1100)",
    "L.tensor([-1.0, 1.0])",
    "L.tensor([])",
]


@pytest.mark.parity
@pytest.mark.parametrize("text", REPRS)
def test_repr_is_pytorchs(text):
    torch = pytest.importorskip("torch")
    want = repr(eval(text, {"L": torch, "float": float})).replace("torch.", "tensorlite.")
    assert (
        repr(eval(text, {"L": tl, "float": float})).replace("\n       ", " ").split()
        == want.replace("\n       ", " ").split()
    )


def test_printoptions():
    x = tl.tensor([1.23456, 2.0])
    tl.set_printoptions(precision=2)
    try:
        assert repr(x) == "tensor([1.23, 2.00])"
        tl.set_printoptions(sci_mode=True, precision=1)
        assert "e+00" in repr(x)
        tl.set_printoptions(threshold=3, edgeitems=1)
        assert "..." in repr(tl.arange(9))
    finally:
        tl.set_printoptions(profile="default")
    assert repr(x) == "tensor([1.2346, 2.0000])"
    with pytest.raises(ValueError):
        tl.set_printoptions(profile="odd")


def test_devices():
    assert tl.device("cpu") is tl.ones(1).device and str(tl.device("cuda:1")) == "cuda:1"
    for wrong in ("tpu", "cuda:x"):
        with pytest.raises(RuntimeError, match="wanted"):
            tl.device(wrong)
    with pytest.raises(RuntimeError, match="cuda"):
        tl.ones(1, device="cuda")


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match=r"add.*must be Tensor"):
        tl.ones(2) + "a"
    with pytest.raises(TypeError, match="must be Tensor"):
        tl.exp("x")
    with pytest.raises(DTypeError, match="complex"):
        tl.tensor(np.ones(2, np.complex64))


def test_infinities_are_silent(recwarn):
    x = tl.tensor([3e38, -3e38])
    y = x + x
    z = y - y
    q = tl.zeros(2) / 0
    (tl.zeros(2).log(), tl.tensor([-1.0]).sqrt(), x * x, (x * 10).exp(), y.sum())
    assert y.isinf().all() and z.isnan().all() and q.isnan().all() and not recwarn.list


def test_tensors_by_their_older_names():
    names = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
    for name in names:
        kind = getattr(tl, name + "Tensor")
        x = kind([1, 0])
        assert isinstance(x, kind) and x.type() == f"tensorlite.{name}Tensor" and x.tolist() == [1, 0]
        assert sum(isinstance(x, getattr(tl, n + "Tensor")) for n in names) == 1
        assert kind(2, 3).shape == x.new(2, 3).shape == kind(tl.zeros(2, 3).shape).shape == (2, 3)
        assert kind().shape == tl.Tensor().shape == (0,) and x.new([0, 1]).dtype is x.dtype
        assert tl.ones(2).type(kind).dtype is tl.ones(2).type(f"torch.{name}Tensor").dtype is x.dtype
    assert tl.LongTensor(np.array([1.7, -1.7])).tolist() == [1, -1]
    x = tl.zeros(2)
    tl.FloatTensor(x)[0] = 3
    assert x[0] == 3 and tl.Tensor(tl.Size([2, 3])).shape == (2, 3)
    for wrong in (tl.ones(2), 5.0):
        with pytest.raises(TypeError, match="LongTensor: got"):
            tl.LongTensor(wrong)


def test_what_older_programs_begin_with():
    x = tl.ones(2)
    v = tl.autograd.Variable(x, requires_grad=True)
    (v * v).sum().backward()
    assert v.grad.tolist() == [2, 2] and not x.requires_grad and isinstance(x, tl.autograd.Variable)
    x[0] = 5
    assert v[0] == 5 and not tl.autograd.Variable(v * 2).requires_grad
    with pytest.raises(TypeError, match="Variable: data has to be a tensor"):
        tl.autograd.Variable([1.0])
    tl.backends.cudnn.benchmark = False
    assert not tl.backends.cudnn.is_available() and not tl.backends.mps.is_available()


def test_a_tensor_of_one_number_formats_as_the_number():
    x = tl.tensor(1.5, requires_grad=True)
    assert f"{x} {x:.2f} {tl.tensor(3)}" == "1.5 1.50 3" and str(x) == "tensor(1.5000, requires_grad=True)"
    assert f"{tl.ones(2)}" == "tensor([1., 1.])"
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{tl.ones(2):.2f}"
