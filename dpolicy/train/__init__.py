"""Training: pure programs that compile as one, and the host loop that runs them."""

from collections.abc import Callable

from dpolicy._places import RunWarning as RunWarning
from dpolicy.train._off_policy import OffPolicyLoop as OffPolicyLoop
from dpolicy.train._off_policy import off_policy as off_policy
from dpolicy.train._offline import offline as offline
from dpolicy.train._on_policy import OnPolicyLoop as OnPolicyLoop
from dpolicy.train._on_policy import on_policy as on_policy
from dpolicy.train.building import build as build
from dpolicy.train.evaluate import policy_of as policy_of
from dpolicy.train.holding import HeldKeys as HeldKeys
from dpolicy.train.intervals import Interval as Interval
from dpolicy.train.intervals import bootstrap_interval as bootstrap_interval
from dpolicy.train.intervals import interquartile_interval as interquartile_interval
from dpolicy.train.intervals import interquartile_mean as interquartile_mean
from dpolicy.train.intervals import interval_text as interval_text
from dpolicy.train.loop import AllSeedsFailed as AllSeedsFailed
from dpolicy.train.loop import Chunk as Chunk
from dpolicy.train.loop import Result as Result
from dpolicy.train.loop import train_config as train_config
from dpolicy.train.loop import train_loop as train_loop
from dpolicy.train.metrics_log import History as History
from dpolicy.train.metrics_log import read_history as read_history
from dpolicy.train.normalise import Normaliser as Normaliser
from dpolicy.train.normalise import ReturnScale as ReturnScale
from dpolicy.train.normalise import RewardScale as RewardScale
from dpolicy.train.policy import TrainedPolicy as TrainedPolicy
from dpolicy.train.policy import load_policy as load_policy
from dpolicy.train.pretrained import pretrained_field as pretrained_field
from dpolicy.train.program import Program as Program
from dpolicy.train.program import TrainState as TrainState
from dpolicy.train.recording import record_run as record_run
from dpolicy.train.replay import Replay as Replay
from dpolicy.train.runs import Run as Run
from dpolicy.train.runs import evaluate_run as evaluate_run
from dpolicy.train.runs import load_run as load_run
from dpolicy.train.shares import draw_shares as draw_shares
from dpolicy.train.shares import from_data as from_data
from dpolicy.train.shares import from_replay as from_replay
from dpolicy.train.shares import share_sizes as share_sizes
from dpolicy.train.windows import data_windows as data_windows
from dpolicy.train.windows import n_step as n_step
from dpolicy.train.windows import ring_windows as ring_windows

# The training program of each family of algorithms.
PROGRAMS: dict[str, Callable[..., Program]] = {
    "on_policy": on_policy,
    "off_policy": off_policy,
    "offline": offline,
}
