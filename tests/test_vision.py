"""vision.datasets and vision.utils: data sets in the forms that people have, broken ones, grids of pictures."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

import tensorlite as tl
from tensorlite.errors import DataError
from tensorlite.utils.data import DataLoader
from tensorlite.utils.data.files import fetch
from tensorlite.vision import datasets, transforms as T, utils
from tensorlite.vision.datasets.cifar import read_pickle
from tensorlite.vision.datasets.folder import default_loader, find_classes, make_dataset

IDX_NAMES = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]


def idx(array):
    return struct.pack(">4B", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_digits(folder, pack=False, seed=0):
    """Five training and three test images in MNIST's files."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    arrays = [
        rng.integers(0, high, shape, np.uint8) for n in (5, 3) for high, shape in ((256, (n, 28, 28)), (10, (n,)))
    ]
    for name, array in zip(IDX_NAMES, arrays):
        blob = idx(array)
        (folder / f"{name}-ubyte{'.gz' * pack}").write_bytes(gzip.compress(blob, mtime=0) if pack else blob)
    return arrays


def old_pickle(value):
    """A pickle as Python 2 writes it, with bytes where it had text: protocol 2, latin-1 read back."""
    return pickle.dumps(value, protocol=2)


def write_cifar(folder, count=4, seed=0, dump=old_pickle, fine=False):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    number, names = (
        (100, ["train", "test"]) if fine else (10, [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"])
    )
    held = {}
    for name in names:
        data, labels = rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, number, count).tolist()
        batch = {"data": data, "fine_labels" if fine else "labels": labels, "filenames": ["a.png"] * count}
        (folder / name).write_bytes(dump(batch))
        held[name] = data, labels
    meta = {"fine_label_names" if fine else "label_names": [f"class {k}" for k in range(number)]}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(dump(meta))
    return held


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without data and without a network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TENSORLITE_DATA", raising=False)
    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.CIFAR10):
        monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:9/"])  # the port of "discard": nobody listens
    return tmp_path


# ---- MNIST
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "kind, sub",
    [
        (datasets.MNIST, "MNIST/raw"),
        (datasets.MNIST, ""),
        (datasets.MNIST, "mnist10k"),
        (datasets.FashionMNIST, "FashionMNIST/raw"),
        (datasets.FashionMNIST, "fashion-mnist"),
    ],
)
def test_digits(home, kind, sub, pack):
    train_x, train_y, test_x, test_y = write_digits(home / "d" / sub, pack)
    train, test = kind(home / "d"), kind(str(home / "d"), train=False)
    assert len(train) == 5 and len(test) == 3
    assert train.data.dtype is tl.uint8 and train.targets.dtype is tl.int64
    for found, x, y in ((train, train_x, train_y), (test, test_x, test_y)):
        np.testing.assert_array_equal(found.data.numpy(), x)
        for k in range(len(y)):
            image, target = found[k]
            assert type(image) is np.ndarray and image.dtype == np.uint8 and type(target) is int
            assert np.array_equal(image, x[k]) and target == y[k]
    assert len(kind.classes) == 10 and train.class_to_idx[kind.classes[3]] == 3
    with pytest.raises(IndexError):
        train[5]


def test_samples_are_copies_and_attributes_count(home):
    write_digits(home / "d")
    data = datasets.MNIST(home / "d")
    data[0][0][:] = 0
    assert data[0][0].any()
    data.data, data.targets = data.data[:2], data.targets[:2]
    assert len(data) == 2
    with pytest.raises(IndexError):
        data[2]


def test_digits_from_the_environment(home, monkeypatch):
    write_digits(home / "d" / "MNIST" / "raw")
    monkeypatch.setenv("TENSORLITE_DATA", str(home / "d"))
    assert len(datasets.MNIST()) == 5
    with pytest.raises(RuntimeError):
        datasets.FashionMNIST()  # files of the same names, but not its own


