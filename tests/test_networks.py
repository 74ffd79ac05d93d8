import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.networks import (
    ACTIVATIONS,
    INITIALISATIONS,
    MLP,
    LayerNorm,
    QNetwork,
    ValueNetwork,
    elu,
    ensemble,
    mish,
    nearest_orthogonal,
)


def test_elu_keeps_its_digits(x64):
    magnitudes = jnp.logspace(-12, 3, 400)
    x = jnp.concatenate([-magnitudes, jnp.zeros(1), magnitudes])
    exact = jnp.where(x > 0, x, jnp.expm1(x))
    np.testing.assert_allclose(elu(x), exact, rtol=1e-14)
    np.testing.assert_allclose(elu(x.astype(jnp.float32)), exact, rtol=4e-7)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(elu))(x), jnp.where(x > 0, 1, jnp.exp(x)), rtol=1e-10, atol=1e-15
    )
    curvature = jax.vmap(jax.grad(jax.grad(elu)))(x)
    np.testing.assert_allclose(curvature[:400], jnp.exp(x[:400]), rtol=1e-10, atol=1e-15)
    np.testing.assert_array_equal(curvature[-400:], 0)


def test_mish_is_accurate_in_single_precision(x64):
    x = jnp.concatenate([jnp.linspace(-60, 60, 4001), jnp.linspace(-3, 3, 1000), jnp.array([-1e4, 1e4])])
    exact = x * jnp.tanh(jnp.logaddexp(x, 0.0))
    slope = jax.vmap(jax.grad(lambda v: v * jnp.tanh(jnp.logaddexp(v, 0.0))))(x)
    single = x.astype(jnp.float32)
    assert float(jnp.max(jnp.abs(mish(single) - exact) / jnp.maximum(1, jnp.abs(exact)))) < 3e-6
    # The quotient rule subtracts two terms of size 2 |x|: a few roundings of those.
    error = jnp.abs(jax.vmap(jax.grad(mish))(single) - slope)
    assert bool(jnp.all(error < 4 * jnp.finfo(jnp.float32).eps * (1 + jnp.minimum(jnp.abs(x), 20))))
    np.testing.assert_allclose(mish(x[:4001]), exact[:4001], atol=1e-13)


@pytest.mark.parametrize("shape", [(6, 6), (30, 4), (5, 40)])
def test_nearest_orthogonal(shape, x64, getkey):
    matrix = jax.random.normal(getkey(), shape)
    u, _, vt = np.linalg.svd(np.asarray(matrix), full_matrices=False)
    np.testing.assert_allclose(nearest_orthogonal(matrix), u @ vt, atol=1e-10)


