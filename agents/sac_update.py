"""SAC's gradient steps as Stable-Baselines3 takes them, without what they do not need.

The mathematics is that of `stable_baselines3.SAC.train` (2.9); only the order of summation differs.
Spared are: the graph; the gradients of critics' weights that the actor's loss computes and drops;
objects for distributions; reading a number back at every step. Networks that need nothing of each
other run side by side.
"""

from functools import partial, reduce
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor

from clrl.agents import adam
from clrl.agents.branches import Branches
from clrl.agents.buffer import TensorReplayBuffer
from clrl.agents.fused import fused
from clrl.agents.guard import check_gradients, on_device
from clrl.agents.heads import MultiHeadSACPolicy
from clrl.agents.lanes import Aside, Work, side_by_side
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


def train(agent: Any, steps: "GradientSteps", gradient_steps: int, batch_size: int) -> None:
    """SB3's `SAC.train` for an agent that `supports` holds for."""
    agent.policy.set_training_mode(True)
    optimizers = [agent.actor.optimizer, agent.critic.optimizer]
    if agent.ent_coef_optimizer is not None:
        optimizers.append(agent.ent_coef_optimizer)
    agent._update_learning_rate(optimizers)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["fused"] = True
    for i, rows in enumerate(agent.draws(gradient_steps, batch_size)):
        steps.step(rows, polyak=i % agent.target_update_interval == 0)
    agent._n_updates += gradient_steps
    agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
    for name, value in steps.read(gradient_steps).items():
        agent.logger.record(f"train/{name}", value)


