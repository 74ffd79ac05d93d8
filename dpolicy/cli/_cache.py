"""Compiled programs, kept between commands: the same program is compiled once on this machine."""

import contextlib
import os
from pathlib import Path

MOST_BYTES = 512_000_000  # a program takes a few hundred kilobytes


def folder() -> Path:
    """Where they are kept: `dpolicy/jax` in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`).

    Raises:
        RuntimeError: If there is no home.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "dpolicy" / "jax"


def keep_compiled() -> None:
    """Have JAX keep what it compiles in `folder()`, of which what was unused longest goes when it grows too large.

    A run that goes on with a program from there has the same bits. JAX names an entry by the program, the versions, the
    flags and the device (of a CPU: what it can do), so that none is found for another. Whoever set a folder of JAX's
    own (`JAX_COMPILATION_CACHE_DIR`) or turned its cache off (`JAX_ENABLE_COMPILATION_CACHE=false`) gets that; where
    the folder cannot be written, nothing is kept.
    """
    import jax

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return
    with contextlib.suppress(OSError, RuntimeError):
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK | os.X_OK):
            _prune(place)
            jax.config.update("jax_compilation_cache_dir", str(place))


def _prune(place: Path) -> None:
    """Remove the files that were unused longest, until the rest has at most `MOST_BYTES`."""
    found = [(path, path.stat()) for path in place.rglob("*") if path.is_file()]
    size = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda item: max(item[1].st_atime, item[1].st_mtime)):
        if size <= MOST_BYTES:
            break
        path.unlink(missing_ok=True)  # another command may have been faster
        size -= stat.st_size
