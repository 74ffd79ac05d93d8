"""An optimiser of all parameters in one vector takes the steps that it takes array by array."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpolicy.optimisers import adam, descend, in_one_vector, learner

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
def test_the_steps_are_those_of_each_array(options):
    clip = [optax.clip_by_global_norm(0.7)] if "max_grad_norm" in options else []
    decay = [optax.add_decayed_weights(0.3)] if "weight_decay" in options else []
    plain = optax.chain(*clip, optax.scale_by_adam(eps=1e-8), *decay, optax.scale_by_learning_rate(0.1))
    ours, theirs = after_three_steps(in_one_vector(adam(0.1, **options))), after_three_steps(plain)
    # But for rounding: a long vector is computed by other instructions than the ends of short arrays.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours.model, theirs.model)
    moments = [optax.tree_utils.tree_get(part.opt_state, "nu") for part in (ours, theirs)]
    assert moments[0].shape == (7,)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moments[1])])
    np.testing.assert_allclose(moments[0], flat, rtol=1e-6)


def test_one_array_and_several_types_are_left_as_they_are():
    one = in_one_vector(optax.scale_by_adam()).init(jnp.ones((2, 3)))
    assert one.mu.shape == (2, 3)
    several = {"single": jnp.ones(2), "half": jnp.ones(3, jnp.bfloat16)}
    optimiser = in_one_vector(optax.scale_by_adam())
    state = optimiser.init(several)
    assert jax.tree.map(jnp.shape, state.mu) == {"single": (2,), "half": (3,)}
    updates, _ = optimiser.update(several, state)
    assert updates["half"].dtype == jnp.bfloat16
    assert jax.tree.leaves(optimiser.init({}).mu) == []
