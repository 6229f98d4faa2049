"""A tiny deterministic task: move a point in the plane to the origin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

HORIZON = 10


class PointVecEnv(VecEnv):
    """n points; the observation is position times `sign`, so that two signs are two skills."""

    def __init__(self, n: int = 2, sign: float = 1.0, seed: int = 0) -> None:
        self.render_mode = None
        super().__init__(
            n, spaces.Box(-5, 5, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
        )
        self.sign = sign
        self.random = np.random.default_rng(seed)
        self.position = np.zeros((n, 2))
        self.clock = 0
        self.poison: float | None = None

    def _observe(self) -> Any:
        still = np.full((self.num_envs, 1), self.clock / HORIZON)
        seen = np.concatenate((self.sign * self.position, still), axis=1).astype(np.float32)
        if self.poison is not None:
            seen[0, 0] = self.poison
        return seen

    def reset(self) -> Any:
        self.position = self.random.uniform(-1, 1, (self.num_envs, 2))
        self.clock = 0
        return self._observe()

    def step_async(self, actions: Any) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        self.position = np.clip(self.position + 0.2 * self.actions, -4, 4)
        self.clock += 1
        reward = -np.abs(self.position).sum(axis=1).astype(np.float32)
        done = np.full(self.num_envs, self.clock == HORIZON)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observation = self._observe()
        if done.all():
            for i, info in enumerate(infos):
                info |= {"terminal_observation": observation[i], "TimeLimit.truncated": True}
                info["episode"] = {"r": float(reward[i]), "l": HORIZON, "t": 0.0}
                info["is_success"] = bool(reward[i] > -0.2)
            observation = self.reset()
        return observation, reward, done, infos

    def get_state(self) -> dict[str, Any]:
        state = self.random.bit_generator.state
        return {"position": self.position.copy(), "clock": self.clock, "random": state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position, self.clock = state["position"].copy(), state["clock"]
        self.random.bit_generator.state = state["random"]

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [True for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        self.random = np.random.default_rng(seed)
        return [seed] * self.num_envs
