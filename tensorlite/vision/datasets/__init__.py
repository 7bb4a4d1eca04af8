"""Data sets of images under torchvision's names. Floor 5.

A sample is (image, target). The image is a uint8 NumPy array, (H, W) or (H, W, C), where torchvision has an image of
Pillow: it is the same whether Pillow is installed or not, and the transforms take both.

>>> import tensorlite as tl
>>> T = tl.vision.transforms
>>> data = tl.vision.datasets.FakeData(size=100, image_size=(1, 28, 28), transform=T.ToTensor())
>>> images, targets = next(iter(tl.utils.data.DataLoader(data, batch_size=32)))
>>> images.shape, targets.dtype
(tensorlite.Size([32, 1, 28, 28]), tensorlite.int64)
"""

from tensorlite.vision.datasets.base import NoDataError, VisionDataset
from tensorlite.vision.datasets.cifar import CIFAR10, CIFAR100
from tensorlite.vision.datasets.digits import MNIST, FashionMNIST
from tensorlite.vision.datasets.fake import FakeData
from tensorlite.vision.datasets.folder import DatasetFolder, ImageFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DatasetFolder",
    "FakeData",
    "FashionMNIST",
    "ImageFolder",
    "MNIST",
    "NoDataError",
    "VisionDataset",
]
