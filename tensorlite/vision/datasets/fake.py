"""FakeData: random images, for trying out a program without data. Floor 5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorlite.ops.random import Generator, randint
from tensorlite.vision.datasets.base import VisionDataset


class FakeData(VisionDataset):
    """Images of random values with random classes, the same for the same index whatever the seed is.

    Args:
        size: how many.
        image_size: (C, H, W); a sample's image is a uint8 array (H, W, C), or (H, W) where C is 1.
        num_classes: of the targets.
        transform: a function of the image.
        target_transform: a function of the target.
        random_offset: added to the index that decides an image: another number gives other images.

    >>> image, target = FakeData(size=10, image_size=(3, 8, 8), num_classes=4)[3]
    >>> image.shape, 0 <= target < 4
    ((8, 8, 3), True)
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: tuple[int, int, int] = (3, 224, 224),
        num_classes: int = 10,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        random_offset: int = 0,
    ) -> None:
        super().__init__(transform=transform, target_transform=target_transform)
        self.size, self.image_size, self.num_classes = size, image_size, num_classes
        self.random_offset = random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self.size:
            raise IndexError(f"FakeData: index {index} out of range; wanted 0 to {self.size - 1}")
        channels, height, width = self.image_size
        generator = Generator().manual_seed(index + self.random_offset)
        image = randint(0, 256, (height, width, channels), generator=generator, dtype="uint8")._arr
        target = int(randint(0, self.num_classes, (1,), generator=generator)._arr[0])
        return self.transformed(image[..., 0] if channels == 1 else image, target)

    def __len__(self) -> int:
        return self.size
