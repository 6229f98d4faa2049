"""PPO that keeps earlier skills."""

from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from clrl.agents import adam
from clrl.agents.actor_critic import ActorCritic
from clrl.agents.continual import Continual
from clrl.agents.guard import check_statistics
from clrl.agents.heads import MultiHeadPPOPolicy
from clrl.agents.protection import add_gradient, clip_gradients
from clrl.agents.rollout import collect
from clrl.agents.rows import Rows
from clrl.agents.surrogate import Surrogate, Trace
from clrl.agents.tensor_env import tensor_env
from clrl.agents.tensor_rollout import TensorRolloutBuffer
from clrl.agents.tensor_rollout import collect as collect_tensors

Minibatch = list[Trace]  # of each skill in it
BUFFERS = (RolloutBuffer, TensorRolloutBuffer)


class ContinualPPO(Continual, PPO):
    """Stable-Baselines3's PPO, with heads and protections.

    The gradients of protections join after PPO's own has been clipped, so that `max_grad_norm`
    bounds the learning signal alone. Value heads and trunk are not protected.

    With `updates="fast"` rollouts and updates are those of SB3 up to rounding, computed without a
    graph. With `updates="sb3"`, and with policies of another make, they are SB3's own; with the
    former, without protections and with one skill, this is SB3's PPO to the bit.

    Where the environment's worlds live on a device (`TensorEnv`), so do fast rollouts and updates,
    and `rollout_buffer` holds tensors.
    """

    off_policy = False
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MultiHeadPPOPolicy}

    def _networks(self) -> ActorCritic | None:
        """The networks to run by hand, or None where SB3 does its own."""
        if self.updates == "sb3" or type(self.rollout_buffer) not in BUFFERS:
            return None
        return ActorCritic.of(self.policy)

    def _optimizers(self) -> dict[str, tuple[torch.optim.Optimizer, str]]:
        return {"policy": (self.policy.optimizer, "update")}

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        on_device = tensor_env(self.env) is not None and self._networks() is not None
        kind = BUFFERS[on_device]
        if type(self.rollout_buffer) in BUFFERS and type(self.rollout_buffer) is not kind:
            self.rollout_buffer = kind(
                self.n_steps,
                self.observation_space,
                self.action_space,
                self.device,
                self.gae_lambda,
                self.gamma,
                self.n_envs,
            )
        return super()._setup_learn(*args, **kwargs)

    def collect_rollouts(
        self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Collect as SB3 does, then show the protections what came."""
        networks, on_device = self._networks(), tensor_env(env)
        if networks and on_device:
            going_on = collect_tensors(
                self, networks, on_device, callback, rollout_buffer, n_rollout_steps
            )
        elif networks:
            going_on = collect(self, networks, env, callback, rollout_buffer, n_rollout_steps)
        else:
            going_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if going_on:
            self._protect("collect")
        return going_on

    def train(self) -> None:
        """Train as SB3 does; only then move the observation statistics.

        A rollout must be trained on with the statistics it was collected with.
        """
        if networks := self._networks():
            self._train(networks, Rows.of(self.rollout_buffer, networks.features))
        else:
            super().train()
        self.policy.features.update(torch.as_tensor(self._experience(), device=self.device))
        check_statistics(self)
        self.logger.record("train/std", self.policy.active_log_std.exp().mean().item())
        self._stop_if_broken()

    def _train(self, networks: Any, rows: Any) -> None:
        """Update `ActorCritic` on `Rows`, or what has their `differentiate` and `shuffled`."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        if isinstance(self.policy.optimizer, torch.optim.Adam):
            for group in self.policy.optimizer.param_groups:
                group["fused"] = True
        loss = self._surrogate()
        epochs: list[list[Minibatch]] = []
        for _ in range(self.n_epochs):
            epochs.append([])
            self._n_updates += 1
            if not self._train_epoch(networks, loss, rows, epochs[-1]):
                break
        self._log(loss, epochs)

    def _surrogate(self) -> Surrogate:
        left = self._current_progress_remaining
        clip: Any = self.clip_range  # schedules, once the agent is set up
        clip_value: Any = self.clip_range_vf
        return Surrogate(
            clip=clip(left),
            clip_value=clip_value and clip_value(left),
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            normalize=self.normalize_advantage,
        )

    def _train_epoch(
        self, networks: Any, loss: Surrogate, rows: Any, minibatches: list[Minibatch]
    ) -> bool:
        """Update on all rows once; False where the policy has moved far enough."""
        for batch in rows.shuffled(self.batch_size):
            adam.forget(self.policy.optimizer)
            minibatches.append(networks.differentiate(loss, batch))
            if self.target_kl is not None and self._too_far(loss, minibatches[-1]):
                return False
            clip_gradients(networks.parameters, self.max_grad_norm)
            adam.step(self.policy.optimizer)
        return True

    def _too_far(self, loss: Surrogate, minibatch: Minibatch) -> bool:
        assert self.target_kl is not None
        return loss.figures(minibatch).divergence > 1.5 * self.target_kl

    def _log(self, loss: Surrogate, epochs: list[list[Minibatch]]) -> None:
        """What SB3 logs, under its names."""
        mean = loss.figures([*chain(*chain(*epochs))])
        newest = loss.figures([*chain(*epochs[-1])])
        last = loss.figures(epochs[-1][-1])
        total = (
            last.policy_loss + loss.vf_coef * last.value_loss + loss.ent_coef * last.entropy_loss
        )
        explained = explained_variance(self._column("values"), self._column("returns"))
        self.logger.record("train/entropy_loss", mean.entropy_loss)
        self.logger.record("train/policy_gradient_loss", mean.policy_loss)
        self.logger.record("train/value_loss", mean.value_loss)
        self.logger.record("train/approx_kl", newest.divergence)
        self.logger.record("train/clip_fraction", mean.clip_fraction)
        self.logger.record("train/loss", total)
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", loss.clip)
        if loss.clip_value is not None:
            self.logger.record("train/clip_range_vf", loss.clip_value)

    def values(self, rows: dict[str, Tensor], skill: int) -> Tensor:
        """The value of each row's state in a skill, (batch, 1)."""
        with self.policy.using(skill):
            values: Tensor = self.policy.predict_values(rows["observation"])
        return values

    def pull_values(
        self,
        rows: dict[int, dict[str, Tensor]],
        loss: Callable[[Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """Add the clipped gradient of a loss of values to `.grad`.

        Args:
            rows: Of each of some skills, the same number of each.
            loss: Of the values, (rows, 1), skill after skill.
            max_norm: Bound of the gradient's norm.
        """
        values = torch.cat([self.values(part, skill) for skill, part in rows.items()])
        add_gradient(loss(values), list(self.policy.parameters()), max_norm)

    def _rollouts(self) -> list[RolloutBuffer]:
        """What the latest update was on."""
        return [self.rollout_buffer]

    def _column(self, name: str) -> NDArray[Any]:
        columns = (torch.as_tensor(getattr(rollout, name)) for rollout in self._rollouts())
        return torch.cat([column.flatten() for column in columns]).cpu().numpy()

    def fresh(self) -> dict[str, Tensor]:
        """The rollout: observation, action and advantage, (rows, ...)."""
        buffer = self.rollout_buffer
        return {
            "observation": torch.as_tensor(buffer.observations).flatten(0, 1).float(),
            "action": torch.as_tensor(buffer.actions).flatten(0, 1).float(),
            "advantage": torch.as_tensor(buffer.advantages).flatten(0, 1).float(),
        }

    def _experience(self) -> Any:
        observations = self.rollout_buffer.observations
        return observations.reshape(-1, observations.shape[-1])
