"""utils.data and vision: loaders, samplers, collation, IDX files, downloads that break, pictures."""

import collections
import gzip
import hashlib
import http.server
import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import DataError
from tensorlite.utils import data
from tensorlite.utils.data import DataLoader, Dataset, TensorDataset, default_collate, default_convert, files
from tensorlite.utils.data.files import cache_dir, check_writable, fetch
from tensorlite.vision import mnist, read_idx

Pair = collections.namedtuple("Pair", "a b")


# ---- loaders
def dataset(n=5):
    return TensorDataset(tl.arange(n), tl.arange(n) * 2)


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return i * i


def plain(tree):
    """Tensors as (dtype, values), whatever library they come from."""
    if hasattr(tree, "tolist") and hasattr(tree, "dtype"):
        return str(tree.dtype).split(".")[-1], tree.tolist()
    if isinstance(tree, dict):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(plain, tree))
    return type(tree)(map(plain, tree)) if isinstance(tree, (list, tuple)) else tree


def test_batches_in_order():
    got = [[x.tolist(), y.tolist()] for x, y in DataLoader(dataset(), batch_size=2)]
    assert got == [[[0, 1], [0, 2]], [[2, 3], [4, 6]], [[4], [8]]]
    assert [b.tolist() for b in DataLoader(Squares(5), batch_size=2, drop_last=True)] == [[0, 1], [4, 9]]
    assert len(DataLoader(dataset(), 2)) == 3
    assert len(DataLoader(dataset(), 2, drop_last=True)) == 2


def test_one_gather_equals_stacking():
    class Slow(TensorDataset):
        def __getitem__(self, i):
            return super().__getitem__(i)

    tensors = (tl.arange(12.0).reshape(6, 2), tl.arange(6))
    for fast, slow in zip(DataLoader(TensorDataset(*tensors), 4), DataLoader(Slow(*tensors), 4)):
        assert plain(fast) == plain(slow)
        assert type(fast) is type(slow) is list


def test_shuffle_is_seeded_and_complete():
    def order(seed):
        loader = DataLoader(dataset(20), batch_size=3, shuffle=True, generator=tl.Generator().manual_seed(seed))
        return [[i for x, _ in loader for i in x.tolist()] for _ in range(2)]

    first, second = order(1)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != list(range(20))
    assert order(1) == [first, second] and order(2) != [first, second]

    def by_global_seed():
        tl.manual_seed(3)
        return [x.tolist() for x in DataLoader(Squares(9), shuffle=True)]

    assert by_global_seed() == by_global_seed()


def test_samplers():
    assert next(iter(DataLoader(dataset(), sampler=[3, 1], batch_size=2)))[0].tolist() == [3, 1]
    assert [b.tolist() for b in DataLoader(Squares(5), batch_sampler=[[4], [0, 1]])] == [[16], [0, 1]]
    draws = list(data.RandomSampler(range(3), replacement=True, num_samples=50))
    assert len(draws) == 50 and set(draws) == {0, 1, 2}
    more = list(data.RandomSampler(range(3), num_samples=7))
    assert sorted(more[:3]) == sorted(more[3:6]) == [0, 1, 2] and len(more) == 7
    assert list(DataLoader(Squares(3), batch_size=None)) == [0, 1, 4]
    assert len(DataLoader(Squares(3), batch_size=None)) == 3


def test_many_at_once():
    class Many(Squares):
        def __getitems__(self, indices):
            return [100 + i for i in indices]

    assert [b.tolist() for b in DataLoader(Many(3), batch_size=2)] == [[100, 101], [102]]


def test_own_collate():
    assert list(DataLoader(Squares(3), batch_size=2, collate_fn=sum)) == [1, 4]


REFUSALS = [
    (ValueError, dict(batch_size=0)),
    (ValueError, dict(batch_size=2.0)),
    (ValueError, dict(batch_size=True)),
    (ValueError, dict(shuffle=True, sampler=[0])),
    (ValueError, dict(batch_size=2, batch_sampler=[[0]])),
    (ValueError, dict(batch_size=None, drop_last=True)),
    (ValueError, dict(num_workers=-1)),
    (ValueError, dict(timeout=-1)),
    (ValueError, dict(prefetch_factor=2)),
    (ValueError, dict(persistent_workers=True)),
    (ValueError, dict(multiprocessing_context="fork")),
    (ValueError, dict(drop_last=0)),
]


