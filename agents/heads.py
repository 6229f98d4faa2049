"""Policies with one head per skill on a shared trunk, and with one head for all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from clrl.agents.features import SkillFeatures
from clrl.agents.layer_norm import add_layer_norm
from clrl.agents.light_optimizers import make_light
from clrl.agents.masks import Masks
from clrl.agents.memory import Memory, MemoryFeatures
from clrl.agents.pickled import require_trust
from clrl.agents.progressive import Grown, Level, side_by_side, to_columns
from clrl.agents.switch import Switch

make_light()


class Heads(Switch):
    """Linear layers of the same shape, one per skill, of which one is active."""

    def add(self) -> nn.Linear:
        """Append a head with torch's own initialisation."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        layer = type(first)(first.in_features, first.out_features, device=first.weight.device)
        self.layers.append(layer)
        return layer


class _MultiHead(nn.Module):
    """What both policies share: options, the active skill, and a count of heads."""

    multi_head: bool
    n_heads: int
    max_skills: int
    features: Any  # SkillFeatures; nn.Module's own typing of children is too narrow to use
    progressive: bool
    masks: Masks | None
    _heads: list[Switch]

    def _options(
        self,
        kwargs: dict[str, Any],
        multi_head: bool,
        normalize: bool,
        max_skills: int,
        progressive: bool,
    ) -> dict[str, Any]:
        if "features_extractor_class" in kwargs:
            raise ValueError("clrl policies bring their own features extractor")
        if progressive and not multi_head:
            raise ValueError("progressive needs a head per skill; leave multi_head on")
        self.multi_head = multi_head
        self.progressive = progressive
        self.max_skills = max_skills
        self.n_heads = 1
        self.masks = None
        options = {"normalize": normalize, "one_hot": not multi_head, "max_skills": max_skills}
        return kwargs | {
            "features_extractor_class": SkillFeatures,
            "features_extractor_kwargs": options,
        }

    @classmethod
    def load(cls, path: Any, device: Any = "auto", *, trust_pickle: bool = False) -> Any:
        """SB3's, which runs whatever the file tells it to; ValueError without `trust_pickle`."""
        require_trust(path, trust_pickle)
        return super().load(path, device)  # type: ignore[misc]

    def add_head(self, like: int | None = None) -> None:
        """Make room for one more skill, which starts as another one is but for its exploration."""
        if self.n_heads >= self.max_skills:
            raise ValueError(f"the policy holds at most max_skills={self.max_skills} skills")
        self.n_heads += 1
        if self.multi_head:
            self._add_head()
        if like is not None:
            self.features.copy(like, self.n_heads - 1)
            for heads in self._heads if self.multi_head else []:
                heads.copy(like)

    def _add_head(self) -> None:
        raise NotImplementedError

    @property
    def body(self) -> nn.Sequential:
        """The actor's layers before its heads."""
        raise NotImplementedError

    @property
    def outputs(self) -> list[Switch]:
        """The actor's heads, that of the mean first."""
        raise NotImplementedError

    @property
    def actor_optimizer(self) -> torch.optim.Optimizer:
        """What steps the actor."""
        raise NotImplementedError

    def _to_columns(self) -> None:
        """Make body and heads the first column of a progressive network."""
        if self.progressive:
            to_columns(self.body)

    def _to_heads(self, layer: nn.Linear) -> Switch:
        """The heads of the actor that a layer is the first of."""
        return Grown(layer, lateral=True) if self.progressive else Heads(layer)

    def _add_columns(self) -> list[nn.Linear]:
        return [level.add() for level in self.body if isinstance(level, Grown)]

    def plain_actor(self, skill: int) -> list[nn.Module]:
        """From features to the action's mean in a skill, which is in use, in plain layers."""
        if self.progressive:
            return side_by_side(list(self.body), self.outputs[0], skill)
        body = (layer.joined() if isinstance(layer, Level) else layer for layer in self.body)
        return [*body, self.outputs[0].layers[skill if self.multi_head else 0]]

    def remember(self, visited: Callable[[int], Tensor]) -> None:
        """Write a skill that has ended into the external memory, where there is one.

        Args:
            visited: Gives up to as many of its observations as it is asked for, (n, obs).
        """
        if isinstance(self.features, MemoryFeatures):
            self.features.write(visited(self.features.written.shape[1]))

    def select(self, skill: int) -> None:
        """Make a skill's head, statistics and, where there are masks, weights the ones in use."""
        self.features.active = skill
        if self.masks is not None:
            self.masks.show(None if skill == self.n_heads - 1 else skill)
        for heads in self._heads:
            heads.select(skill if self.multi_head else 0)

    def find_heads(self) -> None:
        """Look for what is there once per skill, after the networks were built or changed."""
        self._heads = [module for module in self.modules() if isinstance(module, Switch)]

    @contextmanager
    def using(self, skill: int) -> Iterator[None]:
        """Select a skill for a while."""
        before = self.features.active
        self.select(skill)
        try:
            yield
        finally:
            self.select(before)


