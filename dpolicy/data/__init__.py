"""Data sets for offline learning, as `Transition`s with one leading axis."""

from dpolicy.data.order import check_order as check_order
from dpolicy.data.recording import episode_returns as episode_returns
from dpolicy.data.recording import in_chunks as in_chunks
from dpolicy.data.recording import record as record
from dpolicy.data.rewards import REWARD_TREATMENTS as REWARD_TREATMENTS
from dpolicy.data.rewards import treated as treated
from dpolicy.data.saving import save_npz as save_npz
from dpolicy.data.scores import REFERENCE_SCORES as REFERENCE_SCORES
from dpolicy.data.scores import normalised_score as normalised_score
from dpolicy.data.scores import reference_scores as reference_scores
from dpolicy.data.sets import DataSet as DataSet
from dpolicy.data.sets import DataStatistics as DataStatistics
from dpolicy.data.sets import as_data_set as as_data_set
from dpolicy.data.sources import exact_samples as exact_samples
from dpolicy.data.sources import load as load
from dpolicy.data.sources import load_npz as load_npz
