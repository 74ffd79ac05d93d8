"""Environments under one protocol, on the device."""

from dpolicy.envs.multigoal import MultiGoal as MultiGoal
from dpolicy.envs.protocol import Environment as Environment
from dpolicy.envs.protocol import Spec as Spec
from dpolicy.envs.vector import Step as Step
from dpolicy.envs.vector import Vector as Vector
from dpolicy.envs.vector import VectorState as VectorState
from dpolicy.envs.vector import evaluate_episodes as evaluate_episodes
