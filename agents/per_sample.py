"""Sizes of each sample's gradient in the layers of a policy, without a gradient per sample."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from clrl.agents.linear import linear

Gaussian = Callable[[Tensor], tuple[Tensor, Tensor]]
Terms = Callable[[Tensor, Tensor], Sequence[Tensor]]
Size = Callable[[Tensor], Tensor]


def mean_sizes(
    gaussian: Gaussian,
    terms: Terms,
    size: Size,
    layers: Sequence[nn.Module],
    observations: Tensor,
    chunk: int = 1024,
) -> list[Tensor]:
    """Mean over samples of the summed sizes of the gradients of some terms.

    The size of a product must be the product of sizes, as with squares and absolute values. In a
    Linear layer with inputs x and output gradients g the gradient of a sample is g x^T, so that the
    sum of sizes over samples is size(g)^T size(x): one product of matrices instead of a gradient
    per sample (Goodfellow, 2015, arXiv:1510.01799). All terms share x, so that their size(g) are
    added first and one product a layer serves them all.

    Args:
        gaussian: Observations (batch, obs) to mean and log-std, each (batch, act); samples must
            not mix.
        terms: What to differentiate, of mean and log-std: each term (batch,), of its own sample.
        size: `torch.square` or `torch.abs`.
        layers: `Linear` or `LayerNorm` layers on the way.
        observations: (samples, obs).
        chunk: Samples at a time, which bounds the memory.

    Returns:
        For each layer its weight's and, if it has one, its bias's, in order, entries >= 0.

    Raises:
        ValueError: no samples, or a layer of another kind.
    """
    if not len(observations):
        raise ValueError("gradients per sample need at least one observation")
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.LayerNorm):
            raise ValueError(f"no gradients per sample for a layer of type {type(layer).__name__}")
    totals = [torch.zeros_like(p) for layer in layers for p in layer.parameters()]
    for part in observations.split(chunk):
        inputs, outputs, values = _watched(gaussian, terms, layers, part)
        sizes = iter(_output_sizes(values, outputs, size))
        into = iter(totals)
        for layer, x in zip(layers, inputs, strict=True):
            own = [next(into) for _ in layer.parameters()]
            torch._foreach_add_(own, _sums(layer, x, next(sizes), size))
    return [total / len(observations) for total in totals]


def _watched(
    gaussian: Gaussian, terms: Terms, layers: Sequence[nn.Module], part: Tensor
) -> tuple[list[Tensor], list[Tensor], Sequence[Tensor]]:
    """What goes into each layer and comes out of it, and the terms."""
    inputs: dict[nn.Module, Tensor] = {}
    outputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[layer], outputs[layer] = args[0].detach(), output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.enable_grad():
            values = terms(*gaussian(part))
    finally:
        for handle in handles:
            handle.remove()
    return [inputs[layer] for layer in layers], [outputs[layer] for layer in layers], values


def _output_sizes(terms: Sequence[Tensor], outputs: list[Tensor], size: Size) -> list[Tensor]:
    """Sizes of the gradients of each sample's terms by layers' outputs, added over the terms."""
    sizes = [torch.zeros_like(output) for output in outputs]
    for term in terms:
        if not term.requires_grad:
            continue
        gradients = torch.autograd.grad(term.sum(), outputs, retain_graph=True, allow_unused=True)
        for total, gradient in zip(sizes, gradients, strict=True):
            if gradient is not None:
                total.add_(size(gradient))
    return sizes


def _sums(layer: nn.Module, x: Tensor, sizes: Tensor, size: Size) -> list[Tensor]:
    """Sums over samples of the sizes for a layer's weight and, if any, bias."""
    if isinstance(layer, nn.LayerNorm):
        normal = nn.functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        weight = (sizes * size(normal)).sum(dim=0)
    else:
        weight = linear(sizes.t(), size(x).t())
    sums = [weight, sizes.sum(dim=0)]
    return sums[: len(list(layer.parameters()))]
