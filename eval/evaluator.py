"""How well a policy performs skills: all episodes in one batch of worlds, one forward a step."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from clrl.envs.curriculum import Curriculum
from clrl.envs.episodes import check_shape
from clrl.envs.vec_env import WorldVecEnv
from clrl.eval import lockstep

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)
_WORLDS = 128  # most worlds in one batch on a CPU, where more gain nothing
_WORLDS_ON_DEVICE = 8192
_AT_ONCE = 4  # skills, so that one's policy and reward run while another's physics does


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
class Selectable(Protocol):
    """One skill of a policy that holds several, such as `for_skill` of a clrl agent gives."""

    def selected(self) -> AbstractContextManager[BasePolicy]:
        """SB3's policy, with this skill selected for a while."""
        ...

    def copied(self) -> BasePolicy:
        """A copy of it with this skill selected, to act while others do."""
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


class Evaluator:
    """Scores policies on the skills of a curriculum, in worlds that it keeps between scores.

    Every world runs the same number of episodes, fixed beforehand: counting whichever episodes end
    first would favour short ones. Episode e starts from the seed alone, whatever the policy and
    whatever ran before it.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        *,
        episodes: int = 100,
        threads: int = 0,
        device: str = "cpu",
    ) -> None:
        """Build no worlds yet; a skill's are built when it is first scored.

        Args:
            curriculum: Defines the skills and the spaces.
            episodes: Of each score, >= 1.
            threads: CPU threads of the physics, 0 for all cores; the result does not depend on it.
            device: Of the worlds, see `make_world`. A policy is moved there for the time. Results
                of a GPU agree with those of the CPU within their intervals, not to the bit.

        Raises:
            ValueError: fewer than one episode.
        """
        if episodes < 1:
            raise ValueError(f"episodes must be >= 1, got {episodes}")
        self.curriculum = curriculum
        self.episodes = episodes
        self._threads = threads
        self._device = device
        self._rounds = math.ceil(episodes / (_WORLDS if device == "cpu" else _WORLDS_ON_DEVICE))
        self._envs: dict[str, VecEnv] = {}

    def score(
        self, actor: Actor, skill: str, *, seed: int = 1000, deterministic: bool = True
    ) -> Score:
        """Run a policy for all episodes of one skill.

        Args:
            actor: An agent of clrl (its head of that skill acts), an SB3 model, or a function from
                observations (n, obs) to actions (n, act).
            skill: Name of a skill of the curriculum.
            seed: Episode e starts from `seed + e`.
            deterministic: Act by the mean of the policy.

        Raises:
            ValueError: an actor that is none of these, an observation or action that is not finite,
                or actions of another shape.
        """
        env = self._env(skill)
        try:
            with _acting(actor, skill, deterministic) as acting:
                if isinstance(env, WorldVecEnv):
                    result = lockstep.run(env, acting, self._rounds, seed, deterministic)
                else:
                    result = _run(env, acting, self._rounds, seed, deterministic)
        except (FloatingPointError, ValueError) as error:
            what = str(error).partition("\n")[0]  # torch goes on for many lines
            what = what.removeprefix(f"skill {skill!r}: ")
            raise ValueError(f"evaluation of skill {skill!r}: {what}") from error
        finally:
            self._tell(env, skill)
        success, returns = result
        return Score(success[: self.episodes], returns[: self.episodes])

    def scores(
        self, actors: Mapping[str, Actor], *, seed: int = 1000, deterministic: bool = True
    ) -> list[Score]:
        """Score the policy given for each skill, as `score` does, to the bit.

        On the CPU skills of clrl agents run four at a time, but for one thread: one's policy and
        reward are computed while another's physics runs.
        """
        one = partial(self.score, seed=seed, deterministic=deterministic)
        copies = self._copies(actors) if deterministic else None  # others share one generator
        if copies is None:
            return [*map(one, actors.values(), actors)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [*pool.map(one, copies, actors)]

    def _copies(self, actors: Mapping[str, Actor]) -> list[BasePolicy] | None:
        """Policies that can act beside each other, or None where skills have to take turns."""
        if len(actors) < 2 or self._threads == 1 or self._device != "cpu":
            return None
        if not all(isinstance(self._env(skill), WorldVecEnv) for skill in actors):
            return None
        policies: list[Any] = [
            actor.for_skill(skill) if isinstance(actor, SkilledPolicy) else actor
            for skill, actor in actors.items()
        ]
        if not all(isinstance(policy, Selectable) for policy in policies):
            return None
        return [policy.copied() for policy in policies]

    def _tell(self, env: Any, skill: str) -> None:
        """Never pass over steps that were taken back, in which the world stood still."""
        found = getattr(env, "divergences", None)
        if found is not None and found.count:
            _LOG.warning(
                "skill %r: physics diverged in %d control steps of an evaluation; they were taken "
                "back",
                skill,
                found.count,
            )
            found.count, _ = 0, found.take()

    def _env(self, skill: str) -> VecEnv:
        if skill not in self._envs:
            worlds = math.ceil(self.episodes / self._rounds)
            env = self.curriculum.vec_env(skill, worlds, threads=self._threads, device=self._device)
            if self._device != "cpu" and not isinstance(env, WorldVecEnv):
                raise ValueError("skills with different spaces are evaluated on the CPU: use cpu")
            self._envs[skill] = env
        return self._envs[skill]

    def close(self) -> None:
        """Let the worlds go."""
        while self._envs:
            self._envs.popitem()[1].close()


def evaluate_skill(
    actor: Actor,
    curriculum: Curriculum,
    skill: str,
    *,
    episodes: int = 100,
    seed: int = 1000,
    deterministic: bool = True,
    threads: int = 0,
    device: str = "cpu",
) -> Score:
    """Run a policy once for a number of episodes of one skill; arguments as of `Evaluator`."""
    evaluator = Evaluator(curriculum, episodes=episodes, threads=threads, device=device)
    try:
        return evaluator.score(actor, skill, seed=seed, deterministic=deterministic)
    finally:
        evaluator.close()


def evaluate(
    actor: Actor,
    curriculum: Curriculum,
    *,
    episodes: int = 100,
    seed: int = 1000,
    deterministic: bool = True,
    threads: int = 0,
    device: str = "cpu",
) -> dict[str, Score]:
    """Score a policy on every skill of a curriculum; arguments as of `Evaluator`."""
    evaluator = Evaluator(curriculum, episodes=episodes, threads=threads, device=device)
    names = curriculum.names
    try:
        each = dict.fromkeys(names, actor)
        scores = evaluator.scores(each, seed=seed, deterministic=deterministic)
        return dict(zip(names, scores, strict=True))
    finally:
        evaluator.close()


@contextmanager
def _acting(actor: Actor, skill: str, deterministic: bool) -> Iterator[lockstep.Actor]:
    """What acts: SB3's policy, or a function on arrays; its skill selected once for all steps."""
    if isinstance(actor, SkilledPolicy):
        actor = actor.for_skill(skill)
    if isinstance(actor, Selectable):
        with actor.selected() as policy:
            yield policy
    elif (policy := _plain(actor)) is not None:
        yield policy
    elif isinstance(actor, Policy):
        predict = actor.predict
        yield lambda observation: predict(observation, deterministic=deterministic)[0]
    elif callable(actor):
        yield actor
    else:
        raise ValueError(f"cannot act with {type(actor).__name__}: it has no predict, no call")


