"""Packages that only some people need, imported when first used. Floor 5."""

import importlib
from typing import Any

from tensorlite.errors import TensorliteError


class MissingExtraError(TensorliteError, ImportError):
    """A package of an extra that is not installed; the message says what to install."""


def require(module: str, extra: str, what: str) -> Any:
    """The imported ``module``, or an error that names the extra which brings it.

    Args:
        module: the module's full name, ``"PIL.Image"``.
        extra: the extra of tensorlite that installs it, ``"examples"``.
        what: what needs it, for the message: ``"predict"``.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow", "sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingExtraError(
            f"{what}: {package} could not be imported ({error}); wanted: python -m pip install 'tensorlite[{extra}]'"
        ) from error
