"""Writes minari.tar.xz beside it, by Minari itself: pip install "minari[hdf5,arrow]" pillow jax; 0.5.4 wrote it."""

import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np


def episode(number, steps, terminates, goals):
    """Observations that count the steps, from ten times the number on; actions from -2 to 2."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    obs = np.float64(10 * number + np.arange(steps + 1))[:, None] + np.zeros((1, 3))
    goal = np.full((steps + 1, 2), 7.0 + number)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        id=number,
        seed=number,
        observations={"achieved_goal": obs[:, :2], "desired_goal": goal, "observation": obs}
        if goals
        else obs,
        actions=np.linspace(-2, 2, 2 * steps).reshape(steps, 2).astype(np.float32),
        rewards=[float(10 * number + step) for step in range(steps)],
        terminations=list(last & terminates),
        truncations=list(last & (not terminates)),
    )


def main():
    """An episode of four steps that terminates and one of three that is truncated, in four sets."""
    import gymnasium
    import minari

    box = gymnasium.spaces.Box
    numbers = lambda size: box(-np.inf, np.inf, (size,), np.float64)
    goals = {"achieved_goal": numbers(2), "desired_goal": numbers(2), "observation": numbers(3)}
    for name, form in {"plain": "hdf5", "goals": "hdf5", "arrow": "arrow", "parquet": "parquet"}.items():
        nested = name in ("goals", "arrow")
        minari.create_dataset_from_buffers(
            f"tiny/{name}-v0",
            [episode(0, 4, True, nested), episode(1, 3, False, nested)],
            observation_space=gymnasium.spaces.Dict(goals) if nested else numbers(3),
            action_space=box(-2.0, 2.0, (2,), np.float32),
            data_format=form,
            algorithm_name="none",
            author="dpolicy",
            author_email="none",
            code_permalink="none",
            requirements=[],
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        main()
        with tarfile.open(Path(__file__).with_name("minari.tar.xz"), "w:xz") as archive:
            archive.add(f"{folder}/tiny", "tiny")
