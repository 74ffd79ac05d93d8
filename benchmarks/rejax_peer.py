"""One training program of rejax, timed. Run by `rejax_speed.py` with an interpreter that has rejax.

python rejax_peer.py sac 3 '{"learning_rate": 0.0003}'
"""

import json
import sys
import time
from typing import Any


def timed(run: Any, calls: int) -> dict[str, float]:
    """Seconds to compile `run(key)`, and the least that one of some calls takes: by the clock and of processors."""
    import jax

    begun = time.perf_counter()
    compiled = run.lower(jax.random.key(0)).compile()
    seconds = time.perf_counter() - begun
    clock, processors = [], []
    for i in range(calls + 1):
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(jax.random.key(i)))
        clock.append(time.perf_counter() - before[0])
        processors.append(time.process_time() - before[1])
    return {"compile": seconds, "seconds": min(clock[1:]), "processors": min(processors[1:])}


def main() -> None:
    import jax
    from rejax import PPO, SAC  # pyright: ignore[reportMissingImports]
    from rejax.evaluate import evaluate  # pyright: ignore[reportMissingImports]

    def episode(algorithm: Any, state: Any, key: Any) -> Any:
        """One of 200 steps, as dpolicy's programs play; rejax' own evaluation is 128 of them."""
        act = algorithm.make_act(state)
        return evaluate(act, key, algorithm.env, algorithm.env_params, 1, 200)

    name, calls, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    algorithm = {"sac": SAC, "ppo": PPO}[name].create(env="Pendulum-v1", **settings)
    algorithm = algorithm.replace(eval_callback=episode)
    print(json.dumps(timed(jax.jit(lambda key: jax.tree.leaves(algorithm.train(key))), calls)))


if __name__ == "__main__":
    main()
