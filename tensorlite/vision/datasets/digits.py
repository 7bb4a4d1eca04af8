"""MNIST and FashionMNIST. Floor 5."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor, from_array
from tensorlite.utils.data.files import cache_dir, fetch, find_files
from tensorlite.vision import mnist
from tensorlite.vision.datasets.base import VisionDataset, entry, sample


class MNIST(VisionDataset):
    """The MNIST digits: 60,000 for training, 10,000 for testing, 28x28 pixels; sample (image, digit).

    The four files, packed by gzip or not, are looked for in ``root``, ``root/MNIST/raw`` (where torchvision puts them)
    and the like. An image is a uint8 array (28, 28), as in all data sets here; torchvision gives an image of Pillow.

    Args:
        root: the folder; None looks into ``$TENSORLITE_DATA`` and the cache.
        train: the training images, or those for testing.
        transform: a function of the image.
        target_transform: a function of the target.
        download: fetch files that are missing, into ``root/MNIST/raw``.

    ``data`` is a uint8 tensor (N, 28, 28), ``targets`` an int64 tensor (N,).

    Raises:
        NoDataError: the files are not there; the message names the folder and the files.
        DataError: a file is cut off or altered; the message names it and the byte offset.
    """

    classes = ["0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven"]
    classes += ["8 - eight", "9 - nine"]
    files: dict[str, str] = mnist.SHA256
    mirrors: list[str] = mnist.MIRRORS
    folders: tuple[str, ...] = ("", *mnist.SUBFOLDERS)

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
        paths = self._find()
        if paths is None and download:
            fetch(self.files, self.mirrors, Path(self.raw_folder))
            paths = self._find()
        if paths is None:
            wanted = [f"{name.removesuffix('.gz')}[.gz]" for name in self.files]
            raise self.not_found(wanted, [f or "the folder itself" for f in self.folders])
        images, labels = mnist.read_pair(*(paths[:2] if train else paths[2:]))
        self.data: Tensor = from_array(images)
        self.targets: Tensor = from_array(labels.astype(np.int64))

    def _find(self) -> list[Path] | None:
        return find_files(mnist.names(), [root / folder for root in self.roots() for folder in self.folders], ())

    @property
    def raw_folder(self) -> str:
        """Where downloads go."""
        return os.path.join(cache_dir() if self.root is None else self.root, type(self).__name__, "raw")

    @property
    def class_to_idx(self) -> dict[str, int]:
        """From the name of a class to its number."""
        return {name: k for k, name in enumerate(self.classes)}

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self.transformed(sample(self.data, index), int(entry(self.targets, index)))

    def __len__(self) -> int:
        return len(self.data)

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


class FashionMNIST(MNIST):
    """Fashion-MNIST: pieces of clothing in the form of MNIST; sample (image, class).

    Its files have the names of MNIST's, so they are looked for in folders of its own only: ``root/FashionMNIST/raw``
    (where torchvision puts them) and the like. Arguments, attributes and errors are those of ``MNIST``.
    """

    classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    files = {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }
    mirrors = ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"]
    folders = ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion_mnist")
