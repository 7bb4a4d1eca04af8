"""Images changed and turned into tensors, by torchvision's names. Floor 5.

Every transform takes NumPy arrays (H, W) or (H, W, C), tensors (..., C, H, W) and Pillow's images, and gives back the
kind that it got; ``ToTensor`` and its like change the kind.

>>> import numpy as np
>>> import tensorlite as tl
>>> T = tl.vision.transforms
>>> train = T.Compose([T.RandomCrop(28, padding=2), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize([0.5], [0.5])])
>>> train(np.zeros((28, 28), np.uint8)).shape
tensorlite.Size([1, 28, 28])
"""

from tensorlite.vision.transforms import functional as functional
from tensorlite.vision.transforms.chance import (
    ColorJitter,
    RandomAffine,
    RandomApply,
    RandomChoice,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomOrder,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
)
from tensorlite.vision.transforms.geometry import InterpolationMode
from tensorlite.vision.transforms.steps import (
    CenterCrop,
    Compose,
    ConvertImageDtype,
    Grayscale,
    Lambda,
    Normalize,
    Pad,
    PILToTensor,
    Resize,
    ToPILImage,
    ToTensor,
)

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConvertImageDtype",
    "Grayscale",
    "InterpolationMode",
    "Lambda",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomOrder",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "ToPILImage",
    "ToTensor",
    "functional",
]
