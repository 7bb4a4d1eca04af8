"""What the data sets of images share: the transforms, the text that describes them, the search for files. Floor 5."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tensorlite.autograd.tensor import Tensor
from tensorlite.io.files import MissingFileError
from tensorlite.utils.data.dataset import Dataset
from tensorlite.utils.data.files import data_dirs


class NoDataError(MissingFileError, RuntimeError):
    """A data set whose files are not there."""


class VisionDataset(Dataset):
    """Base of the data sets: samples (image, target), each through its transform.

    Args:
        root: the folder with the data; None looks into ``$TENSORLITE_DATA`` and the cache.
        transforms: a function of image and target, instead of the other two.
        transform: a function of the image.
        target_transform: a function of the target.
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        transforms: Callable | None = None,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ValueError(
                f"{type(self).__name__}: Only transforms or transform/target_transform can be passed as argument"
            )
        self.root = None if root is None else os.path.expanduser(os.fspath(root))
        self.transform, self.target_transform = transform, target_transform
        if transforms is None and (transform is not None or target_transform is not None):
            transforms = StandardTransform(transform, target_transform)
        self.transforms = transforms

    def __len__(self) -> int:
        raise NotImplementedError

    def roots(self) -> list[Path]:
        """The folders to look into."""
        return data_dirs() if self.root is None else [Path(self.root)]

    def transformed(self, image: Any, target: Any) -> tuple[Any, Any]:
        """A sample as it is handed out."""
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def not_found(self, files: Iterable[str], folders: Iterable[str]) -> NoDataError:
        """The error that names the folder, the files wanted and what to do."""
        name = type(self).__name__
        return NoDataError(
            f"{name}: Dataset not found in {' or '.join(map(str, self.roots()))}; wanted {', '.join(files)} in "
            f"{' or '.join(folders)}: download=True fetches them, or put them there"
        )

    def extra_repr(self) -> str:
        """More lines for the text that describes the data set."""
        return ""

    def __repr__(self) -> str:
        body = [f"Number of datapoints: {len(self)}"]
        if self.root is not None:
            body.append(f"Root location: {self.root}")
        body += self.extra_repr().splitlines()
        if self.transforms is not None:
            body.append(repr(self.transforms))
        return "\n".join([f"Dataset {type(self).__name__}", *(f"    {line}" for line in body)])


class StandardTransform:
    """A transform of the image and one of the target as a function of both."""

    def __init__(self, transform: Callable | None = None, target_transform: Callable | None = None) -> None:
        self.transform, self.target_transform = transform, target_transform

    def __call__(self, input: Any, target: Any) -> tuple[Any, Any]:
        if self.transform is not None:
            input = self.transform(input)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return input, target

    def __repr__(self) -> str:
        lines = [type(self).__name__]
        for head, given in (("Transform: ", self.transform), ("Target transform: ", self.target_transform)):
            if given is not None:
                lines.append(head + repr(given).replace("\n", "\n" + " " * len(head)))
        return "\n".join(lines)


def entry(values: Any, index: Any) -> Any:
    """``values[index]`` of a tensor as an array or a NumPy number, of anything else as it is."""
    return values._arr[index] if type(values) is Tensor else values[index]


def sample(images: Any, index: Any) -> np.ndarray:
    """A copy of an image: a transform that writes into it leaves the data set as it is."""
    return np.array(entry(images, index))
