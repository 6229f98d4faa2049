"""Perfect memory: every transition of every earlier skill, trained on as if it were new.

A baseline of Continual World (Wolczyk et al., NeurIPS 2021).
"""

import math
from typing import Any

import torch
from torch import Tensor

from clrl.agents.protection import Learner
from clrl.agents.rehearsal import Rehearsal
from clrl.agents.remembering import Remembering, stacked

_EVERYTHING = 2**62  # rows
_EPSILON = 1e-6  # of SB3's squashed Gaussian


class PerfectMemory(Remembering):
    """Keeps all transitions of all earlier skills and trains on them with SAC's own losses.

    At every update each earlier skill adds SAC's gradients on its own rows, through its own heads,
    at the temperature that it ended with, and counts as much as the skill being learned. Rewards
    stay as they were given and nothing is cloned, normalised or clipped: as such it is the plain
    baseline that falls behind where skills' rewards differ in scale.

    It deviates from Continual World's thus: rows are drawn in equal number from each skill, beside
    the new skill's own batch rather than within it.

    PPO has no use for transitions of another policy, and is refused.
    """

    def __init__(self, strength: float = 1.0, batch_size: int = 256, seed: int = 0) -> None:
        """Set the share of memory in an update.

        Args:
            strength: Weight of each earlier skill beside the one being learned.
            batch_size: Rows per update, over all earlier skills, >= 1.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, _EVERYTHING, batch_size, 1.0, math.inf, 1, seed)
        self.temperature: dict[int, float] = {}

    def attach(self, learner: Learner) -> None:
        """Refuse an on-policy agent.

        Raises:
            ValueError: it is one.
        """
        if not learner.off_policy:
            raise ValueError(
                "perfect memory trains on old transitions, which ppo cannot; use sac, or replay "
                "with ppo"
            )

    def after_skill(self, learner: Learner) -> None:
        """Close the skill's memory, and keep its temperature."""
        super().after_skill(learner)
        self.temperature[learner.skill] = learner.temperature  # type: ignore[attr-defined]

    def update_critic(self, learner: Learner) -> None:
        """Add the gradient of the earlier skills' temporal differences."""
        if not self.rehearses("update_critic"):
            return
        rows, rehearsal, temperature = self._batch(learner)
        gamma: float = learner.gamma  # type: ignore[attr-defined]
        following = rehearsal.states(rows["next_observation"])
        action, log_prob = squashed(*rehearsal.gaussian(following), self._noise(rows))
        value = rehearsal.values(following, action, target=True).amin(dim=1, keepdim=True)
        value = value - temperature * log_prob
        target = rows["reward"] + gamma * (1.0 - rows["done"]) * value
        values = rehearsal.values(rehearsal.states(rows["observation"]), rows["action"])
        # of half the squared error, a mean over each skill's rows, summed over skills and critics
        gradient = self.strength * (values - target) * len(self.reservoirs) / len(values)
        gradient = gradient * rows["weight"][:, None]
        rehearsal.pull_critics(gradient, self.max_grad_norm)

    def update(self, learner: Learner) -> None:
        """Add the gradient of SAC's loss in the earlier skills' states to the actor."""
        if not self.rehearses("update"):
            return
        rows, rehearsal, temperature = self._batch(learner)
        states, noise = rehearsal.states(rows["observation"]), self._noise(rows)
        _, slope = rehearsal.slope(states, squashed(*rehearsal.gaussian(states), noise)[0])
        share = len(states) // len(self.reservoirs)

        def loss(mean: Tensor, log_std: Tensor) -> Tensor:
            action, log_prob = squashed(mean, log_std, noise)
            # the slope's product has the gradient of the least value
            own = temperature * log_prob - (slope * action).sum(dim=1, keepdim=True)
            return self.strength * (rows["weight"][:, None] * own).sum() / share

        rehearsal.pull_actor(states, loss, self.max_grad_norm)

    def _batch(self, learner: Learner) -> tuple[dict[str, Tensor], Rehearsal, Tensor]:
        """Rows skill after skill, the networks for them, and each row's temperature, (rows, 1)."""
        parts = self.sample(learner)
        rows = stacked(parts)
        share = len(rows["reward"]) // len(parts)
        temperature = torch.tensor([self.temperature[skill] for skill in parts])
        temperature = temperature.repeat_interleave(share)[:, None].to(rows["reward"].device)
        return rows, Rehearsal(learner.policy, list(parts)), temperature

    def _noise(self, rows: dict[str, Tensor]) -> Tensor:
        action = rows["action"]
        return torch.randn(action.shape, generator=self.generator).to(action.device)

    def state_dict(self) -> dict[str, Any]:
        """All transitions and temperatures."""
        return super().state_dict() | {"temperature": dict(self.temperature)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back all transitions and temperatures."""
        super().load_state_dict(state)
        self.temperature = {int(k): float(v) for k, v in state["temperature"].items()}


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action tanh(mean + std * noise), (batch, act), and its log density, (batch, 1)."""
    action = torch.tanh(mean + log_std.exp() * noise)
    density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    log_prob = density - torch.log(1.0 - action.square() + _EPSILON)
    return action, log_prob.sum(dim=1, keepdim=True)
