"""PackNet (Mallya and Lazebnik, 2018, arXiv:1711.05769)."""

from typing import Any

from torch import nn

from clrl.agents.masks import Masks
from clrl.agents.protection import Learner, Protection


class PackNet(Protection):
    """Packs skills into disjoint weights of the actor's trunk; earlier ones never change again.

    A skill trains all free weights. When the last `retrain` of its budget begins it keeps the
    largest of them in each layer, the others become 0, and those kept are trained on alone; then
    they are frozen. Later skills read them and train what is still free. Biases and layer norm are
    the first skill's and frozen after it, heads and observation statistics are a skill's own; so an
    earlier skill acts as it did, to the bit.

    As Continual World has it, shares are equal and the critic is left free. Deviations from it:
    retraining is part of the skill's budget; and the last of the planned skills, and each beyond
    the plan, takes half of what is left, so that there is always room for one more.

    It needs a head per skill and a budget, and takes no other protection beside it.
    """

    alone = True
    weighs = False

    def __init__(
        self, strength: float = 1.0, skills: int = 10, retrain: float = 0.25, seed: int = 0
    ) -> None:
        """Set the shares.

        Args:
            strength: 1, or 0 to switch it off.
            skills: Planned, which share the weights equally, >= 1; a training that does not give
                it has the length of its curriculum here.
            retrain: Last share of a skill's budget, with the kept weights alone, in (0, 1).
            seed: Unused; nothing is drawn.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed)
        if strength not in (0.0, 1.0):
            raise ValueError(f"strength of packnet must be 0 or 1, got {strength}")
        if skills < 1:
            raise ValueError(f"skills must be >= 1, got {skills}")
        if not 0.0 < retrain < 1.0:
            raise ValueError(f"retrain must be in (0, 1), got {retrain}")
        self.skills = skills
        self.retrain = retrain
        self._pruned = False
        self._bytes = 0

    def attach(self, learner: Learner) -> None:
        """Give the policy masks.

        Raises:
            ValueError: the policy has one head for all skills, or an optimizer that moves weights
                without a gradient.
        """
        policy = learner.policy
        if not policy.multi_head:
            raise ValueError("packnet needs a head per skill; leave out multi_head=False")
        optimizer = getattr(policy, "actor", policy).optimizer
        if any(group.get("weight_decay") for group in optimizer.param_groups):
            raise ValueError("packnet needs an optimizer without weight_decay")
        policy.masks = Masks([m for m in learner.trunk() if isinstance(m, nn.Linear)])
        self._bytes = policy.masks.bytes

    def before_skill(self, learner: Learner) -> None:
        """Free what no skill owns for this one.

        Raises:
            ValueError: the skill has no budget.
        """
        if learner.skill_progress is None:
            raise ValueError("packnet prunes within a skill's budget; give begin_skill its steps")
        self._pruned = False

    def collect(self, learner: Learner) -> None:
        """Prune once the last part of the budget begins."""
        progress = learner.skill_progress
        if not self._pruned and progress is not None and progress > 1.0 - self.retrain:
            self._prune(learner)

    def update(self, learner: Learner) -> None:
        """Drop the gradients of what is not this skill's to train."""
        if learner.skill or self._pruned:
            learner.policy.masks.hold(but=learner.skill + 1 if self._pruned else 0)
        if learner.skill:
            for parameter in self._firsts(learner):
                if parameter.grad is not None:
                    parameter.grad.zero_()

    def after_skill(self, learner: Learner) -> None:
        """Prune, where the budget ended before it came to that."""
        if not self._pruned:
            self._prune(learner)

    def _prune(self, learner: Learner) -> None:
        share = 1.0 / max(2, self.skills - learner.skill)
        learner.policy.masks.prune(learner.skill, share)
        learner.fresh_moments()  # or momentum would move what was pruned
        self._pruned = True

    def _firsts(self, learner: Learner) -> list[nn.Parameter]:
        """Biases and layer norm, the first skill's."""
        parameters = [p for layer in learner.trunk() for p in layer.parameters()]
        return [p for p in parameters if p.dim() == 1]

    def state_dict(self) -> dict[str, Any]:
        """Whether this skill is pruned; the masks are the policy's."""
        return super().state_dict() | {"pruned": self._pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that back."""
        super().load_state_dict(state)
        self._pruned = state["pruned"]

    @property
    def bytes(self) -> int:
        """One byte per weight of the trunk's layers, however many skills."""
        return self._bytes
