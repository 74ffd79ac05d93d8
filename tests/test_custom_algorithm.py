"""An unpublished combination in a dozen lines, trained, then swept over seeds and temperatures in one jit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import FLAGS

README = Path(__file__).parent.parent / "README.md"
OUTPUT = "custom-algorithm-output"


def block(marker: str) -> str:
    """What README shows after a marker, so that what the reader copies is what is tested."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


def test_the_readme_example_is_short_and_sweeps():
    source = block("custom-algorithm")
    body = source.split("# the algorithm\n")[1].split("# the sweep\n")[0]
    assert len([line for line in body.splitlines() if line.strip()]) < 15
    # As a reader would run it, in a process of its own, optimised: it runs for longer than it compiles.
    environment = {**os.environ, "XLA_FLAGS": " ".join(["--xla_backend_optimization_level=1", *FLAGS[1:]])}
    script = source + "\nimport json\nprint(json.dumps(returns.tolist()))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    printed, every = done.stdout.splitlines()
    returns = np.asarray(json.loads(every))
    assert returns.shape == (4, 8)  # temperatures x seeds
    # What README says is printed, up to what another processor's rounding makes of a run that learns.
    shown, got = (np.fromstring(row.strip("[]\n"), sep=" ") for row in (block(OUTPUT), printed))
    assert shown.shape == (4,)
    np.testing.assert_allclose(got, shown, atol=0.15)
    # Uniformly random actions earn -4.7: none of the runs is near that, at any temperature.
    assert returns.min() > -1.2
    assert len(np.unique(returns)) == returns.size  # every seed and temperature is a run of its own
