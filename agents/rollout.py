"""Collects rollouts for PPO without a pass of the critic at each step."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from clrl.agents.actor_critic import ActorCritic
from clrl.agents.surrogate import log_density

Array = NDArray[Any]
Ending = tuple[int, int, Array]  # step, world, and the observation an episode was cut off at


def collect(
    agent: Any,
    networks: ActorCritic,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill a rollout buffer as SB3's `collect_rollouts` does; False where a callback stopped it.

    What the networks do not need to act waits for the end of the rollout, in one pass of all rows:
    the values of all states, of the last, and of those where a time limit cut an episode off. A
    callback finds values and log-probabilities in the buffer once the rollout has ended.
    """
    agent.policy.set_training_mode(False)
    rollout_buffer.reset()
    noise = torch.empty(n_rollout_steps, env.num_envs, *agent.action_space.shape)
    cut: list[Ending] = []
    callback.on_rollout_start()
    for n_steps in range(n_rollout_steps):
        actions = _act(networks, agent._last_obs, noise[n_steps])
        clipped_actions = np.clip(actions, agent.action_space.low, agent.action_space.high)
        new_obs, rewards, dones, infos = env.step(clipped_actions)
        agent.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            agent._update_info_buffer([infos[i] for i in ended], dones[ended])
            cut += [(n_steps, i, _copy(infos[i])) for i in ended if _is_cut(infos[i])]
        rollout_buffer.observations[n_steps] = agent._last_obs
        rollout_buffer.actions[n_steps] = actions
        rollout_buffer.rewards[n_steps] = rewards
        rollout_buffer.episode_starts[n_steps] = agent._last_episode_starts
        agent._last_obs, agent._last_episode_starts = new_obs, dones
    rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
    rollout_buffer.log_probs[:] = log_density(noise, networks.log_std.detach().cpu()).numpy()
    values = _judge(networks, rollout_buffer, agent._last_obs, cut, agent.gamma)
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


@torch.no_grad()
def _act(networks: ActorCritic, observations: Array, noise: Tensor) -> Array:
    """Sample actions (n, act), and keep the standard normal numbers they come from."""
    log_std = networks.log_std
    features = networks.features(_tensor(observations, log_std.device))
    mean = networks.actor.forward(features)
    noise.normal_()
    actions: Array = torch.addcmul(mean, noise.to(mean.device), log_std.exp()).cpu().numpy()
    return actions


@torch.no_grad()
def _judge(
    networks: ActorCritic, buffer: RolloutBuffer, last: Array, cut: list[Ending], gamma: float
) -> Tensor:
    """Write values, add those of cut-off states to the rewards, and return the last, (n,)."""
    seen = buffer.observations.reshape(-1, *buffer.obs_shape)
    rows = np.concatenate((seen, last, *(observation[None] for _, _, observation in cut)))
    features = networks.features(_tensor(rows, networks.log_std.device))
    values = networks.critic.forward(features).flatten().cpu()
    parts: list[Tensor] = [*values.split((len(seen), len(last), len(cut)))]
    now, after, rest = parts
    buffer.values[:] = now.view(buffer.values.shape).numpy()
    for (step, world, _), value in zip(cut, rest.tolist(), strict=True):
        buffer.rewards[step, world] += gamma * value
    return after


def _is_cut(info: dict[str, Any]) -> bool:
    """Whether an episode ended by a time limit, so that what would have followed has a value."""
    return info.get("terminal_observation") is not None and bool(info.get("TimeLimit.truncated"))


def _copy(info: dict[str, Any]) -> Array:
    # An environment may write its next observation into the same array.
    return np.array(info["terminal_observation"])


def _tensor(observations: Array, device: torch.device) -> Tensor:
    return torch.as_tensor(observations, dtype=torch.float32, device=device)
