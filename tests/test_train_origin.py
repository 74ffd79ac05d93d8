"""What is recorded of where a run comes from."""

import shutil
import subprocess
import sys

import pytest

from dpolicy.train.origin import command_line, commit_of, version_changes


@pytest.fixture
def checkout(tmp_path):
    """A function that makes a repository with a package, and returns the package."""
    if shutil.which("git") is None:
        pytest.skip(
            "what git says of a checkout is tested on one that git makes, and it is not installed here"
        )

    def make(*, tracked=True):
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (tmp_path / "other").write_text("")
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        for words in (["init", "-q"], ["add", "." if tracked else "other"], [*who, "commit", "-qm", "one"]):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
        return package

    return make


def test_the_commit_of_a_checkout(checkout, monkeypatch):
    package = checkout()
    # As within a hook of another repository.
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    commit = commit_of(package)
    assert len(commit) == 40
    assert set(commit) <= set("0123456789abcdef")
    commit_of.cache_clear()
    (package / "__init__.py").write_text("changed = True")
    assert commit_of(package) == f"{commit}+changes"


def test_a_package_that_is_installed_in_a_repository_is_none_of_it(checkout):
    assert commit_of(checkout(tracked=False)) is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    package = checkout()
    monkeypatch.setenv("PATH", "")
    assert commit_of(package) is None


def test_a_package_outside_of_repositories(tmp_path):
    assert commit_of(tmp_path) is None


def test_versions_that_may_break_something():
    then = {"python": "3.11.1", "jax": "0.9.1", "optax": "1.2.3", "equinox": "0.13.1", "commit": "a"}
    now = {"python": "3.12.1", "jax": "0.10.1", "optax": "1.3.0", "equinox": "0.13.2", "commit": "b"}
    assert version_changes(then, now, major=True) == "python 3.11.1 (now 3.12.1), jax 0.9.1 (now 0.10.1)"
    assert version_changes({**now, "optax": "2.0.0"}, now, major=True) == "optax 2.0.0 (now 1.3.0)"
    everything = version_changes(then, now, major=False)
    assert everything.startswith(
        "python 3.11.1 (now 3.12.1), jax 0.9.1 (now 0.10.1), optax 1.2.3 (now 1.3.0)"
    )
    assert everything.endswith("equinox 0.13.1 (now 0.13.2), commit a (now b)")
    # What was not recorded then is not compared.
    assert version_changes({}, now, major=False) == ""


def test_the_command_is_what_the_shell_was_given(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dpolicy", "train", "--out", "the run"])
    assert command_line() == "python -m dpolicy train --out 'the run'"
