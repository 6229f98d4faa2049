"""How well a policy performs skills: all episodes in one batch of worlds, one forward a step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from clrl.envs.curriculum import Curriculum

Array = NDArray[Any]

_WORLDS = 128  # most worlds in one batch; more gain nothing on a CPU


@runtime_checkable
class Policy(Protocol):
    """Anything with the `predict` of Stable-Baselines3."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Actions for a batch of observations."""
        ...


@runtime_checkable
class SkilledPolicy(Protocol):
    """A policy that is told which skill it performs, such as a clrl agent."""

    def for_skill(self, name: str) -> Policy:
        """The policy of one skill."""
        ...


Actor = Policy | SkilledPolicy | Callable[[Array], Array]


@dataclass(frozen=True)
class Score:
    """What one policy did on one skill.

    Attributes:
        success: Whether each episode succeeded by its skill's rule, (episodes,), bool.
        returns: Undiscounted return of each episode, (episodes,), float64.
    """

    success: Array
    returns: Array

    @property
    def rate(self) -> float:
        """Fraction of episodes that succeeded."""
        return float(self.success.mean())


def evaluate_skill(
    actor: Actor,
    curriculum: Curriculum,
    skill: str,
    *,
    episodes: int = 100,
    seed: int = 1000,
    deterministic: bool = True,
    threads: int = 0,
) -> Score:
    """Run a policy for a number of episodes of one skill.

    Every world runs the same number of episodes, fixed beforehand: counting whichever episodes end
    first would favour short ones. Episode e starts from the seed alone, whatever the policy.

    Args:
        actor: An agent of clrl (its head of that skill acts), an SB3 model, or a function from
            observations (n, obs) to actions (n, act).
        curriculum: Defines the skill and the spaces.
        skill: Name of a skill of the curriculum.
        episodes: How many, >= 1.
        seed: World i is seeded with `seed + i`.
        deterministic: Act by the mean of the policy.
        threads: CPU threads of the physics, 0 for all cores; the result does not depend on it.

    Raises:
        ValueError: fewer than one episode, an actor that is none of these, or an observation that
            is not finite.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be >= 1, got {episodes}")
    act = _act(actor, skill, deterministic)
    rounds = math.ceil(episodes / _WORLDS)
    env = curriculum.vec_env(skill, math.ceil(episodes / rounds), seed=seed, threads=threads)
    try:
        success, returns = _run(env, act, rounds)
    except FloatingPointError as error:
        raise ValueError(f"evaluation of skill {skill!r}: {error}") from None
    finally:
        env.close()
    return Score(success[:episodes], returns[:episodes])


def evaluate(
    actor: Actor,
    curriculum: Curriculum,
    *,
    episodes: int = 100,
    seed: int = 1000,
    deterministic: bool = True,
    threads: int = 0,
) -> dict[str, Score]:
    """Score a policy on every skill of a curriculum; arguments as in `evaluate_skill`."""
    return {
        skill: evaluate_skill(
            actor,
            curriculum,
            skill,
            episodes=episodes,
            seed=seed,
            deterministic=deterministic,
            threads=threads,
        )
        for skill in curriculum.names
    }


def _act(actor: Actor, skill: str, deterministic: bool) -> Callable[[Array], Array]:
    if isinstance(actor, SkilledPolicy):
        actor = actor.for_skill(skill)
    if isinstance(actor, Policy):
        policy = actor
        return lambda observation: policy.predict(observation, deterministic=deterministic)[0]
    if not callable(actor):
        raise ValueError(f"cannot act with {type(actor).__name__}: it has no predict, no call")
    return actor


def _run(env: VecEnv, act: Callable[[Array], Array], rounds: int) -> tuple[Array, Array]:
    """Successes and returns, episode by episode and within it world by world."""
    success = np.zeros((rounds, env.num_envs), dtype=bool)
    returns = np.zeros((rounds, env.num_envs))
    done = np.zeros(env.num_envs, dtype=int)
    observation: Any = env.reset()
    while done.min() < rounds:
        if not np.isfinite(observation).all():
            raise FloatingPointError("an observation is not finite")
        observation, _, ended, infos = env.step(act(np.asarray(observation)))
        for i in np.flatnonzero(ended & (done < rounds)):
            success[done[i], i] = infos[i]["is_success"]
            returns[done[i], i] = infos[i]["episode"]["r"]
            done[i] += 1
    return success.reshape(-1), returns.reshape(-1)
