"""Gradients in states of earlier skills, in SAC's networks and without a graph.

Rows of all skills pass the shared layers together, and each skill's own rows its own head. Only the
few numbers per action go through autograd, so that a loss is written as it is read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from clrl.agents.branches import Branches
from clrl.agents.lanes import side_by_side
from clrl.agents.protection import add_clipped


class Rehearsal:
    """SAC's networks on batches of the same number of rows from each of some skills."""

    def __init__(self, policy: Any, skills: list[int]) -> None:
        self._policy, self._skills = policy, skills
        self._parameters = list(policy.actor.parameters())
        self._actor = Branches.of_actor(policy.actor, skills)
        self._critics = Branches.of_critics(policy.critic, skills)
        self._targets = Branches.of_critics(policy.critic_target, skills, keep=False)

    @torch.no_grad()
    def states(self, observations: Tensor) -> Tensor:
        """What the networks see of observations (rows, obs), each by its skill's statistics."""
        states: Tensor = self._policy.features.of_each(observations, self._skills)
        return states

    def means(self, states: Tensor) -> Tensor:
        """Means before squashing, (rows, act)."""
        return self.gaussian(states)[0]

    @torch.no_grad()
    def gaussian(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std before squashing, (rows, act) each."""
        mean, unbounded = self._actor.forward(states)
        return mean, unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)

    @torch.no_grad()
    def values(self, states: Tensor, actions: Tensor, target: bool = False) -> Tensor:
        """Values by each critic, (rows, critics)."""
        inputs = torch.cat((states, actions), dim=1)
        networks = self._targets if target else self._critics
        works = (partial(network.forward, inputs) for network in networks)
        return torch.cat([value for (value,) in side_by_side(inputs.device, *works)], dim=1)

    @torch.no_grad()
    def slope(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The least value by all critics, (rows, 1), and its gradient by the action."""
        values = self.values(states, actions)
        least, which = values.min(dim=1, keepdim=True)
        ones = torch.zeros_like(values).scatter_(1, which, 1.0)
        columns = slice(states.shape[1], None)
        slopes = self._through_critics(ones, weights=False, inputs=columns)
        return least, torch.stack(slopes).sum(dim=0)

    def pull_actor(
        self, states: Tensor, loss: Callable[[Tensor, Tensor], Tensor], max_norm: float
    ) -> None:
        """Add the clipped gradient of a loss of mean and log-std, (rows, act) each."""
        with torch.no_grad():
            outputs = self._actor.forward(states)
        mean, unbounded = (output.requires_grad_() for output in outputs)
        gradients = torch.autograd.grad(
            loss(mean, unbounded.clamp(LOG_STD_MIN, LOG_STD_MAX)), (mean, unbounded)
        )
        with torch.no_grad(), _added(self._parameters, max_norm):
            self._actor.backward(gradients)

    @torch.no_grad()
    def pull_critics(self, gradient: Tensor, max_norm: float) -> None:
        """Add the clipped gradient by that of the latest values, (rows, critics)."""
        with _added(list(self._policy.critic.parameters()), max_norm):
            self._through_critics(gradient)

    def _through_critics(self, gradient: Tensor, **asked: Any) -> list[Any]:
        """Back through each critic by its column; see `Branches.backward`."""
        works = (
            partial(network.backward, [column], **asked)
            for network, column in zip(self._critics, gradient.split(1, dim=1), strict=True)
        )
        return side_by_side(gradient.device, *works)


@contextmanager
def _added(parameters: list[nn.Parameter], max_norm: float) -> Iterator[None]:
    """Add what is put into `.grad` meanwhile, clipped, to what was there before."""
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    yield
    gradients = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient
    add_clipped(parameters, gradients, max_norm)
