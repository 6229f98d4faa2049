"""How far a run is."""

from dataclasses import dataclass, field, fields
from typing import Any

from clrl.envs.curriculum import Curriculum


@dataclass
class Position:
    """How far a run is; what a checkpoint holds beside the agent and the worlds.

    Attributes:
        skill: Index of the skill being trained, or next.
        begun: Whether its training has started.
        start: Environment steps before it.
        ends: Environment steps at the end of each skill so far.
        successes: Episodes that succeeded, rows of the matrix so far.
        returns: Rows of the return matrix so far.
        curves: Success over steps, by skill.
        cost: Seconds spent so far, by kind.
        diverged: Counts of `DivergenceGuard`.
    """

    skill: int = 0
    begun: bool = False
    start: int = 0
    ends: list[int] = field(default_factory=list)
    successes: list[list[int]] = field(default_factory=list)
    returns: list[list[float]] = field(default_factory=list)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    cost: dict[str, float] = field(
        default_factory=lambda: {"wall_seconds": 0.0, "train_seconds": 0.0, "eval_seconds": 0.0}
    )
    diverged: dict[str, int] = field(default_factory=lambda: {"total": 0, "window": 0, "recent": 0})

    @staticmethod
    def of(saved: Any, curriculum: Curriculum, where: str) -> "Position":
        """What a checkpoint holds.

        Raises:
            ValueError: it is no position in that curriculum.
        """
        known = {field.name for field in fields(Position)}
        if not isinstance(saved, dict) or set(saved) - known:
            raise ValueError(f"{where}: its checkpoint says no position in the run")
        at = Position(**saved)
        try:
            fits = at._fits(curriculum)
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"{where}: its checkpoint's position is not one of this run")
        return at

    def _fits(self, curriculum: Curriculum) -> bool:
        skills = len(curriculum)
        counts = [self.skill, self.start, *_numbers(self.ends), *_numbers(self.successes)]
        counts += _numbers(self.diverged)
        numbers = [*_numbers(self.returns), *_numbers(self.cost), *_numbers(self.curves)]
        return (
            all(type(count) is int and count >= 0 for count in counts)
            and all(isinstance(number, int | float) for number in numbers)
            and isinstance(self.begun, bool)
            and self.skill <= skills
            and len(self.ends) == self.skill
            and [len(row) for row in self.successes] == [skills] * (self.skill + 1)
            and [len(row) for row in self.returns] == [skills] * (self.skill + 1)
            and set(self.cost) == set(Position().cost)
            and set(self.diverged) == set(Position().diverged)
            and set(self.curves) <= set(curriculum.names)
        )


def _numbers(nested: Any) -> list[Any]:
    """All leaves of nested lists and dicts."""
    if isinstance(nested, dict):
        nested = list(nested.values())
    if not isinstance(nested, list):
        return [nested]
    return [leaf for part in nested for leaf in _numbers(part)]
