"""Settings per algorithm and environment, as data; each with its source. Flags override them."""

import inspect
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from dpolicy import _checks
from dpolicy.presets.off_policy import PUBLISHED as _OFF_POLICY
from dpolicy.presets.on_policy import PUBLISHED as _ON_POLICY
from dpolicy.presets.preset import Preset as Preset
from dpolicy.presets.preset import Table, joined
from dpolicy.presets.review import PUBLISHED as _REVIEW
from dpolicy.presets.tuned import TUNED as _TUNED
from dpolicy.presets.tuned_off_policy import TUNED as _TUNED_OFF_POLICY

# The first pattern that matches `family/task` is used.
PRESETS: Table = joined(_TUNED, _TUNED_OFF_POLICY, _ON_POLICY, _OFF_POLICY, _REVIEW)

DEFAULT_STEPS = {"on_policy": 1_000_000, "off_policy": 100_000, "offline": 10_000}


def presets_for(algorithm: str, env: str) -> dict[str, Preset]:
    """The presets of `algorithm` on `env` ("family/task") by name, the one used by default first."""
    found: dict[str, Preset] = {}
    for pattern, chosen in PRESETS.get(algorithm, []):
        if fnmatch(env, pattern):
            found.setdefault(chosen.name, chosen)
    return found


def preset(algorithm: str, env: str, name: str | None = None) -> dict[str, Any]:
    """The settings for `algorithm` on `env` ("family/task") with their "source"; empty where there are none.

    Args:
        algorithm: Name in `dpolicy.algorithms.ALGORITHMS`.
        env: "family/task".
        name: Which of them, where there are several; the first by default, "none" for none.

    Raises:
        ValueError: for a name that no preset has here.
    """
    found = presets_for(algorithm, env)
    if name == "none" or (name is None and not found):
        return {}
    if name is not None:
        _checks.one_of("preset", name, [*found, "none"])
    chosen = next(iter(found.values())) if name is None else found[name]
    return {**chosen.values, "source": chosen.source}


def defaults(function: Any) -> dict[str, Any]:
    """The keyword-only arguments of a function that have a default, with it."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not inspect.Parameter.empty
    }


def resolve(
    algorithm: str,
    env: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    choose: str | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole configuration of a run: defaults, then the preset, then `overrides`.

    Args:
        algorithm: Name in `dpolicy.algorithms.ALGORITHMS`.
        env: "family/task".
        overrides: Hyperparameters of the recipe, settings of the program, and `steps`.
        choose: Name of the preset; see `preset`.
        env_options: What `dpolicy.envs.make` is told beside the name, e.g. `action_chunk`.

    Returns:
        `algorithm`, `env`, `steps`, `hyperparameters`, `program`, the preset's `source` (or None), and `env_options`
        where there are any.

    Raises:
        ValueError: for an override that neither the recipe nor the program knows, or an unknown preset.
    """
    from dpolicy.algorithms import ALGORITHMS
    from dpolicy.train import PROGRAMS

    _checks.one_of("algorithm", algorithm, ALGORITHMS)
    entry = ALGORITHMS[algorithm]
    hyperparameters, program = defaults(entry.recipe), defaults(PROGRAMS[entry.family])
    settings = preset(algorithm, env, choose)
    source = settings.pop("source", None)
    settings |= overrides or {}
    steps = settings.pop("steps", DEFAULT_STEPS[entry.family])
    for name, value in settings.items():
        _checks.one_of("setting", name, [*hyperparameters, *program])
        (hyperparameters if name in hyperparameters else program)[name] = value
    config = {
        "algorithm": algorithm,
        "env": env,
        "steps": steps,
        "hyperparameters": hyperparameters,
        "program": program,
        "source": source,
    }
    # Left out where empty: a run goes on only with the very configuration that it was started with.
    return {**config, "env_options": dict(env_options)} if env_options else config
