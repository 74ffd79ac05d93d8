"""How a model moves: learners and their gradient steps, averages, rates by clock or divergence."""

from dpolicy.optimisers._ema import ema as ema
from dpolicy.optimisers._learner import Learner as Learner
from dpolicy.optimisers._learner import adam as adam
from dpolicy.optimisers._learner import all_finite as all_finite
from dpolicy.optimisers._learner import descend as descend
from dpolicy.optimisers._learner import keep_if as keep_if
from dpolicy.optimisers._learner import learner as learner
from dpolicy.optimisers._learner import scaled as scaled
from dpolicy.optimisers._rates import ANNEALS as ANNEALS
from dpolicy.optimisers._rates import Rate as Rate
from dpolicy.optimisers._rates import annealed as annealed
from dpolicy.optimisers._rates import by_kl as by_kl
from dpolicy.optimisers._rates import by_updates as by_updates
from dpolicy.optimisers._rates import waiting as waiting
