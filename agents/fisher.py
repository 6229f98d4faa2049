"""Exact diagonal Fisher information of a Gaussian policy."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from clrl.agents.linear import linear

Gaussian = Callable[[Tensor], tuple[Tensor, Tensor]]


def fisher_diagonal(
    gaussian: Gaussian, layers: Sequence[nn.Module], observations: Tensor, chunk: int = 1024
) -> list[Tensor]:
    """Diagonal of the Fisher information with respect to the parameters of some layers.

    For a Gaussian with mean m and standard deviation s it has the closed form

        F = E_obs sum_j [ (dm_j)^2 / s_j^2 + 2 (d log s_j)^2 ].

    The squares are per sample. In a Linear layer with inputs x and output gradients g the gradient
    of a sample is g x^T, so that the sum of squares over samples is (g*g)^T (x*x): one product of
    matrices instead of a gradient per sample (Goodfellow, 2015, arXiv:1510.01799). All j share x,
    so that their g*g are added first and one product a layer serves them all.

    Args:
        gaussian: Observations (batch, obs) to mean and log-std, each (batch, act); samples must
            not mix.
        layers: `Linear` or `LayerNorm` layers on the way.
        observations: States the policy visits, (samples, obs).
        chunk: Samples at a time, which bounds the memory.

    Returns:
        For each layer its weight's and, if it has one, its bias's Fisher, in order, entries >= 0.

    Raises:
        ValueError: no samples, or a layer of another kind.
    """
    if not len(observations):
        raise ValueError("the Fisher information needs at least one observation")
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.LayerNorm):
            raise ValueError(f"no exact Fisher for a layer of type {type(layer).__name__}")
    totals = [torch.zeros_like(p) for layer in layers for p in layer.parameters()]
    for part in observations.split(chunk):
        _accumulate(gaussian, layers, part, totals)
    return [total / len(observations) for total in totals]


def _accumulate(
    gaussian: Gaussian, layers: Sequence[nn.Module], part: Tensor, totals: list[Tensor]
) -> None:
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[layer], outputs[layer] = args[0].detach(), output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            mean, log_std = gaussian(part)
    finally:
        for handle in handles:
            handle.remove()
    scaled = mean * torch.exp(-log_std.detach())  # its gradient is that of the mean over s
    terms = [*scaled.unbind(dim=1), *(2**0.5 * log_std).unbind(dim=1)]
    squares = _squared_gradients(terms, [outputs[layer] for layer in layers])
    targets = iter(totals)
    for layer, square in zip(layers, squares, strict=True):
        own = [next(targets) for _ in layer.parameters()]
        torch._foreach_add_(own, _sums(layer, inputs[layer], square))


def _squared_gradients(terms: Sequence[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Squared gradients of each sample's terms by some layers' outputs, added over the terms."""
    squares = [torch.zeros_like(output) for output in outputs]
    for term in terms:
        if not term.requires_grad:
            continue
        gradients = torch.autograd.grad(term.sum(), outputs, retain_graph=True, allow_unused=True)
        for square, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                square.addcmul_(gradient, gradient)
    return squares


def _sums(layer: nn.Module, x: Tensor, squares: Tensor) -> list[Tensor]:
    """Sums over samples of the squared gradients of a layer's weight and, if any, bias."""
    if isinstance(layer, nn.LayerNorm):
        normal = nn.functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        weight = (squares * normal.square()).sum(dim=0)
    else:
        weight = linear(squares.t(), x.square().t())
    sums = [weight, squares.sum(dim=0)]
    return sums[: len(list(layer.parameters()))]
