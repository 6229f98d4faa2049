"""PPO's two networks without a graph, where its policy is made of layers that `Tape` knows."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from clrl.agents.features import SkillFeatures
from clrl.agents.heads import MultiHeadPPOPolicy
from clrl.agents.lanes import Aside
from clrl.agents.rows import Rows
from clrl.agents.surrogate import Surrogate, Trace
from clrl.agents.tape import Tape


class Network(Protocol):
    """What runs forward and back without a graph, such as `Tape`."""

    def forward(self, x: Tensor) -> Tensor:
        """Output for a batch (batch, in), (batch, out)."""
        ...

    def backward(self, gradient: Tensor) -> Any:
        """Set `.grad` of the parameters, by the gradient of the latest output."""
        ...


@dataclass(frozen=True)
class ActorCritic:
    """Actor and critic of the active skill.

    Attributes:
        features: What both networks see of an observation; it has no weights.
        actor: Features to the mean of the action.
        critic: Features to the value.
        log_std: Log standard deviation of the action, (act,).
        parameters: All that is trained.
    """

    features: SkillFeatures
    actor: Network
    critic: Network
    log_std: nn.Parameter
    parameters: list[nn.Parameter]

    @staticmethod
    def of(policy: Any) -> "ActorCritic | None":
        """The networks of a policy, or None where it is not one of ours, made as usual."""
        if type(policy) is not MultiHeadPPOPolicy or not _plain(policy):
            return None
        trunk, log_std = policy.mlp_extractor, policy.active_log_std
        assert isinstance(log_std, nn.Parameter)
        actor = nn.Sequential(trunk.policy_net, policy.action_net.layers[policy.action_net.active])
        critic = nn.Sequential(trunk.value_net, policy.value_net.layers[policy.value_net.active])
        if not (Tape.supports(actor) and Tape.supports(critic)):
            return None
        parameters = [*actor.parameters(), *critic.parameters(), log_std]
        return ActorCritic(policy.features, Tape(actor), Tape(critic), log_std, parameters)

    @torch.no_grad()
    def differentiate(self, loss: Surrogate, rows: Rows) -> list[Trace]:
        """Set `.grad` of all parameters to the loss's gradient; what its figures are made of."""

        def judge() -> Tensor:
            gradient, error = loss.value(rows, self.critic.forward(rows.features))
            self.critic.backward(gradient)
            return error

        with Aside(self.log_std.device) as aside:
            constants = aside.add(partial(loss.constants, rows, self.log_std))
            error = aside.add(judge)
            mean = self.actor.forward(rows.features)
            gradient = loss.policy(rows, constants(), mean)
            by_log_std = aside.add(partial(loss.by_log_std, gradient))
            self.actor.backward(gradient.mean)
        self.log_std.grad = by_log_std()
        policy = gradient.log_ratio, gradient.free, gradient.held, constants().entropy
        return [Trace(*policy, error())]


def _plain(policy: MultiHeadPPOPolicy) -> bool:
    """Whether observations reach the networks as they are, and actions leave them so."""
    seen = policy.observation_space
    floats = isinstance(seen, spaces.Box) and np.issubdtype(seen.dtype, np.floating)
    return floats and policy.share_features_extractor and not policy.squash_output
