"""The MNIST digits: found, downloaded, read; scikit-learn's digits in their place; pictures in their form. Floor 5."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorlite.errors import DataError
from tensorlite.utils.data.files import cache_dir, data_dirs, fetch, find_files
from tensorlite.utils.extras import require
from tensorlite.vision.idx import read_idx

MIRRORS = ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"]
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
SUBFOLDERS = ("mnist", "MNIST", "MNIST/raw", "mnist/raw", "raw", "mnist10k")


class Digits(NamedTuple):
    """Images (N, 28, 28) uint8, 0 for the ground and 255 for ink, with their labels (N,) from 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str  # where they come from, for people


def load(
    data: str | os.PathLike | None = None,
    mirrors: Sequence[str] | None = None,
    say: Callable[[str], Any] = print,
    progress: Callable[[str, int, int | None], Any] | None = None,
) -> Digits:
    """MNIST from ``data``, ``$TENSORLITE_DATA``, the cache or a mirror; failing all, scikit-learn's digits.

    A folder that was named must hold MNIST: nothing else takes its place.

    Args:
        data: the folder with the four files, packed or not, or with a sub-folder ``MNIST/raw`` or the like.
        mirrors: where to download from; default ``MIRRORS``.
        say: told in one line when the digits are not MNIST.
        progress: as in ``utils.data.files.fetch``.
    """
    paths = find(data)
    if paths is None and data is not None:
        names = ", ".join(name.removesuffix(".gz") for name in SHA256)
        raise DataError(
            f"{data}: MNIST is not there; wanted {names}, with or without .gz, in it or in {', '.join(SUBFOLDERS)}"
        )
    if paths is None:
        try:
            paths = download(mirrors, progress=progress)
        except DataError as reason:
            digits = from_sklearn(reason)
            say(f"MNIST: no copy here and {reason}; using {digits.source} instead")
            return digits
    return read(paths)


def find(data: str | os.PathLike | None = None) -> list[Path] | None:
    """The four files, from ``data`` if given, else from ``$TENSORLITE_DATA`` or the cache; None if not there."""
    return find_files(names(), data_dirs() if data is None else [Path(data).expanduser()], SUBFOLDERS)


def names() -> list[tuple[str, ...]]:
    """The names that each of the four files may have."""
    plain = [name.removesuffix(".gz") for name in SHA256]
    dotted = [name.replace("-idx", ".idx") for name in plain]  # the names that some archives give them
    return [(p, p + ".gz", d, d + ".gz") for p, d in zip(plain, dotted)]


def download(
    mirrors: Sequence[str] | None = None,
    folder: Path | None = None,
    progress: Callable[[str, int, int | None], Any] | None = None,
    **limits: float,
) -> list[Path]:
    """Fetch the four files into ``folder`` (default: the cache) and return their paths.

    ``limits`` are ``patience``, ``deadline`` and ``slowest`` of ``utils.data.files.fetch``.
    """
    folder = cache_dir() / "mnist" if folder is None else folder
    fetch(SHA256, MIRRORS if mirrors is None else mirrors, folder, progress=progress, **limits)
    return [folder / name for name in SHA256]


def read(paths: Sequence[Path]) -> Digits:
    """The digits in four files: training images and labels, test images and labels."""
    (train_images, train_labels), (test_images, test_labels) = read_pair(*paths[:2]), read_pair(*paths[2:])
    return Digits(train_images, train_labels, test_images, test_labels, str(Path(paths[0]).parent))


def read_pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 28, 28) and labels (N,) of one half: training or test."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) < 2:
        raise DataError(
            f"{images_path}: offset 4: {images.dtype} values of shape {images.shape}; wanted uint8 of "
            "shape (N, 28, 28), N 2 or more"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_path}: offset 4: {labels.dtype} values of shape {labels.shape}; wanted uint8 of "
            f"shape ({len(images)},), as many as there are images"
        )
    if labels.max() > 9:
        k = int(np.argmax(labels > 9))
        raise DataError(f"{labels_path}: offset {8 + k}: label {labels[k]}; wanted 0 to 9")
    return images, labels


def from_sklearn(reason: Exception | None = None) -> Digits:
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries, enlarged; the last 360 are for testing.

    ``reason`` is why MNIST could not be had: it goes into the message if scikit-learn is missing too.
    """
    what = f"MNIST: no copy here and {reason}; the digits of scikit-learn" if reason else "the digits of scikit-learn"
    datasets = require("sklearn.datasets", "examples", what)
    images, labels = datasets.load_digits(return_X_y=True)
    # MNIST writes its digits 20 pixels high, in the middle of 28: enlarge by linear interpolation, 8 pixels to 20
    grid = np.linspace(-0.5, 7.5, 41)[1::2]
    stretch = np.stack([np.interp(grid, np.arange(8), row) for row in np.eye(8)], axis=1)  # (20, 8)
    large = stretch @ images.reshape(-1, 8, 8) @ stretch.T * (255 / 16)
    large = np.pad(large.round().astype(np.uint8), ((0, 0), (4, 4), (4, 4)))
    labels = labels.astype(np.uint8)
    return Digits(large[:-360], labels[:-360], large[-360:], labels[-360:], "scikit-learn's 1,797 handwritten digits")


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """A picture of one digit as MNIST would hold it: (28, 28) uint8, light ink on dark ground.

    Grey; turned to its negative if its border is light; and unless it is 28x28 already, cut to the ink, scaled to 20
    pixels and laid with its centre of mass in the middle, as MNIST's makers did.

    Raises:
        DataError: a file that is missing or no picture.
        MissingExtraError: without Pillow, which the extra ``examples`` installs.
    """
    Image = require("PIL.Image", "examples", "reading pictures")
    try:
        with Image.open(path) as picture:
            if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:  # see-through is paper
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            grey = np.asarray(picture.convert("L"), np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; wanted a picture") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for broken ones
        raise DataError(f"{path}: {str(error).splitlines()[0]}; wanted a picture, such as PNG or JPEG") from error
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 127:
        grey = 255 - grey
    return grey if grey.shape == (28, 28) else _centred(grey, Image)


def _centred(grey: np.ndarray, Image: Any) -> np.ndarray:
    ink = grey > max(int(grey.max()) // 4, 1)
    out = np.zeros((28, 28), np.uint8)
    if not ink.any():
        return out
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    digit = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(20 * n / max(digit.shape))) for n in digit.shape)
    digit = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BOX), np.float64)
    top, left = (
        min(max(round(13.5 - (digit.sum(1 - axis) @ np.arange(n)) / digit.sum()), 0), 28 - n)
        for axis, n in enumerate((height, width))
    )
    out[top : top + height, left : left + width] = digit.round()
    return out
