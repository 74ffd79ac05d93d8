"""Training the agents of the mixtures, and recording them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from dpolicy import _checks
from dpolicy._files import replacing
from dpolicy._types import Action, Key, Observation, Transition
from dpolicy.data import AGENTS, MIXTURES, DataSet, as_data_set, episode_returns, record
from dpolicy.data.places import folder
from dpolicy.data.recording import joined
from dpolicy.presets import resolve
from dpolicy.train import Run, record_run, train_config
from dpolicy.train.replay import Replay

_EPISODES = 100  # whose mean return is a reference
_STREAMS = ("random", "medium", "expert")  # of what is drawn, each from keys of its own


class _Agents:
    """The agents of one name and seed: runs "medium" and "expert", which goes on from where the former was stopped."""

    def __init__(self, name: str, seed: int, directory: Path, *, progress: bool, say: Callable[[str], None]):
        self.name, self.seed, self.directory = name, seed, directory
        self.progress, self.say = progress, say
        self._runs: dict[str, Run] = {}

    def run(self, which: str) -> Run:
        """The run, trained where it is not or not yet."""
        if which not in self._runs:
            self._runs[which] = self._trained(which)
        return self._runs[which]

    def _trained(self, which: str) -> Run:
        agent, place = AGENTS[self.name], self.directory / which
        steps = {"medium": agent.medium, "expert": agent.expert}[which]
        config = resolve("sac", agent.env, {**agent.settings, "steps": steps})
        if which == "expert" and not place.exists():
            self.run("medium")
            # Renamed when it is whole: a kill leaves none.
            beside = place.with_name(f".{which}.tmp")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(self.directory / "medium", beside)
            beside.rename(place)
        self.say(f"{place}: SAC on {agent.env}, seed {self.seed}, to step {steps:,}")
        config |= {"seeds": 1, "seed": self.seed}
        return train_config(config, place, resume=True, progress=self.progress)[0]

    def recorded(self, which: str, episodes: int) -> Transition:
        """Episodes of an agent as it explores, or of uniform actions; the first ones are always the same."""
        seed = int(np.random.SeedSequence([self.seed, _STREAMS.index(which)]).generate_state(1)[0])
        if which != "random":
            return record_run(self.run(which), episodes=episodes, mode="explore", seed=seed)
        env = self.run("medium").env
        policy = Partial(_uniform, jnp.zeros(env.spec.action_size))
        return record(env, policy, jax.random.key(seed), episodes=episodes)

    def reference(self) -> tuple[float, float]:
        """The mean returns of uniform actions and of the expert; measured once, and kept.

        Raises:
            ValueError: Where the expert earns no more than uniform actions.
        """
        place = self.directory / "reference.json"
        if place.exists():
            low, high = json.loads(place.read_text(encoding="utf-8"))
            return low, high
        low, high = (
            float(episode_returns(self.recorded(which, _EPISODES)).mean()) for which in ("random", "expert")
        )
        if not low < high:
            raise ValueError(
                f"the agent of {self.name} with seed {self.seed} earns {high:.4g}, no more than uniform actions "
                f"({low:.4g}): take another seed."
            )
        with replacing(place) as beside:
            beside.write_text(json.dumps([low, high]), encoding="utf-8")
        return low, high


def _uniform(like: Action, obs: Observation, key: Key) -> Action:
    return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)


def _first(data: Transition, rows: int) -> Transition:
    """The first rows, the last of which is cut where its episode went on."""
    kept = jax.tree.map(lambda leaf: leaf[:rows], data)
    return eqx.tree_at(lambda d: d.truncated, kept, kept.truncated.at[-1].set(~kept.terminated[-1]))


def _replayed(run: Run) -> Transition:
    return in_time(run.state.experience.replay, run.config["program"]["num_envs"], int(run.state.steps[0]))


def in_time(replay: Replay, envs: int, steps: int) -> Transition:
    """All that a run has seen: environment after environment, in the order of time, cut where it was stopped.

    Args:
        replay: Of one seed, with a leading axis for it.
        envs: Environments that were stepped together.
        steps: That were taken.

    Raises:
        ValueError: For a replay that has forgotten some.
    """
    size = int(replay.size[0])
    if size != steps:
        raise ValueError(
            f"replay_size must be at least the {steps:,} steps of the run, got {replay.capacity:,}."
        )

    def in_order(ring: Any) -> Any:
        lines = np.asarray(ring[0, :size]).reshape(size // envs, envs, *ring.shape[2:])
        return jnp.asarray(lines.swapaxes(0, 1).reshape(size, *ring.shape[2:]))

    items = replay.data
    parts = (items.obs, items.action, items.reward, items.next_obs, items.terminated, items.truncated)
    data = Transition(*map(in_order, parts))
    last = np.arange(size) % (size // envs) == size // envs - 1
    cut = data.truncated | (jnp.asarray(last) & ~data.terminated)
    return eqx.tree_at(lambda d: d.truncated, data, cut)


def make_mixture(
    name: str,
    size: int | None = None,
    *,
    seed: int = 0,
    agents: Path | str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> DataSet:
    """A set recorded from SAC, which is trained for it where it is not yet.

    | kind | |
    |---|---|
    | random | uniform actions |
    | medium | the agent stopped early, acting as it explores |
    | medium-replay | all that it had seen until then, its uniform warm-up included |
    | medium-expert | half of each |
    | expert | the agent at its end, acting as it explores |
    | full-replay | all that it had seen until then |

    Rows are in the order of time, episode after episode; of a replay environment after environment. What is cut off is
    `truncated`. The set's reference returns, 0 and 100 of normalised scores, are means of 100 episodes of uniform
    actions and of the expert as it explores. Training goes on where it was cut short; the same name, size and seed give
    the same set, on one kind of machine (others round products differently).

    Args:
        name: One of `dpolicy.data.MIXTURES`, such as "pendulum/medium".
        size: Rows; by default the set's own number. A replay has as many as were seen.
        seed: Of the agent, and of everything that is drawn.
        agents: Where its runs lie; by default `agents/NAME-SEED` beside the sets, in `data/` or `$DPOLICY_DATA`.
        progress: Whether training is shown.
        say: Told in a sentence what is begun.

    Raises:
        ValueError: For a name that is none, a size below 1 or of a replay, a seed that is no integer from 0 to
            2^32 - 1, runs there that are of something else, or an agent that has learned nothing.
    """
    _checks.one_of("name", name, MIXTURES)
    agent, kind = mixture = MIXTURES[name]
    _checks.integer("seed", seed, 0, 2**32 - 1)
    if size is not None:
        _checks.count("size", size)
        if kind.endswith("replay"):
            raise ValueError(
                f"size must be None for {name}, a replay, which has {mixture.rows:,} rows; got {size}."
            )
    rows = mixture.rows if size is None else size
    directory = folder("DPOLICY_DATA") / "agents" / f"{agent}-{seed}" if agents is None else Path(agents)
    made = _Agents(agent, seed, directory, progress=progress, say=say)
    reference = made.reference()
    if kind.endswith("replay"):
        data = _replayed(made.run("medium" if kind.startswith("medium") else "expert"))
    else:
        whom = kind.split("-")
        shares = np.diff(np.linspace(0, rows, len(whom) + 1).astype(int))
        parts = [
            _steps(made, which, share) for which, share in zip(whom, shares.tolist(), strict=True) if share
        ]
        data = joined(parts)
    return as_data_set(data, name, "dpolicy", reference)


def _steps(made: _Agents, which: str, rows: int) -> Transition:
    """So many rows of an agent: as many episodes as that takes, which may be shorter than the time limit."""
    limit = made.run("medium").env.spec.time_limit
    episodes = -(-rows // limit)
    while len((data := made.recorded(which, episodes)).reward) < rows:
        episodes *= 2
    return _first(data, rows)
