"""Any Gymnasium environment with vectors in and out as a skill of a curriculum."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from clrl.envs.catalog import unknown_skill
from clrl.envs.divergence import Divergence, Divergences
from clrl.envs.skill import checked_rule

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# What MuJoCo derives from the state before it takes the last substep, so that it lags behind it.
# Rewards of Ant-v5 and Humanoid-v5 begin with where such a body was, and no state brings it back.
_FRAMES = ("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos")
_FORCES = ("cfrc_ext", "cfrc_int", "qfrc_actuator", "actuator_force", "sensordata")
_DERIVED = (*_FRAMES, "site_xmat", "subtree_com", "cinert", "cvel", "cacc", *_FORCES)
_DIVERGED = "diverged"


class GymSkill:
    """A Gymnasium id as a skill.

    Success is what the environment says in `info` (`is_success` or `success`) at any step
    or at the last, as `success_rule` has it, or, where it says nothing, an episode's return of at
    least `success_return`.
    """

    steps = 500_000

    def __init__(
        self,
        key: str,
        *,
        name: str | None = None,
        success_rule: str = "any-step",
        success_return: float | None = None,
        horizon: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Look the environment up.

        Args:
            key: Gymnasium id, such as "Reacher-v5".
            name: Within a curriculum; the id by default.
            success_rule: Whether `info` decides at "any-step" or at the "last-step".
            success_return: Return that counts as success; the id's own reward threshold by default.
            horizon: Steps per episode; the id's own by default.
            env_kwargs: Passed to `gymnasium.make`.

        Raises:
            ValueError: no such id, no horizon, or no way to tell success.
        """
        if key not in gym.registry:
            raise ValueError(unknown_skill(key))
        spec = gym.spec(key)
        self.id, self.name = key, name or key
        self.success_rule = checked_rule(success_rule)
        self._kwargs = dict(env_kwargs or {})
        horizon = horizon or spec.max_episode_steps
        if horizon is None or horizon < 1:
            raise ValueError(f"skill {key!r} needs a horizon >= 1, got {horizon}")
        self.horizon = horizon
        self._options = {
            **({"name": name} if name else {}),
            "success_rule": success_rule,
            "success_return": success_return,
            "horizon": horizon,
            "env_kwargs": self._kwargs,
        }
        threshold = spec.reward_threshold if success_return is None else success_return
        self._threshold = threshold
        env = self._make()
        self.observation_space: spaces.Box = env.observation_space  # type: ignore[assignment]
        self.action_space: spaces.Box = env.action_space  # type: ignore[assignment]
        self.dt: float | None = getattr(env.unwrapped, "dt", None)  # seconds per control step
        env.reset(seed=0)
        info = env.step(env.action_space.sample())[4]
        env.close()
        if threshold is None and not {"is_success", "success"} & set(info):
            raise ValueError(f"skill {key!r} does not say what success is; give success_return")

    @property
    def spec(self) -> dict[str, Any]:
        """What rebuilds this skill."""
        return {"id": self.id, **self._options}

    def _make(self) -> gym.Env[Any, Any]:
        for value in self._kwargs.values():  # such as `xml_file`: a pipe would never end
            if isinstance(value, str) and Path(value).exists() and not Path(value).is_file():
                raise ValueError(f"skill {self.id!r}: {value} is not a plain file")
        try:
            env = gym.make(self.id, max_episode_steps=self.horizon, **self._kwargs)
        except (gym.error.Error, AssertionError, OSError) as error:
            raise ValueError(f"skill {self.id!r}: {error}") from None
        return _Succeed(env, self._threshold, self.success_rule == "any-step")

    def vec_env(
        self,
        n: int,
        *,
        seed: int = 0,
        threads: int = 0,
        stagger: bool | int = False,
        device: str = "cpu",
    ) -> "GymVecEnv":
        """N environments, environment i seeded with `seed + i`; one thread whatever is asked.

        Raises:
            ValueError: a device other than "cpu".
        """
        del threads, stagger
        if device != "cpu":
            raise ValueError(f"skill {self.name!r} is a Gymnasium environment: use device cpu")
        env = GymVecEnv([lambda: Monitor(self._make()) for _ in range(n)])
        env.seed(seed)
        return env


