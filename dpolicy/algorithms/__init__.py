"""Every algorithm of the library: a recipe (a function whose keyword arguments are its hyperparameters) and its place.

Adding one touches its own file, its test and one line of `ALGORITHMS`.
"""

from collections.abc import Callable
from typing import NamedTuple

from dpolicy.algorithm import Algorithm, Family
from dpolicy.algorithms.bc import bc as bc
from dpolicy.algorithms.bdpo import bdpo as bdpo
from dpolicy.algorithms.bro import bro as bro
from dpolicy.algorithms.consistency_ac import consistency_ac as consistency_ac
from dpolicy.algorithms.cpql import cpql as cpql
from dpolicy.algorithms.crossq import crossq as crossq
from dpolicy.algorithms.dac import dac as dac
from dpolicy.algorithms.dacer import dacer as dacer
from dpolicy.algorithms.dacerv2 import dacerv2 as dacerv2
from dpolicy.algorithms.ddiffpg import ddiffpg as ddiffpg
from dpolicy.algorithms.ddpg import ddpg as ddpg
from dpolicy.algorithms.diffusion_dice import diffusion_dice as diffusion_dice
from dpolicy.algorithms.diffusion_ql import diffusion_ql as diffusion_ql
from dpolicy.algorithms.dime import dime as dime
from dpolicy.algorithms.dipo import dipo as dipo
from dpolicy.algorithms.dp_cppo import dp_cppo as dp_cppo
from dpolicy.algorithms.dpmd import dpmd as dpmd
from dpolicy.algorithms.dppo import dppo as dppo
from dpolicy.algorithms.dps import dps as dps
from dpolicy.algorithms.dsac_d import dsac_d as dsac_d
from dpolicy.algorithms.dsac_t import dsac_t as dsac_t
from dpolicy.algorithms.dtql import dtql as dtql
from dpolicy.algorithms.edp import edp as edp
from dpolicy.algorithms.edp_crr import edp_crr as edp_crr
from dpolicy.algorithms.edp_iql import edp_iql as edp_iql
from dpolicy.algorithms.eql import eql as eql
from dpolicy.algorithms.fast_sac import fast_sac as fast_sac
from dpolicy.algorithms.fast_td3 import fast_td3 as fast_td3
from dpolicy.algorithms.flash_sac import flash_sac as flash_sac
from dpolicy.algorithms.fpmd import fpmd as fpmd
from dpolicy.algorithms.fpo import fpo as fpo
from dpolicy.algorithms.fpopp import fpopp as fpopp
from dpolicy.algorithms.fql import fql as fql
from dpolicy.algorithms.gempo import gempo as gempo
from dpolicy.algorithms.genpo import genpo as genpo
from dpolicy.algorithms.idem import idem as idem
from dpolicy.algorithms.idql import idql as idql
from dpolicy.algorithms.ifql import ifql as ifql
from dpolicy.algorithms.iql import iql as iql
from dpolicy.algorithms.maxentdp import maxentdp as maxentdp
from dpolicy.algorithms.pa_rl import pa_rl as pa_rl
from dpolicy.algorithms.ppo import ppo as ppo
from dpolicy.algorithms.qgpo import qgpo as qgpo
from dpolicy.algorithms.qipo import qipo as qipo
from dpolicy.algorithms.qsm import qsm as qsm
from dpolicy.algorithms.qvpo import qvpo as qvpo
from dpolicy.algorithms.rebrac import rebrac as rebrac
from dpolicy.algorithms.sac import sac as sac
from dpolicy.algorithms.sdac import sdac as sdac
from dpolicy.algorithms.sfbc import sfbc as sfbc
from dpolicy.algorithms.sql import sql as sql
from dpolicy.algorithms.td3 import td3 as td3
from dpolicy.algorithms.td3_bc import td3_bc as td3_bc
from dpolicy.algorithms.td7 import td7 as td7


class Entry(NamedTuple):
    """A row of the taxonomy: how a method is guided, by what reference, and from which blocks it is made."""

    recipe: Callable[..., Algorithm]
    family: Family
    guidance: str
    reference: str
    transforms: str
    sampler: str
    critic: str
    selection: str
    source: str

    @property
    def summary(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.recipe.__doc__ or "").strip().splitlines()[0]


