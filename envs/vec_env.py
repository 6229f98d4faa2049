"""A skill's worlds as a Stable-Baselines3 VecEnv."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from clrl.envs.divergence import Divergences
from clrl.envs.episodes import Episodes, Step
from clrl.envs.skill import Skill

Array = NDArray[Any]


@dataclass(frozen=True)
class Ended:
    """Episodes that ended together, in the latest step that ended any; tensors (k,).

    Attributes:
        worlds: Where, on the CPU.
        lengths: Their control steps, on the CPU.
        returns: Sums of their rewards.
        succeeded: Whether they succeeded by the skill's rule.
    """

    worlds: Tensor
    lengths: Tensor
    returns: Tensor
    succeeded: Tensor


class WorldVecEnv(VecEnv):
    """n worlds of one skill, stepped together and reset one by one as their episodes end.

    The info of an ended episode has what SB3's Monitor would add (`episode`), the observation it
    ended with, and `is_success`: whether the episode succeeded by the skill's rule.
    Other infos are empty, which keeps a step free of Python loops over worlds.

    Attributes:
        device: Of the worlds, as asked for.
        ended: The episodes that ended last.
    """

    def __init__(
        self,
        skill: Skill,
        n: int,
        *,
        seed: int = 0,
        threads: int = 0,
        stagger: bool | int = False,
        device: str = "cpu",
    ) -> None:
        """Create the worlds.

        Args:
            skill: What the worlds are for.
            n: Number of worlds.
            seed: Seeds world i with `seed + i`.
            threads: CPU threads of the physics, 0 for all cores.
            stagger: Start the first episodes at evenly spread clocks, so that a batch of training
                data holds every phase of an episode: every world at its own, or so many groups of
                worlds, where each step that resets any is dear.
            device: Of the worlds, see `make_world`.
        """
        self.render_mode = None  # SB3 asks while it initialises
        super().__init__(n, skill.observation_space, skill.action_space)
        self.skill = skill
        self.episodes = Episodes(skill, n, device, threads)
        self.episodes.seed(seed)
        self.device = device
        self._groups = n if stagger is True else min(int(stagger), n)
        self._actions = torch.zeros(n, *skill.action_space.shape)
        self._start = time.monotonic()
        self.ended = Ended(*(torch.zeros(0) for _ in range(4)))

    @property
    def divergences(self) -> Divergences:
        """Steps that were taken back because the physics diverged, see `Episodes`."""
        return self.episodes.divergences

    def check(self) -> None:
        """Wait for the device, and learn what happened there; see `Episodes.check`."""
        self.episodes.check()

    def reset(self) -> Array:
        """Start new episodes everywhere; observations (n, obs), float32."""
        return self.reset_tensor().cpu().numpy()

    def reset_tensor(self) -> Tensor:
        """`reset` on the worlds' device."""
        observation = self.episodes.reset()
        if self._groups:
            group = torch.arange(self.num_envs) * self._groups // self.num_envs
            self.episodes.elapsed.copy_(group * self.skill.horizon // self._groups)
        return observation

    def step_tensor(self, action: Tensor) -> tuple[Step, Tensor]:
        """Step all worlds on their device; those that end are reset at once.

        For learners that keep their data on the device: no step copies anything to the CPU, and
        only those that end episodes wait for the device.

        Args:
            action: Shape (n, act).

        Returns:
            What the step gave, where an observation that ended an episode is that last one, as
            replay and bootstrapping want it; and the observations to act on next, (n, obs). Where
            nothing ended they are the same tensor. `ended` describes the episodes that ended.
        """
        step = self.episodes.step(action)
        if not step.done.any():
            return step, step.observation
        worlds = step.done.nonzero()[:, 0]
        on_device = worlds.to(self.episodes.world.device)
        self.ended = Ended(
            worlds,
            self.episodes.elapsed[worlds],
            self.episodes.returns[on_device],
            self.episodes.succeeded[on_device],
        )
        return step, self.episodes.reset(step.done)

    def step_async(self, actions: Array) -> None:
        """Take note of the actions, (n, act)."""
        self._actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step all worlds; those that end are reset at once."""
        step, following = self.step_tensor(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if step.done.any():
            self._report(infos, step.observation)
        reward = step.reward.float().cpu().numpy()
        return following.cpu().numpy(), reward, step.done.numpy(), infos

    def _report(self, infos: list[dict[str, Any]], observation: Tensor) -> None:
        terminal = observation.cpu().numpy()
        elapsed = time.monotonic() - self._start
        columns = (self.ended.worlds, self.ended.lengths, self.ended.returns, self.ended.succeeded)
        for i, length, total, succeeded in zip(*(c.tolist() for c in columns), strict=True):
            infos[i] = {
                "terminal_observation": terminal[i],
                "TimeLimit.truncated": True,
                "is_success": succeeded,
                "episode": {"r": total, "l": length, "t": elapsed},
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