class GradientSteps:
    """Gradient steps on as many rows of each skill being learned.

    A step has phases, with an optimizer's step after each of the first two, where protections look
    on: the temperature's step and the critics' gradients, the actor's, the targets'.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._skills: list[int] = agent.learned
        self._actor = Branches.of_actor(agent.actor, self._skills)
        self._next = Branches.of_actor(agent.actor, self._skills, keep=False)
        self._critics = Branches.of_critics(agent.critic, self._skills)
        self._targets = Branches.of_critics(agent.critic_target, self._skills, keep=False)
        self._online: list[Tensor] = list(agent.critic.parameters())
        self._parts = _parts(agent.critic)
        self._slow: list[Tensor] = list(agent.critic_target.parameters())
        self._logged: dict[str, Tensor] = {}  # figures of the step at hand
        self._sums: Tensor | None = None  # of the steps since they were read

    @torch.no_grad()
    def step(self, rows: Tensor, polyak: bool) -> None:
        """One step on stored transitions, by index (batch,), and of the targets if `polyak`."""
        pulls = self.judge(rows)
        if self._critics_are_alone():
            works = zip(self._critics, self._parts, pulls, strict=True)
            slopes = self._beside(*(partial(self._renew, *work) for work in works))
        else:
            self.improve_critics(pulls)
            self.apply(self._agent.critic.optimizer)
            slopes = self.slopes()
        self.improve_actor(slopes, *([self.follow] if polyak else []))
        self.apply(self._agent.actor.optimizer)

    def read(self, count: int) -> dict[str, float]:
        """Means over `count` steps of what was logged since the last call."""
        if self._sums is None:
            return {}
        means = (self._sums / count).tolist()
        self._sums.zero_()
        return dict(zip(self._logged, means, strict=True))

    def judge(self, rows: Tensor) -> list[Tensor]:
        """Step the temperature; give the gradient of the critics' loss by the values of each."""
        batch = self._agent.replay_buffer.gather(rows)
        self._logged = {}
        both = (batch.observations, batch.next_observations)
        features = self._agent.policy.features
        self._states, following = (features.of_each(seen, self._skills) for seen in both)
        inputs = torch.cat((self._states, batch.actions), dim=1)
        values, goal = self._values_and_goal(batch, inputs, following)
        loss, gradients = _critics_loss(values, goal)
        self._log(critic_loss=loss)
        adam.forget(self._agent.critic.optimizer)
        return gradients

    def improve_critics(self, pulls: list[Tensor]) -> None:
        """Set the critics' gradients."""
        pairs = zip(self._critics, pulls, strict=True)
        self._beside(*(partial(critic.backward, [pull]) for critic, pull in pairs))

    def slopes(self) -> list[tuple[Tensor, Tensor]]:
        """Of each critic the values of the actor's actions, and minus their slopes by those."""
        return self._beside(*(partial(self._slope, critic) for critic in self._critics))

    def _values_and_goal(
        self, batch: Any, inputs: Tensor, following: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What the critics say and what they are to say, (batch, 1) each."""
        actors = (
            partial(self._actor.forward, self._states),
            partial(self._next.forward, following),
        )
        critics = [partial(critic.forward, inputs) for critic in self._critics]
        if on_device(inputs):
            here, there, *outputs = self._beside(*actors, *critics)
            after = self._draw(here, there)
            self._step_temperature()
            goal = self._goal(batch, following, after)
        else:  # as much for other threads as there is to the goal for this one
            here, there = self._beside(*actors)
            with Aside() as aside:
                results = [aside.add(critic) for critic in critics]
                after = self._draw(here, there)
                aside.add(self._step_temperature)
                goal = self._goal(batch, following, after)
            outputs = [result() for result in results]
        return [value for (value,) in outputs], goal

    def _draw(self, here: list[Tensor], there: list[Tensor]) -> Sample:
        """Draw actions by the actor's outputs, and return those that follow."""
        self._here, after = self._samples(here, there)
        self._temperature = self._temperature_before(len(after.action))
        return after

    def _goal(self, batch: Any, following: Tensor, after: Sample) -> Tensor:
        """What the critics are to say, by what the targets say."""
        inputs = torch.cat((following, after.action), dim=1)
        outputs = self._beside(*(partial(target.forward, inputs) for target in self._targets))
        values = [value for (value,) in outputs]
        terms = after.log_prob, self._temperature, batch.rewards, batch.dones, self._agent.gamma
        return _target(values, *terms)

    def _samples(self, here: list[Tensor], there: list[Tensor]) -> list[Sample]:
        """Actions by means and log-stds in states, and in the next ones."""
        mean, unbounded = (torch.cat(pair) for pair in zip(here, there, strict=True))
        fields = _sampled(mean, unbounded, _noise(mean))
        return [Sample(*half) for half in zip(*(field.chunk(2) for field in fields), strict=True)]

    def improve_actor(self, slopes: list[tuple[Tensor, Tensor]], *meanwhile: Work) -> None:
        """Set the actor's gradient, while another thread may do what leaves actor and critics."""
        sample = self._here
        adam.forget(self._agent.actor.optimizer)
        with Aside() as aside:
            for work in meanwhile:
                aside.add(work)
            values, by_actions = map(list, zip(*slopes, strict=True))
            loss, by_action = _actor_loss(values, by_actions, sample.log_prob, self._temperature)
            self._log(actor_loss=loss)
            self._actor.backward(_to_outputs(by_action, *sample, self._temperature))
            self._add_up()

    def _critics_are_alone(self) -> bool:
        """Whether each can step as soon as it has its own gradients, since nobody sees all."""
        optimizer = self._agent.critic.optimizer
        seen = watched(self._agent, optimizer, "update_critic") or not adam.is_plain(optimizer)
        return bool(self._parts) and not seen

    def _renew(self, critic: Branches, part: slice, pull: Tensor) -> tuple[Tensor, Tensor]:
        """All of a critic's own step, in one go, and then its slope."""
        optimizer = self._agent.critic.optimizer
        critic.backward([pull])
        if not on_device(pull):
            check_gradients(self._agent, optimizer.param_groups[0]["params"][part], "critic")
        adam.move(optimizer, part)
        return self._slope(critic)

    def _slope(self, critic: Branches) -> tuple[Tensor, Tensor]:
        inputs = torch.cat((self._states, self._here.action), dim=1)
        (value,) = critic.forward(inputs)
        columns = slice(self._states.shape[1], None)
        slope: Tensor = critic.backward([-torch.ones_like(value)], weights=False, inputs=columns)
        return value, slope

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Step an optimizer, with what protections do before."""
        with torch.enable_grad():  # for them
            adam.step(optimizer)

    def follow(self) -> None:
        """Move the targets towards the critics."""
        torch._foreach_lerp_(self._slow, self._online, self._agent.tau)

    def _temperature_before(self, rows: int) -> Tensor:
        """The temperature, one for all rows or one for each, (rows, 1), before it steps."""
        agent = self._agent
        if agent.ent_coef_optimizer is None:
            fixed: Tensor = agent.ent_coef_tensor
            return fixed
        temperature: Tensor = agent.log_ent_coef.exp()
        if (count := temperature.numel()) == 1:
            return temperature
        return temperature.repeat_interleave(rows // count)[:, None]

    def _step_temperature(self) -> None:
        agent = self._agent
        if agent.ent_coef_optimizer is None:
            self._log(ent_coef=agent.ent_coef_tensor)
            return
        slope, mean, loss = _temperature_loss(
            agent.log_ent_coef, self._here.log_prob, agent.target_entropy
        )
        self._log(ent_coef=mean, ent_coef_loss=loss)
        agent.log_ent_coef.grad = slope
        self.apply(agent.ent_coef_optimizer)

    def _beside(self, *works: Work) -> list[Any]:
        return side_by_side(self._agent.device, *works)

    def _log(self, **values: Tensor) -> None:
        self._logged |= values

    def _add_up(self) -> None:
        """Add this step's figures to those since the last look at them."""
        figures = torch.stack([value.view(()) for value in self._logged.values()])
        if self._sums is None:
            self._sums = torch.zeros_like(figures)
        self._sums += figures


def watched(agent: Any, optimizer: torch.optim.Optimizer, hook: str) -> bool:
    """Whether a step of an optimizer calls Python that is not only the agent's own."""
    protected = any(p.strength > 0.0 and hook in p.hooks() for p in agent.protections)
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    return protected or len(before) > 1 or len(after) > 0  # the agent has one before


def _parts(critic: Any) -> list[slice]:
    """Where each critic's weights are in the optimizer; none where it has others too."""
    groups = critic.optimizer.param_groups
    own = [list(network.parameters()) for network in critic.q_networks]
    if len(groups) > 1 or [*map(id, chain(*own))] != [*map(id, groups[0]["params"])]:
        return []
    ends = accumulate(map(len, own))
    return [slice(end - len(weights), end) for end, weights in zip(ends, own, strict=True)]


def _noise(like: Tensor) -> Tensor:
    return torch.randn_like(like)


# The arithmetic between networks. Where a list is taken or given, there is one tensor a critic.


@fused
def _sampled(mean: Tensor, unbounded: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """The fields of a `Sample`."""
    log_std = unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)
    push = log_std.exp() * noise
    action = torch.tanh(mean + push)
    density = -0.5 * noise.square() - log_std - _HALF_LOG_TAU
    log_prob = density - torch.log(1.0 - action.square() + _EPSILON)
    return action, log_prob.sum(dim=1, keepdim=True), push, unbounded == log_std


@fused
def _temperature_loss(
    log_temperature: Tensor, log_prob: Tensor, target_entropy: float
) -> tuple[Tensor, ...]:
    """The gradient of the temperatures' loss, their mean, and the loss."""
    temperature = log_temperature.exp()
    slope = -(log_prob.view(temperature.numel(), -1).mean(dim=1) + target_entropy)
    return slope, temperature.mean(), (log_temperature * slope).mean()


@fused
def _target(
    values: list[Tensor],
    log_prob: Tensor,
    temperature: Tensor,
    rewards: Tensor,
    dones: Tensor,
    gamma: float,
) -> Tensor:
    """What the critics are to say of states whose successors have these values, (batch, 1)."""
    value = reduce(torch.minimum, values) - temperature * log_prob
    return rewards + (1.0 - dones) * gamma * value


@fused
def _critics_loss(values: list[Tensor], goal: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss of the critics, and its gradient by the values of each."""
    errors = torch.stack(values) - goal
    loss = errors.square().sum() * (0.5 / goal.shape[0])
    return loss, [*(errors / goal.shape[0]).unbind()]


@fused
def _actor_loss(
    values: list[Tensor], slopes: list[Tensor], log_prob: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of the actor, and the part of its gradient by actions that is the values'."""
    least, which = torch.cat(values, dim=1).min(dim=1, keepdim=True)
    loss = (temperature * log_prob - least).mean()
    slope = slopes[0]
    for i, other in enumerate(slopes[1:], 1):
        slope = torch.where(which == i, other, slope)
    return loss, slope / least.shape[0]


@fused
def _to_outputs(
    by_action: Tensor,
    action: Tensor,
    log_prob: Tensor,
    push: Tensor,
    free: Tensor,
    temperature: Tensor,
) -> list[Tensor]:
    """The gradient of the actor's loss by its outputs, from its values' part of that by actions."""
    entropy = temperature / log_prob.shape[0]
    slope = 1.0 - action.square()
    by_mean = slope * (by_action + entropy * 2.0 * action / (slope + _EPSILON))
    return [by_mean, (by_mean * push - entropy) * free]