def _plain(actor: Any) -> BasePolicy | None:
    """The policy of what predicts as SB3 wrote it, without a state and from vectors."""
    policy = actor
    if isinstance(actor, BaseAlgorithm):
        policy = actor.policy if type(actor).predict is BaseAlgorithm.predict else None
    plain = (
        isinstance(policy, BasePolicy)
        and type(policy).predict is BasePolicy.predict
        and isinstance(policy.observation_space, spaces.Box)
        and isinstance(policy.action_space, spaces.Box)
    )
    return policy if plain else None


def _run(
    env: VecEnv, actor: lockstep.Actor, rounds: int, seed: int, deterministic: bool
) -> tuple[Array, Array]:
    """Successes and returns, episode by episode and within it world by world."""
    act = _on_arrays(actor, deterministic) if isinstance(actor, BasePolicy) else actor
    results = []
    for i in range(rounds):
        env.seed(seed + i * env.num_envs)
        results.append(_round(env, act))
    success, returns = zip(*results, strict=True)
    return np.concatenate(success), np.concatenate(returns)


def _round(env: VecEnv, act: Callable[[Array], Array]) -> tuple[Array, Array]:
    """One episode in every environment; those that end first go on, and are not looked at."""
    success, returns = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs)
    done = np.zeros(env.num_envs, dtype=bool)
    observation: Any = env.reset()
    while not done.all():
        action = act(np.asarray(observation))
        check_shape(np.shape(action), (env.num_envs, *(env.action_space.shape or ())))
        for what, values in (("observation", observation), ("action", action)):
            if not np.isfinite(values).all():
                raise FloatingPointError(f"an {what} is not finite")
        observation, _, ended, infos = env.step(action)
        for i in np.flatnonzero(ended & ~done):
            success[i], returns[i] = infos[i]["is_success"], infos[i]["episode"]["r"]
        done |= ended
    return success, returns


def _on_arrays(policy: BasePolicy, deterministic: bool) -> Callable[[Array], Array]:
    forward = lockstep.forward(policy, deterministic)

    def act(observation: Array) -> Array:
        with torch.inference_mode():
            action: Array = (
                forward(torch.as_tensor(observation, device=policy.device)).cpu().numpy()
            )
        return action

    return act
