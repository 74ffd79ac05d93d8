"""Fields: noise schedules, the networks and functions that predict along them, guidance, embeddings of the time.

The times that a field takes run from the action, t = 0, to noise, t = 1.
"""

from dpolicy.fields._consistency import ConsistencyField as ConsistencyField
from dpolicy.fields._consistency import clip_inward as clip_inward
from dpolicy.fields._consistency import consistency_scalings as consistency_scalings
from dpolicy.fields._control import LangevinControl as LangevinControl
from dpolicy.fields._discrete import DDPMTable as DDPMTable
from dpolicy.fields._discrete import DiscreteVP as DiscreteVP
from dpolicy.fields._discrete import cosine_betas as cosine_betas
from dpolicy.fields._discrete import ddpm_table as ddpm_table
from dpolicy.fields._discrete import linear_betas as linear_betas
from dpolicy.fields._embeddings import EMBEDDINGS as EMBEDDINGS
from dpolicy.fields._embeddings import AbstractEmbedding as AbstractEmbedding
from dpolicy.fields._embeddings import CosSin as CosSin
from dpolicy.fields._embeddings import LearnableFourier as LearnableFourier
from dpolicy.fields._embeddings import LogSNR as LogSNR
from dpolicy.fields._embeddings import Phased as Phased
from dpolicy.fields._embeddings import Projected as Projected
from dpolicy.fields._embeddings import RandomFourier as RandomFourier
from dpolicy.fields._embeddings import Raw as Raw
from dpolicy.fields._embeddings import Sinusoidal as Sinusoidal
from dpolicy.fields._embeddings import make_embedding as make_embedding
from dpolicy.fields._energy import EnergyNetwork as EnergyNetwork
from dpolicy.fields._field import Field as Field
from dpolicy.fields._field import FunctionField as FunctionField
from dpolicy.fields._guidance import ClassifierFree as ClassifierFree
from dpolicy.fields._guidance import Energy as Energy
from dpolicy.fields._guidance import Guided as Guided
from dpolicy.fields._guidance import Scale as Scale
from dpolicy.fields._guidance import classifier_free as classifier_free
from dpolicy.fields._guidance import guided as guided
from dpolicy.fields._guidance import shift_score as shift_score
from dpolicy.fields._mean_field import MeanField as MeanField
from dpolicy.fields._predictions import PREDICTIONS as PREDICTIONS
from dpolicy.fields._predictions import AbstractField as AbstractField
from dpolicy.fields._predictions import as_pair as as_pair
from dpolicy.fields._predictions import convert as convert
from dpolicy.fields._predictions import express as express
from dpolicy.fields._predictions import predict as predict
from dpolicy.fields._predictions import predict_data as predict_data
from dpolicy.fields._predictions import predict_noise as predict_noise
from dpolicy.fields._predictions import predict_score as predict_score
from dpolicy.fields._predictions import predict_velocity as predict_velocity
from dpolicy.fields._schedule import AbstractSchedule as AbstractSchedule
from dpolicy.fields._schedules import CosineVP as CosineVP
from dpolicy.fields._schedules import Karras as Karras
from dpolicy.fields._schedules import LinearVP as LinearVP
from dpolicy.fields._schedules import RectifiedFlow as RectifiedFlow
from dpolicy.fields._schedules import Trigonometric as Trigonometric
from dpolicy.fields._schedules import VarianceExploding as VarianceExploding
