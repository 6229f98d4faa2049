"""SAC's gradient steps as Stable-Baselines3 takes them, without what they do not need.

The mathematics is that of `stable_baselines3.SAC.train` (2.9); only the order of summation differs.
Spared are: the graph; the gradients of critics' weights that the actor's loss computes and drops;
objects for distributions; reading a number back at every step; one of two passes through the
actor, since states and next states go through it together.
"""

from typing import Any, NamedTuple

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor

from clrl.agents.branches import Branches
from clrl.agents.buffer import TensorReplayBuffer
from clrl.agents.heads import MultiHeadSACPolicy
from clrl.agents.tape import Tape

_EPSILON = 1e-6  # of SB3's squashed Gaussian
_HALF_LOG_TAU = 0.9189385332046727  # log(2 pi) / 2


class Sample(NamedTuple):
    """Actions drawn from the policy, and what the way back to its outputs needs.

    Attributes:
        action: tanh of a Gaussian, (batch, act).
        log_prob: Its log density, (batch, 1).
        push: Standard deviation times noise, which is d pre-squash / d log-std, (batch, act).
        free: Where log-std is within its bounds, (batch, act).
    """

    action: Tensor
    log_prob: Tensor
    push: Tensor
    free: Tensor


def supports(agent: Any) -> bool:
    """Whether `train` does for an agent what SB3's would.

    Not so with a policy or a replay buffer that are not ours, with observations or rewards that the
    environment's wrapper normalises, with another optimizer than Adam, or with layers that `Tape`
    does not know. (gSDE the policy refuses itself; n-step returns and the memory-saving replay
    bring a buffer that is not ours.)
    """
    return (
        type(agent.policy) is MultiHeadSACPolicy
        and type(agent.replay_buffer) is TensorReplayBuffer
        and agent._vec_normalize_env is None
        and all(
            type(o) is torch.optim.Adam for o in (agent.actor.optimizer, agent.critic.optimizer)
        )
        and all(map(Tape.supports, (agent.actor.latent_pi, *agent.critic.q_networks)))
    )


def train(agent: Any, gradient_steps: int, batch_size: int) -> None:
    """SB3's `SAC.train` for an agent that `supports` holds for."""
    agent.policy.set_training_mode(True)
    optimizers = [agent.actor.optimizer, agent.critic.optimizer]
    if agent.ent_coef_optimizer is not None:
        optimizers.append(agent.ent_coef_optimizer)
    agent._update_learning_rate(optimizers)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["fused"] = True
    steps = GradientSteps(agent)
    for i, batch in enumerate(agent.batches(gradient_steps, batch_size)):
        steps.step(batch, polyak=i % agent.target_update_interval == 0)
    agent._n_updates += gradient_steps
    agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
    means = torch.stack([torch.stack(values).mean() for values in steps.logged.values()])
    for name, value in zip(steps.logged, means.tolist(), strict=True):
        agent.logger.record(f"train/{name}", value)


