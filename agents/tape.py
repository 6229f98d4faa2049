"""Forward and backward through a network without autograd.

An update of SAC asks for few of the gradients that a graph would compute, and its products are
small enough for a graph's bookkeeping to count. This keeps what a backward pass needs, and computes
what it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.compress import Pair
from clrl.agents.fused import fused
from clrl.agents.lanes import Aside
from clrl.agents.linear import Linear, by_input, by_weight, product
from clrl.agents.progressive import Level
from clrl.agents.switch import Switch

_LONG = 2**23  # multiplications that take longer than to wake another thread


class Tape:
    """Layers of a network, and what they saw in the latest forward pass."""

    def __init__(self, network: nn.Sequential | Switch | nn.Linear, keep: bool = True) -> None:
        """Take a network; of layers for each skill, the active one.

        Layers that `supports` does not hold for are left to autograd, one at a time. Without `keep`
        there is no way back; a forward pass then takes less memory, and so less time.
        """
        self._layers = _joined(_layers(network))
        self._keep = keep
        self._seen: list[tuple[Tensor, ...]] = []

    @staticmethod
    def supports(network: nn.Module) -> bool:
        """Whether it has nothing for autograd: known layers, and each alters only its own input."""
        kinds = [type(layer) for layer in _layers(network)]
        known = all(kind in _FORWARD for kind in kinds)
        return known and all(
            kind not in _IN_PLACE or before not in _IN_PLACE
            for before, kind in zip([nn.ReLU, *kinds], kinds, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Output for a batch (batch, in), (batch, out)."""
        self._seen = []
        for layer in self._layers:
            through: Forward = _FORWARD.get(type(layer), _other)
            x, seen = through(layer, x)
            if self._keep:
                self._seen.append(seen)
            del seen  # so that its memory, still in the cache, serves the next layer
        return x

    def backward(
        self, gradient: Tensor, *, weights: bool = True, inputs: slice | None = None
    ) -> Any:
        """Gradients by that of the output, (batch, out).

        Args:
            gradient: Of a loss with respect to what `forward` returned; it may be overwritten.
            weights: Set `.grad` of the parameters; what was there is dropped.
            inputs: Columns of the input whose gradient to return; None for none.

        Returns:
            The gradient with respect to those columns, a tensor, or None.
        """
        result: Tensor | None = gradient
        with Aside(gradient.device) as aside:
            for i in reversed(range(len(self._layers))):
                layer, asked = self._layers[i], slice(None) if i else inputs
                back: Backward = _BACKWARD.get(type(layer), _other_back)
                result = back(layer, self._seen[i], result, aside if weights else None, asked)
        return result


def _layers(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, Switch) and not isinstance(network, Level):
        return [network.layers[network.active]]
    if isinstance(network, nn.Sequential):
        return [layer for part in network for layer in _layers(part)]
    return [network]


@dataclass(frozen=True)
class _Activated:
    """A linear layer and the activation after it, which cost little more in one pass."""

    linear: nn.Linear
    activation: str
    slope: float


_ACTIVATIONS = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.LeakyReLU: "leaky_relu"}


def _joined(layers: Sequence[nn.Module]) -> list[Any]:
    joined: list[Any] = []
    for layer in layers:
        if type(layer) in _ACTIVATIONS and joined and isinstance(joined[-1], nn.Linear):
            slope: float = getattr(layer, "negative_slope", 0.0)
            joined[-1] = _Activated(joined[-1], _ACTIVATIONS[type(layer)], slope)
        else:
            joined.append(layer)
    return joined


# Forward: (layer, x) to the output and what the backward pass needs.
# Backward: (layer, that, gradient, whom to leave weights' gradients, columns of x) to x's.

Forward = Callable[[Any, Tensor], tuple[Tensor, tuple[Tensor, ...]]]
Backward = Callable[[Any, Sequence[Tensor], Any, Aside | None, slice | None], Tensor | None]


