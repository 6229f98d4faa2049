"""What is trained when: one skill after another, or all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from clrl.config import Config
from clrl.envs.curriculum import Curriculum


@dataclass(frozen=True)
class Stage:
    """A stretch of training, at whose end a row of the matrix is measured.

    Attributes:
        name: What it trains, for people.
        skills: The skills trained in it, at once.
        begun: Those of them that the agent begins with it.
        start: Steps at which it starts, or None for wherever the one before it ended.
        steps: Environment steps in all.
        budget: Steps over which schedules of what is begun run.
        worlds: Worlds of each skill.
    """

    name: str
    skills: tuple[str, ...]
    begun: tuple[str, ...]
    start: int | None
    steps: int
    budget: int
    worlds: tuple[int, ...]


def stages(config: Config, curriculum: Curriculum) -> list[Stage]:
    """The stages that a run is asked for; ValueError where it cannot be cut into any."""
    return (at_once if config.joint else in_turn)(curriculum, config.worlds)


def in_turn(curriculum: Curriculum, worlds: int) -> list[Stage]:
    """A stage for each skill, of its own budget."""
    return [
        Stage(name, (name,), (name,), None, steps, steps, (worlds,))
        for name, steps in zip(curriculum.names, curriculum.steps, strict=True)
    ]


def at_once(curriculum: Curriculum, worlds: int) -> list[Stage]:
    """As many stages as skills, each of all skills and of an equal share of all budgets.

    Worlds are shared in proportion to the skills' budgets, so that each has its own at the end.

    Raises:
        ValueError: there are fewer worlds than skills.
    """
    total, count = sum(curriculum.steps), len(curriculum)
    ends = [total * i // count for i in range(count + 1)]
    names = tuple(curriculum.names)
    shares = _shared(worlds, curriculum.steps)
    return [
        Stage("joint", names, () if i else names, ends[i], ends[i + 1] - ends[i], total, shares)
        for i in range(count)
    ]


def _shared(worlds: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Whole numbers >= 1 that add up to `worlds`, in proportion to weights as near as can be."""
    if worlds < len(weights):
        raise ValueError(f"joint training takes a world a skill: {len(weights)}, got {worlds}")
    shares = [1] * len(weights)
    for _ in range(worlds - len(weights)):  # each world to whom one more takes least beyond its due
        neediest = min(range(len(weights)), key=lambda i: (shares[i] + 0.5) / weights[i])
        shares[neediest] += 1
    return tuple(shares)
