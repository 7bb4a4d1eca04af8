"""What surrounds a model: ``utils.data`` and the optional packages. Floor 5."""

from tensorlite.utils import data as data
