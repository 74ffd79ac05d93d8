"""What finds modes: categorical values, warping and clustering, episodes of a ring, groups and their heirs, novelty."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.losses import categorical_cross_entropy, categorical_loss, categorical_target, support
from dpolicy.modes import (
    average_linkage,
    balanced,
    bounded_by_group,
    by_group,
    clusters,
    draw_by_label,
    finished_episodes,
    heirs,
    kept_episodes,
    mode_discovery,
    novelty_reward,
    path_distances,
    paths,
    per_group,
    positional_encoding,
    shares,
    time_warping,
)
from dpolicy.train import Replay


def test_projection_onto_atoms(x64):
    law = jnp.asarray([0.2, 0.5, 0.3])
    project = lambda reward, term, discount: np.asarray(
        categorical_target(law, jnp.asarray(reward), jnp.asarray(term), discount, low=0.0, high=2.0)
    )
    np.testing.assert_allclose(project(0.0, False, 1.0), law)
    # 0.25 + 0.5 z = 0.25, 0.75, 1.25: each between two atoms.
    np.testing.assert_allclose(
        project(0.25, False, 0.5), [0.2 * 0.75 + 0.5 * 0.25, 0.2 * 0.25 + 0.5 * 0.75 + 0.3 * 0.75, 0.3 * 0.25]
    )
    np.testing.assert_allclose(project(0.5, True, 0.9), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(project(7.0, False, 0.9), [0.0, 0.0, 1.0])
    np.testing.assert_allclose(project(-7.0, False, 0.9), [1.0, 0.0, 0.0])
    atoms = support(0.0, 2.0, 3)
    assert atoms @ project(0.25, False, 0.5) == pytest.approx(0.25 + 0.5 * float(atoms @ law))
    with pytest.raises(ValueError, match="high - low must be a finite number in"):
        support(1.0, 1.0, 3)


def test_loss_of_atoms(x64):
    p, y = np.asarray([0.7, 0.2, 0.1]), np.asarray([0.5, 0.2, 0.05])
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(categorical_loss(jnp.log(p), jnp.asarray(y)), expected, rtol=1e-12)
    slope = jax.grad(categorical_loss)(jnp.log(y), jnp.asarray(y))
    np.testing.assert_allclose(slope, 0, atol=1e-12)  # stationary at p = y, though y does not sum to one
    certain = jax.nn.log_softmax(jnp.asarray([800.0, 0.0, 0.0]))
    value, slope = jax.value_and_grad(categorical_loss)(certain, jnp.asarray([0.0, 0.0, 0.0]))
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_cross_entropy_of_atoms(x64):
    logits, y = jnp.asarray([1.0, -0.5, 0.3]), jnp.asarray([0.5, 0.2, 0.3])
    loss = lambda logits, c: categorical_cross_entropy(jax.nn.log_softmax(logits), y, entropy_weight=c)
    p = np.exp(logits) / np.sum(np.exp(logits))
    np.testing.assert_allclose(loss(logits, 0.0), -np.sum(y * np.log(p)), rtol=1e-12)
    slope = (1 + 0.1 * np.log(p)) * p - y - 0.1 * p * np.sum(p * np.log(p))
    np.testing.assert_allclose(jax.grad(loss)(logits, 0.1), slope, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(loss)(jnp.log(y), 0.0), 0, atol=1e-12)
    certain = categorical_cross_entropy(
        jax.nn.log_softmax(jnp.asarray([800.0, 0.0])), jnp.asarray([0.0, 1.0])
    )
    assert certain == 800  # where a probability underflows


def warping_by_hand(x, y):
    table = np.full((len(x) + 1, len(y) + 1), np.inf)
    table[0, 0] = 0
    for i in range(len(x)):
        for j in range(len(y)):
            least = min(table[i, j], table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = np.sum((x[i] - y[j]) ** 2) + least
    return np.sqrt(table[-1, -1])


def test_time_warping(x64, getkey):
    walks = np.asarray(jnp.cumsum(jax.random.normal(getkey(), (5, 7, 2)), axis=1))
    lengths = np.asarray([7, 1, 4, 6, 2])
    ours = jax.jit(path_distances)(*map(jnp.asarray, (walks, lengths, walks, lengths)))
    cut = [walk[:n] for walk, n in zip(walks, lengths, strict=True)]
    np.testing.assert_allclose(ours, [[warping_by_hand(x, y) for y in cut] for x in cut], rtol=1e-12)
    # The same path at another speed is no distance away; one point off by 3 costs 3.
    slow = jnp.asarray([[0.0], [0.0], [1.0], [2.0], [2.0]])
    fast = jnp.asarray([[0.0], [1.0], [2.0], [9.0], [9.0]])
    warp = lambda n, m: float(time_warping(slow, fast, jnp.asarray(n), jnp.asarray(m)))
    assert warp(5, 3) == 0
    assert warp(5, 2) == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("seed", range(3))
def test_average_linkage_is_that_of_scipy(x64, seed):
    points = np.random.default_rng(seed).normal(size=(12, 2))
    full = np.linalg.norm(points[:, None] - points[None], axis=-1)
    valid = np.arange(12) % 5 != 4
    tree = linkage(squareform(full[valid][:, valid]), method="average")
    ours = jax.jit(average_linkage)(jnp.asarray(full), jnp.asarray(valid))
    count = valid.sum() - 1
    np.testing.assert_allclose(ours.height[:count], tree[:, 2], rtol=1e-12)
    assert np.isinf(ours.height[count:]).all()
    for options, cut in (
        ({}, 0.7 * tree[:, 2].max()),
        ({"share": 0.4}, 0.4 * tree[:, 2].max()),
        ({"threshold": 1.1}, 1.1),
    ):
        theirs = fcluster(tree, t=cut, criterion="distance")
        cluster, number = clusters(jnp.asarray(full), jnp.asarray(valid), **options)
        mine = np.asarray(cluster)[valid]
        assert int(number) == len(set(theirs)) == len(set(mine))
        np.testing.assert_array_equal(mine[:, None] == mine[None], theirs[:, None] == theirs[None])
        np.testing.assert_array_equal(np.asarray(cluster)[~valid], -1)


def test_clusters_of_few_items():
    none = clusters(jnp.zeros((3, 3)), jnp.zeros(3, bool))
    one = clusters(jnp.zeros((3, 3)), jnp.asarray([False, True, False]))
    same = clusters(jnp.zeros((3, 3)), jnp.ones(3, bool))
    assert [int(count) for _, count in (none, one, same)] == [0, 1, 1]
    np.testing.assert_array_equal(one[0], [-1, 0, -1])
    np.testing.assert_array_equal(same[0], 0)


def ring(lengths, ends, capacity, num_envs, steps):
    """A ring after `steps` steps of all environments, and every finished episode in the order in which they ended.

    Environment e plays episodes of `lengths[e]` over and over; those of `ends[e]` terminate, the others run out of
    time. An observation holds (environment, episode, step).
    """
    blank = Transition(
        jnp.zeros(3), jnp.zeros(1), jnp.zeros(()), jnp.zeros(3), jnp.asarray(False), jnp.asarray(False)
    )
    replay, log, rows = Replay.start(blank, capacity), [], {}
    for t in range(steps):
        obs = np.zeros((num_envs, 3), np.float32)
        for e in range(num_envs):
            episode, step = divmod(t, lengths[e])
            obs[e] = e, episode, step
            rows.setdefault((e, episode), []).append((t * num_envs + e) % capacity)
        over = np.asarray([(t + 1) % n == 0 for n in lengths])
        term = over & np.asarray(ends)
        reward = jnp.asarray(obs[:, 2] + 1)
        obs = jnp.asarray(obs)
        replay = replay.add(
            Transition(obs, obs[:, :1], reward, obs, jnp.asarray(term), jnp.asarray(over & ~term))
        )
        log += [(e, t // lengths[e], t - lengths[e] + 1) for e in range(num_envs) if over[e]]
    return Stored(replay.data, replay.cursor, replay.size, num_envs), log, rows


@pytest.mark.parametrize("steps", [5, 8, 19, 24])
def test_whole_episodes_are_found_in_a_ring(steps):
    """Before it is full, and when it wraps: the most recent first, none of which a part is gone."""
    capacity, n = 24, 3  # eight steps of three environments
    stored, log, rows = ring([2, 3, 5], [True, False, True], capacity, n, steps)
    kept = [(e, k, began) for e, k, began in log if began >= steps - 8]
    if steps >= 8:  # whether the oldest step that is left begins an episode is not known
        kept = [entry for entry in kept if entry[2] > steps - 8]
    found = jax.jit(lambda s: finished_episodes(Stored(*s, n), 12))(stored[:3])
    count = int(jnp.sum(found.length > 0))
    assert count == len(kept)
    order = sorted(kept, key=lambda entry: (entry[2] + [2, 3, 5][entry[0]], entry[0]), reverse=True)
    for i, (e, k, _) in enumerate(order):
        where = rows[e, k]
        assert [int(found.first[i]), int(found.last[i]), int(found.length[i])] == [
            where[0],
            where[-1],
            len(where),
        ]
        assert float(found.returns[i]) == sum(range(1, len(where) + 1))
        assert bool(found.terminated[i]) == (e != 1)
    few = finished_episodes(stored, 2)
    np.testing.assert_array_equal(few.first, found.first[:2])
    kept_later = kept_episodes(stored, found, margin=2)
    margin = finished_episodes(stored, 12, margin=2)
    np.testing.assert_array_equal(np.sort(kept_later.length), np.sort(margin.length))
    np.testing.assert_array_equal((kept_later.length == 0) | (kept_later.length == found.length), True)
    odd = finished_episodes(stored, 12, among=jnp.arange(capacity) % 2 == 1)
    assert set(np.asarray(odd.last)[np.asarray(odd.length) > 0]) == {
        row for row in np.asarray(found.last)[:count] if row % 2 == 1
    }
    last_to_go = [entry for entry in kept if entry[2] >= steps - 6]  # two more steps fit into the margin
    assert int(jnp.sum(margin.length > 0)) == (len(last_to_go) if steps >= 8 else len(kept))


def test_paths_are_thinned_only_where_they_are_long():
    stored, *_ = ring([2, 3, 5], [True, True, True], 60, 3, 20)
    episodes = finished_episodes(stored, 40)
    taken, counts = paths(stored, episodes, 3, (2, 0))
    for path, count, length in zip(taken, counts, np.asarray(episodes.length), strict=True):
        if length == 0:
            assert count == 1
            continue
        assert count == min(length, 3)
        np.testing.assert_array_equal(path[:count, 0], {2: [0, 1], 3: [0, 1, 2], 5: [0, 2, 4]}[int(length)])
        assert len(set(np.asarray(path[:, 1]))) == 1


def test_rows_are_drawn_by_label(getkey):
    stored, _, rows = ring([2, 3, 5], [True, True, True], 66, 3, 20)
    episodes = finished_episodes(stored, 40)
    env = np.asarray(stored.items.obs[episodes.last, 0])
    label = jnp.asarray(np.where(np.asarray(episodes.length) > 0, 2 * (env == 0) + (env == 2), 0))
    wanted = jnp.repeat(jnp.asarray([1, 2, 0, 3]), 4000)
    drawn = jax.jit(lambda key: draw_by_label(stored, episodes, label.astype(int), wanted, 3, key))(getkey())
    shown = np.asarray(stored.items.obs)[np.asarray(drawn)].reshape(4, 4000, 3)
    assert set(shown[0, :, 0]) == {2.0}
    assert set(shown[1, :, 0]) == {0.0}
    assert set(shown[2, :, 0]) == set(shown[3, :, 0]) == {0.0, 1.0, 2.0}
    # Uniform over transitions: long episodes in proportion to their length. 20 rows with 200 draws each, to 5 sigma.
    counts = np.unique(np.asarray(drawn)[:4000], return_counts=True)[1]
    assert len(counts) == sum(len(where) for (e, _), where in rows.items() if e == 2)
    assert np.abs(counts - 4000 / len(counts)).max() < 5 * np.sqrt(4000 / len(counts))


@pytest.mark.parametrize("live", [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("size", [4, 7, 16, 21])
def test_equal_shares_and_evaluation_by_group(x64, live, size, getkey):
    """Check (b): shares equal up to one; every item is evaluated, and differentiated, with the model of its group."""
    live = jnp.asarray(live, bool)
    group = np.asarray(shares(live, size))
    counts = np.bincount(group, minlength=4)
    assert counts[np.asarray(live)].max() - counts[np.asarray(live)].min() <= 1
    assert counts[~np.asarray(live)].sum() == 0
    models, x = jax.random.normal(getkey(), (4, 2)), jax.random.normal(getkey(), (size, 2))
    function = lambda model, row: (jnp.sin(model) @ row, row)
    value, same = by_group(function, models, live, x)
    np.testing.assert_array_equal(same, x)
    dense = lambda models: jnp.sum(jnp.sin(models[group]) * x, axis=1)
    np.testing.assert_allclose(value, dense(models), rtol=1e-12)
    squares = lambda f: jax.grad(lambda models: jnp.sum(f(models) ** 2))(models)
    ours = squares(lambda models: by_group(function, models, live, x)[0])
    np.testing.assert_allclose(ours, squares(dense), rtol=1e-12)


def test_a_batch_must_hold_every_group():
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 4, got 3"):
        shares(jnp.ones(4, bool), 3)


def test_norms_and_optimisers_of_groups(x64):
    rows, group = jnp.asarray([[3.0, 0.0], [0.0, 4.0], [0.3, 0.4]]), jnp.asarray([0, 0, 2])
    np.testing.assert_allclose(
        bounded_by_group(rows, group, 3, 1.0), [[0.6, 0.0], [0.0, 0.8], [0.3, 0.4]], rtol=1e-12
    )
    single = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    parameters = {"a": jnp.asarray([[1.0], [2.0]]), "b": jnp.asarray([3.0, 4.0])}
    gradient = {"a": jnp.asarray([[30.0], [0.1]]), "b": jnp.asarray([40.0, 0.2])}
    several = per_group(single)
    updates, _ = several.update(gradient, several.init(parameters), parameters)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], (parameters, gradient))
        expected, _ = single.update(own[1], single.init(own[0]), own[0])
        np.testing.assert_allclose(jax.tree.map(lambda leaf, i=i: leaf[i], updates)["a"], expected["a"])


def test_heirs_by_hand():
    # Clusters 0 and 2 both share most with mode 1; cluster 1 continues mode 3; cluster 3 is new.
    overlap = jnp.asarray([[2, 0, 1, 0], [0, 0, 7, 0], [5, 0, 0, 0], [0, 0, 0, 0]])
    found = heirs(overlap, jnp.asarray(4))
    np.testing.assert_array_equal(found.place, [2, 3, 1, 4])
    np.testing.assert_array_equal(found.source, [0, 1, 1, 3, 0])
    np.testing.assert_array_equal(found.live, True)
    np.testing.assert_array_equal(found.kept, [True, True, False, True, False])
    fewer = heirs(overlap, jnp.asarray(2))
    np.testing.assert_array_equal(fewer.place, [1, 3, 0, 0])
    np.testing.assert_array_equal(fewer.live, [True, True, False, True, False])
    nobody = heirs(overlap, jnp.asarray(0))
    np.testing.assert_array_equal(nobody.live, [True, False, False, False, False])


@pytest.mark.parametrize("seed", range(5))
def test_numbering_clusters_otherwise_changes_no_heir(seed):
    """Check (d)."""
    rng = np.random.default_rng(seed)
    overlap = rng.permutation(36).reshape(6, 6) * (rng.random((6, 6)) < 0.4)
    order = np.concatenate([rng.permutation(5), [5]])  # five clusters
    find = jax.jit(heirs)
    one, other = find(jnp.asarray(overlap), jnp.asarray(5)), find(jnp.asarray(overlap[order]), jnp.asarray(5))
    parents = lambda found: np.asarray(found.source)[np.asarray(found.place)[:5]]
    np.testing.assert_array_equal(parents(other), parents(one)[order[:5]])
    np.testing.assert_array_equal(one.kept, other.kept)
    # A mode's best heir has its place, under any numbering.
    for found, rows in ((one, overlap), (other, overlap[order])):
        for g in np.flatnonzero(np.asarray(found.kept))[1:]:
            claims = [rows[i, g - 1] for i in range(5) if parents(found)[i] == g]
            assert rows[np.flatnonzero(np.asarray(found.place) == g)[0], g - 1] == max(claims)


def test_balanced_choice():
    eligible = jnp.asarray([1, 1, 1, 1, 0, 1, 1], bool)
    stratum = jnp.asarray([0, 0, 0, 0, 1, 1, 2])
    index, valid = balanced(eligible, stratum, 3, 5)
    np.testing.assert_array_equal(index, [0, 5, 6, 1, 2])
    assert valid.all()
    index, valid = balanced(eligible, stratum, 3, 7)
    assert valid.sum() == 6
    assert index[6] == 4


def arms(angles, success, num=None, length=6):
    """A full-enough ring of straight episodes from the origin, one environment per angle."""
    t = np.arange(length)[:, None, None] / length
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    obs = jnp.asarray(np.concatenate([t * direction[None], np.zeros((1, len(angles), 2))]), jnp.float32)
    obs = obs[:length].reshape(-1, 2)
    over = np.zeros((length, len(angles)), bool)
    over[-1] = True
    term, time = over & np.asarray(success), over & ~np.asarray(success)
    size, capacity = obs.shape[0], 2 * obs.shape[0]
    pad = lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)])
    items = Transition(
        obs,
        jnp.zeros((size, 2)),
        jnp.asarray(np.where(over, 1.0, 0.0).ravel(), jnp.float32),
        obs,
        jnp.asarray(term.ravel()),
        jnp.asarray(time.ravel()),
    )
    stored = Stored(jax.tree.map(pad, items), jnp.asarray(size), jnp.asarray(size), len(angles))
    return stored, jnp.zeros(capacity, bool)


SMALL = {
    "max_modes": 3,
    "remembered_episodes": 12,
    "clustered_episodes": 8,
    "path_points": 4,
    "discovery_interval": 1,
}


def test_modes_are_found_and_keep_their_numbers(getkey):
    angles = np.asarray([0.0, 0.1, -0.1, 2.0, 2.1, 0.3, 1.7])
    success = [True] * 5 + [False] * 2
    stored, unseen = arms(angles, success)
    find = mode_discovery(**SMALL)
    look = jax.jit(lambda modes, seen, key: find.look(modes, stored, seen, key))
    modes = find.start(getkey())
    np.testing.assert_array_equal(modes.live, [True, False, False, False])
    first, found = look(modes, unseen, getkey())

    def of_env(modes):
        there = np.asarray(modes.episodes.length) > 0
        env = np.asarray(modes.episodes.last)[there] % 7
        assert sorted(env) == list(range(7))  # each episode once
        return np.asarray(modes.label)[there][np.argsort(env)]

    assert int(jnp.sum(first.live)) == 3
    label = of_env(first)
    assert len(set(label[[0, 1, 2, 5]])) == len(set(label[[3, 4, 6]])) == 1  # failures joined the nearest
    assert label[0] != label[3]
    assert 0 not in label
    np.testing.assert_array_equal(found.source, 0)
    # Seen again they are the same, with their names; the number of a place that is not in use means nothing.
    again, found = look(first, ~unseen, getkey())
    np.testing.assert_array_equal(of_env(again), label)
    np.testing.assert_array_equal(again.embedding, first.embedding)
    np.testing.assert_array_equal(
        np.asarray(found.source)[np.asarray(again.live)], np.flatnonzero(again.live)
    )
    # Had the two been known the other way round, they would be found that way round.
    swap = np.asarray([0, 2, 1, 3])
    known = eqx.tree_at(lambda m: m.label, first, jnp.asarray(swap, jnp.int32)[first.label])
    other, _ = look(known, ~unseen, getkey())
    np.testing.assert_array_equal(of_env(other), swap[label])


def test_a_rare_mode_is_remembered(getkey):
    """Eleven episodes one way and one the other, with place for six: the one stays, look after look."""
    stored, unseen = arms(np.asarray([2.0, *np.linspace(-0.1, 0.1, 11)]), [True] * 12)
    find = mode_discovery(
        **SMALL | {"remembered_episodes": 6, "clustered_episodes": 6, "cluster_distance": 1.0}
    )
    look = jax.jit(lambda modes, seen, key: find.look(modes, stored, seen, key))
    # The rare one was known before and comes last; all others are new.
    alone, _ = look(find.start(getkey()), jnp.arange(unseen.shape[0]) % 12 != 0, getkey())
    modes, _ = look(alone, jnp.arange(unseen.shape[0]) % 12 == 0, getkey())
    assert int(jnp.sum(modes.live)) == 3
    assert np.all(modes.episodes.length == 6)
    assert int(jnp.sum(modes.episodes.last % 12 == 0)) == 1


def test_what_is_no_success_makes_no_mode_and_too_many_make_one(getkey):
    angles = 2 * np.pi * np.arange(8) / 8
    stored, unseen = arms(angles, [False] * 8)

    def found(**options):
        find = mode_discovery(**SMALL | options)
        look = jax.jit(lambda key: find.look(find.start(key), stored, unseen, key))
        modes, _ = look(getkey())
        return int(jnp.sum(modes.live)) - 1, set(
            np.asarray(modes.label)[np.asarray(modes.episodes.length) > 0]
        )

    assert found() == (0, {0})
    assert found(success_return=0.5, cluster_distance=0.2) == (1, {1})
    assert found(success_return=0.5, cluster_distance=0.2, max_modes=8) == (8, set(range(1, 9)))
    assert found(success_return=1.5) == (0, {0})
    # All of it will be overwritten before the next look.
    assert found(success_return=0.5, discovery_interval=100) == (0, set())


@pytest.mark.parametrize("position", [(), (0, 0), (0, -1)])
def test_positions_are_entries(position):
    with pytest.raises(ValueError, match="position must be"):
        mode_discovery(position=position)


def test_novelty(x64, getkey):
    np.testing.assert_allclose(
        positional_encoding(jnp.asarray([0.3, -1.0]), 2),
        [0.3, -1.0, *np.sin([0.3, -1.0, 0.6, -2.0]), *np.cos([0.3, -1.0, 0.6, -2.0])],
    )
    sizes = {"novelty_hidden": (16,), "novelty_features": 4, "novelty_frequencies": 2}
    new = novelty_reward(**sizes, position=(1,), novelty_scale=3.0, novelty_learning_rate=3e-3)

    class Spec:
        obs_size = 3

    state = new.start(getkey(), Spec)
    obs = jax.random.normal(getkey(), (32, 3))
    batch = Transition(obs, obs, obs[:, 0], obs[::-1], obs[:, 0] > 9, obs[:, 0] > 9)
    n = jax.vmap(lambda obs: new.novelty(state, obs))
    expected = 3 * np.maximum(n(batch.next_obs) - 0.5 * n(batch.obs), 0)
    np.testing.assert_allclose(jax.vmap(lambda b: new.reward(state, b))(batch), expected, rtol=1e-12)
    seen, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: new.fit(s, batch), s, None, length=300))(state)
    later = jax.vmap(lambda obs: new.novelty(seen, obs))(obs)
    assert jnp.mean(later) < 0.5 * jnp.mean(n(obs))
    np.testing.assert_array_equal(seen.target.layers[0].bias, state.target.layers[0].bias)
    with pytest.raises(ValueError, match="an entry of position must be an integer from 0 to 2, got 3"):
        novelty_reward(**sizes, position=(3,)).start(getkey(), Spec)
