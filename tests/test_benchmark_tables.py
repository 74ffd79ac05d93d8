"""Tables of benchmarks that are made in parts, and the shares in them."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from dpolicy.envs import unequal_modes


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmarks, by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    yield importlib.import_module
    for name in ("kept", "laws", "fault_tables"):
        sys.modules.pop(name, None)


def test_every_module_has_tests_that_there_are(benchmark):
    tables = benchmark("fault_tables")
    names = {name for text in [*tables.TESTS.values(), tables.EVERYWHERE] for name in text.split()}
    assert names
    assert sorted(n for n in names if not (Path(__file__).parent / f"test_{n}.py").exists()) == []


def test_rows_of_one_run_join_those_of_another(benchmark, tmp_path):
    merged, path, head = benchmark("kept").merged, tmp_path / "table.md", "| task | method | value |"
    rule = "|---|---|---|"
    first = ["| a | x | 1 |", "| a | y | 2 |", "| b | x | 3 |"]
    assert merged(path, head, first, 2) == [head, rule, *first]
    path.write_text("\n".join(["Command: ...", "", head, rule, *first, "", "A remark."]))
    later = merged(path, head, ["| a | y | 20 |", "| c | x | 4 |"], 2)
    assert later[2:] == ["| a | x | 1 |", "| a | y | 20 |", "| b | x | 3 |", "| c | x | 4 |"]
    with pytest.raises(ValueError, match="must hold a table with the head"):
        merged(path, "| task | value |", [], 1)
    path.write_text("no table")
    with pytest.raises(ValueError, match="must hold a table with the head"):
        merged(path, head, first, 2)


def test_shares_of_samples(benchmark):
    laws, env = benchmark("laws"), unequal_modes()
    samples = np.array([[-0.9, -0.31, -0.29, 0.1], [0.29, 0.31, 0.7, -0.31]])[..., None]
    np.testing.assert_allclose(laws.mode_shares(env, samples), [[0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    assert laws.shares_text(np.array([0.1, 0.65, 0.25])) == ".100 / .650 / .250"
    assert laws.shares_text(np.array([0.0, 1.0])) == ".000 / 1.000"
    assert laws.shares_text(np.array([0.1251, 0.1249])) == ".125 each"