class _Succeed(gym.Wrapper[Any, Any, Any, Any]):
    """Puts `is_success`, by the rule of success so far, into `info`."""

    def __init__(self, env: gym.Env[Any, Any], threshold: float | None, any_step: bool) -> None:
        super().__init__(env)
        self._threshold = threshold
        self._any = any_step
        self._warnings = getattr(getattr(env.unwrapped, "data", None), "warning", None)
        self._seen: Any = None
        self.total = 0.0
        self.succeeded = False

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.total, self.succeeded = 0.0, False
        self._seen, info = self.env.reset(**kwargs)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._diverged():
            info = {_DIVERGED: {"observation": self._seen, "action": np.array(action)}}
            return self._seen, 0.0, False, True, {**info, "is_success": self.succeeded}
        self._seen = observation
        self.total += float(reward)
        if said := {"is_success", "success"} & set(info):
            now = any(bool(info[key]) for key in said)
            self.succeeded = now or (self._any and self.succeeded)
        elif self._threshold is not None and (terminated or truncated):
            self.succeeded = self.total >= self._threshold
        return observation, reward, terminated, truncated, {**info, "is_success": self.succeeded}

    def _diverged(self) -> bool:
        """Whether MuJoCo warned in this step, upon which it may have started anew in silence."""
        if self._warnings is None or not self._warnings.number.any():
            return False
        self._warnings.number[:] = 0
        return True


class GymVecEnv(DummyVecEnv):
    """SB3's DummyVecEnv whose MuJoCo environments can be saved and continued bit for bit.

    Attributes:
        divergences: Steps in which MuJoCo warned; the episode ended with what was seen before.
    """

    def __init__(self, makers: list[Any]) -> None:
        super().__init__(makers)
        self.divergences = Divergences()

    def step_wait(self) -> Any:
        """Step every environment."""
        result = super().step_wait()
        for i, info in enumerate(result[3]):
            if facts := info.pop(_DIVERGED, None):
                found = self.divergences
                found.count += 1
                if found.room:
                    length = info["episode"]["l"]
                    found.kept.append(Divergence(i, length, dict(facts)))
        return result

    def check(self) -> None:
        """Do nothing: no environment here keeps to itself what happened in it."""

    def get_state(self) -> dict[str, Any]:
        """State of every environment; only MuJoCo environments have one.

        Raises:
            ValueError: an environment is not a MuJoCo one.
        """
        return {"envs": [_get_state(env) for env in self.envs]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self.reset()  # wrappers refuse to step before a first reset
        for env, saved in zip(self.envs, state["envs"], strict=True):
            _set_state(env, saved)


def _get_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    model, data = _mujoco(env)
    physics = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, data, physics, _STATE)
    monitor, limit, succeed = _wrappers(env)
    return {
        "physics": physics,
        "derived": {name: getattr(data, name).copy() for name in _DERIVED},
        "random": env.unwrapped.np_random.bit_generator.state,
        "elapsed": limit._elapsed_steps,
        "rewards": list(map(float, monitor.rewards)),
        "total": succeed.total,
        "succeeded": succeed.succeeded,
    }


def _set_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    model, data = _mujoco(env)
    physics: NDArray[np.float64] = np.asarray(state["physics"])
    mujoco.mj_setState(model, data, physics, _STATE)
    for name, value in state["derived"].items():
        getattr(data, name)[:] = value
    monitor, limit, succeed = _wrappers(env)
    env.unwrapped.np_random.bit_generator.state = state["random"]
    limit._elapsed_steps = state["elapsed"]
    monitor.rewards = list(state["rewards"])
    succeed.total, succeed.succeeded = state["total"], state["succeeded"]


def _mujoco(env: gym.Env[Any, Any]) -> tuple[Any, Any]:
    inner: Any = env.unwrapped
    if not hasattr(inner, "model") or not hasattr(inner, "data"):
        raise ValueError(f"{env.spec and env.spec.id}: only MuJoCo environments can be resumed")
    return inner.model, inner.data


def _wrappers(env: Any) -> tuple[Monitor, TimeLimit[Any, Any], _Succeed]:
    found: dict[type, Any] = {}
    while isinstance(env, gym.Wrapper):
        found[type(env)] = env
        env = env.env
    return found[Monitor], found[TimeLimit], found[_Succeed]
