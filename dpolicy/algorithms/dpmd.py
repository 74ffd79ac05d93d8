"""Diffusion policy mirror descent."""

from collections.abc import Callable

from dpolicy._settings import Count
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, field_policy, mirror_descent
from dpolicy.losses import matching
from dpolicy.recipe import composed


@composed(
    field_policy,
    mirror_descent,
    sampler="ddpm_posterior",
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
)
def dpmd(
    make_field: Callable[..., FieldPolicy],
    descend: Callable[..., Algorithm],
    *,
    evaluation_candidates: Count = 32,
) -> Algorithm:
    """Diffusion policy mirror descent: fit the current policy's actions, weighted by exp(Q/lambda) (arXiv 2502.00361).

    One action per state, the critic's own next action (`noisy_best`: the best of several samples, plus noise whose
    deviation is learned), is noised and weighted: `mirror_descent` says how. The optimum
    of one step is proportional to pi_old exp(Q / lambda); entropy decays over steps but for the added noise, whose
    learned factor is lambda too.

    The paper scales rewards by 0.2 (`reward_scale` of the training program) and lowers the actor's rate to a tenth
    between its steps 25 000 and 75 000, one at every second update (`decay_updates=100_000, decay_start=50_000,
    decay_share=0.1`). Its code has `schedule="discrete_linear"` and trains at the sampler's 20 times, where t is
    continuous here; it also evaluates Q - M / R in place of (Q - M) / R and takes the critic's step twice, which are
    not done here. FlowRL's DPMD, many samples of a frozen policy with a temperature that holds a divergence, is
    `gempo(weight="exponential")`.

    Args:
        evaluation_candidates: Evaluation acts by the best of this many samples under the critic.
    """
    policy = make_field(initial_scale=0.5)
    return descend(
        name="dpmd", policy=policy, evaluate=policy.best(evaluation_candidates), regression=matching
    )
