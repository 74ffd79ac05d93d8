"""The algebra of losses: formulas on arrays, transforms of matching records, ratios, and losses of losses.

The examples begin with these names:

    >>> import dpolicy as dp
    >>> import equinox as eqx
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from dpolicy.losses import *
    >>> from dpolicy.networks import AtomicQ, CategoricalQ, GaussianValue, Points, QuantileValue, SampledValue
    >>> jnp.set_printoptions(precision=3, suppress=True)
    >>> key, obs, action, no = jax.random.key(0), jnp.array([0.5]), jnp.array([0.2, -0.4]), jnp.array(False)
    >>> stored = lambda **extras: dp.Transition(obs, action, jnp.array(1.0), obs, no, no, extras)
    >>> example = stored()
    >>> two = start(example).over(jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([0.5, 0.5]), 2)
    >>> q = lambda obs, action: -jnp.sum(action**2)
    >>> square = lambda model, example, key: (model**2, {"loss": model**2})
    >>> schedule = dp.RectifiedFlow()
    >>> field = dp.FunctionField(lambda x, t, obs: x, schedule=schedule, prediction="velocity", action_size=2)
"""

from dpolicy._batch import batch_max as batch_max
from dpolicy._batch import batch_mean as batch_mean
from dpolicy.losses._candidates import ascend as ascend
from dpolicy.losses._candidates import best as best
from dpolicy.losses._candidates import candidates as candidates
from dpolicy.losses._candidates import gradient_ascent as gradient_ascent
from dpolicy.losses._candidates import jitter as jitter
from dpolicy.losses._candidates import mix as mix
from dpolicy.losses._candidates import stored_actions as stored_actions
from dpolicy.losses._candidates import uniform as uniform
from dpolicy.losses._conservative import conservative as conservative
from dpolicy.losses._entropy import dual as dual
from dpolicy.losses._entropy import entropy as entropy
from dpolicy.losses._entropy import estimated_entropy as estimated_entropy
from dpolicy.losses._entropy import knn_entropy as knn_entropy
from dpolicy.losses._entropy import predicted_entropy as predicted_entropy
from dpolicy.losses._entropy import score_regulariser as score_regulariser
from dpolicy.losses._gae import GAE_DIALECTS as GAE_DIALECTS
from dpolicy.losses._gae import gae as gae
from dpolicy.losses._gae import standardise as standardise
from dpolicy.losses._tilt import linear_weights as linear_weights
from dpolicy.losses._tilt import square_weights as square_weights
from dpolicy.losses._tilt import tilt as tilt
from dpolicy.losses.categorical import categorical_cross_entropy as categorical_cross_entropy
from dpolicy.losses.categorical import categorical_loss as categorical_loss
from dpolicy.losses.categorical import categorical_target as categorical_target
from dpolicy.losses.categorical import onto_atoms as onto_atoms
from dpolicy.losses.categorical import support as support
from dpolicy.losses.categorical import td_target_law as td_target_law
from dpolicy.losses.change import noise_predictions as noise_predictions
from dpolicy.losses.change import prediction_change as prediction_change
from dpolicy.losses.compose import add as add
from dpolicy.losses.compose import averaged as averaged
from dpolicy.losses.compose import batched as batched
from dpolicy.losses.compose import dropping as dropping
from dpolicy.losses.compose import given as given
from dpolicy.losses.compose import on as on
from dpolicy.losses.compose import sharing as sharing
from dpolicy.losses.compose import weighted as weighted
from dpolicy.losses.consistency import consistency_levels as consistency_levels
from dpolicy.losses.consistency import consistency_matching as consistency_matching
from dpolicy.losses.consistency import denoiser_weight as denoiser_weight
from dpolicy.losses.contrast import EnergyForm as EnergyForm
from dpolicy.losses.contrast import contrastive as contrastive
from dpolicy.losses.contrast import energy_matching as energy_matching
from dpolicy.losses.denoising import chain_log_likelihood as chain_log_likelihood
from dpolicy.losses.denoising import clip_schedule as clip_schedule
from dpolicy.losses.denoising import denoising_discounts as denoising_discounts
from dpolicy.losses.directions import match_directions as match_directions
from dpolicy.losses.directions import q_direction as q_direction
from dpolicy.losses.distillation import distil as distil
from dpolicy.losses.distributional import CriticError as CriticError
from dpolicy.losses.distributional import categorical_error as categorical_error
from dpolicy.losses.distributional import hl_gauss as hl_gauss
from dpolicy.losses.distributional import quantile_error as quantile_error
from dpolicy.losses.distributional import quantile_huber as quantile_huber
from dpolicy.losses.embedding import next_embedding as next_embedding
from dpolicy.losses.extraction import cloning as cloning
from dpolicy.losses.extraction import critic_regularised as critic_regularised
from dpolicy.losses.extraction import exponential_advantage as exponential_advantage
from dpolicy.losses.extraction import imitating as imitating
from dpolicy.losses.extraction import noisy_q as noisy_q
from dpolicy.losses.extraction import one_step_draws as one_step_draws
from dpolicy.losses.extraction import one_step_log_likelihood as one_step_log_likelihood
from dpolicy.losses.extraction import trust_region as trust_region
from dpolicy.losses.gaussian_value import GAUSSIAN_FORMS as GAUSSIAN_FORMS
from dpolicy.losses.gaussian_value import gaussian_error as gaussian_error
from dpolicy.losses.gaussian_value import gaussian_value_loss as gaussian_value_loss
from dpolicy.losses.guidance import in_sample_guidance as in_sample_guidance
from dpolicy.losses.invertible import compression as compression
from dpolicy.losses.invertible import exact_log_likelihood as exact_log_likelihood
from dpolicy.losses.match import Chain as Chain
from dpolicy.losses.match import Match as Match
from dpolicy.losses.match import Target as Target
from dpolicy.losses.match import chain as chain
from dpolicy.losses.match import effective_sample_size as effective_sample_size
from dpolicy.losses.match import matching as matching
from dpolicy.losses.match import start as start
from dpolicy.losses.match import weight_kl as weight_kl
from dpolicy.losses.match import weight_metrics as weight_metrics
from dpolicy.losses.mean_flow import mean_flow_matching as mean_flow_matching
from dpolicy.losses.mixture import Mixture as Mixture
from dpolicy.losses.mixture import fit_mixture as fit_mixture
from dpolicy.losses.mixture import gaussian_fit_entropy as gaussian_fit_entropy
from dpolicy.losses.mixture import mixture_entropy as mixture_entropy
from dpolicy.losses.noise import perturb as perturb
from dpolicy.losses.noise import reverse_sample as reverse_sample
from dpolicy.losses.pathwise import bptt as bptt
from dpolicy.losses.pathwise import bptt_of_either as bptt_of_either
from dpolicy.losses.pathwise import denoised as denoised
from dpolicy.losses.pathwise import one_step as one_step
from dpolicy.losses.pathwise import one_step_of_either as one_step_of_either
from dpolicy.losses.pathwise import soft_value as soft_value
from dpolicy.losses.planning import planned_returns as planned_returns
from dpolicy.losses.ratios import LogRatio as LogRatio
from dpolicy.losses.ratios import flow_matching_log_likelihood as flow_matching_log_likelihood
from dpolicy.losses.ratios import flow_matching_log_ratio as flow_matching_log_ratio
from dpolicy.losses.ratios import gaussian_log_likelihood as gaussian_log_likelihood
from dpolicy.losses.ratios import gaussian_log_ratio as gaussian_log_ratio
from dpolicy.losses.ratios import log_ratio as log_ratio
from dpolicy.losses.ratios import log_ratio_from_losses as log_ratio_from_losses
from dpolicy.losses.ratios import ratio_from_losses as ratio_from_losses
from dpolicy.losses.ratios import residual_gaussian_log_likelihood as residual_gaussian_log_likelihood
from dpolicy.losses.ratios import residual_gaussian_log_ratio as residual_gaussian_log_ratio
from dpolicy.losses.ratios import straight_through_clamp as straight_through_clamp
from dpolicy.losses.ratios import tanh_gaussian_log_likelihood as tanh_gaussian_log_likelihood
from dpolicy.losses.ratios import tanh_gaussian_log_ratio as tanh_gaussian_log_ratio
from dpolicy.losses.regularised import OfAdvantage as OfAdvantage
from dpolicy.losses.regularised import exponential_conjugate as exponential_conjugate
from dpolicy.losses.regularised import regularised_value as regularised_value
from dpolicy.losses.regularised import regularised_weight as regularised_weight
from dpolicy.losses.regularised import sparse_conjugate as sparse_conjugate
from dpolicy.losses.regularised import sparse_weight as sparse_weight
from dpolicy.losses.steps import StepValue as StepValue
from dpolicy.losses.steps import step_ascent as step_ascent
from dpolicy.losses.steps import step_regression as step_regression
from dpolicy.losses.steps import step_value as step_value
from dpolicy.losses.surrogates import adaptive_rate as adaptive_rate
from dpolicy.losses.surrogates import aspo as aspo
from dpolicy.losses.surrogates import bounded_advantage as bounded_advantage
from dpolicy.losses.surrogates import clipped as clipped
from dpolicy.losses.surrogates import kl_k1 as kl_k1
from dpolicy.losses.surrogates import kl_k3 as kl_k3
from dpolicy.losses.surrogates import ppo_clip as ppo_clip
from dpolicy.losses.surrogates import spo as spo
from dpolicy.losses.targets import add_q_score as add_q_score
from dpolicy.losses.targets import posterior_mean as posterior_mean
from dpolicy.losses.targets import q_score as q_score
from dpolicy.losses.targets import smoothed_score as smoothed_score
from dpolicy.losses.times import grid_times as grid_times
from dpolicy.losses.times import later_times as later_times
from dpolicy.losses.times import log_logistic_times as log_logistic_times
from dpolicy.losses.times import logit_normal_times as logit_normal_times
from dpolicy.losses.times import power_times as power_times
from dpolicy.losses.times import uniform_times as uniform_times
from dpolicy.losses.truncated import truncated_normal as truncated_normal
from dpolicy.losses.value import bellman as bellman
from dpolicy.losses.value import clipped_value_loss as clipped_value_loss
from dpolicy.losses.value import expectile as expectile
from dpolicy.losses.value import expectile_regression as expectile_regression
from dpolicy.losses.value import expectile_weight as expectile_weight
from dpolicy.losses.value import explained_variance as explained_variance
from dpolicy.losses.value import f_dice_conjugate as f_dice_conjugate
from dpolicy.losses.value import f_dice_weight as f_dice_weight
from dpolicy.losses.value import huber as huber
from dpolicy.losses.value import huber_error as huber_error
from dpolicy.losses.value import reduce_ensemble as reduce_ensemble
from dpolicy.losses.value import softmax_value as softmax_value
from dpolicy.losses.value import td_target as td_target
from dpolicy.losses.value import value_regression as value_regression
from dpolicy.losses.weights import advantage as advantage
from dpolicy.losses.weights import boltzmann as boltzmann
from dpolicy.losses.weights import report as report
from dpolicy.losses.weights import weigh as weigh
