"""Data sets for offline learning, as `Transition`s with one leading axis."""

from dpolicy.data.sources import exact_samples as exact_samples
from dpolicy.data.sources import load as load
from dpolicy.data.sources import load_npz as load_npz
