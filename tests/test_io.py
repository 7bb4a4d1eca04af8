"""save and load: what comes back, what is refused, and that a file is whole or as it was."""

import io as streams
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import tensorlite as tl
from tensorlite import io, nn, optim
from tensorlite.errors import DataError

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def same(a, b):
    """Whether two objects are equal in kind, nesting and every bit."""
    if isinstance(a, tl.Tensor):
        return (
            type(a) is type(b)
            and a.dtype is b.dtype
            and a.shape == b.shape
            and a.requires_grad == b.requires_grad
            and np.ascontiguousarray(a.detach()._arr).tobytes() == np.ascontiguousarray(b.detach()._arr).tobytes()
        )
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_and_shape(tmp_path, name):
    d = getattr(tl, name)
    bits = np.random.default_rng(0).integers(0, 2 if name == "bool" else 256, (3, 4, d.itemsize), np.uint8)
    t = tl.from_numpy(bits.reshape(3, -1).view(d.np).copy())
    obj = {"whole": t, "zero-d": t[1, 2].clone(), "empty": t[:0], "turned": t.t(), "part": t[:, 1::2], "row": t[1]}
    tl.save(obj, tmp_path / "f")
    assert same(tl.load(tmp_path / "f"), obj)


def test_nesting_numbers_and_text(tmp_path):
    obj = {
        "model": OrderedDict(weight=tl.randn(2, 3), bias=tl.zeros(2)),
        3: [1, 2.5, None, True, "text \u00e9\n"],
        (1, "a"): (),
        "deep": [{"x": (tl.ones(1), [tl.zeros(2, dtype=tl.int64)])}],
        "nan": float("nan"),
        "inf": -float("inf"),
        "big": 2**70,
        "tiny": 5e-324,
        "$": {"$": "dict"},
        "kind": tl.bfloat16,
        "size": tl.ones(2, 3).shape,
        "device": tl.ones(1).device,
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        None: False,
        "1": 1,
        1: "1",
        "parameter": nn.Parameter(tl.ones(2)),
        "frozen": nn.Parameter(tl.ones(2), requires_grad=False),
        "leaf": tl.ones(2, requires_grad=True),
        "model.weight": tl.ones(1),
        "__metadata__": tl.ones(1),
    }
    tl.save(obj, tmp_path / "f")
    got = tl.load(tmp_path / "f")
    assert same(got, obj), got
    for lone in (tl.arange(3), [tl.ones(1)], 5, None, {}, []):
        tl.save(lone, tmp_path / "f")
        assert same(tl.load(tmp_path / "f"), lone)


def test_numpy_scalars_become_numbers(tmp_path):
    tl.save({"a": np.float64(0.1), "b": np.int32(7), "c": np.bool_(True), "d": np.float32(0.5)}, tmp_path / "f")
    assert same(tl.load(tmp_path / "f"), {"a": 0.1, "b": 7, "c": True, "d": 0.5})


def test_a_checkpoint(tmp_path):
    def build():
        net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        opt = optim.Adam(net.parameters(), lr=0.01)
        return net, opt, optim.lr_scheduler.MultiStepLR(opt, [1, 3])

    def train(net, opt, schedule):
        opt.zero_grad()
        net(tl.ones(3, 4)).sum().backward()
        opt.step()
        schedule.step()

    net, opt, schedule = build()
    train(net, opt, schedule)
    tl.save(
        {"net": net.state_dict(), "opt": opt.state_dict(), "schedule": schedule.state_dict(), "epoch": 1},
        tmp_path / "c",
    )
    train(net, opt, schedule)
    again = build()
    state = tl.load(tmp_path / "c")
    again[0].load_state_dict(state["net"])
    again[1].load_state_dict(state["opt"])
    again[2].load_state_dict(state["schedule"])
    train(*again)
    assert same(again[0].state_dict(), net.state_dict()) and same(again[1].state_dict(), opt.state_dict())
    assert again[2].get_last_lr() == schedule.get_last_lr()


def test_what_shares_memory_is_stored_once_and_shares_again(tmp_path):
    w = tl.randn(100, 100)
    tl.save({"a": w, "b": w, "c": w.detach(), "d": w[:1]}, tmp_path / "f")
    assert os.path.getsize(tmp_path / "f") < 45_000
    got = tl.load(tmp_path / "f")
    got["a"][0, 0] = 5
    assert got["b"][0, 0].item() == got["c"][0, 0].item() == 5 != got["d"][0, 0].item()