@pytest.mark.parametrize("error, options", REFUSALS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_loader_refuses(error, options):
    with pytest.raises(error):
        DataLoader(dataset(), **options)


def test_other_refusals():
    with pytest.raises(ValueError):
        DataLoader([], shuffle=True)
    assert list(DataLoader([], batch_size=2)) == []
    with pytest.raises(AssertionError):
        TensorDataset(tl.arange(3), tl.arange(2))
    with pytest.raises(TypeError, match="TensorDataset: got a list; wanted tensors"):
        TensorDataset(tl.arange(2), [1, 2])
    with pytest.raises(TypeError, match="TensorDataset: got a tensor without dimensions; wanted"):
        TensorDataset(tl.tensor(1.0))
    with pytest.raises(IndexError, match="default_collate: got no samples; wanted"):
        default_collate([])
    with pytest.raises(TypeError):
        data.RandomSampler([1], replacement=1)
    with pytest.raises(ValueError):
        DataLoader(dataset()).batch_size = 3
    with pytest.raises(NotImplementedError):
        Dataset()[0]
    for options in (dict(multiprocessing_context="thread"), dict(prefetch_factor=0), dict(prefetch_factor=-1)):
        with pytest.raises(ValueError):
            DataLoader(dataset(), num_workers=1, **options)
    with pytest.raises(TypeError):
        DataLoader(dataset(), num_workers=1, multiprocessing_context=3)


BATCHES = {
    "floats": [1.0, 2.0],
    "ints": [1, 2],
    "bools": [True, False],
    "strings": ["a", "b"],
    "bytes": [b"a"],
    "numpy numbers": [np.float32(1), np.float32(2)],
    "arrays": [np.ones(2), np.zeros(2)],
    "dicts": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
    "named tuples": [Pair(1, 2.0), Pair(3, 4.0)],
    "tuples": [(1, 2.0), (3, 4.0)],
    "lists": [[1, 2], [3, 4]],
    "nested": [{"a": (1, [2.0])}, {"a": (3, [4.0])}],
    "unequal lists": [[1], [2, 3]],
    "None": [None, None],
    "array of strings": [np.array("a")],
    "empty": [],
    "other keys": [{"a": 1}, {"b": 2}],
    "unequal arrays": [np.ones(2), np.ones(3)],
}


def outcome(f, batch):
    try:
        return plain(f(batch))
    except Exception as error:
        return next(c for c in (KeyError, IndexError, TypeError, RuntimeError) if isinstance(error, c))


EXPECTED = {
    "floats": ("float64", [1.0, 2.0]),
    "ints": ("int64", [1, 2]),
    "bools": ("bool", [True, False]),
    "strings": ["a", "b"],
    "bytes": [b"a"],
    "numpy numbers": ("float32", [1.0, 2.0]),
    "arrays": ("float64", [[1.0, 1.0], [0.0, 0.0]]),
    "dicts": {"a": ("int64", [1, 2]), "b": ["x", "y"]},
    "named tuples": Pair(("int64", [1, 3]), ("float64", [2.0, 4.0])),
    "tuples": [("int64", [1, 3]), ("float64", [2.0, 4.0])],
    "lists": [("int64", [1, 3]), ("int64", [2, 4])],
    "nested": {"a": [("int64", [1, 3]), [("float64", [2.0, 4.0])]]},
    "unequal lists": RuntimeError,
    "None": TypeError,
    "array of strings": TypeError,
    "empty": IndexError,
    "other keys": KeyError,
    "unequal arrays": RuntimeError,
}


@pytest.mark.parametrize("name", BATCHES)
def test_collate(name):
    assert outcome(default_collate, BATCHES[name]) == EXPECTED[name]


@pytest.mark.parity
@pytest.mark.parametrize("name", BATCHES)
def test_collate_parity(name):
    torch_data = pytest.importorskip("torch.utils.data")
    assert outcome(default_collate, BATCHES[name]) == outcome(torch_data.default_collate, BATCHES[name])
    assert outcome(default_convert, BATCHES[name]) == outcome(torch_data.default_convert, BATCHES[name])


@pytest.mark.parity
@pytest.mark.parametrize("error, options", REFUSALS, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_loader_refuses_parity(error, options):
    torch = pytest.importorskip("torch")
    with pytest.raises(error):
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(5)), **options)


