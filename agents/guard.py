"""Stops training at the first number that is not finite, and says which."""

import math
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor


class NumericalError(RuntimeError):
    """A NaN or an infinity in an observation, a reward, a loss or a weight."""


class Guard(BaseCallback):
    """Looks at what the environment returns before the policy sees it."""

    def _on_training_start(self) -> None:
        if not _finite(list(self.model.policy.parameters())):
            raise NumericalError(message(self.model, "weight of the policy"))

    def _on_rollout_start(self) -> None:
        self._check("observation", self.model._last_obs)

    def _on_step(self) -> bool:
        self._check("observation", self.locals["new_obs"])
        self._check("reward", self.locals["rewards"])
        return True

    def _check(self, quantity: str, values: Any) -> None:
        if not np.isfinite(values).all():
            raise NumericalError(message(self.model, quantity))


def check_gradients(agent: Any, optimizer: torch.optim.Optimizer, name: str) -> None:
    """Raise NumericalError where a gradient about to be applied is not finite."""
    gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    if gradients and not _finite(gradients):
        raise NumericalError(message(agent, f"gradient of the {name} loss"))


def check_weights(agent: Any, optimizer: torch.optim.Optimizer, name: str) -> None:
    """Raise NumericalError where a weight is not finite."""
    if not _finite(_parameters(optimizer)):
        raise NumericalError(message(agent, f"weight of the {name}"))


def message(agent: Any, quantity: str) -> str:
    """One line that names skill, quantity and step."""
    skill = f"skill {agent.skills[-1]!r}: " if agent.skills else ""
    return f"{skill}{quantity} is not finite at step {agent.num_timesteps}; training stopped"


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _finite(tensors: list[Tensor]) -> bool:
    # A sum is finite only if all its terms are; one sum of all tensors is the quickest look.
    return math.isfinite(torch.cat([t.detach().flatten() for t in tensors]).sum().item())
