"""Every algorithm on bandits with a known answer, critic and all: samples against exp(Q / T) / Z, or the arg max.

Entropic methods (SDAC, QSM, SAC) and behaviour cloning of exact samples are measured by the 2-Wasserstein distance of
their samples to exact ones; the floor is that of a second exact sample. So are the methods that climb the critic at
their own action (DDPG to FastTD3), few of which have that law for their aim, by single samples without the noise
of exploration. QSM has another fixed point (its target at every noise level is the score of the density before
smoothing): what its own sampler returns for exactly that field; the distance to it is given too. Policy gradients (PPO
and its kin) seek the maximum, also in a corner of the box: the gap between max Q and the mean Q of their evaluation
actions. Modes are those of the task within 0.15 of which at least 2 % of the samples fall, and the share of a mode is
that of the samples to which it is the nearest, in the mean over seeds. A run that was cut short goes on with what is
missing; with --tasks or --only, the other rows of the table stay.

    python benchmarks/bandits.py --out benchmarks/results/bandits.md
"""

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from command_line import parser_for
from kept import kept, merged
from laws import mode_shares, qsm_fixed_point, shares_text, wasserstein

from dpolicy._types import Transition
from dpolicy.algorithms import (
    bc,
    bro,
    consistency_ac,
    cpql,
    crossq,
    dacer,
    dacerv2,
    ddpg,
    dime,
    dp_cppo,
    dppo,
    dsac_d,
    dsac_t,
    fast_td3,
    fpo,
    fpopp,
    genpo,
    ppo,
    qsm,
    sac,
    sdac,
    td3,
)
from dpolicy.envs import Bandit, faces, make
from dpolicy.train import off_policy, offline, on_policy, policy_of
from dpolicy.train.intervals import interval_text

TEMPERATURE = {
    "double_well": 0.25,
    "eight_gaussians": 1.0,
    "corner": 1.0,
    "faces": 0.5,
    "unequal_modes": 1.0,
    "corners": 0.5,
    "unequal_widths": 1.0,
}
POLICY_GRADIENTS = ("ppo", "fpo", "fpopp", "dppo", "genpo", "dp_cppo")
NET = (64, 64)
SAMPLES = 1_000


def task(name: str) -> Bandit:
    """A bandit of the library, or one of three more.

    - corner: Q = -|a - (1, -1)|^2, where a standard normal policy starts near -4.
    - corners: `faces` in the plane, with maxima in the corners, on the faces and inside.
    - unequal_widths: two maxima, at -.5 and .5, of weights .3 and .7 and of deviations .05 and .15.
    """
    if name == "corners":
        return faces(action_size=2)
    if name == "unequal_widths":
        centres, widths = np.array([-0.5, 0.5]), np.array([0.05, 0.15])
        logs = np.log(np.array([0.3, 0.7]) / widths)
        q = lambda action: jax.nn.logsumexp(logs - (action[0] - centres) ** 2 / (2 * widths**2))
        return Bandit(q, action_size=1, modes=centres[:, None])
    if name != "corner":
        found: Any = make(f"bandit/{name}")
        return found
    corner = np.array([1.0, -1.0])
    return Bandit(lambda action: -jnp.sum((action - corner) ** 2), action_size=2, modes=corner[None])


def pathwise(
    env: Bandit, temperature: float, network: dict[str, Any], *, silent: bool = False
) -> dict[str, Any]:
    """Methods that climb the critic at their own action, by name; their own samples only where `silent`.

    Of DACER, DACERv2 and DSAC-D the noise that holds the entropy is a part of their law. A temperature stays where it
    starts. Atoms of critics hold the values of the bandit.
    """
    anywhere = jax.random.uniform(jax.random.key(5), (10_000, env.spec.action_size), minval=-1.0)
    values = jax.vmap(env.energy)(anywhere)
    low, high = float(jnp.min(values)), float(jnp.max(jax.vmap(env.energy)(env.modes)))
    quiet = {"exploration_noise": 0.0} if silent else {}
    one = {"candidates": 1, "evaluation_candidates": 1} if silent else {}
    soft = {"temperature": temperature, "temperature_learning_rate": 1e-9, **network}
    noisy = {"entropy_interval": 250, **network}
    prompt = {**network, **one}
    fast = {"target_interval": 1, "target_after": 0}
    random = {"average_interval": 1, "average_after": 0, "random_updates": 400, "random_share": 0.0}
    return {
        "ddpg": ddpg(**quiet, **network),
        "td3": td3(**quiet, **network),
        "crossq": crossq(**soft),
        "dsac_t": dsac_t(**soft),
        "dacer": dacer(**noisy),
        "dacerv2": dacerv2(**noisy),
        "dsac_d": dsac_d(value_steps=5, value_samples=4, value_bound=None, **noisy),
        "dime": dime(sampler_steps=10, time_size=64, value_low=low, value_high=high, **soft),
        "bro": bro(critic_atoms=25, **soft),
        "fast_td3": fast_td3(
            critic_low=low,
            critic_high=high,
            exploration_low=0.0,
            exploration_high=0.0 if silent else 0.4,
            **network,
        ),
        "cpql": cpql(**fast, **prompt),
        "cpql (inward)": cpql(inward=True, **fast, **prompt),
        "consistency_ac": consistency_ac(**random, **prompt),
        "consistency_ac (inward)": consistency_ac(inward=True, **random, **prompt),
    }


