"""CIFAR10 and CIFAR100: small photographs in pickle files, read without running what they may hold. Floor 5."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorlite.errors import DataError
from tensorlite.io.files import atomic
from tensorlite.utils.data.files import cache_dir, fetch, find_files
from tensorlite.vision.datasets.base import VisionDataset, entry, sample

_SIZE = 3 * 32 * 32


class CIFAR10(VisionDataset):
    """CIFAR-10: 50,000 photographs for training, 10,000 for testing, 32x32 pixels, 10 classes; sample (image, class).

    The files are those of the archive "python version", in ``root/cifar-10-batches-py`` or in ``root`` itself. They
    are pickles; nothing but arrays, text, numbers, lists and dicts is made of them. An image is a uint8 array
    (32, 32, 3), as in all data sets here; torchvision gives an image of Pillow.

    Args:
        root: the folder; None looks into ``$TENSORLITE_DATA`` and the cache.
        train: the training images, or those for testing.
        transform: a function of the image.
        target_transform: a function of the target.
        download: fetch and unpack the archive into ``root`` where files are missing.

    ``data`` is a uint8 array (N, 32, 32, 3), ``targets`` a list of numbers.

    Raises:
        NoDataError: the files are not there; the message names the folder and the files.
        DataError: a file is cut off or altered; the message names it and, where it broke, the byte offset.
    """

    base_folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    md5 = "md5:c58f30108f718f92721af3b95e74349a"
    mirrors: list[str] = ["https://www.cs.toronto.edu/~kriz/"]
    train_list = [f"data_batch_{k}" for k in range(1, 6)]
    test_list = ["test_batch"]
    meta_file, names_key, labels_key = "batches.meta", "label_names", "labels"
    number = 10  # of classes

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        train: bool = True,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        wanted = [*self.train_list, *self.test_list, self.meta_file]
        paths = self._find(wanted)
        if paths is None and download:
            self._download(wanted)
            paths = self._find(wanted)
        if paths is None:
            raise self.not_found(wanted, [self.base_folder, "the folder itself"])
        n = len(self.train_list)
        parts = [self._batch(path) for path in (paths[:n] if train else paths[n:-1])]
        self.data: np.ndarray = np.concatenate([images for images, _ in parts])
        self.targets: list[int] = [label for _, labels in parts for label in labels]
        self.classes = self._names(paths[-1])
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}

    def _find(self, wanted: list[str]) -> list[Path] | None:
        return find_files([(name,) for name in wanted], self.roots(), (self.base_folder,))

    def _download(self, wanted: list[str]) -> None:
        folder = Path(cache_dir() if self.root is None else self.root)
        fetch({self.archive: self.md5}, self.mirrors, folder)
        (folder / self.base_folder).mkdir(exist_ok=True)
        path = folder / self.archive
        try:
            with tarfile.open(path, "r:gz") as archive:
                for name in wanted:  # these names alone: an archive may hold paths that lead elsewhere
                    member = archive.extractfile(f"{self.base_folder}/{name}")
                    if member is None:
                        raise KeyError(f"{self.base_folder}/{name} is no file")
                    with atomic(folder / self.base_folder / name) as file:
                        file.write(member.read())
        except (KeyError, EOFError, tarfile.TarError, OSError) as error:
            raise DataError(
                f"{path}: {error}; wanted the archive {self.archive}: remove it to fetch it anew"
            ) from error

    def _batch(self, path: Path) -> tuple[np.ndarray, list[int]]:
        """Images (N, 32, 32, 3) and labels of one file."""
        held = read_pickle(path)
        data, labels = (held.get(key) for key in ("data", self.labels_key)) if isinstance(held, dict) else (None, None)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_SIZE,):
            found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise DataError(f"{path}: 'data' is {found}; wanted uint8 of shape (N, {_SIZE})")
        if not isinstance(labels, list) or len(labels) != len(data):
            found = f"a list of {len(labels)}" if isinstance(labels, list) else type(labels).__name__
            raise DataError(
                f"{path}: {self.labels_key!r} is {found}; wanted a list of {len(data)}, as there are images"
            )
        for k, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < self.number:
                raise DataError(f"{path}: label {k} is {label!r}; wanted 0 to {self.number - 1}")
        return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

    def _names(self, path: Path) -> list[str]:
        held = read_pickle(path)
        names = held.get(self.names_key) if isinstance(held, dict) else None
        if not isinstance(names, list) or len(names) != self.number or not all(isinstance(n, str) for n in names):
            raise DataError(
                f"{path}: no list {self.names_key!r} of {self.number} names; wanted the names of the classes"
            )
        return names

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self.transformed(sample(self.data, index), int(entry(self.targets, index)))

    def __len__(self) -> int:
        return len(self.data)

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class CIFAR100(CIFAR10):
    """CIFAR-100: as ``CIFAR10``, with 100 classes; the files lie in ``root/cifar-100-python``."""

    base_folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    md5 = "md5:eb9058c3a382ffc7106e4002c42a8d85"
    train_list = ["train"]
    test_list = ["test"]
    meta_file, names_key, labels_key = "meta", "fine_label_names", "fine_labels"
    number = 100


# ---- pickles
class _Reader(pickle.Unpickler):
    """Makes arrays and plain values, and refuses to look up anything else: a pickle can name any function to run."""

    known: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for core in ("numpy.core", "numpy._core"):  # of NumPy before 2 and since
        known[core + ".multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
        known[core + ".numeric", "_frombuffer"] = np.empty(1).__reduce_ex__(5)[0]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither an array nor a plain value")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it names an object outside of the file")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def read_pickle(path: Path) -> Any:
    """The arrays, text, numbers, lists and dicts in a pickle file; text of Python 2 is read as latin-1.

    Raises:
        DataError: a file that cannot be read, is cut off or holds anything else; the message names the file and the
            byte offset.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; wanted a file that can be read") from error
    file = io.BytesIO(raw)
    try:
        held = _Reader(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle may call what it is given in any wrong way
        raise DataError(f"{path}: offset {file.tell()}: {error}; wanted a pickle of arrays and plain values") from error
    if file.tell() != len(raw):
        raise DataError(f"{path}: offset {file.tell()}: more bytes follow; wanted the end of the pickle")
    return held
