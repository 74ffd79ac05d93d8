"""One method of the package flow-rl, timed. Run by `flowrl_speed.py` with an interpreter that has flow-rl's packages.

python flowrl_peer.py CHECKOUT sdac 8.0 17 6
"""

import importlib
import json
import statistics
import sys
import time
from pathlib import Path

BATCH, TIME, ENVS = 256, 24, 256
# Of an observation and an action, off and on policy.
SIZES = ((17, 6), (60, 8))
# file of the agent, its class, file of its settings
OFF_POLICY = {
    "sac": ("sac", "SACAgent", "sac"),
    "td3": ("td3", "TD3Agent", "td3"),
    "dacer": ("dacer", "DACERAgent", "dacer"),
    "qsm": ("qsm", "QSMAgent", "qsm"),
    "idem": ("idem", "IDEMAgent", "idem"),
    "sdac": ("sdac", "SDACAgent", "sdac"),
    "qvpo": ("qvpo", "QVPOAgent", "qvpo"),
    "gempo": ("gempo", "GeMPOAgent", "gempo_linear"),
    "dpmd": ("dpmd", "DPMDAgent", "dpmd"),
}
ON_POLICY = {
    "ppo": ("ppo", "PPOAgent", "ppo"),
    "dppo": ("dppo", "DPPOAgent", "dppo"),
    "genpo": ("genpo", "GenPOAgent", "genpo"),
    "fpopp": ("fpopp", "FPOPPAgent", "fpopp"),
}
OFFLINE = {
    "iql": ("iql", "IQLAgent", "iql"),
    "dql": ("dql", "DQLAgent", "dql"),
    "dac": ("dac", "DACAgent", "dac"),
    "fql": ("fql.fql", "FQLAgent", "fql"),
    "bdpo": ("bdpo.bdpo", "BDPOAgent", "bdpo"),
    "dtql": ("dtql", "DTQLAgent", "dtql"),
}
# What its scripts set by data set; phases before the one that is timed are left out on both sides.
CHOSEN = {
    "dtql": {"gamma": 0.0, "expectile": 0.7, "alpha": 1.0, "lr": 3e-4, "lr_decay": False},
    "bdpo": {"warmup_steps": 0},
}
# The same numbers of transitions, passes and units as dpolicy's side.
LIKE_OURS = {
    "num_envs": ENVS,
    "rollout_length": TIME,
    "batch_size": TIME * ENVS // 4,
    "num_minibatches": 4,
    "num_epochs": 4,
    "critic_hidden_dims": [256, 256, 256],
}


def moved(agent: object) -> object:
    """The parameters that its update moves last."""
    return getattr(agent, "actor", None) or getattr(agent, "one_step_actor", None)


def main(checkout: str, name: str, seconds: float, obs_size: int, action_size: int) -> None:
    sys.path.insert(0, checkout)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]

    on_policy, kind = name in ON_POLICY, "offline" if name in OFFLINE else "online"
    module, agent_class, settings = {**OFF_POLICY, **ON_POLICY, **OFFLINE}[name]
    folder = "isaaclab_onpolicy" if on_policy else "mujoco" if kind == "online" else "d4rl"
    path = Path(checkout) / "examples" / kind / "config" / folder / "algo" / f"{settings}.yaml"
    given = {"task": "HalfCheetah-v5", "train_steps": 1_000_000}
    config = OmegaConf.merge(given, OmegaConf.load(path), {"algo": CHOSEN.get(name, {})})
    if kind == "offline":
        del config["data"]
    if on_policy:
        config.algo.update({k: v for k, v in LIKE_OURS.items() if k in config.algo})
    OmegaConf.resolve(config)
    types = importlib.import_module("flowrl.types")
    agent = getattr(importlib.import_module(f"flowrl.agent.{kind}.{module}"), agent_class)(
        obs_size, action_size, config.algo, 0
    )
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    ends = lambda *shape: jnp.asarray(rng.random(shape) < 0.01, jnp.float32)
    if on_policy:
        obs = normal(TIME * ENVS, obs_size)
        actions, info = agent.sample_actions(obs, deterministic=False)
        grid = lambda leaf: jnp.asarray(leaf).reshape(TIME, ENVS, *leaf.shape[1:])
        batch = types.RolloutBatch(
            obs=grid(obs),
            actions=grid(actions),
            next_obs=grid(obs[::-1]),
            rewards=normal(TIME, ENVS, 1),
            terminated=ends(TIME, ENVS, 1),
            truncated=jnp.zeros((TIME, ENVS, 1)),
            extras={key: grid(value) for key, value in info.items()},
        )
    else:
        action = jnp.tanh(normal(BATCH, action_size))
        batch = types.Batch(
            obs=normal(BATCH, obs_size),
            action=action,
            reward=normal(BATCH, 1),
            terminal=ends(BATCH, 1),
            next_obs=normal(BATCH, obs_size),
            next_action=action,
        )
    if hasattr(agent, "prepare_training"):
        agent.prepare_training()
    starting = time.perf_counter()
    jax.block_until_ready(agent.train_step(batch, step=0))
    first = time.perf_counter() - starting
    starting = time.perf_counter()
    jax.block_until_ready((agent.train_step(batch, step=1), moved(agent)))
    second = time.perf_counter() - starting
    # Many to a measurement, so that its dispatch overlaps, unless one takes long; one that takes a minute is enough.
    repeat = max(1, min(10, int(0.5 / second)))
    times, step, end = [second] if second > 10 else [], 2, time.perf_counter() + seconds
    while time.perf_counter() < end or (len(times) < 3 and second < 10):
        starting = time.perf_counter()
        for _ in range(repeat):
            metrics = agent.train_step(batch, step=step)
            step += 1
        jax.block_until_ready((metrics, moved(agent)))
        times.append((time.perf_counter() - starting) / repeat)
    update = statistics.median(times)
    print(json.dumps({"compile": first - update, "update": update, "jax": jax.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
