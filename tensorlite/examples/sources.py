"""The data of the example programs: found in a folder, the cache or on the internet. Floor 7."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tensorlite.errors import DataError
from tensorlite.examples.program import Download
from tensorlite.utils.data.files import cache_dir, data_dirs, fetch, find_files


@dataclass(frozen=True)
class Source:
    """Files that belong together.

    Args:
        name: of the folder in the cache.
        title: what they are, for people.
        files: name to sha256.
        mirrors: addresses that end with a slash, to which a name is appended.
        other_names: what a file may also be called on a disk.
    """

    name: str
    title: str
    files: dict[str, str]
    mirrors: tuple[str, ...]
    other_names: tuple[str, ...] = ()

    def find(self, data: str | os.PathLike | None = None) -> list[Path]:
        """The files, from ``data`` if given, else from ``$TENSORLITE_DATA``, the cache or a mirror.

        Raises:
            DataError: they are not in ``data``, or nowhere and could not be downloaded; it says what to pass.
        """
        wanted = [(name, *self.other_names) for name in self.files]
        found = find_files(wanted, data_dirs() if data is None else [Path(data).expanduser()], (self.name,))
        if found is not None:
            return found
        names = " and ".join(self.files)
        if data is not None:
            raise DataError(f"{data}: {self.title} is not there; wanted {names} in it or in {self.name}")
        folder = cache_dir() / self.name
        try:
            with Download() as bar:
                fetch(self.files, self.mirrors, folder, progress=bar.advance)
        except DataError as error:
            raise DataError(
                f"{self.title}: no copy here and {error}; wanted --data DIR or TENSORLITE_DATA, a folder with {names}"
            ) from error
        return [folder / name for name in self.files]


SHAKESPEARE = Source(
    "tinyshakespeare",
    "Shakespeare's plays in one text",
    {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
    other_names=("tinyshakespeare.txt",),
)
REVIEWS = Source(
    "rt-polarity",
    "10,662 sentences of movie reviews",
    {
        "rt-polarity.pos": "4134882974a28d0c7b5151256f0e33a6169984ee7372c279e673f1114f475d58",
        "rt-polarity.neg": "2d11cfbc790f1cd96d78339f41ce53ced1efa83cd22d37d6788fa3fe3d17e2fd",
    },
    ("https://raw.githubusercontent.com/dennybritz/cnn-text-classification-tf/master/data/rt-polaritydata/",),
)
TEMPERATURE = Source(
    "daily-min-temperatures",
    "daily minimum temperatures of Melbourne",
    {"daily-min-temperatures.csv": "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da"},
    ("https://raw.githubusercontent.com/jbrownlee/Datasets/master/",),
)
POLLUTION = Source(
    "pollution",
    "hourly air quality of Beijing",
    {"pollution.csv": "892e9559205d16d32623135c127a3951c12e46ea1e0b3093e107ce89a9fd60e2"},
    ("https://raw.githubusercontent.com/jbrownlee/Datasets/master/",),
)
