"""Layer norm as Continual World has it."""

from typing import Any

from torch import nn


def add_layer_norm(layers: Any) -> None:
    """Put layer norm and tanh after the first of some layers, leaky ReLU after the others."""
    if len(layers) < 2:
        raise ValueError("layer_norm needs a hidden layer; give net_arch at least one")
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU):
            layers[i] = nn.LeakyReLU(0.2)
    layers[1] = nn.Tanh()
    layers.insert(1, nn.LayerNorm(layers[0].out_features))
