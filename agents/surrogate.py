"""PPO's loss (Schulman et al., 2017, arXiv:1707.06347) and its gradient in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clrl.agents.rows import Rows

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gradient:
    """Gradient of the loss by what the networks gave, and figures for the log.

    Attributes:
        mean: (batch, act).
        log_std: (act,).
        value: (batch, 1).
        figures: Loss of the policy, loss of the value, loss of the entropy, share of clipped
            ratios, divergence; (5,).
    """

    mean: Tensor
    log_std: Tensor
    value: Tensor
    figures: Tensor


@dataclass(frozen=True)
class Surrogate:
    """The loss of a Gaussian policy: surrogate - ent_coef * entropy + vf_coef * value's.

    Attributes:
        clip: How far the ratio of probabilities may move.
        clip_value: How far the value may move, or None.
        ent_coef: Weight of the entropy.
        vf_coef: Weight of the value's squared error.
        normalize: Whether to normalise advantages over the batch.
    """

    clip: float
    clip_value: float | None
    ent_coef: float
    vf_coef: float
    normalize: bool

    def gradient(self, batch: Rows, mean: Tensor, log_std: Tensor, value: Tensor) -> Gradient:
        """Gradient at mean (batch, act), log_std (act,) and value (batch,)."""
        n = len(mean)
        inverse = torch.exp(-log_std)
        z = (batch.action - mean) * inverse
        log_ratio = log_density(z, log_std) - batch.log_prob
        ratio = torch.exp(log_ratio)
        advantage = self._advantage(batch)
        free, held = advantage * ratio, advantage * ratio.clamp(1 - self.clip, 1 + self.clip)
        # Where the clipped one is the smaller it is constant, and nothing flows.
        pull = free * (free <= held) * (-1.0 / n)
        error, moving = self._value_error(batch, value)
        figures = torch.stack(
            (
                -torch.minimum(free, held).mean(),
                error.square().mean(),
                -entropy(log_std),
                ((ratio - 1.0).abs() > self.clip).float().mean(),
                ((ratio - 1.0) - log_ratio).mean(),
            )
        )
        return Gradient(
            mean=pull[:, None] * z * inverse,
            log_std=pull @ (z.square() - 1.0) - self.ent_coef,
            value=(error * moving * (2.0 * self.vf_coef / n))[:, None],
            figures=figures,
        )

    def _advantage(self, batch: Rows) -> Tensor:
        advantage = batch.advantage
        if not self.normalize or len(advantage) < 2:
            return advantage
        return (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    def _value_error(self, batch: Rows, value: Tensor) -> tuple[Tensor, Tensor | float]:
        """Error of the value, and where it still moves."""
        if self.clip_value is None:
            return value - batch.target, 1.0
        moved = value - batch.value
        clipped = batch.value + moved.clamp(-self.clip_value, self.clip_value)
        return clipped - batch.target, moved.abs() <= self.clip_value


def log_density(z: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of standardised actions (..., act) under a diagonal Gaussian, (...)."""
    return -0.5 * z.square().sum(dim=-1) - (log_std.sum() + _LOG_SQRT_2PI * z.shape[-1])


def entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian of log-std (act,)."""
    return (log_std + (0.5 + _LOG_SQRT_2PI)).sum()
