"""A skill's worlds as a Stable-Baselines3 VecEnv."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from clrl.envs.episodes import Episodes
from clrl.envs.skill import Skill

Array = NDArray[Any]


class WorldVecEnv(VecEnv):
    """n worlds of one skill, stepped together and reset one by one as their episodes end.

    The info of an ended episode has what SB3's Monitor would add (`episode`), the observation it
    ended with, and `is_success`: whether the episode succeeded by the skill's rule.
    Other infos are empty, which keeps a step free of Python loops over worlds.
    """

    def __init__(
        self, skill: Skill, n: int, *, seed: int = 0, threads: int = 0, stagger: bool = False
    ) -> None:
        """Create the worlds.

        Args:
            skill: What the worlds are for.
            n: Number of worlds.
            seed: Seeds world i with `seed + i`.
            threads: CPU threads of the physics, 0 for all cores.
            stagger: Start the first episodes at evenly spread clocks, so that a batch of training
                data holds every phase of an episode.
        """
        self.render_mode = None  # SB3 asks while it initialises
        super().__init__(n, skill.observation_space, skill.action_space)
        self.skill = skill
        self.episodes = Episodes(skill, n, threads=threads)
        self.episodes.seed(seed)
        self._stagger = stagger
        self._actions = torch.zeros(n, *skill.action_space.shape)
        self._start = time.monotonic()

    def reset(self) -> Array:
        """Start new episodes everywhere; observations (n, obs), float32."""
        observation = self.episodes.reset()
        if self._stagger:
            spread = torch.arange(self.num_envs) * self.skill.horizon // self.num_envs
            self.episodes.elapsed.copy_(spread)
        return observation.numpy()

    def step_async(self, actions: Array) -> None:
        """Take note of the actions, (n, act)."""
        self._actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step all worlds; those that end are reset at once."""
        step = self.episodes.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        observation = step.observation
        if step.done.any():
            self._report(infos, step.done, observation)
            observation = self.episodes.reset(step.done)
        return observation.numpy(), step.reward.float().numpy(), step.done.numpy(), infos

    def _report(
        self, infos: list[dict[str, Any]], done: torch.Tensor, observation: torch.Tensor
    ) -> None:
        terminal = observation.numpy()
        elapsed = time.monotonic() - self._start
        for i in done.nonzero()[:, 0].tolist():
            infos[i] = {
                "terminal_observation": terminal[i],
                "TimeLimit.truncated": True,
                "is_success": bool(self.episodes.succeeded[i]),
                "episode": {
                    "r": float(self.episodes.returns[i]),
                    "l": int(self.episodes.elapsed[i]),
                    "t": elapsed,
                },
            }

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed world i with `seed + i` from its next reset on."""
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self.episodes.seed(seed)
        return [seed + i for i in range(self.num_envs)]

    def get_state(self) -> dict[str, Any]:
        """Everything the coming steps depend on, as nested tensors."""
        return dict(self.episodes.state())

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned, bit for bit."""
        self.episodes.load_state(state)

    def close(self) -> None:
        """Nothing to release; the worlds go with the object."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for each world asked for; all worlds are one object."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all worlds at once."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once and give its result for each world asked for."""
        result = getattr(self, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Never wrapped, but episodes are monitored, as SB3's evaluation asks."""
        from stable_baselines3.common.monitor import Monitor

        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
