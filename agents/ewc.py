"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796)."""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.fisher import fisher_diagonal
from clrl.agents.protection import Learner, Protection


class EWC(Protection):
    """Pulls each shared weight towards its value after earlier skills, as hard as they need it.

    Adds the gradient of strength / 2 * sum_k F_k (theta_k - anchor_k)^2 over the actor's trunk.
    Deviations from the paper: one anchor, the latest weights, for all skills, as Continual World
    has it; and each skill's Fisher is divided by its mean, so that one strength serves skills of
    any reward scale and any width of the action distribution.

    `mode="summed"` adds the Fishers of all skills; `"online"` decays the old ones by `decay`
    (Schwarz et al., 2018, arXiv:1805.06370), which keeps plasticity over many skills.
    """

    def __init__(
        self,
        strength: float = 10.0,
        samples: int = 2048,
        mode: str = "summed",
        decay: float = 0.9,
        seed: int = 0,
    ) -> None:
        """Set the penalty.

        Args:
            strength: Its weight (lambda in the paper).
            samples: Observations for the Fisher information, >= 1.
            mode: "summed" or "online".
            decay: Of the old Fisher when a skill ends, in [0, 1]; used by "online".
            seed: Unused; the Fisher is exact.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed)
        if samples < 1:
            raise ValueError(f"samples must be >= 1, got {samples}")
        if mode not in ("summed", "online"):
            raise ValueError(f"mode must be 'summed' or 'online', got {mode!r}")
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        self.samples = samples
        self.decay = decay if mode == "online" else 1.0
        self.fisher: list[Tensor] = []
        self.anchor: list[Tensor] = []

    def update(self, learner: Learner) -> None:
        """Add strength * F * (theta - anchor), the penalty's gradient in closed form."""
        if not self.anchor or self.strength == 0.0:
            return
        with torch.no_grad():
            parameters: list[Tensor] = [*_parameters(learner)]
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients: list[Any] = [p.grad for p in parameters]
            distance = torch._foreach_sub(parameters, self.anchor)
            torch._foreach_addcmul_(gradients, distance, self.fisher, value=self.strength)

    def after_skill(self, learner: Learner) -> None:
        """Measure this skill's Fisher and move the anchor to the present weights."""
        skill = learner.skill
        fisher = fisher_diagonal(
            lambda observations: learner.gaussian(observations, skill),
            learner.trunk(),
            learner.visited(self.samples),
        )
        mean = torch.cat([f.flatten() for f in fisher]).mean().clamp_min(1e-12)
        torch._foreach_div_(fisher, mean)
        if self.fisher:
            torch._foreach_add_(fisher, self.fisher, alpha=self.decay)
        self.fisher = fisher
        self.anchor = [p.detach().clone() for p in _parameters(learner)]

    def state_dict(self) -> dict[str, Any]:
        """Fisher and anchor."""
        return super().state_dict() | {"fisher": list(self.fisher), "anchor": list(self.anchor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back Fisher and anchor."""
        super().load_state_dict(state)
        self.fisher, self.anchor = list(state["fisher"]), list(state["anchor"])

    @property
    def bytes(self) -> int:
        """Two numbers per shared weight, however many skills."""
        return sum(t.nbytes for t in (*self.fisher, *self.anchor))


def _parameters(learner: Learner) -> list[nn.Parameter]:
    return [p for layer in learner.trunk() for p in layer.parameters()]
