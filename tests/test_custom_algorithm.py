"""An unpublished combination in a dozen lines, trained, then swept over seeds and temperatures in one jit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FLAGS

README = Path(__file__).parent.parent / "README.md"


def block(marker: str) -> str:
    """What README shows after a marker, so that what the reader copies is what is tested."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


# The example, what it prints, lines of its algorithm, hyperparameters and seeds, how near each mean is, the worst run.
EXAMPLES = [
    ("custom-algorithm", 10, (4, 8), 0.15, -1.2),
    # At the highest rate some seeds end in a corner of the box, others do not: their mean is another elsewhere.
    ("stages-algorithm", 25, (3, 4), [0.3, 0.15, 2.5], -np.inf),
]


@pytest.mark.parametrize(("marker", "lines", "runs", "near", "worst"), EXAMPLES)
def test_a_readme_example_is_short_and_sweeps(marker, lines, runs, near, worst):
    source = block(marker)
    body = source.split("# the algorithm\n")[1].split("# the sweep\n")[0]
    assert len([line for line in body.splitlines() if line.strip()]) < lines
    # As a reader would run it, in a process of its own, optimised: it runs for longer than it compiles.
    environment = {**os.environ, "XLA_FLAGS": " ".join(["--xla_backend_optimization_level=1", *FLAGS[1:]])}
    script = source + "\nimport json\nprint(json.dumps(returns.tolist()))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    printed, every = done.stdout.splitlines()
    returns = np.asarray(json.loads(every))
    assert returns.shape == runs  # hyperparameters x seeds
    # What README says is printed, up to what another processor's rounding makes of a run that learns.
    shown, got = (np.fromstring(row.strip("[]\n"), sep=" ") for row in (block(f"{marker}-output"), printed))
    assert shown.shape == runs[:1]
    assert np.all(np.abs(got - shown) <= near)
    # Uniformly random actions earn -4.7: no run of the first is near that, and none of the second with lower rates.
    assert returns.min() > worst and returns[:2].min() > -1.2
    # Every seed and every value is a run of its own (what ends in the same corner earns the same).
    assert (len(np.unique(returns[:, 0])), len(np.unique(returns[0]))) == runs
