"""Reservoir replay: a bounded, uniform memory of earlier skills that is trained on again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clrl.agents.protection import Learner
from clrl.agents.rehearsal import Rehearsal
from clrl.agents.remembering import Remembering, stacked

Loss = Callable[[Tensor, Tensor], Tensor]

_MAX_WEIGHT = 10.0  # of one stored action in rehearsal


class ReservoirReplay(Remembering):
    """Keeps transitions of every earlier skill and rehearses them.

    Each skill has a reservoir (Vitter, 1985) of an equal share of the capacity. Returns differ by
    orders of magnitude between skills, so whatever is learned from them is normalised per skill.

    With **PPO** the stored actions are cloned through the skill's own head, weighted by
    exp(normalised advantage) as in advantage-weighted regression (Peng et al., 2019,
    arXiv:1910.00177). Only the last `tail` of a skill's budget is offered to its reservoir: what
    an untrained policy did is not worth rehearsing.

    A rehearsal costs as much as an update, and every eighth update is enough for it.

    With **SAC** the transitions train the earlier skill's critic heads by its own temporal
    differences on rewards divided by their standard deviation, and its actor head by SAC's loss
    on stored states and by cloning stored actions that the critic prefers (CRR, Wang et al.,
    2020, arXiv:2006.15134).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Set memory and rehearsal, with the arguments of `Remembering`."""
        super().__init__(*args, **options)
        self.scale: dict[int, float] = {}

    def after_skill(self, learner: Learner) -> None:
        """Close the skill's reservoir and measure the scale of its returns."""
        super().after_skill(learner)
        if learner.skill in self.reservoirs:
            columns = self.reservoirs[learner.skill].columns
            signal = columns["advantage" if "advantage" in columns else "reward"]
            self.scale[learner.skill] = max(float(signal.std()), 1e-6)

    def update(self, learner: Learner) -> None:
        """Add the clipped gradient of the rehearsal loss of all earlier skills to the actor."""
        if not self.rehearses("update"):
            return
        rows, scale = self._sample(learner)
        loss = self._clone(rows, scale) if "advantage" in rows else self._improve(learner, rows)
        share = len(scale) // len(self.reservoirs)
        observations = dict(zip(self.reservoirs, rows["observation"].split(share), strict=True))
        learner.pull(
            observations,
            lambda *gaussian: self.strength * loss(*gaussian) / share,
            self.bound(learner),
        )

    def update_critic(self, learner: Learner) -> None:
        """Add the clipped gradient of the earlier skills' temporal differences to the critic."""
        if not self.rehearses("update_critic"):
            return
        rows, scale = self._sample(learner)
        gamma: float = learner.gamma  # type: ignore[attr-defined]
        rehearsal = self._rehearsal(learner)
        following = rehearsal.states(rows["next_observation"])
        action = torch.tanh(rehearsal.means(following))
        value = rehearsal.values(following, action, target=True).amin(dim=1, keepdim=True)
        target = rows["reward"] / scale + gamma * (1.0 - rows["done"]) * value
        values = rehearsal.values(rehearsal.states(rows["observation"]), rows["action"])
        # of half the squared error, a mean over each skill's rows, summed over skills and critics
        gradient = self.strength * (values - target) * len(self.reservoirs) / len(scale)
        rehearsal.pull_critics(gradient * rows["weight"][:, None], self.bound(learner))

    def _sample(self, learner: Learner) -> tuple[dict[str, Tensor], Tensor]:
        """Rows of every earlier skill, one after another, and the scale of each row, (rows, 1)."""
        rows = stacked(self.sample(learner))
        scale = torch.tensor([self.scale[skill] for skill in self.reservoirs])
        scale = scale.repeat_interleave(len(rows["action"]) // len(scale))[:, None]
        return rows, scale.to(rows["observation"].device, non_blocking=True)

    def _rehearsal(self, learner: Learner) -> Rehearsal:
        return Rehearsal(learner.policy, list(self.reservoirs))

    def _clone(self, rows: dict[str, Tensor], scale: Tensor) -> Loss:
        weight = (rows["advantage"] / scale[:, 0]).exp().clamp(max=_MAX_WEIGHT) * rows["weight"]
        return lambda mean, log_std: -(weight * log_likelihood(rows["action"], mean, log_std)).sum()

    def _improve(self, learner: Learner, rows: dict[str, Tensor]) -> Loss:
        rehearsal = self._rehearsal(learner)
        states = rehearsal.states(rows["observation"])
        good = rehearsal.values(states, rows["action"]).amin(dim=1, keepdim=True)
        own, slope = rehearsal.slope(states, torch.tanh(rehearsal.means(states)))
        better = (good >= own)[:, 0] * rows["weight"]
        slope = slope * rows["weight"][:, None]
        stored = torch.atanh(rows["action"].clamp(-0.999, 0.999))

        def loss(mean: Tensor, log_std: Tensor) -> Tensor:
            clone = (better * log_likelihood(stored, mean, log_std)).sum()
            return -clone - (slope * torch.tanh(mean)).sum()  # its gradient is that of -own

        return loss

    def state_dict(self) -> dict[str, Any]:
        """All reservoirs and scales."""
        return super().state_dict() | {"scale": dict(self.scale)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back all reservoirs and scales."""
        super().load_state_dict(state)
        self.scale = {int(k): float(v) for k, v in state["scale"].items()}


def log_likelihood(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of actions (batch, act) under a diagonal Gaussian, up to a constant, (batch,)."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std).sum(dim=1)
