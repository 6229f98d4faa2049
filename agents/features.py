"""What the trunk sees: observations normalised by the statistics of the skill at hand."""

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor
from torch.nn import functional

_CLIP = 10.0  # standard deviations


class SkillFeatures(BaseFeaturesExtractor):
    """Flattens observations, normalises them per skill, and can name the skill to the trunk.

    Each skill has its own mean and variance, which move only while that skill is trained: moving
    statistics would change the input of earlier skills and be taken for forgetting.

    Attributes:
        active: Index of the skill at hand.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        normalize: bool = False,
        one_hot: bool = False,
        max_skills: int = 20,
    ) -> None:
        """Create statistics for up to `max_skills` skills.

        Args:
            observation_space: Of shape (obs,) or any that flattens to it.
            normalize: Normalise observations; otherwise they pass as they are.
            one_hot: Append the skill's one-hot of length `max_skills`, which a single-head policy
                needs to tell skills apart.
            max_skills: Most skills the policy can hold.
        """
        size = spaces.utils.flatdim(observation_space)
        super().__init__(observation_space, size + (max_skills if one_hot else 0))
        self.normalize = normalize
        self.one_hot = one_hot
        self.max_skills = max_skills
        self.active = 0
        self.register_buffer("mean", torch.zeros(max_skills, size))
        self.register_buffer("var", torch.ones(max_skills, size))
        self.register_buffer("count", torch.zeros(max_skills, dtype=torch.float64))

    def forward(self, observations: Tensor) -> Tensor:
        """Features of observations (batch, ...) of the active skill, (batch, features_dim)."""
        return self.of(observations, self.active)

    def of(self, observations: Tensor, skill: int) -> Tensor:
        """Features of observations (batch, ...) of a skill, (batch, features_dim)."""
        features = self.normalised(observations.flatten(start_dim=1), skill)
        if self.one_hot:
            index = torch.full((len(features),), skill, device=features.device)
            named = functional.one_hot(index, self.max_skills).to(features.dtype)
            features = torch.cat((features, named), dim=1)
        return features

    def of_each(self, observations: Tensor, skills: Sequence[int]) -> Tensor:
        """Features of observations (batch, ...), as many of each of some skills, in their order."""
        if len(skills) == 1:
            return self.of(observations, skills[0])
        parts = observations.split(len(observations) // len(skills))
        return torch.cat([self.of(part, i) for part, i in zip(parts, skills, strict=True)])

    def normalised(self, rows: Tensor, skill: int) -> Tensor:
        """Rows (..., obs) by the statistics of a skill, or as they are where none are kept."""
        if not self.normalize:
            return rows
        scale = torch.rsqrt(self.var[skill] + 1e-8)
        return ((rows - self.mean[skill]) * scale).clamp(-_CLIP, _CLIP)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Fold observations (batch, ...) into the active skill's statistics.

        Parallel update of Chan, Golub and LeVeque (1979).
        """
        if not self.normalize:
            return
        batch = observations.flatten(start_dim=1).double()
        old = self.count[self.active]  # float64, not read: that would wait for a device
        total = old + len(batch)
        mean, var = self.mean[self.active].double(), self.var[self.active].double()
        delta = batch.mean(dim=0) - mean
        squares = var * old + batch.var(dim=0, unbiased=False) * len(batch)
        squares += delta.square() * old * len(batch) / total
        self.mean[self.active] = (mean + delta * len(batch) / total).float()
        self.var[self.active] = (squares / total).float()
        self.count[self.active] = total

    @torch.no_grad()
    def copy(self, source: int, target: int) -> None:
        """Start a skill's statistics from another one's."""
        for values in (self.mean, self.var, self.count):
            values[target] = values[source]
