"""What a node does between messages, without ROS: gather parts, watch their age, act."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clrl.deploy import Policy, Safety, load


class Bridge:
    """Keeps the latest value of each part of the observation and acts on all of them together.

    Attributes:
        policy: The bundle's.
        skill: The one that acts.
    """

    def __init__(self, bundle: str | Path, skill: str, safety: Safety, clock: Any) -> None:
        """Load the bundle.

        Raises:
            ValueError: a bad bundle, no such skill, or no `max_age`, which is the watchdog.
        """
        if safety.max_age is None:
            raise ValueError("max_age must be set: it is the watchdog of the topics")
        self.policy: Policy = load(bundle, safety, clock)
        self._clock = clock
        self._skill = ""
        self.skill = skill
        self._values: dict[str, Sequence[float]] = {}
        self._stamps: dict[str, float] = {}

    @property
    def skill(self) -> str:
        """The skill that acts.

        Setting an unknown one, or one with other parts, raises ValueError and keeps the old one.
        """
        return self._skill

    @skill.setter
    def skill(self, name: str) -> None:
        parts = self.policy.parts(name)  # refuses what it does not know
        if self._skill and parts != self.policy.parts(self._skill):
            raise ValueError(f"skill {name!r} has other parts; give it a node of its own")
        self._skill = name

    def receive(self, part: str, values: Sequence[float]) -> None:
        """Take one part, stamped by its arrival.

        Raises:
            ValueError: the skill has no such part.
        """
        if part not in self.policy.parts(self.skill):
            raise ValueError(f"skill {self.skill!r} has no part {part!r}")
        self._values[part] = values
        self._stamps[part] = self._clock()

    def tick(self) -> list[float]:
        """The action now; the stop action while a part is missing, misshapen or too old."""
        parts = self.policy.parts(self.skill)
        if any(part not in self._values for part in parts):
            return self._stop("not every part of the observation has arrived")
        observation = {part: self._values[part] for part in parts}
        oldest = min(self._stamps[part] for part in parts)
        try:
            action = self.policy(observation, self.skill, stamp=oldest)
        except (ValueError, RuntimeError) as error:
            return self._stop(str(error))
        return [float(value) for value in action]

    def _stop(self, why: str) -> list[float]:
        self.policy.fault = why
        return [float(value) for value in self.policy.stop(self.skill)]