class MultiHeadPPOPolicy(_MultiHead, ActorCriticPolicy):
    """SB3's actor-critic policy with a mean, a log-std and a value head for each skill.

    With one head it is SB3's policy to the bit: its first head is the layer that SB3 made.
    """

    action_net: Any
    value_net: Any
    log_std: Any
    optimizer_class: Any
    init_weights: Any

    def __init__(
        self,
        *args: Any,
        multi_head: bool = True,
        n_heads: int = 1,
        normalize: bool = False,
        max_skills: int = 20,
        progressive: bool = False,
        memory: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the policy.

        Args:
            args: As SB3's `ActorCriticPolicy`.
            multi_head: One head per skill; otherwise one head, told the skill by a one-hot.
            n_heads: Heads to make room for at once, as loading does.
            normalize: Normalise observations with statistics per skill.
            max_skills: Most skills the policy can hold.
            progressive: A column of the actor per skill, see `clrl.agents.progressive`.
            memory: Of an external memory `rows`, the earlier observations that an observation
                holds, and optionally `examples` kept of each skill and the `width` of what is read.
            kwargs: As SB3's `ActorCriticPolicy`.
        """
        options = self._options(kwargs, multi_head, normalize, max_skills, progressive)
        if memory is not None:
            if not multi_head:
                raise ValueError("memory needs a head per skill; leave multi_head on")
            options["features_extractor_class"] = MemoryFeatures
            options["features_extractor_kwargs"] |= {"examples": 64, "width": 64, **memory}
        ActorCriticPolicy.__init__(self, *args, **options)
        self.features = self.features_extractor
        self.find_heads()
        for _ in range(n_heads - 1):
            self.add_head()
        self.fresh_optimizers()

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        if not isinstance(self.action_dist, DiagGaussianDistribution):
            raise ValueError("clrl agents need a Box action space, without gSDE")
        self._lr = lr_schedule(1)
        self._to_columns()
        if isinstance(self.features_extractor, MemoryFeatures):
            for network in (self.mlp_extractor.policy_net, self.mlp_extractor.value_net):
                network.insert(0, Memory(self.features_extractor))
        self.action_net = self._to_heads(self.action_net)
        self.value_net = Heads(self.value_net)

    @property
    def body(self) -> nn.Sequential:
        """The actor's layers before its heads."""
        layers: nn.Sequential = self.mlp_extractor.policy_net
        return layers

    @property
    def outputs(self) -> list[Switch]:
        """The heads of the mean."""
        return [self.action_net]

    @property
    def actor_optimizer(self) -> torch.optim.Optimizer:
        """What steps the actor, and the critic too."""
        return self.optimizer

    def _add_head(self) -> None:
        for network in (self.mlp_extractor.policy_net, self.mlp_extractor.value_net):
            if isinstance(network[0], Memory):
                network[0].add()
        columns = self._add_columns()
        mean, value = self.action_net.add(), self.value_net.add()
        if self.ortho_init:
            for layer in columns:
                self.init_weights(layer, gain=2**0.5)
            self.init_weights(mean, gain=0.01)
            self.init_weights(value, gain=1)
        log_std = torch.full_like(self.log_std, self.log_std_init)
        self.register_parameter(f"log_std_{self.n_heads - 1}", nn.Parameter(log_std))

    def fresh_optimizers(self) -> None:
        """Forget all moments and take in new heads."""
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=self._lr, **self.optimizer_kwargs
        )

    @property
    def active_log_std(self) -> Tensor:
        """Log standard deviation of the active head, (act,)."""
        active = self.action_net.active
        log_std: Tensor = getattr(self, f"log_std_{active}") if active else self.log_std
        return log_std

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.active_log_std)

    def gaussian(self, observations: Tensor, skill: int) -> tuple[Tensor, Tensor]:
        """Mean and log-std of a skill's action distribution, each (batch, act)."""
        with self.using(skill):
            latent = self.mlp_extractor.forward_actor(self.features(observations))
            mean = self.action_net(latent)
            return mean, self.active_log_std.expand_as(mean)

    def trunk(self) -> list[nn.Module]:
        """Layers of the actor that all skills share."""
        if self.progressive:
            return []
        layers = _layers(self.body)
        return layers if self.multi_head else [*layers, *self.action_net.layers]


