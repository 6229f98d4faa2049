"""One skill of an agent as a policy of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np


class SkillPolicy:
    """One skill of an agent as a policy with SB3's `predict`."""

    def __init__(self, agent: Any, index: int) -> None:
        self._agent = agent
        self._index = index

    @contextmanager
    def selected(self) -> Iterator[Any]:
        """SB3's policy with this skill selected, for many forward passes in a row."""
        with self._agent.policy.using(self._index):
            yield self._agent.policy

    def copied(self) -> Any:
        """A copy of SB3's policy with this skill selected, without optimizers."""
        policy = self._agent.policy
        spared: dict[int, Any] = {id(o): None for o, _ in self._agent._optimizers().values()}
        with self.selected():
            return deepcopy(policy, spared)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Actions of this skill's head.

        Raises:
            ValueError: the observation is not of the agent's shape, or not of finite numbers.
        """
        numbers = np.asarray(observation)
        if numbers.dtype.kind not in "fiub":
            kind = type(observation).__name__
            raise ValueError(f"an observation is an array of numbers, got {kind}")
        if not np.isfinite(numbers).all():
            raise ValueError("the observation holds a number that is not finite")
        with self._agent.policy.using(self._index):
            result: tuple[Any, Any] = self._agent.predict(
                observation, state, episode_start, deterministic
            )
        return result