def test_transforms_and_loader(home):
    write_digits(home / "d")
    seen = []
    data = datasets.MNIST(
        home / "d", transform=T.Compose([seen.append, lambda _: tl.zeros(2)]), target_transform=lambda t: t + 100
    )
    image, target = data[1]
    assert image.shape == (2,) and target == int(data.targets[1]) + 100 and seen[0].shape == (28, 28)
    x, y = next(iter(DataLoader(datasets.MNIST(home / "d", transform=T.ToTensor()), batch_size=4)))
    assert x.shape == (4, 1, 28, 28) and x.dtype is tl.float32 and y.dtype is tl.int64
    x, _ = next(iter(DataLoader(datasets.MNIST(home / "d"), batch_size=4)))
    assert x.shape == (4, 28, 28) and x.dtype is tl.uint8
    assert datasets.VisionDataset(transforms=lambda x, y: (y, x)).transformed(1, 2) == (2, 1)
    with pytest.raises(ValueError, match="Only transforms or transform/target_transform"):
        datasets.VisionDataset(transforms=print, transform=print)


def test_description(home):
    write_digits(home / "d")
    steps = T.Compose([T.ToTensor()])
    assert repr(datasets.MNIST(home / "d", transform=steps, target_transform=T.Lambda(str))) == (
        f"Dataset MNIST\n    Number of datapoints: 5\n    Root location: {home / 'd'}\n    Split: Train\n"
        "    StandardTransform\nTransform: Compose(\n               ToTensor()\n           )\n"
        "Target transform: Lambda()"
    )
    assert repr(datasets.FakeData(3)) == "Dataset FakeData\n    Number of datapoints: 3"


def test_digits_that_are_not_there(home):
    for kind in (datasets.MNIST, datasets.FashionMNIST, datasets.CIFAR10, datasets.CIFAR100):
        with pytest.raises(DataError, match=r"Dataset not found in .*nowhere; wanted .*: download=True") as caught:
            kind(home / "nowhere")
        assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, FileNotFoundError)
    write_digits(home / "d")
    (home / "d" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RuntimeError, match="t10k-labels-idx1-ubyte"):
        datasets.MNIST(home / "d")
    for kind in (datasets.MNIST, datasets.CIFAR10):
        with pytest.raises(DataError, match="could not be downloaded"):
            kind(home / "d", download=True)


@pytest.mark.parametrize(
    "name, offset", [("train-images-idx3", n) for n in (0, 3, 7, 16, 900)] + [("train-labels-idx1", 9)]
)
def test_digits_that_are_cut_off(home, name, offset):
    write_digits(home / "d")
    path = home / "d" / f"{name}-ubyte"
    path.write_bytes(path.read_bytes()[:offset])
    with pytest.raises(DataError, match=f"{name}-ubyte: offset {offset}: the file ends"):
        datasets.MNIST(home / "d")
    assert len(datasets.MNIST(home / "d", train=False)) == 3  # the other half is whole


def test_digits_that_are_altered(home):
    write_digits(home / "d")
    path = home / "d" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DataError, match="offset 12: label 10; wanted 0 to 9"):
        datasets.MNIST(home / "d")


