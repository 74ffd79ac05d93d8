"""Published settings of the review of online diffusion-policy RL (arXiv 2601.06133): IsaacLab, both families."""

from typing import Any

from dpolicy.presets._preset import Preset, Table, joined

# Review (arXiv 2601.06133), tables 9 to 11, PPO and GenPO alike: rate, widths, rollout, epochs, minibatches, KL target,
# entropy, value coefficient, discount.
_TASKS: dict[str, tuple[float, tuple[int, ...], int, int, int, float, float, float, float]] = {
    "Isaac-Cartpole*": (3e-4, (32, 32), 16, 8, 8, 0.008, 0.0, 2.0, 0.99),
    "Isaac-Ant*": (3e-4, (256, 128, 64), 16, 4, 2, 0.008, 0.0, 1.0, 0.99),
    "Isaac-Humanoid*": (5e-4, (400, 200, 100), 32, 5, 4, 0.01, 0.0, 2.0, 0.99),
    "Isaac-Lift-Cube-Franka*": (1e-4, (256, 128, 64), 24, 8, 4, 0.01, 0.001, 2.0, 0.99),
    "Isaac-Open-Drawer-Franka*": (5e-4, (256, 128, 64), 96, 5, 96, 0.008, 0.001, 2.0, 0.99),
    "Isaac-Repose-Cube-Allegro*": (5e-4, (512, 256, 128), 24, 5, 12, 0.016, 0.002, 2.0, 0.998),
    "Isaac-Velocity-Flat-Anymal-D*": (1e-3, (128, 128, 128), 24, 5, 4, 0.01, 0.005, 1.0, 0.99),
    "Isaac-Velocity-Flat-Spot*": (1e-3, (512, 256, 128), 24, 5, 4, 0.01, 0.0025, 0.5, 0.99),
    "Isaac-Velocity-*-Unitree-Go2*": (1e-3, (512, 256, 128), 24, 5, 4, 0.01, 0.01, 1.0, 0.99),
    "Isaac-Velocity-*-G1*": (1e-3, (512, 256, 128), 24, 5, 4, 0.01, 0.008, 1.0, 0.99),
    "Isaac-Velocity-*-H1*": (1e-3, (512, 256, 128), 24, 5, 4, 0.01, 0.01, 1.0, 0.995),
    "Isaac-Velocity-*-Cassie*": (1e-3, (512, 256, 128), 24, 5, 4, 0.01, 0.01, 1.0, 0.99),
}


def _on_policy() -> Table:
    table: Table = {"ppo": [], "genpo": []}
    for task, (
        rate,
        widths,
        rollout,
        epochs,
        minibatches,
        kl,
        entropy,
        value,
        discount,
    ) in _TASKS.items():
        shared: dict[str, Any] = {
            "num_envs": 1024,
            "steps": 1_000 * 1024 * rollout,  # not given
            "learning_rate": rate,
            "hidden": widths,
            "value_hidden": widths,
            "rollout": rollout,
            "epochs": epochs,
            "minibatches": minibatches,
            "target_kl": kl,
            "value_coefficient": value,
            "discount": discount,
            "trace": 0.95,
            "clip": 0.2,
            "value_clip": 0.2,
            "max_grad_norm": 1.0,
        }
        source = "review, arXiv 2601.06133, tables 10 and 11"
        pattern = f"isaaclab/{task}"
        table["ppo"].append((pattern, Preset({**shared, "entropy_coefficient": entropy}, source, "review")))
        genpo = {**shared, "mixing": 0.9, "compression_coefficient": 0.01}
        table["genpo"].append((pattern, Preset(genpo, source.replace("10", "9, 10"), "review")))
    return table


def _off_policy() -> Table:
    """Tables 9, 10 and 12.

    Its replay holds one batch, four steps of 1,024 environments, as its table says; steps are not given.
    """
    own: dict[str, dict[str, Any]] = {
        "sac": {},
        "dipo": {"sampler_steps": 100, "ascent_steps": 20, "ascent_rate": 0.03},
        "qvpo": {
            "sampler_steps": 20,
            "candidates": 64,
            "uniform_candidates": 10,
            "uniform_weight": 0.02,
            "final_uniform_weight": 0.02,
        },
    }
    table: Table = {}
    for task, (rate, widths, *_, discount) in _TASKS.items():
        shared: dict[str, Any] = {
            "num_envs": 1024,
            "steps": 24_000 * 1024,  # not given; as long as its on-policy runs here
            "batch_size": 4096,
            "replay_size": 4096,
            "warmup": 4 * 1024,
            "evaluation_interval": 1_000 * 1024,
            "learning_rate": rate,
            "critic_learning_rate": rate,
            "hidden": widths,
            "critic_hidden": widths,
            "discount": discount,
            "target_rate": 0.005,
            "max_grad_norm": 1.0,
        }
        for algorithm, settings in own.items():
            tables = "10 and 12" if algorithm == "sac" else "9, 10 and 12"
            chosen = Preset(shared | settings, f"review, arXiv 2601.06133, tables {tables}", "review")
            table.setdefault(algorithm, []).append((f"isaaclab/{task}", chosen))
    return table


PUBLISHED = joined(_on_policy(), _off_policy())
