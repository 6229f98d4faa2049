"""Reservoir replay: a bounded, uniform memory of earlier skills that is trained on again."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clrl.agents.protection import Learner, Protection, add_gradient
from clrl.agents.reservoir import Reservoir

_MAX_WEIGHT = 10.0  # of one stored action in rehearsal


class ReservoirReplay(Protection):
    """Keeps transitions of every earlier skill and rehearses them.

    Each skill has a reservoir (Vitter, 1985) of an equal share of the capacity. Returns differ by
    orders of magnitude between skills, so whatever is learned from them is normalised per skill.

    With **PPO** the stored actions are cloned through the skill's own head, weighted by
    exp(normalised advantage) as in advantage-weighted regression (Peng et al., 2019,
    arXiv:1910.00177). Only the last `tail` of a skill's budget is offered to its reservoir: what
    an untrained policy did is not worth rehearsing.

    With **SAC** the transitions train the earlier skill's critic heads by its own temporal
    differences on rewards divided by their standard deviation, and its actor head by SAC's loss
    on stored states and by cloning stored actions that the critic prefers (CRR, Wang et al.,
    2020, arXiv:2006.15134).
    """

    def __init__(
        self,
        strength: float = 1.0,
        capacity: int = 20_000,
        batch_size: int = 256,
        tail: float = 0.25,
        max_grad_norm: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Set the memory and the rehearsal.

        Args:
            strength: Weight of rehearsal.
            capacity: Rows over all skills, >= 1.
            batch_size: Rows per update, over all earlier skills, >= 1.
            tail: Last share of a skill's budget that is remembered, in (0, 1].
            max_grad_norm: Bound of the gradient's norm at strength 1, > 0.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed)
        for name, value in (("capacity", capacity), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not 0.0 < tail <= 1.0:
            raise ValueError(f"tail must be in (0, 1], got {tail}")
        if max_grad_norm <= 0.0:
            raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
        self.capacity = capacity
        self.batch_size = batch_size
        self.tail = tail
        self.max_grad_norm = max_grad_norm
        self.reservoirs: dict[int, Reservoir] = {}
        self.scale: dict[int, float] = {}
        self._filling: Reservoir | None = None

    def before_skill(self, learner: Learner) -> None:
        """Share the capacity with one more skill."""
        quota = max(1, self.capacity // (learner.skill + 1))
        for reservoir in self.reservoirs.values():
            reservoir.shrink(quota, self.generator)
        self._filling = Reservoir(quota)

    def collect(self, learner: Learner) -> None:
        """Offer new experience to the skill's reservoir."""
        progress = learner.skill_progress
        if self._filling is not None and (progress is None or progress > 1.0 - self.tail):
            self._filling.add(learner.fresh(), self.generator)

    def after_skill(self, learner: Learner) -> None:
        """Close the skill's reservoir and measure the scale of its returns."""
        if self._filling is None or not len(self._filling):
            return
        columns = self._filling.columns
        signal = columns["advantage" if "advantage" in columns else "reward"]
        self.scale[learner.skill] = max(float(signal[: len(self._filling)].std()), 1e-6)
        self.reservoirs[learner.skill] = self._filling
        self._filling = None

    def update(self, learner: Learner) -> None:
        """Add the clipped gradient of the rehearsal loss of all earlier skills to the actor."""
        losses = [self._actor_loss(learner, skill, rows) for skill, rows in self._batches()]
        if losses:
            actor = [p for p in learner.policy.parameters() if p.requires_grad]
            loss = self.strength * torch.stack(losses).sum()
            add_gradient(loss, actor, self.strength * self.max_grad_norm)

    def update_critic(self, learner: Learner) -> None:
        """Add the clipped gradient of the earlier skills' temporal differences to the critic."""
        losses = [self._critic_loss(learner, skill, rows) for skill, rows in self._batches()]
        if losses:
            loss = self.strength * torch.stack(losses).sum()
            critic = list(learner.policy.critic.parameters())
            add_gradient(loss, critic, self.strength * self.max_grad_norm)

    def _batches(self) -> list[tuple[int, dict[str, Tensor]]]:
        if self.strength == 0.0 or not self.reservoirs:
            return []
        share = max(1, self.batch_size // len(self.reservoirs))
        return [(skill, r.sample(share, self.generator)) for skill, r in self.reservoirs.items()]

    def _actor_loss(self, learner: Learner, skill: int, rows: dict[str, Tensor]) -> Tensor:
        mean, log_std = learner.gaussian(rows["observation"], skill)
        if "advantage" in rows:
            weight = (rows["advantage"] / self.scale[skill]).exp().clamp(max=_MAX_WEIGHT)
            return -(weight * log_likelihood(rows["action"], mean, log_std)).mean()
        stored = torch.atanh(rows["action"].clamp(-0.999, 0.999))
        critic = learner.policy.critic
        with learner.policy.using(skill):
            good = torch.cat(critic(rows["observation"], rows["action"]), dim=1).amin(dim=1)
            own = torch.cat(critic(rows["observation"], torch.tanh(mean)), dim=1).amin(dim=1)
        better = (good >= own).float().detach()
        clone = -(better * log_likelihood(stored, mean, log_std)).mean()
        return clone - own.mean()

    def _critic_loss(self, learner: Learner, skill: int, rows: dict[str, Tensor]) -> Tensor:
        policy: Any = learner.policy
        gamma: float = learner.gamma  # type: ignore[attr-defined]
        following = rows["next_observation"]
        with torch.no_grad(), policy.using(skill):
            action = torch.tanh(policy.gaussian(following, skill)[0])
            values = torch.cat(policy.critic_target(following, action), dim=1)
            value = values.amin(dim=1, keepdim=True)
            target = rows["reward"] / self.scale[skill] + gamma * (1.0 - rows["done"]) * value
        with policy.using(skill):
            estimates = policy.critic(rows["observation"], rows["action"])
        return 0.5 * torch.stack([functional.mse_loss(q, target) for q in estimates]).sum()

    def state_dict(self) -> dict[str, Any]:
        """All reservoirs and scales."""
        return super().state_dict() | {
            "reservoirs": {k: r.state_dict() for k, r in self.reservoirs.items()},
            "scale": dict(self.scale),
            "filling": self._filling.state_dict() if self._filling is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back all reservoirs and scales."""
        super().load_state_dict(state)
        self.reservoirs = {int(k): Reservoir.from_state(r) for k, r in state["reservoirs"].items()}
        self.scale = {int(k): float(v) for k, v in state["scale"].items()}
        filling = state["filling"]
        self._filling = None if filling is None else Reservoir.from_state(filling)

    @property
    def bytes(self) -> int:
        """Memory of the reservoirs of earlier skills and of the one being filled."""
        filling = self._filling.bytes if self._filling is not None else 0
        return filling + sum(reservoir.bytes for reservoir in self.reservoirs.values())


def log_likelihood(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of actions (batch, act) under a diagonal Gaussian, up to a constant, (batch,)."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z.square() - log_std).sum(dim=1)
