"""CLEAR's cloning of stored behaviour and values (Rolnick et al., 2019, arXiv:1811.11682)."""

import torch
from torch import Tensor

from clrl.agents.distillation import imitate
from clrl.agents.protection import Learner
from clrl.agents.remembering import Remembering


class CLEAR(Remembering):
    """Clones what actor and critic said when stored rows of earlier skills were collected.

    It adds the gradients, each clipped, of

        strength * KL(stored policy || policy)    and    strength / 2 * (value - stored value)^2,

    the weights being two to one as in the paper. With SAC the values are those of both critics for
    the stored action.

    It deviates from the paper thus: rows are only cloned, not trained on by V-trace (`replay` can
    stand beside it); skills have heads and equal shares of the memory instead of one reservoir
    that knows no skills; and only the last `tail` of a skill's budget is remembered, since what an
    untrained policy did is not worth cloning through a head that nothing else trains any more.
    """

    def rows(self, learner: Learner) -> dict[str, Tensor]:
        """States, with what actor and critics say there now, and for SAC the actions."""
        kept = ("observation", "action") if learner.off_policy else ("observation",)
        fresh = learner.fresh()
        rows = {name: fresh[name].to(learner.device) for name in kept}
        with torch.no_grad():
            mean, log_std = learner.gaussian(rows["observation"], learner.skill)
            value = learner.values(rows, learner.skill)
        return rows | {"mean": mean, "log_std": log_std, "value": value}

    def update(self, learner: Learner) -> None:
        """Clone the policy; and the values too, where one optimizer moves both networks."""
        if self.rehearses("update"):
            rows = self.sample(learner)
            imitate(learner, rows, self.strength, self.bound(learner))
            if not learner.off_policy:
                self._clone_values(learner, rows)

    def update_critic(self, learner: Learner) -> None:
        """Clone the values."""
        if self.rehearses("update_critic"):
            self._clone_values(learner, self.sample(learner))

    def _clone_values(self, learner: Learner, rows: dict[int, dict[str, Tensor]]) -> None:
        stored, weight = (
            torch.cat([columns[name] for columns in rows.values()]) for name in ("value", "weight")
        )
        share = len(stored) // len(rows)

        def loss(values: Tensor) -> Tensor:  # a mean over each skill's rows, summed over skills
            apart = (values - stored).square().sum(dim=1)
            return self.strength * 0.5 * (weight * apart).sum() / share

        learner.pull_values(rows, loss, self.bound(learner))
