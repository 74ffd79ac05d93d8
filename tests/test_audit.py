"""Gradients of two losses side by side: known vectors, known identities, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transitions import experience

from dpolicy.algorithms import dipo, dpmd, gempo, maxentdp, qsm, qvpo, sac, sdac
from dpolicy.audit import gradient_alignment, network, objective, objectives
from dpolicy.blocks import critic_function
from dpolicy.cli import main
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.learning import stage_key
from dpolicy.plots import heat_map

SCHEDULE = CosineVP()
NETS = {"hidden": (8,), "sampler_steps": 2, "critic_hidden": (8,)}


class Spec:
    obs_size = action_size = 2


def q(obs, action):
    return jnp.sum(jnp.sin(3 * action + obs)) + 0.5 * action[0]


def of_vector(noise):
    """A loss whose gradient is `noise(key)`, the same for every example of a batch of one."""
    return lambda model, example, key: (jnp.dot(model, noise(key)), {})


def named(losses):
    return {str(i): loss for i, loss in enumerate(losses)}


def compare(losses, model, batch, key, draws=16):
    run = jax.jit(lambda model, batch, key: gradient_alignment(named(losses), model, batch, key, draws=draws))
    return jax.tree.map(np.asarray, run(model, batch, key))


def test_known_gradients(x64, getkey):
    batch = experience(getkey(), 1)
    losses = [of_vector(lambda key, v=v: jnp.asarray(v)) for v in ([1.0, 0.0], [3.0, 3.0], [-2.0, 0.0])]
    found = compare(losses, jnp.ones(2), batch, getkey(), draws=5)
    cosine = [[1, 0.5**0.5, -1], [0.5**0.5, 1, -(0.5**0.5)], [-1, -(0.5**0.5), 1]]
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-12)
    np.testing.assert_allclose(found.expected_cosine, cosine, atol=1e-12)
    norms = np.asarray([1, 3 * 2**0.5, 2])
    np.testing.assert_allclose(found.ratio, norms[:, None] / norms[None], rtol=1e-12)
    for error in (found.cosine_error, found.expected_cosine_error, found.ratio_error):
        np.testing.assert_allclose(error, 0, atol=1e-7)


def test_noise_of_its_own_hides_a_common_expectation_draw_by_draw_only(x64, getkey):
    """g = mean + N(0, I) in 200 dimensions, |mean|^2 = 200: cos of two draws about 1/2, of the expectations 1."""
    noisy = lambda i: of_vector(lambda key: 1 + jax.random.normal(jax.random.fold_in(key, i), (200,)))
    found = compare(
        [noisy(0), noisy(1), noisy(0)], jnp.ones(200), experience(getkey(), 1), getkey(), draws=64
    )
    assert abs(found.cosine[0, 1] - 0.5) < 3 * found.cosine_error[0, 1] < 0.1
    assert abs(found.expected_cosine[0, 1] - 1) < 2 * found.expected_cosine_error[0, 1] < 0.05
    np.testing.assert_allclose(found.cosine[0, 2], 1, rtol=1e-12)  # shared noise


def test_an_interval_covers_what_it_should(getkey):
    """The 95 % interval of the expected cosine covers the truth in 400 audits about 95 times in 100."""
    other = jnp.concatenate([jnp.ones(10), -jnp.ones(10), jnp.ones(20)])  # cosine with ones(40): 1/2
    losses = [
        of_vector(lambda key, v=v, i=i: v + 0.7 * jax.random.normal(jax.random.fold_in(key, i), (40,)))
        for i, v in enumerate((jnp.ones(40), other))
    ]
    batch = experience(getkey(), 1)
    one = lambda key: gradient_alignment(named(losses), jnp.ones(40), batch, key, draws=16)
    found = jax.jit(jax.vmap(one))(jax.random.split(getkey(), 400))
    inside = np.abs(found.expected_cosine[:, 0, 1] - 0.5) <= found.expected_cosine_error[:, 0, 1]
    assert 0.90 <= inside.mean() <= 0.99


def test_what_is_audited_is_what_is_trained(x64, getkey):
    # With the critic before the step, or the frozen target, as the guide.
    cases = (sdac(samples=4, **NETS), "min"), (qsm(**NETS, target_rate=0.0), "mean")

    def losses(algorithm, how, key):
        state, batch = algorithm.init(key, Spec), experience(key)
        actor, loss = objective(algorithm, state, critic_function(state.target, how))
        _, metrics = algorithm.update(state, batch, key)
        keys = jax.random.split(stage_key(key, "actor"), 12)
        value = jax.vmap(lambda e, k: loss(actor, e, k)[0], axis_name="batch")(batch, keys)
        return metrics["actor/loss"], jnp.mean(value)

    for trained, audited in jax.jit(lambda key: [losses(*case, key) for case in cases])(getkey()):
        np.testing.assert_allclose(trained, audited, rtol=1e-12)


def test_published_losses_about_one_network_and_critic(x64, getkey):
    """SDAC's weighted regression and MaxEntDP's on the weighted mean noise are one; QSM and QVPO are not."""
    algorithms = {
        "sdac": sdac(samples=8, temperature=0.3, **NETS),
        "maxentdp": maxentdp(samples=8, temperature=0.3, **NETS),
        "qsm": qsm(**NETS),
        "qvpo": qvpo(candidates=8, sampler="ddpm", **NETS),
    }
    model = network(algorithms, Spec, getkey())
    losses = objectives(algorithms, model, q, Spec, getkey())
    run = jax.jit(lambda key: gradient_alignment(losses, model, experience(key, 32), key, draws=8))
    found = jax.tree.map(np.asarray, run(getkey()))
    np.testing.assert_allclose(found.cosine[0, 1], 1, rtol=1e-10)
    np.testing.assert_allclose(found.ratio[0, 1], 1, rtol=1e-10)
    assert found.expected_cosine[2, 3] + found.expected_cosine_error[2, 3] < 0.9
    assert found.cosine[2, 3] + found.cosine_error[2, 3] < 0.9
    assert found.cosine[0, 3] + found.cosine_error[0, 3] < 0.99


def test_proposals_and_backups_are_of_the_given_network_and_critic(getkey):
    """A field that always samples one action: what stands for candidates, references, averages and targets is seen."""
    there = jnp.asarray([0.3, -0.6])
    model = FunctionField(lambda x, t, obs: there, schedule=SCHEDULE, prediction="data", action_size=2)
    asked = lambda obs, action: jnp.sum((action - there) ** 2)  # zero at what the given network does
    data = {**NETS, "prediction": "data"}
    batch = experience(getkey(), 1)
    example = jax.tree.map(lambda leaf: leaf[0], batch)
    algorithms = {
        "qvpo": qvpo(candidates=4, **data),
        "gempo": gempo(candidates=4, target_kl=1.0, reference_noise=0.0, weight="linear", **data),
        "dpmd": dpmd(candidates=2, exploration_noise=1e-6, **data),
        "dipo": dipo(ascent_steps=0, **data),
    }
    losses = objectives(algorithms, model, asked, Spec, getkey())

    # Of one data field that predicts the given action everywhere no loss is left, save what is cloned from elsewhere.
    @jax.jit
    def values(key):
        return {name: loss(model, example, key)[0] for name, loss in losses.items()}

    found = values(getkey())
    assert found["qvpo"] < 1e-6  # level values: nothing is better than the mean
    assert found["gempo"] < 1e-4
    assert found["dpmd"] < 1e-4
    np.testing.assert_allclose(found["dipo"], jnp.mean((example.action - there) ** 2), rtol=1e-5)


def test_losses_of_other_networks_are_refused(getkey):
    with pytest.raises(ValueError, match="sac must train the same network as sdac"):
        network({"sdac": sdac(**NETS), "sac": sac(hidden=(8,))}, Spec, getkey())


def test_bad_arguments(getkey, tmp_path):
    loss = of_vector(lambda key: jnp.ones(2))
    batch = experience(getkey(), 1)
    for losses, draws, sentence in (
        ({"a": loss}, 4, "losses must name at least two"),
        ({"a": loss, "b": loss}, 1, "draws must be an integer of at least 3"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gradient_alignment(losses, jnp.ones(2), batch, getkey(), draws=draws)
    with pytest.raises(ValueError, match="x must be a table of 2 by 2"):
        heat_map([("x", np.ones((1, 2)), [["", ""]])], ["a", "b"], tmp_path / "x.png")


TINY = "hidden=8,critic_hidden=8"


OWN = """
from dpolicy.algorithms import qsm

