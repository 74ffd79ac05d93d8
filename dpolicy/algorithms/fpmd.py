"""Flow policy mirror descent."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from dpolicy._settings import Count, Fraction
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, field_policy, mirror_descent
from dpolicy.losses import matching, mean_flow_matching
from dpolicy.recipe import composed
from dpolicy.samplers import mean_flow, ode


@composed(
    field_policy,
    mirror_descent,
    schedule="rectified_flow",
    prediction="velocity",
    sampler="euler",
    temperature=3.0,
    q_clip=None,
    target_entropy_scale=1.5,
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
)
def fpmd(
    make_field: Callable[..., FieldPolicy],
    descend: Callable[..., Algorithm],
    *,
    variant: Literal["rectified_flow", "mean_flow"] = "rectified_flow",
    sampler_steps: Count | None = None,
    equal_share: Fraction | None = None,
    evaluation_candidates: Count = 1,
) -> Algorithm:
    """Flow policy mirror descent: DPMD with a flow, which acts by one step once trained (arXiv 2507.23675).

    Evaluation takes ONE step from x_1 = 0. For `rectified_flow` (FPMD-R) that is the mean of the policy, near it where
    the policy is narrow and between its modes where it has several; `mean_flow` (FPMD-M) fits the average velocity,
    for which one step is the whole path. Otherwise as `dpmd`, with weights exp(Q / (R lambda)) and noise on every
    candidate before the best is chosen. The first version of the method weighs as DPMD does, temperature=None,
    q_clip=3, target_entropy_scale=.9, and adds the noise after the choice, unclipped, which is not an option here.

    Args:
        variant: rectified_flow or mean_flow.
        sampler_steps: Sampler steps while it learns; 20 for rectified_flow and 1 for mean_flow unless given.
        sampler: euler, heun, sde, ddpm, ddpm_posterior, ddim or dpm_solver; a mean_flow has its own steps: euler alone.
        equal_share: Probability of r = t in the MeanFlow loss; 0.1 unless given, for mean_flow only.
        evaluation_candidates: Evaluation acts by the best of this many samples; 1 for the single step from zero.
    """
    average = variant == "mean_flow"
    if equal_share is not None and not average:
        raise ValueError(f"equal_share needs variant mean_flow, got {equal_share!r} for {variant}.")
    steps = (1 if average else 20) if sampler_steps is None else sampler_steps
    policy = make_field(sampler_steps=steps, average=average, initial_scale=0.5)
    single = policy._replace(sample=(mean_flow if average else ode)(steps=1, clip=1.0, initial="zero"))

    share = 0.1 if equal_share is None else equal_share
    return descend(
        name="fpmd",
        policy=policy,
        evaluate=single.act if evaluation_candidates == 1 else policy.best(evaluation_candidates),
        regression=partial(mean_flow_matching, equal_share=share) if average else matching,
        noisy_candidates=True,
        times="later" if average else "uniform",
    )
