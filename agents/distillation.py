"""Policy distillation (Rusu et al., 2016, arXiv:1511.06295), onto the agent's own past."""

from typing import Any

import torch
from torch import Tensor

from clrl.agents.protection import Learner, Protection, weighted


class PolicyDistillation(Protection):
    """Keeps the agent acting like its teacher, its former self, in states of earlier skills.

    After a skill it stores states together with the teacher's mean and log-std there, which is all
    a divergence needs: no network is copied. Later it adds the gradient of
    strength * KL(teacher || student), clipped, through each skill's own head, at every eighth
    update unless told otherwise.
    """

    def __init__(
        self,
        strength: float = 1.0,
        states: int = 4096,
        batch_size: int = 256,
        max_grad_norm: float = 0.5,
        every: int = 8,
        seed: int = 0,
    ) -> None:
        """Set the memory and the pull.

        Args:
            strength: Weight of the divergence.
            states: Stored per skill, >= 1.
            batch_size: States per update, over all earlier skills, >= 1.
            max_grad_norm: Bound of the gradient's norm at strength 1, > 0.
            every: Updates from one rehearsal to the next, >= 1.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed, every)
        for name, value in (("states", states), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if max_grad_norm <= 0.0:
            raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
        self.states = states
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.memory: dict[int, list[Tensor]] = {}

    def update(self, learner: Learner) -> None:
        """Add the clipped gradient of the divergence from all earlier skills."""
        if not self.memory or self.strength == 0.0 or not self.due("update"):
            return
        share = max(1, self.batch_size // len(self.memory))
        drawn = {}
        for skill, columns in self.memory.items():
            rows = torch.randint(len(columns[0]), (share,), generator=self.generator)
            rows = rows.to(columns[0].device, non_blocking=True)
            names = ("observation", "mean", "log_std")
            drawn[skill] = {n: c[rows] for n, c in zip(names, columns, strict=True)}
            drawn[skill] = weighted(learner, skill, drawn[skill])
        bound = self.reach(learner, self.memory) * self.max_grad_norm
        imitate(learner, drawn, self.strength, bound)

    def after_skill(self, learner: Learner) -> None:
        """Store states of the finished skill and what the agent would do there."""
        observations = learner.visited(self.states)
        with torch.no_grad():
            mean, log_std = learner.gaussian(observations, learner.skill)
        self.memory[learner.skill] = [observations, mean.detach().clone(), log_std.detach().clone()]

    def state_dict(self) -> dict[str, Any]:
        """The stored states."""
        return super().state_dict() | {"memory": {k: list(v) for k, v in self.memory.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the stored states."""
        super().load_state_dict(state)
        self.memory = {int(skill): list(columns) for skill, columns in state["memory"].items()}


def imitate(
    learner: Learner, rows: dict[int, dict[str, Tensor]], strength: float, max_norm: float
) -> None:
    """Add the clipped gradient of strength * KL(stored policy || policy).

    Args:
        learner: Whose policy it is.
        rows: Of each of some skills the same number, with columns `observation`, `mean`, `log_std`
            and `weight`.
        strength: Of the divergence: a mean over each skill's rows, summed over skills by weight.
        max_norm: Bound of the gradient's norm.
    """
    parts = list(rows.values())
    teacher = tuple(torch.cat([part[name] for part in parts]) for name in ("mean", "log_std"))
    weight = torch.cat([part["weight"] for part in parts])
    share = len(parts[0]["mean"])

    def loss(*student: Tensor) -> Tensor:
        apart = gaussian_kl(teacher, student)  # type: ignore[arg-type]
        return strength * (weight * apart).sum() / share

    learner.pull({skill: part["observation"] for skill, part in rows.items()}, loss, max_norm)


def gaussian_kl(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
    """KL(old || new) of diagonal Gaussians given as mean and log-std, (batch, act) to (batch,)."""
    (mean, log_std), (new_mean, new_log_std) = old, new
    variance = (2.0 * (log_std - new_log_std)).exp()
    distance = ((mean - new_mean) * (-new_log_std).exp()).square()
    return (new_log_std - log_std + 0.5 * (variance + distance - 1.0)).sum(dim=1)