# fmt: off
ALGORITHMS: dict[str, Entry] = {
    # name             recipe   family        guidance              reference   transforms                                                  sampler  critic              selection                  source
    "bc": Entry(       bc,      "offline",    "none",               "data",     "perturb",                                                  "Euler", "none",             "one sample",              "arXiv 2210.02747"),
    "iql": Entry(      iql,     "offline",    "weighted matching",  "data",     "none (Gaussian; likelihood weighed by exp(advantage))",    "exact", "twin Q, expectile V", "sample / mode",        "arXiv 2110.06169"),
    "sql": Entry(      sql,     "offline",    "weighted matching",  "data",     "none (Gaussian; likelihood weighed by max(1 + advantage / 2, 0))", "exact", "twin Q, V of the sparse regulariser", "sample / mode", "arXiv 2303.15810"),
    "eql": Entry(      eql,     "offline",    "weighted matching",  "data",     "none (Gaussian; likelihood weighed by exp(advantage))",    "exact", "twin Q, soft V",      "sample / mode",           "arXiv 2303.15810"),
    "idql": Entry(     idql,    "offline",    "best of N",          "data",     "perturb",                                                  "DDPM",  "twin Q, expectile V", "best of 64",           "arXiv 2304.10573"),
    "sfbc": Entry(     sfbc,    "offline",    "best of N",          "data",     "perturb",                                                  "DPM++", "one Q of planned returns", "softmax of 32",   "arXiv 2209.14548"),
    "ifql": Entry(     ifql,    "offline",    "best of N",          "data",     "perturb",                                                  "Euler", "twin Q, expectile V", "best of 32",           "arXiv 2502.02538"),
    "diffusion_ql": Entry(diffusion_ql, "offline", "reparameterisation", "data", "perturb; bptt_of_either",                                 "DDPM",  "twin Q",           "softmax of 50",           "arXiv 2208.06193"),
    "edp": Entry(      edp,     "offline",    "reparameterisation", "data",     "perturb; one_step_of_either",                              "DPM++",  "twin Q",           "softmax of 10",           "arXiv 2305.20081"),
    "edp_crr": Entry(  edp_crr, "offline",    "weighted matching",  "data",     "perturb; likelihood of one step, weighed by exp(Q - mean Q)",                   "DPM++",  "twin Q",           "softmax of 10",           "arXiv 2305.20081"),
    "edp_iql": Entry(  edp_iql, "offline",    "weighted matching",  "data",     "perturb; likelihood of one step, weighed by exp(advantage)", "DPM++", "twin Q, expectile V", "softmax of 10",       "arXiv 2305.20081"),
    "dac": Entry(      dac,     "offline",    "Q-value guidance",   "data",     "perturb; noisy_q",                                         "DDPM",  "10 Q, lower bound", "best of 10",             "arXiv 2405.20555"),
    "qgpo": Entry(     qgpo,    "offline",    "Q-value guidance",   "data",     "perturb; energy_matching",                                 "DPM++, guided", "twin Q, in support", "one sample",       "arXiv 2304.12824"),
    "qipo": Entry(     qipo,    "offline",    "weighted matching",  "data, then the policy", "stored_actions, boltzmann, perturb",          "Heun",  "twin Q, in support",  "one sample",              "arXiv 2503.04975"),
    "bdpo": Entry(     bdpo,    "offline",    "reparameterisation", "data",     "perturb; one reverse step, divergence of paths",           "DDPM",  "10 Q and step values, lower bound", "best of 10", "arXiv 2502.04778"),
    "diffusion_dice": Entry(diffusion_dice, "offline", "Q-value guidance", "data", "perturb; then weigh, perturb, in_sample_guidance",       "DPM++, guided", "twin Q, f-divergence V", "best of 10, guided", "arXiv 2407.20109"),
    "fql": Entry(      fql,     "offline",    "reparameterisation", "data",     "perturb; distil",                                          "one step", "twin Q",        "one sample",              "arXiv 2502.02538"),
    "dtql": Entry(     dtql,    "offline",    "reparameterisation", "data",     "none (squashed Gaussian); perturb at its actions: trust_region", "exact", "twin Q, expectile V", "one sample / softmax of 1024", "arXiv 2405.19690"),
    "pa_rl": Entry(    pa_rl,   "offline",    "action gradient",    "data",     "perturb, of the best candidates moved up Q",               "DDPM",  "10 HL-Gauss Q, Cal-QL", "best of 32, 10 of them moved up Q", "arXiv 2412.06685"),
    "td3_bc": Entry(   td3_bc,  "offline",    "reparameterisation", "data",     "none (deterministic; distance from the data)",             "exact", "twin Q, smoothed", "noisy / mode",            "arXiv 2106.06860"),
    "rebrac": Entry(   rebrac,  "offline",    "reparameterisation", "data",     "none (deterministic; distance from the data)",             "exact", "twin Q, smoothed, charged for the distance", "noisy / mode", "arXiv 2305.09836"),
    "sac": Entry(      sac,     "off_policy", "reparameterisation", "uniform",  "none (squashed Gaussian)",                                 "exact", "twin Q, soft",     "sample / mode",           "arXiv 1812.05905"),
    "ddpg": Entry(     ddpg,    "off_policy", "reparameterisation", "none",     "none (deterministic)",                                     "exact", "one Q",            "noisy / mode",            "arXiv 1509.02971"),
    "td3": Entry(      td3,     "off_policy", "reparameterisation", "none",     "none (deterministic)",                                     "exact", "twin Q, smoothed", "noisy / mode",            "arXiv 1802.09477"),
    "td7": Entry(      td7,     "off_policy", "reparameterisation", "none",     "none (deterministic, of embeddings)",                      "exact", "twin Q of embeddings, smoothed, clipped, prioritised", "noisy / mode of the checkpoint", "arXiv 2306.02451"),
    "fast_td3": Entry(fast_td3, "off_policy", "reparameterisation", "uniform", "none (deterministic)",                                     "exact", "twin C51, smoothed", "noise by environment / mode", "arXiv 2505.22642"),
    "fast_sac": Entry(fast_sac, "off_policy", "reparameterisation", "uniform", "none (squashed Gaussian)",                                 "exact", "mean of two C51, soft, layer norm", "sample / mode", "arXiv 2512.01996"),
    "flash_sac": Entry(flash_sac, "off_policy", "reparameterisation", "uniform", "none (squashed Gaussian)",                               "exact", "twin C51, soft, batch norm, unit rows", "sample, noise repeated / mode", "arXiv 2604.04539"),
    "crossq": Entry(   crossq,  "off_policy", "reparameterisation", "uniform",  "none (squashed Gaussian)",                                 "exact", "twin Q, soft, batch renormalisation, no target", "sample / mode", "arXiv 1902.05605"),
    "dsac_t": Entry(   dsac_t,  "off_policy", "reparameterisation", "uniform",  "none (squashed Gaussian)",                                 "exact", "twin Gaussian Q, soft", "sample / mode",       "arXiv 2310.05858"),
    "bro": Entry(      bro,     "off_policy", "reparameterisation", "uniform",  "none (squashed Gaussian)",                                 "exact", "mean of two quantile Q, soft, BroNet, resets", "optimistic explorer / mode", "arXiv 2405.16158"),
    "sdac": Entry(     sdac,    "off_policy", "weighted matching",  "uniform",  "perturb, reverse_sample, boltzmann",                       "DDPM",  "twin Q",           "one sample / best of 10", "arXiv 2502.00361"),
    "qsm": Entry(      qsm,     "off_policy", "Q-value guidance",   "uniform",  "perturb, q_score",                                         "DDPM",  "twin Q",           "noisy / best of 10",      "arXiv 2312.11752"),
    "idem": Entry(     idem,     "off_policy", "Q-value guidance",   "uniform",  "perturb, reverse_sample, smoothed_score",                          "DDPM",    "twin Q",             "noisy / best of 10",            "arXiv 2402.06121"),
    "dps": Entry(      dps,      "off_policy", "Q-value guidance",   "uniform",  "perturb, reverse_sample, smoothed_score; annealed",                "SDE",     "twin Q",             "one sample",                    "arXiv 2410.01312"),
    "maxentdp": Entry( maxentdp, "off_policy", "weighted matching",  "uniform",  "perturb, reverse_sample, boltzmann, posterior_mean",               "DDPM",    "twin Q, soft",       "one sample / best of 10",       "arXiv 2502.11612"),
    "qvpo": Entry(     qvpo,     "off_policy", "weighted matching",  "uniform",  "candidates, advantage, best, mix uniform, perturb",                "DDPM",    "twin Q, best of 4",  "best of 4 / best of 32",        "arXiv 2405.16173"),
    "dpmd": Entry(     dpmd,     "off_policy", "weighted matching",  "previous", "next action, boltzmann (running statistics), perturb",             "DDPM",    "twin Q, best of 32", "noisy best of 32 / best of 32", "arXiv 2502.00361"),
    "fpmd": Entry(     fpmd,     "off_policy", "weighted matching",  "previous", "next action, boltzmann (running statistics), perturb or MeanFlow", "Euler",   "twin Q, best of 32", "noisy best of 32 / one step",   "arXiv 2507.23675"),
    "gempo": Entry(    gempo,    "off_policy", "weighted matching",  "previous", "candidates, jitter, tilt, perturb",                                "DDPM",    "twin Q",             "one sample / best of 10",       "arXiv 2603.10250"),
    "dipo": Entry(     dipo,    "off_policy", "action gradient",    "replay",   "ascend (kept in the replay), perturb",                     "DDPM",  "twin Q",           "one sample / quiet chain", "arXiv 2305.13122"),
    "ddiffpg": Entry(  ddiffpg, "off_policy", "action gradient",    "replay",   "ascend by mode (kept in the replay), even batch, perturb",    "DDPM",  "twin C51 per mode, intrinsic reward", "noisy, z_0 or z = 0 / z = 0 or a mode", "arXiv 2406.00681"),
    "dacer": Entry(    dacer,   "off_policy", "reparameterisation", "uniform",  "none (through the sampler)",                               "DDPM",  "twin Gaussian Q",  "noisy, noise by entropy / one sample", "arXiv 2405.15177"),
    "dacerv2": Entry(  dacerv2, "off_policy", "reparameterisation", "uniform",  "none (through the sampler), directions of Q along it",     "DDPM",  "twin Gaussian Q",  "noisy, noise by entropy / one sample", "arXiv 2505.23426"),
    "cpql": Entry(     cpql,    "off_policy", "reparameterisation", "replay",   "perturb, and none (through one step)",                     "one step", "twin Q",        "one of 50 by softmax",    "arXiv 2310.06343"),
    "dsac_d": Entry(   dsac_d,  "off_policy", "reparameterisation", "uniform",  "none (through two chains)",                                "DDPM",  "twin diffusions of the return", "noisy, noise by entropy / one sample", "arXiv 2507.01381"),
    "dime": Entry(     dime,    "off_policy", "reparameterisation", "uniform",  "none (through the sampler), cost of the path",             "Langevin", "twin C51, soft, batch renormalisation, no target", "one sample", "arXiv 2502.02316"),
    "consistency_ac": Entry(consistency_ac, "off_policy", "reparameterisation", "none", "none (through the sampler)",                      "5 steps", "twin Q",         "random, or one of 50 by softmax / one of 50", "arXiv 2309.16984"),
    "ppo": Entry(      ppo,     "on_policy",  "policy gradient",    "previous", "clipped Gaussian ratio",                                   "exact", "V, GAE",           "sample / mode",           "arXiv 1707.06347"),
    "fpo": Entry(      fpo,     "on_policy",  "policy gradient",    "previous", "clipped flow-matching ratio: perturb",                     "Euler", "V, GAE",           "one sample",              "arXiv 2507.21053"),
    "fpopp": Entry(    fpopp,   "on_policy",  "policy gradient",    "previous", "clipped flow-matching ratio per draw: perturb",            "Euler", "V, GAE",           "zero start, EMA",         "arXiv 2602.02481"),
    "dppo": Entry(     dppo,    "on_policy",  "policy gradient",    "previous", "clipped ratio per denoising step",                         "DDPM",  "V, GAE",           "one sample",              "arXiv 2409.00588"),
    "genpo": Entry(    genpo,   "on_policy",  "policy gradient",    "previous", "clipped exact ratio, compression",                         "coupled", "V, GAE",         "one sample",              "arXiv 2505.18763"),
    "dp_cppo": Entry(  dp_cppo, "on_policy",  "policy gradient",    "previous", "clipped residual-Gaussian ratio, score; then perturb",     "Euler", "V, GAE",           "flow + residual",         "arXiv 2603.04790"),
}
# fmt: on
