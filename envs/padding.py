"""Skills of different size in one curriculum: pad what is seen, cut what is done."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

Array = NDArray[Any]


class PaddedVecEnv(VecEnvWrapper):
    """Shows observations padded with zeros, takes actions in [-1, 1] and drops those unused.

    Observation slot k keeps its meaning within a skill, not across skills.
    """

    def __init__(self, env: VecEnv, observations: spaces.Box, actions: spaces.Box) -> None:
        """Wrap `env` in spaces at least as long as its own."""
        own = env.action_space
        assert isinstance(own, spaces.Box)
        assert env.observation_space.shape is not None
        self._low, self._high = own.low, own.high
        self._pad = int(observations.shape[0]) - int(env.observation_space.shape[0])
        super().__init__(env, observations, actions)

    def reset(self) -> Array:
        """Padded first observations."""
        return self._padded(self.venv.reset())

    def step_async(self, actions: Array) -> None:
        """Scale the first actions to the skill's own bounds."""
        used = np.clip(actions[:, : len(self._low)], -1.0, 1.0)
        self.venv.step_async(self._low + 0.5 * (used + 1.0) * (self._high - self._low))

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Padded observations, those that ended an episode included."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._padded(info["terminal_observation"][None])[0]
        return self._padded(observations), rewards, dones, infos

    def get_state(self) -> dict[str, Any]:
        """State of the wrapped environments."""
        return self.venv.get_state()  # type: ignore[attr-defined, no-any-return]

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the wrapped environments."""
        self.venv.set_state(state)  # type: ignore[attr-defined]

    def _padded(self, observations: Any) -> Array:
        return np.pad(observations, ((0, 0), (0, self._pad))).astype(np.float32)
