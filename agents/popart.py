"""PopArt: a value's scale that moves with its targets and leaves its outputs as they were.

van Hasselt et al., "Learning values across many orders of magnitude" (NeurIPS 2016,
arXiv:1602.07714); one scale a skill as in Hessel et al., "Multi-task Deep Reinforcement Learning
with PopArt" (AAAI 2019, arXiv:1809.04474).
"""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.actor_critic import Network

_RATE = 0.1  # of the moving moments, a rollout; the first rollout sets them
_LEAST, _MOST = 1e-4, 1e6  # of a standard deviation


class PopArt(nn.Module):
    """Mean and standard deviation of the returns of each skill.

    A skill's value head predicts n, and its value is V = std * n + mean. When the moments move, the
    head's weight w and bias b follow:

        w' = std / std' * w        b' = (std * b + mean - mean') / std'

    so that V stays for every state (eq. 9 of the paper).

    Attributes:
        mean: (max_skills,), float64 as all.
        square: Mean of the squares.
        count: Rollouts seen.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, max_skills: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(max_skills, dtype=torch.float64))
        self.register_buffer("square", torch.ones(max_skills, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(max_skills, dtype=torch.float64))

    def std(self, skill: int) -> Tensor:
        """Standard deviation of a skill's returns, ()."""
        variance = self.square[skill] - self.mean[skill].square()
        return variance.clamp(_LEAST**2, _MOST**2).sqrt()

    @torch.no_grad()
    def update(self, skill: int, returns: Tensor, head: Any) -> None:
        """Move a skill's moments towards those of returns (rows,), and its head with them."""
        mean, std = self.mean[skill].clone(), self.std(skill)
        self.count[skill] += 1.0
        rate = torch.clamp(1.0 / self.count[skill], min=_RATE)
        returns = returns.double()
        self.mean[skill].lerp_(returns.mean(), rate)
        self.square[skill].lerp_(returns.square().mean(), rate)
        new = self.std(skill)
        head.weight.copy_(head.weight.double() * std / new)
        head.bias.copy_((head.bias.double() * std + mean - self.mean[skill]) / new)

    def critic(self, skill: int, network: Network) -> "ScaledCritic":
        """A critic that gives values where its network gives what the head predicts."""
        return ScaledCritic(network, self.mean[skill].float(), self.std(skill).float())


class ScaledCritic:
    """A critic whose loss is that of values divided by their standard deviation."""

    def __init__(self, network: Network, mean: Tensor, std: Tensor) -> None:
        self._network, self._mean, self._std = network, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Values for features (batch, in), (batch, 1)."""
        return self._network.forward(x) * self._std + self._mean

    def backward(self, gradient: Tensor) -> None:
        """Set `.grad`, by the gradient of a squared error of the values (batch, 1).

        The error of what the head predicts is that of the value over the standard deviation.
        """
        self._network.backward(gradient / self._std)
