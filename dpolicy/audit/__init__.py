"""Whether two actor losses are one mechanism: their gradients on one batch, one network and shared noise.

Of algorithms by name, on experience of uniform actions:

    batch, q = uniform_experience(env, experience_key)
    model = fitted(network(algorithms, env.spec, model_key), batch, fit_key)
    losses = objectives(algorithms, model, q, env.spec, model_key)
    gradient_alignment(losses, model, batch, draw_key).expected_cosine
"""

from dpolicy.audit._alignment import Alignment as Alignment
from dpolicy.audit._alignment import gradient_alignment as gradient_alignment
from dpolicy.audit._alignment import gradients as gradients
from dpolicy.audit._alignment import network as network
from dpolicy.audit._alignment import objective as objective
from dpolicy.audit._alignment import objectives as objectives
from dpolicy.audit._alignment import replaced as replaced
from dpolicy.audit._experience import FittedCritic as FittedCritic
from dpolicy.audit._experience import fitted as fitted
from dpolicy.audit._experience import uniform_experience as uniform_experience