def test_other_programs_read_it_and_are_read(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    state = nn.Linear(3, 2).state_dict()
    tl.save(state, tmp_path / "f")
    theirs = library.load_file(tmp_path / "f")
    assert {k: v.tolist() for k, v in theirs.items()} == {k: v.tolist() for k, v in state.items()}
    library.save_file({"x": np.arange(3), "y": np.ones((2, 2), np.float16)}, tmp_path / "g", {"made": "elsewhere"})
    got = tl.load(tmp_path / "g")
    assert type(got) is dict and got["x"].tolist() == [0, 1, 2] and got["y"].dtype is tl.float16


@pytest.mark.parity
def test_pytorchs_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    tl.save({"x": tl.tensor([1.5, -2.0], dtype=tl.bfloat16)}, tmp_path / "f")
    assert torch.equal(library.load_file(tmp_path / "f")["x"], torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    library.save_file({"x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, tmp_path / "g")
    assert same(tl.load(tmp_path / "g"), {"x": tl.tensor([1.5, -2.0], dtype=tl.bfloat16)})


def test_streams_and_devices(tmp_path):
    buffer = streams.BytesIO(b"before")
    buffer.seek(6)
    tl.save({"x": tl.ones(2)}, buffer)
    buffer.seek(6)
    assert same(tl.load(buffer, map_location="cpu"), {"x": tl.ones(2)})
    tl.save(tl.ones(2), str(tmp_path / "f"))
    assert same(tl.load(str(tmp_path / "f"), tl.device("cpu") if hasattr(tl, "device") else "cpu"), tl.ones(2))
    with pytest.raises(RuntimeError, match="cuda"):
        tl.load(tmp_path / "f", "cuda")
    with pytest.raises(TypeError, match="map_location"):
        tl.load(tmp_path / "f", lambda storage, place: storage)


# ---- broken files
@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    tl.save({"weight": tl.randn(5, 4), "bias": tl.arange(7), "note": "hello"}, path)
    return path


def test_every_cut_is_found_and_named(saved):
    whole = saved.read_bytes()
    for length in (0, 5, 8, 9, 40, len(whole) // 2, len(whole) - 50, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"model\.safetensors: .*(cut off|too short)"):
            tl.load(saved)
    saved.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="too long"):
        tl.load(saved)


def test_every_altered_byte_is_found(saved):
    """One bit flipped anywhere: the file is refused, or (in what does not matter: padding, a tag) loads the same."""
    whole = saved.read_bytes()
    want = tl.load(saved)
    refused = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        saved.write_bytes(changed)
        try:
            got = tl.load(saved)
        except DataError as error:
            assert str(error).startswith(f"load: {saved}: ")
            refused += 1
        else:
            lost_tree = b'tensorlite.tree"' not in bytes(changed)
            assert same(got, want) or (lost_tree and same(got["weight"], want["weight"]))
    assert refused > 0.9 * len(whole)


def test_an_altered_tensor_is_named(saved):
    changed = bytearray(saved.read_bytes())
    changed[-3] ^= 4
    saved.write_bytes(changed)
    with pytest.raises(DataError, match=r"was altered: tensor 'weight' does not match its checksum"):
        tl.load(saved)


@pytest.mark.parametrize(
    "content,text",
    [
        (b"PK\x03\x04" + b"\0" * 60, "is a pickle or a file of torch.save"),
        (pickle.dumps({"x": 1}), "is a pickle or a file of torch.save"),
        (b"<html><body>Not found</body></html>", "is not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "damaged header"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{"dtype":3}', "damaged header"),
    ],
)
def test_other_files_are_refused(tmp_path, content, text):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=text):
        tl.load(tmp_path / "f")


def header(tmp_path, text, data=b""):
    raw = text.encode()
    (tmp_path / "f").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return tmp_path / "f"


@pytest.mark.parametrize(
    "text,data,message",
    [
        ('{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', b"1", "element type F8_E4M3"),
        ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}', b"1", "damaged"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"12", "damaged"),
        ('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', b"1", "damaged header"),
        (
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
            "damaged",
        ),
        ('{"__metadata__":{"a":1}}', b"", "damaged header"),
        ('{"__metadata__":{"tensorlite.tree":"1"}}', b"", "its metadata is damaged"),
    ],
)
def test_headers_that_lie(tmp_path, text, data, message):
    with pytest.raises(DataError, match=message):
        tl.load(header(tmp_path, text, data))


def test_a_missing_file_is_named(tmp_path):
    for error in (DataError, FileNotFoundError, OSError):
        with pytest.raises(error, match="nowhere: no such file"):
            tl.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="could not be read"):
        tl.load(tmp_path)
    with pytest.raises(DataError, match=r"parent directory .* does not exist"):
        tl.save({}, tmp_path / "no" / "f")
    with pytest.raises(DataError, match="is a folder"):
        tl.save({}, tmp_path)


def test_what_cannot_be_saved_is_named(tmp_path):
    loop = [1]
    loop.append({"again": loop})
    for obj, error, text in (
        ({"a": [nn.Linear(1, 1)]}, TypeError, r"save: \['a'\]\['0'\] is a .*Linear.*state_dict"),
        ({object(): 1}, TypeError, "has a key of type object"),
        (loop, ValueError, "holds itself"),
        (np.array(["text"]), TypeError, "is an array of <U4"),
        (lambda: 0, TypeError, "the object is a"),
    ):
        with pytest.raises(error, match=text):
            tl.save(obj, tmp_path / "f")
    assert not list(tmp_path.iterdir())


# ---- whole or as it was
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    tl.save({"epoch": 1}, path)
    written = []

    def fail(f, arrays, metadata):
        f.write(b"half a file")
        f.flush()
        written.append(len(list(tmp_path.iterdir())))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.safetensors, "write", fail)
    with pytest.raises(DataError, match="could not be written: No space left on device"):
        tl.save({"epoch": 2}, path)
    monkeypatch.undo()
    assert written == [2]
    assert tl.load(path) == {"epoch": 1} and os.listdir(tmp_path) == ["f"]
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), io.atomic(path) as f:
            f.write(b"half")
            raise stop
        assert tl.load(path) == {"epoch": 1} and os.listdir(tmp_path) == ["f"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    """A process that dies in the middle of save: the file is as it was, beside it at most a temporary one."""
    import subprocess
    import sys

    path = tmp_path / "f"
    tl.save({"epoch": 1}, path)
    code = (
        "import os, sys, tensorlite as tl\nfrom tensorlite import io\n"
        "def dies(f, arrays, metadata):\n    f.write(b'half'); f.flush(); os._exit(9)\n"
        "io.safetensors.write = dies\ntl.save({'epoch': 2}, sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert tl.load(path) == {"epoch": 1}


def test_links_and_permissions_are_kept(tmp_path):
    path, link = tmp_path / "real", tmp_path / "link"
    tl.save({"epoch": 1}, path)
    os.chmod(path, 0o640)
    os.symlink(path, link)
    tl.save({"epoch": 2}, link)
    assert link.is_symlink() and tl.load(path) == {"epoch": 2} and path.stat().st_mode & 0o777 == 0o640


# ---- pickle, asked for by name
TOLD = []


def tell():
    TOLD.append("it ran")


class Tell:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return (tell, ())


def test_no_pickle_is_loaded_unless_asked_for(tmp_path):
    path = tmp_path / "f"
    tl.save(Tell(), path, pickle=True)
    with pytest.raises(DataError, match=r"holds a pickle, which can run code.*weights_only=False"):
        tl.load(path)
    assert not TOLD
    tl.load(path, weights_only=False)
    assert TOLD.pop() == "it ran"


def test_pickles_hold_anything(tmp_path):
    path = tmp_path / "f"
    net = nn.Linear(3, 2)
    tl.save(net, path, pickle=True)
    again = tl.load(path, weights_only=False)
    assert type(again) is nn.Linear and same(again.state_dict(), net.state_dict())
    assert again.weight.requires_grad and type(again.weight) is nn.Parameter
    whole = path.read_bytes()
    for changed, text in (
        (whole[:-1], "cut off"),
        (whole + b"x", "too long"),
        (whole[:-2] + b"??", "checksum"),
        (whole[:25], "cut off"),
    ):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=text):
            tl.load(path, weights_only=False)
    tl.save({"x": 1}, path)
    assert tl.load(path, weights_only=False) == {"x": 1}
