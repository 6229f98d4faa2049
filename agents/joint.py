"""PPO on all skills at once, the usual upper bound of what learning them in turn can keep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from clrl.agents.actor_critic import ActorCritic
from clrl.agents.continual import Continual
from clrl.agents.popart import PopArt
from clrl.agents.ppo import BUFFERS, ContinualPPO
from clrl.agents.rows import Rows
from clrl.agents.surrogate import Surrogate, Trace
from clrl.agents.tensor_env import tensor_env


class Parts(Protocol):
    """A VecEnv of several skills.

    Attributes:
        parts: A VecEnv a skill, in the order in which the agent began them.
        slices: Where the worlds of each stand among all.
    """

    parts: list[VecEnv]
    slices: list[slice]


class JointPPO(ContinualPPO):
    """PPO that learns several skills at once on a shared trunk, with a head for each.

    Its environment is a VecEnv with `parts`, one a skill, in the order of `begin_skill`. Each skill
    has its own rollouts, observation statistics and advantage normalisation, and passes through its
    own head; an update takes the mean of the skills' gradients, and a share of `batch_size` from
    each skill in proportion to its worlds.
    """

    policy: Any

    def __init__(self, *args: Any, popart: bool = False, **kwargs: Any) -> None:
        """Build the agent.

        Args:
            args: As `ContinualPPO`.
            popart: Learn values in units of their own scale, see `PopArt`.
            kwargs: As `ContinualPPO`.

        Raises:
            ValueError: protections, `updates="sb3"`, or a policy that SB3's own code must run.
        """
        self.popart = popart
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        check_joint(self, self._networks() is not None)
        self._buffers: list[RolloutBuffer] = []
        if self.popart:
            if not self.policy.multi_head:
                raise ValueError("popart needs a head for each skill: multi_head=True")
            self.policy.popart = PopArt(self.policy.max_skills).to(self.device)

    def _networks(self) -> ActorCritic | None:
        networks = super()._networks()
        if networks is None or not hasattr(self.policy, "popart"):
            return networks
        skill = self.policy.features.active
        return replace(networks, critic=self.policy.popart.critic(skill, networks.critic))

    def collect_rollouts(
        self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout of each skill, one skill after another."""
        parts: Parts = env
        if len(getattr(env, "parts", ())) != len(self.skills):
            raise ValueError(f"joint training of {len(self.skills)} skills needs an env for each")
        self._buffers = [self._buffer(part) for part in parts.parts]
        callback.on_rollout_start()  # once, while agent and worlds stand where a checkpoint may
        callback = _Begun(callback)
        before: tuple[Any, Any] = self._last_obs, self._last_episode_starts
        after = []
        for skill, rows in enumerate(parts.slices):
            self._last_obs, self._last_episode_starts = (column[rows] for column in before)
            with self.policy.using(skill):
                going_on = super().collect_rollouts(
                    parts.parts[skill], callback, self._buffers[skill], n_rollout_steps
                )
            if not going_on:
                return False
            after.append((self._last_obs, self._last_episode_starts))
        self._last_obs, self._last_episode_starts = map(_joined, zip(*after, strict=True))
        return True

    def _buffer(self, env: VecEnv) -> RolloutBuffer:
        kind = BUFFERS[tensor_env(env) is not None]
        return kind(
            self.n_steps,
            self.observation_space,
            self.action_space,
            self.device,
            self.gae_lambda,
            self.gamma,
            env.num_envs,
        )

    def train(self) -> None:
        """Train on the rollouts of all skills; only then move each one's observation statistics."""
        if self.popart:
            self._rescale()
        networks, rows = [], []
        for skill, buffer in enumerate(self._buffers):
            with self.policy.using(skill):
                one = self._networks()
                assert one is not None
                networks.append(one)
                rows.append(Rows.of(buffer, one.features))
        self._train(JointNetworks(networks), JointRows(rows))
        for skill, buffer in enumerate(self._buffers):
            with self.policy.using(skill):
                seen = torch.as_tensor(buffer.observations, device=self.device)
                self.policy.features.update(seen.flatten(0, 1))
                std = self.policy.active_log_std.exp().mean().item()
                self.logger.record(f"train/std_{self.skills[skill]}", std)
        self._stop_if_broken()

    def _rescale(self) -> None:
        """Let each skill's scale follow the returns of its new rollout."""
        for skill, buffer in enumerate(self._buffers):
            returns = torch.as_tensor(buffer.returns, device=self.device).flatten()
            self.policy.popart.update(skill, returns, self.policy.value_net.layers[skill])

    def _rollouts(self) -> list[RolloutBuffer]:
        return self._buffers

    def _experience(self) -> Any:
        """Of the newest skill, as for every agent."""
        observations = (self._buffers or [self.rollout_buffer])[-1].observations
        return observations.reshape(-1, observations.shape[-1])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_buffers"]


def check_joint(agent: Continual, runs_by_hand: bool) -> None:
    """Raise ValueError where an agent cannot learn several skills at once."""
    if agent.protections:
        raise ValueError("joint training has no earlier skill to protect; leave protect empty")
    if agent.updates == "sb3" or not runs_by_hand:
        raise ValueError(
            "joint training needs updates='fast', a policy of known layers, and SB3's own buffer "
            "and optimizer; leave such options out"
        )


@dataclass(frozen=True)
class JointRows:
    """Rows of each skill, cut into as many minibatches as there would be of all in one."""

    parts: Sequence[Rows]

    def shuffled(self, size: int) -> Iterator[list[Rows]]:
        """All rows of every skill once, in about `size` at a time, each skill in proportion."""
        counts = [len(rows.value) for rows in self.parts]
        batches = min(-(-sum(counts) // size), *counts)
        yield from map(list, zip(*(rows.dealt(batches) for rows in self.parts), strict=True))


@dataclass(frozen=True)
class JointNetworks:
    """The networks of each skill, which share their trunk."""

    parts: Sequence[ActorCritic]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, each once."""
        return list(dict.fromkeys(p for networks in self.parts for p in networks.parameters))

    def differentiate(self, loss: Surrogate, batches: Sequence[Rows]) -> list[Trace]:
        """Set `.grad` to the mean of the skills' gradients; what each one's figures are of."""
        total: dict[nn.Parameter, Tensor] = {}
        traces: list[Trace] = []
        for networks, batch in zip(self.parts, batches, strict=True):
            traces += networks.differentiate(loss, batch)
            for parameter in networks.parameters:
                assert parameter.grad is not None
                before = total.get(parameter)
                total[parameter] = parameter.grad if before is None else before + parameter.grad
        for parameter, gradient in total.items():
            parameter.grad = gradient / len(self.parts)
        return traces


def _joined(columns: Sequence[Any]) -> Any:
    tensors = isinstance(columns[0], Tensor)
    return torch.cat([*columns]) if tensors else np.concatenate([*columns])


class _Begun:
    """A callback that has been told of the start already."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def on_rollout_start(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback, name)
