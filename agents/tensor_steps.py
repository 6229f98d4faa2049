"""SAC's steps in tensors, from worlds on a device straight into its replay buffer there."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.utils import should_collect_more_steps
from torch import Tensor

from clrl.agents.buffer import TensorReplayBuffer
from clrl.agents.tensor_env import Ended, TensorEnv, bounds, record_episodes


@torch.no_grad()
def collect(
    agent: Any,
    env: TensorEnv,
    callback: BaseCallback,
    train_freq: TrainFreq,
    replay_buffer: TensorReplayBuffer,
    learning_starts: int,
    log_interval: int | None,
) -> RolloutReturn:
    """Step as SB3's `collect_rollouts` does; it logs once where many episodes end together.

    A callback's `locals` are as in `tensor_rollout.collect`, with `buffer_actions`, the actions
    scaled to [-1, 1], in place of `clipped_actions`.
    """
    agent.policy.set_training_mode(False)
    num_collected_steps, num_collected_episodes = 0, 0
    low, high = bounds(agent.action_space, agent.device)
    ended: list[Ended] = []
    infos: list[dict[str, Any]] = []
    callback.on_rollout_start()
    while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
        seen = torch.as_tensor(agent._last_obs).to(agent.device)
        buffer_actions = _act(agent, seen, learning_starts)
        actions = low + 0.5 * (buffer_actions + 1.0) * (high - low)
        step, new_obs = env.step_tensor(actions)
        rewards, dones = step.reward.float(), step.done.numpy()
        agent.num_timesteps += env.num_envs
        num_collected_steps += 1
        callback.update_locals(locals())
        if not callback.on_step():
            return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, False)
        replay_buffer.add_tensors(
            seen, step.observation, buffer_actions, rewards, step.done, cut=step.done
        )
        agent._last_obs, agent._last_episode_starts = new_obs, dones
        agent._update_current_progress_remaining(agent.num_timesteps, agent._total_timesteps)
        if dones.any():
            ended.append(env.ended)
            num_collected_episodes += len(env.ended.worlds)
    record_episodes(agent, ended)
    _count(agent, num_collected_episodes, log_interval)
    callback.on_rollout_end()
    return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, True)


def _count(agent: Any, episodes: int, log_interval: int | None) -> None:
    """Count episodes, and log where that passes a multiple of the interval."""
    before = agent._episode_num
    agent._episode_num += episodes
    if log_interval is not None and before // log_interval < agent._episode_num // log_interval:
        agent.dump_logs()


def _act(agent: Any, seen: Tensor, learning_starts: int) -> Tensor:
    """Actions in [-1, 1], (n, act): at random or by earlier heads in a warm-up, then the policy's.

    The choice of `ContinualSAC._sample_action`, drawn on the device.
    """
    if agent.num_timesteps >= learning_starts:
        return _sample(agent, seen, agent.skill)
    if not (agent.explore == "best-head" and agent.skill):
        size = (len(seen), *agent.action_space.shape)
        return 2.0 * torch.rand(size, device=seen.device) - 1.0
    heads = agent._explorers(len(seen))
    actions = torch.empty(len(seen), *agent.action_space.shape, device=seen.device)
    for head in np.unique(heads):
        rows = torch.from_numpy(np.flatnonzero(heads == head)).to(seen.device, non_blocking=True)
        actions[rows] = _sample(agent, seen[rows], int(head))
    return actions


def _sample(agent: Any, seen: Tensor, skill: int) -> Tensor:
    # Not through SB3's distribution, whose checks of its arguments read from the device.
    mean, log_std = agent.policy.gaussian(seen, skill)
    return torch.tanh(torch.addcmul(mean, torch.randn_like(mean), log_std.exp()))
