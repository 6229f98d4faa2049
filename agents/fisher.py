"""Exact diagonal Fisher information of a Gaussian policy."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clrl.agents.per_sample import Gaussian, mean_sizes


def fisher_diagonal(
    gaussian: Gaussian, layers: Sequence[nn.Module], observations: Tensor, chunk: int = 1024
) -> list[Tensor]:
    """Diagonal of the Fisher information with respect to the parameters of some layers.

    For a Gaussian with mean m and standard deviation s it has the closed form

        F = E_obs sum_j [ (dm_j)^2 / s_j^2 + 2 (d log s_j)^2 ],

    the squares per sample.

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
    return mean_sizes(gaussian, _scores, torch.square, layers, observations, chunk)


def _scores(mean: Tensor, log_std: Tensor) -> list[Tensor]:
    """What the Fisher information is the sum of squared gradients of, each (batch,)."""
    scaled = mean * torch.exp(-log_std.detach())  # its gradient is that of the mean over s
    return [*scaled.unbind(dim=1), *(2**0.5 * log_std).unbind(dim=1)]
