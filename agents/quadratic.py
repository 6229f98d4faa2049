"""What EWC, L2, MAS and synaptic intelligence share: a spring at each weight of the trunk."""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.protection import Learner, Protection


class QuadraticPenalty(Protection):
    """Pulls each shared weight towards its value after earlier skills, as hard as it matters.

    Adds the gradient of strength / 2 * sum_k w_k (theta_k - anchor_k)^2 over the actor's trunk. A
    method says only how it measures the importance w of the skill that ends. There is one anchor,
    the latest weights, for all skills, as Continual World has it; and each skill's importance is
    divided by its mean over the trunk, so that one strength serves skills of any reward scale.
    Where skills' own importance is measured while training, the neediest one's multiplies it.
    Heads belong to their skill, and the critic is left free.
    """

    def __init__(self, strength: float, decay: float = 1.0, seed: int = 0) -> None:
        """Set the penalty.

        Args:
            strength: Its weight.
            decay: Of the old importance when a skill ends, in [0, 1]; 1 adds up all skills.
            seed: Unused, where the importance draws nothing.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed)
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        self.decay = decay
        self.importance: list[Tensor] = []
        self.anchor: list[Tensor] = []

    def measure(self, learner: Learner) -> list[Tensor]:
        """Importance of each shared weight to the skill that ends, >= 0, of `shared`'s shapes."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, learner: Learner) -> None:
        """Add strength * w * (theta - anchor), the penalty's gradient in closed form."""
        if not self.anchor or self.strength == 0.0:
            return
        strength = self.reach(learner, range(learner.skill))
        parameters = shared(learner)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients: list[Any] = [p.grad for p in parameters]
        distance = torch._foreach_sub([*parameters], self.anchor)
        torch._foreach_addcmul_(gradients, distance, self.importance, value=strength)

    def after_skill(self, learner: Learner) -> None:
        """Measure this skill's importance and move the anchor to the present weights."""
        importance = self.measure(learner)
        mean = torch.cat([w.flatten() for w in importance]).mean().clamp_min(1e-12)
        torch._foreach_div_(importance, mean)
        if self.importance:
            torch._foreach_add_(importance, self.importance, alpha=self.decay)
        self.importance = importance
        self.anchor = [p.detach().clone() for p in shared(learner)]

    def state_dict(self) -> dict[str, Any]:
        """Importance and anchor."""
        own = {"importance": list(self.importance), "anchor": list(self.anchor)}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back importance and anchor."""
        super().load_state_dict(state)
        self.importance, self.anchor = list(state["importance"]), list(state["anchor"])


def shared(learner: Learner) -> list[nn.Parameter]:
    """The weights of the actor's trunk, layer by layer."""
    return [p for layer in learner.trunk() for p in layer.parameters()]
