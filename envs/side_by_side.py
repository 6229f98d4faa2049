"""Environments of several skills at once, which is what joint training steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

Array = NDArray[Any]


class SideBySide(VecEnv):
    """VecEnvs of the same spaces as one: their worlds stand one part after another.

    Attributes:
        parts: The VecEnvs, in order.
        slices: Where the worlds of each part stand among all.
    """

    def __init__(self, parts: Sequence[VecEnv]) -> None:
        """Put environments side by side.

        Raises:
            ValueError: there are none, or their spaces differ.
        """
        if not parts:
            raise ValueError("side by side stands at least one environment")
        first = parts[0]
        spaces = (first.observation_space, first.action_space)
        if any((part.observation_space, part.action_space) != spaces for part in parts):
            raise ValueError("environments side by side need the same spaces")
        self.parts = list(parts)
        ends = np.cumsum([part.num_envs for part in parts]).tolist()
        self.slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.render_mode = None  # SB3 asks while it initialises
        super().__init__(ends[-1], *spaces)

    def reset(self) -> Array:
        """Start new episodes everywhere; observations (n, obs)."""
        return np.concatenate([np.asarray(part.reset()) for part in self.parts])

    def step_async(self, actions: Array) -> None:
        """Hand each part its actions, of (n, act)."""
        for part, rows in zip(self.parts, self.slices, strict=True):
            part.step_async(actions[rows])

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """What each part gave, one after another."""
        steps = [part.step_wait() for part in self.parts]
        seen, reward, done = (np.concatenate([np.asarray(s[i]) for s in steps]) for i in range(3))
        return seen, reward, done, [info for step in steps for info in step[3]]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed world i with `seed + i` from its next reset on."""
        starts = (None if seed is None else seed + rows.start for rows in self.slices)
        pairs = zip(self.parts, starts, strict=True)
        return [value for part, start in pairs for value in part.seed(start)]

    def get_state(self) -> dict[str, Any]:
        """Everything the coming steps depend on, of each part."""
        return {"parts": [part.get_state() for part in self.parts]}  # type: ignore[attr-defined]

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned, bit for bit."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.set_state(own)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close every part."""
        for part in self.parts:
            part.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each world asked for."""
        found = [value for part in self.parts for value in part.get_attr(attr_name)]
        return [found[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of every part; `indices` is not looked at."""
        for part in self.parts:
            part.set_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of every part and give its result for each world asked for."""
        call = (method_name, *method_args)
        found = [value for part in self.parts for value in part.env_method(*call, **method_kwargs)]
        return [found[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether the world's part is wrapped."""
        found = [wrapped for part in self.parts for wrapped in part.env_is_wrapped(wrapper_class)]
        return [found[i] for i in self._get_indices(indices)]
