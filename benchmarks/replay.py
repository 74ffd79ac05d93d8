"""The library's replay ring beside flashbax's item buffer: adding and sampling inside one compiled loop.

Both hold the same transitions (17 observations, 6 actions), add `--add` of them and draw a batch of 256 per step. The
two take turns; the figure is the median over the turns of flashbax's time divided by ours.

    pip install flashbax && python benchmarks/replay.py
"""

import statistics
import time
from typing import Any

import flashbax
import jax
import jax.numpy as jnp
from command_line import parser_for

from dpolicy._types import Transition
from dpolicy.train.replay import Replay

BATCH, STEPS = 256, 2_000


def loops(capacity: int, add: int) -> dict[str, Any]:
    """Name -> (start, compiled `state -> (state, checksum)`)."""
    no = jnp.asarray(False)
    item = Transition(jnp.zeros(17), jnp.zeros(6), jnp.zeros(()), jnp.zeros(17), no, no)
    rows = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (add, *leaf.shape)), item)

    def ours() -> Any:
        def step(state: Any, key: Any) -> Any:
            state = state.add(rows)
            return state, jnp.sum(state.sample(key, BATCH).reward)

        return Replay.start(item, capacity), step

    def theirs() -> Any:
        buffer = flashbax.make_item_buffer(
            max_length=capacity, min_length=1, sample_batch_size=BATCH, add_batches=True
        )

        def step(state: Any, key: Any) -> Any:
            state = buffer.add(state, rows)
            return state, jnp.sum(buffer.sample(state, key).experience.reward)

        return buffer.init(item), step

    def compiled(start: Any, step: Any) -> Any:
        def loop(state: Any, key: Any) -> Any:
            state, sums = jax.lax.scan(step, state, jax.random.split(key, STEPS))
            return state, jnp.sum(sums)

        return start, jax.jit(loop, donate_argnums=0)

    return {"ours": compiled(*ours()), "flashbax": compiled(*theirs())}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    print("| capacity | added per step | ours, us per step | flashbax, us per step | ratio |")
    print("|---|---|---|---|---|")
    for capacity in (2**16, 2**20):
        for add in (1, 64):
            table = loops(capacity, add)
            states = {name: start for name, (start, _) in table.items()}
            taken: dict[str, list[float]] = {name: [] for name in table}
            for turn in range(arguments.turns + 1):
                for name, (_, loop) in table.items():
                    begun = time.perf_counter()
                    states[name], total = loop(states[name], jax.random.key(turn))
                    jax.block_until_ready(total)
                    if turn:  # the first one compiles
                        taken[name].append((time.perf_counter() - begun) / STEPS * 1e6)
            ratio = statistics.median(b / a for a, b in zip(taken["ours"], taken["flashbax"], strict=True))
            ours, theirs = (statistics.median(taken[name]) for name in ("ours", "flashbax"))
            print(f"| {capacity:,} | {add} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
