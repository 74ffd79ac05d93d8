"""Environments under one protocol, on the device. Adapters import the package they adapt when one is built."""

from dpolicy.envs.bandits import Bandit as Bandit
from dpolicy.envs.brax_envs import Brax as Brax
from dpolicy.envs.energies import checkerboard as checkerboard
from dpolicy.envs.energies import double_well as double_well
from dpolicy.envs.energies import eight_gaussians as eight_gaussians
from dpolicy.envs.energies import linear as linear
from dpolicy.envs.energies import mixture as mixture
from dpolicy.envs.energies import quadratic as quadratic
from dpolicy.envs.energies import rings as rings
from dpolicy.envs.energies import two_moons as two_moons
from dpolicy.envs.gymnax_envs import Gymnax as Gymnax
from dpolicy.envs.multigoal import MultiGoal as MultiGoal
from dpolicy.envs.probes import Probe as Probe
from dpolicy.envs.protocol import Environment as Environment
from dpolicy.envs.protocol import Spec as Spec
from dpolicy.envs.registry import FAMILIES as FAMILIES
from dpolicy.envs.registry import Family as Family
from dpolicy.envs.registry import make as make
from dpolicy.envs.registry import names as names
from dpolicy.envs.vector import Step as Step
from dpolicy.envs.vector import Vector as Vector
from dpolicy.envs.vector import VectorState as VectorState
from dpolicy.envs.vector import evaluate_episodes as evaluate_episodes