def mine(*, kind="paper", hidden=(8,), **rest):
    return qsm(variant=kind, hidden=hidden, critic_hidden=(8,))
"""


def test_the_command(tmp_path, capsys):
    (tmp_path / "own_losses.py").write_text(OWN)
    words = [f"sdac:samples=4,{TINY}", f"qsm:{TINY}", f"{tmp_path}/own_losses.py:mine:kind=paper"]
    options = [
        "--env",
        "multigoal",
        "--env-option",
        "horizon=5",
        "--batch",
        "16",
        "--draws",
        "4",
        "--critic-updates",
        "3",
    ]
    assert main(["audit", *words, *options, "--network-updates", "3", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{words[0]} / own_losses.py:mine:kind=paper" in out
    assert "\nmultigoal horizon=5, batch 16, " in out
    assert "norm ratio [95 %]" in (tmp_path / "audit.md").read_text()
    assert (tmp_path / "audit.png").stat().st_size > 1000


def test_the_others_take_the_field_of_the_first(tmp_path, capsys):
    words = [
        f"sdac:samples=4,schedule=linear,{TINY}",
        "maxentdp:samples=4,critic_hidden=8",
        f"dps:samples=4,{TINY}",
    ]
    options = ["--batch", "16", "--draws", "3", "--critic-updates", "0", "--network-updates", "0"]
    assert main(["audit", *words, *options, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{words[1]} takes from {words[0]}: schedule=linear, hidden=8.\n" in out
    assert f"{words[2]} takes from {words[0]}: schedule=linear, sampler=ddpm.\n" in out
    assert "one direction, draw by draw" in next(
        line for line in out.splitlines() if f"{words[0]} / {words[1]}" in line
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sdac"], "two or more"),
        (["sdac", "sdac"], "each given once"),
        (["sdac", "sdca"], "Did you mean sdac"),
        (["sdac", "sdca:samples=4"], "Did you mean sdac"),
        (["sdac", "nowhere.py:mine:samples=4"], "nowhere.py is not a file."),
        (["sdac", "qsm", "--env-option", "horison=3"], "Did you mean horizon?"),
        (["sdac:samples=1", "qsm"], "samples must be an integer of at least 2"),
        (["sdac:sample=3", "qsm"], "did you mean --samples"),
        (["sdac", "sdac:"], "a setting of sdac must be setting=value, got ''"),
        (["sdac:help", "qsm"], "a setting of sdac must be setting=value, got 'help'"),
        (["sdac:samples=4 --critics 3", "qsm"], "a setting of sdac must be setting=value"),
        (["sdac", "qsm", "--seed", "4294967296"], "seed must be an integer from 0 to 4294967295"),
        (["sdac", "ppo"], "ppo is on-policy"),
        (["sdac", "maxentdp:hidden=8"], "maxentdp:hidden=8 must train the same network as sdac"),
        (["sdac", "sac"], "sac must train the same network as sdac"),
        (["sdac", "qsm", "--draws", "2000000000"], "draws must fit into the "),
        (["sdac", "qsm", "--draws", "1"], "draws must be an integer of at least 3"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    given = ["--batch", "2", "--critic-updates", "0", "--network-updates", "0"]
    assert main(["audit", *words, *given]) == 2
    assert sentence in capsys.readouterr().err
