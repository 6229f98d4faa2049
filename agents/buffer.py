"""Stable-Baselines3's replay buffer in tensors, so that a batch is gathered where it is used."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class TensorReplayBuffer(ReplayBuffer):
    """SB3's `ReplayBuffer` with float32 tensors on the agent's device for its arrays.

    Everything SB3 does with its own works: adding, `sample` with the same draws, pickling. Only
    the storage is another, and `draw` and `gather` serve many batches without a copy each.

    Attributes:
        observations: (size, n_envs, *obs), as are `next_observations`.
        actions: (size, n_envs, act).
        rewards: (size, n_envs), as are `dones` and `timeouts`.
    """

    observations: Any  # Tensor; SB3's annotation says array
    next_observations: Any
    actions: Any
    rewards: Any
    dones: Any
    timeouts: Any

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        **kwargs: Any,
    ) -> None:
        """Make room for `buffer_size` transitions over all environments; arguments as SB3's."""
        super().__init__(
            buffer_size, observation_space, action_space, device, n_envs=n_envs, **kwargs
        )
        for name in COLUMNS:  # never read before it is written, so that it need not be filled
            shape = getattr(self, name).shape
            setattr(self, name, torch.empty(shape, dtype=torch.float32, device=self.device))

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of every environment, (n_envs, ...) each."""
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        columns = (obs, next_obs, action, reward, done, cut)
        self.add_tensors(*(torch.as_tensor(np.asarray(column)) for column in columns))

    def add_tensors(
        self,
        obs: Tensor,
        next_obs: Tensor,
        action: Tensor,
        reward: Tensor,
        done: Tensor,
        cut: Tensor,
    ) -> None:
        """Store one transition of every environment, (n_envs, ...) each, on any device.

        Args:
            obs: Where it began.
            next_obs: Where it led, the last of an episode where that ended.
            action: Scaled to [-1, 1].
            reward: What it gave.
            done: Whether it ended an episode.
            cut: Whether a time limit did that.
        """
        timeout = cut if self.handle_timeout_termination else torch.zeros_like(cut)
        for name, value in zip(
            COLUMNS, (obs, next_obs, action, reward, done, timeout), strict=True
        ):
            row = getattr(self, name)[self.pos]
            row.copy_(value.reshape(row.shape), non_blocking=True)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def draw(self, batches: int, batch_size: int) -> Tensor:
        """Uniform indices of stored transitions for `gather`, (batches, batch_size)."""
        size = (batches, batch_size)
        return torch.randint(self.size() * self.n_envs, size, device=self.device)

    def gather(self, indices: Tensor) -> ReplayBufferSamples:
        """Transitions by indices (batch,); ends by time limit are no ends, as in SB3's `sample`."""
        columns = [getattr(self, name).flatten(0, 1).index_select(0, indices) for name in COLUMNS]
        observations, following, actions, rewards, dones, timeouts = columns
        ends = (dones * (1.0 - timeouts))[:, None]
        return ReplayBufferSamples(observations, actions, following, ends, rewards[:, None])

    def _get_samples(self, batch_inds: NDArray[Any], env: Any = None) -> ReplayBufferSamples:
        # SB3's draw, with NumPy's global generator.
        worlds = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002
        batch = self.gather(torch.as_tensor(batch_inds * self.n_envs + worlds, device=self.device))
        if env is None:
            return batch
        return batch._replace(
            observations=self._through(env.normalize_obs, batch.observations),
            next_observations=self._through(env.normalize_obs, batch.next_observations),
            rewards=self._through(env.normalize_reward, batch.rewards),
        )

    def _through(self, normalise: Any, values: Tensor) -> Tensor:
        return torch.as_tensor(normalise(values.cpu().numpy()), device=self.device).float()


def is_vector(space: Any) -> bool:
    """Whether observations of a space are floats, which `TensorReplayBuffer` holds."""
    return isinstance(space, spaces.Box) and space.dtype.kind == "f"
