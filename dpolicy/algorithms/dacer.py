"""DACER: a diffusion policy trained through its sampler, whose noise holds its entropy."""

from collections.abc import Callable

from dpolicy.algorithm import Algorithm
from dpolicy.blocks import pathwise
from dpolicy.recipe import composed


@composed(pathwise)
def dacer(make_algorithm: Callable[..., Algorithm], *, noise_in_loss: bool = True) -> Algorithm:
    r"""DACER: ascend Q through the whole chain; noise on the action holds the entropy (arXiv 2405.15177).

    $$ a = \mathrm{clip}(x_0 + c\, \omega z, -1, 1), \qquad L = -\min_i Q_i(s, a), \qquad
       L_\omega = \log\omega\, (\hat H - \bar H), $$

    with x_0 the end of a chain of denoising steps, differentiated through; Q_i the means of Gaussian critics
    (`critic="gaussian"`), whose next action is drawn in the same way by the current actor; H the entropy of a mixture
    fitted to samples of each state. No entropy enters the critics. In evaluation omega is 0.

    The noise is slow: each of its steps moves log omega by about .03, one in 10,000 updates, so a million of them leave
    it above .05 of its start. Fewer `sampler_steps` make a stronger gradient, which shrinks as 1 / N for each step and
    nearly vanishes at the noise (`gradient_steps`, `gradient_norm`).

    As in the code, predictions are clipped and the noise has the posterior's variance, where the paper has neither; the
    critics' loss is the paper's, that of their later code is `critic_form="huber"`. FlowRL's is `schedule="cosine",
    sampler="ddpm", critic_form="huber", critic_hidden=(256, 256), critic_activation="relu", noise_in_loss=False`.
    Other than the code: times are embedded as everywhere here, the entropy is first estimated at update
    `entropy_interval` and not at the first, and evaluation draws a new start at every step. Published runs multiply
    rewards by 0.2 (`reward_scale` of the training program).

    Args:
        sampler_steps: Sampler steps, through all of which the gradient passes.
        noise_in_loss: Whether Q is ascended at the noisy action, as in the code, or at the end of the chain.
    """
    return make_algorithm(name="dacer", noise_in_loss=noise_in_loss)
