"""A protection that keeps a uniform sample of every skill's experience."""

from typing import Any

import torch
from torch import Tensor

from clrl.agents.protection import Learner, Protection, weighted
from clrl.agents.reservoir import Reservoir


class Remembering(Protection):
    """Fills a reservoir (Vitter, 1985) during a skill, and draws from those of earlier skills.

    Each skill has an equal share of the capacity. What is done with the rows is a subclass's.

    Attributes:
        reservoirs: Of the earlier skills, by index.
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
        """Set the memory and the pull.

        Args:
            strength: Weight of what is done with the rows.
            capacity: Rows over all skills, >= 1.
            batch_size: Rows per update, over all earlier skills, >= 1.
            tail: Last share of a skill's budget that is remembered, in (0, 1].
            max_grad_norm: Bound of each gradient's norm at strength 1, > 0.
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
        if not max_grad_norm > 0.0:
            raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
        self.capacity = capacity
        self.batch_size = batch_size
        self.tail = tail
        self.max_grad_norm = max_grad_norm
        self.reservoirs: dict[int, Reservoir] = {}
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
            self._filling.add(self.rows(learner), self.generator)

    def rows(self, learner: Learner) -> dict[str, Tensor]:
        """What to remember of the experience that came, columns of (rows, ...)."""
        return learner.fresh()

    def after_skill(self, learner: Learner) -> None:
        """Close the skill's reservoir."""
        if self._filling is None or not len(self._filling):
            return
        self._filling.trim()
        self.reservoirs[learner.skill] = self._filling
        self._filling = None

    def rehearses(self, hook: str) -> bool:
        """Whether this call of a hook is one to rehearse at."""
        return self.strength > 0.0 and bool(self.reservoirs) and self.due(hook)

    def sample(self, learner: Learner) -> dict[int, dict[str, Tensor]]:
        """Rows of every earlier skill, the same number of each and `batch_size` in all.

        A column `weight` holds each skill's importance.
        """
        share = max(1, self.batch_size // len(self.reservoirs))
        rows = {skill: r.sample(share, self.generator) for skill, r in self.reservoirs.items()}
        return {skill: weighted(learner, skill, columns) for skill, columns in rows.items()}

    def bound(self, learner: Learner) -> float:
        """Of the norm of a gradient from all earlier skills."""
        return self.reach(learner, self.reservoirs) * self.max_grad_norm

    def state_dict(self) -> dict[str, Any]:
        """All reservoirs."""
        return super().state_dict() | {
            "reservoirs": {k: r.state_dict() for k, r in self.reservoirs.items()},
            "filling": self._filling.state_dict() if self._filling is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back all reservoirs."""
        super().load_state_dict(state)
        self.reservoirs = {int(k): Reservoir.from_state(r) for k, r in state["reservoirs"].items()}
        filling = state["filling"]
        self._filling = None if filling is None else Reservoir.from_state(filling)


def stacked(rows: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of several skills as columns, skill after skill."""
    parts = list(rows.values())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
