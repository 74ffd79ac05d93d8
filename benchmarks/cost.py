"""What one gradient step of every on-policy method costs, relative to PPO: time and memory in one run.

6,144 transitions of a task with 60 observations and 8 actions (IsaacLab's Ant), networks of 3 x 256, one pass in one
minibatch. "acting" is one action for each of 6,144 observations with all that is stored beside it. DP-CPPO's step is
one of PPO and one of the flow. The last row is GenPO as its reference codes do it, with a 2d x 2d Jacobian by automatic
differentiation and a determinant in place of the constant; its acting is not measured. "rematerialised" trades time for
memory.

Methods take turns, and the last row three after them; a time is the median over the turns, a ratio the median of the
turns' ratios. Memory is what the compiled program asks for beyond its arguments.

    python benchmarks/cost.py --out benchmarks/results/cost.md
"""

import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from command_line import parser_for

from dpolicy._types import Transition
from dpolicy.algorithms import dp_cppo, dppo, fpo, fpopp, genpo, ppo
from dpolicy.envs import Spec
from dpolicy.losses import batched, clipped, compression, log_ratio
from dpolicy.samplers import coupled

SPEC, SIZE = Spec("cost/ant", 60, 8, 1000), 6_144
NETS: dict[str, Any] = {"hidden": (256, 256, 256), "value_hidden": (256, 256, 256), "activation": "elu"}
ONCE: dict[str, Any] = {**NETS, "epochs": 1, "minibatches": 1}
FLOW: dict[str, Any] = {**ONCE, "flow_hidden": NETS["hidden"], "flow_epochs": 1, "flow_minibatches": 1}


def methods() -> dict[str, Any]:
    """Name -> algorithm."""
    return {
        "ppo": ppo(**ONCE),
        "fpo, 8 draws": fpo(draws=8, **ONCE),
        "fpopp, 16 draws": fpopp(draws=16, **ONCE),
        "dppo, 10 steps": dppo(**ONCE),
        "genpo, 5 steps": genpo(**ONCE),
        "genpo, 5 steps, rematerialised": genpo(rematerialise=True, **ONCE),
        "dp_cppo, 8 flow steps": dp_cppo(flow_steps=8, **FLOW),
        "dp_cppo, 16 flow steps": dp_cppo(flow_steps=16, **FLOW),
    }


def acted(algorithm: Any) -> Any:
    """`(state, key) -> actions and extras` for 6,144 observations."""

    def act(state: Any, key: Any) -> Any:
        obs_key, key = jax.random.split(key)
        obs = jax.random.normal(obs_key, (SIZE, SPEC.obs_size))
        keys = jax.random.split(key, SIZE)
        return obs, *jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(state, obs, keys, "explore")

    return act


def rollout(algorithm: Any, state: Any, key: Any) -> Transition:
    """Transitions [24, 256] of one's own actions."""
    obs, action, extras = acted(algorithm)(state, key)
    no = jnp.zeros(SIZE, bool)
    batch = Transition(obs, action, jax.random.normal(key, (SIZE,)), obs[::-1], no, no, extras)
    return jax.tree.map(lambda leaf: leaf.reshape(24, 256, *leaf.shape[1:]), batch)


def by_jacobian(state: Any, batch: Transition, key: Any) -> Any:
    """The gradient of GenPO's loss with the determinant of an automatic Jacobian, as the reference codes take it."""
    sampler = coupled(steps=5)

    def likelihood(field: Any, example: Any, key: Any) -> Any:
        shape = example.extras["pair"].shape
        inverse = lambda flat: sampler.inverse(field, flat.reshape(shape), example.obs).ravel()
        z, jacobian = (
            inverse(example.extras["pair"].ravel()),
            jax.jacrev(inverse)(example.extras["pair"].ravel()),
        )
        return jnp.sum(jax.scipy.stats.norm.logpdf(z)) + jnp.linalg.slogdet(jacobian)[1]

    ratio, gap = batched(clipped(log_ratio(likelihood), eps=0.2)), batched(compression(sampler))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    flat.extras["advantage"] = flat.reward
    loss = lambda field: ratio(field, flat, key)[0] + 0.01 * gap(field, flat, key)[0]
    return jax.grad(loss, allow_int=True)(state.policy)


def compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
    """The compiled function, and the MiB it needs beside its arguments."""
    program = jax.jit(function).lower(*arguments).compile()
    memory: Any = program.memory_analysis()
    return program, memory.temp_size_in_bytes / 2**20


def main() -> None:
    parser = parser_for(__doc__, out="Markdown file for the table")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    key, jobs, memory = jax.random.key(0), {}, {}
    for name, algorithm in methods().items():
        state = jax.jit(lambda key, algorithm=algorithm: algorithm.init(key, SPEC))(key)
        batch = jax.jit(lambda state, key, algorithm=algorithm: rollout(algorithm, state, key))(state, key)
        update, memory[name] = compiled(algorithm.update, state, batch, key)
        act, _ = compiled(acted(algorithm), state, key)
        jobs[name] = (
            lambda update=update, state=state, batch=batch: update(state, batch, key),
            lambda act=act, state=state: act(state, key),
        )
        if name == "genpo, 5 steps":
            reference, memory["genpo by Jacobian"] = compiled(by_jacobian, state, batch, key)
            slow = lambda reference=reference, state=state, batch=batch: reference(state, batch, key)
    taken: dict[str, list[list[float]]] = {name: [[], []] for name in [*jobs, "genpo by Jacobian"]}
    for turn in range(arguments.turns + 1):
        for name, pair in jobs.items():
            for times, job in zip(taken[name], pair, strict=True):
                begun = time.perf_counter()
                jax.block_until_ready(job())
                if turn:  # the first turn warms up
                    times.append(time.perf_counter() - begun)
    # Not in turns: whatever follows the gigabytes that it asks for and gives back is slower.
    for _ in range(3):
        begun = time.perf_counter()
        jax.block_until_ready(slow())
        taken["genpo by Jacobian"][0].append(time.perf_counter() - begun)
    lines = [
        f"Command: `python benchmarks/cost.py`; {jax.devices()[0].device_kind}, {os.cpu_count()} cores, JAX "
        f"{jax.__version__}; {SIZE:,} transitions, 60 observations, 8 actions, networks 3 x 256.",
        "",
        "| method | step, ms | over PPO | memory, MiB | over PPO | acting, ms | over PPO |",
        "|---|---|---|---|---|---|---|",
    ]
    base = taken["ppo"]
    for name, (steps, acts) in taken.items():
        over = [
            statistics.median(a / b for a, b in zip(ours, ppos, strict=False)) if ours else 0.0
            for ours, ppos in zip((steps, acts), base, strict=True)
        ]
        acting = f"{1e3 * statistics.median(acts):.0f} | {over[1]:.1f}" if acts else "- | -"
        lines.append(
            f"| {name} | {1e3 * statistics.median(steps):.0f} | {over[0]:.1f} | {memory[name]:.0f} | "
            f"{memory[name] / memory['ppo']:.2f} | {acting} |"
        )
    print("\n".join(lines))
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
