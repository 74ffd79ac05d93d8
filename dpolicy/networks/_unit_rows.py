"""Weight normalisation: the rows of layers on the unit sphere."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from dpolicy.networks._backbones import BroNet, SimBa
from dpolicy.networks._batch_renorm import RenormMLP
from dpolicy.networks._flash_net import FlashNet
from dpolicy.networks._layers import Linear
from dpolicy.networks._mlp import MLP


def _on_the_sphere(layer: Linear) -> Linear:
    # The parts of an input share one row.
    square = sum(jnp.sum(weight**2, axis=-1, keepdims=True) for weight in layer.weights)
    scale = jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(layer.bias.dtype).tiny))
    return eqx.tree_at(lambda x: x.weights, layer, tuple(scale * weight for weight in layer.weights))


def _like_ones(*arrays: Array) -> list[Array]:
    """Arrays together scaled to the norm of as many ones as the features that the first half of them are of."""
    features = sum(array.shape[-1] for array in arrays) / 2
    square = sum(jnp.sum(array**2, axis=-1, keepdims=True) for array in arrays)
    scale = jnp.sqrt(features) * jax.lax.rsqrt(square + 1e-8)
    return [scale * array for array in arrays]


def _of_flash_net(net: FlashNet) -> FlashNet:
    layers = lambda n: [*n.layers, *(layer for pair in n.inner for layer in pair)]
    net = eqx.tree_at(layers, net, list(map(_on_the_sphere, layers(net))))
    # The norms of an input's parts are one norm.
    for norms in (lambda n: n.inputs, *(lambda n, i=i: n.norms[i : i + 1] for i in range(len(net.norms)))):
        arrays = lambda n, norms=norms: [array for norm in norms(n) for array in (norm.scale, norm.shift)]
        net = eqx.tree_at(arrays, net, _like_ones(*arrays(net)))
    own, _ = _like_ones(net.scale, jnp.zeros_like(net.scale))
    return eqx.tree_at(lambda n: n.scale, net, own)


def unit_rows(model: Any) -> Any:
    """`model` with every row of its hidden layers scaled to norm 1; output layers, biases and norms stay.

    After every gradient step it keeps the share of a step in a layer's weights from shrinking as they grow (XQC, arXiv
    2509.25174, with batch norm); for networks whose layers are followed by norms, where a layer's size says little.
    Models hold any number of perceptrons (`MLP`, `RenormMLP`), `SimBa`s and `BroNet`s, stacked or not. Of a `FlashNet`
    the output layer's rows are scaled too, and what its norms learn.
    """
    kinds = (MLP, RenormMLP, SimBa, BroNet, FlashNet)

    def project(node: Any) -> Any:
        if isinstance(node, FlashNet):
            return _of_flash_net(node)
        if not isinstance(node, kinds):
            return node
        hidden = lambda n: [*n.layers[:-1], *(layer for pair in getattr(n, "inner", ()) for layer in pair)]
        layers = hidden(node)
        return eqx.tree_at(hidden, node, list(map(_on_the_sphere, layers))) if layers else node

    return jax.tree.map(project, model, is_leaf=lambda node: isinstance(node, kinds))
