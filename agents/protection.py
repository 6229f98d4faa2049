"""What a protection is, and what it may ask of the agent it protects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn


class Learner(Protocol):
    """An agent as a protection sees it.

    Attributes:
        skills: Names of the skills begun so far; the last is being learned.
        skill_importance: How much each of them counts in protections, by the same index, 1 unless
            measured; `Protection.reach` gives it times the strength.
        policy: SB3's policy, with `features`, heads and optimizers.
        device: Of the networks.
        off_policy: Whether it can learn from what another policy did.
    """

    skills: list[str]
    skill_importance: list[float]
    policy: Any
    device: torch.device
    off_policy: bool

    @property
    def skill(self) -> int:
        """Index of the skill being learned."""
        ...

    @property
    def skill_progress(self) -> float | None:
        """Share of the skill's budget that is spent, or None where no budget was given."""
        ...

    def gaussian(self, observations: Tensor, skill: int) -> tuple[Tensor, Tensor]:
        """Mean and log-std of the action in a skill, each (batch, act)."""
        ...

    def pull(
        self,
        observations: dict[int, Tensor],
        loss: Callable[[Tensor, Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """Add the clipped gradient of a loss of mean and log-std in states of some skills."""
        ...

    def values(self, rows: dict[str, Tensor], skill: int) -> Tensor:
        """What the critics say of rows of a skill, columns as of `fresh`, (batch, critics)."""
        ...

    def pull_values(
        self,
        rows: dict[int, dict[str, Tensor]],
        loss: Callable[[Tensor], Tensor],
        max_norm: float,
    ) -> None:
        """Add the clipped gradient of a loss of the values of rows of some skills."""
        ...

    def trunk(self) -> list[nn.Module]:
        """Layers of the actor that all skills share."""
        ...

    def fresh_moments(self) -> None:
        """Forget what the optimizers remember of earlier gradients."""
        ...

    def visited(self, count: int) -> Tensor:
        """Up to `count` observations of the skill's experience, (n, obs)."""
        ...

    def fresh(self) -> dict[str, Tensor]:
        """Experience collected since the last call of `collect`, columns of (rows, ...)."""
        ...


_HOOKS = ("attach", "before_skill", "collect", "update", "update_critic", "after_skill")


class Protection:
    """Keeps earlier skills while a later one is learned.

    Every hook does nothing, so that a subclass states only what it does. Protections compose by
    being listed; none knows which others there are. A protection owns its state and its random
    numbers: at strength 0 no hook is called, and training is the unprotected one to the bit. One
    that remembers anything extends `state_dict` and `load_state_dict`, or a resumed run goes on
    without it.

    Attributes:
        order: Its turn among others: 0 looks at the learner's own gradient, 1 adds to it, 2 changes
            what has been added up.
        alone: Whether it takes no other beside it.
        weighs: Whether `Learner.skill_importance` changes what it does.
        policy_kwargs: What it asks of the policy beside what the user does.
    """

    order: ClassVar[int] = 1
    alone: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    policy_kwargs: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, strength: float = 1.0, seed: int = 0, every: int = 1) -> None:
        """Set what every protection has.

        Args:
            strength: Weight of its gradient beside the learner's; 0 switches it off.
            seed: Of its own random numbers.
            every: Updates from one gradient of it to the next, for one that asks `due`.

        Raises:
            ValueError: strength < 0, or every < 1.
        """
        if not 0.0 <= strength < float("inf"):
            raise ValueError(f"strength must be >= 0 and finite, got {strength}")
        if every < 1:
            raise ValueError(f"every must be >= 1, got {every}")
        self.strength = strength
        self.every = every
        self._calls: dict[str, int] = {}
        self.generator = torch.Generator().manual_seed(seed)

    @classmethod
    def hooks(cls) -> list[str]:
        """Names of the hooks that do something."""
        own = (name for name in _HOOKS if getattr(cls, name) is not getattr(Protection, name))
        return [*own, *cls.policy_kwargs]

    def attach(self, learner: Learner) -> None:
        """Look at the agent, once it is built; ValueError where it cannot be protected so.

        What it gives the networks is there before any state is loaded into them.
        """

    def before_skill(self, learner: Learner) -> None:
        """Prepare for a skill, before its first environment step."""

    def collect(self, learner: Learner) -> None:
        """Look at new experience (`learner.fresh()`), before it is trained on."""

    def update(self, learner: Learner) -> None:
        """Add to, mask or project the gradients of the actor, just before its optimizer steps."""

    def update_critic(self, learner: Learner) -> None:
        """The same for the critic of an off-policy agent."""

    def after_skill(self, learner: Learner) -> None:
        """Remember what the skill taught, after its last update."""

    def reach(self, learner: Learner, skills: Iterable[int]) -> float:
        """Its strength, times the importance of that one of some earlier skills that needs most."""
        needs = [learner.skill_importance[skill] for skill in skills]
        return self.strength * max(needs, default=1.0)

    def due(self, hook: str) -> bool:
        """Count a call of a hook; whether it is the first, or one of `every` after it."""
        self._calls[hook] = self._calls.get(hook, -1) + 1
        return self._calls[hook] % self.every == 0

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers, as nested dicts and lists of tensors and numbers."""
        return {"generator": self.generator.get_state(), "calls": dict(self._calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.generator.set_state(state["generator"])
        self._calls = dict(state["calls"])

    def trouble(self) -> str:
        """What is wrong with its hooks, `state_dict` and `load_state_dict`, "" if nothing shows."""
        for hook in (name for name in self.hooks() if name in _HOOKS):
            try:
                signature(getattr(self, hook)).bind(None)
            except TypeError as error:
                return f"its {hook} is called with the learner: {error}"
        own = [
            name
            for name in ("state_dict", "load_state_dict")
            if getattr(type(self), name) is not getattr(Protection, name)
        ]
        if len(own) == 1:
            return f"it has a {own[0]} of its own, and needs both, to go on when a run is resumed"
        lost = Protection.state_dict(self).keys() - self.state_dict().keys()
        if lost:
            return f"its state_dict lacks {min(lost)!r}, which super().state_dict() gives"
        return ""

    def unsaved(self) -> list[str]:
        """Attributes that hold tensors while nothing of its own saves them."""
        if type(self).state_dict is not Protection.state_dict:
            return []
        return [name for name, value in vars(self).items() if _nbytes(value)]

    @property
    def bytes(self) -> int:
        """Memory of what it keeps about earlier skills: the tensors of `state_dict`."""
        return _nbytes(self.state_dict())


def _nbytes(state: Any) -> int:
    if isinstance(state, dict):
        state = [value for key, value in state.items() if key != "generator"]
    if isinstance(state, list | tuple):
        return sum(map(_nbytes, state))
    return state.nbytes if isinstance(state, Tensor) else 0


def in_order(protections: Sequence[Protection]) -> list[Protection]:
    """Protections by their `order`, and as they were given where it is the same.

    Raises:
        ValueError: one that stands alone has another beside it.
    """
    active = [p for p in protections if p.strength > 0.0]
    for one in active:
        others = ", ".join(type(p).__name__ for p in active if p is not one)
        if one.alone and others:
            name = type(one).__name__
            raise ValueError(f"{name} takes no other protection beside it; drop it or {others}")
    return sorted(protections, key=lambda protection: protection.order)


def asked_of_policy(protections: Sequence[Protection]) -> dict[str, Any]:
    """What those protections that are switched on ask of the policy."""
    active = [protection for protection in protections if protection.strength > 0.0]
    return {name: value for p in active for name, value in p.policy_kwargs.items()}


def weighted(learner: Learner, skill: int, rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows of an earlier skill with its importance beside each, in a column `weight`."""
    some = next(iter(rows.values()))
    weight = torch.full((len(some),), learner.skill_importance[skill], device=some.device)
    return rows | {"weight": weight}


def add_gradient(loss: Tensor, parameters: list[nn.Parameter], max_norm: float) -> None:
    """Add the gradient of a loss to `.grad`, its norm clipped to `max_norm`."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    add_clipped(parameters, gradients, max_norm)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """`nn.utils.clip_grad_norm_` to the bit, without sorting tensors by device and type."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(gradients, _share(gradients, max_norm))


def _share(gradients: list[Tensor], max_norm: float) -> Tensor:
    """What is left of gradients whose common norm is clipped, ()."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    share: Tensor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return share


@torch.no_grad()
def add_clipped(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], max_norm: float
) -> None:
    """Add gradients to `.grad`, their common norm clipped to `max_norm`; None adds nothing."""
    used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    own = [g for _, g in used]
    scaled = torch._foreach_mul(own, _share(own, max_norm))
    for (parameter, _), gradient in zip(used, scaled, strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