class Stored:
    """Stands for the network: a mirror is a folder."""

    def __init__(self, monkeypatch, module, bodies):
        self.bodies, self.asked = bodies, []
        monkeypatch.setattr(module, "fetch", self.fetch)

    def fetch(self, files, mirrors, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, published in files.items():
            self.asked.append(name)
            assert published.startswith("md5:") or len(published) == 64
            (folder / name).write_bytes(self.bodies[name])


@pytest.mark.parametrize("kind", [datasets.MNIST, datasets.FashionMNIST])
def test_digits_are_downloaded(home, monkeypatch, kind):
    write_digits(home / "there", pack=True)
    bodies = {path.name: path.read_bytes() for path in (home / "there").iterdir()}
    net = Stored(monkeypatch, datasets.digits, bodies)
    data = kind(home / "d", download=True)
    assert len(data) == 5 and len(net.asked) == 4
    assert sorted(os.listdir(home / "d" / kind.__name__ / "raw")) == sorted(bodies)
    assert data.raw_folder == str(home / "d" / kind.__name__ / "raw")
    kind(home / "d", download=True), kind(home / "d", train=False)
    assert len(net.asked) == 4
    assert len(kind(download=True)) == 5  # into the cache
    assert len(kind()) == 5 and len(net.asked) == 8


def test_hashes():
    sums = [datasets.CIFAR10.md5, datasets.CIFAR100.md5, *datasets.FashionMNIST.files.values()]
    assert all(s.startswith("md5:") and len(s) == 36 for s in sums) and len(set(sums)) == 6


def test_fetch_knows_md5(tmp_path, monkeypatch):
    """What the two kinds of sums let through, without a network: the body comes from a file."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "f").write_bytes(b"body")
    mirror = (tmp_path / "there").as_uri() + "/"
    for published in ("md5:" + hashlib.md5(b"body").hexdigest(), hashlib.sha256(b"body").hexdigest()):
        fetch({"f": published}, [mirror], tmp_path / published[:8])
        assert (tmp_path / published[:8] / "f").read_bytes() == b"body"
    with pytest.raises(DataError, match=r"its md5 [0-9a-f]{12}... is not the published 0{12}"):
        fetch({"f": "md5:" + "0" * 32}, [mirror], tmp_path / "c")
    assert os.listdir(tmp_path / "c") == []


# ---- CIFAR
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("sub", ["cifar-10-batches-py", ""])
def test_cifar10(home, sub, protocol):
    held = write_cifar(home / "d" / sub, dump=lambda value: pickle.dumps(value, protocol))
    train, test = datasets.CIFAR10(home / "d"), datasets.CIFAR10(home / "d", train=False)
    assert train.data.shape == (20, 32, 32, 3) and train.data.dtype == np.uint8 and len(train.targets) == 20
    data, labels = held["test_batch"]
    assert test.targets == labels and len(test) == 4
    image, target = test[2]
    assert image.shape == (32, 32, 3) and target == labels[2]
    assert image[5, 6].tolist() == [data[2, k * 1024 + 5 * 32 + 6] for k in range(3)]
    assert train.targets[4:8] == held["data_batch_2"][1]
    assert train.classes[3] == "class 3" and train.class_to_idx["class 3"] == 3
    assert "Split: Test" in repr(test)


def test_cifar_as_python_2_wrote_it(home):
    """Its strings are bytes to Python 3, and its arrays come from ``numpy.core``."""
    write_cifar(home / "d")
    data = bytes(range(256)) * 12
    # {"data": an array (1, 3072), "labels": [7]}, opcode by opcode
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x01M\x00\x0ct"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<I", len(data)) + data + b"tb"
    )  # fmt: skip
    (home / "d" / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels]K\x07au.")
    test = datasets.CIFAR10(home / "d", train=False)
    assert test.targets == [7] and test.data.transpose(0, 3, 1, 2).tobytes() == data


def test_cifar100(home):
    held = write_cifar(home / "d" / "cifar-100-python", fine=True)
    data = datasets.CIFAR100(home / "d")
    assert data.targets == held["train"][1] and len(data.classes) == 100 and data[3][0].shape == (32, 32, 3)


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_pickles_run_nothing(tmp_path):
    flag = tmp_path / "flag"
    for call in ((os.mkdir, (str(flag),)), (eval, (f"open({str(flag)!r}, 'w')",)), (getattr, ("", "join"))):
        (tmp_path / "p").write_bytes(pickle.dumps({"data": Runs(*call)}, 2))
        with pytest.raises(DataError, match=r"p: offset \d+: it names .*, which is neither an array nor a plain value"):
            read_pickle(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"cnumpy\nload\n.")
    with pytest.raises(DataError, match=r"it names numpy\.load"):
        read_pickle(tmp_path / "p")
    (tmp_path / "p").write_bytes(b"\x80\x02U\x01xQ.")
    with pytest.raises(DataError, match="outside of the file"):
        read_pickle(tmp_path / "p")
    assert not flag.exists()


def test_every_cut_of_a_pickle_is_refused(tmp_path):
    whole = old_pickle({"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "b": b"\xff"})
    (tmp_path / "p").write_bytes(whole)
    assert read_pickle(tmp_path / "p")["data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for n in range(len(whole)):
        (tmp_path / "p").write_bytes(whole[:n])
        with pytest.raises(DataError, match=r"p: offset \d+: ") as caught:
            read_pickle(tmp_path / "p")
        assert int(str(caught.value).split("offset ")[1].split(":")[0]) <= n
    (tmp_path / "p").write_bytes(whole + b"x")
    with pytest.raises(DataError, match=f"offset {len(whole)}: more bytes follow"):
        read_pickle(tmp_path / "p")
    with pytest.raises(DataError, match="No such file"):
        read_pickle(tmp_path / "none")


def test_altered_pickles_raise_data_error_or_give_plain_values(tmp_path):
    """Any byte changed: what comes back is made of known types, or the error is ours."""
    whole = old_pickle({"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2]})
    rng = np.random.default_rng(0)
    for at in range(len(whole)):
        blob = bytearray(whole)
        blob[at] = rng.integers(0, 256)
        (tmp_path / "p").write_bytes(blob)
        try:
            held = read_pickle(tmp_path / "p")
        except DataError as error:
            assert "p: offset" in str(error)
        else:
            assert type(held) in (
                dict,
                list,
                tuple,
                str,
                int,
                bytes,
                float,
                bool,
                set,
                np.ndarray,
                np.dtype,
                type(None),
            )


@pytest.mark.parametrize(
    "batch, says",
    [
        ([1], "'data' is NoneType"),
        ({"labels": [1]}, "'data' is NoneType"),
        ({"data": np.zeros((1, 3), np.uint8), "labels": [1]}, r"'data' is uint8 of shape \(1, 3\)"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "'data' is float64"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}, "'labels' is a list of 2; wanted a list of 1"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "'labels' is NoneType"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "label 0 is 10; wanted 0 to 9"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["x"]}, "label 0 is 'x'"),
    ],
)
def test_wrong_batches(home, batch, says):
    write_cifar(home / "d")
    (home / "d" / "data_batch_3").write_bytes(old_pickle(batch))
    with pytest.raises(DataError, match=rf"data_batch_3: {says}"):
        datasets.CIFAR10(home / "d")
    (home / "d" / "batches.meta").write_bytes(old_pickle({"label_names": ["one"]}))
    with pytest.raises(DataError, match=r"batches\.meta: no list 'label_names' of 10 names"):
        datasets.CIFAR10(home / "d", train=False)


def test_cifar_is_downloaded(home, monkeypatch):
    write_cifar(home / "there")
    (home / "there" / "readme.html").write_text("not wanted")

    def pack(skip=""):
        blob = io.BytesIO()
        with tarfile.open(fileobj=blob, mode="w:gz") as archive:
            for path in sorted((home / "there").iterdir()):
                if path.name != skip:
                    archive.add(path, f"cifar-10-batches-py/{path.name}")
        return blob.getvalue()

    net = Stored(monkeypatch, datasets.cifar, {"cifar-10-python.tar.gz": pack()})
    assert len(datasets.CIFAR10(home / "d", download=True)) == 20
    assert len(datasets.CIFAR10(home / "d", download=True)) == 20 and net.asked == ["cifar-10-python.tar.gz"]
    assert not (home / "d" / "cifar-10-batches-py" / "readme.html").exists()
    for broken in (pack("test_batch"), pack()[:500], b"no archive"):
        net.bodies["cifar-10-python.tar.gz"] = broken
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: .*remove it to fetch it anew"):
            datasets.CIFAR10(home / "e", download=True)


# ---- folders
@pytest.fixture
def pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, value in (("dog/b.png", 1), ("dog/a.PNG", 2), ("cat/deep/c.bmp", 3), ("cat/a.png", 4)):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(tmp_path / "p" / name)
    (tmp_path / "p" / "dog" / "notes.txt").write_text("no picture")
    (tmp_path / "p" / "stray.png").write_text("in no class")
    return tmp_path / "p"


def test_image_folder(pictures):
    data = datasets.ImageFolder(pictures)
    assert data.classes == ["cat", "dog"] and data.class_to_idx == {"cat": 0, "dog": 1}
    found = [(os.path.relpath(path, pictures).replace(os.sep, "/"), target) for path, target in data.samples]
    assert found == [("cat/a.png", 0), ("cat/deep/c.bmp", 0), ("dog/a.PNG", 1), ("dog/b.png", 1)]
    assert data.targets == [0, 0, 1, 1] and data.imgs is data.samples and len(data) == 4
    image, target = data[2]
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.max() == 2 and target == 1
    assert datasets.ImageFolder(pictures, T.ToTensor(), lambda t: -t)[3][1] == -1
    only = datasets.ImageFolder(pictures, is_valid_file=lambda path: path.endswith("a.png"), allow_empty=True)
    assert only.targets == [0]
    with pytest.raises(DataError, match="Found no valid file for the classes dog"):
        datasets.ImageFolder(pictures, is_valid_file=lambda path: path.endswith("a.png"))


def test_dataset_folder(tmp_path):
    for name in ("x/1.txt", "y/2.txt", "y/3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    data = datasets.DatasetFolder(tmp_path, os.path.basename, (".txt",))
    assert [data[k] for k in range(2)] == [("1.txt", 0), ("2.txt", 1)]
    assert find_classes(tmp_path) == (["x", "y"], {"x": 0, "y": 1})
    assert [t for _, t in make_dataset(tmp_path, {"y": 5}, ".csv")] == [5]
    names = [f"{k}/{j}.txt" for k in "cfadeb" for j in "31"]
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text("")
    found = [
        os.path.relpath(path, tmp_path / "x").replace(os.sep, "/")
        for path, _ in make_dataset(tmp_path, {"x": 0}, ".txt")
    ]
    assert found == ["1.txt", *sorted(names)]  # whatever order the system has them in
    for wrong in (dict(), dict(extensions=".a", is_valid_file=bool)):
        with pytest.raises(ValueError, match="Both extensions and is_valid_file"):
            make_dataset(tmp_path, **wrong)
    for empty in (tmp_path / "y", tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="wanted a folder"):
            find_classes(empty)


def test_broken_pictures(pictures):
    path = pictures / "cat" / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    utils.save_image(T.ToTensor()(noise), path)
    whole = path.read_bytes()
    assert np.array_equal(datasets.ImageFolder(pictures)[0][0], noise)
    for blob in (b"", b"no picture", whole[:20], whole[: len(whole) // 2], whole[:-200]):
        path.write_bytes(blob)
        with pytest.raises(DataError, match=r"a\.png: .*wanted a picture"):
            datasets.ImageFolder(pictures)[0]
    with pytest.raises(DataError, match="No such file"):
        default_loader(pictures / "none.png")


def test_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"reading pictures: pillow.*tensorlite\[examples\]"):
        default_loader(tmp_path / "a.png")
    with pytest.raises(ImportError, match=r"save_image: pillow"):
        utils.save_image(tl.zeros(1, 2, 2), tmp_path / "a.png")
    assert T.RandomCrop(3)(np.zeros((5, 5), np.uint8)).shape == (3, 3)


# ---- FakeData
def test_fake_data():
    data = datasets.FakeData(4, (3, 5, 6), 7)
    state = tl.get_rng_state()
    image, target = data[2]
    assert tl.equal(state, tl.get_rng_state())  # the global generator is left alone
    assert image.shape == (5, 6, 3) and image.dtype == np.uint8 and 0 <= target < 7 and type(target) is int
    tl.manual_seed(99)
    assert np.array_equal(data[2][0], image) and not np.array_equal(data[1][0], image)
    assert np.array_equal(datasets.FakeData(4, (3, 5, 6), 7, random_offset=1)[1][0], image)
    assert datasets.FakeData(1, (1, 5, 6))[0][0].shape == (5, 6)
    assert {t for _, t in datasets.FakeData(60, (1, 1, 1), 3)} == {0, 1, 2}  # stops by IndexError
    for wrong in (4, -1):
        with pytest.raises(IndexError, match="wanted 0 to 3"):
            data[wrong]


# ---- grids
def test_grid():
    x = tl.arange(5 * 3 * 2 * 4).reshape(5, 3, 2, 4).float() + 1
    grid = utils.make_grid(x, nrow=3, padding=1, pad_value=-1.0)
    assert grid.shape == (3, 2 * 3 + 1, 3 * 5 + 1)
    for k in range(5):
        top, left = 1 + k // 3 * 3, 1 + k % 3 * 5
        assert tl.equal(grid[:, top : top + 2, left : left + 4], x[k])
    border = int((grid == -1).sum())
    assert border == grid.numel() - x.numel()  # the sixth place is empty
    assert tl.equal(utils.make_grid(list(x), nrow=3, padding=1, pad_value=-1.0), grid)
    assert utils.make_grid(x, nrow=20, padding=0).shape == (3, 2, 20)
    assert utils.make_grid(tl.zeros(3, 1, 2, 2)).shape == (3, 6, 14)
    assert utils.make_grid(tl.zeros(4, 5)).shape == utils.make_grid(tl.zeros(1, 4, 5)).shape == (3, 4, 5)
    assert tl.equal(utils.make_grid(x[:1]), x[0])


def test_grid_is_normalised():
    x = tl.tensor([0.0, 1.0, 2.0, 6.0]).reshape(2, 1, 1, 2)
    grid = lambda **options: utils.make_grid(x, padding=0, normalize=True, **options)[0, 0].tolist()
    np.testing.assert_allclose(grid(), [0, 1 / 6, 1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(grid(scale_each=True), [0, 1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(grid(value_range=(1, 3)), [0, 0, 0.5, 1], rtol=1e-6)
    assert x.flatten().tolist() == [0, 1, 2, 6]
    assert not utils.make_grid(tl.rand(2, 1, 2, 2, requires_grad=True)).requires_grad
    for error, call in (
        (TypeError, lambda: utils.make_grid("ab")),
        (TypeError, lambda: utils.make_grid([])),
        (TypeError, lambda: utils.make_grid(x, normalize=True, value_range=[0, 1])),
        (ValueError, lambda: utils.make_grid(tl.zeros(0, 3, 2, 2))),
        (ValueError, lambda: utils.make_grid(tl.zeros(1, 1, 1, 2, 2))),
    ):
        with pytest.raises(error, match="make_grid: "):
            call()


def test_save_image(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x = tl.tensor([[0.0, 0.5], [1.0, 2.0]])
    utils.save_image(x, tmp_path / "a.png")
    wanted = np.repeat(np.array([[0, 128], [255, 255]], np.uint8)[..., None], 3, -1)
    with image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and np.array_equal(np.asarray(picture), wanted)
    utils.save_image([x[None]] * 3, str(tmp_path / "b.jpg"), nrow=2, padding=1)
    with image.open(tmp_path / "b.jpg") as picture:
        assert picture.format == "JPEG" and picture.size == (7, 7)
    file = io.BytesIO()
    utils.save_image(x, file, format="BMP")
    assert file.getvalue()[:2] == b"BM"
    utils.save_image(x, tmp_path / "c", format="PNG")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(KeyError):
        utils.save_image(x, tmp_path / "a.png", format="NONE")
    assert (tmp_path / "a.png").read_bytes() == before  # whole, as it was
    with pytest.raises(ValueError, match=r"ending '\.xyz' names no format"):
        utils.save_image(x, tmp_path / "a.xyz")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.jpg", "c"]


def test_public_names():
    assert tl.vision.datasets is datasets and tl.vision.transforms is T and tl.vision.utils is utils
    assert {"datasets", "transforms", "utils", "read_idx"} <= set(dir(tl.vision))
    with pytest.raises(AttributeError, match="no attribute 'models'"):
        tl.vision.models
    for module in (datasets, T, T.functional):
        assert sorted(module.__all__, key=str.lower) == sorted(set(module.__all__), key=str.lower)
        assert all(hasattr(module, name) for name in module.__all__)


def test_real_mnist(data):
    train = datasets.MNIST(data, transform=T.ToTensor())
    assert len(train) == 10000 and train[0][0].shape == (1, 28, 28)
    assert 0.12 < float(train[0][0].mean()) < 0.15 and train[0][1] == 5  # the set begins with a five
