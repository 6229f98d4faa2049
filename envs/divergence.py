"""Worlds whose physics diverged: how many, and how the first of them came to it."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_KEPT = 4  # at most, from one look to the next


@dataclass(frozen=True)
class Divergence:
    """One world in which a control step led nowhere; the step was taken back.

    Attributes:
        world: Its index.
        elapsed: Control steps since the start of the episode.
        facts: What else says how it came there: tensors by name, such as the `action`, and the
            `state` with it before the physics, as `World.state` has it.
    """

    world: int
    elapsed: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class TakenBack:
    """Steps taken back on a device since somebody last asked; tensors (k,) on the CPU.

    Attributes:
        worlds: In which it happened.
        counts: How often in each, > 0.
        ago: Steps since the first time.
        states: Before it, as `World.state` has them, (k, state).
    """

    worlds: Tensor
    counts: Tensor
    ago: Tensor
    states: Tensor


@dataclass
class Divergences:
    """All that happened in some worlds.

    Attributes:
        count: Control steps that were taken back so far, one for each world.
        kept: The first few since the last `take`.
    """

    count: int = 0
    kept: list[Divergence] = field(default_factory=list)

    @property
    def room(self) -> int:
        """How many more are kept."""
        return _KEPT - len(self.kept)

    def take(self) -> list[Divergence]:
        """What was kept, and keep anew."""
        taken, self.kept = self.kept, []
        return taken
