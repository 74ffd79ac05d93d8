"""Reinforcement learning with diffusion and flow policies: pure functions that snap together into train steps.

The vocabulary and what is used most of fields, networks and combinators are here; `dpolicy.losses`, `dpolicy.samplers`,
`dpolicy.envs`, `dpolicy.algorithms` and `dpolicy.train` are imported when first used. `dpolicy.load` reads a trained
policy: `dpolicy.train.load_policy`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dpolicy._settings import Count as Count
from dpolicy._settings import Finite as Finite
from dpolicy._settings import Fraction as Fraction
from dpolicy._settings import NonNegative as NonNegative
from dpolicy._settings import Positive as Positive
from dpolicy._settings import Sizes as Sizes
from dpolicy._settings import at_least as at_least
from dpolicy._settings import checked as checked
from dpolicy._settings import one_of as one_of
from dpolicy._settings import within as within
from dpolicy._types import Action as Action
from dpolicy._types import Critic as Critic
from dpolicy._types import Key as Key
from dpolicy._types import Keys as Keys
from dpolicy._types import Loss as Loss
from dpolicy._types import Metrics as Metrics
from dpolicy._types import Mode as Mode
from dpolicy._types import Model as Model
from dpolicy._types import Number as Number
from dpolicy._types import Observation as Observation
from dpolicy._types import Prediction as Prediction
from dpolicy._types import Scalar as Scalar
from dpolicy._types import Transition as Transition
from dpolicy.algorithm import Algorithm as Algorithm
from dpolicy.algorithm import Horizon as Horizon
from dpolicy.algorithm import Memory as Memory
from dpolicy.blocks import FieldPolicy as FieldPolicy
from dpolicy.blocks import acting as acting
from dpolicy.blocks import actor_critic as actor_critic
from dpolicy.blocks import field_policy as field_policy
from dpolicy.blocks import noisy as noisy
from dpolicy.blocks import proximal as proximal
from dpolicy.fields import AbstractField as AbstractField
from dpolicy.fields import AbstractSchedule as AbstractSchedule
from dpolicy.fields import ConsistencyField as ConsistencyField
from dpolicy.fields import CosineVP as CosineVP
from dpolicy.fields import DDPMTable as DDPMTable
from dpolicy.fields import DiscreteVP as DiscreteVP
from dpolicy.fields import Field as Field
from dpolicy.fields import FunctionField as FunctionField
from dpolicy.fields import Karras as Karras
from dpolicy.fields import LinearVP as LinearVP
from dpolicy.fields import MeanField as MeanField
from dpolicy.fields import RectifiedFlow as RectifiedFlow
from dpolicy.fields import Trigonometric as Trigonometric
from dpolicy.fields import VarianceExploding as VarianceExploding
from dpolicy.fields import as_pair as as_pair
from dpolicy.fields import classifier_free as classifier_free
from dpolicy.fields import convert as convert
from dpolicy.fields import cosine_betas as cosine_betas
from dpolicy.fields import ddpm_table as ddpm_table
from dpolicy.fields import express as express
from dpolicy.fields import guided as guided
from dpolicy.fields import linear_betas as linear_betas
from dpolicy.fields import predict_data as predict_data
from dpolicy.fields import predict_noise as predict_noise
from dpolicy.fields import predict_score as predict_score
from dpolicy.fields import predict_velocity as predict_velocity
from dpolicy.learning import over_minibatches as over_minibatches
from dpolicy.networks import MLP as MLP
from dpolicy.networks import Ensemble as Ensemble
from dpolicy.networks import Gaussian as Gaussian
from dpolicy.networks import QNetwork as QNetwork
from dpolicy.networks import ResidualGaussian as ResidualGaussian
from dpolicy.networks import TanhGaussian as TanhGaussian
from dpolicy.networks import TanhMeanGaussian as TanhMeanGaussian
from dpolicy.networks import ValueNetwork as ValueNetwork
from dpolicy.networks import ensemble as ensemble
from dpolicy.networks import gaussian_policy as gaussian_policy
from dpolicy.optimisers import Learner as Learner
from dpolicy.optimisers import adam as adam
from dpolicy.optimisers import descend as descend
from dpolicy.optimisers import ema as ema
from dpolicy.optimisers import learner as learner
from dpolicy.recipe import composed as composed
from dpolicy.recipe import prefixed as prefixed
from dpolicy.recipe import tunable as tunable

if TYPE_CHECKING:
    from dpolicy import algorithms as algorithms
    from dpolicy import audit as audit
    from dpolicy import blocks as blocks
    from dpolicy import data as data
    from dpolicy import envs as envs
    from dpolicy import learning as learning
    from dpolicy import losses as losses
    from dpolicy import modes as modes
    from dpolicy import optimisers as optimisers
    from dpolicy import plots as plots
    from dpolicy import samplers as samplers
    from dpolicy import train as train
    from dpolicy.train.policy import load_policy

    load = load_policy

_PACKAGES = (
    "algorithms",
    "audit",
    "blocks",
    "data",
    "envs",
    "fields",
    "learning",
    "losses",
    "modes",
    "networks",
    "optimisers",
    "plots",
    "samplers",
    "train",
)


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("dpolicy.train").load_policy
    if name in _PACKAGES:
        return importlib.import_module(f"dpolicy.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("dpolicy")
    raise AttributeError(f"module 'dpolicy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES, "load"})
