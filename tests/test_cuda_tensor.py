"""Tensors on device "cuda", played by the emulator: moving, mixing, generators, streams, errors; no kernel runs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import config, nn
from tensorlite.backends import cuda, standin


@pytest.fixture(autouse=True)
def emulated():
    with config.CUDA_EMULATION(1):
        yield


def test_nothing_is_there_without_cupy_or_a_gpu(monkeypatch):
    with config.CUDA_EMULATION(0):
        if cuda.device_count():
            pytest.skip("there is a GPU")
        assert not tl.cuda.is_available() and tl.cuda.device_count() == 0
        with pytest.raises(RuntimeError, match=r"cuda.*tensorlite\[cuda13\]"):
            tl.ones(2, device="cuda")


def test_moving_there_and_back():
    x = tl.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = x.to("cuda")
    assert y.device == tl.device("cuda:0") and y.is_cuda and not x.is_cuda
    assert y.cpu().tolist() == x.tolist() and y.to("cuda:0") is y and y.cuda() is y
    assert x.cuda(non_blocking=True).tolist() == x.tolist()
    assert tl.ones(2, 3, device="cuda").device.index == 0 and tl.tensor(3.0, device="cuda").item() == 3.0
    assert "device='cuda:0'" in repr(y)
    with pytest.raises(TypeError, match=r"cuda:0.*use tensor.cpu\(\) first"):
        y.numpy()
    assert y.numpy(force=True).tolist() == x.tolist()
    with pytest.raises(RuntimeError, match=r"cuda:3.*wanted one of the 1 GPUs"):
        x.to("cuda:3")


@pytest.mark.parametrize("format", (tl.contiguous_format, tl.channels_last))
def test_layouts_travel(format):
    x = tl.randn(2, 3, 4, 5).contiguous(memory_format=format)
    y = x.cuda()
    assert y.is_contiguous(memory_format=format) and y.stride() == x.stride()
    back = y.cpu()
    assert back.stride() == x.stride() and bool((back == x).all())
    assert bool((x.transpose(0, 1).cuda().cpu() == x.transpose(0, 1)).all())


def test_gradients_pass_a_transfer():
    x = tl.ones(3, requires_grad=True)
    (x.to("cuda").cpu() * tl.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.device == tl.device("cpu") and x.grad.tolist() == [1.0, 2.0, 3.0]


def test_devices_do_not_mix_but_0d_tensors_do():
    x, y = tl.ones(2, device="cuda"), tl.ones(2)
    with pytest.raises(RuntimeError, match="add: tensors on cpu and cuda:0; wanted one device"):
        tl.add(x, y)
    half = tl.tensor(0.5, requires_grad=True)
    with config.KERNELS("plain"):
        z = x * half
        z.sum().backward()
    assert z.tolist() == [0.5, 0.5] and half.grad.item() == 2.0 and half.grad.device == tl.device("cpu")
    with config.KERNELS("plain"):
        x.copy_(y * 3)
    assert x.tolist() == [3.0, 3.0]


def test_numbers_and_0d_tensors_are_no_copies():
    x = tl.ones(4, device="cuda")
    with config.KERNELS("plain"):
        x * 2.0 + 1  # made once, kept
        with standin.watch() as seen:
            y = x * 2.0 + 1
            y = y * tl.tensor(3.0)
            y.sum()
    assert not seen.crossings


def test_generators_are_each_their_devices():
    tl.manual_seed(5)
    with config.KERNELS("plain"):
        a = tl.rand(7, device="cuda").cpu()
        tl.manual_seed(5)
        b = tl.rand(7, device="cuda").cpu()
        tl.manual_seed(5)
        c = tl.rand(7)
    assert bool((a == b).all()) and bool((a == c).all())
    with pytest.raises(RuntimeError, match="expected a 'cuda' device type for generator but found 'cpu'"):
        tl.rand(2, device="cuda", generator=tl.Generator())
    state = tl.cuda.get_rng_state()
    with config.KERNELS("plain"):
        first = tl.randn(3, device="cuda").tolist()
        tl.cuda.set_rng_state(state)
        assert tl.randn(3, device="cuda").tolist() == first
    assert tl.cuda.initial_seed() == 5


def test_copies_and_pickles_stay_on_their_device():
    x = tl.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    for made in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert made.device == x.device and made.requires_grad and made.tolist() == [1.0, 2.0]


def test_modules_move(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net.cuda()
    assert {p.device for p in net.parameters()} == {tl.device("cuda:0")} and net[1].running_mean.is_cuda
    tl.save(net.state_dict(), tmp_path / "net")
    again = tl.load(tmp_path / "net")
    assert all(t.device == tl.device("cpu") for t in again.values())
    net.cpu().load_state_dict(again)


def test_streams_and_events():
    s = tl.cuda.Stream()
    start, end = tl.cuda.Event(enable_timing=True), tl.cuda.Event(enable_timing=True)
    with tl.cuda.stream(s):
        assert tl.cuda.current_stream() == s
        start.record()
        tl.ones(3, device="cuda")
        end.record()
    end.synchronize()
    assert start.elapsed_time(end) >= 0 and s.query() and tl.cuda.current_stream() == tl.cuda.default_stream()
    with pytest.raises(ValueError, match="enable_timing"):
        tl.cuda.Event().elapsed_time(end)
    tl.cuda.synchronize()
    assert tl.cuda.memory_allocated() >= 0 and tl.cuda.current_device() == 0


def test_pinned_memory():
    x = tl.arange(6).reshape(2, 3)
    y = x.pin_memory()
    assert not x.is_pinned() and y.is_pinned() and y[1].is_pinned() and y.pin_memory() is y
    assert y.to("cuda", non_blocking=True).tolist() == x.tolist()
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        x.cuda().pin_memory()
    data = tl.utils.data.TensorDataset(tl.arange(5), tl.ones(5, 2))
    for a, b in tl.utils.data.DataLoader(data, batch_size=2, pin_memory=True):
        assert a.is_pinned() and b.is_pinned() and b.to("cuda", non_blocking=True).is_cuda


def test_a_fault_of_a_kernel_is_raised_at_the_next_read():
    x = tl.ones(2, device="cuda")
    flag, code = cuda.fault_flag("gather: index {index} is out of bounds for dimension 0 with size {size}")
    flag[:3] = cuda.arrays().asarray(np.array([code, 7, 4]))
    with pytest.raises(IndexError, match="gather: index 7 is out of bounds for dimension 0 with size 4"):
        x.tolist()
    assert x.tolist() == [1.0, 1.0]  # said once


def test_other_libraries_read_the_memory():
    x = tl.ones(2, 3, device="cuda")
    assert x.__cuda_array_interface__["shape"] == (2, 3)
    assert not hasattr(tl.ones(2), "__cuda_array_interface__")


def test_a_stretched_gradient_is_nobodys_sum():
    x = tl.tensor([[1.0, 2.0], [3.0, 5.0]], device="cuda", requires_grad=True)
    with config.KERNELS("plain"):
        (x.sum() + (x * x).sum()).backward()  # the first gradient arrives stretched: it must not be added to in place
    assert x.grad.tolist() == [[3.0, 5.0], [7.0, 11.0]]
    assert tl.zeros(4, device="cuda")[1:].storage_offset() == 1


def test_too_much_memory_says_what_was_asked_and_what_is_held(monkeypatch):
    def full(*shape):
        raise MemoryError("Out of memory allocating 4,096 bytes")  # as CuPy, once its cache was freed

    monkeypatch.setattr(standin.xp, "empty", full)
    with pytest.raises(tl.cuda.OutOfMemoryError, match=r"cuda:0: .*4,096 bytes; tensors hold .* the cache .* are free"):
        tl.empty(32, 32, device="cuda")


def test_precision_of_products():
    assert tl.get_float32_matmul_precision() == "highest" and not tl.backends.cuda.matmul.allow_tf32
    try:
        tl.set_float32_matmul_precision("high")
        assert tl.backends.cuda.matmul.allow_tf32
    finally:
        tl.set_float32_matmul_precision("highest")
    with pytest.raises(RuntimeError, match="wanted one of"):
        tl.set_float32_matmul_precision("low")
