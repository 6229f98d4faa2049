"""ClonEx (Wolczyk et al., "Disentangling Transfer in Continual Reinforcement Learning", 2022)."""

from clrl.agents.distillation import PolicyDistillation
from clrl.agents.protection import Learner


class ClonEx(PolicyDistillation):
    """Clones earlier skills' experts, and lets the best of them explore for a new skill.

    Cloning is policy distillation with the paper's memory: 10,000 states a skill, 128 of them at
    every update. Exploration is SAC's `explore="best-head"`, which it switches on. As in the paper
    the critic is left free.

    It deviates from the paper thus: the gradient of cloning is clipped by itself and added, where
    theirs is averaged with SAC's and both are clipped; the norm's bound makes up for their
    coefficient.
    """

    def __init__(
        self,
        strength: float = 1.0,
        states: int = 10_000,
        batch_size: int = 128,
        max_grad_norm: float = 0.5,
        every: int = 1,
        seed: int = 0,
    ) -> None:
        """Set the memory and the pull; arguments as of `PolicyDistillation`."""
        super().__init__(strength, states, batch_size, max_grad_norm, every, seed)

    def attach(self, learner: Learner) -> None:
        """Let earlier heads explore.

        Raises:
            ValueError: the agent learns on-policy.
        """
        if not learner.off_policy:
            raise ValueError(
                "clonex explores with earlier skills' heads, whose actions ppo cannot learn from; "
                "use sac, or distill with ppo"
            )
        learner.explore = "best-head"  # type: ignore[attr-defined]
