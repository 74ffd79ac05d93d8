"""Weight normalisation: the rows of hidden layers on the unit sphere."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy.networks._backbones import BroNet, SimBa
from dpolicy.networks._batch_renorm import RenormMLP
from dpolicy.networks._layers import Linear
from dpolicy.networks._mlp import MLP


def _on_the_sphere(layer: Linear) -> Linear:
    # The parts of an input share one row.
    square = sum(jnp.sum(weight**2, axis=-1, keepdims=True) for weight in layer.weights)
    scale = jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(layer.bias.dtype).tiny))
    return eqx.tree_at(lambda x: x.weights, layer, tuple(scale * weight for weight in layer.weights))


def unit_rows(model: Any) -> Any:
    """`model` with every row of its hidden layers scaled to norm 1; output layers, biases and norms stay.

    After every gradient step it keeps the share of a step in a layer's weights from shrinking as they grow (XQC, arXiv
    2509.25174, with batch norm); for networks whose layers are followed by norms, where a layer's size says little.
    Models hold any number of perceptrons (`MLP`, `RenormMLP`), `SimBa`s and `BroNet`s, stacked or not.
    """
    kinds = (MLP, RenormMLP, SimBa, BroNet)

    def project(node: Any) -> Any:
        if not isinstance(node, kinds):
            return node
        hidden = lambda n: [*n.layers[:-1], *(layer for pair in getattr(n, "inner", ()) for layer in pair)]
        layers = hidden(node)
        return eqx.tree_at(hidden, node, list(map(_on_the_sphere, layers))) if layers else node

    return jax.tree.map(project, model, is_leaf=lambda node: isinstance(node, kinds))
