"""Networks: perceptrons over several inputs, ensembles of them, critics, deterministic and Gaussian policies.

Modules hold arrays as leaves and everything else as static structure, so that they pass through `jax.jit`,
`vmap` and checkpoints as they are.
"""

from dpolicy.networks._activations import ACTIVATIONS as ACTIVATIONS
from dpolicy.networks._activations import Activation as Activation
from dpolicy.networks._activations import elu as elu
from dpolicy.networks._activations import mish as mish
from dpolicy.networks._backbones import BACKBONES as BACKBONES
from dpolicy.networks._backbones import Backbone as Backbone
from dpolicy.networks._backbones import BroNet as BroNet
from dpolicy.networks._backbones import SimBa as SimBa
from dpolicy.networks._backbones import check_blocks as check_blocks
from dpolicy.networks._backbones import on_backbone as on_backbone
from dpolicy.networks._batch_renorm import BatchRenorm as BatchRenorm
from dpolicy.networks._batch_renorm import RenormMLP as RenormMLP
from dpolicy.networks._batch_renorm import renormalised as renormalised
from dpolicy.networks._critics import AtomicQ as AtomicQ
from dpolicy.networks._critics import CategoricalQ as CategoricalQ
from dpolicy.networks._critics import GaussianQ as GaussianQ
from dpolicy.networks._critics import QNetwork as QNetwork
from dpolicy.networks._critics import QuantileQ as QuantileQ
from dpolicy.networks._critics import ValueNetwork as ValueNetwork
from dpolicy.networks._embedded import EmbeddedDeterministic as EmbeddedDeterministic
from dpolicy.networks._embedded import EmbeddedQ as EmbeddedQ
from dpolicy.networks._embedded import Seeing as Seeing
from dpolicy.networks._embedded import StateActionEncoder as StateActionEncoder
from dpolicy.networks._embedded import avg_l1_norm as avg_l1_norm
from dpolicy.networks._ensemble import Ensemble as Ensemble
from dpolicy.networks._ensemble import ensemble as ensemble
from dpolicy.networks._flash_net import FlashNet as FlashNet
from dpolicy.networks._gaussian import gaussian_entropy as gaussian_entropy
from dpolicy.networks._gaussian import gaussian_kl as gaussian_kl
from dpolicy.networks._gaussian import gaussian_log_prob as gaussian_log_prob
from dpolicy.networks._gaussian import tanh_log_det as tanh_log_det
from dpolicy.networks._laws import CategoricalValue as CategoricalValue
from dpolicy.networks._laws import GaussianValue as GaussianValue
from dpolicy.networks._laws import Points as Points
from dpolicy.networks._laws import QuantileValue as QuantileValue
from dpolicy.networks._laws import ReturnLaw as ReturnLaw
from dpolicy.networks._laws import SampledValue as SampledValue
from dpolicy.networks._laws import mean_of as mean_of
from dpolicy.networks._layers import INITIALISATIONS as INITIALISATIONS
from dpolicy.networks._layers import Fixed as Fixed
from dpolicy.networks._layers import Initialisation as Initialisation
from dpolicy.networks._layers import LayerNorm as LayerNorm
from dpolicy.networks._layers import Linear as Linear
from dpolicy.networks._layers import nearest_orthogonal as nearest_orthogonal
from dpolicy.networks._mlp import MLP as MLP
from dpolicy.networks._policies import WIDTHS as WIDTHS
from dpolicy.networks._policies import Gaussian as Gaussian
from dpolicy.networks._policies import ResidualGaussian as ResidualGaussian
from dpolicy.networks._policies import TanhDeterministic as TanhDeterministic
from dpolicy.networks._policies import TanhGaussian as TanhGaussian
from dpolicy.networks._policies import gaussian_policy as gaussian_policy
from dpolicy.networks._unit_rows import unit_rows as unit_rows
