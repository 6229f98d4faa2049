"""A skill as a Gymnasium environment, alone (`make`) and in a batch (`make_vec`)."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from clrl.envs.catalog import make_skill
from clrl.envs.episodes import Episodes, Step, check_shape
from clrl.envs.rendering import Camera
from clrl.envs.skill import Skill

Array = NDArray[Any]


class SkillEnv(gym.Env[Array, Array]):
    """One world of a skill.

    An episode is truncated at the skill's horizon and never terminates. `info` holds each term of
    the reward, `success` at this step and `is_success` so far, by the skill's rule.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012

    def __init__(self, skill: str | Skill, render_mode: str | None = None, **options: Any) -> None:
        """Create the world.

        Args:
            skill: A skill, or its id: of the catalogue, such as "arm-push", or "module:Class".
            render_mode: "rgb_array" or None.
            options: Of the skill's class, where its id is given, as `payload` or `horizon`.

        Raises:
            ValueError: unknown skill, option or render mode.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.skill = _world_skill(skill, options)
        self.observation_space = self.skill.observation_space
        self.action_space = self.skill.action_space
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.skill.dt)}
        self.episodes = Episodes(self.skill, 1, threads=1)
        self._camera: Camera | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; the same seed starts the same one."""
        fresh = self._np_random is None
        super().reset(seed=seed)
        if seed is not None or fresh:
            self.episodes.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.episodes.reset()[0].numpy(), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Take one control step.

        Raises:
            ValueError: the action is of another shape, or not finite.
        """
        step = self.episodes.step(_acted(action, self.action_space)[None])
        info: dict[str, Any] = {name: float(term[0]) for name, term in step.terms.items()}
        info["success"] = bool(step.success[0])
        info["is_success"] = bool(self.episodes.succeeded[0])
        return step.observation[0].numpy(), float(step.reward[0]), False, bool(step.done[0]), info

    def render(self) -> Array | None:
        """The scene from its camera, (height, width, 3), uint8."""
        if self.render_mode is None:
            return None
        self._camera = self._camera or Camera(self.skill.model)
        return self._camera.shoot(self.episodes.world)

    def close(self) -> None:
        """Release the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


class SkillVectorEnv(VectorEnv[Array, Array, Array]):
    """n worlds of a skill stepped at once; worlds are reset in the step that ends them.

    Autoreset is SAME_STEP: the observation that ended an episode and its info are in
    `infos["final_obs"]` and `infos["final_info"]`.
    """

    def __init__(self, skill: str | Skill, num_envs: int = 1, **options: Any) -> None:
        """Create `num_envs` worlds of a skill, or of its id and options as `SkillEnv` has them."""
        super().__init__()
        self.skill = _world_skill(skill, options)
        self.num_envs = num_envs
        self.single_observation_space = self.skill.observation_space
        self.single_action_space = self.skill.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.episodes = Episodes(self.skill, num_envs)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every world; world i is seeded with `seed + i` or `seed[i]`."""
        fresh = self._np_random is None
        if isinstance(seed, list):
            self.episodes.seed(torch.tensor([0 if s is None else s for s in seed]))
        elif seed is not None or fresh:
            super().reset(seed=seed)
            self.episodes.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.episodes.reset().numpy(), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Take one control step in every world; errors are those of `SkillEnv.step`."""
        step = self.episodes.step(_acted(actions, self.action_space))
        infos = self._infos(step)
        observation = step.observation
        if step.done.any():
            infos |= {"final_obs": observation.numpy(), "_final_obs": step.done.numpy()}
            infos |= {"final_info": dict(infos), "_final_info": step.done.numpy()}
            observation = self.episodes.reset(step.done)
        never = np.zeros(self.num_envs, dtype=bool)
        return observation.numpy(), step.reward.numpy(), never, step.done.numpy(), infos

    def _infos(self, step: Step) -> dict[str, Any]:
        infos: dict[str, Any] = {name: term.numpy() for name, term in step.terms.items()}
        infos["success"] = step.success.numpy()
        infos["is_success"] = self.episodes.succeeded.numpy().copy()
        return infos


def _acted(action: Array, space: gym.Space[Array]) -> torch.Tensor:
    """An action as a tensor; SB3 and others would learn from what follows one that is none."""
    values = np.asarray(action)
    check_shape(values.shape, space.shape or ())
    if not np.isfinite(values).all():
        raise ValueError("actions must be finite, got NaN or infinity")
    return torch.as_tensor(values)


def _world_skill(skill: str | Skill, options: dict[str, Any]) -> Skill:
    if options and not isinstance(skill, str):
        raise ValueError(f"a skill that is built takes no options, got {', '.join(options)}")
    built = make_skill(skill, **options) if isinstance(skill, str) else skill
    if not isinstance(built, Skill):
        raise ValueError(f"{skill!r} is a Gymnasium environment already")
    return built
