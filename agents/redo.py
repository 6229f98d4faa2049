"""ReDo, recycling dormant neurons (Sokar et al., 2023, arXiv:2302.12902)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.plasticity import DORMANT, activity, hidden
from clrl.agents.protection import Learner, Protection

Means = dict[int, Tensor]  # by skill, of the units of a layer, (units,)


class ReDo(Protection):
    """Gives dormant units of the actor's trunk new incoming weights, and 0 as outgoing ones.

    At every `every`-th update a unit whose `activity` is at most `tau` is recycled: it learns
    again, and the output stays. Deviations from the paper: a unit must lie dormant in states of
    every earlier skill too, of which some are kept, or recycling would make the agent forget; what
    a recycled unit said on average goes into the bias of what read it; the critic is left alone.
    """

    order = 2  # what others added to the gradient of a recycled unit is dropped too

    weighs = False

    def __init__(
        self,
        strength: float = 1.0,
        tau: float = DORMANT,
        states: int = 256,
        every: int = 1000,
        seed: int = 0,
    ) -> None:
        """Set what is recycled.

        Args:
            strength: 0 switches it off; any other number is the same.
            tau: Activity up to which a unit is dormant, >= 0.
            states: Looked at, and stored, per skill, >= 1.
            every: Updates from one look to the next, >= 1.
            seed: Of the new weights.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, seed, every)
        if states < 1:
            raise ValueError(f"states must be >= 1, got {states}")
        if not tau >= 0.0:
            raise ValueError(f"tau must be >= 0, got {tau}")
        self.tau = tau
        self.states = states
        self.recycled = 0
        self.memory: dict[int, Tensor] = {}

    def attach(self, learner: Learner) -> None:
        """Refuse layer norm."""
        if any(isinstance(layer, nn.LayerNorm) for layer in learner.policy.body):
            raise ValueError("ReDo and layer_norm exclude each other: it would mix recycled units")

    def update(self, learner: Learner) -> None:
        """Recycle, if it is time."""
        if not self.due("update"):
            return
        states = self.memory | {learner.skill: learner.visited(self.states)}
        with torch.no_grad():
            self._recycle(learner.policy, states)

    def _recycle(self, policy: Any, states: dict[int, Tensor]) -> None:
        layers = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        seen = {skill: hidden(policy, rows, skill) for skill, rows in states.items()}
        for i, layer in enumerate(layers):
            dead = torch.ones(layer.out_features, dtype=torch.bool, device=layer.weight.device)
            for values in seen.values():
                dead &= activity(*values[i]) <= self.tau
            if not dead.any():
                continue
            self.recycled += int(dead.sum())
            means = {skill: values[i][0].mean(dim=0) for skill, values in seen.items()}
            for reader, said in _readers(policy, layers[i + 1 :], means):
                reader.bias.add_(reader.weight[:, dead] @ said[dead])
                reader.weight[:, dead] = 0.0
                _forget(policy.actor_optimizer, reader.weight, (slice(None), dead))
            self._renew(policy.actor_optimizer, layer, dead)

    def _renew(self, optimizer: Any, layer: nn.Linear, dead: Tensor) -> None:
        """Draw incoming weights as torch does for a new layer, with the bias 0."""
        bound = layer.in_features**-0.5
        fresh = torch.rand(int(dead.sum()), layer.in_features, generator=self.generator)
        layer.weight[dead] = (bound * (2.0 * fresh - 1.0)).to(layer.weight.device)
        layer.bias[dead] = 0.0
        for parameter in (layer.weight, layer.bias):
            _forget(optimizer, parameter, (dead,))

    def after_skill(self, learner: Learner) -> None:
        """Store states of the finished skill."""
        self.memory[learner.skill] = learner.visited(self.states)

    def state_dict(self) -> dict[str, Any]:
        """The stored states, and how many units were recycled."""
        return super().state_dict() | {"memory": dict(self.memory), "recycled": self.recycled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        super().load_state_dict(state)
        self.memory = {int(skill): rows for skill, rows in state["memory"].items()}
        self.recycled = state["recycled"]


def _readers(
    policy: Any, following: Sequence[nn.Linear], means: Means
) -> Iterator[tuple[nn.Linear, Tensor]]:
    """The layers that read a layer's units, and what those say there on average."""
    average = torch.stack(list(means.values())).mean(dim=0)
    if following:
        yield following[0], average
        return
    for heads in policy.outputs:
        for skill, head in enumerate(heads.layers):
            yield head, means.get(skill, average) if policy.multi_head else average


def _forget(optimizer: torch.optim.Optimizer, parameter: Tensor, index: Any) -> None:
    """Drop the gradient and the moments of some entries of a parameter."""
    kept = [parameter.grad, *optimizer.state.get(parameter, {}).values()]
    for tensor in kept:
        if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
            tensor[index] = 0.0
