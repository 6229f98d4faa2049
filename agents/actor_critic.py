"""PPO's two networks as perceptrons, where its policy is made of such."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from clrl.agents.features import SkillFeatures
from clrl.agents.heads import MultiHeadPPOPolicy
from clrl.agents.perceptron import Perceptron


@dataclass(frozen=True)
class ActorCritic:
    """Actor and critic of the active skill.

    Attributes:
        features: What both networks see of an observation; it has no weights.
        actor: Features to the mean of the action.
        critic: Features to the value.
        log_std: Log standard deviation of the action, (act,).
    """

    features: SkillFeatures
    actor: Perceptron
    critic: Perceptron
    log_std: nn.Parameter

    @staticmethod
    def of(policy: Any) -> "ActorCritic | None":
        """The networks of a policy, or None where they are not two plain perceptrons."""
        if type(policy) is not MultiHeadPPOPolicy or not _plain(policy):
            return None
        trunk, heads = policy.mlp_extractor, (policy.action_net, policy.value_net)
        try:
            actor, critic = (
                Perceptron([*layers, head.layers[head.active]])
                for layers, head in zip((trunk.policy_net, trunk.value_net), heads, strict=True)
            )
        except ValueError:
            return None
        log_std: Any = policy.active_log_std
        return ActorCritic(policy.features, actor, critic, log_std)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.actor.parameters, *self.critic.parameters, self.log_std]

    def backward(self, mean: Tensor, value: Tensor, log_std: Tensor) -> list[Tensor]:
        """Gradients of `parameters` from those of the outputs of the last `forward`s."""
        return [*self.actor.backward(mean), *self.critic.backward(value), log_std]


def _plain(policy: MultiHeadPPOPolicy) -> bool:
    """Whether observations reach the networks as they are, and actions leave them so."""
    seen = policy.observation_space
    floats = isinstance(seen, spaces.Box) and np.issubdtype(seen.dtype, np.floating)
    return floats and policy.share_features_extractor and not policy.squash_output