class GradientSteps:
    """The gradient steps between two rollouts, on as many rows of each skill being learned."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        skills = agent.learned
        self._skills = skills if len(skills) == 1 else [*skills, *skills]  # states, next states
        self._actor = Branches.of_actor(agent.actor, self._skills)
        self._critics = Branches.of_critics(agent.critic, skills)
        self._targets = Branches.of_critics(agent.critic_target, skills)
        self._online = list(agent.critic.parameters())
        self._slow = list(agent.critic_target.parameters())
        self.logged: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def step(self, batch: ReplayBufferSamples, polyak: bool) -> None:
        """One step of temperature, critics and actor, and of the targets if `polyak`."""
        size = len(batch.rewards)
        observations = torch.cat((batch.observations, batch.next_observations))
        states: Tensor = self._agent.policy.features.of_each(observations, self._skills)
        sample = self._act(states)
        here, there = (
            Sample(*(t[half] for t in sample)) for half in (slice(size), slice(size, None))
        )
        states, following = states.split(size)
        temperature = self._step_temperature(here.log_prob)
        value = _values(self._targets, following, there.action).amin(dim=1, keepdim=True)
        value = value - temperature * there.log_prob
        goal = batch.rewards + (1.0 - batch.dones) * self._agent.gamma * value
        self._step_critics(states, batch.actions, goal)
        self._step_actor(states, here, temperature)
        if polyak:
            torch._foreach_lerp_(self._slow, self._online, self._agent.tau)

    def _act(self, states: Tensor) -> Sample:
        """Sample actions in the first half of some states, to learn from, and in the second."""
        mean, unbounded = self._actor.forward(states)
        self._actor.keep(len(states) // 2)
        noise = _noise(mean)
        log_std = unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)
        push = log_std.exp() * noise
        action = torch.tanh(mean + push)
        density = -0.5 * noise.square() - log_std - _HALF_LOG_TAU
        log_prob = density - torch.log(1.0 - action.square() + _EPSILON)
        return Sample(action, log_prob.sum(dim=1, keepdim=True), push, unbounded == log_std)

    def _step_temperature(self, log_prob: Tensor) -> Tensor:
        """The temperature before its step, one for all rows or one for each, (rows, 1)."""
        agent = self._agent
        temperature: Tensor
        if agent.ent_coef_optimizer is None:
            temperature = agent.ent_coef_tensor
            self._log(ent_coef=temperature)
            return temperature
        temperature = agent.log_ent_coef.exp()
        slope = -(log_prob.view(len(temperature), -1).mean(dim=1) + agent.target_entropy)
        self._log(ent_coef=temperature.mean(), ent_coef_loss=(agent.log_ent_coef * slope).mean())
        agent.log_ent_coef.grad = slope
        agent.ent_coef_optimizer.step()
        if len(temperature) == 1:
            return temperature
        return temperature.repeat_interleave(len(log_prob) // len(temperature))[:, None]

    def _step_critics(self, states: Tensor, actions: Tensor, goal: Tensor) -> None:
        _forget(self._agent.critic.optimizer)
        error = _values(self._critics, states, actions) - goal
        self._log(critic_loss=0.5 * error.square().sum() / len(error))
        columns = (error / len(error)).split(1, dim=1)
        for critic, gradient in zip(self._critics, columns, strict=True):
            critic.backward([gradient])
        with torch.enable_grad():  # for protections, in the optimizer's hooks
            self._agent.critic.optimizer.step()

    def _step_actor(self, states: Tensor, sample: Sample, temperature: Tensor) -> None:
        _forget(self._agent.actor.optimizer)
        action = sample.action
        values = _values(self._critics, states, action)
        least, which = values.min(dim=1, keepdim=True)
        self._log(actor_loss=(temperature * sample.log_prob - least).mean())
        to_values = torch.zeros_like(values).scatter_(1, which, -1.0 / len(values))
        columns = slice(states.shape[1], None)
        by_action = torch.zeros_like(action)
        for critic, gradient in zip(self._critics, to_values.split(1, dim=1), strict=True):
            by_action += critic.backward([gradient], weights=False, inputs=columns)
        entropy = temperature / len(values)
        slope = 1.0 - action.square()
        by_mean = slope * (by_action + entropy * 2.0 * action / (slope + _EPSILON))
        by_log_std = (by_mean * sample.push - entropy) * sample.free
        self._actor.backward([by_mean, by_log_std])
        with torch.enable_grad():
            self._agent.actor.optimizer.step()

    def _log(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.logged.setdefault(name, []).append(value)


def _noise(like: Tensor) -> Tensor:
    return torch.randn_like(like)


def _values(critics: list[Branches], states: Tensor, actions: Tensor) -> Tensor:
    """Values by every critic, (batch, critics)."""
    inputs = torch.cat((states, actions), dim=1)
    return torch.cat([critic.forward(inputs)[0] for critic in critics], dim=1)


def _forget(optimizer: torch.optim.Optimizer) -> None:
    """Drop gradients; what the tapes do not set, such as other skills' heads, has none."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
