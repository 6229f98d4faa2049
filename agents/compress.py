"""Progress & Compress (Schwarz et al., 2018, arXiv:1805.06370): one column learns, one keeps."""

from typing import Any

import torch
from torch import Tensor, nn

from clrl.agents.distillation import gaussian_kl
from clrl.agents.ewc import OnlineEWC
from clrl.agents.memory import MemoryFeatures
from clrl.agents.progressive import Grown, Level, to_columns
from clrl.agents.protection import Learner
from clrl.agents.quadratic import shared


class Pair(Level):
    """The same layer of two columns: the knowledge base, and the active one, which reads it.

    The active column performs the skill that is being learned, the knowledge base those that have
    ended; the first skill is learned by the knowledge base itself, since it holds nothing yet. The
    column that acts can be trained, the other one is frozen.

    Attributes:
        ended: Skills that have ended.
        top: Whether it is the last level: the heads read the column that acts, and no other.
    """

    def __init__(self, first: Any, lateral: bool) -> None:
        """Begin with a layer of the knowledge base; arguments as of `Grown`."""
        super().__init__(first, lateral)
        super().add()
        self.top = False
        self.ended = 0
        self.select(0)

    @property
    def columns(self) -> list[Any]:
        """The layers whose values are passed on."""
        return list(self.layers)[self.active if self.top else 0 : self.active + 1]

    def select(self, skill: int) -> None:
        """Let the column act that performs a skill."""
        self._skill = skill
        self.active = int(skill >= max(1, self.ended))
        for i, column in enumerate(self.layers):
            column.requires_grad_(i == self.active)

    def add(self) -> nn.Linear:
        """Begin the active column anew, with torch's own initialisation."""
        newest: Any = self.layers[1]
        newest.reset_parameters()
        return newest  # type: ignore[no-any-return]

    def copy(self, source: int) -> None:
        """Let the active column begin with what the knowledge base says, whichever its skill."""
        Grown.copy(self, 0)

    def get_extra_state(self) -> Tensor:
        """What the policy's state says beside weights: how many skills have ended."""
        return torch.tensor(self.ended)

    def set_extra_state(self, state: Tensor) -> None:
        """Take that back."""
        self.ended = int(state)
        self.select(self._skill)


class ProgressAndCompress(OnlineEWC):
    """Learns each skill in a column of its own and then distils it into one that keeps all.

    While a skill is learned the knowledge base is frozen, and the active column reads it. When the
    skill ends the knowledge base takes steps on

        E_s KL( active(. | s) || knowledge base(. | s) ) + penalty of online EWC

    in states that the skill visited, through the skill's head; then its Fisher information is added
    and it performs the skill, and the active column begins anew. Deviations from the paper: the
    first skill is learned by the knowledge base itself; and laterals are linear, without adapters.

    It needs a head per skill, and takes no other protection beside it.
    """

    alone = True

    def __init__(
        self,
        strength: float = 1.0,
        samples: int = 2048,
        decay: float = 0.9,
        states: int = 4096,
        steps: int = 5000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        """Set the phase of compression.

        Args:
            strength: Weight of the penalty (lambda in the paper); 0 switches all of it off.
            samples: Observations for the Fisher information, >= 1.
            decay: Of the old Fisher when a skill ends, in [0, 1].
            states: Visited ones to distil in, >= 1.
            steps: Of gradient, >= 1.
            batch_size: States a step, >= 1.
            learning_rate: Of Adam, > 0.
            seed: Of the draws.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(strength, samples, decay, seed)
        for name, value in (("states", states), ("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not 0.0 < learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be > 0 and finite, got {learning_rate}")
        self.states = states
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    def attach(self, learner: Learner) -> None:
        """Give the actor its second column.

        Raises:
            ValueError: the policy has one head for all skills, a memory or columns of its own, no
                hidden layer, or layer norm.
        """
        policy = learner.policy
        if not policy.multi_head:
            raise ValueError("compress needs a head per skill; leave multi_head on")
        if policy.progressive:
            raise ValueError("compress and progressive exclude each other; drop one of them")
        if isinstance(policy.features, MemoryFeatures):
            raise ValueError("compress and an external memory exclude each other; drop one of them")
        to_columns(policy.body, Pair, "compress")
        _pairs(learner)[-1].top = True
        policy.find_heads()
        policy.select(policy.features.active)
        learner.fresh_moments()

    def update(self, learner: Learner) -> None:
        """Do nothing: while a skill is learned the knowledge base is frozen."""

    def after_skill(self, learner: Learner) -> None:
        """Compress the skill, and remember what the knowledge base needs for it."""
        states = learner.visited(self.states)
        with torch.no_grad():
            active = learner.gaussian(states, learner.skill)
        for pair in _pairs(learner):
            pair.ended = learner.skill + 1
        learner.policy.select(learner.skill)
        if learner.skill:
            self._compress(learner, states, active)
        super().after_skill(learner)

    def _compress(self, learner: Learner, states: Tensor, active: tuple[Tensor, Tensor]) -> None:
        """Distil what the active column said in some states into the knowledge base."""
        skill = learner.skill
        heads: list[Any] = [switch.layers[skill] for switch in learner.policy.outputs]
        for head in heads:
            head.reset_parameters()  # what it read was another column
        parameters = [*shared(learner), *(p for head in heads for p in head.parameters())]
        optimizer = torch.optim.Adam(parameters, self.learning_rate)
        for _ in range(self.steps):
            rows = torch.randint(len(states), (self.batch_size,), generator=self.generator)
            rows = rows.to(states.device, non_blocking=True)
            said = learner.gaussian(states[rows], skill)
            apart = gaussian_kl((active[0][rows], active[1][rows]), said).mean()
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(apart, parameters), strict=True
            ):
                parameter.grad = gradient
            super().update(learner)
            optimizer.step()
        for parameter in parameters:
            parameter.grad = None


def _pairs(learner: Learner) -> list[Pair]:
    return [level for level in learner.policy.body if isinstance(level, Pair)]