def products(jaxpr):
    """Every matrix product of a program, those inside its loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products(inner)


def test_orthogonal_weights_ask_for_full_precision(getkey):
    """Devices that multiply in TF32 would leave them orthogonal to three digits."""
    make = lambda key: MLP((100,), 300, hidden=(7,), initialisation="orthogonal", key=key)
    program, _, _ = eqx.filter_make_jaxpr(make)(getkey())
    asked = [equation.params["precision"] for equation in products(program.jaxpr)]
    highest = jax.lax.Precision.HIGHEST
    assert asked == [(highest, highest)] * 4


def test_initialisation_statistics(getkey):
    weights = {}
    for how in INITIALISATIONS:
        layer = MLP((100,), 300, hidden=(), initialisation=how, key=getkey()).layers[0]
        weights[how] = layer.weights[0]
        assert layer.weights[0].shape == (300, 100)
        if how == "torch":
            assert 0.09 < float(jnp.max(jnp.abs(layer.bias))) <= 0.1
        else:
            assert not jnp.any(layer.bias)
    orthogonal = np.asarray(weights["orthogonal"], float)  # multiplied on the host, a device may take TF32
    np.testing.assert_allclose(orthogonal.T @ orthogonal, 2 * np.eye(100), atol=1e-5)
    bounds = {"lecun_uniform": 3 / 100, "xavier_uniform": 6 / 400, "torch": 1 / 100}
    for how, square in bounds.items():
        assert 0.99 < float(jnp.max(jnp.abs(weights[how]))) / square**0.5 <= 1
    # Four standard errors of a variance estimated from 30 000 draws.
    for how, variance in {"lecun_normal": 1 / 100, "he_normal": 2 / 100, "lecun_uniform": 1 / 100}.items():
        assert abs(float(jnp.var(weights[how])) / variance - 1) < 4 * (2 / 30_000) ** 0.5


def test_split_first_layer_is_the_concatenated_one(x64, getkey):
    mlp = MLP((3, 1, 4), 2, hidden=(5,), key=getkey())
    parts = [jax.random.normal(getkey(), (n,)) for n in (3, 1, 4)]
    first = mlp.layers[0]
    joined = jnp.concatenate(first.weights, axis=1)
    np.testing.assert_allclose(joined @ joined.T, 2 * np.eye(5), atol=1e-10)
    expected = mlp.layers[1](jax.nn.relu(joined @ jnp.concatenate(parts) + first.bias))
    np.testing.assert_allclose(mlp(*parts), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="takes 3 inputs, got 2"):
        mlp(*parts[:2])


def test_share_of_an_unbatched_part_is_computed_once(getkey):
    q = QNetwork(7, 2, hidden=(16,), key=getkey())
    over_proposals = jax.make_jaxpr(jax.vmap(q, (None, 0)))(jnp.ones(7), jnp.ones((50, 2)))
    dots = [e for e in over_proposals.jaxpr.eqns if e.primitive.name == "dot_general"]
    from_obs = [e for e in dots if any(v.aval.shape == (7,) for v in e.invars)]
    assert [e.outvars[0].aval.shape for e in from_obs] == [(16,)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, getkey):
    mlp = MLP((3,), 2, hidden=(4,), activation=activation, final_activation=True, key=getkey())
    x = jnp.array([0.5, -1.0, 2.0])
    reference = mish if activation == "mish" else getattr(jax.nn, activation)
    first, last = mlp.layers
    np.testing.assert_allclose(mlp(x), reference(last(reference(first(x)))), rtol=1e-6)


def test_layer_norm(x64, getkey):
    x = jax.random.normal(getkey(), (6,))
    np.testing.assert_allclose(LayerNorm(6)(x), (x - x.mean()) / np.sqrt(x.var() + 1e-6), rtol=1e-12)
    mlp = MLP((6,), 1, hidden=(5,), layer_norm=True, key=getkey())
    first, last = mlp.layers
    np.testing.assert_allclose(mlp(x), last(jax.nn.relu(mlp.norms[0](first(x)))), rtol=1e-12)


def test_final_scale(getkey):
    key = getkey()

    def make(scale):
        return MLP((3,), 2, hidden=(4,), initialisation="torch", final_scale=scale, key=key)

    x = jnp.ones(3)
    np.testing.assert_allclose(make(0.01)(x), 0.01 * make(1.0)(x), rtol=1e-5)
    np.testing.assert_array_equal(make(0)(x), jnp.zeros(2))


def test_ensemble_is_its_members(getkey):
    twin = ensemble(lambda key: QNetwork(3, 2, hidden=(4,), key=key), 2, key=getkey())
    obs, action = jnp.ones(3), jnp.array([0.3, -0.7])
    values = twin(obs, action)
    assert values.shape == (2,)
    assert values[0] != values[1]
    np.testing.assert_allclose([twin[0](obs, action), twin[1](obs, action)], values, rtol=1e-6)
    batch = jax.vmap(twin)(jnp.ones((5, 3)), jnp.ones((5, 2)))
    assert batch.shape == (5, 2)
    with pytest.raises(ValueError, match="index must be an integer from -2 to 1, got 2"):
        twin[2]


def test_value_network(getkey):
    value = ValueNetwork(3, hidden=(4,), key=getkey())
    assert value(jnp.ones(3)).shape == ()
    gradient = jax.grad(lambda v: v(jnp.ones(3)))(value)
    np.testing.assert_array_equal(gradient.mlp.layers[-1].bias, [1.0])


@pytest.mark.parametrize("layer_norm", [False, True])
def test_residual_network(layer_norm, x64, getkey):
    mlp = MLP(
        (2, 3), 2, hidden=(4,) * 5, activation="mish", residual=True, layer_norm=layer_norm, key=getkey()
    )
    x, obs = jax.random.normal(getkey(), (2,)), jax.random.normal(getkey(), (3,))
    norms = mlp.norms if layer_norm else [lambda x: x] * 5
    first, *hidden, last = mlp.layers
    h = first(x, obs)
    h = h + hidden[1](mish(norms[1](hidden[0](mish(norms[0](h))))))
    h = h + hidden[3](mish(norms[3](hidden[2](mish(norms[2](h))))))
    np.testing.assert_allclose(mlp(x, obs), last(h), rtol=1e-12)
    # With its inner layers at zero nothing is left but the two linear maps.
    zero = eqx.tree_at(
        lambda m: m.layers[1:-1], mlp, replace_fn=lambda layer: jax.tree.map(jnp.zeros_like, layer)
    )
    np.testing.assert_allclose(zero(x, obs), last(first(x, obs)), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "rleu"}, "activation must be one of .* Did you mean relu"),
        ({"initialisation": "lecun"}, "initialisation must be one of .* Did you mean lecun"),
        ({"hidden": (4, -1)}, "hidden must be an integer of at least 1, got -1"),
        ({"out_size": 0}, "out_size must be an integer of at least 1, got 0"),
        ({"final_scale": -1.0}, "final_scale must be"),
        ({"residual": True}, r"hidden must be 3, 5, 7, ... equal widths for a residual network, got \(4,\)"),
        ({"residual": True, "hidden": (4,) * 4}, r"equal widths for a residual network, got \(4, 4, 4, 4\)"),
        ({"residual": True, "hidden": (4, 4, 5)}, r"equal widths for a residual network, got \(4, 4, 5\)"),
    ],
)
def test_bad_arguments(options, message, getkey):
    arguments = {"out_size": 2, "hidden": (4,), **options}
    with pytest.raises(ValueError, match=message):
        MLP((3,), key=getkey(), **arguments)
    with pytest.raises(ValueError, match="size must be an integer of at least 1, got 0"):
        ensemble(lambda key: QNetwork(3, 2, key=key), 0, key=getkey())
