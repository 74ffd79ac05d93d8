import os

import jax
import jax.numpy as jnp
import pytest
from host_program import CONFIG, SETTINGS, Toy, arrays
from jax.experimental.compilation_cache import compilation_cache

from dpolicy.cli import _cache, main
from dpolicy.cli._cache import keep_compiled
from dpolicy.train.loop import train_loop


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's cache folder, JAX as a command finds it, and programs of any size kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("enable_compilation_cache", "persistent_cache_min_compile_time_secs", "compilation_cache_dir")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    for name, value in zip(before, (True, 0.0, None), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield tmp_path / "cache" / "dpolicy" / "jax"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def hits():
    """Names of JAX's events: one for each program that was found."""
    seen = []
    listen = lambda event, **_: seen.append(event) if event.endswith("compilation_cache/cache_hits") else None
    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def test_a_resumed_run_finds_its_program_and_has_the_same_bits(tmp_path, folder, hits):
    whole = train_loop(Toy(), progress=False, **SETTINGS)
    keep_compiled()
    compilation_cache.reset_cache()
    options = {"directory": tmp_path / "run", "config": CONFIG, "progress": False}
    train_loop(Toy(), **options, **{**SETTINGS, "steps": 20})
    assert any(path.name.startswith("jit_step") for path in folder.iterdir())
    jax.clear_caches()
    hits.clear()
    resumed = train_loop(Toy(), **options, **SETTINGS, resume=True)
    assert hits
    for left, right in zip(arrays(whole.state), arrays(resumed.state), strict=True):
        assert left.tobytes() == right.tobytes()


def test_commands_keep_what_they_compile(folder, monkeypatch):
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    jax.jit(lambda x: x * 2)(jnp.ones(3))
    assert list(folder.iterdir())
    jax.config.update("jax_compilation_cache_dir", None)
    main(["envs", "bandit"])
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)


def test_what_the_user_decided_stays(tmp_path, folder, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)  # no folder can be made in a file
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert not folder.exists()


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _cache.folder() == tmp_path / ".cache" / "dpolicy" / "jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification has ignored
    assert _cache.folder() == tmp_path / ".cache" / "dpolicy" / "jax"


def test_what_was_unused_longest_goes(folder, monkeypatch):
    monkeypatch.setattr(_cache, "MOST_BYTES", 100)
    (folder / "below").mkdir(parents=True)
    for name, size, used in (("a", 50, 3), ("below/b", 30, 1), ("c", 40, 2), ("d", 10, 4)):
        (folder / name).write_bytes(b"x" * size)
        os.utime(folder / name, (used, used))
    keep_compiled()
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["a", "c", "d"]
    monkeypatch.setattr(_cache, "MOST_BYTES", 99)
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled()
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["a", "d"]
