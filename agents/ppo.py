"""PPO that keeps earlier skills."""

from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from clrl.agents.continual import Continual
from clrl.agents.heads import MultiHeadPPOPolicy


class ContinualPPO(Continual, PPO):
    """Stable-Baselines3's PPO, with heads and protections.

    The gradients of protections join after SB3 has clipped that of its own loss, so that
    `max_grad_norm` bounds the learning signal alone. Value heads and trunk are not protected.
    Without protections and with one skill it is SB3's PPO to the bit.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MultiHeadPPOPolicy}

    def _optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, str]]:
        return {"policy": (self.policy.optimizer, "update")}

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """Collect as SB3 does, then show the protections what came."""
        going_on = super().collect_rollouts(*args, **kwargs)
        if going_on:
            self._protect("collect")
        return going_on

    def train(self) -> None:
        """Train as SB3 does; only then move the observation statistics.

        A rollout must be trained on with the statistics it was collected with.
        """
        super().train()
        self.policy.features.update(torch.as_tensor(self._experience(), device=self.device))
        self.logger.record("train/std", self.policy.active_log_std.exp().mean().item())

    def fresh(self) -> dict[str, Tensor]:
        """The rollout: observation, action and advantage, (rows, ...)."""
        buffer = self.rollout_buffer
        return {
            "observation": torch.as_tensor(buffer.observations).flatten(0, 1).float(),
            "action": torch.as_tensor(buffer.actions).flatten(0, 1).float(),
            "advantage": torch.as_tensor(buffer.advantages).flatten(0, 1).float(),
        }

    def _experience(self) -> NDArray[Any]:
        observations = self.rollout_buffer.observations
        return observations.reshape(-1, observations.shape[-1])
