"""The error classes of tensorlite. Floor 0: plain Python.

Each class stands under the builtin one that PyTorch raises in the same place, so ``except RuntimeError`` written for
PyTorch keeps working. A message reads ``op: what was given; wanted what``.
"""


class TensorliteError(Exception):
    """Base of every error that only tensorlite raises."""


class ShapeError(TensorliteError, RuntimeError, ValueError):
    """Sizes that do not fit together."""


class BoundsError(TensorliteError, IndexError, RuntimeError):
    """An index beyond the end. PyTorch raises IndexError in some ops and RuntimeError in others."""


class DTypeError(TensorliteError, RuntimeError, TypeError):
    """An element type that the op does not take, or two that do not go together."""


class DeviceError(TensorliteError, RuntimeError):
    """A device that is not there, or tensors on different devices."""


class OutOfMemoryError(DeviceError, MemoryError):
    """More memory than a device has left."""


class GradError(TensorliteError, RuntimeError):
    """A gradient that was asked for and cannot be had."""


class CaptureError(TensorliteError, RuntimeError):
    """Something that a recorded program cannot replay."""


class KernelError(TensorliteError, RuntimeError):
    """A kernel that could not be found, built or run."""


class AnomalyError(TensorliteError, RuntimeError):
    """The first NaN or infinity of a run, found by ``detect_anomaly`` or ``TL_NAN=1``."""


class TrainingError(TensorliteError, RuntimeError):
    """A training that cannot go on, such as one whose loss is no longer a number."""


class DataError(TensorliteError, ValueError, OSError):
    """A file that is missing, broken or not what its name says."""
