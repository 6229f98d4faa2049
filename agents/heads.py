"""Policies with one head per skill on a shared trunk, and with one head for all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from clrl.agents.features import SkillFeatures
from clrl.agents.pickled import require_trust


class Heads(nn.Module):
    """Linear layers of the same shape, one per skill, of which one is active."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first])
        self.active = 0

    def forward(self, latent: Tensor) -> Tensor:
        """Output of the active head."""
        output: Tensor = self.layers[self.active](latent)
        return output

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
    _heads: list["Heads"]

    def _options(
        self, kwargs: dict[str, Any], multi_head: bool, normalize: bool, max_skills: int
    ) -> dict[str, Any]:
        if "features_extractor_class" in kwargs:
            raise ValueError("clrl policies bring their own features extractor")
        self.multi_head = multi_head
        self.max_skills = max_skills
        self.n_heads = 1
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

    def add_head(self) -> None:
        """Make room for one more skill."""
        if self.n_heads >= self.max_skills:
            raise ValueError(f"the policy holds at most max_skills={self.max_skills} skills")
        self.n_heads += 1
        if self.multi_head:
            self._add_head()

    def _add_head(self) -> None:
        raise NotImplementedError

    def select(self, skill: int) -> None:
        """Make a skill's head and statistics the ones in use."""
        self.features.active = skill
        for heads in self._heads:
            heads.active = skill if self.multi_head else 0

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
        **kwargs: Any,
    ) -> None:
        """Build the policy.

        Args:
            args: As SB3's `ActorCriticPolicy`.
            multi_head: One head per skill; otherwise one head, told the skill by a one-hot.
            n_heads: Heads to make room for at once, as loading does.
            normalize: Normalise observations with statistics per skill.
            max_skills: Most skills the policy can hold.
            kwargs: As SB3's `ActorCriticPolicy`.
        """
        options = self._options(kwargs, multi_head, normalize, max_skills)
        ActorCriticPolicy.__init__(self, *args, **options)
        self.features = self.features_extractor
        self._heads = _heads(self)
        for _ in range(n_heads - 1):
            self.add_head()
        self.fresh_optimizers()

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        if not isinstance(self.action_dist, DiagGaussianDistribution):
            raise ValueError("clrl agents need a Box action space, without gSDE")
        self._lr = lr_schedule(1)
        self.action_net = Heads(self.action_net)
        self.value_net = Heads(self.value_net)

    def _add_head(self) -> None:
        mean, value = self.action_net.add(), self.value_net.add()
        if self.ortho_init:
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
        layers = _layers(self.mlp_extractor.policy_net)
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
        **kwargs: Any,
    ) -> None:
        """Build the policy; arguments as in `MultiHeadPPOPolicy`, and `layer_norm`.

        It puts layer norm and tanh after the first layer and leaky ReLU in place of ReLU after the
        others, in actor and critics, as Continual World has it (Wolczyk et al., NeurIPS 2021).
        """
        if kwargs.get("use_sde"):
            raise ValueError("clrl agents work without gSDE")
        self._layer_norm = layer_norm
        options = self._options(kwargs, multi_head, normalize, max_skills)
        SACPolicy.__init__(self, *args, **options)
        self._heads = _heads(self)
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
                    _normalise(layers)
            _normalise(self.actor.latent_pi)
        self.actor.mu = Heads(self.actor.mu)
        self.actor.log_std = Heads(self.actor.log_std)
        for critic in (self.critic, self.critic_target):
            for network in critic.q_networks:
                assert isinstance(network, nn.Sequential)
                network[-1] = Heads(network[-1])

    def _add_head(self) -> None:
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
        layers = _layers(self.actor.latent_pi)
        if self.multi_head:
            return layers
        return [*layers, *self.actor.mu.layers, *self.actor.log_std.layers]


def _normalise(layers: Any) -> None:
    """Put layer norm and tanh after the first of some layers, leaky ReLU after the others."""
    if len(layers) < 2:
        raise ValueError("layer_norm needs a hidden layer; give net_arch at least one")
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU):
            layers[i] = nn.LeakyReLU(0.2)
    layers[1] = nn.Tanh()
    layers.insert(1, nn.LayerNorm(layers[0].out_features))


def _heads(policy: nn.Module) -> list[Heads]:
    return [module for module in policy.modules() if isinstance(module, Heads)]


def _layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
