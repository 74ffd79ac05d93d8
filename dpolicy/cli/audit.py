"""`dpolicy audit`: whether the actor losses of two algorithms are one mechanism."""

import math
from pathlib import Path
from typing import Any

from dpolicy._files import check_place
from dpolicy.cli._flags import Flag, flags_of, parse
from dpolicy.cli._usage import UsageError, explained
from dpolicy.cli.catalogue import table, terminal_width
from dpolicy.cli.train import ENV_FLAGS, env_options

_PROG = "dpolicy audit"
_OF_A_TRANSITION = 8_192  # bytes: what the units of two critics of 256 x 2 are, forwards and backwards
_SAME = 1e-3  # how far from 1 a cosine may lie that is called the same, rounding being about 1e-6


def _settings(word: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The algorithm that "NAME" or "NAME:setting=value,..." names, all its settings, and those that are given.

    NAME is one of the library's or, for one of your own, file.py:NAME or module:NAME.
    """
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.train.naming import recipe_of

    name, colon, settings = word.partition(":")
    if name not in ALGORITHMS and settings.partition(":")[0].isidentifier():
        own, colon, settings = settings.partition(":")
        name = f"{name}:{own}"
    with explained(_PROG):
        flags = {"settings": flags_of(recipe_of(name))}
    words = []
    for setting in settings.split(",") if colon else []:
        key, _, value = setting.partition("=")
        if key in ("", "help") or "-h" in value.split() or "--" in value:
            raise UsageError(f"a setting of {name} must be setting=value, got {setting!r}.", prog=_PROG)
        words += [f"--{key}", *value.split()]
    values, given = parse(flags, words, prog=f"{_PROG} {name}", description="")
    return name, values, {key: values[key] for key in given}


def _labels(words: list[str]) -> list[str]:
    """The words as they stand in the table and the figure: without the directories of a file, where that is clear."""
    short = [
        f"{Path(place).name}{colon}{rest}" for place, colon, rest in (word.partition(":") for word in words)
    ]
    return short if len(set(short)) == len(short) else words


def _recipes(words: list[str]) -> dict[str, Any]:
    """The algorithms of the command line; what they do not say about their field is as in the first, and printed."""
    from dpolicy.blocks import field_policy
    from dpolicy.train.building import make_algorithm

    made: dict[str, Any] = {}
    of_fields = [flag.name for flag in flags_of(field_policy)]
    first: dict[str, Any] = {}
    labels = _labels(words)
    for word, label in zip(words, labels, strict=True):
        name, values, given = _settings(word)
        first = first or values
        shared = [key for key in of_fields if key in values and key in first and key not in given]
        taken = {key: first[key] for key in shared if values[key] != first[key]}
        with explained(_PROG):
            made[label] = make_algorithm(name, given | taken)
        if taken:
            typed = {k: " ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in taken.items()}
            print(f"{label} takes from {labels[0]}: {', '.join(f'{k}={v}' for k, v in typed.items())}.")
    return made


def audit(args: list[str]) -> int:
    """Run `dpolicy audit`."""
    flags = [
        Flag(
            "algorithms",
            tuple[str, ...],
            help="two algorithms or more, each with settings of its own where wanted: sdac qsm:variant=paper "
            "mine.py:flow_ql:temperature=0.2. They are compared on the network of the first: the others have its field "
            "unless told otherwise.",
            positional=True,
        ),
        Flag("env", str, "multigoal", "Where the batch comes from, by uniform actions.", "FAMILY/TASK"),
        Flag("batch", int, 256, "Transitions.", "N"),
        Flag("draws", int, 16, "Random keys that all losses share.", "N"),
        Flag("critic_updates", int, 300, "Updates that fit the critic of uniform actions to the batch.", "N"),
        Flag("network_updates", int, 300, "Updates that fit the network to the batch's actions first.", "N"),
        Flag("seed", int, 0, "What the random keys are made from."),
        Flag("out", Path, Path("audit"), "Directory for the heat map and the table.", "DIR"),
    ]
    description = (
        "Compare the gradients that the actor losses of algorithms give one network, on one batch, under one critic "
        "and with shared noise: cosine 1 is another parameterisation of the same mechanism."
    )
    values, _ = parse({"audit": flags, "environment": ENV_FLAGS}, args, prog=_PROG, description=description)
    words = list(values["algorithms"])
    if len(set(words)) < len(words) or len(words) < 2:
        raise UsageError("ALGORITHMS must be two or more, each given once.", prog=_PROG)

    import equinox as eqx
    import jax

    from dpolicy import _checks, envs
    from dpolicy.audit import fitted, gradient_alignment, network, objectives, uniform_experience
    from dpolicy.train.configuration import MOST_SEED, env_title
    from dpolicy.train.memory import check_room, size_of

    with explained(_PROG):
        check_place(values["out"])
        _checks.integer("batch", values["batch"], 2)
        _checks.integer("draws", values["draws"], 3)
        _checks.integer("critic_updates", values["critic_updates"], 0)
        _checks.integer("network_updates", values["network_updates"], 0)
        _checks.integer("seed", values["seed"], 0, MOST_SEED)
        check_room("batch", values["batch"], _OF_A_TRANSITION)
        for name in ("critic_updates", "network_updates"):
            check_room(name, values[name], 16)  # their random keys
        options = env_options(values, _PROG)
        env = envs.make(values["env"], **options)
    algorithms = _recipes(words)
    model_key, draw_key = jax.random.split(jax.random.fold_in(jax.random.key(values["seed"]), 1_000))
    with explained(_PROG):
        model = network(algorithms, env.spec, model_key)
        check_room(
            "draws", values["draws"], len(algorithms) * size_of(eqx.filter(model, eqx.is_inexact_array))
        )
    size, updates = values["batch"], values["critic_updates"]
    experience = jax.jit(lambda key: uniform_experience(env, key, size=size, updates=updates))
    batch, q = experience(jax.random.key(values["seed"]))
    with explained(_PROG):
        fit = jax.jit(lambda key: fitted(model, batch, key, updates=values["network_updates"]))
        model = fit(jax.random.fold_in(jax.random.key(values["seed"]), 2))
        losses = objectives(algorithms, model, q, env.spec, model_key)
        compare = jax.jit(lambda: gradient_alignment(losses, model, batch, draw_key, draws=values["draws"]))
        result = jax.tree.map(lambda leaf: leaf.tolist(), compare())
    rows = _rows(list(algorithms), result)
    header = ("losses", "cosine", "cosine of expectations", "norm ratio [95 %]", "reading")
    place = env_title({"env": values["env"], "env_options": options})
    title = (
        f"{place}, batch {values['batch']}, {values['draws']} shared draws, seed {values['seed']}, "
        f"uniform actions, their critic after {values['critic_updates']} and network after "
        f"{values['network_updates']} updates"
    )
    print(table(header, rows, width=terminal_width()))
    print(f"\n{title}; 95 % intervals over draws.")
    print(_draw(list(algorithms), result, title, values["out"]))
    report = values["out"] / "audit.md"
    report.write_text(f"{title}.\n\n{table(header, rows, markdown=True)}\n")
    print(report)
    return 0


def _rows(names: list[str], result: Any) -> list[tuple[str, ...]]:
    rows = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            ratio, error = result.ratio[i][j], result.ratio_error[i][j]
            low, high = ratio * math.exp(-error), ratio * math.exp(error)
            rows.append(
                (
                    f"{names[i]} / {names[j]}",
                    f"{result.cosine[i][j]:.4f} ± {result.cosine_error[i][j]:.4f}",
                    f"{result.expected_cosine[i][j]:.4f} ± {result.expected_cosine_error[i][j]:.4f}",
                    f"{ratio:.4g} [{low:.4g}, {high:.4g}]",
                    _reading(result, i, j),
                )
            )
    return rows


def _reading(result: Any, i: int, j: int) -> str:
    """What the numbers say, and no more than that."""
    if not math.isfinite(result.ratio[i][j]) or result.ratio[i][j] == 0:
        return "one gradient is zero or not finite"
    if result.cosine[i][j] > 1 - _SAME:
        return "one direction, draw by draw"
    expected, error = result.expected_cosine[i][j], result.expected_cosine_error[i][j]
    if not abs(error) < 1:
        return "too noisy: more draws"
    if expected > 1 - _SAME or (expected + error >= 1 - _SAME and error < 0.05):
        return "one direction in expectation"
    if expected + error >= 1 - _SAME:
        return "undecided: more draws"
    return "nearly one direction" if expected > 0.95 else "different directions"


def _draw(names: list[str], result: Any, title: str, out: Path) -> Path:
    import numpy as np

    from dpolicy.plots import heat_map

    cells = lambda values: [[f"{value:.2f}" for value in row] for row in values]
    ratio = np.asarray(result.ratio)
    panels = [
        ("cosine, draw by draw", np.asarray(result.cosine), cells(result.cosine)),
        ("cosine of expectations", np.asarray(result.expected_cosine), cells(result.expected_cosine)),
        (
            "norm ratio, row / column",
            np.clip(np.log10(ratio) / 2, -1, 1),
            [[f"{value:.2g}" for value in row] for row in ratio],
        ),
    ]
    with explained(_PROG):
        return heat_map(panels, names, out / "audit.png", title=title)
