"""Batches in, actions out; knows neither LeRobot nor torch."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clrl.deploy import Safety, load


class Acting:
    """One skill of a bundle for batches of observations."""

    def __init__(self, bundle: str | Path, skill: str) -> None:
        self._policy = load(bundle, Safety(on_fault="raise"))
        self._policy.parts(skill)  # refuses an unknown skill now
        self._skill = skill

    def __call__(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """Actions (batch, act) for states (batch, obs), raw as the sensors give them."""
        return np.stack([self._policy(state, self._skill) for state in states])

    def reset(self) -> None:
        """Forget the last episode."""
        self._policy.reset()
