"""What a skill is: a task as pure functions of a World."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from clrl.envs.catalog import skill_id
from clrl.envs.recall import recalled
from clrl.envs.world import CONTACTS, World

if TYPE_CHECKING:
    from clrl.envs.vec_env import WorldVecEnv

Terms = dict[str, Tensor]
_LONGEST = 1_000_000  # control steps of an episode
_RULES = ("any-step", "last-step")


class Skill(ABC):
    """One thing a robot can do, as functions of n worlds at once.

    A skill keeps no state of its own between calls: whatever an episode needs (goals, poses of
    fixtures) it writes into the world. It never knows which engine runs it: every tensor it is
    given, and every one it returns, is on the world's device, and its numbers are of the world's
    type; `constant` makes more of the kind. Every tensor has the worlds as its first dimension. To
    add a skill, subclass this (or a scene such as `ArmSkill`).

    Attributes:
        name: Short name within a curriculum, such as "push".
        horizon: Control steps per episode; an episode never ends earlier.
        substeps: Physics steps per control step.
        steps: Control steps of training that the skill needs, the default budget.
        success_rule: "any-step": an episode succeeds if any step does; "last-step": if its last
            does.
        draws: Random numbers a reset consumes per world.
        parameters: Model fields with a value per world, which `reset` writes.
        contacts: Room for contacts per world on engines that allocate it beforehand; running out
            of it is an error there.
        poses_only: Whether of what MuJoCo derives from the state it reads nothing but where bodies,
            geoms and sites are. Contacts are then not looked for once more after each step.
        recall: Earlier observations of the episode that an observation shows too, see `Recall`.
        observation_space: Bounds of `observe`, float32, and of what is recalled.
        action_space: Bounds of the action, float32.
    """

    name: str
    horizon: int = 100
    substeps: int = 5
    steps: int = 500_000
    success_rule: str = "any-step"
    draws: int = 0
    parameters: tuple[str, ...] = ()
    contacts: int = CONTACTS
    poses_only: bool = False
    recall: int = 0
    _chosen: Mapping[str, Any] = MappingProxyType({})
    observation_space: spaces.Box
    action_space: spaces.Box

    def __init__(
        self,
        *,
        name: str | None = None,
        horizon: int | None = None,
        success_rule: str | None = None,
        recall: int | None = None,
    ) -> None:
        """Choose what a curriculum may choose; None is the class's own.

        Args:
            name: Within a curriculum.
            horizon: Control steps per episode.
            success_rule: "any-step" or "last-step".
            recall: Earlier observations to show, evenly spread over the horizon.

        Raises:
            ValueError: an unknown rule, or a number out of range.
        """
        chosen = {"name": name, "horizon": horizon, "success_rule": success_rule, "recall": recall}
        self._chosen = {key: value for key, value in chosen.items() if value is not None}
        for key, value in self._chosen.items():
            setattr(self, key, value)
        checked_rule(self.success_rule)
        whole = isinstance(self.horizon, int) and not isinstance(self.horizon, bool)
        if not (whole and 1 <= self.horizon <= _LONGEST):
            raise ValueError(
                f"horizon must be a whole number in [1, {_LONGEST:,}], got {self.horizon!r}"
            )
        if not isinstance(self.recall, int) or not 0 <= self.recall <= self.horizon:
            raise ValueError(
                f"recall must be a whole number in [0, {self.horizon}], the horizon, "
                f"got {self.recall!r}"
            )
        if self.recall:
            self.observation_space = recalled(self.observation_space, self.recall)

    @property
    @abstractmethod
    def model(self) -> mujoco.MjModel:
        """The model its worlds run, the same object at every call."""

    @abstractmethod
    def reset(self, world: World, mask: Tensor, random: Tensor) -> None:
        """Write the start of an episode into masked worlds, which are at keyframe 0.

        Args:
            world: The worlds; derived fields are refreshed after this returns.
            mask: Worlds to write, shape (n,), bool.
            random: Numbers in [0, 1) of the masked worlds only, shape (mask.sum(), draws).
        """

    @abstractmethod
    def act(self, world: World, action: Tensor) -> None:
        """Write the controls for an action of shape (n, act) within the action space."""

    @abstractmethod
    def observe(self, world: World) -> Tensor:
        """What the policy sees, shape (n, obs)."""

    @abstractmethod
    def reward(self, world: World) -> Terms:
        """Named terms of the reward per step, each (n,); the reward is their sum."""

    @abstractmethod
    def success(self, world: World) -> Tensor:
        """Whether the skill is accomplished at this very step, shape (n,), bool."""

    def vec_env(
        self,
        n: int,
        *,
        seed: int = 0,
        threads: int = 0,
        stagger: bool | int = False,
        device: str = "cpu",
    ) -> "WorldVecEnv":
        """N worlds of this skill as SB3 takes them; see `WorldVecEnv`."""
        from clrl.envs.vec_env import WorldVecEnv

        return WorldVecEnv(self, n, seed=seed, threads=threads, stagger=stagger, device=device)

    @property
    def spec(self) -> dict[str, Any]:
        """What rebuilds this skill: its id and the options of its class.

        A skill whose class takes arguments extends it by them.
        """
        return {"id": skill_id(type(self)), **self._chosen}

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.substeps * float(self.model.opt.timestep)


def box(low: float, high: float, size: int) -> spaces.Box:
    """A float32 box with the same bounds in every dimension."""
    return spaces.Box(low, high, (size,), np.float32)


def checked_rule(rule: str) -> str:
    """A rule of success, if it is one; ValueError otherwise."""
    if rule not in _RULES:
        raise ValueError(f"success_rule must be {' or '.join(_RULES)}, got {rule!r}")
    return rule


def between(
    random: Tensor, low: float | tuple[float, ...], high: float | tuple[float, ...]
) -> Tensor:
    """Map numbers in [0, 1) to [low, high)."""
    floor = constant(low, random)
    return floor + random * (constant(high, random) - floor)


def constant(values: float | tuple[float, ...], like: Tensor) -> Tensor:
    """Fixed numbers with the type and device of another tensor, made once; not to be written to."""
    return _constant(values, like.dtype, like.device)


@cache
def _constant(
    values: float | tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(device, dtype)
