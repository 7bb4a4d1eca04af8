"""What surrounds a model: ``utils.data``, the optional packages, and the state of random generators. Floor 5."""

from tensorlite.utils import data as data, rng as rng
