"""Modes of behaviour: groups of experience with a model each, found by clustering episodes; rewards for novelty."""

from dpolicy.modes._clustering import Merges as Merges
from dpolicy.modes._clustering import average_linkage as average_linkage
from dpolicy.modes._clustering import clusters as clusters
from dpolicy.modes._clustering import path_distances as path_distances
from dpolicy.modes._clustering import time_warping as time_warping
from dpolicy.modes._discovery import Discovery as Discovery
from dpolicy.modes._discovery import Modes as Modes
from dpolicy.modes._discovery import mode_discovery as mode_discovery
from dpolicy.modes._episodes import Episodes as Episodes
from dpolicy.modes._episodes import draw_by_label as draw_by_label
from dpolicy.modes._episodes import finished_episodes as finished_episodes
from dpolicy.modes._episodes import kept_episodes as kept_episodes
from dpolicy.modes._episodes import paths as paths
from dpolicy.modes._groups import Heirs as Heirs
from dpolicy.modes._groups import balanced as balanced
from dpolicy.modes._groups import bounded_by_group as bounded_by_group
from dpolicy.modes._groups import by_group as by_group
from dpolicy.modes._groups import heirs as heirs
from dpolicy.modes._groups import per_group as per_group
from dpolicy.modes._groups import shares as shares
from dpolicy.modes._novelty import Distillation as Distillation
from dpolicy.modes._novelty import Novelty as Novelty
from dpolicy.modes._novelty import novelty_reward as novelty_reward
from dpolicy.modes._novelty import positional_encoding as positional_encoding
