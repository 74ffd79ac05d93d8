"""An unpublished combination in a dozen lines, trained, then swept over seeds and temperatures in one jit."""

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parent.parent / "README.md"


def example() -> str:
    """The README's custom algorithm, so that what the reader copies is what is tested."""
    text = README.read_text(encoding="utf-8")
    found = re.search(r"<!-- custom-algorithm -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


def test_the_readme_example_is_short_and_sweeps():
    source = example()
    body = source.split("# the algorithm\n")[1].split("# the sweep\n")[0]
    assert len([line for line in body.splitlines() if line.strip()]) < 15
    scope: dict = {}
    exec(source, scope)
    returns = np.asarray(scope["returns"])
    assert returns.shape == (4, 8)  # temperatures x seeds
    assert np.isfinite(returns).all()
    # The bandit pays at most 0; a uniformly random policy earns -4.7.
    assert returns.mean(axis=1).max() > -0.2
    assert len(np.unique(returns)) == returns.size  # every seed and temperature is a run of its own