def programs(env: Bandit, temperature: float) -> dict[str, tuple[Any, int]]:
    """Name -> (training program, calls of its step)."""
    off: dict[str, Any] = {
        "num_envs": 64,
        "batch_size": 256,
        "replay_size": 2**16,
        "warmup": 4096,
        "evaluation_interval": 64_000,
        "evaluation_episodes": 64,
    }
    on: dict[str, Any] = {
        "num_envs": 1024,
        "rollout": 1,
        "iterations_per_evaluation": 50,
        "evaluation_episodes": 64,
    }
    nets: dict[str, Any] = {"hidden": NET, "critic_hidden": NET}
    fast: dict[str, Any] = {"learning_rate": 5e-4, "critic_learning_rate": 1e-3}
    policy: dict[str, Any] = {"hidden": NET, "value_hidden": NET}
    size = 20_000
    actions = env.sample(jax.random.key(7), size, temperature)
    zeros, no = jnp.zeros((size, 1)), jnp.zeros(size, bool)
    data = Transition(zeros, actions, jax.vmap(env.energy)(actions), zeros, ~no, no)
    cloning: dict[str, Any] = {"updates_per_evaluation": 1_000, "evaluation_episodes": 64}
    diffusion: dict[str, Any] = {
        "schedule": "cosine",
        "prediction": "noise",
        "sampler": "ddpm",
        "sampler_steps": 20,
    }
    return {
        "bc (flow)": (
            offline(bc(hidden=NET, learning_rate=1e-3, sampler_steps=20), env, dataset=data, **cloning),
            4,
        ),
        "bc (diffusion)": (
            offline(bc(hidden=NET, learning_rate=1e-3, **diffusion), env, dataset=data, **cloning),
            4,
        ),
        "sdac": (off_policy(sdac(temperature=temperature, samples=32, **nets, **fast), env, **off), 4),
        "qsm (paper)": (
            off_policy(qsm(temperature=temperature, variant="paper", **nets, **fast), env, **off),
            4,
        ),
        "sac": (
            off_policy(sac(temperature=temperature, tune_temperature=False, **nets, **fast), env, **off),
            4,
        ),
        **{
            label: (off_policy(algorithm, env, **off), 4)
            for label, algorithm in pathwise(env, temperature, nets | fast).items()
        },
        "ppo": (on_policy(ppo(entropy_coefficient=0.0, **policy), env, **on), 2),
        "fpo": (
            on_policy(
                fpo(hidden=NET, value_hidden=NET, epochs=4, minibatches=4, gae_dialect="exact"), env, **on
            ),
            4,
        ),
        "fpopp": (
            on_policy(
                fpopp(draws=8, sampler_steps=16, epochs=5, learning_rate=1e-3, ema_after=50, **policy),
                env,
                **on,
            ),
            4,
        ),
        "dppo": (on_policy(dppo(epochs=4, learning_rate=3e-4, **policy), env, **on), 4),
        "genpo": (on_policy(genpo(learning_rate=1e-3, **policy), env, **on), 4),
        "dp_cppo": (
            on_policy(
                dp_cppo(flow_hidden=NET, value_clip=None, ema_decay=0.99, entropy_coefficient=0.01, **policy),
                env,
                **on,
            ),
            2,
        ),
    }


