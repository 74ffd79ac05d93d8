"""TD3+BC and ReBRAC: where their actors are held between the data and the critic, what a target is charged for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import rebrac, td3_bc
from dpolicy.data import as_data_set
from dpolicy.envs import make
from dpolicy.learning import Parts, Seen
from dpolicy.losses import imitating
from dpolicy.train import offline

KEY, SLOPE = jax.random.key(0), jnp.array([0.3, -0.2, 0.1])
TINY = {"hidden": (4,), "critic_hidden": (4,)}
DATA = dataclasses.replace(experience(KEY, 5, 2, 3), action=jnp.tile(jnp.array([0.2, -0.1, 0.4]), (5, 1)))


def linear(obs, action):
    """Two critics of one gradient, of which the second is lower and reads the data's state, too."""
    value = SLOPE @ action
    return jnp.stack([value + 2.0, value - 3.0 + 0.1 * obs[0]])


def seen(batch=DATA, *, before=None, now=None):
    return Seen(Parts(before or {}), Parts(now or {}), batch, jnp.asarray(2), {}, "actor")


def slope_of_actor(algorithm, action):
    """The gradient of the actor's loss for a policy of one action: it sees the critics' step."""
    loss = algorithm.stages["actor"].loss(seen(now={"critic": linear}))
    acting = lambda action: jax.vmap(lambda e: loss(lambda obs: action, e, KEY)[0], axis_name="batch")(DATA)
    return jax.grad(lambda action: jnp.mean(acting(action)))(action)


@pytest.mark.parametrize("weight", [2.5, 0.7])
def test_with_linear_q_the_actor_leaves_the_data_by_its_slope(weight):
    """TD3+BC: mean_D (mu - a)^2 - alpha Q_1 / mean |Q_1| is flat at a + alpha D g / (2 |Q_1|), |Q_1| held constant."""
    made, data = td3_bc(q_weight=weight, **TINY), DATA.action[0]
    size, at = 2.0, data
    for _ in range(50):  # where the size of Q at the optimum is that which made it
        at = data + weight * 3 * SLOPE / (2 * size)
        size = jnp.abs(SLOPE @ at + 2.0)
    np.testing.assert_allclose(slope_of_actor(made, at), 0, atol=1e-6)
    assert np.abs(slope_of_actor(made, data)).max() > 1e-2


def test_rebrac_sums_over_the_action_and_climbs_the_lower_critic():
    """beta |mu - a|^2 - min Q is flat at a + g / (2 beta); divided by mean |min Q| its slope at a is -g / mean."""
    data = DATA.action[0]
    plain = rebrac(actor_penalty=0.4, normalise_q=False, **TINY)
    np.testing.assert_allclose(slope_of_actor(plain, data + SLOPE / 0.8), 0, atol=1e-6)
    made = rebrac(actor_penalty=0.4, **TINY)
    size = jnp.mean(jnp.abs(jax.vmap(lambda e: linear(e.obs, data)[1])(DATA)))
    np.testing.assert_allclose(slope_of_actor(made, data), -SLOPE / size, rtol=1e-5)


@pytest.mark.parametrize("charge", [0.0, 0.6])
def test_a_target_is_charged_for_the_distance_from_the_action_that_followed(charge):
    """y = r + gamma (min Q - beta |a' - a'_data|^2), where the data know it; nothing but r at an end."""
    following = DATA.action[::-1] + 0.3
    known, ends = jnp.arange(5) != 1, jnp.arange(5) == 3
    extras = {"next_action": following, "next_action_known": known}
    batch = dataclasses.replace(DATA, extras=extras, terminated=ends)
    made = rebrac(critic_penalty=charge, target_noise=0.0, discount=0.9, **TINY)
    assert made.stages is not None
    act = lambda obs: jnp.tanh(obs[0]) * jnp.ones(3)
    found = {"critic": linear, "target": linear, "target_actor": act}  # by the update, before its steps
    loss = made.stages["critic"].loss(seen(batch, before=found))
    zero = lambda obs, action: jnp.zeros(2)
    found = jax.vmap(lambda e: loss(zero, e, KEY)[1]["target"])(batch)
    actions = jax.vmap(act)(batch.next_obs)
    lower = jnp.min(jax.vmap(linear)(batch.next_obs, actions), axis=1)
    away = jnp.sum((actions - following) ** 2, axis=1) * known
    np.testing.assert_allclose(
        found, batch.reward + jnp.where(ends, 0, 0.9 * (lower - charge * away)), rtol=1e-5
    )


def test_what_a_method_needs_of_a_data_set_is_read_or_named():
    """A set brings the actions that followed; transitions without them are refused, in the program and in an update."""
    env = make("bandit/double_well")
    rows = experience(KEY, 8, env.spec.obs_size, env.spec.action_size)
    program = lambda data: offline(rebrac(**TINY), env, dataset=data, batch_size=4, updates_per_evaluation=1)
    assert program(as_data_set(rows)).algorithm.name == "rebrac"
    said = r"rebrac learns from extras\['next_action'\] of the transitions, which have none: data_extras="
    with pytest.raises(ValueError, match=said):
        program(rows)
    made = rebrac(**TINY)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda key: made.update(made.init(key, env.spec), rows, key), KEY)


def test_the_reduction_of_a_distance_is_checked():
    with pytest.raises(ValueError, match="reduction must be"):
        imitating(lambda model, obs, key: model, reduction="sqrt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"next_action": jnp.zeros((8, 2))},
            r"extras\['next_action'\] .* of shape \(8, 1\), got shape \(8, 2\)",
        ),
        ({"next_action": jnp.full((8, 1), jnp.nan)}, r"extras\['next_action'\] in dataset must be finite"),
        ({"next_action_known": jnp.full(8, 0.5)}, "'next_action_known' in dataset must hold booleans"),
        ({"mine": {"deep": jnp.zeros(3)}}, r"\['deep'\] .* of 8 rows, as 'action', got shape \(3,\)"),
        (
            {"mine": "text"},
            r"extras\['mine'\] .* must be an array with a row for each transition, got 'text'",
        ),
    ],
)
def test_extras_that_are_not_of_the_rows_are_refused(change, said):
    """They would be broadcast against the policy's action, or read in the last row that there is."""
    env = make("bandit/double_well")
    rows = experience(KEY, 8, env.spec.obs_size, env.spec.action_size)
    right = {"next_action": jnp.zeros((8, 1)), "next_action_known": jnp.ones(8, bool)}
    given = lambda extras: offline(rebrac(**TINY), env, dataset=dataclasses.replace(rows, extras=extras))
    given(right)
    with pytest.raises(ValueError, match=said):
        given({**right, **change})
