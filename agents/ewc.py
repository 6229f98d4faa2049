"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796)."""

from typing import Any

from torch import Tensor

from clrl.agents.fisher import fisher_diagonal
from clrl.agents.protection import Learner
from clrl.agents.quadratic import QuadraticPenalty


class EWC(QuadraticPenalty):
    """Pulls each shared weight towards its value after earlier skills, as hard as they need it.

    The importance is the diagonal of the policy's Fisher information, exact and per sample.
    Deviations from the paper: one anchor, the latest weights, for all skills; with it the penalty
    is the recursive Laplace approximation (Huszar, 2018, arXiv:1712.03847). And each skill's
    Fisher is divided by its mean.
    """

    def __init__(
        self, strength: float = 10.0, samples: int = 2048, decay: float = 1.0, seed: int = 0
    ) -> None:
        """Set the penalty.

        Args:
            strength: Its weight (lambda in the paper).
            samples: Observations for the Fisher information, >= 1.
            decay: Of the old Fisher when a skill ends, in [0, 1]; 1 adds up all skills.
            seed: Unused; the Fisher is exact.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, decay, seed)
        if samples < 1:
            raise ValueError(f"samples must be >= 1, got {samples}")
        self.samples = samples

    def measure(self, learner: Learner) -> list[Tensor]:
        """The Fisher's diagonal in states that the skill visited."""
        skill = learner.skill
        return fisher_diagonal(
            lambda observations: learner.gaussian(observations, skill),
            learner.trunk(),
            learner.visited(self.samples),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back Fisher and anchor; earlier checkpoints call the importance "fisher"."""
        super().load_state_dict({"importance": state.get("fisher")} | state)


class OnlineEWC(EWC):
    """EWC whose old Fishers decay, which keeps plasticity over many skills.

    The Fisher after a skill is decay * old + new (Schwarz et al., 2018, arXiv:1805.06370).
    """

    def __init__(
        self, strength: float = 10.0, samples: int = 2048, decay: float = 0.9, seed: int = 0
    ) -> None:
        """Set the penalty; arguments as of `EWC`, with another default."""
        super().__init__(strength, samples, decay, seed)
