"""Data sets for offline learning, as `Transition`s with one leading axis."""

from dpolicy.data.order import check_order as check_order
from dpolicy.data.recording import episode_returns as episode_returns
from dpolicy.data.recording import in_chunks as in_chunks
from dpolicy.data.recording import record as record
from dpolicy.data.saving import save_npz as save_npz
from dpolicy.data.sources import exact_samples as exact_samples
from dpolicy.data.sources import load as load
from dpolicy.data.sources import load_npz as load_npz
