"""Memory aware synapses (Aljundi et al., 2018, arXiv:1711.09601)."""

import torch
from torch import Tensor

from clrl.agents.per_sample import mean_sizes
from clrl.agents.protection import Learner
from clrl.agents.quadratic import QuadraticPenalty


class MAS(QuadraticPenalty):
    """Pulls each shared weight back as hard as the policy's output is sensitive to it.

    The importance is w_k = E_obs |d (|m|^2 + |log s|^2) / d theta_k| for mean m and standard
    deviation s of the action before squashing, as Continual World has it: it needs no labels and no
    likelihood. Deviation from the paper: the division by the mean.
    """

    def __init__(
        self, strength: float = 10.0, samples: int = 2048, decay: float = 1.0, seed: int = 0
    ) -> None:
        """Set the penalty.

        Args:
            strength: Its weight (lambda in the paper).
            samples: Observations for the sensitivity, >= 1.
            decay: Of the old importance when a skill ends, in [0, 1]; 1 adds up all skills.
            seed: Unused; the sensitivity is exact.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, decay, seed)
        if samples < 1:
            raise ValueError(f"samples must be >= 1, got {samples}")
        self.samples = samples

    def measure(self, learner: Learner) -> list[Tensor]:
        """The mean absolute sensitivity in states that the skill visited."""
        skill = learner.skill
        return mean_sizes(
            lambda observations: learner.gaussian(observations, skill),
            _squared_norm,
            torch.abs,
            learner.trunk(),
            learner.visited(self.samples),
        )


def _squared_norm(mean: Tensor, log_std: Tensor) -> list[Tensor]:
    return [mean.square().sum(dim=1) + log_std.square().sum(dim=1)]
