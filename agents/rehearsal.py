"""Gradients in states of earlier skills, in SAC's networks and without a graph.

Rows of all skills pass the shared layers together, and each skill's own rows its own head. Only the
few numbers per action go through autograd, so that a loss is written as it is read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from clrl.agents.heads import Heads
from clrl.agents.protection import add_clipped
from clrl.agents.tape import Tape


class Branches:
    """Shared layers, and after them a head for each skill's rows, which come skill after skill."""

    def __init__(
        self, shared: Sequence[nn.Module], heads: Sequence[Heads], skills: list[int], share: int
    ) -> None:
        """Take layers and, of each of some heads, those of the skills; `share` rows a skill."""
        self._shared = Tape(nn.Sequential(*shared))
        single = len(heads[0].layers) == 1
        self._rows = share * len(skills) if single else share
        chosen = [0] if single else skills
        self._heads = [[Tape(head.layers[i]) for i in chosen] for head in heads]  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Output of each of the heads, (rows, out)."""
        parts = self._shared.forward(x).split(self._rows)
        return [
            torch.cat([tape.forward(part) for tape, part in zip(tapes, parts, strict=True)])
            for tapes in self._heads
        ]

    def backward(self, gradients: Sequence[Tensor], **asked: Any) -> Any:
        """Gradients by those of the outputs; arguments and result as of `Tape.backward`."""
        by_latent: Tensor | None = None
        for tapes, gradient in zip(self._heads, gradients, strict=True):
            pairs = zip(tapes, gradient.split(self._rows), strict=True)
            options = asked | {"inputs": slice(None)}
            part = torch.cat([tape.backward(rows, **options) for tape, rows in pairs])
            by_latent = part if by_latent is None else by_latent + part
        assert by_latent is not None
        return self._shared.backward(by_latent, **asked)


class Rehearsal:
    """SAC's networks on batches of the same number of rows from each of some skills."""

    def __init__(self, policy: Any, skills: list[int], share: int) -> None:
        self._policy, self._skills, self._share = policy, skills, share
        self._parameters = list(policy.actor.parameters())
        actor = policy.actor
        self._actor = self._branches(actor.latent_pi, [actor.mu, actor.log_std])
        self._critics = [self._critic(network) for network in policy.critic.q_networks]
        self._targets = [self._critic(network) for network in policy.critic_target.q_networks]

    def _branches(self, shared: Any, heads: list[Heads]) -> Branches:
        return Branches(list(shared), heads, self._skills, self._share)

    def _critic(self, network: Any) -> Branches:
        return self._branches(list(network)[:-1], [network[-1]])

    @torch.no_grad()
    def states(self, observations: Tensor) -> Tensor:
        """What the networks see of observations (rows, obs), each by its skill's statistics."""
        parts = zip(observations.split(self._share), self._skills, strict=True)
        return torch.cat([self._policy.features.of(part, skill) for part, skill in parts])

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
        return torch.cat([network.forward(inputs)[0] for network in networks], dim=1)

    @torch.no_grad()
    def slope(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The least value by all critics, (rows, 1), and its gradient by the action."""
        values = self.values(states, actions)
        least, which = values.min(dim=1, keepdim=True)
        ones = torch.zeros_like(values).scatter_(1, which, 1.0)
        columns = slice(states.shape[1], None)
        slopes = [
            network.backward([one], weights=False, inputs=columns)
            for network, one in zip(self._critics, ones.split(1, dim=1), strict=True)
        ]
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
            for network, column in zip(self._critics, gradient.split(1, dim=1), strict=True):
                network.backward([column])


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
