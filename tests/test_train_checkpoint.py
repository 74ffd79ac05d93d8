"""Checkpoints on a disk that fails: flipped bits, no space, another process that deletes."""

import contextlib
import json
import random
import resource
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_program import CONFIG, SETTINGS, Toy, arrays

from dpolicy.train.checkpoint import Checkpoints, _digest, _whole
from dpolicy.train.configuration import seed_keys
from dpolicy.train.loop import train_loop

LIKE = jax.eval_shape(jax.vmap(Toy().init), seed_keys(SETTINGS["seed"], SETTINGS["seeds"]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    train_loop(Toy(), directory=directory, config=CONFIG, progress=False, **SETTINGS)
    return directory


@pytest.fixture
def copy(tmp_path, trained):
    return Path(shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints"))


def read(directory):
    """State (as bytes) and host values of the newest checkpoint."""
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        state, host = checkpoints.restore(LIKE)
        paths = sorted(checkpoints.arrays().items())
    finally:
        checkpoints.close()
    return [leaf.tobytes() for leaf in arrays(state)], [(path, a.tobytes()) for path, a in paths], host


def outcome(directory):
    """What `read` gives, or the sentence with which it refuses."""
    try:
        return read(directory)
    except ValueError as error:
        return str(error)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_a_flipped_bit_is_noticed_or_without_effect(copy, capfd):
    sound, numbers, noticed = read(copy), random.Random(0), set()
    for file in sorted((copy / "6").rglob("*")):
        data = file.read_bytes() if file.is_file() else b""
        for bit in numbers.sample(range(len(data) * 8), min(10, len(data) * 8)):
            file.write_bytes(flipped(data, bit))
            found = outcome(copy)
            if found != sound:
                assert found == f"checkpoint 6 in {copy} is damaged; remove it to go on from 5."
                noticed.add(file.relative_to(copy / "6").parts[:2])
            file.write_bytes(data)
    assert {("about", "metadata"), ("state", "d"), ("state", "manifest.ocdbt")} <= noticed
    assert capfd.readouterr().err == ""


def test_a_flipped_bit_in_a_number_is_noticed(tmp_path):
    """Of an array that is too large to lie within the structures that have checksums of their own."""
    state = {"a": jax.random.normal(jax.random.key(0), (1, 40, 40))}
    writer = Checkpoints(tmp_path)
    writer.save(1, state, {})
    writer.close()
    sound, numbers = np.asarray(state["a"]), random.Random(0)

    def found():
        reader = Checkpoints(tmp_path, read_only=True)
        try:
            return reader.arrays()["['a']"]
        except ValueError as error:
            return str(error)
        finally:
            reader.close()

    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file()]
    large = [path for path in files if path.stat().st_size > sound.nbytes / 2]
    assert large
    for file in large:
        data = file.read_bytes()
        for bit in numbers.sample(range(len(data) * 8), 25):
            file.write_bytes(flipped(data, bit))
            is_refused = f"checkpoint 1 in {tmp_path} is damaged" in str(read_now := found())
            assert is_refused or np.array_equal(read_now, sound)
        file.write_bytes(data)


def test_every_bit_of_the_description_counts(copy):
    file = copy / "6" / "about" / "metadata"
    data, passed = file.read_bytes(), 0
    whole = _whole(json.loads(data))
    for bit in range(len(data) * 8):
        try:
            assert _whole(json.loads(flipped(data, bit))) == whole
            passed += 1
        except ValueError:  # of JSON's as well
            continue
    assert passed < 0.02 * len(data) * 8  # e.g. an e for an E


def test_bytes_as_another_type_or_shape_are_other_bytes(copy):
    file = copy / "6" / "about" / "metadata"
    about = json.loads(file.read_bytes())
    checkpoints = Checkpoints(copy, read_only=True)
    stored = checkpoints.arrays()[".weights"]
    checkpoints.close()
    for other in (stored.view(np.int32), stored.reshape(4, 3, 4)):
        assert _digest(other) != about["digests"][0] == _digest(stored)


@pytest.mark.parametrize("damage", ["both", "older gone"])
def test_the_newest_sound_one_is_named(copy, damage):
    for number in ("6", "5"):
        (file,) = (copy / number / "state" / "d").iterdir()
        file.write_bytes(b"\0" * file.stat().st_size)
        with pytest.raises(
            ValueError, match=r"6 in .* is damaged; remove it to go on from 5\.$|no older one"
        ):
            read(copy)
        if damage == "older gone":
            shutil.rmtree(copy / "5")
            break
    with pytest.raises(
        ValueError, match="checkpoint 6 in .* is damaged; there is no older one to go on from"
    ):
        read(copy)


def test_a_checkpoint_from_before_digests_is_read(copy):
    file = copy / "6" / "about" / "metadata"
    sound, about = read(copy), json.loads(file.read_bytes())
    file.write_text(json.dumps({name: about[name] for name in ("leaves", "generators", "host")}))
    assert read(copy) == sound
    # But one that has lost its digests is none.
    for name in ("digests", "digest"):
        file.write_text(json.dumps({key: value for key, value in about.items() if key != name}))
        with pytest.raises(ValueError, match="checkpoint 6 in .* is damaged"):
            read(copy)


def test_the_next_one_is_read_where_one_is_deleted_meanwhile(tmp_path):
    save = lambda number: writer.save(number, {"a": jnp.full((1, 2), number)}, {"chunk": number})
    writer = Checkpoints(tmp_path)
    save(1)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest() == 1
    save(2), save(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    # The list itself is read while one vanishes, and once more.
    reload, tries = reader._manager.reload, iter([FileNotFoundError(), NotADirectoryError()])

    def vanishing():
        for error in tries:
            raise error
        reload()

    reader._manager.reload = vanishing
    assert reader.host() == {"chunk": 3}
    reader._manager.reload = reload
    save(4), save(5)
    np.testing.assert_array_equal(reader.arrays()["['a']"], [[5, 5]])
    writer.close()
    reader.close()


@contextlib.contextmanager
def room_for(size):
    """Files may not grow beyond `size`, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Each stops at another of the files that a checkpoint is made of.
@pytest.mark.parametrize("size", [0, 60, 100, 200, 300, 400, 500, 1_000])
def test_no_room_is_one_sentence_and_leaves_the_last_one(copy, capfd, size):
    shutil.rmtree(copy / "5")
    sound = read(copy)
    checkpoints = Checkpoints(copy)
    state, host = checkpoints.restore(LIKE)
    with room_for(size), pytest.raises(OSError, match="File too large") as caught:
        checkpoints.save(7, state, host)
    checkpoints.close()
    assert caught.value.strerror == (
        "File too large, so checkpoint 7 could not be written (a resume goes on from 6)"
    )
    assert caught.value.filename == str(copy)
    assert capfd.readouterr().err == ""
    assert read(copy) == sound
    # What was left half is cleaned up by the next start, when nothing of this process is under way any more.
    assert cleaned(copy) == ["6"]
    checkpoints = Checkpoints(copy)
    checkpoints.save(8, state, host)
    checkpoints.close()
    assert read(copy) == sound


def cleaned(directory):
    for _ in range(100):
        Checkpoints(directory).close()
        found = sorted(path.name for path in directory.iterdir())
        if len(found) == 1:
            break
        time.sleep(0.05)
    return found
