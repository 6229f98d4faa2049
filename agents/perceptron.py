"""Multilayer perceptrons run forward and backward by hand, without a graph."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.linear import product

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


class Perceptron:
    """Linear layers in a row, each followed by tanh, ReLU or nothing.

    It refers to the layers of a network and owns no weights. Values and gradients are autograd's up
    to the order of summation; without a graph an update of small networks takes half the time.

    Attributes:
        parameters: Weight and bias of each layer, in order.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Take layers in the order they are applied.

        Raises:
            ValueError: there is a layer of another kind, or an activation without a linear layer.
        """
        self._layers: list[nn.Linear] = []
        self._activations: list[str] = []
        for module in modules:
            if isinstance(module, nn.Linear) and module.bias is not None:
                self._layers.append(module)
                self._activations.append("none")
            elif type(module) in _ACTIVATIONS and self._activations[-1:] == ["none"]:
                self._activations[-1] = _ACTIVATIONS[type(module)]
            else:
                raise ValueError(f"no perceptron has a {type(module).__name__} there")
        self.parameters: list[Any] = [
            p for layer in self._layers for p in (layer.weight, layer.bias)
        ]
        self._values: list[Tensor] = []

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Output for inputs (batch, in), shape (batch, out); remembers what `backward` needs."""
        self._values = [x]
        for layer, activation in zip(self._layers, self._activations, strict=True):
            x = product(x, layer.weight, layer.bias, activation == "tanh")
            x = x.relu_() if activation == "relu" else x
            self._values.append(x)
        return x

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> list[Tensor]:
        """Gradients of `parameters`, summed over the last batch, from the output's (batch, out)."""
        gradients: list[Tensor] = []
        for i in reversed(range(len(self._layers))):
            gradient = _through(self._activations[i], gradient, self._values[i + 1])
            gradients += [gradient.sum(dim=0), _outer(gradient, self._values[i])]
            if i:
                gradient = product(gradient, self._layers[i].weight.t())
        return gradients[::-1]


def _through(activation: str, gradient: Tensor, output: Tensor) -> Tensor:
    """Gradient of an activation's input."""
    if activation == "tanh":
        gradient = torch.ops.aten.tanh_backward(gradient, output)
    if activation == "relu":
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
    return gradient


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient.T @ x; the product is faster with the narrower factor first."""
    if x.shape[1] < gradient.shape[1]:
        return product(x.t(), gradient.t()).t().contiguous()
    return product(gradient.t(), x.t())
