"""PPO's rollouts in tensors on a device; the host waits for it at their ends only."""

from typing import Any

import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

from clrl.agents.actor_critic import ActorCritic
from clrl.agents.surrogate import log_density
from clrl.agents.tensor_env import Ended, TensorEnv, bounds, record_episodes

Cut = tuple[int, Tensor, Tensor]  # step, worlds on the CPU, and where they were cut off, (k, obs)


class TensorRolloutBuffer(RolloutBuffer):
    """SB3's `RolloutBuffer` with float32 tensors on the agent's device for its arrays.

    Attributes:
        observations: (steps, n_envs, *obs).
        actions: (steps, n_envs, act).
        rewards: (steps, n_envs), as are all others.
    """

    observations: Any  # Tensor; SB3's annotation says array
    actions: Any
    rewards: Any
    returns: Any
    episode_starts: Any
    values: Any
    log_probs: Any
    advantages: Any

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        for name in ("observations", "actions", "rewards", "episode_starts", "values", "log_probs"):
            setattr(self, name, torch.zeros(getattr(self, name).shape, device=self.device))
        self.advantages, self.returns = (torch.zeros_like(self.values) for _ in range(2))

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[Any]) -> None:
        """As SB3's, on the device; `last_values` (n_envs,) and `dones` (n_envs,) of the end."""
        last = torch.as_tensor(dones).float().to(self.device, non_blocking=True)
        going = 1.0 - torch.cat((self.episode_starts[1:], last[None]))
        following = torch.cat((self.values[1:], last_values.view(1, -1)))
        error = self.rewards + self.gamma * following * going - self.values
        kept = self.gamma * self.gae_lambda * going
        running = torch.zeros_like(last)
        for step in reversed(range(self.buffer_size)):
            running = error[step] + kept[step] * running
            self.advantages[step] = running
        self.returns = self.advantages + self.values

    def _get_samples(self, batch_inds: NDArray[Any], env: Any = None) -> RolloutBufferSamples:
        rows = torch.as_tensor(batch_inds, device=self.device)
        ones = (self.values, self.log_probs, self.advantages, self.returns)
        return RolloutBufferSamples(
            self.observations[rows], self.actions[rows], *(one[rows].flatten() for one in ones)
        )


@torch.no_grad()
def collect(
    agent: Any,
    networks: ActorCritic,
    env: TensorEnv,
    callback: BaseCallback,
    rollout_buffer: TensorRolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill a rollout buffer as `rollout.collect` does; False where a callback stopped it.

    A callback's `locals` hold tensors on the device: `actions`, `clipped_actions`, `rewards` and
    `new_obs`; reading a number of them waits for the device. `dones` is an array, as SB3's.
    `infos` is empty: `env.ended` describes the episodes that ended, and they are in the agent's
    `ep_info_buffer` when the rollout ends.
    """
    agent.policy.set_training_mode(False)
    rollout_buffer.reset()
    device = agent.device
    low, high = bounds(agent.action_space, device)
    noise = torch.empty_like(rollout_buffer.actions)
    starts = torch.empty(rollout_buffer.rewards.shape, dtype=torch.bool)
    ended: list[Ended] = []
    cut: list[Cut] = []
    infos: list[dict[str, Any]] = []
    callback.on_rollout_start()
    for n_steps in range(n_rollout_steps):
        seen = rollout_buffer.observations[n_steps]
        seen.copy_(torch.as_tensor(agent._last_obs))
        starts[n_steps] = torch.as_tensor(agent._last_episode_starts)
        actions = _act(networks, seen, noise[n_steps])
        rollout_buffer.actions[n_steps] = actions
        clipped_actions = actions.clamp(low, high)
        step, new_obs = env.step_tensor(clipped_actions)
        rewards, dones = step.reward.float(), step.done.numpy()
        agent.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        rollout_buffer.rewards[n_steps] = rewards
        if dones.any():
            ended.append(env.ended)
            cut.append((n_steps, env.ended.worlds, _rows(step.observation, env.ended.worlds)))
        agent._last_obs, agent._last_episode_starts = new_obs, dones
    rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
    rollout_buffer.episode_starts.copy_(starts, non_blocking=True)
    rollout_buffer.log_probs = log_density(noise, networks.log_std)
    values = _judge(networks, rollout_buffer, agent._last_obs, cut)
    rollout_buffer.compute_returns_and_advantage(values, dones)
    record_episodes(agent, ended)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


def _act(networks: ActorCritic, observation: Tensor, noise: Tensor) -> Tensor:
    """Sample actions (n, act), and keep the standard normal numbers they come from."""
    mean = networks.actor.forward(networks.features(observation))
    return torch.addcmul(mean, noise.normal_(), networks.log_std.exp())


def _judge(
    networks: ActorCritic, buffer: TensorRolloutBuffer, last: Tensor, cut: list[Cut]
) -> Tensor:
    """Write values, add those of cut-off states to the rewards, and return the last, (n,)."""
    seen = buffer.observations.flatten(0, 1)
    rows = torch.cat((seen, last.to(seen.device), *(rows.to(seen.device) for _, _, rows in cut)))
    values = networks.critic.forward(networks.features(rows)).flatten()
    sizes = (len(seen), len(last), len(rows) - len(seen) - len(last))
    parts: list[Tensor] = [*values.split(sizes)]
    buffer.values = parts[0].view_as(buffer.values)
    if cut:
        where = torch.cat([step * buffer.n_envs + worlds for step, worlds, _ in cut])
        where = where.to(seen.device, non_blocking=True)
        buffer.rewards.view(-1).index_add_(0, where, parts[2], alpha=buffer.gamma)
    return parts[1]


def _rows(values: Tensor, worlds: Tensor) -> Tensor:
    return values.index_select(0, worlds.to(values.device, non_blocking=True))
