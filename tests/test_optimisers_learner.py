"""Adam with its clipping and decay is the chain of optax that its description says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy.optimisers import adam, descend, learner

MODEL = {
    "a": jnp.asarray([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3]]),
    "b": jnp.asarray(3.0),
    "none": jnp.zeros((0, 2)),
}
SLOPE = {
    "a": jnp.asarray([[1.0, 30.0, -0.5], [0.0, 2.0, -7.0]]),
    "b": jnp.asarray(-0.4),
    "none": jnp.zeros((0, 2)),
}


def loss(model):
    terms = [
        jnp.sum(slope * leaf**2) for slope, leaf in zip(*map(jax.tree.leaves, (SLOPE, model)), strict=True)
    ]
    return sum(terms), {}


def after_three_steps(optimiser):
    part = learner(MODEL, optimiser)
    for _ in range(3):
        part, _ = descend(part, loss, optimiser)
    return part


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}, {"max_grad_norm": 0.7}])
def test_adam_is_a_chain_of_optax(options):
    clip = [optax.clip_by_global_norm(0.7)] if "max_grad_norm" in options else []
    decay = [optax.add_decayed_weights(0.3)] if "weight_decay" in options else []
    plain = optax.chain(*clip, optax.scale_by_adam(eps=1e-8), *decay, optax.scale_by_learning_rate(0.1))
    ours, theirs = after_three_steps(adam(0.1, **options)), after_three_steps(plain)
    # Ours says of every array whether it decays, which is a layer around the state.
    for left, right in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_array_equal(left, right)
