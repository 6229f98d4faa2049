"""Reservoir replay: a bounded, uniform memory of earlier skills that is trained on again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clrl.agents.protection import Learner, Protection
from clrl.agents.rehearsal import Rehearsal
from clrl.agents.reservoir import Reservoir

Loss = Callable[[Tensor, Tensor], Tensor]

_MAX_WEIGHT = 10.0  # of one stored action in rehearsal


class ReservoirReplay(Protection):
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

    def __init__(
        self,
        strength: float = 1.0,
        capacity: int = 20_000,
        batch_size: int = 256,
        tail: float = 0.25,
        max_grad_norm: float = 0.5,
        every: int = 8,
        seed: int = 0,
    ) -> None:
        """Set the memory and the rehearsal.

        Args:
            strength: Weight of rehearsal.
            capacity: Rows over all skills, >= 1.
            batch_size: Rows per update, over all earlier skills, >= 1.
            tail: Last share of a skill's budget that is remembered, in (0, 1].
            max_grad_norm: Bound of the gradient's norm at strength 1, > 0.
            every: Updates from one rehearsal to the next, >= 1.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed, every)
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
        if self.strength == 0.0 or not self.reservoirs or not self.due("update"):
            return
        rows, scale = self._sample()
        loss = self._clone(rows, scale) if "advantage" in rows else self._improve(learner, rows)
        share = len(scale) // len(self.reservoirs)
        observations = dict(zip(self.reservoirs, rows["observation"].split(share), strict=True))
        learner.pull(
            observations,
            lambda *gaussian: self.strength * loss(*gaussian) / share,
            self.strength * self.max_grad_norm,
        )

    def update_critic(self, learner: Learner) -> None:
        """Add the clipped gradient of the earlier skills' temporal differences to the critic."""
        if self.strength == 0.0 or not self.reservoirs or not self.due("update_critic"):
            return
        rows, scale = self._sample()
        gamma: float = learner.gamma  # type: ignore[attr-defined]
        rehearsal = self._rehearsal(learner, rows)
        following = rehearsal.states(rows["next_observation"])
        action = torch.tanh(rehearsal.means(following))
        value = rehearsal.values(following, action, target=True).amin(dim=1, keepdim=True)
        target = rows["reward"] / scale + gamma * (1.0 - rows["done"]) * value
        values = rehearsal.values(rehearsal.states(rows["observation"]), rows["action"])
        # of half the squared error, a mean over each skill's rows, summed over skills and critics
        gradient = self.strength * (values - target) * len(self.reservoirs) / len(scale)
        rehearsal.pull_critics(gradient, self.strength * self.max_grad_norm)

    def _sample(self) -> tuple[dict[str, Tensor], Tensor]:
        """Rows of every earlier skill, one after another, and the scale of each row, (rows, 1)."""
        share = max(1, self.batch_size // len(self.reservoirs))
        parts = [r.sample(share, self.generator) for r in self.reservoirs.values()]
        rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        scale = torch.tensor([self.scale[skill] for skill in self.reservoirs])
        scale = scale.repeat_interleave(share)[:, None]
        return rows, scale.to(rows["observation"].device, non_blocking=True)

    def _rehearsal(self, learner: Learner, rows: dict[str, Tensor]) -> Rehearsal:
        skills = list(self.reservoirs)
        return Rehearsal(learner.policy, skills, len(rows["observation"]) // len(skills))

    def _clone(self, rows: dict[str, Tensor], scale: Tensor) -> Loss:
        weight = (rows["advantage"] / scale[:, 0]).exp().clamp(max=_MAX_WEIGHT)
        return lambda mean, log_std: -(weight * log_likelihood(rows["action"], mean, log_std)).sum()

    def _improve(self, learner: Learner, rows: dict[str, Tensor]) -> Loss:
        rehearsal = self._rehearsal(learner, rows)
        states = rehearsal.states(rows["observation"])
        good = rehearsal.values(states, rows["action"]).amin(dim=1, keepdim=True)
        own, slope = rehearsal.slope(states, torch.tanh(rehearsal.means(states)))
        better = (good >= own)[:, 0].float()
        stored = torch.atanh(rows["action"].clamp(-0.999, 0.999))

        def loss(mean: Tensor, log_std: Tensor) -> Tensor:
            clone = (better * log_likelihood(stored, mean, log_std)).sum()
            return -clone - (slope * torch.tanh(mean)).sum()  # its gradient is that of -own

        return loss

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