def measure(env: Bandit, program: Any, sampling: Any, calls: int, seeds: int) -> dict[str, np.ndarray]:
    """`samples` `[seeds, n, d]` by `sampling`, mean `value` of evaluation actions `[seeds]`, training `seconds`."""
    state = jax.jit(jax.vmap(program.init))(jax.random.split(jax.random.key(0), seeds))
    step = jax.jit(jax.vmap(program.step), donate_argnums=0)
    begun = time.perf_counter()
    for _ in range(calls):
        state, _ = step(state)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begun

    def sample(state: Any, key: Any) -> Any:
        keys = jax.random.split(key, SAMPLES)
        obs = jnp.zeros(env.spec.obs_size)
        explore = jax.vmap(lambda key: policy_of(sampling, state, "explore")(obs, key))(keys)
        evaluate = jax.vmap(lambda key: policy_of(program.algorithm, state, "evaluate")(obs, key))(keys)
        return jnp.clip(explore, -1, 1), jnp.mean(jax.vmap(env.energy)(jnp.clip(evaluate, -1, 1)))

    explore, value = jax.jit(jax.vmap(sample))(state, jax.random.split(jax.random.key(1), seeds))
    return {"samples": np.asarray(explore), "value": np.asarray(value), "seconds": np.asarray(seconds)}


HEAD = (
    "| task | temperature | algorithm | W2 to exp(Q/T)/Z | W2 to QSM's fixed point | W2 floor "
    "| max Q - mean Q (evaluate) | modes found | shares of the modes | exact shares |"
)


def compared(name: str, arguments: argparse.Namespace) -> list[str]:
    """The rows of one task, printed as they come."""
    env, temperature, rows = task(name), TEMPERATURE[name], []
    exact = [np.asarray(env.sample(jax.random.key(i), SAMPLES, temperature)) for i in range(2)]
    floor = wasserstein(*exact)
    # The noise that QSM adds while exploring is not its distribution.
    silent = qsm(temperature=temperature, exploration_noise=0.0, hidden=NET, critic_hidden=NET)
    nets: dict[str, Any] = {"hidden": NET, "critic_hidden": NET}
    noise_free = {"qsm (paper)": silent, **pathwise(env, temperature, nets, silent=True)}
    own = {"qsm (paper)": qsm_fixed_point(env, temperature, SAMPLES)}
    best = float(jnp.max(jax.vmap(env.energy)(env.modes)))
    for algorithm, (program, calls) in programs(env, temperature).items():
        if arguments.only and algorithm.split()[0] not in arguments.only:
            continue
        if name == "corner" and algorithm not in POLICY_GRADIENTS:
            continue
        sampling = noise_free.get(algorithm, program.algorithm)
        found = kept(
            arguments.runs / f"{name}, {algorithm}" / f"{arguments.seeds}-seeds.npz",
            partial(measure, env, program, sampling, calls, arguments.seeds),
            (temperature, calls),
        )
        samples = found["samples"]
        distance = np.asarray([wasserstein(cloud, exact[0]) for cloud in samples])
        to_own = [wasserstein(cloud, own[algorithm]) for cloud in samples] if algorithm in own else []
        near = np.linalg.norm(samples[:, :, None] - np.asarray(env.modes), axis=-1) < 0.15
        modes = (near.mean(axis=1) >= 0.02).sum(axis=-1)
        cells = [
            name,
            f"{temperature}",
            algorithm,
            interval_text(distance, digits=3),
            interval_text(np.asarray(to_own), digits=3) if to_own else "-",
            f"{floor:.3g}",
            interval_text(best - found["value"], digits=3),
            f"{', '.join(map(str, modes))} of {len(env.modes)}",
            shares_text(mode_shares(env, samples).mean(axis=0)),
            shares_text(np.asarray(env.mode_shares(temperature))),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], f"({found['seconds']:.0f} s)", flush=True)
    return rows


def main() -> None:
    parser = parser_for(
        __doc__,
        out="Markdown file for the table",
        runs=("samples", "bandits"),
        seeds=3,
        only="algorithms to run",
    )
    parser.add_argument("--tasks", nargs="*", choices=[[], *TEMPERATURE], help="all by default")
    arguments = parser.parse_args()
    command = (
        f"Command: `python benchmarks/bandits.py`, {arguments.seeds} seeds; mean and 95 % bootstrap interval."
    )
    print(f"{command}\n\n{HEAD}", flush=True)
    rows = [row for name in arguments.tasks or TEMPERATURE for row in compared(name, arguments)]
    if arguments.out is not None:
        text = "\n".join([command, "", *merged(arguments.out, HEAD, rows, 3)]) + "\n"
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
