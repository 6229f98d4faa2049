"""PPO's loss (Schulman et al., 2017, arXiv:1707.06347) and its gradient in closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clrl.agents.rows import Rows

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Constants:
    """What the policy's part is made of that does not hang on the mean.

    Attributes:
        advantage: As it counts, (batch,).
        inverse: Of the standard deviation, (act,).
        offset: Of the log-density, ().
        entropy: ().
    """

    advantage: Tensor
    inverse: Tensor
    offset: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class PolicyGradient:
    """Gradient of the policy's part.

    Attributes:
        mean: By the mean, (batch, act).
        pull: By the log-density, (batch,).
        squares: Of standardised actions, (batch, act).
        log_ratio: Of probabilities, new over old, (batch,).
        free: Advantage by that ratio, (batch,).
        held: Advantage by the clipped ratio, (batch,).
    """

    mean: Tensor
    pull: Tensor
    squares: Tensor
    log_ratio: Tensor
    free: Tensor
    held: Tensor


@dataclass(frozen=True)
class Trace:
    """What the figures of a minibatch are made of, until somebody asks for them.

    Attributes:
        log_ratio: As in `PolicyGradient`, as are the next two.
        free: Advantage by that ratio.
        held: Advantage by the clipped ratio.
        entropy: Of the policy, ().
        error: Of the value, (batch,).
    """

    log_ratio: Tensor
    free: Tensor
    held: Tensor
    entropy: Tensor
    error: Tensor


@dataclass(frozen=True)
class Figures:
    """Means over minibatches, for the log."""

    policy_loss: float
    value_loss: float
    entropy_loss: float
    clip_fraction: float
    divergence: float


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

    def constants(self, batch: Rows, log_std: Tensor) -> Constants:
        """For `policy`, at log_std (act,)."""
        offset = _offset(log_std)
        return Constants(self._advantage(batch), torch.exp(-log_std), offset, entropy(log_std))

    def policy(self, batch: Rows, constants: Constants, mean: Tensor) -> PolicyGradient:
        """Gradient of the policy's part at mean (batch, act)."""
        z = (batch.action - mean) * constants.inverse
        squares = z.square()
        log_ratio = _log_density(squares, constants.offset) - batch.log_prob
        ratio, advantage = torch.exp(log_ratio), constants.advantage
        free, held = advantage * ratio, advantage * ratio.clamp(1 - self.clip, 1 + self.clip)
        # Where the clipped one is the smaller it is constant, and nothing flows.
        pull = free * (free <= held) * (-1.0 / len(mean))
        by_mean = pull[:, None] * z * constants.inverse
        return PolicyGradient(by_mean, pull, squares, log_ratio, free, held)

    def by_log_std(self, gradient: PolicyGradient) -> Tensor:
        """The rest of it, by the log-std, (act,)."""
        return gradient.pull @ (gradient.squares - 1.0) - self.ent_coef

    def value(self, batch: Rows, value: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the value's part at a value (batch, 1), and the value's error (batch,)."""
        error, moving = self._value_error(batch, value.flatten())
        return (error * (moving * (2.0 * self.vf_coef / len(value))))[:, None], error

    def figures(self, traces: Sequence[Trace]) -> Figures:
        """What SB3 would log of minibatches: of all at once, since each look at one is dear."""
        columns = zip(*((t.log_ratio, t.free, t.held, t.error) for t in traces), strict=True)
        log_ratio, free, held, error = map(torch.cat, columns)
        moved = torch.exp(log_ratio) - 1.0
        clipped = (moved.abs() > self.clip).float()
        losses = -torch.minimum(free, held), error.square()
        rows = torch.stack((*losses, clipped, moved - log_ratio))
        weights = torch.cat([torch.full_like(t.error, 1.0 / len(t.error)) for t in traces])
        policy, value, share, divergence = (rows @ weights / len(traces)).tolist()
        entropies = torch.stack([t.entropy for t in traces])
        return Figures(policy, value, -float(entropies.mean()), share, divergence)

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
    return _log_density(z.square(), _offset(log_std))


def _log_density(squares: Tensor, offset: Tensor) -> Tensor:
    return -0.5 * squares.sum(dim=-1) - offset


def _offset(log_std: Tensor) -> Tensor:
    return log_std.sum() + _LOG_SQRT_2PI * len(log_std)


def entropy(log_std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian of log-std (act,)."""
    return (log_std + (0.5 + _LOG_SQRT_2PI)).sum()
