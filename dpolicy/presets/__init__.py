"""Settings per algorithm and environment, as data; each with its source. Flags override them."""

import inspect
import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

from dpolicy import _checks, _places
from dpolicy.presets._preset import Preset as Preset
from dpolicy.presets._preset import Table, joined
from dpolicy.presets.off_policy import PUBLISHED as _OFF_POLICY
from dpolicy.presets.on_policy import PUBLISHED as _ON_POLICY
from dpolicy.presets.parallel import PUBLISHED as _PARALLEL
from dpolicy.presets.review import PUBLISHED as _REVIEW
from dpolicy.presets.tuned import TUNED as _TUNED
from dpolicy.presets.tuned_off_policy import TUNED as _TUNED_OFF_POLICY

# The first pattern that matches `family/task` is used.
PRESETS: Table = joined(_TUNED, _TUNED_OFF_POLICY, _ON_POLICY, _OFF_POLICY, _REVIEW, _PARALLEL)

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
        ValueError: For a name that no preset has here.
    """
    found = presets_for(algorithm, env)
    if name == "none" or (name is None and not found):
        return {}
    if name is not None:
        _checks.one_of("preset", name, [*found, "none"])
    chosen = next(iter(found.values())) if name is None else found[name]
    return {**chosen.values, "source": chosen.source}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function that can be given by name and have a default, with it."""
    parameters = inspect.signature(function).parameters.values()
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name: p.default for p in parameters if p.kind in by_name and p.default is not p.empty}


def _name(what: str, given: Any) -> str:
    """The name of an algorithm or environment that was given by name, or as the function or class itself."""
    from dpolicy.algorithms import ALGORITHMS

    if isinstance(given, str):
        return _places.absolute(given) if _places.is_place(given) else given
    if not callable(given):
        raise ValueError(
            f"{what} must be a name, or the function or class that makes it, which is not called here, got "
            f"{_places.in_a_line(given)}."
        )
    known = [name for name, entry in ALGORITHMS.items() if entry.recipe is given]
    return known[0] if known else _places.place_of(given)


def _stored(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a configuration can hold; a function or an array stays in the recipe, as its default."""
    kept = {}
    for name, value in hyperparameters.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            continue
        kept[name] = value
    return kept


def _left_behind(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """None for atoms, bounds and the like that were chosen for another kind of critic than the one asked for."""
    from dpolicy.blocks import CRITIC_KINDS, left_behind

    before: Any = settings.get("critic")
    after = overrides.get("critic", before)
    if before not in CRITIC_KINDS or after not in CRITIC_KINDS:
        return {}
    return {name: None for name in left_behind(before, after) if name in settings}


def resolve(
    algorithm: str | Callable[..., Any],
    env: str | Callable[..., Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    choose: str | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole configuration of a run: defaults, then the preset, then `overrides`.

    With another kind of `critic` than that of defaults and preset, their atoms and bounds, chosen for it, do not stay.

    Args:
        algorithm: Name in `dpolicy.algorithms.ALGORITHMS`, or your own recipe as "path/to/file.py:NAME" or as the
            function itself, if it stands at the top level of a file. There are no presets for it.
        env: "family/task", or your own environment in the same ways.
        overrides: Hyperparameters of the recipe, settings of the program, and `steps`.
        choose: Name of the preset; see `preset`.
        env_options: What `dpolicy.envs.make` is told beside the name, e.g. `action_chunk`.

    Returns:
        `algorithm`, `env`, `steps`, `hyperparameters`, `program`, the preset's `source` (or None), and `env_options`
        where there are any.

    Raises:
        ValueError: For an override that neither the recipe nor the program knows, an unknown preset, or a recipe or
            environment of your own that cannot be loaded again by name.
    """
    from dpolicy.train import PROGRAMS
    from dpolicy.train.building import family_of
    from dpolicy.train.naming import recipe_of

    algorithm, env = _name("algorithm", algorithm), _name("env", env)
    family = family_of(algorithm)
    known = defaults(recipe_of(algorithm))
    hyperparameters = _stored(known)
    program = defaults(PROGRAMS[family])
    settings = preset(algorithm, env, choose)
    source = settings.pop("source", None)
    settings |= _left_behind(known | settings, overrides or {})
    settings |= overrides or {}
    steps = settings.pop("steps", DEFAULT_STEPS[family])
    for name, value in settings.items():
        _checks.one_of("setting", name, [*known, *program])
        (hyperparameters if name in known else program)[name] = value
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