class MultiHeadSACPolicy(_MultiHead, SACPolicy):
    """SB3's SAC policy with a mean, a log-std and critic outputs for each skill.

    With one head it is SB3's policy to the bit.
    """

    actor: Any
    critic: Any
    critic_target: Any
    optimizer_class: Any

    def __init__(
        self,
        *args: Any,
        multi_head: bool = True,
        n_heads: int = 1,
        normalize: bool = False,
        max_skills: int = 20,
        layer_norm: bool = False,
        progressive: bool = False,
        memory: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the policy; arguments as in `MultiHeadPPOPolicy`, and `layer_norm`.

        It puts layer norm and tanh after the first layer and leaky ReLU in place of ReLU after the
        others, in actor and critics, as Continual World has it (Wolczyk et al., NeurIPS 2021).
        """
        if memory is not None:
            raise ValueError("SAC has no external memory; use PPO")
        if kwargs.get("use_sde"):
            raise ValueError("clrl agents work without gSDE")
        self._layer_norm = layer_norm
        options = self._options(kwargs, multi_head, normalize, max_skills, progressive)
        SACPolicy.__init__(self, *args, **options)
        self.find_heads()
        for _ in range(n_heads - 1):
            self.add_head()
        self.fresh_optimizers()

    def make_features_extractor(self) -> SkillFeatures:
        """One extractor for actor, critic and target, so that they agree."""
        if "features" not in self._modules:
            self.features = super().make_features_extractor()
        features: SkillFeatures = self.features
        return features

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self._lr = lr_schedule(1)
        if self._layer_norm:
            for network in (self.critic, self.critic_target):
                for layers in network.q_networks:
                    add_layer_norm(layers)
            add_layer_norm(self.actor.latent_pi)
        self._to_columns()
        self.actor.mu = self._to_heads(self.actor.mu)
        self.actor.log_std = self._to_heads(self.actor.log_std)
        for critic in (self.critic, self.critic_target):
            for network in critic.q_networks:
                assert isinstance(network, nn.Sequential)
                network[-1] = Heads(network[-1])

    @property
    def body(self) -> nn.Sequential:
        """The actor's layers before its heads."""
        layers: nn.Sequential = self.actor.latent_pi
        return layers

    @property
    def outputs(self) -> list[Switch]:
        """The heads of mean and log-std."""
        return [self.actor.mu, self.actor.log_std]

    @property
    def actor_optimizer(self) -> torch.optim.Optimizer:
        """What steps the actor."""
        optimizer: torch.optim.Optimizer = self.actor.optimizer
        return optimizer

    def _add_head(self) -> None:
        self._add_columns()
        self.actor.mu.add()
        self.actor.log_std.add()
        pairs = zip(self.critic.q_networks, self.critic_target.q_networks, strict=True)
        for network, target in pairs:
            target[-1].add().load_state_dict(network[-1].add().state_dict())
        self.critic_target.set_training_mode(False)

    def fresh_optimizers(self) -> None:
        """Forget all moments and take in new heads."""
        for network in (self.actor, self.critic):
            network.optimizer = self.optimizer_class(
                network.parameters(), lr=self._lr, **self.optimizer_kwargs
            )

    def gaussian(self, observations: Tensor, skill: int) -> tuple[Tensor, Tensor]:
        """Mean and log-std before squashing, each (batch, act).

        The squashing is the same on both sides of a KL divergence, which it leaves unchanged.
        """
        with self.using(skill):
            mean, log_std, _ = self.actor.get_action_dist_params(observations)
        return mean, log_std

    def trunk(self) -> list[nn.Module]:
        """Layers of the actor that all skills share."""
        if self.progressive:
            return []
        layers = _layers(self.body)
        if self.multi_head:
            return layers
        return [*layers, *self.actor.mu.layers, *self.actor.log_std.layers]


def _layers(network: nn.Module) -> list[nn.Module]:
    first = (m.layers[0] if isinstance(m, Level) else m for m in network.children())
    return [m for m in first if isinstance(m, nn.Linear | nn.LayerNorm)]