# ---- IDX
def idx(array, code=8):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, train=60, test=20, pack=True, seed=0):
    """A tiny MNIST that a net can learn: label k is a bright bar in rows 2k and 2k + 1."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", train), ("t10k", test)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels):
            image[2 * label + 4 : 2 * label + 6] = 250
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            blob = idx(array)
            path = folder / f"{name}-{kind}-ubyte{'.gz' if pack else ''}"
            path.write_bytes(gzip.compress(blob) if pack else blob)
    return folder


@pytest.mark.parametrize("pack", [False, True])
def test_read_idx(tmp_path, pack):
    for code, kind in ((8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        array = np.arange(24).reshape(2, 3, 4).astype(kind)
        blob = idx(array, code)
        (tmp_path / "a").write_bytes(gzip.compress(blob) if pack else blob)
        got = read_idx(tmp_path / "a")
        assert got.dtype == np.dtype(kind).newbyteorder("=") and got.dtype.isnative
        np.testing.assert_array_equal(got, array)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "blob, says",
    [
        (b"", "offset 0: the file ends"),
        (GOOD[:3], "offset 3: the file ends"),
        (GOOD[:9], "offset 9: the file ends"),
        (GOOD[:30], "offset 30: the file ends"),
        (GOOD + b"x", "offset 40: more bytes follow"),
        (b"\x01" + GOOD[1:], "offset 0: got 01 00 08 03"),
        (GOOD[:2] + b"\x07" + GOOD[3:], "offset 0: got 00 00 07 03"),
        (GOOD[:3] + b"\xff" + GOOD[4:], "offset 40: the file ends"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "offset 40: the file ends"),  # no memory for 2**96 values is asked for
        (gzip.compress(GOOD, mtime=0)[:-10], "broken gzip data"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "broken gzip data"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff\xff\xff" + gzip.compress(GOOD, mtime=0)[15:], "broken gzip data"),
    ],
)
def test_broken_idx_names_file_and_offset(tmp_path, blob, says):
    path = tmp_path / "images"
    path.write_bytes(blob)
    with pytest.raises(DataError, match=r"images: offset \d+") as caught:
        read_idx(path)
    assert says in str(caught.value)


def test_every_cut_is_refused(tmp_path):
    packed = gzip.compress(GOOD, mtime=0)
    for blob in (GOOD, packed):
        for n in range(len(blob)):
            (tmp_path / "cut").write_bytes(blob[:n])
            with pytest.raises(DataError, match="offset"):
                read_idx(tmp_path / "cut")


def test_missing_idx(tmp_path):
    with pytest.raises(DataError, match="nothing-here: No such file"):
        read_idx(tmp_path / "nothing-here")
    with pytest.raises(DataError, match="directory"):
        read_idx(tmp_path)


# ---- where data lie
@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without data: an empty cache, TENSORLITE_DATA unset, and no network to speak of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLITE_DATA", raising=False)
    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/"])  # the port of "discard": nobody listens
    return tmp_path


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("sub", ["", "MNIST/raw", "mnist10k", "mnist"])
def test_find(home, sub, pack, monkeypatch):
    write_mnist(home / "d" / sub, pack=pack)
    assert mnist.find() is None
    assert [p.parent for p in mnist.find(home / "d")] == [home / "d" / sub] * 4
    monkeypatch.setenv("TENSORLITE_DATA", str(home / "d"))
    digits = mnist.load()
    assert digits.train_images.shape == (60, 28, 28) and digits.test_labels.shape == (20,)
    assert digits.source == str(home / "d" / sub)


def test_find_other_names_and_cache(home):
    write_mnist(cache_dir() / "mnist", pack=False)
    assert mnist.find() is not None
    for path in list((cache_dir() / "mnist").iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert mnist.find() is not None
    next((cache_dir() / "mnist").iterdir()).unlink()
    assert mnist.find() is None


def test_named_folder_must_hold_it(home):
    with pytest.raises(DataError, match="empty: MNIST is not there; wanted train-images-idx3-ubyte"):
        mnist.load(home / "empty")


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "tensorlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert cache_dir() == tmp_path / ".cache/tensorlite"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library/Caches/tensorlite"
    monkeypatch.setattr(files.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_dir() == tmp_path / "tensorlite/Cache"


@pytest.mark.parametrize(
    "name, array, says",
    [
        ("train-images-idx3", np.zeros((60, 27, 28), np.uint8), "wanted uint8 of shape"),
        ("train-labels-idx1", np.zeros(59, np.uint8), "as many as there are images"),
        ("t10k-labels-idx1", np.full(20, 10, np.uint8), "offset 8: label 10; wanted 0 to 9"),
    ],
)
def test_wrong_contents(home, name, array, says):
    write_mnist(home / "d", pack=False)
    (home / "d" / f"{name}-ubyte").write_bytes(idx(array))
    with pytest.raises(DataError, match=says) as caught:
        mnist.load(home / "d")
    assert name in str(caught.value)


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "a") == tmp_path / "a"
    for path in (tmp_path, tmp_path / "no" / "a"):
        with pytest.raises(DataError):
            check_writable(path)


# ---- downloads
BODY = b"0123456789" * 1000
HASH = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/how/name: serves ``name`` well or badly."""

    def do_GET(self):
        how, name = self.path.strip("/").split("/")
        self.server.asked.append(self.path)
        body = self.server.bodies.get(name, BODY)
        if how == "hang":
            self.server.over.wait(20)
            return
        self.send_response(404 if how == "missing" else 200)
        if how != "nolength":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how == "wrong":
            body = b"x" + body[1:]
        if how in ("short", "stall"):
            body = body[: len(body) // 2]
        if how == "trickle":
            for k in range(2000):
                if self.server.over.wait(0.01):
                    return
                self.wfile.write(body[k : k + 1])
        self.wfile.write(body)
        if how == "stall":
            self.wfile.flush()
            self.server.over.wait(20)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.bodies, httpd.over, httpd.daemon_threads = [], {}, threading.Event(), True
    thread = threading.Thread(target=httpd.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    httpd.mirror = lambda how: f"http://127.0.0.1:{httpd.server_address[1]}/{how}/"
    yield httpd
    httpd.over.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    "how, why",
    [
        ("wrong", "is not the published"),
        ("short", "broke off after 5000 of 10000 bytes"),
        ("missing", "404 Not Found"),
        ("hang", "no answer for 0.3 s"),
        ("stall", "no answer for 0.3 s"),
        ("trickle", "bytes in"),
    ],
)
def test_bad_mirrors(server, tmp_path, how, why):
    start = time.monotonic()
    with pytest.raises(DataError, match="f could not be downloaded") as caught:
        fetch({"f": HASH}, [server.mirror(how)], tmp_path / "c", patience=0.3)
    assert why in str(caught.value)
    assert time.monotonic() - start < 5
    assert os.listdir(tmp_path / "c") == []  # nothing that looks like data, nothing half done
    fetch({"f": HASH}, [server.mirror(how), server.mirror("good")], tmp_path / "c", patience=0.3)
    assert (tmp_path / "c" / "f").read_bytes() == BODY


def test_deadline(server, tmp_path):
    start = time.monotonic()
    with pytest.raises(DataError, match="out of time"):
        fetch({"f": HASH}, [server.mirror("hang")] * 3, tmp_path, patience=5, deadline=0.4)
    assert time.monotonic() - start < 3


def test_nobody_listens(tmp_path):
    with pytest.raises(DataError, match="refused"):
        fetch({"f": HASH}, ["http://127.0.0.1:9/"], tmp_path)
    with pytest.raises(DataError, match="no mirror is known"):
        fetch({"f": HASH}, [], tmp_path)


def test_fetch_keeps_what_is_there_and_reports(server, tmp_path):
    (tmp_path / "a").write_bytes(b"kept")
    seen = []
    mirrors = [server.mirror("missing"), server.mirror("nolength"), server.mirror("good")]
    fetch({"a": HASH, "b": HASH, "c": HASH}, mirrors, tmp_path, progress=lambda *got: seen.append(got))
    assert (tmp_path / "a").read_bytes() == b"kept"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]
    assert server.asked == ["/missing/b", "/nolength/b", "/nolength/c"]  # a mirror that failed goes to the end
    assert sum(n for name, n, _ in seen if name == "b") == len(BODY)
    assert all(size is None for *_, size in seen)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_cache_that_cannot_be_written(server, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be stored"):
        fetch({"f": HASH}, [server.mirror("good")], tmp_path / "c")


def test_cache_whose_place_is_taken(server, tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(DataError, match="f cannot be stored in"):
        fetch({"f": HASH}, [server.mirror("good")], tmp_path / "c")


def test_mnist_download(server, home, monkeypatch):
    write_mnist(home / "there")
    bodies = {p.name: p.read_bytes() for p in (home / "there").iterdir()}
    server.bodies.update(bodies)
    monkeypatch.setattr(mnist, "SHA256", {n: hashlib.sha256(bodies[n]).hexdigest() for n in mnist.SHA256})
    said = []
    first = mnist.load(mirrors=[server.mirror("wrong"), server.mirror("good")], say=said.append)
    assert first.source == str(cache_dir() / "mnist") and said == []
    asked = len(server.asked)
    again = mnist.load(mirrors=[server.mirror("good")])
    assert len(server.asked) == asked
    np.testing.assert_array_equal(first.test_images, again.test_images)


def test_published_hashes_are_whole():
    assert set(map(len, mnist.SHA256.values())) == {64} and len(mnist.SHA256) == 4


def test_digits_of_sklearn(home):
    pytest.importorskip("sklearn")
    said = []
    digits = mnist.load(say=said.append)
    assert len(said) == 1 and "\n" not in said[0] and "scikit-learn" in said[0] and "refused" in said[0]
    assert digits.train_images.shape == (1437, 28, 28) and digits.test_images.shape == (360, 28, 28)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 255
    assert not digits.train_images[:, :4].any() and digits.train_images[:, 4].any()
    assert set(digits.test_labels) == set(range(10))


def test_nothing_to_train_on(home, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"refused.*pip install 'tensorlite\[examples\]'"):
        mnist.load()


# ---- pictures
def test_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 10:14] = 200
    image.fromarray(digit).save(tmp_path / "dark.png")
    image.fromarray(255 - digit).convert("RGB").save(tmp_path / "light.png")
    clear = np.zeros((28, 28, 4), np.uint8)
    clear[..., 3] = digit
    image.fromarray(clear).save(tmp_path / "clear.png")  # black ink on nothing
    for name in ("dark", "light", "clear"):
        np.testing.assert_array_equal(mnist.read_picture(tmp_path / f"{name}.png"), digit, err_msg=name)

    large = np.full((300, 200), 255, np.uint8)
    large[20:120, 150:170] = 0  # ink up in a corner: cut out, scaled to 20 high, put in the middle
    image.fromarray(large).save(tmp_path / "large.png")
    got = mnist.read_picture(tmp_path / "large.png")
    np.testing.assert_array_equal(np.argwhere(got)[[0, -1]], [[4, 12], [23, 15]])

    image.fromarray(np.full((50, 50), 255, np.uint8)).save(tmp_path / "blank.png")
    assert not mnist.read_picture(tmp_path / "blank.png").any()


def test_no_pictures(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_text("not a picture")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    for name, says in (("a.png", "cannot identify"), ("b.png", "b.png: "), ("c.png", "no such file")):
        with pytest.raises(DataError, match=says):
            mnist.read_picture(tmp_path / name)


def test_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"reading pictures: pillow.*tensorlite\[examples\]"):
        mnist.read_picture(tmp_path / "a.png")


def test_paths_are_paths():
    assert all(isinstance(p, Path) for p in files.data_dirs())
