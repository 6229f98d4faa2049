"""Averaged gradient episodic memory, A-GEM (Chaudhry et al., 2019, arXiv:1812.00420)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clrl.agents.distillation import PolicyDistillation
from clrl.agents.protection import Learner, Protection


class AGEM(Protection):
    """Takes from each gradient what would undo, to first order, what earlier skills taught.

    With g the actor's gradient and r that of a loss on remembered rows of all earlier skills,

        g <- g - (g.r / r.r) r   where g.r < 0,

    so that the memory's loss does not grow. Deviations from the paper: the memory's loss is the
    divergence from what the agent did in stored states when their skill ended, as distillation has
    it, since a reward is no label; where others add gradients g is the sum; the optimizer is
    whatever the agent has, and with Adam the step is not the gradient. Continual World, whose
    memory loss is SAC's own, projects critics too; here they are free.
    """

    order = 2  # what others add must not oppose the memory either

    def __init__(
        self, strength: float = 1.0, states: int = 4096, batch_size: int = 256, seed: int = 0
    ) -> None:
        """Set the memory.

        Args:
            strength: 1, or 0 to switch it off.
            states: Stored per skill, >= 1.
            batch_size: States per update, over all earlier skills, >= 1.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed)
        if strength not in (0.0, 1.0):
            raise ValueError(f"strength of agem must be 0 or 1, got {strength}")
        self._memory = PolicyDistillation(1.0, states, batch_size, float("inf"), 1, seed)

    def update(self, learner: Learner) -> None:
        """Project the gradient of all of the policy's weights that the memory has one for."""
        if self.strength == 0.0 or not self._memory.memory:
            return
        parameters = list(learner.policy.parameters())
        gradients = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        self._memory.update(learner)
        references = [p.grad for p in parameters]
        for parameter, gradient in zip(parameters, project(gradients, references), strict=True):
            parameter.grad = gradient

    def after_skill(self, learner: Learner) -> None:
        """Store states of the finished skill and what the agent would do there."""
        self._memory.after_skill(learner)

    def state_dict(self) -> dict[str, Any]:
        """The stored states."""
        return super().state_dict() | {"memory": self._memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the stored states."""
        super().load_state_dict(state)
        self._memory.load_state_dict(state["memory"])


@torch.no_grad()
def project(
    gradients: Sequence[Tensor | None], references: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients without what opposes the references, as one vector; None counts as 0.

    The products of the two wait for no device.
    """
    used = [r for r in references if r is not None]
    pairs = [(g, r) for g, r in zip(gradients, references, strict=True) if r is not None]
    square = torch.stack([r.square().sum() for r in used]).sum()
    dot = torch.stack(
        [torch.zeros_like(square) if g is None else (g * r).sum() for g, r in pairs]
    ).sum()
    share = dot.clamp_max(0.0) / square.clamp_min(torch.finfo(square.dtype).tiny)
    return [
        g if r is None else (-share * r if g is None else g - share * r)
        for g, r in zip(gradients, references, strict=True)
    ]