def _linear(layer: nn.Linear, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    return product(x, layer.weight, layer.bias), (x,)


def _linear_back(
    layer: nn.Linear,
    seen: Sequence[Tensor],
    gradient: Tensor,
    aside: Aside | None,
    asked: slice | None,
) -> Tensor | None:
    if aside is not None:
        layer.bias.grad = gradient.sum(dim=0)
    return _weight_back(layer, seen[0], gradient, aside, asked)


def _weight_back(
    layer: nn.Linear, x: Tensor, gradient: Tensor, aside: Aside | None, asked: slice | None
) -> Tensor | None:
    weight = layer.weight
    if aside is not None:
        work = partial(_set_gradient, weight, gradient, x)
        if asked is None or x.shape[0] * weight.numel() < _LONG:
            work()
        else:
            aside.add(work)
    if asked is None:
        return None
    return by_input(gradient, weight if asked == slice(None) else weight[:, asked])


def _set_gradient(weight: Tensor, gradient: Tensor, x: Tensor) -> None:
    weight.grad = by_weight(gradient, x)


def _level(level: Level, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    parts = [product(x[:, : c.in_features], c.weight, c.bias) for c in level.columns]
    return torch.cat(parts, dim=1), (x,)


def _level_back(
    level: Level, seen: Sequence[Tensor], gradient: Tensor, aside: Aside | None, asked: slice | None
) -> Tensor | None:
    own = level.columns[-1]  # the others are frozen
    return _linear_back(own, seen, gradient[:, -own.out_features :], aside, asked)


def _activated(layer: _Activated, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    linear = layer.linear
    y = product(x, linear.weight, linear.bias, layer.activation, layer.slope)
    return y, (x, y)


def _activated_back(
    layer: _Activated,
    seen: Sequence[Tensor],
    gradient: Tensor,
    aside: Aside | None,
    asked: slice | None,
) -> Tensor | None:
    x, y = seen
    if aside is not None:
        before, layer.linear.bias.grad = _through_and_sum(
            gradient, y, layer.activation, layer.slope
        )
    else:
        before = _through(gradient, y, layer.activation, layer.slope)
    return _weight_back(layer.linear, x, before, aside, asked)


def _back(gradient: Tensor, y: Tensor, activation: str, slope: float) -> Tensor:
    """Gradient by the input of an activation, from its output; on a CPU it replaces that by it."""
    before: Tensor
    if gradient.is_cpu:
        before = _replaced(gradient, y, activation, slope)
    elif activation == "tanh":
        before = torch.ops.aten.tanh_backward(gradient, y)
    elif activation == "relu":
        before = torch.ops.aten.threshold_backward(gradient, y, 0)
    else:
        before = torch.ops.aten.leaky_relu_backward(gradient, y, slope, True)
    return before


def _replaced(gradient: Tensor, y: Tensor, activation: str, slope: float) -> Tensor:
    """The same in memory that is in the cache, which halves its time."""
    if activation == "tanh":
        torch.ops.aten.tanh_backward.grad_input(gradient, y, grad_input=gradient)
    elif activation == "relu":
        torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)
    else:
        leaky = torch.ops.aten.leaky_relu_backward.grad_input
        leaky(gradient, y, slope, True, grad_input=gradient)
    return gradient


_through = fused(_back)


@fused
def _through_and_sum(
    gradient: Tensor, y: Tensor, activation: str, slope: float
) -> tuple[Tensor, Tensor]:
    before = _back(gradient, y, activation, slope)
    return before, before.sum(dim=0)


def _relu(_: nn.ReLU, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    y = x.relu_()
    return y, (y,)


def _relu_back(_: nn.ReLU, seen: Sequence[Tensor], gradient: Tensor, *__: Any) -> Tensor:
    return _back(gradient, seen[0], "relu", 0.0)


def _leaky(layer: nn.LeakyReLU, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    y = nn.functional.leaky_relu_(x, layer.negative_slope)
    return y, (y,)


def _leaky_back(layer: nn.LeakyReLU, seen: Sequence[Tensor], gradient: Tensor, *_: Any) -> Tensor:
    return _back(gradient, seen[0], "leaky_relu", layer.negative_slope)


def _tanh(_: nn.Tanh, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    y = x.tanh_()
    return y, (y,)


def _tanh_back(_: nn.Tanh, seen: Sequence[Tensor], gradient: Tensor, *__: Any) -> Tensor:
    return _back(gradient, seen[0], "tanh", 0.0)


def _norm(layer: nn.LayerNorm, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    y, mean, scale = torch.native_layer_norm(
        x, layer.normalized_shape, layer.weight, layer.bias, layer.eps
    )
    return y, (x, mean, scale)


def _norm_back(
    layer: nn.LayerNorm, seen: Sequence[Tensor], gradient: Tensor, aside: Aside | None, _: Any
) -> Tensor:
    x, mean, scale = seen
    back: Tensor
    back, weight, bias = torch.ops.aten.native_layer_norm_backward(
        gradient,
        x,
        layer.normalized_shape,
        mean,
        scale,
        layer.weight,
        layer.bias,
        [True, aside is not None, aside is not None],
    )
    if aside is not None:
        layer.weight.grad, layer.bias.grad = weight, bias
    return back


def _other(layer: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y: Tensor = layer(x)
    return y.detach().clone(), (x, y)  # what follows may alter its input


def _other_back(
    layer: nn.Module, seen: Sequence[Tensor], gradient: Tensor, aside: Aside | None, _: Any
) -> Tensor:
    x, y = seen
    own = list(layer.parameters()) if aside is not None else []
    back, *gradients = torch.autograd.grad(y, [x, *own], gradient)
    for parameter, value in zip(own, gradients, strict=True):
        parameter.grad = value
    return back


_IN_PLACE = (nn.ReLU, nn.LeakyReLU, nn.Tanh)
_FORWARD: dict[type, Forward] = {
    nn.Linear: _linear,
    Linear: _linear,
    Level: _level,
    Pair: _level,
    _Activated: _activated,
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky,
    nn.Tanh: _tanh,
    nn.LayerNorm: _norm,
}
_BACKWARD: dict[type, Backward] = {
    nn.Linear: _linear_back,
    Linear: _linear_back,
    Level: _level_back,
    Pair: _level_back,
    _Activated: _activated_back,
    nn.ReLU: _relu_back,
    nn.LeakyReLU: _leaky_back,
    nn.Tanh: _tanh_back,
    nn.LayerNorm: _norm_back,
}
