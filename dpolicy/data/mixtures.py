"""The names of the sets that are recorded from agents of this project, and who these are."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Agent(NamedTuple):
    """An agent that mixtures are recorded from: SAC, stopped early ("medium") and at its end ("expert").

    Attributes:
        env: Its task, "family/task".
        medium: Steps of the environment after which it is stopped early.
        expert: Steps at its end.
        rows: Of the sets by default, but for replays.
        settings: Over the preset of SAC for the task.
    """

    env: str
    medium: int
    expert: int
    rows: int
    settings: Mapping[str, Any] = MappingProxyType({})


_CARTPOLE: dict[str, Any] = {
    "num_envs": 16,
    "updates_per_step": 8,
    "batch_size": 128,
    "replay_size": 128_000,
    "warmup": 4_000,
    "resets": "pool",
    "evaluation_interval": 8_000,
    "evaluation_episodes": 8,
    "hidden": (128, 128),
    "critic_hidden": (128, 128),
    "learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "normalise_observations": True,
}
AGENTS: dict[str, Agent] = {
    "pendulum": Agent("gymnax/Pendulum-v1", 5_000, 15_000, 20_000),
    "multigoal": Agent("multigoal/multigoal", 4_096 + 8_192, 4_096 + 5 * 8_192, 20_000),
    "cartpole-swingup": Agent(
        "playground/CartpoleSwingup", 4_000 + 32_000, 4_000 + 120_000, 100_000, _CARTPOLE
    ),
}
MIXTURE_KINDS = {
    "random": "uniform actions",
    "medium": "SAC, stopped early",
    "medium-replay": "all that it had seen until then",
    "medium-expert": "half of each",
    "expert": "SAC at its end",
    "full-replay": "all that it had seen until then",
}


class AgentSet(NamedTuple):
    """A set that is recorded.

    Attributes:
        agent: Of whom, a name in `AGENTS`.
        kind: A name in `MIXTURE_KINDS`.
    """

    agent: str
    kind: str

    @property
    def rows(self) -> int:
        """By default; of a replay it is as many as were seen."""
        agent = AGENTS[self.agent]
        return {"medium-replay": agent.medium, "full-replay": agent.expert}.get(self.kind, agent.rows)


MIXTURES: dict[str, AgentSet] = {
    f"{agent}/{kind}": AgentSet(agent, kind) for agent in AGENTS for kind in MIXTURE_KINDS
}
