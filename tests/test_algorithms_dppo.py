"""DPPO from a cloned policy: from the command line to the fine-tuned run, and what is refused on the way."""

import json
import shlex
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_commands import mistake

from dpolicy import FieldPolicy, Transition, field_policy
from dpolicy.algorithms import bc, dppo
from dpolicy.cli import main
from dpolicy.cli._flags import flags_of
from dpolicy.cli.train import configuration_of
from dpolicy.envs import Spec, make
from dpolicy.losses import chain_log_likelihood
from dpolicy.presets import resolve
from dpolicy.samplers import ddim, ddpm
from dpolicy.train import build, load_run, on_policy, pretrained_field
from dpolicy.train.building import make_algorithm
from dpolicy.train.checkpoint import Checkpoints
from dpolicy.train.naming import recipe_of
from dpolicy.train.pinning import pinned

ENV = "--env probe/time_limit --time-limit 4 --action-chunk 2 --no-progress"
NETWORK = "--hidden 4 --activation relu --embedding raw"
BC = (
    f"train bc {ENV} {NETWORK} --schedule discrete_cosine --prediction noise --sampler ddpm_posterior "
    "--sampler-steps 4 --batch-size 4 --updates-per-evaluation 2 --evaluation-episodes 1 --steps 2"
)
DPPO = (
    f"train dppo {ENV} --no-normalise-observations --sampler-steps 4 --trained-steps 2 --value-hidden 4 --num-envs 2 "
    "--rollout 2 --epochs 1 --minibatches 1 --iterations-per-evaluation 1 --evaluation-episodes 1 --steps 4"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a data set and a run of bc on it, "bc", two seeds."""
    directory = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    np.savez(directory / "d.npz", obs=rng.choice([-1.0, 1.0], (8, 1)), action=rng.uniform(-1, 1, (8, 2)))
    out = ["--data", str(directory / "d.npz"), "--out", str(directory / "bc")]
    assert main([*BC.split(), "--seeds", "2", *out]) == 0
    return directory


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """A copy of the runs, which a test may spoil, as the current directory."""
    shutil.copytree(runs / "bc", tmp_path / "bc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dppo_on(*words):
    return [*DPPO.split(), *words]


def leaves_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def first_seed(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_the_start_is_the_average_of_the_first_living_seed(here):
    run = load_run("bc")
    field = pretrained_field("bc")
    leaves_equal(field, first_seed(run.state.algorithm.average))
    assert (field.prediction, len(field.schedule.betas), field.action_size) == ("noise", 4, 2)
    newest = first_seed(run.state.algorithm.actor)
    assert not np.array_equal(field.mlp.layers[0].bias, newest.mlp.layers[0].bias)
    state = dppo(pretrained=field, sampler_steps=4, trained_steps=2).init(jax.random.key(0), run.env.spec)
    leaves_equal(state.policy, field)
    leaves_equal(state.pretrained, field)

    # Its first seed fails; neither its data set nor its program is asked for.
    checkpoints = Checkpoints(here / "bc" / "checkpoints")
    failed = eqx.tree_at(lambda s: s.alive, run.state, jnp.array([False, True]))
    checkpoints.save(9, failed, checkpoints.host() | {"chunk": 9})
    checkpoints.close()
    leaves_equal(pretrained_field("bc"), jax.tree.map(lambda leaf: leaf[1], run.state.algorithm.average))


def test_a_run_that_starts_from_another(here, capsys, monkeypatch):
    """Trained, evaluated and resumed from elsewhere, the pretrained run in place, changed or gone."""
    assert main(dppo_on("--pretrained", "bc", "--out", "ft")) == 0
    config = json.loads((here / "ft" / "config.json").read_text())
    about = config["hyperparameters"]["pretrained"]
    assert about["run"] == str(here / "bc")
    assert (about["algorithm"], about["seed"], about["step"], about["obs_size"]) == ("bc", 0, 2, 1)
    assert (about["action_size"], len(about["sha256"])) == (2, 64)
    field, first = pretrained_field("bc"), load_run("ft")
    leaves_equal(first_seed(first.state.algorithm.pretrained), field)  # the frozen steps
    policy = first_seed(first.state.algorithm.policy)
    assert not np.array_equal(policy.mlp.layers[-1].bias, field.mlp.layers[-1].bias)

    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    (here / "bc").rename(here / "moved")
    # The numbers of a run that is gone stand for nothing, and whoever looks for nan is not to find any.
    with jax.debug_nans(True):
        leaves_equal(load_run("../ft").state.algorithm, first.state.algorithm)
        assert main(["train", "--resume", "../ft", "--steps", "8", "--no-progress"]) == 0
    state = load_run("../ft").state
    assert (state.steps.tolist(), state.alive.tolist()) == ([8], [True])
    leaves_equal(first_seed(state.algorithm.pretrained), field)
    assert main(["evaluate", "../ft", "--episodes", "2"]) == 0

    # Without a checkpoint there is nothing to go on from.
    shutil.rmtree(here / "ft" / "checkpoints")
    for file in ("metrics.csv", "metrics.jsonl"):
        (here / "ft" / file).unlink()
    capsys.readouterr()
    assert mistake(capsys, "train", "--resume", "../ft", "--no-progress").endswith(
        f"{here / 'bc'} is not the directory of a run: it has no config.json."
    )
    (here / "moved").rename(here / "bc")
    config["hyperparameters"]["pretrained"]["sha256"] = "0" * 64
    (here / "ft" / "config.json").write_text(json.dumps(config))
    assert mistake(capsys, "train", "--resume", "../ft", "--no-progress").endswith(
        f"the run in {here / 'bc'}, which this one starts from, has changed since."
    )


def test_the_setting_shows(here, capsys):
    assert main(dppo_on("--pretrained", "bc", "--print-config")) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["hyperparameters"]["pretrained"] == "bc"
    with pytest.raises(SystemExit):
        main(["train", "dppo", "--help"])
    assert "--pretrained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--pretrained nowhere", "nowhere is not the directory of a run: it has no config.json."),
        ("--pretrained empty", "empty holds no checkpoint yet."),
        (
            "--pretrained sac",
            "pretrained must be a field or the directory of a run that clones one, such as one of bc; ",
        ),
        (
            "--pretrained unnamed",
            "unnamed was not started by name, so it cannot be rebuilt from its config.json.",
        ),
        (
            "--pretrained bc --normalise-observations",
            "normalise_observations must be off (--no-normalise-observations) for a policy that starts from a "
            "pretrained one, which was fitted to observations as they are.",
        ),
        (
            "--pretrained bc --action-chunk 4",
            "pretrained must give actions of size 4, those of probe/time_limit action_chunk=4, got one of 2.",
        ),
        (
            "--pretrained bc --frame-stack 2",
            "pretrained must take observations of size 2, those of probe/time_limit ",
        ),
        (
            "--pretrained bc --sampler-steps 3",
            "sampler_steps must suit the schedule of the pretrained field: steps must divide the schedule's 4 betas, ",
        ),
        ("--cloning-coefficient 1", "cloning_coefficient needs a pretrained field, got 1.0."),
    ],
)
def test_a_mistake_is_one_sentence(here, capsys, words, sentence):
    config = json.loads((here / "bc" / "config.json").read_text())
    for name in ("empty", "sac", "unnamed"):
        (here / name).mkdir()
    (here / "empty" / "config.json").write_text(json.dumps(config))
    sac = {**resolve("sac", "probe/action"), "seeds": 1, "seed": 0}
    (here / "sac" / "config.json").write_text(json.dumps(sac))
    (here / "unnamed" / "config.json").write_text(json.dumps({"seeds": 1, "seed": 0, "steps": 1}))
    given = words.split()
    flags = {word for word in given if word.startswith("--")}
    raw = "" if "--normalise-observations" in flags else "--no-normalise-observations "
    base = DPPO.replace("--no-normalise-observations ", raw)
    for flag, value in (("--action-chunk", "2"), ("--sampler-steps", "4")):
        if flag in flags:
            base = base.replace(f"{flag} {value} ", "")
    assert mistake(capsys, *base.split(), *given, "--out", "new").startswith(
        f"dpolicy train dppo: {sentence}"
    )
    assert not (here / "new").exists()


def test_a_field_of_standardised_observations_is_refused(here, runs, capsys):
    out = ["--data", str(runs / "d.npz"), "--out", "standard", "--normalise-observations"]
    assert main([*BC.split(), *out]) == 0
    assert mistake(capsys, *dppo_on("--pretrained", "standard")) == (
        "dpolicy train dppo: the field in standard takes standardised observations, which a run that starts from it "
        "would not give it: fit it without normalise_observations."
    )


def test_standardised_observations_are_refused_in_python_too():
    env = make("probe/time_limit")
    field = field_policy(hidden=(4,)).make(jax.random.key(0), env.spec)
    begun = lambda algorithm, **settings: (
        on_policy(algorithm, env, **settings).init(jax.random.key(0)).algorithm
    )
    with pytest.raises(
        ValueError, match="normalise_observations must be off .* for a policy that starts from"
    ):
        begun(dppo(pretrained=field))
    leaves_equal(begun(dppo(pretrained=field), normalise_observations=False).policy, field)
    assert begun(dppo(sampler_steps=2)).policy.prediction == "noise"


def test_a_description_that_lacks_something_is_refused():
    with pytest.raises(ValueError, match=r"^pretrained must have 'algorithm', got run, seed\.$"):
        pretrained_field({"run": "bc", "seed": 0})


def test_the_recipe_takes_a_field(unchecked_types):
    with pytest.raises(ValueError) as caught:
        dppo(pretrained="runs/bc")
    assert str(caught.value) == (
        "pretrained must be a field or None, got 'runs/bc': pass dpolicy.train.pretrained_field('runs/bc'), the field "
        "of a run."
    )
    with pytest.raises(ValueError, match=r"^pretrained must be a field or None, got 3\.$"):
        dppo(pretrained=3)


STARTING = """
from dpolicy.algorithms import bc
from dpolicy.fields import AbstractField

seen = []

def mine(*, pretrained: AbstractField | None = None):
    seen.append(pretrained)
    return bc(hidden=(4,))
"""


def test_a_recipe_of_ones_own_is_given_the_field(here):
    (here / "starting.py").write_text(STARTING)
    (flag,) = flags_of(recipe_of("starting.py:mine"))
    assert (flag.name, flag.type, flag.default) == ("pretrained", str | None, None)
    make_algorithm("starting.py:mine", {"pretrained": "bc"})
    make_algorithm("starting.py:mine", {"pretrained": None})
    *_, given, nothing = recipe_of("starting.py:mine").__globals__["seen"]
    leaves_equal(given, pretrained_field("bc"))
    assert nothing is None


def test_a_field_of_other_observations_is_refused():
    field = field_policy(hidden=(4,)).make(jax.random.key(0), Spec("a", 3, 1, 1))
    with pytest.raises(ValueError, match="pretrained must take observations of size 2, those of b"):
        dppo(pretrained=field).init(jax.random.key(0), Spec("b", 2, 1, 1))


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [
        ("discrete_cosine", "noise"),
        ("cosine", "noise"),
        ("rectified_flow", "velocity"),
        ("trigonometric", "data"),
        ("linear", "score"),
        ("variance_exploding", "noise"),
    ],
)
@pytest.mark.parametrize("denoiser", ["ddpm", "ddim"])
def test_every_schedule_can_be_fine_tuned(schedule, prediction, denoiser):
    """Actions, likelihoods and their gradients are finite, whatever was cloned."""
    policy: FieldPolicy = field_policy(
        schedule=schedule, prediction=prediction, sampler_steps=5, hidden=(4,), embedding="raw"
    )
    spec = Spec("task", 2, 3, 5)
    field = policy.make(jax.random.key(0), spec)
    algorithm = dppo(pretrained=field, denoiser=denoiser, sampler_steps=5, trained_steps=5, value_hidden=(4,))
    state = algorithm.init(jax.random.key(1), spec)
    obs, no, zero = jnp.ones(2), jnp.asarray(False), jnp.zeros(())
    assert np.isfinite(algorithm.act(state, obs, jax.random.key(2), "evaluate")[0]).all()
    action, extras = algorithm.act(state, obs, jax.random.key(2), "explore")
    assert np.isfinite(extras["chain"]).all()
    noisy = {"steps": 5, "min_std": 0.1, "final_noise": True}
    sampler = (
        ddpm(variance="posterior", **noisy) if denoiser == "ddpm" else ddim(eta=1.0, recompute=True, **noisy)
    )
    likelihood = chain_log_likelihood(sampler)
    example = Transition(obs, action, zero, obs, no, no, extras)
    np.testing.assert_allclose(likelihood(field, example, jax.random.key(3)), extras["log_prob"], rtol=1e-4)
    gradient = eqx.filter_grad(lambda f: jnp.sum(likelihood(f, example, jax.random.key(3))))(field)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.any(gradient.mlp.layers[-1].bias != 0)


def test_discrete_cosine_has_as_many_betas_as_steps():
    field = (
        bc(schedule="discrete_cosine", prediction="noise", sampler="ddpm", sampler_steps=7)
        .init(jax.random.key(0), Spec("task", 2, 3, 5))
        .average
    )
    assert len(field.schedule.betas) == 7


def test_the_documented_commands_are_understood(here, capsys):
    """Those of the page on fine-tuning: every flag exists, and clone and start agree."""
    page = (Path(__file__).parent.parent / "docs" / "finetuning.md").read_text()
    block = page.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    commands = [shlex.split(line)[1:] for line in block.splitlines() if line]
    assert [words[:2] for words in commands] == [
        ["train", "sac"],
        ["record", "runs/expert"],
        ["train", "bc"],
        ["train", "dppo"],
    ]
    expert, clone, start = (
        configuration_of(words[1], words[2:])[0] for words in commands if words[0] == "train"
    )
    file = commands[1][commands[1].index("--out") + 1]
    assert expert["env"] == clone["env"] == start["env"]
    assert clone["program"]["data"] == file
    assert start["hyperparameters"]["pretrained"] == "runs/bc"
    assert clone["env_options"] == start["env_options"] == {"action_chunk": 4}
    assert not (clone["program"]["normalise_observations"] or start["program"]["normalise_observations"])
    assert clone["hyperparameters"]["sampler_steps"] == start["hyperparameters"]["sampler_steps"]
    # Flags come before the directory, which is none.
    assert mistake(capsys, *commands[1]).startswith(
        "dpolicy record: runs/expert is not the directory of a run"
    )


def test_build_reads_what_it_is_not_told(here):
    """A configuration made in Python names the directory and no more; `pinned` adds the rest."""
    config = resolve(
        "dppo",
        "probe/time_limit",
        {
            **{"pretrained": "bc", "sampler_steps": 4, "value_hidden": (4,), "normalise_observations": False},
            **{"num_envs": 2, "rollout": 2, "epochs": 1, "minibatches": 1, "iterations_per_evaluation": 1},
            **{"evaluation_episodes": 1, "steps": 4},
        },
        env_options={"time_limit": 4, "action_chunk": 2},
    )
    whole = pinned(config)
    assert whole["hyperparameters"]["pretrained"]["run"] == str(here / "bc")
    assert pinned(whole) == whole
    for given in (config, whole):
        algorithm, env, _ = build(given)
        field = algorithm.init(jax.random.key(0), env.spec).policy
        leaves_equal(field, pretrained_field("bc"))
