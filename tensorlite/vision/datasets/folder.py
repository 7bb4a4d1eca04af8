"""DatasetFolder and ImageFolder: a folder of files for each class. Floor 5."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlite.errors import DataError
from tensorlite.utils.extras import require
from tensorlite.vision.datasets.base import NoDataError, VisionDataset

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def default_loader(path: str | os.PathLike) -> np.ndarray:
    """The picture in a file in colours: uint8 (H, W, 3).

    Raises:
        DataError: a file that is missing or no picture.
        MissingExtraError: without Pillow, which the extra ``examples`` installs.
    """
    image = require("PIL.Image", "examples", "reading pictures")
    try:
        with image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:  # what Pillow raises
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"{path}: {reason}; wanted a picture, such as PNG or JPEG") from error


def find_classes(directory: str | os.PathLike) -> tuple[list[str], dict[str, int]]:
    """The names of the folders in ``directory``, sorted, and their numbers."""
    try:
        classes = sorted(entry.name for entry in os.scandir(os.fspath(directory)) if entry.is_dir())
    except OSError as error:
        raise NoDataError(f"{directory}: {error.strerror}; wanted a folder with a folder for each class") from error
    if not classes:
        raise NoDataError(f"{directory}: Couldn't find any class folder; wanted a folder for each class")
    return classes, {name: k for k, name in enumerate(classes)}


def make_dataset(
    directory: str | os.PathLike,
    class_to_idx: dict[str, int] | None = None,
    extensions: str | tuple[str, ...] | None = None,
    is_valid_file: Callable[[str], bool] | None = None,
    allow_empty: bool = False,
) -> list[tuple[str, int]]:
    """(path, class) of every file below the folders of the classes, sorted; folders in folders count too.

    Raises:
        ValueError: both or neither of ``extensions`` and ``is_valid_file``.
        NoDataError: a class without a file, unless ``allow_empty``.
    """
    if (extensions is None) == (is_valid_file is None):
        raise ValueError("make_dataset: Both extensions and is_valid_file cannot be None or not None at the same time")
    if extensions is not None:
        endings = (extensions,) if isinstance(extensions, str) else tuple(extensions)

        def is_valid_file(path: str) -> bool:
            return path.lower().endswith(endings)

    assert is_valid_file is not None
    classes = find_classes(directory)[1] if class_to_idx is None else class_to_idx
    samples: list[tuple[str, int]] = []
    empty = []
    for name in sorted(classes):
        before = len(samples)
        for folder, folders, files in os.walk(os.path.join(os.fspath(directory), name), followlinks=True):
            folders.sort()
            paths = (os.path.join(folder, file) for file in sorted(files))
            samples += [(path, classes[name]) for path in paths if is_valid_file(path)]
        if len(samples) == before:
            empty.append(name)
    if empty and not allow_empty:
        raise NoDataError(
            f"{directory}: Found no valid file for the classes {', '.join(empty)}; wanted "
            + (
                f"files that end in {', '.join(endings)}"
                if extensions is not None
                else "files that is_valid_file takes"
            )
        )
    return samples


class DatasetFolder(VisionDataset):
    """Files in a folder for each class, ``root/class/.../file``; sample (what ``loader`` reads, class).

    Args:
        root: the folder.
        loader: a function from a path to a sample.
        extensions: the ends of the names of files that count, without regard to case.
        transform: a function of the sample.
        target_transform: a function of the class.
        is_valid_file: whether a path counts, instead of ``extensions``.
        allow_empty: take classes without a file.

    ``classes`` are the folders' names, ``class_to_idx`` their numbers, ``samples`` the list of (path, class) and
    ``targets`` that of the classes.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        loader: Callable[[str], Any],
        extensions: tuple[str, ...] | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        folder = os.path.expanduser(os.fspath(root))
        super().__init__(folder, transform=transform, target_transform=target_transform)
        self.classes, self.class_to_idx = self.find_classes(folder)
        self.loader, self.extensions = loader, extensions
        self.samples = make_dataset(folder, self.class_to_idx, extensions, is_valid_file, allow_empty)
        self.targets = [target for _, target in self.samples]

    def find_classes(self, directory: str | os.PathLike) -> tuple[list[str], dict[str, int]]:
        """The classes and their numbers; a subclass may find others."""
        return find_classes(directory)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        return self.transformed(self.loader(path), target)

    def __len__(self) -> int:
        return len(self.samples)


class ImageFolder(DatasetFolder):
    """Pictures in a folder for each class, ``root/class/.../picture.png``; sample (image, class).

    An image is a uint8 array (H, W, 3), as in all data sets here; torchvision gives an image of Pillow.
    Arguments and attributes are those of ``DatasetFolder``; ``imgs`` is ``samples``.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        loader: Callable[[str], Any] = default_loader,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        extensions = IMG_EXTENSIONS if is_valid_file is None else None
        super().__init__(root, loader, extensions, transform, target_transform, is_valid_file, allow_empty)
        self.imgs = self.samples
